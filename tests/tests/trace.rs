//! What is told of traced packets: in words for a few, and the same by host and kernel for all vectors. Needs root.

use gateway_common::abi::flow::state;
use gateway_common::abi::stats::Path;
use gateway_common::abi::trace::{EVERY_SITE, TraceEvent, known, outcome, point};
use gateway_common::drop::DropReason;
use gateway_common::packet::tcp::flag::{ACK, RST, SYN};
use gateway_common::path::open::Stage;
use gateway_common::tables::host::HostTables;
use gateway_tests::frames::Clear;
use gateway_tests::kernel::{Kernel, monotonic};
use gateway_tests::vectors::world::{
    self, FORBIDDEN, GENERATION, MAC, MAC_HOP, NAME_SERVER, NAT, SA_INDEX, SERVER, SITE, SITE_OTHER, SPI,
    TERMINAL,
};
use gateway_tests::vectors::{self, Expect, Program};

const NOW_S: u32 = 100_000;
const PORT: u16 = 50_000;

fn traced(site: u32) -> HostTables {
    let mut tables = world::world(NOW_S);
    if let Some(settings) = &mut tables.settings {
        settings.trace_site = site;
    }
    tables
}

fn out(tables: &HostTables, clear: &Clear, site: u32) -> Vec<TraceEvent> {
    let _ = Program::Clear.run(&clear.linked(site, SA_INDEX), tables);
    tables.traces.take()
}

fn back(tables: &HostTables, clear: &Clear) -> Vec<TraceEvent> {
    let _ = Program::Core.run(&clear.ethernet(MAC, MAC_HOP), tables);
    tables.traces.take()
}

fn segment(flags: u8) -> Clear {
    Clear::tcp((TERMINAL, PORT), (SERVER, 443), flags)
}

fn reply(flags: u8) -> Clear {
    Clear::tcp((SERVER, 443), (NAT, PORT), flags)
}

/// Where, what and by which value.
fn steps(events: &[TraceEvent]) -> Vec<(u32, u32, u32)> {
    events
        .iter()
        .map(|event| (event.point, event.outcome, event.value))
        .collect()
}

#[test]
fn the_first_packet_of_a_flow_is_followed_through_each_stage() {
    let tables = traced(SITE);
    let events = out(&tables, &segment(SYN), SITE);
    assert_eq!(
        steps(&events),
        [
            (point::CLEAR, outcome::STAGE, Stage::Judge as u32),
            (point::JUDGE, outcome::STAGE, Stage::Map as u32),
            (point::MAP, outcome::STAGE, Stage::Add as u32),
            (point::ADD, outcome::STAGE, Stage::Forward as u32),
            (point::CLEAR, outcome::SENT, Path::ClearForwarded as u32),
        ]
    );
    for event in &events {
        let ends = (
            event.site,
            event.source,
            event.source_port,
            event.destination,
            event.destination_port,
        );
        let expected = (SITE, TERMINAL, PORT.to_be_bytes(), SERVER, 443u16.to_be_bytes());
        assert_eq!(ends, expected, "{event:?}");
        assert_eq!(
            (event.protocol, event.tcp_flags, event.length),
            (6, SYN, 40),
            "{event:?}"
        );
    }
    let found: Vec<u8> = events
        .iter()
        .map(|event| event.known & (known::RULE | known::NAT | known::FLOW))
        .collect();
    let (rule, nat, flow) = (known::RULE, known::NAT, known::FLOW);
    assert_eq!(found, [0, rule, rule | nat, rule | nat | flow, rule | nat | flow]);
    let last = &events[4];
    assert_eq!((last.rule, last.generation), (0, GENERATION));
    assert_eq!((last.nat_address, last.nat_port), (NAT, PORT.to_be_bytes()));
    assert_eq!(last.state, state::TCP_SYN_SENT);
}

#[test]
fn the_answer_is_told_with_the_flow_that_it_belongs_to() {
    let tables = traced(SITE);
    out(&tables, &segment(SYN), SITE);
    let events = back(&tables, &reply(SYN | ACK));
    assert_eq!(
        steps(&events),
        [(point::CORE, outcome::SENT, Path::CoreForwarded as u32)]
    );
    let event = &events[0];
    assert_eq!(
        (event.site, event.source, event.destination),
        (SITE, TERMINAL, SERVER)
    );
    assert_eq!((event.nat_address, event.nat_port), (NAT, PORT.to_be_bytes()));
    assert_eq!(event.state, state::TCP_SYN_RECEIVED);
}

