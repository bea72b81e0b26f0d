//! AES-CBC (RFC 3602) with HMAC-SHA-256-128 (RFC 4868): encrypt, then MAC (RFC 4303 section 3.3.2).

use super::{Engine, Job, Parts, Refused};
use crate::{ESP_HEADER_LEN, Suite};
use aes::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, BlockSizeUser,
    InnerIvInit, KeyInit, consts::U16,
};
use ring::hmac;
use subtle::ConstantTimeEq;

/// RFC 4868 section 2.1.1: the MAC is cut to half its length.
const ICV_LEN: usize = 16;
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
            mac: hmac::Key::new(hmac::HMAC_SHA256, integrity),
        })
    }
}

impl<C> CbcHmac<C> {
    /// The MAC over header, IV and ciphertext, and with extended numbers the high half behind them (RFC 4303
    /// section 2.2.1).
    #[inline]
    fn icv(
        &self,
        header: &[u8; ESP_HEADER_LEN],
        iv: &[u8],
        text: &[u8],
        sequence_high: Option<u32>,
    ) -> Option<[u8; ICV_LEN]> {
        let mut mac = hmac::Context::with_key(&self.mac);
        mac.update(header);
        mac.update(iv);
        mac.update(text);
        if let Some(high) = sequence_high {
            mac.update(&high.to_be_bytes());
        }
        mac.sign().as_ref().first_chunk().copied()
    }
}

impl<C> Engine for CbcHmac<C>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send,
{
    fn seal(&self, job: Job<'_>) -> Result<(), Refused> {
        let parts = Parts::split(job.esp, self.suite).ok_or(Refused)?;
        let iv: [u8; BLOCK_LEN] = *parts.iv.first_chunk().ok_or(Refused)?;
        let (blocks, rest) = Array::slice_as_chunks_mut(parts.text);
        if !rest.is_empty() {
            return Err(Refused);
        }
        cbc::Encryptor::inner_iv_init(&self.cipher, &Array(iv)).encrypt_blocks(blocks);
        let icv = self
            .icv(parts.header, parts.iv, parts.text, job.sequence_high)
            .ok_or(Refused)?;
        *parts.icv.first_chunk_mut().ok_or(Refused)? = icv;
        Ok(())
    }

    fn open(&self, job: Job<'_>) -> Result<(), Refused> {
        let parts = Parts::split(job.esp, self.suite).ok_or(Refused)?;
        let icv = self
            .icv(parts.header, parts.iv, parts.text, job.sequence_high)
            .ok_or(Refused)?;
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
        self.mac = hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]);
        core::hint::black_box(&mut self.mac);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4868 section 2.7.2.1, AUTH256-1 to AUTH256-4: the data is what an ESP packet would have as header,
    /// IV and text.
    #[test]
    fn hmac_sha256_128_known_answers() {
        let counting: [u8; 32] = core::array::from_fn(|i| i as u8 + 1);
        let jefe: [u8; 32] = core::array::from_fn(|i| b"Jefe"[i % 4]);
        let cases: [([u8; 32], &[u8], u128); 4] = [
            ([0x0b; 32], b"Hi There", 0x198a607eb44bfbc69903a0f1cf2bbdc5),
            (
                jefe,
                b"what do ya want for nothing?",
                0x167f928588c5cc2eef8e3093caa0e87c,
            ),
            ([0xaa; 32], &[0xdd; 50], 0xcdcb1220d1ecccea91e53aba3092f962),
            (counting, &[0xcd; 50], 0x372efcf9b40b35c2115b1346903d2ef4),
        ];
        for (key, data, want) in cases {
            let engine = CbcHmac::<aes::Aes128>::new(Suite::AesCbc128HmacSha256_128, &[0; 16], &key).unwrap();
            let (header, rest) = data.split_first_chunk().unwrap();
            let (iv, text) = rest.split_at(rest.len().min(16));
            assert_eq!(engine.icv(header, iv, text, None), Some(want.to_be_bytes()));
        }
    }

    /// RFC 4303 section 2.2.1: the high half is authenticated as if it followed the ciphertext.
    #[test]
    fn the_high_half_is_authenticated_behind_the_text() {
        let engine = CbcHmac::<aes::Aes256>::new(Suite::AesCbc256HmacSha256_128, &[7; 32], &[9; 32]).unwrap();
        let (header, iv, text) = ([1; 8], [2; 16], [3; 32]);
        let mut longer = text.to_vec();
        longer.extend_from_slice(&0x0102_0304_u32.to_be_bytes());
        assert_eq!(
            engine.icv(&header, &iv, &text, Some(0x0102_0304)),
            engine.icv(&header, &iv, &longer, None)
        );
        assert_ne!(
            engine.icv(&header, &iv, &text, Some(0)),
            engine.icv(&header, &iv, &text, None)
        );
    }
}
