//! Signatures of the AUTH payload (RFC 7296 sections 2.15 and 3.8): RSA Digital Signature (1), ECDSA (9, 10;
//! RFC 4754) and Digital Signature (14; RFC 7427, RFC 8420).
//!
//! SHA-1 is never made and never accepted, not even for method 1, where older peers default to it. Method 1
//! is signed with SHA-256, which RFC 7296 section 3.8 permits, and a peer's SHA-1 is told apart from a forgery
//! so that the log names the remedy.

use super::algorithm::{algorithm_identifier, parse_algorithm_identifier};
use super::der::{element, tag};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A hash of the SIGNATURE_HASH_ALGORITHMS notification. The discriminants are the IANA numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum HashAlgorithm {
    /// SHA2-256.
    Sha256 = 2,
    /// SHA2-384.
    Sha384 = 3,
    /// SHA2-512.
    Sha512 = 4,
    /// None beside the signature algorithm's own: Ed25519 (RFC 8420).
    Identity = 5,
}

impl HashAlgorithm {
    /// Those that we know.
    pub const ALL: [Self; 4] = [Self::Sha256, Self::Sha384, Self::Sha512, Self::Identity];
    /// What we announce, in the order of our preference. RFC 7427 section 4: the peer takes any of them for whatever key it
    /// has, so SHA2-512 is left out: `ring` has no ECDSA with it.
    pub const ANNOUNCED: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Identity];

    /// The algorithm of an IANA number, if it is one of ours. SHA-1 (1) is not.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.id() == id)
    }

    /// The IANA number.
    pub fn id(self) -> u16 {
        self as u16
    }
}

/// An authentication method by signature. The discriminants are the IANA numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AuthMethod {
    /// RSA Digital Signature: RSASSA-PKCS1-v1_5.
    Rsa = 1,
    /// ECDSA with SHA-256 on P-256.
    EcdsaP256 = 9,
    /// ECDSA with SHA-384 on P-384.
    EcdsaP384 = 10,
    /// Digital Signature, which names its algorithm (RFC 7427).
    DigitalSignature = 14,
}

impl AuthMethod {
    /// The method of an IANA number, if it is one of ours.
    pub fn from_id(id: u8) -> Option<Self> {
        [
            Self::Rsa,
            Self::EcdsaP256,
            Self::EcdsaP384,
            Self::DigitalSignature,
        ]
        .into_iter()
        .find(|method| method.id() == id)
    }

    /// The IANA number.
    pub fn id(self) -> u8 {
        self as u8
    }
}

/// A signature algorithm with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(HashAlgorithm),
    /// RSASSA-PSS with MGF1 of the same hash and a salt as long as the hash.
    RsaPss(HashAlgorithm),
    /// ECDSA.
    Ecdsa(HashAlgorithm),
    /// Ed25519.
    Ed25519,
}

/// How to sign: the method and, within it, the scheme. Chosen by [`SigningKey::choose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AuthScheme {
    method: AuthMethod,
    scheme: SignatureScheme,
}

impl AuthScheme {
    /// The authentication method for the AUTH payload.
    pub fn method(self) -> AuthMethod {
        self.method
    }

    /// The signature algorithm.
    pub fn scheme(self) -> SignatureScheme {
        self.scheme
    }
}

/// What RSA signatures of method 14 look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RsaPadding {
    /// RSASSA-PKCS1-v1_5, which every router with RFC 7427 reads.
    #[default]
    Pkcs1,
    /// RSASSA-PSS, which RFC 8247 section 3.2 prefers.
    Pss,
}

/// What kind of key a certificate or a private key file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA.
    Rsa,
    /// An elliptic-curve key on P-256.
    EcdsaP256,
    /// An elliptic-curve key on P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
}

