//! Peers that are refused, and the reason in words.

mod common;

use common::*;
use gateway_ike::{
    Command, Event,
    pki::trust::TrustAnchors,
    wire::{
        ChainBuilder, Exchange, Header, Message, Payload,
        notify::{Notify, kind},
        payload_type,
    },
};

fn refused(site: gateway_ike::EndpointConfig, center: gateway_ike::EndpointConfig) -> Sim {
    let mut sim = Sim::new(site, center, 1);
    sim.initiate();
    sim.run_ms(500);
    for side in [SITE, CENTER] {
        assert!(sim.planes[side].children.is_empty());
        assert_eq!(
            sim.endpoints[side].ike_sas().count(),
            0,
            "side {side}: {}",
            sim.words(side)
        );
    }
    sim
}

fn reason(sim: &Sim, side: usize) -> String {
    let found = sim.events[side].iter().find_map(|event| match event {
        Event::AuthenticationFailed { peer, reason, .. } => Some(format!("{peer}: {reason}")),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no such event: {}", sim.words(side)))
}

#[test]
fn an_unknown_authority() {
    let mut center = center_config();
    center.trust = TrustAnchors::from_pem(include_bytes!("data/other-ca.crt")).unwrap();
    let sim = refused(site_config(), center);
    let reason = reason(&sim, CENTER);
    assert!(reason.starts_with("site1.lab.test: "), "{reason}");
    assert!(
        reason.contains("EC CA") || reason.contains("authority"),
        "{reason}"
    );
    assert!(
        sim.words(SITE).contains("AUTHENTICATION_FAILED"),
        "{}",
        sim.words(SITE)
    );
}

#[test]
fn the_initiator_refuses_too_and_the_responder_learns_it() {
    let mut site = site_config();
    site.trust = TrustAnchors::from_pem(include_bytes!("data/other-ca.crt")).unwrap();
    let sim = refused(site, center_config());
    assert!(reason(&sim, SITE).starts_with("gw.lab.test: "));
    assert!(
        sim.words(CENTER).contains("AUTHENTICATION_FAILED"),
        "{}",
        sim.words(CENTER)
    );
}

#[test]
fn expired_certificates() {
    let mut sim = Sim::new(site_config(), center_config(), 1);
    sim.now_ms = 1_000 * 40 * 365 * 86_400; // forty years on
    sim.initiate();
    sim.run_ms(500);
    let reason = reason(&sim, CENTER);
    assert!(reason.contains("expired") || reason.contains("valid"), "{reason}");
    assert!(sim.planes[CENTER].children.is_empty());
}

#[test]
fn an_identity_that_the_certificate_does_not_hold() {
    let mut site = site_config();
    site.local_identity = "site2.lab.test".parse().unwrap();
    let sim = refused(site, center_config());
    let reason = reason(&sim, CENTER);
    assert!(
        reason.contains("does not speak for the identity site2.lab.test"),
        "{reason}"
    );
}

#[test]
fn another_responder_than_the_connection_wants() {
    let mut site = site_config();
    site.connections[0].remote_identity = "other.lab.test".parse().unwrap();
    let sim = refused(site, center_config());
    assert!(reason(&sim, SITE).contains("it is gw.lab.test, but the connection wants other.lab.test"));
}

#[test]
fn a_valid_certificate_that_no_site_matches() {
    let mut center = center_config();
    center.authorizer = Box::new(Nobody);
    let sim = refused(site_config(), center);
    assert!(reason(&sim, CENTER).contains("no configured site matches"));
}

#[test]
fn no_common_ike_proposal() {
    let mut center = center_config();
    center.ike_proposals = vec!["aes128-sha256-modp2048".parse().unwrap()];
    let mut site = site_config();
    site.ike_proposals = vec!["aes256gcm16-prfsha256-x25519".parse().unwrap()];
    let mut sim = Sim::new(site, center, 1);
    sim.initiate();
    sim.run_ms(3_000);
    let words = sim.words(CENTER);
    assert!(
        words.contains("it offers aes256gcm16-prfsha256-x25519; configured are aes128-sha256-modp2048"),
        "{words}"
    );
    assert!(sim.words(SITE).contains("NO_PROPOSAL_CHOSEN"));
}

/// RFC 7296 section 1.2: the IKE SA stands without a Child SA.
#[test]
fn no_common_traffic_or_esp_proposal() {
    let mut center = center_config();
    center.authorizer = Box::new(Everybody(policy(&[net("10.1.0.0/16")], &[net("172.20.0.0/16")])));
    let mut sim = Sim::new(site_config(), center, 1);
    sim.initiate();
    sim.run_ms(500);
    assert_eq!(sim.endpoints[SITE].ike_sas().count(), 1);
    assert!(sim.planes[SITE].children.is_empty() && sim.planes[CENTER].children.is_empty());
    assert!(sim.words(SITE).contains("TS_UNACCEPTABLE"));
    let words = sim.words(CENTER);
    assert!(
        words.contains("192.168.1.0/24; allowed are 10.1.0.0/16 === 172.20.0.0/16"),
        "{words}"
    );

    let mut center = center_config();
    center.esp_proposals = vec!["chacha20poly1305".parse().unwrap()];
    let mut site = site_config();
    site.esp_proposals = vec!["aes256gcm16".parse().unwrap()];
    let mut sim = Sim::new(site, center, 2);
    sim.initiate();
    sim.run_ms(500);
    assert_eq!(sim.endpoints[CENTER].ike_sas().count(), 1);
    assert!(sim.words(SITE).contains("NO_PROPOSAL_CHOSEN"));
    assert!(
        sim.words(CENTER).contains("it offers aes256gcm16-noesn"),
        "{}",
        sim.words(CENTER)
    );
}

#[test]
fn too_many_child_sas() {
    let mut center = center_config();
    center.children_max = 2;
    let mut sim = connected(site_config(), center, 3);
    let ike_sa = sim.only_ike_sa(SITE);
    for _ in 0..3 {
        let (ts_local, ts_remote) = (vec![net("192.168.1.0/24")], vec![net("10.1.0.0/16")]);
        sim.command(
            SITE,
            Command::CreateChild {
                ike_sa,
                ts_local,
                ts_remote,
                resource: None,
            },
        );
        sim.run_ms(500);
    }
    assert_eq!(sim.planes[CENTER].children.len(), 2);
    assert!(sim.words(SITE).contains("NO_ADDITIONAL_SAS"));
}

fn init_header() -> Header {
    Header {
        spi_i: 77,
        spi_r: 0,
        next_payload: payload_type::NONE,
        exchange: Exchange::IkeSaInit,
        from_initiator: true,
        response: false,
        message_id: 0,
    }
}

fn answer_to(request: Vec<u8>) -> Option<(Header, Message)> {
    let mut sim = Sim::new(site_config(), center_config(), 4);
    sim.deliver(&Datagram {
        from: site_address(),
        to: center_address(),
        payload: request,
    });
    let answer = sim.sent.pop()?.payload;
    let header = Header::parse(&answer).unwrap();
    Some((
        header,
        Message::parse(header.next_payload, &answer[28..]).unwrap(),
    ))
}

/// RFC 7296 section 2.5.
#[test]
fn unsupported_critical_payload_and_version() {
    let mut chain = ChainBuilder::new();
    // Long enough for the answer: nothing longer than the request goes to an address that is not proven.
    chain.push(200, |out| out.extend_from_slice(&[1; 16]));
    let mut request = init_header().message(chain).unwrap();
    request[29] |= 0x80;
    let (header, message) = answer_to(request.clone()).unwrap();
    assert!(header.response && header.spi_i == 77 && header.spi_r == 0);
    assert_eq!(
        message.0,
        [Payload::Notify(Notify::new(
            kind::UNSUPPORTED_CRITICAL_PAYLOAD,
            [200]
        ))]
    );

    request[17] = 0x30;
    let (_, message) = answer_to(request.clone()).unwrap();
    assert_eq!(
        message.0,
        [Payload::Notify(Notify::new(kind::INVALID_MAJOR_VERSION, []))]
    );
    request[17] = 0x10;
    assert!(
        answer_to(request.clone()).is_none(),
        "an IKEv1 daemon would not understand the answer"
    );
    request[17] = 0x30;
    request[19] |= 0x20;
    assert!(answer_to(request).is_none(), "a response is never answered");
}

#[test]
fn half_open_handshakes_are_bounded_in_number_and_time() {
    let mut center = center_config();
    center.half_open_max = 10;
    center.cookie_from = 1_000;
    center.defence.cookie_from_per_source = 1_000;
    let mut sim = Sim::new(site_config(), center, 5);
    let request = |seed: u64| {
        let mut source = Sim::new(site_config(), center_config(), seed);
        source.initiate();
        source.sent.remove(0)
    };
    let requests: Vec<_> = (0..30).map(|seed| request(100 + seed)).collect();
    requests.iter().for_each(|request| sim.deliver(request));
    assert_eq!(sim.endpoints[CENTER].ike_sas().count(), 10);
    assert_eq!(
        sim.endpoints[CENTER].counters().half_open_full,
        u64::try_from(requests.len()).unwrap() - 10
    );
    sim.run_ms(31_000);
    assert_eq!(sim.endpoints[CENTER].ike_sas().count(), 0);
    assert_eq!(sim.endpoints[CENTER].poll_timeout(), None);
    let mut again = Sim::new(site_config(), center_config(), 7);
    again.initiate();
    sim.deliver(&again.sent[0].clone());
    assert_eq!(sim.endpoints[CENTER].ike_sas().count(), 1, "there is room again");
}

/// RFC 7296 section 2.1: a repeated request gets the same answer, octet by octet, and costs nothing.
#[test]
fn repeated_requests_get_the_same_answer() {
    let mut sim = connected(site_config(), center_config(), 8);
    let from_site: Vec<_> = sim
        .sent
        .iter()
        .filter(|one| one.from == site_address())
        .cloned()
        .collect();
    let from_center: Vec<_> = sim
        .sent
        .iter()
        .filter(|one| one.from == center_address())
        .cloned()
        .collect();
    let auth = from_site.iter().rfind(|one| one.payload[18] == 35).unwrap();
    let before = sim.sent.len();
    sim.deliver(auth);
    let answers = from_center.iter().filter(|one| one.payload[18] == 35);
    // In fragments only the first is answered, with all of the answer.
    let first = from_site
        .iter()
        .find(|one| one.payload[18] == 35)
        .unwrap()
        .clone();
    sim.sent.truncate(before);
    sim.deliver(&first);
    assert_eq!(
        sim.sent[before..]
            .iter()
            .map(|one| &one.payload)
            .collect::<Vec<_>>(),
        answers.map(|one| &one.payload).collect::<Vec<_>>()
    );
    assert_eq!(sim.planes[CENTER].children.len(), 1);
    sim.deliver(&from_site[0]);
    assert_eq!(sim.endpoints[CENTER].ike_sas().count(), 1);
}
