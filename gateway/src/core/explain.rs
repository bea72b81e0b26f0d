//! Why a rule decides on a flow: the answer of the packet path's own tables, and for each rule before the first condition
//! that does not hold, read from the rules one by one. The two are independent of each other, and have to agree.
use std::net::Ipv4Addr;

use gateway_common::abi::event::RULE_DEFAULT;
use gateway_common::abi::names::OpenAddress;
use gateway_common::abi::rule::action;
use gateway_common::path::rules::Tuple;
use serde::{Deserialize, Serialize};

use super::classifier::Condition;
use super::directions::Directions;
use super::names::{Full, Openings};
use super::policy::Compiled;
use crate::config::{Direction, IcmpType, Protocol, host_name_of};

/// Source port of a query that names none: the first of the ports that clients take (RFC 6335 section 6).
const SOURCE_PORT: u16 = 49_152;

/// A flow that somebody would open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Name of the site that opens it, or that the center calls.
    pub site: String,
    /// Address of who opens it, as its own side knows it.
    pub from: Ipv4Addr,
    /// Address of who is called, as its own side knows it.
    pub to: Ipv4Addr,
    /// Direction; left out: what the addresses say, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Name of the site that is called by another site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_site: Option<String>,
    /// Protocol.
    #[serde(alias = "proto")]
    pub protocol: Protocol,
    /// Destination port, of TCP and UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A name that has just led the site to the address; left out: what the gateway has opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Source port; left out: 49152.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `allow`, `deny` or `reject`.
    pub verdict: String,
    /// Which way the flow goes.
    pub direction: Direction,
    /// The rule that decides; `None`: no rule matches, which is a deny.
    pub rule: Option<RuleName>,
    /// The name that opened the address to this rule, where it is one of names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_by: Option<String>,
    /// The rules before it, and why each did not match.
    pub earlier: Vec<Passed>,
}

/// A rule of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleName {
    /// Its number, from 1.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
}

/// A rule that did not match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// The rule.
    #[serde(flatten)]
    pub rule: RuleName,
    /// The condition that does not hold.
    pub because: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// Only some protocols have ports.
    #[error("protocol {0} needs a destination port: --port 443")]
    NoPort(Protocol),
    /// The others have none.
    #[error("protocol {0} has no ports")]
    HasNoPorts(Protocol),
    /// The tables could not be built.
    #[error(transparent)]
    TooLarge(#[from] super::classifier::TooLarge),
    /// Nobody has that name.
    #[error("no site is named \"{0}\"")]
    NoSite(String),
    /// A flow from site to site without the other site.
    #[error(
        "a flow from site to site needs the site that is called: --to-site NAME, with its own address as --to"
    )]
    NoSiteCalled,
    /// The site and the center have the same addresses.
    #[error(
        "{from} may be of the center or of site \"{site}\": say who calls, by --direction {from_site} or --direction center-to-site"
    )]
    NoDirection {
        /// Address of who opens the flow.
        from: Ipv4Addr,
        /// Name of the site.
        site: String,
        /// The direction if that is the site.
        from_site: Direction,
    },
    /// A site is called where none is.
    #[error("direction {0} calls no second site: leave --to-site out")]
    SiteCalled(Direction),
    /// Nobody asks for such a name.
    #[error("\"{0}\" is no host name")]
    NoName(String),
    /// The name would not be opened.
    #[error("the address would not be opened for {name}: {reason}")]
    NotOpened {
        /// The name.
        name: String,
        /// Why.
        reason: Full,
    },
    /// The two ways to an answer disagree.
    #[error(
        "the packet path decides by {0}, reading the rules one by one by {1}: this is a fault of the program, report it with the rule set"
    )]
    Disagreement(String, String),
}

/// A site as rules see it: number and groups.
pub type Subject = (u32, u64);

/// What the destination is open for by name.
#[derive(Default)]
struct Open {
    told: OpenAddress,
    now_s: u32,
    /// The name that the query supposes, as names are compared.
    supposed: Option<String>,
}

/// Explains flows under one rule set.
pub struct Explainer<'a> {
    compiled: &'a Compiled,
    directions: Directions,
    schedules: Vec<bool>,
    generation: super::classifier::Generation,
    lines: Vec<usize>,
    /// What is open by name, and the second of the coarse clock.
    open: Option<(&'a Openings, u32)>,
    tells_reasons: bool,
}

