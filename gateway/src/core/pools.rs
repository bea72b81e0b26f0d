//! Numbers, translated addresses and port blocks of sites: assigned once, kept for good.
//!
//! The center's firewalls know a site by its translated address. So a name keeps its site number and its address or first
//! port block across restarts and changes of the configuration, as long as the configuration still allows it. A name
//! that it no longer admits keeps both until another one needs them.
mod free;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

use gateway_common::abi::limit::SITES_MAX;
use serde::{Deserialize, Serialize};

use crate::config::{BlockPlan, NatPool, PlanKind, PoolMode, PortBlock};
use free::Taken;

/// What a name holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredAssignment", into = "StoredAssignment")]
pub struct Assignment {
    /// Site number, from 1.
    pub site: u32,
    /// The address that the site is translated to, or its port blocks: those of one address together, the first one for
    /// good.
    pub blocks: Vec<PortBlock>,
}

/// As it is stored: an address as a whole is `nat_address`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredAssignment {
    site: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nat_address: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blocks: Vec<PortBlock>,
}

impl From<StoredAssignment> for Assignment {
    fn from(stored: StoredAssignment) -> Self {
        let whole = stored.nat_address.map(PortBlock::whole);
        Self {
            site: stored.site,
            blocks: whole.into_iter().chain(stored.blocks).collect(),
        }
    }
}

impl From<Assignment> for StoredAssignment {
    fn from(assignment: Assignment) -> Self {
        let (whole, blocks): (Vec<PortBlock>, Vec<PortBlock>) =
            assignment.blocks.iter().partition(|block| block.is_whole());
        Self {
            site: assignment.site,
            nat_address: whole.first().map(|block| block.address),
            blocks,
        }
    }
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

/// What a proposal changes for one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whether the block is given to the site, or taken from it.
    pub given: bool,
    /// Number of the site.
    pub site: u32,
    /// Its name.
    pub name: String,
    /// The block.
    pub block: PortBlock,
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
    /// What this pool has.
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
    /// All port blocks are taken.
    #[error(
        "NAT pool \"{pool}\" is exhausted: all {blocks} blocks of {size} ports belong to other sites; add addresses to the pool"
    )]
    BlocksExhausted {
        /// Its name.
        pool: String,
        /// Its blocks.
        blocks: u64,
        /// Ports of a block.
        size: u32,
    },
    /// The deterministic plan ends before the site's number.
    #[error(
        "site number {site} is beyond the plan of NAT pool \"{pool}\", which has {blocks} blocks; add addresses at its end"
    )]
    BeyondPlan {
        /// The pool.
        pool: String,
        /// Its blocks.
        blocks: u64,
        /// The number.
        site: u32,
    },
    /// A site has as many blocks as it may.
    #[error(
        "site \"{name}\" has {max} of NAT pool \"{pool}\" and may have no more; raise block_size, or blocks_max of a dynamic plan"
    )]
    BlocksMax {
        /// The site.
        name: String,
        /// Its pool.
        pool: String,
        /// How many blocks it may have.
        max: usize,
    },
    /// A site has an address of its own.
    #[error("site \"{name}\" has an address of its own, and gets no other one")]
    WholeAddress {
        /// The site.
        name: String,
    },
    /// All site numbers are taken.
    #[error(
        "all {} site numbers are taken by names that the configuration admits; remove a [[site]], or let the pattern of an [[any_site]] admit fewer",
        SITES_MAX - 1
    )]
    SitesExhausted,
}

/// Why stored assignments cannot all be true.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{one}\" and \"{other}\" both hold {what}; give it to one of them, and remove the other")]
pub struct Conflict {
    /// A name.
    pub one: String,
    /// Another one.
    pub other: String,
    /// What both hold.
    pub what: String,
}

/// What stands around an assignment: addresses that only their own sites may have, and names nobody claims.
pub struct Surroundings<'a> {
    /// Addresses that the configuration fixes.
    pub fixed: &'a HashSet<Ipv4Addr>,
    /// Whether the configuration no longer admits a name; its assignment may be taken when a pool is exhausted, or the
    /// numbers are.
    pub is_orphan: &'a dyn Fn(&str) -> bool,
}

