//! The flow and mapping tables in this process: the same arrays and the same code as in the programs.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicU64;

use aya::{Ebpf, EbpfLoader};
use gateway_common::abi::flow::{self, Flow, FlowKey, halves, pair};
use gateway_common::abi::geometry::{GEOMETRY, Geometry};
use gateway_common::abi::interface::Settings;
use gateway_common::abi::nat::{self, InsideKey, Mapping, OutsideKey};
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::{clock, limit, map, usage};
use gateway_common::path::limits::give;
use gateway_common::tables::Epochs;
use gateway_common::tables::flows::FlowTable;
use gateway_common::tables::hash::{FACTORS, Hash};
use gateway_common::tables::index::{WIDTH, state, state_of};
use gateway_common::tables::mappings::MappingTable;
use gateway_common::tables::words::Words as _;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::shared::{LentArray, SharedArray, fetch};
use super::sweep::{self, Swept};

/// Words of a value of [`map::SETTINGS`].
const SETTINGS_WORDS: usize = size_of::<Settings>().div_ceil(8);
/// Words of a value of [`map::NEXT_HOPS`].
const NEXT_HOP_WORDS: usize = size_of::<NextHop>().div_ceil(8);

/// How many entries the tables are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Flows.
    pub flows: u32,
    /// NAT mappings.
    pub mappings: u32,
}

impl Default for TableSizes {
    fn default() -> Self {
        Self {
            flows: limit::FLOWS_DEFAULT,
            mappings: limit::FLOWS_DEFAULT,
        }
    }
}

impl TableSizes {
    /// Sizes and a new secret, for the loader.
    ///
    /// # Errors
    /// The system gives no random octets.
    pub fn geometry(self) -> io::Result<Geometry> {
        let (mut factors, mut port_key) = ([0; FACTORS], [0; 2]);
        for word in factors.iter_mut().chain(&mut port_key) {
            let mut octets = [0; 8];
            getrandom::fill(&mut octets).map_err(|error| io::Error::other(error.to_string()))?;
            *word = u64::from_ne_bytes(octets);
        }
        Ok(Geometry {
            factors,
            port_key,
            flow_buckets: limit::buckets(self.flows.min(limit::FLOWS_MAX)),
            mapping_buckets: limit::buckets(self.mappings.min(limit::FLOWS_MAX)),
        })
    }
}

/// Tells the loader secret and sizes.
pub fn prepare<'a>(loader: &mut EbpfLoader<'a>, geometry: &'a Geometry) {
    let (flows, mappings) = (geometry.flow_buckets, geometry.mapping_buckets);
    loader
        .override_global(GEOMETRY, geometry, true)
        .map_max_entries(map::FLOW_INDEX, flows)
        .map_max_entries(map::FLOW_ANSWERS, flows)
        .map_max_entries(map::FLOWS, flows * WIDTH as u32)
        .map_max_entries(map::MAPPING_OUTSIDES, mappings)
        .map_max_entries(map::MAPPING_INSIDES, mappings)
        .map_max_entries(map::MAPPINGS, mappings * WIDTH as u32);
}

/// The flow table in this process.
pub type Flows<'a> =
    FlowTable<&'a [[AtomicU64; WIDTH]], &'a [[AtomicU64; flow::RECORD_WORDS]], &'a [u64; FACTORS]>;
/// The mapping table in this process.
pub type Mappings<'a> =
    MappingTable<&'a [[AtomicU64; WIDTH]], &'a [[AtomicU64; nat::RECORD_WORDS]], &'a [u64; FACTORS]>;

/// The tables, what sites use of them, and the programs' clock.
pub struct SharedTables {
    factors: [u64; FACTORS],
    flow_index: SharedArray<WIDTH>,
    flow_answers: SharedArray<WIDTH>,
    flows: SharedArray<{ flow::RECORD_WORDS }>,
    mapping_outsides: SharedArray<WIDTH>,
    mapping_insides: SharedArray<WIDTH>,
    mappings: SharedArray<{ nat::RECORD_WORDS }>,
    usage: SharedArray<{ usage::WORDS }>,
    clock: SharedArray<{ clock::WORDS }>,
    settings: LentArray<SETTINGS_WORDS>,
    next_hops: LentArray<NEXT_HOP_WORDS>,
}

impl SharedTables {
    /// Maps the tables of a loaded object, which was [`prepare`]d with `geometry`. Epochs begin.
    ///
    /// # Errors
    /// A map is missing or has another shape, with its name.
    pub fn new(ebpf: &Ebpf, geometry: &Geometry) -> Result<Self, (&'static str, io::Error)> {
        let tables = Self {
            factors: geometry.factors,
            flow_index: array(ebpf, map::FLOW_INDEX)?,
            flow_answers: array(ebpf, map::FLOW_ANSWERS)?,
            flows: array(ebpf, map::FLOWS)?,
            mapping_outsides: array(ebpf, map::MAPPING_OUTSIDES)?,
            mapping_insides: array(ebpf, map::MAPPING_INSIDES)?,
            mappings: array(ebpf, map::MAPPINGS)?,
            usage: array(ebpf, map::SITE_USAGE)?,
            clock: array(ebpf, map::CLOCK)?,
            settings: lent(ebpf, map::SETTINGS)?,
            next_hops: lent(ebpf, map::NEXT_HOPS)?,
        };
        tables.next_epoch(1, 1);
        Ok(tables)
    }

