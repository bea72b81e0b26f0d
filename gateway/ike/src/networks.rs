//! Room for the networks of sites. The data plane finds the Child SA of a packet in one table of all sites, by the
//! site and the prefixes that its traffic selectors are. Here they are counted before the peer is answered: a Child SA
//! that there is no room for is refused, rather than made and deleted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    config::EndpointConfig,
    context::{Context, is_reserved},
    ids::{ChildId, IkeSaId},
    output::Event,
    traffic_selector::TrafficSelector,
    wire::notify::kind,
};

/// Address and prefix length.
pub type Prefix = ([u8; 4], u8);

/// The fewest prefixes that cover exactly `first` to `last`, in order; none if `first` lies behind `last`.
pub fn prefixes(first: Ipv4Addr, last: Ipv4Addr) -> Vec<Prefix> {
    let (mut next, last) = (u64::from(u32::from(first)), u64::from(u32::from(last)));
    let mut prefixes = Vec::new();
    while next <= last {
        // As large as the alignment of `next` and the rest of the range allow.
        let aligned = if next == 0 {
            32
        } else {
            next.trailing_zeros().min(32)
        };
        let fitting = (last - next + 1).ilog2();
        let host_bits = aligned.min(fitting);
        prefixes.push(((next as u32).to_be_bytes(), (32 - host_bits) as u8));
        next += 1 << host_bits;
    }
    prefixes
}

/// What sites have. A network that several Child SAs of a site have is one.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    /// Never empty: each network of a site, with the number of Child SAs that have it.
    of_sites: HashMap<u32, BTreeMap<Prefix, usize>>,
    /// Until packets to the site cannot take it any more.
    of_children: HashMap<ChildId, (u32, BTreeSet<Prefix>)>,
    in_all: usize,
}

/// Why a site does not get further networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shortage {
    /// How many it would have.
    networks: usize,
    /// How many it may have.
    max: usize,
    reason: &'static str,
    /// What the peer is told.
    notification: u16,
}

impl Networks {
    /// A Child SA has these from now on.
    pub(crate) fn hold(&mut self, child: ChildId, site: u32, selectors: &[TrafficSelector]) {
        let networks = networks(selectors);
        if networks.is_empty() {
            return;
        }
        let of_site = self.of_sites.entry(site).or_default();
        for network in &networks {
            let children = of_site.entry(*network).or_default();
            *children += 1;
            self.in_all += usize::from(*children == 1);
        }
        self.of_children.insert(child, (site, networks));
    }

    /// No packet takes the Child SA any more.
    pub(crate) fn let_go(&mut self, child: ChildId) {
        let Some((site, networks)) = self.of_children.remove(&child) else {
            return;
        };
        let Some(of_site) = self.of_sites.get_mut(&site) else {
            return;
        };
        for network in networks {
            if let Some(children) = of_site.get_mut(&network) {
                *children -= 1;
                if *children == 0 {
                    of_site.remove(&network);
                    self.in_all -= 1;
                }
            }
        }
        if of_site.is_empty() {
            self.of_sites.remove(&site);
        }
    }

    /// Whether there is room for a Child SA of a site. What the site has already needs none.
    fn room(
        &self,
        config: &EndpointConfig,
        site: u32,
        selectors: &[TrafficSelector],
    ) -> Result<(), Shortage> {
        let held = self.of_sites.get(&site);
        let is_new = |network: &Prefix| held.is_none_or(|held| !held.contains_key(network));
        let new = networks(selectors).into_iter().filter(is_new).count();
        if new == 0 {
            return Ok(());
        }
        let has = held.map_or(0, BTreeMap::len);
        let (networks, in_all) = (has + new, self.in_all + new);
        let room = config.networks_in_all_max;
        let share = room.div_ceil(config.sites_max.max(1));
        let refused = |max, reason, notification| {
            Err(Shortage {
                networks,
                max,
                reason,
                notification,
            })
        };
        if networks > config.networks_per_site_max {
            // RFC 7296 section 3.10.1: asked for again, these selectors would be refused again.
            let max = config.networks_per_site_max;
            return refused(max, "no site may have more", kind::TS_UNACCEPTABLE);
        }
        // The selectors are good, and there is no room: none of the notifications says so more nearly.
        if in_all > room {
            return refused(has, "there is no room for more", kind::NO_ADDITIONAL_SAS);
        }
        if is_reserved(in_all, room) && networks > share {
            return refused(
                share,
                "room runs short, and that is its share",
                kind::NO_ADDITIONAL_SAS,
            );
        }
        Ok(())
    }

    /// Child SAs that have networks.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn children(&self) -> impl Iterator<Item = ChildId> {
        self.of_children.keys().copied()
    }

    #[cfg(test)]
    pub(crate) fn in_all(&self) -> usize {
        self.in_all
    }
}

impl Context<'_> {
    /// Whether there is room for a Child SA with these selectors of the peer's side. If not, that is counted and told,
    /// and the notification is the answer to the peer.
    pub(crate) fn room_for(
        &mut self,
        ike_sa: IkeSaId,
        site: u32,
        ts_remote: &[TrafficSelector],
    ) -> Result<(), u16> {
        let Err(shortage) = self.networks.room(self.config, site, ts_remote) else {
            return Ok(());
        };
        self.counters.networks_refused += 1;
        self.event(Event::NetworksRefused {
            ike_sa,
            site,
            networks: shortage.networks,
            max: shortage.max,
            reason: shortage.reason,
        });
        Err(shortage.notification)
    }
}

/// Selectors that share addresses and differ in ports share networks. Of IPv6 the data plane has none.
fn networks(selectors: &[TrafficSelector]) -> BTreeSet<Prefix> {
    let of_selector = |selector: &TrafficSelector| match (selector.start, selector.end) {
        (IpAddr::V4(first), IpAddr::V4(last)) => prefixes(first, last),
        _ => Vec::new(),
    };
    selectors.iter().flat_map(of_selector).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(first: u32, last: u32) -> Vec<u32> {
        prefixes(first.into(), last.into())
            .into_iter()
            .flat_map(|(address, length)| {
                let start = u32::from_be_bytes(address);
                (0..1u64 << (32 - length)).map(move |host| start + host as u32)
            })
            .collect()
    }

    #[test]
    fn every_small_range_is_covered_exactly() {
        for first in 0..40u32 {
            for last in first..40 {
                assert_eq!(covered(first, last), (first..=last).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn subnets_stay_whole() {
        let all = prefixes(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        assert_eq!(all, [([0; 4], 0)]);
        let site = prefixes(Ipv4Addr::new(192, 168, 1, 0), Ipv4Addr::new(192, 168, 1, 255));
        assert_eq!(site, [([192, 168, 1, 0], 24)]);
        assert_eq!(
            prefixes(Ipv4Addr::BROADCAST, Ipv4Addr::BROADCAST),
            [([255; 4], 32)]
        );
        assert!(prefixes(Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED).is_empty());
    }
}
