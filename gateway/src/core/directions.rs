//! Which way a flow goes: told by where its destination belongs, as the configuration says it.
//!
//! The configuration decides, not the routes: a route that is lost must not turn packets for the center into packets for the
//! Internet. The packet path sees besides that a packet leaves by an interface of the side that its destination belongs to.
use std::collections::HashMap;
use std::net::Ipv4Addr;

use gateway_ike::pki::identity::{Identity, IdentityPattern};

use crate::config::{AddressRange, Config, Direction, NatSource, Prefix};

/// Where addresses belong.
#[derive(Clone, Debug, Default)]
pub struct Directions {
    center: Vec<Prefix>,
    /// What sites are translated to.
    outsides: Vec<AddressRange>,
    /// Networks of sites by their names, and of those that a pattern admits.
    sites: HashMap<String, Vec<Prefix>>,
    any_sites: Vec<(IdentityPattern, Vec<Prefix>)>,
}

impl Directions {
    /// As a configuration says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let pools = config.nat_pools.iter().flat_map(|pool| &pool.addresses).copied();
        let fixed = config.sites.iter().filter_map(|site| match site.nat {
            NatSource::Fixed(address) => Some(address),
            NatSource::Pool(_) => None,
        });
        let published = config
            .publications
            .iter()
            .map(|publication| publication.on.address);
        let single = fixed.chain(published).map(|address| AddressRange {
            first: address,
            last: address,
        });
        let any_sites = config.any_sites.iter();
        Self {
            any_sites: any_sites
                .map(|any| (any.pattern.clone(), any.networks.clone()))
                .collect(),
            ..Self::of(config.center.networks.clone(), pools.chain(single).collect())
        }
        .with_sites(
            config
                .sites
                .iter()
                .map(|site| (site.name.as_str(), &*site.networks)),
        )
    }

    /// With these networks of the center, and these addresses that sites are translated to.
    #[must_use]
    pub fn of(center: Vec<Prefix>, outsides: Vec<AddressRange>) -> Self {
        Self {
            center,
            outsides,
            ..Self::default()
        }
    }

    /// With sites of these names and networks.
    #[must_use]
    pub fn with_sites<'a>(mut self, sites: impl Iterator<Item = (&'a str, &'a [Prefix])>) -> Self {
        let owned = |(name, networks): (&str, &[Prefix])| (name.to_owned(), networks.to_vec());
        self.sites.extend(sites.map(owned));
        self
    }

    /// Direction of a flow that a site opens.
    #[must_use]
    pub fn from_site(&self, destination: Ipv4Addr) -> Direction {
        if self.outsides.iter().any(|range| range.contains(destination)) {
            Direction::SiteToSite
        } else if self.is_center(destination) {
            Direction::SiteToCenter
        } else {
            Direction::SiteToInternet
        }
    }

    /// Whether an address is one of the center's.
    #[must_use]
    pub fn is_center(&self, address: Ipv4Addr) -> bool {
        self.center.iter().any(|prefix| prefix.contains(address))
    }

    /// Whether an address is in the networks that the site of that name may have.
    #[must_use]
    pub fn is_of_site(&self, name: &str, address: Ipv4Addr) -> bool {
        let admitted = || {
            let identity: Identity = name.parse().ok()?;
            let mut any_sites = self.any_sites.iter();
            any_sites.find(|(pattern, _)| pattern.admits(&identity))
        };
        let networks = match self.sites.get(name) {
            Some(networks) => Some(networks),
            None => admitted().map(|(_, networks)| networks),
        };
        networks.is_some_and(|networks| networks.iter().any(|prefix| prefix.contains(address)))
    }

    /// Ranges of addresses whose direction is not "to the Internet". The longest prefix decides, so that a network of the center
    /// that lies within what sites are translated to is left out.
    #[must_use]
    pub fn ranges(&self) -> Vec<(Ipv4Addr, Ipv4Addr, Direction)> {
        let center = self.center.iter().map(|prefix| prefix.bounds());
        let center = center.filter(|(first, last)| {
            let inside = |range: &AddressRange| range.contains(*first) && range.contains(*last);
            !self.outsides.iter().any(inside)
        });
        center
            .map(|(first, last)| (first, last, Direction::SiteToCenter))
            .chain(
                self.outsides
                    .iter()
                    .map(|range| (range.first, range.last, Direction::SiteToSite)),
            )
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sites_are_translated_to_comes_before_the_center() {
        let prefix = |word: &str| word.parse::<Prefix>().expect("a prefix");
        let address = |word: &str| word.parse::<Ipv4Addr>().expect("an address");
        let directions = Directions::of(
            vec![prefix("10.0.0.0/8"), prefix("10.200.0.4/30")],
            vec!["10.200.0.1-10.200.0.254".parse().expect("a range")],
        );
        for (destination, direction) in [
            ("10.1.2.3", Direction::SiteToCenter),
            ("10.200.0.0", Direction::SiteToCenter),
            ("10.200.0.5", Direction::SiteToSite),
            ("10.200.0.254", Direction::SiteToSite),
            ("11.0.0.1", Direction::SiteToInternet),
        ] {
            assert_eq!(directions.from_site(address(destination)), direction);
        }
        assert_eq!(
            directions.ranges().len(),
            2,
            "the /30 would win as the longer prefix"
        );
    }

    #[test]
    fn networks_of_a_site_are_found_by_its_name_or_pattern() {
        let text = include_str!("../../examples/gateway.toml");
        let config = Config::parse("gateway.toml", text, std::path::Path::new("/")).expect("right");
        let directions = Directions::new(&config);
        for (site, address, is_own) in [
            ("hospital-a", [192, 168, 1, 10], true),
            ("hospital-a", [192, 168, 2, 10], false),
            ("a.clinic.example", [192, 168, 1, 10], true),
            ("a.clinic.example", [192, 168, 2, 10], false),
            ("nobody", [192, 168, 1, 10], false),
        ] {
            let found = directions.is_of_site(site, address.into());
            assert_eq!(found, is_own, "{site} {address:?}");
        }
    }
}
