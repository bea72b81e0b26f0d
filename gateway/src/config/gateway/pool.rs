//! `[[nat_pool]]`: addresses that sites get one each, or that they share by port blocks.
use std::fmt;
use std::net::Ipv4Addr;

use gateway_common::abi::limit::SITES_MAX;
use gateway_common::abi::site::{self, BLOCKS_MAX};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::super::address::AddressRange;
use super::super::diagnostic::Checker;
use super::{Nat, file};

/// Lowest port of a port block: the well-known ones (RFC 6335 section 6) are nobody's.
pub const BLOCK_PORT_LOW: u16 = 1024;
/// Smallest and largest port block.
const BLOCK_SIZES: (u32, u32) = (64, 32_768);
/// Size of a port block that nobody says.
const BLOCK_SIZE_DEFAULT: u32 = 2_048;
/// Blocks of a site that nobody says.
const BLOCKS_MAX_DEFAULT: usize = 4;
/// Addresses of a pool of blocks at most: more have no site to serve.
const BLOCK_ADDRESSES_MAX: u64 = SITES_MAX as u64;

/// A run of ports of an address that belongs to one site; all of them are the address as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortBlock {
    /// The address.
    pub address: Ipv4Addr,
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
}

impl PortBlock {
    /// An address as a whole.
    #[must_use]
    pub const fn whole(address: Ipv4Addr) -> Self {
        Self {
            address,
            first_port: 0,
            last_port: u16::MAX,
        }
    }

    /// Whether it is an address as a whole.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.first_port == 0 && self.last_port == u16::MAX
    }

    /// Whether a port of an address is in it.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr, port: u16) -> bool {
        self.address == address && (self.first_port..=self.last_port).contains(&port)
    }

    /// Whether some port is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.address == other.address
            && self.first_port <= other.last_port
            && other.first_port <= self.last_port
    }

    /// As the packet path reads it.
    #[must_use]
    pub const fn for_data_plane(&self) -> site::Block {
        site::Block {
            address: self.address.octets(),
            first: self.first_port,
            last: self.last_port,
        }
    }
}

/// `10.200.0.1`, or `10.200.0.1:2048-4095`.
impl fmt::Display for PortBlock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() {
            return self.address.fmt(formatter);
        }
        write!(
            formatter,
            "{}:{}-{}",
            self.address, self.first_port, self.last_port
        )
    }
}

/// A pool of addresses that sites are translated to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatPool {
    /// Name.
    pub name: String,
    /// Its addresses; ranges do not overlap.
    pub addresses: Vec<AddressRange>,
    /// What a site gets of it.
    pub mode: PoolMode,
}

/// What a site gets of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// An address of its own.
    Address,
    /// Port blocks of addresses that sites share.
    Block(BlockPlan),
}

/// How the ports of each address of a pool are divided. Block `n` of an address, from 0, has the ports
/// `(first_number + n) * size` and `size - 1` more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlan {
    /// Who gets which block.
    pub kind: PlanKind,
    /// Ports of a block; a power of two.
    pub size: u32,
    /// Blocks below are not used.
    pub first_number: u32,
    /// Blocks of an address.
    pub per_address: u32,
    /// Blocks of one site at most.
    pub blocks_max: usize,
}

/// Who gets which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanKind {
    /// What its number says (RFC 7422), and no other one.
    Deterministic,
    /// A free one, and another one when its ports run short.
    Dynamic,
}

impl BlockPlan {
    /// The plan of blocks of `size` ports within `nat`'s range.
    #[must_use]
    pub fn new(kind: PlanKind, size: u32, blocks_max: usize, nat: &Nat) -> Self {
        let low = u32::from(nat.port_low.max(BLOCK_PORT_LOW));
        let size = size.max(1);
        let first_number = low.div_ceil(size);
        Self {
            kind,
            size,
            first_number,
            per_address: ((u32::from(nat.port_high) + 1) / size).saturating_sub(first_number),
            blocks_max,
        }
    }

