//! Seeded runs of two endpoints through set-up, rekeys, collisions, deletions, re-authentication, idle close
//! and crashes, over a link that loses, repeats, reorders and delays, while ESP packets flow.
//!
//! At every packet: no key is used before the peer has it or after it is gone ([`Sim::send_packet`] names what
//! cannot be otherwise). Once all is settled: both sides have the same IKE SAs and Child SAs, and no SPI is taken but by them.
//!
//! `GATEWAY_SIM_SEEDS=5000` runs so many seeds of each kind; `GATEWAY_SIM_SEED=17` runs one.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::*;
use gateway_ike::{
    Backoff, ChildId, CloseReason, Command, Connection, CrashSecret, EndpointConfig, Event, Idle, IkeSaId,
    Remote, Start, TrafficSelector,
};

const LINKS: [Link; 4] = [
    Link {
        loss: 25,
        duplicates: 15,
        delay_ms: 400,
    },
    Link {
        loss: 10,
        duplicates: 30,
        delay_ms: 150,
    },
    Link {
        loss: 0,
        duplicates: 0,
        delay_ms: 100,
    },
    Link {
        loss: 0,
        duplicates: 50,
        delay_ms: 1_500,
    },
];

/// Runs a scenario with many seeds, and says which failed.
fn run(kind: &str, seeds: u64, scenario: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("GATEWAY_SIM_SEED") {
        return scenario(seed);
    }
    let seeds = number("GATEWAY_SIM_SEEDS").unwrap_or(seeds);
    let failed: Vec<u64> = (0..seeds)
        .filter(|seed| catch_unwind(AssertUnwindSafe(|| scenario(*seed))).is_err())
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {seeds} runs failed, with seeds {failed:?}; GATEWAY_SIM_SEED={} runs one: cargo test -p gateway-ike --test simulation {kind}",
        failed.len(),
        failed[0]
    );
}

fn flow(local: &str, remote: &str) -> (TrafficSelector, TrafficSelector) {
    (net(local), net(remote))
}

/// A packet between a host of the site and one of the center, seen from `side`.
fn any_flow(sim: &mut Sim, side: usize) -> (TrafficSelector, TrafficSelector) {
    let center = ["10.1.0.10/32", "10.1.9.3/32", "172.16.5.9/32"][sim.rng.below(3) as usize];
    let site = ["192.168.1.7/32", "192.168.1.200/32"][sim.rng.below(2) as usize];
    let (local, remote) = flow(site, center);
    if side == SITE {
        (local, remote)
    } else {
        (remote, local)
    }
}

/// Both sides, as the seed wants them.
fn configs(seed: u64) -> [EndpointConfig; 2] {
    let (mut site, mut center) = (site_config(), center_config());
    let remote = Remote {
        local: center_address(),
        address: site_address(),
    };
    let policy = policy(
        &[net("10.1.0.0/16"), net("172.16.5.0/24")],
        &[net("192.168.1.0/24")],
    );
    let back = Connection::new("site", remote, "site1.lab.test".parse().unwrap(), policy);
    center.connections = vec![back];
    for config in [&mut site, &mut center] {
        // Every fourth run with additional key exchanges (RFC 9370), which are further exchanges of each rekeying.
        let more = if seed.is_multiple_of(4) {
            "-ke1_mlkem768"
        } else {
            ""
        };
        let ike = format!("aes256gcm16-prfsha256-x25519{more}");
        config.ike_proposals = vec![ike.parse().unwrap()];
        let optional = if seed.is_multiple_of(3) { "" } else { "-modpnone" };
        let esp = format!("aes256gcm16-x25519{more}{optional}");
        config.esp_proposals = vec![esp.parse().unwrap()];
        config.fragment_size = Some(if seed.is_multiple_of(2) { 500 } else { 1_280 });
        // Enough repetitions that a link like this does not look dead.
        config.retransmit.repetitions_max = 14;
        config.retransmit.longest_ms = 2_000;
        config.half_open_timeout_s = 60;
        config.connections[0].backoff = Backoff {
            first_s: 2,
            longest_s: 20,
        };
        // Every fifth run with tickets (RFC 5723), every seventh with IKE_AUTH without a Child SA (RFC 6023).
        config.ticket_lifetime_s = seed.is_multiple_of(5).then_some(600);
        config.connections[0].resumption = seed.is_multiple_of(5);
        config.connections[0].childless = seed.is_multiple_of(7);
    }
    // Every other run with crash detection (RFC 6290), by secrets that outlive the crash.
    if seed.is_multiple_of(2) {
        site.crash_secret = Some(CrashSecret::new(&[1; 32]));
        center.crash_secret = Some(CrashSecret::new(&[2; 32]));
    }
    [site, center]
}

