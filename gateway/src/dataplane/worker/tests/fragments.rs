//! Fragments through two workers: outer ones are put together, clear ones come out in order.

use std::net::SocketAddr;

use gateway_common::abi::sa::fragment as mark;

use super::super::alone::{FragmentWorker, Whole};
use super::super::fragment::fragment as cut;
use super::*;
use crate::dataplane::ike_spis::IkeSpis;

/// Outer fragments of an Ethernet frame; `cuts` are multiples of eight.
fn outer_fragments(frame: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let header_len = if frame[LINK_LEN] >> 4 == 4 { 20 } else { 40 };
    let (header, payload) = frame.split_at(LINK_LEN + header_len);
    let starts = [&[0], cuts].concat();
    let ends = [cuts, &[payload.len()]].concat();
    let piece = |(&start, &end): (&usize, &usize)| {
        let more = end < payload.len();
        let mut piece = header.to_vec();
        if header_len == 20 {
            let place = (start / 8) as u16 | if more { 0x2000 } else { 0 };
            piece[16..18].copy_from_slice(&((20 + end - start) as u16).to_be_bytes());
            piece[20..22].copy_from_slice(&place.to_be_bytes());
        } else {
            let next = core::mem::replace(&mut piece[20], 44);
            piece[18..20].copy_from_slice(&((8 + end - start) as u16).to_be_bytes());
            piece.extend([next, 0]);
            piece.extend((start as u16 | u16::from(more)).to_be_bytes());
            piece.extend([0, 0, 0, 9]);
        }
        piece.extend(&payload[start..end]);
        piece
    };
    starts.iter().zip(&ends).map(piece).collect()
}

impl Bench {
    /// Fragments come by both queues in turn.
    fn arrive_anywhere(&mut self, port: usize, frames: impl IntoIterator<Item = Vec<u8>>) {
        for (number, frame) in frames.into_iter().enumerate() {
            self.arrive(number % 2, port, frame);
            for _ in 0..3 {
                self.round(0);
                self.round(1);
            }
        }
    }

    fn left_anywhere(&mut self, port: usize) -> Vec<Vec<u8>> {
        [self.left(0, port), self.left(1, port)].concat()
    }

    fn drops_anywhere(&self, reason: DropReason) -> u64 {
        self.drops(0, reason) + self.drops(1, reason)
    }
}

fn center_frames(pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
    waiting_frames(pieces, mark::OF_CENTER)
}

fn waiting_frames(pieces: &[Vec<u8>], side: [u8; 4]) -> Vec<Vec<u8>> {
    let link = ClearHeader::of_fragment(mark::CENTER_WAITS, 0, side);
    let framed = pieces.iter().map(|piece| [link.as_bytes(), piece].concat());
    framed.collect()
}

/// A UDP packet from port 1024 to port 53.
fn query(source: [u8; 4], destination: [u8; 4], len: usize) -> Vec<u8> {
    let mut packet = packet(source, destination, len, false);
    packet[20..28].copy_from_slice(&[4, 0, 0, 53, ((len - 20) >> 8) as u8, (len - 20) as u8, 0, 0]);
    packet
}

#[test]
fn esp_in_outer_fragments_is_opened_whatever_their_order_and_queue() {
    for (ends, udp) in [
        (OVER_IPV4, None),
        (OVER_IPV4, NAT_T),
        (OVER_IPV6, None),
        (OVER_IPV6, NAT_T),
    ] {
        for cuts in [&[24][..], &[512, 1024], &[16, 24, 32, 800]] {
            let mut bench = Bench::over(ends, Suite::AesGcm16_256, udp, 1);
            let up = packet(TERMINAL, SERVER, 1400, true);
            let sealed = bench.sealed_by_router(&up);
            let mut pieces = outer_fragments(&sealed, cuts);
            bench.arrive_anywhere(WAN, pieces.clone());
            let clear = bench.left_anywhere(CLEAR);
            assert_eq!(clear.len(), 1, "{ends:?} {udp:?} {cuts:?}");
            assert_eq!(clear[0][LINK_LEN..], up);

            let sealed = bench.sealed_by_router(&up);
            pieces = outer_fragments(&sealed, cuts);
            pieces.reverse();
            bench.arrive_anywhere(WAN, pieces);
            assert_eq!(
                bench.left_anywhere(CLEAR)[0][LINK_LEN..],
                up,
                "the last one first"
            );
            bench.assert_no_leak();
        }
    }
}

