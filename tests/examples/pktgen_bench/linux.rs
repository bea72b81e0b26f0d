//! What the kernel has: plain forwarding, and nftables with connection tracking and masquerading.

use anyhow::{Context as _, Result, ensure};
use xtask::cmd;

use crate::lane::{Ends, Lane};

/// The rules an operator would write: established first, then what may begin, the rest dropped.
const RULES: &str = "\
table ip filter {
    counter established { }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established counter name established accept
        ct state invalid drop
        ip saddr 192.168.1.0/24 ip daddr 203.0.113.10 udp dport 9 ct state new accept
    }
}
table ip nat {
    counter translated { }
    chain out {
        type nat hook postrouting priority srcnat;
        oifname \"out\" counter name translated masquerade
    }
}
";

/// A lane that only forwards.
pub(crate) fn forward(ends: &Ends, number: usize) -> Result<Lane> {
    ends.lay(number, "forward", |_| Ok(()))
}

/// A lane with [`RULES`].
pub(crate) fn nftables(ends: &Ends, number: usize, name: &str) -> Result<Lane> {
    ends.lay(number, name, |lane| {
        cmd::feed(lane.namespace.command("nft").args(["-f", "-"]), RULES)?;
        Ok(())
    })
}

/// Connections that the kernel tracks.
pub(crate) fn tracked(lane: &Lane) -> Result<u64> {
    lane.namespace.setting("netfilter/nf_conntrack_count")
}

/// Packets that the rule of this counter has seen.
pub(crate) fn counted(lane: &Lane, table: &str, counter: &str) -> Result<u64> {
    let text = cmd::read(
        lane.namespace
            .command("nft")
            .args(["list", "counter", "ip", table, counter]),
    )?;
    let packets = text
        .split_once("packets ")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    packets.with_context(|| format!("no count in:\n{text}"))
}

/// Every connection was translated, once.
///
/// # Errors
/// It was not.
pub(crate) fn expect_translated(lane: &Lane, flows: u64) -> Result<()> {
    let translated = counted(lane, "nat", "translated")?;
    ensure!(
        translated >= flows,
        "{translated} of {flows} connections were translated by nftables"
    );
    Ok(())
}
