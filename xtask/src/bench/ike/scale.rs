//! Many sites: how long their definitions take to load, and what memory each takes, established and idle.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::Report;
use super::super::report::Figure;
use super::gateway;
use super::responder::{Done, Load, Responder, configuration, site, status};
use crate::lab::pki::Auth;
use crate::lab::topology::Options;
use crate::lab::{Lab, state};
use crate::{cmd, paths};

const IKE: &str = "aes256-sha256-ecp256";

/// The name of a site; as long for every number.
fn name(number: usize) -> String {
    format!("s{number:05}")
}

fn identity(number: usize) -> String {
    format!("{}.bench.test", name(number))
}

/// An authority for the sites, and the certificate of the first.
struct Series {
    ca: PathBuf,
    ca_key: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Series {
    fn make(folder: &Path) -> Result<Self> {
        let file = |name: &str| folder.join(name);
        let series = Self {
            ca: file("ca.crt"),
            ca_key: file("ca.key"),
            certificate: file("site.crt"),
            key: file("site.key"),
        };
        fs::create_dir_all(folder)?;
        let ecdsa = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-sha256",
        ];
        let mut ca = Command::new("openssl");
        ca.args(["req", "-x509", "-days", "30", "-subj", "/O=Bench/CN=Bench CA"])
            .args(ecdsa);
        ca.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
        cmd::output(ca.arg("-keyout").arg(&series.ca_key).arg("-out").arg(&series.ca))?;
        let mut site = Command::new("openssl");
        let subject = format!("/O=Bench/CN={}", identity(0));
        site.args(["req", "-x509", "-days", "30", "-subj", &subject])
            .args(ecdsa);
        site.arg("-CA").arg(&series.ca).arg("-CAkey").arg(&series.ca_key);
        let names = format!("subjectAltName=DNS:{}", identity(0));
        site.args(["-addext", &names, "-addext", "basicConstraints=critical,CA:false"]);
        site.args(["-addext", "keyUsage=digitalSignature"]);
        cmd::output(
            site.arg("-keyout")
                .arg(&series.key)
                .arg("-out")
                .arg(&series.certificate),
        )?;
        Ok(series)
    }
}

/// Loads, establishes and weighs so many sites.
pub(super) fn measure(report: &mut Report, sites: usize, loads: usize) -> Result<()> {
    let series = Series::make(&paths::target().join("bench/pki"))?;
    let lab = Lab::up(Options::default())?;
    let pki = lab.pki();
    let lab_ca = pki.authority(Auth::Ecdsa.authority());
    let head = configuration(pki, Auth::Ecdsa, IKE)
        .replace(&format!("ca = {lab_ca:?}"), &format!("ca = {:?}", series.ca));
    let text = (0..sites).fold(head, |text, number| {
        text + &site(&name(number), &identity(number))
    });
    let name = |what: &str| format!("{sites} sites: {what}");
    report.figure(Figure::new(
        name("definitions loaded, checked"),
        "s",
        load_times(&text, loads)?,
    ));

    let load = Load {
        chain: series.certificate,
        key: series.key,
        ca: lab_ca,
        identity: identity(0),
        ike: IKE.to_owned(),
        stay_with: Some(series.ca_key),
    };
    let responder = Responder::gateway(lab, &text)?;
    let before_mib = responder.memory_mib()?.own_mib;
    let mut command = load.command(sites);
    let mut crowd = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| cmd::line(&command))?;
    let mut line = String::new();
    BufReader::new(crowd.stdout.take().context("no output")?).read_line(&mut line)?;
    let done = Done::parse(line.trim_end())?;
    ensure!(
        done.failed == 0,
        "{} of {sites} sites did not connect",
        done.failed
    );
    let up = sites_up()?;
    ensure!(up == sites, "{up} of {sites} sites are up");
    let after = responder.memory_mib()?;
    let after_mib = after.own_mib;
    let idle = responder.idle_cpu_per_s()?;
    drop(crowd.stdin.take());
    crowd.wait()?;
    let per_site_kib = (after_mib - before_mib) * 1_024.0 / sites as f64;
    for (what, unit, value) in [
        ("the daemon's own memory, none up", "MiB", before_mib),
        ("the daemon's own memory, all up", "MiB", after_mib),
        ("memory of each", "KiB", per_site_kib),
        ("memory of tables and program", "MiB", after.shared_mib),
        ("all set up", "s", done.seconds),
        ("CPU time when idle", "ms/s", idle * 1_000.0),
    ] {
        report.figure(Figure::new(name(what), unit, vec![value]));
    }
    Ok(())
}

/// Seconds that `gateway run --check` takes: all of the program from its start to its end.
fn load_times(text: &str, loads: usize) -> Result<Vec<f64>> {
    let file = state::path("load.toml");
    fs::write(&file, text)?;
    let mut seconds = Vec::new();
    for _ in 0..loads {
        let started = Instant::now();
        cmd::output(
            Command::new(gateway())
                .args(["run", "--check", "--config"])
                .arg(&file),
        )?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

fn sites_up() -> Result<usize> {
    let output = status(&["status", "--json"])?;
    let view: Value = serde_json::from_slice(&output.stdout).context("gateway status")?;
    let up = view.get("sites_up").and_then(Value::as_u64).context("sites_up")?;
    Ok(usize::try_from(up)?)
}
