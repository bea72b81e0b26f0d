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
        if self.resumed.is_some() {
            let auth = self.resumed_auth(initiator, &octets);
            let id = if initiator {
                Payload::IdI(id)
            } else {
                Payload::IdR(id)
            };
            return Ok(vec![id, auth]);
        }
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
        if let Some(resumed) = &self.resumed {
            return self.verify_resumed(ctx, resumed, (&identity, source), (auth, &octets, by_initiator));
        }
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
pub(super) fn check_source(ctx: &Context<'_>, identity: &Identity, source: IpAddr) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;
    use crate::{
        config::{EndpointConfig, Time},
        context::{Allocator, Neighbours},
        counters::Counters,
        crypto::random::SystemRandom,
        exchange::ike_auth::tests::{Nobody, handshake},
        pki::{credential::Credential, trust::TrustAnchors},
    };

    fn config() -> EndpointConfig {
        let credential = Credential::from_pem(
            include_bytes!("../../tests/data/ec-leaf.crt"),
            include_bytes!("../../tests/data/ec-leaf.key"),
        );
        EndpointConfig::new(
            credential.unwrap(),
            identity("site1.lab.test"),
            TrustAnchors::from_pem(include_bytes!("../../tests/data/ec-ca.crt")).unwrap(),
            Box::new(Nobody),
        )
    }

    fn identity(text: &str) -> Identity {
        text.parse().unwrap()
    }

    fn in_context<T>(config: &EndpointConfig, act: impl FnOnce(&Context<'_>) -> T) -> T {
        act(&Context {
            config,
            now: Time {
                mono_ms: 0,
                unix_s: 1_798_761_600,
            },
            random: &mut SystemRandom::new(),
            outputs: &mut VecDeque::new(),
            allocator: &mut Allocator::default(),
            counters: &mut Counters::default(),
            lingering: &mut BTreeSet::new(),
            deferred: &mut Vec::new(),
            neighbours: Neighbours::default(),
            tickets: &mut Default::default(),
            allowances: &mut Default::default(),
            networks: &mut Default::default(),
        })
    }

    /// What the initiator `site1.lab.test` sends, with `change` done to it, as the responder sees it.
    fn verified(
        config: &EndpointConfig,
        change: impl FnOnce(&mut Vec<Payload>),
    ) -> Result<AuthenticatedPeer, String> {
        in_context(config, |ctx| {
            let mut payloads = handshake().own_proof(ctx, true, &identity("gw.lab.test"))?;
            change(&mut payloads);
            let message = Message(payloads);
            let id = message.id_i().unwrap().clone();
            handshake().verify(ctx, &message, &id, true, "192.0.2.1".parse().unwrap())
        })
    }

    fn certificate(encoding: u8) -> Payload {
        Payload::Cert(Certificate {
            encoding,
            data: b"\0http://192.0.2.66/certificate".to_vec(),
        })
    }

    /// RFC 7296 section 3.6: encodings 12 and 13 are for those who were told HTTP_CERT_LOOKUP_SUPPORTED. There is
    /// nothing here that fetches: the endpoint puts out datagrams of IKE and no more.
    #[test]
    fn hash_and_url_is_refused_by_name() {
        for encoding in [12, 13] {
            for place in [1, 2] {
                let error = verified(&config(), |payloads| {
                    payloads.insert(place, certificate(encoding))
                });
                let error = error.unwrap_err();
                assert!(
                    error.starts_with("it sent its certificate as hash and URL of a"),
                    "{error}"
                );
                assert!(
                    error.contains(&format!("(encoding {encoding}), which is never fetched")),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn certificates_of_other_encodings_are_no_help_and_no_harm() {
        // A revocation list and an OCSP response that the peer sends along are not used.
        for encoding in [7, 14] {
            assert!(verified(&config(), |payloads| payloads.push(certificate(encoding))).is_ok());
        }
        let in_place = |encoding: Option<u8>| {
            verified(&config(), |payloads| {
                payloads.retain(|payload| !matches!(payload, Payload::Cert(_)));
                payloads.extend(encoding.map(certificate));
            })
            .unwrap_err()
        };
        assert_eq!(
            in_place(Some(1)),
            "it sent no X.509 certificate (encoding 4), but a PKCS #7 wrapped certificate (encoding 1)"
        );
        assert!(in_place(Some(15)).contains("a raw public key"));
        assert_eq!(in_place(None), "it sent no X.509 certificate");
        let error = verified(&config(), |payloads| {
            payloads.retain(|one| !matches!(one, Payload::Auth(_)))
        });
        assert!(error.unwrap_err().contains("EAP"));
    }

    /// RFC 7296 section 3.6 and 3.8: whole certificates only; none with a shared key.
    #[test]
    fn what_we_send() {
        let kinds = |config: &EndpointConfig| {
            in_context(config, |ctx| {
                let payloads = handshake()
                    .own_proof(ctx, false, &identity("site9.lab.test"))
                    .unwrap();
                let kind = |payload: &Payload| match payload {
                    Payload::IdR(_) => "IDr".to_owned(),
                    Payload::Cert(certificate) => format!("CERT {}", certificate.encoding),
                    Payload::Auth(auth) => format!("AUTH {}", auth.method),
                    other => format!("{other:?}"),
                };
                payloads.iter().map(kind).collect::<Vec<_>>()
            })
        };
        assert_eq!(kinds(&config()), ["IDr", "CERT 4", "AUTH 9"]);
        let mut shared = config();
        shared
            .shared_keys
            .insert(identity("site9.lab.test"), shared_key());
        assert_eq!(kinds(&shared), ["IDr", "AUTH 2"]);
    }

    fn shared_key() -> PeerSharedKey {
        PeerSharedKey {
            key: SharedKey::from_text(b"0x000102030405060708090a0b0c0d0e0f").unwrap(),
            peer: AuthKind::SharedKey,
            own: AuthKind::SharedKey,
            own_identity: None,
        }
    }

    /// RFC 7296 section 2.15: a MAC of a shared key covers what a signature covers.
    #[test]
    fn a_shared_key_proves_for_one_handshake_only() {
        let mut config = config();
        for peer in ["gw.lab.test", "site1.lab.test"] {
            config.shared_keys.insert(identity(peer), shared_key());
        }
        assert!(verified(&config, |_| {}).is_ok());
        in_context(&config, |ctx| {
            let message = Message(
                handshake()
                    .own_proof(ctx, true, &identity("gw.lab.test"))
                    .unwrap(),
            );
            let id = message.id_i().unwrap().clone();
            let source = "192.0.2.1".parse().unwrap();
            assert!(
                handshake().verify(ctx, &message, &id, false, source).is_err(),
                "reflected"
            );
            let others: [fn(&mut Handshake); 3] = [
                |one| one.nonce_r[0] = 9,
                |one| one.init_request[0] = 9,
                |one| one.sk_pi[0] = 9,
            ];
            for change in others {
                let mut other = handshake();
                change(&mut other);
                assert!(other.verify(ctx, &message, &id, true, source).is_err());
            }
        });
        for at in [0, 31] {
            let error = verified(&config, |payloads| {
                if let Some(Payload::Auth(auth)) = payloads.last_mut() {
                    auth.data[at] ^= 1;
                }
            });
            assert!(error.is_err());
        }
    }
}
