//! Internet sites by name: sets of names that rules speak of, and the addresses that are open for them.
//!
//! An address is opened for a set when the DNS proxy is about to tell a site that one of the set's names leads there, and
//! for as long as that answer is good. The packet path has a copy ([`gateway_common::abi::names`]) and checks the time
//! itself.
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use gateway_common::abi::limit::{NAME_SETS_MAX, OPEN_ADDRESSES_MAX};
use gateway_common::abi::names::{OpenAddress, OpenName, SETS_AN_ADDRESS};

use crate::config::NamePattern;

/// Names that an address is listed with for one set. A set with a wildcard has no end of them, and who owns the domain, or
/// merely asks, would have the controller go through all of them again and again.
const NAMES_AN_ADDRESS: usize = 32;

/// The last part of the room for addresses, for sites below their share of it: one in so many.
const RESERVE: usize = 8;

/// Names that a rule speaks of: those of one `[[address]]`, or of the rule itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameSet {
    /// Name of the `[[address]]`, or of the rule.
    pub label: String,
    /// Its names.
    pub patterns: Vec<NamePattern>,
}

impl NameSet {
    /// Whether a name is one of the set's.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(name))
    }
}

/// Bounds of what is open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Addresses in all, up to [`OPEN_ADDRESSES_MAX`].
    pub addresses_max: u32,
    /// Addresses of one name.
    pub name_addresses_max: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            addresses_max: 16_384,
            name_addresses_max: 32,
        }
    }
}

/// Why an address was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// As many addresses are open as may be.
    #[error("as many addresses are open by name as may be (addresses_max)")]
    Addresses,
    /// Few more addresses may be open, and the site has its share of them.
    #[error(
        "nearly as many addresses are open by name as may be (addresses_max), and the site has its share"
    )]
    Share,
    /// One name leads to more addresses than it may.
    #[error("the name leads to more addresses than may be open (name_addresses_max)")]
    Name,
    /// The address is open for as many sets as may be.
    #[error("the address is open for {SETS_AN_ADDRESS} other sets of names")]
    Sets,
}

/// There are more sets of names than can be numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "rules speak of more sets of names than {}; join those that always stand together",
    NAME_SETS_MAX - 1
)]
pub struct TooManySets;

/// An address that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Number of the set.
    pub set: u32,
    /// The name that was asked for.
    pub name: String,
    /// Second of the coarse clock at which it is open no longer.
    pub until_s: u32,
}

/// All that an address is open for.
#[derive(Clone, Debug, Default)]
struct Open {
    openings: Vec<Opening>,
    /// The site whose answer leaves it open longest, and until when: the address counts for that one. What many sites use
    /// counts for none of them for good.
    site: u32,
    until_s: u32,
}

/// What the packet path is to be told.
pub type Write = (Ipv4Addr, Option<OpenAddress>);

/// Numbers of the sets of a rule set that is not in force yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Numbering {
    all: Vec<u32>,
    numbers: BTreeMap<Vec<NamePattern>, u32>,
}

impl Numbering {
    /// In the order of the sets.
    #[must_use]
    pub fn all(&self) -> &[u32] {
        &self.all
    }
}

/// All addresses that are open by name.
#[derive(Clone, Debug, Default)]
pub struct Openings {
    bounds: Bounds,
    /// Numbers of the sets in force, and of those that addresses are still open for. A set is what its patterns are: it
    /// keeps its number while rule sets come and go, and what is open for it stays open.
    numbers: BTreeMap<Vec<NamePattern>, u32>,
    addresses: BTreeMap<Ipv4Addr, Open>,
    /// Addresses that each name has opened.
    by_name: BTreeMap<String, u32>,
    /// Addresses that count for each site.
    by_site: BTreeMap<u32, u32>,
}

