//! Builds a rule generation: the tables of [`gateway_common::abi::rule`] from compiled rules.
//!
//! Each dimension's value space is cut at every boundary of a rule's ranges. Between two boundaries the same rules
//! hold, which makes one vector; equal vectors are stored once. Building therefore takes time in proportion to rules times boundaries / 64,
//! and a look-up never more steps than [`gateway_common::path::rules`] says.
mod image;
mod sweep;

use std::collections::BTreeSet;

use gateway_common::abi::limit::{NAME_SETS_MAX, RULES_MAX};
use gateway_common::abi::names::OpenAddress;
use gateway_common::abi::rule::{Chunk, GROUP_MULTIPLIER, Record, Rule, RuleSetHeader, direction, layout};
use gateway_common::path::rules::{Judgement, Tuple, host};
use zerocopy::{FromBytes as _, IntoBytes as _};

use self::image::Image;
use self::sweep::{Span, merge, sweep};

/// Highest value of each dimension.
const KEY_MAX: u64 = u32::MAX as u64;
const PORT_MAX: u64 = u16::MAX as u64;

/// One compiled rule: all conditions must hold, of a list any.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Every site; `sites` and `groups` are empty then.
    pub everyone: bool,
    /// These sites.
    pub sites: Vec<u32>,
    /// Sites in any of these groups.
    pub groups: u64,
    /// Whatever site is called, or none; `to_sites` and `to_groups` are empty then. Else flows from site to site alone.
    pub to_everyone: bool,
    /// These sites are called.
    pub to_sites: Vec<u32>,
    /// Sites in any of these groups are called.
    pub to_groups: u64,
    /// Bit n: flows of direction n.
    pub directions: u8,
    /// Ranges of addresses, ends included.
    pub source: Vec<(u32, u32)>,
    /// Ranges of addresses, ends included.
    pub destination: Vec<(u32, u32)>,
    /// Numbers of sets of names; joined with `destination` by "or".
    pub names: Vec<u32>,
    /// IP protocols; empty: every one.
    pub protocols: Vec<u8>,
    /// Ranges of ports, ends included.
    pub source_ports: Vec<(u16, u16)>,
    /// Ranges of ports, ends included; for ICMP, type and code.
    pub destination_ports: Vec<(u16, u16)>,
    /// What the rule says.
    pub record: Record,
}

impl From<&Rule> for Condition {
    fn from(rule: &Rule) -> Self {
        let range = |network: [u8; 4], mask: [u8; 4]| {
            let (network, mask) = (u32::from_be_bytes(network), u32::from_be_bytes(mask));
            vec![(network, network | !mask)]
        };
        Self {
            everyone: rule.site == 0 && rule.groups == 0,
            sites: if rule.site == 0 { vec![] } else { vec![rule.site] },
            groups: rule.groups,
            to_everyone: rule.to_site == 0 && rule.to_groups == 0,
            to_sites: if rule.to_site == 0 {
                vec![]
            } else {
                vec![rule.to_site]
            },
            to_groups: rule.to_groups,
            directions: match rule.directions {
                0 => direction::ALL,
                directions => directions,
            },
            source: range(rule.source, rule.source_mask),
            destination: match rule.name_set {
                0 => range(rule.destination, rule.destination_mask),
                _ => vec![],
            },
            names: match rule.name_set {
                0 => vec![],
                set => vec![set],
            },
            protocols: if rule.protocol == 0 {
                vec![]
            } else {
                vec![rule.protocol]
            },
            source_ports: vec![(rule.source_port_low, rule.source_port_high)],
            destination_ports: vec![(rule.destination_port_low, rule.destination_port_high)],
            record: Record {
                source_rule: rule.source_rule,
                action: rule.action,
                flags: rule.flags,
                pad: [0; 2],
            },
        }
    }
}

/// Why rules do not become a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// More compiled rules than a vector has bits.
    #[error("{0} compiled rules, but a rule set may have {RULES_MAX}")]
    Rules(usize),
    /// The tables would be larger than the packet path can address.
    #[error(
        "its tables would be larger than {} MiB; merge addresses and ports into fewer prefixes and ranges",
        layout::CHUNKS_MAX / 16
    )]
    Words,
}

/// A generation, ready for the packet path.
#[derive(Clone)]
pub struct Generation {
    words: Vec<u64>,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Generation({} words)", self.words.len())
    }
}

