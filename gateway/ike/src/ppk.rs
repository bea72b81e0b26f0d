//! Post-quantum preshared keys (RFC 8784): a secret that two sides have beside what authenticates them. It goes into the
//! keys, so that who records the traffic today and breaks the key exchange some day still has no keys.

use std::{collections::HashMap, fmt};

use crate::{
    crypto::prf::PrfAlgorithm,
    keys::{KeyError, Secret},
    pki::identity::Identity,
    shared_key::SharedKey,
    wire::notify::{Notify, kind},
};

/// RFC 8784 section 6: 256 bits, of which Grover's algorithm leaves half.
pub const PPK_LEN_MIN: usize = 32;
/// Octets of an identifier at most; the RFC sets no limit, a message has to hold it.
pub const PPK_ID_LEN_MAX: usize = 128;
/// RFC 8784 section 5.1: a string that names the key on both sides.
const PPK_ID_FIXED: u8 = 2;

/// The preshared key that is mixed in with one peer.
#[derive(Clone)]
pub struct Ppk {
    id: Vec<u8>,
    key: SharedKey,
    required: bool,
}

/// Why a key was not taken. No text holds any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PpkError {
    /// Too few octets.
    #[error(
        "the post-quantum preshared key has {0} bytes; at least {PPK_LEN_MIN} random ones are needed: make it with `openssl rand -hex 32`"
    )]
    Short(usize),
    /// No identifier, or one that is too long.
    #[error("the identifier of a post-quantum preshared key has {0} bytes; 1 to {PPK_ID_LEN_MAX} are taken")]
    Identifier(usize),
}

impl Ppk {
    /// The key that both sides know as `id`. When it is `required`, an IKE SA without it is refused.
    ///
    /// # Errors
    /// If it is too short, or its identifier empty or too long.
    pub fn new(id: impl Into<Vec<u8>>, key: SharedKey, required: bool) -> Result<Self, PpkError> {
        let id = id.into();
        if !(1..=PPK_ID_LEN_MAX).contains(&id.len()) {
            return Err(PpkError::Identifier(id.len()));
        }
        match key.octets().len() {
            len if len < PPK_LEN_MIN => Err(PpkError::Short(len)),
            _ => Ok(Self { id, key, required }),
        }
    }

    /// Nothing goes without it.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// PPK_IDENTITY (RFC 8784 section 5.1).
    pub(crate) fn identity(&self) -> Notify {
        Notify::new(kind::PPK_IDENTITY, [&[PPK_ID_FIXED], self.id.as_slice()].concat())
    }

    /// Whether a PPK_IDENTITY of the peer names this key.
    pub(crate) fn is_named_by(&self, identity: &Notify) -> bool {
        identity.data == self.identity().data
    }

    /// `prf+(PPK, key)` as long as a key of the PRF (RFC 8784 section 3).
    pub(crate) fn mix(&self, prf: PrfAlgorithm, key: &[u8]) -> Result<Secret, KeyError> {
        prf.prf_plus(self.key.octets(), &[key], prf.output_len())
            .map_err(|_| KeyError)
    }
}

impl fmt::Debug for Ppk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ppk")
            .field("id", &String::from_utf8_lossy(&self.id))
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

/// Preshared keys by the identity of the peer.
#[derive(Clone, Debug, Default)]
pub struct Ppks(HashMap<Identity, Ppk>);

impl Ppks {
    /// Adds or replaces the key of a peer.
    pub fn insert(&mut self, peer: Identity, ppk: Ppk) {
        self.0.insert(peer, ppk);
    }

    /// The key of a peer.
    pub fn get(&self, peer: &Identity) -> Option<&Ppk> {
        self.0.get(peer)
    }

    /// Whether no peer has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ppk(octets: &[u8]) -> Result<Ppk, PpkError> {
        let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        let key = SharedKey::from_text(format!("0x{hex}").as_bytes()).unwrap();
        Ppk::new("clinic-7", key, true)
    }

    /// Made by `tests/data/ppk_keys.py`, an independent implementation: RFC 8784 has no test vectors.
    #[test]
    fn keys_match_the_second_implementation() {
        let ppk = ppk(&(0..32).collect::<Vec<_>>()).unwrap();
        let expected = include_str!("../tests/data/ppk_keys.txt");
        for line in expected.lines() {
            let (name, hex) = line.split_once(' ').unwrap();
            let prf = match name.split_once('-').unwrap().1 {
                "sha256" => PrfAlgorithm::HmacSha256,
                "sha384" => PrfAlgorithm::HmacSha384,
                "sha512" => PrfAlgorithm::HmacSha512,
                other => panic!("{other}"),
            };
            let first: u8 = match name.split_once('-').unwrap().0 {
                "sk_d" => 64,
                "sk_pi" => 96,
                "sk_pr" => 128,
                other => panic!("{other}"),
            };
            let key: Vec<u8> = (0..prf.output_len())
                .map(|index| first.wrapping_add(u8::try_from(index).unwrap()))
                .collect();
            let mixed = ppk.mix(prf, &key).unwrap();
            let found: String = mixed.iter().map(|octet| format!("{octet:02x}")).collect();
            assert_eq!(found, hex, "{name}");
        }
        assert_eq!(expected.lines().count(), 9);
    }

    /// RFC 8784 section 5.1.
    #[test]
    fn golden_identity() {
        let mut out = Vec::new();
        ppk(&[7; 32]).unwrap().identity().emit(&mut out);
        assert_eq!(out, [&[0, 0, 0x40, 0x34, 2], b"clinic-7".as_slice()].concat());
    }

    #[test]
    fn short_keys_and_odd_identifiers_are_refused() {
        assert_eq!(ppk(&[7; 31]).unwrap_err(), PpkError::Short(31));
        let key = SharedKey::from_text(b"0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
            .unwrap();
        for len in [0, PPK_ID_LEN_MAX + 1] {
            let refused = Ppk::new(vec![b'a'; len], key.clone(), true).unwrap_err();
            assert_eq!(refused, PpkError::Identifier(len));
        }
        let shown = format!("{:?}", ppk(&[0xab; 32]).unwrap());
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    }
}
