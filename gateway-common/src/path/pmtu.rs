//! ICMP "too big" about our own ESP (RFC 1191, RFC 8201; RFC 4301 section 8.2): the one thing that the unprotected side may
//! tell a tunnel. It is heeded only if it proves to know a packet of ours, and can do little then:
//!
//! - it quotes an ESP packet, plain or in UDP, of an outbound SA that is live: SPI, both addresses and both ports are its own.
//!   The SPI is 32 bits that only the path sees (RFC 5927 section 4.1);
//! - the MTU that it says is below the present one and not below what every path carries;
//! - its checksum is right.
//!
//! The controller hears of it and lowers the SA's MTU for a while. Nothing of it is passed to the kernel, whose own PMTU of
//! the UDP path would otherwise follow what anybody quotes of ESP in UDP.

use crate::abi::event::{Event, kind as event_kind};
use crate::abi::sa::SaPathKey;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::checksum::Sum;
use crate::packet::esp;
use crate::packet::ethernet;
use crate::packet::icmp;
use crate::packet::ipv4::{self, Ipv4, protocol};
use crate::packet::ipv6::{self, Ipv6};
use crate::packet::udp::{self, Udp};
use crate::tables::Tables;
use zerocopy::IntoBytes;

use super::limits;
use super::wan::{Address, Outer, widen, words};

/// What every IPv4 path is taken to carry: RFC 1191 would let 68 pass, which no link has had for decades and which would
/// leave next to nothing of a tunnel.
pub const IPV4_MTU_MIN: u32 = 576;
/// What every IPv6 path carries; RFC 8201 section 4 has a node discard what says less.
pub const IPV6_MTU_MIN: u32 = 1280;

/// Where quoted packets begin in the frame, which has neither IP options nor extension headers. Constants, not
/// [`Outer::offset`]: the verifier sees then that what is read lies in the frame.
const QUOTED_IPV4: u32 = ethernet::LENGTH + ipv4::LENGTH + icmp::LENGTH;
const QUOTED_IPV6: u32 = ethernet::LENGTH + ipv6::LENGTH + icmp::LENGTH;

/// The ESP packet that an error quotes.
struct Quote {
    source: Address,
    destination: Address,
    spi: [u8; 4],
    /// Our UDP port and the peer's; zero of plain ESP.
    ports: [u8; 4],
}

/// Judges a "too big" that says `mtu`. `None` if it quotes no ESP.
#[inline(never)]
pub(super) fn too_big<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    outer: &Outer,
    mtu: u32,
) -> Option<DropReason> {
    let quote = if outer.family == 4 {
        quoted_ipv4(packet, outer)
    } else {
        quoted_ipv6(packet, outer)
    }?;
    if heed(packet, tables, outer, &quote, mtu) {
        Some(DropReason::PathMtu)
    } else {
        Some(DropReason::PathMtuRefused)
    }
}

/// Has the controller told, if the error is to be believed.
#[inline(always)]
fn heed<P: Packet, T: Tables>(packet: &P, tables: &T, outer: &Outer, quote: &Quote, mtu: u32) -> bool {
    let floor = if outer.family == 4 {
        IPV4_MTU_MIN
    } else {
        IPV6_MTU_MIN
    };
    let key = SaPathKey {
        remote: zerocopy::transmute!(quote.destination),
        spi: quote.spi,
        ports: quote.ports,
    };
    let Some(path) = tables.sa_path(&key) else {
        return false;
    };
    let is_ours =
        path.family == outer.family && words(path.local) == quote.source && outer.destination == quote.source;
    if !is_ours || mtu < floor || mtu >= path.mtu || !checksum_is_right(packet, outer) {
        return false;
    }
    if !limits::event(tables, path.site, event_kind::PATH_MTU) {
        return true;
    }
    tables.event(&Event {
        kind: event_kind::PATH_MTU,
        site: path.site,
        rule: path.sa_index,
        generation: mtu,
        source: quote.spi,
        destination: [0; 4],
        source_port: [0; 2],
        destination_port: [0; 2],
        protocol: protocol::ESP,
        pad: [0; 3],
    });
    true
}

#[inline(always)]
fn quoted_ipv4<P: Packet>(packet: &P, outer: &Outer) -> Option<Quote> {
    let ip: Ipv4 = packet.load(QUOTED_IPV4)?;
    if ip.version_length != 0x45 || ip.is_later_fragment() {
        return None;
    }
    let left = outer.length.checked_sub(icmp::LENGTH + ipv4::LENGTH)?;
    let (spi, ports) = quoted_esp(packet, ip.protocol, QUOTED_IPV4 + ipv4::LENGTH, left)?;
    Some(Quote {
        source: widen(ip.source),
        destination: widen(ip.destination),
        spi,
        ports,
    })
}

#[inline(always)]
fn quoted_ipv6<P: Packet>(packet: &P, outer: &Outer) -> Option<Quote> {
    let ip: Ipv6 = packet.load(QUOTED_IPV6)?;
    if ip.version_class_flow[0] >> 4 != 6 {
        return None;
    }
    let left = outer.length.checked_sub(icmp::LENGTH + ipv6::LENGTH)?;
    let (spi, ports) = quoted_esp(packet, ip.next_header, QUOTED_IPV6 + ipv6::LENGTH, left)?;
    Some(Quote {
        source: words(ip.source),
        destination: words(ip.destination),
        spi,
        ports,
    })
}

/// SPI and ports of the ESP at `at`, of which `left` bytes are quoted. Of ESP in UDP that takes 12 bytes, more than the 8
/// that RFC 792 promises; RFC 1812 section 4.3.2.3 has routers quote as much as fits.
#[inline(always)]
fn quoted_esp<P: Packet>(packet: &P, carried: u8, at: u32, left: u32) -> Option<([u8; 4], [u8; 4])> {
    const SPI: u32 = 4;
    if carried == protocol::ESP && left >= SPI {
        return Some((packet.load::<[u8; 4]>(at)?, [0; 4]));
    }
    if carried != protocol::UDP || left < udp::LENGTH + SPI {
        return None;
    }
    let header: Udp = packet.load(at)?;
    let spi: [u8; 4] = packet.load(at + udp::LENGTH)?;
    if header.source_port != udp::PORT_NAT_TRAVERSAL || spi == esp::NON_ESP_MARKER {
        return None;
    }
    let ([s0, s1], [d0, d1]) = (header.source_port, header.destination_port);
    Some((spi, [s0, s1, d0, d1]))
}

/// RFC 1122 section 3.2.2, RFC 4443 section 2.3.
#[inline(always)]
fn checksum_is_right<P: Packet>(packet: &P, outer: &Outer) -> bool {
    let Some(message) = packet.sum(outer.offset, outer.length) else {
        return false;
    };
    let sum = if outer.family == 4 {
        message
    } else {
        pseudo_header(message, outer)
    };
    sum.finish() == [0; 2]
}

#[inline(always)]
fn pseudo_header(message: Sum, outer: &Outer) -> Sum {
    message
        .bytes(outer.source.as_bytes())
        .bytes(outer.destination.as_bytes())
        .bytes(&outer.length.to_be_bytes())
        .bytes(&[0, 0, 0, protocol::ICMPV6])
}
