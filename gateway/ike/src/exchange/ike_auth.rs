//! IKE_AUTH (RFC 7296 section 1.2): both sides prove who they are, and the first Child SA is made.

use std::sync::Arc;

use super::{
    announced::Announced,
    create_child_sa::carrier,
    ike_intermediate::IntAuth,
    ike_sa_init::{Attempt, certificate_request},
    ppk::Mixing,
    resume::Resumed,
};
use crate::{
    child_sa::{self, NewChild},
    config::{AuthenticatedPeer, SitePolicy},
    connection::{Connection, Start},
    context::{Context, Deferred},
    crash,
    crypto::{prf::PrfAlgorithm, sign::HashAlgorithm},
    ike_sa::{Core, Established, State, Task, closed},
    keys::{Secret, auth_octets},
    mobike::{self, Mobike},
    output::{CloseReason, Event, list},
    pki::identity::Identity,
    proposal::{KeyExchangeOffer, accept_esp, answer_esp, offer_esp, refused_esp, select_esp},
    redirect::{self, OtherGateway},
    resource::ResourceId,
    retransmit::{Due, Retransmission},
    traffic_selector::{TrafficSelector, narrow},
    wire::{
        Exchange, Message, Payload, WireError,
        delete::Delete,
        id::Identification,
        notify::{Notify, error_name, kind},
        ts::TrafficSelectors,
    },
};

/// What IKE_SA_INIT left behind for IKE_AUTH.
pub(crate) struct Handshake {
    pub(crate) init_request: Vec<u8>,
    pub(crate) init_response: Vec<u8>,
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
    pub(crate) prf: PrfAlgorithm,
    pub(crate) sk_d: Secret,
    pub(crate) sk_pi: Secret,
    pub(crate) sk_pr: Secret,
    /// What was said in IKE_INTERMEDIATE, which AUTH covers, too.
    pub(crate) int_auth: IntAuth,
    /// Hashes that the peer accepts in signatures; empty without RFC 7427.
    pub(crate) peer_hashes: Vec<HashAlgorithm>,
    /// What else the other side can do.
    pub(crate) said: Announced,
    /// The session that goes on (RFC 5723).
    pub(crate) resumed: Option<Box<Resumed>>,
    /// When the handshake is given up.
    pub(crate) deadline_ms: u64,
    /// The initiator returned a cookie: it receives at its address.
    pub(crate) address_proven: bool,
    /// How often the IKE_SA_INIT request may yet be answered again.
    pub(crate) answers_left: u8,
}

impl Handshake {
    /// The octets that one side signs (RFC 7296 section 2.15).
    pub(super) fn signed_octets(&self, by_initiator: bool, id: &Identification) -> Vec<u8> {
        let mut body = Vec::new();
        id.emit(&mut body);
        let mut octets = if by_initiator {
            auth_octets(self.prf, &self.sk_pi, &self.init_request, &self.nonce_r, &body)
        } else {
            auth_octets(self.prf, &self.sk_pr, &self.init_response, &self.nonce_i, &body)
        };
        octets.extend(self.int_auth.octets());
        octets
    }

