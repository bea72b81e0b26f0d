//! Security associations as the packet path sees them: never a key.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::limit;
use crate::abi_assert;

/// Values of [`SaInbound::encapsulation`].
pub mod encapsulation {
    /// ESP as IP protocol 50.
    pub const PLAIN: u8 = 0;
    /// ESP in UDP port 4500 (RFC 3948).
    pub const UDP: u8 = 1;
}

/// Inbound SA, found by the index in its SPI.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SaInbound {
    /// Security parameters index. A place whose family is zero holds no SA.
    pub spi: [u8; 4],
    /// Index in the owning worker's SA table.
    pub sa_index: u32,
    /// Site that the SA belongs to.
    pub site: u32,
    /// 4 or 6.
    pub family: u8,
    /// One of [`encapsulation`].
    pub encapsulation: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// Our outer address; IPv4 in the first four bytes, the rest zero.
    pub outer_destination: [u8; 16],
}
abi_assert!(SaInbound, size = 32, align = 4);

impl SaInbound {
    /// Place of the SA with this SPI: the gateway draws SPIs of its own that differ in their lowest bits.
    #[inline(always)]
    #[must_use]
    pub const fn place(spi: [u8; 4]) -> u32 {
        u32::from_be_bytes(spi) % limit::SA_PLACES
    }

    /// Whether this is the SA with that SPI.
    #[inline(always)]
    #[must_use]
    pub fn is_of(&self, spi: [u8; 4]) -> bool {
        self.spi == spi && self.family != 0
    }
}

/// Longest-prefix key of the outbound look-up: all 32 bits of the site, then the inner destination's prefix.
/// (The trie's own prefix length is added by the map type.)
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct SaOutboundKey {
    /// Site, big-endian so that its bits come first.
    pub site: [u8; 4],
    /// Inner destination (an address of the site's LAN).
    pub destination: [u8; 4],
}
abi_assert!(SaOutboundKey, size = 8, align = 1);

/// Outbound SA, found by (site, inner destination).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SaOutbound {
    /// Index in the owning worker's SA table.
    pub sa_index: u32,
    /// Place in the map of [`SaShares`], from 1, where several SAs have the same traffic; else zero.
    pub shares: u32,
    /// Largest inner packet that fits the tunnel, in bytes.
    pub mtu: u32,
}
abi_assert!(SaOutbound, size = 12, align = 4);

/// SAs that have the same traffic, each for one worker (RFC 9611): a worker sends on its own, so that no packet changes hands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SaShares {
    /// By receive queue, modulo their number: index in the owning worker's SA table.
    pub sa_index: [u32; SHARES],
}
abi_assert!(SaShares, size = 32, align = 4);

/// SAs at most that share traffic. A power of two.
pub const SHARES: usize = 8;

impl SaShares {
    /// The share of a receive queue.
    #[inline(always)]
    #[must_use]
    pub const fn of_queue(&self, queue: u32) -> u32 {
        self.sa_index[queue as usize % SHARES]
    }
}

/// Key of the look-up of an outbound SA by a packet of it that an ICMP error quotes.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct SaPathKey {
    /// The peer's outer address; IPv4 in the first four bytes, the rest zero.
    pub remote: [u8; 16],
    /// The SPI that the peer chose.
    pub spi: [u8; 4],
    /// Our UDP port and the peer's; zero of plain ESP.
    pub ports: [u8; 4],
}
abi_assert!(SaPathKey, size = 24, align = 1);

/// The path of an outbound SA.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SaPath {
    /// Our outer address; IPv4 in the first four bytes, the rest zero.
    pub local: [u8; 16],
    /// Index in the owning worker's SA table.
    pub sa_index: u32,
    /// Site that the SA belongs to.
    pub site: u32,
    /// Largest outer packet that the path is taken to carry, in bytes.
    pub mtu: u32,
    /// 4 or 6.
    pub family: u8,
    /// Zero.
    pub pad: [u8; 3],
}
abi_assert!(SaPath, size = 32, align = 4);

/// The 14-byte link header on the clear link (worker to `clear`) and on the way from `core` to a worker.
///
/// It has an Ethernet header's shape, so that any NIC or veth carries it; only the gateway's own programs read it.
/// Direction is known by the link it is on. A frame on the clear link comes from a worker alone: the link's other
/// end is not reachable from outside.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct LinkHeader {
    /// `02:00` (locally administered unicast), then the site, big-endian. In place of the destination MAC.
    pub mark: [u8; 2],
    /// Site, big-endian.
    pub site: [u8; 4],
    /// `02:01`, in place of the first bytes of the source MAC.
    pub mark_sa: [u8; 2],
    /// Index of the SA (inbound on the clear link, outbound on the way to a worker), big-endian; of a fragment what
    /// [`fragment`] says.
    pub sa_index: [u8; 4],
    /// `0x0800`, big-endian.
    pub ether_type: [u8; 2],
}
abi_assert!(LinkHeader, size = 14, align = 1);

/// Value of [`LinkHeader::mark`].
pub const LINK_MARK: [u8; 2] = [0x02, 0x00];
/// Value of [`LinkHeader::ether_type`].
pub const LINK_ETHER_TYPE: [u8; 2] = [0x08, 0x00];
/// Value of [`LinkHeader::mark_sa`].
pub const LINK_MARK_SA: [u8; 2] = [0x02, 0x01];