/// Why a key was not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PEM, or damaged.
    #[error("the private key file is not readable PEM: {0}")]
    Pem(String),
    /// No private key section.
    #[error("the file holds no private key (PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY section)")]
    Missing,
    /// A section that needs a passphrase.
    #[error("the private key is encrypted; decrypt it first, for example with `openssl pkey`")]
    Encrypted,
    /// The library's reason.
    #[error("the private key is not usable (RSA of 2048 to 4096 bits, P-256, P-384 or Ed25519): {0}")]
    Rejected(String),
    /// A public key of an algorithm that we do not verify.
    #[error("public key algorithm {0} is not supported (RSA, P-256, P-384 or Ed25519)")]
    Algorithm(String),
    /// An RSA key of a size that nobody should use.
    #[error("the RSA key has {0} bits; 2048 to 8192 are accepted")]
    RsaSize(usize),
    /// A public key that is not DER.
    #[error("the public key is malformed")]
    Malformed,
}

/// Why no signature was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The scheme belongs to another kind of key.
    #[error("a {key:?} key cannot sign with {scheme:?}")]
    Unsuitable {
        /// Our key.
        key: KeyKind,
        /// What was asked.
        scheme: SignatureScheme,
    },
    /// The peer knows no method that our key can serve.
    #[error("the peer announces no signature method for our {0:?} key")]
    NoCommonMethod(KeyKind),
    /// The library failed.
    #[error("signing failed")]
    Failed,
}

/// Why an AUTH payload was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A method that is no signature, or unknown.
    #[error(
        "authentication method {0} is not supported; use RSA (1), ECDSA (9, 10) or Digital Signature (14)"
    )]
    Method(u8),
    /// The method does not fit the certificate's key.
    #[error("authentication method {method:?} does not fit the {key:?} key of the peer's certificate")]
    KeyKind {
        /// The method in the AUTH payload.
        method: AuthMethod,
        /// The key in the certificate.
        key: KeyKind,
    },
    /// The data of method 14 is cut short or is not DER.
    #[error("the authentication data is malformed")]
    Malformed,
    /// Method 14 with an algorithm that we do not verify.
    #[error("signature algorithm {0} is not supported")]
    Algorithm(String),
    /// A signature over SHA-1.
    #[error(
        "the peer signed with SHA-1, which is refused; set it to SHA-256 or to RFC 7427 signature authentication"
    )]
    Sha1,
    /// ECDSA over SHA-512, which was not announced.
    #[error(
        "the peer signed by ECDSA with SHA-512, which is not supported and was not announced; let the peer sign with SHA-256 or SHA-384"
    )]
    EcdsaSha512,
    /// The signature is not the key's over this message.
    #[error("the signature does not verify with the peer's certificate")]
    Signature,
}

/// A private key that signs AUTH payloads.
pub struct SigningKey {
    pair: Pair,
    rsa_padding: RsaPadding,
}

