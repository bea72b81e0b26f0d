//! Memory-mapped arrays as the packet core's tables see them: words that user space and other CPUs change meanwhile.

use core::arch::asm;
use core::ffi::c_void;
use core::ptr::NonNull;

use aya_ebpf::btf_maps;
use aya_ebpf::helpers::bpf_map_lookup_elem;
use gateway_common::abi::geometry::Geometry;
use gateway_common::tables::hash::{FACTORS, Factors};
use gateway_common::tables::siphash::SipKey;
use gateway_common::tables::words::{Store, Words};

/// Words of a map's value.
#[derive(Clone, Copy)]
pub(crate) struct Value(NonNull<u64>);

impl Value {
    /// The words of a value that a look-up returned.
    #[inline(always)]
    pub(crate) fn new<const N: usize>(value: *mut [u64; N]) -> Option<Self> {
        NonNull::new(value.cast()).map(Self)
    }
}

/// `load` and `store` are plain on this machine's word size, volatile so that each happens once and in order; x86 keeps
/// loads and stores in the order that acquire and release ask for, and `lock` instructions are full barriers. The kernel's
/// JIT for other processors would need BPF's load-acquire and store-release here.
impl Words for Value {
    #[inline(always)]
    fn load(self, word: usize) -> u64 {
        // SAFETY: a look-up returned the value, which stays for the run; the tables name words inside it, and the
        // verifier checks that.
        unsafe { self.0.as_ptr().add(word).read_volatile() }
    }

    #[inline(always)]
    fn store(self, word: usize, value: u64) {
        // SAFETY: as in `load`.
        unsafe { self.0.as_ptr().add(word).write_volatile(value) }
    }

    #[inline(always)]
    fn compare_exchange(self, word: usize, current: u64, new: u64) -> Result<(), u64> {
        let mut found = current;
        // SAFETY: as in `load`; the instruction compares r0 and leaves there what it found.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({place} + 0, r0, {new})",
                place = in(reg) self.0.as_ptr().add(word),
                new = in(reg) new,
                inout("r0") found,
            );
        }
        if found == current { Ok(()) } else { Err(found) }
    }

    #[inline(always)]
    fn add(self, word: usize, value: u64) -> u64 {
        let mut value = value;
        // SAFETY: as in `load`; the instruction leaves what it found in the register of the summand.
        unsafe {
            asm!(
                "{value} = atomic_fetch_add((u64 *)({place} + 0), {value})",
                place = in(reg) self.0.as_ptr().add(word),
                value = inout(reg) value,
            );
        }
        value
    }

    #[inline(always)]
    fn fence(self) {
        // The compare-and-swap before it is one.
    }

    #[inline(always)]
    fn hide(value: u64) -> u64 {
        hide(value)
    }

    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        let mut value = value;
        // SAFETY: a move to where it is; the compiler does not look through assembly.
        unsafe { asm!("{value} = {value}", value = inout(reg) value, options(nomem, nostack)) };
        value
    }
}

/// The value, of which compiler and verifier know nothing.
#[inline(always)]
pub(crate) fn hide(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: a variable of the object that nobody writes.
    let zero = unsafe { (&raw const ZERO).read_volatile() };
    // SAFETY: an addition; in assembly, so that the compiler does not look through it.
    unsafe {
        asm!("{value} += {zero}", value = inout(reg) value, zero = in(reg) zero, options(nomem, nostack))
    };
    value
}

/// Zero, which the verifier does not know: it is not read-only data.
#[unsafe(no_mangle)]
static mut ZERO: u64 = 0;

/// An array map.
#[derive(Clone, Copy)]
pub(crate) struct Array {
    map: *mut c_void,
    len: u32,
}

impl Array {
    /// The array of a map with this many values. The loader puts the map in the place of its definition's address.
    #[inline(always)]
    pub(crate) fn new<const N: usize, const MAX: usize, const FLAGS: usize>(
        map: &'static btf_maps::Array<[u64; N], MAX, FLAGS>,
        len: u32,
    ) -> Self {
        Self {
            map: core::ptr::from_ref(map).cast_mut().cast(),
            len,
        }
    }
}

impl Store for Array {
    type Value = Value;

    #[inline(always)]
    fn len(self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn get(self, index: u32) -> Option<Value> {
        // SAFETY: the map is one of this program's, and its key is a `u32`.
        let value = unsafe { bpf_map_lookup_elem(self.map, (&raw const index).cast()) };
        NonNull::new(value.cast()).map(Value)
    }
}

/// Secret and sizes of the tables as the loader wrote them. Each read is volatile: the compiler sees other values.
#[repr(transparent)]
pub(crate) struct Secret(Geometry);

impl Secret {
    /// As the object is compiled.
    pub(crate) const fn new(flow_buckets: u32, mapping_buckets: u32) -> Self {
        Self(Geometry {
            factors: [1; FACTORS],
            port_key: [1; 2],
            flow_buckets,
            mapping_buckets,
        })
    }

    #[inline(always)]
    pub(crate) fn port_key(&self) -> SipKey {
        // SAFETY: a reference.
        let [k0, k1] = unsafe { (&raw const self.0.port_key).read_volatile() };
        SipKey(k0, k1)
    }

    #[inline(always)]
    pub(crate) fn flow_buckets(&self) -> u32 {
        // SAFETY: a reference.
        unsafe { (&raw const self.0.flow_buckets).read_volatile() }
    }

    #[inline(always)]
    pub(crate) fn mapping_buckets(&self) -> u32 {
        // SAFETY: a reference.
        unsafe { (&raw const self.0.mapping_buckets).read_volatile() }
    }
}

impl Factors for &Secret {
    #[inline(always)]
    fn factor(self, index: usize) -> u64 {
        // SAFETY: the hash names one of the factors.
        unsafe {
            (&raw const self.0.factors)
                .cast::<u64>()
                .add(index)
                .read_volatile()
        }
    }
}
