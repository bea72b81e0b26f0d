//! What must hold whichever engine forwards: each test runs with `engine = "xdp"` and with `engine = "direct"`. The other
//! tests run with the engine that GATEWAY_LAB_ENGINE names.

use std::net::UdpSocket;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gateway_tests::scene::Scene;
use gateway_tests::transfer::{Direction, Transfer};
use xtask::cmd;
use xtask::lab::center::{curl, fetch, url};
use xtask::lab::gateway::{BENCH_PORT, Config, Engine};
use xtask::lab::pki::Auth;
use xtask::lab::topology::{Node, Options, SERVER, Site, TERMINAL};
use xtask::traffic;

use super::fail_closed::{Watch, try_to_talk};
use super::restart::{addresses, start_again};
use super::rules::{load, without_site1};
use super::trace::trace;

/// 10 MB take some five seconds.
const SLOW: Option<u32> = Some(2_000_000);

fn config(engine: Engine) -> Config {
    Config {
        engine,
        ..Config::usual(Auth::Rsa)
    }
}

/// A scene with both tunnels, over interfaces with so many queues.
fn scene(engine: Engine, queues: u32) -> Result<Scene> {
    let options = Options {
        queues,
        ..Options::default()
    };
    let scene = Scene::without_tunnels(options, &config(engine))?;
    for site in Site::BOTH {
        scene.router(site).initiate()?;
    }
    let status = scene.gateway.json(&["status"])?;
    ensure!(status["engine"] == engine.name(), "{status}");
    Ok(scene)
}

/// Packets that went from sites to the center, and those of them that workers sent.
fn forwarded(scene: &Scene) -> Result<(u64, u64)> {
    let status = scene.gateway.json(&["status"])?;
    let paths = status["paths"].as_array().context("paths")?;
    let path = paths.iter().find(|path| path["path"] == "clear_forwarded");
    let all = path.and_then(|path| path["packets"].as_u64());
    let directly = status["forwarded_directly"].as_u64();
    Ok((all.context("the path")?, directly.context("a count")?))
}

/// Whether as many packets were sent by workers as there should be, out of `all` since `before`.
fn expect_engine(scene: &Scene, engine: Engine, before: (u64, u64)) -> Result<()> {
    let now = forwarded(scene)?;
    let (all, directly) = (now.0 - before.0, now.1 - before.1);
    let fits = match engine {
        Engine::Xdp => directly == 0,
        // A flow begins in the programs and stays there for a second at most.
        Engine::Direct => directly > all / 2 && directly < all,
    };
    ensure!(
        fits && all > 100,
        "{}: {directly} of {all} packets",
        engine.name()
    );
    Ok(())
}

#[test]
fn traffic_goes_both_ways() -> Result<()> {
    for (engine, queues) in [(Engine::Xdp, 1), (Engine::Direct, 1), (Engine::Direct, 2)] {
        let scene = scene(engine, queues)?;
        let before = forwarded(&scene)?;
        for site in Site::BOTH {
            // Fast ones last too short a time for a flow to change over in.
            Transfer::start(site.terminal(), Direction::Upload, SLOW)?.finish()?;
            Transfer::start(site.terminal(), Direction::Download, None)?.finish()?;
        }
        expect_engine(&scene, engine, before)?;
    }
    Ok(())
}

/// The counters of both engines together have each packet once, and nothing is lost: datagrams at a rate that any machine
/// carries arrive, in order, whether the programs or workers sent them.
#[test]
fn each_datagram_arrives_once_and_in_order() -> Result<()> {
    for engine in Engine::BOTH {
        let scene = scene(engine, 1)?;
        let terminal = traffic::bind(Site::One.terminal(), TERMINAL, 0)?;
        let server = traffic::bind(Node::Center, SERVER, BENCH_PORT)?;
        // All of them wait there if this thread does not come to run.
        traffic::keep_many(&server)?;
        terminal.connect((SERVER, BENCH_PORT))?;
        let before = forwarded(&scene)?;
        const COUNT: u32 = 6000;
        let sender = std::thread::spawn(move || -> Result<UdpSocket> {
            for number in 0..COUNT {
                terminal.send(&number.to_be_bytes())?;
                // A gap now and then, for the flow to change over in.
                let pause_us = if number.is_multiple_of(500) { 20_000 } else { 300 };
                sleep(Duration::from_micros(pause_us));
            }
            Ok(terminal)
        });
        server.set_read_timeout(Some(Duration::from_secs(10)))?;
        for number in 0..COUNT {
            let mut datagram = [0; 64];
            let (length, _) = server
                .recv_from(&mut datagram)
                .with_context(|| format!("{}: datagram {number}", engine.name()))?;
            ensure!(
                datagram.get(..length) == Some(&number.to_be_bytes()),
                "{}: {:02x?} came, not {number}",
                engine.name(),
                datagram.get(..length)
            );
        }
        let socket = sender
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        drop(socket);
        ensure!(forwarded(&scene)?.0 - before.0 == u64::from(COUNT));
        expect_engine(&scene, engine, before)?;
    }
    Ok(())
}

