//! The routes of the core side, as the longest-prefix table of the `clear` program wants them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use gateway_common::abi::next_hop::NextHop;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType,
};

use super::netlink::{Neighbour, ResolveError, Resolver, ip};

/// A route over a router of the core side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Via {
    prefix: [u8; 4],
    length: u8,
    ifindex: u32,
    router: Ipv4Addr,
    /// What the route itself says that it carries.
    mtu: Option<u32>,
}

/// An interface of the core side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    mac: [u8; 6],
    mtu: u32,
}

/// The next hops of the core side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreHops {
    /// Prefix, its length, where to.
    pub hops: Vec<([u8; 4], u8, NextHop)>,
    /// The destinations that are neighbours themselves, resolved or not.
    pub on_link: BTreeSet<Ipv4Addr>,
}

impl Resolver {
    /// The next hops of the core side: a prefix for each route over a router, an address for each neighbour on the
    /// link. `interfaces` are the core side's indexes. `destinations` are asked for, so that the first packet to
    /// one finds its way; those that have not answered are left out, and are there in a call after the news of them.
    ///
    /// # Errors
    /// Netlink fails. A router or destination that does not answer is no error.
    pub async fn core_next_hops(
        &self,
        interfaces: &[u32],
        destinations: &BTreeSet<Ipv4Addr>,
    ) -> Result<CoreHops, ResolveError> {
        let sides = self.core_links(interfaces).await?;
        let routes: Vec<Via> = self
            .routes_v4()
            .await?
            .iter()
            .filter_map(read_via)
            .filter(|via| interfaces.contains(&via.ifindex))
            .collect();
        let mut wanted: BTreeSet<Neighbour> = routes
            .iter()
            .map(|via| (via.ifindex, via.router.into()))
            .collect();
        let mut on_link = BTreeSet::new();
        for destination in destinations {
            if let Ok(route) = self.route((*destination).into()).await
                && interfaces.contains(&route.ifindex)
            {
                wanted.insert((route.ifindex, route.neighbour));
                if route.neighbour == IpAddr::V4(*destination) {
                    on_link.insert(*destination);
                }
            }
        }
        self.find(&wanted).await?;
        let neighbours = self.neighbours(IpVersion::V4).await?;
        Ok(CoreHops {
            hops: table(&routes, &neighbours, &sides),
            on_link,
        })
    }

    async fn core_links(&self, interfaces: &[u32]) -> Result<BTreeMap<u32, Side>, ResolveError> {
        let mut sides = BTreeMap::new();
        for &ifindex in interfaces {
            let link = self.link(ifindex).await?;
            if let Some(mac) = link.mac {
                sides.insert(ifindex, Side { mac, mtu: link.mtu });
            }
        }
        Ok(sides)
    }
}

/// The whole table.
fn table(
    routes: &[Via],
    neighbours: &[(u32, IpAddr, [u8; 6])],
    sides: &BTreeMap<u32, Side>,
) -> Vec<([u8; 4], u8, NextHop)> {
    let hop = |ifindex: u32, destination_mac: [u8; 6], mtu: Option<u32>| {
        let side = sides.get(&ifindex)?;
        Some(NextHop {
            ifindex,
            resolved: 1,
            destination_mac,
            source_mac: side.mac,
            mtu: mtu.map_or(side.mtu, |mtu| mtu.min(side.mtu)),
        })
    };
    let mac_of = |ifindex: u32, address: Ipv4Addr| {
        let found = neighbours
            .iter()
            .find(|(index, found, _)| *index == ifindex && *found == IpAddr::V4(address));
        found.map(|(_, _, mac)| *mac)
    };
    let over_routers = routes.iter().filter_map(|via| {
        let mac = mac_of(via.ifindex, via.router)?;
        Some((via.prefix, via.length, hop(via.ifindex, mac, via.mtu)?))
    });
    let on_link = neighbours
        .iter()
        .filter_map(|(ifindex, address, mac)| match address {
            IpAddr::V4(address) => Some((address.octets(), 32, hop(*ifindex, *mac, None)?)),
            IpAddr::V6(_) => None,
        });
    over_routers.chain(on_link).collect()
}

