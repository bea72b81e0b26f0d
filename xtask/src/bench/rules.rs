//! `gateway rules load` as an operator runs it: from the file to the active generation, through the socket of a running
//! daemon, by the CLI's own process.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::median;
use crate::lab::gateway::{Config, Gateway};
use crate::lab::pki::Auth;
use crate::lab::topology::Options;
use crate::lab::{Lab, state};
use crate::paths;

/// What is aimed at for the largest.
const LOAD_MAX_S: f64 = 1.0;
const SIZES: [u32; 3] = [10, 1_000, 10_000];

pub(super) fn run(short: bool) -> Result<()> {
    let rounds = if short { 1 } else { 7 };
    let lab = Lab::up(Options::default())?;
    let program = paths::target().join("release/gateway");
    let gateway = lab.start_gateway_program(program, &Config::usual(Auth::Rsa))?;
    for size in SIZES {
        let mut seconds = Vec::new();
        for round in 0..rounds {
            let file = state::path("bench.toml");
            fs::write(&file, rules(size, round))?;
            seconds.push(load(&gateway, &file.display().to_string(), size)?);
        }
        let worst = seconds.iter().copied().fold(0.0, f64::max);
        let middle = median(seconds);
        let aim = if size == SIZES[SIZES.len() - 1] {
            format!("; aim: under {LOAD_MAX_S} s")
        } else {
            String::new()
        };
        println!("rules load, {size:>6} rules: {middle:.3} s, at most {worst:.3} s of {rounds} rounds{aim}");
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
