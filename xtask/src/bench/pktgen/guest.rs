//! A guest that measures: QEMU without hardware help (TCG), a stock kernel, and a root file system in memory with a shell, the
//! programs of this machine that are needed, and our own.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::kernel;
use super::packages::{Guest, Parts};
use super::protocol::{Line, Sample};
use crate::cmd;

/// All that the measured paths and their peers need; nothing loads modules by itself in the guest.
const MODULES: &[&str] = &[
    "veth",
    "pktgen",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_ct",
    "nft_chain_nat",
    "nft_masq",
    "nf_nat",
    "nft_nat",
    "nf_flow_table_inet",
    "nft_flow_offload",
    "xfrm_user",
    "esp4",
    "gcm",
    "seqiv",
    "aesni_intel",
];
/// The same for packet vectors, which come by no interface.
const MODULES_VECTORS: &[&str] = &[];
/// The same for zero copy.
const MODULES_ZERO_COPY: &[&str] = &["veth", "pktgen", "virtio_net"];
/// Virtual cables between two network cards each, `eth0` and `eth1` and so on. Cards of the first half have zero copy.
const CABLES: usize = 8;
/// What a card needs to run XDP, and for zero copy, with `queue_reset`: its driver takes frames of AF_XDP sockets into a queue
/// that it can empty, and maps them by the kernel's DMA interface.
const CARD: &str = "csum=off,guest_csum=off,gso=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,\
                    iommu_platform=on,disable-legacy=on,rx_queue_size=1024,tx_queue_size=256,romfile=";
/// Programs of this machine that run in the guest too, with their libraries.
const TOOLS: [&str; 4] = ["ip", "nft", "ethtool", "chrt"];
/// Where files lie in the guest that the measuring program is told of.
pub(super) const FILES: &str = "/files";
/// Memory, MiB.
const MEMORY: &str = "2048";
/// How often a guest is started that does not come as far as to measure, and how long that may take.
const STARTS: u32 = 3;
const START_MAX: Duration = Duration::from_secs(40);
/// Lines of the console that a failure shows.
const TAIL: usize = 30;

/// Whether a program says that it begins and how it ends ([`Line`]).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// It does.
    Itself,
    /// It is said for it, and which kernel it ran on.
    Nothing,
}

/// Packs a root file system whose first process measures with the first of `programs` and `arguments`. The programs are in
/// `/bin`, `files` in [`FILES`].
///
/// # Errors
/// A program, one of its libraries or a module is missing.
pub(crate) fn pack(
    parts: &Parts,
    (programs, says): (&[&Path], Says),
    files: &[PathBuf],
    arguments: &[String],
    to: &Path,
) -> Result<()> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "run", "tmp", "etc", "modules"] {
        archive.folder(folder)?;
    }
    archive.file("bin/busybox", &read(&parts.busybox())?)?;
    // `ip netns exec` and the tools' own look for a shell there.
    archive.file("bin/sh", b"#!/bin/busybox sh\nexec /bin/busybox sh \"$@\"\n")?;
    let mut libraries = BTreeSet::new();
    for tool in TOOLS {
        let path = which(tool)?;
        libraries.extend(libraries_of(&path)?);
        archive.file(&format!("bin/{tool}"), &read(&path)?)?;
    }
    for program in programs {
        libraries.extend(libraries_of(program)?);
        archive.file(&format!("bin/{}", file_name(program)?), &stripped(program, to)?)?;
    }
    for file in files {
        archive.file(&format!("{FILES}/{}", file_name(file)?), &read(file)?)?;
    }
    for library in libraries {
        archive.file(&library.display().to_string(), &read(&library)?)?;
    }
    let wanted = match parts.guest {
        _ if says == Says::Nothing => MODULES_VECTORS,
        Guest::Pktgen => MODULES,
        Guest::ZeroCopy | Guest::Newest => MODULES_ZERO_COPY,
    };
    let modules = kernel::modules(&parts.modules()?, wanted)?;
    for module in &modules {
        archive.file(&format!("modules/{}", module.name), &module.bytes)?;
    }
    let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    let program = programs.first().context("no program that measures")?;
    let run = run_of(file_name(program)?, arguments, says);
    archive.file("init", init(&names, &run).as_bytes())?;
    fs::write(to, archive.finish()?).with_context(|| to.display().to_string())
}

fn file_name(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.with_context(|| path.display().to_string())
}

/// What the shell does to measure.
fn run_of(program: &str, arguments: &[String], says: Says) -> String {
    let run = format!("/bin/{program} {}", arguments.join(" "));
    // The status stands in the place of the zero.
    let end = Line::End(0).text();
    let end = end.trim_end_matches('0');
    match says {
        // For a program that could not say so itself.
        Says::Itself => format!("{run} || echo \"{end}$?\""),
        Says::Nothing => {
            let begin = Line::Begin.text();
            let kernel = Line::Step("kernel $($b uname -r)".to_owned()).text();
            format!("echo \"{begin}\"; echo \"{kernel}\"; {run}; echo \"{end}$?\"")
        }
    }
}

