//! Properties of the packet core against naive models, on the host, and host against kernel on random frames.

use std::collections::BTreeMap;

use gateway_common::abi::flow::{Flow, FlowKey, state};
use gateway_common::abi::rule::{Rule, action};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason;
use gateway_common::path::Verdict;
use gateway_common::path::tcp::flag::SIMULTANEOUS;
use gateway_common::tables::host::HostTables;
use gateway_tests::frames::{Clear, checksums_are_valid, fix_ipv4};
use gateway_tests::vectors::world::{self, NAT, SA_INDEX, SITE, SITE_OTHER, TERMINAL};
use gateway_tests::vectors::{self, Program};
use proptest::prelude::*;

const NOW_S: u32 = 100_000;

fn program() -> impl Strategy<Value = Program> {
    prop_oneof![Just(Program::Wan), Just(Program::Clear), Just(Program::Core)]
}

/// A frame of some vector, damaged in a few places, cut or prolonged: passes most checks and fails a late one.
fn damaged() -> impl Strategy<Value = (Program, Vec<u8>)> {
    let frames: Vec<(Program, Vec<u8>)> = vectors::all(NOW_S)
        .into_iter()
        .flat_map(|vector| vector.steps)
        .map(|step| (step.program, step.frame))
        .collect();
    let damage = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (
        proptest::sample::select(frames),
        damage,
        0usize..4,
        any::<prop::sample::Index>(),
    )
        .prop_map(|((program, mut frame), damage, cut, end)| {
            for (place, value) in damage {
                let place = place.index(frame.len().min(64));
                frame[place] = value;
            }
            match cut {
                0 => frame.truncate(end.index(frame.len() + 1)),
                1 => frame.resize(frame.len() + end.index(20), 0),
                _ => {}
            }
            (program, frame)
        })
}

/// Whether something left the gateway.
fn is_sent(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Egress { .. } | Verdict::Reflect(_) => true,
        // What a worker opens or keeps is judged later.
        Verdict::Worker { path, .. } => {
            !matches!(path, Path::WanEsp | Path::WanFragment | Path::CoreFragment)
        }
        Verdict::Pass(_) => false,
    }
}

fn any_end() -> impl Strategy<Value = ([u8; 4], u16)> {
    (
        prop_oneof![Just(TERMINAL), Just([192, 168, 1, 11])],
        1u16..=u16::MAX,
    )
}

fn any_packet() -> impl Strategy<Value = Clear> {
    let server = ([203, 0, 113, 0u8], 1u16..=u16::MAX);
    let destination = (Just(server.0), any::<u8>(), server.1).prop_map(|(mut address, last, port)| {
        address[3] = last;
        (address, port)
    });
    let kind = prop_oneof![Just(0u8), Just(1), Just(2)];
    (any_end(), destination, kind, any::<bool>(), 0usize..100, 2u8..).prop_map(
        |(source, destination, kind, checksum, length, ttl)| {
            let clear = match kind {
                0 => Clear::tcp(source, destination, 2),
                1 => Clear::udp(source, destination).data(length),
                _ => Clear::ping(source.0, source.1, destination.0),
            };
            (if checksum { clear } else { clear.without_checksum() }).ttl(ttl)
        },
    )
}

/// A world in which everything is allowed.
fn open_world() -> HostTables {
    let mut tables = world::world(NOW_S);
    let any = Rule {
        destination_mask: [0; 4],
        ..world::allow(0, [0; 4], 0, 0)
    };
    tables.rules = Some((1, vec![any]));
    tables.next_hops.retain(|(length, _, _)| *length == 24);
    tables.settings = Some(gateway_common::abi::interface::Settings {
        port_low: 1,
        ..world::SETTINGS
    });
    tables
}

/// The answer that a server gives to a packet that reached it.
fn mirror(packet: &Clear) -> Clear {
    let answer = packet.clone().from(packet.destination).to(packet.source).ttl(64);
    match packet.payload {
        gateway_tests::frames::Payload::Tcp { .. } => Clear::tcp(answer.source, answer.destination, 0x12),
        gateway_tests::frames::Payload::Udp { .. } | gateway_tests::frames::Payload::Other { .. } => answer,
        gateway_tests::frames::Payload::Echo { .. } => {
            Clear::pong(answer.source.0, answer.destination.0, answer.destination.1)
        }
    }
}

