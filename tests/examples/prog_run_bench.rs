//! Nanoseconds per packet of each program by `BPF_PROG_TEST_RUN`, beside a bare `XDP_PASS` in the same run.
//!
//! `cargo run -p gateway-tests --release --example prog_run_bench [-- --json] [--short] [--object FILE]`; needs root.
//!
//! The kernel does not put the frame back between repeats, and does not send what is redirected: a case repeats a
//! packet that stays what it was (a mapping to the same address, MAC addresses that read as a link header again, a TTL
//! that lasts), and a redirect is counted up to the look-up of its target. `clear miss` is a packet that none of 16 rules allows. The cases take
//! turns, so that a slow phase of the machine falls on all of them; the figure is the median of the rounds.
//!
//! With `--features compare` there follow 1 to 1,048,576 flows, drawn at random for each packet, through the flow table and
//! through a BPF hash map of the same keys and records (`gateway-ebpf/src/compare.rs`); the cost of drawing stands beside.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use gateway::dataplane::TableSizes;
use gateway_common::abi::flow::{Flow, FlowKey, Half, Progress, state};
use gateway_common::abi::interface::{STATES, Settings};
use gateway_common::abi::nat::{InsideKey, Mapping, kind};
use gateway_common::abi::sa::LinkHeader;
use gateway_common::packet::ethernet::Ethernet;
use gateway_common::packet::tcp::flag::{ACK, SYN};
use gateway_common::tables::host::HostTables;
use gateway_tests::frames::{Clear, ISN, WINDOW, ethernet, ipv4};
use gateway_tests::kernel::{Kernel, monotonic};
use gateway_tests::vectors::world;
use xtask::bench::report::{Figure, emit};
use zerocopy::IntoBytes as _;

const ROUNDS: usize = 21;
const ROUNDS_SHORT: usize = 5;
/// Fewer than the highest TTL, which each run decrements.
const REPEAT_FORWARDED: u32 = 200;
const REPEAT: u32 = 100_000;
/// Ports that new flows come from, and how many in each round.
const NEW_FLOWS: std::ops::Range<u16> = 1024..49_000;
const NEW_FLOWS_OF_ROUND: usize = 2_000;
/// What the last of the rules allows.
const DNS: u16 = 53;
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

struct Case {
    name: &'static str,
    program: &'static str,
    frame: Vec<u8>,
    repeat: u32,
    code: u32,
}

fn main() -> Result<()> {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    let rounds = if has("--short") { ROUNDS_SHORT } else { ROUNDS };
    let object = word("--object");
    let mut kernel = match object {
        Some(path) => Kernel::load_object(&std::fs::read(path)?, TableSizes::default())?,
        None => Kernel::load()?,
    };
    kernel.fill(&bench_world(u32::try_from(monotonic().as_secs())?))?;
    let cases = cases();
    let mut samples: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..=rounds {
        for case in &cases {
            // Many short runs for a case whose frame wears out, one long run for the others.
            let runs = REPEAT / case.repeat / 10;
            let mut sum = 0;
            for _ in 0..runs.max(1) {
                let run = kernel.repeat(case.program, &case.frame, case.repeat)?;
                ensure!(run.code == case.code, "{}: code {}", case.name, run.code);
                sum += run.duration_ns;
            }
            if round > 0 {
                samples
                    .entry(case.name)
                    .or_default()
                    .push(sum as f64 / f64::from(runs.max(1)));
            }
        }
    }
    let mut figures: Vec<Figure> = cases
        .iter()
        .map(|case| Figure::new(case.name, "ns", samples.remove(case.name).unwrap_or_default()))
        .collect();
    figures.extend(new_flows(&mut kernel, rounds)?);
    #[cfg(feature = "compare")]
    let figures = {
        // Their tables would share the caches.
        drop(kernel);
        let object = word("--compare-object").map(std::fs::read).transpose()?;
        let object = object.as_deref().unwrap_or(compare::OBJECT);
        [
            figures,
            fresh::measure(object, rounds)?,
            compare::measure(object, rounds)?,
        ]
        .concat()
    };
    emit(figures, has("--json"))
}

