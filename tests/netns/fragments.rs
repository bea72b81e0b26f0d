//! Fragments of both kinds through real tunnels: of packets inside, and of ESP and IKE outside. The routers fragment and
//! put together by their own kernels; what no kernel sends is put on the terminal's cable as it is.
//!
//! ```text
//!  terminal ---- router ==== gateway ---- center
//!      inner fragments  outer fragments   echo 10.100.0.10:5201
//! ```

use std::collections::HashSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use gateway_tests::echo::{Echo, Wire, data, exchange, is_echoed, is_silent, outside, socket};
use gateway_tests::frames::{Clear, End, Payload, fix_ipv4, fragments};
use gateway_tests::scene::Scene;
use gateway_tests::transfer::{Direction, Transfer};
use xtask::cmd;
use xtask::lab::center::fetch;
use xtask::lab::gateway::{BENCH_PORT, Config};
use xtask::lab::pki::Auth;
use xtask::lab::strongswan::{Connection, Release};
use xtask::lab::tap::Tap;
use xtask::lab::topology::{GATEWAY_WAN4, GATEWAY_WAN6, Options, SERVER, Site, TERMINAL};
use xtask::lab::{Lab, state};

/// Places where a datagram of [`LENGTH`] octets is cut.
const CUTS: [usize; 2] = [1024, 2048];
const LENGTH: usize = 3000;

fn ping(site: Site, octets: &str) -> Result<()> {
    let args = ["-c", "2", "-i", "0.2", "-W", "3", "-s", octets, SERVER];
    cmd::output(site.terminal().command("ping").args(args)).map(drop)
}

#[test]
fn pings_of_4000_octets_are_answered() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        ping(site, "4000").with_context(|| format!("{}; {:?}", site.name(), scene.gateway.drops()))?;
    }
    Ok(())
}

#[test]
fn large_datagrams_pass_both_ways() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let echo = Echo::start()?;
    for site in Site::BOTH {
        let socket = socket(site, SERVER, BENCH_PORT)?;
        for length in [1300, 1500, 8000, 40_000] {
            exchange(&socket, length)
                .with_context(|| format!("{}; {:?}", site.name(), scene.gateway.drops()))?;
        }
    }
    ensure!(echo.received() == 8, "{} datagrams", echo.received());
    Ok(())
}

fn octets(address: &str) -> Result<[u8; 4]> {
    Ok(address.parse::<Ipv4Addr>()?.octets())
}

/// The fragments of a datagram.
fn fragmented(from: End, to: End, identification: u16, data: &[u8]) -> Vec<Vec<u8>> {
    let mut datagram = Clear::udp(from, to).fragmentable();
    datagram.payload = Payload::Udp {
        checksum: true,
        data: data.to_vec(),
    };
    let mut packet = datagram.packet();
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    fragments(&packet, &CUTS)
}

/// The fragments of a datagram that the terminal's socket could have sent.
fn pieces(socket: &UdpSocket, identification: u16, sent: &[u8]) -> Result<Vec<Vec<u8>>> {
    let from = (octets(TERMINAL)?, socket.local_addr()?.port());
    Ok(fragmented(
        from,
        (octets(SERVER)?, BENCH_PORT),
        identification,
        sent,
    ))
}

/// The same piece, eight octets further to the front.
fn moved(piece: &[u8]) -> Vec<u8> {
    let mut piece = piece.to_vec();
    let place = u16::from_be_bytes([piece[6], piece[7]]) - 1;
    piece[6..8].copy_from_slice(&place.to_be_bytes());
    fix_ipv4(&mut piece);
    piece
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn inner_fragments_may_come_in_any_order() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let echo = Echo::start()?;
    for site in Site::BOTH {
        let (wire, socket) = (Wire::of_terminal(site)?, socket(site, SERVER, BENCH_PORT)?);
        let sent = data(LENGTH);
        for (identification, order) in (1..).zip(ORDERS) {
            let pieces = pieces(&socket, identification, &sent)?;
            for index in order {
                wire.send(&pieces[index])?;
            }
            is_echoed(&socket, &sent)
                .with_context(|| format!("{} {order:?}; {:?}", site.name(), scene.gateway.drops()))?;
        }
    }
    ensure!(echo.received() == 12, "{} datagrams", echo.received());
    Ok(())
}

