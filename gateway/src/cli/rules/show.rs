//! `gateway rules show` and `gateway rules hits`
use super::{table, words};
use crate::api::message::Request;
use crate::api::view::{Rule, RuleSet};
use crate::cli::Common;

pub(super) fn show(common: &Common) -> anyhow::Result<()> {
    common.ask(&Request::RulesShow, print)
}

pub(super) fn hits(common: &Common, unused: bool) -> anyhow::Result<()> {
    let mut set = None;
    common.ask_plain(&Request::RulesShow, |view: RuleSet| set = Some(view))?;
    let Some(RuleSet { active, rules }) = set else {
        return Ok(());
    };
    let mut rules: Vec<_> = (1..)
        .zip(rules)
        .filter(|(_, rule)| !unused || rule.hits == 0)
        .collect();
    rules.sort_by_key(|(number, rule)| (std::cmp::Reverse(rule.hits), *number));
    if common.json {
        let rules: Vec<_> = rules
            .iter()
            .map(|(number, rule): &(u32, Rule)| {
                serde_json::json!({ "number": number, "name": rule.rule.name, "hits": rule.hits })
            })
            .collect();
        println!(
            "{:#}",
            serde_json::json!({ "generation": active.generation, "rules": rules })
        );
        return Ok(());
    }
    println!(
        "generation {}: new flows and denied packets since it was loaded",
        active.generation
    );
    let rows: Vec<_> = rules
        .into_iter()
        .map(|(number, rule)| vec![rule.hits.to_string(), number.to_string(), rule.rule.name])
        .collect();
    table::print(&[">HITS", ">#", "NAME"], &rows);
    Ok(())
}

fn print(set: RuleSet) {
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
    let head: Vec<_> = [">#", "NAME"]
        .into_iter()
        .chain(words::HEAD)
        .chain([">HITS"])
        .collect();
    table::print(&head, &rows);
    println!("what no rule allows is denied");
}

fn row(index: usize, Rule { rule, hits }: Rule) -> Vec<String> {
    let words = words::of(&rule);
    let number = (index + 1).to_string();
    [number, rule.name]
        .into_iter()
        .chain(words)
        .chain([hits.to_string()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RuleSetFile;

    fn rows(text: &str) -> Vec<Vec<String>> {
        let file = RuleSetFile::parse("rules.toml", text).expect("right");
        let rules = file.rules.into_iter().enumerate();
        let rule = |found: crate::config::SourceRule| Rule {
            rule: found.model,
            hits: 0,
        };
        rules.map(|(index, found)| row(index, rule(found))).collect()
    }

    /// Regression: a rule of names was shown to be about any destination, one from site to site as a catch-all, and no direction
    /// at all.
    #[test]
    fn a_row_has_everything_that_a_rule_is_about() {
        let rows = rows(
            "[[rule]]\nname = \"names\"\naction = \"allow\"\ndirection = \"site-to-internet\"\nfqdn = [\"*.av.example\", \"b.example\"]\n\
             [[rule]]\nname = \"both\"\naction = \"allow\"\ndirection = \"site-to-internet\"\nfqdn = \"b.example\"\ndestination = \"192.0.2.1\"\n\
             [[rule]]\nname = \"pictures\"\naction = \"allow\"\ndirection = \"site-to-site\"\nto_sites = \"b\"\nto_groups = \"archives\"\n\
             [[rule]]\nname = \"rest\"\naction = \"deny\"\n",
        );
        let about: Vec<Vec<&str>> = rows
            .iter()
            .map(|row| row.iter().map(String::as_str).skip(3).take(5).collect())
            .collect();
        assert_eq!(
            about,
            [
                ["site-to-internet", "any", "", "any", "*.av.example,b.example"],
                ["site-to-internet", "any", "", "any", "192.0.2.1,b.example"],
                ["site-to-site", "any", "b,@archives", "any", "any"],
                ["site-to-center", "any", "", "any", "any"],
            ]
        );
    }
}
