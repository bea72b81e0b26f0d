//! The lab's map: every namespace, cable and address is named here and nowhere else.
//!
//! ```text
//!  site1-term           site1                                        gateway                        center
//!  .-----------.        .------------.   IPv4 "Internet"            .---------------------.        .--------------.
//!  | eth0      |--------| lan    wan |============================== | wan4                |        | eligibility  |
//!  | .1.10     |        | .1.1   .10 |        203.0.113.0/24         | .1                  |        | 10.100.0.10  |
//!  '-----------'        '------------'                              |                core |--------| eth0         |
//!   192.168.1.0/24                                                  |          10.100.0.1 |        | 10.101.0.10  |
//!   192.168.1.0/24 (the same)                                       |                     |        | (loopback)   |
//!  .-----------.        .------------.   IPv6-only "IP-VPN"          |                     |        '--------------'
//!  | eth0      |--------| lan    wan |============================== | wan6                |   10.100.0.0/16, 10.101.0.0/16
//!  | .1.10     |        | .1.1  ::20 |       2001:db8:6::/64         | ::1                 |   the center's networks
//!  '-----------'        '------------'                              '---------------------'
//!  site2-term           site2
//!
//!  With `nat`, a translating box stands between site1 and wan4:
//!
//!   site1 wan 100.64.1.10 ---- in 100.64.1.1 [nat] out 203.0.113.10 ====== wan4 203.0.113.1
//! ```
//!
//! With `internet`, a node stands for the Internet that sites may reach by name, and for the gateway's name server:
//!
//!   inet 198.51.100.1 [gateway] mgmt 192.0.2.1 ====== [internet] eth0 198.51.100.80, .81   mgmt 192.0.2.53
//!
//! The gateway makes its clear link itself. The sites see the center's networks through their tunnels only.

use std::fmt;
use std::path::PathBuf;

use super::strongswan::Release;

/// What every namespace of the lab is called by: `gwlab-site1` and so on.
pub const PREFIX: &str = "gwlab-";
/// Where the lab keeps its processes' files while it is up.
pub const STATE: &str = "/run/gwlab";

/// Both terminals have this address, on LANs that do not know of each other.
pub const TERMINAL: &str = "192.168.1.10";
/// Both sites' LAN, the inner traffic selector at the site's end.
pub const SITE_LAN: &str = "192.168.1.0/24";
/// Each site's router on its LAN.
pub const SITE_ROUTER: &str = "192.168.1.1";
/// The eligibility server.
pub const SERVER: &str = "10.100.0.10";
/// The same server in the center's second network.
pub const SERVER_SECOND: &str = "10.101.0.10";
/// The port that the lab's rules allow.
pub const SERVER_PORT: u16 = 8080;
/// A port on which the server answers too, but which no rule allows.
pub const FORBIDDEN_PORT: u16 = 8081;
/// The center's networks, the inner traffic selectors at the gateway's end.
pub const CENTER_NETS: [&str; 2] = ["10.100.0.0/16", "10.101.0.0/16"];
/// The gateway's address to the center.
pub const GATEWAY_CORE: &str = "10.100.0.1";
/// What sites are translated to; the center routes it to the gateway.
pub const NAT_POOL: &str = "10.200.0.0/24";
/// The gateway on the IPv4 "Internet".
pub const GATEWAY_WAN4: &str = "203.0.113.1";
/// The gateway on the IPv6 "IP-VPN".
pub const GATEWAY_WAN6: &str = "2001:db8:6::1";
/// Site 1's router as the gateway sees it, NAT box or not.
pub const SITE1_OUTSIDE: &str = "203.0.113.10";
/// Site 1's router behind the NAT box.
pub const SITE1_BEHIND_NAT: &str = "100.64.1.10";
/// Site 2's router.
pub const SITE2_OUTSIDE: &str = "2001:db8:6::20";

