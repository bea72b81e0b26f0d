//! How the build scripts of `gateway` and of `gateway-tests` have BPF objects built. It is part of each of them (`#[path]`): a crate
//! for it would be one more to build before both.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};

/// Names another rustup toolchain that can build for BPF.
const TOOLCHAIN: &str = "GATEWAY_BPF_TOOLCHAIN";
/// Debian's compiler with its precompiled `core` for BPF, linked into rustup (`cargo xtask setup`).
const TOOLCHAIN_DEFAULT: &str = "bpf-deb";

/// Crates that may use unstable features of the compiler: the bindings, and inline assembly for compare-and-swap, which
/// the BPF target's atomics do not offer.
const BOOTSTRAP: &str = "aya_ebpf,gateway_ebpf,compare,load";

/// Builds the objects of one feature of `gateway-ebpf` into `OUT_DIR`, each by its name.
///
/// Cargo runs a build script anew for each profile and each set of features of its crate, and the objects are the same each time: the
/// compiler's work lies in one folder for all of them, beside the profiles' own.
///
/// # Errors
/// What does not build, or is missing.
pub(crate) fn build(feature: &str, objects: &[&str]) -> Result<()> {
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    let toolchain = env::var(TOOLCHAIN).unwrap_or_else(|_| TOOLCHAIN_DEFAULT.to_owned());
    // Of this run, not of the script's making: a build folder that was copied would build the object from where it came.
    let manifest = env::var("CARGO_MANIFEST_DIR")?;
    let root = Path::new(&manifest)
        .parent()
        .context("the crate lies in a workspace")?;
    let source = root.join("gateway-common/src");
    println!("cargo:rerun-if-changed={}", source.display());
    let root_dir = root.join("gateway-ebpf");
    let root_dir = root_dir.to_str().context("path of the workspace is not UTF-8")?;

    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR: this is run by cargo")?);
    // TARGET/PROFILE/build/CRATE-HASH/out
    let target = out.ancestors().nth(4).context("OUT_DIR lies in a build folder")?;
    let shared = target.join("bpf");
    fs::create_dir_all(&shared).with_context(|| shared.display().to_string())?;
    // Until the objects are copied: another build may be of other sources. Closing the file gives it up.
    let lock = File::create(shared.join("lock")).context("lock of the folder for BPF objects")?;
    lock.lock().context("lock of the folder for BPF objects")?;
    // SAFETY: a build script has one thread as yet, which has read all that it wants. Both are inherited by the cargo that builds the
    // objects; in `.cargo/config.toml` the first would be every crate's.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", BOOTSTRAP);
        env::set_var("OUT_DIR", &shared);
    }
    let package = Package {
        name: "gateway-ebpf",
        root_dir,
        no_default_features: true,
        features: &[feature],
    };
    build_ebpf([package], Toolchain::Custom(&toolchain)).with_context(|| {
        format!("the BPF objects were not built with rustup toolchain `{toolchain}`: run `cargo xtask setup`, or name another one in {TOOLCHAIN}")
    })?;
    for object in objects {
        fs::copy(shared.join(object), out.join(object)).with_context(|| format!("BPF object {object}"))?;
    }
    Ok(())
}
