//! Two workers over rings in memory, with real ESP: frames go in at a port, frames come out at another.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

use crossbeam_queue::ArrayQueue;
use gateway_common::abi::sa::LinkHeader as ClearHeader;
use gateway_common::drop::DropReason;
use gateway_esp::engine::Burst;
use gateway_esp::{
    InboundConfig, InboundSa, KeyMaterial, LinkHeader, OutboundConfig, OutboundSa, OuterDf, Selectors, Suite,
    TrafficSelector, Tunnel, UdpEncap,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::ahead::Ahead;
use super::commands::{Command, Install, Order, WorkerReport};
use super::fragments::{Fragments, IkeDatagram, IkeSink};
use super::handover::{Inbox, Side};
use super::rings::{BATCH, RingPort};
use super::table::SaTable;
use super::{Engine, Worker};
use crate::dataplane::sa::{SaCounters, SaHandle};
use crate::dataplane::stats::WorkerCounters;
use crate::dataplane::trace::Tracing;

mod ahead;
mod direct;
mod fragments;

const WAN: usize = 0;
const CORE: usize = 1;
const CLEAR: usize = 2;
const FRAME: usize = 4096;
const SITE: u32 = 7;
const SPI_IN: u32 = 0x1001;
const SPI_OUT: u32 = 0x2001;
const LINK_LEN: usize = 14;

/// Rings in memory; `free` frames are left.
struct MemoryRings {
    arrived: [VecDeque<Vec<u8>>; 2],
    left: [Vec<Vec<u8>>; 3],
    free: usize,
    missed: u64,
}

impl RingPort for MemoryRings {
    type Frame = (Vec<u8>, usize);

    fn receive(&mut self, port: usize, into: &mut Vec<Self::Frame>) {
        let count = self.arrived[port].len().min(BATCH).min(self.free);
        self.free -= count;
        into.extend(self.arrived[port].drain(..count).map(|mut frame| {
            let len = frame.len();
            frame.resize(FRAME, 0xee);
            (frame, len)
        }));
    }

    fn bytes<'a>(&'a mut self, frame: &'a mut Self::Frame) -> (&'a mut [u8], usize) {
        (&mut frame.0, frame.1)
    }

    fn each_bytes<'a>(&'a mut self, frames: &'a mut [Self::Frame]) -> impl Iterator<Item = &'a mut [u8]> {
        frames.iter_mut().map(|frame| &mut *frame.0)
    }

    fn set_len(&mut self, frame: &mut Self::Frame, len: usize) {
        frame.1 = len;
    }

    fn transmit(&mut self, port: usize, frame: Self::Frame) {
        self.left[port].push(frame.0[..frame.1].to_vec());
        self.free += 1;
    }

    fn flush(&mut self) -> usize {
        0
    }

    fn missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    fn allocate(&mut self) -> Option<Self::Frame> {
        self.free = self.free.checked_sub(1)?;
        Some((vec![0xee; FRAME], 0))
    }

    fn recycle(&mut self, _: Self::Frame) {
        self.free += 1;
    }
}

/// Two workers and the router of a site.
struct Bench {
    workers: Vec<Worker<MemoryRings>>,
    inboxes: Arc<[Inbox]>,
    reports: Arc<ArrayQueue<WorkerReport>>,
    tracing: Arc<Tracing>,
    router_out: OutboundSa,
    router_in: InboundSa,
    suite: Suite,
    udp: Option<UdpEncap>,
    handle: SaHandle,
    ike: Receiver<IkeDatagram>,
}

fn keys(suite: Suite, octet: u8) -> KeyMaterial {
    let integrity = vec![octet ^ 0x55; suite.integrity_key_len()];
    KeyMaterial::new(&vec![octet; suite.encryption_key_len()], &integrity)
}

fn tunnel((local, remote): Ends, udp: Option<UdpEncap>) -> Tunnel {
    Tunnel {
        local,
        remote,
        udp,
        link: LinkHeader {
            destination: [2; 6],
            source: [4; 6],
        },
        mtu: 1500,
        df: OuterDf::Set,
    }
}

