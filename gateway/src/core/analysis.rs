//! Rules that another rule makes meaningless, or that contradict each other.
//!
//! Each pair of rules is compared; what only several rules together cover is not found.
use gateway_common::abi::rule::action;
use serde::Serialize;

use super::classifier::Condition;
use super::policy::Compiled;

/// What is said of a pair of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The later one never decides, and would decide otherwise.
    Shadowed,
    /// The later one never decides, and would decide the same.
    Redundant,
    /// They overlap in part and decide differently: which comes first matters.
    Conflicting,
}

/// A pair of rules that deserves a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// Name and line of the earlier rule.
    pub earlier: (String, usize),
    /// Name and line of the later rule.
    pub later: (String, usize),
}

impl std::fmt::Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ((earlier, first), (later, second)) = (&self.earlier, &self.later);
        match self.kind {
            Kind::Shadowed => write!(
                formatter,
                "line {second}: rule \"{later}\" is shadowed: \"{earlier}\" in line {first} decides otherwise on everything it is about"
            ),
            Kind::Redundant => write!(
                formatter,
                "line {second}: rule \"{later}\" is redundant: \"{earlier}\" in line {first} decides the same on everything it is about"
            ),
            Kind::Conflicting => write!(
                formatter,
                "line {second}: rule \"{later}\" conflicts with \"{earlier}\" in line {first}: they overlap and decide differently, the earlier wins"
            ),
        }
    }
}

/// Everything worth a look, `max` findings at most, and how many there are in all.
#[must_use]
pub fn analyse(compiled: &Compiled, max: usize) -> (Vec<Finding>, usize) {
    let rules: Vec<&[Condition]> = compiled
        .rules
        .chunk_by(|a, b| a.record.source_rule == b.record.source_rule)
        .collect();
    let extents: Vec<Extent> = rules.iter().map(|rule| Extent::new(rule)).collect();
    let (mut findings, mut total) = (Vec::new(), 0);
    for (place, (later, extent)) in rules.iter().zip(&extents).enumerate() {
        for (earlier, other) in rules.iter().zip(&extents).take(place) {
            if !other.meets(extent) {
                continue;
            }
            let in_time = |kind: &Kind| matters_in_time(compiled, *kind, earlier, later);
            let Some(kind) = relation(earlier, later).filter(in_time) else {
                continue;
            };
            total += 1;
            if findings.len() < max {
                findings.push(Finding {
                    kind,
                    earlier: name(compiled, earlier),
                    later: name(compiled, later),
                });
            }
            // It never decides: what else it overlaps says nothing.
            if kind != Kind::Conflicting {
                break;
            }
        }
    }
    (findings, total)
}

/// Name and line of the rule that these conditions come from.
fn name(compiled: &Compiled, rule: &[Condition]) -> (String, usize) {
    let number = rule
        .first()
        .map_or(0, |condition| condition.record.source_rule as usize);
    let rule = compiled.source.rules.get(number);
    rule.map(|rule| (rule.model.name.clone(), compiled.source.line(&rule.span)))
        .unwrap_or_default()
}

/// Whether what two rules are to each other is so at the times at which they are in force: one that is in force at times only keeps
/// none that is always from deciding; a conflict takes a time at which both are.
fn matters_in_time(compiled: &Compiled, kind: Kind, earlier: &[Condition], later: &[Condition]) -> bool {
    let schedule = |rule: &[Condition]| {
        let number = rule.first()?.record.source_rule as usize;
        compiled.schedule_of.get(number).copied().flatten()
    };
    let (earlier, later) = (schedule(earlier), schedule(later));
    match kind {
        Kind::Shadowed | Kind::Redundant => earlier.is_none() || earlier == later,
        Kind::Conflicting => {
            let times = |place: Option<usize>| compiled.schedules.get(place?);
            match (times(earlier), times(later)) {
                (Some(earlier), Some(later)) => earlier.may_meet(later),
                (_, None) | (None, _) => true,
            }
        }
    }
}

fn relation(earlier: &[Condition], later: &[Condition]) -> Option<Kind> {
    let action = |rule: &[Condition]| rule.first().map(|condition| condition.record.action);
    let same = action(earlier) == action(later);
    // Between two refusals an overlap is none: only whether the sender is told differs.
    let either_allows = [earlier, later].map(action).contains(&Some(action::ALLOW));
    let covers_all = |outer: &[Condition], inner: &[Condition]| {
        inner
            .iter()
            .all(|inner| outer.iter().any(|outer| covers(outer, inner)))
    };
    if covers_all(earlier, later) {
        return Some(if same { Kind::Redundant } else { Kind::Shadowed });
    }
    let overlap = || earlier.iter().any(|a| later.iter().any(|b| overlaps(a, b)));
    // An exception in front of a general rule is how rule sets are written; only a partial overlap is a conflict.
    (!same && either_allows && overlap() && !covers_all(later, earlier)).then_some(Kind::Conflicting)
}

