//! The ways out: next hops of the core side and of peers, kept as routes and neighbours change.
//!
//! One task follows the kernel and writes what it finds into the data plane. It waits for no neighbour: one that is silent
//! holds up neither IKE nor the ways to others, and the kernel sends news once it has answered.
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_common::abi::next_hop::NextHop;
use gateway_esp::{LinkHeader, Tunnel, UdpEncap};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, yield_now};

use super::asked::Asked;
use crate::core::path_mtu::PathMtus;
use crate::dataplane::{Dataplane, DataplaneError, SaHandle, monotonic_s};
use crate::nexthop::{CoreHops, PeerHop, ResolveError, Resolver, Watcher};

/// Everything is looked at anew so often, should news from the kernel be lost.
const REFRESH: Duration = Duration::from_secs(10);
/// Peers that are moved before others have their turn.
const PEERS_AT_ONCE: usize = 64;

/// How packets reach a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Site of the SA.
    pub(super) site: u32,
    /// WAN interface.
    pub(super) interface: String,
    /// Outer addresses, ports and Ethernet addresses.
    pub(super) tunnel: Tunnel,
    /// The data plane does not know it yet.
    pub(super) stale: bool,
}

/// What tells one path from another: outer addresses and ports, and the site. A site's router may send from whichever address
/// it likes, so that its SAs seem to have come to another's: what it says of them then is about its own alone.
type Path = (u32, IpAddr, IpAddr, Option<UdpEncap>);

/// Follows them.
pub(super) struct Ways {
    resolver: Arc<Resolver>,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    peers: Mutex<HashMap<SaHandle, Way>>,
    /// Paths that are narrower than their first link.
    mtus: Mutex<PathMtus<Path>>,
    more: More,
}

/// Something is wanted that was not before.
#[derive(Default)]
struct More {
    told: Notify,
    destinations: AtomicBool,
}

impl More {
    /// A peer has no way, or has moved: its router decides how often.
    fn of_peers(&self) {
        self.told.notify_one();
    }

    /// Of the core side.
    fn of_destinations(&self) {
        self.destinations.store(true, Relaxed);
        self.told.notify_one();
    }

    /// What is to be looked at, once there is something.
    async fn next(&self) -> Scope {
        self.told.notified().await;
        match self.destinations.swap(false, Relaxed) {
            true => Scope::More,
            false => Scope::Peers,
        }
    }
}

/// Destinations on the core side.
#[derive(Default)]
struct Wanted {
    /// Named by rules.
    named: BTreeSet<Ipv4Addr>,
    /// Asked for by packets.
    asked: Asked,
}

impl Ways {
    /// Starts to follow. `core` are the interfaces of the core side by index; `fixed` are next hops of
    /// addresses that the kernel does not know of, before those that it does.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket.
    pub(super) fn follow(
        dataplane: Arc<Dataplane>,
        core: Vec<u32>,
        fixed: Vec<(Ipv4Addr, NextHop)>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        lock(&shared.wanted).asked = Asked::beside(neighbours_max());
        let resolver = Arc::new(Resolver::new()?);
        let follower = Follower {
            resolver: Arc::clone(&resolver),
            shared: Arc::clone(&shared),
            dataplane,
            core,
            fixed,
            missing: Missing::default(),
            lost: HashSet::new(),
        };
        Ok(Self {
            resolver,
            shared,
            task: Some(tokio::spawn(follower.run(Watcher::new()?))),
        })
    }