    /// The same without programs, in this process's memory: for measurements and tests. Sites are numbered below `sites`.
    ///
    /// # Errors
    /// There is no memory.
    pub fn in_memory(
        geometry: &Geometry,
        sites: u32,
        settings: &Settings,
        next_hops: &[NextHop],
    ) -> io::Result<Self> {
        let (flows, mappings) = (geometry.flow_buckets as usize, geometry.mapping_buckets as usize);
        let next_hops: Vec<_> = next_hops.iter().map(words_of).collect();
        let tables = Self {
            factors: geometry.factors,
            flow_index: SharedArray::in_memory(flows)?,
            flow_answers: SharedArray::in_memory(flows)?,
            flows: SharedArray::in_memory(flows * WIDTH)?,
            mapping_outsides: SharedArray::in_memory(mappings)?,
            mapping_insides: SharedArray::in_memory(mappings)?,
            mappings: SharedArray::in_memory(mappings * WIDTH)?,
            usage: SharedArray::in_memory(sites as usize)?,
            clock: SharedArray::in_memory(1)?,
            settings: LentArray::in_memory(&[words_of(settings)])?,
            next_hops: LentArray::in_memory(&next_hops)?,
        };
        tables.next_epoch(1, 1);
        Ok(tables)
    }

    /// The flow table.
    #[must_use]
    pub fn flows(&self) -> Flows<'_> {
        FlowTable::new(
            self.flow_index.values(),
            self.flow_answers.values(),
            self.flows.values(),
            &self.factors,
        )
    }

    /// The mapping table.
    #[must_use]
    pub fn mappings(&self) -> Mappings<'_> {
        MappingTable::new(
            self.mapping_outsides.values(),
            self.mapping_insides.values(),
            self.mappings.values(),
            &self.factors,
        )
    }

    /// Every flow, in the order of keys.
    #[must_use]
    pub fn flow_list(&self) -> BTreeMap<FlowKey, Flow> {
        self.flows().live().collect()
    }

    /// Every mapping, in the order of insides.
    #[must_use]
    pub fn mapping_list(&self) -> BTreeMap<InsideKey, Mapping> {
        self.mappings().live().collect()
    }

    /// Every outside that is not free, those of retired mappings too.
    #[must_use]
    pub fn outsides(&self) -> Vec<OutsideKey> {
        let mappings = self.mappings();
        let outside = |place| {
            let (word, key, mapping) = mappings.at(place)?;
            (state_of(word) != state::FREE).then(|| mapping.outside(key.protocol))
        };
        (0..mappings.places()).filter_map(outside).collect()
    }

    /// What a site uses of the tables: flows, half-open connections, mappings.
    #[must_use]
    pub fn used(&self, site: u32) -> [u64; 3] {
        let usage = self.usage.values().get(site as usize);
        [usage::word::FLOWS, usage::word::HALF_OPEN, usage::word::MAPPINGS]
            .map(|word| usage.map_or(0, |usage| usage.load(word)))
    }

    /// Sets the programs' clock.
    pub fn set_now_s(&self, now_s: u32) {
        if let Some(clock) = self.clock.values().first()
            && clock.load(clock::word::NOW_S) != u64::from(now_s)
        {
            clock.store(clock::word::NOW_S, now_s.into());
        }
    }

    /// The programs' clock.
    #[must_use]
    pub fn now_s(&self) -> u32 {
        self.clock_word(clock::word::NOW_S) as u32
    }

    /// Epochs of next hops and of outbound SAs, as the programs have them.
    #[must_use]
    pub fn epochs(&self) -> Epochs {
        let (hop, sa) = halves(self.clock_word(clock::word::EPOCHS));
        Epochs { hop, sa }
    }

    fn clock_word(&self, word: usize) -> u64 {
        self.clock.values().first().map_or(0, |clock| clock.load(word))
    }

    /// The settings, as the programs have them.
    #[must_use]
    pub fn settings(&self) -> Option<Settings> {
        Some(
            Settings::read_from_prefix(self.settings.get(0)?.as_bytes())
                .ok()?
                .0,
        )
    }

    /// A next hop by its number. One that a flow of this epoch names does not change.
    #[must_use]
    pub fn next_hop(&self, number: u32) -> Option<NextHop> {
        Some(
            NextHop::read_from_prefix(self.next_hops.get(number)?.as_bytes())
                .ok()?
                .0,
        )
    }

    /// Has the buckets on their way in which a flow may lie, which are memory that nothing else leads to.
    #[inline]
    pub(crate) fn fetch_buckets(&self, hash: &Hash) {
        let buckets = self.flow_index.values();
        for number in [hash.first, hash.second] {
            buckets.get(number as usize).into_iter().for_each(fetch);
        }
    }

    /// Has the record on its way of the flow that they have, if any.
    #[inline]
    pub(crate) fn fetch_record(&self, hash: &Hash) {
        let place = self.flows().likely_place(hash);
        let record = place.and_then(|place| self.flows.values().get(place as usize));
        let Some(record) = record else { return };
        // Two cache lines.
        fetch(record);
        record.get(flow::RECORD_WORDS / 2).into_iter().for_each(fetch);
    }

    /// What a site uses of the tables, or their sum.
    pub(crate) fn usage(&self, site: u32) -> Option<&[AtomicU64; usage::WORDS]> {
        self.usage.values().get(site as usize)
    }

    /// Next hops that flows may know have changed.
    pub fn hops_changed(&self) {
        self.next_epoch(1, 0);
    }

    /// Outbound SAs that flows may know have changed.
    pub fn sas_changed(&self) {
        self.next_epoch(0, 1);
    }

    /// One writer at a time: the caller has the maps locked. Zero is no epoch.
    fn next_epoch(&self, hops: u32, sas: u32) {
        if let Some(clock) = self.clock.values().first() {
            let (hop, sa) = halves(clock.load(clock::word::EPOCHS));
            let next = pair(hop.wrapping_add(hops).max(1), sa.wrapping_add(sas).max(1));
            clock.store(clock::word::EPOCHS, next);
        }
    }

    /// Empties both tables. For tests: no program may run.
    pub fn clear(&self) {
        for word in self.flow_index.values().iter().chain(self.flow_answers.values()) {
            (0..WIDTH).for_each(|at| word.store(at, 0));
        }
        for word in self
            .mapping_outsides
            .values()
            .iter()
            .chain(self.mapping_insides.values())
        {
            (0..WIDTH).for_each(|at| word.store(at, 0));
        }
        for usage in self.usage.values() {
            (0..usage::WORDS).for_each(|at| usage.store(at, 0));
        }
    }

    /// Counts one more of `what` ([`usage::word`]), which no packet made.
    pub fn count(&self, site: u32, what: usize) {
        for of in [site, usage::TOTAL] {
            if let Some(usage) = self.usage.values().get(of as usize) {
                usage.add(what, 1);
            }
        }
    }

    /// Retires a flow, as the sweep does; whether there was one. The sweep frees its place.
    pub fn end_flow(&self, key: &FlowKey) -> bool {
        sweep::end(self, key)
    }

    /// Counts a half-open connection less, as the program does that ends a handshake.
    pub fn give_half_open(&self, site: u32) {
        self.give(site, usage::word::HALF_OPEN);
    }

    /// Counts a mapping less.
    pub(crate) fn give_mapping(&self, site: u32) {
        self.give(site, usage::word::MAPPINGS);
    }

    fn give(&self, site: u32, what: usize) {
        let usage = self.usage.values();
        if let (Some(of_site), Some(total)) = (usage.get(site as usize), usage.get(usage::TOTAL as usize)) {
            give(of_site, total, what);
        }
    }
}

