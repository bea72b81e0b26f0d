//! Intel's multi-buffer library (intel-ipsec-mb) for ESP: the cryptography of many packets at once, of whatever SAs.
//!
//! Interleaving packets is what makes AES-CBC and SHA-2 fast, whose steps within a packet wait for one another. The library is
//! called through `bridge.c`, as its interface is made of macros; the structures in between are those two files' own.
//!
//! **Architecture invariants:** a burst is over when [`Manager::run`] returns, so that the library refers to no packet and no
//! key afterwards. A [`Key`] is not changed after it was made and is overwritten with zeros when it is dropped.
//! What the library leaves in registers and in its own queues is its own affair.
#![allow(
    unsafe_code,
    reason = "calls of a C library; every block says why it is sound"
)]

use core::ffi::c_int;
use core::marker::PhantomData;
use core::ptr::NonNull;
use std::sync::{LazyLock, Mutex, PoisonError};

use subtle::ConstantTimeEq as _;

/// Octets of SPI and sequence number (RFC 4303 section 2).
const ESP_HEADER: usize = 8;
const ICV_MAX: usize = 64;
/// Octets of salt behind an AES-GCM key (RFC 4106 section 8.1).
pub const SALT: usize = 4;

#[repr(C)]
struct RawManager {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawKey {
    _opaque: [u8; 0],
}

/// The same as `struct gw_mb_job` in bridge.c.
#[repr(C)]
struct RawJob {
    key: *const RawKey,
    esp: *mut u8,
    len: usize,
    sequence_high: u32,
    is_extended: u8,
    is_seal: u8,
    is_done: u8,
    icv_len: u8,
    tag: [u8; ICV_MAX],
    nonce: [u8; 16],
    aad: [u8; 16],
}

// SAFETY: these are the signatures of bridge.c, and of the library for the last one.
unsafe extern "C" {
    fn gw_mb_manager_new() -> *mut RawManager;
    fn gw_mb_manager_free(manager: *mut RawManager);
    fn gw_mb_key_gcm(manager: *mut RawManager, octets: *const u8, len: usize, salt: *const u8)
    -> *mut RawKey;
    fn gw_mb_key_cbc(
        manager: *mut RawManager,
        octets: *const u8,
        len: usize,
        integrity: *const u8,
        integrity_len: usize,
    ) -> *mut RawKey;
    fn gw_mb_key_size() -> usize;
    fn gw_mb_key_icv_len(key: *const RawKey) -> usize;
    fn gw_mb_key_free(key: *mut RawKey);
    fn gw_mb_run(manager: *mut RawManager, jobs: *mut RawJob, count: usize);
    fn imb_get_version() -> core::ffi::c_uint;
}

/// The library's version as it counts: 0x10300 is 1.3.
#[must_use]
pub fn version() -> u32 {
    // SAFETY: no arguments, no state.
    unsafe { imb_get_version() as c_int }.unsigned_abs()
}

/// The library's state of one thread.
pub struct Manager {
    raw: NonNull<RawManager>,
    /// The burst under way; its memory is used again.
    jobs: Vec<RawJob>,
}

// SAFETY: the state belongs to no thread; `&mut self` keeps two threads from using it at a time. Between calls `jobs` is empty.
unsafe impl Send for Manager {}

impl Manager {
    /// `None` if this CPU lacks what the library needs (SSE 4.2, AES-NI, PCLMULQDQ), or there is no memory.
    #[must_use]
    pub fn new() -> Option<Self> {
        // SAFETY: no arguments; the answer is null or a state that is ours.
        let raw = NonNull::new(unsafe { gw_mb_manager_new() })?;
        Some(Self {
            raw,
            jobs: Vec::new(),
        })
    }