impl<'a> Explainer<'a> {
    /// For a rule set at a time.
    ///
    /// # Errors
    /// Its tables are too large.
    pub fn new(compiled: &'a Compiled, directions: Directions, unix_s: u64) -> Result<Self, ExplainError> {
        let schedules = compiled.schedules_at(unix_s);
        let generation = compiled.generation(1, 0, &schedules)?;
        Ok(Self {
            compiled,
            directions,
            schedules,
            generation,
            lines: lines(compiled),
            open: None,
            tells_reasons: true,
        })
    }

    /// Leaves [`Explanation::earlier`] empty.
    #[must_use]
    pub fn without_reasons(self) -> Self {
        Self {
            tells_reasons: false,
            ..self
        }
    }

    /// With what is open by name at `now_s` of the coarse clock.
    #[must_use]
    pub fn with_openings(self, openings: &'a Openings, now_s: u32) -> Self {
        Self {
            open: Some((openings, now_s)),
            ..self
        }
    }

    /// Explains a flow. `site` finds a site by its name.
    ///
    /// # Errors
    /// The query is no flow.
    pub fn explain(
        &self,
        query: &Query,
        site: impl Fn(&str) -> Option<Subject>,
    ) -> Result<Explanation, ExplainError> {
        let find = |name: &String| site(name).ok_or_else(|| ExplainError::NoSite(name.clone()));
        let opener = find(&query.site)?;
        let called = query.to_site.as_ref().map(find).transpose()?;
        let direction = self.direction(query)?;
        let tuple = tuple(query, opener, called.unwrap_or_default(), direction)?;
        let open = self.open_for(query, opener)?;
        let judgement = self.generation.judge_by_name(&tuple, &open.told, open.now_s);
        let by_tables = judgement.map_or(RULE_DEFAULT, |judgement| judgement.rule);
        let mut earlier = Vec::new();
        let mut found = None;
        let mut rest = self.compiled.rules.as_slice();
        for number in 0..self.compiled.source.rules.len() {
            let own = rest
                .iter()
                .take_while(|rule| rule.record.source_rule as usize == number)
                .count();
            let (conditions, others) = rest.split_at(own);
            rest = others;
            match self.obstacle(number, conditions, &tuple, (query, &open)) {
                Some(because) if self.tells_reasons => earlier.push(Passed {
                    rule: self.name(number),
                    because,
                }),
                Some(_) => {}
                None => {
                    found = Some(number);
                    break;
                }
            }
        }
        let by_reading = found.map_or(RULE_DEFAULT, |number| {
            u32::try_from(number).unwrap_or(RULE_DEFAULT)
        });
        if by_tables != by_reading {
            let word = |rule: u32| match rule {
                RULE_DEFAULT => "no rule".to_owned(),
                rule => format!("rule {}", rule + 1),
            };
            return Err(ExplainError::Disagreement(word(by_tables), word(by_reading)));
        }
        let verdict = match judgement.map(|judgement| judgement.action) {
            Some(action::ALLOW) => "allow",
            Some(action::REJECT) => "reject",
            Some(_) | None => "deny",
        };
        Ok(Explanation {
            verdict: verdict.to_owned(),
            opened_by: found.and_then(|number| self.opened_by(number, query, &open)),
            direction,
            rule: found.map(|number| self.name(number)),
            earlier,
        })
    }

    /// What the destination is open for, as the packet path would have it: where the query supposes a name, what the DNS proxy
    /// opens when the site asks for it.
    fn open_for(&self, query: &Query, (site, groups): Subject) -> Result<Open, ExplainError> {
        let Some(word) = &query.name else {
            let open = |(openings, now_s): (&Openings, u32)| Open {
                told: openings.at(query.to),
                now_s,
                supposed: None,
            };
            return Ok(self.open.map_or_else(Open::default, open));
        };
        let name = host_name_of(word).ok_or_else(|| ExplainError::NoName(word.clone()))?;
        let sets = self.compiled.sets_for(&name, site, groups, &self.schedules);
        let mut openings = Openings::default();
        let opened = openings.open(site, &sets, &name, &[query.to], 1);
        if let Err(reason) = opened {
            return Err(ExplainError::NotOpened { name, reason });
        }
        Ok(Open {
            told: openings.at(query.to),
            now_s: 0,
            supposed: Some(name),
        })
    }

    /// Whether the destination is open for a set that the condition names.
    fn is_open(&self, condition: &Condition, open: &Open) -> bool {
        let number = |place: &u32| {
            let place = (*place as usize).wrapping_sub(1);
            self.compiled.name_numbers.get(place).copied().unwrap_or_default()
        };
        condition
            .names
            .iter()
            .any(|place| open.told.is_open_for(number(place), open.now_s))
    }