fn word(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

/// A packet that opens a flow which a rule allows, with a mapping of its own: each can be run but once, so that reading the
/// clock counts too, and `pass` is run in the same way.
fn new_flows(kernel: &mut Kernel, rounds: usize) -> Result<[Figure; 2]> {
    let mut ports = NEW_FLOWS;
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let frames: Vec<_> = ports
            .by_ref()
            .take(NEW_FLOWS_OF_ROUND)
            .map(|port| Clear::udp((world::TERMINAL, port), (world::SERVER, DNS)).linked(world::SITE, 0))
            .collect();
        for ((program, code), samples) in [("clear", REDIRECT), ("pass", PASS)]
            .into_iter()
            .zip(&mut samples)
        {
            let mut sum = 0;
            for frame in &frames {
                let run = kernel.repeat(program, frame, 1)?;
                ensure!(run.code == code, "new flow, {program}: code {}", run.code);
                sum += run.duration_ns;
            }
            samples.push(sum as f64 / frames.len() as f64);
        }
    }
    let [clear, pass] = samples;
    Ok([
        Figure::new("clear new flow, single runs", "ns", clear),
        Figure::new("pass, single runs", "ns", pass),
    ])
}

/// The flow table beside a BPF hash map.
#[cfg(feature = "compare")]
mod compare {
    use std::collections::BTreeMap;

    use anyhow::{Context as _, Result, ensure};
    use aya::maps::HashMap;
    use gateway::dataplane::TableSizes;
    use gateway_common::abi::flow::{Flow, FlowKey, Half, Progress, RECORD_WORDS, state, word};
    use gateway_common::packet::tcp::flag::ACK;
    use gateway_common::tables::words::Words as _;
    use gateway_tests::frames::{Clear, ISN, WINDOW, fix_ipv4};
    use gateway_tests::kernel::{Kernel, monotonic};
    use gateway_tests::vectors::world;
    use xtask::bench::report::Figure;

    pub(super) const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/compare"));
    const PROGRAMS: [&str; 4] = [
        "compare_floor",
        "compare_buckets",
        "compare_hash",
        "compare_answers",
    ];
    /// How many flows are drawn from, as powers of two; both tables hold all of them always.
    const BITS: [u8; 5] = [0, 10, 14, 17, 20];
    const FLOWS: u32 = 1 << 20;
    const REPEAT: u32 = 100_000;
    const PASS: u32 = 2;
    const REDIRECT: u32 = 4;

    /// The flow that the programs draw by this number.
    fn key(number: u32) -> FlowKey {
        FlowKey {
            site: world::SITE,
            source: [10, 1, (number >> 12) as u8, 10],
            destination: world::SERVER,
            source_port: ((number & 0xfff) as u16 + 2048).to_be_bytes(),
            destination_port: 443u16.to_be_bytes(),
            protocol: 6,
            pad: [0; 3],
        }
    }

    fn flow(number: u32, now_s: u32) -> Flow {
        let half = Half {
            end: ISN.wrapping_add(1),
            limit: ISN.wrapping_add(1).wrapping_add(u32::from(WINDOW)),
            acknowledged: ISN.wrapping_add(1),
            seen_s: now_s,
            window: WINDOW,
            packets: 0,
            bytes: 0,
        };
        Flow {
            progress: Progress {
                state: state::TCP_ESTABLISHED,
                ..Progress::default()
            },
            out: half,
            back: half,
            created_s: now_s,
            generation: 1,
            rule: 0,
            nat_address: [198, 51, 100, (number >> 14) as u8],
            nat_port: ((number & 0x3fff) as u16 + 1024).to_be_bytes(),
            mapping: 0,
        }
    }

    fn fill(kernel: &Kernel, now_s: u32) -> Result<()> {
        for number in 0..FLOWS {
            let put = kernel.tables().flows().insert(&key(number), &flow(number, now_s));
            ensure!(put.is_ok(), "flow {number}: {put:?}");
        }
        Ok(())
    }

