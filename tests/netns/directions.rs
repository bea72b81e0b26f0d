//! Rejected packets are answered, sites call each other, and the center calls a site.
//!
//! ```text
//!  site1-term 192.168.1.10 ---- site1 ====\\                   /---- center 10.100.0.10
//!                                           gateway 10.100.9.9:8443
//!  site2-term 192.168.1.10:9000 -- site2 ==//  is site2's 192.168.1.10:9000
//! ```

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gateway_tests::scene::Scene;
use xtask::cmd;
use xtask::lab::Lab;
use xtask::lab::center::{curl, fetch, url};
use xtask::lab::gateway::{Config, SITE1_NAT_ADDRESS, rules};
use xtask::lab::pki::Auth;
use xtask::lab::state::{self, Process};
use xtask::lab::strongswan::Connection;
use xtask::lab::topology::{GATEWAY_CORE, NAT_POOL, Node, Options, SERVER, Site, TERMINAL};

/// Where site 2's service is published.
const PUBLISHED: &str = "10.100.9.9";
/// What the service answers with: who has asked.
const SERVICE: &str = "
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
print('serving', flush=True)
http.server.HTTPServer(('192.168.1.10', 9000), Handler).serve_forever()
";
/// Sends a datagram and prints the error that the answer causes.
const DATAGRAM: &str = "
import errno, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((sys.argv[1], 9999))
s.send(b'hello')
try:
    s.recv(100)
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
";

fn scene(config: &Config) -> Result<Scene> {
    let lab = Lab::up(Options::default())?;
    let gateway = lab.start_gateway(config)?;
    let start = |site| {
        lab.start_site_with(
            site,
            &Connection {
                remote_ts: config.networks.clone(),
                ..Connection::of_site(site, config.auth, &Options::default())
            },
        )
    };
    let scene = Scene {
        gateway,
        site1: start(Site::One)?,
        site2: start(Site::Two)?,
        lab,
    };
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

#[test]
fn a_rejected_terminal_learns_it_at_once() -> Result<()> {
    let reject = format!(
        "[[rule]]\nname = \"refused\"\naction = \"reject\"\ndestination = \"{SERVER}\"\nprotocol = [\"tcp\", \"udp\"]\n\
         destination_ports = 9999\n\n"
    );
    let usual = Config::usual(Auth::Rsa);
    let scene = scene(&Config {
        rules: format!("{reject}{}", rules().replacen("name = \"lab\"\n", "", 1)),
        ..usual
    })?;
    for site in Site::BOTH {
        // 7: refused; a packet that is dropped in silence ends in 28, after the limit.
        let output = curl(site.terminal(), &format!("http://{SERVER}:9999/"), 20).output()?;
        ensure!(output.status.code() == Some(7), "{}: {output:?}", site.name());
        let printed = cmd::read(site.terminal().command("python3").args(["-c", DATAGRAM, SERVER]))?;
        ensure!(printed.trim() == "EHOSTUNREACH", "{}: {printed}", site.name());
        fetch(site.terminal(), "/whoami")?;
    }
    let silent = curl(Site::One.terminal(), &url("/whoami").replace("8080", "8082"), 1).output()?;
    ensure!(
        silent.status.code() == Some(28),
        "what no rule allows is not answered: {silent:?}"
    );
    ensure!(
        scene.dropped("rule_rejected")? == 4,
        "{:?}",
        scene.gateway.drops()?
    );
    Ok(())
}

/// Site 2 publishes a service; site 1, clinics in general, and the center may call it.
fn publishing() -> Config {
    let usual = Config::usual(Auth::Rsa);
    // Tunnels carry what sites are translated to as well: it is the source of what a site receives from another.
    let networks = ["10.100.0.0/16", NAT_POOL, "10.201.0.0/24"].map(str::to_owned);
    let called = "[[rule]]\nname = \"sites\"\naction = \"allow\"\ndirection = \"site-to-site\"\nto_sites = \"site2\"\n\
                  protocol = \"tcp\"\ndestination_ports = 9000\n\n\
                  [[rule]]\nname = \"maintenance\"\naction = \"allow\"\ndirection = \"center-to-site\"\nsites = \"site2\"\n\
                  destination = \"192.168.1.10\"\nprotocol = \"tcp\"\ndestination_ports = 9000\n\n";
    Config {
        networks: networks.to_vec(),
        tables: format!(
            "[[publish]]\nname = \"service\"\nsite = \"site2\"\naddress = \"{TERMINAL}\"\nprotocol = \"tcp\"\nport = 9000\n\
             on = \"{PUBLISHED}:8443\"\nfrom = [\"10.100.0.0/16\", \"{SITE1_NAT_ADDRESS}/32\"]\n\n"
        ),
        rules: format!("{called}{}", rules().replacen("name = \"lab\"\n", "", 1)),
        ..usual
    }
}

fn serve(site: Site) -> Result<Process> {
    let service = state::spawn(
        "service",
        site.terminal().command("python3").args(["-c", SERVICE]),
    )?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_to_string(state::path("service.log"))
        .unwrap_or_default()
        .contains("serving")
    {
        ensure!(Instant::now() < deadline, "the service does not start");
        sleep(Duration::from_millis(20));
    }
    Ok(service)
}

/// Who the service says has asked.
fn ask(from: Node) -> Result<String> {
    cmd::read(&mut curl(from, &format!("http://{PUBLISHED}:8443/"), 5))
}

#[test]
fn a_site_calls_another_with_the_same_private_address() -> Result<()> {
    let scene = scene(&publishing())?;
    let _service = serve(Site::Two)?;
    let seen = ask(Site::One.terminal()).with_context(|| format!("{:?}", scene.gateway.drops()))?;
    ensure!(seen == SITE1_NAT_ADDRESS, "seen as {seen}");
    ensure!(scene.gateway.rule_hits("sites")? == 1);
    let flows = scene.gateway.json(&["flows", "list"])?;
    ensure!(
        flows["total"].as_u64() >= Some(2),
        "one flow at each site: {flows}"
    );
    Ok(())
}

#[test]
fn the_center_calls_what_a_site_publishes() -> Result<()> {
    let scene = scene(&publishing())?;
    let _service = serve(Site::Two)?;
    let route = format!("route add {PUBLISHED} via {GATEWAY_CORE}");
    cmd::output(Node::Center.command("ip").args(route.split(' ')))?;
    let seen = ask(Node::Center).with_context(|| format!("{:?}", scene.gateway.drops()))?;
    ensure!(seen.starts_with("10.100."), "seen as {seen}");
    ensure!(scene.gateway.rule_hits("maintenance")? == 1);
    Ok(())
}
