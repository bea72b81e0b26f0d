//! The rule-set file: TOML or JSON, one model.
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use toml::Spanned;

use super::address::{Prefix, serde_as_word};
use super::diagnostic::{Checker, Diagnostics, line_of, split_remedy};
use super::list::List;

/// A parsed rule set; names of sites and groups are not looked up yet.
#[derive(Clone, Debug)]
pub struct RuleSetFile {
    /// File as the operator named it.
    pub file: String,
    /// The text that was parsed.
    pub text: String,
    /// Name of the rule set; empty if it has none.
    pub name: String,
    /// What it is for; empty if nothing is said.
    pub comment: String,
    /// Rules in the order of the file; the first that matches decides.
    pub rules: Vec<SourceRule>,
}

/// A rule and where it stands.
#[derive(Clone, Debug)]
pub struct SourceRule {
    /// What it says.
    pub model: RuleModel,
    /// Its bytes in the text.
    pub span: Range<usize>,
}

/// What to do with a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let it be made.
    Allow,
    /// Drop it.
    Deny,
}

/// One rule as it is written. Conditions are joined by "and", the words of one list by "or".
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RuleModel {
    /// Name in tables and logs; unique in the file.
    pub name: String,
    /// What to do.
    pub action: Action,
    /// Sites; joined with `groups` by "or".
    #[serde(default, alias = "site")]
    pub sites: List<String>,
    /// Site groups; joined with `sites` by "or".
    #[serde(default, alias = "group")]
    pub groups: List<String>,
    /// Addresses in the site, before translation.
    #[serde(default)]
    pub source: List<Prefix>,
    /// Addresses in the center.
    #[serde(default)]
    pub destination: List<Prefix>,
    /// IP protocols.
    #[serde(default)]
    pub protocol: List<Protocol>,
    /// Source ports; TCP and UDP only.
    #[serde(default)]
    pub source_ports: List<PortRange>,
    /// Destination ports; TCP and UDP only.
    #[serde(default)]
    pub destination_ports: List<PortRange>,
    /// Log each new flow or denied packet.
    #[serde(default)]
    pub log: bool,
    /// Why the rule is there.
    #[serde(default)]
    pub comment: String,
}

/// An IP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// No condition; the packet path's own word for it, no rule file can write it.
    pub const ANY: Self = Self(0);
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);

    /// Whether it has ports that the packet path reads.
    #[must_use]
    pub fn has_ports(self) -> bool {
        self == Self::TCP || self == Self::UDP
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => formatter.write_str("icmp"),
            Self::TCP => formatter.write_str("tcp"),
            Self::UDP => formatter.write_str("udp"),
            Self(number) => number.fmt(formatter),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "icmp" => Ok(Self::ICMP),
            "tcp" => Ok(Self::TCP),
            "udp" => Ok(Self::UDP),
            word => word.parse().ok().filter(|number| *number != 0).map(Self).ok_or_else(|| {
                format!("\"{word}\" is no protocol; write \"tcp\", \"udp\", \"icmp\", \"any\" or a number from 1 to 255")
            }),
        }
    }
}

/// A run of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest.
    pub low: u16,
    /// Highest.
    pub high: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        low: 0,
        high: u16::MAX,
    };
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.low == self.high {
            true => self.low.fmt(formatter),
            false => write!(formatter, "{}-{}", self.low, self.high),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (low, high) = word.split_once('-').unwrap_or((word, word));
        let port = |end: &str| {
            let fault =
                || format!("\"{word}\" is no port or range of ports; write it like \"443\" or \"8000-8010\"");
            end.trim().parse::<u16>().map_err(|_| fault())
        };
        let range = Self {
            low: port(low)?,
            high: port(high)?,
        };
        match range.low <= range.high {
            true => Ok(range),
            false => Err(format!(
                "ports \"{word}\" end before they begin; write \"{}-{}\"",
                range.high, range.low
            )),
        }
    }
}

serde_as_word!(Protocol, PortRange);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlFile {
    #[serde(default)]
    name: String,
    #[serde(default)]
    comment: String,
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
    rule: Vec<&'a RawValue>,
}

