//! `gateway rules explain` and `gateway rules test`
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::{offline, read};
use crate::cli::Common;
use crate::config::{Action, Direction, Protocol};
use crate::core::explain::{Explanation, Query, RuleName};

/// Rules before the one that decides that are shown without `--all`.
const EARLIER_SHOWN: usize = 20;

#[derive(clap::Args)]
pub(in crate::cli) struct Flow {
    /// The site that opens it, or that the center calls.
    #[arg(long)]
    site: String,
    /// Address of who opens it, as its own side knows it.
    #[arg(long, value_name = "ADDRESS")]
    from: Ipv4Addr,
    /// Address of who is called, as its own side knows it.
    #[arg(long, value_name = "ADDRESS")]
    to: Ipv4Addr,
    /// site-to-center, center-to-site, site-to-site or site-to-internet; left out: what the addresses say.
    #[arg(long)]
    direction: Option<Direction>,
    /// The site that is called by another site.
    #[arg(long, value_name = "SITE")]
    to_site: Option<String>,
    /// tcp, udp, icmp or a number.
    #[arg(long, alias = "protocol")]
    proto: Protocol,
    /// Destination port.
    #[arg(long)]
    port: Option<u16>,
    /// Source port; 49152 if left out.
    #[arg(long)]
    source_port: Option<u16>,
    /// A name that has just led the site to the address; left out: the names that are open in the gateway.
    #[arg(long)]
    name: Option<String>,
}

pub(super) fn explain(
    common: &Common,
    flow: Flow,
    all: bool,
    choice: &offline::Choice,
) -> anyhow::Result<()> {
    let query = Query {
        site: flow.site,
        from: flow.from,
        to: flow.to,
        direction: flow.direction,
        to_site: flow.to_site,
        protocol: flow.proto,
        port: flow.port,
        name: flow.name,
        source_port: flow.source_port,
    };
    for explanation in choice.ask(common, vec![query], false)? {
        if common.json {
            println!("{:#}", serde_json::to_value(&explanation)?);
        } else {
            print(&explanation, all);
        }
    }
    Ok(())
}

fn print(explanation: &Explanation, all: bool) {
    let hidden = match all {
        true => 0,
        false => explanation.earlier.len().saturating_sub(EARLIER_SHOWN),
    };
    if hidden > 0 {
        println!("  {hidden} rules before these do not match; --all shows why");
    }
    for passed in explanation.earlier.iter().skip(hidden) {
        println!("  {}: {}", name(&passed.rule), passed.because);
    }
    match &explanation.rule {
        Some(rule) => println!(
            "{}: {} decides ({}){}",
            explanation.verdict,
            name(rule),
            explanation.direction,
            match &explanation.opened_by {
                Some(opened) => format!("; {opened} has opened the address"),
                None => String::new(),
            }
        ),
        None => println!(
            "{}: no rule matches ({})",
            explanation.verdict, explanation.direction
        ),
    }
}

fn name(rule: &RuleName) -> String {
    format!("rule {} \"{}\" (line {})", rule.number, rule.name, rule.line)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFile {
    test: Vec<toml::Spanned<Expectation>>,
}

/// A flow and what the rules should say of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    site: String,
    from: Ipv4Addr,
    to: Ipv4Addr,
    direction: Option<Direction>,
    to_site: Option<String>,
    #[serde(alias = "proto")]
    protocol: Protocol,
    port: Option<u16>,
    source_port: Option<u16>,
    /// A name that has just led the site to the address.
    name: Option<String>,
    /// The verdict.
    expect: Action,
    /// The rule that should decide; any, if left out.
    rule: Option<String>,
}

pub(super) fn test(common: &Common, file: &Path, choice: &offline::Choice) -> anyhow::Result<()> {
    let text = read(file)?;
    let parsed: TestFile = toml::from_str(&text).with_context(|| file.display().to_string())?;
    let query = |expected: &toml::Spanned<Expectation>| {
        let expected = expected.get_ref();
        Query {
            site: expected.site.clone(),
            from: expected.from,
            to: expected.to,
            direction: expected.direction,
            to_site: expected.to_site.clone(),
            protocol: expected.protocol,
            port: expected.port,
            name: expected.name.clone(),
            source_port: expected.source_port,
        }
    };
    let answers = choice.ask(common, parsed.test.iter().map(query).collect(), true)?;
    let mut failures = Vec::new();
    for (expected, answer) in parsed.test.iter().zip(&answers) {
        let line = crate::config::line_of(&text, expected.span().start);
        let expected = expected.get_ref();
        let verdict = format!("{:?}", expected.expect).to_lowercase();
        let rule = answer.rule.as_ref().map(|rule| rule.name.as_str());
        let right_rule = expected.rule.as_deref().is_none_or(|wanted| rule == Some(wanted));
        if verdict == answer.verdict && right_rule {
            continue;
        }
        let wanted = match &expected.rule {
            Some(rule) => format!("{verdict} by \"{rule}\""),
            None => verdict,
        };
        let found = match rule {
            Some(rule) => format!("{} by \"{rule}\"", answer.verdict),
            None => format!("{}, no rule matches", answer.verdict),
        };
        failures.push(format!(
            "{}:{line}: expected {wanted}, but it is {found}",
            file.display()
        ));
    }
    let (count, failed) = (answers.len(), failures.len());
    if common.json {
        let view = serde_json::json!({ "tests": count, "failed": failed, "failures": failures });
        println!("{view:#}");
    } else {
        failures.iter().for_each(|failure| println!("{failure}"));
        println!("{}: {count} flows, {failed} with another verdict", file.display());
    }
    if failed > 0 {
        bail!(
            "{}: {failed} of {count} flows have another verdict",
            file.display()
        );
    }
    Ok(())
}
