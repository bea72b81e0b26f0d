//! The algorithms of the IANA registries with what RFC 8247 says of them for IKE and RFC 8221 for ESP, so that a
//! refusal can name what it refuses. docs/algorithms.md shows the same to people.

use std::fmt;

use crate::{
    crypto::{
        cipher::{Encryption, Integrity},
        dh::DhGroup,
        kem::Kem,
        prf::PrfAlgorithm,
    },
    wire::{
        protocol,
        sa::{Transform, transform_type as kind},
    },
};

/// What to write instead of an encryption algorithm that is refused.
pub(super) const USE_ENCRYPTION: &str = "aes256gcm16";

/// The word of an RFC about an algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// MUST.
    Must,
    /// MUST-: expected to be lowered.
    MustMinus,
    /// SHOULD+: expected to become MUST.
    ShouldPlus,
    /// SHOULD.
    Should,
    /// MAY.
    May,
    /// SHOULD NOT.
    ShouldNot,
    /// MUST NOT.
    MustNot,
    /// Deprecated by RFC 9395, which says MUST NOT for the registry.
    Deprecated,
    /// The RFC does not speak of it.
    NotListed,
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Must => "MUST",
            Self::MustMinus => "MUST-",
            Self::ShouldPlus => "SHOULD+",
            Self::Should => "SHOULD",
            Self::May => "MAY",
            Self::ShouldNot => "SHOULD NOT",
            Self::MustNot => "MUST NOT",
            Self::Deprecated => "deprecated",
            Self::NotListed => "not listed",
        })
    }
}

/// One algorithm of the registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm {
    /// Transform type, see [`crate::wire::sa::transform_type`].
    pub kind: u8,
    /// Transform id.
    pub id: u16,
    /// The key length in bits, where a row is about one length only.
    pub key_bits: Option<u16>,
    /// How proposals spell it.
    pub word: &'static str,
    /// Its name in the registry, or that of its group in RFC 8247.
    pub name: &'static str,
    /// RFC 8247's word for IKE.
    pub ike: Requirement,
    /// RFC 8221's word for ESP; for key exchange RFC 8247's.
    pub esp: Requirement,
}

/// The algorithm of a word, if it is one of those that are known and refused.
pub(super) fn by_word(word: &str) -> Option<&'static Algorithm> {
    ALGORITHMS
        .iter()
        .find(|algorithm| algorithm.word == word && !algorithm.accepted())
}

/// The algorithm of a transform.
pub(super) fn by_transform(transform: &Transform) -> Option<&'static Algorithm> {
    // Additional key exchanges draw from the registry of key exchanges.
    let kind = match transform.kind {
        kind::ADDITIONAL_FIRST..=kind::ADDITIONAL_LAST => kind::DH,
        other => other,
    };
    let mut alike = ALGORITHMS
        .iter()
        .filter(|one| one.kind == kind && one.id == transform.id);
    let exact = alike.clone().find(|one| one.key_bits == transform.key_bits);
    exact.or_else(|| alike.find(|one| one.key_bits.is_none()))
}

impl Algorithm {
    /// Whether this gateway uses it at all.
    pub fn accepted(&self) -> bool {
        match self.kind {
            kind::ENCR => Encryption::from_id(self.id, self.key_bits).is_some(),
            kind::PRF => PrfAlgorithm::from_id(self.id).is_some(),
            kind::INTEG => Integrity::from_id(self.id).is_some(),
            _ => DhGroup::from_id(self.id).is_some() || Kem::from_id(self.id).is_some(),
        }
    }

    /// `ENCR_3DES (RFC 8247: MAY)`.
    pub(super) fn named(&self, of: u8) -> String {
        let (rfc, requirement) = match (of, self.kind) {
            (protocol::ESP, kind::ENCR | kind::INTEG) => ("RFC 8221", self.esp),
            _ => ("RFC 8247", self.ike),
        };
        match requirement {
            Requirement::Deprecated => format!("{} (RFC 9395: deprecated)", self.name),
            _ => format!("{} ({rfc}: {requirement})", self.name),
        }
    }

    /// Why a configuration may not name it, and what it may.
    pub(super) fn refusal(&self, of: u8) -> String {
        let instead = match self.kind {
            kind::ENCR => USE_ENCRYPTION,
            kind::PRF => "prfsha256",
            kind::INTEG => "sha256",
            _ => "x25519, ecp256 or modp2048",
        };
        let named = self.named(of);
        format!(
            "{:?} is {named}, which this gateway does not use: write {instead}",
            self.word
        )
    }
}

