//! Traffic selectors (RFC 4301 section 4.4.1.1, RFC 7296 section 3.13).

use crate::{ConfigError, Flow};
use core::net::Ipv4Addr;

/// Which ports (or ICMP types and codes) a selector matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortRange {
    /// Every packet, also one whose port is not to be seen (0 to 65535 on the wire).
    Any,
    /// Only packets whose port is not to be seen, such as later fragments (65535 to 0 on the wire).
    Opaque,
    /// Packets whose port is seen and lies between these, both included.
    Between(u16, u16),
}

impl PortRange {
    /// The meaning of a selector's start and end port on the wire (RFC 7296 section 3.13.1).
    pub const fn from_wire(start: u16, end: u16) -> Self {
        match (start, end) {
            (0, u16::MAX) => Self::Any,
            (u16::MAX, 0) => Self::Opaque,
            _ => Self::Between(start, end),
        }
    }

    #[inline]
    fn contains(self, port: Option<u16>) -> bool {
        match (self, port) {
            (Self::Any, _) | (Self::Opaque, None) => true,
            (Self::Between(first, last), Some(port)) => first <= port && port <= last,
            (Self::Opaque, Some(_)) | (Self::Between(..), None) => false,
        }
    }
}

/// One IPv4 traffic selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// IP protocol number; 0 matches every protocol.
    pub protocol: u8,
    /// Ports, or for ICMP the type in the high octet and the code in the low one.
    pub ports: PortRange,
    /// First address.
    pub first: Ipv4Addr,
    /// Last address, included.
    pub last: Ipv4Addr,
}

impl TrafficSelector {
    /// Everything: any protocol, port and address.
    pub const ANY: Self = Self {
        protocol: 0,
        ports: PortRange::Any,
        first: Ipv4Addr::UNSPECIFIED,
        last: Ipv4Addr::BROADCAST,
    };

    /// Any protocol and port between two addresses, both included.
    pub const fn addresses(first: Ipv4Addr, last: Ipv4Addr) -> Self {
        Self {
            protocol: 0,
            ports: PortRange::Any,
            first,
            last,
        }
    }

    #[inline]
    fn contains(&self, protocol: u8, address: Ipv4Addr, port: Side) -> bool {
        (self.protocol == 0 || self.protocol == protocol)
            && self.first <= address
            && address <= self.last
            && match port {
                Side::Port(port) => self.ports.contains(port),
                Side::Unchecked => true,
            }
    }
}

/// What one side's selector has to say about the packet's port.
#[derive(Clone, Copy)]
enum Side {
    Port(Option<u16>),
    /// An ICMP message has one type and code, which the sender's selector speaks about (RFC 4301 section
    /// 4.4.1.1); the other side's says nothing.
    Unchecked,
}

/// The traffic selectors of a Child SA, seen from this gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selectors {
    /// What lies behind this gateway.
    pub local: Box<[TrafficSelector]>,
    /// What lies behind the peer.
    pub remote: Box<[TrafficSelector]>,
}

impl Selectors {
    /// Selectors of both sides.
    pub fn new(local: impl Into<Box<[TrafficSelector]>>, remote: impl Into<Box<[TrafficSelector]>>) -> Self {
        Self {
            local: local.into(),
            remote: remote.into(),
        }
    }

    /// Everything in both directions.
    pub fn any() -> Self {
        Self::new([TrafficSelector::ANY], [TrafficSelector::ANY])
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.local.is_empty() || self.remote.is_empty() {
            return Err(ConfigError::NoSelectors);
        }
        if self
            .local
            .iter()
            .chain(&self.remote)
            .any(|selector| selector.first > selector.last)
        {
            return Err(ConfigError::EmptySelector);
        }
        Ok(())
    }

    /// Whether a packet that came out of the tunnel may have been sent into it.
    #[inline]
    pub fn admits_inbound(&self, flow: &Flow) -> bool {
        matches(&self.remote, &self.local, flow)
    }

    /// Whether a packet may be sent into the tunnel.
    #[inline]
    pub fn admits_outbound(&self, flow: &Flow) -> bool {
        matches(&self.local, &self.remote, flow)
    }
}

#[inline]
fn matches(sources: &[TrafficSelector], destinations: &[TrafficSelector], flow: &Flow) -> bool {
    const ICMP: u8 = 1;
    let receiver = if flow.protocol == ICMP {
        Side::Unchecked
    } else {
        Side::Port(flow.destination_port)
    };
    sources
        .iter()
        .any(|selector| selector.contains(flow.protocol, flow.source, Side::Port(flow.source_port)))
        && destinations
            .iter()
            .any(|selector| selector.contains(flow.protocol, flow.destination, receiver))
}
