//! One IKE SA: which message it awaits, what it has to do, and its clocks.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    channel::{Channel, Opened},
    child_sa::{ChildSa, Phase},
    config::{AuthenticatedPeer, EndpointConfig, SitePolicy},
    context::{Context, Deferred, Path},
    crypto::{dh::DhGroup, prf::PrfAlgorithm},
    exchange::{
        Refusal,
        create_child_sa::{self, ExpectChildResponse, ExpectRekeyIkeResponse},
        ike_auth::{ExpectAuthRequest, ExpectAuthResponse},
        informational,
    },
    ids::{ChildId, IkeSaId},
    keys::Secret,
    nat::NatStatus,
    output::{CertificateInfo, ChildSaInfo, CloseReason, Event, IkeSaInfo, TimeoutReason},
    proof::proof_ends_ms,
    proposal::{EspProposal, IkeProposal},
    retransmit::{Due, Retransmission},
    traffic_selector::TrafficSelector,
    wire::{Exchange, Header, Message, Payload, delete::Delete, notify::kind},
};

/// A closed IKE SA still answers the request that closed it, should the peer repeat it.
const CLOSED_KEPT_MS: u64 = 30_000;
/// Our DELETE of an IKE SA has this long to be answered.
const CLOSING_MAX_MS: u64 = 60_000;

/// What every IKE SA has once keys exist.
pub(crate) struct Core {
    pub(crate) id: IkeSaId,
    pub(crate) path: Path,
    pub(crate) nat: NatStatus,
    pub(crate) channel: Channel,
    pub(crate) suite: IkeProposal,
}

pub(crate) struct IkeSa {
    pub(crate) core: Core,
    pub(crate) state: State,
}

/// Which message is awaited.
pub(crate) enum State {
    ExpectAuthRequest(Box<ExpectAuthRequest>),
    ExpectAuthResponse(Box<ExpectAuthResponse>),
    /// Requests of the peer, and responses to ours, in any order.
    Established(Box<Established>),
    /// Nothing but repetitions.
    Closed {
        until_ms: u64,
    },
}

impl State {
    /// A request that only makes sense with the Child SAs, which this IKE SA may yet be given.
    fn awaits_adoption(&self, message: &Result<Message, crate::wire::WireError>) -> bool {
        let Self::Established(established) = self else {
            return false;
        };
        let about_children = message.as_ref().is_ok_and(|message| {
            message.sa().is_some()
                || message
                    .0
                    .iter()
                    .any(|one| matches!(one, Payload::Delete(Delete::Esp(_))))
        });
        established.redundant && about_children
    }
}

/// The state of an IKE SA that has come to its end.
pub(crate) fn closed(ctx: &Context<'_>) -> State {
    State::Closed {
        until_ms: ctx.now.mono_ms.saturating_add(CLOSED_KEPT_MS),
    }
}

/// An authenticated IKE SA.
pub(crate) struct Established {
    pub(crate) peer: AuthenticatedPeer,
    /// The peer's identity in words.
    pub(crate) peer_name: Arc<str>,
    pub(crate) policy: SitePolicy,
    pub(crate) prf: PrfAlgorithm,
    pub(crate) sk_d: Secret,
    pub(crate) children: Vec<ChildSa>,
    /// Requests to be made, one at a time.
    pub(crate) tasks: VecDeque<Task>,
    /// The request that waits for its response.
    pub(crate) outstanding: Option<Outstanding>,
    established_ms: u64,
    last_heard_ms: u64,
    pub(crate) rekey_at_ms: u64,
    pub(crate) expire_at_ms: u64,
    /// When a certificate of the peer's chain expires.
    pub(crate) proof_ends_ms: u64,
    /// The IKE SA that took over.
    pub(crate) superseded: Option<IkeSaId>,
    /// It lost, or may yet lose, against another made at the same time; its end is no event.
    pub(crate) redundant: bool,
    closing: Option<CloseReason>,
}

/// A request to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    RekeyChild {
        child: ChildId,
        group: Option<DhGroup>,
    },
    NewChild {
        selectors: (Vec<TrafficSelector>, Vec<TrafficSelector>),
        group: Option<DhGroup>,
    },
    RekeyIke {
        group: Option<DhGroup>,
    },
    DeleteChild(ChildId),
    DeleteIke,
    Liveness,
}

