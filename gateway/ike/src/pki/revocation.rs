//! Certificate revocation lists (RFC 5280 section 5), as files bring them.

use super::certificate::{Certificate, uris};
use super::name::DistinguishedName;
use super::trust::TrustError;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::{FromDer, ParsedExtension};
use x509_parser::revocation_list::CertificateRevocationList;

/// What to do where no list of the issuer is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevocationPolicy {
    /// Accept certificates of issuers without a list; where there are lists, one must be for the certificate, and current.
    #[default]
    WhereListed,
    /// Refuse certificates, the intermediates too, whose issuer has no current list.
    Always,
}

/// A complete revocation list (no delta). Its signature is checked at each use, by the issuer that the path gives.
#[derive(Debug)]
pub struct RevocationList {
    pub(super) list: CertRevocationList<'static>,
    issuer: DistinguishedName,
    this_update_unix_s: i64,
    next_update_unix_s: Option<i64>,
    revoked: usize,
    scope: Option<Scope>,
}

/// What a list is for, if not for all certificates of its issuer (RFC 5280 section 5.2.5).
#[derive(Debug, PartialEq, Eq)]
struct Scope {
    no_authorities: bool,
    authorities_only: bool,
    uris: Vec<String>,
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
        let list = OwnedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let issuer =
            DistinguishedName::from_der(parsed.issuer().as_raw()).map_err(|error| error.to_string())?;
        Ok(Self {
            issuer,
            this_update_unix_s: parsed.last_update().timestamp(),
            next_update_unix_s: parsed.next_update().map(|time| time.timestamp()),
            revoked: parsed.iter_revoked_certificates().count(),
            scope: parsed
                .extensions()
                .iter()
                .find_map(|one| Scope::read(one.parsed_extension())),
            list: list.into(),
        })
    }

    /// Whose list it is.
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
        self.revoked
    }

    /// Whether it is out of date.
    pub fn is_expired(&self, unix_s: u64) -> bool {
        let now = i64::try_from(unix_s).unwrap_or(i64::MAX);
        self.next_update_unix_s.is_none_or(|next| next < now)
    }

    /// Whether it is for the same certificates as another.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.issuer.der() == other.issuer.der() && self.scope == other.scope
    }

    /// Whether it is for `certificate`: the same rule by which webpki finds a list, and takes none for no objection.
    pub(super) fn covers(&self, certificate: &Certificate) -> bool {
        let is_issuer = self.issuer.der() == certificate.issuer().der();
        is_issuer && self.scope.as_ref().is_none_or(|scope| scope.covers(certificate))
    }

    /// Whether it lists `certificate`; looked at where path building has refused already.
    pub(super) fn lists(&self, certificate: &Certificate) -> bool {
        *certificate.issuer() == self.issuer
            && self
                .list
                .find_serial(certificate.serial())
                .is_ok_and(|found| found.is_some())
    }
}

impl Scope {
    fn read(extension: &ParsedExtension<'_>) -> Option<Self> {
        let ParsedExtension::IssuingDistributionPoint(point) = extension else {
            return None;
        };
        Some(Self {
            no_authorities: point.only_contains_user_certs,
            authorities_only: point.only_contains_ca_certs,
            uris: point.distribution_point.iter().flat_map(uris).collect(),
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

/// Newest first: where an issuer has several lists, the first that fits decides.
pub(super) fn newest_first(lists: &mut [RevocationList]) {
    lists.sort_by_key(|list| std::cmp::Reverse(list.this_update_unix_s));
}
