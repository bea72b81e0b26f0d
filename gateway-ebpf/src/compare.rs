//! Programs for measurements, no part of the gateway: built for the bench alone (feature `compare`).
//!
//! The way of an established packet through the flow table as it is, and the same through a BPF hash map of the same keys and
//! records; and beside real links, a forwarder that does nothing else, a relay and a sink.
//!
//! Each run of the first two draws one of 2^n flows, where n stands in the packet's IP identification, and sets the frame up again that the
//! run before has forwarded: `BPF_PROG_TEST_RUN` repeats a packet as it was left.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    unused_imports,
    reason = "the modules of the gateway's own object are used in part; the `xdp` macro puts an undocumented public function beside each program"
)]

mod arrays;
mod context;
mod maps;
mod tables;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::{self, HashMap};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use gateway_common::abi::flow::{FlowKey, RECORD_WORDS};
use gateway_common::abi::sa::LinkHeader;
use gateway_common::drop::DropReason;
use gateway_common::packet::checksum::Change;
use gateway_common::packet::ethernet::{Ethernet, ether_type};
use gateway_common::packet::{Packet, ethernet, ipv4};
use gateway_common::path::clear::{self, Next};
use gateway_common::path::filter::Direction;
use gateway_common::path::inner::Inner;
use gateway_common::path::open::{self, Stage};
use gateway_common::path::{self, Outcome, Verdict, inner};
use gateway_common::tables::Tables;

use arrays::Value;
use context::Frame;
use maps::{EGRESS, STAGES, XSKS};
use tables::Maps;

/// Flows that the hash map has room for.
const FLOWS: usize = 1 << 20;
/// Site of all of them.
const SITE: u32 = 1;
/// Where the IP header begins, and in it the identification.
const IP: u32 = ethernet::LENGTH;
const IDENTIFICATION: u32 = IP + 4;
const CHECKSUM: u32 = IP + 10;

/// The flow table as a BPF hash map.
#[btf_map]
static FLOW_HASH: HashMap<FlowKey, [u64; RECORD_WORDS], FLOWS> = HashMap::new();

/// What drawing a flow and setting the frame up costs by itself.
#[xdp]
fn compare_floor(context: XdpContext) -> u32 {
    run(&context, |_, _| {
        Ok(Verdict::Pass(gateway_common::abi::stats::Path::CorePassed))
    })
}

/// Through the flow table.
#[xdp]
fn compare_buckets(context: XdpContext) -> u32 {
    run(&context, |frame, maps| match clear::clear(frame, maps)? {
        Next::Decided(verdict) => Ok(verdict),
        Next::Stage(_) => Err(DropReason::NoFlow),
    })
}

/// The center's answers through the flow table.
#[xdp]
fn compare_answers(context: XdpContext) -> u32 {
    // SAFETY: the context of this run.
    let (mut frame, maps) = unsafe { (Frame::new(context.ctx), Maps::new(context.ctx)) };
    if draw_answer(&mut frame, &maps).is_none() {
        return XDP_DROP;
    }
    match path::core::core(&mut frame, &maps) {
        Ok(Next::Decided(Verdict::Worker { slot, path })) => {
            maps.count(path, frame.len());
            XSKS.redirect(slot, XDP_DROP.into()).unwrap_or(XDP_DROP)
        }
        Ok(_) => XDP_PASS,
        Err(reason) => {
            maps.count_drop(reason);
            XDP_DROP
        }
    }
}

/// Through the hash map.
#[xdp]
fn compare_hash(context: XdpContext) -> u32 {
    run(&context, by_hash)
}

/// Forwards by the first next hop, without filter and translation: the floor of a program that does.
#[xdp]
fn compare_forward(context: XdpContext) -> u32 {
    // SAFETY: the context of this run.
    let (mut frame, maps) = unsafe { (Frame::new(context.ctx), Maps::new(context.ctx)) };
    let outcome = forward(&mut frame, &maps);
    redirect(&maps, frame.len(), outcome)
}

/// What [`compare_generate`] writes: a [`Told`].
#[btf_map]
static COMPARE_STREAM: btf_maps::Array<[u8; size_of::<Told>()], 1> = btf_maps::Array::new();

/// Headers, and the numbers in them that differ from frame to frame.
#[repr(C)]
struct Told {
    /// With an IP checksum for the lowest destination.
    headers: [[u8; 14]; 3],
    pad: [u8; 2],
    /// Where the port is that varies.
    port_place: u32,
    /// Of the link header.
    site: Turn,
    destination: Turn,
    port: Turn,
}

/// Numbers that take turns.
#[repr(C)]
#[derive(Clone, Copy)]
struct Turn {
    lowest: u32,
    count: u32,
    /// How far above the lowest the next one is.
    at: u32,
}

