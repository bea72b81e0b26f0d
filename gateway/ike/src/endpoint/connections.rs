//! Connections: which of them are to be up, the next attempt of each, and re-authentication without a gap.
//!
//! ```text
//!            Initiate, Acquire, Start::Now            authenticated
//!   down ------------------------------> connecting ----------------> up
//!    ^                                     |    ^                      |
//!    |  all remotes failed (Manual)        v    | back-off is over     | ended
//!    +-------------------------------- waiting <-----------------------+
//! ```

use std::net::IpAddr;

use super::*;
use crate::{
    child_sa::ChildSa,
    connection::{Connection, ConnectionInfo, ConnectionState, Remote, Start},
    exchange::ike_sa_init::Attempt,
    ticket::ClientTicket,
};

/// A connection asks for another Child SA at most so often, however many packets want one.
const CHILD_EVERY_MS: u64 = 5_000;
/// Packets that wait for an IKE SA are remembered up to this number; all that one Child SA carries count once.
const PACKETS_MAX: usize = 8;
/// While the peer has an IKE SA with us that it began, ours is not tried; it is looked at again so often.
const PEER_IS_HERE_MS: u64 = 30_000;

/// The selectors of a packet: our side, the peer's side.
type Packet = (TrafficSelector, TrafficSelector);

/// What is known of a connection beside its configuration.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Where in the configuration.
    pub(super) index: usize,
    /// It is to be up.
    pub(super) wanted: bool,
    /// Our SPI of the IKE SA that is being set up.
    pub(super) attempt: Option<u64>,
    /// Index of the remote that is tried next, or in use.
    remote: usize,
    /// Attempts that failed since one succeeded.
    failures: u32,
    /// No attempt before this.
    pub(super) not_before_ms: u64,
    /// The peer is to be authenticated anew.
    pub(super) reauthenticate: bool,
    /// Packets that want a Child SA.
    packets: Vec<Packet>,
    /// No further Child SA is asked for before this.
    no_child_before_ms: u64,
    /// As it stands in the timers.
    timer: Option<u64>,
    /// The gateway that the configured one sent us to (RFC 5685), until the connection ends or fails there.
    pub(super) redirect: Option<Remote>,
    /// Which one did; told to the new one while it is set up.
    pub(super) redirected_from: Option<IpAddr>,
    /// When, the last few.
    pub(super) redirects: VecDeque<u64>,
    /// To resume the session with, once (RFC 5723).
    pub(super) ticket: Option<Box<ClientTicket>>,
}

impl Endpoint {
    /// Makes what is known of connections fit the configuration.
    pub(super) fn load_connections(&mut self) {
        let mut before = std::mem::take(&mut self.links);
        self.connect_at.clear();
        for (index, connection) in self.config.connections.iter().enumerate() {
            let name: Arc<str> = connection.name.as_str().into();
            let mut link = before.remove(&name).unwrap_or_else(|| Link {
                wanted: connection.start == Start::Now,
                ..Link::default()
            });
            (link.index, link.timer) = (index, None);
            self.links.insert(name, link);
        }
        let names: Vec<_> = self.links.keys().cloned().collect();
        names.iter().for_each(|name| self.set_timer(name));
    }

    fn connection(&self, name: &str) -> Option<&Connection> {
        self.config.connections.get(self.links.get(name)?.index)
    }

    /// When the link wants an attempt.
    fn attempt_due(&self, name: &str) -> Option<u64> {
        let link = self.links.get(name)?;
        let has_sa = self.by_connection.contains_key(name);
        let wants = link.wanted && link.attempt.is_none() && (!has_sa || link.reauthenticate);
        wants.then_some(link.not_before_ms)
    }

    pub(super) fn set_timer(&mut self, name: &Arc<str>) {
        let due = self.attempt_due(name);
        let Some(link) = self.links.get_mut(name) else {
            return;
        };
        let before = std::mem::replace(&mut link.timer, due);
        if before != due {
            if let Some(due_ms) = before {
                self.connect_at.remove(&(due_ms, Arc::clone(name)));
            }
            self.connect_at
                .extend(due.map(|due_ms| (due_ms, Arc::clone(name))));
        }
    }

