//! A gateway that comes back: what it took over, and what sites find as they left it.

use std::net::UdpSocket;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_tests::scene::Scene;
use xtask::cmd;
use xtask::lab::Lab;
use xtask::lab::center::fetch;
use xtask::lab::gateway::Config;
use xtask::lab::pki::Auth;
use xtask::lab::state;
use xtask::lab::topology::{GATEWAY_WAN6, Node, Options, Site};
use xtask::paths;

/// The address that the server sees of each site, over tunnels built now.
pub(crate) fn addresses(scene: &Scene) -> Result<[String; 2]> {
    let mut seen = [String::new(), String::new()];
    for (site, seen) in Site::BOTH.into_iter().zip(&mut seen) {
        scene
            .router(site)
            .initiate()
            .with_context(|| format!("the gateway's log:\n{}", scene.gateway.log()))?;
        *seen = fetch(site.terminal(), "/whoami")?;
    }
    Ok(seen)
}

/// Puts a new gateway in the place of one that ended, in the same lab. The routers forget their tunnels.
pub(crate) fn start_again(scene: Scene, config: &Config, kill: bool) -> Result<Scene> {
    let Scene {
        gateway,
        site1,
        site2,
        lab,
    } = scene;
    if kill {
        gateway.kill();
        site1.kill();
        site2.kill();
    } else {
        gateway.stop()?;
        site1.stop();
        site2.stop();
    }
    let gateway = lab.start_gateway(config)?;
    Ok(Scene {
        site1: lab.start_site(Site::One, config.auth)?,
        site2: lab.start_site(Site::Two, config.auth)?,
        gateway,
        lab,
    })
}

#[test]
fn after_a_crash_the_gateway_takes_over_and_tunnels_come_again() -> Result<()> {
    let config = Config::usual(Auth::Rsa);
    let scene = Scene::without_tunnels(Options::default(), &config)?;
    let before = addresses(&scene)?;
    let scene = start_again(scene, &config, true)?;
    ensure!(
        scene.gateway.logs("took over the link of an earlier run"),
        "no link was taken over:\n{}",
        scene.gateway.log()
    );
    ensure!(addresses(&scene)? == before);
    Ok(())
}

#[test]
fn sites_let_in_by_pattern_keep_their_addresses_over_a_restart() -> Result<()> {
    let config = Config {
        any_site: true,
        ..Config::usual(Auth::Ecdsa)
    };
    let scene = Scene::without_tunnels(Options::default(), &config)?;
    let before = addresses(&scene)?;
    ensure!(before[0] != before[1], "both sites are {}", before[0]);
    // The other order of arrival must not change who is who.
    let scene = start_again(scene, &config, false)?;
    for site in [Site::Two, Site::One] {
        scene.router(site).initiate()?;
    }
    for (site, address) in Site::BOTH.into_iter().zip(&before) {
        let now = fetch(site.terminal(), "/whoami")?;
        ensure!(now == *address, "{} was {address} and is {now}", site.name());
    }
    Ok(())
}

#[test]
fn a_crash_before_the_confirmation_falls_back() -> Result<()> {
    let config = Config::usual(Auth::Rsa);
    let scene = Scene::without_tunnels(Options::default(), &config)?;
    let file = xtask::lab::state::path("nothing-allowed.toml");
    std::fs::write(&file, "name = \"nothing\"\n")?;
    let name = file.display().to_string();
    scene.gateway.cli(&["rules", "load", &name, "--confirm", "600"])?;
    ensure!(scene.gateway.json(&["rules", "show"])?["active"]["name"] == "nothing");
    let scene = start_again(scene, &config, true)?;
    ensure!(scene.gateway.json(&["rules", "show"])?["active"]["name"] == "lab");
    ensure!(scene.gateway.logs("was not confirmed before the gateway stopped"));
    addresses(&scene).map(|_| ())
}

/// Regression: the gateway went on without the interface that had its name, for ever, and its other interfaces' addresses were
/// not read again.
#[test]
fn an_interface_that_is_made_anew_is_served_by_the_next_gateway() -> Result<()> {
    let config = Config::usual(Auth::Rsa);
    let scene = Scene::with_tunnels()?;
    let gateway = |line: &str| {
        let mut command = Node::Gateway.command("ip");
        cmd::output(command.args(line.split(' '))).map(|_| ())
    };
    gateway("link del wan6")?;
    ensure!(
        scene.gateway.logs("the interface is gone"),
        "{}",
        scene.gateway.log()
    );
    fetch(Site::One.terminal(), "/whoami").context("the other interfaces")?;
    let queues = "numtxqueues 1 numrxqueues 1";
    gateway(&format!(
        "link add wan6 {queues} type veth peer name other {queues}"
    ))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while scene.gateway.is_running() {
        ensure!(
            Instant::now() < deadline,
            "it goes on without wan6:\n{}",
            scene.gateway.log()
        );
        sleep(Duration::from_millis(50));
    }
    ensure!(
        scene.gateway.logs("interface `wan6` is another one now"),
        "{}",
        scene.gateway.log()
    );
    gateway(&format!("address add {GATEWAY_WAN6}/64 dev wan6 nodad"))?;
    for end in ["wan6", "other"] {
        gateway(&format!("link set {end} up"))?;
    }
    let scene = start_again(scene, &config, false)?;
    let attached = scene.gateway.json(&["status"])?["interfaces"].to_string();
    ensure!(attached.contains("wan6"), "{attached}");
    scene.router(Site::One).initiate()?;
    fetch(Site::One.terminal(), "/whoami").map(|_| ())
}

