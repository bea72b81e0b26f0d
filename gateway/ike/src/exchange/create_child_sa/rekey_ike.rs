//! CREATE_CHILD_SA that rekeys the IKE SA (RFC 7296 sections 1.3.2, 2.8 and 2.25.2).

use std::sync::Arc;

use super::*;
use crate::{
    context::Predecessor,
    crash::{self, PeerToken},
};

/// Answers the request.
pub(super) fn answer(
    established: &mut Established,
    core: &Core,
    ctx: &mut Context<'_>,
    message: &Message,
) -> Result<Vec<Payload>, Refusal> {
    // RFC 7296 section 2.25.2. One of the peer's may cross ours; each makes an IKE SA.
    let busy = match established.pending() {
        Some(Pending::Child(_) | Pending::DeleteChild(_)) => true,
        Some(Pending::RekeyIke(own)) => own.collision.is_some(),
        Some(
            Pending::DeleteIke
            | Pending::Liveness
            | Pending::Redirect
            | Pending::UpdateAddresses(_)
            | Pending::CheckPath(_),
        )
        | None => false,
    };
    if busy {
        return Err(Refusal::of(kind::TEMPORARY_FAILURE));
    }
    let (Some(offer), Some(nonce_i), Some(ke)) = (message.sa(), message.nonce(), message.ke()) else {
        return Err(Refusal::syntax());
    };
    let also = select_ike(offer, &ctx.config.ike_proposals_accepted, ke.group, true);
    let choice = also.or_else(|| select_ike(offer, &ctx.config.ike_proposals, ke.group, true));
    let Some(choice) = choice else {
        let refused = refused_ike(core.path.remote, offer, &ctx.config.ike_proposals, true);
        ctx.event(refused);
        return Err(Refusal::of(kind::NO_PROPOSAL_CHOSEN));
    };
    let suite = choice.proposal;
    if suite.group.id() != ke.group {
        return Err(Refusal::other_group(suite.group.id()));
    }
    let spi_i = choice
        .peer_spi
        .filter(|spi| *spi != 0)
        .ok_or_else(Refusal::syntax)?;
    let (own_ke, shared) = agree(ctx, suite.group, ke)?;
    let (nonce_r, spi_r) = (ctx.nonce(), ctx.ike_spi());
    let answered = AnsweredRekey {
        suite,
        shared,
        nonce_i: nonce_i.0.clone(),
        nonce_r: nonce_r.clone(),
        spi_i,
        spi_r,
    };
    let more = established.agreed(core, ctx, suite.additional, Agreed::Rekey(Box::new(answered)))?;
    let mut payloads = vec![
        chosen(choice.to_wire(Some(spi_r))),
        Payload::Nonce(Nonce(nonce_r)),
        Payload::Ke(own_ke),
    ];
    payloads.extend(more);
    // RFC 6290 section 4.3: the new IKE SA has another token. The initiator's comes in an exchange of its own.
    payloads.extend(crash::token_of(ctx.config, (spi_i, spi_r), false));
    Ok(payloads)
}

/// A rekeying of the IKE SA that the peer asked for and we agreed to.
pub(crate) struct AnsweredRekey {
    suite: IkeProposal,
    shared: Secret,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    spi_i: u64,
    spi_r: u64,
}

