//! The direct engine: what leaves a worker by the core port and what goes into the clear link.

use gateway_common::abi::flow::{Flow, FlowKey, Half, Progress, pair, state, word};
use gateway_common::abi::geometry::Geometry;
use gateway_common::abi::interface::{STATES, Settings};
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::stats::Counter;
use gateway_common::tables::hash::FACTORS;
use gateway_common::tables::words::Words as _;

use super::*;
use crate::dataplane::tables::SharedTables;
use crate::dataplane::worker::direct::{Direct, Egress};

const NOW_S: u32 = 100;
const IFINDEX: u32 = 42;
const NAT: [u8; 4] = [10, 200, 0, 7];
const PORT_INSIDE: u16 = 5000;
const PORT_OUTSIDE: u16 = 40_000;
const MAC_HOP: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
/// Next hops by number: one that is in reach, one at another interface, one that is not resolved.
const REACHED: u32 = 0;
const ELSEWHERE: u32 = 1;
const UNRESOLVED: u32 = 2;
/// The second worker has the SA.
const OWNER: usize = 1;

struct Scene {
    bench: Bench,
    tables: Arc<SharedTables>,
}

impl Scene {
    fn new() -> Self {
        let geometry = Geometry {
            factors: [0x9e37_79b9_7f4a_7c15; FACTORS],
            port_key: [1; 2],
            flow_buckets: 16,
            mapping_buckets: 16,
        };
        let settings = Settings {
            idle_s: [300; STATES],
            ..Settings::UNLIMITED
        };
        let hop = NextHop {
            ifindex: IFINDEX,
            resolved: 1,
            destination_mac: MAC_HOP,
            source_mac: MAC,
            mtu: 1500,
        };
        let elsewhere = NextHop {
            ifindex: IFINDEX + 1,
            ..hop
        };
        let unresolved = NextHop { resolved: 0, ..hop };
        let hops = [hop, elsewhere, unresolved];
        let tables = Arc::new(SharedTables::in_memory(&geometry, SITE + 1, &settings, &hops).unwrap());
        tables.set_now_s(NOW_S);
        let mut bench = Bench::new(Suite::AesGcm16_256, None, 1);
        for worker in &mut bench.workers {
            let egress = Egress {
                ifindex: IFINDEX,
                port: CORE,
                frame_max: LINK_LEN + 1000,
            };
            worker.engine.direct = Some(Direct::new(Arc::clone(&tables), vec![egress]));
        }
        Self { bench, tables }
    }

    /// A flow of the terminal that the programs have made, with this next hop of this epoch.
    fn flow(&self, protocol: u8, of_state: u8, hop: u32, epoch: u32) {
        let key = key(protocol);
        let seen = Half {
            seen_s: NOW_S,
            end: 1000,
            limit: 2000,
            window: 1000,
            ..Half::default()
        };
        let flow = Flow {
            progress: Progress {
                state: of_state,
                ..Progress::default()
            },
            out: seen,
            back: seen,
            nat_address: NAT,
            nat_port: PORT_OUTSIDE.to_be_bytes(),
            ..Flow::default()
        };
        self.tables.flows().insert(&key, &flow).unwrap();
        let record = self.tables.flows().find(&key).unwrap().record;
        record.store(word::HOP, pair(hop, epoch));
    }

    fn udp_flow(&self, hop: u32) {
        self.flow(17, state::UDP_STREAM, hop, self.tables.epochs().hop);
    }

    /// Lets so many milliseconds pass.
    fn pass(&mut self, ms: u64) {
        for worker in &mut self.bench.workers {
            worker.engine.now_ms += ms;
        }
    }

    /// What leaves after the router has sent this: by the core port, and into the clear link.
    fn send(&mut self, packet: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let sealed = self.bench.sealed_by_router(packet);
        self.bench.arrive(OWNER, WAN, sealed);
        (self.bench.left(OWNER, CORE), self.bench.left(OWNER, CLEAR))
    }

