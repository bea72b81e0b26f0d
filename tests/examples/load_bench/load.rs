//! Offering packets, as fast as they go or at a rate, and counting what arrives.

use std::hint::spin_loop;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::time::ClockId;
use xtask::bench::machine::Core;
use xtask::bench::mlrsearch::{Goal, GoalResult, Limits, Output, Search};
use xtask::lab::line::BURST;

use crate::busy::Measured;
use crate::ends::{Ends, Generator};
use crate::live::{Sent, frames_max, now_ns};
use crate::packet::{self, Mix};
use crate::side::Tunnel;

/// Of what arrived of a flood, how much is offered in a second one: enough for more not to get through, and little enough for what is
/// turned away to cost little.
const SECOND_FLOOD: f64 = 1.5;
/// How often both are tried.
const FLOODS_MAX: usize = 4;
/// Of what arrived of a flood, the least and the most that a search tries. What is kept busy by what it turns away carries more when less is
/// offered, and a shared machine has its slow moments.
const LEAST: f64 = 0.02;
const MOST: f64 = 4.0;
/// How long the first packet that arrives is waited for, and any other after the one before: what is measured may touch its memory for the
/// first time.
const FIRST: Duration = Duration::from_secs(1);
const NEXT: Duration = Duration::from_millis(60);
/// Trials of a search.
const TRIALS_MAX: usize = 80;
/// What the partial drop rate allows to be lost.
const PDR_LOSS_RATIO: f64 = 0.005;
/// A generator that takes so many times as long as it was told is too slow: its load is another one, by the width of a search.
const SLOW: f64 = 1.02;

/// Whither packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToCenter,
    ToSite,
    /// In turn.
    Both,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::ToCenter, Self::ToSite, Self::Both];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ToCenter => "to the center",
            Self::ToSite => "to the site",
            Self::Both => "both directions",
        }
    }

    /// How many of `count` packets go to the center, and to the site.
    pub(crate) const fn shares(self, count: usize) -> [usize; 2] {
        match self {
            Self::ToCenter => [count, 0],
            Self::ToSite => [0, count],
            Self::Both => [count / 2, count / 2],
        }
    }
}

/// Frames that are ready to go, by whither.
pub(crate) struct Ready {
    pub(crate) to_center: Vec<Vec<u8>>,
    pub(crate) to_site: Vec<Vec<u8>>,
}

impl Ready {
    /// In the order in which they go, in bursts with the number of the end that they leave by.
    fn bursts(&self, burst: usize) -> Vec<(u32, &[Vec<u8>])> {
        let (mut center, mut site) = (self.to_center.chunks(burst), self.to_site.chunks(burst));
        let mut bursts = Vec::new();
        loop {
            let pair = [(0, center.next()), (1, site.next())];
            let before = bursts.len();
            bursts.extend(pair.into_iter().filter_map(|(end, frames)| Some((end, frames?))));
            if bursts.len() == before {
                return bursts;
            }
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) offered: u64,
    pub(crate) arrived: u64,
    /// From the first sent to the last that arrived.
    pub(crate) elapsed: Duration,
    /// From the first sent to the last.
    pub(crate) sending: Duration,
    /// When each packet of one direction was handed to the kernel, ns since 1970.
    pub(crate) sent_at: Vec<u64>,
}

impl Outcome {
    /// Of what arrived.
    pub(crate) fn kpps(&self) -> f64 {
        self.arrived as f64 / self.elapsed.as_secs_f64() / 1_000.0
    }

    /// The part of a rate that did not arrive. What a generator that is too slow for it did not offer is lost too (RFC 9971
    /// section 4.9.1).
    fn loss_ratio(&self, kpps: f64) -> f64 {
        let intended = kpps * 1_000.0 * self.sending.as_secs_f64();
        let offered = self.offered as f64;
        let due = if intended > offered * SLOW {
            intended
        } else {
            offered
        };
        (1.0 - self.arrived as f64 / due).max(0.0)
    }
}

/// What came of more than goes through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flood {
    /// Of what arrived.
    pub(crate) kpps: f64,
    /// Of what was offered.
    pub(crate) offered_kpps: f64,
    /// CPU time of what is measured for each that arrived.
    pub(crate) cpu_ns: f64,
}

