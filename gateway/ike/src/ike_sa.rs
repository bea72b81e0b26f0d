//! One IKE SA: which message it awaits, what it has to do, and its clocks.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    channel::{Channel, Opened},
    child_sa::{ChildSa, Phase},
    config::{AuthenticatedPeer, EndpointConfig, SitePolicy},
    connection::{Connection, Idle, Start},
    context::{Context, Deferred, Path},
    crash::PeerToken,
    crypto::{dh::DhGroup, prf::PrfAlgorithm},
    exchange::{
        Refusal,
        create_child_sa::{self, ExpectChildResponse, ExpectRekeyIkeResponse},
        ike_auth::{ExpectAuthRequest, ExpectAuthResponse, Handshake},
        ike_followup_ke::{self, Answering},
        ike_intermediate::{ExpectIntermediateRequest, ExpectIntermediateResponse, Plain},
        informational,
    },
    ids::{ChildId, IkeSaId},
    keepalive,
    keys::Secret,
    mobike::{ExpectPathCheck, ExpectUpdate, Mobike},
    nat::NatStatus,
    output::{ChildSaInfo, CloseReason, Direction, Event, IkeSaInfo, Output, TimeoutReason},
    pki::identity::Identity,
    pmtu,
    proof::proof_ends_ms,
    proposal::{EspProposal, IkeProposal},
    resource::ResourceId,
    retransmit::{Due, Retransmission},
    traffic_selector::TrafficSelector,
    wire::{Exchange, Header, Message, Payload, delete::Delete, notify::kind},
};

mod details;
mod established;

/// A closed IKE SA still answers the request that closed it, should the peer repeat it.
const CLOSED_KEPT_MS: u64 = 30_000;
/// Our DELETE of an IKE SA has this long to be answered.
const CLOSING_MAX_MS: u64 = 60_000;

/// What every IKE SA has once keys exist.
pub(crate) struct Core {
    pub(crate) id: IkeSaId,
    pub(crate) path: Path,
    /// Where the last new authentic message came from and to.
    pub(crate) arrived: Path,
    pub(crate) nat: NatStatus,
    pub(crate) channel: Channel,
    pub(crate) suite: IkeProposal,
}

impl Core {
    /// Cuts a request that stays unanswered into smaller fragments: the path may lose long datagrams.
    pub(crate) fn cut_smaller(
        &mut self,
        ctx: &mut Context<'_>,
        clock: &Retransmission,
        datagrams: &mut Vec<Vec<u8>>,
    ) {
        if clock.repetitions() >= pmtu::SUSPECT_AFTER
            && let Some(smaller) =
                self.channel
                    .request_cut_smaller(self.path.remote.is_ipv6(), datagrams.len(), ctx.random)
        {
            ctx.counters.cut_smaller += 1;
            *datagrams = smaller;
        }
    }
}

pub(crate) struct IkeSa {
    pub(crate) core: Core,
    pub(crate) state: State,
}

/// Which message is awaited.
pub(crate) enum State {
    ExpectIntermediateRequest(Box<ExpectIntermediateRequest>),
    ExpectIntermediateResponse(Box<ExpectIntermediateResponse>),
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
    /// Its identity, which its IKE SAs are found by however it is spelt.
    pub(crate) peer_identity: Arc<Identity>,
    pub(crate) policy: SitePolicy,
    pub(crate) prf: PrfAlgorithm,
    pub(crate) sk_d: Secret,
    pub(crate) children: Vec<ChildSa>,
    /// Requests to be made, one at a time.
    pub(crate) tasks: VecDeque<Task>,
    /// The request that waits for its response.
    pub(crate) outstanding: Option<Outstanding>,
    /// The request that goes before all tasks, because it belongs to the one answered last.
    next_request: Option<create_child_sa::NextRequest>,
    /// What the peer asked for and is made after its additional key exchanges.
    pub(crate) answering: Option<Box<Answering>>,
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
    /// Our connection that it belongs to.
    pub(crate) connection: Option<Arc<str>>,
    /// The IKE SA on which the peer was authenticated: this one, or the first of those that it rekeys.
    pub(crate) authenticated_as: IkeSaId,
    /// When the peer is to be authenticated anew.
    reauth_at_ms: u64,
    idle: Idle,
    /// A Child SA is to be there at all times.
    keeps_up: bool,
    /// What the IKE SA before had beside the first Child SA was asked for.
    pub(crate) took_over: bool,
    /// Put off until the peer may be able to.
    delayed: Vec<(u64, Task)>,
    /// Since when it has no Child SA.
    childless_since_ms: Option<u64>,
    /// TEMPORARY_FAILURE and nothing else was answered from the first of these instants to the last.
    temporary_ms: Option<(u64, u64)>,
    pub(crate) mobike: Mobike,
    /// When a NAT keepalive is due.
    pub(crate) keepalive_at_ms: u64,
    /// When an unprotected message last claimed that the peer does not know this IKE SA.
    suspected_ms: Option<u64>,
    /// When the peer is asked whether it has our answer to IKE_AUTH.
    ask_at_ms: u64,
    awaits_proof: bool,
    /// What the peer would prove with that it lost this IKE SA (RFC 6290).
    pub(crate) peer_token: Option<PeerToken>,
    /// A post-quantum preshared key is in its keys (RFC 8784).
    pub(crate) ppk: bool,
    /// The peer, which came to us, can be sent to another gateway (RFC 5685).
    pub(crate) redirectable: bool,
    /// When the peer proved itself in full, on this IKE SA or the one that it comes from; by the monotonic clock.
    pub(crate) authenticated_ms: u64,
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
        resource: Option<ResourceId>,
    },
    RekeyIke {
        group: Option<DhGroup>,
    },
    DeleteChild(ChildId),
    DeleteIke,
    Liveness,
    /// Send the peer to another gateway (RFC 5685).
    Redirect,
    /// Tell the peer that we moved from there (MOBIKE).
    UpdateAddresses {
        before: Path,
    },
    /// Ask whether the peer receives where it says it is (MOBIKE).
    CheckPath {
        /// Where the Child SAs are.
        before: Path,
    },
}

