//! Arrays that the programs and this process share, mapped into memory.
//!
//! **Architecture invariant:** this memory is reached through atomics alone, since programs and workers change it at any
//! moment.
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

use aya::maps::{Map, MapData};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A memory-mapped array map whose values are `N` words.
pub(crate) struct SharedArray<const N: usize> {
    memory: NonNull<c_void>,
    values: usize,
    mapped: NonZeroUsize,
}

impl<const N: usize> SharedArray<N> {
    /// Maps an array map into memory; it lives as long as this does.
    ///
    /// # Errors
    /// The map has another shape, or the kernel refuses.
    pub(crate) fn new(map: &Map) -> io::Result<Self> {
        let Map::Array(data) = map else {
            return Err(io::Error::other("not an array"));
        };
        let info = data.info().map_err(io::Error::other)?;
        if info.value_size() as usize != size_of::<[AtomicU64; N]>() {
            return Err(io::Error::other(format!(
                "values have {} octets, not {N} words",
                info.value_size()
            )));
        }
        Self::map(data, info.max_entries() as usize)
    }

    fn map(data: &MapData, values: usize) -> io::Result<Self> {
        // The kernel rounds up to whole pages.
        let mapped = NonZeroUsize::new(values * size_of::<[AtomicU64; N]>())
            .ok_or_else(|| io::Error::other("the map has no values"))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
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
        // are an `AtomicU64`, and whoever else has the memory changes it by whole words.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.values) }
    }
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
