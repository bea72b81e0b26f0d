//! CREATE_CHILD_SA (RFC 7296 sections 1.3 and 2.8): another Child SA, the rekeying of one, or of the IKE SA.
//! What happens when both sides do so at once is in section 2.25.

use super::{
    Refusal, asked_group, chosen,
    ike_followup_ke::{Agreed, FollowUp, Followed},
    informational::forget_child,
};
use crate::{
    channel::Channel,
    child_sa::{self, ChildSa, NewChild, Phase},
    context::{Context, Deferred},
    crypto::dh::{DhGroup, DhPrivate},
    ids::ChildId,
    ike_sa::{Core, Established, IkeSa, Pending, State, Task},
    keys::{Secret, Seeds, derive_ike, skeyseed_rekey},
    output::Event,
    proposal::{
        EspChoice, EspProposal, IkeProposal, KeyExchangeOffer, accept_esp, accept_ike, answer_esp, offer_esp,
        offer_ike, refused_esp, refused_ike, select_esp, select_ike,
    },
    resource::ResourceId,
    traffic_selector::{TrafficSelector, narrow},
    wire::{
        Exchange, Message, Payload,
        ke::KeyExchange,
        nonce::Nonce,
        notify::{Notify, error_name, kind},
        protocol,
        ts::TrafficSelectors,
    },
};

mod rekey_ike;

pub(crate) use rekey_ike::{AnsweredRekey, ExpectRekeyIkeResponse, yield_to};

/// The request that follows a response: IKE_FOLLOWUP_KE, and what awaits its response.
pub(crate) type NextRequest = (Exchange, Vec<Payload>, Pending);

/// Wait before asking again for what the peer could not do just now; as much again is drawn.
const RETRY_AFTER_S: u64 = 5;
/// Deletions of unknown SPIs that are remembered while a request is under way.
const WITHDRAWN_MAX: usize = 32;
/// Time that the side which rekeyed an IKE SA has to delete the old one.
const SUPERSEDED_FOR_MS: u64 = 60_000;

/// Answers a request.
pub(crate) fn respond(
    established: &mut Established,
    core: &Core,
    ctx: &mut Context<'_>,
    message: &Message,
) -> Vec<Payload> {
    let rekeys_ike = message
        .sa()
        .is_some_and(|sa| sa.proposals.iter().any(|one| one.protocol == protocol::IKE));
    let answer = if established.is_ending() || !ctx.may_have_sa(&established.peer_identity) {
        Err(Refusal::of(kind::TEMPORARY_FAILURE))
    } else if rekeys_ike {
        rekey_ike::answer(established, core, ctx, message)
    } else {
        answer_child(established, core, ctx, message)
    };
    answer.unwrap_or_else(|Refusal(notify)| vec![Payload::Notify(notify)])
}

/// The key exchange of a request that chose `group`, from our side: our public value and the secret.
fn agree(ctx: &mut Context<'_>, group: DhGroup, ke: &KeyExchange) -> Result<(KeyExchange, Secret), Refusal> {
    let dh = DhPrivate::generate(group, ctx.random).map_err(|_| Refusal::of(kind::TEMPORARY_FAILURE))?;
    let own = KeyExchange {
        group: group.id(),
        data: dh.public(),
    };
    let shared = dh.agree(&ke.data).map_err(|_| Refusal::syntax())?;
    Ok((own, shared))
}

/// The Child SA that a REKEY_SA notification means, if the message has one.
fn rekeyed_child(established: &Established, message: &Message) -> Result<Option<ChildId>, Refusal> {
    let Some(notify) = message.notify(kind::REKEY_SA) else {
        return Ok(None);
    };
    let child = established
        .children
        .iter()
        .find(|child| Some(child.spi_out) == notify.esp_spi());
    match child {
        // It may be the one that we asked for, and of which we do not know yet.
        None if matches!(established.pending(), Some(Pending::Child(_))) => {
            Err(Refusal::of(kind::TEMPORARY_FAILURE))
        }
        None => Err(Refusal(Notify {
            kind: kind::CHILD_SA_NOT_FOUND,
            data: Vec::new(),
            ..notify.clone()
        })),
        // RFC 7296 section 2.25.1: one that we are about to delete is not rekeyed.
        Some(child) if child.phase == Phase::Live && !established.is_deleting(child.id) => Ok(Some(child.id)),
        Some(_) => Err(Refusal::of(kind::TEMPORARY_FAILURE)),
    }
}

