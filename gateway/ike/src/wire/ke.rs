//! Key Exchange payload (RFC 7296 section 3.4).

use super::{WireError, reader::Reader};

/// A Diffie-Hellman public value and the group it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyExchange {
    /// IANA number of the group.
    pub group: u16,
    /// The public value, as long as the group says.
    pub data: Vec<u8>,
}

impl KeyExchange {
    /// Parses the body.
    ///
    /// # Errors
    /// When it is shorter than its fixed fields.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "key exchange");
        let group = reader.u16()?;
        reader.u16()?;
        Ok(Self {
            group,
            data: reader.rest().to_vec(),
        })
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.group.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let bytes = [0, 31, 0, 0, 0xaa, 0xbb];
        let parsed = KeyExchange::parse(&bytes).unwrap();
        assert_eq!(
            parsed,
            KeyExchange {
                group: 31,
                data: vec![0xaa, 0xbb]
            }
        );
        let mut out = Vec::new();
        parsed.emit(&mut out);
        assert_eq!(out, bytes);
        assert!(KeyExchange::parse(&bytes[..3]).is_err());
    }
}
