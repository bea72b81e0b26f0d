//! One site floods, another works: what each gets of a flow table that is too small for both. On the host, and in the
//! kernel.

use anyhow::{Result, ensure};
use gateway::dataplane::TableSizes;
use gateway_common::drop::DropReason;
use gateway_common::tables::host::{Arrays, HostTables};
use gateway_tests::frames::Clear;
use gateway_tests::kernel::{Kernel, increase, monotonic};
use gateway_tests::vectors::Program;
use gateway_tests::vectors::world::{self, NAME_SERVER, SA_INDEX, SITE, SITE_OTHER, TERMINAL};

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
