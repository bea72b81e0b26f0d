//! Fragments of clear packets, both ways (RFC 791 section 3.2). A worker holds the fragments of a packet until it has
//! all of them, and then sends them into the clear link in order: the first one decides like a whole packet would, and
//! the later ones, which come with its ports in their link header, follow its flow. No fragment is kept here.
//!
//! Stages of their own behind `clear`, each a program of its own in BPF.

use crate::abi::flow::{FlowKey, halves, word};
use crate::abi::interface::{Interface, role};
use crate::abi::nat::OutsideKey;
use crate::abi::rule::direction;
use crate::abi::sa::{LinkHeader, fragment};
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::ipv4::Ipv4;
use crate::packet::tcp::flag;
use crate::tables::Tables;
use crate::tables::words::Words;

use super::back::to_site;
use super::clear::{Next, SITES, fitting, known_next_hop, leave, parse_any, pass};
use super::core::{is_own, of_its_side, outbound};
use super::filter::{self, Direction};
use super::inner::{IP, Inner, translate_header};
use super::open::Stage;
use super::{Outcome, hairpin, limits, mss, worker};

/// Fragments that one source on the center's side may send in a second.
const PER_SOURCE_PER_S: u32 = 20_000;
/// And all sources in the Internet together: there, a source may be forged.
const INTERNET_PER_S: u32 = 100_000;
/// Where those are counted. No IKE source: a multicast address sends nothing.
const INTERNET: [u8; 16] = [0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];

/// Hands a fragment of the center's side to a worker, where it waits for the others. One of the Internet is for what sites are
/// translated to, and nothing else there.
///
/// # Errors
/// The reason to drop it.
#[inline(never)]
pub fn wait<P: Packet, T: Tables>(packet: &mut P, tables: &T, interface: &Interface) -> Outcome {
    let ip: Ipv4 = packet.load(IP).ok_or(DropReason::InnerMalformed)?;
    if is_own(&ip, interface) {
        return Err(DropReason::InnerFragment);
    }
    of_its_side(tables, interface, ip.source)?;
    let is_internet = interface.role == role::INTERNET;
    if is_internet && tables.direction_to(ip.destination) != direction::SITE_TO_SITE {
        return Err(DropReason::NoMapping);
    }
    let [a, b, c, d] = ip.source;
    // As above.
    let source = [0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, a, b, c, d];
    let now_s = tables.now_s();
    if tables.count_ike(&source, now_s) > PER_SOURCE_PER_S
        || is_internet && tables.count_ike(&INTERNET, now_s) > INTERNET_PER_S
    {
        return Err(DropReason::FragmentLimit);
    }
    let verdict = worker(tables, interface, Path::CoreFragment)?;
    let side = if is_internet {
        fragment::OF_INTERNET
    } else {
        fragment::OF_CENTER
    };
    let link = LinkHeader::of_fragment(fragment::CENTER_WAITS, 0, side);
    packet.store(0, &link).ok_or(DropReason::Internal)?;
    Ok(verdict)
}

/// A fragment of a site's packet: the first one goes the way of a packet, a later one follows it.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn from_site<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let (kind, site, about) = link(packet)?;
    match kind {
        fragment::SITE_FIRST => match parse_any(packet) {
            Ok(inner) => pass(packet, tables, site, &inner),
            Err(DropReason::IcmpType) if hairpin::is_reply(packet) => Ok(Next::Stage(Stage::Hairpin)),
            Err(reason) => Err(reason),
        },
        fragment::SITE_LATER => later_of_site(packet, tables, site, about).map(Next::Decided),
        fragment::CENTER_FIRST | fragment::CENTER_LATER => Ok(Next::Stage(Stage::CenterFragment)),
        _ => Err(DropReason::InnerFragment),
    }
}

/// A fragment of a packet of the center, which a worker sent into the clear link.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn from_center<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let (kind, _, about) = link(packet)?;
    let outcome = match kind {
        fragment::CENTER_FIRST => first_of_center(packet, tables),
        fragment::CENTER_LATER => later_of_center(packet, tables, about),
        _ => Err(DropReason::InnerFragment),
    };
    outcome.map(Next::Decided)
}

