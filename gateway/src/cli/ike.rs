//! `gateway ike log|peers`
use clap::Subcommand;

use super::{Common, table};
use crate::api::message::Request;
use crate::api::view::{IkeLog, IkePeers, LogLine};
use crate::core::journal::{Severity, utc};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// What happened between the gateway and a site or peer: set-ups, rekeys, refusals and why.
    Log {
        /// Name of a site, its identity, or the address of any peer.
        #[arg(value_name = "SITE|IDENTITY|ADDRESS")]
        of: String,
    },
    /// Addresses of peers that are no site, with what happened last.
    Peers,
}

pub(super) fn run(common: &Common, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Log { of } => {
            let title = of.clone();
            common.ask(&Request::IkeLog { of }, |log: IkeLog| show(&title, &log))
        }
        Verb::Peers => common.ask(&Request::IkePeers, peers),
    }
}

fn show(of: &str, log: &IkeLog) {
    if log.lines.is_empty() {
        match &log.site {
            Some(site) => {
                println!("{site}: nothing happened since the gateway started; no IKE message of it arrived")
            }
            None => println!("{of}: nothing was heard from there"),
        }
        return;
    }
    log.lines.iter().for_each(line);
}

/// `2026-11-25 09:41:02  warning  text (from 203.0.113.9, not proven; 12 times since 09:30:00)`
pub(super) fn line(line: &LogLine) {
    let mut notes = Vec::new();
    if line.unproven {
        let from = line
            .remote
            .map(|remote| format!("from {}, ", remote.ip()))
            .unwrap_or_default();
        notes.push(format!("{from}identity not proven"));
    }
    if line.count > 1 {
        notes.push(format!("{} times since {}", line.count, time(line.first_ms)));
    }
    let notes = match notes.is_empty() {
        true => String::new(),
        false => format!(" ({})", notes.join("; ")),
    };
    println!(
        "{}  {:<7}  {}{notes}",
        time(line.last_ms),
        word(line.severity),
        line.text
    );
}

/// To the second, in UTC.
pub(super) fn time(unix_ms: u64) -> String {
    let text = utc(unix_ms);
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn peers(IkePeers { peers }: IkePeers) {
    if peers.is_empty() {
        println!("no peer was heard that is no site");
        return;
    }
    let rows: Vec<_> = peers
        .into_iter()
        .map(|peer| {
            vec![
                peer.address.to_string(),
                peer.lines.to_string(),
                time(peer.last_ms),
                peer.last,
            ]
        })
        .collect();
    table::print(&["ADDRESS", ">EVENTS", "LAST (UTC)", "WHAT"], &rows);
}
