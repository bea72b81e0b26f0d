//! The data plane in network namespaces, with static SAs and this test as the peer. Needs root.
//!
//! ```text
//!  dph-site-PID               dph-gw-PID                              dph-srv-PID
//!  peer0 198.51.100.2 ------- wan0 198.51.100.1   core0 203.0.113.1 ------- srv0 203.0.113.10
//!  (ESP by this test)         (gateway, two queues on each side)            (UDP echo)
//! ```
//!
//! The gateway runs as a process of its own, which is this test program again (see `gateway_process`), so that it can
//! be killed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use gateway::core::classifier::{self, Condition};
use gateway::dataplane::{
    Dataplane, DataplaneConfig, DataplaneEvent, Direction, Engine, HoldDown, InterfaceConfig, Published,
    Role, SaHandle, SaInstall, TableSizes, monotonic_s,
};
use gateway_common::abi::event::kind;
use gateway_common::abi::interface::{STATES, Settings};
use gateway_common::abi::nat::{InsideKey, OutsideKey};
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::rule::{Rule, action, direction};
use gateway_common::abi::site::{Block, Site};
use gateway_esp::{
    InboundConfig, InboundSa, KeyMaterial, LinkHeader, Opened, OutboundConfig, OutboundSa, OuterDf,
    Selectors, Suite, TrafficSelector, Tunnel,
};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

mod kernel;
mod lab;
mod peer;
mod process;

use lab::*;
use peer::*;
use process::*;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const TERMINAL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const ECHO_PORT: u16 = 7777;
const REJECTED_PORT: u16 = 7778;
const SITES: u32 = 2;
/// In place of a site, for SPIs and keys of a further SA of the first one.
const FURTHER: u32 = SITES + 1;
/// Port of each terminal that the server may reach.
const PUBLISHED_PORT: u16 = 161;
const SUITE: Suite = Suite::AesGcm16_256;
const ESP: i32 = 50;
const OUTER_LEN: usize = 14 + 20;
/// Set in the gateway's process: the directory that its namespaces' MACs and pins are in.
const GATEWAY_DIRECTORY: &str = "GATEWAY_TEST_DIRECTORY";
/// Set in the gateway's process: sites share an address.
const SHARED: &str = "GATEWAY_TEST_SHARED";

fn nat_address(site: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, site as u8)
}

/// The address that sites share in a gateway with [`SHARED`], each by a block of ports.
const SHARED_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 99);

fn port_block(site: u32) -> Block {
    let first = 2048 * site as u16;
    Block {
        address: SHARED_ADDRESS.octets(),
        first,
        last: first + 2047,
    }
}

fn spi_to_gateway(site: u32) -> u32 {
    0x1000 + site
}

fn spi_to_site(site: u32) -> u32 {
    0x2000 + site
}

fn keys(seed: u32) -> KeyMaterial {
    KeyMaterial::new(&vec![seed as u8; SUITE.encryption_key_len()], &[])
}

