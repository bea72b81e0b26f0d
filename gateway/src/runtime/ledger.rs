//! Where it is noted what sites hold, before anybody uses it: the log for those who ask later, the store for the next start.
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;

use super::clock::Clock;
use super::nat_log::NatLog;
use super::prepare::{assignments_path, first_visits_path};
use crate::config::Config;
use crate::core::nat_log::{Event, Time};
use crate::core::pools::{Assignments, Change, Proposal};
use crate::store;

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
    changes: PathBuf,
    changes_count: usize,
    log: NatLog,
    /// What the clock showed when the daemon's own time was zero.
    clock_offset_ms: i128,
    /// For so long the clock has not been set, as far as known.
    clock_steady_s: u32,
}

/// The ledger, shared by the controller and the authorizer inside the IKE endpoint; both run on the controller's task.
#[derive(Clone)]
pub(super) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Opens log and store, and makes both say what `assignments` say.
    ///
    /// # Errors
    /// If the state folder cannot be written.
    pub(super) fn open(config: &Config, assignments: &Assignments, clock: Clock) -> anyhow::Result<Self> {
        let now_ms = clock.unix_ms();
        let mut log = NatLog::open(&config.state_dir, config.nat.log_keep_days, now_ms)?;
        let started = Event::Started {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // What a crash left half done, and what the configuration has changed since. Nothing of it is in use: no packet
        // passes before this.
        let events = std::iter::once(started).chain(log.held().reconcile(assignments));
        let events: Vec<_> = events.collect();
        log.append(now_ms, events)
            .context("the log of addresses and ports")?;
        let mut ledger = Ledger {
            clock,
            whole: assignments_path(config),
            changes: first_visits_path(config),
            changes_count: 0,
            log,
            clock_offset_ms: 0,
            clock_steady_s: 0,
        };
        ledger.clock_offset_ms = ledger.offset_ms();
        ledger.store_all(assignments)?;
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
        self.get().next_second(assignments)
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
        let logged = self.log.append(now_ms, changes.iter().map(Event::from));
        logged.map_err(|error| format!("the log of addresses and ports: {error}"))?;
        if let Err(error) = store::append_json(&self.changes, proposal) {
            // The log has said what does not come true. Should this fail as well, the next start puts it right.
            let undone = changes.iter().rev().map(|change| {
                Event::from(&Change {
                    given: !change.given,
                    ..change.clone()
                })
            });
            if let Err(error) = self.log.append(now_ms, undone) {
                tracing::error!(%error, "the log of addresses says what was not done");
            }
            return Err(error.to_string());
        }
        self.changes_count += 1;
        Ok(())
    }

    fn next_second(&mut self, assignments: &Assignments) -> anyhow::Result<()> {
        let offset_ms = self.offset_ms();
        if (offset_ms - self.clock_offset_ms).abs() > CLOCK_SET_MS {
            let now_ms = self.clock.unix_ms();
            let before = i128::from(now_ms) - offset_ms + self.clock_offset_ms;
            let before = Time(u64::try_from(before).unwrap_or(0));
            self.log.append(now_ms, [Event::ClockSet { before }])?;
            self.clock_steady_s = 0;
        }
        // A clock that is slewed moves by little each second.
        self.clock_offset_ms = offset_ms;
        if self.changes_count > CHANGES_MAX {
            self.store_all(assignments)?;
        }
        let now_ms = self.clock.unix_ms();
        self.clock_steady_s += 1;
        // A clock that is wrong by years, as after a start without battery, must not delete the log of these years.
        if self.clock_steady_s.is_multiple_of(CLOCK_STEADY_S) {
            self.log.delete_old(now_ms)?;
        }
        self.log.tend(now_ms)
    }

    /// Writes all into one file. Should the daemon die between the two steps, the changes are applied to what they have
    /// led to, which leads there again.
    fn store_all(&mut self, assignments: &Assignments) -> anyhow::Result<()> {
        store::replace_json(&self.whole, assignments)?;
        store::remove(&self.changes)?;
        self.changes_count = 0;
        Ok(())
    }

    fn offset_ms(&self) -> i128 {
        i128::from(self.clock.unix_ms()) - i128::from(self.clock.now().mono_ms)
    }
}
