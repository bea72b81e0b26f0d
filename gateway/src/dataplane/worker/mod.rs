//! ESP workers: a pinned thread a queue, which owns its sockets, its frames and its SAs.
//!
//! | file | subject |
//! |---|---|
//! | `rings` | what a worker sees of its sockets |
//! | `inbound`, `outbound` | the two ways of a packet |
//! | `prepared` | the cryptography, between the checks before it and those after it |
//! | `ahead` | memory that a batch's SAs need, fetched before their turn |
//! | `direct` | the direct engine: past the clear link |
//! | `fragment` | inner fragmentation |
//! | `fragments`, `outer`, `reassembly` | fragments that come in: what becomes of them, outer ones, how they wait |
//! | `alone` | a worker's fragments without its sockets, for tests |
//! | `table` | the worker's SAs |
//! | `handover` | frames and orders from other threads |
//! | `commands` | orders and reports |
//!
//! **Architecture invariant:** an SA is touched by its owner's thread alone, so sequence numbers and replay windows
//! need no lock; other threads reach it through the inbox.

pub(crate) mod ahead;
pub(crate) mod alone;
pub(crate) mod commands;
pub(crate) mod direct;
pub(crate) mod fragment;
pub(crate) mod fragments;
pub(crate) mod handover;
mod inbound;
mod outbound;
mod outer;
pub(crate) mod prepared;
pub(crate) mod reassembly;
pub(crate) mod rings;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use gateway_common::drop::DropReason;
use gateway_esp::engine::Burst;

use self::ahead::Ahead;
use self::commands::Reports;
use self::direct::{Direct, Looked, Way};
use self::fragments::Fragments;
use self::handover::{Handed, Inbox, Side};
use self::rings::{BATCH, RingPort};
use self::table::SaTable;
use super::stats::WorkerCounters;
use super::trace::Tracing;

/// Rounds without work before the worker sleeps. Few: where the kernel's receive path shares the core, a spinning
/// worker starves it.
pub(crate) const IDLE_ROUNDS: u32 = 16;

/// Frames that the record of a flow is on its way for.
const AHEAD: usize = 8;
/// Received frames that are on their way to this core: another has written them.
const FRAMES_AHEAD: usize = 4;

/// What is to be done with a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its first `len` octets leave through `port`.
    Send { port: usize, len: usize },
    /// Its first `len` octets are a frame of the clear link now.
    Opened { len: usize },
    /// These leave in its place.
    SendMany { port: usize, frames: Vec<Vec<u8>> },
    /// Another worker owns the SA.
    HandOver(u32),
    /// It was taken in; nothing goes on for now.
    Wait,
    /// This comes in its place.
    Again { side: Side, frame: Vec<u8> },
    /// It goes no further.
    Drop(DropReason),
}

/// The state of a worker apart from its sockets.
pub(crate) struct Engine {
    pub(crate) worker: u32,
    pub(crate) table: SaTable,
    /// The transmitting port of the clear link.
    pub(crate) clear_port: usize,
    /// Monotonic seconds, read once a round.
    pub(crate) now_s: u64,
    /// The same clock's milliseconds.
    pub(crate) now_ms: u64,
    pub(crate) reports: Arc<Reports>,
    pub(crate) fragments: Fragments,
    pub(crate) tracing: Arc<Tracing>,
    /// The direct engine, if it is configured.
    pub(crate) direct: Option<Direct>,
    /// Does the cryptography.
    pub(crate) burst: Burst,
    /// What becomes of frames that need none, in the order in which they were prepared.
    pub(crate) done: VecDeque<Outcome>,
}

impl Engine {
    /// Looks at a decrypted frame, which [`Engine::forward`] is to decide on; `None` if it is for the clear link anyway.
    fn look(&mut self, frame: &mut [u8]) -> Option<Looked> {
        let direct = self.direct.as_mut()?;
        // The programs tell of what is traced.
        if self.tracing.is_on() {
            direct.linked(frame);
            return None;
        }
        Some(direct.look(frame))
    }

    /// Looks again at one whose turn comes soon.
    fn look_again(&self, looked: &Option<Looked>) {
        if let (Some(direct), Some(looked)) = (&self.direct, looked) {
            direct.look_again(looked);
        }
    }

