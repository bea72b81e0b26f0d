//! Typed access to every map of `gateway_common::abi::map`.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf, XskMap};
use aya::{Ebpf, Pod};
use gateway_common::abi::event::Event;
use gateway_common::abi::interface::{Interface, Interfaces, Settings};
use gateway_common::abi::names::OpenAddress;
use gateway_common::abi::nat::PublicationSource;
use gateway_common::abi::rule::Chunk;
use gateway_common::abi::sa::{SaInbound, SaOutbound, SaOutboundKey, SaPath, SaPathKey, SaShares};
use gateway_common::abi::site::Site;
use gateway_common::abi::stats::{Counter, Path};
use gateway_common::abi::trace::TraceEvent;
use gateway_common::abi::{ABI_VERSION, limit, map};
use gateway_common::drop::DropReason;
use zerocopy::{FromBytes as _, FromZeros as _};

use super::error::DataplaneError;
use super::next_hops::{Fitted, KernelMaps, NextHops};
use super::routes::Network;
use super::tables::SharedTables;

/// `BPF_F_INNER_MAP` of the kernel: generations differ in size.
const BPF_F_INNER_MAP: u32 = 1 << 12;
/// Bits of the site in an outbound key, which all count.
const SITE_BITS: u32 = 32;

/// The maps, taken out of the loaded object.
pub(crate) struct Maps {
    abi: Array<MapData, u32>,
    settings: Array<MapData, Settings>,
    interface_table: Array<MapData, Interfaces>,
    interfaces: Interfaces,
    /// Addresses that have no place in it, by the interface's index, as they were told.
    surplus: BTreeMap<u32, BTreeSet<IpAddr>>,
    sa_inbound: Array<MapData, SaInbound>,
    sa_paths: HashMap<MapData, SaPathKey, SaPath>,
    sa_routes: LpmTrie<MapData, SaOutboundKey, u32>,
    sa_outbound: Array<MapData, SaOutbound>,
    sa_shares: Array<MapData, SaShares>,
    sas: Numbered<Network, ()>,
    pub(crate) xsks: XskMap<MapData>,
    pub(crate) sites: HashMap<MapData, u32, Site>,
    rule_sets: ArrayOfMaps<MapData, Array<MapData, Chunk>>,
    open_names: HashMap<MapData, [u8; 4], OpenAddress>,
    pub(crate) publication_sources: LpmTrie<MapData, PublicationSource, u32>,
    directions: LpmTrie<MapData, [u8; 4], u32>,
    pub(crate) next_hops: NextHops<KernelMaps>,
    egress: DevMapHash<MapData>,
    drops: PerCpuArray<MapData, u64>,
    paths: PerCpuArray<MapData, Counter>,
    rule_hits: PerCpuArray<MapData, Counter>,
    pub(crate) events: RingBuf<MapData>,
    traces: RingBuf<MapData>,
    traces_lost: PerCpuArray<MapData, u64>,
    /// What [`Maps::traces_lost`] has told.
    traces_lost_told: u64,
    tables: Arc<SharedTables>,
}

impl Maps {
    /// Takes the maps out of `ebpf` and marks them with this build's ABI version.
    ///
    /// # Errors
    /// A map is missing or has another shape.
    pub(crate) fn take(ebpf: &mut Ebpf, tables: Arc<SharedTables>) -> Result<Self, DataplaneError> {
        let mut maps = Self {
            abi: take(ebpf, map::ABI)?,
            settings: take(ebpf, map::SETTINGS)?,
            interface_table: take(ebpf, map::INTERFACES)?,
            interfaces: Interfaces::new_zeroed(),
            surplus: BTreeMap::new(),
            sa_inbound: take(ebpf, map::SA_INBOUND)?,
            sa_paths: take(ebpf, map::SA_PATHS)?,
            sa_routes: take(ebpf, map::SA_ROUTES)?,
            sa_outbound: take(ebpf, map::SA_OUTBOUND)?,
            sa_shares: take(ebpf, map::SA_SHARES)?,
            sas: Numbered::new(limit::SA_NUMBERS),
            xsks: take(ebpf, map::XSKS)?,
            sites: take(ebpf, map::SITES)?,
            rule_sets: take(ebpf, map::RULE_SETS)?,
            open_names: take(ebpf, map::OPEN_NAMES)?,
            publication_sources: take(ebpf, map::PUBLICATION_SOURCES)?,
            directions: take(ebpf, map::DIRECTIONS)?,
            next_hops: NextHops::new(KernelMaps {
                routes: take(ebpf, map::ROUTES)?,
                next_hops: take(ebpf, map::NEXT_HOPS)?,
            }),
            egress: take(ebpf, map::EGRESS)?,
            drops: take(ebpf, map::DROPS)?,
            paths: take(ebpf, map::PATHS)?,
            rule_hits: take(ebpf, map::RULE_HITS)?,
            events: take(ebpf, map::EVENTS)?,
            traces: take(ebpf, map::TRACES)?,
            traces_lost: take(ebpf, map::TRACES_LOST)?,
            traces_lost_told: 0,
            tables,
        };
        let marked = maps.abi.set(0, ABI_VERSION, 0);
        marked.map_err(DataplaneError::map(map::ABI))?;
        Ok(maps)
    }

