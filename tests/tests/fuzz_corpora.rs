//! The fuzzer's corpora, replayed: what it found once is never lost again. Sessions are replayed in `gateway-ike`.

use std::fs;
use std::path::PathBuf;

use gateway_tests::fuzz::{TARGETS, fragments};
use proptest::prelude::*;

fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| file.unwrap().path()).collect()
}

#[test]
fn every_corpus_replays() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(files.len() > 10, "{name}: a corpus of {} files", files.len());
        for file in files {
            let input = fs::read(&file).unwrap();
            if std::panic::catch_unwind(|| target(&input)).is_err() {
                panic!("{name} fails with {}", file.display());
            }
        }
    }
}

/// A target without a program in `tests/fuzz` is never fuzzed.
#[test]
fn every_target_has_its_program() {
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml")).unwrap();
    for (name, _) in TARGETS
        .into_iter()
        .chain([("ike_session", (|_| {}) as fn(&[u8]))])
    {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}

/// A step of the `fragments` target: mostly pieces of few packets that lie close together, and now and then time.
fn step() -> impl Strategy<Value = Vec<u8>> {
    let piece = (
        0u8..32,
        0u8..4,
        0u8..2,
        0u16..10,
        prop_oneof![8 => (1u16..4).prop_map(|units| units * 8), 1 => 0u16..40],
        prop_oneof![6 => Just(0u8), 1 => 1u8..4],
    );
    let piece = piece.prop_map(|(kind, who, identification, place, length, fill)| {
        let numbers = [place.to_be_bytes(), length.to_be_bytes()].concat();
        [&[kind, who | 0x10, identification][..], &numbers, &[fill]].concat()
    });
    let time = (0u8..8).prop_map(|seconds| vec![0xe0, seconds]);
    prop_oneof![30 => piece, 1 => time]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Property: whatever fragments come in whatever order, a worker gives what a naive reassembly gives.
    #[test]
    fn random_fragments_give_what_a_naive_reassembly_gives(
        tight in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        fragments(&[vec![u8::from(tight)], steps.concat()].concat());
    }
}
