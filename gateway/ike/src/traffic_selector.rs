//! Traffic selectors and their narrowing (RFC 7296 section 2.9).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The result of narrowing never grows beyond this: the count in the payload is one octet, and every
/// selector costs the data plane a comparison.
pub const SELECTORS_MAX: usize = 64;

/// A set of packets: a protocol, a range of addresses of one family, a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// IP protocol; 0 for any.
    pub protocol: u8,
    /// First address.
    pub start: IpAddr,
    /// Last address, of the same family and not below `start`.
    pub end: IpAddr,
    /// First port; 0 with `end_port` 65535 for any.
    pub start_port: u16,
    /// Last port. Below `start_port` (65535 and 0) it stands for OPAQUE (RFC 7296 section 3.13.1).
    pub end_port: u16,
}

impl TrafficSelector {
    /// Every packet of IPv4.
    pub const fn any_v4() -> Self {
        Self::addresses(IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST))
    }

    /// All protocols and ports of a range of addresses.
    pub const fn addresses(start: IpAddr, end: IpAddr) -> Self {
        Self {
            protocol: 0,
            start,
            end,
            start_port: 0,
            end_port: u16::MAX,
        }
    }

    /// All protocols and ports of a prefix; bits of `address` beyond the prefix are cleared. `None`
    /// when the prefix is longer than an address of that family.
    pub fn subnet(address: IpAddr, prefix_len: u8) -> Option<Self> {
        let prefix_len = u32::from(prefix_len);
        Some(match address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(prefix_len).unwrap_or(0);
                let start = address.to_bits() & !host;
                (prefix_len <= 32).then_some(())?;
                Self::addresses(Ipv4Addr::from(start).into(), Ipv4Addr::from(start | host).into())
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(prefix_len).unwrap_or(0);
                let start = address.to_bits() & !host;
                (prefix_len <= 128).then_some(())?;
                Self::addresses(Ipv6Addr::from(start).into(), Ipv6Addr::from(start | host).into())
            }
        })
    }

    /// The packets that are in both, or `None`.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let protocol = match (self.protocol, other.protocol) {
            (0, protocol) | (protocol, 0) => protocol,
            (one, two) if one == two => one,
            _ => return None,
        };
        if self.start.is_ipv4() != other.start.is_ipv4() {
            return None;
        }
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        let (start_port, end_port) = intersect_ports(self, other)?;
        (start <= end).then_some(Self {
            protocol,
            start,
            end,
            start_port,
            end_port,
        })
    }

    /// True when every packet of `other` is in `self`.
    pub fn contains(&self, other: &Self) -> bool {
        self.intersection(other) == Some(*other)
    }
}

/// Ranges overlap as ranges; OPAQUE (start above end) goes only with itself and with "any port".
fn intersect_ports(one: &TrafficSelector, two: &TrafficSelector) -> Option<(u16, u16)> {
    let any = |selector: &TrafficSelector| selector.start_port == 0 && selector.end_port == u16::MAX;
    let opaque = |selector: &TrafficSelector| selector.start_port > selector.end_port;
    match (opaque(one), opaque(two)) {
        (true, true) => Some((u16::MAX, 0)),
        (true, false) => any(two).then_some((u16::MAX, 0)),
        (false, true) => any(one).then_some((u16::MAX, 0)),
        (false, false) => {
            let start = one.start_port.max(two.start_port);
            let end = one.end_port.min(two.end_port);
            (start <= end).then_some((start, end))
        }
    }
}

/// What the peer asked for, cut down to what the policy allows; empty when they share nothing.
///
/// The order is the peer's, because its first selector may be the packet that caused the request.
pub fn narrow(asked: &[TrafficSelector], allowed: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut narrowed: Vec<TrafficSelector> = Vec::new();
    let shared = asked
        .iter()
        .flat_map(|asked| allowed.iter().filter_map(|own| asked.intersection(own)));
    for selector in shared {
        if narrowed.iter().any(|wider| wider.contains(&selector)) {
            continue;
        }
        narrowed.retain(|narrower| !selector.contains(narrower));
        narrowed.push(selector);
        if narrowed.len() == SELECTORS_MAX {
            break;
        }
    }
    narrowed
}

/// As people write it: `192.168.1.0/24`, `10.0.0.1-10.0.0.9`, `10.0.0.1/32[6/443]`.
impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix_len() {
            Some(prefix_len) => write!(f, "{}/{prefix_len}", self.start)?,
            None => write!(f, "{}-{}", self.start, self.end)?,
        }
        match (self.protocol, self.start_port, self.end_port) {
            (0, 0, u16::MAX) => Ok(()),
            (protocol, 0, u16::MAX) => write!(f, "[{protocol}]"),
            (protocol, start, end) if start == end => write!(f, "[{protocol}/{start}]"),
            (protocol, start, end) if start > end => write!(f, "[{protocol}/opaque]"),
            (protocol, start, end) => write!(f, "[{protocol}/{start}-{end}]"),
        }
    }
}

