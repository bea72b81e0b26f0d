//! Frames into each XDP program's packet core, over tables in memory.

use gateway_common::abi::sa::{LinkHeader, fragment};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason;
use gateway_common::path::Verdict;
use gateway_common::tables::host::HostTables;
use zerocopy::FromBytes as _;

use super::Input;
use crate::frames::{checksum, checksums_are_valid};
use crate::vectors::Program;
use crate::vectors::world::{self, NAT, NAT_OTHER};

const NOW_S: u32 = 100_000;
/// Length of an Ethernet header and of the clear link's.
const LINK: usize = 14;
/// Frames of one run at most: later ones meet the flows of earlier ones.
const FRAMES_MAX: usize = 20;

/// Frames from outside, each with its length in front.
///
/// # Panics
/// When one that is passed on is not as it came.
pub fn packet_wan(input: &[u8]) {
    each(input, |tables, frame| {
        let (outcome, after) = Program::Wan.run(frame, tables);
        match outcome {
            Ok(
                Verdict::Pass(_)
                | Verdict::Worker {
                    path: Path::WanEsp | Path::WanFragment,
                    ..
                },
            ) => assert_eq!(after, frame),
            Ok(other) => panic!("{other:?} of a frame from outside"),
            Err(reason) => is_named(reason),
        }
    });
}

/// Decrypted frames with the clear link's header.
///
/// # Panics
/// When one leaves for the center with an address that is no site's, or with a checksum that it broke.
pub fn packet_clear(input: &[u8]) {
    each(input, |tables, frame| {
        let (outcome, after) = Program::Clear.run(frame, tables);
        match outcome {
            Ok(Verdict::Egress { ifindex, .. }) => {
                assert_eq!(ifindex, world::EGRESS);
                assert_eq!(after.len(), frame.len());
                let source = &after[LINK + 12..LINK + 16];
                assert!(
                    source == NAT || source == NAT_OTHER,
                    "a site's own address leaves"
                );
                assert_eq!(after[LINK + 8], frame[LINK + 8] - 1, "TTL");
                keeps_checksums(frame, &after);
                answer(tables, &after);
            }
            Ok(Verdict::Pass(_)) => assert_eq!(after, frame),
            Ok(Verdict::Worker {
                path: Path::CoreForwarded,
                ..
            }) => {
                let is_of_center =
                    matches!(mark(frame), Some(fragment::CENTER_FIRST | fragment::CENTER_LATER));
                assert!(is_of_center, "a packet from the clear link came back to a site");
                to_its_site(frame, &after);
            }
            Ok(Verdict::Worker { path, .. }) => {
                // No site is translated to what another may call here.
                assert_eq!(path, Path::SiteAnswered);
                answers(frame, &after);
            }
            Ok(other) => panic!("{other:?} of a site's packet"),
            Err(reason) => is_named(reason),
        }
    });
}

/// Frames from the center. The first may be a site's packet that makes a flow.
///
/// # Panics
/// When one is sent to a site that did not ask for it, or with a checksum that it broke.
pub fn packet_core(input: &[u8]) {
    let asked = crate::frames::Clear::udp((world::TERMINAL, 2001), (world::NAME_SERVER, 53));
    each(input, |tables, frame| {
        if tables.flow_list().is_empty() {
            let (outcome, sent) = Program::Clear.run(&asked.linked(world::SITE, world::SA_INDEX), tables);
            assert!(outcome.is_ok() && sent.len() > LINK);
        }
        let flows = tables.flow_list().len();
        from_center(tables, frame);
        assert_eq!(
            tables.flow_list().len(),
            flows,
            "a packet from the center made a flow"
        );
    });
}

