//! Attached interfaces and settings.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// Roles of an interface, the value of [`Interface::role`].
pub mod role {
    /// Outer side: ESP and IKE.
    pub const WAN: u32 = 1;
    /// Center side: clear IPv4 of the servers.
    pub const CORE: u32 = 2;
    /// The gateway's own clear link, XDP end.
    pub const CLEAR: u32 = 3;
}

/// An interface that carries one of the XDP programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Interface {
    /// One of [`role`].
    pub role: u32,
    /// First slot in `XSKS`; the receive queue's number is added.
    pub xsk_base: u32,
    /// Receive queues, at most `limit::QUEUES_MAX`.
    pub queues: u32,
    /// This interface's own IPv4 address (ESP to another destination is dropped); zero if none.
    pub ipv4: [u8; 4],
    /// This interface's own global IPv6 address; zero if none.
    pub ipv6: [u8; 16],
    /// MAC address.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}
abi_assert!(Interface, size = 40, align = 4);

/// What the operator may set for the packet path as a whole; times in seconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// New flows idle in TCP handshake.
    pub tcp_opening_s: u32,
    /// Established TCP (RFC 5382 REQ-5: at least 2 h 4 min).
    pub tcp_established_s: u32,
    /// TCP after FIN or RST (RFC 5382 REQ-5: at least 4 min for transitory).
    pub tcp_closing_s: u32,
    /// UDP that was answered and answered again (RFC 4787 REQ-5: at least 2 min).
    pub udp_s: u32,
    /// ICMP query (RFC 5508 REQ-2: at least 60 s).
    pub icmp_s: u32,
    /// IKE datagrams a second that one source may send to user space.
    pub ike_per_source_per_s: u32,
    /// Lowest port of NAPT.
    pub port_low: u16,
    /// Highest port of NAPT.
    pub port_high: u16,
}
abi_assert!(Settings, size = 28, align = 4);

/// Token bucket of one IKE source.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RateBucket {
    /// Second in which the count began.
    pub second: u32,
    /// Datagrams in that second.
    pub count: u32,
}
abi_assert!(RateBucket, size = 8, align = 4);