/// The gateway's process. Run alone it does nothing: it is started by the other tests of this file.
#[test]
fn gateway_process() {
    let Ok(directory) = std::env::var(GATEWAY_DIRECTORY) else {
        return;
    };
    let directory = PathBuf::from(directory);
    let dataplane = Dataplane::start(&config(&directory)).unwrap_or_else(|error| panic!("{error}"));
    let sas = configure(&dataplane, &directory);
    let mut further = Vec::new();
    println!("\nREADY {:?}", dataplane.attached());
    for line in std::io::stdin().lock().lines() {
        match line.unwrap().as_str() {
            "stats" => println!("\nSTATS {}", stats(&dataplane)),
            "share" => {
                further.push(
                    dataplane
                        .install_sa(further_sa(&directory, vec![sas[0]]))
                        .unwrap(),
                );
                println!("\nSHARED");
            }
            "unshare" => {
                let handle = further.pop().unwrap();
                for half in [Direction::Outbound, Direction::Inbound] {
                    dataplane.remove_sa(handle, half).unwrap();
                }
                println!("\nUNSHARED");
            }
            "succeed" => {
                dataplane.install_sa(further_sa(&directory, Vec::new())).unwrap();
                // Its way changes while what is under way still comes by it.
                let (name, tunnel) = ("wan0", tunnel(&sa(1, &directory), 1400));
                dataplane.update_path(sas[0], name, tunnel).unwrap();
                println!("\nSUCCEEDED");
            }
            "remove" => println!("\nREMOVED {}", remove(&dataplane, &sas)),
            "another" => {
                let installed = dataplane.install_sa(another_sa(&directory));
                println!(
                    "\nANOTHER {}",
                    installed.map_or_else(|error| error.to_string(), |_| "made".to_owned())
                );
            }
            "fill" => println!("\nFILLED {}", kernel::fill_routes()),
            "entries" => println!("\nENTRIES {}", kernel::entries(&[1, 2, FURTHER])),
            "widen" => {
                let refused = dataplane.install_sa(wide_sa(&directory));
                println!("\nWIDENED {}", refused.unwrap_err());
            }
            "follow" => println!("\nFOLLOWED {}", follow_path(&dataplane, &directory)),
            other if other.starts_with("freeze ") => {
                other.split(' ').skip(1).for_each(kernel::freeze);
                println!("\nFROZEN");
            }
            other => {
                let later_s: u32 = other.strip_prefix("expire ").unwrap().parse().unwrap();
                let counts = dataplane.expire(monotonic_s() as u32 + later_s).unwrap();
                println!("\nEXPIRED {counts:?}");
            }
        }
    }
    dataplane.stop();
}

/// Whether this is the gateway's process, which runs `gateway_process` alone.
fn is_gateway() -> bool {
    std::env::var(GATEWAY_DIRECTORY).is_ok()
}

#[test]
fn a_datagram_goes_out_translated_and_its_answer_comes_back() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let mut peers: Vec<_> = (1..=SITES).map(|site| (site, Peer::new(&lab, site))).collect();
    for (site, peer) in &mut peers {
        for source_port in 5000..5020 {
            let answer = peer.echo(source_port, "hello");
            let stats = gateway.stats();
            let answer =
                answer.unwrap_or_else(|| panic!("site {site}, port {source_port}: no answer; {stats}"));
            assert!(answer.starts_with(&nat_address(*site).to_string()), "{answer}");
            assert!(answer.ends_with("hello"), "{answer}");
        }
    }
    let stats = gateway.stats();
    println!("{stats}");
    assert!(stats.contains("flows=40"), "{stats}");
    assert!(
        !stats.contains("handed=0 "),
        "both workers own an SA, one queue gets the packets: {stats}"
    );
    gateway.stop();
}

/// Regression: a second gateway in a network namespace made its clear link in place of the first one's, and one of the same
/// name swapped its programs into the first one's pinned links. Every packet of the first one was lost.
#[test]
fn a_second_gateway_takes_nothing_from_the_first() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    assert!(peer.echo(5000, "hello").is_some());
    let usual = config(&lab.directory());
    let elsewhere = usual.bpffs_dir.join("second");
    let same_name = DataplaneConfig {
        clear_link_prefix: "dphsec".to_owned(),
        ..usual.clone()
    };
    let same_namespace = DataplaneConfig {
        bpffs_dir: elsewhere,
        ..usual
    };
    for (config, says) in [
        (same_name, "give each a name of its own"),
        (same_namespace, "run each in a network namespace of its own"),
    ] {
        let refused = lab.within("gw", || Dataplane::start(&config).map(Dataplane::stop));
        let refused = refused.expect_err(says).to_string();
        assert!(
            refused.contains("another gateway") && refused.contains(says),
            "{refused}"
        );
    }
    let answer = peer.echo(5001, "hello");
    assert!(answer.is_some(), "the first one forwards no more");
    // What a killed one leaves is free.
    gateway.kill();
    let gateway = lab.start_gateway();
    assert!(Peer::new(&lab, 1).echo(5002, "hello").is_some());
    gateway.stop();
}

