//! A pair of SAs and inner packets, for the tests of this folder.
#![allow(dead_code, reason = "each test uses its part")]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use gateway_esp::{
    HEADROOM_MAX, InboundConfig, InboundSa, IvKey, KeyMaterial, LinkHeader, OutboundConfig, OutboundSa,
    OuterDf, REPLAY_WINDOW_DEFAULT, Selectors, Suite, TAILROOM_MAX, Tunnel, UdpEncap,
};

pub(crate) const SPI: u32 = 0xc0de_0001;
pub(crate) const IV_KEY: [u8; 16] = [0x42; 16];

pub(crate) fn keys(suite: Suite) -> KeyMaterial {
    let encryption: Vec<u8> = (0..suite.encryption_key_len() as u8)
        .map(|i| i.wrapping_mul(7) ^ 0x5c)
        .collect();
    let integrity: Vec<u8> = (0..suite.integrity_key_len() as u8)
        .map(|i| i.wrapping_mul(11) ^ 0x36)
        .collect();
    KeyMaterial::new(&encryption, &integrity)
}

pub(crate) fn tunnel(ipv6: bool, udp: bool) -> Tunnel {
    let (local, remote) = if ipv6 {
        (
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6)),
        )
    } else {
        (
            Ipv4Addr::new(192, 0, 2, 1).into(),
            Ipv4Addr::new(198, 51, 100, 7).into(),
        )
    };
    Tunnel {
        local,
        remote,
        udp: udp.then_some(UdpEncap {
            local_port: 4500,
            remote_port: 4500,
        }),
        link: LinkHeader {
            destination: [2, 0, 0, 0, 0, 2],
            source: [2, 0, 0, 0, 0, 1],
        },
        mtu: 1500,
        df: OuterDf::Set,
    }
}

pub(crate) fn outbound_config(
    suite: Suite,
    esn: bool,
    first_sequence: u64,
    tunnel: Tunnel,
) -> OutboundConfig {
    OutboundConfig {
        spi: SPI,
        suite,
        keys: keys(suite),
        esn,
        first_sequence,
        iv_key: IvKey::new(IV_KEY),
        selectors: Selectors::any(),
        tunnel,
    }
}

pub(crate) fn outbound(suite: Suite, esn: bool, tunnel: Tunnel) -> OutboundSa {
    OutboundSa::new(outbound_config(suite, esn, 1, tunnel)).unwrap()
}

pub(crate) fn inbound_config(suite: Suite, esn: bool) -> InboundConfig {
    InboundConfig {
        spi: SPI,
        suite,
        keys: keys(suite),
        esn,
        replay_window: REPLAY_WINDOW_DEFAULT,
        selectors: Selectors::any(),
    }
}

pub(crate) fn inbound(suite: Suite, esn: bool) -> InboundSa {
    InboundSa::new(inbound_config(suite, esn)).unwrap()
}

/// An inner UDP packet of `len` octets (20 or more) with a right header checksum.
pub(crate) fn inner(len: usize, tos: u8) -> Vec<u8> {
    let mut packet = vec![
        0x45, tos, 0, 0, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 192, 168, 1, 10, 10, 1, 0, 80,
    ];
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet.extend((20..len).map(|i| (i * 31) as u8));
    let checksum = !ones_sum(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The ones' complement sum of RFC 1071, the slow and plain way.
pub(crate) fn ones_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Seals `packet` in a buffer with just the room that the crate's constants promise to be enough.
pub(crate) fn seal(sa: &mut OutboundSa, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xee; HEADROOM_MAX];
    frame.extend_from_slice(packet);
    frame.extend([0xee; TAILROOM_MAX]);
    let range = sa
        .seal(&mut frame, HEADROOM_MAX..HEADROOM_MAX + packet.len())
        .unwrap();
    frame[range].to_vec()
}