    fn forwarded(&self) -> Counter {
        self.bench.workers[OWNER].counters.forwarded_directly()
    }

    /// The packet goes into the clear link as it is.
    fn expect_link(&mut self, packet: &[u8], why: &str) {
        let before = self.forwarded();
        let (out, link) = self.send(packet);
        assert!(out.is_empty(), "{why}: {out:02x?}");
        let frame = [
            ClearHeader::new(SITE, self.bench.handle.index()).as_bytes(),
            packet,
        ]
        .concat();
        assert_eq!(link, [frame], "{why}");
        assert_eq!(self.forwarded(), before, "{why}");
    }

    /// It leaves translated.
    fn expect_out(&mut self, packet: &[u8], why: &str) {
        let (out, link) = self.send(packet);
        assert!(link.is_empty(), "{why}: {link:02x?}");
        assert_eq!(out.len(), 1, "{why}");
        let frame = &out[0];
        assert_eq!(frame.len(), LINK_LEN + packet.len());
        assert_eq!(frame[..12], [MAC_HOP, MAC].concat());
        assert_eq!(frame[12..14], [8, 0]);
        assert_eq!(frame[22], packet[8] - 1, "{why}: TTL");
        assert_eq!(frame[26..30], NAT, "{why}");
        assert_eq!(frame[30..34], SERVER);
        assert_eq!(frame[34..36], PORT_OUTSIDE.to_be_bytes());
    }
}

/// The terminal's only flow of a protocol.
fn key(protocol: u8) -> FlowKey {
    FlowKey {
        site: SITE,
        source: TERMINAL,
        destination: SERVER,
        source_port: PORT_INSIDE.to_be_bytes(),
        destination_port: 53u16.to_be_bytes(),
        protocol,
        pad: [0; 3],
    }
}

/// A UDP datagram of the terminal without checksum.
fn datagram(len: usize) -> Vec<u8> {
    let mut datagram = packet(TERMINAL, SERVER, len, true);
    datagram[20..22].copy_from_slice(&PORT_INSIDE.to_be_bytes());
    datagram[22..24].copy_from_slice(&53u16.to_be_bytes());
    datagram[24..26].copy_from_slice(&((len - 20) as u16).to_be_bytes());
    datagram[26..28].fill(0);
    datagram
}

/// A TCP segment of the same ports.
fn segment(sequence: u32, flags: u8) -> Vec<u8> {
    let mut segment = packet(TERMINAL, SERVER, 40, true);
    segment[9] = 6;
    segment[20..22].copy_from_slice(&PORT_INSIDE.to_be_bytes());
    segment[22..24].copy_from_slice(&53u16.to_be_bytes());
    segment[24..28].copy_from_slice(&sequence.to_be_bytes());
    segment[28..32].copy_from_slice(&1000u32.to_be_bytes());
    segment[32..34].copy_from_slice(&[0x50, flags]);
    segment
}

#[test]
fn a_packet_of_a_known_flow_leaves_by_the_core_port() {
    let mut scene = Scene::new();
    scene.expect_link(&datagram(100), "no flow");
    scene.udp_flow(REACHED);
    scene.pass(101);
    scene.expect_out(&datagram(100), "known");
    scene.expect_out(&datagram(60), "known");
    assert_eq!(
        scene.forwarded(),
        Counter {
            packets: 2,
            bytes: 114 + 74
        }
    );
    let (_, flow) = scene.tables.flow_list().into_iter().next().unwrap();
    assert_eq!((flow.out.packets, flow.out.bytes), (2, 160));
    scene.bench.assert_no_leak();
}

/// Whoever goes the short way overtakes what is still in the clear link, and writes the flow's record beside it.
#[test]
fn a_flow_stays_with_the_clear_link_until_none_of_it_is_in_there() {
    let mut scene = Scene::new();
    scene.expect_link(&datagram(100), "no flow");
    scene.udp_flow(REACHED);
    scene.pass(100);
    scene.expect_link(&datagram(100), "at first");
    scene.pass(10);
    scene.expect_link(&datagram(100), "the one before may be in the link");
    scene.pass(11);
    scene.expect_out(&datagram(100), "settled");
    scene.expect_out(&datagram(100), "at once");
}

