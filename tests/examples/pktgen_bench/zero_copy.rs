//! `--zero-copy`: the gateway's AF_XDP sockets on network cards whose driver has zero copy, beside cards of the same driver that
//! lack what it needs for that and so are in copy mode. `cargo xtask bench --zero-copy` makes the guest with the cards: `eth0` and `eth1` are joined,
//! `eth2` and `eth3`, and so on; the first half of these cables has zero copy.
//!
//! ```text
//! eth0 ---- eth1                 eth2 ---- eth3
//! packets   bare forwarder, CPU 1          packets
//! ```
//!
//! First a forwarder over a worker's own rings has to bring every packet to the other side, whole and in order, bursts of more packets than a card's
//! ring holds among them, though the cards had no frame when its sockets were bound; when it stops, all frames are to be back. Then whole gateways
//! ([`whole`]) have these cards between them and behind the center's. Each says which mode its sockets have, which has to be the expected one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::maps::XskMap;
use aya::programs::{Xdp, XdpMode};
use gateway::dataplane::bare::Forwarder;
use gateway_tests::cpu_time;
use nix::unistd::gettid;
use xtask::bench::pktgen::control::Stream;
use xtask::cmd;
use xtask::lab::tap::Tap;

use crate::gateway::{Harness, PORT, SERVER, TERMINAL};
use crate::lane::{self, CPU_GENERATOR, CPU_MEASURED, MAC_OUT, pin, pin_thread, receive_by_thread};
use crate::namespace::Namespace;
use crate::tunnels::{Tunnel, through};
use crate::{
    FIRST_PORT, FRAME_OCTETS, Figures, MAC_STRANGER, SETTLE, expect_few_lost, say, step, while_generating,
    whole,
};

/// What redirects to sockets.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/load"));
const RECEIVE: &str = "load_receive";
const SOCKETS: &str = "LOAD_SOCKETS";
/// Packets a second, which everything in the guest has time for: all cables are one thread of the emulator.
const RATE: u32 = 3_000;
/// Packets of a burst, more than a card's ring holds, and how many there are each way.
const BURST: u64 = 600;
const BURSTS: u64 = 12;
/// Octets of the packets, which take turns.
const SIZES: [usize; 5] = [60, 61, 128, 777, 1514];
/// Until cards have frames.
const FILLED_AFTER: Duration = Duration::from_secs(2);
const ARRIVE_MAX: Duration = Duration::from_secs(10);
/// A namespace that is gone gives its cards back a little later.
const BACK_MAX: Duration = Duration::from_secs(10);
const MAC_NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0x98];
/// What the gateways do.
const CASES: [&str; 2] = [
    "whole gateway over cards, outbound, AES-256-GCM",
    "whole gateway over cards, inbound, AES-256-GCM",
];

/// The two ways that a card and a socket work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    ZeroCopy,
    Copy,
}

impl Mode {
    const BOTH: [Self; 2] = [Self::ZeroCopy, Self::Copy];

    const fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero copy",
            Self::Copy => "copy mode",
        }
    }

    /// The cards of one of its four cables.
    fn cable(self, number: usize) -> [String; 2] {
        let first = match self {
            Self::ZeroCopy => 0,
            Self::Copy => 4,
        };
        [0, 1].map(|end| format!("eth{}", 2 * (first + number) + end))
    }
}

pub(crate) fn measure(rounds: u32, time: Duration, (program, pki): (&Path, &Path)) -> Result<()> {
    for mode in Mode::BOTH {
        let bare = Bare::lay(mode)?;
        bare.expect_all_arrives()?;
        for _ in 0..rounds {
            say(
                "bare forwarder over cards",
                mode == Mode::ZeroCopy,
                mode.name(),
                bare.timed(time)?,
            );
        }
    }
    let generator = Namespace::new("generator")?;
    let mut harness = Harness::load()?;
    // In a short run one engine has to be enough: a daemon takes ten seconds to start in the guest.
    let engines: &[_] = if rounds > 1 {
        &[("direct", 0), ("xdp", 2)]
    } else {
        &[("direct", 0)]
    };
    let mut letters = ["y", "z", "k", "j"].into_iter();
    for (engine, first) in engines {
        let mut tunnels = Vec::new();
        for mode in Mode::BOTH {
            let cards = [mode.cable(*first), mode.cable(first + 1)];
            for card in cards.iter().flatten() {
                until_back(card)?;
            }
            let cards = [0, 1].map(|cable: usize| [0, 1].map(|end: usize| cards[cable][end].as_str()));
            let letter = letters
                .next()
                .and_then(|letter| letter.chars().next())
                .context("a letter")?;
            tunnels.push(Tunnel {
                chain: whole::gateway(
                    (letter, engine),
                    (program, pki),
                    &generator,
                    &mut harness,
                    Some(cards),
                )?,
                ours: mode == Mode::ZeroCopy,
                name: mode.name(),
            });
        }
        for (tunnel, mode) in tunnels.iter_mut().zip(Mode::BOTH) {
            tunnel.chain.connect()?;
            expect_mode(tunnel, mode)?;
        }
        step(&format!("the tunnels with engine `{engine}` are up"));
        for _ in 0..rounds {
            for Tunnel { chain, ours, name } in &tunnels {
                let figures = through(&generator, chain, (name, RATE), time)?;
                for (case, figures) in CASES.into_iter().zip(figures) {
                    say(&format!("{case}, {engine}"), *ours, name, figures);
                }
            }
        }
    }
    Ok(())
}

