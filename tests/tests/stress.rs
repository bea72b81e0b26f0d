//! Flow and mapping table under load: programs in the kernel on several CPUs, workers with the direct engine, and the
//! daemon's sweep in user space, at once and on the same few keys. Needs root.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use gateway::dataplane::sweep::{HoldDown, Quiet, Sweep};
use gateway::dataplane::{Direct, Egress, TableSizes, Way};
use gateway_common::abi::flow::{self, FlowKey, Progress, halves, pair, word};
use gateway_common::abi::interface::{STATES, Settings};
use gateway_common::abi::stats::Path;
use gateway_common::packet::Buffer;
use gateway_common::packet::tcp::flag::{ACK, RST, SYN};
use gateway_common::path::filter::{Direction, follow};
use gateway_common::path::inner::Inner;
use gateway_common::tables::words::Words as _;
use gateway_tests::accounts::{check, taken};
use gateway_tests::frames::Clear;
use gateway_tests::kernel::{Kernel, monotonic};
use gateway_tests::random::Random;
use gateway_tests::rounds::{Round, seen};
use gateway_tests::vectors::world::{self, NAME_SERVER, NAT, SA_INDEX, SERVER, SITE, TERMINAL};

const XDP_DROP: u32 = 1;
const XDP_REDIRECT: u32 = 4;
/// Threads that run packets through the programs.
const PACKET_THREADS: u32 = 3;
/// Threads that run them through the direct engine first.
const WORKERS: u32 = 2;
/// Source ports that they share, in groups that take turns, a second each: a group is silent until its flows are just dead,
/// so that a packet and the sweep meet at the same flow.
const PORTS: u32 = 400;
const GROUPS: u32 = IDLE_S + 1;
/// Sweeps while they run, a second of the tables' clock apart, and what such a second really takes at least.
const SECONDS: u32 = 150;
const SECOND: Duration = Duration::from_millis(20);
/// How often it is looked whether those that were held up have come on.
const HELD_UP: Duration = Duration::from_millis(1);
/// Silence after which every flow is dead, and a mapping is not held for it any more.
const IDLE_S: u32 = 2;
const HOLD_DOWN: HoldDown = HoldDown {
    hold_s: IDLE_S,
    site_ports_max: PORTS / 4,
};

/// A packet of the same few flows.
fn draw(random: &mut Random, second: &AtomicU32) -> Vec<u8> {
    let group = second.load(Ordering::Relaxed) % GROUPS;
    let port = 2000 + (random.below(PORTS / GROUPS) * GROUPS + group) as u16;
    let (tcp, server) = ((TERMINAL, port), (SERVER, 443));
    let packet = match random.below(8) {
        0..=2 => Clear::udp((TERMINAL, port), (NAME_SERVER, 53)),
        3..=5 => Clear::tcp(tcp, server, SYN),
        6 => Clear::tcp(tcp, server, ACK),
        _ => Clear::tcp(tcp, server, RST),
    };
    packet.linked(SITE, SA_INDEX)
}

/// Sends packets until told to stop; answers how many were forwarded. `rounds` is odd while a program may hold an entry.
fn send(
    kernel: &Kernel,
    seed: u64,
    second: &AtomicU32,
    stop: &AtomicBool,
    rounds: &AtomicU64,
) -> Result<u64> {
    let mut random = Random(seed);
    let mut forwarded = 0;
    while !stop.load(Ordering::Relaxed) {
        let frame = draw(&mut random, second);
        let round = Round::begin(rounds);
        let code = kernel.code("clear", &frame)?;
        drop(round);
        match code {
            XDP_REDIRECT => forwarded += 1,
            code => ensure!(code == XDP_DROP, "code {code}"),
        }
    }
    Ok(forwarded)
}

