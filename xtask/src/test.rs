//! `cargo xtask test`: every check of the project, and one line that sums them up.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;

use crate::{cmd, lab, leavings, paths, setup};

/// The crate whose tests need the kernel, the lab or more than one crate.
const TESTS: &str = "gateway-tests";
/// Built for the BPF target only.
const BPF: &str = "gateway-ebpf";

/// A part that can be run alone. They run in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// rustfmt changes nothing
    Fmt,
    /// clippy has no complaint
    Clippy,
    /// Tests of the crates by themselves
    Unit,
    /// XDP programs in the kernel by BPF_PROG_TEST_RUN
    #[value(name = "prog_run")]
    ProgRun,
    /// The gateway in the lab of network namespaces
    Netns,
    /// The gateway against strongSwan
    Interop,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    fn check(passed: bool) -> Self {
        Self {
            passed: u32::from(passed),
            failed: u32::from(!passed),
            skipped: 0,
        }
    }

    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs one part or all of them, and prints the sum as the last line.
///
/// # Errors
/// When anything failed. What is missing on the machine is installed first.
pub fn run(only: Option<Part>) -> Result<()> {
    run_with(only, &[])
}

/// As [`run`], with these environment variables for the tests.
///
/// # Errors
/// As [`run`].
pub fn run_with(only: Option<Part>, variables: &[(&str, &str)]) -> Result<()> {
    setup::ensure()?;
    let (mut total, mut times) = (Tally::default(), Vec::new());
    for part in Part::value_variants()
        .iter()
        .copied()
        .filter(|part| only.is_none_or(|only| only == *part))
    {
        let name = part
            .to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned());
        println!("== {name}");
        let began = Instant::now();
        let tally = run_part(part, variables).unwrap_or_else(|error| {
            println!("{error:#}");
            Tally::check(false)
        });
        total.add(tally);
        times.push(format!("{name} {} s", began.elapsed().as_secs()));
    }
    println!("time: {}", times.join(", "));
    println!("{total}");
    std::io::stdout().flush()?;
    if total.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn run_part(part: Part, variables: &[(&str, &str)]) -> Result<Tally> {
    match part {
        Part::Fmt => Ok(check(&mut cargo(&["fmt", "--all", "--check"]))),
        Part::Clippy => Ok(check(&mut cargo(&[
            "clippy",
            "--workspace",
            "--exclude",
            BPF,
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]))),
        Part::Unit => unit(),
        Part::ProgRun => tests_of(&["prog_run"]),
        Part::Netns => in_lab("netns", variables),
        Part::Interop => in_lab("interop", variables),
    }
}

fn unit() -> Result<Tally> {
    leavings::sweep();
    let mut tally = counted(&mut cargo(&[
        "test",
        "--workspace",
        "--exclude",
        BPF,
        "--exclude",
        TESTS,
        "--no-fail-fast",
    ]))?;
    if cfg!(target_arch = "x86_64") {
        tally.add(bursts()?);
    }
    // Whatever other suites the tests crate gains run here, so that none is forgotten.
    let others = suites()?
        .into_iter()
        .filter(|name| !["prog_run", "netns", "interop"].contains(&name.as_str()));
    let others: Vec<_> = others.collect();
    let others: Vec<_> = others.iter().map(String::as_str).collect();
    let mut tests = suite_command(&others, &[]);
    tally.add(counted(&mut tests)?);
    // Those of what the suites share.
    tally.add(counted(&mut suite_command(&[], &[]))?);
    Ok(tally)
}

/// The worker and ESP with the multi-buffer library, which a feature brings in.
fn bursts() -> Result<Tally> {
    counted(&mut cargo(&[
        "test",
        "--package",
        "gateway",
        "--package",
        "gateway-esp",
        "--features",
        "gateway/ipsec-mb",
        "--lib",
        "--test",
        "bursts",
        "--no-fail-fast",
        "--",
        "dataplane::worker",
        "burst",
    ]))
}

/// The lab is one: its tests run one by one. It is taken down whatever they did.
fn in_lab(suite: &str, variables: &[(&str, &str)]) -> Result<Tally> {
    cmd::stream(&mut cargo(&["build", "--package", "gateway"]))?;
    let mut tests = suite_command(&[suite], &["--test-threads=1"]);
    let tally = counted(tests.envs(variables.iter().copied()));
    lab::down()?;
    tally
}

fn tests_of(suites: &[&str]) -> Result<Tally> {
    counted(&mut suite_command(suites, &[]))
}

fn suite_command(suites: &[&str], arguments: &[&str]) -> Command {
    let mut command = cargo(&["test", "--package", TESTS, "--no-fail-fast"]);
    if suites.is_empty() {
        command.arg("--lib");
    }
    for suite in suites {
        command.args(["--test", suite]);
    }
    command.arg("--").args(arguments);
    command
}

/// Runs cargo's tests, shows their output, and adds up the `test result:` line of every runner.
fn counted(command: &mut Command) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| cmd::line(command))?;
    let mut tally = Tally::default();
    let output = child.stdout.take().context("standard output of cargo")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.add(parse_result(&line).unwrap_or_default());
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        // It did not compile, or a runner died before it could count.
        println!("{} failed: {status}", cmd::line(command));
        tally.failed += 1;
    }
    Ok(tally)
}

/// `test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn parse_result(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut tally = Tally::default();
    for count in counts.split("; ") {
        let Some((number, what)) = count.split_once(' ') else {
            continue;
        };
        match what {
            "passed" => tally.passed = number.parse().ok()?,
            "failed" => tally.failed = number.parse().ok()?,
            "ignored" => tally.skipped = number.parse().ok()?,
            _ => {}
        }
    }
    Some(tally)
}

fn check(command: &mut Command) -> Tally {
    let result = cmd::stream(command);
    if let Err(error) = &result {
        println!("{error:#}");
    }
    Tally::check(result.is_ok())
}

/// scapy's Python stands first on the path, for tests that ask it for a second opinion.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = cmd::cmd("cargo", arguments);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = setup::python().parent().map(std::path::Path::to_path_buf);
    let folders = first.into_iter().chain(std::env::split_paths(&path));
    if let Ok(path) = std::env::join_paths(folders) {
        command.env("PATH", path);
    }
    command.current_dir(paths::repository());
    command
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The suites of the tests crate, by name.
fn suites() -> Result<Vec<String>> {
    let printed = cmd::read(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&printed).context("cargo metadata")?;
    let packages: BTreeMap<_, _> = metadata
        .packages
        .into_iter()
        .map(|package| (package.name, package.targets))
        .collect();
    let Some(targets) = packages.get(TESTS) else {
        bail!("no crate {TESTS} in this workspace")
    };
    Ok(targets
        .iter()
        .filter(|target| target.kind.iter().any(|kind| kind == "test"))
        .map(|t| t.name.clone())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_line_is_counted() {
        let line = "test result: FAILED. 9 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        assert_eq!(
            parse_result(line),
            Some(Tally {
                passed: 9,
                failed: 2,
                skipped: 1
            })
        );
        assert_eq!(parse_result("test lab::up ... ok"), None);
    }

    #[test]
    fn the_summary_reads_as_tools_expect() {
        let tally = Tally {
            passed: 12,
            failed: 0,
            skipped: 3,
        };
        assert_eq!(tally.to_string(), "12 passed, 0 failed, 3 skipped");
    }

    #[test]
    fn a_run_that_does_not_compile_counts_as_failed() {
        let tally = counted(&mut cmd::cmd("false", [""; 0])).unwrap();
        assert_eq!(
            tally,
            Tally {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
    }
}
