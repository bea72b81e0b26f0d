//! The gateway's packet path beside the kernel's own, driven by the kernel's pktgen: the measuring part of
//! `cargo xtask bench --pktgen`, which runs it on the machine or in a guest and reads what it says.
//!
//! `pktgen_bench --rounds N --seconds S [--live] [--gateway PROGRAM --pki FOLDER]`; needs root and two CPUs; and pktgen, or
//! with `--live` what generates in its place ([`live`]). With `--zero-copy` something else is measured ([`zero_copy`]).
//!
//! Comparisons, with 64-octet frames:
//!
//! - *forwarding*: an XDP program that only forwards, beside the kernel's forwarding. It says how much of a figure is the harness.
//! - *filter and NAPT*: the gateway's `clear` with a real rule generation, flow table and NAT mappings, beside nftables with
//!   connection tracking, a stateful rule set and masquerading; with one flow and with many; with many also beside the same with a
//!   flowtable, where the kernel has them.
//! - *new flows*: the same where each packet is the first of a flow ([`new_flows`]).
//! - *whole gateway* (with `--gateway`): daemons at both ends of a tunnel, beside XFRM with nftables ([`whole`], [`tunnels`]).
//!
//! pktgen has CPU 0. What is measured receives by threaded NAPI on CPU 1, with its sink ([`lane`]). What counts is what the
//! sink's interface received. Each side has the cheapest sink it can have: an XDP program that drops, and a stack that drops a
//! frame for another station; what a sink takes is not counted. CPU time is what the measured NAPI thread took, for each packet
//! that the sink received: how many packets one core forwards, however fast the generator is. Before a figure counts, the
//! number of flows (connections) and of translations is what was meant, and the gateway has dropped nothing. The generator leaves
//! what is measured and its sink time, so that next to nothing is lost between them.

mod gateway;
mod lane;
mod linux;
mod live;
mod namespace;
mod new_flows;
mod tunnels;
mod whole;
mod zero_copy;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use xtask::bench::pktgen::control::{self, Stream};
use xtask::bench::pktgen::protocol::{Line, Sample};

use gateway::{PORT, Programs, SERVER, TERMINAL};
use lane::{CPU_GENERATOR, Ends, IN, Lane, MAC_IN, MAC_OUT, OUT};
use live::Live;
use namespace::Namespace;

/// Flows of the cases, each with a source port of its own.
const FLOWS: [u16; 2] = [1, 10_000];
/// With which nftables has a flowtable too.
const FLOWS_FAST: u16 = 10_000;
const FIRST_PORT: u16 = 20_000;
/// 64 with the frame check sequence.
const FRAME_OCTETS: u16 = 60;
/// Packets a second, on a machine and in a guest, where all takes longer: as many as fit the ring of a veth between two of its
/// interrupts ([`lane`]). More would get lost between what is measured and the sink, which wait for one another, two in five of
/// them, and what is lost there has cost as much as what is counted.
const RATE: u32 = 300_000;
const RATE_EMULATED: u32 = 20_000;
/// One packet in so many may be lost there all the same, when a machine stops for a while. It has been forwarded, and counts.
const LOST_ONE_IN: u64 = 4;
/// What a side may take until it has all flows.
const WARM_UP_MAX: Duration = Duration::from_secs(20);
/// For how long the sink answers.
const ANSWERING: Duration = Duration::from_millis(500);
/// For how long connections flow until all of them are in a flowtable: each has had its turn twice.
const FLOWING: Duration = Duration::from_secs(1);
/// What the kernel's side masquerades as.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Where frames come from.
const MAC_STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// What it goes on for until it is measured.
const SETTLE: Duration = Duration::from_millis(500);

fn main() -> std::process::ExitCode {
    println!("{}", Line::Begin.text());
    let (status, code) = match measure() {
        Ok(()) => (0, std::process::ExitCode::SUCCESS),
        Err(error) => {
            println!("{error:#}");
            (1, std::process::ExitCode::FAILURE)
        }
    };
    println!("{}", Line::End(status).text());
    code
}

/// Says what has been done, and when since the start of the system.
fn step(what: &str) {
    let at = gateway_tests::kernel::monotonic().as_secs_f64();
    println!("{}", Line::Step(format!("{at:.1} s: {what}")).text());
}

