//! The routes of the core side, as the longest-prefix table of the `clear` program wants them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use gateway_common::abi::next_hop::NextHop;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType,
};

use super::netlink::{Neighbour, ResolveError, Resolver, ip};

/// A route of the kernel's main table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    prefix: [u8; 4],
    length: u8,
    /// Of routes to the same prefix the kernel takes the one with the least, and of those the first.
    metric: u32,
    /// What the route itself says that it carries.
    mtu: Option<u32>,
    /// Several of a multipath route.
    ways: Vec<Way>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By this interface, whose neighbours its destinations are themselves.
    OnLink(u32),
    /// By this interface and a router on it; one without an IPv4 address cannot be asked for.
    Over(u32, Option<Ipv4Addr>),
    /// Nowhere, as its type says (`blackhole` and the like).
    Nowhere,
}

impl Way {
    fn is_by(self, interfaces: &[u32]) -> bool {
        match self {
            Self::OnLink(ifindex) | Self::Over(ifindex, _) => interfaces.contains(&ifindex),
            Self::Nowhere => true,
        }
    }
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
    /// The next hops of the core side: each prefix that the main table has a route to by one of `interfaces`, the core side's
    /// indexes, and an address for each neighbour on the link. A prefix whose router has not answered yet, or whose
    /// destinations are neighbours themselves, is there without being resolved: no shorter prefix takes its packets.
    /// `destinations` are asked for, so that the first packet to one finds its way; those that have not answered are left
    /// out, and are there in a call after the news of them.
    ///
    /// # Errors
    /// Netlink fails. A router or destination that does not answer is no error.
    pub async fn core_next_hops(
        &self,
        interfaces: &[u32],
        destinations: &BTreeSet<Ipv4Addr>,
    ) -> Result<CoreHops, ResolveError> {
        let sides = self.core_links(interfaces).await?;
        let routes = self.routes_v4().await?;
        let routes = chosen(routes.iter().filter_map(read_route), interfaces);
        let ways = routes.values().flat_map(|route| &route.ways);
        let mut wanted: BTreeSet<Neighbour> = ways
            .filter_map(|way| match way {
                Way::Over(ifindex, Some(router)) => Some((*ifindex, IpAddr::V4(*router))),
                Way::Over(_, None) | Way::OnLink(_) | Way::Nowhere => None,
            })
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
            let link = match self.link(ifindex).await {
                Ok(link) => link,
                // It is gone, and its routes are: by the others everything goes on.
                Err(ResolveError::Netlink(rtnetlink::Error::NetlinkError(_))) => continue,
                Err(error) => return Err(error),
            };
            if let Some(mac) = link.mac {
                sides.insert(ifindex, Side { mac, mtu: link.mtu });
            }
        }
        Ok(sides)
    }
}

/// Routes by the prefix that they lead to.
type Routes = BTreeMap<Prefix, Route>;
/// A prefix and its length.
type Prefix = ([u8; 4], u8);

/// The routes that the kernel would take, of those by these interfaces.
fn chosen(routes: impl Iterator<Item = Route>, interfaces: &[u32]) -> Routes {
    let mut chosen = Routes::new();
    for mut route in routes {
        route.ways.retain(|way| way.is_by(interfaces));
        let prefix = (route.prefix, route.length);
        let is_better = chosen
            .get(&prefix)
            .is_none_or(|other| route.metric < other.metric);
        if is_better && !route.ways.is_empty() {
            chosen.insert(prefix, route);
        }
    }
    chosen
}

