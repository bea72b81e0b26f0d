//! From the operator's rules to what the packet path evaluates.
//!
//! A rule with lists becomes the product of its lists, in place, so that the order of the file is kept and the first
//! match decides. Each compiled rule remembers the rule it came from: hits and log lines speak of the operator's
//! rules only.
use gateway_common::abi::limit::RULES_MAX;
use gateway_common::abi::rule::{Rule, action, flag};

use crate::config::{
    Action, Checker, Diagnostics, List, PortRange, Prefix, Protocol, RuleModel, RuleSetFile, SourceRule,
};

/// Names that rules may use.
pub trait Directory {
    /// Number of the site of that name.
    fn site(&self, name: &str) -> Option<u32>;
    /// Bitmap of the group of that name.
    fn group(&self, name: &str) -> Option<u64>;
    /// Names of all groups, for messages.
    fn group_names(&self) -> Vec<&str>;
}

/// A rule set ready to be loaded.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// At most [`RULES_MAX`] rules in the order of evaluation.
    pub rules: Vec<Rule>,
    /// The file it came from; [`Rule::source_rule`] is an index into its rules.
    pub source: RuleSetFile,
}

/// Compiles a rule set.
///
/// # Errors
/// Names that are unknown, and rules beyond [`RULES_MAX`], with their lines.
pub fn compile(source: RuleSetFile, directory: &dyn Directory) -> Result<Compiled, Diagnostics> {
    let mut checker = Checker::new(&source.file, &source.text);
    let mut rules = Vec::new();
    for (index, rule) in source.rules.iter().enumerate() {
        let subjects = subjects(&mut checker, &source.text, rule, directory);
        let product = subjects.len() as u64 * conditions(&rule.model);
        if rules.len() as u64 + product > u64::from(RULES_MAX) {
            let message = format!(
                "rule \"{}\" becomes {product} compiled rules, but of {RULES_MAX} only {} are left",
                rule.model.name,
                RULES_MAX as usize - rules.len()
            );
            checker.fault(
                rule.span.clone(),
                message,
                "use prefixes, ranges and groups in place of long lists",
            );
            break;
        }
        expand(
            &rule.model,
            u32::try_from(index).unwrap_or(u32::MAX),
            &subjects,
            &mut rules,
        );
    }
    let clean = checker.finish(());
    clean.map(|()| Compiled { rules, source })
}

/// Whom a compiled rule speaks of: a site, some groups, or everyone (both zero).
#[derive(Clone, Copy)]
struct Subject {
    site: u32,
    groups: u64,
}

fn subjects(
    checker: &mut Checker<'_>,
    text: &str,
    rule: &SourceRule,
    directory: &dyn Directory,
) -> Vec<Subject> {
    let model = &rule.model;
    if model.sites.is_any() && model.groups.is_any() {
        return vec![Subject { site: 0, groups: 0 }];
    }
    let mut subjects = Vec::new();
    for name in &model.sites.0 {
        match directory.site(name) {
            Some(site) => subjects.push(Subject { site, groups: 0 }),
            None => checker.fault(
                rule.locate(text, name),
                format!("rule \"{}\": no site is named \"{name}\"", model.name),
                "add a [[site]] of that name to gateway.toml; a site of an [[any_site]] is known once it has connected, until then use its group",
            ),
        }
    }
    let mut groups = 0;
    for name in &model.groups.0 {
        match directory.group(name) {
            Some(bit) => groups |= bit,
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
    if groups != 0 {
        subjects.push(Subject { site: 0, groups });
    }
    subjects
}

/// Size of the product of all lists but sites and groups.
fn conditions(model: &RuleModel) -> u64 {
    let lengths = [
        model.source.0.len(),
        model.destination.0.len(),
        model.protocol.0.len(),
        model.source_ports.0.len(),
        model.destination_ports.0.len(),
    ];
    lengths.iter().fold(1, |product, length| {
        product
            .saturating_mul((*length).max(1) as u64)
            .min(u64::from(u32::MAX))
    })
}

/// The words of a list, or `any` if it sets no condition.
fn or_any<T: Copy>(list: &List<T>, any: T) -> Vec<T> {
    match list.is_any() {
        true => vec![any],
        false => list.0.clone(),
    }
}

fn expand(model: &RuleModel, source_rule: u32, subjects: &[Subject], rules: &mut Vec<Rule>) {
    let everywhere = Prefix::everything();
    let protocols = or_any(&model.protocol, Protocol::ANY);
    let source_ports = or_any(&model.source_ports, PortRange::ALL);
    let destination_ports = or_any(&model.destination_ports, PortRange::ALL);
    for subject in subjects {
        for source in or_any(&model.source, everywhere) {
            for destination in or_any(&model.destination, everywhere) {
                for protocol in &protocols {
                    for source_port in &source_ports {
                        for destination_port in &destination_ports {
                            rules.push(Rule {
                                groups: subject.groups,
                                site: subject.site,
                                source: source.network().octets(),
                                source_mask: source.mask().octets(),
                                destination: destination.network().octets(),
                                destination_mask: destination.mask().octets(),
                                source_port_low: source_port.low,
                                source_port_high: source_port.high,
                                destination_port_low: destination_port.low,
                                destination_port_high: destination_port.high,
                                protocol: protocol.0,
                                action: match model.action {
                                    Action::Allow => action::ALLOW,
                                    Action::Deny => action::DENY,
                                },
                                flags: if model.log { flag::LOG } else { 0 },
                                pad: 0,
                                source_rule,
                                pad2: 0,
                            });
                        }
                    }
                }
            }
        }
    }
}
