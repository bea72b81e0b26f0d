//! The proxy without I/O: datagrams, decisions, time and randomness go in, what is to be done comes out.
//!
//! A question goes through three stages: the controller says who asks and which sets of names that allows
//! ([`Output::Admit`]), upstream servers are asked ([`Output::Ask`]), the controller opens the addresses
//! ([`Output::Open`]); then the answer leaves. Equal questions share the second stage alone: each is admitted, and its
//! addresses are opened, for its own site.
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::lookups::{Lookup, Lookups};
use super::message::{Answer, Kind, Question, Refused, Unusable};
use super::private::Private;
use super::rate::Rate;

/// Milliseconds that an upstream server has for an answer.
pub const ASK_MS: u64 = 1_500;
/// Milliseconds that a question may take in all: clients ask again after 5 s.
pub const QUESTION_MS: u64 = 4_500;
/// Milliseconds that the controller has to decide or to open.
const DECIDE_MS: u64 = 2_000;

/// Questions of one address in a second that are read, as a multiple of those that a site may ask, and that one port block
/// may: sites may share an address. What is more costs a look-up and is gone before anybody else's question waits for it.
const ADDRESS_SHARE: u32 = 50;

/// How sites share addresses, as far as it is known before anybody is asked: by blocks of so many ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares(Vec<(Ipv4Addr, Ipv4Addr, u32)>);

impl Shares {
    /// From the first to the last of each run of addresses there are port blocks of this size, of which each begins at a
    /// multiple of its size. Nobody shares other addresses.
    #[must_use]
    pub fn new(blocks: impl IntoIterator<Item = (Ipv4Addr, Ipv4Addr, u32)>) -> Self {
        let blocks = blocks.into_iter().filter(|(_, _, size)| *size > 0);
        Self(blocks.collect())
    }

    /// A number that two sites never have in common; a site has one for each of its blocks.
    #[must_use]
    pub fn of(&self, client: SocketAddrV4) -> u64 {
        let address = client.ip();
        let mut shared = self.0.iter();
        let found = shared.find(|(first, last, _)| (first..=last).contains(&address));
        let block = found.map_or(0, |(_, _, size)| u32::from(client.port()) / size);
        u64::from(u32::from(*address)) << 16 | u64::from(block)
    }
}

/// What the proxy is told by configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How sites share addresses.
    pub shares: Shares,
    /// Servers to ask, first first.
    pub upstream: Vec<SocketAddr>,
    /// Questions of one site in a second.
    pub site_queries_per_s: u32,
    /// Questions that wait for an answer at a time, of all sites.
    pub outstanding_max: u32,
    /// Of one site.
    pub site_outstanding_max: u32,
    /// Longest TTL that sites are told.
    pub ttl_max_s: u32,
    /// Addresses that no name may lead to.
    pub private: Private,
}

/// How a question came, or an answer is to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The site's translated address and port.
    pub address: SocketAddrV4,
    /// How it asks.
    pub transport: Transport,
    /// Number of the connection; zero for datagrams.
    pub connection: u64,
}

/// The number of a question.
pub type Token = u64;
/// The number of an attempt at an upstream server.
pub type Ask = u64;

/// What the controller says of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The site that asks.
    pub site: u32,
    /// Sets that the name is in and that the site may reach; empty: it may not ask for it.
    pub sets: Vec<u32>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the controller: [`Proxy::handle_admission`].
    Admit {
        /// The question.
        token: Token,
        /// Who asks.
        client: Client,
        /// For what name.
        name: String,
    },
    /// Send this to an upstream server from a port of its own: [`Proxy::handle_answer`], [`Proxy::handle_failure`].
    Ask {
        /// The attempt.
        ask: Ask,
        /// The server.
        server: SocketAddr,
        /// How.
        transport: Transport,
        /// The message.
        message: Vec<u8>,
    },
    /// The attempt is over: close its socket.
    Close {
        /// The attempt.
        ask: Ask,
    },
    /// Have the controller open addresses: [`Proxy::handle_opened`].
    Open {
        /// The question.
        token: Token,
        /// The site that asked.
        site: u32,
        /// Sets to open them for.
        sets: Vec<u32>,
        /// The name that leads there.
        name: String,
        /// The addresses.
        addresses: Vec<Ipv4Addr>,
        /// Seconds that the answer is good for.
        ttl_s: u32,
    },
    /// Send this to a site.
    Answer {
        /// To whom.
        client: Client,
        /// The message.
        message: Vec<u8>,
    },
    /// Tell the operator.
    Report(Report),
}

