//! One site floods, another works: what each gets of a flow table that is too small for both, and of the controller's
//! attention. On the host, and in the kernel.

use anyhow::{Result, ensure};
use gateway::dataplane::TableSizes;
use gateway_common::abi::event::{Event, kind};
use gateway_common::abi::rule::{self, Rule};
use gateway_common::abi::site::{Block, Site, flag};
use gateway_common::drop::DropReason;
use gateway_common::packet::tcp::flag::SYN;
use gateway_common::path::limits::SITE_EVENTS_PER_S;
use gateway_common::tables::host::{Arrays, HostTables};
use gateway_tests::frames::Clear;
use gateway_tests::kernel::{Kernel, increase, monotonic};
use gateway_tests::vectors::world::{
    self, NAME_SERVER, NAT, NAT_OTHER, SA_INDEX, SITE, SITE_OTHER, TERMINAL,
};
use gateway_tests::vectors::{Program, pmtu};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const NOW_S: u32 = 100_000;
const XDP_DROP: u32 = 1;
const XDP_REDIRECT: u32 = 4;
/// Flows that the gateway may have.
const FLOWS: u32 = 1024;
/// Flows that a site opens when it floods.
const FLOOD: u16 = 4000;
/// Flows of the site that works: some before the flood, more behind it.
const BEFORE: u16 = 10;
const BEHIND: u16 = 100;

fn small_world(now_s: u32) -> HostTables {
    let mut tables = world::world(now_s);
    tables.arrays = Arrays::new(4 * FLOWS, 16 * FLOWS).for_sites(SITE_OTHER + 1);
    let settings = tables.settings.as_mut();
    settings.expect("the world has settings").flows_max = FLOWS;
    tables
}

/// The query that opens a site's flow of this number, and is its next packet afterwards.
fn query(site: u32, number: u16) -> Vec<u8> {
    Clear::udp((TERMINAL, 10_000 + number), (NAME_SERVER, 53)).linked(site, SA_INDEX)
}

/// The flood, and then all that the other site wants: `send` answers why a frame was dropped.
fn one_floods_and_another_works(mut send: impl FnMut(Vec<u8>) -> Result<Option<DropReason>>) -> Result<()> {
    for number in 0..BEFORE {
        ensure!(send(query(SITE_OTHER, number))?.is_none());
    }
    let mut of_flood = vec![];
    for number in 0..FLOOD {
        match send(query(SITE, number))? {
            None => of_flood.push(number),
            Some(reason) => ensure!(reason == DropReason::SiteShare, "{reason:?}"),
        }
    }
    ensure!(of_flood.len() > FLOWS as usize / 2, "its share is for it to use");
    for number in 0..BEFORE + BEHIND {
        let dropped = send(query(SITE_OTHER, number))?;
        ensure!(dropped.is_none(), "flow {number} of the other site: {dropped:?}");
    }
    // None had to go for another.
    for number in of_flood {
        let dropped = send(query(SITE, number))?;
        ensure!(dropped.is_none(), "flow {number} of the flood: {dropped:?}");
    }
    Ok(())
}

#[test]
fn a_site_that_floods_keeps_no_other_out_and_no_flow_is_evicted() -> Result<()> {
    let tables = small_world(NOW_S);
    one_floods_and_another_works(|frame| Ok(Program::Clear.run(&frame, &tables).0.err()))?;
    let flows = tables.flow_list();
    let of = |site: u32| flows.iter().filter(|(key, _)| key.site == site).count();
    ensure!(of(SITE_OTHER) == usize::from(BEFORE + BEHIND));
    ensure!(of(SITE) + of(SITE_OTHER) <= FLOWS as usize);
    Ok(())
}

#[test]
fn a_site_that_floods_keeps_no_other_out_in_the_kernel() -> Result<()> {
    let sizes = TableSizes {
        flows: 4 * FLOWS,
        mappings: 16 * FLOWS,
    };
    let mut kernel = Kernel::load_for(sizes)?;
    kernel.fill(&small_world(u32::try_from(monotonic().as_secs())?))?;
    one_floods_and_another_works(|frame| {
        let before = kernel.drops()?;
        let run = kernel.run("clear", &frame)?;
        if run.code == XDP_REDIRECT {
            return Ok(None);
        }
        ensure!(run.code == XDP_DROP, "code {}", run.code);
        Ok(increase(&before, &kernel.drops()?).into_keys().next())
    })
}

/// Packets of a site that asks for much: more than one CPU tells of in a second.
const ASKED: u16 = 4000;

/// What the controller is asked for by packets.
struct Want {
    kind: u32,
    program: Program,
    tables: HostTables,
    /// A site's packet of this number, for which something is wanting.
    frame: fn(u32, u16) -> Vec<u8>,
}

/// A world with room for all of the flows, and rules that let a site ask any address of the center.
fn open_world(now_s: u32) -> HostTables {
    let mut tables = world::world(now_s);
    tables.arrays = Arrays::new(8 * FLOWS, 8 * FLOWS).for_sites(SITE_OTHER + 1);
    let anybody = Rule {
        destination_mask: [255, 255, 0, 0],
        ..world::allow(0, [203, 0, 0, 0], 17, 53)
    };
    tables.rules = Some((world::GENERATION, vec![anybody]));
    tables
}

