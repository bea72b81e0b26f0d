//! What `gateway trace` tells of a packet: which flow, rule and mapping it has, at the end of each program.
//!
//! The path itself knows nothing of it. A packet that is dropped or handed to another stage is still what came in, one
//! that is sent carries its translation or a link header: either leads back to its flow. So this runs after the
//! decision, in a program of its own, and costs a packet that nobody traces one look at a setting.

use crate::abi::flow::{FlowKey, Progress, halves, word};
use crate::abi::nat::OutsideKey;
use crate::abi::sa::LinkHeader;
use crate::abi::stats::Path;
use crate::abi::trace::{EVERY_SITE, TraceEvent, known, outcome, point};
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::ethernet::{Ethernet, ether_type};
use crate::packet::ipv4::Ipv4;
use crate::tables::Tables;
use crate::tables::words::Words;

use super::filter::Direction;
use super::inner::{IP, Inner};
use super::{Outcome, open, wan};

/// What became of a packet at the end of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// One of [`point`].
    pub point: u32,
    /// One of [`outcome`].
    pub outcome: u32,
    /// What goes with it.
    pub value: u32,
}

impl End {
    /// A packet that this program was the last to see.
    #[inline(always)]
    #[must_use]
    pub const fn of(point: u32, decided: Outcome) -> Self {
        let (outcome, value) = match decided {
            Ok(verdict) => (outcome::SENT, verdict.path() as u32),
            Err(reason) => (outcome::DROPPED, reason as u32),
        };
        Self {
            point,
            outcome,
            value,
        }
    }

    /// A packet that goes on to another stage.
    #[inline(always)]
    #[must_use]
    pub const fn stage(point: u32, stage: open::Stage) -> Self {
        Self {
            point,
            outcome: outcome::STAGE,
            value: stage as u32,
        }
    }
}

/// Whether any site is traced.
#[inline(always)]
pub fn is_on<T: Tables>(tables: &T) -> bool {
    tables.settings().is_some_and(|settings| settings.trace_site != 0)
}

/// Tells of a packet, if its site is traced. One whose site cannot be found out is told where every site is.
#[inline(always)]
pub fn tell<P: Packet, T: Tables>(packet: &P, tables: &T, end: End) {
    let mut event = TraceEvent {
        point: end.point,
        outcome: end.outcome,
        value: end.value,
        length: packet.len(),
        ..TraceEvent::default()
    };
    match end.point {
        point::WAN => outer(packet, tables, &mut event),
        // The answer to a packet of the center: its source is what the site's end is translated to.
        _ if is_to_center(&event) => inner(packet, tables, &mut event, Direction::Out),
        point::CORE
        | point::ENTER
        | point::ENTER_ADD
        | point::CENTER_ANSWER
        | point::CENTER_ERROR
        | point::CENTER_FRAGMENT => {
            inner(packet, tables, &mut event, Direction::In);
        }
        // What is in the frame now goes to a site.
        _ if is_to_site(&event) => inner(packet, tables, &mut event, Direction::In),
        _ => inner(packet, tables, &mut event, Direction::Out),
    }
    tell_if_wanted(tables, &event);
    if event.outcome == outcome::SENT && event.value == Path::SiteToSite as u32 {
        of_caller(tables, &mut event);
        tell_if_wanted(tables, &event);
    }
}

#[inline(always)]
fn tell_if_wanted<T: Tables>(tables: &T, event: &TraceEvent) {
    let wanted = tables.settings().map_or(0, |settings| settings.trace_site);
    if wanted == EVERY_SITE || (wanted != 0 && wanted == event.site) {
        tables.trace(event);
    }
}

/// From the packet as the called site has it to the caller's own flow.
#[inline(always)]
fn of_caller<T: Tables>(tables: &T, event: &mut TraceEvent) {
    let called = (event.nat_address, event.nat_port);
    (event.nat_address, event.nat_port) = (event.destination, event.destination_port);
    (event.destination, event.destination_port) = called;
    (event.site, event.source, event.source_port) = (0, [0; 4], [0; 2]);
    event.known &= !(known::RULE | known::FLOW);
    by_answer(tables, event);
}