    /// Block `number` of an address; `None` if it has not so many.
    #[must_use]
    pub fn block(&self, address: Ipv4Addr, number: u32) -> Option<PortBlock> {
        if number >= self.per_address {
            return None;
        }
        let first = self.first_number.checked_add(number)?.checked_mul(self.size)?;
        Some(PortBlock {
            address,
            first_port: u16::try_from(first).ok()?,
            last_port: u16::try_from(first.checked_add(self.size - 1)?).ok()?,
        })
    }

    /// Which block of its address this is; `None` if it is none of the plan.
    #[must_use]
    pub fn number(&self, block: &PortBlock) -> Option<u32> {
        let number = (u32::from(block.first_port) / self.size).checked_sub(self.first_number)?;
        (self.block(block.address, number)? == *block).then_some(number)
    }
}

impl NatPool {
    /// Whether the pool holds `address`.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|range| range.contains(address))
    }

    /// Its addresses in order, without the first `skip`.
    pub fn addresses_from(&self, skip: u64) -> impl Iterator<Item = Ipv4Addr> {
        let mut skip = skip;
        self.addresses.iter().flat_map(move |range| {
            let skipped = skip.min(range.size());
            skip -= skipped;
            range.iter_from(skipped)
        })
    }

    /// Number of addresses.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.addresses.iter().map(|range| range.size()).sum()
    }

    /// The address at a place, from 0, in the order of the file.
    #[must_use]
    pub fn address_at(&self, place: u64) -> Option<Ipv4Addr> {
        let mut left = place;
        for range in &self.addresses {
            if left < range.size() {
                let first = u64::from(u32::from(range.first));
                return u32::try_from(first + left).ok().map(Ipv4Addr::from);
            }
            left -= range.size();
        }
        None
    }

    /// The place of an address.
    #[must_use]
    pub fn place_of(&self, address: Ipv4Addr) -> Option<u64> {
        let mut before = 0;
        for range in &self.addresses {
            if range.contains(address) {
                return Some(before + u64::from(u32::from(address)) - u64::from(u32::from(range.first)));
            }
            before += range.size();
        }
        None
    }

    /// How many sites it can serve.
    #[must_use]
    pub fn room(&self) -> u64 {
        match self.mode {
            PoolMode::Address => self.size(),
            PoolMode::Block(plan) => self.size().saturating_mul(plan.per_address.into()),
        }
    }

    /// The block that the deterministic plan says for a site number, from 1: sites fill the blocks of an address one after
    /// another, and then the next address, so that addresses that are added at the end move nobody.
    #[must_use]
    pub fn planned(&self, plan: &BlockPlan, site: u32) -> Option<PortBlock> {
        let place = site.checked_sub(1)?;
        let address = self.address_at(place.checked_div(plan.per_address)?.into())?;
        plan.block(address, place % plan.per_address)
    }

    /// The site number that the deterministic plan says for a port of an address.
    #[must_use]
    pub fn planned_site(&self, plan: &BlockPlan, address: Ipv4Addr, port: u16) -> Option<u32> {
        let number = (u32::from(port) / plan.size).checked_sub(plan.first_number)?;
        if number >= plan.per_address {
            return None;
        }
        let before = self.place_of(address)?.checked_mul(plan.per_address.into())?;
        u32::try_from(before + u64::from(number) + 1).ok()
    }
}

/// Checks what a pool says of blocks.
pub(super) fn mode(checker: &mut Checker<'_>, pool: &file::Pool, nat: &Nat) -> PoolMode {
    match pool.mode {
        file::PoolMode::Address => {
            let keys = [
                pool.block_size.as_ref().map(|key| ("block_size", key.span())),
                pool.blocks_max.as_ref().map(|key| ("blocks_max", key.span())),
                pool.plan.as_ref().map(|key| ("plan", key.span())),
            ];
            for (key, span) in keys.into_iter().flatten() {
                let message = format!("{key} in a pool of which each site gets an address");
                checker.fault(span, message, "add mode = \"block\", or leave it out");
            }
            PoolMode::Address
        }
        file::PoolMode::Block => PoolMode::Block(plan(checker, pool, nat)),
    }
}

