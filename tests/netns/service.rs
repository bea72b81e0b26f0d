//! The gateway and systemd: what a service manager hears of it, and the unit that operators install. Every gateway of the
//! lab runs with the unit's capabilities and environment.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use xtask::cmd;
use xtask::lab::Lab;
use xtask::lab::center::fetch;
use xtask::lab::gateway::Config;
use xtask::lab::pki::Auth;
use xtask::lab::service::UNIT;
use xtask::lab::state;
use xtask::lab::topology::{Options, Site};
use xtask::paths;

/// As a unit with `WatchdogSec=5` has it.
const WATCHDOG_US: &str = "5000000";
/// The daemon gives a sign of life each second.
const SIGNS_S: u64 = 4;
/// After this a worker stands still, with what a look each second may be late.
const STANDSTILL: Duration = Duration::from_secs(12);
/// What a pipe holds, as pipe(7) has it, and the longest line that may have found no room behind that.
const PIPE_OCTETS: usize = 65_536;
const LINE_OCTETS: usize = 4_096;

/// A service manager's end of sd_notify(3).
struct Notices(UnixDatagram);

impl Notices {
    /// Those of a gateway that is started like this.
    fn of_gateway() -> Result<(Self, Config)> {
        let path = state::path("notify");
        let notices = Self(UnixDatagram::bind(&path).context("the service manager's socket")?);
        notices.0.set_nonblocking(true)?;
        let mut config = Config::usual(Auth::Rsa);
        config.environment = vec![
            ("NOTIFY_SOCKET".into(), path.display().to_string()),
            ("WATCHDOG_USEC".into(), WATCHDOG_US.into()),
        ];
        Ok((notices, config))
    }

    /// What has been said until now.
    fn so_far(&self) -> Result<Vec<String>> {
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(len) = self.0.recv(&mut buffer) {
            let text = String::from_utf8_lossy(buffer.get(..len).context("a longer notice")?).into_owned();
            said.extend(text.lines().map(str::to_owned));
        }
        Ok(said)
    }

    fn signs_of_life(&self) -> Result<usize> {
        Ok(self.so_far()?.iter().filter(|line| *line == "WATCHDOG=1").count())
    }
}

#[test]
fn a_service_manager_hears_that_the_gateway_serves_lives_and_stops() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let (notices, config) = Notices::of_gateway()?;
    // It answers verbs now, which its control task does only once it serves.
    let gateway = lab.start_gateway(&config)?;
    let said = notices.so_far()?;
    ensure!(said.first().is_some_and(|line| line == "READY=1"), "{said:?}");

    sleep(Duration::from_secs(SIGNS_S));
    ensure!(
        notices.signs_of_life()? >= 2,
        "a gateway that serves gives no sign of life"
    );
    gateway.while_stopped(|| {
        notices.so_far()?;
        sleep(Duration::from_secs(SIGNS_S));
        ensure!(
            notices.signs_of_life()? == 0,
            "a gateway that stands still gives signs of life"
        );
        Ok(())
    })?;
    let deadline = Instant::now() + Duration::from_secs(SIGNS_S);
    while notices.signs_of_life()? == 0 {
        ensure!(Instant::now() < deadline, "no sign of life after it went on");
        sleep(Duration::from_millis(50));
    }

    gateway.stop()?;
    let said = notices.so_far()?;
    ensure!(said.contains(&"STOPPING=1".to_owned()), "{said:?}");
    ensure!(said.contains(&"STATUS=SIGTERM".to_owned()), "{said:?}");
    Ok(())
}

/// A thread of another process that is held where it is, and goes on when this is dropped.
struct Held(Pid);

impl Held {
    /// Holds the first thread of this name.
    fn of_process(process: i32, name: &str) -> Result<Self> {
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = thread?;
            if fs::read_to_string(thread.path().join("comm"))?.trim_end() != name {
                continue;
            }
            let number = thread.file_name().into_string().ok().context("a number")?;
            let thread = Pid::from_raw(number.parse()?);
            ptrace::seize(thread, ptrace::Options::empty())?;
            let held = Self(thread);
            ptrace::interrupt(thread)?;
            waitpid(thread, Some(WaitPidFlag::__WALL))?;
            return Ok(held);
        }
        bail!("process {process} has no thread {name}")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Should it have ended there is nothing to go on.
        let _ = ptrace::detach(self.0, None);
    }
}

