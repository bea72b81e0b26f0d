//! Hundreds of seeded runs over a link that loses, repeats and reorders datagrams.

mod common;

use common::*;
use gateway_ike::{Command, Event, TimeoutReason, wire::payload_type};

fn sim(seed: u64, link: Link) -> Sim {
    let (mut site, mut center) = (site_config(), center_config());
    for config in [&mut site, &mut center] {
        config.ike_proposals = vec!["aes256gcm16-prfsha256-x25519".parse().unwrap()];
        config.esp_proposals = vec!["aes256gcm16-x25519-modpnone".parse().unwrap()];
        // Half of the runs with fragments.
        config.fragment_size = Some(if seed.is_multiple_of(2) { 500 } else { 1_280 });
        // Enough repetitions that a link like this does not look dead.
        config.retransmit.repetitions_max = 12;
        config.retransmit.longest_ms = 2_000;
        config.half_open_timeout_s = 120;
    }
    let mut sim = Sim::new(site, center, seed);
    sim.link = link;
    sim
}

const HARD: Link = Link {
    loss: 25,
    duplicates: 15,
    delay_ms: 400,
};

/// Runs on while traffic flows, and checks at every step that it arrives.
fn run_with_traffic(sim: &mut Sim, duration_ms: u64) {
    let until = sim.now_ms + duration_ms;
    while sim.step(until) {
        sim.assert_no_black_hole();
        if sim.rng.chance(20) {
            let from = usize::from(sim.rng.chance(50));
            sim.traffic(from);
        }
    }
}

fn settled(sim: &mut Sim, seed: u64) {
    sim.link = Link {
        delay_ms: 20,
        ..Link::default()
    };
    run_with_traffic(sim, 60_000);
    sim.assert_agreement();
    for side in [SITE, CENTER] {
        assert!(
            sim.planes[side].sending_on.is_some(),
            "seed {seed}, side {side}:\n{}",
            sim.words(side)
        );
        assert_eq!(
            sim.endpoints[side].ike_sas().count(),
            1,
            "seed {seed}, side {side}:\n{}",
            sim.words(side)
        );
        assert_eq!(
            sim.planes[side].children.len(),
            1,
            "seed {seed}, side {side}:\n{}",
            sim.words(side)
        );
        let closed = |event: &Event| matches!(event, Event::Closed { .. } | Event::ChildSaClosed { .. });
        assert!(
            !sim.events[side].iter().any(closed),
            "seed {seed}, side {side}:\n{}",
            sim.words(side)
        );
    }
}

#[test]
fn tunnels_come_up() {
    for seed in 0..150 {
        let mut sim = sim(seed, HARD);
        sim.initiate();
        run_with_traffic(&mut sim, 60_000);
        settled(&mut sim, seed);
    }
}

#[test]
fn one_side_rekeys() {
    for seed in 0..150 {
        let mut sim = sim(seed, HARD);
        sim.initiate();
        run_with_traffic(&mut sim, 60_000);
        for round in 0..6 {
            let side = usize::from(sim.rng.chance(50));
            let command = if round % 2 == 0 {
                Command::RekeyChild(sim.planes[side].sending_on.unwrap())
            } else {
                Command::RekeyIke(sim.endpoints[side].ike_sas().last().unwrap().id)
            };
            sim.command(side, command);
            run_with_traffic(&mut sim, 60_000);
        }
        settled(&mut sim, seed);
        assert!(
            sim.events[SITE]
                .iter()
                .any(|event| matches!(event, Event::IkeSaRekeyed { .. }))
        );
    }
}

/// RFC 7296 section 2.25: both sides rekey, the same or different SAs, at nearly the same time.
#[test]
fn both_sides_rekey_at_once() {
    let mut collisions = 0;
    for seed in 0..300 {
        let mut sim = sim(
            seed,
            if seed % 3 == 0 {
                Link {
                    delay_ms: 100,
                    ..Link::default()
                }
            } else {
                HARD
            },
        );
        sim.initiate();
        run_with_traffic(&mut sim, 60_000);
        for _ in 0..3 {
            for side in [SITE, CENTER] {
                let command = if sim.rng.chance(50) {
                    Command::RekeyChild(sim.planes[side].sending_on.unwrap())
                } else {
                    Command::RekeyIke(sim.endpoints[side].ike_sas().last().unwrap().id)
                };
                sim.command(side, command);
                let gap = sim.rng.below(150);
                run_with_traffic(&mut sim, gap);
            }
            run_with_traffic(&mut sim, 60_000);
        }
        let installed = |event: &&Event| matches!(event, Event::ChildSaEstablished { .. });
        collisions += sim.events[SITE].iter().filter(installed).count() - 1;
        settled(&mut sim, seed);
    }
    assert!(
        collisions > 10,
        "only {collisions} Child SAs lost against another: nothing was tested"
    );
}

/// Whatever was sent is sent again, in any order: nothing comes of it.
#[test]
fn replays_change_nothing() {
    for seed in 0..30 {
        let mut sim = sim(
            seed,
            Link {
                delay_ms: 20,
                ..Link::default()
            },
        );
        sim.initiate();
        run_with_traffic(&mut sim, 5_000);
        sim.command(SITE, Command::RekeyChild(sim.planes[SITE].sending_on.unwrap()));
        run_with_traffic(&mut sim, 20_000);
        let standing = |sim: &Sim| {
            let all = sim.endpoints.iter().flat_map(|endpoint| endpoint.ike_sas());
            let standing = all.filter(|info| info.state != "half-open");
            standing
                .map(|info| gateway_ike::IkeSaInfo { age_s: 0, ..info })
                .collect::<Vec<_>>()
        };
        let before = standing(&sim);
        let old = sim.sent.clone();
        for _ in 0..200 {
            let datagram = old[usize::try_from(sim.rng.below(old.len() as u64)).unwrap()].clone();
            sim.deliver(&datagram);
        }
        assert_eq!(before, standing(&sim), "seed {seed}");
        settled(&mut sim, seed);
    }
}

