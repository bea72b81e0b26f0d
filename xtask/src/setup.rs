//! `cargo xtask setup`: what a fresh Debian 12 with rustup's stable toolchain lacks, said and installed.
//!
//! The eBPF half is built by Debian's `rustc-web`, which brings `core` for the BPF target, linked into rustup under the
//! name `bpf-deb`. `GATEWAY_BPF_TOOLCHAIN` names another toolchain (a nightly with rust-src, say) to be used instead.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::bench::pktgen::control;
use crate::bench::pktgen::packages::Guest;
use crate::{cmd, debian13, paths};

/// The toolchain that `setup` links, unless the environment names another.
const BPF_TOOLCHAIN: &str = "bpf-deb";
/// The environment variable that names another; the gateway's build script reads it too.
const BPF_TOOLCHAIN_VARIABLE: &str = "GATEWAY_BPF_TOOLCHAIN";
const BPF_LINKER: &str = "0.13.0";
const SCAPY: &str = "2.8.0";

/// What the eBPF half is compiled with.
const BPF_COMPILER: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// What bpf-linker is compiled with.
const BPF_LINKER_BUILD: &[&str] = &[
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
    "g++",
];
/// What the bundled libxdp and libbpf, and the bindings to them, are compiled with.
const NATIVE_BUILD: &[&str] = &[
    "gcc",
    "libc6-dev",
    "make",
    "m4",
    "pkg-config",
    "clang",
    "llvm",
    "libclang-dev",
    "libelf-dev",
    "zlib1g-dev",
    #[cfg(target_arch = "x86_64")]
    "libipsec-mb-dev",
];
/// What the lab's nodes run.
const LAB: &[&str] = &[
    "strongswan-swanctl",
    "charon-systemd",
    "libcharon-extra-plugins",
    "libstrongswan-standard-plugins",
    "libstrongswan-extra-plugins",
    "strongswan-pki",
    "openssl",
    "iproute2",
    "ethtool",
    "nftables",
    "iputils-ping",
    "curl",
    "tcpdump",
    "python3",
    "python3-venv",
    "systemd",
    "debootstrap",
    "debian-archive-keyring",
];
/// What the guests of the bench are made with.
const GUEST: &[&str] = &["binutils", "util-linux", "xz-utils", "zstd"];

/// Something that is missing, and how it comes.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    Packages(Vec<&'static str>),
    Components(Vec<&'static str>),
    LinkedToolchain,
    BpfLinker,
    Scapy,
    Debian13,
    Guest(Guest),
}

impl Missing {
    fn describe(&self) -> String {
        match self {
            Missing::Packages(names) => format!("Debian packages: {}", names.join(" ")),
            Missing::Components(names) => format!("rustup components: {}", names.join(" ")),
            Missing::LinkedToolchain => {
                format!("rustup toolchain {BPF_TOOLCHAIN}, linked to Debian's rustc-web")
            }
            Missing::BpfLinker => format!("bpf-linker {BPF_LINKER} (compiles for some minutes)"),
            Missing::Scapy => format!("scapy {SCAPY}, in {}", venv().display()),
            Missing::Debian13 => format!(
                "Debian 13 with strongSwan 6.0 (about 100 MB to fetch), in {}",
                debian13::root().display()
            ),
            Missing::Guest(guest) => {
                let kernel = match guest {
                    Guest::Pktgen => "pktgen",
                    Guest::ZeroCopy => "AF_XDP zero copy",
                    Guest::Newest => "all that is new",
                };
                format!(
                    "QEMU and a kernel with {kernel} (about 70 MB to fetch), in {}",
                    guest.root().display()
                )
            }
        }
    }

    fn install(&self) -> Result<()> {
        match self {
            Missing::Packages(names) => install_packages(names),
            Missing::Components(names) => cmd::stream(cmd::cmd("rustup", ["component", "add"]).args(names)),
            Missing::LinkedToolchain => cmd::stream(&mut cmd::cmd(
                "rustup",
                ["toolchain", "link", BPF_TOOLCHAIN, "/usr"],
            )),
            Missing::BpfLinker => install_bpf_linker(),
            Missing::Scapy => install_scapy(),
            Missing::Debian13 => debian13::install(),
            Missing::Guest(guest) => guest.install(),
        }
    }
}

/// Installs what is missing and says so; says nothing and takes no time when nothing is.
///
/// # Errors
/// When an installation fails, or something is missing and the caller is not root.
pub fn ensure() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    report(&missing);
    let for_root = |thing: &Missing| matches!(thing, Missing::Packages(_) | Missing::Debian13);
    if !geteuid().is_root() && missing.iter().any(for_root) {
        bail!("installing Debian packages needs root: run `cargo xtask setup` as root once");
    }
    for thing in &missing {
        println!("installing {}", thing.describe());
        thing.install().with_context(|| thing.describe())?;
    }
    let left = self::missing()?;
    if !left.is_empty() {
        report(&left);
        bail!("still missing after the installation");
    }
    Ok(())
}

/// Says what is missing and installs nothing.
///
/// # Errors
/// When something is missing.
pub fn check() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        println!("nothing is missing");
        return Ok(());
    }
    report(&missing);
    bail!("`cargo xtask setup` installs it");
}

/// Fetches a guest that few chores need, unless it is there; the newest kernel may be newer now.
///
/// # Errors
/// It cannot be fetched.
pub fn guest(guest: Guest) -> Result<()> {
    if guest != Guest::Newest && guest.is_there() {
        return Ok(());
    }
    let guest = Missing::Guest(guest);
    println!("installing {}", guest.describe());
    guest.install().with_context(|| guest.describe())
}

