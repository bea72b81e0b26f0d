//! Which certificates we believe: path validation (RFC 5280 section 6) by rustls-webpki, with the policy of IKE
//! (RFC 4945) and reasons in words.

use super::certificate::Certificate;
use super::certreq::{AUTHORITY_HASH_LEN, authority_hash};
use super::credential::{CredentialError, certificates_from_pem};
pub use super::error::{ChainError, TrustError};
use super::identity::Identity;
use super::lists::{Key, RevocationLists};
use super::name::DistinguishedName;
use super::name_constraints::{NameConstraints, has_own_forms, without_own_forms};
use super::revocation::RevocationList;
pub use super::revocation::RevocationPolicy;
use super::signature_memory::{Remembered, SignatureMemory};
use crate::crypto::sign::PublicKey;
use rustls_pki_types::{CertificateDer, Der, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};

/// The most certificates beside the leaf that a peer may send. It bounds the work of building a path.
pub const INTERMEDIATES_MAX: usize = 8;
/// The most of them that bear one name: an authority's certificate, and the one that follows it. Every order of those that
/// may have issued each other is a path to try, and who sends them has proved nothing yet.
pub const SAME_SUBJECT_MAX: usize = 2;

/// The authorities that peers' certificates must lead to, and what is known of revoked certificates.
pub struct TrustAnchors {
    anchors: Vec<Anchor>,
    lists: RevocationLists,
    signatures: SignatureMemory,
}

struct Anchor {
    certificate: Certificate,
    anchor: TrustAnchor<'static>,
    names: NameConstraints,
}

/// A peer's certificate that leads to one of our authorities.
#[derive(Clone, Debug)]
pub struct VerifiedPeer {
    certificate: Certificate,
    key: PublicKey,
    authority: DistinguishedName,
    /// The intermediates of the path, from the peer's issuer on.
    path: Vec<Vec<u8>>,
    valid_until_unix_s: i64,
    first_to_expire: DistinguishedName,
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

    /// Last second in which the whole path is valid, unix time: the earliest end of validity among the peer's
    /// certificate, the intermediates and the authority. What was authenticated by it ends with it.
    pub fn valid_until_unix_s(&self) -> i64 {
        self.valid_until_unix_s
    }

    /// The subject of the certificate of the path that expires first.
    pub fn first_to_expire(&self) -> &DistinguishedName {
        &self.first_to_expire
    }

