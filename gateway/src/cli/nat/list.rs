//! `gateway nat list`
use crate::api::message::Request;
use crate::api::view::{Mappings, PortBlock, SiteAddress};
use crate::cli::{Common, Selection, table};
use crate::config;

pub(super) fn run(common: &Common, Selection { site, limit }: Selection) -> anyhow::Result<()> {
    common.ask(&Request::NatList { site, limit }, show)
}

fn show(
    Mappings {
        total,
        mappings,
        sites,
    }: Mappings,
) {
    let rows: Vec<_> = sites.iter().flat_map(rows).collect();
    table::print(
        &["SITE", "TRANSLATED TO", ">TCP", ">UDP", ">ICMP", "GROUPS"],
        &rows,
    );
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

/// A line for each block of a site.
fn rows(site: &SiteAddress) -> Vec<Vec<String>> {
    let groups = site.groups.join(", ");
    let row = |block: &PortBlock| {
        let ports = config::PortBlock {
            address: block.address,
            first_port: block.first_port,
            last_port: block.last_port,
        };
        let closed = if block.closed { " (closed)" } else { "" };
        vec![
            site.site.clone(),
            format!("{ports}{closed}"),
            block.tcp.to_string(),
            block.udp.to_string(),
            block.icmp.to_string(),
            groups.clone(),
        ]
    };
    site.blocks.iter().map(row).collect()
}
