//! Connections that this side begins: several remotes, on demand, idle close, back-off, re-establishment, and
//! re-authentication without a gap.

mod common;

use common::*;
use gateway_ike::{
    Backoff, Command, ConnectionInfo, ConnectionState, EndpointConfig, Event, Idle, Remote, Start,
    TrafficSelector,
};

const NAME: &str = "center";

fn remote(address: &str) -> Remote {
    Remote {
        local: site_address(),
        address: address.parse().unwrap(),
    }
}

fn site(start: Start) -> EndpointConfig {
    let mut config = site_config();
    config.connections[0].start = start;
    config
}

fn info(sim: &Sim) -> ConnectionInfo {
    sim.endpoints[SITE].connections().next().unwrap()
}

fn packet() -> (TrafficSelector, TrafficSelector) {
    (net("192.168.1.7/32"), net("10.1.0.10/32"))
}

fn acquire(sim: &mut Sim, side: usize, connection: &str) {
    let (site, center) = packet();
    let (ts_local, ts_remote) = if side == SITE {
        (site, center)
    } else {
        (center, site)
    };
    let connection = connection.to_owned();
    sim.command(
        side,
        Command::Acquire {
            connection,
            ts_local,
            ts_remote,
        },
    );
}

fn named(make: impl Fn(String) -> Command) -> Command {
    make(NAME.to_owned())
}

fn initiate() -> Command {
    named(|connection| Command::Initiate { connection })
}

/// A packet each way arrives.
fn assert_traffic(sim: &mut Sim) {
    let (local, remote) = packet();
    let arrived = sim.arrived;
    assert!(
        sim.send_packet(SITE, &(local, remote)),
        "{}",
        sim.history.join("\n")
    );
    assert!(
        sim.send_packet(CENTER, &(remote, local)),
        "{}",
        sim.history.join("\n")
    );
    sim.run_ms(10);
    assert_eq!(sim.arrived, arrived + 2, "{}", sim.history.join("\n"));
}

fn handshakes(sim: &Sim) -> usize {
    let from_site = sim.sent.iter().filter(|one| one.from.ip() == site_address().ip());
    let mut spis: Vec<_> = from_site
        .filter(|one| one.payload[18] == 34)
        .map(|one| one.payload[..8].to_vec())
        .collect();
    spis.sort();
    spis.dedup();
    spis.len()
}

#[test]
fn a_connection_that_starts_now_needs_no_command() {
    let mut sim = Sim::new(site(Start::Now), center_config(), 1);
    assert_eq!(
        sim.endpoints[SITE].poll_timeout().map(|(due_ms, _)| due_ms),
        Some(0)
    );
    sim.run_ms(500);
    sim.assert_agreement();
    assert_eq!(info(&sim).state, ConnectionState::Up);
    assert_eq!(info(&sim).ike_sas.len(), 1);
    assert_traffic(&mut sim);
}

#[test]
fn the_next_remote_is_tried_after_a_failure() {
    let mut config = site(Start::Manual);
    config.connections[0].remotes = vec![remote("198.51.100.8:500"), remote("198.51.100.1:500")];
    let mut sim = Sim::new(config, center_config(), 2);
    sim.unreachable = vec!["198.51.100.8".parse().unwrap()];
    sim.command(SITE, initiate());
    sim.run_ms(30_000);
    assert_eq!(info(&sim).state, ConnectionState::Connecting);
    assert_eq!(info(&sim).remote, Some(remote("198.51.100.8:500")));
    sim.run_ms(10_000);
    assert_eq!(info(&sim).state, ConnectionState::Up, "{}", sim.words(SITE));
    assert_eq!(info(&sim).remote, Some(remote("198.51.100.1:500")));
    assert_traffic(&mut sim);
}

/// The center that carries the traffic goes away: the other one is tried.
#[test]
fn another_remote_takes_over_when_the_peer_goes_silent() {
    let mut config = site(Start::Now);
    config.connections[0].remotes = vec![remote("198.51.100.1:500"), remote("198.51.100.2:500")];
    let mut sim = Sim::new(config, center_config(), 3);
    sim.run_ms(500);
    assert_eq!(info(&sim).remote, Some(remote("198.51.100.1:500")));
    sim.unreachable = vec!["198.51.100.1".parse().unwrap()];
    sim.run_ms(80_000);
    assert_eq!(info(&sim).state, ConnectionState::Up, "{}", sim.words(SITE));
    assert_eq!(info(&sim).remote, Some(remote("198.51.100.2:500")));
    assert_traffic(&mut sim);
}