    pub(crate) fn set_settings(&mut self, settings: &Settings) -> Result<(), DataplaneError> {
        let set = self.settings.set(0, settings, 0);
        set.map_err(DataplaneError::map(map::SETTINGS))
    }

    pub(crate) fn settings(&self) -> Result<Settings, DataplaneError> {
        self.settings
            .get(&0, 0)
            .map_err(DataplaneError::map(map::SETTINGS))
    }

    /// Adds an interface, or changes it.
    pub(crate) fn set_interface(&mut self, index: u32, interface: Interface) -> Result<(), DataplaneError> {
        if !self.interfaces.put(index, interface) {
            return Err(DataplaneError::TooMany {
                what: "interfaces",
                have: self.interfaces.indexes.len() + 1,
                max: self.interfaces.indexes.len(),
            });
        }
        let set = self.interface_table.set(0, self.interfaces, 0);
        set.map_err(DataplaneError::map(map::INTERFACES))
    }

    /// The interface of that index as the packet path has it; zero before it is added.
    pub(crate) fn interface(&self, index: u32) -> Interface {
        let all = &self.interfaces;
        let mut places = all.indexes.iter().zip(all.interfaces);
        let found = places.find(|(have, _)| **have == index);
        found.map_or_else(Interface::new_zeroed, |(_, interface)| interface)
    }

    /// Notes the addresses of an interface that have no place. Whether they are others than were noted before.
    pub(crate) fn surplus_changes(&mut self, index: u32, surplus: &BTreeSet<IpAddr>) -> bool {
        let told = self.surplus.entry(index).or_default();
        let changes = told != surplus;
        told.clone_from(surplus);
        changes
    }

    /// Lets XDP redirect out of an interface.
    pub(crate) fn add_egress(&mut self, index: u32) -> Result<(), DataplaneError> {
        let inserted = self.egress.insert(index, index, None, 0);
        inserted.map_err(|error| DataplaneError::Missing(format!("{}: {error}", map::EGRESS)))
    }

    /// Makes a new rule generation the active one: it is written whole before the one pointer to it changes. When this
    /// returns, no packet sees the old one any more: the kernel waits for programs that run (`bpf_map_update_elem` of a
    /// map of maps ends in `maybe_wait_bpf_programs`).
    pub(crate) fn load_rules(&mut self, chunks: &[Chunk]) -> Result<(), DataplaneError> {
        let fault = DataplaneError::map;
        let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let mut set: Array<MapData, Chunk> =
            Array::create(count, BPF_F_INNER_MAP).map_err(fault(map::RULE_SETS))?;
        for (index, chunk) in (0..).zip(chunks) {
            set.set(index, chunk, 0).map_err(fault(map::RULE_SETS))?;
        }
        let swapped = self.rule_sets.set(0, &set, 0);
        swapped.map_err(fault(map::RULE_SETS))
    }

    /// Opens an address by name, or closes it.
    pub(crate) fn write_name(
        &mut self,
        address: [u8; 4],
        open: Option<&OpenAddress>,
    ) -> Result<(), DataplaneError> {
        let written = match open {
            Some(open) => self.open_names.insert(address, open, 0),
            None => absent_is_fine(self.open_names.remove(&address)),
        };
        written.map_err(DataplaneError::map(map::OPEN_NAMES))
    }

