//! Rule sets of the running gateway: loading, confirming, falling back, schedules, and what is asked about them.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use gateway_common::abi::limit::RULES_MAX;
use serde::{Deserialize, Serialize};

use super::compiling::{Ahead, Wanted, What, check_confirm};
use super::controller::{Controller, log_failure};
use super::engine::Engine;
use super::listing::Work;
use super::prepare::compile_kept;
use crate::api::caller::Caller;
use crate::api::message::{HowToLoad, Reply};
use crate::api::view;
use crate::config::Config;
use crate::core::directions::Directions;
use crate::core::explain::{Explainer, Query, Subject};
use crate::core::generations::{Author, Entry, History, Origin};
use crate::core::journal::Notice;
use crate::core::policy::Compiled;
use crate::store;

/// Flows that one question may be about.
const FLOWS_MAX: usize = 10_000;
/// Reasons why rules do not match that are told at once, in all: hundreds of megabytes of text.
const REASONS_MAX: usize = 1_000_000;

/// A rule set as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRules {
    /// File as the operator named it.
    pub file: String,
    /// Its content.
    pub text: String,
}

/// What the controller remembers of rule sets besides the one in force.
#[derive(Debug, Default)]
pub(super) struct RuleState {
    pub(super) history: History,
    /// Which schedules are in force in the packet path.
    schedules: Vec<bool>,
    /// When the generation in force falls back, on the monotonic clock.
    fall_back_at_ms: Option<u64>,
    /// The text of the generation in force, which came back although it could not be stored.
    unstored: Option<StoredRules>,
}

impl RuleState {
    /// Which schedules are in force in the packet path.
    pub(super) fn schedules(&self) -> &[bool] {
        &self.schedules
    }

    /// With what was stored.
    #[must_use]
    pub(super) fn new(history: History) -> Self {
        Self {
            history,
            ..Self::default()
        }
    }
}

/// Folder of rule sets and their history.
fn folder(config: &Config) -> PathBuf {
    config.state_dir.join("rules")
}

fn history_path(config: &Config) -> PathBuf {
    folder(config).join("history.json")
}

fn text_path(config: &Config, generation: u32) -> PathBuf {
    folder(config).join(format!("{generation}.json"))
}

/// The history that was stored; empty before the first rule set.
///
/// # Errors
/// It is there and cannot be read: what was in force is not guessed.
pub(super) fn read_history(config: &Config) -> anyhow::Result<History> {
    Ok(store::read_json(&history_path(config))?.unwrap_or_default())
}

/// The text of a generation.
///
/// # Errors
/// It is not stored.
pub(super) fn read_text(config: &Config, generation: u32) -> anyhow::Result<StoredRules> {
    let path = text_path(config, generation);
    store::read_json(&path)?.ok_or_else(|| anyhow!("{}: the rule set is not there", path.display()))
}

/// First counter of a generation. Two that follow each other count in different halves, so that the new one's can be set
/// to zero while the old one still counts.
pub(super) fn counter_base(generation: u32) -> u32 {
    generation % 2 * RULES_MAX
}

impl<E: Engine> Controller<E> {
    /// Puts the rule set to begin with in force and stores it if it is not stored yet.
    pub(super) fn begin_rules(&mut self, first: Option<super::prepare::FirstRules>) -> anyhow::Result<()> {
        make_folder(&folder(&self.config))?;
        if first.as_ref().is_none_or(|first| first.stored == nothing()) {
            tracing::warn!("no rule set: every new connection is denied until `gateway rules load`");
        }
        let Some(first) = first else {
            return Ok(());
        };
        if let Origin::FellBack(generation) = first.entry.origin {
            tracing::warn!(
                generation,
                "the rule set was not confirmed before the gateway stopped, it falls back"
            );
        }
        if let Some(file) = self.config.rules_file.as_deref()
            && says_something_else(file, &first.stored)
        {
            tracing::warn!(
                file = %file.display(),
                in_force = first.stored.file,
                "[rules] file is not the rule set in force, which was loaded since; `gateway rules load` puts it in force"
            );
        }
        let is_new = self.rule_state.history.in_force() != Some(&first.entry);
        if is_new {
            let history = self.rule_state.history.with(first.entry.clone(), None);
            self.store(&history, first.entry.generation, &first.stored)?;
            self.take_over(history);
        }
        self.activate(first.entry.generation, first.compiled, None)?;
        if let Some(active) = self.active_rules() {
            self.record(Notice::RulesLoaded(&active));
        }
        Ok(())
    }

