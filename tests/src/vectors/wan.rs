//! Vectors of `wan`.

use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::{self, *};
use gateway_common::packet;

use super::world::{
    self, GATEWAY, GATEWAY_FURTHER, GATEWAY6, GATEWAY6_FURTHER, MAC, MAC_HOP, ROUTER, ROUTER6, SPI, SPI_UDP,
    SPI6,
};
use super::{Expect, Program, Step, Vector};
use crate::frames::{ethernet, fix_ipv4, ipv4, ipv6, udp};

/// Place of the hop limit in a frame of IPv6.
const HOP_LIMIT: usize = (packet::ethernet::LENGTH + packet::ipv6::HOP_LIMIT) as usize;

/// ESP with 40 bytes behind SPI and sequence number.
fn esp(spi: [u8; 4]) -> Vec<u8> {
    [&spi[..], &[0, 0, 0, 1], &[0xa5; 40]].concat()
}

fn frame4(packet: &[u8]) -> Vec<u8> {
    ethernet(MAC, MAC_HOP, 0x0800, packet)
}

fn frame6(packet: &[u8]) -> Vec<u8> {
    ethernet(MAC, MAC_HOP, 0x86dd, packet)
}

fn from_router(protocol: u8, payload: &[u8]) -> Vec<u8> {
    frame4(&ipv4(protocol, ROUTER, GATEWAY, payload))
}

/// By one router: its hop limit is one less.
fn passed_on(mut frame: Vec<u8>) -> Vec<u8> {
    frame[HOP_LIMIT] -= 1;
    frame
}

fn from_router6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    frame6(&ipv6(next_header, ROUTER6, GATEWAY6, payload))
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let accepted = accepted().into_iter().map(|(words, frame, path)| {
        let to_worker = matches!(path, Path::WanEsp | Path::WanFragment);
        let expect = if to_worker {
            Expect::Worker(path, frame.clone())
        } else {
            Expect::Pass(path)
        };
        Vector::single(words, now_s, Program::Wan, frame, expect)
    });
    let dropped = dropped()
        .into_iter()
        .chain(dropped_ip())
        .map(|(words, frame, reason)| {
            Vector::single(words, now_s, Program::Wan, frame, Expect::Drop(reason))
        });
    let mut vectors: Vec<Vector> = accepted.chain(dropped).collect();
    vectors.extend(worlds(now_s));
    vectors
}

/// A fragment of 48 octets.
fn fragment(protocol: u8, place: [u8; 2]) -> Vec<u8> {
    let mut frame = from_router(protocol, &esp(SPI));
    frame[20..22].copy_from_slice(&place);
    fix_ipv4(&mut frame[14..]);
    frame
}

fn fragment_to(destination: [u8; 4]) -> Vec<u8> {
    let mut frame = fragment(50, [0x20, 0]);
    frame[30..34].copy_from_slice(&destination);
    fix_ipv4(&mut frame[14..]);
    frame
}