    /// Sends IKE_AUTH as the initiator. `None` when our own configuration lets us not sign.
    pub(super) fn start_auth(
        mut self,
        ctx: &mut Context<'_>,
        core: &mut Core,
        connection: Connection,
        attempt: Attempt,
    ) -> Option<State> {
        let peer = &connection.remote_identity;
        let mixing = self.begin_mixing(ctx, peer);
        let proof = mixing.and_then(|mixing| Ok((mixing, self.own_proof(ctx, true, peer)?)));
        let ((mixing, of_ppk), mut payloads) = match proof {
            Ok(proof) => proof,
            Err(reason) => {
                ctx.event(Event::AuthenticationFailed {
                    remote: core.path.remote,
                    peer: connection.remote_identity.to_string(),
                    reason: format!("we cannot prove ourselves: {reason}"),
                });
                return None;
            }
        };
        payloads.push(certificate_request(ctx));
        // RFC 7296 section 2.4: only when this is the only IKE SA with the peer; not while it is authenticated anew.
        if ctx.neighbours.with(&connection.remote_identity).next().is_none() {
            payloads.push(Payload::Notify(Notify::new(kind::INITIAL_CONTACT, [])));
        }
        payloads.extend(mobike::announcement(ctx.config, core.path));
        payloads.extend(crash::token_for(ctx.config, &core.channel));
        payloads.extend(of_ppk);
        let ticket = connection
            .resumption
            .then(|| Payload::Notify(Notify::new(kind::TICKET_REQUEST, [])));
        payloads.extend(ticket);
        // RFC 6023 section 4: without a Child SA only where the responder said that it can.
        let childless = connection.childless && self.said.childless;
        let first_child = if childless {
            FirstChild::Later {
                by_packet: attempt.packet.is_some(),
            }
        } else {
            let spi_in = ctx.esp_spi()?;
            payloads.extend(child_offer(ctx, &connection, attempt, spi_in));
            payloads.extend(connection.resources().next().map(|id| id.notification()));
            FirstChild::Asked { spi_in }
        };
        let Ok(datagrams) = core.channel.request(Exchange::IkeAuth, &payloads, ctx.random) else {
            first_child.release(ctx);
            return None;
        };
        ctx.transmit(core.path, &datagrams);
        let clock = Retransmission::start(ctx.config.retransmit, ctx.now.mono_ms);
        let awaited = ExpectAuthResponse {
            handshake: self,
            connection,
            first_child,
            mixing,
            datagrams,
            clock,
        };
        Some(State::ExpectAuthResponse(Box::new(awaited)))
    }
}

/// What asks for the first Child SA.
fn child_offer(ctx: &Context<'_>, connection: &Connection, attempt: Attempt, spi_in: u32) -> [Payload; 3] {
    let policy = &connection.policy;
    let proposals = policy.esp_proposals.as_ref().unwrap_or(&ctx.config.esp_proposals);
    // RFC 7296 section 2.9: the packet that asked for the Child SA goes first.
    let (first_local, first_remote) = attempt.packet.unzip();
    let selectors = |first: Option<_>, rest: &[_]| first.into_iter().chain(rest.iter().copied()).collect();
    [
        Payload::Sa(offer_esp(proposals, spi_in, false)),
        Payload::TsI(TrafficSelectors(selectors(first_local, &policy.ts_local))),
        Payload::TsR(TrafficSelectors(selectors(first_remote, &policy.ts_remote))),
    ]
}

/// What our IKE_AUTH says of a Child SA.
#[derive(Debug, Clone, Copy)]
enum FirstChild {
    /// It asks for one that we receive on this SPI.
    Asked { spi_in: u32 },
    /// Nothing (RFC 6023). A packet that waits will ask.
    Later { by_packet: bool },
}

impl FirstChild {
    /// It is not going to be.
    fn release(self, ctx: &mut Context<'_>) {
        match self {
            Self::Asked { spi_in } => ctx.allocator.release(spi_in),
            Self::Later { .. } => {}
        }
    }
}

/// A half-open IKE SA waits for the initiator's IKE_AUTH.
pub(crate) struct ExpectAuthRequest {
    pub(crate) handshake: Handshake,
}