    /// Validates the path again, after authorities or revocation lists changed.
    ///
    /// # Errors
    /// Why it would not be accepted now.
    pub fn verify_again(&self, trust: &TrustAnchors, unix_s: u64) -> Result<Self, ChainError> {
        trust.verify_chain(self.certificate.der(), &self.path, unix_s)
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
            lists: RevocationLists::default(),
            signatures: SignatureMemory::default(),
        })
    }

    /// Replaces the revocation lists by those of a file (see [`RevocationList::read_file`]).
    ///
    /// # Errors
    /// If a list is unreadable, or see [`Self::check_signer`]; the lists then stay as they were.
    pub fn set_crls(&mut self, file: &[u8], policy: RevocationPolicy) -> Result<(), TrustError> {
        let lists = RevocationList::read_file(file)?;
        lists.iter().try_for_each(|list| self.check_signer(list))?;
        self.set_revocation(lists, policy);
        Ok(())
    }

    /// That a list which bears the name of one of these authorities is signed by it: otherwise it is damaged or somebody else's,
    /// and would say nothing of anybody. A list of an intermediate's name shows when chains come. That takes long with a
    /// long list, and is remembered with it.
    ///
    /// # Errors
    /// [`TrustError::NotItsList`].
    pub fn check_signer(&self, list: &RevocationList) -> Result<(), TrustError> {
        let mut keys = self.keys_of(list.issuer()).peekable();
        if keys.peek().is_none() || keys.any(|key| list.is_signed_by(key)) {
            return Ok(());
        }
        Err(TrustError::NotItsList {
            issuer: list.issuer().to_string(),
            this_update_unix_s: list.this_update_unix_s(),
        })
    }

    /// Replaces the revocation lists. They must be complete ones (no deltas) that the issuer of the certificates
    /// signed: for a certificate those decide that are for it and signed by its issuer's key, the newest of each distribution
    /// point. Where lists bear the issuer's name and none is signed by the key, the revocation is not known.
    pub fn set_revocation(&mut self, lists: Vec<RevocationList>, policy: RevocationPolicy) {
        let lists = lists.into_iter().map(Arc::new).collect();
        self.lists = RevocationLists::new(lists, policy);
    }

    /// The revocation lists in use, newest first.
    pub fn revocation_lists(&self) -> &[Arc<RevocationList>] {
        self.lists.all()
    }

    /// When the next of those that are not valid yet is, unix time.
    pub(crate) fn next_list_unix_s(&self, unix_s: u64) -> Option<u64> {
        let to_come = self.revocation_lists().iter();
        let to_come = to_come.filter(|list| list.is_not_yet_valid(unix_s));
        to_come.map(|list| list.valid_from_unix_s()).min()
    }

    /// What these, which are to take the place of others, have forgotten of revocation: a list that is older than the one
    /// before, or of an issuer none at all while its authority is there. Whoever can have an old list read that is in date
    /// still, or the list of somebody else, would have revoked certificates accepted again. Lists are compared with those of the
    /// same key; one that no key signed which is known by its name is held against none. One of a time to come takes the place of
    /// none, nor is it held against any.
    ///
    /// # Errors
    /// [`TrustError::OlderList`], [`TrustError::NoListAnyMore`], [`TrustError::OtherSigner`],
    /// [`TrustError::OtherScope`], [`TrustError::ListNotYetValid`].
    pub fn knows_what_was_known_to(&self, before: &Self, unix_s: u64) -> Result<(), TrustError> {
        self.faults_beside(before, unix_s)
            .into_iter()
            .next()
            .map_or(Ok(()), Err)
    }

    /// All that [`Self::knows_what_was_known_to`] finds.
    pub fn faults_beside(&self, before: &Self, unix_s: u64) -> Vec<TrustError> {
        let awaited = self.revocation_lists().iter().filter_map(|list| {
            let awaited = self.lists.is_awaited_by_none(list, &before.lists, unix_s);
            awaited.err()
        });
        let forgotten = self.forgotten_of(before, unix_s);
        awaited.chain(forgotten.map(|(_, error)| error)).collect()
    }

    /// Takes the lists that [`Self::knows_what_was_known_to`] and [`Self::check_signer`] find fault with out, and keeps those of
    /// `before` that would be forgotten: what is wrong with the list of one issuer leaves those of others alone. Answers what
    /// is wrong.
    pub fn keep_what_was_known_to(&mut self, before: &Self, unix_s: u64) -> Vec<TrustError> {
        let mut faults = Vec::new();
        let mut lists = Vec::new();
        for list in self.revocation_lists() {
            let signer = self.check_signer(list);
            match signer.and_then(|()| self.lists.is_awaited_by_none(list, &before.lists, unix_s)) {
                Ok(()) => lists.push(Arc::clone(list)),
                Err(fault) => faults.push(fault),
            }
        }
        self.lists.replace(lists);
        let forgotten: Vec<_> = self.forgotten_of(before, unix_s).collect();
        let mut lists = self.revocation_lists().to_vec();
        for (old, fault) in forgotten {
            lists.push(old);
            faults.push(fault);
        }
        self.lists.replace(lists);
        faults
    }

    /// Keeps the lists of `before` in whose place there is none here, as the file that they came from cannot be read: those
    /// too that were signed by nobody or are of a time to come. While they are there, nobody of these issuers is accepted;
    /// without them all may be. Those of an authority that was taken away go with it.
    pub fn keep_lists_without_successor(&mut self, before: &Self) {
        let mut lists = self.revocation_lists().to_vec();
        let signed = |trust: &Self, old: &RevocationList| {
            let mut keys = trust.keys_of(old.issuer());
            keys.any(|key| old.is_signed_by(key))
        };
        let goes = |old: &RevocationList| signed(before, old) && !signed(self, old);
        let is_here = |old: &RevocationList| {
            let succeeds = |list: &Arc<RevocationList>| list.succeeds(old, before.keys_of(old.issuer()));
            lists.iter().any(succeeds)
        };
        let in_force = before.revocation_lists().iter();
        let kept = in_force.filter(|old| !is_here(old) && !goes(old));
        let kept: Vec<_> = kept.cloned().collect();
        lists.extend(kept);
        self.lists.replace(lists);
    }

    /// What is wrong with lists that nothing stands beside: they are signed by none of the authorities whose name they bear, or of a
    /// time to come.
    pub fn wrong_lists(&self, unix_s: u64) -> Vec<TrustError> {
        let none = RevocationLists::default();
        let of = |list: &Arc<RevocationList>| {
            let signer = self.check_signer(list);
            signer
                .and_then(|()| self.lists.is_awaited_by_none(list, &none, unix_s))
                .err()
        };
        self.revocation_lists().iter().filter_map(of).collect()
    }

    /// Lists of `before` in whose place there is none that may take it, and why.
    fn forgotten_of<'a>(
        &'a self,
        before: &'a Self,
        unix_s: u64,
    ) -> impl Iterator<Item = (Arc<RevocationList>, TrustError)> + 'a {
        // Of an intermediate nothing tells whose it was: it may have been of one that was taken away.
        let all_there = self.has_the_authorities_of(before);
        let in_force = before.revocation_lists().iter();
        let in_force = in_force.filter(move |list| !list.is_not_yet_valid(unix_s));
        in_force.filter_map(move |old| {
            // Those of authorities, and those of chains that came.
            let of_name = before
                .revocation_lists()
                .iter()
                .filter(|list| list.is_of_issuer(old));
            let seen = of_name.flat_map(|list| list.keys_seen());
            let theirs = before.keys_of(old.issuer()).map(Key::from);
            let mut keys: BTreeMap<_, _> = seen.chain(theirs).map(|key| (key, false)).collect();
            keys.extend(self.keys_of(old.issuer()).map(|key| (key.into(), true)));
            let fault = self.lists.follow(old, &keys, all_there, unix_s).err()?;
            Some((Arc::clone(old), fault))
        })
    }

    /// Keys of the authorities of a name.
    fn keys_of<'a>(&'a self, name: &'a DistinguishedName) -> impl Iterator<Item = &'a [u8]> {
        let of_name = self
            .certificates()
            .filter(|one| one.subject().der() == name.der());
        of_name.map(Certificate::spki_der)
    }

    /// By name and key: one that was issued again is the same.
    fn has_the_authorities_of(&self, other: &Self) -> bool {
        let is_here = |one: &Certificate| self.keys_of(one.subject()).any(|key| key == one.spki_der());
        other.certificates().all(is_here)
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
    /// authority at `unix_s`, basic constraints with path lengths, name constraints, key usages, revocation. An
    /// extension that is critical and not evaluated is a reason to refuse.
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
        let others = different(others.collect::<Result<Vec<_>, _>>()?);
        check_subjects(&others)?;
        check_validity(&peer, unix_s)?;
        if !peer.may_sign() {
            return Err(ChainError::KeyUsage {
                subject: peer.subject().to_string(),
            });
        }
        let key = peer.public_key().map_err(|error| ChainError::Key {
            subject: peer.subject().to_string(),
            error,
        })?;
        let (intermediates, anchor) = self.build_path(&peer, &others, unix_s)?;
        let authority = &anchor.certificate;
        let path = std::iter::once(&peer)
            .chain(intermediates.iter().copied())
            .chain([authority]);
        let first = path.min_by_key(|one| one.not_after_unix_s()).unwrap_or(authority);
        Ok(VerifiedPeer {
            key,
            authority: authority.subject().clone(),
            path: intermediates.iter().map(|one| one.der().to_vec()).collect(),
            valid_until_unix_s: first.not_after_unix_s(),
            first_to_expire: first.subject().clone(),
            certificate: peer,
        })
    }

    /// A valid path: its intermediates from the peer's issuer on, and the authority at its end.
    fn build_path<'a>(
        &'a self,
        peer: &Certificate,
        others: &'a [Certificate],
        unix_s: u64,
    ) -> Result<(Vec<&'a Certificate>, &'a Anchor), ChainError> {
        let explain = |error| self.explain(error, peer, others, unix_s);
        let leaf_der = CertificateDer::from(peer.der());
        let leaf = EndEntityCert::try_from(&leaf_der).map_err(explain)?;
        // keyUsage is no business of webpki; a certificate that may not issue others is not offered to it. It takes the first
        // path that is right: of those that were issued again with the same key, the one that lasts longest comes first.
        let mut may_issue: Vec<_> = others.iter().filter(|one| one.may_issue()).collect();
        may_issue.sort_by_key(|one| Reverse(one.not_after_unix_s()));
        let intermediates: Vec<_> = may_issue
            .iter()
            .map(|one| CertificateDer::from(one.der()))
            .collect();
        // RFC 5280 gives an anchor no end of validity, operators do. An expired one would hide its successor.
        let valid = |anchor: &&Anchor| check_validity(&anchor.certificate, unix_s).is_ok();
        let mut valid: Vec<_> = self.anchors.iter().filter(valid).collect();
        valid.sort_by_key(|anchor| Reverse(anchor.certificate.not_after_unix_s()));
        let anchors: Vec<_> = valid.iter().map(|anchor| anchor.anchor.clone()).collect();
        // What is said of the revocation of a path that is right in all else.
        let objection = RefCell::new(None);
        // Called for each path that webpki finds in order; what it refuses leaves others to be tried.
        let keeps_to_anchor = |path: &VerifiedPath<'_>| {
            let (intermediates, anchor) = resolve(path, peer, others, &valid)?;
            let path: Vec<_> = std::iter::once(peer)
                .chain(intermediates)
                .chain([&anchor.certificate])
                .collect();
            let found = self.lists.check(&path, unix_s);
            found.map_err(|found| remember(&mut objection.borrow_mut(), found))
        };
        let wrong = SignatureMemory::default();
        let algorithms = CHAIN_ALGORITHMS.map(|algorithm| Remembered {
            algorithm,
            memory: &self.signatures,
            wrong: &wrong,
        });
        let algorithms = algorithms
            .each_ref()
            .map(|one| one as &dyn SignatureVerificationAlgorithm);
        let path = leaf
            .verify_for_usage(
                &algorithms,
                &anchors,
                &intermediates,
                UnixTime::since_unix_epoch(Duration::from_secs(unix_s)),
                IkePurpose,
                None,
                Some(&keeps_to_anchor),
            )
            .map_err(|error| objection.take().unwrap_or_else(|| explain(error)))?;
        resolve(&path, peer, others, &valid).map_err(explain)
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
            Error::NameConstraintViolation if others.iter().any(has_own_forms) => authority(
                "a name is outside an authority's name constraints, or an intermediate constrains directory names or \
                 e-mail addresses, which is evaluated only for the authorities of [ike] ca: add it there",
            ),
            Error::NameConstraintViolation => authority("a name is outside an authority's name constraints"),
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
            .field("crls", &self.revocation_lists().len())
            .finish()
    }
}

