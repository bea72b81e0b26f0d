//! IPv4 (RFC 791).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header without options.
pub const LENGTH: u32 = 20;
/// Offset of TTL, protocol and header checksum.
pub const TTL: u32 = 8;
/// Offset of the source address.
pub const SOURCE: u32 = 12;
/// Offset of the destination address.
pub const DESTINATION: u32 = 16;

/// IP protocol numbers (also next headers of IPv6).
pub mod protocol {
    use network_types::ip::IpProto;

    /// ICMP.
    pub const ICMP: u8 = IpProto::Icmp as u8;
    /// TCP.
    pub const TCP: u8 = IpProto::Tcp as u8;
    /// UDP.
    pub const UDP: u8 = IpProto::Udp as u8;
    /// ESP.
    pub const ESP: u8 = IpProto::Esp as u8;
    /// ICMPv6.
    pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Version, header length or total length contradict each other.
    Malformed,
    /// The frame ends before the total length does.
    Truncated,
    /// Options are present; source routes are nothing a gateway may follow (RFC 7126), and no other option is needed.
    Options,
}

/// The header without options.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_length: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Length of header and payload.
    pub total_length: [u8; 2],
    /// Identification of fragments.
    pub identification: [u8; 2],
    /// Flags and fragment offset.
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// One of [`protocol`], or another.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: [u8; 2],
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

impl Ipv4 {
    /// Checks version, header length and total length against the `available` bytes from the header on.
    ///
    /// # Errors
    /// The [`Fault`]; options are one.
    #[inline(always)]
    pub fn check(&self, available: u32) -> Result<(), Fault> {
        check(self.version_length, self.total_length(), available)
    }

    /// Length of header and payload in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn total_length(&self) -> u32 {
        u16::from_be_bytes(self.total_length) as u32
    }

    /// Whether this is a fragment: more follow, or it is not the first.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x3fff != 0
    }

    /// Whether this is a fragment, and not the first one.
    #[inline(always)]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x1fff != 0
    }

    /// Whether "don't fragment" is set.
    #[inline(always)]
    #[must_use]
    pub const fn dont_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x4000 != 0
    }

    /// The 16-bit word that TTL and protocol form in the checksum.
    #[inline(always)]
    #[must_use]
    pub const fn ttl_word(&self) -> [u8; 2] {
        [self.ttl, self.protocol]
    }
}

/// What every packet from outside is asked of its header, taken apart in registers (`Packet::load_words`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// One of [`protocol`], or another.
    pub protocol: u8,
    /// Whether this is a fragment.
    pub is_fragment: bool,
    /// Length of header and payload.
    pub total_length: u32,
    /// Source address, as it lies in memory.
    pub source: u32,
    /// Destination address, likewise.
    pub destination: u32,
}

impl Outer {
    /// Reads the words of a header, as they lie in memory, and checks them as [`Ipv4::check`] does.
    ///
    /// # Errors
    /// The [`Fault`].
    #[inline(always)]
    pub fn read(words: [u32; 5], available: u32) -> Result<Self, Fault> {
        let [lengths, fragment, protocol, source, destination] = words;
        let lengths = u32::from_be(lengths);
        let total_length = lengths & 0xffff;
        check((lengths >> 24) as u8, total_length, available)?;
        Ok(Self {
            protocol: (u32::from_be(protocol) >> 16) as u8,
            is_fragment: u32::from_be(fragment) & 0x3fff != 0,
            total_length,
            source,
            destination,
        })
    }
}

#[inline(always)]
fn check(version_length: u8, total_length: u32, available: u32) -> Result<(), Fault> {
    match version_length {
        0x45 => {}
        0x46..=0x4f => return Err(Fault::Options),
        _ => return Err(Fault::Malformed),
    }
    if total_length < LENGTH {
        return Err(Fault::Malformed);
    }
    if total_length > available {
        return Err(Fault::Truncated);
    }
    Ok(())
}

/// Whether a host may have this address: not of 0/8, 127/8, multicast, class E or broadcast (RFC 1812 5.3.7).
#[inline(always)]
#[must_use]
pub const fn is_host_address(address: [u8; 4]) -> bool {
    let first = address[0];
    first.wrapping_sub(1) < 223 && first != 127
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum::Sum;

    /// A UDP packet's header, whose checksum is the usual worked example (0xb861).
    const GOLDEN: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0,
        199,
    ];

    fn golden() -> Ipv4 {
        Ipv4::read_from_bytes(&GOLDEN).unwrap()
    }

    #[test]
    fn golden_bytes() {
        let header = golden();
        assert_eq!(header.check(115), Ok(()));
        assert_eq!(header.total_length(), 115);
        assert!(header.dont_fragment() && !header.is_fragment());
        assert_eq!(header.protocol, protocol::UDP);
        assert_eq!(Sum::default().bytes(&GOLDEN).finish(), [0, 0]);
        assert_eq!(size_of::<Ipv4>(), LENGTH as usize);
    }

    #[test]
    fn faults_are_told_apart() {
        assert_eq!(golden().check(114), Err(Fault::Truncated));
        assert_eq!(
            Ipv4 {
                version_length: 0x46,
                ..golden()
            }
            .check(115),
            Err(Fault::Options)
        );
        for version_length in [0x00, 0x44, 0x40, 0x65, 0x55] {
            assert_eq!(
                Ipv4 {
                    version_length,
                    ..golden()
                }
                .check(115),
                Err(Fault::Malformed)
            );
        }
        assert_eq!(
            Ipv4 {
                total_length: [0, 19],
                ..golden()
            }
            .check(115),
            Err(Fault::Malformed)
        );
    }

    /// By its words a header says what it says by its fields, whatever stands in it.
    #[test]
    fn words_say_what_fields_say() {
        let changes = (0..20).flat_map(|at| (0..=255).map(move |octet| (at, octet)));
        for (at, octet) in changes {
            let mut octets = GOLDEN;
            octets[at] = octet;
            let header = Ipv4::read_from_bytes(&octets).unwrap();
            let words: [[u8; 4]; 5] = zerocopy::transmute!(octets);
            let by_fields = header.check(200).map(|()| Outer {
                protocol: header.protocol,
                is_fragment: header.is_fragment(),
                total_length: header.total_length(),
                source: u32::from_ne_bytes(header.source),
                destination: u32::from_ne_bytes(header.destination),
            });
            let by_words = Outer::read(words.map(u32::from_ne_bytes), 200);
            assert_eq!(by_words, by_fields, "{octets:?}");
        }
    }

    #[test]
    fn first_middle_and_last_fragments_are_fragments() {
        for fragment in [[0x20, 0x00], [0x20, 0x10], [0x00, 0x10], [0x1f, 0xff]] {
            assert!(Ipv4 { fragment, ..golden() }.is_fragment());
        }
        assert!(
            !Ipv4 {
                fragment: [0x80, 0],
                ..golden()
            }
            .is_fragment()
        );
    }

    #[test]
    fn host_addresses() {
        for address in [
            [0, 1, 2, 3],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [240, 0, 0, 1],
            [255; 4],
        ] {
            assert!(!is_host_address(address));
        }
        for address in [
            [1, 0, 0, 1],
            [10, 0, 0, 1],
            [126, 255, 0, 1],
            [128, 0, 0, 1],
            [223, 255, 255, 1],
        ] {
            assert!(is_host_address(address));
        }
    }
}