/// Whether a site of that number may keep a block.
#[must_use]
pub fn may_keep(wanted: Wanted<'_>, site: u32, block: &PortBlock, fixed: &HashSet<Ipv4Addr>) -> bool {
    match wanted {
        Wanted::Fixed(address) => *block == PortBlock::whole(address),
        Wanted::Pool(pool) => {
            pool.contains(block.address)
                && !fixed.contains(&block.address)
                && match pool.mode {
                    PoolMode::Address => block.is_whole(),
                    PoolMode::Block(plan) => match plan.kind {
                        PlanKind::Deterministic => pool.planned(&plan, site) == Some(*block),
                        PlanKind::Dynamic => plan.number(block).is_some(),
                    },
                }
        }
    }
}

/// Blocks that a site may have at most.
const fn blocks_max(wanted: Wanted<'_>) -> usize {
    match wanted {
        Wanted::Fixed(_) => 1,
        Wanted::Pool(pool) => match pool.mode {
            PoolMode::Address => 1,
            PoolMode::Block(plan) => plan.blocks_max,
        },
    }
}

impl Assignments {
    /// The assignment of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Assignment> {
        self.names.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Assignment)> {
        self.names
            .iter()
            .map(|(name, assignment)| (name.as_str(), assignment))
    }

    /// Whether no block and no number has two holders.
    ///
    /// # Errors
    /// Who holds what.
    pub fn check(&self) -> Result<(), Conflict> {
        let mut numbers = BTreeMap::new();
        let mut blocks: Vec<(PortBlock, &str)> = Vec::new();
        for (name, assignment) in self.iter() {
            if let Some(other) = numbers.insert(assignment.site, name) {
                return Err(Conflict {
                    one: other.to_owned(),
                    other: name.to_owned(),
                    what: format!("site number {}", assignment.site),
                });
            }
            blocks.extend(assignment.blocks.iter().map(|block| (*block, name)));
        }
        blocks.sort_unstable();
        let twice = blocks.windows(2).find_map(|pair| {
            Some((pair.first()?, pair.get(1)?)).filter(|(one, other)| one.0.overlaps(&other.0))
        });
        twice.map_or(Ok(()), |(one, other)| {
            Err(Conflict {
                one: one.1.to_owned(),
                other: other.1.to_owned(),
                what: other.0.to_string(),
            })
        })
    }

    /// Takes away every block for which `keeps` says no; names keep their numbers.
    pub fn prune(&mut self, keeps: impl Fn(&str, u32, &PortBlock) -> bool) {
        let lost: Vec<_> = self
            .names
            .iter()
            .filter_map(|(name, held)| {
                let mut left = held.clone();
                left.blocks.retain(|block| keeps(name, held.site, block));
                (left != *held).then(|| (name.clone(), left))
            })
            .collect();
        for (name, left) in lost {
            self.remove(&name);
            self.insert(name, left);
        }
    }

    /// Gives a name what it had, or what it may have. Changes nothing on an error.
    ///
    /// # Errors
    /// If neither a free address or block nor one of an orphan is left.
    pub fn assign(
        &mut self,
        name: &str,
        wanted: Wanted<'_>,
        around: &Surroundings<'_>,
    ) -> Result<Assignment, AssignError> {
        let proposal = self.propose(name, wanted, around)?;
        let assignment = proposal.assignment.clone();
        self.accept(proposal);
        Ok(assignment)
    }

    /// What [`Self::assign`] would do; nothing is changed before [`Self::accept`].
    ///
    /// # Errors
    /// If neither a free address or block nor one of an orphan is left.
    pub fn propose(
        &mut self,
        name: &str,
        wanted: Wanted<'_>,
        around: &Surroundings<'_>,
    ) -> Result<Proposal, AssignError> {
        let held = self.get(name).cloned();
        let proposal = |site, blocks, evicts| Proposal {
            name: name.to_owned(),
            assignment: Assignment { site, blocks },
            evicts,
        };
        if let Some(held) = &held {
            let mut kept = held.blocks.clone();
            kept.retain(|block| may_keep(wanted, held.site, block, around.fixed));
            kept.truncate(blocks_max(wanted));
            if !kept.is_empty() {
                return Ok(proposal(held.site, kept, None));
            }
        }
        let site = match held {
            Some(held) => Some(held.site),
            None => self.taken.free_site(),
        };
        let Some(site) = site else {
            let (site, block, evicted) = self.first_of_orphan(wanted, around)?;
            return Ok(proposal(site, vec![block], Some(evicted)));
        };
        let (block, evicts) = self.first_block(wanted, site, around)?;
        Ok(proposal(
            site,
            vec![block],
            evicts.filter(|evicted| evicted != name),
        ))
    }

    /// A number for a name that has none when none is free, a block, and the orphan that gives its number. Where blocks are
    /// short as well, it is the one that loses its block: it is enough that one goes.
    fn first_of_orphan(
        &mut self,
        wanted: Wanted<'_>,
        around: &Surroundings<'_>,
    ) -> Result<(u32, PortBlock, String), AssignError> {
        let (orphan, site) = self
            .orphan_with_number(wanted, around)
            .ok_or(AssignError::SitesExhausted)?;
        let (block, loser) = self.first_block(wanted, site, around)?;
        let evicted = loser.unwrap_or(orphan);
        let site = self.get(&evicted).map_or(site, |held| held.site);
        Ok((site, block, evicted))
    }

    /// A block for a site that has none, and who loses it.
    fn first_block(
        &mut self,
        wanted: Wanted<'_>,
        site: u32,
        around: &Surroundings<'_>,
    ) -> Result<(PortBlock, Option<String>), AssignError> {
        let pool = match wanted {
            Wanted::Fixed(address) => {
                let whole = PortBlock::whole(address);
                return Ok((whole, self.taken.holder(&whole)));
            }
            Wanted::Pool(pool) => pool,
        };
        let (free, exhausted) = match pool.mode {
            PoolMode::Address => {
                let address = self.taken.free_address(pool, around.fixed);
                let exhausted = AssignError::PoolExhausted {
                    pool: pool.name.clone(),
                    size: pool.size(),
                };
                (address.map(PortBlock::whole), exhausted)
            }
            PoolMode::Block(plan) => match plan.kind {
                PlanKind::Deterministic => {
                    let planned = pool.planned(&plan, site).ok_or_else(|| AssignError::BeyondPlan {
                        pool: pool.name.clone(),
                        blocks: pool.room(),
                        site,
                    })?;
                    return Ok((planned, self.taken.holder(&planned)));
                }
                PlanKind::Dynamic => (self.taken.free_block(pool, &plan, &[]), exhausted(pool, &plan)),
            },
        };
        match free {
            Some(block) => Ok((block, None)),
            None => self
                .orphan(pool, around)
                .map(|(name, block)| (block, Some(name)))
                .ok_or(exhausted),
        }
    }

    /// One more block of a dynamic plan for a name that has one; of an address that it has already, if one of them has room.
    ///
    /// # Errors
    /// If it has as many as it may, or neither a free one nor one of an orphan is left.
    pub fn propose_more(
        &mut self,
        name: &str,
        pool: &NatPool,
        around: &Surroundings<'_>,
    ) -> Result<Proposal, AssignError> {
        let full = |max| AssignError::BlocksMax {
            name: name.to_owned(),
            pool: pool.name.clone(),
            max,
        };
        let PoolMode::Block(plan) = pool.mode else {
            let name = name.to_owned();
            return Err(AssignError::WholeAddress { name });
        };
        let held = self.get(name).cloned().ok_or_else(|| full(0))?;
        if held.blocks.len() >= plan.blocks_max || plan.kind == PlanKind::Deterministic {
            return Err(full(plan.blocks_max));
        }
        let (block, evicts) = match self.taken.free_block(pool, &plan, &held.blocks) {
            Some(block) => (block, None),
            None => self
                .orphan(pool, around)
                .map(|(orphan, block)| (block, Some(orphan)))
                .ok_or_else(|| exhausted(pool, &plan))?,
        };
        let mut blocks = held.blocks;
        let behind = blocks.iter().rposition(|other| other.address == block.address);
        blocks.insert(behind.map_or(blocks.len(), |at| at + 1), block);
        Ok(Proposal {
            name: name.to_owned(),
            assignment: Assignment {
                site: held.site,
                blocks,
            },
            evicts,
        })
    }

    /// The name without one of its blocks; `None` if it has not got it, or if it is the first one, which stays.
    #[must_use]
    pub fn propose_less(&self, name: &str, block: &PortBlock) -> Option<Proposal> {
        let mut assignment = self.get(name)?.clone();
        let at = assignment.blocks.iter().position(|held| held == block)?;
        if at == 0 {
            return None;
        }
        assignment.blocks.remove(at);
        Some(Proposal {
            name: name.to_owned(),
            assignment,
            evicts: None,
        })
    }

    /// What [`Self::accept`] would change, what is taken away first.
    #[must_use]
    pub fn changes(&self, proposal: &Proposal) -> Vec<Change> {
        let of = |given, name: &str, site, block: &PortBlock| Change {
            given,
            site,
            name: name.to_owned(),
            block: *block,
        };
        let Proposal {
            name,
            assignment: new,
            evicts,
        } = proposal;
        let mut changes = Vec::new();
        if let Some((name, lost)) = evicts.as_ref().and_then(|name| Some((name, self.get(name)?))) {
            changes.extend(lost.blocks.iter().map(|block| of(false, name, lost.site, block)));
        }
        let old: &[PortBlock] = self.get(name).map_or(&[], |held| &held.blocks);
        let gone = old.iter().filter(|block| !new.blocks.contains(block));
        changes.extend(gone.map(|block| of(false, name, new.site, block)));
        let come = new.blocks.iter().filter(|block| !old.contains(block));
        changes.extend(come.map(|block| of(true, name, new.site, block)));
        changes
    }

    /// Makes a proposal true.
    pub fn accept(&mut self, proposal: Proposal) {
        if let Some(evicted) = &proposal.evicts {
            self.remove(evicted);
        }
        self.remove(&proposal.name);
        self.insert(proposal.name, proposal.assignment);
    }

    /// Who holds a port of an address.
    #[must_use]
    pub fn holder(&self, address: Ipv4Addr, port: u16) -> Option<(&str, &Assignment)> {
        let one = PortBlock {
            address,
            first_port: port,
            last_port: port,
        };
        let (name, held) = self.names.get_key_value(&self.taken.holder(&one)?)?;
        Some((name, held))
    }

    /// Blocks of a pool's addresses that are held.
    #[must_use]
    pub fn held(&self, pool: &NatPool) -> usize {
        let blocks = self.names.values().flat_map(|held| &held.blocks);
        blocks.filter(|block| pool.contains(block.address)).count()
    }

    fn insert(&mut self, name: String, assignment: Assignment) {
        self.taken.add(&name, &assignment);
        self.names.insert(name, assignment);
    }

    fn remove(&mut self, name: &str) {
        if let Some(gone) = self.names.remove(name) {
            self.taken.remove(name, &gone);
        }
    }

    /// An orphan whose number is of use; one without blocks before the others, which would have theirs again if they were
    /// admitted again.
    fn orphan_with_number(&self, wanted: Wanted<'_>, around: &Surroundings<'_>) -> Option<(String, u32)> {
        let is_of_use = |held: &Assignment| match wanted {
            Wanted::Fixed(_) => true,
            Wanted::Pool(pool) => match pool.mode {
                PoolMode::Address => true,
                PoolMode::Block(plan) => match plan.kind {
                    PlanKind::Dynamic => true,
                    PlanKind::Deterministic => pool
                        .planned(&plan, held.site)
                        .is_some_and(|block| held.blocks.contains(&block) || self.taken.is_free(&block)),
                },
            },
        };
        let find = |is_usable: &dyn Fn(&Assignment) -> bool| {
            let mut names = self.names.iter();
            names.find(|(name, held)| is_usable(held) && (around.is_orphan)(name))
        };
        let found = find(&|held| held.blocks.is_empty() && is_of_use(held)).or_else(|| find(&is_of_use));
        found.map(|(name, held)| (name.clone(), held.site))
    }

    fn orphan(&self, pool: &NatPool, around: &Surroundings<'_>) -> Option<(String, PortBlock)> {
        self.names.iter().find_map(|(name, held)| {
            let usable = |block: &&PortBlock| may_keep(Wanted::Pool(pool), held.site, block, around.fixed);
            let block = held.blocks.iter().find(usable)?;
            (around.is_orphan)(name).then(|| (name.clone(), *block))
        })
    }
}

fn exhausted(pool: &NatPool, plan: &BlockPlan) -> AssignError {
    AssignError::BlocksExhausted {
        pool: pool.name.clone(),
        blocks: pool.room(),
        size: plan.size,
    }
}
