//! Network namespaces, and the thread that goes from one to another.

use std::fs::{self, File};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use xtask::cmd;

/// A namespace, removed with all that is in it when dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, in the place of one that an interrupted run left.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let name = format!("gwpktgen-{name}");
        if fs::exists(file(&name))? {
            cmd::output(&mut cmd::cmd("ip", ["netns", "del", &name]))?;
        }
        cmd::output(&mut cmd::cmd("ip", ["netns", "add", &name]))?;
        let namespace = Self { name };
        // Only what the generator sends is to be on the links: no neighbour discovery.
        namespace.settings(&[
            ("ipv6/conf/all/disable_ipv6", "1"),
            ("ipv6/conf/default/disable_ipv6", "1"),
        ])?;
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// Its name, for `ip`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs lines of `ip -batch` in it.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        let mut ip = cmd::cmd("ip", ["-netns", &self.name, "-batch", "-"]);
        cmd::feed(&mut ip, lines).with_context(|| format!("in {}:\n{lines}", self.name))?;
        Ok(())
    }

    /// A command that runs in it, with its own /sys.
    pub(crate) fn command(&self, program: &str) -> Command {
        cmd::cmd("ip", ["netns", "exec", &self.name, program])
    }

    /// Does `work` with the calling thread in it.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let home = File::open("/proc/thread-self/ns/net").context("the thread's own namespace")?;
        self.enter()?;
        let done = work();
        setns(home, CloneFlags::CLONE_NEWNET).context("going back to the thread's own namespace")?;
        done
    }

    /// Moves the calling thread into it.
    pub(crate) fn enter(&self) -> Result<()> {
        let file = File::open(file(&self.name)).with_context(|| self.name.clone())?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", self.name))
    }

    /// Takes a network card of the first namespace, which gets another name.
    pub(crate) fn take_card(&self, card: &str, name: &str) -> Result<()> {
        cmd::output(&mut cmd::cmd(
            "ip",
            ["link", "set", card, "netns", &self.name, "name", name],
        ))?;
        Ok(())
    }

    /// Sets values below /proc/sys/net.
    pub(crate) fn settings(&self, values: &[(&str, &str)]) -> Result<()> {
        self.inside(|| {
            for (name, value) in values {
                let path = format!("/proc/sys/net/{name}");
                fs::write(&path, value).with_context(|| format!("{path} = {value}"))?;
            }
            Ok(())
        })
    }

    /// A number below /proc/sys/net.
    pub(crate) fn setting(&self, name: &str) -> Result<u64> {
        self.inside(|| {
            let path = format!("/proc/sys/net/{name}");
            let text = fs::read_to_string(&path).with_context(|| path.clone())?;
            text.trim().parse().with_context(|| format!("{path}: {text}"))
        })
    }

    /// Index of an interface in it.
    pub(crate) fn index(&self, interface: &str) -> Result<u32> {
        self.inside(|| nix::net::if_::if_nametoindex(interface).with_context(|| interface.to_owned()))
    }

    /// What the kernel counts at interfaces in it, a line each.
    pub(crate) fn counters(&self, interfaces: &[&str]) -> Result<String> {
        self.inside(|| {
            let table = fs::read_to_string("/proc/thread-self/net/dev")?;
            let is_one = |line: &&str| {
                let name = line.split(':').next().unwrap_or_default().trim();
                interfaces.contains(&name)
            };
            Ok(table
                .lines()
                .filter(is_one)
                .map(|line| format!("{line}\n"))
                .collect())
        })
    }

    /// Packets that an interface in it has received.
    pub(crate) fn received(&self, interface: &str) -> Result<u64> {
        self.count(interface, 1)
    }

    /// Packets that found no room where an interface in it sends them.
    pub(crate) fn not_sent(&self, interface: &str) -> Result<u64> {
        self.count(interface, 11)
    }

    /// Packets that found no room where an interface in it receives, and where it sends.
    pub(crate) fn dropped(&self, interface: &str) -> Result<[u64; 2]> {
        Ok([self.count(interface, 3)?, self.not_sent(interface)?])
    }

    /// A column of what the kernel counts at an interface in it.
    fn count(&self, interface: &str, column: usize) -> Result<u64> {
        self.inside(|| {
            let table = fs::read_to_string("/proc/thread-self/net/dev")?;
            let line = table
                .lines()
                .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
            let packets = line.and_then(|line| line.split_whitespace().nth(column)?.parse().ok());
            packets.with_context(|| format!("no {interface} in {}", self.name))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone = cmd::output(&mut cmd::cmd("ip", ["netns", "del", &self.name]));
    }
}

fn file(name: &str) -> String {
    format!("/run/netns/{name}")
}