impl Openings {
    /// Nothing is open.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds: Bounds {
                addresses_max: bounds.addresses_max.min(OPEN_ADDRESSES_MAX),
                ..bounds
            },
            ..Self::default()
        }
    }

    /// Numbers for the sets of a rule set that is to be in force. Nothing is changed until it is, and
    /// [`Openings::renumber`] says so: the rule set may be refused, and the one in force goes by the numbers that it has.
    ///
    /// # Errors
    /// [`TooManySets`].
    pub fn number(&self, sets: &[NameSet]) -> Result<Numbering, TooManySets> {
        let keys: Vec<Vec<NamePattern>> = sets.iter().map(key).collect();
        let mut numbers = self.numbers.clone();
        let is_open = |number: u32| self.iter().any(|(_, open)| open.set == number);
        numbers.retain(|patterns, number| keys.contains(patterns) || is_open(*number));
        for patterns in &keys {
            if !numbers.contains_key(patterns) {
                let taken: std::collections::BTreeSet<u32> = numbers.values().copied().collect();
                let free = (1..NAME_SETS_MAX).find(|number| !taken.contains(number));
                numbers.insert(patterns.clone(), free.ok_or(TooManySets)?);
            }
        }
        let of = |patterns: &Vec<NamePattern>| numbers.get(patterns).copied().unwrap_or_default();
        let all = keys.iter().map(of).collect();
        Ok(Numbering { all, numbers })
    }

    /// The rule set of these numbers is in force.
    pub fn renumber(&mut self, numbering: Numbering) {
        self.numbers = numbering.numbers;
    }

    /// Opens addresses for sets until `until_s`, as a site has asked for: all of them or, if one cannot be opened, none.
    /// Answers what to write.
    ///
    /// # Errors
    /// [`Full`].
    pub fn open(
        &mut self,
        site: u32,
        sets: &[u32],
        name: &str,
        addresses: &[Ipv4Addr],
        until_s: u32,
    ) -> Result<Vec<Write>, Full> {
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        addresses.dedup();
        self.room(site, &addresses)?;
        let of_name = |address: &Ipv4Addr| self.openings(*address).iter().any(|open| open.name == name);
        let more = addresses.iter().filter(|address| !of_name(address)).count() as u32;
        let before = self.by_name.get(name).copied().unwrap_or_default();
        if before + more > self.bounds.name_addresses_max {
            return Err(Full::Name);
        }
        for address in &addresses {
            let open = self.openings(*address).iter().map(|open| open.set);
            let mut all: Vec<u32> = open.chain(sets.iter().copied()).collect();
            all.sort_unstable();
            all.dedup();
            if all.len() > SETS_AN_ADDRESS {
                return Err(Full::Sets);
            }
        }
        if before + more > 0 {
            self.by_name.insert(name.to_owned(), before + more);
        }
        for address in &addresses {
            let open = self.addresses.entry(*address).or_default();
            for set in sets {
                let opening = Opening {
                    set: *set,
                    name: name.to_owned(),
                    until_s,
                };
                if let Some(displaced) = list(&mut open.openings, opening) {
                    forget(&mut self.by_name, displaced.as_str());
                }
            }
            if open.until_s < until_s {
                forget(&mut self.by_site, &open.site);
                *self.by_site.entry(site).or_default() += 1;
                (open.site, open.until_s) = (site, until_s);
            }
        }
        let write = |address: &Ipv4Addr| (*address, Some(self.at(*address)));
        Ok(addresses.iter().map(write).collect())
    }

    /// Whether there is room for those of a site's addresses that are not open yet.
    fn room(&self, site: u32, addresses: &[Ipv4Addr]) -> Result<(), Full> {
        let is_new = |address: &&Ipv4Addr| !self.addresses.contains_key(*address);
        let new = addresses.iter().filter(is_new).count();
        if new == 0 {
            return Ok(());
        }
        let (in_all, room) = (self.addresses.len() + new, self.bounds.addresses_max as usize);
        if in_all > room {
            return Err(Full::Addresses);
        }
        // The share of each site that has some, were there one more: one site alone has its share at half of the room.
        let sites = self.by_site.len() + 1;
        let of_site = self.by_site.get(&site).copied().unwrap_or_default() as usize;
        if in_all > room - room / RESERVE && of_site.saturating_mul(sites) >= room {
            return Err(Full::Share);
        }
        Ok(())
    }

    fn openings(&self, address: Ipv4Addr) -> &[Opening] {
        let open = self.addresses.get(&address);
        open.map_or(&[], |open| &open.openings)
    }

    /// Forgets what is open no longer at `now_s`. Answers what to write.
    pub fn expire(&mut self, now_s: u32) -> Vec<Write> {
        let is_over = |open: &Opening| open.until_s <= now_s;
        let has_changed = |(_, open): &(&Ipv4Addr, &Open)| open.openings.iter().any(is_over);
        let changed = self.addresses.iter().filter(has_changed);
        let changed: Vec<Ipv4Addr> = changed.map(|(address, _)| *address).collect();
        let mut writes = Vec::new();
        for address in changed {
            let Some(open) = self.addresses.get_mut(&address) else {
                continue;
            };
            let all = std::mem::take(&mut open.openings);
            let (over, left): (Vec<_>, Vec<_>) = all.into_iter().partition(is_over);
            let mut names: Vec<&str> = over.iter().map(|open| open.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                if !left.iter().any(|open| open.name == name) {
                    forget(&mut self.by_name, name);
                }
            }
            if left.is_empty() {
                forget(&mut self.by_site, &open.site);
                self.addresses.remove(&address);
                writes.push((address, None));
            } else {
                open.openings = left;
                writes.push((address, Some(self.at(address))));
            }
        }
        writes
    }

    /// What an address is open for, as the packet path is told.
    #[must_use]
    pub fn at(&self, address: Ipv4Addr) -> OpenAddress {
        let mut sets: BTreeMap<u32, u32> = BTreeMap::new();
        for open in self.openings(address) {
            let until_s = sets.entry(open.set).or_default();
            *until_s = open.until_s.max(*until_s);
        }
        let mut told = OpenAddress {
            address: address.octets(),
            ..OpenAddress::default()
        };
        for (place, (set, until_s)) in told.names.iter_mut().zip(sets) {
            *place = OpenName { set, until_s };
        }
        told
    }

    /// Everything that is open, by address.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, &Opening)> {
        self.addresses
            .iter()
            .flat_map(|(address, open)| open.openings.iter().map(move |open| (*address, open)))
    }

    /// Number of addresses that are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }
}