pub(crate) struct Outstanding {
    pub(crate) pending: Pending,
    datagrams: Vec<Vec<u8>>,
    clock: Retransmission,
}

/// The response that is awaited.
pub(crate) enum Pending {
    Child(Box<ExpectChildResponse>),
    RekeyIke(Box<ExpectRekeyIkeResponse>),
    DeleteChild(ChildId),
    DeleteIke,
    Liveness,
}

impl IkeSa {
    /// Handles a datagram for this IKE SA. Nothing changes unless it is authentic.
    pub(crate) fn handle_datagram(
        &mut self,
        ctx: &mut Context<'_>,
        path: Path,
        header: &Header,
        datagram: &[u8],
    ) {
        match self.core.channel.open(header, datagram) {
            Err(dropped) => ctx.counters.dropped(dropped),
            Ok(Opened::Partial) => self.heard(ctx),
            Ok(Opened::Repeated) => {
                ctx.counters.repeated += 1;
                let answer = self.core.channel.last_answer().clone();
                ctx.transmit(path, &answer);
            }
            Ok(Opened::Request(first, content)) => {
                self.follow(path);
                self.heard(ctx);
                self.handle_request(ctx, header.exchange, Message::parse(first, &content));
            }
            Ok(Opened::Response(first, content)) => {
                self.follow(path);
                self.heard(ctx);
                self.handle_response(ctx, Message::parse(first, &content));
            }
        }
    }

    fn heard(&mut self, ctx: &Context<'_>) {
        if let State::Established(established) = &mut self.state {
            established.last_heard_ms = ctx.now.mono_ms;
        }
    }

    /// RFC 7296 section 2.23: the initiator moves to port 4500; later on only the address of a peer behind
    /// a NAT is followed.
    fn follow(&mut self, path: Path) {
        let moves = matches!(self.state, State::ExpectAuthRequest(_))
            || (self.core.nat.remote && !self.core.nat.local);
        if moves {
            self.core.path = path;
        }
    }

