//! Connections that the gateway brings up itself (`[[connection]]`): at start, by a verb, or for the first packet of a
//! site without an SA.
use std::net::{IpAddr, SocketAddr};

use anyhow::{anyhow, bail};
use gateway_common::abi::event;
use gateway_ike::{Command, Connection, Event, IkeSaInfo};

use super::authorizer::{policy, selectors};
use super::controller::Controller;
use super::engine::Engine;
use super::sockets::{IKE_PORT, Sockets};
use crate::api::view;
use crate::config::{Config, ConnectionConfig, Start};
use crate::core::sites::Sites;

/// All of them, in the order of the file.
pub(super) struct Connections {
    list: Vec<Entry>,
}

struct Entry {
    config: ConnectionConfig,
    ike: Connection,
    site: u32,
    /// An attempt is under way.
    connecting: bool,
    /// Attempts since it was up last.
    attempts: u64,
    /// When, in milliseconds since 1970, and why the last attempt failed.
    failure: Option<(u64, String)>,
}

impl Connections {
    /// Finds each connection's site and local address.
    ///
    /// # Errors
    /// If no WAN interface has an address that a connection could go out from.
    pub(super) fn new(config: &Config, sites: &Sites, sockets: &Sockets) -> anyhow::Result<Self> {
        let entry = |connection: &ConnectionConfig| entry(config, connection, sites, sockets);
        let list = config
            .connections
            .iter()
            .map(entry)
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { list })
    }

    /// As IKE wants them.
    pub(super) fn for_ike(&self) -> Vec<Connection> {
        self.list.iter().map(|entry| entry.ike.clone()).collect()
    }

    /// Keeps what an event says of an attempt.
    pub(super) fn note(&mut self, now_ms: u64, event: &Event) {
        if let Event::IkeSaEstablished { site, .. } = event {
            for entry in self.list.iter_mut().filter(|entry| entry.site == *site) {
                entry.connecting = false;
                entry.attempts = 0;
                entry.failure = None;
            }
            return;
        }
        let Some(concerns) = ended(event) else { return };
        for entry in self.list.iter_mut().filter(|entry| concerns.matches(entry)) {
            entry.connecting = false;
            entry.failure = Some((now_ms, event.to_string()));
        }
    }

    fn named(&mut self, name: &str) -> anyhow::Result<&mut Entry> {
        let known: Vec<_> = self.list.iter().map(|entry| entry.config.name.clone()).collect();
        let found = self.list.iter_mut().find(|entry| entry.config.name == name);
        found.ok_or_else(|| match known.is_empty() {
            true => anyhow!("no connection is configured; add a [[connection]]"),
            false => anyhow!("no connection is named \"{name}\"; there are {}", known.join(", ")),
        })
    }
}

fn entry(
    config: &Config,
    connection: &ConnectionConfig,
    sites: &Sites,
    sockets: &Sockets,
) -> anyhow::Result<Entry> {
    let name = &connection.name;
    let site = config.sites.iter().find(|site| site.name == connection.site);
    let (Some(site), Some(known)) = (site, sites.by_name(&connection.site)) else {
        bail!("connection \"{name}\": no site is named \"{}\"", connection.site);
    };
    let Some(remote) = connection.remote.first().copied() else {
        bail!("connection \"{name}\" has no remote address");
    };
    let mut policy = policy(known, &config.center.networks);
    if let Some(networks) = &connection.networks {
        policy.ts_remote = selectors(networks);
    }
    policy.esp_proposals.clone_from(&connection.esp_proposals);
    let ike = Connection {
        name: name.clone(),
        local: local(connection, remote, sockets)?,
        remote: SocketAddr::new(remote, IKE_PORT),
        remote_identity: site.identity.clone(),
        policy,
    };
    Ok(Entry {
        config: connection.clone(),
        ike,
        site: known.site,
        connecting: false,
        attempts: 0,
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
            Self::Peer(peer) => entry.ike.remote_identity.to_string() == *peer,
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
        | Event::ChildSaClosed { .. } => None,
    }
}

impl<E: Engine> Controller<E> {
    /// Begins those that are to be up from the start.
    pub(super) async fn start_connections(&mut self) {
        let now = |entry: &Entry| (entry.config.start == Start::Now).then(|| entry.config.name.clone());
        let names: Vec<_> = self.connections.list.iter().filter_map(now).collect();
        for name in names {
            self.initiate(&name);
        }
        self.drain().await;
    }

    /// A packet for a site found no SA: the site's connection is brought up, if it waits for that.
    pub(super) fn acquire(&mut self, event: &event::Event) {
        let waits = |entry: &&Entry| {
            entry.site == event.site && entry.config.start != Start::Manual && !entry.connecting
        };
        let found = self.connections.list.iter().find(waits);
        let Some(name) = found.map(|entry| entry.config.name.clone()) else {
            return;
        };
        // Between an SA's end and the packets that were under way, several of these come: one is enough.
        if self.ike_sas_of_site(event.site).is_empty() {
            self.initiate(&name);
        }
    }

    fn initiate(&mut self, name: &str) {
        if let Ok(entry) = self.connections.named(name) {
            entry.connecting = true;
            entry.attempts += 1;
        }
        let initiate = Command::Initiate {
            connection: name.to_owned(),
        };
        self.endpoint.handle_command(self.clock.now(), initiate);
    }

    /// Established and half-open IKE SAs of a site.
    fn ike_sas_of_site(&self, number: u32) -> Vec<IkeSaInfo> {
        let of_site = |ike: &IkeSaInfo| ike.site.as_ref().is_some_and(|(site, _)| *site == number);
        self.endpoint.ike_sas().filter(of_site).collect()
    }

    pub(super) fn connection_list(&self) -> Vec<view::Connection> {
        self.connections
            .list
            .iter()
            .map(|entry| self.connection(entry))
            .collect()
    }

    fn connection(&self, entry: &Entry) -> view::Connection {
        let sas = self.ike_sas_of_site(entry.site);
        let state = match sas.iter().any(|ike| !ike.children.is_empty()) {
            true => "up",
            false if entry.connecting => "connecting",
            false => "down",
        };
        let (failed_at_ms, failure) = entry.failure.clone().unwrap_or_default();
        view::Connection {
            name: entry.config.name.clone(),
            site: entry.config.site.clone(),
            remote: entry.config.remote.clone(),
            start: entry.config.start.word().to_owned(),
            state: state.to_owned(),
            sas: sas.iter().map(|ike| ike.id.to_string()).collect(),
            attempts: entry.attempts,
            failure,
            failed_at_ms,
        }
    }

    pub(super) fn connection_up(&mut self, name: &str) -> anyhow::Result<view::Commanded> {
        let entry = self.connections.named(name)?;
        let (site, connecting) = (entry.site, entry.connecting);
        let up = self.ike_sas_of_site(site);
        if up.is_empty() && !connecting {
            self.initiate(name);
        }
        Ok(view::Commanded {
            sas: up.iter().map(|ike| ike.id.to_string()).collect(),
        })
    }

    pub(super) fn connection_down(&mut self, name: &str) -> anyhow::Result<view::Commanded> {
        let entry = self.connections.named(name)?;
        entry.connecting = false;
        let site = entry.site;
        let now = self.clock.now();
        let mut sas = Vec::new();
        for ike in self.ike_sas_of_site(site) {
            self.endpoint.handle_command(now, Command::Close(ike.id));
            sas.push(ike.id.to_string());
        }
        Ok(view::Commanded { sas })
    }
}
