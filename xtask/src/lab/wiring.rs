//! Building and removing the namespaces and cables that `topology` names.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::topology::{Node, Options, PREFIX, cables, routes};
use crate::cmd;

/// Makes every namespace, cable, address and route.
pub(super) fn build(options: &Options) -> Result<()> {
    let nodes = || {
        Node::ALL
            .into_iter()
            .filter(|node| options.nat || *node != Node::Nat)
            .filter(|node| options.internet || *node != Node::Internet)
    };
    for node in nodes() {
        cmd::output(Command::new("ip").args(["netns", "add", &node.namespace()]))?;
        node.enter(|| settings(node, options))?;
    }
    let mut links = String::new();
    for [a, b] in cables(options) {
        let queues = format!("numtxqueues {0} numrxqueues {0}", options.queues);
        links += &format!(
            "link add {} netns {} {queues} type veth peer name {} netns {} {queues}\n",
            a.interface,
            a.node.namespace(),
            b.interface,
            b.node.namespace(),
        );
    }
    batch(Command::new("ip"), &links)?;
    // All before the first link goes up: a veth end announces that it can be redirected to when it goes up, and only
    // if the other end asks for GRO by then.
    for port in cables(options).into_iter().flatten() {
        offloads(port.node, port.interface)?;
    }
    for node in nodes() {
        let mut lines = String::from("link set lo up\n");
        for port in cables(options)
            .into_iter()
            .flatten()
            .filter(|port| port.node == node)
        {
            let no_dad = if port.address.contains(':') { "nodad" } else { "" };
            lines += &format!("addr add {} dev {} {no_dad}\n", port.address, port.interface);
            lines += &format!("link set {} up\n", port.interface);
        }
        for (_, route) in routes(options).into_iter().filter(|(at, _)| *at == node) {
            lines += &format!("{route}\n");
        }
        let mut ip = Command::new("ip");
        ip.args(["-netns", &node.namespace()]);
        batch(ip, &lines)?;
    }
    if options.nat {
        masquerade()?;
    }
    Ok(())
}

/// Removes every namespace of the lab; what lives in them goes with them.
pub(super) fn remove() -> Result<()> {
    for name in namespaces() {
        cmd::output(Command::new("ip").args(["netns", "del", &name]))?;
    }
    Ok(())
}

/// The lab's namespaces that exist now.
pub(super) fn namespaces() -> Vec<String> {
    let Ok(folder) = fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(PREFIX)).collect();
    names.sort();
    names
}

/// /proc/sys/net shows the namespace of the thread that opens it.
fn settings(node: Node, options: &Options) -> Result<()> {
    let forwards = node.is_router() || (node == Node::Gateway && options.kernel_forwards_in_gateway);
    let flag = if forwards { "1" } else { "0" };
    let values = [
        ("ipv4/ip_forward", flag),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        // One machine's worth of kernel answers pings and errors for all nodes: its rate limit would drop what tests count.
        ("ipv4/icmp_ratelimit", "0"),
        ("ipv6/icmp/ratelimit", "0"),
    ];
    for (name, value) in values {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).with_context(|| format!("{path} = {value} in {node}"))?;
    }
    Ok(())
}

/// XDP and AF_XDP see a packet before its checksum would be filled in or its segments split: the sender does both.
/// A veth end takes redirected frames only with NAPI on, which GRO turns on where no XDP program is.
fn offloads(node: Node, interface: &str) -> Result<()> {
    let args = [
        "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "on",
    ];
    cmd::output(node.command("ethtool").args(args))?;
    Ok(())
}

fn masquerade() -> Result<()> {
    let rules = "table ip nat {\nchain out {\ntype nat hook postrouting priority srcnat\noifname \"out\" masquerade\n}\n}\n";
    cmd::feed(Node::Nat.command("nft").args(["-f", "-"]), rules)?;
    Ok(())
}

fn batch(mut command: Command, lines: &str) -> Result<()> {
    cmd::feed(command.args(["-batch", "-"]), lines)?;
    Ok(())
}
