//! `gateway rules ...`
mod check;
mod diff;
mod explain;
mod load;
mod offline;
mod show;
mod words;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;

use super::{Common, table};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Check a rule set without a daemon: faults, and rules that are shadowed, redundant or conflicting.
    Check {
        /// The rule set, TOML or JSON.
        file: PathBuf,
        /// Look names of sites and groups up in this configuration; without it only the file itself is checked.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Fail if a rule is shadowed, redundant or conflicting.
        #[arg(long)]
        strict: bool,
    },
    /// Write a rule set in the other format; comments that begin with # are lost.
    Convert {
        /// The rule set, TOML or JSON.
        file: PathBuf,
        /// The format to write; left out, the one that the file is not in.
        #[arg(long, value_name = "toml|json")]
        to: Option<String>,
    },
    /// What a rule set would change.
    Diff {
        /// The new rule set, TOML or JSON.
        file: PathBuf,
        /// Compare with this file in place of the rule set in force.
        #[arg(long, value_name = "FILE", conflicts_with = "generation")]
        against: Option<PathBuf>,
        /// Compare with this generation in place of the one in force.
        #[arg(long, value_name = "N")]
        generation: Option<u32>,
    },
    /// Put a rule set in force at once; a wrong one changes nothing.
    Load {
        /// The rule set, TOML or JSON.
        file: PathBuf,
        #[command(flatten)]
        how: load::How,
    },
    /// Keep the rule set that waits to be confirmed.
    Confirm,
    /// Put an earlier rule set in force again.
    Rollback {
        /// Its generation; left out, the one that was in force before and was not withdrawn since.
        generation: Option<u32>,
        #[command(flatten)]
        how: load::How,
    },
    /// Rule sets that are or were in force: when, and by whom.
    History,
    /// The rule set in force, with hits.
    Show,
    /// Rules by hits since they were loaded.
    Hits {
        /// Only rules that decided nothing.
        #[arg(long)]
        unused: bool,
    },
    /// Which rule decides on a flow, and why each rule before it does not match.
    Explain {
        #[command(flatten)]
        flow: explain::Flow,
        /// Show all rules before the one that decides.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        offline: offline::Choice,
    },
    /// Check the verdicts that a file expects.
    Test {
        /// Flows and expected verdicts, TOML.
        file: PathBuf,
        #[command(flatten)]
        offline: offline::Choice,
    },
}

pub(super) fn run(common: &Common, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Check { file, config, strict } => check::check(common, &file, config.as_deref(), strict),
        Verb::Convert { file, to } => check::convert(&file, to.as_deref()),
        Verb::Diff {
            file,
            against,
            generation,
        } => diff::run(common, &file, against.as_deref(), generation),
        Verb::Load { file, how } => load::load(common, &file, how),
        Verb::Confirm => load::confirm(common),
        Verb::Rollback { generation, how } => load::rollback(common, generation, how),
        Verb::History => load::history(common),
        Verb::Show => show::show(common),
        Verb::Hits { unused } => show::hits(common, unused),
        Verb::Explain { flow, all, offline } => explain::explain(common, flow, all, &offline),
        Verb::Test { file, offline } => explain::test(common, &file, &offline),
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))
}
