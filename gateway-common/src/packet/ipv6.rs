//! IPv6 (RFC 8200), the fixed header.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ipv4::Fault;

/// Length of the fixed header.
pub const LENGTH: u32 = 40;

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
        if self.version_class_flow[0] >> 4 != 6 {
            return Err(Fault::Malformed);
        }
        if LENGTH + self.payload_length() > available {
            return Err(Fault::Truncated);
        }
        Ok(())
    }

    /// Length of what follows the fixed header in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn payload_length(&self) -> u32 {
        u16::from_be_bytes(self.payload_length) as u32
    }
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
