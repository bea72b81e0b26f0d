//! `gateway.toml`: its shape (`file`), its checks (`check`), and the checked configuration that comes out.
mod check;
mod connection;
mod dns;
mod file;
mod pool;
mod proof;
mod publish;

pub use connection::{ConnectionConfig, Start};
pub use dns::DnsConfig;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use gateway_common::abi::interface::{IdleLimits, STATES, nat_flag};
use gateway_common::abi::limit;
use gateway_ike::crypto::sign::RsaPadding;
use gateway_ike::pki::identity::{Identity, IdentityPattern};
use gateway_ike::pki::revocation::RevocationPolicy;
use gateway_ike::proposal::Pfs;
use gateway_ike::{EspProposal, IkeProposal};
use serde::{Deserialize, Serialize};

pub use pool::{BLOCK_PORT_LOW, BlockPlan, NatPool, PlanKind, PoolMode, PortBlock};
pub use proof::{SitePpk, SiteSharedKey};
pub use publish::{Filtering, Place, Publication, Transport};

use super::address::Prefix;
use super::diagnostic::{Checker, Diagnostic, Diagnostics};

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it was read from.
    pub source: Source,
    /// Name of this gateway in logs and status.
    pub name: String,
    /// Folder of what must survive a restart.
    pub state_dir: PathBuf,
    /// Unix socket of the API.
    pub socket: PathBuf,
    /// Worker threads; `None`: one for each receive queue of the WAN interfaces.
    pub workers: Option<u32>,
    /// Who forwards packets of flows that are known.
    pub engine: Engine,
    /// Interfaces with a role, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// IKE and certificates.
    pub ike: Ike,
    /// What the center offers.
    pub center: Center,
    /// What sites may reach in the Internet, as far as rules let them; empty: nothing.
    pub internet: Vec<Prefix>,
    /// NAT pools.
    pub nat_pools: Vec<NatPool>,
    /// NAPT as a whole.
    pub nat: Nat,
    /// Names of the site groups; the index is the bit in [`gateway_common::abi::site::Site::groups`].
    pub groups: Vec<String>,
    /// Sites that are named one by one.
    pub sites: Vec<SiteConfig>,
    /// Sites admitted by the pattern of their certificate's name.
    pub any_sites: Vec<AnySite>,
    /// Sites that the gateway connects to by itself.
    pub connections: Vec<ConnectionConfig>,
    /// What the center may reach at sites by itself; the number of one is its place, counting from 1.
    pub publications: Vec<Publication>,
    /// Lifetimes of flows.
    pub timeouts: Timeouts,
    /// Rate limits.
    pub limits: Limits,
    /// Sizes of packets.
    pub network: Network,
    /// The DNS proxy; `None`: there is none, and names in rules open nothing.
    pub dns: Option<DnsConfig>,
    /// Where events are appended as JSON lines.
    pub events_file: Option<PathBuf>,
    /// Rule set in force until the first `gateway rules load`.
    pub rules_file: Option<PathBuf>,
}

/// A file as it was read.
#[derive(Clone, Debug)]
pub struct Source {
    file: PathBuf,
    fingerprint: u64,
}

impl Source {
    fn new(file: &str, text: &str) -> Self {
        Self {
            file: file.into(),
            fingerprint: fingerprint(text),
        }
    }

    /// Its path, as the operator named it.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether it says something else by now, or cannot be read any more.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let text = std::fs::read_to_string(&self.file);
        text.map_or(true, |text| fingerprint(&text) != self.fingerprint)
    }
}

/// Tells a text from the one before. Whoever may write the file has no need to deceive it.
fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Who forwards packets of flows that are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The XDP programs.
    #[default]
    Xdp,
    /// The ESP workers by themselves; the XDP programs what these cannot decide.
    Direct,
}

impl Engine {
    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Direct => "direct",
        }
    }
}

/// What an interface is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Outer side: ESP and IKE.
    Wan,
    /// Center side: clear IPv4.
    Core,
    /// Internet side: clear IPv4.
    Internet,
}