/// The first process: makes a system of it, measures, and ends the guest.
fn init(modules: &[&str], run: &str) -> String {
    format!(
        "#!/bin/busybox sh\n\
         export PATH=/bin\n\
         b=/bin/busybox\n\
         $b mount -t proc proc /proc\n\
         $b mount -t sysfs sysfs /sys\n\
         $b mount -t bpf bpf /sys/fs/bpf\n\
         $b mount -t devtmpfs devtmpfs /dev\n\
         $b mount -t tmpfs tmpfs /run\n\
         for module in {modules}; do $b insmod /modules/$module; done\n\
         {run}\n\
         $b reboot -f\n",
        modules = modules.join(" "),
    )
}

/// Starts the guest and hands each sample on, until the guest says that it has ended. It does not outlive the call. What its
/// console shows is left in the file `console`.
///
/// An emulated machine sometimes stops while its kernel starts: it is started anew then, a few times.
///
/// # Errors
/// What the guest measured with failed, or it was not ready in time; with the end of what the console showed.
pub(crate) fn run(
    parts: &Parts,
    initramfs: &Path,
    console: &Path,
    limit: Duration,
    mut on_sample: impl FnMut(Sample),
) -> Result<()> {
    let mut last = Ended::BeforeItsBegin(String::new());
    for _ in 0..STARTS {
        let running = start(parts, initramfs)?;
        last = follow(running, [START_MAX, limit], Some(console), &mut on_sample)?;
        match &last {
            Ended::Measured => break,
            Ended::BeforeItsBegin(why) => println!("  the guest did not start: {why}"),
        }
    }
    last.measured()
}

fn start(parts: &Parts, initramfs: &Path) -> Result<Running> {
    let mut emulator = parts.emulator();
    let words = format!(
        "-machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m {MEMORY} -nodefaults -no-user-config -display none \
         -serial stdio -no-reboot"
    );
    emulator
        .args(words.split_whitespace())
        .arg("-kernel")
        .arg(parts.vmlinux())
        .arg("-initrd")
        .arg(initramfs)
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable",
        ]);
    if parts.guest == Guest::ZeroCopy {
        emulator.args(cables());
    }
    let child = emulator
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", cmd::line(&emulator)))?;
    Ok(Running(child))
}

/// Network cards, joined two by two. Without a reset of single queues the driver has no zero copy.
fn cables() -> Vec<String> {
    let mut words = Vec::new();
    for card in 0..2 * CABLES {
        let cable = card / 2;
        let reset = if cable < CABLES / 2 { "on" } else { "off" };
        words.extend([
            "-netdev".to_owned(),
            format!("hubport,id=n{card},hubid={cable}"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=n{card},mac=02:00:00:00:01:{card:02x},queue_reset={reset},{CARD}"),
        ]);
    }
    words
}

/// A child that is killed with us, however we end.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended; then there is nobody to kill, but still somebody to wait for.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// How a child ended that measures.
#[derive(Debug)]
pub(super) enum Ended {
    /// It has measured all.
    Measured,
    /// It had not begun to.
    BeforeItsBegin(String),
}

/// Nothing was measured, as the guest did not come up: that says nothing about what is to be measured.
#[derive(Debug)]
pub struct DidNotBegin(String);

impl std::fmt::Display for DidNotBegin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "measuring did not begin: {}", self.0)
    }
}

impl std::error::Error for DidNotBegin {}

impl Ended {
    /// # Errors
    /// [`DidNotBegin`].
    pub(super) fn measured(self) -> Result<()> {
        match self {
            Self::Measured => Ok(()),
            Self::BeforeItsBegin(why) => Err(DidNotBegin(why).into()),
        }
    }
}

/// Reads what a measuring child says until it says that it has ended, or goes. The limits are for its begin and its end. All
/// that it says is left in the file `log`.
///
/// # Errors
/// It failed, or went, or had not ended in time, after it had begun.
pub(super) fn follow(
    mut running: Running,
    [begin_max, limit]: [Duration; 2],
    log: Option<&Path>,
    mut on_sample: impl FnMut(Sample),
) -> Result<Ended> {
    let started = Instant::now();
    let lines = lines(&mut running, log)?;
    let mut tail = VecDeque::new();
    let mut begun = false;
    loop {
        let limit = if begun { limit } else { begin_max };
        let why = match lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(Line::Begin) => {
                begun = true;
                tail.clear();
                continue;
            }
            Ok(Line::Sample(sample)) => {
                on_sample(sample);
                continue;
            }
            Ok(Line::Step(what)) => {
                println!("  [{what}]");
                continue;
            }
            Ok(Line::Other(text)) => {
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(text);
                continue;
            }
            Ok(Line::End(0)) => return Ok(Ended::Measured),
            Ok(Line::End(status)) => format!("measuring failed with status {status}"),
            Err(mpsc::RecvTimeoutError::Timeout) => format!("not ready after {} s", limit.as_secs()),
            Err(mpsc::RecvTimeoutError::Disconnected) => "it stopped before its end".to_owned(),
        };
        let shown: String = tail.iter().map(|line| format!("\n  {line}")).collect();
        let why = format!("{why}:{shown}");
        if begun {
            bail!(why);
        }
        return Ok(Ended::BeforeItsBegin(why));
    }
}