/// The same as a worker; answers how many it forwarded by itself.
fn send_directly(
    kernel: &Kernel,
    seed: u64,
    second: &AtomicU32,
    stop: &AtomicBool,
    rounds: &AtomicU64,
) -> Result<u64> {
    let mut random = Random(seed);
    let egress = Egress {
        ifindex: world::EGRESS,
        port: 0,
        frame_max: 1514,
    };
    let mut direct = Direct::new(kernel.shared_tables(), vec![egress]);
    let (mut forwarded, mut now_ms) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let mut frame = draw(&mut random, second);
        let round = Round::begin(rounds);
        // No flow waits to be settled: whoever can be at it at once is.
        now_ms += 2000;
        direct.begin_round(now_ms);
        let looked = direct.look(&mut frame);
        let way = direct.forward(&mut frame, &looked);
        drop(round);
        match way {
            Way::Out(_) => forwarded += 1,
            Way::Drop(_) => {}
            Way::Link => {
                let _round = Round::begin(rounds);
                kernel.code("clear", &frame)?;
            }
        }
    }
    Ok(forwarded)
}

#[test]
fn programs_and_sweep_share_the_tables() -> Result<()> {
    // Fewer places than keys: tables are full at times.
    let mut kernel = Kernel::load_for(TableSizes {
        flows: PORTS,
        mappings: PORTS,
    })?;
    let settings = Settings {
        idle_s: [IDLE_S; STATES],
        flows_max: PORTS,
        site_half_open_max: PORTS / 3,
        ..world::SETTINGS
    };
    let begin_s = u32::try_from(monotonic().as_secs())?;
    let mut world = world::world(begin_s);
    world.settings = Some(settings);
    kernel.fill(&world)?;
    let mut sweep = Sweep::default();
    let (mut expired, mut ended) = (0, 0);
    let (now, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let rounds = [const { AtomicU64::new(0) }; (PACKET_THREADS + WORKERS) as usize];
    let mut quiet = Quiet::default();
    let (forwarded, directly) = thread::scope(|scope| -> Result<(u64, u64)> {
        let mut numbered = (0u32..).zip(&rounds);
        let threads: Vec<_> = numbered
            .by_ref()
            .take(PACKET_THREADS as usize)
            .map(|(seed, rounds)| {
                let (kernel, now, stop) = (&kernel, &now, &stop);
                scope.spawn(move || send(kernel, seed.into(), now, stop, rounds))
            })
            .collect();
        let workers: Vec<_> = numbered
            .map(|(seed, rounds)| {
                let (kernel, now, stop) = (&kernel, &now, &stop);
                scope.spawn(move || send_directly(kernel, seed.into(), now, stop, rounds))
            })
            .collect();
        let tables = kernel.tables();
        let mut random = Random(99);
        for second in 1..=SECONDS {
            thread::sleep(SECOND);
            tables.set_now_s(begin_s + second);
            now.store(second, Ordering::Relaxed);
            // The daemon leaves a sweep out while a worker has not come on; a run of a program is far shorter than a second.
            // Here the second lasts until both are so, however long the system holds up whom.
            while !quiet.all_came_on(seen(&rounds)) {
                thread::sleep(HELD_UP);
            }
            expired += sweep.run(tables, &settings, HOLD_DOWN, begin_s + second).0;
            quiet.note(seen(&rounds));
            // The operator ends a flow.
            let flows: Vec<_> = tables.flows().live().map(|(key, _)| key).collect();
            if !flows.is_empty() {
                let key = random.pick(&flows);
                ended += usize::from(tables.end_flow(&key));
            }
        }
        stop.store(true, Ordering::Relaxed);
        let sum = |threads: Vec<thread::ScopedJoinHandle<'_, Result<u64>>>| -> Result<u64> {
            let mut sum = 0;
            for thread in threads {
                sum += thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
            }
            Ok(sum)
        };
        Ok((sum(threads)?, sum(workers)?))
    })?;
    check(kernel.tables(), SITE)?;
    ensure!(
        forwarded > 1000 && directly > 1000 && expired > 100 && ended > 10,
        "{forwarded} packets by programs, {directly} by workers, {expired} flows expired, {ended} were ended: too few to show anything"
    );
    let created = kernel.paths()?.get(&(Path::FlowsCreated as u32)).copied();
    ensure!(created >= Some(expired as u64), "{created:?} flows were made");

    // Nobody sends any more: everything goes, and nothing is left behind.
    let tables = kernel.tables();
    for second in SECONDS..SECONDS + 6 * IDLE_S {
        tables.set_now_s(begin_s + second);
        sweep.run(tables, &settings, HOLD_DOWN, begin_s + second);
        check(tables, SITE)?;
    }
    ensure!(taken(tables) == (0, 0), "{:?} places are taken", taken(tables));
    Ok(())
}

