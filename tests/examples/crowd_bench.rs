//! Packets of many sites at once, through a gateway on which all of them are up: what a packet costs when each is of another
//! site, beside packets of one site, in turn. `cargo xtask bench ike` runs it in the lab where it has connected them:
//!
//! `crowd_bench KEYS PID [--json] [--short]`; KEYS has the SPI and the key of each site's Child SA, as
//! `gateway/ike/examples/initiators.rs` leaves them; PID is the gateway's process. Needs root.
//!
//! Who sends, and what the kernel does on receiving, is on the first core; the gateway is on the last. CPU time is that of all
//! of its threads, from /proc/PID/task. What the center's interface counts is what counts; then it is thrown away: the center
//! would answer that nobody listens, and the site's kernel that it knows no ESP, and what they send comes to the gateway's core.

#[path = "load_bench/packet.rs"]
#[expect(dead_code, reason = "load_bench uses the rest")]
mod packet;
#[path = "load_bench/sink.rs"]
#[expect(dead_code, reason = "load_bench uses the rest")]
mod sink;

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gateway_esp::{
    HEADROOM_MAX, IvKey, KeyMaterial, LinkHeader, OutboundConfig, OutboundSa, OuterDf, Selectors, Suite,
    TAILROOM_MAX, Tunnel,
};
use gateway_tests::cpu_time;
use gateway_tests::random::Random;
use xtask::bench::machine::Core;
use xtask::bench::report::{Figure, emit};
use xtask::lab::line::{BURST, Line};
use xtask::lab::topology::{Node, Options, Site};
use xtask::traffic;

use sink::{Sinks, Surplus};

/// Octets of an inner packet.
const SIZE: usize = 64;
const ROUNDS: usize = 7;
const ROUNDS_SHORT: usize = 3;
/// Packets of a flood.
const PACKETS: usize = 60_000;
const PACKETS_SHORT: usize = 20_000;
/// A site's first packet makes its flow: at a rate at which none is lost.
const OPENED_PER_S: f64 = 20_000.0;
const OPENING_TRIES: usize = 5;
/// What the daemon takes at most to hear of so many new flows.
const SETTLED: Duration = Duration::from_secs(2);
/// After so long without a packet no more are under way.
const STILL: Duration = Duration::from_millis(60);
/// While flows are opened, of which none may be missing: a gateway that does not come to run is waited for.
const OPENED: Duration = Duration::from_secs(1);

/// Which sites send.
#[derive(Clone, Copy)]
enum Who {
    One,
    All,
}

impl Who {
    const BOTH: [Self; 2] = [Self::One, Self::All];

    const fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::All => "all",
        }
    }
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |wanted: &str| words.iter().any(|word| word == wanted);
    let [keys, pid, ..] = words.as_slice() else {
        anyhow::bail!("crowd_bench KEYS PID [--json] [--short]");
    };
    let (rounds, packets) = if has("--short") {
        (ROUNDS_SHORT, PACKETS_SHORT)
    } else {
        (ROUNDS, PACKETS)
    };
    let mut crowd = Crowd::new(Path::new(keys), pid.parse().context("PID")?)?;
    let figures = Core::Generator.run(|| {
        match crowd.open_flows()? {
            None => {}
            // It shows that all of it runs; what a packet costs on a machine that has other work to do it does not say.
            Some(lossy) if has("--short") => eprintln!("{lossy}"),
            Some(lossy) => anyhow::bail!(lossy),
        }
        // The daemon has been told of as many flows, and caches are cold.
        sleep(SETTLED);
        for who in Who::BOTH {
            crowd.flood(who, packets)?;
        }
        let mut samples = [const { (Vec::new(), Vec::new()) }; 2];
        for _ in 0..rounds {
            for (who, (kpps, ns)) in Who::BOTH.into_iter().zip(&mut samples) {
                let flood = crowd.flood(who, packets)?;
                kpps.push(flood.kpps);
                ns.push(flood.cpu_ns);
            }
        }
        let figures = Who::BOTH.into_iter().zip(samples).flat_map(|(who, (kpps, ns))| {
            let name = |what| format!("{what} | {}", who.name());
            [
                Figure::new(name("packets"), "kpps", kpps),
                Figure::new(name("CPU time of a packet"), "ns", ns),
            ]
        });
        Ok(figures.collect())
    })?;
    emit(figures, has("--json"))
}

/// All sites' ends of their tunnels.
struct Crowd {
    _sinks: Sinks,
    sas: Vec<OutboundSa>,
    line: Line,
    gateway: i32,
    random: Random,
}

/// What came of a flood.
struct Flood {
    kpps: f64,
    cpu_ns: f64,
}

