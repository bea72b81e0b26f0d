//! ICMP errors about packets of flows: destination unreachable, time exceeded, parameter problem (RFC 792, RFC 5508
//! section 4). An error needs no rule: it passes if it quotes a packet of a live flow and goes to who sent that. It is
//! translated like what it quotes, outside and inside. It neither keeps a flow alive nor ends it: whoever forges one must
//! not close a connection (RFC 5927 section 3, RFC 5508 REQ-6).
//!
//! Who receives it may act on more than the flow, so that what may be forged is bounded:
//!
//! - of TCP, the quoted sequence number is one that its sender may have in flight (RFC 5927 section 4.1);
//! - "fragmentation needed" says no less than every path carries. It narrows the way to an *address*, for all who share that: of a
//!   site that shares its own with others it says no less than [`SHARED_MTU_MIN`].
//!
//! A stage of its own behind `clear` and `core`, each a program of its own in BPF.

use crate::abi::flow::{FlowKey, KeyWords, halves, word};
use crate::abi::interface::Settings;
use crate::abi::nat::OutsideKey;
use crate::abi::sa::LinkHeader;
use crate::abi::site::Block;
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::checksum::{Change, Sum};
use crate::packet::icmp::{self, Icmp, Query};
use crate::packet::ipv4::{self, Ipv4, is_host_address, protocol};
use crate::tables::Tables;
use crate::tables::words::Words;
use zerocopy::IntoBytes;

use super::back::share;
use super::clear::{Next, SITES, fitting, known_next_hop, leave, site_of};
use super::core::{is_further_ping, of_its_side, outbound, passed};
use super::filter::{self, Direction};
use super::inner::{IP, TRANSPORT};
use super::open::Stage;
use super::pmtu::IPV4_MTU_MIN;
use super::{Verdict, hairpin, tcp, worker};

/// Offset of the quoted packet in the frame.
const QUOTED_IP: u32 = TRANSPORT + icmp::LENGTH;
/// Offset of the quoted transport header. No packet of a flow has IP options.
const QUOTED_TRANSPORT: u32 = QUOTED_IP + ipv4::LENGTH;
/// What an error has at least: its header, the quoted IP header, and 8 bytes more (RFC 792).
const LENGTH_MIN: u32 = icmp::LENGTH + ipv4::LENGTH + 8;
/// What a site may say at least that its packets have to fit, where the address that it is translated to is others' as well: what
/// every link carries that IPv6 is used over. Their connections go on with a little less in a packet at worst.
const SHARED_MTU_MIN: u32 = 1280;
/// Where TCP has its checksum, which a short quote leaves out.
const TCP_CHECKSUM: u32 = 16;

/// An error and what it quotes, as far as they are looked at.
#[repr(C, align(4))]
#[derive(Clone, Copy)]
struct Report {
    ip: Ipv4,
    quoted: Ipv4,
    /// First 8 bytes of what the quoted packet carries.
    transport: [u8; 8],
    kind: [u8; 2],
    /// Of "fragmentation needed": what fits.
    mtu: [u8; 2],
    checksum: [u8; 2],
    /// Length of the ICMP message.
    length: u16,
}

/// The site's end of the quoted packet as it stands there, and as it stands where the error goes.
#[derive(Clone, Copy)]
struct Ends {
    /// Where the error goes.
    direction: Direction,
    /// What its TTL is less by.
    hops: u8,
    old: ([u8; 4], [u8; 2]),
    new: ([u8; 4], [u8; 2]),
}

/// An error that a site's host or router sends about a packet of the center. Its sender is hidden behind the site's
/// address, whoever it is (RFC 5508 REQ-5).
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn from_site<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let site = site_of(packet)?;
    let report = match Report::parse::<P, false>(packet) {
        Ok(report) => report,
        // To another site, which has asked.
        Err(DropReason::IcmpType) if hairpin::is_reply(packet) => return Ok(Next::Stage(Stage::Hairpin)),
        Err(reason) => return Err(reason),
    };
    if report.ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    let (source_port, destination_port) = report.ports(Direction::In)?;
    let key = FlowKey {
        site,
        source: report.quoted.destination,
        destination: report.quoted.source,
        source_port: destination_port,
        destination_port: source_port,
        protocol: report.quoted.protocol,
        pad: [0; 3],
    };
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let record = tables
        .flows()
        .find_record(&KeyWords::new(&key))
        .ok_or(DropReason::IcmpErrorUnmatched)?;
    alive(tables, settings, record)?;
    report.may_be_about(record, Direction::In)?;
    report.fits(mtu_min(tables, site)?)?;
    let hop = known_next_hop(tables, &key, record)?;
    let to_site = hop == SITES;
    if !to_site && !report.is_about_usual(Direction::In) {
        return Err(DropReason::IcmpErrorUnmatched);
    }
    let (address, nat) = halves(record.load(word::NAT));
    let [p0, p1, _, _] = nat.to_ne_bytes();
    let ends = Ends {
        direction: Direction::Out,
        // Between sites the second translation counts the hop.
        hops: u8::from(!to_site),
        old: (key.source, key.source_port),
        new: (address.to_ne_bytes(), [p0, p1]),
    };
    if to_site {
        report.translate(packet, &ends)?;
        return Ok(Next::Stage(Stage::HairpinError));
    }
    // No error about an error (RFC 1122 section 3.2.2).
    let hop = fitting(tables, hop, report.ip.total_length())?;
    report.translate(packet, &ends)?;
    leave(packet, hop).map(Next::Decided)
}

