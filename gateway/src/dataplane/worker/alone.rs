//! A worker's engine without sockets and SAs, for tests and the fuzzer: fragments go in, and what a worker would send on
//! comes out. What decides is the worker's own code; only the frames' way to it is another.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crossbeam_queue::ArrayQueue;
use gateway_common::drop::DropReason;
use gateway_esp::engine::Burst;

use super::fragments::{CLEAR, Fragments, IkeDatagram, IkeSink, OUTER, is_fragment};
use super::handover::Side;
use super::outer::OuterFragment;
use super::reassembly::Bounds;
use super::table::SaTable;
use super::{Engine, Outcome};
#[cfg(test)]
use crate::dataplane::ike_spis::IkeSpis;
use crate::dataplane::trace::Tracing;

/// Reports that wait; nobody reads them.
const REPORTS: usize = 1;

/// An outer packet whose fragments are all there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whole {
    /// A frame with ESP, on its way to be opened.
    Esp(Vec<u8>),
    /// What goes to the daemon.
    Ike(IkeDatagram),
}

/// The only worker, as far as fragments go.
pub struct FragmentWorker {
    engine: Engine,
    ike: Arc<Mutex<Vec<IkeDatagram>>>,
}

impl Default for FragmentWorker {
    fn default() -> Self {
        Self::new(Self::BOUNDS)
    }
}

impl FragmentWorker {
    /// A worker's bounds: of outer packets, and of clear ones each way.
    pub const BOUNDS: [Bounds; 2] = [OUTER, CLEAR];

    /// With these bounds in the place of [`Self::BOUNDS`].
    #[must_use]
    pub fn new([outer, clear]: [Bounds; 2]) -> Self {
        let messages: Arc<Mutex<Vec<IkeDatagram>>> = Arc::default();
        let sink = Arc::clone(&messages);
        let ike: Arc<OnceLock<IkeSink>> = Arc::default();
        let take: IkeSink =
            Box::new(move |datagram| sink.lock().unwrap_or_else(PoisonError::into_inner).push(datagram));
        // It was empty: this is the only one who sets it.
        let _set = ike.set(take);
        let engine = Engine {
            worker: 0,
            table: SaTable::default(),
            clear_port: 0,
            now_s: 0,
            reports: Arc::new(ArrayQueue::new(REPORTS)),
            fragments: Fragments::bounded(1, ike, outer, clear),
            tracing: Arc::new(Tracing::default()),
            direct: None,
            burst: Burst::default(),
            done: Default::default(),
            now_ms: 0,
        };
        Self {
            engine,
            ike: messages,
        }
    }

    /// With our SPIs of IKE SAs.
    #[cfg(test)]
    pub(crate) fn knowing(mut self, ike_spis: Arc<IkeSpis>) -> Self {
        self.engine.fragments = self.engine.fragments.knowing(ike_spis);
        self
    }

    /// A round of the worker at this time: what has waited too long goes. Answers what was dropped since the last round
    /// after it had been taken in.
    pub fn round(&mut self, now_s: u64) -> Vec<(DropReason, u64)> {
        self.engine.now_s = now_s;
        let mut dropped = vec![];
        self.engine
            .tend_fragments(|reason, count| dropped.push((reason, count)));
        dropped
    }

    /// A frame of the outer interface.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn outer(&mut self, frame: &[u8]) -> Result<Option<Whole>, DropReason> {
        if OuterFragment::parse(frame).is_none() {
            return Err(DropReason::OuterFragment);
        }
        match self.engine.outer_fragment(frame)? {
            Outcome::Again { frame, .. } => Ok(Some(Whole::Esp(frame))),
            Outcome::Wait => {
                let mut messages = self.ike.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(messages.pop().map(Whole::Ike))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// A packet of a site, opened: frames for the clear link, when all of its fragments are there.
    ///
    /// # Errors
    /// The reason to drop it, also if it is no fragment.
    pub fn site(&mut self, site: u32, packet: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
        if !is_fragment(packet) {
            return Err(DropReason::InnerFragment);
        }
        frames(self.engine.site_fragment(site, packet)?)
    }

    /// A frame that the `core` program handed on: frames for the clear link, when all of its packet's fragments are there.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn core(&mut self, frame: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
        let mut buffer = frame.to_vec();
        let length = buffer.len();
        match self.engine.process(&mut buffer, length, Side::Core) {
            Outcome::Drop(reason) => Err(reason),
            outcome => frames(outcome),
        }
    }

    /// Packets that wait and octets that they take: outer ones, of sites, of the center, of the Internet.
    #[must_use]
    pub fn held(&self) -> [(usize, usize); 4] {
        self.engine.fragments.held()
    }
}

fn frames(outcome: Outcome) -> Result<Vec<Vec<u8>>, DropReason> {
    match outcome {
        Outcome::Wait => Ok(vec![]),
        Outcome::SendMany { frames, .. } => Ok(frames),
        other => Err(unexpected(&other)),
    }
}

/// What no fragment of an only worker comes to.
fn unexpected(outcome: &Outcome) -> DropReason {
    match outcome {
        Outcome::Drop(reason) => *reason,
        Outcome::Send { .. }
        | Outcome::Opened { .. }
        | Outcome::SendMany { .. }
        | Outcome::HandOver(_)
        | Outcome::Wait
        | Outcome::Again { .. } => DropReason::Internal,
    }
}
