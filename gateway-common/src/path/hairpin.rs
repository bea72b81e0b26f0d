//! From site to site, through the gateway: a packet to an address that a site is translated to (RFC 4787 REQ-9, RFC 5382
//! REQ-8). Both ends are translated, so that the site that is called sees the address and port that the caller is translated
//! to, as everyone outside does ("external source IP address and port").
//!
//! ```text
//!  site A  a:pa -> B':pb'   flow of A: a:pa as A':pa', remote B':pb'   [rules: site-to-site]
//!                           flow of B: b:pb as B':pb', remote A':pa'   [B's filtering: enter]
//!  site B  A':pa' -> b:pb   answers take the same two flows the other way round
//! ```
//!
//! ICMP queries go the same way, with one difference: an identifier is no address, so that a site is found by an address that
//! belongs to one host of it alone, a publication without a port (RFC 5508 REQ-7: Basic NAT). The caller's identifier, as
//! it is translated, is that of the other flow too; each flow has it at its own site's end. Later fragments follow the
//! two flows as well; ICMP errors are carried by [`super::error`].
//!
//! One connection is two flows, each with its own site's limits and state: what B's filtering lets in, it lets in from A as
//! from any remote, and B's own packets to A' open B's flow as they open any. A and B may be one site.

use crate::abi::flow::{FlowKey, Progress, halves, pair, word};
use crate::abi::nat::OutsideKey;
use crate::abi::rule::action;
use crate::abi::sa::LinkHeader;
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::checksum::Change;
use crate::packet::icmp::{Icmp, Query};
use crate::packet::ipv4::{self, Ipv4, protocol};
use crate::packet::tcp::flag;
use crate::tables::Tables;
use crate::tables::flows::Entry;
use crate::tables::words::Words;

use super::answer::{Refusal, refuse};
use super::back::{sa_to_site, share};
use super::clear::{Next, parse_any, parse_between, read_any, site_of};
use super::core::outbound;
use super::enter::{Target, find, is_let_in};
use super::filter::{self, Direction, First};
use super::inner::{IP, Inner, Ports, TRANSPORT};
use super::open::{Stage, denied, hide, leave_packet, left, make};
use super::rules::Tuple;
use super::{Outcome, fragment, limits, mss, tcp, worker};

/// An address and a port, as they are in packets.
type End = ([u8; 4], [u8; 2]);

/// The stage that judges a new flow of a site to what a site is translated to. Its source is mapped as that of any other.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn judge<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let site = site_of(packet)?;
    let inner = parse_any(packet)?;
    let key = inner.flow_from_site(site);
    let site = tables.site(site).ok_or(DropReason::UnknownSite)?;
    filter::may_open(&inner)?;
    let mut target = Target::NONE;
    if !find_called(tables, &inner, &mut target) {
        return Err(DropReason::NoMapping);
    }
    let called = tables.site(target.key.site).ok_or(DropReason::UnknownSite)?;
    let (tuple, site_flags) = (Tuple::site_to_site(&key, site, &target.key, called), site.flags);
    if !tables.is_site(site, key.site) || !tables.is_site(called, target.key.site) {
        return Ok(Next::Stage(Stage::HairpinJudge));
    }
    let judgement = tables.judge(&tuple).ok_or(DropReason::NoRuleSet)?;
    tables.count_rule(judgement.counter, inner.length());
    let scratch = tables.scratch().ok_or(DropReason::Internal)?;
    scratch.store(left::RULE, pair(judgement.rule, judgement.generation));
    if judgement.action != action::ALLOW {
        return denied(tables, &key, &judgement);
    }
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    limits::rate(tables, key.site, settings, tables.now_s())?;
    scratch.store(left::FLAGS, pair(u32::from(judgement.flags), site_flags));
    leave_packet(scratch, &key, &inner);
    Ok(Next::Stage(Stage::Map))
}

