//! Seals packets under fresh random keys and prints them, one JSON object a line, for
//! `tests/oracle/check_sealed.py`: every suite, 32- and 64-bit sequence numbers, IPv4 and IPv6 outside, with UDP
//! and without, and sizes of every remainder of the padding. The keys are printed too; they protect nothing else.

use anyhow::{Context, Result};
use core::net::IpAddr;
use gateway_esp::{
    HEADROOM_MAX, IvKey, KeyMaterial, LinkHeader, OutboundConfig, OutboundSa, OuterDf, Selectors, Suite,
    TAILROOM_MAX, Tunnel, UdpEncap,
};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

const SIZES: [usize; 18] = [
    20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 576, 1380,
];

fn main() -> Result<()> {
    for suite in Suite::ALL {
        for esn in [false, true] {
            for ipv6 in [false, true] {
                for udp in [false, true] {
                    emit(suite, esn, ipv6, udp)?;
                }
            }
        }
    }
    Ok(())
}

/// Prints one packet of each size from one SA.
fn emit(suite: Suite, esn: bool, ipv6: bool, udp: bool) -> Result<()> {
    let (local, remote) = if ipv6 {
        ("2001:db8::1", "2001:db8::2")
    } else {
        ("192.0.2.1", "198.51.100.7")
    };
    let encryption = random(suite.encryption_key_len())?;
    let integrity = random(suite.integrity_key_len())?;
    let iv_key = random(16)?;
    let spi = u32::from_be_bytes(random_array()?) | 0x100;
    let low = u32::from_be_bytes(random_array()?) >> 1 | 1;
    let first_sequence = if esn {
        (u64::from(low) << 32) | u64::from(low)
    } else {
        u64::from(low)
    };
    let mut sa = OutboundSa::new(OutboundConfig {
        spi,
        suite,
        keys: KeyMaterial::new(&encryption, &integrity),
        esn,
        first_sequence,
        iv_key: IvKey::new(iv_key.as_slice().try_into()?),
        selectors: Selectors::any(),
        tunnel: Tunnel {
            local: local.parse::<IpAddr>()?,
            remote: remote.parse::<IpAddr>()?,
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
        },
    })?;
    for (sequence, size) in (first_sequence..).zip(SIZES) {
        let inner = inner_packet(size)?;
        let mut frame = vec![0; HEADROOM_MAX + size + TAILROOM_MAX];
        let place = HEADROOM_MAX..HEADROOM_MAX + size;
        frame
            .get_mut(place.clone())
            .context("inner packet's place")?
            .copy_from_slice(&inner);
        let sealed = sa.seal(&mut frame, place)?;
        let frame = frame.get(sealed).context("sealed frame's place")?;
        let vector = json!({
            "name": format!("{suite} esn={esn} ipv6={ipv6} udp={udp} sequence={sequence:#x} size={size}"),
            "suite": suite.name(),
            "esn": esn,
            "sequence": sequence,
            "spi": spi,
            "encryption": hex(&encryption),
            "integrity": hex(&integrity),
            "iv_key": hex(&iv_key),
            "ipv6": ipv6,
            "local": local,
            "remote": remote,
            "udp": udp,
            "inner": hex(&inner),
            "frame": hex(frame),
        });
        println!("{vector}");
    }
    Ok(())
}

/// An IPv4 packet of an experimental protocol, so that any payload is a sound one.
fn inner_packet(size: usize) -> Result<Vec<u8>> {
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 253, 0, 0, 192, 168, 1, 10, 10, 1, 0, 80,
    ];
    packet.splice(1..4, [random_array::<1>()?[0], (size >> 8) as u8, size as u8]);
    packet.extend(random(size - packet.len())?);
    let sum: u32 = packet
        .iter()
        .take(20)
        .zip([8, 0].iter().cycle())
        .map(|(octet, shift)| u32::from(*octet) << shift)
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet.splice(10..12, checksum.to_be_bytes());
    Ok(packet)
}

fn random(count: usize) -> Result<Vec<u8>> {
    let mut octets = vec![0; count];
    SystemRandom::new()
        .fill(&mut octets)
        .ok()
        .context("system random generator")?;
    Ok(octets)
}

fn random_array<const N: usize>() -> Result<[u8; N]> {
    Ok(random(N)?.as_slice().try_into()?)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
