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

    /// Whether `tag` is `prf(key, data)`, in a time that does not depend on where they differ.
    pub fn verify(self, key: &[u8], data: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&hmac::Key::new(self.hmac(), key), data, tag).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::{hex, sha256};
    use proptest::prelude::*;

    const ALL: [PrfAlgorithm; 3] = [
        PrfAlgorithm::HmacSha256,
        PrfAlgorithm::HmacSha384,
        PrfAlgorithm::HmacSha512,
    ];

    #[test]
    fn ids_are_those_of_the_registry() {
        assert_eq!(ALL.map(PrfAlgorithm::id), [5, 6, 7]);
        assert_eq!(ALL.map(|prf| PrfAlgorithm::from_id(prf.id())), ALL.map(Some));
        // 2 is PRF_HMAC_SHA1.
        assert_eq!([0, 2, 4, 8].map(PrfAlgorithm::from_id), [None; 4]);
    }

    /// RFC 4868 section 2.7.2.1, test case PRF-2 (RFC 4231, test case 2), in parts.
    #[test]
    fn prf_is_hmac_over_the_concatenated_parts() {
        let out = PrfAlgorithm::HmacSha256.prf(b"Jefe", &[b"what do ya want ", b"", b"for nothing?"]);
        assert_eq!(
            hex(&out),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    /// tests/data/vectors.py.
    #[test]
    fn prf_plus_agrees_with_python() {
        let hashes = [
            "72cec65bb519cc4c1014295a13b543d49129b799f36470bd1ddab275e8da9d97",
            "a2d995aaafd67b784770dead2e1cb982bd877139c746fdbb47eaf5759bbf4a28",
            "741d03b209e70267ee4486543bb354e9db2a2054f85b1620c749e043824fd070",
        ];
        for (prf, expected) in ALL.into_iter().zip(hashes) {
            let out = prf
                .prf_plus(b"key material", &[b"seed one", b"seed two"], 200)
                .unwrap();
            assert_eq!(sha256(&out), expected, "{prf:?}");
        }
    }

    /// RFC 7296 section 2.13: the counter is one octet, so 255 blocks are the limit.
    #[test]
    fn prf_plus_stops_at_its_counter() {
        for prf in ALL {
            let limit = 255 * prf.output_len();
            assert_eq!(prf.prf_plus(b"k", &[b"s"], limit).unwrap().len(), limit);
            assert_eq!(
                prf.prf_plus(b"k", &[b"s"], limit + 1),
                Err(PrfPlusTooLong {
                    asked: limit + 1,
                    limit
                })
            );
        }
    }

    proptest! {
        #[test]
        fn a_shorter_stream_is_a_prefix(len in 0usize..300, longer in 0usize..300, key: Vec<u8>, seed: Vec<u8>) {
            let prf = PrfAlgorithm::HmacSha256;
            let whole = prf.prf_plus(&key, &[&seed], len + longer).unwrap();
            let part = prf.prf_plus(&key, &[&seed], len).unwrap();
            prop_assert_eq!(part.len(), len);
            prop_assert_eq!(&whole[..len], &part[..]);
        }
    }
}
