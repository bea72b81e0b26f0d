//! `gateway nat list`
use clap::Subcommand;

use super::{Common, Selection, table};
use crate::api::message::Request;
use crate::api::view::Mappings;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Translated addresses of sites, and the mappings in use.
    List(Selection),
}

pub(super) fn run(common: &Common, verb: Verb) -> anyhow::Result<()> {
    let Verb::List(Selection { site, limit }) = verb;
    common.ask(&Request::NatList { site, limit }, show)
}

fn show(
    Mappings {
        total,
        mappings,
        sites,
    }: Mappings,
) {
    let rows: Vec<_> = sites
        .into_iter()
        .map(|site| vec![site.site, site.nat_address.to_string(), site.groups.join(", ")])
        .collect();
    table::print(&["SITE", "TRANSLATED TO", "GROUPS"], &rows);
    println!();
    let shown = mappings.len();
    let rows: Vec<_> = mappings
        .into_iter()
        .map(|mapping| {
            vec![
                mapping.site,
                mapping.protocol,
                format!("{}:{}", mapping.inside, mapping.inside_port),
                format!("{}:{}", mapping.outside, mapping.outside_port),
                table::duration(mapping.age_s.into()),
            ]
        })
        .collect();
    table::print(&["SITE", "PROTO", "INSIDE", "OUTSIDE", ">AGE"], &rows);
    if shown < total {
        println!("{shown} of {total}; --limit shows more");
    }
}
