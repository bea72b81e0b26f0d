//! Rule sets on their way into force: compiled on another thread, one after the other in the order they were asked for, while
//! the control task goes on. Ten thousand rules take tenths of a second, for which rekeyings and liveness answers would wait.
//!
//! What the tables are made of may change meanwhile: names are opened, schedules begin, another set falls back. They are
//! taken as they are only if they were made of what is so when they are put in force, and made anew otherwise.
use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::ensure;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::authorizer::SharedSites;
use super::controller::Controller;
use super::done::Done;
use super::engine::Engine;
use super::prepare::compile;
use super::rules::{StoredRules, counter_base};
use crate::api::message::{HowToLoad, Reply};
use crate::config::Config;
use crate::core::classifier::Generation;
use crate::core::generations::{Author, Origin};
use crate::core::journal::Notice;
use crate::core::names::Openings;
use crate::core::policy::{Compiled, Directory};

/// Rule sets that wait while another is compiled; their texts are in memory.
const WAITING_MAX: usize = 4;

/// A rule set that is to be in force.
pub(super) struct Wanted {
    pub(super) what: What,
    pub(super) author: Author,
    pub(super) how: HowToLoad,
}

/// Which one.
pub(super) enum What {
    /// One of the operator's.
    Given(StoredRules),
    /// One that was in force: of this number, or the one before. Which that is, is known when those asked for earlier are.
    Before(Option<u32>),
}

/// What is being compiled, and what waits for that.
#[derive(Default)]
pub(super) struct Compiling {
    under_way: bool,
    waiting: VecDeque<(Wanted, oneshot::Sender<Reply>)>,
}

/// Somebody waits for this set to be in force.
struct Asked {
    origin: Origin,
    stored: StoredRules,
    author: Author,
    how: HowToLoad,
    reply: oneshot::Sender<Reply>,
}

/// A set that was compiled.
pub(super) struct RulesCompiled {
    asked: Asked,
    outcome: anyhow::Result<(Compiled, Ahead)>,
}

/// Tables that were made ahead, and what of.
pub(super) struct Ahead {
    pub(super) generation: u32,
    pub(super) schedules: Vec<bool>,
    pub(super) name_numbers: Vec<u32>,
    pub(super) tables: Generation,
}

/// All that a set is compiled with, as it was when it began.
struct Work {
    directory: Names,
    openings: Openings,
    generation: u32,
    unix_s: u64,
}

/// Names that rules may use. A site is looked up as it is at that moment.
struct Names {
    config: Arc<Config>,
    sites: SharedSites,
}

impl Directory for Names {
    fn site(&self, name: &str) -> Option<u32> {
        self.sites.get().site(name)
    }

    fn group(&self, name: &str) -> Option<u64> {
        self.config.group_bit(name)
    }

    fn group_names(&self) -> Vec<&str> {
        self.config.groups.iter().map(String::as_str).collect()
    }

    fn group_bitmaps(&self) -> Vec<u64> {
        self.sites.get().group_bitmaps()
    }
}

impl Work {
    fn run(&self, stored: &StoredRules) -> anyhow::Result<(Compiled, Ahead)> {
        let mut compiled = compile(&stored.file, &stored.text, &self.directory)?;
        let numbering = self.openings.number(&compiled.name_sets)?;
        compiled.name_numbers = numbering.all().to_vec();
        let schedules = compiled.schedules_at(self.unix_s);
        let tables = compiled.generation(self.generation, counter_base(self.generation), &schedules)?;
        let ahead = Ahead {
            generation: self.generation,
            schedules,
            name_numbers: compiled.name_numbers.clone(),
            tables,
        };
        Ok((compiled, ahead))
    }
}

impl<E: Engine> Controller<E> {
    /// Has a set compiled and put in force, when those are that were asked for before.
    pub(super) fn put_in_force_later(&mut self, wanted: Wanted, reply: oneshot::Sender<Reply>) {
        if self.compiling.waiting.len() >= WAITING_MAX {
            let told = format!(
                "{WAITING_MAX} rule sets wait already to be loaded, nothing is changed; load it again"
            );
            // The client may have gone; that is its affair.
            let _ = reply.send(Reply::Error(told));
            return;
        }
        self.compiling.waiting.push_back((wanted, reply));
        self.compile_what_waits();
    }

    fn compile_what_waits(&mut self) {
        while !self.compiling.under_way
            && let Some((wanted, reply)) = self.compiling.waiting.pop_front()
        {
            let Wanted { what, author, how } = wanted;
            match self.what_is_wanted(what) {
                Ok((origin, stored)) => self.compile(Asked {
                    origin,
                    stored,
                    author,
                    how,
                    reply,
                }),
                Err(error) => drop(reply.send(Reply::Error(format!("{error:#}")))),
            }
        }
    }

    fn compile(&mut self, asked: Asked) {
        self.compiling.under_way = true;
        let work = Work {
            directory: Names {
                config: Arc::clone(&self.config),
                sites: self.sites.clone(),
            },
            openings: self.names.openings.clone(),
            generation: self.rule_state.history.next(),
            unix_s: self.clock.now().unix_s,
        };
        let done = self.done.clone();
        spawn_blocking(move || {
            let outcome = work.run(&asked.stored);
            // Nobody is there any more when the daemon has ended.
            let _ = done.send(Done::Compiled(Box::new(RulesCompiled { asked, outcome })));
        });
    }

    /// Puts in force what was compiled, and tells who asked.
    pub(super) fn handle_compiled(&mut self, RulesCompiled { asked, outcome }: RulesCompiled) {
        self.compiling.under_way = false;
        let Asked {
            origin,
            stored,
            author,
            how,
            reply,
        } = asked;
        let (file, is_given) = (stored.file.clone(), origin == Origin::Loaded);
        let loaded = outcome.and_then(|(compiled, ahead)| {
            self.put_in_force(author, origin, stored, &how, (compiled, Some(ahead)))
        });
        if let Err(error) = &loaded
            && is_given
        {
            self.record(Notice::RulesRefused {
                file: &file,
                reason: &format!("{error:#}"),
            });
        }
        self.answer_loaded(loaded, &how, reply);
        self.compile_what_waits();
    }
}

/// A time to confirm that can be kept.
///
/// # Errors
/// It is none.
pub(super) fn check_confirm(how: &HowToLoad) -> anyhow::Result<()> {
    /// Longest in seconds: a day.
    const CONFIRM_MAX_S: u32 = 86_400;
    ensure!(
        how.confirm_s
            .is_none_or(|seconds| (1..=CONFIRM_MAX_S).contains(&seconds)),
        "a rule set can wait from 1 to {CONFIRM_MAX_S} seconds to be confirmed"
    );
    Ok(())
}