/// Values of [`LinkHeader::mark_sa`] for a fragment, and what stands in place of the SA's index. A worker sends the
/// fragments of a packet once all are there, the first one first.
pub mod fragment {
    /// First fragment of a site's packet; length of the whole packet behind its IP header, big-endian.
    pub const SITE_FIRST: [u8; 2] = [0x02, 0x02];
    /// A later one; source and destination port of the packet. Of an ICMP query, the identifier stands at the site's end.
    pub const SITE_LATER: [u8; 2] = [0x02, 0x03];
    /// First fragment of a packet of the center, otherwise as that of a site.
    pub const CENTER_FIRST: [u8; 2] = [0x02, 0x04];
    /// A later one.
    pub const CENTER_LATER: [u8; 2] = [0x02, 0x05];
    /// Fragment of a packet of the center's side on its way to the worker that it waits at; [`OF_CENTER`] or [`OF_INTERNET`].
    pub const CENTER_WAITS: [u8; 2] = [0x02, 0x06];
    /// It came from the center.
    pub const OF_CENTER: [u8; 4] = [0; 4];
    /// It came from the Internet.
    pub const OF_INTERNET: [u8; 4] = [0, 0, 0, 1];
    /// No fragment yet: a whole packet of a site on its way to a worker, which cuts it to what the next hop carries; that many
    /// octets, big-endian.
    pub const SITE_TOO_BIG: [u8; 2] = [0x02, 0x07];
}

impl LinkHeader {
    /// The header of a frame of `site` under the SA with this index.
    #[inline(always)]
    #[must_use]
    pub const fn new(site: u32, sa_index: u32) -> Self {
        Self {
            mark: LINK_MARK,
            site: site.to_be_bytes(),
            mark_sa: LINK_MARK_SA,
            sa_index: sa_index.to_be_bytes(),
            ether_type: LINK_ETHER_TYPE,
        }
    }

    /// The header of a fragment: one of [`fragment`], and what that says.
    #[inline(always)]
    #[must_use]
    pub const fn of_fragment(kind: [u8; 2], site: u32, about: [u8; 4]) -> Self {
        Self {
            mark: LINK_MARK,
            site: site.to_be_bytes(),
            mark_sa: kind,
            sa_index: about,
            ether_type: LINK_ETHER_TYPE,
        }
    }

    /// Which of [`fragment`] it is, with site and what is said of it.
    #[inline(always)]
    #[must_use]
    pub fn read_fragment(&self) -> Option<([u8; 2], u32, [u8; 4])> {
        // Whole, as `read` compares it: in octets, BPF would store and load them one by one.
        let is_fragment = matches!(u16::from_be_bytes(self.mark_sa), 0x0202..=0x0207);
        (self.mark == LINK_MARK && is_fragment && self.ether_type == LINK_ETHER_TYPE).then_some((
            self.mark_sa,
            u32::from_be_bytes(self.site),
            self.sa_index,
        ))
    }

    /// Site of a packet or a fragment of one by the first two words of its header, as they lie in memory, and its last two octets; if
    /// the marks are right. In BPF, fields that lie across words cost a load and a store for each octet.
    #[inline(always)]
    #[must_use]
    pub const fn site_of([front, back]: [u32; 2], ether_type: [u8; 2]) -> Option<u32> {
        let (front, back) = (u32::from_be(front), u32::from_be(back));
        let is_marked = front >> 16 == u16::from_be_bytes(LINK_MARK) as u32
            && matches!(back & 0xffff, 0x0201..=0x0207)
            && u16::from_be_bytes(ether_type) == u16::from_be_bytes(LINK_ETHER_TYPE);
        if is_marked {
            Some(front << 16 | back >> 16)
        } else {
            None
        }
    }

    /// Site and SA index, if the marks are right.
    #[inline(always)]
    #[must_use]
    pub fn read(&self) -> Option<(u32, u32)> {
        (self.mark == LINK_MARK && self.mark_sa == LINK_MARK_SA && self.ether_type == LINK_ETHER_TYPE)
            .then_some((u32::from_be_bytes(self.site), u32::from_be_bytes(self.sa_index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Taken apart in words, a header says of its site what it says by its fields, whatever stands in them.
    #[test]
    fn words_of_a_link_header_name_the_site_that_its_fields_name() {
        let marks = (0u16..=0x0302).map(u16::to_be_bytes);
        let headers = marks.flat_map(|mark| {
            let good = LinkHeader::new(0x0102_0304, 9);
            [
                LinkHeader { mark, ..good },
                LinkHeader {
                    mark_sa: mark,
                    ..good
                },
                LinkHeader {
                    ether_type: [mark[1], mark[0]],
                    ..good
                },
            ]
        });
        for header in headers {
            let by_fields = header
                .read()
                .map(|(site, _)| site)
                .or_else(|| header.read_fragment().map(|(_, site, _)| site));
            let octets = header.as_bytes();
            let word = |at| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
            let by_words = LinkHeader::site_of([word(0), word(4)], header.ether_type);
            assert_eq!(by_words, by_fields, "{octets:?}");
        }
    }

    #[test]
    fn link_header_golden_bytes() {
        let header = LinkHeader::new(0x0102_0304, 0x0506_0708);
        assert_eq!(header.as_bytes(), [2, 0, 1, 2, 3, 4, 2, 1, 5, 6, 7, 8, 8, 0]);
        assert_eq!(header.read(), Some((0x0102_0304, 0x0506_0708)));
        assert_eq!(header.read_fragment(), None);
        let of_fragment = LinkHeader::of_fragment(fragment::SITE_LATER, 7, [1, 2, 3, 4]);
        assert_eq!(of_fragment.read(), None);
        assert_eq!(
            of_fragment.read_fragment(),
            Some((fragment::SITE_LATER, 7, [1, 2, 3, 4]))
        );
        assert_eq!(
            LinkHeader {
                mark: [2, 1],
                ..header
            }
            .read(),
            None
        );
        assert_eq!(
            LinkHeader {
                ether_type: [0x86, 0xdd],
                ..header
            }
            .read(),
            None
        );
    }
}
