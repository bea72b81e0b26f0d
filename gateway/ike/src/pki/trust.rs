//! Which certificates we believe: path validation (RFC 5280 section 6) by rustls-webpki, with the policy of IKE
//! (RFC 4945) and reasons in words.

use super::certificate::{Certificate, CertificateError};
use super::certreq::{AUTHORITY_HASH_LEN, authority_hash};
use super::credential::{CredentialError, certificates_from_pem};
use super::identity::Identity;
use super::name::DistinguishedName;
use crate::crypto::sign::PublicKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use std::time::Duration;
use webpki::{
    CertRevocationList, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, OwnedCertRevocationList,
};
use x509_parser::time::ASN1Time;

/// The most certificates beside the leaf that a peer may send. It bounds the work of building a path.
pub const INTERMEDIATES_MAX: usize = 8;

/// The authorities that peers' certificates must lead to, and what is known of revoked certificates.
pub struct TrustAnchors {
    anchors: Vec<Anchor>,
    crls: Vec<CertRevocationList<'static>>,
    policy: RevocationPolicy,
}

struct Anchor {
    certificate: Certificate,
    anchor: TrustAnchor<'static>,
}

/// What to do where no list of the issuer is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevocationPolicy {
    /// Accept certificates of issuers without a list; a list that is there must be current.
    #[default]
    WhereListed,
    /// Refuse certificates, the intermediates too, whose issuer has no current list.
    Always,
}

/// Why authorities or revocation lists were not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] CredentialError),
    /// A certificate that may not issue others.
    #[error(
        "{subject} is no certification authority: basicConstraints or keyUsage forbid it to issue certificates"
    )]
    NotAnAuthority {
        /// Its subject.
        subject: String,
    },
    /// The library's reason against a certificate.
    #[error("the certificate of {subject} cannot be a trust anchor: {reason}")]
    Anchor {
        /// Its subject.
        subject: String,
        /// What the library says.
        reason: String,
    },
    /// A revocation list that is none.
    #[error("certificate revocation list {index} of the file (counted from 1): {reason}")]
    Crl {
        /// Which list.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a peer's certificate is not believed. Each text names the certificate and the check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A certificate that cannot be read.
    #[error("certificate {index} of the peer (counted from 1): {error}")]
    Certificate {
        /// Which one.
        index: usize,
        /// What is wrong.
        error: CertificateError,
    },
    /// More than [`INTERMEDIATES_MAX`].
    #[error("the peer sent {0} certificates beside its own; at most {INTERMEDIATES_MAX} are looked at")]
    TooMany(usize),
    /// Before its time.
    #[error("the certificate of {subject} is not valid before {}", utc(*.not_before_unix_s))]
    NotYetValid {
        /// Its subject.
        subject: String,
        /// First second of validity, unix time.
        not_before_unix_s: i64,
    },
    /// After its time.
    #[error("the certificate of {subject} expired on {}", utc(*.not_after_unix_s))]
    Expired {
        /// Its subject.
        subject: String,
        /// Last second of validity, unix time.
        not_after_unix_s: i64,
    },
    /// No path to an authority that is trusted.
    #[error("the certificate of {subject} does not lead to a trusted authority: its issuer is {issuer}")]
    UnknownIssuer {
        /// The peer's subject.
        subject: String,
        /// The name that is missing.
        issuer: String,
    },
    /// A signature in the chain does not verify: another key under the authority's name, or a forgery.
    #[error("the certificate of {subject} was not signed by the trusted authority of the name {issuer}")]
    Signature {
        /// The peer's subject.
        subject: String,
        /// Its issuer.
        issuer: String,
    },
    /// The peer's certificate may not sign.
    #[error("the key usage of the certificate of {subject} allows no digital signatures")]
    KeyUsage {
        /// Its subject.
        subject: String,
    },
    /// The extended key usage has nothing for IKE.
    #[error(
        "the extended key usage in the chain of {subject} allows neither IKE nor client or server authentication"
    )]
    ExtendedKeyUsage {
        /// The peer's subject.
        subject: String,
    },
    /// A certificate of an authority in the place of the peer's own, or the reverse.
    #[error("in the chain of {subject}, {wrong}")]
    Authority {
        /// The peer's subject.
        subject: String,
        /// Which rule.
        wrong: &'static str,
    },
    /// On a revocation list.
    #[error("the certificate of {subject} (serial {serial}) or one of its issuers is revoked")]
    Revoked {
        /// The peer's subject.
        subject: String,
        /// The serial number of the peer's own certificate, in hex.
        serial: String,
    },
    /// No current revocation list.
    #[error("the revocation of the chain of {subject} is not known: {reason}")]
    RevocationUnknown {
        /// The peer's subject.
        subject: String,
        /// What is missing.
        reason: String,
    },
    /// A key that AUTH cannot be verified with.
    #[error("the certificate of {subject}: {error}")]
    Key {
        /// Its subject.
        subject: String,
        /// Which algorithm.
        error: crate::crypto::sign::KeyError,
    },
    /// Anything else the library refuses, in its words.
    #[error("the chain of {subject} is refused: {reason}")]
    Refused {
        /// The peer's subject.
        subject: String,
        /// What the library says.
        reason: String,
    },
}

