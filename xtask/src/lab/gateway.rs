//! The gateway under test: its files, its process, its CLI.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::pki::{self, Auth, Pki};
use super::service;
use super::state::{self, Process};
use super::strongswan::IdKind;
use super::topology::{
    CENTER_NETS, DNS_PROXY, DNS_UPSTREAM, FORBIDDEN_PORT, INTERNET_NET, NAT_POOL, Options, SERVER,
    SERVER_PORT, SERVER_SECOND, SITE_LAN, Site,
};
use crate::cmd;

/// The kernel verifies the programs; on a busy machine that alone takes half a minute.
const START_S: u64 = 60;
/// How long a line of the log may take to be in its file.
const LOG_S: u64 = 5;
/// Site 1's address after translation, given by name; site 2's comes from [`NAT_POOL`].
pub const SITE1_NAT_ADDRESS: &str = "10.201.0.1";
/// The rule that allows the eligibility page.
pub const RULE_WEB: &str = "eligibility-web";
/// The rule that denies [`FORBIDDEN_PORT`].
pub const RULE_DENY: &str = "no-admin";
/// The port that the lab's rules allow for UDP measurements.
pub const BENCH_PORT: u16 = 5201;

/// Environment variable with the name of the engine that the lab's gateways have where a test does not say.
const ENGINE: &str = "GATEWAY_LAB_ENGINE";

/// Who forwards packets of known flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The XDP programs.
    Xdp,
    /// The workers.
    Direct,
}

impl Engine {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Xdp, Self::Direct];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Direct => "direct",
        }
    }

    /// The one that `GATEWAY_LAB_ENGINE` names; the default of the configuration if it names none.
    fn of_environment() -> Self {
        let wanted = std::env::var(ENGINE).unwrap_or_default();
        let named = |engine: &Self| engine.name() == wanted;
        Self::BOTH.into_iter().find(named).unwrap_or(Self::Xdp)
    }
}

/// What of the gateway's configuration can be varied.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which authority certified the gateway and is trusted for sites.
    pub auth: Auth,
    /// The gateway's certificate is of the intermediate authority under that one.
    pub intermediate: bool,
    /// The gateway knows the revocation list of that intermediate authority.
    pub revocation_list: bool,
    /// The gateway can bring up each site's tunnel by itself, on request.
    pub connections: bool,
    /// Sites may have certificates that lead to either authority.
    pub trust_both: bool,
    /// Who forwards packets of known flows.
    pub engine: Engine,
    /// How both ends are named.
    pub ids: IdKind,
    /// IKE proposals, best first.
    pub ike: Vec<String>,
    /// ESP proposals, best first.
    pub esp: Vec<String>,
    /// Seconds after which the gateway rekeys a Child SA.
    pub rekey_child_s: u32,
    /// Seconds after which the gateway rekeys an IKE SA.
    pub rekey_ike_s: u32,
    /// Sites are not named, but let in by the pattern of their certificates' names.
    pub any_site: bool,
    /// Sites may reach the lab's Internet by name, if rules say so; its answers are good for seconds.
    pub internet: bool,
    /// More lines for each `[[site]]`.
    pub site_lines: String,
    /// More lines for each `[[connection]]`.
    pub connection_lines: String,
    /// What of the center sites may reach.
    pub networks: Vec<String>,
    /// More tables of the configuration.
    pub tables: String,
    /// The rule-set file.
    pub rules: String,
    /// Environment variables beside those of the unit.
    pub environment: Vec<(String, String)>,
}

impl Config {
    /// What the demo uses, and tests unless they say otherwise.
    #[must_use]
    pub fn usual(auth: Auth) -> Self {
        Self {
            auth,
            intermediate: false,
            trust_both: false,
            revocation_list: false,
            connections: false,
            engine: Engine::of_environment(),
            ids: IdKind::Fqdn,
            ike: vec!["aes256-sha256-modp2048".to_owned()],
            esp: vec!["aes256gcm16-modp2048".to_owned()],
            rekey_child_s: 3600,
            rekey_ike_s: 4 * 3600,
            any_site: false,
            internet: false,
            site_lines: String::new(),
            connection_lines: String::new(),
            networks: CENTER_NETS.map(str::to_owned).to_vec(),
            tables: String::new(),
            rules: rules(),
            environment: Vec::new(),
        }
    }

