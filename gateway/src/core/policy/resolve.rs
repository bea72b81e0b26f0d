//! Looks the names of rules up: sites, groups, addresses, services, schedules.
use std::collections::{HashMap, HashSet};

use gateway_common::abi::limit::RULES_MAX;

use super::Directory;
use crate::config::{
    Action, AddressModel, AddressWord, Checker, Direction, IcmpType, List, Located, PortRange, Prefix,
    Protocol, RuleSetFile, ServiceModel, SourceRule,
};
use crate::core::names::NameSet;
use crate::core::schedule::Schedule;

/// Whom a compiled rule speaks of.
#[derive(Default)]
pub(super) struct Subject {
    pub(super) everyone: bool,
    pub(super) sites: Vec<u32>,
    pub(super) groups: u64,
}

/// Protocols with the ports that go with each of them. Ports of ICMP are type and code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) protocols: Vec<u8>,
    pub(super) source_ports: Vec<(u16, u16)>,
    pub(super) destination_ports: Vec<(u16, u16)>,
}

/// Names of a list that were looked up, and those among them whose members are being looked up.
#[derive(Default)]
struct Names<'a> {
    seen: HashSet<&'a str>,
    inside: HashSet<&'a str>,
}

const EVERY_PORT: (u16, u16) = (PortRange::ALL.low, PortRange::ALL.high);
const EVERYWHERE: (u32, u32) = (0, u32::MAX);

pub(super) struct Resolver<'a, 'c> {
    file: &'a RuleSetFile,
    directory: &'a dyn Directory,
    checker: &'c mut Checker<'a>,
    addresses: HashMap<&'a str, &'a Located<AddressModel>>,
    services: HashMap<&'a str, &'a Located<ServiceModel>>,
    schedules: HashMap<&'a str, usize>,
    /// Sets of names that rules speak of.
    name_sets: Vec<NameSet>,
    /// Those of `[[address]]`es: their places, from 1.
    name_places: HashMap<&'a str, u32>,
}

/// A name must not be a group of sites here and another one in gateway.toml: whichever was meant, a rule would be about the
/// other's sites. Rules mean the one here.
pub(super) fn site_groups(file: &RuleSetFile, directory: &dyn Directory, checker: &mut Checker<'_>) {
    for found in &file.site_groups {
        let name = &found.model.name;
        if directory.group(name).is_some() {
            checker.fault(
                found.locate(&file.text, name),
                format!("site_group \"{name}\": gateway.toml has a group of that name"),
                "give it another name; a rule's groups may list both",
            );
        }
    }
}

impl<'a, 'c> Resolver<'a, 'c> {
    pub(super) fn new(
        file: &'a RuleSetFile,
        directory: &'a dyn Directory,
        checker: &'c mut Checker<'a>,
    ) -> Self {
        let addresses = file
            .addresses
            .iter()
            .map(|found| (found.model.name.as_str(), found));
        let services = file
            .services
            .iter()
            .map(|found| (found.model.name.as_str(), found));
        let schedules = file.schedules.iter().zip(0..);
        let schedules = schedules.map(|(found, place)| (found.model.name.as_str(), place));
        Self {
            file,
            directory,
            checker,
            addresses: addresses.collect(),
            services: services.collect(),
            schedules: schedules.collect(),
            name_sets: Vec::new(),
            name_places: HashMap::new(),
        }
    }

    /// The schedules of the file, in its order.
    pub(super) fn schedules(&mut self) -> Vec<Schedule> {
        let mut schedules = Vec::new();
        for found in &self.file.schedules {
            match Schedule::new(&found.model) {
                Ok(schedule) => schedules.push(schedule),
                Err(fault) => {
                    let at = found.locate(&self.file.text, &fault.word);
                    let message = format!("schedule \"{}\": {}", found.model.name, fault.message);
                    self.checker.fault(at, message, fault.remedy);
                }
            }
        }
        schedules
    }

    /// The place of a rule's schedule.
    pub(super) fn schedule(&mut self, rule: &SourceRule) -> Option<usize> {
        let name = rule.model.schedule.as_deref()?;
        let found = self.schedules.get(name).copied();
        if found.is_none() {
            self.unknown(rule, &rule.model.name, "schedule", name);
        }
        found
    }

    fn unknown<T>(&mut self, found: &Located<T>, who: &str, kind: &str, name: &str) {
        let message = format!("\"{who}\": there is no {kind} \"{name}\"");
        let at = found.locate(&self.file.text, name);
        self.checker
            .fault(at, message, format!("add a [[{kind}]] of that name to this file"));
    }

    pub(super) fn too_many(&mut self, rule: &SourceRule) {
        let message = format!(
            "rule \"{}\" is one too many: a rule set may have {RULES_MAX} compiled rules",
            rule.model.name
        );
        let remedy =
            "join rules that differ in one list only; a rule with services becomes one for each of them";
        self.checker.fault(rule.span.clone(), message, remedy);
    }

    /// The sites that the rule is about.
    pub(super) fn subject(&mut self, rule: &SourceRule) -> Subject {
        self.subject_of(rule, &rule.model.sites, &rule.model.groups)
    }

