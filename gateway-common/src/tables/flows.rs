//! The flow table: records found by the site's packet or by the center's answer, with one look-up each.
//!
//! A record lies at the place that its key has in the index of the site's side; the index of answers has its number. A flow
//! that is put in anew has the same two keys as those that were retired before it, which hold their places until a sweep frees
//! them: they are retired in both indexes, or a look-up would meet them first.

use super::Refused;
use super::hash::{Factors, Hash, of_answer, of_flow, port_protocol};
use super::index::{Claim, Index, Noted, Retired, WIDTH, payload_of, state, state_of};
use super::words::{Store, Words};
use crate::abi::flow::{self, Flow, FlowKey, KeyWords, halves, pair, word};
use crate::abi::nat::OutsideKey;

/// The flow table over its arrays.
#[derive(Clone, Copy, Debug)]
pub struct FlowTable<B, R, F> {
    index: Index<B>,
    answers: Index<B>,
    records: R,
    factors: F,
}

/// A flow in place.
#[derive(Clone, Copy, Debug)]
pub struct Entry<V> {
    /// Its record.
    pub record: V,
    /// Its place.
    pub position: u32,
    /// Its word in the index.
    pub word: u64,
}

impl<B: Store, R: Store, F: Factors> FlowTable<B, R, F> {
    /// The table in these arrays: as many buckets in both, and a record for each place.
    #[inline(always)]
    pub const fn new(index: B, answers: B, records: R, factors: F) -> Self {
        Self {
            index: Index::new(index),
            answers: Index::new(answers),
            records,
            factors,
        }
    }

    /// The flow that a packet of the site belongs to.
    #[inline(always)]
    pub fn find(&self, key: &FlowKey) -> Option<Entry<R::Value>> {
        self.find_with(&KeyWords::new(key), |record, position, noted| Entry {
            record,
            position,
            word: noted.load(),
        })
    }

    /// Its record alone, by the words of the key.
    #[inline(always)]
    pub fn find_record(&self, key: &KeyWords) -> Option<R::Value> {
        self.find_with(key, |record, _, _| record)
    }

    #[inline(always)]
    fn find_with<E>(&self, key: &KeyWords, entry: impl Fn(R::Value, u32, Noted<B::Value>) -> E) -> Option<E> {
        let hash = of_flow(self.factors, key, self.buckets());
        self.index.find(&hash, |position, noted| {
            let record = self.records.get(position)?;
            key.are_of(record).then(|| entry(record, position, noted))
        })
    }

