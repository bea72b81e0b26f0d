//! Security associations as the packet path sees them: never a key.

use crate::abi_assert;

/// Values of [`SaInbound::encapsulation`].
pub mod encapsulation {
    /// ESP as IP protocol 50.
    pub const PLAIN: u8 = 0;
    /// ESP in UDP port 4500 (RFC 3948).
    pub const UDP: u8 = 1;
}

/// Inbound SA, found by SPI.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaInbound {
    /// Index in the owning worker's SA table.
    pub sa_index: u32,
    /// The worker that owns the SA.
    pub worker: u32,
    /// Site that the SA belongs to.
    pub site: u32,
    /// 4 or 6.
    pub family: u8,
    /// One of [`encapsulation`].
    pub encapsulation: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// Our outer address; IPv4 in the first four bytes, the rest zero.
    pub outer_destination: [u8; 16],
}
abi_assert!(SaInbound, size = 32, align = 4);

/// Longest-prefix key of the outbound look-up: all 32 bits of the site, then the inner destination's prefix.
/// (The trie's own prefix length is added by the map type.)
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaOutboundKey {
    /// Site, big-endian so that its bits come first.
    pub site: [u8; 4],
    /// Inner destination (an address of the site's LAN).
    pub destination: [u8; 4],
}
abi_assert!(SaOutboundKey, size = 8, align = 1);

/// Outbound SA, found by (site, inner destination).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaOutbound {
    /// Index in the owning worker's SA table.
    pub sa_index: u32,
    /// The worker that owns the SA.
    pub worker: u32,
    /// Largest inner packet that fits the tunnel, in bytes.
    pub mtu: u32,
}
abi_assert!(SaOutbound, size = 12, align = 4);

/// The 14-byte link header on the clear link (worker to `clear`) and on the way from `core` to a worker.
///
/// It has an Ethernet header's shape, so that any NIC or veth carries it; only the gateway's own programs read it.
/// Direction is known by the link it is on. A frame on the clear link comes from a worker alone: the link's other
/// end is not reachable from outside.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkHeader {
    /// `02:00` (locally administered unicast), then the site, big-endian. In place of the destination MAC.
    pub mark: [u8; 2],
    /// Site, big-endian.
    pub site: [u8; 4],
    /// `02:01`, in place of the first bytes of the source MAC.
    pub mark_sa: [u8; 2],
    /// Index of the SA (inbound on the clear link, outbound on the way to a worker), big-endian.
    pub sa_index: [u8; 4],
    /// `0x0800`, big-endian.
    pub ether_type: [u8; 2],
}
abi_assert!(LinkHeader, size = 14, align = 1);

/// Value of [`LinkHeader::mark`].
pub const LINK_MARK: [u8; 2] = [0x02, 0x00];
/// Value of [`LinkHeader::mark_sa`].
pub const LINK_MARK_SA: [u8; 2] = [0x02, 0x01];
