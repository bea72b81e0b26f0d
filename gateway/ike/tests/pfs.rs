//! Perfect forward secrecy: fresh values in every exchange, and rules that hold.

mod common;

use std::collections::HashSet;

use common::*;
use gateway_ike::{Command, Event, proposal::Pfs};

fn sim(site: Pfs, center: Pfs) -> Sim {
    let (mut site_side, mut center_side) = (site_config(), center_config());
    site_side.esp_proposals = vec!["aes256gcm16-x25519".parse().unwrap()];
    center_side.esp_proposals = site_side.esp_proposals.clone();
    for (config, pfs) in [(&mut site_side, site), (&mut center_side, center)] {
        config.esp_proposals = config
            .esp_proposals
            .iter()
            .map(|proposal| proposal.clone().with_pfs(pfs))
            .collect();
    }
    connected(site_side, center_side, 1)
}

/// Who asks for what, and what comes of the rekeying: with a key exchange, without, or none.
#[test]
fn every_pair_of_rules() {
    use Pfs::{Off, Optional, Required};
    for (asks, answers, outcome) in [
        (Required, Required, Some(true)),
        (Required, Optional, Some(true)),
        (Required, Off, None),
        (Optional, Required, Some(true)),
        (Optional, Optional, Some(true)),
        (Optional, Off, Some(false)),
        (Off, Required, None),
        (Off, Optional, Some(false)),
        (Off, Off, Some(false)),
    ] {
        let mut sim = sim(asks, answers);
        let before = sim.only_child(SITE);
        sim.command(SITE, Command::RekeyChild(before));
        sim.run_ms(500);
        sim.assert_agreement();
        let rekeyed = sim.events[SITE].iter().find_map(|event| match event {
            Event::ChildSaRekeyed { pfs, .. } => Some(*pfs),
            _ => None,
        });
        assert_eq!(rekeyed, outcome, "{asks:?} asks, {answers:?} answers");
        if outcome.is_none() {
            assert_eq!(sim.only_child(SITE), before, "the old Child SA stays");
            let words = sim.words(CENTER);
            assert!(words.contains("perfect forward secrecy is"), "{words}");
        }
    }
}

/// The policy of a site goes before the general rule.
#[test]
fn a_site_may_require_what_others_need_not() {
    let (mut site, mut center) = (site_config(), center_config());
    site.esp_proposals = vec!["aes256gcm16".parse().unwrap()];
    let mut policy = policy(&[net("10.1.0.0/16")], &[net("192.168.0.0/16")]);
    policy.esp_proposals = Some(vec!["aes256gcm16-ecp384".parse().unwrap()]);
    center.authorizer = Box::new(Everybody(policy));
    let mut sim = connected(site, center, 2);
    let before = sim.only_child(SITE);
    sim.command(SITE, Command::RekeyChild(before));
    sim.run_ms(500);
    assert_eq!(sim.only_child(SITE), before);
    assert!(
        sim.words(CENTER)
            .contains("perfect forward secrecy is required (ecp384)"),
        "{}",
        sim.words(CENTER)
    );
}

/// No two Child SAs share a key, and no IKE SA derives the same as another: over rekeyings of both kinds by both sides.
/// (What public values themselves are fresh is shown where they are made: `public_values_do_not_repeat`.)
#[test]
fn keys_do_not_repeat() {
    let mut seen = HashSet::new();
    for seed in 0..4 {
        let mut sim = sim(Pfs::Required, Pfs::Required);
        for round in 0..6 {
            let side = (seed + round) % 2;
            for child in sim.planes[SITE].children.values().filter(|one| one.outbound) {
                assert!(
                    seen.insert(child.sa.keys_in.encryption.clone()),
                    "a key came twice"
                );
                assert!(
                    seen.insert(child.sa.keys_out.encryption.clone()),
                    "a key came twice"
                );
            }
            if round % 3 == 2 {
                let ike_sa = sim.only_ike_sa(side);
                sim.command(side, Command::RekeyIke(ike_sa));
                sim.run_ms(500);
            }
            let child = sim.only_child(side);
            sim.command(side, Command::RekeyChild(child));
            sim.run_ms(500);
            sim.assert_agreement();
        }
    }
    assert_eq!(seen.len(), 4 * 6 * 2);
}

/// The public value and nonce of every IKE_SA_INIT are drawn anew, also of those that follow a lost one.
#[test]
fn public_values_of_handshakes_do_not_repeat() {
    use gateway_ike::wire::{Exchange, Header, Message};
    let mut seen = HashSet::new();
    for (group, first_seed) in [("x25519", 0), ("ecp256", 10), ("ecp384", 20), ("modp2048", 30)] {
        for seed in first_seed..first_seed + 4 {
            let (mut site, mut center) = (site_config(), center_config());
            site.ike_proposals = vec![format!("aes256gcm16-prfsha256-{group}").parse().unwrap()];
            center.ike_proposals.clone_from(&site.ike_proposals);
            let sim = connected(site, center, seed);
            // The request that brings a cookie back is the same otherwise (RFC 7296 section 2.6).
            let mut values = HashSet::new();
            for datagram in &sim.sent {
                let Some(header) = Header::parse(&datagram.payload).ok() else {
                    continue;
                };
                if header.exchange != Exchange::IkeSaInit {
                    continue;
                }
                let message = Message::parse(header.next_payload, &datagram.payload[28..]).unwrap();
                if let (Some(ke), Some(nonce)) = (message.ke(), message.nonce()) {
                    values.extend([ke.data.clone(), nonce.0.clone()]);
                }
            }
            assert_eq!(values.len(), 4, "of the request and of the response");
            for value in values {
                assert!(seen.insert(value), "{group}: a value came twice");
            }
        }
    }
}