    /// The name by which the destination is open to a rule of names.
    fn opened_by(&self, number: usize, query: &Query, open: &Open) -> Option<String> {
        let of_rule = |rule: &&Condition| rule.record.source_rule as usize == number;
        let condition = self.compiled.rules.iter().find(of_rule)?;
        if within(&condition.destination, u32::from(query.to)) || !self.is_open(condition, open) {
            return None;
        }
        if open.supposed.is_some() {
            return open.supposed.clone();
        }
        let (openings, now_s) = self.open?;
        let sets: Vec<u32> = condition
            .names
            .iter()
            .filter_map(|place| self.compiled.name_numbers.get((*place as usize).wrapping_sub(1)))
            .copied()
            .collect();
        let mut all = openings.iter();
        let found = all
            .find(|(address, open)| *address == query.to && sets.contains(&open.set) && open.until_s > now_s);
        found.map(|(_, open)| open.name.clone())
    }

    /// The direction that the query says, or else its addresses do.
    fn direction(&self, query: &Query) -> Result<Direction, ExplainError> {
        let direction = match query.direction {
            Some(direction) => direction,
            None => self.direction_of_addresses(query)?,
        };
        match (direction, &query.to_site) {
            (Direction::SiteToSite, None) => Err(ExplainError::NoSiteCalled),
            (Direction::SiteToSite, Some(_)) | (_, None) => Ok(direction),
            (_, Some(_)) => Err(ExplainError::SiteCalled(direction)),
        }
    }

    /// Of what a site sends, the packet path looks at the destination alone. The center calls a site only at an address that
    /// the site has; who has an address of both may be either.
    fn direction_of_addresses(&self, query: &Query) -> Result<Direction, ExplainError> {
        if query.to_site.is_some() {
            return Ok(Direction::SiteToSite);
        }
        let is_own = |address: Ipv4Addr| self.directions.is_of_site(&query.site, address);
        let from_site = self.directions.from_site(query.to);
        match (
            self.directions.is_center(query.from) && is_own(query.to),
            is_own(query.from),
        ) {
            (false, _) => Ok(from_site),
            (true, false) => Ok(Direction::CenterToSite),
            (true, true) => Err(ExplainError::NoDirection {
                from: query.from,
                site: query.site.clone(),
                from_site,
            }),
        }
    }

    fn name(&self, number: usize) -> RuleName {
        let rule = self.compiled.source.rules.get(number);
        RuleName {
            number: number + 1,
            name: rule.map(|rule| rule.model.name.clone()).unwrap_or_default(),
            line: self.lines.get(number).copied().unwrap_or_default(),
        }
    }

    /// The first condition of a rule that does not hold; `None`: all hold.
    fn obstacle(
        &self,
        number: usize,
        conditions: &[Condition],
        tuple: &Tuple,
        (query, open): (&Query, &Open),
    ) -> Option<String> {
        let model = &self.compiled.source.rules.get(number)?.model;
        if !self
            .compiled
            .is_on(u32::try_from(number).unwrap_or(RULE_DEFAULT), &self.schedules)
        {
            let schedule = model.schedule.as_deref().unwrap_or_default();
            return Some(format!("schedule \"{schedule}\" is not in force now"));
        }
        let first = conditions.first()?;
        if first.directions >> tuple.direction & 1 == 0 {
            let own = match model.direction.is_any() {
                true => Direction::default().to_string(),
                false => list(&model.direction.0),
            };
            return Some(format!("it is about {own}"));
        }
        if !(first.everyone || first.sites.contains(&tuple.site) || first.groups & tuple.groups != 0) {
            let who = words(&model.sites.0, &model.groups.0);
            return Some(format!("site \"{}\" is not among {who}", query.site));
        }
        if !(first.to_everyone
            || first.to_sites.contains(&tuple.to_site)
            || first.to_groups & tuple.to_groups != 0)
        {
            let who = words(&model.to_sites.0, &model.to_groups.0);
            let called = query.to_site.as_deref().unwrap_or_default();
            return Some(format!("site \"{called}\", which is called, is not among {who}"));
        }
        if !within(&first.source, tuple.source) {
            return Some(format!(
                "source {} is not in {}",
                query.from,
                list(&model.source.0)
            ));
        }
        if !first.names.is_empty()
            && !within(&first.destination, tuple.destination)
            && !self.is_open(first, open)
        {
            return Some(format!(
                "{} is open for none of the names {}",
                query.to,
                self.names_of(first)
            ));
        }
        if first.names.is_empty() && !within(&first.destination, tuple.destination) {
            return Some(format!(
                "destination {} is not in {}",
                query.to,
                list(&model.destination.0)
            ));
        }
        if conditions.iter().any(|condition| carries(condition, tuple)) {
            return None;
        }
        Some(self.service_obstacle(number, conditions, tuple, query))
    }

