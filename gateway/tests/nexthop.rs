//! Next hops from a real kernel's routes and neighbours, in network namespaces. Needs root.
//!
//! ```text
//!  dph-nexthop-far-PID                                dph-nexthop-near-PID
//!  far0 198.51.100.2/24, 2001:db8:1::2/64 ------ near0 198.51.100.1/24, 2001:db8:1::1/64
//!                                                routes 203.0.113.0/24 and 2001:db8:2::/64 via far0's addresses
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use gateway::nexthop::{ResolveError, Resolver};
use nix::sched::{CloneFlags, setns};

struct Lab(u32);

impl Lab {
    fn new() -> Self {
        let lab = Self(std::process::id());
        let (near, far) = (lab.namespace("near"), lab.namespace("far"));
        for command in [
            format!("netns add {near}"),
            format!("netns add {far}"),
            format!("-n {near} link add near0 type veth peer name far0 netns {far}"),
            format!("-n {near} address add 198.51.100.1/24 dev near0"),
            format!("-n {near} address add 2001:db8:1::1/64 dev near0 nodad"),
            format!("-n {far} address add 198.51.100.2/24 dev far0"),
            format!("-n {far} address add 2001:db8:1::2/64 dev far0 nodad"),
            format!("-n {far} link set far0 up"),
            format!("-n {near} link set near0 up"),
            format!("-n {near} route add 203.0.113.0/24 via 198.51.100.2"),
            format!("-n {near} route add 2001:db8:2::/64 via 2001:db8:1::2"),
        ] {
            ip(&command);
        }
        lab
    }

    fn namespace(&self, node: &str) -> String {
        format!("dph-nexthop-{node}-{}", self.0)
    }

    fn mac(&self, node: &str, interface: &str) -> [u8; 6] {
        let text = ip(&format!(
            "-n {} -brief link show {interface}",
            self.namespace(node)
        ));
        let mac = text
            .split_whitespace()
            .find(|word| word.matches(':').count() == 5)
            .unwrap();
        let octets: Vec<u8> = mac
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16).unwrap())
            .collect();
        octets.try_into().unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in ["near", "far"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.namespace(node)])
                .status();
        }
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn peers_and_core_next_hops_are_resolved_from_nothing() {
    let lab = Lab::new();
    let file = File::open(format!("/run/netns/{}", lab.namespace("near"))).unwrap();
    // This thread alone changes namespace; the runtime stays on it.
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let resolver = Resolver::new().unwrap();
        let (near, far) = (lab.mac("near", "near0"), lab.mac("far", "far0"));
        let peers: [IpAddr; 4] = [
            "198.51.100.2".parse().unwrap(),
            "203.0.113.7".parse().unwrap(),
            "2001:db8:1::2".parse().unwrap(),
            "2001:db8:2::7".parse().unwrap(),
        ];
        for peer in peers {
            let hop = resolver
                .resolve(peer)
                .await
                .unwrap_or_else(|error| panic!("{peer}: {error}"));
            assert_eq!((hop.interface.as_str(), hop.mtu), ("near0", 1500), "{peer}");
            assert_eq!((hop.source_mac, hop.destination_mac), (near, far), "{peer}");
            let own = if peer.is_ipv4() {
                "198.51.100.1"
            } else {
                "2001:db8:1::1"
            };
            assert_eq!(hop.source, own.parse().ok(), "{peer}");
        }
        let silent = resolver.resolve("198.51.100.99".parse().unwrap()).await;
        assert!(
            matches!(silent, Err(ResolveError::Unreachable { .. })),
            "{silent:?}"
        );
        let nowhere = resolver.resolve("192.0.2.1".parse().unwrap()).await;
        assert!(matches!(nowhere, Err(ResolveError::NoRoute(_))), "{nowhere:?}");

        let ifindex = resolver.resolve(peers[0]).await.unwrap().ifindex;
        let wanted = BTreeSet::from([Ipv4Addr::new(198, 51, 100, 2)]);
        let hops = resolver.core_next_hops(&[ifindex], &wanted).await.unwrap();
        let prefixes: Vec<_> = hops
            .iter()
            .map(|(prefix, length, _)| (*prefix, *length))
            .collect();
        assert_eq!(prefixes, [([203, 0, 113, 0], 24), ([198, 51, 100, 2], 32)]);
        assert!(
            hops.iter()
                .all(|(_, _, hop)| hop.destination_mac == far && hop.source_mac == near)
        );
        assert_eq!(resolver.core_next_hops(&[], &wanted).await.unwrap(), []);

        // What was learnt is answered until it is forgotten; the data plane's task does that at each change.
        let moved = "02:00:00:00:00:99";
        ip(&format!(
            "-n {} link set far0 address {moved}",
            lab.namespace("far")
        ));
        ip(&format!("-n {} neigh flush dev near0", lab.namespace("near")));
        assert_eq!(resolver.resolve(peers[0]).await.unwrap().destination_mac, far);
        resolver.forget();
        assert_eq!(
            resolver.resolve(peers[0]).await.unwrap().destination_mac,
            [2, 0, 0, 0, 0, 0x99]
        );

        // Entries that somebody has set for good are used as they are, and stay so: silent neighbours of both families.
        for neighbour in ["198.51.100.77", "2001:db8:1::77"] {
            let pinned = "02:00:00:00:00:77";
            let near = lab.namespace("near");
            ip(&format!(
                "-n {near} neigh replace {neighbour} lladdr {pinned} dev near0 nud permanent"
            ));
            for _ in 0..2 {
                let hop = resolver.resolve(neighbour.parse().unwrap()).await.unwrap();
                assert_eq!(hop.destination_mac, [2, 0, 0, 0, 0, 0x77], "{neighbour}");
                resolver.forget();
            }
            let entry = ip(&format!("-n {near} neigh show {neighbour} dev near0"));
            assert!(entry.contains(pinned) && entry.contains("PERMANENT"), "{entry}");
        }
    });
}