/// A dead peer is noticed after the idle time and all repetitions; then nothing is left.
#[test]
fn a_dead_peer_is_dropped() {
    let mut sim = connected(site_config(), center_config(), 1);
    sim.link.loss = 100;
    let asked_at = sim.now_ms;
    while sim.endpoints[CENTER].ike_sas().count() > 0 {
        assert!(sim.step(asked_at + 600_000), "never noticed");
    }
    let waited_s = (sim.now_ms - asked_at) / 1000;
    // 30 s of silence and 39 s of repetitions.
    assert!((60..80).contains(&waited_s), "{waited_s} s");
    assert!(sim.planes[CENTER].children.is_empty());
    assert!(sim.words(CENTER).contains("the peer does not answer"));
}

/// Hands the center a fragment again and again while the site is silent, and says how long it takes the center to notice.
fn noticed_after_s(sim: &mut Sim, fragment: &Datagram) -> u64 {
    assert_eq!(fragment.payload[16], payload_type::SKF);
    let began_ms = sim.now_ms;
    while sim.endpoints[CENTER].ike_sas().count() > 0 {
        assert!(sim.now_ms < began_ms + 600_000, "never noticed");
        sim.deliver(fragment);
        sim.run_ms(10_000);
    }
    assert!(sim.words(CENTER).contains("the peer does not answer"));
    (sim.now_ms - began_ms) / 1000
}

/// RFC 7296 section 2.4: fresh messages show that the peer lives, and what somebody on the path repeats is none.
///
/// Regression: a fragment of the request answered last, other than the first, counted as a sign of life; and so did a
/// fragment of a request that is not complete, each time that it came, and once more after it was forgotten.
#[test]
fn repeated_fragments_are_no_sign_of_life() {
    for dpd_after_s in [30, 60] {
        let make = || {
            let (mut site, mut center) = (site_config(), center_config());
            (site.fragment_size, center.fragment_size) = (Some(500), Some(500));
            site.ike_proposals = vec!["aes256gcm16-prfsha384-modp4096".parse().unwrap()];
            center.ike_proposals = site.ike_proposals.clone();
            center.dpd_after_s = dpd_after_s;
            connected(site, center, 1)
        };
        let second = |sim: &Sim, after: usize| {
            let mut sent = sim.sent[after..].iter();
            let found = sent.find(|one| one.from == site_address() && one.payload[32..34] == [0, 2]);
            found.unwrap().clone()
        };
        let expected_s = dpd_after_s + 30..dpd_after_s + 60;
        let mut sim = make();
        let of_ike_auth = second(&sim, 0);
        sim.link.loss = 100;
        let waited_s = noticed_after_s(&mut sim, &of_ike_auth);
        assert!(expected_s.contains(&waited_s), "{waited_s} s");

        let mut sim = make();
        sim.link.loss = 100;
        let (sent, ike_sa) = (sim.sent.len(), sim.only_ike_sa(SITE));
        sim.command(SITE, Command::RekeyIke(ike_sa));
        let of_a_new_request = second(&sim, sent);
        let waited_s = noticed_after_s(&mut sim, &of_a_new_request);
        assert!(expected_s.contains(&waited_s), "{waited_s} s");
    }
}

/// Traffic on the Child SA is proof enough: no liveness requests are sent while it flows.
#[test]
fn traffic_spares_liveness_requests() {
    let mut sim = connected(site_config(), center_config(), 2);
    let sent = sim.sent.len();
    for _ in 0..20 {
        sim.run_ms(10_000);
        sim.traffic(SITE);
        sim.traffic(CENTER);
    }
    assert_eq!(sim.sent.len(), sent);
    sim.run_ms(70_000);
    assert!(sim.sent.len() > sent);
    assert_eq!(sim.endpoints[SITE].ike_sas().count(), 1);
}

/// Signs of life leave the timer where it was: when it comes nothing is due, and silence is counted from the last sign.
#[test]
fn a_timer_that_signs_of_life_have_outdated_asks_nothing() {
    let (mut site, mut center) = (site_config(), center_config());
    site.dpd_after_s = 3_600;
    center.dpd_after_s = 60;
    let mut sim = connected(site, center, 2);
    let set = sim.endpoints[CENTER].poll_timeout();
    sim.run_ms(40_000);
    sim.traffic(SITE);
    assert_eq!(sim.endpoints[CENTER].poll_timeout(), set);
    let (heard_ms, sent) = (sim.now_ms, sim.sent.len());
    sim.run_ms(59_000);
    assert_eq!(sim.sent.len(), sent, "{}", sim.words(CENTER));
    let (due_ms, reason) = sim.endpoints[CENTER].poll_timeout().unwrap();
    assert_eq!((due_ms, reason), (heard_ms + 60_000, TimeoutReason::Liveness));
    sim.run_ms(2_000);
    assert!(
        sim.sent.len() > sent,
        "the peer is asked after a minute of silence"
    );
}
