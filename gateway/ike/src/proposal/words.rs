//! Proposals in words, as strongSwan spells them.

use std::{fmt, str::FromStr};

use super::{AdditionalKeyExchanges, EspProposal, EspSuite, IkeProposal, registry};
use crate::{
    crypto::{
        cipher::{Encryption, IkeCipherSuite, Integrity},
        dh::DhGroup,
        kem::Kem,
        prf::PrfAlgorithm,
    },
    wire::protocol,
};

/// A proposal in words was not understood; which word, and what is possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("proposal {proposal:?}: {reason}")]
pub struct ProposalSyntax {
    /// The whole text.
    pub proposal: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What one word means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Encryption(Encryption),
    Integrity(Integrity),
    Prf(PrfAlgorithm),
    Group(DhGroup),
    /// The number of the place, and the mechanism.
    Additional(usize, Kem),
    /// No key exchange will do, too.
    NoGroup,
    Esn,
    NoEsn,
}

pub(super) fn encryption_word(encryption: Encryption) -> &'static str {
    match encryption {
        Encryption::AesCbc128 => "aes128",
        Encryption::AesCbc256 => "aes256",
        Encryption::AesGcm128 => "aes128gcm16",
        Encryption::AesGcm256 => "aes256gcm16",
        Encryption::ChaCha20Poly1305 => "chacha20poly1305",
    }
}

const ENCRYPTIONS: [Encryption; 5] = [
    Encryption::AesCbc128,
    Encryption::AesCbc256,
    Encryption::AesGcm128,
    Encryption::AesGcm256,
    Encryption::ChaCha20Poly1305,
];

pub(super) fn integrity_word(integrity: Integrity) -> &'static str {
    match integrity {
        Integrity::HmacSha256 => "sha256",
        Integrity::HmacSha384 => "sha384",
        Integrity::HmacSha512 => "sha512",
    }
}

const INTEGRITIES: [Integrity; 3] = [
    Integrity::HmacSha256,
    Integrity::HmacSha384,
    Integrity::HmacSha512,
];

pub(super) fn prf_word(prf: PrfAlgorithm) -> &'static str {
    match prf {
        PrfAlgorithm::HmacSha256 => "prfsha256",
        PrfAlgorithm::HmacSha384 => "prfsha384",
        PrfAlgorithm::HmacSha512 => "prfsha512",
    }
}

/// The PRF with the same hash, which goes with it when no other is named.
fn prf_of(integrity: Integrity) -> PrfAlgorithm {
    match integrity {
        Integrity::HmacSha256 => PrfAlgorithm::HmacSha256,
        Integrity::HmacSha384 => PrfAlgorithm::HmacSha384,
        Integrity::HmacSha512 => PrfAlgorithm::HmacSha512,
    }
}

/// The name of a group as proposals spell it.
pub fn group_word(group: DhGroup) -> &'static str {
    match group {
        DhGroup::Modp2048 => "modp2048",
        DhGroup::Modp3072 => "modp3072",
        DhGroup::Modp4096 => "modp4096",
        DhGroup::Ecp256 => "ecp256",
        DhGroup::Ecp384 => "ecp384",
        DhGroup::X25519 => "x25519",
    }
}

pub(super) fn kem_word(kem: Kem) -> &'static str {
    match kem {
        Kem::MlKem768 => "mlkem768",
        Kem::MlKem1024 => "mlkem1024",
    }
}

impl Word {
    fn parse(word: &str) -> Option<Self> {
        let encryption = ENCRYPTIONS.into_iter().find(|one| encryption_word(*one) == word);
        let integrity = INTEGRITIES.into_iter().find(|one| integrity_word(*one) == word);
        let prf = INTEGRITIES
            .into_iter()
            .map(prf_of)
            .find(|one| prf_word(*one) == word);
        let group = DhGroup::ALL.into_iter().find(|one| group_word(*one) == word);
        let found = encryption.map(Self::Encryption);
        let found = found.or(integrity.map(Self::Integrity)).or(prf.map(Self::Prf));
        found.or(group.map(Self::Group)).or_else(|| match word {
            "curve25519" => Some(Self::Group(DhGroup::X25519)),
            "modpnone" | "none" => Some(Self::NoGroup),
            "esn" => Some(Self::Esn),
            "noesn" => Some(Self::NoEsn),
            _ => {
                let (number, name) = word.strip_prefix("ke")?.split_once('_')?;
                let kem = Kem::ALL.into_iter().find(|kem| kem_word(*kem) == name)?;
                Some(Self::Additional(number.parse().ok()?, kem))
            }
        })
    }
}

/// The words of a proposal of either kind, sorted by what they are about.
#[derive(Default)]
struct Words {
    encryption: Option<Encryption>,
    integrity: Option<Integrity>,
    prf: Option<PrfAlgorithm>,
    groups: Vec<DhGroup>,
    additional: AdditionalKeyExchanges,
    no_group: bool,
    esn: bool,
    no_esn: bool,
}

