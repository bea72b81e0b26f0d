//! Two endpoints bring up, rekey and delete SAs over a link that loses nothing.

mod common;

use common::*;
use gateway_ike::{
    CloseReason, Command, EspProposal, EspSuite, Event, IkeProposal, crypto::dh::DhGroup,
    pki::identity::Identity,
};

#[test]
fn brings_up_a_tunnel_with_narrowed_selectors() {
    let sim = connected(site_config(), center_config(), 1);
    let child = &sim.planes[SITE].children[&sim.only_child(SITE)].sa;
    assert_eq!(child.ts_local, [net("192.168.1.0/24")]);
    assert_eq!(child.ts_remote, [net("10.1.0.0/16"), net("172.16.5.0/24")]);
    assert!(!child.udp_encap);
    assert!(child.esn, "both accept extended sequence numbers");
    assert_eq!(child.suite, EspSuite::AesGcm16 { key_bits: 256 });
    assert_eq!(
        (child.keys_in.encryption.len(), child.keys_in.integrity.len()),
        (36, 0)
    );
    let info = sim.endpoints[CENTER].ike_sas().next().unwrap();
    assert_eq!(info.peer, "site1.lab.test");
    assert_eq!(info.site, Some((7, "clinic".to_owned())));
    assert_eq!(info.state, "established");
    assert_eq!(info.children.len(), 1);
    assert!(matches!(sim.events[CENTER][0], Event::IkeSaEstablished { .. }));
}

#[test]
fn every_ike_proposal_and_method_of_authentication() {
    let texts = [
        "aes256gcm16-prfsha256-x25519",
        "aes256gcm16-prfsha256-ecp256",
        "aes256-sha256-modp2048",
        "aes128gcm16-prfsha384-modp2048",
        "chacha20poly1305-prfsha512-x25519",
        "aes128-sha512-ecp256",
        "aes256-sha384-x25519",
        "aes256-sha256-modp3072",
        "aes128-sha256-prfsha512-modp4096",
        "aes256gcm16-prfsha384-ecp384",
    ];
    for text in texts {
        for (digital_signatures, swapped) in [(true, false), (false, false), (true, true), (false, true)] {
            let (mut site, mut center) = (site_config(), center_config());
            if swapped {
                (site.credential, center.credential) = (rsa_credential(), ec_credential());
                (site.local_identity, center.local_identity) =
                    ("gw.lab.test".parse().unwrap(), "site1.lab.test".parse().unwrap());
                site.connections[0].remote_identity = "site1.lab.test".parse().unwrap();
            }
            site.ike_proposals = vec![text.parse().unwrap()];
            center.ike_proposals = site.ike_proposals.clone();
            center.digital_signatures = digital_signatures;
            let sim = connected(site, center, 2);
            assert_eq!(sim.endpoints[CENTER].ike_sas().next().unwrap().algorithms, text);
        }
    }
}

#[test]
fn every_esp_proposal_and_kind_of_rekey() {
    let suites = [
        "aes256gcm16",
        "aes128gcm16",
        "chacha20poly1305",
        "aes256-sha256",
        "aes128-sha256",
        "aes256-sha384",
        "aes128-sha512",
    ];
    let groups = [
        "",
        "-x25519",
        "-ecp256",
        "-ecp384",
        "-modp2048",
        "-modp2048-modpnone",
    ];
    for suite in suites {
        for group in groups {
            for esn in ["", "-esn", "-esn-noesn"] {
                let (mut site, mut center) = (site_config(), center_config());
                let text = format!("{suite}{group}{esn}");
                site.esp_proposals = vec![text.parse().unwrap()];
                if !esn.is_empty() {
                    center.esp_proposals.iter_mut().for_each(|one| one.no_esn = false);
                }
                let mut sim = connected(site, center, 3);
                let before = sim.only_child(SITE);
                sim.command(SITE, Command::RekeyChild(before));
                sim.run_ms(500);
                sim.assert_agreement();
                sim.assert_no_black_hole();
                let after = sim.only_child(SITE);
                assert_ne!(before, after, "{text}");
                let sa = &sim.planes[SITE].children[&after].sa;
                assert_eq!(sa.esn, !esn.is_empty(), "{text}");
                let pfs = !group.is_empty();
                let rekeyed = Event::ChildSaRekeyed {
                    old: before,
                    new: after,
                    pfs,
                };
                assert!(sim.events[SITE].contains(&rekeyed), "{text}: {}", sim.words(SITE));
            }
        }
    }
}