/// Source (or destination) end of a packet in a frame; an ICMP identifier is a port.
fn end(frame: &[u8], source: bool) -> ([u8; 4], u16) {
    let packet = &frame[14..];
    let (address, mut port) = if source { (12, 20) } else { (16, 22) };
    if packet[9] == 1 {
        port = 24;
    }
    let address = [
        packet[address],
        packet[address + 1],
        packet[address + 2],
        packet[address + 3],
    ];
    (address, u16::from_be_bytes([packet[port], packet[port + 1]]))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Property: arbitrary bytes never panic, and nothing is sent without a flow that a rule allowed.
    #[test]
    fn arbitrary_bytes_are_never_sent(program in program(), frame in proptest::collection::vec(any::<u8>(), 0..200)) {
        let tables = world::world(NOW_S);
        let (outcome, _) = program.run(&frame, &tables);
        prop_assert!(!outcome.is_ok_and(is_sent) || !tables.flow_list().is_empty());
    }

    /// Property: without rules nothing is sent, whatever comes.
    #[test]
    fn without_rules_nothing_is_sent((program, frame) in damaged()) {
        let mut tables = world::world(NOW_S);
        tables.rules = Some((1, vec![]));
        let (outcome, _) = program.run(&frame, &tables);
        prop_assert!(!outcome.is_ok_and(is_sent), "{outcome:?}");
        prop_assert!(tables.flow_list().is_empty() && tables.mapping_list().is_empty());
    }

    /// Property: a dropped or passed frame is not changed.
    #[test]
    fn what_is_not_sent_is_not_changed((program, frame) in damaged()) {
        let (outcome, after) = program.run(&frame, &world::world(NOW_S));
        // A fragment for a worker has a link header, nothing else.
        let kept = match outcome {
            Ok(Verdict::Worker { path: Path::CoreFragment, .. }) => 14,
            _ => 0,
        };
        prop_assert!(outcome.is_ok_and(is_sent) || after[kept..] == frame[kept..]);
    }

    /// Model: a packet goes out and its mirror comes back to where the packet came from, with valid checksums, TTL
    /// decremented and the payload untouched.
    #[test]
    fn an_answer_returns_to_its_sender(clear in any_packet()) {
        let tables = open_world();
        let frame = clear.linked(SITE, SA_INDEX);
        let (outcome, sent) = Program::Clear.run(&frame, &tables);
        prop_assert!(outcome.is_ok(), "{outcome:?}");
        prop_assert!(checksums_are_valid(&sent[14..]));
        let nat = end(&sent, true);
        prop_assert_eq!(nat.0, NAT);
        let expected = clear.clone().from(nat).forwarded().ethernet(world::MAC_HOP, world::MAC);
        prop_assert_eq!(&sent, &expected);

        let answer = mirror(&clear.clone().from(nat));
        let (outcome, received) = Program::Core.run(&answer.ethernet(world::MAC, world::MAC_HOP), &tables);
        prop_assert!(outcome.is_ok(), "{outcome:?}");
        prop_assert!(checksums_are_valid(&received[14..]));
        prop_assert_eq!(received, answer.to(clear.source).forwarded().linked(SITE, SA_INDEX));
    }

    /// Model: mappings are endpoint-independent and injective: one inside endpoint has one outside endpoint for all
    /// destinations, and no two share one (RFC 4787 REQ-1), also when few ports are left.
    #[test]
    fn mappings_are_a_bijection(
        packets in proptest::collection::vec((any_packet(), any::<bool>()), 1..40),
        span in 4u16..20,
    ) {
        let mut tables = open_world();
        let settings = tables.settings.as_mut().unwrap();
        (settings.port_low, settings.port_high) = (40_000, 40_000 + span);
        let mut outside_of = BTreeMap::new();
        let mut inside_of = BTreeMap::new();
        for (clear, first_site) in packets {
            let site = if first_site { SITE } else { SITE_OTHER };
            let frame = clear.linked(site, SA_INDEX);
            let protocol = frame[14 + 9];
            let (outcome, sent) = Program::Clear.run(&frame, &tables);
            match outcome {
                Ok(Verdict::Worker { .. }) => {
                    // Told that there is no port left.
                    prop_assert_eq!(tables.drops.take(), BTreeMap::from([(DropReason::NatExhausted, 1)]));
                }
                Ok(_) => {
                    let inside = (site, protocol, clear.source);
                    let outside = (protocol, end(&sent, true));
                    // Identifiers of ICMP queries are no ports: the range is not theirs.
                    prop_assert!(protocol == 1 || (40_000..=40_000 + span).contains(&outside.1.1));
                    prop_assert_eq!(*outside_of.entry(inside).or_insert(outside), outside);
                    prop_assert_eq!(*inside_of.entry(outside).or_insert(inside), inside);
                }
                Err(reason) => prop_assert_eq!(reason, DropReason::NatExhausted),
            }
        }
    }

    /// Property: whatever the center sends, no segment without a flow passes, and its SYN alone only while the site's own
    /// is not answered (simultaneous open, RFC 5382 REQ-2).
    #[test]
    fn the_center_never_opens_a_connection(
        flags in proptest::collection::vec((any::<bool>(), 0u8..64), 0..30),
    ) {
        let tables = open_world();
        let (site, server) = ((TERMINAL, 50_000), ([203, 0, 113, 1], 80));
        for (out, flags) in flags {
            if out {
                let frame = Clear::tcp(site, server, flags).linked(SITE, SA_INDEX);
                let _ = Program::Clear.run(&frame, &tables);
                continue;
            }
            let flow = tables.flow_list().into_values().next();
            let opens = flow.is_some_and(|flow| {
                match flow.progress.state {
                    state::TCP_SYN_SENT | state::TCP_SYN_SENT_BOTH => true,
                    // Sent again, because the site's answer was lost.
                    state::TCP_SYN_RECEIVED => flow.progress.flags & SIMULTANEOUS != 0,
                    _ => false,
                }
            });
            let frame = Clear::tcp(server, (NAT, 50_000), flags).ethernet(world::MAC, world::MAC_HOP);
            let (outcome, _) = Program::Core.run(&frame, &tables);
            prop_assert!(outcome.is_err() || (flow.is_some() && (flags & 0x12 != 0x02 || opens)));
        }
    }

    /// Model: the state of a TCP flow is what a list of its FINs and RSTs says. Segments are sent again and again, in the
    /// window; the reset is the one that its receiver expects.
    #[test]
    fn tcp_closes_by_two_fins_or_a_reset(flags in proptest::collection::vec((any::<bool>(), prop_oneof![
        6 => Just(0x10u8), 1 => Just(0x11), 1 => Just(0x14)
    ]), 0..12)) {
        let tables = open_world();
        let (site, server) = ((TERMINAL, 50_000), ([203, 0, 113, 1], 80));
        let run = |out: bool, flags: u8| {
            let (program, frame) = if out {
                (Program::Clear, Clear::tcp(site, server, flags).linked(SITE, SA_INDEX))
            } else {
                let frame = Clear::tcp(server, (NAT, 50_000), flags).ethernet(world::MAC, world::MAC_HOP);
                (Program::Core, frame)
            };
            program.run(&frame, &tables).0
        };
        for (out, flags) in [(true, 0x02), (false, 0x12), (true, 0x10)] {
            prop_assert!(run(out, flags).is_ok());
        }
        let (mut fin_out, mut fin_in, mut reset) = (false, false, false);
        for (out, flags) in flags {
            prop_assert!(run(out, flags).is_ok());
            reset |= flags & 0x04 != 0;
            if flags & 0x01 != 0 {
                if out { fin_out = true } else { fin_in = true }
            }
        }
        let expected = match (reset, fin_out, fin_in) {
            (true, _, _) => state::TCP_CLOSED,
            (_, true, true) => state::TCP_TIME_WAIT,
            (_, false, false) => state::TCP_ESTABLISHED,
            _ => state::TCP_FIN,
        };
        let flows = tables.flow_list();
        prop_assert_eq!(flows.values().next().map(|flow| flow.progress.state), Some(expected));
    }

    /// Model: rules are what a straightforward reading of the file gives.
    #[test]
    fn the_first_matching_rule_decides(
        rules in proptest::collection::vec((0u8..3, 0u8..4, 0u16..4, any::<bool>(), 0u64..4, 0u32..3), 0..12),
        last in 0u8..4,
        port in 1u16..4,
        first_site in any::<bool>(),
    ) {
        let compiled: Vec<Rule> = (0..).zip(&rules).map(|(index, (protocol, last, port, allowed, groups, site))| Rule {
            action: if *allowed { action::ALLOW } else { action::DENY },
            groups: *groups,
            site: *site,
            ..world::allow(index, [203, 0, 113, *last], [0, 6, 17][usize::from(*protocol)], *port)
        }).collect();
        let mut tables = open_world();
        tables.rules = Some((1, compiled));
        let (site, groups) = if first_site { (SITE, world::GROUP_CLINIC | 1) } else { (SITE_OTHER, 0) };
        let frame = Clear::udp((TERMINAL, 3000), ([203, 0, 113, last], port)).linked(site, SA_INDEX);
        let deciding = rules.iter().find(|(protocol, rule_last, rule_port, _, rule_groups, rule_site)| {
            [0, 2].contains(protocol)
                && *rule_last == last
                && (*rule_port == 0 || *rule_port == port)
                && (*rule_groups == 0 || *rule_groups & groups != 0)
                && (*rule_site == 0 || *rule_site == site)
        });
        let expected = match deciding {
            Some((.., true, _, _)) => Ok(()),
            Some(_) => Err(DropReason::RuleDenied),
            None => Err(DropReason::RuleDefault),
        };
        let (outcome, _) = Program::Clear.run(&frame, &tables);
        prop_assert_eq!(outcome.map(|_| ()), expected);
    }

    /// Property: a frame whose header checksum is right stays right after translation, whatever is behind it.
    #[test]
    fn translation_keeps_the_header_checksum((program, mut frame) in damaged()) {
        if program == Program::Wan || frame.len() <= 34 {
            return Ok(());
        }
        fix_ipv4(&mut frame[14..]);
        let (outcome, after) = program.run(&frame, &open_world());
        if outcome.is_ok_and(is_sent) {
            prop_assert_eq!(gateway_tests::frames::checksum(&after[14..34]), [0, 0]);
        }
    }
}