    /// Where the index has a packet of the site, if anywhere.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> Hash {
        of_flow(self.factors, &KeyWords::new(key), self.buckets())
    }

    /// The place of a flow, as far as the index alone tells: for fetching its record before [`FlowTable::find`] reads it.
    #[inline(always)]
    pub fn likely_place(&self, hash: &Hash) -> Option<u32> {
        self.index.find(hash, |position, _| Some(position))
    }

    /// The flow that a packet of the center belongs to: sent to `outside`, from `remote`.
    #[inline(always)]
    pub fn find_answer(
        &self,
        outside: &OutsideKey,
        remote: [u8; 4],
        remote_port: [u8; 2],
    ) -> Option<Entry<R::Value>> {
        let hash = of_answer(self.factors, outside, remote, remote_port, self.buckets());
        let nat = pair(
            u32::from_ne_bytes(outside.address),
            port_protocol(outside.port, outside.protocol),
        );
        let remote = u32::from_ne_bytes(remote);
        self.answers.find(&hash, |_, answer| {
            let position = payload_of(answer.load());
            // First: the record of a place that is LIVE is not another flow's while somebody reads it.
            let word = self.index.word(position)?;
            if state_of(word) != state::LIVE {
                return None;
            }
            let record = self.records.get(position)?;
            let (destination, both_ports) = halves(record.load(word::DESTINATION_PORTS));
            let [_, _, d0, d1] = both_ports.to_ne_bytes();
            if record.load(word::NAT) != nat || destination != remote || [d0, d1] != remote_port {
                return None;
            }
            Some(Entry {
                record,
                position,
                word,
            })
        })
    }

    /// The record that a new flow is likely to be written to.
    #[inline(always)]
    pub fn likely_record(&self, key: &FlowKey) -> Option<R::Value> {
        self.records.get(self.index.likely_claim(&self.hash(key))?)
    }

    /// Where the index of answers is going to have a flow of this key and outside.
    #[inline(always)]
    pub fn hash_answer(&self, key: &FlowKey, outside: &OutsideKey) -> Hash {
        let (remote, port) = (key.destination, key.destination_port);
        of_answer(self.factors, outside, remote, port, self.buckets())
    }

    /// Has both places of an answer come into the cache.
    #[inline(always)]
    pub fn prefetch_answer(&self, hash: &Hash) {
        self.answers.prefetch(hash);
    }

    /// Puts a new flow in.
    ///
    /// # Errors
    /// [`Refused`]; nothing is in the table then.
    pub fn insert(&self, key: &FlowKey, flow: &Flow) -> Result<(), Refused> {
        self.insert_with(key, (flow.nat_address, flow.nat_port), |record, other| {
            flow::write(record, key, flow, other);
        })
    }

    /// Puts a new flow in that is translated to `nat`. `fill` writes its record, which holds the number that it is given.
    ///
    /// # Errors
    /// [`Refused`]; nothing is in the table then.
    #[inline(always)]
    pub fn insert_with(
        &self,
        key: &FlowKey,
        (address, port): ([u8; 4], [u8; 2]),
        fill: impl FnOnce(R::Value, u32),
    ) -> Result<(), Refused> {
        let outside = OutsideKey {
            address,
            port,
            protocol: key.protocol,
            pad: 0,
        };
        let hash = self.hash(key);
        let mut claim = self.index.claim(&hash, None).ok_or(Refused::Full)?;
        let answer = self.records.get(claim.position).and_then(|record| {
            let hash = self.hash_answer(key, &outside);
            let answer = self.answers.claim(&hash, Some(claim.position))?;
            fill(record, answer.position);
            Some(answer)
        });
        let Some(mut answer) = answer else {
            self.index.free(&claim);
            return Err(Refused::Full);
        };
        // Readers of it look at the flow's own word, which is not LIVE yet.
        self.answers.publish(&mut answer);
        let published = self
            .index
            .publish_unique(&hash, &mut claim, Retired::FreesKey, |position, _| {
                let record = self.records.get(position);
                record.is_some_and(|record| KeyWords::new(key).are_of(record))
            });
        if published.is_err() {
            self.answers.free(&answer);
            return Err(Refused::Exists);
        }
        Ok(())
    }

    /// Takes a flow out: no packet finds it any more. `false` if another was faster.
    #[inline(always)]
    pub fn retire(&self, position: u32, word: u64) -> bool {
        let retired = self.index.retire(position, word);
        if retired {
            self.change_answer(position, state::LIVE, state::RETIRED);
        }
        retired
    }

    /// Takes a retirement back, if the place has not changed since and nobody has put the key in anew.
    pub fn revive(&self, position: u32, word: u64, key: &FlowKey) -> bool {
        let key_words = KeyWords::new(key);
        // First, while nobody else retires the flow. Readers look at its own word, too.
        self.change_answer(position, state::RETIRED, state::LIVE);
        let revived = self.index.revive(
            &self.hash(key),
            position,
            word,
            Retired::FreesKey,
            |position, _| {
                let record = self.records.get(position);
                record.is_some_and(|record| key_words.are_of(record))
            },
        );
        if !revived {
            self.change_answer(position, state::LIVE, state::RETIRED);
        }
        revived
    }

    /// Changes the state of a flow's place in the index of answers.
    #[inline(always)]
    fn change_answer(&self, position: u32, from: u64, to: u64) {
        let Some(record) = self.records.get(position) else {
            return;
        };
        let (_, answer) = halves(record.load(word::RULE));
        if let Some(word) = self.answers.word(answer)
            && payload_of(word) == position
            && state_of(word) == from
        {
            self.answers.change(answer, word, to);
        }
    }

    /// Frees the place of a flow that was retired a sweep ago, for the one owner of expiry.
    pub fn free(&self, position: u32) {
        let (Some(word), Some(record)) = (self.index.word(position), self.records.get(position)) else {
            return;
        };
        let (_, answer) = halves(record.load(word::RULE));
        if self.answers.word(answer).map(payload_of) == Some(position) {
            self.answers.free(&Claim {
                position: answer,
                word: 0,
            });
        }
        self.index.free(&Claim { position, word });
    }

    /// Places of the table.
    pub fn places(&self) -> u32 {
        self.index.places()
    }

    /// The entry at a place, in whatever state.
    pub fn at(&self, position: u32) -> Option<Entry<R::Value>> {
        let word = self.index.word(position)?;
        let record = self.records.get(position)?;
        Some(Entry {
            record,
            position,
            word,
        })
    }

    /// Every flow that packets find.
    pub fn live(self) -> impl Iterator<Item = (FlowKey, Flow)> {
        (0..self.places()).filter_map(move |position| {
            let entry = self.at(position)?;
            (state_of(entry.word) == state::LIVE).then(|| flow::read(entry.record))
        })
    }

    #[inline(always)]
    fn buckets(&self) -> u32 {
        self.index.places() / WIDTH as u32
    }
}

