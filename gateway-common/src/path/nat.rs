//! NAT mappings: endpoint-independent (RFC 4787 REQ-1), never two for one port (REQ-3).
//!
//! A new mapping has the inside port where it is free and the operator lets it; otherwise a port that nobody can foretell
//! (RFC 6056 section 4, RFC 7857 section 9), of the same parity (REQ-4) and range (REQ-3 b) as the inside one. It is
//! drawn by a keyed hash ([`crate::tables::siphash`]) of the inside endpoint, a random number, the second and the number
//! of the try: `bpf_get_prandom_u32` alone is a linear generator, whose next numbers follow from those seen.

use crate::abi::event::kind;
use crate::abi::flow::{FlowKey, pair, word};
use crate::abi::interface::{Settings, nat_flag};
use crate::abi::limit::{PORT_TRIES, PORT_TRIES_KEYED, PORT_TRIES_SHORT};
use crate::abi::nat::{self, InsideKey, Mapping, OutsideKey};
use crate::abi::site::{BLOCKS_MAX, Block, Site, flag};
use crate::abi::stats::Path;
use crate::drop::DropReason;
use crate::packet::ipv4::protocol;
use crate::tables::hash::port_protocol;
use crate::tables::mappings::Unmapped;
use crate::tables::words::Words;
use crate::tables::{Step, Tables};

use super::clear::tell;
use super::limits;
use super::open::Opening;

/// No mapping, to be overwritten by [`map`].
pub(super) const UNMAPPED: Mapping = Mapping {
    address: [0; 4],
    port: [0; 2],
    last_used_s: 0,
    created_s: 0,
    position: 0,
    kind: nat::kind::DYNAMIC,
};

/// Fills in the mapping of a flow's inside endpoint to a port block of its site: the one it has, or a new one. `false` if
/// another CPU has claimed the port or mapped the endpoint at the same moment, or the site has changed meanwhile: it is to
/// be asked for again.
///
/// # Errors
/// [`DropReason::NatExhausted`] if no try found a free port; [`DropReason::SiteMappings`] if the site has as many as it
/// may; [`DropReason::FlowTableFull`] if the table is full; [`DropReason::NatPortless`] if the protocol has no ports and
/// the site has no address of its own.
#[inline(always)]
pub(super) fn map<T: Tables>(
    tables: &T,
    opening: &Opening<'_>,
    mapping: &mut Mapping,
) -> Result<bool, DropReason> {
    let likely = likely_outside(opening);
    prefetch(tables, opening, &likely);
    if find(tables, opening, mapping) {
        prefetch_outside::<_, false>(tables, opening, mapping, &likely);
        return Ok(true);
    }
    if !has_ports(opening.key.protocol) && !first_block(opening.site).is_whole() {
        return Err(DropReason::NatPortless);
    }
    let site = opening.key.site;
    limits::take_mapping(tables, site, opening.settings)?;
    let refused = if !find_port(tables, opening, mapping) {
        Err(DropReason::NatExhausted)
    } else if !is_own(tables, opening, mapping) {
        Ok(false)
    } else {
        prefetch_outside::<_, true>(tables, opening, mapping, &likely);
        match insert(tables, opening, mapping) {
            Ok(()) => {
                tables.count(Path::MappingsCreated, 0);
                return Ok(true);
            }
            Err(Unmapped::OutsideTaken | Unmapped::InsideExists) => Ok(false),
            Err(Unmapped::Full) => Err(DropReason::FlowTableFull),
        }
    };
    limits::give_mapping(tables, site);
    refused
}

/// Has what is going to be read and written come into the cache, as if the endpoint had the outside that [`likely_outside`] says:
/// each of these lines is far away. It is found out where all of them are before one is asked for: a processor that waits for
/// a line looks only a few hundred instructions ahead for others.
#[inline(never)]
fn prefetch<T: Tables>(tables: &T, opening: &Opening<'_>, outside: &OutsideKey) {
    let (flows, mappings) = (tables.flows(), tables.mappings());
    let flow = flows.likely_record(opening.key);
    let inside = mappings.hash_inside(&inside(opening.key));
    if !is_known(outside) {
        if let Some(record) = flow {
            record.load(word::SITE_SOURCE);
            record.load(word::OUT);
        }
        mappings.prefetch_inside(&inside);
        return;
    }
    let answer = flows.hash_answer(opening.key, outside);
    let outside = mappings.hash_outside(outside);
    mappings.prefetch_inside(&inside);
    mappings.prefetch_outside(&outside);
    if let Some(record) = flow {
        record.load(word::SITE_SOURCE);
        record.load(word::OUT);
    }
    flows.prefetch_answer(&answer);
}

