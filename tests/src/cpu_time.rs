//! CPU time that threads have used so far, ns, from their `schedstat`. A thread that runs at the moment is behind by up to
//! a tick.

use std::fs;

use anyhow::{Context as _, Result};

/// Of a thread, by its folder in /proc.
///
/// # Errors
/// There is none.
pub fn of_thread(folder: &str) -> Result<u64> {
    let path = format!("{folder}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let time = text.split_whitespace().next().and_then(|time| time.parse().ok());
    time.with_context(|| format!("{path}: {text}"))
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
        sum += of_thread(&thread?.path().display().to_string()).unwrap_or(0);
    }
    Ok(sum)
}
