//! strongSwan with user-space ESP in a namespace of the lab: the sites' routers, and a second opinion as gateway.
//!
//! Each daemon has a configuration, a VICI socket and a log of its own in the lab's state folder; nothing under /etc
//! is read. Its `kernel-libipsec` plugin does ESP on a TUN device, `ipsec0`: encapsulated in UDP always, or with
//! [`Release::Debian13`] only where a NAT is seen or [`Connection::force_udp`] asks for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::pki::{self, Auth, Pki};
use super::state::{self, Process};
use super::topology::{CENTER_NETS, INTERNET_NET, Node, Options, SITE_LAN, STATE, Site};
use crate::{cmd, debian13};

/// The name of the one Child SA of a connection.
const CHILD: &str = "net";
/// The name of the one connection.
const CONNECTION: &str = "tunnel";
/// Long enough for a busy machine; a charon that has ended is not waited for.
const START_S: u64 = 60;
/// The device that `kernel-libipsec` makes.
const TUN: &str = "ipsec0";
/// Less than the 1,400 that it comes with, which with a 32-octet ICV in UDP over IPv6 makes more than 1,500: a packet
/// would leave in fragments, which only the tests of fragments ask for.
const TUN_MTU: u32 = 1380;
/// How long a set-up may take.
const EXCHANGE_S: u64 = 15;
/// How long it may take until an SA is there that somebody was asked for. charon repeats a rekey that collided with one of its
/// peer after 15 seconds at most.
const SA_S: u64 = 40;
/// What charon says of an IKE SA that it was about to delete.
const GONE_BY_ITSELF: &str = "not found";

/// Which strongSwan a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Release {
    /// 5.9, of the machine itself; ESP always in UDP.
    #[default]
    Debian12,
    /// 6.0, of the tree that `setup` makes; plain ESP where no NAT is seen.
    Debian13,
}

impl Release {
    /// Both.
    pub const BOTH: [Release; 2] = [Release::Debian12, Release::Debian13];

    fn daemon(self, node: Node) -> Command {
        const CHARON: &str = "/usr/sbin/charon-systemd";
        match self {
            Release::Debian12 => node.command(CHARON),
            Release::Debian13 => {
                let mut command = node.command("unshare");
                command.args(["--mount", "sh", "-c", &debian13::enter(Path::new(STATE), CHARON)]);
                command
            }
        }
    }
}

/// How a peer is named in IKE_AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// ID_FQDN: the certificate's DNS name.
    Fqdn,
    /// ID_DER_ASN1_DN: the certificate's subject.
    Dn,
}

/// One connection, as seen from one end.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Whose certificate and private key this end holds: `gateway`, `site1`, `stranger`.
    pub holder: &'static str,
    /// The authority that issued it.
    pub authority: &'static str,
    /// The authority that must have issued the peer's.
    pub peer_authority: &'static str,
    /// This end's outer address.
    pub local: String,
    /// The peer's outer address, or `%any`.
    pub remote: String,
    /// The holder expected at the other end, or none: anyone the authority certified.
    pub peer: Option<&'static str>,
    /// How both ends are named.
    pub ids: IdKind,
    /// IKE proposal in strongSwan's words.
    pub ike: String,
    /// ESP proposal; with a group in it, rekeying has PFS.
    pub esp: String,
    /// Inner networks at this end.
    pub local_ts: Vec<String>,
    /// Inner networks at the other end.
    pub remote_ts: Vec<String>,
    /// `yes`, `no`, `accept` or `force`.
    pub fragmentation: &'static str,
    /// Seconds after which this end rekeys the Child SA; 0: never by itself.
    pub rekey_child_s: u32,
    /// Seconds after which this end rekeys the IKE SA; 0: never by itself.
    pub rekey_ike_s: u32,
    /// Seconds between dead-peer checks; 0: none.
    pub dpd_s: u32,
    /// Whether this end offers to move its addresses (RFC 4555); it then floats to port 4500 in IKE_AUTH.
    pub mobike: bool,
    /// Whether this end claims to see a NAT, so that ESP is encapsulated in UDP.
    pub force_udp: bool,
    /// Both ends prove themselves with a shared key, which is among [`secrets`](Self::secrets), instead of certificates.
    pub shared_key: bool,
    /// More settings of the connection, in swanctl.conf's format.
    pub lines: String,
    /// The sections of `secrets`, in swanctl.conf's format.
    pub secrets: String,
}

