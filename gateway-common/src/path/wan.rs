//! From outside: ESP goes to a worker, IKE and what IP itself needs to the kernel, all else is dropped.

use crate::abi::interface::Interface;
use crate::abi::sa::encapsulation;
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::{
    Packet,
    esp::{self, Esp},
    ethernet::{self, Ethernet, ether_type},
    icmp::{CODE_FRAGMENTATION_NEEDED, Icmp, kind, kind6},
    ike,
    ipv4::{self, Fault, Ipv4, protocol},
    ipv6::{self, Ipv6},
    udp::{self, Udp},
};
use crate::tables::Tables;

use super::{Outcome, Verdict, pmtu, worker};

/// Fragments that one source may send in a second, and all sources may.
const FRAGMENTS_PER_SOURCE_PER_S: u32 = 20_000;
const FRAGMENTS_PER_S: u32 = 100_000;

/// Hop limit of what no router has passed on.
const OWN_LINK: u8 = 255;

/// ICMP errors a second that the kernel gets, of all sources together: who forges them has as many as he likes. One that is lost
/// costs no more than a silent router does.
const KERNEL_ICMP_PER_S: u32 = 1000;
/// Where those are counted. No IKE source: a multicast address sends nothing.
const KERNEL_ICMP: [u8; 16] = [0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];

/// An address of either family as words in memory order; IPv4 in the first one, the rest is zero.
pub(super) type Address = [u32; 4];

/// The outer packet as far as both families share it.
pub(super) struct Outer {
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) family: u8,
    protocol: u8,
    /// Where the transport header begins in the frame.
    pub(super) offset: u32,
    /// Bytes from there to the end of the packet.
    pub(super) length: u32,
}

/// Decides on a frame from outside. It is never changed.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn wan<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let interface = tables.interface().ok_or(DropReason::InterfaceUnknown)?;
    let ether_type: [u8; 2] = packet
        .load(ethernet::ETHER_TYPE)
        .ok_or(DropReason::TruncatedLink)?;
    match ether_type {
        ether_type::IPV4 => {
            let outer = match outer_ipv4(packet) {
                Ok(outer) => outer,
                Err(DropReason::OuterFragment) => return fragment_ipv4(packet, tables, interface),
                Err(reason) => return Err(reason),
            };
            if outer.protocol == protocol::ICMP {
                return icmp(packet, tables, &outer, interface);
            }
            transport(packet, tables, &outer, interface)
        }
        ether_type::IPV6 => {
            let outer = match outer_ipv6(packet) {
                Ok(outer) => outer,
                Err(DropReason::OuterFragment) => return fragment_ipv6(packet, tables, interface),
                Err(reason) => return Err(reason),
            };
            if outer.protocol == protocol::ICMPV6 {
                return icmp6(packet, tables, &outer, interface);
            }
            transport(packet, tables, &outer, interface)
        }
        ether_type::ARP => Ok(Verdict::Pass(Path::WanPassed)),
        _ => Err(DropReason::UnknownEtherType),
    }
}

#[inline(always)]
fn outer_fault(fault: Fault) -> DropReason {
    match fault {
        Fault::Malformed => DropReason::MalformedIp,
        Fault::Truncated => DropReason::TruncatedIp,
        Fault::Options => DropReason::OuterOptions,
    }
}

#[inline(always)]
fn outer_ipv4<P: Packet>(packet: &P) -> Result<Outer, DropReason> {
    let words = packet
        .load_words(ethernet::LENGTH)
        .ok_or(DropReason::TruncatedIp)?;
    let available = packet.len().saturating_sub(ethernet::LENGTH);
    let ip = ipv4::Outer::read(words, available).map_err(outer_fault)?;
    if ip.is_fragment {
        return Err(DropReason::OuterFragment);
    }
    Ok(Outer {
        source: [ip.source, 0, 0, 0],
        destination: [ip.destination, 0, 0, 0],
        family: 4,
        protocol: ip.protocol,
        offset: ethernet::LENGTH + ipv4::LENGTH,
        length: ip.total_length.saturating_sub(ipv4::LENGTH),
    })
}