    /// Decides on a decrypted frame: the port that it leaves by.
    fn forward(&mut self, frame: &mut [u8], looked: Option<&Looked>) -> Result<usize, DropReason> {
        let (Some(direct), Some(looked)) = (&mut self.direct, looked) else {
            return Ok(self.clear_port);
        };
        match direct.forward(frame, looked) {
            Way::Out(port) => Ok(port),
            Way::Link => Ok(self.clear_port),
            Way::Drop(reason) => Err(reason),
        }
    }
}

/// A worker: engine, sockets, the other workers.
pub(crate) struct Worker<R: RingPort> {
    pub(crate) engine: Engine,
    pub(crate) rings: R,
    /// Receiving ports and the side that each is on.
    pub(crate) receive: Vec<(usize, Side)>,
    pub(crate) inboxes: Arc<[Inbox]>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) batch: Vec<R::Frame>,
    /// The SAs of the batch's frames.
    pub(crate) ahead: Ahead,
    /// What became of the frames of the batch.
    pub(crate) outcomes: Vec<Outcome>,
    /// Decrypted frames of this round that are not sent yet.
    pub(crate) opened: Vec<R::Frame>,
    /// What was seen of each of them.
    pub(crate) looked: Vec<Option<Looked>>,
    /// When the rings were last asked what they missed.
    pub(crate) missed_s: u64,
    /// Other workers that were given frames in this round.
    pub(crate) to_wake: u64,
}

impl<R: RingPort> Worker<R> {
    /// Serves until asked to stop. `sleep` waits until a socket or the inbox has something, and answers whether it was the inbox;
    /// `now_ms` is the clock.
    pub(crate) fn run(&mut self, mut sleep: impl FnMut(&mut R) -> bool, now_ms: impl Fn() -> u64) {
        let inboxes = Arc::clone(&self.inboxes);
        let Some(inbox) = inboxes.get(self.engine.worker as usize) else {
            return;
        };
        let mut idle_rounds = 0;
        while !inbox.stopping() {
            self.engine.now_ms = now_ms();
            self.engine.now_s = self.engine.now_ms / 1000;
            if self.round(inbox) > 0 {
                idle_rounds = 0;
                continue;
            }
            idle_rounds += 1;
            if idle_rounds > IDLE_ROUNDS && inbox.try_sleep() {
                self.counters.slept();
                let woken = sleep(&mut self.rings);
                inbox.awake(woken);
            }
        }
    }

    /// One pass over commands, sockets and handed frames; answers how much there was to do.
    pub(crate) fn round(&mut self, inbox: &Inbox) -> usize {
        let counters = Arc::clone(&self.counters);
        counters.begin_round();
        if let Some(direct) = &mut self.engine.direct {
            direct.begin_round(self.engine.now_ms);
        }
        let mut work = 0;
        while let Some(command) = inbox.commands.pop() {
            let outcome = self.engine.table.apply(command.order);
            // The controller may have given up waiting.
            let _ = command.done.try_send(outcome);
            work += 1;
        }
        for position in 0..self.receive.len() {
            if let Some(&(port, side)) = self.receive.get(position) {
                work += self.receive(port, side);
            }
        }
        work += self.take_handed(inbox);
        counters.end_round();
        self.engine
            .tend_fragments(|reason, count| counters.dropped(reason, count));
        let lost = self.rings.flush();
        self.counters.dropped(DropReason::WorkerQueueFull, lost as u64);
        self.count_missed();
        self.wake_others();
        work
    }

    /// Counts what the kernel found no room for, once a second: it takes a system call for each port.
    fn count_missed(&mut self) {
        let now_s = self.engine.now_s;
        if self.missed_s != now_s {
            self.missed_s = now_s;
            let missed = self.rings.missed();
            self.counters.dropped(DropReason::WorkerQueueFull, missed);
        }
    }

    fn receive(&mut self, port: usize, side: Side) -> usize {
        let mut batch = core::mem::take(&mut self.batch);
        self.rings.receive(port, &mut batch);
        let received = batch.len();
        self.counters.received(received as u64);
        if Burst::WIDTH == 1 {
            // To come back to a frame later costs more than it saves.
            self.look_ahead(&mut batch, side);
            batch
                .iter()
                .take(FRAMES_AHEAD)
                .for_each(|frame| self.rings.fetch(frame));
            let mut frames = batch.drain(..);
            let mut place = 0;
            while let Some(frame) = frames.next() {
                if let Some(later) = frames.as_slice().get(FRAMES_AHEAD - 1) {
                    self.rings.fetch(later);
                }
                self.ahead.step(&self.engine.table, side, place);
                place += 1;
                self.process_one(frame, side);
            }
            drop(frames);
        } else {
            self.process_bursts(&mut batch, side);
        }
        self.batch = batch;
        self.forward_opened();
        received
    }