/// Regression: `wan` does not see what fragments make. A packet that was caught on its way, taken out of its UDP and sent on in
/// two pieces told the controller of a peer at port 0, where none receives.
#[test]
fn an_sa_in_udp_takes_no_plain_esp_that_fragments_make() {
    let mut bench = Bench::new(Suite::AesGcm16_256, NAT_T, 1);
    let up = packet(TERMINAL, SERVER, 1000, true);
    let sealed = bench.sealed_by_router(&up);
    bench.arrive_anywhere(WAN, outer_fragments(&sealed, &[512]));
    assert_eq!(bench.left_anywhere(CLEAR).len(), 1);
    assert!(matches!(bench.reports.pop(), Some(WorkerReport::FirstInbound(_))));
    bench
        .router_out
        .set_tunnel(&tunnel((OVER_IPV4.1, OVER_IPV4.0), None))
        .unwrap();
    let sealed = bench.sealed_by_router(&up);
    bench.arrive_anywhere(WAN, outer_fragments(&sealed, &[512]));
    assert_eq!(bench.reports.pop(), None);
    assert!(bench.left_anywhere(CLEAR).is_empty());
    assert_eq!(bench.drops_anywhere(DropReason::SaEncapsulation), 1);
    bench.assert_no_leak();
}

/// A site whose kernel seals whole packets and cuts them afterwards. They are longer than a frame of the rings, and may be
/// put together at a worker that has not their SA.
#[test]
fn a_packet_longer_than_a_frame_goes_on_in_fragments_whatever_worker_put_it_together() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    // It cuts what it has sealed, and not before.
    let path = Tunnel {
        mtu: u16::MAX,
        ..tunnel((OVER_IPV4.1, OVER_IPV4.0), None)
    };
    bench.router_out.set_tunnel(&path).unwrap();
    for round in 0..8 {
        let up = query(TERMINAL, SERVER, 8000);
        let mut sealed = bench.sealed_by_router(&up);
        // Another identification may lead to the other worker.
        sealed[18..20].copy_from_slice(&[round, 7]);
        let cuts: Vec<usize> = (1480..sealed.len() - LINK_LEN - 20).step_by(1480).collect();
        bench.arrive_anywhere(WAN, outer_fragments(&sealed, &cuts));
        let clear = bench.left_anywhere(CLEAR);
        assert!(clear.iter().all(|frame| frame.len() <= LINK_LEN + 1280));
        let payload: Vec<u8> = clear
            .iter()
            .flat_map(|frame| frame[LINK_LEN + 20..].to_vec())
            .collect();
        assert_eq!(payload, up[20..], "round {round}");
    }
    let mut whole = query(TERMINAL, SERVER, 8000);
    whole[6] |= 0x40;
    let sealed = bench.sealed_by_router(&whole);
    bench.arrive_anywhere(WAN, outer_fragments(&sealed, &[1480, 2960, 4440, 5920, 7400]));
    assert!(bench.left_anywhere(CLEAR).is_empty(), "it must not be cut");
    assert_eq!(bench.drops_anywhere(DropReason::NextHopTooBig), 1);
    bench.assert_no_leak();
}

#[test]
fn congestion_that_a_fragment_met_reaches_the_inner_packet() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let mut up = packet(TERMINAL, SERVER, 1000, true);
    up[1] = 2;
    let sealed = bench.sealed_by_router(&up);
    let mut pieces = outer_fragments(&sealed, &[512]);
    pieces[1][15] |= 3;
    bench.arrive_anywhere(WAN, pieces);
    assert_eq!(
        bench.left_anywhere(CLEAR)[0][LINK_LEN + 1],
        3,
        "RFC 3168 section 5.3"
    );
    let sealed = bench.sealed_by_router(&up);
    let mut pieces = outer_fragments(&sealed, &[512]);
    (pieces[0][15], pieces[1][15]) = (0, 3);
    bench.arrive_anywhere(WAN, pieces);
    assert_eq!(bench.drops_anywhere(DropReason::EspEcn), 1, "one cannot tell");
}