fn outbound(
    suite: Suite,
    spi: u32,
    octet: u8,
    first: u64,
    selectors: &Selectors,
    tunnel: Tunnel,
) -> OutboundSa {
    let config = OutboundConfig {
        spi,
        suite,
        keys: keys(suite, octet),
        esn: false,
        first_sequence: first,
        iv_key: gateway_esp::IvKey::new([octet; 16]),
        selectors: selectors.clone(),
        tunnel,
    };
    OutboundSa::new(config).unwrap()
}

fn inbound(suite: Suite, spi: u32, octet: u8, selectors: &Selectors) -> InboundSa {
    let config = InboundConfig {
        spi,
        suite,
        keys: keys(suite, octet),
        esn: false,
        replay_window: 1024,
        selectors: selectors.clone(),
    };
    InboundSa::new(config).unwrap()
}

/// Outer addresses: ours, the other's.
type Ends = (IpAddr, IpAddr);

const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const OVER_IPV4: Ends = (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V4(ROUTER));
const OVER_IPV6: Ends = (
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
);

impl Bench {
    fn new(suite: Suite, udp: Option<UdpEncap>, first_sequence: u64) -> Self {
        Self::over(OVER_IPV4, suite, udp, first_sequence)
    }

    /// The SA belongs to worker 1.
    fn over(ends: Ends, suite: Suite, udp: Option<UdpEncap>, first_sequence: u64) -> Self {
        let inboxes: Arc<[Inbox]> = (0..2).map(|_| Inbox::new().unwrap()).collect();
        let reports = Arc::new(ArrayQueue::new(16));
        let ike: Arc<OnceLock<IkeSink>> = Arc::default();
        let (received, messages) = channel();
        let received = Mutex::new(received);
        let sink: IkeSink = Box::new(move |datagram| received.lock().unwrap().send(datagram).unwrap());
        assert!(ike.set(sink).is_ok());
        let tracing = Arc::new(Tracing::default());
        let worker = |number| Worker {
            engine: Engine {
                worker: number,
                table: SaTable::default(),
                clear_port: CLEAR,
                now_s: 100,
                now_ms: 100_000,
                reports: Arc::clone(&reports),
                fragments: Fragments::new(2, Arc::clone(&ike)),
                tracing: Arc::clone(&tracing),
                direct: None,
                burst: Burst::default(),
                done: Default::default(),
            },
            rings: MemoryRings {
                arrived: Default::default(),
                left: Default::default(),
                free: 256,
                missed: 0,
            },
            receive: vec![(WAN, Side::Wan), (CORE, Side::Core)],
            inboxes: Arc::clone(&inboxes),
            counters: Arc::new(WorkerCounters::default()),
            batch: Vec::new(),
            ahead: Ahead::default(),
            outcomes: Vec::new(),
            opened: Vec::new(),
            looked: Vec::new(),
            missed_s: 0,
            to_wake: 0,
        };
        let site = TrafficSelector::addresses(Ipv4Addr::new(192, 168, 1, 0), Ipv4Addr::new(192, 168, 1, 255));
        let ours = Selectors::new([TrafficSelector::ANY], [site]);
        let path = tunnel(ends, udp);
        let back = udp.map(|udp| UdpEncap {
            local_port: udp.remote_port,
            remote_port: udp.local_port,
        });
        let handle = SaHandle {
            worker: 1,
            slot: 3,
            generation: 1,
        };
        let install = Install {
            handle,
            site: SITE,
            inbound: inbound(suite, SPI_IN, 1, &ours),
            outbound: outbound(suite, SPI_OUT, 2, first_sequence, &ours, path),
            port: WAN,
            tunnel: path,
            counters: Arc::<SaCounters>::default(),
        };
        let any = Selectors::any();
        let mut bench = Self {
            workers: vec![worker(0), worker(1)],
            router_out: outbound(suite, SPI_IN, 1, 1, &any, tunnel((ends.1, ends.0), back)),
            router_in: inbound(suite, SPI_OUT, 2, &any),
            inboxes,
            reports,
            tracing,
            suite,
            udp,
            handle,
            ike: messages,
        };
        bench.order(1, Order::Install(Box::new(install)));
        let sa_index = handle.index();
        bench.order(
            0,
            Order::Route {
                spi: SPI_IN,
                sa_index,
            },
        );
        bench
    }