    /// The way to a peer as it is known now: who installs an SA does not wait for a neighbour.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn to(&self, remote: IpAddr) -> Result<PeerHop, ResolveError> {
        self.resolver.peer_hop(remote).await
    }

    /// What a path of a site carries whose first link carries `link` octets.
    pub(super) fn mtu(
        &self,
        site: u32,
        (local, remote): (IpAddr, IpAddr),
        udp: Option<UdpEncap>,
        link: u16,
    ) -> u16 {
        lock(&self.shared.mtus).of(&(site, local, remote, udp), link, monotonic_s())
    }

    /// A router on the path of an SA says that it carries no more than `mtu` octets (RFC 4301 section 8.2). All SAs of the
    /// site on that path follow at once.
    pub(super) fn lower(&self, dataplane: &Dataplane, handle: SaHandle, mtu: u16) {
        let Some(path) = lock(&self.shared.peers).get(&handle).map(path_of) else {
            return;
        };
        if !lock(&self.shared.mtus).lower(path, mtu, monotonic_s()) {
            return;
        }
        for (handle, way) in lock(&self.shared.peers).iter_mut() {
            if way.stale || path_of(way) != path || way.tunnel.mtu <= mtu {
                continue;
            }
            let tunnel = Tunnel { mtu, ..way.tunnel };
            match dataplane.update_path(*handle, &way.interface, tunnel) {
                Ok(()) => {
                    tell_mtu(way, mtu);
                    way.tunnel = tunnel;
                }
                Err(error) => {
                    tracing::error!(%error, remote = %way.tunnel.remote, "MTU of an SA not changed")
                }
            }
        }
    }

    /// Keeps the way of an SA. One that is stale follows as soon as it is found.
    pub(super) fn add(&self, handle: SaHandle, way: Way) {
        let is_stale = way.stale;
        lock(&self.shared.peers).insert(handle, way);
        if is_stale {
            self.shared.more.of_peers();
        }
    }

    /// Forgets the way of an SA.
    pub(super) fn remove(&self, handle: SaHandle) {
        lock(&self.shared.peers).remove(&handle);
    }

    /// An SA goes between other outer addresses from now on (RFC 7296 section 2.23, RFC 4555). The task finds the
    /// way there and tells the data plane; until then packets take the way that is known.
    pub(super) fn move_peer_to(
        &self,
        handle: SaHandle,
        local: IpAddr,
        remote: IpAddr,
        udp: Option<UdpEncap>,
    ) {
        let mut peers = lock(&self.shared.peers);
        let Some(way) = peers.get_mut(&handle) else {
            return;
        };
        let before = (way.tunnel.local, way.tunnel.remote, way.tunnel.udp);
        if before == (local, remote, udp) {
            return;
        }
        (way.tunnel.local, way.tunnel.remote, way.tunnel.udp) = (local, remote, udp);
        way.stale = true;
        self.shared.more.of_peers();
    }

    /// Destinations to resolve ahead, in place of those wanted before.
    pub(super) fn want(&self, named: BTreeSet<Ipv4Addr>) {
        lock(&self.shared.wanted).named = named;
        self.shared.more.of_destinations();
    }

    /// A packet of a site to this destination found no next hop, or will come; 0: of whichever site.
    pub(super) fn ask(&self, destination: Ipv4Addr, site: u32) {
        if lock(&self.shared.wanted)
            .asked
            .ask(destination, site, monotonic_s())
        {
            self.shared.more.of_destinations();
        }
    }

    /// Ends the task, and with it its use of the data plane.
    pub(super) async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

struct Follower {
    resolver: Arc<Resolver>,
    shared: Arc<Shared>,
    dataplane: Arc<Dataplane>,
    core: Vec<u32>,
    fixed: Vec<(Ipv4Addr, NextHop)>,
    /// Why next hops are missing, that was told already.
    missing: Missing,
    /// Peers without a way, that was told already.
    lost: HashSet<IpAddr>,
}

/// Why not all next hops of the core side are there.
#[derive(Default)]
struct Missing(Option<String>);

impl Missing {
    /// Whether it is another reason than before, or none any more. How many are too many changes with each route.
    fn is_news(&mut self, set: &Result<(), DataplaneError>) -> bool {
        let reason = set.as_ref().err().map(|error| match error {
            DataplaneError::NextHops { .. } => "too many".to_owned(),
            other => other.to_string(),
        });
        std::mem::replace(&mut self.0, reason.clone()) != reason
    }

    fn tell(&mut self, set: &Result<(), DataplaneError>) {
        if !self.is_news(set) {
            return;
        }
        match set {
            Ok(()) => tracing::info!("all next hops of the core side are there"),
            Err(error) => tracing::error!(%error, "next hops of the core side"),
        }
    }
}

