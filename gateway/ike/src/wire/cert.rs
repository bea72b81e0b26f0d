//! Certificate payload (RFC 7296 section 3.6).

use super::{WireError, reader::Reader};

/// Encoding 4: one DER X.509 certificate.
pub const X509_SIGNATURE: u8 = 4;

/// Whether a certificate of this encoding would have to be fetched from a URL.
pub fn is_hash_and_url(encoding: u8) -> bool {
    matches!(encoding, 12 | 13)
}

/// An encoding in the words of RFC 7296 section 3.6.
pub fn encoding_name(encoding: u8) -> &'static str {
    match encoding {
        1 => "a PKCS #7 wrapped certificate",
        2 => "a PGP certificate",
        3 => "a DNS signed key",
        X509_SIGNATURE => "an X.509 certificate",
        6 => "a Kerberos token",
        7 => "a certificate revocation list",
        8 => "an authority revocation list",
        9 => "an SPKI certificate",
        10 => "an X.509 attribute certificate",
        11 => "a raw RSA key",
        12 => "hash and URL of a certificate",
        13 => "hash and URL of a bundle of certificates",
        14 => "an OCSP response",
        15 => "a raw public key",
        _ => "something of unknown encoding",
    }
}

/// A certificate, or whatever else the encoding says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// See [`X509_SIGNATURE`].
    pub encoding: u8,
    /// DER for X.509.
    pub data: Vec<u8>,
}

impl Certificate {
    /// Parses the body.
    ///
    /// # Errors
    /// When it is empty.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "certificate");
        let encoding = reader.u8()?;
        Ok(Self {
            encoding,
            data: reader.rest().to_vec(),
        })
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.push(self.encoding);
        out.extend_from_slice(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let bytes = [4, 0x30, 0x00];
        let parsed = Certificate::parse(&bytes).unwrap();
        assert_eq!(
            parsed,
            Certificate {
                encoding: X509_SIGNATURE,
                data: vec![0x30, 0]
            }
        );
        let mut out = Vec::new();
        parsed.emit(&mut out);
        assert_eq!(out, bytes);
        assert!(Certificate::parse(&[]).is_err());
    }

    /// RFC 7296 section 3.6: 12 and 13 are the encodings that make their reader fetch something.
    #[test]
    fn what_would_be_fetched_is_known_by_its_encoding() {
        let fetched: Vec<u8> = (0..=255).filter(|one| is_hash_and_url(*one)).collect();
        assert_eq!(fetched, [12, 13]);
        assert!(encoding_name(12).contains("URL") && encoding_name(13).contains("URL"));
    }
}
