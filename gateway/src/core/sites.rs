//! Who may connect, as which site.
mod blocks;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use gateway_common::abi::site::flag;
use gateway_ike::AuthKind;
use gateway_ike::pki::identity::Identity;
use gateway_ike::proposal::Pfs;

use super::policy::Directory;
use super::pools::{AssignError, Assignment, Assignments, Change, Proposal, Surroundings, Wanted};
use crate::config::{Config, Filtering, NatSource, PortBlock, Prefix, Publication};

/// A site with its number and translated address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteEntry {
    /// Number, from 1.
    pub site: u32,
    /// Name of the `[[site]]`, or the identity of a site that an `[[any_site]]` admitted.
    pub name: String,
    /// Bitmap over [`Config::groups`].
    pub groups: u64,
    /// The address that the site is translated to, or the first of them.
    pub nat_address: Ipv4Addr,
    /// The same as a block, or its port blocks: those of one address together, the first one for good.
    pub blocks: Vec<PortBlock>,
    /// Bits of [`gateway_common::abi::site::flag`] that the configuration gives it: filtering, addresses of its own.
    pub nat_flags: u32,
    /// Networks that it may have behind its router.
    pub networks: Vec<Prefix>,
    /// Perfect forward secrecy, where it is not as for other sites.
    pub pfs: Option<Pfs>,
    /// The `[[any_site]]` that admits it, by its place in the file; `None` for a `[[site]]`.
    pub any_site: Option<usize>,
}

/// Why a peer with a valid certificate may not connect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody configured it.
    #[error("no [[site]] has the identity {0} and no [[any_site]] pattern admits it")]
    Unknown(String),
    /// The pattern's `max` is reached.
    #[error("[[any_site]] {pattern} admits {max} sites, and so many are known; raise max")]
    TooMany {
        /// The pattern.
        pattern: String,
        /// Its limit.
        max: u32,
    },
    /// The identity reads like another site's name.
    #[error("{0} is the name of a [[site]] with another identity; rename that site")]
    NameTaken(String),
    /// Its number and address could not be stored.
    #[error("its address cannot be stored: {0}")]
    NotKept(String),
    /// No number or address is left.
    #[error(transparent)]
    Assign(#[from] AssignError),
}

/// All sites known: the configured ones, and those that came in by a pattern.
#[derive(Clone, Debug)]
pub struct Sites {
    config: Arc<Config>,
    fixed: Arc<HashSet<Ipv4Addr>>,
    /// Places of the `[[site]]` tables by name and by identity.
    named: Arc<HashMap<String, usize>>,
    identified: Arc<HashMap<Identity, usize>>,
    assignments: Assignments,
    known: BTreeMap<u32, SiteEntry>,
    by_name: HashMap<String, u32>,
    /// Sites that each `[[any_site]]` has admitted.
    admitted: HashMap<usize, usize>,
}

impl Sites {
    /// Gives every configured site its number and address, keeping what `assignments` says as far as the
    /// configuration allows; sites that came in by a pattern before are known again.
    ///
    /// # Errors
    /// If the pools do not suffice for the configured sites.
    pub fn new(config: &Config, assignments: Assignments) -> Result<Self, AssignError> {
        let fixed = config.sites.iter().filter_map(|site| match site.nat {
            NatSource::Fixed(address) => Some(address),
            NatSource::Pool(_) => None,
        });
        let places = || config.sites.iter().enumerate();
        let mut sites = Self {
            fixed: Arc::new(fixed.collect()),
            named: Arc::new(places().map(|(place, site)| (site.name.clone(), place)).collect()),
            identified: Arc::new(
                places()
                    .map(|(place, site)| (site.identity.clone(), place))
                    .collect(),
            ),
            config: Arc::new(config.clone()),
            assignments,
            known: BTreeMap::new(),
            by_name: HashMap::new(),
            admitted: HashMap::new(),
        };
        sites.prune();
        sites.admit_configured()?;
        sites.admit_earlier();
        Ok(sites)
    }

