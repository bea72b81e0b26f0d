//! Where it is noted what sites hold, before anybody uses it: the log for those who ask later, the store for the next start.
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;

use super::clock::Clock;
use super::nat_log::NatLog;
use super::prepare::{assignments_path, first_visits_path};
use crate::config::{Config, Publication};
use crate::core::nat_log::{Event, Holding, Time, holdings, published};
use crate::core::pools::{Assignments, Change, Proposal};
use crate::core::sites::Sites;
use crate::store::{self, Lines};

/// Lines of the file of changes after which all is written into one again.
const CHANGES_MAX: usize = 4_096;
/// A clock that has moved by more than so much was set.
const CLOCK_SET_MS: i128 = 2_000;

/// Old files are deleted when the clock has gone on for so long without being set, and again so often.
const CLOCK_STEADY_S: u32 = 3_600;

/// Store and log.
struct Ledger {
    clock: Clock,
    /// All assignments, as they were at the start or when there were many changes.
    whole: PathBuf,
    /// Changes since.
    changes: Lines,
    changes_count: usize,
    log: NatLog,
    /// Of sites that are not known yet as well.
    publications: Vec<Publication>,
    /// What the clock showed when the daemon's own time was zero.
    clock_offset_ms: i128,
    /// For so long the clock has not been set, as far as known.
    clock_steady_s: u32,
}

