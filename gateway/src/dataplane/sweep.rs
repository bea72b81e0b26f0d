//! What the regular sweep removes: flows that timed out, NAT mappings that nobody uses. It reads the tables where they lie,
//! without a system call and without a lock: no packet waits for it.
//!
//! Removal takes two sweeps. The first retires an entry, so that no packet finds it any more; the next one, a second
//! later at least, frees its place: programs that had found it before have long ended. A mapping's port is not given to
//! another before the last flow that used it is freed.
//!
//! Until then a program that had found a flow may still end its handshake, or begin it anew. So a flow is counted less when
//! it is retired, but a half-open connection when its place is freed: its state is the last one then, and no program and
//! sweep both give the same one back.

use std::collections::HashMap;

use gateway_common::abi::flow::{Flow, FlowKey, read};
use gateway_common::abi::interface::Settings;
use gateway_common::path::filter::{is_alive, is_half_open};
use gateway_common::tables::index::{state, state_of};

use super::tables::{Flows, Mappings, SharedTables};

/// Seconds between two sweeps that an entry is retired at least.
const RETIRED_S: u32 = 1;

/// What a sweep keeps for the next one: places that are neither free nor live, with their words and when they were first
/// seen so. Places that are being filled are among them; a program does that in microseconds, so that one which is seen
/// twice was left behind by a process that died.
#[derive(Debug, Default)]
pub struct Sweep {
    flows: HashMap<u32, (u64, u32)>,
    mappings: HashMap<u32, (u64, u32)>,
}

/// Which mappings flows use, by place.
struct Used(Vec<u64>);

impl Used {
    fn new(places: u32) -> Self {
        Self(vec![0; places.div_ceil(64) as usize])
    }

    fn insert(&mut self, place: u32) {
        if let Some(word) = self.0.get_mut(place as usize / 64) {
            *word |= 1 << (place % 64);
        }
    }

    fn contains(&self, place: u32) -> bool {
        self.0
            .get(place as usize / 64)
            .is_some_and(|word| word & (1 << (place % 64)) != 0)
    }
}

impl Sweep {
    /// Sweeps at `now_s`. A mapping stays for `hold_s` after its last flow was made, so that a client that comes back
    /// keeps its port. Answers how many flows and mappings were retired.
    pub fn run(
        &mut self,
        tables: &SharedTables,
        settings: &Settings,
        hold_s: u32,
        now_s: u32,
    ) -> (usize, usize) {
        let mappings = tables.mappings();
        let (mut live, mut retired) = (Used::new(mappings.places()), Used::new(mappings.places()));
        let flows = self.flows(tables, settings, now_s, &mut live, &mut retired);
        let gone = self.mappings(tables, mappings, (&live, &retired), hold_s, now_s);
        (flows, gone)
    }

    fn flows(
        &mut self,
        tables: &SharedTables,
        settings: &Settings,
        now_s: u32,
        live: &mut Used,
        retired: &mut Used,
    ) -> usize {
        let flows = tables.flows();
        let mut expired = 0;
        let before = std::mem::take(&mut self.flows);
        for place in 0..flows.places() {
            let Some(entry) = flows.at(place) else { continue };
            match state_of(entry.word) {
                state::FREE => continue,
                state::LIVE => {
                    let (key, flow) = read(entry.record);
                    if !expire(flows, place, entry.word, (&key, &flow), settings, now_s) {
                        live.insert(flow.mapping);
                        continue;
                    }
                    tables.give_flow(key.site);
                    expired += 1;
                }
                _ => {}
            }
            let word = flows.at(place).map_or(0, |entry| entry.word);
            if is_due(before.get(&place), word, now_s) {
                let (key, flow) = read(entry.record);
                if state_of(word) == state::RETIRED && is_half_open(flow.progress.state) {
                    tables.give_half_open(key.site);
                }
                flows.free(place);
            } else {
                retired.insert(read(entry.record).1.mapping);
                self.flows.insert(place, since(before.get(&place), word, now_s));
            }
        }
        expired
    }

    fn mappings(
        &mut self,
        tables: &SharedTables,
        mappings: Mappings<'_>,
        (live, retired): (&Used, &Used),
        hold_s: u32,
        now_s: u32,
    ) -> usize {
        let mut gone = 0;
        let before = std::mem::take(&mut self.mappings);
        for place in 0..mappings.places() {
            let Some((word, key, mapping)) = mappings.at(place) else {
                continue;
            };
            match state_of(word) {
                state::FREE => continue,
                state::LIVE => {
                    let is_held =
                        now_s.wrapping_sub(mapping.last_used_s).cast_signed() <= hold_s.cast_signed();
                    if live.contains(place) || is_held || !mappings.retire(place) {
                        continue;
                    }
                    tables.give_mapping(key.site);
                    gone += 1;
                }
                _ => {}
            }
            let word = mappings.at(place).map_or(0, |(word, ..)| word);
            let is_used = live.contains(place) || retired.contains(place);
            if is_due(before.get(&place), word, now_s) && !is_used {
                mappings.free(place);
            } else {
                self.mappings
                    .insert(place, since(before.get(&place), word, now_s));
            }
        }
        gone
    }
}

/// Retires a flow if it has timed out. A packet may begin it anew at the same moment: it is looked at again afterwards.
fn expire(
    flows: Flows<'_>,
    place: u32,
    word: u64,
    (key, flow): (&FlowKey, &Flow),
    settings: &Settings,
    now_s: u32,
) -> bool {
    if is_alive(flow.progress.state, flow.last_seen_s(), settings, now_s) || !flows.retire(place, word) {
        return false;
    }
    let lives = flows.at(place).is_some_and(|entry| {
        let flow = read(entry.record).1;
        is_alive(flow.progress.state, flow.last_seen_s(), settings, now_s)
    });
    !(lives && flows.revive(place, word, key))
}

/// Whether a place was in this very state a sweep ago.
fn is_due(before: Option<&(u64, u32)>, word: u64, now_s: u32) -> bool {
    before.is_some_and(|(found, at_s)| {
        *found == word && now_s.wrapping_sub(*at_s).cast_signed() >= RETIRED_S.cast_signed()
    })
}

/// What to remember of a place.
fn since(before: Option<&(u64, u32)>, word: u64, now_s: u32) -> (u64, u32) {
    match before {
        Some((found, at_s)) if *found == word => (word, *at_s),
        _ => (word, now_s),
    }
}