/// What the operator is told, at most so often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A site asked for a name that no rule lets it reach.
    Refused {
        /// The site.
        site: u32,
        /// The name.
        name: String,
    },
    /// A name led to an address that is never opened.
    Private {
        /// The site that asked.
        site: u32,
        /// The name.
        name: String,
        /// The address.
        address: Ipv4Addr,
    },
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Messages that came from sites.
    pub queries: u64,
    /// Of those: no query, or one that nobody may ask.
    pub malformed: u64,
    /// Of those: from an address that no site has.
    pub unknown_client: u64,
    /// Of those: more than the site may ask.
    pub over_rate: u64,
    /// Of those: no room for another question.
    pub no_room: u64,
    /// Of those: for a name that the site may not reach.
    pub refused: u64,
    /// Answered with addresses, which are open.
    pub opened: u64,
    /// Answered without addresses.
    pub empty: u64,
    /// No upstream server had a usable answer.
    pub failed: u64,
    /// The addresses could not be opened.
    pub not_opened: u64,
    /// Answers of upstream servers to an address that is never opened.
    pub private: u64,
    /// Messages on an upstream socket that do not answer what was asked.
    pub spoofed: u64,
}

/// A question on its way.
#[derive(Debug)]
struct Pending {
    client: Client,
    question: Question,
    until_ms: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The controller is asked who asks.
    Admitting,
    /// An upstream server is asked.
    Asking { admission: Admission },
    /// The controller opens the addresses.
    Opening { site: u32, answer: Answer, ttl_s: u32 },
}

/// All questions on their way.
#[derive(Debug)]
pub struct Proxy {
    settings: Settings,
    rate: Rate,
    /// By port block, before anything is read; then by address.
    blocks: Rate,
    addresses: Rate,
    pending: BTreeMap<Token, Pending>,
    lookups: Lookups,
    /// Questions of each site behind admission.
    of_site: HashMap<u32, u32>,
    next: u64,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Proxy {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            rate: Rate::new(settings.site_queries_per_s),
            blocks: Rate::new(settings.site_queries_per_s),
            addresses: Rate::new(settings.site_queries_per_s.saturating_mul(ADDRESS_SHARE)),
            settings,
            pending: BTreeMap::new(),
            lookups: Lookups::default(),
            of_site: HashMap::new(),
            next: 0,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whose a client's address and port are, as far as it is known before anybody is asked ([`Shares::of`]).
    #[must_use]
    pub fn share_of(&self, client: SocketAddrV4) -> u64 {
        self.settings.shares.of(client)
    }

    /// Questions on their way.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// What is to be done next; call it until there is nothing after each `handle_*`.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Proxy::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let questions = self.pending.values().map(|pending| pending.until_ms).min();
        questions.into_iter().chain(self.lookups.deadline_ms()).min()
    }

    /// A message of a site.
    pub fn handle_query(&mut self, now_ms: u64, client: Client, octets: &[u8]) {
        self.counters.queries += 1;
        let block = self.share_of(client.address);
        let address = u64::from(u32::from(*client.address.ip()));
        // In this order: what one block asks too much takes nothing from the others of its address.
        if !self.blocks.take(block, now_ms) || !self.addresses.take(address, now_ms) {
            self.counters.over_rate += 1;
            return;
        }
        let question = match Question::read(octets) {
            Ok(question) => question,
            Err(refused) => {
                self.counters.malformed += 1;
                if let Refused::With(message) = refused {
                    self.outputs.push_back(Output::Answer { client, message });
                }
                return;
            }
        };
        if self.pending.len() >= self.settings.outstanding_max as usize {
            // No answer: the site asks again, and this one costs nothing more.
            self.counters.no_room += 1;
            return;
        }
        let token = self.number();
        self.outputs.push_back(Output::Admit {
            token,
            client,
            name: question.name.clone(),
        });
        let pending = Pending {
            client,
            question,
            until_ms: now_ms + DECIDE_MS,
            stage: Stage::Admitting,
        };
        self.pending.insert(token, pending);
    }

