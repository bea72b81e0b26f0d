//! Protection of the Encrypted payload (SK, RFC 7296 section 3.14) and Encrypted Fragment payload (SKF,
//! RFC 7383): AES-GCM-16 and ChaCha20-Poly1305 (RFC 5282, RFC 7634), AES-CBC with HMAC-SHA2 (RFC 3602, RFC 4868).
//!
//! The body of the payload, after its generic header (and for SKF the two fragment numbers), is
//! `IV | ciphertext of (content | padding | pad length) | ICV`. Everything of the message before the body is
//! covered by the ICV: it is the AEAD's associated data, or the start of what the HMAC reads. So `head` below is
//! the message from the first byte of the IKE header to the last byte before the body, **with the lengths of
//! the finished message already in it**: [`IkeCipherSuite::body_len`] tells them beforehand.

use super::random::Random;
use aes::{Aes128, Aes256};
use cbc::cipher::{Block, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use ring::{aead, hmac};
use zeroize::Zeroizing;

/// An encryption transform (type 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// ENCR_AES_CBC (12) with a 128-bit key.
    AesCbc128,
    /// ENCR_AES_CBC (12) with a 256-bit key.
    AesCbc256,
    /// ENCR_AES_GCM_16 (20) with a 128-bit key.
    AesGcm128,
    /// ENCR_AES_GCM_16 (20) with a 256-bit key.
    AesGcm256,
    /// ENCR_CHACHA20_POLY1305 (28), which has no key length attribute.
    ChaCha20Poly1305,
}

/// An integrity transform (type 3), for ciphers that bring none of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Integrity {
    /// AUTH_HMAC_SHA2_256_128.
    HmacSha256 = 12,
    /// AUTH_HMAC_SHA2_384_192.
    HmacSha384 = 13,
    /// AUTH_HMAC_SHA2_512_256.
    HmacSha512 = 14,
}

impl Encryption {
    /// The algorithm of a transform id and its key length attribute in bits, if it is one of ours.
    pub fn from_id(id: u16, key_bits: Option<u16>) -> Option<Self> {
        match (id, key_bits) {
            (12, Some(128)) => Some(Self::AesCbc128),
            (12, Some(256)) => Some(Self::AesCbc256),
            (20, Some(128)) => Some(Self::AesGcm128),
            (20, Some(256)) => Some(Self::AesGcm256),
            (28, None) => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// The IANA transform id.
    pub fn id(self) -> u16 {
        match self {
            Self::AesCbc128 | Self::AesCbc256 => 12,
            Self::AesGcm128 | Self::AesGcm256 => 20,
            Self::ChaCha20Poly1305 => 28,
        }
    }

    /// The key length attribute in bits, where the transform has one.
    pub fn key_bits(self) -> Option<u16> {
        match self {
            Self::AesCbc128 | Self::AesGcm128 => Some(128),
            Self::AesCbc256 | Self::AesGcm256 => Some(256),
            Self::ChaCha20Poly1305 => None,
        }
    }

    /// Whether the cipher authenticates too and so must be proposed without an integrity transform.
    pub fn is_aead(self) -> bool {
        match self {
            Self::AesCbc128 | Self::AesCbc256 => false,
            Self::AesGcm128 | Self::AesGcm256 | Self::ChaCha20Poly1305 => true,
        }
    }
}

impl Integrity {
    /// The algorithm of a transform id, if it is one of ours.
    pub fn from_id(id: u16) -> Option<Self> {
        [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512]
            .into_iter()
            .find(|integrity| integrity.id() == id)
    }

    /// The IANA transform id.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// Length of the key in bytes (RFC 4868 section 2.1.1: that of the hash).
    pub fn key_len(self) -> usize {
        self.icv_len() * 2
    }

    /// Length of the truncated MAC in bytes.
    pub fn icv_len(self) -> usize {
        match self {
            Self::HmacSha256 => 16,
            Self::HmacSha384 => 24,
            Self::HmacSha512 => 32,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        }
    }
}

/// A pair of transforms that fit each other: an AEAD alone, or a cipher with a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IkeCipherSuite {
    encryption: Encryption,
    integrity: Option<Integrity>,
}

/// Why transforms make no suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// A MAC beside a cipher that has its own (RFC 5282 section 8).
    #[error("{0:?} authenticates by itself and takes no integrity algorithm")]
    NeedlessIntegrity(Encryption),
    /// No MAC beside a cipher that needs one.
    #[error("{0:?} needs an integrity algorithm")]
    MissingIntegrity(Encryption),
}