/// Lists what opens an address. Beside [`NAMES_AN_ADDRESS`] others it takes the place of the one that ends first, which leaves
/// the address open for as long. Answers whose place it was, if that name has opened the address for no other set.
fn list(open: &mut Vec<Opening>, opening: Opening) -> Option<String> {
    let of_set = |one: &&mut Opening| one.set == opening.set;
    if let Some(found) = open
        .iter_mut()
        .filter(of_set)
        .find(|one| one.name == opening.name)
    {
        found.until_s = found.until_s.max(opening.until_s);
        return None;
    }
    if open.iter_mut().filter(of_set).count() < NAMES_AN_ADDRESS {
        open.push(opening);
        return None;
    }
    let first = open.iter_mut().filter(of_set).min_by_key(|one| one.until_s)?;
    let displaced = std::mem::replace(first, opening).name;
    (!open.iter().any(|one| one.name == displaced)).then_some(displaced)
}

/// One address less that a name has opened, or that counts for a site.
fn forget<K: Ord + Borrow<Q>, Q: Ord + ?Sized>(counts: &mut BTreeMap<K, u32>, whose: &Q) {
    if let Some(count) = counts.get_mut(whose) {
        *count -= 1;
        if *count == 0 {
            counts.remove(whose);
        }
    }
}

