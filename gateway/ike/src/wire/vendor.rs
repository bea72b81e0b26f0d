//! Vendor ID payload (RFC 7296 section 3.12): any octets, ignored when unknown.

/// The octets of a Vendor ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VendorId(pub Vec<u8>);

impl VendorId {
    /// Takes the body as it is.
    pub fn parse(body: &[u8]) -> Self {
        Self(body.to_vec())
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
        let mut out = Vec::new();
        VendorId::parse(&[1, 2]).emit(&mut out);
        assert_eq!(out, [1, 2]);
    }
}