#[inline(always)]
fn outer_ipv6<P: Packet>(packet: &P) -> Result<Outer, DropReason> {
    let words = packet
        .load_words(ethernet::LENGTH)
        .ok_or(DropReason::TruncatedIp)?;
    let available = packet.len().saturating_sub(ethernet::LENGTH);
    let ip = ipv6::Outer::read(words, available).map_err(outer_fault)?;
    if ip.next_header == ipv6::FRAGMENT {
        return Err(DropReason::OuterFragment);
    }
    if ipv6::is_extension(ip.next_header) {
        return Err(DropReason::OuterOptions);
    }
    Ok(Outer {
        source: ip.source,
        destination: ip.destination,
        family: 6,
        protocol: ip.next_header,
        offset: ethernet::LENGTH + ipv6::LENGTH,
        length: ip.payload_length,
    })
}

/// A fragment of ESP or UDP waits at a worker for the others of its packet.
#[inline(never)]
fn fragment_ipv4<P: Packet, T: Tables>(packet: &P, tables: &T, interface: &Interface) -> Outcome {
    let ip: Ipv4 = packet.load(ethernet::LENGTH).ok_or(DropReason::TruncatedIp)?;
    let outer = Outer {
        source: widen(ip.source),
        destination: widen(ip.destination),
        family: 4,
        protocol: ip.protocol,
        offset: 0,
        length: 0,
    };
    fragment(tables, &outer, interface)
}

/// The same, where the fragment header is the only extension (RFC 8200 section 4.5).
#[inline(never)]
fn fragment_ipv6<P: Packet, T: Tables>(packet: &P, tables: &T, interface: &Interface) -> Outcome {
    let ip: Ipv6 = packet.load(ethernet::LENGTH).ok_or(DropReason::TruncatedIp)?;
    let [protocol, ..]: [u8; 8] = packet
        .load(ethernet::LENGTH + ipv6::LENGTH)
        .ok_or(DropReason::TruncatedIp)?;
    let outer = Outer {
        source: words(ip.source),
        destination: words(ip.destination),
        family: 6,
        protocol,
        offset: 0,
        length: 0,
    };
    fragment(tables, &outer, interface)
}

#[inline(always)]
fn fragment<T: Tables>(tables: &T, outer: &Outer, interface: &Interface) -> Outcome {
    if !matches!(outer.protocol, protocol::ESP | protocol::UDP) {
        return Err(DropReason::OuterFragment);
    }
    if !is_ours(outer, interface) {
        return Err(DropReason::OuterDestination);
    }
    let now_s = tables.now_s();
    // Not the key of an IKE source: its last octets are zero.
    let mut source = rate_limit_key(outer);
    source[15] = 1;
    if tables.count_ike(&source, now_s) > FRAGMENTS_PER_SOURCE_PER_S
        || tables.count_ike(&[0xff; 16], now_s) > FRAGMENTS_PER_S
    {
        return Err(DropReason::FragmentLimit);
    }
    worker(tables, interface, Path::WanFragment)
}

#[inline(always)]
fn transport<P: Packet, T: Tables>(packet: &P, tables: &T, outer: &Outer, interface: &Interface) -> Outcome {
    match outer.protocol {
        protocol::ESP => esp(
            packet,
            tables,
            outer,
            interface,
            encapsulation::PLAIN,
            outer.offset,
            outer.length,
        ),
        protocol::UDP => udp(packet, tables, outer, interface),
        _ => Err(DropReason::OuterProtocol),
    }
}

/// UDP 500 is IKE; UDP 4500 is IKE behind a marker, ESP, or a keepalive (RFC 3948 section 2).
#[inline(always)]
fn udp<P: Packet, T: Tables>(packet: &P, tables: &T, outer: &Outer, interface: &Interface) -> Outcome {
    let [ports, lengths] = packet.load_words(outer.offset).ok_or(DropReason::TruncatedUdp)?;
    let length =
        udp::fits(u32::from_be(lengths) >> 16, outer.length).ok_or(DropReason::TruncatedUdp)? - udp::LENGTH;
    let offset = outer.offset + udp::LENGTH;
    match (u32::from_be(ports) as u16).to_be_bytes() {
        udp::PORT_IKE => ike(packet, tables, outer, interface, offset, length),
        udp::PORT_NAT_TRAVERSAL => {
            if length == 1 && packet.load(offset) == Some([esp::KEEPALIVE]) {
                return Err(DropReason::NatKeepalive);
            }
            if length < 4 {
                return Err(DropReason::TruncatedUdp);
            }
            let [marker] = packet.load_words(offset).ok_or(DropReason::TruncatedUdp)?;
            if marker == u32::from_ne_bytes(esp::NON_ESP_MARKER) {
                let length = length.saturating_sub(4);
                return ike(packet, tables, outer, interface, offset + 4, length);
            }
            esp(
                packet,
                tables,
                outer,
                interface,
                encapsulation::UDP,
                offset,
                length,
            )
        }
        _ => Err(DropReason::OuterProtocol),
    }
}

