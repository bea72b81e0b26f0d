//! What stands in the gateway's place, with a site that is connected to it and a server in the center.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use gateway_esp::Suite;
use xtask::bench::machine::Core;
use xtask::lab::Lab;
use xtask::lab::gateway::{BENCH_PORT, Config, Engine, Gateway};
use xtask::lab::pki::Auth;
use xtask::lab::strongswan::{Connection, StrongSwan};
use xtask::lab::topology::{Node, Options, SERVER, Site as Place};
use xtask::{paths, traffic};

use crate::ends::{Ends, Generator};
use crate::packet;
use crate::site::Site;

/// What is measured in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Xdp,
    Direct,
    StrongSwan,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Xdp, Self::Direct, Self::StrongSwan];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Direct => "direct",
            Self::StrongSwan => "strongSwan",
        }
    }
}

/// The process in the gateway's place.
pub(crate) enum Peer {
    Ours(Option<Gateway>, Box<Config>),
    Theirs(StrongSwan),
}

/// A lab with one of them; it keeps to the last core.
pub(crate) struct Side {
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    pub(crate) peer: Peer,
    pub(crate) server: UdpSocket,
    pub(crate) lab: Lab,
}

impl Side {
    pub(crate) fn start(kind: Kind, place: Place) -> Result<Self> {
        let lab = Lab::up(Options {
            kernel_forwards_in_gateway: kind == Kind::StrongSwan,
            ..Options::default()
        })?;
        let engine = match kind {
            Kind::Xdp => Some(Engine::Xdp),
            Kind::Direct => Some(Engine::Direct),
            Kind::StrongSwan => None,
        };
        let peer = Core::Measured.run(|| match engine {
            Some(engine) => {
                let config = Config {
                    engine,
                    esp: vec!["aes256gcm16".to_owned(), "aes256-sha256".to_owned()],
                    ..Config::usual(Auth::Rsa)
                };
                let gateway = lab.start_gateway_program(program(), &config)?;
                anyhow::Ok(Peer::Ours(Some(gateway), Box::new(config)))
            }
            None => {
                let connection = Connection {
                    esp: "aes256gcm16,aes256-sha256".to_owned(),
                    ..Connection::of_gateway(place, Auth::Rsa)
                };
                let swan = lab.start_strongswan_gateway_with(&connection)?;
                // The largest packets of the mixes are to go through.
                let set = ["link", "set", "ipsec0", "mtu", "1400"];
                xtask::cmd::output(Node::Gateway.command("ip").args(set))?;
                Ok(Peer::Theirs(swan))
            }
        })?;
        let server = traffic::bind(Node::Center, SERVER, BENCH_PORT)?;
        traffic::stamp(&server)?;
        Ok(Self {
            kind,
            place,
            peer,
            server,
            lab,
        })
    }

    /// The gateway, or nothing where strongSwan is in its place.
    pub(crate) fn gateway(&self) -> Option<&Gateway> {
        match &self.peer {
            Peer::Ours(gateway, _) => gateway.as_ref(),
            Peer::Theirs(_) => None,
        }
    }

    /// Connects the site, and opens the flow that all packets are of.
    pub(crate) fn connect(&self, suite: Suite, generator: Generator) -> Result<Tunnel> {
        let mut site = Site::connect(&self.lab, self.place, suite)?;
        let mut ends = Ends::open(self.place, generator)?;
        let started = Instant::now();
        loop {
            let opening = site.seal(&packet::to_center(64, 0))?;
            ends.to_center.send(&[opening])?;
            std::thread::sleep(Duration::from_millis(20));
            let mut source = None;
            traffic::drain(&self.server, |_, from, _| source = from)?;
            if let Some(SocketAddr::V4(seen)) = source {
                return Ok(Tunnel { site, ends, seen });
            }
            site.settle()?;
            if started.elapsed() > Duration::from_secs(5) {
                bail!("nothing comes through the tunnel with {}", suite.name());
            }
        }
    }
}

/// A site's tunnel, with both ends to load it from.
pub(crate) struct Tunnel {
    pub(crate) site: Site,
    pub(crate) ends: Ends,
    /// The terminal as the server sees it.
    pub(crate) seen: std::net::SocketAddrV4,
}

impl Tunnel {
    /// The frame that the center sends to the terminal.
    pub(crate) fn to_site(&self, size: usize, sequence: u64) -> Vec<u8> {
        packet::framed(self.ends.center_link, &packet::to_site(self.seen, size, sequence))
    }
}

/// The release build of the gateway.
pub(crate) fn program() -> std::path::PathBuf {
    paths::target().join("release/gateway")
}

/// What of strongSwan can be asked for.
pub(crate) fn swan(side: &Side) -> Result<&StrongSwan> {
    match &side.peer {
        Peer::Theirs(swan) => Ok(swan),
        Peer::Ours(..) => None.context("it is no strongSwan"),
    }
}