    /// Replaces the state by what `step` makes of it.
    fn step<T>(
        &mut self,
        ctx: &mut Context<'_>,
        step: impl FnOnce(&mut Core, &mut Context<'_>, State) -> (State, T),
    ) -> T {
        let state = std::mem::replace(&mut self.state, State::Closed { until_ms: 0 });
        let (state, result) = step(&mut self.core, ctx, state);
        self.state = state;
        result
    }

    fn handle_request(
        &mut self,
        ctx: &mut Context<'_>,
        exchange: Exchange,
        message: Result<Message, crate::wire::WireError>,
    ) {
        let payloads = self.step(ctx, |core, ctx, state| match (state, exchange) {
            (State::ExpectAuthRequest(awaited), Exchange::IkeAuth) => {
                let (payloads, state) = awaited.handle(core, ctx, message);
                (state, Some(payloads))
            }
            // The peer has decided which of two IKE SAs made at once stands, we have not yet: its request
            // stays unanswered until the Child SAs are here. It will come again.
            (state @ State::Established(_), _) if state.awaits_adoption(&message) => {
                ctx.counters.unexpected += 1;
                (state, None)
            }
            (State::Established(established), exchange) => {
                let (payloads, state) = established.handle_request(core, ctx, exchange, message);
                (state, Some(payloads))
            }
            (
                state @ (State::ExpectAuthRequest(_) | State::ExpectAuthResponse(_) | State::Closed { .. }),
                _,
            ) => {
                ctx.counters.unexpected += 1;
                (state, None)
            }
        });
        let Some(payloads) = payloads else { return };
        let path = self.core.path;
        if let Ok(datagrams) = self.core.channel.respond(exchange, &payloads, ctx.random) {
            ctx.transmit(path, datagrams);
        }
        self.pump(ctx);
    }

    fn handle_response(&mut self, ctx: &mut Context<'_>, message: Result<Message, crate::wire::WireError>) {
        self.step(ctx, |core, ctx, state| match state {
            State::ExpectAuthResponse(awaited) => (awaited.handle(core, ctx, message), ()),
            State::Established(established) => (established.handle_response(core, ctx, message), ()),
            state @ (State::ExpectAuthRequest(_) | State::Closed { .. }) => (state, ()),
        });
        self.pump(ctx);
    }

    /// Sends the next request, if none is outstanding.
    pub(crate) fn pump(&mut self, ctx: &mut Context<'_>) {
        if let State::Established(established) = &mut self.state {
            established.pump(&mut self.core, ctx);
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        self.step(ctx, |core, ctx, state| match state {
            State::ExpectAuthRequest(awaited) if awaited.handshake.deadline_ms <= ctx.now.mono_ms => {
                (State::Closed { until_ms: 0 }, ())
            }
            State::ExpectAuthResponse(mut awaited) => {
                let goes_on = awaited.handle_timeout(core, ctx);
                (
                    if goes_on {
                        State::ExpectAuthResponse(awaited)
                    } else {
                        closed(ctx)
                    },
                    (),
                )
            }
            State::Established(established) => (established.handle_timeout(core, ctx), ()),
            state @ (State::ExpectAuthRequest(_) | State::Closed { .. }) => (state, ()),
        });
        self.pump(ctx);
    }

    /// Begins to close the IKE SA.
    pub(crate) fn close(&mut self, ctx: &mut Context<'_>, reason: CloseReason) {
        self.step(ctx, |core, ctx, state| match state {
            State::Established(mut established) => {
                established.begin_close(ctx, reason);
                (State::Established(established), ())
            }
            State::ExpectAuthResponse(awaited) => {
                awaited.abandon(core, ctx, reason);
                (closed(ctx), ())
            }
            State::ExpectAuthRequest(_) => (closed(ctx), ()),
            state @ State::Closed { .. } => (state, ()),
        });
        self.pump(ctx);
    }

    /// Forgets the IKE SA without a word to the peer, which does not know it any more.
    pub(crate) fn drop_silently(&mut self, ctx: &mut Context<'_>, reason: CloseReason) {
        self.step(ctx, |core, ctx, state| match state {
            State::Established(established) => (established.finish(core, ctx, reason), ()),
            state @ (State::ExpectAuthRequest(_) | State::ExpectAuthResponse(_) | State::Closed { .. }) => {
                (state, ())
            }
        });
    }

    pub(crate) fn established(&self) -> Option<&Established> {
        match &self.state {
            State::Established(established) => Some(established),
            State::ExpectAuthRequest(_) | State::ExpectAuthResponse(_) | State::Closed { .. } => None,
        }
    }

    pub(crate) fn established_mut(&mut self) -> Option<&mut Established> {
        match &mut self.state {
            State::Established(established) => Some(established),
            State::ExpectAuthRequest(_) | State::ExpectAuthResponse(_) | State::Closed { .. } => None,
        }
    }

    /// The next deadline.
    pub(crate) fn deadline(&self, dpd_after_s: u64) -> (u64, TimeoutReason) {
        match &self.state {
            State::ExpectAuthRequest(awaited) => (awaited.handshake.deadline_ms, TimeoutReason::HalfOpen),
            State::ExpectAuthResponse(awaited) => (awaited.clock.due_ms, TimeoutReason::Retransmit),
            State::Established(established) => established.deadline(dpd_after_s),
            State::Closed { until_ms } => (*until_ms, TimeoutReason::Linger),
        }
    }

    /// In words.
    pub(crate) fn info(&self, now_ms: u64) -> IkeSaInfo {
        let (core, established) = (&self.core, self.established());
        let children =
            established.map(|established| established.children.iter().map(ChildSa::info).collect());
        IkeSaInfo {
            id: core.id,
            spis: core.channel.spis(),
            initiator: core.channel.initiator(),
            state: match (&self.state, established) {
                (State::Closed { .. }, _) => "closed",
                (_, None) => "half-open",
                (_, Some(established)) if established.is_ending() => "closing",
                (_, Some(_)) => "established",
            },
            peer: established
                .map(|established| established.peer_name.to_string())
                .unwrap_or_default(),
            authenticated_by: established.map(|established| established.peer.method()),
            certificate: established
                .and_then(|established| established.peer.certificate())
                .map(CertificateInfo::of),
            local: core.path.local,
            remote: core.path.remote,
            nat: core.nat.any(),
            algorithms: core.suite.to_string(),
            site: established.map(|established| (established.policy.site, established.policy.name.clone())),
            age_s: established.map_or(0, |established| {
                now_ms.saturating_sub(established.established_ms) / 1000
            }),
            children: children.unwrap_or_default(),
        }
    }
}

impl ChildSa {
    fn info(&self) -> ChildSaInfo {
        ChildSaInfo {
            id: self.id,
            spi_in: self.spi_in,
            spi_out: self.spi_out,
            algorithms: self.suite.to_string(),
            esn: self.esn,
            ts_local: self.ts_local.clone(),
            ts_remote: self.ts_remote.clone(),
        }
    }
}

impl Established {
    pub(crate) fn new(
        ctx: &mut Context<'_>,
        peer: AuthenticatedPeer,
        policy: SitePolicy,
        prf: PrfAlgorithm,
        sk_d: Secret,
    ) -> Self {
        let lifetime_s = ctx.config.ike_lifetime_s;
        Self {
            peer_name: peer.identity.to_string().into(),
            proof_ends_ms: proof_ends_ms(&peer, ctx.now),
            peer,
            policy,
            prf,
            sk_d,
            children: Vec::new(),
            tasks: VecDeque::new(),
            outstanding: None,
            established_ms: ctx.now.mono_ms,
            last_heard_ms: ctx.now.mono_ms,
            rekey_at_ms: ctx.jittered_deadline(lifetime_s),
            expire_at_ms: ctx.now.mono_ms.saturating_add(lifetime_s.saturating_mul(1100)),
            superseded: None,
            redundant: false,
            closing: None,
        }
    }

    /// Says that both sides are authenticated.
    pub(crate) fn announce(&self, core: &Core, ctx: &mut Context<'_>) {
        ctx.event(Event::IkeSaEstablished {
            ike_sa: core.id,
            peer: self.peer_name.to_string(),
            site: self.policy.site,
            remote: core.path.remote,
            algorithms: core.suite.to_string(),
        });
    }

    pub(crate) fn esp_proposals<'a>(&'a self, config: &'a EndpointConfig) -> &'a [EspProposal] {
        self.policy
            .esp_proposals
            .as_ref()
            .unwrap_or(&config.esp_proposals)
    }

    pub(crate) fn pending(&self) -> Option<&Pending> {
        self.outstanding.as_ref().map(|outstanding| &outstanding.pending)
    }

    /// Being closed, or another took over: nothing new may start on it.
    pub(crate) fn is_ending(&self) -> bool {
        self.closing.is_some()
            || self.superseded.is_some()
            || matches!(self.pending(), Some(Pending::DeleteIke))
    }

    /// Takes over Child SAs of the IKE SA before, and what was to be done with them.
    pub(crate) fn adopt(&mut self, children: Vec<ChildSa>) {
        let deletions = children.iter().filter(|child| child.phase == Phase::Deleting);
        self.tasks
            .extend(deletions.map(|child| Task::DeleteChild(child.id)));
        self.children.extend(children);
    }

    pub(crate) fn heard_at(&mut self, now_ms: u64) {
        self.last_heard_ms = now_ms;
    }

    fn handle_request(
        mut self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        exchange: Exchange,
        message: Result<Message, crate::wire::WireError>,
    ) -> (Vec<Payload>, State) {
        let refuse = |refusal: Refusal| vec![Payload::Notify(refusal.0)];
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                let refusal = Refusal::from(error);
                // RFC 7296 section 2.21.3: an authentic peer that errs in syntax cannot be talked to.
                let fatal = refusal.0.kind == kind::INVALID_SYNTAX;
                let payloads = refuse(refusal);
                return match fatal {
                    true => (payloads, self.finish(core, ctx, CloseReason::ProtocolViolation)),
                    false => (payloads, State::Established(self)),
                };
            }
        };
        match exchange {
            Exchange::CreateChildSa => {
                let payloads = create_child_sa::respond(&mut self, core, ctx, &message);
                (payloads, State::Established(self))
            }
            Exchange::Informational => match informational::respond(&mut self, core, ctx, &message) {
                (payloads, None) => (payloads, State::Established(self)),
                (payloads, Some(reason)) => (payloads, self.finish(core, ctx, reason)),
            },
            Exchange::IkeSaInit | Exchange::IkeAuth | Exchange::Other(_) => {
                (refuse(Refusal::syntax()), State::Established(self))
            }
        }
    }

