//! A lane: generator, what is measured, sink, each in a namespace, with all of its receiving work on one CPU.
//!
//! ```text
//! generator 192.168.1.10                 measured             sink 203.0.113.10
//! gN ------ rN -> fN ---------------- in        out ---------------------- sN
//! pktgen    relay, CPU 0             threaded NAPI on CPU 1
//! ```
//!
//! The relay redirects by XDP what pktgen sent, so that it comes to `in` as a network card delivers it: as a frame in memory, of
//! which a stack builds a socket buffer, and which an XDP program takes as it is. Without it pktgen's socket buffers would have
//! to be made into frames for XDP, by the measured side, and need not be made for the stack.

use std::fs;

use anyhow::{Context as _, Result};
use gateway_tests::cpu_time;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use xtask::bench::pktgen::control;
use xtask::cmd;

use crate::namespace::Namespace;

/// CPU of the generator.
pub(crate) const CPU_GENERATOR: usize = 0;
/// Kernel threads that do the work that is measured: NAPI of [`IN`], and the one that work of its CPU is put off to.
pub(crate) const MEASURED: [&str; 2] = ["napi/in-", "ksoftirqd/1"];
/// NAPI of sinks, on the same CPU.
pub(crate) const SINKING: [&str; 1] = ["napi/s"];
/// NAPI of relays, on the generator's.
const RELAYING: &str = "napi/r";
/// CPU of what is measured, with its sink.
pub(crate) const CPU_MEASURED: usize = 1;
/// Where packets come into what is measured.
pub(crate) const IN: &str = "in";
/// Where they leave.
pub(crate) const OUT: &str = "out";
/// One CPU serves an end: without this it has a queue for each CPU.
const QUEUE: &str = "numtxqueues 1 numrxqueues 1";
/// What interrupt moderation is to a network card: without it the generator's CPU wakes the other for every packet that finds
/// it asleep, and the quicker side pays for that most. A veth's ring has room for 256 packets.
const MODERATION_NS: u32 = 500_000;
/// Somebody else than the sink: its stack drops such frames first of all.
const MAC_NOT_THE_SINK: &str = "02:00:00:00:00:99";
/// What [`IN`] has for an address.
pub(crate) const MAC_IN: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// What [`OUT`] has.
pub(crate) const MAC_OUT: [u8; 6] = [2, 0, 0, 0, 0, 0x12];

/// Where packets come from and go to, for all lanes.
pub(crate) struct Ends {
    /// The generator's namespace.
    pub(crate) generator: Namespace,
    /// The sink's.
    pub(crate) sink: Namespace,
}

/// What pktgen's socket buffers become frames in memory by.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    /// Where they come in.
    pub(crate) from: String,
    /// Where they go on.
    pub(crate) to: String,
}

impl Relay {
    /// Lays it, from the generator's interface to what is measured, without the program that relays.
    pub(crate) fn lay(
        generator: &Namespace,
        (from, name): (&str, &str),
        measured: &Namespace,
        into: &str,
    ) -> Result<Self> {
        let relay = Self {
            from: format!("r{name}"),
            to: format!("f{name}"),
        };
        cable((generator, &relay.from, None), (generator, from))?;
        cable((measured, into, Some(MAC_IN)), (generator, &relay.to))?;
        for interface in [from, &relay.from, &relay.to] {
            generator.ip(&format!("link set {interface} up\n"))?;
        }
        receive_by_thread(generator, &relay.from)?;
        Ok(relay)
    }
}

/// A lane's own part.
pub(crate) struct Lane {
    /// Of what is measured.
    pub(crate) namespace: Namespace,
    /// The generator's interface.
    pub(crate) from: String,
    /// The sink's.
    pub(crate) to: String,
    /// Between generator and [`IN`].
    pub(crate) relay: Relay,
}

