//! The outer headers of tunnel mode: what is built, what is received, what crosses between outer and inner.

pub mod ecn;
mod outer;
mod received;

pub use outer::OuterHeader;
pub use received::{Received, ReceivedError};

use core::net::IpAddr;

/// Octets of an Ethernet header.
pub const LINK_HEADER_LEN: usize = 14;
/// Octets of an IPv4 header without options.
pub const IPV4_HEADER_LEN: usize = 20;
/// Octets of an IPv6 header.
pub const IPV6_HEADER_LEN: usize = 40;
/// Octets of a UDP header.
pub const UDP_HEADER_LEN: usize = 8;
/// The most octets in front of the ESP header: Ethernet, IPv6, UDP.
pub(crate) const OUTER_LEN_MAX: usize = LINK_HEADER_LEN + IPV6_HEADER_LEN + UDP_HEADER_LEN;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ESP: u8 = 50;
/// The port of IKE and ESP through NATs (RFC 3948 section 2).
const PORT_NAT_T: u16 = 4500;

/// Ethernet addresses of the next hop and of this gateway's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkHeader {
    /// The next hop.
    pub destination: [u8; 6],
    /// The interface that sends.
    pub source: [u8; 6],
}

/// UDP ports of NAT traversal (RFC 3948).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpEncap {
    /// This gateway's port, as a rule 4500.
    pub local_port: u16,
    /// The peer's port, as its NAT shows it.
    pub remote_port: u16,
}

/// The don't-fragment flag of an outer IPv4 header (RFC 4301 section 8.1). IPv6 has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OuterDf {
    /// Always set. The default: an inner packet that does not fit is refused before it is sealed, so nothing of
    /// ours needs to be fragmented on the way, and path MTU discovery hears of a smaller path.
    #[default]
    Set,
    /// The inner packet's.
    Copy,
    /// Never set: for a path that loses the ICMP messages of path MTU discovery.
    Clear,
}

/// The path of an SA's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Outer source address.
    pub local: IpAddr,
    /// Outer destination address, of the same family.
    pub remote: IpAddr,
    /// ESP in UDP; `None` for plain ESP (protocol 50).
    pub udp: Option<UdpEncap>,
    /// Ethernet addresses.
    pub link: LinkHeader,
    /// Path MTU in octets, outer IP header included.
    pub mtu: u16,
    /// The outer don't-fragment flag.
    pub df: OuterDf,
}