/// Regression: the packet path followed an address that came after the start, and IKE listened on those of the start alone:
/// nobody could connect to it before the gateway was started again.
#[test]
fn an_address_that_comes_after_the_start_can_be_connected_to() -> Result<()> {
    let config = Config::usual(Auth::Rsa);
    let lab = Lab::up(Options::default())?;
    let gateway = |line: &str| {
        let mut command = Node::Gateway.command("ip");
        cmd::output(command.args(line.split(' '))).map(|_| ())
    };
    let (at_start, later) = ("2001:db8:6::77/64", format!("{GATEWAY_WAN6}/64"));
    gateway(&format!("address add {at_start} dev wan6 nodad"))?;
    gateway(&format!("address del {later} dev wan6"))?;
    let daemon = lab.start_gateway(&config)?;
    let router = lab.start_site(Site::Two, config.auth)?;
    gateway(&format!("address add {later} dev wan6 nodad"))?;
    gateway(&format!("address del {at_start} dev wan6"))?;
    // The packet path looks every ten seconds.
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = router.initiate() {
        ensure!(Instant::now() < deadline, "{error:#}\n{}", daemon.log());
    }
    fetch(Site::Two.terminal(), "/whoami").map(|_| ())
}

/// Regression: the packet path knew one address of each family. Of two IPv6 addresses the kernel names the newer one first: IKE
/// to the one that a site was connected to was dropped as soon as there was another.
#[test]
fn a_further_address_takes_nothing_from_the_first_and_serves_as_well() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let further = "2001:db8:6::77";
    let mut command = Node::Gateway.command("ip");
    cmd::output(command.args(["address", "add", &format!("{further}/64"), "dev", "wan6", "nodad"]))?;
    // The packet path looks every ten seconds.
    sleep(Duration::from_secs(12));
    scene
        .router(Site::Two)
        .rekey_ike()
        .with_context(|| scene.gateway.log())?;
    fetch(Site::Two.terminal(), "/whoami")?;
    let dropped = scene.gateway.drops()?.get("outer_destination").copied();
    ensure!(dropped.unwrap_or_default() == 0, "{dropped:?}");
    // What is no IKE reaches IKE at either, and is counted there.
    let before = scene.dropped("ike_malformed")?;
    Site::Two.router().enter(|| {
        let socket = UdpSocket::bind("[::]:0")?;
        for address in [GATEWAY_WAN6, further] {
            socket.send_to(&[0x25; 200], (address, 500))?;
        }
        Ok(())
    })?;
    scene.expect_dropped("ike_malformed", before, 2)
}

/// A cable that is pulled and put back, on either side.
#[test]
fn a_link_that_was_down_carries_on_with_the_same_tunnels() -> Result<()> {
    let scene = Scene::with_tunnels()?;
    let spis = || -> Result<Vec<String>> {
        let list = scene.gateway.cli(&["sa", "list"])?;
        let lines = list.lines().filter(|line| line.contains("child#"));
        Ok(lines.map(str::to_owned).collect())
    };
    let before = spis()?;
    ensure!(before.len() == 2, "{before:?}");
    for interface in ["wan4", "core"] {
        for state in ["down", "up"] {
            let mut command = Node::Gateway.command("ip");
            cmd::output(command.args(["link", "set", interface, state]))?;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = fetch(Site::One.terminal(), "/whoami") {
            ensure!(
                Instant::now() < deadline,
                "{interface}: {error:#}\n{}",
                scene.gateway.log()
            );
        }
    }
    let after = spis()?;
    ensure!(after == before, "{before:?} became {after:?}");
    Ok(())
}

/// Whoever tries a configuration out beside the gateway that runs does not take its tunnels down.
#[test]
fn a_second_gateway_is_refused_and_leaves_the_first_one_alone() -> Result<()> {
    let _scene = Scene::with_tunnels()?;
    let text = std::fs::read_to_string(state::path("gateway.toml"))?;
    let text = text
        .replace("gateway-state", "second-state")
        .replace("gateway.sock", "second.sock");
    let file = state::path("second.toml");
    std::fs::write(&file, text)?;
    let program = paths::built_program("gateway")?.display().to_string();
    let mut command = Node::Gateway.command(&program);
    let second = command.args(["run", "--config"]).arg(&file).output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    for site in Site::BOTH {
        fetch(site.terminal(), "/whoami").with_context(|| format!("{}: {said}", site.name()))?;
    }
    ensure!(
        second.status.code() == Some(1) && said.contains("UDP ") && said.contains("in use"),
        "the second gateway: {}\n{said}",
        second.status
    );
    Ok(())
}