/// Two sites with the same inner address and the same source ports behind one address: each gets its own answers.
#[test]
fn sites_that_share_an_address_get_their_own_answers() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let (mut gateway, _) = lab.start_gateway_with(&[(SHARED, "1")]);
    let mut peers: Vec<_> = (1..=SITES).map(|site| (site, Peer::new(&lab, site))).collect();
    for source_port in 2040..2060 {
        for (site, peer) in &mut peers {
            let hello = format!("hello of {site}");
            let answer = peer.echo(source_port, &hello);
            let answer = answer.unwrap_or_else(|| panic!("site {site}: no answer; {}", gateway.stats()));
            assert!(answer.ends_with(&hello), "{answer}");
            // As the server saw it: "ADDRESS:PORT ...".
            let seen = answer.split(' ').next().unwrap_or_default();
            let seen: std::net::SocketAddrV4 = seen.parse().unwrap_or_else(|_| panic!("{answer}"));
            let block = port_block(*site);
            assert_eq!(*seen.ip(), SHARED_ADDRESS);
            assert!(
                (block.first..=block.last).contains(&seen.port()),
                "site {site}: {seen}"
            );
        }
    }
    let stats = gateway.stats();
    assert!(stats.contains("flows=40"), "{stats}");
    gateway.stop();
}

/// RFC 9611: of two SAs with the same traffic each worker sends on its own, so that no answer changes hands.
#[test]
fn a_worker_sends_on_its_own_of_several_sas() {
    const FLOWS: u16 = 60;
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    gateway.ask("share", "SHARED");
    let (mut peer, mut further) = (Peer::new(&lab, 1), Peer::new(&lab, FURTHER));
    // Adds what each receives until it has been silent for so long.
    let count = |peers: &mut [&mut Peer; 2], counts: &mut [usize; 2], silence| {
        for (peer, count) in peers.iter_mut().zip(counts) {
            let answers = std::iter::from_fn(|| peer.receive(silence));
            *count += answers.take(usize::from(2 * FLOWS)).count();
        }
    };
    let mut answers = |first_port: u16| {
        for source_port in first_port..first_port + FLOWS {
            let esp = peer.seal(source_port, b"hello");
            peer.send(&esp);
            thread::sleep(Duration::from_millis(1));
        }
        let mut counts = [0; 2];
        let until = Instant::now() + Duration::from_secs(10);
        // Until all are there; then, whether there are more.
        while counts.iter().sum::<usize>() < usize::from(FLOWS) && Instant::now() < until {
            count(
                &mut [&mut peer, &mut further],
                &mut counts,
                Duration::from_millis(50),
            );
        }
        count(
            &mut [&mut peer, &mut further],
            &mut counts,
            Duration::from_millis(300),
        );
        counts
    };
    let [one, other] = answers(5000);
    let stats = gateway.stats();
    assert!(one > 0 && other > 0, "{one} and {other}: {stats}");
    assert_eq!(one + other, usize::from(FLOWS), "{stats}");
    // ESP comes by one queue, whose worker has the SA or does not; answers come by both.
    assert!(
        stats.contains("handed=0 ") || stats.contains(&format!("handed={FLOWS} ")),
        "{stats}"
    );
    gateway.ask("unshare", "UNSHARED");
    assert_eq!(answers(6000), [usize::from(FLOWS), 0], "{}", gateway.stats());
    gateway.stop();
}

/// The way of an SA whose successor is sent on already changes: packets stay with the successor.
#[test]
fn a_new_way_of_an_sa_does_not_take_traffic_back_from_its_successor() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let (mut peer, mut successor) = (Peer::new(&lab, 1), Peer::new(&lab, FURTHER));
    assert!(peer.echo(5000, "hello").is_some(), "{}", gateway.stats());
    gateway.ask("succeed", "SUCCEEDED");
    for source_port in 5000..5010 {
        let esp = peer.seal(source_port, b"hello");
        peer.send(&esp);
        let answer = successor.receive(Duration::from_secs(2));
        assert!(answer.is_some(), "port {source_port}: {}", gateway.stats());
    }
    assert_eq!(peer.receive(Duration::from_millis(300)), None);
    gateway.stop();
}

