//! Which of our SPIs stand, for a packet path that passes messages on IKE SAs before those of whoever else uses a peer's
//! address. After each step the simulation compares them with the IKE SAs ([`common`]); here are the ways that these come and go.

mod common;

use std::collections::BTreeSet;

use common::*;
use gateway_ike::{Command, CrashSecret, EndpointConfig, Event, Start};

/// Our SPIs of the IKE SAs that a side has set up.
fn set_up(sim: &Sim, side: usize) -> BTreeSet<u64> {
    let all = sim.endpoints[side].ike_sas();
    all.filter(|info| info.state != "half-open")
        .map(|info| own_spi(&info))
        .collect()
}

/// At both sides there are so many IKE SAs, and no other's SPI stands.
fn assert_only(sim: &Sim, count: usize) {
    for side in [SITE, CENTER] {
        let (stand, set_up) = (&sim.planes[side].ike_spis, set_up(sim, side));
        assert_eq!(
            (stand, set_up.len()),
            (&set_up, count),
            "side {side}: {}",
            sim.words(side)
        );
    }
}

/// None of those before stands.
fn assert_others(sim: &Sim, before: &[BTreeSet<u64>; 2]) {
    for side in [SITE, CENTER] {
        assert!(sim.planes[side].ike_spis.is_disjoint(&before[side]));
    }
}

/// The side has lost the IKE SA, and is not told of another.
fn forgetful(mut config: EndpointConfig) -> EndpointConfig {
    config.connections.clear();
    config
}

#[test]
fn an_spi_stands_once_the_peer_has_proved_itself() {
    let mut sim = Sim::new(site_config(), center_config(), 1);
    sim.initiate();
    let mut was_half_open = false;
    while sim.step(2_000) {
        for side in [SITE, CENTER] {
            let proved = sim.events[side]
                .iter()
                .any(|event| matches!(event, Event::IkeSaEstablished { .. }));
            was_half_open |= !proved && sim.endpoints[side].ike_sas().next().is_some();
            assert_eq!(sim.planes[side].ike_spis.is_empty(), !proved);
        }
        if sim.in_flight.is_empty() {
            break;
        }
    }
    assert!(was_half_open);
    assert_only(&sim, 1);
}

#[test]
fn who_proves_nothing_has_no_spi_that_stands() {
    let mut site = site_config();
    site.credential = rsa_credential();
    let mut sim = Sim::new(site, center_config(), 2);
    sim.initiate();
    sim.run_ms(2_000);
    assert!(
        sim.words(CENTER).contains("authentication of"),
        "{}",
        sim.words(CENTER)
    );
    assert_only(&sim, 0);
}

#[test]
fn after_a_rekeying_by_either_side_or_both_the_new_spi_stands() {
    for rekeys in [&[SITE][..], &[CENTER], &[SITE, CENTER]] {
        let mut sim = connected(site_config(), center_config(), 3);
        let before = [SITE, CENTER].map(|side| sim.planes[side].ike_spis.clone());
        let ids = [SITE, CENTER].map(|side| sim.only_ike_sa(side));
        for side in rekeys {
            sim.command(*side, Command::RekeyIke(ids[*side]));
        }
        let mut were_beside = [false; 2];
        while sim.step(5_000) {
            for side in [SITE, CENTER] {
                let stand = &sim.planes[side].ike_spis;
                were_beside[side] |= stand.is_superset(&before[side]) && stand.len() > 1;
            }
        }
        // The one before stands until it is deleted.
        assert_eq!(were_beside, [true; 2], "rekeyed by {rekeys:?}");
        assert_only(&sim, 1);
        assert_others(&sim, &before);
    }
}

#[test]
fn a_deletion_by_either_side_ends_it() {
    for closes in [SITE, CENTER] {
        let mut sim = connected(site_config(), center_config(), 4);
        let ike_sa = sim.only_ike_sa(closes);
        sim.command(closes, Command::Close(ike_sa));
        sim.run_ms(100);
        assert_only(&sim, 0);
    }
}

#[test]
fn a_peer_that_is_silent_loses_it() {
    let mut sim = connected(site_config(), center_config(), 5);
    sim.unreachable = vec![center_address().ip()];
    sim.run_ms(120_000);
    assert_only(&sim, 0);
}

#[test]
fn an_ike_sa_at_the_end_of_its_life_loses_it() {
    let [mut site, mut center] = [site_config(), center_config()];
    for config in [&mut site, &mut center] {
        config.ike_lifetime_s = 600;
    }
    let mut sim = connected(site, center, 6);
    // Rekeyings by both, of their own accord; then none comes through.
    sim.run_ms(3_600_000);
    assert_only(&sim, 1);
    sim.unreachable = vec![center_address().ip()];
    sim.run_ms(900_000);
    assert_only(&sim, 0);
}

#[test]
fn an_authentication_anew_has_one_of_its_own() {
    let mut site = site_config();
    site.connections[0].start = Start::Now;
    site.connections[0].reauth_after_s = Some(600);
    let mut sim = Sim::new(site, center_config(), 7);
    sim.run_ms(500);
    let before = [SITE, CENTER].map(|side| sim.planes[side].ike_spis.clone());
    sim.run_ms(700_000);
    assert!(
        sim.words(SITE).contains("authenticated anew"),
        "{}",
        sim.words(SITE)
    );
    assert_only(&sim, 1);
    assert_others(&sim, &before);
}

#[test]
fn what_a_peer_has_lost_goes_when_it_is_proved() {
    let secret = |mut config: EndpointConfig, octet| {
        config.crash_secret = Some(CrashSecret::new(&[octet; 32]));
        config
    };
    let (site, center) = (|| secret(site_config(), 8), || secret(center_config(), 7));
    let mut sim = connected(site(), center(), 8);
    sim.crash(SITE, forgetful(site()));
    let ike_sa = sim.only_ike_sa(CENTER);
    sim.command(CENTER, Command::RekeyIke(ike_sa));
    sim.run_ms(100);
    assert!(sim.words(CENTER).contains("QCD token"), "{}", sim.words(CENTER));
    assert_only(&sim, 0);
    // INITIAL_CONTACT of a site that comes anew.
    let mut sim = connected(site_config(), center_config(), 9);
    sim.crash(SITE, site_config());
    sim.initiate();
    sim.run_ms(1_000);
    assert_only(&sim, 1);
}

#[test]
fn a_session_that_is_resumed_has_one_of_its_own() {
    let [mut site, mut center] = [site_config(), center_config()];
    site.connections[0].resumption = true;
    center.ticket_lifetime_s = Some(3_600);
    let mut sim = connected(site, center, 10);
    let before = [SITE, CENTER].map(|side| sim.planes[side].ike_spis.clone());
    sim.unreachable = vec![center_address().ip()];
    sim.run_ms(120_000);
    sim.unreachable.clear();
    sim.initiate();
    sim.run_ms(1_000);
    assert_eq!(sim.endpoints[CENTER].counters().sessions_resumed, 1);
    assert_only(&sim, 1);
    assert_others(&sim, &before);
}
