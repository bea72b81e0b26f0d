//! AES-CBC (RFC 3602) with HMAC-SHA2, cut to half (RFC 4868): encrypt, then MAC (RFC 4303 section 3.3.2).

use super::{Engine, Job, Parts, Refused};
use crate::{ESP_HEADER_LEN, Span, Suite};
use aes::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, BlockSizeUser,
    InnerIvInit, KeyInit, consts::U16,
};
use ring::hmac;
use subtle::ConstantTimeEq;

const BLOCK_LEN: usize = 16;

pub(super) struct CbcHmac<C> {
    suite: Suite,
    /// Zeroized on drop by its library.
    cipher: C,
    mac: hmac::Key,
}

impl<C: KeyInit> CbcHmac<C> {
    /// `None` if `encryption` is not the cipher's key length.
    pub(super) fn new(suite: Suite, encryption: &[u8], integrity: &[u8]) -> Option<Self> {
        Some(Self {
            suite,
            cipher: C::new_from_slice(encryption).ok()?,
            mac: hmac::Key::new(hash(suite)?, integrity),
        })
    }
}

/// The hash of the suite's HMAC; none for an AEAD.
fn hash(suite: Suite) -> Option<hmac::Algorithm> {
    match suite {
        Suite::AesCbc128HmacSha256_128 | Suite::AesCbc256HmacSha256_128 => Some(hmac::HMAC_SHA256),
        Suite::AesCbc128HmacSha384_192 | Suite::AesCbc256HmacSha384_192 => Some(hmac::HMAC_SHA384),
        Suite::AesCbc128HmacSha512_256 | Suite::AesCbc256HmacSha512_256 => Some(hmac::HMAC_SHA512),
        Suite::AesGcm16_128 | Suite::AesGcm16_256 | Suite::ChaCha20Poly1305 => None,
    }
}

impl<C> CbcHmac<C> {
    /// The whole MAC over header, IV and ciphertext, and with extended numbers the high half behind them (RFC
    /// 4303 section 2.2.1). The ICV is its first half (RFC 4868 section 2.1.1).
    #[inline]
    fn mac(
        &self,
        header: &[u8; ESP_HEADER_LEN],
        iv: &[u8],
        text: &[u8],
        sequence_high: Option<u32>,
    ) -> hmac::Tag {
        let mut mac = hmac::Context::with_key(&self.mac);
        mac.update(header);
        mac.update(iv);
        mac.update(text);
        if let Some(high) = sequence_high {
            mac.update(&high.to_be_bytes());
        }
        mac.sign()
    }
}

impl<C> Engine for CbcHmac<C>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send,
{
    fn span(&self) -> Span {
        Span::of(self)
    }

    fn seal(&self, job: Job<'_>) -> Result<(), Refused> {
        let parts = Parts::split(job.esp, self.suite).ok_or(Refused)?;
        let iv: [u8; BLOCK_LEN] = *parts.iv.first_chunk().ok_or(Refused)?;
        let (blocks, rest) = Array::slice_as_chunks_mut(parts.text);
        if !rest.is_empty() {
            return Err(Refused);
        }
        cbc::Encryptor::inner_iv_init(&self.cipher, &Array(iv)).encrypt_blocks(blocks);
        let mac = self.mac(parts.header, parts.iv, parts.text, job.sequence_high);
        let icv = mac.as_ref().get(..self.suite.icv_len()).ok_or(Refused)?;
        parts.icv.copy_from_slice(icv);
        Ok(())
    }

    fn open(&self, job: Job<'_>) -> Result<(), Refused> {
        let parts = Parts::split(job.esp, self.suite).ok_or(Refused)?;
        let mac = self.mac(parts.header, parts.iv, parts.text, job.sequence_high);
        let icv = mac.as_ref().get(..self.suite.icv_len()).ok_or(Refused)?;
        // In constant time: how many octets of a forged ICV were right must not show.
        if !bool::from(icv.ct_eq(parts.icv)) {
            return Err(Refused);
        }
        let iv: [u8; BLOCK_LEN] = *parts.iv.first_chunk().ok_or(Refused)?;
        let (blocks, rest) = Array::slice_as_chunks_mut(parts.text);
        if !rest.is_empty() {
            return Err(Refused);
        }
        cbc::Decryptor::inner_iv_init(&self.cipher, &Array(iv)).decrypt_blocks(blocks);
        Ok(())
    }
}