    /// Has all flows know what the first one has looked up, as established ones do, and puts their records into the hash map.
    fn know(kernel: &mut Kernel) -> Result<()> {
        let mut records = Vec::new();
        let flows = kernel.tables().flows();
        let entry = |number| flows.find(&key(number)).context("a flow");
        let first = entry(0)?.record;
        for number in 0..FLOWS {
            let record = entry(number)?.record;
            for word in [word::HOP, word::SA] {
                record.store(word, first.load(word));
            }
            let words: [u64; RECORD_WORDS] = std::array::from_fn(|word| record.load(word));
            records.push(words);
        }
        let mut hash: HashMap<_, FlowKey, [u64; RECORD_WORDS]> = HashMap::try_from(kernel.map("FLOW_HASH")?)?;
        for (number, record) in (0..).zip(records) {
            hash.insert(key(number), record, 0)?;
        }
        Ok(())
    }

    pub(super) fn measure(object: &[u8], rounds: usize) -> Result<Vec<Figure>> {
        let sizes = TableSizes {
            flows: FLOWS,
            mappings: 16,
        };
        let mut kernel = Kernel::load_some(object, sizes, |name| PROGRAMS.contains(&name))?;
        let now_s = u32::try_from(monotonic().as_secs())?;
        let mut tables = world::world(now_s);
        for (length, key, _) in &mut tables.sa_outbound {
            (*length, key.destination) = (16, [10, 1, 0, 0]);
        }
        kernel.fill(&tables)?;
        fill(&kernel, now_s)?;
        let [floor, buckets, hash, answers] = PROGRAMS;
        let out = Clear::tcp((world::TERMINAL, 2048), (world::SERVER, 443), ACK)
            .data(46)
            .linked(world::SITE, 0);
        let back = Clear::tcp((world::SERVER, 443), (world::TERMINAL, 2048), ACK)
            .data(46)
            .ethernet(world::MAC, world::MAC_HOP);
        let programs = [
            (floor, "drawn", &out, PASS),
            (buckets, "buckets", &out, REDIRECT),
            (hash, "hash map", &out, REDIRECT),
            (answers, "answers", &back, REDIRECT),
        ];
        // One packet of either direction looks up next hop and SA, which all flows know then.
        kernel.repeat(buckets, &out, 1)?;
        kernel.repeat(answers, &back, 1)?;
        know(&mut kernel)?;
        // In the order of programs and sizes.
        let mut samples: BTreeMap<usize, (String, Vec<f64>)> = BTreeMap::new();
        for round in 0..=rounds {
            for (at, (program, name, packet, code)) in programs.into_iter().enumerate() {
                for bits in BITS {
                    let name = format!("{name}, {} flows", 1 << bits);
                    let at = at * 100 + usize::from(bits);
                    let mut packet = packet.clone();
                    packet[18..20].copy_from_slice(&[0, bits]);
                    fix_ipv4(&mut packet[14..]);
                    let run = kernel.repeat(program, &packet, REPEAT)?;
                    ensure!(
                        run.code == code,
                        "{name}: code {}, {:?}",
                        run.code,
                        kernel.drops()?
                    );
                    if round > 0 {
                        let (_, samples) = samples.entry(at).or_insert((name, Vec::new()));
                        samples.push(run.duration_ns as f64);
                    }
                }
            }
        }
        let figure = |(name, samples)| Figure::new(name, "ns", samples);
        Ok(samples.into_values().map(figure).collect::<Vec<Figure>>())
    }
}

/// New flows, one after another: the programs' instructions stay in the caches, as they do under load.
#[cfg(feature = "compare")]
mod fresh {
    use std::net::Ipv4Addr;

    use anyhow::{Result, ensure};
    use aya::maps::Array;
    use gateway::dataplane::TableSizes;
    use gateway_common::abi::interface::Settings;
    use gateway_tests::fresh;
    use gateway_tests::kernel::{Kernel, monotonic};
    use gateway_tests::vectors::world;
    use xtask::bench::pktgen::control::Stream;
    use xtask::bench::report::Figure;