    /// Seals and opens the packets in place. Places without a job are left.
    pub fn run(&mut self, jobs: &mut [Option<Job<'_>>]) {
        self.jobs.clear();
        self.jobs.extend(jobs.iter_mut().flatten().filter_map(Job::raw));
        // SAFETY: each of the raw jobs refers to a key and to a packet that `jobs` borrows until after this call, no two to
        // one packet; `Job::raw` has checked that the packet has all the parts that its key's suite says.
        unsafe { gw_mb_run(self.raw.as_ptr(), self.jobs.as_mut_ptr(), self.jobs.len()) };
        let mut done = self.jobs.drain(..);
        for job in jobs.iter_mut().flatten().filter(|job| job.is_whole()) {
            if let Some(raw) = done.next() {
                job.settle(&raw);
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody has it from here on.
        unsafe { gw_mb_manager_free(self.raw.as_ptr()) };
    }
}

/// Makes keys: their form depends on the CPU alone, so that every manager takes them.
static KEY_MAKER: LazyLock<Option<Mutex<Manager>>> = LazyLock::new(|| Manager::new().map(Mutex::new));

/// The key of one direction of one SA, in the form that this CPU's code takes.
pub struct Key {
    raw: NonNull<RawKey>,
    iv_len: usize,
    icv_len: usize,
    alignment: usize,
}

// SAFETY: it is not changed after it was made, and belongs to no thread.
unsafe impl Send for Key {}
// SAFETY: as above.
unsafe impl Sync for Key {}

impl Key {
    /// AES-GCM with a 16-octet ICV (RFC 4106): a key of 16 or 32 octets and its salt.
    /// `None` for another length, or where [`Manager::new`] makes none.
    #[must_use]
    pub fn gcm(octets: &[u8], salt: &[u8; SALT]) -> Option<Self> {
        if !matches!(octets.len(), 16 | 32) {
            return None;
        }
        Self::make(8, 1, |manager| {
            // SAFETY: the lengths are those of live slices, and what the function asks for.
            unsafe { gw_mb_key_gcm(manager, octets.as_ptr(), octets.len(), salt.as_ptr()) }
        })
    }

    /// AES-CBC (RFC 3602) with a key of 16 or 32 octets, and HMAC-SHA-256, -384 or -512 cut to half (RFC 4868) with one of
    /// 32, 48 or 64. `None` for other lengths, or where [`Manager::new`] makes none.
    #[must_use]
    pub fn cbc_hmac(octets: &[u8], integrity: &[u8]) -> Option<Self> {
        if !matches!(octets.len(), 16 | 32) || !matches!(integrity.len(), 32 | 48 | 64) {
            return None;
        }
        Self::make(16, 16, |manager| {
            let (key, len) = (octets.as_ptr(), octets.len());
            // SAFETY: the lengths are those of live slices, and what the function asks for.
            unsafe { gw_mb_key_cbc(manager, key, len, integrity.as_ptr(), integrity.len()) }
        })
    }

    /// Where it lies and how many octets it fills, for a caller that has memory fetched ahead.
    #[must_use]
    pub fn place(&self) -> (*const u8, usize) {
        // SAFETY: no arguments, no state.
        let size = unsafe { gw_mb_key_size() };
        (self.raw.as_ptr().cast_const().cast(), size)
    }

    fn make(
        iv_len: usize,
        alignment: usize,
        make: impl FnOnce(*mut RawManager) -> *mut RawKey,
    ) -> Option<Self> {
        let maker = KEY_MAKER.as_ref()?;
        let manager = maker.lock().unwrap_or_else(PoisonError::into_inner);
        let raw = NonNull::new(make(manager.raw.as_ptr()))?;
        // SAFETY: the key was just made.
        let icv_len = unsafe { gw_mb_key_icv_len(raw.as_ptr()) };
        Some(Self {
            raw,
            iv_len,
            icv_len,
            alignment,
        })
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody has it from here on.
        unsafe { gw_mb_key_free(self.raw.as_ptr()) };
    }
}

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Encrypt the text and write the ICV.
    Seal,
    /// Verify the ICV and decrypt the text.
    Open,
}

/// One packet of a burst, from the SPI to the end of the ICV: header, IV, text, ICV.
pub struct Job<'a> {
    key: NonNull<RawKey>,
    esp: &'a mut [u8],
    sequence_high: Option<u32>,
    way: Way,
    overhead: usize,
    alignment: usize,
    expected: [u8; ICV_MAX],
    icv_len: usize,
    is_good: bool,
    of_key: PhantomData<&'a Key>,
}

impl<'a> Job<'a> {
    /// `sequence_high`: the high half of an extended sequence number, which is authenticated and not sent.
    #[must_use]
    pub fn new(key: &'a Key, esp: &'a mut [u8], sequence_high: Option<u32>, way: Way) -> Self {
        let mut job = Self {
            key: key.raw,
            esp,
            sequence_high,
            way,
            overhead: ESP_HEADER + key.iv_len + key.icv_len,
            alignment: key.alignment,
            expected: [0; ICV_MAX],
            icv_len: key.icv_len,
            is_good: false,
            of_key: PhantomData,
        };
        job.save_icv();
        job
    }

    /// After the burst: whether it was done. A packet to be opened was authentic then; otherwise, what is in the buffer must not
    /// be used.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.is_good
    }

    fn save_icv(&mut self) {
        let icv = self.esp.last_chunk::<ICV_MAX>().map(<[u8; ICV_MAX]>::as_slice);
        let icv = icv.unwrap_or(self.esp);
        if let (Some(from), Some(to)) = (
            icv.get(icv.len().saturating_sub(self.icv_len)..),
            self.expected.get_mut(..self.icv_len),
        ) && from.len() == to.len()
        {
            to.copy_from_slice(from);
        }
    }

    /// Whether it has all parts, with some text in whole blocks.
    fn is_whole(&self) -> bool {
        let text = self.esp.len().checked_sub(self.overhead);
        text.is_some_and(|text| text > 0 && text.is_multiple_of(self.alignment))
    }

    fn raw(&mut self) -> Option<RawJob> {
        self.is_good = false;
        self.is_whole().then(|| RawJob {
            key: self.key.as_ptr(),
            esp: self.esp.as_mut_ptr(),
            len: self.esp.len(),
            sequence_high: self.sequence_high.unwrap_or(0),
            is_extended: self.sequence_high.is_some().into(),
            is_seal: (self.way == Way::Seal).into(),
            is_done: 0,
            icv_len: self.icv_len as u8,
            tag: [0; ICV_MAX],
            nonce: [0; 16],
            aad: [0; 16],
        })
    }

    fn settle(&mut self, raw: &RawJob) {
        let at = self.esp.len().saturating_sub(self.icv_len);
        let (Some(tag), Some(expected), Some(icv)) = (
            raw.tag.get(..self.icv_len),
            self.expected.get(..self.icv_len),
            self.esp.get_mut(at..),
        ) else {
            return;
        };
        self.is_good = raw.is_done == 1
            && match self.way {
                Way::Seal => {
                    icv.copy_from_slice(tag);
                    true
                }
                // In constant time: how many octets of a forged ICV were right must not show.
                Way::Open => tag.ct_eq(expected).into(),
            };
    }
}