/// What a pass looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Everything: the kernel has news.
    All,
    /// What is wanted that was not before.
    More,
    /// Of that, peers alone: routes and neighbours of the core side are what they were, and to ask for all of them takes
    /// milliseconds.
    Peers,
}

impl Follower {
    async fn run(mut self, mut watcher: Watcher) {
        let mut scope = Scope::All;
        loop {
            if scope == Scope::All
                && let Err(error) = self.dataplane.refresh_addresses()
            {
                tracing::error!(%error, "addresses of the interfaces");
            }
            if scope != Scope::Peers {
                self.core_side().await;
            }
            self.peers(scope).await;
            scope = tokio::select! {
                news = watcher.changed(REFRESH) => {
                    self.resolver.forget(&news);
                    self.resolver.ask_again(&news.interfaces);
                    if !news.interfaces.is_empty() {
                        lock(&self.shared.wanted).asked.ask_again();
                    }
                    Scope::All
                }
                more = self.shared.more.next() => more,
            };
        }
    }

    async fn core_side(&mut self) {
        let (asked, destinations) = {
            let wanted = lock(&self.shared.wanted);
            let asked = wanted.asked.destinations();
            let destinations: BTreeSet<Ipv4Addr> = wanted.named.union(&asked).copied().collect();
            (asked, destinations)
        };
        let CoreHops { hops, on_link } = match self.resolver.core_next_hops(&self.core, &destinations).await {
            Ok(hops) => hops,
            Err(error) => {
                tracing::error!(%error, "next hops of the core side");
                return;
            }
        };
        let set = self.dataplane.set_next_hops(&hops, &self.fixed);
        let is_there = |address: &Ipv4Addr, hop: &NextHop| {
            set.is_ok() || self.dataplane.next_hop(*address).as_ref() == Some(hop)
        };
        let resolved: BTreeSet<Ipv4Addr> = hops
            .iter()
            .filter(|(_, length, hop)| *length == 32 && hop.resolved != 0)
            .map(|(address, _, hop)| (Ipv4Addr::from(*address), hop))
            .filter(|(address, hop)| asked.contains(address) && is_there(address, hop))
            .map(|(address, _)| address)
            .collect();
        self.missing.tell(&set);
        lock(&self.shared.wanted)
            .asked
            .found(&asked, &resolved, &on_link, monotonic_s());
    }

    async fn peers(&mut self, scope: Scope) {
        lock(&self.shared.mtus).forget(monotonic_s());
        let peers: Vec<(SaHandle, Way)> = lock(&self.shared.peers)
            .iter()
            .filter(|(_, way)| scope == Scope::All || way.stale)
            .map(|(handle, way)| (*handle, way.clone()))
            .collect();
        let remotes: HashSet<IpAddr> = peers.iter().map(|(_, way)| way.tunnel.remote).collect();
        if scope == Scope::All {
            self.lost.retain(|remote| remotes.contains(remote));
        }
        let found = match self.resolver.peer_hops(remotes).await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "ways to the peers");
                return;
            }
        };
        for (number, (handle, way)) in peers.into_iter().enumerate() {
            // Each one that moves waits for its worker: IKE has its turn in between.
            if number % PEERS_AT_ONCE == PEERS_AT_ONCE - 1 {
                yield_now().await;
            }
            if let Some(Ok(hop)) = found.get(&way.tunnel.remote)
                && let Some(destination) = hop.destination_mac
            {
                self.move_peer(handle, &way, hop, destination);
            }
        }
        self.tell_lost(&found);
    }

    /// Tells once of ways that are lost: thousands may be, behind one router.
    fn tell_lost(&mut self, found: &HashMap<IpAddr, Result<PeerHop, ResolveError>>) {
        let (mut peers, mut one) = (0, None);
        for (remote, hop) in found {
            match hop {
                Ok(hop) if hop.destination_mac.is_some() => {
                    self.lost.remove(remote);
                }
                // The kernel is looking for it.
                Ok(_) => {}
                Err(error) => {
                    if self.lost.insert(*remote) {
                        peers += 1;
                        one = Some((remote, error));
                    }
                }
            }
        }
        if let Some((remote, error)) = one {
            tracing::warn!(peers, %remote, %error, "ways to peers are lost; the last ones known are kept");
        }
    }

    fn move_peer(&self, handle: SaHandle, way: &Way, hop: &PeerHop, destination: [u8; 6]) {
        let mut now = way.clone();
        now.interface.clone_from(&hop.interface);
        now.tunnel.mtu = lock(&self.shared.mtus).of(&path_of(way), hop.mtu, monotonic_s());
        now.tunnel.link = LinkHeader {
            destination,
            source: hop.source_mac,
        };
        if now == *way && !way.stale {
            return;
        }
        now.stale = false;
        let mut peers = lock(&self.shared.peers);
        // It may have been removed or moved meanwhile; a move wakes this task again.
        let Some(kept) = peers.get_mut(&handle).filter(|kept| *kept == way) else {
            return;
        };
        match self.dataplane.update_path(handle, &now.interface, now.tunnel) {
            Ok(()) => {
                if now.tunnel.mtu != way.tunnel.mtu {
                    tell_mtu(way, now.tunnel.mtu);
                }
                *kept = now;
            }
            Err(error) => {
                tracing::error!(%error, remote = %way.tunnel.remote, "path of an SA not changed");
                // Part of it may have, also if the next pass finds that it need not.
                kept.stale = true;
            }
        }
    }
}

