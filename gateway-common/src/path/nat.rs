//! NAT mappings: endpoint-independent (RFC 4787 REQ-1), port preserved where it is free, parity kept where possible
//! (RFC 4787 REQ-4).

use crate::abi::event::kind;
use crate::abi::flow::FlowKey;
use crate::abi::limit::{PORT_TRIES, PORT_TRIES_SHORT};
use crate::abi::nat::{InsideKey, Mapping, OutsideKey};
use crate::abi::site::{BLOCKS_MAX, Block, Site, flag};
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::ipv4::protocol;
use crate::tables::mappings::Unmapped;
use crate::tables::{Step, Tables};

use super::clear::tell;
use super::limits;
use super::open::Opening;

/// Times that a port which was found free may be taken by another before it is claimed.
const RACES_MAX: u32 = 3;

/// The mapping of a flow's inside endpoint to a port block of its site: the one it has, or a new one.
///
/// # Errors
/// [`DropReason::NatExhausted`] if no try found a free port; [`DropReason::SiteMappings`] if the site has as many as it
/// may; [`DropReason::FlowTableFull`] if the table is full; [`DropReason::NatPortless`] if the protocol has no ports and
/// the site has no address of its own.
#[inline(always)]
pub(super) fn map<T: Tables>(tables: &T, opening: &Opening<'_>) -> Result<Mapping, DropReason> {
    let mut mapping = Mapping {
        address: [0; 4],
        port: [0; 2],
        last_used_s: opening.now_s,
        created_s: opening.now_s,
        position: 0,
    };
    if find(tables, opening, &mut mapping) {
        return Ok(mapping);
    }
    if !has_ports(opening.key.protocol) && !first_block(opening.site).is_whole() {
        return Err(DropReason::NatPortless);
    }
    let site = opening.key.site;
    limits::take_mapping(tables, site, opening.settings)?;
    // Others claim ports at the same moment: the one that was free may be taken when it is claimed.
    let mut races = 0;
    while races < RACES_MAX {
        races += 1;
        if !find_port(tables, opening, &mut mapping) {
            break;
        }
        match insert(tables, opening, &mut mapping) {
            Ok(()) => {
                tables.count(Path::MappingsCreated, 0);
                return Ok(mapping);
            }
            Err(Unmapped::OutsideTaken) => {}
            // Another CPU made it at the same moment.
            Err(Unmapped::InsideExists) if find(tables, opening, &mut mapping) => {
                limits::give_mapping(tables, site);
                return Ok(mapping);
            }
            Err(Unmapped::InsideExists | Unmapped::Full) => {
                limits::give_mapping(tables, site);
                return Err(DropReason::FlowTableFull);
            }
        }
    }
    limits::give_mapping(tables, site);
    Err(DropReason::NatExhausted)
}

/// The inside endpoint of a flow.
#[inline(always)]
const fn inside(key: &FlowKey) -> InsideKey {
    InsideKey {
        site: key.site,
        address: key.source,
        port: key.source_port,
        protocol: key.protocol,
        pad: 0,
    }
}

/// Fills in the mapping that the inside endpoint has to a block of the site, if it has one; another one is retired.
#[inline(never)]
fn find<T: Tables>(tables: &T, opening: &Opening<'_>, mapping: &mut Mapping) -> bool {
    let inside = inside(opening.key);
    let mappings = tables.mappings();
    let Some(found) = mappings.find(&inside) else {
        return false;
    };
    if is_of(opening.site, &found, inside.protocol) {
        if found.last_used_s != opening.now_s {
            mappings.touch(&inside, &found, opening.now_s);
        }
        *mapping = found;
        return true;
    }
    // The site was given another address or block: the old mapping serves its flows until they end.
    if mappings.retire(found.position) {
        limits::give_mapping(tables, opening.key.site);
    }
    false
}

