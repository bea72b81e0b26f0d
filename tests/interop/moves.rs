//! Sites whose address changes under a tunnel that stands: by MOBIKE (RFC 4555), and behind a NAT that forgets
//! (RFC 7296 section 2.23).

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::cmd;
use xtask::lab::gateway::Config;
use xtask::lab::pki::Auth;
use xtask::lab::strongswan::{Connection, Release, Tunnel};
use xtask::lab::topology::{GATEWAY_WAN4, Node, Options, Site};
use xtask::lab::{Lab, center};

/// Another address for site 1 on the same network.
const MOVED: &str = "203.0.113.11";
/// How long a move may take.
const MOVE: Duration = Duration::from_secs(15);

fn ip(node: Node, arguments: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command
        .args(["-netns", &node.namespace()])
        .args(arguments.split(' '));
    cmd::output(&mut command)?;
    Ok(())
}

/// Fetches until it succeeds: the answer to the first packet from a new place may still go to the old one.
fn fetch_within(limit: Duration, site: Site) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match cmd::output(&mut center::curl(site.terminal(), &center::url("/page"), 2)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
    }
}

#[test]
fn a_site_that_moves_tells_so_by_mobike_and_keeps_its_ike_sa() -> Result<()> {
    for release in Release::BOTH {
        let lab = Lab::up(Options::default())?;
        let gateway = lab.start_gateway(&Config::usual(Auth::Rsa))?;
        let connection = Connection {
            local: "%any".to_owned(),
            mobike: true,
            ..Connection::of_site(Site::One, Auth::Rsa, lab.options())
        };
        let router = lab.start_router(Site::One, release, &connection)?;
        let before = router.initiate()?;
        center::fetch(Site::One.terminal(), "/page")?;

        let old = Site::One.router_address(lab.options());
        Node::Site1.enter(|| Ok(fs::write("/proc/sys/net/ipv4/conf/wan/promote_secondaries", "1")?))?;
        ip(Node::Site1, &format!("addr add {MOVED}/24 dev wan"))?;
        ip(Node::Site1, &format!("addr del {old}/24 dev wan"))?;
        ip(Node::Site1, &format!("route replace default via {GATEWAY_WAN4}"))?;

        let logs = || {
            format!(
                "the router's log:\n{}\nthe gateway's log:\n{}",
                router.log(),
                gateway.log()
            )
        };
        let at_new = |tunnel: &Tunnel| tunnel.local.starts_with(MOVED);
        let after = router.wait_for_tunnel(at_new).with_context(logs)?;
        // The Child SA may be another: strongSwan replaces it where its ESP cannot be told of a new address.
        ensure!(
            after.ike_spis == before.ike_spis,
            "another IKE SA: {before:?}, {after:?}"
        );
        fetch_within(MOVE, Site::One).with_context(logs)?;
        let listed = gateway.cli(&["sa", "list"])?;
        ensure!(
            listed.contains(MOVED) && !listed.contains(&format!("{old}:")),
            "{listed}"
        );
        router.rekey_child().with_context(logs)?;
        center::fetch(Site::One.terminal(), "/page").with_context(logs)?;
    }
    Ok(())
}

#[test]
fn a_site_whose_nat_forgets_it_is_followed_by_its_packets() -> Result<()> {
    let lab = Lab::up(Options {
        nat: true,
        ..Options::default()
    })?;
    let gateway = lab.start_gateway(&Config::usual(Auth::Rsa))?;
    let router = lab.start_site(Site::One, Auth::Rsa)?;
    let before = router.initiate()?;
    center::fetch(Site::One.terminal(), "/page")?;

    // Other ports for the same streams. An interface that goes down takes its masqueraded streams with it.
    let rules = "flush chain ip nat out\nadd rule ip nat out oifname \"out\" meta l4proto udp masquerade to :20000-20999\n";
    cmd::feed(Node::Nat.command("nft").args(["-f", "-"]), rules)?;
    ip(Node::Nat, "link set out down")?;
    ip(Node::Nat, "link set out up")?;
    sleep(Duration::from_millis(200));

    let logs = || {
        format!(
            "the router's log:\n{}\nthe gateway's log:\n{}",
            router.log(),
            gateway.log()
        )
    };
    fetch_within(MOVE, Site::One).with_context(logs)?;
    let after = router.tunnel()?.context("no tunnel")?;
    ensure!(
        (&after.ike_spis, &after.spi_in) == (&before.ike_spis, &before.spi_in),
        "other SAs: {before:?}, {after:?}"
    );
    // The gateway knows where the router is now: it can begin an exchange of its own.
    gateway.cli(&["sa", "rekey", "--site", "site1"])?;
    router
        .wait_for_tunnel(|new| new.spi_in != after.spi_in)
        .with_context(logs)?;
    center::fetch(Site::One.terminal(), "/page").with_context(logs)?;
    let listed = gateway.cli(&["sa", "list"])?;
    ensure!(listed.contains(":20"), "the new port is not listed: {listed}");
    Ok(())
}
