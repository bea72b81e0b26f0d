//! Post-quantum preshared keys (RFC 8784).

mod common;
mod issue;
mod peers;

use common::*;
use gateway_ike::{AuthKind, Command, EndpointConfig, PeerSharedKey, Ppk, Ppks, SharedKey};
use peers::{close_reason, details, identity, reason, refused};

const USE_PPK: [u8; 2] = [0x40, 0x33];
const KEY: &str = "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "0xff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn ppk(id: &str, key: &str, required: bool) -> Ppk {
    Ppk::new(id, SharedKey::from_text(key.as_bytes()).unwrap(), required).unwrap()
}

fn site(ppk: Option<Ppk>) -> EndpointConfig {
    let mut config = site_config();
    if let Some(ppk) = ppk {
        config.ppks.insert(identity("gw.lab.test"), ppk);
    }
    config
}

fn center(ppk: Option<Ppk>) -> EndpointConfig {
    let mut config = center_config();
    if let Some(ppk) = ppk {
        config.ppks.insert(identity("site1.lab.test"), ppk);
    }
    config
}

fn in_use(sim: &Sim) -> [bool; 2] {
    [SITE, CENTER].map(|side| details(sim, side).ppk)
}

#[test]
fn both_sides_have_it() {
    for (by_site, by_center) in [(true, true), (true, false), (false, true), (false, false)] {
        let (site, center) = (
            site(Some(ppk("a", KEY, by_site))),
            center(Some(ppk("a", KEY, by_center))),
        );
        let mut sim = connected(site, center, 1);
        assert_eq!(in_use(&sim), [true, true]);
        // What comes after has it by SK_d.
        for side in [SITE, CENTER] {
            let ike_sa = sim.only_ike_sa(side);
            sim.command(side, Command::RekeyIke(ike_sa));
            sim.run_ms(1_000);
            let child = sim.only_child(side);
            sim.command(side, Command::RekeyChild(child));
            sim.run_ms(10_000);
            assert_eq!(in_use(&sim), [true, true]);
            sim.assert_agreement();
        }
    }
}

#[test]
fn with_shared_keys_as_well() {
    for (by_site, by_center, used) in [(true, true, true), (false, false, true), (false, false, false)] {
        let mut site = site(Some(ppk("a", KEY, by_site)));
        let mut center = center(Some(ppk(if used { "a" } else { "b" }, KEY, by_center)));
        let key = |own_identity| PeerSharedKey {
            key: SharedKey::from_text(b"0x00112233445566778899aabbccddeeff").unwrap(),
            peer: AuthKind::SharedKey,
            own: AuthKind::SharedKey,
            own_identity,
        };
        site.shared_keys.insert(identity("gw.lab.test"), key(None));
        center.shared_keys.insert(identity("site1.lab.test"), key(None));
        let sim = connected(site, center, 2);
        assert_eq!(in_use(&sim), [used, used]);
    }
}

/// Beside an additional key exchange (RFC 9370), whose keys are those that the key is mixed with.
#[test]
fn with_a_hybrid_key_exchange_as_well() {
    for by_name in ["a", "b"] {
        let mut site = site(Some(ppk("a", KEY, false)));
        site.ike_proposals = vec!["aes256gcm16-prfsha384-x25519-ke1_mlkem768".parse().unwrap()];
        let mut sim = connected(site, center(Some(ppk(by_name, KEY, false))), 7);
        assert_eq!(in_use(&sim), [by_name == "a", by_name == "a"]);
        let ike_sa = sim.only_ike_sa(SITE);
        sim.command(SITE, Command::RekeyIke(ike_sa));
        sim.run_ms(10_000);
        sim.assert_agreement();
        assert_eq!(in_use(&sim), [by_name == "a", by_name == "a"]);
    }
}

/// Neither is told of a key that the other side has for somebody else.
#[test]
fn who_has_none_is_not_told_of_it() {
    let says = |sim: &Sim| {
        sim.sent
            .iter()
            .any(|one| notify_at(&one.payload, USE_PPK).is_some())
    };
    let both = connected(
        site(Some(ppk("a", KEY, false))),
        center(Some(ppk("a", KEY, false))),
        3,
    );
    assert!(says(&both));
    let sim = connected(site(None), center(Some(ppk("a", KEY, false))), 3);
    assert!(!says(&sim));
    assert_eq!(in_use(&sim), [false, false]);
    let mut elsewhere = site(None);
    elsewhere
        .ppks
        .insert(identity("other.lab.test"), ppk("a", KEY, true));
    let sim = connected(elsewhere, center(None), 3);
    assert!(!says(&sim));
}

#[test]
fn one_side_without_it_is_let_in_where_it_may_be() {
    for (site_has, center_has) in [(true, false), (false, true)] {
        let optional = |has: bool| has.then(|| ppk("a", KEY, false));
        let sim = connected(site(optional(site_has)), center(optional(center_has)), 4);
        assert_eq!(in_use(&sim), [false, false]);
    }
}

