//! Keying material on its way into an SA.

use crate::{KeyError, Suite};
use zeroize::Zeroizing;

/// The keying material of one direction of a Child SA, as IKE derives it (RFC 7296 section 2.17).
///
/// What is guaranteed: the octets live in one heap allocation each, are never printed, compared or cloned,
/// and are overwritten when the value is dropped, which is as soon as an SA has been made of it. What the SA
/// itself keeps is said in [`crate::engine`].
pub struct KeyMaterial {
    encryption: Zeroizing<Box<[u8]>>,
    integrity: Zeroizing<Box<[u8]>>,
}

impl KeyMaterial {
    /// `encryption` is the cipher's key, followed for an AEAD by the 4-octet salt; `integrity` is empty for an
    /// AEAD. The lengths are checked against the suite when an SA is made.
    pub fn new(encryption: &[u8], integrity: &[u8]) -> Self {
        Self {
            encryption: Zeroizing::new(encryption.into()),
            integrity: Zeroizing::new(integrity.into()),
        }
    }

    /// The two keys, if they have the lengths that `suite` wants.
    ///
    /// # Errors
    /// [`KeyError`] names the key and both lengths.
    pub(crate) fn for_suite(&self, suite: Suite) -> Result<(&[u8], &[u8]), KeyError> {
        let (want, have) = (suite.encryption_key_len(), self.encryption.len());
        if want != have {
            return Err(KeyError::EncryptionLength { suite, want, have });
        }
        let (want, have) = (suite.integrity_key_len(), self.integrity.len());
        if want != have {
            return Err(KeyError::IntegrityLength { suite, want, have });
        }
        Ok((&self.encryption, &self.integrity))
    }
}

impl core::fmt::Debug for KeyMaterial {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("KeyMaterial(..)")
    }
}

/// 16 random octets from which an SA's AES-CBC IVs are derived; overwritten on drop and never printed.
pub struct IvKey(Zeroizing<[u8; IV_KEY_LEN]>);

const IV_KEY_LEN: usize = 16;

impl IvKey {
    /// Take the octets from the system's random generator, anew for each SA.
    pub fn new(octets: [u8; IV_KEY_LEN]) -> Self {
        Self(Zeroizing::new(octets))
    }

    pub(crate) fn octets(&self) -> &[u8; IV_KEY_LEN] {
        &self.0
    }
}

impl core::fmt::Debug for IvKey {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("IvKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_takes_its_own_lengths_only() {
        for suite in Suite::ALL {
            let (encryption, integrity) = (suite.encryption_key_len(), suite.integrity_key_len());
            for length in 0..80 {
                let keys = KeyMaterial::new(&vec![1; length], &vec![2; integrity]);
                assert_eq!(
                    keys.for_suite(suite).is_ok(),
                    length == encryption,
                    "{suite} {length}"
                );
                let keys = KeyMaterial::new(&vec![1; encryption], &vec![2; length]);
                assert_eq!(
                    keys.for_suite(suite).is_ok(),
                    length == integrity,
                    "{suite} {length}"
                );
            }
        }
    }

    #[test]
    fn debug_prints_no_octet_of_a_key() {
        assert_eq!(format!("{:?}", IvKey::new([0xab; 16])), "IvKey(..)");
        assert_eq!(
            format!("{:?}", KeyMaterial::new(&[0xab; 20], &[0xcd; 32])),
            "KeyMaterial(..)"
        );
    }
}
