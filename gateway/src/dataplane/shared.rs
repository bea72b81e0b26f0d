//! Arrays that the programs and this process share, mapped into memory.
//!
//! **Architecture invariant:** this memory is reached through atomics alone, since programs, workers and the kernel change it
//! at any moment.
#![allow(
    unsafe_code,
    reason = "memory shared with the kernel; every block says why it is sound"
)]

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use aya::maps::{Map, MapData};
use gateway_esp::Span;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Has the cache line of a place on its way that is needed soon.
#[inline(always)]
pub(crate) fn fetch<T>(place: &T) {
    fetch_line(std::ptr::from_ref(place).cast());
}

/// Has all cache lines of a piece of memory on their way.
#[inline(always)]
pub(crate) fn fetch_span(span: Span) {
    span.lines().for_each(fetch_line);
}

#[inline(always)]
fn fetch_line(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads and changes nothing whatever the address is.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Octets that the kernel rounds the values of an array map up to.
const VALUE_ALIGN: usize = 8;

/// A memory-mapped array map whose values are `N` words.
pub(crate) struct SharedArray<const N: usize> {
    memory: NonNull<c_void>,
    values: usize,
    mapped: NonZeroUsize,
}

/// The same, mapped to be read alone: what the controller writes by system calls.
pub(crate) struct LentArray<const N: usize>(SharedArray<N>);

impl<const N: usize> LentArray<N> {
    /// Maps an array map into memory; it lives as long as this does. Its values may end within the last of the `N` words.
    ///
    /// # Errors
    /// The map has another shape, or the kernel refuses.
    pub(crate) fn new(map: &Map) -> io::Result<Self> {
        let (data, value_size, values) = shape(map)?;
        check::<N>(value_size.next_multiple_of(VALUE_ALIGN))?;
        SharedArray::map(data, values, ProtFlags::PROT_READ).map(Self)
    }

    /// Values of this process alone.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn in_memory(values: &[[u64; N]]) -> io::Result<Self> {
        let array = SharedArray::in_memory(values.len())?;
        for (place, value) in array.values().iter().zip(values) {
            for (place, word) in place.iter().zip(value) {
                place.store(*word, Release);
            }
        }
        Ok(Self(array))
    }

    /// The words of a value as they are now. The kernel may be replacing them: some are old then and some new.
    pub(crate) fn get(&self, index: u32) -> Option<[u64; N]> {
        let value = self.0.values().get(index as usize)?;
        Some(value.each_ref().map(|word| word.load(Acquire)))
    }
}

impl<const N: usize> SharedArray<N> {
    /// Maps an array map into memory; it lives as long as this does.
    ///
    /// # Errors
    /// The map has another shape, or the kernel refuses.
    pub(crate) fn new(map: &Map) -> io::Result<Self> {
        let (data, value_size, values) = shape(map)?;
        check::<N>(value_size)?;
        Self::map(data, values, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// An array of this process alone, of zeroes.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn in_memory(values: usize) -> io::Result<Self> {
        let mapped = Self::octets(values)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // Present from the start, as a map of the kernel's is.
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let memory = unsafe { mmap_anonymous(None, mapped, protection, flags) }?;
        Ok(Self {
            memory,
            values,
            mapped,
        })
    }

    /// How much is mapped for so many values; the kernel rounds up to whole pages.
    fn octets(values: usize) -> io::Result<NonZeroUsize> {
        NonZeroUsize::new(values * size_of::<[AtomicU64; N]>())
            .ok_or_else(|| io::Error::other("the map has no values"))
    }

    fn map(data: &MapData, values: usize, protection: ProtFlags) -> io::Result<Self> {
        let mapped = Self::octets(values)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let memory = unsafe {
            mmap(
                None,
                mapped,
                protection,
                MapFlags::MAP_SHARED,
                data.fd().as_fd(),
                0,
            )
        }?;
        Ok(Self {
            memory,
            values,
            mapped,
        })
    }

    /// The values.
    pub(crate) fn values(&self) -> &[[AtomicU64; N]] {
        // SAFETY: the mapping is `values` times `N` words long and page-aligned, lives until `self` is dropped, any bytes
        // are an `AtomicU64`, and whoever else has the memory changes it by whole words (the kernel, where it replaces a
        // value, in an order of its own). What is mapped to be read is in a `LentArray`, which loads alone.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.values) }
    }
}

/// The map, the octets of a value, and how many values there are.
fn shape(map: &Map) -> io::Result<(&MapData, usize, usize)> {
    let Map::Array(data) = map else {
        return Err(io::Error::other("not an array"));
    };
    let info = data.info().map_err(io::Error::other)?;
    Ok((data, info.value_size() as usize, info.max_entries() as usize))
}

fn check<const N: usize>(value_size: usize) -> io::Result<()> {
    if value_size == size_of::<[AtomicU64; N]>() {
        return Ok(());
    }
    let message = format!("values have {value_size} octets, not {N} words");
    Err(io::Error::other(message))
}

impl<const N: usize> Drop for SharedArray<N> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`. An error would leave it, which is
        // harmless.
        let _ = unsafe { munmap(self.memory, self.mapped.get()) };
    }
}

// SAFETY: the memory is reached through shared references to atomics alone.
unsafe impl<const N: usize> Send for SharedArray<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for SharedArray<N> {}
