//! Two endpoints under the hand of a fuzzer, who loses, repeats, reorders and alters datagrams, lets time pass, gives
//! commands, lets a side crash - and, as a peer gone bad would, alters payloads before they are sealed with the keys.
//!
//! Compiled for tests, which replay the corpus, and for `cargo xtask fuzz`; never into a product.

mod endpoints;
mod script;
mod tamper;

pub use endpoints::Recorded;
pub(crate) use tamper::tampered;

use endpoints::Pair;
use script::{Script, Step};

/// No script of a useful length has more steps.
const STEPS_MAX: usize = 300;

/// Runs a script and checks that no step, however hostile, makes an endpoint contradict itself.
///
/// # Panics
/// When one does.
pub fn session(script: &[u8]) {
    run(script);
}

/// Runs a script and returns what was sent: seeds for the targets that look at one message.
#[must_use]
pub fn recorded(script: &[u8]) -> Recorded {
    run(script).into_recorded()
}

fn run(bytes: &[u8]) -> Pair {
    tamper::disarm();
    let mut script = Script::new(bytes);
    let mut pair = Pair::new();
    for _ in 0..STEPS_MAX {
        let Some(step) = script.next_step() else { break };
        act(&mut pair, step);
    }
    // Whatever happened, two sides left to themselves come to rest.
    tamper::disarm();
    pair.settle();
    pair
}

fn act(pair: &mut Pair, step: Step) {
    match step {
        Step::DeliverFirst => drop(pair.deliver_at(0)),
        Step::DeliverLast => drop(pair.deliver_at(pair.in_flight().saturating_sub(1))),
        Step::DeliverAll => pair.deliver_all(),
        Step::Lose => pair.lose(),
        Step::Repeat => pair.repeat(),
        Step::Replay(index) => pair.replay(index),
        Step::Alter { at, change } => pair.alter(|bytes| script::alter(bytes, at, change)),
        Step::Cut(length) => pair.alter(|bytes| bytes.truncate(length)),
        Step::Wait(duration_ms) => pair.wait(duration_ms),
        Step::Command { side, kind } => pair.command(side, kind),
        Step::Tamper(edits) => tamper::arm(edits),
        Step::Inject { to, bytes } => pair.inject(to, bytes),
        Step::Traffic(side) => pair.traffic(side),
        Step::Crash(side) => pair.crash(side),
        Step::Move(port) => pair.move_site(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/ike_session");

    #[test]
    fn the_corpus_of_sessions_replays() {
        let mut replayed = 0;
        for file in std::fs::read_dir(CORPUS).expect(CORPUS) {
            let path = file.unwrap().path();
            let script = std::fs::read(&path).unwrap();
            let outcome = std::panic::catch_unwind(|| session(&script));
            assert!(outcome.is_ok(), "a session fails with {}", path.display());
            replayed += 1;
        }
        assert!(replayed > 20, "only {replayed} files in {CORPUS}");
    }

    /// A script of nothing but delivery is a set-up; one edit of what is sealed prevents it.
    #[test]
    fn the_fuzzer_reaches_established_sas_and_what_is_sealed() {
        let honest = recorded(&[script::DELIVER_ALL]);
        assert_eq!(honest.installed, 2, "both sides have a Child SA");
        assert!(honest.payloads.len() >= 2 && honest.datagrams.len() >= 4);
        let edit_auth_request = [script::TAMPER, 0, 0, 0, 60, 0xff, script::DELIVER_ALL];
        assert_eq!(recorded(&edit_auth_request).installed, 0);
    }
}