/// Regression: a flow that never paused stayed with the link for good.
#[test]
fn a_flow_without_gaps_changes_over_after_a_second() {
    let mut scene = Scene::new();
    scene.expect_link(&datagram(100), "no flow");
    scene.udp_flow(REACHED);
    for _ in 0..200 {
        scene.pass(5);
        scene.expect_link(&datagram(100), "no gap");
    }
    scene.pass(5);
    scene.expect_out(&datagram(100), "after a second");
    scene.expect_out(&datagram(100), "and from then on");
}

#[test]
fn what_only_the_programs_decide_goes_to_them_unchanged() {
    let no_flow = Scene::new();
    let unresolved = Scene::new();
    unresolved.udp_flow(UNRESOLVED);
    let elsewhere = Scene::new();
    elsewhere.udp_flow(ELSEWHERE);
    let no_such_hop = Scene::new();
    no_such_hop.udp_flow(u32::MAX);
    let dead = Scene::new();
    dead.udp_flow(REACHED);
    dead.tables.set_now_s(NOW_S + 301);
    for (mut scene, why) in [
        (no_flow, "no flow"),
        (unresolved, "its next hop is not resolved"),
        (elsewhere, "no socket there"),
        (no_such_hop, "a site is the destination"),
        (dead, "the flow has timed out"),
    ] {
        scene.expect_link(&datagram(100), why);
        scene.bench.assert_no_leak();
    }

    let mut known = Scene::new();
    known.udp_flow(REACHED);
    known.expect_out(&datagram(1000), "as long as may be");
    known.expect_link(&datagram(1001), "longer than the interface takes");
    known.pass(101);
    let mut error = packet(TERMINAL, SERVER, 60, true);
    error[9] = 1;
    error[20..24].copy_from_slice(&[3, 1, 0, 0]);
    known.expect_link(&error, "an ICMP error");
    let mut tcp = Scene::new();
    tcp.flow(6, state::TCP_ESTABLISHED, REACHED, tcp.tables.epochs().hop);
    tcp.expect_link(&segment(1000, 0x02), "a SYN");
}

/// A next hop of another epoch may be anybody's: the programs look it up again.
#[test]
fn a_change_of_routes_sends_flows_through_the_programs() {
    let mut scene = Scene::new();
    scene.udp_flow(REACHED);
    scene.expect_out(&datagram(100), "known");
    scene.tables.hops_changed();
    scene.expect_link(&datagram(100), "another epoch");
    scene.pass(101);
    scene.expect_link(&datagram(100), "nobody has looked it up");
    // As `clear` does.
    let epoch = scene.tables.epochs().hop;
    let entry = scene.tables.flows().find(&key(17)).unwrap();
    entry.record.store(word::HOP, pair(REACHED, epoch));
    scene.pass(101);
    scene.expect_out(&datagram(100), "looked up");
}

#[test]
fn while_a_site_is_traced_the_programs_have_every_packet() {
    let mut scene = Scene::new();
    scene.udp_flow(REACHED);
    scene.bench.tracing.set_site(SITE + 5);
    scene.expect_link(&datagram(100), "traced");
    scene.bench.tracing.set_site(0);
    scene.expect_link(&datagram(100), "the last may be in the link");
    scene.pass(101);
    scene.expect_out(&datagram(100), "no longer");
}

#[test]
fn an_ended_flow_is_for_the_programs() {
    let mut scene = Scene::new();
    scene.udp_flow(REACHED);
    scene.expect_out(&datagram(100), "known");
    assert!(scene.tables.end_flow(&key(17)));
    scene.expect_link(&datagram(100), "ended");
}

