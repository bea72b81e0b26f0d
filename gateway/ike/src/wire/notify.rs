//! Notify payload (RFC 7296 section 3.10).

use super::{WireError, protocol, reader::Reader};

/// Notify message types. Errors are below 16384, status above.
#[allow(missing_docs)] // the names are the RFC's and say it all
pub mod kind {
    pub const UNSUPPORTED_CRITICAL_PAYLOAD: u16 = 1;
    pub const INVALID_IKE_SPI: u16 = 4;
    pub const INVALID_MAJOR_VERSION: u16 = 5;
    pub const INVALID_SYNTAX: u16 = 7;
    pub const INVALID_MESSAGE_ID: u16 = 9;
    pub const INVALID_SPI: u16 = 11;
    pub const NO_PROPOSAL_CHOSEN: u16 = 14;
    pub const INVALID_KE_PAYLOAD: u16 = 17;
    pub const AUTHENTICATION_FAILED: u16 = 24;
    pub const SINGLE_PAIR_REQUIRED: u16 = 34;
    pub const NO_ADDITIONAL_SAS: u16 = 35;
    pub const FAILED_CP_REQUIRED: u16 = 37;
    pub const TS_UNACCEPTABLE: u16 = 38;
    pub const UNACCEPTABLE_ADDRESSES: u16 = 40;
    pub const UNEXPECTED_NAT_DETECTED: u16 = 41;
    pub const TEMPORARY_FAILURE: u16 = 43;
    pub const CHILD_SA_NOT_FOUND: u16 = 44;
    pub const TS_MAX_QUEUE: u16 = 48;
    pub const STATE_NOT_FOUND: u16 = 47;
    /// The first number that is not an error.
    pub const FIRST_STATUS: u16 = 16384;
    pub const INITIAL_CONTACT: u16 = 16384;
    pub const NAT_DETECTION_SOURCE_IP: u16 = 16388;
    pub const NAT_DETECTION_DESTINATION_IP: u16 = 16389;
    pub const COOKIE: u16 = 16390;
    pub const USE_TRANSPORT_MODE: u16 = 16391;
    pub const REKEY_SA: u16 = 16393;
    pub const ESP_TFC_PADDING_NOT_SUPPORTED: u16 = 16394;
    pub const MOBIKE_SUPPORTED: u16 = 16396;
    pub const ADDITIONAL_IP4_ADDRESS: u16 = 16397;
    pub const ADDITIONAL_IP6_ADDRESS: u16 = 16398;
    pub const NO_ADDITIONAL_ADDRESSES: u16 = 16399;
    pub const UPDATE_SA_ADDRESSES: u16 = 16400;
    pub const COOKIE2: u16 = 16401;
    pub const NO_NATS_ALLOWED: u16 = 16402;
    pub const REDIRECT_SUPPORTED: u16 = 16406;
    pub const REDIRECT: u16 = 16407;
    pub const REDIRECTED_FROM: u16 = 16408;
    pub const TICKET_LT_OPAQUE: u16 = 16409;
    pub const TICKET_REQUEST: u16 = 16410;
    pub const TICKET_ACK: u16 = 16411;
    pub const TICKET_NACK: u16 = 16412;
    pub const TICKET_OPAQUE: u16 = 16413;
    pub const CHILDLESS_IKEV2_SUPPORTED: u16 = 16418;
    pub const QCD_TOKEN: u16 = 16419;
    pub const IKEV2_FRAGMENTATION_SUPPORTED: u16 = 16430;
    pub const SIGNATURE_HASH_ALGORITHMS: u16 = 16431;
    pub const PUZZLE: u16 = 16434;
    pub const USE_PPK: u16 = 16435;
    pub const SA_RESOURCE_INFO: u16 = 16444;
    pub const PPK_IDENTITY: u16 = 16436;
    pub const NO_PPK_AUTH: u16 = 16437;
    pub const INTERMEDIATE_EXCHANGE_SUPPORTED: u16 = 16438;
    pub const ADDITIONAL_KEY_EXCHANGE: u16 = 16441;
}

