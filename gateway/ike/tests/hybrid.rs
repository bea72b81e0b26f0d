//! ML-KEM beside Diffie-Hellman: IKE_INTERMEDIATE (RFC 9242) and additional key exchanges (RFC 9370).

mod common;

use common::*;
use gateway_ike::{
    Command, EndpointConfig, Event,
    proposal::{default_ike_proposals, hybrid_ike_proposals},
    wire::{Exchange, Header},
};

const HYBRID: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
const PLAIN: &str = "aes256gcm16-prfsha384-x25519";

fn with_ike(mut config: EndpointConfig, proposals: &[&str]) -> EndpointConfig {
    config.ike_proposals = proposals.iter().map(|text| text.parse().unwrap()).collect();
    config.ike_proposals_accepted = Vec::new();
    config
}

fn with_esp(mut config: EndpointConfig, proposals: &[&str]) -> EndpointConfig {
    config.esp_proposals = proposals.iter().map(|text| text.parse().unwrap()).collect();
    config
}

fn algorithms(sim: &Sim, side: usize) -> String {
    sim.endpoints[side].ike_sas().next().unwrap().algorithms
}

/// Datagrams of an exchange that were sent so far.
fn sent(sim: &Sim, exchange: Exchange) -> usize {
    let headers = sim.sent.iter().filter_map(|datagram| {
        let message = datagram
            .payload
            .strip_prefix(&[0; 4])
            .unwrap_or(&datagram.payload);
        Header::parse(message).ok()
    });
    headers.filter(|header| header.exchange == exchange).count()
}

#[test]
fn every_mechanism_and_several_at_once() {
    for (text, rounds) in [
        (HYBRID, 1),
        ("aes256-sha512-modp3072-ke1_mlkem1024", 1),
        ("chacha20poly1305-prfsha256-ecp384-ke1_mlkem768-ke2_mlkem1024", 2),
        ("aes128gcm16-prfsha512-ecp256-ke7_mlkem768", 1),
    ] {
        let site = with_ike(site_config(), &[text]);
        let center = with_ike(center_config(), &[text]);
        let sim = connected(site, center, 1);
        assert_eq!(algorithms(&sim, CENTER), text);
        assert_eq!(algorithms(&sim, SITE), text);
        // ML-KEM-1024 does not fit a datagram of 1280 octets.
        assert!(sent(&sim, Exchange::IkeIntermediate) >= 2 * rounds, "{text}");
    }
}

/// RFC 9242 section 1: what does not fit one datagram goes in fragments, which IKE_SA_INIT could not.
#[test]
fn large_keys_go_in_fragments() {
    for size in [576, 800, 1280] {
        let text = "aes256gcm16-prfsha384-x25519-ke1_mlkem1024";
        let mut site = with_ike(site_config(), &[text]);
        let mut center = with_ike(center_config(), &[text]);
        (site.fragment_size, center.fragment_size) = (Some(size), Some(size));
        let sim = connected(site, center, 2);
        assert!(sent(&sim, Exchange::IkeIntermediate) >= 4, "{size}");
        for datagram in &sim.sent {
            assert!(
                datagram.payload.len() <= size - 28,
                "{} octets",
                datagram.payload.len()
            );
        }
    }
}

#[test]
fn behind_a_nat() {
    let mut sim = Sim::new(
        with_ike(site_config(), &[HYBRID]),
        with_ike(center_config(), &[HYBRID]),
        3,
    );
    sim.nat = Some("203.0.113.9:1024".parse().unwrap());
    sim.initiate();
    sim.run_ms(500);
    sim.assert_agreement();
    assert!(sim.planes[SITE].children.values().all(|one| one.sa.udp_encap));
    assert_eq!(sim.planes[SITE].children.len(), 1);
}

/// A side that has both takes the one that the other can.
#[test]
fn a_peer_without_it_still_gets_a_tunnel() {
    let (both, plain) = ([HYBRID, PLAIN], [PLAIN]);
    for (site, center) in [(&both[..], &plain[..]), (&plain, &both)] {
        let sim = connected(
            with_ike(site_config(), site),
            with_ike(center_config(), center),
            4,
        );
        assert_eq!(algorithms(&sim, CENTER), PLAIN);
        assert_eq!(sent(&sim, Exchange::IkeIntermediate), 0);
    }
    let sim = connected(
        with_ike(site_config(), &both),
        with_ike(center_config(), &both),
        4,
    );
    assert_eq!(algorithms(&sim, CENTER), HYBRID);
}

