//! `cargo xtask bench --pktgen`: the kernel's packet generator drives the gateway and what an operator could take instead,
//! in turn.
//!
//! It runs on this machine where the kernel has pktgen, else in a guest with a stock Debian kernel. Everything in the guest is
//! emulated: only the ratio of two things measured in the same guest means anything, and only ratios are results.
//!
//! `tests/examples/pktgen_bench` measures, here or there, and says its figures over its output ([`protocol`]).

pub mod control;
mod cpio;
mod guest;
mod kernel;
pub mod packages;
pub mod protocol;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::report::{self, Comparison, Side};
use super::{Report, cargo};
use crate::lab::pki::Pki;
use crate::{cmd, paths, setup};
use packages::Parts;
use protocol::Sample;

/// The measuring program.
const PROGRAM: &str = "pktgen_bench";
const BUILD: [&str; 8] = [
    "build",
    "--release",
    "--package",
    "gateway-tests",
    "--features",
    "compare",
    "--example",
    PROGRAM,
];
/// Who certified the two ends of the tunnel, and who they are.
const AUTHORITY: &str = "ecdsa";
const HOLDERS: [&str; 2] = ["gateway", "site1"];
/// What cases' names begin with, and how many times as good as the other our side is to be.
const GOALS: [(&str, f64); 3] = [
    ("filter and NAPT", 4.0),
    ("new flows", 5.0),
    ("whole gateway", 2.0),
];

/// Measures, prints ratios and leaves `target/bench/pktgen.json`.
///
/// # Errors
/// Something does not build, or measuring fails.
pub fn run(short: bool) -> Result<()> {
    setup::ensure()?;
    cargo(&BUILD)?;
    cargo(&["build", "--release", "--package", "gateway"])?;
    let program = paths::target().join("release/examples").join(PROGRAM);
    let gateway = paths::target().join("release/gateway");
    let pki = Pki::ready()?;
    let (rounds, seconds, limit) = if short { (1, 1, 180) } else { (5, 2, 900) };
    let arguments = |gateway: &str, pki: &str| {
        let [rounds, seconds] = [rounds, seconds].map(|number| number.to_string());
        let words = [
            "--rounds",
            &rounds,
            "--seconds",
            &seconds,
            "--gateway",
            gateway,
            "--pki",
            pki,
        ];
        words.map(str::to_owned)
    };
    let limit = Duration::from_secs(limit);
    let mut samples = Vec::new();
    let on_sample = |sample: Sample| {
        println!("  {}", shown(&sample));
        samples.push(sample);
    };
    let here = control::is_there();
    if here {
        println!("== pktgen of this machine's kernel");
        let authority = pki.authority(AUTHORITY);
        let folder = authority.parent().context("the folder of the certificates")?;
        let arguments = arguments(&gateway.display().to_string(), &folder.display().to_string());
        on_this_machine(&program, &arguments, limit, on_sample)?;
    } else {
        println!("== pktgen in an emulated guest (figures mean nothing by themselves)");
        let folder = paths::target().join("bench");
        std::fs::create_dir_all(&folder)?;
        let initramfs = folder.join("pktgen.cpio");
        let parts = Parts::open();
        let mut files = vec![pki.authority(AUTHORITY)];
        for holder in HOLDERS {
            files.extend([pki.chain(AUTHORITY, holder), pki.key(AUTHORITY, holder)]);
        }
        guest::pack(
            &parts,
            &[&program, &gateway],
            &files,
            &arguments("/bin/gateway", guest::FILES),
            &initramfs,
        )?;
        guest::run(&parts, &initramfs, &folder.join("pktgen.log"), limit, on_sample)?;
    }
    let comparisons = compare(&samples, &GOALS)?;
    println!("== Ratios of medians, {rounds} rounds");
    for comparison in &comparisons {
        println!("  {}", comparison.line());
    }
    let about = json!({
        "generator": "pktgen",
        "kernel": if here { "of the machine" } else { "guest, emulated: only ratios mean anything" },
        "rounds": rounds,
        "seconds": seconds,
    });
    report::save(&paths::target().join("bench/pktgen.json"), &about, &comparisons)
}

/// What is wanted on this machine, of frames that are generated live.
const FORWARD_GOALS: [(&str, f64); 2] = [("filter and NAPT", 8.0), ("new flows", 5.0)];