    /// Sends what is for a network through an SA, or through those that share its traffic.
    pub(crate) fn set_outbound(
        &mut self,
        network: Network,
        sa: SaOutbound,
        shares: Option<SaShares>,
    ) -> Result<(), DataplaneError> {
        let number = self.sas.take().ok_or(DataplaneError::TooMany {
            what: "networks of sites",
            have: self.sas.values.len() + 1,
            max: limit::SAS_MAX as usize,
        })?;
        if let Err(error) = self.write_outbound(network, number, sa, shares) {
            self.sas.give_up(number);
            return Err(error);
        }
        self.sas.assign(network, number, ());
        self.tables.sas_changed();
        Ok(())
    }

    fn write_outbound(
        &mut self,
        network: Network,
        number: u32,
        sa: SaOutbound,
        shares: Option<SaShares>,
    ) -> Result<(), DataplaneError> {
        let fault = DataplaneError::map;
        let mut value = sa;
        if let Some(shares) = shares {
            let set = self.sa_shares.set(number, shares, 0);
            set.map_err(fault(map::SA_SHARES))?;
            value.shares = number + 1;
        }
        let set = self.sa_outbound.set(number, value, 0);
        set.map_err(fault(map::SA_OUTBOUND))?;
        let inserted = self.sa_routes.insert(&outbound_key(network), number, 0);
        inserted.map_err(fault(map::SA_ROUTES))
    }

    /// Has `wan` pass an inbound SA, or pass it otherwise than before.
    pub(crate) fn set_inbound(&mut self, sa: SaInbound) -> Result<(), DataplaneError> {
        let set = self.sa_inbound.set(SaInbound::place(sa.spi), sa, 0);
        set.map_err(DataplaneError::map(map::SA_INBOUND))
    }

    /// Has `wan` pass it no more, if it does.
    pub(crate) fn clear_inbound(&mut self, spi: u32) -> Result<(), DataplaneError> {
        let (spi, fault) = (spi.to_be_bytes(), DataplaneError::map);
        let place = SaInbound::place(spi);
        let present = self.sa_inbound.get(&place, 0);
        if present.map_err(fault(map::SA_INBOUND))?.spi != spi {
            return Ok(());
        }
        let set = self.sa_inbound.set(place, SaInbound::new_zeroed(), 0);
        set.map_err(fault(map::SA_INBOUND))
    }

    /// Removes the way to a network.
    pub(crate) fn remove_outbound(&mut self, network: Network) -> Result<(), DataplaneError> {
        let removed = absent_is_fine(self.sa_routes.remove(&outbound_key(network)));
        removed.map_err(DataplaneError::map(map::SA_ROUTES))?;
        self.sas.forget(&network);
        self.tables.sas_changed();
        Ok(())
    }

    /// Has ICMP errors about an SA's packets heeded.
    pub(crate) fn set_path(&mut self, key: &SaPathKey, path: &SaPath) -> Result<(), DataplaneError> {
        let inserted = self.sa_paths.insert(key, path, 0);
        inserted.map_err(DataplaneError::map(map::SA_PATHS))
    }

    /// Heeds them no more, if they are about this SA still.
    pub(crate) fn remove_path(&mut self, key: &SaPathKey, sa_index: u32) -> Result<(), DataplaneError> {
        let fault = DataplaneError::map;
        match self.sa_paths.get(key, 0) {
            Ok(path) if path.sa_index == sa_index => {
                absent_is_fine(self.sa_paths.remove(key)).map_err(fault(map::SA_PATHS))
            }
            Ok(_) => Ok(()),
            Err(error) => absent_is_fine(Err(error)).map_err(fault(map::SA_PATHS)),
        }
    }

    /// Makes the next hops these, as far as the kernel does, and tells flows.
    pub(crate) fn set_next_hops(&mut self, fitted: &Fitted) -> Result<(), DataplaneError> {
        let (changed, result) = self.next_hops.set(fitted);
        if changed {
            self.tables.hops_changed();
        }
        result
    }