/// The stage that forwards a packet of a flow between sites.
///
/// # Errors
/// The reason to drop the packet, which is not changed then.
#[inline(always)]
pub fn forward<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let site = site_of(packet)?;
    let inner = parse_between(packet)?;
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let now_s = tables.now_s();
    let is_reply = inner.ip.protocol == protocol::ICMP && is_reply(packet);
    let Some(own) = tables.flows().find(&inner.flow_from_site(site)) else {
        return otherwise(is_reply, Stage::Forward, DropReason::IcmpType);
    };
    if inner.ip.protocol == protocol::ICMP {
        may_follow(tables, own.record, is_reply)?;
    }
    let source = nat_of(own.record);
    let (outside, remote_port) = other_end(&inner.ip, source, inner.ports.destination());
    let found = tables.flows().find_answer(&outside, source.0, remote_port);
    let Some(Entry { record: other, .. }) = found else {
        return otherwise(is_reply, Stage::HairpinEnter, DropReason::NoFlow);
    };
    let (state, last_seen_s) = filter::state_and_last_seen_s(other);
    if !filter::is_alive(state, last_seen_s, settings, now_s) || filter::reopens(state, &inner) {
        return otherwise(is_reply, Stage::HairpinEnter, DropReason::FlowExpired);
    }
    let sa = outbound(tables, other, tables.epochs().sa)?;
    if inner.length() > sa.mtu && inner.ip.dont_fragment() {
        return refuse(tables, Refusal::TooBig { mtu: sa.mtu });
    }
    let interface = tables.interface().ok_or(DropReason::InterfaceUnknown)?;
    let verdict = worker(tables, interface, Path::SiteToSite)?;
    let (called, address) = halves(other.load(word::SITE_SOURCE));
    if filter::follow_apart::<_, true>(own.record, &inner, now_s)? {
        limits::give_half_open(tables, site);
    }
    if filter::follow_apart::<_, false>(other, &inner, now_s)? {
        limits::give_half_open(tables, called);
    }
    let [p0, p1, _, _] = halves(other.load(word::DESTINATION_PORTS)).1.to_ne_bytes();
    translate(packet, &inner, source, (address.to_ne_bytes(), [p0, p1]))?;
    if inner.segment.flags & flag::SYN != 0 {
        // What is offered goes through both tunnels.
        mss::clamp_from_site(packet, tables, site, inner.ip.source)?;
        mss::clamp(packet, mss::limit(settings, sa.mtu))?;
    }
    packet
        .store(0, &LinkHeader::new(called, share(tables, sa)))
        .ok_or(DropReason::Internal)?;
    Ok(Next::Decided(verdict))
}

/// A packet without its flow opens one in another stage, but for the reply to a query.
#[inline(always)]
fn otherwise(is_reply: bool, stage: Stage, reason: DropReason) -> Result<Next, DropReason> {
    if is_reply {
        Err(reason)
    } else {
        Ok(Next::Stage(stage))
    }
}

/// Whether an ICMP packet of a site is the reply to a query.
#[inline(always)]
pub(super) fn is_reply<P: Packet>(packet: &P) -> bool {
    let (Some(ip), Some(header)) = (packet.load::<Ipv4>(IP), packet.load::<Icmp>(TRANSPORT)) else {
        return false;
    };
    ip.version_length == 0x45
        && ip.protocol == protocol::ICMP
        && !ip.is_later_fragment()
        && Query::of(header.kind, header.code).is_some_and(|query| query.is_reply)
}

/// Whether a query's flow takes a request or a reply of its site: who was called replies, who calls asks. A request needs
/// a flow, and a rule, of its own, even if its identifier is that of the other site's.
#[inline(always)]
fn may_follow<V: Words, T: Tables>(tables: &T, own: V, is_reply: bool) -> Result<(), DropReason> {
    let progress = Progress::from_bits(halves(own.load(word::PROGRESS)).0);
    let was_called = progress.flags & tcp::flag::PUBLISHED != 0;
    if was_called != is_reply {
        return Err(DropReason::IcmpType);
    }
    fragment::alive(tables, own)
}

/// Where the other flow of a packet is found, whose own flow is translated to `source`: its outside, and the port of its
/// remote end, which is this site.
#[inline(always)]
fn other_end(ip: &Ipv4, source: End, destination_port: [u8; 2]) -> (OutsideKey, [u8; 2]) {
    let (port, remote_port) = if ip.protocol == protocol::ICMP {
        (source.1, destination_port)
    } else {
        (destination_port, source.1)
    };
    let outside = OutsideKey {
        address: ip.destination,
        port,
        protocol: ip.protocol,
        pad: 0,
    };
    (outside, remote_port)
}

