//! Which SAs packets to a site's networks take. Several SAs may share a network's traffic (RFC 9611), each for the worker
//! that owns it.

use std::collections::BTreeMap;

use gateway_common::abi::limit;
use gateway_common::abi::sa::{SHARES, SaShares};

use super::sa::SaHandle;

/// A network of a site: site, address, prefix length.
pub(crate) type Network = (u32, ([u8; 4], u8));

/// Networks of one site at most, as prefixes, so that no site takes the room of others: a range of addresses may be
/// dozens of them, and a peer may name many.
pub(crate) const NETWORKS_MAX: usize = 256;
/// Networks of all sites. The map holds one more: before 6.13 Linux changes no entry of a trie that is full, so that no site
/// could be rekeyed.
pub(crate) const NETWORKS_IN_ALL_MAX: usize = limit::SAS_MAX as usize - 1;

/// The way to each network.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Never empty; the one activated last comes first.
    ways: BTreeMap<Network, Vec<SaHandle>>,
}

impl Routes {
    /// From now on `sa` is the way, and those `beside` it which have been until now.
    pub(crate) fn activate(&mut self, network: Network, sa: SaHandle, beside: &[SaHandle]) {
        let way = self.ways.entry(network).or_default();
        way.retain(|other| *other != sa && beside.contains(other));
        way.insert(0, sa);
        way.truncate(SHARES);
    }

    /// `sa` is no way any more. Whether it was.
    pub(crate) fn leave(&mut self, network: Network, sa: SaHandle) -> bool {
        let Some(way) = self.ways.get_mut(&network) else {
            return false;
        };
        let before = way.len();
        way.retain(|other| *other != sa);
        let was = way.len() < before;
        if way.is_empty() {
            self.ways.remove(&network);
        }
        was
    }

    /// How many networks the site would have with these.
    pub(crate) fn networks_with(&self, site: u32, more: &[Network]) -> usize {
        let (first, last) = ((site, ([0; 4], 0)), (site, ([u8::MAX; 4], u8::MAX)));
        let new = more.iter().filter(|network| !self.ways.contains_key(network));
        self.ways.range(first..=last).count() + new.count()
    }

    /// Puts back what was the way.
    pub(crate) fn restore(&mut self, network: Network, way: Vec<SaHandle>) {
        if way.is_empty() {
            self.ways.remove(&network);
        } else {
            self.ways.insert(network, way);
        }
    }

    /// The SAs to a network; empty if there is none.
    pub(crate) fn to(&self, network: Network) -> &[SaHandle] {
        self.ways.get(&network).map_or(&[], Vec::as_slice)
    }
}

/// Who sends on which of several SAs: a worker on its own if it has one, else on any. `None` if there is but one.
pub(crate) fn shares(way: &[SaHandle]) -> Option<SaShares> {
    if way.len() < 2 {
        return None;
    }
    let own = |queue: u32| way.iter().find(|sa| sa.worker == queue);
    let any = |queue: u32| way.iter().cycle().nth(queue as usize);
    let mut shares = SaShares::default();
    for (queue, share) in (0..).zip(&mut shares.sa_index) {
        *share = own(queue).or_else(|| any(queue)).map_or(0, |sa| sa.index());
    }
    Some(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: Network = (7, ([192, 168, 1, 0], 24));

    fn sa(worker: u32, slot: u32) -> SaHandle {
        SaHandle {
            worker,
            slot,
            generation: 1,
        }
    }

    #[test]
    fn the_sa_activated_last_is_the_way_and_those_beside_it_stay() {
        let mut routes = Routes::default();
        let (one, two, three) = (sa(0, 1), sa(1, 1), sa(2, 1));
        assert!(routes.to(NETWORK).is_empty());
        routes.activate(NETWORK, one, &[]);
        routes.activate(NETWORK, two, &[one]);
        assert_eq!(routes.to(NETWORK), [two, one]);
        // Said again, nothing changes; what was never activated does not come by being named.
        routes.activate(NETWORK, two, &[one, three]);
        assert_eq!(routes.to(NETWORK), [two, one]);
        // The successor of one of them.
        routes.activate(NETWORK, three, &[two]);
        assert_eq!(routes.to(NETWORK), [three, two]);
        // One for all traffic.
        routes.activate(NETWORK, one, &[]);
        assert_eq!(routes.to(NETWORK), [one]);
        assert!(routes.to((8, NETWORK.1)).is_empty());
    }

    #[test]
    fn what_remains_carries_on() {
        let mut routes = Routes::default();
        let (one, two) = (sa(0, 1), sa(1, 1));
        routes.activate(NETWORK, one, &[]);
        routes.activate(NETWORK, two, &[one]);
        assert!(routes.leave(NETWORK, two));
        assert!(!routes.leave(NETWORK, two), "no longer");
        assert_eq!(routes.to(NETWORK), [one]);
        assert!(routes.leave(NETWORK, one));
        assert!(routes.to(NETWORK).is_empty() && routes.ways.is_empty());
    }

    #[test]
    fn networks_of_a_site_are_counted_once() {
        let mut routes = Routes::default();
        let network = |site, last| (site, ([10, 0, 0, last], 32));
        for last in 0..9 {
            routes.activate(network(7, last), sa(0, 1), &[]);
            routes.activate(network(8, last), sa(0, 2), &[]);
        }
        let (known, new) = (network(7, 3), network(7, 77));
        assert_eq!(routes.networks_with(7, &[known, new]), 10);
        assert_eq!(routes.networks_with(6, &[network(6, 1)]), 1);
        let before = routes.to(known).to_vec();
        routes.activate(known, sa(1, 1), &[]);
        routes.restore(known, before);
        assert_eq!(routes.to(known), [sa(0, 1)]);
        routes.restore(known, Vec::new());
        assert!(routes.to(known).is_empty());
    }

    #[test]
    fn a_worker_sends_on_its_own() {
        assert_eq!(shares(&[]), None);
        assert_eq!(shares(&[sa(3, 9)]), None);
        let (zero, two) = (sa(0, 5), sa(2, 6));
        let shares = shares(&[two, zero]).expect("two");
        assert_eq!(
            (shares.of_queue(0), shares.of_queue(2)),
            (zero.index(), two.index())
        );
        // Workers without one take turns; queues beyond begin anew.
        assert_eq!(
            (shares.of_queue(1), shares.of_queue(4)),
            (zero.index(), two.index())
        );
        assert_eq!(shares.of_queue(SHARES as u32 + 2), two.index());
    }

    #[test]
    fn no_more_than_fit_share() {
        let mut routes = Routes::default();
        let all: Vec<_> = (0..20).map(|worker| sa(worker, 0)).collect();
        for one in &all {
            routes.activate(NETWORK, *one, &all);
        }
        assert_eq!(routes.to(NETWORK).len(), SHARES);
        assert_eq!(routes.to(NETWORK).first(), all.last());
    }
}
