//! The way to the peer of a tunnel.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::netlink::{Neighbour, ResolveError, Resolver};

/// Over which neighbour the ways lead, and the hops without its MAC address.
type Ways = HashMap<IpAddr, Result<(Neighbour, PeerHop), ResolveError>>;

fn neighbours(ways: &Ways) -> BTreeSet<Neighbour> {
    let ways = ways.values().filter_map(|way| way.as_ref().ok());
    ways.map(|(neighbour, _)| *neighbour).collect()
}

/// Where the packets of a tunnel leave to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHop {
    /// Egress interface.
    pub ifindex: u32,
    /// Its name.
    pub interface: String,
    /// Its MTU, in octets of IP.
    pub mtu: u16,
    /// Its MAC address.
    pub source_mac: [u8; 6],
    /// MAC address of the peer, or of the router to it; `None` while the kernel looks for it.
    pub destination_mac: Option<[u8; 6]>,
    /// The address that the kernel would send from.
    pub source: Option<IpAddr>,
}

impl Resolver {
    /// The way to `remote` as the kernel knows it now. A neighbour that is unknown is asked for and not waited for.
    ///
    /// # Errors
    /// [`ResolveError`] says what is missing; of a neighbour, that it was asked lately and did not answer.
    pub async fn peer_hop(&self, remote: IpAddr) -> Result<PeerHop, ResolveError> {
        self.forget_routes([&remote]);
        let (neighbour, hop) = self.way_out(remote).await?;
        let wanted = BTreeSet::from([neighbour]);
        self.ask_for(&wanted).await?;
        let found = self.look(&wanted).await?;
        self.with_mac(hop, neighbour, &found)
    }

    /// The ways to many peers. All neighbours are asked for at once; one that is silent holds nobody up.
    ///
    /// # Errors
    /// Netlink fails. What is wrong with the way to a peer is said in its place.
    pub async fn peer_hops(
        &self,
        remotes: HashSet<IpAddr>,
    ) -> Result<HashMap<IpAddr, Result<PeerHop, ResolveError>>, ResolveError> {
        let mut ways = self.ways_out(remotes).await;
        let wanted = neighbours(&ways);
        let mut found = self.find(&wanted).await?;
        // The kernel may know a better way than over somebody who is silent.
        let is_lost = |way: &Result<(Neighbour, PeerHop), ResolveError>| {
            way.as_ref()
                .is_ok_and(|(neighbour, _)| !found.contains_key(neighbour))
        };
        let lost: HashSet<IpAddr> = ways
            .iter()
            .filter(|(_, way)| is_lost(way))
            .map(|(remote, _)| *remote)
            .collect();
        if !lost.is_empty() {
            self.forget_routes(&lost);
            let again = self.ways_out(lost).await;
            let others: BTreeSet<Neighbour> = neighbours(&again).difference(&wanted).copied().collect();
            if !others.is_empty() {
                found.extend(self.find(&others).await?);
            }
            ways.extend(again);
        }
        let hop = |(remote, way): (IpAddr, Result<(Neighbour, PeerHop), ResolveError>)| {
            let hop = way.and_then(|(neighbour, hop)| self.with_mac(hop, neighbour, &found));
            (remote, hop)
        };
        Ok(ways.into_iter().map(hop).collect())
    }

    async fn ways_out(&self, remotes: HashSet<IpAddr>) -> Ways {
        let mut ways = Ways::with_capacity(remotes.len());
        for remote in remotes {
            ways.insert(remote, self.way_out(remote).await);
        }
        ways
    }

    /// The neighbour that leads to `remote`, and the way without its MAC address.
    async fn way_out(&self, remote: IpAddr) -> Result<(Neighbour, PeerHop), ResolveError> {
        let route = self.route(remote).await?;
        let link = self.link(route.ifindex).await?;
        let ifindex = route.ifindex;
        let hop = PeerHop {
            ifindex,
            interface: link.name,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            source_mac: link.mac.ok_or(ResolveError::NotEthernet { remote, ifindex })?,
            destination_mac: None,
            source: route.source,
        };
        Ok(((ifindex, route.neighbour), hop))
    }

    fn with_mac(
        &self,
        hop: PeerHop,
        (ifindex, neighbour): Neighbour,
        found: &HashMap<Neighbour, [u8; 6]>,
    ) -> Result<PeerHop, ResolveError> {
        let destination_mac = found.get(&(ifindex, neighbour)).copied();
        if destination_mac.is_none() && self.is_silent((ifindex, neighbour)) {
            return Err(ResolveError::Unreachable { neighbour, ifindex });
        }
        Ok(PeerHop {
            destination_mac,
            ..hop
        })
    }
}
