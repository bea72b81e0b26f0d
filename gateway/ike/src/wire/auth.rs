//! Authentication payload (RFC 7296 section 3.8).

use super::{WireError, reader::Reader};

/// Proof that the sender holds the key of its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// 1 RSA, 9 ECDSA P-256, 14 digital signature (RFC 7427).
    pub method: u8,
    /// The signature; with method 14 after its AlgorithmIdentifier.
    pub data: Vec<u8>,
}

impl Authentication {
    /// Parses the body.
    ///
    /// # Errors
    /// When it is shorter than its fixed fields.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "authentication");
        let [method, _, _, _] = reader.array()?;
        Ok(Self {
            method,
            data: reader.rest().to_vec(),
        })
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.method, 0, 0, 0]);
        out.extend_from_slice(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let bytes = [14, 0, 0, 0, 1, 2, 3];
        let parsed = Authentication::parse(&bytes).unwrap();
        assert_eq!(
            parsed,
            Authentication {
                method: 14,
                data: vec![1, 2, 3]
            }
        );
        let mut out = Vec::new();
        parsed.emit(&mut out);
        assert_eq!(out, bytes);
        assert!(Authentication::parse(&[14, 0, 0]).is_err());
    }
}
