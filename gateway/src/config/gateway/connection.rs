//! `[[connection]]`: sites that the gateway connects to by itself.
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use gateway_ike::{Backoff, EspProposal, Idle};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::super::address::Prefix;
use super::super::diagnostic::Checker;
use super::super::list::List;
use super::{SiteConfig, file};

/// When a connection is brought up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// When the daemon starts, and again whenever it is down.
    #[default]
    Now,
    /// When the first packet for the site finds no SA.
    OnDemand,
    /// By `gateway connection up` only.
    Manual,
}

impl Start {
    /// As it is written in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::OnDemand => "on-demand",
            Self::Manual => "manual",
        }
    }
}

/// A site that the gateway connects to. Who the peer must be and what it may carry is said by its `[[site]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// Name in verbs and logs.
    pub name: String,
    /// Name of the `[[site]]`.
    pub site: String,
    /// Our addresses, at most one of a family; empty: what the route to the peer says.
    pub local: Vec<IpAddr>,
    /// The peer's addresses, tried in order.
    pub remote: Vec<IpAddr>,
    /// When it is brought up.
    pub start: Start,
    /// What of the site's networks it carries; `None`: all of them.
    pub networks: Option<Vec<Prefix>>,
    /// ESP proposals, best first, in place of those of `[ike]`.
    pub esp_proposals: Option<Vec<EspProposal>>,
    /// When SAs without traffic are closed.
    pub idle: Idle,
    /// Age at which the peer is authenticated anew.
    pub reauth_after_s: Option<u64>,
    /// How long to wait after failures.
    pub backoff: Backoff,
    /// IKE_AUTH makes no Child SA where the peer can do without (RFC 6023).
    pub childless: bool,
    /// Go where the peer redirects to (RFC 5685).
    pub follow_redirects: bool,
    /// Resume sessions with tickets of the peer (RFC 5723).
    pub resumption: bool,
    /// Child SAs with the same traffic (RFC 9611).
    pub child_sas: u8,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    name: Spanned<String>,
    site: Spanned<String>,
    remote: Spanned<List<IpAddr>>,
    local: Option<Spanned<List<IpAddr>>>,
    #[serde(default)]
    start: Start,
    networks: Option<Spanned<Vec<Prefix>>>,
    esp_proposals: Option<List<EspProposal>>,
    idle_child_after_s: Option<Spanned<u64>>,
    idle_ike_after_s: Option<Spanned<u64>>,
    reauth_after_s: Option<Spanned<u64>>,
    retry_after_s: Option<Spanned<u64>>,
    retry_longest_s: Option<Spanned<u64>>,
    #[serde(default)]
    childless: bool,
    #[serde(default)]
    follow_redirects: bool,
    #[serde(default)]
    resumption: bool,
    child_sas: Option<Spanned<u8>>,
}

/// Checks all, against the sites of the file.
pub(super) fn connections(
    checker: &mut Checker<'_>,
    list: Vec<file::Connection>,
    sites: &[SiteConfig],
) -> Vec<ConnectionConfig> {
    let (mut names, mut taken) = (HashSet::new(), HashSet::new());
    let by_name: HashMap<_, _> = sites.iter().map(|site| (site.name.as_str(), site)).collect();
    let checked = |written: Written| {
        let (name, site) = (written.name.get_ref(), written.site.get_ref());
        if name.is_empty() || name.chars().any(char::is_whitespace) {
            let message = format!("\"{name}\" is no connection name");
            checker.fault(written.name.span(), message, "write a word without spaces");
        }
        if !names.insert(name.clone()) {
            let message = format!("connection \"{name}\" appears twice");
            checker.fault(written.name.span(), message, "give each connection its own name");
        }
        if !taken.insert(site.clone()) {
            let message = format!("site \"{site}\" has a connection already");
            let remedy = "write all of its addresses into one: remote = [\"FIRST\", \"SECOND\"]";
            checker.fault(written.site.span(), message, remedy);
        }
        match by_name.get(site.as_str()) {
            Some(known) => networks(checker, written.networks.as_ref(), known),
            None => {
                let remedy = "name a [[site]]: it says who the peer must be and which networks it has";
                checker.fault(
                    written.site.span(),
                    format!("no [[site]] is named \"{site}\""),
                    remedy,
                );
            }
        }
        addresses(checker, &written.remote, written.local.as_ref());
        let times = times(checker, &written);
        let child_sas = child_sas(checker, written.child_sas.as_ref());
        ConnectionConfig {
            name: written.name.into_inner(),
            site: written.site.into_inner(),
            local: written.local.map(|list| list.into_inner().0).unwrap_or_default(),
            remote: written.remote.into_inner().0,
            start: written.start,
            networks: written.networks.map(Spanned::into_inner),
            esp_proposals: written
                .esp_proposals
                .filter(|list| !list.is_any())
                .map(|list| list.0),
            idle: times.0,
            reauth_after_s: times.1,
            backoff: times.2,
            childless: written.childless,
            follow_redirects: written.follow_redirects,
            resumption: written.resumption,
            child_sas,
        }
    };
    list.into_iter().map(checked).collect()
}