/// Ranges of addresses are many prefixes: a site may not fill the maps of all, and its own traffic goes on.
#[test]
fn a_site_that_names_too_many_networks_is_refused_and_keeps_what_it_has() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let refused = gateway.ask("widen", "WIDENED");
    assert!(refused.contains("site 1 would have"), "{refused}");
    for site in 1..=SITES {
        let mut peer = Peer::new(&lab, site);
        assert!(peer.echo(5000, "hello").is_some(), "{}", gateway.stats());
    }
    gateway.stop();
}

/// The map of ways to networks is full: an SA that needs one more is refused whole, and those that are there work on.
#[test]
fn of_an_sa_whose_way_finds_no_room_nothing_is_left() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let before = gateway.ask("entries", "ENTRIES");
    assert_eq!(before.trim(), "ENTRIES inbound=2 paths=2 routes=2");
    gateway.ask("fill", "FILLED");
    let refused = gateway.ask("another", "ANOTHER");
    assert!(refused.contains("SA_ROUTES"), "{refused}");
    assert_eq!(gateway.ask("entries", "ENTRIES"), before);
    assert_eq!(
        gateway.stats().matches("unauthentic").count(),
        2,
        "no slot is taken"
    );
    for site in 1..=SITES {
        let mut peer = Peer::new(&lab, site);
        assert!(peer.echo(5000, "hello").is_some(), "{}", gateway.stats());
    }
    gateway.stop();
}

/// The kernel refuses to change one map: what can be removed of an SA goes all the same, with its keys, and it is told
/// what did not. Asked again, it is tried again.
///
/// Regression: the ways to a site stayed when the path of ICMP errors could not be taken out; other workers went on to
/// hand its packets over when `wan` could not be told; and a second attempt freed the slot that a way led to still.
#[test]
fn a_map_that_refuses_keeps_nothing_else_of_an_sa() {
    if is_gateway() {
        return;
    }
    // What is frozen, the first of which is told, and what is left in the maps.
    for (frozen, left) in [
        ("SA_ROUTES", "inbound=0 paths=0 routes=2"),
        ("SA_PATHS", "inbound=0 paths=2 routes=0"),
        ("SA_INBOUND", "inbound=2 paths=0 routes=0"),
        ("SA_INBOUND SA_PATHS SA_ROUTES", "inbound=2 paths=2 routes=2"),
    ] {
        let lab = Lab::new();
        lab.serve_echo();
        let mut gateway = lab.start_gateway();
        let mut peers: Vec<_> = (1..=SITES).map(|site| Peer::new(&lab, site)).collect();
        for peer in &mut peers {
            assert!(peer.echo(5000, "hello").is_some(), "{}", gateway.stats());
        }
        gateway.ask(&format!("freeze {frozen}"), "FROZEN");
        let handed = |gateway: &mut Gateway| gateway.stats().split_once(" flows").unwrap().0.to_owned();
        let handed_before = handed(&mut gateway);
        for attempt in 0..2 {
            let errors = gateway.ask("remove", "REMOVED");
            let told = format!("map {}:", frozen.split(' ').next().unwrap());
            assert_eq!(errors.matches(&told).count(), 2, "{frozen}, {attempt}: {errors}");
            assert_eq!(
                gateway.ask("entries", "ENTRIES").trim(),
                format!("ENTRIES {left}"),
                "{frozen}, {attempt}"
            );
        }
        // Nobody has the keys any more, whoever is still led there.
        let caller = lab.within("srv", || UdpSocket::bind((SERVER, 50_000)).unwrap());
        for (site, peer) in (1..).zip(&mut peers) {
            let esp = peer.seal(5000, b"hello");
            peer.send(&esp);
            caller.send_to(b"hello", published_at(site)).unwrap();
            assert_eq!(peer.receive_packet(Duration::from_millis(300)), None, "{frozen}");
        }
        let stats = gateway.stats();
        assert_eq!(handed(&mut gateway), handed_before, "{frozen}: {stats}");
        // What something may lead to is not another's.
        assert_eq!(stats.matches("in=1 out=1").count(), 2, "{frozen}: {stats}");
        let another = gateway.ask("another", "ANOTHER");
        assert!(another.contains(frozen.split(' ').next().unwrap()), "{another}");
        assert_eq!(gateway.stats().matches("unauthentic").count(), 2, "{frozen}");
        gateway.stop();
    }
}

