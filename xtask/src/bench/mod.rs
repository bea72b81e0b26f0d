//! `cargo xtask bench`: figures of this machine, each beside what it is to be compared with in the same run.
//!
//! On a shared machine only ratios within one run mean much: both sides are measured in turn (A B A B ...) and their
//! medians are reported. Every part yields a [`results::Report`], which is printed, saved and held against the floors in
//! one place; the programs of the bench in `tests/examples` print one JSON document for it (`--json`).

mod curves;
mod floor;
mod ike;
mod load;
pub mod machine;
pub mod mlrsearch;
pub mod pktgen;
mod plot;
mod programs;
pub mod report;
mod results;
mod rules;
mod soft;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum as _;

use crate::{cmd, paths, setup};
use floor::Floors;
use machine::Core;
use report::Figure;
use results::Report;

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Each XDP program by itself.
    Programs,
    /// New flows under rule sets of several sizes.
    Rules,
    /// A worker with the direct engine over rings in memory, without interfaces.
    Soft,
    /// Filter and NAPT alone over veth, beside nftables.
    Forward,
    /// Packets through the whole gateway.
    Through,
    /// How long packets take through the whole gateway.
    Latency,
    /// How long packets are lost when SAs, rules or the daemon change.
    Blocked,
    /// What a packet costs with many SAs and flows; several workers.
    Curves,
    /// Handshakes, and many sites.
    Ike,
}

impl Part {
    fn title(self) -> &'static str {
        match self {
            Self::Programs => "Each XDP program beside a bare XDP_PASS, BPF_PROG_TEST_RUN",
            Self::Rules => "A new flow under rule sets of several sizes, and `gateway rules load` of them",
            Self::Soft => "One worker on one core over rings in memory: open, filter, translate; seal",
            Self::Forward => {
                "Filter and NAPT over veth, one core, beside nftables with connection tracking and masquerading"
            }
            Self::Through => "Through the whole gateway beside strongSwan's user-space ESP, on the same lab",
            Self::Latency => {
                "Microseconds through the whole gateway, 64 octets, at parts of what goes through without loss"
            }
            Self::Blocked => {
                "Milliseconds of loss while something changes, 10,000 packets a second in each direction"
            }
            Self::Curves => "One worker, 64 octets inbound: many sites, many flows; several workers",
            Self::Ike => "Handshakes beside a strongSwan responder, on the same lab; many sites",
        }
    }

    fn measure(self, short: bool) -> Result<Report> {
        match self {
            Self::Programs => programs::run(short),
            Self::Rules => rules::run(short),
            Self::Soft => soft::run(short),
            Self::Forward => pktgen::forward(short),
            Self::Through => load::run("through", short),
            Self::Latency => load::run("latency", short),
            Self::Blocked => load::run("blocked", short),
            Self::Curves => curves::run(short),
            Self::Ike => ike::run(short),
        }
    }
}

/// Measures everything, or a part, and leaves tables, `target/bench/PART.json` and plots. `short` takes seconds instead of
/// minutes and shows only that it works; `check` holds the results against `xtask/bench/floor.toml`.
///
/// # Errors
/// When something does not build or the lab does not come up; with `check`, when a floor is missed.
pub fn run(part: Option<Part>, short: bool, check: bool) -> Result<()> {
    let parts = Part::value_variants().iter().copied();
    let parts = parts.filter(|this| part.is_none_or(|part| part == *this));
    let measure = |this: Part| {
        println!("== {}", this.title());
        this.measure(short)
    };
    publish(parts.map(measure), short, check)
}

/// The same by the kernel's pktgen ([`pktgen`]).
///
/// # Errors
/// As [`run`].
pub fn run_pktgen(short: bool, check: bool) -> Result<()> {
    publish(std::iter::once_with(|| pktgen::run(short)), short, check)
}

/// AF_XDP zero copy beside copy mode, in a guest ([`pktgen::zero_copy`]).
///
/// # Errors
/// As [`run`].
pub fn run_zero_copy(short: bool, check: bool) -> Result<()> {
    publish(std::iter::once_with(|| pktgen::zero_copy(short)), short, check)
}

/// Has parts measured, one after another, and says what came of them.
fn publish(parts: impl Iterator<Item = Result<Report>>, short: bool, check: bool) -> Result<()> {
    let floors = Floors::of_repository()?;
    setup::ensure()?;
    cargo(&["build", "--release", "--package", "gateway"])?;
    let about = results::about();
    let mut missed = Vec::new();
    for report in parts {
        let report = report?;
        report.publish(&floors, &about, short)?;
        missed.extend(floors.missed(&report, short));
    }
    if check && !missed.is_empty() {
        bail!("{} floors are missed:\n  {}", missed.len(), missed.join("\n  "));
    }
    if check {
        println!("no floor is missed");
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command: Command = cmd::cmd("cargo", arguments);
    cmd::stream(command.current_dir(paths::repository()))
}

/// Builds a program of the bench, an example of `gateway-tests`.
fn built_example(name: &str, features: &[&str]) -> Result<PathBuf> {
    let words = [
        "build",
        "--quiet",
        "--release",
        "--package",
        "gateway-tests",
        "--example",
        name,
    ];
    let features = features.iter().flat_map(|feature| ["--features", feature]);
    cargo(&words.into_iter().chain(features).collect::<Vec<_>>())?;
    Ok(paths::target().join("release/examples").join(name))
}

/// Runs a program of the bench and reads what it measured.
fn figures(program: &Path, short: bool) -> Result<Vec<Figure>> {
    figures_with(program, &[], short)
}

fn figures_with(program: &Path, arguments: &[&str], short: bool) -> Result<Vec<Figure>> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg("--json")
        .args(short.then_some("--short"));
    report::read(&cmd::read_beside_terminal(&mut command)?)
}

/// One of the figures that a program of the bench measured.
fn named<'a>(figures: &'a [Figure], name: &str) -> Result<&'a Figure> {
    let found = figures.iter().find(|figure| figure.name == name);
    found.with_context(|| format!("the program of the bench measured no {name:?}"))
}

/// The middle value; for an even number of values, the lower of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get(values.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_ignores_an_outlier() {
        assert_eq!(median(vec![3.0, 1000.0, 1.0]), 3.0);
        assert_eq!(median(vec![4.0, 2.0]), 2.0);
        assert!(median(vec![]).is_nan());
    }
}
