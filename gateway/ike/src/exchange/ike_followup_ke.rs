//! IKE_FOLLOWUP_KE (RFC 9370 section 2.2.4): the additional key exchanges of a CREATE_CHILD_SA, one exchange each. What
//! CREATE_CHILD_SA agreed on is made when the last is done. An opaque link in every message says which CREATE_CHILD_SA
//! it belongs to.

use std::collections::VecDeque;

use super::{
    Refusal,
    create_child_sa::{AnsweredChild, AnsweredRekey},
};
use crate::{
    context::Context,
    crypto::{
        kem::{Kem, KemPrivate},
        random::Random,
    },
    ids::ChildId,
    ike_sa::{Core, Established},
    keys::Secret,
    proposal::AdditionalKeyExchanges,
    wire::{
        Message, Payload,
        ke::KeyExchange,
        notify::{Notify, kind},
    },
};

/// The initiator has this long for the next exchange; then what was agreed is forgotten.
const ANSWER_KEPT_MS: u64 = 30_000;

fn link_of(message: &Message) -> Option<&[u8]> {
    Some(&message.notify(kind::ADDITIONAL_KEY_EXCHANGE)?.data)
}

fn key_exchange(kem: Kem, data: Vec<u8>) -> Payload {
    Payload::Ke(KeyExchange {
        group: kem.id(),
        data,
    })
}

/// The exchanges that follow a CREATE_CHILD_SA of ours.
pub(crate) struct FollowUp {
    private: KemPrivate,
    rest: VecDeque<Kem>,
    secrets: Vec<Secret>,
    link: Vec<u8>,
}

/// What a response to one of them comes to.
pub(crate) enum Followed {
    /// Ask on.
    More(Box<FollowUp>),
    /// All secrets are here.
    Done(Vec<Secret>),
}

impl FollowUp {
    /// After the response to CREATE_CHILD_SA.
    pub(crate) fn begin(
        additional: AdditionalKeyExchanges,
        random: &mut dyn Random,
        response: &Message,
    ) -> Result<Followed, u16> {
        Self::next(additional.methods().collect(), Vec::new(), random, response)
    }

    fn next(
        mut rest: VecDeque<Kem>,
        secrets: Vec<Secret>,
        random: &mut dyn Random,
        response: &Message,
    ) -> Result<Followed, u16> {
        let Some(kem) = rest.pop_front() else {
            return Ok(Followed::Done(secrets));
        };
        let link = link_of(response).ok_or(kind::INVALID_SYNTAX)?.to_vec();
        Ok(Followed::More(Box::new(Self {
            private: KemPrivate::generate(kem, random),
            rest,
            secrets,
            link,
        })))
    }

    /// The next request.
    pub(crate) fn request(&self) -> Vec<Payload> {
        vec![
            key_exchange(self.private.kem(), self.private.encapsulation_key()),
            Payload::Notify(Notify::new(kind::ADDITIONAL_KEY_EXCHANGE, self.link.clone())),
        ]
    }

    /// Takes the response to it.
    pub(crate) fn take(mut self, random: &mut dyn Random, response: &Message) -> Result<Followed, u16> {
        let ke = response.ke().filter(|ke| ke.group == self.private.kem().id());
        let ke = ke.ok_or(kind::INVALID_SYNTAX)?;
        let secret = self.private.decapsulate(&ke.data);
        self.secrets.push(secret.map_err(|_| kind::INVALID_SYNTAX)?);
        Self::next(self.rest, self.secrets, random, response)
    }
}

/// A CREATE_CHILD_SA of the peer that we answered, and which waits for its additional key exchanges.
pub(crate) struct Answering {
    kem: Kem,
    rest: VecDeque<Kem>,
    secrets: Vec<Secret>,
    link: [u8; 8],
    due_ms: u64,
    what: Agreed,
}

/// What is made in the end.
pub(crate) enum Agreed {
    Child(Box<AnsweredChild>),
    Rekey(Box<AnsweredRekey>),
}