/// A unicast route of the main table over a router; others have no one MAC address. What the kernel has learnt of a single
/// destination from ICMP, which its answer has among the routes, is none: whoever reaches a WAN interface could narrow the way
/// of all sites to a server, or lead it over another router.
fn read_via(message: &RouteMessage) -> Option<Via> {
    let main = message.header.table == RouteHeader::RT_TABLE_MAIN;
    let is_learnt = message.header.flags.contains(RouteFlags::Cloned);
    if !main || is_learnt || message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut via = Via {
        prefix: [0; 4],
        length: message.header.destination_prefix_length,
        ifindex: 0,
        router: Ipv4Addr::UNSPECIFIED,
        mtu: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => via.ifindex = *index,
            RouteAttribute::Gateway(address) => via.router = ipv4(ip(address)?)?,
            RouteAttribute::Metrics(metrics) => {
                via.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::Destination(address) => via.prefix = ipv4(ip(address)?)?.octets(),
            _ => {}
        }
    }
    (via.ifindex != 0 && !via.router.is_unspecified()).then_some(via)
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteAddress;

    use super::*;

    #[test]
    fn routers_give_prefixes_and_neighbours_addresses() {
        let router = Ipv4Addr::new(203, 0, 113, 254);
        let server = Ipv4Addr::new(203, 0, 113, 10);
        let via = |prefix, length, router| Via {
            prefix,
            length,
            ifindex: 3,
            router,
            mtu: None,
        };
        let silent = Ipv4Addr::new(203, 0, 113, 253);
        let narrow = Via {
            mtu: Some(1280),
            ..via([10, 2, 0, 0], 16, router)
        };
        let too_wide = Via {
            mtu: Some(9000),
            ..via([10, 3, 0, 0], 16, router)
        };
        let routes = [
            via([0; 4], 0, router),
            via([10, 1, 0, 0], 16, silent),
            narrow,
            too_wide,
        ];
        let neighbours = [
            (3, IpAddr::V4(router), [1; 6]),
            (3, IpAddr::V4(server), [2; 6]),
            // Another side's neighbour with the same address.
            (2, IpAddr::V4(silent), [3; 6]),
        ];
        let side = Side {
            mac: [9; 6],
            mtu: 1400,
        };
        let sides = BTreeMap::from([(3, side)]);
        let hop = |mac, mtu| NextHop {
            ifindex: 3,
            resolved: 1,
            destination_mac: mac,
            source_mac: [9; 6],
            mtu,
        };
        assert_eq!(
            table(&routes, &neighbours, &sides),
            [
                ([0; 4], 0, hop([1; 6], 1400)),
                ([10, 2, 0, 0], 16, hop([1; 6], 1280)),
                ([10, 3, 0, 0], 16, hop([1; 6], 1400)),
                (router.octets(), 32, hop([1; 6], 1400)),
                (server.octets(), 32, hop([2; 6], 1400)),
            ]
        );
    }

    /// Regression: ICMP "fragmentation needed" on a WAN interface about a packet of IKE's socket to a server of the center, which
    /// nobody had sent, had the kernel learn an MTU for it, and all sites had to keep to that.
    #[test]
    fn what_the_kernel_has_learnt_of_a_destination_is_no_route() {
        let (router, server) = (Ipv4Addr::new(203, 0, 113, 254), Ipv4Addr::new(10, 2, 0, 9));
        let mut message = RouteMessage::default();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = 32;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(server)),
            RouteAttribute::Oif(3),
            RouteAttribute::Gateway(RouteAddress::Inet(router)),
            RouteAttribute::Metrics(vec![RouteMetric::Mtu(552)]),
        ];
        let via = read_via(&message).expect("an operator's route");
        assert_eq!((via.prefix, via.mtu), (server.octets(), Some(552)));
        message.header.flags = RouteFlags::Cloned;
        assert!(read_via(&message).is_none());
    }
}