/// The SA of an ESP packet.
#[inline(never)]
fn outer<P: Packet, T: Tables>(packet: &P, tables: &T, event: &mut TraceEvent) {
    let Some(spi) = wan::spi(packet) else { return };
    event.spi = spi;
    event.known |= known::SPI;
    if let Some(sa) = tables.sa_inbound(spi) {
        event.site = sa.site;
    }
}

/// Site, ends and flow of a clear packet, translated or not.
#[inline(always)]
fn inner<P: Packet, T: Tables>(packet: &P, tables: &T, event: &mut TraceEvent, direction: Direction) {
    // By what became of it, not by what it looks like: a frame of the core side may have any addresses.
    let is_linked = match direction {
        Direction::Out => event.outcome != outcome::SENT || event.value == Path::ClearTooBig as u32,
        Direction::In => {
            is_to_site(event) || (event.outcome == outcome::SENT && event.value == Path::CoreForwarded as u32)
        }
    };
    if is_linked {
        let Some(site) = packet.load::<LinkHeader>(0).and_then(|link| site_of(&link)) else {
            return;
        };
        event.site = site;
    }
    ends(packet, event, direction, is_linked);
    if event.known & known::PORTS != 0 {
        if is_linked {
            by_key(tables, event);
        } else {
            by_answer(tables, event);
        }
    }
    if event.point != point::CORE {
        from_stages(tables, event);
    }
}

/// The site of a packet of the clear link, or of a fragment of one.
#[inline(always)]
fn site_of(link: &LinkHeader) -> Option<u32> {
    link.read()
        .map(|(site, _)| site)
        .or_else(|| link.read_fragment().map(|(_, site, _)| site))
}

/// Whether the frame was made into an answer to the center.
#[inline(always)]
const fn is_to_center(event: &TraceEvent) -> bool {
    event.outcome == outcome::SENT
        && (event.value == Path::CenterAnswered as u32 || event.value == Path::CoreTooBig as u32)
}

/// Whether the frame was made into one to a site: an answer, or a packet of another site.
#[inline(always)]
const fn is_to_site(event: &TraceEvent) -> bool {
    event.outcome == outcome::SENT
        && (event.value == Path::SiteAnswered as u32 || event.value == Path::SiteToSite as u32)
}

/// Addresses and ports of a clear packet behind a link header, for workers.
#[cfg(any(test, feature = "std"))]
pub fn untranslated<P: Packet>(packet: &P, event: &mut TraceEvent, direction: Direction) {
    ends(packet, event, direction, true);
}

/// Addresses and ports. Without a link header the site's end is the translated one.
#[inline(never)]
fn ends<P: Packet>(packet: &P, event: &mut TraceEvent, direction: Direction, is_linked: bool) {
    if !is_linked && packet.load::<Ethernet>(0).map(|link| link.ether_type) != Some(ether_type::IPV4) {
        return;
    }
    let Some(ip) = packet.load::<Ipv4>(IP) else { return };
    let (mut site_port, mut center_port) = ([0; 2], [0; 2]);
    if let Ok(inner) = Inner::parse(packet, direction) {
        event.length = inner.length();
        event.tcp_flags = inner.segment.flags;
        event.known |= known::PORTS;
        (site_port, center_port) = match direction {
            Direction::Out => (inner.ports.source(), inner.ports.destination()),
            Direction::In => (inner.ports.destination(), inner.ports.source()),
        };
    }
    let (site_end, center_end) = match direction {
        Direction::Out => (ip.source, ip.destination),
        Direction::In => (ip.destination, ip.source),
    };
    event.known |= known::ADDRESSES;
    event.protocol = ip.protocol;
    (event.destination, event.destination_port) = (center_end, center_port);
    if is_linked {
        (event.source, event.source_port) = (site_end, site_port);
    } else {
        (event.nat_address, event.nat_port) = (site_end, site_port);
        event.known |= known::NAT;
    }
}

