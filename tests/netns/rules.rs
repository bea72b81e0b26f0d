//! Rule sets loaded into a running gateway.

use std::fs;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_tests::scene::Scene;
use serde_json::json;
use xtask::cmd;
use xtask::lab::center::{curl, fetch, url};
use xtask::lab::state;
use xtask::lab::topology::Site;

fn generation(scene: &Scene) -> Result<u64> {
    let status = scene.gateway.json(&["status"])?;
    status["rules"]["generation"].as_u64().context("no generation")
}

/// Runs `gateway rules load` on a file with this text; answers whether it was taken, and what it printed.
pub(crate) fn load(scene: &Scene, text: &str) -> Result<(bool, String)> {
    load_with(scene, text, &[])
}

fn load_with(scene: &Scene, text: &str, options: &[&str]) -> Result<(bool, String)> {
    let file = state::path("loaded.toml");
    fs::write(&file, text)?;
    let name = file.display().to_string();
    let output = scene
        .gateway
        .try_cli(&[&["rules", "load", &name], options].concat())?;
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

/// The lab's rules behind one that denies site 1.
pub(crate) fn without_site1() -> String {
    format!(
        "[[rule]]\nname = \"not-site1\"\naction = \"deny\"\nsite = \"site1\"\n\n{}",
        xtask::lab::gateway::rules().replacen("name = \"lab\"\n", "", 1)
    )
}

/// Entry of the history at this place from its end.
fn entry(scene: &Scene, from_end: usize) -> Result<serde_json::Value> {
    let history = scene.gateway.json(&["rules", "history"])?;
    let entries = history.as_array().context("a list")?;
    entries.iter().rev().nth(from_end).cloned().context("an entry")
}

#[test]
fn an_unconfirmed_rule_set_falls_back_by_itself_and_a_confirmed_one_stays() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let before = generation(&scene)?;
    let (taken, printed) = load_with(
        &scene,
        &without_site1(),
        &["--confirm", "8", "--author", "Change 4711"],
    )?;
    ensure!(taken && printed.contains("falls back in 8 s"), "{printed}");
    let loaded = entry(&scene, 0)?;
    ensure!(
        loaded["author"]["name"] == "Change 4711" && loaded["author"]["uid"] == 0,
        "{loaded}"
    );
    ensure!(
        cmd::output(&mut curl(Site::One.terminal(), &url("/whoami"), 1)).is_err(),
        "site 1 got through"
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    while generation(&scene)? != before + 2 {
        ensure!(
            Instant::now() < deadline,
            "it did not fall back:\n{}",
            scene.gateway.log()
        );
        sleep(Duration::from_millis(100));
    }
    ensure!(entry(&scene, 0)?["origin"] == json!({ "fell_back": before + 1 }));
    fetch(Site::One.terminal(), "/whoami")?;
    ensure!(
        !scene.gateway.try_cli(&["rules", "confirm"])?.status.success(),
        "nothing waits"
    );

    let (taken, printed) = load_with(&scene, &without_site1(), &["--confirm", "10"])?;
    ensure!(taken, "{printed}");
    scene.gateway.cli(&["rules", "confirm"])?;
    sleep(Duration::from_secs(12));
    ensure!(generation(&scene)? == before + 3, "a confirmed set fell back");
    scene.gateway.cli(&["rules", "rollback"])?;
    ensure!(entry(&scene, 0)?["origin"] == json!({ "rolled_back": before + 2 }));
    fetch(Site::One.terminal(), "/whoami").map(|_| ())
}

#[test]
fn running_flows_end_when_the_new_rules_do_not_allow_them_and_that_was_asked_for() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    fetch(Site::One.terminal(), "/whoami")?;
    let flows = |scene: &Scene| -> Result<u64> {
        let view = scene.gateway.json(&["flows", "list", "--site", "site1"])?;
        view["total"].as_u64().context("a total")
    };
    ensure!(flows(&scene)? > 0, "no flow to begin with");
    ensure!(
        load(&scene, &without_site1())?.0 && flows(&scene)? > 0,
        "a flow ended that nobody asked about"
    );
    let (taken, printed) = load_with(&scene, &without_site1(), &["--rejudge"])?;
    ensure!(taken && printed.contains("running flows ended"), "{printed}");
    ensure!(flows(&scene)? == 0, "flows of site 1 go on");
    Ok(())
}
