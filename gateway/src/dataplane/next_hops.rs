//! Next hops of the core side: which of them the maps have, and how they come to have them.
//!
//! **Architecture invariant:** no packet takes a shorter prefix because a longer one is missing. Where not all find room,
//! networks lead nowhere rather than elsewhere; and while the table changes, each packet goes by the old table or by the new
//! one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData};
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::{limit, map};

use super::error::DataplaneError;
use super::maps::{Numbered, absent_is_fine};

/// Address and length, in the order of addresses: what a prefix covers comes next after it.
type Prefix = (u32, u8);
/// Where each prefix leads.
type Table = BTreeMap<Prefix, NextHop>;

/// What the maps are to have.
pub(crate) struct Fitted {
    table: Table,
    refused: Option<DataplaneError>,
}

impl Fitted {
    /// The table of `hops` (prefix, its length, where to), and of addresses that are `fixed`, in place of what `hops` have for
    /// them. A prefix that leads where the next shorter one does takes no room.
    ///
    /// When there are too many, networks that lie next to each other are led nowhere together, as one prefix around them: the
    /// longest first, and single addresses last, which are the hosts on the link, as long as those alone do not fill the
    /// half. What is fixed stays.
    pub(crate) fn new(hops: &[([u8; 4], u8, NextHop)], fixed: &[(Ipv4Addr, NextHop)]) -> Self {
        Self::within(hops, fixed, limit::NEXT_HOPS_MAX as usize)
    }

    /// That there are too many, if so.
    pub(crate) fn refused(self) -> Result<(), DataplaneError> {
        self.refused.map_or(Ok(()), Err)
    }

    fn within(hops: &[([u8; 4], u8, NextHop)], fixed: &[(Ipv4Addr, NextHop)], max: usize) -> Self {
        let mut table: Table = hops
            .iter()
            .map(|(address, length, hop)| (prefix(u32::from_be_bytes(*address), *length), *hop))
            .collect();
        for (address, _) in fixed {
            table.remove(&(address.to_bits(), 32));
        }
        let mut entries = without_needless(table);
        let have = entries.len() + fixed.len();
        let closed = lead_nowhere(&mut entries, max.saturating_sub(fixed.len()));
        let mut table: Table = entries.into_iter().collect();
        table.extend(fixed.iter().map(|(address, hop)| ((address.to_bits(), 32), *hop)));
        Self {
            table,
            refused: (have > max).then_some(DataplaneError::NextHops { have, max, closed }),
        }
    }
}

/// Without the prefixes that lead where the next shorter one does.
fn without_needless(table: Table) -> Vec<(Prefix, NextHop)> {
    let mut around: Vec<(Prefix, NextHop)> = Vec::new();
    let mut is_needed = |(prefix, hop): &(Prefix, NextHop)| {
        while around.pop_if(|(outer, _)| !covers(*outer, *prefix)).is_some() {}
        let is_needed = around.last().is_none_or(|(_, outer)| outer != hop);
        if is_needed {
            around.push((*prefix, *hop));
        }
        is_needed
    };
    table.into_iter().filter(|entry| is_needed(entry)).collect()
}

/// Leads networks nowhere until no more than `max` prefixes are left, which are in order. How many that led somewhere.
fn lead_nowhere(entries: &mut Vec<(Prefix, NextHop)>, max: usize) -> usize {
    let hosts = entries.iter().filter(|((_, length), _)| *length == 32).count();
    let longest = if hosts > max / 2 { 32 } else { 31 };
    let mut closed = 0;
    for length in (0..longest).rev() {
        let mut excess = entries.len().saturating_sub(max);
        if excess == 0 {
            break;
        }
        let around = |((address, inner), _): &(Prefix, NextHop)| {
            let is_meant = (length..=longest).contains(inner);
            is_meant.then(|| prefix(*address, length))
        };
        let found: Vec<Prefix> = entries.iter().filter_map(around).collect();
        let mut merged = Vec::new();
        for group in found.chunk_by(|one, other| one == other) {
            if excess == 0 {
                break;
            }
            if let [around, further @ ..] = group
                && !further.is_empty()
            {
                excess = excess.saturating_sub(further.len());
                merged.push(*around);
            }
        }
        entries.retain(|entry| {
            let is_gone = around(entry).is_some_and(|around| merged.binary_search(&around).is_ok());
            closed += usize::from(is_gone && entry.1 != NextHop::NOWHERE);
            !is_gone
        });
        entries.extend(merged.into_iter().map(|around| (around, NextHop::NOWHERE)));
        entries.sort_by_key(|(prefix, _)| *prefix);
    }
    closed
}

