//! What the regular sweep removes: flows that timed out, NAT mappings that nobody uses. It reads the tables where they lie,
//! without a system call and without a lock: no packet waits for it.
//!
//! Removal takes two sweeps. The first retires an entry, so that no packet finds it any more; the next one, a second
//! later at least, frees its place: programs that had found it before have long ended, and so have rounds of workers
//! ([`Quiet`]).
//!
//! Until then a program that had found a flow may still end its handshake, or begin it anew. So a flow is counted less when
//! it is retired, but a half-open connection when its place is freed: its state is the last one then, and no program and
//! sweep both give the same one back.
//!
//! | half-open connections | who | at which access |
//! |---|---|---|
//! | one more | `path::open` puts a flow in | before it claims a place; given back if that fails |
//! | one more | `path::open` begins a dead flow anew | before its compare-and-swap of the state, from one that is not half-open; given back if that fails |
//! | one less | `path::open`, `path::filter` | after a compare-and-swap that took the state out of the handshake |
//! | one less | the sweep | when it frees a RETIRED place whose state is that of a handshake |
//!
//! So the count is that of the places that are LIVE or RETIRED, or on the way from one to the other, with such a state
//! (`tests/tests/turns.rs`).
//!
//! **Hold-down** (RFC 6888 REQ-8). A mapping ends with its last flow. For a time after that nobody else gets its port, so
//! that what is still under way to the old owner does not reach a new one; the old owner itself finds the mapping and
//! goes on with it. A sweep writes into a mapping when a flow last used it, and lets go of one that nobody has used for so
//! long. One that was retired because its site was given another address is held as long, without being found.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::fence;

use gateway_common::abi::flow::{Flow, FlowKey, pair, read, state as state_of_flow, word};
use gateway_common::abi::interface::Settings;
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};
use gateway_common::abi::usage;
use gateway_common::path::filter::{is_alive, is_half_open};
use gateway_common::path::limits;
use gateway_common::path::tcp::flag;
use gateway_common::tables::flows::FlowTable;
use gateway_common::tables::hash::Factors;
use gateway_common::tables::index::{state, state_of};
use gateway_common::tables::mappings::MappingTable;
use gateway_common::tables::words::{Store, Words};

/// Seconds between two sweeps that an entry is retired at least.
const RETIRED_S: u32 = 1;

/// How long ports of mappings that ended are kept from others (RFC 6888 REQ-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldDown {
    /// Seconds since the last use.
    pub hold_s: u32,
    /// Ports of one site that are held at a time, at most; those that have waited longest are let go of early.
    pub site_ports_max: u32,
}

/// The tables that a sweep goes through. Not `SharedTables` alone: a test takes turns between a sweep and programs on memory of
/// its own, access by access.
pub trait Swept: Copy {
    /// Buckets of the tables' indexes.
    type Buckets: Store;
    /// Records of flows.
    type FlowRecords: Store;
    /// Records of mappings.
    type MappingRecords: Store;
    /// Secret of the tables' hash.
    type Secret: Factors;
    /// What sites use.
    type Usage: Words;

    /// The flow table.
    fn flows(self) -> FlowTable<Self::Buckets, Self::FlowRecords, Self::Secret>;
    /// The mapping table.
    fn mappings(self) -> MappingTable<Self::Buckets, Self::MappingRecords, Self::Secret>;
    /// What a site uses of the tables, or their sum.
    fn usage(self, site: u32) -> Option<Self::Usage>;
}

/// Counts one less of `what` ([`usage::word`]) of a site's.
fn give<T: Swept>(tables: T, site: u32, what: usize) {
    if let (Some(of_site), Some(total)) = (tables.usage(site), tables.usage(usage::TOTAL)) {
        limits::give(of_site, total, what);
    }
}

/// Retires a flow, as the sweep does; whether there was one. The sweep frees its place.
pub fn end<T: Swept>(tables: T, key: &FlowKey) -> bool {
    let Some(entry) = tables.flows().find(key) else {
        return false;
    };
    let retired = tables.flows().retire(entry.position, entry.word);
    if retired {
        give(tables, key.site, usage::word::FLOWS);
    }
    retired
}

