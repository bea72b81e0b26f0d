//! `gateway rules check|load|show`
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;

use super::{Common, table};
use crate::api::message::Request;
use crate::api::view::{Loaded, Rule, RuleSet};
use crate::config::{Config, List, RuleSetFile};
use crate::core::policy;
use crate::core::sites::Sites;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Check a rule set without a daemon.
    Check {
        /// The rule set, TOML or JSON.
        file: PathBuf,
        /// Look names of sites and groups up in this configuration; without it they are not checked.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Put a rule set in force at once; a wrong one changes nothing.
    Load {
        /// The rule set, TOML or JSON.
        file: PathBuf,
    },
    /// The rule set in force, with hits.
    Show,
}

pub(super) fn run(common: &Common, verb: &Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Check { file, config } => check(common, file, config.as_deref()),
        Verb::Load { file } => load(common, file),
        Verb::Show => common.ask(&Request::RulesShow, show),
    }
}

fn check(common: &Common, file: &Path, config: Option<&Path>) -> anyhow::Result<()> {
    let parsed = RuleSetFile::parse(&file.display().to_string(), &read(file)?)?;
    let rules = parsed.rules.len();
    let compiled = match config {
        Some(path) => Some(compile(parsed, path)?),
        None => None,
    };
    if common.json {
        println!(
            "{:#}",
            serde_json::json!({ "rules": rules, "compiled": compiled })
        );
        return Ok(());
    }
    match compiled {
        Some(compiled) => println!(
            "{}: {rules} rules, {compiled} compiled, nothing wrong",
            file.display()
        ),
        None => {
            println!(
                "{}: {rules} rules, nothing wrong (--config gateway.toml checks sites and groups too)",
                file.display()
            );
        }
    }
    Ok(())
}

/// Number of compiled rules. Sites that an `[[any_site]]` admitted are known if the state folder is there.
fn compile(parsed: RuleSetFile, config: &Path) -> anyhow::Result<usize> {
    let config = Config::load(config)?;
    let sites = Sites::new(&config, crate::runtime::stored_assignments(&config)?)?;
    Ok(policy::compile(parsed, &sites)?.rules.len())
}

fn load(common: &Common, file: &Path) -> anyhow::Result<()> {
    let request = Request::RulesLoad {
        file: file.display().to_string(),
        text: read(file)?,
    };
    common.ask(&request, |Loaded { rules }: Loaded| {
        let (generation, count, compiled) = (rules.generation, rules.rules, rules.compiled);
        println!("generation {generation} is in force: {count} rules, {compiled} compiled");
    })
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))
}

fn show(set: RuleSet) {
    let active = set.active;
    println!(
        "generation {}: {} ({})",
        active.generation, active.name, active.file
    );
    let rows: Vec<_> = set
        .rules
        .into_iter()
        .enumerate()
        .map(|(index, rule)| row(index, rule))
        .collect();
    let head = [
        ">#",
        "NAME",
        "ACTION",
        "WHO",
        "SOURCE",
        "DESTINATION",
        "PROTO",
        "PORTS",
        ">HITS",
    ];
    table::print(&head, &rows);
    println!("what no rule allows is denied");
}

fn row(index: usize, Rule { rule, hits }: Rule) -> Vec<String> {
    let groups = rule.groups.0.iter().map(|group| format!("@{group}"));
    let who: Vec<_> = rule.sites.0.iter().cloned().chain(groups).collect();
    let ports = match rule.source_ports.is_any() {
        true => words(&rule.destination_ports),
        false => format!(
            "{} > {}",
            words(&rule.source_ports),
            words(&rule.destination_ports)
        ),
    };
    vec![
        (index + 1).to_string(),
        rule.name,
        format!("{:?}", rule.action).to_lowercase(),
        if who.is_empty() {
            "any".to_owned()
        } else {
            who.join(",")
        },
        words(&rule.source),
        words(&rule.destination),
        words(&rule.protocol),
        ports,
        hits.to_string(),
    ]
}

fn words<T: ToString>(list: &List<T>) -> String {
    match list.is_any() {
        true => "any".to_owned(),
        false => list.0.iter().map(T::to_string).collect::<Vec<_>>().join(","),
    }
}