/// What sites may reach of the Internet, besides the center's networks.
pub const INTERNET_NET: &str = "198.51.100.0/24";
/// The update server on the Internet.
pub const SITE_UPDATE: &str = "198.51.100.80";
/// Another server on the Internet.
pub const SITE_OTHER_WEB: &str = "198.51.100.81";
/// The port that both serve.
pub const UPDATE_PORT: u16 = 80;
/// The gateway's DNS proxy.
pub const DNS_PROXY: &str = "10.100.255.53";
/// The name server that the proxy asks.
pub const DNS_UPSTREAM: &str = "192.0.2.53";

/// A namespace of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// The terminal behind site 1's router.
    Site1Term,
    /// Site 1's router, on the IPv4 "Internet".
    Site1,
    /// The box that translates between site 1 and the gateway, only with [`Options::nat`].
    Nat,
    /// The terminal behind site 2's router.
    Site2Term,
    /// Site 2's router, on the IPv6 "IP-VPN".
    Site2,
    /// The gateway under test.
    Gateway,
    /// The center with its eligibility server.
    Center,
    /// The Internet that sites may reach by name, only with [`Options::internet`].
    Internet,
}

impl Node {
    /// All of them, the NAT box too.
    pub const ALL: [Node; 8] = [
        Node::Site1Term,
        Node::Site1,
        Node::Nat,
        Node::Site2Term,
        Node::Site2,
        Node::Gateway,
        Node::Center,
        Node::Internet,
    ];

    /// The name a person types: `cargo xtask lab shell site1-term`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Node::Site1Term => "site1-term",
            Node::Site1 => "site1",
            Node::Nat => "nat",
            Node::Site2Term => "site2-term",
            Node::Site2 => "site2",
            Node::Gateway => "gateway",
            Node::Center => "center",
            Node::Internet => "internet",
        }
    }

    /// The network namespace's name.
    #[must_use]
    pub fn namespace(self) -> String {
        format!("{PREFIX}{}", self.name())
    }

    /// The file that stands for the network namespace.
    #[must_use]
    pub fn namespace_file(self) -> PathBuf {
        PathBuf::from("/run/netns").join(self.namespace())
    }

    /// Only these forward packets by the kernel; the gateway forwards by its own programs.
    pub(super) fn is_router(self) -> bool {
        matches!(self, Node::Site1 | Node::Site2 | Node::Nat)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl std::str::FromStr for Node {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Node::ALL
            .into_iter()
            .find(|node| node.name() == name)
            .ok_or_else(|| {
                let names: Vec<_> = Node::ALL.iter().map(|node| node.name()).collect();
                format!("no node {name:?}; there are {}", names.join(", "))
            })
    }
}

/// A site: its router, its terminal and the network it comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Over the IPv4 "Internet".
    One,
    /// Over the IPv6 "IP-VPN".
    Two,
}

impl Site {
    /// Both sites.
    pub const BOTH: [Site; 2] = [Site::One, Site::Two];

    /// The namespace of its router.
    #[must_use]
    pub fn router(self) -> Node {
        match self {
            Site::One => Node::Site1,
            Site::Two => Node::Site2,
        }
    }

    /// The namespace of its terminal.
    #[must_use]
    pub fn terminal(self) -> Node {
        match self {
            Site::One => Node::Site1Term,
            Site::Two => Node::Site2Term,
        }
    }

    /// The name in its certificate: `site1` or `site2`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.router().name()
    }

    /// The gateway's outer address as this site sees it.
    #[must_use]
    pub fn gateway_address(self) -> &'static str {
        match self {
            Site::One => GATEWAY_WAN4,
            Site::Two => GATEWAY_WAN6,
        }
    }

    /// The router's own outer address.
    #[must_use]
    pub fn router_address(self, options: &Options) -> &'static str {
        match self {
            Site::One if options.nat => SITE1_BEHIND_NAT,
            Site::One => SITE1_OUTSIDE,
            Site::Two => SITE2_OUTSIDE,
        }
    }
}

