//! Rule sets without a daemon.
use std::path::PathBuf;

use anyhow::Context as _;
use jiff::Timestamp;

use super::read;
use crate::api::message::Request;
use crate::api::view::RulesExplained;
use crate::cli::Common;
use crate::config::{Config, RuleSetFile};
use crate::core::directions::Directions;
use crate::core::explain::{Explainer, Explanation, Query};
use crate::core::policy::{self, Compiled};
use crate::core::sites::Sites;

/// Which rules are asked: those in force, or a file.
#[derive(clap::Args)]
pub(in crate::cli) struct Choice {
    /// Ask this rule set in place of the one in force.
    #[arg(long, value_name = "FILE", requires = "config")]
    rules: Option<PathBuf>,
    /// The configuration that sites and groups are looked up in, with --rules.
    #[arg(long, value_name = "FILE", requires = "rules")]
    config: Option<PathBuf>,
    /// Ask as of this time (2026-11-25T03:00:00+09:00) in place of now, with --rules: schedules.
    #[arg(long, value_name = "TIME", requires = "rules")]
    at: Option<Timestamp>,
}

/// Compiles a rule set against a configuration. Sites that an `[[any_site]]` admitted are known if the state folder is
/// there.
pub(super) fn compile(parsed: RuleSetFile, config: &Config) -> anyhow::Result<(Compiled, Sites)> {
    let sites = Sites::new(config, crate::runtime::stored_assignments(config)?)?;
    Ok((policy::compile(parsed, &sites)?, sites))
}

impl Choice {
    /// Asks about flows; with or without the rules that do not match.
    pub(super) fn ask(
        &self,
        common: &Common,
        flows: Vec<Query>,
        verdicts_alone: bool,
    ) -> anyhow::Result<Vec<Explanation>> {
        let (Some(rules), Some(config)) = (&self.rules, &self.config) else {
            let mut answers: Vec<RulesExplained> = Vec::new();
            // Without --json here: the caller prints.
            let request = Request::RulesExplain {
                flows,
                verdicts_alone,
            };
            common.ask_plain(&request, |view| answers = view)?;
            return Ok(answers.into_iter().map(|answer| answer.explanation).collect());
        };
        let parsed = RuleSetFile::parse(&rules.display().to_string(), &read(rules)?)?;
        let config = Config::load(config)?;
        let (compiled, sites) = compile(parsed, &config)?;
        let at = self.at.unwrap_or_else(Timestamp::now).as_second();
        let at = u64::try_from(at).context("a time before 1970")?;
        let mut explainer = Explainer::new(&compiled, Directions::new(&config), at)?;
        if verdicts_alone {
            explainer = explainer.without_reasons();
        }
        let site = |name: &str| sites.by_name(name).map(|site| (site.site, site.groups));
        let explain = |query: &Query| Ok(explainer.explain(query, site)?);
        flows.iter().map(explain).collect()
    }
}
