//! Rules that allow what no packet can do: their addresses are in no tunnel, or behind no interface.
use gateway_common::abi::rule::action;
use serde::Serialize;

use super::classifier::Condition;
use super::directions::Directions;
use super::policy::Compiled;
use crate::config::{Config, Direction, Prefix};

/// A rule, or a part of it, that never decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Idle {
    /// Name of the rule.
    pub rule: String,
    /// Its line.
    pub line: usize,
    /// Why.
    pub because: String,
}

impl std::fmt::Display for Idle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "line {}: rule \"{}\" allows what never happens: {}",
            self.line, self.rule, self.because
        )
    }
}

/// What rules allow in vain under a configuration.
#[must_use]
pub fn idle(compiled: &Compiled, config: &Config) -> Vec<Idle> {
    let mut found: Vec<Idle> = Vec::new();
    for condition in &compiled.rules {
        let Some(rule) = compiled.source.rules.get(condition.record.source_rule as usize) else {
            continue;
        };
        let line = compiled.source.line(&rule.span);
        let told = found.last().is_some_and(|last| last.line == line);
        if condition.record.action != action::ALLOW || told {
            continue;
        }
        if let Some(because) = reason(condition, config) {
            found.push(Idle {
                rule: rule.model.name.clone(),
                line,
                because,
            });
        }
    }
    found
}

/// The first direction of a rule in which some of its addresses lead nowhere.
fn reason(rule: &Condition, config: &Config) -> Option<String> {
    let has = |direction: Direction| rule.directions >> direction.number() & 1 != 0;
    let center = &config.center.networks;
    if has(Direction::SiteToCenter)
        && let Some(range) = outside_of(&rule.destination, center)
    {
        return Some(format!("destination {range} is not in [center] networks"));
    }
    if !rule.names.is_empty() && config.dns.is_none() {
        return Some("there is no [dns], so that no name is ever opened".to_owned());
    }
    if has(Direction::SiteToInternet) {
        if config.internet.is_empty() {
            return Some("there are no [internet] networks".to_owned());
        }
        if let Some(range) = outside_of(&rule.destination, &config.internet) {
            return Some(format!("destination {range} is not in [internet] networks"));
        }
    }
    if has(Direction::CenterToSite)
        && let Some(range) = outside_of(&rule.source, center)
    {
        return Some(format!("source {range} is not in [center] networks"));
    }
    if has(Direction::SiteToSite)
        && let Some(range) = outside_of(&translated(config), &config.reachable())
    {
        return Some(format!(
            "{range}, which sites are translated to, is in neither [center] nor [internet] networks"
        ));
    }
    None
}

/// What sites are translated to: destination of a call from site to site, and source of what the other site receives.
fn translated(config: &Config) -> Vec<(u32, u32)> {
    let ranges = Directions::new(config).ranges().into_iter();
    let outsides = ranges.filter(|(_, _, direction)| *direction == Direction::SiteToSite);
    outsides
        .map(|(first, last, _)| (first.into(), last.into()))
        .collect()
}

/// A range that touches none of the networks.
fn outside_of(ranges: &[(u32, u32)], networks: &[Prefix]) -> Option<String> {
    let touches = |(low, high): &(u32, u32)| {
        networks.iter().any(|network| {
            let (first, last) = network.bounds();
            u32::from(first) <= *high && *low <= u32::from(last)
        })
    };
    let (low, high) = ranges.iter().find(|range| !touches(range))?;
    let [low, high] = [*low, *high].map(std::net::Ipv4Addr::from);
    Some(match low == high {
        true => low.to_string(),
        false => format!("{low}-{high}"),
    })
}