/// The ledger, shared by the controller and the authorizer inside the IKE endpoint; both run on the controller's task.
#[derive(Clone)]
pub(super) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Opens log and store, and makes both say what sites hold.
    ///
    /// # Errors
    /// If the state folder cannot be written.
    pub(super) fn open(config: &Config, sites: &Sites, clock: Clock) -> anyhow::Result<Self> {
        let now_ms = clock.unix_ms();
        let mut log = NatLog::open(&config.state_dir, config.nat.log_keep_days, now_ms)?;
        let started = Event::Started {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // What a crash left half done, and what the configuration has changed since. Nothing of it is in use: no packet
        // passes before this.
        let events = std::iter::once(started).chain(log.held().reconcile(holdings(sites)));
        let events: Vec<_> = events.collect();
        log.append(now_ms, events)
            .context("the log of addresses and ports")?;
        let mut ledger = Ledger {
            clock,
            whole: assignments_path(config),
            changes: Lines::new(first_visits_path(config)),
            changes_count: 0,
            log,
            publications: config.publications.clone(),
            clock_offset_ms: 0,
            clock_steady_s: 0,
        };
        ledger.clock_offset_ms = offset_ms(now_ms, clock.now().mono_ms);
        ledger.store_all(sites.assignments())?;
        Ok(Self(Arc::new(Mutex::new(ledger))))
    }

    fn get(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a proposal that is about to be accepted.
    ///
    /// # Errors
    /// If it could not be stored and logged: it must not be accepted then.
    pub(super) fn keep(&self, proposal: &Proposal, changes: &[Change]) -> Result<(), String> {
        self.get().keep(proposal, changes)
    }

    /// A second went by.
    pub(super) fn next_second(&self, assignments: &Assignments) -> anyhow::Result<()> {
        let mut ledger = self.get();
        let (now_ms, mono_ms) = (ledger.clock.unix_ms(), ledger.clock.now().mono_ms);
        ledger.next_second(now_ms, mono_ms, assignments)
    }

    /// Notes that the daemon stops.
    pub(super) fn stopped(&self) -> anyhow::Result<()> {
        let mut ledger = self.get();
        let now_ms = ledger.clock.unix_ms();
        Ok(ledger.log.append(now_ms, [Event::Stopped])?)
    }
}

impl Ledger {
    fn keep(&mut self, proposal: &Proposal, changes: &[Change]) -> Result<(), String> {
        let now_ms = self.clock.unix_ms();
        let published = self.published_now(proposal);
        let events = changes.iter().map(Event::from);
        let events = events.chain(published.iter().cloned().map(Event::Assigned));
        let logged = self.log.append(now_ms, events);
        logged.map_err(|error| format!("the log of addresses and ports: {error}"))?;
        if let Err(error) = self.changes.append(proposal) {
            // The log has said what does not come true. Should this fail as well, the next start puts it right.
            let undone = changes.iter().rev().map(|change| {
                Event::from(&Change {
                    given: !change.given,
                    ..change.clone()
                })
            });
            let undone = published.into_iter().map(Event::Released).chain(undone);
            if let Err(error) = self.log.append(now_ms, undone) {
                tracing::error!(%error, "the log of addresses says what was not done");
            }
            return Err(error.to_string());
        }
        self.changes_count += 1;
        Ok(())
    }

    /// What is published of a site that comes for the first time.
    fn published_now(&self, proposal: &Proposal) -> Vec<Holding> {
        let of_site = self
            .publications
            .iter()
            .filter(|publication| publication.site == proposal.name);
        of_site
            .map(|publication| published(proposal.assignment.site, publication))
            .filter(|new| !self.log.held().iter().any(|held| held == new))
            .collect()
    }

    fn next_second(&mut self, now_ms: u64, mono_ms: u64, assignments: &Assignments) -> anyhow::Result<()> {
        let offset_ms = offset_ms(now_ms, mono_ms);
        if (offset_ms - self.clock_offset_ms).abs() > CLOCK_SET_MS {
            let before = i128::from(now_ms) - offset_ms + self.clock_offset_ms;
            let before = Time(u64::try_from(before).unwrap_or(0));
            self.log.append(now_ms, [Event::ClockSet { before }])?;
            self.clock_steady_s = 0;
        }
        // A clock that is slewed moves by little each second.
        self.clock_offset_ms = offset_ms;
        // Where there is no room, it may be the log's old files that take it: what follows is done all the same.
        let stored = match self.changes_count > CHANGES_MAX || self.changes.is_spoilt() {
            true => self.store_all(assignments),
            false => Ok(()),
        };
        self.clock_steady_s += 1;
        // A clock that is wrong by years, as after a start without battery, must not delete the log of these years.
        if self.clock_steady_s.is_multiple_of(CLOCK_STEADY_S) {
            self.log.delete_old(now_ms)?;
        }
        self.log.tend(now_ms)?;
        stored
    }

    /// Writes all into one file. Should the daemon die between the two steps, the changes are applied to what they have
    /// led to, which leads there again.
    fn store_all(&mut self, assignments: &Assignments) -> anyhow::Result<()> {
        store::replace_json(&self.whole, assignments)?;
        self.changes.remove()?;
        self.changes_count = 0;
        Ok(())
    }
}

/// What the clock shows when the daemon's own time is zero.
fn offset_ms(now_ms: u64, mono_ms: u64) -> i128 {
    i128::from(now_ms) - i128::from(mono_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::nat_log::read;
    use crate::runtime::read_assignments;

    const START_MS: u64 = 1_795_582_800_000;

    /// A ledger of the example, with a daemon that started at [`START_MS`].
    fn ledger(folder: &std::path::Path) -> (SharedLedger, Sites) {
        let text = include_str!("../../examples/gateway.toml");
        let mut config =
            Config::parse("gateway.toml", text, std::path::Path::new("/etc/gateway")).expect("right");
        config.state_dir = folder.to_owned();
        config.nat.log_keep_days = 1;
        let sites = Sites::new(&config, Assignments::default()).expect("pools suffice");
        let ledger = SharedLedger::open(&config, &sites, Clock::start()).expect("opened");
        ledger.get().clock_offset_ms = START_MS.into();
        (ledger, sites)
    }

    fn events(folder: &std::path::Path) -> Vec<Event> {
        let read = read(folder).expect("read");
        read.records.into_iter().map(|record| record.event).collect()
    }

    #[test]
    fn a_clock_that_is_set_is_logged_with_what_it_showed_before() {
        let folder = tempfile::tempdir().expect("folder");
        let (ledger, sites) = ledger(folder.path());
        let before = events(folder.path()).len();
        let mut ledger = ledger.get();
        let mut tick = |now_ms: u64, mono_ms| {
            ledger
                .next_second(now_ms, mono_ms, sites.assignments())
                .expect("tended");
        };
        // Slewed by half a second in each second, then set back by an hour, and forward by a day.
        tick(START_MS + 1_000, 1_000);
        tick(START_MS + 2_500, 2_000);
        tick(START_MS + 4_000, 3_000);
        assert_eq!(events(folder.path()).len(), before);
        tick(START_MS - 3_595_000, 4_000);
        tick(START_MS - 3_594_000, 5_000);
        tick(START_MS + 82_806_000, 5_000);
        let new = events(folder.path()).split_off(before);
        assert_eq!(
            new,
            [
                Event::ClockSet {
                    before: Time(START_MS + 5_000)
                },
                Event::ClockSet {
                    before: Time(START_MS - 3_594_000)
                },
            ]
        );
    }

    /// A clock that is wrong by years does not delete the log of these years.
    #[test]
    fn nothing_is_deleted_within_an_hour_after_the_clock_was_set() {
        const YEARS_MS: u64 = 10 * 365 * 86_400_000;
        let folder = tempfile::tempdir().expect("folder");
        let (ledger, sites) = ledger(folder.path());
        let mut ledger = ledger.get();
        let has = |number| {
            let name = format!("nat-log/{number:010}.jsonl");
            folder.path().join(name).exists()
        };
        let hour = u64::from(CLOCK_STEADY_S) * 1_000;
        let mut tick = |now_ms: u64, mono_ms| {
            ledger
                .next_second(now_ms, mono_ms, sites.assignments())
                .expect("tended");
        };
        for second in 1..u64::from(CLOCK_STEADY_S) {
            tick(START_MS + YEARS_MS + second * 1_000, second * 1_000);
        }
        assert!(has(1) && has(2), "the file has ended, and another one begun");
        // Set right before the hour is over.
        tick(START_MS + hour, hour);
        tick(START_MS + hour + 1_000, hour + 1_000);
        assert!(has(1));
        // Ten years later indeed, with a clock that goes on.
        for second in 0..=2 * u64::from(CLOCK_STEADY_S) {
            tick(
                START_MS + 2 * YEARS_MS + second * 1_000,
                2 * hour + second * 1_000,
            );
        }
        assert!(!has(1), "older than a day");
        assert!(has(2), "it ended just now");
    }

    #[test]
    fn many_changes_are_written_into_one_file_again() {
        let folder = tempfile::tempdir().expect("folder");
        let (ledger, mut sites) = ledger(folder.path());
        let identity = "a.clinic.example".parse().expect("identity");
        sites
            .admit_and_keep(&identity, |proposal, changes| ledger.keep(proposal, changes))
            .expect("admitted");
        let changes = folder.path().join("sites.jsonl");
        assert!(changes.exists());
        assert_eq!(
            read_assignments(folder.path()).expect("read"),
            *sites.assignments()
        );
        // What was written so far, should the daemon die between the two steps.
        let text = std::fs::read(&changes).expect("read");
        ledger.get().changes_count = CHANGES_MAX + 1;
        let mut ledger = ledger.get();
        ledger
            .next_second(START_MS + 1_000, 1_000, sites.assignments())
            .expect("tended");
        assert!(!changes.exists());
        assert_eq!(
            read_assignments(folder.path()).expect("read"),
            *sites.assignments()
        );
        std::fs::write(&changes, text).expect("written");
        assert_eq!(
            read_assignments(folder.path()).expect("read"),
            *sites.assignments()
        );
    }

    /// Nobody reaches what is published of a new site before the log says whose it is.
    #[test]
    fn what_is_published_of_a_new_site_is_logged_with_it_or_the_site_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let text = include_str!("../../examples/gateway.toml");
        let published = "[[publish]]\nname = \"mri\"\nsite = \"a.clinic.example\"\naddress = \"192.168.1.20\"\n\
             protocol = \"tcp\"\nport = 443\non = \"10.203.0.1:8443\"\nfrom = [\"10.100.0.0/24\"]\n";
        let text = text.replace("[timeouts]", &format!("{published}[timeouts]"));
        let mut config =
            Config::parse("gateway.toml", &text, std::path::Path::new("/etc/gateway")).expect("right");
        config.state_dir = folder.path().to_owned();
        let mut sites = Sites::new(&config, Assignments::default()).expect("pools suffice");
        let ledger = SharedLedger::open(&config, &sites, Clock::start()).expect("opened");
        let identity = "a.clinic.example".parse().expect("identity");
        let mut admit = || {
            let keep = |proposal: &Proposal, changes: &[Change]| ledger.keep(proposal, changes);
            sites.admit_and_keep(&identity, keep).map(|entry| entry.site)
        };
        let is_held = || {
            let ledger = ledger.get();
            let on = "10.203.0.1".parse().ok();
            let held: Vec<_> = ledger
                .log
                .held()
                .iter()
                .filter(|held| Some(held.block.address) == on)
                .map(|held| (held.name.clone(), held.block.first_port))
                .collect();
            held
        };
        // The store does not take it.
        let changes = folder.path().join("sites.jsonl");
        std::fs::create_dir(&changes).expect("in the way");
        assert!(admit().is_err());
        assert_eq!(is_held(), []);
        std::fs::remove_dir(&changes).expect("out of the way");
        assert!(admit().is_ok());
        assert_eq!(is_held(), [("a.clinic.example".to_owned(), 8443)]);
    }

    /// Regression: what a failed write had left of a line, and could not be taken back, was followed by the next line. The two
    /// together are none, and the next start refused the state folder.
    #[test]
    fn a_line_that_cannot_be_taken_back_is_not_followed_by_another() {
        let folder = tempfile::tempdir().expect("folder");
        let (ledger, mut sites) = ledger(folder.path());
        let changes = folder.path().join("sites.jsonl");
        let mut admit = |name: &str| {
            let identity = name.parse().expect("identity");
            let keep = |proposal: &Proposal, changes: &[Change]| ledger.keep(proposal, changes);
            let admitted = sites.admit_and_keep(&identity, keep).map(|entry| entry.site);
            (admitted, sites.assignments().clone())
        };
        // A device that is always full, and that cannot be cut.
        std::os::unix::fs::symlink("/dev/full", &changes).expect("in the way");
        let (refused, _) = admit("a.clinic.example");
        let refused = refused.expect_err("not stored").to_string();
        std::fs::remove_file(&changes).expect("out of the way");
        std::fs::write(&changes, "{\"name\":\"a.cli").expect("half a line");
        let (admitted, assignments) = admit("b.clinic.example");
        assert!(admitted.is_ok(), "{admitted:?}");
        assert_eq!(read_assignments(folder.path()).expect("read"), assignments);
        // Why it was refused is what went wrong first.
        assert!(refused.contains("No space left"), "{refused}");
    }

    /// As long as it can be neither taken back nor written anew, nothing is added; the next second tries to write all anew.
    #[test]
    fn a_spoilt_file_is_written_anew_or_nothing_is_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let (ledger, mut sites) = ledger(folder.path());
        let (changes, whole) = (
            folder.path().join("sites.jsonl"),
            folder.path().join("sites.json"),
        );
        let identity = "a.clinic.example".parse().expect("identity");
        let admit = |sites: &mut Sites| {
            let keep = |proposal: &Proposal, changes: &[Change]| ledger.keep(proposal, changes);
            sites.admit_and_keep(&identity, keep).is_ok()
        };
        std::os::unix::fs::symlink("/dev/full", &changes).expect("in the way");
        assert!(!admit(&mut sites));
        std::fs::remove_file(&changes).expect("out of the way");
        std::fs::create_dir(&changes).expect("in the way");
        assert!(!admit(&mut sites));
        std::fs::remove_dir(&changes).expect("out of the way");
        std::fs::write(&changes, "{\"name\":\"a.cli").expect("half a line");
        std::fs::remove_file(&whole).expect("removed");
        ledger.next_second(sites.assignments()).expect("written anew");
        assert!(whole.exists() && !changes.exists());
        assert!(admit(&mut sites));
        assert_eq!(
            read_assignments(folder.path()).expect("read"),
            *sites.assignments()
        );
    }
}
