//! `gateway connection list|up|down`
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Subcommand;

use super::{Common, table};
use crate::api::client::{Client, ClientError};
use crate::api::message::Request;
use crate::api::view::{Commanded, Connection};

/// How often a connection that comes up is looked at.
const LOOK_MS: u64 = 100;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// All, with state and the reason of the last failure.
    List,
    /// Bring one up, and wait until it is.
    Up {
        /// Its name.
        name: String,
        /// Seconds to wait for it; 0: do not wait.
        #[arg(long, default_value_t = 15, value_name = "SECONDS")]
        wait: u64,
    },
    /// Take one down; it stays down until `up` or, with start = "on-demand", until a packet wants it.
    Down {
        /// Its name.
        name: String,
    },
}

pub(super) fn run(common: &Common, verb: &Verb) -> anyhow::Result<()> {
    match verb {
        Verb::List => common.ask(&Request::ConnectionList, show),
        Verb::Up { name, wait } => up(common, name, Duration::from_secs(*wait)),
        Verb::Down { name } => {
            let request = Request::ConnectionDown { name: name.clone() };
            common.ask(&request, |done: Commanded| match done.sas.is_empty() {
                true => println!("{name} had no SA"),
                false => println!("closing {}", done.sas.join(", ")),
            })
        }
    }
}

fn up(common: &Common, name: &str, wait: Duration) -> anyhow::Result<()> {
    let request = Request::ConnectionUp {
        name: name.to_owned(),
    };
    if wait.is_zero() {
        return common.ask(&request, |_: Commanded| println!("{name} is being brought up"));
    }
    let mut client = Client::connect(&common.socket)?;
    client.call(&request)?;
    let deadline = Instant::now() + wait;
    loop {
        let list = client.call(&Request::ConnectionList)?;
        let list: Vec<Connection> = serde_json::from_value(list).map_err(ClientError::Answer)?;
        let Some(connection) = list.into_iter().find(|connection| connection.name == name) else {
            bail!("no connection is named \"{name}\"");
        };
        match connection.state.as_str() {
            "up" => {
                common.print(&connection, |connection| {
                    println!("{name} is up: {}", connection.sas.join(", "));
                })?;
                return Ok(());
            }
            state @ ("down" | "waiting" | "childless") if !connection.failure.is_empty() => bail!(
                "{name} is {state}: {}\n  to see more: `gateway ike log {}`",
                connection.failure,
                connection.site
            ),
            _ if Instant::now() >= deadline => bail!(
                "{name} is not up after {} s, and is still tried\n  to see more: `gateway ike log {}`",
                wait.as_secs(),
                connection.site
            ),
            _ => sleep(Duration::from_millis(LOOK_MS)),
        }
    }
}

fn show(list: Vec<Connection>) {
    if list.is_empty() {
        println!("no connection is configured");
        return;
    }
    let rows: Vec<_> = list
        .into_iter()
        .map(|connection| {
            let remote: Vec<_> = connection.remote.iter().map(ToString::to_string).collect();
            vec![
                connection.name,
                connection.site,
                remote.join(","),
                connection.start,
                match connection.retry_in_s {
                    Some(seconds) => format!("{} {}", connection.state, table::duration(seconds)),
                    None => connection.state,
                },
                connection.sas.join(","),
                connection.failure,
            ]
        })
        .collect();
    table::print(
        &[
            "CONNECTION",
            "SITE",
            "REMOTE",
            "START",
            "STATE",
            "SAS",
            "LAST FAILURE",
        ],
        &rows,
    );
}
