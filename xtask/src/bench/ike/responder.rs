//! The responder under load, and the load.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{CENTER_NETS, ESP, SITE_LAN, gateway, initiators, last_line};
use crate::cmd;
use crate::lab::Lab;
use crate::lab::pki::{self, Auth, Pki};
use crate::lab::service;
use crate::lab::state::{self, Process};
use crate::lab::strongswan::{Connection, StrongSwan};
use crate::lab::topology::{Options, Site};

/// Clock ticks a second of /proc/PID/stat on Linux (USER_HZ).
const TICKS_PER_S: f64 = 100.0;
/// How long idle CPU time is watched.
const IDLE_S: u64 = 2;
const START_S: u64 = 60;

/// Whose responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gateway,
    StrongSwan,
}

impl Kind {
    pub(super) const BOTH: [Kind; 2] = [Kind::Gateway, Kind::StrongSwan];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Gateway => "gateway",
            Kind::StrongSwan => "strongSwan",
        }
    }
}

/// A responder in a lab of its own.
pub(super) struct Responder {
    process: Process,
    lab: Lab,
}

impl Responder {
    pub(super) fn start(kind: Kind, auth: Auth, ike: &str) -> Result<Self> {
        let lab = Lab::up(Options {
            kernel_forwards_in_gateway: kind == Kind::StrongSwan,
            ..Options::default()
        })?;
        match kind {
            Kind::Gateway => {
                let text = configuration(lab.pki(), auth, ike) + &site1();
                Self::gateway(lab, &text)
            }
            Kind::StrongSwan => {
                let connection = Connection {
                    ike: ike.to_owned(),
                    esp: ESP.to_owned(),
                    ..Connection::of_gateway(Site::One, auth)
                };
                let swan: StrongSwan = lab.start_strongswan_gateway_with(&connection)?;
                let name = format!("{}-charon", swan.node());
                let process = state::processes()
                    .into_iter()
                    .find(|process| process.name == name);
                Ok(Self {
                    process: process.context("charon is not among the lab's processes")?,
                    lab,
                })
            }
        }
    }

    /// The gateway with this configuration.
    pub(super) fn gateway(lab: Lab, text: &str) -> Result<Self> {
        let file = state::path("bench.toml");
        fs::write(&file, text)?;
        let mut command = service::command(&gateway());
        let process = state::spawn("bench-gateway", command.args(["run", "--config"]).arg(&file))?;
        let deadline = Instant::now() + Duration::from_secs(START_S);
        while !status(&["status"])?.status.success() {
            if !process.is_running() || Instant::now() > deadline {
                let log = fs::read_to_string(state::path("bench-gateway.log")).unwrap_or_default();
                bail!("the gateway did not start; it printed:\n{log}");
            }
            sleep(Duration::from_millis(50));
        }
        Ok(Self { process, lab })
    }

    /// The process that is measured.
    pub(super) fn pid(&self) -> i32 {
        self.process.pid
    }

    pub(super) fn pki(&self) -> &Pki {
        self.lab.pki()
    }

    /// User and system time so far, in seconds.
    pub(super) fn cpu_s(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.process.pid);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        // Fields 14 and 15; the program's name, in brackets, is counted from its end.
        let after = text.rsplit_once(") ").map(|(_, after)| after);
        let fields: Vec<f64> = after
            .unwrap_or_default()
            .split(' ')
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse().ok())
            .collect();
        match fields.as_slice() {
            [user, system] => Ok((user + system) / TICKS_PER_S),
            _ => bail!("{path} has no times"),
        }
    }

    /// CPU seconds that it takes in a second without load.
    pub(super) fn idle_cpu_per_s(&self) -> Result<f64> {
        let before_s = self.cpu_s()?;
        sleep(Duration::from_secs(IDLE_S));
        Ok((self.cpu_s()? - before_s) / IDLE_S as f64)
    }

    /// Resident memory in MiB: its own, and what it shares with the kernel and the program file. The tables of flows and
    /// mappings are among the latter, as large as the configuration says, with sites or without.
    pub(super) fn memory_mib(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.process.pid);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let mib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            Ok::<_, anyhow::Error>(kib.with_context(|| format!("{path} has no {name}"))? / 1_024.0)
        };
        Ok(Memory {
            own_mib: mib("RssAnon:")?,
            shared_mib: mib("RssFile:")? + mib("RssShmem:")?,
        })
    }
}

/// Resident memory of a responder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) own_mib: f64,
    pub(super) shared_mib: f64,
}

/// Runs a verb of the gateway against the one under load.
pub(super) fn status(arguments: &[&str]) -> Result<std::process::Output> {
    let mut command = Command::new(gateway());
    command
        .args(arguments)
        .arg("--socket")
        .arg(state::path("bench.sock"));
    command.output().with_context(|| cmd::line(&command))
}

