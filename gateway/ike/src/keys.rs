//! Key derivation (RFC 7296 sections 2.13 to 2.18).

use zeroize::Zeroizing;

use crate::{
    child_sa::KeyMaterial,
    crypto::{
        cipher::{SkOpener, SkSealer},
        prf::PrfAlgorithm,
    },
    proposal::{EspSuite, IkeProposal},
};

/// A secret that is wiped when dropped.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

/// The two SPIs and nonces that every derivation of an IKE SA takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeds<'a> {
    pub(crate) nonce_i: &'a [u8],
    pub(crate) nonce_r: &'a [u8],
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
}

/// All keys of an IKE SA, as seen from one side.
pub(crate) struct IkeKeys {
    pub(crate) prf: PrfAlgorithm,
    /// Derives Child SA keys and the next IKE SA.
    pub(crate) sk_d: Secret,
    /// Authentication of the initiator in IKE_AUTH.
    pub(crate) sk_pi: Secret,
    /// Authentication of the responder in IKE_AUTH.
    pub(crate) sk_pr: Secret,
    pub(crate) sealer: SkSealer,
    pub(crate) opener: SkOpener,
}

/// Derivation failed: a cipher refused its key, or was asked for more than it can give. Neither comes from
/// what a peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("keys could not be derived")]
pub(crate) struct KeyError;

/// `SKEYSEED = prf(Ni | Nr, g^ir)` (section 2.14).
pub(crate) fn skeyseed(prf: PrfAlgorithm, seeds: &Seeds<'_>, shared: &[u8]) -> Secret {
    let key = Zeroizing::new([seeds.nonce_i, seeds.nonce_r].concat());
    prf.prf(&key, &[shared])
}

/// `SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr)` (section 2.18), with the PRF of the old IKE SA. With additional
/// key exchanges `SKEYSEED = prf(SK_d (old), SK(0) | Ni | Nr | SK(1) | ... SK(n))` (RFC 9370 section 2.2.4).
pub(crate) fn skeyseed_rekey(
    old_prf: PrfAlgorithm,
    old_sk_d: &[u8],
    seeds: &Seeds<'_>,
    shared: &[u8],
    additional: &[Secret],
) -> Secret {
    let first = [shared, seeds.nonce_i, seeds.nonce_r];
    let parts: Vec<&[u8]> = first
        .into_iter()
        .chain(additional.iter().map(|secret| secret.as_slice()))
        .collect();
    old_prf.prf(old_sk_d, &parts)
}

/// `SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr)` (RFC 5723 section 5.1).
pub(crate) fn skeyseed_resumed(prf: PrfAlgorithm, old_sk_d: &[u8], seeds: &Seeds<'_>) -> Secret {
    prf.prf(old_sk_d, &[b"Resumption", seeds.nonce_i, seeds.nonce_r])
}

/// `{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)`.
pub(crate) fn derive_ike(
    suite: &IkeProposal,
    skeyseed: &[u8],
    seeds: &Seeds<'_>,
    initiator: bool,
) -> Result<IkeKeys, KeyError> {
    let (prf_len, cipher) = (suite.prf.output_len(), suite.cipher);
    let (encr_len, integ_len) = (cipher.key_len(), cipher.integ_key_len());
    let total = 3 * prf_len + 2 * integ_len + 2 * encr_len;
    let (spi_i, spi_r) = (seeds.spi_i.to_be_bytes(), seeds.spi_r.to_be_bytes());
    let seed: [&[u8]; 4] = [seeds.nonce_i, seeds.nonce_r, &spi_i, &spi_r];
    let stream = suite.prf.prf_plus(skeyseed, &seed, total).map_err(|_| KeyError)?;
    let mut cut = Cutter(&stream);
    let sk_d = cut.take(prf_len)?;
    let (sk_ai, sk_ar) = (cut.take(integ_len)?, cut.take(integ_len)?);
    let (sk_ei, sk_er) = (cut.take(encr_len)?, cut.take(encr_len)?);
    let (sk_pi, sk_pr) = (cut.take(prf_len)?, cut.take(prf_len)?);
    let (own, peer) = if initiator {
        ((&sk_ei, &sk_ai), (&sk_er, &sk_ar))
    } else {
        ((&sk_er, &sk_ar), (&sk_ei, &sk_ai))
    };
    let sealer = SkSealer::new(cipher, own.0, own.1).map_err(|_| KeyError)?;
    let opener = SkOpener::new(cipher, peer.0, peer.1).map_err(|_| KeyError)?;
    Ok(IkeKeys {
        prf: suite.prf,
        sk_d,
        sk_pi,
        sk_pr,
        sealer,
        opener,
    })
}

