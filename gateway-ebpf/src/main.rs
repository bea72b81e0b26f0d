//! The XDP programs: thin shells over the packet core of `gateway-common`. They move bytes, touch maps and turn the
//! core's outcome into an XDP code; they decide nothing.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "the `xdp` macro puts an undocumented public function beside each program"
)]

mod arrays;
mod context;
mod maps;
mod tables;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::trace;
use gateway_common::drop::DropReason;
use gateway_common::packet::Packet;
use gateway_common::path::clear::Next;
use gateway_common::path::{self, Outcome, Verdict};
use gateway_common::tables::Tables;

use context::Frame;
use maps::{EGRESS, STAGES, XSKS};
use tables::Maps;

/// Outer interface: ESP and IKE.
#[xdp]
fn wan(context: XdpContext) -> u32 {
    run(&context, path::wan::wan)
}

/// The clear link: decrypted packets of sites.
#[xdp]
fn clear(context: XdpContext) -> u32 {
    run_stage(&context, path::clear::clear)
}

/// The stage of `clear` that judges a new flow.
#[xdp]
fn clear_judge(context: XdpContext) -> u32 {
    run_stage(&context, path::open::judge)
}

/// The stage of `clear` that maps the source of a new flow.
#[xdp]
fn clear_map(context: XdpContext) -> u32 {
    run_stage(&context, path::open::map)
}

/// The stage of `clear` that makes a new flow.
#[xdp]
fn clear_add(context: XdpContext) -> u32 {
    run_stage(&context, path::open::add)
}

/// The stage of `clear` for ICMP errors.
#[xdp]
fn clear_error(context: XdpContext) -> u32 {
    run_stage(&context, path::error::from_site)
}

/// The stage of `clear` that answers a packet which goes no further.
#[xdp]
fn clear_answer(context: XdpContext) -> u32 {
    run(&context, path::answer::answer)
}

/// The stage of `clear` for fragments of sites' packets.
#[xdp]
fn clear_fragment(context: XdpContext) -> u32 {
    run_stage(&context, path::fragment::from_site)
}

/// The stage of `clear` for fragments of the center's packets, which come from a worker.
#[xdp]
fn core_fragment(context: XdpContext) -> u32 {
    run_stage(&context, path::fragment::from_center)
}

/// The stage of `clear` that lets a remote address send to a mapping.
#[xdp]
fn clear_permit(context: XdpContext) -> u32 {
    run_stage(&context, path::enter::permit)
}

/// The stage of `clear` that judges a new flow from site to site.
#[xdp]
fn hairpin_judge(context: XdpContext) -> u32 {
    run_stage(&context, path::hairpin::judge)
}

/// The stage of `clear` that forwards from site to site.
#[xdp]
fn hairpin(context: XdpContext) -> u32 {
    run_stage(&context, path::hairpin::forward)
}

/// The stage of `clear` that asks the filtering of the site that is called.
#[xdp]
fn hairpin_enter(context: XdpContext) -> u32 {
    run_stage(&context, path::hairpin::enter)
}

/// The stage of `clear` that makes the flow of the site that is called.
#[xdp]
fn hairpin_add(context: XdpContext) -> u32 {
    run_stage(&context, path::hairpin::add)
}

/// The stage of `core` that answers a packet which goes no further.
#[xdp]
fn core_answer(context: XdpContext) -> u32 {
    run(&context, path::answer::answer_center)
}

/// Core interface: packets of the center.
#[xdp]
fn core(context: XdpContext) -> u32 {
    run_stage(&context, path::core::core)
}

/// The stage of `core` for ICMP errors.
#[xdp]
fn core_error(context: XdpContext) -> u32 {
    run_stage(&context, path::error::from_center)
}

/// The stage of `core` that judges what may open a flow.
#[xdp]
fn core_enter(context: XdpContext) -> u32 {
    run_stage(&context, path::enter::enter)
}

/// The stage of `core` that makes a flow.
#[xdp]
fn core_add(context: XdpContext) -> u32 {
    run_stage(&context, path::enter::add)
}

/// Lets everything through: it makes the other end of a veth deliver redirected frames, and is the floor of a
/// measurement.
#[xdp]
fn pass(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// Runs a stage of the core that may hand the packet to another, and acts on its outcome.
#[inline(always)]
fn run_stage(
    context: &XdpContext,
    decide: impl FnOnce(&mut Frame, &Maps) -> Result<Next, DropReason>,
) -> u32 {
    run(context, |frame, maps| match decide(frame, maps)? {
        Next::Decided(verdict) => Ok(verdict),
        Next::Stage(stage) => {
            // SAFETY: nothing that is dropped here needs it; a stage that is missing leaves the packet to be dropped.
            unsafe { STAGES.tail_call(context, stage as u32) };
            Err(DropReason::Internal)
        }
    })
}

/// Runs the core and acts on its outcome.
#[inline(always)]
fn run(context: &XdpContext, decide: impl FnOnce(&mut Frame, &Maps) -> Outcome) -> u32 {
    // SAFETY: the context of this run.
    let (mut frame, maps) = unsafe { (Frame::new(context.ctx), Maps::new(context.ctx)) };
    let outcome = decide(&mut frame, &maps);
    let acted = outcome.and_then(|verdict| {
        let code = act(verdict)?;
        maps.count(verdict.path(), frame.len());
        Ok(code)
    });
    acted.unwrap_or_else(|reason| {
        maps.count_drop(reason);
        // Off unless the loader sets the level: a constant then, and the verifier leaves the branch out.
        trace!(context, "dropped {} bytes, reason {}", frame.len(), reason as u32);
        XDP_DROP
    })
}

/// The XDP code of a verdict. A redirect without a target drops: nothing leaves by another way.
#[inline(always)]
fn act(verdict: Verdict) -> Result<u32, DropReason> {
    match verdict {
        Verdict::Pass(_) => Ok(XDP_PASS),
        Verdict::Reflect(_) => Ok(XDP_TX),
        Verdict::Worker { slot, .. } => XSKS
            .redirect(slot, XDP_DROP.into())
            .map_err(|_| DropReason::NoWorker),
        Verdict::Egress { ifindex, .. } => EGRESS
            .redirect(ifindex, XDP_DROP.into())
            .map_err(|_| DropReason::NextHopUnresolved),
    }
}

/// The licence that the kernel asks for GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &::core::panic::PanicInfo<'_>) -> ! {
    // The core does not panic; a panic left in the code fails to load.
    loop {}
}