    fn order(&mut self, worker: usize, order: Order) {
        let (done, answer) = sync_channel(1);
        assert!(
            self.inboxes[worker]
                .commands
                .push(Command { order, done })
                .is_ok()
        );
        self.round(worker);
        answer.recv().unwrap().unwrap();
    }

    fn round(&mut self, worker: usize) {
        let inboxes = Arc::clone(&self.inboxes);
        self.workers[worker].round(&inboxes[worker]);
    }

    fn arrive(&mut self, worker: usize, port: usize, frame: Vec<u8>) {
        self.workers[worker].rings.arrived[port].push_back(frame);
        self.round(worker);
    }

    fn left(&mut self, worker: usize, port: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.workers[worker].rings.left[port])
    }

    fn drops(&self, worker: usize, reason: DropReason) -> u64 {
        self.workers[worker].counters.drops(reason)
    }

    fn sealed_by_router(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 256 + packet.len()];
        let inner = 128..128 + packet.len();
        frame[inner.clone()].copy_from_slice(packet);
        let sealed = self.router_out.seal(&mut frame, inner).unwrap();
        frame[sealed].to_vec()
    }

    /// The inner packet of a frame to the router.
    fn at_router(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        if let Some(udp) = self.udp {
            // Its NAT turns the port back.
            let ports = LINK_LEN + if frame[LINK_LEN] >> 4 == 4 { 20 } else { 40 };
            assert_eq!(frame[ports + 2..ports + 4], udp.remote_port.to_be_bytes());
            frame[ports + 2..ports + 4].copy_from_slice(&4500u16.to_be_bytes());
        }
        let received = gateway_esp::tunnel::Received::parse(&frame).unwrap();
        assert_eq!(received.spi, SPI_OUT);
        assert_eq!(received.udp.is_some(), self.udp.is_some());
        let mut esp = frame[received.esp].to_vec();
        match self.router_in.open(&mut esp, received.tos).unwrap() {
            gateway_esp::Opened::Packet { inner, .. } => esp[inner].to_vec(),
            gateway_esp::Opened::Dummy => panic!("{}: dummy", self.suite),
        }
    }

    fn core_frame(&self, site: u32, packet: &[u8]) -> Vec<u8> {
        [ClearHeader::new(site, self.handle.index()).as_bytes(), packet].concat()
    }

    /// Every frame is back: nothing leaks, whatever happened to it.
    fn assert_no_leak(&self) {
        assert!(self.workers.iter().all(|worker| worker.rings.free == 256));
    }
}

fn packet(source: [u8; 4], destination: [u8; 4], len: usize, dont_fragment: bool) -> Vec<u8> {
    let mut packet = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 9, 0, 0, 64, 17, 0, 0];
    packet[6] = if dont_fragment { 0x40 } else { 0 };
    packet.extend_from_slice(&source);
    packet.extend_from_slice(&destination);
    packet.resize(len, 0x5a);
    packet
}

const TERMINAL: [u8; 4] = [192, 168, 1, 10];
const SERVER: [u8; 4] = [203, 0, 113, 10];

const NAT_T: Option<UdpEncap> = Some(UdpEncap {
    local_port: 4500,
    remote_port: 31_000,
});

#[test]
fn both_ways_through_every_suite_and_every_outer_header() {
    for suite in Suite::ALL {
        for (ends, udp) in [
            (OVER_IPV4, None),
            (OVER_IPV4, NAT_T),
            (OVER_IPV6, None),
            (OVER_IPV6, NAT_T),
        ] {
            let mut bench = Bench::over(ends, suite, udp, 1);
            [28, 60, 61, 576, 1380]
                .into_iter()
                .for_each(|len| both_ways(&mut bench, len));
            bench.assert_no_leak();
        }
    }
}

