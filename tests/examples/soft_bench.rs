//! What one worker with the direct engine carries on one core, without interfaces: frames lie in memory, the worker opens or
//! seals them, filters and translates those of sites, and leaves them in memory.
//!
//! `cargo run -p gateway-tests --release --example soft_bench [-- --json] [--short]`; needs no privilege.
//!
//! *Inbound* is all of a site's packet: outer headers, ESP, replay window, selectors, flow, TCP or UDP state, NAPT, next hop.
//! *Opened only* is the same with `engine = "xdp"`, up to the clear link. *Outbound* is ESP alone: the `core` program has
//! found flow and SA before the worker has the frame. In *both*, batches of the two take turns.
//!
//! Tables are for a million flows. Cases take turns; a figure is the median over rounds, beside the lowest and the highest.
//! One flow of one site is what others publish; many flows of 64 sites, an SA pair each, in random order, are what a center
//! has.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use gateway::dataplane::soft::{CORE, SoftSa, SoftWorker, WAN};
use gateway::dataplane::tables::SharedTables;
use gateway::dataplane::{Direct, Egress, TableSizes};
use gateway_common::abi::flow::{Flow, FlowKey, Half, Progress, pair, state, word};
use gateway_common::abi::interface::{STATES, Settings};
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::sa::LinkHeader as ClearHeader;
use gateway_common::tables::words::Words as _;
use gateway_esp::{
    HEADROOM_MAX, InboundConfig, InboundSa, IvKey, KeyMaterial, LinkHeader, OutboundConfig, OutboundSa,
    OuterDf, REPLAY_WINDOW_DEFAULT, Selectors, Suite, TAILROOM_MAX, Tunnel, UdpEncap,
};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use zerocopy::IntoBytes as _;

/// Sites, and flows of each.
const LOADS: [(u32, u16); 2] = [(1, 1), (64, 16)];
/// Frames of one measurement.
const FRAMES: usize = 256;
/// Measurements of a case's turn, behind some that are not counted: the case before it has left its own data in the caches.
const MEASURED: usize = 8;
const WARMING: usize = 8;
const ROUNDS: usize = 101;
const ROUNDS_SHORT: usize = 5;
const SUITES: [Suite; 2] = [Suite::AesGcm16_256, Suite::AesCbc256HmacSha256_128];
/// Inner packets of a mix, octets.
const MIXES: [(&str, &[usize]); 3] = [
    ("64", &[64]),
    ("IMIX", &[64, 576, 64, 64, 576, 64, 1400, 64, 576, 64, 64, 576]),
    ("1400", &[1400]),
];
const SERVER: [u8; 4] = [203, 0, 113, 10];
const TERMINAL: [u8; 4] = [192, 168, 1, 10];
const SERVER_PORT: u16 = 443;
const PORT: u16 = 5000;
const NAT_PORT: u16 = 40_000;
const IFINDEX: u32 = 3;
const NOW_S: u32 = 1000;
const NOW_MS: u64 = NOW_S as u64 * 1000;
const OURS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    OpenedOnly,
    Inbound,
    Outbound,
    Both,
}

impl Way {
    const ALL: [Self; 4] = [Self::Inbound, Self::Outbound, Self::Both, Self::OpenedOnly];

    const fn name(self) -> &'static str {
        match self {
            Self::OpenedOnly => "opened only",
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Both => "both",
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % limit
    }
}

fn main() -> Result<()> {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    let rounds = if has("--short") { ROUNDS_SHORT } else { ROUNDS };
    stay_on_one_core();
    let mut cases = Vec::new();
    for suite in SUITES {
        for mix in MIXES {
            for load in LOADS {
                for way in Way::ALL {
                    cases.push(Case::new(suite, mix, load, way)?);
                }
            }
        }
    }
    for _ in 0..rounds {
        for case in &mut cases {
            case.take_turn()?;
        }
    }
    if has("--json") {
        let all: Vec<_> = cases.iter_mut().map(Case::json).collect();
        println!("{}", serde_json::Value::Array(all));
    } else {
        println!(
            "suite               inner octets   flows  way             ns   (lowest, highest)   Mpps  Gbit/s"
        );
        cases.iter_mut().for_each(Case::print);
    }
    Ok(())
}

/// The last core: interrupts go to the first.
fn stay_on_one_core() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    let pinned = set
        .set(cores - 1)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        eprintln!("not pinned to a core: {error}");
    }
}

struct Case {
    suite: Suite,
    mix: (&'static str, &'static [usize]),
    load: (u32, u16),
    way: Way,
    worker: SoftWorker,
    routers: Vec<OutboundSa>,
    random: Random,
    ns: Vec<f64>,
}

