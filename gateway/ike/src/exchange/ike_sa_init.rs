//! IKE_SA_INIT (RFC 7296 section 1.2): algorithms, key exchange and nonces, in the clear.

use super::{
    Refusal, asked_group, chosen,
    ike_auth::Handshake,
    ike_intermediate::{ExpectIntermediateRequest, ExpectIntermediateResponse, IntAuth},
};
use crate::{
    channel::Channel,
    connection::{Connection, Remote},
    context::{Context, Deferred, NAT_PORT, Path},
    cookie::CookieJar,
    crypto::{
        dh::{DhGroup, DhPrivate},
        sign::HashAlgorithm,
    },
    ids::IkeSaId,
    ike_sa::{Core, IkeSa},
    keys::{Seeds, derive_ike, skeyseed},
    nat,
    output::{CloseReason, Event},
    proposal::{IkeChoice, IkeProposal, accept_ike, offer_ike, refused_ike, select_ike},
    retransmit::{Due, Retransmission},
    traffic_selector::TrafficSelector,
    wire::{
        Exchange, Header, Message, Payload, WireError,
        certreq::CertificateRequest,
        header::HEADER_LEN,
        ke::KeyExchange,
        nonce::Nonce,
        notify::{Notify, kind},
        payload_type,
    },
};

/// What answering a request came to.
pub(crate) enum Answered {
    /// A half-open IKE SA was made.
    HalfOpen(Box<IkeSa>),
    /// The request was answered, or dropped, without a trace.
    Nothing,
}

/// Answers an IKE_SA_INIT request of an unknown initiator. `cookie` is given when initiators have to
/// prove their address.
pub(crate) fn respond(
    ctx: &mut Context<'_>,
    path: Path,
    header: &Header,
    datagram: &[u8],
    cookie: Option<&mut CookieJar>,
) -> Answered {
    let body = datagram.get(HEADER_LEN..).unwrap_or_default();
    let parsed = Message::parse(header.next_payload, body);
    let accepted = match parsed {
        Ok(message) => match missing_cookie(ctx, path, header, &message, cookie) {
            Some(request) => Err(Refusal(request)),
            None => accept(ctx, path, header, datagram, &message),
        },
        Err(error) => {
            ctx.counters.malformed += 1;
            Err(error.into())
        }
    };
    match accepted {
        Ok(ike_sa) => Answered::HalfOpen(Box::new(ike_sa)),
        Err(Refusal(notify)) => {
            let header = Header {
                response: true,
                from_initiator: false,
                next_payload: payload_type::NONE,
                ..*header
            };
            if let Ok(message) = header.message(Payload::chain(&[Payload::Notify(notify)])) {
                ctx.transmit(path, &[message]);
            }
            Answered::Nothing
        }
    }
}

/// The COOKIE notification to send back, when one is required and not there.
fn missing_cookie(
    ctx: &mut Context<'_>,
    path: Path,
    header: &Header,
    message: &Message,
    jar: Option<&mut CookieJar>,
) -> Option<Notify> {
    let jar = jar?;
    let nonce = &message.nonce()?.0;
    let given = message.notify(kind::COOKIE);
    if given.is_some_and(|given| jar.accepts(&given.data, nonce, path, header.spi_i)) {
        return None;
    }
    ctx.counters.cookies_sent += 1;
    let cookie = jar.bake(ctx.now.mono_ms, ctx.random, nonce, path, header.spi_i);
    Some(Notify::new(kind::COOKIE, cookie))
}

