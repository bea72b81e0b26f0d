//! Many sites: how long their definitions take to load, what memory each takes, established and idle, and what a packet
//! costs when all of them send.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::report::Figure;
use super::super::{Core, Report, built_example, figures_with, named};
use super::gateway;
use super::responder::{Done, Load, Responder, configuration, site, status};
use crate::lab::gateway::Engine;
use crate::lab::pki::Auth;
use crate::lab::topology::Options;
use crate::lab::{Lab, state};
use crate::{cmd, paths};

const IKE: &str = "aes256-sha256-ecp256";
/// What sites may do: no more than send what is measured.
const RULES: &str = "name = \"bench\"\n[[rule]]\nname = \"measure\"\naction = \"allow\"\nprotocol = \"udp\"\ndestination_ports = 5201\n";

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

/// A gateway with so many sites, and who connects as all of them.
struct Sites {
    count: usize,
    /// The gateway's configuration.
    text: String,
    load: Load,
}

impl Sites {
    fn prepare(count: usize, engine: Engine) -> Result<(Lab, Self)> {
        let series = Series::make(&paths::target().join("bench/pki"))?;
        let lab = Lab::up(Options::default())?;
        let pki = lab.pki();
        let lab_ca = pki.authority(Auth::Ecdsa.authority());
        let head = configuration(pki, Auth::Ecdsa, IKE)
            .replace(&format!("ca = {lab_ca:?}"), &format!("ca = {:?}", series.ca))
            .replace(
                "[gateway]\n",
                &format!("[gateway]\nengine = {:?}\n", engine.name()),
            );
        let text = (0..count).fold(head, |text, number| {
            text + &site(&name(number), &identity(number))
        });
        fs::write(state::path("rules.toml"), RULES)?;
        let sites = Self {
            count,
            text: text + "[rules]\nfile = \"rules.toml\"\n",
            load: Load {
                chain: series.certificate,
                key: series.key,
                ca: lab_ca,
                identity: identity(0),
                ike: IKE.to_owned(),
                stay_with: Some(series.ca_key),
                keys: Some(state::path("keys")),
            },
        };
        Ok((lab, sites))
    }

    /// Has all of them connect, and stay as long as the [`Crowd`].
    fn connect(&self) -> Result<Crowd> {
        let mut command = self.load.command(self.count);
        let mut process = Core::Generator.run(|| {
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            child.with_context(|| cmd::line(&command))
        })?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("no output")?).read_line(&mut line)?;
        let crowd = Crowd {
            done: Done::parse(line.trim_end())?,
            process,
        };
        let (failed, count) = (crowd.done.failed, self.count);
        ensure!(failed == 0, "{failed} of {count} sites did not connect");
        let up = sites_up()?;
        ensure!(up == count, "{up} of {count} sites are up");
        Ok(crowd)
    }
}

/// Sites that are connected.
struct Crowd {
    done: Done,
    process: Child,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It ends with its standard input.
        drop(self.process.stdin.take());
        let _gone = self.process.wait();
    }
}

/// Loads, establishes and weighs so many sites.
pub(super) fn measure(report: &mut Report, count: usize, loads: usize) -> Result<()> {
    let (lab, sites) = Sites::prepare(count, Engine::Xdp)?;
    let name = |what: &str| format!("{count} sites: {what}");
    report.figure(Figure::new(
        name("definitions loaded, checked"),
        "s",
        load_times(&sites.text, loads)?,
    ));
    let responder = Responder::gateway(lab, &sites.text)?;
    let before_mib = responder.memory_mib()?.own_mib;
    let crowd = sites.connect()?;
    let after = responder.memory_mib()?;
    let after_mib = after.own_mib;
    let idle = responder.idle_cpu_per_s()?;
    let per_site_kib = (after_mib - before_mib) * 1_024.0 / count as f64;
    for (what, unit, value) in [
        ("the daemon's own memory, none up", "MiB", before_mib),
        ("the daemon's own memory, all up", "MiB", after_mib),
        ("memory of each", "KiB", per_site_kib),
        ("memory of tables and program", "MiB", after.shared_mib),
        ("all set up", "s", crowd.done.seconds),
        ("CPU time when idle", "ms/s", idle * 1_000.0),
    ] {
        report.figure(Figure::new(name(what), unit, vec![value]));
    }
    Ok(())
}

/// What a packet costs when so many sites are up and each is of another one, beside packets of one of them.
pub(super) fn traffic(report: &mut Report, count: usize, engine: Engine, short: bool) -> Result<()> {
    let program = built_example("crowd_bench", &[])?;
    let (lab, sites) = Sites::prepare(count, engine)?;
    let responder = Core::Measured.run(|| Responder::gateway(lab, &sites.text))?;
    let crowd = sites.connect()?;
    let keys = sites.load.keys.as_ref().context("no keys")?.display().to_string();
    let figures = figures_with(&program, &[&keys, &responder.pid().to_string()], short)?;
    drop(crowd);
    for (what, unit) in [("CPU time of a packet", "ns"), ("packets", "kpps")] {
        let side = |who: &str| anyhow::Ok(named(&figures, &format!("{what} | {who}"))?.side(who));
        let name = format!("{count} sites that send beside one, {}: {what}", engine.name());
        report.compare(name, unit, side("all")?, side("one")?);
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