impl Turn {
    /// The next number.
    #[inline(always)]
    fn next(&mut self) -> u32 {
        let at = self.at;
        self.at = if at + 1 < self.count { at + 1 } else { 0 };
        self.lowest.wrapping_add(at)
    }
}

/// Where the link header has the site.
const SITE_PLACE: u32 = 2;
/// Number of the interface that it sends by.
const GENERATED: u32 = 100;

/// Writes a frame anew and sends it: a frame that is generated is one that came back.
#[xdp]
fn compare_generate(context: XdpContext) -> u32 {
    // SAFETY: the context of this run.
    let mut frame = unsafe { Frame::new(context.ctx) };
    match generate(&mut frame) {
        Some(()) => EGRESS.redirect(GENERATED, XDP_DROP.into()).unwrap_or(XDP_DROP),
        None => XDP_DROP,
    }
}

#[inline(always)]
fn generate(frame: &mut Frame) -> Option<()> {
    let told = COMPARE_STREAM.get_ptr_mut(0)?.cast::<Told>();
    // SAFETY: the value stays for the run, has this layout, and is aligned to eight; one CPU generates.
    let told = unsafe { &mut *told };
    for (at, part) in (0..).step_by(14).zip(&told.headers) {
        frame.store(at, part)?;
    }
    frame.store(SITE_PLACE, &told.site.next().to_be_bytes())?;
    let lowest = told.destination.lowest.to_be_bytes();
    let destination = told.destination.next().to_be_bytes();
    let checksum: [u8; 2] = frame.load(CHECKSUM)?;
    let checksum = Change::default().double(lowest, destination).apply(checksum);
    frame.store(CHECKSUM, &checksum)?;
    frame.store(IP + ipv4::DESTINATION, &destination)?;
    frame.store(told.port_place, &(told.port.next() as u16).to_be_bytes())
}

/// Sends on what came, as it is, to the interface that the one it came by is paired with: to a veth's other end it is a frame
/// in memory then, as a network card delivers it.
#[xdp]
fn compare_relay(context: XdpContext) -> u32 {
    // SAFETY: the context of this run.
    let came_by = unsafe { (*context.ctx).ingress_ifindex };
    EGRESS.redirect(came_by, XDP_DROP.into()).unwrap_or(XDP_DROP)
}

/// Opens a new flow with each run: writes a frame as [`compare_generate`] does, and goes the gateway's way with it.
#[xdp]
fn compare_fresh(context: XdpContext) -> u32 {
    // SAFETY: the context of this run.
    let mut frame = unsafe { Frame::new(context.ctx) };
    if generate(&mut frame).is_some() {
        // SAFETY: nothing that is dropped here needs it.
        unsafe { STAGES.tail_call(&context, Stage::Forward as u32) };
    }
    XDP_DROP
}

/// The same without the way: what writing the frame costs by itself.
#[xdp]
fn compare_fresh_floor(context: XdpContext) -> u32 {
    // SAFETY: the context of this run.
    let mut frame = unsafe { Frame::new(context.ctx) };
    generate(&mut frame).map_or(XDP_DROP, |()| XDP_PASS)
}

/// The stages of a new flow.
#[xdp]
fn clear(context: XdpContext) -> u32 {
    stage(&context, clear::clear)
}

#[xdp]
fn clear_judge(context: XdpContext) -> u32 {
    stage(&context, open::judge)
}

#[xdp]
fn clear_map(context: XdpContext) -> u32 {
    stage(&context, open::map)
}

#[xdp]
fn clear_add(context: XdpContext) -> u32 {
    stage(&context, open::add)
}

/// Takes what the others sent; what is not IPv4, such as ARP, is left to the stack.
#[xdp]
fn compare_sink(context: XdpContext) -> u32 {
    // SAFETY: the context of this run.
    let frame = unsafe { Frame::new(context.ctx) };
    let is_ipv4 = |header: Ethernet| header.ether_type == ether_type::IPV4;
    if frame.load(0).is_some_and(is_ipv4) {
        XDP_DROP
    } else {
        XDP_PASS
    }
}

#[inline(always)]
fn forward(frame: &mut Frame, maps: &Maps) -> Outcome {
    let ip: ipv4::Ipv4 = frame.load(IP).ok_or(DropReason::TruncatedIp)?;
    inner::translate_header(frame, &ip, Direction::Out, ip.source)?;
    let hop = maps.next_hop(0).ok_or(DropReason::NextHopUnresolved)?;
    clear::leave(frame, hop)
}

