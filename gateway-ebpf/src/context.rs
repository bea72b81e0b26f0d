//! A frame in XDP.

use crate::arrays::hide;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use gateway_common::packet::{OFFSET_MAX, Packet, Wire};

/// The frame of one run of a program.
pub(crate) struct Frame {
    context: *mut xdp_md,
}

impl Frame {
    /// Wraps the context of the running program.
    ///
    /// # Safety
    /// `context` is the argument that the kernel gave to the program.
    #[inline(always)]
    pub(crate) unsafe fn new(context: *mut xdp_md) -> Self {
        Self { context }
    }

    /// Where the frame begins and ends now. Volatile, so that each access has bounds of its own: none survives a move
    /// of the head.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the context is valid for the whole run (`new`).
        unsafe {
            (
                (&raw const (*self.context).data).read_volatile() as usize,
                (&raw const (*self.context).data_end).read_volatile() as usize,
            )
        }
    }

    /// Pointer to a `T` at `offset`, if all of it is in the frame. The variable offset is bounded and added first,
    /// the check comes after: the order that the verifier follows.
    #[inline(always)]
    fn at<T>(&self, offset: u32) -> Option<*mut T> {
        if offset > OFFSET_MAX {
            return None;
        }
        let (data, end) = self.bounds();
        let start = data + offset as usize;
        if start + size_of::<T>() > end {
            return None;
        }
        Some(start as *mut T)
    }
}

/// A header at an even address, which halves the loads. XDP frames begin behind 256 bytes of headroom, or
/// `NET_IP_ALIGN` further; the programs move the head by 28 alone.
#[repr(C, align(2))]
struct Even<T>(T);

impl Packet for Frame {
    #[inline(always)]
    fn len(&self) -> u32 {
        let (data, end) = self.bounds();
        (end - data) as u32
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        let pointer = self.at::<T>(offset)?;
        if size_of::<T>() % 2 == 0 && offset % 2 == 0 {
            // SAFETY: `at` checked the bounds; any bytes are a `T`; frames begin at an even address (`Even`).
            return Some(unsafe { pointer.cast::<Even<T>>().read() }.0);
        }
        // SAFETY: `at` checked the bounds; any bytes are a `T`.
        Some(unsafe { pointer.read_unaligned() })
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: u32, value: &T) -> Option<()> {
        let pointer = self.at::<T>(offset)?;
        if size_of::<T>() % 2 == 0 && offset % 2 == 0 {
            // SAFETY: `at` checked the bounds; the program owns the frame; it begins at an even address (`Even`).
            unsafe { pointer.cast::<Even<T>>().write(Even(*value)) };
            return Some(());
        }
        // SAFETY: `at` checked the bounds; the program owns the frame while it runs.
        unsafe { pointer.write_unaligned(*value) };
        Some(())
    }

    #[inline(always)]
    fn grow_head(&mut self, bytes: u32) -> Option<()> {
        // SAFETY: the context is valid; no pointer into the frame is kept (`at`).
        let result = unsafe { bpf_xdp_adjust_head(self.context, (bytes as i32).wrapping_neg()) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn hide(value: u32) -> u32 {
        hide(u64::from(value)) as u32
    }

    #[inline(always)]
    fn truncate(&mut self, len: u32) -> Option<()> {
        let surplus = self.len().checked_sub(len)?;
        // SAFETY: the context is valid; no pointer into the frame is kept (`at`).
        let result = unsafe { bpf_xdp_adjust_tail(self.context, (surplus as i32).wrapping_neg()) };
        (result == 0).then_some(())
    }
}
