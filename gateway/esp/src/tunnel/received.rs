//! Taking a received frame apart, down to its ESP packet.

use super::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_HEADER_LEN, IPV6_HEADER_LEN, LINK_HEADER_LEN, PORT_NAT_T,
    PROTOCOL_ESP, PROTOCOL_UDP, UDP_HEADER_LEN, UdpEncap,
};
use crate::bytes::{load, load_u8, load_u16, load_u32};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;
use thiserror::Error;

const MORE_FRAGMENTS_AND_OFFSET: u16 = 0x3fff;

/// Why a received frame holds no ESP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum ReceivedError {
    /// Neither IPv4 nor IPv6.
    #[error("frame is neither IPv4 nor IPv6")]
    EtherType,
    /// The outer headers are cut short or contradict each other.
    #[error("outer header malformed")]
    Malformed,
    /// A fragment of an outer packet.
    #[error("outer packet is a fragment")]
    Fragment,
    /// Neither ESP nor UDP to port 4500.
    #[error("outer packet is not ESP")]
    NotEsp,
    /// UDP port 4500 with the non-ESP marker: IKE (RFC 3948 section 2.2).
    #[error("IKE message on the NAT traversal port")]
    Ike,
    /// A NAT keepalive (RFC 3948 section 2.3).
    #[error("NAT keepalive")]
    Keepalive,
}

/// A received ESP packet and what its outer headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The ESP packet's place in the frame, from SPI to ICV.
    pub esp: Range<usize>,
    /// The SPI.
    pub spi: u32,
    /// Outer source address: the peer, or its NAT.
    pub source: IpAddr,
    /// Outer destination address: this gateway.
    pub destination: IpAddr,
    /// Ports, if ESP came in UDP; the remote one is the peer's, or its NAT's.
    pub udp: Option<UdpEncap>,
    /// The outer DSCP and ECN octet.
    pub tos: u8,
}

impl Received {
    /// Finds the ESP packet in an Ethernet frame. What follows the outer IP packet is link padding and left
    /// out. IPv6 extension headers are not followed: nothing lawful has them in front of ESP or UDP here.
    ///
    /// UDP checksums are not verified (RFC 3948 section 2.1): the ICV says more.
    ///
    /// # Errors
    /// [`ReceivedError`] says what else the frame is.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, ReceivedError> {
        let ip = frame.get(LINK_HEADER_LEN..).ok_or(ReceivedError::Malformed)?;
        let outer = match load_u16(frame, LINK_HEADER_LEN - 2) {
            Some(ETHERTYPE_IPV4) => Outer::ipv4(ip)?,
            Some(ETHERTYPE_IPV6) => Outer::ipv6(ip).ok_or(ReceivedError::Malformed)?,
            _ => return Err(ReceivedError::EtherType),
        };
        let (esp, udp) = match outer.protocol {
            PROTOCOL_ESP => (outer.payload, None),
            PROTOCOL_UDP => {
                let (esp, ports) = esp_in_udp(ip, outer.payload)?;
                (esp, Some(ports))
            }
            _ => return Err(ReceivedError::NotEsp),
        };
        let spi = load_u32(ip, esp.start)
            .filter(|_| esp.len() >= 4)
            .ok_or(ReceivedError::Malformed)?;
        Ok(Self {
            esp: LINK_HEADER_LEN + esp.start..LINK_HEADER_LEN + esp.end,
            spi,
            source: outer.source,
            destination: outer.destination,
            udp,
            tos: outer.tos,
        })
    }
}

/// An outer IP header; ranges count from its first octet.
struct Outer {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    tos: u8,
    payload: Range<usize>,
}

impl Outer {
    #[inline]
    fn ipv4(ip: &[u8]) -> Result<Self, ReceivedError> {
        let header = ip
            .first_chunk::<IPV4_HEADER_LEN>()
            .ok_or(ReceivedError::Malformed)?;
        let [
            version_ihl,
            tos,
            len0,
            len1,
            _,
            _,
            fragment0,
            fragment1,
            _,
            protocol,
            _,
            _,
            addresses @ ..,
        ] = *header;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        let header_len = usize::from(version_ihl & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([len0, len1]));
        if version_ihl >> 4 != 4
            || header_len < IPV4_HEADER_LEN
            || total_len < header_len
            || total_len > ip.len()
        {
            return Err(ReceivedError::Malformed);
        }
        if u16::from_be_bytes([fragment0, fragment1]) & MORE_FRAGMENTS_AND_OFFSET != 0 {
            return Err(ReceivedError::Fragment);
        }
        Ok(Self {
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            protocol,
            tos,
            payload: header_len..total_len,
        })
    }

    #[inline]
    fn ipv6(ip: &[u8]) -> Option<Self> {
        let first = load_u32(ip, 0)?;
        let end = IPV6_HEADER_LEN + usize::from(load_u16(ip, 4)?);
        if first >> 28 != 6 || end > ip.len() {
            return None;
        }
        Some(Self {
            source: Ipv6Addr::from(load::<16>(ip, 8)?).into(),
            destination: Ipv6Addr::from(load::<16>(ip, 24)?).into(),
            protocol: load_u8(ip, 6)?,
            tos: (first >> 20) as u8,
            payload: IPV6_HEADER_LEN..end,
        })
    }
}

/// The ESP packet in a UDP datagram, told from IKE and keepalives by its first octets (RFC 3948 section 2).
#[inline]
fn esp_in_udp(ip: &[u8], udp: Range<usize>) -> Result<(Range<usize>, UdpEncap), ReceivedError> {
    let remote_port = load_u16(ip, udp.start).ok_or(ReceivedError::Malformed)?;
    let local_port = load_u16(ip, udp.start + 2).ok_or(ReceivedError::Malformed)?;
    let udp_len = usize::from(load_u16(ip, udp.start + 4).ok_or(ReceivedError::Malformed)?);
    if udp_len < UDP_HEADER_LEN || udp_len > udp.len() {
        return Err(ReceivedError::Malformed);
    }
    if local_port != PORT_NAT_T {
        return Err(ReceivedError::NotEsp);
    }
    // It names nobody who could be answered (RFC 768), and would look like ESP without UDP to who keeps it.
    if remote_port == 0 {
        return Err(ReceivedError::Malformed);
    }
    let esp = udp.start + UDP_HEADER_LEN..udp.start + udp_len;
    match ip.get(esp.clone()) {
        Some([0xff]) => Err(ReceivedError::Keepalive),
        Some([0, 0, 0, 0, ..]) => Err(ReceivedError::Ike),
        Some(_) => Ok((
            esp,
            UdpEncap {
                local_port,
                remote_port,
            },
        )),
        None => Err(ReceivedError::Malformed),
    }
}
