//! Packets per second through what is measured: overloaded, and the most without loss.

use std::collections::BTreeMap;

use anyhow::Result;
use gateway_esp::Suite;
use xtask::bench::machine::Core;
use xtask::lab::topology::Site as Place;

use crate::Samples;
use crate::bare::{self, Bare};
use crate::busy::Measured;
use crate::ends::Generator;
use crate::load::{self, Flood, Way};
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
    /// Of a trial of the loss-free rate, and halvings of the range in which it is searched.
    loss_free: Option<(usize, u32)>,
}

const FULL: Effort = Effort {
    rounds: 5,
    places: &Place::BOTH,
    suites: &[Suite::AesGcm16_256, Suite::AesCbc256HmacSha256_128],
    mixes: &[SMALL, IMIX, LARGE],
    packets: 60_000,
    loss_free: Some((30_000, 6)),
};
const SHORT: Effort = Effort {
    rounds: 1,
    places: &[Place::One],
    suites: &[Suite::AesGcm16_256],
    mixes: &[SMALL, LARGE],
    packets: 60_000,
    loss_free: None,
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
                let flood = flood(&mut tunnel, way, *mix, effort.packets)?;
                add(samples, &case, kind.name(), &flood, is_gcm && place == Place::One);
                let worth = is_gcm && way != Way::Both && place == Place::One && mix.sizes.len() == 1;
                if let Some(how) = effort.loss_free.filter(|_| worth) {
                    let most = flood.kpps * 1.2;
                    let kpps = Core::Generator.run(|| load::loss_free(&mut tunnel, way, *mix, how, most))?;
                    crate::add(samples, &format!("{case}, no loss"), "kpps", kind.name(), kpps);
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