/// The flow of an untranslated packet.
#[inline(never)]
fn by_key<T: Tables>(tables: &T, event: &mut TraceEvent) {
    let key = FlowKey {
        site: event.site,
        source: event.source,
        destination: event.destination,
        source_port: event.source_port,
        destination_port: event.destination_port,
        protocol: event.protocol,
        pad: [0; 3],
    };
    if let Some(found) = tables.flows().find(&key) {
        of_flow(found.record, event);
    }
}

/// The flow of a translated packet.
#[inline(never)]
fn by_answer<T: Tables>(tables: &T, event: &mut TraceEvent) {
    let outside = OutsideKey {
        address: event.nat_address,
        port: event.nat_port,
        protocol: event.protocol,
        pad: 0,
    };
    let found = tables
        .flows()
        .find_answer(&outside, event.destination, event.destination_port);
    if let Some(found) = found {
        let (site, source) = halves(found.record.load(word::SITE_SOURCE));
        let [p0, p1, _, _] = halves(found.record.load(word::DESTINATION_PORTS)).1.to_ne_bytes();
        (event.site, event.source, event.source_port) = (site, source.to_ne_bytes(), [p0, p1]);
        of_flow(found.record, event);
    }
}

/// What the record of a flow says.
#[inline(always)]
fn of_flow<V: Words>(record: V, event: &mut TraceEvent) {
    let (address, nat) = halves(record.load(word::NAT));
    let [p0, p1, _, _] = nat.to_ne_bytes();
    (event.nat_address, event.nat_port) = (address.to_ne_bytes(), [p0, p1]);
    let (progress, mapping) = halves(record.load(word::PROGRESS));
    (event.state, event.mapping) = (Progress::from_bits(progress).state, mapping);
    event.rule = halves(record.load(word::RULE)).0;
    event.generation = halves(record.load(word::CREATED)).1;
    event.known |= known::NAT | known::RULE | known::FLOW;
}

/// What the stages have found for a flow that is not there yet, as far as they came.
#[inline(never)]
fn from_stages<T: Tables>(tables: &T, event: &mut TraceEvent) {
    let goes_on = event.outcome == outcome::STAGE;
    let is_judged = match event.point {
        point::JUDGE if goes_on => event.value != open::Stage::HairpinJudge as u32,
        point::JUDGE | point::HAIRPIN_JUDGE => goes_on || is_verdict_of_a_rule(event.value),
        point::MAP | point::ADD | point::ANSWER | point::PERMIT | point::ENTER_ADD => true,
        point::ENTER => goes_on && event.value == open::Stage::EnterAdd as u32,
        point::HAIRPIN_ENTER => match goes_on {
            true => event.value == open::Stage::HairpinAdd as u32,
            false => is_verdict_of_a_rule(event.value),
        },
        _ => false,
    };
    let is_mapped = match event.point {
        point::MAP => goes_on && event.value == open::Stage::Add as u32,
        point::ADD | point::PERMIT => true,
        // The translated end is what the packet of the center is sent to.
        _ => false,
    };
    if is_judged && let Some((rule, generation)) = open::judged(tables) {
        (event.rule, event.generation) = (rule, generation);
        event.known |= known::RULE;
    }
    if is_mapped && let Some((address, port)) = open::mapped(tables) {
        (event.nat_address, event.nat_port) = (address, port);
        event.known |= known::NAT;
    }
}

/// Whether the stage of judgement had judged before it dropped a packet for this reason.
#[inline(always)]
const fn is_verdict_of_a_rule(reason: u32) -> bool {
    reason == DropReason::RuleDenied as u32
        || reason == DropReason::RuleDefault as u32
        || reason == DropReason::SiteFlowRate as u32
}
