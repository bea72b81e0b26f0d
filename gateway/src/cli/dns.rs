//! `gateway dns list`
use clap::Subcommand;

use super::{Common, table};
use crate::api::message::Request;
use crate::api::view::OpenNames;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Addresses that are open by name, and what the DNS proxy has answered.
    List,
}

pub(super) fn run(common: &Common, verb: &Verb) -> anyhow::Result<()> {
    let Verb::List = verb;
    common.ask(&Request::DnsList, show)
}

fn show(
    OpenNames {
        proxy,
        counters,
        names,
    }: OpenNames,
) {
    match proxy {
        Some(listen) => println!("DNS proxy at {listen}"),
        None => println!("no DNS proxy: gateway.toml has no [dns]"),
    }
    let rows: Vec<_> = names
        .into_iter()
        .map(|open| {
            vec![
                open.name,
                open.address.to_string(),
                table::duration(open.left_s.into()),
                open.set.unwrap_or_else(|| "(no rule any more)".to_owned()),
                open.rules.join(", "),
            ]
        })
        .collect();
    table::print(&["NAME", "ADDRESS", ">LEFT", "NAMES OF", "RULES"], &rows);
    println!();
    let rows: Vec<_> = [
        ("asked", counters.queries),
        ("answered with addresses", counters.opened),
        ("answered without addresses", counters.empty),
        ("refused: not for this site", counters.refused),
        (
            "refused: leads to an address that is never opened",
            counters.private,
        ),
        ("dropped: more than the site may ask", counters.over_rate),
        ("dropped: no room for another question", counters.no_room),
        ("dropped: from no site", counters.unknown_client),
        ("malformed", counters.malformed),
        ("failed: no upstream server has an answer", counters.failed),
        ("failed: no room to open the addresses", counters.not_opened),
        (
            "upstream messages that answer nothing that was asked",
            counters.spoofed,
        ),
    ]
    .into_iter()
    .map(|(words, count)| vec![words.to_owned(), count.to_string()])
    .collect();
    table::print(&["QUESTIONS", ">COUNT"], &rows);
}
