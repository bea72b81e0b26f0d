//! Certificates: our own credential, the identities peers claim, the authorities we trust, and what we
//! ask peers for. Nothing here reads a file or a clock: bytes and unix time are arguments.

pub mod certificate;
pub mod certreq;
pub mod credential;
mod error;
pub mod identity;
mod lists;
pub mod name;
mod name_constraints;
pub mod revocation;
mod signature_memory;
pub mod trust;

pub(crate) use error::utc;
