//! From the center: answers to flows of sites are translated back and handed to a worker; nothing else enters.

use crate::abi::event::kind as event_kind;
use crate::abi::flow::FlowKey;
use crate::abi::interface::Interface;
use crate::abi::sa::{LinkHeader, SaOutbound, SaOutboundKey};
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::ethernet::{Ethernet, ether_type};
use crate::packet::icmp::{Icmp, kind};
use crate::packet::ipv4::{Ipv4, protocol};
use crate::tables::{FlowEntry, Tables};

use super::filter::{self, Direction};
use super::inner::{IP, Inner, TRANSPORT};
use super::{Outcome, Verdict, icmp, worker};

/// Hands a frame of the core side to a worker, translated back, or answers that it is too big.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn core<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let interface = tables.interface().ok_or(DropReason::InterfaceUnknown)?;
    let ethernet: Ethernet = packet.load(0).ok_or(DropReason::TruncatedLink)?;
    match ethernet.ether_type {
        ether_type::IPV4 => {}
        ether_type::ARP => return Ok(Verdict::Pass(Path::CorePassed)),
        _ => return Err(DropReason::UnknownEtherType),
    }
    if is_ping(packet, interface) {
        return Ok(Verdict::Pass(Path::CorePassed));
    }
    let inner = Inner::parse(packet, Direction::In)?;
    let Some(inside) = tables.inside(&inner.outside()) else {
        return unmapped(&inner, interface);
    };
    let key = inner.flow_to_site(&inside);
    let entry = tables.flow(&key).ok_or(DropReason::NoFlow)?;
    let flow = entry.read();
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let now_s = tables.now_s();
    if !filter::is_alive(&flow, key.protocol, settings, now_s) {
        return Err(DropReason::FlowExpired);
    }
    // The mapping may have been given to another flow's endpoint since this flow was made.
    if flow.nat_address != inner.ip.destination || flow.nat_port != inner.destination_port {
        return Err(DropReason::NoFlow);
    }
    if inner.ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    let progress = filter::advance(&flow, &inner, Direction::In)?;
    let sa = outbound(tables, &key)?;
    if inner.length() > sa.mtu && inner.ip.dont_fragment() {
        icmp::answer_too_big(packet, &ethernet, &inner.ip, interface.ipv4, sa.mtu)?;
        return Ok(Verdict::Reflect(Path::CoreTooBig));
    }
    let verdict = worker(tables, interface, Path::CoreForwarded)?;
    entry.advance(Direction::In, inner.length(), now_s, progress);
    inner.translate(packet, Direction::In, key.source, key.source_port)?;
    packet
        .store(0, &LinkHeader::new(key.site, sa.sa_index))
        .ok_or(DropReason::Internal)?;
    Ok(verdict)
}

/// Whether this is an echo request to the gateway's own address, which the kernel answers.
#[inline(always)]
fn is_ping<P: Packet>(packet: &P, interface: &Interface) -> bool {
    let (Some(ip), Some(header)) = (packet.load::<Ipv4>(IP), packet.load::<Icmp>(TRANSPORT)) else {
        return false;
    };
    is_own(&ip, interface)
        && ip.version_length == 0x45
        && ip.protocol == protocol::ICMP
        && !ip.is_fragment()
        && header.kind == kind::ECHO
}

/// No flow of a site: the answer to a ping of the gateway's own, or nothing that may enter.
#[inline(always)]
fn unmapped(inner: &Inner, interface: &Interface) -> Outcome {
    match (is_own(&inner.ip, interface), inner.ip.protocol) {
        (true, protocol::ICMP) => Ok(Verdict::Pass(Path::CorePassed)),
        (true, _) => Err(DropReason::CoreDestination),
        (false, _) => Err(DropReason::NoMapping),
    }
}

#[inline(always)]
fn is_own(ip: &Ipv4, interface: &Interface) -> bool {
    interface.ipv4 != [0; 4] && ip.destination == interface.ipv4
}

/// The SA to the site; the controller hears of its absence.
#[inline(always)]
fn outbound<'a, T: Tables>(tables: &'a T, key: &FlowKey) -> Result<&'a SaOutbound, DropReason> {
    let sa_key = SaOutboundKey {
        site: key.site.to_be_bytes(),
        destination: key.source,
    };
    tables.sa_outbound(&sa_key).ok_or_else(|| {
        tables.event(&super::clear::event(event_kind::NO_SA, key, 0, 0));
        DropReason::NoSa
    })
}
