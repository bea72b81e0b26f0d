//! Pseudo-random functions (transform type 2, RFC 7296 sections 2.13, 2.14 and 3.3.2; RFC 4868).

use ring::hmac;
use zeroize::Zeroizing;

/// A pseudo-random function that may be negotiated. The discriminants are the IANA transform ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum PrfAlgorithm {
    /// PRF_HMAC_SHA2_256.
    HmacSha256 = 5,
    /// PRF_HMAC_SHA2_384.
    HmacSha384 = 6,
    /// PRF_HMAC_SHA2_512.
    HmacSha512 = 7,
}

/// More was asked of `prf+` than its one-octet block counter can number (RFC 7296 section 2.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("prf+ cannot give {asked} bytes: its limit with this PRF is {limit}")]
pub struct PrfPlusTooLong {
    /// Bytes asked for.
    pub asked: usize,
    /// 255 times the output length of the PRF.
    pub limit: usize,
}

impl PrfAlgorithm {
    /// The algorithm of a transform id, if it is one of ours.
    pub fn from_id(id: u16) -> Option<Self> {
        [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512]
            .into_iter()
            .find(|prf| prf.id() == id)
    }

    /// The IANA transform id.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// Length of an output, and of the preferred key (SK_d, SK_pi, SK_pr), in bytes.
    pub fn output_len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    /// `prf(key, data)`, where the data is the concatenation of `parts`. A key of any length will do
    /// (RFC 2104): the nonces `Ni | Nr` are one.
    pub fn prf(self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(mac(&hmac::Key::new(self.hmac(), key), parts).as_ref().to_vec())
    }

    /// The first `len` bytes of `prf+(key, seed)`, where the seed is the concatenation of `seed`
    /// (RFC 7296 section 2.13).
    ///
    /// # Errors
    /// If `len` is more than 255 blocks.
    pub fn prf_plus(
        self,
        key: &[u8],
        seed: &[&[u8]],
        len: usize,
    ) -> Result<Zeroizing<Vec<u8>>, PrfPlusTooLong> {
        let limit = 255 * self.output_len();
        if len > limit {
            return Err(PrfPlusTooLong { asked: len, limit });
        }
        let key = hmac::Key::new(self.hmac(), key);
        // Room for whole blocks: a reallocation would leave key material behind in freed memory.
        let mut out = Zeroizing::new(Vec::with_capacity(len.next_multiple_of(self.output_len())));
        let mut previous: Option<hmac::Tag> = None;
        for counter in 1..=255u8 {
            if out.len() >= len {
                break;
            }
            let mut context = hmac::Context::with_key(&key);
            if let Some(block) = &previous {
                context.update(block.as_ref());
            }
            seed.iter().for_each(|part| context.update(part));
            context.update(&[counter]);
            let block = context.sign();
            out.extend_from_slice(block.as_ref());
            previous = Some(block);
        }
        out.truncate(len);
        Ok(out)
    }
}

fn mac(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    context.sign()
}
