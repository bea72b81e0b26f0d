//! The rule tables in the kernel: against a naive first match, and swapped under load. Needs root.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use gateway::dataplane::TableSizes;
use gateway_common::abi::interface::role;
use gateway_common::abi::names::{OpenAddress, OpenName};
use gateway_common::abi::rule::{Rule, action, direction};
use gateway_common::packet::tcp::flag::SYN;
use gateway_common::path::rules::{Tuple, matches_by_name};
use gateway_tests::frames::Clear;
use gateway_tests::kernel::{Kernel, monotonic};
use gateway_tests::random::Random;
use gateway_tests::vectors::world::{self, GROUP_CLINIC, SA_INDEX, SITE, SITE_OTHER};

const XDP_DROP: u32 = 1;
const XDP_REDIRECT: u32 = 4;

fn prefix(random: &mut Random, networks: &[[u8; 4]]) -> ([u8; 4], [u8; 4]) {
    let length = random.pick(&[0u32, 8, 15, 16, 17, 24, 25, 31, 32]);
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    let network = u32::from_be_bytes(random.pick(networks)) & mask;
    (network.to_be_bytes(), mask.to_be_bytes())
}

const SERVERS: [[u8; 4]; 5] = [
    [203, 0, 113, 10],
    [203, 0, 113, 11],
    [203, 0, 113, 139],
    [203, 0, 113, 200],
    [203, 0, 113, 53],
];
const TERMINALS: [[u8; 4]; 4] = [
    [192, 168, 1, 10],
    [192, 168, 1, 11],
    [192, 168, 1, 139],
    [192, 169, 1, 10],
];
const PORTS: [u16; 6] = [1, 79, 80, 443, 8000, 65535];

/// Sets of names that rules speak of.
const NAME_SETS: u32 = 6;

/// Some servers are open for up to eight sets, for some of which no longer.
fn open_names(random: &mut Random, now_s: u32) -> BTreeMap<[u8; 4], OpenAddress> {
    let mut open = BTreeMap::new();
    for server in SERVERS {
        let mut element = OpenAddress {
            address: server,
            ..OpenAddress::default()
        };
        let count = random.pick(&[0, 1, 2, 8]);
        for place in element.names.iter_mut().take(count) {
            *place = OpenName {
                set: 1 + random.below(NAME_SETS + 2),
                until_s: (now_s + 500) - random.pick(&[0, 0, 0, 0, 500, 501]),
            };
        }
        if random.below(4) != 0 {
            open.insert(server, element);
        }
    }
    open
}

fn rule(random: &mut Random, number: u32) -> Rule {
    let (source, source_mask) = prefix(random, &TERMINALS);
    let (destination, destination_mask) = prefix(random, &SERVERS);
    // Every third rule is about names.
    let name_set = if random.below(3) == 0 {
        1 + random.below(NAME_SETS)
    } else {
        0
    };
    let (destination, destination_mask) = match name_set {
        0 => (destination, destination_mask),
        _ => ([0; 4], [0; 4]),
    };
    let mut ports = || {
        let (a, b) = (random.pick(&PORTS), random.pick(&PORTS));
        (a.min(b), a.max(b))
    };
    let ((source_port_low, source_port_high), (destination_port_low, destination_port_high)) =
        (ports(), ports());
    // Rules of names are about all ports, so that packets meet them often.
    let ((source_port_low, source_port_high), (destination_port_low, destination_port_high)) = match name_set
    {
        0 => (
            (source_port_low, source_port_high),
            (destination_port_low, destination_port_high),
        ),
        _ => ((0, u16::MAX), (0, u16::MAX)),
    };
    let who = random.below(4);
    Rule {
        groups: if who == 1 {
            random.pick(&[1, 2, GROUP_CLINIC, GROUP_CLINIC | 2])
        } else {
            0
        },
        site: if who == 2 {
            random.pick(&[SITE, SITE_OTHER, 3])
        } else {
            0
        },
        source,
        source_mask,
        destination,
        destination_mask,
        source_port_low,
        source_port_high,
        destination_port_low,
        destination_port_high,
        name_set,
        protocol: random.pick(&[0, 6, 17]),
        action: random.pick(&[action::ALLOW, action::DENY]),
        directions: random.pick(&[0, 0b0001, 0b1000, 0b1001, 0b0110]),
        ..world::allow(number, [0; 4], 0, 0)
    }
}

