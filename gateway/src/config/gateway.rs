//! `gateway.toml`: the file's shape (`file`), and the checked configuration that comes out of it.
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use gateway_common::abi::limit;
use gateway_ike::pki::identity::{Identity, IdentityError, IdentityPattern};
use gateway_ike::proposal::{EspProposal, IkeProposal, default_esp_proposals, default_ike_proposals};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::address::{AddressRange, Prefix};
use super::diagnostic::{Checker, Diagnostic, Diagnostics};
use super::list::List;

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this gateway in logs and status.
    pub name: String,
    /// Folder of what must survive a restart.
    pub state_dir: PathBuf,
    /// Unix socket of the API.
    pub socket: PathBuf,
    /// Worker threads; `None`: one for each receive queue of the WAN interfaces.
    pub workers: Option<u32>,
    /// Interfaces with a role, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// IKE and certificates.
    pub ike: Ike,
    /// What the center offers.
    pub center: Center,
    /// NAT pools.
    pub nat_pools: Vec<NatPool>,
    /// Port range of NAPT.
    pub nat: Nat,
    /// Names of the site groups; the index is the bit in [`gateway_common::abi::site::Site::groups`].
    pub groups: Vec<String>,
    /// Sites that are named one by one.
    pub sites: Vec<SiteConfig>,
    /// Sites admitted by the pattern of their certificate's name.
    pub any_sites: Vec<AnySite>,
    /// Lifetimes of flows.
    pub timeouts: Timeouts,
    /// Rate limits.
    pub limits: Limits,
    /// Rule set in force until the first `gateway rules load`.
    pub rules_file: Option<PathBuf>,
}

/// What an interface is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Outer side: ESP and IKE.
    Wan,
    /// Center side: clear IPv4.
    Core,
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
    /// The gateway's identity (IDr): FQDN or distinguished name, as in its certificate.
    pub identity: Identity,
    /// IKE proposals, best first.
    pub proposals: Vec<IkeProposal>,
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
}

/// What the center offers to sites.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Center {
    /// Networks behind the core interface (local traffic selectors).
    pub networks: Vec<Prefix>,
}

/// A pool of addresses that sites are translated to, one each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatPool {
    /// Name.
    pub name: String,
    /// Its addresses; ranges do not overlap.
    pub addresses: Vec<AddressRange>,
}

/// Port range of NAPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nat {
    /// Lowest port.
    pub port_low: u16,
    /// Highest port.
    pub port_high: u16,
}

impl Default for Nat {
    fn default() -> Self {
        Self {
            port_low: 1024,
            port_high: 65535,
        }
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
    /// Identity (IDi) that its certificate must carry: FQDN or distinguished name.
    pub identity: Identity,
    /// Bitmap over [`Config::groups`].
    pub groups: u64,
    /// Networks that the site may have behind its router (remote traffic selectors).
    pub networks: Vec<Prefix>,
    /// Where its translated address comes from.
    pub nat: NatSource,
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
}

/// Seconds of silence after which a flow is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// TCP before the handshake is complete.
    pub tcp_opening_s: u32,
    /// Established TCP (RFC 5382 REQ-5: at least 2 h 4 min).
    pub tcp_established_s: u32,
    /// TCP after FIN or RST (RFC 5382 REQ-5: at least 4 min).
    pub tcp_closing_s: u32,
    /// UDP (RFC 4787 REQ-5: at least 2 min).
    pub udp_s: u32,
    /// ICMP queries (RFC 5508 REQ-2: at least 60 s).
    pub icmp_s: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_opening_s: 240,
            tcp_established_s: 7440,
            tcp_closing_s: 240,
            udp_s: 300,
            icmp_s: 60,
        }
    }
}

/// Rate limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// IKE datagrams a second that one source may send to user space.
    pub ike_per_source_per_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ike_per_source_per_s: 200,
        }
    }
}

