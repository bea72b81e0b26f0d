//! The index of flow and mapping table under loom: the interleavings of a few threads with at most two or three
//! preemptions, and every value that a load may see by the memory model. The code is that of the programs and of the daemon; the buckets are narrower.

use gateway_common::tables::hash::Hash;
use gateway_common::tables::index::{Claim, Index, Retired, Taken, state, state_of};
use gateway_common::tables::words::{Store, Words};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

/// Words of a bucket.
const WIDTH: usize = 2;
/// A key may lie in either of two buckets.
const BUCKETS: usize = 2;
/// Words of a record: key and value.
const KEY: usize = 0;
const VALUE: usize = 1;
/// Where all keys of these tests lie: they collide.
const HASH: Hash = Hash {
    first: 0,
    second: 1,
    fingerprint: 7,
};

#[derive(Clone, Copy)]
struct Row<'a>(&'a [AtomicU64]);

impl Words for Row<'_> {
    fn load(self, word: usize) -> u64 {
        self.0[word].load(Ordering::Acquire)
    }

    fn store(self, word: usize, value: u64) {
        // A swap in place of a store: loom does not know that a store cannot come between the load and the store of a
        // compare-and-swap, and would lose the store that comes after it.
        self.0[word].swap(value, Ordering::Release);
    }

    fn compare_exchange(self, word: usize, current: u64, new: u64) -> Result<(), u64> {
        self.0[word]
            .compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
    }

    fn add(self, word: usize, value: u64) -> u64 {
        self.0[word].fetch_add(value, Ordering::AcqRel)
    }

    fn fence(self) {
        fence(Ordering::SeqCst);
    }
}

#[derive(Clone, Copy)]
struct Rows<'a>(&'a [Vec<AtomicU64>]);

impl<'a> Store for Rows<'a> {
    type Value = Row<'a>;

    fn len(self) -> u32 {
        self.0.len() as u32
    }

    fn get(self, index: u32) -> Option<Row<'a>> {
        self.0.get(index as usize).map(|row| Row(row))
    }
}

/// An index and its records.
struct Table {
    buckets: Vec<Vec<AtomicU64>>,
    records: Vec<Vec<AtomicU64>>,
}

impl Table {
    fn new() -> Arc<Self> {
        let rows = |count| {
            (0..count)
                .map(|_| (0..WIDTH).map(|_| AtomicU64::new(0)).collect())
                .collect()
        };
        Arc::new(Self {
            buckets: rows(BUCKETS),
            records: rows(BUCKETS * WIDTH),
        })
    }

    fn index(&self) -> Index<Rows<'_>, WIDTH> {
        Index::new(Rows(&self.buckets))
    }

    fn is_of(&self, position: u32, key: u64) -> bool {
        Rows(&self.records)
            .get(position)
            .is_some_and(|record| record.load(KEY) == key)
    }

    /// Claims a place and fills it; `None` if there is none.
    fn fill(&self, key: u64) -> Option<Claim> {
        let claim = self.index().claim(&HASH, None)?;
        let record = Rows(&self.records).get(claim.position)?;
        record.store(KEY, key);
        record.store(VALUE, key * 100);
        Some(claim)
    }

    /// Puts a key in; `None` if there is no room.
    fn insert(&self, key: u64, retired: Retired) -> Option<Result<u32, Taken>> {
        let mut claim = self.fill(key)?;
        let published = self
            .index()
            .publish_unique(&HASH, &mut claim, retired, |position, _| {
                self.is_of(position, key)
            });
        Some(published.map(|()| claim.position))
    }

    /// Puts a key in that is the only one there is; `None` if there is no room.
    fn insert_the_only_key(&self) -> Option<Result<u32, Taken>> {
        let mut claim = self.index().claim(&HASH, None)?;
        let published = self
            .index()
            .publish_unique(&HASH, &mut claim, Retired::FreesKey, |_, _| true);
        Some(published.map(|()| claim.position))
    }

    /// Place and word of a key, with the value that its reader sees.
    fn find(&self, key: u64) -> Option<(u32, u64, u64)> {
        self.index().find(&HASH, |position, noted| {
            let record = Rows(&self.records).get(position)?;
            (record.load(KEY) == key).then(|| (position, noted.load(), record.load(VALUE)))
        })
    }

    /// Places in a state.
    fn places(&self, wanted: u64) -> Vec<u32> {
        (0..(BUCKETS * WIDTH) as u32)
            .filter(|position| self.index().word(*position).map(state_of) == Some(wanted))
            .collect()
    }

    /// How many there are.
    fn count(&self, wanted: u64) -> usize {
        self.places(wanted).len()
    }
}

/// All interleavings with at most so many preemptions; all of them for `None`.
fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    builder.check(model);
}

/// Threads that put the same key in at the same moment: one of them does, and the others leave nothing behind.
fn one_of(inserters: usize, insert: fn(&Table) -> Option<Result<u32, Taken>>) {
    let table = Table::new();
    let others: Vec<_> = (1..inserters)
        .map(|_| {
            let table = Arc::clone(&table);
            thread::spawn(move || insert(&table))
        })
        .collect();
    let own = insert(&table);
    let others = others.into_iter().map(|thread| thread.join().unwrap());
    let results: Vec<_> = std::iter::once(own).chain(others).collect();
    let won = results
        .iter()
        .filter(|result| matches!(result, Some(Ok(_))))
        .count();
    assert_eq!(won, 1, "{results:?}");
    assert_eq!((table.count(state::LIVE), table.count(state::FREE)), (1, 3));
}

#[test]
fn of_two_with_the_same_key_one_gets_in() {
    check(Some(3), || one_of(2, |table| table.insert(1, Retired::FreesKey)));
}

