//! Traffic Selector payloads (RFC 7296 section 3.13).

use std::net::IpAddr;

use super::{WireError, reader::Reader};
use crate::traffic_selector::TrafficSelector;

const TS_IPV4_ADDR_RANGE: u8 = 7;
const TS_IPV6_ADDR_RANGE: u8 = 8;

/// The selectors of one side, in the order received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficSelectors(pub Vec<TrafficSelector>);

impl TrafficSelectors {
    /// Parses the body; selectors of unknown types (security labels and the like) are left out.
    ///
    /// # Errors
    /// When counts, lengths or the order of a range are wrong.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "traffic selector");
        let [count, _, _, _] = reader.array()?;
        let mut selectors = Vec::new();
        for _ in 0..count {
            let kind = reader.u8()?;
            let protocol = reader.u8()?;
            let length = reader.u16()?;
            let mut fields = Reader::new(reader.take_body(length, 4)?, "traffic selector");
            let address = |fields: &mut Reader<'_>| match kind {
                TS_IPV4_ADDR_RANGE => fields.array::<4>().map(IpAddr::from),
                _ => fields.array::<16>().map(IpAddr::from),
            };
            if !matches!(kind, TS_IPV4_ADDR_RANGE | TS_IPV6_ADDR_RANGE) {
                continue;
            }
            let start_port = fields.u16()?;
            let end_port = fields.u16()?;
            let start = address(&mut fields)?;
            let end = address(&mut fields)?;
            if start > end || !fields.is_empty() {
                return Err(WireError::BadValue("traffic selector range"));
            }
            selectors.push(TrafficSelector {
                protocol,
                start,
                end,
                start_port,
                end_port,
            });
        }
        if reader.is_empty() {
            Ok(Self(selectors))
        } else {
            Err(WireError::BadLength("traffic selectors"))
        }
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let count = u8::try_from(self.0.len()).unwrap_or(u8::MAX);
        out.extend_from_slice(&[count, 0, 0, 0]);
        for selector in self.0.iter().take(usize::from(count)) {
            let (kind, length) = match selector.start {
                IpAddr::V4(_) => (TS_IPV4_ADDR_RANGE, 16),
                IpAddr::V6(_) => (TS_IPV6_ADDR_RANGE, 40),
            };
            out.extend_from_slice(&[kind, selector.protocol, 0, length]);
            out.extend_from_slice(&selector.start_port.to_be_bytes());
            out.extend_from_slice(&selector.end_port.to_be_bytes());
            for address in [selector.start, selector.end] {
                match address {
                    IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                    IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 192.168.1.0/24, all protocols and ports.
    const GOLDEN: [u8; 20] = [
        1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 0xff, 0xff, 192, 168, 1, 0, 192, 168, 1, 255,
    ];

    #[test]
    fn golden() {
        let parsed = TrafficSelectors::parse(&GOLDEN).unwrap();
        assert_eq!(
            parsed.0,
            [TrafficSelector::subnet("192.168.1.0".parse().unwrap(), 24).unwrap()]
        );
        let mut out = Vec::new();
        parsed.emit(&mut out);
        assert_eq!(out, GOLDEN);
    }

    #[test]
    fn ipv6_round_trips() {
        let selectors = TrafficSelectors(vec![
            TrafficSelector::subnet("2001:db8::".parse().unwrap(), 32).unwrap(),
            TrafficSelector {
                protocol: 6,
                start_port: 443,
                end_port: 443,
                ..TrafficSelector::any_v4()
            },
        ]);
        let mut out = Vec::new();
        selectors.emit(&mut out);
        assert_eq!(TrafficSelectors::parse(&out), Ok(selectors));
    }

    #[test]
    fn unknown_types_are_left_out_and_faults_refused() {
        let mut unknown = GOLDEN;
        unknown[4] = 10;
        assert_eq!(TrafficSelectors::parse(&unknown), Ok(TrafficSelectors(vec![])));
        for (at, value) in [(0, 2), (0, 0), (7, 15), (7, 3), (12, 193), (4, 8)] {
            let mut bytes = GOLDEN;
            bytes[at] = value;
            assert!(
                TrafficSelectors::parse(&bytes).is_err(),
                "octet {at} set to {value}"
            );
        }
    }
}
