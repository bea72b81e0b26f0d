//! Log lines of the packet path, as many as a reader can follow.
use std::collections::HashMap;
use std::net::Ipv4Addr;

use gateway_common::abi::event::{Event, RULE_DEFAULT, RULE_PUBLICATION, kind};

use crate::core::policy::Compiled;
use crate::core::sites::Sites;

/// Lines a second; what is more is counted.
const LINES_PER_S: usize = 20;
/// Of them, those of one site.
const SITE_LINES_PER_S: usize = 10;
/// Lines a second with the first one of each site, which goes beyond [`LINES_PER_S`]: whoever was denied is named, however busy
/// others are.
const LINES_MAX_PER_S: usize = 100;

/// Logs packet events, as many a second as a reader can follow.
#[derive(Debug, Default)]
pub(super) struct Lines {
    logged: usize,
    suppressed: usize,
    of_sites: HashMap<u32, usize>,
}

impl Lines {
    /// Logs an event, or counts it if this second had its lines.
    pub(super) fn log(&mut self, event: &Event, sites: &Sites, rules: Option<(u32, &Compiled)>) {
        if self.admits(event.site) {
            log_one(event, sites, rules);
        }
    }

    /// Whether a line of this site goes out; counts it either way.
    fn admits(&mut self, site: u32) -> bool {
        let of_site = self.of_sites.entry(site).or_default();
        let most = match *of_site {
            0 => LINES_MAX_PER_S,
            1..SITE_LINES_PER_S => LINES_PER_S,
            _ => 0,
        };
        let admitted = self.logged < most;
        if admitted {
            *of_site += 1;
            self.logged += 1;
        } else {
            self.suppressed += 1;
        }
        admitted
    }

    /// Begins the next second, and tells how many events the last one kept to itself.
    pub(super) fn next_second(&mut self) {
        if self.suppressed > 0 {
            tracing::info!(target: "gateway::packets", suppressed = self.suppressed, "further packet events");
        }
        *self = Self::default();
    }
}

fn log_one(event: &Event, sites: &Sites, rules: Option<(u32, &Compiled)>) {
    let site = sites.get(event.site).map_or("?", |entry| &entry.name);
    let rule = rule_name(event.generation, event.rule, rules);
    let source = endpoint(event.source, event.source_port);
    let destination = endpoint(event.destination, event.destination_port);
    let protocol = event.protocol;
    match event.kind {
        kind::DENIED => {
            tracing::info!(target: "gateway::packets", site, rule, source, destination, protocol, "denied");
        }
        kind::FLOW_CREATED => {
            tracing::info!(target: "gateway::packets", site, rule, source, destination, protocol, "allowed");
        }
        kind::NO_SA => {
            tracing::info!(target: "gateway::packets", site, destination, "site has no SA for a packet to it")
        }
        kind::NEXT_HOP_MISSING => {
            tracing::info!(target: "gateway::packets", destination, "next hop to the center is not resolved");
        }
        kind::PATH_MTU => {
            let mtu = event.generation;
            tracing::info!(target: "gateway::packets", site, mtu, "a router on the path to a site carries less");
        }
        unknown => tracing::warn!(target: "gateway::packets", unknown, "event of an unknown kind"),
    }
}

/// Name of a rule; of a generation that is not in force any more only its number is known.
pub(super) fn rule_name(generation: u32, rule: u32, rules: Option<(u32, &Compiled)>) -> String {
    rule_name_of(generation, rule, |generation, rule| {
        let (_, compiled) = rules.filter(|(active, _)| *active == generation)?;
        Some(compiled.source.rules.get(rule)?.model.name.clone())
    })
}

/// The same, of whoever finds the names.
pub(super) fn rule_name_of(
    generation: u32,
    rule: u32,
    find: impl FnOnce(u32, usize) -> Option<String>,
) -> String {
    if rule == RULE_PUBLICATION {
        return "from of its [[publish]]".to_owned();
    }
    if rule == RULE_DEFAULT {
        return "(default)".to_owned();
    }
    let found = find(generation, rule as usize);
    found.unwrap_or_else(|| format!("#{} of generation {generation}", rule + 1))
}

fn endpoint(address: [u8; 4], port: [u8; 2]) -> String {
    format!("{}:{}", Ipv4Addr::from(address), u16::from_be_bytes(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a site that was denied twenty times a second kept all others out of the log.
    #[test]
    fn sites_that_scan_leave_the_first_line_of_each_other_to_it() {
        let mut lines = Lines::default();
        let mut admitted = |site, events| (0..events).filter(|_| lines.admits(site)).count();
        for site in 1..=2 {
            assert_eq!(admitted(site, 1_000), SITE_LINES_PER_S, "site {site}");
        }
        for site in 3..=82 {
            assert_eq!(admitted(site, 2), 1, "site {site}");
        }
        assert_eq!(admitted(83, 1), 0, "a reader follows no more");
        assert_eq!(lines.suppressed, 2 * (1_000 - SITE_LINES_PER_S) + 80 + 1);
        lines.next_second();
        assert!(lines.admits(83) && lines.of_sites.len() == 1);
    }
}