fn checksum(octets: &[u8]) -> [u8; 2] {
    let sum: u32 = octets
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

/// An IKE datagram in an Ethernet frame over IPv6.
fn ike_over_ipv6(source: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let IpAddr::V6(local) = OVER_IPV6.0 else {
        panic!("IPv6")
    };
    let length = (8 + message.len() as u16).to_be_bytes();
    let mut udp = [&[0x10, 0xe1, 0x01, 0xf4], &length[..], &[0, 0], message].concat();
    let pseudo = [&source.octets()[..], &local.octets(), &[0, 17], &length, &udp].concat();
    udp[6..8].copy_from_slice(&checksum(&pseudo));
    let mut frame = [&[2; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0], &length, &[17, 64]].concat();
    frame.extend(source.octets());
    frame.extend(local.octets());
    frame.extend(udp);
    frame
}

/// An IKE datagram of the router in an Ethernet frame.
fn ike(destination_port: u16, message: &[u8], has_checksum: bool) -> Vec<u8> {
    let (IpAddr::V4(local), IpAddr::V4(remote)) = OVER_IPV4 else {
        panic!("IPv4")
    };
    let mut udp = [&4321u16.to_be_bytes()[..], &destination_port.to_be_bytes()].concat();
    udp.extend((8 + message.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(message);
    if has_checksum {
        let pseudo = [&remote.octets()[..], &local.octets(), &[0, 17], &udp[4..6], &udp].concat();
        udp[6..8].copy_from_slice(&checksum(&pseudo));
    }
    let mut frame = [&[2; 12][..], &[8, 0, 0x45, 0]].concat();
    frame.extend((20 + udp.len() as u16).to_be_bytes());
    frame.extend([0x77, 0x01, 0, 0, 64, 17, 0, 0]);
    frame.extend(remote.octets());
    frame.extend(local.octets());
    frame.extend(udp);
    frame
}

/// A router that does not do RFC 7383 sends its certificates in IP fragments.
#[test]
fn ike_in_fragments_reaches_the_daemon() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let message: Vec<u8> = (0..6001u32).map(|octet| octet as u8 | 1).collect();
    let marked = [&[0; 4][..], &message].concat();
    for (port, payload, has_checksum) in [
        (500, &message, true),
        (4500, &marked, true),
        (500, &message, false),
    ] {
        let mut pieces = outer_fragments(&ike(port, payload, has_checksum), &[1480, 2960, 4440, 5920]);
        pieces.swap(0, 3);
        bench.arrive_anywhere(WAN, pieces);
        let datagram = bench.ike.try_recv().unwrap();
        assert_eq!(datagram.payload, *payload);
        assert_eq!(datagram.remote, SocketAddr::new(ROUTER.into(), 4321));
        assert_eq!(datagram.local, SocketAddr::new(OVER_IPV4.0, port));
    }
    let mut damaged = ike(500, &message, true);
    damaged[300] ^= 1;
    bench.arrive_anywhere(WAN, outer_fragments(&damaged, &[1480, 2960]));
    assert_eq!(bench.drops_anywhere(DropReason::TruncatedUdp), 1);
    let elsewhere = ike(53, &message, true);
    bench.arrive_anywhere(WAN, outer_fragments(&elsewhere, &[1480, 2960]));
    assert_eq!(bench.drops_anywhere(DropReason::OuterProtocol), 1);
    assert!(bench.ike.try_recv().is_err());
    bench.assert_no_leak();
}

#[test]
fn ike_in_fragments_is_limited_for_each_source() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let message = vec![7; 3000];
    for number in 0..60u8 {
        let mut frame = ike(500, &message, true);
        frame[19] = number;
        bench.arrive_anywhere(WAN, outer_fragments(&frame, &[1480]));
    }
    // Each worker counts its own.
    let received = bench.ike.try_iter().count();
    assert!((20..=40).contains(&received), "{received}");
    assert_eq!(
        bench.drops_anywhere(DropReason::IkeRateLimit),
        60 - received as u64
    );
}

/// Messages among these, each in two fragments, that an only worker lets through to the daemon.
fn ike_let_through(frames: impl IntoIterator<Item = Vec<u8>>) -> usize {
    let through = which_ike_is_let_through(FragmentWorker::default(), frames);
    through.into_iter().filter(|through| *through).count()
}

/// Of each of these, whether the worker lets it through.
fn which_ike_is_let_through(
    mut worker: FragmentWorker,
    frames: impl IntoIterator<Item = Vec<u8>>,
) -> Vec<bool> {
    let mut which = vec![];
    for frame in frames {
        let mut through = false;
        for piece in outer_fragments(&frame, &[1448]) {
            match worker.outer(&piece) {
                Ok(None) | Err(DropReason::IkeRateLimit) => {}
                Ok(Some(Whole::Ike(_))) => through = true,
                other => panic!("{other:?}"),
            }
        }
        which.push(through);
    }
    which
}

/// Regression: forged messages in its address's name had a site's own turned away, too.
#[test]
fn ike_in_fragments_on_an_ike_sa_is_let_through_beyond_the_limit_of_its_source() {
    const SPI: u64 = 0x0102_0304_0506_0708;
    let message = |[initiator, responder]: [u64; 2], flags: u8| {
        let spis = [initiator.to_be_bytes(), responder.to_be_bytes()].concat();
        [&spis[..], &[53, 0x20, 36, flags], &[0; 1980]].concat()
    };
    for port in [500u16, 4500] {
        for of_sa in [message([9, SPI], 0x08), message([SPI, 9], 0x20)] {
            let spis = IkeSpis::in_memory().unwrap();
            assert!(spis.put(SPI));
            let forged = message([9, SPI ^ 1 << 63], 0x08);
            let all = [&forged, &of_sa].map(|message| std::iter::repeat_n(message, 30));
            let frames = all.into_iter().flatten().zip(0u16..).map(|(message, number)| {
                let marker: &[u8] = if port == 4500 { &[0; 4] } else { &[] };
                let mut frame = ike(port, &[marker, message].concat(), false);
                frame[18..20].copy_from_slice(&number.to_be_bytes());
                frame
            });
            let which = which_ike_is_let_through(FragmentWorker::default().knowing(Arc::new(spis)), frames);
            // Twenty in the name of the address, and twenty on the IKE SA.
            let expected = [[true; 20].as_slice(), &[false; 10], &[true; 20], &[false; 10]].concat();
            assert_eq!(which, expected, "port {port}");
        }
    }
}

/// Whoever has an IPv6 /64 has all of its addresses.
#[test]
fn ike_in_fragments_of_all_addresses_of_a_prefix_is_that_of_one_source() {
    let of = |network: u16, host: u16| {
        let source = Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host);
        ike_over_ipv6(source, &[7; 2000])
    };
    assert_eq!(ike_let_through((1..=1000).map(|host| of(1, host))), 20);
    assert_eq!(ike_let_through((1..=40).map(|host| of(host % 2, host))), 40);
}