impl ExpectAuthRequest {
    /// Answers the request; afterwards the IKE SA is established or closed.
    pub(crate) fn handle(
        mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        message: Result<Message, WireError>,
    ) -> (Vec<Payload>, State) {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                let refusal = super::Refusal::from(error);
                return (vec![Payload::Notify(refusal.0)], closed(ctx));
            }
        };
        let mixing = self.handshake.answer_mixing(ctx, &message);
        let authenticated =
            mixing.and_then(|(message, of_ppk)| Ok((self.authenticate(core, ctx, &message)?, of_ppk)));
        let authenticated = authenticated.and_then(|done| self.handshake.spend_ticket(ctx).map(|()| done));
        match authenticated {
            Ok(((peer, policy, mut payloads), of_ppk)) => {
                let ppk = of_ppk.is_some() || self.handshake.has_ppk();
                payloads.extend(of_ppk);
                let established = self.establish(core, ctx, &message, (peer, ppk), policy, &mut payloads);
                (payloads, State::Established(Box::new(established)))
            }
            Err(reason) => {
                let claimed = message
                    .id_i()
                    .and_then(|id| Identity::from_wire(id.kind, &id.data).ok());
                let peer =
                    claimed.map_or_else(|| "an unnamed peer".to_owned(), |identity| identity.to_string());
                ctx.event(Event::AuthenticationFailed {
                    remote: core.path.remote,
                    peer,
                    reason,
                });
                (
                    vec![Payload::Notify(Notify::new(kind::AUTHENTICATION_FAILED, []))],
                    closed(ctx),
                )
            }
        }
    }

    fn authenticate(
        &self,
        core: &Core,
        ctx: &mut Context<'_>,
        message: &Message,
    ) -> Result<(AuthenticatedPeer, SitePolicy, Vec<Payload>), String> {
        debug_assert!(!core.channel.initiator());
        let id = message.id_i().ok_or("it sent no identity")?;
        let peer = self
            .handshake
            .verify(ctx, message, id, true, core.path.remote.ip())?;
        if !ctx.may_have_sa(&Arc::new(peer.identity.clone())) {
            return Err(
                "it has proved its identity, but has set up or rekeyed too many SAs in a short time"
                    .to_owned(),
            );
        }
        let policy = ctx
            .config
            .authorizer
            .authorize(&peer)
            .ok_or("it has proved its identity, but no configured site matches it")?;
        let proof = self
            .handshake
            .own_proof(ctx, false, &peer.identity)
            .map_err(|reason| format!("we cannot prove ourselves: {reason}"))?;
        Ok((peer, policy, proof))
    }

    fn establish(
        self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        message: &Message,
        (peer, ppk): (AuthenticatedPeer, bool),
        policy: SitePolicy,
        payloads: &mut Vec<Payload>,
    ) -> Established {
        if message.notify(kind::INITIAL_CONTACT).is_some() {
            let close = Deferred::CloseOthers {
                peer: Arc::new(peer.identity.clone()),
                except: core.id,
            };
            ctx.deferred.push(close);
        }
        let Handshake {
            prf,
            sk_d,
            nonce_i,
            nonce_r,
            said,
            resumed,
            ..
        } = self.handshake;
        let mut established = Established::new(ctx, peer, policy, prf, sk_d);
        established.authenticated(core.id, None, ctx);
        established.goes_on(resumed.as_deref(), ppk);
        let to = ctx.config.redirect_to.as_ref();
        let sent_by_it = to.is_some() && to == said.redirected_from.map(OtherGateway::Address).as_ref();
        established.redirectable = said.redirect && !sent_by_it;
        established.mobike = Mobike::negotiated(ctx.config, message, false);
        if established.mobike.is_enabled() {
            payloads.extend(mobike::announcement(ctx.config, core.path));
        }
        established.take_token(ctx.config, message);
        payloads.extend(crash::token_for(ctx.config, &core.channel));
        payloads.extend(established.ticket(core, ctx, message));
        established.announce(core, ctx);
        // RFC 5685 section 6: it is let in far enough to believe where it is sent to.
        if let Some(to) = ctx
            .config
            .redirect_to
            .as_ref()
            .filter(|_| established.redirectable)
        {
            ctx.counters.redirects_sent += 1;
            payloads.push(to.notification());
            established.make_way(ctx.now.mono_ms);
            return established;
        }
        match first_child(&mut established, core, ctx, message, (&nonce_i, &nonce_r)) {
            Ok(answer) => payloads.extend(answer),
            Err(notification) => payloads.push(Payload::Notify(Notify::new(notification, []))),
        }
        established
    }
}

