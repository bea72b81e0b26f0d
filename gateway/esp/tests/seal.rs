//! Outer headers octet by octet, and each reason not to send.

mod common;

use common::{IV_KEY, inner, ones_sum, outbound, outbound_config, seal, tunnel};
use core::net::Ipv4Addr;
use gateway_esp::tunnel::{Received, ReceivedError};
use gateway_esp::{
    ConfigError, HEADROOM_MAX, IvKey, LinkHeader, OutboundConfig, OutboundSa, OuterDf, SealError, Selectors,
    Suite, TAILROOM_MAX, TrafficSelector, Tunnel, UdpEncap,
};
use std::collections::HashSet;

const SUITE: Suite = Suite::AesGcm16_128;

#[test]
fn ipv4_headers() {
    let frame = seal(
        &mut outbound(SUITE, false, tunnel(false, false)),
        &inner(60, 0xb9),
    );
    assert_eq!(frame[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    let ip = &frame[14..];
    assert_eq!(ip[..2], [0x45, 0xb9], "DSCP and ECN of the inner packet");
    assert_eq!(usize::from(ip[2]) << 8 | usize::from(ip[3]), ip.len());
    assert_eq!(ip[6..10], [0x40, 0, 64, 50], "DF, hop limit 64, ESP");
    assert_eq!(ip[12..20], [192, 0, 2, 1, 198, 51, 100, 7]);
    assert_eq!(ones_sum(&ip[..20]), 0xffff, "header checksum");
    assert_eq!(ip[20..28], [0xc0, 0xde, 0, 1, 0, 0, 0, 1], "SPI, sequence number");
    assert_eq!(ip[28..36], [0, 0, 0, 0, 0, 0, 0, 1], "IV");
}

#[test]
fn ipv6_headers() {
    let frame = seal(&mut outbound(SUITE, false, tunnel(true, false)), &inner(60, 0xb9));
    assert_eq!(frame[12..14], [0x86, 0xdd]);
    let ip = &frame[14..];
    let first = u32::from_be_bytes([ip[0], ip[1], ip[2], ip[3]]);
    assert_eq!((first >> 28, first >> 20 & 0xff), (6, 0xb9));
    assert_eq!(
        first & 0xf_ffff,
        (0xc0de_0001 ^ 0xc0d) & 0xf_ffff,
        "one flow label for each SA"
    );
    assert_eq!(usize::from(ip[4]) << 8 | usize::from(ip[5]), ip.len() - 40);
    assert_eq!(ip[6..8], [50, 64]);
    assert_eq!(ip[40..44], [0xc0, 0xde, 0, 1]);
}

/// RFC 3948 section 2.1: over IPv4 the UDP checksum is zero.
#[test]
fn udp_over_ipv4_has_no_checksum() {
    let path = Tunnel {
        udp: Some(UdpEncap {
            local_port: 4500,
            remote_port: 61000,
        }),
        ..tunnel(false, true)
    };
    let frame = seal(&mut outbound(SUITE, false, path), &inner(60, 0));
    let (ip, udp) = (&frame[14..], &frame[34..]);
    assert_eq!(ip[9], 17);
    assert_eq!(ones_sum(&ip[..20]), 0xffff);
    assert_eq!(udp[..4], [0x11, 0x94, 0xee, 0x48]);
    assert_eq!(usize::from(udp[4]) << 8 | usize::from(udp[5]), udp.len());
    assert_eq!(udp[6..8], [0, 0]);
}

/// RFC 8200 section 8.1: over IPv6 it is right, for every length.
#[test]
fn udp_over_ipv6_has_a_right_checksum() {
    let mut sender = outbound(SUITE, false, tunnel(true, true));
    for size in 20..200 {
        let frame = seal(&mut sender, &inner(size, 0));
        let (ip, udp) = (&frame[14..], &frame[54..]);
        let mut pseudo = ip[8..40].to_vec();
        pseudo.extend((udp.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, 17]);
        pseudo.extend_from_slice(udp);
        assert_eq!(ones_sum(&pseudo), 0xffff, "{size}");
        assert_ne!(udp[6..8], [0, 0]);
    }
}

/// RFC 4301 section 8.1: set, copy, clear.
#[test]
fn the_outer_df_follows_the_policy() {
    for (df, inner_df, want) in [
        (OuterDf::Set, false, true),
        (OuterDf::Copy, false, false),
        (OuterDf::Copy, true, true),
        (OuterDf::Clear, true, false),
    ] {
        let mut sender = outbound(
            SUITE,
            false,
            Tunnel {
                df,
                ..tunnel(false, false)
            },
        );
        let mut packet = inner(60, 0);
        packet[6] = if inner_df { 0x40 } else { 0 };
        let ids: HashSet<[u8; 2]> = (0..100)
            .map(|_| {
                let frame = seal(&mut sender, &packet);
                assert_eq!(frame[20], if want { 0x40 } else { 0 }, "{df:?}");
                assert_eq!(ones_sum(&frame[14..34]), 0xffff);
                [frame[18], frame[19]]
            })
            .collect();
        assert_eq!(ids.len(), 100, "identifications differ");
    }
}

#[test]
fn a_packet_that_does_not_fit_names_the_mtu() {
    let mut sender = outbound(SUITE, false, tunnel(false, false));
    let largest = sender.inner_mtu();
    seal(&mut sender, &inner(largest.into(), 0));
    let mut frame = vec![0; 2000];
    let packet = inner(usize::from(largest) + 1, 0);
    frame[100..100 + packet.len()].copy_from_slice(&packet);
    let refused = sender.seal(&mut frame, 100..100 + packet.len());
    assert_eq!(refused, Err(SealError::TooBig { inner_mtu: largest }));
    assert_eq!(
        frame[100..100 + packet.len()],
        packet,
        "left whole for the ICMP answer"
    );
}

#[test]
fn room_is_checked_on_both_sides() {
    let packet = inner(60, 0);
    let mut sender = outbound(SUITE, false, tunnel(false, false));
    // Ethernet, IPv4, ESP header and IV; two octets of padding, trailer and ICV.
    let (front, back) = (14 + 20 + 8 + 8, 2 + 2 + 16 - 2);
    let mut attempt = |front: usize, back: usize| {
        let mut frame = vec![0; front];
        frame.extend_from_slice(&packet);
        frame.extend(vec![0; back]);
        sender.seal(&mut frame, front..front + packet.len())
    };
    assert_eq!(attempt(front - 1, back + 2), Err(SealError::NoHeadroom));
    assert_eq!(attempt(front, back + 1), Err(SealError::NoTailroom));
    assert_eq!(attempt(front, back + 2), Ok(0..front + packet.len() + back + 2));
}

#[test]
fn link_padding_behind_the_packet_is_not_sent() {
    let mut packet = inner(28, 0);
    packet.extend([0xdd; 18]);
    let mut sender = outbound(SUITE, false, tunnel(false, false));
    let mut frame = vec![0; HEADROOM_MAX];
    frame.extend_from_slice(&packet);
    frame.extend([0; TAILROOM_MAX]);
    let range = sender
        .seal(&mut frame, HEADROOM_MAX..HEADROOM_MAX + packet.len())
        .unwrap();
    assert_eq!(range.len(), 14 + 20 + 8 + 8 + 32 + 16);
    assert_eq!(sender.counters().bytes, 28);
}

#[test]
fn only_whole_ipv4_packets_inside_the_selectors_go_out() {
    let server = TrafficSelector::addresses(Ipv4Addr::new(10, 1, 0, 0), Ipv4Addr::new(10, 1, 0, 255));
    let config = outbound_config(SUITE, false, 1, tunnel(false, false));
    let mut sender = OutboundSa::new(OutboundConfig {
        selectors: Selectors::new([server], [TrafficSelector::ANY]),
        ..config
    })
    .unwrap();
    let mut attempt = |packet: &[u8]| {
        let mut frame = vec![0; HEADROOM_MAX];
        frame.extend_from_slice(packet);
        frame.extend([0; TAILROOM_MAX]);
        sender
            .seal(&mut frame, HEADROOM_MAX..HEADROOM_MAX + packet.len())
            .map(|_| ())
    };
    assert_eq!(
        attempt(&inner(60, 0)),
        Err(SealError::SelectorMismatch),
        "from the site's own network"
    );
    let mut answer = inner(60, 0);
    answer[12..16].copy_from_slice(&[10, 1, 0, 80]);
    assert_eq!(
        attempt(&answer[..59]),
        Err(SealError::InnerMalformed),
        "cut short"
    );
    assert_eq!(attempt(&answer), Ok(()));
    assert_eq!(
        sender.sequence_remaining(),
        u64::from(u32::MAX) - 1,
        "refusals use no number up"
    );
}

/// RFC 4303 section 3.3.3.
#[test]
fn exhausted_numbers_stop_the_sa() {
    let last = u64::from(u32::MAX);
    let mut sender = OutboundSa::new(outbound_config(SUITE, false, last, tunnel(false, false))).unwrap();
    seal(&mut sender, &inner(60, 0));
    let mut frame = vec![0; HEADROOM_MAX];
    frame.extend(inner(60, 0));
    frame.extend([0; TAILROOM_MAX]);
    for _ in 0..3 {
        assert_eq!(
            sender.seal(&mut frame, HEADROOM_MAX..HEADROOM_MAX + 60),
            Err(SealError::SequenceExhausted)
        );
    }
}

/// RFC 3602 section 3: IVs must not be predictable; here they also never repeat, and depend on the IV key alone.
#[test]
fn cbc_ivs_differ_and_hang_on_their_key() {
    let suite = Suite::AesCbc256HmacSha256_128;
    let ivs = |octets| -> Vec<Vec<u8>> {
        let config = OutboundConfig {
            iv_key: IvKey::new(octets),
            ..outbound_config(suite, true, 1, tunnel(false, false))
        };
        let mut sender = OutboundSa::new(config).unwrap();
        (0..500)
            .map(|_| seal(&mut sender, &inner(60, 0))[42..58].to_vec())
            .collect()
    };
    let (one, other) = (ivs(IV_KEY), ivs([0x43; 16]));
    let distinct: HashSet<&Vec<u8>> = one.iter().chain(&other).collect();
    assert_eq!(distinct.len(), 1000);
    let config = OutboundConfig {
        iv_key: IvKey::new([0; 16]),
        ..outbound_config(suite, true, 1, tunnel(false, false))
    };
    assert_eq!(OutboundSa::new(config).unwrap_err(), ConfigError::IvKeyMissing);
}

#[test]
fn the_path_can_change_under_an_sa() {
    let mut sender = outbound(SUITE, false, tunnel(false, true));
    seal(&mut sender, &inner(60, 0));
    let link = LinkHeader {
        destination: [6; 6],
        source: [4; 6],
    };
    sender
        .set_tunnel(&Tunnel {
            link,
            mtu: 1280,
            ..tunnel(true, false)
        })
        .unwrap();
    assert_eq!(sender.inner_mtu(), 1280 - 40 - 8 - 8 - 16 - 2);
    let frame = seal(&mut sender, &inner(60, 0));
    assert_eq!(frame[..14], [6, 6, 6, 6, 6, 6, 4, 4, 4, 4, 4, 4, 0x86, 0xdd]);
    assert_eq!(
        frame[54..62],
        [0xc0, 0xde, 0, 1, 0, 0, 0, 2],
        "the sequence goes on"
    );
    let mixed = Tunnel {
        remote: Ipv4Addr::LOCALHOST.into(),
        ..tunnel(true, false)
    };
    assert_eq!(sender.set_tunnel(&mixed), Err(ConfigError::TunnelFamilies));
    assert_eq!(
        sender.set_tunnel(&Tunnel {
            mtu: 100,
            ..tunnel(true, false)
        }),
        Err(ConfigError::TunnelMtu(100))
    );
    assert_eq!(
        seal(&mut sender, &inner(60, 0))[..6],
        [6; 6],
        "refused paths change nothing"
    );
}

#[test]
fn what_is_not_esp_is_told_apart() {
    let frame = seal(&mut outbound(SUITE, false, tunnel(false, true)), &inner(60, 0));
    let changed = |at: usize, octets: &[u8]| {
        let mut frame = frame.clone();
        frame[at..at + octets.len()].copy_from_slice(octets);
        Received::parse(&frame)
    };
    assert!(changed(0, &[]).is_ok());
    assert_eq!(changed(12, &[8, 6]), Err(ReceivedError::EtherType));
    assert_eq!(changed(14, &[0x44]), Err(ReceivedError::Malformed));
    assert_eq!(
        changed(20, &[0x20]),
        Err(ReceivedError::Fragment),
        "first fragment"
    );
    assert_eq!(changed(21, &[1]), Err(ReceivedError::Fragment), "later fragment");
    assert!(changed(20, &[0]).is_ok(), "DF is no fragment");
    assert_eq!(changed(23, &[6]), Err(ReceivedError::NotEsp));
    assert_eq!(changed(36, &[0x01, 0xf4]), Err(ReceivedError::NotEsp), "port 500");
    assert_eq!(changed(42, &[0; 4]), Err(ReceivedError::Ike));
    assert_eq!(
        changed(38, &[0, 7]),
        Err(ReceivedError::Malformed),
        "UDP shorter than its header"
    );
    let mut keepalive = frame[..43].to_vec();
    keepalive[16..18].copy_from_slice(&[0, 29]);
    keepalive[38..40].copy_from_slice(&[0, 9]);
    keepalive[42] = 0xff;
    assert_eq!(Received::parse(&keepalive), Err(ReceivedError::Keepalive));
    for length in 0..frame.len() {
        assert!(Received::parse(&frame[..length]).is_err(), "cut to {length}");
    }
    let mut padded = frame.clone();
    padded.extend([0; 20]);
    assert_eq!(
        Received::parse(&padded),
        Received::parse(&frame),
        "link padding is left out"
    );
}