/// `cargo xtask bench forward`: the same without pktgen and without whole gateways, on this machine's own kernel.
///
/// # Errors
/// Something does not build, or measuring fails.
pub(super) fn forward(short: bool) -> Result<Report> {
    cargo(&BUILD)?;
    let (rounds, seconds, limit) = if short { (1, 1, 60) } else { (5, 2, 200) };
    let program = paths::target().join("release/examples").join(PROGRAM);
    let arguments = [
        "--live",
        "--rounds",
        &rounds.to_string(),
        "--seconds",
        &seconds.to_string(),
    ]
    .map(str::to_owned);
    let mut samples = Vec::new();
    on_this_machine(&program, &arguments, Duration::from_secs(limit), |sample| {
        println!("  {}", shown(&sample));
        samples.push(sample);
    })?;
    let mut report = Report::new("forward");
    for comparison in compare(&samples, &FORWARD_GOALS)? {
        report.add(comparison);
    }
    Ok(report)
}

fn shown(sample: &Sample) -> String {
    let busy = sample.busy * 100.0;
    format!(
        "{}, {}: {:.1} kpps, {:.0} ns of CPU time a packet, CPU {busy:.0} % busy",
        sample.case, sample.side, sample.kpps, sample.cpu_ns
    )
}

/// It makes namespaces, and takes down those that an earlier run had no time to.
fn on_this_machine(
    program: &Path,
    arguments: &[String],
    limit: Duration,
    on_sample: impl FnMut(Sample),
) -> Result<()> {
    let mut command = cmd::cmd("setpriv", ["--pdeathsig", "KILL"]);
    let child = command
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", cmd::line(&command)))?;
    guest::follow(guest::Running(child), [limit; 2], None, on_sample)?.measured()
}

/// How many packets a second of CPU time is enough for, case by case. The rate that was seen is no comparison: the quicker side
/// waits for the generator.
pub(super) fn compare(samples: &[Sample], goals: &[(&str, f64)]) -> Result<Vec<Comparison>> {
    let mut cases: Vec<&str> = Vec::new();
    for sample in samples {
        if !cases.contains(&sample.case.as_str()) {
            cases.push(&sample.case);
        }
    }
    ensure!(!cases.is_empty(), "nothing was measured");
    let comparison = |case: &str| {
        let side = |ours: bool| {
            let of_side: Vec<&Sample> = samples
                .iter()
                .filter(|sample| sample.case == case && sample.ours == ours)
                .collect();
            let first = of_side
                .first()
                .with_context(|| format!("{case}: only one side was measured"))?;
            let samples = of_side.iter().map(|sample| 1e6 / sample.cpu_ns).collect();
            let name = first.side.clone();
            anyhow::Ok(Side { name, samples })
        };
        let goal = goals.iter().find(|(prefix, _)| case.starts_with(prefix));
        Ok(Comparison {
            name: case.to_owned(),
            unit: "packets in a ms of CPU time",
            ours: side(true)?,
            theirs: side(false)?,
            less_is_better: false,
            goal: goal.map(|(_, goal)| *goal),
        })
    };
    cases.into_iter().map(comparison).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(case: &str, ours: bool, kpps: f64) -> Sample {
        Sample {
            case: case.to_owned(),
            ours,
            side: if ours { "gateway" } else { "nftables" }.to_owned(),
            kpps,
            cpu_ns: 1e6 / kpps,
            busy: 1.0,
        }
    }

    #[test]
    fn rounds_of_two_sides_become_one_ratio_of_medians() {
        let mut samples = Vec::new();
        for (ours, theirs) in [(200.0, 50.0), (10.0, 40.0), (220.0, 60.0)] {
            samples.push(sample("filter and NAPT, 1 flow", true, ours));
            samples.push(sample("filter and NAPT, 1 flow", false, theirs));
        }
        let [comparison] = &compare(&samples, &GOALS).unwrap()[..] else {
            panic!("one comparison");
        };
        assert!((comparison.ratio() - 4.0).abs() < 1e-9);
        assert_eq!(comparison.goal, Some(4.0));
    }

    #[test]
    fn a_case_with_one_side_is_an_error_and_not_a_ratio() {
        assert!(compare(&[sample("forwarding", true, 1.0)], &GOALS).is_err());
        assert!(compare(&[], &GOALS).is_err());
    }
}
