//! Tells IKE which site a peer is.
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway_ike::proposal::with_pfs;
use gateway_ike::{AuthenticatedPeer, Authorizer, EspProposal, SitePolicy, TrafficSelector};

use crate::config::Prefix;
use crate::core::sites::{SiteEntry, Sites};
use crate::store;

/// Sites, shared by the controller and the authorizer inside the IKE endpoint; both run on the controller's task.
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

/// Admits the sites of the configuration, and stores what a first visit assigns.
pub(super) struct SiteAuthorizer {
    pub(super) sites: SharedSites,
    pub(super) store: PathBuf,
    /// What sites may use whose table does not say otherwise.
    pub(super) esp_proposals: Vec<EspProposal>,
}

impl Authorizer for SiteAuthorizer {
    fn authorize(&self, peer: &AuthenticatedPeer) -> Option<SitePolicy> {
        let mut sites = self.sites.get();
        // Works on a copy: an address that could not be stored would not be stable, and is not given out.
        let mut admitted = sites.clone();
        let entry = match admitted.admit(&peer.identity) {
            Ok(entry) => entry,
            Err(refusal) => {
                tracing::warn!(peer = %peer.identity, %refusal, "peer refused");
                return None;
            }
        };
        if admitted.assignments() != sites.assignments() {
            if let Err(error) = store::replace_json(&self.store, admitted.assignments()) {
                tracing::error!(peer = %peer.identity, %error, "peer refused: its address cannot be stored");
                return None;
            }
            tracing::info!(site = %entry.name, number = entry.site, nat_address = %entry.nat_address, "site known from now on");
        }
        let policy = policy(&entry, admitted.center_networks(), &self.esp_proposals);
        *sites = admitted;
        Some(policy)
    }
}

fn policy(entry: &SiteEntry, center: &[Prefix], esp_proposals: &[EspProposal]) -> SitePolicy {
    SitePolicy {
        site: entry.site,
        name: entry.name.clone(),
        ts_local: selectors(center),
        ts_remote: selectors(&entry.networks),
        esp_proposals: entry.pfs.map(|rule| with_pfs(esp_proposals, rule)),
    }
}

fn selectors(networks: &[Prefix]) -> Vec<TrafficSelector> {
    let selector = |prefix: &Prefix| {
        let (first, last) = prefix.bounds();
        TrafficSelector::addresses(IpAddr::V4(first), IpAddr::V4(last))
    };
    networks.iter().map(selector).collect()
}
