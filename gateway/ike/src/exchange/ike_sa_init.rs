//! IKE_SA_INIT (RFC 7296 section 1.2): algorithms, key exchange and nonces, in the clear.

use std::net::IpAddr;

use super::{
    Refusal,
    admission::{Admission, Gate},
    announced::Announced,
    asked_group, chosen,
    ike_auth::Handshake,
    ike_intermediate::{ExpectIntermediateRequest, ExpectIntermediateResponse, IntAuth},
    resume::Resumed,
};
use crate::{
    channel::Channel,
    connection::{Connection, Remote},
    context::{Context, Deferred, NAT_PORT, Path},
    crypto::{
        dh::{DhGroup, DhPrivate},
        sign::HashAlgorithm,
    },
    half_open::{ANSWERS_MAX, INIT_REQUEST_MAX},
    ids::IkeSaId,
    ike_sa::{Core, IkeSa},
    keys::{IkeKeys, Seeds, derive_ike, skeyseed, skeyseed_resumed},
    mobike, nat,
    output::{CloseReason, Event, TimeoutReason},
    proposal::{IkeChoice, IkeProposal, accept_ike, offer_ike, refused_ike, select_ike},
    puzzle::{Puzzle, Solver},
    redirect,
    retransmit::{Due, Retransmission},
    ticket::ClientTicket,
    traffic_selector::TrafficSelector,
    wire::{
        Exchange, Header, Message, Payload, WireError,
        certreq::CertificateRequest,
        header::HEADER_LEN,
        ke::KeyExchange,
        nonce::Nonce,
        notify::{Notify, error_name, kind},
        payload_type,
        puzzle::PuzzleSolution,
    },
};

/// What answering a request came to.
pub(crate) enum Answered {
    /// A half-open IKE SA was made.
    HalfOpen(Box<IkeSa>),
    /// The request was answered, or dropped, without a trace.
    Nothing,
}

/// Answers an IKE_SA_INIT request of an unknown initiator, if the gate lets it in.
pub(crate) fn respond(
    ctx: &mut Context<'_>,
    path: Path,
    header: &Header,
    datagram: &[u8],
    mut gate: Gate<'_>,
) -> Answered {
    if datagram.len() > INIT_REQUEST_MAX {
        ctx.counters.malformed += 1;
        return Answered::Nothing;
    }
    let body = datagram.get(HEADER_LEN..).unwrap_or_default();
    let message = match Message::parse(header.next_payload, body) {
        Ok(message) => message,
        Err(error) => {
            ctx.counters.malformed += 1;
            answer_unproven(ctx, path, header, datagram, vec![Refusal::from(error).0]);
            return Answered::Nothing;
        }
    };
    // RFC 5685 section 3: nothing is computed or kept for an initiator that is sent away.
    if let Some(notify) = redirect::answer(ctx.config, &message) {
        ctx.counters.redirects_sent += 1;
        answer_unproven(ctx, path, header, datagram, vec![notify]);
        return Answered::Nothing;
    }
    let admitted = match gate.admit(ctx, path, header, &message) {
        Admission::Admitted { proven } => accept(ctx, path, header, datagram, &message, (proven, gate)),
        Admission::Ask(notifies) => Err(notifies),
        Admission::Refuse(refusal) => Err(vec![refusal.0]),
        Admission::Drop => return Answered::Nothing,
    };
    match admitted {
        Ok(ike_sa) => Answered::HalfOpen(Box::new(ike_sa)),
        Err(notifies) => {
            answer_unproven(ctx, path, header, datagram, notifies);
            Answered::Nothing
        }
    }
}

/// Sends notifications back to somebody who may not be who it seems: never more octets than came.
pub(super) fn answer_unproven(
    ctx: &mut Context<'_>,
    path: Path,
    header: &Header,
    datagram: &[u8],
    notifies: Vec<Notify>,
) {
    let header = Header {
        response: true,
        from_initiator: false,
        next_payload: payload_type::NONE,
        ..*header
    };
    let payloads: Vec<_> = notifies.into_iter().map(Payload::Notify).collect();
    match header.message(Payload::chain(&payloads)) {
        Ok(message) if message.len() <= datagram.len() => ctx.transmit(path, &[message]),
        Ok(_) => ctx.counters.not_amplified += 1,
        // Notifications as short as these fit any message.
        Err(_) => {}
    }
}

