//! What the guests are made of: Debian packages, unpacked side by side into the user's cache folder. Nothing of them is
//! installed, so that nothing of the machine gives way to them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::kernel;
use crate::{cmd, debian13, paths};

/// A guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guest {
    /// With a kernel that has pktgen, of what apt knows anyway.
    #[value(name = "6.12")]
    Pktgen,
    /// With a kernel whose virtio-net has AF_XDP zero copy in both directions (Linux 6.13 and later).
    #[value(name = "6.18")]
    ZeroCopy,
    /// With the newest kernel that is packaged for Debian's stable release.
    Newest,
}

const EMULATOR: &str = "qemu-system-x86";
/// Depends on the newest build of this version.
const KERNEL: &str = "linux-image-6.12-cloud-amd64";
/// The newest of its series is taken, `linux-image-6.18.N+deb13-cloud-amd64`, and the suite that has it.
const ZERO_COPY_SERIES: &str = "linux-image-6.18.";
const ZERO_COPY_FLAVOUR: &str = "-cloud-amd64";
/// Depends on the newest build of the newest version.
const NEWEST_KERNEL: &str = "linux-image-cloud-amd64";
/// The kernel itself, which newer packages have in one of their own.
const KERNEL_ALONE: &str = "linux-binary-";
const BACKPORTS: &str = "trixie-backports";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SHELL: &str = "busybox-static";
/// Written last, with the packages' names in it: a folder that was interrupted is none.
const MARKER: &str = "complete";

/// The guest's parts.
pub(crate) struct Parts {
    root: PathBuf,
    pub(crate) guest: Guest,
}

impl Parts {
    /// Those that [`Guest::install`] has made.
    pub(crate) fn open(guest: Guest) -> Self {
        Self {
            root: guest.root(),
            guest,
        }
    }

    /// The kernel, ready to start.
    pub(crate) fn vmlinux(&self) -> PathBuf {
        self.root.join("vmlinux")
    }

    /// The folder of the kernel's modules.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn modules(&self) -> Result<PathBuf> {
        the_only(&self.root.join("tree/lib/modules"))
            .or_else(|_| the_only(&self.root.join("tree/usr/lib/modules")))
    }

    /// The shell with its tools, one static program.
    pub(crate) fn busybox(&self) -> PathBuf {
        let places = ["tree/bin/busybox", "tree/usr/bin/busybox"].map(|place| self.root.join(place));
        let [first, second] = places;
        if first.exists() { first } else { second }
    }

    /// A command that runs the emulator, of the machine's own if it has one, and dies with us.
    pub(crate) fn emulator(&self) -> Command {
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

impl Guest {
    /// The folder with everything.
    #[must_use]
    pub fn root(self) -> PathBuf {
        paths::cache().join(self.folder())
    }

    const fn folder(self) -> &'static str {
        match self {
            Self::Pktgen => "pktgen-guest",
            Self::ZeroCopy => "zero-copy-guest",
            Self::Newest => "newest-guest",
        }
    }

    /// Whether everything is there and whole.
    #[must_use]
    pub fn is_there(self) -> bool {
        fs::read_to_string(self.root().join(MARKER)).is_ok_and(|made_of| made_of == self.made_of())
    }

    fn made_of(self) -> String {
        match self {
            Self::Pktgen => [EMULATOR, KERNEL, SHELL].join(" "),
            Self::ZeroCopy => [EMULATOR, ZERO_COPY_SERIES, BACKPORTS, SHELL].join(" "),
            Self::Newest => [EMULATOR, NEWEST_KERNEL, BACKPORTS, SHELL].join(" "),
        }
    }

    /// Fetches the packages, from where apt has them, and unpacks them, in the place of whatever was there.
    ///
    /// # Errors
    /// apt does not know one of them or cannot fetch it.
    pub fn install(self) -> Result<()> {
        if let Err(error) = self.make() {
            // What apt knows may be older than what the archive has.
            println!("{error:#}; asking the archive anew");
            cmd::output(&mut cmd::cmd("apt-get", ["-q", "update"]))?;
            self.make()?;
        }
        Ok(())
    }

    fn make(self) -> Result<()> {
        let (root, making) = (self.root(), paths::cache().join(format!("{}.new", self.folder())));
        if making.exists() {
            fs::remove_dir_all(&making).with_context(|| making.display().to_string())?;
        }
        let packages = making.join("packages");
        fs::create_dir_all(&packages).with_context(|| packages.display().to_string())?;
        let mut names = BTreeSet::from([SHELL.to_owned()]);
        match self {
            Self::Pktgen => {
                names.insert(newest_kernel()?);
            }
            Self::ZeroCopy | Self::Newest => {
                let apt = making.join("apt");
                let apart = Apart::ask(&apt)?;
                let image = if self == Self::Newest {
                    apart.newest_kernel()?
                } else {
                    apart.newest_of_series()?
                };
                apart.download_kernel(image, &packages)?;
                fs::remove_dir_all(&apt)?;
            }
        }
        if installed_emulator().is_none() {
            names.extend(with_what_it_needs(EMULATOR)?);
        }
        download(&names, &[], &packages)?;
        let tree = making.join("tree");
        for package in fs::read_dir(&packages)? {
            cmd::output(
                cmd::cmd("dpkg-deb", ["--extract"])
                    .arg(package?.path())
                    .arg(&tree),
            )?;
        }
        fs::remove_dir_all(&packages)?;
        kernel::unpack(&image_in(&tree)?, &making.join("vmlinux"))?;
        fs::write(making.join(MARKER), self.made_of())?;
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
        }
        fs::rename(&making, &root).with_context(|| root.display().to_string())
    }
}

