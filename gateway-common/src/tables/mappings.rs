//! The mapping table: NAT mappings found by their inside; no two have the same outside.
//!
//! A record lies at the place that its outside has in the index of outsides: putting it there is the claim of the port.

use super::hash::{Factors, Hash, of_inside, of_outside, port_protocol};
use super::index::{Claim, Index, Retired, WIDTH, payload_of, state, state_of};
use super::words::{Store, Words};
use crate::abi::flow::{halves, pair};
use crate::abi::nat::{self, InsideKey, Mapping, OutsideKey, word};

/// The mapping table over its arrays.
#[derive(Clone, Copy, Debug)]
pub struct MappingTable<B, R, F> {
    outsides: Index<B>,
    insides: Index<B>,
    records: R,
    factors: F,
}

/// Why a mapping was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmapped {
    /// Another endpoint has the outside.
    OutsideTaken,
    /// The inside has got a mapping meanwhile.
    InsideExists,
    /// The table is full.
    Full,
}

impl<B: Store, R: Store, F: Factors> MappingTable<B, R, F> {
    /// The table in these arrays: as many buckets in both, and a record for each place.
    #[inline(always)]
    pub const fn new(outsides: B, insides: B, records: R, factors: F) -> Self {
        Self {
            outsides: Index::new(outsides),
            insides: Index::new(insides),
            records,
            factors,
        }
    }

    /// The mapping of an inside endpoint.
    #[inline(always)]
    pub fn find(&self, key: &InsideKey) -> Option<Mapping> {
        let hash = of_inside(self.factors, key, self.buckets());
        self.insides.find(&hash, |_, inside| {
            let position = payload_of(inside.load());
            // First: the record of a place that is LIVE is not written anew while somebody reads it.
            if state_of(self.outsides.word(position)?) != state::LIVE {
                return None;
            }
            let record = self.records.get(position)?;
            is_inside(record, key).then(|| nat::read(record, position).1)
        })
    }

    /// The mapping of an outside endpoint, with its inside.
    #[inline(always)]
    pub fn find_outside(&self, key: &OutsideKey) -> Option<(InsideKey, Mapping)> {
        let hash = of_outside(self.factors, key, self.buckets());
        self.outsides.find(&hash, |position, _| {
            let record = self.records.get(position)?;
            is_outside(record, key).then(|| nat::read(record, position))
        })
    }

    /// Whether an outside endpoint belongs to somebody, or did a short time ago.
    #[inline(always)]
    pub fn has_outside(&self, key: &OutsideKey) -> bool {
        let hash = of_outside(self.factors, key, self.buckets());
        self.outsides.holds(&hash, |position| {
            self.records
                .get(position)
                .is_some_and(|record| is_outside(record, key))
        })
    }

    /// The record that a new mapping to this outside is likely to get.
    #[inline(always)]
    pub fn likely_record(&self, outside: &OutsideKey) -> Option<R::Value> {
        let hash = of_outside(self.factors, outside, self.buckets());
        self.records.get(self.outsides.likely_claim(&hash)?)
    }

    /// Where the index of insides may have this endpoint.
    #[inline(always)]
    pub fn hash_inside(&self, key: &InsideKey) -> Hash {
        of_inside(self.factors, key, self.buckets())
    }

    /// Where the index of outsides may have this endpoint.
    #[inline(always)]
    pub fn hash_outside(&self, key: &OutsideKey) -> Hash {
        of_outside(self.factors, key, self.buckets())
    }

    /// Has both places of an inside endpoint come into the cache.
    #[inline(always)]
    pub fn prefetch_inside(&self, hash: &Hash) {
        self.insides.prefetch(hash);
    }

    /// Has both places of an outside endpoint come into the cache.
    #[inline(always)]
    pub fn prefetch_outside(&self, hash: &Hash) {
        self.outsides.prefetch(hash);
    }