#[test]
fn ike_in_fragments_is_limited_for_all_sources_together() {
    let of = |number: usize| {
        let mut frame = ike(500, &[7; 2000], false);
        // Another source, and another packet of the same.
        frame[28..30].copy_from_slice(&(number as u16 % 100).to_be_bytes());
        frame[18..20].copy_from_slice(&(number as u16).to_be_bytes());
        frame
    };
    assert_eq!(ike_let_through((0..900).map(of)), 900);
    assert_eq!(ike_let_through((0..2000).map(of)), 1000);
}

#[test]
fn fragments_of_a_site_go_on_in_order_with_their_ports() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let whole = query(TERMINAL, SERVER, 8028);
    let mut pieces = cut(&whole, 1400).unwrap();
    let count = pieces.len();
    pieces.rotate_left(2);
    for piece in &pieces {
        assert!(
            bench.left(1, CLEAR).is_empty(),
            "nothing goes on before all are there"
        );
        let sealed = bench.sealed_by_router(piece);
        bench.arrive(1, WAN, sealed);
    }
    let clear = bench.left(1, CLEAR);
    assert_eq!(clear.len(), count);
    let mut payload: Vec<u8> = vec![];
    for (number, frame) in clear.iter().enumerate() {
        let (link, packet) = frame.split_at(LINK_LEN);
        let expected = if number == 0 {
            (mark::SITE_FIRST, SITE, 8008u32.to_be_bytes())
        } else {
            (mark::SITE_LATER, SITE, [4, 0, 0, 53])
        };
        let link = ClearHeader::read_from_bytes(link).unwrap();
        assert_eq!(link.read_fragment(), Some(expected), "{number}");
        let place = u16::from_be_bytes([packet[6], packet[7]]);
        assert_eq!(usize::from(place & 0x1fff) * 8, payload.len());
        assert_eq!(
            packet[4..6],
            clear[0][LINK_LEN + 4..LINK_LEN + 6],
            "one identification"
        );
        payload.extend(&packet[20..]);
    }
    assert_eq!(payload, whole[20..]);
    bench.assert_no_leak();
}

