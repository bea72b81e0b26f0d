//! Algorithm proposals as words: `aes256-sha256-modp2048`, `aes256gcm16-prfsha256-ecp256`, `chacha20poly1305`.
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::serde_as_word;

/// Declares an algorithm list once: variant and word.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every one, with its word.
            pub const ALL: &'static [($name, &'static str)] = &[$(($name::$variant, $word),)*];

            /// The word of the configuration.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            fn find(word: &str) -> Option<Self> {
                Self::ALL.iter().find(|(_, known)| *known == word).map(|(algorithm, _)| *algorithm)
            }
        }
    };
}

words! {
    /// Encryption, of IKE and of ESP.
    Encryption {
        /// AES-CBC, 128-bit key.
        Aes128 = "aes128",
        /// AES-CBC, 256-bit key.
        Aes256 = "aes256",
        /// AES-GCM with a 16-byte ICV, 128-bit key.
        Aes128Gcm16 = "aes128gcm16",
        /// AES-GCM with a 16-byte ICV, 256-bit key.
        Aes256Gcm16 = "aes256gcm16",
        /// ChaCha20-Poly1305.
        ChaCha20Poly1305 = "chacha20poly1305",
    }
}

words! {
    /// Integrity of a cipher that brings none.
    Integrity {
        /// HMAC-SHA2-256-128.
        Sha256 = "sha256",
        /// HMAC-SHA2-384-192, for IKE only.
        Sha384 = "sha384",
        /// HMAC-SHA2-512-256, for IKE only.
        Sha512 = "sha512",
    }
}

words! {
    /// Pseudo-random function of IKE.
    Prf {
        /// HMAC-SHA2-256.
        Sha256 = "prfsha256",
        /// HMAC-SHA2-384.
        Sha384 = "prfsha384",
        /// HMAC-SHA2-512.
        Sha512 = "prfsha512",
    }
}

words! {
    /// Key exchange.
    DhGroup {
        /// Group 14.
        Modp2048 = "modp2048",
        /// Group 19.
        Ecp256 = "ecp256",
        /// Group 31.
        X25519 = "x25519",
    }
}

impl Encryption {
    /// Whether it authenticates too.
    #[must_use]
    pub const fn is_aead(self) -> bool {
        match self {
            Self::Aes128 | Self::Aes256 => false,
            Self::Aes128Gcm16 | Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => true,
        }
    }
}

/// What an IKE SA may be protected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeProposal {
    /// Cipher.
    pub encryption: Encryption,
    /// Integrity; `None` exactly with an AEAD cipher.
    pub integrity: Option<Integrity>,
    /// PRF; that of the integrity's hash if the word names none.
    pub prf: Prf,
    /// Key exchange.
    pub dh: DhGroup,
}

/// What a Child SA may be protected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspProposal {
    /// Cipher.
    pub encryption: Encryption,
    /// Integrity; `None` exactly with an AEAD cipher.
    pub integrity: Option<Integrity>,
    /// Key exchange of a rekey (PFS); `None`: a rekey without one is accepted.
    pub dh: Option<DhGroup>,
}

/// The algorithms of one word, before IKE or ESP asks for what it needs.
#[derive(Default)]
struct Parts {
    encryption: Option<Encryption>,
    integrity: Option<Integrity>,
    prf: Option<Prf>,
    dh: Option<DhGroup>,
}

const IKE_EXAMPLE: &str = "\"aes256-sha256-modp2048\" or \"aes256gcm16-prfsha256-ecp256\"";
const ESP_EXAMPLE: &str = "\"aes256gcm16-modp2048\" or \"aes256-sha256\"";

fn parts(word: &str) -> Result<Parts, String> {
    let mut parts = Parts::default();
    for name in word.split('-') {
        let repeated = if let Some(found) = Encryption::find(name) {
            parts.encryption.replace(found).is_some()
        } else if let Some(found) = Integrity::find(name) {
            parts.integrity.replace(found).is_some()
        } else if let Some(found) = Prf::find(name) {
            parts.prf.replace(found).is_some()
        } else if let Some(found) = DhGroup::find(name) {
            parts.dh.replace(found).is_some()
        } else {
            return Err(format!(
                "\"{name}\" in \"{word}\" is no algorithm; write one of {}",
                known()
            ));
        };
        if repeated {
            return Err(format!(
                "\"{word}\" names two algorithms of one kind; write one proposal each"
            ));
        }
    }
    Ok(parts)
}

