//! Certificate payload (RFC 7296 section 3.6).

use super::{WireError, reader::Reader};

/// Encoding 4: one DER X.509 certificate.
pub const X509_SIGNATURE: u8 = 4;

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
}