/// Differential: 40 random rule sets of up to 700 rules, 100 packets each: the verdict and the rule that decides are those of
/// the first rule that matches.
#[test]
fn the_kernel_decides_as_a_naive_first_match() -> Result<()> {
    let mut kernel = Kernel::load()?;
    let mut tables = world::world(u32::try_from(monotonic().as_secs())?);
    // Each destination has a resolved next hop: what drops is a rule.
    tables.next_hops.retain(|(length, _, _)| *length == 24);
    kernel.fill(&tables)?;
    let mut random = Random(5);
    let now_s = tables.now_s.get();
    let (mut allowed, mut by_name) = (0, 0);
    for generation in 5..45 {
        let count = random.pick(&[0, 1, 3, 64, 65, 700]);
        let rules: Vec<_> = (0..count).map(|number| rule(&mut random, number)).collect();
        // The servers are in the center, or in the Internet.
        let (direction, role) = random.pick(&[
            (direction::SITE_TO_CENTER, role::CORE),
            (direction::SITE_TO_INTERNET, role::INTERNET),
        ]);
        tables.directions = vec![(0, [0; 4], direction)];
        tables.roles.insert(world::EGRESS, role);
        kernel.fill(&tables)?;
        kernel.load_rules(generation, &rules)?;
        kernel.refill(&tables)?;
        let open = open_names(&mut random, now_s);
        kernel.open_names(&open)?;
        for _ in 0..100 {
            let site = random.pick(&[SITE, SITE_OTHER]);
            let (source, destination) = (random.pick(&TERMINALS), random.pick(&SERVERS));
            let (source_port, port) = (random.pick(&PORTS), random.pick(&PORTS));
            let protocol = random.pick(&[6u8, 17]);
            let packet = match protocol {
                6 => Clear::tcp((source, source_port), (destination, port), SYN),
                _ => Clear::udp((source, source_port), (destination, port)),
            };
            let tuple = Tuple {
                groups: tables.sites[&site].groups,
                site,
                source: u32::from_be_bytes(source),
                destination: u32::from_be_bytes(destination),
                source_port,
                destination_port: port,
                protocol,
                direction,
                to_site: 0,
                to_groups: 0,
            };
            let opened = open.get(&destination).copied().unwrap_or_default();
            let expected = rules
                .iter()
                .find(|rule| matches_by_name(rule, &tuple, &opened, now_s));
            let allow = expected.is_some_and(|rule| rule.action == action::ALLOW);
            let code = kernel.run("clear", &packet.linked(site, SA_INDEX))?.code;
            ensure!(
                code == if allow { XDP_REDIRECT } else { XDP_DROP },
                "generation {generation}: code {code}, expected {expected:?} for {tuple:?}"
            );
            by_name += u32::from(expected.is_some_and(|rule| rule.name_set != 0));
            if allow {
                allowed += 1;
                let state = kernel.state();
                let flow = state.flows.values().next().context("a flow")?;
                let by = expected.map(|rule| rule.source_rule);
                ensure!(
                    (flow.generation, Some(flow.rule)) == (generation, by),
                    "{flow:?} {expected:?}"
                );
                // The flow would let later packets pass without asking the rules.
                kernel.refill(&tables)?;
            }
        }
    }
    ensure!(allowed > 200, "only {allowed} packets were allowed");
    ensure!(by_name > 50, "only {by_name} packets were decided by name");
    Ok(())
}

/// Two rule sets take turns while packets are judged. Both allow every packet, the first by its first rule and the second by
/// its last: a packet that took a vector of one and a vector of the other would find no rule. Every packet has to pass, and
/// every one is counted by one of the two rules.
#[test]
fn no_packet_is_lost_and_none_meets_a_mix_of_two_rule_sets() -> Result<()> {
    const RULES: u32 = 2_000;
    const ROUNDS: usize = 300;
    const PACKETS_MAX: u16 = 60_000;
    // Each packet opens a flow.
    let mut kernel = Kernel::load_for(TableSizes {
        flows: PACKETS_MAX.into(),
        mappings: PACKETS_MAX.into(),
    })?;
    kernel.fill(&world::world(u32::try_from(monotonic().as_secs())?))?;
    let other = |number: u32| Rule {
        action: action::DENY,
        ..world::allow(
            number,
            [203, 0, 112, number as u8],
            17,
            1 + (number % 60_000) as u16,
        )
    };
    let set = |allowing: u32| -> Vec<Rule> {
        let rule = |number| match number == allowing {
            true => world::allow(number, world::SERVER, 6, 443),
            false => other(number),
        };
        (0..RULES).map(rule).collect()
    };
    let sets = [
        kernel.build_rules(5, &set(0))?,
        kernel.build_rules(6, &set(RULES - 1))?,
    ];
    kernel.load_generation(sets[0].chunks())?;
    let mut rule_sets = kernel.take_rule_sets()?;
    let stop = AtomicBool::new(false);
    let judge = |kernel: &Kernel| -> Result<u64> {
        let mut packets = 0;
        for port in 1024..1024 + PACKETS_MAX {
            let frame = Clear::tcp((world::TERMINAL, port), (world::SERVER, 443), SYN).linked(SITE, SA_INDEX);
            let code = kernel.code("clear", &frame)?;
            ensure!(code == XDP_REDIRECT, "packet {packets}: code {code}");
            packets += 1;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(packets)
    };
    let packets = std::thread::scope(|scope| -> Result<u64> {
        let judge = scope.spawn(|| judge(&kernel));
        for round in 1..=ROUNDS {
            rule_sets.load(sets[round % 2].chunks())?;
        }
        stop.store(true, Ordering::Relaxed);
        judge.join().map_err(|_| anyhow::anyhow!("the judge panicked"))?
    })?;
    let (first, last) = (kernel.rule_hits(0)?, kernel.rule_hits(RULES - 1)?);
    ensure!(
        first + last == packets,
        "{first} and {last} hits of {packets} packets"
    );
    ensure!(
        first > 0 && last > 0,
        "{first} and {last}: the sets took no turns"
    );
    Ok(())
}