    fn to_toml(&self, pki: &Pki) -> String {
        let issuer = if self.intermediate {
            self.auth.intermediate()
        } else {
            self.auth.authority()
        };
        let trusted = if self.trust_both {
            pki.authorities()
        } else {
            pki.authority(self.auth.authority())
        };
        let path = |path: PathBuf| quoted(&path.display().to_string());
        let mut text = format!(
            "[gateway]\nname = \"lab\"\nstate_dir = {}\nsocket = {}\nengine = \"{}\"\n\n",
            path(state::path("gateway-state")),
            path(socket()),
            self.engine.name(),
        );
        for (interface, role) in [("wan4", "wan"), ("wan6", "wan"), ("core", "core")] {
            text += &format!("[[interface]]\nname = \"{interface}\"\nrole = \"{role}\"\n\n");
        }
        if self.internet {
            text += "[[interface]]\nname = \"inet\"\nrole = \"internet\"\n\n";
            text += &format!("[internet]\nnetworks = [\"{INTERNET_NET}\"]\n\n");
            text +=
                &format!("[dns]\nlisten = \"{DNS_PROXY}\"\nupstream = \"{DNS_UPSTREAM}\"\nttl_min_s = 1\n\n");
        }
        text += &format!(
            "[ike]\ncertificate = {}\nprivate_key = {}\nca = {}\nidentity = {}\nproposals = {}\nesp_proposals = {}\n\
             rekey_ike_after_s = {}\nrekey_child_after_s = {}\n",
            path(pki.chain(issuer, "gateway")),
            path(pki.key(issuer, "gateway")),
            path(trusted),
            quoted(&self.identity("gateway")),
            list(&self.ike),
            list(&self.esp),
            self.rekey_ike_s,
            self.rekey_child_s,
        );
        if self.revocation_list {
            let list = pki.revocation_list(self.auth.intermediate());
            text += &format!("crl = [{}]\n", path(list));
        }
        text += &format!("\n[center]\nnetworks = {}\n\n", list(&self.networks));
        text += &format!("[[nat_pool]]\nname = \"sites\"\naddresses = [\"{NAT_POOL}\"]\n\n");
        if self.any_site {
            text += &format!(
                "[[any_site]]\npattern = \"*.lab.test\"\ngroups = [\"clinics\"]\nnetworks = [\"{SITE_LAN}\"]\nnat_pool = \"sites\"\n\n"
            );
        }
        for site in Site::BOTH.into_iter().filter(|_| !self.any_site) {
            let nat = match site {
                Site::One => format!("nat_address = \"{SITE1_NAT_ADDRESS}\""),
                Site::Two => "nat_pool = \"sites\"".to_owned(),
            };
            text += &format!(
                "[[site]]\nname = \"{0}\"\nidentity = {1}\ngroups = [\"clinics\"]\nnetworks = [\"{SITE_LAN}\"]\n{nat}\n{2}\n",
                site.name(),
                quoted(&self.identity(site.name())),
                self.site_lines,
            );
        }
        for site in Site::BOTH.into_iter().filter(|_| self.connections) {
            text += &format!(
                "[[connection]]\nname = \"{0}\"\nsite = \"{0}\"\nremote = \"{1}\"\nstart = \"manual\"\n{2}\n",
                site.name(),
                site.router_address(&Options::default()),
                self.connection_lines,
            );
        }
        text += &self.tables;
        text + "[rules]\nfile = \"rules.toml\"\n"
    }

    fn identity(&self, holder: &str) -> String {
        match self.ids {
            IdKind::Fqdn => pki::fqdn(holder),
            IdKind::Dn => pki::distinguished_name(holder),
        }
    }
}

/// The lab's rule set.
#[must_use]
pub fn rules() -> String {
    format!(
        "name = \"lab\"\n\n\
         [[rule]]\nname = \"{RULE_DENY}\"\naction = \"deny\"\ndestination = \"{SERVER}\"\nprotocol = \"tcp\"\n\
         destination_ports = {FORBIDDEN_PORT}\nlog = true\ncomment = \"denied anyway; named so that attempts are counted\"\n\n\
         [[rule]]\nname = \"{RULE_WEB}\"\naction = \"allow\"\ngroups = \"clinics\"\n\
         destination = [\"{SERVER}\", \"{SERVER_SECOND}\"]\nprotocol = \"tcp\"\ndestination_ports = {SERVER_PORT}\n\n\
         [[rule]]\nname = \"ping\"\naction = \"allow\"\ndestination = \"{SERVER}\"\nprotocol = \"icmp\"\n\n\
         [[rule]]\nname = \"measure\"\naction = \"allow\"\ndestination = \"{SERVER}\"\nprotocol = \"udp\"\n\
         destination_ports = {BENCH_PORT}\n"
    )
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    program: PathBuf,
}