/// What a sweep keeps for the next one: places that are neither free nor live, with their words and when they were first
/// seen so. Places that are being filled are among them; a program does that in microseconds, so that one which is seen
/// twice was left behind by a process that died.
#[derive(Debug, Default)]
pub struct Sweep {
    flows: HashMap<u32, (u64, u32)>,
    mappings: HashMap<u32, (u64, u32)>,
}

/// Which rounds of workers have ended. A program runs to its end in microseconds; a worker is a thread, which the system may
/// hold up for as long as it likes between finding a flow and being done with it.
#[derive(Debug, Default)]
pub struct Quiet(Vec<u64>);

impl Quiet {
    /// Whether no worker is in the round that it was in when a sweep had ended: `rounds` changes with each, and is odd
    /// within one.
    #[must_use]
    pub fn all_came_on(&self, rounds: impl Iterator<Item = u64>) -> bool {
        let stuck = |(now, before): (u64, &u64)| now == *before && now % 2 == 1;
        !rounds.zip(&self.0).any(stuck)
    }

    /// Notes the rounds of workers when a sweep has ended. A round that began while it ran may hold what it has retired;
    /// one that begins from now on finds none of it.
    pub fn note(&mut self, rounds: impl Iterator<Item = u64>) {
        // Rounds are read when what the sweep retired is seen to be so.
        fence(SeqCst);
        self.0.clear();
        self.0.extend(rounds);
    }
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
    /// Sweeps at `now_s`. Answers how many flows and mappings were retired.
    pub fn run<T: Swept>(
        &mut self,
        tables: T,
        settings: &Settings,
        hold_down: HoldDown,
        now_s: u32,
    ) -> (usize, usize) {
        let places = tables.mappings().places();
        let (mut live, mut retired) = (Used::new(places), Used::new(places));
        let flows = self.flows(tables, settings, now_s, &mut live, &mut retired);
        let gone = self.mappings(tables, (&live, &retired), hold_down, now_s);
        (flows, gone)
    }

    fn flows<T: Swept>(
        &mut self,
        tables: T,
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
                        keep_permission(flows, (&key, &flow), now_s);
                        continue;
                    }
                    give(tables, key.site, usage::word::FLOWS);
                    expired += 1;
                }
                _ => {}
            }
            let word = flows.at(place).map_or(0, |entry| entry.word);
            if is_due(before.get(&place), word, now_s) {
                let (key, flow) = read(entry.record);
                if state_of(word) == state::RETIRED && is_half_open(flow.progress.state) {
                    give(tables, key.site, usage::word::HALF_OPEN);
                }
                flows.free(place);
            } else {
                retired.insert(read(entry.record).1.mapping);
                self.flows.insert(place, since(before.get(&place), word, now_s));
            }
        }
        expired
    }

    fn mappings<T: Swept>(
        &mut self,
        tables: T,
        (live, retired): (&Used, &Used),
        hold_down: HoldDown,
        now_s: u32,
    ) -> usize {
        let mappings = tables.mappings();
        let mut gone = 0;
        let mut held = Held::default();
        let before = std::mem::take(&mut self.mappings);
        for place in 0..mappings.places() {
            let Some((word, key, mapping)) = mappings.at(place) else {
                continue;
            };
            let state = state_of(word);
            if state == state::FREE || (state == state::LIVE && mapping.is_static()) {
                continue;
            }
            let is_used = live.contains(place) || retired.contains(place);
            let is_kept = matches!(state, state::LIVE | state::RETIRED);
            if is_used && is_kept && mapping.last_used_s != now_s {
                mappings.touch(&key, &mapping, now_s);
            }
            let is_held = is_used
                || (is_kept
                    && now_s.wrapping_sub(mapping.last_used_s).cast_signed()
                        <= hold_down.hold_s.cast_signed());
            if is_held && !is_used {
                held.note(key, mapping);
            }
            if state == state::LIVE {
                if is_held || !mappings.retire(place) {
                    continue;
                }
                give(tables, key.site, usage::word::MAPPINGS);
                gone += 1;
            }
            let word = mappings.at(place).map_or(0, |(word, ..)| word);
            if is_due(before.get(&place), word, now_s) && !is_held {
                mappings.free(place);
            } else {
                self.mappings
                    .insert(place, since(before.get(&place), word, now_s));
            }
        }
        let long_ago_s = now_s.wrapping_sub(hold_down.hold_s).wrapping_sub(1);
        for (key, mapping) in held.surplus(hold_down.site_ports_max) {
            mappings.touch(&key, &mapping, long_ago_s);
        }
        gone
    }
}

