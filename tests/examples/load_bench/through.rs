//! Packets per second through what is measured: overloaded, and the most without loss.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use gateway_esp::Suite;
use xtask::bench::machine::Core;
use xtask::lab::topology::Site as Place;

use crate::Samples;
use crate::load::{self, Way};
use crate::packet::{IMIX, LARGE, Mix, SMALL};
use crate::side::{Kind, Side, Tunnel};

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
    packets: 20_000,
    loss_free: None,
};

pub(crate) fn run(short: bool, rounds: Option<usize>) -> Result<Samples> {
    let effort = if short { SHORT } else { FULL };
    let mut samples = BTreeMap::new();
    for _ in 0..rounds.unwrap_or(effort.rounds) {
        for place in effort.places {
            for kind in Kind::ALL {
                one_side(*place, kind, &effort, &mut samples)?;
            }
        }
    }
    Ok(samples)
}

fn one_side(place: Place, kind: Kind, effort: &Effort, samples: &mut Samples) -> Result<()> {
    let side = Side::start(kind, place)?;
    let network = if place == Place::One { "IPv4" } else { "IPv6" };
    for suite in effort.suites {
        // Old routers' algorithms over one network only: the outer header makes little difference.
        let is_gcm = *suite == Suite::AesGcm16_256;
        if !is_gcm && place == Place::Two {
            continue;
        }
        let mut tunnel = side.connect(*suite)?;
        // Memory is touched for the first time, and strongSwan's threads wake up.
        flood(&mut tunnel, Way::Both, SMALL, effort.packets)?;
        let algorithms = if is_gcm { "GCM" } else { "CBC" };
        for way in Way::ALL {
            for mix in effort.mixes {
                let case = format!("{network}, {algorithms}, {}, {}", way.name(), mix.name);
                let kpps = flood(&mut tunnel, way, *mix, effort.packets)?;
                crate::add(samples, &case, "kpps", kind.name(), kpps);
                let worth = is_gcm && way != Way::Both && place == Place::One && mix.sizes.len() == 1;
                if let Some(how) = effort.loss_free.filter(|_| worth) {
                    let kpps =
                        Core::Generator.run(|| load::loss_free(&mut tunnel, way, *mix, how, kpps * 1.2))?;
                    crate::add(samples, &format!("{case}, no loss"), "kpps", kind.name(), kpps);
                }
            }
        }
    }
    Ok(())
}

/// kpps of what arrives when as much is offered as the generator can.
pub(crate) fn flood(tunnel: &mut Tunnel, way: Way, mix: Mix, packets: usize) -> Result<f64> {
    let outcome = Core::Generator.run(|| {
        let ready = load::ready(tunnel, way, mix, packets)?;
        load::offer(tunnel, &ready, None)
    })?;
    tunnel.site.settle()?;
    ensure!(outcome.arrived > 0, "nothing of a flood arrived");
    Ok(outcome.kpps())
}
