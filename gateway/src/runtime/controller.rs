//! The one owner of all state.
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use gateway_common::abi::{event::kind, limit};
use gateway_ike::crypto::random::SystemRandom;
use gateway_ike::{ChildId, ChildSaInstall, Command, Endpoint, EndpointConfig, Event, Output, TimeoutReason};
use tokio::sync::{broadcast, mpsc};
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use super::authorizer::{Admissions, SharedSites, SiteAuthorizer};
use super::clock::Clock;
use super::compiling::Compiling;
use super::connections::Connections;
use super::done;
use super::engine::{Engine, Happening};
use super::events;
use super::interfaces::Interfaces;
use super::ledger::SharedLedger;
use super::listing::{Answer, Listings, SaLists};
use super::names::{Names, next_call};
use super::nat::{Blocks, Unpublished, published};
use super::prepare::Prepared;
use super::rejudging::Rejudging;
use super::reload::{Reading, Watch};
use super::rules::RuleState;
use super::secrets;
use super::service_manager::ServiceManager;
use super::sockets::{Datagram, Sockets};
use super::trace::Tracers;
use crate::api::caller::Caller;
use crate::api::message::Request;
use crate::api::server::Call;
use crate::config::Config;
use crate::core::journal::{EventLine, Journal, Notice};
use crate::core::policy::Compiled;
use crate::core::sadb::Sadb;
use crate::dataplane::{NETWORKS_IN_ALL_MAX, NETWORKS_MAX};

/// How long peers have to acknowledge the DELETE of a daemon that stops.
const CLOSE_MS: u64 = 2_000;
/// What the data plane has to tell is asked for so often: a rekeyed SA waits for its first packet, a new
/// destination for its next hop.
const POLL_MS: u64 = 100;
/// Polls between two looks at timeouts, and at the traffic of an SA: a second.
const POLLS_PER_LOOK: u32 = 10;

/// Sockets, IKE, sites, SAs, rules and data plane.
pub struct Controller<E: Engine> {
    pub(super) config: Arc<Config>,
    pub(super) engine: E,
    pub(super) endpoint: Endpoint,
    pub(super) sites: SharedSites,
    pub(super) sadb: Sadb<E::Handle>,
    /// Generation and rule set in force.
    pub(super) rules: Option<(u32, Arc<Compiled>)>,
    pub(super) rule_state: RuleState,
    pub(super) rejudging: Rejudging,
    pub(super) compiling: Compiling,
    pub(super) names: Names,
    pub(super) clock: Clock,
    pub(super) connections: Connections,
    pub(super) sockets: Sockets,
    /// Sites that the data plane does not know yet, or not as they are now.
    pub(super) new_sites: Vec<u32>,
    pub(super) unpublished: Unpublished,
    pub(super) ledger: SharedLedger,
    pub(super) blocks: Blocks,
    polls: u32,
    lines: events::Lines,
    pub(super) journal: Journal,
    pub(super) admissions: Admissions,
    pub(super) watch: Watch,
    pub(super) reading: Reading,
    pub(super) tracers: Tracers,
    service_manager: ServiceManager,
    pub(super) interfaces: Interfaces,
    /// Why the gateway ends by itself.
    pub(super) must_end: Option<String>,
    /// A worker that stood still a second ago.
    standing: Option<usize>,
    /// Who asked for what is being done.
    pub(super) caller: Caller,
    pub(super) subscribers: broadcast::Sender<EventLine>,
    /// Lists that are being made.
    pub(super) listings: Listings,
    pub(super) sa_lists: SaLists,
    /// Where other threads tell what they have done, and where it is heard until [`Self::run`] does.
    pub(super) done: done::Sender,
    done_by_others: Option<done::Receiver>,
}