/// Makes the Child SA that IKE_AUTH asks for; without one the IKE SA stands alone (RFC 7296 section 1.2).
fn first_child(
    established: &mut Established,
    core: &Core,
    ctx: &mut Context<'_>,
    message: &Message,
    nonces: (&[u8], &[u8]),
) -> Result<Vec<Payload>, u16> {
    let asked = (message.sa(), message.ts_i(), message.ts_r());
    if ctx.config.childless && matches!(asked, (None, None, None)) {
        // RFC 6023 section 4: the answer has none of the three either.
        return Ok(Vec::new());
    }
    let (Some(offer), Some(ts_i), Some(ts_r)) = asked else {
        return Err(kind::NO_PROPOSAL_CHOSEN);
    };
    let remote = core.path.remote;
    let proposals = established.esp_proposals(ctx.config);
    let Some(choice) = select_esp(offer, proposals, KeyExchangeOffer::NotInThisExchange) else {
        let refused = refused_esp(remote, offer, proposals, KeyExchangeOffer::NotInThisExchange);
        ctx.event(refused);
        return Err(kind::NO_PROPOSAL_CHOSEN);
    };
    let (ts_remote, ts_local) = established
        .narrowed(ctx, core, (&ts_i.0, &ts_r.0))
        .ok_or(kind::TS_UNACCEPTABLE)?;
    ctx.room_for(core.id, established.policy.site, &ts_remote)?;
    // RFC 7296 section 2.8.3: a peer that authenticates itself anew is sent on the Child SA that it has until it
    // can have this one.
    let anew = message.notify(kind::INITIAL_CONTACT).is_none();
    // What it had before goes otherwise.
    if anew && ctx.has_its_share(established) {
        return Err(kind::NO_ADDITIONAL_SAS);
    }
    let spi_in = ctx.esp_spi().ok_or(kind::NO_ADDITIONAL_SAS)?;
    let replaces = anew
        .then(|| carrier(established, ctx, &ts_local, &ts_remote))
        .flatten();
    let resource = ResourceId::in_message(message);
    let new = NewChild {
        choice,
        spi_in,
        shared: None,
        additional: Vec::new(),
        nonces,
        initiated: false,
        ts_local: ts_local.clone(),
        ts_remote: ts_remote.clone(),
        outbound_active: replaces.is_none(),
        replaces,
        resource: resource.clone(),
    };
    if child_sa::install(ctx, core, established, new).is_err() {
        ctx.allocator.release(spi_in);
        return Err(kind::NO_PROPOSAL_CHOSEN);
    }
    if replaces.is_some() {
        established.wait_for_proof(ctx.now.mono_ms);
    }
    let mut payloads = vec![
        Payload::Sa(answer_esp(&choice, spi_in)),
        Payload::TsI(TrafficSelectors(ts_remote)),
        Payload::TsR(TrafficSelectors(ts_local)),
    ];
    payloads.extend(resource.map(|_| ResourceId::new(&[]).notification()));
    Ok(payloads)
}

/// Our IKE_AUTH request waits for its response.
pub(crate) struct ExpectAuthResponse {
    handshake: Handshake,
    connection: Connection,
    first_child: FirstChild,
    mixing: Mixing,
    datagrams: Vec<Vec<u8>>,
    pub(crate) clock: Retransmission,
}

impl ExpectAuthResponse {
    /// Repeats the request when it is due; false when the peer does not answer.
    pub(crate) fn handle_timeout(&mut self, core: &mut Core, ctx: &mut Context<'_>) -> bool {
        match self.clock.poll(ctx.now.mono_ms) {
            Due::Wait => true,
            Due::Repeat => {
                ctx.counters.retransmitted += 1;
                core.cut_smaller(ctx, &self.clock, &mut self.datagrams);
                ctx.transmit(core.path, &self.datagrams);
                true
            }
            Due::GiveUp => {
                self.abandon(core, ctx, CloseReason::PeerUnresponsive);
                false
            }
        }
    }

    pub(crate) fn peer(&self) -> String {
        self.connection.remote_identity.to_string()
    }

    pub(crate) fn connection_name(&self) -> &str {
        &self.connection.name
    }

    fn ended(&self, ctx: &mut Context<'_>, reason: CloseReason) {
        ctx.deferred.push(Deferred::Ended {
            connection: self.connection.name.as_str().into(),
            was_up: false,
            reason,
        });
    }

    fn release(&self, ctx: &mut Context<'_>) {
        self.first_child.release(ctx);
    }

    pub(crate) fn abandon(&self, core: &Core, ctx: &mut Context<'_>, reason: CloseReason) {
        self.release(ctx);
        ctx.event(Event::Closed {
            ike_sa: core.id,
            peer: self.peer(),
            reason: reason.clone(),
        });
        self.ended(ctx, reason);
    }

