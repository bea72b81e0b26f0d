//! The packet vectors on the host.

use gateway_common::abi::interface::role;
use gateway_common::abi::rule::direction;
use gateway_common::drop::DropReason;
use gateway_tests::frames::{Clear, checksums_are_valid, ethernet, fragments};
use gateway_tests::vectors;
use gateway_tests::vectors::Program;
use gateway_tests::vectors::world::{MAC, MAC_HOP, NAT};

/// A clock that has run long enough for flows of the past.
const NOW_S: u32 = 100_000;

#[test]
fn vectors_hold_on_the_host() {
    let mut failures = vec![];
    for vector in vectors::all(NOW_S) {
        for (number, step) in vector.steps.iter().enumerate() {
            vector.world.drops.borrow_mut().clear();
            let (outcome, frame) = step.program.run(&step.frame, &vector.world);
            let mut dropped = vector.world.drops.borrow().clone();
            dropped.extend(outcome.err().map(|reason| (reason, 1)));
            let expected = step.expect.frame().unwrap_or(&step.frame);
            if outcome != step.expect.outcome() {
                failures.push(format!(
                    "{} [{number}]: {outcome:?}, not {:?}",
                    vector.description,
                    step.expect.outcome()
                ));
            } else if dropped != step.expect.counted().0 {
                failures.push(format!("{} [{number}]: counted {dropped:?}", vector.description));
            } else if frame != expected {
                failures.push(format!(
                    "{} [{number}]:\n got {frame:02x?}\nwant {expected:02x?}",
                    vector.description
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The expectations come from a full computation; this shows that the computation is sound.
#[test]
fn expected_frames_have_valid_checksums() {
    let mut checked = 0;
    for vector in vectors::all(NOW_S) {
        for step in vector.steps {
            let of_wan = step.program == gateway_tests::vectors::Program::Wan;
            let is_whole = |frame: &[u8]| frame[20] & 0x3f == 0 && frame[21] == 0;
            if let (Some(frame), false) = (step.expect.frame(), of_wan)
                && is_whole(frame)
            {
                assert!(checksums_are_valid(&frame[14..]), "{}", vector.description);
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "only {checked} frames");
}

#[test]
fn descriptions_are_unique() {
    let vectors = vectors::all(NOW_S);
    let mut descriptions: Vec<_> = vectors
        .iter()
        .map(|vector| (vector.steps[0].program.name(), &vector.description))
        .collect();
    descriptions.sort_unstable();
    descriptions.dedup();
    assert_eq!(descriptions.len(), vectors.len());
}

/// Who is told what: a denial with its rule, a logged flow, an absent SA and an absent next hop.
#[test]
fn events_name_the_flow_and_the_rule() {
    use gateway_common::abi::event::{RULE_DEFAULT, kind};
    use gateway_common::packet::tcp::flag::SYN;
    use gateway_tests::frames::Clear;
    use gateway_tests::vectors::Program;
    use gateway_tests::vectors::world::{
        self, FORBIDDEN, NAME_SERVER, NAT, SA_INDEX, SERVER, SITE, TERMINAL,
    };

    let mut tables = world::world(NOW_S);
    let run = |tables: &_, clear: &Clear| {
        let _ = Program::Clear.run(&clear.linked(SITE, SA_INDEX), tables);
    };
    run(&tables, &Clear::tcp((TERMINAL, 2000), (FORBIDDEN, 443), SYN));
    run(&tables, &Clear::tcp((TERMINAL, 2000), (SERVER, 22), SYN));
    run(&tables, &Clear::tcp((TERMINAL, 2000), (SERVER, 443), SYN));
    run(&tables, &Clear::udp((TERMINAL, 2001), (NAME_SERVER, 53)));
    tables.sa_outbound.clear();
    let answer = Clear::udp((NAME_SERVER, 53), (NAT, 2001)).ethernet(world::MAC, world::MAC_HOP);
    let _ = Program::Core.run(&answer, &tables);
    tables.next_hops.clear();
    run(&tables, &Clear::udp((TERMINAL, 2001), (NAME_SERVER, 53)));

    let events = tables.events.borrow();
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.kind, event.rule, event.destination))
        .collect();
    assert_eq!(
        told,
        [
            (kind::DENIED, 3, FORBIDDEN),
            (kind::DENIED, RULE_DEFAULT, SERVER),
            (kind::FLOW_CREATED, 1, NAME_SERVER),
            (kind::NO_SA, 0, NAME_SERVER),
            (kind::NEXT_HOP_MISSING, 0, NAME_SERVER),
        ]
    );
    assert!(
        events
            .iter()
            .all(|event| event.site == SITE && event.source == TERMINAL)
    );
    assert_eq!(events[0].generation, world::GENERATION);
    assert_eq!(events[1].destination_port, 22u16.to_be_bytes());
}

/// Sources in the Internet may be forged, and each new one is below its own limit.
#[test]
fn fragments_of_the_internet_are_limited_for_all_sources_together() {
    let mut world = vectors::world::world(NOW_S);
    world.directions = vec![(32, NAT, direction::SITE_TO_SITE)];
    let interface = world.interface.as_mut().unwrap();
    interface.role = role::INTERNET;
    let piece = fragments(
        &Clear::udp(([8, 0, 0, 0], 53), (NAT, 1024)).data(64).packet(),
        &[32],
    )
    .remove(0);
    let mut frame = ethernet(MAC, MAC_HOP, 0x0800, &piece);
    for number in 0..100_000u32 {
        frame[26..30].copy_from_slice(&(0x0800_0000 + number).to_be_bytes());
        let (outcome, _) = Program::Core.run(&frame, &world);
        assert!(outcome.is_ok(), "{number}: {outcome:?}");
    }
    frame[26..30].copy_from_slice(&0x0900_0000u32.to_be_bytes());
    let refused = Err(DropReason::FragmentLimit);
    assert_eq!(Program::Core.run(&frame, &world).0, refused);
    world.now_s.set(NOW_S + 1);
    assert!(Program::Core.run(&frame, &world).0.is_ok(), "another second");
}

/// Regression: whatever the Internet forged of them went through the kernel's stack, at many times the cost of a drop.
#[test]
fn icmp_errors_of_all_sources_are_limited_before_the_kernel() {
    let world = vectors::world::world(NOW_S);
    let mut frame = vectors::pmtu::about_ike();
    for number in 0..1000u32 {
        frame[26..30].copy_from_slice(&(0x0800_0000 + number).to_be_bytes());
        let (outcome, _) = Program::Wan.run(&frame, &world);
        assert!(outcome.is_ok(), "{number}: {outcome:?}");
    }
    let refused = Err(DropReason::IcmpLimit);
    assert_eq!(Program::Wan.run(&frame, &world).0, refused);
    world.now_s.set(NOW_S + 1);
    assert!(Program::Wan.run(&frame, &world).0.is_ok(), "another second");
}