#[test]
fn waits_grow_between_rounds_and_are_bounded_and_drawn() {
    let mut config = site(Start::Now);
    config.connections[0].backoff = Backoff {
        first_s: 10,
        longest_s: 60,
    };
    config.connections[0].remotes = vec![remote("198.51.100.8:500"), remote("198.51.100.9:500")];
    let mut sim = Sim::new(config, center_config(), 4);
    sim.link.loss = 100;
    sim.run_ms(1_500_000);
    let waits = sim.events[SITE].iter().filter_map(|event| match event {
        Event::ConnectionDown { retry_in_ms, .. } => *retry_in_ms,
        _ => None,
    });
    // The second remote is tried at once, then the waits between rounds.
    let (at_once, waits): (Vec<u64>, Vec<u64>) = waits.partition(|wait_ms| *wait_ms == 0);
    assert!(waits.len() > 6 && at_once.len() >= waits.len());
    for (wait_ms, longest_s) in waits.iter().zip([10, 20, 40, 60, 60, 60]) {
        let range = longest_s * 500..=longest_s * 1_000;
        assert!(range.contains(wait_ms), "{wait_ms} ms in {waits:?}");
    }
    let mut drawn = waits[3..].to_vec();
    drawn.dedup();
    assert!(drawn.len() > 1, "{waits:?}");
    sim.link.loss = 0;
    sim.run_ms(140_000);
    assert_eq!((info(&sim).state, info(&sim).failures), (ConnectionState::Up, 0));
}

#[test]
fn a_manual_connection_gives_up_after_all_remotes() {
    let mut config = site(Start::Manual);
    config.connections[0].remotes = vec![remote("198.51.100.8:500"), remote("198.51.100.9:500")];
    let mut sim = Sim::new(config, center_config(), 5);
    sim.link.loss = 100;
    sim.command(SITE, initiate());
    sim.run_ms(600_000);
    assert_eq!(
        (info(&sim).state, info(&sim).failures),
        (ConnectionState::Down, 2)
    );
    assert_eq!(handshakes(&sim), 2);
    assert_eq!(
        sim.endpoints[SITE].poll_timeout(),
        None,
        "nothing is left to be done"
    );
}

#[test]
fn the_first_packet_brings_the_connection_up_once() {
    let mut sim = Sim::new(site(Start::OnDemand), center_config(), 6);
    sim.run_ms(60_000);
    assert!(sim.sent.is_empty());
    for _ in 0..50 {
        acquire(&mut sim, SITE, NAME);
    }
    sim.run_ms(500);
    for _ in 0..50 {
        acquire(&mut sim, SITE, NAME);
    }
    sim.run_ms(500);
    assert_eq!(handshakes(&sim), 1);
    assert_eq!(sim.planes[SITE].children.len(), 1, "{}", sim.words(SITE));
    assert_traffic(&mut sim);
}

/// Packets to a peer that does not answer do not make us ask at the rate of the packets.
#[test]
fn packets_do_not_shorten_the_back_off() {
    let mut config = site(Start::OnDemand);
    config.connections[0].backoff = Backoff {
        first_s: 100,
        longest_s: 400,
    };
    let mut sim = Sim::new(config, center_config(), 7);
    sim.link.loss = 100;
    for _ in 0..600 {
        acquire(&mut sim, SITE, NAME);
        sim.run_ms(1_000);
    }
    assert!((3..=5).contains(&handshakes(&sim)), "{}", handshakes(&sim));
    sim.link.loss = 0;
    acquire(&mut sim, SITE, NAME);
    sim.run_ms(400_000);
    assert_eq!(info(&sim).state, ConnectionState::Up);
}