    /// Puts a new mapping in and says where it is; [`Mapping::position`] is not looked at.
    ///
    /// # Errors
    /// [`Unmapped`]; the outside is free again then, if it was.
    #[inline(always)]
    pub fn insert(&self, key: &InsideKey, mapping: &Mapping) -> Result<u32, Unmapped> {
        let outside = mapping.outside(key.protocol);
        let hash = of_outside(self.factors, &outside, self.buckets());
        let mut claim = self.outsides.claim(&hash, None).ok_or(Unmapped::Full)?;
        let inside_hash = of_inside(self.factors, key, self.buckets());
        let inside = self.records.get(claim.position).and_then(|record| {
            let inside = self.insides.claim(&inside_hash, Some(claim.position))?;
            nat::write(record, key, mapping, inside.position);
            Some(inside)
        });
        let Some(mut inside) = inside else {
            self.outsides.free(&claim);
            return Err(Unmapped::Full);
        };
        // A retired mapping's outside is not given away while flows may use it.
        let outside_is_ours =
            self.outsides
                .hold_unique(&hash, &mut claim, Retired::HoldsKey, |position, _| {
                    self.records
                        .get(position)
                        .is_some_and(|record| is_outside(record, &outside))
                });
        if outside_is_ours.is_err() {
            self.insides.free(&inside);
            return Err(Unmapped::OutsideTaken);
        }
        let inside_is_ours =
            self.insides
                .publish_unique(&inside_hash, &mut inside, Retired::FreesKey, |_, inside| {
                    self.records
                        .get(payload_of(inside))
                        .is_some_and(|record| is_inside(record, key))
                });
        if inside_is_ours.is_err() {
            self.outsides.free(&claim);
            return Err(Unmapped::InsideExists);
        }
        // At last, when nothing is left that may fail: what is LIVE may be used and retired by others at once, and is never
        // taken back. Readers of the inside look at this word, too.
        if self.outsides.reveal(&mut claim).is_err() {
            self.insides.free(&inside);
            return Err(Unmapped::OutsideTaken);
        }
        Ok(claim.position)
    }

    /// Notes that a mapping, which is not static, was used.
    #[inline(always)]
    pub fn touch(&self, key: &InsideKey, mapping: &Mapping, now_s: u32) {
        if let Some(record) = self.records.get(mapping.position) {
            record.store(
                word::PORT_USED,
                pair(port_protocol(key.port, key.protocol), now_s),
            );
        }
    }

    /// Takes a mapping out: no new flow is made from it, and its outside is kept until [`MappingTable::free`]. `false`
    /// if another was faster.
    #[inline(always)]
    pub fn retire(&self, position: u32) -> bool {
        let (Some(word), Some(record)) = (self.outsides.word(position), self.records.get(position)) else {
            return false;
        };
        if state_of(word) != state::LIVE || !self.outsides.retire(position, word) {
            return false;
        }
        let (_, inside) = halves(record.load(word::CREATED));
        self.insides.free(&Claim {
            position: inside,
            word: 0,
        });
        true
    }

    /// Frees the place of a mapping that was retired a sweep ago and that no flow uses, for the one owner of expiry.
    pub fn free(&self, position: u32) {
        if let Some(word) = self.outsides.word(position) {
            self.outsides.free(&Claim { position, word });
        }
    }

    /// Places of the table.
    pub fn places(&self) -> u32 {
        self.outsides.places()
    }

    /// Word and mapping at a place, in whatever state.
    pub fn at(&self, position: u32) -> Option<(u64, InsideKey, Mapping)> {
        let word = self.outsides.word(position)?;
        let (key, mapping) = nat::read(self.records.get(position)?, position);
        Some((word, key, mapping))
    }

    /// Every mapping that new flows are made from.
    pub fn live(self) -> impl Iterator<Item = (InsideKey, Mapping)> {
        (0..self.places()).filter_map(move |position| {
            let (word, key, mapping) = self.at(position)?;
            (state_of(word) == state::LIVE).then_some((key, mapping))
        })
    }

    #[inline(always)]
    fn buckets(&self) -> u32 {
        self.outsides.places() / WIDTH as u32
    }
}

#[inline(always)]
fn is_inside<V: Words>(record: V, key: &InsideKey) -> bool {
    record.load(word::INSIDE) == pair(key.site, u32::from_ne_bytes(key.address))
        && halves(record.load(word::PORT_USED)).0 & !nat::kind_bits(u8::MAX)
            == port_protocol(key.port, key.protocol)
}

#[inline(always)]
fn is_outside<V: Words>(record: V, key: &OutsideKey) -> bool {
    record.load(word::OUTSIDE)
        == pair(
            u32::from_ne_bytes(key.address),
            port_protocol(key.port, key.protocol),
        )
}

#[cfg(test)]
mod tests {
    use core::array::from_fn;
    use core::cell::Cell;
    use core::sync::atomic::AtomicU64;
    use std::vec::Vec;