impl AnsweredRekey {
    /// Makes the IKE SA. Much may have happened since we agreed, if additional key exchanges were between.
    pub(in crate::exchange) fn complete(
        self,
        established: &mut Established,
        core: &Core,
        ctx: &mut Context<'_>,
        additional: &[Secret],
    ) -> Result<(), Refusal> {
        let pending = established.pending();
        let busy = matches!(pending, Some(Pending::Child(_) | Pending::DeleteChild(_)));
        if established.is_ending() || busy {
            return Err(Refusal::of(kind::TEMPORARY_FAILURE));
        }
        let seeds = Seeds {
            nonce_i: &self.nonce_i,
            nonce_r: &self.nonce_r,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
        };
        let colliding = matches!(pending, Some(Pending::RekeyIke(_)));
        let shared = (&self.shared, additional);
        let made = successor(established, core, ctx, self.suite, &seeds, shared, false);
        let mut ike_sa = made.ok_or_else(|| Refusal::of(kind::TEMPORARY_FAILURE))?;
        let id = ike_sa.core.id;
        if let Some(Pending::RekeyIke(own)) = established
            .outstanding
            .as_mut()
            .map(|outstanding| &mut outstanding.pending)
        {
            own.collision = Some(Collision {
                child: self.spi_r,
                lowest_nonce: self.nonce_i.min(self.nonce_r),
            });
        }
        if !colliding {
            hand_over(established, core, ctx, &mut ike_sa);
            established.superseded = Some(id);
            established.expire_at_ms = ctx.now.mono_ms.saturating_add(SUPERSEDED_FOR_MS);
            ctx.deferred.push(Deferred::LimitSuperseded {
                peer: Arc::clone(&established.peer_identity),
            });
        }
        ctx.deferred.push(Deferred::Spawn(Box::new(ike_sa)));
        Ok(())
    }
}

/// The IKE SA that comes after this one, without Child SAs yet.
fn successor(
    established: &Established,
    core: &Core,
    ctx: &mut Context<'_>,
    suite: IkeProposal,
    seeds: &Seeds<'_>,
    (shared, additional): (&Secret, &[Secret]),
    initiated: bool,
) -> Option<IkeSa> {
    let seed = skeyseed_rekey(established.prf, &established.sk_d, seeds, shared, additional);
    let keys = derive_ike(&suite, &seed, seeds, initiated).ok()?;
    let spis = (seeds.spi_i, seeds.spi_r);
    let message_max = core.channel.message_max();
    let channel = Channel::new(spis, initiated, keys.sealer, keys.opener, (0, 0), message_max);
    let (peer, policy) = (established.peer.clone(), established.policy.clone());
    let mut next = Established::new(ctx, peer, policy, keys.prf, keys.sk_d);
    next.inherit(established);
    next.redundant = true;
    let core = Core {
        id: ctx.allocator.ike_sa(),
        path: core.path,
        arrived: core.arrived,
        nat: core.nat,
        channel,
        suite,
    };
    Some(IkeSa {
        core,
        state: State::Established(Box::new(next)),
    })
}

/// Moves the Child SAs to the new IKE SA.
fn hand_over(established: &mut Established, core: &Core, ctx: &mut Context<'_>, ike_sa: &mut IkeSa) {
    // An exchange of the peer that has not got so far yet is too late.
    established.forget_answer(ctx);
    if let State::Established(next) = &mut ike_sa.state {
        next.redundant = false;
        let tasks = established.take_child_tasks();
        next.adopt(std::mem::take(&mut established.children), tasks);
    }
    established.tasks.clear();
    ctx.event(Event::IkeSaRekeyed {
        old: core.id,
        new: ike_sa.core.id,
    });
}

/// We began to close the IKE SA while it was being rekeyed: the peer has moved the Child SAs to the new one, which
/// is closed in its place.
fn close_too(established: &mut Established, ctx: &mut Context<'_>, ike_sa: &mut IkeSa) {
    if let (Some(reason), State::Established(next)) = (established.closing_reason(), &mut ike_sa.state) {
        next.begin_close(ctx, reason);
    }
}

/// Our request to rekey the IKE SA waits for its response.
pub(crate) struct ExpectRekeyIkeResponse {
    /// Our SPI on the IKE SA that the peer's exchange made.
    pub(crate) collision: Option<Collision<u64>>,
    spi: u64,
    nonce: Vec<u8>,
    dh: Option<DhPrivate>,
    offered: Vec<IkeProposal>,
    retried: bool,
    /// What was agreed on, and the additional key exchange whose response is awaited.
    follow_up: Option<(RekeyAgreement, Box<FollowUp>)>,
}