/// RFC 5722, RFC 3128: no packet is made of two that overlap, and what is under way is refused as well.
#[test]
fn inner_fragments_that_overlap_are_dropped_with_all_of_their_packet() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let echo = Echo::start()?;
    for site in Site::BOTH {
        let (wire, socket) = (Wire::of_terminal(site)?, socket(site, SERVER, BENCH_PORT)?);
        let sent = data(LENGTH);
        let good = pieces(&socket, 100, &sent)?;
        let before = scene.dropped("fragment_malformed")?;
        for piece in [&good[0], &moved(&good[1]), &good[1], &good[2]] {
            wire.send(piece)?;
        }
        scene.expect_dropped("fragment_malformed", before, 4)?;
        // The next packet is not touched by it.
        exchange(&socket, LENGTH)?;
        ensure!(is_silent(&socket)?);
    }
    ensure!(echo.received() == 2, "{} datagrams", echo.received());
    Ok(())
}

#[test]
fn fragments_of_the_center_may_come_in_any_order_and_must_not_overlap() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let _echo = Echo::start()?;
    let server = (octets(SERVER)?, BENCH_PORT);
    for site in Site::BOTH {
        let (wire, socket) = (Wire::of_center()?, socket(site, SERVER, BENCH_PORT)?);
        let outside = outside(&wire, &socket)?;
        let sent = data(LENGTH);
        for (identification, order) in (1..).zip(ORDERS) {
            let pieces = fragmented(server, outside, identification, &sent);
            for index in order {
                wire.send(&pieces[index])?;
            }
            is_echoed(&socket, &sent)
                .with_context(|| format!("{} {order:?}; {:?}", site.name(), scene.gateway.drops()))?;
        }
        let bad = fragmented(server, outside, 100, &sent);
        let before = scene.dropped("fragment_malformed")?;
        for piece in [&bad[2], &moved(&bad[2]), &bad[0], &bad[1]] {
            wire.send(piece)?;
        }
        scene.expect_dropped("fragment_malformed", before, 4)?;
        exchange(&socket, LENGTH)?;
        ensure!(is_silent(&socket)?);
    }
    Ok(())
}

#[test]
fn inner_fragments_do_not_wait_for_ever() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let echo = Echo::start()?;
    let (wire, socket) = (
        Wire::of_terminal(Site::One)?,
        socket(Site::One, SERVER, BENCH_PORT)?,
    );
    let pieces = pieces(&socket, 7, &data(LENGTH))?;
    let before = scene.dropped("fragment_timeout")?;
    for piece in &pieces[..2] {
        wire.send(piece)?;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while scene.dropped("fragment_timeout")? < before + 2 {
        ensure!(Instant::now() < deadline, "{:?}", scene.gateway.drops()?);
        sleep(Duration::from_millis(200));
    }
    // Alone it is no packet.
    wire.send(&pieces[2])?;
    exchange(&socket, LENGTH)?;
    ensure!(echo.received() == 1, "{} datagrams", echo.received());
    Ok(())
}

/// A site has so many packets in fragments on their way, and takes no other's room.
#[test]
fn a_site_that_sends_halves_only_does_not_touch_another() -> Result<()> {
    const OF_ONE_SITE: u64 = 256;
    const MORE: u64 = 44;
    let scene = Scene::with_tunnels()?;
    let _echo = Echo::start()?;
    let (wire, flooding) = (
        Wire::of_terminal(Site::One)?,
        socket(Site::One, SERVER, BENCH_PORT)?,
    );
    let before = scene.dropped("fragment_limit")?;
    for identification in 0..OF_ONE_SITE + MORE {
        let pieces = pieces(&flooding, identification as u16, &data(LENGTH))?;
        wire.send(&pieces[1])?;
        // The router encrypts one packet after the other; its queue is not what is tested.
        if identification % 32 == 0 {
            sleep(Duration::from_millis(20));
        }
    }
    scene.expect_dropped("fragment_limit", before, MORE)?;
    ping(Site::Two, "4000")?;
    exchange(&socket(Site::Two, SERVER, BENCH_PORT)?, 8000)?;
    // What comes whole is not touched by it at all.
    fetch(Site::One.terminal(), "/whoami")?;
    Ok(())
}

/// Octets that a router's line to the gateway carries.
const NARROW: &str = "1280";

