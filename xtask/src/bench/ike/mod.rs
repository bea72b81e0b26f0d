//! `cargo xtask bench ike`: what a handshake costs the responder, ours and strongSwan in its place, and what a site
//! costs that is only there, and what its packets cost when all of many send.
//!
//! The same initiators (`gateway/ike/examples/initiators.rs`, in site 1's namespace) load both, in turn, in the same
//! lab. A handshake is an IKE SA with its Child SA, authenticated by certificates on both sides. CPU time is user and
//! system time of the responder's process from /proc/PID/stat, less what it takes when idle.

mod responder;
mod scale;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::report::{Figure, Side};
use super::{Core, Report, cargo};
use crate::lab::gateway::Engine;
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
}

const CASES: [Case; 3] = [
    Case {
        name: "DH 14, RSA-2048",
        auth: Auth::Rsa,
        ike: "aes256-sha256-modp2048",
        in_strongswan: true,
    },
    Case {
        name: "P-256, ECDSA P-256",
        auth: Auth::Ecdsa,
        ike: "aes256-sha256-ecp256",
        in_strongswan: true,
    },
    Case {
        name: "X25519 + ML-KEM-768, ECDSA P-256",
        auth: Auth::Ecdsa,
        ike: "aes256-sha256-x25519-ke1_mlkem768",
        in_strongswan: false,
    },
];
const ESP: &str = "aes256gcm16";

/// How much is measured.
struct Effort {
    rounds: usize,
    handshakes: usize,
    sites: usize,
    loads: usize,
    /// Sites that all send, beside one of them.
    crowd: usize,
}

impl Effort {
    fn new(short: bool) -> Self {
        if short {
            return Self {
                rounds: 1,
                handshakes: 50,
                sites: 200,
                loads: 1,
                crowd: 2_000,
            };
        }
        Self {
            rounds: 5,
            handshakes: 1_000,
            sites: 10_000,
            loads: 5,
            crowd: 60_000,
        }
    }
}

/// What one round shows.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    cpu_ms: f64,
}

/// Measures handshakes, then many sites.
///
/// # Errors
/// When something does not build or a responder does not answer.
pub(super) fn run(short: bool) -> Result<Report> {
    cargo(&[
        "build",
        "--release",
        "--package",
        "gateway-ike",
        "--example",
        "initiators",
    ])?;
    let effort = Effort::new(short);
    let mut report = Report::new("ike");
    for case in &CASES {
        measure(&mut report, case, &effort)?;
    }
    scale::measure(&mut report, effort.sites, effort.loads)?;
    for engine in Engine::BOTH {
        scale::traffic(&mut report, effort.crowd, engine, short)?;
    }
    Ok(report)
}

fn measure(report: &mut Report, case: &Case, effort: &Effort) -> Result<()> {
    if !responder::supports(case.auth, case.ike)? {
        println!("  {}: not in this build", case.name);
        return Ok(());
    }
    let mut rounds: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..effort.rounds {
        for (side, rounds) in Kind::BOTH.into_iter().zip(&mut rounds) {
            if side == Kind::Gateway || case.in_strongswan {
                rounds.push(one_round(side, case, effort.handshakes)?);
            }
        }
    }
    let cpu_ms: fn(&Figures) -> f64 = |one| one.cpu_ms;
    let per_second: fn(&Figures) -> f64 = |one| one.per_second;
    for (what, unit, of) in [
        ("CPU time of a handshake", "ms", cpu_ms),
        ("handshakes", "1/s", per_second),
    ] {
        let [ours, theirs] = rounds.each_ref().map(|rounds| rounds.iter().map(of).collect());
        let name = format!("{what}, {}", case.name);
        if case.in_strongswan {
            let [ours, theirs] = [(Kind::Gateway, ours), (Kind::StrongSwan, theirs)]
                .map(|(kind, samples)| Side::new(kind.name(), samples));
            report.compare(name, unit, ours, theirs);
        } else {
            report.figure(Figure::new(name, unit, ours));
        }
    }
    Ok(())
}

fn one_round(kind: Kind, case: &Case, handshakes: usize) -> Result<Figures> {
    let responder = Core::Measured.run(|| Responder::start(kind, case.auth, case.ike))?;
    let idle = responder.idle_cpu_per_s()?;
    let load = usual_load(responder.pki(), case);
    let before_s = responder.cpu_s()?;
    let done = Core::Generator.run(|| load.run(handshakes))?;
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
        keys: None,
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