/// What the response to CREATE_CHILD_SA says.
struct RekeyAgreement {
    suite: IkeProposal,
    shared: Secret,
    nonce_r: Vec<u8>,
    spi_r: u64,
    /// What the peer would prove with that it lost the new IKE SA.
    token: Option<PeerToken>,
}

impl ExpectRekeyIkeResponse {
    /// Our SPI of the IKE SA to come, which the peer may use before we have its response.
    pub(crate) fn own_spi(&self) -> u64 {
        self.spi
    }

    /// The request. What is offered first is what is in use.
    pub(crate) fn start(
        core: &Core,
        ctx: &mut Context<'_>,
        group: Option<DhGroup>,
    ) -> Option<(Vec<Payload>, Self)> {
        let mut offered = vec![core.suite];
        offered.extend(
            ctx.config
                .ike_proposals
                .iter()
                .copied()
                .filter(|proposal| *proposal != core.suite),
        );
        let dh = DhPrivate::generate(group.unwrap_or(core.suite.group), ctx.random).ok()?;
        let (spi, nonce) = (ctx.ike_spi(), ctx.nonce());
        let payloads = vec![
            Payload::Sa(offer_ike(&offered, Some(spi))),
            Payload::Nonce(Nonce(nonce.clone())),
            Payload::Ke(KeyExchange {
                group: dh.group().id(),
                data: dh.public(),
            }),
        ];
        let retried = group.is_some();
        Some((
            payloads,
            Self {
                collision: None,
                spi,
                nonce,
                dh: Some(dh),
                offered,
                retried,
                follow_up: None,
            },
        ))
    }

    /// Takes the new IKE SA over, asks on, or copes with the refusal.
    pub(crate) fn handle(
        mut self,
        established: &mut Established,
        core: &Core,
        ctx: &mut Context<'_>,
        message: &Message,
    ) -> Option<NextRequest> {
        let collision = self.collision.clone();
        let temporary = message
            .error()
            .is_some_and(|error| error.kind == kind::TEMPORARY_FAILURE);
        established.note_temporary(ctx, temporary);
        let refused = match message.error() {
            Some(error) => {
                let asked = asked_group(error).and_then(DhGroup::from_id);
                let asked = asked.filter(|group| {
                    !self.retried && self.offered.iter().any(|proposal| proposal.group == *group)
                });
                if let (Some(group), None) = (asked, &collision) {
                    established
                        .tasks
                        .push_front(Task::RekeyIke { group: Some(group) });
                    return None;
                }
                Some(error.clone())
            }
            None => match self.accept(established, core, ctx, message) {
                Ok(Some(request)) => {
                    let awaited = Pending::RekeyIke(Box::new(self));
                    return Some((Exchange::IkeFollowupKe, request, awaited));
                }
                Ok(None) => None,
                Err(kind) => Some(Notify::new(kind, [])),
            },
        };
        match (refused, collision) {
            (None, _) => {}
            (Some(_), Some(theirs)) => yield_to(established, core, ctx, &theirs),
            (Some(error), None) => {
                established.no_room(ctx, &error);
                established.rekey_at_ms = retry_at(ctx);
                report(ctx, core, "the rekeying of the IKE SA", &error);
            }
        }
        None
    }