/// A peer's certificate that leads to one of our authorities.
#[derive(Clone, Debug)]
pub struct VerifiedPeer {
    certificate: Certificate,
    key: PublicKey,
    authority: DistinguishedName,
}

impl VerifiedPeer {
    /// The peer's own certificate: subject, names, serial, validity, fingerprint.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The key to verify the AUTH payload with.
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// The trust anchor that the path ends at.
    pub fn authority(&self) -> &DistinguishedName {
        &self.authority
    }

    /// Whether the certificate may speak for `identity` (see [`Identity::matches_certificate`]).
    pub fn proves(&self, identity: &Identity) -> bool {
        identity.matches_certificate(&self.certificate)
    }
}

impl TrustAnchors {
    /// Loads the authorities of a PEM bundle: roots, or intermediates that shall be trusted as they are.
    ///
    /// # Errors
    /// If the bundle holds no certificate or one that is no authority.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TrustError> {
        let anchors = certificates_from_pem(pem)?
            .into_iter()
            .map(Anchor::new)
            .collect::<Result<Vec<_>, _>>()?;
        if anchors.is_empty() {
            return Err(CredentialError::Missing.into());
        }
        Ok(Self {
            anchors,
            crls: Vec::new(),
            policy: RevocationPolicy::default(),
        })
    }

    /// Replaces the revocation lists by those of a PEM file (`X509 CRL` sections).
    ///
    /// The lists must be complete ones (no deltas) that the issuer of the certificates signed. They are read
    /// here and their signatures checked at each use.
    ///
    /// # Errors
    /// If a list is unreadable; the lists then stay as they were.
    pub fn set_crls(&mut self, pem: &[u8], policy: RevocationPolicy) -> Result<(), TrustError> {
        let read = |(i, der): (
            usize,
            Result<CertificateRevocationListDer<'static>, rustls_pki_types::pem::Error>,
        )| {
            let bad = |reason: String| TrustError::Crl { index: i + 1, reason };
            let der = der.map_err(|error| bad(error.to_string()))?;
            OwnedCertRevocationList::from_der(&der)
                .map(Into::into)
                .map_err(|error| bad(error.to_string()))
        };
        let crls = CertificateRevocationListDer::pem_slice_iter(pem)
            .enumerate()
            .map(read);
        self.crls = crls.collect::<Result<_, TrustError>>()?;
        self.policy = policy;
        Ok(())
    }

    /// The authorities' certificates.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.anchors.iter().map(|anchor| &anchor.certificate)
    }

    /// What to put into a CERTREQ payload: the hashes of all authorities (RFC 7296 section 3.7).
    pub fn certreq(&self) -> Vec<u8> {
        self.certificates()
            .flat_map(|authority| authority_hash(authority.spki_der()))
            .collect()
    }

    /// Whether a hash of a received CERTREQ names one of these authorities.
    pub fn has_authority(&self, hash: &[u8; AUTHORITY_HASH_LEN]) -> bool {
        self.certificates()
            .any(|authority| authority_hash(authority.spki_der()) == *hash)
    }

    /// Validates the peer's certificate: signatures up to an authority, validity of each certificate and of the
    /// authority at `unix_s`, basic constraints, name constraints, key usages, revocation.
    ///
    /// Key usage, where present, must allow signatures. Extended key usage, where present, must hold any of ipsecIKE,
    /// the three obsolete IPsec purposes, clientAuth, serverAuth or anyExtendedKeyUsage: RFC 4945 section 5.1.3.12
    /// knows the first and last, and authorities in the field issue the others to routers.
    ///
    /// # Errors
    /// The first check that failed on the most promising path.
    pub fn verify_chain(
        &self,
        leaf: &[u8],
        intermediates: &[Vec<u8>],
        unix_s: u64,
    ) -> Result<VerifiedPeer, ChainError> {
        if intermediates.len() > INTERMEDIATES_MAX {
            return Err(ChainError::TooMany(intermediates.len()));
        }
        let peer =
            Certificate::from_der(leaf).map_err(|error| ChainError::Certificate { index: 1, error })?;
        let others = intermediates.iter().enumerate().map(|(i, der)| {
            Certificate::from_der(der).map_err(|error| ChainError::Certificate { index: i + 2, error })
        });
        let others = others.collect::<Result<Vec<_>, _>>()?;
        check_validity(&peer, unix_s)?;
        if !peer.may_sign() {
            return Err(ChainError::KeyUsage {
                subject: peer.subject().to_string(),
            });
        }
        let authority = self.build_path(&peer, &others, unix_s)?;
        let key = peer.public_key().map_err(|error| ChainError::Key {
            subject: peer.subject().to_string(),
            error,
        })?;
        Ok(VerifiedPeer {
            certificate: peer,
            key,
            authority,
        })
    }

    /// The authority at the end of a valid path.
    fn build_path(
        &self,
        peer: &Certificate,
        others: &[Certificate],
        unix_s: u64,
    ) -> Result<DistinguishedName, ChainError> {
        let explain = |error| self.explain(error, peer, others, unix_s);
        if self.crls.is_empty() && self.policy == RevocationPolicy::Always {
            // webpki checks revocation only where it has a list at all.
            return Err(explain(webpki::Error::UnknownRevocationStatus));
        }
        let leaf_der = CertificateDer::from(peer.der());
        let leaf = EndEntityCert::try_from(&leaf_der).map_err(explain)?;
        // keyUsage is no business of webpki; a certificate that may not issue others is not offered to it.
        let intermediates: Vec<_> = others
            .iter()
            .filter(|one| one.may_issue())
            .map(|one| CertificateDer::from(one.der()))
            .collect();
        // RFC 5280 gives an anchor no end of validity, operators do. An expired one would hide its successor.
        let valid = |anchor: &&Anchor| check_validity(&anchor.certificate, unix_s).is_ok();
        let anchors: Vec<_> = self
            .anchors
            .iter()
            .filter(valid)
            .map(|anchor| anchor.anchor.clone())
            .collect();
        let crls: Vec<_> = self.crls.iter().collect();
        let path = leaf
            .verify_for_usage(
                CHAIN_ALGORITHMS,
                &anchors,
                &intermediates,
                UnixTime::since_unix_epoch(Duration::from_secs(unix_s)),
                IkePurpose,
                self.revocation(&crls),
                None,
            )
            .map_err(explain)?;
        let spki = path.anchor().subject_public_key_info.as_ref();
        let subject = path.anchor().subject.as_ref();
        let chosen = self.anchors.iter().find(|one| {
            one.anchor.subject.as_ref() == subject && one.anchor.subject_public_key_info.as_ref() == spki
        });
        chosen
            .map(|anchor| anchor.certificate.subject().clone())
            .ok_or_else(|| unknown_issuer(peer, others))
    }

    fn revocation<'a>(
        &self,
        crls: &'a [&'a CertRevocationList<'a>],
    ) -> Option<webpki::RevocationOptions<'a>> {
        let status = match self.policy {
            RevocationPolicy::WhereListed => webpki::UnknownStatusPolicy::Allow,
            RevocationPolicy::Always => webpki::UnknownStatusPolicy::Deny,
        };
        let builder = webpki::RevocationOptionsBuilder::new(crls).ok()?;
        let builder = builder
            .with_depth(webpki::RevocationCheckDepth::Chain)
            .with_status_policy(status);
        Some(
            builder
                .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
                .build(),
        )
    }

    fn explain(
        &self,
        error: webpki::Error,
        peer: &Certificate,
        others: &[Certificate],
        unix_s: u64,
    ) -> ChainError {
        use webpki::Error;
        let subject = peer.subject().to_string();
        let issuer = peer.issuer().to_string();
        let authority = |wrong| ChainError::Authority {
            subject: subject.clone(),
            wrong,
        };
        match error {
            Error::UnknownIssuer => {
                // The reason may be an authority or intermediate that would fit but is out of its time.
                let related = self
                    .certificates()
                    .chain(others)
                    .filter(|one| is_issuer_in(one, peer, others));
                let expired = related.filter_map(|one| check_validity(one, unix_s).err()).next();
                expired.unwrap_or_else(|| unknown_issuer(peer, others))
            }
            Error::CertExpired { .. } | Error::CertNotValidYet { .. } => {
                let invalid = others
                    .iter()
                    .filter_map(|one| check_validity(one, unix_s).err())
                    .next();
                invalid.unwrap_or_else(|| ChainError::Refused {
                    subject,
                    reason: error.to_string(),
                })
            }
            Error::InvalidSignatureForPublicKey => ChainError::Signature { subject, issuer },
            Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
                ChainError::ExtendedKeyUsage { subject }
            }
            Error::CaUsedAsEndEntity => {
                authority("a certification authority's certificate stands for the peer itself")
            }
            Error::EndEntityUsedAsCa => authority("a certificate that is no authority issued another"),
            Error::PathLenConstraintViolated => {
                authority("an authority's path length constraint is exceeded")
            }
            Error::NameConstraintViolation => authority("a name is outside an authority's name constraints"),
            Error::CertRevoked => ChainError::Revoked {
                subject,
                serial: hex(peer.serial()),
            },
            Error::CrlExpired { .. } => ChainError::RevocationUnknown {
                subject,
                reason: "the issuer's revocation list is out of date; load a new one".to_owned(),
            },
            Error::UnknownRevocationStatus => ChainError::RevocationUnknown {
                subject,
                reason: "no revocation list of its issuer is loaded".to_owned(),
            },
            // webpki has more than fifty reasons and may get more; its own words will do for the rest.
            other => ChainError::Refused {
                subject,
                reason: other.to_string(),
            },
        }
    }
}

