//! Destinations on the core side that packets asked for and no rule names.
//!
//! A site may ask for any address that its rules let it reach, whether or not somebody has it. So few are looked for at a
//! time, of one site fewer, and one that is silent is left alone for a while.
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Neighbours that Linux holds unless told otherwise (`gc_thresh3`).
const NEIGHBOURS_DEFAULT: usize = 1024;
/// Destinations that have answered and are kept resolved: half of the neighbours, or fewer.
const RESOLVED_MAX: usize = 4096;
/// Destinations that are looked for at a time: a quarter of the neighbours, or fewer. The rest is for IKE and the routers.
const WAITING_MAX: usize = 256;
/// Of them, one in so many may be of one site.
const SITE_SHARE: usize = 4;
/// How long one is looked for: the kernel asks three times, a second apart.
const WAITING_S: u64 = 4;
/// How long one that did not answer is not looked for again, unless it is heard of.
const SILENT_S: u64 = 10;

/// All of them.
#[derive(Debug)]
pub(super) struct Asked {
    resolved_max: usize,
    waiting_max: usize,
    /// Those that have answered and are kept resolved.
    resolved: BTreeMap<Ipv4Addr, Since>,
    /// Those that have not yet.
    waiting: BTreeMap<Ipv4Addr, Since>,
    /// Until when they are left alone.
    silent: BTreeMap<Ipv4Addr, u64>,
}

/// Which site asked, and since when it is in its place.
#[derive(Clone, Copy, Debug)]
struct Since {
    site: u32,
    since_s: u64,
    /// It was resolved, and is looked for anew: of no site's share.
    returns: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self::beside(None)
    }
}

impl Asked {
    /// Nothing yet. `neighbours`: how many the kernel holds, if it says so.
    pub(super) fn beside(neighbours: Option<usize>) -> Self {
        // However few those are, somebody is looked for.
        let neighbours = neighbours.unwrap_or(NEIGHBOURS_DEFAULT).max(4 * SITE_SHARE);
        Self {
            resolved_max: RESOLVED_MAX.min(neighbours / 2),
            waiting_max: WAITING_MAX.min(neighbours / 4),
            resolved: BTreeMap::new(),
            waiting: BTreeMap::new(),
            silent: BTreeMap::new(),
        }
    }

    /// A packet of a site asks for a destination. Whether it is to be looked for.
    pub(super) fn ask(&mut self, destination: Ipv4Addr, site: u32, now_s: u64) -> bool {
        let is_silent = self
            .silent
            .get(&destination)
            .is_some_and(|until_s| now_s < *until_s);
        let of_site = self
            .waiting
            .values()
            .filter(|waiting| waiting.site == site && !waiting.returns)
            .count();
        if is_silent
            || self.resolved.contains_key(&destination)
            || self.waiting.contains_key(&destination)
            || of_site >= self.waiting_max / SITE_SHARE
            || (self.waiting.len() >= self.waiting_max && !give_up_newest(&mut self.waiting, of_site))
        {
            return false;
        }
        let one = Since {
            site,
            since_s: now_s,
            returns: false,
        };
        self.waiting.insert(destination, one);
        true
    }

    /// Keeps the oldest that the greediest site has had resolved no longer, or else the site's own oldest: the kernel knows it
    /// for a while still.
    fn make_room(&mut self, site: u32) -> bool {
        let of_site = self.resolved.values().filter(|one| one.site == site).count();
        let greediest = greediest(&self.resolved, of_site).unwrap_or(site);
        let of_greediest = self.resolved.iter().filter(|(_, one)| one.site == greediest);
        let oldest = of_greediest.min_by_key(|(_, one)| one.since_s);
        let oldest = oldest.map(|(destination, _)| *destination);
        oldest.is_some_and(|destination| self.resolved.remove(&destination).is_some())
    }

    /// An interface or its addresses changed: who was silent may answer.
    pub(super) fn ask_again(&mut self) {
        self.silent.clear();
    }

    /// Those to be resolved and kept so.
    pub(super) fn destinations(&self) -> BTreeSet<Ipv4Addr> {
        self.resolved.keys().chain(self.waiting.keys()).copied().collect()
    }

    /// What became of `looked_for`: which of them are resolved, and which are on the link at all. Those behind a router need
    /// no next hop of their own.
    pub(super) fn found(
        &mut self,
        looked_for: &BTreeSet<Ipv4Addr>,
        resolved: &BTreeSet<Ipv4Addr>,
        on_link: &BTreeSet<Ipv4Addr>,
        now_s: u64,
    ) {
        self.silent.retain(|_, until_s| now_s < *until_s);
        for destination in looked_for {
            if resolved.contains(destination) {
                if let Some(one) = self.waiting.remove(destination)
                    && (self.resolved.len() < self.resolved_max || self.make_room(one.site))
                {
                    self.resolved.insert(
                        *destination,
                        Since {
                            returns: false,
                            ..one
                        },
                    );
                }
                continue;
            }
            if let Some(one) = self.resolved.remove(destination) {
                // It is looked for anew. Its route may be away for a moment, with its interface.
                let waiting = Since {
                    since_s: now_s,
                    returns: true,
                    ..one
                };
                self.waiting.insert(*destination, waiting);
                continue;
            }
            let is_due = |waiting: &Since| now_s.saturating_sub(waiting.since_s) < WAITING_S;
            let is_awaited =
                on_link.contains(destination) && self.waiting.get(destination).is_some_and(is_due);
            if !is_awaited && self.waiting.remove(destination).is_some() {
                self.silent.insert(*destination, now_s + SILENT_S);
            }
        }
    }
}

