//! IKE_SESSION_RESUME (RFC 5723 section 4.3): an IKE SA from a ticket, without key exchange, certificates and signatures.
//!
//! ```text
//!  initiator  Ni, TICKET_OPAQUE [, COOKIE]  ->
//!                                           <-  Nr              responder   or COOKIE, or TICKET_NACK
//!             IKE_AUTH, with AUTH = prf(SK_px, octets) in both directions
//! ```
//! It has no forward secrecy: who has SK_d of the IKE SA before has all keys. So it is off unless configured.

use std::net::IpAddr;

use super::{
    admission::{Admission, Gate},
    announced::Announced,
    authentication::check_source,
    ike_auth::{ExpectAuthRequest, Handshake},
    ike_intermediate::IntAuth,
    ike_sa_init::{Answered, answer_unproven, extensions, message_max},
    ppk::lacks_ppk,
};
use crate::{
    channel::Channel,
    config::{AuthenticatedPeer, Proof},
    context::{Context, Path},
    half_open::{ANSWERS_MAX, INIT_REQUEST_MAX},
    ike_sa::{Core, Established, IkeSa, State},
    keys::{Seeds, derive_ike, skeyseed_resumed},
    nat,
    pki::identity::Identity,
    redirect,
    shared_key::{AuthKind, SHARED_KEY_METHOD},
    ticket::{ClientTicket, RESUMED_MAX_S, Session, TicketId, bound_to, lifetime_and_ticket, still_proves},
    wire::{
        Header, Message, Payload,
        auth::Authentication,
        header::HEADER_LEN,
        nonce::Nonce,
        notify::{Notify, kind},
        payload_type,
    },
};

/// The session that a handshake goes on with.
#[derive(Clone)]
pub(crate) struct Resumed {
    /// Who the other side proved to be.
    pub(crate) peer: AuthenticatedPeer,
    pub(crate) authenticated_ms: u64,
    pub(crate) ppk: bool,
    /// The ticket to be spent: the responder's part.
    pub(crate) ticket: Option<Ticket>,
}

/// A ticket that came to us, with a session that may go on.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
    id: TicketId,
    ends_ms: u64,
    /// What the peer proved itself with: see [`Session`].
    proof: [u8; 32],
}

/// Answers an IKE_SESSION_RESUME request, if the gate lets it in and the ticket is good.
pub(crate) fn respond(
    ctx: &mut Context<'_>,
    path: Path,
    header: &Header,
    datagram: &[u8],
    mut gate: Gate<'_>,
) -> Answered {
    let body = datagram.get(HEADER_LEN..).unwrap_or_default();
    let parsed = Message::parse(header.next_payload, body);
    let message = match parsed {
        Ok(message) if datagram.len() <= INIT_REQUEST_MAX => message,
        Ok(_) | Err(_) => {
            ctx.counters.malformed += 1;
            return Answered::Nothing;
        }
    };
    let notifies = match redirect::answer(ctx.config, &message) {
        Some(redirect) => {
            ctx.counters.redirects_sent += 1;
            vec![redirect]
        }
        None => match gate.admit(ctx, path, header, &message) {
            Admission::Admitted { proven } => {
                match accept(ctx, path, header, datagram, &message, (proven, gate)) {
                    Ok(ike_sa) => return Answered::HalfOpen(Box::new(ike_sa)),
                    Err(notifies) => notifies,
                }
            }
            Admission::Ask(notifies) => notifies,
            Admission::Refuse(refusal) => vec![refusal.0],
            Admission::Drop => return Answered::Nothing,
        },
    };
    answer_unproven(ctx, path, header, datagram, notifies);
    Answered::Nothing
}

