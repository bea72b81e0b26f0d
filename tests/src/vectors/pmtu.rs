//! Vectors of ICMP "too big" about our own ESP (RFC 1191, RFC 8201, RFC 4301 section 8.2).
//!
//! ```text
//! gateway ---- narrow router (HOP) ---- ROUTER, ROUTER6: SPI_OUT plain, SPI_OUT in UDP from 4500 to 61000
//! ```

use gateway_common::abi::event::{Event, kind};
use gateway_common::abi::sa::{SaPath, SaPathKey};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::*;
use gateway_common::tables::host::HostTables;

use super::world::{self, GATEWAY, GATEWAY6, MAC, MAC_HOP, ROUTER, ROUTER6, SA_INDEX, SITE, SITE_OTHER};
use super::{Expect, Program, Step, Vector};
use crate::frames::{checksum, ethernet, ipv4, ipv6, udp};

/// The SPI that the peer chose.
const SPI_OUT: [u8; 4] = [0xd0, 0, 0, 1];
/// That of another site's.
const SPI_OTHER: [u8; 4] = [0xd0, 0, 0, 2];
/// Routers on the way.
const HOP: [u8; 4] = [192, 0, 2, 200];
const HOP6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
/// What the paths are taken to carry.
const PATH_MTU: u32 = 1500;