/// An error that a host or router of the center sends about a packet of a site. Its sender stays visible, as in a path
/// without translation (RFC 5508 REQ-4). Or a ping of a further address of the gateway, which the kernel answers.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn from_center<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let interface = tables.interface().ok_or(DropReason::InterfaceUnknown)?;
    if is_further_ping(packet, interface) {
        return passed();
    }
    inward::<P, T, false>(packet, tables)
}

/// An error of a site about a packet of another one, on the second half of its way: [`from_site`] has translated the end of
/// the site that it comes from, and it looks like one of the center now (RFC 5508 REQ-7).
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn between_sites<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    inward::<P, T, true>(packet, tables)
}

#[inline(always)]
fn inward<P: Packet, T: Tables, const BETWEEN: bool>(packet: &mut P, tables: &T) -> Result<Next, DropReason> {
    let interface = tables.interface().ok_or(DropReason::InterfaceUnknown)?;
    let report = Report::parse::<P, BETWEEN>(packet)?;
    if !BETWEEN {
        of_its_side(tables, interface, report.ip.source)?;
        if !report.is_about_usual(Direction::Out) {
            return Err(DropReason::IcmpErrorUnmatched);
        }
    }
    let (source_port, destination_port) = report.ports(Direction::Out)?;
    let outside = OutsideKey {
        address: report.quoted.source,
        port: source_port,
        protocol: report.quoted.protocol,
        pad: 0,
    };
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let entry = tables
        .flows()
        .find_answer(&outside, report.quoted.destination, destination_port)
        .ok_or(DropReason::IcmpErrorUnmatched)?;
    alive(tables, settings, entry.record)?;
    report.may_be_about(entry.record, Direction::Out)?;
    report.fits(IPV4_MTU_MIN)?;
    if report.ip.ttl <= 1 {
        return Err(DropReason::InnerTtl);
    }
    let sa = outbound(tables, entry.record, tables.epochs().sa)?;
    if report.ip.total_length() > sa.mtu && report.ip.dont_fragment() {
        // No error about an error (RFC 1122 section 3.2.2).
        return Err(DropReason::EspTooBig);
    }
    let path = if BETWEEN {
        Path::SiteToSite
    } else {
        Path::CoreForwarded
    };
    let verdict: Verdict = worker(tables, interface, path)?;
    let (site, source) = halves(entry.record.load(word::SITE_SOURCE));
    let [s0, s1, _, _] = halves(entry.record.load(word::DESTINATION_PORTS)).1.to_ne_bytes();
    let ends = Ends {
        direction: Direction::In,
        hops: 1,
        old: (report.quoted.source, source_port),
        new: (source.to_ne_bytes(), [s0, s1]),
    };
    report.translate(packet, &ends)?;
    packet
        .store(0, &LinkHeader::new(site, share(tables, sa)))
        .ok_or(DropReason::Internal)?;
    Ok(Next::Decided(verdict))
}

/// What an error of a site may say at least that fits.
#[inline(always)]
fn mtu_min<T: Tables>(tables: &T, site: u32) -> Result<u32, DropReason> {
    let lent = tables.site(site).ok_or(DropReason::UnknownSite)?;
    let is_alone = lent.blocks.first().is_some_and(Block::is_whole);
    // What was read may be another site's by now: it shares its address, for once.
    Ok(if is_alone && tables.is_site(lent, site) {
        IPV4_MTU_MIN
    } else {
        SHARED_MTU_MIN
    })
}

