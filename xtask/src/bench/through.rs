//! Packets per second through a gateway, in both directions, for ours with either engine and for strongSwan in its place.
//!
//! The routers' own ESP is slower than what is measured, so it is taken out of the way:
//!
//! - *encrypt* (center to site): the center floods a flow that the terminal opened; the site's router is stopped, and
//!   the ESP packets that reach its interface are counted by the interface.
//! - *decrypt* (site to center): the router encrypts onto a side line (a veth whose far end records), then stops; the
//!   recorded ESP packets are sent to the gateway in one burst, in order, and what reaches the center is counted.
//!
//! The generator shares the machine's cores with the gateway, for both sides alike.

use std::net::UdpSocket;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::median;
use crate::lab::Lab;
use crate::lab::gateway::{BENCH_PORT, Config, Engine};
use crate::lab::pki::Auth;
use crate::lab::strongswan::StrongSwan;
use crate::lab::tap::{Outer, Tap};
use crate::lab::topology::{Node, Options, SERVER, Site, TERMINAL};
use crate::{cmd, paths, traffic};

/// UDP payloads, octets: the smallest that fills a 64-octet Ethernet frame inside, and a large one that fits every tunnel.
const SIZES: [usize; 2] = [18, 1300];
/// What is measured in turn, and its name.
const SIDES: [(&str, Option<Engine>); 3] = [
    ("gateway, xdp", Some(Engine::Xdp)),
    ("direct", Some(Engine::Direct)),
    ("strongSwan", None),
];
/// The side line that the router encrypts onto while ESP is recorded.
const SIDE: &str = "side";
/// How long ESP is recorded at most.
const RECORDING: Duration = Duration::from_secs(12);
/// Packets of a burst, at least.
const RECORDED_MIN: usize = 2_000;

/// How much is measured.
struct Effort {
    rounds: usize,
    flood: Duration,
    recorded: usize,
}

/// kpps by direction and size.
type Figures = [[f64; SIZES.len()]; 2];

pub(super) fn run(short: bool) -> Result<()> {
    let effort = if short {
        Effort {
            rounds: 1,
            flood: Duration::from_millis(500),
            recorded: 5_000,
        }
    } else {
        Effort {
            rounds: 5,
            flood: Duration::from_secs(3),
            recorded: 60_000,
        }
    };
    let program = paths::target().join("release/gateway");
    for site in Site::BOTH {
        let mut rounds = SIDES.map(|_| Vec::new());
        for _ in 0..effort.rounds {
            for ((_, engine), rounds) in SIDES.into_iter().zip(&mut rounds) {
                let gateway = engine.map(|engine| (&program, engine));
                rounds.push(one_side(site, gateway, &effort)?);
            }
        }
        report(site, &rounds);
    }
    Ok(())
}

fn report(site: Site, rounds: &[Vec<Figures>; SIDES.len()]) {
    let network = if site == Site::One { "IPv4" } else { "IPv6" };
    for (way, name) in ["decrypt (site to center)", "encrypt (center to site)"]
        .iter()
        .enumerate()
    {
        for (size_at, size) in SIZES.iter().enumerate() {
            let kpps =
                |side: &Vec<Figures>| median(side.iter().map(|figures| figures[way][size_at]).collect());
            let [xdp, direct, strongswan] = rounds.each_ref().map(kpps);
            let [(xdp_name, _), (direct_name, _), (strongswan_name, _)] = SIDES;
            println!(
                "{network} {name}, {size:>4}-octet UDP: {xdp_name} {xdp:7.1} kpps, {direct_name} {direct:7.1} kpps ({:.2} of xdp), \
                 {strongswan_name} {strongswan:7.1} kpps ({:.1} and {:.1} times)",
                direct / xdp,
                xdp / strongswan,
                direct / strongswan,
            );
        }
    }
}

/// Brings the lab up with one of the two gateways and measures every direction and size.
fn one_side(site: Site, gateway: Option<(&std::path::PathBuf, Engine)>, effort: &Effort) -> Result<Figures> {
    let lab = Lab::up(Options {
        kernel_forwards_in_gateway: gateway.is_none(),
        ..Options::default()
    })?;
    match gateway {
        Some((program, engine)) => {
            let config = Config {
                engine,
                ..Config::usual(Auth::Rsa)
            };
            drop(lab.start_gateway_program(program.clone(), &config)?);
        }
        None => drop(lab.start_strongswan_gateway(site, Auth::Rsa)?),
    }
    let router = lab.start_site(site, Auth::Rsa)?;
    router.initiate()?;
    let mut figures = Figures::default();
    for (at, size) in SIZES.into_iter().enumerate() {
        let flow = Flow::open(site)?;
        figures[0][at] = decrypt(&router, site, &flow, size, effort)?;
        figures[1][at] = encrypt(&router, site, &flow, size, effort)?;
    }
    Ok(figures)
}

/// A UDP flow between terminal and server that the gateway knows.
struct Flow {
    terminal: UdpSocket,
    server: UdpSocket,
}

impl Flow {
    fn open(site: Site) -> Result<Self> {
        let terminal = traffic::bind(site.terminal(), TERMINAL, 0)?;
        let server = traffic::bind(Node::Center, SERVER, BENCH_PORT)?;
        terminal.connect((SERVER, BENCH_PORT))?;
        terminal.send(b"open")?;
        let peer = traffic::first_sender(&server, Duration::from_secs(3))?;
        server.connect(peer)?;
        Ok(Self { terminal, server })
    }
}

