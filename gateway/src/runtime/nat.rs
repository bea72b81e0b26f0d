//! Port blocks of sites while the daemon runs: another one when ports run short, and back when it is not needed. And what
//! operators see of them.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use gateway_common::abi::nat::{InsideKey, OutsideKey};
use gateway_common::abi::site::{Site, flag};

use super::controller::{Controller, log_failure};
use super::engine::Engine;
use crate::api::view;
use crate::config::{NatPool, PlanKind, PoolMode, PortBlock, Publication};
use crate::core::blocks::{self, Spare, Step};
use crate::core::journal::Notice;
use crate::core::sites::{SiteEntry, Sites};
use crate::dataplane::Published;

/// A site that could not be given a block does not ask again for so long: its questions would keep others' from being heard.
const ASK_AGAIN_MS: u64 = 5_000;
/// How often it is told that a site cannot be given a block.
const TELL_AGAIN_MS: u64 = 60_000;
/// Seconds between two looks at what is in use of blocks.
const LOOK_EVERY_S: u32 = 10;

/// What the controller knows of blocks beside what sites hold.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Sites whose ports run short.
    asked: BTreeSet<u32>,
    /// Sites that were refused one, and may not ask.
    refused: HashMap<u32, Refused>,
    spare: Spare,
    seconds: u32,
}

/// A site that was refused a block.
#[derive(Clone, Copy, Debug)]
struct Refused {
    /// It may ask again from then on; `None`: it may.
    until_ms: Option<u64>,
    told_ms: u64,
}

impl Blocks {
    /// The packet path has few free ports left for a site.
    pub(super) fn ask(&mut self, site: u32) {
        self.asked.insert(site);
    }

    /// A site as the packet path sees it.
    pub(super) fn for_data_plane(&self, entry: &SiteEntry) -> (u32, Site) {
        let (closed, open): (Vec<_>, Vec<_>) = entry
            .blocks
            .iter()
            .partition(|block| self.spare.is_closed(entry.site, block));
        let as_read = |blocks: &[PortBlock]| blocks.iter().map(PortBlock::for_data_plane).collect::<Vec<_>>();
        let may_ask = self
            .refused
            .get(&entry.site)
            .is_none_or(|refused| refused.until_ms.is_none());
        let flags = entry.nat_flags | if may_ask { flag::MORE_BLOCKS } else { 0 };
        let site = Site::with_blocks(entry.groups, &as_read(&open), flags).with_closed(&as_read(&closed));
        (entry.site, site)
    }
}

/// What is published, for the data plane.
pub(super) fn published((number, site, publication): (u32, u32, &Publication)) -> Published {
    let (protocol, port) = publication
        .port
        .map_or((0, 0), |(transport, port)| (transport.number(), port));
    Published {
        number,
        inside: InsideKey {
            site,
            address: publication.address.octets(),
            port: port.to_be_bytes(),
            protocol,
            pad: 0,
        },
        outside: OutsideKey {
            address: publication.on.address.octets(),
            port: publication.on.port.unwrap_or(0).to_be_bytes(),
            protocol,
            pad: 0,
        },
        from: publication
            .from
            .iter()
            .map(|prefix| (prefix.network().octets(), prefix.length()))
            .collect(),
    }
}

/// What is published and the data plane has not taken: number of the publication, and why, as it was told last.
pub(super) type Unpublished = BTreeMap<u32, String>;

impl<E: Engine> Controller<E> {
    /// Publishes what is configured of known sites and is `wanted` by number and site. What has no room now is told, and
    /// tried again each second.
    pub(super) fn publish_ports(&mut self, wanted: impl Fn(u32, u32) -> bool) {
        let sites = self.sites.get();
        let all = sites
            .publications()
            .filter(|(number, site, _)| wanted(*number, *site));
        let all: Vec<_> = all.map(published).collect();
        drop(sites);
        for one in all {
            match self.engine.publish(std::slice::from_ref(&one)) {
                Ok(()) => {
                    self.unpublished.remove(&one.number);
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    let site = one.inside.site;
                    if self.unpublished.insert(one.number, reason.clone()).as_ref() != Some(&reason) {
                        self.record(Notice::NotPublished {
                            site,
                            reason: &reason,
                        });
                    }
                }
            }
        }
    }