/// When it is closed, authenticated anew and tried again.
fn times(checker: &mut Checker<'_>, written: &Written) -> (Idle, Option<u64>, Backoff) {
    let mut seconds = |value: &Option<Spanned<u64>>, name: &str, low: u64, high: u64| {
        let value = value.as_ref()?;
        within(checker, value, name, low, high);
        Some(*value.get_ref())
    };
    let idle = Idle {
        child_after_s: seconds(&written.idle_child_after_s, "idle_child_after_s", 5, 604_800),
        ike_after_s: seconds(&written.idle_ike_after_s, "idle_ike_after_s", 5, 604_800),
    };
    let reauth_after_s = seconds(&written.reauth_after_s, "reauth_after_s", 10, 604_800);
    let usual = Backoff::default();
    let first_s = seconds(&written.retry_after_s, "retry_after_s", 1, 3_600).unwrap_or(usual.first_s);
    let longest_s = seconds(&written.retry_longest_s, "retry_longest_s", 1, 86_400);
    let backoff = Backoff {
        first_s,
        longest_s: longest_s.unwrap_or(usual.longest_s.max(first_s)),
    };
    if let Some(longest) = written
        .retry_longest_s
        .as_ref()
        .filter(|longest| *longest.get_ref() < first_s)
    {
        let message = format!(
            "retry_longest_s = {} is less than retry_after_s = {first_s}",
            longest.get_ref()
        );
        checker.fault(longest.span(), message, "write the longer time");
    }
    if written.start == Start::Now && idle != Idle::default() {
        checker.fault(
            written.name.span(),
            format!(
                "connection \"{}\" is to be up at all times and closed when idle",
                written.name.get_ref()
            ),
            "write start = \"on-demand\", or leave the idle_ keys out",
        );
    }
    (idle, reauth_after_s, backoff)
}

/// RFC 9611 section 3: one for each processor of the peer is enough.
fn child_sas(checker: &mut Checker<'_>, written: Option<&Spanned<u8>>) -> u8 {
    const CHILD_SAS_MAX: u8 = 8;
    let Some(written) = written else { return 1 };
    let child_sas = *written.get_ref();
    if !(1..=CHILD_SAS_MAX).contains(&child_sas) {
        checker.fault(
            written.span(),
            format!("child_sas = {child_sas}"),
            format!("write 1 to {CHILD_SAS_MAX}"),
        );
    }
    child_sas
}

fn within(checker: &mut Checker<'_>, value: &Spanned<u64>, name: &str, low: u64, high: u64) {
    if !(low..=high).contains(value.get_ref()) {
        checker.fault(
            value.span(),
            format!("{name} = {}", value.get_ref()),
            format!("write {low} to {high} seconds"),
        );
    }
}

fn networks(checker: &mut Checker<'_>, networks: Option<&Spanned<Vec<Prefix>>>, site: &SiteConfig) {
    let Some(networks) = networks else { return };
    if networks.get_ref().is_empty() {
        checker.fault(
            networks.span(),
            "networks is empty",
            "write some of the site's networks, or leave it out: all of them",
        );
    }
    let inside = |network: &Prefix| {
        let (first, last) = network.bounds();
        site.networks
            .iter()
            .any(|known| known.contains(first) && known.contains(last))
    };
    if let Some(outside) = networks.get_ref().iter().find(|network| !inside(network)) {
        checker.fault(
            networks.span(),
            format!("{outside} is no network of site \"{}\"", site.name),
            "write networks that the [[site]] has",
        );
    }
}

fn addresses(
    checker: &mut Checker<'_>,
    remote: &Spanned<List<IpAddr>>,
    local: Option<&Spanned<List<IpAddr>>>,
) {
    if remote.get_ref().is_any() {
        checker.fault(
            remote.span(),
            "remote names no address",
            "write the address of the peer's router, or several: they are tried in order",
        );
    }
    let is_host = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
    for list in [Some(remote), local].into_iter().flatten() {
        if let Some(address) = list.get_ref().0.iter().find(|address| !is_host(address)) {
            checker.fault(
                list.span(),
                format!("{address} is no address of a host"),
                "write the address of one host",
            );
        }
    }
    let Some(local) = local else { return };
    for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        if local.get_ref().0.iter().filter(|address| family(address)).count() > 1 {
            checker.fault(
                local.span(),
                "local has two addresses of one family",
                "keep one of them",
            );
        }
    }
    let reaches = |remote: &&IpAddr| {
        local
            .get_ref()
            .0
            .iter()
            .any(|local| local.is_ipv4() == remote.is_ipv4())
    };
    if let Some(lonely) = remote.get_ref().0.iter().find(|remote| !reaches(remote)) {
        checker.fault(
            local.span(),
            format!("local has no address of the family of {lonely}"),
            "add one, or leave local out: the route to the peer decides",
        );
    }
}
