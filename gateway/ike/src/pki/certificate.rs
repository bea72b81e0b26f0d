//! What the rest needs to know of one X.509 certificate, read once.

use super::identity::Identity;
use super::name::DistinguishedName;
use crate::crypto::sign::{KeyError, PublicKey};
use ring::digest;
use std::net::IpAddr;
use x509_parser::extensions::DistributionPointName;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// The longest certificate that is looked at, in bytes: what a peer sends is bounded before it is parsed.
pub const CERTIFICATE_LEN_MAX: usize = 16 * 1024;

/// A parsed certificate with its DER. Parsing proves nothing: trust comes from
/// [`super::trust::TrustAnchors::verify_chain`].
#[derive(Clone, Debug)]
pub struct Certificate {
    der: Vec<u8>,
    subject: DistinguishedName,
    issuer: DistinguishedName,
    serial: Vec<u8>,
    not_before_unix_s: i64,
    not_after_unix_s: i64,
    spki_der: Vec<u8>,
    san_dns: Vec<String>,
    san_emails: Vec<String>,
    san_addresses: Vec<IpAddr>,
    san_directory_names: Vec<DistinguishedName>,
    has_san: bool,
    crl_uris: Option<Vec<String>>,
    path_len: Option<u32>,
    may_sign: bool,
    is_authority: bool,
    may_sign_certificates: bool,
    may_sign_lists: bool,
}

/// Why a certificate was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Longer than [`CERTIFICATE_LEN_MAX`].
    #[error("the certificate has {0} bytes; at most {CERTIFICATE_LEN_MAX} are read")]
    TooLong(usize),
    /// Not a DER certificate.
    #[error("the certificate is malformed: {0}")]
    Malformed(&'static str),
}

