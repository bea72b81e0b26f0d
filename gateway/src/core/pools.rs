//! Numbers and translated addresses of sites: assigned once, kept for good.
//!
//! The center's firewalls know a site by its translated address. So a name keeps its site number and address across
//! restarts and changes of the configuration, as long as the configuration still allows the address.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;

use gateway_common::abi::limit::SITES_MAX;
use serde::{Deserialize, Serialize};

use crate::config::{AddressRange, NatPool};

/// What a name holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Site number, from 1.
    pub site: u32,
    /// The address that the site is translated to.
    pub nat_address: Ipv4Addr,
}

/// An assignment that is not made yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// Who gets it.
    pub name: String,
    /// What.
    pub assignment: Assignment,
    /// Who loses it: a name that nobody claims any more, or that held what the configuration fixes for another.
    pub evicts: Option<String>,
}

/// Every assignment ever made and still kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Assignments {
    names: BTreeMap<String, Assignment>,
    #[serde(skip)]
    taken: Taken,
}

/// As it is stored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    names: BTreeMap<String, Assignment>,
}

/// What of numbers and addresses is not free, so that nothing need be searched for among thousands of sites.
#[derive(Clone, Debug, Default)]
struct Taken {
    addresses: HashMap<Ipv4Addr, String>,
    sites: HashSet<u32>,
    /// No number below is free.
    sites_from: u32,
    /// By the pool's name: its addresses, of which the first so many are not free.
    pools_from: HashMap<String, (Vec<AddressRange>, u64)>,
}

impl From<Stored> for Assignments {
    fn from(Stored { names }: Stored) -> Self {
        let mut all = Self::default();
        for (name, assignment) in names {
            all.insert(name, assignment);
        }
        all
    }
}

impl PartialEq for Assignments {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl Eq for Assignments {}

/// Which addresses a site may get.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// This one.
    Fixed(Ipv4Addr),
    /// Any of this pool.
    Pool(&'a NatPool),
}

/// Why nothing could be assigned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// All addresses are taken.
    #[error(
        "NAT pool \"{pool}\" is exhausted: all {size} addresses belong to other sites; add addresses to the pool"
    )]
    PoolExhausted {
        /// Its name.
        pool: String,
        /// Its addresses.
        size: u64,
    },
    /// All site numbers are taken.
    #[error("all {} site numbers are taken", SITES_MAX - 1)]
    SitesExhausted,
}

/// What stands around an assignment: addresses that only their own sites may have, and names nobody claims.
pub struct Surroundings<'a> {
    /// Addresses that the configuration fixes.
    pub fixed: &'a HashSet<Ipv4Addr>,
    /// Whether the configuration no longer admits a name; its assignment may be taken when a pool is exhausted.
    pub is_orphan: &'a dyn Fn(&str) -> bool,
}

