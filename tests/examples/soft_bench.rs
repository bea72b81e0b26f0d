//! What one worker with the direct engine carries on one core, without interfaces: frames lie in memory, the worker opens or
//! seals them, filters and translates those of sites, and leaves them in memory.
//!
//! `cargo run -p gateway-tests --release --example soft_bench [-- --json] [--short] [--curves]`; needs no privilege.
//!
//! *Inbound* is all of a site's packet: outer headers, ESP, replay window, selectors, flow, TCP or UDP state, NAPT, next hop.
//! *Opened only* is the same with `engine = "xdp"`, up to the clear link. *Outbound* is ESP alone: the `core` program has
//! found flow and SA before the worker has the frame. In *both*, batches of the two take turns.
//!
//! With `--curves`: what a packet costs with 1 to 60,000 sites, each with an SA pair and a flow, and with 1 to 1,000,000 flows of
//! 64 sites, drawn at random for each packet; and what 1 to N workers carry together, each on a core of its own.
//!
//! Tables are for a million flows. Cases take turns; a sample is the median of a turn.
//! One flow of one site is what others publish; many flows of 64 sites, an SA pair each, in random order, are what a center
//! has.

use std::net::Ipv4Addr;
use std::sync::{Arc, Barrier};
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
use gateway_tests::random::Random;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use xtask::bench::report::{Figure, emit};
use zerocopy::IntoBytes as _;

/// Sites, and flows of each.
const LOADS: [(u32, u16); 2] = [(1, 1), (64, 16)];
/// One site whose router has as many processors as there are workers: 1,024 flows on each SA.
const ONE_SITE: (u32, u16) = (1, 1024);
/// Frames of one measurement.
const FRAMES: usize = 256;
/// Measurements of a case's turn, behind some that are not counted: the case before it has left its own data in the caches.
const MEASURED: usize = 8;
const WARMING: usize = 8;
const ROUNDS: usize = 101;
const ROUNDS_SHORT: usize = 5;
/// Of curves, whose cases are larger.
const ROUNDS_OF_CURVES: usize = 31;
/// Sites with one flow each.
const SITES: [u32; 5] = [1, 64, 1_000, 10_000, 60_000];
/// Flows of each of 64 sites.
const FLOWS: [u16; 5] = [1, 16, 160, 1_600, 15_625];
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

fn main() -> Result<()> {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    let rounds = if has("--short") { ROUNDS_SHORT } else { ROUNDS };
    let figures = if has("--curves") {
        curves(if has("--short") {
            ROUNDS_SHORT
        } else {
            ROUNDS_OF_CURVES
        })?
    } else {
        stay_on(cores() - 1);
        suites(rounds)?
    };
    emit(figures, has("--json"))
}

fn suites(rounds: usize) -> Result<Vec<Figure>> {
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
    Ok(cases.iter().map(Case::figure).collect())
}

fn curves(rounds: usize) -> Result<Vec<Figure>> {
    let loads = [(LOADS[1], ""), (ONE_SITE, ", one site")];
    let mut figures: Vec<_> = loads
        .iter()
        .flat_map(|load| (1..=cores()).map(move |count| workers(count, *load, rounds)))
        .collect::<Result<_>>()?;
    stay_on(cores() - 1);
    let loads = SITES
        .map(|sites| (format!("{sites} sites"), (sites, 1)))
        .into_iter()
        .chain(FLOWS.map(|flows| (format!("{} flows", 64 * u32::from(flows)), (64, flows))));
    let mut cases = loads
        .map(|(name, load)| Ok((name, Case::new(SUITES[0], MIXES[0], load, Way::Inbound)?)))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..rounds {
        for (_, case) in &mut cases {
            case.take_turn()?;
        }
    }
    figures.extend(
        cases
            .into_iter()
            .map(|(name, case)| Figure::new(name, "ns", case.ns)),
    );
    Ok(figures)
}

