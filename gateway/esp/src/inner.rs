//! The inner packet: a checked IPv4 header and what traffic selectors look at.

use crate::bytes::{load, load_u8, load_u16};
use core::net::Ipv4Addr;

/// Offsets in an IPv4 header (RFC 791 section 3.1).
mod field {
    pub(super) const VERSION_IHL: usize = 0;
    pub(super) const TOS: usize = 1;
    pub(super) const TOTAL_LENGTH: usize = 2;
    pub(super) const FLAGS_OFFSET: usize = 6;
    pub(super) const PROTOCOL: usize = 9;
    pub(super) const SOURCE: usize = 12;
    pub(super) const DESTINATION: usize = 16;
}

const HEADER_LEN_MIN: usize = 20;
const DONT_FRAGMENT: u16 = 0x4000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What a checked inner IPv4 header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerIpv4 {
    /// Octets of header and payload; at most what was given.
    pub total_len: usize,
    /// DSCP and ECN.
    pub tos: u8,
    /// The don't-fragment flag.
    pub dont_fragment: bool,
    /// What the traffic selectors look at.
    pub flow: Flow,
}

/// The selectors of an inner packet (RFC 4301 section 4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Source port, or ICMP type and code (type in the high octet, RFC 7296 section 3.13.1). `None` in a
    /// fragment other than the first, in a protocol without ports, or where the packet ends before it.
    pub source_port: Option<u16>,
    /// Destination port; `None` as above and for ICMP.
    pub destination_port: Option<u16>,
}

impl InnerIpv4 {
    /// Reads the header of `packet`, which may go on behind the IPv4 packet (link padding, or traffic-flow
    /// confidentiality padding by RFC 4303 section 2.7). The header checksum is the receiving host's to verify:
    /// the ICV already covers the header.
    ///
    /// `None` unless version, header length and total length are sound.
    #[inline]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let version_ihl = load_u8(packet, field::VERSION_IHL)?;
        let header_len = usize::from(version_ihl & 0x0f) * 4;
        let total_len = usize::from(load_u16(packet, field::TOTAL_LENGTH)?);
        let sound = version_ihl >> 4 == 4
            && header_len >= HEADER_LEN_MIN
            && total_len >= header_len
            && total_len <= packet.len();
        if !sound {
            return None;
        }
        let flags_offset = load_u16(packet, field::FLAGS_OFFSET)?;
        let protocol = load_u8(packet, field::PROTOCOL)?;
        let (source_port, destination_port) = if flags_offset & FRAGMENT_OFFSET == 0 {
            ports(protocol, packet.get(header_len..total_len)?)
        } else {
            (None, None)
        };
        Some(Self {
            total_len,
            tos: load_u8(packet, field::TOS)?,
            dont_fragment: flags_offset & DONT_FRAGMENT != 0,
            flow: Flow {
                protocol,
                source: load::<4>(packet, field::SOURCE)?.into(),
                destination: load::<4>(packet, field::DESTINATION)?.into(),
                source_port,
                destination_port,
            },
        })
    }
}

fn ports(protocol: u8, payload: &[u8]) -> (Option<u16>, Option<u16>) {
    const ICMP: u8 = 1;
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const DCCP: u8 = 33;
    const SCTP: u8 = 132;
    const UDP_LITE: u8 = 136;
    match protocol {
        TCP | UDP | DCCP | SCTP | UDP_LITE => (load_u16(payload, 0), load_u16(payload, 2)),
        ICMP => (load_u16(payload, 0), None),
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8, flags_offset: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0xb8, 0, 20 + payload.len() as u8, 0, 7];
        packet.extend_from_slice(&flags_offset.to_be_bytes());
        packet.extend_from_slice(&[64, protocol, 0, 0, 192, 168, 1, 10, 10, 1, 0, 80]);
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn ports_are_read_from_first_fragments_only() {
        let ports = |protocol, flags_offset| {
            let flow = InnerIpv4::parse(&packet(protocol, flags_offset, &[0x9c, 0x40, 1, 0xbb]))
                .unwrap()
                .flow;
            (flow.source_port, flow.destination_port)
        };
        for protocol in [6, 17, 33, 132, 136] {
            assert_eq!(ports(protocol, 0), (Some(40000), Some(443)));
        }
        assert_eq!(ports(6, 0x2000), (Some(40000), Some(443)), "first fragment");
        assert_eq!(ports(6, 0x2001), (None, None), "later fragment");
        assert_eq!(ports(6, 0x0001), (None, None), "last fragment");
        assert_eq!(ports(1, 0), (Some(0x9c40), None), "ICMP type and code");
        assert_eq!(ports(47, 0), (None, None), "no ports");
    }

    #[test]
    fn a_port_behind_the_packets_end_is_not_read() {
        let mut bytes = packet(6, 0, &[0x9c, 0x40]);
        bytes.extend_from_slice(&[1, 0xbb]);
        let inner = InnerIpv4::parse(&bytes).unwrap();
        assert_eq!(inner.total_len, 22);
        assert_eq!(
            (inner.flow.source_port, inner.flow.destination_port),
            (Some(40000), None)
        );
    }

    #[test]
    fn unsound_headers_are_refused() {
        let good = packet(17, 0x4000, &[0; 8]);
        assert!(InnerIpv4::parse(&good).unwrap().dont_fragment);
        for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x48), (3, 19), (3, 29), (2, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(InnerIpv4::parse(&bad), None, "octet {at} = {value:#x}");
        }
        for length in 0..good.len() {
            assert_eq!(InnerIpv4::parse(&good[..length]), None, "cut to {length}");
        }
    }
}