fn from_center(tables: &HostTables, frame: &[u8]) {
    let (outcome, after) = Program::Core.run(frame, tables);
    match outcome {
        // Nothing of it is judged yet.
        Ok(Verdict::Worker {
            path: Path::CoreFragment,
            ..
        }) => {
            assert_eq!(mark(&after), Some(fragment::CENTER_WAITS));
            assert_eq!(after[LINK..], frame[LINK..]);
        }
        Ok(Verdict::Worker { path, .. }) => {
            assert_eq!(path, Path::CoreForwarded);
            to_its_site(frame, &after);
        }
        Ok(Verdict::Reflect(_)) => {
            assert!(checksums_are_valid(&after[LINK..]), "the answer's checksum");
            assert_eq!(
                after[LINK + 16..LINK + 20],
                frame[LINK + 12..LINK + 16],
                "not to the sender"
            );
        }
        Ok(Verdict::Pass(_)) => assert_eq!(after, frame),
        Ok(other @ Verdict::Egress { .. }) => panic!("{other:?} of a packet from the center"),
        Err(reason) => is_named(reason),
    }
}

/// A packet of the center, translated.
fn to_its_site(frame: &[u8], after: &[u8]) {
    assert_eq!(after[LINK + 16..LINK + 19], [192, 168, 1], "not to the site");
    assert_eq!(after[LINK + 8], frame[LINK + 8] - 1, "TTL");
    keeps_checksums(frame, after);
}

/// What a link header says of a fragment.
fn mark(frame: &[u8]) -> Option<[u8; 2]> {
    let (link, _) = LinkHeader::read_from_prefix(frame).ok()?;
    link.read_fragment().map(|(kind, _, _)| kind)
}

/// An answer goes to the packet's sender, from where the packet was sent to, and is small.
fn answers(frame: &[u8], after: &[u8]) {
    assert!(checksums_are_valid(&after[LINK..]), "the answer's checksum");
    assert_eq!(after[LINK + 12..LINK + 16], frame[LINK + 16..LINK + 20]);
    assert_eq!(after[LINK + 16..LINK + 20], frame[LINK + 12..LINK + 16]);
    assert!(
        after.len() <= LINK + 56 && after[..6] == frame[..6],
        "to another site"
    );
}

/// What the center answers to a packet that has reached it comes back or is dropped, and breaks nothing.
fn answer(tables: &HostTables, sent: &[u8]) {
    let mut answer = sent.to_vec();
    let swap = |answer: &mut [u8], one: usize, other: usize, length: usize| {
        for at in 0..length {
            answer.swap(one + at, other + at);
        }
    };
    swap(&mut answer, 0, 6, 6);
    swap(&mut answer, LINK + 12, LINK + 16, 4);
    if matches!(answer[LINK + 9], 6 | 17) {
        swap(&mut answer, LINK + 20, LINK + 22, 2);
    }
    from_center(tables, &answer);
}

fn each(input: &[u8], mut run: impl FnMut(&HostTables, &[u8])) {
    let tables = world::world(NOW_S);
    let mut input = Input(input);
    for _ in 0..FRAMES_MAX {
        let Some(frame) = input.piece() else { return };
        run(&tables, frame);
    }
}

/// The checksums that were right stay right.
fn keeps_checksums(before: &[u8], after: &[u8]) {
    let length = |frame: &[u8]| usize::from(u16::from_be_bytes([frame[LINK + 2], frame[LINK + 3]]));
    let packet = |frame: &[u8]| frame[LINK..LINK + length(frame)].to_vec();
    // What a later fragment carries is no transport header.
    let is_later = before[LINK + 6] & 0x1f != 0 || before[LINK + 7] != 0;
    if is_later {
        assert_eq!(
            checksum(&before[LINK..LINK + 20]) == [0; 2],
            checksum(&after[LINK..LINK + 20]) == [0; 2],
            "the header's checksum"
        );
    } else if checksums_are_valid(&packet(before)) {
        assert!(
            checksums_are_valid(&packet(after)),
            "a checksum was right and is not"
        );
    }
}

/// A reason that the operator can look up.
fn is_named(reason: DropReason) {
    assert!(!reason.name().is_empty());
}
