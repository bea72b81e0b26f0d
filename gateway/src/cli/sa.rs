//! `gateway sa list|show|rekey|close`
use clap::Subcommand;

use super::{Common, ike, table};
use crate::api::message::Request;
use crate::api::view::{ChildSa, Commanded, IkeSa, SaDetails};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// All IKE SAs with their Child SAs.
    List,
    /// Everything known of one SA, with its history.
    Show {
        /// ike#N, child#N, or an SPI in hex.
        id: String,
    },
    /// Rekey an SA, or the Child SAs or the IKE SA of a site.
    Rekey {
        #[command(flatten)]
        which: Which,
        /// With --site: the IKE SA in place of its Child SAs.
        #[arg(long, requires = "site")]
        ike: bool,
    },
    /// Close an SA, or the IKE SAs of a site with their Child SAs; the site may connect again.
    Close {
        #[command(flatten)]
        which: Which,
    },
}

/// One SA, or those of a site.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// ike#N, child#N, or an SPI in hex.
    id: Option<String>,
    /// Name of a site.
    #[arg(long)]
    site: Option<String>,
}

pub(super) fn run(common: &Common, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::List => common.ask(&Request::SaList, show),
        Verb::Show { id } => common.ask(&Request::SaShow { id }, details),
        Verb::Rekey {
            which: Which { id, site },
            ike,
        } => common.ask(&Request::SaRekey { site, id, ike }, |done: Commanded| {
            println!("rekeying {}", done.sas.join(", "));
        }),
        Verb::Close {
            which: Which { id, site },
        } => common.ask(&Request::SaClose { site, id }, |done: Commanded| {
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

fn details(sa: SaDetails) {
    let SaDetails {
        ike: one,
        spis: [spi_i, spi_r],
        initiator,
        own_identity,
        nat_address,
        history,
    } = sa;
    let nat = if one.nat { "on the way: ESP in UDP" } else { "none" };
    let row = |name: &str, value: String| println!("{name:<12}{value}");
    row(
        "IKE SA",
        format!("{}, {}, {}", one.id, one.state, table::duration(one.age_s)),
    );
    row("SPIs", format!("{spi_i} (initiator) {spi_r} (responder)"));
    row("begun by", if initiator { "us" } else { "the peer" }.to_owned());
    row(
        "site",
        if one.site.is_empty() {
            "(not authenticated)".to_owned()
        } else {
            one.site
        },
    );
    if let Some(address) = nat_address {
        row("translated", address.to_string());
    }
    row("we are", format!("{own_identity} at {}", one.local));
    row("the peer is", format!("{} at {}", one.peer, one.remote));
    row("NAT", nat.to_owned());
    row("algorithms", one.algorithms);
    one.children.iter().for_each(child);
    println!("history (UTC)");
    history.iter().for_each(ike::line);
}

fn child(child: &ChildSa) {
    let row = |name: &str, value: String| println!("  {name:<12}{value}");
    println!("{}", child.id);
    row("SPIs", format!("in {} out {}", child.spi_in, child.spi_out));
    let esn = if child.esn { ", 64-bit ESN" } else { "" };
    row("algorithms", format!("{}{esn}", child.algorithms));
    row(
        "selectors",
        format!("{} === {}", child.ts_local.join(", "), child.ts_remote.join(", ")),
    );
    row(
        "received",
        format!("{} packets, {}", child.packets_in, table::bytes(child.bytes_in)),
    );
    row(
        "sent",
        format!("{} packets, {}", child.packets_out, table::bytes(child.bytes_out)),
    );
    let dropped = [
        (child.replayed, "replayed"),
        (child.unauthentic, "forged or damaged"),
        (child.refused, "refused"),
    ];
    let dropped: Vec<_> = dropped.map(|(count, word)| format!("{count} {word}")).into();
    row("dropped", dropped.join(", "));
    row("numbers left", child.sequence_left.to_string());
}
