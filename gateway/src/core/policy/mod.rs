//! From the operator's rules to what the packet path evaluates.
//!
//! The order of the file is kept and the first match decides. Each compiled rule remembers the rule it came from: hits
//! and log lines speak of the operator's rules only.
mod resolve;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use gateway_common::abi::limit::RULES_MAX;
use gateway_common::abi::rule::{Record, action, direction, flag};

use super::classifier::{self, Condition, Generation, TooLarge};
use super::names::NameSet;
use super::schedule::Schedule;
use crate::config::{Action, Checker, Diagnostics, Direction, RuleModel, RuleSetFile};
use resolve::{Resolver, Subject, Term};

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
    /// At most [`RULES_MAX`] rules in the order of evaluation; those of a schedule are among them at all times.
    pub rules: Vec<Condition>,
    /// Every combination of groups that a site may have.
    pub group_bitmaps: Vec<u64>,
    /// The sets of names that rules speak of.
    pub name_sets: Vec<NameSet>,
    /// Number of each in the packet path; [`Condition::names`] are places in `name_sets`, counting from 1.
    pub name_numbers: Vec<u32>,
    /// The schedules of the file.
    pub schedules: Vec<Schedule>,
    /// For each rule of the file, its place among the schedules.
    pub schedule_of: Vec<Option<usize>>,
    /// The file it came from; [`Record::source_rule`] is an index into its rules.
    pub source: RuleSetFile,
}

impl Compiled {
    /// Which schedules are in force at a time.
    #[must_use]
    pub fn schedules_at(&self, unix_s: u64) -> Vec<bool> {
        self.schedules
            .iter()
            .map(|schedule| schedule.is_on(unix_s))
            .collect()
    }

    /// Whether a rule of the file is in force while these schedules are.
    #[must_use]
    pub fn is_on(&self, source_rule: u32, schedules: &[bool]) -> bool {
        match self.schedule_of.get(source_rule as usize) {
            Some(Some(place)) => schedules.get(*place).copied().unwrap_or(false),
            Some(None) => true,
            None => false,
        }
    }

    /// The tables of the packet path while these schedules are in force.
    ///
    /// # Errors
    /// They would be too large.
    pub fn generation(
        &self,
        number: u32,
        counter_base: u32,
        schedules: &[bool],
    ) -> Result<Generation, TooLarge> {
        let on = |rule: &&Condition| self.is_on(rule.record.source_rule, schedules);
        let mut rules: Vec<_> = self.rules.iter().filter(on).cloned().collect();
        for rule in &mut rules {
            rule.names = self.numbers(&rule.names);
        }
        classifier::build(number, counter_base, &rules, &self.group_bitmaps)
    }

    /// Numbers of sets in the packet path, by their places.
    fn numbers(&self, places: &[u32]) -> Vec<u32> {
        let number = |place: &u32| self.name_numbers.get((*place as usize).checked_sub(1)?).copied();
        places.iter().filter_map(number).collect()
    }

    /// The sets that a name is in and that rules in force let a site reach, by their numbers; empty: it may not.
    #[must_use]
    pub fn sets_for(&self, name: &str, site: u32, groups: u64, schedules: &[bool]) -> Vec<u32> {
        let concerns = |rule: &&Condition| {
            if rule.names.is_empty() {
                return false;
            }
            let who = rule.everyone || rule.sites.contains(&site) || rule.groups & groups != 0;
            who && rule.record.action == action::ALLOW && self.is_on(rule.record.source_rule, schedules)
        };
        let places: BTreeSet<u32> = self
            .rules
            .iter()
            .filter(concerns)
            .flat_map(|rule| &rule.names)
            .copied()
            .collect();
        let matches = |place: &u32| {
            let set = self.name_sets.get((*place as usize).wrapping_sub(1));
            set.is_some_and(|set| set.matches(name))
        };
        let places: Vec<u32> = places.into_iter().filter(matches).collect();
        self.numbers(&places)
    }

    /// Names of the rules that speak of a set, by its number in the packet path.
    #[must_use]
    pub fn rules_of_set(&self, number: u32) -> Vec<String> {
        let speaks = |rule: &&Condition| self.numbers(&rule.names).contains(&number);
        let mut rules: Vec<u32> = self
            .rules
            .iter()
            .filter(speaks)
            .map(|rule| rule.record.source_rule)
            .collect();
        rules.dedup();
        let name = |rule: u32| Some(self.source.rules.get(rule as usize)?.model.name.clone());
        rules.into_iter().filter_map(name).collect()
    }

