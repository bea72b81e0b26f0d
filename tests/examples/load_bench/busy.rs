//! How much of its core what is measured uses.

use std::fs;

use anyhow::Result;
use gateway_tests::cpu_time;
use xtask::lab::state;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measured {
    /// The processes in the gateway's place, with all of their threads.
    Processes,
    /// A thread of this process.
    Thread(i32),
}

/// What the lab calls the processes in the gateway's place: `gateway`, `gateway-charon`.
const PREFIX: &str = "gateway";
/// The kernel's thread that work of a core is put off to; the measured core is the last.
const PUT_OFF: &str = "ksoftirqd/";

impl Measured {
    /// CPU time so far. What the kernel does on the same core meanwhile is in it: sending, and receiving at the other
    /// end of the cable. Threads that run at the moment are behind by up to a tick.
    pub(crate) fn cpu_ns(self) -> Result<u64> {
        let own = match self {
            Self::Processes => {
                let processes = state::processes();
                let ours = processes
                    .iter()
                    .filter(|process| process.name.starts_with(PREFIX));
                ours.map(|process| cpu_time::of_process(process.pid))
                    .sum::<Result<u64>>()?
            }
            Self::Thread(thread) => cpu_time::of_thread(&format!("/proc/self/task/{thread}"))?[0],
        };
        Ok(own + put_off_ns()?)
    }
}

fn put_off_ns() -> Result<u64> {
    let last = std::thread::available_parallelism()?.get() - 1;
    let wanted = format!("{PUT_OFF}{last}");
    for process in fs::read_dir("/proc")? {
        let folder = process?.path();
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        if name.trim_end() == wanted {
            return Ok(cpu_time::of_thread(&folder.display().to_string())?[0]);
        }
    }
    Ok(0)
}
