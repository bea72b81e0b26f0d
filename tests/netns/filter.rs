//! What the rule set does not allow does not pass, and is counted under the rule that says so.

use anyhow::{Result, ensure};
use gateway_tests::scene::Scene;
use xtask::cmd;
use xtask::lab::center::{self, curl};
use xtask::lab::gateway::RULE_DENY;
use xtask::lab::topology::{FORBIDDEN_PORT, GATEWAY_CORE, SERVER, SERVER_PORT, SERVER_SECOND, Site};

#[test]
fn a_denied_port_is_dropped_by_its_rule() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for (number, site) in Site::BOTH.into_iter().enumerate() {
        let forbidden = format!("http://{SERVER}:{FORBIDDEN_PORT}/whoami");
        ensure!(
            cmd::output(&mut curl(site.terminal(), &forbidden, 2)).is_err(),
            "{} got through",
            site.name()
        );
        let hits = scene.gateway.rule_hits(RULE_DENY)?;
        ensure!(
            hits > number as u64,
            "{hits} hits of {RULE_DENY} after {} attempts",
            number + 1
        );
    }
    let requests = center::requests()?;
    ensure!(
        requests
            .iter()
            .all(|request| request.server_port != FORBIDDEN_PORT),
        "the server was asked: {requests:?}"
    );
    Ok(())
}

#[test]
fn what_no_rule_names_is_denied() -> Result<()> {
    let _scene = Scene::with_tunnels()?;
    let unnamed = format!("http://10.100.0.99:{SERVER_PORT}/");
    ensure!(cmd::output(&mut curl(Site::One.terminal(), &unnamed, 2)).is_err());
    // The gateway itself is no destination either.
    let ping = ["-c", "1", "-W", "1", GATEWAY_CORE];
    ensure!(cmd::output(Site::One.terminal().command("ping").args(ping)).is_err());
    Ok(())
}

#[test]
fn both_networks_of_the_center_are_in_reach_through_one_child_sa() -> Result<()> {
    let _scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        let second = format!("http://{SERVER_SECOND}:{SERVER_PORT}/page");
        let page = cmd::read(&mut curl(site.terminal(), &second, 10))?;
        ensure!(page.contains("Eligibility"), "{page}");
    }
    Ok(())
}

#[test]
fn a_ping_and_its_answer_pass() -> Result<()> {
    let _scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        cmd::output(
            site.terminal()
                .command("ping")
                .args(["-c", "3", "-i", "0.2", "-W", "2", SERVER]),
        )?;
    }
    Ok(())
}

#[test]
fn the_center_cannot_open_connections_to_a_site() -> Result<()> {
    use xtask::lab::gateway::SITE1_NAT_ADDRESS;
    use xtask::lab::topology::Node;
    let _scene = Scene::with_tunnels()?;
    let ping = ["-c", "2", "-i", "0.2", "-W", "1", SITE1_NAT_ADDRESS];
    ensure!(cmd::output(Node::Center.command("ping").args(ping)).is_err());
    Ok(())
}
