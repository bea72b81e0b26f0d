//! Shared-key authentication (RFC 7296 section 2.15, method 2): the secrets, and for whom they are.
//!
//! A responder chooses the secret by the identity that the initiator claims (IDi). A peer that has an entry here proves
//! itself in the way the entry says and in no other; a peer without one can only come with a certificate. So a
//! certificate, however valid, does not open the door of a site with a shared key, nor the reverse.

use std::{collections::HashMap, fmt};

use zeroize::Zeroizing;

use crate::{crypto::prf::PrfAlgorithm, pki::identity::Identity};

/// Shared Key Message Integrity Code, the authentication method number of RFC 7296 section 3.8.
pub const SHARED_KEY_METHOD: u8 = 2;
/// A random secret (hex or base64) has at least as many bytes: 128 bits.
pub const BINARY_LEN_MIN: usize = 16;
/// A secret in words has at least as many characters.
pub const TEXT_LEN_MIN: usize = 20;
/// And so many different ones.
pub const TEXT_DISTINCT_MIN: usize = 8;
/// No secret is longer, in bytes.
pub const SECRET_LEN_MAX: usize = 256;

/// RFC 7296 section 2.15: 17 ASCII characters without a terminator.
const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// A secret that two sides share. It is wiped when dropped and never printed.
#[derive(Clone)]
pub struct SharedKey(Zeroizing<Vec<u8>>);

/// Why a secret was not taken. No text holds any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharedKeyError {
    /// A random one with too few bytes.
    #[error(
        "the shared key has {0} bytes; at least {BINARY_LEN_MIN} random ones are needed: make it with `openssl rand -hex 32`"
    )]
    ShortBinary(usize),
    /// Words with too few characters.
    #[error(
        "the shared key has {0} characters; text needs at least {TEXT_LEN_MIN}: better write 0x and the output of `openssl rand -hex 32`"
    )]
    ShortText(usize),
    /// Always the same few characters.
    #[error("the shared key is made of {0} different characters; at least {TEXT_DISTINCT_MIN} are needed")]
    Uniform(usize),
    /// Longer than [`SECRET_LEN_MAX`].
    #[error("the shared key has {0} bytes; at most {SECRET_LEN_MAX} are taken")]
    Long(usize),
    /// `0x` without an even number of hex digits behind it.
    #[error("the shared key begins with 0x, but what follows is not an even number of hex digits")]
    Hex,
    /// `0s` without base64 behind it.
    #[error("the shared key begins with 0s, but what follows is not base64")]
    Base64,
    /// Control characters, or several lines.
    #[error("the shared key is not one line of printable characters")]
    NotOneLine,
}

impl SharedKey {
    /// Reads a secret as its file holds it, one line: `0x` and hex digits, `0s` and base64 (both as strongSwan writes
    /// them), or text that is taken as it is.
    ///
    /// # Errors
    /// If it is malformed, too long, or too weak. An active attacker who poses as the responder gets enough to try
    /// secrets at home, so those that can be guessed are refused.
    pub fn from_text(text: &[u8]) -> Result<Self, SharedKeyError> {
        let line = text.strip_suffix(b"\n").unwrap_or(text);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().any(u8::is_ascii_control) {
            return Err(SharedKeyError::NotOneLine);
        }
        let key = match line.split_at_checked(2) {
            Some((b"0x", digits)) => Self::binary(hex(digits).ok_or(SharedKeyError::Hex)?)?,
            Some((b"0s", digits)) => Self::binary(base64(digits).ok_or(SharedKeyError::Base64)?)?,
            _ => Self::words(line)?,
        };
        match key.0.len() {
            len if len > SECRET_LEN_MAX => Err(SharedKeyError::Long(len)),
            _ => Ok(key),
        }
    }

    fn binary(bytes: Zeroizing<Vec<u8>>) -> Result<Self, SharedKeyError> {
        match bytes.len() {
            len if len < BINARY_LEN_MIN => Err(SharedKeyError::ShortBinary(len)),
            _ => Ok(Self(bytes)),
        }
    }