/// Runs cargo-deny over the workspace, installing it first; no other chore needs it.
///
/// # Errors
/// What cargo-deny finds.
pub fn deny() -> Result<()> {
    if cmd::read(&mut cmd::cmd("cargo-deny", ["--version"])).is_err() {
        cmd::stream(&mut cmd::cmd("cargo", ["install", "cargo-deny", "--locked"]))?;
    }
    cmd::stream(cmd::cmd("cargo", ["deny", "--all-features", "check"]).current_dir(paths::repository()))
}

/// The Python that has scapy.
#[must_use]
pub fn python() -> PathBuf {
    venv().join("bin/python3")
}

fn report(missing: &[Missing]) {
    println!("missing on this machine:");
    for thing in missing {
        println!("  {}", thing.describe());
    }
}

/// In the order of installation.
fn missing() -> Result<Vec<Missing>> {
    let debian_compiler = std::env::var_os(BPF_TOOLCHAIN_VARIABLE).is_none();
    let mut missing = Vec::new();
    let linker = bpf_linker_is_right();
    let mut wanted = [NATIVE_BUILD, LAB, GUEST].concat();
    if debian_compiler {
        wanted.extend(BPF_COMPILER);
    }
    if !linker {
        wanted.extend(BPF_LINKER_BUILD);
    }
    let packages = not_installed(&wanted)?;
    if !packages.is_empty() {
        missing.push(Missing::Packages(packages));
    }
    let components = missing_components()?;
    if !components.is_empty() {
        missing.push(Missing::Components(components));
    }
    if debian_compiler && !toolchain_is_linked() {
        missing.push(Missing::LinkedToolchain);
    }
    if !linker {
        missing.push(Missing::BpfLinker);
    }
    if !scapy_is_there() {
        missing.push(Missing::Scapy);
    }
    if !debian13::is_there() {
        missing.push(Missing::Debian13);
    }
    // Where this kernel has pktgen, no other is needed.
    if !Guest::Pktgen.is_there() && !control::is_there() {
        missing.push(Missing::Guest(Guest::Pktgen));
    }
    Ok(missing)
}

fn not_installed(wanted: &[&'static str]) -> Result<Vec<&'static str>> {
    let mut query = cmd::cmd(
        "dpkg-query",
        ["--show", "--showformat", "${Package} ${db:Status-Status}\n"],
    );
    // It fails when it does not know one of them, which is the question here, not an error.
    let answer = query
        .args(wanted)
        .output()
        .context("dpkg-query: is this Debian?")?;
    Ok(without_installed(
        wanted,
        &String::from_utf8_lossy(&answer.stdout),
    ))
}

fn without_installed(wanted: &[&'static str], answer: &str) -> Vec<&'static str> {
    let installed: HashSet<_> = answer
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    let mut seen = HashSet::new();
    wanted
        .iter()
        .copied()
        .filter(|name| !installed.contains(name) && seen.insert(*name))
        .collect()
}

fn missing_components() -> Result<Vec<&'static str>> {
    let sysroot = cmd::read(&mut cmd::cmd("rustc", ["--print", "sysroot"]))?;
    let programs = PathBuf::from(sysroot.trim()).join("bin");
    let components = [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")];
    Ok(components
        .into_iter()
        .filter(|(_, program)| !programs.join(program).exists())
        .map(|(name, _)| name)
        .collect())
}

fn toolchain_is_linked() -> bool {
    let home = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(paths::home()?.join(".rustup")));
    home.is_some_and(|home| {
        home.join("toolchains")
            .join(BPF_TOOLCHAIN)
            .join("bin/rustc")
            .exists()
    })
}

fn bpf_linker_is_right() -> bool {
    let printed = cmd::read(&mut cmd::cmd("bpf-linker", ["--version"])).unwrap_or_default();
    printed.split_whitespace().any(|word| word == BPF_LINKER)
}

fn venv() -> PathBuf {
    paths::cache().join("python")
}

fn scapy_is_there() -> bool {
    let Ok(versions) = std::fs::read_dir(venv().join("lib")) else {
        return false;
    };
    let marker = format!("site-packages/scapy-{SCAPY}.dist-info");
    versions
        .filter_map(Result::ok)
        .any(|version| version.path().join(&marker).exists())
}

fn install_packages(names: &[&str]) -> Result<()> {
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.args(["-q", "-o", "DPkg::Lock::Timeout=300"])
            .env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    cmd::stream(apt().arg("update"))?;
    cmd::stream(
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(names),
    )
}

fn install_bpf_linker() -> Result<()> {
    let mut install = cmd::cmd(
        "cargo",
        [
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--locked",
            "--force",
        ],
    );
    install.args(["--no-default-features", "--features", "llvm-22"]);
    cmd::stream(install.env("LLVM_PREFIX", "/usr/lib/llvm-22"))
}

fn install_scapy() -> Result<()> {
    let venv = venv();
    cmd::stream(cmd::cmd("/usr/bin/python3", ["-m", "venv", "--clear"]).arg(&venv))?;
    let packages = [format!("scapy=={SCAPY}"), "cryptography".to_owned()];
    let mut pip = cmd::cmd(
        &python().display().to_string(),
        ["-m", "pip", "install", "--quiet"],
    );
    cmd::stream(pip.args(packages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_removed_packages_are_missing_once() {
        let answer = "gcc installed\nmake config-files\nm4 installed\n";
        let wanted = ["gcc", "make", "zlib1g-dev", "m4", "zlib1g-dev"];
        assert_eq!(without_installed(&wanted, answer), ["make", "zlib1g-dev"]);
    }
}
