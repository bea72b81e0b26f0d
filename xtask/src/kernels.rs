//! `cargo xtask kernels`: the packet vectors (`tests/tests/prog_run.rs`) on other kernels than this machine's. The verifier
//! changes with each, and refuses programs that the one before it took.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::bench::pktgen::guest::{self, Says};
use crate::bench::pktgen::packages::{Guest, Parts};
use crate::{cmd, paths, setup};

/// The suite.
const SUITE: &str = "prog_run";
/// How long a guest may take, where all is emulated.
const LIMIT: Duration = Duration::from_secs(1800);

/// Runs the vectors on one kernel or all of them. A guest ends with the call; its console is left in `target/kernels`.
///
/// # Errors
/// A guest cannot be made, or a kernel refuses a program or has another opinion of a packet.
pub fn run(only: Option<Guest>) -> Result<()> {
    let program = suite()?;
    let mut failed = Vec::new();
    for guest in Guest::value_variants() {
        if only.is_some_and(|only| only != *guest) {
            continue;
        }
        let name = guest.to_possible_value().context("no name")?;
        let name = name.get_name();
        println!("== {name}");
        match in_guest(*guest, name, &program) {
            Ok(result) => println!("  {result}"),
            Err(error) => {
                println!("{error:#}");
                failed.push(name.to_owned());
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("the vectors do not hold on: {}", failed.join(", "))
}

/// The line with the suite's result.
fn in_guest(guest: Guest, name: &str, program: &Path) -> Result<String> {
    setup::guest(guest)?;
    let folder = paths::target().join("kernels");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let [initramfs, log] = ["cpio", "log"].map(|ending| folder.join(format!("{name}.{ending}")));
    let parts = Parts::open(guest);
    let programs: (&[&Path], Says) = (&[program], Says::Nothing);
    let arguments = ["--test-threads", "1"].map(str::to_owned);
    guest::pack(&parts, programs, &[], &arguments, &initramfs)?;
    guest::run(&parts, &initramfs, &log, LIMIT, |_| {})?;
    let said = fs::read(&log).with_context(|| log.display().to_string())?;
    let said = String::from_utf8_lossy(&said);
    let result = said.lines().find(|line| line.starts_with("test result: "));
    Ok(result.context("the suite gave no result")?.trim_end().to_owned())
}

/// The suite's program, built.
fn suite() -> Result<PathBuf> {
    let words = "test --package gateway-tests --no-run --message-format json-render-diagnostics --test";
    let mut cargo = cmd::cmd("cargo", words.split(' '));
    let said = cmd::read_beside_terminal(cargo.arg(SUITE).current_dir(paths::repository()))?;
    said.lines()
        .filter_map(|line| executable(&serde_json::from_str(line).ok()?))
        .next_back()
        .with_context(|| format!("cargo built no {SUITE}"))
}

/// The program in what cargo says of it.
fn executable(message: &Value) -> Option<PathBuf> {
    let of_suite = message["target"]["name"] == SUITE;
    let path = message["executable"].as_str()?;
    of_suite.then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_is_found_among_what_cargo_built() {
        let message = |name: &str| serde_json::json!({"reason": "compiler-artifact", "target": {"name": name}, "executable": "/target/it"});
        assert_eq!(executable(&message(SUITE)), Some("/target/it".into()));
        assert_eq!(executable(&message("netns")), None);
        assert_eq!(executable(&serde_json::json!({"reason": "build-finished"})), None);
    }
}