#[inline(always)]
fn esp<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    outer: &Outer,
    interface: &Interface,
    encapsulation: u8,
    offset: u32,
    length: u32,
) -> Outcome {
    if length < esp::LENGTH_MIN {
        return Err(DropReason::TruncatedEsp);
    }
    let [spi, _sequence] = packet.load_words(offset).ok_or(DropReason::TruncatedEsp)?;
    let sa = tables
        .sa_inbound(spi.to_ne_bytes())
        .ok_or(DropReason::UnknownSpi)?;
    if sa.family != outer.family || words(sa.outer_destination) != outer.destination {
        return Err(DropReason::SaDestination);
    }
    // A peer that no NAT is in front of may send in UDP all the same (RFC 7296 section 2.23).
    if sa.encapsulation == encapsulation::UDP && encapsulation == encapsulation::PLAIN {
        return Err(DropReason::SaEncapsulation);
    }
    worker(tables, interface, Path::WanEsp)
}

/// SPI of the ESP packet in a frame, plain or in UDP.
#[inline(always)]
pub(super) fn spi<P: Packet>(packet: &P) -> Option<[u8; 4]> {
    let ethernet: Ethernet = packet.load(0)?;
    let (next, offset) = match ethernet.ether_type {
        ether_type::IPV4 => {
            let ip: Ipv4 = packet.load(ethernet::LENGTH)?;
            (ip.protocol, ethernet::LENGTH + ipv4::LENGTH)
        }
        ether_type::IPV6 => {
            let ip: Ipv6 = packet.load(ethernet::LENGTH)?;
            (ip.next_header, ethernet::LENGTH + ipv6::LENGTH)
        }
        _ => return None,
    };
    match next {
        protocol::ESP => Some(packet.load::<Esp>(offset)?.spi),
        protocol::UDP => {
            let header: Udp = packet.load(offset)?;
            let spi = packet.load::<Esp>(offset + udp::LENGTH)?.spi;
            (header.destination_port == udp::PORT_NAT_TRAVERSAL && spi != esp::NON_ESP_MARKER).then_some(spi)
        }
        _ => None,
    }
}

#[inline(always)]
fn ike<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    outer: &Outer,
    interface: &Interface,
    offset: u32,
    length: u32,
) -> Outcome {
    if !is_ours(outer, interface) {
        return Err(DropReason::OuterDestination);
    }
    if length < ike::LENGTH_MIN {
        return Err(DropReason::TruncatedUdp);
    }
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    let source = rate_limit_key(outer);
    let per_s = settings.ike_per_source_per_s;
    if tables.count_ike(&source, tables.now_s()) > per_s && !is_within_ike_sa(packet, tables, offset, per_s) {
        return Err(DropReason::IkeRateLimit);
    }
    Ok(Verdict::Pass(Path::WanIke))
}

/// Whether a message is on an IKE SA that stands, and one of so many on it in this second. Whoever forges its source does not
/// know the 64 random bits of our SPI, unless he sees the path: he uses up what the address may send, and not this.
#[inline(never)]
fn is_within_ike_sa<P: Packet, T: Tables>(packet: &P, tables: &T, offset: u32, per_s: u32) -> bool {
    let Some(spi) = packet.load_words(offset).and_then(ike::receiver_spi) else {
        return false;
    };
    (1..=per_s).contains(&tables.count_on_ike_sa(spi))
}

