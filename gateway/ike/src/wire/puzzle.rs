//! Puzzle Solution payload (RFC 8019 section 8.2): four keys, one behind the other.

use super::WireError;

/// What [`crate::wire::payload_type::PUZZLE_SOLUTION`] carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PuzzleSolution(pub Vec<u8>);

impl PuzzleSolution {
    /// Parses the body.
    ///
    /// # Errors
    /// When it is empty.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        if body.is_empty() {
            return Err(WireError::Truncated("puzzle solution"));
        }
        Ok(Self(body.to_vec()))
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
    fn golden() {
        let parsed = PuzzleSolution::parse(&[1, 2, 3, 4]).unwrap();
        let mut out = Vec::new();
        parsed.emit(&mut out);
        assert_eq!(out, [1, 2, 3, 4]);
        assert!(PuzzleSolution::parse(&[]).is_err());
    }
}
