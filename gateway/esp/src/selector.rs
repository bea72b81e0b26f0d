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

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
    const CENTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 80);

    fn flow(protocol: u8, source_port: Option<u16>, destination_port: Option<u16>) -> Flow {
        Flow {
            protocol,
            source: SITE,
            destination: CENTER,
            source_port,
            destination_port,
        }
    }

    fn https_only() -> Selectors {
        let server = TrafficSelector {
            protocol: 6,
            ports: PortRange::Between(443, 443),
            first: CENTER,
            last: CENTER,
        };
        let site = TrafficSelector::addresses(Ipv4Addr::new(192, 168, 1, 0), Ipv4Addr::new(192, 168, 1, 255));
        Selectors::new([server], [site])
    }

    #[test]
    fn addresses_protocol_and_ports_all_count() {
        let selectors = https_only();
        let good = flow(6, Some(40000), Some(443));
        assert!(selectors.admits_inbound(&good));
        assert!(!selectors.admits_inbound(&Flow { protocol: 17, ..good }));
        assert!(!selectors.admits_inbound(&Flow {
            destination_port: Some(444),
            ..good
        }));
        assert!(!selectors.admits_inbound(&Flow {
            source: Ipv4Addr::new(192, 168, 2, 0),
            ..good
        }));
        assert!(!selectors.admits_inbound(&Flow {
            destination: Ipv4Addr::new(10, 1, 0, 81),
            ..good
        }));
    }

    #[test]
    fn direction_counts() {
        let selectors = https_only();
        let back = Flow {
            protocol: 6,
            source: CENTER,
            destination: SITE,
            source_port: Some(443),
            destination_port: Some(40000),
        };
        assert!(selectors.admits_outbound(&back));
        assert!(!selectors.admits_inbound(&back));
        assert!(!selectors.admits_outbound(&flow(6, Some(40000), Some(443))));
    }

    /// RFC 4301 section 4.4.1.1: ANY takes in OPAQUE; a range of ports needs a port.
    #[test]
    fn a_fragment_matches_any_and_opaque_but_no_port() {
        let fragment = flow(6, None, None);
        assert!(!https_only().admits_inbound(&fragment));
        assert!(Selectors::any().admits_inbound(&fragment));
        let opaque = TrafficSelector {
            ports: PortRange::Opaque,
            ..TrafficSelector::ANY
        };
        let selectors = Selectors::new([opaque], [opaque]);
        assert!(selectors.admits_inbound(&fragment));
        assert!(!selectors.admits_inbound(&flow(6, Some(40000), Some(443))));
    }

    #[test]
    fn icmp_type_and_code_are_the_senders() {
        let echo = TrafficSelector {
            protocol: 1,
            ports: PortRange::Between(0x0800, 0x0800),
            ..TrafficSelector::ANY
        };
        let selectors = Selectors::new([TrafficSelector::ANY], [echo]);
        assert!(selectors.admits_inbound(&flow(1, Some(0x0800), None)));
        assert!(!selectors.admits_inbound(&flow(1, Some(0x0500), None)));
        assert!(selectors.admits_outbound(&flow(1, Some(0x0000), None)));
    }

    #[test]
    fn one_of_several_selectors_is_enough() {
        let one = |last| {
            TrafficSelector::addresses(Ipv4Addr::new(10, last, 0, 0), Ipv4Addr::new(10, last, 255, 255))
        };
        let selectors = Selectors::new([one(9), one(1)], [TrafficSelector::ANY]);
        assert!(selectors.admits_inbound(&flow(17, Some(1), Some(2))));
        let selectors = Selectors::new([one(9), one(2)], [TrafficSelector::ANY]);
        assert!(!selectors.admits_inbound(&flow(17, Some(1), Some(2))));
    }

    #[test]
    fn the_wire_form_of_any_and_opaque() {
        assert_eq!(PortRange::from_wire(0, 65535), PortRange::Any);
        assert_eq!(PortRange::from_wire(65535, 0), PortRange::Opaque);
        assert_eq!(PortRange::from_wire(80, 443), PortRange::Between(80, 443));
    }

    #[test]
    fn empty_sets_and_ranges_are_refused() {
        assert_eq!(
            Selectors::new([], [TrafficSelector::ANY]).validate(),
            Err(ConfigError::NoSelectors)
        );
        let backwards = TrafficSelector::addresses(CENTER, Ipv4Addr::UNSPECIFIED);
        let selectors = Selectors::new([TrafficSelector::ANY], [backwards]);
        assert_eq!(selectors.validate(), Err(ConfigError::EmptySelector));
    }
}
