//! How long packets take at 10, 50 and 90 % of the load that goes through each without loss, and at one rate that all carry: from the moment the generator
//! hands them to the kernel to the moment the kernel hands them to the receiver's socket, by the same clock. A packet that did not arrive took
//! longer than any other.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use gateway_esp::Suite;
use xtask::bench::machine::Core;
use xtask::lab::topology::Site as Place;
use xtask::traffic;

use crate::Samples;
use crate::ends::Generator;
use crate::load::{self, Outcome, Searching, Way};
use crate::packet::{self, SMALL};
use crate::side::{Kind, Side, Tunnel};
use crate::through::flood;

/// Parts of the maximum, in percent.
const LOADS: [u32; 3] = [10, 50, 90];
const PERCENTILES: [u32; 3] = [50, 90, 99];
const TRIES: usize = 6;
/// Of a load, so that there is a worst hundredth.
const PACKETS_MIN: usize = 1_000;
const PACKETS_MAX: usize = 1 << 16;
/// Of a flood.
const FLOOD: usize = 20_000;

/// Percent of the maximum, and the times of its packets.
type AtLoad = (u32, Times);

/// Microseconds that packets of a load took.
struct Times {
    /// Of those that arrived, in order of length.
    arrived: Vec<f64>,
    sent: usize,
}

impl Times {
    /// Whether so few are missing that the last percentile is one of them that arrived.
    fn are_enough(&self) -> bool {
        PERCENTILES.iter().all(|part| self.percentile(*part).is_some())
    }

    /// Of all that were sent.
    fn percentile(&self, part: u32) -> Option<f64> {
        let at = (self.sent * part as usize).div_ceil(100).checked_sub(1)?;
        self.arrived.get(at).copied()
    }
}

/// How much is measured.
struct Effort {
    rounds: usize,
    /// Of each load, up to a number of packets. Long, so that one stop of a virtual machine is not in the worst hundredth.
    time: Duration,
    /// How the rate without loss is searched.
    searching: Searching,
}

const FULL: Effort = Effort {
    rounds: 5,
    time: Duration::from_secs(1),
    searching: Searching {
        trial: Duration::from_millis(100),
        width: 0.05,
        time_max: Duration::from_secs(4),
    },
};
const SHORT: Effort = Effort {
    rounds: 1,
    time: Duration::from_millis(200),
    searching: Searching {
        trial: Duration::from_millis(50),
        width: 0.1,
        time_max: Duration::from_secs(2),
    },
};

pub(crate) fn run(short: bool, rounds: Option<usize>, generator: Generator) -> Result<Samples> {
    let effort = if short { SHORT } else { FULL };
    let mut samples = BTreeMap::new();
    for _ in 0..rounds.unwrap_or(effort.rounds) {
        // The slowest is first: half of what goes through it is offered to the others too.
        let mut common = BTreeMap::new();
        for kind in Kind::ALL.into_iter().rev() {
            let side = Side::start(kind, Place::One)?;
            let mut tunnel = side.connect(Suite::AesGcm16_256, generator)?;
            flood(&mut tunnel, Way::Both, SMALL, FLOOD)?;
            for way in [Way::ToCenter, Way::ToSite] {
                match one_way(&side, &mut tunnel, way, &effort, &mut common, &mut samples) {
                    // It shows that all of it runs; how fast a machine is that has other work to do it does not say.
                    Err(error) if short && error.is::<Lossy>() => eprintln!("no figure: {error}"),
                    done => done?,
                }
            }
        }
    }
    Ok(samples)
}

/// Why there is no figure: more is lost than one may be made of.
#[derive(Debug)]
struct Lossy(String);

impl fmt::Display for Lossy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Lossy {}

/// `common` has half of what the slowest carries, by the way.
fn one_way(
    side: &Side,
    tunnel: &mut Tunnel,
    way: Way,
    effort: &Effort,
    common: &mut BTreeMap<&'static str, f64>,
    samples: &mut Samples,
) -> Result<()> {
    let most = ndr(side, tunnel, way, effort.searching)?;
    let (most, all) = at_loads(side, tunnel, way, most, effort.time)?;
    for (percent, times) in all {
        let case = format!("{}, {percent} % load", way.name());
        add(samples, &case, side.kind, &times)?;
    }
    let slowest = Kind::StrongSwan;
    if side.kind == slowest {
        common.insert(way.name(), most / 2.0);
    }
    let case = format!("{}, half of what {} carries", way.name(), slowest.name());
    let unknown = || {
        Lossy(format!(
            "{case}, {}: nobody knows how much that is",
            side.kind.name()
        ))
    };
    let common = *common.get(way.name()).ok_or_else(unknown)?;
    let times = at_rate(side, tunnel, way, common, effort.time)?;
    add(samples, &case, side.kind, &times)
}

