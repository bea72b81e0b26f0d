//! The IKEv2 wire format (RFC 7296 section 3), one payload a file.
//!
//! Every payload is a small owned representation with `parse` (checked, never panics, allocates no
//! more than its input is long) and `emit` (appends the body, without the generic payload header,
//! which [`chain`] writes). Nothing here knows keys or states.

pub mod auth;
pub mod cert;
pub mod certreq;
pub mod chain;
pub mod delete;
pub mod encrypted;
pub mod fragment;
pub mod header;
pub mod id;
pub mod ke;
pub mod message;
pub mod nonce;
pub mod notify;
pub mod payload;
pub mod puzzle;
pub mod reader;
pub mod sa;
pub mod ts;
pub mod vendor;

pub use chain::{Chain, ChainBuilder, RawPayload};
pub use header::{Exchange, Header};
pub use message::Message;
pub use payload::Payload;

/// Why bytes are not a well-formed IKEv2 message or payload; one variant per fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than the structure named needs.
    #[error("{0} is truncated")]
    Truncated(&'static str),
    /// A length field contradicts the bytes that are there.
    #[error("{0} has a length field that contradicts its content")]
    BadLength(&'static str),
    /// A field has a value that RFC 7296 forbids.
    #[error("{0} has a forbidden value")]
    BadValue(&'static str),
    /// The major version is not 2; the peer's version byte.
    #[error("IKE version {0:#04x} is not 2.x")]
    UnsupportedVersion(u8),
    /// A payload of unknown type has the critical bit (RFC 7296 section 2.5); its type.
    #[error("critical payload of unknown type {0}")]
    UnsupportedCritical(u8),
    /// More payloads than any real message holds.
    #[error("too many payloads")]
    TooManyPayloads,
    /// What is to be sent does not fit the 16-bit length of a payload.
    #[error("a payload to be sent is too long")]
    TooLong,
}

/// Protocol identifiers of proposals, notifications and deletions (RFC 7296 section 3.3.1).
pub mod protocol {
    /// No protocol: a notification that concerns no SA.
    pub const NONE: u8 = 0;
    /// The IKE SA itself.
    pub const IKE: u8 = 1;
    /// Authentication Header.
    pub const AH: u8 = 2;
    /// Encapsulating Security Payload.
    pub const ESP: u8 = 3;
}

/// Payload types (RFC 7296 section 3.2, RFC 7383).
pub mod payload_type {
    /// No next payload.
    pub const NONE: u8 = 0;
    /// Security Association.
    pub const SA: u8 = 33;
    /// Key Exchange.
    pub const KE: u8 = 34;
    /// Identification of the initiator.
    pub const ID_I: u8 = 35;
    /// Identification of the responder.
    pub const ID_R: u8 = 36;
    /// Certificate.
    pub const CERT: u8 = 37;
    /// Certificate Request.
    pub const CERTREQ: u8 = 38;
    /// Authentication.
    pub const AUTH: u8 = 39;
    /// Nonce.
    pub const NONCE: u8 = 40;
    /// Notify.
    pub const NOTIFY: u8 = 41;
    /// Delete.
    pub const DELETE: u8 = 42;
    /// Vendor ID.
    pub const VENDOR: u8 = 43;
    /// Traffic Selectors of the initiator.
    pub const TS_I: u8 = 44;
    /// Traffic Selectors of the responder.
    pub const TS_R: u8 = 45;
    /// Encrypted and Authenticated.
    pub const SK: u8 = 46;
    /// Configuration; known so that its critical bit harms nobody, otherwise ignored.
    pub const CP: u8 = 47;
    /// Extensible Authentication; known, not offered.
    pub const EAP: u8 = 48;
    /// Encrypted and Authenticated Fragment (RFC 7383).
    pub const SKF: u8 = 53;
    /// Puzzle Solution (RFC 8019).
    pub const PUZZLE_SOLUTION: u8 = 54;
}
