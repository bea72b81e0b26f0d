//! SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF"): who sees its values cannot tell the next one
//! without the key. Whole 64-bit words go in.

/// A key of 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipKey(pub u64, pub u64);

/// The hash of these words.
#[inline(always)]
#[must_use]
pub const fn siphash<const N: usize>(key: SipKey, words: [u64; N]) -> u64 {
    let mut state = State::new(key);
    let mut index = 0;
    while index < N {
        state.absorb(words[index]);
        index += 1;
    }
    // The last block has no octets left, and the length modulo 256 in its highest.
    state.absorb(((N as u64) * 8) << 56);
    state.v2 ^= 0xff;
    state.rounds(4);
    state.v0 ^ state.v1 ^ state.v2 ^ state.v3
}

struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline(always)]
    const fn new(SipKey(k0, k1): SipKey) -> Self {
        Self {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    const fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.rounds(2);
        self.v0 ^= word;
    }

    #[inline(always)]
    const fn rounds(&mut self, count: u32) {
        let mut round = 0;
        while round < count {
            self.v0 = self.v0.wrapping_add(self.v1);
            self.v1 = self.v1.rotate_left(13) ^ self.v0;
            self.v0 = self.v0.rotate_left(32);
            self.v2 = self.v2.wrapping_add(self.v3);
            self.v3 = self.v3.rotate_left(16) ^ self.v2;
            self.v0 = self.v0.wrapping_add(self.v3);
            self.v3 = self.v3.rotate_left(21) ^ self.v0;
            self.v2 = self.v2.wrapping_add(self.v1);
            self.v1 = self.v1.rotate_left(17) ^ self.v2;
            self.v2 = self.v2.rotate_left(32);
            round += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key and inputs of the reference implementation's vectors (github.com/veorq/SipHash, vectors.h, `vectors_sip64`):
    /// key 00..0f, input 00, 01, ... of 0, 8 and 16 octets.
    #[test]
    fn known_answers() {
        let key = SipKey(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(
            siphash(key, []).to_le_bytes(),
            [0x31, 0x0e, 0x0e, 0xdd, 0x47, 0xdb, 0x6f, 0x72]
        );
        let first = 0x0706_0504_0302_0100;
        assert_eq!(
            siphash(key, [first]).to_le_bytes(),
            [0x62, 0x24, 0x93, 0x9a, 0x79, 0xf5, 0xf5, 0x93]
        );
        assert_eq!(
            siphash(key, [first, 0x0f0e_0d0c_0b0a_0908]).to_le_bytes(),
            [0xdb, 0x9b, 0xc2, 0x57, 0x7f, 0xcc, 0x2a, 0x3f]
        );
    }

    #[test]
    fn each_bit_of_the_key_counts() {
        let hash = |bit: u32| siphash(SipKey(1 << (bit % 64), 1 << (bit / 2)), [42]);
        let mut all: std::vec::Vec<_> = (0..64).map(hash).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 64);
    }
}
