//! A frame in XDP.

use crate::arrays::hide;
use core::arch::asm;
use core::ffi::c_void;
use core::hint::assert_unchecked;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_loop, bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use gateway_common::packet::checksum::Sum;
use gateway_common::packet::{OFFSET_MAX, Packet, Wire};

/// Longest frame that is summed.
const SUM_MAX: u32 = 0x3fff;
/// Bytes that one step of a sum adds.
const SUM_STEP: u32 = 8;

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

    /// Where the frame begins and ends now. In assembly, which tells of pointers: the numbers that the compiler takes the fields for
    /// would be extended by shifts. It is repeated only for another context ([`Frame::has_moved`]): what is checked once is not checked
    /// again.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let (data, end): (usize, usize);
        // SAFETY: the context is valid for the whole run (`new`), and begins with both; to a program they look like 32 bits.
        unsafe {
            asm!("{data} = *(u32 *)({context} + 0)", data = out(reg) data, context = in(reg) self.context,
                 options(pure, nomem, nostack));
            asm!("{end} = *(u32 *)({context} + 4)", end = out(reg) end, context = in(reg) self.context,
                 options(pure, nomem, nostack));
            // No pointer lies so near to the end of memory: offsets that are added do not wrap.
            assert_unchecked(data <= usize::MAX - (1 << 16));
        }
        (data, end)
    }

    /// The frame begins or ends elsewhere now: to the compiler the context is another. (Should it keep a pointer nevertheless, the
    /// verifier refuses the program.)
    #[inline(always)]
    fn has_moved(&mut self) {
        // SAFETY: nothing is done.
        unsafe { asm!("/* {context} */", context = inout(reg) self.context, options(nomem, nostack)) };
    }

    /// Pointer to a `T` at `offset`, if all of it is in the frame. The variable offset is bounded and added first,
    /// the check comes after: the order that the verifier follows.
    #[inline(always)]
    fn at<T>(&self, offset: u32) -> Option<*mut T> {
        if offset > OFFSET_MAX {
            return None;
        }
        self.at_far(offset)
    }

    /// The same for an offset that the caller has bounded.
    #[inline(always)]
    fn at_far<T>(&self, offset: u32) -> Option<*mut T> {
        let (data, end) = self.bounds();
        let start = data + offset as usize;
        if start + size_of::<T>() > end {
            return None;
        }
        Some(start as *mut T)
    }
}

/// Longest header.
const HEADER_MAX: usize = 40;

/// The word so far behind a place, wherever it lies: the compiler would read what is not aligned octet by octet.
///
/// # Safety
/// All of it is in the frame.
#[inline(always)]
unsafe fn load_word<const BEHIND: usize>(from: *const u8) -> u32 {
    let word: u32;
    // SAFETY: by the caller.
    unsafe {
        asm!("{word} = *(u32 *)({from} + {behind})", word = out(reg) word, from = in(reg) from, behind = const BEHIND,
             options(pure, readonly, nostack));
    }
    word
}

/// The half of a word, likewise.
///
/// # Safety
/// As of [`load_word`].
#[inline(always)]
unsafe fn load_half<const BEHIND: usize>(from: *const u8) -> u16 {
    let half: u32;
    // SAFETY: by the caller.
    unsafe {
        asm!("{half} = *(u16 *)({from} + {behind})", half = out(reg) half, from = in(reg) from, behind = const BEHIND,
             options(pure, readonly, nostack));
    }
    half as u16
}

/// Writes a word so far behind a place.
///
/// # Safety
/// As of [`load_word`], and the frame is the program's.
#[inline(always)]
unsafe fn store_word<const BEHIND: usize>(to: *mut u8, word: u32) {
    // SAFETY: by the caller.
    unsafe {
        asm!("*(u32 *)({to} + {behind}) = {word}", word = in(reg) word, to = in(reg) to, behind = const BEHIND,
             options(nostack));
    }
}

/// Writes half of a word.
///
/// # Safety
/// As of [`store_word`].
#[inline(always)]
unsafe fn store_half<const BEHIND: usize>(to: *mut u8, half: u16) {
    // SAFETY: by the caller.
    unsafe {
        asm!("*(u16 *)({to} + {behind}) = {half}", half = in(reg) u32::from(half), to = in(reg) to, behind = const BEHIND,
             options(nostack));
    }
}