/// RFC 4787 REQ-13: what `clear` found too big for the next hop comes back in fragments that fit it.
#[test]
fn a_packet_too_big_for_the_next_hop_is_cut_and_judged_as_fragments_are() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let too_big = |packet: &[u8], mtu: u32| {
        let link = ClearHeader::of_fragment(mark::SITE_TOO_BIG, SITE, mtu.to_be_bytes());
        [link.as_bytes(), packet].concat()
    };
    let whole = query(TERMINAL, SERVER, 1400);
    bench.arrive(1, CORE, too_big(&whole, 600));
    let clear = bench.left(1, CLEAR);
    let links: Vec<_> = clear
        .iter()
        .map(|frame| {
            let link = ClearHeader::read_from_bytes(&frame[..LINK_LEN]).unwrap();
            link.read_fragment().unwrap()
        })
        .collect();
    let later = (mark::SITE_LATER, SITE, [4, 0, 0, 53]);
    let first = (mark::SITE_FIRST, SITE, 1380u32.to_be_bytes());
    assert_eq!(links, [first, later, later]);
    assert!(clear.iter().all(|frame| frame.len() <= LINK_LEN + 600));
    let payload: Vec<u8> = clear
        .iter()
        .flat_map(|frame| frame[LINK_LEN + 20..].to_vec())
        .collect();
    assert_eq!(payload, whole[20..]);

    bench.arrive(1, CORE, too_big(&whole, 600));
    let again = bench.left(1, CLEAR);
    assert_ne!(clear[0][18..20], again[0][18..20], "RFC 6864 section 5.3");

    // A link that carries no transport header, or nothing at all.
    for mtu in [24, 20, 0, u32::MAX] {
        bench.arrive(1, CORE, too_big(&whole, mtu));
    }
    bench.arrive(1, CORE, too_big(&whole[..30], 600));
    assert_eq!(bench.drops(1, DropReason::NextHopTooBig), 4);
    assert_eq!(bench.left(1, CLEAR).len(), 1, "what fits is whole");
    bench.assert_no_leak();
}

/// RFC 6864 section 5.3: two hosts of a site become one address.
#[test]
fn packets_of_hosts_with_the_same_identification_leave_with_different_ones() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let mut identifications = vec![];
    for host in [10, 11] {
        for piece in cut(&query([192, 168, 1, host], SERVER, 2000), 1400).unwrap() {
            let sealed = bench.sealed_by_router(&piece);
            bench.arrive(1, WAN, sealed);
        }
        let clear = bench.left(1, CLEAR);
        identifications.push([clear[0][18], clear[0][19]]);
    }
    assert_ne!(identifications[0], identifications[1]);
}

/// Sites may share an address and have their SAs at different workers.
#[test]
fn workers_give_packets_different_identifications() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let link = ClearHeader::of_fragment(mark::SITE_TOO_BIG, SITE, 600u32.to_be_bytes());
    let too_big = [link.as_bytes(), &query(TERMINAL, SERVER, 1400)].concat();
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..200 {
        let worker = number % 2;
        bench.arrive(worker, CORE, too_big.clone());
        let clear = bench.left(worker, CLEAR);
        assert!(
            seen.insert([clear[0][18], clear[0][19]]),
            "packet {number}: one of before"
        );
    }
}

#[test]
fn fragments_of_the_center_go_into_the_clear_link_in_order() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let mut whole = query(SERVER, [198, 51, 100, 1], 4028);
    // An echo reply: its identifier is that of the one who asked.
    whole[9] = 1;
    whole[20..28].copy_from_slice(&[0, 0, 0, 0, 0x43, 0x21, 0, 1]);
    let mut pieces = center_frames(&cut(&whole, 1500).unwrap());
    pieces.reverse();
    bench.arrive_anywhere(CORE, pieces);
    let clear = bench.left_anywhere(CLEAR);
    let links: Vec<_> = clear
        .iter()
        .map(|frame| {
            let link = ClearHeader::read_from_bytes(&frame[..LINK_LEN]).unwrap();
            link.read_fragment().unwrap()
        })
        .collect();
    let later = (mark::CENTER_LATER, 0, [0, 0, 0x43, 0x21]);
    let first = (mark::CENTER_FIRST, 0, 4008u32.to_be_bytes());
    assert_eq!(links, [first, later, later]);
    let payload: Vec<u8> = clear
        .iter()
        .flat_map(|frame| frame[LINK_LEN + 20..].to_vec())
        .collect();
    assert_eq!(payload, whole[20..]);
    bench.assert_no_leak();
}

