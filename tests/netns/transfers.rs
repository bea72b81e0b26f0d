//! What goes in comes out: 10 MB each way through each tunnel, also while SAs are replaced under it.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests::scene::Scene;
use gateway_tests::transfer::{Direction, Transfer};
use xtask::lab::center;
use xtask::lab::gateway::{Config, SITE1_NAT_ADDRESS};
use xtask::lab::pki::Auth;
use xtask::lab::topology::{Options, Site};

/// On a busy machine curl now and then does not keep to its limit, and a transfer ends early.
const ATTEMPTS: u32 = 5;
/// Makes 10 MB take seven seconds.
const SLOW: Option<u32> = Some(1_500_000);

#[test]
fn transfers_arrive_whole_through_each_tunnel() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        for direction in Direction::BOTH {
            Transfer::start(site.terminal(), direction, None)?.finish()?;
        }
    }
    ensure!(scene.gateway.is_running());
    Ok(())
}

#[test]
fn transfers_arrive_whole_over_two_queues() -> Result<()> {
    let options = Options {
        queues: 2,
        ..Options::default()
    };
    let scene = Scene::without_tunnels(options, &Config::usual(Auth::Rsa))?;
    let status = scene.gateway.json(&["status"])?;
    ensure!(status["workers"] == 2, "not two workers: {status}");
    for site in Site::BOTH {
        scene.router(site).initiate()?;
        for direction in Direction::BOTH {
            Transfer::start(site.terminal(), direction, None)?.finish()?;
        }
    }
    Ok(())
}

#[test]
fn both_sites_at_once_do_not_mix() -> Result<()> {
    let _scene = Scene::with_tunnels()?;
    let mut transfers = Vec::new();
    for site in Site::BOTH {
        for direction in Direction::BOTH {
            transfers.push(Transfer::start(site.terminal(), direction, None)?);
        }
    }
    transfers.into_iter().try_for_each(Transfer::finish)
}

#[test]
fn transfers_survive_a_child_sa_rekey() -> Result<()> {
    across(|scene, site| scene.router(site).rekey_child().map(drop))
}

#[test]
fn transfers_survive_an_ike_sa_rekey() -> Result<()> {
    across(|scene, site| scene.router(site).rekey_ike().map(drop))
}

#[test]
fn transfers_survive_a_child_sa_rekey_by_the_gateway() -> Result<()> {
    across(|scene, site| scene.rekey_by_gateway(site, false))
}

#[test]
fn transfers_survive_an_ike_sa_rekey_by_the_gateway() -> Result<()> {
    across(|scene, site| scene.rekey_by_gateway(site, true))
}

#[test]
fn equal_terminals_are_different_addresses_to_the_server() -> Result<()> {
    let _scene = Scene::with_tunnels()?;
    let seen = Site::BOTH.map(|site| center::fetch(site.terminal(), "/whoami"));
    let [one, two] = seen;
    assert_eq!(one?.trim(), SITE1_NAT_ADDRESS);
    let two = two?;
    ensure!(
        two.starts_with("10.200.0."),
        "site 2's address is not from its pool: {two}"
    );
    Ok(())
}

fn across(rekey: impl Fn(&Scene, Site) -> Result<()>) -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        for direction in Direction::BOTH {
            let mut attempts = 1..=ATTEMPTS;
            while !rekeyed_midway(&scene, site, direction, &rekey)
                .with_context(|| format!("the gateway's log:\n{}", scene.gateway.log()))?
            {
                ensure!(
                    attempts.next().is_some(),
                    "{} {direction:?}: {ATTEMPTS} transfers ended before the rekey did: nothing was tested",
                    site.name()
                );
            }
        }
    }
    Ok(())
}

/// Whether the transfer was still under way when the rekey was done; it must arrive whole in any case.
fn rekeyed_midway(
    scene: &Scene,
    site: Site,
    direction: Direction,
    rekey: &impl Fn(&Scene, Site) -> Result<()>,
) -> Result<bool> {
    let mut transfer = Transfer::start(site.terminal(), direction, SLOW)?;
    sleep(Duration::from_millis(1500));
    rekey(scene, site)?;
    let midway = transfer.is_running()?;
    transfer.finish()?;
    Ok(midway)
}
