//! The tables of flows and mappings for who goes through all of them.
use std::sync::{Arc, PoisonError};

use gateway_common::abi::flow::{Flow, FlowKey, read};
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};
use gateway_common::tables::index::{state, state_of};

use super::Sweeping;
use super::tables::SharedTables;

/// Places that [`Reader::end_refused`] goes through in a turn: a millisecond.
const PLACES_A_TURN: u32 = 2_048;

/// Goes through the tables beside the programs, on whatever thread. It keeps the tables' memory, and nothing else of the data
/// plane, from going.
pub struct Reader {
    pub(super) tables: Arc<SharedTables>,
    pub(super) sweep: Arc<Sweeping>,
}

impl Reader {
    /// Every flow that packets find.
    pub fn flows(&self) -> impl Iterator<Item = (FlowKey, Flow)> {
        self.tables.flows().live()
    }

    /// Every NAT mapping.
    pub fn mappings(&self) -> impl Iterator<Item = (InsideKey, Mapping)> {
        self.tables.mappings().live()
    }

    /// Every outside that is not free, those of retired mappings too.
    #[must_use]
    pub fn outsides(&self) -> Vec<OutsideKey> {
        self.tables.outsides()
    }

    /// Ends the flows that are refused: no packet finds them any more, and their mappings go when no flow uses them. Some of
    /// all places are gone through in each turn, and what `turn` gives is kept meanwhile. Answers how many were ended; further
    /// places are left alone once there is no turn.
    pub fn end_refused<T>(
        &self,
        is_refused: impl Fn(&FlowKey, &Flow) -> bool,
        turn: impl Fn() -> Option<T>,
    ) -> usize {
        let mut ended = 0;
        let places = self.tables.flows().places();
        for first in (0..places).step_by(PLACES_A_TURN as usize) {
            // A sweep takes a flow back that it had retired when a packet came at the same moment: between two turns, or not
            // at all.
            let _unswept = self.sweep.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(_turn) = turn() else { break };
            for place in first..first.saturating_add(PLACES_A_TURN).min(places) {
                ended += usize::from(self.end_if_refused(place, &is_refused));
            }
        }
        ended
    }

    fn end_if_refused(&self, place: u32, is_refused: impl Fn(&FlowKey, &Flow) -> bool) -> bool {
        let Some(entry) = self.tables.flows().at(place) else {
            return false;
        };
        if state_of(entry.word) != state::LIVE {
            return false;
        }
        let (key, flow) = read(entry.record);
        is_refused(&key, &flow) && self.tables.end_flow(&key)
    }
}