#[test]
fn a_site_that_must_have_it_is_not_talked_down() {
    for (site, center) in [(HYBRID, PLAIN), (PLAIN, HYBRID)] {
        let mut sim = Sim::new(
            with_ike(site_config(), &[site]),
            with_ike(center_config(), &[center]),
            5,
        );
        sim.initiate();
        // The site waits for a better answer before it believes the refusal.
        sim.run_ms(5_000);
        assert!(sim.planes[SITE].children.is_empty() && sim.planes[CENTER].children.is_empty());
        let words = sim.words(CENTER);
        assert!(words.contains("additional key exchange 1"), "{words}");
        assert!(
            sim.words(SITE).contains("NO_PROPOSAL_CHOSEN"),
            "{}",
            sim.words(SITE)
        );
    }
}

/// Nothing configured: a responder takes it from whoever offers it, an initiator does not offer it.
#[test]
fn the_default_accepts_and_does_not_offer() {
    let sim = connected(with_ike(site_config(), &[HYBRID]), center_config(), 6);
    assert_eq!(algorithms(&sim, CENTER), HYBRID);
    let sim = connected(site_config(), center_config(), 6);
    assert_eq!(sent(&sim, Exchange::IkeIntermediate), 0);
    assert!(!algorithms(&sim, CENTER).contains("mlkem"));
    assert!(
        default_ike_proposals()
            .iter()
            .all(|one| one.additional.is_empty())
    );
    assert!(
        hybrid_ike_proposals()
            .iter()
            .all(|one| !one.additional.is_empty())
    );
}

/// Both kinds of rekeying, by either side, make their additional key exchanges in IKE_FOLLOWUP_KE.
#[test]
fn rekeying_follows_up() {
    for rekeyer in [SITE, CENTER] {
        let esp = ["aes256gcm16-x25519-ke1_mlkem768-ke2_mlkem1024"];
        let site = with_esp(with_ike(site_config(), &[HYBRID]), &esp);
        let center = with_esp(with_ike(center_config(), &[HYBRID]), &esp);
        let mut sim = connected(site, center, 7);
        let before = sim.only_child(rekeyer);
        sim.command(rekeyer, Command::RekeyChild(before));
        sim.run_ms(500);
        sim.assert_agreement();
        sim.assert_no_black_hole();
        assert_ne!(sim.only_child(rekeyer), before);
        // Two exchanges; what is longer than 1228 octets in two fragments, which are all but one.
        assert_eq!(sent(&sim, Exchange::IkeFollowupKe), 2 + 1 + 2 + 2);
        let before = sim.only_ike_sa(rekeyer);
        sim.command(rekeyer, Command::RekeyIke(before));
        sim.run_ms(500);
        assert_ne!(sim.only_ike_sa(rekeyer), before);
        assert_eq!(algorithms(&sim, SITE), HYBRID);
        // The keys of the new IKE SA are the same on both sides: it can be worked with.
        let child = sim.only_child(1 - rekeyer);
        sim.command(1 - rekeyer, Command::RekeyChild(child));
        sim.run_ms(500);
        sim.assert_agreement();
        assert_ne!(sim.only_child(1 - rekeyer), child);
    }
}

/// Both proposals by default: what the IKE SA has, its Child SAs have, too; and without it none asks for it.
#[test]
fn child_sas_are_as_strong_as_their_ike_sa() {
    for (ike, datagrams) in [(HYBRID, 3), (PLAIN, 0)] {
        let mut sim = connected(
            with_ike(site_config(), &[ike]),
            with_ike(center_config(), &[ike]),
            8,
        );
        let child = sim.only_child(SITE);
        sim.command(SITE, Command::RekeyChild(child));
        sim.run_ms(500);
        sim.assert_agreement();
        assert_ne!(sim.only_child(SITE), child);
        assert_eq!(sent(&sim, Exchange::IkeFollowupKe), datagrams, "{ike}");
    }
}