fn accept(
    ctx: &mut Context<'_>,
    path: Path,
    header: &Header,
    datagram: &[u8],
    message: &Message,
    (proven, mut gate): (bool, Gate<'_>),
) -> Result<IkeSa, Vec<Notify>> {
    let syntax = || vec![Refusal::syntax().0];
    let (Some(offer), Some(ke), Some(nonce_i)) = (message.sa(), message.ke(), message.nonce()) else {
        return Err(syntax());
    };
    // RFC 9370 section 2.2.1: additional key exchanges need IKE_INTERMEDIATE.
    let intermediate = message.notify(kind::INTERMEDIATE_EXCHANGE_SUPPORTED).is_some();
    let also = select_ike(offer, &ctx.config.ike_proposals_accepted, ke.group, intermediate);
    let choice = also.or_else(|| select_ike(offer, &ctx.config.ike_proposals, ke.group, intermediate));
    let Some(choice) = choice else {
        if gate.half_open.tells_of_refusal(ctx.now.mono_ms) {
            let refused = refused_ike(path.remote, offer, &ctx.config.ike_proposals, intermediate);
            ctx.event(refused);
        } else {
            ctx.counters.refusals_untold += 1;
        }
        return Err(vec![Refusal::of(kind::NO_PROPOSAL_CHOSEN).0]);
    };
    let suite = choice.proposal;
    if suite.group.id() != ke.group {
        return Err(vec![Refusal::other_group(suite.group.id()).0]);
    }
    if ke.data.len() != suite.group.public_len() {
        return Err(syntax());
    }
    if mobike::unexpected_nat(message, path) {
        return Err(vec![Refusal::of(kind::UNEXPECTED_NAT_DETECTED).0]);
    }
    let (nonce_r, spi_r) = (ctx.nonce(), ctx.ike_spi());
    let answer_header = Header {
        spi_r,
        response: true,
        from_initiator: false,
        ..*header
    };
    let answer_with = |ctx: &Context<'_>, public: Vec<u8>| {
        let payloads = answer_payloads(ctx, path, &answer_header, message, (&choice, public, &nonce_r));
        answer_header.message(Payload::chain(&payloads))
    };
    // Everything but the public value is known, and its length too: what would be longer than the request
    // goes only to where the initiator is known to receive.
    let length =
        answer_with(ctx, vec![0; suite.group.public_len()]).map_or(usize::MAX, |answer| answer.len());
    if !proven && length > datagram.len() {
        ctx.counters.not_amplified += 1;
        return Err(gate.cookie(ctx, path, header, &nonce_i.0, 0));
    }
    ctx.counters.key_exchanges += 1;
    let dh = DhPrivate::generate(suite.group, ctx.random)
        .map_err(|_| vec![Refusal::of(kind::NO_PROPOSAL_CHOSEN).0])?;
    let public = dh.public();
    let shared = dh.agree(&ke.data).map_err(|_| syntax())?;
    let seeds = Seeds {
        nonce_i: &nonce_i.0,
        nonce_r: &nonce_r,
        spi_i: header.spi_i,
        spi_r,
    };
    let seed = skeyseed(suite.prf, &seeds, &shared);
    let keys = derive_ike(&suite, &seed, &seeds, false).map_err(|_| syntax())?;
    let answer = answer_with(ctx, public).map_err(|_: WireError| syntax())?;

    let nat = nat::detect(message, header.spi_i, 0, path);
    let message_max = message_max(ctx, message);
    let channel = Channel::new(
        (header.spi_i, spi_r),
        false,
        keys.sealer,
        keys.opener,
        (0, 1),
        message_max,
    );
    let deadline_ms = ctx
        .now
        .mono_ms
        .saturating_add(ctx.config.half_open_timeout_s.saturating_mul(1000));
    ctx.transmit(path, std::slice::from_ref(&answer));
    let handshake = Handshake {
        init_request: datagram.to_vec(),
        init_response: answer,
        nonce_i: nonce_i.0.clone(),
        nonce_r,
        prf: keys.prf,
        sk_d: keys.sk_d,
        sk_pi: keys.sk_pi,
        sk_pr: keys.sk_pr,
        int_auth: IntAuth::default(),
        peer_hashes: peer_hashes(ctx, message),
        said: Announced::in_message(message),
        resumed: None,
        deadline_ms,
        address_proven: proven,
        answers_left: ANSWERS_MAX,
    };
    let core = Core {
        id: ctx.allocator.ike_sa(),
        path,
        arrived: path,
        nat,
        channel,
        suite,
    };
    let state = ExpectIntermediateRequest::after_init(handshake, &core);
    Ok(IkeSa { core, state })
}