    /// What a caller wants in force.
    ///
    /// # Errors
    /// It cannot be wanted so.
    pub(super) fn wanted(&self, what: What, how: HowToLoad) -> anyhow::Result<Wanted> {
        check_confirm(&how)?;
        Ok(Wanted {
            what,
            author: author(&self.caller, &how),
            how,
        })
    }

    /// The set, and where it comes from.
    ///
    /// # Errors
    /// There is no such.
    pub(super) fn what_is_wanted(&self, what: What) -> anyhow::Result<(Origin, StoredRules)> {
        match what {
            What::Given(stored) => Ok((Origin::Loaded, stored)),
            What::Before(generation) => {
                let target = self.rule_state.history.rollback_target(generation)?.generation;
                Ok((Origin::RolledBack(target), read_text(&self.config, target)?))
            }
        }
    }

    pub(super) fn rules_confirm(&mut self) -> anyhow::Result<view::RulesLoaded> {
        let history = self.rule_state.history.confirmed()?;
        if let Err(error) = store::replace_json(&history_path(&self.config), &history) {
            self.put_back(&self.rule_state.history);
            return Err(error).context("the confirmation cannot be stored, the rule set still falls back");
        }
        self.rule_state.history = history;
        self.rule_state.fall_back_at_ms = None;
        tracing::info!("the rule set is confirmed");
        self.loaded(None)
    }

    /// Stores and activates what was compiled of `stored`; all or nothing.
    pub(super) fn put_in_force(
        &mut self,
        author: Author,
        origin: Origin,
        stored: StoredRules,
        how: &HowToLoad,
        (compiled, ahead): (Compiled, Option<Ahead>),
    ) -> anyhow::Result<view::RulesLoaded> {
        // A history that names what is not there would have nothing to fall back to.
        self.store_what_fell_back()
            .context("the rule set in force is not stored yet, nothing is changed")?;
        let now = self.clock.now();
        let before = self.rule_state.history.clone();
        let entry = Entry {
            generation: before.next(),
            at_unix_s: now.unix_s,
            author,
            origin,
            file: stored.file.clone(),
            name: compiled.source.name.clone(),
            rules: compiled.source.rules.len(),
        };
        let generation = entry.generation;
        let until = how.confirm_s.map(|seconds| now.unix_s + u64::from(seconds));
        let history = before.with(entry, until);
        // Stored first: a set that is in force survives a restart. If the data plane refuses it, the old one is put back.
        let kept = self.store(&history, generation, &stored);
        let unstored = match (kept, origin) {
            (Ok(()), _) => None,
            // What nobody confirmed goes, whether or not the disk is full: after a restart it would as well.
            (Err(error), Origin::FellBack(_)) => {
                tracing::error!(error = format!("{error:#}"), "it falls back, and is stored later");
                Some(stored)
            }
            (Err(error), Origin::Configured | Origin::Loaded | Origin::RolledBack(_)) => {
                self.put_back(&before);
                return Err(error.context("the rule set cannot be stored, nothing is changed"));
            }
        };
        if let Err(error) = self.activate(generation, compiled, ahead) {
            self.put_back(&before);
            return Err(error.context("the data plane refuses the rule set, nothing is changed"));
        }
        self.take_over(history);
        self.rule_state.unstored = unstored;
        self.rule_state.fall_back_at_ms = how
            .confirm_s
            .map(|seconds| now.mono_ms + u64::from(seconds) * 1000);
        if let Some(active) = self.active_rules() {
            self.record(Notice::RulesLoaded(&active));
        }
        if how.rejudge {
            self.rejudging.ask();
        }
        self.rejudge_if_due();
        self.loaded(how.confirm_s)
    }

