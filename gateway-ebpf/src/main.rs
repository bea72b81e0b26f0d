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
use gateway_common::abi::flow::{halves, pair};
use gateway_common::abi::trace::{outcome, point};
use gateway_common::drop::DropReason;
use gateway_common::packet::Packet;
use gateway_common::path::clear::Next;
use gateway_common::path::trace::End;
use gateway_common::path::{self, Outcome, Verdict};
use gateway_common::tables::Tables;

use arrays::hide;
use context::Frame;
use maps::{EGRESS, STAGES, TRACER, XSKS};
use tables::Maps;

/// Outer interface: ESP and IKE.
#[xdp]
fn wan(context: XdpContext) -> u32 {
    run(&context, point::WAN, path::wan::wan)
}

/// The clear link: decrypted packets of sites.
#[xdp]
fn clear(context: XdpContext) -> u32 {
    run_stage(&context, point::CLEAR, path::clear::clear)
}

/// The stage of `clear` that judges a new flow.
#[xdp]
fn clear_judge(context: XdpContext) -> u32 {
    run_stage(&context, point::JUDGE, path::open::judge)
}

/// The stage of `clear` that maps the source of a new flow.
#[xdp]
fn clear_map(context: XdpContext) -> u32 {
    run_stage(&context, point::MAP, path::open::map)
}

/// The stage of `clear` that makes a new flow.
#[xdp]
fn clear_add(context: XdpContext) -> u32 {
    run_stage(&context, point::ADD, path::open::add)
}

/// The stage of `clear` for ICMP errors.
#[xdp]
fn clear_error(context: XdpContext) -> u32 {
    run_stage(&context, point::SITE_ERROR, path::error::from_site)
}

/// The stage of `clear` that answers a packet which goes no further.
#[xdp]
fn clear_answer(context: XdpContext) -> u32 {
    run(&context, point::ANSWER, path::answer::answer)
}

/// The stage of `clear` for fragments of sites' packets.
#[xdp]
fn clear_fragment(context: XdpContext) -> u32 {
    run_stage(&context, point::SITE_FRAGMENT, path::fragment::from_site)
}

/// The stage of `clear` for fragments of the center's packets, which come from a worker.
#[xdp]
fn core_fragment(context: XdpContext) -> u32 {
    run_stage(&context, point::CENTER_FRAGMENT, path::fragment::from_center)
}

/// The stage of `clear` that lets a remote address send to a mapping.
#[xdp]
fn clear_permit(context: XdpContext) -> u32 {
    run_stage(&context, point::PERMIT, path::enter::permit)
}

/// The stage of `clear` that judges a new flow from site to site.
#[xdp]
fn hairpin_judge(context: XdpContext) -> u32 {
    run_stage(&context, point::HAIRPIN_JUDGE, path::hairpin::judge)
}

/// The stage of `clear` that forwards from site to site.
#[xdp]
fn hairpin(context: XdpContext) -> u32 {
    run_stage(&context, point::HAIRPIN, path::hairpin::forward)
}

/// The stage of `clear` that asks the filtering of the site that is called.
#[xdp]
fn hairpin_enter(context: XdpContext) -> u32 {
    run_stage(&context, point::HAIRPIN_ENTER, path::hairpin::enter)
}

/// The stage of `clear` that makes the flow of the site that is called.
#[xdp]
fn hairpin_add(context: XdpContext) -> u32 {
    run_stage(&context, point::HAIRPIN_ADD, path::hairpin::add)
}

/// The stage of `clear` for ICMP errors from site to site.
#[xdp]
fn hairpin_error(context: XdpContext) -> u32 {
    run_stage(&context, point::HAIRPIN_ERROR, path::error::between_sites)
}

/// The stage of `core` that answers a packet which goes no further.
#[xdp]
fn core_answer(context: XdpContext) -> u32 {
    run(&context, point::CENTER_ANSWER, path::answer::answer_center)
}

/// Core interface: packets of the center.
#[xdp]
fn core(context: XdpContext) -> u32 {
    run_stage(&context, point::CORE, path::core::core)
}

/// The stage of `core` for ICMP errors.
#[xdp]
fn core_error(context: XdpContext) -> u32 {
    run_stage(&context, point::CENTER_ERROR, path::error::from_center)
}

/// The stage of `core` that judges what may open a flow.
#[xdp]
fn core_enter(context: XdpContext) -> u32 {
    run_stage(&context, point::ENTER, path::enter::enter)
}

/// The stage of `core` that makes a flow.
#[xdp]
fn core_add(context: XdpContext) -> u32 {
    run_stage(&context, point::ENTER_ADD, path::enter::add)
}

/// Tells of a packet at the end of another program, and goes on for it.
#[xdp]
fn trace(context: XdpContext) -> u32 {
    // SAFETY: the context of this run.
    let (frame, maps) = unsafe { (Frame::new(context.ctx), Maps::new(context.ctx)) };
    let Some((end, code)) = tables::traced() else {
        return XDP_DROP;
    };
    path::trace::tell(&frame, &maps, end);
    if end.outcome == outcome::STAGE {
        // SAFETY: as in `run_stage`.
        unsafe { STAGES.tail_call(&context, end.value) };
        maps.count_drop(DropReason::Internal);
        return XDP_DROP;
    }
    code
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
    point: u32,
    decide: impl FnOnce(&mut Frame, &Maps) -> Result<Next, DropReason>,
) -> u32 {
    run(context, point, |frame, maps| match decide(frame, maps)? {
        Next::Decided(verdict) => Ok(verdict),
        Next::Stage(stage) => {
            if path::trace::is_on(maps) {
                tell(context, End::stage(point, stage), XDP_DROP);
            }
            // SAFETY: nothing that is dropped here needs it; a stage that is missing leaves the packet to be dropped.
            unsafe { STAGES.tail_call(context, stage as u32) };
            Err(DropReason::Internal)
        }
    })
}

/// Runs the core and acts on its outcome.
#[inline(always)]
fn run(context: &XdpContext, point: u32, decide: impl FnOnce(&mut Frame, &Maps) -> Outcome) -> u32 {
    // SAFETY: the context of this run.
    let (mut frame, maps) = unsafe { (Frame::new(context.ctx), Maps::new(context.ctx)) };
    let outcome = decide(&mut frame, &maps);
    let acted = outcome.and_then(|verdict| {
        let code = act(verdict)?;
        maps.count(verdict.path(), frame.len());
        Ok((verdict, code))
    });
    let (end, code) = match acted {
        Ok((verdict, code)) => (End::of(point, Ok(verdict)), code),
        Err(reason) => {
            maps.count_drop(reason);
            // Off unless the loader sets the level: a constant then, and the verifier leaves the branch out.
            trace!(context, "dropped {} bytes, reason {}", frame.len(), reason as u32);
            (End::of(point, Err(reason)), XDP_DROP)
        }
    };
    // Hidden: what follows is verified once, not once for each way to an end.
    let (outcome, code) = halves(hide(pair(end.outcome, code)));
    let value = hide(u64::from(end.value)) as u32;
    if path::trace::is_on(&maps) {
        let end = End {
            point,
            outcome,
            value,
        };
        tell(context, end, code);
    }
    code
}

/// Has [`trace`] tell of a packet and return the code, or go on to the stage. Comes back if that program is not there.
#[inline(always)]
fn tell(context: &XdpContext, end: End, code: u32) {
    if tables::leave_trace(end, code) {
        // SAFETY: nothing that is dropped here needs it.
        unsafe { TRACER.tail_call(context, 0) };
    }
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
