//! Whole gateways, at a rate that all of them carry: outbound by the site's end, inbound by the center's ([`whole`]).
//!
//! What counts is packets that came to where they are counted, for the CPU time of the end that they came through. What an end lost,
//! in a worker's queue or because the next ring was full, has cost as much as what it did not lose: the rate leaves time, so that
//! next to nothing is lost. What all the same was, where, and what each thread took, is told beside the figures.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xtask::bench::pktgen::control::Stream;

use crate::gateway::{PORT, TERMINAL};
use crate::lane::MAC_IN;
use crate::namespace::Namespace;
use crate::whole::{self, Chain, End, Lost};
use crate::{
    Bench, FIRST_PORT, FRAME_OCTETS, Figures, MAC_STRANGER, SETTLE, WARM_UP_MAX, expect_few_lost, say, step,
    while_generating,
};

/// Packets a second in a guest: about what XFRM's end carries beside the generator on its CPU.
const RATE_EMULATED: u32 = 15_000;
const CASES: [&str; 2] = [
    "whole gateway, outbound, AES-256-GCM",
    "whole gateway, inbound, AES-256-GCM",
];

/// A chain, and who it is.
pub(crate) struct Tunnel {
    pub(crate) chain: Chain,
    pub(crate) ours: bool,
    pub(crate) name: &'static str,
}

impl Bench {
    /// All tunnels, up.
    pub(crate) fn tunnels(&mut self, program: &Path, pki: &Path) -> Result<Vec<Tunnel>> {
        let generator = &self.ends.generator;
        let mut tunnels = Vec::new();
        for (letter, engine) in [('o', "xdp"), ('d', "direct")] {
            tunnels.push(Tunnel {
                chain: whole::gateway(
                    (letter, engine),
                    (program, pki),
                    generator,
                    &mut self.programs.harness,
                    None,
                )?,
                ours: true,
                name: engine,
            });
        }
        // All daemons load their programs at the same time.
        for tunnel in &mut tunnels {
            tunnel.chain.connect()?;
        }
        tunnels.push(Tunnel {
            chain: whole::linux(generator, &mut self.programs.harness)?,
            ours: false,
            name: "XFRM, nftables",
        });
        Ok(tunnels)
    }

    /// All of them, in turn.
    pub(crate) fn rounds_of_tunnels(&self, tunnels: &[Tunnel], rounds: u32, time: Duration) -> Result<()> {
        for _ in 0..rounds {
            for Tunnel { chain, ours, name } in tunnels {
                let figures = through(&self.ends.generator, chain, (name, RATE_EMULATED), time)?;
                for (case, figures) in CASES.into_iter().zip(figures) {
                    say(case, *ours, name, figures);
                }
            }
        }
        Ok(())
    }
}

/// The figures of a tunnel's both ends, at so many packets a second.
pub(crate) fn through(
    generator: &Namespace,
    chain: &Chain,
    (name, rate): (&str, u32),
    time: Duration,
) -> Result<[Figures; 2]> {
    let stream = Stream {
        interface: chain.from.clone(),
        macs: [MAC_IN, MAC_STRANGER],
        sites: 1,
        addresses: [TERMINAL, whole::PUBLISHED],
        destinations: 1,
        source_ports: (FIRST_PORT, 1),
        destination_ports: (PORT, 1),
        frame_octets: FRAME_OCTETS,
        packets_per_s: Some(rate),
    };
    while_generating(generator, &stream, || {
        until_it_goes_through(chain)?;
        let lost = Lost::until_now(chain)?;
        let (started, before) = (Instant::now(), chain.look()?);
        sleep(time);
        let seen = chain.look()?.since(&before);
        let elapsed = started.elapsed();
        for (place, packets) in Lost::until_now(chain)?.since(&lost) {
            step(&format!("{name}: {packets} packets {place}"));
        }
        let figures = |had: u64, packets: u64, end: &End, place: &str| {
            ensure!(packets > 0, "nothing came to {place}:\n{}", chain.counters()?);
            step(&format!("{name}, to {place}: {}", end.shown(packets)));
            let lost = had.saturating_sub(packets);
            expect_few_lost(packets, lost)?;
            Ok(Figures {
                packets,
                cpu: Duration::from_nanos(end.time_ns()),
                beside: Duration::ZERO,
                had,
                lost,
                elapsed,
            })
        };
        let [site, center] = &seen.ends;
        Ok([
            figures(seen.site, seen.line, site, "the line")?,
            figures(seen.line, seen.sink, center, "the sink")?,
        ])
    })
}

/// Waits until packets come to the sink: the ends ask for each other's addresses first.
fn until_it_goes_through(chain: &Chain) -> Result<()> {
    let deadline = Instant::now() + WARM_UP_MAX;
    let at_first = chain.look()?.sink;
    while chain.look()?.sink == at_first {
        ensure!(
            Instant::now() < deadline,
            "nothing came to the sink:\n{}",
            chain.counters()?
        );
        sleep(SETTLE);
    }
    sleep(SETTLE);
    Ok(())
}
