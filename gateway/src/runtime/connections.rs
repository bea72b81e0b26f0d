//! Connections that the gateway brings up itself (`[[connection]]`): at start, by a verb, or for the first packet of a
//! site without an SA.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{anyhow, bail};
use gateway_common::abi::event;
use gateway_ike::pki::identity::Identity;
use gateway_ike::{
    Command, Connection, ConnectionInfo, ConnectionState, Event, IkeSaInfo, Remote, TrafficSelector,
};

use super::authorizer::{policy, selectors};
use super::controller::Controller;
use super::engine::Engine;
use super::sockets::{IKE_PORT, Sockets};
use crate::api::view;
use crate::config::{Config, ConnectionConfig, Start};
use crate::core::journal::{Journal, Notice};
use crate::core::sites::Sites;

/// All of them, in the order of the file.
pub(super) struct Connections {
    list: Vec<Entry>,
    by_name: HashMap<String, usize>,
    by_site: HashMap<u32, usize>,
}

struct Entry {
    config: ConnectionConfig,
    ike: Connection,
    site: u32,
    /// A packet asked for it since it was up or down last.
    asked_for: bool,
    /// When, in milliseconds since 1970, and why the last attempt failed or the last SA ended.
    failure: Option<(u64, String)>,
}

impl Connections {
    /// Finds each connection's site and local addresses.
    ///
    /// # Errors
    /// If no WAN interface has an address that a connection could go out from.
    pub(super) fn new(config: &Config, sites: &Sites, sockets: &Sockets) -> anyhow::Result<Self> {
        let list: Vec<Entry> = config
            .connections
            .iter()
            .map(|connection| entry(config, connection, sites, sockets))
            .collect::<anyhow::Result<_>>()?;
        let places = || list.iter().enumerate();
        Ok(Self {
            by_name: places()
                .map(|(place, entry)| (entry.config.name.clone(), place))
                .collect(),
            by_site: places().map(|(place, entry)| (entry.site, place)).collect(),
            list,
        })
    }

    /// As IKE wants them.
    pub(super) fn for_ike(&self) -> Vec<Connection> {
        self.list.iter().map(|entry| entry.ike.clone()).collect()
    }

    /// Lets the logs of their sites show what comes from their addresses.
    pub(super) fn expect_at(&self, journal: &mut Journal) {
        for entry in &self.list {
            journal.expect(&entry.config.name, entry.site, &entry.config.remote);
        }
    }

    /// Keeps what an event says of an attempt.
    pub(super) fn note(&mut self, now_ms: u64, event: &Event) {
        if let Event::IkeSaEstablished { site, .. } = event {
            if let Some(entry) = self.of_site(*site) {
                entry.asked_for = false;
                entry.failure = None;
            }
            return;
        }
        if let Event::ConnectionDown { connection, .. } = event {
            if let Some(entry) = self.named(connection) {
                entry.asked_for = false;
            }
            return;
        }
        let Some(concerns) = ended(event) else { return };
        for entry in self.list.iter_mut().filter(|entry| concerns.matches(entry)) {
            entry.failure = Some((now_ms, event.to_string()));
        }
    }

    fn named(&mut self, name: &str) -> Option<&mut Entry> {
        self.list.get_mut(*self.by_name.get(name)?)
    }

    fn of_site(&mut self, site: u32) -> Option<&mut Entry> {
        self.list.get_mut(*self.by_site.get(&site)?)
    }

    fn must_be_there(&mut self, name: &str) -> anyhow::Result<&mut Entry> {
        if !self.by_name.contains_key(name) {
            let known: Vec<_> = self.list.iter().map(|entry| entry.config.name.as_str()).collect();
            match known.is_empty() {
                true => bail!("no connection is configured; add a [[connection]]"),
                false => bail!(
                    "no connection is named \"{name}\"; there are {}",
                    known.join(", ")
                ),
            }
        }
        self.named(name)
            .ok_or_else(|| anyhow!("connection \"{name}\" is gone"))
    }
}