    /// Finds the SAs of a batch's frames, where there are too many SAs for the cache.
    fn look_ahead(&mut self, batch: &mut [R::Frame], side: Side) {
        self.ahead.clear();
        let Engine { table, worker, .. } = &self.engine;
        if !table.is_large() {
            return;
        }
        for frame in batch {
            let (buffer, len) = self.rings.bytes(frame);
            let octets = buffer.get(..len).unwrap_or_default();
            self.ahead.see(table, *worker, octets, side);
        }
        self.ahead.begin(table, side);
    }

    fn take_handed(&mut self, inbox: &Inbox) -> usize {
        let mut taken = 0;
        while taken < BATCH
            && let Some(handed) = inbox.frames.pop()
        {
            taken += 1;
            match self.copy_in(&handed.frame) {
                Some(frame) => self.process_one(frame, handed.side),
                // No frame is free, or none is long enough for what was put together of fragments.
                None => self.process_copy(handed.frame.into_vec(), handed.side),
            }
        }
        self.forward_opened();
        taken
    }

    fn process_bursts(&mut self, batch: &mut Vec<R::Frame>, side: Side) {
        let mut outcomes = core::mem::take(&mut self.outcomes);
        for frames in batch.chunks_mut(Burst::WIDTH) {
            self.look_ahead(frames, side);
            self.process(frames, side, &mut outcomes);
        }
        for (frame, outcome) in batch.drain(..).zip(outcomes.drain(..)) {
            self.dispose(frame, outcome, side);
        }
        self.outcomes = outcomes;
    }

    /// Opens or seals frames, as many as are done at once; appends what became of each.
    fn process(&mut self, frames: &mut [R::Frame], side: Side, outcomes: &mut Vec<Outcome>) {
        let mut prepared = [const { None }; Burst::WIDTH];
        for (number, (place, frame)) in prepared.iter_mut().zip(frames.iter_mut()).enumerate() {
            let (buffer, len) = self.rings.bytes(frame);
            self.ahead.step(&self.engine.table, side, number);
            *place = Some(self.engine.prepare(buffer, len, side));
        }
        let buffers = self.rings.each_bytes(frames);
        let ends = self.engine.encrypt(prepared.iter().flatten().zip(buffers));
        for ((frame, prepared), end) in frames.iter_mut().zip(prepared.into_iter().flatten()).zip(ends) {
            let (buffer, _) = self.rings.bytes(frame);
            outcomes.push(self.engine.finish(buffer, prepared, end));
        }
    }

    fn process_one(&mut self, mut frame: R::Frame, side: Side) {
        let (buffer, len) = self.rings.bytes(&mut frame);
        let outcome = self.engine.process(buffer, len, side);
        self.dispose(frame, outcome, side);
    }

    /// Does with a frame what is to be done.
    fn dispose(&mut self, mut frame: R::Frame, outcome: Outcome, side: Side) {
        let (buffer, len) = self.rings.bytes(&mut frame);
        match outcome {
            Outcome::Send { port, len } => {
                self.rings.set_len(&mut frame, len);
                self.rings.transmit(port, frame);
                self.counters.sent(1);
                return;
            }
            Outcome::Opened { len } => {
                let looked = buffer.get_mut(..len).and_then(|frame| self.engine.look(frame));
                self.rings.set_len(&mut frame, len);
                self.opened.push(frame);
                self.looked.push(looked);
                return;
            }
            Outcome::SendMany { port, frames } => self.send_copies(port, &frames),
            Outcome::HandOver(worker) => {
                let octets: Box<[u8]> = buffer.get(..len).unwrap_or_default().into();
                self.hand_over(worker, octets, side);
            }
            Outcome::Wait => {}
            Outcome::Again { side, frame } => self.process_copy(frame, side),
            Outcome::Drop(reason) => self.counters.dropped(reason, 1),
        }
        self.rings.recycle(frame);
    }

