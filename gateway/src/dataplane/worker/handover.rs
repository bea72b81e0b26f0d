//! Frames that arrive at a worker which does not own their SA go to the owner through a bounded ring.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crossbeam_queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::commands::Command;

/// Frames that wait for one worker at most.
const HANDED_MAX: usize = 1024;
/// Commands that wait for one worker at most; the controller waits for room.
const COMMANDS_MAX: usize = 256;

/// Which side a frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Outer interface: to be opened.
    Wan,
    /// Core interface, or what `clear` sends back: to be sealed.
    Core,
}

/// A copied frame. (Frames lie in the memory of the worker that received them, and stay there.)
pub(crate) struct Handed {
    pub(crate) side: Side,
    pub(crate) frame: Box<[u8]>,
}

/// Where others leave frames and commands for a worker, and wake it.
pub(crate) struct Inbox {
    pub(crate) frames: ArrayQueue<Handed>,
    pub(crate) commands: ArrayQueue<Command>,
    sleeping: AtomicBool,
    stop: AtomicBool,
    wake: EventFd,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self {
            frames: ArrayQueue::new(HANDED_MAX),
            commands: ArrayQueue::new(COMMANDS_MAX),
            sleeping: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            wake: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// The descriptor that becomes readable when somebody wakes the worker.
    pub(crate) fn wake_fd(&self) -> &EventFd {
        &self.wake
    }

    /// Wakes the worker if it sleeps. What was pushed before is seen: either the worker looks after it said that it
    /// sleeps, or this sees that it does.
    pub(crate) fn wake(&self) {
        if self.sleeping.swap(false, SeqCst) {
            // Fails only when the counter is full, and then the worker is woken anyway.
            let _ = self.wake.write(1);
        }
    }

    /// Says that the worker is about to sleep; answers whether it may.
    pub(crate) fn try_sleep(&self) -> bool {
        self.sleeping.store(true, SeqCst);
        let idle = self.frames.is_empty() && self.commands.is_empty() && !self.stopping();
        if !idle {
            self.sleeping.store(false, SeqCst);
        }
        idle
    }

    /// The worker is awake again; `woken` if the descriptor was readable. Who wakes the worker after it has looked leaves it readable: the
    /// next sleep ends at once then.
    pub(crate) fn awake(&self, woken: bool) {
        self.sleeping.store(false, SeqCst);
        if woken {
            // Fails only when there is nothing to read.
            let _ = self.wake.read();
        }
    }

    /// Asks the worker to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, SeqCst);
        self.wake();
    }

    /// Whether the worker was asked to end.
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(SeqCst)
    }
}