impl<'a> Swept for &'a SharedTables {
    type Buckets = &'a [[AtomicU64; WIDTH]];
    type FlowRecords = &'a [[AtomicU64; flow::RECORD_WORDS]];
    type MappingRecords = &'a [[AtomicU64; nat::RECORD_WORDS]];
    type Secret = &'a [u64; FACTORS];
    type Usage = &'a [AtomicU64; usage::WORDS];

    fn flows(self) -> Flows<'a> {
        SharedTables::flows(self)
    }

    fn mappings(self) -> Mappings<'a> {
        SharedTables::mappings(self)
    }

    fn usage(self, site: u32) -> Option<Self::Usage> {
        SharedTables::usage(self, site)
    }
}

fn array<const N: usize>(
    ebpf: &Ebpf,
    name: &'static str,
) -> Result<SharedArray<N>, (&'static str, io::Error)> {
    let map = ebpf
        .map(name)
        .ok_or_else(|| (name, io::Error::other("the object has no such map")))?;
    SharedArray::new(map).map_err(|error| (name, error))
}

/// A value as an array has it, filled up with zeroes.
fn words_of<T: zerocopy::IntoBytes + zerocopy::Immutable, const N: usize>(value: &T) -> [u64; N] {
    let mut words = [0u64; N];
    for (to, from) in words.as_mut_bytes().iter_mut().zip(value.as_bytes()) {
        *to = *from;
    }
    words
}

fn lent<const N: usize>(ebpf: &Ebpf, name: &'static str) -> Result<LentArray<N>, (&'static str, io::Error)> {
    let map = ebpf
        .map(name)
        .ok_or_else(|| (name, io::Error::other("the object has no such map")))?;
    LentArray::new(map).map_err(|error| (name, error))
}
