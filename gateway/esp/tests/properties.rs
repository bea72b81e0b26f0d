//! What must hold for every packet: seal and open are inverse, any change is refused, nothing panics.

mod common;

use common::{inbound, inner, keys, outbound, seal, tunnel};
use gateway_esp::tunnel::Received;
use gateway_esp::{HEADROOM_MAX, InnerIpv4, OpenError, Opened, Suite, TAILROOM_MAX, engine, mtu};
use proptest::prelude::*;

fn suite() -> impl Strategy<Value = Suite> {
    prop::sample::select(&Suite::ALL[..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sealed_opens_to_the_same(
        suite in suite(), esn: bool, ipv6: bool, udp: bool, tos: u8, sizes in prop::collection::vec(20_usize..1380, 1..5),
    ) {
        let path = tunnel(ipv6, udp);
        let (mut sender, mut receiver) = (outbound(suite, esn, path), inbound(suite, esn));
        for (number, size) in sizes.iter().enumerate() {
            let packet = inner(*size, tos);
            let mut frame = seal(&mut sender, &packet);
            let received = Received::parse(&frame).unwrap();
            prop_assert_eq!(received.spi, common::SPI);
            prop_assert_eq!((received.source, received.destination), (path.local, path.remote));
            prop_assert_eq!(received.udp.is_some(), udp);
            prop_assert_eq!(received.tos, tos);
            let esp = &mut frame[received.esp];
            let Opened::Packet { inner, sequence } = receiver.open(esp, received.tos).unwrap() else {
                panic!("not a packet")
            };
            prop_assert_eq!(sequence, number as u64 + 1);
            prop_assert_eq!(&esp[inner], &packet[..]);
        }
        let octets: usize = sizes.iter().sum();
        prop_assert_eq!(receiver.counters(), sender.counters());
        prop_assert_eq!(receiver.counters().bytes, octets as u64);
        prop_assert_eq!(receiver.highest_sequence(), sizes.len() as u64);
    }

    #[test]
    fn arbitrary_bytes_never_panic(suite in suite(), esn: bool, tos: u8, mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut receiver = inbound(suite, esn);
        prop_assert!(receiver.open(&mut bytes, tos).is_err());
        prop_assert_eq!(receiver.highest_sequence(), 0);
        let _ = Received::parse(&bytes);
        let _ = InnerIpv4::parse(&bytes);
        let length = bytes.len();
        let mut sender = outbound(suite, esn, tunnel(true, true));
        for range in [0..length, 5..length, length..length, length..0, 0..length + 1, usize::MAX - 1..usize::MAX] {
            let _ = sender.seal(&mut bytes, range);
        }
    }

    /// Frames that are nearly right reach deeper than random ones.
    #[test]
    fn a_damaged_frame_never_panics(ipv6: bool, udp: bool, at in 12_usize..70, value: u8, cut in 0_usize..200) {
        let mut frame = seal(&mut outbound(Suite::AesGcm16_128, false, tunnel(ipv6, udp)), &inner(60, 0));
        frame[at] = value;
        frame.truncate(frame.len().saturating_sub(cut));
        if let Ok(received) = Received::parse(&frame) {
            prop_assert!(received.esp.end <= frame.len());
            let _ = inbound(Suite::AesGcm16_128, false).open(&mut frame[received.esp], received.tos);
        }
    }

    /// An authentic packet may still hold anything.
    #[test]
    fn arbitrary_plaintext_never_panics(
        suite in suite(), blocks in 1_usize..8, fill in prop::collection::vec(any::<u8>(), 128), pad: u8, ipv4: bool, tos: u8,
    ) {
        let mut text = fill[..blocks * 16].to_vec();
        let length = text.len();
        text[length - 2] = pad % 20;
        text[length - 1] = 4;
        if ipv4 {
            text[0] = 0x45;
            text[2..4].copy_from_slice(&(length as u16 - 2).to_be_bytes());
        }
        let mut esp = common::SPI.to_be_bytes().to_vec();
        esp.extend([0, 0, 0, 1]);
        esp.extend(vec![9; suite.iv_len()]);
        esp.extend(text);
        esp.extend(vec![0; suite.icv_len()]);
        let sealer = engine::new(suite, &keys(suite)).unwrap();
        sealer.seal(engine::Job { esp: &mut esp, sequence_high: None }).unwrap();
        let mut receiver = inbound(suite, false);
        let outcome = receiver.open(&mut esp, tos);
        prop_assert_ne!(outcome, Err(OpenError::AuthenticationFailed));
        prop_assert_eq!(receiver.highest_sequence(), 1);
    }

    /// The MTU arithmetic against sealing itself: the largest fits, one octet more would not.
    #[test]
    fn the_inner_mtu_is_exact(suite in suite(), ipv6: bool, udp: bool, mtu in 576_u16..9000) {
        let largest = mtu::inner_mtu(mtu, suite, ipv6, udp);
        let path = gateway_esp::Tunnel { mtu: u16::MAX, ..tunnel(ipv6, udp) };
        let mut sender = outbound(suite, false, path);
        let outer_len = |sender: &mut _, size: u16| seal(sender, &inner(size.into(), 0)).len() - 14;
        prop_assert!(outer_len(&mut sender, largest) <= mtu.into());
        prop_assert!(outer_len(&mut sender, largest + 1) > mtu.into());
    }
}

/// Every bit of every octet, from the SPI to the ICV.
#[test]
fn any_flipped_bit_is_refused() {
    for suite in Suite::ALL {
        for esn in [false, true] {
            let frame = seal(&mut outbound(suite, esn, tunnel(false, false)), &inner(61, 0));
            let esp = &frame[Received::parse(&frame).unwrap().esp];
            let mut receiver = inbound(suite, esn);
            for bit in 0..esp.len() * 8 {
                let mut damaged = esp.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(receiver.open(&mut damaged, 0).is_err(), "{suite} bit {bit}");
                assert_eq!(
                    receiver.highest_sequence(),
                    0,
                    "{suite} bit {bit} moved the window"
                );
            }
            assert!(
                receiver.open(&mut esp.to_vec(), 0).is_ok(),
                "{suite}: the packet itself is good"
            );
        }
    }
}

/// Cut or lengthened packets, too.
#[test]
fn any_other_length_is_refused() {
    for suite in Suite::ALL {
        let frame = seal(&mut outbound(suite, false, tunnel(false, false)), &inner(61, 0));
        let esp = &frame[Received::parse(&frame).unwrap().esp];
        let mut receiver = inbound(suite, false);
        for length in (0..esp.len()).chain(esp.len() + 1..esp.len() + 40) {
            let mut other = esp.to_vec();
            other.resize(length, 0);
            assert!(receiver.open(&mut other, 0).is_err(), "{suite} {length}");
        }
    }
}

/// Sealing writes nothing outside the range it answers.
#[test]
fn sealing_stays_inside_its_frame() {
    for suite in Suite::ALL {
        for size in 20..70 {
            let mut frame = vec![0xee; 40 + HEADROOM_MAX];
            frame.extend(inner(size, 0));
            frame.extend([0xee; TAILROOM_MAX + 40]);
            let start = 40 + HEADROOM_MAX;
            let range = outbound(suite, true, tunnel(true, true))
                .seal(&mut frame, start..start + size)
                .unwrap();
            assert!(
                frame[..range.start]
                    .iter()
                    .chain(&frame[range.end..])
                    .all(|octet| *octet == 0xee)
            );
            assert!(range.start >= 40 && range.end <= frame.len() - 40);
        }
    }
}