impl Words {
    fn parse(text: &str, protocol: u8) -> Result<Self, String> {
        let mut words = Self::default();
        for word in text.trim().split('-') {
            let Some(meaning) = Word::parse(word) else {
                let reason = match registry::by_word(word) {
                    Some(algorithm) => algorithm.refusal(protocol),
                    None if word.starts_with("ke") => {
                        format!("{word:?} is no additional key exchange: ke1_mlkem768, ke1_mlkem1024")
                    }
                    None => format!("{word:?} is unknown"),
                };
                return Err(reason);
            };
            let fresh = match meaning {
                Word::Encryption(found) => words.encryption.replace(found).is_none(),
                Word::Integrity(found) => words.integrity.replace(found).is_none(),
                Word::Prf(found) => words.prf.replace(found).is_none(),
                Word::Group(found) => {
                    let fresh = !words.groups.contains(&found);
                    words.groups.push(found);
                    fresh
                }
                Word::Additional(number, kem) => words.additional.set(number, kem),
                Word::NoGroup => !std::mem::replace(&mut words.no_group, true),
                Word::Esn => !std::mem::replace(&mut words.esn, true),
                Word::NoEsn => !std::mem::replace(&mut words.no_esn, true),
            };
            if !fresh {
                return Err(format!("{word:?} comes after another word of its kind"));
            }
        }
        Ok(words)
    }

    fn into_ike(self) -> Result<IkeProposal, String> {
        if self.no_group || self.esn || self.no_esn {
            return Err("none, esn and noesn are for ESP only".to_owned());
        }
        let encryption = self
            .encryption
            .ok_or_else(|| format!("no encryption, such as {}", registry::USE_ENCRYPTION))?;
        let [group] = self.groups.as_slice() else {
            return Err("not exactly one group, such as x25519".to_owned());
        };
        let prf = self
            .prf
            .or(self.integrity.map(prf_of))
            .ok_or("no PRF, such as prfsha256")?;
        // strongSwan takes `aes256gcm16-sha256-x25519` as naming the PRF.
        let integrity = self.integrity.filter(|_| !encryption.is_aead());
        let cipher = IkeCipherSuite::new(encryption, integrity).map_err(|error| error.to_string())?;
        Ok(IkeProposal {
            cipher,
            prf,
            group: *group,
            additional: self.additional,
        })
    }

    fn into_esp(self) -> Result<EspProposal, String> {
        if self.prf.is_some() {
            return Err("ESP has no PRF".to_owned());
        }
        let encryption = self
            .encryption
            .ok_or_else(|| format!("no encryption, such as {}", registry::USE_ENCRYPTION))?;
        let suite = match (encryption, self.integrity) {
            (Encryption::AesGcm128, None) => EspSuite::AesGcm16 { key_bits: 128 },
            (Encryption::AesGcm256, None) => EspSuite::AesGcm16 { key_bits: 256 },
            (Encryption::ChaCha20Poly1305, None) => EspSuite::ChaCha20Poly1305,
            (Encryption::AesCbc128, Some(integrity)) => EspSuite::AesCbcHmac {
                key_bits: 128,
                integrity,
            },
            (Encryption::AesCbc256, Some(integrity)) => EspSuite::AesCbcHmac {
                key_bits: 256,
                integrity,
            },
            (Encryption::AesCbc128 | Encryption::AesCbc256, None) => {
                let word = encryption_word(encryption);
                return Err(format!("{word} needs an integrity algorithm: {word}-sha256"));
            }
            (Encryption::AesGcm128 | Encryption::AesGcm256 | Encryption::ChaCha20Poly1305, Some(_)) => {
                let word = encryption_word(encryption);
                return Err(format!(
                    "{word} authenticates by itself: leave the integrity algorithm out"
                ));
            }
        };
        if self.groups.is_empty() && !self.additional.is_empty() {
            return Err("an additional key exchange needs a group before it, such as x25519".to_owned());
        }
        Ok(EspProposal {
            suite,
            groups: self.groups,
            additional: self.additional,
            pfs_optional: self.no_group,
            esn: self.esn,
            no_esn: self.no_esn || !self.esn,
        })
    }
}

impl FromStr for IkeProposal {
    type Err = ProposalSyntax;

    fn from_str(text: &str) -> Result<Self, ProposalSyntax> {
        let parsed = Words::parse(text, protocol::IKE).and_then(Words::into_ike);
        parsed.map_err(|reason| ProposalSyntax {
            proposal: text.to_owned(),
            reason,
        })
    }
}

impl FromStr for EspProposal {
    type Err = ProposalSyntax;

    fn from_str(text: &str) -> Result<Self, ProposalSyntax> {
        let parsed = Words::parse(text, protocol::ESP).and_then(Words::into_esp);
        parsed.map_err(|reason| ProposalSyntax {
            proposal: text.to_owned(),
            reason,
        })
    }
}