fn prefix(address: u32, length: u8) -> Prefix {
    let length = length.min(32);
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    (address & mask, length)
}

fn covers(outer: Prefix, inner: Prefix) -> bool {
    outer.1 <= inner.1 && prefix(inner.0, outer.1) == outer
}

/// The longest prefix of those shorter than `length` that covers an address, of which `has` says whether it is there.
fn around(address: u32, length: u8, has: impl Fn(&Prefix) -> bool) -> Option<Prefix> {
    let shorter = (0..length).rev().map(|length| prefix(address, length));
    shorter.into_iter().find(has)
}

/// The maps, as far as next hops are in them.
pub(crate) trait HopMaps {
    /// Has a number lead there.
    fn set_hop(&mut self, number: u32, hop: &NextHop) -> Result<(), DataplaneError>;
    /// Gives a prefix this number in place of the one that it has.
    fn set_route(&mut self, prefix: Prefix, number: u32) -> Result<(), DataplaneError>;
    /// Takes a prefix out.
    fn remove_route(&mut self, prefix: Prefix) -> Result<(), DataplaneError>;
}

/// Those of the kernel.
pub(crate) struct KernelMaps {
    pub(crate) routes: LpmTrie<MapData, [u8; 4], u32>,
    pub(crate) next_hops: Array<MapData, NextHop>,
}

impl HopMaps for KernelMaps {
    fn set_hop(&mut self, number: u32, hop: &NextHop) -> Result<(), DataplaneError> {
        let set = self.next_hops.set(number, hop, 0);
        set.map_err(DataplaneError::map(map::NEXT_HOPS))
    }

    fn set_route(&mut self, prefix: Prefix, number: u32) -> Result<(), DataplaneError> {
        let inserted = self.routes.insert(&key(prefix), number, 0);
        inserted.map_err(DataplaneError::map(map::ROUTES))
    }

    fn remove_route(&mut self, prefix: Prefix) -> Result<(), DataplaneError> {
        let removed = absent_is_fine(self.routes.remove(&key(prefix)));
        removed.map_err(DataplaneError::map(map::ROUTES))
    }
}

fn key((address, length): Prefix) -> Key<[u8; 4]> {
    Key::new(length.into(), address.to_be_bytes())
}

/// The maps, and what is in them.
pub(crate) struct NextHops<M> {
    pub(crate) maps: M,
    written: Numbered<Prefix, NextHop>,
}

impl<M: HopMaps> NextHops<M> {
    /// Of maps that are empty.
    pub(crate) fn new(maps: M) -> Self {
        Self {
            maps,
            written: Numbered::new(limit::HOP_NUMBERS),
        }
    }