/// A kernel with one flow, made by a SYN, and its key.
fn with_a_syn(begin_s: u32) -> Result<(Kernel, Settings, FlowKey)> {
    let mut kernel = Kernel::load()?;
    let settings = Settings {
        idle_s: [IDLE_S; STATES],
        ..world::SETTINGS
    };
    let mut world = world::world(begin_s);
    world.settings = Some(settings);
    kernel.fill(&world)?;
    let syn = Clear::tcp((TERMINAL, 2000), (SERVER, 443), SYN).linked(SITE, SA_INDEX);
    ensure!(kernel.run("clear", &syn)?.code == XDP_REDIRECT, "the SYN passes");
    let flows = kernel.tables().flow_list();
    let key = flows.into_keys().next();
    Ok((kernel, settings, key.ok_or_else(|| anyhow::anyhow!("no flow"))?))
}

/// Regression: a packet that has found its flow just before the sweep takes it out ends the handshake afterwards. Program
/// and sweep both gave the half-open connection back, the count fell below zero, and the site could open none any more.
#[test]
fn a_handshake_that_ends_while_its_flow_is_swept_is_counted_once() -> Result<()> {
    let begin_s = u32::try_from(monotonic().as_secs())?;
    let (kernel, settings, key) = with_a_syn(begin_s)?;
    let tables = kernel.tables();
    ensure!(tables.used(SITE) == [1, 1, 1], "{:?}", tables.used(SITE));
    let found = tables
        .flows()
        .find(&key)
        .ok_or_else(|| anyhow::anyhow!("no flow"))?;

    let mut sweep = Sweep::default();
    let dead_s = begin_s + IDLE_S + 1;
    sweep.run(tables, &settings, HOLD_DOWN, dead_s);
    let refusal = Clear::tcp((SERVER, 443), (NAT, 2000), RST | ACK).data(0);
    let frame = refusal.ethernet(world::MAC, world::MAC_HOP);
    let inner =
        Inner::parse(&Buffer::new(&frame), Direction::In).map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
    let ended = follow::<_, false>(found.record, &inner, dead_s);
    ensure!(ended == Ok(true), "{ended:?}");
    // As `path::core` does.
    tables.give_half_open(SITE);

    for second in 1..5 {
        sweep.run(tables, &settings, HOLD_DOWN, dead_s + second);
        ensure!(tables.used(SITE)[..2] == [0, 0], "{:?}", tables.used(SITE));
    }
    Ok(())
}

/// Regression: a program that has found a dead flow begins it anew in its place, after the sweep has taken it out. The
/// half-open connection that it counted was given back by nobody.
#[test]
fn a_flow_that_begins_anew_while_it_is_swept_leaves_no_count_behind() -> Result<()> {
    let begin_s = u32::try_from(monotonic().as_secs())?;
    let (kernel, settings, key) = with_a_syn(begin_s)?;
    let tables = kernel.tables();
    let found = tables
        .flows()
        .find(&key)
        .ok_or_else(|| anyhow::anyhow!("no flow"))?;
    let change = |to: u8| {
        let old = found.record.load(word::PROGRESS);
        let (progress, mapping) = halves(old);
        let progress = Progress {
            state: to,
            ..Progress::from_bits(progress)
        };
        found
            .record
            .compare_exchange(word::PROGRESS, old, pair(progress.bits(), mapping))
    };
    // The client gave up.
    ensure!(change(flow::state::TCP_CLOSED).is_ok(), "closed");
    tables.give_half_open(SITE);

    let mut sweep = Sweep::default();
    let dead_s = begin_s + IDLE_S + 1;
    sweep.run(tables, &settings, HOLD_DOWN, dead_s);
    // As `path::open` does.
    tables.count(SITE, gateway_common::abi::usage::word::HALF_OPEN);
    ensure!(change(flow::state::TCP_SYN_SENT).is_ok(), "begun anew");

    for second in 1..5 {
        sweep.run(tables, &settings, HOLD_DOWN, dead_s + second);
    }
    ensure!(tables.used(SITE) == [0, 0, 0], "{:?}", tables.used(SITE));
    Ok(())
}