/// Keys of a Child SA: those for traffic from the initiator of the exchange, and those for the other way.
///
/// `KEYMAT = prf+(SK_d, [g^ir (new)] | Ni | Nr)` (section 2.17), with additional key exchanges
/// `prf+(SK_d, SK(0) | Ni | Nr | SK(1) | ... SK(n))` (RFC 9370 section 2.2.4); encryption before integrity,
/// initiator before responder.
pub(crate) fn derive_child(
    prf: PrfAlgorithm,
    sk_d: &[u8],
    (shared, additional): (Option<&[u8]>, &[Secret]),
    nonces: (&[u8], &[u8]),
    suite: EspSuite,
) -> Result<(KeyMaterial, KeyMaterial), KeyError> {
    let (encr_len, integ_len) = (suite.encryption_key_len(), suite.integrity_key_len());
    let first = [shared.unwrap_or_default(), nonces.0, nonces.1];
    let seed: Vec<&[u8]> = first
        .into_iter()
        .chain(additional.iter().map(|secret| secret.as_slice()))
        .collect();
    let stream = prf
        .prf_plus(sk_d, &seed, 2 * (encr_len + integ_len))
        .map_err(|_| KeyError)?;
    let mut cut = Cutter(&stream);
    let mut direction = || -> Result<KeyMaterial, KeyError> {
        let (encryption, integrity) = (cut.take(encr_len)?, cut.take(integ_len)?);
        Ok(KeyMaterial {
            encryption: encryption.to_vec(),
            integrity: integrity.to_vec(),
        })
    };
    Ok((direction()?, direction()?))
}

/// What AUTH signs: `RealMessage | Nonce of the other side | prf(SK_p, RestOfIDPayload)` (section 2.15).
pub(crate) fn auth_octets(
    prf: PrfAlgorithm,
    sk_p: &[u8],
    message: &[u8],
    nonce: &[u8],
    id_body: &[u8],
) -> Vec<u8> {
    [message, nonce, &prf.prf(sk_p, &[id_body])].concat()
}

struct Cutter<'a>(&'a [u8]);