    /// The sites that are called, in flows from site to site.
    pub(super) fn called(&mut self, rule: &SourceRule) -> Subject {
        self.subject_of(rule, &rule.model.to_sites, &rule.model.to_groups)
    }

    fn subject_of(&mut self, rule: &SourceRule, sites: &List<String>, groups: &List<String>) -> Subject {
        let model = &rule.model;
        let mut subject = Subject {
            everyone: sites.is_any() && groups.is_any(),
            ..Subject::default()
        };
        self.sites(rule, &model.name, sites, &mut subject);
        for name in &groups.0 {
            let own = self
                .file
                .site_groups
                .iter()
                .find(|group| group.model.name == *name);
            match own {
                Some(group) => {
                    self.sites(group, name, &group.model.sites, &mut subject);
                    for inner in &group.model.groups.0 {
                        self.group(group, name, inner, &mut subject);
                    }
                }
                None => self.group(rule, &model.name, name, &mut subject),
            }
        }
        subject
    }

    fn sites<T>(&mut self, found: &Located<T>, who: &str, names: &List<String>, subject: &mut Subject) {
        for name in &names.0 {
            match self.directory.site(name) {
                Some(site) => subject.sites.push(site),
                None => self.checker.fault(
                    found.locate(&self.file.text, name),
                    format!("rule \"{who}\": no site is named \"{name}\""),
                    "add a [[site]] of that name to gateway.toml; a site of an [[any_site]] is known once it has connected, until then use its group",
                ),
            }
        }
    }

    fn group<T>(&mut self, found: &Located<T>, who: &str, name: &str, subject: &mut Subject) {
        if let Some(bit) = self.directory.group(name) {
            subject.groups |= bit;
            return;
        }
        let own = self
            .file
            .site_groups
            .iter()
            .map(|group| group.model.name.as_str());
        let known: Vec<_> = self
            .directory
            .group_names()
            .into_iter()
            .chain(own)
            .map(|name| format!("\"{name}\""))
            .collect();
        let remedy = match known.is_empty() {
            true => "gateway.toml puts no site into a group: add groups = [...] to a [[site]]".to_owned(),
            false => format!("use one of {}", known.join(", ")),
        };
        let message = format!("rule \"{who}\": no site is in a group \"{name}\"");
        let at = found.locate(&self.file.text, name);
        self.checker.fault(at, message, remedy);
    }

    pub(super) fn source(&mut self, rule: &SourceRule) -> Vec<(u32, u32)> {
        let mut sets = Vec::new();
        let ranges = self.ranges(rule, &rule.model.name, &rule.model.source, &mut sets);
        if let Some(set) = sets.first().copied() {
            let label = self.label(set);
            let message = format!(
                "rule \"{}\": \"{label}\" is of names, but stands under source",
                rule.model.name
            );
            let at = rule.locate(&self.file.text, &label);
            self.checker.fault(
                at,
                message,
                "names are of Internet sites: write them as destination",
            );
        }
        ranges
    }

    /// Ranges of a rule's destination, and places of the sets of names that it has beside.
    pub(super) fn destination(&mut self, rule: &SourceRule) -> (Vec<(u32, u32)>, Vec<u32>) {
        let model = &rule.model;
        let mut sets = Vec::new();
        let ranges = match model.destination.is_any() && !model.fqdn.is_any() {
            true => Vec::new(),
            false => self.ranges(rule, &model.name, &model.destination, &mut sets),
        };
        if !model.fqdn.is_any() {
            self.name_sets.push(NameSet {
                label: model.name.clone(),
                patterns: model.fqdn.0.clone(),
            });
            sets.push(self.name_sets.len() as u32);
        }
        if !sets.is_empty() && model.action != Action::Allow {
            let message = format!(
                "rule \"{}\" speaks of names, but does not allow: an address is known by a name only after a site has asked for it",
                model.name
            );
            let remedy = "name sites that may be reached; what no rule allows is denied anyway";
            self.checker.fault(rule.span.clone(), message, remedy);
        }
        if !sets.is_empty() && model.direction.0 != [Direction::SiteToInternet] {
            let message = format!(
                "rule \"{}\" speaks of names, which are of the Internet",
                model.name
            );
            let remedy = "write direction = \"site-to-internet\", and another rule for other directions";
            self.checker.fault(rule.span.clone(), message, remedy);
        }
        (ranges, sets)
    }

    /// The sets that rules spoke of.
    pub(super) fn into_name_sets(self) -> Vec<NameSet> {
        self.name_sets
    }

    fn label(&self, place: u32) -> String {
        let set = self.name_sets.get((place as usize).wrapping_sub(1));
        set.map(|set| set.label.clone()).unwrap_or_default()
    }

    /// Place of the set of an `[[address]]`.
    fn name_set(&mut self, address: &'a AddressModel) -> u32 {
        if let Some(place) = self.name_places.get(address.name.as_str()) {
            return *place;
        }
        self.name_sets.push(NameSet {
            label: address.name.clone(),
            patterns: address.fqdn.0.clone(),
        });
        let place = self.name_sets.len() as u32;
        self.name_places.insert(&address.name, place);
        place
    }