/// Only a live flow has errors.
#[inline(always)]
fn alive<V: Words, T: Tables>(tables: &T, settings: &Settings, record: V) -> Result<(), DropReason> {
    let (state, last_seen_s) = filter::state_and_last_seen_s(record);
    if filter::is_alive(state, last_seen_s, settings, tables.now_s()) {
        Ok(())
    } else {
        Err(DropReason::IcmpErrorUnmatched)
    }
}

impl Report {
    /// Parses an error that is whole, sound, of a type that is translated, and goes to who sent what it quotes.
    #[inline(never)]
    fn parse<P: Packet, const BETWEEN: bool>(packet: &P) -> Result<Self, DropReason> {
        let ip: Ipv4 = packet.load(IP).ok_or(DropReason::InnerMalformed)?;
        ip.check(packet.len().saturating_sub(IP))
            .map_err(|_| DropReason::InnerMalformed)?;
        let length = ip.total_length().saturating_sub(ipv4::LENGTH);
        if ip.protocol != protocol::ICMP || ip.is_fragment() {
            return Err(DropReason::IcmpType);
        }
        let header: Icmp = packet.load(TRANSPORT).ok_or(DropReason::TruncatedTransport)?;
        if !icmp::is_error(header.kind) {
            return Err(DropReason::IcmpType);
        }
        if length < LENGTH_MIN {
            return Err(DropReason::TruncatedTransport);
        }
        let quoted: Ipv4 = packet.load(QUOTED_IP).ok_or(DropReason::TruncatedTransport)?;
        let transport = packet
            .load(QUOTED_TRANSPORT)
            .ok_or(DropReason::TruncatedTransport)?;
        let report = Self {
            ip,
            quoted,
            transport,
            kind: [header.kind, header.code],
            mtu: header.sequence,
            checksum: header.checksum,
            length: length as u16,
        };
        // A site may call itself: both ends are one address then.
        if !report.is_plausible() || (!BETWEEN && report.ip.source == report.ip.destination) {
            return Err(DropReason::IcmpErrorUnmatched);
        }
        // RFC 5508 REQ-3: the message's checksum, and that of the quoted header.
        let sum = packet
            .sum(TRANSPORT, length)
            .ok_or(DropReason::IcmpErrorUnmatched)?;
        let header = Sum::default().bytes(quoted.as_bytes());
        if sum.finish() != [0; 2] || header.finish() != [0; 2] {
            return Err(DropReason::IcmpErrorUnmatched);
        }
        Ok(report)
    }

    /// Whether addresses are those of hosts, and the quote is of a packet that may have been ours: without options, with
    /// its transport header (the first fragment or all of it), of the one that the error goes to.
    #[inline(always)]
    fn is_plausible(&self) -> bool {
        const OFFSET: u16 = 0x1fff;
        is_host_address(self.ip.source)
            && self.ip.destination == self.quoted.source
            && self.quoted.version_length == 0x45
            && u16::from_be_bytes(self.quoted.fragment) & OFFSET == 0
    }

    /// Whether a quoted segment, which went in this `direction`, is one that its sender may have in flight.
    #[inline(always)]
    fn may_be_about<V: Words>(&self, record: V, direction: Direction) -> Result<(), DropReason> {
        let [_, _, _, _, s0, s1, s2, s3] = self.transport;
        if self.quoted.protocol != protocol::TCP
            || tcp::may_be_in_flight(record, u32::from_be_bytes([s0, s1, s2, s3]), direction)
        {
            return Ok(());
        }
        Err(DropReason::IcmpErrorUnmatched)
    }

    /// Whether "fragmentation needed" says `least` or more.
    #[inline(always)]
    fn fits(&self, least: u32) -> Result<(), DropReason> {
        let is_too_big = self.kind == [icmp::kind::UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED];
        if is_too_big && u32::from(u16::from_be_bytes(self.mtu)) < least {
            return Err(DropReason::PathMtuRefused);
        }
        Ok(())
    }

    /// Ports of the quoted packet, which went in this `direction`. Of an ICMP query, the identifier stands at the site's
    /// end; an error is none (RFC 1122 section 3.2.2: no error about an error).
    #[inline(always)]
    fn ports(&self, direction: Direction) -> Result<([u8; 2], [u8; 2]), DropReason> {
        let [p0, p1, p2, p3, p4, p5, ..] = self.transport;
        match self.quoted.protocol {
            protocol::TCP | protocol::UDP => Ok(([p0, p1], [p2, p3])),
            protocol::ICMP => {
                let query = Query::of(p0, p1).ok_or(DropReason::IcmpErrorUnmatched)?;
                Ok(match direction {
                    Direction::Out => ([p4, p5], query.port),
                    Direction::In => (query.port, [p4, p5]),
                })
            }
            _ => Ok(([0; 2], [0; 2])),
        }
    }

