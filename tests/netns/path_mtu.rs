//! What a tunnel carries in one packet: TCP is told by the MSS, all else by "fragmentation needed".

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use gateway_common::packet::tcp::flag::{ACK, SYN};
use gateway_tests::echo::{Echo, Wire, exchange, outside, socket};
use gateway_tests::frames::{Clear, checksums_are_valid};
use gateway_tests::scene::Scene;
use gateway_tests::transfer::{Direction, Transfer};
use xtask::lab::center::fetch;
use xtask::lab::gateway::{BENCH_PORT, Config};
use xtask::lab::pki::Auth;
use xtask::lab::topology::{Options, SERVER, SERVER_PORT, Site};

const WAIT: Duration = Duration::from_secs(5);
/// IPv4 and TCP headers without options.
const HEADERS: u16 = 40;

/// The largest inner packet of a tunnel with AES-GCM in UDP over lines of 1,500 octets (RFC 4303 section 2, RFC 4106
/// section 3): less UDP header, SPI, sequence number, IV and ICV, padded to four octets with the two of the trailer.
fn inner_mtu(site: Site) -> u16 {
    let outer_header = match site {
        Site::One => 20,
        Site::Two => 40,
    };
    (1500 - outer_header - 8 - 8 - 8 - 16) / 4 * 4 - 2
}

/// The MSS that a segment offers, if it is one of the eligibility server's connections and has these flags.
fn offered(frame: &[u8], flags: u8) -> Option<u16> {
    let packet = frame.get(14..).filter(|_| frame.get(12..14) == Some(&[8, 0]))?;
    let tcp = packet.get(20..).filter(|_| packet.get(9) == Some(&6))?;
    let port = SERVER_PORT.to_be_bytes();
    let of_server = tcp.get(..2) == Some(&port) || tcp.get(2..4) == Some(&port);
    let wanted = of_server && tcp.get(13).is_some_and(|have| have & (SYN | ACK) == flags);
    let mut options = tcp
        .get(20..usize::from(*tcp.get(12)? >> 4) * 4)
        .filter(|_| wanted)?;
    while let [kind, rest @ ..] = options {
        match (kind, rest) {
            (2, [4, high, low, ..]) => return Some(u16::from_be_bytes([*high, *low])),
            (0, _) => return None,
            (1, _) => options = rest,
            (_, [length, ..]) => options = options.get(usize::from(*length).max(2)..)?,
            (_, []) => return None,
        }
    }
    None
}

/// RFC 9293 section 3.7.1: what SYN and SYN+ACK offer beyond the tunnel's MTU is lowered to it, with a right checksum.
#[test]
fn syn_and_syn_ack_offer_what_the_tunnel_carries() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        let (center, terminal) = (Wire::of_center()?, Wire::of_terminal(site)?);
        fetch(site.terminal(), "/whoami")?;
        let (at_center, at_terminal) = (center.tap.frames()?, terminal.tap.frames()?);
        let find = |frames: &[Vec<u8>], flags| frames.iter().find_map(|frame| offered(frame, flags));
        ensure!(find(&at_terminal, SYN) == Some(1460), "what the terminal offers");
        ensure!(
            find(&at_center, SYN | ACK) == Some(1460),
            "what the server offers"
        );
        let expected = Some(inner_mtu(site) - HEADERS);
        let (syn, syn_ack) = (find(&at_center, SYN), find(&at_terminal, SYN | ACK));
        ensure!(syn == expected, "{}: SYN {syn:?}, not {expected:?}", site.name());
        ensure!(
            syn_ack == expected,
            "{}: SYN+ACK {syn_ack:?}, not {expected:?}",
            site.name()
        );
        let lowered = at_center.iter().find(|frame| offered(frame, SYN).is_some());
        ensure!(lowered.is_some_and(|frame| checksums_are_valid(&frame[14..])));
        for direction in Direction::BOTH {
            Transfer::start(site.terminal(), direction, None)?.finish()?;
        }
    }
    ensure!(scene.dropped("esp_too_big")? == 0, "{:?}", scene.gateway.drops()?);
    Ok(())
}

/// Without the MSS lowered, both ends find the MTU by ICMP alone (RFC 1191).
#[test]
fn tcp_finds_the_mtu_by_icmp_alone() -> Result<()> {
    let config = Config {
        tables: "[network]\nclamp_mss = false\n\n".to_owned(),
        ..Config::usual(Auth::Rsa)
    };
    let scene = Scene::without_tunnels(Options::default(), &config)?;
    for site in Site::BOTH {
        scene.router(site).initiate()?;
        let center = Wire::of_center()?;
        for direction in Direction::BOTH {
            Transfer::start(site.terminal(), direction, None)?
                .finish()
                .with_context(|| format!("{} {direction:?}", site.name()))?;
        }
        let frames = center.tap.frames()?;
        let syn = frames.iter().find_map(|frame| offered(frame, SYN));
        ensure!(syn == Some(1460), "{}: {syn:?} is lowered", site.name());
        ensure!(
            frames
                .iter()
                .any(|frame| next_mtu(&center, frame) == Some(inner_mtu(site))),
            "{}: the server was told nothing",
            site.name()
        );
    }
    Ok(())
}

/// The MTU in a "fragmentation needed" that the node received.
fn next_mtu(wire: &Wire, frame: &[u8]) -> Option<u16> {
    let packet = wire.received(frame)?;
    match packet.get(20..28)? {
        [3, 4, _, _, 0, 0, high, low] if packet.get(9) == Some(&1) => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// RFC 1191 section 4: one octet more than the tunnel carries is answered with what it carries; that much arrives.
#[test]
fn a_packet_too_big_for_the_tunnel_is_answered_with_its_mtu() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let _echo = Echo::start()?;
    for site in Site::BOTH {
        let socket = socket(site, SERVER, BENCH_PORT)?;
        let center = Wire::of_center()?;
        let outside = outside(&center, &socket)?;
        let server = (SERVER.parse::<Ipv4Addr>()?.octets(), BENCH_PORT);
        let of_length = |octets: u16| Clear::udp(server, outside).data(usize::from(octets) - 28);

        let too_big = of_length(inner_mtu(site) + 1).packet();
        center.send(&too_big)?;
        // What XDP_TX sends back to a veth end without a program waits there until something else wakes the end.
        exchange(&socket, 100)?;
        let answer = center
            .tap
            .wait_for(WAIT, |frame| next_mtu(&center, frame).is_some())?;
        let answer = answer.with_context(|| format!("no answer; {:?}", scene.gateway.drops()))?;
        ensure!(next_mtu(&center, &answer) == Some(inner_mtu(site)));
        ensure!(
            answer[42..62] == too_big[..20],
            "it quotes {:02x?}",
            &answer[42..62]
        );
        ensure!(checksums_are_valid(&answer[14..]));

        center.send(&of_length(inner_mtu(site)).packet())?;
        let mut datagram = [0; 2000];
        let length = socket.recv(&mut datagram)?;
        ensure!(length == usize::from(inner_mtu(site)) - 28, "{length} octets");
    }
    Ok(())
}
