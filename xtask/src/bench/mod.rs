//! `cargo xtask bench`: figures of this machine, each beside what it is to be compared with in the same run.
//!
//! On a shared machine only ratios within one run mean much: both sides are measured in turn (A B A B ...) and their
//! medians are reported.

mod ike;
pub mod pktgen;
pub mod report;
mod rules;
mod through;

use std::process::Command;

use anyhow::Result;

use crate::{cmd, paths, setup};

/// The program that measures each XDP program by BPF_PROG_TEST_RUN and prints a table, and the flow table beside a BPF hash
/// map.
const PROG_RUN_BENCH: [&str; 9] = [
    "run",
    "--quiet",
    "--release",
    "--package",
    "gateway-tests",
    "--features",
    "compare",
    "--example",
    "prog_run_bench",
];

/// The program that measures new flows under rule sets of several sizes.
const RULES_BENCH: [&str; 7] = [
    "run",
    "--quiet",
    "--release",
    "--package",
    "gateway-tests",
    "--example",
    "rules_bench",
];

/// The program that measures a worker over rings in memory.
const SOFT_BENCH: [&str; 7] = [
    "run",
    "--quiet",
    "--release",
    "--package",
    "gateway-tests",
    "--example",
    "soft_bench",
];

/// What others have published of the same kind of bench, on other machines.
const PUBLISHED: [&str; 3] = [
    "published, on other machines:",
    "  Vita (Snabb, SoftBench, one core of a Ryzen 1600)   60 octets 2.80 Mpps; IMIX 1.77 Mpps, 5.1 Gbit/s",
    "  VPP (AES-128-GCM, one core of a 2.1 GHz Xeon)       IMIX 2.13 Mpps, 6.1 Gbit/s",
];

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
    /// Handshakes, and many sites.
    Ike,
}

/// Measures everything, or a part; `short` takes seconds instead of minutes and shows only that it works.
///
/// # Errors
/// When something does not build or the lab does not come up.
pub fn run(part: Option<Part>, short: bool) -> Result<()> {
    setup::ensure()?;
    cargo(&["build", "--release", "--package", "gateway"])?;
    let wanted = |this| part.is_none_or(|part| part == this);
    if wanted(Part::Programs) {
        println!("== Each XDP program beside a bare XDP_PASS, BPF_PROG_TEST_RUN");
        cargo(&PROG_RUN_BENCH)?;
    }
    if wanted(Part::Rules) {
        println!("== A new flow under 10, 1,000 and 10,000 rules, BPF_PROG_TEST_RUN of `clear`");
        cargo(&RULES_BENCH)?;
        println!("== `gateway rules load` of 10, 1,000 and 10,000 rules, through a running daemon");
        rules::run(short)?;
    }
    if wanted(Part::Soft) {
        println!("== One worker on one core over rings in memory: open, filter, translate; seal");
        let more: &[&str] = if short { &["--", "--short"] } else { &[] };
        cargo(&[&SOFT_BENCH, more].concat())?;
        PUBLISHED.iter().for_each(|line| println!("{line}"));
    }
    if wanted(Part::Forward) {
        println!(
            "== Filter and NAPT over veth, one core, beside nftables with connection tracking and masquerading"
        );
        pktgen::forward(short)?;
    }
    if wanted(Part::Through) {
        println!("== Through the whole gateway beside strongSwan's user-space ESP, on the same lab");
        through::run(short)?;
    }
    if wanted(Part::Ike) {
        println!("== Handshakes beside a strongSwan responder, on the same lab; many sites");
        ike::run(short)?;
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command: Command = cmd::cmd("cargo", arguments);
    cmd::stream(command.current_dir(paths::repository()))
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
