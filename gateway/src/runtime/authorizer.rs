//! Tells IKE which site a peer is.
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway_ike::proposal::with_pfs;
use gateway_ike::{AuthenticatedPeer, Authorizer, EspProposal, SitePolicy, TrafficSelector};

use super::ledger::SharedLedger;
use crate::config::{PortBlock, Prefix};
use crate::core::pools::{Change, Proposal};
use crate::core::sites::{SiteEntry, Sites};

/// Sites, shared by the controller and the authorizer inside the IKE endpoint, which run on the controller's task, and by who
/// compiles rules on another thread, which looks one up at a time.
#[derive(Clone)]
pub(super) struct SharedSites(Arc<Mutex<Sites>>);

impl SharedSites {
    pub(super) fn new(sites: Sites) -> Self {
        Self(Arc::new(Mutex::new(sites)))
    }

    pub(super) fn get(&self) -> MutexGuard<'_, Sites> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the authorizer decided and the journal is to know.
pub(super) enum Admission {
    /// A site was there for the first time.
    Known { site: u32, block: PortBlock },
    /// A peer with a valid certificate may not connect.
    Refused { peer: String, reason: String },
}

/// Decisions on their way from the authorizer to the controller, which takes them after each call of IKE.
#[derive(Clone, Default)]
pub(super) struct Admissions(Arc<Mutex<Vec<Admission>>>);

impl Admissions {
    fn push(&self, admission: Admission) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(admission);
    }

    /// Those since the last call.
    pub(super) fn take(&self) -> Vec<Admission> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Admits the sites of the configuration, and stores what a first visit assigns.
pub(super) struct SiteAuthorizer {
    pub(super) admissions: Admissions,
    pub(super) sites: SharedSites,
    /// Where what is assigned is noted.
    pub(super) ledger: SharedLedger,
    /// What sites may use whose table does not say otherwise.
    pub(super) esp_proposals: Vec<EspProposal>,
}

impl Authorizer for SiteAuthorizer {
    fn authorize(&self, peer: &AuthenticatedPeer) -> Option<SitePolicy> {
        let mut sites = self.sites.get();
        // IKE has seen to it already; who is let in hangs on it, so it is looked at once more.
        if peer.method() != sites.proved_by(&peer.identity) {
            self.admissions.push(Admission::Refused {
                peer: peer.identity.to_string(),
                reason: "it is configured to prove itself in another way".to_owned(),
            });
            return None;
        }
        if let Some(known) = sites.by_identity(&peer.identity) {
            return Some(policy(known, &sites.reachable(), &self.esp_proposals));
        }
        let keep = |proposal: &Proposal, changes: &[Change]| self.ledger.keep(proposal, changes);
        match sites.admit_and_keep(&peer.identity, keep) {
            Ok(entry) => {
                let block = entry.blocks.first().copied();
                self.admissions.push(Admission::Known {
                    site: entry.site,
                    block: block.unwrap_or(PortBlock::whole(entry.nat_address)),
                });
                Some(policy(&entry, &sites.reachable(), &self.esp_proposals))
            }
            Err(refusal) => {
                self.admissions.push(Admission::Refused {
                    peer: peer.identity.to_string(),
                    reason: refusal.to_string(),
                });
                None
            }
        }
    }
}

/// What a site may do.
pub(super) fn policy(entry: &SiteEntry, center: &[Prefix], esp_proposals: &[EspProposal]) -> SitePolicy {
    SitePolicy {
        site: entry.site,
        name: entry.name.clone(),
        ts_local: selectors(center),
        ts_remote: selectors(&entry.networks),
        esp_proposals: entry.pfs.map(|rule| with_pfs(esp_proposals, rule)),
    }
}

/// Networks as traffic selectors.
pub(super) fn selectors(networks: &[Prefix]) -> Vec<TrafficSelector> {
    let selector = |prefix: &Prefix| {
        let (first, last) = prefix.bounds();
        TrafficSelector::addresses(IpAddr::V4(first), IpAddr::V4(last))
    };
    networks.iter().map(selector).collect()
}