    fn admit_configured(&mut self) -> Result<(), AssignError> {
        let config = Arc::clone(&self.config);
        // Fixed addresses first: whoever else held one moves.
        let (fixed, pooled): (Vec<_>, Vec<_>) = config
            .sites
            .iter()
            .partition(|site| matches!(site.nat, NatSource::Fixed(_)));
        for site in fixed.into_iter().chain(pooled) {
            let assignment = self.assign(&site.name, &site.nat)?;
            let entry = SiteEntry {
                site: assignment.site,
                name: site.name.clone(),
                groups: site.groups,
                nat_address: first_address(&assignment),
                blocks: assignment.blocks,
                nat_flags: self.nat_flags(&site.name, site.filtering),
                networks: site.networks.clone(),
                pfs: site.pfs,
                any_site: None,
            };
            self.insert(entry);
        }
        Ok(())
    }

    fn admit_earlier(&mut self) {
        let names: Vec<_> = self.assignments.iter().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            if self.configured(&name).is_some() {
                continue;
            }
            let Ok(identity) = name.parse::<Identity>() else {
                continue;
            };
            // A refusal (a lowered max, a smaller pool) is met again, and told, when the site connects.
            if let Err(refusal) = self.admit(&identity) {
                tracing::warn!(site = name, %refusal, "a site known from earlier is not admitted now");
            }
        }
    }

    /// The site of a peer that proved its identity; its first visit makes it known.
    ///
    /// # Errors
    /// Why it may not connect; nothing has changed then.
    pub fn admit(&mut self, identity: &Identity) -> Result<SiteEntry, Refusal> {
        self.admit_and_keep(identity, |_, _| Ok(()))
    }

    /// [`Self::admit`], which calls `keep` before it makes a site known: an address that could not be stored would not
    /// be stable, and is not given out.
    ///
    /// # Errors
    /// Why it may not connect; nothing has changed then.
    pub fn admit_and_keep(
        &mut self,
        identity: &Identity,
        keep: impl FnOnce(&Proposal, &[Change]) -> Result<(), String>,
    ) -> Result<SiteEntry, Refusal> {
        if let Some(known) = self.by_identity(identity) {
            return Ok(known.clone());
        }
        let name = dynamic_name(identity);
        if self.configured(&name).is_some() {
            return Err(Refusal::NameTaken(name));
        }
        let found = self
            .config
            .any_sites
            .iter()
            .position(|any| any.pattern.admits(identity));
        let index = found.ok_or_else(|| Refusal::Unknown(name.clone()))?;
        self.admit_by_pattern(name, index, keep)
    }

    fn admit_by_pattern(
        &mut self,
        name: String,
        index: usize,
        keep: impl FnOnce(&Proposal, &[Change]) -> Result<(), String>,
    ) -> Result<SiteEntry, Refusal> {
        let Some(any) = self.config.any_sites.get(index).cloned() else {
            return Err(Refusal::Unknown(name));
        };
        let so_far = self.admitted.get(&index).copied().unwrap_or_default();
        if so_far >= any.max as usize {
            return Err(Refusal::TooMany {
                pattern: any.pattern.to_string(),
                max: any.max,
            });
        }
        let proposal = self.propose(&name, &NatSource::Pool(any.nat_pool))?;
        if self.assignments.get(&name) != Some(&proposal.assignment) {
            keep(&proposal, &self.assignments.changes(&proposal)).map_err(Refusal::NotKept)?;
        }
        let assignment = proposal.assignment.clone();
        self.assignments.accept(proposal);
        let nat_flags = self.nat_flags(&name, any.filtering);
        let entry = SiteEntry {
            site: assignment.site,
            name,
            groups: any.groups,
            nat_address: first_address(&assignment),
            blocks: assignment.blocks,
            nat_flags,
            networks: any.networks,
            pfs: any.pfs,
            any_site: Some(index),
        };
        self.insert(entry.clone());
        *self.admitted.entry(index).or_default() += 1;
        Ok(entry)
    }

    /// Filtering of a site's mappings, and whether a host of it has an outside address of its own.
    fn nat_flags(&self, name: &str, filtering: Option<Filtering>) -> u32 {
        let is_one_to_one =
            |publication: &Publication| publication.port.is_none() && publication.site == name;
        let one_to_one = match self.config.publications.iter().any(is_one_to_one) {
            true => flag::ONE_TO_ONE,
            false => 0,
        };
        filtering.unwrap_or(self.config.nat.filtering).flags() | one_to_one
    }

    fn insert(&mut self, entry: SiteEntry) {
        self.by_name.insert(entry.name.clone(), entry.site);
        self.known.insert(entry.site, entry);
    }

    fn assign(&mut self, name: &str, nat: &NatSource) -> Result<Assignment, AssignError> {
        let proposal = self.propose(name, nat)?;
        let assignment = proposal.assignment.clone();
        self.assignments.accept(proposal);
        Ok(assignment)
    }

    fn propose(&mut self, name: &str, nat: &NatSource) -> Result<Proposal, AssignError> {
        let config = Arc::clone(&self.config);
        let wanted = match nat {
            NatSource::Fixed(address) => Wanted::Fixed(*address),
            NatSource::Pool(pool) => Wanted::Pool(config.pool(pool).ok_or_else(|| {
                // The configuration's check found the pool; an empty one stands in for the impossible.
                AssignError::PoolExhausted {
                    pool: pool.clone(),
                    size: 0,
                }
            })?),
        };
        self.with_surroundings(|assignments, around| assignments.propose(name, wanted, around))
    }

    /// Does something with the assignments and what stands around them.
    fn with_surroundings<R>(&mut self, act: impl FnOnce(&mut Assignments, &Surroundings<'_>) -> R) -> R {
        let (config, by_name, named) = (&self.config, &self.by_name, &self.named);
        let is_orphan = |name: &str| {
            !by_name.contains_key(name)
                && !named.contains_key(name)
                && !name
                    .parse()
                    .is_ok_and(|identity| config.any_sites.iter().any(|any| any.pattern.admits(&identity)))
        };
        let around = Surroundings {
            fixed: &self.fixed,
            is_orphan: &is_orphan,
        };
        act(&mut self.assignments, &around)
    }

    fn configured(&self, name: &str) -> Option<usize> {
        self.named.get(name).copied()
    }

    /// The known site of an identity: a configured one, or one that a pattern admitted before.
    #[must_use]
    pub fn by_identity(&self, identity: &Identity) -> Option<&SiteEntry> {
        match self.identified.get(identity) {
            Some(place) => self.by_name(&self.config.sites.get(*place)?.name),
            None => self
                .by_name(&dynamic_name(identity))
                .filter(|entry| entry.any_site.is_some()),
        }
    }

    /// How whoever claims `identity` is to prove it: only a `[[site]]` may have a shared key.
    #[must_use]
    pub fn proved_by(&self, identity: &Identity) -> AuthKind {
        let place = self.identified.get(identity);
        let site = place.and_then(|place| self.config.sites.get(*place));
        site.and_then(|site| site.shared_key.as_ref())
            .map_or(AuthKind::Certificate, |key| key.site)
    }

    /// The identity of a configured site; that of another one is its name.
    #[must_use]
    pub fn identity_of(&self, entry: &SiteEntry) -> Option<&Identity> {
        let place = self.named.get(&entry.name)?;
        Some(&self.config.sites.get(*place)?.identity)
    }

    /// Number of known sites.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What must be stored before a newly admitted peer is told anything.
    #[must_use]
    pub fn assignments(&self) -> &Assignments {
        &self.assignments
    }

    /// What is published of sites that are known: its number, the site's number, and what it is.
    pub fn publications(&self) -> impl Iterator<Item = (u32, u32, &Publication)> {
        let all = (1u32..).zip(&self.config.publications);
        all.filter_map(|(number, publication)| {
            let site = self.by_name(&publication.site)?.site;
            Some((number, site, publication))
        })
    }

    /// All known sites by number.
    pub fn iter(&self) -> impl Iterator<Item = &SiteEntry> {
        self.known.values()
    }

    /// The site of that number.
    #[must_use]
    pub fn get(&self, site: u32) -> Option<&SiteEntry> {
        self.known.get(&site)
    }

    /// The site of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&SiteEntry> {
        self.known.get(self.by_name.get(name)?)
    }

    /// Networks of center and Internet that sites may reach at all, the same for every site.
    #[must_use]
    pub fn reachable(&self) -> Vec<Prefix> {
        self.config.reachable()
    }

    /// Names of a site's groups.
    #[must_use]
    pub fn group_names_of(&self, entry: &SiteEntry) -> Vec<&str> {
        self.config.group_names(entry.groups)
    }
}