/// What so many workers carry at the same time, over the same tables: each has SAs of its own of all sites (RFC 9611) and the
/// flows that a site sends on them.
fn workers(count: usize, ((sites, flows), of): ((u32, u16), &str), rounds: usize) -> Result<Figure> {
    let tables = tables((sites, flows * count as u16))?;
    let start = Barrier::new(count);
    let worker = |core| {
        stay_on(core);
        let direct = Direct::new(Arc::clone(&tables), vec![EGRESS]);
        let case = Case::over(SUITES[0], MIXES[0], (sites, flows), Way::Inbound, Some(direct));
        start.wait();
        let mut case = case?;
        case.first_flow = flows * core as u16;
        for _ in 0..rounds {
            case.take_turn()?;
        }
        anyhow::Ok(case.ns)
    };
    let each: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|core| scope.spawn(move || worker(core))).collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?);
        joined.collect::<Result<_>>()
    })?;
    let together = (0..rounds).map(|round| each.iter().filter_map(|ns| Some(1_000.0 / ns.get(round)?)).sum());
    Ok(Figure::new(
        format!("{count} workers{of}"),
        "Mpps",
        together.collect(),
    ))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One worker alone is on the last core: interrupts go to the first.
fn stay_on(core: usize) {
    let mut set = CpuSet::new();
    let pinned = set
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        eprintln!("not pinned to a core: {error}");
    }
}

struct Case {
    suite: Suite,
    mix: (&'static str, &'static [usize]),
    load: (u32, u16),
    first_flow: u16,
    way: Way,
    worker: SoftWorker,
    routers: Vec<OutboundSa>,
    random: Random,
    /// Of each turn, by its median.
    ns: Vec<f64>,
}

impl Case {
    fn new(suite: Suite, mix: (&'static str, &'static [usize]), load: (u32, u16), way: Way) -> Result<Self> {
        let direct = match way {
            Way::OpenedOnly => None,
            Way::Inbound | Way::Outbound | Way::Both => Some(Direct::new(tables(load)?, vec![EGRESS])),
        };
        Self::over(suite, mix, load, way, direct)
    }

    /// With tables that others may use too.
    fn over(
        suite: Suite,
        mix: (&'static str, &'static [usize]),
        load: (u32, u16),
        way: Way,
        direct: Option<Direct>,
    ) -> Result<Self> {
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
            first_flow: 0,
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
        let mut turn = (0..MEASURED)
            .map(|_| self.measure())
            .collect::<Result<Vec<_>>>()?;
        turn.sort_by(f64::total_cmp);
        self.ns.push(turn[MEASURED / 2]);
        Ok(())
    }

    /// Puts frames in place, then measures the worker: nanoseconds a frame.
    fn measure(&mut self) -> Result<f64> {
        let (way, sizes, (sites, flows)) = (self.way, self.mix.1, self.load);
        for (number, size) in (0..FRAMES).zip(sizes.iter().cycle()) {
            let site = 1 + self.random.below(sites);
            let flow = self.first_flow + self.random.below(flows.into()) as u16;
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

    fn figure(&self) -> Figure {
        let (suite, mix, way) = (self.suite.name(), self.mix.0, self.way.name());
        let flows = match self.load.0 * u32::from(self.load.1) {
            1 => "1 flow".to_owned(),
            flows => format!("{flows} flows"),
        };
        let mpps = self.ns.iter().map(|ns| 1_000.0 / ns).collect();
        Figure::new(format!("{suite}, {mix}, {flows}, {way}"), "Mpps", mpps)
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

/// The way to the center.
const EGRESS: Egress = Egress {
    ifindex: IFINDEX,
    port: CORE,
    frame_max: 1514,
};

/// Tables with every flow in them, as the programs would have made them.
fn tables((sites, flows): (u32, u16)) -> Result<Arc<SharedTables>> {
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
    Ok(Arc::new(tables))
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
            nat_address: [10, 200, (site >> 8) as u8, site as u8],
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
