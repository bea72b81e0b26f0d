//! Encrypted payload (RFC 7296 section 3.14): one message, sealed whole.

use zeroize::Zeroizing;

use super::{
    ChainBuilder, WireError,
    chain::GENERIC_HEADER_LEN,
    header::{HEADER_LEN, Header},
    payload_type,
};
use crate::crypto::{
    cipher::{CipherError, SkOpener, SkSealer},
    random::Random,
};

/// Why a message was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtectError {
    /// The message is not well-formed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Its integrity check failed, or the key is used up.
    #[error(transparent)]
    Cipher(#[from] CipherError),
}

/// A message whose only payload is SK with `payloads` inside.
///
/// # Errors
/// When it would be longer than a payload can be, or the cipher cannot seal any more.
pub fn seal(
    header: Header,
    payloads: ChainBuilder,
    sealer: &mut SkSealer,
    random: &mut dyn Random,
) -> Result<Vec<u8>, ProtectError> {
    let (first, content) = payloads.finish()?;
    let content = Zeroizing::new(content);
    seal_payload(header, payload_type::SK, first, &[], &content, sealer, random)
}

/// The SK or SKF message around `content`; `fields` stand between generic header and IV.
pub(crate) fn seal_payload(
    mut header: Header,
    kind: u8,
    first: u8,
    fields: &[u8],
    content: &[u8],
    sealer: &mut SkSealer,
    random: &mut dyn Random,
) -> Result<Vec<u8>, ProtectError> {
    let payload_len = GENERIC_HEADER_LEN + fields.len() + sealer.suite().body_len(content.len());
    let length = u32::try_from(HEADER_LEN + payload_len).map_err(|_| WireError::TooLong)?;
    let payload_len = u16::try_from(payload_len).map_err(|_| WireError::TooLong)?;
    header.next_payload = kind;
    let mut message = Vec::with_capacity(HEADER_LEN + usize::from(payload_len));
    header.emit(length, &mut message);
    message.extend_from_slice(&[first, 0]);
    message.extend_from_slice(&payload_len.to_be_bytes());
    message.extend_from_slice(fields);
    let body = sealer.seal(random, &message, content)?;
    message.extend_from_slice(&body);
    Ok(message)
}

/// Opens the body that starts `offset` octets into `message` and ends with it.
///
/// # Errors
/// When the integrity check fails; the message must then be dropped without an answer.
pub fn open(message: &[u8], offset: usize, opener: &SkOpener) -> Result<Zeroizing<Vec<u8>>, ProtectError> {
    let (head, body) = message
        .split_at_checked(offset)
        .ok_or(WireError::Truncated("encrypted payload"))?;
    Ok(opener.open(head, body)?)
}
