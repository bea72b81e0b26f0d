//! Memory of a table beside another CPU, which does something before each access: for tests of what may happen in between.

use core::sync::atomic::AtomicU64;

use super::words::{Store, Words};

/// An array.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, const N: usize> {
    values: &'a [[AtomicU64; N]],
    other: &'a dyn Fn(),
}

/// One of its values.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a, const N: usize> {
    words: &'a [AtomicU64; N],
    other: &'a dyn Fn(),
}

impl<'a, const N: usize> Rows<'a, N> {
    /// These values, beside what `other` does, which accesses them by itself.
    pub(super) fn new(values: &'a [[AtomicU64; N]], other: &'a dyn Fn()) -> Self {
        Self { values, other }
    }
}

impl<'a, const N: usize> Store for Rows<'a, N> {
    type Value = Row<'a, N>;

    fn len(self) -> u32 {
        Store::len(self.values)
    }

    fn get(self, index: u32) -> Option<Row<'a, N>> {
        let words = Store::get(self.values, index)?;
        Some(Row::new(words, self.other))
    }
}

impl<'a, const N: usize> Row<'a, N> {
    /// This value, beside what `other` does.
    pub(crate) fn new(words: &'a [AtomicU64; N], other: &'a dyn Fn()) -> Self {
        Self { words, other }
    }
}

impl<const N: usize> Words for Row<'_, N> {
    fn load(self, word: usize) -> u64 {
        (self.other)();
        self.words.load(word)
    }

    fn store(self, word: usize, value: u64) {
        (self.other)();
        self.words.store(word, value);
    }

    fn compare_exchange(self, word: usize, current: u64, new: u64) -> Result<(), u64> {
        (self.other)();
        self.words.compare_exchange(word, current, new)
    }

    fn add(self, word: usize, value: u64) -> u64 {
        (self.other)();
        self.words.add(word, value)
    }

    fn fence(self) {}
}
