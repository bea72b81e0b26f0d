//! The lab's Internet: a web server of which rules allow some names, and the name server that knows them.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::center::PYTHON;
use super::state;
use super::topology::{DNS_UPSTREAM, Node, SITE_OTHER_WEB, SITE_UPDATE, UPDATE_PORT};
use crate::cmd;

const SCRIPT: &str = include_str!("dns.py");
const START_S: u64 = 10;
/// Seconds that the server's answer about [`NAME_UPDATE`] is good for.
pub const UPDATE_TTL_S: u32 = 10;
/// Seconds that its answer about [`NAME_BRIEF`] is good for.
const BRIEF_TTL_S: u32 = 2;
/// A name of the update server.
pub const NAME_UPDATE: &str = "update.av.example";
/// Another name of the update server, which has run out before anybody is bored.
pub const NAME_BRIEF: &str = "brief.av.example";
/// An alias of the update server that a name of no rule stands behind.
pub const NAME_ALIAS: &str = "cdn.av.example";
/// A name whose answer fits no datagram.
pub const NAME_BIG: &str = "big.av.example";
/// A name that leads into the center.
pub const NAME_INSIDE: &str = "inside.av.example";
/// A name of another site.
pub const NAME_OTHER: &str = "www.other.example";

/// What a resolver was told.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Answer {
    /// RCODE: 0 NOERROR, 3 NXDOMAIN, 5 REFUSED.
    pub code: u8,
    /// It was cut, and is to be asked for over TCP.
    pub cut: bool,
    /// Addresses.
    pub addresses: Vec<String>,
    /// Their TTLs.
    pub ttls: Vec<u32>,
}

/// A question that the upstream server was asked.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Question {
    /// The name, in lower case.
    pub name: String,
    /// Number of the type.
    #[serde(rename = "type")]
    pub kind: u16,
    /// Over UDP, or TCP.
    pub udp: bool,
}

pub(super) fn start() -> Result<()> {
    let script = state::path("dns.py");
    fs::write(&script, SCRIPT)?;
    let mut names = Node::Internet.command(PYTHON);
    names
        .arg(&script)
        .args(["serve", DNS_UPSTREAM])
        .arg(state::path("dns-questions.log"));
    names.args([
        format!("{NAME_UPDATE}={SITE_UPDATE}/{UPDATE_TTL_S}"),
        format!("{NAME_BRIEF}={SITE_UPDATE}/{BRIEF_TTL_S}"),
        format!("{NAME_ALIAS}=>edge.cdn.example"),
        format!("edge.cdn.example={SITE_UPDATE}/{UPDATE_TTL_S}"),
        format!("{NAME_BIG}=cut:{SITE_UPDATE}/{UPDATE_TTL_S}"),
        format!("{NAME_INSIDE}=10.100.0.10/60"),
        format!("{NAME_OTHER}={SITE_OTHER_WEB}/60"),
    ]);
    let mut web = Node::Internet.command(PYTHON);
    web.arg(state::path("server.py"))
        .arg(state::path("internet-requests.log"))
        .arg(UPDATE_PORT.to_string());
    for (name, mut command) in [("internet-dns", names), ("internet-web", web)] {
        let process = state::spawn(name, &mut command)?;
        let deadline = Instant::now() + Duration::from_secs(START_S);
        loop {
            let printed = fs::read_to_string(state::path(&format!("{name}.log"))).unwrap_or_default();
            if printed.contains("serving") {
                break;
            }
            if !process.is_running() || Instant::now() > deadline {
                bail!("{name} did not start:\n{printed}");
            }
            sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Asks a name server from a terminal.
///
/// # Errors
/// No answer in eight seconds.
pub fn ask(terminal: Node, server: &str, name: &str, kind: &str, over_tcp: bool) -> Result<Answer> {
    let mut command = terminal.command(PYTHON);
    command
        .arg(state::path("dns.py"))
        .args(["ask", server, name, kind])
        .args(over_tcp.then_some("tcp"));
    let printed = cmd::read(&mut command)?;
    serde_json::from_str(&printed).context(printed)
}

/// Every question that the upstream server was asked, oldest first.
///
/// # Errors
/// The log cannot be read.
pub fn questions() -> Result<Vec<Question>> {
    let log = fs::read_to_string(state::path("dns-questions.log")).unwrap_or_default();
    log.lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}
