//! Rounds of threads that may hold an entry of a table.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

/// A round, from here until it is dropped, however it ends: the number is odd within one, as a worker's is.
#[derive(Debug)]
pub struct Round<'a>(&'a AtomicU64);

impl<'a> Round<'a> {
    /// Begins one.
    #[must_use]
    pub fn begin(rounds: &'a AtomicU64) -> Self {
        rounds.fetch_add(1, SeqCst);
        Self(rounds)
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// The rounds that threads are in.
pub fn seen(rounds: &[AtomicU64]) -> impl Iterator<Item = u64> {
    rounds.iter().map(|rounds| rounds.load(SeqCst))
}