fn accept(
    ctx: &mut Context<'_>,
    path: Path,
    header: &Header,
    datagram: &[u8],
    message: &Message,
    (proven, mut gate): (bool, Gate<'_>),
) -> Result<IkeSa, Vec<Notify>> {
    let found = message.nonce().zip(session(ctx, message));
    let Some((nonce_i, (id, session, peer))) = found else {
        ctx.counters.tickets_refused += 1;
        return Err(vec![Notify::new(kind::TICKET_NACK, [])]);
    };
    let (nonce_r, spi_r) = (ctx.nonce(), ctx.ike_spi());
    let answer_header = Header {
        spi_r,
        response: true,
        from_initiator: false,
        next_payload: payload_type::NONE,
        ..*header
    };
    let mut payloads = vec![Payload::Nonce(Nonce(nonce_r.clone()))];
    if nat::is_announced(message) {
        payloads.extend(nat::notifications(header.spi_i, spi_r, path));
    }
    let fragments = message.notify(kind::IKEV2_FRAGMENTATION_SUPPORTED).is_some();
    payloads.extend(extensions(ctx, fragments, false));
    let nack = |_| vec![Notify::new(kind::TICKET_NACK, [])];
    let answer = answer_header.message(Payload::chain(&payloads)).map_err(nack)?;
    if !proven && answer.len() > datagram.len() {
        ctx.counters.not_amplified += 1;
        return Err(gate.cookie(ctx, path, header, &nonce_i.0, 0));
    }
    let seeds = Seeds {
        nonce_i: &nonce_i.0,
        nonce_r: &nonce_r,
        spi_i: header.spi_i,
        spi_r,
    };
    let suite = session.suite;
    let seed = skeyseed_resumed(suite.prf, &session.sk_d, &seeds);
    let keys =
        derive_ike(&suite, &seed, &seeds, false).map_err(|_| vec![Notify::new(kind::TICKET_NACK, [])])?;
    let (nat, message_max) = (
        nat::detect(message, header.spi_i, 0, path),
        message_max(ctx, message),
    );
    let spis = (header.spi_i, spi_r);
    let channel = Channel::new(spis, false, keys.sealer, keys.opener, (0, 1), message_max);
    ctx.transmit(path, std::slice::from_ref(&answer));
    let timeout_ms = ctx.config.half_open_timeout_s.saturating_mul(1000);
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
        peer_hashes: Vec::new(),
        said: Announced::in_message(message),
        resumed: Some(Box::new(Resumed {
            peer,
            authenticated_ms: session.authenticated_ms,
            ppk: session.ppk,
            ticket: Some(Ticket {
                id,
                ends_ms: session.ends_ms,
                proof: session.proof,
            }),
        })),
        deadline_ms: ctx.now.mono_ms.saturating_add(timeout_ms),
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
    let state = State::ExpectAuthRequest(Box::new(ExpectAuthRequest { handshake }));
    Ok(IkeSa { core, state })
}

/// The session of the ticket in a message, if all that can be said cheaply speaks for it.
fn session(ctx: &mut Context<'_>, message: &Message) -> Option<(TicketId, Session, AuthenticatedPeer)> {
    ctx.config.ticket_lifetime_s?;
    let ticket = message.notify(kind::TICKET_OPAQUE)?;
    let (id, session) = ctx.tickets.open(ctx.now.mono_ms, &ticket.data)?;
    // What was agreed then must be what we would agree now.
    let allowed = [&ctx.config.ike_proposals, &ctx.config.ike_proposals_accepted];
    let suite = allowed.iter().any(|list| list.contains(&session.suite));
    let peer = ctx.tickets.peer(ctx.config, &session)?;
    let good = suite && !lacks_ppk(ctx, session.ppk, &session.identity);
    // Who is refused now sets up anew at once; in IKE_AUTH it would be too late for that.
    (good && ctx.tickets.has_room(ctx.now.mono_ms, &session.identity)).then_some((id, session, peer))
}

impl Handshake {
    /// RFC 5723 section 5.1: the proof of a resumed session, in place of certificates and signature.
    pub(super) fn resumed_auth(&self, by_initiator: bool, octets: &[u8]) -> Payload {
        let sk_p = if by_initiator { &self.sk_pi } else { &self.sk_pr };
        Payload::Auth(Authentication {
            method: SHARED_KEY_METHOD,
            data: self.prf.prf(sk_p, &[octets]).to_vec(),
        })
    }

    /// Verifies the other side of a resumed session: it has the keys, says it is who it was, and would still be believed.
    pub(super) fn verify_resumed(
        &self,
        ctx: &Context<'_>,
        resumed: &Resumed,
        (identity, source): (&Identity, IpAddr),
        (auth, octets, by_initiator): (&Authentication, &[u8], bool),
    ) -> Result<AuthenticatedPeer, String> {
        let sk_p = if by_initiator { &self.sk_pi } else { &self.sk_pr };
        if auth.method != SHARED_KEY_METHOD || !self.prf.verify(sk_p, octets, &auth.data) {
            return Err("it does not have the keys of the session that it resumes".to_owned());
        }
        if *identity != resumed.peer.identity {
            return Err(format!(
                "it resumes a session of {}, and says that it is {identity}",
                resumed.peer.identity
            ));
        }
        // Its ticket was good when it came; shared keys and what is required may be others since.
        if resumed
            .ticket
            .is_some_and(|ticket| !still_proves(ctx.config, &resumed.peer, &ticket.proof))
        {
            return Err("what it proved itself with has changed since".to_owned());
        }
        if lacks_ppk(ctx, resumed.ppk, identity) {
            return Err(
                "a post-quantum preshared key is required of it, and is not in the session that it resumes"
                    .to_owned(),
            );
        }
        let mut peer = resumed.peer.clone();
        if let Some(verified) = peer.certificate() {
            check_source(ctx, identity, source)?;
            let again = verified.verify_again(&ctx.config.trust, ctx.now.unix_s);
            peer.proof = Proof::Certificate(again.map_err(|error| error.to_string())?.into());
        }
        Ok(peer)
    }

    /// A preshared key is in the keys of the session that is resumed.
    pub(super) fn has_ppk(&self) -> bool {
        self.resumed.as_ref().is_some_and(|resumed| resumed.ppk)
    }

    /// RFC 5723 section 4.3: the ticket was good for this once.
    pub(super) fn spend_ticket(&self, ctx: &mut Context<'_>) -> Result<(), String> {
        let Some(resumed) = &self.resumed else {
            return Ok(());
        };
        let Some(ticket) = resumed.ticket else {
            return Ok(());
        };
        let (now_ms, peer) = (ctx.now.mono_ms, &resumed.peer.identity);
        let spent = ctx.tickets.spend(now_ms, peer, ticket.id, ticket.ends_ms);
        spent.map_err(|why| why.to_string())?;
        ctx.counters.sessions_resumed += 1;
        Ok(())
    }
}

impl Established {
    /// TICKET_LT_OPAQUE for a peer that asks for a ticket (RFC 5723 section 4.1), or TICKET_NACK if it gets none; nothing
    /// if it does not ask, or tickets are off.
    pub(crate) fn ticket(&self, core: &Core, ctx: &mut Context<'_>, message: &Message) -> Option<Payload> {
        message.notify(kind::TICKET_REQUEST)?;
        let configured_s = ctx.config.ticket_lifetime_s?;
        let sealed = self.sealed(core, ctx, configured_s);
        let notify = match sealed {
            Some((lifetime_s, ticket)) => {
                ctx.counters.tickets_given += 1;
                Notify::new(
                    kind::TICKET_LT_OPAQUE,
                    [&lifetime_s.to_be_bytes(), ticket.as_slice()].concat(),
                )
            }
            None => Notify::new(kind::TICKET_NACK, []),
        };
        Some(Payload::Notify(notify))
    }

    /// Not beyond the IKE SA, the peer's certificates, and a day after the peer was authenticated in full.
    fn sealed(&self, core: &Core, ctx: &mut Context<'_>, configured_s: u64) -> Option<(u32, Vec<u8>)> {
        let now = ctx.now;
        let left_s = |end_ms: u64| end_ms.saturating_sub(now.mono_ms) / 1000;
        let authentic_until_ms = self.authenticated_ms.saturating_add(RESUMED_MAX_S * 1000);
        let ends = [
            left_s(self.expire_at_ms),
            left_s(self.proof_ends_ms),
            left_s(authentic_until_ms),
            configured_s,
        ];
        let lifetime_s = ends.into_iter().min().filter(|lifetime_s| *lifetime_s > 0)?;
        let agreed = ctx.config.shared_keys.get(&self.peer.identity);
        let (by, proof) = match (&self.peer.proof, agreed) {
            (Proof::Certificate(verified), _) => {
                if !ctx.tickets.remember(now.unix_s, verified) {
                    return None;
                }
                (AuthKind::Certificate, verified.certificate().fingerprint_sha256())
            }
            (Proof::SharedKey, Some(agreed)) => (AuthKind::SharedKey, bound_to(&agreed.key)),
            (Proof::SharedKey, None) => return None,
        };
        let session = Session {
            identity: self.peer.identity.clone(),
            proof,
            by,
            suite: core.suite,
            sk_d: self.sk_d.clone(),
            ppk: self.ppk,
            authenticated_ms: self.authenticated_ms,
            ends_ms: now.mono_ms.saturating_add(lifetime_s.saturating_mul(1000)),
        };
        let ticket = ctx
            .tickets
            .seal(ctx.random, now.mono_ms, configured_s.max(1), &session)?;
        Some((u32::try_from(lifetime_s).unwrap_or(u32::MAX), ticket))
    }

    /// The ticket that the gateway gave us, with what belongs to it.
    pub(crate) fn kept_ticket(
        &self,
        core: &Core,
        ctx: &Context<'_>,
        message: &Message,
    ) -> Option<ClientTicket> {
        let notify = message.notify(kind::TICKET_LT_OPAQUE)?;
        let (lifetime_s, opaque) = lifetime_and_ticket(&notify.data)?;
        Some(ClientTicket {
            opaque: opaque.to_vec(),
            ends_ms: ctx
                .now
                .mono_ms
                .saturating_add(u64::from(lifetime_s).saturating_mul(1000)),
            peer: self.peer.clone(),
            remote: core.path.remote.ip(),
            suite: core.suite,
            sk_d: self.sk_d.clone(),
            ppk: self.ppk,
            authenticated_ms: self.authenticated_ms,
        })
    }
}
