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
//!            RETIRED -> TENTATIVE -> LIVE                         a sweep takes it back
//!                            |  `-> ABORTED -> RETIRED            or does not, as another has got the key
//!                            `-> RETIRED
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

/// Where an entry is noted: not every look-up asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Noted<V> {
    bucket: V,
    word: usize,
}

impl<V: Words> Noted<V> {
    /// The note, as it is now.
    #[inline(always)]
    pub fn load(self) -> u64 {
        self.bucket.load(self.word)
    }
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

    /// The LIVE entry for which `matches` says something of its place and the note of it.
    #[inline(always)]
    pub fn find<R>(&self, hash: &Hash, matches: impl Fn(u32, Noted<S::Value>) -> Option<R>) -> Option<R> {
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
            let (bucket, number) = if at < W {
                (first, hash.first)
            } else {
                (second, hash.second)
            };
            let noted = Noted { bucket, word: at % W };
            if let Some(found) = matches(place::<W>(number, noted.word), noted) {
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

    /// The place that a claim would get now; another one or none by the time of the claim.
    #[inline(always)]
    pub fn likely_claim(&self, hash: &Hash) -> Option<u32> {
        let (first, second) = (self.buckets.get(hash.first)?, self.buckets.get(hash.second)?);
        let vacancy = hide::<S>(likely_vacancy::<_, W>(first, second));
        match vacancy {
            vacancy if vacancy >= 2 * W => None,
            vacancy if vacancy >= W => Some(place::<W>(hash.second, vacancy - W)),
            vacancy => Some(place::<W>(hash.first, vacancy)),
        }
    }

    /// Has both buckets of a key come into the cache.
    #[inline(always)]
    pub fn prefetch(&self, hash: &Hash) {
        if let (Some(first), Some(second)) = (self.buckets.get(hash.first), self.buckets.get(hash.second)) {
            first.load(0);
            second.load(0);
        }
    }

    /// Claims a place in the emptier bucket. The payload is `payload`, or one more than the place's version.
    #[inline(always)]
    pub fn claim(&self, hash: &Hash, payload: Option<u32>) -> Option<Claim> {
        let (first, second) = (self.buckets.get(hash.first)?, self.buckets.get(hash.second)?);
        let claimed = S::Value::hide(claim_packed::<_, W>(
            first,
            second,
            hash,
            payload.unwrap_or(VERSION),
        ));
        if claimed == UNCLAIMED {
            return None;
        }
        Some(Claim {
            position: (claimed >> 32) as u32,
            word: note(hash.fingerprint, claimed as u32 & PAYLOAD_MAX, state::CLAIMED),
        })
    }

    /// Lets readers see an entry whose key no other can have.
    #[inline(always)]
    pub fn publish(&self, claim: &mut Claim) {
        if let Some((bucket, word)) = self.place(claim.position) {
            claim.word = in_state(claim.word, state::LIVE);
            // Nobody else changes a CLAIMED word: a compare-and-swap would wait for all that was written before.
            bucket.store(word, claim.word);
        }
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
        self.hold_unique(hash, claim, retired, same)?;
        self.reveal(claim)
    }

    /// The first half of [`Index::publish_unique`]: the entry holds its key against others, but no reader sees it. It may still
    /// be taken back, by [`Index::free`], or lose the key to another at a lower place.
    ///
    /// # Errors
    /// [`Taken`]; the place is free again.
    #[inline(always)]
    pub fn hold_unique(
        &self,
        hash: &Hash,
        claim: &mut Claim,
        retired: Retired,
        same: impl Fn(u32, u64) -> bool,
    ) -> Result<(), Taken> {
        let holds = self.advance(claim, state::TENTATIVE).is_ok()
            && hide::<S>(usize::from(
                self.is_alone(hash) || self.prevails(hash, claim, retired, same),
            )) != 0;
        if holds {
            return Ok(());
        }
        self.free(claim);
        Err(Taken)
    }

    /// The second half: lets readers see an entry that holds its key.
    ///
    /// # Errors
    /// [`Taken`] if another has got the key meanwhile; the place is free again.
    #[inline(always)]
    pub fn reveal(&self, claim: &mut Claim) -> Result<(), Taken> {
        if self.advance(claim, state::LIVE).is_ok() {
            return Ok(());
        }
        self.free(claim);
        Err(Taken)
    }

    /// Whether none but the TENTATIVE entry has its fingerprint, so that no other can have its key.
    #[inline(always)]
    fn is_alone(&self, hash: &Hash) -> bool {
        let (Some(first), Some(second)) = (self.buckets.get(hash.first), self.buckets.get(hash.second))
        else {
            return false;
        };
        // The own word is written before any other is looked at.
        first.fence();
        S::Value::hide(alike::<_, W>(first, second, hash.fingerprint)) < 2
    }

    /// Whether no other entry of the key stands in the way of the TENTATIVE one, which was written before, as [`Index::is_alone`]
    /// sees to.
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

    /// Makes a LIVE entry RETIRED. `false` if its word has changed, or was not LIVE any more when it was found: who looks a
    /// key up reads its word twice.
    #[inline(always)]
    pub fn retire(&self, position: u32, word: u64) -> bool {
        state_of(word) == state::LIVE && self.change(position, word, state::RETIRED)
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
        let prevails = self.is_alone(hash) || self.prevails(hash, &claim, retired, same);
        if prevails && self.advance(&mut claim, state::LIVE).is_ok() {
            return true;
        }
        // Who had found it before may still use it, and it is counted: unlike a claim that fails, it is not free at once, even
        // if another has aborted it. Nobody else changes an ABORTED word.
        if let Some((bucket, at)) = self.place(position) {
            bucket.store(at, word);
        }
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

/// How many words of both buckets have this fingerprint, without a branch. Of a bucket that is both, each counts twice.
#[inline(never)]
fn alike<V: Words, const W: usize>(first: V, second: V, fingerprint: u32) -> u64 {
    let fingerprint = u64::from(fingerprint);
    let mut others = 0;
    let mut at = 0;
    while at < W {
        // A difference is below 2^32, and less than zero when one is taken from nothing.
        let one = (first.load(at) >> FINGERPRINT_SHIFT) ^ fingerprint;
        let other = (second.load(at) >> FINGERPRINT_SHIFT) ^ fingerprint;
        others += (V::opaque(one.wrapping_sub(1)) >> 63) + (V::opaque(other.wrapping_sub(1)) >> 63);
        at += 1;
    }
    others
}

/// 1 if a value is not zero, without a branch.
#[inline(always)]
fn nonzero<V: Words>(value: u64) -> u64 {
    V::opaque(value | value.wrapping_neg()) >> 63
}

/// Claims a place in the emptier one of a key's buckets: position and payload, or [`UNCLAIMED`], as one word, as a function of
/// BPF returns no more. It gets the buckets themselves: looked up here, for more than one index, they would cost a call each.
#[inline(never)]
fn claim_packed<V: Words, const W: usize>(first: V, second: V, hash: &Hash, payload: u32) -> u64 {
    let mut tries = 0;
    while tries < CLAIM_TRIES {
        tries += 1;
        let vacancy = vacancy::<_, W>(first, second);
        let (bucket, number, free) = if vacancy < W {
            (first, hash.first, vacancy)
        } else {
            (second, hash.second, vacancy - W)
        };
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
            return V::hide(((position as u64) << 32) | payload as u64);
        }
    }
    UNCLAIMED
}

/// The first free place of the emptier bucket: of the second one from `W` on, or twice the width if both are full.
#[inline(always)]
fn vacancy<V: Words, const W: usize>(first: V, second: V) -> usize {
    let (one, other) = (used::<_, W>(first), used::<_, W>(second));
    if count(one) > count(other) {
        return W + first_free::<V, W>(other);
    }
    let free = first_free::<V, W>(one);
    if free < W { free } else { 2 * W }
}

/// The same, apart from its callers.
#[inline(never)]
fn likely_vacancy<V: Words, const W: usize>(first: V, second: V) -> usize {
    vacancy::<V, W>(first, second)
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
    use std::sync::atomic::{AtomicU64, Ordering};

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

    /// A bucket whose places are in use that these bits say.
    fn bucket(used: u64) -> [AtomicU64; WIDTH] {
        core::array::from_fn(|at| {
            let state = if used >> at & 1 == 1 {
                state::LIVE
            } else {
                state::FREE
            };
            AtomicU64::new(note(u32::MAX, 0, state))
        })
    }

    /// The vacancy is the first free place of the emptier bucket, of the first one if they are alike, and what a claim then gets.
    #[test]
    fn a_claim_gets_the_vacancy_of_the_emptier_bucket() {
        let hash = Hash {
            first: 0,
            second: 1,
            fingerprint: 7,
        };
        for one in 0..1u64 << WIDTH {
            for other in 0..1u64 << WIDTH {
                let buckets = [bucket(one), bucket(other)];
                let expected = if one.count_ones() <= other.count_ones() {
                    one.trailing_ones()
                } else {
                    WIDTH as u32 + other.trailing_ones()
                };
                let index = Index::<_>::new(&buckets[..]);
                let likely = index.likely_claim(&hash);
                let claimed = index.claim(&hash, None).map(|claim| claim.position);
                let expected = (one & other != 0xff).then_some(expected);
                assert_eq!((likely, claimed), (expected, expected));
            }
        }
    }

    /// Beside what each word says by itself: whatever else it holds, its fingerprint alone is counted.
    #[test]
    fn words_of_a_fingerprint_are_counted() {
        for fingerprint in [0, 1, 7, 1 << 31, u32::MAX - 1, u32::MAX] {
            for (other, both) in [(0, false), (1, false), (7, true), (u32::MAX, false)] {
                for mask in 0..1u64 << WIDTH {
                    let bucket: [AtomicU64; WIDTH] = core::array::from_fn(|at| {
                        let own = if mask >> at & 1 == 1 { fingerprint } else { other };
                        AtomicU64::new(note(own, PAYLOAD_MAX * u32::from(both), state::TENTATIVE))
                    });
                    let naive = bucket
                        .iter()
                        .filter(|word| {
                            (word.load(Ordering::Relaxed) >> FINGERPRINT_SHIFT) as u32 == fingerprint
                        })
                        .count();
                    let counted = alike::<_, WIDTH>(&bucket, &bucket, fingerprint);
                    assert_eq!(counted, 2 * naive as u64, "{fingerprint} {other} {mask:b}");
                }
            }
        }
    }

    #[test]
    fn a_narrow_bucket_has_no_place_beyond_its_width() {
        let places = [0b00, 0b01, 0b10, 0b11].map(first_free::<&[AtomicU64; 2], 2>);
        assert_eq!(places, [0, 1, 0, 2]);
    }
}
