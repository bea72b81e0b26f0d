//! ICMP errors through real tunnels: what the center answers to a site's packet reaches the socket that sent it. And errors
//! to the gateway itself, from whoever reaches its lines.
//!
//! ```text
//!  terminal ---- router ==== gateway ---- center ---- 10.101.0.99, behind a hop more
//!    TTL 3         2            1           0: "time exceeded"
//! ```

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gateway_tests::echo::{Echo, Wire, exchange, outside, socket};
use gateway_tests::frames::{Clear, checksums_are_valid, ethernet, ipv4};
use gateway_tests::scene::Scene;
use xtask::cmd;
use xtask::lab::center::fetch;
use xtask::lab::gateway::{BENCH_PORT, Config, rules};
use xtask::lab::pki::Auth;
use xtask::lab::tap::Tap;
use xtask::lab::topology::{GATEWAY_WAN4, Node, Options, SERVER, SERVER_SECOND, Site, TERMINAL};

/// A host behind the center, which is a router then.
const BEHIND: &str = "10.101.0.99";
const WAIT: Duration = Duration::from_secs(5);

/// A scene in which sites may reach [`BEHIND`] and another one there, and the center forwards to it.
fn scene() -> Result<Scene> {
    let config = Config {
        rules: format!(
            "{}\n[[rule]]\nname = \"behind\"\naction = \"allow\"\ndestination = [\"{BEHIND}\", \"{SERVER_SECOND}\"]\n\
             protocol = [\"udp\", \"icmp\"]\n",
            rules()
        ),
        ..Config::usual(Auth::Rsa)
    };
    let scene = Scene::without_tunnels(Options::default(), &config)?;
    Node::Center.enter(|| Ok(fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
    let route = ["route", "add", &format!("{BEHIND}/32"), "dev", "eth0"];
    cmd::output(Node::Center.command("ip").args(route))?;
    for site in Site::BOTH {
        scene.router(site).initiate()?;
    }
    Ok(scene)
}

fn octets(address: &str) -> Result<[u8; 4]> {
    Ok(address.parse::<Ipv4Addr>()?.octets())
}

/// The error that comes to a connected socket.
fn error_of(socket: &UdpSocket) -> Result<ErrorKind> {
    socket.send(b"hello")?;
    match socket.recv(&mut [0; 100]) {
        Ok(length) => anyhow::bail!("an answer of {length} octets"),
        Err(error) => Ok(error.kind()),
    }
}

#[test]
fn port_unreachable_of_the_center_reaches_the_terminals_socket() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        let socket = socket(site, SERVER, BENCH_PORT)?;
        let error = error_of(&socket)?;
        ensure!(
            error == ErrorKind::ConnectionRefused,
            "{}: {error:?}; {:?}",
            site.name(),
            scene.gateway.drops()
        );
        // It has ended nothing (RFC 5508 REQ-6): with somebody there, the same flow is answered.
        let _echo = Echo::start()?;
        exchange(&socket, 500)?;
    }
    Ok(())
}

/// RFC 5508 REQ-4: the error of a router in the center comes from that router, and quotes the terminal's packet as the
/// terminal sent it.
#[test]
fn time_exceeded_of_a_router_in_the_center_reaches_the_terminal() -> Result<()> {
    let scene = scene()?;
    for site in Site::BOTH {
        let (wire, socket) = (Wire::of_terminal(site)?, socket(site, BEHIND, 33_434)?);
        socket.set_ttl(3)?;
        socket.send(b"traceroute")?;
        let is_error = |frame: &[u8]| {
            wire.received(frame)
                .is_some_and(|packet| packet.get(9) == Some(&1) && packet.get(20) == Some(&11))
        };
        let frame = wire.tap.wait_for(WAIT, is_error)?;
        let drops = || format!("{}: {:?}", site.name(), scene.gateway.drops());
        let frame = frame.with_context(drops)?;
        let packet = wire.received(&frame).context("not for the terminal")?;
        ensure!(checksums_are_valid(packet), "{packet:02x?}");
        ensure!(packet[12..16] == octets(SERVER)?, "its sender is hidden");
        let quoted = &packet[28..];
        ensure!(quoted[12..16] == octets(TERMINAL)? && quoted[16..20] == octets(BEHIND)?);
        ensure!(quoted[20..22] == socket.local_addr()?.port().to_be_bytes());
        ensure!(quoted[22..24] == 33_434u16.to_be_bytes());

        // The same for ping, which looks for its own identifier in the quote.
        let args = ["-c", "1", "-W", "3", "-t", "3", BEHIND];
        let output = site.terminal().command("ping").args(args).output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        ensure!(
            printed.contains(&format!("From {SERVER}")) && printed.contains("Time to live exceeded"),
            "{}; {}",
            printed,
            drops()
        );
    }
    Ok(())
}

