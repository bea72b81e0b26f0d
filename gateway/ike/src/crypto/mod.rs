//! The cryptography of IKEv2: pseudo-random functions, key agreement, protection of the SK payload and
//! AUTH signatures. Identifiers are those of the IANA registry "IKEv2 Parameters".
//!
//! Primitives come from `ring`, except the MODP groups (`crypto-bigint`) and AES-CBC (RustCrypto), which
//! `ring` does not have. Secrets that pass through this module are held in [`zeroize::Zeroizing`].

pub mod cipher;
pub(crate) mod der;
pub mod dh;
pub mod prf;
pub mod random;
pub mod sign;