impl TrafficSelector {
    /// The length of the prefix that the range of addresses is, if it is one.
    pub fn prefix_len(&self) -> Option<u8> {
        let (start, end, bits) = match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => {
                (u128::from(start.to_bits()), u128::from(end.to_bits()), 32)
            }
            (IpAddr::V6(start), IpAddr::V6(end)) => (start.to_bits(), end.to_bits(), 128),
            _ => return None,
        };
        let host = start ^ end;
        let host_bits = u128::BITS - host.leading_zeros();
        let is_prefix = host & host.wrapping_add(1) == 0 && start & host == 0;
        is_prefix.then(|| u8::try_from(bits - host_bits).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> TrafficSelector {
        let (address, prefix_len) = text.split_once('/').unwrap();
        TrafficSelector::subnet(address.parse().unwrap(), prefix_len.parse().unwrap()).unwrap()
    }

    #[test]
    fn narrowing_cuts_to_the_policy() {
        assert_eq!(
            narrow(
                &[TrafficSelector::any_v4()],
                &[net("10.1.0.0/16"), net("10.3.0.0/16")]
            ),
            [net("10.1.0.0/16"), net("10.3.0.0/16")]
        );
        assert_eq!(
            narrow(&[net("10.1.2.0/24"), net("10.9.0.0/16")], &[net("10.1.0.0/16")]),
            [net("10.1.2.0/24")]
        );
        assert_eq!(narrow(&[net("10.1.2.0/24")], &[net("::/0")]), []);
        // The packet that caused the request, contained in the second, is not listed twice.
        let packet = TrafficSelector {
            protocol: 6,
            start_port: 80,
            end_port: 80,
            ..net("10.1.2.3/32")
        };
        assert_eq!(
            narrow(&[packet, net("10.1.2.0/24")], &[net("0.0.0.0/0")]),
            [net("10.1.2.0/24")]
        );
    }

    #[test]
    fn protocols_and_ports() {
        let tcp = TrafficSelector {
            protocol: 6,
            ..net("10.0.0.0/8")
        };
        let https = TrafficSelector {
            start_port: 443,
            end_port: 443,
            ..tcp
        };
        let opaque = TrafficSelector {
            start_port: u16::MAX,
            end_port: 0,
            ..tcp
        };
        assert_eq!(net("0.0.0.0/0").intersection(&https), Some(https));
        assert_eq!(tcp.intersection(&TrafficSelector { protocol: 17, ..tcp }), None);
        assert_eq!(tcp.intersection(&opaque), Some(opaque));
        assert_eq!(https.intersection(&opaque), None);
    }

    #[test]
    fn words() {
        assert_eq!(net("192.168.1.7/24").to_string(), "192.168.1.0/24");
        assert_eq!(TrafficSelector::any_v4().to_string(), "0.0.0.0/0");
        assert_eq!(net("::/0").to_string(), "::/0");
        let range = TrafficSelector::addresses("10.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap());
        assert_eq!(range.to_string(), "10.0.0.1-10.0.0.9");
        let https = TrafficSelector {
            protocol: 6,
            start_port: 443,
            end_port: 443,
            ..net("10.0.0.1/32")
        };
        assert_eq!(https.to_string(), "10.0.0.1/32[6/443]");
        assert_eq!(TrafficSelector::subnet("10.0.0.0".parse().unwrap(), 33), None);
    }

    fn selector() -> impl Strategy<Value = TrafficSelector> {
        (0u8..3, 0u8..16, 0u8..16, 0u16..8, 0u16..8).prop_map(|(protocol, a, b, p, q)| TrafficSelector {
            protocol,
            start: Ipv4Addr::new(10, 0, 0, a.min(b)).into(),
            end: Ipv4Addr::new(10, 0, 0, a.max(b)).into(),
            start_port: p.min(q),
            end_port: p.max(q),
        })
    }

    fn matches(selectors: &[TrafficSelector], protocol: u8, address: u8, port: u16) -> bool {
        let address = IpAddr::from(Ipv4Addr::new(10, 0, 0, address));
        selectors.iter().any(|selector| {
            (selector.protocol == 0 || selector.protocol == protocol)
                && (selector.start..=selector.end).contains(&address)
                && (selector.start_port..=selector.end_port).contains(&port)
        })
    }

    proptest! {
        /// A packet is in the narrowed set exactly when both sides' sets hold it.
        #[test]
        fn narrowing_is_intersection_of_sets(
            asked in proptest::collection::vec(selector(), 0..4),
            allowed in proptest::collection::vec(selector(), 0..4),
        ) {
            let narrowed = narrow(&asked, &allowed);
            for protocol in 1..3 { for address in 0..16 { for port in 0..8 {
                prop_assert_eq!(
                    matches(&narrowed, protocol, address, port),
                    matches(&asked, protocol, address, port) && matches(&allowed, protocol, address, port)
                );
            }}}
        }
    }
}