fn plan(checker: &mut Checker<'_>, pool: &file::Pool, nat: &Nat) -> BlockPlan {
    let name = pool.name.get_ref();
    let kind = pool
        .plan
        .as_ref()
        .map_or(PlanKind::Dynamic, |kind| *kind.get_ref());
    let size = block_size(checker, pool);
    let blocks_max = blocks_max(checker, pool, kind);
    let plan = BlockPlan::new(kind, size, blocks_max, nat);
    if plan.per_address == 0 {
        let message = format!(
            "no block of {size} ports fits into the ports {} to {} of an address",
            nat.port_low.max(BLOCK_PORT_LOW),
            nat.port_high
        );
        let remedy = "make block_size smaller, or the range of [nat] larger";
        checker.fault(pool.name.span(), message, remedy);
    }
    let addresses = pool
        .addresses
        .get_ref()
        .iter()
        .map(|range| range.get_ref().size())
        .sum::<u64>();
    if addresses > BLOCK_ADDRESSES_MAX {
        checker.fault(
            pool.addresses.span(),
            format!("NAT pool \"{name}\" has {addresses} addresses to divide"),
            format!("write {BLOCK_ADDRESSES_MAX} at most: there are no more sites"),
        );
    }
    plan
}

fn block_size(checker: &mut Checker<'_>, pool: &file::Pool) -> u32 {
    let Some(size) = &pool.block_size else {
        return BLOCK_SIZE_DEFAULT;
    };
    let (low, high) = BLOCK_SIZES;
    if !size.get_ref().is_power_of_two() || !(low..=high).contains(size.get_ref()) {
        checker.fault(
            size.span(),
            format!("block_size = {}", size.get_ref()),
            format!("write a power of two from {low} to {high}"),
        );
        return BLOCK_SIZE_DEFAULT;
    }
    *size.get_ref()
}

fn blocks_max(checker: &mut Checker<'_>, pool: &file::Pool, kind: PlanKind) -> usize {
    let default = match kind {
        PlanKind::Deterministic => 1,
        PlanKind::Dynamic => BLOCKS_MAX_DEFAULT,
    };
    let Some(max) = &pool.blocks_max else {
        return default;
    };
    match kind {
        PlanKind::Deterministic if *max.get_ref() != 1 => {
            let message = "a deterministic plan gives each site one block";
            checker.fault(
                max.span(),
                message,
                "make block_size larger, or write plan = \"dynamic\"",
            );
        }
        PlanKind::Deterministic | PlanKind::Dynamic => {}
    }
    if !(1..=BLOCKS_MAX).contains(max.get_ref()) {
        checker.fault(
            max.span(),
            format!("blocks_max = {}", max.get_ref()),
            format!("write 1 to {BLOCKS_MAX}"),
        );
        return default;
    }
    *max.get_ref()
}