    const DRAWN: &str = "compare_fresh_floor";
    const OPENED: &str = "compare_fresh";
    const PROGRAMS: [&str; 6] = [DRAWN, OPENED, "clear", "clear_judge", "clear_map", "clear_add"];
    /// Flows of a round, and room for twice as many.
    const FLOWS: u32 = 100_000;
    const SIZES: TableSizes = TableSizes {
        flows: 2 * FLOWS,
        mappings: 2 * FLOWS,
    };
    const FRAME_OCTETS: usize = 60;
    const RULES: u32 = 16;
    const PASS: u32 = 2;
    const REDIRECT: u32 = 4;

    pub(super) fn measure(object: &[u8], rounds: usize) -> Result<Vec<Figure>> {
        let mut kernel = Kernel::load_some(object, SIZES, |name| PROGRAMS.contains(&name))?;
        let now_s = u32::try_from(monotonic().as_secs())?;
        let mut base = world::world(now_s);
        base.settings = Some(Settings {
            idle_s: world::IDLE.by_state(),
            port_low: 1024,
            port_high: 65535,
            ..Settings::UNLIMITED
        });
        let rules = (0..RULES).map(|rule| world::allow(rule, world::FORBIDDEN, 6, 443));
        base.rules = Some((world::GENERATION, rules.collect()));
        let tables = fresh::world(base);
        kernel.fill(&tables)?;
        let mut figures = Vec::new();
        for (name, program, code, stream) in [
            (
                "new flow drawn",
                DRAWN,
                PASS,
                endpoints(fresh::SITES, fresh::PORTS_MANY),
            ),
            (
                "new flow of a new endpoint",
                OPENED,
                REDIRECT,
                endpoints(fresh::SITES, fresh::PORTS_MANY),
            ),
            (
                "new flow of 997 endpoints",
                OPENED,
                REDIRECT,
                endpoints(1, fresh::PORTS_FEW),
            ),
        ] {
            let mut samples = Vec::new();
            for round in 0..=rounds {
                kernel.refill(&tables)?;
                let mut told: Array<_, [u8; fresh::TOLD_OCTETS]> = Array::try_from(kernel.map(fresh::TOLD)?)?;
                told.set(0, fresh::told(&stream), 0)?;
                let run = kernel.repeat(program, &[0; FRAME_OCTETS], FLOWS)?;
                let (made, meant) = (
                    kernel.tables().flows().live().count(),
                    if code == REDIRECT { FLOWS } else { 0 },
                );
                ensure!(
                    run.code == code && made == meant as usize,
                    "{name}: code {}, {made} flows, {:?}",
                    run.code,
                    kernel.drops()?
                );
                if round > 0 {
                    samples.push(run.duration_ns as f64);
                }
            }
            figures.push(Figure::new(name, "ns", samples));
        }
        Ok(figures)
    }

    fn endpoints(sites: u16, source_ports: (u16, u16)) -> Stream {
        let header = gateway_common::abi::sa::LinkHeader::new(world::SITE, 0);
        let [m0, m1] = header.mark;
        let [s0, s1, s2, s3] = header.site;
        let [k0, k1] = header.mark_sa;
        let [i0, i1, i2, i3] = header.sa_index;
        Stream {
            interface: String::new(),
            macs: [[m0, m1, s0, s1, s2, s3], [k0, k1, i0, i1, i2, i3]],
            sites,
            addresses: [Ipv4Addr::from(world::TERMINAL), fresh::SERVER],
            destinations: fresh::DESTINATIONS,
            source_ports,
            destination_ports: (fresh::PORT, 1),
            frame_octets: FRAME_OCTETS as u16,
            packets_per_s: None,
        }
    }
}