/// Whether this build of the gateway knows a proposal.
pub(super) fn supports(auth: Auth, ike: &str) -> Result<bool> {
    let pki = Pki::ready()?;
    let folder = crate::paths::target().join("bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join("check.toml");
    fs::write(&file, configuration(&pki, auth, ike) + &site1())?;
    let mut command = Command::new(gateway());
    command.args(["run", "--check", "--config"]).arg(&file);
    let output = command.output().with_context(|| cmd::line(&command))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() && !said.contains(ike) {
        bail!("{}: {said}", cmd::line(&command));
    }
    Ok(output.status.success())
}

/// `gateway.toml` up to the sites.
pub(super) fn configuration(pki: &Pki, auth: Auth, ike: &str) -> String {
    let authority = auth.authority();
    let networks = CENTER_NETS.map(|network| format!("{network:?}")).join(", ");
    format!(
        "[gateway]\nname = \"bench\"\nstate_dir = {:?}\nsocket = {:?}\n\
         [[interface]]\nname = \"wan4\"\nrole = \"wan\"\n[[interface]]\nname = \"wan6\"\nrole = \"wan\"\n\
         [[interface]]\nname = \"core\"\nrole = \"core\"\n\
         [ike]\ncertificate = {:?}\nprivate_key = {:?}\nca = {:?}\nidentity = {:?}\nproposals = [{ike:?}]\n\
         esp_proposals = [{ESP:?}]\nrekey_ike_after_s = 86400\nrekey_child_after_s = 86400\ndpd_after_s = 3600\n\
         [center]\nnetworks = [{networks}]\n\
         [[nat_pool]]\nname = \"sites\"\naddresses = [\"10.128.0.0/16\"]\n\
         [limits]\nike_per_source_per_s = 1000000\nsite_sas_per_s = 1000000\n",
        state::path("bench-state"),
        state::path("bench.sock"),
        pki.certificate(authority, "gateway"),
        pki.key(authority, "gateway"),
        pki.authority(authority),
        pki::fqdn("gateway"),
    )
}

/// A `[[site]]`.
pub(super) fn site(name: &str, identity: &str) -> String {
    format!(
        "[[site]]\nname = {name:?}\nidentity = {identity:?}\nnetworks = [{SITE_LAN:?}]\nnat_pool = \"sites\"\n"
    )
}

fn site1() -> String {
    site(Site::One.name(), &pki::fqdn(Site::One.name()))
}

/// What the initiators are told.
pub(super) struct Load {
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
    pub(super) identity: String,
    pub(super) ike: String,
    /// The CA's key: every one has an identity of its own and stays.
    pub(super) stay_with: Option<PathBuf>,
    /// Where the keys of what they send are left.
    pub(super) keys: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) failed: usize,
    pub(super) seconds: f64,
}

impl Load {
    /// Makes so many handshakes.
    pub(super) fn run(&self, count: usize) -> Result<Done> {
        Done::parse(&last_line(&mut self.command(count))?)
    }

    /// The program's command line.
    pub(super) fn command(&self, count: usize) -> Command {
        let mut command = Site::One.router().command(&initiators().display().to_string());
        let options = Options::default();
        let words = [
            ("local", Site::One.router_address(&options).to_owned()),
            ("remote", Site::One.gateway_address().to_owned()),
            ("chain", self.chain.display().to_string()),
            ("key", self.key.display().to_string()),
            ("ca", self.ca.display().to_string()),
            ("identity", self.identity.clone()),
            ("remote_identity", pki::fqdn("gateway")),
            ("ts_local", SITE_LAN.to_owned()),
            ("ts_remote", CENTER_NETS.join(",")),
            ("ike", self.ike.clone()),
            ("esp", ESP.to_owned()),
            ("count", count.to_string()),
        ];
        command.args(words.map(|(key, value)| format!("{key}={value}")));
        if let Some(key) = &self.stay_with {
            command.arg(format!("stay_with={}", key.display()));
        }
        if let Some(file) = &self.keys {
            command.arg(format!("keys={}", file.display()));
        }
        command
    }
}

impl Done {
    /// `established N failed M microseconds T`
    pub(super) fn parse(line: &str) -> Result<Self> {
        let words: Vec<_> = line.split(' ').collect();
        let ["established", _, "failed", failed, "microseconds", microseconds] = words.as_slice() else {
            bail!("the initiators printed {line:?}");
        };
        Ok(Self {
            failed: failed.parse()?,
            seconds: microseconds.parse::<f64>()? / 1e6,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Done;

    #[test]
    fn the_last_line_of_the_initiators_is_read() {
        let done = Done::parse("established 98 failed 2 microseconds 2500000").unwrap();
        assert_eq!((done.failed, done.seconds), (2, 2.5));
        assert!(Done::parse("established 98").is_err());
    }
}
