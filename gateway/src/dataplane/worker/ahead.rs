//! Fetching ahead what a batch's frames need of their SAs. Each may be of another SA, whose keys are in no cache when a
//! center has tens of thousands; one after another such a frame waits a dozen times for memory, some microseconds in all.
//!
//! In three steps, as each pointer must have come before what it leads to can be asked for: the SA's place in the table when a
//! batch has come, the SA itself [`FAR`] frames before its turn, and keys, window, selectors and counters [`NEAR`] frames before.

use gateway_common::abi::sa::LinkHeader;
use gateway_esp::tunnel::Received;
use zerocopy::FromBytes as _;

use super::handover::Side;
use super::table::{SaTable, owner};

/// Frames that an SA itself is on its way for.
const FAR: usize = 16;
/// Frames that what it leads to is on its way for.
const NEAR: usize = 8;

/// The SAs of a batch's frames, by the place in the batch.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Slots of this worker; `None` for what is none of its frames.
    slots: Vec<Option<u32>>,
}

impl Ahead {
    /// Forgets the batch before.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }

    /// Looks at the next frame of a batch that has come to `worker`.
    pub(crate) fn see(&mut self, table: &SaTable, worker: u32, frame: &[u8], side: Side) {
        let slot = index(table, frame, side)
            .map(owner)
            .and_then(|(owner, slot)| (owner == worker).then_some(slot));
        if let Some(slot) = slot {
            table.fetch_place(slot);
        }
        self.slots.push(slot);
    }

    /// When all were seen: fetches for the first of them.
    pub(crate) fn begin(&self, table: &SaTable, side: Side) {
        let slots = || self.slots.iter().flatten();
        slots().take(FAR).for_each(|slot| table.fetch_entry(*slot, side));
        slots()
            .take(NEAR)
            .for_each(|slot| table.fetch_behind(*slot, side));
    }

    /// Fetches for later ones when the turn has come to the frame at this place.
    #[inline(always)]
    pub(crate) fn step(&self, table: &SaTable, side: Side, place: usize) {
        if let Some(Some(slot)) = self.slots.get(place + FAR) {
            table.fetch_entry(*slot, side);
        }
        if let Some(Some(slot)) = self.slots.get(place + NEAR) {
            table.fetch_behind(*slot, side);
        }
    }
}

/// The index of the SA that a frame will be opened or sealed by.
#[inline(always)]
fn index(table: &SaTable, frame: &[u8], side: Side) -> Option<u32> {
    match side {
        Side::Wan => table.route(Received::parse(frame).ok()?.spi),
        Side::Core => {
            let (link, _) = LinkHeader::read_from_prefix(frame).ok()?;
            link.read().map(|(_, index)| index)
        }
    }
}
