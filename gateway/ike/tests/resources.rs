//! Several Child SAs for the same traffic (RFC 9611).

mod common;

use common::*;
use gateway_ike::{ChildId, Command, EndpointConfig, Event};

fn site(child_sas: u8) -> EndpointConfig {
    let mut config = site_config();
    config.connections[0].child_sas = child_sas;
    config
}

fn up(site: EndpointConfig, center: EndpointConfig) -> Sim {
    let mut sim = connected(site, center, 1);
    sim.run_ms(5_000);
    sim
}

/// Identifiers of the Child SAs of a side, in words.
fn resources(sim: &Sim, side: usize) -> Vec<Option<String>> {
    let mut all: Vec<_> = sim.endpoints[side]
        .ike_sas()
        .flat_map(|ike_sa| ike_sa.children)
        .map(|child| child.resource.map(|id| id.to_string()))
        .collect();
    all.sort();
    all
}

fn named(names: &[&str]) -> Vec<Option<String>> {
    names.iter().map(|name| Some((*name).to_owned())).collect()
}

fn flow() -> (gateway_ike::TrafficSelector, gateway_ike::TrafficSelector) {
    (net("192.168.1.7/32"), net("10.1.0.10/32"))
}

#[test]
fn several_child_sas_for_the_same_traffic() {
    for childless in [false, true] {
        let mut site = site(4);
        site.connections[0].childless = childless;
        let mut sim = Sim::new(site, center_config(), 1);
        sim.initiate();
        sim.run_ms(5_000);
        for side in [SITE, CENTER] {
            assert_eq!(sim.planes[side].children.len(), 4, "{}", sim.history.join("\n"));
            assert_eq!(resources(&sim, side), named(&["0", "1", "2", "3"]));
        }
        sim.assert_agreement();
        let of_center: Vec<_> = sim.planes[CENTER].children.values().map(|one| &one.sa).collect();
        assert!(of_center.iter().all(|sa| sa.ts_local == of_center[0].ts_local));
        let mut keys: Vec<_> = of_center.iter().map(|sa| &sa.keys_in.encryption).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 4, "each has its own keys");
    }
}

/// Nobody is told of it who has one Child SA.
#[test]
fn one_child_sa_is_for_nothing_in_particular() {
    let sim = up(site_config(), center_config());
    assert_eq!(resources(&sim, SITE), [None]);
    assert_eq!(resources(&sim, CENTER), [None]);
}

/// RFC 9611 section 3: the refusal has its own name, what is there stays, and nothing is asked for again and again.
#[test]
fn one_too_many_is_refused_by_name() {
    let mut center = center_config();
    center.resource_sas_max = 3;
    let mut sim = up(site(5), center);
    for side in [SITE, CENTER] {
        assert_eq!(sim.planes[side].children.len(), 3);
    }
    let refused = |sim: &Sim| {
        let refusal = |event: &&Event| {
            matches!(
                event,
                Event::RefusedByPeer {
                    notification: "TS_MAX_QUEUE",
                    ..
                }
            )
        };
        sim.events[SITE].iter().filter(refusal).count()
    };
    assert_eq!(refused(&sim), 2, "{}", sim.history.join("\n"));
    sim.run_ms(600_000);
    assert_eq!(refused(&sim), 2);
    sim.assert_agreement();
    // Other traffic, or no resource, is another matter.
    let ike_sa = sim.only_ike_sa(SITE);
    sim.command(
        SITE,
        Command::CreateChild {
            ike_sa,
            ts_local: vec![net("192.168.1.0/24")],
            ts_remote: vec![net("10.1.9.0/24")],
            resource: Some(gateway_ike::ResourceId::new(b"0")),
        },
    );
    sim.run_ms(5_000);
    assert_eq!(sim.planes[CENTER].children.len(), 4);
    assert_eq!(refused(&sim), 2);
}

/// A peer that asks for more and more meets the limit of the IKE SA, whatever it says they are for.
#[test]
fn the_limit_of_the_ike_sa_holds() {
    let mut center = center_config();
    (center.resource_sas_max, center.children_max) = (usize::MAX, 5);
    let sim = up(site(100), center);
    assert_eq!(sim.planes[CENTER].children.len(), 5);
    sim.assert_agreement();
}