impl Cutter<'_> {
    fn take(&mut self, len: usize) -> Result<Secret, KeyError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(KeyError)?;
        self.0 = rest;
        Ok(Zeroizing::new(head.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random::SystemRandom;

    /// Made by `tests/data/ike_keys.py`, an independent implementation.
    fn expected(name: &str) -> Vec<u8> {
        let lines = include_str!("../tests/data/ike_keys.txt").lines();
        let mut fields = lines.filter_map(|line| line.split_once(' '));
        let (_, hex) = fields.find(|(found, _)| *found == name).unwrap();
        let digits = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap());
        digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    fn octets(from: u8, to: u8) -> Vec<u8> {
        (from..to).collect()
    }

    #[test]
    fn ike_keys_match_the_second_implementation() {
        let (nonce_i, nonce_r, shared) = (octets(0, 32), octets(32, 64), octets(100, 132));
        let (spi_i, spi_r) = (0x0102_0304_0506_0708, 0x1112_1314_1516_1718);
        let seeds = Seeds {
            nonce_i: &nonce_i,
            nonce_r: &nonce_r,
            spi_i,
            spi_r,
        };
        let suite: IkeProposal = "aes256-sha256-modp2048".parse().unwrap();
        let seed = skeyseed(suite.prf, &seeds, &shared);
        let mut initiator = derive_ike(&suite, &seed, &seeds, true).unwrap();
        let responder = derive_ike(&suite, &seed, &seeds, false).unwrap();
        for keys in [&initiator, &responder] {
            assert_eq!(*keys.sk_d, expected("sk_d"));
            assert_eq!(*keys.sk_pi, expected("sk_pi"));
            assert_eq!(*keys.sk_pr, expected("sk_pr"));
        }
        // The encryption keys are inside the ciphers: what the initiator seals opens with SK_ei and SK_ai.
        let opener = SkOpener::new(suite.cipher, &expected("sk_ei"), &expected("sk_ai")).unwrap();
        let body = initiator
            .sealer
            .seal(&mut SystemRandom::new(), b"head", b"content")
            .unwrap();
        assert_eq!(*opener.open(b"head", &body).unwrap(), b"content");
        assert_eq!(*responder.opener.open(b"head", &body).unwrap(), b"content");
        assert!(
            initiator.opener.open(b"head", &body).is_err(),
            "the two directions have different keys"
        );
        let rekeyed = skeyseed_rekey(suite.prf, &initiator.sk_d, &seeds, &shared, &[]);
        assert_eq!(*rekeyed, expected("rekey_skeyseed"));
        let additional = [Zeroizing::new(octets(150, 182)), Zeroizing::new(octets(200, 232))];
        let rekeyed = skeyseed_rekey(suite.prf, &initiator.sk_d, &seeds, &shared, &additional);
        assert_eq!(*rekeyed, expected("rekey_skeyseed_additional"));
    }

    /// RFC 5723 section 5.1; made by `tests/data/resume_keys.py`.
    #[test]
    fn resumed_keys_match_the_second_implementation() {
        let lines = include_str!("../tests/data/resume_keys.txt").lines();
        let seeds = Seeds {
            nonce_i: &octets(0, 32),
            nonce_r: &octets(32, 64),
            spi_i: 1,
            spi_r: 2,
        };
        for line in lines {
            let (name, hex) = line.split_once(' ').unwrap();
            let prf = match name {
                "sha256" => PrfAlgorithm::HmacSha256,
                "sha512" => PrfAlgorithm::HmacSha512,
                other => panic!("{other}"),
            };
            let seed = skeyseed_resumed(prf, &octets(100, 132), &seeds);
            let found: String = seed.iter().map(|octet| format!("{octet:02x}")).collect();
            assert_eq!(found, hex, "{name}");
        }
    }

    #[test]
    fn child_keys_match_the_second_implementation() {
        let (nonce_i, nonce_r, shared) = (octets(0, 32), octets(32, 64), octets(100, 132));
        let sk_d = expected("sk_d");
        let gcm = EspSuite::AesGcm16 { key_bits: 256 };
        let cbc = EspSuite::AesCbcHmac {
            key_bits: 128,
            integrity: crate::crypto::cipher::Integrity::HmacSha256,
        };
        let sha512 = EspSuite::AesCbcHmac {
            key_bits: 256,
            integrity: crate::crypto::cipher::Integrity::HmacSha512,
        };
        let additional = [Zeroizing::new(octets(150, 182)), Zeroizing::new(octets(200, 232))];
        for (name, shared, additional, suite) in [
            ("child", None, &[][..], gcm),
            ("child_pfs", Some(shared.as_slice()), &[], gcm),
            ("child_cbc", None, &[], cbc),
            ("child_cbc_sha512", None, &[], sha512),
            ("child_additional", Some(shared.as_slice()), &additional, gcm),
        ] {
            let nonces = (nonce_i.as_slice(), nonce_r.as_slice());
            let (from_i, from_r) = derive_child(
                PrfAlgorithm::HmacSha256,
                &sk_d,
                (shared, additional),
                nonces,
                suite,
            )
            .unwrap();
            let parts = [
                &from_i.encryption,
                &from_i.integrity,
                &from_r.encryption,
                &from_r.integrity,
            ];
            assert_eq!(
                parts.map(|part| part.as_slice()).concat(),
                expected(name),
                "{name}"
            );
        }
    }
}
