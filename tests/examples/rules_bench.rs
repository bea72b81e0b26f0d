//! What a new flow costs under 1 to 10,000 rules: nanoseconds of the `clear` program by `BPF_PROG_TEST_RUN`, and
//! the time to build and load each rule set.
//!
//! `cargo run -p gateway-tests --release --example rules_bench [-- --json] [--short]`; needs root.
//!
//! Two shapes of rule sets: `servers` (each rule one server and port for one of 64 groups, as operators write them) and
//! `mixed` (random prefixes on both sides, ranges of ports and sites, in random order). Each packet opens a flow that one
//! of the rules denies, so that the cost is that of parsing, flow look-up and rules alone; 64 packets to rules all over the
//! set. The sizes take turns; the figure is the median over rounds of the mean over packets.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, ensure};
use gateway::core::classifier::{self, Condition};
use gateway_common::abi::rule::{Rule, action};
use gateway_common::drop::DropReason;
use gateway_common::packet::tcp::flag::SYN;
use gateway_tests::frames::Clear;
use gateway_tests::kernel::{Kernel, increase, monotonic};
use gateway_tests::random;
use gateway_tests::vectors::world;
use xtask::bench::report::{Figure, emit};

const SIZES: [u32; 5] = [1, 10, 100, 1_000, 10_000];
const ROUNDS: u32 = 11;
const ROUNDS_SHORT: u32 = 3;
const PACKETS: u32 = 64;
const REPEAT: u32 = 2_000;
const XDP_DROP: u32 = 1;

fn main() -> Result<()> {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    let rounds = if has("--short") { ROUNDS_SHORT } else { ROUNDS };
    let mut kernel = Kernel::load()?;
    kernel.fill(&world::world(u32::try_from(monotonic().as_secs())?))?;
    let before = kernel.drops()?;
    let mut report = Vec::new();
    for (shape, rule) in [("servers", servers as fn(u32) -> Rule), ("mixed", mixed)] {
        for (size, samples) in measure(&mut kernel, rule, rounds)? {
            let name = format!("{shape}, {size} rules");
            report.extend([
                Figure::new(format!("{name}, built"), "ms", samples.build_ms),
                Figure::new(format!("{name}, loaded"), "ms", samples.load_ms),
                Figure::new(format!("{name}, size"), "KiB", vec![samples.size_kib]),
                Figure::new(name, "ns", samples.ns),
            ]);
        }
    }
    let dropped: Vec<_> = increase(&before, &kernel.drops()?).into_keys().collect();
    ensure!(
        dropped == [DropReason::RuleDenied],
        "not only rules dropped packets: {dropped:?}"
    );
    emit(report, has("--json"))
}

#[derive(Default)]
struct Samples {
    ns: Vec<f64>,
    build_ms: Vec<f64>,
    load_ms: Vec<f64>,
    size_kib: f64,
}

fn measure(kernel: &mut Kernel, rule: fn(u32) -> Rule, rounds: u32) -> Result<BTreeMap<u32, Samples>> {
    let mut samples: BTreeMap<u32, Samples> = BTreeMap::new();
    for round in 0..rounds {
        for size in SIZES {
            let rules: Vec<Rule> = (0..size).map(rule).collect();
            let begin = Instant::now();
            let conditions: Vec<_> = rules.iter().map(Condition::from).collect();
            let bitmaps: Vec<u64> = (0..64)
                .map(|bit| 1 << bit)
                .chain([world::GROUP_CLINIC | 1])
                .collect();
            let built = classifier::build(round + 1, 0, &conditions, &bitmaps)?;
            let build = begin.elapsed();
            let begin = Instant::now();
            kernel.load_generation(built.chunks())?;
            let load = begin.elapsed();
            let mut sum = 0;
            for packet in 0..PACKETS {
                let frame = frame(&rules[(packet * size / PACKETS) as usize]);
                let run = kernel.repeat("clear", &frame, REPEAT)?;
                ensure!(run.code == XDP_DROP, "code {}", run.code);
                sum += run.duration_ns;
            }
            let samples = samples.entry(size).or_default();
            samples.ns.push(sum as f64 / f64::from(PACKETS));
            samples.build_ms.push(build.as_secs_f64() * 1_000.0);
            samples.load_ms.push(load.as_secs_f64() * 1_000.0);
            samples.size_kib = (built.size() / 1024) as f64;
        }
    }
    Ok(samples)
}

/// A packet that meets the rule's conditions (and perhaps an earlier rule's: all deny).
fn frame(rule: &Rule) -> Vec<u8> {
    // A host of the prefix.
    let host = |[a, b, c, d]: [u8; 4], mask: [u8; 4]| [a, b, c, d | (1 & !mask[3])];
    let source = match rule.source_mask {
        [0, 0, 0, 0] => world::TERMINAL,
        mask => host(rule.source, mask),
    };
    let destination = host(rule.destination, rule.destination_mask);
    let source_port = rule.source_port_low.max(1024);
    Clear::tcp(
        (source, source_port),
        (destination, rule.destination_port_low.max(1)),
        SYN,
    )
    .linked(world::SITE, 0)
}

fn deny(number: u32) -> Rule {
    Rule {
        action: action::DENY,
        protocol: 6,
        ..world::allow(number, [0; 4], 6, 0)
    }
}

fn servers(number: u32) -> Rule {
    let port = 1024 + (number % 50) as u16;
    Rule {
        // One of the groups that the site of the packets is in, and others.
        groups: (1 << (number % 64)) | world::GROUP_CLINIC,
        destination: [10, 1 + (number >> 16) as u8, (number >> 8) as u8, number as u8],
        destination_port_low: port,
        destination_port_high: port,
        ..deny(number)
    }
}

fn mixed(number: u32) -> Rule {
    let random = |salt: u32| random::mixed(u64::from(number) << 8 | u64::from(salt)) as u32;
    let prefix = |salt: u32, first: u8| {
        let mask = (u32::MAX << (random(salt) % 17)).to_be_bytes();
        let address = random(salt + 1).to_be_bytes();
        let octet = |index: usize| if index == 0 { first } else { address[index] } & mask[index];
        ([octet(0), octet(1), octet(2), octet(3)], mask)
    };
    let (source, source_mask) = prefix(1, 172);
    let (destination, destination_mask) = prefix(3, 10);
    let low = (random(5) % 60_000) as u16 + 1;
    Rule {
        site: if random(6) % 4 == 0 { world::SITE } else { 0 },
        groups: if random(6) % 4 == 1 {
            world::GROUP_CLINIC
        } else {
            0
        },
        source,
        source_mask,
        destination,
        destination_mask,
        destination_port_low: low,
        destination_port_high: low.saturating_add((random(7) % 500) as u16),
        ..deny(number)
    }
}