fn world(seed: u64) -> Sim {
    let [site, center] = configs(seed);
    let mut sim = Sim::new(site, center, seed);
    sim.link = LINKS[(seed % 4) as usize];
    sim
}

/// Runs on while packets flow.
fn run_with_packets(sim: &mut Sim, duration_ms: u64) {
    let until = sim.now_ms + duration_ms;
    loop {
        let more = sim.step(sim.now_ms + 40.min(until.saturating_sub(sim.now_ms)));
        if sim.rng.chance(40) {
            let from = sim.rng.below(2) as usize;
            let flow = any_flow(sim, from);
            sim.send_packet(from, &flow);
        }
        if !more && sim.now_ms >= until {
            return;
        }
    }
}

/// No more disturbance: what is under way comes to its end, on a link without faults.
fn settle(sim: &mut Sim, duration_ms: u64) {
    sim.link = Link {
        delay_ms: 20,
        ..Link::default()
    };
    run_with_packets(sim, duration_ms);
    for _ in 0..10_000 {
        if sim.in_flight.is_empty() {
            break;
        }
        sim.step(sim.now_ms + 1_000);
    }
}

type View = Vec<((u64, u64), Vec<(u32, u32)>)>;

/// SPIs of the IKE SAs of a side, and pairs of SPIs of their Child SAs, the site's first.
fn view(sim: &Sim, side: usize) -> View {
    let standing = sim.endpoints[side]
        .ike_sas()
        .filter(|info| info.state != "half-open");
    let mut view: Vec<_> = standing
        .map(|info| {
            let pairs = info.children.iter().map(|child| match side {
                SITE => (child.spi_in, child.spi_out),
                _ => (child.spi_out, child.spi_in),
            });
            let mut pairs: Vec<_> = pairs.collect();
            pairs.sort_unstable();
            (info.spis, pairs)
        })
        .collect();
    view.sort_unstable();
    view
}

fn words(sim: &Sim) -> String {
    sim.history.join("\n")
}

/// The sides have the same IKE SAs with the same Child SAs, and their data planes agree.
fn assert_settled(sim: &Sim) {
    assert_eq!(view(sim, SITE), view(sim, CENTER), "{}", words(sim));
    sim.assert_agreement();
    let broken = |event: &&Event| {
        matches!(
            event,
            Event::Closed {
                reason: CloseReason::ProtocolViolation | CloseReason::OutOfStep,
                ..
            }
        )
    };
    let broken = sim.events.iter().flatten().find(broken);
    assert!(broken.is_none(), "{broken:?}\n{}", words(sim));
    for side in [SITE, CENTER] {
        assert_spis(sim, side);
    }
}

/// An SPI is taken by each Child SA that is received on, and by nothing else: no way that one ends keeps it.
fn assert_spis(sim: &Sim, side: usize) {
    let received_on = sim.planes[side].children.values().filter(|one| one.inbound);
    assert_eq!(
        sim.endpoints[side].esp_spi_count(),
        received_on.count(),
        "side {side}\n{}",
        words(sim)
    );
}