/// Regression: a worker that stood still was noticed by nobody; what its queues received went nowhere.
#[test]
fn a_gateway_with_a_worker_that_stands_still_gives_no_sign_of_life() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let (notices, config) = Notices::of_gateway()?;
    let gateway = lab.start_gateway(&config)?;
    let held = Held::of_process(gateway.pid(), "esp-0")?;
    sleep(STANDSTILL);
    notices.so_far()?;
    sleep(Duration::from_secs(SIGNS_S));
    ensure!(
        notices.signs_of_life()? == 0,
        "a gateway whose worker stands still gives signs of life"
    );
    // Its control task goes on all the same.
    gateway.cli(&["status"])?;
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(SIGNS_S);
    while notices.signs_of_life()? == 0 {
        ensure!(
            Instant::now() < deadline,
            "no sign of life after the worker went on"
        );
        sleep(Duration::from_millis(50));
    }
    let log = fs::read_to_string(state::path("gateway.log"))?;
    ensure!(
        log.contains("a worker has stood still"),
        "the log does not say why"
    );
    gateway.stop()
}

/// Regression: the control task waited for a service manager that did not listen.
#[test]
fn a_service_manager_that_stands_still_does_not_stop_the_gateway() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let path = state::path("notify");
    let _deaf = UnixDatagram::bind(&path).context("the service manager's socket")?;
    let others = UnixDatagram::unbound()?;
    others.set_nonblocking(true)?;
    while others.send_to(b"STATUS=of another service", &path).is_ok() {}
    let mut config = Config::usual(Auth::Rsa);
    config.environment = vec![
        ("NOTIFY_SOCKET".into(), path.display().to_string()),
        ("WATCHDOG_USEC".into(), WATCHDOG_US.into()),
    ];
    let gateway = lab.start_gateway(&config)?;
    sleep(Duration::from_secs(SIGNS_S));
    gateway.cli(&["status"])?;
    gateway.stop()
}

/// Regression: the control task waited for whoever reads standard error, and IKE with it.
#[test]
fn a_journal_that_stands_still_does_not_stop_the_gateway() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let log = state::path("gateway.log");
    cmd::output(Command::new("mkfifo").arg(&log))?;
    // Open at both ends, and nobody reads.
    let mut journal = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(&log)?;
    let mut config = Config::usual(Auth::Rsa);
    config.environment = vec![("GATEWAY_LOG".into(), "trace".into())];
    let gateway = lab.start_gateway(&config)?;
    let router = lab.start_site(Site::One, config.auth)?;
    router.initiate()?;
    fetch(Site::One.terminal(), "/page")?;
    gateway.cli(&["status"])?;
    // It was full all the time: what is in it is of the start.
    let mut waits = vec![0; 1 << 20];
    let octets = journal.read(&mut waits)?;
    ensure!(
        octets >= PIPE_OCTETS - LINE_OCTETS,
        "{octets} octets are no standstill"
    );
    Ok(())
}

#[test]
fn systemd_understands_the_unit() -> Result<()> {
    let folder = paths::target().join("unit");
    fs::create_dir_all(&folder)?;
    let (file, program) = (folder.join("gateway.service"), paths::built_program("gateway")?);
    let text = UNIT.replace("/usr/local/bin/gateway", &program.display().to_string());
    ensure!(text != UNIT, "the unit names no program");
    fs::write(&file, text)?;
    let verify = cmd::output(
        Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&file),
    )?;
    let complaints = String::from_utf8_lossy(&verify.stderr).into_owned();
    ensure!(!complaints.contains("gateway.service"), "{complaints}");
    // At most 5.0 of 10, as systemd counts what a unit leaves a process.
    cmd::output(
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=50", "--no-pager"])
            .arg(&file),
    )?;
    Ok(())
}
