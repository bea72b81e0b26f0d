//! Whether flow and mapping table and what is counted of them fit together.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use gateway::dataplane::sweep::Swept;
use gateway_common::abi::flow::{self, FlowKey};
use gateway_common::abi::nat::OutsideKey;
use gateway_common::abi::usage;
use gateway_common::path::filter::is_half_open;
use gateway_common::tables::index::{state, state_of};
use gateway_common::tables::words::Words as _;

/// What must hold whenever no program runs and all is of one site.
///
/// # Errors
/// What does not.
pub fn check<T: Swept>(tables: T, site: u32) -> Result<()> {
    check_keys(tables)?;
    // One that is half-open counts until its place is free.
    let half_open = (0..tables.flows().places()).filter_map(|place| tables.flows().at(place));
    let half_open = half_open.filter(|entry| {
        matches!(state_of(entry.word), state::LIVE | state::RETIRED)
            && is_half_open(flow::read(entry.record).1.progress.state)
    });
    let counted = [
        tables.flows().live().count() as u64,
        half_open.count() as u64,
        tables.mappings().live().count() as u64,
    ];
    for site in [site, usage::TOTAL] {
        let used = used(tables, site);
        ensure!(used == counted, "site {site} uses {used:?}, but has {counted:?}");
    }
    Ok(())
}

/// Each key has one entry, and each flow a mapping and an answer.
fn check_keys<T: Swept>(tables: T) -> Result<()> {
    let flows: Vec<_> = tables.flows().live().collect();
    let keys: BTreeSet<FlowKey> = flows.iter().map(|(key, _)| *key).collect();
    ensure!(keys.len() == flows.len(), "a key has two flows");
    let mappings: Vec<_> = tables.mappings().live().collect();
    let insides: BTreeSet<_> = mappings.iter().map(|(key, _)| *key).collect();
    ensure!(insides.len() == mappings.len(), "an inside has two mappings");
    let mut outsides = BTreeMap::new();
    for place in 0..tables.mappings().places() {
        if let Some((word, key, mapping)) = tables.mappings().at(place)
            && matches!(state_of(word), state::LIVE | state::RETIRED)
        {
            let other = outsides.insert(mapping.outside(key.protocol), key);
            ensure!(other.is_none(), "{key:?} and {other:?} have the same outside");
        }
    }
    for (key, flow) in &flows {
        let outside = OutsideKey {
            address: flow.nat_address,
            port: flow.nat_port,
            protocol: key.protocol,
            pad: 0,
        };
        let owner = outsides.get(&outside);
        ensure!(
            owner.is_some_and(|inside| (inside.address, inside.port) == (key.source, key.source_port)),
            "{key:?} is translated to {outside:?}, which is of {owner:?}"
        );
        let found = tables.flows().find(key).map(|entry| entry.position);
        let answer = tables
            .flows()
            .find_answer(&outside, key.destination, key.destination_port);
        let answer = answer.map(|entry| entry.position);
        ensure!(
            found.is_some() && found == answer,
            "{key:?} lies at {found:?} and {answer:?}"
        );
    }
    Ok(())
}

/// Places that are not free, of both tables.
#[must_use]
pub fn taken<T: Swept>(tables: T) -> (usize, usize) {
    let is_free = |word: Option<u64>| word.map(state_of) == Some(state::FREE);
    let (flows, mappings) = (tables.flows(), tables.mappings());
    let of_flows = (0..flows.places()).filter(|place| !is_free(flows.at(*place).map(|entry| entry.word)));
    let of_mappings = (0..mappings.places()).filter(|place| !is_free(mappings.at(*place).map(|at| at.0)));
    (of_flows.count(), of_mappings.count())
}

/// What a site uses of the tables, or all do: flows, half-open connections, mappings.
#[must_use]
pub fn used<T: Swept>(tables: T, site: u32) -> [u64; 3] {
    [usage::word::FLOWS, usage::word::HALF_OPEN, usage::word::MAPPINGS]
        .map(|word| tables.usage(site).map_or(0, |usage| usage.load(word)))
}
