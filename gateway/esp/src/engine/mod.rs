//! The cryptography, behind one narrow trait.
//!
//! An [`Engine`] holds the keys of one direction of one SA and knows nothing of sequence counters, windows,
//! padding, selectors or outer headers; a [`Job`] is one ESP packet in place. The SAs check a packet before its job
//! and finish it after, so that jobs can be gathered in between: a [`Burst`] does many, of whatever SAs. With the
//! feature `ipsec-mb` it does them at once, by Intel's multi-buffer library; otherwise one after another.
//!
//! # What becomes of the keys
//!
//! An engine lives in one heap allocation from its making to its drop, so moving an SA copies no key. On drop,
//! AES-CBC's key schedule is zeroized by its library; ring's keys, which ring leaves as they are, are
//! overwritten with those of an all-zero key. Not guaranteed: copies that the compiler made on the stack while
//! the key schedule was computed, and registers saved by the operating system.

mod burst;
mod cbc_hmac;
#[cfg(feature = "ipsec-mb")]
mod multi_buffer;
mod ring_aead;

use crate::{ESP_HEADER_LEN, KeyError, KeyMaterial, Span, Suite};
pub use burst::{Burst, Done, Task, Way};
use cbc_hmac::CbcHmac;
use ring_aead::RingAead;
use thiserror::Error;

/// One ESP packet to seal or open in place.
#[derive(Debug)]
pub struct Job<'a> {
    /// From the SPI to the end of the ICV. Header and IV are filled in. To seal: the text between IV and ICV
    /// is the plaintext with its padding and trailer. To open: it is the ciphertext.
    pub esp: &'a mut [u8],
    /// The high half of an extended sequence number, which is authenticated but not sent (RFC 4303 section
    /// 2.2.1); `None` with 32-bit numbers.
    pub sequence_high: Option<u32>,
}

/// The engine did not do the job: to open, the ICV is wrong; to seal, the packet has no room for what the suite
/// wants, or is larger than the algorithm allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("cryptographic engine refused the packet")]
pub struct Refused;

/// Seals and opens the packets of one direction of one SA.
pub trait Engine: Send {
    /// Encrypts the text in place and writes the ICV.
    ///
    /// # Errors
    /// [`Refused`]: the packet must not be sent.
    fn seal(&self, job: Job<'_>) -> Result<(), Refused>;

    /// Verifies the ICV and decrypts the text in place.
    ///
    /// # Errors
    /// [`Refused`]: what is in the buffer now must not be used.
    fn open(&self, job: Job<'_>) -> Result<(), Refused>;

    /// Where the keys lie.
    fn span(&self) -> Span;

    /// The same key as the multi-buffer library takes it, if it does this suite.
    #[cfg(feature = "ipsec-mb")]
    fn burst_key(&self) -> Option<&gateway_ipsec_mb::Key> {
        None
    }
}

/// The engine of this machine for `suite`.
///
/// # Errors
/// [`KeyError`] if a key does not have the suite's length.
pub fn new(suite: Suite, keys: &KeyMaterial) -> Result<Box<dyn Engine>, KeyError> {
    let (encryption, integrity) = keys.for_suite(suite)?;
    let engine: Option<Box<dyn Engine>> = match suite {
        Suite::AesGcm16_128 => boxed(RingAead::new(suite, &ring::aead::AES_128_GCM, encryption)),
        Suite::AesGcm16_256 => boxed(RingAead::new(suite, &ring::aead::AES_256_GCM, encryption)),
        Suite::ChaCha20Poly1305 => boxed(RingAead::new(suite, &ring::aead::CHACHA20_POLY1305, encryption)),
        Suite::AesCbc128HmacSha256_128 | Suite::AesCbc128HmacSha384_192 | Suite::AesCbc128HmacSha512_256 => {
            boxed(CbcHmac::<aes::Aes128>::new(suite, encryption, integrity))
        }
        Suite::AesCbc256HmacSha256_128 | Suite::AesCbc256HmacSha384_192 | Suite::AesCbc256HmacSha512_256 => {
            boxed(CbcHmac::<aes::Aes256>::new(suite, encryption, integrity))
        }
    };
    let engine = engine.ok_or(KeyError::EncryptionLength {
        suite,
        want: suite.encryption_key_len(),
        have: encryption.len(),
    })?;
    #[cfg(feature = "ipsec-mb")]
    let engine = multi_buffer::beside(engine, suite, encryption, integrity);
    Ok(engine)
}

fn boxed<E: Engine + 'static>(engine: Option<E>) -> Option<Box<dyn Engine>> {
    engine.map(|engine| Box::new(engine) as Box<dyn Engine>)
}

/// An ESP packet taken apart.
struct Parts<'a> {
    header: &'a [u8; ESP_HEADER_LEN],
    iv: &'a [u8],
    text: &'a mut [u8],
    icv: &'a mut [u8],
}

impl<'a> Parts<'a> {
    #[inline]
    fn split(esp: &'a mut [u8], suite: Suite) -> Option<Self> {
        let (header, rest) = esp.split_first_chunk_mut::<ESP_HEADER_LEN>()?;
        let (iv, rest) = rest.split_at_mut_checked(suite.iv_len())?;
        let text_len = rest.len().checked_sub(suite.icv_len())?;
        let (text, icv) = rest.split_at_mut_checked(text_len)?;
        Some(Self {
            header,
            iv,
            text,
            icv,
        })
    }
}