#[test]
fn what_the_first_stage_drops_is_dropped_and_counted() {
    let mut scene = Scene::new();
    scene.flow(6, state::TCP_ESTABLISHED, REACHED, scene.tables.epochs().hop);
    let mut last_hop = segment(1000, 0x10);
    last_hop[8] = 1;
    let mut cut = segment(1000, 0x10);
    cut[32] = 0xf0;
    for (packet, reason) in [
        (last_hop, DropReason::InnerTtl),
        (cut, DropReason::TruncatedTransport),
        (segment(900_000, 0x10), DropReason::TcpWindow),
        (segment(1000, 0), DropReason::TcpFlags),
    ] {
        assert_eq!(scene.send(&packet), (vec![], vec![]), "{reason:?}");
        assert_eq!(scene.bench.drops(OWNER, reason), 1, "{reason:?}");
    }
    assert_eq!(scene.forwarded(), Counter::default());
    scene.expect_out(&segment(1000, 0x10), "what fits passes");
    scene.bench.assert_no_leak();
}

/// Fragments wait for each other, go through the link, and take what follows them along.
#[test]
fn fragments_and_what_follows_them_go_through_the_link() {
    let mut scene = Scene::new();
    scene.udp_flow(REACHED);
    scene.expect_out(&datagram(100), "known");
    let whole = datagram(1400);
    let mut pieces = Vec::new();
    for (offset, more) in [(0usize, 0x20u8), (704, 0)] {
        let end = if more == 0 { 1380 } else { 704 };
        let mut piece = [&whole[..20], &whole[20 + offset..20 + end]].concat();
        let length = (piece.len() as u16).to_be_bytes();
        piece[2..4].copy_from_slice(&length);
        let place = ((offset / 8) as u16).to_be_bytes();
        piece[6..8].copy_from_slice(&[place[0] | more, place[1]]);
        pieces.push(piece);
    }
    // They wait at the worker that the packet's numbers say, which need not be the one with the SA.
    for piece in &pieces {
        let sealed = scene.bench.sealed_by_router(piece);
        scene.bench.arrive(OWNER, WAN, sealed);
    }
    scene.bench.round(0);
    let at: Vec<_> = (0..2)
        .map(|worker| {
            (
                scene.bench.left(worker, CLEAR).len(),
                scene.bench.left(worker, CORE).len(),
            )
        })
        .collect();
    assert!(at.contains(&(2, 0)) && at.contains(&(0, 0)), "{at:?}");
    if at[OWNER].0 == 2 {
        scene.expect_link(&datagram(100), "the fragments may be in the link");
        scene.pass(101);
    }
    scene.expect_out(&datagram(100), "settled");
}

/// A packet that came by another worker's queue is forwarded by the SA's owner.
#[test]
fn what_was_handed_over_leaves_by_the_owner() {
    let mut scene = Scene::new();
    scene.udp_flow(REACHED);
    let sealed = scene.bench.sealed_by_router(&datagram(100));
    scene.bench.arrive(0, WAN, sealed);
    scene.bench.round(OWNER);
    assert_eq!(scene.bench.left(OWNER, CORE).len(), 1);
    assert!(scene.bench.left(OWNER, CLEAR).is_empty() && scene.bench.left(0, CLEAR).is_empty());
    scene.bench.assert_no_leak();
}

/// Packets of one batch leave in the order in which they came, whichever way each goes.
#[test]
fn a_batch_keeps_its_order() {
    let mut scene = Scene::new();
    scene.udp_flow(REACHED);
    let frames: Vec<_> = (60..100)
        .map(|len| scene.bench.sealed_by_router(&datagram(len)))
        .collect();
    scene.bench.workers[OWNER].rings.arrived[WAN].extend(frames);
    scene.bench.round(OWNER);
    let lengths: Vec<_> = scene.bench.left(OWNER, CORE).iter().map(Vec::len).collect();
    assert_eq!(lengths, (74..114).collect::<Vec<_>>());
}