fn accepted() -> Vec<(&'static str, Vec<u8>, Path)> {
    let ike = [0x11; 40];
    let marked = [&[0; 4][..], &ike].concat();
    vec![
        (
            "ESP over IPv4 goes to the worker",
            from_router(50, &esp(SPI)),
            Path::WanEsp,
        ),
        (
            "ESP over IPv6 goes to the worker",
            from_router6(50, &esp(SPI6)),
            Path::WanEsp,
        ),
        (
            "ESP in UDP goes to the worker",
            from_router(17, &udp(61000, 4500, &esp(SPI_UDP))),
            Path::WanEsp,
        ),
        (
            "ESP in UDP of an SA without a NAT goes to the worker",
            from_router(17, &udp(4500, 4500, &esp(SPI))),
            Path::WanEsp,
        ),
        (
            "the shortest ESP goes to the worker",
            from_router(50, &esp(SPI)[..24]),
            Path::WanEsp,
        ),
        ("IKE passes", from_router(17, &udp(500, 500, &ike)), Path::WanIke),
        (
            "IKE behind the non-ESP marker passes",
            from_router(17, &udp(61000, 4500, &marked)),
            Path::WanIke,
        ),
        (
            "IKE over IPv6 passes",
            from_router6(17, &udp(500, 500, &ike)),
            Path::WanIke,
        ),
        (
            "IKE to a further address of the interface passes",
            frame4(&ipv4(17, ROUTER, GATEWAY_FURTHER, &udp(500, 500, &ike))),
            Path::WanIke,
        ),
        (
            "IKE over IPv6 to a further address of the interface passes",
            frame6(&ipv6(17, ROUTER6, GATEWAY6_FURTHER, &udp(500, 500, &ike))),
            Path::WanIke,
        ),
        (
            "ARP passes",
            ethernet([255; 6], MAC_HOP, 0x0806, &[0; 46]),
            Path::WanPassed,
        ),
        (
            "ICMP 'fragmentation needed' passes",
            from_router(1, &[3, 4, 0, 0, 0, 0, 5, 0]),
            Path::WanPassed,
        ),
        (
            "ICMPv6 'packet too big' passes",
            from_router6(58, &[2, 0, 0, 0, 0, 0, 5, 0]),
            Path::WanPassed,
        ),
        (
            "the first fragment of ESP goes to the worker",
            fragment(50, [0x20, 0]),
            Path::WanFragment,
        ),
        (
            "a later fragment of ESP goes to the worker",
            fragment(50, [0x20, 6]),
            Path::WanFragment,
        ),
        (
            "the last fragment of UDP goes to the worker",
            fragment(17, [0, 9]),
            Path::WanFragment,
        ),
        (
            "an IPv6 fragment of ESP goes to the worker",
            from_router6(44, &[50, 0, 0, 1, 0, 0, 0, 1]),
            Path::WanFragment,
        ),
        (
            "an IPv6 fragment of UDP goes to the worker",
            from_router6(44, &[17, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3]),
            Path::WanFragment,
        ),
        (
            "neighbour solicitation to a multicast group passes",
            frame6(&ipv6(
                58,
                ROUTER6,
                [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1],
                &[135; 24],
            )),
            Path::WanPassed,
        ),
        (
            "router advertisement passes",
            from_router6(58, &[134, 0, 0, 0, 0, 0, 0, 0]),
            Path::WanPassed,
        ),
    ]
}