    fn handle_response(
        mut self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        message: Result<Message, crate::wire::WireError>,
    ) -> State {
        let Some(Outstanding { pending, .. }) = self.outstanding.take() else {
            return State::Established(self);
        };
        let Ok(message) = message else {
            return self.finish(core, ctx, CloseReason::ProtocolViolation);
        };
        match pending {
            Pending::Liveness => {}
            Pending::Child(awaited) => awaited.handle(&mut self, core, ctx, &message),
            Pending::RekeyIke(awaited) => awaited.handle(&mut self, core, ctx, &message),
            Pending::DeleteChild(child) => informational::forget_child(&mut self, core, ctx, child),
            Pending::DeleteIke => return self.finish(core, ctx, CloseReason::Requested),
        }
        State::Established(self)
    }

    /// Ends the IKE SA: its Child SAs go, and the event says why.
    fn finish(mut self: Box<Self>, core: &Core, ctx: &mut Context<'_>, reason: CloseReason) -> State {
        // The peer's rekeying of this IKE SA crossed ours, and it deleted the old one before it answered ours.
        if let Some(Outstanding {
            pending: Pending::RekeyIke(awaited),
            ..
        }) = self.outstanding.take()
            && let Some(theirs) = &awaited.collision
        {
            create_child_sa::yield_to(&mut self, core, ctx, theirs);
        }
        for child in &self.children {
            ctx.remove(child);
        }
        if self.superseded.is_none() && !self.redundant {
            let reason = self.closing.take().unwrap_or(reason);
            ctx.event(Event::Closed {
                ike_sa: core.id,
                peer: self.peer_name.to_string(),
                reason,
            });
        }
        closed(ctx)
    }