/// Neighbours that the kernel holds, of all network namespaces together; it says so in the first of them alone.
fn neighbours_max() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").ok()?;
    text.trim().parse().ok()
}

fn tell_mtu(way: &Way, now: u16) {
    let (remote, before) = (way.tunnel.remote, way.tunnel.mtu);
    tracing::info!(%remote, before, now, "MTU of a path changed");
}

fn path_of(way: &Way) -> Path {
    (way.site, way.tunnel.local, way.tunnel.remote, way.tunnel.udp)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use gateway_esp::OuterDf;

    use super::*;

    fn way(site: u32) -> Way {
        let tunnel = Tunnel {
            local: Ipv6Addr::LOCALHOST.into(),
            remote: Ipv6Addr::LOCALHOST.into(),
            udp: None,
            link: LinkHeader {
                destination: [1; 6],
                source: [2; 6],
            },
            mtu: 1500,
            df: OuterDf::Set,
        };
        Way {
            site,
            interface: "wan4".to_owned(),
            tunnel,
            stale: false,
        }
    }

    /// Regression: that a table was too large was told every ten seconds.
    #[test]
    fn that_next_hops_are_missing_is_told_once() {
        let mut missing = Missing::default();
        assert!(!missing.is_news(&Ok(())));
        let too_many = |have| {
            Err(DataplaneError::NextHops {
                have,
                max: 16_384,
                closed: 2,
            })
        };
        assert!(missing.is_news(&too_many(16_385)));
        assert!(!missing.is_news(&too_many(16_386)));
        let other = Err(DataplaneError::Missing("memory".to_owned()));
        assert!(missing.is_news(&other) && !missing.is_news(&other));
        assert!(missing.is_news(&Ok(())) && !missing.is_news(&Ok(())));
    }

    /// Regression: each time that a router moved, routes and neighbours of the core side were asked for anew.
    #[tokio::test]
    async fn a_peer_that_moves_has_the_core_side_left_alone() {
        let more = More::default();
        more.of_peers();
        assert_eq!(more.next().await, Scope::Peers);
        more.of_destinations();
        // It takes no more turns than one, and loses nothing of what else is wanted.
        more.of_peers();
        assert_eq!(more.next().await, Scope::More);
        more.of_peers();
        assert_eq!(more.next().await, Scope::Peers);
    }

    /// Regression: a router that sent from the address of another site's had its SAs there, and an error that quoted one of them
    /// narrowed the other site's tunnel for ten minutes.
    #[test]
    fn an_error_about_one_site_narrows_no_path_of_another_at_the_same_address() {
        let mut mtus = PathMtus::default();
        assert!(mtus.lower(path_of(&way(1)), 576, 7));
        let of = |site| mtus.of(&path_of(&way(site)), 1500, 8);
        assert_eq!((of(1), of(2)), (576, 1500));
    }
}