    use super::*;
    use crate::packet::ipv4::protocol::UDP;
    use crate::tables::beside::Rows;
    use crate::tables::hash::FACTORS;

    const BUCKETS: usize = 2;
    const SECRET: [u64; FACTORS] = [3, 5, 7, 11, 13, 17];

    /// Memory of a table.
    struct Memory {
        outsides: Vec<[AtomicU64; WIDTH]>,
        insides: Vec<[AtomicU64; WIDTH]>,
        records: Vec<[AtomicU64; nat::RECORD_WORDS]>,
    }

    type Plain<'a> =
        MappingTable<&'a [[AtomicU64; WIDTH]], &'a [[AtomicU64; nat::RECORD_WORDS]], &'a [u64; FACTORS]>;
    type Watched<'a> = MappingTable<Rows<'a, WIDTH>, Rows<'a, { nat::RECORD_WORDS }>, &'a [u64; FACTORS]>;

    impl Memory {
        fn new() -> Self {
            let bucket = |_| from_fn(|_| AtomicU64::new(0));
            Self {
                outsides: (0..BUCKETS).map(bucket).collect(),
                insides: (0..BUCKETS).map(bucket).collect(),
                records: (0..BUCKETS * WIDTH)
                    .map(|_| from_fn(|_| AtomicU64::new(0)))
                    .collect(),
            }
        }

        fn table(&self) -> Plain<'_> {
            MappingTable::new(&self.outsides, &self.insides, &self.records, &SECRET)
        }

        /// The same, with another CPU that does something before each access.
        fn beside<'a>(&'a self, other: &'a dyn Fn()) -> Watched<'a> {
            MappingTable::new(
                Rows::new(&self.outsides, other),
                Rows::new(&self.insides, other),
                Rows::new(&self.records, other),
                &SECRET,
            )
        }
    }

    fn inside(port: u16) -> InsideKey {
        InsideKey {
            site: 1,
            address: [192, 168, 1, 10],
            port: port.to_be_bytes(),
            protocol: UDP,
            pad: 0,
        }
    }

    fn to(port: u16) -> Mapping {
        Mapping {
            address: [198, 51, 100, 1],
            port: port.to_be_bytes(),
            last_used_s: 7,
            created_s: 7,
            position: 0,
            kind: nat::kind::DYNAMIC,
        }
    }

    /// Regression: a mapping whose inside endpoint another CPU had mapped meanwhile could be found by its outside for a moment
    /// before it was taken back. Who retired it then gave its port and its count back a second time, and a packet of
    /// the center could open a flow over it.
    #[test]
    fn a_mapping_that_is_not_made_is_never_seen() {
        let memory = Memory::new();
        let table = memory.table();
        let position = table.insert(&inside(2000), &to(2000)).expect("there is room");
        let accesses = Cell::new(0);
        let other = || {
            accesses.set(accesses.get() + 1);
            let found = table.find_outside(&to(3000).outside(UDP));
            assert_eq!(found, None, "at access {}", accesses.get());
            assert_eq!(table.live().count(), 1, "at access {}", accesses.get());
        };
        let made = memory.beside(&other).insert(&inside(2000), &to(3000));
        assert_eq!(made, Err(Unmapped::InsideExists));
        assert!(accesses.get() > 10);
        assert!(!table.has_outside(&to(3000).outside(UDP)), "the port is free");
        assert_eq!(
            table.find(&inside(2000)).map(|found| found.position),
            Some(position)
        );
    }

    /// Another CPU retires a mapping as soon as there is one: it is retired once, and whoever made it has made it.
    #[test]
    fn a_mapping_that_is_retired_at_once_was_made() {
        let memory = Memory::new();
        let table = memory.table();
        let retired = Cell::new(0);
        let other = || {
            for position in 0..table.places() {
                retired.set(retired.get() + u32::from(table.retire(position)));
            }
        };
        let made = memory.beside(&other).insert(&inside(2000), &to(2000));
        let position = made.expect("nobody else maps it");
        other();
        assert_eq!((retired.get(), table.live().count()), (1, 0));
        assert!(table.has_outside(&to(2000).outside(UDP)), "it is held");
        table.free(position);
        assert!(
            table.insert(&inside(2000), &to(2000)).is_ok(),
            "all is free again"
        );
    }
}
