//! NAT mappings: endpoint-independent (RFC 4787 REQ-1), port preserved where it is free, parity kept where possible
//! (RFC 4787 REQ-4).

use crate::abi::flow::FlowKey;
use crate::abi::interface::Settings;
use crate::abi::limit::PORT_TRIES;
use crate::abi::nat::{InsideKey, Mapping, OutsideKey};
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::tables::{Refused, Tables};

/// The mapping of a flow's inside endpoint to `address`: the one it has, or a new one.
///
/// # Errors
/// [`DropReason::NatExhausted`] if no try found a free port; [`DropReason::FlowTableFull`] if a table is full.
#[inline(always)]
pub fn map<T: Tables>(
    tables: &T,
    key: &FlowKey,
    address: [u8; 4],
    settings: &Settings,
    now_s: u32,
) -> Result<Mapping, DropReason> {
    let inside = InsideKey {
        site: key.site,
        address: key.source,
        port: key.source_port,
        protocol: key.protocol,
        pad: 0,
    };
    let old = tables.mapping(&inside);
    if let Some(mapping) = old
        && mapping.address == address
    {
        if mapping.last_used_s != now_s {
            let used = Mapping {
                last_used_s: now_s,
                ..mapping
            };
            tables
                .replace_mapping(&inside, &used)
                .map_err(|_| DropReason::FlowTableFull)?;
        }
        return Ok(mapping);
    }
    let port = allocate(tables, &inside, address, settings)?;
    let mapping = Mapping {
        address,
        port,
        pad: [0; 2],
        last_used_s: now_s,
        created_s: now_s,
    };
    let put = if old.is_some() {
        // The site was given another address: the old mapping serves its flows until they end.
        tables.replace_mapping(&inside, &mapping)
    } else {
        tables.insert_mapping(&inside, &mapping)
    };
    if let Err(refused) = put {
        tables.release(&OutsideKey {
            address,
            port,
            protocol: inside.protocol,
            pad: 0,
        });
        return match refused {
            // Another CPU made it at the same moment.
            Refused::Exists => tables.mapping(&inside).ok_or(DropReason::FlowTableFull),
            Refused::Full => Err(DropReason::FlowTableFull),
        };
    }
    tables.count(Path::MappingsCreated, 0);
    Ok(mapping)
}

/// Claims a port: the same one first, then random ones.
#[inline(always)]
fn allocate<T: Tables>(
    tables: &T,
    inside: &InsideKey,
    address: [u8; 4],
    settings: &Settings,
) -> Result<[u8; 2], DropReason> {
    let own = u16::from_be_bytes(inside.port);
    let mut outside = OutsideKey {
        address,
        port: inside.port,
        protocol: inside.protocol,
        pad: 0,
    };
    let mut attempt = 0;
    while attempt < PORT_TRIES {
        let candidate = if attempt == 0 {
            own
        } else {
            candidate(tables.random(), own, settings)
        };
        attempt += 1;
        if candidate < settings.port_low || candidate > settings.port_high || candidate == 0 {
            continue;
        }
        outside.port = candidate.to_be_bytes();
        match tables.claim(&outside, inside) {
            Ok(()) => return Ok(outside.port),
            Err(Refused::Exists) => {}
            Err(Refused::Full) => return Err(DropReason::FlowTableFull),
        }
    }
    Err(DropReason::NatExhausted)
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
                tcp_opening_s: 0,
                tcp_established_s: 0,
                tcp_closing_s: 0,
                udp_s: 0,
                icmp_s: 0,
                ike_per_source_per_s: 0,
                port_low: low,
                port_high: high,
            };
            let port = candidate(random, own, &settings);
            prop_assert!((low..=high).contains(&port));
            prop_assert!(port % 2 == own % 2 || port == low || port == high);
        }
    }
}
