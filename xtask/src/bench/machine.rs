//! The machine that measures: what it is, how noisy it is, and which core does what.

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::report::Side;

/// Rounds of the loop that shows the noise, and additions in each (about 3 ms).
const NOISE_ROUNDS: usize = 21;
const NOISE_LOOP: u64 = 10_000_000;

/// What a report says of the machine, before the part that it is about.
#[must_use]
pub(super) fn about() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    });
    let load = read("/proc/loadavg");
    let load: Option<f64> = load.split(' ').next().and_then(|word| word.parse().ok());
    json!({
        "cpu": model,
        "cores": cores(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average_before": load,
        "noise": noise(),
    })
}

/// One line of it.
#[must_use]
pub(super) fn line(about: &Value) -> String {
    let text = |name: &str| about[name].as_str().unwrap_or("unknown").to_owned();
    let number = |name: &str| about[name].as_f64().unwrap_or(f64::NAN);
    format!(
        "{}, {} cores, Linux {}; before: load average {:.2}, a fixed loop's time spreads over {:.0} %",
        text("cpu"),
        number("cores"),
        text("kernel"),
        number("load_average_before"),
        number("noise") * 100.0
    )
}

/// How much the time of a loop that does always the same varies.
fn noise() -> f64 {
    let times = (0..NOISE_ROUNDS).map(|_| {
        let started = Instant::now();
        let sum = (0..NOISE_LOOP).fold(0u64, |sum, number| black_box(sum.wrapping_add(number)));
        black_box(sum);
        started.elapsed().as_secs_f64()
    });
    Side::new("loop", times.collect()).spread()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Who works on which core: whoever sends on the first, where interrupts go too, and what is measured on the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// Traffic comes from here.
    Generator,
    /// The gateway's or the peer's processes, with all of their threads.
    Measured,
}

impl Core {
    /// Does `work` with this thread, and every thread and process that it starts meanwhile, on this core.
    ///
    /// # Errors
    /// The kernel refuses; or what `work` returns.
    pub fn run<T>(self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this).context("this thread's cores")?;
        let mut allowed = (0..CpuSet::count()).filter(|core| before.is_set(*core).unwrap_or(false));
        let core = match self {
            Self::Generator => allowed.next(),
            Self::Measured => allowed.next_back(),
        };
        let mut one = CpuSet::new();
        one.set(core.context("no core")?)?;
        sched_setaffinity(this, &one).with_context(|| format!("pinning to core {core:?}"))?;
        let done = work();
        sched_setaffinity(this, &before).context("unpinning")?;
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_core_and_gets_the_others_back() {
        let allowed = || {
            let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
            (0..CpuSet::count())
                .filter(|core| set.is_set(*core).unwrap())
                .collect::<Vec<_>>()
        };
        let before = allowed();
        let first = Core::Generator.run(|| Ok(allowed())).unwrap();
        let last = Core::Measured
            .run(|| Ok(std::thread::scope(|scope| scope.spawn(allowed).join().unwrap())))
            .unwrap();
        assert_eq!(first, before[..1]);
        assert_eq!(last, before[before.len() - 1..]);
        assert_eq!(allowed(), before);
    }

    #[test]
    fn the_machine_is_named_in_one_line() {
        let about =
            json!({ "cpu": "EPYC", "cores": 2, "kernel": "6.18", "load_average_before": 0.5, "noise": 0.1 });
        assert_eq!(
            line(&about),
            "EPYC, 2 cores, Linux 6.18; before: load average 0.50, a fixed loop's time spreads over 10 %"
        );
    }
}
