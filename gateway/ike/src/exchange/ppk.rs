//! The part of post-quantum preshared keys (RFC 8784 section 3) in IKE_AUTH.
//!
//! | initiator sends | responder | |
//! |---|---|---|
//! | PPK_IDENTITY, AUTH by the mixed keys | has that key | answers with PPK_IDENTITY, mixed keys on both sides |
//! | the same with NO_PPK_AUTH, AUTH by the keys before | has not, and needs none | answers without, keys as before |
//! | anything less than is required of it | | AUTHENTICATION_FAILED |

use std::borrow::Cow;

use super::ike_auth::Handshake;
use crate::{
    context::Context,
    keys::Secret,
    pki::identity::Identity,
    ppk::Ppk,
    wire::{
        Message, Payload,
        auth::Authentication,
        notify::{Notify, kind},
    },
};

/// The keys before a preshared key was mixed in.
pub(super) struct Unmixed {
    sk_d: Secret,
    sk_pi: Secret,
    sk_pr: Secret,
}

/// What became of the preshared key on the initiator's side.
#[derive(Default)]
pub(super) enum Mixing {
    /// There is none.
    #[default]
    None,
    /// It is mixed in, and nothing else will do.
    Required,
    /// It is mixed in; these are the keys if the responder has it not.
    Optional(Unmixed),
}

/// A preshared key is required of the peer, and is not in the keys.
pub(super) fn lacks_ppk(ctx: &Context<'_>, in_use: bool, peer: &Identity) -> bool {
    !in_use && ctx.config.ppks.get(peer).is_some_and(|ppk| ppk.is_required())
}

impl Handshake {
    fn mix(&mut self, ppk: &Ppk) -> Result<Unmixed, String> {
        let mix = |key: &Secret| {
            ppk.mix(self.prf, key)
                .map_err(|error| format!("the post-quantum preshared key: {error}"))
        };
        let (sk_d, sk_pi, sk_pr) = (mix(&self.sk_d)?, mix(&self.sk_pi)?, mix(&self.sk_pr)?);
        Ok(Unmixed {
            sk_d: std::mem::replace(&mut self.sk_d, sk_d),
            sk_pi: std::mem::replace(&mut self.sk_pi, sk_pi),
            sk_pr: std::mem::replace(&mut self.sk_pr, sk_pr),
        })
    }

    /// The initiator, before it proves itself: mixes the key in, if there is one that the responder may have. What
    /// IKE_AUTH says of it.
    pub(super) fn begin_mixing(
        &mut self,
        ctx: &Context<'_>,
        peer: &Identity,
    ) -> Result<(Mixing, Vec<Payload>), String> {
        let ppk = ctx.config.ppks.get(peer).filter(|_| self.resumed.is_none());
        let Some(ppk) = ppk else {
            return Ok((Mixing::None, Vec::new()));
        };
        if !self.said.ppk {
            return match ppk.is_required() {
                true => Err(
                    "a post-quantum preshared key is required, and the peer knows none (no USE_PPK)"
                        .to_owned(),
                ),
                false => Ok((Mixing::None, Vec::new())),
            };
        }
        let mut payloads = vec![Payload::Notify(ppk.identity())];
        if ppk.is_required() {
            self.mix(ppk)?;
            return Ok((Mixing::Required, payloads));
        }
        let proof = self.own_proof(ctx, true, peer)?;
        let auth = proof.into_iter().find_map(|payload| match payload {
            Payload::Auth(auth) => Some(auth.data),
            _ => None,
        });
        payloads.extend(auth.map(|data| Payload::Notify(Notify::new(kind::NO_PPK_AUTH, data))));
        Ok((Mixing::Optional(self.mix(ppk)?), payloads))
    }

    /// The initiator, when the responder has answered; whether the key is in use. What is required of the responder counts as
    /// it is now.
    pub(super) fn end_mixing(
        &mut self,
        ctx: &Context<'_>,
        peer: &Identity,
        mixing: Mixing,
        answer: &Message,
    ) -> Result<bool, String> {
        let taken = answer.notify(kind::PPK_IDENTITY).is_some();
        let in_use = match mixing {
            Mixing::None => self.has_ppk(),
            Mixing::Required | Mixing::Optional(_) if taken => true,
            Mixing::Required => {
                return Err("it answered without the post-quantum preshared key that is required".to_owned());
            }
            Mixing::Optional(Unmixed { sk_d, sk_pi, sk_pr }) => {
                (self.sk_d, self.sk_pi, self.sk_pr) = (sk_d, sk_pi, sk_pr);
                false
            }
        };
        if lacks_ppk(ctx, in_use, peer) {
            return Err(
                "a post-quantum preshared key is required of it by now, and is not in the keys".to_owned(),
            );
        }
        Ok(in_use)
    }

    /// The responder, before it verifies the initiator: mixes the key in if the initiator used the one that is
    /// configured for who it says it is. The message with the AUTH payload that counts, and what is answered.
    pub(super) fn answer_mixing<'a>(
        &mut self,
        ctx: &Context<'_>,
        message: &'a Message,
    ) -> Result<(Cow<'a, Message>, Option<Payload>), String> {
        // What a session is resumed with was mixed in when it began.
        if self.resumed.is_some() {
            return Ok((Cow::Borrowed(message), None));
        }
        let claimed = message
            .id_i()
            .and_then(|id| Identity::from_wire(id.kind, &id.data).ok());
        let ppk = claimed.and_then(|claimed| ctx.config.ppks.get(&claimed));
        let agreed = self.said.ppk && !ctx.config.ppks.is_empty();
        let named = message.notify(kind::PPK_IDENTITY).filter(|_| agreed);
        match (named, ppk) {
            (Some(named), Some(ppk)) if ppk.is_named_by(named) => {
                self.mix(ppk)?;
                let taken = Payload::Notify(Notify::new(kind::PPK_IDENTITY, []));
                Ok((Cow::Borrowed(message), Some(taken)))
            }
            (Some(_), Some(ppk)) if ppk.is_required() => Err(
                "it names another post-quantum preshared key than the one that is required of it".to_owned(),
            ),
            (None, Some(ppk)) if ppk.is_required() => {
                Err("it came without the post-quantum preshared key that is required of it".to_owned())
            }
            (None, _) => Ok((Cow::Borrowed(message), None)),
            (Some(_), _) => without_ppk(message).map(|message| (Cow::Owned(message), None)),
        }
    }
}

/// The message with AUTH as it would be without the preshared key, if the initiator leaves the choice.
fn without_ppk(message: &Message) -> Result<Message, String> {
    let data = message
        .notify(kind::NO_PPK_AUTH)
        .map(|notify| notify.data.clone())
        .ok_or("it names a post-quantum preshared key that is not configured for it, and insists on it")?;
    let mut message = message.clone();
    for payload in &mut message.0 {
        if let Payload::Auth(Authentication { data: auth, .. }) = payload {
            auth.clone_from(&data);
        }
    }
    Ok(message)
}