/// The usual world, with a flow whose translation changes nothing, and 16 rules.
fn bench_world(now_s: u32) -> HostTables {
    let mut tables = world::world(now_s);
    tables.settings = Some(Settings {
        idle_s: [300; STATES],
        ..Settings::UNLIMITED
    });
    // Of no case here, and an older object has no map for them.
    tables.ike_spis.clear();
    let port = 49_152u16.to_be_bytes();
    let key = FlowKey {
        site: world::SITE,
        source: world::TERMINAL,
        destination: world::SERVER,
        source_port: port,
        destination_port: 443u16.to_be_bytes(),
        protocol: 6,
        pad: [0; 3],
    };
    let inside = InsideKey {
        site: world::SITE,
        address: world::TERMINAL,
        port,
        protocol: 6,
        pad: 0,
    };
    let mapping = Mapping {
        address: world::TERMINAL,
        port,
        last_used_s: now_s,
        created_s: now_s,
        position: 0,
        kind: kind::DYNAMIC,
    };
    let half = Half {
        end: ISN.wrapping_add(1),
        limit: ISN.wrapping_add(1).wrapping_add(u32::from(WINDOW)),
        acknowledged: ISN.wrapping_add(1),
        seen_s: now_s,
        window: WINDOW,
        packets: 0,
        bytes: 0,
    };
    let flow = Flow {
        progress: Progress {
            state: state::TCP_ESTABLISHED,
            ..Progress::default()
        },
        out: half,
        back: half,
        created_s: now_s,
        generation: 1,
        rule: 0,
        nat_address: world::TERMINAL,
        nat_port: port,
        mapping: tables.put_mapping(&inside, &mapping).unwrap_or(0),
    };
    let put = tables.put_flow(&key, &flow);
    assert!(put.is_ok(), "{put:?}");
    let link = LinkHeader::new(world::SITE, 0);
    let mut hop = Ethernet {
        destination: [0; 6],
        source: [0; 6],
        ether_type: [0; 2],
    };
    hop.as_mut_bytes().copy_from_slice(link.as_bytes());
    for (_, _, next_hop) in &mut tables.next_hops {
        (next_hop.destination_mac, next_hop.source_mac) = (hop.destination, hop.source);
    }
    tables.rules = Some((
        1,
        (0..15)
            .map(|rule| world::allow(rule, world::FORBIDDEN, 17, 9))
            .chain([world::allow(15, world::SERVER, 17, DNS)])
            .collect(),
    ));
    tables
}

fn cases() -> Vec<Case> {
    let terminal = (world::TERMINAL, 49_152);
    let server = (world::SERVER, 443);
    let out = Clear::tcp(terminal, server, ACK).ttl(255).data(46);
    let back = Clear::tcp(server, terminal, ACK).ttl(255).data(46);
    let esp = [&world::SPI[..], &[0; 72]].concat();
    let esp = ethernet(
        world::MAC,
        world::MAC_HOP,
        0x0800,
        &ipv4(50, world::ROUTER, world::GATEWAY, &esp),
    );
    let syn = Clear::tcp(terminal, (world::SERVER, 80), SYN).linked(world::SITE, 0);
    let out = out.linked(world::SITE, 0);
    let core = back.ethernet(world::MAC, world::MAC_HOP);
    vec![
        Case {
            name: "pass",
            program: "pass",
            frame: esp.clone(),
            repeat: REPEAT,
            code: PASS,
        },
        Case {
            name: "pass, runs of 200",
            program: "pass",
            frame: esp.clone(),
            repeat: REPEAT_FORWARDED,
            code: PASS,
        },
        Case {
            name: "wan esp",
            program: "wan",
            frame: esp,
            repeat: REPEAT,
            code: REDIRECT,
        },
        Case {
            name: "clear established",
            program: "clear",
            frame: out,
            repeat: REPEAT_FORWARDED,
            code: REDIRECT,
        },
        Case {
            name: "core established",
            program: "core",
            frame: core,
            repeat: REPEAT_FORWARDED,
            code: REDIRECT,
        },
        Case {
            name: "clear miss, 16 rules",
            program: "clear",
            frame: syn,
            repeat: REPEAT,
            code: DROP,
        },
    ]
}