enum Pair {
    Rsa(RsaKeyPair),
    /// The same key twice: `ring` binds the form of the signature to the key.
    Ecdsa {
        kind: KeyKind,
        fixed: Box<EcdsaKeyPair>,
        asn1: Box<EcdsaKeyPair>,
    },
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// Reads the first private key of a PEM file: PKCS#8, PKCS#1 (RSA) or SEC1 (EC).
    ///
    /// # Errors
    /// If there is none, it is encrypted, or `ring` refuses it (RSA must have 2048 to 4096 bits).
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
        if ENCRYPTED
            .iter()
            .any(|mark| pem.windows(mark.len()).any(|window| window == *mark))
        {
            return Err(KeyError::Encrypted);
        }
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
            pem::Error::NoItemsFound => KeyError::Missing,
            other => KeyError::Pem(other.to_string()),
        })?;
        Self::from_der(&key)
    }

    fn from_der(key: &PrivateKeyDer<'_>) -> Result<Self, KeyError> {
        let rejected = |error: ring::error::KeyRejected| KeyError::Rejected(error.to_string());
        let pair = match key {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der())
                .map(Pair::Rsa)
                .map_err(rejected)?,
            PrivateKeyDer::Sec1(der) => Pair::ecdsa_from_sec1(der.secret_sec1_der()).map_err(rejected)?,
            PrivateKeyDer::Pkcs8(der) => Pair::from_pkcs8(der.secret_pkcs8_der()).map_err(rejected)?,
            _ => return Err(KeyError::Missing),
        };
        Ok(Self {
            pair,
            rsa_padding: RsaPadding::default(),
        })
    }

    /// Sets the padding of RSA signatures of method 14.
    pub fn with_rsa_padding(mut self, padding: RsaPadding) -> Self {
        self.rsa_padding = padding;
        self
    }

    /// What kind of key this is.
    pub fn kind(&self) -> KeyKind {
        match &self.pair {
            Pair::Rsa(_) => KeyKind::Rsa,
            Pair::Ecdsa { kind, .. } => *kind,
            Pair::Ed25519(_) => KeyKind::Ed25519,
        }
    }

    /// Whether `public` is this key's public half.
    pub fn belongs_to(&self, public: &PublicKey) -> bool {
        let own = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ecdsa { fixed, .. } => fixed.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
        };
        self.kind() == public.kind && own == public.key
    }

    /// Chooses how to sign for a peer that announced `peer_hashes` by SIGNATURE_HASH_ALGORITHMS (empty if it
    /// did not): method 14 if we share a hash (RFC 7427 section 4), else the older method of the key.
    ///
    /// # Errors
    /// If the key has no older method (Ed25519) and the peer announced nothing that fits.
    pub fn choose(&self, peer_hashes: &[HashAlgorithm]) -> Result<AuthScheme, SignError> {
        let shared = |ours: &[HashAlgorithm]| ours.iter().copied().find(|hash| peer_hashes.contains(hash));
        let kind = self.kind();
        let (old, new) = match kind {
            KeyKind::Rsa => {
                let padded = match self.rsa_padding {
                    RsaPadding::Pkcs1 => SignatureScheme::RsaPkcs1,
                    RsaPadding::Pss => SignatureScheme::RsaPss,
                };
                let new = shared(&[
                    HashAlgorithm::Sha256,
                    HashAlgorithm::Sha384,
                    HashAlgorithm::Sha512,
                ])
                .map(padded);
                (
                    Some((AuthMethod::Rsa, SignatureScheme::RsaPkcs1(HashAlgorithm::Sha256))),
                    new,
                )
            }
            KeyKind::EcdsaP256 => {
                let old = (
                    AuthMethod::EcdsaP256,
                    SignatureScheme::Ecdsa(HashAlgorithm::Sha256),
                );
                (
                    Some(old),
                    shared(&[HashAlgorithm::Sha256]).map(SignatureScheme::Ecdsa),
                )
            }
            KeyKind::EcdsaP384 => {
                let old = (
                    AuthMethod::EcdsaP384,
                    SignatureScheme::Ecdsa(HashAlgorithm::Sha384),
                );
                (
                    Some(old),
                    shared(&[HashAlgorithm::Sha384]).map(SignatureScheme::Ecdsa),
                )
            }
            KeyKind::Ed25519 => (
                None,
                shared(&[HashAlgorithm::Identity]).map(|_| SignatureScheme::Ed25519),
            ),
        };
        let new = new.map(|scheme| (AuthMethod::DigitalSignature, scheme));
        let (method, scheme) = new.or(old).ok_or(SignError::NoCommonMethod(kind))?;
        Ok(AuthScheme { method, scheme })
    }

    /// The authentication data of an AUTH payload over `message` (the signed octets of RFC 7296 section 2.15),
    /// with the algorithm in front for method 14.
    ///
    /// # Errors
    /// If `auth` was chosen for another kind of key.
    pub fn sign(&self, auth: AuthScheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let unsuitable = SignError::Unsuitable {
            key: self.kind(),
            scheme: auth.scheme,
        };
        let signature = match (&self.pair, auth.scheme) {
            (Pair::Rsa(pair), SignatureScheme::RsaPkcs1(hash)) => {
                sign_rsa(pair, pkcs1_encoding(hash).ok_or(unsuitable)?, message)?
            }
            (Pair::Rsa(pair), SignatureScheme::RsaPss(hash)) => {
                sign_rsa(pair, pss_encoding(hash).ok_or(unsuitable)?, message)?
            }
            (Pair::Ecdsa { kind, fixed, asn1 }, SignatureScheme::Ecdsa(hash)) => {
                let pair = match auth.method {
                    AuthMethod::DigitalSignature => asn1,
                    AuthMethod::Rsa | AuthMethod::EcdsaP256 | AuthMethod::EcdsaP384 => fixed,
                };
                if (*kind == KeyKind::EcdsaP256) != (hash == HashAlgorithm::Sha256) {
                    return Err(unsuitable);
                }
                pair.sign(&SystemRandom::new(), message)
                    .map_err(|_| SignError::Failed)?
                    .as_ref()
                    .to_vec()
            }
            (Pair::Ed25519(pair), SignatureScheme::Ed25519) => pair.sign(message).as_ref().to_vec(),
            (Pair::Rsa(_) | Pair::Ecdsa { .. } | Pair::Ed25519(_), _) => return Err(unsuitable),
        };
        if auth.method != AuthMethod::DigitalSignature {
            return Ok(signature);
        }
        let algorithm = algorithm_identifier(auth.scheme).ok_or(unsuitable)?;
        let len = u8::try_from(algorithm.len()).map_err(|_| SignError::Failed)?;
        Ok([&[len], &algorithm[..], &signature].concat())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("kind", &self.kind())
            .finish_non_exhaustive()
    }
}