fn answer_child(
    established: &mut Established,
    core: &Core,
    ctx: &mut Context<'_>,
    message: &Message,
) -> Result<Vec<Payload>, Refusal> {
    // RFC 7296 section 2.25.2.
    if matches!(established.pending(), Some(Pending::RekeyIke(_))) {
        return Err(Refusal::of(kind::TEMPORARY_FAILURE));
    }
    let old = rekeyed_child(established, message)?;
    if old.is_none() && established.children.len() >= ctx.config.children_max {
        return Err(Refusal::of(kind::NO_ADDITIONAL_SAS));
    }
    if ctx.has_its_share(established) {
        match old {
            None => return Err(Refusal::of(kind::NO_ADDITIONAL_SAS)),
            // One at a time: the one before is to be deleted first.
            Some(_) if established.outgoing_children() > 0 => {
                return Err(Refusal::of(kind::TEMPORARY_FAILURE));
            }
            Some(_) => {}
        }
    }
    // What is replaced stays until it is deleted: it counts, too. Our DELETE of the oldest makes room again.
    if old.is_some() && established.outgoing_children() > outgoing_max(ctx) {
        return Err(Refusal::of(kind::TEMPORARY_FAILURE));
    }
    let (Some(offer), Some(nonce_i)) = (message.sa(), message.nonce()) else {
        return Err(Refusal::syntax());
    };
    let (Some(ts_i), Some(ts_r)) = (message.ts_i(), message.ts_r()) else {
        return Err(Refusal::syntax());
    };
    let key_exchange = message
        .ke()
        .map_or(KeyExchangeOffer::Absent, |ke| KeyExchangeOffer::Sent(ke.group));
    let proposals = established.esp_proposals(ctx.config);
    let Some(choice) = select_esp(offer, proposals, key_exchange) else {
        let refused = refused_esp(core.path.remote, offer, proposals, key_exchange);
        ctx.event(refused);
        return Err(Refusal::of(kind::NO_PROPOSAL_CHOSEN));
    };
    let exchanged = match (choice.group, message.ke()) {
        (None, _) => None,
        (Some(group), Some(ke)) if ke.group == group.id() => Some((group, ke)),
        (Some(group), _) => return Err(Refusal::other_group(group.id())),
    };
    let narrowed = established.narrowed(ctx, core, (&ts_i.0, &ts_r.0));
    let (ts_remote, ts_local) = narrowed.ok_or_else(|| Refusal::of(kind::TS_UNACCEPTABLE))?;
    let room = ctx.room_for(core.id, established.policy.site, &ts_remote);
    room.map_err(Refusal::of)?;
    let resource = ResourceId::in_message(message);
    if resource.is_some() && old.is_none() && established.has_all_resources(ctx.config, &ts_local, &ts_remote)
    {
        return Err(Refusal::of(kind::TS_MAX_QUEUE));
    }
    let answers_resource = resource.is_some();
    let (own_ke, shared) = exchanged
        .map(|(group, ke)| agree(ctx, group, ke))
        .transpose()?
        .unzip();
    let nonce_r = ctx.nonce();
    let spi_in = ctx
        .esp_spi()
        .ok_or_else(|| Refusal::of(kind::NO_ADDITIONAL_SAS))?;
    let answered = AnsweredChild {
        choice,
        spi_in,
        shared,
        nonce_i: nonce_i.0.clone(),
        nonce_r: nonce_r.clone(),
        ts_local: ts_local.clone(),
        ts_remote: ts_remote.clone(),
        replaces: old,
        resource,
    };
    let more = established.agreed(core, ctx, choice.additional, Agreed::Child(Box::new(answered)))?;
    let mut payloads = vec![
        Payload::Sa(answer_esp(&choice, spi_in)),
        Payload::Nonce(Nonce(nonce_r)),
    ];
    payloads.extend(own_ke.map(Payload::Ke));
    payloads.push(Payload::TsI(TrafficSelectors(ts_remote)));
    payloads.push(Payload::TsR(TrafficSelectors(ts_local)));
    // RFC 9611 section 4: our side has no resource of its own to name, since any worker takes what is received.
    payloads.extend(answers_resource.then(|| ResourceId::new(&[]).notification()));
    payloads.extend(more);
    Ok(payloads)
}