/// RFC 9242 section 3.1: said by the initiator when it offers something that needs IKE_INTERMEDIATE, and by the
/// responder when it chooses that.
fn intermediate_supported(needed: bool) -> Option<Payload> {
    needed.then(|| Payload::Notify(Notify::new(kind::INTERMEDIATE_EXCHANGE_SUPPORTED, [])))
}

/// The response's payloads. What the initiator did not announce it cannot use, and is left out.
fn answer_payloads(
    ctx: &Context<'_>,
    path: Path,
    header: &Header,
    message: &Message,
    (choice, public, nonce_r): (&IkeChoice, Vec<u8>, &[u8]),
) -> Vec<Payload> {
    let suite = choice.proposal;
    let mut payloads = vec![
        chosen(choice.to_wire(None)),
        Payload::Ke(KeyExchange {
            group: suite.group.id(),
            data: public,
        }),
        Payload::Nonce(Nonce(nonce_r.to_vec())),
    ];
    let announced = |kind| message.notify(kind).is_some();
    if nat::is_announced(message) {
        payloads.extend(nat::notifications(header.spi_i, header.spi_r, path));
    }
    payloads.push(certificate_request(ctx));
    payloads.extend(extensions(
        ctx,
        announced(kind::IKEV2_FRAGMENTATION_SUPPORTED),
        announced(kind::SIGNATURE_HASH_ALGORITHMS),
    ));
    // RFC 6023 section 3: said by the responder alone.
    let childless = ctx.config.childless;
    let ppk = announced(kind::USE_PPK) && !ctx.config.ppks.is_empty();
    payloads.extend(ppk.then(|| Payload::Notify(Notify::new(kind::USE_PPK, []))));
    payloads.extend(childless.then(|| Payload::Notify(Notify::new(kind::CHILDLESS_IKEV2_SUPPORTED, []))));
    payloads.extend(intermediate_supported(!suite.additional.is_empty()));
    payloads
}

pub(super) fn certificate_request(ctx: &Context<'_>) -> Payload {
    let hashes = ctx.config.trust.certreq();
    Payload::CertReq(CertificateRequest::x509(hashes.as_chunks().0.to_vec()))
}

/// What both sides say they can do: hashes for signatures (RFC 7427 section 4), fragments (RFC 7383).
pub(super) fn extensions(ctx: &Context<'_>, fragmentation: bool, hashes: bool) -> Vec<Payload> {
    let mut payloads = Vec::new();
    if hashes && ctx.config.digital_signatures {
        let hashes: Vec<u8> = HashAlgorithm::ANNOUNCED
            .iter()
            .flat_map(|hash| hash.id().to_be_bytes())
            .collect();
        payloads.push(Payload::Notify(Notify::new(
            kind::SIGNATURE_HASH_ALGORITHMS,
            hashes,
        )));
    }
    if fragmentation && ctx.config.fragment_size.is_some() {
        payloads.push(Payload::Notify(Notify::new(
            kind::IKEV2_FRAGMENTATION_SUPPORTED,
            [],
        )));
    }
    payloads
}

