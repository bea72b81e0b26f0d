//! Packets that scapy made (`oracle/make_vectors.py`), in both directions: ours opens them, and from the same inner
//! packet, keys and number seals the same frame, octet by octet from the Ethernet header to the ICV.

use core::net::IpAddr;
use gateway_esp::tunnel::Received;
use gateway_esp::{
    HEADROOM_MAX, InboundConfig, InboundSa, IvKey, KeyMaterial, LinkHeader, Opened, OutboundConfig,
    OutboundSa, OuterDf, REPLAY_WINDOW_DEFAULT, Selectors, Suite, TAILROOM_MAX, Tunnel, UdpEncap,
};
use serde::Deserialize;
use std::collections::HashSet;

#[derive(Deserialize)]
struct Vector {
    name: String,
    suite: String,
    esn: bool,
    sequence: u64,
    spi: u32,
    encryption: String,
    integrity: String,
    iv_key: String,
    ipv6: bool,
    local: IpAddr,
    remote: IpAddr,
    udp: bool,
    inner: String,
    frame: String,
}

impl Vector {
    fn suite(&self) -> Suite {
        Suite::ALL
            .into_iter()
            .find(|suite| suite.name() == self.suite)
            .expect("a suite of ours")
    }

    fn keys(&self) -> KeyMaterial {
        KeyMaterial::new(&unhex(&self.encryption), &unhex(&self.integrity))
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("data/scapy.json")).unwrap()
}

#[test]
fn the_vectors_cover_every_combination() {
    let seen: HashSet<_> = vectors()
        .into_iter()
        .map(|vector| (vector.suite, vector.esn, vector.ipv6, vector.udp))
        .collect();
    assert_eq!(seen.len(), Suite::ALL.len() * 2 * 2 * 2);
}

#[test]
fn ours_opens_what_scapy_sealed() {
    for vector in vectors() {
        let mut frame = unhex(&vector.frame);
        let received = Received::parse(&frame).unwrap();
        assert_eq!(
            (received.spi, received.source),
            (vector.spi, vector.local),
            "{}",
            vector.name
        );
        let mut sa = InboundSa::new(InboundConfig {
            spi: vector.spi,
            suite: vector.suite(),
            keys: vector.keys(),
            esn: vector.esn,
            replay_window: REPLAY_WINDOW_DEFAULT,
            selectors: Selectors::any(),
        })
        .unwrap();
        sa.resume_at(vector.sequence - 1);
        let esp = &mut frame[received.esp];
        let mut damaged = esp.to_vec();
        *damaged.last_mut().unwrap() ^= 0x80;
        assert!(
            sa.open(&mut damaged, received.tos).is_err(),
            "{}: damaged",
            vector.name
        );
        match sa.open(esp, received.tos) {
            Ok(Opened::Packet { inner, sequence }) => {
                assert_eq!(esp[inner], unhex(&vector.inner), "{}", vector.name);
                assert_eq!(sequence, vector.sequence, "{}", vector.name);
            }
            other => panic!("{}: {other:?}", vector.name),
        }
    }
}

#[test]
fn ours_seals_what_scapy_sealed() {
    for vector in vectors() {
        let mut sa = OutboundSa::new(OutboundConfig {
            spi: vector.spi,
            suite: vector.suite(),
            keys: vector.keys(),
            esn: vector.esn,
            first_sequence: vector.sequence,
            iv_key: IvKey::new(unhex(&vector.iv_key).try_into().unwrap()),
            selectors: Selectors::any(),
            tunnel: Tunnel {
                local: vector.local,
                remote: vector.remote,
                udp: vector.udp.then_some(UdpEncap {
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
        })
        .unwrap();
        let inner = unhex(&vector.inner);
        let place = HEADROOM_MAX..HEADROOM_MAX + inner.len();
        let mut frame = vec![0; place.end + TAILROOM_MAX];
        frame[place.clone()].copy_from_slice(&inner);
        let sealed = sa.seal(&mut frame, place).unwrap();
        assert_eq!(frame[sealed], unhex(&vector.frame), "{}", vector.name);
    }
}
