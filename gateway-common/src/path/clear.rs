//! From a worker: decrypted packets of sites. Known flows are translated and forwarded, new ones judged by the rules.

use crate::abi::event::{Event, kind};
use crate::abi::flow::{Flow, FlowKey};
use crate::abi::interface::Settings;
use crate::abi::next_hop::NextHop;
use crate::abi::rule::{action, flag};
use crate::abi::sa::LinkHeader;
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::ethernet::{Ethernet, ether_type};
use crate::tables::{FlowEntry, Refused, Tables};

use super::filter::{self, Direction, Progress};
use super::inner::Inner;
use super::rules::{Judgement, Tuple};
use super::{Outcome, Verdict, nat};

/// Forwards a frame of the clear link to the core side, translated.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn clear<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let link: LinkHeader = packet.load(0).ok_or(DropReason::TruncatedLink)?;
    let (site, _) = link.read().ok_or(DropReason::LinkHeaderInvalid)?;
    let inner = Inner::parse(packet, Direction::Out)?;
    if inner.ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    let key = inner.flow_from_site(site);
    let now_s = tables.now_s();
    let settings = tables.settings().ok_or(DropReason::Internal)?;

    let entry = tables.flow(&key);
    let mut stale = false;
    if let Some(entry) = &entry {
        let flow = entry.read();
        if filter::is_alive(&flow, key.protocol, settings, now_s) && !filter::reopens(&flow, &inner) {
            let progress = filter::advance(&flow, &inner, Direction::Out)?;
            let hop = next_hop(tables, &key, flow.generation)?;
            entry.advance(Direction::Out, inner.length(), now_s, progress);
            return forward(packet, &inner, &flow, hop);
        }
        stale = true;
    }
    let flow = admit(tables, &key, &inner, settings, now_s, stale)?;
    let hop = next_hop(tables, &key, flow.generation)?;
    forward(packet, &inner, &flow, hop)
}

/// Translates the source and writes the Ethernet header of the next hop.
#[inline(always)]
fn forward<P: Packet>(packet: &mut P, inner: &Inner, flow: &Flow, hop: &NextHop) -> Outcome {
    inner.translate(packet, Direction::Out, flow.nat_address, flow.nat_port)?;
    let ethernet = Ethernet {
        destination: hop.destination_mac,
        source: hop.source_mac,
        ether_type: ether_type::IPV4,
    };
    packet.store(0, &ethernet).ok_or(DropReason::Internal)?;
    Ok(Verdict::Egress {
        ifindex: hop.ifindex,
        path: Path::ClearForwarded,
    })
}

/// Judges a new flow, maps its source and puts it into the table.
#[inline(always)]
fn admit<T: Tables>(
    tables: &T,
    key: &FlowKey,
    inner: &Inner,
    settings: &Settings,
    now_s: u32,
    stale: bool,
) -> Result<Flow, DropReason> {
    let site = tables.site(key.site).ok_or(DropReason::UnknownSite)?;
    let progress = filter::open(inner)?;
    let judgement = tables
        .judge(&Tuple::new(key, site))
        .ok_or(DropReason::NoRuleSet)?;
    tables.count_rule(judgement.counter, inner.length());
    if judgement.action != action::ALLOW {
        return Err(denied(tables, key, &judgement));
    }
    let mapping = nat::map(tables, key, site.nat_address, settings, now_s)?;
    let flow = new_flow(inner, &judgement, progress, now_s, mapping.address, mapping.port);
    let put = if stale {
        tables.replace_flow(key, &flow)
    } else {
        tables.insert_flow(key, &flow)
    };
    match put {
        Ok(()) => {}
        // Another CPU made it at the same moment, from the same mapping.
        Err(Refused::Exists) => return Ok(flow),
        Err(Refused::Full) => return Err(DropReason::FlowTableFull),
    }
    tables.count(Path::FlowsCreated, inner.length());
    if judgement.flags & flag::LOG != 0 {
        tables.event(&event(
            kind::FLOW_CREATED,
            key,
            judgement.rule,
            judgement.generation,
        ));
    }
    Ok(flow)
}

#[inline(always)]
fn new_flow(
    inner: &Inner,
    judgement: &Judgement,
    progress: Progress,
    now_s: u32,
    nat_address: [u8; 4],
    nat_port: [u8; 2],
) -> Flow {
    Flow {
        packets_out: 1,
        bytes_out: u64::from(inner.length()),
        packets_in: 0,
        bytes_in: 0,
        last_seen_s: now_s,
        created_s: now_s,
        generation: judgement.generation,
        rule: judgement.rule,
        nat_address,
        nat_port,
        state: progress.state,
        fins: progress.fins,
    }
}

#[inline(always)]
fn denied<T: Tables>(tables: &T, key: &FlowKey, judgement: &Judgement) -> DropReason {
    if judgement.flags & flag::LOG != 0 {
        tables.event(&event(kind::DENIED, key, judgement.rule, judgement.generation));
    }
    if judgement.rule == crate::abi::event::RULE_DEFAULT {
        DropReason::RuleDefault
    } else {
        DropReason::RuleDenied
    }
}

#[inline(always)]
fn next_hop<'a, T: Tables>(tables: &'a T, key: &FlowKey, generation: u32) -> Result<&'a NextHop, DropReason> {
    match tables.next_hop(key.destination) {
        Some(hop) if hop.resolved != 0 => Ok(hop),
        _ => {
            tables.event(&event(kind::NEXT_HOP_MISSING, key, 0, generation));
            Err(DropReason::NextHopUnresolved)
        }
    }
}

/// An event about a flow.
#[inline(always)]
pub(super) fn event(kind: u32, key: &FlowKey, rule: u32, generation: u32) -> Event {
    Event {
        kind,
        site: key.site,
        rule,
        generation,
        source: key.source,
        destination: key.destination,
        source_port: key.source_port,
        destination_port: key.destination_port,
        protocol: key.protocol,
        pad: [0; 3],
    }
}