impl Certificate {
    /// Reads a certificate, which must be all of `der`.
    ///
    /// # Errors
    /// If it is too long or malformed.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > CERTIFICATE_LEN_MAX {
            return Err(CertificateError::TooLong(der.len()));
        }
        let malformed = CertificateError::Malformed;
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|_| malformed("not an X.509 certificate"))?;
        if !rest.is_empty() {
            return Err(malformed("data after its end"));
        }
        let name = |raw| DistinguishedName::from_der(raw).map_err(|_| malformed("unreadable name"));
        let mut certificate = Self {
            der: der.to_vec(),
            subject: name(parsed.subject().as_raw())?,
            issuer: name(parsed.issuer().as_raw())?,
            serial: parsed.raw_serial().to_vec(),
            not_before_unix_s: parsed.validity().not_before.timestamp(),
            not_after_unix_s: parsed.validity().not_after.timestamp(),
            spki_der: parsed.public_key().raw.to_vec(),
            san_dns: Vec::new(),
            san_emails: Vec::new(),
            san_addresses: Vec::new(),
            san_directory_names: Vec::new(),
            has_san: false,
            crl_uris: None,
            path_len: None,
            may_sign: true,
            is_authority: false,
            may_sign_certificates: true,
            may_sign_lists: true,
        };
        for extension in parsed.extensions() {
            let read = [
                OID_X509_EXT_SUBJECT_ALT_NAME,
                OID_X509_EXT_KEY_USAGE,
                OID_X509_EXT_BASIC_CONSTRAINTS,
            ];
            // Others that nobody can read are for path validation to judge: it refuses critical ones.
            let unreadable = matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. });
            if unreadable && read.contains(&extension.oid) {
                return Err(malformed("unreadable extension"));
            }
            if unreadable && extension.oid == OID_X509_EXT_CRL_DISTRIBUTION_POINTS {
                certificate.crl_uris = Some(Vec::new());
            }
            certificate.read_extension(extension.parsed_extension())?;
        }
        Ok(certificate)
    }

    fn read_extension(&mut self, extension: &ParsedExtension<'_>) -> Result<(), CertificateError> {
        match extension {
            ParsedExtension::SubjectAlternativeName(san) => {
                self.has_san = true;
                san.general_names.iter().try_for_each(|name| match name {
                    GeneralName::DNSName(name) => {
                        self.san_dns.push((*name).to_owned());
                        Ok(())
                    }
                    GeneralName::RFC822Name(name) => {
                        self.san_emails.push((*name).to_owned());
                        Ok(())
                    }
                    GeneralName::IPAddress(octets) => {
                        let address = <[u8; 4]>::try_from(*octets)
                            .map(IpAddr::from)
                            .or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from))
                            .map_err(|_| CertificateError::Malformed("subjectAltName with a bad address"))?;
                        self.san_addresses.push(address);
                        Ok(())
                    }
                    GeneralName::DirectoryName(name) => {
                        let name = DistinguishedName::from_der(name.as_raw());
                        let bad = CertificateError::Malformed("subjectAltName with a bad directory name");
                        self.san_directory_names.push(name.map_err(|_| bad)?);
                        Ok(())
                    }
                    _ => Ok(()),
                })
            }
            ParsedExtension::CRLDistributionPoints(points) => {
                // Others are of lists that say a part of it, or that somebody else issues.
                let whole = points
                    .iter()
                    .filter(|one| one.reasons.is_none() && one.crl_issuer.is_none());
                let names = whole.filter_map(|one| one.distribution_point.as_ref());
                self.crl_uris = Some(names.flat_map(uris).collect());
                Ok(())
            }
            // RFC 4945 section 5.1.3.2: a key usage, where there is one, must allow signatures of messages.
            ParsedExtension::KeyUsage(usage) => {
                self.may_sign = usage.digital_signature() || usage.non_repudiation();
                self.may_sign_certificates = usage.key_cert_sign();
                self.may_sign_lists = usage.crl_sign();
                Ok(())
            }
            ParsedExtension::BasicConstraints(constraints) => {
                self.is_authority = constraints.ca;
                self.path_len = constraints.path_len_constraint;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The certificate as it is.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whose it is.
    pub fn subject(&self) -> &DistinguishedName {
        &self.subject
    }

    /// Who issued it.
    pub fn issuer(&self) -> &DistinguishedName {
        &self.issuer
    }

    /// The serial number: content octets of the INTEGER.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// First second of validity, unix time.
    pub fn not_before_unix_s(&self) -> i64 {
        self.not_before_unix_s
    }

    /// Last second of validity, unix time.
    pub fn not_after_unix_s(&self) -> i64 {
        self.not_after_unix_s
    }

    /// The SubjectPublicKeyInfo in DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The key, for verifying AUTH payloads.
    ///
    /// # Errors
    /// If it is of an algorithm that is not ours.
    pub fn public_key(&self) -> Result<PublicKey, KeyError> {
        PublicKey::from_spki_der(&self.spki_der)
    }

    /// Names of type dNSName in the subjectAltName.
    pub fn san_dns(&self) -> &[String] {
        &self.san_dns
    }

    /// Names of type rfc822Name in the subjectAltName.
    pub fn san_emails(&self) -> &[String] {
        &self.san_emails
    }

    /// Addresses in the subjectAltName.
    pub fn san_addresses(&self) -> &[IpAddr] {
        &self.san_addresses
    }

    /// Directory names in the subjectAltName. No identity is proved by them; name constraints hold for them.
    pub fn san_directory_names(&self) -> &[DistinguishedName] {
        &self.san_directory_names
    }

    /// Whether there is a subjectAltName, whatever is in it.
    pub fn has_alternative_names(&self) -> bool {
        self.has_san
    }

    /// Where its issuer's complete revocation lists are to be had; `None` if it does not say.
    pub(super) fn crl_uris(&self) -> Option<&[String]> {
        self.crl_uris.as_deref()
    }

    /// Whether it is an authority's by basicConstraints.
    pub(super) fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// How many authorities may follow below it (pathLenConstraint).
    pub fn path_len(&self) -> Option<u32> {
        self.path_len
    }

    /// All identities that it speaks for, for messages to people.
    pub fn identities(&self) -> impl Iterator<Item = Identity> {
        let readable = |kind| move |name: &String| Identity::from_wire(kind, name.as_bytes()).ok();
        let address = |address: &IpAddr| match address {
            IpAddr::V4(address) => Identity::Ipv4(*address),
            IpAddr::V6(address) => Identity::Ipv6(*address),
        };
        let subject = (!self.subject.is_empty()).then(|| Identity::Dn(self.subject.clone()));
        let dns = self.san_dns.iter().filter_map(readable(2));
        let emails = self.san_emails.iter().filter_map(readable(3));
        let addresses = self.san_addresses.iter().map(address);
        dns.chain(emails).chain(addresses).chain(subject)
    }

    /// Whether the key usage lets the key sign IKE messages; true where there is no such extension.
    pub fn may_sign(&self) -> bool {
        self.may_sign
    }

    /// Whether it is an authority's: basicConstraints says so and a key usage does not forbid it
    /// (RFC 5280 section 6.1.4, k and n).
    pub fn may_issue(&self) -> bool {
        self.is_authority && self.may_sign_certificates
    }

    /// Whether the key usage lets the key sign revocation lists; true where there is no such extension.
    pub(super) fn may_sign_lists(&self) -> bool {
        self.may_sign_lists
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint_sha256(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.iter_mut()
            .zip(digest::digest(&digest::SHA256, &self.der).as_ref())
            .for_each(|(to, from)| *to = *from);
        out
    }
}

/// The URIs among the names of a distribution point.
pub(super) fn uris<'a>(name: &'a DistributionPointName<'_>) -> impl Iterator<Item = String> + 'a {
    let names = match name {
        DistributionPointName::FullName(names) => names.as_slice(),
        DistributionPointName::NameRelativeToCRLIssuer(_) => &[],
    };
    names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}
