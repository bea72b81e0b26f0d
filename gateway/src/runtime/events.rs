//! Log lines of the packet path, as many as a reader can follow.
use std::net::Ipv4Addr;

use gateway_common::abi::event::{Event, RULE_DEFAULT, kind};

use crate::core::policy::Compiled;
use crate::core::sites::Sites;

/// Lines a second; what is more is counted.
const LINES_PER_S: usize = 20;

/// Logs the events of one second.
pub(super) fn log(events: &[Event], sites: &Sites, rules: Option<(u32, &Compiled)>) {
    for event in events.iter().take(LINES_PER_S) {
        log_one(event, sites, rules);
    }
    let more = events.len().saturating_sub(LINES_PER_S);
    if more > 0 {
        tracing::info!(target: "gateway::packets", more, "further packet events in this second");
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
        unknown => tracing::warn!(target: "gateway::packets", unknown, "event of an unknown kind"),
    }
}

/// Name of a rule; of a generation that is not in force any more only its number is known.
pub(super) fn rule_name(generation: u32, rule: u32, rules: Option<(u32, &Compiled)>) -> String {
    if rule == RULE_DEFAULT {
        return "(default)".to_owned();
    }
    let found = rules.filter(|(active, _)| *active == generation);
    let found = found.and_then(|(_, compiled)| compiled.source.rules.get(rule as usize));
    found.map_or_else(
        || format!("#{} of generation {generation}", rule + 1),
        |rule| rule.model.name.clone(),
    )
}

fn endpoint(address: [u8; 4], port: [u8; 2]) -> String {
    format!("{}:{}", Ipv4Addr::from(address), u16::from_be_bytes(port))
}
