//! A rule in words, the same in every verb that shows one.
use crate::config::{Direction, List, RuleModel};

/// What [`of`] says, in its order.
pub(super) const HEAD: [&str; 9] = [
    "ACTION",
    "DIRECTION",
    "WHO",
    "CALLED",
    "SOURCE",
    "DESTINATION",
    "PROTO",
    "PORTS",
    "SCHEDULE",
];

/// What a rule does and is about; empty: that is not asked of it.
pub(super) fn of(rule: &RuleModel) -> [String; HEAD.len()] {
    let called = match rule.direction.0.contains(&Direction::SiteToSite) {
        true => who(&rule.to_sites, &rule.to_groups),
        false => String::new(),
    };
    let ports = match (rule.icmp_types.is_any(), rule.source_ports.is_any()) {
        (false, _) => list(&rule.icmp_types),
        (true, true) => list(&rule.destination_ports),
        (true, false) => format!("{} > {}", list(&rule.source_ports), list(&rule.destination_ports)),
    };
    let (protocol, ports) = match rule.services.is_any() {
        true => (list(&rule.protocol), ports),
        false => (list(&rule.services), String::new()),
    };
    [
        format!("{:?}", rule.action).to_lowercase(),
        match rule.direction.is_any() {
            true => Direction::default().to_string(),
            false => list(&rule.direction),
        },
        who(&rule.sites, &rule.groups),
        called,
        list(&rule.source),
        any_or(words(&rule.destination).chain(words(&rule.fqdn))),
        protocol,
        ports,
        rule.schedule.clone().unwrap_or_default(),
    ]
}

fn who(sites: &List<String>, groups: &List<String>) -> String {
    any_or(words(sites).chain(groups.0.iter().map(|group| format!("@{group}"))))
}

fn list<T: ToString>(list: &List<T>) -> String {
    any_or(words(list))
}

fn words<T: ToString>(list: &List<T>) -> impl Iterator<Item = String> {
    list.0.iter().map(T::to_string)
}

fn any_or(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    match words.is_empty() {
        true => "any".to_owned(),
        false => words.join(","),
    }
}