/// A later fragment of a packet between sites, by the flow `own` of the site that it comes from.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub(super) fn later<P: Packet, V: Words, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ipv4,
    own: V,
    destination_port: [u8; 2],
) -> Outcome {
    let source = nat_of(own);
    let (outside, remote_port) = other_end(ip, source, destination_port);
    let other = tables
        .flows()
        .find_answer(&outside, source.0, remote_port)
        .ok_or(DropReason::InnerFragment)?
        .record;
    fragment::alive(tables, other)?;
    let sa = outbound(tables, other, tables.epochs().sa)?;
    let interface = tables.interface().ok_or(DropReason::InterfaceUnknown)?;
    let verdict = worker(tables, interface, Path::SiteToSite)?;
    let now_s = tables.now_s();
    filter::count_later(own, Direction::Out, ip.total_length(), now_s);
    filter::count_later(other, Direction::In, ip.total_length(), now_s);
    let (called, address) = halves(other.load(word::SITE_SOURCE));
    translate_addresses(packet, ip, source.0, address.to_ne_bytes())?;
    packet
        .store(0, &LinkHeader::new(called, share(tables, sa)))
        .ok_or(DropReason::Internal)?;
    Ok(verdict)
}

/// Whom a packet is for. A query finds a site by the address of one host of it alone.
#[inline(always)]
fn find_called<T: Tables>(tables: &T, seen: &Inner, target: &mut Target) -> bool {
    let is_query = seen.ip.protocol == protocol::ICMP;
    let mut outside = seen.outside();
    if is_query {
        outside.port = [0; 2];
    }
    if !find(tables, seen, &outside, target) {
        return false;
    }
    if is_query {
        target.key.source_port = seen.ports.source();
        target.key.destination_port = seen.ports.destination();
    }
    true
}

/// The stage that asks the filtering of the site that is called, and the rules once more: since the caller's flow was made, what
/// it calls may be another's, or the rules other ones.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn enter<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let (mut seen, mut target) = (Inner::NONE, Target::NONE);
    read_any(packet, &mut seen)?;
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let key = seen.flow_from_site(site_of(packet)?);
    look(packet, tables, &mut seen, &mut target)?;
    let site = tables.site(target.key.site).ok_or(DropReason::UnknownSite)?;
    let mut outside = seen.outside();
    let is_query = seen.ip.protocol == protocol::ICMP;
    if is_query {
        outside.port = seen.ports.source();
    }
    let is_open = if target.publication == 0 {
        is_let_in(tables, site, &seen, &outside, settings)
    } else {
        // Both must hold: a rule, and who may reach what is published.
        tables.may_enter(target.publication, seen.ip.source)
    };
    let caller = tables.site(key.site).ok_or(DropReason::UnknownSite)?;
    let tuple = Tuple::site_to_site(&key, caller, &target.key, site);
    if !tables.is_site(site, target.key.site) || !tables.is_site(caller, key.site) {
        return Ok(Next::Stage(Stage::HairpinEnter));
    }
    let has_ports = matches!(seen.ip.protocol, protocol::TCP | protocol::UDP);
    if !(has_ports || is_query && target.publication != 0) || !is_open {
        return Err(DropReason::NoFlow);
    }
    filter::may_open(&seen)?;
    let judgement = tables.judge(&tuple).ok_or(DropReason::NoRuleSet)?;
    let scratch = tables.scratch().ok_or(DropReason::Internal)?;
    scratch.store(left::RULE, pair(judgement.rule, judgement.generation));
    if judgement.action != action::ALLOW {
        tables.count_rule(judgement.counter, seen.length());
        return denied(tables, &key, &judgement);
    }
    sa_to_site(tables, target.key.site, target.key.source)?;
    limits::rate_of_calls(tables, target.key.site, settings, tables.now_s())?;
    // The caller's flow is logged, if the rule says so.
    scratch.store(left::FLAGS, 0);
    let [p0, p1] = outside.port;
    let port = u32::from_ne_bytes([p0, p1, 0, 0]);
    scratch.store(left::NAT, pair(u32::from_ne_bytes(outside.address), port));
    scratch.store(left::MAPPING, u64::from(target.mapping));
    Ok(Next::Stage(Stage::HairpinAdd))
}

/// The stage that makes the flow of the site that is called. The packet goes back to [`forward`], which finds it.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn add<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let (mut key, mut first) = (FlowKey::NONE, First::NONE);
    look_again(packet, tables, &mut key, &mut first)?;
    let ip: Ipv4 = packet.load(IP).ok_or(DropReason::Internal)?;
    make(tables, &key, &first, ip.total_length())?;
    Ok(Next::Stage(Stage::Hairpin))
}