impl Connection {
    /// What a site's router uses unless a test says otherwise.
    #[must_use]
    pub fn of_site(site: Site, auth: Auth, options: &Options) -> Self {
        Self {
            holder: site.name(),
            authority: auth.authority(),
            peer_authority: auth.authority(),
            local: site.router_address(options).to_owned(),
            remote: site.gateway_address().to_owned(),
            peer: Some("gateway"),
            ids: IdKind::Fqdn,
            ike: "aes256-sha256-modp2048".to_owned(),
            esp: "aes256gcm16-modp2048".to_owned(),
            local_ts: vec![SITE_LAN.to_owned()],
            remote_ts: CENTER_NETS
                .into_iter()
                .chain(options.internet.then_some(INTERNET_NET))
                .map(str::to_owned)
                .collect(),
            fragmentation: "yes",
            rekey_child_s: 0,
            rekey_ike_s: 0,
            dpd_s: 0,
            mobike: false,
            force_udp: false,
            shared_key: false,
            lines: String::new(),
            secrets: String::new(),
        }
    }

    /// The same connection from the other end, for strongSwan in the gateway's place.
    #[must_use]
    pub fn of_gateway(site: Site, auth: Auth) -> Self {
        let at_site = Self::of_site(site, auth, &Options::default());
        Self {
            holder: "gateway",
            local: at_site.remote,
            remote: "%any".to_owned(),
            peer: Some(site.name()),
            local_ts: at_site.remote_ts,
            remote_ts: at_site.local_ts,
            ..at_site
        }
    }

    fn identity(&self, holder: &str) -> String {
        match self.ids {
            IdKind::Fqdn => pki::fqdn(holder),
            IdKind::Dn => format!("\"{}\"", pki::distinguished_name(holder)),
        }
    }

    /// The connection in swanctl.conf's format, where a value runs to the end of its line.
    fn to_swanctl(&self) -> String {
        let peer = self
            .peer
            .map_or_else(|| "%any".to_owned(), |peer| self.identity(peer));
        let (own_proof, peer_proof) = if self.shared_key {
            ("auth = psk", "auth = psk")
        } else {
            (
                "auth = pubkey\ncerts = own.crt",
                "auth = pubkey\ncacerts = peer-ca.crt",
            )
        };
        format!(
            "secrets {{\n{}}}\nconnections {{\n {CONNECTION} {{\n{}\
             version = 2\nmobike = {}\nencap = {}\n\
             local_addrs = {}\nremote_addrs = {}\nproposals = {}\nfragmentation = {}\n\
             rekey_time = {}s\ndpd_delay = {}s\n\
             local {{\n{own_proof}\nid = {}\n}}\n\
             remote {{\n{peer_proof}\nid = {peer}\n}}\n\
             children {{\n{CHILD} {{\nlocal_ts = {}\nremote_ts = {}\nesp_proposals = {}\nrekey_time = {}s\n}}\n}}\n\
             }}\n}}\n",
            self.secrets,
            self.lines,
            yes_no(self.mobike),
            yes_no(self.force_udp),
            self.local,
            self.remote,
            self.ike,
            self.fragmentation,
            self.rekey_ike_s,
            self.dpd_s,
            self.identity(self.holder),
            self.local_ts.join(","),
            self.remote_ts.join(","),
            self.esp,
            self.rekey_child_s,
        )
    }
}

/// The SAs of a tunnel, as strongSwan names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// SPIs of the IKE SA, initiator's and responder's.
    pub ike_spis: String,
    /// SPI of the inbound ESP SA, hexadecimal.
    pub spi_in: String,
    /// SPI of the outbound ESP SA, hexadecimal.
    pub spi_out: String,
    /// This end's outer address and port: `203.0.113.10[500]`.
    pub local: String,
    /// Algorithms of the IKE SA and of the Child SA.
    pub algorithms: String,
    /// The Child SA's keys come from a key exchange of its own.
    pub has_group: bool,
    /// ESP is encapsulated in UDP.
    pub in_udp: bool,
}

