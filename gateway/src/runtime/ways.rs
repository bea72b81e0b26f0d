//! The ways out: next hops of the core side and of peers, kept as routes and neighbours change.
//!
//! One task follows the kernel and writes what it finds into the data plane, so that a silent neighbour never holds
//! up IKE.
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_common::abi::next_hop::NextHop;
use gateway_esp::{LinkHeader, Tunnel, UdpEncap};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::core::path_mtu::PathMtus;
use crate::dataplane::{Dataplane, SaHandle, monotonic_s};
use crate::nexthop::{PeerHop, ResolveError, Resolver, Watcher};

/// Everything is looked at anew so often, should news from the kernel be lost.
const REFRESH: Duration = Duration::from_secs(10);
/// Destinations that packets asked for and no rule names; more are not resolved ahead.
const ASKED_MAX: usize = 4096;

/// How packets reach a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// WAN interface.
    pub(super) interface: String,
    /// Outer addresses, ports and Ethernet addresses.
    pub(super) tunnel: Tunnel,
    /// The data plane does not know it yet.
    pub(super) stale: bool,
}

/// What tells one path from another: outer addresses and ports.
type Path = (IpAddr, IpAddr, Option<UdpEncap>);

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
    /// Something is wanted that was not before.
    more: Notify,
}

/// Destinations on the core side.
#[derive(Default)]
struct Wanted {
    /// Named by rules.
    named: BTreeSet<Ipv4Addr>,
    /// Asked for by packets.
    asked: BTreeSet<Ipv4Addr>,
}

impl Ways {
    /// Starts to follow. `core` are the interfaces of the core side by index; `fixed` are next hops that the kernel does
    /// not know of, before those that it does.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket.
    pub(super) fn follow(
        dataplane: Arc<Dataplane>,
        core: Vec<u32>,
        fixed: Vec<([u8; 4], u8, NextHop)>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let resolver = Arc::new(Resolver::new()?);
        let follower = Follower {
            resolver: Arc::clone(&resolver),
            shared: Arc::clone(&shared),
            dataplane,
            core,
            fixed,
        };
        Ok(Self {
            resolver,
            shared,
            task: Some(tokio::spawn(follower.run(Watcher::new()?))),
        })
    }

    /// The way to a peer.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn resolve(&self, remote: IpAddr) -> Result<PeerHop, ResolveError> {
        self.resolver.resolve(remote).await
    }

    /// What a path carries whose first link carries `link` octets.
    pub(super) fn mtu(&self, local: IpAddr, remote: IpAddr, udp: Option<UdpEncap>, link: u16) -> u16 {
        lock(&self.shared.mtus).of(&(local, remote, udp), link, monotonic_s())
    }

    /// A router on the path of an SA says that it carries no more than `mtu` octets (RFC 4301 section 8.2). All SAs of the
    /// path follow at once: the task may be waiting for a neighbour that is silent.
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

    /// Keeps the way of an SA.
    pub(super) fn add(&self, handle: SaHandle, way: Way) {
        lock(&self.shared.peers).insert(handle, way);
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
        self.shared.more.notify_one();
    }

    /// Destinations to resolve ahead, in place of those wanted before.
    pub(super) fn want(&self, named: BTreeSet<Ipv4Addr>) {
        lock(&self.shared.wanted).named = named;
        self.shared.more.notify_one();
    }

    /// A packet to this destination found no next hop.
    pub(super) fn ask(&self, destination: Ipv4Addr) {
        let mut wanted = lock(&self.shared.wanted);
        if wanted.asked.len() < ASKED_MAX && wanted.asked.insert(destination) {
            self.shared.more.notify_one();
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
    fixed: Vec<([u8; 4], u8, NextHop)>,
}

impl Follower {
    async fn run(self, mut watcher: Watcher) {
        loop {
            if let Err(error) = self.dataplane.refresh_addresses() {
                tracing::error!(%error, "addresses of the interfaces");
            }
            self.core_side().await;
            self.peers().await;
            tokio::select! {
                () = watcher.changed(REFRESH) => self.resolver.forget(),
                () = self.shared.more.notified() => {}
            }
        }
    }

    async fn core_side(&self) {
        let destinations: BTreeSet<Ipv4Addr> = {
            let wanted = lock(&self.shared.wanted);
            wanted.named.union(&wanted.asked).copied().collect()
        };
        let mut hops = match self.resolver.core_next_hops(&self.core, &destinations).await {
            Ok(hops) => hops,
            Err(error) => {
                tracing::error!(%error, "next hops of the core side");
                return;
            }
        };
        hops.retain(|(prefix, length, _)| {
            !self
                .fixed
                .iter()
                .any(|fixed| (fixed.0, fixed.1) == (*prefix, *length))
        });
        hops.extend(&self.fixed);
        if let Err(error) = self.dataplane.set_next_hops(&hops) {
            tracing::error!(%error, "next hops of the core side");
        }
        // What did not answer is forgotten, so that the next packet to it asks again.
        let resolved: BTreeSet<Ipv4Addr> = hops
            .iter()
            .filter(|(_, length, _)| *length == 32)
            .map(|(address, _, _)| Ipv4Addr::from(*address))
            .collect();
        lock(&self.shared.wanted)
            .asked
            .retain(|asked| resolved.contains(asked) || !destinations.contains(asked));
    }

    async fn peers(&self) {
        lock(&self.shared.mtus).forget(monotonic_s());
        let peers: Vec<(SaHandle, Way)> = lock(&self.shared.peers)
            .iter()
            .map(|(handle, way)| (*handle, way.clone()))
            .collect();
        let remotes: HashSet<IpAddr> = peers.iter().map(|(_, way)| way.tunnel.remote).collect();
        let mut found: HashMap<IpAddr, PeerHop> = HashMap::new();
        for remote in remotes {
            match self.resolver.resolve(remote).await {
                Ok(hop) => {
                    found.insert(remote, hop);
                }
                Err(error) => {
                    tracing::warn!(%remote, %error, "the way to a peer is lost; the last one known is kept");
                }
            }
        }
        for (handle, way) in peers {
            if let Some(hop) = found.get(&way.tunnel.remote) {
                self.move_peer(handle, &way, hop);
            }
        }
    }

    fn move_peer(&self, handle: SaHandle, way: &Way, hop: &PeerHop) {
        let mut now = way.clone();
        now.interface.clone_from(&hop.interface);
        now.tunnel.mtu = lock(&self.shared.mtus).of(&path_of(way), hop.mtu, monotonic_s());
        now.tunnel.link = LinkHeader {
            destination: hop.destination_mac,
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
            Err(error) => tracing::error!(%error, remote = %way.tunnel.remote, "path of an SA not changed"),
        }
    }
}

fn tell_mtu(way: &Way, now: u16) {
    let (remote, before) = (way.tunnel.remote, way.tunnel.mtu);
    tracing::info!(%remote, before, now, "MTU of a path changed");
}

fn path_of(way: &Way) -> Path {
    (way.tunnel.local, way.tunnel.remote, way.tunnel.udp)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