    /// Makes these the directions of destinations, in place of those before.
    pub(crate) fn set_directions(&mut self, wanted: &[([u8; 4], u8, u8)]) -> Result<(), DataplaneError> {
        let fault = DataplaneError::map;
        let key = |address: [u8; 4], length: u8| Key::new(u32::from(length.min(32)), address);
        let kept: HashSet<_> = wanted
            .iter()
            .map(|(address, length, _)| (*address, u32::from(*length)))
            .collect();
        for (address, length, direction) in wanted {
            let inserted = self
                .directions
                .insert(&key(*address, *length), u32::from(*direction), 0);
            inserted.map_err(fault(map::DIRECTIONS))?;
        }
        for old in self.directions.keys().flatten().collect::<Vec<_>>() {
            if !kept.contains(&(old.data(), old.prefix_len())) {
                absent_is_fine(self.directions.remove(&old)).map_err(fault(map::DIRECTIONS))?;
            }
        }
        Ok(())
    }

    /// Drops that the XDP programs counted.
    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.drops
            .get(&(reason as u32), 0)
            .map_or(0, |values| values.iter().sum())
    }

    /// What the programs let through, by path.
    pub(crate) fn paths(&self) -> Vec<(&'static str, Counter)> {
        Path::ALL
            .into_iter()
            .map(|(path, name)| (name, sum(&self.paths, path as u32)))
            .collect()
    }

    /// Counters from `base` on.
    pub(crate) fn rule_hits(&self, base: u32, rules: u32) -> Vec<Counter> {
        (base..base.saturating_add(rules.min(limit::RULES_MAX)))
            .map(|rule| sum(&self.rule_hits, rule))
            .collect()
    }

    /// Begins counting anew from `base` on. No packet counts there as long as no generation names these counters.
    pub(crate) fn reset_rule_hits(&mut self, base: u32, rules: u32) -> Result<(), DataplaneError> {
        let fault = DataplaneError::map;
        let cpus = aya::util::nr_cpus()
            .map_err(|(path, error)| DataplaneError::Missing(format!("{path}: {error}")))?;
        for rule in base..base.saturating_add(rules.min(limit::RULES_MAX)) {
            let zeroes = PerCpuValues::try_from(vec![Counter::default(); cpus])
                .map_err(|error| DataplaneError::Missing(format!("{}: {error}", map::RULE_HITS)))?;
            let set = self.rule_hits.set(rule, zeroes, 0);
            set.map_err(fault(map::RULE_HITS))?;
        }
        Ok(())
    }

    /// Takes at most `max` traced packets out of their ring.
    pub(crate) fn take_traces(&mut self, max: usize) -> Vec<TraceEvent> {
        let mut events = Vec::new();
        while events.len() < max
            && let Some(item) = self.traces.next()
        {
            events.extend(TraceEvent::read_from_bytes(&item));
        }
        events
    }

    /// Traced packets that the programs could not tell of since the last call.
    pub(crate) fn traces_lost(&mut self) -> u64 {
        let lost: u64 = self
            .traces_lost
            .get(&0, 0)
            .map_or(self.traces_lost_told, |lost| lost.iter().sum());
        let told = std::mem::replace(&mut self.traces_lost_told, lost);
        lost.saturating_sub(told)
    }

    /// The events since the last call, `max` at most.
    pub(crate) fn take_events(&mut self, max: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < max
            && let Some(item) = self.events.next()
        {
            events.extend(Event::read_from_bytes(&item));
        }
        events
    }
}

/// Everything in a hash map; entries that vanish meanwhile are left out. The kernel begins anew when the key that it
/// is to go on from has vanished, hence the bound.
pub(crate) fn entries<M: Borrow<MapData>, K: Pod, V: Pod>(map: &HashMap<M, K, V>) -> Vec<(K, V)> {
    map.iter()
        .take(limit::SITES_MAX as usize)
        .filter_map(Result::ok)
        .collect()
}

/// Removing what is gone is done.
pub(crate) fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => {
            Ok(())
        }
        other => other,
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, DataplaneError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| DataplaneError::Missing(format!("map {name}")))?;
    T::try_from(map).map_err(DataplaneError::map(name))
}

fn outbound_key((site, (destination, length)): Network) -> Key<SaOutboundKey> {
    let data = SaOutboundKey {
        site: site.to_be_bytes(),
        destination,
    };
    Key::new(SITE_BITS + u32::from(length.min(32)), data)
}

