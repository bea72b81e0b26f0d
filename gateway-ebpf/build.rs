//! Tells bpf-linker which instructions the code may use.

fn main() {
    // 32-bit arithmetic (kernel 5.1 and later). Misaligned access: all machines that the gateway runs on allow it, and a
    // header is otherwise read byte by byte.
    println!("cargo:rustc-link-arg-bins=--cpu-features=+alu32");
    println!("cargo:rerun-if-changed=build.rs");
}
