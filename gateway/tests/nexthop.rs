//! Next hops from a real kernel's routes and neighbours, in network namespaces. Needs root.
//!
//! ```text
//!  dph-nexthop-far-TEST-PID                           dph-nexthop-near-TEST-PID
//!  far0 198.51.100.2/24, 2001:db8:1::2/64 ------ near0 198.51.100.1/24, 2001:db8:1::1/64
//!                                                routes 203.0.113.0/24 and 2001:db8:2::/64 via far0's addresses
//! ```

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gateway::nexthop::{Counts, News, PeerHop, ResolveError, Resolver, Watcher};
use nix::sched::{CloneFlags, setns};

/// A neighbour that did not answer is asked for again after ten seconds: what is told sooner holds.
const LEFT_ALONE: Duration = Duration::from_secs(8);
/// What is waited for takes less, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// One a test.
struct Lab(String);

impl Lab {
    /// Both nodes have IPv6 addresses that may be used: the kernel sees that a link has come up only after a while.
    fn new(test: &str) -> Self {
        let lab = Self::with_questions_whether_an_address_is_used(test, 0);
        for node in ["near", "far"] {
            let addresses = format!(
                "-n {} -6 address show dev {node}0 scope link",
                lab.namespace(node)
            );
            let is_ready = || ip(&addresses).contains("fe80") && !ip(&addresses).contains("tentative");
            let ready = (0..300).any(|_| {
                std::thread::sleep(Duration::from_millis(100));
                is_ready()
            });
            assert!(ready, "{node}: {}", ip(&addresses));
        }
        lab
    }

