//! Certificate revocation lists (RFC 5280 section 5), as files bring them.

use super::certificate::{Certificate, uris};
use super::name::DistinguishedName;
use super::trust::{CHAIN_ALGORITHMS, TrustError};
use crate::crypto::der::{split, tag};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateRevocationListDer, SubjectPublicKeyInfoDer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use webpki::{BorrowedCertRevocationList, RawPublicKeyEntity};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Extension};
use x509_parser::revocation_list::CertificateRevocationList;

/// Clocks of an authority and ours may differ by so much: a list that was made later than that is not valid yet.
pub const CLOCK_TOLERANCE_S: u64 = 300;
/// Keys that a list remembers whether they signed it. An authority has one or two; whose certificate is refused below a
/// trusted one can make more.
const KEYS_MAX: usize = 64;

/// What to do where no list of the issuer is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevocationPolicy {
    /// Accept certificates of issuers without a list; where there are lists, one must be for the certificate, and current.
    #[default]
    WhereListed,
    /// Refuse certificates, the intermediates too, whose issuer has no current list.
    Always,
}

/// A complete revocation list (no delta). To read it proves nothing: it counts for certificates of the key that signed it,
/// which the authorities' certificates or a peer's chain bring.
#[derive(Debug)]
pub struct RevocationList {
    signed: Signed,
    serials: BTreeSet<Box<[u8]>>,
    issuer: DistinguishedName,
    this_update_unix_s: i64,
    next_update_unix_s: Option<i64>,
    scope: Option<Scope>,
    /// Keys (SubjectPublicKeyInfo) that it was looked at with, and whether they signed it. Of a list of tens of megabytes
    /// that takes as long as a hundred handshakes.
    keys: Mutex<BTreeMap<Box<[u8]>, bool>>,
}

/// What a key signs of a list, and the signature.
struct Signed {
    message: Box<[u8]>,
    /// Content of the AlgorithmIdentifier.
    algorithm: Box<[u8]>,
    signature: Box<[u8]>,
}

/// What a list is for, if not for all certificates of its issuer (RFC 5280 section 5.2.5).
#[derive(Debug, PartialEq, Eq)]
struct Scope {
    no_authorities: bool,
    authorities_only: bool,
    uris: Vec<String>,
    /// The extension as it is: its point may have other names than URIs.
    extension: Box<[u8]>,
}

impl RevocationList {
    /// The lists of a file: any number in PEM (`X509 CRL` sections), or one in DER, as authorities publish it.
    ///
    /// # Errors
    /// If a list is unreadable. A PEM file without any is no error here: an authority may have none yet.
    pub fn read_file(bytes: &[u8]) -> Result<Vec<Self>, TrustError> {
        if bytes.first() == Some(&0x30) {
            return Ok(vec![
                Self::from_der(bytes).map_err(|reason| TrustError::Crl { index: 1, reason })?,
            ]);
        }
        CertificateRevocationListDer::pem_slice_iter(bytes)
            .enumerate()
            .map(|(i, der)| {
                let bad = |reason| TrustError::Crl { index: i + 1, reason };
                let der = der.map_err(|error| bad(error.to_string()))?;
                Self::from_der(&der).map_err(bad)
            })
            .collect()
    }

    fn from_der(der: &[u8]) -> Result<Self, String> {
        // webpki refuses deltas, indirect lists and what else would have to be evaluated.
        let list = BorrowedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let serials = list
            .into_iter()
            .map(|one| one.map(|one| one.serial_number.into()));
        let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let issuer =
            DistinguishedName::from_der(parsed.issuer().as_raw()).map_err(|error| error.to_string())?;
        Ok(Self {
            signed: Signed::read(der).ok_or("not a signed list")?,
            serials: serials
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string())?,
            issuer,
            this_update_unix_s: parsed.last_update().timestamp(),
            next_update_unix_s: parsed.next_update().map(|time| time.timestamp()),
            scope: parsed.extensions().iter().find_map(Scope::read),
            keys: Mutex::default(),
        })
    }

    /// Whose list it is, by its own words.
    pub fn issuer(&self) -> &DistinguishedName {
        &self.issuer
    }

    /// When it was made, unix time.
    pub fn this_update_unix_s(&self) -> i64 {
        self.this_update_unix_s
    }

    /// When there is a newer one at the latest, unix time; afterwards it proves nothing.
    pub fn next_update_unix_s(&self) -> Option<i64> {
        self.next_update_unix_s
    }

    /// How many certificates it lists.
    pub fn revoked(&self) -> usize {
        self.serials.len()
    }

    /// Whether it is out of date.
    pub fn is_expired(&self, unix_s: u64) -> bool {
        let now = i64::try_from(unix_s).unwrap_or(i64::MAX);
        self.next_update_unix_s.is_none_or(|next| next <= now)
    }

    /// Whether it was made at a time that is still to come.
    pub fn is_not_yet_valid(&self, unix_s: u64) -> bool {
        self.valid_from_unix_s() > unix_s
    }

    pub(super) fn valid_from_unix_s(&self) -> u64 {
        let made = u64::try_from(self.this_update_unix_s).unwrap_or(0);
        made.saturating_sub(CLOCK_TOLERANCE_S)
    }

    /// Whether it bears the name of its issuer as another list does.
    pub(super) fn is_of_issuer(&self, other: &Self) -> bool {
        self.issuer.der() == other.issuer.der()
    }

    /// Whether it is for the same certificates as another, of whichever key.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.is_of_issuer(other) && self.scope == other.scope
    }

    /// Whether it is for all certificates of its issuer.
    pub(super) fn is_whole(&self) -> bool {
        self.scope.is_none()
    }

    /// Whether it is for `certificate`, of whichever key. One that names no distribution point may be on any list.
    pub(super) fn covers(&self, certificate: &Certificate) -> bool {
        let is_issuer = self.issuer.der() == certificate.issuer().der();
        is_issuer && self.scope.as_ref().is_none_or(|scope| scope.covers(certificate))
    }

    /// Whether it lists the serial number (content octets of the INTEGER).
    pub(super) fn lists(&self, serial: &[u8]) -> bool {
        self.serials.contains(serial)
    }

    /// Whether a key (SubjectPublicKeyInfo) signed it.
    pub(super) fn is_signed_by(&self, spki_der: &[u8]) -> bool {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = keys.get(spki_der) {
            return *known;
        }
        let is_signed = self.signed.is_by(spki_der);
        if keys.len() >= KEYS_MAX {
            keys.retain(|_, signed| *signed);
        }
        keys.insert(spki_der.into(), is_signed);
        is_signed
    }

    /// Whether it may take the place of another: it is for the same certificates, no older, and of the same key, if that is one of
    /// `keys` or was seen.
    pub(super) fn succeeds<'a>(&self, old: &Self, keys: impl Iterator<Item = &'a [u8]>) -> bool {
        if !self.is_like(old) || self.this_update_unix_s < old.this_update_unix_s {
            return false;
        }
        let known = keys.map(Box::from).chain(old.keys_seen());
        let signers: Vec<_> = known.filter(|key| old.is_signed_by(key)).collect();
        signers.is_empty() || signers.iter().any(|key| self.is_signed_by(key))
    }

    /// The keys that it was looked at with.
    pub(super) fn keys_seen(&self) -> Vec<Box<[u8]>> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.keys().cloned().collect()
    }
}

