//! Key agreement (transform type 4): group 14 (RFC 3526), groups 19 (RFC 5903) and 31 (RFC 8031).
//!
//! A private value is used once and consumed. Values of the peer are checked as RFC 6989 asks.

use super::random::Random;
use crypto_bigint::modular::{ConstMontyForm, ConstMontyParams};
use crypto_bigint::{U320, U2048, const_monty_params};
use ring::agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use zeroize::{Zeroize, Zeroizing};

/// A group that may be negotiated. The discriminants are the IANA transform ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum DhGroup {
    /// The 2048-bit MODP group of RFC 3526.
    Modp2048 = 14,
    /// NIST P-256 (RFC 5903).
    Ecp256 = 19,
    /// Curve25519 (RFC 8031).
    X25519 = 31,
}

/// Why no shared secret came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DhError {
    /// The peer's key exchange data has the wrong length for the group.
    #[error("key exchange data of {got} bytes where group {group:?} has {expected}")]
    Length {
        /// The group in use.
        group: DhGroup,
        /// Bytes the group asks for.
        expected: usize,
        /// Bytes the peer sent.
        got: usize,
    },
    /// The value is not a usable element: outside 1 < y < p-1, not on the curve, or of small order.
    #[error("the peer's public value is not a safe element of group {0:?}")]
    PeerValue(DhGroup),
    /// The library could not make a key pair.
    #[error("no key pair for group {0:?} could be made")]
    Generate(DhGroup),
}

impl DhGroup {
    /// All groups, the preferred first.
    pub const ALL: [Self; 3] = [Self::X25519, Self::Ecp256, Self::Modp2048];

    /// The group of a transform id, if it is one of ours.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.id() == id)
    }

    /// The IANA transform id, as in the KE payload.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// Length of the key exchange data in a KE payload, in bytes.
    pub fn public_len(self) -> usize {
        match self {
            Self::Modp2048 => MODP_LEN,
            Self::Ecp256 => 64,
            Self::X25519 => 32,
        }
    }
}

/// Our private value for one exchange, with its public value.
pub struct DhPrivate {
    group: DhGroup,
    key: PrivateKey,
    public: Vec<u8>,
}

enum PrivateKey {
    Modp(Exponent),
    Ec(EphemeralPrivateKey),
}

impl DhPrivate {
    /// Draws a private value. `random` serves group 14; `ring` takes the randomness of the elliptic curves
    /// from the operating system itself and lets nobody choose it.
    ///
    /// # Errors
    /// Only if the operating system gives `ring` no randomness.
    pub fn generate(group: DhGroup, random: &mut dyn Random) -> Result<Self, DhError> {
        match group {
            DhGroup::Modp2048 => {
                let exponent = Exponent::generate(random);
                let public = exponent.raise(&U2048::from_u8(2)).to_be_bytes().as_ref().to_vec();
                Ok(Self {
                    group,
                    key: PrivateKey::Modp(exponent),
                    public,
                })
            }
            DhGroup::Ecp256 => Self::generate_ec(group, &ECDH_P256),
            DhGroup::X25519 => Self::generate_ec(group, &X25519),
        }
    }

    fn generate_ec(group: DhGroup, curve: &'static agreement::Algorithm) -> Result<Self, DhError> {
        let failed = |_| DhError::Generate(group);
        let key = EphemeralPrivateKey::generate(curve, &ring::rand::SystemRandom::new()).map_err(failed)?;
        let public = key.compute_public_key().map_err(failed)?;
        // RFC 5903 section 7 sends x | y without the 0x04 that marks an uncompressed point elsewhere.
        let public = match group {
            DhGroup::Ecp256 => public.as_ref().get(1..).unwrap_or_default().to_vec(),
            DhGroup::Modp2048 | DhGroup::X25519 => public.as_ref().to_vec(),
        };
        Ok(Self {
            group,
            key: PrivateKey::Ec(key),
            public,
        })
    }

    /// The group this value belongs to.
    pub fn group(&self) -> DhGroup {
        self.group
    }

    /// Our public value as the KE payload carries it: 256 bytes for group 14, x | y for 19, u for 31.
    pub fn public(&self) -> Vec<u8> {
        self.public.clone()
    }