/// An interface with a role.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Name in the kernel.
    pub name: String,
    /// What it is for.
    pub role: Role,
}

/// IKE and certificates; times in seconds.
#[derive(Clone, Debug)]
pub struct Ike {
    /// PEM file: the gateway's certificate, then its intermediate CAs.
    pub certificate: PathBuf,
    /// PEM file: PKCS#8 key of the certificate.
    pub private_key: PathBuf,
    /// PEM files: CAs that sites' certificates must chain to.
    pub ca: Vec<PathBuf>,
    /// Files of revocation lists, PEM or DER.
    pub crl: Vec<PathBuf>,
    /// What to do about issuers without a list.
    pub crl_policy: RevocationPolicy,
    /// How the gateway signs with an RSA key, where the peer knows RFC 7427.
    pub rsa_signatures: RsaPadding,
    /// A peer whose identity is an IP address must send from it (RFC 4945 section 3.1.1).
    pub address_identity_is_source: bool,
    /// The gateway's identity (IDr): FQDN or distinguished name, as in its certificate.
    pub identity: Identity,
    /// IKE proposals, best first.
    pub proposals: Vec<IkeProposal>,
    /// IKE proposals that are accepted besides, before those, but not offered.
    pub proposals_accepted: Vec<IkeProposal>,
    /// ESP proposals, best first.
    pub esp_proposals: Vec<EspProposal>,
    /// Age at which the gateway rekeys an IKE SA.
    pub rekey_ike_after_s: u64,
    /// Age at which the gateway rekeys a Child SA.
    pub rekey_child_after_s: u64,
    /// Silence of the peer after which it is asked whether it lives.
    pub dpd_after_s: u64,
    /// Half-open IKE SAs above which initiators must return a cookie.
    pub cookie_above: usize,
    /// Half-open IKE SAs above which they must solve a puzzle as well.
    pub puzzle_above: usize,
    /// Half-open IKE SAs at most.
    pub half_open_max: usize,
    /// Half-open IKE SAs of one IPv4 address or IPv6 /64 at most.
    pub half_open_per_source: usize,
    /// Behind a NAT, silence towards a peer after which a keepalive is sent; 0 for never.
    pub nat_keepalive_s: u64,
    /// Tell peers of a restart, and believe theirs, at once (RFC 6290).
    pub crash_detection: bool,
    /// Tickets to resume a session with are good for so long at most (RFC 5723); 0: there are none.
    pub session_ticket_s: u64,
    /// Peers may move their SAs to other addresses (RFC 4555).
    pub mobike: bool,
    /// Where else peers with MOBIKE may reach this gateway.
    pub additional_addresses: Vec<IpAddr>,
}

/// What the center offers to sites.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Center {
    /// Networks behind the core interface (local traffic selectors).
    pub networks: Vec<Prefix>,
}

/// What sites may reach in the Internet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Internet {
    /// Networks behind the internet interface (local traffic selectors, besides those of the center).
    pub networks: Vec<Prefix>,
}

/// NAPT as a whole: how it chooses and keeps ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nat {
    /// Lowest port.
    pub port_low: u16,
    /// Highest port.
    pub port_high: u16,
    /// Who may send to mappings of sites that do not say otherwise.
    pub filtering: Filtering,
    /// A mapping has the inside port, where it is free.
    pub preserve_port: bool,
    /// Well-known ports are mapped to well-known ones, where the range has such (RFC 4787 REQ-3 b).
    pub preserve_range: bool,
    /// Seconds that the port of a mapping that ended is kept from others (RFC 6888 REQ-8).
    pub hold_down_s: u32,
    /// Ports of one site that are held so at a time.
    pub hold_down_ports: u32,
    /// Days that the log of who had which address and ports is kept for.
    pub log_keep_days: u32,
}

impl Default for Nat {
    fn default() -> Self {
        Self {
            port_low: 1024,
            port_high: 65535,
            filtering: Filtering::AddressAndPortDependent,
            preserve_port: true,
            preserve_range: true,
            hold_down_s: 120,
            hold_down_ports: 10_000,
            log_keep_days: 365,
        }
    }
}