    /// The controller's answer to [`Output::Admit`]; `None`: no site has this address. `id` is random.
    pub fn handle_admission(&mut self, now_ms: u64, token: Token, admission: Option<Admission>, id: u16) {
        let waits = |pending: &Pending| matches!(pending.stage, Stage::Admitting);
        if !self.pending.get(&token).is_some_and(waits) {
            return;
        }
        let Some(pending) = self.pending.remove(&token) else {
            return;
        };
        let Some(admission) = admission else {
            self.counters.unknown_client += 1;
            return;
        };
        let site = admission.site;
        if !self.rate.take(site.into(), now_ms) {
            self.counters.over_rate += 1;
            return;
        }
        if admission.sets.is_empty() {
            self.counters.refused += 1;
            self.answer(pending.client, pending.question.refused());
            let name = pending.question.name;
            self.outputs
                .push_back(Output::Report(Report::Refused { site, name }));
            return;
        }
        if pending.question.kind() == Kind::Other {
            self.counters.empty += 1;
            self.answer(pending.client, pending.question.nothing());
            return;
        }
        let of_site = self.of_site.entry(site).or_default();
        if *of_site >= self.settings.site_outstanding_max {
            self.counters.no_room += 1;
            return;
        }
        *of_site += 1;
        let question = pending.question.clone();
        let pending = Pending {
            until_ms: now_ms + QUESTION_MS,
            stage: Stage::Asking { admission },
            ..pending
        };
        self.pending.insert(token, pending);
        if !self.lookups.join(&question.name, token) {
            let waiting = BTreeSet::from([token]);
            self.ask(now_ms, question, waiting, (0, Transport::Udp), id);
        }
    }

    /// A message from an upstream server, on the socket of an attempt. `id` is random, for another attempt.
    pub fn handle_answer(&mut self, now_ms: u64, ask: Ask, octets: &[u8], id: u16) {
        let Some(lookup) = self.lookups.get(ask) else {
            return;
        };
        let read = lookup.question.read_answer(lookup.id, octets);
        let transport = lookup.transport;
        if read == Err(Unusable::NotAnAnswer) {
            self.counters.spoofed += 1;
            if transport == Transport::Udp {
                // The true answer may still come: a forger must not end the wait for it.
                return;
            }
        }
        let Some(lookup) = self.taken(ask) else {
            return;
        };
        match read {
            Ok(answer) => {
                for token in lookup.waiting {
                    self.open(now_ms, token, answer.clone());
                }
            }
            Err(Unusable::Truncated) if transport == Transport::Udp => {
                let place = (lookup.attempt, Transport::Tcp);
                self.ask(now_ms, lookup.question, lookup.waiting, place, id);
            }
            Err(Unusable::NotAnAnswer | Unusable::Truncated | Unusable::Failed(_) | Unusable::Chain) => {
                self.ask_next(now_ms, lookup, id);
            }
        }
    }

    /// An upstream server cannot be asked. `id` is random.
    pub fn handle_failure(&mut self, now_ms: u64, ask: Ask, id: u16) {
        if let Some(lookup) = self.taken(ask) {
            self.ask_next(now_ms, lookup, id);
        }
    }

    /// Whether the controller has opened the addresses.
    pub fn handle_opened(&mut self, token: Token, opened: bool) {
        let waits = |pending: &Pending| matches!(pending.stage, Stage::Opening { .. });
        if !self.pending.get(&token).is_some_and(waits) {
            return;
        }
        let Some(pending) = self.pending.remove(&token) else {
            return;
        };
        let Stage::Opening { site, answer, ttl_s } = pending.stage else {
            return;
        };
        self.leave(site);
        let udp = pending.client.transport == Transport::Udp;
        let message = match opened {
            true => {
                self.counters.opened += 1;
                pending.question.answered(&answer, ttl_s, udp)
            }
            false => {
                self.counters.not_opened += 1;
                pending.question.failed()
            }
        };
        self.answer(pending.client, message);
    }

