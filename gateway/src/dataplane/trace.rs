//! Tracing in the workers: which site is traced, and what they have to tell of its packets.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;
use gateway_common::abi::sa::LinkHeader;
use gateway_common::abi::trace::{EVERY_SITE, TraceEvent, known, outcome, point};
use gateway_common::packet::Buffer;
use gateway_common::path::filter::Direction;
use gateway_common::path::trace::untranslated;
use gateway_esp::tunnel::Received;
use nix::time::{ClockId, clock_gettime};
use zerocopy::FromBytes as _;

use super::worker::handover::Side;
use super::worker::{Engine, Outcome};

/// Events of workers that wait for the controller at most; what is more is counted as lost.
const WAITING_MAX: usize = 8192;

/// What was traced since it was last asked for.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    /// In the order of their time.
    pub events: Vec<TraceEvent>,
    /// How many more there were: too many in their second, or for the memory that they wait in.
    pub lost: u64,
}

/// What workers and controller share of it.
pub(crate) struct Tracing {
    site: AtomicU32,
    waiting: ArrayQueue<TraceEvent>,
    lost: AtomicU64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            site: AtomicU32::new(0),
            waiting: ArrayQueue::new(WAITING_MAX),
            lost: AtomicU64::new(0),
        }
    }
}

impl Tracing {
    /// Traces this site from now on, or [`EVERY_SITE`], or with zero none.
    pub(crate) fn set_site(&self, site: u32) {
        self.site.store(site, Relaxed);
    }

    /// What waits, and how many were lost since the last call.
    pub(crate) fn take(&self) -> (Vec<TraceEvent>, u64) {
        let events = std::iter::from_fn(|| self.waiting.pop())
            .take(WAITING_MAX)
            .collect();
        (events, self.lost.swap(0, Relaxed))
    }

    /// Whether any site is traced.
    pub(crate) fn is_on(&self) -> bool {
        self.site.load(Relaxed) != 0
    }

    fn tell(&self, event: TraceEvent) {
        let wanted = self.site.load(Relaxed);
        if wanted != EVERY_SITE && (wanted == 0 || wanted != event.site) {
            return;
        }
        let at_ns = monotonic_ns();
        if self.waiting.push(TraceEvent { at_ns, ..event }).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// Nanoseconds of the clock that the programs' events have.
pub(crate) fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs()
    })
}

impl Engine {
    /// What is to be told of a frame before the worker changes it; nothing if no site is traced.
    pub(crate) fn trace_before(&mut self, buffer: &[u8], len: usize, side: Side) -> Option<TraceEvent> {
        if !self.tracing.is_on() {
            return None;
        }
        let frame = buffer.get(..len)?;
        let mut event = TraceEvent {
            length: u32::try_from(len).unwrap_or(u32::MAX),
            ..TraceEvent::default()
        };
        match side {
            Side::Wan => {
                event.point = point::WORKER_IN;
                if let Ok(received) = Received::parse(frame) {
                    event.spi = received.spi.to_be_bytes();
                    event.known |= known::SPI;
                    event.site = self.site_of(received.spi);
                }
            }
            Side::Core => {
                event.point = point::WORKER_OUT;
                describe(frame, &mut event, Direction::In);
            }
        }
        Some(event)
    }

    /// Tells what became of it. A frame that another worker takes over is told of there.
    pub(crate) fn trace_after(&self, event: Option<TraceEvent>, buffer: &[u8], outcome: &Outcome) {
        let Some(mut event) = event else { return };
        match outcome {
            Outcome::Send { len, .. } | Outcome::Opened { len } => {
                event.outcome = outcome::WORKED;
                if event.point == point::WORKER_IN
                    && let Some(frame) = buffer.get(..*len)
                {
                    describe(frame, &mut event, Direction::Out);
                }
            }
            Outcome::SendMany { .. } => event.outcome = outcome::WORKED,
            Outcome::Wait => event.outcome = outcome::WAITS,
            // What comes in its place is told of by itself.
            Outcome::Again { .. } | Outcome::HandOver(_) => return,
            Outcome::Drop(reason) => {
                (event.outcome, event.value) = (outcome::DROPPED, *reason as u32);
            }
        }
        self.tracing.tell(event);
    }

    fn site_of(&mut self, spi: u32) -> u32 {
        let index = self.table.route(spi);
        let slot = index
            .map(super::worker::table::owner)
            .filter(|(worker, _)| *worker == self.worker);
        let entry = slot.and_then(|(_, slot)| self.table.entry(slot));
        entry.map_or(0, |entry| entry.site)
    }
}

/// Site and ends of a clear packet behind a link header.
fn describe(frame: &[u8], event: &mut TraceEvent, direction: Direction) {
    let link = LinkHeader::read_from_prefix(frame)
        .ok()
        .and_then(|(link, _)| link.read());
    let Some((site, _)) = link else { return };
    event.site = site;
    untranslated(&Buffer::new(frame), event, direction);
}