impl Nat {
    /// As the packet path reads them.
    #[must_use]
    pub const fn flags(&self) -> u32 {
        (if self.preserve_port {
            nat_flag::PRESERVE_PORT
        } else {
            0
        }) | (if self.preserve_range {
            nat_flag::PRESERVE_RANGE
        } else {
            0
        })
    }
}

/// Where a site's translated address comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatSource {
    /// This address.
    Fixed(Ipv4Addr),
    /// The pool of this name.
    Pool(String),
}

/// A site that is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteConfig {
    /// Name in rules, tables and logs.
    pub name: String,
    /// Identity (IDi) that it must prove.
    pub identity: Identity,
    /// Its shared key; `None`: certificates on both sides.
    pub shared_key: Option<SiteSharedKey>,
    /// A key that is mixed in beside (RFC 8784).
    pub ppk: Option<SitePpk>,
    /// Bitmap over [`Config::groups`].
    pub groups: u64,
    /// Networks that the site may have behind its router (remote traffic selectors).
    pub networks: Vec<Prefix>,
    /// Where its translated address comes from.
    pub nat: NatSource,
    /// Who may send to its mappings, where it is not as for other sites.
    pub filtering: Option<Filtering>,
    /// Perfect forward secrecy, where it is not as for other sites.
    pub pfs: Option<Pfs>,
}

/// Sites admitted by the name in their certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnySite {
    /// Pattern of the identity: `*.clinic.example`, where `*` stands for one label.
    pub pattern: IdentityPattern,
    /// Bitmap over [`Config::groups`].
    pub groups: u64,
    /// Networks that such a site may have behind its router.
    pub networks: Vec<Prefix>,
    /// Pool of its translated address.
    pub nat_pool: String,
    /// How many sites may come in by this pattern.
    pub max: u32,
    /// Who may send to their mappings, where it is not as for other sites.
    pub filtering: Option<Filtering>,
    /// Perfect forward secrecy, where it is not as for other sites.
    pub pfs: Option<Pfs>,
}

/// Seconds of silence after which a flow is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// TCP before the handshake is complete.
    pub tcp_opening_s: u32,
    /// Established TCP (RFC 5382 REQ-5: at least 2 h 4 min).
    pub tcp_established_s: u32,
    /// TCP after the FIN of one side (RFC 5382 REQ-5: at least 4 min).
    pub tcp_closing_s: u32,
    /// TCP after the FINs of both sides.
    pub tcp_time_wait_s: u32,
    /// TCP after a reset (RFC 7857 section 2.2: at least 4 min, since resets are forged).
    pub tcp_reset_s: u32,
    /// UDP that was answered once or not at all.
    pub udp_new_s: u32,
    /// UDP that was answered twice (RFC 4787 REQ-5: at least 2 min).
    pub udp_s: u32,
    /// ICMP queries (RFC 5508 REQ-2: at least 60 s).
    pub icmp_s: u32,
    /// Any other protocol.
    pub other_s: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_opening_s: 240,
            tcp_established_s: 7440,
            tcp_closing_s: 240,
            tcp_time_wait_s: 240,
            tcp_reset_s: 240,
            udp_new_s: 120,
            udp_s: 300,
            icmp_s: 60,
            other_s: 600,
        }
    }
}

impl Timeouts {
    /// As the packet path reads them.
    #[must_use]
    pub const fn by_state(&self) -> [u32; STATES] {
        IdleLimits {
            tcp_opening_s: self.tcp_opening_s,
            tcp_established_s: self.tcp_established_s,
            tcp_closing_s: self.tcp_closing_s,
            tcp_time_wait_s: self.tcp_time_wait_s,
            tcp_reset_s: self.tcp_reset_s,
            udp_new_s: self.udp_new_s,
            udp_s: self.udp_s,
            icmp_s: self.icmp_s,
            other_s: self.other_s,
        }
        .by_state()
    }
}

