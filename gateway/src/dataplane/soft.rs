//! A worker over rings in memory, without interfaces and programs: for measurements of what the worker itself costs.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use gateway_common::drop::DropReason;
use gateway_esp::engine::Burst;
use gateway_esp::{InboundSa, OutboundSa, Tunnel};

use super::sa::{SaCounters, SaHandle};
use super::stats::WorkerCounters;
use super::worker::ahead::Ahead;
use super::worker::commands::{Install, Order};
use super::worker::direct::Direct;
use super::worker::fragments::Fragments;
use super::worker::handover::{Inbox, Side};
use super::worker::rings::{BATCH, RingPort};
use super::worker::table::SaTable;
use super::worker::{Engine, Worker};
use super::xsk::FRAME_SIZE;

/// The outer interface's port.
pub const WAN: usize = 0;
/// The port on the core side.
pub const CORE: usize = 1;
/// The clear link's port.
pub const CLEAR: usize = 2;
const PORTS: usize = 3;

/// An SA pair of one site.
pub struct SoftSa {
    /// The site.
    pub site: u32,
    /// What is received.
    pub inbound: InboundSa,
    /// What is sent.
    pub outbound: OutboundSa,
    /// The outer path.
    pub tunnel: Tunnel,
}

/// A frame in memory.
struct Frame {
    octets: Box<[u8]>,
    len: usize,
}

#[derive(Default)]
struct SoftRings {
    arrived: [VecDeque<Frame>; PORTS],
    left: [Vec<Frame>; PORTS],
    free: Vec<Frame>,
}

impl RingPort for SoftRings {
    type Frame = Frame;

    fn receive(&mut self, port: usize, into: &mut Vec<Frame>) {
        if let Some(arrived) = self.arrived.get_mut(port) {
            let count = arrived.len().min(BATCH);
            into.extend(arrived.drain(..count));
        }
    }

    fn bytes<'a>(&'a mut self, frame: &'a mut Frame) -> (&'a mut [u8], usize) {
        (&mut frame.octets, frame.len)
    }

    fn each_bytes<'a>(&'a mut self, frames: &'a mut [Frame]) -> impl Iterator<Item = &'a mut [u8]> {
        frames.iter_mut().map(|frame| &mut *frame.octets)
    }

    fn set_len(&mut self, frame: &mut Frame, len: usize) {
        frame.len = len;
    }

    fn transmit(&mut self, port: usize, frame: Frame) {
        if let Some(left) = self.left.get_mut(port) {
            left.push(frame);
        }
    }

    fn flush(&mut self) -> usize {
        0
    }

    fn missed(&mut self) -> u64 {
        0
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    fn recycle(&mut self, frame: Frame) {
        self.free.push(frame);
    }
}

/// The worker.
pub struct SoftWorker {
    worker: Worker<SoftRings>,
    inboxes: Arc<[Inbox]>,
}

impl SoftWorker {
    /// A worker with `frames` frames and the SAs of these sites; the SA at a place of the list has this place as its index.
    ///
    /// # Errors
    /// The system has no descriptor to give.
    pub fn new(sas: Vec<SoftSa>, direct: Option<Direct>, frames: usize) -> io::Result<Self> {
        let inboxes: Arc<[Inbox]> = [Inbox::new()?].into();
        let mut table = SaTable::default();
        for (slot, sa) in (0..).zip(sas) {
            let handle = SaHandle {
                worker: 0,
                slot,
                generation: 1,
            };
            let install = Order::Install(Box::new(Install {
                handle,
                site: sa.site,
                inbound: sa.inbound,
                outbound: sa.outbound,
                port: WAN,
                tunnel: sa.tunnel,
                counters: Arc::<SaCounters>::default(),
            }));
            table.apply(install).map_err(io::Error::other)?;
        }
        let empty = || Frame {
            octets: vec![0; FRAME_SIZE as usize].into(),
            len: 0,
        };
        let worker = Worker {
            engine: Engine {
                worker: 0,
                table,
                clear_port: CLEAR,
                now_s: 0,
                now_ms: 0,
                reports: Arc::new(ArrayQueue::new(1)),
                fragments: Fragments::new(1, Arc::default()),
                tracing: Arc::default(),
                direct,
                burst: Burst::default(),
                done: Default::default(),
            },
            rings: SoftRings {
                free: std::iter::repeat_with(empty).take(frames).collect(),
                ..SoftRings::default()
            },
            receive: vec![(WAN, Side::Wan), (CORE, Side::Core)],
            inboxes: Arc::clone(&inboxes),
            counters: Arc::new(WorkerCounters::default()),
            batch: Vec::new(),
            ahead: Ahead::default(),
            outcomes: Vec::new(),
            opened: Vec::new(),
            looked: Vec::new(),
            missed_s: 0,
            to_wake: 0,
        };
        Ok(Self { worker, inboxes })
    }

    /// Puts a frame into the receive ring of a port; whether there was a free one for it.
    pub fn arrive(&mut self, port: usize, octets: &[u8]) -> bool {
        let rings = &mut self.worker.rings;
        let (Some(mut frame), Some(arrived)) = (rings.free.pop(), rings.arrived.get_mut(port)) else {
            return false;
        };
        let Some(place) = frame.octets.get_mut(..octets.len()) else {
            return false;
        };
        place.copy_from_slice(octets);
        frame.len = octets.len();
        arrived.push_back(frame);
        true
    }

    /// Makes rounds until there is nothing more to do; answers how many frames were received.
    pub fn serve(&mut self, now_ms: u64) -> usize {
        let Some(inbox) = self.inboxes.first() else {
            return 0;
        };
        let mut served = 0;
        loop {
            self.worker.engine.now_ms = now_ms;
            self.worker.engine.now_s = now_ms / 1000;
            match self.worker.round(inbox) {
                0 => return served,
                work => served += work,
            }
        }
    }

    /// Takes what left by a port; the frames are free again.
    pub fn take_left(&mut self, port: usize, mut look: impl FnMut(&[u8])) -> usize {
        let rings = &mut self.worker.rings;
        let Some(left) = rings.left.get_mut(port) else {
            return 0;
        };
        let count = left.len();
        for frame in left.drain(..) {
            look(frame.octets.get(..frame.len).unwrap_or_default());
            rings.free.push(frame);
        }
        count
    }

    /// Drops so far, by reason.
    #[must_use]
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let count = |reason: &DropReason| (*reason, self.worker.counters.drops(*reason));
        let all = DropReason::ALL.iter().map(count);
        all.filter(|(_, count)| *count > 0).collect()
    }
}