impl Assignments {
    /// The assignment of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Assignment> {
        self.names.get(name).copied()
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Assignment)> {
        self.names
            .iter()
            .map(|(name, assignment)| (name.as_str(), *assignment))
    }

    /// Gives a name what it had, or what it may have. Changes nothing on an error.
    ///
    /// # Errors
    /// If neither a free address nor one of an orphan is left.
    pub fn assign(
        &mut self,
        name: &str,
        wanted: Wanted<'_>,
        around: &Surroundings<'_>,
    ) -> Result<Assignment, AssignError> {
        let proposal = self.propose(name, wanted, around)?;
        let assignment = proposal.assignment;
        self.accept(proposal);
        Ok(assignment)
    }

    /// What [`Self::assign`] would do; nothing is changed before [`Self::accept`].
    ///
    /// # Errors
    /// If neither a free address nor one of an orphan is left.
    pub fn propose(
        &mut self,
        name: &str,
        wanted: Wanted<'_>,
        around: &Surroundings<'_>,
    ) -> Result<Proposal, AssignError> {
        let held = self.get(name);
        let keeps = |address: Ipv4Addr| match wanted {
            Wanted::Fixed(fixed) => address == fixed,
            Wanted::Pool(pool) => pool.contains(address) && !around.fixed.contains(&address),
        };
        let proposal = |assignment, evicts| Proposal {
            name: name.to_owned(),
            assignment,
            evicts,
        };
        if let Some(held) = held.filter(|held| keeps(held.nat_address)) {
            return Ok(proposal(held, None));
        }
        let mut evicts = None;
        let nat_address = match wanted {
            Wanted::Fixed(address) => {
                evicts = self.holder(address);
                address
            }
            Wanted::Pool(pool) => match self.free_address(pool, around.fixed) {
                Some(address) => address,
                None => {
                    let orphan = self.orphan(pool, around);
                    let (orphan, address) = orphan.ok_or_else(|| AssignError::PoolExhausted {
                        pool: pool.name.clone(),
                        size: pool.size(),
                    })?;
                    evicts = Some(orphan);
                    address
                }
            },
        };
        let site = match held {
            Some(held) => held.site,
            None => self.free_site().ok_or(AssignError::SitesExhausted)?,
        };
        Ok(proposal(Assignment { site, nat_address }, evicts))
    }

    /// Makes a proposal true.
    pub fn accept(&mut self, proposal: Proposal) {
        if let Some(evicted) = &proposal.evicts {
            self.remove(evicted);
        }
        self.remove(&proposal.name);
        self.insert(proposal.name, proposal.assignment);
    }

    fn insert(&mut self, name: String, assignment: Assignment) {
        self.taken.addresses.insert(assignment.nat_address, name.clone());
        self.taken.sites.insert(assignment.site);
        self.names.insert(name, assignment);
    }

    fn remove(&mut self, name: &str) {
        let Some(gone) = self.names.remove(name) else {
            return;
        };
        self.taken.addresses.remove(&gone.nat_address);
        self.taken.sites.remove(&gone.site);
        self.taken.sites_from = self.taken.sites_from.min(gone.site);
        self.taken
            .pools_from
            .retain(|_, (ranges, _)| !ranges.iter().any(|range| range.contains(gone.nat_address)));
    }

    fn holder(&self, address: Ipv4Addr) -> Option<String> {
        self.taken.addresses.get(&address).cloned()
    }

    fn free_address(&mut self, pool: &NatPool, fixed: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let from = self
            .taken
            .pools_from
            .get(&pool.name)
            .filter(|(ranges, _)| *ranges == pool.addresses)
            .map_or(0, |(_, from)| *from);
        let found = pool
            .addresses_from(from)
            .zip(from..)
            .find(|(address, _)| !self.taken.addresses.contains_key(address) && !fixed.contains(address));
        let next = found.map_or_else(|| pool.size(), |(_, place)| place);
        let ranges = pool.addresses.clone();
        self.taken.pools_from.insert(pool.name.clone(), (ranges, next));
        found.map(|(address, _)| address)
    }

    fn orphan(&self, pool: &NatPool, around: &Surroundings<'_>) -> Option<(String, Ipv4Addr)> {
        let usable = |address| pool.contains(address) && !around.fixed.contains(&address);
        let found = self
            .names
            .iter()
            .find(|(name, held)| usable(held.nat_address) && (around.is_orphan)(name));
        found.map(|(name, held)| (name.clone(), held.nat_address))
    }

    fn free_site(&mut self) -> Option<u32> {
        let from = self.taken.sites_from.max(1);
        let found = (from..SITES_MAX).find(|site| !self.taken.sites.contains(site));
        self.taken.sites_from = found.unwrap_or(SITES_MAX);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(addresses: &str) -> NatPool {
        NatPool {
            name: "sites".into(),
            addresses: vec![addresses.parse().expect("range")],
        }
    }

    fn assign(
        all: &mut Assignments,
        name: &str,
        wanted: Wanted<'_>,
        fixed: &[&str],
    ) -> Result<Assignment, AssignError> {
        let fixed = fixed
            .iter()
            .map(|address| address.parse().expect("address"))
            .collect();
        all.assign(
            name,
            wanted,
            &Surroundings {
                fixed: &fixed,
                is_orphan: &|name| name.starts_with("gone"),
            },
        )
    }

    #[test]
    fn a_name_keeps_what_it_has() {
        let (mut all, pool) = (Assignments::default(), pool("10.0.0.0/30"));
        let first = assign(&mut all, "a", Wanted::Pool(&pool), &[]).expect("free");
        let second = assign(&mut all, "b", Wanted::Pool(&pool), &[]).expect("free");
        assert_eq!((first.site, first.nat_address), (1, Ipv4Addr::new(10, 0, 0, 1)));
        assert_ne!(first.nat_address, second.nat_address);
        assert_eq!(assign(&mut all, "a", Wanted::Pool(&pool), &[]), Ok(first));
    }

    #[test]
    fn an_address_outside_the_changed_pool_is_replaced_and_the_number_stays() {
        let mut all = Assignments::default();
        assign(&mut all, "x", Wanted::Pool(&pool("10.0.0.0/30")), &[]).expect("free");
        let before = assign(&mut all, "a", Wanted::Pool(&pool("10.0.0.0/30")), &[]).expect("free");
        let after = assign(&mut all, "a", Wanted::Pool(&pool("10.9.0.0/30")), &[]).expect("free");
        assert_eq!(
            after,
            Assignment {
                site: before.site,
                nat_address: Ipv4Addr::new(10, 9, 0, 1)
            }
        );
    }

    #[test]
    fn an_exhausted_pool_says_so_and_changes_nothing() {
        let (mut all, pool) = (Assignments::default(), pool("10.0.0.1"));
        assign(&mut all, "a", Wanted::Pool(&pool), &[]).expect("free");
        let before = all.clone();
        let error = assign(&mut all, "b", Wanted::Pool(&pool), &[]).expect_err("exhausted");
        assert_eq!(
            error,
            AssignError::PoolExhausted {
                pool: "sites".into(),
                size: 1
            }
        );
        assert_eq!(all, before);
    }

    #[test]
    fn an_orphan_gives_way_only_when_the_pool_is_exhausted() {
        let (mut all, pool) = (Assignments::default(), pool("10.0.0.0/31"));
        let gone = assign(&mut all, "gone-1", Wanted::Pool(&pool), &[]).expect("free");
        let first = assign(&mut all, "a", Wanted::Pool(&pool), &[]).expect("free");
        assert_ne!(first.nat_address, gone.nat_address);
        let second = assign(&mut all, "b", Wanted::Pool(&pool), &[]).expect("orphan's");
        assert_eq!(second.nat_address, gone.nat_address);
        assert_eq!(all.get("gone-1"), None);
    }

    #[test]
    fn a_fixed_address_is_taken_from_whoever_holds_it() {
        let (mut all, pool) = (Assignments::default(), pool("10.0.0.0/31"));
        let held = assign(&mut all, "a", Wanted::Pool(&pool), &[]).expect("free");
        let fixed = held.nat_address.to_string();
        assign(&mut all, "h", Wanted::Fixed(held.nat_address), &[&fixed]).expect("fixed");
        let moved = assign(&mut all, "a", Wanted::Pool(&pool), &[&fixed]).expect("other");
        assert_ne!(moved.nat_address, held.nat_address);
    }
}
