//! Messages that belong to no IKE SA, and answers that no IKE SA protects (RFC 7296 sections 1.5, 2.4, 2.5
//! and 2.21.4): sent seldom, never longer than what they answer, and believed only as a hint.

use super::*;
use crate::crash;

/// Unprotected answers a second at most, over all sources; and so many at once after a quiet time.
const ANSWERS_PER_S: u64 = 20;
const ANSWERS_AT_ONCE: u64 = 40;

/// How many unprotected answers may be sent just now.
#[derive(Debug)]
pub(super) struct Strays {
    left: u64,
    counted_ms: u64,
}

impl Default for Strays {
    fn default() -> Self {
        Self {
            left: ANSWERS_AT_ONCE,
            counted_ms: 0,
        }
    }
}

impl Strays {
    /// Takes one answer from the allowance.
    fn allow(&mut self, now_ms: u64) -> bool {
        let allowed = self.allows(now_ms);
        self.left = self.left.saturating_sub(1);
        allowed
    }

    /// Whether there is one left.
    fn allows(&mut self, now_ms: u64) -> bool {
        let earned = now_ms
            .saturating_sub(self.counted_ms)
            .saturating_mul(ANSWERS_PER_S)
            / 1000;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(ANSWERS_AT_ONCE);
            self.counted_ms = now_ms;
        }
        self.left > 0
    }
}

impl Endpoint {
    /// False when it would be longer than the request, or is one too many.
    fn answer_unprotected(
        &mut self,
        path: Path,
        answer: &Header,
        payloads: &[Payload],
        request_len: usize,
    ) -> bool {
        let Ok(message) = answer.message(Payload::chain(payloads)) else {
            return false;
        };
        if message.len() > request_len || !self.strays.allow(self.now.mono_ms) {
            return false;
        }
        self.counters.unprotected_answers += 1;
        let mut deferred = Vec::new();
        context!(self, deferred).transmit(path, &[message]);
        true
    }

    /// RFC 7296 section 2.5: tells a later version's initiator which version this is.
    pub(super) fn refuse_version(&mut self, path: Path, version: u8, message: &[u8]) {
        self.counters.unsupported_version += 1;
        let is_response = message.get(19).is_none_or(|flags| flags & 0x20 != 0);
        let spi_i = message
            .first_chunk::<8>()
            .map(|bytes| u64::from_be_bytes(*bytes))
            .unwrap_or(0);
        if version >> 4 < 2 || is_response || spi_i == 0 {
            return;
        }
        let header = Header {
            spi_i,
            spi_r: 0,
            next_payload: payload_type::NONE,
            exchange: Exchange::IkeSaInit,
            from_initiator: false,
            response: true,
            message_id: 0,
        };
        let notify = Payload::Notify(Notify::new(kind::INVALID_MAJOR_VERSION, []));
        self.answer_unprotected(path, &header, &[notify], message.len());
    }

    /// RFC 7296 section 2.21.4: a request for an IKE SA that is not here is answered with INVALID_IKE_SPI, its
    /// SPIs and message ID repeated; a response never.
    pub(super) fn answer_stray(&mut self, path: Path, header: &Header, message: &[u8]) {
        if header.response || matches!(header.exchange, Exchange::IkeSaInit | Exchange::IkeSessionResume) {
            return;
        }
        let answer = Header {
            response: true,
            from_initiator: !header.from_initiator,
            next_payload: payload_type::NONE,
            ..*header
        };
        let invalid = Payload::Notify(Notify::new(kind::INVALID_IKE_SPI, []));
        if let Some(token) = self.crash_token(header) {
            let both = [invalid.clone(), token];
            if self.answer_unprotected(path, &answer, &both, message.len()) {
                self.counters.crash_tokens_sent += 1;
                return;
            }
        }
        self.answer_unprotected(path, &answer, &[invalid], message.len());
    }

    /// RFC 6290 section 4.5: our proof that the IKE SA of a protected request is not here, and will not be, whichever of
    /// its SPIs were ours. All IKE SAs are looked through, but only as often as an answer may be sent.
    fn crash_token(&mut self, header: &Header) -> Option<Payload> {
        let protected = matches!(header.next_payload, payload_type::SK | payload_type::SKF);
        let known = [header.spi_i, header.spi_r]
            .iter()
            .any(|spi| self.entries.contains_key(spi));
        let possible = protected && header.spi_r != 0 && !known && self.config.crash_secret.is_some();
        let lost = possible && self.strays.allows(self.now.mono_ms) && !self.may_yet_have(header);
        crash::token_for_unknown(&self.config, header).filter(|_| lost)
    }

    /// The peer has answered our rekeying and uses the new IKE SA, before we have its answer.
    fn may_yet_have(&self, header: &Header) -> bool {
        let spis = [header.spi_i, header.spi_r];
        self.entries.values().any(|entry| match entry {
            Entry::Sa(ike_sa) => ike_sa
                .established()
                .is_some_and(|established| established.may_yet_have(spis)),
            Entry::Initiating(_) => false,
        })
    }

    /// RFC 7296 section 2.4: an unprotected INVALID_IKE_SPI may be forged. It changes nothing, but makes us ask
    /// whether the peer still has the IKE SA; unless the peer's token is with it, which nobody else has (RFC 6290).
    pub(super) fn is_hint(&mut self, spi: u64, path: Path, header: &Header, message: &[u8]) -> bool {
        let established = matches!(self.entries.get(&spi), Some(Entry::Sa(ike_sa))
            if ike_sa.established().is_some() && ike_sa.core.path.remote == path.remote);
        if !established || header.next_payload != payload_type::NOTIFY {
            return false;
        }
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let parsed = crate::wire::Message::parse(header.next_payload, body);
        let Ok(parsed) = parsed else { return false };
        if crash::claims(&parsed) && self.is_lost(spi, header, &parsed) {
            return true;
        }
        if parsed.notify(kind::INVALID_IKE_SPI).is_none() {
            return false;
        }
        self.counters.hints += 1;
        self.with_sa(Some(spi), |ike_sa, ctx| {
            if let Some(established) = ike_sa.established_mut() {
                established.suspect(ctx.now.mono_ms);
            }
            ike_sa.pump(ctx);
        });
        true
    }

    /// The peer has proved that it lost the IKE SA: it goes at once.
    fn is_lost(&mut self, spi: u64, header: &Header, message: &crate::wire::Message) -> bool {
        let proven = matches!(self.entries.get(&spi), Some(Entry::Sa(ike_sa))
            if ike_sa.core.channel.spis() == (header.spi_i, header.spi_r)
                && ike_sa
                    .established()
                    .and_then(|established| established.peer_token.as_ref())
                    .is_some_and(|token| token.is_in(message)));
        if !proven {
            self.counters.crash_tokens_refused += 1;
            return false;
        }
        self.counters.crash_tokens_accepted += 1;
        self.with_sa(Some(spi), |ike_sa, ctx| ike_sa.lost_by_peer(ctx));
        true
    }
}