    /// Brings a connection up, unless it is.
    pub(super) fn initiate(&mut self, name: &str) {
        let Some((name, link)) = self.link_mut(name) else {
            return;
        };
        // A person asked: no waiting for the end of a back-off.
        link.not_before_ms = 0;
        link.wanted = true;
        self.tend(&name);
    }

    /// Takes a connection down and keeps it down.
    pub(super) fn terminate(&mut self, name: &str) {
        let Some((name, link)) = self.link_mut(name) else {
            return;
        };
        (link.wanted, link.reauthenticate) = (false, false);
        link.packets.clear();
        link.ticket = None;
        let spis = self.by_connection.get(&name).cloned().unwrap_or_default();
        spis.into_iter().for_each(|spi| self.close(spi));
        self.set_timer(&name);
    }

    /// What keeps a connection down after its IKE SA was closed by a person.
    pub(super) fn forgo(&mut self, spi: u64) {
        let Some(name) = self
            .indexed
            .get(&spi)
            .and_then(|indexed| indexed.connection.clone())
        else {
            return;
        };
        if let Some(link) = self.links.get_mut(&name) {
            (link.wanted, link.reauthenticate) = (false, false);
        }
        self.set_timer(&name);
    }

    fn link_mut(&mut self, name: &str) -> Option<(Arc<str>, &mut Link)> {
        let (name, _) = self.links.get_key_value(name)?;
        let name = Arc::clone(name);
        let link = self.links.get_mut(&name)?;
        Some((name, link))
    }

    /// A packet that no Child SA carries wants to go to the peer of a connection.
    pub(super) fn acquire(&mut self, name: &str, packet: Packet) {
        let now_ms = self.now.mono_ms;
        let within = |wide: &[TrafficSelector], one| wide.iter().any(|selector| selector.contains(one));
        let policy = self.connection(name).map(|one| &one.policy);
        let allowed = policy.is_some_and(|policy| {
            within(&policy.ts_local, &packet.0) && within(&policy.ts_remote, &packet.1)
        });
        let Some((name, link)) = self.link_mut(name).filter(|_| allowed) else {
            return;
        };
        if link.packets.len() < PACKETS_MAX && !link.packets.contains(&packet) {
            link.packets.push(packet);
        }
        let connecting = link.attempt.is_some();
        match self.standing(&name) {
            Some(spi) => self.make_children(&name, spi, now_ms),
            None if connecting => {}
            None => {
                if let Some(link) = self.links.get_mut(&name) {
                    link.wanted = true;
                }
                self.tend(&name);
            }
        }
    }

    /// An IKE SA with the peer of the connection on which something new may start, whoever began it.
    fn standing(&self, name: &Arc<str>) -> Option<u64> {
        let usable = |spi: &&u64| {
            matches!(self.entries.get(spi), Some(Entry::Sa(ike_sa))
                if ike_sa.established().is_some_and(|established| !established.is_ending()))
        };
        let own = self.by_connection.get(name).into_iter().flatten();
        let own = own.filter(usable).max_by_key(|spi| self.authenticated_as(**spi));
        let peer = &self.connection(name)?.remote_identity;
        let theirs = || self.by_peer.get(peer).into_iter().flatten();
        own.or_else(|| theirs().find(usable)).copied()
    }

    fn authenticated_as(&self, spi: u64) -> Option<IkeSaId> {
        match self.entries.get(&spi) {
            Some(Entry::Sa(ike_sa)) => ike_sa.established().map(|one| one.authenticated_as),
            Some(Entry::Initiating(_)) | None => None,
        }
    }