/// "Destination unreachable" only: PMTU discovery needs its code 4 (RFC 1191), sockets the others. What is about ESP is not
/// for the kernel ([`pmtu`]).
#[inline(always)]
fn icmp<P: Packet, T: Tables>(packet: &P, tables: &T, outer: &Outer, interface: &Interface) -> Outcome {
    let header: Icmp = packet.load(outer.offset).ok_or(DropReason::TruncatedIp)?;
    if header.kind != kind::UNREACHABLE {
        return Err(DropReason::OuterProtocol);
    }
    if !is_ours(outer, interface) {
        return Err(DropReason::OuterDestination);
    }
    if header.code == CODE_FRAGMENTATION_NEEDED {
        let mtu = u32::from(u16::from_be_bytes(header.sequence));
        return too_big(packet, tables, outer, mtu);
    }
    pass_error(tables)
}

/// What is about IKE is for the kernel, which cuts what the socket sends.
#[inline(always)]
fn too_big<P: Packet, T: Tables>(packet: &P, tables: &T, outer: &Outer, mtu: u32) -> Outcome {
    match pmtu::too_big(packet, tables, outer, mtu) {
        Some(reason) => Err(reason),
        None => pass_error(tables),
    }
}

/// Leaves an error to the kernel.
#[inline(always)]
fn pass_error<T: Tables>(tables: &T) -> Outcome {
    if tables.count_ike(&KERNEL_ICMP, tables.now_s()) > KERNEL_ICMP_PER_S {
        return Err(DropReason::IcmpLimit);
    }
    Ok(Verdict::Pass(Path::WanPassed))
}

/// Neighbour discovery of the own link (RFC 4861 sections 6.1 and 7.1: no router has passed it on, by its hop limit; the
/// kernel would find that out at a far higher price) and "packet too big" (RFC 8201).
#[inline(always)]
fn icmp6<P: Packet, T: Tables>(packet: &P, tables: &T, outer: &Outer, interface: &Interface) -> Outcome {
    let header: Icmp = packet.load(outer.offset).ok_or(DropReason::TruncatedIp)?;
    match header.kind {
        kind6::DISCOVERY_FIRST..=kind6::DISCOVERY_LAST => {
            let place = outer.offset.wrapping_sub(ipv6::LENGTH - ipv6::HOP_LIMIT);
            match packet.load::<u8>(place) {
                Some(OWN_LINK) => Ok(Verdict::Pass(Path::WanPassed)),
                _ => Err(DropReason::DiscoveryHopLimit),
            }
        }
        kind6::PACKET_TOO_BIG if is_ours(outer, interface) => {
            let ([m0, m1], [m2, m3]) = (header.identifier, header.sequence);
            too_big(packet, tables, outer, u32::from_be_bytes([m0, m1, m2, m3]))
        }
        kind6::PACKET_TOO_BIG => Err(DropReason::OuterDestination),
        _ => Err(DropReason::OuterProtocol),
    }
}

#[inline(always)]
fn is_ours(outer: &Outer, interface: &Interface) -> bool {
    let ours = if outer.family == 4 {
        widen(interface.ipv4)
    } else {
        words(interface.ipv6)
    };
    ours != [0; 4] && outer.destination == ours || is_further(outer, interface)
}

/// Whether the destination is an address that the interface has beside its first.
#[inline(never)]
fn is_further(outer: &Outer, interface: &Interface) -> bool {
    let destination = outer.destination;
    if destination == [0; 4] {
        return false;
    }
    if outer.family == 4 {
        let mut further = interface.further_ipv4.iter();
        return further.any(|address| widen(*address) == destination);
    }
    let mut further = interface.further_ipv6.iter();
    further.any(|address| words(*address) == destination)
}

/// One IPv4 address, or one IPv6 /64: its owner has all of it.
#[inline(always)]
fn rate_limit_key(outer: &Outer) -> [u8; 16] {
    let [a, b, _, _] = outer.source;
    zerocopy::transmute!([a, b, 0, 0])
}

#[inline(always)]
pub(super) fn words(address: [u8; 16]) -> Address {
    zerocopy::transmute!(address)
}

#[inline(always)]
pub(super) fn widen(address: [u8; 4]) -> Address {
    [u32::from_ne_bytes(address), 0, 0, 0]
}
