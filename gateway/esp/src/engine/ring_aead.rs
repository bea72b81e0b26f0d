//! AES-GCM (RFC 4106) and ChaCha20-Poly1305 (RFC 7634) by ring.

use super::{Engine, Job, Parts, Refused};
use crate::suite::SALT_LEN;
use crate::{ESP_HEADER_LEN, Span, Suite};
use ring::aead::{Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use zeroize::Zeroize;

const IV_LEN: usize = NONCE_LEN - SALT_LEN;

pub(super) struct RingAead {
    suite: Suite,
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
}

impl RingAead {
    /// `key_and_salt`: the algorithm's key, then 4 octets of salt. `None` for any other length.
    pub(super) fn new(suite: Suite, algorithm: &'static Algorithm, key_and_salt: &[u8]) -> Option<Self> {
        let (key, salt) = key_and_salt.split_last_chunk::<SALT_LEN>()?;
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        Some(Self {
            suite,
            key,
            salt: *salt,
        })
    }

    /// Salt, then the IV from the packet (RFC 4106 section 4, RFC 7634 section 2).
    #[inline]
    fn nonce(&self, iv: &[u8]) -> Option<Nonce> {
        let mut nonce = [0; NONCE_LEN];
        let (salt, rest) = nonce.split_first_chunk_mut::<SALT_LEN>()?;
        *salt = self.salt;
        *rest.first_chunk_mut::<IV_LEN>()? = *iv.first_chunk()?;
        Some(Nonce::assume_unique_for_key(nonce))
    }
}

impl Engine for RingAead {
    fn span(&self) -> Span {
        Span::of(self)
    }

    fn seal(&self, job: Job<'_>) -> Result<(), Refused> {
        let parts = Parts::split(job.esp, self.suite).ok_or(Refused)?;
        let nonce = self.nonce(parts.iv).ok_or(Refused)?;
        let aad = AssociatedData::new(parts.header, job.sequence_high);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(aad), parts.text)
            .map_err(|ring::error::Unspecified| Refused)?;
        *parts.icv.first_chunk_mut::<16>().ok_or(Refused)? = *tag.as_ref().first_chunk().ok_or(Refused)?;
        Ok(())
    }

    fn open(&self, job: Job<'_>) -> Result<(), Refused> {
        let parts = Parts::split(job.esp, self.suite).ok_or(Refused)?;
        let nonce = self.nonce(parts.iv).ok_or(Refused)?;
        let aad = AssociatedData::new(parts.header, job.sequence_high);
        let tag = Tag::try_from(&*parts.icv).map_err(|_| Refused)?;
        self.key
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag, parts.text, 0..)
            .map(|_plaintext| ())
            .map_err(|ring::error::Unspecified| Refused)
    }
}

impl Drop for RingAead {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl RingAead {
    /// ring does not zeroize. Assigning an all-zero key writes its schedule over the old one; `black_box`
    /// keeps the compiler from leaving out stores that nobody reads again.
    fn wipe(&mut self) {
        let algorithm = self.key.algorithm();
        let zeros = [0; 32];
        if let Some(key) = zeros
            .get(..algorithm.key_len())
            .and_then(|key| UnboundKey::new(algorithm, key).ok())
        {
            self.key = LessSafeKey::new(key);
            core::hint::black_box(&mut self.key);
        }
        self.salt.zeroize();
    }
}

/// SPI and sequence number; with extended numbers the high half stands between them (RFC 4106 section 5,
/// RFC 7634 section 2.1).
struct AssociatedData {
    bytes: [u8; ESP_HEADER_LEN + 4],
    len: usize,
}

impl AssociatedData {
    #[inline]
    fn new(header: &[u8; ESP_HEADER_LEN], sequence_high: Option<u32>) -> Self {
        let [s0, s1, s2, s3, n0, n1, n2, n3] = *header;
        match sequence_high {
            None => Self {
                bytes: [s0, s1, s2, s3, n0, n1, n2, n3, 0, 0, 0, 0],
                len: ESP_HEADER_LEN,
            },
            Some(high) => {
                let [h0, h1, h2, h3] = high.to_be_bytes();
                Self {
                    bytes: [s0, s1, s2, s3, h0, h1, h2, h3, n0, n1, n2, n3],
                    len: ESP_HEADER_LEN + 4,
                }
            }
        }
    }
}

impl AsRef<[u8]> for AssociatedData {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305};

    fn sealed(engine: &RingAead) -> [u8; 64] {
        let mut esp = [0x5a; 64];
        engine
            .seal(Job {
                esp: &mut esp,
                sequence_high: None,
            })
            .unwrap();
        esp
    }

    #[test]
    fn a_wiped_engine_has_the_all_zero_key() {
        for (suite, algorithm) in [
            (Suite::AesGcm16_128, &AES_128_GCM),
            (Suite::AesGcm16_256, &AES_256_GCM),
            (Suite::ChaCha20Poly1305, &CHACHA20_POLY1305),
        ] {
            let length = suite.encryption_key_len();
            let zero = RingAead::new(suite, algorithm, &vec![0; length]).unwrap();
            let mut engine = RingAead::new(suite, algorithm, &vec![0x77; length]).unwrap();
            assert_ne!(sealed(&engine), sealed(&zero));
            engine.wipe();
            assert_eq!(sealed(&engine), sealed(&zero), "{suite}");
        }
    }
}
