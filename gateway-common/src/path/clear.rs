//! From a worker: decrypted packets of sites. Known flows are translated and forwarded, new ones judged by the rules.

use crate::abi::event::{Event, kind};
use crate::abi::flow::{self, Flow, FlowKey, Progress, halves, pair, word};
use crate::abi::interface::Settings;
use crate::abi::nat::Mapping;
use crate::abi::next_hop::NextHop;
use crate::abi::rule::{action, flag};
use crate::abi::sa::LinkHeader;
use crate::abi::site::Site;
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::ethernet::{Ethernet, ether_type};
use crate::tables::flows::Entry;
use crate::tables::words::Words;
use crate::tables::{Refused, Tables};

use super::filter::{self, Direction};
use super::inner::Inner;
use super::rules::{Judgement, Tuple};
use super::{Outcome, Verdict, limits, nat};

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

    let entry = tables.flows().find(&key);
    if let Some(entry) = &entry {
        let (state, last_seen_s) = filter::state_and_last_seen_s(entry.record);
        if filter::is_alive(state, last_seen_s, settings, now_s) && !filter::reopens(state, &inner) {
            let hop = known_next_hop(tables, &key, entry.record)?;
            if filter::follow(entry.record, &inner, Direction::Out, now_s)? {
                limits::give_half_open(tables, site);
            }
            let (address, nat) = halves(entry.record.load(word::NAT));
            let [p0, p1, _, _] = nat.to_ne_bytes();
            return forward(packet, &inner, address.to_ne_bytes(), [p0, p1], hop);
        }
    }
    let opening = Opening {
        key: &key,
        inner: &inner,
        site: tables.site(site).ok_or(DropReason::UnknownSite)?,
        settings,
        now_s,
    };
    let judgement = judge(tables, &opening)?;
    let mapping = nat::map(tables, &opening)?;
    let is_new = match &entry {
        Some(entry) => renew(tables, &opening, entry, (&judgement, &mapping))?,
        None => add(tables, &opening, &judgement, &mapping)?,
    };
    // Otherwise another CPU made it at the same moment, from the same mapping.
    if is_new {
        tables.count(Path::FlowsCreated, inner.length());
        if judgement.flags & flag::LOG != 0 {
            let (rule, generation) = (judgement.rule, judgement.generation);
            tables.event(&event(kind::FLOW_CREATED, &key, rule, generation));
        }
    }
    let hop = next_hop(tables, &key)?;
    forward(packet, &inner, mapping.address, mapping.port, hop)
}

/// A packet that may open a flow.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) key: &'a FlowKey,
    pub(super) inner: &'a Inner,
    pub(super) site: &'a Site,
    pub(super) settings: &'a Settings,
    pub(super) now_s: u32,
}