/// The most that goes through without loss, kpps.
fn ndr(side: &Side, tunnel: &mut Tunnel, way: Way, how: Searching) -> Result<f64> {
    let flood = flood(tunnel, way, SMALL, FLOOD)?;
    let goals = (how, vec![how.ndr()]);
    let results = Core::Generator.run(|| load::search(tunnel, way, SMALL, goals, flood.kpps))?;
    let found = results.first().and_then(|result| result.conditional_throughput);
    let lossy = || {
        Lossy(format!(
            "{}, {}: no rate without loss was found: {results:?}",
            way.name(),
            side.kind.name()
        ))
    };
    Ok(found.ok_or_else(lossy)?)
}

fn add(samples: &mut Samples, case: &str, kind: Kind, times: &Times) -> Result<()> {
    for part in PERCENTILES {
        let case = format!("{case}, p{part}");
        let lost = || format!("{case}: {} of {} arrived", times.arrived.len(), times.sent);
        let time = times.percentile(part).with_context(lost)?;
        crate::add(samples, &case, "us", kind.name(), time);
    }
    Ok(())
}

/// Times at each part of the maximum. Where much is lost at one, the maximum was found while the machine was quicker: it is taken
/// lower, and all of them are measured anew. Answers the maximum too.
fn at_loads(
    side: &Side,
    tunnel: &mut Tunnel,
    way: Way,
    mut most: f64,
    time: Duration,
) -> Result<(f64, Vec<AtLoad>)> {
    for _ in 0..TRIES {
        let (mut all, mut lost) = (Vec::new(), false);
        for percent in LOADS {
            let kpps = (most * f64::from(percent) / 100.0).max(1.0);
            let times = times(side, tunnel, way, kpps, time)?;
            lost |= !times.are_enough();
            all.push((percent, times));
        }
        if !lost {
            return Ok((most, all));
        }
        most *= 0.8;
    }
    bail!(Lossy(format!(
        "{}, {}: packets are lost at a part of what went through without loss",
        way.name(),
        side.kind.name()
    )))
}

/// Times at one rate, which is tried again where much is lost.
fn at_rate(side: &Side, tunnel: &mut Tunnel, way: Way, kpps: f64, time: Duration) -> Result<Times> {
    for _ in 0..TRIES {
        let times = times(side, tunnel, way, kpps, time)?;
        if times.are_enough() {
            return Ok(times);
        }
    }
    bail!(Lossy(format!(
        "{}, {}: packets of {kpps:.0} kpps are lost each time",
        way.name(),
        side.kind.name()
    )))
}

/// Packets of a rate in a time.
fn count(kpps: f64, time: Duration) -> usize {
    ((kpps * 1_000.0 * time.as_secs_f64()) as usize).clamp(PACKETS_MIN, PACKETS_MAX)
}

fn times(side: &Side, tunnel: &mut Tunnel, way: Way, kpps: f64, time: Duration) -> Result<Times> {
    let packets = count(kpps, time);
    tunnel.site.settle()?;
    traffic::drain(&side.server, |_, _, _| {})?;
    let outcome = Core::Generator.run(|| {
        let ready = load::ready(tunnel, way, SMALL, packets)?;
        load::offer(&mut tunnel.ends, &ready, Some(kpps))
    })?;
    let mut times = Vec::with_capacity(packets);
    match way {
        Way::ToSite => tunnel.site.serve(|stamp, packet| {
            times.extend(took(&outcome, stamp, packet::sequence(packet)));
        })?,
        Way::ToCenter | Way::Both => traffic::drain(&side.server, |stamp, _, payload| {
            times.extend(took(&outcome, stamp, packet::payload_sequence(payload)));
        })?,
    }
    times.sort_by(f64::total_cmp);
    Ok(Times {
        arrived: times,
        sent: packets,
    })
}

fn took(outcome: &Outcome, stamp: u64, sequence: Option<u64>) -> Option<f64> {
    let sent = outcome.sent_at.get(usize::try_from(sequence?).ok()?)?;
    Some(stamp.checked_sub(*sent)? as f64 / 1_000.0)
}