/// The way back from `clear` over the workers' sockets on the clear link, for the SAs of both workers.
#[test]
fn a_rejected_datagram_is_answered_through_the_tunnel() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    let mut gateway = lab.start_gateway();
    for site in 1..=SITES {
        let mut peer = Peer::new(&lab, site);
        for source_port in 5000..5010 {
            let packet = udp(source_port, REJECTED_PORT, b"hello");
            let esp = peer.seal_packet(&packet);
            peer.send(&esp);
            let answer = peer
                .receive_packet(Duration::from_secs(2))
                .unwrap_or_else(|| panic!("site {site}, port {source_port}: {}", gateway.stats()));
            assert_eq!(answer[12..16], SERVER.octets(), "source");
            assert_eq!(answer[16..20], TERMINAL.octets(), "destination");
            assert_eq!(answer[20..22], [3, 13], "administratively prohibited");
            assert_eq!(answer[28..36], packet[..8], "quotes the packet");
            assert_eq!(internet_checksum(&answer[20..]), 0);
        }
    }
    let stats = gateway.stats();
    assert!(
        stats.contains("rule_rejected=20") && stats.contains("flows=0"),
        "{stats}"
    );
    gateway.stop();
}

/// RFC 4301 section 8.2: a router of the path says that it carries less, and the SA's packets fit from then on. What is
/// forged without the SPI changes nothing.
#[test]
fn a_tunnel_follows_what_a_router_of_its_path_says() {
    const MTU: u16 = 700;
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    // The server's answers may be fragmented.
    let server = lab.namespace("srv");
    sh(&format!(
        "ip netns exec {server} sysctl -qw net.ipv4.ip_no_pmtu_disc=1"
    ));
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    let long = "x".repeat(1000);
    assert!(peer.echo(5000, &long).is_some(), "{}", gateway.stats());
    gateway.ask("follow", "FOLLOWED");

    let icmp = lab.within("site", || {
        Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap()
    });
    let say = |spi: u32, mtu: u16| {
        let to = SockAddr::from(SocketAddrV4::new(GATEWAY, 0));
        icmp.send_to(&too_big(spi, mtu), &to).unwrap();
    };
    say(spi_to_site(1) + 0x100, MTU);
    say(spi_to_site(1), 575);
    say(spi_to_site(1), 1500);
    say(spi_to_site(1), MTU);
    let until = Instant::now() + Duration::from_secs(3);
    let mut followed = String::new();
    while !followed.contains("700") {
        assert!(Instant::now() < until, "{followed}: {}", gateway.stats());
        followed = gateway.ask("follow", "FOLLOWED");
    }
    let stats = gateway.stats();
    assert!(stats.contains("path_mtu=1 path_mtu_refused=3"), "{stats}");

    let esp = peer.seal(5000, long.as_bytes());
    peer.send(&esp);
    let mut payload = 0;
    while payload < 1000 {
        let piece = peer.receive_packet(Duration::from_secs(2));
        let piece = piece.unwrap_or_else(|| panic!("{payload} octets; {}", gateway.stats()));
        assert!(piece.len() < usize::from(MTU), "{} octets", piece.len());
        payload += piece.len() - 20;
    }
    gateway.stop();
}

