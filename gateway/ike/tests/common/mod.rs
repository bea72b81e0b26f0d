//! Two endpoints, a link between them that loses, repeats and reorders, and a data plane on each side that
//! checks what it is told.
//!
//! ```text
//!   site (initiator) 192.0.2.1 ---- link ---- 198.51.100.1 center (responder)
//! ```
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use gateway_ike::{
    AuthenticatedPeer, Authorizer, ChildId, ChildSaInstall, Command, Connection, Direction, Endpoint,
    EndpointConfig, Event, IkeSaId, IkeSaInfo, KeyMaterial, Output, Remote, SitePolicy, Time,
    TrafficSelector,
    crypto::random::Random,
    pki::{credential::Credential, trust::TrustAnchors},
};

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("../data/", $name))
    };
}

/// 1 January 2027, when the certificates are valid.
pub const UNIX_S: u64 = 1_798_761_600;
pub const SITE: usize = 0;
pub const CENTER: usize = 1;

pub fn site_address() -> SocketAddr {
    "192.0.2.1:500".parse().unwrap()
}

pub fn center_address() -> SocketAddr {
    "198.51.100.1:500".parse().unwrap()
}

/// Where the type of a notify payload without an SPI (RFC 7296 3.10) stands in a message in the clear. The
/// payload's header is compared as well: two octets alone are found in random keys and nonces every now and then.
pub fn notify_at(message: &[u8], kind: [u8; 2]) -> Option<usize> {
    let header = |at: usize| {
        let length = usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
        message[at + 1] == 0
            && (8..=message.len() - at).contains(&length)
            && message[at + 4] <= 3
            && message[at + 5] == 0
            && message[at + 6..at + 8] == kind
    };
    (28..message.len().saturating_sub(7))
        .find(|at| header(*at))
        .map(|at| at + 6)
}

/// SplitMix64: small, seeded, good enough for a simulation.
#[derive(Clone)]
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

impl Random for Seeded {
    fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let bytes = self.next().to_be_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

pub fn net(text: &str) -> TrafficSelector {
    let (address, prefix_len) = text.split_once('/').unwrap();
    TrafficSelector::subnet(address.parse().unwrap(), prefix_len.parse().unwrap()).unwrap()
}

pub fn policy(ts_local: &[TrafficSelector], ts_remote: &[TrafficSelector]) -> SitePolicy {
    SitePolicy {
        site: 7,
        name: "clinic".to_owned(),
        ts_local: ts_local.to_vec(),
        ts_remote: ts_remote.to_vec(),
        esp_proposals: None,
    }
}

/// Admits one policy for everybody with a valid certificate.
pub struct Everybody(pub SitePolicy);

impl Authorizer for Everybody {
    fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
        Some(self.0.clone())
    }
}

/// Admits nobody.
pub struct Nobody;

impl Authorizer for Nobody {
    fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
        None
    }
}

pub fn rsa_credential() -> Credential {
    let chain = [&data!("rsa-leaf.crt")[..], data!("rsa-mid.crt")].concat();
    Credential::from_pem(&chain, data!("rsa-leaf.key")).unwrap()
}

pub fn ec_credential() -> Credential {
    Credential::from_pem(data!("ec-leaf.crt"), data!("ec-leaf.key")).unwrap()
}

pub fn both_authorities() -> TrustAnchors {
    TrustAnchors::from_pem(&[&data!("rsa-ca.crt")[..], data!("ec-ca.crt")].concat()).unwrap()
}

/// The site has an ECDSA certificate of one authority, the center an RSA one under an intermediate.
pub fn site_config() -> EndpointConfig {
    let policy = policy(
        &[net("192.168.1.0/24")],
        &[net("10.0.0.0/8"), net("172.16.5.0/24")],
    );
    let mut config = EndpointConfig::new(
        ec_credential(),
        "site1.lab.test".parse().unwrap(),
        both_authorities(),
        Box::new(Everybody(policy.clone())),
    );
    // Without it IKE stays on port 500, and tests find the octets of messages at fixed places.
    config.mobike = false;
    let remote = Remote {
        local: site_address(),
        address: center_address(),
    };
    config.connections = vec![Connection::new(
        "center",
        remote,
        "gw.lab.test".parse().unwrap(),
        policy,
    )];
    config
}