/// The answer to the site's IKE_AUTH is on its way when a key becomes required of the center.
///
/// Regression: the initiator held to what it had asked for, and went on without the key.
#[test]
fn a_key_that_becomes_required_on_the_way_counts() {
    let optional = || ppk("a", KEY, false);
    for (of_site, of_center) in [(false, false), (true, false), (true, true)] {
        for required in [true, false] {
            let mut sim = Sim::new(site(of_site.then(optional)), center(of_center.then(optional)), 8);
            sim.initiate();
            while !sim.planes[CENTER].began {
                assert!(sim.step(sim.now_ms + 1_000), "{}", sim.history.join("\n"));
            }
            let mut ppks = Ppks::default();
            ppks.insert(identity("gw.lab.test"), ppk("a", KEY, required));
            sim.endpoints[SITE].set_ppks(ppks);
            sim.run_ms(1_000);
            let refused = required && !of_center;
            let count = sim.endpoints[SITE].ike_sas().count();
            assert_eq!(count, usize::from(!refused), "{}", sim.history.join("\n"));
            if refused {
                assert!(reason(&sim, SITE).contains("a post-quantum preshared key is required"));
            } else {
                assert_eq!(in_use(&sim), [of_center, of_center]);
            }
        }
    }
}

#[test]
fn a_key_of_another_name_is_done_without_if_both_may() {
    let sim = connected(
        site(Some(ppk("a", KEY, false))),
        center(Some(ppk("b", KEY, false))),
        5,
    );
    assert_eq!(in_use(&sim), [false, false]);
    sim.assert_agreement();
}

/// Every way to have less than what is required: no key, one of another name, another key of the same name.
#[test]
fn what_is_required_is_not_done_without() {
    let mut sim = Sim::new(site(Some(ppk("a", KEY, true))), center(None), 1);
    sim.initiate();
    sim.run_ms(40_000);
    assert!(
        reason(&sim, SITE).contains("no USE_PPK"),
        "{}",
        reason(&sim, SITE)
    );
    assert!(sim.planes.iter().all(|plane| plane.children.is_empty()));
    // Its identity is not shown to a responder that cannot have the key.
    assert!(sim.sent.iter().all(|one| one.payload[18] == 34));

    let sim = refused(site(None), center(Some(ppk("a", KEY, true))));
    assert!(
        reason(&sim, CENTER).contains("without the post-quantum"),
        "{}",
        reason(&sim, CENTER)
    );
    assert!(
        close_reason(&sim, SITE)
            .unwrap()
            .to_string()
            .contains("AUTHENTICATION_FAILED")
    );

    let sim = refused(
        site(Some(ppk("a", KEY, false))),
        center(Some(ppk("b", KEY, true))),
    );
    assert!(
        reason(&sim, CENTER).contains("names another"),
        "{}",
        reason(&sim, CENTER)
    );

    let sim = refused(
        site(Some(ppk("a", KEY, true))),
        center(Some(ppk("b", KEY, false))),
    );
    assert!(
        reason(&sim, CENTER).contains("insists"),
        "{}",
        reason(&sim, CENTER)
    );

    for required in [true, false] {
        let sim = refused(
            site(Some(ppk("a", OTHER_KEY, required))),
            center(Some(ppk("a", KEY, required))),
        );
        assert!(
            reason(&sim, CENTER).contains("signature"),
            "{}",
            reason(&sim, CENTER)
        );
    }
}

/// A site that has a key cannot use it in the name of another, nor do without in its own.
#[test]
fn the_key_of_one_site_is_not_that_of_another() {
    let mut center = center(Some(ppk("one", KEY, true)));
    center
        .ppks
        .insert(identity("site2.lab.test"), ppk("two", OTHER_KEY, true));
    let sim = refused(site(Some(ppk("two", OTHER_KEY, false))), center);
    assert!(reason(&sim, CENTER).contains("names another"));
}

/// Somebody in between turns USE_PPK of the answer, or of the request, into something unknown: both sides would do
/// without, but AUTH covers what was really said.
#[test]
fn nobody_in_between_takes_it_away() {
    for side in [SITE, CENTER] {
        let mut sim = Sim::new(
            site(Some(ppk("a", KEY, false))),
            center(Some(ppk("a", KEY, false))),
            6,
        );
        sim.initiate();
        let mut changed = 0;
        for _ in 0..500 {
            let from = [site_address(), center_address()][side];
            for datagram in sim
                .in_flight
                .values_mut()
                .filter(|one| one.from == from && one.payload[18] == 34)
            {
                let found = notify_at(&datagram.payload, USE_PPK);
                if let Some(at) = found {
                    datagram.payload[at] = 0xa0;
                    changed += 1;
                }
            }
            sim.run_ms(1);
        }
        assert!(changed > 0);
        for side in [SITE, CENTER] {
            assert!(sim.planes[side].children.is_empty(), "{}", sim.history.join("\n"));
        }
    }
}