fn both_ways(bench: &mut Bench, len: usize) {
    let up = packet(TERMINAL, SERVER, len, true);
    let sealed = bench.sealed_by_router(&up);
    bench.arrive(1, WAN, sealed);
    let clear = bench.left(1, CLEAR);
    let (header, inner) = clear[0].split_at(LINK_LEN);
    let header = ClearHeader::read_from_bytes(header).unwrap();
    assert_eq!(header.read(), Some((SITE, bench.handle.index())));
    assert_eq!(inner, up, "{} {len}", bench.suite);

    let down = packet(SERVER, TERMINAL, len, true);
    let frame = bench.core_frame(SITE, &down);
    bench.arrive(1, CORE, frame);
    let sealed = bench.left(1, WAN);
    assert_eq!(sealed[0][..12], [2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4]);
    assert_eq!(bench.at_router(&sealed[0]), down, "{} {len}", bench.suite);
}

#[test]
fn frames_at_the_wrong_worker_are_handed_over() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let sealed = bench.sealed_by_router(&packet(TERMINAL, SERVER, 100, true));
    bench.arrive(0, WAN, sealed);
    let down = packet(SERVER, TERMINAL, 100, true);
    let frame = bench.core_frame(SITE, &down);
    bench.arrive(0, CORE, frame);
    assert!(bench.left(0, CLEAR).is_empty() && bench.left(0, WAN).is_empty());
    bench.round(1);
    assert_eq!(bench.left(1, CLEAR).len(), 1);
    let sealed = bench.left(1, WAN);
    assert_eq!(bench.at_router(&sealed[0]), down);
    bench.assert_no_leak();
}

#[test]
fn what_the_kernel_had_no_room_for_is_counted() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    for (now_s, missed, counted) in [(101, 3, 3), (101, 4, 3), (102, 0, 7), (103, 1, 8)] {
        bench.workers[0].engine.now_s = now_s;
        bench.workers[0].rings.missed += missed;
        bench.round(0);
        assert_eq!(
            bench.drops(0, DropReason::WorkerQueueFull),
            counted,
            "at {now_s} s"
        );
    }
}

#[test]
fn a_full_hand_over_ring_drops_and_counts() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    for _ in 0..1030 {
        let frame = bench.core_frame(SITE, &packet(SERVER, TERMINAL, 60, true));
        bench.arrive(0, CORE, frame);
    }
    assert_eq!(bench.drops(0, DropReason::WorkerQueueFull), 6);
    bench.assert_no_leak();
}

#[test]
fn every_refusal_has_its_reason() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let good = bench.sealed_by_router(&packet(TERMINAL, SERVER, 100, true));
    let mut forged = bench.sealed_by_router(&packet(TERMINAL, SERVER, 100, true));
    *forged.last_mut().unwrap() ^= 1;
    let mut unknown = good.clone();
    unknown[34] ^= 0x40;
    let outside = bench.sealed_by_router(&packet([192, 168, 2, 1], SERVER, 100, true));
    for (frame, reason) in [
        (good[..40].to_vec(), DropReason::MalformedIp),
        (unknown, DropReason::UnknownSpi),
        (forged, DropReason::EspAuthentication),
        (outside, DropReason::EspSelector),
    ] {
        bench.arrive(1, WAN, frame);
        assert_eq!(bench.drops(1, reason), 1, "{reason:?}");
    }
    bench.arrive(1, WAN, good.clone());
    bench.arrive(1, WAN, good);
    assert_eq!(bench.drops(1, DropReason::EspReplay), 1);
    assert_eq!(bench.left(1, CLEAR).len(), 1);
    let down = packet(SERVER, TERMINAL, 100, true);
    let wrong_site = bench.core_frame(SITE + 1, &down);
    let unmarked = [&[0; LINK_LEN][..], &down].concat();
    let elsewhere = bench.core_frame(SITE, &packet(SERVER, [192, 168, 2, 1], 100, true));
    let too_big = bench.core_frame(SITE, &packet(SERVER, TERMINAL, 1500, true));
    for (frame, reason) in [
        (wrong_site, DropReason::EspIndexStale),
        (unmarked, DropReason::WorkerFrameMalformed),
        (elsewhere, DropReason::EspOutboundSelector),
        (too_big, DropReason::EspTooBig),
    ] {
        bench.arrive(1, CORE, frame);
        assert_eq!(bench.drops(1, reason), 1, "{reason:?}");
    }
    assert!(bench.left(1, WAN).is_empty());
    bench.assert_no_leak();
}