/// The name of an error notification, in the RFC's spelling, for people.
pub fn error_name(number: u16) -> &'static str {
    match number {
        kind::UNSUPPORTED_CRITICAL_PAYLOAD => "UNSUPPORTED_CRITICAL_PAYLOAD",
        kind::INVALID_IKE_SPI => "INVALID_IKE_SPI",
        kind::INVALID_MAJOR_VERSION => "INVALID_MAJOR_VERSION",
        kind::INVALID_SYNTAX => "INVALID_SYNTAX",
        kind::INVALID_MESSAGE_ID => "INVALID_MESSAGE_ID",
        kind::INVALID_SPI => "INVALID_SPI",
        kind::NO_PROPOSAL_CHOSEN => "NO_PROPOSAL_CHOSEN",
        kind::INVALID_KE_PAYLOAD => "INVALID_KE_PAYLOAD",
        kind::AUTHENTICATION_FAILED => "AUTHENTICATION_FAILED",
        kind::SINGLE_PAIR_REQUIRED => "SINGLE_PAIR_REQUIRED",
        kind::NO_ADDITIONAL_SAS => "NO_ADDITIONAL_SAS",
        kind::FAILED_CP_REQUIRED => "FAILED_CP_REQUIRED",
        kind::TS_UNACCEPTABLE => "TS_UNACCEPTABLE",
        kind::UNACCEPTABLE_ADDRESSES => "UNACCEPTABLE_ADDRESSES",
        kind::UNEXPECTED_NAT_DETECTED => "UNEXPECTED_NAT_DETECTED",
        kind::TEMPORARY_FAILURE => "TEMPORARY_FAILURE",
        kind::CHILD_SA_NOT_FOUND => "CHILD_SA_NOT_FOUND",
        kind::TS_MAX_QUEUE => "TS_MAX_QUEUE",
        kind::STATE_NOT_FOUND => "STATE_NOT_FOUND",
        _ => "an error of unknown number",
    }
}

/// An error or a status, perhaps about an SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Protocol of `spi`; 0 without one.
    pub protocol: u8,
    /// The SA concerned; usually empty.
    pub spi: Vec<u8>,
    /// See [`kind`].
    pub kind: u16,
    /// Meaning depends on `kind`.
    pub data: Vec<u8>,
}

impl Notify {
    /// A notification that concerns no particular SA.
    pub fn new(kind: u16, data: impl Into<Vec<u8>>) -> Self {
        Self {
            protocol: protocol::NONE,
            spi: Vec::new(),
            kind,
            data: data.into(),
        }
    }

    /// A notification about the ESP SA that its sender receives on `spi`.
    pub fn about_esp(kind: u16, spi: u32) -> Self {
        Self {
            protocol: protocol::ESP,
            spi: spi.to_be_bytes().to_vec(),
            kind,
            data: Vec::new(),
        }
    }

    /// True for an error, false for a status.
    pub fn is_error(&self) -> bool {
        self.kind < kind::FIRST_STATUS
    }

    /// The SPI of the ESP SA it is about.
    pub fn esp_spi(&self) -> Option<u32> {
        let spi = <[u8; 4]>::try_from(self.spi.as_slice()).ok()?;
        (self.protocol == protocol::ESP).then(|| u32::from_be_bytes(spi))
    }

    /// Parses the body.
    ///
    /// # Errors
    /// When it is shorter than its fields say.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "notify");
        let protocol = reader.u8()?;
        let spi_len = reader.u8()?;
        let kind = reader.u16()?;
        let spi = reader.take(usize::from(spi_len))?.to_vec();
        Ok(Self {
            protocol,
            spi,
            kind,
            data: reader.rest().to_vec(),
        })
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.protocol, u8::try_from(self.spi.len()).unwrap_or(0)]);
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&self.spi);
        out.extend_from_slice(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_rekey_sa() {
        let bytes = [3, 4, 0x40, 0x09, 0xde, 0xad, 0xbe, 0xef];
        let parsed = Notify::parse(&bytes).unwrap();
        assert_eq!(parsed, Notify::about_esp(kind::REKEY_SA, 0xdead_beef));
        assert_eq!(parsed.esp_spi(), Some(0xdead_beef));
        assert!(!parsed.is_error());
        let mut out = Vec::new();
        parsed.emit(&mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn golden_invalid_ke() {
        let bytes = [0, 0, 0, 17, 0, 14];
        let parsed = Notify::parse(&bytes).unwrap();
        assert_eq!(parsed, Notify::new(kind::INVALID_KE_PAYLOAD, [0, 14]));
        assert!(parsed.is_error());
        assert!(Notify::parse(&[3, 4, 0x40, 0x09, 1, 2, 3]).is_err());
    }
}
