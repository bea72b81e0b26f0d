//! The two endpoints, the datagrams between them, and what each tells its data plane, which must make sense.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use super::tamper;
use crate::{
    AuthenticatedPeer, Authorizer, ChildId, Command, Connection, CrashSecret, Direction, Endpoint,
    EndpointConfig, IkeSaId, Output, Remote, SitePolicy, Time, TrafficSelector,
    crypto::random::Random,
    pki::{credential::Credential, trust::TrustAnchors},
};

/// 1 January 2027, when the certificates are valid.
const UNIX_S: u64 = 1_798_761_600;
const SITE: usize = 0;
const CENTER: usize = 1;
/// Where the site may move to.
const MOVED: ([u8; 4], u16) = ([192, 0, 2, 9], 4500);
const IDENTITY: &str = "site1.lab.test";
const CONNECTION: &str = "center";
/// More datagrams at once are no conversation any more.
const IN_FLIGHT_MAX: usize = 64;
/// Rounds of delivery, and of timeouts at one instant, after which two sides must have come to rest.
const ROUNDS_MAX: usize = 2_000;
/// Few, so that an index is not free at times.
const IKE_SPI_INDEX_BITS: u32 = 3;

/// What a run sent.
pub struct Recorded {
    /// Every datagram, as first sent.
    pub datagrams: Vec<Vec<u8>>,
    /// Every chain of payloads that was sealed: type of the first, octets of all.
    pub payloads: Vec<(u8, Vec<u8>)>,
    /// Child SAs that were installed, on both sides.
    pub installed: usize,
}

struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
}

/// What a side was told to install, and what of it is still there.
#[derive(Default)]
struct Plane {
    /// SPI of the inbound direction, and which directions there are.
    children: BTreeMap<ChildId, (u32, bool, bool)>,
    /// Our SPIs of IKE SAs that stand, by their index.
    ike_spis: BTreeMap<u64, u64>,
    /// Those that have been sent on, as long as they may be.
    sent_on: BTreeSet<ChildId>,
    installed: usize,
}

pub(super) struct Pair {
    endpoints: [Endpoint; 2],
    planes: [Plane; 2],
    in_flight: VecDeque<Datagram>,
    sent: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    now_ms: u64,
    /// How much the site's source port differs, as the center sees it.
    moved: u8,
    crashes: u64,
    installed: usize,
}

impl Pair {
    /// The site has sent its first message.
    pub(super) fn new() -> Self {
        let mut pair = Self {
            endpoints: [endpoint(SITE, 0), endpoint(CENTER, 0)],
            planes: Default::default(),
            in_flight: VecDeque::new(),
            sent: Vec::new(),
            now_ms: 1_000,
            moved: 0,
            crashes: 0,
            installed: 0,
        };
        pair.command(SITE, 0);
        pair
    }

