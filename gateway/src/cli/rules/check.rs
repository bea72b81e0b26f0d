//! `gateway rules check` and `gateway rules convert`
use std::path::Path;

use anyhow::bail;

use super::{offline, read};
use crate::cli::Common;
use crate::config::{Config, Format, RuleSetFile};
use crate::core::analysis::analyse;
use crate::core::coverage::idle;
use crate::core::names::Openings;
use crate::core::policy::Compiled;

/// Findings that are shown.
const FINDINGS_MAX: usize = 100;

/// Whether the packet path can take it, at any time of its schedules, as `load` would ask it to.
fn fits(compiled: &Compiled) -> anyhow::Result<()> {
    let _numbers = Openings::default().number(&compiled.name_sets)?;
    let always = vec![true; compiled.schedules.len()];
    compiled.generation(1, 0, &always)?;
    Ok(())
}

pub(super) fn check(common: &Common, file: &Path, config: Option<&Path>, strict: bool) -> anyhow::Result<()> {
    let parsed = RuleSetFile::parse(&file.display().to_string(), &read(file)?)?;
    let rules = parsed.rules.len();
    let Some(config) = config else {
        if common.json {
            println!("{:#}", serde_json::json!({ "rules": rules }));
        } else {
            println!(
                "{}: {rules} rules, nothing wrong (--config gateway.toml checks sites, groups and what rules cover too)",
                file.display()
            );
        }
        return Ok(());
    };
    let config = Config::load(config)?;
    let (compiled, _) = offline::compile(parsed, &config)?;
    fits(&compiled)?;
    let (findings, pairs) = analyse(&compiled, FINDINGS_MAX);
    let idle = idle(&compiled, &config);
    let total = pairs + idle.len();
    if common.json {
        let view = serde_json::json!({
            "rules": rules,
            "compiled": compiled.rules.len(),
            "findings": findings,
            "idle": idle,
            "findings_total": total,
        });
        println!("{view:#}");
    } else {
        for finding in &findings {
            println!("{}: {finding}", file.display());
        }
        for idle in &idle {
            println!("{}: {idle}", file.display());
        }
        if pairs > findings.len() {
            println!("{} further findings", pairs - findings.len());
        }
        let words = match total {
            0 => "nothing wrong".to_owned(),
            1 => "1 finding".to_owned(),
            total => format!("{total} findings"),
        };
        println!(
            "{}: {rules} rules, {} compiled, {words}",
            file.display(),
            compiled.rules.len()
        );
    }
    if strict && total > 0 {
        bail!("{}: {total} findings, and --strict allows none", file.display());
    }
    Ok(())
}

pub(super) fn convert(file: &Path, to: Option<&str>) -> anyhow::Result<()> {
    let text = read(file)?;
    let parsed = RuleSetFile::parse(&file.display().to_string(), &text)?;
    let format = match (to, Format::of(&text)) {
        (Some("toml"), _) | (None, Format::Json) => Format::Toml,
        (Some("json"), _) | (None, Format::Toml) => Format::Json,
        (Some(other), _) => bail!("\"{other}\" is no format: write toml or json"),
    };
    print!("{}", parsed.write(format));
    Ok(())
}