fn sum(map: &PerCpuArray<MapData, Counter>, index: u32) -> Counter {
    let Ok(values) = map.get(&index, 0) else {
        return Counter::default();
    };
    values.iter().fold(Counter::default(), |total, counter| Counter {
        packets: total.packets + counter.packets,
        bytes: total.bytes + counter.bytes,
    })
}

/// Numbers of values that flows remember. A value that changes takes another number, and a number that was given up is
/// taken again as late as may be: a program that has just read it finds what it was.
pub(crate) struct Numbered<K, V> {
    values: BTreeMap<K, (u32, V)>,
    next: u32,
    max: u32,
    given_up: VecDeque<u32>,
}

impl<K: Ord, V: Copy> Numbered<K, V> {
    pub(crate) fn new(max: u32) -> Self {
        Self {
            values: BTreeMap::new(),
            next: 0,
            max,
            given_up: VecDeque::new(),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(_, value)| value)
    }

    /// Number and value, which is to become what the maps have.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<(u32, &mut V)> {
        self.values.get_mut(key).map(|(number, value)| (*number, value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.values.keys()
    }

    /// A number for a new value, which is to be [assigned](Self::assign) once the maps have it, or given up.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if self.next < self.max {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.given_up.pop_front()
    }

    pub(crate) fn give_up(&mut self, number: u32) {
        self.given_up.push_back(number);
    }

    /// From now on this is the key's value.
    pub(crate) fn assign(&mut self, key: K, number: u32, value: V) {
        if let Some((old, _)) = self.values.insert(key, (number, value)) {
            self.give_up(old);
        }
    }