/// An IKE SA is there, the Child SA is not: only that is made, whoever began the IKE SA.
#[test]
fn a_packet_makes_a_child_sa_on_a_standing_ike_sa() {
    let mut center = center_config();
    let from_center = Remote {
        local: center_address(),
        address: site_address(),
    };
    let policy = policy(&[net("10.1.0.0/16")], &[net("192.168.1.0/24")]);
    let identity = "site1.lab.test".parse().unwrap();
    center.connections = vec![gateway_ike::Connection::new(
        "site",
        from_center,
        identity,
        policy,
    )];
    let mut sim = connected(site_config(), center, 8);
    for (side, name) in [(SITE, "center"), (CENTER, "site")] {
        let child = sim.only_child(SITE);
        sim.command(SITE, Command::CloseChild(child));
        sim.run_ms(10_000);
        assert!(sim.planes[SITE].children.is_empty());
        for _ in 0..20 {
            acquire(&mut sim, side, name);
            sim.run_ms(100);
        }
        sim.assert_agreement();
        sim.only_child(SITE);
        sim.only_ike_sa(SITE);
        assert_traffic(&mut sim);
    }
    assert_eq!(handshakes(&sim), 1);
}

#[test]
fn what_carries_nothing_is_closed_and_comes_back_with_a_packet() {
    let mut config = site(Start::OnDemand);
    config.connections[0].idle = Idle {
        child_after_s: Some(60),
        ike_after_s: Some(30),
    };
    let mut sim = Sim::new(config, center_config(), 9);
    acquire(&mut sim, SITE, NAME);
    sim.run_ms(500);
    // Packets in one direction are enough, whichever it is.
    let (local, remote) = packet();
    for round in 0..8 {
        match round % 2 {
            0 => sim.send_packet(SITE, &(local, remote)),
            _ => sim.send_packet(CENTER, &(remote, local)),
        };
        sim.run_ms(50_000);
        assert_eq!(sim.planes[SITE].children.len(), 1, "round {round}");
    }
    sim.run_ms(15_000);
    assert!(sim.planes[SITE].children.is_empty());
    assert_eq!(sim.endpoints[SITE].ike_sas().count(), 1);
    sim.run_ms(30_000);
    for side in [SITE, CENTER] {
        assert_eq!(sim.endpoints[side].ike_sas().count(), 0, "{}", sim.words(side));
        assert!(sim.planes[side].children.is_empty());
    }
    assert!(sim.words(SITE).contains("closed: idle"), "{}", sim.words(SITE));
    assert_eq!(info(&sim).state, ConnectionState::Down);
    acquire(&mut sim, SITE, NAME);
    sim.run_ms(5_000);
    assert_traffic(&mut sim);
}

#[test]
fn sas_that_peers_began_are_closed_when_idle_too() {
    let mut center = center_config();
    center.idle = Idle {
        child_after_s: Some(20),
        ike_after_s: Some(10),
    };
    let mut sim = connected(site_config(), center, 10);
    sim.run_ms(40_000);
    assert_eq!(sim.endpoints[SITE].ike_sas().count(), 0, "{}", sim.words(SITE));
}

/// Regression: a site that connected again while the gateway waited for others' acknowledgements was let in, and heard
/// nothing when the gateway ended.
#[test]
fn a_gateway_that_stops_lets_nobody_in_again() {
    let mut sim = Sim::new(site(Start::Now), center_config(), 11);
    sim.run_ms(500);
    assert_eq!(info(&sim).state, ConnectionState::Up);
    sim.command(CENTER, Command::Stop);
    sim.run_ms(20_000);
    assert_eq!(info(&sim).state, ConnectionState::Connecting);
    assert_eq!(sim.endpoints[CENTER].ike_sas().count(), 0);
}

#[test]
fn it_comes_back_when_the_peer_closes_it_and_stays_down_when_we_do() {
    let mut sim = Sim::new(site(Start::Now), center_config(), 11);
    sim.run_ms(500);
    sim.command(CENTER, Command::CloseAll);
    sim.run_ms(100);
    assert!(matches!(info(&sim).state, ConnectionState::Waiting { .. }));
    sim.run_ms(6_000);
    assert_eq!(info(&sim).state, ConnectionState::Up);
    assert_traffic(&mut sim);
    // By name, by IKE SA, and while it is connecting.
    sim.command(SITE, named(|connection| Command::Terminate { connection }));
    sim.run_ms(60_000);
    assert_eq!(info(&sim).state, ConnectionState::Down);
    sim.command(SITE, initiate());
    sim.run_ms(500);
    let ike_sa = sim.only_ike_sa(SITE);
    sim.command(SITE, Command::Close(ike_sa));
    sim.run_ms(60_000);
    assert_eq!(info(&sim).state, ConnectionState::Down);
    sim.link.loss = 100;
    sim.command(SITE, initiate());
    sim.run_ms(5_000);
    assert_eq!(info(&sim).state, ConnectionState::Connecting);
    sim.command(SITE, named(|connection| Command::Terminate { connection }));
    sim.run_ms(60_000);
    assert_eq!(info(&sim).state, ConnectionState::Down);
    assert_eq!(sim.endpoints[SITE].poll_timeout(), None);
}

