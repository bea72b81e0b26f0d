//! IKE SAs as the packet path sees them: the SPI that the gateway drew, and no more.

use super::limit;

/// What stands in [`IKE_SPIS`](super::map::IKE_SPIS) where there is no IKE SA: an SPI that is none (RFC 7296 section 3.1).
pub const NONE: u64 = 0;

/// In place of an address's third word. No source's, nor any other's: it is zero there, or begins with ones.
const OF_IKE_SA: u32 = u32::from_ne_bytes([0xfe, 0, 0, 0]);

/// Key in [`IKE_RATE`](super::map::IKE_RATE) of messages on the IKE SA with this SPI.
#[inline(always)]
#[must_use]
pub const fn bucket(spi: u64) -> [u8; 16] {
    zerocopy::transmute!([(spi >> 32) as u32, spi as u32, OF_IKE_SA, 0])
}

/// Place of the IKE SA for which the gateway drew this SPI: those that it draws differ in their lowest bits.
#[inline(always)]
#[must_use]
pub const fn place(spi: u64) -> u32 {
    (spi % limit::SA_PLACES as u64) as u32
}