fn dropped() -> Vec<(&'static str, Vec<u8>, DropReason)> {
    let other_host = [192, 0, 2, 2];
    let to_other = |protocol, payload: &[u8]| frame4(&ipv4(protocol, ROUTER, other_host, payload));
    let mut other6 = GATEWAY6;
    other6[15] = 9;
    vec![
        (
            "an unknown ether type is dropped",
            ethernet(MAC, MAC_HOP, 0x8847, &[0; 46]),
            UnknownEtherType,
        ),
        (
            "an unknown SPI is dropped",
            from_router(50, &esp([0xc0, 0, 0, 9])),
            UnknownSpi,
        ),
        (
            "an SPI is dropped where the table has another's SA",
            from_router(50, &esp([SPI[0], SPI[1] | 4, SPI[2], SPI[3]])),
            UnknownSpi,
        ),
        ("SPI 0 is dropped", from_router(50, &esp([0; 4])), UnknownSpi),
        (
            "ESP shorter than an ICV is dropped",
            from_router(50, &esp(SPI)[..23]),
            TruncatedEsp,
        ),
        (
            "ESP without a sequence number is dropped",
            from_router(50, &SPI),
            TruncatedEsp,
        ),
        (
            "ESP without a payload is dropped",
            from_router(50, &[]),
            TruncatedEsp,
        ),
        (
            "ESP in UDP shorter than an ICV is dropped",
            from_router(17, &udp(61000, 4500, &SPI_UDP)),
            TruncatedEsp,
        ),
        (
            "ESP to another address is dropped",
            to_other(50, &esp(SPI)),
            SaDestination,
        ),
        (
            "an IPv6 SA does not take IPv4",
            from_router(50, &esp(SPI6)),
            SaDestination,
        ),
        (
            "an IPv4 SA does not take IPv6",
            from_router6(50, &esp(SPI)),
            SaDestination,
        ),
        (
            "an SA in UDP does not take plain ESP",
            from_router(50, &esp(SPI_UDP)),
            SaEncapsulation,
        ),
        (
            "a NAT keepalive is consumed",
            from_router(17, &udp(61000, 4500, &[0xff])),
            NatKeepalive,
        ),
        (
            "another single byte is no keepalive",
            from_router(17, &udp(61000, 4500, &[0xfe])),
            TruncatedUdp,
        ),
        (
            "empty UDP 4500 is dropped",
            from_router(17, &udp(61000, 4500, &[])),
            TruncatedUdp,
        ),
        (
            "IKE shorter than its header is dropped",
            from_router(17, &udp(500, 500, &[0; 27])),
            TruncatedUdp,
        ),
        (
            "a marker without IKE is dropped",
            from_router(17, &udp(500, 4500, &[0; 31])),
            TruncatedUdp,
        ),
        (
            "IKE to another address is dropped",
            to_other(17, &udp(500, 500, &[1; 40])),
            OuterDestination,
        ),
        (
            "IKE over IPv6 to another address is dropped",
            frame6(&ipv6(17, ROUTER6, other6, &udp(500, 500, &[1; 40]))),
            OuterDestination,
        ),
        (
            "IKE to no address is dropped, though places of addresses are free",
            frame4(&ipv4(17, ROUTER, [0; 4], &udp(500, 500, &[1; 40]))),
            OuterDestination,
        ),
        (
            "IKE over IPv6 to no address is dropped",
            frame6(&ipv6(17, ROUTER6, [0; 16], &udp(500, 500, &[1; 40]))),
            OuterDestination,
        ),
        (
            "ICMP to another address is dropped",
            to_other(1, &[3, 4, 0, 0, 0, 0, 5, 0]),
            OuterDestination,
        ),
        (
            "'packet too big' to another address is dropped",
            frame6(&ipv6(58, ROUTER6, other6, &[2, 0, 0, 0, 0, 0, 5, 0])),
            OuterDestination,
        ),
        (
            "ping from outside is dropped",
            from_router(1, &[8, 0, 0, 0, 0, 1, 0, 1]),
            OuterProtocol,
        ),
        (
            "ICMPv6 echo from outside is dropped",
            from_router6(58, &[128, 0, 0, 0, 0, 1, 0, 1]),
            OuterProtocol,
        ),
        (
            "a neighbour solicitation that a router passed on is dropped",
            passed_on(from_router6(58, &[135; 24])),
            DiscoveryHopLimit,
        ),
        (
            "a router advertisement that a router passed on is dropped",
            passed_on(from_router6(58, &[134, 0, 0, 0, 0, 0, 0, 0])),
            DiscoveryHopLimit,
        ),
        (
            "ICMP cut short is dropped",
            from_router(1, &[3, 4, 0, 0]),
            TruncatedIp,
        ),
        (
            "TCP from outside is dropped",
            from_router(6, &[0; 20]),
            OuterProtocol,
        ),
        (
            "UDP to another port is dropped",
            from_router(17, &udp(500, 53, &[0; 40])),
            OuterProtocol,
        ),
        (
            "GRE from outside is dropped",
            from_router(47, &[0; 20]),
            OuterProtocol,
        ),
    ]
}

