//! IKE (RFC 7296 section 3.1), as far as `wan` reads it.

/// Shortest message: its header.
pub const LENGTH_MIN: u32 = 28;
/// Words of the header up to the flags, which [`receiver_spi`] reads.
pub const WORDS: usize = 5;
/// The sender is who began the IKE SA.
const INITIATOR: u32 = 0x08;

/// The SPI that the receiver of a message drew, by the first words of the header as they lie in memory. `None` if it has drawn
/// none yet.
#[inline(always)]
#[must_use]
pub const fn receiver_spi([i0, i1, r0, r1, last]: [u32; WORDS]) -> Option<u64> {
    let (high, low) = if u32::from_be(last) & INITIATOR != 0 {
        (r0, r1)
    } else {
        (i0, i1)
    };
    match (u32::from_be(high) as u64) << 32 | u32::from_be(low) as u64 {
        0 => None,
        spi => Some(spi),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(octets: [u8; 20]) -> [u32; WORDS] {
        core::array::from_fn(|word| {
            let at = 4 * word;
            u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
        })
    }

    #[test]
    fn golden_bytes() {
        let mut octets = [
            1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 46, 0x20, 37, 0x08,
        ];
        assert_eq!(receiver_spi(words(octets)), Some(0x1112_1314_1516_1718));
        octets[19] = 0x20;
        assert_eq!(receiver_spi(words(octets)), Some(0x0102_0304_0506_0708));
        // A request of IKE_SA_INIT.
        octets[8..16].fill(0);
        octets[19] = 0x08;
        assert_eq!(receiver_spi(words(octets)), None);
    }
}
