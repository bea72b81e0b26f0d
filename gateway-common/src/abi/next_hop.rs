//! Next hops on the core side, written by the controller from routes and neighbours.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// Where a packet leaves to; value of the longest-prefix look-up by destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NextHop {
    /// Egress interface.
    pub ifindex: u32,
    /// 1: resolved; 0: the neighbour is not known (yet), packets are dropped and an event asks for it.
    pub resolved: u32,
    /// MAC address of the neighbour.
    pub destination_mac: [u8; 6],
    /// MAC address of the egress interface.
    pub source_mac: [u8; 6],
    /// Largest packet that the way there carries, in bytes.
    pub mtu: u32,
}

impl NextHop {
    /// Of a route that leads nowhere: packets are dropped.
    pub const NOWHERE: Self = Self {
        ifindex: 0,
        resolved: 0,
        destination_mac: [0; 6],
        source_mac: [0; 6],
        mtu: 0,
    };
}
abi_assert!(NextHop, size = 24, align = 4);