fn download(names: &BTreeSet<String>, options: &[String], to: &Path) -> Result<()> {
    // Who fetches as root would be told that the user `_apt` may not write here.
    let mut apt = cmd::cmd("apt-get", ["-q", "-o", "APT::Sandbox::User=root"]);
    cmd::output(apt.args(options).arg("download").args(names).current_dir(to))?;
    Ok(())
}

/// What apt knows of another suite, apart from what it knows for the machine.
struct Apart {
    options: Vec<String>,
}

impl Apart {
    /// Asks the mirror that apt is configured with; keeps the answer in `folder`.
    fn ask(folder: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| part.display().to_string())?;
        }
        let sources = folder.join("sources.list");
        let line = format!(
            "deb [signed-by={KEYRING}] {} {BACKPORTS} main\n",
            debian13::mirror()?
        );
        fs::write(&sources, line).with_context(|| sources.display().to_string())?;
        let folder = folder.display();
        let settings = [
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::Cache={folder}/cache"),
            "APT::Sandbox::User=root".to_owned(),
        ];
        let options = settings
            .into_iter()
            .flat_map(|setting| ["-o".to_owned(), setting])
            .collect();
        let apart = Self { options };
        cmd::output(cmd::cmd("apt-get", ["-q"]).args(&apart.options).arg("update"))?;
        Ok(apart)
    }

    /// What apt knows of packages there.
    fn cache(&self, question: [&str; 2]) -> Result<String> {
        let mut apt = cmd::cmd("apt-cache", [""; 0]);
        cmd::read(apt.args(&self.options).args(question))
    }

    fn newest_of_series(&self) -> Result<String> {
        let names = self.cache(["pkgnames", ZERO_COPY_SERIES])?;
        let newest = newest_of_series(&names).map(str::to_owned);
        newest.with_context(|| {
            format!("{BACKPORTS} has no {ZERO_COPY_SERIES}N any more: name another series in `packages.rs`")
        })
    }

    fn newest_kernel(&self) -> Result<String> {
        let text = self.cache(["depends", NEWEST_KERNEL])?;
        dependency(&text, "linux-image-").with_context(|| format!("{BACKPORTS} has no {NEWEST_KERNEL}"))
    }

    fn download_kernel(&self, image: String, to: &Path) -> Result<()> {
        let text = self.cache(["depends", &image])?;
        let alone = dependency(&text, KERNEL_ALONE);
        download(&alone.into_iter().chain([image]).collect(), &self.options, to)
    }
}

/// The kernel: where kernels lie, or, of newer packages, beside its modules.
fn image_in(tree: &Path) -> Result<PathBuf> {
    let modules = the_only(&tree.join("usr/lib/modules")).unwrap_or_default();
    let files = [tree.join("boot"), modules]
        .into_iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten();
    files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        })
        .context("no kernel in its package")
}

/// The package of the series with the highest number.
fn newest_of_series(names: &str) -> Option<&str> {
    let number = |name: &&str| {
        let rest = name
            .strip_prefix(ZERO_COPY_SERIES)?
            .strip_suffix(ZERO_COPY_FLAVOUR)?;
        rest.split_once('+')?.0.parse::<u32>().ok()
    };
    let of_series = names.lines().filter(|name| number(name).is_some());
    of_series.max_by_key(number)
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
    fn the_newest_kernel_of_a_series_has_the_highest_number_and_no_debugger() {
        let names = "linux-image-6.18.9+deb13-cloud-amd64\nlinux-image-6.18.15+deb13-cloud-amd64\n\
                     linux-image-6.18.99+deb13-rt-amd64\nlinux-image-6.18.15+deb13-cloud-amd64-dbg\n\
                     linux-image-6.18.16+deb13-amd64\n";
        let newest = newest_of_series(names);
        assert_eq!(newest, Some("linux-image-6.18.15+deb13-cloud-amd64"));
        assert_eq!(newest_of_series("linux-image-6.12.9+deb13-cloud-amd64\n"), None);
    }

    #[test]
    fn a_newer_kernel_lies_beside_its_modules() {
        let tree = std::env::temp_dir().join(format!("xtask-kernel-{}", std::process::id()));
        let folder = tree.join("usr/lib/modules/7.3.4+deb13-cloud-amd64");
        fs::create_dir_all(&folder).unwrap();
        assert!(image_in(&tree).is_err(), "there is none yet");
        let image = folder.join("vmlinuz");
        fs::write(&image, "kernel").unwrap();
        let found = image_in(&tree);
        fs::remove_dir_all(&tree).unwrap();
        assert_eq!(found.unwrap(), image);
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
