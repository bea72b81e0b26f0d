//! The center's eligibility server and the terminals' side of it.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::state;
use super::topology::{FORBIDDEN_PORT, Node, SERVER, SERVER_PORT};
use crate::cmd;

const SCRIPT: &str = include_str!("server.py");
pub(super) const PYTHON: &str = "/usr/bin/python3";
const START_S: u64 = 10;

/// One request as the server saw it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Request {
    /// The client's address: after translation, the site's own.
    pub client: String,
    /// The client's port.
    pub port: u16,
    /// The port it asked on.
    pub server_port: u16,
    /// GET or POST.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The answer's status.
    pub status: u16,
}

pub(super) fn start() -> Result<()> {
    let script = state::path("server.py");
    fs::write(&script, SCRIPT)?;
    let ports = [SERVER_PORT, FORBIDDEN_PORT].map(|port| port.to_string());
    let mut command = Node::Center.command(PYTHON);
    command.arg(&script).arg(state::path("requests.log")).args(ports);
    let process = state::spawn("eligibility", &mut command)?;
    let deadline = Instant::now() + Duration::from_secs(START_S);
    let output = state::path("eligibility.log");
    loop {
        let printed = fs::read_to_string(&output).unwrap_or_default();
        if printed.contains("serving") {
            return Ok(());
        }
        if !process.is_running() || Instant::now() > deadline {
            bail!("the eligibility server did not start:\n{printed}");
        }
        sleep(Duration::from_millis(20));
    }
}

/// Every request the server has seen, oldest first.
pub fn requests() -> Result<Vec<Request>> {
    let log = fs::read_to_string(state::path("requests.log")).unwrap_or_default();
    log.lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

/// The SHA-256 (hexadecimal) of `/blob?bytes=N`, worked out without a network.
pub fn blob_digest(bytes: usize) -> Result<String> {
    let script = state::path("server.py");
    let printed = cmd::read(
        Command::new(PYTHON)
            .arg(script)
            .args(["--digest", &bytes.to_string()]),
    )?;
    Ok(printed.trim().to_owned())
}

/// `http://10.100.0.10:8080` and `path`.
#[must_use]
pub fn url(path: &str) -> String {
    format!("http://{SERVER}:{SERVER_PORT}{path}")
}

/// A `curl` on a terminal that fails on anything but success within `limit_s` seconds. Arguments may be added.
#[must_use]
pub fn curl(terminal: Node, url: &str, limit_s: u32) -> Command {
    let mut command = terminal.command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        &limit_s.to_string(),
        url,
    ]);
    command
}

/// Fetches `path` from the eligibility server and returns the body.
pub fn fetch(terminal: Node, path: &str) -> Result<String> {
    cmd::read(&mut curl(terminal, &url(path), 10))
}
