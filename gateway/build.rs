//! Builds the BPF object that `dataplane::object` embeds.

use std::env;
use std::path::Path;

use anyhow::Context as _;
use aya_build::{Package, Toolchain, build_ebpf};

/// Names another rustup toolchain that can build for BPF.
const TOOLCHAIN: &str = "GATEWAY_BPF_TOOLCHAIN";
/// Debian's compiler with its precompiled `core` for BPF, linked into rustup (`cargo xtask setup`).
const TOOLCHAIN_DEFAULT: &str = "bpf-deb";

/// Crates that may use unstable features of the compiler: the bindings, and inline assembly for compare-and-swap, which
/// the BPF target's atomics do not offer.
const BOOTSTRAP: &str = "aya_ebpf,gateway_ebpf";

fn main() -> anyhow::Result<()> {
    // SAFETY: a build script has one thread, and nothing has read the environment yet. It is inherited by the cargo that
    // builds the object; in `.cargo/config.toml` it would be every crate's.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", BOOTSTRAP) };
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    let toolchain = env::var(TOOLCHAIN).unwrap_or_else(|_| TOOLCHAIN_DEFAULT.to_owned());
    // Of this run, not of the script's making: a build folder that was copied would build the object from where it came.
    let manifest = env::var("CARGO_MANIFEST_DIR")?;
    let root = Path::new(&manifest)
        .parent()
        .context("the crate lies in a workspace")?;
    let root_dir = root.join("gateway-ebpf");
    let root_dir = root_dir.to_str().context("path of the workspace is not UTF-8")?;
    println!(
        "cargo:rerun-if-changed={}",
        root.join("gateway-common/src").display()
    );
    let package = Package {
        name: "gateway-ebpf",
        root_dir,
        ..Package::default()
    };
    build_ebpf([package], Toolchain::Custom(&toolchain)).with_context(|| {
        format!("the BPF object was not built with rustup toolchain `{toolchain}`: run `cargo xtask setup`, or name another one in {TOOLCHAIN}")
    })
}
