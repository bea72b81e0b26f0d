//! Programs that load a whole gateway, and take it in its place; no part of the gateway: built for the bench alone (feature `compare`).
//!
//! [`load_generate`] is run by `BPF_PROG_TEST_RUN` with live frames. It sends each of the frames that were laid ready once and in their
//! order, as sequence numbers of ESP ask for, all at once or in bursts at their times. To the other end of a veth they come as
//! a network card delivers them: as frames in memory, of which a stack builds a socket buffer.
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "the `xdp` macro puts an undocumented public function beside each program"
)]

use core::ffi::c_void;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::{Array, DevMapHash, XskMap};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_loop, bpf_xdp_adjust_tail, bpf_xdp_store_bytes};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

/// Frames that can lie ready.
const FRAMES: usize = 1 << 16;
/// Room of a place for a small frame, and of one for any, with the word in front that has its length and where it leaves.
const SMALL: usize = 192;
const LARGE: usize = 1600;
const HEAD: usize = 8;
/// Words of [`LOAD_TOLD`].
const NEXT: usize = 0;
const COUNT: usize = 1;
const BURST: usize = 2;
const INTERVAL_NS: usize = 3;
const IS_LARGE: usize = 4;
const BEGUN_NS: usize = 5;
const NOW_NS: usize = 6;
/// Looks at the clock while a burst waits for its time, at most: some tens of milliseconds.
const LOOKS_MAX: u32 = 1 << 20;

/// What is to be done, and how far it is: the number of the next frame, how many there are, how many leave together, the time between two bursts
/// (zero: none), whether frames lie in the large places, and when the first and the last burst left.
#[btf_map]
static LOAD_TOLD: Array<[u64; 8], 1> = Array::new();
#[btf_map]
static LOAD_SMALL: Array<[u8; SMALL], FRAMES> = Array::new();
#[btf_map]
static LOAD_LARGE: Array<[u8; LARGE], FRAMES> = Array::new();
/// When each frame left, by the monotonic clock.
#[btf_map]
static LOAD_SENT: Array<u64, FRAMES> = Array::new();
/// Interfaces by which frames leave.
#[btf_map]
static LOAD_LEAVES: DevMapHash<4> = DevMapHash::new();
/// Sockets of [`load_receive`], by the index of the interface.
#[btf_map]
static LOAD_SOCKETS: XskMap<4096> = XskMap::new();

/// Sends the next frame.
#[xdp]
fn load_generate(context: XdpContext) -> u32 {
    // SAFETY: the context of this run; one CPU generates.
    match unsafe { generate(context.ctx) } {
        Some(leaves) => LOAD_LEAVES.redirect(leaves, XDP_DROP.into()).unwrap_or(XDP_DROP),
        None => XDP_DROP,
    }
}

/// Gives what comes to the AF_XDP socket of its interface.
#[xdp]
fn load_receive(context: XdpContext) -> u32 {
    // SAFETY: the context of this run.
    let came_by = unsafe { (*context.ctx).ingress_ifindex };
    LOAD_SOCKETS
        .redirect(came_by, XDP_PASS.into())
        .unwrap_or(XDP_PASS)
}

/// Writes the next frame in the place of the one that came back, and answers where it leaves.
///
/// # Safety
/// The context is that of this run, and no other CPU runs the program.
#[inline(always)]
unsafe fn generate(context: *mut xdp_md) -> Option<u32> {
    let told = LOAD_TOLD.get_ptr_mut(0)?.cast::<u64>();
    // SAFETY: the value stays for the run; the words are in it.
    unsafe {
        let next = told.add(NEXT).read();
        let burst = told.add(BURST).read();
        if next >= told.add(COUNT).read() || burst == 0 {
            return None;
        }
        if next % burst == 0 {
            let due = told.add(BEGUN_NS).read() + next / burst * told.add(INTERVAL_NS).read();
            let now = at_its_time(due);
            told.add(NOW_NS).write(now);
            if next == 0 {
                told.add(BEGUN_NS).write(now);
            }
        }
        told.add(NEXT).write(next + 1);
        LOAD_SENT.get_ptr_mut(next as u32)?.write(told.add(NOW_NS).read());
        if told.add(IS_LARGE).read() == 0 {
            write(context, LOAD_SMALL.get_ptr_mut(next as u32)?)
        } else {
            write(context, LOAD_LARGE.get_ptr_mut(next as u32)?)
        }
    }
}

/// # Safety
/// The place is one of a map's, and the context that of this run.
#[inline(always)]
unsafe fn write<const ROOM: usize>(context: *mut xdp_md, place: *mut [u8; ROOM]) -> Option<u32> {
    // SAFETY: by the caller.
    unsafe {
        let [length, leaves] = place.cast::<[u32; 2]>().read();
        if length < 14 || length > const { (ROOM - HEAD) as u32 } {
            return None;
        }
        let has = ((&raw const (*context).data_end).read_volatile())
            .wrapping_sub((&raw const (*context).data).read_volatile());
        if has != length && bpf_xdp_adjust_tail(context, length.wrapping_sub(has) as i32) != 0 {
            return None;
        }
        let octets = place.cast::<u8>().add(HEAD).cast::<c_void>();
        (bpf_xdp_store_bytes(context, 0, octets, length) == 0).then_some(leaves)
    }
}

#[repr(C)]
struct Waiting {
    due: u64,
    now: u64,
}

/// Waits, and answers what time it is.
#[inline(always)]
fn at_its_time(due: u64) -> u64 {
    // SAFETY: the helper reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if now >= due {
        return now;
    }
    let mut waiting = Waiting { due, now };
    // SAFETY: `look` has the signature that the helper calls, and `waiting` outlives the call.
    unsafe { bpf_loop(LOOKS_MAX, look as *mut c_void, (&raw mut waiting).cast(), 0) };
    waiting.now
}

/// Looks at the clock; returns 1 to end the loop.
unsafe extern "C" fn look(_index: u64, waiting: *mut c_void) -> i64 {
    // SAFETY: `at_its_time` passed it, and nothing else uses it during the loop.
    let waiting = unsafe { &mut *waiting.cast::<Waiting>() };
    // SAFETY: the helper reads a clock.
    waiting.now = unsafe { bpf_ktime_get_ns() };
    (waiting.now >= waiting.due).into()
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
