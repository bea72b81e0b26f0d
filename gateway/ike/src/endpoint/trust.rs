//! Trust that changes while SAs stand: new authorities and revocation lists, new shared keys, a renewed certificate of
//! ours.

use std::ops::Bound;

use super::Endpoint;
use crate::{
    config::Time,
    output::CloseReason,
    pki::{credential::Credential, trust::TrustAnchors},
    ppk::Ppks,
    shared_key::{AuthKind, SharedKeys},
};

/// Chains that are verified in one go: a few milliseconds. With ten thousand IKE SAs the messages of peers must not
/// wait until all are done.
const VERIFIED_AT_ONCE: usize = 32;

impl Endpoint {
    /// Replaces authorities and revocation lists. New peers are measured by them at once. The chains of established
    /// IKE SAs are verified again, some with each [`Self::handle_timeout`], which is due at once until all are done;
    /// whose chain is not accepted any more is closed. Where only the revocation is not known (a list that is out of
    /// date), what is established stays: a forgotten file must not take the whole network down.
    ///
    /// Answers those that were in use: to free large lists takes tens of milliseconds, for which another thread may have time.
    pub fn set_trust(&mut self, now: Time, trust: TrustAnchors) -> TrustAnchors {
        self.now = now;
        self.verified_to = Some(None);
        let before = std::mem::replace(&mut self.config.trust, trust);
        self.await_next_list();
        before
    }

    /// Authorities and revocation lists in use.
    pub fn trust(&self) -> &TrustAnchors {
        &self.config.trust
    }

    /// Replaces shared keys. IKE SAs whose peer proved itself by one that is gone or changed are closed.
    pub fn set_shared_keys(&mut self, now: Time, keys: SharedKeys) {
        self.now = now;
        let before = std::mem::replace(&mut self.config.shared_keys, keys);
        let spis: Vec<_> = self.by_id.values().copied().collect();
        for spi in spis {
            self.with_sa(Some(spi), |ike_sa, ctx| {
                let stale = ike_sa.established().is_some_and(|established| {
                    let peer = &established.peer;
                    peer.method() == AuthKind::SharedKey
                        && !before.agrees_with(&ctx.config.shared_keys, &peer.identity)
                });
                if stale {
                    ike_sa.close(ctx, CloseReason::SharedKeyChanged);
                }
            });
        }
    }

    /// Replaces post-quantum preshared keys, for the handshakes to come.
    pub fn set_ppks(&mut self, ppks: Ppks) {
        self.config.ppks = ppks;
    }

    /// Replaces our certificate and key, for the handshakes to come.
    pub fn set_credential(&mut self, credential: Credential) {
        self.config.credential = credential;
    }

    /// Our certificate and key.
    pub fn credential(&self) -> &Credential {
        &self.config.credential
    }

    /// Whether chains of established IKE SAs wait to be verified again.
    pub(super) fn is_verifying(&self) -> bool {
        self.verified_to.is_some()
    }

    /// To be called when trust is another.
    pub(super) fn await_next_list(&mut self) {
        self.next_list_unix_s = self.config.trust.next_list_unix_s(self.now.unix_s);
    }

    /// When the next revocation list is valid by the monotonic clock, if no clock is set until then.
    pub(super) fn next_list_ms(&self) -> Option<u64> {
        let left_s = self.next_list_unix_s?.saturating_sub(self.now.unix_s);
        Some(self.now.mono_ms.saturating_add(left_s.saturating_mul(1000)))
    }

    /// What stands is measured by a list whose time has come.
    pub(super) fn take_lists_that_came(&mut self) {
        if self
            .next_list_unix_s
            .is_some_and(|valid| valid <= self.now.unix_s)
        {
            self.verified_to = Some(None);
            self.await_next_list();
        }
    }

    /// Verifies the next chains again. IKE SAs are taken in the order of their age, so that one which takes over from
    /// another meanwhile comes behind it and is not missed.
    pub(super) fn verify_some_again(&mut self) {
        let Some(done) = self.verified_to else { return };
        let after = done.map_or(Bound::Unbounded, Bound::Excluded);
        let next: Vec<_> = self
            .by_id
            .range((after, Bound::Unbounded))
            .take(VERIFIED_AT_ONCE)
            .map(|(id, spi)| (*id, *spi))
            .collect();
        self.verified_to = match next.last() {
            Some((id, _)) if next.len() == VERIFIED_AT_ONCE => Some(Some(*id)),
            Some(_) | None => None,
        };
        for (_, spi) in next {
            self.with_sa(Some(spi), |ike_sa, ctx| ike_sa.verify_peer_again(ctx));
        }
    }
}