/// Copies a word of which the compiler knows nothing: it would take it to octets.
///
/// # Safety
/// As of [`load_word`]. (Should `to` lie otherwise than on four bytes, the verifier refuses the program.)
#[inline(always)]
unsafe fn copy_word<const BEHIND: usize>(from: *const u8, to: *mut u8) {
    // SAFETY: by the caller.
    unsafe {
        asm!("{word} = *(u32 *)({from} + {behind})", "*(u32 *)({to} + {behind}) = {word}", word = out(reg) _,
             from = in(reg) from, to = in(reg) to, behind = const BEHIND, options(nostack));
    }
}

/// Copies half of a word.
///
/// # Safety
/// As of [`copy_word`].
#[inline(always)]
unsafe fn copy_half<const BEHIND: usize>(from: *const u8, to: *mut u8) {
    // SAFETY: by the caller.
    unsafe {
        asm!("{half} = *(u16 *)({from} + {behind})", "*(u16 *)({to} + {behind}) = {half}", half = out(reg) _,
             from = in(reg) from, to = in(reg) to, behind = const BEHIND, options(nostack));
    }
}

/// Does what is to be done with each word of a header of that many bytes, and with the half and the octet behind them. Without
/// a loop: an instruction has its place in the header in it.
macro_rules! by_words {
    ($size:expr, $word:ident, $half:ident, $octet:ident) => {
        by_words!($size, $word, $half, $octet: 0, 4, 8, 12, 16, 20, 24, 28, 32, 36)
    };
    ($size:expr, $word:ident, $half:ident, $octet:ident: $($at:literal),*) => {
        const { assert!($size <= HEADER_MAX) };
        $(
            if $at + 4 <= $size {
                $word!($at);
            } else if $at + 2 <= $size {
                $half!($at);
            }
        )*
        if $size % 2 == 1 {
            $octet!($size - 1);
        }
    };
}

/// Reads a header from wherever it lies.
///
/// # Safety
/// All of `from` is in the frame.
#[inline(always)]
unsafe fn read<T: Wire>(from: *const T) -> T {
    let mut value = Aligned(MaybeUninit::<T>::uninit());
    let to = value.0.as_mut_ptr();
    let from = from.cast::<u8>();
    // SAFETY: by the caller; the parts of an aligned `T` are aligned, and all of them are written.
    unsafe {
        macro_rules! word {
            ($at:literal) => {
                to.byte_add($at).cast::<u32>().write(load_word::<$at>(from))
            };
        }
        macro_rules! half {
            ($at:literal) => {
                to.byte_add($at).cast::<u16>().write(load_half::<$at>(from))
            };
        }
        macro_rules! octet {
            ($at:expr) => {
                to.byte_add($at)
                    .cast::<u8>()
                    .write(from.byte_add($at).read())
            };
        }
        by_words!(size_of::<T>(), word, half, octet);
        value.0.assume_init()
    }
}

/// Copies a header out of the frame.
///
/// # Safety
/// All of `from` is in the frame.
#[inline(always)]
unsafe fn copy<T: Wire>(from: *const T, to: *mut T) {
    let (from, to) = (from.cast::<u8>(), to.cast::<u8>());
    // SAFETY: by the caller.
    unsafe {
        macro_rules! word {
            ($at:literal) => {
                copy_word::<$at>(from, to)
            };
        }
        macro_rules! half {
            ($at:literal) => {
                copy_half::<$at>(from, to)
            };
        }
        macro_rules! octet {
            ($at:expr) => {
                to.byte_add($at).write(from.byte_add($at).read())
            };
        }
        by_words!(size_of::<T>(), word, half, octet);
    }
}

/// Writes a header.
///
/// # Safety
/// All of `to` is in the frame, which is the program's.
#[inline(always)]
unsafe fn write<T: Wire>(to: *mut T, value: &T) {
    let value = Aligned(*value);
    let from = (&raw const value.0).cast::<u8>();
    let to = to.cast::<u8>();
    // SAFETY: by the caller; the parts of an aligned `T` are aligned.
    unsafe {
        macro_rules! word {
            ($at:literal) => {
                store_word::<$at>(to, from.byte_add($at).cast::<u32>().read())
            };
        }
        macro_rules! half {
            ($at:literal) => {
                store_half::<$at>(to, from.byte_add($at).cast::<u16>().read())
            };
        }
        macro_rules! octet {
            ($at:expr) => {
                to.byte_add($at).write(from.byte_add($at).read())
            };
        }
        by_words!(size_of::<T>(), word, half, octet);
    }
}