pub(super) fn message_max(ctx: &Context<'_>, message: &Message) -> usize {
    match message.notify(kind::IKEV2_FRAGMENTATION_SUPPORTED) {
        Some(_) => ctx.config.message_max(),
        None => usize::MAX,
    }
}

/// RFC 7427 section 3: method 14 is used only when both sides announced it.
fn peer_hashes(ctx: &Context<'_>, message: &Message) -> Vec<HashAlgorithm> {
    let listed = message
        .notify(kind::SIGNATURE_HASH_ALGORITHMS)
        .filter(|_| ctx.config.digital_signatures);
    let numbers = listed
        .map(|notify| notify.data.as_chunks::<2>().0)
        .unwrap_or_default();
    numbers
        .iter()
        .filter_map(|bytes| HashAlgorithm::from_id(u16::from_be_bytes(*bytes)))
        .collect()
}

/// One attempt to bring a connection up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) remote: Remote,
    /// The packet that asked for it: our side, the peer's side.
    pub(crate) packet: Option<(TrafficSelector, TrafficSelector)>,
    /// The gateway that sent us to this one (RFC 5685).
    pub(crate) redirected_from: Option<IpAddr>,
}

/// Our IKE_SA_INIT request waits for its response.
pub(crate) struct ExpectInitResponse {
    pub(crate) id: IkeSaId,
    pub(crate) path: Path,
    pub(crate) spi_i: u64,
    connection: Connection,
    attempt: Attempt,
    nonce_i: Vec<u8>,
    dh: DhPrivate,
    /// What was sent with other groups: a genuine answer to it may yet come, if what made us change was not.
    earlier: Vec<(DhPrivate, Vec<u8>)>,
    cookie: Option<Vec<u8>>,
    /// Works on the puzzle that came with the cookie.
    solver: Option<Solver>,
    solution: Option<Vec<u8>>,
    /// An error that was answered, and until when a better answer is waited for.
    refusal: Option<(u16, u64)>,
    /// How often the peer sent us back (cookie, other group); it may not do so for ever.
    restarts: u8,
    request: Vec<u8>,
    clock: Retransmission,
    /// The session that is to be resumed in place of a new one (RFC 5723).
    resume: Option<Box<ClientTicket>>,
}

/// Says that an attempt came to nothing.
pub(super) fn attempt_failed(
    ctx: &mut Context<'_>,
    ike_sa: IkeSaId,
    connection: &Connection,
    reason: CloseReason,
) {
    ctx.event(Event::Closed {
        ike_sa,
        peer: connection.remote_identity.to_string(),
        reason: reason.clone(),
    });
    ctx.deferred.push(Deferred::Ended {
        connection: connection.name.as_str().into(),
        was_up: false,
        reason,
    });
}

/// Cookie, then other group, then cookie again: more is a game.
const RESTARTS_MAX: u8 = 4;
/// Octets of a cookie at most (RFC 7296 section 2.6).
const COOKIE_MAX: usize = 64;
/// What we solve when the responder leaves the difficulty to us (RFC 8019 section 7.1.1.1).
const OWN_PUZZLE_BITS: u8 = 8;

/// Takes them out of an [`ExpectInitResponse`], of which a part may be used up.
macro_rules! begun {
    ($from:expr) => {
        Begun {
            id: $from.id,
            path: $from.path,
            spi_i: $from.spi_i,
            connection: $from.connection,
            attempt: $from.attempt,
            nonce_i: $from.nonce_i,
            request: $from.request,
        }
    };
}

/// What a response to our IKE_SA_INIT came to.
pub(crate) enum Initiated {
    /// Ask on, with another group or a cookie; or wait on.
    Again(Box<ExpectInitResponse>),
    /// IKE_AUTH is under way.
    Proceed(Box<IkeSa>),
    /// There is no way on.
    Failed,
}

