//! A cursor over received bytes: every take is checked and names what it was for.

use super::WireError;

/// Reads big-endian fields from the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`; `what` names the structure in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// True when every byte was taken.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes not taken yet.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Takes `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(WireError::Truncated(self.what))?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated(self.what))?;
        self.rest = rest;
        Ok(*head)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Takes a 16-bit number in network order.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Takes a 32-bit number in network order.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes a 64-bit number in network order.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes a structure whose 16-bit length field (counting `header` bytes already taken) is `length`.
    pub fn take_body(&mut self, length: u16, header: usize) -> Result<&'a [u8], WireError> {
        let body = usize::from(length)
            .checked_sub(header)
            .ok_or(WireError::BadLength(self.what))?;
        self.take(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_are_checked() {
        let mut reader = Reader::new(&[1, 0, 2, 9], "x");
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(2));
        assert_eq!(reader.u16(), Err(WireError::Truncated("x")));
        assert_eq!(reader.take_body(3, 4), Err(WireError::BadLength("x")));
        assert_eq!(reader.take(1), Ok(&[9][..]));
        assert!(reader.is_empty());
    }
}