impl Pair {
    fn from_pkcs8(der: &[u8]) -> Result<Self, ring::error::KeyRejected> {
        Self::ecdsa(der)
            .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Self::Ed25519))
            // RSA last: its reason ("too small", say) is the one worth telling.
            .or_else(|_| RsaKeyPair::from_pkcs8(der).map(Self::Rsa))
    }

    fn ecdsa(pkcs8: &[u8]) -> Result<Self, ring::error::KeyRejected> {
        let random = SystemRandom::new();
        let load = |kind, fixed, asn1| {
            let fixed = EcdsaKeyPair::from_pkcs8(fixed, pkcs8, &random)?;
            let asn1 = EcdsaKeyPair::from_pkcs8(asn1, pkcs8, &random)?;
            Ok(Self::Ecdsa {
                kind,
                fixed: Box::new(fixed),
                asn1: Box::new(asn1),
            })
        };
        load(
            KeyKind::EcdsaP256,
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        )
        .or_else(|_: ring::error::KeyRejected| {
            load(
                KeyKind::EcdsaP384,
                &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
            )
        })
    }

    /// `ring` reads EC keys only inside PKCS#8 (RFC 5208), so SEC1 is put into that wrapper. The curve stands
    /// in the wrapper; `ring` compares it with the one inside the key, so a wrong guess is refused.
    fn ecdsa_from_sec1(sec1: &[u8]) -> Result<Self, ring::error::KeyRejected> {
        let wrap = |curve: &oid::Oid<'_>| {
            let algorithm = element(
                tag::SEQUENCE,
                &[
                    &element(tag::OID, &[oid::OID_KEY_TYPE_EC_PUBLIC_KEY.as_bytes()]),
                    &element(tag::OID, &[curve.as_bytes()]),
                ],
            );
            let key = zeroize::Zeroizing::new(element(tag::OCTET_STRING, &[sec1]));
            zeroize::Zeroizing::new(element(
                tag::SEQUENCE,
                &[&element(tag::INTEGER, &[&[0]]), &algorithm, &key],
            ))
        };
        Self::ecdsa(&wrap(&oid::OID_EC_P256)).or_else(|_| Self::ecdsa(&wrap(&oid::OID_NIST_EC_P384)))
    }
}

fn sign_rsa(
    pair: &RsaKeyPair,
    encoding: &'static dyn signature::RsaEncoding,
    message: &[u8],
) -> Result<Vec<u8>, SignError> {
    let mut out = vec![0; pair.public().modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), message, &mut out)
        .map_err(|_| SignError::Failed)?;
    Ok(out)
}

