//! `[dns]`: the DNS proxy for sites that may reach Internet sites by name.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use gateway_common::abi::limit;
use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::super::diagnostic::Checker;
use super::super::list::List;
use super::{AnySite, Center, NatPool, NatSource, Publication, SiteConfig};

/// Port of DNS over UDP and TCP (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// Upstream servers at most: each is asked twice before a question fails.
const UPSTREAM_MAX: usize = 8;
/// Longest time in seconds that a name may keep an address open: a day.
const TTL_MAX_S: u32 = 86_400;

/// The DNS proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Its address, in the center's networks.
    pub listen: Ipv4Addr,
    /// Servers that it asks.
    pub upstream: Vec<SocketAddr>,
    /// Shortest time that an address stays open.
    pub ttl_min_s: u32,
    /// Longest time that an address stays open, and the longest TTL that sites are told.
    pub ttl_max_s: u32,
    /// Questions of one site in a second.
    pub site_queries_per_s: u32,
    /// Questions that wait for an answer at a time.
    pub outstanding_max: u32,
    /// Addresses that are open at a time.
    pub addresses_max: u32,
    /// Addresses that one name has opened.
    pub name_addresses_max: u32,
    /// Networks that no name may lead to: the center's, the sites', and what sites are translated to.
    pub own_networks: Vec<Ipv4Net>,
}

/// The table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    listen: Spanned<Ipv4Addr>,
    upstream: Spanned<List<Upstream>>,
    #[serde(default = "ttl_min_s")]
    ttl_min_s: u32,
    #[serde(default = "ttl_max_s")]
    ttl_max_s: u32,
    #[serde(default = "site_queries_per_s")]
    site_queries_per_s: u32,
    #[serde(default = "outstanding_max")]
    outstanding_max: u32,
    #[serde(default = "addresses_max")]
    addresses_max: u32,
    #[serde(default = "name_addresses_max")]
    name_addresses_max: u32,
}

fn ttl_min_s() -> u32 {
    60
}

fn ttl_max_s() -> u32 {
    3_600
}

fn site_queries_per_s() -> u32 {
    20
}

fn outstanding_max() -> u32 {
    1_024
}

fn addresses_max() -> u32 {
    16_384
}

fn name_addresses_max() -> u32 {
    64
}

/// A server: `192.0.2.53`, `192.0.2.53:5353`, `2001:db8::53`, `[2001:db8::53]:5353`.
#[derive(Clone, Copy, Debug)]
struct Upstream(SocketAddr);

impl FromStr for Upstream {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let bare = word
            .parse::<IpAddr>()
            .map(|address| SocketAddr::new(address, DNS_PORT));
        bare.or_else(|_| word.parse())
            .map(Self)
            .map_err(|_| format!("\"{word}\" is no server; write its address, like \"192.0.2.53\""))
    }
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        word.parse().map_err(serde::de::Error::custom)
    }
}

/// What the rest of the file says of inner addresses.
pub(super) struct Around<'a> {
    pub(super) center: &'a Center,
    pub(super) pools: &'a [NatPool],
    pub(super) sites: &'a [SiteConfig],
    pub(super) any_sites: &'a [AnySite],
    pub(super) publications: &'a [Publication],
}

pub(super) fn check(
    checker: &mut Checker<'_>,
    written: Option<Spanned<Written>>,
    around: &Around<'_>,
) -> Option<DnsConfig> {
    let written = written?;
    let whole = written.span();
    let written = written.into_inner();
    let listen = *written.listen.get_ref();
    if !around.center.networks.iter().any(|net| net.contains(listen)) {
        checker.fault(
            written.listen.span(),
            format!("listen = \"{listen}\" is in none of the center's networks: no site could send to it"),
            "take an unused address of [center] networks",
        );
    }
    let is_fixed = |site: &SiteConfig| site.nat == NatSource::Fixed(listen);
    if around.pools.iter().any(|pool| pool.contains(listen)) || around.sites.iter().any(is_fixed) {
        checker.fault(
            written.listen.span(),
            format!("listen = \"{listen}\" is what a site is or may be translated to"),
            "take an address of no NAT pool and of no site",
        );
    }
    let upstream: Vec<SocketAddr> = written
        .upstream
        .get_ref()
        .0
        .iter()
        .map(|server| server.0)
        .collect();
    if upstream.is_empty() || upstream.len() > UPSTREAM_MAX {
        checker.fault(
            written.upstream.span(),
            format!("upstream has {} servers", upstream.len()),
            format!(
                "name 1 to {UPSTREAM_MAX} servers that the gateway reaches over an interface without a role"
            ),
        );
    }
    if written.ttl_max_s > TTL_MAX_S || written.ttl_min_s > written.ttl_max_s || written.ttl_max_s == 0 {
        checker.fault(
            whole.clone(),
            format!(
                "ttl_min_s = {} and ttl_max_s = {}",
                written.ttl_min_s, written.ttl_max_s
            ),
            format!("write a longest time up to {TTL_MAX_S} s, and a shortest one that is not longer"),
        );
    }
    let sizes = [
        ("site_queries_per_s", written.site_queries_per_s, 100_000),
        ("outstanding_max", written.outstanding_max, 16_384),
        ("addresses_max", written.addresses_max, limit::OPEN_ADDRESSES_MAX),
        (
            "name_addresses_max",
            written.name_addresses_max,
            limit::OPEN_ADDRESSES_MAX,
        ),
    ];
    for (key, value, most) in sizes {
        if value == 0 || value > most {
            checker.fault(
                whole.clone(),
                format!("{key} = {value}"),
                format!("write a number from 1 to {most}, or leave it out"),
            );
        }
    }
    Some(DnsConfig {
        listen,
        upstream,
        ttl_min_s: written.ttl_min_s,
        ttl_max_s: written.ttl_max_s,
        site_queries_per_s: written.site_queries_per_s,
        outstanding_max: written.outstanding_max,
        addresses_max: written.addresses_max,
        name_addresses_max: written.name_addresses_max,
        own_networks: own_networks(around),
    })
}

/// A network of this length or shorter says nothing of where the center is: with it, sites are given selectors for the
/// Internet as well.
const WIDE: u8 = 7;

fn own_networks(around: &Around<'_>) -> Vec<Ipv4Net> {
    let of_sites = around.sites.iter().flat_map(|site| &site.networks);
    let of_any = around.any_sites.iter().flat_map(|site| &site.networks);
    let networks = around.center.networks.iter().chain(of_sites).chain(of_any);
    let networks = networks.filter(|net| net.length() > WIDE);
    let networks = networks.filter_map(|net| Ipv4Net::new(net.network(), net.length()).ok());
    let ranges = around.pools.iter().flat_map(|pool| &pool.addresses);
    let pools = ranges.flat_map(|range| ipnet::Ipv4Subnets::new(range.first, range.last, 0));
    let fixed = around.sites.iter().filter_map(|site| match site.nat {
        NatSource::Fixed(address) => Some(Ipv4Net::from(address)),
        NatSource::Pool(_) => None,
    });
    let published = around
        .publications
        .iter()
        .map(|publication| publication.on.address.into());
    let mut own: Vec<Ipv4Net> = networks.chain(pools).chain(fixed).chain(published).collect();
    own.sort_unstable();
    own.dedup();
    own
}