#[test]
fn a_drop_is_told_with_its_reason_and_what_was_known() {
    let tables = traced(SITE);
    // By a rule: which one.
    let denied = out(
        &tables,
        &Clear::tcp((TERMINAL, PORT), (FORBIDDEN, 443), SYN),
        SITE,
    );
    let event = denied.last().copied().unwrap_or_default();
    assert_eq!(
        (event.point, event.outcome, event.value, event.rule),
        (point::JUDGE, outcome::DROPPED, DropReason::RuleDenied as u32, 3)
    );
    // By a state that does not begin: no rule was asked.
    let stray = out(&tables, &segment(ACK), SITE);
    let event = stray.last().copied().unwrap_or_default();
    assert_eq!(
        (event.value, event.known & known::RULE),
        (DropReason::TcpState as u32, 0)
    );
    // By the window of a flow: the flow.
    out(&tables, &segment(SYN), SITE);
    back(&tables, &reply(SYN | ACK));
    out(&tables, &segment(ACK), SITE);
    let stray = out(&tables, &segment(RST).at(1 << 30, 0), SITE);
    let event = stray.last().copied().unwrap_or_default();
    assert_eq!(
        (stray.len(), event.value, event.state),
        (1, DropReason::TcpWindow as u32, state::TCP_ESTABLISHED)
    );
    assert_eq!(event.known & known::FLOW, known::FLOW);
    // A fragment has no ports, and the site is known all the same.
    let mut frame = segment(ACK).linked(SITE, SA_INDEX);
    frame[14 + 6] = 0x20;
    gateway_tests::frames::fix_ipv4(&mut frame[14..]);
    let _ = Program::Clear.run(&frame, &tables);
    let event = tables.traces.take().last().copied().unwrap_or_default();
    assert_eq!(
        (event.site, event.source, event.value, event.known),
        (SITE, TERMINAL, DropReason::InnerFragment as u32, known::ADDRESSES)
    );
}

#[test]
fn an_esp_packet_is_told_by_the_site_of_its_sa() {
    let tables = traced(SITE);
    for vector in vectors::all(NOW_S) {
        for step in vector.steps {
            let _ = step.program.run(&step.frame, &tables);
        }
    }
    let events = tables.traces.take();
    let esp = events
        .iter()
        .find(|event| event.point == point::WAN && event.outcome == outcome::SENT && event.spi == SPI);
    assert_eq!(esp.map(|event| event.site), Some(SITE));
    assert!(
        events.iter().all(|event| event.site == SITE),
        "another site's packet"
    );
}

#[test]
fn nothing_is_told_of_other_sites_or_when_nobody_traces() {
    let query = Clear::udp((TERMINAL, PORT), (NAME_SERVER, 53));
    assert_eq!(out(&traced(0), &query, SITE), []);
    assert_eq!(out(&traced(SITE), &query, SITE_OTHER), []);
    assert_eq!(out(&traced(SITE_OTHER), &query, SITE_OTHER).len(), 5);
    assert_eq!(out(&traced(EVERY_SITE), &query, SITE).len(), 5);
    // A packet of the center to nobody is of no site.
    assert_eq!(back(&traced(SITE), &reply(ACK)), []);
    let untold = back(&traced(EVERY_SITE), &reply(ACK));
    assert_eq!(
        steps(&untold),
        [
            (point::CORE, outcome::STAGE, Stage::Enter as u32),
            (point::ENTER, outcome::DROPPED, DropReason::NoMapping as u32),
        ]
    );
}

/// Numbers of mappings and times are the tables' own.
fn bare(event: &TraceEvent) -> TraceEvent {
    TraceEvent {
        at_ns: 0,
        mapping: 0,
        ..*event
    }
}

#[test]
fn host_and_kernel_tell_the_same_of_every_vector() -> anyhow::Result<()> {
    let mut kernel = Kernel::load()?;
    let mut told = 0;
    let mut vectors = vectors::Fresh::default();
    for index in 0.. {
        let Some(mut vector) = vectors.get(index, u32::try_from(monotonic().as_secs())?).cloned() else {
            break;
        };
        // How many IKE datagrams a second has seen is not the same on both.
        let is_of_ike = |expect: &Expect| {
            matches!(
                expect,
                Expect::Pass(Path::WanIke) | Expect::Drop(DropReason::IkeRateLimit)
            )
        };
        if vector.steps.iter().any(|step| is_of_ike(&step.expect)) {
            continue;
        }
        if let Some(settings) = &mut vector.world.settings {
            settings.trace_site = EVERY_SITE;
        }
        kernel.fill(&vector.world)?;
        kernel.traces()?;
        for (number, step) in vector.steps.iter().enumerate() {
            let _ = step.program.run(&step.frame, &vector.world);
            kernel.run(step.program.name(), &step.frame)?;
            let expected: Vec<_> = vector.world.traces.take().iter().map(bare).collect();
            let events: Vec<_> = kernel.traces()?.iter().map(bare).collect();
            anyhow::ensure!(
                events == expected,
                "{} [{number}]:\n got {events:#?}\nwant {expected:#?}",
                vector.description
            );
            told += events.len();
        }
    }
    anyhow::ensure!(told > 200, "only {told} events");
    anyhow::ensure!(kernel.traces_lost()? == 0);
    Ok(())
}

/// What a CPU may tell in a second is bounded, and what it keeps to itself is counted.
#[test]
fn a_flood_is_told_in_part_and_the_rest_is_counted() -> anyhow::Result<()> {
    const PACKETS: u32 = 20_000;
    let mut kernel = Kernel::load()?;
    let mut tables = world::world(u32::try_from(monotonic().as_secs())?);
    if let Some(settings) = &mut tables.settings {
        settings.trace_site = SITE;
    }
    kernel.fill(&tables)?;
    kernel.traces()?;
    let stray = segment(ACK).linked(SITE, SA_INDEX);
    // Two events each: it goes to the stage of judgement, which drops it. The tables' clock stands still.
    kernel.repeat("clear", &stray, PACKETS)?;
    let (told, lost) = (kernel.traces()?.len() as u64, kernel.traces_lost()?);
    anyhow::ensure!(told + lost == u64::from(2 * PACKETS), "{told} told, {lost} lost");
    anyhow::ensure!(
        lost > 0 && (1000..=8192).contains(&told),
        "{told} told, {lost} lost"
    );
    Ok(())
}