fn measure() -> Result<()> {
    let rounds = argument("--rounds")?.unwrap_or(1.0) as u32;
    let time = Duration::from_secs_f64(argument("--seconds")?.unwrap_or(1.0));
    if std::env::args().any(|argument| argument == "--zero-copy") {
        let program = word("--gateway").context("--gateway")?;
        let pki = word("--pki").context("--pki")?;
        return zero_copy::measure(rounds, time, (program.as_ref(), pki.as_ref()));
    }
    let mut bench = Bench::new(std::env::args().any(|argument| argument == "--live"))?;
    bench.rounds(rounds, time)?;
    let Some((program, pki)) = word("--gateway").zip(word("--pki")) else {
        return Ok(());
    };
    let chains = bench.tunnels(program.as_ref(), pki.as_ref())?;
    step("the tunnels are up");
    bench.rounds_of_tunnels(&chains, rounds, time)
}

fn argument(name: &str) -> Result<Option<f64>> {
    let value = word(name);
    value
        .map(|value| value.parse().with_context(|| format!("{name} {value}")))
        .transpose()
}

fn word(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

/// All lanes, laid once.
struct Bench {
    ends: Ends,
    programs: Programs,
    xdp: gateway::Lanes,
    forward: Lane,
    /// For each of [`FLOWS`].
    nftables: [Lane; 2],
    /// With a flowtable.
    flowtable: Option<Lane>,
    /// For new flows.
    nftables_new: Lane,
    /// In pktgen's place.
    live: Option<Live>,
}

impl Bench {
    fn new(live: bool) -> Result<Self> {
        let ends = Ends::new()?;
        let mut programs = Programs::load()?;
        let forward = linux::forward(&ends, 0)?;
        let server = SERVER.to_string();
        let nftables = [
            linux::nftables(&ends, 1, "nftables-one", &server)?,
            linux::nftables(&ends, 2, "nftables-many", &server)?,
        ];
        let xdp = programs.lay(&ends, 3)?;
        let nftables_new = new_flows::nftables(&ends, 6)?;
        let flowtable = linux::nftables_with_flowtable(&ends, 7, &server)?;
        for lane in nftables.iter().chain(&flowtable).chain([
            &forward,
            &nftables_new,
            &xdp.forward,
            &xdp.clear,
            &xdp.fresh,
        ]) {
            // Frames that are generated live need none.
            if !live {
                programs.harness.relay(&ends.generator, &lane.relay)?;
            }
        }
        let live = live
            .then(|| Programs::live(&ends.generator, &forward.relay.from))
            .transpose()?;
        step("all lanes are laid");
        Ok(Self {
            ends,
            programs,
            xdp,
            forward,
            nftables,
            flowtable,
            nftables_new,
            live,
        })
    }

    fn rounds(&mut self, rounds: u32, time: Duration) -> Result<()> {
        for _ in 0..rounds {
            let case = "forwarding, 1 flow";
            let stream = self.to_site_link(&self.xdp.forward, 1)?;
            say(case, true, "XDP", self.timed(&self.xdp.forward, &stream, time)?);
            let stream = self.to_router(&self.forward, 1);
            say(case, false, "Linux", self.timed(&self.forward, &stream, time)?);
            for (at, flows) in FLOWS.into_iter().enumerate() {
                let case = format!(
                    "filter and NAPT, {flows} flow{}",
                    if flows > 1 { "s" } else { "" }
                );
                let ours = self.gateway(flows, time)?;
                say(&case, true, "gateway", ours);
                let lane = self.nftables.get(at).context("a lane for each number of flows")?;
                say(&case, false, "nftables", self.kernel(lane, flows, time)?);
                // Of one number of flows: a connection of the other would pass rules by too.
                if let Some(lane) = self.flowtable.as_ref().filter(|_| flows == FLOWS_FAST) {
                    let case = format!("{case}, beside a flowtable");
                    say(&case, true, "gateway", ours);
                    say(&case, false, "flowtable", self.flowtable(lane, flows, time)?);
                }
            }
            self.new_flows()?;
        }
        Ok(())
    }

    /// The gateway's figures, with this many flows.
    fn gateway(&mut self, flows: u16, time: Duration) -> Result<Figures> {
        self.programs.forget()?;
        let lane = &self.xdp.clear;
        let stream = self.to_site_link(lane, flows)?;
        self.until_all_flows(&stream, flows, || self.programs.flows())?;
        let figures = self.timed(lane, &stream, time);
        // That it dropped something says more than that nothing arrived.
        self.programs.expect_no_drops()?;
        expect_flows(flows, self.programs.flows()?)?;
        self.programs.expect_translated(flows.into())?;
        figures
    }

    /// The figures of nftables, with this many connections, each of which has had an answer.
    fn kernel(&self, lane: &Lane, flows: u16, time: Duration) -> Result<Figures> {
        let (figures, established) = self.established(lane, flows, Duration::ZERO, time)?;
        // What was sent before and after the time that is measured is among them.
        ensure!(
            established >= figures.packets,
            "of {} packets and more only {established} were of established connections",
            figures.packets
        );
        Ok(figures)
    }

    /// The same with a flowtable, which packets of such connections take past the rules.
    fn flowtable(&self, lane: &Lane, flows: u16, time: Duration) -> Result<Figures> {
        // The first of each comes to the rule that puts it into the flowtable.
        let (figures, established) = self.established(lane, flows, FLOWING, time)?;
        ensure!(
            established < figures.packets / 10,
            "{established} of {} packets did not pass the rules by",
            figures.packets
        );
        Ok(figures)
    }

    /// Figures, and how many packets the rule of established connections saw meanwhile, after they have flowed for `before`.
    fn established(
        &self,
        lane: &Lane,
        flows: u16,
        before: Duration,
        time: Duration,
    ) -> Result<(Figures, u64)> {
        let stream = self.to_router(lane, flows);
        self.until_all_flows(&stream, flows, || linux::tracked(lane))?;
        self.answer(lane, flows)?;
        if !before.is_zero() {
            self.while_sending(&self.ends.generator, &stream, || {
                sleep(before);
                Ok(())
            })?;
        }
        let established = || linux::counted(lane, "filter", "established");
        let before = established()?;
        let figures = self.timed(lane, &stream, time)?;
        let established = established()? - before;
        expect_flows(flows, linux::tracked(lane)?)?;
        linux::expect_translated(lane, flows.into())?;
        Ok((figures, established))
    }

    /// Sends until there are as many flows as are meant.
    fn until_all_flows(&self, stream: &Stream, flows: u16, count: impl Fn() -> Result<u64>) -> Result<()> {
        let deadline = Instant::now() + WARM_UP_MAX;
        self.while_sending(&self.ends.generator, stream, || {
            loop {
                let now = count()?;
                if now == u64::from(flows) {
                    return Ok(());
                }
                ensure!(
                    now < u64::from(flows) && Instant::now() < deadline,
                    "{now} flows in place of {flows}"
                );
                sleep(Duration::from_millis(100));
            }
        })
    }

    /// The sink answers every flow some times: what the generator's side sent is one of an established connection then.
    fn answer(&self, lane: &Lane, flows: u16) -> Result<()> {
        let stream = Stream {
            interface: lane.to.clone(),
            macs: [MAC_OUT, MAC_STRANGER],
            sites: 1,
            addresses: [SERVER, ROUTER],
            destinations: 1,
            source_ports: (PORT, 1),
            destination_ports: (FIRST_PORT, flows),
            frame_octets: FRAME_OCTETS,
            packets_per_s: Some(self.rate()),
        };
        self.while_sending(&self.ends.sink, &stream, || {
            sleep(ANSWERING);
            Ok(())
        })
    }

    /// Packets that the sink receives, and what CPU time that takes, while the generator sends.
    fn timed(&self, lane: &Lane, stream: &Stream, time: Duration) -> Result<Figures> {
        self.programs.tick()?;
        self.while_sending(&self.ends.generator, stream, || {
            sleep(SETTLE);
            let look = || {
                anyhow::Ok((
                    self.ends.sink.received(&lane.to)?,
                    lane.namespace.not_sent(OUT)?,
                    lane::cpu_time_ns(&lane::MEASURED)?,
                    lane::cpu_time_ns(&lane::SINKING)?,
                ))
            };
            let (started, (packets, lost, cpu, sink)) = (Instant::now(), look()?);
            sleep(time);
            let (packets_after, lost_after, cpu_after, sink_after) = look()?;
            let elapsed = started.elapsed();
            ensure!(
                packets_after > packets,
                "nothing reached the sink {}:\n{}",
                lane.to,
                self.counters(lane)?
            );
            let (packets, lost) = (packets_after - packets, lost_after - lost);
            expect_few_lost(packets, lost)?;
            Ok(Figures {
                packets: packets + lost,
                cpu: Duration::from_nanos(cpu_after - cpu),
                beside: Duration::from_nanos(sink_after - sink),
                had: packets + lost,
                lost,
                elapsed,
            })
        })
    }

    /// From the site's terminal to the server, as a worker would hand it to the clear link.
    fn to_site_link(&self, lane: &Lane, flows: u16) -> Result<Stream> {
        Ok(Stream {
            macs: gateway::link_header()?,
            ..self.to_router(lane, flows)
        })
    }

    /// From the terminal to the server, through a router.
    fn to_router(&self, lane: &Lane, flows: u16) -> Stream {
        Stream {
            interface: lane.from.clone(),
            macs: [MAC_IN, MAC_STRANGER],
            sites: 1,
            addresses: [TERMINAL, SERVER],
            destinations: 1,
            source_ports: (FIRST_PORT, flows),
            destination_ports: (PORT, 1),
            frame_octets: FRAME_OCTETS,
            packets_per_s: Some(self.rate()),
        }
    }

    /// Packets a second that both sides have time for.
    const fn rate(&self) -> u32 {
        if self.live.is_some() { RATE } else { RATE_EMULATED }
    }

    /// Where packets are, or are lost.
    fn counters(&self, lane: &Lane) -> Result<String> {
        let mut text = self
            .ends
            .generator
            .counters(&[&lane.from, &lane.relay.from, &lane.relay.to])?;
        text += &lane.namespace.counters(&[IN, OUT])?;
        text += &self.ends.sink.counters(&[&lane.to])?;
        Ok(text)
    }

    /// Does `work` while the generator sends from a namespace.
    fn while_sending<T>(
        &self,
        from: &Namespace,
        stream: &Stream,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        match &self.live {
            Some(live) => while_live(live, from, stream, work),
            None => while_generating(from, stream, work),
        }
    }
}

/// Does `work` while pktgen sends from a namespace.
fn while_generating<T>(from: &Namespace, stream: &Stream, work: impl FnOnce() -> Result<T>) -> Result<T> {
    from.inside(|| control::configure(CPU_GENERATOR, stream))?;
    let done = thread::scope(|scope| {
        let generator = scope.spawn(|| {
            from.enter()?;
            control::run()
        });
        // So that it is not told to stop before it has started.
        sleep(Duration::from_millis(200));
        let done = work();
        let stopped = from.inside(control::stop);
        let ended = generator
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the generator's thread panicked")));
        stopped.and(ended).map(|()| done)
    })?;
    let sent = from.inside(|| control::result(&stream.interface, Duration::from_secs(5)))?;
    let done = done.with_context(|| format!("while pktgen sent by {}: {sent:?}", stream.interface))?;
    ensure!(sent.packets > 0, "pktgen sent nothing: {sent:?}");
    Ok(done)
}

/// Does `work` while frames are generated live.
fn while_live<T>(
    live: &Live,
    from: &Namespace,
    stream: &Stream,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    // Frames of a generator's interface leave by the one that its relay would send them on by.
    let interface = stream
        .interface
        .strip_prefix('g')
        .map_or_else(|| stream.interface.clone(), |lane| format!("f{lane}"));
    let stream = Stream {
        interface,
        ..stream.clone()
    };
    live.configure(from, &stream)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let generator = scope.spawn(|| live.run(from, &stream, &stop));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let ended = generator
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the generator's thread panicked")));
        ended.and(done)
    })
}