fn dropped_ip() -> Vec<(&'static str, Vec<u8>, DropReason)> {
    let good = ipv4(50, ROUTER, GATEWAY, &esp(SPI));
    let changed = |offset: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[offset..offset + bytes.len()].copy_from_slice(bytes);
        frame4(&packet)
    };
    let mut short_udp = udp(500, 500, &[0; 40]);
    short_udp[5] = 7;
    let mut long_udp = udp(500, 500, &[0; 40]);
    long_udp[5] = 49;
    let good6 = ipv6(50, ROUTER6, GATEWAY6, &esp(SPI6));
    let mut wrong6 = good6.clone();
    wrong6[0] = 0x45;
    vec![
        (
            "an IPv4 header cut short is dropped",
            frame4(&good[..19]),
            TruncatedIp,
        ),
        (
            "IPv4 cut short is dropped",
            frame4(&good[..good.len() - 1]),
            TruncatedIp,
        ),
        ("an Ethernet header alone is dropped", frame4(&[]), TruncatedIp),
        ("IPv4 with version 6 is dropped", changed(0, &[0x65]), MalformedIp),
        (
            "IPv4 with a header of 16 bytes is dropped",
            changed(0, &[0x44]),
            MalformedIp,
        ),
        ("IPv4 with options is dropped", changed(0, &[0x46]), OuterOptions),
        (
            "IPv4 with a total length of 19 is dropped",
            changed(2, &[0, 19]),
            MalformedIp,
        ),
        (
            "UDP with a length of 7 is dropped",
            from_router(17, &short_udp),
            TruncatedUdp,
        ),
        (
            "UDP longer than its packet is dropped",
            from_router(17, &long_udp),
            TruncatedUdp,
        ),
        (
            "a UDP header cut short is dropped",
            from_router(17, &[1, 244, 1, 244]),
            TruncatedUdp,
        ),
        (
            "an IPv6 header cut short is dropped",
            frame6(&good6[..39]),
            TruncatedIp,
        ),
        (
            "IPv6 cut short is dropped",
            frame6(&good6[..good6.len() - 1]),
            TruncatedIp,
        ),
        ("IPv6 with version 4 is dropped", frame6(&wrong6), MalformedIp),
        (
            "an IPv6 fragment of TCP is dropped",
            from_router6(44, &[6, 0, 0, 1, 0, 0, 0, 1]),
            OuterFragment,
        ),
        (
            "an IPv6 fragment header that is cut short is dropped",
            from_router6(44, &[50, 0, 0, 1]),
            TruncatedIp,
        ),
        (
            "an IPv6 fragment with options behind its header is dropped",
            from_router6(44, &[60, 0, 0, 1, 0, 0, 0, 1]),
            OuterFragment,
        ),
        (
            "a fragment of ICMP is dropped",
            fragment(1, [0x20, 0]),
            OuterFragment,
        ),
        (
            "a fragment to another host is dropped",
            fragment_to([192, 0, 2, 2]),
            OuterDestination,
        ),
        (
            "IPv6 hop-by-hop options are dropped",
            from_router6(0, &[50, 0, 0, 0, 0, 0, 0, 0]),
            OuterOptions,
        ),
        (
            "an IPv6 routing header is dropped",
            from_router6(43, &[50, 0, 0, 0, 0, 0, 0, 0]),
            OuterOptions,
        ),
    ]
}

fn worlds(now_s: u32) -> Vec<Vector> {
    let frame = from_router(50, &esp(SPI));
    let drop = |reason| Expect::Drop(reason);
    let mut no_interface = Vector::single(
        "an interface without a role drops",
        now_s,
        Program::Wan,
        frame.clone(),
        drop(InterfaceUnknown),
    );
    no_interface.world.interface = None;
    let mut no_worker = Vector::single(
        "a queue without a worker drops",
        now_s,
        Program::Wan,
        frame,
        drop(NoWorker),
    );
    if let Some(interface) = &mut no_worker.world.interface {
        interface.queues = 0;
    }
    let mut rate = Vector {
        description: "one source's IKE is limited, another's passes".to_owned(),
        world: world::world(now_s),
        steps: vec![],
    };
    let ike = from_router(17, &udp(500, 500, &[1; 40]));
    for _ in 0..world::IKE_PER_S {
        rate.steps.push(Step {
            program: Program::Wan,
            frame: ike.clone(),
            expect: Expect::Pass(Path::WanIke),
        });
    }
    rate.steps.push(Step {
        program: Program::Wan,
        frame: ike,
        expect: drop(IkeRateLimit),
    });
    let other = frame4(&ipv4(17, [192, 0, 2, 78], GATEWAY, &udp(500, 500, &[1; 40])));
    rate.steps.push(Step {
        program: Program::Wan,
        frame: other,
        expect: Expect::Pass(Path::WanIke),
    });
    let ike6 = |last: u8| {
        let mut source = ROUTER6;
        source[15] = last;
        frame6(&ipv6(17, source, GATEWAY6, &udp(500, 500, &[1; 40])))
    };
    let mut rate6 = Vector {
        description: "all addresses of one IPv6 /64 are one source".to_owned(),
        world: world::world(now_s),
        steps: vec![],
    };
    for last in 1..=world::IKE_PER_S as u8 {
        let expect = Expect::Pass(Path::WanIke);
        rate6.steps.push(Step {
            program: Program::Wan,
            frame: ike6(last),
            expect,
        });
    }
    rate6.steps.push(Step {
        program: Program::Wan,
        frame: ike6(99),
        expect: drop(IkeRateLimit),
    });
    vec![no_interface, no_worker, rate, rate6]
        .into_iter()
        .chain(beyond_the_source_s_limit(now_s))
        .collect()
}

