//! What strongSwan has beside the common: shared keys, post-quantum preshared keys (RFC 8784), childless IKE SAs
//! (RFC 6023), redirection (RFC 5685).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::lab::gateway::{Config, Gateway};
use xtask::lab::pki::{Auth, fqdn};
use xtask::lab::strongswan::{Connection, Release, StrongSwan};
use xtask::lab::topology::{Options, Site};
use xtask::lab::{Lab, center, state};

const KEY: &str = "0x8e1f5b2a90d3c47766f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6";
const OTHER_KEY: &str = "0x9e1f5b2a90d3c47766f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6";
/// An address that nobody has.
const ELSEWHERE: &str = "203.0.113.77";
const SITE: Site = Site::One;
const WAIT: Duration = Duration::from_secs(10);

/// A file with a key that the gateway accepts, and its place in gateway.toml.
fn key_file(key: &str) -> Result<String> {
    let path = state::path("site.key");
    fs::write(&path, format!("{key}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path.display().to_string())
}

/// A lab of its own, because the key's file belongs to the lab.
fn gateway(lines: impl FnOnce() -> Result<(String, String)>) -> Result<(Lab, Gateway)> {
    let lab = Lab::up(Options::default())?;
    let (site_lines, connection_lines) = lines()?;
    let config = Config {
        connections: true,
        site_lines,
        connection_lines,
        ..Config::usual(Auth::Rsa)
    };
    let gateway = lab.start_gateway(&config)?;
    Ok((lab, gateway))
}

fn usual(lab: &Lab) -> Connection {
    Connection::of_site(SITE, Auth::Rsa, lab.options())
}

/// Up, begun by either side, with traffic; and gone again.
fn works_whoever_begins(gateway: &Gateway, router: &StrongSwan) -> Result<()> {
    let log = || {
        format!(
            "the router's log:\n{}\nthe gateway's:\n{}",
            router.log(),
            gateway.log()
        )
    };
    for gateway_begins in [false, true] {
        if gateway_begins {
            gateway
                .cli(&["connection", "up", SITE.name()])
                .with_context(log)?;
            router.wait_for_tunnel(|_| true)?;
        } else {
            router.initiate().with_context(log)?;
        }
        center::fetch(SITE.terminal(), "/whoami").with_context(log)?;
        let old = router.tunnel()?.context("no tunnel to rekey")?;
        gateway.cli(&["sa", "rekey", "--site", SITE.name()])?;
        // One rekey after the other: whoever is asked for one during his own says that he cannot now (RFC 7296 section 2.25).
        router
            .wait_for_tunnel(|new| new.spi_in != old.spi_in)
            .with_context(log)?;
        router.rekey_ike().with_context(log)?;
        center::fetch(SITE.terminal(), "/whoami").with_context(log)?;
        router.terminate()?;
    }
    Ok(())
}

fn is_refused(router: &StrongSwan, gateway: &Gateway) -> Result<()> {
    ensure!(router.initiate().is_err(), "the router was let in");
    let up = gateway.try_cli(&["connection", "up", SITE.name()])?;
    ensure!(!up.status.success(), "the gateway came in");
    ensure!(router.tunnel()?.is_none(), "the router has an SA");
    Ok(())
}

#[test]
fn shared_keys() -> Result<()> {
    let (lab, gateway) = gateway(|| Ok((format!("psk_file = {:?}\n", key_file(KEY)?), String::new())))?;
    let secret = |key: &str| {
        let (site, center) = (fqdn(SITE.name()), fqdn("gateway"));
        format!("ike-1 {{\nid-1 = {site}\nid-2 = {center}\nsecret = {key}\n}}\n")
    };
    for release in Release::BOTH {
        let connection = |key: &str| Connection {
            shared_key: true,
            secrets: secret(key),
            ..usual(&lab)
        };
        let router = lab.start_router(SITE, release, &connection(KEY))?;
        works_whoever_begins(&gateway, &router).with_context(|| format!("{release:?}"))?;
        router.load(lab.pki(), &connection(OTHER_KEY))?;
        is_refused(&router, &gateway).context("another key")?;
        router.load(lab.pki(), &usual(&lab))?;
        is_refused(&router, &gateway).context("a certificate in place of the key")?;
        router.stop();
    }
    Ok(())
}

#[test]
fn post_quantum_preshared_keys() -> Result<()> {
    let lines = || {
        let site = format!("ppk_id = \"clinic\"\nppk_file = {:?}\n", key_file(KEY)?);
        Ok((site, String::new()))
    };
    let (lab, gateway) = gateway(lines)?;
    for release in Release::BOTH {
        let connection = |key: &str| Connection {
            lines: "ppk_id = clinic\nppk_required = yes\n".to_owned(),
            secrets: format!("ppk-1 {{\nid-1 = clinic\nsecret = {key}\n}}\n"),
            ..usual(&lab)
        };
        let router = lab.start_router(SITE, release, &connection(KEY))?;
        works_whoever_begins(&gateway, &router).with_context(|| format!("{release:?}"))?;
        ensure!(
            router.log().contains("using PPK"),
            "strongSwan used no PPK:\n{}",
            router.log()
        );
        router.load(lab.pki(), &connection(OTHER_KEY))?;
        is_refused(&router, &gateway).context("another key")?;
        router.load(lab.pki(), &usual(&lab))?;
        is_refused(&router, &gateway).context("no key")?;
        router.stop();
    }
    Ok(())
}

/// RFC 6023: forced by the router, which refuses an IKE_AUTH with a Child SA; and by the gateway as initiator.
#[test]
fn childless_ike_sas() -> Result<()> {
    let (lab, gateway) = gateway(|| Ok((String::new(), "childless = true\n".to_owned())))?;
    for release in Release::BOTH {
        let connection = Connection {
            lines: "childless = force\n".to_owned(),
            ..usual(&lab)
        };
        let router = lab.start_router(SITE, release, &connection)?;
        works_whoever_begins(&gateway, &router).with_context(|| format!("{release:?}"))?;
        router.stop();
    }
    Ok(())
}

/// RFC 5685: a site that comes, and one that is here, are sent to another gateway, and go.
#[test]
fn a_drained_gateway_sends_sites_away() -> Result<()> {
    let (lab, gateway) = gateway(|| Ok((String::new(), String::new())))?;
    for release in Release::BOTH {
        let router = lab.start_router(SITE, release, &usual(&lab))?;
        router.initiate()?;
        center::fetch(SITE.terminal(), "/whoami")?;
        gateway.cli(&["drain", "--to", ELSEWHERE])?;
        let sent = |times: usize| {
            let log = router.log();
            (log.matches(&format!("redirected to {ELSEWHERE}")).count() >= times).then_some(())
        };
        wait(|| sent(1)).with_context(|| format!("{release:?}, established: {}", router.log()))?;
        ensure!(
            router.terminate().is_ok() || router.tunnel()?.is_none(),
            "the old tunnel does not end"
        );
        ensure!(
            router.initiate().is_err(),
            "served although the gateway is drained"
        );
        wait(|| sent(2)).with_context(|| format!("{release:?}, new: {}", router.log()))?;
        gateway.cli(&["drain", "--stop"])?;
        router.stop();
        let router = lab.start_router(SITE, release, &usual(&lab))?;
        router.initiate().context("served again")?;
        center::fetch(SITE.terminal(), "/whoami")?;
        router.stop();
    }
    Ok(())
}

fn wait(done: impl Fn() -> Option<()>) -> Result<()> {
    let deadline = Instant::now() + WAIT;
    while Instant::now() < deadline {
        if done().is_some() {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    anyhow::bail!("not within {} s", WAIT.as_secs())
}
