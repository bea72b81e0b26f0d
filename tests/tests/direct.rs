//! The packet vectors through the direct engine: what a worker decides by itself is what the programs would have decided, and
//! what it leaves to them it leaves as it was.

use std::collections::BTreeMap;

use gateway::dataplane::{Direct, Egress, Way};
use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::drop::DropReason;
use gateway_common::packet::{Buffer, Slice};
use gateway_common::path::{Outcome, direct};
use gateway_common::tables::host::HostTables;
use gateway_tests::kernel::Kernel;
use gateway_tests::vectors::{self, Expect, Program, Vector, world};

const NOW_S: u32 = 100_000;
/// The worker's port on the interface that leads to the center.
const PORT: usize = 7;
const XDP_DROP: u32 = 1;

/// Frames by what a worker did with them.
#[derive(Debug, Default)]
struct Tally {
    forwarded: u32,
    dropped: u32,
    left: u32,
}

impl Tally {
    /// There were enough of each kind to show something.
    fn check(&self) {
        let enough = self.forwarded > 30 && self.dropped > 30 && self.left > 100;
        assert!(enough, "{self:?}");
    }
}

/// What the direct engine's part of the packet core makes of a frame.
fn decide(frame: &[u8], tables: &HostTables) -> (Result<Option<Outcome>, DropReason>, Vec<u8>) {
    let mut bytes = frame.to_vec();
    let mut packet = Slice::new(&mut bytes);
    let decided = direct::read(&packet).and_then(|parsed| match parsed {
        Some(parsed) => Ok(direct::pass(&mut packet, tables, &parsed)?.map(Ok)),
        None => Ok(None),
    });
    (decided, bytes)
}

/// What is wrong with one step on the host, if anything.
fn check_on_host(
    frame: &[u8],
    by_worker: &HostTables,
    by_program: &HostTables,
    tally: &mut Tally,
) -> Option<String> {
    let before: BTreeMap<FlowKey, Flow> = by_worker.flow_list();
    let (decided, bytes) = decide(frame, by_worker);
    let (outcome, expected) = Program::Clear.run(frame, by_program);
    let (after, flows) = (by_worker.flow_list(), by_program.flow_list());
    match decided {
        Ok(None) => {
            tally.left += 1;
            (bytes != frame || after != before).then(|| "was left to the programs, changed".to_owned())
        }
        Ok(Some(decided)) => {
            tally.forwarded += 1;
            (decided != outcome || bytes != expected || after != flows).then(|| {
                format!("{decided:?}, not {outcome:?}:\n got {bytes:02x?}\nwant {expected:02x?}\n{after:?}\n{flows:?}")
            })
        }
        Err(reason) => {
            tally.dropped += 1;
            (outcome != Err(reason) || bytes != frame || after != flows)
                .then(|| format!("{reason:?}, not {outcome:?}"))
        }
    }
}

#[test]
fn a_worker_decides_as_the_programs_do_or_leaves_everything_as_it_was() {
    let mut tally = Tally::default();
    let mut failures = vec![];
    for vector in vectors::all(NOW_S) {
        for (number, step) in vector.steps.iter().enumerate() {
            let (by_worker, world) = (vector.world.clone(), &vector.world);
            if step.program != Program::Clear {
                let _ = step.program.run(&step.frame, world);
            } else if let Some(failure) = check_on_host(&step.frame, &by_worker, world, &mut tally) {
                failures.push(format!("{} [{number}]: {failure}", vector.description));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    tally.check();
}

/// Runs a vector in the kernel, with a worker in front of `clear` that has the kernel's maps.
fn run_vector(kernel: &mut Kernel, vector: &Vector, tally: &mut Tally) -> anyhow::Result<Vec<String>> {
    kernel.fill(&vector.world)?;
    let egress = Egress {
        ifindex: world::EGRESS,
        port: PORT,
        frame_max: 14 + 1500,
    };
    let mut worker = Direct::new(kernel.shared_tables(), vec![egress]);
    let mut failures = vec![];
    for (number, step) in (0u64..).zip(&vector.steps) {
        // Long enough apart for a flow to be settled.
        worker.begin_round((number + 1) * 1000);
        let mut bytes = step.frame.clone();
        let way = if step.program == Program::Clear {
            let looked = worker.look(&mut bytes);
            worker.forward(&mut bytes, &looked)
        } else {
            Way::Link
        };
        let expected = step.expect.frame().unwrap_or(&step.frame);
        let right = match (way, &step.expect) {
            (Way::Out(port), Expect::Egress(_)) => {
                tally.forwarded += 1;
                port == PORT && bytes == expected
            }
            (Way::Drop(reason), Expect::Drop(expected)) => {
                tally.dropped += 1;
                reason == *expected
            }
            (Way::Link, expect) => {
                tally.left += 1;
                let run = kernel.run(step.program.name(), &bytes)?;
                let is_drop = matches!(expect, Expect::Drop(_));
                bytes == step.frame && run.frame == expected && (run.code == XDP_DROP) == is_drop
            }
            (Way::Out(_) | Way::Drop(_), _) => false,
        };
        if !right {
            let words = &vector.description;
            failures.push(format!("{words} [{number}]: {way:?}, not {:?}", step.expect));
        }
    }
    Ok(failures)
}

/// The same over the maps of the programs that take what is left to them; needs root.
#[test]
fn vectors_hold_with_a_worker_in_front_of_the_programs() -> anyhow::Result<()> {
    let mut kernel = Kernel::load()?;
    let mut tally = Tally::default();
    let mut failures = vec![];
    let is_clear = |step: &vectors::Step| step.program == Program::Clear;
    // The programs' clock is in a map that the world fills.
    for vector in vectors::all(NOW_S) {
        if vector.steps.iter().any(is_clear) {
            failures.extend(run_vector(&mut kernel, &vector, &mut tally)?);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    tally.check();
    Ok(())
}

/// A frame that the packet core reads in a worker's memory is the one that it reads in a buffer of its own.
#[test]
fn a_frame_in_place_reads_as_a_copied_one() {
    for vector in vectors::all(NOW_S) {
        for step in vector.steps {
            let mut bytes = step.frame.clone();
            let in_place = direct::read(&Slice::new(&mut bytes));
            let copied = direct::read(&Buffer::new(&step.frame));
            let seen = |parsed: direct::Parsed| (parsed.site, parsed.inner.flow_from_site(parsed.site));
            assert_eq!(
                in_place.map(|parsed| parsed.map(seen)),
                copied.map(|parsed| parsed.map(seen)),
                "{}",
                vector.description
            );
        }
    }
}