#[inline(always)]
fn link<P: Packet>(packet: &P) -> Result<([u8; 2], u32, [u8; 4]), DropReason> {
    let link: LinkHeader = packet.load(0).ok_or(DropReason::TruncatedLink)?;
    link.read_fragment().ok_or(DropReason::InnerFragment)
}

/// The header of a later fragment.
#[inline(always)]
fn later<P: Packet>(packet: &P) -> Result<Ipv4, DropReason> {
    let ip: Ipv4 = packet.load(IP).ok_or(DropReason::InnerMalformed)?;
    ip.check(packet.len().saturating_sub(IP))
        .map_err(|_| DropReason::InnerMalformed)?;
    if !ip.is_later_fragment() {
        return Err(DropReason::InnerFragment);
    }
    if ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    Ok(ip)
}

#[inline(always)]
fn later_of_site<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    site: u32,
    [s0, s1, d0, d1]: [u8; 4],
) -> Outcome {
    let ip = later(packet)?;
    let key = FlowKey {
        site,
        source: ip.source,
        destination: ip.destination,
        source_port: [s0, s1],
        destination_port: [d0, d1],
        protocol: ip.protocol,
        pad: [0; 3],
    };
    let entry = tables.flows().find(&key).ok_or(DropReason::InnerFragment)?;
    alive(tables, entry.record)?;
    let hop = known_next_hop(tables, &key, entry.record)?;
    if hop == SITES {
        return hairpin::later(packet, tables, &ip, entry.record, key.destination_port);
    }
    let hop = fitting(tables, hop, ip.total_length())?;
    filter::count_later(entry.record, Direction::Out, ip.total_length(), tables.now_s());
    let (address, _) = halves(entry.record.load(word::NAT));
    translate_header(packet, &ip, Direction::Out, address.to_ne_bytes())?;
    leave(packet, hop)
}

#[inline(always)]
fn first_of_center<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let inner = Inner::parse_any(packet, Direction::In)?;
    if inner.ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    let entry = tables
        .flows()
        .find_answer(&inner.outside(), inner.ip.source, inner.ports.source())
        .ok_or(DropReason::NoFlow)?;
    let record = entry.record;
    alive(tables, record)?;
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let sa = outbound(tables, record, tables.epochs().sa)?;
    let (site, source) = halves(record.load(word::SITE_SOURCE));
    if filter::follow_apart::<_, false>(record, &inner, tables.now_s())? {
        limits::give_half_open(tables, site);
    }
    let [s0, s1, _, _] = halves(record.load(word::DESTINATION_PORTS)).1.to_ne_bytes();
    inner.translate(packet, Direction::In, source.to_ne_bytes(), [s0, s1])?;
    if inner.segment.flags & flag::SYN != 0 {
        mss::clamp(packet, mss::limit(settings, sa.mtu))?;
    }
    to_site(packet, tables, site, sa, Path::CoreForwarded)
}

#[inline(always)]
fn later_of_center<P: Packet, T: Tables>(packet: &mut P, tables: &T, [s0, s1, d0, d1]: [u8; 4]) -> Outcome {
    let ip = later(packet)?;
    let outside = OutsideKey {
        address: ip.destination,
        port: [d0, d1],
        protocol: ip.protocol,
        pad: 0,
    };
    let entry = tables
        .flows()
        .find_answer(&outside, ip.source, [s0, s1])
        .ok_or(DropReason::InnerFragment)?;
    alive(tables, entry.record)?;
    let sa = outbound(tables, entry.record, tables.epochs().sa)?;
    filter::count_later(entry.record, Direction::In, ip.total_length(), tables.now_s());
    let (site, source) = halves(entry.record.load(word::SITE_SOURCE));
    translate_header(packet, &ip, Direction::In, source.to_ne_bytes())?;
    to_site(packet, tables, site, sa, Path::CoreForwarded)
}

#[inline(always)]
pub(super) fn alive<V: Words, T: Tables>(tables: &T, record: V) -> Result<(), DropReason> {
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let (state, last_seen_s) = filter::state_and_last_seen_s(record);
    if filter::is_alive(state, last_seen_s, settings, tables.now_s()) {
        Ok(())
    } else {
        Err(DropReason::FlowExpired)
    }
}
