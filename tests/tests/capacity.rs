//! The tables hold what they are made for: a million flows and mappings, none refused, each found again. Needs root.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use gateway::dataplane::TableSizes;
use gateway_common::abi::flow::{Flow, FlowKey, Half, Progress, state};
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};
use gateway_common::packet::tcp::flag::ACK;
use gateway_tests::frames::{Clear, ISN, WINDOW};
use gateway_tests::kernel::{Kernel, monotonic};
use gateway_tests::vectors::world::{self, SA_INDEX, SERVER, SITE};

const ENTRIES: u32 = 1_000_000;
/// Every so many flows, a packet of the site runs through the program.
const PACKET_EVERY: u32 = 5_003;
const XDP_REDIRECT: u32 = 4;

/// The inside endpoint of a flow: sites have one private network, and each terminal some hundred flows.
fn inside(number: u32) -> InsideKey {
    let [_, high, middle, low] = (number / 500).to_be_bytes();
    InsideKey {
        site: SITE,
        address: [10, high, middle, low | 1],
        port: (1024 + (number % 500) as u16 + if low & 1 == 0 { 1000 } else { 0 }).to_be_bytes(),
        protocol: 6,
        pad: 0,
    }
}

/// What it is translated to: addresses of a pool, 50,000 ports each.
fn outside(number: u32) -> OutsideKey {
    OutsideKey {
        address: [198, 51, 100, (number / 50_000) as u8 + 1],
        port: (1024 + (number % 50_000) as u16).to_be_bytes(),
        protocol: 6,
        pad: 0,
    }
}

fn key(inside: &InsideKey) -> FlowKey {
    FlowKey {
        site: inside.site,
        source: inside.address,
        destination: SERVER,
        source_port: inside.port,
        destination_port: 443u16.to_be_bytes(),
        protocol: 6,
        pad: [0; 3],
    }
}

fn flow(outside: &OutsideKey, mapping: u32, now_s: u32) -> Flow {
    let half = Half {
        end: ISN.wrapping_add(1),
        limit: ISN.wrapping_add(1).wrapping_add(u32::from(WINDOW)),
        acknowledged: ISN.wrapping_add(1),
        seen_s: now_s,
        window: WINDOW,
        packets: 1,
        bytes: 40,
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
        nat_address: outside.address,
        nat_port: outside.port,
        mapping,
    }
}

#[test]
fn a_million_flows_and_mappings_have_room_and_are_found_again() -> Result<()> {
    let mut kernel = Kernel::load_for(TableSizes {
        flows: ENTRIES,
        mappings: ENTRIES,
    })?;
    let now_s = u32::try_from(monotonic().as_secs())?;
    kernel.fill(&world::world(now_s))?;
    let (mappings, flows) = (kernel.tables().mappings(), kernel.tables().flows());
    for number in 0..ENTRIES {
        let (inside, outside) = (inside(number), outside(number));
        let mapping = Mapping {
            address: outside.address,
            port: outside.port,
            last_used_s: now_s,
            created_s: now_s,
            position: 0,
            kind: 0,
        };
        let put = mappings.insert(&inside, &mapping);
        let Ok(position) = put else {
            anyhow::bail!("mapping {number}: {put:?}");
        };
        let put = flows.insert(&key(&inside), &flow(&outside, position, now_s));
        ensure!(put.is_ok(), "flow {number}: {put:?}");
    }
    let mut places = HashSet::with_capacity(ENTRIES as usize);
    for number in 0..ENTRIES {
        let (inside, outside) = (inside(number), outside(number));
        let key = key(&inside);
        let found = flows.find(&key).map(|entry| entry.position);
        let answer = flows.find_answer(&outside, key.destination, key.destination_port);
        ensure!(
            found.is_some() && found == answer.map(|entry| entry.position),
            "flow {number} lies at {found:?}"
        );
        ensure!(places.insert(found), "flow {number} shares its place");
        let mapping = mappings.find(&inside);
        let mapping = mapping.map(|mapping| (mapping.address, mapping.port));
        ensure!(
            mapping == Some((outside.address, outside.port)),
            "mapping {number} is {mapping:?}"
        );
    }
    // The program finds them as well.
    for number in (0..ENTRIES).step_by(PACKET_EVERY as usize) {
        let inside = inside(number);
        let source = (inside.address, u16::from_be_bytes(inside.port));
        let packet = Clear::tcp(source, (SERVER, 443), ACK).linked(SITE, SA_INDEX);
        let code = kernel.run("clear", &packet)?.code;
        ensure!(
            code == XDP_REDIRECT,
            "flow {number}: code {code}, {:?}",
            kernel.drops()?
        );
    }
    Ok(())
}
