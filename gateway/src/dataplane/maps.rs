//! Typed access to every map of `gateway_common::abi::map`.

use std::borrow::Borrow;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf, XskMap};
use aya::{Ebpf, Pod};
use gateway_common::abi::event::Event;
use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::abi::interface::{Interface, Settings};
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::rule::Chunk;
use gateway_common::abi::sa::{SaInbound, SaOutbound, SaOutboundKey};
use gateway_common::abi::site::Site;
use gateway_common::abi::stats::{Counter, Path};
use gateway_common::abi::{ABI_VERSION, limit, map};
use gateway_common::drop::DropReason;
use zerocopy::FromBytes as _;

use super::error::DataplaneError;

/// `BPF_F_INNER_MAP` of the kernel: generations differ in size.
const BPF_F_INNER_MAP: u32 = 1 << 12;
/// Bits of the site in an outbound key, which all count.
const SITE_BITS: u32 = 32;

/// The maps, taken out of the loaded object.
pub(crate) struct Maps {
    abi: Array<MapData, u32>,
    settings: Array<MapData, Settings>,
    pub(crate) interfaces: HashMap<MapData, u32, Interface>,
    pub(crate) sa_inbound: HashMap<MapData, [u8; 4], SaInbound>,
    sa_outbound: LpmTrie<MapData, SaOutboundKey, SaOutbound>,
    pub(crate) xsks: XskMap<MapData>,
    pub(crate) sites: HashMap<MapData, u32, Site>,
    pub(crate) flows: HashMap<MapData, FlowKey, Flow>,
    pub(crate) mappings: HashMap<MapData, InsideKey, Mapping>,
    pub(crate) reverse: HashMap<MapData, OutsideKey, InsideKey>,
    rule_sets: ArrayOfMaps<MapData, Array<MapData, Chunk>>,
    next_hops: LpmTrie<MapData, [u8; 4], NextHop>,
    egress: DevMapHash<MapData>,
    drops: PerCpuArray<MapData, u64>,
    paths: PerCpuArray<MapData, Counter>,
    rule_hits: PerCpuArray<MapData, Counter>,
    pub(crate) events: RingBuf<MapData>,
}

impl Maps {
    /// Takes the maps out of `ebpf` and marks them with this build's ABI version.
    ///
    /// # Errors
    /// A map is missing or has another shape.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        let mut maps = Self {
            abi: take(ebpf, map::ABI)?,
            settings: take(ebpf, map::SETTINGS)?,
            interfaces: take(ebpf, map::INTERFACES)?,
            sa_inbound: take(ebpf, map::SA_INBOUND)?,
            sa_outbound: take(ebpf, map::SA_OUTBOUND)?,
            xsks: take(ebpf, map::XSKS)?,
            sites: take(ebpf, map::SITES)?,
            flows: take(ebpf, map::FLOWS)?,
            mappings: take(ebpf, map::MAPPINGS)?,
            reverse: take(ebpf, map::MAPPINGS_REVERSE)?,
            rule_sets: take(ebpf, map::RULE_SETS)?,
            next_hops: take(ebpf, map::NEXT_HOPS)?,
            egress: take(ebpf, map::EGRESS)?,
            drops: take(ebpf, map::DROPS)?,
            paths: take(ebpf, map::PATHS)?,
            rule_hits: take(ebpf, map::RULE_HITS)?,
            events: take(ebpf, map::EVENTS)?,
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

    /// Sends what is for `destination` at `site` through an SA.
    pub(crate) fn set_outbound(
        &mut self,
        site: u32,
        prefix: ([u8; 4], u8),
        sa: SaOutbound,
    ) -> Result<(), DataplaneError> {
        let inserted = self.sa_outbound.insert(&outbound_key(site, prefix), sa, 0);
        inserted.map_err(DataplaneError::map(map::SA_OUTBOUND))
    }

    /// Removes a way out, if it still leads through this SA: its successor may have taken it.
    pub(crate) fn remove_outbound(
        &mut self,
        site: u32,
        prefix: ([u8; 4], u8),
        sa_index: u32,
    ) -> Result<(), DataplaneError> {
        let key = outbound_key(site, prefix);
        // When this very key is gone, the look-up answers with a shorter one; removing the key then finds nothing.
        match self.sa_outbound.get(&key, 0) {
            Ok(found) if found.sa_index == sa_index => {
                absent_is_fine(self.sa_outbound.remove(&key)).map_err(DataplaneError::map(map::SA_OUTBOUND))
            }
            Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(DataplaneError::map(map::SA_OUTBOUND)(error)),
        }
    }

    /// Makes the next hops exactly these. New ones come before old ones go.
    pub(crate) fn set_next_hops(&mut self, hops: &[([u8; 4], u8, NextHop)]) -> Result<(), DataplaneError> {
        let fault = DataplaneError::map;
        let key = |address: [u8; 4], length: u8| Key::new(u32::from(length.min(32)), address);
        for (address, length, hop) in hops {
            let inserted = self.next_hops.insert(&key(*address, *length), hop, 0);
            inserted.map_err(fault(map::NEXT_HOPS))?;
        }
        let wanted = |found: &Key<[u8; 4]>| {
            hops.iter().any(|(address, length, _)| {
                found.prefix_len() == u32::from(*length) && found.data() == *address
            })
        };
        let old: Vec<_> = self.next_hops.keys().filter_map(Result::ok).collect();
        for key in old.into_iter().filter(|key| !wanted(key)) {
            absent_is_fine(self.next_hops.remove(&key)).map_err(fault(map::NEXT_HOPS))?;
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
    let most = limit::FLOWS_MAX.max(limit::MAPPINGS_MAX) as usize;
    map.iter().take(most).filter_map(Result::ok).collect()
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

fn outbound_key(site: u32, (destination, length): ([u8; 4], u8)) -> Key<SaOutboundKey> {
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
