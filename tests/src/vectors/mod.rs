//! Packet vectors: each is a world and the frames that come into it, with what must become of them. The same list runs
//! on the host, in the kernel by `BPF_PROG_TEST_RUN`, and over veth pairs.

mod answer;
mod between;
pub mod blocks;
mod center_calls;
mod clear;
mod core;
mod directions;
mod errors;
mod fragments;
mod hairpin;
mod mss;
pub mod nat;
mod next_hop;
pub mod pmtu;
mod queries;
mod wan;
pub mod world;

use std::collections::BTreeMap;

use gateway_common::abi::stats::Path;
use gateway_common::abi::trace::point;
use gateway_common::drop::DropReason;
use gateway_common::packet::{Buffer, Packet as _};
use gateway_common::path::clear::Next;
use gateway_common::path::open::Stage;
use gateway_common::path::trace::{self, End};
use gateway_common::path::{self, Outcome, Verdict};
use gateway_common::tables::Tables as _;
use gateway_common::tables::host::HostTables;

/// The program that a frame comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Outer interface.
    Wan,
    /// Clear link.
    Clear,
    /// Core interface.
    Core,
}

impl Program {
    /// Name of the program in the object.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wan => "wan",
            Self::Clear => "clear",
            Self::Core => "core",
        }
    }

    /// Runs the packet core as the shell does.
    pub fn run(self, frame: &[u8], tables: &HostTables) -> (Outcome, Vec<u8>) {
        let mut buffer = Buffer::new(frame);
        let outcome = match self {
            Self::Wan => path::wan::wan(&mut buffer, tables),
            Self::Clear => stages(&mut buffer, tables, Stage::Forward),
            Self::Core => stages(&mut buffer, tables, Stage::Core),
        };
        // Stages tell for themselves.
        if self == Self::Wan && trace::is_on(tables) {
            trace::tell(&buffer, tables, End::of(point::WAN, outcome));
        }
        if let Ok(verdict) = outcome {
            tables.count(verdict.path(), buffer.len());
        }
        (outcome, buffer.bytes().to_vec())
    }
}

/// The stages from one on, as the shell runs them one after another.
fn stages(buffer: &mut Buffer, tables: &HostTables, first: Stage) -> Outcome {
    path::clear::stages(buffer, tables, first, |buffer, stage, next| {
        if trace::is_on(tables) {
            let point = point::of_stage(stage as u32);
            let end = match next {
                Ok(Next::Stage(next)) => End::stage(point, next),
                Ok(Next::Decided(verdict)) => End::of(point, Ok(verdict)),
                Err(reason) => End::of(point, Err(reason)),
            };
            trace::tell(buffer, tables, end);
        }
    })
}

/// What must become of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Dropped for this reason.
    Drop(DropReason),
    /// To the kernel, unchanged.
    Pass(Path),
    /// To the worker, as this frame.
    Worker(Path, Vec<u8>),
    /// Out of the egress interface, as this frame.
    Egress(Vec<u8>),
    /// Back to where it came from, as this frame.
    Reflect(Vec<u8>),
    /// Dropped for this reason, and its site told so by this frame to the worker.
    Answer(DropReason, Vec<u8>),
    /// Dropped for this reason, and the center told so by this frame.
    CenterAnswer(DropReason, Vec<u8>),
}

impl Expect {
    /// The frame that must come out, if another than what went in is said.
    #[must_use]
    pub fn frame(&self) -> Option<&[u8]> {
        match self {
            Self::Worker(_, frame)
            | Self::Answer(_, frame)
            | Self::CenterAnswer(_, frame)
            | Self::Egress(frame)
            | Self::Reflect(frame) => Some(frame),
            Self::Drop(_) | Self::Pass(_) => None,
        }
    }

    /// The packet core's outcome that this is.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Drop(reason) => Err(*reason),
            Self::Pass(path) => Ok(Verdict::Pass(*path)),
            Self::Worker(path, _) => Ok(Verdict::Worker {
                slot: world::XSK_BASE,
                path: *path,
            }),
            Self::Egress(_) => Ok(Verdict::Egress {
                ifindex: world::EGRESS,
                path: Path::ClearForwarded,
            }),
            Self::Reflect(_) => Ok(Verdict::Reflect(Path::CoreTooBig)),
            Self::CenterAnswer(..) => Ok(Verdict::Reflect(Path::CenterAnswered)),
            Self::Answer(..) => Ok(Verdict::Worker {
                slot: world::XSK_BASE,
                path: Path::SiteAnswered,
            }),
        }
    }

    /// What must be counted: a drop, a path, or both.
    #[must_use]
    pub fn counted(&self) -> (BTreeMap<DropReason, u64>, Option<Path>) {
        let drops = match self {
            Self::Drop(reason) | Self::Answer(reason, _) | Self::CenterAnswer(reason, _) => {
                BTreeMap::from([(*reason, 1)])
            }
            Self::Pass(_) | Self::Worker(..) | Self::Egress(_) | Self::Reflect(_) => BTreeMap::new(),
        };
        (drops, self.outcome().ok().map(Verdict::path))
    }
}

/// One frame and what must become of it.
#[derive(Clone, Debug)]
pub struct Step {
    /// The program it comes to.
    pub program: Program,
    /// The frame.
    pub frame: Vec<u8>,
    /// What must become of it.
    pub expect: Expect,
}

/// Frames that come one after the other into one world.
#[derive(Clone, Debug)]
pub struct Vector {
    /// What is shown.
    pub description: String,
    /// The world before the first frame.
    pub world: HostTables,
    /// The frames.
    pub steps: Vec<Step>,
}

impl Vector {
    /// A vector of one frame in the usual world.
    #[must_use]
    pub fn single(description: &str, now_s: u32, program: Program, frame: Vec<u8>, expect: Expect) -> Self {
        let step = Step {
            program,
            frame,
            expect,
        };
        Self {
            description: description.to_owned(),
            world: world::world(now_s),
            steps: vec![step],
        }
    }
}

/// Vectors by subject; each is a function of the clock.
const SUBJECTS: [fn(u32) -> Vec<Vector>; 16] = [
    wan::vectors,
    pmtu::vectors,
    next_hop::vectors,
    clear::vectors,
    core::vectors,
    errors::vectors,
    fragments::vectors,
    mss::vectors,
    blocks::vectors,
    answer::vectors,
    directions::vectors,
    hairpin::vectors,
    between::vectors,
    queries::vectors,
    center_calls::vectors,
    nat::vectors,
];

/// All vectors; `now_s` is the clock that they run by.
#[must_use]
pub fn all(now_s: u32) -> Vec<Vector> {
    SUBJECTS.iter().flat_map(|subject| subject(now_s)).collect()
}

/// All vectors for a clock that goes on while they run one after another.
#[derive(Debug, Default)]
pub struct Fresh {
    now_s: u32,
    vectors: Vec<Vector>,
}

impl Fresh {
    /// The vector of this number as it is now, if there are so many.
    pub fn get(&mut self, index: usize, now_s: u32) -> Option<&Vector> {
        if self.now_s != now_s {
            (self.now_s, self.vectors) = (now_s, all(now_s));
        }
        self.vectors.get(index)
    }
}