/// The same when the outside is known: for the record of a mapping that is going to be made, and for where the answers are if the
/// outside is not the likely one.
#[inline(never)]
fn prefetch_outside<T: Tables, const MAPS: bool>(
    tables: &T,
    opening: &Opening<'_>,
    mapping: &Mapping,
    likely: &OutsideKey,
) {
    let outside = mapping.outside(opening.key.protocol);
    let record = if MAPS {
        tables.mappings().likely_record(&outside)
    } else {
        None
    };
    if let Some(record) = record {
        record.load(nat::word::INSIDE);
    }
    if (outside.address, outside.port) != (likely.address, likely.port) {
        let flows = tables.flows();
        flows.prefetch_answer(&flows.hash_answer(opening.key, &outside));
    }
}

/// The outside that the endpoint of a flow has or gets if nothing is in the way: its own port in the site's first block. Port zero
/// if that is not to be expected.
#[inline(always)]
fn likely_outside(opening: &Opening<'_>) -> OutsideKey {
    let key = opening.key;
    let block = first_block(opening.site);
    let own = u16::from_be_bytes(key.source_port);
    let is_likely =
        opening.settings.nat_flags & nat_flag::PRESERVE_PORT != 0 && block.first <= own && own <= block.last;
    OutsideKey {
        address: block.address,
        port: if is_likely { key.source_port } else { [0; 2] },
        protocol: key.protocol,
        pad: 0,
    }
}

/// Whether [`likely_outside`] has found one.
#[inline(always)]
const fn is_known(outside: &OutsideKey) -> bool {
    u16::from_ne_bytes(outside.port) != 0
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

/// Fills in the mapping that the inside endpoint has to a block of the site or by a publication, if it has one; another
/// one is retired.
#[inline(never)]
fn find<T: Tables>(tables: &T, opening: &Opening<'_>, mapping: &mut Mapping) -> bool {
    let inside = inside(opening.key);
    let mappings = tables.mappings();
    let Some(found) = mappings.find(&inside) else {
        return opening.site.flags & flag::ONE_TO_ONE != 0 && find_whole(tables, &inside, mapping);
    };
    if found.is_static() {
        *mapping = found;
        return true;
    }
    if is_of(opening.site, &found, inside.protocol) {
        if found.last_used_s != opening.now_s {
            mappings.touch(&inside, &found, opening.now_s);
        }
        *mapping = found;
        return true;
    }
    if !tables.is_site(opening.site, inside.site) {
        return false;
    }
    // The site was given another address or block: the old mapping serves its flows until they end.
    if mappings.retire(found.position) {
        limits::give_mapping(tables, opening.key.site);
    }
    false
}

/// Fills in the mapping of an inside address that has an outside address of its own, which keeps all ports.
#[inline(always)]
fn find_whole<T: Tables>(tables: &T, inside: &InsideKey, mapping: &mut Mapping) -> bool {
    let whole = InsideKey {
        port: [0; 2],
        protocol: 0,
        ..*inside
    };
    let Some(found) = tables.mappings().find(&whole) else {
        return false;
    };
    *mapping = Mapping {
        port: inside.port,
        ..found
    };
    true
}

/// Whether what was found is the site's: it is looked up again, since what `opening` lends may have become another site's
/// while a port was looked for.
#[inline(never)]
fn is_own<T: Tables>(tables: &T, opening: &Opening<'_>, mapping: &Mapping) -> bool {
    let key = opening.key;
    tables
        .site(key.site)
        .is_some_and(|site| is_of(site, mapping, key.protocol) && tables.is_site(site, key.site))
}

/// Whether a mapping lies in a block of the site, be it a closed one.
#[inline(always)]
fn is_of(site: &Site, mapping: &Mapping, protocol: u8) -> bool {
    let port = u16::from_be_bytes(mapping.port);
    let mut at = 0;
    while at < BLOCKS_MAX {
        if let Some(block) = site.blocks.get(at)
            && at < (site.blocks_count + site.blocks_closed) as usize
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
        tries: 0,
        random: tables.random(),
        drawn: 0,
        is_free: false,
    };
    tables.repeat(2 * PORT_TRIES, &mut search);
    let is_short = search.tries >= PORT_TRIES_SHORT + u32::from(site.blocks_paired);
    if is_short && site.flags & flag::MORE_BLOCKS != 0 {
        tell(tables, kind::PORTS_SHORT, key, 0, 0);
    }
    mapping.address = search.outside.address;
    mapping.port = search.outside.port;
    search.is_free
}

/// The search for a free port: the own one in each block, then drawn ones, and at last those that follow on the last drawn.
/// Protocols without ports have the one outside that is without.
struct Search<'a, T> {
    tables: &'a T,
    opening: &'a Opening<'a>,
    outside: OutsideKey,
    /// So far, in the blocks of the first address, and from [`PORT_TRIES`] on in the others.
    tries: u32,
    random: u32,
    /// The last number drawn.
    drawn: u64,
    is_free: bool,
}

