//! The chain of payloads and their generic header (RFC 7296 section 3.2).
//!
//! ```text
//!  | next payload | C | reserved | length (with this header) |
//! ```

use super::{WireError, payload_type, reader::Reader};

/// Octets of the generic payload header.
pub const GENERIC_HEADER_LEN: usize = 4;
/// No real message comes near; more is an attempt to make us work.
const PAYLOADS_MAX: usize = 200;

/// One payload of a chain, not interpreted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawPayload<'a> {
    /// Its type, from the header before it.
    pub kind: u8,
    /// The sender insists that it be understood.
    pub critical: bool,
    /// The type its own header names next; for SK and SKF that of the first inner payload.
    pub next: u8,
    /// Where the body starts in the bytes the chain was made from.
    pub offset: usize,
    /// What follows the generic header.
    pub body: &'a [u8],
}

/// Iterates over the payloads of a chain; ends after an SK or SKF payload, which must be the last.
#[derive(Debug, Clone)]
pub struct Chain<'a> {
    reader: Reader<'a>,
    next: u8,
    offset: usize,
    seen: usize,
}

impl<'a> Chain<'a> {
    /// The chain in `bytes` whose first payload has type `first`.
    pub fn new(first: u8, bytes: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(bytes, "payload"),
            next: first,
            offset: 0,
            seen: 0,
        }
    }

    fn read(&mut self) -> Result<Option<RawPayload<'a>>, WireError> {
        if self.next == payload_type::NONE {
            return if self.reader.is_empty() {
                Ok(None)
            } else {
                Err(WireError::BadLength("last payload"))
            };
        }
        self.seen += 1;
        if self.seen > PAYLOADS_MAX {
            return Err(WireError::TooManyPayloads);
        }
        let kind = self.next;
        let next = self.reader.u8()?;
        let critical = self.reader.u8()? & 0x80 != 0;
        let length = self.reader.u16()?;
        let body = self.reader.take_body(length, GENERIC_HEADER_LEN)?;
        let offset = self.offset.saturating_add(GENERIC_HEADER_LEN);
        self.offset = offset.saturating_add(body.len());
        let encrypted = matches!(kind, payload_type::SK | payload_type::SKF);
        if encrypted && !self.reader.is_empty() {
            return Err(WireError::BadLength("encrypted payload"));
        }
        self.next = if encrypted { payload_type::NONE } else { next };
        Ok(Some(RawPayload {
            kind,
            critical,
            next,
            offset,
            body,
        }))
    }
}

impl<'a> Iterator for Chain<'a> {
    type Item = Result<RawPayload<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read().transpose();
        if matches!(item, Some(Err(_))) {
            self.next = payload_type::NONE;
            self.reader = Reader::new(&[], "payload");
        }
        item
    }
}

/// Writes a chain of payloads, linking each to the next.
#[derive(Debug, Default)]
pub struct ChainBuilder {
    first: u8,
    bytes: Vec<u8>,
    /// Offset of the "next payload" octet of the payload written last.
    link: Option<usize>,
    too_long: bool,
}

impl ChainBuilder {
    /// An empty chain.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a peer gone bad may send: octets that need not be a chain.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_raw(first: u8, bytes: Vec<u8>) -> Self {
        Self {
            first,
            bytes,
            link: Some(0),
            too_long: false,
        }
    }

    /// True when nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.link.is_none()
    }

    /// Appends a payload of type `kind`, whose body `emit` writes.
    pub fn push(&mut self, kind: u8, emit: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        match self.link.and_then(|at| self.bytes.get_mut(at)) {
            Some(link) => *link = kind,
            None => self.first = kind,
        }
        let start = self.bytes.len();
        self.link = Some(start);
        self.bytes.extend_from_slice(&[payload_type::NONE, 0, 0, 0]);
        emit(&mut self.bytes);
        let length = u16::try_from(self.bytes.len() - start);
        self.too_long |= length.is_err();
        if let Some(field) = self.bytes.get_mut(start + 2..start + 4) {
            field.copy_from_slice(&length.unwrap_or(0).to_be_bytes());
        }
        self
    }

    /// The type of the first payload and the bytes of all.
    ///
    /// # Errors
    /// [`WireError::TooLong`] when a payload outgrew its 16-bit length.
    pub fn finish(self) -> Result<(u8, Vec<u8>), WireError> {
        if self.too_long {
            Err(WireError::TooLong)
        } else {
            Ok((self.first, self.bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let mut builder = ChainBuilder::new();
        builder
            .push(40, |out| out.extend_from_slice(&[1, 2]))
            .push(43, |out| out.push(7));
        let (first, bytes) = builder.finish().unwrap();
        assert_eq!(first, 40);
        assert_eq!(bytes, [43, 0, 0, 6, 1, 2, 0, 0, 0, 5, 7]);
        let parsed: Result<Vec<_>, _> = Chain::new(first, &bytes).collect();
        let parsed = parsed.unwrap();
        assert_eq!(
            (parsed[0].kind, parsed[0].body, parsed[0].offset),
            (40, &[1, 2][..], 4)
        );
        assert_eq!(
            (parsed[1].kind, parsed[1].body, parsed[1].offset),
            (43, &[7][..], 10)
        );
    }

    #[test]
    fn faults_end_the_chain() {
        let faults: [(&[u8], WireError); 4] = [
            (&[0, 0, 0], WireError::Truncated("payload")),
            (&[0, 0, 0, 3], WireError::BadLength("payload")),
            (&[0, 0, 0, 9, 1], WireError::Truncated("payload")),
            (&[0, 0, 0, 4, 1], WireError::BadLength("last payload")),
        ];
        for (bytes, fault) in faults {
            let results: Vec<_> = Chain::new(40, bytes).collect();
            assert_eq!(results.last(), Some(&Err(fault)), "{bytes:?}");
        }
        let many: Vec<u8> = [40, 0, 0, 4].repeat(1000);
        assert_eq!(
            Chain::new(40, &many).last(),
            Some(Err(WireError::TooManyPayloads))
        );
    }

    #[test]
    fn encrypted_payload_is_last() {
        let bytes = [33, 0, 0, 5, 9];
        let items: Vec<_> = Chain::new(payload_type::SK, &bytes).collect();
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].unwrap().next, 33);
        let trailing = [33, 0, 0, 5, 9, 0, 0, 0, 4];
        assert!(Chain::new(payload_type::SK, &trailing).any(|item| item.is_err()));
    }
}
