//! `cargo xtask bench ike`: what a handshake costs the responder, ours and strongSwan in its place, and what a site
//! costs that is only there.
//!
//! The same initiators (`gateway/ike/examples/initiators.rs`, in site 1's namespace) load both, in turn, in the same
//! lab. A handshake is an IKE SA with its Child SA, authenticated by certificates on both sides. CPU time is user and
//! system time of the responder's process from /proc/PID/stat, less what it takes when idle.

mod responder;
mod scale;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{cargo, median};
use crate::lab::pki::{self, Auth, Pki};
use crate::lab::topology::{CENTER_NETS, SITE_LAN, Site};
use crate::{cmd, paths};

use responder::{Kind, Load, Responder};

/// What is measured with which algorithms.
struct Case {
    name: &'static str,
    auth: Auth,
    ike: &'static str,
    /// strongSwan of Debian 12 has it too.
    in_strongswan: bool,
    /// At most this part of strongSwan's CPU time is our aim.
    aim: Option<f64>,
}

const CASES: [Case; 3] = [
    Case {
        name: "DH 14, RSA-2048",
        auth: Auth::Rsa,
        ike: "aes256-sha256-modp2048",
        in_strongswan: true,
        aim: Some(1.0 / 2.0),
    },
    Case {
        name: "P-256, ECDSA P-256",
        auth: Auth::Ecdsa,
        ike: "aes256-sha256-ecp256",
        in_strongswan: true,
        aim: Some(1.0 / 5.0),
    },
    Case {
        name: "X25519 + ML-KEM-768, ECDSA P-256",
        auth: Auth::Ecdsa,
        ike: "aes256-sha256-x25519-ke1_mlkem768",
        in_strongswan: false,
        aim: None,
    },
];
const ESP: &str = "aes256gcm16";

/// How much is measured.
struct Effort {
    rounds: usize,
    handshakes: usize,
    sites: usize,
    loads: usize,
}

impl Effort {
    fn new(short: bool) -> Self {
        if short {
            return Self {
                rounds: 1,
                handshakes: 50,
                sites: 200,
                loads: 1,
            };
        }
        Self {
            rounds: 5,
            handshakes: 1_000,
            sites: 10_000,
            loads: 5,
        }
    }
}

/// What one round shows.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    cpu_ms: f64,
}

/// Measures, prints a table and leaves `target/bench/ike.json`.
///
/// # Errors
/// When something does not build or a responder does not answer.
pub(super) fn run(short: bool) -> Result<()> {
    cargo(&[
        "build",
        "--release",
        "--package",
        "gateway-ike",
        "--example",
        "initiators",
    ])?;
    let effort = Effort::new(short);
    let mut results = Vec::new();
    println!(
        "{:<34}{:<12}{:>14}{:>16}",
        "", "responder", "handshakes/s", "CPU ms each"
    );
    for case in &CASES {
        results.push(measure(case, &effort)?);
    }
    let scale = scale::measure(effort.sites, effort.loads)?;
    let folder = paths::target().join("bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("ike.json");
    let report = json!({
        "short": short,
        "rounds": effort.rounds,
        "handshakes_per_round": effort.handshakes,
        "handshakes": results,
        "scale": scale,
    });
    std::fs::write(&file, format!("{report:#}\n"))?;
    println!("all of it: {}", file.display());
    Ok(())
}

fn measure(case: &Case, effort: &Effort) -> Result<Value> {
    if !responder::supports(case.auth, case.ike)? {
        println!("{:<34}not in this build", case.name);
        return Ok(json!({ "case": case.name, "supported": false }));
    }
    let mut rounds: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..effort.rounds {
        for (side, rounds) in Kind::BOTH.into_iter().zip(&mut rounds) {
            if side == Kind::Gateway || case.in_strongswan {
                rounds.push(one_round(side, case, effort.handshakes)?);
            }
        }
    }
    let [ours, theirs] = rounds;
    let mid = |rounds: &[Figures], of: fn(&Figures) -> f64| median(rounds.iter().map(of).collect());
    let row = |kind: Kind, rounds: &[Figures]| {
        let (per_second, cpu_ms) = (mid(rounds, |one| one.per_second), mid(rounds, |one| one.cpu_ms));
        println!(
            "{:<34}{:<12}{per_second:>14.0}{cpu_ms:>16.3}",
            case.name,
            kind.name()
        );
        (per_second, cpu_ms)
    };
    let ours = (row(Kind::Gateway, &ours), ours);
    if theirs.is_empty() {
        return Ok(json!({ "case": case.name, "gateway": figures(&ours.1, ours.0) }));
    }
    let theirs = (row(Kind::StrongSwan, &theirs), theirs);
    let part = ours.0.1 / theirs.0.1;
    let verdict = case.aim.map(|aim| {
        let word = if part <= aim { "reached" } else { "missed" };
        format!("; the aim, {aim:.2} of it, is {word}")
    });
    println!(
        "{:<34}the gateway takes {part:.2} of strongSwan's CPU time{}",
        "",
        verdict.unwrap_or_default()
    );
    Ok(json!({
        "case": case.name,
        "gateway": figures(&ours.1, ours.0),
        "strongswan": figures(&theirs.1, theirs.0),
        "cpu_part": part,
        "aim": case.aim,
    }))
}

fn figures(rounds: &[Figures], (per_second, cpu_ms): (f64, f64)) -> Value {
    json!({
        "handshakes_per_second": per_second,
        "cpu_ms_per_handshake": cpu_ms,
        "rounds": rounds.iter().map(|one| json!([one.per_second, one.cpu_ms])).collect::<Vec<_>>(),
    })
}

fn one_round(kind: Kind, case: &Case, handshakes: usize) -> Result<Figures> {
    let responder = Responder::start(kind, case.auth, case.ike)?;
    let idle = responder.idle_cpu_per_s()?;
    let load = usual_load(responder.pki(), case);
    let before_s = responder.cpu_s()?;
    let done = load.run(handshakes)?;
    let cpu_s = responder.cpu_s()? - before_s - idle * done.seconds;
    ensure!(
        done.failed == 0,
        "{} of {handshakes} handshakes with {} failed",
        done.failed,
        kind.name()
    );
    Ok(Figures {
        per_second: handshakes as f64 / done.seconds,
        cpu_ms: cpu_s * 1_000.0 / handshakes as f64,
    })
}

/// Site 1, again and again.
fn usual_load(pki: &Pki, case: &Case) -> Load {
    let authority = case.auth.authority();
    Load {
        chain: pki.certificate(authority, Site::One.name()),
        key: pki.key(authority, Site::One.name()),
        ca: pki.authority(authority),
        identity: pki::fqdn(Site::One.name()),
        ike: case.ike.to_owned(),
        stay_with: None,
    }
}

/// The initiators' program.
fn initiators() -> PathBuf {
    paths::target().join("release/examples/initiators")
}

/// The release build of the gateway.
fn gateway() -> PathBuf {
    paths::target().join("release/gateway")
}

/// The last line that a program printed.
fn last_line(command: &mut Command) -> Result<String> {
    let printed = cmd::read(command)?;
    let line = printed.lines().last().map(str::to_owned);
    line.with_context(|| format!("{} printed nothing", cmd::line(command)))
}
