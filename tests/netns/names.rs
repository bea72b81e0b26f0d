//! Internet sites by name (the map is in `xtask/src/lab/topology.rs`, with `internet`): what one site's group may reach, and
//! for how long; what nobody may.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use gateway_tests::scene::Scene;
use serde_json::Value;
use xtask::cmd;
use xtask::lab::center::curl;
use xtask::lab::gateway::{Config, SITE1_NAT_ADDRESS};
use xtask::lab::internet::{
    NAME_ALIAS, NAME_BIG, NAME_BRIEF, NAME_INSIDE, NAME_OTHER, NAME_UPDATE, UPDATE_TTL_S, ask, questions,
};
use xtask::lab::pki::Auth;
use xtask::lab::topology::{DNS_PROXY, Node, Options, SITE_OTHER_WEB, SITE_UPDATE, Site, UPDATE_PORT};

const NOERROR: u8 = 0;
const REFUSED: u8 = 5;

/// Every site may ask the proxy; only those of a group may reach the names.
fn rules() -> String {
    format!(
        "{}\n\
         [[address]]\nname = \"av-updates\"\nfqdn = \"*.av.example\"\n\n\
         [[site_group]]\nname = \"internet-option\"\nsites = \"site1\"\n\n\
         [[rule]]\nname = \"dns\"\naction = \"allow\"\ndestination = \"{DNS_PROXY}\"\nprotocol = [\"tcp\", \"udp\"]\n\
         destination_ports = 53\n\n\
         [[rule]]\nname = \"updates\"\naction = \"allow\"\ndirection = \"site-to-internet\"\n\
         groups = \"internet-option\"\ndestination = \"av-updates\"\nprotocol = \"tcp\"\n\
         destination_ports = {UPDATE_PORT}\n",
        xtask::lab::gateway::rules()
    )
}

fn config() -> Config {
    Config {
        internet: true,
        rules: rules(),
        ..Config::usual(Auth::Rsa)
    }
}

fn scene() -> Result<Scene> {
    let options = Options {
        internet: true,
        ..Options::default()
    };
    let scene = Scene::without_tunnels(options, &config())?;
    for site in Site::BOTH {
        let log = || {
            format!(
                "{}: no tunnel; the gateway's log:\n{}",
                site.name(),
                scene.gateway.log()
            )
        };
        scene.router(site).initiate().with_context(log)?;
    }
    Ok(scene)
}

/// A terminal fetches by an address that it has for a name.
fn fetch(terminal: Node, address: &str, limit_s: u32) -> Command {
    curl(
        terminal,
        &format!("http://{address}:{UPDATE_PORT}/whoami"),
        limit_s,
    )
}

fn is_refused(terminal: Node, address: &str) -> bool {
    cmd::output(&mut fetch(terminal, address, 2)).is_err()
}

fn open_names(scene: &Scene) -> Result<Vec<Value>> {
    let view = scene.gateway.json(&["dns", "list"])?;
    Ok(view["names"].as_array().context("no names")?.clone())
}

/// What the gateway knows, for a test that fails.
fn state(scene: &Scene) -> String {
    let verbs: [&[&str]; 4] = [
        &["dns", "list"],
        &["drops"],
        &["flows", "list"],
        &["events", "--last", "5"],
    ];
    let said = verbs.map(|verb| {
        scene
            .gateway
            .cli(verb)
            .unwrap_or_else(|error| format!("{error:#}"))
    });
    format!("{}\n{}", said.join("\n"), scene.gateway.log())
}

/// A connection that is opened now and used for a request when its standard input is closed.
fn connection(terminal: Node) -> Result<Child> {
    let script = format!(
        "import socket, sys\n\
         s = socket.create_connection(('{SITE_UPDATE}', {UPDATE_PORT}), timeout=5)\n\
         print('open', flush=True)\n\
         sys.stdin.read()\n\
         s.sendall(b'GET /whoami HTTP/1.0\\r\\n\\r\\n')\n\
         while part := s.recv(4096):\n    print(part.decode())\n"
    );
    let mut command = terminal.command("/usr/bin/python3");
    command
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Ok(command.spawn()?)
}