fn wide([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn world(now_s: u32) -> HostTables {
    let mut tables = world::world(now_s);
    let path = |local, family| SaPath {
        local,
        sa_index: SA_INDEX,
        site: SITE,
        mtu: PATH_MTU,
        family,
        pad: [0; 3],
    };
    let mut add = |remote, ports: [u16; 2], path| {
        let [[l0, l1], [r0, r1]] = ports.map(u16::to_be_bytes);
        let key = SaPathKey {
            remote,
            spi: SPI_OUT,
            ports: [l0, l1, r0, r1],
        };
        tables.sa_paths.insert(key, path);
    };
    for ports in [[0, 0], [4500, 61000]] {
        add(wide(ROUTER), ports, path(wide(GATEWAY), 4));
        add(ROUTER6, ports, path(GATEWAY6, 6));
    }
    tables
}

fn esp() -> Vec<u8> {
    esp_of(SPI_OUT)
}

fn esp_of(spi: [u8; 4]) -> Vec<u8> {
    [&spi[..], &[0, 0, 0, 1], &[0xa5; 40]].concat()
}

fn in_udp() -> Vec<u8> {
    udp(4500, 61000, &esp())
}

/// "Fragmentation needed" of a router on the way, to `destination`.
fn report(mtu: u16, destination: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let mut icmp = [&[3, 4, 0, 0, 0, 0][..], &mtu.to_be_bytes(), quoted].concat();
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    ethernet(MAC, MAC_HOP, 0x0800, &ipv4(1, HOP, destination, &icmp))
}

/// The same about what we sent to the peer.
fn about(mtu: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    report(mtu, GATEWAY, &ipv4(protocol, GATEWAY, ROUTER, payload))
}

/// "Packet too big" of a router on the way.
fn about6(mtu: u32, next_header: u8, payload: &[u8]) -> Vec<u8> {
    report6(mtu, &ipv6(next_header, GATEWAY6, ROUTER6, payload))
}

fn report6(mtu: u32, quoted: &[u8]) -> Vec<u8> {
    let mut icmp = [&[2, 0, 0, 0][..], &mtu.to_be_bytes(), quoted].concat();
    let length = (icmp.len() as u32).to_be_bytes();
    let pseudo = [&HOP6[..], &GATEWAY6, &length, &[0, 0, 0, 58], &icmp].concat();
    let sum = checksum(&pseudo);
    icmp[2..4].copy_from_slice(&sum);
    ethernet(MAC, MAC_HOP, 0x86dd, &ipv6(58, HOP6, GATEWAY6, &icmp))
}

/// A world with the paths of two sites.
#[must_use]
pub fn world_of_two(now_s: u32) -> HostTables {
    let mut tables = world(now_s);
    let key = SaPathKey {
        remote: wide(ROUTER),
        spi: SPI_OUT,
        ports: [0; 4],
    };
    let path = SaPath {
        site: SITE_OTHER,
        ..tables.sa_paths[&key]
    };
    let key = SaPathKey {
        spi: SPI_OTHER,
        ..key
    };
    tables.sa_paths.insert(key, path);
    tables
}

/// An error that is heeded in it, about the path of a site.
#[must_use]
pub fn about_site(site: u32) -> Vec<u8> {
    let spi = if site == SITE { SPI_OUT } else { SPI_OTHER };
    about(1400, 50, &esp_of(spi))
}

/// An error about what we sent in IKE, which is the kernel's.
#[must_use]
pub fn about_ike() -> Vec<u8> {
    about(1400, 17, &udp(500, 500, &[0x11; 40]))
}

/// A world, an error that is heeded in it, and what the controller hears of it.
#[must_use]
pub fn heeded(now_s: u32) -> (HostTables, Vec<u8>, Event) {
    let event = Event {
        kind: kind::PATH_MTU,
        site: SITE,
        rule: SA_INDEX,
        generation: 1400,
        source: SPI_OUT,
        destination: [0; 4],
        source_port: [0; 2],
        destination_port: [0; 2],
        protocol: 50,
        pad: [0; 3],
    };
    (world(now_s), about(1400, 50, &esp()), event)
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let consumed = believed()
        .into_iter()
        .map(|(words, frame)| (words, frame, Expect::Drop(PathMtu)));
    let refused = forged()
        .into_iter()
        .map(|(words, frame)| (words, frame, Expect::Drop(PathMtuRefused)));
    let others = others()
        .into_iter()
        .map(|(words, frame)| (words, frame, Expect::Pass(Path::WanPassed)));
    let vector = |(words, frame, expect): (&str, Vec<u8>, Expect)| Vector {
        description: words.to_owned(),
        world: world(now_s),
        steps: vec![Step {
            program: Program::Wan,
            frame,
            expect,
        }],
    };
    consumed.chain(refused).chain(others).map(vector).collect()
}

type Case = (&'static str, Vec<u8>);

fn believed() -> Vec<Case> {
    vec![
        (
            "'too big' about ESP of ours is heeded (RFC 1191)",
            about(1400, 50, &esp()),
        ),
        (
            "'too big' about ESP of which 8 octets are quoted is heeded (RFC 792)",
            about(1400, 50, &esp()[..8]),
        ),
        (
            "'too big' of the least MTU that is believed is heeded",
            about(576, 50, &esp()),
        ),
        (
            "'too big' of one octet less than the present MTU is heeded",
            about(1499, 50, &esp()),
        ),
        ("'too big' about ESP in UDP is heeded", about(1400, 17, &in_udp())),
        (
            "'too big' about ESP over IPv6 is heeded (RFC 8201)",
            about6(1280, 50, &esp()),
        ),
        (
            "'too big' about ESP in UDP over IPv6 is heeded",
            about6(1400, 17, &in_udp()),
        ),
        (
            "'too big' over IPv6 of an odd length is heeded",
            about6(1400, 50, &esp()[..47]),
        ),
    ]
}

fn forged() -> Vec<Case> {
    let other_spi = [&[0xd0, 0, 0, 2][..], &esp()[4..]].concat();
    let mut damaged = about(1400, 50, &esp());
    damaged[14 + 20 + 2] ^= 1;
    let mut damaged6 = about6(1400, 50, &esp());
    damaged6[14 + 40 + 2] ^= 1;
    let other_host = [192, 0, 2, 78];
    vec![
        (
            "'too big' with an SPI that we do not send with is refused",
            about(1400, 50, &other_spi),
        ),
        (
            "'too big' about ESP to another peer is refused",
            report(1400, GATEWAY, &ipv4(50, GATEWAY, other_host, &esp())),
        ),
        (
            "'too big' about ESP that another host sent is refused",
            report(1400, GATEWAY, &ipv4(50, other_host, ROUTER, &esp())),
        ),
        (
            "'too big' about plain ESP does not fit an SA in UDP to another port",
            about(1400, 17, &udp(4500, 61001, &esp())),
        ),
        (
            "'too big' of less than 576 octets is refused",
            about(575, 50, &esp()),
        ),
        (
            "'too big' without an MTU (RFC 792) is refused",
            about(0, 50, &esp()),
        ),
        (
            "'too big' of the present MTU is refused",
            about(PATH_MTU as u16, 50, &esp()),
        ),
        ("'too big' of more is refused", about(9000, 50, &esp())),
        ("'too big' with a wrong checksum is refused (RFC 1122)", damaged),
        (
            "'too big' over IPv6 of less than 1280 octets is refused (RFC 8201 section 4)",
            about6(1279, 50, &esp()),
        ),
        (
            "'too big' over IPv6 of more than 16 bits is refused",
            about6(0x0001_0500, 50, &esp()),
        ),
        (
            "'too big' over IPv6 with a wrong checksum is refused (RFC 4443)",
            damaged6,
        ),
        (
            "'too big' over IPv6 about IPv6 ESP to another peer is refused",
            report6(1400, &ipv6(50, GATEWAY6, HOP6, &esp())),
        ),
    ]
}

/// Not about ESP: the kernel's own.
fn others() -> Vec<Case> {
    let marked = [&[0; 4][..], &[0x11; 40]].concat();
    let mut later = ipv4(50, GATEWAY, ROUTER, &esp());
    later[7] = 9;
    vec![
        ("'too big' about IKE is the kernel's", about_ike()),
        (
            "'too big' about IKE behind the non-ESP marker is the kernel's",
            about(1400, 17, &udp(4500, 61000, &marked)),
        ),
        (
            "'too big' that quotes UDP ports alone tells nothing of ESP",
            about(1400, 17, &in_udp()[..8]),
        ),
        (
            "'too big' that quotes less than an SPI tells nothing of ESP",
            about(1400, 50, &esp()[..3]),
        ),
        (
            "'too big' that quotes a later fragment tells nothing of ESP",
            report(1400, GATEWAY, &later),
        ),
    ]
}