pub fn center_config() -> EndpointConfig {
    let policy = policy(
        &[net("10.1.0.0/16"), net("172.16.0.0/16")],
        &[net("192.168.0.0/16")],
    );
    let mut config = EndpointConfig::new(
        rsa_credential(),
        "gw.lab.test".parse().unwrap(),
        both_authorities(),
        Box::new(Everybody(policy)),
    );
    config.mobike = false;
    config
}

/// What a data plane knows of one Child SA.
#[derive(Debug)]
pub struct Installed {
    pub sa: ChildSaInstall,
    pub inbound: bool,
    pub outbound: bool,
    /// Packets may be sent on it.
    pub active: bool,
}

/// The SPI that we drew for an IKE SA.
pub fn own_spi(info: &IkeSaInfo) -> u64 {
    let (initiator, responder) = info.spis;
    if info.initiator { initiator } else { responder }
}

#[derive(Default)]
pub struct DataPlane {
    pub children: BTreeMap<ChildId, Installed>,
    /// Child SA that traffic is sent on.
    pub sending_on: Option<ChildId>,
    /// Something was installed at some time.
    pub began: bool,
    /// How often a Child SA was sent to other addresses.
    pub moves: u32,
    /// As the real one: for each pair of selectors the Child SA activated last, and those beside it. What is removed
    /// leaves nothing behind.
    routes: Vec<((TrafficSelector, TrafficSelector), ChildId)>,
    /// SPIs that were received on at some time, with the keys of each.
    pub ever: HashMap<u32, KeyMaterial>,
    /// Our SPIs of IKE SAs that stand.
    pub ike_spis: BTreeSet<u64>,
    /// SPIs removed at once, without lingering: they were closed, not replaced.
    pub abrupt: BTreeSet<u32>,
}

impl DataPlane {
    fn apply(&mut self, output: &Output) {
        match output {
            Output::InstallChildSa(sa) => {
                self.began = true;
                if sa.outbound_active {
                    self.sending_on = Some(sa.child);
                    self.route(sa, &sa.beside);
                }
                self.ever.insert(sa.spi_in, sa.keys_in.clone());
                let installed = Installed {
                    sa: (**sa).clone(),
                    inbound: true,
                    outbound: true,
                    active: sa.outbound_active,
                };
                let before = self.children.insert(sa.child, installed);
                assert!(before.is_none(), "{} installed twice", sa.child);
            }
            Output::ActivateOutbound { child, beside } => {
                assert!(
                    self.children[child].outbound,
                    "{child} activated after its removal"
                );
                self.sending_on = Some(*child);
                let installed = self.children.get_mut(child).unwrap();
                installed.active = true;
                let sa = installed.sa.clone();
                self.route(&sa, beside);
            }
            Output::RemoveChildSa { child, direction } => {
                let installed = self.children.get_mut(child).expect("removed what was not there");
                let (inbound, outbound) = match direction {
                    Direction::Inbound => (true, false),
                    Direction::Outbound => (false, true),
                    Direction::Both => (true, true),
                };
                assert!(installed.inbound || !inbound, "inbound of {child} removed twice");
                assert!(
                    installed.outbound || !outbound,
                    "outbound of {child} removed twice"
                );
                if inbound && outbound {
                    self.abrupt.insert(installed.sa.spi_in);
                }
                installed.inbound &= !inbound;
                installed.outbound &= !outbound;
                if outbound {
                    installed.active = false;
                    self.routes.retain(|(_, routed)| routed != child);
                }
                if outbound && self.sending_on == Some(*child) {
                    self.sending_on = None;
                }
                if !installed.inbound && !installed.outbound {
                    self.children.remove(child);
                }
            }
            Output::UpdateChildSa {
                child,
                local,
                remote,
                udp_encap,
            } => {
                let installed = self.children.get_mut(child).expect("moved what was not there");
                installed.sa.local = *local;
                installed.sa.remote = *remote;
                installed.sa.udp_encap = *udp_encap;
                self.moves += 1;
            }
            Output::IkeSpi { spi, stands } => {
                let changed = if *stands {
                    self.ike_spis.insert(*spi)
                } else {
                    self.ike_spis.remove(spi)
                };
                assert!(changed, "{spi:#x} stands twice, or did not: {stands}");
            }
            Output::Transmit { .. } | Output::Event(_) => {}
        }
    }