/// Packets of every flow pass in both directions.
fn assert_traffic(sim: &mut Sim) {
    for (site, center) in [
        ("192.168.1.7/32", "10.1.0.10/32"),
        ("192.168.1.200/32", "172.16.5.9/32"),
    ] {
        let (local, remote) = flow(site, center);
        run_for(sim, 100);
        let before = (sim.arrived, sim.lost);
        let there = sim.send_packet(SITE, &(local, remote));
        let back = sim.send_packet(CENTER, &(remote, local));
        assert!(there && back, "no SA for {local} === {remote}\n{}", words(sim));
        run_for(sim, 100);
        assert_eq!(
            (sim.arrived, sim.lost),
            (before.0 + 2, before.1),
            "{}",
            words(sim)
        );
    }
}

fn run_for(sim: &mut Sim, duration_ms: u64) {
    let until = sim.now_ms + duration_ms;
    while sim.step(until) {}
}

fn ike_sas(sim: &Sim, side: usize) -> Vec<IkeSaId> {
    let standing = sim.endpoints[side]
        .ike_sas()
        .filter(|info| info.state == "established");
    standing.map(|info| info.id).collect()
}

fn children(sim: &Sim, side: usize) -> Vec<ChildId> {
    let standing = sim.endpoints[side].ike_sas();
    standing
        .flat_map(|info| info.children)
        .map(|child| child.id)
        .collect()
}

fn pick<T: Copy>(sim: &mut Sim, from: &[T]) -> Option<T> {
    let at = sim.rng.below(from.len().max(1) as u64) as usize;
    from.get(at).copied()
}

fn up(seed: u64) -> Sim {
    let mut sim = world(seed);
    sim.initiate();
    while sim.planes[SITE].sending_on.is_none() || sim.planes[CENTER].sending_on.is_none() {
        run_with_packets(&mut sim, 1_000);
        if sim.now_ms > 200_000 {
            panic!("never up\n{}", words(&sim));
        }
        let down = sim.endpoints[SITE].ike_sas().count() == 0;
        if down && sim.now_ms.is_multiple_of(10_000) {
            sim.initiate();
        }
    }
    sim
}

/// Replaces SAs: nothing may be lost.
fn rekey_something(sim: &mut Sim, side: usize) {
    let (ike_sas, children) = (ike_sas(sim, side), children(sim, side));
    let command = match sim.rng.below(7) {
        0..3 => pick(sim, &children).map(Command::RekeyChild),
        3..5 => pick(sim, &ike_sas).map(Command::RekeyIke),
        5 if side == SITE => Some(Command::Reauthenticate {
            connection: "center".to_owned(),
        }),
        _ => pick(sim, &ike_sas).map(|ike_sa| more(sim, side, ike_sa)),
    };
    if let Some(command) = command {
        sim.command(side, command);
    }
}

/// Another Child SA, for a part of the traffic.
fn more(sim: &mut Sim, side: usize, ike_sa: IkeSaId) -> Command {
    let center = ["10.1.9.0/24", "10.1.0.0/16", "172.16.5.0/24"][sim.rng.below(3) as usize];
    let (site, center) = (vec![net("192.168.1.0/24")], vec![net(center)]);
    let (ts_local, ts_remote) = if side == SITE {
        (site, center)
    } else {
        (center, site)
    };
    Command::CreateChild {
        ike_sa,
        ts_local,
        ts_remote,
        resource: None,
    }
}

/// RFC 7296 sections 2.8 and 2.25: both sides rekey the same and different SAs, and authenticate anew, at any
/// time. Nothing is closed, so not one packet may be lost once traffic flows both ways.
#[test]
fn replacing_loses_nothing() {
    run("replacing_loses_nothing", 300, |seed| {
        let mut sim = up(seed);
        run_with_packets(&mut sim, 3_000);
        let lost = sim.lost;
        for _ in 0..8 {
            let side = sim.rng.below(2) as usize;
            rekey_something(&mut sim, side);
            let gap = [0, 30, 200, 3_000, 20_000][sim.rng.below(5) as usize];
            run_with_packets(&mut sim, gap);
        }
        settle(&mut sim, 100_000);
        assert_settled(&sim);
        assert_eq!(ike_sas(&sim, SITE).len(), 1, "{}", words(&sim));
        assert_traffic(&mut sim);
        assert_eq!(sim.lost, lost, "{}", words(&sim));
        assert!(
            sim.planes.iter().all(|plane| plane.abrupt.is_empty()),
            "{}",
            words(&sim)
        );
    });
}