impl Crowd {
    fn new(keys: &Path, gateway: i32) -> Result<Self> {
        let line = Line::open(Site::One.router(), "wan")?;
        let link = LinkHeader {
            destination: Line::open(Node::Gateway, "wan4")?.address(),
            source: line.address(),
        };
        let text = fs::read_to_string(keys).with_context(|| keys.display().to_string())?;
        let sas: Vec<_> = text
            .lines()
            .map(|line| sa(line, link))
            .collect::<Result<_>>()
            .with_context(|| keys.display().to_string())?;
        ensure!(!sas.is_empty(), "{} names no Child SA", keys.display());
        Ok(Self {
            _sinks: Sinks::open(Site::One, Surplus::Load)?,
            sas,
            line,
            gateway,
            random: Random(7),
        })
    }

    /// Has every site send until a packet of each has come through: each has a mapping and a flow then. Says so if they do not.
    fn open_flows(&mut self) -> Result<Option<String>> {
        let sites = self.sas.len();
        for _ in 0..OPENING_TRIES {
            let order: Vec<_> = (0..sites).collect();
            let frames = self.frames(&order)?;
            let (before, started) = (arrived()?, Instant::now());
            for (burst, frames) in frames.chunks(BURST).enumerate() {
                let due = (burst * BURST) as f64 / OPENED_PER_S;
                while started.elapsed().as_secs_f64() < due {
                    std::hint::spin_loop();
                }
                self.line.send(frames)?;
            }
            // None of them is under way any more when the next ones are sent.
            if settled(before, OPENED)?.0 == sites as u64 {
                return Ok(None);
            }
        }
        Ok(Some(format!(
            "packets of {sites} sites did not all come through, in {OPENING_TRIES} tries"
        )))
    }

    fn flood(&mut self, who: Who, packets: usize) -> Result<Flood> {
        let order = match who {
            Who::One => vec![0; packets],
            Who::All => self.shuffled(packets),
        };
        let frames = self.frames(&order)?;
        let (before, cpu_before_ns) = (arrived()?, cpu_time::of_process(self.gateway)?);
        let started = Instant::now();
        self.line.send(&frames)?;
        let (arrived, last) = settled(before, STILL)?;
        let cpu_ns = cpu_time::of_process(self.gateway)? - cpu_before_ns;
        ensure!(arrived > 0, "nothing came through");
        Ok(Flood {
            kpps: arrived as f64 / last.duration_since(started).as_secs_f64() / 1_000.0,
            cpu_ns: cpu_ns as f64 / arrived as f64,
        })
    }

    /// Sites in random order, each as often as the others.
    fn shuffled(&mut self, packets: usize) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.sas.len()).cycle().take(packets).collect();
        for place in (1..order.len()).rev() {
            let other = self.random.below(place as u32 + 1) as usize;
            order.swap(place, other);
        }
        order
    }

    /// The next packet of each of these sites, sealed.
    fn frames(&mut self, order: &[usize]) -> Result<Vec<Vec<u8>>> {
        let inner = packet::to_center(SIZE, 0);
        let place = HEADROOM_MAX..HEADROOM_MAX + SIZE;
        let seal = |site: &usize| {
            let sa = self.sas.get_mut(*site).context("a site")?;
            let mut frame = vec![0; place.end + TAILROOM_MAX];
            frame
                .get_mut(place.clone())
                .context("the packet's place")?
                .copy_from_slice(&inner);
            let sealed = sa.seal(&mut frame, place.clone())?;
            frame.truncate(sealed.end);
            frame.drain(..sealed.start);
            Ok(frame)
        };
        order.iter().map(seal).collect()
    }
}

/// From a line with SPI and key, both in hexadecimal, and `esn` if numbers are extended.
fn sa(line: &str, link: LinkHeader) -> Result<OutboundSa> {
    let words: Vec<_> = line.split(' ').collect();
    let [spi, key, numbers] = words.as_slice() else {
        anyhow::bail!("{line:?} is no Child SA");
    };
    let octets = (0..key.len() / 2)
        .map(|octet| {
            Ok(u8::from_str_radix(
                key.get(2 * octet..2 * octet + 2).context("a digit")?,
                16,
            )?)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(OutboundSa::new(OutboundConfig {
        spi: u32::from_str_radix(spi, 16)?,
        suite: Suite::AesGcm16_256,
        keys: KeyMaterial::new(&octets, &[]),
        esn: *numbers == "esn",
        first_sequence: 1,
        iv_key: IvKey::new([7; 16]),
        selectors: Selectors::any(),
        tunnel: Tunnel {
            local: Site::One.router_address(&Options::default()).parse()?,
            remote: Site::One.gateway_address().parse()?,
            udp: None,
            link,
            mtu: 1500,
            df: OuterDf::Set,
        },
    })?)
}

fn arrived() -> Result<u64> {
    traffic::received(Node::Center, "eth0")
}

/// Follows the center's counter until it has stood still for so long; how far it went, and when it last moved.
fn settled(before: u64, still: Duration) -> Result<(u64, Instant)> {
    let mut last = (arrived()? - before, Instant::now());
    while last.1.elapsed() < still {
        sleep(Duration::from_micros(500));
        let now = arrived()? - before;
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    Ok(last)
}
