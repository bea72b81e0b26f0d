//! ICMP (RFC 792) and the ICMPv6 types that an IPsec gateway needs (RFC 4443, RFC 4861).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header.
pub const LENGTH: u32 = 8;

/// Values of [`Icmp::kind`].
pub mod kind {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Timestamp request.
    pub const TIMESTAMP: u8 = 13;
    /// Timestamp reply.
    pub const TIMESTAMP_REPLY: u8 = 14;
}

/// A query that is tracked, or the reply to one (RFC 792): both have an identifier at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Stands where other protocols have the port of the end that is asked, so that queries of different types with one
    /// identifier are different flows. Zero for echo.
    pub port: [u8; 2],
    /// It is the reply.
    pub is_reply: bool,
}

impl Query {
    /// What a type and code say; `None` if it is no query that is tracked.
    #[inline(always)]
    #[must_use]
    pub const fn of(kind: u8, code: u8) -> Option<Self> {
        let (port, is_reply) = match (kind, code) {
            (kind::ECHO, 0) => ([0; 2], false),
            (kind::ECHO_REPLY, 0) => ([0; 2], true),
            (kind::TIMESTAMP, 0) => ([0, kind::TIMESTAMP], false),
            (kind::TIMESTAMP_REPLY, 0) => ([0, kind::TIMESTAMP], true),
            _ => return None,
        };
        Some(Self { port, is_reply })
    }

    /// The type of the request, by the port that stands for it.
    #[inline(always)]
    #[must_use]
    pub const fn kind_of([_, low]: [u8; 2]) -> u8 {
        match low {
            0 => kind::ECHO,
            other => other,
        }
    }
}

/// Whether a type is an error that is translated: it quotes the packet that it is about. Not source quench, which is
/// obsolete (RFC 6633), and not redirects, which are for the sender's own link.
#[inline(always)]
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    matches!(
        kind,
        kind::UNREACHABLE | kind::TIME_EXCEEDED | kind::PARAMETER_PROBLEM
    )
}

/// Code of "fragmentation needed and DF set" under [`kind::UNREACHABLE`].
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;

/// Code of "communication administratively prohibited" under [`kind::UNREACHABLE`] (RFC 1812 section 5.2.7.1).
pub const CODE_PROHIBITED: u8 = 13;

/// Values of [`Icmp::kind`] in ICMPv6.
pub mod kind6 {
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// First of neighbour discovery (router solicitation).
    pub const DISCOVERY_FIRST: u8 = 133;
    /// Last of neighbour discovery (redirect).
    pub const DISCOVERY_LAST: u8 = 137;
}

/// The header; of an echo, or of "fragmentation needed" with `sequence` as the next hop's MTU (RFC 1191).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Icmp {
    /// One of [`kind`] or [`kind6`], or another.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub checksum: [u8; 2],
    /// Identifier of a query.
    pub identifier: [u8; 2],
    /// Sequence number of a query.
    pub sequence: [u8; 2],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum::Sum;

    #[test]
    fn golden_bytes() {
        let bytes = [0x08, 0x00, 0xe5, 0xca, 0x12, 0x34, 0x00, 0x01];
        let header = Icmp::read_from_bytes(&bytes).unwrap();
        assert_eq!((header.kind, header.code), (kind::ECHO, 0));
        assert_eq!((header.identifier, header.sequence), ([0x12, 0x34], [0, 1]));
        assert_eq!(Sum::default().bytes(&bytes).finish(), [0, 0]);
    }
}
