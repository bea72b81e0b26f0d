//! Randomness as an argument: nonces, SPIs, IVs and MODP exponents are drawn through this trait, so that a
//! simulation can be repeated exactly.

use ring::rand::SecureRandom;

/// A source of bytes that an attacker cannot predict.
pub trait Random {
    /// Overwrites all of `buf` with random bytes.
    fn fill(&mut self, buf: &mut [u8]);
}

/// The operating system's generator (`getrandom(2)`), through `ring`.
#[derive(Clone, Debug)]
pub struct SystemRandom(ring::rand::SystemRandom);

impl SystemRandom {
    /// A handle; opens nothing and blocks only if the kernel's generator is not yet seeded, on first use.
    pub fn new() -> Self {
        Self(ring::rand::SystemRandom::new())
    }
}

impl Default for SystemRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl Random for SystemRandom {
    /// # Panics
    /// If the kernel refuses to give randomness: no key made after that would be safe, and nothing the
    /// network sends can bring it about.
    fn fill(&mut self, buf: &mut [u8]) {
        self.0
            .fill(buf)
            .expect("the operating system gives no randomness");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ_and_fill_the_whole_buffer() {
        let mut random = SystemRandom::new();
        let (mut a, mut b) = ([0u8; 64], [0u8; 64]);
        random.fill(&mut a);
        random.fill(&mut b);
        assert_ne!(a, b);
        // All 16 last bytes being zero has probability 2^-128.
        assert_ne!(&a[48..], &[0u8; 16]);
    }
}