#[cfg(test)]
mod tests {
    use core::array::from_fn;
    use core::cell::Cell;
    use core::sync::atomic::AtomicU64;
    use std::vec::Vec;

    use super::*;
    use crate::tables::Tables as _;
    use crate::tables::beside::Rows;
    use crate::tables::hash::FACTORS;
    use crate::tables::host::HostTables;

    /// Regression: flows that were ended, and whose places no sweep had freed yet, hid the third of their key from its answers.
    #[test]
    fn answers_find_a_flow_behind_those_that_were_retired_before_it() {
        let tables = HostTables::default();
        let flows = tables.flows();
        let key = FlowKey {
            site: 1,
            source_port: [7, 208],
            protocol: 6,
            ..FlowKey::NONE
        };
        let flow = Flow {
            nat_address: [198, 51, 100, 1],
            nat_port: key.source_port,
            ..Flow::default()
        };
        let outside = OutsideKey {
            address: flow.nat_address,
            port: flow.nat_port,
            protocol: key.protocol,
            pad: 0,
        };
        let find_answer = || flows.find_answer(&outside, key.destination, key.destination_port);
        for _ in 0..4 {
            assert_eq!(flows.insert(&key, &flow), Ok(()));
            let found = flows.find(&key).map(|entry| (entry.position, entry.word));
            assert!(found.is_some());
            assert_eq!(find_answer().map(|entry| (entry.position, entry.word)), found);
            let (position, word) = found.unwrap_or_default();
            assert!(flows.retire(position, word));
            assert!(find_answer().is_none());
            assert!(flows.revive(position, word, &key));
            assert!(find_answer().is_some());
            assert!(flows.retire(position, word));
        }
    }

    const SECRET: [u64; FACTORS] = [3, 5, 7, 11, 13, 17];

    /// A flow that another CPU fails to put in, as it is there already, gives its place to one of another site: an answer to the
    /// first never finds the second.
    ///
    /// Regression: the record was compared before its place was seen to be in use.
    #[test]
    fn an_answer_finds_no_flow_of_another_site_at_a_place_that_changes_hands() {
        let keys = [1, 2].map(|site| FlowKey {
            site,
            source_port: [7, 208],
            protocol: 17,
            ..FlowKey::NONE
        });
        let flows = [[198, 51, 100, 1], [198, 51, 100, 2]].map(|nat_address| Flow {
            nat_address,
            nat_port: [7, 208],
            ..Flow::default()
        });
        let outside = OutsideKey {
            address: flows[0].nat_address,
            port: [7, 208],
            protocol: 17,
            pad: 0,
        };
        let mut accesses = 100;
        for moment in 0.. {
            if moment > accesses {
                break;
            }
            let bucket = |_| -> [AtomicU64; WIDTH] { from_fn(|_| AtomicU64::new(0)) };
            let (index, answers): (Vec<_>, Vec<_>) =
                ((0..2).map(bucket).collect(), (0..2).map(bucket).collect());
            let records: Vec<[AtomicU64; flow::RECORD_WORDS]> =
                (0..2 * WIDTH).map(|_| from_fn(|_| AtomicU64::new(0))).collect();
            let table = FlowTable::new(&index[..], &answers[..], &records[..], &SECRET);
            // As far as `insert_with` has come when it looks for another of the key.
            let claim = table.index.claim(&table.hash(&keys[0]), None).expect("room");
            let hash = table.hash_answer(&keys[0], &outside);
            let mut answer = table.answers.claim(&hash, Some(claim.position)).expect("room");
            flow::write(
                &records[claim.position as usize],
                &keys[0],
                &flows[0],
                answer.position,
            );
            table.answers.publish(&mut answer);
            let count = Cell::new(0);
            let other = || {
                count.set(count.get() + 1);
                if count.get() == moment {
                    table.answers.free(&answer);
                    table.index.free(&claim);
                    assert_eq!(table.insert(&keys[1], &flows[1]), Ok(()));
                    let place = table.find(&keys[1]).map(|entry| entry.position);
                    assert_eq!(place, Some(claim.position));
                }
            };
            let beside = FlowTable::new(
                Rows::new(&index, &other),
                Rows::new(&answers, &other),
                Rows::new(&records, &other),
                &SECRET,
            );
            let found = beside.find_answer(&outside, [0; 4], [0; 2]);
            assert!(found.is_none(), "at access {moment}");
            accesses = count.get();
        }
        assert!(accesses > 5, "{accesses}");
    }
}