    /// The Child SAs go at once, the peer is told.
    fn begin_close(&mut self, ctx: &mut Context<'_>, reason: CloseReason) {
        if self.is_ending() {
            return;
        }
        for child in std::mem::take(&mut self.children) {
            ctx.remove(&child);
        }
        self.closing = Some(reason);
        self.tasks.clear();
        self.tasks.push_back(Task::DeleteIke);
        self.rekey_at_ms = u64::MAX;
        self.expire_at_ms = ctx.now.mono_ms.saturating_add(CLOSING_MAX_MS);
    }

    /// The next thing to do, or `u64::MAX`.
    fn deadline(&self, dpd_after_s: u64) -> (u64, TimeoutReason) {
        let mut deadlines = vec![(self.expire_at_ms, TimeoutReason::Expire)];
        match &self.outstanding {
            Some(outstanding) => deadlines.push((outstanding.clock.due_ms, TimeoutReason::Retransmit)),
            None => deadlines.push((self.liveness_at(dpd_after_s), TimeoutReason::Liveness)),
        }
        if !self.is_ending() {
            deadlines.push((self.rekey_at_ms, TimeoutReason::Rekey));
            deadlines.push((self.proof_ends_ms, TimeoutReason::Expire));
            deadlines.extend(self.children.iter().map(|child| match child.phase {
                Phase::Live => (child.rekey_at_ms.min(child.expire_at_ms), TimeoutReason::Rekey),
                Phase::Replaced => (child.expire_at_ms, TimeoutReason::Expire),
                Phase::Deleting => (u64::MAX, TimeoutReason::Expire),
            }));
        }
        deadlines
            .into_iter()
            .min()
            .unwrap_or((u64::MAX, TimeoutReason::Expire))
    }

    fn liveness_at(&self, dpd_after_s: u64) -> u64 {
        self.last_heard_ms
            .saturating_add(dpd_after_s.max(1).saturating_mul(1000))
    }

    fn handle_timeout(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        let now_ms = ctx.now.mono_ms;
        if let Some(outstanding) = &mut self.outstanding {
            match outstanding.clock.poll(now_ms) {
                Due::Wait => {}
                Due::Repeat => {
                    ctx.counters.retransmitted += 1;
                    ctx.transmit(core.path, &outstanding.datagrams);
                }
                Due::GiveUp => return self.finish(core, ctx, CloseReason::PeerUnresponsive),
            }
        } else if self.liveness_at(ctx.config.dpd_after_s) <= now_ms && self.tasks.is_empty() {
            self.tasks.push_back(Task::Liveness);
        }
        if !self.is_ending()
            && let Some(reason) = self.proof_expired(ctx.now)
        {
            self.begin_close(ctx, reason);
        }
        if self.expire_at_ms <= now_ms {
            if self.is_ending() || self.redundant {
                return self.finish(core, ctx, CloseReason::LifetimeExpired);
            }
            self.begin_close(ctx, CloseReason::LifetimeExpired);
        }
        if !self.is_ending() {
            self.rekey_what_is_due(core, ctx);
        }
        State::Established(self)
    }

