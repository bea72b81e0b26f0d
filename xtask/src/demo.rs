//! `cargo xtask demo`: what the gateway does, shown step by step on the lab.
//!
//! Every step checks what it shows, so a demo that ends has worked.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Lab;
use crate::lab::center::{self, curl};
use crate::lab::gateway::{Config, Gateway, RULE_DENY};
use crate::lab::pki::Auth;
use crate::lab::strongswan::StrongSwan;
use crate::lab::tap::{Outer, Tap, mend_udp_checksum};
use crate::lab::topology::{FORBIDDEN_PORT, Options, SERVER, Site, TERMINAL};
use crate::{cmd, paths, setup};

/// Sets up, builds, and shows.
///
/// # Errors
/// At the first step that does not do what it should; the lab is taken down all the same.
pub fn run() -> Result<()> {
    setup::ensure()?;
    cmd::stream(cmd::cmd("cargo", ["build", "--package", "gateway"]).current_dir(paths::repository()))?;
    let started = Instant::now();
    step("A lab of two sites, the gateway and the center, in network namespaces of this machine");
    let lab = Lab::up(Options::default())?;
    let gateway = lab.start_gateway(&Config::usual(Auth::Rsa))?;
    let shown = show(&lab, &gateway);
    if shown.is_err() {
        eprintln!("the gateway's log:\n{}", gateway.log());
    }
    shown?;
    gateway.stop()?;
    drop(lab);
    println!(
        "\nEverything is taken down again. {:.0} s.",
        started.elapsed().as_secs_f32()
    );
    Ok(())
}

fn show(lab: &Lab, gateway: &Gateway) -> Result<()> {
    step("Each site's strongSwan router builds its tunnel with a certificate");
    let _routers = [
        tunnel(lab, Site::One, "IPv4 \"Internet\"")?,
        tunnel(lab, Site::Two, "IPv6-only \"IP-VPN\"")?,
    ];
    say(&gateway.cli(&["sa", "list"])?);
    step("A terminal behind each router fetches the eligibility page; both have the same address");
    pages()?;
    say(&gateway.cli(&["flows", "list"])?);
    step("A connection that no rule allows");
    forbidden(gateway)?;
    step("Forged and replayed ESP packets, injected on each site's line");
    for site in Site::BOTH {
        hostile(gateway, site)?;
    }
    say(&gateway.cli(&["drops"])?);
    step("gateway status");
    say(&gateway.cli(&["status"])?);
    Ok(())
}

fn tunnel(lab: &Lab, site: Site, network: &str) -> Result<StrongSwan> {
    let router = lab.start_site(site, Auth::Rsa)?;
    let tunnel = router.initiate()?;
    println!("  {} over the {network}: {}", site.name(), tunnel.algorithms);
    Ok(router)
}

fn pages() -> Result<()> {
    for site in Site::BOTH {
        let page = center::fetch(site.terminal(), "/page")?;
        println!("  {} ({TERMINAL}) got: {}", site.terminal(), page.trim());
    }
    let requests = center::requests()?;
    let [one, two] = requests.as_slice() else {
        bail!("the server saw {} requests, not 2", requests.len())
    };
    println!("  the server saw: {} and {}", one.client, two.client);
    ensure!(one.client != two.client && ![&one.client, &two.client].contains(&&TERMINAL.to_owned()));
    Ok(())
}

fn forbidden(gateway: &Gateway) -> Result<()> {
    let terminal = Site::One.terminal();
    let url = format!("http://{SERVER}:{FORBIDDEN_PORT}/");
    ensure!(
        cmd::output(&mut curl(terminal, &url, 2)).is_err(),
        "{url} was reached"
    );
    let hits = gateway.rule_hits(RULE_DENY)?;
    println!(
        "  {terminal} -> {SERVER}:{FORBIDDEN_PORT}: no answer; rule \"{RULE_DENY}\" dropped {hits} packets"
    );
    ensure!(hits > 0);
    Ok(())
}

/// Takes a genuine ESP packet off the router's line and sends it again, as it is and altered.
fn hostile(gateway: &Gateway, site: Site) -> Result<()> {
    let tap = Tap::open(site.router(), "wan")?;
    let own = tap.address();
    center::fetch(site.terminal(), "/whoami")?;
    let sent_esp = |frame: &[u8]| {
        frame.get(6..12) == Some(&own) && Outer::parse(frame).is_some_and(|outer| outer.esp_at().is_some())
    };
    let genuine = tap
        .wait_for(Duration::from_secs(2), sent_esp)?
        .context("the router sent no ESP")?;
    for _ in 0..3 {
        tap.send(&genuine)?;
    }
    let mut forged = genuine;
    // A sequence number not used yet, in the third octet, and so a wrong ICV.
    let esp_at = Outer::parse(&forged)
        .and_then(|outer| outer.esp_at())
        .context("no ESP")?;
    let sequence = forged.get_mut(esp_at + 5).context("a truncated frame")?;
    *sequence = sequence.wrapping_add(1);
    mend_udp_checksum(&mut forged);
    for _ in 0..2 {
        tap.send(&forged)?;
    }
    let expected = if site == Site::One { [3, 2] } else { [6, 4] };
    wait_for_drops(gateway, expected)?;
    println!(
        "  {}: 3 replayed and 2 forged packets dropped; the tunnel goes on",
        site.name()
    );
    center::fetch(site.terminal(), "/whoami")?;
    Ok(())
}

/// Waits for this many replayed and forged packets in all.
fn wait_for_drops(gateway: &Gateway, expected: [u64; 2]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let drops = gateway.drops()?;
        let counted =
            ["esp_replay", "esp_authentication"].map(|reason| drops.get(reason).copied().unwrap_or(0));
        if counted == expected {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{counted:?} replayed and forged packets counted, not {expected:?}"
        );
        sleep(Duration::from_millis(20));
    }
}

fn step(title: &str) {
    println!("\n== {title}");
}

fn say(text: &str) {
    for line in text.lines() {
        println!("  {line}");
    }
}