    /// Our SPIs stand of the IKE SAs that are set up, and no other.
    fn check_ike_spis(&self, endpoint: &Endpoint) {
        let set_up = endpoint.ike_sas().filter(|info| info.state != "half-open");
        let set_up: BTreeSet<u64> = set_up.map(|info| own_spi(&info)).collect();
        assert_eq!(self.ike_spis, set_up);
    }

    fn route(&mut self, sa: &ChildSaInstall, beside: &[ChildId]) {
        for child in beside {
            assert!(self.children[child].active, "{child} beside {}", sa.child);
        }
        for local in &sa.ts_local {
            for remote in &sa.ts_remote {
                let pair = (*local, *remote);
                self.routes.retain(|(other, child)| {
                    *other != pair || (*child != sa.child && beside.contains(child))
                });
                self.routes.push((pair, sa.child));
            }
        }
    }

    /// The Child SAs that a packet of ours may go on.
    pub fn ways(&self, (local, remote): &(TrafficSelector, TrafficSelector)) -> Vec<ChildId> {
        let mut routes = self.routes.iter().rev();
        let found = routes.find(|(pair, _)| pair.0.contains(local) && pair.1.contains(remote));
        let same = |(pair, _): &&(_, _)| found.is_some_and(|(found, _)| found == pair);
        self.routes.iter().filter(same).map(|(_, child)| *child).collect()
    }

    /// The Child SA that a packet of ours goes on: of several, whichever `turn` says.
    pub fn outbound(&self, flow: &(TrafficSelector, TrafficSelector), turn: u64) -> Option<&ChildSaInstall> {
        let ways = self.ways(flow);
        let way = ways.get((turn % ways.len().max(1) as u64) as usize)?;
        Some(&self.children[way].sa)
    }

    pub fn inbound(&self, spi: u32) -> Option<&ChildSaInstall> {
        self.children
            .values()
            .find(|one| one.inbound && one.sa.spi_in == spi)
            .map(|one| &one.sa)
    }
}

/// What the link does to datagrams, in percent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    pub loss: u64,
    pub duplicates: u64,
    /// Delay of each datagram is drawn from 1 to this; above 1 they overtake each other.
    pub delay_ms: u64,
}

/// A datagram on its way.
#[derive(Debug, Clone)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub payload: Vec<u8>,
}

/// An ESP packet on its way. They are delayed as IKE's are, and never lost by the link.
#[derive(Debug, Clone, Copy)]
struct Packet {
    to: usize,
    spi: u32,
    /// The receiver may not have the SA: see [`Sim::send_packet`].
    may_be_lost: bool,
}

pub struct Sim {
    pub endpoints: [Endpoint; 2],
    pub planes: [DataPlane; 2],
    pub events: [Vec<Event>; 2],
    pub link: Link,
    pub now_ms: u64,
    /// How far the wall clock was set forward, or back, since the beginning.
    pub wall_clock_off_s: i64,
    pub rng: Seeded,
    /// By delivery time.
    pub in_flight: BTreeMap<(u64, u64), Datagram>,
    /// Everything ever sent, for replays.
    pub sent: Vec<Datagram>,
    /// The site's address as the center sees it, when a NAT is between.
    pub nat: Option<SocketAddr>,
    /// What the site is reached at.
    pub site_addresses: Vec<IpAddr>,
    /// Longer IP datagrams are lost without a word.
    pub mtu: usize,
    /// Addresses that nothing reaches, and from which nothing comes.
    pub unreachable: Vec<IpAddr>,
    sequence: u64,
    packets: BTreeMap<(u64, u64), Packet>,
    /// ESP packets that arrived, and that found no SA although nothing was replaced.
    pub arrived: u64,
    pub lost: u64,
    /// What both sides said, with the time.
    pub history: Vec<String>,
    /// SPIs of each side that went with a crash.
    crashed: [BTreeSet<u32>; 2],
}

