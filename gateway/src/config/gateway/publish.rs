//! `[[publish]]`: what the center may reach at a site by itself, and filtering of what it sends to a site's mappings.
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use gateway_common::abi::limit::PUBLICATION_SOURCES_MAX;
use gateway_common::abi::site::flag;
use gateway_common::packet::ipv4::is_host_address;
use gateway_ike::pki::identity::Identity;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;

use super::super::address::{Prefix, serde_as_word};
use super::super::diagnostic::Checker;
use super::{AnySite, NatPool, NatSource, SiteConfig};

/// Who in the center may send to a mapping that a site has made (RFC 4787 section 5). Rules decide in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// The endpoints that the site has sent to.
    #[default]
    AddressAndPortDependent,
    /// Each port of the addresses that the site has sent to.
    AddressDependent,
    /// Anyone.
    EndpointIndependent,
}

impl Filtering {
    /// As the packet path reads it.
    #[must_use]
    pub const fn flags(self) -> u32 {
        match self {
            Self::AddressAndPortDependent => 0,
            Self::AddressDependent => flag::FILTER_ADDRESS,
            Self::EndpointIndependent => flag::FILTER_NOTHING,
        }
    }
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Number of the protocol.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// An address, or a port of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The address.
    pub address: Ipv4Addr,
    /// The port; `None`: the whole address.
    pub port: Option<u16>,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(formatter, "{}:{port}", self.address),
            None => self.address.fmt(formatter),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let fault = || {
            format!(
                "\"{word}\" is no address and port; write it like \"10.201.255.1:8443\", or \"10.201.255.1\" for all ports"
            )
        };
        let (address, port) = match word.rsplit_once(':') {
            Some((address, port)) => (address, Some(port.parse().map_err(|_| fault())?)),
            None => (word, None),
        };
        let address = address.parse().map_err(|_| fault())?;
        if port == Some(0) {
            return Err(fault());
        }
        Ok(Self { address, port })
    }
}
serde_as_word!(Place);

/// A port of a site, or a whole address of it, that the center may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Name in logs and tables.
    pub name: String,
    /// Name of the site.
    pub site: String,
    /// The address in the site.
    pub address: Ipv4Addr,
    /// Protocol and port in the site; `None`: the whole address.
    pub port: Option<(Transport, u16)>,
    /// Where the center reaches it.
    pub on: Place,
    /// Networks of the center that may open flows to it.
    pub from: Vec<Prefix>,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    name: Spanned<String>,
    site: Spanned<String>,
    address: Spanned<Ipv4Addr>,
    protocol: Option<Spanned<Transport>>,
    port: Option<Spanned<u16>>,
    on: Spanned<Place>,
    from: Spanned<Vec<Prefix>>,
}

/// What publications are checked against.
pub(super) struct Around<'a> {
    pub(super) sites: &'a [SiteConfig],
    pub(super) any_sites: &'a [AnySite],
    pub(super) pools: &'a [NatPool],
}

/// Checks all.
pub(super) fn publications(
    checker: &mut Checker<'_>,
    list: Vec<Written>,
    around: &Around<'_>,
) -> Vec<Publication> {
    let sources: usize = list.iter().map(|written| written.from.get_ref().len()).sum();
    if sources > PUBLICATION_SOURCES_MAX as usize {
        checker.fault_anywhere(
            format!("the [[publish]] tables name {sources} networks, of which {PUBLICATION_SOURCES_MAX} fit"),
            "use fewer and larger ones",
        );
    }
    let mut taken = Taken::default();
    let mut checked = |written: Written| {
        let publication = publication(checker, &written, around)?;
        taken.check(checker, &written, &publication);
        Some(publication)
    };
    list.into_iter().filter_map(&mut checked).collect()
}

/// What publications before have.
#[derive(Default)]
struct Taken {
    names: HashSet<String>,
    /// Ports by protocol, or whole addresses.
    outsides: HashMap<Ipv4Addr, Vec<Claim>>,
    insides: HashMap<(String, Ipv4Addr), Vec<Claim>>,
}

/// A port, or all of an address, and the publication that has it.
type Claim = (Option<(Transport, u16)>, String);

impl Taken {
    fn check(&mut self, checker: &mut Checker<'_>, written: &Written, publication: &Publication) {
        let name = &publication.name;
        if !self.names.insert(name.clone()) {
            checker.fault(
                written.name.span(),
                format!("\"{name}\" is published twice"),
                "give each [[publish]] its own name",
            );
        }
        let outside = publication
            .port
            .zip(publication.on.port)
            .map(|((transport, _), port)| (transport, port));
        let on = self.outsides.entry(publication.on.address).or_default();
        if let Some(other) = overlapping(on, outside) {
            let message = format!("{} is where \"{other}\" is published already", publication.on);
            checker.fault(
                written.on.span(),
                message,
                "choose another port or address of the center's side",
            );
        }
        on.push((outside, name.clone()));
        let of_site = self
            .insides
            .entry((publication.site.clone(), publication.address))
            .or_default();
        if let Some(other) = overlapping(of_site, publication.port) {
            let message = format!("\"{other}\" publishes this of {} already", publication.address);
            checker.fault(
                written.address.span(),
                message,
                "publish it once: an endpoint has one outside (RFC 4787 REQ-1)",
            );
        }
        of_site.push((publication.port, name.clone()));
    }
}

