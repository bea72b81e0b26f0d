//! An authenticated IKE SA at work: requests answered, responses taken, clocks, and the queue of what to ask for.

use super::*;
use crate::{crash, mobike, redirect};

/// After a claim that the peer does not know an IKE SA, further ones are not listened to for this long.
const SUSPECT_EVERY_MS: u64 = 10_000;
/// TEMPORARY_FAILURE for so long, and nothing else, is more than a passing state.
const TEMPORARY_MAX_MS: u64 = 300_000;
/// Two of them further apart than this have nothing to do with each other.
const TEMPORARY_GAP_MS: u64 = 60_000;
/// A connection that is to be up at all times asks again for a Child SA after this.
const CHILD_AGAIN_MS: u64 = 30_000;
/// A peer that was authenticated while it has Child SAs on an older IKE SA is asked after this whether it has the
/// new one.
const PROOF_AFTER_MS: u64 = 2_000;

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
            peer_identity: Arc::new(peer.identity.clone()),
            proof_ends_ms: proof_ends_ms(&peer, ctx.now),
            peer,
            policy,
            prf,
            sk_d,
            children: Vec::new(),
            tasks: VecDeque::new(),
            outstanding: None,
            next_request: None,
            answering: None,
            established_ms: ctx.now.mono_ms,
            last_heard_ms: ctx.now.mono_ms,
            rekey_at_ms: ctx.jittered_deadline(lifetime_s),
            expire_at_ms: ctx.now.mono_ms.saturating_add(lifetime_s.saturating_mul(1100)),
            superseded: None,
            redundant: false,
            closing: None,
            connection: None,
            authenticated_as: IkeSaId(0),
            reauth_at_ms: u64::MAX,
            idle: ctx.config.idle,
            keeps_up: false,
            took_over: false,
            delayed: Vec::new(),
            childless_since_ms: None,
            temporary_ms: None,
            suspected_ms: None,
            ask_at_ms: u64::MAX,
            awaits_proof: false,
            peer_token: None,
            ppk: false,
            redirectable: false,
            authenticated_ms: ctx.now.mono_ms,
            mobike: Mobike::default(),
            keepalive_at_ms: u64::MAX,
        }
    }

    /// The first Child SA is not sent on before the peer has shown that it has our answer. Should it say nothing,
    /// it is asked: it cannot answer before.
    pub(crate) fn wait_for_proof(&mut self, now_ms: u64) {
        self.awaits_proof = true;
        self.ask_at_ms = now_ms.saturating_add(PROOF_AFTER_MS);
    }

    /// The peer was authenticated on this IKE SA, for a connection of ours or because it came to us.
    pub(crate) fn authenticated(
        &mut self,
        ike_sa: IkeSaId,
        connection: Option<&Connection>,
        ctx: &mut Context<'_>,
    ) {
        self.authenticated_as = ike_sa;
        let Some(connection) = connection else {
            ctx.deferred.push(Deferred::Limit {
                peer: Arc::clone(&self.peer_identity),
            });
            return;
        };
        self.connection = Some(connection.name.as_str().into());
        self.keeps_up = connection.start == Start::Now;
        self.idle = match connection.start {
            Start::Now => Idle::default(),
            Start::Manual | Start::OnDemand => connection.idle,
        };
        if let Some(after_s) = connection.reauth_after_s {
            self.reauth_at_ms = ctx.jittered_deadline(after_s);
        }
    }

    /// What a rekeyed IKE SA has from the one before.
    pub(crate) fn inherit(&mut self, before: &Self) {
        self.connection.clone_from(&before.connection);
        self.authenticated_as = before.authenticated_as;
        self.reauth_at_ms = before.reauth_at_ms;
        self.idle = before.idle;
        self.keeps_up = before.keeps_up;
        self.took_over = before.took_over;
        self.ppk = before.ppk;
        self.redirectable = before.redirectable;
        self.authenticated_ms = before.authenticated_ms;
        self.mobike.clone_from(&before.mobike);
        self.tasks.extend(before.unfinished_move());
    }

    /// Says that both sides are authenticated.
    pub(crate) fn announce(&self, core: &Core, ctx: &mut Context<'_>) {
        ctx.event(Event::IkeSaEstablished {
            ike_sa: core.id,
            peer: self.peer_identity.to_string(),
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

    /// Why it is being closed, if it is.
    pub(crate) fn closing_reason(&self) -> Option<CloseReason> {
        self.closing.clone()
    }

    /// Takes over Child SAs of the IKE SA before, and what was to be done with them.
    pub(crate) fn adopt(&mut self, children: Vec<ChildSa>, tasks: Vec<Task>) {
        tasks.into_iter().for_each(|task| self.push_new(task));
        let deletions = children.iter().filter(|child| child.phase == Phase::Deleting);
        let deletions: Vec<_> = deletions.map(|child| Task::DeleteChild(child.id)).collect();
        deletions.into_iter().for_each(|task| self.push_new(task));
        self.children.extend(children);
    }

    /// What is to be done about Child SAs and goes with them to the IKE SA that takes over.
    pub(crate) fn take_child_tasks(&mut self) -> Vec<Task> {
        let delayed = std::mem::take(&mut self.delayed)
            .into_iter()
            .map(|(_, task)| task);
        let about_children = |task: &Task| match task {
            Task::RekeyChild { .. } | Task::NewChild { .. } | Task::DeleteChild(_) => true,
            Task::RekeyIke { .. }
            | Task::DeleteIke
            | Task::Liveness
            | Task::Redirect
            | Task::UpdateAddresses { .. }
            | Task::CheckPath { .. } => false,
        };
        let tasks = std::mem::take(&mut self.tasks).into_iter().chain(delayed);
        tasks.filter(about_children).collect()
    }

    /// An IKE SA with one of these SPIs may come of a rekeying of ours that is under way: the peer may have it already.
    pub(crate) fn may_yet_have(&self, spis: [u64; 2]) -> bool {
        let next = self.next_request.as_ref().map(|(_, _, pending)| pending);
        self.pending()
            .into_iter()
            .chain(next)
            .any(|pending| matches!(pending, Pending::RekeyIke(awaited) if spis.contains(&awaited.own_spi())))
    }

    /// Queues what is not queued already.
    pub(crate) fn push_new(&mut self, task: Task) {
        if !self.tasks.contains(&task) {
            self.tasks.push_back(task);
        }
    }

    /// Our DELETE of a Child SA is under way or waits for its turn.
    pub(crate) fn is_deleting(&self, id: ChildId) -> bool {
        self.tasks.contains(&Task::DeleteChild(id))
            || matches!(self.pending(), Some(Pending::DeleteChild(child)) if *child == id)
    }

    /// A Child SA is being negotiated, or is to be.
    pub(crate) fn is_making_children(&self) -> bool {
        let makes = |task: &Task| matches!(task, Task::NewChild { .. });
        self.tasks.iter().any(makes)
            || self.delayed.iter().any(|(_, task)| makes(task))
            || matches!(self.pending(), Some(Pending::Child(awaited)) if awaited.replaces.is_none())
    }

    pub(crate) fn live_children(&self) -> impl Iterator<Item = &ChildSa> {
        self.carriers().filter(|child| child.phase == Phase::Live)
    }

    /// What traffic is sent on, or will be. One that the peer has rekeyed is sent on until its successor is.
    pub(crate) fn carriers(&self) -> impl Iterator<Item = &ChildSa> {
        let carriers = self.children.iter();
        carriers.filter(|child| child.phase != Phase::Deleting && !child.outbound_gone)
    }

    /// A Child SA carries this packet (our side, the peer's side).
    pub(crate) fn carries(&self, (local, remote): &(TrafficSelector, TrafficSelector)) -> bool {
        let has = |wide: &[TrafficSelector], one| wide.iter().any(|selector| selector.contains(one));
        self.live_children()
            .any(|child| has(&child.ts_local, local) && has(&child.ts_remote, remote))
    }

    /// Child SAs here carry whatever `other` does.
    pub(crate) fn carries_all_of(&self, other: &ChildSa) -> bool {
        other.ts_local.iter().all(|local| {
            let remotes = &mut other.ts_remote.iter();
            remotes.all(|remote| self.carries(&(*local, *remote)))
        })
    }

    /// A packet passed on a Child SA.
    pub(crate) fn used(&mut self, now_ms: u64, id: ChildId) {
        if let Some(child) = self.children.iter_mut().find(|child| child.id == id) {
            child.last_used_ms = now_ms;
        }
    }

    /// Whether a Child SA is not sent on until the peer has sent on it.
    pub(crate) fn awaits_traffic(&self, id: ChildId) -> bool {
        let child = self.children.iter().find(|child| child.id == id);
        child.is_some_and(|child| !child.outbound_active)
    }

    /// Something unprotected says that the peer does not know this IKE SA: it may be true, so we ask.
    pub(crate) fn suspect(&mut self, now_ms: u64) {
        let lately = self
            .suspected_ms
            .is_some_and(|then_ms| now_ms.saturating_sub(then_ms) < SUSPECT_EVERY_MS);
        if !lately && self.outstanding.is_none() {
            self.suspected_ms = Some(now_ms);
            self.push_new(Task::Liveness);
        }
    }

    /// The peer refused a Child SA of ours: what may yet succeed is queued. False when nothing may.
    pub(crate) fn child_refused(
        &mut self,
        ctx: &mut Context<'_>,
        (ts_local, ts_remote): (&[TrafficSelector], &[TrafficSelector]),
        error: u16,
    ) -> bool {
        let new_child = |local: &[TrafficSelector], remote: &[TrafficSelector]| Task::NewChild {
            selectors: (local.to_vec(), remote.to_vec()),
            group: None,
            resource: None,
        };
        match error {
            kind::TEMPORARY_FAILURE => {
                let due_ms = create_child_sa::retry_at(ctx);
                self.delayed.push((due_ms, new_child(ts_local, ts_remote)));
                true
            }
            // RFC 7296 section 2.9: one pair at a time.
            kind::SINGLE_PAIR_REQUIRED if ts_local.len() * ts_remote.len() > 1 => {
                let pairs = ts_local
                    .iter()
                    .flat_map(|local| ts_remote.iter().map(move |remote| (local, remote)));
                for (local, remote) in pairs.take(ctx.config.children_max) {
                    let (local, remote) = (std::slice::from_ref(local), std::slice::from_ref(remote));
                    self.push_new(new_child(local, remote));
                }
                true
            }
            _ => false,
        }
    }

    /// Counts TEMPORARY_FAILURE. RFC 7296 section 2.25: after minutes of nothing else the two sides no longer
    /// agree, and the IKE SA is closed.
    pub(crate) fn note_temporary(&mut self, ctx: &mut Context<'_>, temporary: bool) {
        let now_ms = ctx.now.mono_ms;
        let streak = self
            .temporary_ms
            .filter(|(_, last_ms)| now_ms.saturating_sub(*last_ms) < TEMPORARY_GAP_MS);
        self.temporary_ms = temporary.then(|| (streak.map_or(now_ms, |(first_ms, _)| first_ms), now_ms));
        if self
            .temporary_ms
            .is_some_and(|(first_ms, _)| now_ms.saturating_sub(first_ms) >= TEMPORARY_MAX_MS)
        {
            self.begin_close(ctx, CloseReason::OutOfStep);
        }
    }

    /// Keeps account of having Child SAs.
    pub(super) fn note_children(&mut self, now_ms: u64) {
        if !self.children.is_empty() {
            self.childless_since_ms = None;
            return;
        }
        self.childless_since_ms.get_or_insert(now_ms);
        if self.keeps_up && !self.is_ending() && !self.redundant && !self.is_making_children() {
            let selectors = (self.policy.ts_local.clone(), self.policy.ts_remote.clone());
            let again = Task::NewChild {
                selectors,
                group: None,
                resource: None,
            };
            self.delayed.push((now_ms.saturating_add(CHILD_AGAIN_MS), again));
        }
    }

    pub(crate) fn heard_at(&mut self, now_ms: u64) {
        self.last_heard_ms = now_ms;
    }

    pub(super) fn handle_request(
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
        // The window is one request: the peer has had our answer to the one before, and all it made.
        self.awaits_proof = false;
        self.ask_at_ms = u64::MAX;
        let proven: Vec<_> = self.live_children().map(|child| child.id).collect();
        let (payloads, mut state) = self.carry_out(core, ctx, exchange, &message);
        if let State::Established(established) = &mut state {
            for id in proven {
                create_child_sa::activate(established, ctx, id);
            }
        }
        (payloads, state)
    }

    fn carry_out(
        mut self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        exchange: Exchange,
        message: &Message,
    ) -> (Vec<Payload>, State) {
        let refuse = |refusal: Refusal| vec![Payload::Notify(refusal.0)];
        match exchange {
            Exchange::CreateChildSa => {
                let payloads = create_child_sa::respond(&mut self, core, ctx, message);
                (payloads, State::Established(self))
            }
            Exchange::Informational => match informational::respond(&mut self, core, ctx, message) {
                (mut payloads, None) => {
                    self.take_token(ctx.config, message);
                    self.note_redirect(core, ctx, message);
                    payloads.extend(self.ticket(core, ctx, message));
                    payloads.extend(mobike::respond(&mut self, core, ctx, message));
                    (payloads, State::Established(self))
                }
                (payloads, Some(reason)) => (payloads, self.finish(core, ctx, reason)),
            },
            Exchange::IkeFollowupKe => {
                let payloads = ike_followup_ke::respond(&mut self, core, ctx, message);
                (payloads, State::Established(self))
            }
            Exchange::IkeSaInit
            | Exchange::IkeSessionResume
            | Exchange::IkeIntermediate
            | Exchange::IkeAuth
            | Exchange::Other(_) => (refuse(Refusal::syntax()), State::Established(self)),
        }
    }

    pub(super) fn handle_response(
        mut self: Box<Self>,
        core: &mut Core,
        ctx: &mut Context<'_>,
        message: Result<Message, crate::wire::WireError>,
    ) -> State {
        let Some(Outstanding { pending, .. }) = self.outstanding.take() else {
            return State::Established(self);
        };
        let Ok(message) = message else {
            give_back(ctx, &pending);
            return self.finish(core, ctx, CloseReason::ProtocolViolation);
        };
        if std::mem::replace(&mut self.awaits_proof, false) {
            self.ask_at_ms = u64::MAX;
            create_child_sa::activate_all(&mut self, ctx);
        }
        match pending {
            Pending::Liveness => self.liveness_answered(core, &message),
            Pending::UpdateAddresses(awaited) => {
                if awaited.handle(&mut self, core, ctx, &message).is_err() {
                    return self.finish(core, ctx, CloseReason::ProtocolViolation);
                }
            }
            Pending::CheckPath(awaited) => {
                if awaited.handle(&mut self, core, ctx, &message).is_err() {
                    return self.finish(core, ctx, CloseReason::ProtocolViolation);
                }
            }
            Pending::Redirect => {}
            Pending::Child(awaited) => self.next_request = awaited.handle(&mut self, core, ctx, &message),
            Pending::RekeyIke(awaited) => self.next_request = awaited.handle(&mut self, core, ctx, &message),
            Pending::DeleteChild(child) => informational::forget_child(&mut self, core, ctx, child),
            Pending::DeleteIke => return self.finish(core, ctx, CloseReason::Requested),
        }
        self.drop_pointless_request(ctx);
        State::Established(self)
    }

    /// RFC 5685 section 5: the gateway sends us to another while the IKE SA stands.
    fn note_redirect(&self, core: &Core, ctx: &mut Context<'_>, message: &Message) {
        if let (Some(to), Some(connection)) = (redirect::protected(message), &self.connection) {
            ctx.deferred.push(Deferred::Redirected {
                connection: Arc::clone(connection),
                to,
                from: core.path.remote.ip(),
                established: true,
            });
        }
    }

    /// It was made for a peer that is sent to another gateway, and goes soon, whether the peer deletes it or not.
    pub(crate) fn make_way(&mut self, now_ms: u64) {
        self.expire_at_ms = now_ms.saturating_add(CLOSING_MAX_MS);
        self.rekey_at_ms = u64::MAX;
    }

    /// An IKE SA that is being closed needs no further key exchange, unless the peer's exchange has to be told apart
    /// from ours.
    fn drop_pointless_request(&mut self, ctx: &mut Context<'_>) {
        if !self.is_ending() {
            return;
        }
        match self.next_request.take() {
            Some((_, _, Pending::Child(awaited))) => ctx.allocator.release(awaited.spi_in),
            Some((exchange, payloads, Pending::RekeyIke(awaited))) if awaited.collision.is_some() => {
                self.next_request = Some((exchange, payloads, Pending::RekeyIke(awaited)));
            }
            Some((
                _,
                _,
                Pending::RekeyIke(_)
                | Pending::DeleteChild(_)
                | Pending::DeleteIke
                | Pending::Liveness
                | Pending::Redirect
                | Pending::UpdateAddresses(_)
                | Pending::CheckPath(_),
            ))
            | None => {}
        }
    }

    /// Ends the IKE SA: its Child SAs go, and the event says why.
    pub(super) fn finish(
        mut self: Box<Self>,
        core: &Core,
        ctx: &mut Context<'_>,
        reason: CloseReason,
    ) -> State {
        let outstanding = self.outstanding.take().map(|outstanding| outstanding.pending);
        let next = self.next_request.take().map(|(_, _, pending)| pending);
        for pending in outstanding.iter().chain(&next) {
            give_back(ctx, pending);
        }
        // The peer's rekeying of this IKE SA crossed ours, and it deleted the old one before it answered ours.
        if let Some(Pending::RekeyIke(awaited)) = outstanding
            && let Some(theirs) = &awaited.collision
        {
            create_child_sa::yield_to(&mut self, core, ctx, theirs);
        }
        self.forget_answer(ctx);
        let reason = self.closing.take().unwrap_or(reason);
        for child in &self.children {
            ctx.remove_closed(child, &self.peer_identity);
        }
        if self.superseded.is_none() && !self.redundant {
            ctx.deferred
                .extend(self.connection.take().map(|connection| Deferred::Ended {
                    connection,
                    was_up: true,
                    reason: reason.clone(),
                }));
            ctx.event(Event::Closed {
                ike_sa: core.id,
                peer: self.peer_identity.to_string(),
                reason,
            });
        }
        closed(ctx)
    }

    /// The Child SAs go at once, the peer is told. After re-authentication they stay until the peer has
    /// answered, because it may send on them until then.
    pub(crate) fn begin_close(&mut self, ctx: &mut Context<'_>, reason: CloseReason) {
        if self.is_ending() {
            return;
        }
        if reason == CloseReason::Reauthenticated {
            self.stop_sending(ctx);
        } else {
            for child in std::mem::take(&mut self.children) {
                ctx.remove_closed(&child, &self.peer_identity);
            }
        }
        self.forget_answer(ctx);
        self.next_request = None;
        self.delayed.clear();
        self.closing = Some(reason);
        self.tasks.clear();
        self.tasks.push_back(Task::DeleteIke);
        self.rekey_at_ms = u64::MAX;
        self.expire_at_ms = ctx.now.mono_ms.saturating_add(CLOSING_MAX_MS);
    }

    /// What is sent from now on goes on the Child SAs of another IKE SA.
    fn stop_sending(&mut self, ctx: &mut Context<'_>) {
        for child in self.children.iter_mut().filter(|child| !child.outbound_gone) {
            child.outbound_gone = true;
            ctx.networks.let_go(child.id);
            ctx.outputs.push_back(Output::RemoveChildSa {
                child: child.id,
                direction: Direction::Outbound,
            });
            ctx.deferred.push(Deferred::ChildGone {
                child: Box::new(child.clone()),
                peer: Arc::clone(&self.peer_identity),
            });
        }
    }

    /// The next thing to do, or `u64::MAX`.
    pub(super) fn deadline(&self, dpd_after_s: u64) -> (u64, TimeoutReason) {
        let mut deadlines = vec![(self.expire_at_ms, TimeoutReason::Expire)];
        match &self.outstanding {
            Some(outstanding) => deadlines.push((outstanding.clock.due_ms, TimeoutReason::Retransmit)),
            // Nothing of ours begins before the peer's next exchange, whose time ends by itself.
            None if self.is_answering_rekey() => {}
            None => deadlines.push((self.liveness_at(dpd_after_s), TimeoutReason::Liveness)),
        }
        deadlines.push((self.keepalive_at_ms, TimeoutReason::Keepalive));
        if !self.is_ending() {
            deadlines.push((self.rekey_at_ms, TimeoutReason::Rekey));
            deadlines.push((self.answer_due_ms(), TimeoutReason::Expire));
            deadlines.push((self.proof_ends_ms, TimeoutReason::Expire));
            deadlines.push((self.reauth_at_ms, TimeoutReason::Reauthenticate));
            deadlines.extend(
                self.delayed
                    .iter()
                    .map(|(due_ms, _)| (*due_ms, TimeoutReason::Retry)),
            );
            deadlines.push((self.idle_at(), TimeoutReason::Idle));
            let idle = self.live_children().map(|child| self.child_idle_at(child));
            deadlines.extend(idle.map(|due_ms| (due_ms, TimeoutReason::Idle)));
            deadlines.push((self.ask_at_ms, TimeoutReason::Liveness));
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

    /// When the IKE SA has been without Child SAs for too long.
    fn idle_at(&self) -> u64 {
        let busy = self.outstanding.is_some() || self.is_making_children();
        let since = self.childless_since_ms.filter(|_| !busy);
        let times = since.zip(self.idle.ike_after_s);
        times.map_or(u64::MAX, |(since_ms, after_s)| {
            since_ms.saturating_add(after_s.max(1).saturating_mul(1000))
        })
    }

    /// When a Child SA has been without traffic for too long.
    fn child_idle_at(&self, child: &ChildSa) -> u64 {
        let after_s = self.idle.child_after_s.filter(|_| !self.is_deleting(child.id));
        after_s.map_or(u64::MAX, |after_s| {
            child
                .last_used_ms
                .saturating_add(after_s.max(1).saturating_mul(1000))
        })
    }

    fn liveness_at(&self, dpd_after_s: u64) -> u64 {
        self.last_heard_ms
            .saturating_add(dpd_after_s.max(1).saturating_mul(1000))
    }

    pub(super) fn handle_timeout(mut self: Box<Self>, core: &mut Core, ctx: &mut Context<'_>) -> State {
        let now_ms = ctx.now.mono_ms;
        if let Some(outstanding) = &mut self.outstanding {
            match outstanding.clock.poll(now_ms) {
                Due::Wait => {}
                Due::Repeat => {
                    ctx.counters.retransmitted += 1;
                    core.cut_smaller(ctx, &outstanding.clock, &mut outstanding.datagrams);
                    ctx.transmit(core.path, &outstanding.datagrams);
                    if outstanding.clock.repetitions() == mobike::OTHER_ADDRESS_AFTER {
                        self.try_other_address(core, ctx);
                    }
                }
                Due::GiveUp => return self.finish(core, ctx, CloseReason::PeerUnresponsive),
            }
        } else if self.liveness_at(ctx.config.dpd_after_s) <= now_ms && self.tasks.is_empty() {
            self.tasks.push_back(Task::Liveness);
        }
        if !self.is_ending()
            && let Some(reason) = self.proof_expired(ctx)
        {
            self.begin_close(ctx, reason);
        }
        if self.expire_at_ms <= now_ms || core.channel.used_up() {
            if core.channel.used_up() || self.is_ending() || self.redundant {
                return self.finish(core, ctx, CloseReason::LifetimeExpired);
            }
            self.begin_close(ctx, CloseReason::LifetimeExpired);
        }
        if self.answer_due_ms() <= now_ms {
            self.forget_answer(ctx);
        }
        if !self.is_ending() {
            self.close_what_is_idle(ctx);
        }
        if !self.is_ending() {
            self.retry_what_is_due(ctx);
            self.rekey_what_is_due(core, ctx);
        }
        State::Established(self)
    }

    fn close_what_is_idle(&mut self, ctx: &mut Context<'_>) {
        let now_ms = ctx.now.mono_ms;
        let idle: Vec<_> = self
            .live_children()
            .filter(|child| self.child_idle_at(child) <= now_ms)
            .map(|child| Task::DeleteChild(child.id))
            .collect();
        idle.into_iter().for_each(|task| self.push_new(task));
        if self.idle_at() <= now_ms {
            self.begin_close(ctx, CloseReason::Idle);
        }
    }

    fn retry_what_is_due(&mut self, ctx: &mut Context<'_>) {
        let now_ms = ctx.now.mono_ms;
        let delayed = std::mem::take(&mut self.delayed).into_iter();
        let (due, delayed): (Vec<_>, Vec<_>) = delayed.partition(|(due_ms, _)| *due_ms <= now_ms);
        self.delayed = delayed;
        due.into_iter().for_each(|(_, task)| self.push_new(task));
        if self.reauth_at_ms <= now_ms {
            self.reauth_at_ms = u64::MAX;
            let connection = self.connection.clone();
            let due = connection.map(|connection| Deferred::Reauthenticate { connection });
            ctx.deferred.extend(due);
        }
        if self.ask_at_ms <= now_ms {
            self.ask_at_ms = u64::MAX;
            self.push_new(Task::Liveness);
        }
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

    /// What keeps a Child SA from being rekeyed may be over before its lifetime is.
    pub(crate) fn rekey_later(&mut self, ctx: &mut Context<'_>, id: ChildId) {
        let retry_at_ms = create_child_sa::retry_at(ctx);
        if let Some(child) = self.children.iter_mut().find(|child| child.id == id) {
            child.rekey_at_ms = retry_at_ms;
        }
    }

    pub(super) fn pump(&mut self, core: &mut Core, ctx: &mut Context<'_>) {
        while self.outstanding.is_none() && !core.channel.used_up() {
            let request = match self.next_request.take() {
                Some(request) => Some(request),
                None if self.is_answering_rekey() => return,
                None => match self.tasks.pop_front() {
                    Some(task) => self.start(core, ctx, task),
                    None => return,
                },
            };
            let Some((exchange, payloads, pending)) = request else {
                continue;
            };
            let Ok(datagrams) = core.channel.request(exchange, &payloads, ctx.random) else {
                give_back(ctx, &pending);
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
            Task::Liveness => {
                let mut payloads = self.liveness_payloads(core);
                // RFC 6290 sections 4.3 and 4.4: after we rekeyed, the peer has our token from here. It also makes
                // the request longer than the answer that proves a crash.
                let knows_tokens = self.peer_token.is_some();
                payloads.extend(crash::token_for(ctx.config, &core.channel).filter(|_| knows_tokens));
                Some((Exchange::Informational, payloads, Pending::Liveness))
            }
            Task::UpdateAddresses { before } => {
                let (payloads, awaited) = ExpectUpdate::start(core, ctx, before);
                Some((
                    Exchange::Informational,
                    payloads,
                    Pending::UpdateAddresses(awaited),
                ))
            }
            Task::CheckPath { before } => {
                let (payloads, awaited) = ExpectPathCheck::start(ctx, before);
                Some((Exchange::Informational, payloads, Pending::CheckPath(awaited)))
            }
            Task::Redirect => {
                let to = ctx.config.redirect_to.as_ref()?;
                ctx.counters.redirects_sent += 1;
                Some((
                    Exchange::Informational,
                    vec![to.notification()],
                    Pending::Redirect,
                ))
            }
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
                let resource = child.resource.clone();
                let selectors = (child.ts_local.clone(), child.ts_remote.clone());
                let request =
                    ExpectChildResponse::start(self, core, ctx, Some(id), selectors, group, resource);
                if request.is_none() {
                    self.rekey_later(ctx, id);
                }
                let (payloads, awaited) = request?;
                Some((
                    Exchange::CreateChildSa,
                    payloads,
                    Pending::Child(Box::new(awaited)),
                ))
            }
            Task::NewChild {
                selectors,
                group,
                resource,
            } => {
                // What there is no room for is not asked for.
                ctx.room_for(core.id, self.policy.site, &selectors.1).ok()?;
                let (payloads, awaited) =
                    ExpectChildResponse::start(self, core, ctx, None, selectors, group, resource)?;
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

/// What a request that is answered no more had taken: the inbound SPI of a Child SA that is not going to be.
fn give_back(ctx: &mut Context<'_>, pending: &Pending) {
    if let Pending::Child(awaited) = pending {
        ctx.allocator.release(awaited.spi_in);
    }
}