/// A Child SA that the peer deletes is asked for again when the connection is to be up at all times.
#[test]
fn a_child_sa_that_the_peer_deletes_comes_back() {
    let mut sim = Sim::new(site(Start::Now), center_config(), 12);
    sim.run_ms(500);
    let child = sim.only_child(CENTER);
    sim.command(CENTER, Command::CloseChild(child));
    sim.run_ms(40_000);
    sim.assert_agreement();
    assert_eq!(handshakes(&sim), 1);
    assert_traffic(&mut sim);
}

/// RFC 7296 section 2.4: the peer lost its state and answers INVALID_IKE_SPI. That is not believed, but asked
/// about; then the connection comes back, well before the idle time of liveness checks and 39 s of repetitions
/// for each IKE SA would be over.
#[test]
fn a_crash_of_the_peer_is_noticed_at_the_next_request() {
    let mut config = site(Start::Now);
    config.dpd_after_s = 3_600;
    let mut sim = Sim::new(config, center_config(), 13);
    sim.run_ms(500);
    sim.crash(CENTER, center_config());
    // Nothing tells the site, until it asks for something.
    sim.run_ms(600_000);
    let child = sim.only_child(SITE);
    sim.command(SITE, Command::RekeyChild(child));
    sim.run_ms(60_000);
    sim.assert_agreement();
    assert!(sim.endpoints[SITE].counters().hints > 0);
    assert!(sim.endpoints[CENTER].counters().unprotected_answers > 0);
    assert_traffic(&mut sim);
}

/// RFC 7296 section 2.8.3: the new IKE SA and its Child SAs are there before the old one goes, further Child SAs
/// too, and the center keeps the old one until it is deleted although the same peer comes anew.
#[test]
fn authenticates_anew_without_a_gap() {
    reauthenticates("gw.lab.test", center_config());
}

/// A peer is the same however the configuration spells its name, and however the peer does: found by another spelling,
/// it would be told to drop the IKE SA before the new one carries anything (INITIAL_CONTACT).
#[test]
fn authenticates_anew_without_a_gap_however_the_identity_is_spelt() {
    reauthenticates("GW.lab.TEST", center_config());
    let mut center = center_config();
    center.local_identity = "C=JP, O=Lab, CN=gw.lab.test".parse().unwrap();
    reauthenticates("c=jp, o=LAB, cn=GW.lab.test", center);
}

fn reauthenticates(remote_identity: &str, center: EndpointConfig) {
    let mut config = site(Start::Now);
    config.connections[0].reauth_after_s = Some(600);
    config.connections[0].remote_identity = remote_identity.parse().unwrap();
    let mut sim = Sim::new(config, center, 14);
    sim.run_ms(500);
    let first = sim.only_ike_sa(SITE);
    let further = Command::CreateChild {
        ike_sa: first,
        ts_local: vec![net("192.168.1.0/24")],
        ts_remote: vec![net("172.16.5.0/24")],
        resource: None,
    };
    sim.command(SITE, further);
    sim.run_ms(500);
    let (local, remote) = packet();
    sim.run_ms(530_000);
    while info(&sim).ike_sas == [first] {
        assert!(sim.now_ms < 700_000, "{}", sim.words(SITE));
        sim.run_ms(1);
        sim.send_packet(SITE, &(local, remote));
        sim.send_packet(CENTER, &(remote, local));
    }
    let until = sim.now_ms + 20_000;
    while sim.now_ms < until {
        sim.run_ms(1);
        sim.send_packet(SITE, &(local, remote));
        sim.send_packet(CENTER, &(remote, local));
    }
    assert_eq!(sim.lost, 0, "{}", sim.history.join("\n"));
    assert!(sim.planes.iter().all(|plane| plane.abrupt.is_empty()));
    sim.assert_agreement();
    assert_ne!(sim.only_ike_sa(SITE), first);
    let peer = remote_identity.parse().unwrap();
    assert_eq!(sim.endpoints[SITE].ike_sas_with(&peer).count(), 1);
    assert!(sim.words(SITE).contains("authenticated anew on another IKE SA"));
    assert!(
        !sim.words(CENTER).contains("INITIAL_CONTACT"),
        "{}",
        sim.words(CENTER)
    );
    // And again, by itself.
    sim.run_ms(650_000);
    assert_eq!(handshakes(&sim), 3);
}

