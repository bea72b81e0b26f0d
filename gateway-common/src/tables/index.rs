//! The index of a table: buckets of eight words, each a short note of one entry. A key may lie in two buckets and is
//! put into the emptier one.
//!
//! A word says what its place holds, in one piece, so that compare-and-swap changes it:
//!
//! ```text
//! 63          32 31            3 2   0
//! | fingerprint |    payload    |state|      payload: version of the place, or number of a record
//! ```
//! ```text
//! FREE -> CLAIMED -> TENTATIVE -> LIVE -> RETIRED -> FREE          readers look at LIVE alone
//!            |           `-> ABORTED -> FREE                       RETIRED holds its key until nobody can use it
//!            `-> FREE, or LIVE at once where no two can claim the same key
//!                                       RETIRED -> TENTATIVE              a sweep that takes it back
//! ```
//!
//! **One key, one entry.** Two CPUs may put the same key in at the same moment, in different places. Each makes its word
//! TENTATIVE and looks for others of the key afterwards: it gives way to one that is LIVE, RETIRED or TENTATIVE at a
//! lower place, and aborts one that is TENTATIVE at a higher place, which then fails to become LIVE. Whichever looks
//! later sees the other; nobody waits. `tests/tests/loom.rs` tries the interleavings, with a bounded number of
//! preemptions.
//!
//! **Reuse.** A LIVE entry becomes RETIRED first and FREE no earlier than a sweep later: a run of a program, which takes
//! microseconds, never sees its entry reused. The version rises with each claim, so that a compare-and-swap of an
//! older word fails.

use super::hash::Hash;
use super::words::{Store, Words};

/// Words of a bucket: one cache line.
pub const WIDTH: usize = 8;
/// Attempts to claim a place that others claim at the same moment.
const CLAIM_TRIES: u32 = 4;

/// Candidates that are compared with a key.
const ROUNDS: u32 = 2;

/// States of a place.
pub mod state {
    /// Holds nothing; the payload is the version.
    pub const FREE: u64 = 0;
    /// Taken, and being filled.
    pub const CLAIMED: u64 = 1;
    /// Filled, and looking for others of its key.
    pub const TENTATIVE: u64 = 2;
    /// In use.
    pub const LIVE: u64 = 3;
    /// Lost to another of its key; its owner frees it.
    pub const ABORTED: u64 = 4;
    /// No longer in use; a sweep frees it.
    pub const RETIRED: u64 = 5;
}

const STATE_BITS: u32 = 3;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;
const PAYLOAD_SHIFT: u32 = STATE_BITS;
/// Largest payload.
pub const PAYLOAD_MAX: u32 = (1 << 29) - 1;
const FINGERPRINT_SHIFT: u32 = 32;
/// In place of a payload: the place's next version.
const VERSION: u32 = u32::MAX;
/// In place of position and payload: no place was free.
const UNCLAIMED: u64 = u64::MAX;
/// All but the payload.
const NOTE_MASK: u64 = !((PAYLOAD_MAX as u64) << PAYLOAD_SHIFT);

/// State of a word.
#[inline(always)]
#[must_use]
pub const fn state_of(word: u64) -> u64 {
    word & STATE_MASK
}

/// Payload of a word.
#[inline(always)]
#[must_use]
pub const fn payload_of(word: u64) -> u32 {
    (word >> PAYLOAD_SHIFT) as u32 & PAYLOAD_MAX
}

/// The word in another state.
#[inline(always)]
const fn in_state(word: u64, state: u64) -> u64 {
    (word & !STATE_MASK) | state
}

#[inline(always)]
const fn note(fingerprint: u32, payload: u32, state: u64) -> u64 {
    ((fingerprint as u64) << FINGERPRINT_SHIFT) | ((payload as u64) << PAYLOAD_SHIFT) | state
}

/// A place that its owner has claimed.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Number of the place in the table.
    pub position: u32,
    /// What its word is, as far as its owner wrote it.
    pub word: u64,
}

/// Whether a RETIRED entry keeps others from taking its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// Its key may be taken at once.
    FreesKey,
    /// Its key is taken until a sweep frees the place.
    HoldsKey,
}

/// Another entry has the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken;

/// An index over buckets of `W` words.
#[derive(Clone, Copy, Debug)]
pub struct Index<S, const W: usize = WIDTH> {
    buckets: S,
}

impl<S: Store, const W: usize> Index<S, W> {
    /// The index in these buckets.
    #[inline(always)]
    pub const fn new(buckets: S) -> Self {
        Self { buckets }
    }