/// What was seen in a time.
#[derive(Clone, Copy)]
struct Figures {
    packets: u64,
    cpu: Duration,
    /// What else its CPU had to do: the sink's work.
    beside: Duration,
    /// Packets that the measured side had, and those of them that did not come to where packets are counted.
    had: u64,
    lost: u64,
    elapsed: Duration,
}

fn say(case: &str, ours: bool, side: &str, figures: Figures) {
    let seconds = figures.elapsed.as_secs_f64();
    let packets = figures.packets as f64;
    let sample = Sample {
        case: case.to_owned(),
        ours,
        side: side.to_owned(),
        kpps: packets / seconds / 1000.0,
        cpu_ns: figures.cpu.as_nanos() as f64 / packets,
        busy: (figures.cpu + figures.beside).as_secs_f64() / seconds,
        lost: figures.lost as f64 / figures.had as f64,
    };
    println!("{}", Line::Sample(sample).text());
}

fn expect_few_lost(packets: u64, lost: u64) -> Result<()> {
    ensure!(
        lost <= packets / LOST_ONE_IN,
        "{lost} packets beside {packets} found no room in the sink's ring: the machine is too slow or too busy"
    );
    Ok(())
}

fn expect_flows(flows: u16, found: u64) -> Result<()> {
    ensure!(
        found == u64::from(flows),
        "{found} flows in place of {flows} after the measuring"
    );
    Ok(())
}
