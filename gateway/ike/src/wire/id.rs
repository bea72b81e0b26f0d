//! Identification payloads (RFC 7296 section 3.5).

use super::{WireError, reader::Reader};

/// Who one side says it is; compared with its certificate by [`crate::pki`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identification {
    /// ID type: 1 IPv4, 2 FQDN, 3 RFC 822, 5 IPv6, 9 DER ASN.1 DN, 11 key ID.
    pub kind: u8,
    /// In the form the type gives.
    pub data: Vec<u8>,
}

impl Identification {
    /// Parses the body.
    ///
    /// # Errors
    /// When it is shorter than its fixed fields.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "identification");
        let [kind, _, _, _] = reader.array()?;
        Ok(Self {
            kind,
            data: reader.rest().to_vec(),
        })
    }

    /// Appends the body; the same octets are what AUTH signs as `RestOfInitIDPayload`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind, 0, 0, 0]);
        out.extend_from_slice(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let bytes = b"\x02\0\0\0site-1.example";
        let parsed = Identification::parse(bytes).unwrap();
        assert_eq!(
            parsed,
            Identification {
                kind: 2,
                data: b"site-1.example".to_vec()
            }
        );
        let mut out = Vec::new();
        parsed.emit(&mut out);
        assert_eq!(out, bytes);
        assert!(Identification::parse(&[2, 0, 0]).is_err());
    }
}
