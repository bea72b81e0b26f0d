//! All IKE SAs of one side: finds the one a datagram belongs to, keeps the timers, takes commands.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    ops::Bound,
    sync::Arc,
};

pub use drain::Draining;

use connections::Link;
use stray::Strays;

use crate::{
    allowance::Allowances,
    child_sa::{ChildSa, Phase},
    config::{EndpointConfig, Time},
    context::{
        Allocator, ByPeer, Context, Deferred, NAT_PORT, NON_ESP_MARKER, Neighbours, Path, Predecessor,
    },
    cookie::CookieJar,
    counters::Counters,
    crypto::random::Random,
    exchange::{
        admission::Gate,
        create_child_sa,
        ike_sa_init::{self, Answered, ExpectInitResponse, Initiated},
        resume,
    },
    half_open::{Booked, HalfOpen, HalfOpenUse},
    ids::{ChildId, IkeSaId},
    ike_sa::{Established, IkeSa, State, Task},
    keepalive::NAT_KEEPALIVE,
    mobike,
    networks::Networks,
    output::{CloseReason, Direction, Event, IkeSaInfo, Output, TimeoutReason},
    pki::identity::Identity,
    redirect::OtherGateway,
    resource::ResourceId,
    ticket::Tickets,
    traffic_selector::TrafficSelector,
    wire::{
        Exchange, Header, Payload, WireError,
        header::HEADER_LEN,
        notify::{Notify, kind},
        payload_type,
    },
};

mod connections;
mod details;
mod drain;
mod index;
mod stray;
#[cfg(test)]
mod tests;
mod trust;

/// IKE SAs whose time has come that are looked at in one go: chains may have to be verified, and messages of peers must not wait
/// until all are done.
const TIMEOUTS_AT_ONCE: usize = 64;

/// What the operator or the data plane wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Bring up a configured connection, unless it is up or on its way.
    Initiate {
        /// Its name.
        connection: String,
    },
    /// Authenticate the peer of a connection anew, if it is up (RFC 7296 section 2.8.3).
    Reauthenticate {
        /// Its name.
        connection: String,
    },
    /// Take a connection down and keep it down until [`Command::Initiate`] or [`Command::Acquire`].
    Terminate {
        /// Its name.
        connection: String,
    },
    /// A packet wants to go to the peer of a connection and no Child SA carries it. Brings the connection
    /// up, or makes a Child SA on the IKE SA that is there. May come for every such packet.
    Acquire {
        /// Name of the connection.
        connection: String,
        /// The packet, on our side.
        ts_local: TrafficSelector,
        /// The packet, on the peer's side.
        ts_remote: TrafficSelector,
    },
    /// Negotiate another Child SA on an IKE SA.
    CreateChild {
        /// The IKE SA.
        ike_sa: IkeSaId,
        /// Traffic on our side.
        ts_local: Vec<TrafficSelector>,
        /// Traffic on the peer's side.
        ts_remote: Vec<TrafficSelector>,
        /// What it is for, if the peer may have others with the same traffic (RFC 9611).
        resource: Option<ResourceId>,
    },
    /// Rekey a Child SA now.
    RekeyChild(ChildId),
    /// Rekey an IKE SA now.
    RekeyIke(IkeSaId),
    /// Delete a Child SA.
    CloseChild(ChildId),
    /// Move an IKE SA that we began, with its Child SAs, to other addresses (MOBIKE, RFC 4555). The port is 4500
    /// in any case.
    Move {
        /// The IKE SA.
        ike_sa: IkeSaId,
        /// Our address from now on.
        local: SocketAddr,
        /// The peer's address from now on.
        remote: SocketAddr,
    },
    /// Send peers that can be redirected, those that are here and those that come, to another gateway (RFC 5685); `None`
    /// ends it.
    Drain {
        /// Where to.
        to: Option<OtherGateway>,
    },
    /// Delete an IKE SA with its Child SAs.
    Close(IkeSaId),
    /// Delete all.
    CloseAll,
    /// Delete all before the end, and answer nobody who begins anew: who is answered would have to be told at once that it
    /// was for nothing. Asked again and again, whoever comes next answers.
    Stop,
}