impl<E: Engine> Controller<E> {
    /// Fills the data plane with sites and rules; nobody can connect before [`Self::run`].
    ///
    /// # Errors
    /// If the state folder cannot be written or the data plane refuses sites or rules.
    pub async fn new(
        prepared: Prepared,
        engine: E,
        sockets: Sockets,
        subscribers: broadcast::Sender<EventLine>,
    ) -> anyhow::Result<Self> {
        let Prepared {
            config,
            credentials,
            sites,
            history,
            rules,
        } = prepared;
        let clock = Clock::start();
        let ledger = SharedLedger::open(&config, &sites, clock)?;
        let sites = SharedSites::new(sites);
        let admissions = Admissions::default();
        let authorizer = SiteAuthorizer {
            admissions: admissions.clone(),
            sites: sites.clone(),
            ledger: ledger.clone(),
            esp_proposals: config.ike.esp_proposals.clone(),
        };
        let mut ike = EndpointConfig::new(
            credentials.credential,
            config.ike.identity.clone(),
            credentials.trust,
            Box::new(authorizer),
        );
        ike.shared_keys = credentials.shared_keys;
        ike.ppks = credentials.ppks;
        ike.address_identity_is_source = config.ike.address_identity_is_source;
        ike.ike_proposals.clone_from(&config.ike.proposals);
        ike.ike_proposals_accepted
            .clone_from(&config.ike.proposals_accepted);
        ike.esp_proposals.clone_from(&config.ike.esp_proposals);
        ike.esp_spi_index_bits = limit::SA_INDEX_BITS;
        ike.ike_spi_index_bits = limit::SA_INDEX_BITS;
        ike.children_in_all_max = limit::SAS_MAX as usize;
        ike.networks_per_site_max = NETWORKS_MAX;
        ike.networks_in_all_max = NETWORKS_IN_ALL_MAX;
        ike.sites_max = config.sites_max();
        ike.dpd_after_s = config.ike.dpd_after_s;
        ike.ike_lifetime_s = config.ike.rekey_ike_after_s;
        ike.child_lifetime_s = config.ike.rekey_child_after_s;
        ike.cookie_from = config.ike.cookie_above;
        ike.half_open_max = config.ike.half_open_max;
        ike.defence.half_open_per_source = config.ike.half_open_per_source;
        ike.defence.sas_per_peer_per_s = config.limits.site_sas_per_s;
        ike.defence.puzzle_from = config.ike.puzzle_above;
        ike.nat_keepalive_s = config.ike.nat_keepalive_s;
        ike.crash_secret = secrets::crash_secret(&config)?;
        ike.ticket_lifetime_s = Some(config.ike.session_ticket_s).filter(|lifetime_s| *lifetime_s > 0);
        ike.mobike = config.ike.mobike;
        ike.additional_addresses
            .clone_from(&config.ike.additional_addresses);
        let connections = Connections::new(&config, &sites.get(), &sockets)?;
        ike.connections = connections.for_ike();
        let endpoint = Endpoint::new(ike, Box::new(SystemRandom::new()));
        let mut journal = Journal::new(&config.name);
        connections.expect_at(&mut journal);
        let sadb = Sadb::default();
        let names = Names::new(config.dns.as_ref());
        let watch = Watch::new(&config, credentials.stamps);
        let (done, done_by_others) = mpsc::unbounded_channel();
        let mut controller = Self {
            config: Arc::new(config),
            engine,
            endpoint,
            sites,
            sadb,
            rules: None,
            rule_state: RuleState::new(history),
            rejudging: Rejudging::default(),
            compiling: Compiling::default(),
            names,
            clock,
            connections,
            sockets,
            new_sites: Vec::new(),
            unpublished: Unpublished::default(),
            ledger,
            blocks: Blocks::default(),
            polls: 0,
            lines: events::Lines::default(),
            journal,
            admissions,
            watch,
            reading: Reading::default(),
            tracers: Tracers::default(),
            service_manager: ServiceManager::of_environment()?,
            interfaces: Interfaces::default(),
            must_end: None,
            standing: None,
            caller: Caller::default(),
            subscribers,
            listings: Listings::default(),
            sa_lists: SaLists::default(),
            done,
            done_by_others: Some(done_by_others),
        };
        controller.set_sites()?;
        controller.begin_rules(rules)?;
        controller.tell_wrong_lists();
        controller.tell_what_ends();
        Ok(controller)
    }