impl Generation {
    /// As elements of its map.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        // The words are a whole number of chunks; were they not, no chunk means no generation, and nothing passes.
        <[Chunk]>::ref_from_bytes(self.words.as_bytes()).unwrap_or_default()
    }

    /// What it says of a new flow, as the packet path finds it.
    #[must_use]
    pub fn judge(&self, tuple: &Tuple) -> Option<Judgement> {
        host::judge(self.chunks(), tuple)
    }

    /// As [`Generation::judge`], to a destination that is `open` for names at `now_s`.
    #[must_use]
    pub fn judge_by_name(&self, tuple: &Tuple, open: &OpenAddress, now_s: u32) -> Option<Judgement> {
        host::judge_by_name(self.chunks(), tuple, open, now_s)
    }

    /// Octets.
    #[must_use]
    pub fn size(&self) -> usize {
        self.words.len() * 8
    }
}

/// Builds a generation. `group_bitmaps` are all that sites may have: a site with another one is denied everything.
/// `counter_base` is added to a rule's number to find its counter.
///
/// # Errors
/// [`TooLarge`].
pub fn build(
    generation: u32,
    counter_base: u32,
    conditions: &[Condition],
    group_bitmaps: &[u64],
) -> Result<Generation, TooLarge> {
    if conditions.len() > RULES_MAX as usize {
        return Err(TooLarge::Rules(conditions.len()));
    }
    let mut image = Image::new(conditions.len());
    ports(&mut image, layout::SOURCE_PORTS, conditions, |rule| {
        &rule.source_ports
    })?;
    ports(&mut image, layout::DESTINATION_PORTS, conditions, |rule| {
        &rule.destination_ports
    })?;
    addresses(&mut image, layout::SOURCES, conditions, |rule| &rule.source)?;
    addresses(&mut image, layout::DESTINATIONS, conditions, |rule| {
        &rule.destination
    })?;
    protocols(&mut image, conditions)?;
    sites(&mut image, layout::SITES, conditions, |rule| &rule.sites)?;
    sites(&mut image, layout::TO_SITES, conditions, |rule| &rule.to_sites)?;
    let (names, name_sets) = names(&mut image, conditions)?;
    let (groups, group_shift) = hash_groups(&mut image, conditions, group_bitmaps, |rule, bitmap| {
        rule.everyone || rule.groups & bitmap != 0
    })?;
    let (to_groups, to_group_shift) = hash_groups(&mut image, conditions, group_bitmaps, |rule, bitmap| {
        rule.to_everyone || rule.to_groups & bitmap != 0
    })?;
    let records = image.allocate_long(conditions.len() as u32)?;
    for (place, rule) in (records..).zip(conditions) {
        image.set(place, u64_of(rule.record));
    }
    let header = RuleSetHeader {
        generation,
        count: conditions.len() as u32,
        counter_base,
        groups,
        group_shift,
        records,
        to_groups,
        to_group_shift,
        names,
        name_sets,
    };
    for (place, half) in (layout::HEADER * 2..).zip(header.as_bytes().chunks_exact(4)) {
        let half = <[u8; 4]>::try_from(half).map_or(0, u32::from_ne_bytes);
        image.set_half(place, half);
    }
    Ok(Generation {
        words: image.finish(),
    })
}

fn u64_of(record: Record) -> u64 {
    zerocopy::transmute!(record)
}

fn ports(
    image: &mut Image,
    table: u32,
    conditions: &[Condition],
    of: impl Fn(&Condition) -> &Vec<(u16, u16)>,
) -> Result<(), TooLarge> {
    let spans = |rule| {
        of(rule)
            .iter()
            .map(|(low, high)| (u64::from(*low), u64::from(*high)))
    };
    let spans = conditions.iter().map(|rule| merge(spans(rule)));
    sweep(spans, PORT_MAX, |(low, high), vector| {
        let vector = image.vector(vector)?;
        image.set_halves(table * 2 + low as u32, table * 2 + high as u32, vector);
        Ok(())
    })
}

fn addresses(
    image: &mut Image,
    table: u32,
    conditions: &[Condition],
    of: impl Fn(&Condition) -> &Vec<(u32, u32)>,
) -> Result<(), TooLarge> {
    let spans = |rule| {
        of(rule)
            .iter()
            .map(|(low, high)| (u64::from(*low), u64::from(*high)))
    };
    let spans = conditions.iter().map(|rule| merge(spans(rule)));
    sweep(spans, KEY_MAX, |(low, high), vector| {
        let vector = image.vector(vector)?;
        image.fill(table, low as u32, high as u32, vector)
    })
}