/// Host and kernel agree on verdict, reason, bytes, flows and mappings, over thousands of damaged frames.
#[test]
fn host_and_kernel_agree() -> anyhow::Result<()> {
    use gateway_tests::kernel::{Kernel, monotonic};
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    let mut kernel = Kernel::load()?;
    kernel.fill(&world::world(0))?;
    let mut runner = TestRunner::deterministic();
    let strategy = damaged();
    let mut outcomes: BTreeMap<Option<DropReason>, u32> = BTreeMap::new();
    for _ in 0..4000 {
        let (program, frame) = strategy
            .new_tree(&mut runner)
            .map_err(anyhow::Error::msg)?
            .current();
        // The kernel wants an Ethernet header at least.
        if frame.len() < 14 {
            continue;
        }
        let tables = world::world(u32::try_from(monotonic().as_secs())?);
        kernel.refill(&tables)?;
        let before = kernel.drops()?;
        let run = kernel.run(program.name(), &frame)?;
        let (outcome, after) = program.run(&frame, &tables);
        assert_eq!(
            run.code,
            xdp_code(outcome),
            "{program:?} {outcome:?} {frame:02x?}"
        );
        let dropped = kernel
            .drops()?
            .into_iter()
            .find(|(reason, count)| before.get(reason) != Some(count));
        let answered = tables.drops.borrow().keys().next().copied();
        assert_eq!(
            dropped.map(|(reason, _)| reason),
            outcome.err().or(answered),
            "{program:?} {frame:02x?}"
        );
        *outcomes.entry(outcome.err()).or_default() += 1;
        // A port below the range is replaced by a random one, and the two draw differently.
        if tables
            .outside_list()
            .iter()
            .any(|(outside, inside)| outside.port != inside.port)
        {
            continue;
        }
        assert_eq!(run.frame, after, "{program:?} {outcome:?} {frame:02x?}");
        let state = kernel.state();
        assert_eq!(state.outsides, tables.outside_list(), "{program:?} {frame:02x?}");
        // Numbers of mappings are the tables' own.
        let bare = |(key, flow): (FlowKey, Flow)| (key, Flow { mapping: 0, ..flow });
        assert!(
            state
                .flows
                .into_iter()
                .map(bare)
                .eq(tables.flow_list().into_iter().map(bare)),
            "{program:?} {frame:02x?}"
        );
    }
    assert!(
        outcomes.len() > 20,
        "the frames reach too few outcomes: {outcomes:?}"
    );
    Ok(())
}

fn xdp_code(outcome: gateway_common::path::Outcome) -> u32 {
    match outcome {
        Err(_) => 1,
        Ok(Verdict::Pass(_)) => 2,
        Ok(Verdict::Reflect(_)) => 3,
        Ok(Verdict::Worker { .. } | Verdict::Egress { .. }) => 4,
    }
}