    /// Places of the index.
    #[inline(always)]
    pub fn places(&self) -> u32 {
        self.buckets.len().saturating_mul(W as u32)
    }

    /// The LIVE entry for which `matches` says something.
    #[inline(always)]
    pub fn find<R>(&self, hash: &Hash, matches: impl Fn(u32, u64) -> Option<R>) -> Option<R> {
        let (first, second) = (self.buckets.get(hash.first)?, self.buckets.get(hash.second)?);
        let expected = note(hash.fingerprint, 0, state::LIVE);
        // Both cache lines are on their way before the first is looked at.
        second.load(0);
        let mut at = hide::<S>(scan::<_, W>(first, second, expected));
        let mut tries = 0;
        loop {
            if at >= 2 * W {
                return None;
            }
            let (bucket, number, word) = if at < W {
                (first, hash.first, at)
            } else {
                (second, hash.second, at - W)
            };
            if let Some(found) = matches(place::<W>(number, word), bucket.load(word)) {
                return Some(found);
            }
            tries += 1;
            // A second round is for a key whose fingerprint happens to be the same; three of 32 bits are not met.
            if tries == ROUNDS {
                return None;
            }
            at = hide::<S>(scan_from::<_, W>(first, second, expected, at + 1));
        }
    }

    /// Whether an entry holds a key, in whatever state: `same` says whether the one at a place does.
    #[inline(always)]
    pub fn holds(&self, hash: &Hash, same: impl Fn(u32) -> bool) -> bool {
        let (Some(first), Some(second)) = (self.buckets.get(hash.first), self.buckets.get(hash.second))
        else {
            return false;
        };
        let mut at = 0;
        while at < 2 * W {
            let (bucket, number, word) = if at < W {
                (first, hash.first, at)
            } else {
                (second, hash.second, at - W)
            };
            at += 1;
            let found = bucket.load(word);
            if (found >> FINGERPRINT_SHIFT) as u32 == hash.fingerprint
                && holds_key(state_of(found), Retired::HoldsKey)
                && same(place::<W>(number, word))
            {
                return true;
            }
        }
        false
    }

    /// Claims a place in the emptier bucket. The payload is `payload`, or one more than the place's version.
    #[inline(always)]
    pub fn claim(&self, hash: &Hash, payload: Option<u32>) -> Option<Claim> {
        let claimed = self.claim_packed(hash, payload.unwrap_or(VERSION));
        if claimed == UNCLAIMED {
            return None;
        }
        Some(Claim {
            position: (claimed >> 32) as u32,
            word: note(hash.fingerprint, claimed as u32 & PAYLOAD_MAX, state::CLAIMED),
        })
    }

    /// Position and payload, or [`UNCLAIMED`], as one word: a function of BPF returns no more.
    #[inline(never)]
    fn claim_packed(&self, hash: &Hash, payload: u32) -> u64 {
        let (Some(first), Some(second)) = (self.buckets.get(hash.first), self.buckets.get(hash.second))
        else {
            return UNCLAIMED;
        };
        let mut tries = 0;
        while tries < CLAIM_TRIES {
            tries += 1;
            let (one, other) = (used::<_, W>(first), used::<_, W>(second));
            let (bucket, number, used) = if count(one) <= count(other) {
                (first, hash.first, one)
            } else {
                (second, hash.second, other)
            };
            let free = first_free::<S::Value, W>(used);
            if free >= W {
                return UNCLAIMED;
            }
            let old = bucket.load(free);
            if state_of(old) != state::FREE {
                continue;
            }
            let payload = if payload == VERSION {
                payload_of(old).wrapping_add(1) & PAYLOAD_MAX
            } else {
                payload
            };
            let word = note(hash.fingerprint, payload, state::CLAIMED);
            if bucket.compare_exchange(free, old, word).is_ok() {
                let position = place::<W>(number, free);
                return S::Value::hide(((position as u64) << 32) | payload as u64);
            }
        }
        UNCLAIMED
    }

    /// Lets readers see an entry whose key no other can have.
    #[inline(always)]
    pub fn publish(&self, claim: &mut Claim) {
        // Nobody else changes a CLAIMED word.
        let _ = self.advance(claim, state::LIVE);
    }

