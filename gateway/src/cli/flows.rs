//! `gateway flows list`
use clap::Subcommand;

use super::{Common, Selection, table};
use crate::api::message::Request;
use crate::api::view::Flows;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Tracked connections, the most recent first.
    List(Selection),
}

pub(super) fn run(common: &Common, verb: Verb) -> anyhow::Result<()> {
    let Verb::List(Selection { site, limit }) = verb;
    common.ask(&Request::FlowsList { site, limit }, show)
}

fn show(Flows { total, flows }: Flows) {
    let shown = flows.len();
    let rows: Vec<_> = flows
        .into_iter()
        .map(|flow| {
            vec![
                flow.site,
                flow.protocol,
                format!("{}:{}", flow.source, flow.source_port),
                format!("{}:{}", flow.nat_address, flow.nat_port),
                format!("{}:{}", flow.destination, flow.destination_port),
                flow.state,
                flow.rule,
                flow.packets_out.to_string(),
                flow.packets_in.to_string(),
                table::duration(flow.idle_s.into()),
            ]
        })
        .collect();
    let head = [
        "SITE",
        "PROTO",
        "SOURCE",
        "TRANSLATED",
        "DESTINATION",
        "STATE",
        "RULE",
        ">OUT",
        ">IN",
        ">IDLE",
    ];
    table::print(&head, &rows);
    if shown < total {
        println!("{shown} of {total}; --limit shows more");
    }
}
