//! Many sites: how long their definitions take to load, and what memory each takes, established and idle.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::responder::{Done, Load, Responder, configuration, site, status};
use super::{gateway, median};
use crate::lab::pki::Auth;
use crate::lab::topology::Options;
use crate::lab::{Lab, state};
use crate::{cmd, paths};

const IKE: &str = "aes256-sha256-ecp256";
/// Aims for 10,000 sites.
const LOAD_MAX_S: f64 = 2.0;
const MEMORY_MAX_MIB: f64 = 200.0;

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
pub(super) fn measure(sites: usize, loads: usize) -> Result<Value> {
    let series = Series::make(&paths::target().join("bench/pki"))?;
    let lab = Lab::up(Options::default())?;
    let pki = lab.pki();
    let lab_ca = pki.authority(Auth::Ecdsa.authority());
    let head = configuration(pki, Auth::Ecdsa, IKE)
        .replace(&format!("ca = {lab_ca:?}"), &format!("ca = {:?}", series.ca));
    let text = (0..sites).fold(head, |text, number| {
        text + &site(&name(number), &identity(number))
    });
    let load_s = load_time(&text, loads)?;
    println!(
        "{sites} site definitions are loaded and checked in {load_s:.2} s{}",
        aim(load_s, LOAD_MAX_S, sites)
    );

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
    println!(
        "{sites} sites established and idle: {after_mib:.0} MiB of the daemon's own, {per_site_kib:.1} KiB a site{}, beside \
         {:.0} MiB of tables and program; set up in {:.0} s; {:.1} % of a core",
        aim(after_mib, MEMORY_MAX_MIB, sites),
        after.shared_mib,
        done.seconds,
        idle * 100.0
    );
    Ok(json!({
        "sites": sites,
        "load_s": load_s,
        "set_up_s": done.seconds,
        "memory_loaded_mib": before_mib,
        "memory_shared_mib": after.shared_mib,
        "memory_established_mib": after_mib,
        "memory_per_site_kib": per_site_kib,
        "idle_cpu": idle,
    }))
}

fn aim(value: f64, most: f64, sites: usize) -> &'static str {
    match (sites >= 10_000, value <= most) {
        (false, _) => "",
        (true, true) => " (aim reached)",
        (true, false) => " (aim missed)",
    }
}

/// Seconds that `gateway run --check` takes: all of the program from its start to its end.
fn load_time(text: &str, loads: usize) -> Result<f64> {
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
    Ok(median(seconds))
}

fn sites_up() -> Result<usize> {
    let output = status(&["status", "--json"])?;
    let view: Value = serde_json::from_slice(&output.stdout).context("gateway status")?;
    let up = view.get("sites_up").and_then(Value::as_u64).context("sites_up")?;
    Ok(usize::try_from(up)?)
}