fn pkcs1_encoding(hash: HashAlgorithm) -> Option<&'static dyn signature::RsaEncoding> {
    match hash {
        HashAlgorithm::Sha256 => Some(&signature::RSA_PKCS1_SHA256),
        HashAlgorithm::Sha384 => Some(&signature::RSA_PKCS1_SHA384),
        HashAlgorithm::Sha512 => Some(&signature::RSA_PKCS1_SHA512),
        HashAlgorithm::Identity => None,
    }
}

fn pss_encoding(hash: HashAlgorithm) -> Option<&'static dyn signature::RsaEncoding> {
    match hash {
        HashAlgorithm::Sha256 => Some(&signature::RSA_PSS_SHA256),
        HashAlgorithm::Sha384 => Some(&signature::RSA_PSS_SHA384),
        HashAlgorithm::Sha512 => Some(&signature::RSA_PSS_SHA512),
        HashAlgorithm::Identity => None,
    }
}

/// A public key that verifies AUTH payloads.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyKind,
    /// RSAPublicKey in DER, the uncompressed point, or the 32 bytes of Ed25519.
    key: Vec<u8>,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER, as in a certificate.
    ///
    /// # Errors
    /// If it is malformed or of an algorithm that is not ours.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Malformed)?;
        if !rest.is_empty() {
            return Err(KeyError::Malformed);
        }
        let algorithm = &spki.algorithm.algorithm;
        let kind = if *algorithm == oid::OID_PKCS1_RSAENCRYPTION {
            let bits = match spki.parsed() {
                Ok(x509_parser::public_key::PublicKey::RSA(key)) => modulus_bits(key.modulus),
                Ok(_) | Err(_) => return Err(KeyError::Malformed),
            };
            if !(2048..=8192).contains(&bits) {
                return Err(KeyError::RsaSize(bits));
            }
            KeyKind::Rsa
        } else if *algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = spki
                .algorithm
                .parameters
                .as_ref()
                .and_then(|any| any.as_oid().ok())
                .ok_or(KeyError::Malformed)?;
            if curve == oid::OID_EC_P256 {
                KeyKind::EcdsaP256
            } else if curve == oid::OID_NIST_EC_P384 {
                KeyKind::EcdsaP384
            } else {
                return Err(KeyError::Algorithm(format!("EC on curve {curve}")));
            }
        } else if *algorithm == oid::OID_SIG_ED25519 {
            KeyKind::Ed25519
        } else {
            return Err(KeyError::Algorithm(algorithm.to_string()));
        };
        Ok(Self {
            kind,
            key: spki.subject_public_key.data.to_vec(),
        })
    }

    /// What kind of key this is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Verifies the authentication data of an AUTH payload with method number `method` over `message`, and
    /// says which scheme it was.
    ///
    /// # Errors
    /// If the method or algorithm is not ours, does not fit the key, or the signature is wrong.
    pub fn verify(&self, method: u8, message: &[u8], auth_data: &[u8]) -> Result<AuthScheme, VerifyError> {
        let method = AuthMethod::from_id(method).ok_or(VerifyError::Method(method))?;
        let misfit = VerifyError::KeyKind {
            method,
            key: self.kind,
        };
        let scheme = match (method, self.kind) {
            (AuthMethod::Rsa, KeyKind::Rsa) => self.verify_method_1(message, auth_data)?,
            (AuthMethod::EcdsaP256, KeyKind::EcdsaP256) => {
                self.check(&signature::ECDSA_P256_SHA256_FIXED, message, auth_data)?;
                SignatureScheme::Ecdsa(HashAlgorithm::Sha256)
            }
            (AuthMethod::EcdsaP384, KeyKind::EcdsaP384) => {
                self.check(&signature::ECDSA_P384_SHA384_FIXED, message, auth_data)?;
                SignatureScheme::Ecdsa(HashAlgorithm::Sha384)
            }
            (AuthMethod::DigitalSignature, _) => self.verify_method_14(message, auth_data)?,
            (AuthMethod::Rsa | AuthMethod::EcdsaP256 | AuthMethod::EcdsaP384, _) => return Err(misfit),
        };
        Ok(AuthScheme { method, scheme })
    }

    /// The hash of method 1 stands only inside the padded signature (RFC 7296 section 3.8), so each is tried.
    fn verify_method_1(&self, message: &[u8], signature: &[u8]) -> Result<SignatureScheme, VerifyError> {
        let accepted = [
            HashAlgorithm::Sha256,
            HashAlgorithm::Sha384,
            HashAlgorithm::Sha512,
        ]
        .map(SignatureScheme::RsaPkcs1)
        .into_iter()
        .find(|scheme| {
            let algorithm = verification_algorithm(*scheme, self.kind);
            algorithm.is_some_and(|algorithm| self.check(algorithm, message, signature).is_ok())
        });
        accepted.ok_or_else(|| {
            // Looked at only to name the reason of the refusal.
            let sha1 = &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY;
            if self.check(sha1, message, signature).is_ok() {
                VerifyError::Sha1
            } else {
                VerifyError::Signature
            }
        })
    }

    /// RFC 7427 section 3: length of the AlgorithmIdentifier, the AlgorithmIdentifier, the signature.
    fn verify_method_14(&self, message: &[u8], auth_data: &[u8]) -> Result<SignatureScheme, VerifyError> {
        let (len, rest) = auth_data.split_first().ok_or(VerifyError::Malformed)?;
        let (algorithm, signature) = rest
            .split_at_checked(usize::from(*len))
            .ok_or(VerifyError::Malformed)?;
        let scheme = parse_algorithm_identifier(algorithm)?;
        let misfit = VerifyError::KeyKind {
            method: AuthMethod::DigitalSignature,
            key: self.kind,
        };
        self.check(
            verification_algorithm(scheme, self.kind).ok_or(misfit)?,
            message,
            signature,
        )?;
        Ok(scheme)
    }

    fn check(
        &self,
        algorithm: &'static dyn signature::VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), VerifyError> {
        UnparsedPublicKey::new(algorithm, &self.key)
            .verify(message, signature)
            .map_err(|_| VerifyError::Signature)
    }
}