impl Established {
    /// Makes what was agreed on, or waits for the additional key exchanges with that. The payload says so to the peer.
    pub(super) fn agreed(
        &mut self,
        core: &Core,
        ctx: &mut Context<'_>,
        additional: AdditionalKeyExchanges,
        what: Agreed,
    ) -> Result<Option<Payload>, Refusal> {
        let mut rest: VecDeque<Kem> = additional.methods().collect();
        let Some(kem) = rest.pop_front() else {
            what.complete(self, core, ctx, Vec::new())?;
            return Ok(None);
        };
        let mut link = [0; 8];
        ctx.random.fill(&mut link);
        self.forget_answer(ctx);
        self.answering = Some(Box::new(Answering {
            kem,
            rest,
            secrets: Vec::new(),
            link,
            due_ms: ctx.now.mono_ms.saturating_add(ANSWER_KEPT_MS),
            what,
        }));
        Ok(Some(Payload::Notify(Notify::new(
            kind::ADDITIONAL_KEY_EXCHANGE,
            link,
        ))))
    }

    /// When the peer has waited too long with an additional key exchange.
    pub(crate) fn answer_due_ms(&self) -> u64 {
        self.answering
            .as_ref()
            .map_or(u64::MAX, |answering| answering.due_ms)
    }

    /// An IKE SA that takes over is about to be made: nothing else may begin.
    pub(crate) fn is_answering_rekey(&self) -> bool {
        let what = self.answering.as_ref().map(|answering| &answering.what);
        matches!(what, Some(Agreed::Rekey(_)))
    }

    /// The peer's exchange for `old`, or any if it is `None`, came to nothing.
    pub(crate) fn forget_answer_for(&mut self, ctx: &mut Context<'_>, old: Option<ChildId>) {
        let what = self.answering.as_ref().map(|answering| &answering.what);
        let concerned = match what {
            Some(Agreed::Child(child)) => old.is_none() || child.replaces() == old,
            Some(Agreed::Rekey(_)) => old.is_none(),
            None => false,
        };
        if concerned {
            self.forget_answer(ctx);
        }
    }

    pub(crate) fn forget_answer(&mut self, ctx: &mut Context<'_>) {
        if let Some(answering) = self.answering.take() {
            answering.what.withdraw(ctx);
        }
    }
}

impl Agreed {
    fn complete(
        self,
        established: &mut Established,
        core: &Core,
        ctx: &mut Context<'_>,
        secrets: Vec<Secret>,
    ) -> Result<(), Refusal> {
        match self {
            Self::Child(child) => child.complete(established, core, ctx, secrets),
            Self::Rekey(rekey) => rekey.complete(established, core, ctx, &secrets),
        }
    }

    fn withdraw(self, ctx: &mut Context<'_>) {
        match self {
            Self::Child(child) => child.withdraw(ctx),
            Self::Rekey(_) => {}
        }
    }
}

/// Answers a request.
pub(crate) fn respond(
    established: &mut Established,
    core: &Core,
    ctx: &mut Context<'_>,
    message: &Message,
) -> Vec<Payload> {
    let answer = answer(established, core, ctx, message);
    answer.unwrap_or_else(|Refusal(notify)| vec![Payload::Notify(notify)])
}

fn answer(
    established: &mut Established,
    core: &Core,
    ctx: &mut Context<'_>,
    message: &Message,
) -> Result<Vec<Payload>, Refusal> {
    let now_ms = ctx.now.mono_ms;
    let meant = |answering: &mut Box<Answering>| {
        link_of(message) == Some(&answering.link[..]) && now_ms < answering.due_ms
    };
    let Some(mut answering) = established.answering.take_if(meant) else {
        return Err(Refusal::of(kind::STATE_NOT_FOUND));
    };
    let ke = message.ke().filter(|ke| ke.group == answering.kem.id());
    let encapsulated = ke.and_then(|ke| answering.kem.encapsulate(ctx.random, &ke.data).ok());
    let Some((ciphertext, secret)) = encapsulated else {
        answering.what.withdraw(ctx);
        return Err(Refusal::syntax());
    };
    answering.secrets.push(secret);
    let mut payloads = vec![key_exchange(answering.kem, ciphertext)];
    match answering.rest.pop_front() {
        Some(kem) => {
            let link = Notify::new(kind::ADDITIONAL_KEY_EXCHANGE, answering.link);
            payloads.push(Payload::Notify(link));
            answering.kem = kem;
            answering.due_ms = now_ms.saturating_add(ANSWER_KEPT_MS);
            established.answering = Some(answering);
        }
        None => answering
            .what
            .complete(established, core, ctx, answering.secrets)?,
    }
    Ok(payloads)
}