/// The center does not know the site any more: what stands stands until it ends; it is not thrown away because
/// the new one failed.
#[test]
fn a_refused_authentication_leaves_what_stands() {
    let mut sim = Sim::new(site(Start::Now), center_config(), 15);
    sim.run_ms(500);
    let before = sim.only_ike_sa(SITE);
    let mut center = center_config();
    center.authorizer = Box::new(Nobody);
    sim.endpoints[CENTER].set_config(center);
    sim.command(SITE, named(|connection| Command::Reauthenticate { connection }));
    sim.run_ms(20_000);
    assert!(handshakes(&sim) > 2, "it is tried again");
    assert_eq!(sim.only_ike_sa(SITE), before);
    sim.assert_agreement();
    assert_traffic(&mut sim);
    sim.endpoints[CENTER].set_config(center_config());
    sim.run_ms(400_000);
    assert_ne!(sim.only_ike_sa(SITE), before, "{}", sim.words(SITE));
    assert_traffic(&mut sim);
}

/// Both sides begin at once: both IKE SAs stand or one goes, but the sides agree and traffic flows.
#[test]
fn both_sides_begin_at_once() {
    for seed in 0..40 {
        let mut center = center_config();
        let from_center = Remote {
            local: center_address(),
            address: site_address(),
        };
        let policy = policy(
            &[net("10.1.0.0/16"), net("172.16.5.0/24")],
            &[net("192.168.1.0/24")],
        );
        let identity = "site1.lab.test".parse().unwrap();
        let mut connection = gateway_ike::Connection::new("site", from_center, identity, policy);
        connection.start = Start::Now;
        center.connections = vec![connection];
        let mut sim = Sim::new(site(Start::Now), center, seed);
        sim.link.delay_ms = 1 + seed * 10;
        sim.run_ms(120_000);
        sim.link.delay_ms = 1;
        sim.run_ms(120_000);
        sim.assert_agreement();
        assert_traffic(&mut sim);
    }
}

#[test]
fn a_new_configuration_starts_what_is_new_and_leaves_what_stands() {
    let mut sim = Sim::new(site(Start::Now), center_config(), 16);
    sim.run_ms(500);
    let before = sim.only_ike_sa(SITE);
    let mut config = site(Start::Now);
    let mut other = config.connections[0].clone();
    other.name = "other".to_owned();
    other.remotes = vec![remote("198.51.100.7:500")];
    config.connections.insert(0, other);
    sim.endpoints[SITE].set_config(config);
    let now = sim.now();
    sim.endpoints[SITE].handle_timeout(now);
    sim.drain(SITE);
    let states: Vec<_> = sim.endpoints[SITE]
        .connections()
        .map(|info| (info.name, info.state))
        .collect();
    assert_eq!(states[1], (NAME.to_owned(), ConnectionState::Up));
    assert_eq!(states[0].0, "other");
    assert!(sim.endpoints[SITE].ike_sas().any(|info| info.id == before));
    // What is no longer configured is not tried again.
    sim.endpoints[SITE].set_config(site_config());
    assert_eq!(sim.endpoints[SITE].connections().count(), 1);
}

/// One identity cannot fill the memory with IKE SAs: the oldest end, and the peer is told.
#[test]
fn the_oldest_ike_sas_of_one_peer_end() {
    let mut config = site_config();
    let connection = config.connections.remove(0);
    for number in 0..12 {
        let mut another = connection.clone();
        another.name = format!("c{number}");
        config.connections.push(another);
    }
    let mut center = center_config();
    center.ike_sas_per_peer_max = 4;
    let mut sim = Sim::new(config, center, 17);
    for number in 0..12 {
        let connection = format!("c{number}");
        sim.command(SITE, Command::Initiate { connection });
        sim.run_ms(100);
    }
    sim.run_ms(1_000);
    assert_eq!(
        sim.endpoints[CENTER].ike_sas().count(),
        4,
        "{}",
        sim.words(CENTER)
    );
    assert_eq!(sim.endpoints[SITE].ike_sas().count(), 4, "{}", sim.words(SITE));
    sim.assert_agreement();
    assert!(sim.words(CENTER).contains("too many newer IKE SAs"));
}
