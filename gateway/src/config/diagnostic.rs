//! What is wrong in a file, where, and what to do about it.
use std::fmt;
use std::ops::Range;

/// One fault: place, words and remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// File as the operator named it.
    pub file: String,
    /// Line, counting from 1; `None` if the fault is not at one place.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do; empty if the message says it.
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}:{line}: {}", self.file, self.message)?,
            None => write!(formatter, "{}: {}", self.file, self.message)?,
        }
        if !self.remedy.is_empty() {
            write!(formatter, "\n  to mend it: {}", self.remedy)?;
        }
        Ok(())
    }
}

/// All faults found in one file, in the order of their lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", join(.0))]
pub struct Diagnostics(pub Vec<Diagnostic>);

fn join(faults: &[Diagnostic]) -> String {
    faults
        .iter()
        .map(Diagnostic::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Faults that are told; more are counted. The place of each has to be found in a text of megabytes, and nobody reads them.
const FAULTS_MAX: usize = 100;

/// Collects the faults of one file while it is checked.
pub struct Checker<'a> {
    file: &'a str,
    text: &'a str,
    faults: Vec<Diagnostic>,
    more: usize,
}

impl<'a> Checker<'a> {
    /// Starts with no fault in `text`, which the operator knows as `file`.
    #[must_use]
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self {
            file,
            text,
            faults: Vec::new(),
            more: 0,
        }
    }

    /// Notes a fault at a byte range of the text.
    pub fn fault(&mut self, at: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        let is_told = self.faults.len() < FAULTS_MAX;
        let line = is_told.then(|| line_of(self.text, at.start));
        self.push(line, message.into(), remedy.into());
    }

    /// Notes a fault at a line that is already known (a parser that counts lines itself).
    pub fn fault_at_line(&mut self, line: usize, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Some(line), message.into(), remedy.into());
    }

    /// Notes a fault of the file as a whole.
    pub fn fault_anywhere(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(None, message.into(), remedy.into());
    }

    fn push(&mut self, line: Option<usize>, message: String, remedy: String) {
        if self.faults.len() >= FAULTS_MAX {
            self.more += 1;
            return;
        }
        self.faults.push(Diagnostic {
            file: self.file.to_owned(),
            line,
            message,
            remedy,
        });
    }

    /// Whether nothing is wrong so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// `value` if nothing was wrong.
    ///
    /// # Errors
    /// All faults, sorted by line.
    pub fn finish<T>(self, value: T) -> Result<T, Diagnostics> {
        match self.is_clean() {
            true => Ok(value),
            false => Err(self.into_faults()),
        }
    }

    /// The faults so far, for a caller that cannot go on.
    #[must_use]
    pub fn into_faults(mut self) -> Diagnostics {
        self.faults.sort_by_key(|fault| fault.line);
        if self.more > 0 {
            self.faults.push(Diagnostic {
                file: self.file.to_owned(),
                line: None,
                message: format!("and {} more faults", self.more),
                remedy: String::new(),
            });
        }
        Diagnostics(self.faults)
    }

    /// Parses TOML; a syntax or type fault ends up as one diagnostic with its line.
    pub fn parse_toml<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        match toml::from_str(self.text) {
            Ok(value) => Some(value),
            Err(error) => {
                let (message, remedy) = split_remedy(error.message());
                match error.span() {
                    Some(span) => self.fault(span, message, remedy),
                    None => self.fault_anywhere(message, remedy),
                }
                None
            }
        }
    }
}

/// Marks where the remedy begins inside the message of a value's own parser; serde carries one string only.
pub(crate) const REMEDY: &str = "; write ";

/// Splits a message of a value's own parser into message and remedy.
pub(crate) fn split_remedy(message: &str) -> (String, String) {
    match message.split_once(REMEDY) {
        Some((message, remedy)) => (message.trim().to_owned(), format!("write {}", remedy.trim())),
        None => (message.trim().to_owned(), String::new()),
    }
}

/// Line of a byte offset, counting from 1.
#[must_use]
pub fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset.min(text.len())).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generated rule set with the same mistake in each of its rules: to find the lines of all takes minutes.
    #[test]
    fn faults_beyond_a_hundred_are_counted() {
        let text = "a\n".repeat(4 << 20);
        let mut checker = Checker::new("rules.toml", &text);
        for place in (0..text.len()).step_by(32) {
            checker.fault(place..place, "wrong", "");
        }
        let faults = checker.into_faults();
        assert_eq!(faults.0.len(), FAULTS_MAX + 1);
        let words = faults.to_string();
        assert!(
            words.starts_with("rules.toml:1: wrong\nrules.toml:17: wrong\n"),
            "{words}"
        );
        assert!(words.ends_with("rules.toml: and 262044 more faults"), "{words}");
    }
}
