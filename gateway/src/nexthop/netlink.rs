//! Questions to the kernel over rtnetlink, and the news it sends.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, pin_mut};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, IpVersion, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How long a neighbour may take to answer: the kernel asks three times, a second apart.
const RESOLVE_MAX: Duration = Duration::from_millis(3500);
/// How long one on a quick link takes.
const RESOLVE_STEP: Duration = Duration::from_millis(20);
/// How long a neighbour that was asked for is not asked for again: one that is silent costs the kernel three questions in
/// this time, however many ways lead over it.
const SILENT: Duration = Duration::from_secs(10);
/// Ways that are known at a time; further ones are asked for each time.
const ROUTES_MAX: usize = 100_000;
/// News within this time are one change.
const SETTLE: Duration = Duration::from_millis(50);
/// News that do not end are told of so often.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// A neighbour: on which interface, and its address.
pub(super) type Neighbour = (u32, IpAddr);

/// How often the kernel was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// To look for a neighbour.
    pub probes: u64,
    /// For all neighbours of a family.
    pub dumps: u64,
    /// For the way to an address.
    pub routes: u64,
}

/// Why there is no next hop.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The routing table has no way there.
    #[error("no route to {0}: add one, or a default route")]
    NoRoute(IpAddr),
    /// The way leads over an interface without Ethernet addresses.
    #[error("the route to {remote} leads over interface {ifindex}, which is not Ethernet")]
    NotEthernet {
        /// Where to.
        remote: IpAddr,
        /// Over which interface.
        ifindex: u32,
    },
    /// The neighbour does not answer ARP or neighbour solicitations.
    #[error("{neighbour} does not answer on interface {ifindex}")]
    Unreachable {
        /// Who.
        neighbour: IpAddr,
        /// On which interface.
        ifindex: u32,
    },
    /// Netlink failed.
    #[error("netlink: {0}")]
    Netlink(#[from] rtnetlink::Error),
}

/// A way out, before the neighbour is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) ifindex: u32,
    /// The router, or the destination itself if it is on the link.
    pub(super) neighbour: IpAddr,
    /// Our address on this way.
    pub(super) source: Option<IpAddr>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Interfaces that changed themselves, or in their addresses ([`Resolver::ask_again`]).
    pub interfaces: BTreeSet<u32>,
    /// Anything but neighbours may have changed: routes, addresses, links, or whatever there was no news of.
    pub ways: bool,
}

/// A neighbour that has not answered yet.
#[derive(Clone, Copy)]
struct Asked {
    /// Since when it may.
    since: Instant,
    /// Its interface has changed since, so that the kernel may have asked in vain: it is asked at each pass, for as long as
    /// the kernel takes to give up, because a question that it gave up meanwhile begins anew by that alone.
    again: bool,
}

impl Asked {
    fn is_left_alone(&self) -> bool {
        !self.again || self.since.elapsed() >= RESOLVE_MAX
    }
}

/// Asks the kernel. Belongs to the tokio runtime that it was made in.
///
/// What it has learnt of links and neighbours it answers again until [`Resolver::forget`]: thousands of peers are
/// behind a few routers.
pub struct Resolver {
    handle: Handle,
    driver: JoinHandle<()>,
    known: Mutex<Known>,
}

/// What was learnt since the last change.
#[derive(Default)]
struct Known {
    links: HashMap<u32, Link>,
    /// The ways that were asked for.
    routes: HashMap<IpAddr, Route>,
    macs: HashMap<Neighbour, [u8; 6]>,
    /// Neighbours that were asked for and have not answered. News of neighbours do not end this; one that answers after all
    /// is found in the kernel's table.
    asked: HashMap<Neighbour, Asked>,
    counts: Counts,
    /// Counts how often it was forgotten: an answer asked for before is not kept.
    forgotten: u64,
}