/// The name of what overlaps a port, or a whole address.
fn overlapping(
    taken: &[(Option<(Transport, u16)>, String)],
    wanted: Option<(Transport, u16)>,
) -> Option<&str> {
    let found = taken
        .iter()
        .find(|(port, _)| port.is_none() || wanted.is_none() || *port == wanted);
    found.map(|(_, name)| name.as_str())
}

fn publication(checker: &mut Checker<'_>, written: &Written, around: &Around<'_>) -> Option<Publication> {
    let name = written.name.get_ref();
    if name.is_empty() || name.chars().any(char::is_whitespace) {
        let message = format!("\"{name}\" is no name");
        checker.fault(written.name.span(), message, "write a word without spaces");
    }
    inside(checker, written, around);
    outside(checker, written, around);
    if written.from.get_ref().is_empty() {
        checker.fault(
            written.from.span(),
            format!("\"{name}\" is published for nobody"),
            "write from = [\"10.100.0.0/24\"], the networks of the center that may reach it",
        );
    }
    let port = port(checker, written)?;
    Some(Publication {
        name: name.clone(),
        site: site_name(written, around),
        address: *written.address.get_ref(),
        port,
        on: *written.on.get_ref(),
        from: written.from.get_ref().clone(),
    })
}

/// The site's name as it is known by.
fn site_name(written: &Written, around: &Around<'_>) -> String {
    let word = written.site.get_ref();
    let is_named = around.sites.iter().any(|site| site.name == *word);
    match word.parse() {
        // Host names are equal without regard to case.
        Ok(Identity::Fqdn(name)) if !is_named => name.to_ascii_lowercase(),
        _ => word.clone(),
    }
}

/// Protocol and port, which are both there, as is the port of `on`, or none is.
fn port(checker: &mut Checker<'_>, written: &Written) -> Option<Option<(Transport, u16)>> {
    let on = written.on.get_ref();
    match (&written.protocol, &written.port, on.port) {
        (Some(protocol), Some(port), Some(_)) if *port.get_ref() != 0 => {
            Some(Some((*protocol.get_ref(), *port.get_ref())))
        }
        (None, None, None) => Some(None),
        _ => {
            let name = written.name.get_ref();
            checker.fault(
                written.on.span(),
                format!("\"{name}\" is neither a port nor a whole address"),
                "write protocol, port and the port of on; or none of them, for the whole address",
            );
            None
        }
    }
}

/// The site, and the address in it.
fn inside(checker: &mut Checker<'_>, written: &Written, around: &Around<'_>) {
    let site = written.site.get_ref();
    let named = around.sites.iter().find(|known| known.name == *site);
    let admitted = || {
        let identity: Identity = site.parse().ok()?;
        let admits = |any: &&AnySite| any.pattern.admits(&identity);
        around.any_sites.iter().find(admits)
    };
    let networks = match named {
        Some(named) => Some(&named.networks),
        None => admitted().map(|any| &any.networks),
    };
    let Some(networks) = networks else {
        checker.fault(
            written.site.span(),
            format!("no site is named \"{site}\""),
            "write the name of a [[site]], or an identity that an [[any_site]] admits",
        );
        return;
    };
    let address = *written.address.get_ref();
    if !networks.iter().any(|network| network.contains(address)) {
        let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
        checker.fault(
            written.address.span(),
            format!("{address} is not in the networks of \"{site}\""),
            format!("write an address of {}", networks.join(", ")),
        );
    }
}

/// The address on the center's side, which is nobody else's.
fn outside(checker: &mut Checker<'_>, written: &Written, around: &Around<'_>) {
    let address = written.on.get_ref().address;
    if !is_host_address(address.octets()) {
        checker.fault(
            written.on.span(),
            format!("{address} is no address of a host"),
            "write an address that the center routes to the gateway",
        );
    }
    if let Some(pool) = around.pools.iter().find(|pool| pool.contains(address)) {
        checker.fault(
            written.on.span(),
            format!("{address} is in NAT pool \"{}\"", pool.name),
            "write an address outside of the pools: those belong to sites",
        );
    }
    let fixed = around
        .sites
        .iter()
        .find(|site| site.nat == NatSource::Fixed(address));
    if let Some(site) = fixed {
        checker.fault(
            written.on.span(),
            format!("{address} is the nat_address of site \"{}\"", site.name),
            "write an address that is no site's",
        );
    }
}