/// Without records: of three, each access more is tried in thousands of places. That a record is read as it was written is
/// what two are enough for.
#[test]
fn of_three_with_the_same_key_one_gets_in() {
    check(Some(2), || one_of(3, Table::insert_the_only_key));
}

/// A reader finds an entry whole or not at all.
#[test]
fn a_reader_sees_what_was_written_before_the_entry_was_live() {
    check(Some(3), || {
        let table = Table::new();
        let writer = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.insert(1, Retired::FreesKey))
        };
        if let Some((_, _, value)) = table.find(1) {
            assert_eq!(value, 100);
        }
        assert!(matches!(writer.join().unwrap(), Some(Ok(_))));
        assert_eq!(table.find(1).map(|(_, _, value)| value), Some(100));
    });
}

/// A place that was freed and taken by another meanwhile is not retired by who still holds the old word.
#[test]
fn a_word_of_an_earlier_use_retires_nothing() {
    check(Some(3), || {
        let table = Table::new();
        assert!(matches!(table.insert(1, Retired::FreesKey), Some(Ok(_))));
        let (position, word, _) = table.find(1).unwrap();
        let late = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.index().retire(position, word))
        };
        let retired = table.index().retire(position, word);
        if retired {
            let now = table.index().word(position).unwrap();
            table.index().free(&Claim { position, word: now });
            assert!(matches!(table.insert(2, Retired::FreesKey), Some(Ok(_))));
        }
        let late = late.join().unwrap();
        assert!(retired != late, "one of two retires it");
        assert_eq!(table.find(2).is_some(), retired);
        assert_eq!(table.find(1), None);
    });
}

/// Who looks a key up while another takes its entry out retires nothing once more.
///
/// Regression: the word of an entry is read twice, and was RETIRED the second time. It was retired again, and the flow was
/// given back twice.
#[test]
fn what_is_found_while_it_is_retired_is_retired_once() {
    check(Some(3), || {
        let table = Table::new();
        assert!(matches!(table.insert(1, Retired::FreesKey), Some(Ok(_))));
        let (position, word, _) = table.find(1).unwrap();
        let sweep = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.index().retire(position, word))
        };
        let own = table
            .find(1)
            .is_some_and(|(position, word, _)| table.index().retire(position, word));
        let other = sweep.join().unwrap();
        assert!(own != other, "one of two retires it: {own}, {other}");
    });
}

/// The sweep retires a flow, sees that a packet has begun it anew, and takes the retirement back; meanwhile a packet does
/// not find the flow and puts it in once more, at a higher place.
#[test]
fn a_revived_entry_and_a_new_one_of_its_key_are_one() {
    check(Some(3), || revive_beside_an_insert(false));
}

/// The same, where the new one gets a lower place.
///
/// Regression: the new one aborts the other, which stayed ABORTED, as if it had never been in use. The sweep that freed its
/// place did not look whether the flow was half-open, and the site kept the count for ever.
#[test]
fn a_new_entry_at_a_lower_place_leaves_the_other_retired() {
    check(Some(3), || revive_beside_an_insert(true));
}

fn revive_beside_an_insert(new_is_lower: bool) {
    let table = Table::new();
    if new_is_lower {
        assert_eq!(table.insert(10, Retired::FreesKey), Some(Ok(0)));
    }
    assert!(matches!(table.insert(1, Retired::FreesKey), Some(Ok(_))));
    let (position, word, _) = table.find(1).unwrap();
    let sweep = {
        let table = Arc::clone(&table);
        thread::spawn(move || {
            assert!(table.index().retire(position, word));
            let same = |position, _| table.is_of(position, 1);
            table
                .index()
                .revive(&HASH, position, word, Retired::FreesKey, same)
        })
    };
    let inserted = match table.find(1) {
        Some(_) => false,
        None => matches!(table.insert(1, Retired::FreesKey), Some(Ok(_))),
    };
    let revived = sweep.join().unwrap();
    assert!(revived != inserted, "revived {revived}, inserted {inserted}");
    let live = table.places(state::LIVE);
    let of_key: Vec<_> = live.iter().filter(|place| table.is_of(**place, 1)).collect();
    assert_eq!(of_key.len(), 1, "{live:?}");
    assert_eq!(
        table.index().word(position).map(state_of),
        Some(if revived { state::LIVE } else { state::RETIRED })
    );
    let new = of_key.iter().find(|place| ***place != position);
    assert!(
        new.is_none_or(|new| (**new < position) == new_is_lower),
        "{new:?} and {position}"
    );
}

/// A port that was given back is nobody's until the sweep frees it.
#[test]
fn a_retired_key_that_is_held_is_not_given_to_another() {
    check(Some(3), || {
        let table = Table::new();
        assert!(matches!(table.insert(1, Retired::HoldsKey), Some(Ok(_))));
        let (position, word, _) = table.find(1).unwrap();
        let sweep = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.index().retire(position, word))
        };
        assert_eq!(table.insert(1, Retired::HoldsKey), Some(Err(Taken)));
        assert!(sweep.join().unwrap());
        assert_eq!((table.count(state::RETIRED), table.count(state::LIVE)), (1, 0));
    });
}

/// Of two that want the last place, one gets it.
#[test]
fn the_last_place_goes_to_one() {
    check(Some(3), || {
        let table = Table::new();
        for key in 10..13 {
            assert!(matches!(table.insert(key, Retired::FreesKey), Some(Ok(_))));
        }
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.insert(1, Retired::FreesKey))
        };
        let own = table.insert(2, Retired::FreesKey);
        let other = other.join().unwrap();
        let both = [matches!(own, Some(Ok(_))), matches!(other, Some(Ok(_)))];
        assert!(both[0] != both[1], "{own:?} {other:?}");
        assert_eq!(table.count(state::LIVE), BUCKETS * WIDTH);
    });
}