/// What of the lab can be varied.
#[derive(Clone, Debug)]
pub struct Options {
    /// Queues of the gateway's interfaces.
    pub queues: u32,
    /// Whether a NAT box stands between site 1 and the gateway.
    pub nat: bool,
    /// Whether there is an Internet that sites may reach by name.
    pub internet: bool,
    /// Whether the kernel forwards in the gateway's namespace: only for a gateway that is not ours (strongSwan).
    pub kernel_forwards_in_gateway: bool,
    /// The strongSwan that the sites' routers run, unless a test starts another.
    pub release: Release,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            nat: false,
            internet: false,
            kernel_forwards_in_gateway: false,
            release: Release::default(),
        }
    }
}

/// One end of a cable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    pub(super) node: Node,
    pub(super) interface: &'static str,
    /// Address with prefix length.
    pub(super) address: &'static str,
}

const fn port(node: Node, interface: &'static str, address: &'static str) -> Port {
    Port {
        node,
        interface,
        address,
    }
}

/// The cables, each a veth pair.
pub(super) fn cables(options: &Options) -> Vec<[Port; 2]> {
    let wan4 = port(Node::Gateway, "wan4", "203.0.113.1/24");
    let mut cables = vec![
        [
            port(Node::Site1Term, "eth0", "192.168.1.10/24"),
            port(Node::Site1, "lan", "192.168.1.1/24"),
        ],
        [
            port(Node::Site2Term, "eth0", "192.168.1.10/24"),
            port(Node::Site2, "lan", "192.168.1.1/24"),
        ],
        [
            port(Node::Site2, "wan", "2001:db8:6::20/64"),
            port(Node::Gateway, "wan6", "2001:db8:6::1/64"),
        ],
        [
            port(Node::Gateway, "core", "10.100.0.1/24"),
            port(Node::Center, "eth0", "10.100.0.10/24"),
        ],
    ];
    if options.internet {
        cables.push([
            port(Node::Gateway, "inet", "198.51.100.1/24"),
            port(Node::Internet, "eth0", "198.51.100.80/24"),
        ]);
        cables.push([
            port(Node::Gateway, "mgmt", "192.0.2.1/24"),
            port(Node::Internet, "mgmt", "192.0.2.53/24"),
        ]);
    }
    if options.nat {
        cables.push([
            port(Node::Site1, "wan", "100.64.1.10/24"),
            port(Node::Nat, "in", "100.64.1.1/24"),
        ]);
        cables.push([port(Node::Nat, "out", "203.0.113.10/24"), wan4]);
    } else {
        cables.push([port(Node::Site1, "wan", "203.0.113.10/24"), wan4]);
    }
    cables
}

/// Routes beyond the connected ones, and addresses on loopback, as arguments of `ip`.
pub(super) fn routes(options: &Options) -> Vec<(Node, &'static str)> {
    let mut routes = vec![
        (Node::Site1Term, "route add default via 192.168.1.1"),
        (Node::Site2Term, "route add default via 192.168.1.1"),
        (
            Node::Site1,
            if options.nat {
                "route add default via 100.64.1.1"
            } else {
                "route add default via 203.0.113.1"
            },
        ),
        (Node::Site2, "route add default via 2001:db8:6::1"),
        (Node::Gateway, "route add 10.101.0.0/16 via 10.100.0.10"),
        (Node::Center, "addr add 10.101.0.10/32 dev lo"),
        (Node::Center, "route add default via 10.100.0.1"),
    ];
    if options.internet {
        routes.push((Node::Internet, "addr add 198.51.100.81/24 dev eth0"));
        routes.push((Node::Internet, "route add default via 198.51.100.1"));
    }
    if options.kernel_forwards_in_gateway {
        // strongSwan takes a traffic selector only where it finds an address of its own in it.
        routes.push((Node::Gateway, "addr add 10.101.0.1/32 dev lo"));
    }
    routes
}