impl Sim {
    pub fn new(site: EndpointConfig, center: EndpointConfig, seed: u64) -> Self {
        let mut rng = Seeded(seed);
        let site = Endpoint::new(site, Box::new(Seeded(rng.next())));
        let center = Endpoint::new(center, Box::new(Seeded(rng.next())));
        Self {
            endpoints: [site, center],
            planes: Default::default(),
            events: Default::default(),
            link: Link {
                delay_ms: 1,
                ..Link::default()
            },
            now_ms: 1_000,
            wall_clock_off_s: 0,
            rng,
            in_flight: BTreeMap::new(),
            sent: Vec::new(),
            nat: None,
            site_addresses: vec![site_address().ip()],
            mtu: usize::MAX,
            unreachable: Vec::new(),
            sequence: 0,
            packets: BTreeMap::new(),
            arrived: 0,
            lost: 0,
            history: Vec::new(),
            crashed: Default::default(),
        }
    }

    /// A side loses all it knows, and begins anew.
    pub fn crash(&mut self, side: usize, config: EndpointConfig) {
        let random = Box::new(Seeded(self.rng.next()));
        self.endpoints[side] = Endpoint::new(config, random);
        let plane = std::mem::take(&mut self.planes[side]);
        self.crashed[side].extend(plane.ever.keys());
    }

    /// The receiver closed this SA, or lost it: the sender cannot know yet.
    fn closed(&self, side: usize, spi: u32) -> bool {
        self.planes[side].abrupt.contains(&spi) || self.crashed[side].contains(&spi)
    }

    /// Sends an ESP packet of a flow, if an SA carries it. No key may be used that the peer does not have yet,
    /// or has no more, but for three cases: the peer closed or lost the SA and we do not know yet; or the SA is
    /// the first for its traffic, and the peer is about to get it.
    pub fn send_packet(&mut self, from: usize, flow: &(TrafficSelector, TrafficSelector)) -> bool {
        let to = 1 - from;
        let Some(sa) = self.planes[from].outbound(flow, self.sequence) else {
            return false;
        };
        let (child, spi, keys) = (sa.child, sa.spi_out, sa.keys_out.clone());
        let others = self.planes[from].children.values().filter(|other| {
            let covers = |wide: &[TrafficSelector], one| wide.iter().any(|selector| selector.contains(one));
            let covers = covers(&other.sa.ts_local, &flow.0) && covers(&other.sa.ts_remote, &flow.1);
            let usable = self.planes[to].inbound(other.sa.spi_out).is_some();
            other.active && other.sa.child != child && covers && usable
        });
        let may_be_lost = match self.planes[to].inbound(spi) {
            Some(theirs) => {
                assert!(theirs.keys_in == keys, "{child}: the keys differ");
                false
            }
            None => {
                let coming = !self.planes[to].ever.contains_key(&spi) && others.count() == 0;
                assert!(
                    coming || self.closed(to, spi),
                    "at {} ms side {from} sends on {child} (SPI {spi:08x}), which the other does not have\n{}",
                    self.now_ms,
                    self.history.join("\n")
                );
                true
            }
        };
        self.sequence += 1;
        let due = self.now_ms + 1 + self.rng.below(self.link.delay_ms.max(1));
        let packet = Packet { to, spi, may_be_lost };
        self.packets.insert((due, self.sequence), packet);
        let now = self.now();
        self.endpoints[from].handle_child_sent(now, child);
        self.drain(from);
        true
    }

    fn packet_arrives(&mut self, packet: Packet) {
        let Packet { to, spi, may_be_lost } = packet;
        match self.planes[to].inbound(spi).map(|sa| sa.child) {
            Some(child) => {
                self.arrived += 1;
                let now = self.now();
                self.endpoints[to].handle_child_traffic(now, child);
                self.drain(to);
            }
            None => {
                assert!(
                    may_be_lost || self.closed(to, spi),
                    "at {} ms a packet on SPI {spi:08x} is lost at side {to}\n{}",
                    self.now_ms,
                    self.history.join("\n")
                );
                self.lost += 1;
            }
        }
    }

    pub fn now(&self) -> Time {
        Time {
            mono_ms: self.now_ms,
            unix_s: (UNIX_S + self.now_ms / 1000).saturating_add_signed(self.wall_clock_off_s),
        }
    }