#[test]
fn a_name_opens_its_address_to_the_group_that_may_reach_it() -> Result<()> {
    let scene = scene()?;
    let (site1, site2) = (Site::One.terminal(), Site::Two.terminal());
    // Nobody has asked: the address alone opens nothing.
    ensure!(is_refused(site1, SITE_UPDATE), "an address without a name");
    let told = ask(site1, DNS_PROXY, NAME_UPDATE, "A", false)?;
    ensure!(
        (told.code, told.addresses.as_slice()) == (NOERROR, [SITE_UPDATE.to_owned()].as_slice()),
        "{told:?}; the gateway's log:\n{}",
        scene.gateway.log()
    );
    ensure!(told.ttls == [UPDATE_TTL_S], "{told:?}");
    // It is open before the answer leaves, so the first connection gets through.
    let seen = cmd::read(&mut fetch(site1, SITE_UPDATE, 3))?;
    ensure!(seen.trim() == SITE1_NAT_ADDRESS, "the server saw {seen}");
    let listed = open_names(&scene)?;
    let is_there = |open: &&Value| open["name"] == NAME_UPDATE && open["address"] == SITE_UPDATE;
    let open = listed
        .iter()
        .find(is_there)
        .with_context(|| format!("{listed:?}"))?;
    ensure!(
        open["set"] == "av-updates" && open["rules"] == serde_json::json!(["updates"]),
        "{open}"
    );
    // Another address beside it, and another site at the same address.
    ensure!(is_refused(site1, SITE_OTHER_WEB), "an address of no name");
    ask(site1, DNS_PROXY, NAME_UPDATE, "A", false)?;
    ensure!(is_refused(site2, SITE_UPDATE), "a site without the option");
    ensure!(!open_names(&scene)?.is_empty(), "it was open all the time");
    Ok(())
}

#[test]
fn other_names_are_refused_and_leave_the_gateway_by_no_way() -> Result<()> {
    let scene = scene()?;
    let (site1, site2) = (Site::One.terminal(), Site::Two.terminal());
    for (terminal, name) in [
        (site1, NAME_OTHER),
        (site2, NAME_UPDATE),
        (site1, "secret.exfiltrated.example"),
    ] {
        for over_tcp in [false, true] {
            let told = ask(terminal, DNS_PROXY, name, "A", over_tcp).with_context(|| state(&scene))?;
            ensure!(
                told.code == REFUSED && told.addresses.is_empty(),
                "{name}: {told:?}"
            );
        }
    }
    ensure!(questions()?.is_empty(), "upstream was asked: {:?}", questions()?);
    // A name that leads into the center is as good as none, and opens nothing.
    let told = ask(site1, DNS_PROXY, NAME_INSIDE, "A", false)?;
    ensure!(told.code == REFUSED && told.addresses.is_empty(), "{told:?}");
    // IPv6 addresses there are none, nor anything else that an address could be hidden in.
    for kind in ["AAAA", "HTTPS", "TXT"] {
        let told = ask(site1, DNS_PROXY, NAME_UPDATE, kind, false)?;
        ensure!(
            told.code == NOERROR && told.addresses.is_empty(),
            "{kind}: {told:?}"
        );
    }
    ensure!(open_names(&scene)?.is_empty());
    let lines = scene.gateway.cli(&["events", "--last", "50", "--json"])?;
    let events: Vec<Value> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let told = |event: &str, name: &str| {
        events
            .iter()
            .any(|found| found["event"] == event && found["name"] == name)
    };
    ensure!(
        told("name_refused", NAME_OTHER) && told("name_private", NAME_INSIDE),
        "{events:?}"
    );
    // The name server itself is out of reach for sites.
    ensure!(ask(site1, xtask::lab::topology::DNS_UPSTREAM, NAME_OTHER, "A", false).is_err());
    Ok(())
}