    /// The names of a condition, as the file has them.
    fn names_of(&self, condition: &Condition) -> String {
        let set = |place: &u32| self.compiled.name_sets.get((*place as usize).wrapping_sub(1));
        let sets = condition.names.iter().filter_map(set);
        let patterns: Vec<_> = sets.flat_map(|set| &set.patterns).collect();
        list(&patterns)
    }

    fn service_obstacle(
        &self,
        number: usize,
        conditions: &[Condition],
        tuple: &Tuple,
        query: &Query,
    ) -> String {
        let Some(rule) = self.compiled.source.rules.get(number) else {
            return String::new();
        };
        let model = &rule.model;
        if !model.services.is_any() {
            return format!(
                "{} is none of the services {}",
                flow_words(query),
                list(&model.services.0)
            );
        }
        let Some(condition) = conditions.first() else {
            return String::new();
        };
        if !has_protocol(condition, tuple) {
            return format!("protocol {} is not {}", query.protocol, list(&model.protocol.0));
        }
        if !within(&condition.destination_ports, tuple.destination_port) {
            return match model.icmp_types.is_any() {
                true => format!(
                    "port {} is not in {}",
                    tuple.destination_port,
                    list(&model.destination_ports.0)
                ),
                false => format!("an echo request is not among {}", list(&model.icmp_types.0)),
            };
        }
        format!(
            "source port {} is not in {}",
            tuple.source_port,
            list(&model.source_ports.0)
        )
    }
}

/// Line of each rule, found in one pass over the text.
fn lines(compiled: &Compiled) -> Vec<usize> {
    let (mut line, mut at) = (1, 0);
    let text = compiled.source.text.as_bytes();
    let mut lines = Vec::new();
    for rule in &compiled.source.rules {
        let passed = text.get(at..rule.span.start).unwrap_or_default();
        line += passed.iter().filter(|byte| **byte == b'\n').count();
        at = at.max(rule.span.start);
        lines.push(line);
    }
    lines
}

fn tuple(
    query: &Query,
    (site, groups): Subject,
    (to_site, to_groups): Subject,
    direction: Direction,
) -> Result<Tuple, ExplainError> {
    let has_ports = query.protocol.has_ports();
    let port = match (has_ports, query.port) {
        (true, Some(port)) => port,
        (true, None) => return Err(ExplainError::NoPort(query.protocol)),
        (false, Some(_)) => return Err(ExplainError::HasNoPorts(query.protocol)),
        (false, None) if query.protocol == Protocol::ICMP => u16::from(IcmpType::ECHO_REQUEST) << 8,
        (false, None) => 0,
    };
    Ok(Tuple {
        groups,
        site,
        source: query.from.into(),
        destination: query.to.into(),
        source_port: if has_ports {
            query.source_port.unwrap_or(SOURCE_PORT)
        } else {
            0
        },
        destination_port: port,
        protocol: query.protocol.0,
        direction: direction.number(),
        to_site,
        to_groups,
    })
}

fn within<T: PartialOrd>(ranges: &[(T, T)], value: T) -> bool {
    ranges.iter().any(|(low, high)| *low <= value && value <= *high)
}

fn has_protocol(condition: &Condition, tuple: &Tuple) -> bool {
    condition.protocols.is_empty() || condition.protocols.contains(&tuple.protocol)
}

/// Whether protocol and ports hold.
fn carries(condition: &Condition, tuple: &Tuple) -> bool {
    has_protocol(condition, tuple)
        && within(&condition.source_ports, tuple.source_port)
        && within(&condition.destination_ports, tuple.destination_port)
}

fn flow_words(query: &Query) -> String {
    match query.port {
        Some(port) => format!("{} port {port}", query.protocol),
        None => query.protocol.to_string(),
    }
}

fn list<T: ToString>(words: &[T]) -> String {
    words.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn words(sites: &[String], groups: &[String]) -> String {
    let groups = groups.iter().map(|group| format!("group {group}"));
    sites.iter().cloned().chain(groups).collect::<Vec<_>>().join(", ")
}
