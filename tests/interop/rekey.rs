//! Replacing SAs from both ends, and taking them down.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gateway_tests::scene::Scene;
use xtask::lab::center;
use xtask::lab::gateway::Config;
use xtask::lab::pki::Auth;
use xtask::lab::strongswan::Tunnel;
use xtask::lab::topology::{Options, Site};

#[test]
fn the_site_rekeys_again_and_again() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        let router = scene.router(site);
        for _ in 0..3 {
            router.rekey_child()?;
            center::fetch(site.terminal(), "/whoami")?;
            router.rekey_ike()?;
            center::fetch(site.terminal(), "/whoami")?;
        }
    }
    Ok(())
}

#[test]
fn the_gateway_rekeys_child_sas_when_their_time_is_up() -> Result<()> {
    gateway_rekeys(
        Config {
            rekey_child_s: 4,
            ..Config::usual(Auth::Rsa)
        },
        |old, new| old.spi_in != new.spi_in,
    )
}

#[test]
fn the_gateway_rekeys_ike_sas_when_their_time_is_up() -> Result<()> {
    gateway_rekeys(
        Config {
            rekey_ike_s: 4,
            ..Config::usual(Auth::Rsa)
        },
        |old, new| old.ike_spis != new.ike_spis,
    )
}

fn gateway_rekeys(config: Config, replaced: impl Fn(&Tunnel, &Tunnel) -> bool) -> Result<()> {
    let scene = Scene::without_tunnels(Options::default(), &config)?;
    for site in Site::BOTH {
        let router = scene.router(site);
        let old = router.initiate()?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            center::fetch(site.terminal(), "/whoami").context("during a rekey")?;
            if router.tunnel()?.is_some_and(|new| replaced(&old, &new)) {
                break;
            }
            if Instant::now() > deadline {
                bail!("no rekey by the gateway; its log:\n{}", scene.gateway.log());
            }
            sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

#[test]
fn a_deleted_tunnel_is_gone_and_comes_again() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        let router = scene.router(site);
        let first = router.tunnel()?.context("no tunnel")?;
        router.terminate()?;
        ensure!(router.tunnel()?.is_none());
        let second = router.initiate()?;
        ensure!(first.spi_out != second.spi_out, "an SPI was used twice");
        center::fetch(site.terminal(), "/whoami")?;
    }
    Ok(())
}

#[test]
fn the_gateway_closes_a_tunnel_and_the_router_hears_of_it() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        scene.gateway.cli(&["sa", "close", "--site", site.name()])?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while scene.router(site).tunnel()?.is_some() {
            ensure!(Instant::now() < deadline, "{} still has its SA", site.name());
            sleep(Duration::from_millis(50));
        }
        scene.router(site).initiate()?;
        center::fetch(site.terminal(), "/whoami")?;
    }
    Ok(())
}