    /// Lets readers see an entry, unless another has its key: `same` says whether the one at a place does. Whether a
    /// RETIRED one keeps its key is up to the table.
    ///
    /// # Errors
    /// [`Taken`]; the place is free again.
    #[inline(always)]
    pub fn publish_unique(
        &self,
        hash: &Hash,
        claim: &mut Claim,
        retired: Retired,
        same: impl Fn(u32, u64) -> bool,
    ) -> Result<(), Taken> {
        let won = self.advance(claim, state::TENTATIVE).is_ok()
            && self.prevails(hash, claim, retired, same)
            && self.advance(claim, state::LIVE).is_ok();
        if won {
            return Ok(());
        }
        self.free(claim);
        Err(Taken)
    }

    /// Whether no other entry of the key stands in the way of the TENTATIVE one.
    #[inline(never)]
    fn prevails(
        &self,
        hash: &Hash,
        claim: &Claim,
        retired: Retired,
        same: impl Fn(u32, u64) -> bool,
    ) -> bool {
        let mut at = 0;
        while at < 2 * W {
            let (number, word) = if at < W {
                (hash.first, at)
            } else {
                (hash.second, at - W)
            };
            at += 1;
            let Some(bucket) = self.buckets.get(number) else {
                return false;
            };
            if at == 1 {
                // The own word is written before any other is looked at.
                bucket.fence();
            }
            let position = place::<W>(number, word);
            let found = bucket.load(word);
            // Hidden: or the verifier would follow each outcome of a comparison with it to the end.
            let own = S::Value::hide(u64::from(claim.position));
            let position = u64::from(position);
            if position == own
                || (found ^ claim.word) >> FINGERPRINT_SHIFT != 0
                || !holds_key(state_of(found), retired)
                || !same(position as u32, found)
            {
                continue;
            }
            if state_of(found) != state::TENTATIVE || position < own {
                return false;
            }
            let aborted = in_state(found, state::ABORTED);
            if let Err(now) = bucket.compare_exchange(word, found, aborted)
                && state_of(now) == state::LIVE
            {
                return false;
            }
        }
        true
    }

    /// Moves an own place on.
    #[inline(always)]
    fn advance(&self, claim: &mut Claim, state: u64) -> Result<(), u64> {
        let (bucket, word) = self.place(claim.position).ok_or(0u64)?;
        let next = in_state(claim.word, state);
        bucket.compare_exchange(word, claim.word, next)?;
        claim.word = next;
        Ok(())
    }

    /// Frees a place that its owner claimed and no reader can have seen, or that a sweep frees.
    #[inline(always)]
    pub fn free(&self, claim: &Claim) {
        if let Some((bucket, word)) = self.place(claim.position) {
            bucket.store(word, note(0, payload_of(claim.word), state::FREE));
        }
    }

    /// Makes a LIVE entry RETIRED. `false` if its word has changed.
    #[inline(always)]
    pub fn retire(&self, position: u32, word: u64) -> bool {
        self.change(position, word, state::RETIRED)
    }

    /// Makes an entry LIVE again that was retired when its word was `word`, unless another has got its key meanwhile: it
    /// is put in anew, as by [`Index::publish_unique`]. `false` if it stays out; a sweep frees its place then.
    pub fn revive(
        &self,
        hash: &Hash,
        position: u32,
        word: u64,
        retired: Retired,
        same: impl Fn(u32, u64) -> bool,
    ) -> bool {
        let word = in_state(word, state::RETIRED);
        let mut claim = Claim { position, word };
        if self.advance(&mut claim, state::TENTATIVE).is_err() {
            return false;
        }
        if self.prevails(hash, &claim, retired, same) && self.advance(&mut claim, state::LIVE).is_ok() {
            return true;
        }
        // Who had found it before may still use it: unlike a claim that fails, it is not free at once.
        self.change(position, claim.word, state::RETIRED);
        false
    }

    /// Changes the state of a place whose word is `word`; `false` if it is another by now.
    #[inline(always)]
    pub fn change(&self, position: u32, word: u64, state: u64) -> bool {
        match self.place(position) {
            Some((bucket, at)) => bucket.compare_exchange(at, word, in_state(word, state)).is_ok(),
            None => false,
        }
    }

    /// The word of a place.
    #[inline(always)]
    pub fn word(&self, position: u32) -> Option<u64> {
        let (bucket, word) = self.place(position)?;
        Some(bucket.load(word))
    }

    #[inline(always)]
    fn place(&self, position: u32) -> Option<(S::Value, usize)> {
        let bucket = self.buckets.get(position / W as u32)?;
        Some((bucket, (position % W as u32) as usize))
    }
}