/// One side of any number of IKE SAs, by the SPI that peers address us by.
pub(crate) enum Entry {
    /// Our IKE_SA_INIT waits for its response; there are no keys yet.
    Initiating(Box<ExpectInitResponse>),
    Sa(Box<IkeSa>),
}

/// What the indices hold of an entry, to take it out again.
struct Indexed {
    id: IkeSaId,
    deadline: (u64, TimeoutReason),
    children: Vec<ChildId>,
    peer: Option<Arc<Identity>>,
    connection: Option<Arc<str>>,
    /// Where the IKE_SA_INIT request came from that made it.
    answered: Option<(SocketAddr, u64)>,
    half_open: Option<Booked>,
    /// The index of its SPI is its own.
    has_index: bool,
    /// [`Output::IkeSpi`] said that it stands.
    stands: bool,
}

/// An IKEv2 endpoint, responder and initiator. See the crate's documentation for how to drive it.
pub struct Endpoint {
    config: EndpointConfig,
    random: Box<dyn Random + Send>,
    entries: HashMap<u64, Entry>,
    /// IKE_SA_INIT requests that were answered: who sent them, and the request, to answer repetitions.
    answered: HashMap<(SocketAddr, u64), u64>,
    by_id: BTreeMap<IkeSaId, u64>,
    by_child: HashMap<ChildId, u64>,
    /// Established IKE SAs by the identity of the peer.
    by_peer: ByPeer,
    /// IKE SAs of a connection of ours, and attempts at them.
    by_connection: HashMap<Arc<str>, BTreeSet<u64>>,
    links: BTreeMap<Arc<str>, Link>,
    /// When attempts are due.
    connect_at: BTreeSet<(u64, Arc<str>)>,
    deadlines: BTreeSet<(u64, TimeoutReason, u64)>,
    indexed: HashMap<u64, Indexed>,
    half_open: HalfOpen,
    lingering: BTreeSet<(u64, ChildId, u32)>,
    outputs: VecDeque<Output>,
    allocator: Allocator,
    counters: Counters,
    cookies: CookieJar,
    strays: Strays,
    now: Time,
    /// While chains are verified again: the last IKE SA that was.
    verified_to: Option<Option<IkeSaId>>,
    /// When the next revocation list that is not valid yet is, unix time.
    next_list_unix_s: Option<u64>,
    /// While peers are sent away: when the next are, and the last that was.
    drained_to: Option<(u64, Option<IkeSaId>)>,
    tickets: Tickets,
    allowances: Allowances,
    networks: Networks,
    /// The end is near.
    stopping: bool,
}

/// The IKE SA of a Child SA, to be told of what makes its deadlines later, where it stands. Its place in the index
/// stays as it is: it may say too early a time, at which nothing is found to be due. With signs of life of
/// thousands of peers each second that is cheaper than to move each.
fn sa_of<'a>(
    by_child: &HashMap<ChildId, u64>,
    entries: &'a mut HashMap<u64, Entry>,
    child: ChildId,
) -> Option<(u64, &'a mut IkeSa)> {
    let spi = *by_child.get(&child)?;
    match entries.get_mut(&spi)? {
        Entry::Sa(ike_sa) => Some((spi, ike_sa)),
        Entry::Initiating(_) => None,
    }
}

/// The parts of an endpoint that the handling of one IKE SA may touch.
macro_rules! context {
    ($self:ident, $deferred:ident) => {
        Context {
            config: &$self.config,
            now: $self.now,
            random: &mut *$self.random,
            outputs: &mut $self.outputs,
            allocator: &mut $self.allocator,
            counters: &mut $self.counters,
            lingering: &mut $self.lingering,
            deferred: &mut $deferred,
            neighbours: Neighbours::new(&$self.entries, &$self.by_peer),
            tickets: &mut $self.tickets,
            allowances: &mut $self.allowances,
            networks: &mut $self.networks,
        }
    };
}
use context;

