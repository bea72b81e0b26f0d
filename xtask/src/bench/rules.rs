//! New flows under rule sets of several sizes (`tests/examples/rules_bench.rs`), and `gateway rules load` as an operator
//! runs it: from the file to the active generation, through the socket of a running daemon, by the CLI's own process.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::report::Figure;
use super::results::Curve;
use super::{Core, Report, built_example, figures, named};
use crate::lab::gateway::{Config, Gateway};
use crate::lab::pki::Auth;
use crate::lab::topology::Options;
use crate::lab::{Lab, state};
use crate::paths;

/// Rules of `gateway rules load`.
const SIZES: [u32; 3] = [10, 1_000, 10_000];
/// Rules that `rules_bench` measures.
const SIZES_OF_CURVE: [u32; 5] = [1, 10, 100, 1_000, 10_000];

pub(super) fn run(short: bool) -> Result<Report> {
    let program = built_example("rules_bench", &[])?;
    let figures = Core::Measured.run(|| figures(&program, short))?;
    let mut report = Report::new("rules");
    for shape in ["servers", "mixed"] {
        let of = |size: &str| named(&figures, &format!("{shape}, {size} rules"));
        report.compare(
            format!("{shape}: new flow, 10,000 rules beside 10"),
            "ns",
            of("10000")?.side("10,000 rules"),
            of("10")?.side("10 rules"),
        );
        let points = SIZES_OF_CURVE.map(|size| of(&size.to_string()).map(|figure| (size, figure)));
        report.curve(Curve::new(
            shape,
            "rules",
            "ns",
            points.into_iter().collect::<Result<Vec<_>>>()?,
        ));
    }
    figures.into_iter().for_each(|figure| report.figure(figure));
    loads(&mut report, if short { 1 } else { 7 })?;
    Ok(report)
}

fn loads(report: &mut Report, rounds: u32) -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let program = paths::target().join("release/gateway");
    let gateway = Core::Measured.run(|| lab.start_gateway_program(program, &Config::usual(Auth::Rsa)))?;
    let mut seconds = SIZES.map(|_| Vec::new());
    for round in 0..rounds {
        for (size, seconds) in SIZES.into_iter().zip(&mut seconds) {
            let file = state::path("bench.toml");
            fs::write(&file, rules(size, round))?;
            seconds.push(load(&gateway, &file.display().to_string(), size)?);
        }
    }
    for (size, seconds) in SIZES.into_iter().zip(seconds) {
        report.figure(Figure::new(format!("`rules load` of {size} rules"), "s", seconds));
    }
    Ok(())
}

/// Loads a file; answers how long the verb took.
fn load(gateway: &Gateway, file: &str, size: u32) -> Result<f64> {
    let start = Instant::now();
    gateway.cli(&["rules", "load", file])?;
    let seconds = start.elapsed().as_secs_f64();
    let status = gateway.json(&["status"])?;
    let rules = status["rules"]["rules"].as_u64().context("no number of rules")?;
    ensure!(rules == u64::from(size), "{rules} rules are in force, not {size}");
    Ok(seconds)
}

/// As operators write them: each rule one server and port, for one of two groups. Another set each round.
fn rules(size: u32, round: u32) -> String {
    let mut text = format!("name = \"bench {round}\"\n");
    for rule in 0..size {
        let (third, last) = (rule / 250 % 250, rule % 250 + 1);
        let port = 1024 + (rule + round) % 50_000;
        let action = if rule % 10 == 9 { "deny" } else { "allow" };
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n[[rule]]\nname = \"r{rule}\"\naction = \"{action}\"\ngroups = \"clinics\"\n\
             destination = \"10.100.{third}.{last}\"\nprotocol = \"tcp\"\ndestination_ports = [{port}, 443]\n"
        );
    }
    text
}