impl RuleSetFile {
    /// Parses and checks what can be checked without knowing the sites. A text whose first character is `{` is
    /// JSON (no TOML document begins so), any other is TOML.
    ///
    /// # Errors
    /// Every fault found, with line and remedy.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let mut checker = Checker::new(file, text);
        let parsed = match text.trim_start().starts_with('{') {
            true => parse_json(&mut checker, text),
            false => parse_toml(&mut checker, text),
        };
        let Some((name, comment, rules)) = parsed else {
            return Err(checker.into_faults());
        };
        let mut names = HashMap::new();
        for rule in &rules {
            check(&mut checker, text, rule, &mut names);
        }
        checker.finish(Self {
            file: file.to_owned(),
            text: text.to_owned(),
            name,
            comment,
            rules,
        })
    }
}

impl SourceRule {
    /// Where `word` is quoted in the rule; the rule's beginning if it is not found.
    #[must_use]
    pub fn locate(&self, text: &str, word: &str) -> Range<usize> {
        let body = text.get(self.span.clone()).unwrap_or_default();
        match body.find(&format!("\"{word}\"")) {
            Some(offset) => self.span.start + offset..self.span.start + offset + word.len(),
            None => self.span.clone(),
        }
    }
}

type Parsed = (String, String, Vec<SourceRule>);

fn parse_toml(checker: &mut Checker<'_>, text: &str) -> Option<Parsed> {
    let file: TomlFile = checker.parse_toml()?;
    let starts: Vec<_> = file.rule.iter().map(|rule| rule.span().start).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let span = starts.iter().copied().zip(ends).map(|(start, end)| start..end);
    let rules = file.rule.into_iter().zip(span).map(|(rule, span)| SourceRule {
        model: rule.into_inner(),
        span,
    });
    Some((file.name, file.comment, rules.collect()))
}

fn parse_json(checker: &mut Checker<'_>, text: &str) -> Option<Parsed> {
    let file: JsonFile<'_> = match serde_json::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            json_fault(checker, 1, &error);
            return None;
        }
    };
    let mut rules = Vec::new();
    for raw in file.rule {
        // A raw value borrows from the text, so that its place is the distance of the two beginnings.
        let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        match serde_json::from_str(raw.get()) {
            Ok(model) => rules.push(SourceRule {
                model,
                span: start..start + raw.get().len(),
            }),
            Err(error) => json_fault(checker, line_of(text, start), &error),
        }
    }
    checker.is_clean().then_some((file.name, file.comment, rules))
}

/// `first_line` is the line on which the parsed piece begins.
fn json_fault(checker: &mut Checker<'_>, first_line: usize, error: &serde_json::Error) {
    let words = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let (message, remedy) = split_remedy(words.strip_suffix(&place).unwrap_or(&words));
    checker.fault_at_line(first_line + error.line().saturating_sub(1), message, remedy);
}

/// Checks one rule by itself, and its name against those above it.
fn check(checker: &mut Checker<'_>, text: &str, rule: &SourceRule, names: &mut HashMap<String, usize>) {
    let model = &rule.model;
    if model.name.trim().is_empty() {
        checker.fault(
            rule.span.clone(),
            "a rule without a name",
            "name it: the name appears in tables and logs",
        );
    } else if let Some(first) = names.insert(model.name.clone(), rule.span.start) {
        let line = line_of(text, first);
        let message = format!("rule \"{}\" appears twice, first in line {line}", model.name);
        checker.fault(
            rule.locate(text, &model.name),
            message,
            "give each rule its own name",
        );
    }
    let has_ports = !model.source_ports.is_any() || !model.destination_ports.is_any();
    let portless = model.protocol.0.iter().find(|protocol| !protocol.has_ports());
    if has_ports && (model.protocol.is_any() || portless.is_some()) {
        let protocol = portless.map_or("any".to_owned(), Protocol::to_string);
        let message = format!("rule \"{}\" has ports, but protocol \"{protocol}\"", model.name);
        checker.fault(
            rule.locate(text, &protocol),
            message,
            "write protocol = \"tcp\" or \"udp\", or [\"tcp\", \"udp\"]",
        );
    }
}
