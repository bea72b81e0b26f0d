//! Addresses and port blocks of sites: what the configuration lets them keep, and what they get and give back while they run.
use std::sync::Arc;

use super::super::pools::{AssignError, Change, Proposal, Wanted, may_keep};
use super::{Refusal, SiteEntry, Sites};
use crate::config::{AnySite, NatPool, NatSource, PortBlock};

impl Sites {
    /// Takes away what the configuration no longer allows, before anybody is given anything: what one site must give back
    /// may be what another one is to get.
    pub(super) fn prune(&mut self) {
        let (config, fixed) = (Arc::clone(&self.config), Arc::clone(&self.fixed));
        let (named, mut assignments) = (Arc::clone(&self.named), std::mem::take(&mut self.assignments));
        let source = |name: &str| match named.get(name) {
            Some(place) => config.sites.get(*place).map(|site| site.nat.clone()),
            None => {
                let identity = name.parse().ok()?;
                let admits = |any: &&AnySite| any.pattern.admits(&identity);
                let any = config.any_sites.iter().find(admits)?;
                Some(NatSource::Pool(any.nat_pool.clone()))
            }
        };
        assignments.prune(|name, site, block| match source(name) {
            Some(NatSource::Fixed(address)) => may_keep(Wanted::Fixed(address), site, block, &fixed),
            Some(NatSource::Pool(pool)) => config
                .pool(&pool)
                .is_some_and(|pool| may_keep(Wanted::Pool(pool), site, block, &fixed)),
            // Nobody's any more: it is in nobody's way where it fits the plan of its pool, or where there is none.
            None => match config.nat_pools.iter().find(|pool| pool.contains(block.address)) {
                Some(pool) => may_keep(Wanted::Pool(pool), site, block, &fixed),
                None => block.is_whole() && !fixed.contains(&block.address),
            },
        });
        self.assignments = assignments;
    }

    /// Gives a site another port block; `keep` is called before anybody may use it.
    ///
    /// # Errors
    /// If it has as many as it may, none is free, or `keep` says no; nothing has changed then.
    pub fn grow(
        &mut self,
        site: u32,
        keep: impl FnOnce(&Proposal, &[Change]) -> Result<(), String>,
    ) -> Result<PortBlock, Refusal> {
        let unknown = || Refusal::Unknown(format!("site {site}"));
        let entry = self.known.get(&site).ok_or_else(unknown)?;
        let whole = || AssignError::WholeAddress {
            name: entry.name.clone(),
        };
        let pool = self.pool_of(entry).cloned().ok_or_else(whole)?;
        let (name, before) = (entry.name.clone(), entry.blocks.clone());
        let proposal =
            self.with_surroundings(|assignments, around| assignments.propose_more(&name, &pool, around))?;
        self.change(site, proposal, keep)?;
        let blocks = self.known.get(&site).map(|entry| entry.blocks.as_slice());
        let new = blocks
            .unwrap_or_default()
            .iter()
            .find(|block| !before.contains(block));
        new.copied().ok_or_else(unknown)
    }

    /// Takes one of its port blocks from a site; the first one stays. `keep` is called before anybody else may get it.
    ///
    /// # Errors
    /// If it has not got it, or `keep` says no; nothing has changed then.
    pub fn shrink(
        &mut self,
        site: u32,
        block: &PortBlock,
        keep: impl FnOnce(&Proposal, &[Change]) -> Result<(), String>,
    ) -> Result<(), Refusal> {
        let unknown = || Refusal::Unknown(format!("site {site}"));
        let entry = self.known.get(&site).ok_or_else(unknown)?;
        let proposal = self.assignments.propose_less(&entry.name, block);
        self.change(site, proposal.ok_or_else(unknown)?, keep)
    }

    fn change(
        &mut self,
        site: u32,
        proposal: Proposal,
        keep: impl FnOnce(&Proposal, &[Change]) -> Result<(), String>,
    ) -> Result<(), Refusal> {
        keep(&proposal, &self.assignments.changes(&proposal)).map_err(Refusal::NotKept)?;
        if let Some(entry) = self.known.get_mut(&site) {
            entry.blocks.clone_from(&proposal.assignment.blocks);
        }
        self.assignments.accept(proposal);
        Ok(())
    }

    /// The pool that a site's blocks come from.
    #[must_use]
    pub fn pool_of(&self, entry: &SiteEntry) -> Option<&NatPool> {
        let pool = match entry.any_site {
            Some(place) => &self.config.any_sites.get(place)?.nat_pool,
            None => match &self.config.sites.get(self.configured(&entry.name)?)?.nat {
                NatSource::Fixed(_) => return None,
                NatSource::Pool(pool) => pool,
            },
        };
        self.config.pool(pool)
    }

    /// All pools.
    #[must_use]
    pub fn pools(&self) -> &[NatPool] {
        &self.config.nat_pools
    }
}