    /// Hosts that a rule allows by their own address: their next hops are resolved before the first packet needs them.
    #[must_use]
    pub fn named_hosts(&self) -> BTreeSet<Ipv4Addr> {
        let allowed = self
            .rules
            .iter()
            .filter(|rule| rule.record.action == action::ALLOW)
            // Elsewhere the destination is an address in a site.
            .filter(|rule| rule.directions & TO_A_SERVER != 0);
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
/// Names that are unknown or two things at once, and rules beyond [`RULES_MAX`], with their lines.
pub fn compile(source: RuleSetFile, directory: &dyn Directory) -> Result<Compiled, Diagnostics> {
    compile_as(Standing::New, source, directory).map(|(compiled, _)| compiled)
}

/// Compiles a rule set that has been in force. What would be a fault of a new one, but has a meaning, keeps it and is answered
/// beside: a configuration that changed must not leave the gateway without rules.
///
/// # Errors
/// What has no meaning, as of [`compile`].
pub fn compile_kept(
    source: RuleSetFile,
    directory: &dyn Directory,
) -> Result<(Compiled, Diagnostics), Diagnostics> {
    compile_as(Standing::Kept, source, directory)
}

/// Whether a rule set has been in force.
enum Standing {
    New,
    Kept,
}

fn compile_as(
    standing: Standing,
    source: RuleSetFile,
    directory: &dyn Directory,
) -> Result<(Compiled, Diagnostics), Diagnostics> {
    let mut checker = Checker::new(&source.file, &source.text);
    let mut tolerated = Checker::new(&source.file, &source.text);
    let groups_checker = match standing {
        Standing::New => &mut checker,
        Standing::Kept => &mut tolerated,
    };
    resolve::site_groups(&source, directory, groups_checker);
    let tolerated = tolerated.into_faults();
    let mut resolver = Resolver::new(&source, directory, &mut checker);
    let schedules = resolver.schedules();
    let mut rules = Vec::new();
    let mut schedule_of = Vec::new();
    for (index, rule) in source.rules.iter().enumerate() {
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let (subject, called) = (resolver.subject(rule), resolver.called(rule));
        let from = resolver.source(rule);
        let (to, by_name) = resolver.destination(rule);
        schedule_of.push(resolver.schedule(rule));
        for term in resolver.terms(rule) {
            rules.push(Condition {
                names: by_name.clone(),
                ..condition(&rule.model, number, (&subject, &called), (&from, &to), term)
            });
        }
        if rules.len() > RULES_MAX as usize {
            resolver.too_many(rule);
            break;
        }
    }
    let name_sets = resolver.into_name_sets();
    let clean = checker.finish(());
    clean.map(|()| {
        let compiled = Compiled {
            rules,
            group_bitmaps: directory.group_bitmaps(),
            name_numbers: (1..).take(name_sets.len()).collect(),
            name_sets,
            schedules,
            schedule_of,
            source,
        };
        (compiled, tolerated)
    })
}

/// Directions whose destination is behind a next hop.
const TO_A_SERVER: u8 = (1 << direction::SITE_TO_CENTER) | (1 << direction::SITE_TO_INTERNET);

type Ranges = Vec<(u32, u32)>;

fn condition(
    model: &RuleModel,
    source_rule: u32,
    (subject, called): (&Subject, &Subject),
    (source, destination): (&Ranges, &Ranges),
    term: Term,
) -> Condition {
    Condition {
        everyone: subject.everyone,
        sites: subject.sites.clone(),
        groups: subject.groups,
        to_everyone: called.everyone,
        to_sites: called.sites.clone(),
        to_groups: called.groups,
        directions: directions(model),
        source: source.clone(),
        destination: destination.clone(),
        names: Vec::new(),
        protocols: term.protocols,
        source_ports: term.source_ports,
        destination_ports: term.destination_ports,
        record: Record {
            source_rule,
            action: match model.action {
                Action::Allow => action::ALLOW,
                Action::Deny => action::DENY,
                Action::Reject => action::REJECT,
            },
            flags: if model.log { flag::LOG } else { 0 },
            pad: [0; 2],
        },
    }
}

/// Bit of each direction; a rule that names none is about sites that call the center.
fn directions(model: &RuleModel) -> u8 {
    let bit = |direction: &Direction| 1 << direction.number();
    match model.direction.is_any() {
        true => 1 << direction::SITE_TO_CENTER,
        false => model.direction.0.iter().map(bit).fold(0, |all, bit| all | bit),
    }
}