fn accept(
    ctx: &mut Context<'_>,
    path: Path,
    header: &Header,
    datagram: &[u8],
    message: &Message,
) -> Result<IkeSa, Refusal> {
    let (Some(offer), Some(ke), Some(nonce_i)) = (message.sa(), message.ke(), message.nonce()) else {
        return Err(Refusal::syntax());
    };
    // RFC 9370 section 2.2.1: additional key exchanges need IKE_INTERMEDIATE.
    let intermediate = message.notify(kind::INTERMEDIATE_EXCHANGE_SUPPORTED).is_some();
    let also = select_ike(offer, &ctx.config.ike_proposals_accepted, ke.group, intermediate);
    let choice = also.or_else(|| select_ike(offer, &ctx.config.ike_proposals, ke.group, intermediate));
    let Some(choice) = choice else {
        let refused = refused_ike(path.remote, offer, &ctx.config.ike_proposals, intermediate);
        ctx.event(refused);
        return Err(Refusal::of(kind::NO_PROPOSAL_CHOSEN));
    };
    let suite = choice.proposal;
    if suite.group.id() != ke.group {
        return Err(Refusal::other_group(suite.group.id()));
    }
    let dh =
        DhPrivate::generate(suite.group, ctx.random).map_err(|_| Refusal::of(kind::NO_PROPOSAL_CHOSEN))?;
    let public = dh.public();
    let shared = dh.agree(&ke.data).map_err(|_| Refusal::syntax())?;
    let (nonce_r, spi_r) = (ctx.nonce(), ctx.ike_spi());
    let seeds = Seeds {
        nonce_i: &nonce_i.0,
        nonce_r: &nonce_r,
        spi_i: header.spi_i,
        spi_r,
    };
    let seed = skeyseed(suite.prf, &seeds, &shared);
    let keys = derive_ike(&suite, &seed, &seeds, false).map_err(|_| Refusal::syntax())?;

    let mut payloads = vec![
        chosen(choice.to_wire(None)),
        Payload::Ke(KeyExchange {
            group: suite.group.id(),
            data: public,
        }),
        Payload::Nonce(Nonce(nonce_r.clone())),
    ];
    payloads.extend(nat::notifications(header.spi_i, spi_r, path));
    payloads.push(certificate_request(ctx));
    payloads.extend(extensions(
        ctx,
        message.notify(kind::IKEV2_FRAGMENTATION_SUPPORTED).is_some(),
    ));
    payloads.extend(intermediate_supported(!suite.additional.is_empty()));
    let answer_header = Header {
        spi_r,
        response: true,
        from_initiator: false,
        ..*header
    };
    let answer = answer_header
        .message(Payload::chain(&payloads))
        .map_err(|_: WireError| Refusal::syntax())?;

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
        deadline_ms,
    };
    let core = Core {
        id: ctx.allocator.ike_sa(),
        path,
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

pub(super) fn certificate_request(ctx: &Context<'_>) -> Payload {
    let hashes = ctx.config.trust.certreq();
    Payload::CertReq(CertificateRequest::x509(hashes.as_chunks().0.to_vec()))
}

/// What both sides say they can do: hashes for signatures (RFC 7427 section 4), fragments (RFC 7383).
fn extensions(ctx: &Context<'_>, fragmentation: bool) -> Vec<Payload> {
    let mut payloads = Vec::new();
    if ctx.config.digital_signatures {
        let hashes: Vec<u8> = HashAlgorithm::ALL
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

fn message_max(ctx: &Context<'_>, message: &Message) -> usize {
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
    cookie: Option<Vec<u8>>,
    /// How often the peer sent us back (cookie, other group); it may not do so for ever.
    restarts: u8,
    request: Vec<u8>,
    pub(crate) clock: Retransmission,
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

/// What a response to our IKE_SA_INIT came to.
pub(crate) enum Initiated {
    /// Ask on, with another group or a cookie; or wait on.
    Again(Box<ExpectInitResponse>),
    /// IKE_AUTH is under way.
    Proceed(Box<IkeSa>),
    /// The peer refused.
    Failed,
}

impl ExpectInitResponse {
    /// Sends the first request of a connection.
    pub(crate) fn start(ctx: &mut Context<'_>, connection: Connection, attempt: Attempt) -> Option<Self> {
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
            cookie: None,
            restarts: 0,
            request: Vec::new(),
            clock,
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
        payloads.push(Payload::Sa(offer_ike(&ctx.config.ike_proposals, None)));
        payloads.push(Payload::Ke(KeyExchange {
            group: self.dh.group().id(),
            data: self.dh.public(),
        }));
        payloads.push(Payload::Nonce(Nonce(self.nonce_i.clone())));
        payloads.extend(nat::notifications(self.spi_i, 0, self.path));
        payloads.extend(extensions(ctx, true));
        let offers_more = ctx
            .config
            .ike_proposals
            .iter()
            .any(|own| !own.additional.is_empty());
        payloads.extend(intermediate_supported(offers_more));
        let header = Header {
            spi_i: self.spi_i,
            spi_r: 0,
            next_payload: payload_type::NONE,
            exchange: Exchange::IkeSaInit,
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

    /// Repeats the request when it is due; false when the peer does not answer at all.
    pub(crate) fn handle_timeout(&mut self, ctx: &mut Context<'_>) -> bool {
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
    /// believed only because a genuine answer to the same request would be lost otherwise.
    pub(crate) fn handle(mut self, ctx: &mut Context<'_>, header: &Header, datagram: &[u8]) -> Initiated {
        let body = datagram.get(HEADER_LEN..).unwrap_or_default();
        let Ok(message) = Message::parse(header.next_payload, body) else {
            ctx.counters.malformed += 1;
            return Initiated::Again(Box::new(self));
        };
        if let Some(cookie) = message.notify(kind::COOKIE) {
            self.cookie = Some(cookie.data.clone());
            return self.again(ctx);
        }
        if let Some(error) = message.error() {
            return match asked_group(error).and_then(DhGroup::from_id) {
                Some(group) => self.with_group(ctx, group),
                None => self.refused(ctx, error.kind),
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
                    && proposal.group == self.dh.group()
                    && ke.group == proposal.group.id()
                    && header.spi_r != 0 =>
            {
                self.proceed(ctx, header, datagram, &message, (proposal, ke, nonce_r))
            }
            _ => self.refused(ctx, kind::NO_PROPOSAL_CHOSEN),
        }
    }

    fn with_group(mut self, ctx: &mut Context<'_>, group: DhGroup) -> Initiated {
        let offered = ctx
            .config
            .ike_proposals
            .iter()
            .any(|proposal| proposal.group == group);
        match DhPrivate::generate(group, ctx.random) {
            Ok(dh) if offered && group != self.dh.group() => {
                self.dh = dh;
                self.again(ctx)
            }
            _ => self.refused(ctx, kind::INVALID_KE_PAYLOAD),
        }
    }

    fn again(mut self, ctx: &mut Context<'_>) -> Initiated {
        self.restarts += 1;
        if self.restarts > RESTARTS_MAX {
            return self.refused(ctx, kind::INVALID_KE_PAYLOAD);
        }
        self.send(ctx);
        Initiated::Again(Box::new(self))
    }

    fn refused(self, ctx: &mut Context<'_>, notification: u16) -> Initiated {
        self.closed(
            ctx,
            CloseReason::PeerRefused(crate::wire::notify::error_name(notification)),
        );
        Initiated::Failed
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
            return failed(ctx);
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
        let nat = nat::detect(message, spi_i, header.spi_r, self.path);
        let mut path = self.path;
        if nat.any() {
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
            deadline_ms: u64::MAX,
        };
        let mut core = Core {
            id,
            path,
            nat,
            channel,
            suite,
        };
        let state =
            ExpectIntermediateResponse::after_init(handshake, ctx, &mut core, self.connection, self.attempt);
        match state {
            Some(state) => Initiated::Proceed(Box::new(IkeSa { core, state })),
            None => failed(ctx),
        }
    }
}