impl std::fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let subjects: Vec<_> = self.certificates().map(|one| one.subject().to_string()).collect();
        f.debug_struct("TrustAnchors")
            .field("anchors", &subjects)
            .field("crls", &self.crls.len())
            .finish()
    }
}

impl Anchor {
    fn new(certificate: Certificate) -> Result<Self, TrustError> {
        let subject = certificate.subject().to_string();
        if !certificate.may_issue() {
            return Err(TrustError::NotAnAuthority { subject });
        }
        let der = CertificateDer::from(certificate.der());
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| TrustError::Anchor {
                subject,
                reason: error.to_string(),
            })?
            .to_owned();
        Ok(Self { certificate, anchor })
    }
}

/// Signatures within chains: SHA-1 and RSA below 2048 bits are not among them.
const CHAIN_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P256_SHA384,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
    webpki::ring::ED25519,
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
    webpki::ring::RSA_PKCS1_2048_8192_SHA384,
    webpki::ring::RSA_PKCS1_2048_8192_SHA512,
    webpki::ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    webpki::ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    webpki::ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// The extended key usage policy of [`TrustAnchors::verify_chain`].
struct IkePurpose;

impl ExtendedKeyUsageValidator for IkePurpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        /// id-kp (1.3.6.1.5.5.7.3): serverAuth, clientAuth, ipsecEndSystem, ipsecTunnel, ipsecUser, ipsecIKE.
        const ID_KP: [usize; 8] = [1, 3, 6, 1, 5, 5, 7, 3];
        const ACCEPTED: [usize; 6] = [1, 2, 5, 6, 7, 17];
        const ANY: [usize; 5] = [2, 5, 29, 37, 0];
        let mut present = Vec::new();
        for purpose in purposes {
            let arcs = purpose?.to_decoded_oid();
            let fits = match arcs.strip_prefix(&ID_KP) {
                Some([last]) => ACCEPTED.contains(last),
                Some(_) | None => arcs == ANY,
            };
            if fits {
                return Ok(());
            }
            present.push(arcs);
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = webpki::KeyUsage::required(&[0x2b, 6, 1, 5, 5, 7, 3, 17]);
        Err(webpki::Error::RequiredEkuNotFoundContext(
            webpki::RequiredEkuNotFoundContext { required, present },
        ))
    }
}