pub(crate) struct Outstanding {
    pub(crate) pending: Pending,
    pub(crate) datagrams: Vec<Vec<u8>>,
    pub(crate) clock: Retransmission,
}

/// The response that is awaited.
pub(crate) enum Pending {
    Child(Box<ExpectChildResponse>),
    RekeyIke(Box<ExpectRekeyIkeResponse>),
    DeleteChild(ChildId),
    DeleteIke,
    Liveness,
    Redirect,
    UpdateAddresses(ExpectUpdate),
    CheckPath(ExpectPathCheck),
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
        let outputs = ctx.outputs.len();
        self.core.channel.forget_stale_fragments(ctx.now.mono_ms);
        match self.core.channel.open(header, datagram) {
            Err(dropped) => ctx.counters.dropped(dropped),
            // RFC 7296 section 2.4: only what is fresh shows that the peer lives. Anybody can repeat the rest.
            Ok(Opened::Partial) => self.heard(ctx),
            Ok(Opened::Stale) => {}
            Ok(Opened::Repeated) => {
                ctx.counters.repeated += 1;
                let ipv6 = path.remote.is_ipv6();
                let answer = self.core.channel.answer_again(ipv6, ctx.random).clone();
                ctx.transmit(path, &answer);
            }
            Ok(Opened::Request(first, content))
                if matches!(self.state, State::ExpectIntermediateRequest(_))
                    && header.exchange == Exchange::IkeIntermediate =>
            {
                self.follow(ctx, path);
                self.handle_intermediate(ctx, Plain::received(datagram, first, &content));
            }
            Ok(Opened::Response(first, content))
                if matches!(self.state, State::ExpectIntermediateResponse(_)) =>
            {
                self.follow(ctx, path);
                self.handle_intermediate(ctx, Plain::received(datagram, first, &content));
            }
            Ok(Opened::Request(first, content)) => {
                self.follow(ctx, path);
                self.handle_request(ctx, header.exchange, Message::parse(first, &content));
            }
            Ok(Opened::Response(first, content)) => {
                self.follow(ctx, path);
                self.heard(ctx);
                self.handle_response(ctx, Message::parse(first, &content));
            }
        }
        self.tend_keepalive(ctx, outputs);
    }

    fn heard(&mut self, ctx: &Context<'_>) {
        if let State::Established(established) = &mut self.state {
            established.last_heard_ms = ctx.now.mono_ms;
        }
    }

    /// Looks after the NAT keepalive; `outputs` is how many there were before this turn.
    fn tend_keepalive(&mut self, ctx: &mut Context<'_>, outputs: usize) {
        if let State::Established(established) = &mut self.state {
            let mut new = ctx.outputs.iter().skip(outputs);
            let sent = new.any(|output| matches!(output, Output::Transmit { .. }));
            keepalive::tend(established, &self.core, ctx, sent);
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

    /// Handles the awaited message of IKE_INTERMEDIATE; `None` for one that is not well-formed.
    fn handle_intermediate(&mut self, ctx: &mut Context<'_>, message: Option<Plain<'_>>) {
        self.step(ctx, |core, ctx, state| match (state, message) {
            (State::ExpectIntermediateRequest(awaited), Some(request)) => {
                (awaited.handle(core, ctx, &request), ())
            }
            (State::ExpectIntermediateRequest(_), None) => {
                ctx.counters.malformed += 1;
                (closed(ctx), ())
            }
            (State::ExpectIntermediateResponse(awaited), response) => {
                (awaited.handle(core, ctx, response.as_ref()), ())
            }
            (
                state @ (State::ExpectAuthRequest(_)
                | State::ExpectAuthResponse(_)
                | State::Established(_)
                | State::Closed { .. }),
                _,
            ) => (state, ()),
        });
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
            // stays unanswered until the Child SAs are here. It will come again, whoever sends it: no sign of life.
            (state @ State::Established(_), _) if state.awaits_adoption(&message) => {
                ctx.counters.unexpected += 1;
                (state, None)
            }
            (State::Established(mut established), exchange) => {
                established.last_heard_ms = ctx.now.mono_ms;
                let (payloads, state) = established.handle_request(core, ctx, exchange, message);
                (state, Some(payloads))
            }
            (
                state @ (State::ExpectIntermediateRequest(_)
                | State::ExpectIntermediateResponse(_)
                | State::ExpectAuthRequest(_)
                | State::ExpectAuthResponse(_)
                | State::Closed { .. }),
                _,
            ) => {
                ctx.counters.unexpected += 1;
                (state, None)
            }
        });
        let Some(payloads) = payloads else { return };
        // RFC 7296 section 2.11: the response goes to where the request came from.
        let path = self.core.arrived;
        if let Ok(datagrams) = self.core.channel.respond(exchange, &payloads, ctx.random) {
            ctx.transmit(path, datagrams);
        }
        self.pump(ctx);
    }

    fn handle_response(&mut self, ctx: &mut Context<'_>, message: Result<Message, crate::wire::WireError>) {
        self.step(ctx, |core, ctx, state| match state {
            State::ExpectAuthResponse(awaited) => (awaited.handle(core, ctx, message), ()),
            State::Established(established) => (established.handle_response(core, ctx, message), ()),
            state @ (State::ExpectIntermediateRequest(_)
            | State::ExpectIntermediateResponse(_)
            | State::ExpectAuthRequest(_)
            | State::Closed { .. }) => (state, ()),
        });
        self.pump(ctx);
    }

    /// Sends the next request, if none is outstanding.
    pub(crate) fn pump(&mut self, ctx: &mut Context<'_>) {
        if let State::Established(established) = &mut self.state {
            established.note_children(ctx.now.mono_ms);
            established.pump(&mut self.core, ctx);
        }
    }

    /// The connection of ours that it belongs to.
    pub(crate) fn connection_name(&self) -> Option<&str> {
        match &self.state {
            State::ExpectIntermediateResponse(awaited) => Some(awaited.connection_name()),
            State::ExpectAuthResponse(awaited) => Some(awaited.connection_name()),
            State::Established(established) => established.connection.as_deref(),
            State::ExpectIntermediateRequest(_) | State::ExpectAuthRequest(_) | State::Closed { .. } => None,
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        let outputs = ctx.outputs.len();
        self.core.channel.forget_stale_fragments(ctx.now.mono_ms);
        self.step(ctx, |core, ctx, state| match state {
            State::ExpectAuthRequest(awaited) if awaited.handshake.deadline_ms <= ctx.now.mono_ms => {
                (State::Closed { until_ms: 0 }, ())
            }
            State::ExpectIntermediateRequest(awaited) if awaited.handshake.deadline_ms <= ctx.now.mono_ms => {
                (State::Closed { until_ms: 0 }, ())
            }
            State::ExpectIntermediateResponse(mut awaited) => {
                let goes_on = awaited.handle_timeout(core, ctx);
                (
                    if goes_on {
                        State::ExpectIntermediateResponse(awaited)
                    } else {
                        closed(ctx)
                    },
                    (),
                )
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
            state @ (State::ExpectIntermediateRequest(_)
            | State::ExpectAuthRequest(_)
            | State::Closed { .. }) => (state, ()),
        });
        self.pump(ctx);
        self.tend_keepalive(ctx, outputs);
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
            State::ExpectIntermediateResponse(awaited) => {
                awaited.abandon(core, ctx, reason);
                (closed(ctx), ())
            }
            State::ExpectIntermediateRequest(_) | State::ExpectAuthRequest(_) => (closed(ctx), ()),
            state @ State::Closed { .. } => (state, ()),
        });
        self.pump(ctx);
    }

    /// RFC 6290 section 4.5: the peer has proved that it lost the IKE SA. It goes without a word to the peer.
    pub(crate) fn lost_by_peer(&mut self, ctx: &mut Context<'_>) {
        self.step(ctx, |core, ctx, state| match state {
            State::Established(established) => {
                (established.finish(core, ctx, CloseReason::PeerRestarted), ())
            }
            state @ (State::ExpectIntermediateRequest(_)
            | State::ExpectIntermediateResponse(_)
            | State::ExpectAuthRequest(_)
            | State::ExpectAuthResponse(_)
            | State::Closed { .. }) => (state, ()),
        });
    }

    /// Forgets the IKE SA, which the peer says it does not know any more. It is told once all the same, should
    /// both sides have begun an IKE SA at the same time.
    pub(crate) fn drop_superfluous(&mut self, ctx: &mut Context<'_>, reason: CloseReason) {
        self.step(ctx, |core, ctx, state| match state {
            State::Established(established) => {
                if established.outstanding.is_none() {
                    let delete = [Payload::Delete(Delete::Ike)];
                    if let Ok(datagrams) = core.channel.request(Exchange::Informational, &delete, ctx.random)
                    {
                        ctx.transmit(core.path, &datagrams);
                    }
                }
                (established.finish(core, ctx, reason), ())
            }
            state @ (State::ExpectIntermediateRequest(_)
            | State::ExpectIntermediateResponse(_)
            | State::ExpectAuthRequest(_)
            | State::ExpectAuthResponse(_)
            | State::Closed { .. }) => (state, ()),
        });
    }

    /// The handshake of an IKE SA whose initiator is not authenticated yet.
    pub(crate) fn handshake(&self) -> Option<&Handshake> {
        match &self.state {
            State::ExpectIntermediateRequest(awaited) => Some(&awaited.handshake),
            State::ExpectAuthRequest(awaited) => Some(&awaited.handshake),
            State::ExpectIntermediateResponse(_)
            | State::ExpectAuthResponse(_)
            | State::Established(_)
            | State::Closed { .. } => None,
        }
    }

    pub(crate) fn handshake_mut(&mut self) -> Option<&mut Handshake> {
        match &mut self.state {
            State::ExpectIntermediateRequest(awaited) => Some(&mut awaited.handshake),
            State::ExpectAuthRequest(awaited) => Some(&mut awaited.handshake),
            State::ExpectIntermediateResponse(_)
            | State::ExpectAuthResponse(_)
            | State::Established(_)
            | State::Closed { .. } => None,
        }
    }

    pub(crate) fn established(&self) -> Option<&Established> {
        match &self.state {
            State::Established(established) => Some(established),
            State::ExpectIntermediateRequest(_)
            | State::ExpectIntermediateResponse(_)
            | State::ExpectAuthRequest(_)
            | State::ExpectAuthResponse(_)
            | State::Closed { .. } => None,
        }
    }

    pub(crate) fn established_mut(&mut self) -> Option<&mut Established> {
        match &mut self.state {
            State::Established(established) => Some(established),
            State::ExpectIntermediateRequest(_)
            | State::ExpectIntermediateResponse(_)
            | State::ExpectAuthRequest(_)
            | State::ExpectAuthResponse(_)
            | State::Closed { .. } => None,
        }
    }

    /// The next deadline.
    pub(crate) fn deadline(&self, dpd_after_s: u64) -> (u64, TimeoutReason) {
        match &self.state {
            State::ExpectIntermediateRequest(awaited) => {
                (awaited.handshake.deadline_ms, TimeoutReason::HalfOpen)
            }
            State::ExpectIntermediateResponse(awaited) => (awaited.clock.due_ms, TimeoutReason::Retransmit),
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
                .map(|established| established.peer_identity.to_string())
                .unwrap_or_default(),
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
            resource: self.resource.clone(),
            ts_local: self.ts_local.clone(),
            ts_remote: self.ts_remote.clone(),
        }
    }
}

impl Deferred {
    /// The IKE SA that a rekeying made, if it is one.
    pub(crate) fn spawned(self) -> Result<Box<IkeSa>, Self> {
        match self {
            Self::Spawn(ike_sa) => Ok(ike_sa),
            other @ (Self::Adopt { .. }
            | Self::CloseOthers { .. }
            | Self::Limit { .. }
            | Self::LimitSuperseded { .. }
            | Self::ChildGone { .. }
            | Self::Authenticated { .. }
            | Self::Reauthenticate { .. }
            | Self::Redirected { .. }
            | Self::Ticket { .. }
            | Self::Ended { .. }) => Err(other),
        }
    }
}
