//! `gateway rules load`, `confirm`, `rollback` and `history`
use std::path::Path;

use jiff::Timestamp;

use super::{read, table};
use crate::api::message::{HowToLoad, Request};
use crate::api::view::{RulesGeneration, RulesLoaded};
use crate::cli::Common;
use crate::core::generations::Origin;

#[derive(clap::Args)]
pub(in crate::cli) struct How {
    /// Fall back after so many seconds, or when the gateway restarts, unless `gateway rules confirm` comes before.
    #[arg(long, value_name = "SECONDS")]
    confirm: Option<u32>,
    /// End running flows that the new rules do not allow.
    #[arg(long)]
    rejudge: bool,
    /// Who does this, for the history; the user is noted anyway.
    #[arg(long)]
    author: Option<String>,
}

impl From<How> for HowToLoad {
    fn from(how: How) -> Self {
        Self {
            confirm_s: how.confirm,
            rejudge: how.rejudge,
            author: how.author,
        }
    }
}

pub(super) fn load(common: &Common, file: &Path, how: How) -> anyhow::Result<()> {
    let request = Request::RulesLoad {
        file: file.display().to_string(),
        text: read(file)?,
        how: how.into(),
    };
    common.ask(&request, loaded)
}

pub(super) fn rollback(common: &Common, generation: Option<u32>, how: How) -> anyhow::Result<()> {
    let request = Request::RulesRollback {
        generation,
        how: how.into(),
    };
    common.ask(&request, loaded)
}

pub(super) fn confirm(common: &Common) -> anyhow::Result<()> {
    common.ask(
        &Request::RulesConfirm,
        |RulesLoaded { rules, .. }: RulesLoaded| {
            println!("generation {} is confirmed", rules.generation);
        },
    )
}

fn loaded(loaded: RulesLoaded) {
    let rules = loaded.rules;
    let (generation, count, compiled) = (rules.generation, rules.rules, rules.compiled);
    println!("generation {generation} is in force: {count} rules, {compiled} compiled");
    if let Some(before) = loaded.brought_back {
        println!("it is generation {before} again, from {}", rules.file);
    }
    if loaded.ended_flows > 0 {
        println!(
            "{} running flows ended that it does not allow",
            loaded.ended_flows
        );
    }
    if loaded.flows_not_judged {
        println!("running flows could not be judged yet; that is tried again each second, the log says why");
    }
    if let Some(seconds) = loaded.confirm_within_s {
        println!("it falls back in {seconds} s unless you run `gateway rules confirm`");
    }
}

pub(super) fn history(common: &Common) -> anyhow::Result<()> {
    common.ask(&Request::RulesHistory, |generations: Vec<RulesGeneration>| {
        let rows: Vec<_> = generations.into_iter().rev().map(row).collect();
        table::print(
            &[">GENERATION", "TIME", "WHO", "HOW", ">RULES", "FILE", ""],
            &rows,
        );
    })
}

fn row(generation: RulesGeneration) -> Vec<String> {
    let entry = generation.entry;
    let time = Timestamp::from_second(i64::try_from(entry.at_unix_s).unwrap_or_default());
    let user = entry
        .author
        .login
        .unwrap_or_else(|| format!("uid {}", entry.author.uid));
    let (who, how) = match entry.origin {
        Origin::Configured => (String::new(), "configured".to_owned()),
        Origin::Loaded => (user, "load".to_owned()),
        Origin::RolledBack(to) => (user, format!("rollback to {to}")),
        Origin::FellBack(from) => (String::new(), format!("{from} was not confirmed")),
    };
    let who = match entry.author.name {
        Some(name) => format!("{name} ({who})"),
        None => who,
    };
    let state = match (generation.in_force, generation.falls_back_in_s) {
        (true, Some(seconds)) => format!("in force, falls back in {seconds} s"),
        (true, None) => "in force".to_owned(),
        (false, _) => String::new(),
    };
    vec![
        entry.generation.to_string(),
        time.map_or_else(|_| entry.at_unix_s.to_string(), |time| time.to_string()),
        who,
        how,
        entry.rules.to_string(),
        entry.file,
        state,
    ]
}