    /// Time has passed. `random` gives IDs.
    pub fn handle_timeout(&mut self, now_ms: u64, mut random: impl FnMut() -> u16) {
        let due = |(token, pending): (&Token, &Pending)| (pending.until_ms <= now_ms).then_some(*token);
        let due: Vec<Token> = self.pending.iter().filter_map(due).collect();
        for token in due {
            let Some(pending) = self.pending.remove(&token) else {
                continue;
            };
            match pending.stage {
                // The controller did not say: nothing is answered, nothing was opened.
                Stage::Admitting => self.counters.failed += 1,
                Stage::Opening { site, .. } => {
                    self.leave(site);
                    self.counters.not_opened += 1;
                    self.answer(pending.client, pending.question.failed());
                }
                Stage::Asking { admission } => {
                    if let Some(ask) = self.lookups.leave(&pending.question.name, token) {
                        self.outputs.push_back(Output::Close { ask });
                    }
                    self.fail(admission.site, pending.client, &pending.question);
                }
            }
        }
        for ask in self.lookups.due(now_ms) {
            if let Some(lookup) = self.taken(ask) {
                self.ask_next(now_ms, lookup, random());
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn answer(&mut self, client: Client, message: Vec<u8>) {
        self.outputs.push_back(Output::Answer { client, message });
    }

    /// One question of a site less.
    fn leave(&mut self, site: u32) {
        if let Some(count) = self.of_site.get_mut(&site) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.of_site.remove(&site);
            }
        }
    }

    /// No upstream server has a usable answer to a question.
    fn fail(&mut self, site: u32, client: Client, question: &Question) {
        self.leave(site);
        self.counters.failed += 1;
        self.answer(client, question.failed());
    }

    /// An attempt, taken out; its socket is closed.
    fn taken(&mut self, ask: Ask) -> Option<Lookup> {
        let lookup = self.lookups.remove(ask)?;
        self.outputs.push_back(Output::Close { ask });
        Some(lookup)
    }

    /// A question that waits for an upstream server's answer, taken out, and its admission.
    fn waiting(&mut self, token: Token) -> Option<(Client, Question, Admission)> {
        let pending = self.pending.remove(&token)?;
        match pending.stage {
            Stage::Asking { admission } => Some((pending.client, pending.question, admission)),
            Stage::Admitting | Stage::Opening { .. } => None,
        }
    }

    /// Asks the server of the next attempt: each server twice at most.
    fn ask_next(&mut self, now_ms: u64, lookup: Lookup, id: u16) {
        let attempt = lookup.attempt + 1;
        if attempt < 2 * self.settings.upstream.len() {
            let place = (attempt, Transport::Udp);
            self.ask(now_ms, lookup.question, lookup.waiting, place, id);
        } else {
            self.fail_all(&lookup.waiting);
        }
    }

    fn fail_all(&mut self, waiting: &BTreeSet<Token>) {
        for token in waiting {
            if let Some((client, question, admission)) = self.waiting(*token) {
                self.fail(admission.site, client, &question);
            }
        }
    }

    fn ask(
        &mut self,
        now_ms: u64,
        question: Question,
        waiting: BTreeSet<Token>,
        (attempt, transport): (usize, Transport),
        id: u16,
    ) {
        let servers = &self.settings.upstream;
        let Some(server) = servers.get(attempt % servers.len().max(1)).copied() else {
            self.fail_all(&waiting);
            return;
        };
        let ask = self.number();
        self.outputs.push_back(Output::Ask {
            ask,
            server,
            transport,
            message: question.forward(id),
        });
        self.lookups.insert(Lookup {
            question,
            ask,
            id,
            attempt,
            transport,
            until_ms: now_ms + ASK_MS,
            waiting,
        });
    }

    /// An answer is there: its addresses are opened before it is told.
    fn open(&mut self, now_ms: u64, token: Token, answer: Answer) {
        let Some((client, question, admission)) = self.waiting(token) else {
            return;
        };
        let Admission { site, sets } = admission;
        let name = question.name.clone();
        let is_private = |address: &&Ipv4Addr| self.settings.private.contains(**address);
        if let Some(address) = answer.addresses.iter().find(is_private).copied() {
            self.leave(site);
            self.counters.private += 1;
            self.answer(client, question.refused());
            self.outputs
                .push_back(Output::Report(Report::Private { site, name, address }));
            return;
        }
        let ttl_s = answer.ttl_s.min(self.settings.ttl_max_s);
        if answer.addresses.is_empty() {
            self.leave(site);
            self.counters.empty += 1;
            let udp = client.transport == Transport::Udp;
            self.answer(client, question.answered(&answer, ttl_s, udp));
            return;
        }
        self.outputs.push_back(Output::Open {
            token,
            site,
            sets,
            name,
            addresses: answer.addresses.clone(),
            ttl_s,
        });
        let pending = Pending {
            client,
            question,
            until_ms: now_ms + DECIDE_MS,
            stage: Stage::Opening { site, answer, ttl_s },
        };
        self.pending.insert(token, pending);
    }
}