    /// Asks for a Child SA for the packets that none carries yet.
    fn make_children(&mut self, name: &Arc<str>, spi: u64, now_ms: u64) {
        let Some(policy) = self.connection(name).map(|one| one.policy.clone()) else {
            return;
        };
        let Some(link) = self.links.get_mut(name) else {
            return;
        };
        let packets = std::mem::take(&mut link.packets);
        let carried = match self.entries.get(&spi) {
            Some(Entry::Sa(ike_sa)) => ike_sa.established().map(|established| {
                let carries = |packet: &Packet| established.carries(packet);
                packets.iter().all(carries)
            }),
            Some(Entry::Initiating(_)) | None => None,
        };
        let Some(packet) = packets.last().copied().filter(|_| carried == Some(false)) else {
            return;
        };
        if now_ms < link.no_child_before_ms {
            return;
        }
        link.no_child_before_ms = now_ms.saturating_add(CHILD_EVERY_MS);
        // RFC 7296 section 2.9: the packet's own selector first, so that narrowing cannot miss it.
        let mut selectors = (vec![packet.0], vec![packet.1]);
        selectors.0.extend(policy.ts_local);
        selectors.1.extend(policy.ts_remote);
        let task = Task::NewChild {
            selectors,
            group: None,
            resource: None,
        };
        self.queue(Some(spi), task);
    }

    /// Does what a connection wants just now, and sets its timer.
    pub(super) fn tend(&mut self, name: &Arc<str>) {
        let now_ms = self.now.mono_ms;
        if self.attempt_due(name).is_some_and(|due_ms| due_ms <= now_ms) {
            self.attempt(name);
        }
        self.retire_predecessors(name);
        self.set_timer(name);
    }

    fn attempt(&mut self, name: &Arc<str>) {
        let Some(connection) = self.connection(name).cloned() else {
            return;
        };
        let anew = self.by_connection.contains_key(name);
        let here = !anew && connection.start == Start::Now && self.standing(name).is_some();
        let now_ms = self.now.mono_ms;
        let Some(link) = self.links.get_mut(name) else {
            return;
        };
        if here {
            link.not_before_ms = now_ms.saturating_add(PEER_IS_HERE_MS);
            return;
        }
        let index = link.remote.checked_rem(connection.remotes.len());
        let configured = index.and_then(|index| connection.remotes.get(index)).copied();
        let Some(remote) = link.redirect.or(configured) else {
            link.wanted = false;
            return;
        };
        let attempt = Attempt {
            remote,
            packet: link.packets.first().copied(),
            redirected_from: link.redirected_from,
        };
        // RFC 5723 section 4.3: at the gateway that gave it, in its time, once; not to be authenticated anew.
        let good = |ticket: &mut Box<ClientTicket>| !anew && ticket.remote == remote.address.ip();
        let ticket = link.ticket.take_if(good).filter(|ticket| ticket.ends_ms > now_ms);
        let ticket = ticket.filter(|_| connection.resumption);
        let mut deferred = Vec::new();
        let mut ctx = context!(self, deferred);
        let Some(awaited) = ExpectInitResponse::start(&mut ctx, connection, attempt, ticket) else {
            link.wanted = false;
            return;
        };
        let spi = awaited.spi_i;
        link.attempt = Some(spi);
        self.put_back(spi, Some(Entry::Initiating(Box::new(awaited))));
        self.handle_deferred(deferred);
    }

    /// The peer of a connection is authenticated.
    pub(super) fn connection_is_up(&mut self, name: &Arc<str>, spi: u64) {
        let now_ms = self.now.mono_ms;
        if let Some(link) = self.links.get_mut(name) {
            (link.attempt, link.failures) = (None, 0);
            link.reauthenticate = false;
            link.redirected_from = None;
            link.not_before_ms = 0;
        }
        self.make_children(name, spi, now_ms);
        self.tend(name);
    }

