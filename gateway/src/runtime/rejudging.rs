//! Running flows under rules that were loaded since: gone through on another thread, some at a time, while the control task
//! goes on.
//!
//! Only the rules in force end flows. Who puts others in force ends the turn of those before ([`InForce::change`]) and lets
//! none begin; flows are gone through again by the new ones. Flows that the rules in force have let in themselves are not
//! judged: the packet path has done so, by what was open by name at that moment.
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway_common::abi::flow::{Flow, FlowKey};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::controller::Controller;
use super::done::Done;
use super::engine::{Engine, Reader};
use crate::api::message::Reply;
use crate::api::view;
use crate::core::directions::Directions;
use crate::core::names::Openings;
use crate::core::policy::Compiled;
use crate::core::rejudge::Rejudge;

/// Which rules are in force, for who goes through flows on another thread.
#[derive(Debug, Default)]
struct InForce {
    number: AtomicU64,
    turn: Mutex<()>,
}

impl InForce {
    fn number(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }

    /// Others are about to be. Nothing is ended any more by those before when this returns, which is after a turn at most.
    fn change(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
        drop(self.lock());
    }

    /// A turn by the rules of this number; `None` once others are in force.
    fn turn(&self, number: u64) -> Option<MutexGuard<'_, ()>> {
        let turn = self.lock();
        (self.number() == number).then_some(turn)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is still to be judged, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Rejudging {
    in_force: Arc<InForce>,
    /// Running flows are still to be judged by the rules in force.
    due: bool,
    /// They are being judged, by these rules or those before.
    under_way: bool,
    /// Flows that have ended since nothing was due.
    ended: usize,
    /// To be told when all are judged.
    waiting: Vec<(view::RulesLoaded, oneshot::Sender<Reply>)>,
}

/// How going through all flows has ended.
#[derive(Debug)]
pub(super) struct Judged {
    number: u64,
    /// Flows that were ended.
    outcome: anyhow::Result<usize>,
}

impl Rejudging {
    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// Whether somebody is at it, so that it is worth to wait.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way
    }

    pub(super) fn ask(&mut self) {
        self.due = true;
    }

    /// Other rules are about to be in force.
    pub(super) fn rules_change(&self) {
        self.in_force.change();
    }

    /// Answers when running flows are judged.
    pub(super) fn answer_then(&mut self, loaded: view::RulesLoaded, reply: oneshot::Sender<Reply>) {
        self.waiting.push((loaded, reply));
    }

    fn answer(&mut self) {
        let (ended_flows, flows_not_judged) = (self.ended, self.due);
        for (loaded, reply) in self.waiting.drain(..) {
            // The client may have gone; that is its affair.
            let _ = reply.send(Reply::view(&view::RulesLoaded {
                ended_flows,
                flows_not_judged,
                ..loaded
            }));
        }
        self.ended = 0;
    }
}

/// All that flows are judged by, as it was when it began.
struct Work {
    reader: Box<dyn Reader>,
    in_force: Arc<InForce>,
    number: u64,
    generation: u32,
    rules: Arc<Compiled>,
    schedules: Vec<bool>,
    directions: Directions,
    groups: Vec<(u32, u64)>,
    openings: Openings,
    now_s: u32,
}

impl Work {
    fn run(self) -> Judged {
        Judged {
            outcome: self.judge(),
            number: self.number,
        }
    }

    fn judge(&self) -> anyhow::Result<usize> {
        let tables = self.rules.generation(self.generation, 0, &self.schedules)?;
        let groups: HashMap<u32, u64> = self.groups.iter().copied().collect();
        let mappings = || {
            let mut all = Vec::new();
            self.reader
                .mappings(&mut |inside, mapping| all.push((inside, mapping)));
            all
        };
        let rejudge = Rejudge::new(
            &tables,
            &self.directions,
            |site| groups.get(&site).copied(),
            mappings,
        )
        .with_openings(&self.openings, self.now_s);
        let mut is_between_sites = false;
        self.reader
            .flows(&mut |key, _| is_between_sites |= rejudge.is_between_sites(&key));
        if is_between_sites {
            // Now rather than in a turn, for which the control task may have to wait.
            rejudge.ask_for_mappings();
        }
        let is_refused =
            |key: &FlowKey, flow: &Flow| flow.generation != self.generation && !rejudge.allows(key, flow);
        self.reader
            .end_refused(&is_refused, &|| self.in_force.turn(self.number))
    }
}

impl<E: Engine> Controller<E> {
    /// Has running flows judged by the rules in force, if that is still to be done and nobody is at it. The rules are in force
    /// whether or not it succeeds: it is tried again in a second.
    pub(super) fn rejudge_if_due(&mut self) {
        if !self.rejudging.due || self.rejudging.under_way {
            return;
        }
        match self.rejudge_work() {
            Ok(Some(work)) => {
                self.rejudging.under_way = true;
                let done = self.done.clone();
                spawn_blocking(move || {
                    // Nobody is there any more when the daemon has ended.
                    let _ = done.send(Done::Judged(work.run()));
                });
            }
            Ok(None) => self.all_judged(Ok(0)),
            Err(error) => self.all_judged(Err(error)),
        }
    }

    fn rejudge_work(&self) -> anyhow::Result<Option<Work>> {
        let Some((generation, rules)) = &self.rules else {
            return Ok(None);
        };
        let sites = self.sites.get();
        Ok(Some(Work {
            reader: self.engine.reader()?,
            in_force: Arc::clone(&self.rejudging.in_force),
            number: self.rejudging.in_force.number(),
            generation: *generation,
            rules: Arc::clone(rules),
            schedules: self.rule_state.schedules().to_vec(),
            directions: Directions::new(&self.config),
            groups: sites.iter().map(|entry| (entry.site, entry.groups)).collect(),
            openings: self.names.openings.clone(),
            now_s: self.engine.now_s(),
        }))
    }

    /// All flows were gone through, or not to the end because other rules are in force by now.
    pub(super) fn handle_judged(&mut self, Judged { number, outcome }: Judged) {
        self.rejudging.under_way = false;
        if number == self.rejudging.in_force.number() {
            self.all_judged(outcome);
        } else {
            self.rejudging.ended += outcome.unwrap_or(0);
            self.rejudge_if_due();
        }
    }

    fn all_judged(&mut self, outcome: anyhow::Result<usize>) {
        match outcome {
            Ok(ended) => {
                self.rejudging.due = false;
                self.rejudging.ended += ended;
                if self.rejudging.ended > 0 {
                    tracing::info!(
                        flows = self.rejudging.ended,
                        "flows ended that the rules in force do not allow"
                    );
                }
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "running flows are not judged yet");
            }
        }
        self.rejudging.answer();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_changes_the_rules_waits_for_the_turn_and_no_other_begins() {
        let in_force = Arc::new(InForce::default());
        let number = in_force.number();
        let turn = in_force.turn(number).expect("in force");
        let changing = {
            let in_force = Arc::clone(&in_force);
            std::thread::spawn(move || in_force.change())
        };
        while in_force.number() == number {
            std::thread::yield_now();
        }
        assert!(!changing.is_finished(), "the turn has not ended");
        drop(turn);
        changing.join().expect("no panic");
        assert!(in_force.turn(number).is_none());
        assert!(in_force.turn(in_force.number()).is_some());
    }
}
