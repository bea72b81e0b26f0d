//! NAT mappings: endpoint-independent (RFC 4787 REQ-1), one table a direction.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::abi_assert;

/// Inside of a mapping.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct InsideKey {
    /// Site; sites share the same private addresses.
    pub site: u32,
    /// Inner address.
    pub address: [u8; 4],
    /// Port or ICMP query identifier, network order.
    pub port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}
abi_assert!(InsideKey, size = 12, align = 4);

/// Outside of a mapping.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct OutsideKey {
    /// Pool address.
    pub address: [u8; 4],
    /// Port or ICMP query identifier, network order.
    pub port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}
abi_assert!(OutsideKey, size = 8, align = 1);

/// Value of the inside table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Mapping {
    /// Pool address.
    pub address: [u8; 4],
    /// Port or ICMP query identifier, network order.
    pub port: [u8; 2],
    /// Zero.
    pub pad: [u8; 2],
    /// Coarse monotonic seconds of the last flow that was made from it.
    pub last_used_s: u32,
    /// Coarse monotonic seconds of its creation.
    pub created_s: u32,
}
abi_assert!(Mapping, size = 16, align = 4);
