//! ESP (RFC 4303) and its encapsulation in UDP (RFC 3948), as far as `wan` reads them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Shortest ESP packet: SPI, sequence number and an ICV of 16 bytes, which all supported algorithms have.
pub const LENGTH_MIN: u32 = 8 + 16;
/// In place of the SPI, this says that IKE follows (RFC 3948 section 2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// The one byte of a NAT keepalive (RFC 3948 section 2.3).
pub const KEEPALIVE: u8 = 0xff;

/// What is readable of an ESP packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Esp {
    /// Security parameters index.
    pub spi: [u8; 4],
    /// Low 32 bits of the sequence number.
    pub sequence: [u8; 4],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let header = Esp::read_from_bytes(&[0xc0, 0xff, 0xee, 0x01, 0, 0, 0, 7]).unwrap();
        assert_eq!(header.spi, [0xc0, 0xff, 0xee, 0x01]);
        assert_eq!(header.sequence, [0, 0, 0, 7]);
    }
}
