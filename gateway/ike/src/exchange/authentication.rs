//! What both sides of IKE_AUTH prove and verify (RFC 7296 section 2.15): certificate and signature, or a shared key.

use std::net::IpAddr;
use std::sync::Arc;

use super::ike_auth::Handshake;
use crate::{
    config::{AuthenticatedPeer, Proof},
    context::Context,
    crypto::sign::VerifyError,
    pki::{identity::Identity, trust::VerifiedPeer},
    shared_key::{AuthKind, PeerSharedKey, SHARED_KEY_METHOD, SharedKey},
    wire::{
        Message, Payload,
        auth::Authentication,
        cert::{Certificate, X509_SIGNATURE, encoding_name, is_hash_and_url},
        id::Identification,
    },
};

impl Handshake {
    /// ID, CERT and AUTH payloads of ours, in the way that is agreed with the peer.
    pub(super) fn own_proof(
        &self,
        ctx: &Context<'_>,
        initiator: bool,
        peer: &Identity,
    ) -> Result<Vec<Payload>, String> {
        let agreed = ctx.config.shared_keys.get(peer);
        let shared_key = agreed.filter(|agreed| agreed.own == AuthKind::SharedKey);
        let own_identity = shared_key.and_then(|agreed| agreed.own_identity.as_ref());
        let identity = own_identity.unwrap_or(&ctx.config.local_identity);
        let id = Identification {
            kind: identity.id_type(),
            data: identity.data(),
        };
        let octets = self.signed_octets(initiator, &id);
        let mut payloads = vec![if initiator {
            Payload::IdI(id)
        } else {
            Payload::IdR(id)
        }];
        match shared_key {
            Some(agreed) => payloads.push(Payload::Auth(Authentication {
                method: SHARED_KEY_METHOD,
                data: agreed.key.authenticate(self.prf, &octets),
            })),
            None => payloads.extend(self.signature(ctx, &octets)?),
        }
        Ok(payloads)
    }

    /// Our certificates, and the signature.
    fn signature(&self, ctx: &Context<'_>, octets: &[u8]) -> Result<Vec<Payload>, String> {
        let credential = &ctx.config.credential;
        let key = credential.key();
        let scheme = key.choose(&self.peer_hashes).map_err(|error| error.to_string())?;
        let data = key.sign(scheme, octets).map_err(|error| error.to_string())?;
        let certificates = credential.chain().map(|certificate| {
            Payload::Cert(Certificate {
                encoding: X509_SIGNATURE,
                data: certificate.der().to_vec(),
            })
        });
        let auth = Payload::Auth(Authentication {
            method: scheme.method().id(),
            data,
        });
        Ok(certificates.chain([auth]).collect())
    }

    /// Verifies what the peer proves itself with: in the way that is agreed for the identity it claims, and in no
    /// other. The reason of a refusal is for our log; the peer learns AUTHENTICATION_FAILED, whatever it was.
    pub(super) fn verify(
        &self,
        ctx: &Context<'_>,
        message: &Message,
        id: &Identification,
        by_initiator: bool,
        source: IpAddr,
    ) -> Result<AuthenticatedPeer, String> {
        let identity = Identity::from_wire(id.kind, &id.data).map_err(|error| error.to_string())?;
        let auth = message
            .auth()
            .ok_or("it sent no AUTH payload: EAP is not offered here")?;
        let octets = self.signed_octets(by_initiator, id);
        let agreed = ctx.config.shared_keys.get_key_value(&identity);
        if auth.method == SHARED_KEY_METHOD {
            return self.verify_shared_key(agreed, &octets, auth);
        }
        if agreed.is_some_and(|(_, agreed)| agreed.peer == AuthKind::SharedKey) {
            return Err(format!(
                "it is to prove itself by its shared key, and came with authentication method {} and a certificate",
                auth.method
            ));
        }
        let verified = verify_certificates(ctx, message)?;
        if !verified.proves(&identity) {
            return Err(does_not_speak_for(&verified, &identity));
        }
        check_source(ctx, &identity, source)?;
        let signed = verified.public_key().verify(auth.method, &octets, &auth.data);
        signed.map_err(|error: VerifyError| {
            let subject = verified.certificate().subject();
            format!("its signature with the key of the certificate of {subject}: {error}")
        })?;
        // One spelling for each peer, however it wrote its name this time: sites and SAs are found by it.
        let identity = match identity {
            Identity::Dn(_) => Identity::Dn(verified.certificate().subject().clone()),
            other => other.folded(),
        };
        Ok(AuthenticatedPeer {
            identity,
            proof: Proof::Certificate(Arc::new(verified)),
        })
    }

