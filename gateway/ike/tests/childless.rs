//! IKE SAs without a Child SA (RFC 6023).

mod common;

use common::*;
use gateway_ike::{Command, EndpointConfig, Event, Start, TrafficSelector};

/// RFC 6023 section 3; the responder's IKE_SA_INIT answer is in the clear.
const CHILDLESS_IKEV2_SUPPORTED: [u8; 8] = [0, 0, 0, 8, 0, 0, 0x40, 0x22];

fn site(start: Start) -> EndpointConfig {
    let mut config = site_config();
    config.connections[0].childless = true;
    config.connections[0].start = start;
    config
}

fn up(site: EndpointConfig, center: EndpointConfig) -> Sim {
    let mut sim = Sim::new(site, center, 1);
    sim.initiate();
    sim.run_ms(500);
    for side in [SITE, CENTER] {
        assert_eq!(sim.endpoints[side].ike_sas().count(), 1, "{}", sim.words(side));
    }
    sim
}

fn children(sim: &Sim) -> [usize; 2] {
    [SITE, CENTER].map(|side| sim.planes[side].children.len())
}

/// The IKE_AUTH request of the site is the second datagram, the answer the next of the center.
fn auth_lengths(sim: &Sim) -> [usize; 2] {
    let is_auth = |one: &&Datagram| one.payload[18] == 35;
    let of = |response: u8| {
        let found = sim.sent.iter().filter(is_auth);
        found
            .filter(|one| one.payload[19] & 0x20 == response)
            .map(|one| one.payload.len())
            .sum()
    };
    [of(0), of(0x20)]
}

/// RFC 6023 section 4: IKE_AUTH without SA and TS payloads in both directions; a Child SA comes by CREATE_CHILD_SA.
#[test]
fn an_ike_sa_stands_alone_until_a_packet_wants_more() {
    let mut sim = up(site(Start::OnDemand), center_config());
    let usual = up(site_config(), center_config());
    assert_eq!(children(&sim), [0, 0]);
    for (without, with) in auth_lengths(&sim).into_iter().zip(auth_lengths(&usual)) {
        assert!(without + 50 < with, "{without} {with}");
    }
    let packet = |text: &str| -> TrafficSelector { net(text) };
    sim.command(
        SITE,
        Command::Acquire {
            connection: "center".to_owned(),
            ts_local: packet("192.168.1.5/32"),
            ts_remote: packet("10.1.2.3/32"),
        },
    );
    sim.run_ms(500);
    assert_eq!(children(&sim), [1, 1], "{}", sim.history.join("\n"));
    sim.assert_agreement();
}

/// The connection that is to be up has its Child SA at once, by CREATE_CHILD_SA: its keys come of a key exchange of
/// their own.
#[test]
fn the_first_child_sa_has_a_key_exchange_of_its_own() {
    for start in [Start::Now, Start::Manual] {
        let sim = up(site(start), center_config());
        assert_eq!(children(&sim), [1, 1], "{}", sim.history.join("\n"));
        sim.assert_agreement();
        let creates = sim.sent.iter().filter(|one| one.payload[18] == 36);
        // A key exchange value of 32 octets and more is in each of the two.
        assert!(creates.map(|one| one.payload.len()).all(|len| len > 150));
    }
}

/// A packet that waited is asked for, and nothing else beside it.
#[test]
fn the_packet_that_asked_gets_its_child_sa() {
    for start in [Start::OnDemand, Start::Manual] {
        let mut sim = Sim::new(site(start), center_config(), 2);
        sim.command(
            SITE,
            Command::Acquire {
                connection: "center".to_owned(),
                ts_local: net("192.168.1.5/32"),
                ts_remote: net("10.1.2.3/32"),
            },
        );
        sim.run_ms(10_000);
        assert_eq!(children(&sim), [1, 1], "{start:?}\n{}", sim.history.join("\n"));
        sim.assert_agreement();
    }
}

/// RFC 6023 section 4: not to a responder that did not say so. It gets the usual IKE_AUTH.
#[test]
fn a_responder_that_cannot_is_asked_as_usual() {
    let mut center = center_config();
    center.childless = false;
    let sim = up(site(Start::OnDemand), center);
    assert_eq!(children(&sim), [1, 1]);
    let said = |one: &Datagram| {
        one.payload
            .windows(8)
            .any(|eight| eight == CHILDLESS_IKEV2_SUPPORTED)
    };
    assert!(!sim.sent.iter().any(said));
}

/// Said by the responder in IKE_SA_INIT, and not by the initiator; an initiator that does not want it is not concerned.
#[test]
fn only_the_responder_says_it() {
    let sim = up(site_config(), center_config());
    assert_eq!(children(&sim), [1, 1]);
    let kind = [0x40, 0x22];
    let says = |from: &str, one: &Datagram| {
        one.from.ip() == from.parse::<std::net::IpAddr>().unwrap()
            && one.payload[18] == 34
            && notify_at(&one.payload, kind).is_some()
    };
    assert!(sim.sent.iter().any(|one| says("198.51.100.1", one)));
    assert!(!sim.sent.iter().any(|one| says("192.0.2.1", one)));
}

/// An IKE SA without Child SAs is rekeyed, asked and closed as any other, and gets its Child SA afterwards.
#[test]
fn it_lives_as_any_other() {
    let mut sim = up(site(Start::OnDemand), center_config());
    let first = sim.only_ike_sa(SITE);
    sim.command(SITE, Command::RekeyIke(first));
    sim.run_ms(60_000);
    assert_ne!(sim.only_ike_sa(SITE), first);
    let ike_sa = sim.only_ike_sa(CENTER);
    sim.command(
        CENTER,
        Command::CreateChild {
            ike_sa,
            ts_local: vec![net("10.1.0.0/16")],
            ts_remote: vec![net("192.168.1.0/24")],
            resource: None,
        },
    );
    sim.run_ms(500);
    assert_eq!(children(&sim), [1, 1]);
    sim.assert_agreement();
    sim.command(CENTER, Command::CloseAll);
    sim.run_ms(5_000);
    assert_eq!(children(&sim), [0, 0]);
    let closed = |event: &Event| matches!(event, Event::Closed { .. });
    assert!(sim.events[SITE].iter().any(closed));
}

/// With re-authentication the new IKE SA takes over all Child SAs before the old one goes.
#[test]
fn re_authentication_has_no_gap() {
    let mut sim = up(site(Start::Now), center_config());
    let flow = (net("192.168.1.5/32"), net("10.1.2.3/32"));
    sim.command(
        SITE,
        Command::Reauthenticate {
            connection: "center".to_owned(),
        },
    );
    for _ in 0..300 {
        sim.run_ms(1);
        assert!(sim.send_packet(SITE, &flow), "{}", sim.history.join("\n"));
        let back = (flow.1, flow.0);
        assert!(sim.send_packet(CENTER, &back), "{}", sim.history.join("\n"));
    }
    sim.run_ms(60_000);
    assert_eq!(sim.lost, 0);
    sim.assert_agreement();
    assert_eq!(sim.only_ike_sa(SITE).0, 2);
}
