//! `gateway sa list|show|rekey|close`
use clap::Subcommand;

use super::{Common, ike, table};
use crate::api::message::Request;
use crate::api::view::{ChildDetails, ChildSa, Commanded, IkeSa, SaDetails};

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
            let resource = child.resource.map(|id| format!(", for resource \"{id}\""));
            let resource = resource.unwrap_or_default();
            println!(
                "  {}  in {} out {}  {}{esn}{resource}",
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
        connection,
        own_identity,
        nat_local,
        nat_remote,
        ppk,
        certificate,
        nat_address,
        heard_before_s,
        rekey_in_s,
        reauthenticate_in_s,
        expire_in_s,
        waits_for_peer,
        child_details,
        history,
    } = sa;
    let row = |name: &str, value: String| println!("{name:<14}{value}");
    row(
        "IKE SA",
        format!("{}, {} for {}", one.id, one.state, table::duration(one.age_s)),
    );
    row("SPIs", format!("{spi_i} (initiator), {spi_r} (responder)"));
    let by = if initiator { "us" } else { "the peer" };
    row(
        "begun by",
        connection.map_or_else(|| by.to_owned(), |name| format!("{by}, connection {name}")),
    );
    row("site", one.site);
    if let Some(address) = nat_address {
        row("translated to", address.to_string());
    }
    row(
        "we",
        format!("{own_identity} at {}{}", one.local, behind(nat_local)),
    );
    row(
        "peer",
        format!("{} at {}{}", one.peer, one.remote, behind(nat_remote)),
    );
    if let Some(certificate) = certificate {
        row(
            "certificate",
            format!("{}, serial {}", certificate.subject, certificate.serial),
        );
        row(
            "",
            format!(
                "issued by {}, under {}",
                certificate.issuer, certificate.authority
            ),
        );
        row(
            "",
            format!(
                "valid from {} to {}, the whole chain to {}",
                certificate.not_before, certificate.not_after, certificate.chain_valid_until
            ),
        );
    } else {
        row("proved by", "a shared key".to_owned());
    }
    let beside = if ppk {
        ", with a post-quantum preshared key"
    } else {
        ""
    };
    row("algorithms", format!("{}{beside}", one.algorithms));
    row(
        "last heard",
        format!(
            "{} ago{}",
            table::duration(heard_before_s),
            if waits_for_peer {
                "; a request of ours waits for its answer"
            } else {
                ""
            }
        ),
    );
    row("next rekey", due(rekey_in_s));
    if reauthenticate_in_s.is_some() {
        row("next reauth", due(reauthenticate_in_s));
    }
    row("ends at last", due(expire_in_s));
    for (child, more) in one.children.iter().zip(&child_details) {
        self::child(child, more);
    }
    println!("history (UTC)");
    history.iter().for_each(ike::line);
}

fn behind(nat: bool) -> &'static str {
    if nat { ", behind a NAT" } else { "" }
}

fn due(in_s: Option<u64>) -> String {
    in_s.map_or_else(
        || "never".to_owned(),
        |in_s| format!("in {}", table::duration(in_s)),
    )
}

fn child(child: &ChildSa, more: &ChildDetails) {
    let row = |name: &str, value: String| println!("  {name:<12}{value}");
    let sends = if more.sends { "" } else { ", not sent on yet" };
    println!("{}, {}{sends}", child.id, more.phase);
    row("SPIs", format!("in {}, out {}", child.spi_in, child.spi_out));
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
    row("last used", format!("{} ago", table::duration(more.unused_for_s)));
    row(
        "next rekey",
        format!(
            "{}; {} sequence numbers are left",
            due(more.rekey_in_s),
            child.sequence_left
        ),
    );
    row("ends at last", due(more.expire_in_s));
}