#[test]
fn a_packet_that_may_be_fragmented_is() {
    let mut bench = Bench::new(Suite::AesCbc256HmacSha256_128, NAT_T, 1);
    let frame = bench.core_frame(SITE, &packet(SERVER, TERMINAL, 1500, false));
    bench.arrive(1, CORE, frame);
    let sealed = bench.left(1, WAN);
    assert_eq!(sealed.len(), 2);
    let pieces: Vec<_> = sealed.iter().map(|frame| bench.at_router(frame)).collect();
    assert_eq!(pieces.iter().map(|piece| piece.len() - 20).sum::<usize>(), 1480);
    assert!(sealed.iter().all(|frame| frame.len() <= LINK_LEN + 1500));
    bench.assert_no_leak();
}

#[test]
fn a_removed_sa_neither_opens_nor_seals() {
    let mut bench = Bench::new(Suite::AesGcm16_128, None, 1);
    let sealed = bench.sealed_by_router(&packet(TERMINAL, SERVER, 100, true));
    bench.order(
        1,
        Order::Remove {
            slot: 3,
            inbound: true,
            outbound: false,
        },
    );
    bench.arrive(1, WAN, sealed.clone());
    assert_eq!(bench.drops(1, DropReason::UnknownSpi), 1);
    bench.arrive(0, WAN, sealed.clone());
    bench.round(1);
    assert_eq!(
        bench.drops(1, DropReason::UnknownSpi),
        2,
        "handed over by a worker that does not know yet"
    );
    let down = packet(SERVER, TERMINAL, 100, true);
    let frame = bench.core_frame(SITE, &down);
    bench.arrive(1, CORE, frame.clone());
    assert_eq!(bench.left(1, WAN).len(), 1, "the other half still works");
    bench.order(
        1,
        Order::Remove {
            slot: 3,
            inbound: false,
            outbound: true,
        },
    );
    bench.arrive(1, CORE, frame);
    assert_eq!(bench.drops(1, DropReason::EspIndexStale), 1);
    let sa_index = bench.handle.index();
    bench.order(
        0,
        Order::Unroute {
            spi: SPI_IN,
            sa_index,
        },
    );
    bench.arrive(0, WAN, sealed);
    assert_eq!(bench.drops(0, DropReason::UnknownSpi), 1);
}

#[test]
fn the_controller_hears_of_the_first_packet_and_of_a_peer_that_moved() {
    let mut bench = Bench::new(Suite::AesGcm16_256, NAT_T, 1);
    let handle = bench.handle;
    for _ in 0..2 {
        let sealed = bench.sealed_by_router(&packet(TERMINAL, SERVER, 100, true));
        bench.arrive(1, WAN, sealed);
    }
    assert_eq!(bench.reports.pop(), Some(WorkerReport::FirstInbound(handle)));
    assert_eq!(bench.reports.pop(), None, "once");
    let mut moved = bench.sealed_by_router(&packet(TERMINAL, SERVER, 100, true));
    moved[34..36].copy_from_slice(&32_000u16.to_be_bytes());
    let mut forged = moved.clone();
    *forged.last_mut().unwrap() ^= 1;
    bench.arrive(1, WAN, forged);
    assert_eq!(bench.reports.pop(), None, "a forged packet moves nobody");
    bench.arrive(1, WAN, moved);
    let expected = WorkerReport::PeerMoved {
        handle,
        source: ROUTER.into(),
        port: 32_000,
    };
    assert_eq!(bench.reports.pop(), Some(expected));
}