#[test]
fn the_responder_rekeys_too() {
    let mut sim = connected(site_config(), center_config(), 4);
    let before = sim.only_child(CENTER);
    sim.command(CENTER, Command::RekeyChild(before));
    sim.run_ms(500);
    sim.assert_agreement();
    assert_ne!(sim.only_child(CENTER), before);
    let before = sim.only_ike_sa(CENTER);
    sim.command(CENTER, Command::RekeyIke(before));
    sim.run_ms(500);
    assert_ne!(sim.only_ike_sa(CENTER), before);
    let child = sim.only_child(CENTER);
    sim.command(CENTER, Command::RekeyChild(child));
    sim.run_ms(500);
    sim.assert_agreement();
}

/// RFC 7296 section 2.8: the old inbound SA is kept while packets may be on their way, then removed.
#[test]
fn make_before_break() {
    let mut sim = connected(site_config(), center_config(), 5);
    let old = sim.only_child(SITE);
    sim.command(SITE, Command::RekeyChild(old));
    while sim.step(sim.now_ms + 1_000) {
        sim.assert_no_black_hole();
        if sim.in_flight.is_empty() {
            break;
        }
    }
    assert_eq!(sim.planes[SITE].children.len(), 2, "the old inbound SA lingers");
    assert!(sim.planes[SITE].children[&old].inbound && !sim.planes[SITE].children[&old].outbound);
    sim.run_ms(6_000);
    assert_eq!(sim.planes[SITE].children.len(), 1);
    assert_eq!(sim.planes[CENTER].children.len(), 1);
}

#[test]
fn the_responder_sends_on_the_new_sa_once_traffic_comes_on_it() {
    let mut sim = connected(site_config(), center_config(), 6);
    let old = sim.planes[CENTER].sending_on.unwrap();
    let child = sim.only_child(SITE);
    sim.command(SITE, Command::RekeyChild(child));
    while sim.planes[SITE].sending_on == Some(child) {
        assert!(sim.step(sim.now_ms + 1_000));
    }
    // Now the site sends on the new SA, and its DELETE of the old one is under way.
    assert_eq!(sim.planes[CENTER].sending_on, Some(old));
    sim.traffic(SITE);
    assert_ne!(sim.planes[CENTER].sending_on, Some(old));
    sim.run_ms(500);
    sim.assert_agreement();
}

#[test]
fn rekeying_the_ike_sa_keeps_the_child_sas() {
    let mut sim = connected(site_config(), center_config(), 7);
    let (child, ike_sa) = (sim.only_child(SITE), sim.only_ike_sa(SITE));
    for _ in 0..3 {
        let ike_sa = sim.only_ike_sa(SITE);
        sim.command(SITE, Command::RekeyIke(ike_sa));
        sim.run_ms(500);
    }
    assert_ne!(sim.only_ike_sa(SITE), ike_sa);
    assert_eq!(sim.only_child(SITE), child);
    sim.assert_agreement();
    sim.command(SITE, Command::RekeyChild(child));
    sim.run_ms(500);
    assert_ne!(sim.only_child(SITE), child);
    sim.assert_agreement();
}

#[test]
fn another_child_sa_and_its_end() {
    let mut sim = connected(site_config(), center_config(), 8);
    let ike_sa = sim.only_ike_sa(SITE);
    let (ts_local, ts_remote) = (vec![net("192.168.1.7/32")], vec![net("10.1.9.0/24")]);
    sim.command(
        SITE,
        Command::CreateChild {
            ike_sa,
            ts_local,
            ts_remote: ts_remote.clone(),
            resource: None,
        },
    );
    sim.run_ms(500);
    sim.assert_agreement();
    let second = sim.planes[SITE]
        .children
        .values()
        .find(|one| one.sa.ts_remote == ts_remote)
        .unwrap()
        .sa
        .child;
    sim.command(SITE, Command::CloseChild(second));
    sim.run_ms(500);
    sim.assert_agreement();
    assert_eq!(sim.planes[CENTER].children.len(), 1);
    assert!(
        sim.events[CENTER]
            .iter()
            .any(|event| matches!(event, Event::ChildSaClosed { .. }))
    );
}

