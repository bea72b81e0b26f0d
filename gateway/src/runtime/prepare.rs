//! Everything that can be wrong before a packet flows: certificates, key, state folder, rule set.
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::credentials::Credentials;
use super::rules::{self, StoredRules};
use crate::config::{Config, RuleSetFile};
use crate::core::generations::{Author, Entry, History, Origin};
use crate::core::policy::{self, Compiled, Directory};
use crate::core::pools::{Assignments, Proposal};
use crate::core::sites::Sites;
use crate::store;

/// What is checked and ready to run.
pub struct Prepared {
    /// Configuration.
    pub config: Config,
    /// What proves who is who.
    pub credentials: Credentials,
    /// Sites with their addresses.
    pub sites: Sites,
    /// Rule sets of before.
    pub history: History,
    /// The rule set to begin with; `None`: nothing passes.
    pub rules: Option<FirstRules>,
}

/// The rule set to begin with.
pub struct FirstRules {
    /// Its entry in the history; the last one of the history if that is in force still.
    pub entry: Entry,
    /// What is stored of it.
    pub stored: StoredRules,
    /// Ready to be loaded.
    pub compiled: Compiled,
}

/// File of site numbers, addresses and port blocks in the state folder.
const ASSIGNMENTS: &str = "sites.json";
/// File of what has changed of them since.
const FIRST_VISITS: &str = "sites.jsonl";

/// File of site numbers and addresses.
#[must_use]
pub fn assignments_path(config: &Config) -> PathBuf {
    config.state_dir.join(ASSIGNMENTS)
}

/// File of the assignments made since [`assignments_path`] was written.
pub(super) fn first_visits_path(config: &Config) -> PathBuf {
    config.state_dir.join(FIRST_VISITS)
}

/// The numbers and addresses that sites have had so far.
///
/// # Errors
/// If the state folder cannot be read or is damaged.
pub fn stored_assignments(config: &Config) -> anyhow::Result<Assignments> {
    read_assignments(&config.state_dir)
}

/// The same, from the state folder.
///
/// # Errors
/// If it cannot be read or is damaged.
pub fn read_assignments(state_dir: &Path) -> anyhow::Result<Assignments> {
    let path = state_dir.join(ASSIGNMENTS);
    let assignments: Option<Assignments> = store::read_json(&path)?;
    let mut assignments = assignments.unwrap_or_default();
    for change in store::read_json_lines::<Proposal>(&state_dir.join(FIRST_VISITS))? {
        assignments.accept(change);
    }
    assignments.check().with_context(|| path.display().to_string())?;
    Ok(assignments)
}

/// Reads and checks all that the configuration names. Writes nothing.
///
/// # Errors
/// What is wrong, with the file's name.
pub fn prepare(config: Config) -> anyhow::Result<Prepared> {
    let credentials = Credentials::read(&config)?;
    let sites = Sites::new(&config, stored_assignments(&config)?)?;
    let history = rules::read_history(&config)?;
    let rules = first_rules(&config, &sites, &history)?;
    Ok(Prepared {
        config,
        credentials,
        sites,
        history,
        rules,
    })
}

/// The rule set that was in force last; before the first `rules load`, that of the configuration, and nothing once that
/// names none any more. One that waited to be confirmed falls back: if that is to the configuration's, to what it says now.
fn first_rules(config: &Config, sites: &Sites, history: &History) -> anyhow::Result<Option<FirstRules>> {
    let last = history.in_force();
    let before = match history.unconfirmed() {
        Some(_) => history.fall_back_entry(),
        None => last,
    };
    let kept = before
        .map(|entry| rules::read_text(config, entry.generation))
        .transpose();
    let follows = last.is_none() || before.is_some_and(|entry| history.is_configured(entry));
    let (stored, is_kept) = if follows {
        let says = match configured(config)? {
            Some(says) => says,
            // The file was taken out of the configuration: the history says so, or a set that is tried would fall back to
            // the one that was withdrawn with it.
            None if last.is_some() => rules::nothing(),
            None => return Ok(None),
        };
        let is_kept = kept.is_ok_and(|kept| kept.as_ref() == Some(&says));
        (says, is_kept)
    } else {
        (kept?.unwrap_or_else(rules::nothing), true)
    };
    let compiled = match is_kept {
        true => compile_kept(&stored.file, &stored.text, sites),
        false => compile(&stored.file, &stored.text, sites),
    };
    let compiled = match follows {
        true => compiled?,
        false => compiled.with_context(|| {
            let folder = config.state_dir.join("rules");
            format!("the rule set in force last no longer fits the configuration: mend that, or remove {} to begin with [rules] file", folder.display())
        })?,
    };
    let new = |origin| new_entry(&stored, &compiled, origin, history);
    let entry = match (last, history.unconfirmed()) {
        (Some(last), Some(_)) => new(Origin::FellBack(last.generation)),
        // The same text as before is the same generation.
        (Some(last), None) if is_kept => last.clone(),
        (Some(_) | None, _) => new(Origin::Configured),
    };
    Ok(Some(FirstRules {
        entry,
        stored,
        compiled,
    }))
}

/// What the configuration says.
fn configured(config: &Config) -> anyhow::Result<Option<StoredRules>> {
    let Some(file) = &config.rules_file else {
        return Ok(None);
    };
    let text =
        std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let file = file.display().to_string();
    Ok(Some(StoredRules { file, text }))
}

fn new_entry(stored: &StoredRules, compiled: &Compiled, origin: Origin, history: &History) -> Entry {
    let at_unix_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    Entry {
        generation: history.next(),
        at_unix_s,
        author: Author::default(),
        origin,
        file: stored.file.clone(),
        name: compiled.source.name.clone(),
        rules: compiled.source.rules.len(),
    }
}

/// Parses and compiles a rule set against the sites.
pub(super) fn compile(file: &str, text: &str, sites: &dyn Directory) -> anyhow::Result<Compiled> {
    Ok(policy::compile(RuleSetFile::parse(file, text)?, sites)?)
}

/// The same of a rule set that is in force or was before. What would be a fault of a new one, but has a meaning, keeps it.
pub(super) fn compile_kept(file: &str, text: &str, sites: &dyn Directory) -> anyhow::Result<Compiled> {
    let (compiled, tolerated) = policy::compile_kept(RuleSetFile::parse(file, text)?, sites)?;
    if !tolerated.0.is_empty() {
        tracing::error!(
            faults = %tolerated,
            "the rule set has groups of gateway.toml's names: its rules mean its own groups, as before. It could not be loaded again: mend it, and load it"
        );
    }
    Ok(compiled)
}
