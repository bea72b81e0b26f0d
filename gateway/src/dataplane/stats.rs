//! Counters that workers keep and anybody reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use gateway_common::drop::{DROP_SLOTS, DropReason};

use super::sa::add;

/// Counters of one worker; its thread alone writes.
pub(crate) struct WorkerCounters {
    received: AtomicU64,
    sent: AtomicU64,
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