/// Bits of a big-endian number.
fn modulus_bits(modulus: &[u8]) -> usize {
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let significant = modulus.get(zeros..).unwrap_or_default();
    let spare = significant.first().map_or(0, |first| first.leading_zeros());
    (significant.len() * 8).saturating_sub(spare as usize)
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicKey")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// `ring`'s verifier for a scheme of method 14 (or the RSA of method 1) with a kind of key, if they fit.
fn verification_algorithm(
    scheme: SignatureScheme,
    key: KeyKind,
) -> Option<&'static dyn signature::VerificationAlgorithm> {
    use HashAlgorithm::{Sha256, Sha384, Sha512};
    match (scheme, key) {
        (SignatureScheme::RsaPkcs1(Sha256), KeyKind::Rsa) => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        (SignatureScheme::RsaPkcs1(Sha384), KeyKind::Rsa) => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        (SignatureScheme::RsaPkcs1(Sha512), KeyKind::Rsa) => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        (SignatureScheme::RsaPss(Sha256), KeyKind::Rsa) => Some(&signature::RSA_PSS_2048_8192_SHA256),
        (SignatureScheme::RsaPss(Sha384), KeyKind::Rsa) => Some(&signature::RSA_PSS_2048_8192_SHA384),
        (SignatureScheme::RsaPss(Sha512), KeyKind::Rsa) => Some(&signature::RSA_PSS_2048_8192_SHA512),
        (SignatureScheme::Ecdsa(Sha256), KeyKind::EcdsaP256) => Some(&signature::ECDSA_P256_SHA256_ASN1),
        (SignatureScheme::Ecdsa(Sha384), KeyKind::EcdsaP256) => Some(&signature::ECDSA_P256_SHA384_ASN1),
        (SignatureScheme::Ecdsa(Sha256), KeyKind::EcdsaP384) => Some(&signature::ECDSA_P384_SHA256_ASN1),
        (SignatureScheme::Ecdsa(Sha384), KeyKind::EcdsaP384) => Some(&signature::ECDSA_P384_SHA384_ASN1),
        (SignatureScheme::Ed25519, KeyKind::Ed25519) => Some(&signature::ED25519),
        _ => None,
    }
}
