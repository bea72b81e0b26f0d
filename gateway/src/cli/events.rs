//! `gateway events`
use serde_json::Value;

use super::Common;
use crate::api::client::{Client, ClientError};
use crate::api::message::Request;
use crate::api::view::Events;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Go on with what happens from now on, until interrupted.
    #[arg(long)]
    follow: bool,
    /// Begin with at most so many of the last, of those that are shown.
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    last: usize,
    /// Of this site only.
    #[arg(long)]
    site: Option<String>,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { follow, last, site } = arguments;
    let mut client = Client::connect(&common.socket)?;
    let show = |event: &Value| show(common.json, site.as_deref(), event);
    let request = match follow {
        true => Request::EventsFollow {
            last: *last,
            site: site.clone(),
        },
        false => Request::EventsRecent {
            last: *last,
            site: site.clone(),
        },
    };
    let view = client.call(&request)?;
    let Events { events, .. } = serde_json::from_value(view).map_err(ClientError::Answer)?;
    events.iter().for_each(show);
    if *follow {
        client.follow(|line| {
            let event: Value = serde_json::from_str(line).map_err(ClientError::Answer)?;
            show(&event);
            Ok(())
        })?;
    }
    Ok(())
}

/// As a line of JSON, or of words.
fn show(json: bool, site: Option<&str>, event: &Value) {
    let field = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let gap = field("event") == "gap";
    if !gap && site.is_some_and(|site| field("site") != site) {
        return;
    }
    if json {
        println!("{event}");
        return;
    }
    let time = field("time").get(..19).unwrap_or_default().replace('T', " ");
    let site = match field("site") {
        "" => "-",
        site => site,
    };
    println!("{time:<19}  {:<7}  {site}  {}", field("severity"), field("text"));
}