/// The site that has most, if that is more than one that has `of_site` would have with one more: few sites that scan do not
/// keep all others from being heard.
fn greediest(of: &BTreeMap<Ipv4Addr, Since>, of_site: usize) -> Option<u32> {
    let mut counts = BTreeMap::<u32, usize>::new();
    for one in of.values().filter(|one| !one.returns) {
        *counts.entry(one.site).or_default() += 1;
    }
    let (greediest, most) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (most > of_site + 1).then_some(greediest)
}

/// Gives up the newest of the greediest site; whether it did.
fn give_up_newest(of: &mut BTreeMap<Ipv4Addr, Since>, of_site: usize) -> bool {
    let Some(greediest) = greediest(of, of_site) else {
        return false;
    };
    let of_greediest = of.iter().filter(|(_, one)| one.site == greediest && !one.returns);
    let newest = of_greediest.max_by_key(|(_, one)| one.since_s);
    let newest = newest.map(|(destination, _)| *destination);
    newest.is_some_and(|destination| of.remove(&destination).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many of one site are looked for at a time as the documentation says.
    const SITE_WAITING: usize = 64;

    fn host(number: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0a64_0000 + number)
    }

    /// A pass that finds `resolved` only.
    fn pass(asked: &mut Asked, resolved: &[Ipv4Addr], now_s: u64) {
        let looked_for = asked.destinations();
        asked.found(
            &looked_for,
            &resolved.iter().copied().collect(),
            &looked_for,
            now_s,
        );
    }

    #[test]
    fn a_site_that_scans_silent_addresses_leaves_room_for_others() {
        let mut asked = Asked::default();
        let taken = (0..1_000).filter(|number| asked.ask(host(*number), 1, 0)).count();
        assert_eq!(taken, SITE_WAITING);
        assert!(asked.ask(host(5_000), 2, 0), "another site");
        pass(&mut asked, &[host(5_000)], 0);
        assert_eq!(asked.destinations().len(), SITE_WAITING + 1);
        // The kernel has given up: they are left alone, and the site's share is free for others.
        pass(&mut asked, &[host(5_000)], WAITING_S);
        assert_eq!(asked.destinations(), BTreeSet::from([host(5_000)]));
        assert!(!asked.ask(host(0), 2, WAITING_S), "whoever asks");
        assert!(asked.ask(host(500), 1, WAITING_S));
        assert!(asked.ask(host(0), 2, WAITING_S + SILENT_S), "again after a while");
    }

    #[test]
    fn a_few_sites_that_scan_leave_room_for_others() {
        let mut asked = Asked::default();
        for number in 0..WAITING_MAX as u32 {
            assert!(
                asked.ask(host(number), 1 + number / SITE_WAITING as u32, 0),
                "{number}"
            );
        }
        for site in 10..20 {
            assert!(asked.ask(host(1_000 + site), site, 1), "site {site}");
            assert_eq!(asked.destinations().len(), WAITING_MAX);
        }
        assert!(!asked.ask(host(2_000), 1, 1), "a site that has had its share");
        let others = (10..20).filter(|site| asked.destinations().contains(&host(1_000 + site)));
        assert_eq!(others.count(), 10, "nobody's only one is given up");
    }

    #[test]
    fn all_sites_together_leave_the_kernel_room() {
        let mut asked = Asked::default();
        let ask = |number: u32| asked.ask(host(number), number, 0);
        assert_eq!((0..1_000).map(ask).filter(|taken| *taken).count(), WAITING_MAX);
    }

    /// Regression: who answered once had its place for good, and the first site to ask for many had all places.
    #[test]
    fn a_site_that_scans_addresses_that_answer_leaves_room_for_others() {
        let mut asked = Asked::beside(Some(1_024));
        for number in 0..1_000 {
            asked.ask(host(number), 1, u64::from(number));
            let all: Vec<_> = asked.destinations().into_iter().collect();
            pass(&mut asked, &all, u64::from(number));
        }
        assert_eq!(asked.destinations().len(), 512, "half of what the kernel holds");
        for site in 2..202 {
            assert!(asked.ask(host(5_000 + site), site, 3_000), "site {site}");
            let all: Vec<_> = asked.destinations().into_iter().collect();
            pass(&mut asked, &all, 3_000);
        }
        let kept = asked.destinations();
        assert_eq!(kept.len(), 512);
        assert!((2..202).all(|site| kept.contains(&host(5_000 + site))));
        assert!(
            !kept.contains(&host(687)) && kept.contains(&host(688)),
            "the oldest went"
        );
        assert!(asked.ask(host(6_000), 1, 3_000));
        let all: Vec<_> = asked.destinations().into_iter().collect();
        pass(&mut asked, &all, 3_000);
        let gone: BTreeSet<_> = kept.difference(&asked.destinations()).copied().collect();
        assert!(
            gone.len() == 1 && gone.first() < Some(&host(2_000)),
            "{gone:?}, one of its own"
        );
    }

    #[test]
    fn a_kernel_that_holds_next_to_nothing_is_asked_all_the_same() {
        let mut asked = Asked::beside(Some(0));
        assert!(asked.ask(host(1), 1, 0) && !asked.ask(host(2), 1, 0));
        pass(&mut asked, &[host(1)], 0);
        assert!(asked.ask(host(2), 1, 0));
        assert_eq!(asked.destinations(), BTreeSet::from([host(1), host(2)]));
    }

    #[test]
    fn sites_that_scan_silent_addresses_take_no_place_of_those_that_answer() {
        for neighbours in [256, 1_024] {
            let mut asked = Asked::beside(Some(neighbours));
            let live: Vec<_> = (0..neighbours as u32 / 2)
                .map(|number| host(10_000 + number))
                .collect();
            for (number, destination) in live.iter().enumerate() {
                assert!(asked.ask(*destination, 100 + number as u32, 0));
                pass(&mut asked, &live, 0);
            }
            for number in 0..5_000 {
                asked.ask(host(number), number % 4, 1);
            }
            assert_eq!(asked.destinations().len(), neighbours * 3 / 4);
            assert!(live.iter().all(|one| asked.destinations().contains(one)));
            assert!(asked.ask(host(9_000), 50, 1), "others are heard");
        }
    }

    /// Regression: what was resolved again after a moment without neighbours was nobody's, and so the first to be given up.
    #[test]
    fn what_comes_back_is_of_the_same_site() {
        let mut asked = Asked::beside(Some(32));
        let live: Vec<_> = (0..16).map(host).collect();
        for (number, destination) in live.iter().enumerate() {
            assert!(asked.ask(*destination, number as u32, 0));
            pass(&mut asked, &live, 0);
        }
        pass(&mut asked, &[], 1);
        pass(&mut asked, &live, 2);
        for number in 0..10 {
            assert!(asked.ask(host(100 + number), 99, 3));
            let all: Vec<_> = asked.destinations().into_iter().collect();
            pass(&mut asked, &all, 3);
        }
        let kept = asked.destinations();
        let lost: Vec<_> = live.iter().filter(|one| !kept.contains(one)).collect();
        assert!(lost.is_empty(), "each site's only one is given up: {lost:?}");
    }

    /// Regression: a destination that was there until its interface went for a moment was left alone for ten seconds.
    #[test]
    fn one_whose_interface_was_away_for_a_moment_is_looked_for_again() {
        let mut asked = Asked::default();
        assert!(asked.ask(host(1), 1, 0));
        pass(&mut asked, &[host(1)], 0);
        let away = |asked: &mut Asked, now_s| {
            let looked_for = asked.destinations();
            asked.found(&looked_for, &BTreeSet::new(), &BTreeSet::new(), now_s);
        };
        away(&mut asked, 100);
        assert_eq!(asked.destinations(), BTreeSet::from([host(1)]));
        // It stays away, and comes back.
        away(&mut asked, 101);
        assert!(!asked.ask(host(1), 1, 102));
        asked.ask_again();
        assert!(asked.ask(host(1), 1, 102));
    }

    #[test]
    fn one_that_has_answered_is_kept_until_it_is_silent() {
        let mut asked = Asked::default();
        assert!(asked.ask(host(1), 1, 0) && !asked.ask(host(1), 1, 0));
        pass(&mut asked, &[host(1)], 0);
        for now_s in [100, 100 + WAITING_S - 1] {
            pass(&mut asked, &[], now_s);
            assert_eq!(
                asked.destinations(),
                BTreeSet::from([host(1)]),
                "it is looked for again"
            );
        }
        pass(&mut asked, &[], 100 + WAITING_S);
        assert!(asked.destinations().is_empty());
    }

    #[test]
    fn one_behind_a_router_is_not_waited_for() {
        let mut asked = Asked::default();
        assert!(asked.ask(host(1), 1, 0));
        let looked_for = asked.destinations();
        // Another came meanwhile, which that pass knows nothing of.
        assert!(asked.ask(host(2), 1, 0));
        asked.found(&looked_for, &BTreeSet::new(), &BTreeSet::new(), 0);
        assert_eq!(asked.destinations(), BTreeSet::from([host(2)]));
    }
}