#[repr(C, align(8))]
struct Aligned<T>(T);

/// A sum on its way through a frame.
struct Summing {
    frame: Frame,
    at: u32,
    end: u32,
    sum: u64,
}

/// Adds the next bytes; returns 1 to end the loop.
unsafe extern "C" fn add_up(_index: u64, summing: *mut c_void) -> i64 {
    // SAFETY: `sum` passed it, and nothing else uses it during the loop.
    let summing = unsafe { &mut *summing.cast::<Summing>() };
    let at = summing.at & SUM_MAX;
    let left = summing.end.wrapping_sub(summing.at);
    // SAFETY: `at_far` checked the bounds.
    let (step, sum) = unsafe {
        if left == 0 {
            return 1;
        } else if left >= SUM_STEP
            && let Some(words) = summing.frame.at_far::<[u32; 2]>(at)
        {
            let words = words.cast_const().cast();
            let (one, other) = (load_word::<0>(words), load_word::<4>(words));
            (SUM_STEP, u64::from(one) + u64::from(other))
        } else if left >= 2
            && let Some(word) = summing.frame.at_far::<u16>(at)
        {
            (2, u64::from(word.read_unaligned()))
        } else if at > 0
            && let Some(word) = summing.frame.at_far::<u16>(at - 1)
        {
            // The last byte, of two: the verifier takes no bounds from a check for one.
            let [_, last] = word.read_unaligned().to_ne_bytes();
            (1, u64::from(u16::from_ne_bytes([last, 0])))
        } else {
            return 1;
        }
    };
    summing.sum = summing.sum.wrapping_add(sum);
    summing.at = summing.at.wrapping_add(step);
    0
}

impl Packet for Frame {
    #[inline(always)]
    fn len(&self) -> u32 {
        let (data, end) = self.bounds();
        let mut length = end;
        // SAFETY: a subtraction; in assembly, as the compiler would shift what the verifier takes for pointers.
        unsafe {
            asm!("{length} -= {data}", length = inout(reg) length, data = in(reg) data, options(pure, nomem, nostack))
        };
        length as u32
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        let pointer = self.at::<T>(offset)?;
        // SAFETY: `at` checked the bounds; any bytes are a `T`.
        Some(unsafe { read(pointer) })
    }

    #[inline(always)]
    fn load_into<T: Wire>(&self, offset: u32, to: &mut T) -> Option<()> {
        let pointer = self.at::<T>(offset)?;
        // SAFETY: `at` checked the bounds; any bytes are a `T`.
        unsafe { copy(pointer, to) };
        Some(())
    }

    #[inline(always)]
    fn load_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let from = self.at::<[u32; N]>(offset)?.cast_const().cast();
        let mut words = [0; N];
        // SAFETY: `at` checked the bounds.
        unsafe {
            macro_rules! word {
                ($at:literal) => {
                    words[$at / 4] = load_word::<$at>(from)
                };
            }
            macro_rules! none {
                ($at:expr) => {};
            }
            by_words!(4 * N, word, none, none);
        }
        Some(words)
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: u32, value: &T) -> Option<()> {
        let pointer = self.at::<T>(offset)?;
        // SAFETY: `at` checked the bounds; the program owns the frame while it runs.
        unsafe { write(pointer, value) };
        Some(())
    }

    #[inline(always)]
    fn sum(&self, offset: u32, length: u32) -> Option<Sum> {
        let mut summing = Summing {
            frame: Frame {
                context: self.context,
            },
            at: offset,
            end: offset.wrapping_add(length),
            sum: 0,
        };
        if summing.end > SUM_MAX || summing.end > self.len() || summing.end < offset {
            return None;
        }
        // SAFETY: `add_up` has the signature that the helper calls, and `summing` outlives the call.
        unsafe {
            bpf_loop(
                SUM_MAX / SUM_STEP + SUM_STEP,
                add_up as *mut c_void,
                (&raw mut summing).cast(),
                0,
            )
        };
        (summing.at == summing.end).then_some(Sum::of(summing.sum))
    }

    #[inline(always)]
    fn grow_head(&mut self, bytes: u32) -> Option<()> {
        // SAFETY: the context is valid; no pointer into the frame is kept (`at`).
        let result = unsafe { bpf_xdp_adjust_head(self.context, (bytes as i32).wrapping_neg()) };
        self.has_moved();
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
        self.has_moved();
        (result == 0).then_some(())
    }
}
