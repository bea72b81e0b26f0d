//! What the kernel has: plain forwarding, and nftables with connection tracking and masquerading.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use xtask::cmd;

use crate::lane::{Ends, IN, Lane, OUT};
use crate::step;

/// For how long connections may be there that were told to go.
const FORGETTING_MAX: Duration = Duration::from_secs(5);

/// The rules an operator would write: established first, then what may begin, the rest dropped.
const RULES: &str = "\
table ip filter {
    counter established { }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established counter name established accept
        ct state invalid drop
        ip saddr 192.168.1.0/24 ip daddr DESTINATIONS udp dport 9 ct state new accept
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

/// [`RULES`] as they are for speed: once a connection is established, its packets pass rules, routing and connection tracking by, translated
/// at the interface that they come by.
fn with_flowtable(rules: &str) -> String {
    let (begin, rest) = ("table ip filter {\n", "policy drop;\n");
    rules
        .replace(
            begin,
            &format!(
                "{begin}    flowtable fast {{ hook ingress priority filter; devices = {{ \"{IN}\", \"{OUT}\" }}; }}\n"
            ),
        )
        .replace(rest, &format!("{rest}        ct state established flow add @fast\n"))
}

/// A lane that only forwards.
pub(crate) fn forward(ends: &Ends, number: usize) -> Result<Lane> {
    ends.lay(number, "forward", |_| Ok(()))
}

/// A lane with [`RULES`], for these destinations.
pub(crate) fn nftables(ends: &Ends, number: usize, name: &str, destinations: &str) -> Result<Lane> {
    ends.lay(number, name, |lane| {
        let rules = RULES.replace("DESTINATIONS", destinations);
        cmd::feed(lane.namespace.command("nft").args(["-f", "-"]), &rules)?;
        Ok(())
    })
}

/// The same with a flowtable, where the kernel has them.
pub(crate) fn nftables_with_flowtable(
    ends: &Ends,
    number: usize,
    destinations: &str,
) -> Result<Option<Lane>> {
    let mut refused = None;
    let lane = ends.lay(number, "flowtable", |lane| {
        let rules = with_flowtable(&RULES.replace("DESTINATIONS", destinations));
        refused = cmd::feed(lane.namespace.command("nft").args(["-f", "-"]), &rules).err();
        Ok(())
    })?;
    if let Some(error) = refused {
        step(&format!("nothing is measured with a flowtable: {error:#}"));
        return Ok(None);
    }
    Ok(Some(lane))
}

/// Connections that there is room for, and buckets that they lie in: the same for all namespaces.
pub(crate) fn room() -> Result<[u64; 2]> {
    let read = |name: &str| {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        text.trim().parse().with_context(|| format!("{path}: {text}"))
    };
    Ok([read("max")?, read("buckets")?])
}

/// Forgets all connections, as `conntrack -F` does: ctnetlink's "delete" without a tuple.
pub(crate) fn forget(lane: &Lane) -> Result<()> {
    const AF_NETLINK: i32 = 16;
    const NETLINK_NETFILTER: i32 = 12;
    const NFNL_SUBSYS_CTNETLINK: u16 = 1;
    const IPCTNL_MSG_CT_DELETE: u16 = 2;
    const NLM_F_REQUEST: u16 = 1;
    const LENGTH: u32 = 20;
    lane.namespace.inside(|| {
        let socket = Socket::new(
            Domain::from(AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(NETLINK_NETFILTER)),
        )
        .context("a netlink socket")?;
        // struct nlmsghdr, and struct nfgenmsg of zeros: any family.
        let mut message = [0; LENGTH as usize];
        message[..4].copy_from_slice(&LENGTH.to_ne_bytes());
        message[4..6].copy_from_slice(&(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE).to_ne_bytes());
        message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        socket.send(&message).context("flushing connections")?;
        Ok(())
    })?;
    let deadline = Instant::now() + FORGETTING_MAX;
    loop {
        let left = tracked(lane)?;
        if left == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{left} connections were not forgotten");
        sleep(Duration::from_millis(20));
    }
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