/// Sizes and rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// IKE datagrams a second that one source may send to user space.
    pub ike_per_source_per_s: u32,
    /// IKE SAs and Child SAs that one site may set up or rekey in a second, 32 times as many at once.
    pub site_sas_per_s: u32,
    /// Flows of all sites.
    pub flows: u32,
    /// NAT mappings of all sites.
    pub mappings: u32,
    /// Flows of one site.
    pub site_flows: u32,
    /// New flows of one site in a second.
    pub site_new_flows_per_s: u32,
    /// TCP connections of one site whose handshake is not complete.
    pub site_half_open: u32,
    /// NAT mappings of one site.
    pub site_mappings: u32,
    /// TCP resets and ICMP errors of the gateway's own to one site in a second.
    pub site_answers_per_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ike_per_source_per_s: 200,
            site_sas_per_s: 2,
            flows: 1_000_000,
            mappings: 1_000_000,
            site_flows: 20_000,
            site_new_flows_per_s: 2_000,
            site_half_open: 2_000,
            site_mappings: 20_000,
            site_answers_per_s: 100,
        }
    }
}

/// Sizes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// The MSS that TCP offers is lowered to what the site's tunnel carries.
    pub clamp_mss: bool,
    /// And to this.
    pub mss_max: Option<u16>,
}

impl Network {
    /// As the packet path reads it: zero leaves offers as they are.
    #[must_use]
    pub const fn mss_max(&self) -> u16 {
        match (self.clamp_mss, self.mss_max) {
            (false, _) => 0,
            (true, None) => u16::MAX,
            (true, Some(most)) => most,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            clamp_mss: true,
            mss_max: None,
        }
    }
}

/// Socket of daemon and CLI unless the file or `--socket` names another.
pub const DEFAULT_SOCKET: &str = "/run/gateway/gateway.sock";

impl Config {
    /// What sites may reach at all: the local traffic selectors of their tunnels.
    #[must_use]
    pub fn reachable(&self) -> Vec<Prefix> {
        self.center
            .networks
            .iter()
            .chain(&self.internet)
            .copied()
            .collect()
    }

    /// How many sites there may be.
    #[must_use]
    pub fn sites_max(&self) -> usize {
        let any: usize = self.any_sites.iter().map(|any| any.max as usize).sum();
        self.sites
            .len()
            .saturating_add(any)
            .clamp(1, limit::SITES_MAX as usize)
    }

    /// Reads and checks a file; relative paths in it start from its folder.
    ///
    /// # Errors
    /// Every fault found, with line and remedy.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("cannot be read: {error}");
            Diagnostics(vec![Diagnostic {
                file: name.clone(),
                line: None,
                message,
                remedy: String::new(),
            }])
        })?;
        Self::parse(&name, &text, path.parent().unwrap_or(Path::new(".")))
    }

    /// Checks the text of a file that the operator knows as `name`.
    ///
    /// # Errors
    /// Every fault found, with line and remedy.
    pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Self, Diagnostics> {
        let mut checker = Checker::new(name, text);
        let Some(file) = checker.parse_toml::<file::File>() else {
            return Err(checker.into_faults());
        };
        let config = check::check(&mut checker, file, folder, Source::new(name, text));
        checker.finish(config)
    }

    /// Bitmap of a group's name, or `None` if no site is in such a group.
    #[must_use]
    pub fn group_bit(&self, name: &str) -> Option<u64> {
        let index = self.groups.iter().position(|known| known == name)?;
        1u64.checked_shl(u32::try_from(index).ok()?)
    }

    /// Names of the groups of a bitmap.
    #[must_use]
    pub fn group_names(&self, groups: u64) -> Vec<&str> {
        let in_bitmap = |(index, name)| (groups >> index & 1 == 1).then_some(name);
        self.groups
            .iter()
            .map(String::as_str)
            .enumerate()
            .filter_map(in_bitmap)
            .collect()
    }

    /// The pool of that name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&NatPool> {
        self.nat_pools.iter().find(|pool| pool.name == name)
    }
}