    /// An IKE SA of a connection, or the attempt at one, came to its end.
    pub(super) fn connection_ended(&mut self, name: &Arc<str>, was_up: bool, reason: &CloseReason) {
        let Some(connection) = self.connection(name) else {
            return;
        };
        let (start, backoff, remotes) = (connection.start, connection.backoff, connection.remotes.len());
        let others = self.by_connection.contains_key(name);
        let now_ms = self.now.mono_ms;
        let Some(link) = self.links.get_mut(name) else {
            return;
        };
        if was_up && others {
            return self.tend(name);
        }
        if !matches!(reason, CloseReason::PeerUnresponsive | CloseReason::Idle) {
            link.ticket = None;
        }
        // Back to the gateway of the configuration.
        let redirected = link.redirect.take().is_some();
        link.redirected_from = None;
        let on_purpose = matches!(reason, CloseReason::Requested | CloseReason::Idle);
        if was_up {
            // A peer that went silent may be reached another way.
            link.remote += usize::from(*reason == CloseReason::PeerUnresponsive && !redirected);
            link.wanted &= start == Start::Now && !on_purpose;
            // A peer that proves its restart is there again.
            link.not_before_ms = if *reason == CloseReason::PeerRestarted {
                now_ms
            } else {
                now_ms.saturating_add(drawn(backoff.first_s, &mut *self.random))
            };
        } else {
            link.attempt = None;
            link.failures = link.failures.saturating_add(1);
            link.remote += usize::from(!redirected);
            let tried = usize::try_from(link.failures).unwrap_or(usize::MAX);
            link.not_before_ms = match tried.checked_rem(remotes) {
                Some(0) => {
                    let rounds = u32::try_from(tried / remotes).unwrap_or(u32::MAX);
                    let wait_s = backoff
                        .first_s
                        .saturating_mul(1u64.checked_shl(rounds.saturating_sub(1)).unwrap_or(u64::MAX))
                        .min(backoff.longest_s);
                    // The packets that asked for it are lost; the next one asks again.
                    link.packets.clear();
                    link.wanted &= (start == Start::Now || link.reauthenticate) && !on_purpose;
                    now_ms.saturating_add(drawn(wait_s, &mut *self.random))
                }
                Some(_) | None => now_ms,
            };
            link.wanted &= !on_purpose || others;
        }
        let (wanted, failures, due_ms) = (link.wanted, link.failures, link.not_before_ms);
        self.outputs.push_back(Output::Event(Event::ConnectionDown {
            connection: name.to_string(),
            failures,
            retry_in_ms: wanted.then(|| due_ms.saturating_sub(now_ms)),
        }));
        self.tend(name);
    }

    /// The time has come to authenticate the peer of a connection anew (RFC 7296 section 2.8.3).
    pub(super) fn reauthenticate(&mut self, name: &Arc<str>) {
        if let Some(link) = self.links.get_mut(name) {
            link.reauthenticate = true;
            link.wanted = true;
            link.not_before_ms = 0;
        }
        self.tend(name);
    }

