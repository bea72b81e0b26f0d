//! When there is no SA or no daemon, nothing passes in clear, in either direction. Judged by taps on both far ends.

use std::net::UdpSocket;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use gateway_tests::scene::Scene;
use xtask::cmd;
use xtask::lab::center::{curl, fetch, url};
use xtask::lab::gateway::{Config, SITE1_NAT_ADDRESS};
use xtask::lab::pki::Auth;
use xtask::lab::tap::{Outer, Tap};
use xtask::lab::topology::{GATEWAY_CORE, Node, Options, SERVER_PORT, Site, TERMINAL};

const WORDS: &[u8] = b"a secret in clear";

/// Taps where anything that leaks would arrive.
pub(crate) struct Watch {
    center: Tap,
    routers: [Tap; 2],
}

impl Watch {
    pub(crate) fn open() -> Result<Self> {
        let routers = [Tap::open(Node::Site1, "wan")?, Tap::open(Node::Site2, "wan")?];
        Ok(Self {
            center: Tap::open(Node::Center, "eth0")?,
            routers,
        })
    }

    /// Frames that came through the gateway and should not have: at the center any but the gateway's own, at a router
    /// those with an inner address or with the words that [`try_to_talk`] sends.
    pub(crate) fn leaks(&self) -> Result<Vec<Vec<u8>>> {
        let own = |outer: Outer<'_>| {
            outer
                .ip4_addresses()
                .is_some_and(|[from, _]| from.to_string() == GATEWAY_CORE)
        };
        let passed =
            |frame: &[u8]| Outer::parse(frame).is_some_and(|outer| outer.version == 4 && !own(outer));
        let words = |frame: &[u8]| frame.windows(WORDS.len()).any(|window| window == WORDS);
        let clear = |frame: &[u8]| Outer::parse(frame).is_some_and(|outer| outer.is_clear()) || words(frame);
        let mut leaks = arrived(&self.center, passed)?;
        for router in &self.routers {
            leaks.extend(arrived(router, clear)?);
        }
        Ok(leaks)
    }
}

fn arrived(tap: &Tap, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
    let here = tap.address();
    let frames = tap.frames()?.into_iter();
    Ok(frames
        .filter(|frame| frame.get(..6) == Some(&here) && wanted(frame))
        .collect())
}

/// Both ends try to reach each other by every address they know.
pub(crate) fn try_to_talk() -> Result<()> {
    for site in Site::BOTH {
        ensure!(
            cmd::output(&mut curl(site.terminal(), &url("/whoami"), 2)).is_err(),
            "{} got through",
            site.name()
        );
    }
    Node::Center.enter(|| {
        let socket = UdpSocket::bind(("0.0.0.0", SERVER_PORT))?;
        for address in [SITE1_NAT_ADDRESS, "10.200.0.1", "10.200.0.2", TERMINAL] {
            for _ in 0..10 {
                let _unreachable = socket.send_to(WORDS, (address, 40_000));
            }
        }
        Ok(())
    })?;
    sleep(Duration::from_millis(500));
    Ok(())
}

#[test]
fn a_leak_would_be_seen() -> Result<()> {
    // The taps must see what the tests below say is absent.
    let _scene = Scene::with_tunnels()?;
    let watch = Watch::open()?;
    fetch(Site::One.terminal(), "/whoami")?;
    ensure!(
        !arrived(&watch.center, |_| true)?.is_empty(),
        "the center's tap saw nothing of a request"
    );
    let esp = |frame: &[u8]| Outer::parse(frame).is_some_and(|outer| outer.esp_at().is_some());
    ensure!(
        !arrived(&watch.routers[0], esp)?.is_empty(),
        "the router's tap saw no ESP of an answer"
    );
    Ok(())
}

#[test]
fn without_an_sa_nothing_passes() -> Result<()> {
    let scene = Scene::without_tunnels(Options::default(), &Config::usual(Auth::Rsa))?;
    let watch = Watch::open()?;
    try_to_talk()?;
    let leaks = watch.leaks()?;
    ensure!(
        leaks.is_empty(),
        "{} frames leaked, the first: {:02x?}",
        leaks.len(),
        leaks.first()
    );
    ensure!(scene.gateway.is_running());
    Ok(())
}

#[test]
fn after_an_sa_is_deleted_nothing_passes() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    for site in Site::BOTH {
        fetch(site.terminal(), "/whoami")?;
        scene.router(site).terminate()?;
    }
    let watch = Watch::open()?;
    try_to_talk()?;
    let leaks = watch.leaks()?;
    ensure!(
        leaks.is_empty(),
        "{} frames leaked, the first: {:02x?}",
        leaks.len(),
        leaks.first()
    );
    Ok(())
}

/// A container engine that starts turns forwarding on for every interface. Once the programs are detached, what the center
/// sends to sites would go out in clear by the way to the Internet.
#[test]
fn forwarding_that_somebody_turned_on_is_off_when_the_daemon_has_stopped() -> Result<()> {
    let Scene {
        gateway,
        site1: _site1,
        site2: _site2,
        lab: _lab,
    } = Scene::with_tunnels()?;
    let setting = |name: &str| format!("/proc/sys/net/ipv4/conf/{name}/forwarding");
    let on = || Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?);
    let is_off = || {
        let mut values = ["wan4", "wan6", "core"]
            .into_iter()
            .map(|name| std::fs::read_to_string(setting(name)));
        Ok(values.all(|value| value.is_ok_and(|value| value.trim() == "0")))
    };
    Node::Gateway.enter(on)?;
    ensure!(!Node::Gateway.enter(is_off)?, "forwarding cannot be turned on");
    gateway.stop()?;
    ensure!(Node::Gateway.enter(is_off)?, "the kernel forwards");
    Ok(())
}

#[test]
fn after_the_daemon_is_killed_nothing_passes() -> Result<()> {
    let Scene {
        gateway,
        site1: _site1,
        site2: _site2,
        lab: _lab,
    } = Scene::with_tunnels()?;
    for site in Site::BOTH {
        fetch(site.terminal(), "/whoami")?;
    }
    gateway.kill();
    let watch = Watch::open()?;
    try_to_talk()?;
    let leaks = watch.leaks()?;
    ensure!(
        leaks.is_empty(),
        "{} frames leaked, the first: {:02x?}",
        leaks.len(),
        leaks.first()
    );
    Ok(())
}