/// The same with deletions of Child SAs and IKE SAs from either side in between.
#[test]
fn deletions_collide_with_everything() {
    run("deletions_collide_with_everything", 300, |seed| {
        let mut sim = up(seed);
        for _ in 0..8 {
            let side = sim.rng.below(2) as usize;
            let (ike_sas, children) = (ike_sas(&sim, side), children(&sim, side));
            match sim.rng.below(8) {
                0 | 1 => {
                    if let Some(child) = pick(&mut sim, &children) {
                        sim.command(side, Command::CloseChild(child));
                    }
                }
                2 => {
                    if let Some(ike_sa) = pick(&mut sim, &ike_sas) {
                        sim.command(side, Command::Close(ike_sa));
                    }
                }
                3 => {
                    let connection = ["center", "site"][side].to_owned();
                    sim.command(side, Command::Initiate { connection });
                }
                4 => {
                    let connection = ["center", "site"][side].to_owned();
                    let (ts_local, ts_remote) = any_flow(&mut sim, side);
                    let acquire = Command::Acquire {
                        connection,
                        ts_local,
                        ts_remote,
                    };
                    sim.command(side, acquire);
                }
                _ => rekey_something(&mut sim, side),
            }
            let gap = [0, 30, 200, 3_000, 20_000][sim.rng.below(5) as usize];
            run_with_packets(&mut sim, gap);
        }
        settle(&mut sim, 200_000);
        assert_settled(&sim);
    });
}

/// One side loses all it knows, or the link is cut, in the middle of anything. The connection is to be up at
/// all times, so in the end it is.
#[test]
fn crashes_and_cuts_heal() {
    run("crashes_and_cuts_heal", 200, |seed| {
        let [mut site, center] = configs(seed);
        site.connections[0].start = Start::Now;
        let mut sim = Sim::new(site, center, seed);
        sim.link = LINKS[(seed % 4) as usize];
        run_with_packets(&mut sim, 10_000);
        for _ in 0..4 {
            match sim.rng.below(5) {
                // The site comes back at once and says so (INITIAL_CONTACT).
                0 => {
                    let [mut site, _] = configs(seed);
                    site.connections[0].start = Start::Now;
                    sim.crash(SITE, site);
                }
                // The center comes back and waits to be asked (liveness, or the hint that it does not know us).
                1 => {
                    let [_, center] = configs(seed);
                    sim.crash(CENTER, center);
                }
                2 => {
                    let link = sim.link;
                    sim.link.loss = 100;
                    let cut = [5_000, 40_000, 120_000][sim.rng.below(3) as usize];
                    run_with_packets(&mut sim, cut);
                    sim.link = link;
                }
                _ => {
                    let side = sim.rng.below(2) as usize;
                    rekey_something(&mut sim, side);
                }
            }
            let gap = [0, 100, 2_000, 40_000][sim.rng.below(4) as usize];
            run_with_packets(&mut sim, gap);
        }
        settle(&mut sim, 300_000);
        assert_settled(&sim);
        assert_traffic(&mut sim);
    });
}

/// A crashed site that does not come back is noticed, and nothing of it is left at the center.
#[test]
fn a_peer_that_stays_away_is_forgotten() {
    run("a_peer_that_stays_away_is_forgotten", 60, |seed| {
        let mut sim = up(seed);
        let [mut site, _] = configs(seed);
        site.connections.clear();
        let side = sim.rng.below(2) as usize;
        rekey_something(&mut sim, side);
        let gap = sim.rng.below(500);
        run_with_packets(&mut sim, gap);
        sim.crash(SITE, site);
        settle(&mut sim, 200_000);
        assert_eq!(sim.endpoints[CENTER].ike_sas().count(), 0, "{}", words(&sim));
        assert!(sim.planes[CENTER].children.is_empty(), "{}", words(&sim));
        assert_spis(&sim, CENTER);
    });
}

