//! What changes while packets run and every packet reads: the clock, and how often routes have changed.

/// Words of the only element.
pub const WORDS: usize = 2;

/// Numbers of the words.
pub mod word {
    /// Coarse monotonic seconds, written by the workers.
    pub const NOW_S: usize = 0;
    /// Epoch of next hops; epoch of outbound SAs. `low | high << 32`.
    pub const EPOCHS: usize = 1;
}