fn entry(
    config: &Config,
    connection: &ConnectionConfig,
    sites: &Sites,
    sockets: &Sockets,
) -> anyhow::Result<Entry> {
    let name = &connection.name;
    let Some(known) = sites.by_name(&connection.site) else {
        bail!("connection \"{name}\": no site is named \"{}\"", connection.site);
    };
    let Some(identity) = sites.identity_of(known) else {
        bail!(
            "connection \"{name}\": site \"{}\" has no [[site]]",
            connection.site
        );
    };
    let mut policy = policy(known, &config.reachable(), &config.ike.esp_proposals);
    if let Some(networks) = &connection.networks {
        policy.ts_remote = selectors(networks);
    }
    policy.esp_proposals.clone_from(&connection.esp_proposals);
    let remote = |address: &IpAddr| -> anyhow::Result<Remote> {
        Ok(Remote {
            local: local(connection, *address, sockets)?,
            address: SocketAddr::new(*address, IKE_PORT),
        })
    };
    let ike = Connection {
        name: name.clone(),
        remotes: connection
            .remote
            .iter()
            .map(remote)
            .collect::<anyhow::Result<_>>()?,
        remote_identity: identity.clone(),
        policy,
        start: match connection.start {
            Start::Now => gateway_ike::Start::Now,
            Start::OnDemand => gateway_ike::Start::OnDemand,
            Start::Manual => gateway_ike::Start::Manual,
        },
        idle: connection.idle,
        reauth_after_s: connection.reauth_after_s,
        backoff: connection.backoff,
        childless: connection.childless,
        redirects: connection.follow_redirects,
        resumption: connection.resumption,
        child_sas: connection.child_sas,
    };
    Ok(Entry {
        config: connection.clone(),
        ike,
        site: known.site,
        asked_for: false,
        failure: None,
    })
}

fn local(connection: &ConnectionConfig, remote: IpAddr, sockets: &Sockets) -> anyhow::Result<SocketAddr> {
    let name = &connection.name;
    let configured = connection
        .local
        .iter()
        .find(|local| local.is_ipv4() == remote.is_ipv4());
    match configured {
        Some(address) => {
            let local = SocketAddr::new(*address, IKE_PORT);
            if !sockets.has(local) {
                bail!("connection \"{name}\": no WAN interface has the address {address}; mend local");
            }
            Ok(local)
        }
        None => sockets.local_for(remote).ok_or_else(|| {
            anyhow!("connection \"{name}\": no WAN interface has an address that could reach {remote}")
        }),
    }
}

/// Whom the end of an attempt, or of an SA, concerns.
enum Concerns<'a> {
    /// A peer that proved its identity, or one that we connect to.
    Peer(&'a str),
    /// Whoever is at that address.
    Address(IpAddr),
    /// One that says that it is this peer: only believed from the peer's own address.
    Claimed(&'a str, IpAddr),
}

impl Concerns<'_> {
    fn matches(&self, entry: &Entry) -> bool {
        match self {
            Self::Peer(peer) => peer
                .parse()
                .is_ok_and(|peer: Identity| peer == entry.ike.remote_identity),
            Self::Address(address) => entry.config.remote.contains(address),
            Self::Claimed(peer, address) => {
                Self::Peer(peer).matches(entry) && Self::Address(*address).matches(entry)
            }
        }
    }
}

/// Whom an event concerns that ends an attempt or an SA.
fn ended(event: &Event) -> Option<Concerns<'_>> {
    match event {
        Event::Closed { peer, .. } => Some(Concerns::Peer(peer)),
        Event::AuthenticationFailed { peer, remote, .. } => Some(Concerns::Claimed(peer, remote.ip())),
        Event::ProposalRefused { remote, .. }
        | Event::RefusedByPeer { remote, .. }
        | Event::TrafficSelectorsRefused { remote, .. } => Some(Concerns::Address(remote.ip())),
        Event::IkeSaEstablished { .. }
        | Event::ChildSaEstablished { .. }
        | Event::ChildSaRekeyed { .. }
        | Event::IkeSaRekeyed { .. }
        | Event::ChildSaClosed { .. }
        | Event::PeerMoved { .. }
        | Event::MoveRefused { .. }
        | Event::NetworksRefused { .. }
        | Event::Redirected { .. }
        | Event::RedirectRefused { .. }
        | Event::ConnectionDown { .. } => None,
    }
}

impl<E: Engine> Controller<E> {
    /// Tells of those that IKE brings up from the start.
    pub(super) async fn start_connections(&mut self) {
        let now = |entry: &Entry| {
            (entry.config.start == Start::Now).then(|| (entry.config.name.clone(), entry.site))
        };
        let started: Vec<_> = self.connections.list.iter().filter_map(now).collect();
        for (connection, site) in started {
            self.record(Notice::Connecting {
                connection: &connection,
                site,
                because: "start",
            });
        }
        self.endpoint.handle_timeout(self.clock.now());
        self.drain().await;
    }

