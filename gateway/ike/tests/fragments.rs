//! IKE fragmentation (RFC 7383) over paths that lose long datagrams, single fragments, or everything now and
//! then.

mod common;

use std::net::SocketAddr;

use common::*;
use gateway_ike::{Command, wire::payload_type};

fn longest(sim: &Sim) -> usize {
    let lengths = sim.sent.iter().map(|one| one.payload.len());
    lengths.max().unwrap()
}

fn is_fragment(datagram: &Datagram) -> bool {
    datagram.payload[16] == payload_type::SKF
}

/// A path that loses longer datagrams and says nothing: IKE_AUTH gets through, in both directions.
#[test]
fn a_narrow_path_is_found_by_silence() {
    // At 600 octets the request is lost and cut; at 1,000 it passes, and only the answer is too long.
    for mtu in [600, 1_000] {
        let mut site = site_config();
        // IKE_SA_INIT is never fragmented (RFC 7383 section 2.5): it has to fit as it is.
        site.ike_proposals = vec!["aes256gcm16-prfsha256-x25519".parse().unwrap()];
        let mut sim = Sim::new(site, center_config(), 1);
        sim.mtu = mtu;
        sim.initiate();
        sim.run_ms(20_000);
        sim.assert_agreement();
        assert!(sim.planes[SITE].sending_on.is_some(), "{}", sim.words(SITE));
        assert!(longest(&sim) + 28 > mtu, "longer ones were tried first");
        assert!(sim.endpoints[SITE].counters().cut_smaller > 0);
        // What was learnt is kept.
        let (tried, ike_sa) = (sim.sent.len(), sim.only_ike_sa(SITE));
        sim.command(SITE, Command::RekeyIke(ike_sa));
        sim.run_ms(500);
        assert_ne!(sim.only_ike_sa(SITE), ike_sa);
        assert!(sim.sent[tried..].iter().all(|one| one.payload.len() + 28 <= mtu));
    }
}

/// RFC 7383 section 2.5.1: every IPv6 path carries 1,280 octets; nothing smaller is tried, and nothing longer
/// is sent by default.
#[test]
fn ipv6_needs_1280() {
    let mut site = site_config();
    let remote = &mut site.connections[0].remotes[0];
    remote.local = "[2001:db8::1]:500".parse().unwrap();
    remote.address = "[2001:db8:1::1]:500".parse().unwrap();
    let mut sim = Sim::new(site, center_config(), 1);
    sim.site_addresses.push("2001:db8::1".parse().unwrap());
    sim.mtu = 1_280;
    sim.initiate();
    sim.run_ms(500);
    sim.assert_agreement();
    assert!(longest(&sim) > 1_100 && longest(&sim) <= 1_232);
    assert_eq!(sim.endpoints[SITE].counters().retransmitted, 0);

    let (mut site, mut center) = (site_config(), center_config());
    let remote = &mut site.connections[0].remotes[0];
    remote.local = "[2001:db8::1]:500".parse().unwrap();
    remote.address = "[2001:db8:1::1]:500".parse().unwrap();
    (site.fragment_size, center.fragment_size) = (Some(1_500), Some(1_500));
    let mut sim = Sim::new(site, center, 2);
    sim.site_addresses.push("2001:db8::1".parse().unwrap());
    sim.mtu = 1_300;
    sim.initiate();
    sim.run_ms(20_000);
    sim.assert_agreement();
    assert!(sim.planes[SITE].sending_on.is_some(), "{}", sim.words(SITE));
}

/// RFC 7383 section 2.6.1: whichever single fragment is lost, the repetition brings all of them, and the answer
/// is repeated whole.
#[test]
fn each_fragment_may_be_lost() {
    let make = || {
        let (mut site, mut center) = (site_config(), center_config());
        (site.fragment_size, center.fragment_size) = (Some(500), Some(500));
        Sim::new(site, center, 3)
    };
    let mut whole = make();
    whole.initiate();
    whole.run_ms(500);
    let fragments = whole.sent.iter().filter(|one| is_fragment(one)).count();
    assert!(fragments >= 6, "{fragments}");
    for lost in 0..fragments {
        let mut sim = make();
        sim.initiate();
        let mut seen = 0;
        while let Some((_, datagram)) = sim.in_flight.pop_first() {
            if is_fragment(&datagram) {
                seen += 1;
                if seen == lost + 1 {
                    continue;
                }
            }
            sim.deliver(&datagram);
        }
        assert_eq!(seen, fragments.min(seen));
        sim.run_ms(2_000);
        sim.assert_agreement();
        assert!(
            sim.planes[SITE].sending_on.is_some(),
            "fragment {lost}: {}",
            sim.words(SITE)
        );
        assert!(sim.endpoints[SITE].counters().retransmitted <= 1);
    }
}

/// RFC 7383 section 2.3: who did not announce fragments is sent none, and takes none.
#[test]
fn no_fragments_without_agreement() {
    for (of_site, of_center) in [(Some(500), None), (None, Some(500))] {
        let (mut site, mut center) = (site_config(), center_config());
        (site.fragment_size, center.fragment_size) = (of_site, of_center);
        let sim = connected(site, center, 4);
        assert!(!sim.sent.iter().any(is_fragment));
        assert!(longest(&sim) > 1_000);
    }
}

/// Odd fragments: truncated, numbered beyond the end, of another total, doubled, out of order, from the past.
#[test]
fn odd_fragments_change_nothing() {
    for seed in 0..40 {
        let (mut site, mut center) = (site_config(), center_config());
        (site.fragment_size, center.fragment_size) = (Some(400), Some(400));
        let mut sim = Sim::new(site, center, seed);
        sim.initiate();
        let mut old: Vec<Datagram> = Vec::new();
        while let Some((_, datagram)) = sim.in_flight.pop_first() {
            if is_fragment(&datagram) {
                for _ in 0..6 {
                    let mut odd = datagram.clone();
                    match sim.rng.below(5) {
                        0 => {
                            let len = 28 + sim.rng.below(odd.payload.len() as u64 - 28);
                            odd.payload.truncate(usize::try_from(len).unwrap());
                            odd.payload[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
                        }
                        1 => odd.payload[33] = sim.rng.next() as u8,
                        2 => odd.payload[35] = sim.rng.next() as u8,
                        3 => odd.payload[28] ^= sim.rng.next() as u8 | 1,
                        _ => odd.from = SocketAddr::new(odd.from.ip(), 9),
                    }
                    let genuine = odd.payload == datagram.payload;
                    if !genuine {
                        sim.deliver(&odd);
                    }
                }
                for again in old.iter().rev().take(3).cloned().collect::<Vec<_>>() {
                    sim.deliver(&again);
                }
                old.push(datagram.clone());
            }
            sim.deliver(&datagram);
            assert!(sim.sent.len() < 2_000, "seed {seed}");
        }
        sim.run_ms(5_000);
        sim.assert_agreement();
        assert!(
            sim.planes[SITE].sending_on.is_some(),
            "seed {seed}: {}",
            sim.words(SITE)
        );
    }
}