impl Case {
    fn new(suite: Suite, mix: (&'static str, &'static [usize]), load: (u32, u16), way: Way) -> Result<Self> {
        let direct = match way {
            Way::OpenedOnly => None,
            Way::Inbound | Way::Outbound | Way::Both => Some(direct(load)?),
        };
        let (sites, _) = load;
        let sas = (1..=sites)
            .map(|site| soft_sa(suite, site))
            .collect::<Result<_>>()?;
        let routers = (1..=sites)
            .map(|site| sender(suite, spi(site), 1, (ROUTER, OURS)))
            .collect::<Result<_>>()?;
        let mut case = Self {
            suite,
            mix,
            load,
            way,
            worker: SoftWorker::new(sas, direct, 2 * FRAMES)?,
            routers,
            random: Random(7),
            ns: Vec::new(),
        };
        // Memory is touched for the first time.
        case.measure()?;
        Ok(case)
    }

    fn take_turn(&mut self) -> Result<()> {
        for _ in 0..WARMING {
            self.measure()?;
        }
        for _ in 0..MEASURED {
            let ns = self.measure()?;
            self.ns.push(ns);
        }
        Ok(())
    }

    /// Puts frames in place, then measures the worker: nanoseconds a frame.
    fn measure(&mut self) -> Result<f64> {
        let (way, sizes, (sites, flows)) = (self.way, self.mix.1, self.load);
        for (number, size) in (0..FRAMES).zip(sizes.iter().cycle()) {
            let site = 1 + self.random.below(sites.into()) as u32;
            let flow = self.random.below(flows.into()) as u16;
            let outbound = match way {
                Way::Outbound => true,
                Way::OpenedOnly | Way::Inbound => false,
                Way::Both => number % 2 == 0,
            };
            let placed = if outbound {
                self.worker.arrive(CORE, &from_core(site, flow, *size))
            } else {
                let router = self.routers.get_mut(site as usize - 1).context("a router")?;
                self.worker.arrive(WAN, &sealed(router, flow, *size)?)
            };
            ensure!(placed, "no frame is free");
        }
        let begin = Instant::now();
        let served = self.worker.serve(NOW_MS);
        let ns = begin.elapsed().as_nanos() as f64 / FRAMES as f64;
        let (mut wan, mut core) = (0, 0);
        let sealed = self.worker.take_left(WAN, |_| wan += 1);
        let forwarded = self.worker.take_left(CORE, |_| core += 1);
        let linked = self.worker.take_left(gateway::dataplane::soft::CLEAR, |_| {});
        let expected = match way {
            Way::OpenedOnly => (0, 0, FRAMES),
            Way::Inbound => (0, FRAMES, 0),
            Way::Outbound => (FRAMES, 0, 0),
            Way::Both => (FRAMES / 2, FRAMES / 2, 0),
        };
        ensure!(
            (sealed, forwarded, linked) == expected && served == FRAMES,
            "{way:?}: {sealed} sealed, {forwarded} forwarded, {linked} to the clear link; drops {:?}",
            self.worker.drops()
        );
        Ok(ns)
    }

    fn flows(&self) -> u32 {
        self.load.0 * u32::from(self.load.1)
    }

    /// Octets of an inner packet, on average.
    fn octets(&self) -> f64 {
        self.mix.1.iter().sum::<usize>() as f64 / self.mix.1.len() as f64
    }

    /// Median, lowest and highest.
    fn figures(&mut self) -> [f64; 3] {
        self.ns.sort_by(f64::total_cmp);
        let at = |place: usize| self.ns.get(place).copied().unwrap_or(f64::NAN);
        [at(self.ns.len() / 2), at(0), at(self.ns.len() - 1)]
    }

    fn print(&mut self) {
        let [median, lowest, highest] = self.figures();
        println!(
            "{:19} {:>12}  {:>6}  {:11} {median:6.0}   ({lowest:6.0}, {highest:7.0})   {:5.2}  {:6.2}",
            self.suite.name(),
            self.mix.0,
            self.flows(),
            self.way.name(),
            1000.0 / median,
            self.octets() * 8.0 / median,
        );
    }

    fn json(&mut self) -> serde_json::Value {
        let [median, lowest, highest] = self.figures();
        serde_json::json!({
            "suite": self.suite.name(), "mix": self.mix.0, "flows": self.flows(), "way": self.way.name(), "ns": median,
            "lowest_ns": lowest, "highest_ns": highest, "mpps": 1000.0 / median,
            "gbit_per_s": self.octets() * 8.0 / median,
        })
    }
}

const fn spi(site: u32) -> u32 {
    0x1000 + site
}

fn keys(suite: Suite, octet: u8) -> KeyMaterial {
    KeyMaterial::new(
        &vec![octet; suite.encryption_key_len()],
        &vec![octet ^ 0x55; suite.integrity_key_len()],
    )
}