    /// A packet for a site found no SA: the site's connection is brought up, if it waits for that.
    pub(super) fn acquire(&mut self, event: &event::Event) {
        let Some(entry) = self.connections.of_site(event.site) else {
            return;
        };
        if entry.config.start == Start::Manual {
            return;
        }
        let (name, site) = (entry.config.name.clone(), entry.site);
        let first = !std::mem::replace(&mut entry.asked_for, true);
        if first && entry.config.start == Start::OnDemand {
            self.record(Notice::Connecting {
                connection: &name,
                site,
                because: "packet",
            });
        }
        let acquire = Command::Acquire {
            connection: name,
            // The event tells of a flow, whose source is the site.
            ts_local: one_packet(event.protocol, event.destination, event.destination_port),
            ts_remote: one_packet(event.protocol, event.source, event.source_port),
        };
        self.endpoint.handle_command(self.clock.now(), acquire);
    }

    /// IKE SAs of a site, whoever began them.
    fn ike_sas_of_entry(&self, entry: &Entry) -> Vec<IkeSaInfo> {
        self.endpoint.ike_sas_with(&entry.ike.remote_identity).collect()
    }

    pub(super) fn connection_list(&self) -> Vec<view::Connection> {
        let states: HashMap<String, ConnectionInfo> = self
            .endpoint
            .connections()
            .map(|info| (info.name.clone(), info))
            .collect();
        let view = |entry: &Entry| self.connection(entry, states.get(&entry.config.name));
        self.connections.list.iter().map(view).collect()
    }

    fn connection(&self, entry: &Entry, info: Option<&ConnectionInfo>) -> view::Connection {
        let sas = self.ike_sas_of_entry(entry);
        let up = sas.iter().any(|ike| !ike.children.is_empty());
        let retry_in_ms = match info.map(|info| info.state) {
            Some(ConnectionState::Waiting { retry_in_ms }) => Some(retry_in_ms),
            Some(ConnectionState::Down | ConnectionState::Connecting | ConnectionState::Up) | None => None,
        };
        let state = match info.map(|info| info.state) {
            _ if up => "up",
            Some(ConnectionState::Up) => "childless",
            Some(ConnectionState::Connecting) => "connecting",
            Some(ConnectionState::Waiting { .. }) => "waiting",
            Some(ConnectionState::Down) | None => "down",
        };
        let (failed_at_ms, failure) = entry.failure.clone().unwrap_or_default();
        view::Connection {
            name: entry.config.name.clone(),
            site: entry.config.site.clone(),
            remote: entry.config.remote.clone(),
            start: entry.config.start.word().to_owned(),
            state: state.to_owned(),
            retry_in_s: retry_in_ms.map(|ms| ms.div_ceil(1_000)),
            sas: sas.iter().map(|ike| ike.id.to_string()).collect(),
            failures: info.map_or(0, |info| info.failures),
            failure,
            failed_at_ms,
        }
    }

    pub(super) fn connection_up(&mut self, name: &str) -> anyhow::Result<view::Commanded> {
        let entry = self.connections.must_be_there(name)?;
        entry.failure = None;
        let site = entry.site;
        self.record(Notice::Connecting {
            connection: name,
            site,
            because: "operator",
        });
        let initiate = Command::Initiate {
            connection: name.to_owned(),
        };
        self.endpoint.handle_command(self.clock.now(), initiate);
        Ok(view::Commanded { sas: Vec::new() })
    }

    pub(super) fn connection_down(&mut self, name: &str) -> anyhow::Result<view::Commanded> {
        let peer = self.connections.must_be_there(name)?.ike.remote_identity.clone();
        let now = self.clock.now();
        let terminate = Command::Terminate {
            connection: name.to_owned(),
        };
        self.endpoint.handle_command(now, terminate);
        // Those that the peer began go too.
        let found: Vec<_> = self.endpoint.ike_sas_with(&peer).map(|ike| ike.id).collect();
        for ike in &found {
            self.endpoint.handle_command(now, Command::Close(*ike));
        }
        let sas: Vec<_> = found.iter().map(ToString::to_string).collect();
        self.record_command(&format!("connection down {name}"), &sas);
        Ok(view::Commanded { sas })
    }
}

/// The selector of one packet at one end (RFC 7296 section 2.9).
fn one_packet(protocol: u8, address: [u8; 4], port: [u8; 2]) -> TrafficSelector {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let address = IpAddr::V4(address.into());
    let (start_port, end_port) = match protocol {
        TCP | UDP => (u16::from_be_bytes(port), u16::from_be_bytes(port)),
        _ => (0, u16::MAX),
    };
    TrafficSelector {
        protocol,
        start: address,
        end: address,
        start_port,
        end_port,
    }
}