    fn words(line: &[u8]) -> Result<Self, SharedKeyError> {
        if line.len() < TEXT_LEN_MIN {
            return Err(SharedKeyError::ShortText(line.len()));
        }
        let mut seen = Zeroizing::new([false; 256]);
        line.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        match seen.iter().filter(|seen| **seen).count() {
            distinct if distinct < TEXT_DISTINCT_MIN => Err(SharedKeyError::Uniform(distinct)),
            _ => Ok(Self(Zeroizing::new(line.to_vec()))),
        }
    }

    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }

    /// The authentication data: `prf(prf(Shared Secret, "Key Pad for IKEv2"), octets)`.
    pub fn authenticate(&self, prf: PrfAlgorithm, octets: &[u8]) -> Vec<u8> {
        prf.prf(&prf.prf(&self.0, &[KEY_PAD]), &[octets]).to_vec()
    }

    /// Whether `data` is the authentication data over `octets`, compared in constant time.
    pub fn verify(&self, prf: PrfAlgorithm, octets: &[u8], data: &[u8]) -> bool {
        prf.verify(&prf.prf(&self.0, &[KEY_PAD]), octets, data)
    }

    /// Does what [`Self::verify`] does, for a peer whom nobody knows: it shall wait for its refusal as long as one
    /// with the wrong secret.
    pub(crate) fn pretend_to_verify(prf: PrfAlgorithm, octets: &[u8], data: &[u8]) {
        let nobodys = Self(Zeroizing::new(vec![0; 32]));
        std::hint::black_box(nobodys.verify(prf, octets, data));
    }
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKey(..)")
    }
}

fn hex(digits: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let mut out = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for [high, low] in pairs {
        out.push(digit(*high)? << 4 | digit(*low)?);
    }
    Some(out)
}

/// RFC 4648 section 4, padded or not.
fn base64(digits: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let padded = digits.ends_with(b"=");
    let bare = digits.strip_suffix(b"=").unwrap_or(digits);
    let bare = bare.strip_suffix(b"=").unwrap_or(bare);
    if bare.len() % 4 == 1 || (padded && !digits.len().is_multiple_of(4)) {
        return None;
    }
    let mut out = Zeroizing::new(Vec::with_capacity(digits.len()));
    for group in bare.chunks(4) {
        let mut bits = 0u32;
        for byte in group {
            let value = ALPHABET.iter().position(|one| one == byte)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        // Two digits hold one byte, three hold two, four three; what is over must be zero.
        let over = group.len() * 6 % 8;
        if bits & ((1 << over) - 1) != 0 {
            return None;
        }
        let bytes = (bits >> over).to_be_bytes();
        out.extend_from_slice(bytes.get(4 - group.len() * 6 / 8..)?);
    }
    Some(out)
}

/// How one side proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthKind {
    /// A certificate and a signature with its key.
    Certificate,
    /// A shared key.
    SharedKey,
}

/// The shared key of one peer, and what it is for.
#[derive(Clone, Debug)]
pub struct PeerSharedKey {
    /// The secret.
    pub key: SharedKey,
    /// How the peer proves itself. RFC 7296 section 2.15 lets the two sides differ.
    pub peer: AuthKind,
    /// How we prove ourselves to the peer.
    pub own: AuthKind,
    /// Who we say we are where we use the shared key; `None`: as with a certificate.
    pub own_identity: Option<Identity>,
}

/// Shared keys by the identity of the peer.
#[derive(Clone, Debug, Default)]
pub struct SharedKeys(HashMap<Identity, PeerSharedKey>);

impl SharedKeys {
    /// Adds or replaces the shared key of a peer.
    pub fn insert(&mut self, peer: Identity, key: PeerSharedKey) {
        self.0.insert(peer, key);
    }

    /// What is agreed with a peer; `None`: certificates on both sides.
    pub fn get(&self, peer: &Identity) -> Option<&PeerSharedKey> {
        self.0.get(peer)
    }

    /// The same, with the identity as it is configured.
    pub fn get_key_value(&self, peer: &Identity) -> Option<(&Identity, &PeerSharedKey)> {
        self.0.get_key_value(peer)
    }

    /// Whether a peer proves itself here and in `other` by the same key.
    pub(crate) fn agrees_with(&self, other: &Self, peer: &Identity) -> bool {
        match (self.get(peer), other.get(peer)) {
            (Some(one), Some(two)) => one.peer == two.peer && one.key.0 == two.key.0,
            (None, _) | (_, None) => false,
        }
    }