/// "Fragmentation needed" about ESP from the gateway to the peer (RFC 1191).
fn too_big(spi: u32, mtu: u16) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend([0x45, 0, 5, 0, 0, 0, 0x40, 0, 64, ESP as u8, 0, 0]);
    message.extend(GATEWAY.octets());
    message.extend(PEER.octets());
    message.extend(spi.to_be_bytes());
    message.extend([0, 0, 0, 1]);
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

#[test]
fn a_killed_gateway_lets_nothing_pass_and_its_successor_takes_over() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    assert!(peer.echo(6000, "before").is_some());
    gateway.kill();
    assert_eq!(lab.programs_attached(), 3, "wan, core and clear stay attached");
    assert_eq!(peer.echo(6000, "during"), None);
    let clear = lab.within("site", || {
        let socket = UdpSocket::bind((PEER, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        sh(&format!(
            "ip -n {} route add {SERVER} via {GATEWAY}",
            lab.namespace("site")
        ));
        socket.send_to(b"in the clear", (SERVER, ECHO_PORT)).unwrap();
        socket.recv(&mut [0; 64]).is_ok()
    });
    assert!(!clear, "the kernel must not forward");
    let successor = lab.start_gateway();
    assert_eq!(lab.programs_attached(), 3);
    // The successor has the same static SAs and knows nothing of the sequence numbers used, so the peer goes on.
    let mut fresh = Peer::new(&lab, 1);
    assert!(fresh.echo(6001, "after").is_some());
    successor.stop();
    assert_eq!(lab.programs_attached(), 0, "a clean stop detaches");
    let forwarding = sh(&format!(
        "ip netns exec {} cat /proc/sys/net/ipv4/conf/wan0/forwarding /proc/sys/net/ipv4/conf/core0/forwarding",
        lab.namespace("gw")
    ));
    assert_eq!(forwarding, "0\n0\n");
}

#[test]
fn forged_replayed_and_unknown_packets_are_dropped_and_counted() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    let esp = peer.seal(5000, b"once");
    peer.send(&esp);
    assert!(peer.receive(Duration::from_secs(2)).is_some());
    peer.send(&esp);
    let mut forged = peer.seal(5000, b"forged");
    *forged.last_mut().unwrap() ^= 1;
    peer.send(&forged);
    let mut unknown = peer.seal(5000, b"unknown");
    unknown[0] ^= 0x40;
    peer.send(&unknown);
    let counts = [
        "esp_replay=1",
        "esp_authentication=1",
        "unknown_spi=1",
        "in=1 out=1 unauthentic=1 replayed=1",
    ];
    let told = gateway.stats_with(&counts);
    assert!(told.contains("FirstInbound"), "{told}");
    assert_eq!(peer.receive(Duration::from_millis(300)), None);
    let stats = gateway.stats();
    for count in counts {
        assert!(stats.contains(count), "{count} no more: {stats}");
    }
    gateway.stop();
}

#[test]
fn an_answer_too_big_for_the_tunnel_comes_in_fragments() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    // The server fits 1500 octets to its link; the tunnel carries some 50 fewer, and DF is off.
    sh(&format!(
        "ip netns exec {} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_no_pmtu_disc'",
        lab.namespace("srv")
    ));
    // After the switch: sockets take it over when they are made.
    lab.serve_echo();
    let gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    let esp = peer.seal(5000, &[b'x'; 1405]);
    peer.send(&esp);
    // The answer repeats the payload behind the address it saw, and so exceeds the inner MTU of 1,438.
    let first = peer
        .receive_packet(Duration::from_secs(2))
        .expect("first fragment");
    let second = peer
        .receive_packet(Duration::from_secs(2))
        .expect("second fragment");
    assert_eq!(first[6] & 0x20, 0x20, "more fragments");
    assert_eq!(second[6] & 0x20, 0, "the last");
    let offset = usize::from(u16::from_be_bytes([second[6], second[7]]) & 0x1fff) * 8;
    assert_eq!(offset, first.len() - 20);
    let payload = [&first[28..], &second[20..]].concat();
    assert!(payload.ends_with(&[b'x'; 1405]));
    gateway.stop();
}

