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
            let is_whole = mapping.published.is_some() && mapping.inside_port == 0;
            let end = |address, port| match is_whole {
                true => format!("{address} (all ports)"),
                false => format!("{address}:{port}"),
            };
            vec![
                mapping.site,
                if is_whole {
                    "any".to_owned()
                } else {
                    mapping.protocol
                },
                end(mapping.inside, mapping.inside_port),
                end(mapping.outside, mapping.outside_port),
                table::duration(mapping.age_s.into()),
                mapping.published.unwrap_or_default(),
            ]
        })
        .collect();
    table::print(
        &["SITE", "PROTO", "INSIDE", "OUTSIDE", ">AGE", "PUBLISHED AS"],
        &rows,
    );
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