fn encrypt(router: &StrongSwan, site: Site, flow: &Flow, size: usize, effort: &Effort) -> Result<f64> {
    let measured = router.while_paused(|| {
        let before = traffic::received(site.router(), "wan")?;
        let started = Instant::now();
        traffic::flood(&flow.server, size, effort.flood)?;
        let packets = traffic::received(site.router(), "wan")? - before;
        Ok(kpps(packets, started.elapsed()))
    });
    // What the router finds in its socket when it wakes up is not the next measurement's.
    sleep(Duration::from_millis(300));
    measured
}

fn decrypt(router: &StrongSwan, site: Site, flow: &Flow, size: usize, effort: &Effort) -> Result<f64> {
    let burst = record(site, flow, size, effort.recorded)?;
    router.while_paused(|| {
        let line = Tap::open(site.router(), "wan")?;
        let before = traffic::received(Node::Center, "eth0")?;
        let started = Instant::now();
        line.send_all(&burst)?;
        let (packets, last) = settled(|| Ok(traffic::received(Node::Center, "eth0")? - before))?;
        ensure!(packets > 0, "nothing of the recorded burst arrived");
        Ok(kpps(packets, last.duration_since(started)))
    })
}

/// Has the router encrypt `count` datagrams onto a side line and returns the frames, addressed to the gateway: fewer on a
/// slow machine. Meanwhile the router's answers to the gateway go astray, so that it must not take longer than a gateway
/// waits before it takes a silent peer for dead.
fn record(site: Site, flow: &Flow, size: usize, count: usize) -> Result<Vec<Vec<u8>>> {
    let side = SideLine::lay(site)?;
    let mut frames = Vec::new();
    let deadline = Instant::now() + RECORDING;
    while frames.len() < count && Instant::now() < deadline {
        // A little at a time, so that the router's own queues lose nothing of it.
        traffic::flood(&flow.terminal, size, Duration::from_millis(1))?;
        sleep(Duration::from_millis(4));
        let esp = |frame: &Vec<u8>| Outer::parse(frame).is_some_and(|outer| outer.esp_at().is_some());
        frames.extend(side.recorder.frames()?.into_iter().filter(esp));
    }
    ensure!(
        frames.len() >= RECORDED_MIN,
        "the router encrypted {} packets in {} s; {RECORDED_MIN} are the fewest that are measured",
        frames.len(),
        RECORDING.as_secs()
    );
    // What is still in the router's queues must not go out on the real line ahead of the recorded numbers.
    sleep(Duration::from_millis(200));
    let addresses = side.addresses;
    for frame in &mut frames {
        frame
            .get_mut(..12)
            .context("a truncated frame")?
            .copy_from_slice(&addresses);
    }
    Ok(frames)
}

/// A veth in the router's namespace that the route to the gateway leads into while ESP is recorded.
struct SideLine {
    recorder: Tap,
    site: Site,
    /// Destination and source Ethernet address of the real line.
    addresses: [u8; 12],
}

impl SideLine {
    fn lay(site: Site) -> Result<Self> {
        let node = site.router();
        let addresses = line_addresses(site)?;
        let family = if site == Site::One { "-4" } else { "-6" };
        let host = format!(
            "{}/{}",
            site.gateway_address(),
            if site == Site::One { 32 } else { 128 }
        );
        let ip = |words: &str| cmd::output(node.command("ip").args(words.split_whitespace()));
        ip(&format!("link add {SIDE} type veth peer name {SIDE}-end"))?;
        ip(&format!("link set {SIDE} up"))?;
        ip(&format!("link set {SIDE}-end up"))?;
        cmd::output(node.command("ethtool").args(["-K", SIDE, "tx", "off"]))?;
        let recorder = Tap::open(node, &format!("{SIDE}-end"))?;
        let line = Self {
            recorder,
            site,
            addresses,
        };
        ip(&format!(
            "{family} neigh replace {} lladdr 02:00:00:00:00:01 dev {SIDE}",
            site.gateway_address()
        ))?;
        let source = site.router_address(&Options::default());
        ip(&format!("{family} route add {host} dev {SIDE} src {source}"))?;
        Ok(line)
    }
}

impl Drop for SideLine {
    fn drop(&mut self) {
        let _gone = cmd::output(self.site.router().command("ip").args(["link", "del", SIDE]));
    }
}

/// The Ethernet header's addresses on the line from the router to the gateway.
fn line_addresses(site: Site) -> Result<[u8; 12]> {
    let interface = if site == Site::One { "wan4" } else { "wan6" };
    let mut addresses = [0; 12];
    addresses[..6].copy_from_slice(&Tap::open(Node::Gateway, interface)?.address());
    addresses[6..].copy_from_slice(&Tap::open(site.router(), "wan")?.address());
    Ok(addresses)
}

/// Follows a counter until it stands still; returns its value and when it last moved.
fn settled(count: impl Fn() -> Result<u64>) -> Result<(u64, Instant)> {
    let mut last = (count()?, Instant::now());
    while last.1.elapsed() < Duration::from_millis(200) {
        sleep(Duration::from_millis(1));
        let now = count()?;
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    Ok(last)
}

fn kpps(packets: u64, elapsed: Duration) -> f64 {
    packets as f64 / elapsed.as_secs_f64() / 1000.0
}
