//! Each reason to refuse a received packet, and what is passed on.

mod common;

use common::{SPI, inbound, inbound_config, inner, keys, ones_sum, outbound, seal, tunnel};
use core::net::Ipv4Addr;
use gateway_esp::engine::{self, Job};
use gateway_esp::tunnel::Received;
use gateway_esp::{InboundConfig, InboundSa, OpenError, Opened, Selectors, Suite, TrafficSelector};

const SUITE: Suite = Suite::AesGcm16_256;

/// An authentic packet with a plaintext of our choice: payload, padding, pad length and next header.
fn crafted(suite: Suite, sequence: u32, plaintext: &[u8]) -> Vec<u8> {
    let mut esp = [SPI.to_be_bytes(), sequence.to_be_bytes()].concat();
    esp.extend(vec![0; suite.iv_len() - 4]);
    esp.extend(sequence.to_be_bytes());
    esp.extend_from_slice(plaintext);
    esp.extend([0; 16]);
    let engine = engine::new(suite, &keys(suite)).unwrap();
    engine
        .seal(Job {
            esp: &mut esp,
            sequence_high: None,
        })
        .unwrap();
    esp
}

fn with_trailer(payload: &[u8], next_header: u8) -> Vec<u8> {
    let mut text = payload.to_vec();
    let pad_len = (payload.len() + 2).next_multiple_of(16) - payload.len() - 2;
    text.extend(1..=pad_len as u8);
    text.extend([pad_len as u8, next_header]);
    text
}

fn open(plaintext: &[u8]) -> Result<Opened, OpenError> {
    inbound(SUITE, false).open(&mut crafted(SUITE, 1, plaintext), 0)
}

#[test]
fn lengths_are_checked_first() {
    let mut receiver = inbound(SUITE, false);
    for length in 0..8 + 8 + 2 + 16 {
        assert_eq!(
            receiver.open(&mut vec![0; length], 0),
            Err(OpenError::TooShort),
            "{length}"
        );
    }
    assert_eq!(
        receiver.open(&mut [0; 8 + 8 + 5 + 16], 0),
        Err(OpenError::Misaligned)
    );
    let mut receiver = inbound(Suite::AesCbc128HmacSha256_128, false);
    assert_eq!(
        receiver.open(&mut [0; 8 + 16 + 20 + 16], 0),
        Err(OpenError::Misaligned)
    );
}

#[test]
fn another_sas_packet_is_refused() {
    let mut esp = crafted(SUITE, 1, &with_trailer(&inner(40, 0), 4));
    esp[3] ^= 1;
    assert_eq!(
        inbound(SUITE, false).open(&mut esp, 0),
        Err(OpenError::SpiMismatch)
    );
}

#[test]
fn replays_and_old_packets_are_refused() {
    let text = with_trailer(&inner(40, 0), 4);
    let mut receiver = inbound(SUITE, false);
    let mut opened = |sequence| receiver.open(&mut crafted(SUITE, sequence, &text), 0).map(|_| ());
    assert_eq!(opened(5000), Ok(()));
    assert_eq!(opened(5000), Err(OpenError::Replayed));
    assert_eq!(opened(5000 - 4095), Ok(()));
    assert_eq!(opened(5000 - 4095), Err(OpenError::Replayed));
    assert_eq!(opened(5000 - 4096), Err(OpenError::OutsideWindow));
    assert_eq!(opened(0), Err(OpenError::OutsideWindow));
}

/// RFC 4303 section 3.4.3: a forged packet must not move the window, nor use its number up.
#[test]
fn a_forged_packet_leaves_the_window_alone() {
    let text = with_trailer(&inner(40, 0), 4);
    let mut receiver = inbound(SUITE, false);
    let mut forged = crafted(SUITE, 1_000_000, &text);
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(
        receiver.open(&mut forged, 0),
        Err(OpenError::AuthenticationFailed)
    );
    assert_eq!(receiver.highest_sequence(), 0);
    assert!(receiver.open(&mut crafted(SUITE, 1, &text), 0).is_ok());
}

/// An extended number's high half is not sent, but a wrong guess of it does not authenticate.
#[test]
fn short_and_extended_numbers_do_not_mix() {
    for suite in Suite::ALL {
        let frame = seal(&mut outbound(suite, true, tunnel(false, false)), &inner(40, 0));
        let mut esp = frame[34..].to_vec();
        assert_eq!(
            inbound(suite, false).open(&mut esp, 0),
            Err(OpenError::AuthenticationFailed),
            "{suite}"
        );
        let mut ahead = inbound(suite, true);
        ahead.resume_at(1 << 32);
        let mut esp = frame[34..].to_vec();
        assert_eq!(
            ahead.open(&mut esp, 0),
            Err(OpenError::AuthenticationFailed),
            "{suite}"
        );
    }
}

/// RFC 4303 section 2.4.
#[test]
fn padding_counts_from_one() {
    let mut text = with_trailer(&inner(33, 0), 4);
    assert!(open(&text).is_ok());
    let length = text.len();
    text[length - 3] ^= 1;
    assert_eq!(open(&text), Err(OpenError::BadPadding));
    text[length - 2] = (length - 1) as u8;
    assert_eq!(open(&text), Err(OpenError::BadPadding), "longer than the text");
}

/// RFC 4303 section 2.4 allows up to 255 octets of padding.
#[test]
fn padding_may_be_255_octets() {
    let mut text = inner(31, 0);
    text.extend(1..=255);
    text.extend([255, 4]);
    assert_eq!(text.len() % 16, 0);
    assert_eq!(
        open(&text),
        Ok(Opened::Packet {
            inner: 16..16 + 31,
            sequence: 1
        })
    );
}