impl Anchor {
    fn new(certificate: Certificate) -> Result<Self, TrustError> {
        let subject = certificate.subject().to_string();
        if !certificate.may_issue() {
            return Err(TrustError::NotAnAuthority { subject });
        }
        let refused = |reason| TrustError::Anchor {
            subject: subject.clone(),
            reason,
        };
        let der = CertificateDer::from(certificate.der());
        let mut anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| refused(error.to_string()))?
            .to_owned();
        let names = NameConstraints::of(certificate.der()).map_err(|error| refused(error.to_string()))?;
        if let Some(constraints) = anchor.name_constraints.take() {
            let left = without_own_forms(&constraints)
                .ok_or_else(|| refused("unreadable name constraints".to_owned()))?;
            anchor.name_constraints = (!left.is_empty()).then(|| Der::from(left));
        }
        Ok(Self {
            certificate,
            anchor,
            names,
        })
    }

    /// What webpki leaves out for an anchor: its path length, and its constraints on directory names and e-mail
    /// addresses. Certificates that an authority issued to itself are not counted and not constrained (RFC 5280
    /// section 6.1.4, b and l).
    fn check(&self, peer: &Certificate, intermediates: &[&Certificate]) -> Result<(), webpki::Error> {
        let below: Vec<_> = intermediates
            .iter()
            .copied()
            .filter(|one| one.subject() != one.issuer())
            .collect();
        let path_len = self.certificate.path_len().map_or(usize::MAX, |len| len as usize);
        if below.len() > path_len {
            return Err(webpki::Error::PathLenConstraintViolated);
        }
        match below.into_iter().chain([peer]).all(|one| self.names.allow(one)) {
            true => Ok(()),
            false => Err(webpki::Error::NameConstraintViolation),
        }
    }
}

