//! ICMP errors (RFC 792), made out of the packet that they are about.

use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::checksum::Sum;
use crate::packet::ethernet::{self, Ethernet};
use crate::packet::icmp::{self, CODE_FRAGMENTATION_NEEDED, Icmp, kind};
use crate::packet::ipv4::{self, Ipv4, protocol};
use zerocopy::IntoBytes;

/// Quoted of the packet: its IP header and 8 bytes more (RFC 792).
const QUOTE: u32 = ipv4::LENGTH + 8;
/// Headers in front of the quote, without the link's.
const HEADERS: u32 = ipv4::LENGTH + icmp::LENGTH;
/// TTL of the answer.
const TTL: u8 = 64;

/// Turns the frame, not changed yet, into an answer to its sender that says `mtu`. It comes from `own`, or where the
/// interface has no address, from the address that the packet was sent to.
///
/// # Errors
/// [`DropReason::Internal`] if the head cannot be moved.
#[inline(never)]
pub fn answer_too_big<P: Packet>(
    packet: &mut P,
    link: &Ethernet,
    original: &Ipv4,
    own: [u8; 4],
    mtu: u32,
) -> Result<(), DropReason> {
    let link = Ethernet {
        destination: link.source,
        source: link.destination,
        ether_type: link.ether_type,
    };
    packet.store(0, &link).ok_or(DropReason::Internal)?;
    let [m0, m1] = (if mtu > 0xffff { 0xffff } else { mtu as u16 }).to_be_bytes();
    let error = Report {
        source: if own == [0; 4] { original.destination } else { own },
        kind: kind::UNREACHABLE,
        code: CODE_FRAGMENTATION_NEEDED,
        rest: [0, 0, m0, m1],
    };
    report(packet, original, &error)
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Its source.
    pub source: [u8; 4],
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four bytes behind the checksum.
    pub rest: [u8; 4],
}

/// Turns a frame into an ICMP error about its packet, whose header is `original`. The frame keeps its link header.
///
/// # Errors
/// [`DropReason::Internal`] if the head cannot be moved.
#[inline(always)]
pub fn report<P: Packet>(packet: &mut P, original: &Ipv4, report: &Report) -> Result<(), DropReason> {
    let link: [u8; ethernet::LENGTH as usize] = packet.load(0).ok_or(DropReason::Internal)?;
    packet.grow_head(HEADERS).ok_or(DropReason::Internal)?;
    packet
        .truncate(ethernet::LENGTH + HEADERS + QUOTE)
        .ok_or(DropReason::Internal)?;
    packet.store(0, &link).ok_or(DropReason::Internal)?;

    let mut ip = Ipv4 {
        version_length: 0x45,
        traffic_class: 0,
        total_length: ((HEADERS + QUOTE) as u16).to_be_bytes(),
        identification: [0; 2],
        fragment: [0x40, 0],
        ttl: TTL,
        protocol: protocol::ICMP,
        checksum: [0; 2],
        source: report.source,
        destination: original.source,
    };
    ip.checksum = Sum::default().bytes(ip.as_bytes()).finish();
    packet.store(ethernet::LENGTH, &ip).ok_or(DropReason::Internal)?;

    let quote: [u8; QUOTE as usize] = packet
        .load(ethernet::LENGTH + HEADERS)
        .ok_or(DropReason::Internal)?;
    let [r0, r1, r2, r3] = report.rest;
    let mut header = Icmp {
        kind: report.kind,
        code: report.code,
        checksum: [0; 2],
        identifier: [r0, r1],
        sequence: [r2, r3],
    };
    header.checksum = Sum::default().bytes(header.as_bytes()).bytes(&quote).finish();
    packet
        .store(ethernet::LENGTH + ipv4::LENGTH, &header)
        .ok_or(DropReason::Internal)
}