/// Bit of what [`Search::next`] answers: there is a port to try.
const IS_PORT: u64 = 1 << 16;
/// Bit of what [`Search::next`] answers: there is no other one.
const IS_LAST: u64 = 1 << 17;

impl<T: Tables> Step for Search<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        // Hidden: what comes now is verified once, not once for each way to a port.
        let next = <T::Usage<'_> as Words>::hide(self.next());
        if next & IS_PORT != 0 {
            self.outside.port = (next as u16).to_be_bytes();
            self.is_free = !self.tables.has_outside(&self.outside);
        }
        !self.is_free && next & IS_LAST == 0
    }
}

impl<T: Tables> Search<'_, T> {
    /// The next port to try, and in `outside` its address.
    #[inline(never)]
    fn next(&mut self) -> u64 {
        let (key, settings) = (self.opening.key, self.opening.settings);
        let (paired, count) = (self.opening.site.blocks_paired, self.opening.site.blocks_count);
        let is_paired = self.tries < PORT_TRIES;
        let (blocks_from, blocks) = if is_paired {
            (0, paired)
        } else {
            (paired, count.saturating_sub(paired))
        };
        let (blocks_from, blocks) = (u32::from(blocks_from), u32::from(blocks));
        let tries = self.tries % PORT_TRIES;
        // Hidden: the verifier would follow each count by itself.
        self.tries = <T::Usage<'_> as Words>::hide(u64::from(self.tries) + 1) as u32;
        if blocks == 0 {
            return IS_LAST;
        }
        // The first rounds are for the own port, one a block.
        let is_own = tries < blocks;
        let drawn_before = tries.wrapping_sub(blocks);
        if !is_own && drawn_before < PORT_TRIES_KEYED {
            let moment = (self.random, self.opening.now_s);
            self.drawn = draw(self.tables, key, moment, self.tries);
        }
        let number = if is_own {
            tries
        } else {
            (self.drawn >> 32) as u32 % blocks
        };
        let place = blocks_from.wrapping_add(number) as usize;
        let Some(block) = self.opening.site.blocks.get(place) else {
            return 0;
        };
        self.outside.address = block.address;
        if !has_ports(key.protocol) {
            return IS_PORT | IS_LAST;
        }
        let own = u16::from_be_bytes(key.source_port);
        let range = Range::of(key.protocol, settings, block);
        let port = if is_own {
            if settings.nat_flags & nat_flag::PRESERVE_PORT == 0 {
                return 0;
            }
            own
        } else if drawn_before < PORT_TRIES_KEYED {
            let range = range.like(own, key.protocol, settings);
            range.drawn(self.drawn as u32, own)
        } else {
            let distance = drawn_before - PORT_TRIES_KEYED;
            range.above_well_known().following(self.drawn as u32, distance)
        };
        if !range.contains(port) || port == 0 {
            return 0;
        }
        IS_PORT | u64::from(port)
    }
}

/// A number that nobody without the key can foretell.
#[inline(always)]
fn draw<T: Tables>(tables: &T, key: &FlowKey, (random, now_s): (u32, u32), tries: u32) -> u64 {
    let endpoint = port_protocol(key.source_port, key.protocol);
    tables.draw([
        pair(key.site, u32::from_ne_bytes(key.source)),
        pair(endpoint, random),
        pair(now_s, tries),
    ])
}

