//! The mapping table: NAT mappings found by their inside; no two have the same outside.
//!
//! A record lies at the place that its outside has in the index of outsides: putting it there is the claim of the port.

use super::hash::{Factors, of_inside, of_outside, port_protocol};
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
            let position = payload_of(inside);
            let record = self.records.get(position)?;
            if !is_inside(record, key) || state_of(self.outsides.word(position)?) != state::LIVE {
                return None;
            }
            Some(nat::read(record, position).1)
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

    /// Has the record come into the cache that a new mapping to this outside is likely to get.
    #[inline(always)]
    pub fn prefetch_record(&self, key: &OutsideKey) {
        let hash = of_outside(self.factors, key, self.buckets());
        if let Some(position) = self.outsides.likely_claim(&hash)
            && let Some(record) = self.records.get(position)
        {
            record.load(word::INSIDE);
        }
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
                .publish_unique(&hash, &mut claim, Retired::HoldsKey, |position, _| {
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
