//! From the operator's rules to what the packet path evaluates.
//!
//! The order of the file is kept and the first match decides. Each compiled rule remembers the rule it came from: hits
//! and log lines speak of the operator's rules only.
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use gateway_common::abi::limit::RULES_MAX;
use gateway_common::abi::rule::{Record, action, flag};

use super::classifier::{self, ALL_DIRECTIONS, Condition, Generation, TooLarge};
use crate::config::{Action, Checker, Diagnostics, List, PortRange, Prefix, RuleModel, RuleSetFile, SourceRule};

/// Names that rules may use.
pub trait Directory {
    /// Number of the site of that name.
    fn site(&self, name: &str) -> Option<u32>;
    /// Bitmap of the group of that name.
    fn group(&self, name: &str) -> Option<u64>;
    /// Names of all groups, for messages.
    fn group_names(&self) -> Vec<&str>;
    /// Every combination of groups that a site has or may have.
    fn group_bitmaps(&self) -> Vec<u64>;
}

/// A rule set ready to be loaded.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// At most [`RULES_MAX`] rules in the order of evaluation.
    pub rules: Vec<Condition>,
    /// Every combination of groups that a site may have.
    pub group_bitmaps: Vec<u64>,
    /// The file it came from; [`Record::source_rule`] is an index into its rules.
    pub source: RuleSetFile,
}

impl Compiled {
    /// The tables of the packet path.
    ///
    /// # Errors
    /// They would be too large.
    pub fn generation(&self, number: u32, counter_base: u32) -> Result<Generation, TooLarge> {
        classifier::build(number, counter_base, &self.rules, &self.group_bitmaps)
    }

    /// Hosts that a rule allows by their own address: their next hops are resolved before the first packet needs them.
    #[must_use]
    pub fn named_hosts(&self) -> BTreeSet<Ipv4Addr> {
        let allowed = self.rules.iter().filter(|rule| rule.record.action == action::ALLOW);
        let hosts = allowed.flat_map(|rule| &rule.destination);
        hosts
            .filter(|(first, last)| first == last)
            .map(|(host, _)| Ipv4Addr::from(*host))
            .collect()
    }
}

/// Compiles a rule set.
///
/// # Errors
/// Names that are unknown, and rules beyond [`RULES_MAX`], with their lines.
pub fn compile(source: RuleSetFile, directory: &dyn Directory) -> Result<Compiled, Diagnostics> {
    let mut checker = Checker::new(&source.file, &source.text);
    let mut rules = Vec::new();
    for (index, rule) in source.rules.iter().enumerate() {
        let subject = subject(&mut checker, &source.text, rule, directory);
        if rules.len() >= RULES_MAX as usize {
            let message = format!(
                "rule \"{}\" is one too many: a rule set may have {RULES_MAX} rules",
                rule.model.name
            );
            let remedy = "join rules that differ in one list only";
            checker.fault(rule.span.clone(), message, remedy);
            break;
        }
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        rules.push(condition(&rule.model, number, subject));
    }
    let clean = checker.finish(());
    clean.map(|()| Compiled {
        rules,
        group_bitmaps: directory.group_bitmaps(),
        source,
    })
}

/// Whom a compiled rule speaks of.
#[derive(Default)]
struct Subject {
    everyone: bool,
    sites: Vec<u32>,
    groups: u64,
}

fn subject(
    checker: &mut Checker<'_>,
    text: &str,
    rule: &SourceRule,
    directory: &dyn Directory,
) -> Subject {
    let model = &rule.model;
    if model.sites.is_any() && model.groups.is_any() {
        return Subject {
            everyone: true,
            ..Subject::default()
        };
    }
    let mut subject = Subject::default();
    for name in &model.sites.0 {
        match directory.site(name) {
            Some(site) => subject.sites.push(site),
            None => checker.fault(
                rule.locate(text, name),
                format!("rule \"{}\": no site is named \"{name}\"", model.name),
                "add a [[site]] of that name to gateway.toml; a site of an [[any_site]] is known once it has connected, until then use its group",
            ),
        }
    }
    for name in &model.groups.0 {
        match directory.group(name) {
            Some(bit) => subject.groups |= bit,
            None => {
                let known: Vec<_> = directory
                    .group_names()
                    .iter()
                    .map(|name| format!("\"{name}\""))
                    .collect();
                let remedy = match known.is_empty() {
                    true => {
                        "gateway.toml puts no site into a group: add groups = [...] to a [[site]]".to_owned()
                    }
                    false => format!("use one of {}", known.join(", ")),
                };
                let message = format!("rule \"{}\": no site is in a group \"{name}\"", model.name);
                checker.fault(rule.locate(text, name), message, remedy);
            }
        }
    }
    subject
}

fn condition(model: &RuleModel, source_rule: u32, subject: Subject) -> Condition {
    Condition {
        everyone: subject.everyone,
        sites: subject.sites,
        groups: subject.groups,
        directions: ALL_DIRECTIONS,
        source: addresses(&model.source),
        destination: addresses(&model.destination),
        protocols: model.protocol.0.iter().map(|protocol| protocol.0).collect(),
        source_ports: ports(&model.source_ports),
        destination_ports: ports(&model.destination_ports),
        record: Record {
            source_rule,
            action: match model.action {
                Action::Allow => action::ALLOW,
                Action::Deny => action::DENY,
            },
            flags: if model.log { flag::LOG } else { 0 },
            pad: [0; 2],
        },
    }
}

fn addresses(list: &List<Prefix>) -> Vec<(u32, u32)> {
    let range = |prefix: Prefix| {
        let (first, last) = prefix.bounds();
        (u32::from(first), u32::from(last))
    };
    match list.is_any() {
        true => vec![range(Prefix::everything())],
        false => list.0.iter().map(|prefix| range(*prefix)).collect(),
    }
}

fn ports(list: &List<PortRange>) -> Vec<(u16, u16)> {
    match list.is_any() {
        true => vec![(PortRange::ALL.low, PortRange::ALL.high)],
        false => list.0.iter().map(|range| (range.low, range.high)).collect(),
    }
}