    fn ranges<T>(
        &mut self,
        found: &Located<T>,
        who: &str,
        list: &List<AddressWord>,
        sets: &mut Vec<u32>,
    ) -> Vec<(u32, u32)> {
        if list.is_any() {
            return vec![EVERYWHERE];
        }
        let mut ranges = Vec::new();
        self.collect_ranges(found, who, list, &mut Names::default(), &mut ranges, sets);
        ranges
    }

    /// A name is looked up once for a list, so that names of names of names do not multiply.
    fn collect_ranges<T>(
        &mut self,
        found: &Located<T>,
        who: &str,
        list: &List<AddressWord>,
        names: &mut Names<'a>,
        ranges: &mut Vec<(u32, u32)>,
        sets: &mut Vec<u32>,
    ) {
        for word in &list.0 {
            match word {
                AddressWord::Prefix(prefix) => ranges.push(bounds(*prefix)),
                AddressWord::Range(range) => ranges.push((range.first.into(), range.last.into())),
                AddressWord::Name(name) => match self.addresses.get(name.as_str()).copied() {
                    None => self.unknown(found, who, "address", name),
                    Some(inner) if names.inside.contains(inner.model.name.as_str()) => {
                        self.contains_itself(inner, "address", &inner.model.name);
                    }
                    Some(inner) if !names.seen.insert(&inner.model.name) => {}
                    Some(inner) => match &inner.model.addresses {
                        None => sets.push(self.name_set(&inner.model)),
                        // Everything, said by a name.
                        Some(list) if list.is_any() => ranges.push(EVERYWHERE),
                        Some(list) => {
                            names.inside.insert(&inner.model.name);
                            self.collect_ranges(inner, name, list, names, ranges, sets);
                            names.inside.remove(inner.model.name.as_str());
                        }
                    },
                },
            }
        }
    }

    fn contains_itself<T>(&mut self, found: &Located<T>, kind: &str, name: &str) {
        let message = format!("{kind} \"{name}\" contains itself");
        self.checker
            .fault(found.span.clone(), message, "take it out of its members");
    }

    /// Each becomes a compiled rule. Terms that differ in one list only are joined.
    pub(super) fn terms(&mut self, rule: &SourceRule) -> Vec<Term> {
        let model = &rule.model;
        if model.services.is_any() {
            return vec![term(
                &model.protocol,
                &model.source_ports,
                &model.destination_ports,
                &model.icmp_types,
            )];
        }
        let mut terms = Vec::new();
        self.collect_terms(
            rule,
            &model.name,
            &model.services,
            &mut Names::default(),
            &mut terms,
        );
        join(terms)
    }

    fn collect_terms<T>(
        &mut self,
        found: &Located<T>,
        who: &str,
        list: &List<String>,
        names: &mut Names<'a>,
        terms: &mut Vec<Term>,
    ) {
        for name in &list.0 {
            match self.services.get(name.as_str()).copied() {
                None => self.unknown(found, who, "service", name),
                Some(inner) if names.inside.contains(inner.model.name.as_str()) => {
                    self.contains_itself(inner, "service", &inner.model.name);
                }
                Some(inner) if !names.seen.insert(&inner.model.name) => {}
                Some(inner) if inner.model.members.is_any() => {
                    let model = &inner.model;
                    terms.push(term(
                        &model.protocol,
                        &model.source_ports,
                        &model.destination_ports,
                        &model.icmp_types,
                    ));
                }
                Some(inner) => {
                    names.inside.insert(&inner.model.name);
                    self.collect_terms(inner, name, &inner.model.members, names, terms);
                    names.inside.remove(inner.model.name.as_str());
                }
            }
        }
    }
}

fn bounds(prefix: Prefix) -> (u32, u32) {
    let (first, last) = prefix.bounds();
    (first.into(), last.into())
}

fn term(
    protocol: &List<Protocol>,
    source_ports: &List<PortRange>,
    destination_ports: &List<PortRange>,
    icmp_types: &List<IcmpType>,
) -> Term {
    let ports = |list: &List<PortRange>| match list.is_any() {
        true => vec![EVERY_PORT],
        false => list.0.iter().map(|range| (range.low, range.high)).collect(),
    };
    Term {
        protocols: protocol.0.iter().map(|protocol| protocol.0).collect(),
        source_ports: ports(source_ports),
        destination_ports: match icmp_types.is_any() {
            true => ports(destination_ports),
            false => icmp_types.0.iter().map(|found| found.range()).collect(),
        },
    }
}

/// Joins the destination ports of terms that are alike otherwise.
fn join(terms: Vec<Term>) -> Vec<Term> {
    let mut joined: Vec<Term> = Vec::new();
    for term in terms {
        let alike = joined
            .iter_mut()
            .find(|other| other.protocols == term.protocols && other.source_ports == term.source_ports);
        match alike {
            Some(other) => other.destination_ports.extend(term.destination_ports),
            None => joined.push(term),
        }
    }
    joined
}