/// Rules that are loaded decide on new flows at once, while a flow that is known goes on.
#[test]
fn rules_are_loaded_under_traffic() -> Result<()> {
    for engine in Engine::BOTH {
        let scene = scene(engine, 1)?;
        let transfer = Transfer::start(Site::One.terminal(), Direction::Upload, SLOW)?;
        sleep(Duration::from_secs(1));
        let (taken, printed) = load(&scene, &without_site1())?;
        ensure!(taken, "{printed}");
        let refused = cmd::output(&mut curl(Site::One.terminal(), &url("/whoami"), 2));
        ensure!(refused.is_err(), "{}: site 1 got through", engine.name());
        fetch(Site::Two.terminal(), "/whoami")?;
        transfer.finish()?;
    }
    Ok(())
}

/// A rule set that ends running flows ends those that workers forward as well.
#[test]
fn a_flow_that_is_ended_passes_no_further_packet() -> Result<()> {
    for engine in Engine::BOTH {
        let scene = scene(engine, 1)?;
        let terminal = traffic::bind(Site::One.terminal(), TERMINAL, 0)?;
        let server = traffic::bind(Node::Center, SERVER, BENCH_PORT)?;
        terminal.connect((SERVER, BENCH_PORT))?;
        terminal.send(b"first")?;
        traffic::first_sender(&server, Duration::from_secs(3))?;
        sleep(Duration::from_millis(300));
        terminal.send(b"second")?;
        traffic::first_sender(&server, Duration::from_secs(3))?;
        let file = xtask::lab::state::path("loaded.toml");
        std::fs::write(&file, without_site1())?;
        let name = file.display().to_string();
        scene.gateway.cli(&["rules", "load", &name, "--rejudge"])?;
        let denied = scene.gateway.rule_hits("not-site1")?;
        terminal.send(b"third")?;
        ensure!(
            traffic::first_sender(&server, Duration::from_secs(1)).is_err(),
            "{}: it passed",
            engine.name()
        );
        ensure!(scene.gateway.rule_hits("not-site1")? == denied + 1);
    }
    Ok(())
}

/// While a site is traced, its packets are seen at every place, and they are forwarded by the programs.
#[test]
fn a_traced_packet_is_seen_in_the_programs() -> Result<()> {
    let scene = scene(Engine::Direct, 1)?;
    let before = forwarded(&scene)?;
    trace(&scene, &[], || {
        (0..40).try_for_each(|_| fetch(Site::One.terminal(), "/whoami").map(drop))
    })?;
    let (all, directly) = forwarded(&scene)?;
    ensure!(
        directly == before.1 && all > before.0 + 100,
        "{directly} packets were sent by workers"
    );
    Ok(())
}

#[test]
fn after_a_crash_tunnels_come_again_by_either_engine() -> Result<()> {
    let scene = Scene::without_tunnels(Options::default(), &config(Engine::Xdp))?;
    let before = addresses(&scene)?;
    let scene = start_again(scene, &config(Engine::Direct), true)?;
    ensure!(addresses(&scene)? == before);
    let scene = start_again(scene, &config(Engine::Xdp), true)?;
    ensure!(addresses(&scene)? == before);
    Ok(())
}

/// Judged by taps on both far ends, while flows are known that workers forward.
#[test]
fn after_an_sa_is_deleted_and_after_a_kill_nothing_passes() -> Result<()> {
    for engine in Engine::BOTH {
        let scene = scene(engine, 1)?;
        for site in Site::BOTH {
            Transfer::start(site.terminal(), Direction::Upload, None)?.finish()?;
        }
        scene.router(Site::One).terminate()?;
        let refused = cmd::output(&mut curl(Site::One.terminal(), &url("/whoami"), 2));
        ensure!(refused.is_err(), "{}: no SA, and it passed", engine.name());
        fetch(Site::Two.terminal(), "/whoami")?;
        let Scene {
            gateway,
            site1: _site1,
            site2: _site2,
            lab: _lab,
        } = scene;
        gateway.kill();
        let watch = Watch::open()?;
        try_to_talk()?;
        let leaks = watch.leaks()?;
        ensure!(
            leaks.is_empty(),
            "{}: {} frames leaked, the first: {:02x?}",
            engine.name(),
            leaks.len(),
            leaks.first()
        );
    }
    Ok(())
}