    /// Verifies the responder and takes the Child SA over.
    pub(crate) fn handle(
        mut self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        message: Result<Message, WireError>,
    ) -> State {
        let message = match message {
            Ok(message) => message,
            Err(_) => return self.fail(core, ctx, "its answer is malformed".to_owned()),
        };
        if message.auth().is_none()
            && let Some(error) = message.error()
        {
            self.abandon(core, ctx, CloseReason::PeerRefused(error_name(error.kind)));
            return closed(ctx);
        }
        let mixing = std::mem::take(&mut self.mixing);
        let authenticated = self
            .handshake
            .end_mixing(ctx, &self.connection.remote_identity, mixing, &message)
            .and_then(|ppk| Ok((self.authenticate(core, ctx, &message)?, ppk)));
        match authenticated {
            Ok((peer, ppk)) => {
                if let Some(to) = redirect::protected(&message).filter(|_| self.connection.redirects) {
                    return self.go_elsewhere(core, ctx, to);
                }
                let established = self.establish(core, ctx, &message, peer, ppk);
                State::Established(Box::new(established))
            }
            Err(reason) => self.fail(core, ctx, reason),
        }
    }

    fn authenticate(
        &self,
        core: &Core,
        ctx: &Context<'_>,
        message: &Message,
    ) -> Result<AuthenticatedPeer, String> {
        let id = message.id_r().ok_or("it sent no identity")?;
        let peer = self
            .handshake
            .verify(ctx, message, id, false, core.path.remote.ip())?;
        let expected = &self.connection.remote_identity;
        if peer.identity == *expected {
            Ok(peer)
        } else {
            Err(format!(
                "it is {}, but the connection wants {expected}",
                peer.identity
            ))
        }
    }

    /// RFC 5685 section 6: the gateway has proved itself and sends us to another. Its IKE SA is deleted.
    fn go_elsewhere(self, core: &mut Core, ctx: &mut Context<'_>, to: OtherGateway) -> State {
        let delete = [Payload::Delete(Delete::Ike)];
        if let Ok(datagrams) = core.channel.request(Exchange::Informational, &delete, ctx.random) {
            ctx.transmit(core.path, &datagrams);
        }
        self.release(ctx);
        ctx.deferred.push(Deferred::Redirected {
            connection: self.connection.name.as_str().into(),
            to,
            from: core.path.remote.ip(),
            established: false,
        });
        closed(ctx)
    }

    /// RFC 7296 section 2.21.2: the responder believes that the IKE SA stands, so it is told.
    fn fail(self, core: &mut Core, ctx: &mut Context<'_>, reason: String) -> State {
        let notify = Payload::Notify(Notify::new(kind::AUTHENTICATION_FAILED, []));
        if let Ok(datagrams) = core
            .channel
            .request(Exchange::Informational, &[notify], ctx.random)
        {
            ctx.transmit(core.path, &datagrams);
        }
        self.release(ctx);
        ctx.event(Event::AuthenticationFailed {
            remote: core.path.remote,
            peer: self.peer(),
            reason,
        });
        self.ended(ctx, CloseReason::ProtocolViolation);
        closed(ctx)
    }

    fn establish(
        self,
        core: &mut Core,
        ctx: &mut Context<'_>,
        message: &Message,
        peer: AuthenticatedPeer,
        ppk: bool,
    ) -> Established {
        let Handshake {
            prf,
            sk_d,
            nonce_i,
            nonce_r,
            resumed,
            ..
        } = self.handshake;
        let mut established = Established::new(ctx, peer, self.connection.policy.clone(), prf, sk_d);
        established.goes_on(resumed.as_deref(), ppk);
        established.authenticated(core.id, Some(&self.connection), ctx);
        established.mobike = Mobike::negotiated(ctx.config, message, true);
        established.take_token(ctx.config, message);
        let ticket = established
            .kept_ticket(core, ctx, message)
            .filter(|_| self.connection.resumption);
        ctx.deferred.extend(ticket.map(|ticket| Deferred::Ticket {
            connection: self.connection.name.as_str().into(),
            ticket: Box::new(ticket),
        }));
        established.announce(core, ctx);
        ctx.deferred.push(Deferred::Authenticated {
            connection: self.connection.name.as_str().into(),
            spi: core.channel.own_spi(),
        });
        let spi_in = match self.first_child {
            FirstChild::Asked { spi_in } => spi_in,
            FirstChild::Later { by_packet } => {
                if !by_packet && self.connection.start != Start::OnDemand {
                    let policy = &self.connection.policy;
                    let selectors = (policy.ts_local.clone(), policy.ts_remote.clone());
                    established.push_new(Task::NewChild {
                        selectors: selectors.clone(),
                        group: None,
                        resource: self.connection.resources().next(),
                    });
                    established.ask_for_resources(self.connection.resources().skip(1), &selectors);
                }
                return established;
            }
        };
        let result = first_child_answer(
            &mut established,
            core,
            ctx,
            message,
            &self.connection,
            (spi_in, &nonce_i, &nonce_r),
        );
        if let Err(notification) = result {
            ctx.allocator.release(spi_in);
            ctx.event(Event::RefusedByPeer {
                remote: core.path.remote,
                what: "the first Child SA",
                notification: error_name(notification),
            });
            // What goes into no common Child SA may go into one a pair, or succeed in a while.
            let policy = &self.connection.policy;
            established.child_refused(ctx, (&policy.ts_local, &policy.ts_remote), notification);
        }
        established
    }
}

