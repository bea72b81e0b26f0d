//! How long packets are lost when something changes: lost packets by the offered rate, while a steady flow goes in each
//! direction. Lost is what never arrives; what waits and arrives late is not.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use gateway_esp::Suite;
use xtask::bench::machine::Core;
use xtask::lab::topology::Site as Place;
use xtask::lab::{gateway, state};
use xtask::traffic;

use crate::Samples;
use crate::ends::Generator;
use crate::packet;
use crate::side::{Kind, Peer, Side, Tunnel, program, swan};

/// Packets a second in each direction.
const RATE: f64 = 10_000.0;
/// Before and after what happens.
const CALM: Duration = Duration::from_millis(300);
const CALM_AFTER_RESTART: Duration = Duration::from_millis(1_500);

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happening {
    Nothing,
    ChildRekey,
    IkeRekey,
    RuleLoad,
    Restart,
}

impl Happening {
    const ALL: [Self; 5] = [
        Self::Nothing,
        Self::ChildRekey,
        Self::IkeRekey,
        Self::RuleLoad,
        Self::Restart,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing happens",
            Self::ChildRekey => "Child SA rekey",
            Self::IkeRekey => "IKE SA rekey",
            Self::RuleLoad => "rule load",
            Self::Restart => "restart",
        }
    }

    /// Rules and a restart that keeps them are the gateway's own.
    fn is_for(self, kind: Kind) -> bool {
        match self {
            Self::Nothing | Self::ChildRekey | Self::IkeRekey => true,
            Self::RuleLoad | Self::Restart => kind != Kind::StrongSwan,
        }
    }
}

pub(crate) fn run(short: bool, rounds: Option<usize>) -> Result<Samples> {
    let rounds = rounds.unwrap_or(if short { 1 } else { 5 });
    let mut samples = BTreeMap::new();
    for _ in 0..rounds {
        for kind in Kind::ALL {
            let mut side = Side::start(kind, Place::One)?;
            let mut tunnel = side.connect(Suite::AesGcm16_256, Generator::Line)?;
            for happening in Happening::ALL.into_iter().filter(|one| one.is_for(kind)) {
                let lost = lost(&mut side, &mut tunnel, happening)?;
                for (way, lost) in ["to the center", "to the site"].into_iter().zip(lost) {
                    let blocked_ms = lost as f64 / RATE * 1_000.0;
                    let case = format!("{}, {way}", happening.name());
                    crate::add(&mut samples, &case, "ms", kind.name(), blocked_ms);
                }
            }
        }
    }
    Ok(samples)
}

/// Packets lost in each direction.
fn lost(side: &mut Side, tunnel: &mut Tunnel, happening: Happening) -> Result<[u64; 2]> {
    let over = AtomicBool::new(false);
    let server = side.server.try_clone()?;
    std::thread::scope(|scope| {
        let over = &over;
        let event = scope.spawn(move || {
            sleep(CALM);
            let done = happen(side, happening);
            sleep(if happening == Happening::Restart {
                CALM_AFTER_RESTART
            } else {
                CALM
            });
            over.store(true, Ordering::Relaxed);
            done
        });
        let lost = Core::Generator.run(|| steady(&server, tunnel, over));
        let done = event.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a panic")));
        done?;
        lost
    })
}

/// Sends at the rate until it is over.
fn steady(server: &std::net::UdpSocket, tunnel: &mut Tunnel, over: &AtomicBool) -> Result<[u64; 2]> {
    let mut arrived = [HashSet::new(), HashSet::new()];
    let (mut offered, mut unsealed) = (0u64, 0u64);
    let started = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let due = Duration::from_secs_f64(offered as f64 / RATE);
        if started.elapsed() >= due {
            let inner = packet::to_center(64, offered);
            if tunnel.site.is_up() {
                let frame = tunnel.site.seal(&inner)?;
                tunnel.ends.to_center.send(&[frame])?;
            } else {
                unsealed += 1;
            }
            let frame = tunnel.to_site(64, offered);
            tunnel.ends.to_site.send(&[frame])?;
            offered += 1;
        }
        collect(server, tunnel, &mut arrived)?;
    }
    sleep(Duration::from_millis(50));
    collect(server, tunnel, &mut arrived)?;
    ensure!(
        arrived.iter().all(|arrived| !arrived.is_empty()),
        "nothing arrived of {offered} packets, {unsealed} of them without a tunnel"
    );
    Ok(arrived.map(|arrived| offered - arrived.len() as u64))
}

fn collect(server: &std::net::UdpSocket, tunnel: &mut Tunnel, arrived: &mut [HashSet<u64>; 2]) -> Result<()> {
    let [center, site] = arrived;
    let mut seen = tunnel.seen;
    traffic::drain(server, |_, from, payload| {
        center.extend(packet::payload_sequence(payload));
        // After a restart the mapping is another.
        if let Some(SocketAddr::V4(from)) = from {
            seen = from;
        }
    })?;
    tunnel.seen = seen;
    tunnel
        .site
        .serve(|_, packet| site.extend(packet::sequence(packet)))
}

fn happen(side: &mut Side, happening: Happening) -> Result<()> {
    let ours = match side.kind {
        Kind::Xdp | Kind::Direct => true,
        Kind::StrongSwan => false,
    };
    match happening {
        Happening::Nothing => {}
        Happening::ChildRekey if ours => rekey(side, &[])?,
        Happening::IkeRekey if ours => rekey(side, &["--ike"])?,
        Happening::ChildRekey => drop(swan(side)?.rekey_child()?),
        Happening::IkeRekey => drop(swan(side)?.rekey_ike()?),
        Happening::RuleLoad => {
            let file = state::path("bench.toml");
            let text = gateway::rules().replace("name = \"lab\"", "name = \"bench\"");
            fs::write(&file, text)?;
            if let Some(gateway) = side.gateway() {
                gateway.cli(&["rules", "load", &file.display().to_string()])?;
            }
        }
        Happening::Restart => restart(side)?,
    }
    Ok(())
}

fn rekey(side: &Side, what: &[&str]) -> Result<()> {
    let site = side.place.name();
    if let Some(gateway) = side.gateway() {
        gateway.cli(&[&["sa", "rekey", "--site", site], what].concat())?;
    }
    Ok(())
}

fn restart(side: &mut Side) -> Result<()> {
    let Peer::Ours(gateway, config) = &mut side.peer else {
        return Ok(());
    };
    if let Some(gateway) = gateway.take() {
        gateway.stop()?;
    }
    let started = Core::Measured.run(|| side.lab.start_gateway_program(program(), config))?;
    *gateway = Some(started);
    Ok(())
}