/// See [`Words::hide`].
#[inline(always)]
fn hide<S: Store>(value: usize) -> usize {
    S::Value::hide(value as u64) as usize
}

#[inline(always)]
const fn place<const W: usize>(bucket: u32, word: usize) -> u32 {
    bucket.wrapping_mul(W as u32).wrapping_add(word as u32)
}

/// Whether a place in this state keeps others from taking its key.
#[inline(always)]
const fn holds_key(state: u64, retired: Retired) -> bool {
    match state {
        state::TENTATIVE | state::LIVE => true,
        state::RETIRED => matches!(retired, Retired::HoldsKey),
        _ => false,
    }
}

/// First word of both buckets that is as expected, or twice the width.
#[inline(always)]
fn scan<V: Words, const W: usize>(first: V, second: V, expected: u64) -> usize {
    let mut at = 0;
    while at < W {
        if first.load(at) & NOTE_MASK == expected {
            return at;
        }
        at += 1;
    }
    at = 0;
    while at < W {
        if second.load(at) & NOTE_MASK == expected {
            return W + at;
        }
        at += 1;
    }
    2 * W
}

/// The same, from a word on. Rarely called: kept out of the way of the fast one, and small to the verifier, as it is free of
/// branches.
#[inline(never)]
fn scan_from<V: Words, const W: usize>(first: V, second: V, expected: u64, from: usize) -> usize {
    let mut found = 2 * W as u64;
    let mut at = 2 * W;
    // Backwards: the first that matches is the last to be noted.
    while at > 0 {
        at -= 1;
        let word = if at < W {
            first.load(at)
        } else {
            second.load(at - W)
        };
        let is_before = (at as u64).wrapping_sub(from as u64);
        let is_other = nonzero::<V>((word & NOTE_MASK) ^ expected) | (V::opaque(is_before) >> 63);
        found ^= (found ^ at as u64).wrapping_mul(V::opaque(is_other ^ 1));
    }
    found as usize
}

/// 1 if a value is not zero, without a branch.
#[inline(always)]
fn nonzero<V: Words>(value: u64) -> u64 {
    V::opaque(value | value.wrapping_neg()) >> 63
}

/// Which places of a bucket are in use, a bit each, without a branch.
#[inline(never)]
fn used<V: Words, const W: usize>(bucket: V) -> u64 {
    const { assert!(state::FREE == 0 && W <= 8) };
    let mut used = 0u64;
    let mut at = W;
    while at > 0 {
        at -= 1;
        // One if the state is not FREE, which alone gives no carry.
        let is_used = V::opaque(state_of(bucket.load(at)).wrapping_add(STATE_MASK)) >> STATE_BITS;
        used = (used << 1) | is_used;
    }
    used
}

/// How many of eight bits are set.
#[inline(always)]
const fn count(bits: u64) -> u64 {
    let pairs = bits - ((bits >> 1) & 0x55);
    let nibbles = (pairs & 0x33) + ((pairs >> 2) & 0x33);
    (nibbles + (nibbles >> 4)) & 0xf
}

/// The lowest of the first `W` bits that is not set, or `W`, without a branch.
#[inline(always)]
fn first_free<V: Words, const W: usize>(used: u64) -> usize {
    // The bits below it.
    let below = V::opaque(!used & used.wrapping_add(1)).wrapping_sub(1) & ((1 << W) - 1);
    count(below) as usize
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// What the branch-free survey says of a bucket, beside what it holds: in all ways to fill it, with every state.
    #[test]
    fn a_survey_says_what_a_bucket_holds() {
        for mask in 0..1u64 << WIDTH {
            for state in 1..=STATE_MASK {
                let bucket: [AtomicU64; WIDTH] = core::array::from_fn(|at| {
                    let state = if mask >> at & 1 == 1 { state } else { state::FREE };
                    AtomicU64::new(note(u32::MAX, PAYLOAD_MAX, state))
                });
                let used = used::<_, WIDTH>(&bucket);
                assert_eq!(used, mask);
                assert_eq!(count(used), u64::from(mask.count_ones()));
                let free = first_free::<&[AtomicU64; WIDTH], WIDTH>(used);
                assert_eq!(free, mask.trailing_ones() as usize);
            }
        }
    }

    #[test]
    fn a_narrow_bucket_has_no_place_beyond_its_width() {
        let places = [0b00, 0b01, 0b10, 0b11].map(first_free::<&[AtomicU64; 2], 2>);
        assert_eq!(places, [0, 1, 0, 2]);
    }
}