    /// The shared secret g^ir: padded to the length of the modulus for group 14 (RFC 7296 section 2.14), the x
    /// coordinate for 19 (RFC 5903 section 7), 32 bytes for 31.
    ///
    /// # Errors
    /// If the peer's value has the wrong length or is unsafe; the exchange must then fail.
    pub fn agree(self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, DhError> {
        let group = self.group;
        if peer.len() != group.public_len() {
            return Err(DhError::Length {
                group,
                expected: group.public_len(),
                got: peer.len(),
            });
        }
        match self.key {
            PrivateKey::Modp(exponent) => agree_modp(&exponent, peer),
            PrivateKey::Ec(key) => match group {
                DhGroup::Ecp256 => agree_ec(key, group, &ECDH_P256, &[&[4], peer].concat()),
                DhGroup::X25519 | DhGroup::Modp2048 => agree_ec(key, group, &X25519, peer),
            },
        }
    }
}

impl std::fmt::Debug for DhPrivate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DhPrivate")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// `ring` refuses points off the curve and, for X25519, small-order points (an all-zero secret).
fn agree_ec(
    key: EphemeralPrivateKey,
    group: DhGroup,
    curve: &'static agreement::Algorithm,
    peer: &[u8],
) -> Result<Zeroizing<Vec<u8>>, DhError> {
    agreement::agree_ephemeral(key, &UnparsedPublicKey::new(curve, peer), |secret| {
        Zeroizing::new(secret.to_vec())
    })
    .map_err(|_| DhError::PeerValue(group))
}

fn agree_modp(exponent: &Exponent, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, DhError> {
    let peer = U2048::from_be_slice(peer);
    let p_minus_1 = Modp2048::PARAMS.modulus().as_ref().wrapping_sub(&U2048::ONE);
    // RFC 6989 section 2.1. p is a safe prime and the exponent is used once, so no test of the order is needed.
    if peer <= U2048::ONE || peer >= p_minus_1 {
        return Err(DhError::PeerValue(DhGroup::Modp2048));
    }
    let mut secret = exponent.raise(&peer);
    let bytes = Zeroizing::new(secret.to_be_bytes().as_ref().to_vec());
    secret.zeroize();
    Ok(bytes)
}

const MODP_LEN: usize = 256;

// RFC 3526 section 3: 2^2048 - 2^1984 - 1 + 2^64 * ([2^1918 pi] + 124476).
const_monty_params!(
    Modp2048,
    U2048,
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
     020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
     4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
     98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
     9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
     3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF"
);

/// A private exponent of group 14.
///
/// 320 bits: the larger of the two estimates RFC 3526 section 8 gives for this group (twice a strength of 160
/// bits). In a safe-prime group a short exponent is as hard to find as its square root of guesses, so the
/// remaining 1,728 bits would buy nothing and cost six times the work on each IKE_SA_INIT.
struct Exponent(U320);

impl Exponent {
    fn generate(random: &mut dyn Random) -> Self {
        let mut bytes = Zeroizing::new([0u8; 40]);
        random.fill(&mut bytes[..]);
        // The highest bit is set: whatever the generator, the exponent has its full length.
        bytes[0] |= 0x80;
        Self(U320::from_be_slice(&bytes[..]))
    }

    /// base ^ self mod p, in time that depends on neither.
    fn raise(&self, base: &U2048) -> U2048 {
        ConstMontyForm::<Modp2048, { U2048::LIMBS }>::new(base)
            .pow(&self.0)
            .retrieve()
    }
}

impl Drop for Exponent {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random::SystemRandom;
    use crate::crypto::testing::{Repeat, sha256, unhex};
    use proptest::prelude::*;

    fn a() -> Repeat {
        Repeat((1..=40).collect())
    }

    fn b() -> Repeat {
        Repeat(
            (0..40u16)
                .map(|i| ((255 + 256 * 2 - 7 * i) % 256) as u8)
                .collect(),
        )
    }

    fn modp(random: &mut Repeat) -> DhPrivate {
        DhPrivate::generate(DhGroup::Modp2048, random).unwrap()
    }

    #[test]
    fn two_sides_agree_in_every_group() {
        for group in DhGroup::ALL {
            let mut random = SystemRandom::new();
            let one = DhPrivate::generate(group, &mut random).unwrap();
            let two = DhPrivate::generate(group, &mut random).unwrap();
            let (public_one, public_two) = (one.public(), two.public());
            assert_ne!(public_one, public_two);
            assert_eq!(public_one.len(), group.public_len());
            assert_eq!(
                one.agree(&public_two).unwrap(),
                two.agree(&public_one).unwrap(),
                "{group:?}"
            );
        }
    }

    /// The constant is the number of RFC 3526's formula, which tests/data/vectors.py evaluates.
    #[test]
    fn group_14_has_the_modulus_of_rfc_3526() {
        let modulus = Modp2048::PARAMS.modulus().as_ref().to_be_bytes();
        assert_eq!(
            sha256(modulus.as_ref()),
            "d66436f79bbd6b2e38c0ffbd079be904d2641415e2e67140e09448be9a60890e"
        );
    }

    /// tests/data/vectors.py computes these with Python's `pow`.
    #[test]
    fn group_14_agrees_with_python() {
        let public_b = modp(&mut b()).public();
        assert_eq!(
            sha256(&modp(&mut a()).public()),
            "5d42b02cc7ccd3d51a5c4f8b7a4dd6bd0f90c22b9c75640f268f635c8fea2e15"
        );
        assert_eq!(
            sha256(&public_b),
            "89c3a3f9ea014cdb0195e4408aca8738c2ca089124cefd9b7e1c6a90c9f2cd7f"
        );
        let shared = modp(&mut a()).agree(&public_b).unwrap();
        assert_eq!(
            sha256(&shared),
            "28ddc87e1ef1b324014653932b7e6a23ec0cdbc74a7bc200ff6cef95c2fab51c"
        );
    }

    /// RFC 7296 section 2.14: g^ir is padded with zeros to the length of the modulus.
    #[test]
    fn group_14_keeps_leading_zeros_of_the_secret() {
        let mut peer = [0; 256];
        peer[254..].copy_from_slice(&296u16.to_be_bytes());
        let shared = modp(&mut a()).agree(&peer).unwrap();
        assert_eq!((shared.len(), shared[0]), (256, 0));
        assert_eq!(
            sha256(&shared),
            "2b7a4f00387b9d65887024efd2dcd49db39545f1e30e67fd38484aa40c81fed7"
        );
    }

    /// RFC 6989 section 2.1.
    #[test]
    fn group_14_refuses_the_edges() {
        let p = Modp2048::PARAMS.modulus().as_ref();
        let refused = [
            U2048::ZERO,
            U2048::ONE,
            p.wrapping_sub(&U2048::ONE),
            *p,
            p.wrapping_add(&U2048::ONE),
            U2048::MAX,
        ];
        for value in refused {
            let peer = value.to_be_bytes();
            assert_eq!(
                modp(&mut a()).agree(peer.as_ref()),
                Err(DhError::PeerValue(DhGroup::Modp2048))
            );
        }
        for value in [U2048::from_u8(2), p.wrapping_sub(&U2048::from_u8(2))] {
            assert!(modp(&mut a()).agree(value.to_be_bytes().as_ref()).is_ok());
        }
    }

    /// The point gi of RFC 5903 section 8.1 is accepted, one bit beside the curve is not.
    #[test]
    fn group_19_takes_only_points_of_the_curve() {
        let gi = unhex(
            "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180
             5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
        );
        let private = || DhPrivate::generate(DhGroup::Ecp256, &mut SystemRandom::new()).unwrap();
        assert_eq!(private().agree(&gi).unwrap().len(), 32);
        let mut off = gi.clone();
        off[63] ^= 1;
        for bad in [off, vec![0; 64], vec![0xff; 64]] {
            assert_eq!(private().agree(&bad), Err(DhError::PeerValue(DhGroup::Ecp256)));
        }
    }

    /// RFC 8031 section 3.1 and RFC 7748 section 6.1: an all-zero secret must be refused. These are the points
    /// of small order that RFC 7748's curve has (its section 7 tells why).
    #[test]
    fn group_31_refuses_small_order() {
        let small_order = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        ];
        for point in small_order {
            let private = DhPrivate::generate(DhGroup::X25519, &mut SystemRandom::new()).unwrap();
            assert_eq!(
                private.agree(&unhex(point)),
                Err(DhError::PeerValue(DhGroup::X25519)),
                "{point}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_agree_or_are_refused(peer in proptest::collection::vec(any::<u8>(), 0..300)) {
            for group in DhGroup::ALL {
                let private = DhPrivate::generate(group, &mut SystemRandom::new()).unwrap();
                let outcome = private.agree(&peer);
                let wrong_length = matches!(outcome, Err(DhError::Length { .. }));
                prop_assert_eq!(wrong_length, peer.len() != group.public_len());
            }
        }
    }

    /// Not a check but a measurement: `cargo test --release -p gateway-ike modexp -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement, told by --nocapture"]
    fn modexp_time() {
        let peer = modp(&mut b()).public();
        let start = std::time::Instant::now();
        for _ in 0..200 {
            modp(&mut a()).agree(&peer).unwrap();
        }
        // Each round raises twice: g to our exponent, the peer's value to it.
        println!(
            "one modexp of group 14: {:.3} ms",
            start.elapsed().as_secs_f64() * 1e3 / 400.0
        );
    }
}
