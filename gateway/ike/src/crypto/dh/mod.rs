//! Key agreement (transform type 4): MODP groups 14, 15 and 16 (RFC 3526), groups 19 and 20 (RFC 5903) and 31
//! (RFC 8031).
//!
//! A private value is used once and consumed. Values of the peer are checked as RFC 6989 asks.

mod modp;

use super::random::Random;
use crypto_bigint::{U2048, U3072, U4096};
use modp::{Exponent, Modp2048, Modp3072, Modp4096, ModpGroup};
use ring::agreement::{self, ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use zeroize::Zeroizing;

/// A group that may be negotiated. The discriminants are the IANA transform ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum DhGroup {
    /// The 2048-bit MODP group of RFC 3526.
    Modp2048 = 14,
    /// The 3072-bit MODP group of RFC 3526.
    Modp3072 = 15,
    /// The 4096-bit MODP group of RFC 3526.
    Modp4096 = 16,
    /// NIST P-256 (RFC 5903).
    Ecp256 = 19,
    /// NIST P-384 (RFC 5903).
    Ecp384 = 20,
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
    pub const ALL: [Self; 6] = [
        Self::X25519,
        Self::Ecp256,
        Self::Ecp384,
        Self::Modp3072,
        Self::Modp4096,
        Self::Modp2048,
    ];

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
            Self::Modp2048 => 256,
            Self::Modp3072 => 384,
            Self::Modp4096 => 512,
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
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

/// Each with its group, so that no value can be used in another.
enum PrivateKey {
    Modp2048(Exponent),
    Modp3072(Exponent),
    Modp4096(Exponent),
    /// RFC 5903 section 7 sends x | y, without the 0x04 that marks an uncompressed point elsewhere.
    Ecp(EphemeralPrivateKey, &'static agreement::Algorithm),
    X25519(EphemeralPrivateKey),
}

impl DhPrivate {
    /// Draws a private value. `random` serves the MODP groups; `ring` takes the randomness of the elliptic curves
    /// from the operating system itself and lets nobody choose it.
    ///
    /// # Errors
    /// Only if the operating system gives `ring` no randomness.
    pub fn generate(group: DhGroup, random: &mut dyn Random) -> Result<Self, DhError> {
        let (key, public) = match group {
            DhGroup::Modp2048 => {
                let exponent = Exponent::generate(Modp2048::EXPONENT_BITS, random);
                let public = modp::public::<Modp2048, { U2048::LIMBS }>(&exponent);
                (PrivateKey::Modp2048(exponent), public)
            }
            DhGroup::Modp3072 => {
                let exponent = Exponent::generate(Modp3072::EXPONENT_BITS, random);
                let public = modp::public::<Modp3072, { U3072::LIMBS }>(&exponent);
                (PrivateKey::Modp3072(exponent), public)
            }
            DhGroup::Modp4096 => {
                let exponent = Exponent::generate(Modp4096::EXPONENT_BITS, random);
                let public = modp::public::<Modp4096, { U4096::LIMBS }>(&exponent);
                (PrivateKey::Modp4096(exponent), public)
            }
            DhGroup::Ecp256 => ecp(group, &ECDH_P256)?,
            DhGroup::Ecp384 => ecp(group, &ECDH_P384)?,
            DhGroup::X25519 => {
                let (key, public) = ephemeral(group, &X25519)?;
                (PrivateKey::X25519(key), public.as_ref().to_vec())
            }
        };
        Ok(Self { group, key, public })
    }

    /// The group this value belongs to.
    pub fn group(&self) -> DhGroup {
        self.group
    }

    /// Our public value as the KE payload carries it: as long as the modulus for MODP, x | y for the groups of RFC
    /// 5903, u for 31.
    pub fn public(&self) -> Vec<u8> {
        self.public.clone()
    }

    /// The shared secret g^ir: padded to the length of the modulus for MODP (RFC 7296 section 2.14), the x
    /// coordinate for the groups of RFC 5903 (its section 7), 32 bytes for 31.
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
        let secret = match self.key {
            PrivateKey::Modp2048(exponent) => modp::agree::<Modp2048, { U2048::LIMBS }>(&exponent, peer),
            PrivateKey::Modp3072(exponent) => modp::agree::<Modp3072, { U3072::LIMBS }>(&exponent, peer),
            PrivateKey::Modp4096(exponent) => modp::agree::<Modp4096, { U4096::LIMBS }>(&exponent, peer),
            PrivateKey::Ecp(key, curve) => agree_ec(key, curve, &[&[4], peer].concat()),
            PrivateKey::X25519(key) => agree_ec(key, &X25519, peer),
        };
        secret.ok_or(DhError::PeerValue(group))
    }
}

fn ephemeral(
    group: DhGroup,
    curve: &'static agreement::Algorithm,
) -> Result<(EphemeralPrivateKey, agreement::PublicKey), DhError> {
    let failed = |_| DhError::Generate(group);
    let key = EphemeralPrivateKey::generate(curve, &ring::rand::SystemRandom::new()).map_err(failed)?;
    let public = key.compute_public_key().map_err(failed)?;
    Ok((key, public))
}

fn ecp(group: DhGroup, curve: &'static agreement::Algorithm) -> Result<(PrivateKey, Vec<u8>), DhError> {
    let (key, public) = ephemeral(group, curve)?;
    let public = public.as_ref().get(1..).unwrap_or_default().to_vec();
    Ok((PrivateKey::Ecp(key, curve), public))
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
    curve: &'static agreement::Algorithm,
    peer: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let peer = UnparsedPublicKey::new(curve, peer);
    agreement::agree_ephemeral(key, &peer, |secret| Zeroizing::new(secret.to_vec())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{random::SystemRandom, testing::unhex};
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn private(group: DhGroup) -> DhPrivate {
        DhPrivate::generate(group, &mut SystemRandom::new()).unwrap()
    }

    #[test]
    fn two_sides_agree_in_every_group() {
        for group in DhGroup::ALL {
            let (one, two) = (private(group), private(group));
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

    /// RFC 7296 section 2.12 allows the reuse of exponentials; this crate never does it.
    #[test]
    fn public_values_do_not_repeat() {
        let mut seen = HashSet::new();
        for group in DhGroup::ALL {
            for _ in 0..20 {
                assert!(seen.insert(private(group).public()), "{group:?}");
            }
        }
    }

    /// The generators of RFC 5903 sections 3.1 and 3.2 and of RFC 7748 section 4.1. Whatever our private value, the
    /// secret with the generator is (the x coordinate of) our own public value: a known answer for a library that
    /// lets nobody choose the private value.
    #[test]
    fn the_secret_with_the_generator_is_our_public_value() {
        let generators = [
            (
                DhGroup::Ecp256,
                "6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
                 4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5",
            ),
            (
                DhGroup::Ecp384,
                "AA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7
                 3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F",
            ),
            (
                DhGroup::X25519,
                "0900000000000000000000000000000000000000000000000000000000000000",
            ),
        ];
        for (group, generator) in generators {
            let private = private(group);
            let public = private.public();
            let secret = private.agree(&unhex(generator)).unwrap();
            assert_eq!(secret[..], public[..secret.len()], "{group:?}");
            assert_eq!(secret.len(), if group == DhGroup::Ecp384 { 48 } else { 32 });
        }
    }

    /// The public values of RFC 5903 sections 8.1 and 8.2 are accepted, one bit beside the curve is not.
    #[test]
    fn groups_19_and_20_take_only_points_of_the_curve() {
        let points = [
            (
                DhGroup::Ecp256,
                "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180
                 5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
            ),
            (
                DhGroup::Ecp256,
                "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63
                 56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
            ),
            (
                DhGroup::Ecp384,
                "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6DE3AC808ACB4BDB4C88732AEE95F41AA
                 9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C",
            ),
            (
                DhGroup::Ecp384,
                "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571
                 DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
            ),
        ];
        for (group, point) in points {
            let point = unhex(point);
            assert_eq!(private(group).agree(&point).unwrap().len(), point.len() / 2);
            let mut off = point.clone();
            *off.last_mut().unwrap() ^= 1;
            for bad in [off, vec![0; point.len()], vec![0xff; point.len()]] {
                assert_eq!(private(group).agree(&bad), Err(DhError::PeerValue(group)));
            }
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
            assert_eq!(
                private(DhGroup::X25519).agree(&unhex(point)),
                Err(DhError::PeerValue(DhGroup::X25519)),
                "{point}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_bytes_agree_or_are_refused(peer in proptest::collection::vec(any::<u8>(), 0..600)) {
            for group in DhGroup::ALL {
                let outcome = private(group).agree(&peer);
                let wrong_length = matches!(outcome, Err(DhError::Length { .. }));
                prop_assert_eq!(wrong_length, peer.len() != group.public_len());
            }
        }
    }
}