    pub(super) fn into_recorded(self) -> Recorded {
        Recorded {
            datagrams: self.sent.into_iter().map(|(_, _, payload)| payload).collect(),
            payloads: tamper::seen(),
            installed: self.installed,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn now(&self) -> Time {
        Time {
            mono_ms: self.now_ms,
            unix_s: UNIX_S + self.now_ms / 1000,
        }
    }

    /// Delivers one datagram; false if there is none.
    pub(super) fn deliver_at(&mut self, index: usize) -> bool {
        let Some(datagram) = self.in_flight.remove(index) else {
            return false;
        };
        let side = side_of(datagram.to);
        let mut from = datagram.from;
        if side == CENTER {
            from.set_port(from.port().wrapping_add(self.moved.into()));
        }
        let now = self.now();
        self.endpoints[side].handle_datagram(now, datagram.to, from, &datagram.payload);
        self.drain(side);
        true
    }

    pub(super) fn deliver_all(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if !self.deliver_at(0) {
                return;
            }
        }
        panic!("{ROUNDS_MAX} datagrams at one instant: the sides answer each other without end");
    }

    pub(super) fn lose(&mut self) {
        self.in_flight.pop_front();
    }

    pub(super) fn repeat(&mut self) {
        if let Some(first) = self.in_flight.front() {
            let (from, to, payload) = (first.from, first.to, first.payload.clone());
            self.send(from, to, payload);
        }
    }

    pub(super) fn replay(&mut self, index: usize) {
        let count = self.sent.len().max(1);
        if let Some((from, to, payload)) = self.sent.get(index % count).cloned() {
            self.send(from, to, payload);
        }
    }

    pub(super) fn alter(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(first) = self.in_flight.front_mut() {
            change(&mut first.payload);
        }
    }

    pub(super) fn inject(&mut self, to: usize, payload: Vec<u8>) {
        self.send(address(1 - to), address(to), payload);
    }

    pub(super) fn move_site(&mut self, by: u8) {
        self.moved = by;
    }

    pub(super) fn command(&mut self, side: usize, kind: u8) {
        let sas: Vec<_> = self.endpoints[side].ike_sas().map(|info| info.id).collect();
        let children: Vec<_> = self.planes[side].children.keys().copied().collect();
        let pick = usize::from(kind >> 4);
        let sa = sas.get(pick % sas.len().max(1)).copied();
        let child = children.get(pick % children.len().max(1)).copied();
        let Some(command) = command(side, kind & 15, sa, child) else {
            return;
        };
        let now = self.now();
        self.endpoints[side].handle_command(now, command);
        self.drain(side);
    }

    pub(super) fn traffic(&mut self, side: usize) {
        if let Some(child) = self.planes[side].children.keys().next_back().copied() {
            let now = self.now();
            self.endpoints[side].handle_child_traffic(now, child);
            self.drain(side);
        }
    }

    pub(super) fn crash(&mut self, side: usize) {
        self.crashes += 1;
        self.endpoints[side] = endpoint(side, self.crashes);
        self.planes[side] = Plane::default();
    }

    /// Lets time pass, and does on both sides what becomes due meanwhile. Nothing arrives.
    pub(super) fn wait(&mut self, duration_ms: u64) {
        let until = self.now_ms.saturating_add(duration_ms);
        for _ in 0..ROUNDS_MAX {
            if !self.next_timeout(until) {
                self.now_ms = until;
                return;
            }
        }
        panic!("{ROUNDS_MAX} timeouts in {duration_ms} ms: a deadline is not moved when it is met");
    }

    fn next_timeout(&mut self, until_ms: u64) -> bool {
        let due = self
            .endpoints
            .each_ref()
            .map(|one| one.poll_timeout().map(|(due, _)| due));
        let Some(next) = due.into_iter().flatten().min().filter(|next| *next <= until_ms) else {
            return false;
        };
        self.now_ms = self.now_ms.max(next);
        let now = self.now();
        for side in [SITE, CENTER] {
            if due[side].is_some_and(|due| due <= self.now_ms) {
                self.endpoints[side].handle_timeout(now);
                self.drain(side);
            }
        }
        true
    }

    /// Two minutes over a good link.
    pub(super) fn settle(&mut self) {
        self.moved = 0;
        let until = self.now_ms + 120_000;
        for _ in 0..ROUNDS_MAX {
            self.deliver_all();
            if !self.next_timeout(until) {
                return;
            }
        }
        panic!("{ROUNDS_MAX} timeouts in two minutes over a good link");
    }

    fn drain(&mut self, side: usize) {
        let mut outputs = 0;
        while let Some(output) = self.endpoints[side].poll_output() {
            outputs += 1;
            assert!(outputs <= ROUNDS_MAX, "one input has {ROUNDS_MAX} consequences");
            match output {
                Output::Transmit {
                    local,
                    remote,
                    payload,
                } => {
                    assert!(
                        !payload.is_empty() && payload.len() <= 65_507,
                        "{} octets",
                        payload.len()
                    );
                    // On port 500 the first octets are the initiator's SPI, which may be zeros.
                    let marked = payload.starts_with(&[0; 4]) || payload == [0xff];
                    assert!(local.port() != 4500 || marked, "no non-ESP marker");
                    assert_eq!(side_of(local), side, "sent from another's address");
                    self.sent.push((local, remote, payload.clone()));
                    self.send(local, remote, payload);
                }
                other => self.planes[side].apply(&other),
            }
        }
        self.installed = self.planes.iter().map(|plane| plane.installed).sum();
        self.planes[side].check_networks(&self.endpoints[side]);
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        if self.in_flight.len() < IN_FLIGHT_MAX {
            self.in_flight.push_back(Datagram { from, to, payload });
        }
    }
}

impl Plane {
    /// What has networks is there to send on, and whatever is sent on has its networks.
    fn check_networks(&self, endpoint: &Endpoint) {
        let counted: BTreeSet<_> = endpoint.children_with_networks().collect();
        let can_send = |child: &ChildId| self.children.get(child).is_some_and(|(_, _, outbound)| *outbound);
        assert!(
            counted.iter().all(can_send),
            "networks of what is gone: {counted:?}"
        );
        assert!(
            self.sent_on.is_subset(&counted),
            "{:?} not in {counted:?}",
            self.sent_on
        );
    }

