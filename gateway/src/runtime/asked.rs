//! Destinations on the core side that packets asked for and no rule names.
//!
//! A site may ask for any address that its rules let it reach, whether or not somebody has it. So few are looked for at a
//! time, of one site fewer, and one that is silent is left alone for a while.
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Destinations that have answered and are kept resolved.
const RESOLVED_MAX: usize = 4096;
/// Destinations that are looked for at a time: a quarter of the neighbours that Linux holds unless told otherwise
/// (`gc_thresh3`), which IKE and the routers need too.
const WAITING_MAX: usize = 256;
/// Of them, those that one site asked for.
const SITE_WAITING_MAX: usize = 64;
/// How long one is looked for: the kernel asks three times, a second apart.
const WAITING_S: u64 = 4;
/// How long one that did not answer is not looked for again, unless it is heard of.
const SILENT_S: u64 = 10;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Asked {
    resolved: BTreeSet<Ipv4Addr>,
    waiting: BTreeMap<Ipv4Addr, Waiting>,
    /// Until when they are left alone.
    silent: BTreeMap<Ipv4Addr, u64>,
}

/// One that has not answered yet.
#[derive(Debug)]
struct Waiting {
    site: u32,
    since_s: u64,
}

impl Asked {
    /// A packet of a site asks for a destination. Whether it is to be looked for.
    pub(super) fn ask(&mut self, destination: Ipv4Addr, site: u32, now_s: u64) -> bool {
        let is_silent = self
            .silent
            .get(&destination)
            .is_some_and(|until_s| now_s < *until_s);
        let of_site = self
            .waiting
            .values()
            .filter(|waiting| waiting.site == site)
            .count();
        if is_silent
            || self.resolved.contains(&destination)
            || self.waiting.contains_key(&destination)
            || self.resolved.len() + self.waiting.len() >= RESOLVED_MAX
            || of_site >= SITE_WAITING_MAX
            || (self.waiting.len() >= WAITING_MAX && !self.make_room(of_site))
        {
            return false;
        }
        self.waiting.insert(destination, Waiting { site, since_s: now_s });
        true
    }

    /// Gives up the newest that the greediest site waits for, if it waits for more than one that waits for `of_site` would
    /// with one more: few sites that scan do not keep all others from being heard.
    fn make_room(&mut self, of_site: usize) -> bool {
        let mut counts = BTreeMap::<u32, usize>::new();
        for waiting in self.waiting.values() {
            *counts.entry(waiting.site).or_default() += 1;
        }
        let Some((greediest, most)) = counts.into_iter().max_by_key(|(_, count)| *count) else {
            return false;
        };
        let of_greediest = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.site == greediest);
        let newest = of_greediest.max_by_key(|(_, waiting)| waiting.since_s);
        let Some(destination) = newest.map(|(destination, _)| *destination) else {
            return false;
        };
        most > of_site + 1 && self.waiting.remove(&destination).is_some()
    }

    /// Those to be resolved and kept so.
    pub(super) fn destinations(&self) -> BTreeSet<Ipv4Addr> {
        self.resolved.iter().chain(self.waiting.keys()).copied().collect()
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
                if self.waiting.remove(destination).is_some() {
                    self.resolved.insert(*destination);
                }
                continue;
            }
            let was_resolved = self.resolved.remove(destination);
            if was_resolved {
                // It is looked for anew; of no site's share.
                let waiting = Waiting {
                    site: 0,
                    since_s: now_s,
                };
                self.waiting.insert(*destination, waiting);
            }
            let is_due = |waiting: &Waiting| now_s.saturating_sub(waiting.since_s) < WAITING_S;
            let is_awaited =
                on_link.contains(destination) && self.waiting.get(destination).is_some_and(is_due);
            if !is_awaited && self.waiting.remove(destination).is_some() {
                self.silent.insert(*destination, now_s + SILENT_S);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(taken, SITE_WAITING_MAX);
        assert!(asked.ask(host(5_000), 2, 0), "another site");
        pass(&mut asked, &[host(5_000)], 0);
        assert_eq!(asked.destinations().len(), SITE_WAITING_MAX + 1);
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
                asked.ask(host(number), 1 + number / SITE_WAITING_MAX as u32, 0),
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
