//! The packet vectors over real links: frames go into a veth pair, the XDP program runs in the driver of its other
//! end, and what comes out is looked at where it comes out.
//!
//! ```text
//!  frames --> far ==== near (XDP, AF_XDP socket, packet socket)      egress ==== center (packet socket)
//!  XDP_TX <--                                                        ^-- redirects
//! ```

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use gateway::dataplane::object::program;
use gateway::dataplane::receiver::Receiver;
use gateway_tests::kernel::{Kernel, Links, increase, monotonic, wait_for_a_fresh_second};
use gateway_tests::vectors::{self, Expect, Program, Step};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use xtask::cmd;
use xtask::lab::tap::Tap;

/// Shortest frame that a packet socket sends: an Ethernet header.
const FRAME_MIN: usize = 14;
/// How long a frame may take.
const ARRIVAL: Duration = Duration::from_secs(5);
/// How long a frame that a program has sent on is under way on a link.
const SILENCE: Duration = Duration::from_millis(2);
/// Length of a frame that every program drops in every world: of an EtherType for experiments (IEEE 802).
const LAST: usize = 64;

#[test]
fn every_vector_over_real_links() -> Result<()> {
    // The namespace is the thread's own and goes with it, whatever happens.
    let outcome = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own")?;
        run()
    });
    outcome
        .join()
        .map_err(|_| anyhow!("the test's thread panicked"))?
}

fn run() -> Result<()> {
    let mut wire = Wire::lay()?;
    let mut failures = Vec::new();
    let (mut sent, mut too_short) = (0, 0);
    let mut vectors = vectors::Fresh::default();
    for index in 0.. {
        wait_for_a_fresh_second();
        let Some(vector) = vectors.get(index, u32::try_from(monotonic().as_secs())?) else {
            break;
        };
        wire.kernel.fill(&vector.world)?;
        for (number, step) in vector.steps.iter().enumerate() {
            if step.frame.len() < FRAME_MIN {
                too_short += 1;
                continue;
            }
            sent += 1;
            if let Err(failure) = wire.check(step) {
                failures.push(format!("{} [{number}]: {failure:#}", vector.description));
            }
        }
    }
    println!("{sent} frames sent; {too_short} are shorter than an Ethernet header, which no link carries");
    ensure!(sent > 200, "only {sent} frames were sent");
    ensure!(
        failures.is_empty(),
        "{} of {sent}:\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(())
}

/// A frame that is dropped by whichever program it comes to.
fn last() -> Vec<u8> {
    let mut frame = vec![0xff; LAST];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// The links and everything that listens on them.
struct Wire {
    kernel: Kernel,
    /// Index of `near`.
    near: u32,
    attached: Option<(Program, aya::programs::xdp::XdpLinkId)>,
    /// Sends; hears what XDP_TX sends back.
    far: Tap,
    /// Hears what XDP passes.
    host: Tap,
    /// Hears what is redirected to the center.
    center: Tap,
    worker: Receiver,
}

/// Frames by where they came out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Out {
    back: Vec<Vec<u8>>,
    host: Vec<Vec<u8>>,
    center: Vec<Vec<u8>>,
    worker: Vec<Vec<u8>>,
}

impl Wire {
    fn lay() -> Result<Self> {
        for conf in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/disable_ipv6"), "1")?;
        }
        for [one, other] in [["far", "near"], ["egress", "center"]] {
            let pair = format!("link add {one} mtu 3000 type veth peer name {other} mtu 3000");
            cmd::output(Command::new("ip").args(pair.split(' ')))?;
        }
        // Before a link is up: its other end announces then whether it can be redirected to.
        for interface in ["far", "near", "egress", "center"] {
            let offloads = [
                "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "on",
            ];
            cmd::output(Command::new("ethtool").args(offloads))?;
        }
        for interface in ["far", "near", "egress", "center"] {
            cmd::output(Command::new("ip").args(["link", "set", interface, "arp", "off", "up"]))?;
        }
        let (near, far) = (if_nametoindex("near")?, if_nametoindex("far")?);
        let worker = Receiver::bind("near", 0)?;
        let mut kernel = Kernel::load()?;
        // What XDP_TX sends back to a veth end without a program waits there until something else wakes the end.
        kernel.attach(program::PASS, far)?;
        kernel.set_links(Links {
            ingress: near,
            egress: if_nametoindex("egress")?,
            worker: worker.descriptor(),
        });
        Ok(Self {
            kernel,
            near,
            attached: None,
            far: Tap::open_here("far")?,
            host: Tap::open_here("near")?,
            center: Tap::open_here("center")?,
            worker,
        })
    }

    fn attach(&mut self, program: Program) -> Result<()> {
        if let Some((attached, link)) = self.attached.take() {
            if attached == program {
                self.attached = Some((attached, link));
                return Ok(());
            }
            self.kernel.detach(attached.name(), link)?;
        }
        let link = self.kernel.attach(program.name(), self.near)?;
        self.attached = Some((program, link));
        Ok(())
    }

    /// Sends one frame and looks at all that comes of it.
    fn check(&mut self, step: &Step) -> Result<()> {
        self.attach(step.program)?;
        self.collect(&mut Out::default())?;
        let (drops, paths) = (self.kernel.drops()?, self.kernel.paths()?);
        self.far.send(&step.frame)?;

        let frame = |frame: &[u8]| vec![frame.to_vec()];
        let mut expected = Out::default();
        match &step.expect {
            Expect::Drop(_) => {}
            Expect::Pass(_) => expected.host = frame(&step.frame),
            Expect::Worker(_, out) | Expect::Answer(_, out) => expected.worker = frame(out),
            Expect::Egress(out) => expected.center = frame(out),
            Expect::Reflect(out) | Expect::CenterAnswer(_, out) => expected.back = frame(out),
        }
        let (dropped, path) = step.expect.counted();
        let deadline = Instant::now() + ARRIVAL;
        let mut out = Out::default();
        loop {
            self.collect(&mut out)?;
            let new_drops = increase(&drops, &self.kernel.drops()?);
            let new_paths = increase(&paths, &self.kernel.paths()?);
            let is_counted =
                new_drops == dropped && path.is_none_or(|path| new_paths.get(&(path as u32)) == Some(&1));
            if is_counted && out == expected {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "counted {new_drops:?} {new_paths:?}, not {dropped:?} {path:?};\n got {out:02x?}\nwant {expected:02x?}"
            );
            sleep(Duration::from_micros(200));
        }
        // Once a frame behind it is dropped, a program has done with it, however late that came to run.
        self.far.send(&last())?;
        let all = dropped.values().sum::<u64>() + 1;
        let deadline = Instant::now() + ARRIVAL;
        while increase(&drops, &self.kernel.drops()?).values().sum::<u64>() < all {
            ensure!(Instant::now() < deadline, "the frame behind it is not dropped");
            sleep(Duration::from_micros(200));
        }
        sleep(SILENCE);
        self.collect(&mut out)?;
        ensure!(out == expected, "something more came out: {out:02x?}");
        let new_drops = increase(&drops, &self.kernel.drops()?);
        ensure!(
            new_drops.values().sum::<u64>() == all,
            "more was dropped: {new_drops:?}"
        );
        Ok(())
    }

    fn collect(&mut self, out: &mut Out) -> Result<()> {
        out.back.extend(self.far.frames()?);
        out.host.extend(self.host.frames()?);
        out.center.extend(self.center.frames()?);
        out.worker.extend(self.worker.frames());
        Ok(())
    }
}