/// Translates the source and writes the Ethernet header of the next hop.
#[inline(always)]
fn forward<P: Packet>(
    packet: &mut P,
    inner: &Inner,
    nat_address: [u8; 4],
    nat_port: [u8; 2],
    hop: &NextHop,
) -> Outcome {
    inner.translate(packet, Direction::Out, nat_address, nat_port)?;
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

/// Judges a new flow by protocol, rules and rate.
#[inline(never)]
fn judge<T: Tables>(tables: &T, opening: &Opening<'_>) -> Result<Judgement, DropReason> {
    let Opening { key, inner, .. } = *opening;
    filter::may_open(inner)?;
    let judgement = tables
        .judge(&Tuple::new(key, opening.site))
        .ok_or(DropReason::NoRuleSet)?;
    tables.count_rule(judgement.rule, inner.length());
    if judgement.action != action::ALLOW {
        return Err(denied(tables, key, &judgement));
    }
    limits::rate(tables, key.site, opening.settings, opening.now_s)?;
    Ok(judgement)
}

/// The flow that a packet opens.
#[inline(always)]
fn new_flow(opening: &Opening<'_>, judgement: &Judgement, mapping: &Mapping) -> Flow {
    let connection = filter::open(opening.inner, opening.now_s);
    Flow {
        progress: connection.progress,
        out: connection.own,
        back: connection.other,
        created_s: opening.now_s,
        generation: judgement.generation,
        rule: judgement.rule,
        nat_address: mapping.address,
        nat_port: mapping.port,
        mapping: mapping.position,
    }
}

/// Puts a flow into the table, within the site's limits. `false` if it is there already.
#[inline(never)]
fn add<T: Tables>(
    tables: &T,
    opening: &Opening<'_>,
    judgement: &Judgement,
    mapping: &Mapping,
) -> Result<bool, DropReason> {
    let Opening { key, settings, .. } = *opening;
    let flow = &new_flow(opening, judgement, mapping);
    let half_open = filter::is_half_open(flow.progress.state);
    if half_open {
        limits::take_half_open(tables, key.site, settings)?;
    }
    let put = match limits::take_flow(tables, key.site, settings) {
        Ok(()) => tables.flows().insert(key, flow).map_err(|refused| {
            limits::give_flow(tables, key.site);
            match refused {
                Refused::Exists => None,
                Refused::Full => Some(DropReason::FlowTableFull),
            }
        }),
        Err(reason) => Err(Some(reason)),
    };
    let Err(reason) = put else {
        return Ok(true);
    };
    if half_open {
        limits::give_half_open(tables, key.site);
    }
    reason.map_or(Ok(false), Err)
}

/// Begins a dead flow anew in its place, or puts it elsewhere if its mapping is another by now.
#[inline(never)]
fn renew<V: Words, T: Tables>(
    tables: &T,
    opening: &Opening<'_>,
    dead: &Entry<V>,
    (judgement, mapping): (&Judgement, &Mapping),
) -> Result<bool, DropReason> {
    let Opening { key, settings, .. } = *opening;
    let found = dead.record.load(word::PROGRESS);
    let was_half_open = filter::is_half_open(Progress::from_bits(halves(found).0).state);
    let (address, nat) = halves(dead.record.load(word::NAT));
    let [p0, p1, _, _] = nat.to_ne_bytes();
    if address.to_ne_bytes() != mapping.address || [p0, p1] != mapping.port {
        if tables.flows().retire(dead.position, dead.word) {
            limits::give_flow(tables, key.site);
            if was_half_open {
                limits::give_half_open(tables, key.site);
            }
        }
        return add(tables, opening, judgement, mapping);
    }
    let flow = &new_flow(opening, judgement, mapping);
    let half_open = filter::is_half_open(flow.progress.state);
    if half_open && !was_half_open {
        limits::take_half_open(tables, key.site, settings)?;
    }
    let won = dead
        .record
        .compare_exchange(
            word::PROGRESS,
            found,
            pair(flow.progress.bits(), flow.mapping),
        )
        .is_ok();
    if won {
        flow::renew(dead.record, flow);
    }
    if (won && was_half_open && !half_open) || (!won && half_open && !was_half_open) {
        limits::give_half_open(tables, key.site);
    }
    Ok(won)
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

/// The next hop that the flow has used before, as long as routes are what they were.
#[inline(always)]
fn known_next_hop<'a, V: Words, T: Tables>(
    tables: &'a T,
    key: &FlowKey,
    record: V,
) -> Result<&'a NextHop, DropReason> {
    let epoch = tables.epochs().hop;
    let (number, looked_up) = halves(record.load(word::HOP));
    if looked_up == epoch
        && let Some(hop) = tables.next_hop(number)
        && hop.resolved != 0
    {
        return Ok(hop);
    }
    if let Some(number) = tables.route(key.destination) {
        record.store(word::HOP, pair(number, epoch));
    }
    next_hop(tables, key)
}

#[inline(always)]
fn next_hop<'a, T: Tables>(tables: &'a T, key: &FlowKey) -> Result<&'a NextHop, DropReason> {
    let hop = tables
        .route(key.destination)
        .and_then(|number| tables.next_hop(number));
    match hop {
        Some(hop) if hop.resolved != 0 => Ok(hop),
        _ => {
            tables.event(&event(kind::NEXT_HOP_MISSING, key, 0, 0));
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