    /// Whether a quoted query went the usual way: sites ask the center, which answers. Between sites both do both.
    #[inline(always)]
    fn is_about_usual(&self, direction: Direction) -> bool {
        let [kind, code, ..] = self.transport;
        self.quoted.protocol != protocol::ICMP
            || Query::of(kind, code).is_some_and(|query| query.is_reply == matches!(direction, Direction::In))
    }

    /// Translates the error's sender (on the way out) or receiver (on the way in), the same end of the quoted packet,
    /// and all checksums: four of them. Decrements the TTL of the error, not that of the quote.
    #[inline(never)]
    fn translate<P: Packet>(&self, packet: &mut P, ends: &Ends) -> Result<(), DropReason> {
        let (outer_old, outer) = match ends.direction {
            Direction::Out => (self.ip.source, ipv4::SOURCE),
            Direction::In => (self.ip.destination, ipv4::DESTINATION),
        };
        let message = self.translate_quote(packet, ends)?;
        let stored = packet.store(TRANSPORT + 2, &message.apply(self.checksum));
        stored.ok_or(DropReason::Internal)?;
        let word = [self.ip.ttl.saturating_sub(ends.hops), self.ip.protocol];
        let [c0, c1] = Change::default()
            .double(outer_old, ends.new.0)
            .word(self.ip.ttl_word(), word)
            .apply(self.ip.checksum);
        let [ttl, protocol] = word;
        let stored = packet.store(IP + ipv4::TTL, &[ttl, protocol, c0, c1]);
        stored.ok_or(DropReason::Internal)?;
        let stored = packet.store(IP + outer, &ends.new.0);
        stored.ok_or(DropReason::Internal)
    }

    /// Translates the quoted packet; answers what has changed of the message.
    #[inline(never)]
    fn translate_quote<P: Packet>(&self, packet: &mut P, ends: &Ends) -> Result<Change, DropReason> {
        let ((old_address, old_port), (new_address, new_port)) = (ends.old, ends.new);
        let addresses = Change::default().double(old_address, new_address);
        let header = addresses.apply(self.quoted.checksum);
        // The site's end is the quoted packet's source if that went out, and the error comes in.
        let (address, of_site) = match ends.direction {
            Direction::Out => (ipv4::DESTINATION, 2),
            Direction::In => (ipv4::SOURCE, 0),
        };
        let stored = packet.store(QUOTED_IP + address, &new_address);
        stored.ok_or(DropReason::Internal)?;
        let stored = packet.store(QUOTED_IP + ipv4::TTL + 2, &header);
        stored.ok_or(DropReason::Internal)?;
        let message = addresses.word(self.quoted.checksum, header);

        let [_, _, i0, i1, _, _, u0, u1] = self.transport;
        let (port, offset, old) = match self.quoted.protocol {
            protocol::TCP => (of_site, TCP_CHECKSUM, self.tcp_checksum(packet)),
            protocol::UDP => (of_site, 6, Some([u0, u1])),
            protocol::ICMP => (4, 2, Some([i0, i1])),
            _ => return Ok(message),
        };
        let stored = packet.store(QUOTED_TRANSPORT + port, &new_port);
        stored.ok_or(DropReason::Internal)?;
        let message = message.word(old_port, new_port);
        let Some(old) = old else { return Ok(message) };
        let new = match self.quoted.protocol {
            protocol::UDP => addresses.word(old_port, new_port).apply_udp(old),
            protocol::TCP => addresses.word(old_port, new_port).apply(old),
            _ => Change::default().word(old_port, new_port).apply(old),
        };
        let stored = packet.store(QUOTED_TRANSPORT + offset, &new);
        stored.ok_or(DropReason::Internal)?;
        Ok(message.word(old, new))
    }

    /// The quoted TCP checksum, if the quote reaches that far.
    #[inline(always)]
    fn tcp_checksum<P: Packet>(&self, packet: &P) -> Option<[u8; 2]> {
        let quoted = u32::from(self.length).saturating_sub(icmp::LENGTH + ipv4::LENGTH);
        if quoted < TCP_CHECKSUM + 2 {
            return None;
        }
        packet.load(QUOTED_TRANSPORT + TCP_CHECKSUM)
    }
}
