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