impl Endpoint {
    /// An endpoint without IKE SAs.
    pub fn new(config: EndpointConfig, mut random: Box<dyn Random + Send>) -> Self {
        let cookies = CookieJar::new(&mut *random);
        let allocator = Allocator::new(config.esp_spi_index_bits, config.ike_spi_index_bits);
        let mut this = Self {
            config,
            random,
            entries: HashMap::new(),
            answered: HashMap::new(),
            by_id: BTreeMap::new(),
            by_child: HashMap::new(),
            by_peer: HashMap::new(),
            by_connection: HashMap::new(),
            links: BTreeMap::new(),
            connect_at: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            indexed: HashMap::new(),
            half_open: HalfOpen::default(),
            lingering: BTreeSet::new(),
            outputs: VecDeque::new(),
            allocator,
            counters: Counters::default(),
            cookies,
            strays: Strays::default(),
            now: Time {
                mono_ms: 0,
                unix_s: 0,
            },
            verified_to: None,
            next_list_unix_s: None,
            drained_to: None,
            tickets: Tickets::default(),
            allowances: Allowances::default(),
            networks: Networks::default(),
            stopping: false,
        };
        this.load_connections();
        this.await_next_list();
        this
    }

    /// Replaces the configuration; what is established stays as it is until it is rekeyed.
    pub fn set_config(&mut self, config: EndpointConfig) {
        self.config = config;
        self.load_connections();
        self.await_next_list();
    }