    /// Serves until `stop` says why to stop.
    ///
    /// # Errors
    /// Why it ended by itself.
    pub async fn run(
        &mut self,
        mut datagrams: mpsc::Receiver<Datagram>,
        mut calls: mpsc::Receiver<Call>,
        stop: impl Future<Output = &'static str>,
    ) -> anyhow::Result<()> {
        let mut tick = interval(Duration::from_millis(POLL_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        let mut names = self.names.take_calls();
        let Some(mut done) = self.done_by_others.take() else {
            return Ok(());
        };
        self.record(Notice::Started {
            version: env!("CARGO_PKG_VERSION"),
        });
        self.start_connections().await;
        self.service_manager.ready();
        let ended = loop {
            if let Some(reason) = self.must_end.take() {
                self.tell_of_end(&reason);
                break Err(anyhow::Error::msg(reason));
            }
            // With each that is served, so that a flood does not keep it from being finished.
            self.list_more_sas();
            let deadline = self.deadline();
            tokio::select! {
                reason = &mut stop => {
                    self.tell_of_end(reason);
                    break Ok(());
                }
                Some(datagram) = datagrams.recv() => self.handle_datagram(&datagram).await,
                Some(call) = calls.recv() => self.handle_call(call).await,
                call = next_call(&mut names) => self.handle_dns(call),
                Some(done) = done.recv() => self.handle_done(done).await,
                () = sleep_until(deadline) => self.handle_timeout().await,
                _ = tick.tick() => self.handle_tick().await,
                // And without waiting, where nothing else is to be served.
                () = yield_now(), if self.sa_lists.are_asked_for() => {}
            }
        };
        drop(names);
        self.names.stop();
        self.delete_all(&mut datagrams).await;
        ended
    }

    fn tell_of_end(&mut self, reason: &str) {
        self.service_manager.stopping(reason);
        self.record(Notice::Stopping { reason });
    }

    /// Detaches the data plane: nothing passes any more.
    pub async fn close(&mut self) {
        self.engine.stop().await;
        log_failure("the log of addresses not ended", self.ledger.stopped());
        tracing::info!("gateway stopped");
    }

    fn deadline(&self) -> tokio::time::Instant {
        const IDLE_MS: u64 = 3_600_000;
        let next = self
            .endpoint
            .poll_timeout()
            .map(|(at, _): (u64, TimeoutReason)| at);
        self.clock
            .instant(next.unwrap_or_else(|| self.clock.now().mono_ms + IDLE_MS))
    }

    async fn handle_datagram(
        &mut self,
        Datagram {
            local,
            remote,
            payload,
        }: &Datagram,
    ) {
        self.endpoint
            .handle_datagram(self.clock.now(), *local, *remote, payload);
        self.drain().await;
    }

    async fn handle_timeout(&mut self) {
        self.endpoint.handle_timeout(self.clock.now());
        self.drain().await;
    }

    async fn handle_call(&mut self, call: Call) {
        self.caller = call.caller;
        let answer = match call.request {
            Request::Trace(wanted) => Answer::Ready(self.begin_trace(&wanted, call.lines)),
            request => self.answer(request),
        };
        match answer {
            // The client may have gone; that is its affair.
            Answer::Ready(reply) => {
                let _ = call.reply.send(reply);
            }
            Answer::Later(work) => self.listings.begin(work, call.reply),
            Answer::Sas => self.sa_lists.ask(call.reply),
            Answer::InForce(wanted) => self.put_in_force_later(wanted, call.reply),
            Answer::Reloaded => self.reload(call.reply),
        }
        self.drain().await;
    }

    async fn handle_tick(&mut self) {
        for happening in self.engine.poll().await {
            self.handle_happening(happening);
        }
        self.tell_traces();
        self.tell_traffic();
        self.give_blocks();
        self.polls += 1;
        if self.polls == POLLS_PER_LOOK {
            self.polls = 0;
            self.tell_of_life();
            self.next_second_of_interfaces();
            self.lines.next_second();
            self.tend_rules();
            self.tend_names();
            self.next_second_of_journal();
            self.next_second_of_files();
            self.next_second_of_blocks();
            self.next_second_of_publications();
            log_failure("flows and mappings not swept", self.engine.tend().await);
        }
        self.drain().await;
    }

    /// The gateway lives if its workers come round, as this task does.
    fn tell_of_life(&mut self) {
        let standing = self.engine.standing_worker();
        match (standing, self.standing) {
            (None, None) => {}
            (Some(worker), _) => tracing::error!(
                worker,
                "a worker has stood still for ten seconds or more: nothing passes by its queues; a watchdog of the service manager ends \
                 this process"
            ),
            (None, Some(worker)) => tracing::warn!(worker, "the worker goes on that had stood still"),
        }
        self.standing = standing;
        if standing.is_none() {
            self.service_manager.alive();
        }
    }

    fn handle_happening(&mut self, happening: Happening<E::Handle>) {
        let now = self.clock.now();
        match happening {
            Happening::Packet(event) => {
                match event.kind {
                    kind::NO_SA => self.acquire(&event),
                    kind::PORTS_SHORT => return self.blocks.ask(event.site),
                    _ => {}
                }
                let rules = self
                    .rules
                    .as_ref()
                    .map(|(generation, compiled)| (*generation, &**compiled));
                self.lines.log(&event, &self.sites.get(), rules);
            }
            Happening::FirstInbound(handle) => {
                if let Some(child) = self.sadb.child(handle) {
                    self.endpoint.handle_child_traffic(now, child);
                }
            }
            Happening::PeerMoved(handle, remote) => {
                if let Some(child) = self.sadb.child(handle) {
                    self.endpoint.handle_peer_moved(now, child, remote);
                }
            }
            Happening::SequenceNear(handle) => {
                if let Some(child) = self.sadb.child(handle) {
                    tracing::info!(%child, "sequence numbers run out, rekeying");
                    self.endpoint.handle_command(now, Command::RekeyChild(child));
                }
            }
        }
    }

    /// Packets on a Child SA prove that the peer lives: IKE need not ask (RFC 7296 section 2.4). Those that we send
    /// show that the Child SA is in use. Some of all at a time: those of thousands of sites would take tens of
    /// milliseconds, for which nobody else is served.
    fn tell_traffic(&mut self) {
        let now = self.clock.now();
        for (child, installed) in self.sadb.turn(POLLS_PER_LOOK as usize) {
            let traffic = self.engine.traffic(installed.handle).unwrap_or_default();
            if traffic.packets_in != installed.packets_in_seen {
                installed.packets_in_seen = traffic.packets_in;
                self.endpoint.handle_child_traffic(now, child);
            }
            if traffic.packets_out != installed.packets_out_seen {
                installed.packets_out_seen = traffic.packets_out;
                self.endpoint.handle_child_sent(now, child);
            }
        }
    }

    /// Applies what IKE put out, in order: an SA stands before the message that tells the peer of it.
    pub(super) async fn drain(&mut self) {
        self.record_admissions();
        while let Some(output) = self.endpoint.poll_output() {
            match output {
                Output::Transmit {
                    local,
                    remote,
                    payload,
                } => self.sockets.send(local, remote, &payload),
                Output::InstallChildSa(install) => self.install(&install).await,
                Output::ActivateOutbound { child, beside } => {
                    if let Some(handle) = self.sadb.handle(child) {
                        let outcome = self.engine.activate_outbound(handle, &self.handles(&beside));
                        log_failure("outbound SA not activated", outcome);
                    }
                }
                Output::UpdateChildSa {
                    child,
                    local,
                    remote,
                    udp_encap,
                } => {
                    if let Some(handle) = self.sadb.handle(child) {
                        let outcome = self.engine.update(handle, local, remote, udp_encap);
                        log_failure("SA not sent to the peer's new address", outcome);
                    }
                }
                Output::RemoveChildSa { child, direction } => {
                    if let Some(handle) = self.sadb.remove(child, direction) {
                        log_failure("SA not removed", self.engine.remove(handle, direction));
                    }
                }
                Output::IkeSpi { spi, stands } => {
                    let outcome = self.engine.set_ike_spi(spi, stands);
                    log_failure("an IKE SA has no more than its peer's address may send", outcome);
                }
                Output::Event(event) => self.note(&event),
            }
        }
    }

    fn note(&mut self, event: &Event) {
        self.record(Notice::Ike(event));
        self.connections.note(self.clock.unix_ms(), event);
    }

    async fn install(&mut self, install: &ChildSaInstall) {
        let outcome = match self.add_sites() {
            Err(error) if self.new_sites.contains(&install.site) => Err(error),
            // What keeps another site out is no reason to refuse this one.
            added => {
                log_failure("a site is not known to the data plane yet", added);
                let beside = self.handles(&install.beside);
                self.engine.install(install, beside).await
            }
        };
        match outcome {
            Ok(handle) => self.sadb.insert(install.child, install.site, handle),
            Err(error) => {
                // The peer is told of an SA that is not there: take it back at once rather than lose its packets.
                self.record(Notice::NotInstalled {
                    child: install.child,
                    site: install.site,
                    reason: &format!("{error:#}"),
                });
                self.endpoint
                    .handle_command(self.clock.now(), Command::CloseChild(install.child));
            }
        }
    }

    /// The data plane's names of those that are installed.
    fn handles(&self, children: &[ChildId]) -> Vec<E::Handle> {
        let handles = children.iter().map(|child| self.sadb.handle(*child));
        handles.flatten().collect()
    }

    /// Tells the data plane of all sites.
    fn set_sites(&mut self) -> anyhow::Result<()> {
        let all: Vec<_> = self
            .sites
            .get()
            .iter()
            .map(|entry| self.blocks.for_data_plane(entry))
            .collect();
        self.engine.set_sites(&all)?;
        let published: Vec<_> = self.sites.get().publications().map(published).collect();
        if published.is_empty() {
            return Ok(());
        }
        self.engine.publish(&published)
    }

    /// Tells the data plane of the sites that came since, and of what is published of them; those that it does not take are
    /// told again. What cannot be published keeps no site's SAs out, neither its own nor others'.
    ///
    /// # Errors
    /// The data plane did not take a site.
    pub(super) fn add_sites(&mut self) -> anyhow::Result<()> {
        if self.new_sites.is_empty() {
            return Ok(());
        }
        let sites = self.sites.get();
        let new = self.new_sites.iter().filter_map(|site| sites.get(*site));
        let new: Vec<_> = new.map(|entry| self.blocks.for_data_plane(entry)).collect();
        self.engine.add_sites(&new)?;
        drop(sites);
        let new = std::mem::take(&mut self.new_sites);
        self.publish_ports(|_, site| new.contains(&site));
        Ok(())
    }

    /// Sends DELETE on every IKE SA and waits a bounded time for the acknowledgements.
    async fn delete_all(&mut self, datagrams: &mut mpsc::Receiver<Datagram>) {
        let until = self.clock.instant(self.clock.now().mono_ms + CLOSE_MS);
        self.endpoint.handle_command(self.clock.now(), Command::Stop);
        self.drain().await;
        while self.endpoint.ike_sas().next().is_some() {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let next = self
                .deadline()
                .min(until)
                .saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                tracing::warn!("some peers did not acknowledge the DELETE in time");
                return;
            }
            match timeout(next, datagrams.recv()).await {
                Ok(Some(datagram)) => self.handle_datagram(&datagram).await,
                Ok(None) => return,
                Err(_) => self.handle_timeout().await,
            }
        }
    }
}

pub(super) fn log_failure(what: &str, outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        tracing::error!(error = format!("{error:#}"), "{what}");
    }
}
