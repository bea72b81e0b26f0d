//! NAT mappings: endpoint-independent (RFC 4787 REQ-1), port preserved where it is free, parity kept where possible
//! (RFC 4787 REQ-4).

use crate::abi::flow::FlowKey;
use crate::abi::interface::Settings;
use crate::abi::limit::PORT_TRIES;
use crate::abi::nat::{InsideKey, Mapping, OutsideKey, kind};
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::ipv4::protocol;
use crate::tables::mappings::Unmapped;
use crate::tables::{Step, Tables};

use super::limits;
use super::open::Opening;

/// Times that a port which was found free may be taken by another before it is claimed.
const RACES_MAX: u32 = 3;

/// The mapping of a flow's inside endpoint to its site's address: the one it has, or a new one.
///
/// # Errors
/// [`DropReason::NatExhausted`] if no try found a free port; [`DropReason::SiteMappings`] if the site has as many as it
/// may; [`DropReason::FlowTableFull`] if the table is full.
#[inline(always)]
pub(super) fn map<T: Tables>(tables: &T, opening: &Opening<'_>) -> Result<Mapping, DropReason> {
    let mut mapping = Mapping {
        address: opening.site.nat_address,
        port: [0; 2],
        last_used_s: opening.now_s,
        created_s: opening.now_s,
        position: 0,
        kind: kind::DYNAMIC,
    };
    if find(tables, opening, &mut mapping) {
        return Ok(mapping);
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

/// Fills in the mapping that the inside endpoint has to the address, if it has one; one to another address is retired.
#[inline(never)]
fn find<T: Tables>(tables: &T, opening: &Opening<'_>, mapping: &mut Mapping) -> bool {
    let inside = inside(opening.key);
    let mappings = tables.mappings();
    let Some(found) = mappings.find(&inside) else {
        return false;
    };
    if found.address == mapping.address {
        if found.last_used_s != opening.now_s {
            mappings.touch(&inside, &found, opening.now_s);
        }
        *mapping = found;
        return true;
    }
    // The site was given another address: the old mapping serves its flows until they end.
    if mappings.retire(found.position) {
        limits::give_mapping(tables, opening.key.site);
    }
    false
}

/// Finds a port that is free: the same one, else random ones. Protocols without ports have the one outside that is
/// without.
#[inline(never)]
fn find_port<T: Tables>(tables: &T, opening: &Opening<'_>, mapping: &mut Mapping) -> bool {
    let key = opening.key;
    let mut search = Search {
        tables,
        opening,
        outside: OutsideKey {
            address: mapping.address,
            port: key.source_port,
            protocol: key.protocol,
            pad: 0,
        },
        is_first: true,
        is_free: false,
    };
    tables.repeat(PORT_TRIES, &mut search);
    mapping.port = search.outside.port;
    search.is_free
}

/// The search for a free port.
struct Search<'a, T> {
    tables: &'a T,
    opening: &'a Opening<'a>,
    outside: OutsideKey,
    is_first: bool,
    is_free: bool,
}

impl<T: Tables> Step for Search<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let (key, settings) = (self.opening.key, self.opening.settings);
        let has_ports = matches!(key.protocol, protocol::TCP | protocol::UDP | protocol::ICMP);
        let own = u16::from_be_bytes(key.source_port);
        if !has_ports {
            self.is_free = !self.tables.mappings().has_outside(&self.outside);
            return false;
        }
        let port = if self.is_first {
            own
        } else {
            candidate(self.tables.random(), own, settings)
        };
        self.is_first = false;
        if port < settings.port_low || port > settings.port_high || port == 0 {
            return true;
        }
        self.outside.port = port.to_be_bytes();
        self.is_free = !self.tables.mappings().has_outside(&self.outside);
        !self.is_free
    }
}

/// Claims the port.
#[inline(never)]
fn insert<T: Tables>(tables: &T, opening: &Opening<'_>, mapping: &mut Mapping) -> Result<(), Unmapped> {
    mapping.last_used_s = opening.now_s;
    mapping.position = tables.mappings().insert(&inside(opening.key), mapping)?;
    Ok(())
}

/// A port of the range with the parity of `own`, where the range's ends allow it.
#[inline(always)]
const fn candidate(random: u32, own: u16, settings: &Settings) -> u16 {
    let span = settings.port_high.saturating_sub(settings.port_low) as u32 + 1;
    let any = settings.port_low as u32 + random % span;
    let even = (any as u16 & !1) | (own & 1);
    if even < settings.port_low || even > settings.port_high {
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
            let settings = Settings {
                port_low: low,
                port_high: high,
                ..Settings::UNLIMITED
            };
            let port = candidate(random, own, &settings);
            prop_assert!((low..=high).contains(&port));
            prop_assert!(port % 2 == own % 2 || port == low || port == high);
        }
    }
}
