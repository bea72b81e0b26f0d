//! The IKE header (RFC 7296 section 3.1).
//!
//! ```text
//!  0       8       16 17 18 19 20      24     28
//!  | SPI i | SPI r |NP|V |X |F |  ID   | len  |
//! ```

use super::{WireError, reader::Reader};

/// Octets of the header.
pub const HEADER_LEN: usize = 28;
/// Version 2.0, as every message of ours says.
pub const VERSION: u8 = 0x20;

/// The message was sent by the original initiator of the IKE SA.
const FLAG_INITIATOR: u8 = 0x08;
/// The message is a response.
const FLAG_RESPONSE: u8 = 0x20;

/// Exchange types (RFC 7296 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// Algorithms, key exchange, nonces; in the clear.
    IkeSaInit,
    /// Identities, authentication, first Child SA.
    IkeAuth,
    /// Another Child SA, or the rekeying of one or of the IKE SA.
    CreateChildSa,
    /// Deletions, notifications, liveness.
    Informational,
    /// An IKE SA from a ticket; in the clear (RFC 5723).
    IkeSessionResume,
    /// What needs the keys but comes before authentication (RFC 9242).
    IkeIntermediate,
    /// Further key exchanges of a CREATE_CHILD_SA (RFC 9370).
    IkeFollowupKe,
    /// A number this crate does not speak.
    Other(u8),
}

impl From<u8> for Exchange {
    fn from(number: u8) -> Self {
        match number {
            34 => Self::IkeSaInit,
            35 => Self::IkeAuth,
            36 => Self::CreateChildSa,
            37 => Self::Informational,
            38 => Self::IkeSessionResume,
            43 => Self::IkeIntermediate,
            44 => Self::IkeFollowupKe,
            other => Self::Other(other),
        }
    }
}

impl From<Exchange> for u8 {
    fn from(exchange: Exchange) -> Self {
        match exchange {
            Exchange::IkeSaInit => 34,
            Exchange::IkeAuth => 35,
            Exchange::CreateChildSa => 36,
            Exchange::Informational => 37,
            Exchange::IkeSessionResume => 38,
            Exchange::IkeIntermediate => 43,
            Exchange::IkeFollowupKe => 44,
            Exchange::Other(other) => other,
        }
    }
}

/// The fixed header of every IKE message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// SPI of the original initiator; never zero.
    pub spi_i: u64,
    /// SPI of the original responder; zero in the first request.
    pub spi_r: u64,
    /// Type of the first payload.
    pub next_payload: u8,
    /// What kind of exchange the message belongs to.
    pub exchange: Exchange,
    /// Sent by the original initiator of the IKE SA.
    pub from_initiator: bool,
    /// A response, as opposed to a request.
    pub response: bool,
    /// Message ID: matches responses to requests and stops replays.
    pub message_id: u32,
}

impl Header {
    /// Parses and checks the header of `message`, whose length field must be the datagram's length.
    ///
    /// # Errors
    /// [`WireError::UnsupportedVersion`] when the header is whole but of another major version,
    /// otherwise what is malformed.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(message, "IKE header");
        let spi_i = reader.u64()?;
        let spi_r = reader.u64()?;
        let next_payload = reader.u8()?;
        let version = reader.u8()?;
        let exchange = Exchange::from(reader.u8()?);
        let flags = reader.u8()?;
        let message_id = reader.u32()?;
        let length = reader.u32()?;
        if version >> 4 != VERSION >> 4 {
            return Err(WireError::UnsupportedVersion(version));
        }
        if usize::try_from(length) != Ok(message.len()) {
            return Err(WireError::BadLength("IKE header"));
        }
        if spi_i == 0 {
            return Err(WireError::BadValue("initiator SPI"));
        }
        Ok(Self {
            spi_i,
            spi_r,
            next_payload,
            exchange,
            from_initiator: flags & FLAG_INITIATOR != 0,
            response: flags & FLAG_RESPONSE != 0,
            message_id,
        })
    }

    /// Appends the header of a message that is `length` octets long in all.
    pub fn emit(&self, length: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.spi_i.to_be_bytes());
        out.extend_from_slice(&self.spi_r.to_be_bytes());
        let initiator = if self.from_initiator { FLAG_INITIATOR } else { 0 };
        let response = if self.response { FLAG_RESPONSE } else { 0 };
        out.extend_from_slice(&[
            self.next_payload,
            VERSION,
            self.exchange.into(),
            initiator | response,
        ]);
        out.extend_from_slice(&self.message_id.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
    }

    /// A whole message in the clear: this header (its `next_payload` replaced) and `payloads`.
    ///
    /// # Errors
    /// [`WireError::TooLong`] as [`super::ChainBuilder::finish`].
    pub fn message(mut self, payloads: super::ChainBuilder) -> Result<Vec<u8>, WireError> {
        let (first, body) = payloads.finish()?;
        self.next_payload = first;
        let length = u32::try_from(HEADER_LEN.saturating_add(body.len())).map_err(|_| WireError::TooLong)?;
        let mut out = Vec::with_capacity(HEADER_LEN + body.len());
        self.emit(length, &mut out);
        out.extend_from_slice(&body);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IKE_SA_INIT request header as in RFC 7296 section 3.1, 28 octets.
    const GOLDEN: [u8; 28] = [
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 33, 0x20, 34, 0x08, 0, 0, 0,
        0, 0, 0, 0, 28,
    ];

    #[test]
    fn golden() {
        let header = Header::parse(&GOLDEN).unwrap();
        assert_eq!(header.spi_i, 0x0102_0304_0506_0708);
        assert_eq!(header.exchange, Exchange::IkeSaInit);
        assert!(header.from_initiator && !header.response);
        let mut out = Vec::new();
        header.emit(28, &mut out);
        assert_eq!(out, GOLDEN);
    }

    #[test]
    fn faults_are_named() {
        let mut message = GOLDEN;
        message[17] = 0x30;
        assert_eq!(Header::parse(&message), Err(WireError::UnsupportedVersion(0x30)));
        message[17] = 0x21; // a minor version is ignored (RFC 7296 section 2.5)
        assert!(Header::parse(&message).is_ok());
        message[27] = 29;
        assert_eq!(Header::parse(&message), Err(WireError::BadLength("IKE header")));
        assert_eq!(
            Header::parse(&GOLDEN[..27]),
            Err(WireError::Truncated("IKE header"))
        );
        let mut zero = GOLDEN;
        zero[..8].fill(0);
        assert_eq!(Header::parse(&zero), Err(WireError::BadValue("initiator SPI")));
    }
}
