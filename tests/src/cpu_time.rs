//! CPU time that threads have used so far, ns, from their `schedstat`. A thread that runs at the moment is behind by up to
//! a tick.
//!
//! Its numbers are time on a CPU, time waiting for one, times on one (Documentation/scheduler/sched-stats.rst).

use std::fs;

use anyhow::{Context as _, Result, bail};

/// Of a thread, by its folder in /proc, and how often it ran.
///
/// # Errors
/// There is none.
pub fn of_thread(folder: &str) -> Result<[u64; 2]> {
    let path = format!("{folder}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
    match numbers.as_deref() {
        Ok([time_ns, _, runs]) => Ok([*time_ns, *runs]),
        _ => bail!("{path}: {text}"),
    }
}

/// Of a process with all of its threads.
///
/// # Errors
/// There is none.
pub fn of_process(pid: i32) -> Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let mut sum = 0;
    for thread in fs::read_dir(&folder).with_context(|| folder.clone())? {
        // One that has ended meanwhile did so without work.
        let [time_ns, _] = of_thread(&thread?.path().display().to_string()).unwrap_or_default();
        sum += time_ns;
    }
    Ok(sum)
}