/// The daemons say that the sockets of cards have this mode, and those of the one virtual cable copy mode.
fn expect_mode(tunnel: &Tunnel, mode: Mode) -> Result<()> {
    for (interface, zero_copy) in tunnel.chain.zero_copy()? {
        let is_card = !interface.ends_with('a');
        let expected = u64::from(is_card && mode == Mode::ZeroCopy);
        ensure!(
            zero_copy == expected,
            "{}: {zero_copy} queues of {interface} have zero copy in place of {expected}",
            tunnel.name
        );
    }
    Ok(())
}

/// Waits until the first namespace has a card, down and with its own name again.
fn until_back(card: &str) -> Result<()> {
    let deadline = Instant::now() + BACK_MAX;
    while nix::net::if_::if_nametoindex(card).is_err() {
        ensure!(Instant::now() < deadline, "{card} is in no namespace any more");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A forwarder between two cables.
struct Bare {
    mode: Mode,
    /// Of both far ends.
    far: Namespace,
    near: Namespace,
    /// Interfaces: far, near, near, far.
    cards: [String; 4],
}

impl Bare {
    fn lay(mode: Mode) -> Result<Self> {
        let [[one_far, one_near], [other_near, other_far]] = [mode.cable(0), mode.cable(1)];
        let bare = Self {
            mode,
            far: Namespace::new("far")?,
            near: Namespace::new("near")?,
            cards: [one_far, one_near, other_near, other_far],
        };
        for (place, card) in bare.cards.iter().enumerate() {
            let (namespace, cpu) = match place {
                1 | 2 => (&bare.near, CPU_MEASURED),
                _ => (&bare.far, CPU_GENERATOR),
            };
            namespace.take_card(card, card)?;
            // Packets are for nobody's address.
            namespace.ip(&format!("link set {card} up promisc on\n"))?;
            receive_by_thread(namespace, card)?;
            pin(&format!("napi/{card}-"), cpu)?;
        }
        Ok(bare)
    }

    /// Does `work` while the forwarder runs; its thread's folder in /proc is told.
    fn while_forwarding<T>(&self, work: impl FnOnce(&str) -> Result<T>) -> Result<T> {
        let [_, one, other, _] = &self.cards;
        let (mut forwarder, _program) = self.near.inside(|| {
            let forwarder = Forwarder::new([one, other])?;
            let program = redirect([one, other], forwarder.sockets())?;
            Ok((forwarder, program))
        })?;
        let expected = [self.mode == Mode::ZeroCopy; 2];
        ensure!(
            forwarder.zero_copy() == expected,
            "zero copy at both cards is {:?} in place of {expected:?}",
            forwarder.zero_copy()
        );
        let stop = AtomicBool::new(false);
        let (tell, told) = std::sync::mpsc::channel();
        let (done, forwarder) = thread::scope(|scope| {
            let stop = &stop;
            let running = scope.spawn(move || {
                // Nobody asks any more, if this fails.
                let _ = tell.send(gettid().as_raw());
                forwarder.run(stop);
                forwarder
            });
            let done = told.recv().context("the forwarder's thread").and_then(|thread| {
                pin_thread(thread, CPU_MEASURED)?;
                work(&format!("/proc/self/task/{thread}"))
            });
            stop.store(true, Ordering::Relaxed);
            let forwarder = running.join().map_err(|_| anyhow!("the forwarder panicked"))?;
            anyhow::Ok((done, forwarder))
        })?;
        let done = done?;
        let census = forwarder.census();
        ensure!(
            census.in_flight == 0 && census.free + census.filled == census.all,
            "frames did not come back: {census:?}"
        );
        step(&format!("{}: {census:?}", self.mode.name()));
        Ok(done)
    }

    /// Every packet arrives once, whole and in order, in both directions.
    fn expect_all_arrives(&self) -> Result<()> {
        let [one, _, _, other] = &self.cards;
        let taps = self
            .far
            .inside(|| Ok([Tap::open_here(one)?, Tap::open_here(other)?]))?;
        let send = |from: usize, numbers: core::ops::Range<u64>| {
            let frames: Vec<_> = numbers.map(|number| packet(from, number)).collect();
            taps[from].send_all(&frames)
        };
        self.while_forwarding(|_| {
            // The driver looks for frames twice a second while it has none, and the emulator puts packets that wait for that in another order.
            sleep(FILLED_AFTER);
            let mut next = [0, 0];
            for burst in 0..BURSTS {
                for from in [0, 1] {
                    let end = next[from] + BURST;
                    send(from, next[from]..end)?;
                    // Now the one way is quiet when the other begins, now both are busy.
                    if burst % 2 == 0 {
                        self.expect(&taps, from, &mut next[from], end)?;
                    }
                }
                for (from, next) in next.iter_mut().enumerate() {
                    self.expect(&taps, from, next, BURST * (burst + 1))?;
                }
                // It sleeps meanwhile.
                sleep(Duration::from_millis(30));
            }
            Ok(())
        })?;
        step(&format!(
            "{}: {} packets each way arrived, whole and in order",
            self.mode.name(),
            BURST * BURSTS
        ));
        Ok(())
    }

    /// The packets up to `end` come out where those from `from` are to.
    fn expect(&self, taps: &[Tap; 2], from: usize, next: &mut u64, end: u64) -> Result<()> {
        let deadline = Instant::now() + ARRIVE_MAX;
        while *next < end {
            let frames = taps[1 - from].frames()?;
            // What the tap's own side has sent is among them.
            for frame in frames.iter().filter(|frame| is_from(from, frame)) {
                ensure!(
                    *frame == packet(from, *next),
                    "in place of packet {next} from side {from} came {:02x?}:\n{}",
                    frame.get(..24),
                    self.counters()?
                );
                *next += 1;
            }
            if Instant::now() > deadline {
                bail!(
                    "packet {next} of {end} from side {from} did not arrive:\n{}",
                    self.counters()?
                );
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Where packets are, or are lost.
    fn counters(&self) -> Result<String> {
        let [one_far, one, other, other_far] = &self.cards;
        let mut text = self.far.counters(&[one_far, other_far])? + &self.near.counters(&[one, other])?;
        for card in [one, other] {
            text += &cmd::read(self.near.command("ethtool").args(["-S", card]))?;
        }
        Ok(text)
    }

    /// What the forwarder and its interfaces' receiving threads take for a packet.
    fn timed(&self, time: Duration) -> Result<Figures> {
        let [from, one, other, to] = &self.cards;
        let stream = Stream {
            interface: from.clone(),
            macs: [MAC_NOBODY, MAC_STRANGER],
            sites: 1,
            addresses: [TERMINAL, SERVER],
            destinations: 1,
            source_ports: (FIRST_PORT, 1),
            destination_ports: (PORT, 1),
            frame_octets: FRAME_OCTETS,
            packets_per_s: Some(RATE),
        };
        let napi = [one, other].map(|card| format!("napi/{card}-"));
        let napi = [&napi[0][..], &napi[1], "ksoftirqd/1"];
        self.while_forwarding(|thread| {
            while_generating(&self.far, &stream, || {
                sleep(SETTLE);
                let look = || {
                    anyhow::Ok((
                        self.near.received(one)?,
                        self.far.received(to)?,
                        cpu_time::of_thread(thread)?[0] + lane::cpu_time_ns(&napi)?,
                    ))
                };
                let (started, before) = (Instant::now(), look()?);
                sleep(time);
                let after = look()?;
                let [had, packets, cpu] = [after.0 - before.0, after.1 - before.1, after.2 - before.2];
                ensure!(packets > 0, "nothing came out");
                let lost = had.saturating_sub(packets);
                expect_few_lost(packets, lost)?;
                Ok(Figures {
                    packets,
                    cpu: Duration::from_nanos(cpu),
                    beside: Duration::ZERO,
                    had,
                    lost,
                    elapsed: started.elapsed(),
                })
            })
        })
    }
}

/// Has these interfaces, of the calling thread's namespace, redirect all that comes to these sockets, until dropped.
fn redirect(interfaces: [&str; 2], sockets: [i32; 2]) -> Result<aya::Ebpf> {
    let mut ebpf = aya::EbpfLoader::new().load(OBJECT).context("the load's object")?;
    for (interface, socket) in interfaces.into_iter().zip(sockets) {
        let index = nix::net::if_::if_nametoindex(interface)?;
        XskMap::try_from(ebpf.map_mut(SOCKETS).context(SOCKETS)?)?.set(index, socket, 0)?;
    }
    let program: &mut Xdp = ebpf.program_mut(RECEIVE).context(RECEIVE)?.try_into()?;
    program.load()?;
    for interface in interfaces {
        program
            .attach(interface, XdpMode::Driver)
            .context("the driver has no XDP")?;
    }
    Ok(ebpf)
}

/// Whether a packet was sent by that side.
fn is_from(side: usize, packet: &[u8]) -> bool {
    packet.get(12..15) == Some(&[0x88, 0xb5, side as u8])
}

/// A packet of the experimental EtherType (RFC 5342 appendix B.2), with its side, its number, and octets that differ from one to the next.
fn packet(from: usize, number: u64) -> Vec<u8> {
    let mut packet = [MAC_OUT, MAC_STRANGER].concat();
    packet.extend([0x88, 0xb5, from as u8]);
    packet.extend(number.to_be_bytes());
    let size = SIZES[number as usize % SIZES.len()];
    packet.extend((packet.len()..size).map(|octet| (octet as u64 ^ number.wrapping_mul(167)) as u8));
    packet
}