impl Signed {
    fn read(list: &[u8]) -> Option<Self> {
        let (tag::SEQUENCE, content, []) = split(list)? else {
            return None;
        };
        let (_, _, after) = split(content)?;
        let message = content.strip_suffix(after)?;
        let (tag::SEQUENCE, algorithm, after) = split(after)? else {
            return None;
        };
        // No bits of the last octet are unused.
        let (tag::BIT_STRING, [0, signature @ ..], []) = split(after)? else {
            return None;
        };
        Some(Self {
            message: message.into(),
            algorithm: algorithm.into(),
            signature: signature.into(),
        })
    }

    fn is_by(&self, spki_der: &[u8]) -> bool {
        let spki = SubjectPublicKeyInfoDer::from(spki_der);
        let Ok(key) = RawPublicKeyEntity::try_from(&spki) else {
            return false;
        };
        // One of them at most is for the key as well.
        CHAIN_ALGORITHMS
            .iter()
            .filter(|one| one.signature_alg_id().as_ref() == &*self.algorithm)
            .any(|one| key.verify_signature(*one, &self.message, &self.signature).is_ok())
    }
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signed")
            .field("len", &self.message.len())
            .finish()
    }
}

impl Scope {
    fn read(extension: &X509Extension<'_>) -> Option<Self> {
        let ParsedExtension::IssuingDistributionPoint(point) = extension.parsed_extension() else {
            return None;
        };
        Some(Self {
            no_authorities: point.only_contains_user_certs,
            authorities_only: point.only_contains_ca_certs,
            uris: point.distribution_point.iter().flat_map(uris).collect(),
            extension: extension.value.into(),
        })
    }

    fn covers(&self, certificate: &Certificate) -> bool {
        let of_kind = match certificate.is_authority() {
            true => !self.no_authorities,
            false => !self.authorities_only,
        };
        let names = |uris: &[String]| uris.iter().any(|uri| self.uris.contains(uri));
        of_kind && certificate.crl_uris().is_none_or(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: each handshake, and each chain that was verified again, went through the whole list for its digest: 17 ms
    /// for one of 15 MB.
    #[test]
    fn a_list_is_gone_through_once_for_each_key() {
        let list = include_bytes!("../../tests/data/ec.crl");
        let mut list = RevocationList::read_file(list).unwrap().remove(0);
        let key_of = |pem: &[u8]| {
            let certificates = crate::pki::credential::certificates_from_pem(pem).unwrap();
            certificates[0].spki_der().to_vec()
        };
        let own = key_of(include_bytes!("../../tests/data/ec-ca.crt"));
        let other = key_of(include_bytes!("../../tests/data/rsa-ca.crt"));
        assert!(list.is_signed_by(&own) && !list.is_signed_by(&other));
        assert!(!list.is_signed_by(b"no key"));
        // What is signed is not looked at again.
        let message = std::mem::take(&mut list.signed.message);
        assert!(list.is_signed_by(&own) && !list.is_signed_by(&other));
        assert_eq!(list.keys_seen().len(), 3);
        list.keys = Mutex::default();
        assert!(!list.is_signed_by(&own));
        // Nor is it remembered of whoever comes.
        (list.keys, list.signed.message) = (Mutex::default(), message);
        assert!(list.is_signed_by(&own));
        for number in 0..3 * KEYS_MAX {
            assert!(!list.is_signed_by(&number.to_be_bytes()));
            assert!(list.keys_seen().len() <= KEYS_MAX);
        }
        assert!(list.keys_seen().iter().any(|key| **key == own[..]));
    }
}