fn first_child_answer(
    established: &mut Established,
    core: &Core,
    ctx: &mut Context<'_>,
    message: &Message,
    connection: &Connection,
    (spi_in, nonce_i, nonce_r): (u32, &[u8], &[u8]),
) -> Result<(), u16> {
    if let Some(error) = message.error() {
        return Err(error.kind);
    }
    let (Some(answer), Some(ts_i), Some(ts_r)) = (message.sa(), message.ts_i(), message.ts_r()) else {
        return Err(kind::NO_PROPOSAL_CHOSEN);
    };
    let proposals = established.esp_proposals(ctx.config);
    let choice = accept_esp(answer, proposals, KeyExchangeOffer::NotInThisExchange);
    let choice = choice.ok_or(kind::NO_PROPOSAL_CHOSEN)?;
    let policy = &established.policy;
    let (ts_local, ts_remote) = (
        narrow(&ts_i.0, &policy.ts_local),
        narrow(&ts_r.0, &policy.ts_remote),
    );
    if ts_local.is_empty() || ts_remote.is_empty() {
        return Err(kind::TS_UNACCEPTABLE);
    }
    let selectors = (ts_local.clone(), ts_remote.clone());
    // The responder has it already: what there is no room for is made, not sent on, and deleted.
    let room = ctx.room_for(core.id, established.policy.site, &ts_remote);
    let new = NewChild {
        choice,
        spi_in,
        shared: None,
        additional: Vec::new(),
        nonces: (nonce_i, nonce_r),
        initiated: true,
        ts_local,
        ts_remote,
        outbound_active: room.is_ok(),
        replaces: None,
        resource: connection.resources().next(),
    };
    let child = child_sa::install(ctx, core, established, new).map_err(|_| kind::NO_PROPOSAL_CHOSEN)?;
    if room.is_err() {
        ctx.networks.let_go(child);
        established.delete_later(child);
        return Ok(());
    }
    established.ask_for_resources(connection.resources().skip(1), &selectors);
    Ok(())
}

impl Established {
    /// RFC 9611 section 3: further Child SAs with the selectors of the first.
    fn ask_for_resources(
        &mut self,
        resources: impl Iterator<Item = ResourceId>,
        selectors: &(Vec<TrafficSelector>, Vec<TrafficSelector>),
    ) {
        for resource in resources {
            self.push_new(Task::NewChild {
                selectors: selectors.clone(),
                group: None,
                resource: Some(resource),
            });
        }
    }

    /// What a resumed session brings, and whether a preshared key is in the keys.
    fn goes_on(&mut self, resumed: Option<&Resumed>, ppk: bool) {
        self.ppk = ppk;
        if let Some(resumed) = resumed {
            self.authenticated_ms = resumed.authenticated_ms;
        }
    }

