//! [`Tables`] in ordinary memory, with a clock and randomness that the caller sets: for tests and simulations.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use super::flows::FlowTable;
use super::hash::FACTORS;
use super::index::WIDTH;
use super::mappings::{MappingTable, Unmapped};
use super::siphash::SipKey;
use super::{Epochs, Refused, Step, Tables};
use crate::abi::{
    event::Event,
    flow::{self, Flow, FlowKey},
    interface::{Interface, Settings},
    limit,
    names::OpenAddress,
    nat::{self, InsideKey, Mapping, OutsideKey},
    next_hop::NextHop,
    rule::{Rule, direction},
    sa::{SaInbound, SaOutbound, SaOutboundKey, SaPath, SaPathKey, SaShares},
    site::Site,
    stats::Path,
    trace::TraceEvent,
    usage,
};
use crate::drop::DropReason;
use crate::path::open::SCRATCH_WORDS;
use crate::path::rules::{self, Judgement, Tuple};

/// Secret of the tables' hash: any will do where nobody attacks.
const SECRET: [u64; FACTORS] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
];
/// Flows and mappings of tables whose size nobody says.
const ENTRIES: u32 = 256;
/// Sites of which the use of tables is counted.
const SITES: usize = 128;

/// An array of words in ordinary memory.
#[derive(Debug)]
pub struct Memory<const N: usize>(Box<[[AtomicU64; N]]>);

impl<const N: usize> Memory<N> {
    fn new(values: u32) -> Self {
        Self(
            (0..values)
                .map(|_| std::array::from_fn(|_| AtomicU64::new(0)))
                .collect(),
        )
    }
}

impl<const N: usize> Clone for Memory<N> {
    fn clone(&self) -> Self {
        let copy = |value: &[AtomicU64; N]| {
            std::array::from_fn(|word| AtomicU64::new(value[word].load(Ordering::Relaxed)))
        };
        Self(self.0.iter().map(copy).collect())
    }
}

/// Arrays of flow and mapping table.
#[derive(Clone, Debug)]
pub struct Arrays {
    index: Memory<WIDTH>,
    answers: Memory<WIDTH>,
    flows: Memory<{ flow::RECORD_WORDS }>,
    outsides: Memory<WIDTH>,
    insides: Memory<WIDTH>,
    mappings: Memory<{ nat::RECORD_WORDS }>,
    usage: Memory<{ usage::WORDS }>,
    scratch: Memory<SCRATCH_WORDS>,
}

impl Arrays {
    /// Arrays for so many flows and mappings.
    #[must_use]
    pub fn new(flows: u32, mappings: u32) -> Self {
        let (flows, mappings) = (limit::buckets(flows), limit::buckets(mappings));
        Self {
            index: Memory::new(flows),
            answers: Memory::new(flows),
            flows: Memory::new(flows * WIDTH as u32),
            outsides: Memory::new(mappings),
            insides: Memory::new(mappings),
            mappings: Memory::new(mappings * WIDTH as u32),
            usage: Memory::new(SITES as u32),
            scratch: Memory::new(1),
        }
    }

    /// The same, with the use of tables counted of so many sites.
    #[must_use]
    pub fn for_sites(self, sites: u32) -> Self {
        Self {
            usage: Memory::new(sites),
            ..self
        }
    }
}

impl Default for Arrays {
    fn default() -> Self {
        Self::new(ENTRIES, ENTRIES)
    }
}

/// All tables, open to the test that fills and reads them.
#[derive(Clone, Debug, Default)]
pub struct HostTables {
    /// What [`Tables::now_s`] says.
    pub now_s: Cell<u32>,
    /// State of the random numbers; each draw advances it.
    pub random: Cell<u32>,
    /// Settings.
    pub settings: Option<Settings>,
    /// Interface of the frames to come.
    pub interface: Option<Interface>,
    /// Receive queue of the frames to come.
    pub queue: u32,
    /// Inbound SAs by SPI.
    pub sa_inbound: BTreeMap<[u8; 4], SaInbound>,
    /// Outbound SAs: prefix length of the destination, key, SA.
    pub sa_outbound: Vec<(u32, SaOutboundKey, SaOutbound)>,
    /// SAs that share traffic, by number.
    pub sa_shares: Vec<SaShares>,
    /// Paths of outbound SAs.
    pub sa_paths: BTreeMap<SaPathKey, SaPath>,
    /// Sites.
    pub sites: BTreeMap<u32, Site>,
    /// Look-ups of sites until one finds an element that is this other site's by the time it is read.
    pub reused: Cell<Option<(u32, u32)>>,
    /// Next hops: prefix length, prefix, hop.
    pub next_hops: Vec<(u32, [u8; 4], NextHop)>,
    /// Directions of destinations: prefix length, prefix, direction; to the Internet where none is said.
    pub directions: Vec<(u32, [u8; 4], u8)>,
    /// Roles of interfaces by index.
    pub roles: BTreeMap<u32, u32>,
    /// Who may open flows to what is published: number of the publication, prefix length, prefix.
    pub publication_sources: Vec<(u32, u32, [u8; 4])>,
    /// Raised when next hops or outbound SAs that flows may know have changed.
    pub epoch: Cell<u32>,
    /// Addresses that are open by name.
    pub open_names: BTreeMap<[u8; 4], OpenAddress>,
    /// Generation and rules.
    pub rules: Option<(u32, Vec<Rule>)>,
    /// Flow table, mapping table, and what sites use of them.
    pub arrays: Arrays,
    /// SPIs of ours of IKE SAs that stand.
    pub ike_spis: BTreeSet<u64>,
    /// IKE datagrams: source, second, count.
    pub ike: RefCell<BTreeMap<[u8; 16], (u32, u32)>>,
    /// Packets by [`Path`].
    pub paths: RefCell<BTreeMap<u32, u64>>,
    /// Packets that were answered, by [`DropReason`].
    pub drops: RefCell<BTreeMap<DropReason, u64>>,
    /// Packets by the rule's counter.
    pub rule_hits: RefCell<BTreeMap<u32, u64>>,
    /// Events.
    pub events: RefCell<Vec<Event>>,
    /// Packets that were traced.
    pub traces: RefCell<Vec<TraceEvent>>,
}

