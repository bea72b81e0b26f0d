//! Rule sets loaded into a running gateway.

use std::fs;

use anyhow::{Context, Result, ensure};
use gateway_tests::scene::Scene;
use xtask::cmd;
use xtask::lab::center::{curl, fetch, url};
use xtask::lab::state;
use xtask::lab::topology::Site;

fn generation(scene: &Scene) -> Result<u64> {
    let status = scene.gateway.json(&["status"])?;
    status["rules"]["generation"].as_u64().context("no generation")
}

/// Runs `gateway rules load` on a file with this text; answers whether it was taken, and what it printed.
fn load(scene: &Scene, text: &str) -> Result<(bool, String)> {
    let file = state::path("loaded.toml");
    fs::write(&file, text)?;
    let output = scene
        .gateway
        .try_cli(&["rules", "load", &file.display().to_string()])?;
    let printed = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    ))
}

#[test]
fn a_new_rule_set_decides_on_new_flows_at_once() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    fetch(Site::One.terminal(), "/whoami")?;
    let before = generation(&scene)?;
    let deny_site1 = format!(
        "[[rule]]\nname = \"not-site1\"\naction = \"deny\"\nsite = \"site1\"\n\n{}",
        xtask::lab::gateway::rules().replacen("name = \"lab\"\n", "", 1)
    );
    let (taken, printed) = load(&scene, &deny_site1)?;
    ensure!(taken, "{printed}");
    ensure!(generation(&scene)? == before + 1);
    let refused = cmd::output(&mut curl(Site::One.terminal(), &url("/whoami"), 2));
    ensure!(refused.is_err(), "site 1 got through");
    ensure!(scene.gateway.rule_hits("not-site1")? > 0);
    fetch(Site::Two.terminal(), "/whoami")?;
    Ok(())
}

#[test]
fn a_wrong_rule_set_changes_nothing_and_is_told_where() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let before = generation(&scene)?;
    let wrong = [
        ("[[rule]]\nname = \"a\"\naction = \"permit\"\n", "loaded.toml:3"),
        (
            "[[rule]]\nname = \"a\"\naction = \"allow\"\ngroups = \"nobody\"\n",
            "loaded.toml:4",
        ),
        (
            "[[rule]]\nname = \"a\"\naction = \"allow\"\ndestination = \"10.0.0.0/33\"\n",
            "loaded.toml:4",
        ),
        ("[[rule]\n", "loaded.toml:1"),
    ];
    for (text, place) in wrong {
        let (taken, printed) = load(&scene, text)?;
        ensure!(!taken, "it was taken: {text}");
        ensure!(printed.contains(place), "no {place} in: {printed}");
        ensure!(generation(&scene)? == before, "the generation moved");
        fetch(Site::One.terminal(), "/whoami")?;
    }
    Ok(())
}
