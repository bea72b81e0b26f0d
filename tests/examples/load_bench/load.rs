//! Offering packets, as fast as they go or at a rate, and counting what arrives.

use std::hint::spin_loop;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use xtask::lab::line::BURST;

use crate::packet::{self, Mix};
use crate::side::Tunnel;

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
}

/// Packets that are ready to go, by whither.
pub(crate) struct Ready {
    to_center: Vec<Vec<u8>>,
    to_site: Vec<Vec<u8>>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) offered: u64,
    pub(crate) arrived: u64,
    /// From the first sent to the last that arrived.
    pub(crate) elapsed: Duration,
    /// When each packet of one direction was handed to the kernel, ns since 1970.
    pub(crate) sent_at: Vec<u64>,
}

impl Outcome {
    /// Of what arrived.
    pub(crate) fn kpps(&self) -> f64 {
        self.arrived as f64 / self.elapsed.as_secs_f64() / 1_000.0
    }
}

/// Makes `count` packets.
pub(crate) fn ready(tunnel: &mut Tunnel, way: Way, mix: Mix, count: usize) -> Result<Ready> {
    let each = match way {
        Way::ToCenter => [count, 0],
        Way::ToSite => [0, count],
        Way::Both => [count / 2, count / 2],
    };
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
pub(crate) fn offer(tunnel: &mut Tunnel, ready: &Ready, kpps: Option<f64>) -> Result<Outcome> {
    let before = tunnel.arrived()?;
    let offered = ready.to_center.len() + ready.to_site.len();
    // What comes in 20 us comes together, so that a rate is steady and a high one can be reached.
    let burst = kpps.map_or(BURST, |kpps| ((kpps * 0.02) as usize).clamp(1, BURST));
    let mut sent_at = Vec::with_capacity(offered);
    let mut lanes = [ready.to_center.chunks(burst), ready.to_site.chunks(burst)];
    let started = Instant::now();
    let mut sent = 0;
    loop {
        let mut idle = true;
        for (lane, line) in lanes
            .iter_mut()
            .zip([&mut tunnel.lines.to_center, &mut tunnel.lines.to_site])
        {
            let Some(frames) = lane.next() else { continue };
            idle = false;
            if let Some(kpps) = kpps {
                let due = Duration::from_secs_f64(sent as f64 / kpps / 1_000.0);
                while started.elapsed() < due {
                    spin_loop();
                }
            }
            let now = now_ns();
            sent_at.extend(frames.iter().map(|_| now));
            line.send(frames)?;
            sent += frames.len();
        }
        if idle {
            break;
        }
    }
    let (arrived, last) = settled(tunnel, before)?;
    Ok(Outcome {
        offered: offered as u64,
        arrived,
        elapsed: last.duration_since(started),
        sent_at,
    })
}

/// Follows the counters until they stand still; what arrived, and when the last did.
fn settled(tunnel: &Tunnel, before: [u64; 2]) -> Result<(u64, Instant)> {
    let sum = || {
        let now = tunnel.arrived()?;
        anyhow::Ok(
            now.iter()
                .zip(before)
                .map(|(now, before)| now - before)
                .sum::<u64>(),
        )
    };
    let mut last = (sum()?, Instant::now());
    while last.1.elapsed() < Duration::from_millis(60) {
        sleep(Duration::from_micros(500));
        let now = sum()?;
        if now != last.0 {
            last = (now, Instant::now());
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
            let outcome = offer(tunnel, &ready, Some(rate))?;
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

pub(crate) fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