/// Offers as much as the generator can, and then a part more than went through. Answers that of which more arrived. Where all of the second
/// arrived it was no flood: the first had fallen into a stop of the machine, and both are tried again.
pub(crate) fn flood<T>(
    load: &mut T,
    measured: Measured,
    ends: impl Fn(&mut T) -> &mut Ends,
    mut ready: impl FnMut(&mut T) -> Result<Ready>,
) -> Result<Flood> {
    let mut best = Flood::default();
    for _ in 0..FLOODS_MAX {
        let mut is_flooded = false;
        for at_once in [true, false] {
            let ready = ready(load)?;
            let rate = (!at_once).then_some(best.kpps * SECOND_FLOOD);
            let before = measured.cpu_ns()?;
            let outcome = Core::Generator.run(|| offer(ends(load), &ready, rate))?;
            let cpu_ns = measured.cpu_ns()? - before;
            ensure!(
                outcome.arrived > 0,
                "nothing arrived of {} packets of a flood",
                outcome.offered
            );
            is_flooded = outcome.arrived < outcome.offered;
            if outcome.kpps() > best.kpps {
                best = Flood {
                    kpps: outcome.kpps(),
                    offered_kpps: outcome.offered as f64 / outcome.sending.as_secs_f64() / 1_000.0,
                    cpu_ns: cpu_ns as f64 / outcome.arrived as f64,
                };
            }
        }
        if is_flooded {
            break;
        }
    }
    Ok(best)
}

/// Makes `count` packets.
pub(crate) fn ready(tunnel: &mut Tunnel, way: Way, mix: Mix, count: usize) -> Result<Ready> {
    let each = way.shares(count);
    let sizes = || mix.sizes.iter().copied().cycle();
    let to_center = (0..each[0])
        .zip(sizes())
        .map(|(number, size)| tunnel.site.seal(&packet::to_center(size, number as u64)))
        .collect::<Result<_>>()?;
    let to_site = (0..each[1])
        .zip(sizes())
        .map(|(number, size)| tunnel.to_site(size, number as u64))
        .collect();
    Ok(Ready { to_center, to_site })
}

/// Sends them at `kpps`, or as fast as they go, and waits until no more arrive.
pub(crate) fn offer(ends: &mut Ends, ready: &Ready, kpps: Option<f64>) -> Result<Outcome> {
    // What comes in 20 us comes together, so that a rate is steady and a high one can be reached.
    let burst = kpps.map_or(BURST, |kpps| ((kpps * 0.02) as usize).clamp(1, BURST));
    let bursts = ready.bursts(burst);
    let before = ends.arrived()?;
    let sent = match ends.generator {
        Generator::Live => {
            let frames = bursts.iter().flat_map(|(end, frames)| {
                let frames = frames.iter().map(Vec::as_slice);
                frames.map(|frame| (*end, frame))
            });
            ends.live.send(&frames.collect::<Vec<_>>(), burst, kpps)?
        }
        Generator::Line => by_line(ends, &bursts, kpps)?,
    };
    let loaded = [&ready.to_center, &ready.to_site].map(|frames| !frames.is_empty());
    let (arrived, last_ns) = settled(ends, before, loaded)?;
    Ok(Outcome {
        offered: (ready.to_center.len() + ready.to_site.len()) as u64,
        arrived,
        elapsed: Duration::from_nanos(last_ns.saturating_sub(sent.begun_ns)),
        sending: Duration::from_nanos(sent.ended_ns.saturating_sub(sent.begun_ns)),
        sent_at: sent.at,
    })
}