    pub fn command(&mut self, side: usize, command: Command) {
        let name = ["site", "center"][side];
        self.history
            .push(format!("{:>9} ms {name:>6}: <- {command:?}", self.now_ms));
        let now = self.now();
        self.endpoints[side].handle_command(now, command);
        self.drain(side);
    }

    pub fn initiate(&mut self) {
        self.command(
            SITE,
            Command::Initiate {
                connection: "center".to_owned(),
            },
        );
    }

    /// Applies what an endpoint wants; checks after each output that traffic still finds its SA.
    pub fn drain(&mut self, side: usize) {
        while let Some(output) = self.endpoints[side].poll_output() {
            self.planes[side].apply(&output);
            match output {
                Output::Transmit {
                    local,
                    remote,
                    payload,
                } => self.send(Datagram {
                    from: local,
                    to: remote,
                    payload,
                }),
                Output::Event(event) => {
                    let name = ["site", "center"][side];
                    self.history
                        .push(format!("{:>9} ms {name:>6}: {event}", self.now_ms));
                    self.events[side].push(event);
                }
                Output::InstallChildSa(_)
                | Output::ActivateOutbound { .. }
                | Output::UpdateChildSa { .. }
                | Output::RemoveChildSa { .. }
                | Output::IkeSpi { .. } => {}
            }
        }
        self.planes[side].check_ike_spis(&self.endpoints[side]);
    }

    fn send(&mut self, mut datagram: Datagram) {
        assert!(!datagram.payload.is_empty());
        self.sent.push(datagram.clone());
        if self.unreachable.contains(&datagram.to.ip()) || self.unreachable.contains(&datagram.from.ip()) {
            return;
        }
        let is_site = |address: &SocketAddr| address.ip() == site_address().ip();
        match self.nat {
            Some(public) if is_site(&datagram.from) => {
                // The port of the NAT depends on ours, so that 500 and 4500 are told apart.
                datagram.from = SocketAddr::new(public.ip(), public.port() + datagram.from.port() / 4500);
            }
            Some(public) if datagram.to.ip() == public.ip() => {
                let port = if datagram.to.port() == public.port() {
                    500
                } else {
                    4500
                };
                datagram.to = SocketAddr::new(site_address().ip(), port);
            }
            _ => {}
        }
        let copies = 1 + usize::from(self.rng.chance(self.link.duplicates));
        for _ in 0..copies {
            let headers = if datagram.to.is_ipv4() { 28 } else { 48 };
            let fits = headers + datagram.payload.len() <= self.mtu;
            if !self.rng.chance(self.link.loss) && fits {
                self.sequence += 1;
                let due = self.now_ms + 1 + self.rng.below(self.link.delay_ms.max(1));
                self.in_flight.insert((due, self.sequence), datagram.clone());
            }
        }
    }

    pub fn deliver(&mut self, datagram: &Datagram) {
        let side = if self.site_addresses.contains(&datagram.to.ip()) {
            SITE
        } else {
            CENTER
        };
        let now = self.now();
        self.endpoints[side].handle_datagram(now, datagram.to, datagram.from, &datagram.payload);
        self.drain(side);
    }

