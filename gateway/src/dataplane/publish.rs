//! What is published of sites: static mappings, and who may open flows to them.

use std::net::Ipv4Addr;

use aya::maps::lpm_trie::Key;
use gateway_common::abi::map;
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey, PublicationSource, kind};
use gateway_common::tables::mappings::Unmapped;

use super::error::DataplaneError;
use super::maps::Maps;
use super::tables::SharedTables;

/// Bits of the publication's number in the key of its sources, which all count.
const NUMBER_BITS: u32 = 32;

/// A port or an address of a site, and where the center reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Number of the publication, from 1.
    pub number: u32,
    /// Endpoint in the site; port and protocol are zero for a whole address.
    pub inside: InsideKey,
    /// Endpoint on the center's side, likewise.
    pub outside: OutsideKey,
    /// Networks that may open flows to it.
    pub from: Vec<([u8; 4], u8)>,
}

/// Says who may reach these, before they can be reached. Answers which of them are not published yet.
///
/// # Errors
/// A map is full.
pub(super) fn news<'a>(
    maps: &mut Maps,
    tables: &SharedTables,
    published: &'a [Published],
) -> Result<Vec<&'a Published>, DataplaneError> {
    for one in published {
        for (source, length) in &one.from {
            let key = PublicationSource {
                publication: one.number.to_be_bytes(),
                source: *source,
            };
            let key = Key::new(NUMBER_BITS + u32::from((*length).min(32)), key);
            let inserted = maps.publication_sources.insert(&key, 1, 0);
            inserted.map_err(DataplaneError::map(map::PUBLICATION_SOURCES))?;
        }
    }
    let mappings = tables.mappings();
    let is_there = |one: &Published| {
        let found = mappings.find(&one.inside);
        found.is_some_and(|found| found.is_static() && found.outside(one.inside.protocol) == one.outside)
    };
    Ok(published.iter().filter(|one| !is_there(one)).collect())
}

/// Publishes these as well; what is published already stays.
///
/// # Errors
/// The first that has no room, or whose outside is another mapping's; those after it are not published.
pub(super) fn publish(
    tables: &SharedTables,
    published: &[&Published],
    now_s: u32,
) -> Result<(), DataplaneError> {
    for one in published {
        map_statically(tables, one, now_s)?;
    }
    Ok(())
}

fn map_statically(tables: &SharedTables, one: &Published, now_s: u32) -> Result<(), DataplaneError> {
    let mappings = tables.mappings();
    let wanted = Mapping {
        address: one.outside.address,
        port: one.outside.port,
        last_used_s: one.number,
        created_s: now_s,
        position: 0,
        kind: kind::STATIC,
    };
    if let Some(found) = mappings.find(&one.inside) {
        if found.is_static() && found.outside(one.inside.protocol) == one.outside {
            return Ok(());
        }
        // Made before the site's port was published: it serves its flows until they end.
        if !found.is_static() && mappings.retire(found.position) {
            tables.give_mapping(one.inside.site);
        }
    }
    let inserted = mappings.insert(&one.inside, &wanted);
    inserted.map(|_| ()).map_err(|error| DataplaneError::Publication {
        outside: Ipv4Addr::from(one.outside.address),
        port: u16::from_be_bytes(one.outside.port),
        reason: match error {
            Unmapped::OutsideTaken => "it is in use by a mapping",
            Unmapped::InsideExists => "the site's port has another mapping",
            Unmapped::Full => "the mapping table is full",
        },
    })
}
