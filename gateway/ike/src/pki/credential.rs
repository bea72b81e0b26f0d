//! What we prove our own identity with.

use super::certificate::{Certificate, CertificateError};
use super::identity::Identity;
use crate::crypto::sign::{KeyError, RsaPadding, SigningKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// A certificate, the intermediates that lead from it to an authority the peer trusts, and its private key.
#[derive(Debug)]
pub struct Credential {
    leaf: Certificate,
    intermediates: Vec<Certificate>,
    key: SigningKey,
}

/// Why a credential was not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Damaged PEM.
    #[error("the certificate file is not readable PEM: {0}")]
    Pem(String),
    /// No certificate section.
    #[error("the certificate file holds no CERTIFICATE section")]
    Missing,
    /// A certificate that is none.
    #[error("certificate {index} of the file (counted from 1): {error}")]
    Certificate {
        /// Which section.
        index: usize,
        /// What is wrong.
        error: CertificateError,
    },
    /// The private key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Certificate and key are not a pair.
    #[error("the private key does not belong to the certificate of {subject}, the first of the file")]
    Mismatch {
        /// The subject of the leaf.
        subject: String,
    },
    /// A chain that jumps.
    #[error(
        "certificate {index} of the file (counted from 1) is not the issuer {issuer} of the one before it"
    )]
    Order {
        /// Which section.
        index: usize,
        /// The issuer wanted there.
        issuer: String,
    },
    /// The key usage forbids signing.
    #[error("the key usage of the certificate of {subject} allows no digital signatures")]
    KeyUsage {
        /// The subject of the leaf.
        subject: String,
    },
}

impl Credential {
    /// Loads a certificate chain, leaf first, and the leaf's private key from the contents of PEM files.
    ///
    /// # Errors
    /// If a file is unreadable, the chain is out of order, or key and leaf do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CredentialError> {
        let mut certificates = certificates_from_pem(chain)?.into_iter();
        let leaf = certificates.next().ok_or(CredentialError::Missing)?;
        let intermediates: Vec<_> = certificates.collect();
        let mut issuer = leaf.issuer();
        for (i, certificate) in intermediates.iter().enumerate() {
            if certificate.subject() != issuer {
                return Err(CredentialError::Order {
                    index: i + 2,
                    issuer: issuer.to_string(),
                });
            }
            issuer = certificate.issuer();
        }
        let key = SigningKey::from_pem(key)?;
        let subject = || leaf.subject().to_string();
        if !key.belongs_to(&leaf.public_key()?) {
            return Err(CredentialError::Mismatch { subject: subject() });
        }
        if !leaf.may_sign() {
            return Err(CredentialError::KeyUsage { subject: subject() });
        }
        Ok(Self {
            leaf,
            intermediates,
            key,
        })
    }

    /// Sets the padding of RSA signatures of RFC 7427.
    #[must_use]
    pub fn with_rsa_padding(mut self, padding: RsaPadding) -> Self {
        self.key = self.key.with_rsa_padding(padding);
        self
    }

    /// Our certificate.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// The certificates to send in CERT payloads, leaf first (RFC 7296 section 3.6). A self-signed authority at
    /// the end is left out: the peer has it or does not trust it.
    pub fn chain(&self) -> impl Iterator<Item = &Certificate> {
        let intermediates = self
            .intermediates
            .iter()
            .filter(|one| one.subject() != one.issuer());
        std::iter::once(&self.leaf).chain(intermediates)
    }

    /// The private key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Whether a peer will accept `identity` with this certificate.
    pub fn proves(&self, identity: &Identity) -> bool {
        identity.matches_certificate(&self.leaf)
    }

    /// The identity to use where none is configured: the first dNSName, else the subject.
    pub fn default_identity(&self) -> Identity {
        match self.leaf.san_dns().iter().find(|name| !name.contains('*')) {
            Some(name) => Identity::Fqdn(name.clone()),
            None => Identity::Dn(self.leaf.subject().clone()),
        }
    }
}

/// All CERTIFICATE sections of a PEM file, in order.
pub(super) fn certificates_from_pem(pem: &[u8]) -> Result<Vec<Certificate>, CredentialError> {
    CertificateDer::pem_slice_iter(pem)
        .enumerate()
        .map(|(i, der)| {
            let der = der.map_err(|error| CredentialError::Pem(error.to_string()))?;
            Certificate::from_der(&der).map_err(|error| CredentialError::Certificate { index: i + 1, error })
        })
        .collect()
}
