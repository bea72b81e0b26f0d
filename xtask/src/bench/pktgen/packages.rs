//! What the guest is made of: Debian packages, unpacked side by side into the user's cache folder. Nothing of them is
//! installed, so that nothing of the machine gives way to them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::kernel;
use crate::{cmd, paths};

const EMULATOR: &str = "qemu-system-x86";
/// Depends on the newest build of this version.
const KERNEL: &str = "linux-image-6.12-cloud-amd64";
const SHELL: &str = "busybox-static";
/// Written last, with the packages' names in it: a folder that was interrupted is none.
const MARKER: &str = "complete";

/// The guest's parts.
pub(super) struct Parts {
    root: PathBuf,
}

impl Parts {
    /// Those that [`install`] has made.
    pub(super) fn open() -> Self {
        Self { root: root() }
    }

    /// The kernel, ready to start.
    pub(super) fn vmlinux(&self) -> PathBuf {
        self.root.join("vmlinux")
    }

    /// The folder of the kernel's modules.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn modules(&self) -> Result<PathBuf> {
        the_only(&self.root.join("tree/lib/modules"))
            .or_else(|_| the_only(&self.root.join("tree/usr/lib/modules")))
    }

    /// The shell with its tools, one static program.
    pub(super) fn busybox(&self) -> PathBuf {
        let places = ["tree/bin/busybox", "tree/usr/bin/busybox"].map(|place| self.root.join(place));
        let [first, second] = places;
        if first.exists() { first } else { second }
    }

    /// A command that runs the emulator, of the machine's own if it has one, and dies with us.
    pub(super) fn emulator(&self) -> Command {
        let mut command = cmd::cmd("setpriv", ["--pdeathsig", "KILL"]);
        if let Some(installed) = installed_emulator() {
            command.arg(installed);
            return command;
        }
        let usr = self.root.join("tree/usr");
        let libraries = [
            usr.join("lib/x86_64-linux-gnu"),
            self.root.join("tree/lib/x86_64-linux-gnu"),
        ];
        let libraries = libraries.map(|folder| folder.display().to_string()).join(":");
        command
            .env("LD_LIBRARY_PATH", libraries)
            .arg(usr.join("bin/qemu-system-x86_64"));
        for firmware in ["share/qemu", "share/seabios"] {
            command.arg("-L").arg(usr.join(firmware));
        }
        command
    }
}

/// The folder with everything.
#[must_use]
pub fn root() -> PathBuf {
    paths::cache().join("pktgen-guest")
}

/// Whether everything is there and whole.
#[must_use]
pub fn is_there() -> bool {
    fs::read_to_string(root().join(MARKER)).is_ok_and(|made_of| made_of == made_of_now())
}

/// Fetches the packages, from where apt has them, and unpacks them, in the place of whatever was there.
///
/// # Errors
/// apt does not know one of them or cannot fetch it.
pub fn install() -> Result<()> {
    if let Err(error) = make() {
        // What apt knows may be older than what the archive has.
        println!("{error:#}; asking the archive anew");
        cmd::output(&mut cmd::cmd("apt-get", ["-q", "update"]))?;
        make()?;
    }
    Ok(())
}

fn make() -> Result<()> {
    let (root, making) = (root(), paths::cache().join("pktgen-guest.new"));
    if making.exists() {
        fs::remove_dir_all(&making).with_context(|| making.display().to_string())?;
    }
    let packages = making.join("packages");
    fs::create_dir_all(&packages).with_context(|| packages.display().to_string())?;
    let mut names = BTreeSet::from([SHELL.to_owned(), newest_kernel()?]);
    if installed_emulator().is_none() {
        names.extend(with_what_it_needs(EMULATOR)?);
    }
    // Who fetches as root would be told that the user `_apt` may not write here.
    let mut apt = cmd::cmd("apt-get", ["-q", "-o", "APT::Sandbox::User=root", "download"]);
    cmd::output(apt.args(&names).current_dir(&packages))?;
    let tree = making.join("tree");
    for package in fs::read_dir(&packages)? {
        cmd::output(
            cmd::cmd("dpkg-deb", ["--extract"])
                .arg(package?.path())
                .arg(&tree),
        )?;
    }
    fs::remove_dir_all(&packages)?;
    let image = fs::read_dir(tree.join("boot"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        });
    let image = image.with_context(|| format!("{KERNEL}: no kernel in it"))?;
    kernel::unpack(&image, &making.join("vmlinux"))?;
    fs::write(making.join(MARKER), made_of_now())?;
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    fs::rename(&making, &root).with_context(|| root.display().to_string())
}

fn made_of_now() -> String {
    [EMULATOR, KERNEL, SHELL].join(" ")
}

fn installed_emulator() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("qemu-system-x86_64"))
        .find(|program| program.is_file())
}

/// The package that [`KERNEL`] stands for now.
fn newest_kernel() -> Result<String> {
    let text = cmd::read(&mut cmd::cmd("apt-cache", ["depends", KERNEL]))?;
    dependency(&text, "linux-image-").with_context(|| {
        format!("apt knows no {KERNEL}, which is in Debian 12's security archive: have apt use it")
    })
}

/// The first package that `apt-cache depends` names and whose name begins so.
fn dependency(text: &str, prefix: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

/// A package and those of its dependencies that the machine lacks, as apt would install them.
fn with_what_it_needs(package: &str) -> Result<BTreeSet<String>> {
    let mut apt = cmd::cmd(
        "apt-get",
        ["--simulate", "--no-install-recommends", "install", package],
    );
    let names = installs(&cmd::read(&mut apt)?);
    ensure!(
        names.contains(package),
        "apt would not install {package}: {names:?}"
    );
    Ok(names)
}

/// The packages in `Inst NAME (VERSION ...)` lines.
fn installs(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn the_only(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let first = entries
        .next()
        .with_context(|| format!("{} is empty", folder.display()))?;
    Ok(first?.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_install_is_read_and_what_it_would_remove_is_not() {
        let text = "The following packages will be REMOVED:\n  qemu-utils\nRemv qemu-utils [1:10]\n\
                    Inst libfdt1 (1.6.1-4+b1 Debian:12.15/oldstable [amd64])\n\
                    Inst qemu-system-x86 (1:7.2 Debian:12.15/oldstable [amd64]) []\nConf libfdt1 (1.6.1)\n";
        let names: Vec<String> = installs(text).into_iter().collect();
        assert_eq!(names, ["libfdt1", "qemu-system-x86"]);
    }

    #[test]
    fn a_kernel_is_found_through_the_package_that_stands_for_the_newest() {
        let text = "linux-image-6.12-cloud-amd64\n  Depends: linux-image-6.12.117+deb12-cloud-amd64\n";
        assert_eq!(
            dependency(text, "linux-image-").as_deref(),
            Some("linux-image-6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(dependency("linux-image-6.12-cloud-amd64\n", "linux-image-"), None);
    }
}
