//! Packets per second through what is measured: overloaded, and the most of which none, or few, are lost.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use gateway_esp::Suite;
use xtask::bench::machine::Core;
use xtask::lab::topology::Site as Place;

use crate::Samples;
use crate::bare::{self, Bare};
use crate::busy::Measured;
use crate::ends::Generator;
use crate::load::{self, Flood, Searching, Way};
use crate::packet::{IMIX, LARGE, Mix, SMALL};
use crate::side::{Kind, Side, Tunnel};
use crate::sink::{Sinks, Surplus};

/// How much is measured.
struct Effort {
    rounds: usize,
    places: &'static [Place],
    suites: &'static [Suite],
    mixes: &'static [Mix],
    /// Packets of a flood.
    packets: usize,
    /// How NDR and PDR are searched, and of which of the mixes.
    searching: Searching,
    searched: &'static [Mix],
}

const FULL: Effort = Effort {
    rounds: 5,
    places: &Place::BOTH,
    suites: &[Suite::AesGcm16_256, Suite::AesCbc256HmacSha256_128],
    mixes: &[SMALL, IMIX, LARGE],
    packets: 60_000,
    searching: Searching {
        trial: Duration::from_millis(100),
        width: 0.03,
        time_max: Duration::from_secs(4),
    },
    searched: &[SMALL, LARGE],
};
const SHORT: Effort = Effort {
    rounds: 1,
    places: &[Place::One],
    suites: &[Suite::AesGcm16_256],
    mixes: &[SMALL, LARGE],
    packets: 60_000,
    searching: Searching {
        trial: Duration::from_millis(100),
        width: 0.05,
        time_max: Duration::from_secs(3),
    },
    searched: &[SMALL],
};

pub(crate) fn run(short: bool, rounds: Option<usize>, generator: Generator) -> Result<Samples> {
    let effort = if short { SHORT } else { FULL };
    let mut samples = BTreeMap::new();
    for _ in 0..rounds.unwrap_or(effort.rounds) {
        bare(&effort, generator, &mut samples)?;
        for place in effort.places {
            for kind in Kind::ALL {
                one_side(*place, kind, &effort, generator, &mut samples)?;
            }
        }
    }
    Ok(samples)
}

fn one_side(
    place: Place,
    kind: Kind,
    effort: &Effort,
    generator: Generator,
    samples: &mut Samples,
) -> Result<()> {
    let side = Side::start(kind, place)?;
    let network = if place == Place::One { "IPv4" } else { "IPv6" };
    for suite in effort.suites {
        // Old routers' algorithms over one network only: the outer header makes little difference.
        let is_gcm = *suite == Suite::AesGcm16_256;
        if !is_gcm && place == Place::Two {
            continue;
        }
        let mut tunnel = side.connect(*suite, generator)?;
        let _sinks = Sinks::open(place, Surplus::Load)?;
        // Memory is touched for the first time, and strongSwan's threads wake up.
        for mix in effort.mixes {
            flood(&mut tunnel, Way::Both, *mix, effort.packets)?;
        }
        let algorithms = if is_gcm { "GCM" } else { "CBC" };
        for way in Way::ALL {
            for mix in effort.mixes {
                let case = format!("{network}, {algorithms}, {}, {}", way.name(), mix.name);
                let measured = || format!("{case}, {}", kind.name());
                let flood = flood(&mut tunnel, way, *mix, effort.packets).with_context(measured)?;
                add(samples, &case, kind.name(), &flood, is_gcm && place == Place::One);
                let is_searched = effort.searched.iter().any(|searched| searched.name == mix.name);
                if is_gcm && way != Way::Both && place == Place::One && is_searched {
                    let how = effort.searching;
                    let goals = (how, vec![how.ndr(), how.pdr()]);
                    let results = Core::Generator
                        .run(|| load::search(&mut tunnel, way, *mix, goals, flood.kpps))
                        .with_context(measured)?;
                    for (rate, result) in ["NDR", "PDR"].iter().zip(&results) {
                        crate::add_search(samples, &format!("{case}, {rate}"), kind.name(), result);
                    }
                }
            }
        }
    }
    Ok(())
}

/// What could be reached at most, in the cases with AES-GCM over IPv4.
fn bare(effort: &Effort, generator: Generator, samples: &mut Samples) -> Result<()> {
    let mut bare = Bare::start(generator)?;
    let measured = bare.measured;
    let flood = |bare: &mut Bare, way: Way, mix: Mix| {
        let ready = |bare: &mut Bare| Ok(bare.ready(way, mix, effort.packets));
        load::flood(bare, measured, |bare| &mut bare.ends, ready)
    };
    // As with gateways, memory is touched.
    for mix in effort.mixes {
        flood(&mut bare, Way::Both, *mix)?;
    }
    for way in Way::ALL {
        for mix in effort.mixes {
            let case = format!("IPv4, GCM, {}, {}", way.name(), mix.name);
            let flood = flood(&mut bare, way, *mix)?;
            add(samples, &case, bare::NAME, &flood, true);
        }
    }
    Ok(())
}

fn add(samples: &mut Samples, case: &str, side: &'static str, flood: &Flood, with_time: bool) {
    crate::add(samples, case, "kpps", side, flood.kpps);
    if with_time {
        let case_time = format!("{case}, CPU time of a packet");
        crate::add(samples, &case_time, "ns", side, flood.cpu_ns);
        let case_offered = format!("{case}, offered");
        crate::add(samples, &case_offered, "kpps offered", side, flood.offered_kpps);
    }
}

/// More than goes through a gateway.
pub(crate) fn flood(tunnel: &mut Tunnel, way: Way, mix: Mix, packets: usize) -> Result<Flood> {
    load::flood(
        tunnel,
        Measured::Processes,
        |tunnel| &mut tunnel.ends,
        |tunnel| {
            tunnel.site.settle()?;
            load::ready(tunnel, way, mix, packets)
        },
    )
}