    /// Makes the next hops these, and goes on past what the kernel refuses: what a prefix that it does not take belongs to leads
    /// nowhere. Whether flows are to be told of a change, and the first error.
    ///
    /// Long prefixes come first, then short ones, then those that are not wanted go, the short ones first: so a packet goes by
    /// what it went by before, or by what it goes by at the end. There is room for the old and the new beside each other, and
    /// as many numbers: none that is given up here is taken here.
    pub(crate) fn set(&mut self, fitted: &Fitted) -> (bool, Result<(), DataplaneError>) {
        let mut table = fitted.table.clone();
        let (mut changed, mut result) = (false, Ok(()));
        let mut wanted: Vec<Prefix> = table.keys().copied().collect();
        wanted.sort_by_key(|(_, length)| std::cmp::Reverse(*length));
        for prefix in wanted {
            let hop = table.get(&prefix).copied().unwrap_or(NextHop::NOWHERE);
            if self.written.get(&prefix) == Some(&hop) {
                continue;
            }
            let Err(error) = self.write(prefix, hop) else {
                changed = true;
                continue;
            };
            if self.rewrite(prefix, hop) {
                changed = true;
                continue;
            }
            result = result.and(Err(error));
            let outer = around(prefix.0, prefix.1, |outer| table.contains_key(outer));
            if let Some(outer) = outer.filter(|_| self.written.get(&prefix).is_none()) {
                table.insert(outer, NextHop::NOWHERE);
                changed |= self.rewrite(outer, NextHop::NOWHERE);
            }
        }
        let old = self.written.keys().filter(|prefix| !table.contains_key(*prefix));
        let mut old: Vec<Prefix> = old.copied().collect();
        old.sort_by_key(|(_, length)| *length);
        for prefix in old {
            match self.maps.remove_route(prefix) {
                Ok(()) => {
                    self.written.forget(&prefix);
                    changed = true;
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        (changed, result)
    }

    fn write(&mut self, prefix: Prefix, hop: NextHop) -> Result<(), DataplaneError> {
        let number = self.written.take().ok_or(DataplaneError::TooMany {
            what: "next hops",
            have: limit::HOP_NUMBERS as usize + 1,
            max: limit::HOP_NUMBERS as usize,
        })?;
        let set = self.maps.set_hop(number, &hop);
        if let Err(error) = set.and_then(|()| self.maps.set_route(prefix, number)) {
            self.written.give_up(number);
            return Err(error);
        }
        self.written.assign(prefix, number, hop);
        Ok(())
    }

    /// Has the number of a prefix that is there lead elsewhere, which takes no memory of the kernel's. A packet at that moment
    /// may see half of it. Whether it does.
    fn rewrite(&mut self, prefix: Prefix, to: NextHop) -> bool {
        let Some((number, hop)) = self.written.get_mut(&prefix) else {
            return false;
        };
        let done = self.maps.set_hop(number, &to).is_ok();
        if done {
            *hop = to;
        }
        done
    }

    /// Where packets to an address go now.
    pub(crate) fn to(&self, address: Ipv4Addr) -> Option<NextHop> {
        let address = address.to_bits();
        let found = around(address, 33, |prefix| self.written.get(prefix).is_some())?;
        self.written.get(&found).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Addresses that the tables of these tests are about.
    const ADDRESSES: u32 = 16;

    /// Maps in memory.
    #[derive(Default)]
    struct Memory {
        routes: BTreeMap<Prefix, u32>,
        hops: BTreeMap<u32, NextHop>,
        /// There is no memory for them.
        refused: BTreeSet<Prefix>,
        /// Where each address led, after each write.
        seen: Vec<Vec<Option<NextHop>>>,
    }

    impl Memory {
        fn to(&self, address: u32) -> Option<NextHop> {
            let prefix = around(address, 33, |prefix| self.routes.contains_key(prefix))?;
            self.hops.get(self.routes.get(&prefix)?).copied()
        }

        fn look(&mut self) {
            self.seen
                .push((0..ADDRESSES).map(|address| self.to(address)).collect());
        }
    }

    impl HopMaps for Memory {
        fn set_hop(&mut self, number: u32, hop: &NextHop) -> Result<(), DataplaneError> {
            self.hops.insert(number, *hop);
            self.look();
            Ok(())
        }

        fn set_route(&mut self, prefix: Prefix, number: u32) -> Result<(), DataplaneError> {
            if self.refused.contains(&prefix) {
                return Err(DataplaneError::Missing("memory".to_owned()));
            }
            self.routes.insert(prefix, number);
            self.look();
            Ok(())
        }

        fn remove_route(&mut self, prefix: Prefix) -> Result<(), DataplaneError> {
            self.routes.remove(&prefix);
            self.look();
            Ok(())
        }
    }

    fn hop(ifindex: u32) -> NextHop {
        NextHop {
            ifindex,
            resolved: 1,
            ..NextHop::NOWHERE
        }
    }

    /// Tables of few prefixes around [`ADDRESSES`], one after the other.
    fn tables() -> impl Iterator<Item = Table> {
        let mut state = 1_u64;
        let mut draw = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let table = move |_| {
            let entries = (0..draw(12)).map(|_| {
                let (address, length) = (draw(16) as u32, [0, 28, 29, 30, 31, 32][draw(6) as usize]);
                let to = match draw(4) {
                    0 => NextHop::NOWHERE,
                    other => hop(other as u32),
                };
                (prefix(address, length), to)
            });
            entries.collect()
        };
        (0..2000).map(table)
    }

    fn list(table: &Table) -> Vec<([u8; 4], u8, NextHop)> {
        let entries = table.iter();
        let list = entries.map(|((address, length), hop)| (address.to_be_bytes(), *length, *hop));
        list.collect()
    }

    fn to(table: &Table, address: u32) -> Option<NextHop> {
        let found = around(address, 33, |prefix| table.contains_key(prefix))?;
        table.get(&found).copied()
    }

    fn answers(table: &Table) -> Vec<Option<NextHop>> {
        (0..ADDRESSES).map(|address| to(table, address)).collect()
    }

    #[test]
    fn what_finds_no_room_goes_nowhere_rather_than_elsewhere() {
        for table in tables() {
            let all = Fitted::within(&list(&table), &[], 12);
            assert!(all.refused.is_none());
            assert_eq!(answers(&all.table), answers(&table));
            for max in 1..6 {
                let fitted = Fitted::within(&list(&table), &[], max);
                assert!(fitted.table.len() <= max, "{:?}", fitted.table);
                assert_eq!(fitted.refused.is_some(), all.table.len() > max);
                for (now, right) in answers(&fitted.table).into_iter().zip(answers(&table)) {
                    assert!(now == right || now == Some(NextHop::NOWHERE), "{table:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_fixed_and_hosts_on_the_link_stay() {
        let link = |last| ([10, 0, 0, last], 32, hop(last.into()));
        let network = |third| ([10, 1, third, 0], 24, hop(third.into()));
        let mut hops = vec![([0; 4], 0, hop(77))];
        hops.extend((1..4).map(link));
        hops.extend((0..20).map(network));
        let fixed = (Ipv4Addr::new(10, 0, 0, 3), hop(99));
        let fitted = Fitted::within(&hops, &[fixed], 10);
        assert_eq!(fitted.table.len(), 10);
        assert_eq!(to(&fitted.table, fixed.0.to_bits()), Some(fixed.1));
        assert_eq!(to(&fitted.table, 0), Some(hop(77)));
        for last in 1..3 {
            let address = u32::from_be_bytes([10, 0, 0, last]);
            assert_eq!(to(&fitted.table, address), Some(hop(last.into())));
        }
        // Many hosts give way as others do.
        let hosts: Vec<_> = (0..=255).map(link).collect();
        let fitted = Fitted::within(&hosts, &[fixed], 10);
        assert!(fitted.table.len() <= 10);
        assert_eq!(to(&fitted.table, fixed.0.to_bits()), Some(fixed.1));
    }

    #[test]
    fn prefixes_that_lead_where_the_shorter_one_does_take_no_room() {
        let feed = (0..=255).map(|second| ([10, second, 0, 0], 16, hop(1)));
        let mut hops: Vec<_> = feed.collect();
        hops.extend([([0; 4], 0, hop(1)), ([10, 7, 0, 0], 24, NextHop::NOWHERE)]);
        let fitted = Fitted::within(&hops, &[], 2);
        assert!(fitted.refused.is_none());
        let kept: Vec<Prefix> = fitted.table.into_keys().collect();
        assert_eq!(kept, [prefix(0, 0), prefix(0x0a07_0000, 24)]);
    }

    #[test]
    fn while_the_table_changes_each_packet_goes_by_the_old_one_or_by_the_new_one() {
        let mut hops = NextHops::new(Memory::default());
        let mut old = Table::new();
        for new in tables() {
            let (_, set) = hops.set(&Fitted::new(&list(&new), &[]));
            set.expect("room");
            let (before, after) = (answers(&old), answers(&new));
            for seen in hops.maps.seen.drain(..) {
                for (address, now) in seen.iter().enumerate() {
                    assert!(
                        *now == before[address] || *now == after[address],
                        "{address}: {old:?} to {new:?}"
                    );
                }
            }
            hops.maps.look();
            assert_eq!(hops.maps.seen.pop(), Some(after));
            old = new;
        }
    }

    #[test]
    fn what_the_kernel_refuses_goes_nowhere_and_keeps_no_other_from_changing() {
        let mut hops = NextHops::new(Memory::default());
        for (at, new) in (0_u32..).zip(tables()) {
            let refused = new
                .keys()
                .filter(|(address, length)| (address + u32::from(*length) + at) % 3 == 0);
            hops.maps.refused = refused.copied().collect();
            let (_, set) = hops.set(&Fitted::new(&list(&new), &[]));
            for (address, right) in (0..ADDRESSES).zip(answers(&new)) {
                let now = hops.maps.to(address);
                assert!(
                    now == right || now.is_none() || now == Some(NextHop::NOWHERE),
                    "{address}: {now:?} of {new:?}"
                );
                assert_eq!(now, hops.to(Ipv4Addr::from_bits(address)));
                assert!(set.is_err() || now == right);
            }
            // Each time anew, it goes nowhere all the while.
            let seen = hops.maps.seen.len();
            let _ = hops.set(&Fitted::new(&list(&new), &[]));
            for again in hops.maps.seen.split_off(seen) {
                for (now, right) in again.into_iter().zip(answers(&new)) {
                    assert!(now == right || now.is_none() || now == Some(NextHop::NOWHERE));
                }
            }
            hops.maps.refused.clear();
            let (_, set) = hops.set(&Fitted::new(&list(&new), &[]));
            set.expect("memory is there again");
            hops.maps.look();
            assert_eq!(hops.maps.seen.pop(), Some(answers(&new)));
        }
    }
}
