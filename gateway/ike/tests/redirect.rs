//! Redirect (RFC 5685): sites, and gateways that send them to each other.
//!
//! ```text
//!   sites 192.0.2.N ----+---- gateway "one" 198.51.100.1
//!                       +---- gateway "two" 198.51.100.2
//! ```

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
};

use common::{Seeded, UNIX_S, center_config, ec_credential, notify_at, site_config};
use gateway_ike::{
    AuthKind, ChildId, CloseReason, Command, Endpoint, EndpointConfig, Event, OtherGateway, Output,
    PeerSharedKey, SharedKey, Start, Time, pki::identity::Identity,
};

const ONE: &str = "198.51.100.1";
const TWO: &str = "198.51.100.2";
const SITE: &str = "192.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn to(text: &str) -> Option<OtherGateway> {
    Some(text.parse().unwrap())
}

/// Endpoints by address. The network delivers at once, the clock jumps from one deadline to the next.
struct Net {
    endpoints: BTreeMap<IpAddr, Endpoint>,
    /// Child SAs that each can send on.
    children: BTreeMap<IpAddr, BTreeSet<ChildId>>,
    events: BTreeMap<IpAddr, Vec<Event>>,
    sent: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    queue: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Nothing reaches it.
    dead: Option<IpAddr>,
    /// A site had Child SAs, and then none.
    gaps: usize,
    now_ms: u64,
}

impl Net {
    fn new(endpoints: Vec<(&str, EndpointConfig)>) -> Self {
        let made = endpoints
            .into_iter()
            .enumerate()
            .map(|(seed, (address, config))| {
                let random = Seeded(u64::try_from(seed).unwrap() + 1);
                (ip(address), Endpoint::new(config, Box::new(random)))
            });
        Self {
            endpoints: made.collect(),
            children: BTreeMap::new(),
            events: BTreeMap::new(),
            sent: Vec::new(),
            queue: VecDeque::new(),
            dead: None,
            gaps: 0,
            now_ms: 1_000,
        }
    }

    fn now(&self) -> Time {
        Time {
            mono_ms: self.now_ms,
            unix_s: UNIX_S + self.now_ms / 1_000,
        }
    }

    fn command(&mut self, at: &str, command: Command) {
        let now = self.now();
        self.endpoints
            .get_mut(&ip(at))
            .unwrap()
            .handle_command(now, command);
        self.drain(ip(at));
        self.settle();
    }

    fn drain(&mut self, at: IpAddr) {
        while let Some(output) = self.endpoints.get_mut(&at).unwrap().poll_output() {
            match output {
                Output::Transmit {
                    local,
                    remote,
                    payload,
                } => {
                    assert_eq!(local.ip(), at);
                    self.sent.push((local, remote, payload.clone()));
                    self.queue.push_back((local, remote, payload));
                }
                Output::InstallChildSa(sa) => {
                    self.children.entry(at).or_default().insert(sa.child);
                }
                Output::RemoveChildSa { child, direction } => {
                    if direction != gateway_ike::Direction::Inbound {
                        let children = self.children.entry(at).or_default();
                        children.remove(&child);
                        self.gaps += usize::from(children.is_empty() && at == ip(SITE));
                    }
                }
                Output::Event(event) => self.events.entry(at).or_default().push(event),
                Output::ActivateOutbound { .. } | Output::UpdateChildSa { .. } | Output::IkeSpi { .. } => {}
            }
        }
    }

    fn settle(&mut self) {
        while let Some((from, to, payload)) = self.queue.pop_front() {
            let unreachable = [Some(from.ip()), Some(to.ip())].contains(&self.dead) && self.dead.is_some();
            let now = self.now();
            if let Some(endpoint) = self.endpoints.get_mut(&to.ip()).filter(|_| !unreachable) {
                endpoint.handle_datagram(now, to, from, &payload);
                self.drain(to.ip());
            }
        }
    }

    fn run_ms(&mut self, duration_ms: u64) {
        let until_ms = self.now_ms + duration_ms;
        loop {
            let due = self.endpoints.values().filter_map(|one| one.poll_timeout()).min();
            let Some((due_ms, _)) = due.filter(|(due_ms, _)| *due_ms <= until_ms) else {
                self.now_ms = until_ms;
                return;
            };
            self.now_ms = self.now_ms.max(due_ms);
            let now = self.now();
            let addresses: Vec<_> = self.endpoints.keys().copied().collect();
            for at in addresses {
                let endpoint = self.endpoints.get_mut(&at).unwrap();
                if endpoint
                    .poll_timeout()
                    .is_some_and(|(due_ms, _)| due_ms <= self.now_ms)
                {
                    endpoint.handle_timeout(now);
                    self.drain(at);
                }
            }
            self.settle();
        }
    }

