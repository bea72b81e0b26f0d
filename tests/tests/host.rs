//! The packet vectors on the host.

use gateway_tests::frames::checksums_are_valid;
use gateway_tests::vectors::{self, Expect};

/// A clock that has run long enough for flows of the past.
const NOW_S: u32 = 100_000;

#[test]
fn vectors_hold_on_the_host() {
    let mut failures = vec![];
    for vector in vectors::all(NOW_S) {
        for (number, step) in vector.steps.iter().enumerate() {
            let (outcome, frame) = step.program.run(&step.frame, &vector.world);
            let expected = step.expect.frame().unwrap_or(&step.frame);
            if outcome != step.expect.outcome() {
                failures.push(format!(
                    "{} [{number}]: {outcome:?}, not {:?}",
                    vector.description,
                    step.expect.outcome()
                ));
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
            if let (Some(frame), false) = (
                step.expect.frame(),
                matches!(
                    step.expect,
                    Expect::Worker(gateway_common::abi::stats::Path::WanEsp, _)
                ),
            ) {
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