/// Refuses an address of one site alone that other sites share.
pub(super) fn fixed_address(checker: &mut Checker<'_>, address: &Spanned<Ipv4Addr>, pools: &[NatPool]) {
    let shared = pools
        .iter()
        .find(|pool| pool.contains(*address.get_ref()) && matches!(pool.mode, PoolMode::Block(_)));
    if let Some(pool) = shared {
        let message = format!(
            "nat_address {} is in NAT pool \"{}\", whose addresses sites share",
            address.get_ref(),
            pool.name
        );
        checker.fault(
            address.span(),
            message,
            "choose an address outside of it, or write nat_pool",
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(addresses: &[&str], plan: BlockPlan) -> NatPool {
        NatPool {
            name: "sites".into(),
            addresses: addresses
                .iter()
                .map(|range| range.parse().expect("range"))
                .collect(),
            mode: PoolMode::Block(plan),
        }
    }

    fn plan(size: u32, nat: &Nat) -> BlockPlan {
        BlockPlan::new(PlanKind::Deterministic, size, 1, nat)
    }

    /// The numbers of docs/nat.md.
    #[test]
    fn the_example_of_the_documentation_holds() {
        let plan = plan(2048, &Nat::default());
        assert_eq!((plan.first_number, plan.per_address), (1, 31));
        let pool = pool(&["10.201.0.0/29"], plan);
        let block = |site| pool.planned(&plan, site).expect("in the plan").to_string();
        assert_eq!(block(1), "10.201.0.1:2048-4095");
        assert_eq!(block(31), "10.201.0.1:63488-65535");
        assert_eq!(block(32), "10.201.0.2:2048-4095");
        assert_eq!(block(100), "10.201.0.4:14336-16383");
        assert_eq!(block(186), "10.201.0.6:63488-65535");
        assert_eq!((pool.room(), pool.planned(&plan, 187)), (186, None));
        assert_eq!(pool.planned(&plan, 0), None);
    }

    #[test]
    fn addresses_that_are_added_at_the_end_move_nobody() {
        let plan = plan(1024, &Nat::default());
        let (before, after) = (
            pool(&["10.0.0.0/30"], plan),
            pool(&["10.0.0.0/30", "10.9.0.0/24"], plan),
        );
        for site in 1..=126 {
            assert_eq!(before.planned(&plan, site), after.planned(&plan, site));
        }
        assert_eq!(before.planned(&plan, 127), None);
        let next = after.planned(&plan, 127).expect("room");
        assert_eq!(next.to_string(), "10.9.0.1:1024-2047");
    }

    proptest! {
        /// Property: the plan's inverse finds the site of each port of its block, no other port is anybody's, and blocks
        /// keep off the well-known ports and the range of `[nat]`.
        #[test]
        fn the_plan_and_its_inverse_agree(
            size in (6u32..=15).prop_map(|bits| 1 << bits),
            (low, high) in (1u16..=u16::MAX, 1u16..=u16::MAX).prop_map(|(a, b)| (a.min(b), a.max(b))),
            site in 1u32..2_000,
            port in any::<u16>(),
        ) {
            let nat = Nat { port_low: low, port_high: high, ..Nat::default() };
            let plan = plan(size, &nat);
            let pool = pool(&["10.0.0.0/28", "10.7.0.3", "10.8.0.0/29"], plan);
            if let Some(block) = pool.planned(&plan, site) {
                prop_assert!(block.first_port >= low.max(BLOCK_PORT_LOW) && block.last_port <= high);
                prop_assert_eq!(u32::from(block.last_port - block.first_port) + 1, size);
                for port in [block.first_port, block.last_port] {
                    prop_assert_eq!(pool.planned_site(&plan, block.address, port), Some(site));
                }
                let number = plan.number(&block).expect("of the plan");
                prop_assert_eq!(plan.block(block.address, number), Some(block));
            } else {
                prop_assert!(u64::from(site) > pool.room());
            }
            let address = Ipv4Addr::new(10, 7, 0, 3);
            match pool.planned_site(&plan, address, port) {
                Some(site) => {
                    prop_assert!(pool.planned(&plan, site).expect("in the plan").contains(address, port));
                }
                None => {
                    let is_in = |number| plan.block(address, number).expect("block").contains(address, port);
                    prop_assert!(!(0..plan.per_address).any(is_in));
                }
            }
        }

        /// Property: places and addresses of a pool are each other's inverse.
        #[test]
        fn places_are_numbered_in_order(place in 0u64..40) {
            let pool = pool(&["10.0.0.0/28", "10.7.0.3", "10.8.0.0/29"], plan(64, &Nat::default()));
            let address = pool.addresses_from(place).next();
            prop_assert_eq!(pool.address_at(place), address);
            if let Some(address) = address {
                prop_assert_eq!(pool.place_of(address), Some(place));
            } else {
                prop_assert!(place >= pool.size());
            }
        }
    }
}
