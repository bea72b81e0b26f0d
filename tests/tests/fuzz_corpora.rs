//! The fuzzer's corpora, replayed: what it found once is never lost again. Sessions are replayed in `gateway-ike`.

use std::fs;
use std::path::PathBuf;

use gateway_tests::fuzz::TARGETS;

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
