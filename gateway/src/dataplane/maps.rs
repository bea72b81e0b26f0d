//! Typed access to every map of `gateway_common::abi::map`.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet, VecDeque};
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
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::rule::Chunk;
use gateway_common::abi::sa::{SaInbound, SaOutbound, SaOutboundKey, SaPath, SaPathKey, SaShares};
use gateway_common::abi::site::Site;
use gateway_common::abi::stats::{Counter, Path};
use gateway_common::abi::trace::TraceEvent;
use gateway_common::abi::{ABI_VERSION, limit, map};
use gateway_common::drop::DropReason;
use zerocopy::{FromBytes as _, FromZeros as _};

use super::error::DataplaneError;
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
    routes: LpmTrie<MapData, [u8; 4], u32>,
    directions: LpmTrie<MapData, [u8; 4], u32>,
    next_hops: Array<MapData, NextHop>,
    hops: Numbered<([u8; 4], u8), NextHop>,
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
            routes: take(ebpf, map::ROUTES)?,
            directions: take(ebpf, map::DIRECTIONS)?,
            next_hops: take(ebpf, map::NEXT_HOPS)?,
            hops: Numbered::new(limit::NEXT_HOPS_MAX),
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

    /// Makes the next hops exactly these. New ones come before old ones go.
    pub(crate) fn set_next_hops(&mut self, hops: &[([u8; 4], u8, NextHop)]) -> Result<(), DataplaneError> {
        let fault = DataplaneError::map;
        let key = |(address, length): ([u8; 4], u8)| Key::new(u32::from(length.min(32)), address);
        let mut changed = false;
        for (address, length, hop) in hops {
            let prefix = (*address, *length);
            if self.hops.get(&prefix) == Some(hop) {
                continue;
            }
            let number = self.hops.take().ok_or(DataplaneError::TooMany {
                what: "next hops",
                have: self.hops.values.len() + 1,
                max: limit::NEXT_HOPS_MAX as usize,
            })?;
            let set = self.next_hops.set(number, hop, 0);
            let set = set.map_err(fault(map::NEXT_HOPS)).and_then(|()| {
                let inserted = self.routes.insert(&key(prefix), number, 0);
                inserted.map_err(fault(map::ROUTES))
            });
            if let Err(error) = set {
                self.hops.give_up(number);
                return Err(error);
            }
            self.hops.assign(prefix, number, *hop);
            changed = true;
        }
        let wanted: HashSet<_> = hops
            .iter()
            .map(|(address, length, _)| (*address, *length))
            .collect();
        let old = self.hops.keys().filter(|prefix| !wanted.contains(*prefix));
        for prefix in old.copied().collect::<Vec<_>>() {
            absent_is_fine(self.routes.remove(&key(prefix))).map_err(fault(map::ROUTES))?;
            self.hops.forget(&prefix);
            changed = true;
        }
        if changed {
            self.tables.hops_changed();
        }
        Ok(())
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
struct Numbered<K, V> {
    values: BTreeMap<K, (u32, V)>,
    next: u32,
    max: u32,
    given_up: VecDeque<u32>,
}

impl<K: Ord, V: Copy> Numbered<K, V> {
    fn new(max: u32) -> Self {
        Self {
            values: BTreeMap::new(),
            next: 0,
            max,
            given_up: VecDeque::new(),
        }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(_, value)| value)
    }

    fn keys(&self) -> impl Iterator<Item = &K> {
        self.values.keys()
    }

    /// A number for a new value, which is to be [assigned](Self::assign) once the maps have it, or given up.
    fn take(&mut self) -> Option<u32> {
        if self.next < self.max {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.given_up.pop_front()
    }

    fn give_up(&mut self, number: u32) {
        self.given_up.push_back(number);
    }

    /// From now on this is the key's value.
    fn assign(&mut self, key: K, number: u32, value: V) {
        if let Some((old, _)) = self.values.insert(key, (number, value)) {
            self.give_up(old);
        }
    }

    fn forget(&mut self, key: &K) {
        if let Some((number, _)) = self.values.remove(key) {
            self.give_up(number);
        }
    }
}

#[cfg(test)]
mod tests {
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
}