fn by_line(ends: &mut Ends, bursts: &[(u32, &[Vec<u8>])], kpps: Option<f64>) -> Result<Sent> {
    let mut at = Vec::new();
    let begun_ns = now_ns(ClockId::Monotonic);
    let started = Instant::now();
    let mut sent = 0;
    for (end, frames) in bursts {
        if let Some(kpps) = kpps {
            let due = Duration::from_secs_f64(sent as f64 / kpps / 1_000.0);
            while started.elapsed() < due {
                spin_loop();
            }
        }
        let now = now_ns(ClockId::Realtime);
        at.extend(frames.iter().map(|_| now));
        let line = match end {
            0 => &mut ends.to_center,
            _ => &mut ends.to_site,
        };
        line.send(frames)?;
        sent += frames.len();
    }
    let ended_ns = now_ns(ClockId::Monotonic);
    Ok(Sent {
        begun_ns,
        ended_ns,
        at,
    })
}

/// Follows the counters of the ends that load goes to until they stand still; what arrived, and when the last did. What else comes to
/// the other end, for IKE, would stand for packets that were lost.
fn settled(ends: &Ends, before: [u64; 2], loaded: [bool; 2]) -> Result<(u64, u64)> {
    let sum = || {
        let arrived = ends.arrived()?.into_iter().zip(before).zip(loaded);
        let loaded = arrived.filter(|(_, loaded)| *loaded);
        anyhow::Ok(loaded.map(|((now, before), _)| now - before).sum::<u64>())
    };
    let mut last = (sum()?, now_ns(ClockId::Monotonic));
    let mut changed = Instant::now();
    while changed.elapsed() < if last.0 == 0 { FIRST } else { NEXT } {
        sleep(Duration::from_micros(500));
        let now = sum()?;
        if now != last.0 {
            last = (now, now_ns(ClockId::Monotonic));
            changed = Instant::now();
        }
    }
    Ok(last)
}

/// How rates are searched (RFC 9971).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Searching {
    /// Goal Final Trial Duration. Many times as long as queues on the way take to fill, as far as frames can lie ready.
    pub(crate) trial: Duration,
    /// Goal Width.
    pub(crate) width: f64,
    /// For all goals.
    pub(crate) time_max: Duration,
}

impl Searching {
    /// Nothing is lost; a load whose first trial loses something is tried once more.
    pub(crate) fn ndr(self) -> Goal {
        Goal::ndr(self.trial, self.width)
    }

    /// A little is lost.
    pub(crate) fn pdr(self) -> Goal {
        Goal::pdr(PDR_LOSS_RATIO, self.trial, self.width)
    }
}

/// Searches the rates, in kpps, that goals ask for. `flood_kpps` is what goes through of more than that.
pub(crate) fn search(
    tunnel: &mut Tunnel,
    way: Way,
    mix: Mix,
    (how, goals): (Searching, Vec<Goal>),
    flood_kpps: f64,
) -> Result<Vec<GoalResult>> {
    let longest = mix.sizes.iter().copied().max().unwrap_or_default();
    let most_kpps = frames_max(longest) as f64 / how.trial.as_secs_f64() / 1_000.0;
    let first_load = flood_kpps.min(most_kpps);
    let limits = Limits {
        min_load: first_load * LEAST,
        first_load,
        max_load: (flood_kpps * MOST).min(most_kpps),
        trials_max: TRIALS_MAX,
        time_max: how.time_max,
    };
    let mut search = Search::new(goals, limits)?;
    while let Some(trial) = search.poll_trial() {
        let started = Instant::now();
        let count = trial.load * 1_000.0 * trial.duration.as_secs_f64();
        let ready = ready(tunnel, way, mix, (count as usize).max(2))?;
        let outcome = offer(&mut tunnel.ends, &ready, Some(trial.load))?;
        tunnel.site.settle()?;
        let output = Output {
            loss_ratio: outcome.loss_ratio(trial.load),
            took: started.elapsed(),
        };
        search.handle_output(trial, output);
    }
    Ok(search.results())
}