/// The whole table.
fn table(
    routes: &Routes,
    neighbours: &[(u32, IpAddr, [u8; 6])],
    sides: &BTreeMap<u32, Side>,
) -> Vec<([u8; 4], u8, NextHop)> {
    let hop = |ifindex: u32, destination_mac: Option<[u8; 6]>, mtu: Option<u32>| {
        let side = sides.get(&ifindex)?;
        Some(NextHop {
            ifindex,
            resolved: destination_mac.is_some().into(),
            destination_mac: destination_mac.unwrap_or_default(),
            source_mac: side.mac,
            mtu: mtu.map_or(side.mtu, |mtu| mtu.min(side.mtu)),
        })
    };
    let neighbours_v4 = neighbours
        .iter()
        .filter_map(|(ifindex, address, mac)| match address {
            IpAddr::V4(address) => Some(((*ifindex, *address), *mac)),
            IpAddr::V6(_) => None,
        });
    let macs: BTreeMap<(u32, Ipv4Addr), [u8; 6]> = neighbours_v4.collect();
    let mut hops = BTreeMap::new();
    for (prefix, route) in routes {
        let ways = route.ways.iter().filter_map(|way| match way {
            Way::OnLink(ifindex) => hop(*ifindex, None, route.mtu),
            Way::Over(ifindex, router) => {
                let mac = router.and_then(|router| macs.get(&(*ifindex, router)).copied());
                hop(*ifindex, mac, route.mtu)
            }
            Way::Nowhere => Some(NextHop::NOWHERE),
        });
        let ways: Vec<NextHop> = ways.collect();
        // Of several, the first that can be taken now.
        if let Some(best) = ways.iter().find(|hop| hop.resolved != 0).or(ways.first()) {
            hops.insert(*prefix, *best);
        }
    }
    for ((ifindex, address), mac) in &macs {
        // The kernel keeps neighbours that it would not send to: by another interface, or where a longer route leads elsewhere.
        let Some(route) = route_to(routes, *address) else {
            continue;
        };
        if route.ways.contains(&Way::OnLink(*ifindex))
            && let Some(hop) = hop(*ifindex, Some(*mac), route.mtu)
        {
            hops.insert((address.octets(), 32), hop);
        }
    }
    let hops = hops
        .into_iter()
        .map(|((prefix, length), hop)| (prefix, length, hop));
    hops.collect()
}

/// The route with the longest prefix of an address.
fn route_to(routes: &Routes, address: Ipv4Addr) -> Option<&Route> {
    (0..=32).rev().find_map(|length: u8| {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let prefix = Ipv4Addr::from_bits(address.to_bits() & mask);
        routes.get(&(prefix.octets(), length))
    })
}

/// A route of the main table for packets of whichever source and type of service. What the kernel has learnt of a single
/// destination from ICMP, which its answer has among the routes, is none: whoever reaches a WAN interface could narrow the way
/// of all sites to a server, or lead it over another router.
fn read_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let is_learnt = header.flags.contains(RouteFlags::Cloned);
    if header.table != RouteHeader::RT_TABLE_MAIN || header.tos != 0 || is_learnt {
        return None;
    }
    let mut route = Route {
        prefix: [0; 4],
        length: header.destination_prefix_length,
        metric: 0,
        mtu: None,
        ways: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::Destination(address) => route.prefix = ipv4(ip(address)?)?.octets(),
            RouteAttribute::MultiPath(hops) => {
                let ways = hops
                    .iter()
                    .filter_map(|hop| way(Some(hop.interface_index), &hop.attributes));
                route.ways.extend(ways);
            }
            _ => {}
        }
    }
    match header.kind {
        RouteType::Unicast => {
            if route.ways.is_empty() {
                route.ways.extend(way(None, &message.attributes));
            }
        }
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => {
            route.ways = vec![Way::Nowhere]
        }
        _ => return None,
    }
    Some(route)
}

