//! Messages that belong to no IKE SA, and answers that no IKE SA protects (RFC 7296 sections 1.5, 2.4, 2.5
//! and 2.21.4): sent seldom, never longer than what they answer, and believed only as a hint.

use super::*;

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
        let earned = now_ms
            .saturating_sub(self.counted_ms)
            .saturating_mul(ANSWERS_PER_S)
            / 1000;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(ANSWERS_AT_ONCE);
            self.counted_ms = now_ms;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

impl Endpoint {
    fn answer_unprotected(&mut self, path: Path, answer: &Header, kind: u16, request_len: usize) {
        let notify = Payload::Notify(Notify::new(kind, []));
        let Ok(message) = answer.message(Payload::chain(&[notify])) else {
            return;
        };
        if message.len() > request_len || !self.strays.allow(self.now.mono_ms) {
            return;
        }
        self.counters.unprotected_answers += 1;
        let mut deferred = Vec::new();
        context!(self, deferred).transmit(path, &[message]);
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
        self.answer_unprotected(path, &header, kind::INVALID_MAJOR_VERSION, message.len());
    }

    /// RFC 7296 section 2.21.4: a request for an IKE SA that is not here is answered with INVALID_IKE_SPI, its
    /// SPIs and message ID repeated; a response never.
    pub(super) fn answer_stray(&mut self, path: Path, header: &Header, message: &[u8]) {
        if header.response || header.exchange == Exchange::IkeSaInit {
            return;
        }
        let answer = Header {
            response: true,
            from_initiator: !header.from_initiator,
            next_payload: payload_type::NONE,
            ..*header
        };
        self.answer_unprotected(path, &answer, kind::INVALID_IKE_SPI, message.len());
    }

    /// RFC 7296 section 2.4: an unprotected INVALID_IKE_SPI may be forged. It changes nothing, but makes us ask
    /// whether the peer still has the IKE SA.
    pub(super) fn is_hint(&mut self, spi: u64, path: Path, header: &Header, message: &[u8]) -> bool {
        let established = matches!(self.entries.get(&spi), Some(Entry::Sa(ike_sa))
            if ike_sa.established().is_some() && ike_sa.core.path.remote == path.remote);
        if !established || header.next_payload != payload_type::NOTIFY {
            return false;
        }
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let parsed = crate::wire::Message::parse(header.next_payload, body);
        if !parsed.is_ok_and(|message| message.notify(kind::INVALID_IKE_SPI).is_some()) {
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
}
