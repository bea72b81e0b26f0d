//! Quick crash detection (RFC 6290): a peer that lost its IKE SAs proves it, so that nobody waits for timeouts.
//!
//! ```text
//!  before   maker -- QCD_TOKEN, protected ----------------------------> taker keeps it
//!  crash    maker <- a request on an IKE SA that it does not know ----- taker
//!           maker -- INVALID_IKE_SPI, QCD_TOKEN, in the clear --------> taker drops the IKE SA at once
//! ```
//! A token is a MAC over the SPIs and the maker's role, by a secret that outlives the crash. So the maker keeps
//! nothing for each IKE SA, and nobody else can make one. Both sides are makers and takers.
//!
//! **Invariant:** no token leaves for an IKE SA that is here. An attacker who knows the SPIs, and turns the flag
//! that says whose is whose, gets none: both SPIs are looked for, and the token of the other role is another.

use ring::hmac;

use crate::{
    channel::Channel,
    config::EndpointConfig,
    ike_sa::Established,
    wire::{
        Header, Message, Payload,
        notify::{Notify, kind},
        protocol,
    },
};

/// RFC 6290 section 4.1: a token has 16 to 128 octets.
const TOKEN_LEN_MIN: usize = 16;
const TOKEN_LEN_MAX: usize = 128;
/// RFC 6290 section 4.5: a maker that changes its secret may send so many tokens.
const TOKENS_MAX: usize = 4;
/// What is authenticated begins with this, so that no other use of the secret makes a token.
const LABEL: &[u8] = b"IKEv2 QCD_TOKEN";

/// The secret of the tokens that an endpoint makes. It must be the same after a crash, and no two endpoints may share
/// it: who has the one without the IKE SA answer gets the token of the other's.
#[derive(Clone)]
pub struct CrashSecret(hmac::Key);

impl CrashSecret {
    /// From random octets that the caller keeps.
    pub fn new(octets: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, octets))
    }

    /// RFC 6290 section 5.1, with the maker's role.
    fn token(&self, (spi_i, spi_r): (u64, u64), maker_is_initiator: bool) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(LABEL);
        context.update(&[u8::from(maker_is_initiator)]);
        context.update(&spi_i.to_be_bytes());
        context.update(&spi_r.to_be_bytes());
        context.sign().as_ref().to_vec()
    }
}

impl std::fmt::Debug for CrashSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CrashSecret(..)")
    }
}

/// RFC 6290 section 4.1: the notification is about the IKE SA and names no SPI.
fn notification(token: Vec<u8>) -> Payload {
    Payload::Notify(Notify {
        protocol: protocol::IKE,
        ..Notify::new(kind::QCD_TOKEN, token)
    })
}

/// Our token for an IKE SA, to go to the peer under protection; nothing if we make none.
pub(crate) fn token_for(config: &EndpointConfig, channel: &Channel) -> Option<Payload> {
    let secret = config.crash_secret.as_ref()?;
    Some(notification(secret.token(channel.spis(), channel.initiator())))
}

/// Our token for the IKE SA that a rekeying makes.
pub(crate) fn token_of(config: &EndpointConfig, spis: (u64, u64), initiator: bool) -> Option<Payload> {
    let secret = config.crash_secret.as_ref()?;
    Some(notification(secret.token(spis, initiator)))
}

/// Our token for an unknown IKE SA, which a request with this header was for.
pub(crate) fn token_for_unknown(config: &EndpointConfig, request: &Header) -> Option<Payload> {
    let secret = config.crash_secret.as_ref()?;
    let spis = (request.spi_i, request.spi_r);
    Some(notification(secret.token(spis, !request.from_initiator)))
}

/// The token of the peer that a protected message brings.
pub(crate) fn shown(message: &Message) -> Option<PeerToken> {
    tokens(message).next().map(|token| PeerToken(token.to_vec()))
}

fn tokens(message: &Message) -> impl Iterator<Item = &[u8]> {
    let all = message.notifies().filter(|notify| notify.kind == kind::QCD_TOKEN);
    all.map(|notify| notify.data.as_slice())
        .filter(|token| (TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&token.len()))
        .take(TOKENS_MAX)
}

/// What the peer would prove its crash with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PeerToken(Vec<u8>);

impl PeerToken {
    /// Whether one of the tokens in an unprotected message is it. The comparison is that of two MACs by a key of
    /// ours, whose time says nothing about the token.
    pub(crate) fn is_in(&self, message: &Message) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, LABEL);
        let own = hmac::sign(&key, &self.0);
        tokens(message).fold(false, |found, token| {
            found | hmac::verify(&key, token, own.as_ref()).is_ok()
        })
    }
}

/// Whether a message shows a token at all.
pub(crate) fn claims(message: &Message) -> bool {
    message.notify(kind::QCD_TOKEN).is_some()
}

impl Established {
    /// Takes the peer's token from a request under protection: the first after a rekeying that the peer began, or a
    /// new one (RFC 6290 sections 4.3 and 4.4).
    pub(crate) fn take_token(&mut self, config: &EndpointConfig, message: &Message) {
        if let (Some(_), Some(token)) = (&config.crash_secret, shown(message)) {
            self.peer_token = Some(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_secret_one_ike_sa_and_one_role() {
        let (secret, other) = (CrashSecret::new(&[1; 32]), CrashSecret::new(&[2; 32]));
        let token = secret.token((1, 2), false);
        assert_eq!(token, CrashSecret::new(&[1; 32]).token((1, 2), false));
        for differs in [
            other.token((1, 2), false),
            secret.token((1, 2), true),
            secret.token((2, 1), false),
            secret.token((1, 3), false),
        ] {
            assert_ne!(token, differs);
        }
        assert!((TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&token.len()));
    }

    /// RFC 6290 section 4.1.
    #[test]
    fn golden() {
        let Payload::Notify(notify) = notification(vec![0xab; 16]) else {
            panic!("no notification");
        };
        let mut out = Vec::new();
        notify.emit(&mut out);
        assert_eq!(out, [&[1, 0, 0x40, 0x23][..], &[0xab; 16]].concat());
    }

    /// RFC 6290 sections 4.1 and 4.5: any of four may be it; lengths out of bounds and a fifth are not looked at.
    #[test]
    fn any_of_four_tokens_may_be_it() {
        let token = |byte: u8, len: usize| notification(vec![byte; len]);
        let peer = PeerToken(vec![7; 32]);
        let found = |payloads: Vec<Payload>| peer.is_in(&Message(payloads));
        assert!(found(vec![token(7, 32)]));
        assert!(found(vec![
            token(1, 16),
            token(2, 32),
            token(3, 32),
            token(7, 32)
        ]));
        let five = vec![
            token(1, 16),
            token(2, 32),
            token(3, 32),
            token(4, 32),
            token(7, 32),
        ];
        assert!(!found(five));
        assert!(!found(vec![token(7, 31)]) && !found(vec![token(7, 33)]) && !found(Vec::new()));
        for len in [0, 15, 129] {
            assert!(!PeerToken(vec![7; len]).is_in(&Message(vec![token(7, len)])));
        }
    }
}