    /// Tries again what could not be published.
    pub(super) fn next_second_of_publications(&mut self) {
        if self.unpublished.is_empty() {
            return;
        }
        let numbers: BTreeSet<u32> = self.unpublished.keys().copied().collect();
        self.publish_ports(|number, _| numbers.contains(&number));
        if self.unpublished.is_empty() {
            tracing::info!("all is published now that could not be");
        }
    }

    /// Gives sites whose ports run short another block.
    pub(super) fn give_blocks(&mut self) {
        for site in std::mem::take(&mut self.blocks.asked) {
            let refused = self.blocks.refused.get(&site);
            // Asked before the packet path knew that it may not.
            if refused.is_some_and(|refused| refused.until_ms.is_some()) {
                continue;
            }
            self.give_block(site, self.clock.now().mono_ms);
        }
    }

    /// Lets those ask again who were refused some time ago.
    fn let_ask_again(&mut self) {
        let now_ms = self.clock.now().mono_ms;
        let mut may = Vec::new();
        for (site, refused) in &mut self.blocks.refused {
            if refused.until_ms.take_if(|until_ms| *until_ms <= now_ms).is_some() {
                may.push(*site);
            }
        }
        may.into_iter().for_each(|site| self.tell_data_plane(site));
    }

    fn give_block(&mut self, site: u32, now_ms: u64) {
        if self.blocks.spare.reopen(site).is_some() {
            return self.tell_data_plane(site);
        }
        let ledger = self.ledger.clone();
        let given = self
            .sites
            .get()
            .grow(site, |proposal, changes| ledger.keep(proposal, changes));
        match given {
            Ok(block) => {
                self.blocks.refused.remove(&site);
                self.tell_data_plane(site);
                self.record(Notice::BlockAssigned { site, block });
            }
            Err(refusal) => {
                let told_ms = self.blocks.refused.get(&site).map(|refused| refused.told_ms);
                let is_due = told_ms.is_none_or(|told_ms| now_ms.saturating_sub(told_ms) >= TELL_AGAIN_MS);
                let refused = Refused {
                    until_ms: Some(now_ms + ASK_AGAIN_MS),
                    told_ms: told_ms.filter(|_| !is_due).unwrap_or(now_ms),
                };
                self.blocks.refused.insert(site, refused);
                self.tell_data_plane(site);
                if is_due {
                    let reason = &refusal.to_string();
                    self.record(Notice::PortsShort { site, reason });
                }
            }
        }
    }

    /// What the data plane does not take now is told again with the next site.
    fn tell_data_plane(&mut self, site: u32) {
        self.new_sites.push(site);
        log_failure("blocks of a site not changed", self.add_sites());
    }

    /// A second went by.
    pub(super) fn next_second_of_blocks(&mut self) {
        let kept = self.ledger.next_second(self.sites.get().assignments());
        log_failure("the log of addresses not tended", kept);
        self.let_ask_again();
        self.blocks.seconds += 1;
        if self.blocks.seconds < LOOK_EVERY_S {
            return;
        }
        self.blocks.seconds = 0;
        let outcome = self.take_blocks();
        log_failure("use of port blocks not seen", outcome);
    }

    /// Closes and takes back blocks that sites do not need.
    fn take_blocks(&mut self) -> anyhow::Result<()> {
        let several: Vec<_> = self
            .sites
            .get()
            .iter()
            .filter(|entry| entry.blocks.len() > 1)
            .map(|entry| (entry.site, entry.blocks.clone()))
            .collect();
        if several.is_empty() {
            return Ok(());
        }
        let all = several.iter().flat_map(|(_, blocks)| blocks).copied();
        let used = blocks::count(all, self.engine.outsides()?);
        let now_ms = self.clock.now().mono_ms;
        for step in self.blocks.spare.look(now_ms, &several, &used) {
            match step {
                Step::Close(site, _) => self.tell_data_plane(site),
                Step::Release(site, block) => self.release_block(site, block),
            }
        }
        Ok(())
    }