/// The packet as the site that is called sees it, and whom it is for. (Results of subprograms are scalars: the verifier refuses
/// what is left in the register of a result that lies in memory.)
#[inline(never)]
fn look<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    seen: &mut Inner,
    target: &mut Target,
) -> Result<(), DropReason> {
    let site = site_of(packet)?;
    let own = tables
        .flows()
        .find(&seen.flow_from_site(site))
        .ok_or(DropReason::NoFlow)?;
    let (address, port) = nat_of(own.record);
    seen.ip.source = address;
    seen.ports = Ports::new(port, seen.ports.destination());
    if !find_called(tables, seen, target) {
        return Err(DropReason::NoMapping);
    }
    Ok(())
}

/// The same for the stage that makes the flow: its key, and how it begins.
#[inline(never)]
fn look_again<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    key: &mut FlowKey,
    first: &mut First,
) -> Result<(), DropReason> {
    let (mut seen, mut target) = (Inner::NONE, Target::NONE);
    read_any(packet, &mut seen)?;
    look(packet, tables, &mut seen, &mut target)?;
    let scratch = tables.scratch().ok_or(DropReason::Internal)?;
    // What was judged is what is made.
    if scratch.load(left::MAPPING) != u64::from(target.mapping) {
        return Err(DropReason::NoMapping);
    }
    *key = target.key;
    *first = filter::open(&seen, Direction::In, tables.now_s());
    if target.publication != 0 {
        first.progress.flags |= tcp::flag::PUBLISHED;
    }
    hide::<P>(key, first);
    Ok(())
}

/// What a flow's site is translated to.
#[inline(always)]
fn nat_of<V: Words>(record: V) -> End {
    let (address, port) = halves(record.load(word::NAT));
    let [p0, p1, _, _] = port.to_ne_bytes();
    (address.to_ne_bytes(), [p0, p1])
}

/// Translates both ends of the packet, decrements the TTL once and updates both checksums.
#[inline(never)]
fn translate<P: Packet>(
    packet: &mut P,
    inner: &Inner,
    source: End,
    destination: End,
) -> Result<(), DropReason> {
    let addresses = translate_addresses(packet, &inner.ip, source.0, destination.0)?;
    if inner.ip.protocol == protocol::ICMP {
        return translate_identifier(packet, inner, destination.1);
    }
    let ports = addresses
        .word(inner.ports.source(), source.1)
        .word(inner.ports.destination(), destination.1);
    let (checksum, offset) = match inner.ip.protocol {
        protocol::TCP => (ports.apply(inner.checksum), 16),
        protocol::UDP => (ports.apply_udp(inner.checksum), 6),
        // Only these have flows between sites.
        _ => return Err(DropReason::Internal),
    };
    packet
        .store(TRANSPORT, &[source.1, destination.1])
        .ok_or(DropReason::Internal)?;
    packet
        .store(TRANSPORT + offset, &checksum)
        .ok_or(DropReason::Internal)
}

/// The identifier of a query becomes that of the other flow's site; ICMP has no pseudo-header.
#[inline(always)]
fn translate_identifier<P: Packet>(
    packet: &mut P,
    inner: &Inner,
    identifier: [u8; 2],
) -> Result<(), DropReason> {
    let checksum = Change::default()
        .word(inner.ports.source(), identifier)
        .apply(inner.checksum);
    packet
        .store(TRANSPORT + 4, &identifier)
        .ok_or(DropReason::Internal)?;
    packet.store(TRANSPORT + 2, &checksum).ok_or(DropReason::Internal)
}

/// Translates both addresses of an IP header, decrements its TTL once and updates its checksum. Answers how the addresses
/// changed.
#[inline(always)]
fn translate_addresses<P: Packet>(
    packet: &mut P,
    ip: &Ipv4,
    source: [u8; 4],
    destination: [u8; 4],
) -> Result<Change, DropReason> {
    let addresses = Change::default()
        .double(ip.source, source)
        .double(ip.destination, destination);
    let ttl = [ip.ttl.saturating_sub(1), ip.protocol];
    let [c0, c1] = addresses.word(ip.ttl_word(), ttl).apply(ip.checksum);
    let [t, p] = ttl;
    packet
        .store(IP + ipv4::TTL, &[t, p, c0, c1])
        .ok_or(DropReason::Internal)?;
    packet
        .store(IP + ipv4::SOURCE, &[source, destination])
        .ok_or(DropReason::Internal)?;
    Ok(addresses)
}