/// Mappings that are held, by site.
#[derive(Default)]
struct Held(BTreeMap<u32, Vec<(InsideKey, Mapping)>>);

impl Held {
    fn note(&mut self, key: InsideKey, mapping: Mapping) {
        self.0.entry(key.site).or_default().push((key, mapping));
    }

    /// Those that are more than `max` of one site, longest held first. The next sweep lets go of them, unless a flow
    /// is made meanwhile.
    fn surplus(self, max: u32) -> impl Iterator<Item = (InsideKey, Mapping)> {
        self.0.into_values().flat_map(move |mut of_site| {
            let surplus = of_site.len().saturating_sub(max as usize);
            of_site.sort_by(|(_, one), (_, other)| {
                let difference = one.last_used_s.wrapping_sub(other.last_used_s);
                difference.cast_signed().cmp(&0)
            });
            of_site.truncate(surplus);
            of_site
        })
    }
}

/// The permission beside a flow lives as long as the flow (`gateway_common::path::enter`).
fn keep_permission<B: Store, R: Store, F: Factors>(
    flows: FlowTable<B, R, F>,
    (key, flow): (&FlowKey, &Flow),
    now_s: u32,
) {
    if flow.progress.flags & flag::HAS_PERMISSION == 0 || flow.progress.state == state_of_flow::PERMISSION {
        return;
    }
    let outside = OutsideKey {
        address: flow.nat_address,
        port: flow.nat_port,
        protocol: key.protocol,
        pad: 0,
    };
    if let Some(permission) = flows.find_answer(&outside, key.destination, [0; 2]) {
        permission.record.store(word::OUT + word::SEEN, pair(0, now_s));
    }
}

/// Retires a flow if it has timed out. A packet may begin it anew at the same moment: it is looked at again afterwards.
fn expire<B: Store, R: Store, F: Factors>(
    flows: FlowTable<B, R, F>,
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

#[cfg(test)]
mod tests {
    use super::Quiet;

    /// What a sweep at these rounds notes when it has ended, if it may begin.
    fn sweep<const N: usize>(quiet: &mut Quiet, begin: [u64; N], end: [u64; N]) -> bool {
        let may = quiet.all_came_on(begin.into_iter());
        if may {
            quiet.note(end.into_iter());
        }
        may
    }

    /// A worker that is held up within a round keeps what it may have found from being freed.
    #[test]
    fn nothing_is_swept_while_a_worker_is_in_an_old_round() {
        let mut quiet = Quiet::default();
        let mut asked = |rounds: [u64; 2]| sweep(&mut quiet, rounds, rounds);
        assert!(asked([4, 7]), "nothing was retired before");
        assert!(!asked([4, 7]), "the second is still in that round");
        assert!(!asked([9, 7]));
        assert!(asked([9, 8]), "it sleeps: it holds nothing");
        assert!(asked([10, 8]));
        assert!(asked([10, 9]) && !asked([11, 9]) && asked([11, 11]));
    }

    /// A worker that slept when the sweep began and woke up meanwhile may have found a flow before the sweep retired it.
    #[test]
    fn a_round_that_begins_during_a_sweep_keeps_the_next_one_from_freeing() {
        let mut quiet = Quiet::default();
        assert!(sweep(&mut quiet, [10], [11]));
        assert!(!sweep(&mut quiet, [11], [11]), "it may hold what was retired");
        assert!(sweep(&mut quiet, [12], [13]), "that round has ended");
        assert!(!sweep(&mut quiet, [13], [13]));
        assert!(sweep(&mut quiet, [15], [15]), "another round");
    }
}