/// Both sides rekey at once (RFC 7296 section 2.8.1): one Child SA is left, and traffic is never without one.
#[test]
fn both_rekey_at_once() {
    let esp = ["aes256gcm16-x25519-ke1_mlkem768"];
    for seed in 0..60 {
        let site = with_esp(with_ike(site_config(), &[HYBRID]), &esp);
        let center = with_esp(with_ike(center_config(), &[HYBRID]), &esp);
        let mut sim = connected(site, center, seed);
        sim.link.delay_ms = 1 + seed % 7;
        let commands = [SITE, CENTER].map(|side| match seed % 3 {
            0 => Command::RekeyIke(sim.only_ike_sa(side)),
            _ => Command::RekeyChild(sim.only_child(side)),
        });
        for (side, command) in commands.into_iter().enumerate() {
            sim.command(side, command);
            let pause = sim.rng.below(12);
            if side == SITE {
                let until = sim.now_ms + pause;
                while sim.step(until) {
                    sim.assert_no_black_hole();
                }
            }
        }
        // An IKE SA whose making the other side gave up is found dead by the liveness check.
        let until = sim.now_ms + 120_000;
        while sim.step(until) {
            sim.assert_no_black_hole();
        }
        sim.assert_agreement();
        sim.only_child(SITE);
        sim.only_ike_sa(SITE);
        sim.only_ike_sa(CENTER);
    }
}

/// Lost, repeated and overtaking datagrams; a repeated request is answered although the keys have changed since.
#[test]
fn over_a_bad_link() {
    for seed in 0..40 {
        let text = "aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke2_mlkem1024";
        let esp = ["aes256gcm16-x25519-ke1_mlkem768"];
        let mut site = with_esp(with_ike(site_config(), &[text]), &esp);
        let mut center = with_esp(with_ike(center_config(), &[text]), &esp);
        for config in [&mut site, &mut center] {
            config.retransmit.repetitions_max = 14;
            config.retransmit.longest_ms = 2_000;
            config.half_open_timeout_s = 120;
        }
        let mut sim = Sim::new(site, center, seed);
        sim.link = Link {
            loss: 20,
            duplicates: 15,
            delay_ms: 400,
        };
        sim.initiate();
        sim.run_ms(60_000);
        let side = usize::from(seed % 2 == 0);
        if sim.planes[side].sending_on.is_some() {
            let child = sim.planes[side].sending_on.unwrap();
            sim.command(side, Command::RekeyChild(child));
            sim.run_ms(30_000);
        }
        sim.link = Link {
            delay_ms: 5,
            ..Link::default()
        };
        sim.run_ms(60_000);
        sim.assert_agreement();
        assert!(
            sim.planes[SITE].sending_on.is_some(),
            "seed {seed}: {}",
            sim.words(SITE)
        );
    }
}

/// Replays of everything that was ever said change nothing.
#[test]
fn replays_change_nothing() {
    let esp = ["aes256gcm16-x25519-ke1_mlkem768"];
    let site = with_esp(with_ike(site_config(), &[HYBRID]), &esp);
    let center = with_esp(with_ike(center_config(), &[HYBRID]), &esp);
    let mut sim = connected(site, center, 9);
    let child = sim.only_child(SITE);
    sim.command(SITE, Command::RekeyChild(child));
    sim.run_ms(500);
    let (child, ike_sa) = (sim.only_child(SITE), sim.only_ike_sa(CENTER));
    for datagram in sim.sent.clone() {
        sim.deliver(&datagram);
        sim.run_ms(20);
    }
    sim.assert_agreement();
    assert_eq!(sim.only_child(SITE), child);
    assert_eq!(sim.only_ike_sa(CENTER), ike_sa);
}

/// RFC 9370 section 2.2.4: perfect forward secrecy as the site's policy has it, with ML-KEM.
#[test]
fn a_rekeying_without_what_is_required_is_refused() {
    let site = with_esp(with_ike(site_config(), &[HYBRID]), &["aes256gcm16-x25519"]);
    let center = with_esp(
        with_ike(center_config(), &[HYBRID]),
        &["aes256gcm16-x25519-ke1_mlkem768"],
    );
    let mut sim = connected(site, center, 10);
    let child = sim.only_child(SITE);
    sim.command(SITE, Command::RekeyChild(child));
    sim.run_ms(500);
    assert_eq!(sim.only_child(SITE), child, "the old one stays");
    let refused = sim.events[CENTER].iter().any(
        |event| matches!(event, Event::ProposalRefused { reason, .. } if reason.contains("ke1_mlkem768")),
    );
    assert!(refused, "{}", sim.words(CENTER));
}