/// The header of an IKE message and twelve octets more: SPIs of initiator and responder, and whether the initiator sent it.
fn ike_message(spis: [u64; 2], of_initiator: bool) -> Vec<u8> {
    let [initiator, responder] = spis.map(u64::to_be_bytes);
    let flags = if of_initiator { 0x08 } else { 0 };
    let rest = [46, 0x20, 37, flags, 0, 0, 0, 1, 0, 0, 0, 40];
    [&initiator[..], &responder, &rest, &[0xa5; 12]].concat()
}

/// A message as it comes from the router: by which family, and to which port.
fn ike_frame(is_ipv6: bool, port: u16, message: &[u8]) -> Vec<u8> {
    let marker: &[u8] = if port == 4500 { &[0; 4] } else { &[] };
    let datagram = udp(61000, port, &[marker, message].concat());
    if is_ipv6 {
        from_router6(17, &datagram)
    } else {
        from_router(17, &datagram)
    }
}

/// What may come of a source that has sent as much IKE in this second as it may.
fn beyond_the_source_s_limit(now_s: u32) -> Vec<Vector> {
    use world::{IKE_PER_S, IKE_SPI};
    /// The peer's.
    const THEIRS: u64 = 0xfeed_0000_0000_0001;
    let step = |frame: &[u8], expect| Step {
        program: Program::Wan,
        frame: frame.to_vec(),
        expect,
    };
    let (pass, limited) = (Expect::Pass(Path::WanIke), Expect::Drop(IkeRateLimit));
    let mut vectors = vec![];
    for is_ipv6 in [false, true] {
        for port in [500, 4500] {
            let frame = |spis, of_initiator| ike_frame(is_ipv6, port, &ike_message(spis, of_initiator));
            let way = format!("to port {port} over {}", if is_ipv6 { "IPv6" } else { "IPv4" });
            let forged = frame([THEIRS, IKE_SPI ^ 1], true);
            let flood = || (0..IKE_PER_S).map(|_| step(&forged, pass.clone()));
            let beyond = |description: String, steps: Vec<Step>| Vector {
                description: format!("{description}, {way}"),
                world: world::world(now_s),
                steps: flood().chain(steps).collect(),
            };
            for (role, live) in [
                ("its initiator", frame([THEIRS, IKE_SPI], true)),
                ("its responder", frame([IKE_SPI, THEIRS], false)),
            ] {
                let of_sa = (0..IKE_PER_S).map(|_| step(&live, pass.clone()));
                let then = [step(&live, limited.clone()), step(&forged, limited.clone())];
                vectors.push(beyond(
                    format!("on an IKE SA {role} may send as much beyond its source's limit"),
                    [step(&forged, limited.clone())]
                        .into_iter()
                        .chain(of_sa)
                        .chain(then)
                        .collect(),
                ));
            }
            let turned_away = [
                (
                    "of an SPI in whose place there is none",
                    frame([THEIRS, 0x77], true),
                ),
                (
                    "of an SPI in whose place is another's",
                    frame([THEIRS, IKE_SPI ^ 1 << 63], true),
                ),
                ("that begins an IKE SA", frame([THEIRS, 0], true)),
                (
                    "of the initiator with our SPI as its own",
                    frame([IKE_SPI, THEIRS], true),
                ),
                (
                    "of the responder with our SPI as its own",
                    frame([THEIRS, IKE_SPI], false),
                ),
            ];
            for (words, frame) in turned_away {
                vectors.push(beyond(
                    format!("a message {words} is not passed beyond its source's limit"),
                    vec![step(&frame, limited.clone())],
                ));
            }
            let short = ike_frame(is_ipv6, port, &ike_message([THEIRS, IKE_SPI], true)[..27]);
            vectors.push(beyond(
                "a header that is cut short is not looked at beyond its source's limit".to_owned(),
                vec![step(&short, Expect::Drop(TruncatedUdp))],
            ));
        }
    }
    vectors
}
