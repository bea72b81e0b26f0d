//! Frames between the checks before their cryptography and those after it.

use core::ops::Range;

use gateway_common::abi::trace::TraceEvent;
use gateway_common::drop::DropReason;
use gateway_esp::Admitted;
use gateway_esp::engine::{Burst, Done, Refused, Task};

use super::handover::Side;
use super::table::{SaTable, owner};
use super::{Engine, Outcome};

/// What is known of a frame before its cryptography. Small: it is written and read for each packet.
pub(crate) enum Prepared {
    /// It is to be opened.
    Open(Opening),
    /// It is to be sealed.
    Seal {
        /// Of its SA, at this worker.
        slot: u32,
        prepared: gateway_esp::Prepared,
    },
    /// It needs none; what becomes of it is the next of [`Engine::done`].
    Done,
}

/// What is known of a frame that is to be opened.
pub(crate) struct Opening {
    pub(super) admitted: Admitted,
    /// Of its SA.
    pub(super) index: u32,
    /// The ESP packet's place in the frame.
    pub(super) start: u32,
    pub(super) end: u32,
    /// The outer DSCP and ECN octet.
    pub(super) tos: u8,
    /// It does not come from where packets to the peer go.
    pub(super) is_elsewhere: bool,
}

impl Opening {
    pub(super) fn esp(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The same with what a trace will tell of it.
pub(crate) struct Traced {
    prepared: Prepared,
    event: Option<Box<TraceEvent>>,
}

/// What came of the cryptography of as many frames as are done at once, by their place.
pub(crate) type Ends = [Result<Done, Refused>; Burst::WIDTH];

impl Engine {
    /// Opens or seals the frame in the first `len` octets of `buffer`, by itself.
    pub(crate) fn process(&mut self, buffer: &mut [u8], len: usize, side: Side) -> Outcome {
        let traced = self.prepare(buffer, len, side);
        let task = task_of(&self.table, &traced.prepared, buffer);
        let end = task.map_or(Err(Refused), Task::alone);
        self.finish(buffer, traced, end)
    }

    // Inlined: what is known of a frame stays in registers then, instead of being written, moved and read back.
    /// All that is to be done before the cryptography of the frame in the first `len` octets of `buffer`.
    #[inline(always)]
    pub(crate) fn prepare(&mut self, buffer: &mut [u8], len: usize, side: Side) -> Traced {
        let event = self.trace_before(buffer, len, side).map(Box::new);
        let prepared = match side {
            Side::Wan => self.admit(buffer, len),
            Side::Core => self.ready(buffer, len),
        };
        let prepared = prepared.unwrap_or_else(|reason| self.done(Outcome::Drop(reason)));
        Traced { prepared, event }
    }

    /// The cryptography of as many frames, with their buffers, as are done at once.
    pub(crate) fn encrypt<'a>(
        &'a mut self,
        frames: impl Iterator<Item = (&'a Traced, &'a mut [u8])>,
    ) -> Ends {
        let mut tasks = [const { None }; Burst::WIDTH];
        for (task, (traced, buffer)) in tasks.iter_mut().zip(frames) {
            *task = task_of(&self.table, &traced.prepared, buffer);
        }
        self.burst.run(&mut tasks);
        tasks.map(|task| task.map_or(Err(Refused), Task::outcome))
    }

    /// All that is to be done after it.
    #[inline(always)]
    pub(crate) fn finish(
        &mut self,
        buffer: &mut [u8],
        traced: Traced,
        end: Result<Done, Refused>,
    ) -> Outcome {
        let outcome = match traced.prepared {
            Prepared::Open(opening) => self.opened(buffer, opening, end),
            Prepared::Seal { slot, prepared } => self.finish_seal(buffer, (slot, prepared), end),
            Prepared::Done => self.done.pop_front().ok_or(DropReason::Internal),
        };
        let outcome = outcome.unwrap_or_else(Outcome::Drop);
        self.trace_after(traced.event.map(|event| *event), buffer, &outcome);
        outcome
    }

    /// Keeps what becomes of a frame without cryptography until its turn comes.
    pub(super) fn done(&mut self, outcome: Outcome) -> Prepared {
        self.done.push_back(outcome);
        Prepared::Done
    }
}

#[inline(always)]
fn task_of<'a>(table: &'a SaTable, prepared: &Prepared, buffer: &'a mut [u8]) -> Option<Task<'a>> {
    match prepared {
        Prepared::Open(opening) => {
            let (_, slot) = owner(opening.index);
            let sa = table.get(slot)?.inbound.as_ref()?;
            let esp = buffer.get_mut(opening.esp())?;
            Some(sa.task(&opening.admitted, esp))
        }
        Prepared::Seal { slot, prepared } => {
            let outbound = table.get(*slot)?.outbound.as_ref()?;
            outbound.sa.task(prepared, buffer)
        }
        Prepared::Done => None,
    }
}
