//! Installed Child SAs: what IKE calls them, what the data plane calls them, whose they are.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::ops::Bound;

use gateway_ike::{ChildId, Direction};

/// One installed Child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed<H> {
    /// The data plane's name of it.
    pub handle: H,
    /// Site that it belongs to.
    pub site: u32,
    /// Packets received when traffic was last looked at.
    pub packets_in_seen: u64,
    /// Packets sent when traffic was last looked at.
    pub packets_out_seen: u64,
    inbound: bool,
    outbound: bool,
}

/// All installed Child SAs. A rekeyed one and its successor are both here until the old one is removed.
#[derive(Clone, Debug)]
pub struct Sadb<H> {
    children: BTreeMap<ChildId, Installed<H>>,
    /// The last that [`Sadb::turn`] came to; `None` if the next is the first.
    seen_to: Option<ChildId>,
    by_handle: HashMap<H, ChildId>,
}

impl<H> Default for Sadb<H> {
    fn default() -> Self {
        Self {
            children: BTreeMap::new(),
            seen_to: None,
            by_handle: HashMap::new(),
        }
    }
}

impl<H: Copy + Eq + Hash> Sadb<H> {
    /// Notes that both directions are installed.
    pub fn insert(&mut self, child: ChildId, site: u32, handle: H) {
        let installed = Installed {
            handle,
            site,
            packets_in_seen: 0,
            packets_out_seen: 0,
            inbound: true,
            outbound: true,
        };
        self.children.insert(child, installed);
        self.by_handle.insert(handle, child);
    }

    /// The data plane's name of a Child SA.
    #[must_use]
    pub fn handle(&self, child: ChildId) -> Option<H> {
        self.children.get(&child).map(|installed| installed.handle)
    }

    /// The Child SA that the data plane calls so.
    #[must_use]
    pub fn child(&self, handle: H) -> Option<ChildId> {
        self.by_handle.get(&handle).copied()
    }

    /// Notes that one or both directions go, and says what the data plane calls the SA. It is forgotten with its last
    /// direction; `None` if it is not known (any more).
    pub fn remove(&mut self, child: ChildId, direction: Direction) -> Option<H> {
        let installed = self.children.get_mut(&child)?;
        installed.inbound &= direction == Direction::Outbound;
        installed.outbound &= direction == Direction::Inbound;
        let handle = installed.handle;
        if !installed.inbound && !installed.outbound {
            self.children.remove(&child);
            self.by_handle.remove(&handle);
        }
        Some(handle)
    }

    /// The next of those that are installed, for updates of what was seen: in `turns` turns one after another each is
    /// among them.
    pub fn turn(&mut self, turns: usize) -> impl Iterator<Item = (ChildId, &mut Installed<H>)> {
        let after = self.seen_to.map_or(Bound::Unbounded, Bound::Excluded);
        let count = self.children.len() / turns.max(1);
        let mut next = self.children.range((after, Bound::Unbounded));
        self.seen_to = next.nth(count).map(|(child, _)| *child);
        let to = self.seen_to.map_or(Bound::Unbounded, Bound::Included);
        let these = self.children.range_mut((after, to));
        these.map(|(child, installed)| (*child, installed))
    }

    /// Number of Child SAs that packets to a site can take.
    #[must_use]
    pub fn len(&self) -> usize {
        self.children
            .values()
            .filter(|installed| installed.outbound)
            .count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of sites with a Child SA that packets to them can take.
    #[must_use]
    pub fn sites_up(&self) -> usize {
        let up = self.children.values().filter(|installed| installed.outbound);
        up.map(|installed| installed.site).collect::<HashSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn() {
        for count in [0, 1, 9, 10, 11, 95, 1_000] {
            let mut sadb = Sadb::default();
            (0..count).for_each(|number| sadb.insert(ChildId(number), 7, number));
            for _ in 0..3 {
                let mut seen: Vec<_> = (0..10)
                    .flat_map(|_| sadb.turn(10).map(|(child, _)| child.0).collect::<Vec<_>>())
                    .collect();
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len() as u64, count);
            }
            assert!(sadb.turn(10).count() as u64 <= 1 + count / 10);
        }
    }

    #[test]
    fn the_one_that_was_seen_last_may_go() {
        let mut sadb = Sadb::default();
        (0..40).for_each(|number| sadb.insert(ChildId(number), 7, number));
        let last = sadb.turn(10).last().map(|(child, _)| child);
        let last = last.expect("some");
        sadb.remove(last, Direction::Inbound);
        sadb.remove(last, Direction::Outbound);
        let next = sadb.turn(10).next().map(|(child, _)| child);
        assert_eq!(next, Some(ChildId(last.0 + 1)));
    }

    #[test]
    fn an_sa_is_forgotten_with_its_last_direction() {
        let mut sadb = Sadb::default();
        sadb.insert(ChildId(1), 7, 'a');
        sadb.insert(ChildId(2), 7, 'b');
        assert_eq!((sadb.len(), sadb.sites_up()), (2, 1));
        assert_eq!(sadb.remove(ChildId(1), Direction::Outbound), Some('a'));
        assert_eq!(
            (sadb.len(), sadb.handle(ChildId(1))),
            (1, Some('a')),
            "inbound lingers"
        );
        assert_eq!(
            (sadb.child('a'), sadb.child('b')),
            (Some(ChildId(1)), Some(ChildId(2)))
        );
        assert_eq!(sadb.remove(ChildId(1), Direction::Inbound), Some('a'));
        assert_eq!(sadb.remove(ChildId(1), Direction::Inbound), None);
        assert_eq!(sadb.remove(ChildId(2), Direction::Both), Some('b'));
        assert!(sadb.is_empty() && sadb.sites_up() == 0);
        assert_eq!(sadb.child('a'), None);
    }
}