/// Why a payload was not sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// Key material of the wrong length.
    #[error("{what} of {got} bytes where the suite has {expected}")]
    KeyLength {
        /// Which key.
        what: &'static str,
        /// Bytes the suite asks for.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The body is too short for IV, pad length and ICV, or not a whole number of blocks.
    #[error("the encrypted payload is truncated: {0} bytes of body")]
    Truncated(usize),
    /// The ICV does not match: forged, damaged, or made with other keys.
    #[error("the integrity check failed")]
    Integrity,
    /// An authenticated body says it has more padding than content.
    #[error("the pad length is larger than the decrypted content")]
    Padding,
    /// Every IV of this key has been used.
    #[error("the initialization vectors of this key are used up")]
    Exhausted,
}

impl IkeCipherSuite {
    /// Pairs the transforms of a chosen proposal.
    ///
    /// # Errors
    /// If an AEAD has an integrity transform beside it or another cipher has none.
    pub fn new(encryption: Encryption, integrity: Option<Integrity>) -> Result<Self, SuiteError> {
        match (encryption.is_aead(), integrity) {
            (true, Some(_)) => Err(SuiteError::NeedlessIntegrity(encryption)),
            (false, None) => Err(SuiteError::MissingIntegrity(encryption)),
            (true, None) | (false, Some(_)) => Ok(Self {
                encryption,
                integrity,
            }),
        }
    }

    /// The encryption transform.
    pub fn encryption(self) -> Encryption {
        self.encryption
    }

    /// The integrity transform, if the cipher has none of its own.
    pub fn integrity(self) -> Option<Integrity> {
        self.integrity
    }

    /// Length of SK_ei and SK_er in bytes, including the 4 bytes of salt of an AEAD.
    pub fn key_len(self) -> usize {
        match self.encryption {
            Encryption::AesCbc128 => 16,
            Encryption::AesCbc256 => 32,
            Encryption::AesGcm128 => 16 + SALT_LEN,
            Encryption::AesGcm256 | Encryption::ChaCha20Poly1305 => 32 + SALT_LEN,
        }
    }

    /// Length of SK_ai and SK_ar in bytes: 0 for an AEAD.
    pub fn integ_key_len(self) -> usize {
        self.integrity.map_or(0, Integrity::key_len)
    }

    /// Length of the IV at the start of the body, in bytes.
    pub fn iv_len(self) -> usize {
        if self.encryption.is_aead() {
            AEAD_IV_LEN
        } else {
            BLOCK_LEN
        }
    }

    /// Length of the ICV at the end of the body, in bytes.
    pub fn icv_len(self) -> usize {
        self.integrity.map_or(AEAD_TAG_LEN, Integrity::icv_len)
    }

    /// What the content with its padding and pad length is a multiple of, in bytes.
    pub fn block_len(self) -> usize {
        if self.encryption.is_aead() { 1 } else { BLOCK_LEN }
    }

    /// Length of the whole body for `content_len` bytes of content: IV, padded content, ICV.
    pub fn body_len(self, content_len: usize) -> usize {
        self.iv_len() + (content_len + 1).next_multiple_of(self.block_len()) + self.icv_len()
    }

    /// The most content that fits in a body of at most `body_len` bytes, for cutting fragments (RFC 7383).
    pub fn max_content_len(self, body_len: usize) -> Option<usize> {
        let padded = body_len.checked_sub(self.iv_len() + self.icv_len())?;
        (padded - padded % self.block_len()).checked_sub(1)
    }
}

const SALT_LEN: usize = 4;
const AEAD_IV_LEN: usize = 8;
const AEAD_TAG_LEN: usize = 16;
const BLOCK_LEN: usize = 16;

/// Keys of one direction of an IKE SA, as the algorithms want them.
enum Keys {
    Aead {
        key: Box<aead::LessSafeKey>,
        salt: [u8; SALT_LEN],
    },
    Cbc {
        key: CbcKey,
        integrity: Integrity,
        mac: hmac::Key,
    },
}

enum CbcKey {
    Aes128(Zeroizing<[u8; 16]>),
    Aes256(Zeroizing<[u8; 32]>),
}