/// Sources in the Internet may be forged: as many as there is room for, and more.
#[test]
fn fragments_of_the_internet_take_no_room_of_the_centers() {
    let mut worker = FragmentWorker::default();
    let halves = |source: u32, side| {
        let pieces = cut(&query(source.to_be_bytes(), [198, 51, 100, 1], 2000), 1500).unwrap();
        waiting_frames(&pieces, side)
    };
    let of_center = halves(0x0a64_000a, mark::OF_CENTER);
    assert_eq!(worker.core(&of_center[0]), Ok(vec![]));
    for source in 0..4096 {
        let forged = halves(0xcb00_0000 + source, mark::OF_INTERNET);
        assert_eq!(worker.core(&forged[0]), Ok(vec![]));
    }
    let [_, _, center, internet] = worker.held();
    assert_eq!((center.0, internet.0), (1, FragmentWorker::BOUNDS[1].packets));
    assert_eq!(
        worker.core(&of_center[1]).unwrap().len(),
        2,
        "it waited all the same"
    );
    let newest = halves(0xcb00_0000 + 4095, mark::OF_INTERNET);
    assert_eq!(worker.core(&newest[1]).unwrap().len(), 2);
    let dropped = worker.round(11);
    let expected = [
        (DropReason::FragmentTimeout, 2047),
        (DropReason::FragmentLimit, 2048),
    ];
    assert_eq!(dropped, expected);
}

#[test]
fn overlaps_and_late_ones_are_dropped_and_counted() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let pieces = cut(&query(TERMINAL, SERVER, 4000), 1400).unwrap();
    let mut overlapping = pieces[1].clone();
    overlapping[7] -= 1;
    for piece in [&pieces[0], &overlapping, &pieces[1], &pieces[2]] {
        let sealed = bench.sealed_by_router(piece);
        bench.arrive(1, WAN, sealed);
    }
    assert_eq!(
        bench.drops(1, DropReason::FragmentMalformed),
        4,
        "RFC 5722 section 3"
    );
    assert!(bench.left(1, CLEAR).is_empty());

    let other = cut(&query([192, 168, 1, 11], SERVER, 4000), 1400).unwrap();
    for piece in &other[..2] {
        let sealed = bench.sealed_by_router(piece);
        bench.arrive(1, WAN, sealed);
    }
    bench.workers[1].engine.now_s += 11;
    bench.round(1);
    assert_eq!(bench.drops(1, DropReason::FragmentTimeout), 2);
    let sealed = bench.sealed_by_router(&other[2]);
    bench.arrive(1, WAN, sealed);
    assert!(bench.left(1, CLEAR).is_empty());
    bench.assert_no_leak();
}

/// RFC 1858, RFC 3128: what the rules look at must be in the first fragment.
#[test]
fn a_first_fragment_without_its_whole_transport_header_is_dropped() {
    for (protocol, at, dropped) in [(6, 16, true), (6, 24, true), (6, 32, false), (17, 8, false)] {
        let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
        let mut whole = query(TERMINAL, SERVER, 200);
        whole[9] = protocol;
        if protocol == 6 {
            // 28 octets of TCP header.
            whole[32] = 0x70;
        }
        for piece in cut(&whole, 20 + at).unwrap() {
            let sealed = bench.sealed_by_router(&piece);
            bench.arrive(1, WAN, sealed);
        }
        assert_eq!(bench.left(1, CLEAR).is_empty(), dropped, "{protocol} {at}");
    }
}

#[test]
fn garbage_in_fragments_never_panics() {
    let mut bench = Bench::new(Suite::AesGcm16_256, NAT_T, 1);
    let sealed = bench.sealed_by_router(&packet(TERMINAL, SERVER, 200, true));
    let outer = outer_fragments(&sealed, &[64]);
    let center = center_frames(&cut(&query(SERVER, TERMINAL, 200), 100).unwrap());
    for (port, frame) in [
        (WAN, &outer[0]),
        (WAN, &outer[1]),
        (CORE, &center[0]),
        (CORE, &center[1]),
    ] {
        for len in 0..frame.len() {
            bench.arrive(1, port, frame[..len].to_vec());
        }
        for position in 0..60.min(frame.len()) {
            for bit in 0..8 {
                let mut damaged = frame.clone();
                damaged[position] ^= 1 << bit;
                bench.arrive(1, port, damaged);
            }
        }
        bench.workers[1].engine.now_s += 60;
        bench.round(0);
        bench.round(1);
    }
    bench.assert_no_leak();
}