/// A running charon.
#[derive(Debug)]
pub struct StrongSwan {
    node: Node,
    folder: PathBuf,
    process: Process,
}

impl StrongSwan {
    /// Starts charon in `node` with `connection` loaded.
    pub fn start(node: Node, release: Release, pki: &Pki, connection: &Connection) -> Result<Self> {
        let folder = state::path(&format!("{node}-swan"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("strongswan.conf"), settings(&folder, release))?;
        // The socket of an earlier run would be taken for that of this one.
        let _absent = fs::remove_file(folder.join("vici"));
        let mut charon = release.daemon(node);
        charon.env("STRONGSWAN_CONF", folder.join("strongswan.conf"));
        let process = state::spawn(&format!("{node}-charon"), &mut charon)?;
        let swan = Self {
            node,
            folder,
            process,
        };
        swan.wait_for_vici()?;
        let device = format!("link set {TUN} mtu {TUN_MTU}");
        cmd::output(node.command("ip").args(device.split(' ')))?;
        swan.load(pki, connection)?;
        Ok(swan)
    }

    /// Replaces the loaded connection and credentials; SAs that are up stay.
    pub fn load(&self, pki: &Pki, connection: &Connection) -> Result<()> {
        for part in ["x509", "x509ca", "x509crl", "private"] {
            let part = self.folder.join(part);
            let _absent = fs::remove_dir_all(&part);
            fs::create_dir_all(&part)?;
        }
        let (authority, holder) = (connection.authority, connection.holder);
        fs::copy(
            pki.certificate(authority, holder),
            self.folder.join("x509/own.crt"),
        )?;
        fs::copy(pki.key(authority, holder), self.folder.join("private/own.key"))?;
        fs::copy(
            pki.authority(connection.peer_authority),
            self.folder.join("x509ca/peer-ca.crt"),
        )?;
        // strongSwan sends the certificates between its own and its root, if it has that to lead them to.
        if let Some(auth) = Auth::BOTH
            .into_iter()
            .find(|auth| auth.intermediate() == authority)
        {
            for (name, part) in [(authority, "own-mid.crt"), (auth.authority(), "own-ca.crt")] {
                fs::copy(pki.authority(name), self.folder.join("x509ca").join(part))?;
            }
        }
        fs::write(self.folder.join("swanctl.conf"), connection.to_swanctl())?;
        self.swanctl(&["--load-all", "--clear"])?;
        Ok(())
    }

    /// Sets IKE SA and Child SA up.
    ///
    /// # Errors
    /// With charon's account of the exchanges, when they do not succeed.
    pub fn initiate(&self) -> Result<Tunnel> {
        self.swanctl(&[
            "--initiate",
            "--child",
            CHILD,
            "--timeout",
            &EXCHANGE_S.to_string(),
        ])?;
        self.tunnel()?
            .with_context(|| format!("{}: no SA although --initiate succeeded", self.node))
    }

    /// Takes the IKE SA down, with a DELETE to the peer.
    ///
    /// # Errors
    /// When it stays.
    pub fn terminate(&self) -> Result<()> {
        let timeout = EXCHANGE_S.to_string();
        let done = self.swanctl(&["--terminate", "--ike", CONNECTION, "--timeout", &timeout]);
        match done {
            // One that was rekeyed a moment ago is counted with its successor, and may be gone before its turn: charon calls
            // that a failure.
            Err(error) if format!("{error:#}").contains(GONE_BY_ITSELF) && self.tunnel()?.is_none() => Ok(()),
            done => done.map(drop),
        }
    }

    /// Rekeys the Child SA and waits for the new SPIs.
    pub fn rekey_child(&self) -> Result<Tunnel> {
        self.rekey("--child", CHILD, |old, new| {
            old.spi_in != new.spi_in && old.spi_out != new.spi_out
        })
    }

    /// Rekeys the IKE SA and waits for the new SPIs.
    pub fn rekey_ike(&self) -> Result<Tunnel> {
        self.rekey("--ike", CONNECTION, |old, new| old.ike_spis != new.ike_spis)
    }

    /// The established tunnel, if there is one.
    pub fn tunnel(&self) -> Result<Option<Tunnel>> {
        Ok(parse_sas(&self.swanctl(&["--list-sas"])?))
    }

    /// Waits for a tunnel that `wanted` accepts.
    ///
    /// # Errors
    /// When none comes, with the end of charon's log.
    pub fn wait_for_tunnel(&self, wanted: impl Fn(&Tunnel) -> bool) -> Result<Tunnel> {
        let deadline = Instant::now() + Duration::from_secs(SA_S);
        while Instant::now() < deadline {
            if let Some(tunnel) = self.tunnel()?.filter(&wanted) {
                return Ok(tunnel);
            }
            sleep(Duration::from_millis(20));
        }
        bail!(
            "{}: no such SAs in {SA_S} s; charon's log ends:\n{}",
            self.node,
            self.tail()
        )
    }

    /// What charon logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The namespace it runs in.
    #[must_use]
    pub fn node(&self) -> Node {
        self.node
    }

    /// Does `work` while charon is stopped in its tracks and takes no processor time.
    pub fn while_paused<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.process.signal(Signal::SIGSTOP);
        let done = work();
        self.process.signal(Signal::SIGCONT);
        done
    }