impl Ends {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            generator: Namespace::new("generator")?,
            sink: Namespace::new("sink")?,
        })
    }

    /// Lays a lane; `attach` puts programs on its interfaces before they go up.
    pub(crate) fn lay(
        &self,
        number: usize,
        name: &str,
        attach: impl FnOnce(&Lane) -> Result<()>,
    ) -> Result<Lane> {
        let (namespace, from) = (Namespace::new(name)?, format!("g{number}"));
        let relay = Relay::lay(&self.generator, (&from, &number.to_string()), &namespace, IN)?;
        let lane = Lane {
            namespace,
            from,
            to: format!("s{number}"),
            relay,
        };
        let measured = &lane.namespace;
        cable((measured, OUT, Some(MAC_OUT)), (&self.sink, &lane.to))?;
        attach(&lane)?;
        lane.namespace.settings(&[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ])?;
        self.sink.ip(&format!("link set {} up\n", lane.to))?;
        lane.namespace.ip(&format!(
            "addr add 192.168.1.1/24 dev {IN}\n\
             addr add 203.0.113.1/24 dev {OUT}\n\
             link set {IN} up\n\
             link set {OUT} up\n\
             neigh replace 203.0.113.10 lladdr {MAC_NOT_THE_SINK} dev {OUT}\n\
             neigh replace 192.168.1.10 lladdr {MAC_NOT_THE_SINK} dev {IN}\n"
        ))?;
        receive_by_thread(&lane.namespace, IN)?;
        receive_by_thread(&lane.namespace, OUT)?;
        receive_by_thread(&self.sink, &lane.to)?;
        pin("napi/", CPU_MEASURED)?;
        let_others_finish("napi/")?;
        pin(RELAYING, CPU_GENERATOR)?;
        Ok(lane)
    }
}

/// A veth between two namespaces, not up yet, whose ends receive by NAPI: GRO turns it on where no XDP program does, if it
/// is on before the first end goes up and the sender does not leave segmentation to the receiver.
pub(crate) fn cable(
    (one, interface, address): (&Namespace, &str, Option<[u8; 6]>),
    (other, far): (&Namespace, &str),
) -> Result<()> {
    let mac = address.map_or_else(String::new, |mac| format!("address {}", control::mac(mac)));
    let peer = other.name();
    one.ip(&format!(
        "link add {interface} {mac} {QUEUE} type veth peer name {far} netns {peer} {QUEUE}\n"
    ))?;
    for (namespace, interface) in [(one, interface), (other, far)] {
        let settings = [
            "-K", interface, "gro", "on", "tx", "off", "tso", "off", "gso", "off",
        ];
        cmd::output(namespace.command("ethtool").args(settings))?;
    }
    Ok(())
}

/// Moves an interface's receiving work into a thread of its own, which wakes once for all that came within [`MODERATION_NS`].
pub(crate) fn receive_by_thread(namespace: &Namespace, interface: &str) -> Result<()> {
    let folder = format!("/sys/class/net/{interface}");
    let lines = format!(
        "echo 1 > {folder}/threaded && echo {MODERATION_NS} > {folder}/gro_flush_timeout && echo 1 > {folder}/napi_defer_hard_irqs"
    );
    cmd::output(namespace.command("sh").args(["-c", &lines]))?;
    Ok(())
}

/// Puts every kernel thread whose name begins so on a CPU.
pub(crate) fn pin(prefix: &str, cpu: usize) -> Result<()> {
    for thread in threads(|name| name.starts_with(prefix))? {
        pin_thread(thread, cpu)?;
    }
    Ok(())
}

/// Has kernel threads whose names begin so never interrupt each other when they wake: the scheduler stops one's clock at the other's
/// waking, but the one goes on to the end of its batch, which would count as the other's time.
fn let_others_finish(prefix: &str) -> Result<()> {
    for thread in threads(|name| name.starts_with(prefix))? {
        let arguments = ["--batch", "--pid", "0", &thread.to_string()];
        cmd::output(&mut cmd::cmd("chrt", arguments))?;
    }
    Ok(())
}

/// Puts a thread on a CPU.
pub(crate) fn pin_thread(thread: i32, cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(thread), &cpus).with_context(|| format!("pinning thread {thread}"))
}

/// CPU time so far, ns, of the kernel threads whose names begin with one of these.
pub(crate) fn cpu_time_ns(prefixes: &[&str]) -> Result<u64> {
    let is_one = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    threads(is_one)?
        .into_iter()
        .map(|thread| Ok(cpu_time::of_thread(&format!("/proc/{thread}"))?[0]))
        .sum()
}

/// Processes, kernel threads among them, by name.
pub(crate) fn threads(wanted: impl Fn(&str) -> bool) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have gone meanwhile.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if wanted(name.trim_end()) {
            found.push(number);
        }
    }
    Ok(found)
}