    /// Makes the IKE SA when all key exchanges are done; until then the next request.
    fn accept(
        &mut self,
        established: &mut Established,
        core: &Core,
        ctx: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Vec<Payload>>, u16> {
        let (agreement, followed) = match self.follow_up.take() {
            Some((agreement, follow_up)) => (agreement, follow_up.take(ctx.random, message)?),
            None => {
                let agreement = self.agreement(message)?;
                let followed = FollowUp::begin(agreement.suite.additional, ctx.random, message)?;
                (agreement, followed)
            }
        };
        match followed {
            Followed::More(follow_up) => {
                let request = follow_up.request();
                self.follow_up = Some((agreement, follow_up));
                Ok(Some(request))
            }
            Followed::Done(secrets) => {
                self.take_over(established, core, ctx, &agreement, &secrets)?;
                Ok(None)
            }
        }
    }

    fn agreement(&mut self, message: &Message) -> Result<RekeyAgreement, u16> {
        let syntax = kind::INVALID_SYNTAX;
        let (answer, nonce_r) = message.sa().zip(message.nonce()).ok_or(syntax)?;
        let ke = message.ke().ok_or(syntax)?;
        let choice = accept_ike(answer, &self.offered).ok_or(kind::NO_PROPOSAL_CHOSEN)?;
        let group = choice.proposal.group;
        let dh = self.dh.take().filter(|dh| dh.group() == group);
        let dh = dh.filter(|_| ke.group == group.id()).ok_or(syntax)?;
        let spi_r = choice.peer_spi.filter(|spi| *spi != 0).ok_or(syntax)?;
        let shared = dh.agree(&ke.data).map_err(|_| syntax)?;
        Ok(RekeyAgreement {
            suite: choice.proposal,
            shared,
            nonce_r: nonce_r.0.clone(),
            spi_r,
            token: crash::shown(message),
        })
    }

    fn take_over(
        &self,
        established: &mut Established,
        core: &Core,
        ctx: &mut Context<'_>,
        agreement: &RekeyAgreement,
        additional: &[Secret],
    ) -> Result<(), u16> {
        let seeds = Seeds {
            nonce_i: &self.nonce,
            nonce_r: &agreement.nonce_r,
            spi_i: self.spi,
            spi_r: agreement.spi_r,
        };
        let shared = (&agreement.shared, additional);
        let made = successor(established, core, ctx, agreement.suite, &seeds, shared, true);
        let mut ike_sa = made.ok_or(kind::INVALID_SYNTAX)?;
        let token = agreement.token.as_ref();
        if let (Some(token), Some(_)) = (token, &ctx.config.crash_secret)
            && let State::Established(next) = &mut ike_sa.state
        {
            next.peer_token = Some(token.clone());
            next.push_new(Task::Liveness);
        }
        let lowest_nonce = (&self.nonce).min(&agreement.nonce_r);
        match &self.collision {
            Some(theirs) if *lowest_nonce < theirs.lowest_nonce => {
                // The peer's exchange stands: we delete what ours made, the peer deletes the old one.
                if let State::Established(next) = &mut ike_sa.state {
                    next.tasks.push_back(Task::DeleteIke);
                }
                yield_to(established, core, ctx, theirs);
            }
            _ => {
                hand_over(established, core, ctx, &mut ike_sa);
                close_too(established, ctx, &mut ike_sa);
                established.superseded = Some(ike_sa.core.id);
                established.tasks.push_back(Task::DeleteIke);
            }
        }
        ctx.deferred.push(Deferred::Spawn(Box::new(ike_sa)));
        Ok(())
    }
}

/// The peer's rekeying of the IKE SA stands: its IKE SA takes the Child SAs, and it deletes this one.
pub(crate) fn yield_to(
    established: &mut Established,
    core: &Core,
    ctx: &mut Context<'_>,
    theirs: &Collision<u64>,
) {
    let children = std::mem::take(&mut established.children);
    let tasks = established.take_child_tasks();
    established.tasks.clear();
    established.redundant = true;
    established.expire_at_ms = ctx.now.mono_ms.saturating_add(SUPERSEDED_FOR_MS);
    established.rekey_at_ms = u64::MAX;
    ctx.deferred.push(Deferred::Adopt {
        to: theirs.child,
        children,
        tasks,
        before: Box::new(Predecessor {
            id: core.id,
            peer: Arc::clone(&established.peer_identity),
            connection: established.connection.clone(),
            closing: established.closing_reason(),
        }),
    });
}
