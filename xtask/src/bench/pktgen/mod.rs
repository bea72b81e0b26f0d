//! `cargo xtask bench --pktgen`: the kernel's packet generator drives the gateway and what an operator could take instead,
//! in turn.
//!
//! It runs on this machine where the kernel has pktgen, else in a guest with a stock Debian kernel. Everything in the guest is
//! emulated: only the ratio of two things measured in the same guest means anything, and only ratios are results.
//!
//! `tests/examples/pktgen_bench` measures, here or there, and says its figures over its output ([`protocol`]).

pub mod control;
mod cpio;
pub(crate) mod guest;
mod kernel;
pub mod packages;
pub mod protocol;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::report::{Comparison, Figure, Side};
use super::{Report, cargo};
use crate::lab::pki::Pki;
use crate::{cmd, paths, setup};
pub use guest::DidNotBegin;
use guest::Says;
use packages::{Guest, Parts};
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
/// The part's name, for floors and its files.
const PART: &str = "pktgen";

/// Measures by the kernel's pktgen.
///
/// # Errors
/// Something does not build, or measuring fails.
pub(super) fn run(short: bool) -> Result<Report> {
    cargo(&BUILD)?;
    let program = paths::target().join("release/examples").join(PROGRAM);
    let gateway = paths::target().join("release/gateway");
    let pki = Pki::ready()?;
    let (rounds, seconds, limit) = if short { (1, 1, 240) } else { (5, 2, 900) };
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
        let arguments = arguments("/bin/gateway", guest::FILES);
        in_guest(
            Guest::Pktgen,
            PART,
            [&program, &gateway],
            &arguments,
            limit,
            on_sample,
        )?;
    }
    println!("== {rounds} rounds of {seconds} s, {}", about(here));
    report_of(PART, &samples)
}

/// `cargo xtask bench --zero-copy`: the gateway's sockets with and without zero copy, on network cards whose driver has it, in a
/// guest: what goes in comes out, whole gateways work over it, and what a packet costs with it beside copy mode.
///
/// # Errors
/// Something does not build; a packet is lost or damaged, a socket has another mode, a frame does not come back.
pub(super) fn zero_copy(short: bool) -> Result<Report> {
    setup::guest(Guest::ZeroCopy)?;
    cargo(&BUILD)?;
    let program = paths::target().join("release/examples").join(PROGRAM);
    let gateway = paths::target().join("release/gateway");
    let (rounds, seconds, limit) = if short { ("1", "1", 240) } else { ("5", "2", 600) };
    let files = guest::FILES;
    let arguments = [
        "--zero-copy",
        "--rounds",
        rounds,
        "--seconds",
        seconds,
        "--gateway",
        "/bin/gateway",
        "--pki",
        files,
    ];
    let mut samples = Vec::new();
    let limit = Duration::from_secs(limit);
    in_guest(
        Guest::ZeroCopy,
        "zero-copy",
        [&program, &gateway],
        &arguments.map(str::to_owned),
        limit,
        |sample| {
            println!("  {}", shown(&sample));
            samples.push(sample);
        },
    )?;
    report_of("zero-copy", &samples)
}

/// Runs the measuring program in a guest; `name` is that of the files.
fn in_guest(
    guest: Guest,
    name: &str,
    [program, gateway]: [&Path; 2],
    arguments: &[String],
    limit: Duration,
    on_sample: impl FnMut(Sample),
) -> Result<()> {
    let pki = Pki::ready()?;
    let folder = paths::target().join("bench");
    std::fs::create_dir_all(&folder)?;
    let initramfs = folder.join(format!("{name}.cpio"));
    let parts = Parts::open(guest);
    let mut files = vec![pki.authority(AUTHORITY)];
    for holder in HOLDERS {
        files.extend([pki.chain(AUTHORITY, holder), pki.key(AUTHORITY, holder)]);
    }
    let programs: (&[&Path], Says) = (&[program, gateway], Says::Itself);
    guest::pack(&parts, programs, &files, arguments, &initramfs)?;
    guest::run(
        &parts,
        &initramfs,
        &folder.join(format!("{name}.log")),
        limit,
        on_sample,
    )
}

/// What is to be known of figures.
const fn about(here: bool) -> &'static str {
    if here {
        "this machine's kernel"
    } else {
        "all emulated: only ratios mean anything"
    }
}

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
    report_of("forward", &samples)
}

/// Comparisons, and what was lost of each case.
fn report_of(part: &'static str, samples: &[Sample]) -> Result<Report> {
    let mut report = Report::new(part);
    for comparison in compare(samples)? {
        report.add(comparison);
    }
    for figure in losses(samples) {
        report.figure(figure);
    }
    Ok(report)
}

