//! What the lab leaves on the machine while it is up: a state folder with the processes it started.
//!
//! Everything that `down` needs is in this folder, so a lab is taken down the same way by its own run, by a signal
//! handler, or by a later run that finds the leavings of a crashed one.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::topology::STATE;

const LOCK: &str = "/run/gwlab.lock";
/// How long a process may take to end after SIGTERM where the lab is taken down.
const TERM_S: u64 = 3;
/// How long one that a test stops may take.
pub(super) const STOP_S: u64 = 30;

/// The state folder or a path in it.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(STATE).join(name)
}

/// Keeps other runs off the lab until dropped; the kernel drops it when the process dies.
pub(super) fn lock() -> Result<Flock<File>> {
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(LOCK)
        .context(LOCK)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => {
            bail!("another run is using the lab ({LOCK} is locked); wait until it ends")
        }
        Err((_, errno)) => bail!("{LOCK}: {errno}"),
    }
}

/// Held while namespaces or processes come or go, so that a signal finds the lab in a state it can take down.
pub(super) fn changing() -> MutexGuard<'static, ()> {
    static CHANGING: Mutex<()> = Mutex::new(());
    CHANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process as recorded: its number alone could by now be somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// What it is, for people: `site1-charon`.
    pub name: String,
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat).
    started: u64,
}

impl Process {
    /// Whether it still runs; a zombie does not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| {
            started == self.started && (state != 'Z' || has_threads(self.pid))
        })
    }

    /// Sends `signal`, to this process only, and takes no notice if it is gone.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            let _gone = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Ends it: SIGTERM, and SIGKILL if it does not obey within `limit_s`. Answers whether it obeyed.
    pub fn end(&self, limit_s: u64) -> bool {
        self.signal(Signal::SIGTERM);
        let obeyed = self.wait(Duration::from_secs(limit_s));
        if !obeyed {
            self.signal(Signal::SIGKILL);
            self.wait(Duration::from_secs(limit_s));
        }
        obeyed
    }

    /// Waits until it has ended; false if it still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(10));
        }
        // It may be our own child or that of an earlier run: only the parent can and must reap it.
        let _not_ours = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        true
    }
}

/// A killed process is a zombie as soon as its first thread is, while others still hold its sockets.
fn has_threads(pid: i32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

/// Starts `command` in the background, its output in `NAME.log` of the state folder, and records it for `down`.
pub fn spawn(name: &str, command: &mut Command) -> Result<Process> {
    let _changing = changing();
    let log = File::create(path(&format!("{name}.log"))).with_context(|| format!("log of {name}"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Ctrl-C at the terminal is for the run alone, which then ends its processes in order.
    command.process_group(0);
    let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let pid = i32::try_from(child.id()).context("process id")?;
    let started = stat(pid).map_or(0, |(_, started)| started);
    let process = Process {
        name: name.to_owned(),
        pid,
        started,
    };
    let mut list = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path("processes"))?;
    writeln!(list, "{pid} {started} {name}")?;
    Ok(process)
}

/// Every process recorded, in the order of their start.
#[must_use]
pub fn processes() -> Vec<Process> {
    let list = fs::read_to_string(path("processes")).unwrap_or_default();
    list.lines().filter_map(parse).collect()
}

/// Ends every process recorded and forgets the state folder.
pub(super) fn clear() -> Result<()> {
    let processes = processes();
    for process in processes.iter().rev() {
        process.signal(Signal::SIGTERM);
    }
    for process in processes.iter().rev() {
        process.end(TERM_S);
    }
    match fs::remove_dir_all(STATE) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context(STATE),
        _ => Ok(()),
    }
}

fn parse(line: &str) -> Option<Process> {
    let mut words = line.splitn(3, ' ');
    let pid = words.next()?.parse().ok()?;
    let started = words.next()?.parse().ok()?;
    Some(Process {
        name: words.next()?.to_owned(),
        pid,
        started,
    })
}

/// State letter and start time. The program's name, in brackets, may hold anything: count from its end.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let state = words.next()?.chars().next()?;
    Some((state, words.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_process_number_is_not_ours() {
        let me = i32::try_from(std::process::id()).unwrap();
        let (_, started) = stat(me).unwrap();
        let running = Process {
            name: "me".into(),
            pid: me,
            started,
        };
        assert!(running.is_running());
        let recycled = Process {
            started: started.wrapping_add(1),
            ..running
        };
        assert!(!recycled.is_running());
        assert!(recycled.end(TERM_S));
    }

    #[test]
    fn a_line_of_the_list_reads_back() {
        let process = parse("12 345 site1-charon").unwrap();
        assert_eq!(
            process,
            Process {
                name: "site1-charon".into(),
                pid: 12,
                started: 345
            }
        );
        assert_eq!(parse("twelve 345 x"), None);
    }
}