impl HostTables {
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

    /// Every outside that is taken, with its inside.
    #[must_use]
    pub fn outside_list(&self) -> BTreeMap<OutsideKey, InsideKey> {
        self.mappings()
            .live()
            .map(|(key, mapping)| (mapping.outside(key.protocol), key))
            .collect()
    }

    /// Puts a mapping in, counted as its site's unless it is static; its inside and outside must be free.
    ///
    /// # Errors
    /// [`Unmapped`].
    pub fn put_mapping(&self, key: &InsideKey, mapping: &Mapping) -> Result<u32, Unmapped> {
        let position = self.mappings().insert(key, mapping)?;
        if !mapping.is_static() {
            for of in [key.site, usage::TOTAL] {
                self.add_usage(of, usage::word::MAPPINGS);
            }
        }
        Ok(position)
    }

    /// Puts a flow in, counted as its site's.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn put_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Refused> {
        self.flows().insert(key, flow)?;
        for of in [key.site, usage::TOTAL] {
            self.add_usage(of, usage::word::FLOWS);
        }
        Ok(())
    }

    /// What a site uses of the tables: flows, half-open connections, mappings.
    #[must_use]
    pub fn used(&self, site: u32) -> [u64; 3] {
        use crate::tables::words::Words as _;
        let usage = self.usage(site);
        [usage::word::FLOWS, usage::word::HALF_OPEN, usage::word::MAPPINGS]
            .map(|word| usage.map_or(0, |usage| usage.load(word)))
    }

    fn add_usage(&self, site: u32, word: usize) {
        use crate::tables::words::Words as _;
        if let Some(usage) = self.usage(site) {
            usage.add(word, 1);
        }
    }
}

impl Tables for HostTables {
    type Buckets<'a> = &'a [[AtomicU64; WIDTH]];
    type FlowRecords<'a> = &'a [[AtomicU64; flow::RECORD_WORDS]];
    type MappingRecords<'a> = &'a [[AtomicU64; nat::RECORD_WORDS]];
    type Usage<'a> = &'a [AtomicU64; usage::WORDS];
    type Scratch<'a> = &'a [AtomicU64; SCRATCH_WORDS];
    type Secret<'a> = &'a [u64; FACTORS];

    fn now_s(&self) -> u32 {
        self.now_s.get()
    }

    fn port_key(&self) -> SipKey {
        SipKey(SECRET[0], SECRET[1])
    }

    /// A linear congruential generator: each port of a range comes up.
    fn random(&self) -> u32 {
        let next = self
            .random
            .get()
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.random.set(next);
        next >> 8
    }

    fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    fn interface(&self) -> Option<&Interface> {
        self.interface.as_ref()
    }

    fn queue(&self) -> u32 {
        self.queue
    }

    fn sa_inbound(&self, spi: [u8; 4]) -> Option<&SaInbound> {
        self.sa_inbound.get(&spi)
    }

    fn sa_route(&self, key: &SaOutboundKey) -> Option<u32> {
        let of_site = (0..)
            .zip(&self.sa_outbound)
            .filter(|(_, (_, entry, _))| entry.site == key.site);
        of_site
            .filter(|(_, (length, entry, _))| prefix_matches(*length, entry.destination, key.destination))
            .max_by_key(|(_, (length, _, _))| *length)
            .map(|(number, _)| number)
    }

    fn sa_outbound(&self, number: u32) -> Option<&SaOutbound> {
        self.sa_outbound.get(number as usize).map(|(_, _, sa)| sa)
    }

    fn sa_shares(&self, number: u32) -> Option<&SaShares> {
        self.sa_shares.get(number as usize)
    }