/// Last of the well-known ports.
const WELL_KNOWN: u16 = 1023;

/// Ports that a mapping may have; none if `low` is above `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    low: u16,
    high: u16,
}

impl Range {
    /// Ports of a block that the operator lets. Identifiers of ICMP queries are no ports: all of the block.
    #[inline(always)]
    const fn of(protocol: u8, settings: &Settings, block: &Block) -> Self {
        if protocol == protocol::ICMP {
            return Self {
                low: block.first,
                high: block.last,
            };
        }
        Self {
            low: larger(block.first, settings.port_low),
            high: smaller(block.last, settings.port_high),
        }
    }

    #[inline(always)]
    const fn contains(self, port: u16) -> bool {
        self.low <= port && port <= self.high
    }

    /// The well-known ports of it for a well-known one, those above for another, where it has both (RFC 4787 REQ-3 b).
    #[inline(always)]
    const fn like(self, own: u16, protocol: u8, settings: &Settings) -> Self {
        let has_both = self.low <= WELL_KNOWN && self.high > WELL_KNOWN;
        if !has_both || protocol == protocol::ICMP || settings.nat_flags & nat_flag::PRESERVE_RANGE == 0 {
            return self;
        }
        if own <= WELL_KNOWN {
            Self {
                high: WELL_KNOWN,
                ..self
            }
        } else {
            self.above_well_known()
        }
    }

    #[inline(always)]
    const fn above_well_known(self) -> Self {
        Self {
            low: if self.high > WELL_KNOWN {
                larger(self.low, WELL_KNOWN + 1)
            } else {
                self.low
            },
            ..self
        }
    }

    #[inline(always)]
    const fn span(self) -> u32 {
        self.high.saturating_sub(self.low) as u32 + 1
    }

    /// A port with the parity of `own` (RFC 4787 REQ-4), where the range's ends allow it.
    #[inline(always)]
    const fn drawn(self, number: u32, own: u16) -> u16 {
        let any = (self.low as u32 + number % self.span()) as u16;
        let like_own = (any & !1) | (own & 1);
        if self.contains(like_own) { like_own } else { any }
    }

    /// The port that lies `distance` behind the drawn one, around the range's end.
    #[inline(always)]
    const fn following(self, number: u32, distance: u32) -> u16 {
        let span = self.span();
        (self.low as u32 + (number % span + distance) % span) as u16
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
    (mapping.created_s, mapping.last_used_s) = (opening.now_s, opening.now_s);
    mapping.position = tables.mappings().insert(&inside(opening.key), mapping)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::ipv4::protocol::UDP;

    fn any_range() -> impl Strategy<Value = Range> {
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| Range {
            low: a.min(b),
            high: a.max(b),
        })
    }

    proptest! {
        /// Property: what is drawn is in the range, and has the port's parity unless the range's end forbids it.
        #[test]
        fn drawn_ports_are_in_range_and_keep_parity(number in any::<u32>(), own in any::<u16>(), range in any_range()) {
            let port = range.drawn(number, own);
            prop_assert!(range.contains(port));
            prop_assert!(port % 2 == own % 2 || port == range.low || port == range.high);
        }

        /// Property: the following ports are all of the range, each once.
        #[test]
        fn following_ports_are_all_of_the_range(number in any::<u32>(), low in any::<u16>(), span in 1u16..60) {
            let range = Range { low, high: low.saturating_add(span - 1) };
            let mut ports: std::vec::Vec<u16> = (0..range.span()).map(|distance| range.following(number, distance)).collect();
            ports.sort_unstable();
            prop_assert!(ports.into_iter().eq(range.low..=range.high));
        }

        /// RFC 4787 REQ-3 b: a well-known port gets a well-known one, another one another, where the range has both.
        #[test]
        fn ranges_are_preserved(number in any::<u32>(), own in 1u16.., range in any_range()) {
            let settings = Settings::UNLIMITED;
            let port = range.like(own, UDP, &settings).drawn(number, own);
            prop_assert!(range.contains(port));
            if range.low <= WELL_KNOWN && range.high > WELL_KNOWN {
                prop_assert_eq!(port <= WELL_KNOWN, own <= WELL_KNOWN);
            }
            let any = Settings { nat_flags: nat_flag::PRESERVE_PORT, ..settings };
            prop_assert_eq!(range.like(own, UDP, &any), range);
        }
    }
}