/// What a child says, by a thread that ends with the child's output.
fn lines(running: &mut Running, log: Option<&Path>) -> Result<mpsc::Receiver<Line>> {
    let stdout = running.0.stdout.take().context("no standard output")?;
    let mut log = log
        .map(|log| fs::File::create(log).with_context(|| log.display().to_string()))
        .transpose()?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            // The log is for people: that it cannot be written is no reason to measure nothing.
            let _written = log.as_mut().map(|log| log.write_all(&line));
            if sender.send(Line::parse(&String::from_utf8_lossy(&line))).is_err() {
                break;
            }
            line.clear();
        }
    });
    Ok(lines)
}

/// A program without what a debugger needs: four fifths of it.
fn stripped(program: &Path, near: &Path) -> Result<Vec<u8>> {
    let to = near.with_extension("stripped");
    cmd::output(cmd::cmd("strip", ["-o"]).arg(&to).arg(program))?;
    let bytes = read(&to)?;
    fs::remove_file(&to)?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

fn which(program: &str) -> Result<PathBuf> {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    folders
        .map(|folder| folder.join(program))
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is not installed: run `cargo xtask setup`"))
}

fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let text = cmd::read(cmd::cmd("ldd", [""; 0]).arg(program))?;
    Ok(libraries(&text))
}

/// The files in `NAME => FILE (ADDRESS)` and `FILE (ADDRESS)` lines of ldd.
fn libraries(text: &str) -> Vec<PathBuf> {
    let file = |line: &str| {
        let after = line.split_once("=> ").map_or(line, |(_, file)| file);
        let path = after.split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    text.lines().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(script: &str) -> Running {
        let mut shell = cmd::cmd("sh", ["-c", script]);
        Running(shell.stdout(Stdio::piped()).spawn().unwrap())
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007f44)\n\tlibelf.so.1 => /lib/x86_64-linux-gnu/libelf.so.1 (0x00007f44)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f44)\n\tlibx.so => not found\n";
        let expected = ["/lib/x86_64-linux-gnu/libelf.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(text), expected.map(PathBuf::from));
    }

    #[test]
    fn the_first_process_says_how_measuring_ended() {
        let run = |says| run_of("measure", &["--rounds".to_owned(), "1".to_owned()], says);
        let script = init(&["veth"], &run(Says::Itself));
        assert!(
            script.contains("/bin/measure --rounds 1 || echo \"@gateway-bench end $?\"\n"),
            "{script}"
        );
        let script = run(Says::Nothing);
        assert!(
            script.starts_with("echo \"@gateway-bench begin\"; ")
                && script.ends_with("/bin/measure --rounds 1; echo \"@gateway-bench end $?\""),
            "{script}"
        );
    }

    #[test]
    fn an_end_without_success_shows_what_was_printed_last() {
        let error = follow(
            say("echo '@gateway-bench begin'; echo why; echo '@gateway-bench end 3'"),
            [LIMIT; 2],
            None,
            |_| {},
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains("status 3") && error.contains("why"), "{error}");
    }

    #[test]
    fn a_child_that_goes_without_an_end_has_failed() {
        let script = "echo '@gateway-bench begin'; echo 'Kernel panic'";
        let error = follow(say(script), [LIMIT; 2], None, |_| {}).unwrap_err();
        assert!(error.to_string().contains("Kernel panic"), "{error}");
    }

    #[test]
    fn a_child_that_goes_before_its_begin_can_be_started_anew() {
        let ended = follow(say("echo 'Kernel panic'"), [LIMIT; 2], None, |_| {}).unwrap();
        assert!(matches!(&ended, Ended::BeforeItsBegin(why) if why.contains("Kernel panic")));
        assert!(ended.measured().is_err_and(|error| error.is::<DidNotBegin>()));
    }

    #[test]
    fn a_child_that_hangs_is_killed() {
        let running = say("echo '@gateway-bench begin'; exec sleep 600");
        let process = format!("/proc/{}", running.0.id());
        let limits = [LIMIT, Duration::from_millis(500)];
        let error = follow(running, limits, None, |_| {}).unwrap_err();
        assert!(error.to_string().contains("not ready"), "{error}");
        assert!(!Path::new(&process).exists(), "it still runs");
    }
}