    /// Writes the text, then the history that names it: after a crash the history names what is there.
    fn store(&self, history: &History, generation: u32, stored: &StoredRules) -> anyhow::Result<()> {
        store::replace_json(&text_path(&self.config, generation), stored)?;
        Ok(store::replace_json(&history_path(&self.config), history)?)
    }

    /// What was to be stored instead may be on the disk, although it is said to have failed: a restart would take it.
    fn put_back(&self, before: &History) {
        if let Err(error) = store::replace_json(&history_path(&self.config), before) {
            tracing::error!(%error, "the history of rule sets is not put back: a restart may take one that was refused");
        }
    }

    /// Stores the set in force, if it came back while that could not be done.
    fn store_what_fell_back(&mut self) -> anyhow::Result<()> {
        let history = &self.rule_state.history;
        if let (Some(stored), Some(entry)) = (&self.rule_state.unstored, history.in_force()) {
            self.store(history, entry.generation, stored)?;
            self.rule_state.unstored = None;
        }
        Ok(())
    }

    /// Takes a new history over, and removes the texts that only the old one names.
    fn take_over(&mut self, history: History) {
        let before = std::mem::replace(&mut self.rule_state.history, history);
        let kept = self.rule_state.history.entries();
        for entry in before.entries() {
            if kept.iter().any(|kept| kept.generation == entry.generation) {
                continue;
            }
            let path = text_path(&self.config, entry.generation);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "an old rule set is not removed");
            }
        }
    }

    /// Puts a compiled rule set in force under its number, by tables that were made ahead if they fit.
    fn activate(
        &mut self,
        generation: u32,
        mut compiled: Compiled,
        ahead: Option<Ahead>,
    ) -> anyhow::Result<()> {
        let numbering = self.number_names(&mut compiled)?;
        let schedules = compiled.schedules_at(self.clock.now().unix_s);
        let base = counter_base(generation);
        let fits = |ahead: &Ahead| {
            (ahead.generation, &ahead.schedules, &ahead.name_numbers)
                == (generation, &schedules, &compiled.name_numbers)
        };
        let tables = match ahead.filter(fits) {
            Some(ahead) => ahead.tables,
            None => compiled.generation(generation, base, &schedules)?,
        };
        let count = u32::try_from(compiled.source.rules.len())?;
        self.engine.reset_rule_hits(base, count)?;
        self.rejudging.rules_change();
        self.engine.load_rules(&tables, compiled.named_hosts())?;
        self.names.openings.renumber(numbering);
        self.rules = Some((generation, Arc::new(compiled)));
        self.rule_state.schedules = schedules;
        Ok(())
    }

    /// What time brings: an unconfirmed set falls back, schedules begin and end. Called once a second.
    pub(super) fn tend_rules(&mut self) {
        let now = self.clock.now();
        self.rejudge_if_due();
        log_failure(
            "the rule set that came back is not stored yet",
            self.store_what_fell_back(),
        );
        if self
            .rule_state
            .fall_back_at_ms
            .is_some_and(|at| now.mono_ms >= at)
        {
            match self.fall_back() {
                Ok(()) => {}
                // It is tried again in a second; what is in force meanwhile is known to the operator who loaded it.
                Err(error) => tracing::error!(error = format!("{error:#}"), "the rule set cannot fall back"),
            }
        }
        if let Err(error) = self.turn_schedules(now.unix_s) {
            tracing::error!(error = format!("{error:#}"), "a schedule cannot begin or end");
        }
    }

    fn fall_back(&mut self) -> anyhow::Result<()> {
        let Some(waiting) = self.rule_state.history.unconfirmed() else {
            self.rule_state.fall_back_at_ms = None;
            return Ok(());
        };
        let stored = match waiting.fall_back_to {
            Some(generation) => read_text(&self.config, generation)?,
            None => nothing(),
        };
        let failed = self
            .rule_state
            .history
            .in_force()
            .map_or(0, |entry| entry.generation);
        let origin = Origin::FellBack(failed);
        tracing::warn!(
            generation = failed,
            "the rule set was not confirmed, it falls back"
        );
        // Flows that only the withdrawn set allowed end with it.
        let how = HowToLoad {
            rejudge: true,
            ..HowToLoad::default()
        };
        // At once: whoever waits for it has no other way in.
        let compiled = compile_kept(&stored.file, &stored.text, &*self.sites.get())?;
        self.put_in_force(Author::default(), origin, stored, &how, (compiled, None))
            .map(|_| ())
    }

    /// Loads the same generation again without the rules whose time is over and with those whose time has come.
    fn turn_schedules(&mut self, unix_s: u64) -> anyhow::Result<()> {
        let Some((generation, compiled)) = &self.rules else {
            return Ok(());
        };
        let schedules = compiled.schedules_at(unix_s);
        if schedules == self.rule_state.schedules {
            return Ok(());
        }
        let tables = compiled.generation(*generation, counter_base(*generation), &schedules)?;
        self.rejudging.rules_change();
        self.engine.load_rules(&tables, compiled.named_hosts())?;
        let on = compiled
            .source
            .schedules
            .iter()
            .zip(&schedules)
            .filter(|(_, on)| **on);
        let on: Vec<_> = on.map(|(schedule, _)| schedule.model.name.as_str()).collect();
        tracing::info!(
            generation,
            schedules_in_force = on.join(", "),
            "a schedule began or ended"
        );
        self.rule_state.schedules = schedules;
        Ok(())
    }

    /// What there is to say of the set in force before running flows are judged.
    fn loaded(&self, confirm_within_s: Option<u32>) -> anyhow::Result<view::RulesLoaded> {
        let rules = self.active_rules().context("no rule set is in force")?;
        let entry = self.rule_state.history.in_force();
        let brought_back = entry.and_then(|entry| match entry.origin {
            Origin::RolledBack(to) => Some(to),
            Origin::Configured | Origin::Loaded | Origin::FellBack(_) => None,
        });
        Ok(view::RulesLoaded {
            rules,
            brought_back,
            ended_flows: 0,
            flows_not_judged: self.rejudging.is_due(),
            confirm_within_s,
        })
    }

    pub(super) fn active_rules(&self) -> Option<view::ActiveRules> {
        let (generation, compiled) = self.rules.as_ref()?;
        Some(view::ActiveRules {
            name: compiled.source.name.clone(),
            file: compiled.source.file.clone(),
            generation: *generation,
            rules: compiled.source.rules.len(),
            compiled: compiled.rules.len(),
        })
    }

    pub(super) fn rules_show(&self) -> anyhow::Result<view::RuleSet> {
        let nothing = || anyhow!("no rule set is in force; load one with `gateway rules load FILE`");
        let (generation, compiled) = self.rules.as_ref().ok_or_else(nothing)?;
        let count = u32::try_from(compiled.source.rules.len())?;
        let hits = self.engine.rule_hits(counter_base(*generation), count)?;
        let rule = |(rule, hits): (&crate::config::SourceRule, u64)| view::Rule {
            rule: rule.model.clone(),
            hits,
        };
        let hits = hits.into_iter().chain(std::iter::repeat(0));
        Ok(view::RuleSet {
            active: self.active_rules().ok_or_else(nothing)?,
            rules: compiled.source.rules.iter().zip(hits).map(rule).collect(),
        })
    }

    pub(super) fn rules_history(&self) -> Vec<view::RulesGeneration> {
        let history = &self.rule_state.history;
        let now_unix_s = self.clock.now().unix_s;
        let in_force = history.in_force().map(|entry| entry.generation);
        let generation = |entry: &Entry| {
            let is_in_force = in_force == Some(entry.generation);
            let waiting = history.unconfirmed().filter(|_| is_in_force);
            view::RulesGeneration {
                entry: entry.clone(),
                in_force: is_in_force,
                falls_back_in_s: waiting.map(|waiting| waiting.until_unix_s.saturating_sub(now_unix_s)),
            }
        };
        history.entries().iter().map(generation).collect()
    }

    pub(super) fn rules_text(&self, generation: Option<u32>) -> anyhow::Result<view::RulesText> {
        let history = &self.rule_state.history;
        let generation = match generation {
            Some(number) => history.rollback_target(Some(number))?.generation,
            None => history.in_force().context("no rule set is in force")?.generation,
        };
        let StoredRules { file, text } = read_text(&self.config, generation)?;
        Ok(view::RulesText {
            generation,
            file,
            text,
        })
    }

    /// The sites that the flows name.
    fn subjects(&self, flows: &[Query]) -> HashMap<String, Subject> {
        let sites = self.sites.get();
        let names = flows
            .iter()
            .flat_map(|flow| [Some(&flow.site), flow.to_site.as_ref()]);
        let known = names.flatten().filter_map(|name| {
            let site = sites.by_name(name)?;
            Some((name.clone(), (site.site, site.groups)))
        });
        known.collect()
    }

    /// Explains flows beside the control task: tables are built for it.
    pub(super) fn rules_explain(&self, flows: Vec<Query>, verdicts_alone: bool) -> anyhow::Result<Work> {
        if flows.len() > FLOWS_MAX {
            bail!(
                "{} flows are too many at once; ask about {FLOWS_MAX} at most",
                flows.len()
            );
        }
        let (generation, compiled) = self.rules.as_ref().context("no rule set is in force")?;
        let (generation, compiled) = (*generation, Arc::clone(compiled));
        let reasons = flows.len().saturating_mul(compiled.source.rules.len());
        if !verdicts_alone && reasons > REASONS_MAX {
            bail!(
                "{} flows and {} rules have too many reasons; ask about fewer flows at once, or for verdicts alone",
                flows.len(),
                compiled.source.rules.len()
            );
        }
        let config = Arc::clone(&self.config);
        let (unix_s, now_s) = (self.clock.now().unix_s, self.engine.now_s());
        let openings = self.names.openings.clone();
        let subjects = self.subjects(&flows);
        Ok(Box::new(move || {
            let explain = || {
                let directions = Directions::new(&config);
                let mut explainer =
                    Explainer::new(&compiled, directions, unix_s)?.with_openings(&openings, now_s);
                if verdicts_alone {
                    explainer = explainer.without_reasons();
                }
                let site = |name: &str| subjects.get(name).copied();
                let explanations = flows.iter().map(|query| {
                    Ok(view::RulesExplained {
                        generation,
                        explanation: explainer.explain(query, site)?,
                    })
                });
                explanations.collect::<anyhow::Result<Vec<_>>>()
            };
            explain().map_or_else(
                |error| Reply::Error(format!("{error:#}")),
                |view| Reply::view(&view),
            )
        }))
    }
}

/// Whether a file is there and is another rule set than the one that was stored.
fn says_something_else(file: &Path, stored: &StoredRules) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text != stored.text)
}

/// A rule set without rules: nothing passes.
pub(super) fn nothing() -> StoredRules {
    StoredRules {
        file: "(nothing)".to_owned(),
        text: String::new(),
    }
}

fn author(caller: &Caller, how: &HowToLoad) -> Author {
    Author {
        uid: caller.uid,
        login: caller.login.clone(),
        name: how.author.clone(),
    }
}

/// The folder of rule sets, for root alone as the one it is in.
fn make_folder(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_file_that_is_not_in_force_is_noticed() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("rules.toml");
        let stored = |text: &str| StoredRules {
            file: "elsewhere.toml".into(),
            text: text.into(),
        };
        assert!(!says_something_else(&file, &stored("a")), "there is none");
        std::fs::write(&file, "a").expect("written");
        assert!(!says_something_else(&file, &stored("a")));
        assert!(says_something_else(&file, &stored("b")));
    }
}