impl fmt::Display for AdditionalKeyExchanges {
    /// Each with a hyphen before it; nothing when there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.numbered()
            .try_for_each(|(number, kem)| write!(f, "-ke{number}_{}", kem_word(kem)))
    }
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(encryption_word(self.cipher.encryption()))?;
        let integrity = self.cipher.integrity();
        if let Some(integrity) = integrity {
            write!(f, "-{}", integrity_word(integrity))?;
        }
        if integrity.map(prf_of) != Some(self.prf) {
            write!(f, "-{}", prf_word(self.prf))?;
        }
        write!(f, "-{}{}", group_word(self.group), self.additional)
    }
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AesGcm16 { key_bits } => write!(f, "aes{key_bits}gcm16"),
            Self::AesCbcHmac { key_bits, integrity } => {
                write!(f, "aes{key_bits}-{}", integrity_word(*integrity))
            }
            Self::ChaCha20Poly1305 => f.write_str("chacha20poly1305"),
        }
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.suite)?;
        for group in &self.groups {
            write!(f, "-{}", group_word(*group))?;
        }
        write!(f, "{}", self.additional)?;
        let words = [
            (self.pfs_optional, "-modpnone"),
            (self.esn, "-esn"),
            (self.esn && self.no_esn, "-noesn"),
        ];
        words
            .iter()
            .filter(|(said, _)| *said)
            .try_for_each(|(_, word)| f.write_str(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for text in [
            "aes256-sha256-modp2048",
            "aes256gcm16-prfsha256-ecp256",
            "aes128-sha256-prfsha384-x25519",
            "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
            "chacha20poly1305-prfsha512-ecp384-ke2_mlkem1024",
            "aes256-sha512-modp4096",
        ] {
            assert_eq!(text.parse::<IkeProposal>().unwrap().to_string(), text);
        }
        for text in [
            "aes256gcm16",
            "aes128-sha256-modp2048",
            "aes256-sha384-modp3072-esn",
            "aes128-sha512-ecp384",
            "chacha20poly1305-x25519-ecp256-modpnone-esn-noesn",
            "aes256gcm16-x25519-ke1_mlkem768-modpnone",
        ] {
            assert_eq!(text.parse::<EspProposal>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "aes256",
            "aes256-modp2048",
            "aes256gcm16-x25519",
            "",
            "aes256-sha256-sha256-x25519",
            "aes256-sha256-x25519-modp2048",
            "aes256-sha256-x25519-esn",
            "aes256gcm16-prfsha256-x25519-ke0_mlkem768",
            "aes256gcm16-prfsha256-x25519-ke8_mlkem768",
            "aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke1_mlkem1024",
            "aes256gcm16-prfsha256-x25519-ke1_mlkem768-ke2_mlkem768",
            "aes256gcm16-prfsha256-ke1_mlkem768",
            "aes256gcm16-prfsha256-x25519-ke1_frodo",
        ] {
            assert!(text.parse::<IkeProposal>().is_err(), "{text}");
        }
        for text in [
            "aes256",
            "aes256gcm16-sha256",
            "aes256gcm16-foo",
            "aes256gcm16-ke1_mlkem768",
            "aes256gcm16-prfsha256",
        ] {
            assert!(text.parse::<EspProposal>().is_err(), "{text}");
        }
    }

    /// A weak algorithm is known by its name, and the error says what to write instead.
    #[test]
    fn weak_words_are_named() {
        let ike = |text: &str| text.parse::<IkeProposal>().unwrap_err().to_string();
        let esp = |text: &str| text.parse::<EspProposal>().unwrap_err().to_string();
        for (error, parts) in [
            (
                ike("3des-sha256-modp2048"),
                ["ENCR_3DES", "RFC 8247: MAY", "aes256gcm16"],
            ),
            (
                ike("aes256-sha1-modp2048"),
                ["AUTH_HMAC_SHA1_96", "RFC 8247: MUST-", "sha256"],
            ),
            (
                ike("aes256-sha256-modp1024"),
                ["1024-bit MODP", "RFC 8247: SHOULD NOT", "x25519"],
            ),
            (
                ike("aes256-md5-modp2048"),
                ["AUTH_HMAC_MD5_96", "RFC 8247: MUST NOT", "sha256"],
            ),
            (
                ike("aes256gcm16-prfsha1-x25519"),
                ["PRF_HMAC_SHA1", "RFC 8247: MUST-", "prfsha256"],
            ),
            (esp("null-sha256"), ["ENCR_NULL", "RFC 8221: MUST", "aes256gcm16"]),
            (
                esp("3des-sha256"),
                ["ENCR_3DES", "RFC 8221: SHOULD NOT", "aes256gcm16"],
            ),
            (
                esp("aes256-sha1"),
                ["AUTH_HMAC_SHA1_96", "RFC 8221: MUST-", "sha256"],
            ),
            (esp("aes192gcm16"), ["192", "aes256gcm16", "not listed"]),
        ] {
            for part in parts {
                assert!(error.contains(part), "{error}: {part}");
            }
        }
    }
}