impl ExpectInitResponse {
    /// Sends the first request of a connection.
    pub(crate) fn start(
        ctx: &mut Context<'_>,
        connection: Connection,
        attempt: Attempt,
        resume: Option<Box<ClientTicket>>,
    ) -> Option<Self> {
        let path = Path {
            local: attempt.remote.local,
            remote: attempt.remote.address,
        };
        let group = ctx.config.ike_proposals.first()?.group;
        let dh = DhPrivate::generate(group, ctx.random).ok()?;
        let clock = Retransmission::start(ctx.config.retransmit, ctx.now.mono_ms);
        let mut this = Self {
            id: ctx.allocator.ike_sa(),
            path,
            spi_i: ctx.ike_spi(),
            connection,
            attempt,
            nonce_i: ctx.nonce(),
            dh,
            earlier: Vec::new(),
            cookie: None,
            solver: None,
            solution: None,
            refusal: None,
            restarts: 0,
            request: Vec::new(),
            clock,
            resume,
        };
        this.send(ctx);
        Some(this)
    }

    fn send(&mut self, ctx: &mut Context<'_>) {
        let mut payloads = Vec::new();
        // RFC 7296 section 2.6: the cookie goes first, everything else stays as it was.
        payloads.extend(
            self.cookie
                .clone()
                .map(|cookie| Payload::Notify(Notify::new(kind::COOKIE, cookie))),
        );
        let solution = self.solution.clone().map(PuzzleSolution);
        payloads.extend(solution.map(Payload::PuzzleSolution));
        let nonce = Payload::Nonce(Nonce(self.nonce_i.clone()));
        if let Some(ticket) = &self.resume {
            let ticket = Notify::new(kind::TICKET_OPAQUE, ticket.opaque.clone());
            payloads.extend([nonce, Payload::Notify(ticket)]);
        } else {
            payloads.push(Payload::Sa(offer_ike(&ctx.config.ike_proposals, None)));
            payloads.push(Payload::Ke(KeyExchange {
                group: self.dh.group().id(),
                data: self.dh.public(),
            }));
            payloads.push(nonce);
        }
        payloads.extend(nat::notifications(self.spi_i, 0, self.path));
        payloads.extend(extensions(ctx, true, self.resume.is_none()));
        payloads.extend(redirect::announcement(
            &self.connection,
            self.attempt.redirected_from,
        ));
        let ppk = ctx.config.ppks.get(&self.connection.remote_identity);
        let ppk = ppk.filter(|_| self.resume.is_none());
        payloads.extend(ppk.map(|_| Payload::Notify(Notify::new(kind::USE_PPK, []))));
        let offers_more = ctx
            .config
            .ike_proposals
            .iter()
            .any(|own| !own.additional.is_empty());
        let offers_more = offers_more && self.resume.is_none();
        payloads.extend(intermediate_supported(offers_more));
        let header = Header {
            spi_i: self.spi_i,
            spi_r: 0,
            next_payload: payload_type::NONE,
            exchange: self.exchange(),
            from_initiator: true,
            response: false,
            message_id: 0,
        };
        if let Ok(request) = header.message(Payload::chain(&payloads)) {
            ctx.transmit(self.path, std::slice::from_ref(&request));
            self.request = request;
        }
        self.clock = Retransmission::start(ctx.config.retransmit, ctx.now.mono_ms);
    }

    /// The exchange whose response is awaited.
    pub(crate) fn exchange(&self) -> Exchange {
        match self.resume {
            Some(_) => Exchange::IkeSessionResume,
            None => Exchange::IkeSaInit,
        }
    }

    /// The next thing to do.
    pub(crate) fn deadline(&self) -> (u64, TimeoutReason) {
        let refusal = self
            .refusal
            .map(|(_, until_ms)| (until_ms, TimeoutReason::HalfOpen));
        let next = match self.solver {
            // The next step is due whatever the time is.
            Some(_) => (0, TimeoutReason::Puzzle),
            None => (self.clock.due_ms, TimeoutReason::Retransmit),
        };
        refusal.into_iter().chain([next]).min().unwrap_or(next)
    }

