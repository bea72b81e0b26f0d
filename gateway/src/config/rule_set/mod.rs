//! The rule-set file: TOML or JSON, one model.
mod check;
mod fqdn;
mod model;
mod words;

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use toml::Spanned;

use super::diagnostic::{Checker, Diagnostics, line_of, split_remedy};

pub use self::fqdn::{NamePattern, host_name, host_name_of};
pub use self::model::{Action, AddressModel, RuleModel, ScheduleModel, ServiceModel, SiteGroupModel};
pub(crate) use self::words::is_name;
pub use self::words::{AddressWord, Direction, IcmpType, PortRange, Protocol};

/// A parsed rule set; names of sites and groups are not looked up yet.
#[derive(Clone, Debug, Default)]
pub struct RuleSetFile {
    /// File as the operator named it.
    pub file: String,
    /// The text that was parsed.
    pub text: String,
    /// Name of the rule set; empty if it has none.
    pub name: String,
    /// What it is for; empty if nothing is said.
    pub comment: String,
    /// Named addresses.
    pub addresses: Vec<Located<AddressModel>>,
    /// Named services.
    pub services: Vec<Located<ServiceModel>>,
    /// Groups of sites besides those of `gateway.toml`.
    pub site_groups: Vec<Located<SiteGroupModel>>,
    /// Named times.
    pub schedules: Vec<Located<ScheduleModel>>,
    /// Rules in the order of the file; the first that matches decides.
    pub rules: Vec<SourceRule>,
}

/// Something of the file and where it stands.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// What it says.
    pub model: T,
    /// Its bytes in the text.
    pub span: Range<usize>,
}

/// A rule and where it stands.
pub type SourceRule = Located<RuleModel>;

/// The file as TOML has it; `T` is a place and what stands there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlFile {
    #[serde(default)]
    name: String,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    address: Vec<Spanned<AddressModel>>,
    #[serde(default)]
    service: Vec<Spanned<ServiceModel>>,
    #[serde(default)]
    site_group: Vec<Spanned<SiteGroupModel>>,
    #[serde(default)]
    schedule: Vec<Spanned<ScheduleModel>>,
    #[serde(default)]
    rule: Vec<Spanned<RuleModel>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonFile<'a> {
    #[serde(default)]
    name: String,
    #[serde(default)]
    comment: String,
    #[serde(borrow, default)]
    address: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    service: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    site_group: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    schedule: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    rule: Vec<&'a RawValue>,
}

/// The file as it is written again by `gateway rules convert`.
#[derive(Serialize)]
struct WrittenFile<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    comment: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    address: Vec<&'a AddressModel>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service: Vec<&'a ServiceModel>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    site_group: Vec<&'a SiteGroupModel>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schedule: Vec<&'a ScheduleModel>,
    rule: Vec<&'a RuleModel>,
}

/// The two ways to write a rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

impl RuleSetFile {
    /// Parses and checks what can be checked without knowing the sites. A text whose first character is `{` is
    /// JSON (no TOML document begins so), any other is TOML.
    ///
    /// # Errors
    /// Every fault found, with line and remedy.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let mut checker = Checker::new(file, text);
        let parsed = match Format::of(text) {
            Format::Json => parse_json(&mut checker, text),
            Format::Toml => parse_toml(&mut checker, text),
        };
        let Some(parsed) = parsed else {
            return Err(checker.into_faults());
        };
        let parsed = Self {
            file: file.to_owned(),
            text: text.to_owned(),
            ..parsed
        };
        check::check(&mut checker, &parsed);
        checker.finish(parsed)
    }

    /// Writes the rule set out. Comments of TOML (`#`) are not part of the model and are gone; `comment` keys stay.
    #[must_use]
    pub fn write(&self, format: Format) -> String {
        let file = WrittenFile {
            name: &self.name,
            comment: &self.comment,
            address: self.addresses.iter().map(|found| &found.model).collect(),
            service: self.services.iter().map(|found| &found.model).collect(),
            site_group: self.site_groups.iter().map(|found| &found.model).collect(),
            schedule: self.schedules.iter().map(|found| &found.model).collect(),
            rule: self.rules.iter().map(|found| &found.model).collect(),
        };
        // Strings, lists and booleans: both formats can write all of them.
        match format {
            Format::Toml => toml::to_string(&file).unwrap_or_default(),
            Format::Json => serde_json::to_string_pretty(&file).unwrap_or_default() + "\n",
        }
    }

    /// Line of a place in the text.
    #[must_use]
    pub fn line(&self, span: &Range<usize>) -> usize {
        line_of(&self.text, span.start)
    }
}