/// Child SAs of one IKE SA that may wait for their deletion: a peer may rekey each of those it has before it deletes
/// the first.
fn outgoing_max(ctx: &Context<'_>) -> usize {
    ctx.config.children_max.max(1)
}

/// A Child SA that the peer asked for and we agreed to.
pub(crate) struct AnsweredChild {
    choice: EspChoice,
    spi_in: u32,
    shared: Option<Secret>,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    ts_local: Vec<TrafficSelector>,
    ts_remote: Vec<TrafficSelector>,
    replaces: Option<ChildId>,
    resource: Option<ResourceId>,
}

impl AnsweredChild {
    /// The Child SA that it rekeys.
    pub(super) fn replaces(&self) -> Option<ChildId> {
        self.replaces
    }

    /// Makes it. Much may have happened since we agreed, if additional key exchanges were between.
    pub(super) fn complete(
        self,
        established: &mut Established,
        core: &Core,
        ctx: &mut Context<'_>,
        additional: Vec<Secret>,
    ) -> Result<(), Refusal> {
        let live = |id| {
            let child = established.children.iter().find(|child| child.id == id);
            child.is_some_and(|child| child.phase == Phase::Live) && !established.is_deleting(id)
        };
        let moved_on = established.is_ending() || matches!(established.pending(), Some(Pending::RekeyIke(_)));
        if moved_on || self.replaces.is_some_and(|old| !live(old)) {
            self.withdraw(ctx);
            return Err(Refusal::of(kind::TEMPORARY_FAILURE));
        }
        if let Err(notification) = ctx.room_for(core.id, established.policy.site, &self.ts_remote) {
            self.withdraw(ctx);
            return Err(Refusal::of(notification));
        }
        // The peer names it, so it has it. It may be the only one that is sent on before long.
        if let Some(old) = self.replaces {
            activate(established, ctx, old);
        }
        let spi_in = self.spi_in;
        // Also by one that was replaced, when its successor is gone before the peer deleted it.
        let sends =
            |child: &ChildSa| child.outbound_active && child.overlaps(&self.ts_local, &self.ts_remote);
        let carried_already = carrier(established, ctx, &self.ts_local, &self.ts_remote).is_some()
            || established.children.iter().any(sends);
        // One that the peer rekeys without a word stays with its resource.
        let before = self
            .replaces
            .and_then(|old| established.children.iter().find(|child| child.id == old));
        let kept = before.and_then(|before| before.resource.clone());
        let new = NewChild {
            choice: self.choice,
            spi_in,
            shared: self.shared,
            additional,
            nonces: (&self.nonce_i, &self.nonce_r),
            initiated: false,
            ts_local: self.ts_local,
            ts_remote: self.ts_remote,
            // What another Child SA carries goes on there until the peer shows that it has this one.
            outbound_active: self.replaces.is_none() && !carried_already,
            replaces: self.replaces,
            resource: self.resource.or(kept),
        };
        let Ok(child) = child_sa::install(ctx, core, established, new) else {
            ctx.allocator.release(spi_in);
            return Err(Refusal::of(kind::TEMPORARY_FAILURE));
        };
        if let Some(old) = self.replaces {
            let lowest_nonce = self.nonce_i.min(self.nonce_r);
            established.replaced_by_peer(old, Collision { child, lowest_nonce });
            established.delete_surplus(outgoing_max(ctx));
        }
        Ok(())
    }

    /// It will not be made.
    pub(super) fn withdraw(self, ctx: &mut Context<'_>) {
        ctx.allocator.release(self.spi_in);
    }
}

/// The peer rekeyed the same SA while our request to do so is under way.
#[derive(Debug, Clone)]
pub(crate) struct Collision<T = ChildId> {
    /// What the peer's exchange made.
    pub(crate) child: T,
    /// The lower nonce of the peer's exchange. The exchange with the lowest of all four loses.
    pub(crate) lowest_nonce: Vec<u8>,
}

impl Established {
    /// The peer's rekeying of `old` went through.
    fn replaced_by_peer(&mut self, old: ChildId, collision: Collision) {
        if let Some(child) = self.children.iter_mut().find(|child| child.id == old) {
            child.phase = Phase::Replaced;
        }
        self.tasks
            .retain(|task| !matches!(task, Task::RekeyChild { child, .. } if *child == old));
        if let Some(Pending::Child(own)) = self
            .outstanding
            .as_mut()
            .map(|outstanding| &mut outstanding.pending)
            && own.replaces == Some(old)
        {
            own.collision = Some(collision);
        }
    }