/// From now on the router's kernel sends to the gateway in fragments what is longer.
fn narrow(site: Site) -> Result<()> {
    let (family, gateway) = match site {
        Site::One => ("-4", format!("{GATEWAY_WAN4}/32")),
        Site::Two => ("-6", format!("{GATEWAY_WAN6}/128")),
    };
    let route = ["route", "add", &gateway, "dev", "wan", "mtu", "lock", NARROW];
    cmd::output(site.router().command("ip").arg(family).args(route)).map(drop)
}

/// Fragments of the router's own among frames: those of UDP by the port of their first one, or of ESP.
fn outer_fragments(tap: &Tap) -> Result<usize> {
    let own = tap.address();
    let is_fragment = |frame: &Vec<u8>| match frame.get(12..14) {
        Some([8, 0]) => frame[20] & 0x3f != 0 || frame[21] != 0,
        Some([0x86, 0xdd]) => frame[20] == 44,
        _ => false,
    };
    let frames = tap.frames()?.into_iter();
    Ok(frames
        .filter(|frame| frame.get(6..12) == Some(&own) && is_fragment(frame))
        .count())
}

#[test]
fn esp_in_outer_fragments_arrives_over_ipv4_and_ipv6() -> Result<()> {
    for release in Release::BOTH {
        let options = Options {
            release,
            ..Options::default()
        };
        let scene = Scene::without_tunnels(options, &Config::usual(Auth::Rsa))?;
        let echo = Echo::start()?;
        for site in Site::BOTH {
            let context = || format!("{release:?} {}; {:?}", site.name(), scene.gateway.drops());
            let in_udp = scene.router(site).initiate().with_context(context)?.in_udp;
            ensure!(
                in_udp == (release == Release::Debian12),
                "ESP in UDP, or not: {}",
                context()
            );
            outer_fragments_arrive(site).with_context(context)?;
        }
        ensure!(echo.received() == 4, "{} datagrams", echo.received());
    }
    Ok(())
}

fn outer_fragments_arrive(site: Site) -> Result<()> {
    narrow(site)?;
    let tap = Tap::open(site.router(), "wan")?;
    let socket = socket(site, SERVER, BENCH_PORT)?;
    // An inner packet as long as the tunnel device takes it; then one that comes in fragments as well.
    for length in [1352, 8000] {
        exchange(&socket, length)?;
        let count = outer_fragments(&tap)?;
        ensure!(count >= 2, "{count} outer fragments of {length} octets");
    }
    Transfer::start(site.terminal(), Direction::Upload, None)?.finish()?;
    ensure!(outer_fragments(&tap)? > 10_000, "the upload came whole");
    Ok(())
}

/// A router that does not do RFC 7383, with a chain of certificates: its IKE_AUTH is longer than the line carries, and so is
/// the answer.
#[test]
fn ike_in_ip_fragments_sets_the_tunnel_up_over_ipv4_and_ipv6() -> Result<()> {
    let lab = Lab::up(Options::default())?;
    let config = Config {
        intermediate: true,
        ..Config::usual(Auth::Rsa)
    };
    let gateway = lab.start_gateway(&config)?;
    for site in Site::BOTH {
        let connection = Connection {
            authority: Auth::Rsa.intermediate(),
            fragmentation: "no",
            ..Connection::of_site(site, Auth::Rsa, lab.options())
        };
        let router = lab.start_site_with(site, &connection)?;
        let tap = Tap::open(site.router(), "wan")?;
        let log = || {
            format!(
                "{}: {:?}; the router's log:\n{}\nthe gateway's:\n{}",
                site.name(),
                gateway.drops(),
                router.log(),
                gateway.log()
            )
        };
        router.initiate().with_context(log)?;
        ensure!(outer_fragments(&tap)? >= 2, "no fragments: {}", log());
        fetch(site.terminal(), "/whoami").with_context(log)?;
        router.rekey_child().with_context(log)?;
        ping(site, "4000").with_context(log)?;
    }
    // No message was taken for another's.
    let counted: HashSet<String> = gateway.drops()?.into_keys().collect();
    ensure!(
        !counted
            .iter()
            .any(|reason| reason.starts_with("fragment_") || reason == "ike_malformed"),
        "{:?}; {}",
        gateway.drops()?,
        state::path("gateway.log").display()
    );
    Ok(())
}