impl Resolver {
    /// Opens a netlink socket in this network namespace.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn new() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            handle,
            driver: tokio::spawn(connection),
            known: Mutex::default(),
        })
    }

    /// Something changed: neighbours are asked for anew, and routes and links unless neighbours alone changed.
    pub fn forget(&self, news: &News) {
        let mut known = self.known();
        if news.ways {
            known.links.clear();
            known.routes.clear();
        }
        known.macs.clear();
        known.forgotten += 1;
    }

    /// These interfaces have changed, or their addresses: whoever is silent there is asked for again. An IPv6 neighbour is
    /// asked for in vain until the interface has a link-local address that no other node uses (RFC 4862 section 5.4), which
    /// takes as long after a link comes up as the kernel's three questions do.
    pub fn ask_again(&self, interfaces: &BTreeSet<u32>) {
        let since = Instant::now();
        let mut known = self.known();
        let asked = known.asked.iter_mut();
        for (_, asked) in asked.filter(|((ifindex, _), _)| interfaces.contains(ifindex)) {
            *asked = Asked { since, again: true };
        }
    }

    /// How often the kernel was asked so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.known().counts
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to `remote`, which is asked for once until routes change: thousands of peers cost nothing when a neighbour does.
    pub(super) async fn route(&self, remote: IpAddr) -> Result<Route, ResolveError> {
        let forgotten = {
            let known = self.known();
            if let Some(route) = known.routes.get(&remote) {
                return Ok(route.clone());
            }
            known.forgotten
        };
        self.known().counts.routes += 1;
        let route = self.ask_route(remote).await?;
        let mut known = self.known();
        if known.forgotten == forgotten && known.routes.len() < ROUTES_MAX {
            known.routes.insert(remote, route.clone());
        }
        Ok(route)
    }

    /// The ways to these are asked for anew: news of routes come later than a change, and none when the kernel prefers another
    /// of several routers because one is silent.
    pub(super) fn forget_routes<'a>(&self, remotes: impl IntoIterator<Item = &'a IpAddr>) {
        let mut known = self.known();
        for remote in remotes {
            known.routes.remove(remote);
        }
    }

    async fn ask_route(&self, remote: IpAddr) -> Result<Route, ResolveError> {
        let length = if remote.is_ipv4() { 32 } else { 128 };
        let no_route = ResolveError::NoRoute(remote);
        let question = match RouteMessageBuilder::<IpAddr>::new().destination_prefix(remote, length) {
            Ok(builder) => builder.build(),
            Err(_) => return Err(no_route),
        };
        let answers = self.handle.route().get(question).execute();
        pin_mut!(answers);
        match answers.next().await {
            Some(Ok(answer)) => read_route(&answer, remote).ok_or(no_route),
            // ENETUNREACH and its like: said in the operator's words.
            Some(Err(rtnetlink::Error::NetlinkError(_))) | None => Err(no_route),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Every IPv4 route.
    pub(super) async fn routes_v4(&self) -> Result<Vec<RouteMessage>, ResolveError> {
        let question = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        collect(self.handle.route().get(question).execute()).await
    }

    pub(super) async fn link(&self, ifindex: u32) -> Result<Link, ResolveError> {
        let forgotten = {
            let known = self.known();
            if let Some(link) = known.links.get(&ifindex) {
                return Ok(link.clone());
            }
            known.forgotten
        };
        let answers = collect(self.handle.link().get().match_index(ifindex).execute()).await?;
        let mut link = Link::default();
        for attribute in answers.into_iter().flat_map(|answer| answer.attributes) {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(address) => link.mac = address.try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                _ => {}
            }
        }
        let mut known = self.known();
        if known.forgotten == forgotten {
            known.links.insert(ifindex, link.clone());
        }
        Ok(link)
    }

    /// The neighbours of a family that are resolved: interface, address, MAC address.
    pub(super) async fn neighbours(
        &self,
        version: IpVersion,
    ) -> Result<Vec<(u32, IpAddr, [u8; 6])>, ResolveError> {
        let answers = self.neighbour_messages(version).await?;
        Ok(answers.iter().filter_map(read_neighbour).collect())
    }

    async fn neighbour_messages(&self, version: IpVersion) -> Result<Vec<NeighbourMessage>, ResolveError> {
        self.known().counts.dumps += 1;
        collect(self.handle.neighbours().get().set_family(version).execute()).await
    }

    /// MAC addresses of those of `wanted` that are resolved. Those that are unknown are asked for, and waited for so long as
    /// one on a quick link takes to answer: of the others the kernel sends news once they have.
    pub(super) async fn find(
        &self,
        wanted: &BTreeSet<Neighbour>,
    ) -> Result<HashMap<Neighbour, [u8; 6]>, ResolveError> {
        self.ask_for(wanted).await?;
        let found = self.look(wanted).await?;
        let is_awaited =
            |neighbour: &Neighbour| !found.contains_key(neighbour) && !self.is_silent(*neighbour);
        if !wanted.iter().any(is_awaited) {
            return Ok(found);
        }
        sleep(RESOLVE_STEP).await;
        self.look(wanted).await
    }

    /// Has the kernel look for those of `wanted` that are unknown and were not asked for lately: all of them at once, and
    /// waits for none. One that is old is asked again, in the background, and used meanwhile.
    pub(super) async fn ask_for(&self, wanted: &BTreeSet<Neighbour>) -> Result<(), ResolveError> {
        let unknown: BTreeSet<Neighbour> = {
            let mut known = self.known();
            known.asked.retain(|_, asked| asked.since.elapsed() < SILENT);
            let is_unknown = |neighbour: &&Neighbour| {
                let is_left_alone = known.asked.get(*neighbour).is_some_and(Asked::is_left_alone);
                !known.macs.contains_key(*neighbour) && !is_left_alone
            };
            wanted.iter().filter(is_unknown).copied().collect()
        };
        let pinned = self
            .take(&unknown, |message| {
                message.header.state == NeighbourState::Permanent
            })
            .await?;
        for neighbour in unknown {
            if pinned.contains_key(&neighbour) {
                continue;
            }
            {
                let mut known = self.known();
                let first = Asked {
                    since: Instant::now(),
                    again: false,
                };
                known.asked.entry(neighbour).or_insert(first);
                known.counts.probes += 1;
            }
            match self.probe(neighbour.0, neighbour.1).await {
                Ok(()) => {}
                // Its table of neighbours is full, or the interface has just gone: as good as silent.
                Err(ResolveError::Netlink(rtnetlink::Error::NetlinkError(error))) => {
                    tracing::debug!(%error, address = %neighbour.1, "neighbour not asked for");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// MAC addresses of those of `wanted` that are resolved now.
    pub(super) async fn look(
        &self,
        wanted: &BTreeSet<Neighbour>,
    ) -> Result<HashMap<Neighbour, [u8; 6]>, ResolveError> {
        let (mut found, mut missing) = (HashMap::new(), BTreeSet::new());
        {
            let known = self.known();
            for neighbour in wanted {
                match known.macs.get(neighbour) {
                    Some(mac) => found.insert(*neighbour, *mac).is_some(),
                    None => missing.insert(*neighbour),
                };
            }
        }
        found.extend(self.take(&missing, |_| true).await?);
        Ok(found)
    }

    /// Whether the kernel has asked for a neighbour lately, and given up.
    pub(super) fn is_silent(&self, neighbour: Neighbour) -> bool {
        let asked = self.known().asked.get(&neighbour).copied();
        asked.is_some_and(|asked| asked.since.elapsed() >= RESOLVE_MAX)
    }

    /// Those of `wanted` that the kernel has resolved, and `counts` says so; they are known from now on. The table is read
    /// once a family, for all of them.
    async fn take(
        &self,
        wanted: &BTreeSet<Neighbour>,
        counts: impl Fn(&NeighbourMessage) -> bool,
    ) -> Result<HashMap<Neighbour, [u8; 6]>, ResolveError> {
        let forgotten = self.known().forgotten;
        let mut found = HashMap::new();
        for is_v4 in [true, false] {
            let Some(one) = wanted.iter().find(|(_, address)| address.is_ipv4() == is_v4) else {
                continue;
            };
            let messages = self.neighbour_messages(version_of(one.1)).await?;
            let resolved = messages.iter().filter(|message| counts(message));
            let resolved = resolved
                .filter_map(read_neighbour)
                .map(|(ifindex, address, mac)| ((ifindex, address), mac));
            found.extend(resolved.filter(|(neighbour, _)| wanted.contains(neighbour)));
        }
        let mut known = self.known();
        for (neighbour, mac) in &found {
            known.asked.remove(neighbour);
            if known.forgotten == forgotten {
                known.macs.insert(*neighbour, *mac);
            }
        }
        Ok(found)
    }

    /// Has the kernel use the neighbour, as a packet to it would: it resolves what is unknown and confirms what is
    /// stale. Not for a permanent entry, which the kernel would take for an ordinary one from then on
    /// (`NEIGH_UPDATE_F_USE` in net/core/neighbour.c, since Linux 5.16).
    async fn probe(&self, ifindex: u32, neighbour: IpAddr) -> Result<(), ResolveError> {
        let request = self
            .handle
            .neighbours()
            .add(ifindex, neighbour)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        Ok(request.execute().await?)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Hears of changes of routes, neighbours, addresses and links.
pub struct Watcher {
    messages: futures_util::stream::BoxStream<'static, About>,
    driver: JoinHandle<()>,
    /// When the first and the last of the news came that nobody was told of yet.
    news: Option<(Instant, Instant)>,
    /// What nobody was told of yet.
    untold: News,
    /// When somebody was told last of more than neighbours.
    told_of_ways: Instant,
}

impl Watcher {
    /// Subscribes in this network namespace.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn new() -> io::Result<Self> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        Ok(Self {
            messages: messages.map(|(message, _)| about(&message)).boxed(),
            driver: tokio::spawn(connection),
            news: None,
            untold: News::default(),
            told_of_ways: Instant::now(),
        })
    }

    /// Waits for a change, or for `refresh` to pass since the last of more than neighbours: lost news are made good then.
    /// Changes that come together count as one. Who stops waiting and waits again misses nothing.
    pub async fn changed(&mut self, refresh: Duration) -> News {
        loop {
            let due = match self.news {
                Some((first, last)) => (last + SETTLE).min(first + SETTLE_MAX),
                None => self.told_of_ways + refresh,
            };
            if Instant::now() >= due {
                break;
            }
            match timeout_at(due, self.messages.next()).await {
                Ok(Some(about)) => {
                    let now = Instant::now();
                    match about {
                        About::Neighbours => {}
                        About::Ways(interface) => {
                            self.untold.ways = true;
                            self.untold.interfaces.extend(interface);
                        }
                    }
                    let first = self.news.map_or(now, |(first, _)| first);
                    self.news = Some((first, now));
                }
                // There are no more news: what is left is to look now and then.
                Ok(None) => sleep_until(due).await,
                Err(_) => break,
            }
        }
        self.news = None;
        let mut news = std::mem::take(&mut self.untold);
        news.ways |= self.told_of_ways.elapsed() >= refresh;
        if news.ways {
            self.told_of_ways = Instant::now();
        }
        news
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What a message is about.
enum About {
    Neighbours,
    /// Routes, addresses or links; with the interface, if that or its addresses are new.
    Ways(Option<u32>),
}

const fn about(message: &NetlinkMessage<RouteNetlinkMessage>) -> About {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewNeighbour(_) | RouteNetlinkMessage::DelNeighbour(_),
        ) => About::Neighbours,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            About::Ways(Some(link.header.index))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address)) => {
            About::Ways(Some(address.header.index))
        }
        // Also that news were lost.
        _ => About::Ways(None),
    }
}

const fn version_of(address: IpAddr) -> IpVersion {
    match address {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    }
}

async fn collect<T>(
    answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, ResolveError> {
    let answers: Vec<_> = answers.collect().await;
    Ok(answers.into_iter().collect::<Result<_, _>>()?)
}

pub(super) fn read_route(message: &RouteMessage, remote: IpAddr) -> Option<Route> {
    let mut route = Route {
        ifindex: 0,
        neighbour: remote,
        source: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.ifindex = *index,
            RouteAttribute::Gateway(address) => route.neighbour = ip(address)?,
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            _ => {}
        }
    }
    (route.ifindex != 0).then_some(route)
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn read_neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, [u8; 6])> {
    let resolved = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some((*found).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                address = Some((*found).into())
            }
            NeighbourAttribute::LinkLocalAddress(found) => mac = found.as_slice().try_into().ok(),
            _ => {}
        }
    }
    resolved.then_some((message.header.ifindex, address?, mac?))
}