    /// Goes on with the puzzle, or repeats the request when it is due; false when the peer does not answer at
    /// all, or refused and nobody contradicted.
    pub(crate) fn handle_timeout(&mut self, ctx: &mut Context<'_>) -> bool {
        if let Some((notification, until_ms)) = self.refusal
            && until_ms <= ctx.now.mono_ms
        {
            self.closed(ctx, CloseReason::PeerRefused(error_name(notification)));
            return false;
        }
        if let Some(solver) = &mut self.solver {
            if let Some(solution) = solver.step() {
                self.solver = None;
                self.solution = Some(solution);
                self.send(ctx);
            }
            return true;
        }
        match self.clock.poll(ctx.now.mono_ms) {
            Due::Wait => true,
            Due::Repeat => {
                ctx.counters.retransmitted += 1;
                ctx.transmit(self.path, std::slice::from_ref(&self.request));
                true
            }
            Due::GiveUp => {
                self.closed(ctx, CloseReason::PeerUnresponsive);
                false
            }
        }
    }

    pub(crate) fn connection_name(&self) -> &str {
        &self.connection.name
    }

    fn closed(&self, ctx: &mut Context<'_>, reason: CloseReason) {
        attempt_failed(ctx, self.id, &self.connection, reason);
    }

    /// Handles a response. It is not authenticated: what is not well-formed is ignored, and an error is
    /// believed only if no better answer comes for a while (RFC 7296 section 2.21.1).
    pub(crate) fn handle(mut self, ctx: &mut Context<'_>, header: &Header, datagram: &[u8]) -> Initiated {
        let body = datagram.get(HEADER_LEN..).unwrap_or_default();
        let Ok(message) = Message::parse(header.next_payload, body) else {
            ctx.counters.malformed += 1;
            return Initiated::Again(Box::new(self));
        };
        if let Some(cookie) = message.notify(kind::COOKIE) {
            return self.with_cookie(ctx, &message, &cookie.data);
        }
        if let Some(notify) = message.notify(kind::REDIRECT) {
            return self.with_redirect(ctx, notify);
        }
        if self.resume.is_some() {
            return self.with_session(ctx, header, datagram, &message);
        }
        if let Some(error) = message.error() {
            return match asked_group(error).and_then(DhGroup::from_id) {
                Some(group) => self.with_group(ctx, group),
                None => self.hold(ctx, error.kind),
            };
        }
        let (Some(answer), Some(ke), Some(nonce_r)) = (message.sa(), message.ke(), message.nonce()) else {
            return Initiated::Again(Box::new(self));
        };
        let choice = accept_ike(answer, &ctx.config.ike_proposals);
        match choice {
            Some(IkeChoice { proposal, .. })
                if (proposal.additional.is_empty()
                    || message.notify(kind::INTERMEDIATE_EXCHANGE_SUPPORTED).is_some())
                    && ke.group == proposal.group.id()
                    && header.spi_r != 0
                    && self.turn_to(proposal.group) =>
            {
                self.proceed(ctx, header, datagram, &message, (proposal, ke, nonce_r))
            }
            _ => self.hold(ctx, kind::NO_PROPOSAL_CHOSEN),
        }
    }

    /// Makes the attempt with this group the one at hand; false when there was none.
    fn turn_to(&mut self, group: DhGroup) -> bool {
        if self.dh.group() == group {
            return true;
        }
        let found = self.earlier.iter_mut().find(|(dh, _)| dh.group() == group);
        found
            .map(|(dh, request)| {
                std::mem::swap(dh, &mut self.dh);
                std::mem::swap(request, &mut self.request);
            })
            .is_some()
    }

    /// RFC 7296 section 2.6 and RFC 8019 section 7.1.2: brings the cookie back, with the puzzle solved if one
    /// came with it that is not too hard.
    fn with_cookie(mut self, ctx: &mut Context<'_>, message: &Message, cookie: &[u8]) -> Initiated {
        if cookie.is_empty() || cookie.len() > COOKIE_MAX {
            ctx.counters.malformed += 1;
            return Initiated::Again(Box::new(self));
        }
        if self.cookie.as_deref() == Some(cookie) {
            ctx.counters.repeated += 1;
            return Initiated::Again(Box::new(self));
        }
        self.cookie = Some(cookie.to_vec());
        (self.solver, self.solution) = (None, None);
        let puzzle = message
            .notify(kind::PUZZLE)
            .and_then(|notify| Puzzle::from_wire(&notify.data))
            .filter(|puzzle| puzzle.bits <= ctx.config.defence.solve_bits_max);
        let Some(mut puzzle) = puzzle else {
            return self.again(ctx);
        };
        if puzzle.bits == 0 {
            puzzle.bits = OWN_PUZZLE_BITS;
        }
        self.restarts += 1;
        if self.restarts > RESTARTS_MAX {
            return self.hold(ctx, kind::NO_PROPOSAL_CHOSEN);
        }
        self.solver = Some(Solver::new(puzzle, cookie.to_vec()));
        Initiated::Again(Box::new(self))
    }