    /// After re-authentication: what the old IKE SA carries is made anew on the new one, and when all is
    /// there the old one goes.
    fn retire_predecessors(&mut self, name: &Arc<str>) {
        let Some(spis) = self.by_connection.get(name).filter(|spis| spis.len() > 1) else {
            return;
        };
        let established = spis.iter().filter_map(|spi| match self.entries.get(spi) {
            Some(Entry::Sa(ike_sa)) => ike_sa
                .established()
                .filter(|established| !established.is_ending() && !established.redundant)
                .map(|established| (established.authenticated_as, *spi, established)),
            Some(Entry::Initiating(_)) | None => None,
        });
        let mut established: Vec<_> = established.collect();
        established.sort_by_key(|(authenticated_as, spi, _)| (*authenticated_as, *spi));
        let Some((heir, heir_spi, heir_sa)) = established.pop() else {
            return;
        };
        established.retain(|(authenticated_as, ..)| *authenticated_as < heir);
        let carried = |child: &&ChildSa| !heir_sa.carries_all_of(child);
        let old_children = || established.iter().flat_map(|(_, _, old)| old.live_children());
        if heir_sa.is_making_children() {
            return;
        }
        let missing: Vec<_> = old_children()
            .filter(carried)
            .map(|child| (child.ts_local.clone(), child.ts_remote.clone()))
            .collect();
        let asked_already = heir_sa.took_over;
        let old_spis: Vec<_> = established.iter().map(|(_, spi, _)| *spi).collect();
        let useless = asked_already && old_children().count() > 0 && heir_sa.live_children().count() == 0;
        if old_spis.is_empty() {
            return;
        }
        if !missing.is_empty() && !asked_already {
            self.with_sa(Some(heir_spi), |ike_sa, ctx| {
                if let Some(established) = ike_sa.established_mut() {
                    established.took_over = true;
                    for selectors in missing {
                        established.push_new(Task::NewChild {
                            selectors,
                            group: None,
                            resource: None,
                        });
                    }
                }
                ike_sa.pump(ctx);
            });
            return;
        }
        if useless {
            // The peer took the new IKE SA but no Child SA on it: what works is kept.
            let retry_ms = self
                .connection(name)
                .map_or(0, |one| one.backoff.longest_s * 1000);
            let now_ms = self.now.mono_ms;
            if let Some(link) = self.links.get_mut(name) {
                link.reauthenticate = true;
                link.not_before_ms = now_ms.saturating_add(retry_ms);
            }
            self.with_sa(Some(heir_spi), |ike_sa, ctx| {
                ike_sa.close(ctx, CloseReason::Requested)
            });
            return;
        }
        for spi in old_spis {
            self.with_sa(Some(spi), |ike_sa, ctx| {
                ike_sa.close(ctx, CloseReason::Reauthenticated);
            });
        }
    }

    /// The same for the connection of an IKE SA on which something happened.
    pub(super) fn retire_predecessors_of(&mut self, spi: u64) {
        let name = self.indexed.get(&spi).and_then(|one| one.connection.clone());
        if let Some(name) = name {
            self.retire_predecessors(&name);
        }
    }

    /// All connections in words, by name.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionInfo> {
        self.config.connections.iter().filter_map(|connection| {
            let name = connection.name.as_str();
            let link = self.links.get(name)?;
            let spis = self.by_connection.get(name);
            let ids = spis
                .into_iter()
                .flatten()
                .filter_map(|spi| match self.entries.get(spi) {
                    Some(Entry::Sa(ike_sa)) => ike_sa.established().map(|_| ike_sa.core.id),
                    Some(Entry::Initiating(_)) | None => None,
                });
            let ike_sas: Vec<_> = ids.collect();
            let now_ms = self.now.mono_ms;
            Some(ConnectionInfo {
                name: connection.name.clone(),
                remote_identity: connection.remote_identity.to_string(),
                start: connection.start,
                state: match (ike_sas.is_empty(), link.attempt, link.timer) {
                    (false, ..) => ConnectionState::Up,
                    (true, Some(_), _) => ConnectionState::Connecting,
                    (true, None, Some(due_ms)) => ConnectionState::Waiting {
                        retry_in_ms: due_ms.saturating_sub(now_ms),
                    },
                    (true, None, None) => ConnectionState::Down,
                },
                remote: link.remote_of(connection),
                failures: link.failures,
                ike_sas,
            })
        })
    }
}

impl Link {
    fn remote_of(&self, connection: &Connection) -> Option<Remote> {
        let index = self.remote.checked_rem(connection.remotes.len())?;
        self.redirect.or_else(|| connection.remotes.get(index).copied())
    }
}

/// Between half of `wait_s` and all of it, in milliseconds.
fn drawn(wait_s: u64, random: &mut dyn Random) -> u64 {
    let mut bytes = [0; 2];
    random.fill(&mut bytes);
    let half_ms = wait_s.saturating_mul(500);
    half_ms + half_ms.saturating_mul(u64::from(u16::from_be_bytes(bytes))) / u64::from(u16::MAX)
}
