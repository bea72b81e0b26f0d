//! The words of a generation while it is built.
use std::collections::HashMap;

use gateway_common::abi::rule::layout::{
    BLOCK_WORDS, CHILD, CHUNK_WORDS, CHUNKS_MAX, FREE, GROUPS_A_BUCKET, SUMMARY_WORDS,
};

use super::TooLarge;

pub(super) struct Image {
    words: Vec<u64>,
    /// The next free word.
    free: u32,
    /// Words of a vector behind its summary.
    vector_words: usize,
    /// Where each vector stands.
    vectors: HashMap<Box<[u64]>, u32>,
}

impl Image {
    /// Empty, for this many compiled rules.
    pub(super) fn new(rules: usize) -> Self {
        Self {
            words: vec![0; FREE as usize],
            free: FREE,
            vector_words: rules.div_ceil(64),
            vectors: HashMap::new(),
        }
    }

    /// A vector without a bit.
    pub(super) fn blank(&self) -> Vec<u64> {
        vec![0; self.vector_words]
    }

    /// Where this vector stands; it is put there if it is new.
    pub(super) fn vector(&mut self, bits: &[u64]) -> Result<u32, TooLarge> {
        if let Some(place) = self.vectors.get(bits) {
            return Ok(*place);
        }
        let place = self.allocate(SUMMARY_WORDS + self.vector_words as u32)?;
        let mut summary = [0u64; SUMMARY_WORDS as usize];
        for (index, word) in bits.iter().enumerate() {
            if *word != 0
                && let Some(summary) = summary.get_mut(index / 64)
            {
                *summary |= 1 << (index % 64);
            }
        }
        for (at, word) in (place..).zip(summary.iter().chain(bits)) {
            self.set(at, *word);
        }
        self.vectors.insert(bits.into(), place);
        Ok(place)
    }

    /// Makes all keys from `low` to `high` lead to a vector. Stretches are filled once each, in any order, and cover
    /// the whole table in the end.
    pub(super) fn fill(&mut self, table: u32, low: u32, high: u32, vector: u32) -> Result<(), TooLarge> {
        self.fill_level(table, 16, low, high, vector)
    }

    /// `table`: the word of the entries for the bits of the key from `shift` on.
    fn fill_level(
        &mut self,
        table: u32,
        shift: u32,
        low: u32,
        high: u32,
        vector: u32,
    ) -> Result<(), TooLarge> {
        let mask = if shift == 16 { 0xffff } else { 0xff };
        let below = (1u32 << shift) - 1;
        let entry = |key: u32| table * 2 + (key & mask);
        let (mut first, mut last) = (low >> shift, high >> shift);
        // The keys at both ends may be covered in part only; those between are covered whole.
        if low & below != 0 || (first == last && high & below != below) {
            let block = self.block(entry(first))?;
            self.fill_level(block, shift - 8, low, high.min(first << shift | below), vector)?;
            if first == last {
                return Ok(());
            }
            first += 1;
        }
        if high & below != below {
            let block = self.block(entry(last))?;
            self.fill_level(block, shift - 8, last << shift, high, vector)?;
            if first == last {
                return Ok(());
            }
            last -= 1;
        }
        self.set_halves(entry(first), entry(last), vector);
        Ok(())
    }

    /// The block behind an entry; made if it is not there.
    fn block(&mut self, entry: u32) -> Result<u32, TooLarge> {
        let found = self.half(entry);
        if found & CHILD != 0 {
            return Ok(found & !CHILD);
        }
        self.free = self.free.next_multiple_of(BLOCK_WORDS);
        let block = self.allocate(BLOCK_WORDS)?;
        self.set_half(entry, block | CHILD);
        Ok(block)
    }

    /// Words that lie in one chunk.
    fn allocate(&mut self, count: u32) -> Result<u32, TooLarge> {
        self.free = self.free.next_multiple_of(2);
        if self.free % CHUNK_WORDS + count > CHUNK_WORDS {
            self.free = self.free.next_multiple_of(CHUNK_WORDS);
        }
        self.allocate_long(count)
    }

    /// Buckets of group bitmaps, none of which crosses the end of a chunk.
    pub(super) fn allocate_buckets(&mut self, count: u32) -> Result<u32, TooLarge> {
        self.free = self.free.next_multiple_of(2 * GROUPS_A_BUCKET);
        self.allocate_long(count * 2 * GROUPS_A_BUCKET)
    }

    /// Words that may cross the end of a chunk, beginning at an even one.
    pub(super) fn allocate_long(&mut self, count: u32) -> Result<u32, TooLarge> {
        let place = self.free.next_multiple_of(2);
        let end = place + count;
        if end > CHUNKS_MAX * CHUNK_WORDS {
            return Err(TooLarge::Words);
        }
        self.free = end;
        self.words.resize(end as usize, 0);
        Ok(place)
    }

    pub(super) fn set(&mut self, word: u32, value: u64) {
        if let Some(place) = self.words.get_mut(word as usize) {
            *place = value;
        }
    }

    fn half(&self, half: u32) -> u32 {
        let word = self.words.get(half as usize / 2).copied().unwrap_or_default();
        let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
        match half % 2 {
            0 => u32::from_ne_bytes([a, b, c, d]),
            _ => u32::from_ne_bytes([e, f, g, h]),
        }
    }

    /// Sets one half of a word, counted in halves, in memory order.
    pub(super) fn set_half(&mut self, half: u32, value: u32) {
        let other = self.half(half ^ 1).to_ne_bytes();
        let [a, b, c, d] = value.to_ne_bytes();
        let [e, f, g, h] = other;
        let word = match half % 2 {
            0 => [a, b, c, d, e, f, g, h],
            _ => [e, f, g, h, a, b, c, d],
        };
        self.set(half / 2, u64::from_ne_bytes(word));
    }

    /// Sets all halves from `first` to `last`.
    pub(super) fn set_halves(&mut self, first: u32, last: u32, value: u32) {
        let words = (first.div_ceil(2) as usize)..(last as usize).div_ceil(2);
        if first % 2 == 1 {
            self.set_half(first, value);
        }
        if last.is_multiple_of(2) {
            self.set_half(last, value);
        }
        let [a, b, c, d] = value.to_ne_bytes();
        if let Some(words) = self.words.get_mut(words) {
            words.fill(u64::from_ne_bytes([a, b, c, d, a, b, c, d]));
        }
    }

    /// All words, filled up to whole chunks.
    pub(super) fn finish(mut self) -> Vec<u64> {
        let length = self.words.len().next_multiple_of(CHUNK_WORDS as usize);
        self.words.resize(length, 0);
        self.words
    }
}
