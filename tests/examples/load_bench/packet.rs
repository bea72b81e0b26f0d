//! Inner packets: UDP between the terminal and the server, with a number in front of the payload.

use std::net::{Ipv4Addr, SocketAddrV4};

use xtask::lab::gateway::BENCH_PORT;
use xtask::lab::topology::{SERVER, TERMINAL};

/// The terminal's port.
pub(crate) const TERMINAL_PORT: u16 = 5000;
/// Octets in front of the UDP payload.
const HEADERS: usize = 28;

/// Inner packets of a mix, octets from the IP header on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) name: &'static str,
    pub(crate) sizes: &'static [usize],
}

pub(crate) const SMALL: Mix = Mix {
    name: "64 B",
    sizes: &[64],
};
pub(crate) const IMIX: Mix = Mix {
    name: "IMIX",
    sizes: &[64, 576, 64, 64, 576, 64, 1400, 64, 576, 64, 64, 576],
};
pub(crate) const LARGE: Mix = Mix {
    name: "1400 B",
    sizes: &[1400],
};

/// From the terminal to the server.
pub(crate) fn to_center(size: usize, sequence: u64) -> Vec<u8> {
    let address = |text: &str| text.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
    udp(
        SocketAddrV4::new(address(TERMINAL), TERMINAL_PORT),
        SocketAddrV4::new(address(SERVER), BENCH_PORT),
        size,
        sequence,
    )
}

/// From the server to the terminal by the address that the server knows.
pub(crate) fn to_site(seen: SocketAddrV4, size: usize, sequence: u64) -> Vec<u8> {
    let server = SERVER.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
    udp(SocketAddrV4::new(server, BENCH_PORT), seen, size, sequence)
}

/// The number of a packet, from its IP header on.
pub(crate) fn sequence(packet: &[u8]) -> Option<u64> {
    payload_sequence(packet.get(HEADERS..)?)
}

/// The number in front of a payload.
pub(crate) fn payload_sequence(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|octets| u64::from_be_bytes(*octets))
}

/// With an Ethernet header.
pub(crate) fn framed(link: [u8; 12], packet: &[u8]) -> Vec<u8> {
    [&link[..], &[0x08, 0x00], packet].concat()
}

fn udp(from: SocketAddrV4, to: SocketAddrV4, size: usize, sequence: u64) -> Vec<u8> {
    let length = |octets: usize| u16::try_from(octets).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0x45, 0];
    packet.extend(length(size));
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let checksum = checksum(&packet).to_be_bytes();
    packet.splice(10..12, checksum);
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(length(size - 20));
    // No checksum (RFC 768).
    packet.extend([0, 0]);
    packet.extend(sequence.to_be_bytes());
    packet.resize(size, 0x5a);
    packet
}

fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| {
        let [high, low] = [0, 1].map(|at| u32::from(pair.get(at).copied().unwrap_or(0)));
        high << 8 | low
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}