impl Gateway {
    pub(super) fn start(program: PathBuf, pki: &Pki, config: &Config) -> Result<Self> {
        let file = state::path("gateway.toml");
        fs::write(&file, config.to_toml(pki))?;
        fs::write(state::path("rules.toml"), &config.rules)?;
        let mut command = service::command(&program);
        command.envs(config.environment.iter().map(|(name, value)| (name, value)));
        let process = state::spawn("gateway", command.args(["run", "--config"]).arg(&file))?;
        let gateway = Self { process, program };
        gateway.wait_until_ready()?;
        Ok(gateway)
    }

    /// Runs a CLI verb against it and returns what the verb printed.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        cmd::read(&mut self.command(args))
    }

    /// Runs a CLI verb with `--json`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let printed = cmd::read(self.command(args).arg("--json"))?;
        serde_json::from_str(&printed).with_context(|| format!("gateway {}: {printed}", args.join(" ")))
    }

    /// Packets dropped so far, by the reason's name.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        let answer = self.json(&["drops"])?;
        named_counts(&answer, "reason").with_context(|| format!("gateway drops: {answer}"))
    }

    /// Flows and packets that a rule has decided so far.
    pub fn rule_hits(&self, rule: &str) -> Result<u64> {
        let answer = self.json(&["rules", "show"])?;
        let counts =
            named_counts(&answer, "name").with_context(|| format!("gateway rules show: {answer}"))?;
        counts
            .get(rule)
            .copied()
            .with_context(|| format!("no rule {rule} in {answer}"))
    }

    /// Runs a CLI verb that may fail.
    pub fn try_cli(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command(args);
        command.output().with_context(|| cmd::line(&command))
    }

    /// Whether the daemon logs this. It may be about to: its log is written beside what it does.
    #[must_use]
    pub fn logs(&self, words: &str) -> bool {
        let deadline = Instant::now() + Duration::from_secs(LOG_S);
        while Instant::now() < deadline {
            if self.log().contains(words) {
                return true;
            }
            sleep(Duration::from_millis(10));
        }
        false
    }

    /// What the daemon logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(state::path("gateway.log")).unwrap_or_default()
    }

    /// Whether the daemon still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// The daemon's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Does `work` while the daemon stands still.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn while_stopped<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.process.signal(Signal::SIGSTOP);
        let done = work();
        self.process.signal(Signal::SIGCONT);
        done
    }

    /// Ends the daemon in order.
    ///
    /// # Errors
    /// When it did not end by itself and was killed.
    pub fn stop(self) -> Result<()> {
        if !self.process.end(state::STOP_S) {
            bail!(
                "the gateway did not stop within {} s; it printed:\n{}",
                state::STOP_S,
                self.log()
            );
        }
        Ok(())
    }

    /// Ends the daemon as a crash would.
    pub fn kill(self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait(Duration::from_secs(START_S));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--socket").arg(socket());
        command
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(START_S);
        while !self.try_cli(&["status"])?.status.success() {
            if !self.process.is_running() || Instant::now() > deadline {
                bail!("the gateway did not start; it printed:\n{}", self.log());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Reads a list of objects that each have a name under `key` and a count under `packets` or `hits`.
fn named_counts(answer: &Value, key: &str) -> Option<BTreeMap<String, u64>> {
    let list = answer
        .as_array()
        .or_else(|| answer.as_object()?.values().find_map(Value::as_array))?;
    let count = |entry: &Value| entry.get("packets").or_else(|| entry.get("hits"))?.as_u64();
    list.iter()
        .map(|entry| Some((entry.get(key)?.as_str()?.to_owned(), count(entry)?)))
        .collect()
}

fn socket() -> PathBuf {
    state::path("gateway.sock")
}

/// A TOML basic string. The lab's own names hold nothing to escape but backslash and quote.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

fn list(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(", "))
}