fn known() -> String {
    let all = Encryption::ALL.iter().map(|pair| pair.1);
    let all = all
        .chain(Integrity::ALL.iter().map(|pair| pair.1))
        .chain(Prf::ALL.iter().map(|pair| pair.1));
    all.chain(DhGroup::ALL.iter().map(|pair| pair.1))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Cipher and integrity must fit each other.
fn protection(parts: &Parts, word: &str, example: &str) -> Result<(Encryption, Option<Integrity>), String> {
    let encryption = parts
        .encryption
        .ok_or_else(|| format!("\"{word}\" names no encryption; write it like {example}"))?;
    match (encryption.is_aead(), parts.integrity) {
        (true, Some(integrity)) => Err(format!(
            "\"{word}\" adds {} to {}, which authenticates by itself; write it like {example}",
            integrity.word(),
            encryption.word()
        )),
        (false, None) => Err(format!(
            "\"{word}\" lacks an integrity algorithm; write it like {example}"
        )),
        (_, integrity) => Ok((encryption, integrity)),
    }
}

impl FromStr for IkeProposal {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let parts = parts(word)?;
        let (encryption, integrity) = protection(&parts, word, IKE_EXAMPLE)?;
        let dh = parts
            .dh
            .ok_or_else(|| format!("\"{word}\" names no key exchange; write it like {IKE_EXAMPLE}"))?;
        let of_integrity = integrity.map(|integrity| match integrity {
            Integrity::Sha256 => Prf::Sha256,
            Integrity::Sha384 => Prf::Sha384,
            Integrity::Sha512 => Prf::Sha512,
        });
        let prf = parts.prf.or(of_integrity);
        let prf = prf.ok_or_else(|| format!("\"{word}\" names no PRF; write it like {IKE_EXAMPLE}"))?;
        Ok(Self {
            encryption,
            integrity,
            prf,
            dh,
        })
    }
}

impl FromStr for EspProposal {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let parts = parts(word)?;
        let (encryption, integrity) = protection(&parts, word, ESP_EXAMPLE)?;
        if parts.prf.is_some() {
            return Err(format!(
                "\"{word}\" names a PRF, which ESP has not; write it like {ESP_EXAMPLE}"
            ));
        }
        if matches!(integrity, Some(Integrity::Sha384 | Integrity::Sha512)) {
            return Err(format!(
                "\"{word}\" asks for an ESP integrity that is not offered; write \"sha256\""
            ));
        }
        Ok(Self {
            encryption,
            integrity,
            dh: parts.dh,
        })
    }
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.encryption.word())?;
        if let Some(integrity) = self.integrity {
            write!(formatter, "-{}", integrity.word())?;
        }
        write!(formatter, "-{}-{}", self.prf.word(), self.dh.word())
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.encryption.word())?;
        if let Some(integrity) = self.integrity {
            write!(formatter, "-{}", integrity.word())?;
        }
        self.dh.map_or(Ok(()), |dh| write!(formatter, "-{}", dh.word()))
    }
}

serde_as_word!(IkeProposal, EspProposal);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_they_say() {
        let ike: IkeProposal = "aes256-sha384-modp2048".parse().expect("CBC");
        assert_eq!((ike.integrity, ike.prf), (Some(Integrity::Sha384), Prf::Sha384));
        let ike: IkeProposal = "aes128gcm16-prfsha256-x25519".parse().expect("GCM");
        assert_eq!(
            (ike.encryption, ike.integrity, ike.dh),
            (Encryption::Aes128Gcm16, None, DhGroup::X25519)
        );
        let esp: EspProposal = "aes256-sha256".parse().expect("CBC");
        assert_eq!((esp.integrity, esp.dh), (Some(Integrity::Sha256), None));
        let esp: EspProposal = "chacha20poly1305-ecp256".parse().expect("AEAD");
        assert_eq!((esp.integrity, esp.dh), (None, Some(DhGroup::Ecp256)));
    }

    #[test]
    fn display_parses_back() {
        for word in ["aes256-sha256-prfsha512-modp2048", "aes256gcm16-prfsha256-ecp256"] {
            assert_eq!(word.parse::<IkeProposal>().expect(word).to_string(), word);
        }
        for word in ["aes256gcm16-modp2048", "aes128-sha256", "chacha20poly1305"] {
            assert_eq!(word.parse::<EspProposal>().expect(word).to_string(), word);
        }
    }

    #[test]
    fn every_sin_is_named() {
        let ike = |word: &str| word.parse::<IkeProposal>().expect_err(word);
        let esp = |word: &str| word.parse::<EspProposal>().expect_err(word);
        assert!(ike("aes256-md5-modp2048").contains("\"md5\""));
        assert!(ike("aes256-modp2048").contains("lacks an integrity"));
        assert!(ike("aes256gcm16-modp2048").contains("no PRF"));
        assert!(ike("aes256-sha256").contains("no key exchange"));
        assert!(ike("sha256-modp2048").contains("no encryption"));
        assert!(ike("aes256-aes128-sha256-modp2048").contains("two algorithms"));
        assert!(esp("aes256gcm16-sha256").contains("authenticates by itself"));
        assert!(esp("aes256gcm16-prfsha256").contains("PRF"));
        assert!(esp("aes256-sha512").contains("not offered"));
        assert!(ike("").contains("is no algorithm"));
    }
}