impl Keys {
    fn new(suite: IkeCipherSuite, encr: &[u8], integ: &[u8]) -> Result<Self, CipherError> {
        let wrong_key = CipherError::KeyLength {
            what: "encryption key",
            expected: suite.key_len(),
            got: encr.len(),
        };
        let wrong_mac = CipherError::KeyLength {
            what: "integrity key",
            expected: suite.integ_key_len(),
            got: integ.len(),
        };
        if encr.len() != suite.key_len() {
            return Err(wrong_key);
        }
        if integ.len() != suite.integ_key_len() {
            return Err(wrong_mac);
        }
        let aead = |algorithm| {
            let (key, salt) = encr.split_last_chunk::<SALT_LEN>().ok_or(wrong_key)?;
            let key = aead::UnboundKey::new(algorithm, key).map_err(|_| wrong_key)?;
            Ok(Self::Aead {
                key: Box::new(aead::LessSafeKey::new(key)),
                salt: *salt,
            })
        };
        let cbc = |key| {
            let integrity = suite.integrity.ok_or(wrong_mac)?;
            Ok(Self::Cbc {
                key,
                integrity,
                mac: hmac::Key::new(integrity.hmac(), integ),
            })
        };
        match suite.encryption {
            Encryption::AesGcm128 => aead(&aead::AES_128_GCM),
            Encryption::AesGcm256 => aead(&aead::AES_256_GCM),
            Encryption::ChaCha20Poly1305 => aead(&aead::CHACHA20_POLY1305),
            Encryption::AesCbc128 => cbc(CbcKey::Aes128(Zeroizing::new(
                encr.try_into().map_err(|_| wrong_key)?,
            ))),
            Encryption::AesCbc256 => cbc(CbcKey::Aes256(Zeroizing::new(
                encr.try_into().map_err(|_| wrong_key)?,
            ))),
        }
    }
}

/// Seals what we send on an IKE SA. It owns the IV counter: there must be one sealer a key, and it is not `Clone`.
pub struct SkSealer {
    suite: IkeCipherSuite,
    keys: Keys,
    /// The IV that the next AEAD seal uses. A GCM IV used twice under one key gives the key away.
    next_iv: u64,
}

/// Opens what the peer sends on an IKE SA.
pub struct SkOpener {
    suite: IkeCipherSuite,
    keys: Keys,
}

impl SkSealer {
    /// Takes our SK_e and SK_a (empty for an AEAD).
    ///
    /// # Errors
    /// If a key has not the suite's length.
    pub fn new(suite: IkeCipherSuite, encr_key: &[u8], integ_key: &[u8]) -> Result<Self, CipherError> {
        Ok(Self {
            suite,
            keys: Keys::new(suite, encr_key, integ_key)?,
            next_iv: 1,
        })
    }

    /// The suite in use.
    pub fn suite(&self) -> IkeCipherSuite {
        self.suite
    }

    /// The body of an SK or SKF payload, [`IkeCipherSuite::body_len`] bytes long. `head` is the message before
    /// the body, its length fields final; `random` gives the IV of AES-CBC.
    ///
    /// # Errors
    /// [`CipherError::Exhausted`] after 2^64 - 1 messages.
    pub fn seal(
        &mut self,
        random: &mut dyn Random,
        head: &[u8],
        content: &[u8],
    ) -> Result<Vec<u8>, CipherError> {
        let padded_len = (content.len() + 1).next_multiple_of(self.suite.block_len());
        let pad_len = padded_len - content.len() - 1;
        // All at its final size: the content is encrypted where it lies and leaves no copy behind.
        let mut body = Vec::with_capacity(self.suite.body_len(content.len()));
        let mut iv = [0u8; BLOCK_LEN];
        match self.keys {
            Keys::Aead { .. } => body.extend_from_slice(&self.next_iv.to_be_bytes()),
            Keys::Cbc { .. } => {
                random.fill(&mut iv);
                body.extend_from_slice(&iv);
            }
        }
        body.extend_from_slice(content);
        body.resize(body.len() + pad_len, 0);
        // At most a block of 16, so it fits; padding is zero, which RFC 7296 leaves to the sender.
        body.push(u8::try_from(pad_len).unwrap_or(u8::MAX));
        match &self.keys {
            Keys::Aead { key, salt } => {
                let nonce = aead_nonce(salt, &self.next_iv.to_be_bytes());
                self.next_iv = self.next_iv.checked_add(1).ok_or(CipherError::Exhausted)?;
                let (_, text) = body.split_at_mut(AEAD_IV_LEN);
                let tag = key
                    .seal_in_place_separate_tag(nonce, aead::Aad::from(head), text)
                    .map_err(|_| CipherError::Exhausted)?;
                body.extend_from_slice(tag.as_ref());
            }
            Keys::Cbc { key, integrity, mac } => {
                let (_, text) = body.split_at_mut(BLOCK_LEN);
                key.encrypt(&iv, text);
                let mut context = hmac::Context::with_key(mac);
                context.update(head);
                context.update(&body);
                let tag = context.sign();
                body.extend_from_slice(
                    tag.as_ref()
                        .get(..integrity.icv_len())
                        .ok_or(CipherError::Integrity)?,
                );
            }
        }
        Ok(body)
    }
}