/// RFC 7296 section 2.23: packets that were held back or sent again by somebody else move nobody, and the controller
/// is told at most once a second.
#[test]
fn only_the_newest_packet_tells_where_the_peer_is() {
    let mut bench = Bench::new(Suite::AesGcm16_256, NAT_T, 1);
    let from = |mut frame: Vec<u8>, port: u16| {
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame
    };
    let sealed: Vec<_> = (0..4)
        .map(|_| bench.sealed_by_router(&packet(TERMINAL, SERVER, 100, true)))
        .collect();
    bench.arrive(1, WAN, sealed[1].clone());
    assert!(matches!(bench.reports.pop(), Some(WorkerReport::FirstInbound(_))));
    bench.arrive(1, WAN, from(sealed[1].clone(), 9_000));
    assert_eq!(bench.reports.pop(), None, "a replay");
    bench.arrive(1, WAN, from(sealed[0].clone(), 9_000));
    assert_eq!(
        bench.reports.pop(),
        None,
        "authentic and new, but older than what came before"
    );
    bench.arrive(1, WAN, from(sealed[2].clone(), 32_000));
    assert!(matches!(
        bench.reports.pop(),
        Some(WorkerReport::PeerMoved { port: 32_000, .. })
    ));
    bench.arrive(1, WAN, from(sealed[3].clone(), 32_001));
    assert_eq!(bench.reports.pop(), None, "again in the same second");
    bench.workers[1].engine.now_s += 1;
    let next = bench.sealed_by_router(&packet(TERMINAL, SERVER, 100, true));
    bench.arrive(1, WAN, from(next, 32_001));
    assert!(matches!(
        bench.reports.pop(),
        Some(WorkerReport::PeerMoved { port: 32_001, .. })
    ));
}

/// Regression: a packet whose source port somebody had made 0, which its ICV does not tell, moved the peer to where nothing
/// reaches it; ESP seemed to go without UDP from then on, and no later packet moved it back.
#[test]
fn a_packet_from_port_0_moves_nobody() {
    let mut bench = Bench::new(Suite::AesGcm16_256, NAT_T, 1);
    let from = |mut frame: Vec<u8>, port: u16| {
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame
    };
    let up = packet(TERMINAL, SERVER, 100, true);
    let first = bench.sealed_by_router(&up);
    bench.arrive(1, WAN, first);
    assert!(matches!(bench.reports.pop(), Some(WorkerReport::FirstInbound(_))));
    let nowhere = bench.sealed_by_router(&up);
    bench.arrive(1, WAN, from(nowhere, 0));
    assert_eq!(bench.reports.pop(), None);
    let moved = bench.sealed_by_router(&up);
    bench.arrive(1, WAN, from(moved, 32_000));
    assert!(matches!(
        bench.reports.pop(),
        Some(WorkerReport::PeerMoved { port: 32_000, .. })
    ));
    assert_eq!(bench.left(1, CLEAR).len(), 2, "all but the one from port 0");
    bench.assert_no_leak();
}

/// RFC 7296 section 2.23: UDP-encapsulated ESP is processed even when no NAT was detected.
#[test]
fn without_a_nat_esp_in_udp_is_opened_and_moves_nobody() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let in_udp = UdpEncap {
        local_port: 31_000,
        remote_port: 4500,
    };
    let path = tunnel((OVER_IPV4.1, OVER_IPV4.0), Some(in_udp));
    bench.router_out.set_tunnel(&path).unwrap();
    let up = packet(TERMINAL, SERVER, 100, true);
    let sealed = bench.sealed_by_router(&up);
    bench.arrive(1, WAN, sealed);
    assert_eq!(bench.left(1, CLEAR)[0][LINK_LEN..], up);
    assert!(matches!(bench.reports.pop(), Some(WorkerReport::FirstInbound(_))));
    assert_eq!(bench.reports.pop(), None);
    bench.assert_no_leak();
}

#[test]
fn sequence_numbers_end_with_a_warning_and_then_a_refusal() {
    let last = u64::from(u32::MAX);
    let mut bench = Bench::new(Suite::AesGcm16_256, None, last);
    let frame = bench.core_frame(SITE, &packet(SERVER, TERMINAL, 100, true));
    bench.arrive(1, CORE, frame.clone());
    assert_eq!(bench.left(1, WAN).len(), 1);
    assert_eq!(
        bench.reports.pop(),
        Some(WorkerReport::SequenceNear(bench.handle))
    );
    bench.arrive(1, CORE, frame);
    assert!(bench.left(1, WAN).is_empty());
    assert_eq!(bench.drops(1, DropReason::EspSequenceExhausted), 1);
    assert_eq!(bench.reports.pop(), None, "said once");
}