impl Directory for Sites {
    fn site(&self, name: &str) -> Option<u32> {
        self.by_name(name).map(|entry| entry.site)
    }

    fn group(&self, name: &str) -> Option<u64> {
        self.config.group_bit(name)
    }

    fn group_names(&self) -> Vec<&str> {
        self.config.groups.iter().map(String::as_str).collect()
    }

    /// The configuration does not change while the daemon runs: a site that comes later has one of these.
    fn group_bitmaps(&self) -> Vec<u64> {
        let sites = self.config.sites.iter().map(|site| site.groups);
        sites
            .chain(self.config.any_sites.iter().map(|any| any.groups))
            .collect()
    }
}

/// The first address of an assignment that is made.
fn first_address(assignment: &Assignment) -> Ipv4Addr {
    let first = assignment.blocks.first();
    first.map_or(Ipv4Addr::UNSPECIFIED, |block| block.address)
}

/// One spelling for each identity, which is no other's: a host name may look like an address.
fn dynamic_name(identity: &Identity) -> String {
    identity.clone().folded().to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{AnySite, BlockPlan, Nat, PlanKind, PoolMode, SiteConfig};

    fn config() -> Config {
        let text = include_str!("../../examples/gateway.toml").replace("max = 200", "max = 2");
        Config::parse("gateway.toml", &text, Path::new("/etc/gateway")).expect("the example is right")
    }

    fn identity(text: &str) -> Identity {
        text.parse().expect("identity")
    }

    #[test]
    fn a_restart_changes_no_address() {
        let mut sites = Sites::new(&config(), Assignments::default()).expect("pools suffice");
        let clinic = sites.admit(&identity("b.clinic.example")).expect("admitted");
        sites.admit(&identity("a.clinic.example")).expect("admitted");
        let stored = serde_json::to_string(sites.assignments()).expect("JSON");
        let mut sites =
            Sites::new(&config(), serde_json::from_str(&stored).expect("JSON")).expect("pools suffice");
        assert_eq!(
            sites.site("a.clinic.example"),
            Some(3),
            "known before it connects again"
        );
        assert_eq!(sites.admit(&identity("B.Clinic.example")), Ok(clinic));
    }

    #[test]
    fn refusals_name_their_reason() {
        let mut sites = Sites::new(&config(), Assignments::default()).expect("pools suffice");
        let stranger = sites
            .admit(&identity("x.y.clinic.example"))
            .expect_err("two labels");
        assert_eq!(stranger, Refusal::Unknown("x.y.clinic.example".into()));
        sites.admit(&identity("a.clinic.example")).expect("admitted");
        sites.admit(&identity("b.clinic.example")).expect("admitted");
        let third = sites.admit(&identity("c.clinic.example")).expect_err("max is 2");
        assert!(matches!(third, Refusal::TooMany { max: 2, .. }));
    }

    #[test]
    fn an_address_that_cannot_be_stored_is_not_given_out() {
        let mut sites = Sites::new(&config(), Assignments::default()).expect("pools suffice");
        let before = sites.assignments().clone();
        let refusal = sites
            .admit_and_keep(&identity("a.clinic.example"), |_, _| {
                Err("the disk is full".into())
            })
            .expect_err("not stored");
        assert_eq!(
            refusal.to_string(),
            "its address cannot be stored: the disk is full"
        );
        assert_eq!(
            (sites.assignments(), sites.by_name("a.clinic.example")),
            (&before, None)
        );
        let admitted = sites.admit(&identity("a.clinic.example")).expect("admitted");
        // A site that is known needs no storing.
        let again = sites.admit_and_keep(&identity("a.clinic.example"), |_, _| Err("never asked".into()));
        assert_eq!(again, Ok(admitted));
    }

    #[test]
    fn a_configured_site_has_its_fixed_address() {
        let mut sites = Sites::new(&config(), Assignments::default()).expect("pools suffice");
        let hospital = sites
            .admit(&identity("hospital-a.hospital.example"))
            .expect("configured");
        assert_eq!(hospital.nat_address, Ipv4Addr::new(10, 201, 0, 1));
        assert_eq!(sites.group_names_of(&hospital), ["hospitals"]);
    }

    #[test]
    fn a_pattern_may_not_take_a_configured_name() {
        let mut config = config();
        config.sites[0].name = "a.clinic.example".into();
        let mut sites = Sites::new(&config, Assignments::default()).expect("pools suffice");
        let refusal = sites.admit(&identity("a.clinic.example")).expect_err("taken");
        assert_eq!(refusal, Refusal::NameTaken("a.clinic.example".into()));
    }

    /// A certificate's host name may look like the address that another site has for its identity.
    #[test]
    fn a_host_name_that_looks_like_an_address_is_another_site() {
        let mut config = config();
        config.any_sites[0].pattern = "*".parse().expect("pattern");
        let mut sites = Sites::new(&config, Assignments::default()).expect("pools suffice");
        let address = Identity::Ipv4(Ipv4Addr::new(192, 0, 2, 7));
        let host = Identity::Fqdn("192.0.2.7".into());
        let site = sites.admit(&address).expect("admitted").site;
        assert_eq!(sites.by_identity(&host), None);
        let other = sites.admit(&host).expect("admitted").site;
        assert_ne!(other, site);
        let stored = serde_json::to_string(sites.assignments()).expect("JSON");
        let again = Sites::new(&config, serde_json::from_str(&stored).expect("JSON")).expect("pools suffice");
        let of = |identity| again.by_identity(identity).map(|entry| entry.site);
        assert_eq!((of(&address), of(&host)), (Some(site), Some(other)));
    }

    /// As many with port blocks, of which each gets another one: found without searching as well, and the same after a
    /// restart.
    #[test]
    fn ten_thousand_sites_have_two_blocks_each() {
        const SITES: usize = 10_000;
        let mut config = config();
        config.nat_pools[0].addresses = vec!["10.128.0.0/21".parse().expect("range")];
        config.nat_pools[0].mode = PoolMode::Block(BlockPlan::new(PlanKind::Dynamic, 2_048, 4, &config.nat));
        config.any_sites[0].max = 60_000;
        let mut sites = Sites::new(&config, Assignments::default()).expect("the pool suffices");
        let identity = |number| identity(&format!("c{number}.clinic.example"));
        let numbers: Vec<_> = (0..SITES)
            .map(|number| sites.admit(&identity(number)).expect("admitted").site)
            .collect();
        for site in &numbers {
            sites.grow(*site, |_, _| Ok(())).expect("room");
            let entry = sites.get(*site).expect("known");
            let addresses: Vec<_> = entry.blocks.iter().map(|block| block.address).collect();
            assert_eq!(addresses, [entry.nat_address; 2], "there is room at its address");
        }
        assert_eq!(sites.assignments().check(), Ok(()));
        let stored = serde_json::to_string(sites.assignments()).expect("JSON");
        let again =
            Sites::new(&config, serde_json::from_str(&stored).expect("JSON")).expect("the pool suffices");
        assert_eq!(again.iter().collect::<Vec<_>>(), sites.iter().collect::<Vec<_>>());
    }

    /// Other blocks, no blocks, and back: nobody is in anybody's way, and numbers stay.
    #[test]
    fn a_changed_plan_gives_everybody_new_blocks() {
        let mut config = config();
        config.any_sites[0].max = 1_000;
        config.nat_pools[0].addresses = vec!["10.128.0.0/24".parse().expect("range")];
        let mode = |kind, size| PoolMode::Block(BlockPlan::new(kind, size, 1, &Nat::default()));
        let mut assignments = Assignments::default();
        let identity = |number| identity(&format!("c{number}.clinic.example"));
        let mut numbers: Option<Vec<u32>> = None;
        for mode in [
            mode(PlanKind::Dynamic, 2_048),
            mode(PlanKind::Dynamic, 512),
            mode(PlanKind::Deterministic, 512),
            PoolMode::Address,
            mode(PlanKind::Deterministic, 16_384),
        ] {
            config.nat_pools[0].mode = mode;
            let mut sites = Sites::new(&config, assignments).expect("the pool suffices");
            let now = (0..250).map(|number| sites.admit(&identity(number)).expect("admitted").site);
            let now: Vec<_> = now.collect();
            assert_eq!(numbers.get_or_insert_with(|| now.clone()), &now);
            assert_eq!(sites.assignments().check(), Ok(()));
            let pool = &config.nat_pools[0];
            for entry in sites.iter().filter(|entry| entry.any_site.is_some()) {
                let fits = match mode {
                    PoolMode::Address => entry.blocks[0].is_whole(),
                    PoolMode::Block(plan) => plan.number(&entry.blocks[0]).is_some(),
                };
                assert!(fits && pool.contains(entry.nat_address), "{entry:?}");
            }
            assignments = sites.assignments().clone();
        }
    }

    /// 10,000 configured sites and as many that a pattern admits, in a debug build: what takes time with the square of
    /// their number (a search among all for each) does not end here in any patience.
    #[test]
    fn ten_thousand_sites_are_found_without_searching() {
        const SITES: usize = 10_000;
        let mut config = config();
        let (site, any) = (config.sites[0].clone(), config.any_sites[0].clone());
        config.nat_pools[0].addresses = vec!["10.128.0.0/16".parse().expect("range")];
        config.sites = (0..SITES)
            .map(|number| SiteConfig {
                name: format!("site-{number}"),
                identity: identity(&format!("site-{number}.hospital.example")),
                nat: NatSource::Pool(config.nat_pools[0].name.clone()),
                ..site.clone()
            })
            .collect();
        config.any_sites = vec![AnySite { max: 60_000, ..any }];
        let mut sites = Sites::new(&config, Assignments::default()).expect("the pool suffices");
        for number in 0..SITES {
            let known = sites
                .by_identity(&identity(&format!("SITE-{number}.hospital.example")))
                .expect("configured");
            assert_eq!(known.name, format!("site-{number}"));
            let admitted = sites
                .admit(&identity(&format!("c{number}.clinic.example")))
                .expect("admitted");
            assert_eq!(sites.by_name(&admitted.name), Some(&admitted));
        }
        let addresses: HashSet<_> = sites.iter().map(|entry| entry.nat_address).collect();
        assert_eq!((sites.len(), addresses.len()), (2 * SITES, 2 * SITES));
        // A restart gives everybody the same again.
        let stored = serde_json::to_string(sites.assignments()).expect("JSON");
        let again =
            Sites::new(&config, serde_json::from_str(&stored).expect("JSON")).expect("the pool suffices");
        assert_eq!(again.iter().collect::<Vec<_>>(), sites.iter().collect::<Vec<_>>());
    }
}