/// Lifetimes of a minute on both sides, re-authentication and idle close: hours of it.
/// All places of SPIs are taken when a Child SA comes of age, and one becomes free before its lifetime ends: then it is
/// rekeyed, and packets flow all the while.
///
/// Regression: the rekeying was dropped, and the Child SA ended by age. Packets were lost until there was another.
#[test]
fn a_rekeying_without_a_free_spi_is_tried_again() {
    run("a_rekeying_without_a_free_spi", 20, |seed| {
        let [mut site, mut center] = configs(seed);
        // Two places.
        site.esp_spi_index_bits = 1;
        site.connections[0].childless = false;
        (site.child_lifetime_s, center.child_lifetime_s) = (600, 6_000);
        let mut sim = connected(site, center, seed);
        let first = sim.only_child(SITE);
        let another = Command::CreateChild {
            ike_sa: sim.only_ike_sa(SITE),
            ts_local: vec![net("192.168.1.0/24")],
            ts_remote: vec![net("10.1.0.0/16")],
            resource: None,
        };
        sim.command(SITE, another);
        run_with_packets(&mut sim, 30_000);
        let second = *sim.planes[SITE].children.keys().last().unwrap();
        assert_ne!(first, second);
        // They are to be rekeyed at 600 s at the latest, and end at 660 s.
        run_with_packets(&mut sim, 610_000);
        let rekeyed = |event: &Event| matches!(event, Event::ChildSaRekeyed { old, .. } if *old == first);
        let ended = |event: &Event| matches!(event, Event::ChildSaClosed { child, .. } if *child == first);
        let told = |sim: &Sim, what: &dyn Fn(&Event) -> bool| sim.events[SITE].iter().any(what);
        assert!(!told(&sim, &rekeyed) && !told(&sim, &ended), "{}", words(&sim));
        let finds_room = !seed.is_multiple_of(4);
        if finds_room {
            sim.command(SITE, Command::CloseChild(second));
        }
        run_with_packets(&mut sim, 100_000);
        assert_eq!(told(&sim, &rekeyed), finds_room, "{}", words(&sim));
        assert_eq!(told(&sim, &ended), !finds_room, "{}", words(&sim));
        settle(&mut sim, 30_000);
        assert_settled(&sim);
    });
}

#[test]
fn short_lifetimes() {
    run("short_lifetimes", 60, |seed| {
        let [mut site, mut center] = configs(seed);
        let connection = &mut site.connections[0];
        connection.start = if seed.is_multiple_of(2) {
            Start::Now
        } else {
            Start::OnDemand
        };
        connection.reauth_after_s = (!seed.is_multiple_of(3)).then_some(200);
        connection.idle = Idle {
            child_after_s: (!seed.is_multiple_of(5)).then_some(30),
            ike_after_s: (!seed.is_multiple_of(7)).then_some(20),
        };
        let on_demand = connection.start == Start::OnDemand;
        for config in [&mut site, &mut center] {
            // A tenth of it is left when the rekeying begins: time enough on a link like this.
            config.child_lifetime_s = 300 + seed % 50;
            config.ike_lifetime_s = 500 + seed % 70;
        }
        let mut sim = Sim::new(site, center, seed);
        sim.link = LINKS[(1 + seed % 3) as usize];
        for round in 0..12 {
            if on_demand {
                let (ts_local, ts_remote) = any_flow(&mut sim, SITE);
                let acquire = Command::Acquire {
                    connection: "center".to_owned(),
                    ts_local,
                    ts_remote,
                };
                sim.command(SITE, acquire);
            }
            run_with_packets(&mut sim, 150_000);
            if round % 4 == 3 {
                // Nobody has anything to say.
                run_for(&mut sim, 120_000);
            }
        }
        settle(&mut sim, 30_000);
        assert_settled(&sim);
        if !on_demand {
            assert_traffic(&mut sim);
            assert!(!sim.words(SITE).contains("lifetime ended"), "{}", words(&sim));
        }
    });
}
