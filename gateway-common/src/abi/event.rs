//! Events that the packet path sends to the controller through the ring buffer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// Kinds of event at most: their numbers are below.
pub const KINDS: u32 = 8;

/// Values of [`Event::kind`].
pub mod kind {
    /// A packet was denied by a rule with `log`, or by the default deny.
    pub const DENIED: u32 = 1;
    /// A flow was made by a rule with `log`.
    pub const FLOW_CREATED: u32 = 2;
    /// A packet to a site has no outbound SA.
    pub const NO_SA: u32 = 3;
    /// A destination on the core side has no resolved next hop.
    pub const NEXT_HOP_MISSING: u32 = 4;
    /// A site's port blocks have few free ports left, or none.
    pub const PORTS_SHORT: u32 = 5;
    /// A router says that the path of an outbound SA carries less than it was taken to. The event's `rule` is the SA's index,
    /// `generation` the MTU of the path, `source` the SPI.
    pub const PATH_MTU: u32 = 6;
}

/// Value of [`Event::rule`] when no rule matched.
pub const RULE_DEFAULT: u32 = u32::MAX;
/// Value of [`Event::rule`] and of a flow's rule when a publication decided.
pub const RULE_PUBLICATION: u32 = u32::MAX - 1;

/// One event.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Event {
    /// One of [`kind`].
    pub kind: u32,
    /// Site, or zero.
    pub site: u32,
    /// Rule index in the operator's file, or [`RULE_DEFAULT`].
    pub rule: u32,
    /// Rule generation.
    pub generation: u32,
    /// Source address before translation.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// Source port.
    pub source_port: [u8; 2],
    /// Destination port.
    pub destination_port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
abi_assert!(Event, size = 32, align = 4);