/// Where these attributes lead, of a route or of one way of several.
fn way(ifindex: Option<u32>, attributes: &[RouteAttribute]) -> Option<Way> {
    let (mut ifindex, mut router) = (ifindex, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(address) => router = Some(ip(address).and_then(ipv4)),
            RouteAttribute::Via(_) => router = Some(None),
            _ => {}
        }
    }
    Some(match router {
        Some(router) => Way::Over(ifindex?, router),
        None => Way::OnLink(ifindex?),
    })
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::{RouteAddress, RouteNextHop};

    use super::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
    const SILENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 253);
    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    /// The core side's interface.
    const CORE: u32 = 3;

    fn over(prefix: [u8; 4], length: u8, router: Ipv4Addr) -> Route {
        Route {
            prefix,
            length,
            metric: 0,
            mtu: None,
            ways: vec![Way::Over(CORE, Some(router))],
        }
    }

    fn on_link(prefix: [u8; 4], length: u8) -> Route {
        Route {
            ways: vec![Way::OnLink(CORE)],
            ..over(prefix, length, ROUTER)
        }
    }

    /// The table of these routes, where `ROUTER` and `SERVER` have answered.
    fn table_of<const N: usize>(routes: [Route; N]) -> Vec<([u8; 4], u8, NextHop)> {
        let neighbours = [
            (CORE, IpAddr::V4(ROUTER), [1; 6]),
            (CORE, IpAddr::V4(SERVER), [2; 6]),
            // Another side's neighbour with the same address.
            (2, IpAddr::V4(SILENT), [3; 6]),
        ];
        let side = Side {
            mac: [9; 6],
            mtu: 1400,
        };
        let routes = chosen(routes.into_iter(), &[CORE]);
        table(&routes, &neighbours, &BTreeMap::from([(CORE, side)]))
    }

    fn hop(mac: [u8; 6], mtu: u32) -> NextHop {
        NextHop {
            ifindex: CORE,
            resolved: 1,
            destination_mac: mac,
            source_mac: [9; 6],
            mtu,
        }
    }

    fn unresolved() -> NextHop {
        NextHop {
            resolved: 0,
            ..hop([0; 6], 1400)
        }
    }

    #[test]
    fn routers_give_prefixes_and_neighbours_addresses() {
        let with_mtu = |mtu, route| Route {
            mtu: Some(mtu),
            ..route
        };
        assert_eq!(
            table_of([
                over([0; 4], 0, ROUTER),
                with_mtu(1280, over([10, 2, 0, 0], 16, ROUTER)),
                with_mtu(9000, over([10, 3, 0, 0], 16, ROUTER)),
                on_link([203, 0, 113, 0], 24),
            ]),
            [
                ([0; 4], 0, hop([1; 6], 1400)),
                ([10, 2, 0, 0], 16, hop([1; 6], 1280)),
                ([10, 3, 0, 0], 16, hop([1; 6], 1400)),
                ([203, 0, 113, 0], 24, unresolved()),
                (SERVER.octets(), 32, hop([2; 6], 1400)),
                (ROUTER.octets(), 32, hop([1; 6], 1400)),
            ]
        );
    }

    /// Regression: a host on the link that had not answered yet, or what lies behind a router that had not, was sent by a
    /// shorter route, and never looked for.
    #[test]
    fn what_is_not_resolved_takes_no_shorter_route() {
        let nowhere = Route {
            ways: vec![Way::Nowhere],
            ..over([10, 9, 0, 0], 16, ROUTER)
        };
        assert_eq!(
            table_of([
                over([0; 4], 0, ROUTER),
                on_link([10, 100, 0, 0], 24),
                over([10, 1, 0, 0], 16, SILENT),
                nowhere,
            ]),
            [
                ([0; 4], 0, hop([1; 6], 1400)),
                ([10, 1, 0, 0], 16, unresolved()),
                ([10, 9, 0, 0], 16, NextHop::NOWHERE),
                ([10, 100, 0, 0], 24, unresolved()),
            ]
        );
    }

    /// Regression: of several routes to one prefix the last was taken, which has the worst metric, and all were written again each
    /// time.
    #[test]
    fn of_routes_to_one_prefix_the_one_that_the_kernel_takes_is_there() {
        let with_metric = |metric, router| Route {
            metric,
            ..over([0; 4], 0, router)
        };
        // By another interface than the core side's: the kernel's own traffic.
        let elsewhere = Route {
            ways: vec![Way::Over(2, Some(SILENT))],
            ..with_metric(1, ROUTER)
        };
        let best = with_metric(100, ROUTER);
        let tables = [
            [best.clone(), with_metric(200, SILENT), elsewhere.clone()],
            [elsewhere, with_metric(200, SILENT), best.clone()],
            [best.clone(), with_metric(100, SILENT), with_metric(200, SILENT)],
        ];
        for routes in tables {
            assert_eq!(table_of(routes), [([0; 4], 0, hop([1; 6], 1400))]);
        }
        let backup = [with_metric(100, SILENT), with_metric(200, ROUTER)];
        assert_eq!(
            table_of(backup),
            [([0; 4], 0, unresolved())],
            "as the kernel has it"
        );
    }

    #[test]
    fn of_a_multipath_route_the_first_way_is_taken_that_is_there() {
        let routes = |routers: [Ipv4Addr; 2]| {
            [Route {
                ways: routers.map(|router| Way::Over(CORE, Some(router))).to_vec(),
                ..over([0; 4], 0, ROUTER)
            }]
        };
        for routers in [[SILENT, ROUTER], [ROUTER, SILENT], [ROUTER, SERVER]] {
            assert_eq!(table_of(routes(routers)), [([0; 4], 0, hop([1; 6], 1400))]);
        }
    }

    /// The kernel may still know a neighbour that its routes do not lead to any more.
    #[test]
    fn a_neighbour_is_a_way_only_where_the_routes_have_it_on_the_link() {
        let aside = over([203, 0, 113, 8], 29, SILENT);
        assert_eq!(
            table_of([on_link([203, 0, 113, 0], 24), aside]),
            [
                ([203, 0, 113, 0], 24, unresolved()),
                ([203, 0, 113, 8], 29, unresolved()),
                (ROUTER.octets(), 32, hop([1; 6], 1400)),
            ]
        );
        let host = [on_link([203, 0, 113, 0], 24), on_link(SERVER.octets(), 32)];
        assert_eq!(
            table_of(host),
            [
                ([203, 0, 113, 0], 24, unresolved()),
                (SERVER.octets(), 32, hop([2; 6], 1400)),
                (ROUTER.octets(), 32, hop([1; 6], 1400)),
            ]
        );
    }

    #[test]
    fn a_route_is_read_with_metric_and_ways() {
        let gateway = |router| RouteAttribute::Gateway(RouteAddress::Inet(router));
        let mut message = RouteMessage::default();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Oif(CORE), RouteAttribute::Priority(7)];
        let route = read_route(&message).expect("on the link");
        assert_eq!((route.metric, route.ways), (7, vec![Way::OnLink(CORE)]));
        message.attributes.push(gateway(ROUTER));
        let over_router = vec![Way::Over(CORE, Some(ROUTER))];
        assert_eq!(read_route(&message).map(|route| route.ways), Some(over_router));
        let next = |ifindex, router| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = ifindex;
            hop.attributes = vec![gateway(router)];
            hop
        };
        message.attributes = vec![RouteAttribute::MultiPath(vec![
            next(CORE, ROUTER),
            next(4, SILENT),
        ])];
        let several = vec![Way::Over(CORE, Some(ROUTER)), Way::Over(4, Some(SILENT))];
        assert_eq!(read_route(&message).map(|route| route.ways), Some(several));
        message.header.kind = RouteType::BlackHole;
        let nowhere = Some(vec![Way::Nowhere]);
        assert_eq!(read_route(&message).map(|route| route.ways), nowhere);
        message.header.kind = RouteType::Throw;
        assert!(read_route(&message).is_none(), "another table says where to");
    }

    /// Regression: ICMP "fragmentation needed" on a WAN interface about a packet of IKE's socket to a server of the center, which
    /// nobody had sent, had the kernel learn an MTU for it, and all sites had to keep to that.
    #[test]
    fn what_the_kernel_has_learnt_of_a_destination_is_no_route() {
        let server = Ipv4Addr::new(10, 2, 0, 9);
        let mut message = RouteMessage::default();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = 32;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(server)),
            RouteAttribute::Oif(3),
            RouteAttribute::Gateway(RouteAddress::Inet(ROUTER)),
            RouteAttribute::Metrics(vec![RouteMetric::Mtu(552)]),
        ];
        let route = read_route(&message).expect("an operator's route");
        assert_eq!((route.prefix, route.mtu), (server.octets(), Some(552)));
        message.header.flags = RouteFlags::Cloned;
        assert!(read_route(&message).is_none());
    }
}
