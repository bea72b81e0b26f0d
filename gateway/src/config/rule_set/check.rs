//! What can be said of a rule set without knowing the sites.
use std::collections::HashMap;

use super::model::RuleModel;
use super::words::{Direction, IcmpType, PortRange, Protocol};
use super::{Located, RuleSetFile, is_name};
use crate::config::diagnostic::{Checker, line_of};
use crate::config::list::List;

pub(super) fn check(checker: &mut Checker<'_>, file: &RuleSetFile) {
    let text = &file.text;
    names(
        checker,
        text,
        "rule",
        file.rules.iter().map(|rule| (rule.model.name.as_str(), rule)),
        false,
    );
    let addresses = file
        .addresses
        .iter()
        .map(|found| (found.model.name.as_str(), found));
    names(checker, text, "address", addresses, true);
    let services = file
        .services
        .iter()
        .map(|found| (found.model.name.as_str(), found));
    names(checker, text, "service", services, true);
    let groups = file
        .site_groups
        .iter()
        .map(|found| (found.model.name.as_str(), found));
    names(checker, text, "site_group", groups, true);
    let schedules = file
        .schedules
        .iter()
        .map(|found| (found.model.name.as_str(), found));
    names(checker, text, "schedule", schedules, true);
    for found in &file.site_groups {
        let model = &found.model;
        if model.sites.is_any() && model.groups.is_any() {
            // A rule that denies such a group would deny nobody.
            checker.fault(
                found.span.clone(),
                format!("site_group \"{}\" names no site", model.name),
                "write its sites or groups; a rule about every site has neither sites nor groups",
            );
        }
    }
    for rule in &file.rules {
        let model = &rule.model;
        let service = Service {
            protocol: &model.protocol,
            source_ports: &model.source_ports,
            destination_ports: &model.destination_ports,
            icmp_types: &model.icmp_types,
        };
        service.check(checker, text, rule, &format!("rule \"{}\"", model.name));
        if !model.services.is_any() && service.is_used() {
            let message = format!("rule \"{}\" has services and protocol or ports", model.name);
            let remedy = "make the ports a [[service]], or write two rules";
            checker.fault(rule.span.clone(), message, remedy);
        }
        enforceable(checker, rule);
    }
    for found in &file.addresses {
        let model = &found.model;
        if model.addresses.is_some() != model.fqdn.is_any() {
            let message = format!("address \"{}\" needs either addresses or fqdn", model.name);
            checker.fault(
                found.span.clone(),
                message,
                "write one of them; an [[address]] of addresses may name others that have fqdn",
            );
        }
    }
    for found in &file.services {
        let model = &found.model;
        let service = Service {
            protocol: &model.protocol,
            source_ports: &model.source_ports,
            destination_ports: &model.destination_ports,
            icmp_types: &model.icmp_types,
        };
        service.check(checker, text, found, &format!("service \"{}\"", model.name));
        if model.members.is_any() != service.is_used() {
            let message = format!("service \"{}\" needs either members or a protocol", model.name);
            checker.fault(found.span.clone(), message, "write one of them");
        }
    }
}

/// Names are there, differ, and do not read like addresses.
fn names<'a, T: 'a>(
    checker: &mut Checker<'_>,
    text: &str,
    kind: &str,
    all: impl Iterator<Item = (&'a str, &'a Located<T>)>,
    is_word: bool,
) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (name, found) in all {
        if name.trim().is_empty() {
            let message = format!("a {kind} without a name");
            checker.fault(
                found.span.clone(),
                message,
                "name it: the name appears in tables and logs",
            );
        } else if let Some(first) = seen.insert(name, found.span.start) {
            let line = line_of(text, first);
            let message = format!("{kind} \"{name}\" appears twice, first in line {line}");
            checker.fault(
                found.locate(text, name),
                message,
                format!("give each {kind} its own name"),
            );
        } else if is_word && (!is_name(name) || name == "any") {
            let message = format!("\"{name}\" is no name for a {kind}");
            let remedy = "begin with a letter; go on with letters, digits, \"-\", \"_\" and \".\"";
            checker.fault(found.locate(text, name), message, remedy);
        }
    }
}

/// The keys that rules and services share.
struct Service<'a> {
    protocol: &'a List<Protocol>,
    source_ports: &'a List<PortRange>,
    destination_ports: &'a List<PortRange>,
    icmp_types: &'a List<IcmpType>,
}

impl Service<'_> {
    fn is_used(&self) -> bool {
        !(self.protocol.is_any()
            && self.source_ports.is_any()
            && self.destination_ports.is_any()
            && self.icmp_types.is_any())
    }

    fn check<T>(&self, checker: &mut Checker<'_>, text: &str, found: &Located<T>, who: &str) {
        let has_ports = !self.source_ports.is_any() || !self.destination_ports.is_any();
        let portless = self.protocol.0.iter().find(|protocol| !protocol.has_ports());
        if has_ports && (self.protocol.is_any() || portless.is_some()) {
            let protocol = portless.map_or("any".to_owned(), Protocol::to_string);
            checker.fault(
                found.locate(text, &protocol),
                format!("{who} has ports, but protocol \"{protocol}\""),
                "write protocol = \"tcp\" or \"udp\", or [\"tcp\", \"udp\"]",
            );
        }
        if !self.icmp_types.is_any() && self.protocol.0 != [Protocol::ICMP] {
            let message = format!("{who} has ICMP types, but its protocol is not \"icmp\" alone");
            checker.fault(found.span.clone(), message, "write protocol = \"icmp\"");
        }
        for other in self
            .icmp_types
            .0
            .iter()
            .filter(|found| !matches!(found.kind, IcmpType::ECHO_REQUEST | IcmpType::TIMESTAMP_REQUEST))
        {
            checker.fault(
                found.locate(text, &other.to_string()),
                format!("{who}: ICMP type {other} is not enforced: only echo-request and timestamp-request open a flow"),
                "leave it out: answers and errors pass with the flow that they belong to, all other ICMP is dropped",
            );
        }
    }
}

/// What the model can say and the packet path does not do yet is refused, not ignored.
fn enforceable(checker: &mut Checker<'_>, rule: &Located<RuleModel>) {
    let model = &rule.model;
    let name = &model.name;
    let names_called = !model.to_sites.is_any() || !model.to_groups.is_any();
    if names_called && model.direction.0 != [Direction::SiteToSite] {
        checker.fault(
            rule.span.clone(),
            format!("rule \"{name}\" says which sites are called, but it is not about flows from site to site alone"),
            "write direction = \"site-to-site\", or leave to_sites and to_groups out; in \"center-to-site\", sites and groups are those that are called",
        );
    }
}