    fn sas(&self, at: &str) -> usize {
        let all = self.endpoints[&ip(at)].ike_sas();
        all.filter(|one| one.state == "established").count()
    }

    fn said(&self, at: &str) -> String {
        let events = self.events.get(&ip(at)).into_iter().flatten();
        events.map(Event::to_string).collect::<Vec<_>>().join("\n")
    }

    /// The remote that the site is set up with.
    fn peer_of_site(&self) -> Vec<String> {
        let all = self.endpoints[&ip(SITE)].ike_sas();
        all.map(|one| one.remote.ip().to_string()).collect()
    }

    fn up(&mut self) {
        self.command(
            SITE,
            Command::Initiate {
                connection: "center".to_owned(),
            },
        );
    }
}

fn site() -> EndpointConfig {
    let mut config = site_config();
    config.connections[0].redirects = true;
    config
}

fn two_gateways(site: EndpointConfig) -> Net {
    Net::new(vec![(SITE, site), (ONE, center_config()), (TWO, center_config())])
}

/// Notify payloads of this kind in the clear.
fn clear(net: &Net, from: &str, kind: u16) -> Vec<Vec<u8>> {
    let has = |payload: &[u8]| payload[18] == 34 && notify_at(payload, kind.to_be_bytes()).is_some();
    let sent = net
        .sent
        .iter()
        .filter(|(local, _, payload)| local.ip() == ip(from) && has(payload));
    sent.map(|(_, _, payload)| payload.clone()).collect()
}

const REDIRECT_SUPPORTED: u16 = 16406;
const REDIRECT: u16 = 16407;
const REDIRECTED_FROM: u16 = 16408;

#[test]
fn a_site_that_comes_is_sent_away() {
    let mut net = two_gateways(site());
    net.command(ONE, Command::Drain { to: to(TWO) });
    net.up();
    assert_eq!(net.peer_of_site(), [TWO], "{}", net.said(SITE));
    assert_eq!((net.sas(ONE), net.sas(TWO)), (0, 1));
    assert_eq!(net.children[&ip(SITE)].len(), 1);
    // Gateway one computed and kept nothing; its answer is no longer than the request.
    let one = &net.endpoints[&ip(ONE)];
    assert_eq!(
        (
            one.counters().key_exchanges,
            one.half_open().count,
            one.counters().redirects_sent
        ),
        (0, 0, 1)
    );
    let (request, answer) = (
        &clear(&net, SITE, REDIRECT_SUPPORTED)[0],
        &clear(&net, ONE, REDIRECT)[0],
    );
    assert!(answer.len() <= request.len());
    // RFC 5685 section 3: gateway two is told who sent the site.
    let told = clear(&net, SITE, REDIRECTED_FROM);
    let from_one = [&[1, 4][..], &[198, 51, 100, 1]].concat();
    assert!(told.len() == 1 && told[0].windows(6).any(|six| six == from_one));
    // Drained no more: the next one is served.
    net.command(ONE, Command::Drain { to: None });
    assert_eq!(net.endpoints[&ip(ONE)].draining(), None);
}

#[test]
fn a_site_that_is_here_goes_without_a_gap() {
    for start in [Start::Manual, Start::Now, Start::OnDemand] {
        let mut config = site();
        config.connections[0].start = start;
        let mut net = two_gateways(config);
        net.up();
        net.run_ms(2_000);
        assert_eq!(net.peer_of_site(), [ONE]);
        // Rekeyed meanwhile: what the peer can do is not forgotten.
        let ike_sa = net.endpoints[&ip(SITE)].ike_sas().next().unwrap().id;
        net.command(SITE, Command::RekeyIke(ike_sa));
        net.run_ms(40_000);
        net.command(ONE, Command::Drain { to: to(TWO) });
        net.run_ms(5_000);
        assert_eq!(net.peer_of_site(), [TWO], "{start:?}\n{}", net.said(SITE));
        assert_eq!((net.sas(ONE), net.sas(TWO), net.gaps), (0, 1, 0));
        assert_eq!(net.children[&ip(SITE)].len(), 1);
        let left = net.endpoints[&ip(ONE)].draining().unwrap();
        assert_eq!((left.redirectable, left.staying), (0, 0));
    }
}

