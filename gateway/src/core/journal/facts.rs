//! Which site an SA belongs to, and where sites were seen.
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use gateway_ike::{ChildId, Event, IkeSaId};

use super::notice::Notice;

/// Addresses kept of a site, those seen last.
const ADDRESSES_MAX: usize = 4;
/// Predecessors kept of an IKE SA: the first, with which its history begins, and the last.
const ANCESTORS_MAX: usize = 64;

/// What earlier events said.
#[derive(Debug, Default)]
pub(super) struct Facts {
    ike_sas: HashMap<IkeSaId, IkeSa>,
    children: HashMap<ChildId, IkeSaId>,
    addresses: HashMap<u32, Vec<IpAddr>>,
    connections: HashMap<String, u32>,
    /// Child SAs of each site that has some.
    up: HashMap<u32, usize>,
}

#[derive(Debug)]
struct IkeSa {
    site: u32,
    children: BTreeSet<ChildId>,
    /// IKE SAs that it took over from, the newest last.
    ancestors: Vec<IkeSaId>,
}

impl Facts {
    /// The site of an IKE SA.
    pub(super) fn site_of_ike(&self, ike_sa: IkeSaId) -> Option<u32> {
        self.ike_sas.get(&ike_sa).map(|known| known.site)
    }

    /// The IKE SA that a Child SA belongs to now.
    pub(super) fn ike_of_child(&self, child: ChildId) -> Option<IkeSaId> {
        self.children.get(&child).copied()
    }

    /// The site of a Child SA.
    pub(super) fn site_of_child(&self, child: ChildId) -> Option<u32> {
        self.site_of_ike(self.ike_of_child(child)?)
    }

    /// Whether `older` is `ike_sa` or was taken over by it.
    pub(super) fn is_ancestor(&self, older: IkeSaId, ike_sa: IkeSaId) -> bool {
        let known = self.ike_sas.get(&ike_sa);
        older == ike_sa || known.is_some_and(|known| known.ancestors.contains(&older))
    }

    /// Whether the site has a Child SA.
    pub(super) fn is_up(&self, site: u32) -> bool {
        self.up.contains_key(&site)
    }

    /// Where the site was seen, the last place first.
    pub(super) fn addresses(&self, site: u32) -> &[IpAddr] {
        self.addresses.get(&site).map(Vec::as_slice).unwrap_or_default()
    }

    /// The site of a connection.
    pub(super) fn site_of_connection(&self, connection: &str) -> Option<u32> {
        self.connections.get(connection).copied()
    }

    /// A connection leads to this site.
    pub(super) fn leads_to(&mut self, connection: &str, site: u32) {
        self.connections.insert(connection.to_owned(), site);
    }

    /// The site was seen there.
    pub(super) fn seen_at(&mut self, site: u32, address: IpAddr) {
        let known = self.addresses.entry(site).or_default();
        known.retain(|known| *known != address);
        known.insert(0, address);
        known.truncate(ADDRESSES_MAX);
    }

    /// Takes in what a notice says.
    pub(super) fn learn(&mut self, notice: &Notice<'_>) {
        let Notice::Ike(event) = notice else { return };
        match event {
            Event::IkeSaEstablished {
                ike_sa, site, remote, ..
            } => {
                self.seen_at(*site, remote.ip().to_canonical());
                let new = IkeSa {
                    site: *site,
                    children: BTreeSet::new(),
                    ancestors: Vec::new(),
                };
                self.ike_sas.insert(*ike_sa, new);
            }
            Event::ChildSaEstablished { child, ike_sa, .. } => self.add_child(*child, *ike_sa),
            Event::ChildSaRekeyed { old, new, .. } => {
                if let Some(ike_sa) = self.ike_of_child(*old) {
                    self.add_child(*new, ike_sa);
                    self.remove_child(*old);
                }
            }
            Event::IkeSaRekeyed { old, new } => self.hand_on(*old, *new),
            Event::PeerMoved { ike_sa, to, .. } => {
                if let Some(site) = self.site_of_ike(*ike_sa) {
                    self.seen_at(site, to.ip().to_canonical());
                }
            }
            Event::ChildSaClosed { child, .. } => self.remove_child(*child),
            Event::Closed { ike_sa, .. } => {
                let children = self.ike_sas.get(ike_sa).map(|gone| gone.children.clone());
                for child in children.into_iter().flatten() {
                    self.remove_child(child);
                }
                self.ike_sas.remove(ike_sa);
            }
            Event::AuthenticationFailed { .. }
            | Event::ProposalRefused { .. }
            | Event::TrafficSelectorsRefused { .. }
            | Event::NetworksRefused { .. }
            | Event::RefusedByPeer { .. }
            | Event::MoveRefused { .. }
            | Event::Redirected { .. }
            | Event::RedirectRefused { .. }
            | Event::ConnectionDown { .. } => {}
        }
    }

    fn add_child(&mut self, child: ChildId, ike_sa: IkeSaId) {
        let Some(known) = self.ike_sas.get_mut(&ike_sa) else {
            return;
        };
        if known.children.insert(child) {
            *self.up.entry(known.site).or_default() += 1;
        }
        self.children.insert(child, ike_sa);
    }

    fn remove_child(&mut self, child: ChildId) {
        let ike_sa = self.children.remove(&child);
        let Some(known) = ike_sa.and_then(|ike_sa| self.ike_sas.get_mut(&ike_sa)) else {
            return;
        };
        if known.children.remove(&child)
            && let Some(count) = self.up.get_mut(&known.site)
        {
            *count -= 1;
            if *count == 0 {
                self.up.remove(&known.site);
            }
        }
    }

    fn hand_on(&mut self, old: IkeSaId, new: IkeSaId) {
        let Some(mut known) = self.ike_sas.remove(&old) else {
            return;
        };
        for child in &known.children {
            self.children.insert(*child, new);
        }
        if known.ancestors.len() == ANCESTORS_MAX {
            known.ancestors.remove(1);
        }
        known.ancestors.push(old);
        self.ike_sas.insert(new, known);
    }
}