fn tunnel((local, remote): (Ipv4Addr, Ipv4Addr)) -> Tunnel {
    Tunnel {
        local: local.into(),
        remote: remote.into(),
        udp: Some(UdpEncap {
            local_port: 4500,
            remote_port: 4500,
        }),
        link: LinkHeader {
            destination: [2, 0, 0, 0, 0, 2],
            source: [2, 0, 0, 0, 0, 1],
        },
        mtu: 1500,
        df: OuterDf::Set,
    }
}

fn sender(suite: Suite, spi: u32, octet: u8, ends: (Ipv4Addr, Ipv4Addr)) -> Result<OutboundSa> {
    Ok(OutboundSa::new(OutboundConfig {
        spi,
        suite,
        keys: keys(suite, octet),
        esn: true,
        first_sequence: 1,
        iv_key: IvKey::new([octet; 16]),
        selectors: Selectors::any(),
        tunnel: tunnel(ends),
    })?)
}

fn soft_sa(suite: Suite, site: u32) -> Result<SoftSa> {
    let inbound = InboundSa::new(InboundConfig {
        spi: spi(site),
        suite,
        keys: keys(suite, 1),
        esn: true,
        replay_window: REPLAY_WINDOW_DEFAULT,
        selectors: Selectors::any(),
    })?;
    Ok(SoftSa {
        site,
        inbound,
        outbound: sender(suite, spi(site) + 0x1000, 2, (OURS, ROUTER))?,
        tunnel: tunnel((OURS, ROUTER)),
    })
}

/// The engine over tables with every flow in them, as the programs would have made them.
fn direct((sites, flows): (u32, u16)) -> Result<Direct> {
    let sizes = TableSizes {
        flows: 1_000_000,
        mappings: 16_384,
    };
    let settings = Settings {
        idle_s: [300; STATES],
        ..Settings::UNLIMITED
    };
    let hop = NextHop {
        ifindex: IFINDEX,
        resolved: 1,
        destination_mac: [2, 0, 0, 0, 0, 0xb],
        source_mac: [2, 0, 0, 0, 0, 0xa],
        mtu: 1500,
    };
    let tables = SharedTables::in_memory(&sizes.geometry()?, sites + 1, &settings, &[hop])?;
    tables.set_now_s(NOW_S);
    for site in 1..=sites {
        for flow in 0..flows {
            insert(&tables, site, flow)?;
        }
    }
    let egress = Egress {
        ifindex: IFINDEX,
        port: CORE,
        frame_max: 1514,
    };
    Ok(Direct::new(Arc::new(tables), vec![egress]))
}

fn insert(tables: &SharedTables, site: u32, flow: u16) -> Result<()> {
    let key = FlowKey {
        site,
        source: TERMINAL,
        destination: SERVER,
        source_port: (PORT + flow).to_be_bytes(),
        destination_port: SERVER_PORT.to_be_bytes(),
        protocol: 17,
        pad: [0; 3],
    };
    let seen = Half {
        seen_s: NOW_S,
        ..Half::default()
    };
    let inserted = tables.flows().insert(
        &key,
        &Flow {
            progress: Progress {
                state: state::UDP_STREAM,
                ..Progress::default()
            },
            out: seen,
            back: seen,
            nat_address: [10, 200, 0, site as u8],
            nat_port: (NAT_PORT + flow).to_be_bytes(),
            ..Flow::default()
        },
    );
    ensure!(inserted.is_ok(), "{inserted:?}");
    let found = tables.flows().find(&key).context("the flow")?;
    found.record.store(word::HOP, pair(0, tables.epochs().hop));
    Ok(())
}

/// A UDP packet between these ends.
fn packet(source: ([u8; 4], u16), destination: ([u8; 4], u16), size: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0];
    packet.extend(source.0);
    packet.extend(destination.0);
    packet.extend(source.1.to_be_bytes());
    packet.extend(destination.1.to_be_bytes());
    packet.extend((size as u16 - 20).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.splice(2..4, (size as u16).to_be_bytes());
    packet.resize(size, 0x61);
    packet
}

/// What the site's router sends.
fn sealed(router: &mut OutboundSa, flow: u16, size: usize) -> Result<Vec<u8>> {
    let inner = packet((TERMINAL, PORT + flow), (SERVER, SERVER_PORT), size);
    let place = HEADROOM_MAX..HEADROOM_MAX + size;
    let mut frame = vec![0; place.end + TAILROOM_MAX];
    frame
        .get_mut(place.clone())
        .context("the packet's place")?
        .copy_from_slice(&inner);
    let sealed = router.seal(&mut frame, place)?;
    Ok(frame.get(sealed).context("the sealed frame")?.to_vec())
}

/// What the `core` program hands over: translated, with the SA's index.
fn from_core(site: u32, flow: u16, size: usize) -> Vec<u8> {
    let inner = packet((SERVER, SERVER_PORT), (TERMINAL, PORT + flow), size);
    [ClearHeader::new(site, site - 1).as_bytes(), &inner].concat()
}