impl Format {
    /// The format of a text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        match text.trim_start().starts_with('{') {
            true => Self::Json,
            false => Self::Toml,
        }
    }
}

impl<T> Located<T> {
    /// Where `word` is quoted in it; its beginning if it is not found.
    #[must_use]
    pub fn locate(&self, text: &str, word: &str) -> Range<usize> {
        let body = text.get(self.span.clone()).unwrap_or_default();
        match body.find(&format!("\"{word}\"")) {
            Some(offset) => self.span.start + offset..self.span.start + offset + word.len(),
            None => self.span.clone(),
        }
    }
}

fn parse_toml(checker: &mut Checker<'_>, text: &str) -> Option<RuleSetFile> {
    let file: TomlFile = checker.parse_toml()?;
    Some(RuleSetFile {
        name: file.name,
        comment: file.comment,
        addresses: located(file.address, text),
        services: located(file.service, text),
        site_groups: located(file.site_group, text),
        schedules: located(file.schedule, text),
        rules: located(file.rule, text),
        ..RuleSetFile::default()
    })
}

/// A table of TOML reaches from its head to that of the next of its kind.
fn located<T>(tables: Vec<Spanned<T>>, text: &str) -> Vec<Located<T>> {
    let starts: Vec<_> = tables.iter().map(|table| table.span().start).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let spans = starts.iter().copied().zip(ends).map(|(start, end)| start..end);
    let located = tables.into_iter().zip(spans).map(|(table, span)| Located {
        model: table.into_inner(),
        span,
    });
    located.collect()
}

fn parse_json(checker: &mut Checker<'_>, text: &str) -> Option<RuleSetFile> {
    let file: JsonFile<'_> = match serde_json::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            json_fault(checker, 1, &error);
            return None;
        }
    };
    let parsed = RuleSetFile {
        name: file.name,
        comment: file.comment,
        addresses: parse_values(checker, text, &file.address),
        services: parse_values(checker, text, &file.service),
        site_groups: parse_values(checker, text, &file.site_group),
        schedules: parse_values(checker, text, &file.schedule),
        rules: parse_values(checker, text, &file.rule),
        ..RuleSetFile::default()
    };
    checker.is_clean().then_some(parsed)
}

fn parse_values<'a, T: Deserialize<'a>>(
    checker: &mut Checker<'_>,
    text: &str,
    values: &[&'a RawValue],
) -> Vec<Located<T>> {
    let mut located = Vec::new();
    for raw in values {
        // A raw value borrows from the text, so that its place is the distance of the two beginnings.
        let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        match serde_json::from_str(raw.get()) {
            Ok(model) => located.push(Located {
                model,
                span: start..start + raw.get().len(),
            }),
            Err(error) => json_fault(checker, line_of(text, start), &error),
        }
    }
    located
}

/// `first_line` is the line on which the parsed piece begins.
fn json_fault(checker: &mut Checker<'_>, first_line: usize, error: &serde_json::Error) {
    let words = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let (message, remedy) = split_remedy(words.strip_suffix(&place).unwrap_or(&words));
    checker.fault_at_line(first_line + error.line().saturating_sub(1), message, remedy);
}
