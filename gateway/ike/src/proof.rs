//! How long the proof of an established peer holds: until the first certificate of its chain expires and there is no other in its
//! place, or until its chain is not accepted any more. Rekeying prolongs neither, since it proves nothing anew (RFC 7296
//! section 2.8).

use std::sync::Arc;

use crate::{
    config::{AuthenticatedPeer, Proof, Time},
    context::Context,
    ike_sa::{Established, IkeSa},
    output::CloseReason,
    pki::trust::{ChainError, VerifiedPeer},
};

/// When the proof ends by the monotonic clock; never for a shared key.
pub(crate) fn proof_ends_ms(peer: &AuthenticatedPeer, now: Time) -> u64 {
    let Some(verified) = peer.certificate() else {
        return u64::MAX;
    };
    // The last second of validity counts whole.
    let ends_unix_s = u64::try_from(verified.valid_until_unix_s().saturating_add(1)).unwrap_or(0);
    let left_s = ends_unix_s.saturating_sub(now.unix_s);
    now.mono_ms.saturating_add(left_s.saturating_mul(1000))
}

fn has_expired(verified: &VerifiedPeer, now: Time) -> bool {
    i64::try_from(now.unix_s).unwrap_or(i64::MAX) > verified.valid_until_unix_s()
}

impl Established {
    /// Why the IKE SA is to end now, if a certificate has expired. An authority may have been issued again since, with the
    /// same key: what is accepted still goes on. The wall clock decides; when it was set back, the deadline moves with it.
    pub(crate) fn proof_expired(&mut self, ctx: &Context<'_>) -> Option<CloseReason> {
        let now = ctx.now;
        let verified = self.peer.certificate()?;
        if has_expired(verified, now) {
            let expired = CloseReason::CertificateExpired {
                subject: verified.first_to_expire().to_string(),
                not_after_unix_s: verified.valid_until_unix_s(),
            };
            let Ok(verified) = verified.verify_again(&ctx.config.trust, now.unix_s) else {
                return Some(expired);
            };
            self.prolong(verified, now);
            return None;
        }
        if self.proof_ends_ms <= now.mono_ms {
            self.proof_ends_ms = proof_ends_ms(&self.peer, now);
        }
        None
    }

    fn prolong(&mut self, verified: VerifiedPeer, now: Time) {
        self.peer.proof = Proof::Certificate(Arc::new(verified));
        self.proof_ends_ms = proof_ends_ms(&self.peer, now);
    }

    /// Why the peer's chain is not accepted any more, if so.
    fn proof_refused(&mut self, ctx: &Context<'_>) -> Option<CloseReason> {
        let verified = self.peer.certificate()?;
        match verified.verify_again(&ctx.config.trust, ctx.now.unix_s) {
            Ok(verified) => {
                self.prolong(verified, ctx.now);
                None
            }
            Err(ChainError::RevocationUnknown { .. }) => None,
            Err(error) => Some(CloseReason::CertificateRefused(error.to_string())),
        }
    }
}

impl IkeSa {
    /// Verifies the peer's chain once more, and closes the IKE SA if it is not accepted.
    pub(crate) fn verify_peer_again(&mut self, ctx: &mut Context<'_>) {
        let refused = self
            .established_mut()
            .and_then(|established| established.proof_refused(ctx));
        if let Some(reason) = refused {
            self.close(ctx, reason);
        }
    }
}