#[test]
fn closing_removes_everything_on_both_sides() {
    for side in [SITE, CENTER] {
        let mut sim = connected(site_config(), center_config(), 9);
        sim.command(side, Command::CloseAll);
        sim.run_ms(500);
        for other in [SITE, CENTER] {
            assert!(sim.planes[other].children.is_empty());
            assert_eq!(sim.endpoints[other].ike_sas().count(), 0);
        }
        let reason = |event: &Event| match event {
            Event::Closed { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        assert_eq!(
            sim.events[side].iter().find_map(reason),
            Some(CloseReason::Requested)
        );
        assert_eq!(
            sim.events[1 - side].iter().find_map(reason),
            Some(CloseReason::DeletedByPeer)
        );
        sim.run_ms(100_000);
        assert_eq!(
            sim.endpoints.each_ref().map(|endpoint| endpoint.poll_timeout()),
            [None, None],
            "all is forgotten"
        );
    }
}

/// RFC 7296 section 2.23: a NAT is seen, IKE moves to port 4500, ESP goes in UDP.
#[test]
fn a_nat_on_the_way() {
    let mut sim = Sim::new(site_config(), center_config(), 10);
    sim.nat = Some("203.0.113.5:61000".parse().unwrap());
    sim.initiate();
    sim.run_ms(500);
    sim.assert_agreement();
    let at_site = &sim.planes[SITE].children[&sim.only_child(SITE)].sa;
    let at_center = &sim.planes[CENTER].children[&sim.only_child(CENTER)].sa;
    assert!(at_site.udp_encap && at_center.udp_encap);
    assert_eq!((at_site.local.port(), at_site.remote.port()), (4500, 4500));
    assert_eq!(at_center.local.port(), 4500);
    assert_eq!(at_center.remote, "203.0.113.5:61001".parse().unwrap());
    let old = sim.only_child(CENTER);
    sim.command(CENTER, Command::RekeyChild(old));
    sim.run_ms(500);
    sim.assert_agreement();
}

/// RFC 7383: with a small limit both IKE_AUTH messages go in fragments.
#[test]
fn fragments_in_both_directions() {
    let (mut site, mut center) = (site_config(), center_config());
    site.fragment_size = Some(400);
    center.fragment_size = Some(400);
    let sim = connected(site, center, 11);
    let auth = sim
        .sent
        .iter()
        .filter(|datagram| datagram.payload[18] == 35)
        .collect::<Vec<_>>();
    assert!(auth.len() > 6, "{} datagrams of IKE_AUTH", auth.len());
    assert!(
        auth.iter()
            .all(|datagram| datagram.payload.len() <= 400 - 52 && datagram.payload[16] == 53)
    );
    // Without the peer's consent nothing is fragmented.
    let (mut site, mut center) = (site_config(), center_config());
    site.fragment_size = None;
    center.fragment_size = Some(400);
    let sim = connected(site, center, 12);
    assert!(sim.sent.iter().all(|datagram| datagram.payload[16] != 53));
}

#[test]
fn another_group_than_the_first_guess() {
    let (site, mut center) = (site_config(), center_config());
    center.ike_proposals = vec!["aes256-sha256-modp2048".parse().unwrap()];
    let sim = connected(site, center, 13);
    assert_eq!(
        sim.endpoints[CENTER].ike_sas().next().unwrap().algorithms,
        "aes256-sha256-modp2048"
    );
    assert_eq!(
        sim.sent
            .iter()
            .filter(|datagram| datagram.payload[18] == 34)
            .count(),
        4
    );
}

#[test]
fn another_group_than_the_first_guess_when_rekeying() {
    let (mut site, mut center) = (site_config(), center_config());
    site.esp_proposals = vec!["aes256gcm16-x25519-ecp256-modp2048".parse().unwrap()];
    center.esp_proposals = vec!["aes256gcm16-modp2048".parse().unwrap()];
    site.ike_proposals = vec![
        "aes256gcm16-prfsha256-x25519".parse().unwrap(),
        "aes256-sha256-ecp256".parse().unwrap(),
    ];
    let mut sim = connected(site, center, 14);
    let before = sim.only_child(SITE);
    sim.command(SITE, Command::RekeyChild(before));
    sim.run_ms(500);
    assert_ne!(sim.only_child(SITE), before, "{}", sim.words(SITE));
    sim.assert_agreement();
}

#[test]
fn a_distinguished_name_as_identity() {
    let (mut site, mut center) = (site_config(), center_config());
    let dn = |config: &gateway_ike::EndpointConfig| Identity::Dn(config.credential.leaf().subject().clone());
    (site.local_identity, center.local_identity) = (dn(&site), dn(&center));
    site.connections[0].remote_identity = "C=JP, O=Lab, CN=gw.lab.test".parse().unwrap();
    let sim = connected(site, center, 15);
    assert!(
        sim.endpoints[CENTER]
            .ike_sas()
            .next()
            .unwrap()
            .peer
            .contains("CN=site1.lab.test")
    );
}

/// RFC 7296 section 2.4: the peer lost its state, comes back and says so.
#[test]
fn initial_contact_clears_what_was_before() {
    let mut sim = connected(site_config(), center_config(), 16);
    let old = sim.only_ike_sa(CENTER);
    sim.endpoints[SITE] = gateway_ike::Endpoint::new(site_config(), Box::new(Seeded(99)));
    sim.planes[SITE] = DataPlane::default();
    sim.initiate();
    sim.run_ms(500);
    assert_ne!(sim.only_ike_sa(CENTER), old);
    sim.assert_agreement();
    assert!(sim.words(CENTER).contains("INITIAL_CONTACT"));
}

/// RFC 7296 section 2.6: beyond a number of half-open handshakes initiators must return a cookie.
#[test]
fn cookies_when_many_handshakes_are_open() {
    let mut center = center_config();
    center.cookie_from = 0;
    let sim = connected(site_config(), center, 17);
    assert_eq!(sim.endpoints[CENTER].counters().cookies_sent, 1);
}

#[test]
fn proposals_of_a_site_override_the_general_ones() {
    let mut center = center_config();
    let mut own = policy(&[net("10.0.0.0/8")], &[net("192.168.0.0/16")]);
    own.esp_proposals = Some(vec!["chacha20poly1305".parse::<EspProposal>().unwrap()]);
    center.authorizer = Box::new(Everybody(own));
    let sim = connected(site_config(), center, 18);
    let child = &sim.planes[SITE].children[&sim.only_child(SITE)].sa;
    assert_eq!(child.suite, EspSuite::ChaCha20Poly1305);
}

/// What is looked up is what the list of all shows.
#[test]
fn sas_are_found_by_site_and_by_spi() {
    let mut sim = connected(site_config(), center_config(), 19);
    let child = sim.only_child(SITE);
    sim.command(SITE, Command::RekeyChild(child));
    // The one before is still there.
    sim.run_ms(2);
    let center = &sim.endpoints[CENTER];
    let all: Vec<_> = center.ike_sas().collect();
    let site = all[0].site.as_ref().unwrap().0;
    assert_eq!(center.ike_sas_of_site(site).collect::<Vec<_>>(), all);
    assert_eq!(center.ike_sas_of_site(site + 1).count(), 0);
    for info in &all {
        for spi in [info.spis.0, info.spis.1] {
            assert_eq!(center.ike_sa_of_spi(spi).as_ref(), Some(info));
        }
        for child in &info.children {
            for spi in [child.spi_in, child.spi_out] {
                assert_eq!(center.child_of_spi(spi), Some((info.clone(), child.id)));
            }
        }
    }
    assert!(all[0].children.len() > 1);
    assert!(center.ike_sa_of_spi(1).is_none() && center.child_of_spi(1).is_none());
    sim.command(SITE, Command::CloseAll);
    sim.run_ms(500);
    let center = &sim.endpoints[CENTER];
    assert_eq!(center.ike_sas_of_site(site).count(), 0, "closed");
    assert!(center.ike_sa_of_spi(all[0].spis.0).is_none());
}

#[test]
fn lifetimes_rekey_by_themselves() {
    let (mut site, mut center) = (site_config(), center_config());
    for config in [&mut site, &mut center] {
        config.ike_lifetime_s = 1_000;
        config.child_lifetime_s = 300;
    }
    let mut sim = connected(site, center, 19);
    let (ike_sa, child) = (sim.only_ike_sa(SITE), sim.only_child(SITE));
    sim.run_ms(3_600_000);
    sim.assert_agreement();
    sim.assert_no_black_hole();
    assert_ne!(sim.only_ike_sa(SITE), ike_sa);
    assert_ne!(sim.only_child(SITE), child);
    let closed = |event: &Event| matches!(event, Event::Closed { .. } | Event::ChildSaClosed { .. });
    assert!(
        !sim.events.iter().flatten().any(closed),
        "{}\n{}",
        sim.words(SITE),
        sim.words(CENTER)
    );
    let rekeys = |event: &&Event| matches!(event, Event::ChildSaRekeyed { .. });
    assert!(sim.events[SITE].iter().filter(rekeys).count() >= 12);
}

#[test]
fn the_group_sent_is_preferred() {
    let mut site = site_config();
    site.ike_proposals = ["aes256-sha256-modp2048", "aes256gcm16-prfsha256-x25519"]
        .map(|text| text.parse::<IkeProposal>().unwrap())
        .into();
    let sim = connected(site, center_config(), 20);
    assert_eq!(
        sim.endpoints[CENTER].ike_sas().next().unwrap().algorithms,
        "aes256-sha256-modp2048"
    );
    assert_eq!(DhGroup::Modp2048.id(), 14);
}

#[test]
fn an_endpoint_may_move_between_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<gateway_ike::Endpoint>();
}