/// Whether all that `inner` is about is what `outer` is about.
fn covers(outer: &Condition, inner: &Condition) -> bool {
    let protocols = outer.protocols.is_empty()
        || (!inner.protocols.is_empty()
            && inner
                .protocols
                .iter()
                .all(|protocol| outer.protocols.contains(protocol)));
    let who = outer.everyone
        || (!inner.everyone
            && inner.groups & !outer.groups == 0
            && inner.sites.iter().all(|site| outer.sites.contains(site)));
    let called = outer.to_everyone
        || (!inner.to_everyone
            && inner.to_groups & !outer.to_groups == 0
            && inner.to_sites.iter().all(|site| outer.to_sites.contains(site)));
    protocols
        && who
        && called
        && inner.directions & !outer.directions == 0
        && contains_destination(outer, inner)
        && contains(&outer.source, &inner.source)
        && contains(&outer.destination_ports, &inner.destination_ports)
        && contains(&outer.source_ports, &inner.source_ports)
}

/// Whether some flow is what both are about, as far as can be told without knowing which site is in which group.
fn overlaps(a: &Condition, b: &Condition) -> bool {
    let protocols = a.protocols.is_empty()
        || b.protocols.is_empty()
        || a.protocols.iter().any(|protocol| b.protocols.contains(protocol));
    let who = a.everyone
        || b.everyone
        || a.groups & b.groups != 0
        || a.sites.iter().any(|site| b.sites.contains(site));
    let called = a.to_everyone
        || b.to_everyone
        || a.to_groups & b.to_groups != 0
        || a.to_sites.iter().any(|site| b.to_sites.contains(site));
    protocols
        && who
        && called
        && a.directions & b.directions != 0
        && touches_destination(a, b)
        && touches(&a.source, &b.source)
        && touches(&a.destination_ports, &b.destination_ports)
        && touches(&a.source_ports, &b.source_ports)
}

/// Whether all destinations of `inner` are those of `outer`. What a name leads to is not known beforehand: only the same
/// set of names covers it, or everything does.
fn contains_destination(outer: &Condition, inner: &Condition) -> bool {
    let has_set = |set: &u32| outer.names.contains(set);
    contains(&outer.destination, &inner.destination)
        && (inner.names.iter().all(has_set) || contains(&outer.destination, &[EVERYWHERE]))
}

/// Whether some destination is that of both. Names are of the Internet: what they lead to is in no list of addresses.
fn touches_destination(a: &Condition, b: &Condition) -> bool {
    let everything = |condition: &Condition| contains(&condition.destination, &[EVERYWHERE]);
    touches(&a.destination, &b.destination)
        || a.names.iter().any(|set| b.names.contains(set))
        || (!a.names.is_empty() && everything(b))
        || (!b.names.is_empty() && everything(a))
}

const EVERYWHERE: (u32, u32) = (0, u32::MAX);

/// Each inner range lies in one outer range. Ranges of one rule that only together cover another are rare, and missing
/// one is a finding less, not a wrong one.
fn contains<T: PartialOrd>(outer: &[(T, T)], inner: &[(T, T)]) -> bool {
    inner
        .iter()
        .all(|(low, high)| outer.iter().any(|(first, last)| first <= low && high <= last))
}

fn touches<T: PartialOrd>(a: &[(T, T)], b: &[(T, T)]) -> bool {
    a.iter()
        .any(|(low, high)| b.iter().any(|(first, last)| first <= high && low <= last))
}

/// The hull of a rule's addresses and ports, to tell most pairs apart quickly.
struct Extent {
    source: (u32, u32),
    destination: (u32, u32),
    ports: (u16, u16),
}

impl Extent {
    fn new(rule: &[Condition]) -> Self {
        Self {
            source: hull(rule.iter().flat_map(|condition| &condition.source)),
            destination: match rule.iter().all(|condition| condition.names.is_empty()) {
                true => hull(rule.iter().flat_map(|condition| &condition.destination)),
                false => EVERYWHERE,
            },
            ports: hull(rule.iter().flat_map(|condition| &condition.destination_ports)),
        }
    }

    fn meets(&self, other: &Self) -> bool {
        let meet = |a: (u32, u32), b: (u32, u32)| a.0 <= b.1 && b.0 <= a.1;
        let wide = |(low, high): (u16, u16)| (u32::from(low), u32::from(high));
        meet(self.destination, other.destination)
            && meet(wide(self.ports), wide(other.ports))
            && meet(self.source, other.source)
    }
}

fn hull<'a, T: Ord + Copy + Default + 'a>(ranges: impl Iterator<Item = &'a (T, T)> + Clone) -> (T, T) {
    let low = ranges.clone().map(|range| range.0).min().unwrap_or_default();
    let high = ranges.map(|range| range.1).max().unwrap_or_default();
    (low, high)
}