    /// The near node asks so often, a second apart, whether another node uses its link-local address (RFC 4862 section 5.4).
    fn with_questions_whether_an_address_is_used(test: &str, questions: u32) -> Self {
        let lab = Self(format!("{test}-{}", std::process::id()));
        let (near, far) = (lab.namespace("near"), lab.namespace("far"));
        for command in [
            format!("netns add {near}"),
            format!("netns add {far}"),
            format!("netns exec {near} sysctl -qw net.ipv6.conf.default.dad_transmits={questions}"),
            format!("netns exec {far} sysctl -qw net.ipv6.conf.default.dad_transmits=0"),
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

/// Asks until the kernel has found the neighbour or given up, as news have the daemon do.
async fn resolve(resolver: &Resolver, remote: IpAddr) -> Result<PeerHop, ResolveError> {
    loop {
        let hop = resolver.peer_hop(remote).await?;
        if hop.destination_mac.is_some() {
            return Ok(hop);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whatever may have changed.
fn everything() -> News {
    News {
        ways: true,
        ..News::default()
    }
}

/// Runs in the namespace `near`.
fn run_near(lab: &Lab, test: impl Future<Output = ()>) {
    let file = File::open(format!("/run/netns/{}", lab.namespace("near"))).unwrap();
    // This thread alone changes namespace; the runtime stays on it.
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn peers_and_core_next_hops_are_resolved_from_nothing() {
    let lab = Lab::new("all");
    run_near(&lab, async {
        let resolver = Resolver::new().unwrap();
        let (near, far) = (lab.mac("near", "near0"), lab.mac("far", "far0"));
        let peers: [IpAddr; 4] = [
            "198.51.100.2".parse().unwrap(),
            "203.0.113.7".parse().unwrap(),
            "2001:db8:1::2".parse().unwrap(),
            "2001:db8:2::7".parse().unwrap(),
        ];
        for peer in peers {
            let hop = resolve(&resolver, peer)
                .await
                .unwrap_or_else(|error| panic!("{peer}: {error}"));
            assert_eq!((hop.interface.as_str(), hop.mtu), ("near0", 1500), "{peer}");
            assert_eq!((hop.source_mac, hop.destination_mac), (near, Some(far)), "{peer}");
            let own = if peer.is_ipv4() {
                "198.51.100.1"
            } else {
                "2001:db8:1::1"
            };
            assert_eq!(hop.source, own.parse().ok(), "{peer}");
        }
        let silent = resolve(&resolver, "198.51.100.99".parse().unwrap()).await;
        assert!(
            matches!(silent, Err(ResolveError::Unreachable { .. })),
            "{silent:?}"
        );
        let nowhere = resolve(&resolver, "192.0.2.1".parse().unwrap()).await;
        assert!(matches!(nowhere, Err(ResolveError::NoRoute(_))), "{nowhere:?}");

        let ifindex = resolve(&resolver, peers[0]).await.unwrap().ifindex;
        let wanted = BTreeSet::from([Ipv4Addr::new(198, 51, 100, 2)]);
        let hops = resolver.core_next_hops(&[ifindex], &wanted).await.unwrap();
        let prefixes: Vec<_> = hops
            .hops
            .iter()
            .map(|(prefix, length, hop)| (*prefix, *length, hop.resolved))
            .collect();
        let on_link = ([198, 51, 100, 0], 24, 0);
        let host = ([198, 51, 100, 2], 32, 1);
        assert_eq!(prefixes, [on_link, host, ([203, 0, 113, 0], 24, 1)]);
        assert_eq!(hops.on_link, wanted);
        assert!(
            hops.hops
                .iter()
                .filter(|(_, _, hop)| hop.resolved != 0)
                .all(|(_, _, hop)| hop.destination_mac == far && hop.source_mac == near)
        );
        assert_eq!(resolver.core_next_hops(&[], &wanted).await.unwrap().hops, []);

        // What was learnt is answered until it is forgotten; the data plane's task does that at each change.
        let moved = "02:00:00:00:00:99";
        ip(&format!(
            "-n {} link set far0 address {moved}",
            lab.namespace("far")
        ));
        ip(&format!("-n {} neigh flush dev near0", lab.namespace("near")));
        assert_eq!(
            resolve(&resolver, peers[0]).await.unwrap().destination_mac,
            Some(far)
        );
        resolver.forget(&everything());
        assert_eq!(
            resolve(&resolver, peers[0]).await.unwrap().destination_mac,
            Some([2, 0, 0, 0, 0, 0x99])
        );

        // Entries that somebody has set for good are used as they are, and stay so: silent neighbours of both families.
        for neighbour in ["198.51.100.77", "2001:db8:1::77"] {
            let pinned = "02:00:00:00:00:77";
            let near = lab.namespace("near");
            ip(&format!(
                "-n {near} neigh replace {neighbour} lladdr {pinned} dev near0 nud permanent"
            ));
            for _ in 0..2 {
                let hop = resolve(&resolver, neighbour.parse().unwrap()).await.unwrap();
                assert_eq!(hop.destination_mac, Some([2, 0, 0, 0, 0, 0x77]), "{neighbour}");
                resolver.forget(&everything());
            }
            let entry = ip(&format!("-n {near} neigh show {neighbour} dev near0"));
            assert!(entry.contains(pinned) && entry.contains("PERMANENT"), "{entry}");
        }
    });
}

/// Regression: the route with the worst metric was taken, hosts on the link and routes whose router was silent had no prefix of
/// their own, and multipath routes none at all.
#[test]
fn the_routes_that_the_kernel_takes_are_the_next_hops() {
    let lab = Lab::new("metrics");
    let near = lab.namespace("near");
    for route in [
        "default via 198.51.100.2 metric 100",
        "default via 198.51.100.99 metric 200",
        "192.0.2.0/25 via 198.51.100.99",
        "192.0.2.128/25 nexthop via 198.51.100.99 nexthop via 198.51.100.2",
        "blackhole 10.0.0.0/8",
    ] {
        ip(&format!("-n {near} route add {route}"));
    }
    run_near(&lab, async {
        let resolver = Resolver::new().unwrap();
        let router: IpAddr = "198.51.100.2".parse().unwrap();
        let ifindex = resolve(&resolver, router).await.unwrap().ifindex;
        let hops = resolver
            .core_next_hops(&[ifindex], &BTreeSet::new())
            .await
            .unwrap();
        let hops: Vec<_> = hops
            .hops
            .iter()
            .map(|(prefix, length, hop)| (Ipv4Addr::from(*prefix).to_string(), *length, hop.resolved))
            .collect();
        let expected = [
            ("0.0.0.0", 0, 1),
            ("10.0.0.0", 8, 0),
            ("192.0.2.0", 25, 0),
            ("192.0.2.128", 25, 1),
            ("198.51.100.0", 24, 0),
            ("198.51.100.2", 32, 1),
            ("203.0.113.0", 24, 1),
        ];
        assert_eq!(
            hops,
            expected.map(|(prefix, length, resolved)| (prefix.to_owned(), length, resolved))
        );
    });
}

/// Until the interface is ready: long after the kernel gives up, some three seconds after it was asked, and soon enough for who
/// was asked for in vain to be left alone still by who does not ask again.
const READY_S: u32 = 8;

/// Regression: the kernel asks for no IPv6 neighbour before the interface has a link-local address that is its own, and gave up
/// meanwhile; nobody asked again for ten seconds after each link that came up.
#[test]
fn a_neighbour_that_was_asked_for_in_vain_is_asked_for_again_once_the_interface_is_ready() {
    let lab = Lab::with_questions_whether_an_address_is_used("ready", READY_S);
    run_near(&lab, async {
        let mut watcher = Watcher::new().unwrap();
        let resolver = Resolver::new().unwrap();
        let peer: IpAddr = "2001:db8:1::2".parse().unwrap();
        let hour = Duration::from_secs(3600);
        let found = async {
            loop {
                match resolver.peer_hop(peer).await {
                    Ok(hop) if hop.destination_mac.is_some() => break,
                    Ok(_) => {}
                    Err(error) => assert!(matches!(error, ResolveError::Unreachable { .. }), "{error}"),
                }
                // As the daemon does, and never without news.
                let news = watcher.changed(hour).await;
                resolver.forget(&news);
                resolver.ask_again(&news.interfaces);
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(60), found).await;
        found.expect("the neighbour");
        assert!(resolver.counts().probes > 1, "it was asked for in vain first");
    });
}

#[test]
fn a_silent_router_holds_up_nobody_else() {
    let lab = Lab::new("silent");
    let near = lab.namespace("near");
    ip(&format!("-n {near} route add 192.0.2.0/24 via 198.51.100.99"));
    run_near(&lab, async {
        let resolver = Resolver::new().unwrap();
        let live: IpAddr = "198.51.100.2".parse().unwrap();
        let lost: HashSet<IpAddr> = (1..=50)
            .map(|last| Ipv4Addr::new(192, 0, 2, last).into())
            .collect();
        let all: HashSet<IpAddr> = lost.iter().copied().chain([live]).collect();
        let pass = async || {
            let before = resolver.counts();
            let hops = resolver.peer_hops(all.clone()).await.unwrap();
            let Counts { probes, dumps, .. } = resolver.counts();
            (hops, probes - before.probes, dumps - before.dumps)
        };
        let begun = Instant::now();
        let (hops, probes, dumps) = pass().await;
        assert_eq!(probes, 2, "the router of 50 peers, and the peer on the link");
        assert!(dumps <= 3, "{dumps}");
        let is_awaited = |remote| {
            matches!(
                hops.get(remote),
                Some(Ok(PeerHop {
                    destination_mac: None,
                    ..
                }))
            )
        };
        assert!(
            lost.iter().all(is_awaited),
            "nobody waited for the router: {hops:?}"
        );
        assert_eq!(
            resolve(&resolver, live).await.unwrap().destination_mac,
            Some(lab.mac("far", "far0"))
        );

        // The kernel gives up. The peer on the link has another MAC address meanwhile.
        let silent = resolve(&resolver, Ipv4Addr::new(192, 0, 2, 1).into()).await;
        assert!(
            matches!(silent, Err(ResolveError::Unreachable { .. })),
            "{silent:?}"
        );
        ip(&format!(
            "-n {} link set far0 address 02:00:00:00:00:99",
            lab.namespace("far")
        ));
        ip(&format!("-n {near} neigh flush dev near0"));
        let mut live_mac = None;
        let mut asked_in_all = 0;
        let changed = Instant::now();
        while live_mac.is_none() && changed.elapsed() < PATIENCE {
            resolver.forget(&everything());
            let (hops, probes, _) = pass().await;
            asked_in_all += probes;
            for remote in lost.iter().filter(|_| begun.elapsed() < LEFT_ALONE) {
                let hop = hops.get(remote).unwrap();
                assert!(
                    matches!(hop, Err(ResolveError::Unreachable { .. })),
                    "{remote} {hop:?}"
                );
            }
            live_mac = hops.get(&live).unwrap().as_ref().unwrap().destination_mac;
        }
        assert_eq!(live_mac, Some([2, 0, 0, 0, 0, 0x99]));
        if begun.elapsed() < LEFT_ALONE {
            assert_eq!(asked_in_all, 1, "the silent one is left alone");
        } else {
            println!("the machine is too busy to tell whether the silent one is left alone");
        }
    });
}

#[test]
fn many_silent_destinations_cost_as_much_as_one() {
    let lab = Lab::new("scan");
    run_near(&lab, async {
        let resolver = Resolver::new().unwrap();
        let ifindex = resolver
            .peer_hop("198.51.100.2".parse().unwrap())
            .await
            .unwrap()
            .ifindex;
        let begun = Instant::now();
        let scanned: BTreeSet<Ipv4Addr> = (3..=202).map(|last| Ipv4Addr::new(198, 51, 100, last)).collect();
        for pass in 0..5 {
            let before = resolver.counts();
            let hops = resolver.core_next_hops(&[ifindex], &scanned).await.unwrap();
            let Counts { probes, dumps, .. } = resolver.counts();
            assert_eq!(hops.on_link, scanned);
            assert!(
                dumps - before.dumps <= 4,
                "pass {pass}: {} dumps",
                dumps - before.dumps
            );
            // The router of the route that is there is asked again after news; each of them once.
            let probes = probes - before.probes;
            let expected = if pass == 0 { 200..=201 } else { 0..=1 };
            assert!(
                expected.contains(&probes) || begun.elapsed() > LEFT_ALONE,
                "pass {pass}: {probes} probes"
            );
            resolver.forget(&everything());
        }
        // Nobody waited for them: a neighbour that answers is there all the same.
        let live = BTreeSet::from([Ipv4Addr::new(198, 51, 100, 2)]);
        let wanted: BTreeSet<_> = scanned.union(&live).copied().collect();
        let mut found = false;
        let asked = Instant::now();
        while !found && asked.elapsed() < PATIENCE {
            let hops = resolver.core_next_hops(&[ifindex], &wanted).await.unwrap();
            found = hops.hops.iter().any(|(address, length, hop)| {
                (*address, *length, hop.resolved) == ([198, 51, 100, 2], 32, 1)
            });
        }
        assert!(found);
    });
}

/// Regression: with one interface of the core side gone, no next hop of the others was followed any more.
#[test]
fn an_interface_that_is_gone_takes_no_other_with_it() {
    let lab = Lab::new("gone");
    let near = lab.namespace("near");
    ip(&format!("-n {near} link add lost0 type veth peer name lost1"));
    ip(&format!("-n {near} link set lost0 up"));
    run_near(&lab, async {
        let resolver = Resolver::new().unwrap();
        let router: IpAddr = "198.51.100.2".parse().unwrap();
        let kept = resolve(&resolver, router).await.unwrap().ifindex;
        ip(&format!("-n {near} route add 192.0.2.0/24 dev lost0"));
        let lost = resolver.peer_hop("192.0.2.1".parse().unwrap()).await.unwrap();
        let prefixes = async || {
            let hops = resolver
                .core_next_hops(&[lost.ifindex, kept], &BTreeSet::new())
                .await;
            let hops = hops.unwrap().hops.into_iter();
            hops.map(|(prefix, _, _)| Ipv4Addr::from(prefix).to_string())
                .collect::<Vec<_>>()
        };
        let rest = ["198.51.100.0", "198.51.100.2", "203.0.113.0"];
        assert_eq!(prefixes().await[1..], rest);
        ip(&format!("-n {near} link del lost0"));
        resolver.forget(&everything());
        assert_eq!(prefixes().await, rest);
    });
}

/// Regression: at each news of a neighbour the kernel was asked for the way to every peer.
#[test]
fn ways_are_asked_for_anew_when_more_than_neighbours_changed() {
    let lab = Lab::new("ways");
    let near = lab.namespace("near");
    run_near(&lab, async {
        let mut watcher = Watcher::new().unwrap();
        let resolver = Resolver::new().unwrap();
        let remotes: HashSet<IpAddr> = (1..=50)
            .map(|last| Ipv4Addr::new(203, 0, 113, last).into())
            .collect();
        let mut pass = async |change: &str| {
            ip(&format!("-n {near} {change}"));
            let news = watcher.changed(Duration::from_secs(3600)).await;
            resolver.forget(&news);
            let before = resolver.counts().routes;
            let hops = resolver.peer_hops(remotes.clone()).await.unwrap();
            let hop = hops.get(remotes.iter().next().unwrap()).unwrap();
            let ifindex = hop.as_ref().map(|hop| hop.ifindex).ok();
            (resolver.counts().routes - before, ifindex.is_some())
        };
        assert_eq!(pass("route add 192.0.2.0/24 via 198.51.100.2").await, (50, true));
        let neighbour = "neigh replace 198.51.100.50 dev near0 lladdr 02:00:00:00:00:50";
        assert_eq!(pass(neighbour).await, (0, true));
        // A peer that comes, or keys anew, does not wait for the news.
        let peer = *remotes.iter().next().unwrap();
        ip(&format!("-n {near} route add {peer}/32 dev near0"));
        let before = resolver.counts().routes;
        assert!(resolver.peer_hop(peer).await.is_ok());
        assert_eq!(resolver.counts().routes - before, 1);
        ip(&format!("-n {near} route del {peer}/32 dev near0"));
        // What the kernel found out about the router by the first pass is news of a neighbour, too.
        assert_eq!(pass("route del 203.0.113.0/24").await, (50, false));
    });
    // Whoever hears of neighbours only is told of all else now and then.
    run_near(&lab, async {
        let mut watcher = Watcher::new().unwrap();
        let refresh = Duration::from_millis(300);
        for octet in 0..100 {
            ip(&format!(
                "-n {near} neigh replace 198.51.100.60 dev near0 lladdr 02:00:00:00:00:{octet:02x}"
            ));
            if watcher.changed(refresh).await.ways {
                return;
            }
        }
        panic!("a hundred news, and each of neighbours alone");
    });
}

/// Regression: of two routers the kernel takes the one that answers, and sends no news of routes when it changes its mind; the
/// way over the silent one was kept for ten seconds.
#[test]
fn a_router_that_falls_silent_gives_way_to_another_of_the_same_route() {
    let lab = Lab::new("failover");
    let (near, far) = (lab.namespace("near"), lab.namespace("far"));
    ip(&format!(
        "-n {near} route add 192.0.2.0/24 nexthop via 198.51.100.2 nexthop via 198.51.100.3"
    ));
    ip(&format!("-n {far} address add 198.51.100.3/24 dev far0"));
    ip(&format!(
        "netns exec {near} sysctl -qw net.ipv4.fib_multipath_use_neigh=1"
    ));
    run_near(&lab, async {
        let mut watcher = Watcher::new().unwrap();
        let resolver = Resolver::new().unwrap();
        let remotes: HashSet<IpAddr> = (1..=20)
            .map(|last| Ipv4Addr::new(192, 0, 2, last).into())
            .collect();
        let mut all_found = async |refresh| {
            loop {
                let hops = resolver.peer_hops(remotes.clone()).await.unwrap();
                let is_found = |hop: &Result<PeerHop, ResolveError>| {
                    hop.as_ref().is_ok_and(|hop| hop.destination_mac.is_some())
                };
                if hops.values().all(is_found) {
                    return;
                }
                let news = watcher.changed(refresh).await;
                resolver.forget(&news);
                resolver.ask_again(&news.interfaces);
            }
        };
        let hour = Duration::from_secs(3600);
        let found = tokio::time::timeout(Duration::from_secs(30), all_found(hour)).await;
        found.expect("both routers");
        ip(&format!("-n {far} address del 198.51.100.3/24 dev far0"));
        ip(&format!("-n {near} neigh flush to 198.51.100.3 dev near0"));
        resolver.forget(&News::default());
        let found = tokio::time::timeout(Duration::from_secs(30), all_found(hour)).await;
        found.expect("the other router, after news of neighbours alone");
    });
}

#[test]
fn news_are_not_lost_to_who_does_something_else_meanwhile() {
    let lab = Lab::new("news");
    let near = lab.namespace("near");
    run_near(&lab, async {
        let mut watcher = Watcher::new().unwrap();
        let hour = Duration::from_secs(3600);
        // It hears of a route, and is interrupted again and again before that has settled: five times, unless the machine stops.
        let mut interrupted = 0;
        for metric in 1..=50 {
            ip(&format!(
                "-n {near} route add 192.0.2.0/24 via 198.51.100.2 metric {metric}"
            ));
            interrupted = 0;
            let told = async {
                while tokio::time::timeout(SETTLE / 5, watcher.changed(hour))
                    .await
                    .is_err()
                {
                    interrupted += 1;
                }
            };
            let told = tokio::time::timeout(PATIENCE, told).await;
            told.expect("the news that it had heard");
            if interrupted >= 3 {
                break;
            }
        }
        assert!(interrupted >= 3, "it was never interrupted");

        // News that never end are told of.
        let mut first = 1;
        let mut longest = Duration::MAX;
        for _ in 0..50 {
            let routes = Routes::start(&near, first);
            let told = tokio::time::timeout(PATIENCE, watcher.changed(hour)).await;
            told.expect("told of");
            (first, longest) = routes.stop();
            if longest < SETTLE {
                break;
            }
        }
        assert!(longest < SETTLE, "the news ended for {longest:?}");
    });
}

/// How long news take to settle.
const SETTLE: Duration = Duration::from_millis(50);

/// Adds routes without end.
struct Routes {
    is_over: Arc<AtomicBool>,
    adding: JoinHandle<(u32, Duration)>,
}

impl Routes {
    fn start(namespace: &str, first_metric: u32) -> Self {
        let mut batch = Command::new("ip")
            .args(["-n", namespace, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = batch.stdin.take().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let mut add =
            move |metric: u32| writeln!(input, "route add 192.0.2.128/25 via 198.51.100.2 metric {metric}");
        add(first_metric).unwrap();
        let adding = std::thread::spawn(move || {
            let (mut metric, mut last, mut longest) = (first_metric, Instant::now(), Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
                metric += 1;
                add(metric).unwrap();
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            drop(add);
            assert!(batch.wait().unwrap().success());
            (metric + 1, longest)
        });
        Self { is_over, adding }
    }

    /// Answers the metric that comes next, and how long there was no news at most.
    fn stop(self) -> (u32, Duration) {
        self.is_over.store(true, Ordering::Relaxed);
        self.adding.join().unwrap()
    }
}
