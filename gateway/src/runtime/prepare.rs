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
/// names none any more. One that waited to be confirmed falls back.
fn first_rules(config: &Config, sites: &Sites, history: &History) -> anyhow::Result<Option<FirstRules>> {
    let in_force = history.in_force();
    if let (Some(waiting), Some(entry)) = (history.unconfirmed(), in_force) {
        let stored = match waiting.fall_back_to {
            Some(generation) => rules::read_text(config, generation)?,
            None => rules::nothing(),
        };
        return first(sites, stored, Origin::FellBack(entry.generation), history).map(Some);
    }
    if let Some(entry) = in_force.filter(|entry| entry.origin != Origin::Configured) {
        let stored = rules::read_text(config, entry.generation)?;
        let compiled = compile(&stored.file, &stored.text, sites).with_context(|| {
            let folder = config.state_dir.join("rules");
            format!("the rule set in force last no longer fits the configuration: mend that, or remove {} to begin with [rules] file", folder.display())
        })?;
        return Ok(Some(FirstRules {
            entry: entry.clone(),
            stored,
            compiled,
        }));
    }
    let stored = match &config.rules_file {
        Some(file) => StoredRules {
            file: file.display().to_string(),
            text: std::fs::read_to_string(file)
                .with_context(|| format!("{}: cannot be read", file.display()))?,
        },
        // The file was taken out of the configuration: the history says so, or a set that is tried would fall back to the
        // one that was withdrawn with it.
        None if in_force.is_some() => rules::nothing(),
        None => return Ok(None),
    };
    let mut first = first(sites, stored, Origin::Configured, history)?;
    // The same text as before is the same generation.
    if let Some(entry) = in_force
        && rules::read_text(config, entry.generation).is_ok_and(|before| before == first.stored)
    {
        first.entry = entry.clone();
    }
    Ok(Some(first))
}

fn first(
    sites: &Sites,
    stored: StoredRules,
    origin: Origin,
    history: &History,
) -> anyhow::Result<FirstRules> {
    let compiled = compile(&stored.file, &stored.text, sites)?;
    let at_unix_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let entry = Entry {
        generation: history.next(),
        at_unix_s,
        author: Author::default(),
        origin,
        file: stored.file.clone(),
        name: compiled.source.name.clone(),
        rules: compiled.source.rules.len(),
    };
    Ok(FirstRules {
        entry,
        stored,
        compiled,
    })
}

/// Parses and compiles a rule set against the sites.
pub(super) fn compile(file: &str, text: &str, sites: &dyn Directory) -> anyhow::Result<Compiled> {
    Ok(policy::compile(RuleSetFile::parse(file, text)?, sites)?)
}