#[test]
fn aliases_and_answers_that_are_too_long_for_a_datagram_open_too() -> Result<()> {
    let _scene = scene()?;
    let site1 = Site::One.terminal();
    for (name, over_tcp) in [(NAME_ALIAS, false), (NAME_BIG, false), (NAME_UPDATE, true)] {
        let told = ask(site1, DNS_PROXY, name, "A", over_tcp)?;
        ensure!(told.addresses == [SITE_UPDATE], "{name}: {told:?}");
        cmd::read(&mut fetch(site1, SITE_UPDATE, 3)).with_context(|| name.to_owned())?;
    }
    let big: Vec<_> = questions()?
        .into_iter()
        .filter(|asked| asked.name == NAME_BIG)
        .collect();
    ensure!(big.len() == 2 && big[0].udp && !big[1].udp, "{big:?}");
    Ok(())
}

#[test]
fn after_the_ttl_connections_go_on_and_new_ones_are_refused() -> Result<()> {
    let scene = scene()?;
    let site1 = Site::One.terminal();
    let lasting = briefly_open(site1, || {
        let mut connection = connection(site1)?;
        let mut first = [0; 4];
        std::io::Read::read_exact(connection.stdout.as_mut().context("no output")?, &mut first)?;
        ensure!(&first == b"open");
        Ok(connection)
    });
    let mut lasting = lasting.with_context(|| state(&scene))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !open_names(&scene)?.is_empty() {
        if Instant::now() > deadline {
            bail!("still open: {:?}", open_names(&scene)?);
        }
        sleep(Duration::from_millis(200));
    }
    ensure!(is_refused(site1, SITE_UPDATE), "a new connection after the TTL");
    // What was open goes on.
    drop(lasting.stdin.take());
    let output = lasting.wait_with_output()?;
    let answered = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(answered.contains(SITE1_NAT_ADDRESS), "{answered}");
    // Who asks again gets in again.
    briefly_open(site1, || cmd::read(&mut fetch(site1, SITE_UPDATE, 3))).with_context(|| state(&scene))?;
    Ok(())
}

/// Asks for the name whose time is short, and does `work`; both again where a busy machine took longer than that time.
fn briefly_open<T>(terminal: Node, work: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        ask(terminal, DNS_PROXY, NAME_BRIEF, "A", false)?;
        match work() {
            Err(_) if Instant::now() < deadline => {}
            done => return done,
        }
    }
}

/// The packet path closes what a dead daemon cannot; the proxy's link and namespace go with it and come again.
#[test]
fn what_was_open_does_not_outlive_the_daemon() -> Result<()> {
    let scene = scene()?;
    let site1 = Site::One.terminal();
    ask(site1, DNS_PROXY, NAME_UPDATE, "A", false)?;
    cmd::read(&mut fetch(site1, SITE_UPDATE, 3))?;
    let Scene {
        gateway,
        site1: router1,
        site2: router2,
        lab,
    } = scene;
    gateway.kill();
    // The kernel takes a namespace down in its own time.
    let deadline = Instant::now() + Duration::from_secs(20);
    while cmd::read(Node::Gateway.command("ip").args(["-brief", "link"]))?.contains("gwdns") {
        ensure!(Instant::now() < deadline, "the link stays behind");
        sleep(Duration::from_millis(100));
    }
    ensure!(is_refused(site1, SITE_UPDATE));
    router1.kill();
    router2.kill();
    let config = config();
    let scene = Scene {
        gateway: lab.start_gateway(&config)?,
        site1: lab.start_site(Site::One, config.auth)?,
        site2: lab.start_site(Site::Two, config.auth)?,
        lab,
    };
    scene.router(Site::One).initiate()?;
    ensure!(is_refused(site1, SITE_UPDATE), "open before anybody asked");
    ask(site1, DNS_PROXY, NAME_UPDATE, "A", false).with_context(|| state(&scene))?;
    cmd::read(&mut fetch(site1, SITE_UPDATE, 3))?;
    Ok(())
}
