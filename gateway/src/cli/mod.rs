//! The command line: one verb a file. People get tables, machines `--json`.
// Before the verbs, for its macros.
#[macro_use]
mod print;

mod connection;
mod dns;
mod drain;
mod drops;
mod events;
mod flows;
mod ike;
mod nat;
mod reload;
mod rules;
mod run;
mod sa;
mod status;
mod table;
mod trace;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::unistd::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::client::{Client, ClientError};
use crate::api::message::Request;
use crate::config::DEFAULT_SOCKET;

/// Refused or failed; the reason is on standard error.
const FAILED: u8 = 1;
/// No daemon answers. (2 is clap's: the command line itself is wrong.)
const UNREACHABLE: u8 = 3;

/// VPN connection-center gateway: IKEv2/IPsec, stateful filter and NAPT in XDP.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 usage, 3 no daemon answers, 141 nobody reads the output any more."
)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every verb that asks the daemon.
#[derive(clap::Args)]
struct Common {
    /// Socket of the daemon.
    #[arg(long, global = true, default_value = DEFAULT_SOCKET, value_name = "PATH", env = "GATEWAY_SOCKET")]
    socket: PathBuf,
    /// Print JSON in place of tables.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the daemon in the foreground.
    Run(run::Arguments),
    /// Check, load, explain and show rule sets.
    #[command(subcommand)]
    Rules(rules::Verb),
    /// How the gateway is.
    Status,
    /// List, show, rekey or close security associations.
    #[command(subcommand)]
    Sa(sa::Verb),
    /// What happened between the gateway and a site or peer, and why it failed.
    #[command(subcommand)]
    Ike(ike::Verb),
    /// State changes as they happen.
    Events(events::Arguments),
    /// Sites that the gateway connects to by itself.
    #[command(subcommand)]
    Connection(connection::Verb),
    /// Tracked connections.
    #[command(subcommand)]
    Flows(flows::Verb),
    /// Address translation.
    #[command(subcommand)]
    Nat(nat::Verb),
    /// The DNS proxy and the Internet sites that are open by name.
    #[command(subcommand)]
    Dns(dns::Verb),
    /// Read certificates, authorities, revocation lists and shared keys again.
    Reload,
    /// Send sites to another gateway, so that this one can be stopped.
    Drain(drain::Arguments),
    /// Packets of a site as they pass, place by place.
    Trace(trace::Arguments),
    /// Dropped packets by reason.
    Drops,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Arguments { common, verb } = Arguments::parse();
    let outcome = match verb {
        Verb::Run(arguments) => run::run(&arguments),
        Verb::Rules(verb) => rules::run(&common, verb),
        Verb::Status => status::run(&common),
        Verb::Sa(verb) => sa::run(&common, verb),
        Verb::Ike(verb) => ike::run(&common, verb),
        Verb::Events(arguments) => events::run(&common, &arguments),
        Verb::Connection(verb) => connection::run(&common, &verb),
        Verb::Flows(verb) => flows::run(&common, verb),
        Verb::Nat(verb) => nat::run(&common, verb),
        Verb::Dns(verb) => dns::run(&common, &verb),
        Verb::Reload => reload::run(&common),
        Verb::Drain(arguments) => drain::run(&common, &arguments),
        Verb::Trace(arguments) => trace::run(&common, arguments),
        Verb::Drops => drops::run(&common),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::complain(&words(&error));
            let unreachable = matches!(
                error.downcast_ref(),
                Some(ClientError::Unreachable { .. } | ClientError::Silent { .. })
            );
            ExitCode::from(if unreachable { UNREACHABLE } else { FAILED })
        }
    }
}

/// An error with its causes, each said once, and what to do where the system does not let this user.
fn words(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if words.is_empty() {
            words = cause;
        } else if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    let io =
        |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<io::Error>().map(io::Error::kind);
    let is_forbidden = error
        .chain()
        .filter_map(io)
        .any(|kind| kind == io::ErrorKind::PermissionDenied);
    if is_forbidden && !words.contains("to mend it") {
        words += match geteuid().is_root() {
            false => "\n  to mend it: become root",
            true => {
                "\n  to mend it: root alone is not enough, it takes the capabilities that examples/gateway.service names"
            }
        };
    }
    words
}

impl Common {
    /// Asks the daemon and shows the view: as it is with `--json`, otherwise by `show`.
    fn ask<V: DeserializeOwned>(&self, request: &Request, show: impl FnOnce(V)) -> anyhow::Result<()> {
        let view = Client::connect(&self.socket)?.call(request)?;
        if self.json {
            println!("{view:#}");
        } else {
            show(serde_json::from_value(view).map_err(ClientError::Answer)?);
        }
        Ok(())
    }

    /// Prints a view that is at hand already.
    fn print<V: Serialize>(&self, view: &V, show: impl FnOnce(&V)) -> anyhow::Result<()> {
        if self.json {
            println!("{:#}", serde_json::to_value(view)?);
        } else {
            show(view);
        }
        Ok(())
    }
}

impl Common {
    /// Asks the daemon for something that the verb works on before it prints.
    fn ask_plain<V: DeserializeOwned>(&self, request: &Request, take: impl FnOnce(V)) -> anyhow::Result<()> {
        let view = Client::connect(&self.socket)?.call(request)?;
        take(serde_json::from_value(view).map_err(ClientError::Answer)?);
        Ok(())
    }
}

/// Selection of a list.
#[derive(clap::Args)]
struct Selection {
    /// Of this site only.
    #[arg(long)]
    site: Option<String>,
    /// Show at most so many.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_says_each_cause_once_and_what_to_do() {
        let missing = ClientError::Unreachable {
            path: "/run/it.sock".into(),
            error: io::ErrorKind::NotFound.into(),
        };
        let said = words(&missing.into());
        assert_eq!(said.matches("entity not found").count(), 1, "{said}");
        assert!(said.ends_with("name its socket with --socket"), "{said}");
        let denied: io::Result<()> = Err(io::ErrorKind::PermissionDenied.into());
        let said = words(&denied.context("/var/lib/gateway").expect_err("denied"));
        assert!(
            said.starts_with("/var/lib/gateway: permission denied\n  to mend it: "),
            "{said}"
        );
    }
}
