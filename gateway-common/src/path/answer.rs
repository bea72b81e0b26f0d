//! Answers to a packet that goes no further: a TCP reset or an ICMP error, made out of the packet itself and sent back, to a
//! site over [`super::back`], to the center by the link that the packet came by. A stage of its own: nothing of it is on the way of packets that pass.
//!
//! An answer comes from the address that the packet was sent to: the site's SA carries that address for certain, and the
//! sender's stack looks for it (RFC 1122 section 4.2.3.9).

use crate::abi::flow::{halves, pair};
use crate::abi::stats::Path;
use crate::abi::usage::TOTAL;
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::checksum::Sum;
use crate::packet::ethernet::{self, Ethernet};
use crate::packet::icmp::{CODE_FRAGMENTATION_NEEDED, CODE_PROHIBITED, kind};
use crate::packet::ipv4::{self, Ipv4, protocol};
use crate::packet::tcp::{self, Tcp, flag};
use crate::tables::Tables;
use crate::tables::words::Words;
use zerocopy::IntoBytes;

use super::back::{sa_to_site, to_site};
use super::clear::{Next, parse, site_of};
use super::filter::Direction;
use super::icmp::{self, Report};
use super::inner::{IP, Inner, TRANSPORT};
use super::open::{Stage, left};
use super::tcp::Segment;
use super::{Outcome, Verdict, limits};

/// TTL of an answer.
const TTL: u8 = 64;
/// Length of a reset: both headers without options.
const RESET: u32 = ipv4::LENGTH + tcp::LENGTH;

/// Why a site's packet goes no further, where its sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A rule rejects it: TCP gets a reset, all else "communication administratively prohibited".
    Rejected,
    /// It is too big for the tunnel of the site that it is for, and may not be fragmented (RFC 1191).
    TooBig {
        /// What would fit.
        mtu: u32,
    },
    /// It is too big for the link to the next hop, and may not be fragmented.
    NextHopTooBig {
        /// What would fit.
        mtu: u32,
    },
    /// Ports, or another thing that sites have a limit of, are used up (RFC 5508 REQ-8).
    Exhausted {
        /// What is.
        reason: DropReason,
    },
}

/// What it may be that is used up.
#[inline(always)]
const fn shortage(number: u32) -> Option<DropReason> {
    const ALL: [DropReason; 7] = [
        DropReason::NatExhausted,
        DropReason::SiteMappings,
        DropReason::SiteFlows,
        DropReason::SiteFlowRate,
        DropReason::SiteHalfOpen,
        DropReason::SiteShare,
        DropReason::FlowTableFull,
    ];
    let mut at = 0;
    while at < ALL.len() {
        if ALL[at] as u32 == number {
            return Some(ALL[at]);
        }
        at += 1;
    }
    None
}

/// Has the sender told that there is no room for a new flow; whatever else is the reason is not told.
///
/// # Errors
/// The reason.
#[inline(always)]
pub fn no_room<T: Tables>(tables: &T, reason: DropReason) -> Result<Next, DropReason> {
    match shortage(reason as u32) {
        Some(reason) => refuse(tables, Refusal::Exhausted { reason }),
        None => Err(reason),
    }
}

impl Refusal {
    /// What it is counted as.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::Rejected => DropReason::RuleRejected,
            Self::TooBig { .. } => DropReason::EspTooBig,
            Self::NextHopTooBig { .. } => DropReason::NextHopTooBig,
            Self::Exhausted { reason } => reason,
        }
    }

    /// Number and argument, as stages leave it for each other.
    #[inline(always)]
    const fn word(self) -> u64 {
        match self {
            Self::Rejected => pair(1, 0),
            Self::TooBig { mtu } => pair(2, mtu),
            Self::Exhausted { reason } => pair(3, reason as u32),
            Self::NextHopTooBig { mtu } => pair(4, mtu),
        }
    }

    #[inline(always)]
    const fn of(word: u64) -> Option<Self> {
        let (number, argument) = halves(word);
        match number {
            1 => Some(Self::Rejected),
            2 => Some(Self::TooBig { mtu: argument }),
            3 => match shortage(argument) {
                Some(reason) => Some(Self::Exhausted { reason }),
                None => None,
            },
            4 => Some(Self::NextHopTooBig { mtu: argument }),
            _ => None,
        }
    }
}

/// Has the sender of a packet that is not changed yet told why it goes no further.
///
/// # Errors
/// The refusal's own reason, if there is no room to say so.
#[inline(always)]
pub fn refuse<T: Tables>(tables: &T, refusal: Refusal) -> Result<Next, DropReason> {
    let scratch = tables.scratch().ok_or(refusal.reason())?;
    scratch.store(left::REFUSAL, refusal.word());
    Ok(Next::Stage(Stage::Answer))
}

/// The stage that answers.
///
/// # Errors
/// The refusal's reason if no answer may or can be sent; the frame is not changed then. An answered packet is counted
/// under the same reason.
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let scratch = tables.scratch().ok_or(DropReason::Internal)?;
    let refusal = Refusal::of(scratch.load(left::REFUSAL)).ok_or(DropReason::Internal)?;
    let reason = refusal.reason();
    let verdict = send(packet, tables, refusal).map_err(|_| reason)?;
    tables.count_drop(reason);
    Ok(verdict)
}

