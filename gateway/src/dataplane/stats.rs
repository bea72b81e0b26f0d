//! Counters that workers keep and anybody reads.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use gateway_common::abi::stats::Counter;
use gateway_common::drop::{DROP_SLOTS, DropReason};

use super::sa::add;

/// Counters of one worker; its thread alone writes.
pub(crate) struct WorkerCounters {
    received: AtomicU64,
    sent: AtomicU64,
    forwarded: AtomicU64,
    forwarded_octets: AtomicU64,
    /// Odd while the worker may hold entries of the tables.
    rounds: AtomicU64,
    handed_over: AtomicU64,
    sleeps: AtomicU64,
    drops: [AtomicU64; DROP_SLOTS as usize],
}

/// Counters of one worker at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// The worker.
    pub worker: u32,
    /// Frames received from its sockets.
    pub received: u64,
    /// Frames given to its sockets.
    pub sent: u64,
    /// Frames given to other workers.
    pub handed_over: u64,
    /// Times that it slept.
    pub sleeps: u64,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self {
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            forwarded_octets: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            sleeps: AtomicU64::new(0),
            drops: [const { AtomicU64::new(0) }; DROP_SLOTS as usize],
        }
    }
}

impl WorkerCounters {
    pub(crate) fn received(&self, frames: u64) {
        add(&self.received, frames);
    }

    pub(crate) fn sent(&self, frames: u64) {
        add(&self.sent, frames);
    }

    /// Counts a frame that the direct engine sends out.
    pub(crate) fn forwarded(&self, octets: u64) {
        add(&self.forwarded, 1);
        add(&self.forwarded_octets, octets);
    }

    /// What the direct engine has sent out: as the programs count what they forward.
    pub(crate) fn forwarded_directly(&self) -> Counter {
        Counter {
            packets: self.forwarded.load(Relaxed),
            bytes: self.forwarded_octets.load(Relaxed),
        }
    }

    /// From here on the worker may find entries of the tables.
    pub(crate) fn begin_round(&self) {
        // No entry is looked for before this is seen.
        self.rounds.fetch_add(1, SeqCst);
    }

    /// It holds none any more.
    pub(crate) fn end_round(&self) {
        self.rounds.fetch_add(1, SeqCst);
    }

    /// Changes with each round, and is odd within one.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Acquire)
    }

    pub(crate) fn handed_over(&self, frames: u64) {
        add(&self.handed_over, frames);
    }

    pub(crate) fn slept(&self) {
        add(&self.sleeps, 1);
    }

    pub(crate) fn dropped(&self, reason: DropReason, frames: u64) {
        if let Some(counter) = self.drops.get(reason as usize) {
            add(counter, frames);
        }
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.drops
            .get(reason as usize)
            .map_or(0, |counter| counter.load(Relaxed))
    }

    pub(crate) fn snapshot(&self, worker: u32) -> WorkerStats {
        WorkerStats {
            worker,
            received: self.received.load(Relaxed),
            sent: self.sent.load(Relaxed),
            handed_over: self.handed_over.load(Relaxed),
            sleeps: self.sleeps.load(Relaxed),
        }
    }
}