impl<C> Drop for CbcHmac<C> {
    /// ring does not zeroize: an all-zero key's state goes over the old one's. See `RingAead`.
    fn drop(&mut self) {
        self.mac = hmac::Key::new(self.mac.algorithm(), &[0; 32]);
        core::hint::black_box(&mut self.mac);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ICV over `data`, which is what an ESP packet would have as header, IV and text.
    fn icv(suite: Suite, key: &[u8], data: &[u8]) -> String {
        let engine = CbcHmac::<aes::Aes128>::new(suite, &[0; 16], key).unwrap();
        let (header, rest) = data.split_first_chunk().unwrap();
        let (iv, text) = rest.split_at(rest.len().min(16));
        let mac = engine.mac(header, iv, text, None);
        let icv = &mac.as_ref()[..suite.icv_len()];
        icv.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// RFC 4868 sections 2.7.2.1 to 2.7.2.3: test cases 1 to 4 of AUTH256, AUTH384 and AUTH512.
    #[test]
    fn hmac_sha2_known_answers() {
        let suites = [
            (
                Suite::AesCbc128HmacSha256_128,
                [
                    "198a607eb44bfbc69903a0f1cf2bbdc5",
                    "167f928588c5cc2eef8e3093caa0e87c",
                    "cdcb1220d1ecccea91e53aba3092f962",
                    "372efcf9b40b35c2115b1346903d2ef4",
                ],
            ),
            (
                Suite::AesCbc128HmacSha384_192,
                [
                    "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973",
                    "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184d",
                    "809f439be00274321d4a538652164b53554a508184a0c316",
                    "5b540085c6e6358096532b2493609ed1cb298f774f87bb5c",
                ],
            ),
            (
                Suite::AesCbc128HmacSha512_256,
                [
                    "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
                    "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454",
                    "2ee7acd783624ca9398710f3ee05ae41b9f9b0510c87e49e586cc9bf961733d8",
                    "5e6688e5a3daec826ca32eaea224eff5e700628947470e13ad01302561bab108",
                ],
            ),
        ];
        for (suite, expected) in suites {
            let len = suite.integrity_key_len();
            let jefe: Vec<u8> = b"Jefe".iter().copied().cycle().take(len).collect();
            // The RFC's key for 384 bits goes back to 0x0a after 0x20.
            let counting: Vec<u8> = match len {
                48 => (1..=32).chain(0x0a..=0x19).collect(),
                _ => (1..=len as u8).collect(),
            };
            let cases: [(&[u8], &[u8]); 4] = [
                (&vec![0x0b; len], b"Hi There"),
                (&jefe, b"what do ya want for nothing?"),
                (&vec![0xaa; len], &[0xdd; 50]),
                (&counting, &[0xcd; 50]),
            ];
            for ((key, data), expected) in cases.into_iter().zip(expected) {
                assert_eq!(icv(suite, key, data), expected, "{suite}");
            }
        }
    }

    /// RFC 4303 section 2.2.1: the high half is authenticated as if it followed the ciphertext.
    #[test]
    fn the_high_half_is_authenticated_behind_the_text() {
        let engine = CbcHmac::<aes::Aes256>::new(Suite::AesCbc256HmacSha256_128, &[7; 32], &[9; 32]).unwrap();
        let (header, iv, text) = ([1; 8], [2; 16], [3; 32]);
        let mut longer = text.to_vec();
        longer.extend_from_slice(&0x0102_0304_u32.to_be_bytes());
        let mac = |text: &[u8], high| engine.mac(&header, &iv, text, high).as_ref().to_vec();
        assert_eq!(mac(&text, Some(0x0102_0304)), mac(&longer, None));
        assert_ne!(mac(&text, Some(0)), mac(&text, None));
    }
}
