//! Offering packets, as fast as they go or at a rate, and counting what arrives.

use std::hint::spin_loop;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::time::ClockId;
use xtask::bench::machine::Core;
use xtask::lab::line::BURST;

use crate::busy::Measured;
use crate::ends::{Ends, Generator};
use crate::live::{Sent, now_ns};
use crate::packet::{self, Mix};
use crate::side::Tunnel;

/// Of what arrived of a flood, how much is offered in a second one: enough for more not to get through, and little enough for what is
/// turned away to cost little.
const SECOND_FLOOD: f64 = 1.5;

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

/// Offers as much as the generator can, and then a part more than went through. Answers that of which more arrived.
pub(crate) fn flood<T>(
    load: &mut T,
    measured: Measured,
    ends: impl Fn(&mut T) -> &mut Ends,
    mut ready: impl FnMut(&mut T) -> Result<Ready>,
) -> Result<Flood> {
    let mut best = Flood::default();
    for at_once in [true, false] {
        let ready = ready(load)?;
        let rate = (!at_once).then_some(best.kpps * SECOND_FLOOD);
        let before = measured.cpu_ns()?;
        let outcome = Core::Generator.run(|| offer(ends(load), &ready, rate))?;
        let cpu_ns = measured.cpu_ns()? - before;
        ensure!(outcome.arrived > 0, "nothing of a flood arrived");
        if outcome.kpps() > best.kpps {
            best = Flood {
                kpps: outcome.kpps(),
                offered_kpps: outcome.offered as f64 / outcome.sending.as_secs_f64() / 1_000.0,
                cpu_ns: cpu_ns as f64 / outcome.arrived as f64,
            };
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
    let (arrived, last_ns) = settled(ends, before)?;
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

/// Follows the counters until they stand still; what arrived, and when the last did.
fn settled(ends: &Ends, before: [u64; 2]) -> Result<(u64, u64)> {
    let sum = || {
        let now = ends.arrived()?;
        anyhow::Ok(
            now.iter()
                .zip(before)
                .map(|(now, before)| now - before)
                .sum::<u64>(),
        )
    };
    let mut last = (sum()?, now_ns(ClockId::Monotonic));
    let mut changed = Instant::now();
    while changed.elapsed() < Duration::from_millis(60) {
        sleep(Duration::from_micros(500));
        let now = sum()?;
        if now != last.0 {
            last = (now, now_ns(ClockId::Monotonic));
            changed = Instant::now();
        }
    }
    Ok(last)
}

/// The highest rate, in kpps, at which nothing is lost (RFC 2544 section 26.1), between nothing and `most`, to one part in
/// 2^`steps`. A trial that loses something is tried once more, as other guests of the machine stop it now and then.
pub(crate) fn loss_free(
    tunnel: &mut Tunnel,
    way: Way,
    mix: Mix,
    (count, steps): (usize, u32),
    most: f64,
) -> Result<f64> {
    let (mut low, mut high) = (0.0, most);
    for _ in 0..steps {
        let rate = f64::midpoint(low, high);
        let mut lossless = false;
        for _ in 0..2 {
            let ready = ready(tunnel, way, mix, count)?;
            let outcome = offer(&mut tunnel.ends, &ready, Some(rate))?;
            tunnel.site.settle()?;
            lossless = outcome.arrived >= outcome.offered;
            if lossless {
                // A generator that is slower than it is told offers less.
                low = rate.min(outcome.kpps());
                break;
            }
        }
        if !lossless {
            high = rate;
        }
    }
    Ok(low)
}