    /// Child SAs whose networks take room.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn children_with_networks(&self) -> impl Iterator<Item = ChildId> {
        self.networks.children()
    }

    /// Handles a UDP payload received on `local` from `remote`. On local port 4500 it begins with the
    /// four-octet non-ESP marker.
    pub fn handle_datagram(&mut self, now: Time, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        self.now = now;
        self.counters.received += 1;
        if local.port() == NAT_PORT && payload == NAT_KEEPALIVE {
            self.counters.keepalives_received += 1;
            return;
        }
        let message = if local.port() == NAT_PORT {
            payload.strip_prefix(&NON_ESP_MARKER)
        } else {
            Some(payload)
        };
        // Port 0 names nobody who could be answered (RFC 768): an IKE SA behind a NAT would move there.
        let Some(message) = message.filter(|_| remote.port() != 0) else {
            self.counters.malformed += 1;
            return;
        };
        let path = Path { local, remote };
        match Header::parse(message) {
            Ok(header) => self.dispatch(path, &header, message),
            Err(WireError::UnsupportedVersion(version)) => self.refuse_version(path, version, message),
            Err(_) => self.counters.malformed += 1,
        }
    }

    fn dispatch(&mut self, path: Path, header: &Header, message: &[u8]) {
        let begins = matches!(header.exchange, Exchange::IkeSaInit | Exchange::IkeSessionResume);
        if begins && header.from_initiator && !header.response {
            return self.handle_init_request(path, header, message);
        }
        let own_spi = if header.from_initiator {
            header.spi_r
        } else {
            header.spi_i
        };
        if header.response && self.is_hint(own_spi, path, header, message) {
            return;
        }
        let Some(entry) = self.entries.remove(&own_spi) else {
            self.counters.unknown_spi += 1;
            return self.answer_stray(path, header, message);
        };
        let mut deferred = Vec::new();
        let mut ctx = context!(self, deferred);
        let entry = match entry {
            Entry::Sa(mut ike_sa) => {
                ike_sa.handle_datagram(&mut ctx, path, header, message);
                Some(Entry::Sa(ike_sa))
            }
            Entry::Initiating(awaited) => handle_init_response(&mut ctx, awaited, path, header, message),
        };
        self.put_back(own_spi, entry);
        self.handle_deferred(deferred);
        self.retire_predecessors_of(own_spi);
    }

    fn handle_init_request(&mut self, path: Path, header: &Header, message: &[u8]) {
        if header.spi_r != 0 || header.message_id != 0 {
            self.counters.malformed += 1;
            return;
        }
        let key = (path.remote, header.spi_i);
        if let Some(Entry::Sa(ike_sa)) = self.answered.get(&key).and_then(|spi| self.entries.get_mut(spi)) {
            // RFC 7296 section 2.1: the same request gets the same answer; another one with the same SPI none.
            if let Some(handshake) = ike_sa.handshake_mut()
                && handshake.init_request == message
                && handshake.answers_left > 0
            {
                handshake.answers_left -= 1;
                let answer = handshake.init_response.clone();
                let mut deferred = Vec::new();
                self.counters.repeated += 1;
                context!(self, deferred).transmit(path, &[answer]);
            }
            return;
        }
        if self.stopping {
            return;
        }
        if self.half_open.is_full(&self.config) {
            self.counters.half_open_full += 1;
            return;
        }
        let mut deferred = Vec::new();
        let mut ctx = context!(self, deferred);
        let gate = Gate {
            half_open: &mut self.half_open,
            cookies: &mut self.cookies,
        };
        let answered = if header.exchange == Exchange::IkeSessionResume {
            resume::respond(&mut ctx, path, header, message, gate)
        } else {
            ike_sa_init::respond(&mut ctx, path, header, message, gate)
        };
        if let Answered::HalfOpen(ike_sa) = answered {
            let own_spi = ike_sa.core.channel.own_spi();
            self.put_back(own_spi, Some(Entry::Sa(ike_sa)));
            self.answered.insert(key, own_spi);
            if let Some(indexed) = self.indexed.get_mut(&own_spi) {
                indexed.answered = Some(key);
            }
        }
    }

    /// Does everything that is due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        while let Some((due, child, spi)) = self
            .lingering
            .first()
            .copied()
            .filter(|(due, ..)| *due <= now.mono_ms)
        {
            self.lingering.remove(&(due, child, spi));
            self.allocator.release(spi);
            self.outputs.push_back(Output::RemoveChildSa {
                child,
                direction: Direction::Inbound,
            });
        }
        // Each once: what becomes due again at the same instant waits for the next call.
        let due: Vec<u64> = self
            .deadlines
            .iter()
            .take_while(|(due, ..)| *due <= now.mono_ms)
            .take(TIMEOUTS_AT_ONCE)
            .map(|(_, _, spi)| *spi)
            .collect();
        for spi in due {
            self.handle_entry_timeout(spi);
        }
        let due: Vec<_> = self
            .connect_at
            .iter()
            .take_while(|(due_ms, _)| *due_ms <= now.mono_ms)
            .map(|(_, name)| Arc::clone(name))
            .collect();
        due.iter().for_each(|name| self.tend(name));
        self.take_lists_that_came();
        self.verify_some_again();
        self.redirect_some();
    }

    fn handle_entry_timeout(&mut self, spi: u64) {
        let Some(entry) = self.entries.remove(&spi) else {
            return;
        };
        let mut deferred = Vec::new();
        let mut ctx = context!(self, deferred);
        let entry = match entry {
            Entry::Sa(mut ike_sa) => {
                ike_sa.handle_timeout(&mut ctx);
                Some(Entry::Sa(ike_sa))
            }
            Entry::Initiating(mut awaited) => awaited
                .handle_timeout(&mut ctx)
                .then_some(Entry::Initiating(awaited)),
        };
        self.put_back(spi, entry);
        self.handle_deferred(deferred);
        self.retire_predecessors_of(spi);
    }

    /// Carries out a command; one that names what is not there does nothing.
    pub fn handle_command(&mut self, now: Time, command: Command) {
        self.now = now;
        match command {
            Command::Initiate { connection } => self.initiate(&connection),
            Command::Reauthenticate { connection } => {
                let name: Arc<str> = connection.into();
                if self.by_connection.contains_key(&name) {
                    self.reauthenticate(&name);
                }
            }
            Command::Terminate { connection } => self.terminate(&connection),
            Command::Acquire {
                connection,
                ts_local,
                ts_remote,
            } => self.acquire(&connection, (ts_local, ts_remote)),
            Command::RekeyChild(child) => {
                self.queue(
                    self.by_child.get(&child).copied(),
                    Task::RekeyChild { child, group: None },
                );
            }
            Command::CloseChild(child) => {
                self.queue(self.by_child.get(&child).copied(), Task::DeleteChild(child))
            }
            Command::RekeyIke(id) => self.queue(self.by_id.get(&id).copied(), Task::RekeyIke { group: None }),
            Command::CreateChild {
                ike_sa,
                ts_local,
                ts_remote,
                resource,
            } => {
                let task = Task::NewChild {
                    selectors: (ts_local, ts_remote),
                    group: None,
                    resource,
                };
                self.queue(self.by_id.get(&ike_sa).copied(), task);
            }
            Command::Move {
                ike_sa,
                local,
                remote,
            } => self.with_sa(self.by_id.get(&ike_sa).copied(), |ike_sa, ctx| {
                ike_sa.move_to(ctx, local, remote);
            }),
            Command::Drain { to } => self.drain(to),
            Command::Close(id) => {
                if let Some(spi) = self.by_id.get(&id).copied() {
                    self.forgo(spi);
                    self.close(spi);
                }
            }
            Command::Stop => {
                self.stopping = true;
                self.handle_command(now, Command::CloseAll);
            }
            Command::CloseAll => {
                let names: Vec<_> = self.links.keys().cloned().collect();
                names.iter().for_each(|name| self.terminate(name));
                let spis: Vec<_> = self.by_id.values().copied().collect();
                spis.into_iter().for_each(|spi| self.close(spi));
            }
        }
    }

    fn queue(&mut self, spi: Option<u64>, task: Task) {
        self.with_sa(spi, |ike_sa, ctx| {
            if let Some(established) = ike_sa.established_mut()
                && !established.is_ending()
            {
                established.push_new(task);
            }
            ike_sa.pump(ctx);
        });
    }

    fn close(&mut self, spi: u64) {
        if let Some(Entry::Initiating(awaited)) = self.entries.get(&spi) {
            let ike_sa = awaited.id;
            let name: Arc<str> = awaited.connection_name().into();
            self.put_back(spi, None);
            let closed = Event::Closed {
                ike_sa,
                peer: String::new(),
                reason: CloseReason::Requested,
            };
            self.outputs.push_back(Output::Event(closed));
            self.connection_ended(&name, false, &CloseReason::Requested);
            return;
        }
        self.with_sa(Some(spi), |ike_sa, ctx| ike_sa.close(ctx, CloseReason::Requested));
    }

    fn with_sa(&mut self, spi: Option<u64>, act: impl FnOnce(&mut IkeSa, &mut Context<'_>)) {
        let Some((spi, entry)) = spi.and_then(|spi| self.entries.remove_entry(&spi)) else {
            return;
        };
        let mut deferred = Vec::new();
        let entry = match entry {
            Entry::Sa(mut ike_sa) => {
                act(&mut ike_sa, &mut context!(self, deferred));
                Entry::Sa(ike_sa)
            }
            other @ Entry::Initiating(_) => other,
        };
        self.put_back(spi, Some(entry));
        self.handle_deferred(deferred);
    }

    /// The data plane saw an authentic packet on the inbound SA of `child`: the peer is there, and has
    /// installed the Child SA.
    pub fn handle_child_traffic(&mut self, now: Time, child: ChildId) {
        self.now = now;
        let Some((spi, ike_sa)) = sa_of(&self.by_child, &mut self.entries, child) else {
            return;
        };
        let Some(established) = ike_sa.established_mut() else {
            return;
        };
        established.heard_at(now.mono_ms);
        established.used(now.mono_ms, child);
        if established.awaits_traffic(child) {
            self.with_sa(Some(spi), |ike_sa, ctx| {
                if let Some(established) = ike_sa.established_mut() {
                    create_child_sa::activate(established, ctx, child);
                }
            });
        }
    }

    /// The data plane saw an authentic ESP packet, newer than all before, come from another outer address or
    /// port than it sends `child` to.
    pub fn handle_peer_moved(&mut self, now: Time, child: ChildId, remote: SocketAddr) {
        self.now = now;
        self.with_sa(self.by_child.get(&child).copied(), |ike_sa, ctx| {
            ike_sa.follow_esp(ctx, remote);
        });
    }

    /// The network says that `remote` cannot be reached. Anybody can say so: each IKE SA with it is asked
    /// whether it still stands, at most once in a while (RFC 7296 section 2.4).
    pub fn handle_unreachable(&mut self, now: Time, remote: SocketAddr) {
        self.now = now;
        let at_remote = |entry: &Entry| {
            matches!(entry, Entry::Sa(ike_sa)
                if ike_sa.core.path.remote == remote && ike_sa.established().is_some())
        };
        let spis: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| at_remote(entry))
            .map(|(spi, _)| *spi)
            .collect();
        for spi in spis {
            self.counters.hints += 1;
            self.with_sa(Some(spi), |ike_sa, ctx| {
                if let Some(established) = ike_sa.established_mut() {
                    established.suspect(ctx.now.mono_ms);
                }
                ike_sa.pump(ctx);
            });
        }
    }

    /// The data plane sent packets on the outbound SA of `child`: it is in use.
    pub fn handle_child_sent(&mut self, now: Time, child: ChildId) {
        self.now = now;
        let Some((spi, ike_sa)) = sa_of(&self.by_child, &mut self.entries, child) else {
            return;
        };
        if let Some(established) = ike_sa.established_mut() {
            established.used(now.mono_ms, child);
        }
        if ike_sa.esp_sent(&self.config, now) {
            // An earlier deadline: the index has to know.
            self.with_sa(Some(spi), |_, _| ());
        }
    }

    /// The next thing for the caller to do. An installation stands before the message that tells the peer,
    /// so each is to be done before the next is taken.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When, in monotonic milliseconds, [`Self::handle_timeout`] is to be called next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(u64, TimeoutReason)> {
        let lingering = self
            .lingering
            .first()
            .map(|(due, ..)| (*due, TimeoutReason::Linger));
        let next = self.deadlines.first().map(|(due, reason, _)| (*due, *reason));
        let connect = self
            .connect_at
            .first()
            .map(|(due, _)| (*due, TimeoutReason::Connect));
        let verify = self
            .is_verifying()
            .then_some(self.now.mono_ms)
            .or(self.next_list_ms())
            .map(|due_ms| (due_ms, TimeoutReason::Verify));
        let redirect = self
            .drained_to
            .map(|(due_ms, _)| (due_ms, TimeoutReason::Redirect));
        lingering
            .into_iter()
            .chain(redirect)
            .chain(next)
            .chain(connect)
            .chain(verify)
            .min()
    }

    /// All IKE SAs in words, oldest first.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeSaInfo> {
        self.ike_sas_after(None)
    }

    /// Those that are younger than `after`, oldest first: who goes through all of them some at a time meets each that stays.
    pub fn ike_sas_after(&self, after: Option<IkeSaId>) -> impl Iterator<Item = IkeSaInfo> {
        let now_ms = self.now.mono_ms;
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_id
            .range((after, Bound::Unbounded))
            .filter_map(move |(_, spi)| match self.entries.get(spi) {
                Some(Entry::Sa(ike_sa)) if !matches!(ike_sa.state, State::Closed { .. }) => {
                    Some(ike_sa.info(now_ms))
                }
                Some(Entry::Sa(_) | Entry::Initiating(_)) | None => None,
            })
    }

    /// How many handshakes are in progress as responder or were refused a moment ago, and the memory they take.
    pub fn half_open(&self) -> HalfOpenUse {
        self.half_open.usage()
    }

    /// What was dropped, and other counts.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn handle_deferred(&mut self, deferred: Vec<Deferred>) {
        let (mut spawned, mut others) = (Vec::new(), Vec::new());
        for one in deferred {
            match one.spawned() {
                Ok(ike_sa) => spawned.push(ike_sa),
                Err(other) => others.push(other),
            }
        }
        for mut ike_sa in spawned {
            let spi = ike_sa.core.channel.own_spi();
            let mut deferred = Vec::new();
            ike_sa.pump(&mut context!(self, deferred));
            self.put_back(spi, Some(Entry::Sa(ike_sa)));
        }
        for other in others {
            match other {
                Deferred::Spawn(_) => {}
                Deferred::Adopt {
                    to,
                    children,
                    tasks,
                    before,
                } => self.adopt(to, children, tasks, *before),
                Deferred::CloseOthers { peer, except } => self.close_others(&peer, except),
                Deferred::Limit { peer } => self.limit_peer(&peer),
                Deferred::LimitSuperseded { peer } => self.limit_superseded(&peer),
                Deferred::ChildGone { child, peer } => self.child_is_gone(&child, &peer),
                Deferred::Authenticated { connection, spi } => self.connection_is_up(&connection, spi),
                Deferred::Reauthenticate { connection } => self.reauthenticate(&connection),
                Deferred::Ticket { connection, ticket } => {
                    if let Some(link) = self.links.get_mut(&connection) {
                        link.ticket = Some(ticket);
                    }
                }
                Deferred::Redirected {
                    connection,
                    to,
                    from,
                    established,
                } => self.redirected(&connection, &to, from, established),
                Deferred::Ended {
                    connection,
                    was_up,
                    reason,
                } => self.connection_ended(&connection, was_up, &reason),
            }
        }
    }

    fn adopt(&mut self, to: u64, children: Vec<ChildSa>, tasks: Vec<Task>, before: Predecessor) {
        let mut left = Some((children, tasks));
        self.with_sa(Some(to), |ike_sa, ctx| {
            let new = ike_sa.core.id;
            let core = &ike_sa.core;
            if let State::Established(established) = &mut ike_sa.state
                && let Some((children, tasks)) = left.take()
            {
                established.redundant = false;
                established.adopt(children, tasks);
                if established.mobike.is_enabled() {
                    // A move may have come while they belonged to the IKE SA before.
                    mobike::send_children_to(established, core, ctx, established.child_path(core));
                }
                ctx.event(Event::IkeSaRekeyed { old: before.id, new });
                if let Some(reason) = before.closing.clone() {
                    established.begin_close(ctx, reason);
                }
            }
            ike_sa.pump(ctx);
        });
        if let Some((children, _)) = left {
            self.bury(&children, before);
        }
    }

    /// The IKE SA that should have taken the Child SAs is gone already: so are they.
    fn bury(&mut self, children: &[ChildSa], before: Predecessor) {
        let mut deferred = Vec::new();
        let mut ctx = context!(self, deferred);
        let reason = before.closing.unwrap_or(CloseReason::DeletedByPeer);
        for child in children {
            ctx.remove_closed(child, &before.peer);
        }
        ctx.event(Event::Closed {
            ike_sa: before.id,
            peer: before.peer.to_string(),
            reason: reason.clone(),
        });
        let ended = before.connection.map(|connection| Deferred::Ended {
            connection,
            was_up: true,
            reason,
        });
        ctx.deferred.extend(ended);
        self.handle_deferred(deferred);
    }

    /// A Child SA is gone: what another IKE SA of the peer made in its place is sent on from now on.
    fn child_is_gone(&mut self, gone: &ChildSa, peer: &Identity) {
        let spis = self.by_peer.get(peer).cloned().unwrap_or_default();
        for spi in spis {
            self.with_sa(Some(spi), |ike_sa, ctx| {
                if let Some(established) = ike_sa.established_mut()
                    && !established.children.iter().any(|child| child.id == gone.id)
                {
                    create_child_sa::activate_successors(established, ctx, gone.id);
                    if gone.phase == Phase::Live {
                        create_child_sa::carry_on(established, ctx, gone);
                    }
                }
            });
        }
    }

    /// Ends the oldest IKE SAs of a peer that has too many: one that comes anew again and again does not fill
    /// the memory.
    fn limit_peer(&mut self, peer: &Identity) {
        for spi in self.surplus(peer, |_| true) {
            self.with_sa(Some(spi), |ike_sa, ctx| {
                ike_sa.drop_superfluous(ctx, CloseReason::TooMany);
            });
        }
    }

    /// Forgets the oldest IKE SAs that a peer rekeyed and did not delete, when there are more than it may have: it has
    /// used those after them, so nothing is repeated on these any more.
    fn limit_superseded(&mut self, peer: &Identity) {
        for spi in self.surplus(peer, |established| established.superseded.is_some()) {
            self.with_sa(Some(spi), |ike_sa, ctx| {
                ike_sa.drop_superfluous(ctx, CloseReason::TooMany);
                ike_sa.state = State::Closed { until_ms: 0 };
            });
        }
    }

    /// Of a peer's IKE SAs that count, the oldest beyond as many as it may have.
    fn surplus(&self, peer: &Identity, counts: impl Fn(&Established) -> bool) -> Vec<u64> {
        let counts = |spi: &&u64| {
            matches!(self.entries.get(spi), Some(Entry::Sa(ike_sa))
                if ike_sa.established().is_some_and(&counts))
        };
        let spis = self.by_peer.get(peer).into_iter().flatten().filter(counts);
        let mut by_age: Vec<_> = spis
            .filter_map(|spi| Some((self.indexed.get(spi)?.id, *spi)))
            .collect();
        by_age.sort_unstable();
        let max = self.config.ike_sas_per_peer_max.max(1);
        by_age.truncate(by_age.len().saturating_sub(max));
        by_age.into_iter().map(|(_, spi)| spi).collect()
    }

    fn close_others(&mut self, peer: &Identity, except: IkeSaId) {
        let kept = self.by_id.get(&except).copied();
        let others = self.by_peer.get(peer).cloned().unwrap_or_default();
        for spi in others.into_iter().filter(|spi| Some(*spi) != kept) {
            self.with_sa(Some(spi), |ike_sa, ctx| {
                ike_sa.drop_superfluous(ctx, CloseReason::ReplacedByInitialContact);
            });
        }
    }
}

fn handle_init_response(
    ctx: &mut Context<'_>,
    awaited: Box<ExpectInitResponse>,
    path: Path,
    header: &Header,
    message: &[u8],
) -> Option<Entry> {
    let expected = header.exchange == awaited.exchange()
        && header.response
        && !header.from_initiator
        && header.message_id == 0
        && path.remote == awaited.path.remote
        && message.len() > HEADER_LEN;
    if !expected {
        ctx.counters.unexpected += 1;
        return Some(Entry::Initiating(awaited));
    }
    match awaited.handle(ctx, header, message) {
        Initiated::Again(awaited) => Some(Entry::Initiating(awaited)),
        Initiated::Proceed(ike_sa) => Some(Entry::Sa(ike_sa)),
        Initiated::Failed => None,
    }
}