/// The gateway begins to be emptied between IKE_SA_INIT and IKE_AUTH: the site is told once both have proved themselves.
#[test]
fn a_site_on_its_way_is_sent_away() {
    let mut net = two_gateways(site());
    let now = net.now();
    let initiate = Command::Initiate {
        connection: "center".to_owned(),
    };
    net.endpoints
        .get_mut(&ip(SITE))
        .unwrap()
        .handle_command(now, initiate);
    net.drain(ip(SITE));
    // Request and answer of IKE_SA_INIT, and IKE_AUTH is under way.
    for _ in 0..2 {
        let (from, to, payload) = net.queue.pop_front().unwrap();
        net.endpoints
            .get_mut(&to.ip())
            .unwrap()
            .handle_datagram(now, to, from, &payload);
        net.drain(to.ip());
    }
    net.command(ONE, Command::Drain { to: to(TWO) });
    net.run_ms(100);
    assert_eq!(net.peer_of_site(), [TWO], "{}\n{}", net.said(SITE), net.said(ONE));
    assert!(net.said(ONE).contains("established"));
    // The site deleted it.
    assert_eq!((net.sas(ONE), net.sas(TWO)), (0, 1));
    assert!(!net.children.contains_key(&ip(ONE)));
    let deleted = |event: &Event| {
        matches!(
            event,
            Event::Closed {
                reason: CloseReason::DeletedByPeer,
                ..
            }
        )
    };
    assert!(net.events[&ip(ONE)].iter().any(deleted));
}

#[test]
fn who_did_not_ask_is_served() {
    let mut net = two_gateways(site_config());
    net.command(ONE, Command::Drain { to: to(TWO) });
    net.up();
    net.run_ms(5_000);
    assert_eq!(net.peer_of_site(), [ONE]);
    assert!(clear(&net, SITE, REDIRECT_SUPPORTED).is_empty() && clear(&net, ONE, REDIRECT).is_empty());
    let left = net.endpoints[&ip(ONE)].draining().unwrap();
    assert_eq!((left.redirectable, left.staying), (0, 1));
}

/// Somebody who does not see the request cannot redirect it: another nonce, or none. And one who was not asked to.
#[test]
fn a_forged_redirect_is_ignored() {
    let mut net = two_gateways(site());
    net.dead = Some(ip(ONE));
    net.up();
    let request = clear(&net, SITE, REDIRECT_SUPPORTED).pop().unwrap();
    let forged = |nonce: &[u8]| {
        let data = [&[1, 4, 198, 51, 100, 2][..], nonce].concat();
        let len = u16::try_from(8 + data.len()).unwrap().to_be_bytes();
        let notify = [&[0, 0], &len[..], &[0, 0], &REDIRECT.to_be_bytes(), &data].concat();
        let total = u32::try_from(28 + notify.len()).unwrap().to_be_bytes();
        [
            &request[..8],
            &[0; 8],
            &[41, 0x20, 34, 0x20, 0, 0, 0, 0],
            &total,
            &notify,
        ]
        .concat()
    };
    let from: SocketAddr = format!("{ONE}:500").parse().unwrap();
    let local: SocketAddr = format!("{SITE}:500").parse().unwrap();
    for nonce in [&[0x11; 32][..], &[], &[0; 16]] {
        let now = net.now();
        net.endpoints
            .get_mut(&ip(SITE))
            .unwrap()
            .handle_datagram(now, local, from, &forged(nonce));
        net.drain(ip(SITE));
    }
    net.dead = None;
    net.run_ms(3_000);
    assert_eq!(net.peer_of_site(), [ONE], "{}", net.said(SITE));
    assert!(!net.said(SITE).contains("sent from"));
}

/// RFC 5685 section 7: two gateways that send sites to each other without looking, here one that has all addresses.
#[test]
fn a_loop_is_left() {
    let mut config = site();
    config.connections[0].start = Start::Now;
    let mut net = Net::new(vec![
        (SITE, config),
        (ONE, center_config()),
        (TWO, center_config()),
        ("198.51.100.3", center_config()),
    ]);
    net.command(ONE, Command::Drain { to: to(TWO) });
    net.command(
        TWO,
        Command::Drain {
            to: to("198.51.100.3"),
        },
    );
    net.command("198.51.100.3", Command::Drain { to: to(ONE) });
    net.run_ms(250_000);
    let followed = net.said(SITE).matches("is sent from").count();
    assert_eq!(followed, 5, "{}", net.said(SITE));
    assert!(net.said(SITE).contains("that is a loop"));
    // It is over when one of them serves.
    net.command(ONE, Command::Drain { to: None });
    net.run_ms(600_000);
    assert_eq!(net.peer_of_site(), [ONE]);
}

/// A pair that is emptied into each other by mistake serves who was sent by the other, once.
#[test]
fn two_gateways_do_not_play_ball() {
    let mut net = two_gateways(site());
    net.command(ONE, Command::Drain { to: to(TWO) });
    net.command(TWO, Command::Drain { to: to(ONE) });
    net.up();
    net.run_ms(60_000);
    assert_eq!(net.peer_of_site(), [TWO]);
    assert_eq!(
        net.said(SITE).matches("is sent from").count(),
        1,
        "{}",
        net.said(SITE)
    );
    let left = net.endpoints[&ip(TWO)].draining().unwrap();
    assert_eq!((left.redirectable, left.staying), (0, 1));
}

