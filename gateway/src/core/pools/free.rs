//! What of numbers, addresses and ports is not free, so that nothing need be searched for among thousands of sites.
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use gateway_common::abi::limit::SITES_MAX;

use super::Assignment;
use crate::config::{AddressRange, BlockPlan, NatPool, PortBlock};

#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    /// By address: who holds which ports of it.
    ports: HashMap<Ipv4Addr, Vec<(PortBlock, String)>>,
    sites: HashSet<u32>,
    /// No number below is free.
    sites_from: u32,
    /// By the pool's name: its addresses, of which the first so many are not free as a whole.
    pools_from: HashMap<String, (Vec<AddressRange>, u64)>,
    /// By the pool's name.
    loads: HashMap<String, Load>,
}

/// How many blocks of each address of a pool are taken.
#[derive(Clone, Debug)]
struct Load {
    pool: NatPool,
    /// Blocks that are taken, place of the address.
    by_use: BTreeSet<(usize, u64)>,
}

impl Taken {
    pub(super) fn add(&mut self, name: &str, assignment: &Assignment) {
        self.sites.insert(assignment.site);
        for block in &assignment.blocks {
            self.change(block.address, |held| held.push((*block, name.to_owned())));
        }
    }

    pub(super) fn remove(&mut self, name: &str, assignment: &Assignment) {
        self.sites.remove(&assignment.site);
        self.sites_from = self.sites_from.min(assignment.site);
        for block in &assignment.blocks {
            self.change(block.address, |held| {
                held.retain(|(other, holder)| other != block || holder != name);
            });
            self.pools_from
                .retain(|_, (ranges, _)| !ranges.iter().any(|range| range.contains(block.address)));
        }
    }

    fn change(&mut self, address: Ipv4Addr, change: impl FnOnce(&mut Vec<(PortBlock, String)>)) {
        let held = self.ports.entry(address).or_default();
        let before = held.len();
        change(held);
        let after = held.len();
        if after == 0 {
            self.ports.remove(&address);
        }
        for load in self.loads.values_mut() {
            if let Some(place) = load.pool.place_of(address) {
                load.by_use.remove(&(before, place));
                load.by_use.insert((after, place));
            }
        }
    }

    /// Who holds a port of the block.
    pub(super) fn holder(&self, block: &PortBlock) -> Option<String> {
        let held = self.ports.get(&block.address)?;
        let found = held.iter().find(|(other, _)| other.overlaps(block));
        found.map(|(_, name)| name.clone())
    }

    pub(super) fn is_free(&self, block: &PortBlock) -> bool {
        let held = self.ports.get(&block.address);
        !held.is_some_and(|held| held.iter().any(|(other, _)| other.overlaps(block)))
    }

    pub(super) fn free_site(&mut self) -> Option<u32> {
        let from = self.sites_from.max(1);
        let found = (from..SITES_MAX).find(|site| !self.sites.contains(site));
        self.sites_from = found.unwrap_or(SITES_MAX);
        found
    }

    pub(super) fn free_address(&mut self, pool: &NatPool, fixed: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let from = self
            .pools_from
            .get(&pool.name)
            .filter(|(ranges, _)| *ranges == pool.addresses)
            .map_or(0, |(_, from)| *from);
        let found = pool
            .addresses_from(from)
            .zip(from..)
            .find(|(address, _)| !self.ports.contains_key(address) && !fixed.contains(address));
        let next = found.map_or_else(|| pool.size(), |(_, place)| place);
        let ranges = pool.addresses.clone();
        self.pools_from.insert(pool.name.clone(), (ranges, next));
        found.map(|(address, _)| address)
    }

    /// A free block: of the addresses of `held` in their order, if one has room; else of the address with the fewest taken
    /// ones, which leaves most sites room to grow where they are.
    pub(super) fn free_block(
        &mut self,
        pool: &NatPool,
        plan: &BlockPlan,
        held: &[PortBlock],
    ) -> Option<PortBlock> {
        self.load(pool);
        let of_address = |address| {
            (0..plan.per_address)
                .filter_map(|number| plan.block(address, number))
                .find(|block| self.is_free(block))
        };
        let usable = held.iter().filter(|block| pool.contains(block.address));
        if let Some(block) = usable.map(|block| block.address).find_map(of_address) {
            return Some(block);
        }
        let by_use = self.loads.get(&pool.name)?.by_use.iter();
        by_use
            .take_while(|(used, _)| *used < plan.per_address as usize)
            .find_map(|(_, place)| of_address(pool.address_at(*place)?))
    }

    /// Counts what is taken of the pool's addresses, if that is not done yet.
    fn load(&mut self, pool: &NatPool) {
        if self.loads.get(&pool.name).is_some_and(|load| load.pool == *pool) {
            return;
        }
        let used = |address| self.ports.get(&address).map_or(0, Vec::len);
        let by_use = pool
            .addresses_from(0)
            .zip(0..)
            .map(|(address, place)| (used(address), place))
            .collect();
        let load = Load {
            pool: pool.clone(),
            by_use,
        };
        self.loads.insert(pool.name.clone(), load);
    }
}