    /// RFC 5685 section 3: goes to another gateway, if the message answers this request.
    fn with_redirect(self, ctx: &mut Context<'_>, notify: &Notify) -> Initiated {
        let to = redirect::unprotected(notify, &self.nonce_i).filter(|_| self.connection.redirects);
        let Some(to) = to else {
            ctx.counters.unexpected += 1;
            return Initiated::Again(Box::new(self));
        };
        ctx.deferred.push(Deferred::Redirected {
            connection: self.connection.name.as_str().into(),
            to,
            from: self.path.remote.ip(),
            established: false,
        });
        Initiated::Failed
    }

    /// RFC 5723 section 4.3: the session goes on, or the gateway does not know it any more. Then a new one is begun: a
    /// forged refusal costs no more than that.
    fn with_session(
        mut self,
        ctx: &mut Context<'_>,
        header: &Header,
        datagram: &[u8],
        message: &Message,
    ) -> Initiated {
        let good = message
            .nonce()
            .filter(|_| header.spi_r != 0 && message.error().is_none());
        let Some((nonce_r, ticket)) = good.zip(self.resume.take()) else {
            self.resume = None;
            (self.cookie, self.solver, self.solution) = (None, None, None);
            self.nonce_i = ctx.nonce();
            return self.again(ctx);
        };
        let seeds = Seeds {
            nonce_i: &self.nonce_i,
            nonce_r: &nonce_r.0,
            spi_i: self.spi_i,
            spi_r: header.spi_r,
        };
        let suite = ticket.suite;
        let seed = skeyseed_resumed(suite.prf, &ticket.sk_d, &seeds);
        let Ok(keys) = derive_ike(&suite, &seed, &seeds, true) else {
            attempt_failed(ctx, self.id, &self.connection, CloseReason::ProtocolViolation);
            return Initiated::Failed;
        };
        let resumed = Resumed {
            peer: ticket.peer,
            authenticated_ms: ticket.authenticated_ms,
            ppk: ticket.ppk,
            ticket: None,
        };
        begun!(self).with_keys(
            ctx,
            header,
            datagram,
            message,
            (suite, keys, nonce_r),
            Some(Box::new(resumed)),
        )
    }

    fn with_group(mut self, ctx: &mut Context<'_>, group: DhGroup) -> Initiated {
        let offered = ctx
            .config
            .ike_proposals
            .iter()
            .any(|proposal| proposal.group == group);
        match DhPrivate::generate(group, ctx.random) {
            Ok(dh) if offered && group != self.dh.group() => {
                let before = std::mem::replace(&mut self.dh, dh);
                self.earlier.push((before, self.request.clone()));
                self.again(ctx)
            }
            _ => self.hold(ctx, kind::INVALID_KE_PAYLOAD),
        }
    }

    fn again(mut self, ctx: &mut Context<'_>) -> Initiated {
        self.restarts += 1;
        if self.restarts > RESTARTS_MAX {
            return self.hold(ctx, kind::INVALID_KE_PAYLOAD);
        }
        self.send(ctx);
        Initiated::Again(Box::new(self))
    }

    /// Notes the refusal, and waits whether somebody else has a better answer: the genuine one may be behind
    /// a forged one. Meanwhile the request is repeated as before.
    fn hold(mut self, ctx: &mut Context<'_>, notification: u16) -> Initiated {
        let until_ms = ctx.now.mono_ms.saturating_add(ctx.config.defence.refusal_hold_ms);
        self.refusal.get_or_insert((notification, until_ms));
        Initiated::Again(Box::new(self))
    }