fn check_validity(certificate: &Certificate, unix_s: u64) -> Result<(), ChainError> {
    let now = i64::try_from(unix_s).unwrap_or(i64::MAX);
    let subject = || certificate.subject().to_string();
    if now < certificate.not_before_unix_s() {
        let not_before_unix_s = certificate.not_before_unix_s();
        return Err(ChainError::NotYetValid {
            subject: subject(),
            not_before_unix_s,
        });
    }
    if now > certificate.not_after_unix_s() {
        return Err(ChainError::Expired {
            subject: subject(),
            not_after_unix_s: certificate.not_after_unix_s(),
        });
    }
    Ok(())
}

/// Whether `candidate` bears the name of the issuer of the peer or of an intermediate.
fn is_issuer_in(candidate: &Certificate, peer: &Certificate, others: &[Certificate]) -> bool {
    std::iter::once(peer)
        .chain(others)
        .any(|one| one.issuer() == candidate.subject())
}

/// Follows the names from the peer as far as the certificates at hand go.
fn unknown_issuer(peer: &Certificate, others: &[Certificate]) -> ChainError {
    let mut missing = peer.issuer();
    for _ in others {
        match others.iter().find(|one| one.subject() == missing) {
            Some(next) => missing = next.issuer(),
            None => break,
        }
    }
    ChainError::UnknownIssuer {
        subject: peer.subject().to_string(),
        issuer: missing.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn utc(unix_s: i64) -> String {
    match ASN1Time::from_timestamp(unix_s) {
        Ok(time) => {
            let time = time.to_datetime();
            let (hour, minute, second) = time.to_hms();
            format!("{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
        }
        Err(_) => format!("unix time {unix_s}"),
    }
}