    /// Child SAs that are replaced or being deleted, and still there.
    fn outgoing_children(&self) -> usize {
        let outgoing = |child: &&ChildSa| child.phase != Phase::Live;
        self.children.iter().filter(outgoing).count()
    }

    /// What the peer replaced it is to delete. Should it leave too many, the oldest is deleted by us.
    fn delete_surplus(&mut self, outgoing_max: usize) {
        let mut replaced = self
            .children
            .iter()
            .filter(|child| child.phase == Phase::Replaced);
        let oldest = replaced.next().map(|child| child.id);
        if let Some(oldest) = oldest.filter(|_| self.outgoing_children() > outgoing_max) {
            self.delete_later(oldest);
        }
    }

    /// The peer deletes what its exchange made, because it already knows that it lost against ours.
    pub(super) fn withdraw_collision(&mut self, id: ChildId) {
        if let Some(Pending::Child(own)) = self
            .outstanding
            .as_mut()
            .map(|outstanding| &mut outstanding.pending)
            && own.collision.take_if(|theirs| theirs.child == id).is_some()
        {
            self.lost_by_peer(id);
        }
    }

    /// The peer deletes a Child SA that we do not know: perhaps what it made at our request, whose response is
    /// still on its way.
    pub(super) fn note_unknown_deletion(&mut self, spi: u32) {
        if let Some(Pending::Child(own)) = self
            .outstanding
            .as_mut()
            .map(|outstanding| &mut outstanding.pending)
            && own.withdrawn.len() < WITHDRAWN_MAX
        {
            own.withdrawn.push(spi);
        }
    }

    /// What the peer's exchange made is not to be used; the peer deletes it.
    fn lost_by_peer(&mut self, id: ChildId) {
        if let Some(child) = self.children.iter_mut().find(|child| child.id == id) {
            child.phase = Phase::Replaced;
            child.replaces = None;
        }
    }

    /// A peer that has room for no further SA cannot rekey (RFC 7296 section 4): the IKE SA that we began is
    /// replaced by a new one.
    fn no_room(&self, ctx: &mut Context<'_>, error: &Notify) {
        let connection = self.connection.clone();
        let anew = connection.filter(|_| error.kind == kind::NO_ADDITIONAL_SAS);
        ctx.deferred
            .extend(anew.map(|connection| Deferred::Reauthenticate { connection }));
    }

    /// A Child SA that took over lives on; the one before is to be deleted by us.
    pub(super) fn delete_later(&mut self, id: ChildId) {
        if let Some(child) = self.children.iter_mut().find(|child| child.id == id) {
            child.phase = Phase::Deleting;
            self.tasks.push_back(Task::DeleteChild(id));
        }
    }
}

/// Our request for a Child SA waits for its response.
pub(crate) struct ExpectChildResponse {
    /// The Child SA to be rekeyed.
    pub(crate) replaces: Option<ChildId>,
    pub(crate) collision: Option<Collision>,
    pub(crate) spi_in: u32,
    nonce: Vec<u8>,
    dh: Option<DhPrivate>,
    offered: Vec<EspProposal>,
    ts_local: Vec<TrafficSelector>,
    ts_remote: Vec<TrafficSelector>,
    /// The group is the one that the peer asked for, so it may not ask again.
    resource: Option<ResourceId>,
    retried: bool,
    /// SPIs that the peer deleted meanwhile and we do not know: one may be in the response.
    withdrawn: Vec<u32>,
    /// What was agreed on, and the additional key exchange whose response is awaited.
    follow_up: Option<(Agreement, Box<FollowUp>)>,
}

/// What the response to CREATE_CHILD_SA says.
struct Agreement {
    choice: EspChoice,
    shared: Option<Secret>,
    nonce_r: Vec<u8>,
    ts_local: Vec<TrafficSelector>,
    ts_remote: Vec<TrafficSelector>,
}

/// What the site may use. Additional key exchanges are offered to a peer that has made one on this IKE SA: there are
/// peers that do not pass over transform types they do not know.
fn offered_to(established: &Established, core: &Core, ctx: &Context<'_>) -> Vec<EspProposal> {
    let all = established.esp_proposals(ctx.config);
    let plain = |proposal: &&EspProposal| proposal.additional.is_empty();
    if core.suite.additional.is_empty() && all.iter().any(|proposal| plain(&proposal)) {
        all.iter().filter(plain).cloned().collect()
    } else {
        all.to_vec()
    }
}

