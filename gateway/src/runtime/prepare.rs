//! Everything that can be wrong before a packet flows: certificates, key, state folder, rule set.
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::credentials::Credentials;
use crate::config::{Config, RuleSetFile};
use crate::core::policy::{self, Compiled};
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
    /// The rule set to begin with; `None`: nothing passes.
    pub rules: Option<Compiled>,
}

/// A rule set as `rules load` stores it.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredRules {
    pub(super) file: String,
    pub(super) text: String,
}

/// File of site numbers and addresses.
#[must_use]
pub fn assignments_path(config: &Config) -> PathBuf {
    config.state_dir.join("sites.json")
}

/// File of the assignments made since [`assignments_path`] was written.
pub(super) fn first_visits_path(config: &Config) -> PathBuf {
    config.state_dir.join("sites.jsonl")
}

/// The numbers and addresses that sites have had so far.
///
/// # Errors
/// If the state folder cannot be read or is damaged.
pub fn stored_assignments(config: &Config) -> anyhow::Result<Assignments> {
    let assignments: Option<Assignments> = store::read_json(&assignments_path(config))?;
    let mut assignments = assignments.unwrap_or_default();
    for first_visit in store::read_json_lines::<Proposal>(&first_visits_path(config))? {
        assignments.accept(first_visit);
    }
    Ok(assignments)
}

/// File of the rule set that was loaded last.
pub(super) fn rules_path(config: &Config) -> PathBuf {
    config.state_dir.join("rules.json")
}

/// Reads and checks all that the configuration names. Writes nothing.
///
/// # Errors
/// What is wrong, with the file's name.
pub fn prepare(config: Config) -> anyhow::Result<Prepared> {
    let credentials = Credentials::read(&config)?;
    let sites = Sites::new(&config, stored_assignments(&config)?)?;
    let rules = first_rules(&config, &sites)?;
    Ok(Prepared {
        config,
        credentials,
        sites,
        rules,
    })
}

/// The rule set that was in force last; before the first `rules load`, that of the configuration.
fn first_rules(config: &Config, sites: &Sites) -> anyhow::Result<Option<Compiled>> {
    let path = rules_path(config);
    if let Some(StoredRules { file, text }) = store::read_json(&path)? {
        let compiled = compile(&file, &text, sites).with_context(|| {
            let path = path.display();
            format!("the rule set in force last no longer fits the configuration: mend that, or remove {path} to begin with [rules] file")
        })?;
        return Ok(Some(compiled));
    }
    let Some(file) = &config.rules_file else {
        return Ok(None);
    };
    let text =
        std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    Ok(Some(compile(&file.display().to_string(), &text, sites)?))
}

/// Parses and compiles a rule set against the sites.
pub(super) fn compile(file: &str, text: &str, sites: &Sites) -> anyhow::Result<Compiled> {
    Ok(policy::compile(RuleSetFile::parse(file, text)?, sites)?)
}

/// Makes the state folder, for root alone.
pub(super) fn make_state_dir(config: &Config) -> anyhow::Result<()> {
    let folder = &config.state_dir;
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| folder.display().to_string())
}