/// Whoever is at the new address must be who the connection wants; otherwise the site goes back.
#[test]
fn the_other_gateway_must_prove_the_same_identity() {
    let mut impostor = center_config();
    impostor.credential = ec_credential();
    impostor.local_identity = "site1.lab.test".parse().unwrap();
    let mut config = site();
    config.connections[0].start = Start::Now;
    let mut net = Net::new(vec![(SITE, config), (ONE, center_config()), (TWO, impostor)]);
    net.up();
    net.command(ONE, Command::Drain { to: to(TWO) });
    net.run_ms(20_000);
    assert!(
        net.said(SITE).contains("the connection wants gw.lab.test"),
        "{}",
        net.said(SITE)
    );
    // What worked is kept.
    assert_eq!(net.sas(TWO), 0);
    assert_eq!(net.peer_of_site(), [ONE]);
    assert_eq!(net.gaps, 0);
}

/// The other gateway is not there: the site goes back to the configured one.
#[test]
fn a_dead_end_is_left() {
    let mut config = site();
    config.connections[0].start = Start::Now;
    let mut net = two_gateways(config);
    net.dead = Some(ip(TWO));
    net.command(ONE, Command::Drain { to: to(TWO) });
    net.run_ms(60_000);
    assert_eq!(net.sas(ONE), 0);
    net.command(ONE, Command::Drain { to: None });
    net.run_ms(120_000);
    assert_eq!(net.peer_of_site(), [ONE], "{}", net.said(SITE));
}

/// A name (nobody here resolves one), an address of a family that the site has not, the gateway itself.
#[test]
fn what_is_not_followed() {
    for (target, reason) in [
        ("gw2.example", "only addresses are followed"),
        ("2001:db8::2", "of that family"),
        (ONE, "that is where it is"),
    ] {
        let mut net = two_gateways(site());
        net.up();
        net.command(ONE, Command::Drain { to: to(target) });
        net.run_ms(1_000);
        assert!(net.said(SITE).contains(reason), "{}", net.said(SITE));
        assert_eq!(net.peer_of_site(), [ONE]);
    }
}

/// The connection was changed to follow no more, on a peer that had said it would.
#[test]
fn a_connection_that_follows_no_more_stays() {
    let mut net = two_gateways(site());
    net.up();
    net.endpoints
        .get_mut(&ip(SITE))
        .unwrap()
        .set_config(site_config());
    net.command(ONE, Command::Drain { to: to(TWO) });
    net.run_ms(1_000);
    assert_eq!(net.peer_of_site(), [ONE]);
    assert!(net.said(SITE).contains("does not follow"));
}

/// A gateway with many sites sends them fifty a second; none is forgotten.
#[test]
fn a_full_gateway_is_emptied_a_few_at_a_time() {
    const SITES: usize = 120;
    let key = |own_identity| PeerSharedKey {
        key: SharedKey::from_text(b"0x00112233445566778899aabbccddeeff").unwrap(),
        peer: AuthKind::SharedKey,
        own: AuthKind::SharedKey,
        own_identity,
    };
    let name = |number: usize| format!("keyid:site-{number}").parse::<Identity>().unwrap();
    let gateway = || {
        let mut config = center_config();
        config.defence.cookie_from_per_source = 1_000;
        (1..=SITES).for_each(|number| config.shared_keys.insert(name(number), key(None)));
        config
    };
    let addresses: Vec<_> = (1..=SITES).map(|number| format!("192.0.2.{number}")).collect();
    let sites = addresses.iter().enumerate().map(|(index, address)| {
        let mut config = site();
        let own = Some(name(index + 1));
        config
            .shared_keys
            .insert("gw.lab.test".parse().unwrap(), key(own));
        config.connections[0].remotes[0].local = format!("{address}:500").parse().unwrap();
        (address.as_str(), config)
    });
    let mut net = Net::new(sites.chain([(ONE, gateway()), (TWO, gateway())]).collect());
    for at in &addresses {
        let connection = "center".to_owned();
        net.command(at, Command::Initiate { connection });
    }
    assert_eq!(net.sas(ONE), SITES);
    net.command(ONE, Command::Drain { to: to(TWO) });
    let in_all = |net: &Net| net.endpoints[&ip(ONE)].counters().redirects_sent;
    let mut before = in_all(&net);
    assert!(before <= 50);
    for _ in 0..5 {
        net.run_ms(999);
        assert!(in_all(&net) - before <= 50);
        before = in_all(&net);
    }
    net.run_ms(5_000);
    assert_eq!(in_all(&net), 120);
    assert_eq!((net.sas(ONE), net.sas(TWO), net.gaps), (0, SITES, 0));
}
