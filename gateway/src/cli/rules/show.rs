//! `gateway rules show` and `gateway rules hits`
use super::table;
use crate::api::message::Request;
use crate::api::view::{Rule, RuleSet};
use crate::cli::Common;
use crate::config::List;

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
    let head = [
        ">#",
        "NAME",
        "ACTION",
        "WHO",
        "SOURCE",
        "DESTINATION",
        "PROTO",
        "PORTS",
        "SCHEDULE",
        ">HITS",
    ];
    table::print(&head, &rows);
    println!("what no rule allows is denied");
}

fn row(index: usize, Rule { rule, hits }: Rule) -> Vec<String> {
    let groups = rule.groups.0.iter().map(|group| format!("@{group}"));
    let who: Vec<_> = rule.sites.0.iter().cloned().chain(groups).collect();
    let ports = match (rule.icmp_types.is_any(), rule.source_ports.is_any()) {
        (false, _) => words(&rule.icmp_types),
        (true, true) => words(&rule.destination_ports),
        (true, false) => format!(
            "{} > {}",
            words(&rule.source_ports),
            words(&rule.destination_ports)
        ),
    };
    let (protocol, ports) = match rule.services.is_any() {
        true => (words(&rule.protocol), ports),
        false => (words(&rule.services), String::new()),
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
        protocol,
        ports,
        rule.schedule.unwrap_or_default(),
        hits.to_string(),
    ]
}

fn words<T: ToString>(list: &List<T>) -> String {
    match list.is_any() {
        true => "any".to_owned(),
        false => list.0.iter().map(T::to_string).collect::<Vec<_>>().join(","),
    }
}