    /// Whether no peer has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::testing::unhex;

    const ALL: [PrfAlgorithm; 3] = [
        PrfAlgorithm::HmacSha256,
        PrfAlgorithm::HmacSha384,
        PrfAlgorithm::HmacSha512,
    ];

    fn key(text: &str) -> SharedKey {
        SharedKey::from_text(text.as_bytes()).unwrap()
    }

    /// By Python's hmac: `hmac(hmac(secret, b"Key Pad for IKEv2"), b"signed octets")`.
    #[test]
    fn authentication_data_is_that_of_a_second_implementation() {
        let expected = [
            "3a6f56da2b14d5186d7d5850bec52f2df5af34a5766c1fe032e228cc9acd2476",
            "4d3452556bac301a1bede0a6fe6579e1c35e2fd265eb5c239ea74a13cc34db57ff53d6d3e774e4e688b322ef9fd23048",
            "8169b377759b05c05e78af767319ca97415826b37ca644682f10ccd36db7bff906eb08b175fb026e9ee97e9002a7830db7c990532bc06d8179a9f47288a916a5",
        ];
        let key = key("correct horse battery staple");
        for (prf, expected) in ALL.into_iter().zip(expected) {
            let data = key.authenticate(prf, b"signed octets");
            assert_eq!(data, unhex(expected), "{prf:?}");
            assert!(key.verify(prf, b"signed octets", &data));
            assert!(!key.verify(prf, b"signed octet", &data));
            assert!(!key.verify(prf, b"signed octets", &data[1..]));
            assert!(!key.verify(prf, b"signed octets", &[]));
        }
    }

    #[test]
    fn the_forms_of_a_secret() {
        let bytes = "0x000102030405060708090a0b0c0d0e0f10";
        assert_eq!(*key(bytes).0, (0..17).collect::<Vec<u8>>());
        // Python: base64.b64encode(bytes(range(17)))
        for text in ["0sAAECAwQFBgcICQoLDA0ODxA=", "0sAAECAwQFBgcICQoLDA0ODxA"] {
            assert_eq!(*key(text).0, (0..17).collect::<Vec<u8>>());
        }
        for end in ["", "\n", "\r\n"] {
            assert_eq!(
                *key(&format!("a secret in many words{end}")).0,
                b"a secret in many words"
            );
        }
        assert_eq!(format!("{:?}", key(bytes)), "SharedKey(..)");
    }

    #[test]
    fn weak_and_malformed_secrets_are_refused() {
        use SharedKeyError as E;
        for (text, error) in [
            ("", E::ShortText(0)),
            ("secret", E::ShortText(6)),
            ("0x00112233445566778899aabbccddee", E::ShortBinary(15)),
            ("0x001", E::Hex),
            ("0x00112233445566778899aabbccddeegg", E::Hex),
            ("0sAAEC", E::ShortBinary(3)),
            ("0sAAECA", E::Base64),
            ("0sAAEC*A==", E::Base64),
            ("0sAAECAwQFBgcICQoLDA0ODxB=", E::Base64),
            ("aaaaaaaaaaaaaaaaaaaaaaaa", E::Uniform(1)),
            ("abcabcabcabcabcabcabcabc", E::Uniform(3)),
            ("two lines of a secret\nare not one", E::NotOneLine),
            ("a secret in many words\n\n", E::NotOneLine),
        ] {
            assert_eq!(
                SharedKey::from_text(text.as_bytes()).unwrap_err(),
                error,
                "{text:?}"
            );
        }
        let long = format!("0x{}", "a5".repeat(SECRET_LEN_MAX + 1));
        assert_eq!(
            SharedKey::from_text(long.as_bytes()).unwrap_err(),
            E::Long(SECRET_LEN_MAX + 1)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(text: Vec<u8>) {
            let _ = SharedKey::from_text(&text);
        }

        #[test]
        fn hex_goes_both_ways(bytes in proptest::collection::vec(any::<u8>(), 16..64)) {
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(&*key(&format!("0x{text}")).0, &bytes);
        }
    }
}