macro_rules! algorithms {
    ($($kind:ident $id:literal $(/ $bits:literal)?, $word:literal, $name:literal, $ike:ident, $esp:ident;)*) => {
        /// All rows, in the order of the registries.
        pub const ALGORITHMS: &[Algorithm] = &[$(Algorithm {
            kind: kind::$kind,
            id: $id,
            key_bits: algorithms!(@bits $($bits)?),
            word: $word,
            name: $name,
            ike: Requirement::$ike,
            esp: Requirement::$esp,
        }),*];
    };
    (@bits) => { None };
    (@bits $bits:literal) => { Some($bits) };
}

algorithms! {
    ENCR 1, "des-iv64", "ENCR_DES_IV64", Deprecated, MustNot;
    ENCR 2, "des", "ENCR_DES", MustNot, MustNot;
    ENCR 3, "3des", "ENCR_3DES", May, ShouldNot;
    ENCR 4, "rc5", "ENCR_RC5", Deprecated, Deprecated;
    ENCR 5, "idea", "ENCR_IDEA", Deprecated, Deprecated;
    ENCR 6, "cast128", "ENCR_CAST", Deprecated, Deprecated;
    ENCR 7, "blowfish128", "ENCR_BLOWFISH", Deprecated, MustNot;
    ENCR 8, "3idea", "ENCR_3IDEA", Deprecated, MustNot;
    ENCR 9, "des-iv32", "ENCR_DES_IV32", Deprecated, MustNot;
    ENCR 11, "null", "ENCR_NULL", NotListed, Must;
    ENCR 12 / 128, "aes128", "ENCR_AES_CBC with a 128-bit key", Must, Must;
    ENCR 12 / 192, "aes192", "ENCR_AES_CBC with a 192-bit key", NotListed, NotListed;
    ENCR 12 / 256, "aes256", "ENCR_AES_CBC with a 256-bit key", Must, Must;
    ENCR 13, "aes128ctr", "ENCR_AES_CTR", NotListed, NotListed;
    ENCR 14, "aes128ccm8", "ENCR_AES_CCM_8", Should, Should;
    ENCR 15, "aes128ccm12", "ENCR_AES_CCM_12", NotListed, NotListed;
    ENCR 16, "aes128ccm16", "ENCR_AES_CCM_16", NotListed, NotListed;
    ENCR 18, "aes128gcm8", "ENCR_AES_GCM_8", NotListed, NotListed;
    ENCR 19, "aes128gcm12", "ENCR_AES_GCM_12", NotListed, NotListed;
    ENCR 20 / 128, "aes128gcm16", "ENCR_AES_GCM_16 with a 128-bit key", Should, Must;
    ENCR 20 / 192, "aes192gcm16", "ENCR_AES_GCM_16 with a 192-bit key", NotListed, NotListed;
    ENCR 20 / 256, "aes256gcm16", "ENCR_AES_GCM_16 with a 256-bit key", Should, Must;
    ENCR 21, "aes128gmac", "ENCR_NULL_AUTH_AES_GMAC", NotListed, NotListed;
    ENCR 23, "camellia128", "ENCR_CAMELLIA_CBC", NotListed, NotListed;
    ENCR 28, "chacha20poly1305", "ENCR_CHACHA20_POLY1305", Should, Should;
    PRF 1, "prfmd5", "PRF_HMAC_MD5", MustNot, NotListed;
    PRF 2, "prfsha1", "PRF_HMAC_SHA1", MustMinus, NotListed;
    PRF 3, "prftiger", "PRF_HMAC_TIGER", Deprecated, NotListed;
    PRF 4, "prfaesxcbc", "PRF_AES128_XCBC", Should, NotListed;
    PRF 5, "prfsha256", "PRF_HMAC_SHA2_256", Must, NotListed;
    PRF 6, "prfsha384", "PRF_HMAC_SHA2_384", NotListed, NotListed;
    PRF 7, "prfsha512", "PRF_HMAC_SHA2_512", ShouldPlus, NotListed;
    PRF 8, "prfaescmac", "PRF_AES128_CMAC", NotListed, NotListed;
    INTEG 1, "md5", "AUTH_HMAC_MD5_96", MustNot, MustNot;
    INTEG 2, "sha1", "AUTH_HMAC_SHA1_96", MustMinus, MustMinus;
    INTEG 3, "desmac", "AUTH_DES_MAC", MustNot, MustNot;
    INTEG 4, "kpdkmd5", "AUTH_KPDK_MD5", MustNot, MustNot;
    INTEG 5, "aesxcbc", "AUTH_AES_XCBC_96", Should, Should;
    INTEG 6, "md5_128", "AUTH_HMAC_MD5_128", Deprecated, Deprecated;
    INTEG 7, "sha1_160", "AUTH_HMAC_SHA1_160", Deprecated, Deprecated;
    INTEG 8, "aescmac", "AUTH_AES_CMAC_96", NotListed, NotListed;
    INTEG 9, "aesgmac128", "AUTH_AES_128_GMAC", NotListed, May;
    INTEG 10, "aesgmac192", "AUTH_AES_192_GMAC", NotListed, NotListed;
    INTEG 11, "aesgmac256", "AUTH_AES_256_GMAC", NotListed, May;
    INTEG 12, "sha256", "AUTH_HMAC_SHA2_256_128", Must, Must;
    INTEG 13, "sha384", "AUTH_HMAC_SHA2_384_192", NotListed, NotListed;
    INTEG 14, "sha512", "AUTH_HMAC_SHA2_512_256", Should, Should;
    DH 1, "modp768", "group 1, 768-bit MODP", MustNot, MustNot;
    DH 2, "modp1024", "group 2, 1024-bit MODP", ShouldNot, ShouldNot;
    DH 5, "modp1536", "group 5, 1536-bit MODP", ShouldNot, ShouldNot;
    DH 14, "modp2048", "group 14, 2048-bit MODP", Must, Must;
    DH 15, "modp3072", "group 15, 3072-bit MODP", NotListed, NotListed;
    DH 16, "modp4096", "group 16, 4096-bit MODP", NotListed, NotListed;
    DH 17, "modp6144", "group 17, 6144-bit MODP", NotListed, NotListed;
    DH 18, "modp8192", "group 18, 8192-bit MODP", NotListed, NotListed;
    DH 19, "ecp256", "group 19, 256-bit random ECP", Should, Should;
    DH 20, "ecp384", "group 20, 384-bit random ECP", NotListed, NotListed;
    DH 21, "ecp521", "group 21, 521-bit random ECP", NotListed, NotListed;
    DH 22, "modp1024s160", "group 22, 1024-bit MODP with a 160-bit subgroup", MustNot, MustNot;
    DH 23, "modp2048s224", "group 23, 2048-bit MODP with a 224-bit subgroup", ShouldNot, ShouldNot;
    DH 24, "modp2048s256", "group 24, 2048-bit MODP with a 256-bit subgroup", ShouldNot, ShouldNot;
    DH 25, "ecp192", "group 25, 192-bit random ECP", NotListed, NotListed;
    DH 26, "ecp224", "group 26, 224-bit random ECP", NotListed, NotListed;
    DH 27, "ecp224bp", "group 27, brainpoolP224r1", NotListed, NotListed;
    DH 28, "ecp256bp", "group 28, brainpoolP256r1", NotListed, NotListed;
    DH 29, "ecp384bp", "group 29, brainpoolP384r1", NotListed, NotListed;
    DH 30, "ecp512bp", "group 30, brainpoolP512r1", NotListed, NotListed;
    DH 31, "x25519", "group 31, Curve25519", NotListed, NotListed;
    DH 32, "x448", "group 32, Curve448", NotListed, NotListed;
    DH 35, "mlkem512", "method 35, ML-KEM-512", NotListed, NotListed;
    DH 36, "mlkem768", "method 36, ML-KEM-768", NotListed, NotListed;
    DH 37, "mlkem1024", "method 37, ML-KEM-1024", NotListed, NotListed;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_apart() {
        for (index, one) in ALGORITHMS.iter().enumerate() {
            for other in &ALGORITHMS[index + 1..] {
                assert_ne!(
                    (one.kind, one.id, one.key_bits),
                    (other.kind, other.id, other.key_bits)
                );
                assert_ne!(one.word, other.word);
            }
        }
    }

    /// What an RFC forbids or advises against is not used, and what it demands is, but for NULL encryption.
    #[test]
    fn the_verdicts_follow_the_rfcs() {
        for one in ALGORITHMS {
            for requirement in [one.ike, one.esp] {
                match requirement {
                    Requirement::Must | Requirement::ShouldPlus => {
                        assert!(one.accepted() || one.name == "ENCR_NULL", "{one:?}");
                    }
                    Requirement::MustNot | Requirement::ShouldNot | Requirement::Deprecated => {
                        assert!(!one.accepted(), "{one:?}");
                    }
                    // SHA-1 is on its way out, and SHOULD is said of some for small devices only.
                    Requirement::MustMinus
                    | Requirement::Should
                    | Requirement::May
                    | Requirement::NotListed => {}
                }
            }
        }
    }

    /// docs/algorithms.md has a line for each row, with the same words and our verdict.
    #[test]
    fn the_page_says_the_same() {
        let page = include_str!("../../../docs/algorithms.md");
        for one in ALGORITHMS {
            let verdict = if one.accepted() { "used" } else { "refused" };
            let cells = match one.kind {
                kind::ENCR | kind::INTEG => format!("| {} | {} | {} | {verdict}", one.name, one.ike, one.esp),
                _ => format!("| {} | {} | {verdict}", one.name, one.ike),
            };
            assert!(
                page.contains(&cells),
                "docs/algorithms.md lacks a line with: {cells}"
            );
        }
    }
}
