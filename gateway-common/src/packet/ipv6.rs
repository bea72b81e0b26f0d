//! IPv6 (RFC 8200), the fixed header.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ipv4::Fault;

/// Length of the fixed header.
pub const LENGTH: u32 = 40;
/// Place of the hop limit in it.
pub const HOP_LIMIT: u32 = 7;

/// Next header of a fragment.
pub const FRAGMENT: u8 = 44;

/// The fixed header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_flow: [u8; 4],
    /// Length of what follows the fixed header.
    pub payload_length: [u8; 2],
    /// Protocol or extension header that follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

impl Ipv6 {
    /// Checks version and payload length against the `available` bytes from the header on.
    ///
    /// # Errors
    /// [`Fault::Malformed`] or [`Fault::Truncated`].
    #[inline(always)]
    pub fn check(&self, available: u32) -> Result<(), Fault> {
        check(self.version_class_flow[0] >> 4, self.payload_length(), available)
    }

    /// Length of what follows the fixed header in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn payload_length(&self) -> u32 {
        u16::from_be_bytes(self.payload_length) as u32
    }
}

/// What every packet from outside is asked of its header, taken apart in registers (`Packet::load_words`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Protocol or extension header that follows.
    pub next_header: u8,
    /// Length of what follows the fixed header.
    pub payload_length: u32,
    /// Source address, as it lies in memory.
    pub source: [u32; 4],
    /// Destination address, likewise.
    pub destination: [u32; 4],
}

impl Outer {
    /// Reads the words of a header, as they lie in memory, and checks them as [`Ipv6::check`] does.
    ///
    /// # Errors
    /// The [`Fault`].
    #[inline(always)]
    pub fn read(words: [u32; 10], available: u32) -> Result<Self, Fault> {
        let [version, lengths, s0, s1, s2, s3, d0, d1, d2, d3] = words;
        let lengths = u32::from_be(lengths);
        let payload_length = lengths >> 16;
        check((u32::from_be(version) >> 28) as u8, payload_length, available)?;
        Ok(Self {
            next_header: (lengths >> 8) as u8,
            payload_length,
            source: [s0, s1, s2, s3],
            destination: [d0, d1, d2, d3],
        })
    }
}

#[inline(always)]
fn check(version: u8, payload_length: u32, available: u32) -> Result<(), Fault> {
    if version != 6 {
        return Err(Fault::Malformed);
    }
    if LENGTH + payload_length > available {
        return Err(Fault::Truncated);
    }
    Ok(())
}

/// Whether a next header is an extension header (IANA registry "IPv6 Extension Header Types", without ESP).
#[inline(always)]
#[must_use]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        0 | 43 | FRAGMENT | 51 | 60 | 135 | 139 | 140 | 253 | 254
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By its words a header says what it says by its fields, whatever stands in it.
    #[test]
    fn words_say_what_fields_say() {
        let golden = core::array::from_fn(|at| {
            [0x60, 0, 0, 0, 0, 100, 50, 64]
                .get(at)
                .map_or(at as u8, |octet| *octet)
        });
        let changes = (0..40).flat_map(|at| (0..=255).map(move |octet| (at, octet)));
        for (at, octet) in changes {
            let mut octets: [u8; 40] = golden;
            octets[at] = octet;
            let header = Ipv6::read_from_bytes(&octets).unwrap();
            let words: [[u8; 4]; 10] = zerocopy::transmute!(octets);
            let by_fields = header.check(200).map(|()| Outer {
                next_header: header.next_header,
                payload_length: header.payload_length(),
                source: zerocopy::transmute!(header.source),
                destination: zerocopy::transmute!(header.destination),
            });
            let by_words = Outer::read(words.map(u32::from_ne_bytes), 200);
            assert_eq!(by_words, by_fields, "{octets:?}");
        }
    }

    #[test]
    fn golden_bytes() {
        let mut bytes = [0u8; 40];
        bytes[..8].copy_from_slice(&[0x6b, 0x81, 0x23, 0x45, 0x00, 0x20, 50, 64]);
        bytes[8..12].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        let header = Ipv6::read_from_bytes(&bytes).unwrap();
        assert_eq!(header.check(72), Ok(()));
        assert_eq!(header.check(71), Err(Fault::Truncated));
        assert_eq!(
            (header.payload_length(), header.next_header, header.hop_limit),
            (32, 50, 64)
        );
        assert_eq!(header.source[..4], [0x20, 0x01, 0x0d, 0xb8]);
        bytes[0] = 0x45;
        assert_eq!(
            Ipv6::read_from_bytes(&bytes).unwrap().check(72),
            Err(Fault::Malformed)
        );
    }
}
