//! NAT mappings: endpoint-independent (RFC 4787 REQ-1), port preserved where it is free, parity kept where possible
//! (RFC 4787 REQ-4).

use crate::abi::interface::Settings;
use crate::abi::limit::PORT_TRIES;
use crate::abi::nat::{InsideKey, Mapping};
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::ipv4::protocol;
use crate::tables::{Step, Tables};
use crate::tables::mappings::Unmapped;

use super::clear::Opening;
use super::limits;

/// The mapping of a flow's inside endpoint to `address`: the one it has, or a new one.
///
/// # Errors
/// [`DropReason::NatExhausted`] if no try found a free port; [`DropReason::SiteMappings`] if the site has as many as it
/// may; [`DropReason::FlowTableFull`] if the table is full.
#[inline(never)]
pub(super) fn map<T: Tables>(tables: &T, opening: &Opening<'_>) -> Result<Mapping, DropReason> {
    let Opening {
        key,
        settings,
        now_s,
        ..
    } = *opening;
    let address = opening.site.nat_address;
    let inside = InsideKey {
        site: key.site,
        address: key.source,
        port: key.source_port,
        protocol: key.protocol,
        pad: 0,
    };
    let mappings = tables.mappings();
    if let Some(mapping) = mappings.find(&inside) {
        if mapping.address == address {
            if mapping.last_used_s != now_s {
                mappings.touch(&inside, &mapping, now_s);
            }
            return Ok(mapping);
        }
        // The site was given another address: the old mapping serves its flows until they end.
        if mappings.retire(mapping.position) {
            limits::give_mapping(tables, key.site);
        }
    }
    limits::take_mapping(tables, key.site, settings)?;
    match allocate(tables, &inside, address, settings, now_s) {
        Ok(mapping) => {
            tables.count(Path::MappingsCreated, 0);
            Ok(mapping)
        }
        Err(unmapped) => {
            limits::give_mapping(tables, key.site);
            match unmapped {
                // Another CPU made it at the same moment.
                Unmapped::InsideExists => mappings.find(&inside).ok_or(DropReason::FlowTableFull),
                Unmapped::OutsideTaken => Err(DropReason::NatExhausted),
                Unmapped::Full => Err(DropReason::FlowTableFull),
            }
        }
    }
}

/// Claims a port: the same one first, then random ones. Protocols without ports have the one outside that is without.
#[inline(always)]
fn allocate<T: Tables>(
    tables: &T,
    inside: &InsideKey,
    address: [u8; 4],
    settings: &Settings,
    now_s: u32,
) -> Result<Mapping, Unmapped> {
    let has_ports = matches!(inside.protocol, protocol::TCP | protocol::UDP | protocol::ICMP);
    let mut search = Search {
        tables,
        inside,
        settings,
        is_first: true,
        has_ports,
        mapping: Mapping {
            address,
            port: inside.port,
            last_used_s: now_s,
            created_s: now_s,
            position: 0,
        },
        outcome: Err(Unmapped::OutsideTaken),
    };
    tables.repeat(if has_ports { PORT_TRIES } else { 1 }, &mut search);
    search.outcome.map(|()| search.mapping)
}

/// The search for a free port.
struct Search<'a, T> {
    tables: &'a T,
    inside: &'a InsideKey,
    settings: &'a Settings,
    is_first: bool,
    has_ports: bool,
    mapping: Mapping,
    outcome: Result<(), Unmapped>,
}

impl<T: Tables> Step for Search<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let own = u16::from_be_bytes(self.inside.port);
        let port = if self.is_first {
            own
        } else {
            candidate(self.tables.random(), own, self.settings)
        };
        self.is_first = false;
        if self.has_ports && (port < self.settings.port_low || port > self.settings.port_high || port == 0) {
            return true;
        }
        self.mapping.port = port.to_be_bytes();
        self.outcome = insert(self.tables, self.inside, &mut self.mapping);
        self.outcome == Err(Unmapped::OutsideTaken)
    }
}

/// One attempt.
#[inline(never)]
fn insert<T: Tables>(tables: &T, inside: &InsideKey, mapping: &mut Mapping) -> Result<(), Unmapped> {
    let mappings = tables.mappings();
    if mappings.has_outside(&mapping.outside(inside.protocol)) {
        return Err(Unmapped::OutsideTaken);
    }
    mapping.position = mappings.insert(inside, mapping)?;
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