    fn apply(&mut self, output: &Output) {
        match output {
            Output::InstallChildSa(sa) => {
                assert!(
                    sa.spi_in != sa.spi_out || sa.keys_in != sa.keys_out,
                    "one SA both ways"
                );
                let before = self.children.insert(sa.child, (sa.spi_in, true, true));
                assert!(before.is_none(), "{} installed twice", sa.child);
                self.installed += 1;
                self.sent_on.extend(sa.outbound_active.then_some(sa.child));
                let inbound = self.children.values().filter(|(_, inbound, _)| *inbound);
                let spis: Vec<_> = inbound.map(|(spi, ..)| *spi).collect();
                let distinct: BTreeSet<_> = spis.iter().collect();
                assert_eq!(distinct.len(), spis.len(), "an inbound SPI is taken twice");
            }
            Output::ActivateOutbound { child, beside } => {
                for child in beside.iter().chain([child]) {
                    let known = self.children.get(child).expect("activated what was not there");
                    assert!(known.2, "{child} activated after its removal");
                }
                self.sent_on.insert(*child);
            }
            Output::UpdateChildSa { child, .. } => {
                assert!(
                    self.children.contains_key(child),
                    "{child} moved after its removal"
                );
            }
            Output::RemoveChildSa { child, direction } => {
                let known = self.children.get_mut(child).expect("removed what was not there");
                let (inbound, outbound) = match direction {
                    Direction::Inbound => (true, false),
                    Direction::Outbound => (false, true),
                    Direction::Both => (true, true),
                };
                assert!(
                    (known.1 || !inbound) && (known.2 || !outbound),
                    "{child} removed twice"
                );
                known.1 &= !inbound;
                known.2 &= !outbound;
                if outbound {
                    self.sent_on.remove(child);
                }
                if !known.1 && !known.2 {
                    self.children.remove(child);
                }
            }
            Output::IkeSpi { spi, stands: true } => {
                let index = spi % (1 << IKE_SPI_INDEX_BITS);
                let before = self.ike_spis.insert(index, *spi);
                assert_eq!(before, None, "{spi:#x} stands beside another of its index");
            }
            Output::IkeSpi { spi, stands: false } => {
                let index = spi % (1 << IKE_SPI_INDEX_BITS);
                let before = self.ike_spis.remove(&index);
                assert_eq!(before, Some(*spi), "gone is one that did not stand");
            }
            Output::Transmit { .. } | Output::Event(_) => {}
        }
    }
}

fn command(side: usize, kind: u8, sa: Option<IkeSaId>, child: Option<ChildId>) -> Option<Command> {
    Some(match kind {
        0 => Command::Initiate {
            connection: CONNECTION.to_owned(),
        },
        1 => Command::RekeyChild(child?),
        2 => Command::RekeyIke(sa?),
        3 => Command::CloseChild(child?),
        4 => Command::Close(sa?),
        5 => Command::CloseAll,
        6 => Command::Acquire {
            connection: CONNECTION.to_owned(),
            ts_local: net("192.168.1.5/32"),
            ts_remote: net("10.1.2.3/32"),
        },
        7 => Command::Reauthenticate {
            connection: CONNECTION.to_owned(),
        },
        8 => Command::Terminate {
            connection: CONNECTION.to_owned(),
        },
        9 => Command::Move {
            ike_sa: sa?,
            local: if side == SITE {
                SocketAddr::from(MOVED)
            } else {
                address(CENTER)
            },
            remote: address(1 - side),
        },
        _ => Command::CreateChild {
            ike_sa: sa?,
            ts_local: vec![net("192.168.1.0/24")],
            ts_remote: vec![net("10.1.0.0/16")],
            resource: None,
        },
    })
}

fn address(side: usize) -> SocketAddr {
    let address = [([192, 0, 2, 1], 500), ([198, 51, 100, 1], 500)];
    SocketAddr::from(address[side])
}

fn side_of(to: SocketAddr) -> usize {
    if to.ip() == address(CENTER).ip() {
        CENTER
    } else {
        SITE
    }
}

fn net(text: &str) -> TrafficSelector {
    let (address, prefix_len) = text.split_once('/').expect("a prefix");
    let address = address.parse().expect("an address");
    TrafficSelector::subnet(address, prefix_len.parse().expect("a length")).expect("a prefix")
}

struct Everybody(SitePolicy);

impl Authorizer for Everybody {
    fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
        Some(self.0.clone())
    }
}

