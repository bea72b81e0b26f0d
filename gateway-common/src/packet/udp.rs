//! UDP (RFC 768), and the ports that ESP and IKE use.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header.
pub const LENGTH: u32 = 8;
/// IKE (RFC 7296 section 2).
pub const PORT_IKE: [u8; 2] = 500u16.to_be_bytes();
/// IKE with NAT traversal, and ESP in UDP (RFC 3948).
pub const PORT_NAT_TRAVERSAL: [u8; 2] = 4500u16.to_be_bytes();

/// The header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Udp {
    /// Source port.
    pub source_port: [u8; 2],
    /// Destination port.
    pub destination_port: [u8; 2],
    /// Length of header and data.
    pub length: [u8; 2],
    /// Checksum; zero if the sender made none.
    pub checksum: [u8; 2],
}

impl Udp {
    /// Length of header and data in bytes, if it is at least a header and fits `available` bytes.
    #[inline(always)]
    #[must_use]
    pub fn length(&self, available: u32) -> Option<u32> {
        fits(u32::from(u16::from_be_bytes(self.length)), available)
    }
}

/// The length in a header, if it is at least a header and fits `available` bytes.
#[inline(always)]
#[must_use]
pub fn fits(length: u32, available: u32) -> Option<u32> {
    (length >= LENGTH && length <= available).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let bytes = [0x11, 0x94, 0x01, 0xf4, 0x00, 0x0c, 0xbe, 0xef];
        let header = Udp::read_from_bytes(&bytes).unwrap();
        assert_eq!(header.source_port, PORT_NAT_TRAVERSAL);
        assert_eq!(header.destination_port, PORT_IKE);
        assert_eq!(header.checksum, [0xbe, 0xef]);
        assert_eq!(
            (header.length(12), header.length(13), header.length(11)),
            (Some(12), Some(12), None)
        );
        assert_eq!(
            Udp {
                length: [0, 7],
                ..header
            }
            .length(12),
            None
        );
    }
}