/// What a set is known by.
fn key(set: &NameSet) -> Vec<NamePattern> {
    let mut patterns = set.patterns.clone();
    patterns.sort_unstable();
    patterns.dedup();
    patterns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(label: &str, names: &[&str]) -> NameSet {
        NameSet {
            label: label.to_owned(),
            patterns: names.iter().map(|name| name.parse().expect("a name")).collect(),
        }
    }

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, last)
    }

    /// Puts a rule set with these sets in force.
    fn in_force(openings: &mut Openings, sets: &[NameSet]) -> Result<Vec<u32>, TooManySets> {
        let numbering = openings.number(sets)?;
        let all = numbering.all().to_vec();
        openings.renumber(numbering);
        Ok(all)
    }

    /// A rule set that is refused after its sets were numbered must not change what numbers mean: what is opened meanwhile
    /// for a set in force is opened for that set.
    #[test]
    fn a_refused_rule_set_leaves_the_numbers_as_they_are() {
        let mut openings = Openings::default();
        let (a, c) = (set("a", &["a.example"]), set("c", &["c.example"]));
        assert_eq!(in_force(&mut openings, std::slice::from_ref(&a)), Ok(vec![1]));
        let refused = openings
            .number(std::slice::from_ref(&c))
            .expect("there are numbers");
        assert_eq!(refused.all(), [1], "nothing is open");
        // A site asks for a name of `a`, by the rules in force.
        openings
            .open(1, &[1], "a.example", &[address(1)], 100)
            .expect("room");
        assert_eq!(in_force(&mut openings, &[c, a]), Ok(vec![2, 1]));
        assert!(openings.at(address(1)).is_open_for(1, 99));
        assert!(!openings.at(address(1)).is_open_for(2, 99), "not for `c`");
    }

    #[test]
    fn a_set_keeps_its_number_while_rule_sets_come_and_go() {
        let mut openings = Openings::default();
        let (a, b) = (set("a", &["a.example", "b.example"]), set("b", &["c.example"]));
        assert_eq!(in_force(&mut openings, &[a.clone(), b.clone()]), Ok(vec![1, 2]));
        // Another label and another order: the same names.
        let again = set("other", &["b.example", "a.example"]);
        assert_eq!(in_force(&mut openings, &[b.clone(), again]), Ok(vec![2, 1]));
        // What is open for a set that no rule speaks of keeps its number taken.
        openings
            .open(1, &[2], "c.example", &[address(1)], 100)
            .expect("room");
        assert_eq!(in_force(&mut openings, &[set("d", &["d.example"])]), Ok(vec![1]));
        assert_eq!(
            in_force(&mut openings, &[set("d", &["d.example"]), a]),
            Ok(vec![1, 3])
        );
        openings.expire(100);
        assert_eq!(in_force(&mut openings, &[set("e", &["e.example"])]), Ok(vec![1]));
    }

    #[test]
    fn more_sets_than_numbers_are_refused_and_nothing_changes() {
        let mut openings = Openings::default();
        let sets: Vec<_> = (0..NAME_SETS_MAX)
            .map(|number| set("s", &[&format!("s{number}.example")]))
            .collect();
        assert_eq!(in_force(&mut openings, &sets), Err(TooManySets));
        assert!(in_force(&mut openings, &sets[1..]).is_ok());
    }

    #[test]
    fn what_does_not_fit_opens_nothing() {
        let mut openings = Openings::new(Bounds {
            addresses_max: 3,
            name_addresses_max: 2,
        });
        let three = [address(1), address(2), address(3)];
        assert_eq!(openings.open(1, &[1], "a.example", &three, 9), Err(Full::Name));
        assert!(openings.is_empty());
        openings
            .open(1, &[1], "a.example", &three[..2], 9)
            .expect("two fit");
        assert_eq!(
            openings.open(1, &[1], "b.example", &[address(3), address(4)], 9),
            Err(Full::Addresses)
        );
        assert_eq!(openings.len(), 2);
        // The same again is no more.
        openings
            .open(1, &[1], "a.example", &three[..2], 19)
            .expect("the same two");
        for number in 2..=8 {
            openings
                .open(1, &[number], "c.example", &[address(1)], 9)
                .expect("eight sets fit");
        }
        assert_eq!(
            openings.open(1, &[9], "c.example", &[address(1)], 9),
            Err(Full::Sets)
        );
        openings.expire(9);
        assert_eq!(
            openings.at(address(1)).names.map(|name| name.set),
            [1, 0, 0, 0, 0, 0, 0, 0]
        );
        openings.expire(19);
        assert!(openings.is_empty() && openings.by_name.is_empty());
    }

    /// Regression: each new name under a wildcard made an address's list longer for as long as answers are good, and every
    /// question and every second went through all of it.
    #[test]
    fn names_under_a_wildcard_do_not_pile_up_at_an_address() {
        let mut openings = Openings::default();
        // One that lasts, and then others that each last a little longer than the one before.
        openings
            .open(1, &[1, 2], "www.example", &[address(1)], 9_000)
            .expect("room");
        for number in 0..5_000 {
            let name = format!("n{number}.example");
            openings
                .open(1, &[1], &name, &[address(1)], 1_000 + number)
                .expect("room");
            assert!(openings.iter().count() <= NAMES_AN_ADDRESS + 1, "{number}");
            assert!(openings.by_name.len() <= NAMES_AN_ADDRESS, "{number}");
        }
        assert!(openings.at(address(1)).is_open_for(1, 8_999));
        assert!(openings.at(address(1)).is_open_for(2, 8_999));
        let newest = openings.iter().filter(|(_, open)| open.name == "n4999.example");
        assert_eq!(newest.count(), 1);
        openings.expire(9_000);
        assert!(openings.is_empty() && openings.by_name.is_empty());
    }

    /// Regression: what is open was counted in all and for each name, not for each site: one that asked for ever new names
    /// under a wildcard used up all addresses, and all others were told SERVFAIL.
    #[test]
    fn one_site_leaves_room_for_others() {
        let mut openings = Openings::new(Bounds {
            addresses_max: 100,
            name_addresses_max: 32,
        });
        let mut open = |site, last: u8, until_s| {
            let name = format!("n{last}.cdn.example");
            openings
                .open(site, &[1], &name, &[address(last)], until_s)
                .map(|_| openings.len())
        };
        let refused = (0..=u8::MAX).find(|last| open(1, *last, 100).is_err());
        assert_eq!(open(2, 200, 50), Ok(89), "site 1 has had {refused:?} addresses");
        assert_eq!((refused, open(1, 88, 100)), (Some(88), Err(Full::Share)));
        // What is open already takes no room.
        assert_eq!(open(1, 0, 200), Ok(89));
        // Others with less than their share go on, to the last one.
        let refused = (201..=u8::MAX).find_map(|last| open(3, last, 50).err());
        assert_eq!(refused, Some(Full::Addresses));
        openings.expire(50);
        assert_eq!(openings.by_site, BTreeMap::from([(1, 88)]));
        openings.expire(100);
        assert_eq!(openings.by_site, BTreeMap::from([(1, 1)]));
        openings.expire(200);
        assert!(openings.by_site.is_empty());
    }

    /// What all sites use does not count against the one that happened to be first for as long as others ask for it.
    #[test]
    fn an_address_counts_for_the_site_that_keeps_it_open() {
        let mut openings = Openings::default();
        let mut open = |site, until_s| {
            openings
                .open(site, &[1], "a.example", &[address(1)], until_s)
                .expect("room");
            openings.by_site.clone()
        };
        assert_eq!(open(1, 100), BTreeMap::from([(1, 1)]));
        assert_eq!(open(2, 100), BTreeMap::from([(1, 1)]));
        assert_eq!(open(2, 150), BTreeMap::from([(2, 1)]));
        assert_eq!(open(3, 120), BTreeMap::from([(2, 1)]));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open(u32, Vec<u32>, u8, Vec<u8>, u32),
        Pass(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        use proptest::collection::vec;
        prop_oneof![
            3 => (1u32..4, vec(1u32..5, 1..3), 0u8..4, vec(0u8..6, 1..4), 0u32..20)
                .prop_map(|(site, sets, name, addresses, ttl)| Step::Open(site, sets, name, addresses, ttl)),
            1 => (0u32..8).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Model: a list of (set, name, address, until), in which an address is open for a set if one line says so. What is
        /// written is what the packet path then says at every second.
        #[test]
        fn an_address_is_open_as_long_as_an_answer_said(steps in proptest::collection::vec(step(), 1..40)) {
            let bounds = Bounds { addresses_max: 5, name_addresses_max: 4 };
            let mut openings = Openings::new(bounds);
            let mut map: BTreeMap<Ipv4Addr, OpenAddress> = BTreeMap::new();
            let mut model: Vec<(u32, String, Ipv4Addr, u32)> = Vec::new();
            let mut now_s = 100;
            for step in steps {
                let writes = match step {
                    Step::Open(site, sets, name, addresses, ttl) => {
                        let name = format!("n{name}.example");
                        let addresses: Vec<_> = addresses.into_iter().map(address).collect();
                        let until_s = now_s + ttl;
                        match openings.open(site, &sets, &name, &addresses, until_s) {
                            Ok(writes) => {
                                for set in &sets {
                                    model.extend(addresses.iter().map(|to| (*set, name.clone(), *to, until_s)));
                                }
                                writes
                            }
                            Err(_) => Vec::new(),
                        }
                    }
                    Step::Pass(seconds) => {
                        now_s += seconds;
                        openings.expire(now_s)
                    }
                };
                for (to, write) in writes {
                    match write {
                        Some(open) => map.insert(to, open),
                        None => map.remove(&to),
                    };
                }
                prop_assert!(openings.len() <= 5);
                prop_assert_eq!(openings.by_site.values().sum::<u32>() as usize, openings.len());
                for last in 0..6 {
                    for set in 1..5 {
                        let to = address(last);
                        let expected = model.iter().any(|(of, _, at, until_s)| *of == set && *at == to && *until_s > now_s);
                        let told = map.get(&to).copied().unwrap_or_default();
                        prop_assert_eq!(told.is_open_for(set, now_s), expected, "set {} at {}", set, to);
                        prop_assert_eq!(openings.at(to).is_open_for(set, now_s), expected);
                    }
                }
            }
        }
    }
}
