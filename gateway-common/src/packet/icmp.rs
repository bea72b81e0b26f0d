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