/// Signatures of certificates and of revocation lists: SHA-1 and RSA below 2048 bits are not among them.
pub(super) const CHAIN_ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 11] = [
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

/// Keeps what is said of the revocation of a path, for the words of the refusal: that somebody is revoked counts most. What
/// webpki gets lets it try other paths.
fn remember(objection: &mut Option<ChainError>, found: ChainError) -> webpki::Error {
    let is_revoked = matches!(found, ChainError::Revoked { .. });
    if is_revoked || objection.is_none() {
        *objection = Some(found);
    }
    match is_revoked {
        true => webpki::Error::CertRevoked,
        false => webpki::Error::UnknownRevocationStatus,
    }
}

/// The certificates that a path of webpki's is made of. Of authorities that it cannot tell apart, with one name and key, the
/// first of `anchors` counts that the path keeps to.
fn resolve<'a>(
    path: &VerifiedPath<'_>,
    peer: &Certificate,
    others: &'a [Certificate],
    anchors: &[&'a Anchor],
) -> Result<(Vec<&'a Certificate>, &'a Anchor), webpki::Error> {
    let intermediates = path.intermediate_certificates().map(|used| {
        let der = used.der();
        others.iter().find(|one| one.der() == &der[..])
    });
    let intermediates: Vec<_> = intermediates
        .collect::<Option<_>>()
        .ok_or(webpki::Error::UnknownIssuer)?;
    let mut refusal = webpki::Error::UnknownIssuer;
    for anchor in anchors.iter().filter(|one| one.anchor == *path.anchor()) {
        match anchor.check(peer, &intermediates) {
            Ok(()) => return Ok((intermediates, anchor)),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// Each certificate once.
fn different(mut certificates: Vec<Certificate>) -> Vec<Certificate> {
    let mut seen = BTreeSet::new();
    certificates.retain(|one| seen.insert(one.fingerprint_sha256()));
    certificates
}

fn check_subjects(others: &[Certificate]) -> Result<(), ChainError> {
    // As path building compares names: by their encoding.
    let same = |one: &&Certificate| {
        let of_name = |other: &&Certificate| other.subject().der() == one.subject().der();
        others.iter().filter(of_name).count() > SAME_SUBJECT_MAX
    };
    match others.iter().find(same) {
        None => Ok(()),
        Some(one) => Err(ChainError::SameSubject {
            subject: one.subject().to_string(),
        }),
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

/// Whether a certificate bears the name of the issuer of another, as path building compares names: by their encoding, which
/// takes no time whatever a stranger writes there.
fn is_issuer(candidate: &Certificate, of: &Certificate) -> bool {
    candidate.subject().der() == of.issuer().der()
}

/// Whether `candidate` bears the name of the issuer of the peer or of an intermediate.
fn is_issuer_in(candidate: &Certificate, peer: &Certificate, others: &[Certificate]) -> bool {
    std::iter::once(peer)
        .chain(others)
        .any(|one| is_issuer(candidate, one))
}

/// Follows the names from the peer as far as the certificates at hand go.
fn unknown_issuer(peer: &Certificate, others: &[Certificate]) -> ChainError {
    let mut last = peer;
    for _ in others {
        match others.iter().find(|one| is_issuer(one, last)) {
            Some(next) => last = next,
            None => break,
        }
    }
    ChainError::UnknownIssuer {
        subject: peer.subject().to_string(),
        issuer: last.issuer().to_string(),
    }
}
