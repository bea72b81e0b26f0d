//! Addresses that no name may lead to: whoever answers for a name must not open the center or a site by it (DNS
//! rebinding).
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Prefixes that are not of the Internet (IANA IPv4 Special-Purpose Address Registry, RFC 6890) or of no single host:
/// prefix and length. The documentation prefixes of RFC 5737 are left out: nothing is there that could be opened.
const SPECIAL: [([u8; 4], u8); 13] = [
    // "This network" and limited broadcast lie in the first and the last.
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 31, 196, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// Addresses that are never opened: special ones and the gateway's own networks.
#[derive(Clone, Debug, Default)]
pub struct Private {
    own: Vec<Ipv4Net>,
}

impl Private {
    /// With these networks beside the special ones: the center's, the sites', the pools they are translated to.
    #[must_use]
    pub fn new(own: Vec<Ipv4Net>) -> Self {
        Self { own }
    }

    /// Whether an address may not be opened.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let special = SPECIAL.iter().any(|(prefix, length)| {
            Ipv4Net::new(Ipv4Addr::from(*prefix), *length).is_ok_and(|net| net.contains(&address))
        });
        special || self.own.iter().any(|net| net.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_inside_is_opened() {
        let own = vec!["203.0.113.0/24".parse().expect("a network")];
        let private = Private::new(own);
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.100.0.10",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.10",
            "198.19.0.1",
            "203.0.113.77",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(
                private.contains(address.parse().expect("an address")),
                "{address}"
            );
        }
        for address in [
            "100.63.255.255",
            "100.128.0.0",
            "172.32.0.0",
            "198.51.100.80",
            "8.8.8.8",
        ] {
            assert!(
                !private.contains(address.parse().expect("an address")),
                "{address}"
            );
        }
    }
}