impl ExpectChildResponse {
    /// The request for a Child SA, or for the rekeying of `replaces`. The first guess at the group is that
    /// of the IKE SA, which the peer has. `None` if there is no SPI left.
    pub(crate) fn start(
        established: &Established,
        core: &Core,
        ctx: &mut Context<'_>,
        replaces: Option<ChildId>,
        selectors: (Vec<TrafficSelector>, Vec<TrafficSelector>),
        asked_group: Option<DhGroup>,
        resource: Option<ResourceId>,
    ) -> Option<(Vec<Payload>, Self)> {
        let offered = offered_to(established, core, ctx);
        let groups = || {
            offered
                .iter()
                .flat_map(|proposal| proposal.groups.iter().copied())
        };
        let group = asked_group
            .or_else(|| groups().find(|group| *group == core.suite.group))
            .or_else(|| groups().next());
        let dh = group.and_then(|group| DhPrivate::generate(group, ctx.random).ok());
        let (nonce, spi_in) = (ctx.nonce(), ctx.esp_spi()?);
        let old = replaces.and_then(|id| established.children.iter().find(|child| child.id == id));
        let mut payloads = Vec::new();
        payloads.extend(old.map(|old| Payload::Notify(Notify::about_esp(kind::REKEY_SA, old.spi_in))));
        payloads.push(Payload::Sa(offer_esp(&offered, spi_in, true)));
        payloads.push(Payload::Nonce(Nonce(nonce.clone())));
        payloads.extend(dh.as_ref().map(|dh| {
            Payload::Ke(KeyExchange {
                group: dh.group().id(),
                data: dh.public(),
            })
        }));
        let (ts_local, ts_remote) = selectors;
        payloads.push(Payload::TsI(TrafficSelectors(ts_local.clone())));
        payloads.push(Payload::TsR(TrafficSelectors(ts_remote.clone())));
        payloads.extend(resource.as_ref().map(ResourceId::notification));
        let retried = asked_group.is_some();
        let awaited = Self {
            replaces,
            collision: None,
            spi_in,
            nonce,
            dh,
            offered,
            ts_local,
            ts_remote,
            resource,
            retried,
            withdrawn: Vec::new(),
            follow_up: None,
        };
        Some((payloads, awaited))
    }

    /// Takes the new Child SA over, asks on, or copes with the refusal.
    pub(crate) fn handle(
        mut self,
        established: &mut Established,
        core: &Core,
        ctx: &mut Context<'_>,
        message: &Message,
    ) -> Option<NextRequest> {
        let refused = match message.error() {
            Some(error) => Some(error.clone()),
            None => match self.accept(established, core, ctx, message) {
                Ok(Some(request)) => {
                    let awaited = Pending::Child(Box::new(self));
                    return Some((Exchange::IkeFollowupKe, request, awaited));
                }
                Ok(None) => None,
                Err(kind) => Some(Notify::new(kind, [])),
            },
        };
        let temporary = refused
            .as_ref()
            .is_some_and(|error| error.kind == kind::TEMPORARY_FAILURE);
        established.note_temporary(ctx, temporary);
        if let Some(error) = refused {
            ctx.allocator.release(self.spi_in);
            self.cope(established, core, ctx, &error);
        }
        None
    }