/// Whether a mapping lies in a block of the site.
#[inline(always)]
fn is_of(site: &Site, mapping: &Mapping, protocol: u8) -> bool {
    let port = u16::from_be_bytes(mapping.port);
    let mut at = 0;
    while at < BLOCKS_MAX {
        if let Some(block) = site.blocks.get(at)
            && at < site.blocks_count as usize
            && block.address == mapping.address
            && if has_ports(protocol) {
                block.first <= port && port <= block.last
            } else {
                block.is_whole()
            }
        {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether a protocol has ports, or identifiers that serve as such (RFC 5508 section 3.1).
#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::ICMP)
}

/// The site's first block, or one without a port.
#[inline(always)]
fn first_block(site: &Site) -> Block {
    match site.blocks.first() {
        Some(block) if site.blocks_count > 0 => *block,
        Some(_) | None => Block::default(),
    }
}

/// Finds a port that is free in the site's blocks: first in those of its first address, so that the center sees the site by
/// one address as long as there is room (RFC 6888 REQ-2), then in the others. The controller hears when ports run short.
#[inline(never)]
fn find_port<T: Tables>(tables: &T, opening: &Opening<'_>, mapping: &mut Mapping) -> bool {
    let (key, site) = (opening.key, opening.site);
    let mut search = Search {
        tables,
        opening,
        outside: OutsideKey {
            address: [0; 4],
            port: key.source_port,
            protocol: key.protocol,
            pad: 0,
        },
        blocks_from: 0,
        blocks: u32::from(site.blocks_paired),
        tries: 0,
        is_free: false,
    };
    tables.repeat(PORT_TRIES, &mut search);
    let is_short = search.tries >= PORT_TRIES_SHORT + search.blocks;
    if !search.is_free && site.blocks_paired < site.blocks_count {
        search.blocks_from = u32::from(site.blocks_paired);
        search.blocks = u32::from(site.blocks_count - site.blocks_paired);
        search.tries = 0;
        tables.repeat(PORT_TRIES, &mut search);
    }
    if is_short && site.flags & flag::MORE_BLOCKS != 0 {
        tell(tables, kind::PORTS_SHORT, key, 0, 0);
    }
    mapping.address = search.outside.address;
    mapping.port = search.outside.port;
    search.is_free
}

/// The search for a free port: the same one, else random ones. Protocols without ports have the one outside that is
/// without.
struct Search<'a, T> {
    tables: &'a T,
    opening: &'a Opening<'a>,
    outside: OutsideKey,
    /// First block that is searched, and how many are.
    blocks_from: u32,
    blocks: u32,
    tries: u32,
    is_free: bool,
}

impl<T: Tables> Step for Search<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let (key, settings) = (self.opening.key, self.opening.settings);
        if self.blocks == 0 {
            return false;
        }
        let has_ports = has_ports(key.protocol);
        let own = u16::from_be_bytes(key.source_port);
        // The first rounds are for the own port, one a block.
        let is_own = self.tries < self.blocks;
        let random = if is_own { 0 } else { self.tables.random() };
        let number = if is_own {
            self.tries
        } else {
            (random >> 16) % self.blocks
        };
        self.tries += 1;
        let Some(block) = self
            .opening
            .site
            .blocks
            .get(self.blocks_from.wrapping_add(number) as usize)
        else {
            return true;
        };
        self.outside.address = block.address;
        if !has_ports {
            self.is_free = !self.tables.mappings().has_outside(&self.outside);
            return false;
        }
        let (low, high) = (
            larger(block.first, settings.port_low),
            smaller(block.last, settings.port_high),
        );
        let port = if is_own {
            own
        } else {
            candidate(random, own, low, high)
        };
        if port < low || port > high || port == 0 {
            return true;
        }
        self.outside.port = port.to_be_bytes();
        self.is_free = !self.tables.mappings().has_outside(&self.outside);
        !self.is_free
    }
}

#[inline(always)]
const fn larger(one: u16, other: u16) -> u16 {
    if one > other { one } else { other }
}

#[inline(always)]
const fn smaller(one: u16, other: u16) -> u16 {
    if one < other { one } else { other }
}

/// Claims the port.
#[inline(never)]
fn insert<T: Tables>(tables: &T, opening: &Opening<'_>, mapping: &mut Mapping) -> Result<(), Unmapped> {
    mapping.last_used_s = opening.now_s;
    mapping.position = tables.mappings().insert(&inside(opening.key), mapping)?;
    Ok(())
}

/// A port from `low` to `high` with the parity of `own`, where the range's ends allow it.
#[inline(always)]
const fn candidate(random: u32, own: u16, low: u16, high: u16) -> u16 {
    let span = high.saturating_sub(low) as u32 + 1;
    let any = low as u32 + (random & 0xffff) % span;
    let even = (any as u16 & !1) | (own & 1);
    if even < low || even > high {
        any as u16
    } else {
        even
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Property: a candidate is in the range, and has the port's parity unless the range's end forbids it.
        #[test]
        fn candidates_are_in_range_and_keep_parity(
            random in any::<u32>(),
            own in any::<u16>(),
            (low, high) in (any::<u16>(), any::<u16>()).prop_map(|(a, b)| (a.min(b), a.max(b))),
        ) {
            let port = candidate(random, own, low, high);
            prop_assert!((low..=high).contains(&port));
            prop_assert!(port % 2 == own % 2 || port == low || port == high);
        }
    }
}
