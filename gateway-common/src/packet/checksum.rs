//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums run over words in memory order: the one's complement sum does not depend on byte order (RFC 1071 section 2 B).

/// One's complement sum of 16-bit words, not folded yet.
#[derive(Clone, Copy, Default)]
pub struct Sum(u32);

impl Sum {
    /// What was summed elsewhere, in 16-bit words in memory order; folded to below 2^16 + 2^16.
    #[inline(always)]
    #[must_use]
    pub const fn of(sum: u64) -> Self {
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        Self(sum as u32)
    }

    /// Adds `bytes`, which begin at an even offset of what is summed. An odd last byte is padded with zero.
    /// At most 32,768 words may be added to one sum.
    #[inline(always)]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<2>();
        let mut sum = self.0;
        for word in words {
            sum = sum.wrapping_add(u32::from(u16::from_ne_bytes(*word)));
        }
        if let [last] = rest {
            sum = sum.wrapping_add(u32::from(u16::from_ne_bytes([*last, 0])));
        }
        Self(sum)
    }

    /// The checksum field for what was added.
    #[inline(always)]
    #[must_use]
    pub fn finish(self) -> [u8; 2] {
        (!fold(self.0)).to_ne_bytes()
    }
}

/// Changes of summed fields, to be applied to a checksum (RFC 1624 equation 3: `HC' = ~(~HC + ~m + m')`). Longer fields
/// are summed as they are: 2^16 is 1 modulo 2^16 - 1, so that folding comes last (RFC 1071 section 2 C).
#[derive(Clone, Copy, Default)]
pub struct Change(u64);

impl Change {
    /// A 16-bit word becomes another.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: [u8; 2], new: [u8; 2]) -> Self {
        let (old, new) = (u16::from_ne_bytes(old) as u64, u16::from_ne_bytes(new) as u64);
        Self(self.0.wrapping_add(old ^ 0xffff).wrapping_add(new))
    }

    /// A 32-bit field at an even offset becomes another.
    #[inline(always)]
    #[must_use]
    pub const fn double(self, old: [u8; 4], new: [u8; 4]) -> Self {
        let (old, new) = (u32::from_ne_bytes(old) as u64, u32::from_ne_bytes(new) as u64);
        Self(self.0.wrapping_add(old ^ 0xffff_ffff).wrapping_add(new))
    }

    /// The checksum after the changes, of which there may be many thousands.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = self.0.wrapping_add(u16::from_ne_bytes(checksum) as u64 ^ 0xffff);
        // Below 2^48, 2^33, 2^18 and 2^16 + 4 after each step.
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_ne_bytes()
    }

    /// The same for UDP over IPv4: zero means "no checksum" and stays (RFC 4787 leaves it); a sum of zero is sent as
    /// all ones (RFC 768).
    #[inline(always)]
    #[must_use]
    pub fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        if checksum == [0, 0] {
            return checksum;
        }
        match self.apply(checksum) {
            [0, 0] => [0xff, 0xff],
            sum => sum,
        }
    }
}

/// Adds the carries back in; a sum of at most 65,536 words needs two steps.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_1071_section_3_example() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), (!0xddf2u16).to_be_bytes());
    }

    #[test]
    fn rfc_1624_section_4_example() {
        // m = 0x5555 becomes 0x3285, HC = 0xDD2F: equation 3 gives 0x0000, where RFC 1141's gave 0xFFFF.
        let change = Change::default().word([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(change.apply([0xdd, 0x2f]), [0x00, 0x00]);
        assert_eq!(change.apply_udp([0xdd, 0x2f]), [0xff, 0xff]);
        assert_eq!(change.apply_udp([0, 0]), [0, 0]);
    }

    #[test]
    fn an_odd_byte_counts_as_the_high_one() {
        assert_eq!(Sum::default().bytes(&[0xab]).finish(), (!0xab00u16).to_be_bytes());
    }

    proptest! {
        /// Property: an incremental update equals a full sum, for data that is not all zero.
        #[test]
        fn change_equals_recomputation(
            mut words in proptest::collection::vec(any::<[u8; 2]>(), 1..40),
            new in any::<[u8; 2]>(),
            place in any::<prop::sample::Index>(),
        ) {
            words.push([0x45, 0x00]);
            let before = Sum::default().bytes(words.as_flattened()).finish();
            let place = place.index(words.len() - 1);
            let old = std::mem::replace(&mut words[place], new);
            let after = Sum::default().bytes(words.as_flattened()).finish();
            prop_assert_eq!(Change::default().word(old, new).apply(before), after);
        }
    }
}