/// [`clear::clear`] with another look-up.
#[inline(always)]
fn by_hash(frame: &mut Frame, maps: &Maps) -> Outcome {
    let site = clear::site_of(frame)?;
    let mut inner = Inner::NONE;
    inner.read(frame, Direction::Out)?;
    let key = inner.flow_from_site(site);
    let settings = maps.settings().ok_or(DropReason::Internal)?;
    let now_s = maps.now_s();
    let record = FLOW_HASH
        .get_ptr_mut(&key)
        .and_then(Value::new)
        .ok_or(DropReason::NoFlow)?;
    if !clear::goes_on(record, &inner, settings, now_s) {
        return Err(DropReason::NoFlow);
    }
    let hop = clear::known_next_hop(maps, &key, record)?;
    let hop = maps.next_hop(hop).ok_or(DropReason::NextHopUnresolved)?;
    if inner.length() > hop.mtu {
        return Err(DropReason::NextHopTooBig);
    }
    clear::forward(frame, maps, site, &inner, record, hop, now_s)
}

#[inline(always)]
fn run(context: &XdpContext, decide: impl FnOnce(&mut Frame, &Maps) -> Outcome) -> u32 {
    // SAFETY: the context of this run.
    let (mut frame, maps) = unsafe { (Frame::new(context.ctx), Maps::new(context.ctx)) };
    if draw(&mut frame, &maps).is_none() {
        return XDP_DROP;
    }
    let outcome = decide(&mut frame, &maps);
    redirect(&maps, frame.len(), outcome)
}

/// A stage of the gateway's, as its own object runs it when nobody traces.
#[inline(always)]
fn stage(context: &XdpContext, decide: impl FnOnce(&mut Frame, &Maps) -> Result<Next, DropReason>) -> u32 {
    // SAFETY: the context of this run.
    let (mut frame, maps) = unsafe { (Frame::new(context.ctx), Maps::new(context.ctx)) };
    match decide(&mut frame, &maps) {
        Ok(Next::Decided(verdict)) => redirect(&maps, frame.len(), Ok(verdict)),
        Ok(Next::Stage(stage)) => {
            // SAFETY: nothing that is dropped here needs it.
            unsafe { STAGES.tail_call(context, stage as u32) };
            XDP_DROP
        }
        Err(reason) => {
            maps.count_drop(reason);
            XDP_DROP
        }
    }
}

#[inline(always)]
fn redirect(maps: &Maps, length: u32, outcome: Outcome) -> u32 {
    match outcome {
        Ok(Verdict::Egress { ifindex, path }) => {
            maps.count(path, length);
            EGRESS.redirect(ifindex, XDP_DROP.into()).unwrap_or(XDP_DROP)
        }
        Ok(_) => XDP_PASS,
        Err(_) => XDP_DROP,
    }
}

/// Where all flows lead to.
const SERVER_PORT: u16 = 443;

/// Makes the frame a packet of one of the flows. In whole words: what the program loads would otherwise wait for stores that
/// a card's frame has long behind it.
#[inline(always)]
fn draw(frame: &mut Frame, maps: &Maps) -> Option<()> {
    let flow = drawn(frame, maps)?;
    frame.store(0, &LinkHeader::new(SITE, 0))?;
    frame.store(IP + ipv4::TTL, &[64u8, 6, 0, 0])?;
    let [p0, p1] = ((flow & 0xfff) as u16 + 2048).to_be_bytes();
    let [s0, s1] = SERVER_PORT.to_be_bytes();
    frame.store(IP + ipv4::SOURCE, &[10u8, 1, (flow >> 12) as u8, 10])?;
    frame.store(IP + ipv4::LENGTH, &[p0, p1, s0, s1])
}

/// Makes the frame the center's answer in one of the flows.
#[inline(always)]
fn draw_answer(frame: &mut Frame, maps: &Maps) -> Option<()> {
    let flow = drawn(frame, maps)?;
    frame.store(ethernet::ETHER_TYPE, &ether_type::IPV4)?;
    frame.store(IP + ipv4::TTL, &[64u8, 6, 0, 0])?;
    let [p0, p1] = ((flow & 0x3fff) as u16 + 1024).to_be_bytes();
    let [s0, s1] = SERVER_PORT.to_be_bytes();
    frame.store(IP + ipv4::DESTINATION, &[198u8, 51, 100, (flow >> 14) as u8])?;
    frame.store(IP + ipv4::LENGTH, &[s0, s1, p0, p1])
}

/// Number of a flow, one of as many as the packet says.
#[inline(always)]
fn drawn(frame: &Frame, maps: &Maps) -> Option<u32> {
    let [_, bits]: [u8; 2] = frame.load(IDENTIFICATION)?;
    Some(maps.random() & (1u32 << (bits & 31)).wrapping_sub(1))
}

/// The licence that the kernel asks for GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &::core::panic::PanicInfo<'_>) -> ! {
    // As in the gateway's own object.
    loop {}
}
