//! Everything known of one IKE SA, for people.

use super::*;
use crate::{
    output::{CertificateDetails, ChildSaDetails, IkeSaDetails},
    pki::trust::VerifiedPeer,
};

impl IkeSa {
    /// What [`IkeSa::info`] has no room for; `None` before the peer is authenticated.
    pub(crate) fn details(&self, config: &EndpointConfig, now_ms: u64) -> Option<IkeSaDetails> {
        let established = self.established()?;
        let in_s = |at_ms: u64| (at_ms != u64::MAX).then(|| at_ms.saturating_sub(now_ms) / 1000);
        Some(IkeSaDetails {
            local_identity: config.local_identity.to_string(),
            nat_local: self.core.nat.local,
            nat_remote: self.core.nat.remote,
            connection: established.connection.as_deref().map(str::to_owned),
            authenticated_by: established.peer.method(),
            ppk: established.ppk,
            certificate: established.peer.certificate().map(certificate),
            heard_before_s: now_ms.saturating_sub(established.last_heard_ms) / 1000,
            rekey_in_s: in_s(established.rekey_at_ms),
            reauthenticate_in_s: in_s(established.reauth_at_ms),
            expire_in_s: in_s(established.expire_at_ms),
            waits_for_peer: established.outstanding.is_some(),
            children: established
                .children
                .iter()
                .map(|child| ChildSaDetails {
                    id: child.id,
                    sends: child.outbound_active,
                    phase: match child.phase {
                        Phase::Live => "live",
                        Phase::Replaced => "replaced",
                        Phase::Deleting => "closing",
                    },
                    rekey_in_s: in_s(child.rekey_at_ms),
                    expire_in_s: in_s(child.expire_at_ms),
                    unused_for_s: now_ms.saturating_sub(child.last_used_ms) / 1000,
                })
                .collect(),
        })
    }
}

fn certificate(verified: &VerifiedPeer) -> CertificateDetails {
    let certificate = verified.certificate();
    CertificateDetails {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        serial: certificate.serial().to_vec(),
        not_before_unix_s: certificate.not_before_unix_s(),
        not_after_unix_s: certificate.not_after_unix_s(),
        chain_valid_until_unix_s: verified.valid_until_unix_s(),
        authority: verified.authority().to_string(),
    }
}
