//! The headers in front of ESP: Ethernet, IPv4 or IPv6, and UDP where a NAT is on the path.

use super::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_HEADER_LEN, IPV6_HEADER_LEN, LINK_HEADER_LEN, OUTER_LEN_MAX,
    OuterDf, PROTOCOL_ESP, PROTOCOL_UDP, Tunnel, UDP_HEADER_LEN, ecn,
};
use crate::ConfigError;
use crate::bytes::store;
use crate::seal::Carried;
use core::net::IpAddr;

const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
/// The IP header begins behind the Ethernet header.
const IP: usize = LINK_HEADER_LEN;

/// A tunnel's headers, made once; lengths, DSCP, ECN, identification and checksums are filled in per packet.
#[derive(Debug)]
pub struct OuterHeader {
    template: [u8; OUTER_LEN_MAX],
    len: usize,
    ipv6: bool,
    udp: bool,
    df: OuterDf,
    /// What does not change from packet to packet: of IPv4 the header, of IPv6 the UDP pseudo-header and ports.
    sum: u32,
}

impl OuterHeader {
    /// `spi` gives an IPv6 tunnel its flow label, one for each SA, so that equal-cost paths spread SAs and keep
    /// each one's packets in order (RFC 6438).
    ///
    /// # Errors
    /// [`ConfigError::TunnelFamilies`] if one end is IPv4 and the other IPv6.
    pub fn new(tunnel: &Tunnel, spi: u32) -> Result<Self, ConfigError> {
        let protocol = if tunnel.udp.is_some() {
            PROTOCOL_UDP
        } else {
            PROTOCOL_ESP
        };
        let mut writer = Writer {
            bytes: [0; OUTER_LEN_MAX],
            len: 0,
        };
        writer.put(&tunnel.link.destination).put(&tunnel.link.source);
        let ipv6 = match (tunnel.local, tunnel.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                writer.put(&ETHERTYPE_IPV4.to_be_bytes());
                writer.put(&[0x45, 0, 0, 0, 0, 0, 0, 0, HOP_LIMIT, protocol, 0, 0]);
                writer.put(&local.octets()).put(&remote.octets());
                false
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                let label = (spi ^ spi >> 20) & 0xf_ffff;
                writer.put(&ETHERTYPE_IPV6.to_be_bytes());
                writer
                    .put(&(6 << 28 | label).to_be_bytes())
                    .put(&[0, 0, protocol, HOP_LIMIT]);
                writer.put(&local.octets()).put(&remote.octets());
                true
            }
            _ => return Err(ConfigError::TunnelFamilies),
        };
        if let Some(udp) = tunnel.udp {
            writer
                .put(&udp.local_port.to_be_bytes())
                .put(&udp.remote_port.to_be_bytes())
                .put(&[0; 4]);
        }
        let Writer { bytes: template, len } = writer;
        let constant = if ipv6 {
            IP + 8..len
        } else {
            IP..IP + IPV4_HEADER_LEN
        };
        let mut sum = template.get(constant).map_or(0, ones_sum);
        if ipv6 {
            sum += u32::from(PROTOCOL_UDP);
        }
        Ok(Self {
            template,
            len,
            ipv6,
            udp: tunnel.udp.is_some(),
            df: tunnel.df,
            sum,
        })
    }

    /// Octets in front of the ESP header, Ethernet included.
    #[allow(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes the headers of a sealed packet into `head`, which is [`Self::len`] octets long and lies in front
    /// of `esp`. `None` if it is not, or the packet is longer than IP can say; the tunnel's MTU forbids both.
    #[inline]
    pub(crate) fn write(&self, head: &mut [u8], esp: &[u8], inner: Carried, sequence: u64) -> Option<()> {
        head.copy_from_slice(
            self.template
                .get(..self.len)
                .filter(|template| template.len() == head.len())?,
        );
        let tos = ecn::encapsulate(inner.tos);
        let after_ip = self.len
            - IP
            - if self.ipv6 {
                IPV6_HEADER_LEN
            } else {
                IPV4_HEADER_LEN
            }
            + esp.len();
        if self.ipv6 {
            self.fill_ipv6(head, tos, u16::try_from(after_ip).ok()?)?;
        } else {
            let total_len = u16::try_from(after_ip + IPV4_HEADER_LEN).ok()?;
            self.fill_ipv4(head, tos, total_len, inner.dont_fragment, sequence as u16)?;
        }
        if self.udp {
            self.fill_udp(head, esp, u16::try_from(after_ip).ok()?)?;
        }
        Some(())
    }

    /// The identification is the sequence number's low half: unique for long enough where the packet may be
    /// fragmented, and of no meaning where it may not (RFC 6864).
    fn fill_ipv4(&self, head: &mut [u8], tos: u8, total_len: u16, inner_df: bool, id: u16) -> Option<()> {
        let df = match self.df {
            OuterDf::Set => true,
            OuterDf::Copy => inner_df,
            OuterDf::Clear => false,
        };
        let flags = if df { DONT_FRAGMENT } else { 0 };
        let sum = self.sum + u32::from(tos) + u32::from(total_len) + u32::from(id) + u32::from(flags);
        store(head, IP + 1, [tos])?;
        store(head, IP + 2, total_len.to_be_bytes())?;
        store(head, IP + 4, id.to_be_bytes())?;
        store(head, IP + 6, flags.to_be_bytes())?;
        store(head, IP + 10, (!fold(sum)).to_be_bytes())
    }

    fn fill_ipv6(&self, head: &mut [u8], tos: u8, payload_len: u16) -> Option<()> {
        let label_high = self.template.get(IP + 1)? & 0x0f;
        store(head, IP, [0x60 | tos >> 4, tos << 4 | label_high])?;
        store(head, IP + 4, payload_len.to_be_bytes())
    }

    /// Over IPv4 the checksum is zero, as RFC 3948 section 2.1 recommends. Over IPv6 it is computed: RFC 6935
    /// lets tunnels do without, but only to a receiver configured for it (RFC 6936 section 4), and a socket that
    /// is not, such as a user-space IPsec router's, discards such packets (RFC 8200 section 8.1).
    fn fill_udp(&self, head: &mut [u8], esp: &[u8], udp_len: u16) -> Option<()> {
        let udp = self.len.checked_sub(UDP_HEADER_LEN)?;
        store(head, udp + 4, udp_len.to_be_bytes())?;
        if self.ipv6 {
            // The length counts twice: in the pseudo-header and in the header.
            let sum = self.sum + 2 * u32::from(udp_len) + ones_sum(esp);
            let checksum = match !fold(sum) {
                0 => u16::MAX,
                checksum => checksum,
            };
            store(head, udp + 6, checksum.to_be_bytes())?;
        }
        Some(())
    }
}

struct Writer {
    bytes: [u8; OUTER_LEN_MAX],
    len: usize,
}

impl Writer {
    /// What does not fit is left out; the template is as long as the longest header.
    fn put(&mut self, value: &[u8]) -> &mut Self {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + value.len()) {
            room.copy_from_slice(value);
            self.len += value.len();
        }
        self
    }
}

/// The 16-bit ones' complement sum of big-endian words, an odd octet padded with zero (RFC 1071).
fn ones_sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_be_bytes(*word)))
        .sum();
    let mut last = [0; 4];
    for (octet, value) in last.iter_mut().zip(rest) {
        *octet = *value;
    }
    sum += u64::from(u32::from_be_bytes(last));
    // 2^16 is congruent to 1: folding by halves keeps the sum.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    u32::from(fold(sum as u32))
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