    /// Handles whatever comes next; false when nothing happens before `until_ms`.
    pub fn step(&mut self, until_ms: u64) -> bool {
        let arrival = self.in_flight.keys().next().map(|(due, _)| *due);
        let timeouts = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.poll_timeout().map(|(due, _)| due));
        let [site, center] = <[Option<u64>; 2]>::try_from(timeouts.collect::<Vec<_>>()).unwrap();
        let packet = self.packets.keys().next().map(|(due, _)| *due);
        let next = [arrival, packet, site, center].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= until_ms) else {
            self.now_ms = self.now_ms.max(until_ms);
            return false;
        };
        self.now_ms = self.now_ms.max(next);
        if arrival == Some(next) {
            let (_, datagram) = self.in_flight.pop_first().unwrap();
            self.deliver(&datagram);
        } else if packet == Some(next) {
            let (_, packet) = self.packets.pop_first().unwrap();
            self.packet_arrives(packet);
        } else {
            for side in [SITE, CENTER] {
                if self.endpoints[side]
                    .poll_timeout()
                    .is_some_and(|(due, _)| due <= self.now_ms)
                {
                    let now = self.now();
                    self.endpoints[side].handle_timeout(now);
                    self.drain(side);
                }
            }
        }
        true
    }

    pub fn run_ms(&mut self, duration_ms: u64) {
        let until = self.now_ms + duration_ms;
        while self.step(until) {}
    }

    /// Both sides have the same Child SAs, with keys, SPIs and selectors crosswise.
    pub fn assert_agreement(&self) {
        let live = |side: usize| -> HashMap<u32, &ChildSaInstall> {
            let children = self.planes[side]
                .children
                .values()
                .filter(|one| one.inbound && one.outbound);
            children.map(|one| (one.sa.spi_in, &one.sa)).collect()
        };
        let (site, center) = (live(SITE), live(CENTER));
        assert_eq!(
            site.len(),
            center.len(),
            "{:?} / {:?}",
            self.events[SITE],
            self.events[CENTER]
        );
        for ours in site.values() {
            let theirs = center.get(&ours.spi_out).expect("the peer lacks a Child SA");
            assert_eq!(theirs.spi_out, ours.spi_in);
            assert!(theirs.keys_in == ours.keys_out && theirs.keys_out == ours.keys_in);
            assert!(theirs.keys_in != theirs.keys_out);
            assert_eq!((theirs.suite, theirs.esn), (ours.suite, ours.esn));
            assert_eq!(
                (&theirs.ts_local, &theirs.ts_remote),
                (&ours.ts_remote, &ours.ts_local)
            );
            assert_eq!(theirs.udp_encap, ours.udp_encap);
        }
    }

    /// What each side sends on, the other receives on. (The responder of IKE_AUTH has its first Child SA
    /// before the initiator can.)
    pub fn assert_no_black_hole(&self) {
        for (from, to) in [(SITE, CENTER), (CENTER, SITE)] {
            let Some(child) = self.planes[from].sending_on.filter(|_| self.planes[to].began) else {
                continue;
            };
            let sa = &self.planes[from].children[&child].sa;
            assert!(
                self.planes[to].inbound(sa.spi_out).is_some(),
                "side {from} sends on {child} (SPI {:08x}) which the other does not have\n{}\n---\n{}",
                sa.spi_out,
                self.words(SITE),
                self.words(CENTER)
            );
        }
    }

    /// The peer's data plane got a packet on what we send on, and says so.
    pub fn traffic(&mut self, from: usize) {
        let to = 1 - from;
        let Some(child) = self.planes[from].sending_on else {
            return;
        };
        let spi = self.planes[from].children[&child].sa.spi_out;
        if let Some(child) = self.planes[to].inbound(spi).map(|sa| sa.child) {
            let now = self.now();
            self.endpoints[to].handle_child_traffic(now, child);
            self.drain(to);
        }
    }

    pub fn only_ike_sa(&self, side: usize) -> IkeSaId {
        let mut all = self.endpoints[side]
            .ike_sas()
            .map(|info| info.id)
            .collect::<Vec<_>>();
        assert_eq!(all.len(), 1, "side {side}: {:?}", self.events[side]);
        all.pop().unwrap()
    }

    pub fn only_child(&self, side: usize) -> ChildId {
        let live: Vec<_> = self.planes[side]
            .children
            .values()
            .filter(|one| one.outbound)
            .collect();
        assert_eq!(live.len(), 1, "side {side}: {:?}", self.events[side]);
        live[0].sa.child
    }

    pub fn words(&self, side: usize) -> String {
        self.events[side]
            .iter()
            .map(Event::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Two endpoints with an IKE SA and a Child SA.
pub fn connected(site: EndpointConfig, center: EndpointConfig, seed: u64) -> Sim {
    let mut sim = Sim::new(site, center, seed);
    sim.initiate();
    sim.run_ms(500);
    assert!(
        sim.planes[SITE].sending_on.is_some(),
        "{}\n{}",
        sim.words(SITE),
        sim.words(CENTER)
    );
    assert!(sim.planes[CENTER].sending_on.is_some(), "{}", sim.words(CENTER));
    sim.assert_agreement();
    sim
}