/// What each side of each case lost.
fn losses(samples: &[Sample]) -> Vec<Figure> {
    let mut figures: Vec<Figure> = Vec::new();
    for Sample { case, side, lost, .. } in samples {
        let name = format!("{case}: lost by {side}");
        match figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.samples.push(lost * 100.0),
            None => figures.push(Figure::new(name, "%", vec![lost * 100.0])),
        }
    }
    figures
}

fn shown(sample: &Sample) -> String {
    let busy = sample.busy * 100.0;
    let Sample {
        case,
        side,
        kpps,
        cpu_ns,
        ..
    } = sample;
    let lost = sample.lost * 100.0;
    format!(
        "{case}, {side}: {kpps:.1} kpps, {cpu_ns:.0} ns of CPU time a packet, CPU {busy:.0} % busy, {lost:.1} % lost"
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

/// How many packets a second of CPU time is enough for, case by case, for each of ours. The rate that was seen is no comparison:
/// the quicker side waits for the generator.
fn compare(samples: &[Sample]) -> Result<Vec<Comparison>> {
    let mut cases: Vec<(&str, &str)> = Vec::new();
    for Sample { case, side, ours, .. } in samples {
        if *ours && !cases.contains(&(case, side)) {
            cases.push((case, side));
        }
    }
    ensure!(!cases.is_empty(), "nothing was measured");
    let comparison = |(case, name): (&str, &str)| {
        let side = |wanted: &dyn Fn(&&Sample) -> bool| {
            let of_case = samples.iter().filter(|sample| sample.case == case);
            let of_side: Vec<&Sample> = of_case.filter(wanted).collect();
            let first = of_side
                .first()
                .with_context(|| format!("{case}: only one side was measured"))?;
            let samples = of_side.iter().map(|sample| 1e6 / sample.cpu_ns).collect();
            anyhow::Ok(Side::new(&first.side, samples))
        };
        Ok(Comparison {
            name: case.to_owned(),
            // Thousands of packets in a second of CPU time.
            unit: "kpps",
            ours: side(&|sample| sample.ours && sample.side == name)?,
            theirs: side(&|sample| !sample.ours)?,
            less_is_better: false,
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
            lost: 0.0,
        }
    }

    #[test]
    fn rounds_of_two_sides_become_one_ratio_of_medians() {
        let mut samples = Vec::new();
        for (ours, theirs) in [(200.0, 50.0), (10.0, 40.0), (220.0, 60.0)] {
            samples.push(sample("filter and NAPT, 1 flow", true, ours));
            samples.push(sample("filter and NAPT, 1 flow", false, theirs));
        }
        let [comparison] = &compare(&samples).unwrap()[..] else {
            panic!("one comparison");
        };
        assert!((comparison.ratio() - 4.0).abs() < 1e-9);
    }

    #[test]
    fn each_of_our_engines_stands_beside_the_other_side() {
        let of = |side: &str, ours, kpps| Sample {
            side: side.to_owned(),
            ..sample("inbound", ours, kpps)
        };
        let samples = [
            of("xdp", true, 50.0),
            of("direct", true, 100.0),
            of("XFRM", false, 25.0),
            of("xdp", true, 50.0),
        ];
        let compared = compare(&samples).unwrap();
        let ratios: Vec<_> = compared
            .iter()
            .map(|one| (&one.ours.name[..], one.ratio()))
            .collect();
        let [("xdp", xdp), ("direct", direct)] = ratios[..] else {
            panic!("{ratios:?}");
        };
        assert!(
            (xdp - 2.0).abs() < 1e-9 && (direct - 4.0).abs() < 1e-9,
            "{ratios:?}"
        );
        assert_eq!(compared[0].ours.samples.len(), 2);
    }

    #[test]
    fn what_a_side_lost_is_told_in_percent_round_by_round() {
        let lost = |lost: f64| Sample {
            lost,
            ..sample("inbound", true, 10.0)
        };
        let figures = losses(&[lost(0.5), lost(0.0), sample("inbound", false, 10.0)]);
        let names: Vec<_> = figures.iter().map(|figure| &figure.name[..]).collect();
        assert_eq!(names, ["inbound: lost by gateway", "inbound: lost by nftables"]);
        assert_eq!(figures[0].samples, [50.0, 0.0]);
    }

    #[test]
    fn a_case_with_one_side_is_an_error_and_not_a_ratio() {
        assert!(compare(&[sample("forwarding", true, 1.0)]).is_err());
        assert!(compare(&[]).is_err());
    }
}