/// Both sides hold the same ECDSA certificate: signing is quick.
fn endpoint(side: usize, crashes: u64) -> Endpoint {
    let credential = Credential::from_pem(
        include_bytes!("../../tests/data/ec-leaf.crt"),
        include_bytes!("../../tests/data/ec-leaf.key"),
    );
    let trust = TrustAnchors::from_pem(include_bytes!("../../tests/data/ec-ca.crt"));
    let (site_nets, center_nets) = (
        vec![net("192.168.1.0/24")],
        vec![net("10.1.0.0/16"), net("172.16.0.0/16")],
    );
    let (ts_local, ts_remote) = match side {
        SITE => (site_nets, center_nets),
        _ => (center_nets, site_nets),
    };
    let policy = SitePolicy {
        site: 7,
        name: "clinic".to_owned(),
        ts_local,
        ts_remote,
        esp_proposals: None,
    };
    let mut config = EndpointConfig::new(
        credential.expect("the certificate"),
        IDENTITY.parse().expect("the identity"),
        trust.expect("the authority"),
        Box::new(Everybody(policy.clone())),
    );
    let proposals = ["aes128gcm16-prfsha256-x25519", "aes256-sha256-ecp256"];
    config.ike_proposals = proposals.map(|text| text.parse().expect("a proposal")).to_vec();
    // Few are enough to meet each limit.
    config.crash_secret = Some(CrashSecret::new(&[7; 32]));
    config.ticket_lifetime_s = Some(3_600);
    config.ike_spi_index_bits = IKE_SPI_INDEX_BITS;
    config.half_open_max = 6;
    config.cookie_from = 3;
    config.children_max = 3;
    if side == SITE {
        let remote = Remote {
            local: address(SITE),
            address: address(CENTER),
        };
        let identity = IDENTITY.parse().expect("the identity");
        config.connections = vec![Connection::new(CONNECTION, remote, identity, policy)];
    }
    Endpoint::new(config, Box::new(Seeded(side as u64 + 2 * crashes)))
}

/// SplitMix64: small, seeded, the same each time.
struct Seeded(u64);

impl Random for Seeded {
    fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            for (octet, value) in chunk.iter_mut().zip((word ^ (word >> 31)).to_be_bytes()) {
                *octet = value;
            }
        }
    }
}
