//! Certificate Request payload (RFC 7296 section 3.7).

use super::{WireError, cert::X509_SIGNATURE, reader::Reader};

/// The authorities whose certificates its sender accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Certificate encoding asked for.
    pub encoding: u8,
    /// SHA-1 hashes of the authorities' SubjectPublicKeyInfo; empty means any.
    pub authorities: Vec<[u8; 20]>,
}

impl CertificateRequest {
    /// Asks for X.509 certificates of these authorities.
    pub fn x509(authorities: Vec<[u8; 20]>) -> Self {
        Self {
            encoding: X509_SIGNATURE,
            authorities,
        }
    }

    /// Parses the body. Encodings other than X.509 keep no authorities: their content has another form.
    ///
    /// # Errors
    /// When it is empty, or an X.509 request is no whole number of hashes.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "certificate request");
        let encoding = reader.u8()?;
        let mut authorities = Vec::new();
        while encoding == X509_SIGNATURE && !reader.is_empty() {
            authorities.push(reader.array()?);
        }
        Ok(Self {
            encoding,
            authorities,
        })
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.push(self.encoding);
        out.extend_from_slice(self.authorities.as_flattened());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let mut bytes = vec![4];
        bytes.extend_from_slice(&[0xaa; 20]);
        bytes.extend_from_slice(&[0xbb; 20]);
        let parsed = CertificateRequest::parse(&bytes).unwrap();
        assert_eq!(parsed, CertificateRequest::x509(vec![[0xaa; 20], [0xbb; 20]]));
        let mut out = Vec::new();
        parsed.emit(&mut out);
        assert_eq!(out, bytes);
        assert!(CertificateRequest::parse(&bytes[..40]).is_err());
        assert!(CertificateRequest::parse(&[]).is_err());
        assert!(
            CertificateRequest::parse(&[12, 1, 2])
                .unwrap()
                .authorities
                .is_empty()
        );
    }
}