impl SkOpener {
    /// Takes the peer's SK_e and SK_a (empty for an AEAD).
    ///
    /// # Errors
    /// If a key has not the suite's length.
    pub fn new(suite: IkeCipherSuite, encr_key: &[u8], integ_key: &[u8]) -> Result<Self, CipherError> {
        Ok(Self {
            suite,
            keys: Keys::new(suite, encr_key, integ_key)?,
        })
    }

    /// The suite in use.
    pub fn suite(&self) -> IkeCipherSuite {
        self.suite
    }

    /// The content of an SK or SKF payload: the inner payloads without padding. `head` is the message as received
    /// up to the body, `body` the rest of the message (the SK payload is the last).
    ///
    /// # Errors
    /// If the body is malformed or its ICV does not match; the message must then be dropped without an answer.
    pub fn open(&self, head: &[u8], body: &[u8]) -> Result<Zeroizing<Vec<u8>>, CipherError> {
        let truncated = CipherError::Truncated(body.len());
        let (iv, rest) = body.split_at_checked(self.suite.iv_len()).ok_or(truncated)?;
        let text_len = rest.len().checked_sub(self.suite.icv_len()).ok_or(truncated)?;
        if text_len == 0 || !text_len.is_multiple_of(self.suite.block_len()) {
            return Err(truncated);
        }
        let mut content = match &self.keys {
            Keys::Aead { key, salt } => {
                let iv = iv.first_chunk().ok_or(truncated)?;
                let mut text = Zeroizing::new(rest.to_vec());
                key.open_in_place(aead_nonce(salt, iv), aead::Aad::from(head), &mut text)
                    .map_err(|_| CipherError::Integrity)?;
                text.truncate(text_len);
                text
            }
            Keys::Cbc { key, mac, .. } => {
                let (text, icv) = rest.split_at_checked(text_len).ok_or(truncated)?;
                let mut context = hmac::Context::with_key(mac);
                [head, iv, text].iter().for_each(|part| context.update(part));
                equal_in_constant_time(context.sign().as_ref(), icv)?;
                let mut text = Zeroizing::new(text.to_vec());
                key.decrypt(iv.first_chunk().ok_or(truncated)?, &mut text);
                text
            }
        };
        // The pad length is authenticated: telling that it is wrong is no padding oracle.
        let pad_len = usize::from(content.pop().ok_or(truncated)?);
        let len = content.len().checked_sub(pad_len).ok_or(CipherError::Padding)?;
        content.truncate(len);
        Ok(content)
    }
}

impl std::fmt::Debug for SkSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SkSealer")
            .field("suite", &self.suite)
            .field("next_iv", &self.next_iv)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SkOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SkOpener")
            .field("suite", &self.suite)
            .finish_non_exhaustive()
    }
}

/// Salt and IV make the nonce of both AEADs (RFC 5282 section 4, RFC 7634 section 2).
fn aead_nonce(salt: &[u8; SALT_LEN], iv: &[u8; AEAD_IV_LEN]) -> aead::Nonce {
    let mut nonce = [0u8; SALT_LEN + AEAD_IV_LEN];
    nonce[..SALT_LEN].copy_from_slice(salt);
    nonce[SALT_LEN..].copy_from_slice(iv);
    aead::Nonce::assume_unique_for_key(nonce)
}

/// Compares a truncated MAC: `icv` with as many first bytes of `mac`. `ring` compares only whole tags, so the
/// difference is gathered over all bytes before it is looked at.
fn equal_in_constant_time(mac: &[u8], icv: &[u8]) -> Result<(), CipherError> {
    if icv.is_empty() || icv.len() > mac.len() {
        return Err(CipherError::Integrity);
    }
    let difference = mac.iter().zip(icv).fold(0u8, |sum, (a, b)| sum | (a ^ b));
    if std::hint::black_box(difference) == 0 {
        Ok(())
    } else {
        Err(CipherError::Integrity)
    }
}