fn wants(now_s: u32) -> [Want; 6] {
    let mut without_neighbours = open_world(now_s);
    without_neighbours.next_hops.clear();
    let next_hop = Want {
        kind: kind::NEXT_HOP_MISSING,
        program: Program::Clear,
        tables: without_neighbours,
        frame: |site, number| {
            let [high, low] = number.to_be_bytes();
            Clear::udp((TERMINAL, 2000), ([203, 0, high, low], 53)).linked(site, SA_INDEX)
        },
    };

    let mut without_tunnels = open_world(now_s);
    for site in [SITE, SITE_OTHER] {
        assert!(Program::Clear.run(&query(site, 0), &without_tunnels).0.is_ok());
    }
    without_tunnels.sa_outbound.clear();
    let sa = Want {
        kind: kind::NO_SA,
        program: Program::Core,
        tables: without_tunnels,
        frame: |site, _| {
            let outside = if site == SITE { NAT } else { NAT_OTHER };
            Clear::udp((NAME_SERVER, 53), (outside, 10_000)).ethernet(world::MAC, world::MAC_HOP)
        },
    };

    let mut without_ports = open_world(now_s);
    for (site, address) in [(SITE, NAT), (SITE_OTHER, NAT_OTHER)] {
        let one_port = Block {
            address,
            first: 1024,
            last: 1024,
        };
        let entry = Site::with_blocks(0, &[one_port], flag::MORE_BLOCKS);
        without_ports.sites.insert(site, entry);
        assert!(Program::Clear.run(&query(site, 0), &without_ports).0.is_ok());
    }
    without_ports.events.borrow_mut().clear();
    let ports = Want {
        kind: kind::PORTS_SHORT,
        program: Program::Clear,
        tables: without_ports,
        frame: query,
    };

    let denied = Want {
        kind: kind::DENIED,
        program: Program::Clear,
        tables: open_world(now_s),
        frame: |site, number| {
            Clear::tcp((TERMINAL, 10_000 + number), (NAME_SERVER, 53), SYN).linked(site, SA_INDEX)
        },
    };

    let mut logged = open_world(now_s);
    logged.arrays = Arrays::new(16 * FLOWS, 16 * FLOWS).for_sites(SITE_OTHER + 1);
    let (_, rules) = logged.rules.as_mut().expect("the world has rules");
    rules.iter_mut().for_each(|rule| rule.flags |= rule::flag::LOG);
    let created = Want {
        kind: kind::FLOW_CREATED,
        program: Program::Clear,
        tables: logged,
        frame: query,
    };

    let path_mtu = Want {
        kind: kind::PATH_MTU,
        program: Program::Wan,
        tables: pmtu::world_of_two(now_s),
        frame: |site, _| pmtu::about_site(site),
    };
    [next_hop, sa, ports, denied, created, path_mtu]
}

/// One site asks again and again, by packets from this number on, and then the other once: `send` runs the program.
fn one_asks_for_much_and_another_once(
    want: &Want,
    from: u16,
    mut send: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    for number in from..from + ASKED {
        send(&(want.frame)(SITE, number))?;
    }
    send(&(want.frame)(SITE_OTHER, from))
}

fn check_shares(want: &Want, events: &[Event]) {
    let kind = want.kind;
    let of = |site: u32| {
        let of_site = events
            .iter()
            .filter(|event| event.kind == kind && event.site == site);
        of_site.count()
    };
    assert_eq!(of(SITE_OTHER), 1, "kind {kind}: the other site is heard");
    assert_eq!(of(SITE), SITE_EVENTS_PER_S as usize, "kind {kind}");
}

#[test]
fn a_site_that_scans_keeps_nothing_that_others_need_from_the_controller() -> Result<()> {
    for want in wants(NOW_S) {
        let run = |frame: &[u8]| {
            // They go no further.
            let _ = want.program.run(frame, &want.tables);
            Ok(())
        };
        one_asks_for_much_and_another_once(&want, 1, run)?;
        check_shares(&want, &want.tables.events.borrow());
        // In the next second it is heard again.
        want.tables.events.borrow_mut().clear();
        want.tables.now_s.set(NOW_S + 1);
        one_asks_for_much_and_another_once(&want, 1 + ASKED, run)?;
        check_shares(&want, &want.tables.events.borrow());
    }
    Ok(())
}

#[test]
fn a_site_that_scans_keeps_nothing_that_others_need_from_the_controller_in_the_kernel() -> Result<()> {
    // What a CPU tells is limited too: all packets are one CPU's.
    let mut one_cpu = CpuSet::new();
    one_cpu.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &one_cpu)?;
    let sizes = TableSizes {
        flows: 8 * FLOWS,
        mappings: 8 * FLOWS,
    };
    let mut kernel = Kernel::load_for(sizes)?;
    for want in wants(u32::try_from(monotonic().as_secs())?) {
        kernel.fill(&want.tables)?;
        kernel.take_events()?;
        one_asks_for_much_and_another_once(&want, 1, |frame| {
            // Dropped, or answered for want of a port.
            kernel.code(want.program.name(), frame)?;
            Ok(())
        })?;
        check_shares(&want, &kernel.take_events()?);
    }
    Ok(())
}
