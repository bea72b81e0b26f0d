//! Nonce payload (RFC 7296 section 3.9).

use super::WireError;

/// Random data of one side, 16 to 256 octets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nonce(pub Vec<u8>);

impl Nonce {
    /// Parses the body.
    ///
    /// # Errors
    /// When the length is outside 16 to 256 octets.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        if (16..=256).contains(&body.len()) {
            Ok(Self(body.to_vec()))
        } else {
            Err(WireError::BadLength("nonce"))
        }
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_bounded() {
        for (len, good) in [(15, false), (16, true), (32, true), (256, true), (257, false)] {
            assert_eq!(Nonce::parse(&vec![7; len]).is_ok(), good, "{len} octets");
        }
        let mut out = Vec::new();
        Nonce::parse(&[7; 16]).unwrap().emit(&mut out);
        assert_eq!(out, [7; 16]);
    }
}
