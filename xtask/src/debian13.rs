//! A tree of Debian 13 beside the Debian 12 of the machine: strongSwan 6.0 for the lab, run by chroot.
//!
//! It is made by debootstrap from the mirror that apt is configured with, and lies in the user's cache folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cmd, paths};

const SUITE: &str = "trixie";
/// Names the mirror where apt's configuration does not tell it.
const MIRROR_VARIABLE: &str = "GATEWAY_DEBIAN_MIRROR";
/// What the tree holds beyond a minimal Debian. A change makes the tree anew.
const PACKAGES: &str = "strongswan-swanctl,charon-systemd,libcharon-extra-plugins,libstrongswan-standard-plugins,\
                        libstrongswan-extra-plugins";
/// Written last, with [`PACKAGES`] in it: a tree that was interrupted is no tree.
const MARKER: &str = "etc/gateway-xtask";

/// The top folder of the tree.
#[must_use]
pub fn root() -> PathBuf {
    paths::cache().join("debian13")
}

/// Whether the tree is there and whole.
#[must_use]
pub fn is_there() -> bool {
    fs::read_to_string(root().join(MARKER)).is_ok_and(|made_of| made_of == PACKAGES)
}

/// A shell line that turns the mount namespace it runs in into the tree, with the folder `shared` of the machine at
/// its place in it, and becomes `program`. The mounts go with the namespace.
#[must_use]
pub fn enter(shared: &Path, program: &str) -> String {
    let (root, shared) = (root().display().to_string(), shared.display());
    format!(
        "set -e; mkdir -p {root}{shared}; mount --bind {shared} {root}{shared}; mount --rbind /dev {root}/dev; \
         mount -t proc proc {root}/proc; exec chroot {root} {program}"
    )
}

/// Makes the tree, in the place of whatever was there.
///
/// # Errors
/// When no mirror is known or debootstrap fails.
pub fn install() -> Result<()> {
    let (root, making) = (root(), paths::cache().join("debian13.new"));
    for old in [&making, &root] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| old.display().to_string())?;
        }
    }
    fs::create_dir_all(paths::cache())?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE]);
    debootstrap.arg(&making).arg(mirror()?);
    if let Some(proxy) = proxy() {
        debootstrap.env("http_proxy", proxy);
    }
    cmd::stream(&mut debootstrap)?;
    for package in fs::read_dir(making.join("var/cache/apt/archives"))? {
        let package = package?.path();
        if package.is_file() {
            fs::remove_file(package)?;
        }
    }
    fs::write(making.join(MARKER), PACKAGES)?;
    fs::rename(&making, &root).with_context(|| root.display().to_string())
}

/// The mirror of Debian's main archive that this machine's apt uses.
pub(crate) fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var(MIRROR_VARIABLE) {
        return Ok(mirror);
    }
    let format = "$(REPO_URI) $(LABEL) $(COMPONENT)";
    let targets = cmd::read(&mut cmd::cmd(
        "apt-get",
        ["indextargets", "--format", format, "Created-By: Packages"],
    ))?;
    mirror_among(&targets).with_context(|| {
        format!("apt has no source of Debian's own archive; name a mirror in {MIRROR_VARIABLE}")
    })
}

/// The source most named: the security archive has a label of its own, and other archives have theirs.
fn mirror_among(targets: &str) -> Option<String> {
    let mut count = BTreeMap::new();
    for target in targets.lines() {
        if let [uri, "Debian", "main"] = target.split(' ').collect::<Vec<_>>()[..] {
            *count.entry(uri).or_insert(0) += 1;
        }
    }
    let most = count.into_iter().max_by_key(|(_, times)| *times);
    most.map(|(uri, _)| uri.to_owned())
}

/// The proxy that apt is told to use; debootstrap does not ask apt.
fn proxy() -> Option<String> {
    let set = cmd::read(&mut cmd::cmd(
        "apt-config",
        ["shell", "proxy", "Acquire::http::Proxy"],
    ))
    .ok()?;
    let proxy = set.trim().strip_prefix("proxy='")?.strip_suffix('\'')?;
    (!proxy.is_empty() && proxy != "DIRECT").then(|| proxy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_itself_is_told_from_its_security_archive_and_strangers() {
        let targets = "\
http://mirror.test/debian-security/ Debian-Security main
http://mirror.test/debian/ Debian main
http://other.test/packages/ Other main
http://mirror.test/debian/ Debian main
http://old.test/debian/ Debian main
http://mirror.test/debian/ Debian contrib
";
        assert_eq!(
            mirror_among(targets).as_deref(),
            Some("http://mirror.test/debian/")
        );
        assert_eq!(mirror_among("http://other.test/ Other main\n"), None);
    }
}