#[test]
fn expiry_empties_flows_and_mappings() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    let mut gateway = lab.start_gateway();
    let mut peer = Peer::new(&lab, 1);
    for source_port in 5000..5010 {
        assert!(peer.echo(source_port, "hello").is_some());
    }
    let expire = |gateway: &mut Gateway, later: &str| gateway.ask(later, "EXPIRED").trim().to_owned();
    assert_eq!(expire(&mut gateway, "expire 10000"), "EXPIRED (10, 0)");
    // Nobody else gets the ports for two minutes (RFC 6888 REQ-8).
    assert_eq!(expire(&mut gateway, "expire 10110"), "EXPIRED (0, 0)");
    assert_eq!(expire(&mut gateway, "expire 10122"), "EXPIRED (0, 10)");
    // What is published stays.
    assert!(gateway.stats().contains(&format!("flows=0 mappings={SITES}")));
    assert!(
        peer.echo(5000, "again").is_some(),
        "the port is free for a new flow"
    );
    gateway.stop();
}

#[test]
fn an_interface_that_cannot_run_xdp_natively_runs_it_generically() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    lab.serve_echo();
    // veth refuses native XDP where its peer may send frames larger than a page.
    for (node, interface) in [("gw", "wan0"), ("site", "peer0")] {
        sh(&format!(
            "ip -n {} link set {interface} mtu 9000",
            lab.namespace(node)
        ));
    }
    let (gateway, ready) = lab.start_gateway_in_any_mode();
    assert_eq!(
        (ready.matches("Generic").count(), ready.matches("Native").count()),
        (1, 1),
        "{ready}"
    );
    assert!(Peer::new(&lab, 1).echo(5000, "hello").is_some());
    gateway.stop();
}

/// The server calls both sites, which have the same address, and is answered by each; another host of the center is not let in.
#[test]
fn published_ports_are_reached_from_the_center() {
    if is_gateway() {
        return;
    }
    let lab = Lab::new();
    sh(&format!(
        "ip -n {} addr add 203.0.113.11/24 dev srv0",
        lab.namespace("srv")
    ));
    let mut gateway = lab.start_gateway();
    let mut peers: Vec<_> = (1..=SITES).map(|site| Peer::new(&lab, site)).collect();
    let caller = lab.within("srv", || UdpSocket::bind((SERVER, 50_000)).unwrap());
    caller.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    for (site, peer) in (1..).zip(&mut peers) {
        let question = format!("site {site}?");
        caller.send_to(question.as_bytes(), published_at(site)).unwrap();
        let packet = peer.receive_packet(Duration::from_secs(2)).expect("a call");
        assert_eq!(packet[12..16], SERVER.octets());
        assert_eq!(packet[16..20], TERMINAL.octets());
        assert_eq!(packet[22..24], PUBLISHED_PORT.to_be_bytes());
        assert!(packet.ends_with(question.as_bytes()));

        let answer = peer.seal_packet(&udp(PUBLISHED_PORT, 50_000, b"here"));
        peer.send(&answer);
        let mut buffer = [0; 64];
        let (len, from) = caller.recv_from(&mut buffer).expect("an answer");
        assert_eq!((&buffer[..len], from), (&b"here"[..], published_at(site).into()));
    }
    let stranger = lab.within("srv", || {
        UdpSocket::bind((Ipv4Addr::new(203, 0, 113, 11), 50_000)).unwrap()
    });
    stranger.send_to(b"let me in", published_at(1)).unwrap();
    gateway.stats_with(&["publication_source=1"]);
    assert!(peers[0].receive_packet(Duration::from_millis(300)).is_none());
    gateway.stop();
}
