//! The BPF object, built with this binary: code and map layouts are of the same sources, so that the ABI version of
//! this build (`gateway_common::abi::ABI_VERSION`) is the object's own.

/// Names of the programs in the object.
pub mod program {
    /// Outer interface.
    pub const WAN: &str = "wan";
    /// XDP end of the clear link.
    pub const CLEAR: &str = "clear";
    /// Stages of `clear` and `core`, in the order of their numbers (`gateway_common::path::open::Stage`).
    pub const STAGES: [&str; 19] = [
        "clear_judge",
        "clear_map",
        "clear_add",
        CLEAR,
        "clear_answer",
        "clear_permit",
        "core_enter",
        "core_add",
        CORE,
        "hairpin_judge",
        "hairpin",
        "hairpin_enter",
        "hairpin_add",
        "core_answer",
        "clear_error",
        "core_error",
        "clear_fragment",
        "core_fragment",
        "hairpin_error",
    ];
    /// Tells of a packet that is traced, at the end of another program.
    pub const TRACE: &str = "trace";
    /// Core interface.
    pub const CORE: &str = "core";
    /// Lets everything through; for the far ends of veth pairs.
    pub const PASS: &str = "pass";
}

/// The ELF object, aligned as its parser wants it.
pub const EBPF: &[u8] = &ALIGNED.bytes;

#[repr(C, align(32))]
struct Aligned<Bytes: ?Sized> {
    bytes: Bytes,
}

static ALIGNED: &Aligned<[u8]> = &Aligned {
    bytes: *include_bytes!(concat!(env!("OUT_DIR"), "/gateway-ebpf")),
};
