//! With feature `compare`: builds the programs that the bench compares with (`gateway-ebpf/src/compare.rs`) and those that load a whole
//! gateway (`gateway-ebpf/src/load.rs`), by the toolchain that `gateway/build.rs` uses.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "compare")]
    compare::build();
}

#[cfg(feature = "compare")]
mod compare {
    use std::env;
    use std::path::Path;

    use aya_build::{Package, Toolchain, build_ebpf};

    const TOOLCHAIN: &str = "GATEWAY_BPF_TOOLCHAIN";
    const TOOLCHAIN_DEFAULT: &str = "bpf-deb";
    /// As in `gateway/build.rs`, and the crate of the programs.
    const BOOTSTRAP: &str = "aya_ebpf,gateway_ebpf,compare,load";

    pub(crate) fn build() {
        // SAFETY: a build script has one thread, and nothing has read the environment yet.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", BOOTSTRAP) };
        println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
        let toolchain = env::var(TOOLCHAIN).unwrap_or_else(|_| TOOLCHAIN_DEFAULT.to_owned());
        // Of this run: see `gateway/build.rs`.
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
        let root = Path::new(&manifest).join("..");
        let source = root.join("gateway-common/src");
        println!("cargo:rerun-if-changed={}", source.display());
        let root_dir = root.join("gateway-ebpf").display().to_string();
        let package = Package {
            name: "gateway-ebpf",
            root_dir: &root_dir,
            features: &["compare"],
            ..Package::default()
        };
        if let Err(error) = build_ebpf([package], Toolchain::Custom(&toolchain)) {
            println!("cargo:error=the programs to compare with were not built: {error:#}");
        }
    }
}
