//! With feature `compare`: builds the programs that the bench compares with (`gateway-ebpf/src/compare.rs`) and those that load a whole
//! gateway (`gateway-ebpf/src/load.rs`).

#[cfg(feature = "compare")]
#[path = "../gateway-ebpf/object.rs"]
mod object;

#[cfg(feature = "compare")]
fn main() -> anyhow::Result<()> {
    object::build("compare", &["compare", "load"])
}

#[cfg(not(feature = "compare"))]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