    pub(crate) fn forget(&mut self, key: &K) {
        if let Some((number, _)) = self.values.remove(key) {
            self.give_up(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use aya::EbpfLoader;
    use gateway_common::abi::next_hop::NextHop;

    use super::super::object::EBPF;
    use super::super::tables::{TableSizes, prepare};
    use super::*;

    fn number(numbered: &mut Numbered<char, u32>, key: char, value: u32) -> Option<u32> {
        let number = numbered.take()?;
        numbered.assign(key, number, value);
        Some(number)
    }

    #[test]
    fn a_changed_value_takes_another_number_and_old_ones_come_back_late() {
        let mut numbered = Numbered::new(3);
        assert_eq!(number(&mut numbered, 'a', 1), Some(0));
        assert_eq!(number(&mut numbered, 'b', 1), Some(1));
        assert_eq!(number(&mut numbered, 'a', 2), Some(2));
        numbered.forget(&'b');
        assert_eq!(number(&mut numbered, 'c', 1), Some(0));
        assert_eq!(number(&mut numbered, 'd', 1), Some(1));
        assert_eq!(numbered.get(&'a'), Some(&2));
    }

    /// Beyond its end there are no numbers: none was handed out again after room had come back, for which each SA failed that took it.
    #[test]
    fn when_all_numbers_were_taken_those_that_come_back_are_good() {
        let mut numbered = Numbered::new(2);
        assert!(number(&mut numbered, 'a', 1).is_some() && number(&mut numbered, 'b', 1).is_some());
        assert_eq!(number(&mut numbered, 'c', 1), None);
        assert_eq!(number(&mut numbered, 'a', 2), None, "what stands stays");
        assert_eq!(numbered.get(&'a'), Some(&1));
        numbered.forget(&'a');
        numbered.forget(&'b');
        numbered.forget(&'c');
        let mut again = [numbered.take(), numbered.take()];
        again.sort_unstable();
        assert_eq!((again, numbered.take()), ([Some(0), Some(1)], None));
    }

    type Hop = ([u8; 4], u8, NextHop);

    const FULL: u32 = limit::NEXT_HOPS_MAX;

    /// The maps of the object, in the kernel. Needs root.
    fn maps() -> Maps {
        let geometry = TableSizes::default().geometry().expect("random octets");
        let mut loader = EbpfLoader::new();
        prepare(&mut loader, &geometry);
        let mut ebpf = loader.load(EBPF).expect("maps, for which it takes root");
        let tables = SharedTables::new(&ebpf, &geometry).expect("tables");
        Maps::take(&mut ebpf, Arc::new(tables)).expect("maps")
    }

    fn set(maps: &mut Maps, hops: &[Hop]) -> Result<(), DataplaneError> {
        let fitted = Fitted::new(hops, &[]);
        let set = maps.set_next_hops(&fitted);
        set.and(fitted.refused())
    }

    fn by(mac: u32) -> NextHop {
        let [_, high, middle, low] = mac.to_be_bytes();
        NextHop {
            ifindex: 3,
            resolved: 1,
            destination_mac: [2, 0, 0, high, middle, low],
            source_mac: [9; 6],
            mtu: 1500,
        }
    }

    /// Networks from 10.0.0.0/24 on, each by a router of its own.
    fn networks(count: u32) -> Vec<Hop> {
        let network = |number: u32| ((0x0a00_0000 + (number << 8)).to_be_bytes(), 24, by(number));
        (0..count).map(network).collect()
    }

    /// What the programs find, in the order of prefixes.
    fn found(maps: &Maps) -> Vec<Hop> {
        let KernelMaps {
            routes,
            next_hops: hops,
        } = &maps.next_hops.maps;
        let entry = |key: Key<[u8; 4]>| {
            let number = routes.get(&key, 0).expect("an entry");
            let hop = hops.get(&number, 0).expect("a next hop");
            (key.data(), key.prefix_len() as u8, hop)
        };
        let mut found: Vec<Hop> = routes.keys().flatten().map(entry).collect();
        found.sort_by_key(|(address, length, _)| (*address, *length));
        found
    }

    /// Regression: a hop that changed took a new number before its own was free, and when all were taken none changed any more.
    #[test]
    fn in_a_full_table_next_hops_change() {
        let mut maps = maps();
        let mut full = networks(FULL);
        set(&mut maps, &full).expect("they fit");
        assert_eq!(found(&maps), full);
        full[7].2 = by(99_999);
        set(&mut maps, &full).expect("they fit");
        assert_eq!(found(&maps), full);
        for (_, _, hop) in &mut full {
            hop.source_mac = [8; 6];
        }
        set(&mut maps, &full).expect("they fit, also when all change");
        assert_eq!(found(&maps), full);
    }

    /// Regression: new next hops found no room beside the old ones, of which none was then removed.
    #[test]
    fn a_full_table_makes_room_for_another() {
        let mut maps = maps();
        set(&mut maps, &networks(FULL)).expect("they fit");
        let others = |count: u32| -> Vec<Hop> {
            let other = |number: u32| ((0xac10_0000 + number).to_be_bytes(), 32, by(number));
            (0..count).map(other).collect()
        };
        set(&mut maps, &others(10)).expect("they fit");
        assert_eq!(found(&maps), others(10));
        set(&mut maps, &networks(FULL)).expect("they fit");
        set(&mut maps, &others(FULL)).expect("they fit");
        assert_eq!(found(&maps), others(FULL));
    }

    /// Regression: with one next hop too many, flows were not told of those that had changed, and others did not change at all.
    #[test]
    fn one_next_hop_too_many_keeps_no_other_from_changing() {
        let mut maps = maps();
        let mut hops = networks(FULL);
        set(&mut maps, &hops).expect("they fit");
        let before = maps.tables.epochs().hop;
        let (first, last) = (2, FULL as usize - 1);
        hops[first].2 = by(88_888);
        hops[last].2 = by(99_999);
        hops.insert(0, ([0; 4], 0, by(77_777)));
        set(&mut maps, &hops).expect_err("one too many");
        assert!(maps.tables.epochs().hop > before);
        let now = found(&maps);
        let is_there = |hop: &&Hop| {
            let at = now.binary_search_by_key(&(hop.0, hop.1), |(address, length, _)| (*address, *length));
            at.is_ok_and(|at| now[at] == **hop)
        };
        assert!([0, first + 1, last + 1].iter().all(|at| is_there(&&hops[*at])));
        // Two beside each other give way to one that leads nowhere.
        assert_eq!(now.len(), FULL as usize);
        assert_eq!(hops.iter().filter(is_there).count(), FULL as usize - 1);
        let epoch = maps.tables.epochs().hop;
        set(&mut maps, &hops).expect_err("still");
        assert_eq!(maps.tables.epochs().hop, epoch, "nothing new");
    }
}
