//! Compiles the bridge to the library, whose interface is made of macros and inline structures, and links the library.

fn main() {
    println!("cargo::rerun-if-changed=src/bridge.c");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("x86_64") {
        println!("cargo::error=the multi-buffer library is for x86_64; build without the feature `ipsec-mb`");
        return;
    }
    cc::Build::new()
        .file("src/bridge.c")
        .opt_level(2)
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .compile("gateway_ipsec_mb_bridge");
    println!("cargo::rustc-link-lib=dylib=IPSec_MB");
}