impl CbcKey {
    fn encrypt(&self, iv: &[u8; BLOCK_LEN], text: &mut [u8]) {
        match self {
            Self::Aes128(key) => {
                let mut cipher = cbc::Encryptor::<Aes128>::new((&**key).into(), iv.into());
                cipher.encrypt_blocks(Block::<Aes128>::slice_as_chunks_mut(text).0);
            }
            Self::Aes256(key) => {
                let mut cipher = cbc::Encryptor::<Aes256>::new((&**key).into(), iv.into());
                cipher.encrypt_blocks(Block::<Aes256>::slice_as_chunks_mut(text).0);
            }
        }
    }

    fn decrypt(&self, iv: &[u8; BLOCK_LEN], text: &mut [u8]) {
        match self {
            Self::Aes128(key) => {
                let mut cipher = cbc::Decryptor::<Aes128>::new((&**key).into(), iv.into());
                cipher.decrypt_blocks(Block::<Aes128>::slice_as_chunks_mut(text).0);
            }
            Self::Aes256(key) => {
                let mut cipher = cbc::Decryptor::<Aes256>::new((&**key).into(), iv.into());
                cipher.decrypt_blocks(Block::<Aes256>::slice_as_chunks_mut(text).0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::{Repeat, hex};
    use proptest::prelude::*;

    const SUITES: [(Encryption, Option<Integrity>); 6] = [
        (Encryption::AesGcm128, None),
        (Encryption::AesGcm256, None),
        (Encryption::ChaCha20Poly1305, None),
        (Encryption::AesCbc128, Some(Integrity::HmacSha256)),
        (Encryption::AesCbc256, Some(Integrity::HmacSha384)),
        (Encryption::AesCbc256, Some(Integrity::HmacSha512)),
    ];

    fn suites() -> impl Iterator<Item = IkeCipherSuite> {
        SUITES
            .into_iter()
            .map(|(encryption, integrity)| IkeCipherSuite::new(encryption, integrity).unwrap())
    }

    fn pair(suite: IkeCipherSuite) -> (SkSealer, SkOpener) {
        let key: Vec<u8> = (100..164).collect();
        let (encr, integ) = (&key[..suite.key_len()], &key[..suite.integ_key_len()]);
        (
            SkSealer::new(suite, encr, integ).unwrap(),
            SkOpener::new(suite, encr, integ).unwrap(),
        )
    }

    fn iv() -> Repeat {
        Repeat(vec![0xa5])
    }

    /// tests/data/vectors.py computes these with OpenSSL.
    #[test]
    fn bodies_agree_with_openssl() {
        let expected = [
            "000000000000000165d1d306f4d8b23b39e0c6146aeb63ae32887a5ff266bbba8072b90b3fe4e5c22d120b493c544e9fe92a871dbea5f593b4",
            "000000000000000153233e12100384648676caefad506707178da2fa62954353974800e748fd68e5d58363b7258a00bde98a8d36e4f2da20f6",
            "00000000000000016bcce0100ca871dc246020fac9031fdd4036c64ee0c409797563b57f7ce126bba32b8eb1d4ed1677db50711a0c3e705018",
            "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a51a657d65a12e1894126678035dc315765b6e275b560027288aa835d568c797244e201ec48badde63447715e4e26bbd7af83f9bb46bf561e896efbbd24ddc2a96",
            "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5e22e60435d35898008001d56b710bc456029228eaf2b11a5ec30001eb8c944fba568e9c60fbe81fc4172ab95eb143668db91d86974c61d3652ade67e7e0776f1518482e3c3f96d6a",
            "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5e22e60435d35898008001d56b710bc456029228eaf2b11a5ec30001eb8c944fba568e9c60fbe81fc4172ab95eb143668a11ad34a26af050f4d62dcc2ffa6ac49bdafaa8d26fbc3b9f5dad6f08874bf59",
        ];
        let head: Vec<u8> = (0..32).collect();
        let content = b"inner payloads of an IKE message";
        for (suite, expected) in suites().zip(expected) {
            let (mut sealer, opener) = pair(suite);
            let body = sealer.seal(&mut iv(), &head, content).unwrap();
            assert_eq!(hex(&body), expected, "{suite:?}");
            assert_eq!(&opener.open(&head, &body).unwrap()[..], content);
        }
    }

    /// RFC 5282 section 3.1: an IV must never be used twice under a key.
    #[test]
    fn aead_ivs_do_not_repeat() {
        for suite in suites().filter(|suite| suite.encryption().is_aead()) {
            let (mut sealer, _) = pair(suite);
            let mut ivs = std::collections::HashSet::new();
            for _ in 0..100 {
                assert!(ivs.insert(sealer.seal(&mut iv(), b"", b"").unwrap()[..8].to_vec()));
            }
            sealer.next_iv = u64::MAX;
            assert_eq!(sealer.seal(&mut iv(), b"", b""), Err(CipherError::Exhausted));
        }
    }

    /// Any padding up to 255 is the sender's right (RFC 7296 section 3.14); more than there is content is not.
    #[test]
    fn padding_of_other_implementations_is_removed() {
        let suite = IkeCipherSuite::new(Encryption::AesCbc128, Some(Integrity::HmacSha256)).unwrap();
        let (sealer, opener) = pair(suite);
        let sealed = |text: &[u8]| {
            let Keys::Cbc { key, mac, .. } = &sealer.keys else {
                panic!("a CBC suite")
            };
            let mut text = text.to_vec();
            key.encrypt(&[1; 16], &mut text);
            let body = [&[1; 16], &text[..]].concat();
            let tag = hmac::sign(mac, &body);
            [&body[..], &tag.as_ref()[..16]].concat()
        };
        let mut text = vec![9; 32];
        text[31] = 27;
        assert_eq!(&opener.open(b"", &sealed(&text)).unwrap()[..], [9; 4]);
        text[31] = 31;
        assert!(opener.open(b"", &sealed(&text)).unwrap().is_empty());
        text[31] = 32;
        assert_eq!(opener.open(b"", &sealed(&text)), Err(CipherError::Padding));
    }

    #[test]
    fn suites_that_make_no_sense_are_refused() {
        for (encryption, integrity) in SUITES {
            let wrong = if integrity.is_some() {
                None
            } else {
                Some(Integrity::HmacSha256)
            };
            assert!(IkeCipherSuite::new(encryption, wrong).is_err());
            assert_eq!(
                Encryption::from_id(encryption.id(), encryption.key_bits()),
                Some(encryption)
            );
        }
        // A key length attribute where there must be one, and none where there must be none; 192 is not ours.
        for (id, bits) in [
            (12, None),
            (20, None),
            (28, Some(256)),
            (12, Some(192)),
            (20, Some(192)),
            (19, Some(128)),
        ] {
            assert_eq!(Encryption::from_id(id, bits), None);
        }
        for suite in suites() {
            let (encr, integ) = (vec![0; suite.key_len()], vec![0; suite.integ_key_len()]);
            assert!(SkSealer::new(suite, &encr[1..], &integ).is_err());
            assert!(SkOpener::new(suite, &encr, &[&integ[..], &[0]].concat()).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(content: Vec<u8>, head: Vec<u8>) {
            for suite in suites() {
                let (mut sealer, opener) = pair(suite);
                let body = sealer.seal(&mut iv(), &head, &content).unwrap();
                prop_assert_eq!(body.len(), suite.body_len(content.len()));
                prop_assert_eq!(&opener.open(&head, &body).unwrap()[..], &content[..]);
            }
        }

        #[test]
        fn one_changed_bit_is_noticed(content: Vec<u8>, head in proptest::collection::vec(any::<u8>(), 1..60), at: usize, bit in 0u8..8) {
            for suite in suites() {
                let (mut sealer, opener) = pair(suite);
                let mut message = [&head[..], &sealer.seal(&mut iv(), &head, &content).unwrap()].concat();
                let at = at % message.len();
                message[at] ^= 1 << bit;
                let (head, body) = message.split_at(head.len());
                prop_assert_eq!(opener.open(head, body), Err(CipherError::Integrity));
            }
        }

        #[test]
        fn any_bytes_are_refused_without_panic(head: Vec<u8>, body: Vec<u8>) {
            for suite in suites() {
                prop_assert!(pair(suite).1.open(&head, &body).is_err());
            }
        }

        /// The fragment cutter relies on it: no content larger than the answer fits, the answer does.
        #[test]
        fn the_largest_content_fits_and_no_larger(room in 0usize..2000) {
            for suite in suites() {
                match suite.max_content_len(room) {
                    Some(len) => {
                        prop_assert!(suite.body_len(len) <= room);
                        prop_assert!(suite.body_len(len + 1) > room);
                    }
                    None => prop_assert!(suite.body_len(0) > room),
                }
            }
        }
    }
}