    fn sa_path(&self, key: &SaPathKey) -> Option<&SaPath> {
        self.sa_paths.get(key)
    }

    fn site(&self, site: u32) -> Option<&Site> {
        let (reused, found) = match self.reused.get() {
            Some((0, other)) => (None, other),
            Some((later, other)) => (Some((later - 1, other)), site),
            None => (None, site),
        };
        self.reused.set(reused);
        self.sites.get(&found)
    }

    fn is_site(&self, lent: &Site, site: u32) -> bool {
        self.sites.get(&site).is_some_and(|own| core::ptr::eq(own, lent))
    }

    fn route(&self, destination: [u8; 4]) -> Option<u32> {
        let matching = (0..)
            .zip(&self.next_hops)
            .filter(|(_, (length, prefix, _))| prefix_matches(*length, *prefix, destination));
        matching
            .max_by_key(|(_, (length, _, _))| *length)
            .map(|(number, _)| number)
    }

    fn direction_to(&self, destination: [u8; 4]) -> u8 {
        let matching = self
            .directions
            .iter()
            .filter(|(length, prefix, _)| prefix_matches(*length, *prefix, destination));
        matching
            .max_by_key(|(length, _, _)| *length)
            .map_or(direction::SITE_TO_INTERNET, |(_, _, direction)| *direction)
    }

    fn role(&self, ifindex: u32) -> u32 {
        self.roles.get(&ifindex).copied().unwrap_or(0)
    }

    fn next_hop(&self, number: u32) -> Option<&NextHop> {
        self.next_hops.get(number as usize).map(|(_, _, hop)| hop)
    }

    fn may_enter(&self, publication: u32, source: [u8; 4]) -> bool {
        let of_it = |(number, length, prefix): &(u32, u32, [u8; 4])| {
            *number == publication && prefix_matches(*length, *prefix, source)
        };
        self.publication_sources.iter().any(of_it)
    }

    fn epochs(&self) -> Epochs {
        Epochs {
            hop: self.epoch.get() + 1,
            sa: self.epoch.get() + 1,
        }
    }

    fn flows(&self) -> FlowTable<Self::Buckets<'_>, Self::FlowRecords<'_>, Self::Secret<'_>> {
        let arrays = &self.arrays;
        FlowTable::new(&*arrays.index.0, &*arrays.answers.0, &*arrays.flows.0, &SECRET)
    }

    fn mappings(&self) -> MappingTable<Self::Buckets<'_>, Self::MappingRecords<'_>, Self::Secret<'_>> {
        let arrays = &self.arrays;
        MappingTable::new(
            &*arrays.outsides.0,
            &*arrays.insides.0,
            &*arrays.mappings.0,
            &SECRET,
        )
    }

    fn usage(&self, site: u32) -> Option<Self::Usage<'_>> {
        self.arrays.usage.0.get(site as usize)
    }

    fn scratch(&self) -> Option<Self::Scratch<'_>> {
        self.arrays.scratch.0.first()
    }

    fn repeat<S: Step>(&self, times: u32, steps: &mut S) {
        for _ in 0..times {
            if !steps.step() {
                break;
            }
        }
    }

    fn judge(&self, tuple: &Tuple) -> Option<Judgement> {
        let (generation, list) = self.rules.as_ref()?;
        let mut judgement = Judgement::default_deny(*generation);
        let open = self.open_names.get(&tuple.destination.to_be_bytes());
        let open = open.copied().unwrap_or_default();
        let holds = |rule: &&Rule| rules::matches_by_name(rule, tuple, &open, self.now_s());
        if let Some(rule) = list.iter().find(holds) {
            judgement.decide(rule);
        }
        Some(judgement)
    }

    fn is_ike_spi(&self, spi: u64) -> bool {
        self.ike_spis.contains(&spi)
    }

    fn count_ike(&self, source: &[u8; 16], now_s: u32) -> u32 {
        let mut ike = self.ike.borrow_mut();
        let bucket = ike.entry(*source).or_default();
        *bucket = if bucket.0 == now_s {
            (now_s, bucket.1 + 1)
        } else {
            (now_s, 1)
        };
        bucket.1
    }

    fn count(&self, path: Path, _bytes: u32) {
        *self.paths.borrow_mut().entry(path as u32).or_default() += 1;
    }

    fn count_drop(&self, reason: DropReason) {
        *self.drops.borrow_mut().entry(reason).or_default() += 1;
    }

    fn count_rule(&self, counter: u32, _bytes: u32) {
        *self.rule_hits.borrow_mut().entry(counter).or_default() += 1;
    }

    fn event(&self, event: &Event) {
        self.events.borrow_mut().push(*event);
    }

    fn trace(&self, event: &TraceEvent) {
        self.traces.borrow_mut().push(*event);
    }
}

fn prefix_matches(length: u32, prefix: [u8; 4], address: [u8; 4]) -> bool {
    let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
    (u32::from_be_bytes(prefix) ^ u32::from_be_bytes(address)) & mask == 0
}