    /// Installs the Child SA when all key exchanges are done; until then the next request.
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
                let followed = FollowUp::begin(agreement.choice.additional, ctx.random, message)?;
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
                self.install(established, core, ctx, agreement, secrets)?;
                Ok(None)
            }
        }
    }

    fn agreement(&mut self, message: &Message) -> Result<Agreement, u16> {
        let syntax = kind::INVALID_SYNTAX;
        let (answer, nonce_r) = message.sa().zip(message.nonce()).ok_or(syntax)?;
        let (ts_i, ts_r) = message.ts_i().zip(message.ts_r()).ok_or(syntax)?;
        let sent = self.dh.as_ref().map_or(KeyExchangeOffer::Absent, |dh| {
            KeyExchangeOffer::Sent(dh.group().id())
        });
        let choice = accept_esp(answer, &self.offered, sent).ok_or(kind::NO_PROPOSAL_CHOSEN)?;
        let ts_local = narrow(&ts_i.0, &self.ts_local);
        let ts_remote = narrow(&ts_r.0, &self.ts_remote);
        if ts_local.is_empty() || ts_remote.is_empty() {
            return Err(kind::TS_UNACCEPTABLE);
        }
        let shared = match (choice.group, self.dh.take(), message.ke()) {
            (None, ..) => None,
            (Some(group), Some(dh), Some(ke)) if dh.group() == group && ke.group == group.id() => {
                Some(dh.agree(&ke.data).map_err(|_| syntax)?)
            }
            (Some(_), ..) => return Err(syntax),
        };
        Ok(Agreement {
            choice,
            shared,
            nonce_r: nonce_r.0.clone(),
            ts_local,
            ts_remote,
        })
    }

    fn install(
        &self,
        established: &mut Established,
        core: &Core,
        ctx: &mut Context<'_>,
        agreement: Agreement,
        additional: Vec<Secret>,
    ) -> Result<(), u16> {
        // The IKE SA is being closed, and whatever the peer made goes with it.
        if established.is_ending() {
            ctx.allocator.release(self.spi_in);
            return Ok(());
        }
        if self.withdrawn.contains(&agreement.choice.peer_spi) {
            ctx.allocator.release(self.spi_in);
            if let Some(old) = self.replaces {
                established.delete_later(old);
            }
            return Ok(());
        }
        let lowest_nonce = (&self.nonce).min(&agreement.nonce_r);
        let lost = self
            .collision
            .as_ref()
            .is_some_and(|theirs| *lowest_nonce < theirs.lowest_nonce);
        // The responder has it already: what there is no room for is made, not sent on, and deleted.
        let room = ctx.room_for(core.id, established.policy.site, &agreement.ts_remote);
        let goes = lost || room.is_err();
        let known = |id: &ChildId| established.children.iter().any(|child| child.id == *id);
        let replaces = self.replaces.filter(|id| known(id) && !goes);
        let new = NewChild {
            choice: agreement.choice,
            spi_in: self.spi_in,
            shared: agreement.shared,
            additional,
            nonces: (&self.nonce, &agreement.nonce_r),
            initiated: true,
            ts_local: agreement.ts_local,
            ts_remote: agreement.ts_remote,
            outbound_active: !goes,
            replaces,
            resource: self.resource.clone(),
        };
        let id = child_sa::install(ctx, core, established, new).map_err(|_| kind::INVALID_SYNTAX)?;
        if goes {
            // If the peer's exchange stands, the peer deletes the old one.
            ctx.networks.let_go(id);
            established.delete_later(id);
        } else if let Some(old) = self.replaces {
            if let Some(theirs) = &self.collision {
                established.lost_by_peer(theirs.child);
            }
            // An exchange of the peer for the same one that has not got so far yet is too late.
            established.forget_answer_for(ctx, Some(old));
            established.delete_later(old);
        }
        Ok(())
    }

    fn cope(self, established: &mut Established, core: &Core, ctx: &mut Context<'_>, error: &Notify) {
        let asked = asked_group(error).and_then(DhGroup::from_id);
        let asked =
            asked.filter(|group| !self.retried && self.offered.iter().any(|one| one.groups.contains(group)));
        let live = |established: &Established, id: ChildId| {
            established
                .children
                .iter()
                .any(|child| child.id == id && child.phase == Phase::Live)
        };
        match (self.replaces, asked) {
            (Some(child), Some(group)) => {
                established.tasks.push_front(Task::RekeyChild {
                    child,
                    group: Some(group),
                });
            }
            (None, Some(group)) => {
                let selectors = (self.ts_local, self.ts_remote);
                established.tasks.push_front(Task::NewChild {
                    selectors,
                    group: Some(group),
                    resource: self.resource,
                });
            }
            // The peer has rekeyed or deleted it meanwhile.
            (Some(child), None) if !live(established, child) => {}
            (Some(child), None) if error.kind == kind::CHILD_SA_NOT_FOUND => {
                forget_child(established, core, ctx, child);
                let selectors = (self.ts_local, self.ts_remote);
                established.tasks.push_back(Task::NewChild {
                    selectors,
                    group: None,
                    resource: None,
                });
            }
            (Some(child), None) => {
                established.no_room(ctx, error);
                established.rekey_later(ctx, child);
                report(ctx, core, "the rekeying of a Child SA", error);
            }
            (None, None) => {
                let selectors = (&self.ts_local[..], &self.ts_remote[..]);
                established.child_refused(ctx, selectors, error.kind);
                report(ctx, core, "a Child SA", error);
            }
        }
    }
}