/// Whichever side rekeys, the new one is for the same resource.
#[test]
fn rekeying_keeps_the_resource() {
    for side in [SITE, CENTER] {
        let mut sim = up(site(3), center_config());
        let before: Vec<ChildId> = sim.planes[side].children.keys().copied().collect();
        for child in before {
            sim.command(side, Command::RekeyChild(child));
            sim.run_ms(10_000);
        }
        let ike_sa = sim.only_ike_sa(side);
        sim.command(side, Command::RekeyIke(ike_sa));
        sim.run_ms(40_000);
        for side in [SITE, CENTER] {
            assert_eq!(
                resources(&sim, side),
                named(&["0", "1", "2"]),
                "{}",
                sim.history.join("\n")
            );
        }
        sim.assert_agreement();
    }
}

/// Who asked for several sends on all of them; who was asked, on those that the other has sent on. A successor takes its
/// predecessor's place alone, whichever side rekeys.
#[test]
fn all_that_are_in_use_are_sent_on() {
    let (there, back) = (flow(), (flow().1, flow().0));
    for rekeys in [SITE, CENTER] {
        let mut sim = up(site(3), center_config());
        let ways = |sim: &Sim, side: usize, flow| {
            let mut ways = sim.planes[side].ways(flow);
            ways.sort();
            ways
        };
        let all = |sim: &Sim, side: usize| sim.planes[side].children.keys().copied().collect::<Vec<_>>();
        let all_are_ways = |sim: &Sim, count: usize| {
            for (side, flow) in [(SITE, &there), (CENTER, &back)] {
                let all = all(sim, side);
                assert_eq!(ways(sim, side, flow), all, "{}", sim.history.join("\n"));
                assert_eq!(all.len(), count);
            }
        };
        assert_eq!(ways(&sim, SITE, &there), all(&sim, SITE));
        assert_eq!(
            ways(&sim, CENTER, &back).len(),
            2,
            "the last has not been heard of"
        );
        // Each of the three is sent on by turns.
        for _ in 0..30 {
            assert!(sim.send_packet(SITE, &there));
            sim.run_ms(2);
        }
        assert_eq!(ways(&sim, CENTER, &back), all(&sim, CENTER));
        for old in all(&sim, rekeys) {
            sim.command(rekeys, Command::RekeyChild(old));
            for _ in 0..10_000 {
                assert!(sim.send_packet(SITE, &there), "{}", sim.history.join("\n"));
                assert!(sim.send_packet(CENTER, &back), "{}", sim.history.join("\n"));
                sim.run_ms(1);
            }
            assert!(!sim.planes[rekeys].children.contains_key(&old));
            all_are_ways(&sim, 3);
        }
        let gone = all(&sim, rekeys)[1];
        sim.command(rekeys, Command::CloseChild(gone));
        sim.run_ms(10_000);
        all_are_ways(&sim, 2);
        assert_eq!(sim.lost, 0);
        sim.assert_agreement();
    }
}

/// One for nothing in particular takes over all traffic.
#[test]
fn one_without_a_resource_shares_with_nobody() {
    let mut sim = up(site(2), center_config());
    let ike_sa = sim.only_ike_sa(SITE);
    let (ts_local, ts_remote) = {
        let sa = &sim.planes[SITE].children.values().next().unwrap().sa;
        (sa.ts_local.clone(), sa.ts_remote.clone())
    };
    let before = sim.planes[SITE].ways(&flow());
    let resource = None;
    sim.command(
        SITE,
        Command::CreateChild {
            ike_sa,
            ts_local,
            ts_remote,
            resource,
        },
    );
    sim.run_ms(5_000);
    let ways = sim.planes[SITE].ways(&flow());
    assert_eq!((before.len(), ways.len()), (2, 1), "{}", sim.history.join("\n"));
    assert!(!before.contains(&ways[0]));
}

/// Packets pass all the time, whichever of the Child SAs is deleted, by either side, and in whatever order.
#[test]
fn any_of_them_takes_traffic() {
    for (side, newest_first) in [(SITE, true), (SITE, false), (CENTER, true), (CENTER, false)] {
        let mut sim = up(site(3), center_config());
        let (there, back) = (flow(), (flow().1, flow().0));
        let mut children: Vec<ChildId> = sim.planes[side].children.keys().copied().collect();
        if newest_first {
            children.reverse();
        }
        children.pop();
        for child in children {
            for round in 0..300 {
                if round == 50 {
                    sim.command(side, Command::CloseChild(child));
                }
                assert!(sim.send_packet(SITE, &there), "{}", sim.history.join("\n"));
                assert!(sim.send_packet(CENTER, &back), "{}", sim.history.join("\n"));
                sim.run_ms(1);
            }
        }
        sim.run_ms(30_000);
        assert_eq!(resources(&sim, SITE).len(), 1);
        sim.assert_agreement();
    }
}
