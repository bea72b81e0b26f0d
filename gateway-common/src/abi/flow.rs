//! Tracked connections.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// A flow seen from the site: what the `clear` program parses before translation.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowKey {
    /// Site.
    pub site: u32,
    /// Inner source address (the site's own).
    pub source: [u8; 4],
    /// Inner destination address (the center's).
    pub destination: [u8; 4],
    /// Source port, or the identifier of an ICMP query; network order.
    pub source_port: [u8; 2],
    /// Destination port; zero for ICMP; network order.
    pub destination_port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
abi_assert!(FlowKey, size = 20, align = 4);

/// Values of [`Flow::state`].
pub mod state {
    /// TCP SYN from the site seen.
    pub const TCP_SYN_SENT: u8 = 1;
    /// TCP SYN+ACK from the center seen.
    pub const TCP_SYN_RECEIVED: u8 = 2;
    /// TCP handshake complete.
    pub const TCP_ESTABLISHED: u8 = 3;
    /// FIN seen from one side.
    pub const TCP_FIN: u8 = 4;
    /// FIN seen from both sides, or RST.
    pub const TCP_CLOSED: u8 = 5;
    /// UDP or ICMP query not answered yet.
    pub const UNREPLIED: u8 = 6;
    /// UDP or ICMP query answered.
    pub const REPLIED: u8 = 7;
}

/// A tracked connection with its translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Flow {
    /// Packets from site to center.
    pub packets_out: u64,
    /// Bytes (IP length) from site to center.
    pub bytes_out: u64,
    /// Packets from center to site.
    pub packets_in: u64,
    /// Bytes (IP length) from center to site.
    pub bytes_in: u64,
    /// Coarse monotonic seconds of the last packet.
    pub last_seen_s: u32,
    /// Coarse monotonic seconds of the first packet.
    pub created_s: u32,
    /// Rule generation that allowed it.
    pub generation: u32,
    /// [`Rule::source_rule`](super::rule::Rule::source_rule) of the rule that allowed it.
    pub rule: u32,
    /// Translated source address.
    pub nat_address: [u8; 4],
    /// Translated source port or ICMP identifier.
    pub nat_port: [u8; 2],
    /// One of [`state`].
    pub state: u8,
    /// Bit 0: FIN seen from the site; bit 1: FIN seen from the center.
    pub fins: u8,
}
abi_assert!(Flow, size = 56, align = 8);