    /// What of the peer's selectors (its side, our side) the policy allows, or an event that says why none.
    pub(crate) fn narrowed(
        &self,
        ctx: &mut Context<'_>,
        core: &Core,
        (theirs, ours): (&[crate::TrafficSelector], &[crate::TrafficSelector]),
    ) -> Option<(Vec<crate::TrafficSelector>, Vec<crate::TrafficSelector>)> {
        let remote = narrow(theirs, &self.policy.ts_remote);
        let local = narrow(ours, &self.policy.ts_local);
        if remote.is_empty() || local.is_empty() {
            let pair = |ours: &[_], theirs: &[_]| format!("{} === {}", list(ours), list(theirs));
            ctx.event(Event::TrafficSelectorsRefused {
                remote: core.path.remote,
                offered: pair(ours, theirs),
                configured: pair(&self.policy.ts_local, &self.policy.ts_remote),
            });
            return None;
        }
        Some((remote, local))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use zeroize::Zeroizing;

    use super::{super::ike_intermediate::Plain, *};
    use crate::{
        config::{Authorizer, EndpointConfig, Time},
        context::{Allocator, Neighbours},
        counters::Counters,
        crypto::random::SystemRandom,
        pki::{credential::Credential, trust::TrustAnchors},
    };

    pub(in crate::exchange) struct Nobody;

    impl Authorizer for Nobody {
        fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
            None
        }
    }

    pub(in crate::exchange) fn handshake() -> Handshake {
        Handshake {
            init_request: b"request".to_vec(),
            init_response: b"response".to_vec(),
            nonce_i: vec![1; 32],
            nonce_r: vec![2; 32],
            prf: PrfAlgorithm::HmacSha256,
            sk_d: Zeroizing::new(vec![3; 32]),
            sk_pi: Zeroizing::new(vec![4; 32]),
            sk_pr: Zeroizing::new(vec![5; 32]),
            int_auth: IntAuth::default(),
            peer_hashes: Vec::new(),
            said: Announced::default(),
            resumed: None,
            deadline_ms: 0,
            address_proven: false,
            answers_left: 0,
        }
    }

    /// RFC 7296 section 2.15: the signature covers the first message, the other side's nonce and, by a key
    /// of this IKE SA, the identity. A proof made for another handshake, or by somebody in the middle, fails.
    #[test]
    fn a_proof_holds_for_one_handshake_only() {
        let credential = Credential::from_pem(
            include_bytes!("../../tests/data/ec-leaf.crt"),
            include_bytes!("../../tests/data/ec-leaf.key"),
        );
        let config = EndpointConfig::new(
            credential.unwrap(),
            "site1.lab.test".parse().unwrap(),
            TrustAnchors::from_pem(include_bytes!("../../tests/data/ec-ca.crt")).unwrap(),
            Box::new(Nobody),
        );
        let (mut random, mut outputs, mut allocator) =
            (SystemRandom::new(), VecDeque::new(), Allocator::default());
        let (mut counters, mut lingering, mut deferred) = (Counters::default(), BTreeSet::new(), Vec::new());
        let ctx = Context {
            config: &config,
            now: Time {
                mono_ms: 0,
                unix_s: 1_798_761_600,
            },
            random: &mut random,
            outputs: &mut outputs,
            allocator: &mut allocator,
            counters: &mut counters,
            lingering: &mut lingering,
            deferred: &mut deferred,
            neighbours: Neighbours::default(),
            tickets: &mut Default::default(),
            allowances: &mut Default::default(),
            networks: &mut Default::default(),
        };
        for initiator in [true, false] {
            let somebody = "site2.lab.test".parse().unwrap();
            let message = Message(handshake().own_proof(&ctx, initiator, &somebody).unwrap());
            let id = if initiator { message.id_i() } else { message.id_r() }
                .unwrap()
                .clone();
            let source = "192.0.2.1".parse().unwrap();
            let verify = |handshake: Handshake, by_initiator| {
                handshake.verify(&ctx, &message, &id, by_initiator, source)
            };
            assert!(verify(handshake(), initiator).is_ok());
            assert!(verify(handshake(), !initiator).is_err(), "reflected");
            let others: [fn(&mut Handshake); 4] = [
                |one| (one.nonce_i[0], one.nonce_r[0]) = (9, 9),
                |one| (one.init_request[0], one.init_response[0]) = (9, 9),
                |one| (one.sk_pi[0], one.sk_pr[0]) = (9, 9),
                // RFC 9242 section 3.3.2: what was said in IKE_INTERMEDIATE is covered.
                |one| {
                    let message = Plain {
                        head: [0; 24],
                        first: 34,
                        content: b"another key",
                    };
                    one.int_auth.cover(one.prf, &[4; 32], true, &message);
                },
            ];
            for change in others {
                let mut other = handshake();
                change(&mut other);
                assert!(verify(other, initiator).unwrap_err().contains("signature"));
            }
        }
    }
}