    fn rekey_what_is_due(&mut self, core: &Core, ctx: &mut Context<'_>) {
        let now_ms = ctx.now.mono_ms;
        if self.rekey_at_ms <= now_ms || core.channel.exhausted() {
            self.rekey_at_ms = u64::MAX;
            self.tasks.push_back(Task::RekeyIke { group: None });
        }
        for child in &mut self.children {
            if child.phase != Phase::Deleting && child.expire_at_ms <= now_ms {
                child.phase = if child.phase == Phase::Live {
                    Phase::Live
                } else {
                    Phase::Deleting
                };
                child.expire_at_ms = u64::MAX;
                child.rekey_at_ms = u64::MAX;
                self.tasks.push_back(Task::DeleteChild(child.id));
            } else if child.phase == Phase::Live && child.rekey_at_ms <= now_ms {
                child.rekey_at_ms = u64::MAX;
                self.tasks.push_back(Task::RekeyChild {
                    child: child.id,
                    group: None,
                });
            }
        }
    }

    fn pump(&mut self, core: &mut Core, ctx: &mut Context<'_>) {
        while self.outstanding.is_none() {
            let Some(task) = self.tasks.pop_front() else {
                return;
            };
            let Some((exchange, payloads, pending)) = self.start(core, ctx, task) else {
                continue;
            };
            let Ok(datagrams) = core.channel.request(exchange, &payloads, ctx.random) else {
                return;
            };
            ctx.transmit(core.path, &datagrams);
            let clock = Retransmission::start(ctx.config.retransmit, ctx.now.mono_ms);
            self.outstanding = Some(Outstanding {
                pending,
                datagrams,
                clock,
            });
        }
    }

    /// The request of a task; `None` when it has become pointless.
    fn start(
        &mut self,
        core: &Core,
        ctx: &mut Context<'_>,
        task: Task,
    ) -> Option<(Exchange, Vec<Payload>, Pending)> {
        match task {
            Task::Liveness => Some((Exchange::Informational, Vec::new(), Pending::Liveness)),
            Task::DeleteIke => Some((
                Exchange::Informational,
                vec![Payload::Delete(Delete::Ike)],
                Pending::DeleteIke,
            )),
            Task::DeleteChild(id) => {
                let child = self.children.iter().find(|child| child.id == id)?;
                let payloads = vec![Payload::Delete(Delete::Esp(vec![child.spi_in]))];
                Some((Exchange::Informational, payloads, Pending::DeleteChild(id)))
            }
            Task::RekeyChild { child: id, group } => {
                let child = self
                    .children
                    .iter()
                    .find(|child| child.id == id && child.phase == Phase::Live)?;
                let selectors = (child.ts_local.clone(), child.ts_remote.clone());
                let (payloads, awaited) =
                    ExpectChildResponse::start(self, core, ctx, Some(id), selectors, group);
                Some((
                    Exchange::CreateChildSa,
                    payloads,
                    Pending::Child(Box::new(awaited)),
                ))
            }
            Task::NewChild { selectors, group } => {
                let (payloads, awaited) = ExpectChildResponse::start(self, core, ctx, None, selectors, group);
                Some((
                    Exchange::CreateChildSa,
                    payloads,
                    Pending::Child(Box::new(awaited)),
                ))
            }
            Task::RekeyIke { group } => {
                if self.superseded.is_some() || self.redundant {
                    return None;
                }
                let (payloads, awaited) = ExpectRekeyIkeResponse::start(core, ctx, group)?;
                Some((
                    Exchange::CreateChildSa,
                    payloads,
                    Pending::RekeyIke(Box::new(awaited)),
                ))
            }
        }
    }
}

impl Deferred {
    /// The IKE SA that a rekeying made, if it is one.
    pub(crate) fn spawned(self) -> Result<Box<IkeSa>, Self> {
        match self {
            Self::Spawn(ike_sa) => Ok(ike_sa),
            other @ (Self::Adopt { .. } | Self::CloseOthers { .. }) => Err(other),
        }
    }
}