    /// One MAC is computed and compared whoever claims to be there, so that the time of a refusal does not tell a
    /// configured identity from another.
    fn verify_shared_key(
        &self,
        agreed: Option<(&Identity, &PeerSharedKey)>,
        octets: &[u8],
        auth: &Authentication,
    ) -> Result<AuthenticatedPeer, String> {
        let Some((identity, agreed)) = agreed.filter(|(_, agreed)| agreed.peer == AuthKind::SharedKey) else {
            SharedKey::pretend_to_verify(self.prf, octets, &auth.data);
            return Err(
                "it came with a shared key, and none is configured for this identity to use".to_owned(),
            );
        };
        match agreed.key.verify(self.prf, octets, &auth.data) {
            true => Ok(AuthenticatedPeer {
                identity: identity.clone(),
                proof: Proof::SharedKey,
            }),
            false => Err("its shared key is not the one configured for it".to_owned()),
        }
    }
}

/// The chain that the peer's CERT payloads form. RFC 7296 section 3.6: the first is the peer's own, the others are in
/// any order. Encodings that would make us fetch something are refused by name: we announced no
/// HTTP_CERT_LOOKUP_SUPPORTED, and a gateway that follows a stranger's URL is a tool of the stranger.
fn verify_certificates(ctx: &Context<'_>, message: &Message) -> Result<VerifiedPeer, String> {
    let mut certificates = Vec::new();
    let mut other = None;
    for payload in &message.0 {
        match payload {
            Payload::Cert(certificate) if certificate.encoding == X509_SIGNATURE => {
                certificates.push(certificate.data.clone());
            }
            Payload::Cert(certificate) if is_hash_and_url(certificate.encoding) => {
                return Err(format!(
                    "it sent its certificate as {} (encoding {}), which is never fetched; let it send the certificate itself",
                    encoding_name(certificate.encoding),
                    certificate.encoding
                ));
            }
            Payload::Cert(certificate) => other = Some(certificate.encoding),
            _ => {}
        }
    }
    let Some((leaf, intermediates)) = certificates.split_first() else {
        return Err(match other {
            Some(encoding) => format!(
                "it sent no X.509 certificate (encoding {X509_SIGNATURE}), but {} (encoding {encoding})",
                encoding_name(encoding)
            ),
            None => "it sent no X.509 certificate".to_owned(),
        });
    };
    ctx.config
        .trust
        .verify_chain(leaf, intermediates, ctx.now.unix_s)
        .map_err(|error| error.to_string())
}

fn does_not_speak_for(verified: &VerifiedPeer, identity: &Identity) -> String {
    let certificate = verified.certificate();
    let subject = certificate.subject();
    match identity {
        Identity::KeyId(_) => format!(
            "its certificate ({subject}) does not speak for the key id {identity}, and none can: give the site a shared key or another identity"
        ),
        Identity::Ipv4(_) | Identity::Ipv6(_) | Identity::Fqdn(_) | Identity::Email(_) | Identity::Dn(_) => {
            let named: Vec<_> = certificate.identities().map(|one| one.to_string()).collect();
            format!(
                "its certificate ({subject}) does not speak for the identity {identity}; it does for {}",
                named.join("; ")
            )
        }
    }
}

/// RFC 4945 section 3.1.1: an address as an identity is that of the sender, unless the operator waives it.
fn check_source(ctx: &Context<'_>, identity: &Identity, source: IpAddr) -> Result<(), String> {
    let claimed = match identity {
        Identity::Ipv4(address) => IpAddr::V4(*address),
        Identity::Ipv6(address) => IpAddr::V6(*address),
        Identity::Fqdn(_) | Identity::Email(_) | Identity::Dn(_) | Identity::KeyId(_) => return Ok(()),
    };
    if claimed == source || !ctx.config.address_identity_is_source {
        return Ok(());
    }
    Err(format!(
        "its identity is the address {claimed}, but it sends from {source} (RFC 4945 section 3.1.1; address_identity_is_source = false waives this)"
    ))
}