    /// Ends charon; it tells its peers.
    pub fn stop(self) {
        self.process.end(state::STOP_S);
    }

    /// Ends charon on the spot; its peers are told nothing.
    pub fn kill(self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait(Duration::from_secs(START_S));
    }

    fn rekey(&self, what: &str, name: &str, done: impl Fn(&Tunnel, &Tunnel) -> bool) -> Result<Tunnel> {
        let old = self
            .tunnel()?
            .with_context(|| format!("{}: no tunnel to rekey", self.node))?;
        self.swanctl(&["--rekey", what, name])?;
        self.wait_for_tunnel(|new| done(&old, new))
            .with_context(|| format!("rekeying {name}"))
    }

    fn swanctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("swanctl");
        command.args(args).arg("--uri").arg(self.vici());
        command
            .env("SWANCTL_DIR", &self.folder)
            .env("STRONGSWAN_CONF", self.folder.join("strongswan.conf"));
        cmd::read(&mut command).with_context(|| format!("strongSwan in {}", self.node))
    }

    fn wait_for_vici(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(START_S);
        while !self.folder.join("vici").exists() {
            if !self.process.is_running() || Instant::now() > deadline {
                bail!(
                    "charon did not start in {}; its log ends:\n{}",
                    self.node,
                    self.tail()
                );
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn vici(&self) -> String {
        format!("unix://{}", self.folder.join("vici").display())
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(15)..)
            .unwrap_or_default()
            .join("\n")
    }
}

fn yes_no(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

/// Retransmission is short so that a refused tunnel fails in seconds.
fn settings(folder: &Path, release: Release) -> String {
    let folder = folder.display();
    let raw_esp = match release {
        Release::Debian12 => "",
        Release::Debian13 => "kernel-libipsec {\n raw_esp = yes\n }\n",
    };
    format!(
        "charon-systemd {{\n\
         load = openssl random nonce pem pkcs1 pkcs8 x509 pubkey revocation constraints hmac kdf gcm chapoly \
         curve25519 kernel-libipsec kernel-netlink socket-default vici updown\n\
         retransmit_tries = 3\nretransmit_timeout = 1.0\n\
         filelog {{\n log {{\n path = {folder}/log\n default = 1\n flush_line = yes\n }}\n}}\n\
         journal {{\n default = -1\n}}\n\
         plugins {{\n {raw_esp} vici {{\n socket = unix://{folder}/vici\n }}\n}}\n\
         }}\n\
         swanctl {{\n load = openssl random pem pkcs1 pkcs8 x509 pubkey\n}}\n"
    )
}

/// Reads `swanctl --list-sas`; the newest established IKE SA and newest installed Child SA stand first.
fn parse_sas(text: &str) -> Option<Tunnel> {
    let mut ike = None;
    let (mut spi_in, mut spi_out, mut esp) = (None, None, None);
    let mut local = None;
    let (mut installed, mut in_udp) = (false, false);
    for line in text.lines() {
        let words: Vec<_> = line
            .split_whitespace()
            .map(|word| word.trim_end_matches(','))
            .collect();
        match words.as_slice() {
            [name, _, "ESTABLISHED", _, initiator, responder, ..]
                if name.starts_with(CONNECTION) && ike.is_none() =>
            {
                ike = Some(format!(
                    "{} {}",
                    initiator.trim_end_matches("_i*"),
                    responder.trim_end_matches("_r")
                ));
            }
            ["local", .., "@", address] if ike.is_some() && local.is_none() => {
                local = Some((*address).to_owned());
            }
            [name, .., last] if name.starts_with(CHILD) && last.starts_with("ESP:") => {
                installed = words.contains(&"INSTALLED");
                if installed && esp.is_none() {
                    esp = last.strip_prefix("ESP:").map(str::to_owned);
                    in_udp = words.contains(&"TUNNEL-in-UDP");
                }
            }
            ["in", spi, ..] if installed && spi_in.is_none() => spi_in = Some((*spi).to_owned()),
            ["out", spi, ..] if installed && spi_out.is_none() => spi_out = Some((*spi).to_owned()),
            _ => {}
        }
    }
    let suite = text
        .lines()
        .map(str::trim)
        .find(|line| line.contains("/PRF_"))
        .unwrap_or_default();
    let esp = esp?;
    Some(Tunnel {
        has_group: esp
            .split('/')
            .any(|word| ["MODP", "ECP", "CURVE"].iter().any(|kind| word.starts_with(kind))),
        in_udp,
        local: local?,
        algorithms: format!("IKE {suite}, ESP {esp}"),
        ike_spis: ike?,
        spi_in: spi_in?,
        spi_out: spi_out?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As strongSwan 5.9.8 prints it.
    const SAS: &str = "\
tunnel: #2, ESTABLISHED, IKEv2, e0c4dd4dd11a9a3f_i* 4f4d1c2e9d1b2a7e_r
  local  'site1.lab.test' @ 203.0.113.10[4500]
  remote 'gateway.lab.test' @ 203.0.113.1[4500]
  AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048
  established 0s ago
  net: #2, reqid 1, REKEYED, TUNNEL-in-UDP, ESP:AES_GCM_16-256
    installed 1s ago
    in  c0000001,      0 bytes,     0 packets
    out c0000002,      0 bytes,     0 packets
  net: #3, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-256/MODP_2048
    installed 0s ago
    in  c1b1e1a2,      0 bytes,     0 packets
    out c2d2e2f2,      0 bytes,     0 packets
    local  192.168.1.0/24
    remote 10.100.0.0/16
";

    #[test]
    fn the_installed_sa_is_read_not_the_replaced_one() {
        let tunnel = parse_sas(SAS).unwrap();
        assert_eq!(tunnel.spi_in, "c1b1e1a2");
        assert_eq!(tunnel.spi_out, "c2d2e2f2");
        assert_eq!(tunnel.ike_spis, "e0c4dd4dd11a9a3f 4f4d1c2e9d1b2a7e");
        assert!(
            tunnel.algorithms.ends_with("ESP AES_GCM_16-256/MODP_2048"),
            "{}",
            tunnel.algorithms
        );
        assert!(tunnel.has_group && tunnel.in_udp);
        assert_eq!(tunnel.local, "203.0.113.10[4500]");
    }

    #[test]
    fn no_sa_is_no_tunnel() {
        assert_eq!(parse_sas(""), None);
        assert_eq!(parse_sas("tunnel: #1, CONNECTING, IKEv2, 01_i* 00_r\n"), None);
    }
}