    fn release_block(&mut self, site: u32, block: PortBlock) {
        // As long as the data plane may not know that the block is closed, nobody else gets it.
        if let Err(error) = self.add_sites() {
            return log_failure("blocks of a site not changed", Err(error));
        }
        let ledger = self.ledger.clone();
        let released = self
            .sites
            .get()
            .shrink(site, &block, |proposal, changes| ledger.keep(proposal, changes));
        match released {
            Ok(()) => {
                self.blocks.spare.forget(site, &block);
                self.tell_data_plane(site);
                self.record(Notice::BlockReleased { site, block });
            }
            Err(refusal) => log_failure("port block not released", Err(refusal.into())),
        }
    }

    /// Whether nothing new is made from a block of a site.
    pub(super) fn is_block_closed(&self, site: u32, block: &PortBlock) -> bool {
        self.blocks.spare.is_closed(site, block)
    }

    /// How the pools are divided, and who has what.
    pub(super) fn nat_plan(&self) -> view::NatPlan {
        let sites = self.sites.get();
        view::NatPlan {
            state_dir: self.config.state_dir.clone(),
            log_keep_days: self.config.nat.log_keep_days,
            pools: sites.pools().iter().map(|pool| pool_view(pool, &sites)).collect(),
        }
    }
}

/// A pool and the sites in it.
pub(crate) fn pool_view(pool: &NatPool, sites: &Sites) -> view::NatPool {
    let plan = match pool.mode {
        PoolMode::Address => None,
        PoolMode::Block(plan) => Some(view::BlockPlan {
            kind: plan.kind,
            block_size: plan.size,
            first_block: plan.first_number,
            blocks_per_address: plan.per_address,
            blocks_max: plan.blocks_max,
        }),
    };
    let assignments = sites.assignments();
    let mut held: Vec<_> = assignments
        .iter()
        .flat_map(|(name, held)| held.blocks.iter().map(move |block| (name, held.site, block)))
        .filter(|(_, _, block)| pool.contains(block.address))
        .map(|(name, site, block)| view::PlannedBlock {
            site,
            name: Some(name.to_owned()),
            address: block.address,
            first_port: block.first_port,
            last_port: block.last_port,
        })
        .collect();
    let taken = held.len() as u64;
    if let PoolMode::Block(plan) = pool.mode
        && plan.kind == PlanKind::Deterministic
    {
        held = planned(pool, sites);
    }
    held.sort_by_key(|block| (block.address, block.first_port));
    view::NatPool {
        name: pool.name.clone(),
        addresses: pool.addresses.iter().map(ToString::to_string).collect(),
        address_count: pool.size(),
        plan,
        room: pool.room(),
        taken,
        blocks: held,
    }
}

/// All of a deterministic plan, with the names of the sites that are known.
fn planned(pool: &NatPool, sites: &Sites) -> Vec<view::PlannedBlock> {
    let PoolMode::Block(plan) = pool.mode else {
        return Vec::new();
    };
    let names: HashMap<u32, &str> = sites
        .assignments()
        .iter()
        .filter(|(_, held)| held.blocks.iter().any(|block| pool.contains(block.address)))
        .map(|(name, held)| (held.site, name))
        .collect();
    let block = |site| {
        let block = pool.planned(&plan, site)?;
        Some(view::PlannedBlock {
            site,
            name: names.get(&site).map(|name| (*name).to_owned()),
            address: block.address,
            first_port: block.first_port,
            last_port: block.last_port,
        })
    };
    (1..gateway_common::abi::limit::SITES_MAX)
        .map_while(block)
        .collect()
}