/// The file as it is written.
mod file {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct File {
        pub(super) gateway: Gateway,
        #[serde(default)]
        pub(super) interface: Vec<Spanned<Interface>>,
        pub(super) ike: Ike,
        pub(super) center: Spanned<Center>,
        #[serde(default)]
        pub(super) nat_pool: Vec<Pool>,
        #[serde(default)]
        pub(super) nat: Option<Spanned<Nat>>,
        #[serde(default)]
        pub(super) site: Vec<Site>,
        #[serde(default)]
        pub(super) any_site: Vec<Any>,
        #[serde(default)]
        pub(super) timeouts: Option<Spanned<Timeouts>>,
        #[serde(default)]
        pub(super) limits: Limits,
        pub(super) rules: Option<Rules>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Gateway {
        pub(super) name: String,
        #[serde(default = "state_dir")]
        pub(super) state_dir: PathBuf,
        #[serde(default = "socket")]
        pub(super) socket: PathBuf,
        pub(super) workers: Option<Spanned<u32>>,
    }

    fn state_dir() -> PathBuf {
        "/var/lib/gateway".into()
    }

    fn socket() -> PathBuf {
        super::DEFAULT_SOCKET.into()
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Ike {
        pub(super) certificate: PathBuf,
        pub(super) private_key: PathBuf,
        pub(super) ca: List<PathBuf>,
        pub(super) identity: Spanned<String>,
        pub(super) proposals: Option<List<IkeProposal>>,
        pub(super) esp_proposals: Option<List<EspProposal>>,
        #[serde(default = "rekey_ike_after_s")]
        pub(super) rekey_ike_after_s: Spanned<u64>,
        #[serde(default = "rekey_child_after_s")]
        pub(super) rekey_child_after_s: Spanned<u64>,
        #[serde(default = "dpd_after_s")]
        pub(super) dpd_after_s: Spanned<u64>,
        #[serde(default = "cookie_above")]
        pub(super) cookie_above: usize,
    }

    fn rekey_ike_after_s() -> Spanned<u64> {
        Spanned::new(0..0, 4 * 3600)
    }

    fn rekey_child_after_s() -> Spanned<u64> {
        Spanned::new(0..0, 3600)
    }

    fn dpd_after_s() -> Spanned<u64> {
        Spanned::new(0..0, 30)
    }

    fn cookie_above() -> usize {
        64
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Pool {
        pub(super) name: Spanned<String>,
        pub(super) addresses: Spanned<Vec<Spanned<AddressRange>>>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Site {
        pub(super) name: Spanned<String>,
        pub(super) identity: Spanned<String>,
        #[serde(default)]
        pub(super) groups: Vec<Spanned<String>>,
        pub(super) networks: Spanned<Vec<Prefix>>,
        pub(super) nat_pool: Option<Spanned<String>>,
        pub(super) nat_address: Option<Spanned<Ipv4Addr>>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Any {
        pub(super) pattern: Spanned<String>,
        #[serde(default)]
        pub(super) groups: Vec<Spanned<String>>,
        pub(super) networks: Spanned<Vec<Prefix>>,
        pub(super) nat_pool: Spanned<String>,
        #[serde(default = "max")]
        pub(super) max: u32,
    }

    fn max() -> u32 {
        limit::SITES_MAX
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Rules {
        pub(super) file: PathBuf,
    }
}

/// Socket of daemon and CLI unless the file or `--socket` names another.
pub const DEFAULT_SOCKET: &str = "/run/gateway/gateway.sock";

impl Config {
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
        let mut names = Names::default();
        let nat_pools = pools(&mut checker, file.nat_pool);
        let sites = sites(&mut checker, &mut names, file.site, &nat_pools);
        let any_sites = any_sites(&mut checker, &mut names, file.any_site, &nat_pools);
        if sites.is_empty() && any_sites.is_empty() && checker.is_clean() {
            checker.fault_anywhere("no site may connect", "add a [[site]] or an [[any_site]]");
        }
        let config = Self {
            name: file.gateway.name,
            state_dir: folder.join(file.gateway.state_dir),
            socket: folder.join(file.gateway.socket),
            workers: workers(&mut checker, file.gateway.workers),
            interfaces: interfaces(&mut checker, file.interface),
            ike: ike(&mut checker, file.ike, folder),
            center: center(&mut checker, file.center),
            nat_pools,
            nat: nat(&mut checker, file.nat),
            groups: names.groups,
            sites,
            any_sites,
            timeouts: timeouts(&mut checker, file.timeouts),
            limits: file.limits,
            rules_file: file.rules.map(|rules| folder.join(rules.file)),
        };
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

impl NatPool {
    /// Whether the pool holds `address`.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|range| range.contains(address))
    }

    /// Number of addresses.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.addresses.iter().map(|range| range.size()).sum()
    }
}

/// Names met so far.
#[derive(Default)]
struct Names {
    groups: Vec<String>,
    sites: HashSet<String>,
    identities: HashSet<Identity>,
    fixed: HashMap<Ipv4Addr, String>,
}

impl Names {
    /// Bitmap of a list of groups; a new name becomes the next bit.
    fn group_bits(&mut self, checker: &mut Checker<'_>, names: Vec<Spanned<String>>) -> u64 {
        let mut bits = 0;
        for name in names {
            let index = self
                .groups
                .iter()
                .position(|known| known == name.get_ref())
                .unwrap_or_else(|| {
                    self.groups.push(name.get_ref().clone());
                    self.groups.len() - 1
                });
            match u32::try_from(index)
                .ok()
                .filter(|index| *index < limit::GROUPS_MAX)
            {
                Some(index) => bits |= 1u64 << index,
                None => checker.fault(
                    name.span(),
                    format!(
                        "group \"{}\" is one more than the {} that fit",
                        name.get_ref(),
                        limit::GROUPS_MAX
                    ),
                    "use fewer groups",
                ),
            }
        }
        bits
    }
}

fn workers(checker: &mut Checker<'_>, workers: Option<Spanned<u32>>) -> Option<u32> {
    let workers = workers?;
    if !(1..=limit::QUEUES_MAX).contains(workers.get_ref()) {
        let remedy = format!(
            "write a number from 1 to {}, or leave it out: one a receive queue",
            limit::QUEUES_MAX
        );
        checker.fault(workers.span(), format!("workers = {}", workers.get_ref()), remedy);
    }
    Some(workers.into_inner())
}

fn interfaces(checker: &mut Checker<'_>, list: Vec<Spanned<Interface>>) -> Vec<Interface> {
    let mut names = HashSet::new();
    for interface in &list {
        let name = &interface.get_ref().name;
        // IFNAMSIZ counts the terminating zero.
        if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
            checker.fault(
                interface.span(),
                format!("\"{name}\" is no interface name"),
                "write it as `ip link` shows it",
            );
        }
        if !names.insert(name.clone()) {
            checker.fault(
                interface.span(),
                format!("interface \"{name}\" appears twice"),
                "give it one role",
            );
        }
    }
    for (role, word) in [(Role::Wan, "wan"), (Role::Core, "core")] {
        if !list.iter().any(|interface| interface.get_ref().role == role) {
            let remedy = format!("add an [[interface]] with role = \"{word}\"");
            checker.fault_anywhere(format!("no interface has the role \"{word}\""), remedy);
        }
    }
    if list.len() >= limit::INTERFACES_MAX as usize {
        let most = limit::INTERFACES_MAX - 1;
        checker.fault_anywhere(
            format!("{} interfaces, of which {most} fit", list.len()),
            "use fewer",
        );
    }
    list.into_iter().map(Spanned::into_inner).collect()
}

fn ike(checker: &mut Checker<'_>, ike: file::Ike, folder: &Path) -> Ike {
    let in_range = |checker: &mut Checker<'_>, value: Spanned<u64>, name: &str, low: u64, high: u64| {
        if !(low..=high).contains(value.get_ref()) {
            checker.fault(
                value.span(),
                format!("{name} = {}", value.get_ref()),
                format!("write {low} to {high} seconds"),
            );
        }
        value.into_inner()
    };
    let identity = identity(checker, &ike.identity);
    let ca: Vec<_> = ike.ca.0.into_iter().map(|path| folder.join(path)).collect();
    if ca.is_empty() {
        checker.fault_anywhere(
            "[ike] ca = \"any\" is no CA",
            "name the PEM file of the CA that signs the sites' certificates",
        );
    }
    Ike {
        certificate: folder.join(ike.certificate),
        private_key: folder.join(ike.private_key),
        ca,
        identity,
        proposals: given_or(ike.proposals, default_ike_proposals),
        esp_proposals: given_or(ike.esp_proposals, default_esp_proposals),
        rekey_ike_after_s: in_range(checker, ike.rekey_ike_after_s, "rekey_ike_after_s", 4, 604_800),
        rekey_child_after_s: in_range(checker, ike.rekey_child_after_s, "rekey_child_after_s", 4, 86_400),
        dpd_after_s: in_range(checker, ike.dpd_after_s, "dpd_after_s", 5, 3_600),
        cookie_above: ike.cookie_above,
    }
}

/// The identity in a text; on a fault an opaque one that never gets further than this check.
fn identity(checker: &mut Checker<'_>, text: &Spanned<String>) -> Identity {
    text.get_ref().parse().unwrap_or_else(|error| {
        checker.fault(
            text.span(),
            format!("{error}"),
            "write what the certificate says: its DNS name or its subject",
        );
        Identity::KeyId(Vec::new())
    })
}

/// The list of the file, or the default if the key is left out or says "any".
fn given_or<T>(given: Option<List<T>>, default: fn() -> Vec<T>) -> Vec<T> {
    given
        .filter(|list| !list.is_any())
        .map_or_else(default, |list| list.0)
}

fn center(checker: &mut Checker<'_>, center: Spanned<Center>) -> Center {
    if center.get_ref().networks.is_empty() {
        checker.fault(
            center.span(),
            "the center has no networks",
            "write networks = [\"10.100.0.0/16\"]",
        );
    }
    center.into_inner()
}

fn pools(checker: &mut Checker<'_>, list: Vec<file::Pool>) -> Vec<NatPool> {
    let mut seen: Vec<(AddressRange, String)> = Vec::new();
    let mut pools: Vec<NatPool> = Vec::new();
    for pool in list {
        let name = pool.name.get_ref().clone();
        if pools.iter().any(|known| known.name == name) {
            checker.fault(
                pool.name.span(),
                format!("NAT pool \"{name}\" appears twice"),
                "give each pool its own name",
            );
        }
        if pool.addresses.get_ref().is_empty() {
            checker.fault(
                pool.addresses.span(),
                format!("NAT pool \"{name}\" has no addresses"),
                "add a prefix or a range",
            );
        }
        let mut addresses = Vec::new();
        for range in pool.addresses.into_inner() {
            if let Some((other, of)) = seen.iter().find(|(other, _)| other.overlaps(*range.get_ref())) {
                let message = format!("{} overlaps {other} of NAT pool \"{of}\"", range.get_ref());
                checker.fault(
                    range.span(),
                    message,
                    "an address belongs to one site only: make the ranges disjoint",
                );
            }
            seen.push((*range.get_ref(), name.clone()));
            addresses.push(range.into_inner());
        }
        pools.push(NatPool { name, addresses });
    }
    pools
}

fn nat(checker: &mut Checker<'_>, nat: Option<Spanned<Nat>>) -> Nat {
    let Some(nat) = nat else { return Nat::default() };
    let Nat { port_low, port_high } = *nat.get_ref();
    if port_low == 0 || port_low > port_high {
        let message = format!("port_low = {port_low} and port_high = {port_high} hold no port");
        checker.fault(nat.span(), message, "write 1024 and 65535, or a range inside");
    }
    nat.into_inner()
}

fn sites(
    checker: &mut Checker<'_>,
    names: &mut Names,
    list: Vec<file::Site>,
    pools: &[NatPool],
) -> Vec<SiteConfig> {
    if list.len() >= limit::SITES_MAX as usize {
        checker.fault_anywhere(
            format!("{} sites, of which {} fit", list.len(), limit::SITES_MAX - 1),
            "use fewer",
        );
    }
    let checked = |site: file::Site| {
        let nat = nat_source(checker, names, &site, pools);
        let name = site.name.get_ref();
        if name.is_empty() || name.chars().any(char::is_whitespace) {
            checker.fault(
                site.name.span(),
                format!("\"{name}\" is no site name"),
                "write a word without spaces",
            );
        }
        if !names.sites.insert(name.clone()) {
            checker.fault(
                site.name.span(),
                format!("site \"{name}\" appears twice"),
                "give each site its own name",
            );
        }
        let identity = identity(checker, &site.identity);
        if !names.identities.insert(identity.clone()) {
            let message = format!("identity \"{identity}\" belongs to another site already");
            checker.fault(
                site.identity.span(),
                message,
                "give each site a certificate of its own",
            );
        }
        networks(checker, &site.networks);
        let groups = names.group_bits(checker, site.groups);
        let name = site.name.into_inner();
        SiteConfig {
            name,
            identity,
            groups,
            networks: site.networks.into_inner(),
            nat,
        }
    };
    list.into_iter().map(checked).collect()
}

fn nat_source(
    checker: &mut Checker<'_>,
    names: &mut Names,
    site: &file::Site,
    pools: &[NatPool],
) -> NatSource {
    let site_name = site.name.get_ref();
    match (&site.nat_address, &site.nat_pool) {
        (Some(address), None) => {
            if let Some(other) = names.fixed.insert(*address.get_ref(), site_name.clone()) {
                let message = format!(
                    "nat_address {} is that of site \"{other}\" already",
                    address.get_ref()
                );
                checker.fault(address.span(), message, "give each site an address of its own");
            }
            NatSource::Fixed(*address.get_ref())
        }
        (None, Some(pool)) => {
            pool_exists(checker, pool, pools);
            NatSource::Pool(pool.get_ref().clone())
        }
        (Some(_), Some(pool)) => {
            let message = format!("site \"{site_name}\" has both nat_address and nat_pool");
            checker.fault(pool.span(), message, "keep one of them");
            NatSource::Pool(pool.get_ref().clone())
        }
        (None, None) => {
            let message = format!("site \"{site_name}\" has no address to be translated to");
            checker.fault(
                site.name.span(),
                message,
                "add nat_pool = \"NAME\" or nat_address = \"ADDRESS\"",
            );
            NatSource::Pool(String::new())
        }
    }
}

fn pool_exists(checker: &mut Checker<'_>, pool: &Spanned<String>, pools: &[NatPool]) {
    if pools.iter().any(|known| known.name == *pool.get_ref()) {
        return;
    }
    let known: Vec<_> = pools.iter().map(|pool| format!("\"{}\"", pool.name)).collect();
    let remedy = match known.is_empty() {
        true => format!("add a [[nat_pool]] with name = \"{}\"", pool.get_ref()),
        false => format!(
            "use one of {}, or add a [[nat_pool]] of that name",
            known.join(", ")
        ),
    };
    checker.fault(
        pool.span(),
        format!("no NAT pool is named \"{}\"", pool.get_ref()),
        remedy,
    );
}

fn networks(checker: &mut Checker<'_>, networks: &Spanned<Vec<Prefix>>) {
    if networks.get_ref().is_empty() {
        checker.fault(
            networks.span(),
            "networks is empty",
            "write the site's networks, like [\"192.168.1.0/24\"]",
        );
    }
}

fn any_sites(
    checker: &mut Checker<'_>,
    names: &mut Names,
    list: Vec<file::Any>,
    pools: &[NatPool],
) -> Vec<AnySite> {
    let checked = |any: file::Any| {
        let pattern = any.pattern.get_ref().parse().map_err(|error: IdentityError| {
            let remedy = "write it like \"*.clinic.example\": * stands for one label";
            checker.fault(any.pattern.span(), format!("{error}"), remedy);
        });
        pool_exists(checker, &any.nat_pool, pools);
        networks(checker, &any.networks);
        let groups = names.group_bits(checker, any.groups);
        Some(AnySite {
            pattern: pattern.ok()?,
            groups,
            networks: any.networks.into_inner(),
            nat_pool: any.nat_pool.into_inner(),
            max: any.max,
        })
    };
    list.into_iter().filter_map(checked).collect()
}

fn timeouts(checker: &mut Checker<'_>, timeouts: Option<Spanned<Timeouts>>) -> Timeouts {
    let Some(timeouts) = timeouts else {
        return Timeouts::default();
    };
    let Timeouts {
        tcp_opening_s,
        tcp_established_s,
        tcp_closing_s,
        udp_s,
        icmp_s,
    } = *timeouts.get_ref();
    if [tcp_opening_s, tcp_established_s, tcp_closing_s, udp_s, icmp_s].contains(&0) {
        checker.fault(
            timeouts.span(),
            "a timeout of 0 s forgets every flow at once",
            "write at least 1",
        );
    }
    timeouts.into_inner()
}