/// RFC 4303 section 2.6: dummy packets are discarded without a word, and only once.
#[test]
fn dummy_packets_are_no_error() {
    let mut receiver = inbound(SUITE, false);
    let esp = crafted(SUITE, 7, &with_trailer(&[0xaa; 30], 59));
    assert_eq!(receiver.open(&mut esp.clone(), 0), Ok(Opened::Dummy));
    assert_eq!(receiver.open(&mut esp.clone(), 0), Err(OpenError::Replayed));
    assert_eq!((receiver.counters().packets, receiver.highest_sequence()), (0, 7));
}

/// RFC 4303 section 2.7: what follows the inner packet is padding.
#[test]
fn traffic_flow_padding_is_cut_off() {
    let mut payload = inner(45, 0);
    payload.extend([0x99; 300]);
    assert_eq!(
        open(&with_trailer(&payload, 4)),
        Ok(Opened::Packet {
            inner: 16..16 + 45,
            sequence: 1
        })
    );
}

#[test]
fn only_ipv4_comes_out() {
    for next_header in (0..=u8::MAX).filter(|value| ![4, 59].contains(value)) {
        let outcome = open(&with_trailer(&inner(40, 0), next_header));
        assert_eq!(outcome, Err(OpenError::NextHeader), "{next_header}");
    }
    let mut packet = inner(40, 0);
    packet[3] = 41;
    assert_eq!(
        open(&with_trailer(&packet[..38], 4)),
        Err(OpenError::InnerMalformed),
        "longer than the payload"
    );
    packet[0] = 0x65;
    assert_eq!(
        open(&with_trailer(&packet, 4)),
        Err(OpenError::InnerMalformed),
        "version 6"
    );
    assert_eq!(
        open(&with_trailer(&[], 4)),
        Err(OpenError::InnerMalformed),
        "empty"
    );
}

#[test]
fn an_authentic_packet_that_is_refused_does_not_come_again() {
    let mut receiver = inbound(SUITE, false);
    let esp = crafted(SUITE, 1, &with_trailer(&inner(40, 0), 41));
    assert_eq!(receiver.open(&mut esp.clone(), 0), Err(OpenError::NextHeader));
    assert_eq!(receiver.open(&mut esp.clone(), 0), Err(OpenError::Replayed));
    assert_eq!(receiver.counters().packets, 0);
}

/// RFC 4301 section 5.2: source in the peer's selectors, destination in ours.
#[test]
fn traffic_outside_the_selectors_is_refused() {
    let site = TrafficSelector::addresses(Ipv4Addr::new(192, 168, 1, 0), Ipv4Addr::new(192, 168, 1, 255));
    let center = TrafficSelector::addresses(Ipv4Addr::new(10, 1, 0, 0), Ipv4Addr::new(10, 1, 255, 255));
    let opened = |local, remote| {
        let config = InboundConfig {
            selectors: Selectors::new([local], [remote]),
            ..inbound_config(SUITE, false)
        };
        InboundSa::new(config)
            .unwrap()
            .open(&mut crafted(SUITE, 1, &with_trailer(&inner(40, 0), 4)), 0)
    };
    assert!(opened(center, site).is_ok());
    assert_eq!(opened(site, center), Err(OpenError::SelectorMismatch));
    assert_eq!(opened(center, center), Err(OpenError::SelectorMismatch));
    assert_eq!(opened(site, site), Err(OpenError::SelectorMismatch));
}

/// RFC 6040 section 4.2, through the whole of `open`.
#[test]
fn congestion_reaches_the_inner_header() {
    let opened = |inner_tos, outer_tos| {
        let frame = seal(
            &mut outbound(SUITE, false, tunnel(false, false)),
            &inner(40, inner_tos),
        );
        let mut esp = frame[Received::parse(&frame).unwrap().esp].to_vec();
        inbound(SUITE, false)
            .open(&mut esp, outer_tos)
            .map(|opened| match opened {
                Opened::Packet { inner, .. } => esp[inner].to_vec(),
                Opened::Dummy => panic!("not a dummy"),
            })
    };
    let marked = opened(0xb8 | 0b10, 0b11).unwrap();
    assert_eq!(marked[1], 0xb8 | 0b11);
    assert_eq!(ones_sum(&marked[..20]), 0xffff, "header checksum");
    assert_eq!(marked[12..], inner(40, 0xb8)[12..], "nothing else changed");
    assert_eq!(opened(0xb8, 0b11), Err(OpenError::EcnNotCapable));
    assert_eq!(
        opened(0xb8, !0b11).unwrap(),
        inner(40, 0xb8),
        "the outer DSCP stays outside"
    );
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    use gateway_esp::ConfigError;
    let refused = |config| InboundSa::new(config).unwrap_err();
    let good = || inbound_config(SUITE, false);
    assert_eq!(
        refused(InboundConfig { spi: 255, ..good() }),
        ConfigError::ReservedSpi(255)
    );
    assert_eq!(
        refused(InboundConfig {
            replay_window: 1000,
            ..good()
        }),
        ConfigError::ReplayWindow(1000)
    );
    assert_eq!(
        refused(InboundConfig {
            selectors: Selectors::new([], []),
            ..good()
        }),
        ConfigError::NoSelectors
    );
    let keys = keys(Suite::AesGcm16_128);
    assert!(matches!(
        refused(InboundConfig { keys, ..good() }),
        ConfigError::Key(_)
    ));
}