    /// Sends what was decrypted, in the order in which it came.
    fn forward_opened(&mut self) {
        let mut opened = core::mem::take(&mut self.opened);
        let mut looked = core::mem::take(&mut self.looked);
        looked
            .iter()
            .take(AHEAD)
            .for_each(|next| self.engine.look_again(next));
        for (place, mut frame) in opened.drain(..).enumerate() {
            if let Some(next) = looked.get(place + AHEAD) {
                self.engine.look_again(next);
            }
            let looked = looked.get(place).and_then(Option::as_ref);
            let (buffer, len) = self.rings.bytes(&mut frame);
            let octets = buffer.get_mut(..len).unwrap_or_default();
            match self.engine.forward(octets, looked) {
                Ok(port) => {
                    self.rings.transmit(port, frame);
                    self.count_forwarded(port, len);
                }
                Err(reason) => {
                    self.counters.dropped(reason, 1);
                    self.rings.recycle(frame);
                }
            }
        }
        looked.clear();
        (self.opened, self.looked) = (opened, looked);
    }

    fn count_forwarded(&self, port: usize, len: usize) {
        self.counters.sent(1);
        if port != self.engine.clear_port {
            self.counters.forwarded(len as u64);
        }
    }

    /// The same as [`Worker::process_one`] for a frame that lies elsewhere, and may be longer than the rings' frames are.
    fn process_copy(&mut self, mut octets: Vec<u8>, side: Side) {
        let len = octets.len();
        match self.engine.process(&mut octets, len, side) {
            Outcome::Send { port, len } => {
                octets.truncate(len);
                self.send_copies(port, &[octets]);
            }
            Outcome::Opened { len } => self.forward_copy(octets, len),
            Outcome::SendMany { port, frames } => self.send_copies(port, &frames),
            Outcome::HandOver(worker) => self.hand_over(worker, octets.into_boxed_slice(), side),
            Outcome::Wait => {}
            // What was put together is no fragment.
            Outcome::Again { .. } => self.counters.dropped(DropReason::FragmentMalformed, 1),
            Outcome::Drop(reason) => self.counters.dropped(reason, 1),
        }
    }

    fn forward_copy(&mut self, mut octets: Vec<u8>, len: usize) {
        octets.truncate(len);
        let looked = self.engine.look(&mut octets);
        let port = match self.engine.forward(&mut octets, looked.as_ref()) {
            Ok(port) => port,
            Err(reason) => return self.counters.dropped(reason, 1),
        };
        match self.copy_in(&octets) {
            Some(frame) => {
                self.rings.transmit(port, frame);
                self.count_forwarded(port, len);
            }
            None => self.counters.dropped(DropReason::WorkerQueueFull, 1),
        }
    }

    fn send_copies(&mut self, port: usize, frames: &[Vec<u8>]) {
        // Fragments of one packet.
        if port == self.engine.clear_port
            && let (Some(direct), Some(first)) = (&mut self.engine.direct, frames.first())
        {
            direct.linked(first);
        }
        for octets in frames {
            match self.copy_in(octets) {
                Some(frame) => {
                    self.rings.transmit(port, frame);
                    self.counters.sent(1);
                }
                None => self.counters.dropped(DropReason::WorkerQueueFull, 1),
            }
        }
    }

    /// A frame of this worker's memory with these octets.
    fn copy_in(&mut self, octets: &[u8]) -> Option<R::Frame> {
        let mut frame = self.rings.allocate()?;
        let (buffer, _) = self.rings.bytes(&mut frame);
        match buffer.get_mut(..octets.len()) {
            Some(place) => place.copy_from_slice(octets),
            None => {
                self.rings.recycle(frame);
                return None;
            }
        }
        self.rings.set_len(&mut frame, octets.len());
        Some(frame)
    }

    fn hand_over(&mut self, worker: u32, octets: Box<[u8]>, side: Side) {
        let handed = Handed { side, frame: octets };
        let accepted = self
            .inboxes
            .get(worker as usize)
            .is_some_and(|inbox| inbox.frames.push(handed).is_ok());
        if accepted {
            self.to_wake |= 1 << worker;
            self.counters.handed_over(1);
        } else {
            self.counters.dropped(DropReason::WorkerQueueFull, 1);
        }
    }

    fn wake_others(&mut self) {
        let to_wake = core::mem::take(&mut self.to_wake);
        for (worker, inbox) in self.inboxes.iter().enumerate() {
            if to_wake & 1 << worker != 0 {
                inbox.wake();
            }
        }
    }
}
