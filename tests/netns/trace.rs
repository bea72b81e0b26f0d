//! `gateway trace`: a request of site 1 is followed from its ESP packet to the server and back.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_tests::scene::Scene;
use serde_json::Value;
use xtask::cmd;
use xtask::lab::center::{curl, fetch};
use xtask::lab::gateway::{RULE_DENY, RULE_WEB};
use xtask::lab::topology::{FORBIDDEN_PORT, SERVER, Site};

/// Seconds of a trace: longer than what it is to show.
const SECONDS: &str = "6";

/// Traces site 1 with these filters while `traffic` runs.
pub(crate) fn trace(scene: &Scene, filters: &[&str], traffic: impl Fn() -> Result<()>) -> Result<Vec<Value>> {
    let arguments = [
        &[
            "trace",
            "--site",
            Site::One.name(),
            "--seconds",
            SECONDS,
            "--json",
        ],
        filters,
    ]
    .concat();
    // It says in the log that it has begun, as those before it did.
    let says = format!("trace {} for {SECONDS} s by ", Site::One.name());
    let begun = || scene.gateway.log().matches(&says).count();
    let before = begun();
    let output = thread::scope(|scope| -> Result<_> {
        let tracing = scope.spawn(|| scene.gateway.try_cli(&arguments));
        let deadline = Instant::now() + Duration::from_secs(30);
        while begun() == before {
            ensure!(Instant::now() < deadline, "the trace does not begin");
            thread::sleep(Duration::from_millis(20));
        }
        traffic()?;
        tracing.join().ok().context("the trace panicked")?
    })?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn packets(lines: &[Value]) -> impl Iterator<Item = &Value> {
    lines.iter().filter(|line| line["line"] == "packet")
}

#[test]
fn a_request_is_followed_through_every_place() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let lines = trace(&scene, &[], || {
        fetch(Site::One.terminal(), "/whoami")?;
        fetch(Site::Two.terminal(), "/whoami").map(|_| ())
    })?;
    let end = lines.last().context("no line")?;
    ensure!(
        end["line"] == "end" && end["why"] == "time" && end["lost"] == 0,
        "{end}"
    );
    for (point, what) in [
        ("wan", "wan_esp"),
        ("worker_in", "opened"),
        ("clear", "clear_judge"),
        ("clear_judge", "clear_map"),
        ("clear_map", "clear_add"),
        ("clear_add", "clear"),
        ("clear", "clear_forwarded"),
        ("core", "core_forwarded"),
        ("worker_out", "sealed"),
    ] {
        let is_there = packets(&lines).any(|packet| packet["point"] == point && packet["what"] == what);
        ensure!(is_there, "no packet at {point} with {what}:\n{lines:#?}");
    }
    let of_site2 = packets(&lines).find(|packet| packet["site"] != Site::One.name());
    ensure!(of_site2.is_none(), "{of_site2:?}");
    let answer = packets(&lines).find(|packet| packet["point"] == "core" && packet["tcp"] == "SYN,ACK");
    let answer = answer.context("no answer")?;
    ensure!(
        answer["rule"] == RULE_WEB && answer["state"] == "syn-received" && answer["nat"].is_string(),
        "{answer}"
    );
    Ok(())
}

#[test]
fn what_a_rule_denies_is_shown_with_the_rule() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let port = FORBIDDEN_PORT.to_string();
    let lines = trace(
        &scene,
        &["--proto", "tcp", "--port", &port, "--count", "2"],
        || {
            fetch(Site::One.terminal(), "/whoami")?;
            let forbidden = format!("http://{SERVER}:{FORBIDDEN_PORT}/whoami");
            ensure!(cmd::output(&mut curl(Site::One.terminal(), &forbidden, 2)).is_err());
            Ok(())
        },
    )?;
    let told: Vec<_> = packets(&lines)
        .map(|packet| {
            (
                packet["point"].as_str(),
                packet["what"].as_str(),
                packet["rule"].as_str(),
            )
        })
        .collect();
    let last = told.last().context("nothing told")?;
    ensure!(told.len() == 2, "{told:?}");
    ensure!(
        packets(&lines).all(|packet| packet["destination"] == format!("{SERVER}:{FORBIDDEN_PORT}")),
        "{lines:?}"
    );
    // Opened by the worker, then looked up; what comes third is the verdict.
    ensure!(last.0 == Some("clear"), "{told:?}");
    let lines = trace(&scene, &["--port", &port], || {
        let forbidden = format!("http://{SERVER}:{FORBIDDEN_PORT}/whoami");
        ensure!(cmd::output(&mut curl(Site::One.terminal(), &forbidden, 2)).is_err());
        Ok(())
    })?;
    let denied = packets(&lines).find(|packet| packet["outcome"] == "dropped");
    let denied = denied.context("no drop")?;
    ensure!(
        denied["what"] == "rule_denied" && denied["rule"] == RULE_DENY && denied["point"] == "clear_judge",
        "{denied}"
    );
    Ok(())
}