/// RFC 5508 REQ-5: the error of a terminal comes from the site's outside address, and quotes what the center sent.
#[test]
fn port_unreachable_of_a_terminal_reaches_the_center() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let _echo = Echo::start()?;
    let server = (octets(SERVER)?, BENCH_PORT);
    for site in Site::BOTH {
        let (center, socket) = (Wire::of_center()?, socket(site, SERVER, BENCH_PORT)?);
        let outside = outside(&center, &socket)?;
        drop(socket);
        let sent = Clear::udp(server, outside).packet();
        center.send(&sent)?;
        let is_error = |frame: &[u8]| {
            center
                .received(frame)
                .is_some_and(|packet| packet.get(9) == Some(&1) && packet.get(20..22) == Some(&[3, 3]))
        };
        let frame = center.tap.wait_for(WAIT, is_error)?;
        let frame = frame.with_context(|| format!("{}: {:?}", site.name(), scene.gateway.drops()))?;
        let packet = &frame[14..];
        ensure!(checksums_are_valid(packet), "{packet:02x?}");
        ensure!(packet[12..16] == outside.0, "another sender");
        let quoted = &packet[28..];
        ensure!(
            quoted[12..20] == sent[12..20] && quoted[20..28] == sent[20..28],
            "it quotes {quoted:02x?}"
        );
    }
    Ok(())
}

/// An error that quotes what nobody sent is dropped, and the tunnel goes on.
#[test]
fn errors_about_no_flow_are_counted() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let socket = socket(Site::One, SERVER, BENCH_PORT)?;
    let center = Wire::of_center()?;
    ensure!(error_of(&socket)? == ErrorKind::ConnectionRefused);
    let is_sent = |frame: &Vec<u8>| frame.get(23) == Some(&1) && frame.get(34..36) == Some(&[3, 3]);
    let frames = center.tap.frames()?;
    let error = frames
        .into_iter()
        .find(is_sent)
        .context("the error was not seen")?;
    // Another port than the flow's, with the checksums mended: one part more at one place, one less at another.
    let mut forged = error[14..].to_vec();
    forged[49] = forged[49].wrapping_add(1);
    let before = scene.dropped("icmp_error_unmatched")?;
    center.send(&with_checksum(forged))?;
    scene.expect_dropped("icmp_error_unmatched", before, 1)?;
    // Its checksum alone is wrong.
    let mut damaged = error[14..].to_vec();
    damaged[23] ^= 1;
    center.send(&damaged)?;
    scene.expect_dropped("icmp_error_unmatched", before, 2)?;
    fetch(Site::One.terminal(), "/whoami")?;
    Ok(())
}

/// Forged "fragmentation needed" about what IKE's socket might have sent to a server of the center.
fn about_ike(to: &str, mtu: u16) -> Result<Vec<u8>> {
    let [high, low] = mtu.to_be_bytes();
    let ike = [1, 244, 1, 244, 2, 0, 0, 0];
    let quote = ipv4(17, octets(GATEWAY_WAN4)?, octets(to)?, &ike);
    let icmp = [&[3, 4, 0, 0, 0, 0, high, low], &quote[..]].concat();
    Ok(with_checksum(ipv4(
        1,
        [203, 0, 113, 66],
        octets(GATEWAY_WAN4)?,
        &icmp,
    )))
}

/// Sends a datagram that fills a packet of this length; what came of the one before is not looked at.
fn send_packet_of(socket: &UdpSocket, length: usize) {
    let _refused = socket.send(&vec![0; length - 28]);
}

/// Regression: the kernel notes such an MTU for the server, which its sockets alone are concerned by, and lists it among its
/// routes. It became the next hop of all sites to the server: whoever reached the WAN interface narrowed it for ten minutes.
#[test]
fn a_forged_error_about_ike_narrows_no_sites_way_to_a_server() -> Result<()> {
    const FORGED: u16 = 600;
    const LENGTH: usize = 1200;
    let scene = scene()?;
    let line = Tap::open(Node::Site1, "wan")?;
    let wan = Tap::open(Node::Gateway, "wan4")?.address();
    let forged = about_ike(SERVER_SECOND, FORGED)?;
    line.send(&ethernet(wan, line.address(), 0x0800, &forged))?;
    let until = Instant::now() + WAIT;
    let learnt = || cmd::read(Node::Gateway.command("ip").args(["route", "get", SERVER_SECOND]));
    while !learnt()?.contains(&format!("mtu {FORGED}")) {
        ensure!(
            Instant::now() < until,
            "the kernel has learnt nothing: {}",
            learnt()?
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    // A route changes, so that all are read again; when this one is in use, they were.
    let narrow = format!("route add {BEHIND}/32 via {SERVER} mtu 1000");
    cmd::output(Node::Gateway.command("ip").args(narrow.split(' ')))?;
    let before = scene.dropped("next_hop_too_big")?;
    let until = Instant::now() + WAIT;
    let behind = socket(Site::One, BEHIND, 33_434)?;
    while scene.dropped("next_hop_too_big")? == before {
        ensure!(Instant::now() < until, "the new route is not used");
        send_packet_of(&behind, LENGTH);
        std::thread::sleep(Duration::from_millis(20));
    }
    for site in Site::BOTH {
        let center = Wire::of_center()?;
        let socket = socket(site, SERVER_SECOND, 33_434)?;
        send_packet_of(&socket, LENGTH);
        let server = octets(SERVER_SECOND)?;
        let is_whole = |frame: &[u8]| {
            let packet = center.received(frame);
            packet.is_some_and(|packet| packet.len() == LENGTH && packet.get(16..20) == Some(&server))
        };
        let arrived = center.tap.wait_for(WAIT, is_whole)?;
        ensure!(arrived.is_some(), "{}: {:?}", site.name(), scene.gateway.drops());
    }
    Ok(())
}

/// The ICMP message with its checksum.
fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    packet.truncate(length);
    packet[22..24].fill(0);
    let sum = gateway_tests::frames::checksum(&packet[20..]);
    packet[22..24].copy_from_slice(&sum);
    packet
}
