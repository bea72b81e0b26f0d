//! `gateway sa list|rekey|close`
use clap::Subcommand;

use super::{Common, table};
use crate::api::message::Request;
use crate::api::view::{Commanded, IkeSa};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// All IKE SAs with their Child SAs.
    List,
    /// Rekey the Child SAs of a site, or its IKE SA.
    Rekey {
        /// Name of the site.
        #[arg(long)]
        site: String,
        /// The IKE SA in place of its Child SAs.
        #[arg(long)]
        ike: bool,
    },
    /// Close the IKE SAs of a site with their Child SAs; the site may connect again.
    Close {
        /// Name of the site.
        #[arg(long)]
        site: String,
    },
}

pub(super) fn run(common: &Common, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::List => common.ask(&Request::SaList, show),
        Verb::Rekey { site, ike } => common.ask(&Request::SaRekey { site, ike }, |done: Commanded| {
            println!("rekeying {}", done.sas.join(", "));
        }),
        Verb::Close { site } => common.ask(&Request::SaClose { site }, |done: Commanded| {
            println!("closing {}", done.sas.join(", "));
        }),
    }
}

fn show(list: Vec<IkeSa>) {
    if list.is_empty() {
        println!("no SA");
    }
    for ike in list {
        let site = if ike.site.is_empty() {
            "(not authenticated)"
        } else {
            &ike.site
        };
        println!(
            "{site}  {} {} {}, {}",
            ike.id,
            ike.state,
            table::duration(ike.age_s),
            ike.algorithms
        );
        println!(
            "  {} === {}{}",
            ike.local,
            ike.remote,
            if ike.nat {
                " (NAT on the way: ESP in UDP)"
            } else {
                ""
            }
        );
        for child in ike.children {
            let esn = if child.esn { ", 64-bit ESN" } else { "" };
            println!(
                "  {}  in {} out {}  {}{esn}",
                child.id, child.spi_in, child.spi_out, child.algorithms
            );
            println!(
                "    {} === {}",
                child.ts_local.join(", "),
                child.ts_remote.join(", ")
            );
            println!(
                "    in {} packets, {}; out {} packets, {}",
                child.packets_in,
                table::bytes(child.bytes_in),
                child.packets_out,
                table::bytes(child.bytes_out)
            );
        }
    }
}