/// The rules that name a site. (Those about everyone or about groups are in the vectors of group bitmaps.)
fn sites(
    image: &mut Image,
    table: u32,
    conditions: &[Condition],
    of: impl Fn(&Condition) -> &Vec<u32>,
) -> Result<(), TooLarge> {
    let span = |site: &u32| (u64::from(*site), u64::from(*site));
    let spans = conditions.iter().map(|rule| merge(of(rule).iter().map(span)));
    sweep(spans, KEY_MAX, |(low, high), vector| {
        let vector = image.vector(vector)?;
        image.fill(table, low as u32, high as u32, vector)
    })
}

fn protocols(image: &mut Image, conditions: &[Condition]) -> Result<(), TooLarge> {
    let spans = |rule: &Condition| -> Vec<Span> {
        // A look-up asks which site is called only of flows from site to site.
        let possible = match rule.to_everyone {
            true => rule.directions,
            false => rule.directions & (1 << direction::SITE_TO_SITE),
        };
        let directions = (0..u64::from(direction::COUNT)).filter(|bit| possible >> bit & 1 != 0);
        let all = directions.flat_map(|direction| {
            let base = direction << 8;
            match rule.protocols.is_empty() {
                true => vec![(base, base + 255)],
                false => rule
                    .protocols
                    .iter()
                    .map(|protocol| (base + u64::from(*protocol), base + u64::from(*protocol)))
                    .collect(),
            }
        });
        merge(all)
    };
    let highest = u64::from(direction::COUNT * 256 - 1);
    sweep(conditions.iter().map(spans), highest, |(low, high), vector| {
        let vector = image.vector(vector)?;
        let first = layout::PROTOCOLS * 2;
        image.set_halves(first + low as u32, first + high as u32, vector);
        Ok(())
    })
}

/// The entries of sets of names: their word, and how many there are. A set that no rule names has a vector of zero.
fn names(image: &mut Image, conditions: &[Condition]) -> Result<(u32, u32), TooLarge> {
    let all: BTreeSet<u32> = conditions.iter().flat_map(|rule| &rule.names).copied().collect();
    let Some(last) = all.last().copied() else {
        return Ok((0, 0));
    };
    if last >= NAME_SETS_MAX {
        return Err(TooLarge::Words);
    }
    let count = last + 1;
    let table = image.allocate_long(count.div_ceil(2))?;
    for set in all {
        let mut vector = image.blank();
        for (bit, rule) in conditions.iter().enumerate() {
            if rule.names.contains(&set)
                && let Some(word) = vector.get_mut(bit / 64)
            {
                *word |= 1 << (bit % 64);
            }
        }
        let vector = image.vector(&vector)?;
        image.set_half(table * 2 + set, vector);
    }
    Ok((table, count))
}

/// The hash of group bitmaps: its word, and the shift that finds a place.
fn hash_groups(
    image: &mut Image,
    conditions: &[Condition],
    bitmaps: &[u64],
    holds: impl Fn(&Condition, u64) -> bool,
) -> Result<(u32, u32), TooLarge> {
    // A site in no group is always possible.
    let mut bitmaps: Vec<u64> = bitmaps.iter().copied().chain([0]).collect();
    bitmaps.sort_unstable();
    bitmaps.dedup();
    let (buckets, bits) = spread(&bitmaps);
    let table = image.allocate_buckets(buckets.len() as u32)?;
    let pairs = buckets.iter().zip(0..).flat_map(|(bucket, number)| {
        let first = table + number * 2 * layout::GROUPS_A_BUCKET;
        bucket
            .iter()
            .zip(0..)
            .map(move |(bitmap, place)| (first + place * 2, *bitmap))
    });
    for (pair, bitmap) in pairs {
        let mut vector = image.blank();
        for (bit, rule) in conditions.iter().enumerate() {
            if holds(rule, bitmap)
                && let Some(word) = vector.get_mut(bit / 64)
            {
                *word |= 1 << (bit % 64);
            }
        }
        let vector = image.vector(&vector)?;
        image.set(pair, bitmap);
        image.set(pair + 1, vector.into());
    }
    Ok((table, 64 - bits))
}

/// Deals the bitmaps out to so many buckets that each has room; the number of bits of a bucket's number.
fn spread(bitmaps: &[u64]) -> (Vec<Vec<u64>>, u32) {
    let mut bits = 1;
    loop {
        let mut buckets = vec![Vec::new(); 1 << bits];
        for bitmap in bitmaps {
            let number = bitmap.wrapping_mul(GROUP_MULTIPLIER) >> (64 - bits);
            if let Some(bucket) = buckets.get_mut(number as usize) {
                bucket.push(*bitmap);
            }
        }
        let has_room = |bucket: &Vec<u64>| bucket.len() <= layout::GROUPS_A_BUCKET as usize;
        if buckets.iter().all(has_room) {
            return (buckets, bits);
        }
        bits += 1;
    }
}