    fn proceed(
        self,
        ctx: &mut Context<'_>,
        header: &Header,
        datagram: &[u8],
        message: &Message,
        (suite, ke, nonce_r): (IkeProposal, &KeyExchange, &Nonce),
    ) -> Initiated {
        let group_len = ke.data.len();
        if group_len != suite.group.public_len() {
            return Initiated::Again(Box::new(self));
        }
        let (id, connection, spi_i) = (self.id, self.connection.clone(), self.spi_i);
        let failed = |ctx: &mut Context<'_>| {
            attempt_failed(ctx, id, &connection, CloseReason::ProtocolViolation);
            Initiated::Failed
        };
        let Ok(shared) = self.dh.agree(&ke.data) else {
            // An unsafe public value cannot be told from a forged one, and our private value is used up.
            return match DhPrivate::generate(suite.group, ctx.random) {
                Ok(dh) => Self { dh, ..self }.again(ctx),
                Err(_) => failed(ctx),
            };
        };
        let seeds = Seeds {
            nonce_i: &self.nonce_i,
            nonce_r: &nonce_r.0,
            spi_i,
            spi_r: header.spi_r,
        };
        let Ok(keys) = derive_ike(&suite, &skeyseed(suite.prf, &seeds, &shared), &seeds, true) else {
            return failed(ctx);
        };
        begun!(self).with_keys(ctx, header, datagram, message, (suite, keys, nonce_r), None)
    }
}

/// What remains of the attempt when its keys are there.
struct Begun {
    id: IkeSaId,
    path: Path,
    spi_i: u64,
    connection: Connection,
    attempt: Attempt,
    nonce_i: Vec<u8>,
    request: Vec<u8>,
}

impl Begun {
    /// Goes on to what comes after the first exchange.
    fn with_keys(
        self,
        ctx: &mut Context<'_>,
        header: &Header,
        datagram: &[u8],
        message: &Message,
        (suite, keys, nonce_r): (IkeProposal, IkeKeys, &Nonce),
        resumed: Option<Box<Resumed>>,
    ) -> Initiated {
        let (id, connection, spi_i) = (self.id, self.connection.clone(), self.spi_i);
        let nat = nat::detect(message, spi_i, header.spi_r, self.path);
        let mut path = self.path;
        // RFC 4555 section 3.3: with MOBIKE too, so that no port changes if a NAT comes in later.
        if nat.any() || (ctx.config.mobike && nat::is_announced(message)) {
            path.local.set_port(NAT_PORT);
            path.remote.set_port(NAT_PORT);
        }
        let channel = Channel::new(
            (spi_i, header.spi_r),
            true,
            keys.sealer,
            keys.opener,
            (1, 0),
            message_max(ctx, message),
        );
        let handshake = Handshake {
            init_request: self.request,
            init_response: datagram.to_vec(),
            nonce_i: self.nonce_i,
            nonce_r: nonce_r.0.clone(),
            prf: keys.prf,
            sk_d: keys.sk_d,
            sk_pi: keys.sk_pi,
            sk_pr: keys.sk_pr,
            int_auth: IntAuth::default(),
            peer_hashes: peer_hashes(ctx, message),
            said: Announced::in_message(message),
            resumed,
            deadline_ms: u64::MAX,
            address_proven: true,
            answers_left: 0,
        };
        let mut core = Core {
            id,
            path,
            arrived: path,
            nat,
            channel,
            suite,
        };
        let state = if handshake.resumed.is_some() {
            handshake.start_auth(ctx, &mut core, self.connection, self.attempt)
        } else {
            ExpectIntermediateResponse::after_init(handshake, ctx, &mut core, self.connection, self.attempt)
        };
        match state {
            Some(state) => Initiated::Proceed(Box::new(IkeSa { core, state })),
            None => {
                attempt_failed(ctx, id, &connection, CloseReason::ProtocolViolation);
                Initiated::Failed
            }
        }
    }
}
