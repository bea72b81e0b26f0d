//! The exchanges of IKEv2, one a file: how each request is answered, and one type for each response that
//! is awaited.

pub(crate) mod admission;
pub(crate) mod announced;
mod authentication;
pub(crate) mod create_child_sa;
pub(crate) mod ike_auth;
pub(crate) mod ike_followup_ke;
pub(crate) mod ike_intermediate;
pub(crate) mod ike_sa_init;
pub(crate) mod informational;
mod ppk;
pub(crate) mod resume;

use crate::wire::{
    Payload, WireError,
    notify::{Notify, kind},
    sa::SecurityAssociation,
};

/// Why a request is answered with an error notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) Notify);

impl Refusal {
    pub(crate) fn of(kind: u16) -> Self {
        Self(Notify::new(kind, []))
    }

    /// A payload that the exchange needs is missing or makes no sense.
    pub(crate) fn syntax() -> Self {
        Self::of(kind::INVALID_SYNTAX)
    }

    /// The group we want in place of the one sent (RFC 7296 section 1.3).
    pub(crate) fn other_group(group: u16) -> Self {
        Self(Notify::new(kind::INVALID_KE_PAYLOAD, group.to_be_bytes()))
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        match error {
            WireError::UnsupportedCritical(payload) => {
                Self(Notify::new(kind::UNSUPPORTED_CRITICAL_PAYLOAD, [payload]))
            }
            WireError::Truncated(_)
            | WireError::BadLength(_)
            | WireError::BadValue(_)
            | WireError::UnsupportedVersion(_)
            | WireError::TooManyPayloads
            | WireError::TooLong => Self::syntax(),
        }
    }
}

/// The group that an INVALID_KE_PAYLOAD notification asks for.
pub(crate) fn asked_group(notify: &Notify) -> Option<u16> {
    (notify.kind == kind::INVALID_KE_PAYLOAD).then_some(())?;
    <[u8; 2]>::try_from(notify.data.as_slice())
        .ok()
        .map(u16::from_be_bytes)
}

/// One chosen proposal as a payload.
pub(crate) fn chosen(proposal: crate::wire::sa::Proposal) -> Payload {
    Payload::Sa(SecurityAssociation {
        proposals: vec![proposal],
    })
}