fn report(ctx: &mut Context<'_>, core: &Core, what: &'static str, error: &Notify) {
    if error.kind != kind::TEMPORARY_FAILURE {
        let notification = error_name(error.kind);
        ctx.event(Event::RefusedByPeer {
            remote: core.path.remote,
            what,
            notification,
        });
    }
}

pub(crate) fn retry_at(ctx: &mut Context<'_>) -> u64 {
    let mut byte = [0];
    ctx.random.fill(&mut byte);
    let drawn_ms = RETRY_AFTER_S * 1000 * u64::from(byte[0]) / 255;
    ctx.now.mono_ms.saturating_add(RETRY_AFTER_S * 1000 + drawn_ms)
}

/// The peer sends on a Child SA that we did not send on yet: it has installed it, so we may.
pub(crate) fn activate(established: &mut Established, ctx: &mut Context<'_>, id: ChildId) {
    // What is on its way out, with its IKE SA or alone, is not begun with.
    let ending = established.is_ending() || established.is_deleting(id);
    let Some(child) = established.children.iter_mut().find(|child| child.id == id) else {
        return;
    };
    if !child.outbound_active && child.phase == Phase::Live && !ending {
        child.outbound_active = true;
        let child = child.clone();
        ctx.outputs.push_back(established.activation(&child));
    }
}

/// What was made to replace a Child SA that is gone is sent on from now on.
pub(crate) fn activate_successors(established: &mut Established, ctx: &mut Context<'_>, gone: ChildId) {
    let successors = established
        .children
        .iter_mut()
        .filter(|other| other.replaces == Some(gone));
    let mut waiting = Vec::new();
    for successor in successors {
        successor.replaces = None;
        waiting.push(successor.id);
    }
    waiting.into_iter().for_each(|id| activate(established, ctx, id));
}

/// Another Child SA that carries traffic of one that is gone is named to the data plane again: it knows one
/// Child SA for each destination, and has just forgotten it.
pub(crate) fn carry_on(established: &mut Established, ctx: &mut Context<'_>, gone: &ChildSa) {
    let others = established
        .carriers()
        .filter(|child| child.outbound_active && child.overlaps(&gone.ts_local, &gone.ts_remote));
    let again = others.map(|child| established.activation(child));
    ctx.outputs.extend(again);
    // What waited for a sign of the peer waits no longer when nothing else carries its traffic.
    let waiting = established.live_children().filter(|child| {
        let waits = !child.outbound_active && child.replaces.is_none();
        let neighbours = ctx.neighbours.with(&established.peer_identity);
        let all = neighbours.flat_map(Established::carriers);
        let mut all = all.chain(established.carriers());
        let carries =
            |other: &ChildSa| other.outbound_active && other.overlaps(&child.ts_local, &child.ts_remote);
        waits && child.overlaps(&gone.ts_local, &gone.ts_remote) && !all.any(carries)
    });
    let waiting: Vec<_> = waiting.map(|child| child.id).collect();
    waiting.into_iter().for_each(|id| activate(established, ctx, id));
}

/// The peer has shown that it has all Child SAs here: they are sent on.
pub(crate) fn activate_all(established: &mut Established, ctx: &mut Context<'_>) {
    let waiting = established.live_children().filter(|child| !child.outbound_active);
    let waiting: Vec<_> = waiting.map(|child| child.id).collect();
    waiting.into_iter().for_each(|id| activate(established, ctx, id));
}

/// The Child SA with the peer, on this IKE SA or another, on which traffic between the selectors is sent.
pub(super) fn carrier(
    established: &Established,
    ctx: &Context<'_>,
    ts_local: &[TrafficSelector],
    ts_remote: &[TrafficSelector],
) -> Option<ChildId> {
    let neighbours = ctx.neighbours.with(&established.peer_identity);
    let all = neighbours.flat_map(Established::carriers);
    let mut all = all.chain(established.carriers());
    let carrier = all.find(|child| child.overlaps(ts_local, ts_remote));
    carrier.map(|child| child.id)
}