/// The queue is the workers' own, and a burst of other reports may fill it.
#[test]
fn a_report_that_found_no_room_is_repeated_with_the_next_packet() {
    let mut bench = Bench::new(Suite::AesGcm16_256, None, u64::from(u32::MAX) - 10);
    let handle = bench.handle;
    let other = SaHandle { slot: 99, ..handle };
    let clear = bench.core_frame(SITE, &packet(SERVER, TERMINAL, 100, true));
    let send = |bench: &mut Bench| {
        let sealed = bench.sealed_by_router(&packet(TERMINAL, SERVER, 100, true));
        bench.arrive(1, WAN, sealed);
        bench.arrive(1, CORE, clear.clone());
    };
    while bench.reports.push(WorkerReport::FirstInbound(other)).is_ok() {}
    send(&mut bench);
    while bench
        .reports
        .pop()
        .is_some_and(|report| report == WorkerReport::FirstInbound(other))
    {}
    assert!(bench.reports.is_empty(), "there was no room");
    send(&mut bench);
    assert_eq!(bench.reports.pop(), Some(WorkerReport::FirstInbound(handle)));
    assert_eq!(bench.reports.pop(), Some(WorkerReport::SequenceNear(handle)));
    send(&mut bench);
    assert_eq!(bench.reports.pop(), None, "said once");
}

#[test]
fn garbage_never_panics() {
    let mut bench = Bench::new(Suite::AesGcm16_256, NAT_T, 1);
    let sealed = bench.sealed_by_router(&packet(TERMINAL, SERVER, 200, true));
    let core = bench.core_frame(SITE, &packet(SERVER, TERMINAL, 200, false));
    for (port, frame) in [(WAN, sealed), (CORE, core)] {
        for len in 0..frame.len() {
            bench.arrive(1, port, frame[..len].to_vec());
        }
        for position in 0..frame.len() {
            for bit in 0..8 {
                let mut damaged = frame.clone();
                damaged[position] ^= 1 << bit;
                bench.arrive(1, port, damaged);
            }
        }
    }
    bench.assert_no_leak();
}

#[test]
fn what_workers_do_with_a_traced_site_is_told() {
    use gateway_common::abi::trace::{TraceEvent, known, outcome, point};

    let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
    let out = packet([192, 168, 1, 10], [10, 1, 1, 1], 100, true);
    let back = packet([10, 1, 1, 1], [192, 168, 1, 10], 100, true);
    let untold = bench.sealed_by_router(&out);
    bench.arrive(1, WAN, untold);
    assert_eq!(bench.tracing.take(), (vec![], 0), "nobody traces");

    bench.tracing.set_site(SITE);
    let first = bench.sealed_by_router(&out);
    // It comes by the other worker, which hands it over.
    bench.arrive(0, WAN, first.clone());
    bench.round(1);
    // Again: a replay. Damaged: not authentic.
    bench.arrive(1, WAN, first);
    let mut damaged = bench.sealed_by_router(&out);
    if let Some(last) = damaged.last_mut() {
        *last ^= 1;
    }
    bench.arrive(1, WAN, damaged);
    let clear = bench.core_frame(SITE, &back);
    bench.arrive(1, CORE, clear);
    let (events, lost) = bench.tracing.take();
    assert_eq!(lost, 0);
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.point, event.outcome, event.value))
        .collect();
    assert_eq!(
        told,
        [
            (point::WORKER_IN, outcome::WORKED, 0),
            (point::WORKER_IN, outcome::DROPPED, DropReason::EspReplay as u32),
            (
                point::WORKER_IN,
                outcome::DROPPED,
                DropReason::EspAuthentication as u32
            ),
            (point::WORKER_OUT, outcome::WORKED, 0),
        ]
    );
    let ends = |event: &TraceEvent| (event.site, event.source, event.destination, event.protocol);
    for event in [&events[0], &events[3]] {
        assert_eq!(ends(event), (SITE, [192, 168, 1, 10], [10, 1, 1, 1], 17));
    }
    for event in &events[..3] {
        assert_eq!((event.site, event.spi), (SITE, SPI_IN.to_be_bytes()));
        assert_ne!(event.known & known::SPI, 0);
    }
    assert!(events.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));

    bench.tracing.set_site(SITE + 1);
    let other = bench.sealed_by_router(&out);
    bench.arrive(1, WAN, other);
    assert_eq!(bench.tracing.take(), (vec![], 0), "another site is traced");
}
