//! Memory that kernel and user space share: arrays whose values are 64-bit words.
//!
//! The tables are written over these two traits, so that the same code runs on BPF map values, on the same arrays
//! mapped by the daemon, on ordinary memory in tests, and under loom.

/// Words of one value of an array. A copy of it is another reference to the same words.
pub trait Words: Copy {
    /// Reads a word; what its writer wrote before it is seen as well (acquire).
    fn load(self, word: usize) -> u64;
    /// Writes a word; whoever reads it sees what was written before it as well (release).
    fn store(self, word: usize, value: u64);
    /// Writes `new` if the word is `current`.
    ///
    /// # Errors
    /// What the word is instead.
    fn compare_exchange(self, word: usize, current: u64, new: u64) -> Result<(), u64>;
    /// Adds to a word and returns what it was; a difference is added as its two's complement.
    fn add(self, word: usize, value: u64) -> u64;
    /// No access before this is reordered with an access after it.
    fn fence(self);
    /// The value, of which compiler and verifier are to know nothing: ways that differ in it alone become one again.
    fn hide(value: u64) -> u64 {
        value
    }
    /// The value, of which the compiler is to know nothing: what is computed with it stays free of branches, of which the
    /// verifier would follow both ways.
    fn opaque(value: u64) -> u64 {
        value
    }
}

/// An array of values.
pub trait Store: Copy {
    /// Its values.
    type Value: Words;
    /// How many there are.
    fn len(self) -> u32;
    /// Whether there is none.
    fn is_empty(self) -> bool {
        self.len() == 0
    }
    /// One of them.
    fn get(self, index: u32) -> Option<Self::Value>;
}

#[cfg(any(test, feature = "std"))]
mod memory {
    use core::sync::atomic::{AtomicU64, Ordering, fence};

    use super::{Store, Words};

    impl<const N: usize> Words for &[AtomicU64; N] {
        fn load(self, word: usize) -> u64 {
            self.get(word).map_or(0, |word| word.load(Ordering::Acquire))
        }

        fn store(self, word: usize, value: u64) {
            if let Some(word) = self.get(word) {
                word.store(value, Ordering::Release);
            }
        }

        fn compare_exchange(self, word: usize, current: u64, new: u64) -> Result<(), u64> {
            let Some(word) = self.get(word) else {
                return Err(current);
            };
            word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
                .map(|_| ())
        }

        fn add(self, word: usize, value: u64) -> u64 {
            self.get(word)
                .map_or(0, |word| word.fetch_add(value, Ordering::AcqRel))
        }

        fn fence(self) {
            fence(Ordering::SeqCst);
        }
    }

    impl<'a, const N: usize> Store for &'a [[AtomicU64; N]] {
        type Value = &'a [AtomicU64; N];

        fn len(self) -> u32 {
            u32::try_from(<[_]>::len(self)).unwrap_or(u32::MAX)
        }

        fn get(self, index: u32) -> Option<Self::Value> {
            <[_]>::get(self, index as usize)
        }
    }
}