/// The stage that answers a packet of the center. The gateway's answers to the center have one limit for all: what a site
/// may be sent, counted with the sum of all sites.
///
/// # Errors
/// As [`answer`].
#[inline(always)]
pub fn answer_center<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let scratch = tables.scratch().ok_or(DropReason::Internal)?;
    let refusal = Refusal::of(scratch.load(left::REFUSAL)).ok_or(DropReason::Internal)?;
    let reason = refusal.reason();
    reflect(packet, tables, refusal).map_err(|_| reason)?;
    tables.count_drop(reason);
    Ok(Verdict::Reflect(Path::CenterAnswered))
}

#[inline(always)]
fn reflect<P: Packet, T: Tables>(packet: &mut P, tables: &T, refusal: Refusal) -> Result<(), DropReason> {
    let inner = Inner::parse(packet, Direction::In)?;
    let link: Ethernet = packet.load(0).ok_or(DropReason::Internal)?;
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    limits::answer(tables, TOTAL, settings, tables.now_s(), refusal.reason())?;
    let link = Ethernet {
        destination: link.source,
        source: link.destination,
        ether_type: link.ether_type,
    };
    packet.store(0, &link).ok_or(DropReason::Internal)?;
    write(packet, &inner, refusal)
}

/// Turns the packet into the answer, if limits let it.
#[inline(always)]
fn send<P: Packet, T: Tables>(packet: &mut P, tables: &T, refusal: Refusal) -> Outcome {
    let site = site_of(packet)?;
    let inner = parse(packet)?;
    let sa = sa_to_site(tables, site, inner.ip.source)?;
    let settings = tables.settings().ok_or(DropReason::Internal)?;
    limits::answer(tables, site, settings, tables.now_s(), refusal.reason())?;
    let verdict = to_site(packet, tables, site, sa, Path::SiteAnswered)?;
    write(packet, &inner, refusal)?;
    Ok(verdict)
}

/// Writes the answer behind the link header that the frame has.
#[inline(never)]
fn write<P: Packet>(packet: &mut P, inner: &Inner, refusal: Refusal) -> Result<(), DropReason> {
    let mut report = Report {
        source: inner.ip.destination,
        kind: kind::UNREACHABLE,
        code: CODE_PROHIBITED,
        rest: [0; 4],
    };
    match refusal {
        Refusal::Rejected if inner.ip.protocol == protocol::TCP => return reset(packet, inner),
        Refusal::Rejected | Refusal::Exhausted { .. } => {}
        Refusal::TooBig { mtu } | Refusal::NextHopTooBig { mtu } => {
            let [m0, m1] = (if mtu > 0xffff { 0xffff } else { mtu as u16 }).to_be_bytes();
            report.code = CODE_FRAGMENTATION_NEEDED;
            report.rest = [0, 0, m0, m1];
        }
    }
    icmp::report(packet, &inner.ip, &report)
}

/// Turns a segment, never a reset itself, into the reset that a closed port answers it with (RFC 9293 section 3.10.7.1).
#[inline(always)]
fn reset<P: Packet>(packet: &mut P, inner: &Inner) -> Result<(), DropReason> {
    let header = reset_header(inner).ok_or(DropReason::TcpState)?;
    let mut ip = Ipv4 {
        version_length: 0x45,
        traffic_class: 0,
        total_length: (RESET as u16).to_be_bytes(),
        identification: [0; 2],
        fragment: [0x40, 0],
        ttl: TTL,
        protocol: protocol::TCP,
        checksum: [0; 2],
        source: inner.ip.destination,
        destination: inner.ip.source,
    };
    ip.checksum = Sum::default().bytes(ip.as_bytes()).finish();
    packet
        .truncate(ethernet::LENGTH + RESET)
        .ok_or(DropReason::Internal)?;
    packet.store(IP, &ip).ok_or(DropReason::Internal)?;
    packet.store(TRANSPORT, &header).ok_or(DropReason::Internal)
}

/// The header of the reset, with its checksum.
#[inline(always)]
fn reset_header(inner: &Inner) -> Option<Tcp> {
    let Segment {
        acknowledgment,
        flags,
        ..
    } = inner.segment;
    if flags & flag::RST != 0 {
        return None;
    }
    let has_ack = flags & flag::ACK != 0;
    // <SEQ=SEG.ACK><CTL=RST>, or <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
    let (sequence, acknowledgment, flags) = if has_ack {
        (acknowledgment, 0, flag::RST)
    } else {
        (0, inner.segment.end(), flag::RST | flag::ACK)
    };
    let mut header = Tcp {
        source_port: inner.ports.destination(),
        destination_port: inner.ports.source(),
        sequence: sequence.to_be_bytes(),
        acknowledgment: acknowledgment.to_be_bytes(),
        data_offset: ((tcp::LENGTH / 4) << 4) as u8,
        flags,
        window: [0; 2],
        checksum: [0; 2],
        urgent: [0; 2],
    };
    header.checksum = Sum::default()
        .bytes(&inner.ip.source)
        .bytes(&inner.ip.destination)
        .bytes(&[0, protocol::TCP])
        .bytes(&(tcp::LENGTH as u16).to_be_bytes())
        .bytes(header.as_bytes())
        .finish();
    Some(header)
}
