//! The MODP groups 14, 15 and 16 (RFC 3526 sections 3 to 5), in time that depends on no secret.
//!
//! A private exponent is as long as RFC 3526 section 8 sizes it: twice the larger of its two estimates of the
//! group's strength. In a safe-prime group a short exponent is as hard to find as its square root of guesses, so
//! further bits would buy nothing and cost their share of the work on each IKE_SA_INIT.
//!
//! Our own public value is a power of 2, and its powers are always the same: [`Powers`] holds them, which leaves one
//! multiplication for four bits of the exponent and no squaring. The peer's value is raised by the library's fixed
//! window.

use std::sync::OnceLock;

use crypto_bigint::{
    CtAssign, CtEq, Encoding, U512, U2048, U3072, U4096, Uint, Word, const_monty_params,
    modular::{ConstMontyForm, ConstMontyParams},
};
use zeroize::{Zeroize, Zeroizing};

use super::super::random::Random;

/// One of the groups: its modulus, and how long a private exponent is.
pub(super) trait ModpGroup<const LIMBS: usize>: ConstMontyParams<LIMBS> + Sized + 'static {
    const EXPONENT_BITS: u32;

    fn powers() -> &'static OnceLock<Powers<Self, LIMBS>>;
}

macro_rules! group {
    ($($name:ident, $uint:ident, $exponent_bits:literal, $doc:literal, $modulus:literal;)*) => {$(
        const_monty_params!($name, $uint, $modulus, $doc);

        impl ModpGroup<{ $uint::LIMBS }> for $name {
            const EXPONENT_BITS: u32 = $exponent_bits;

            fn powers() -> &'static OnceLock<Powers<Self, { $uint::LIMBS }>> {
                static POWERS: OnceLock<Powers<$name, { $uint::LIMBS }>> = OnceLock::new();
                &POWERS
            }
        }
    )*};
}

group! {
    Modp2048, U2048, 320,
    "RFC 3526 section 3: 2^2048 - 2^1984 - 1 + 2^64 * ([2^1918 pi] + 124476).",
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
     020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
     4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
     98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
     9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
     3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF";
    Modp3072, U3072, 420,
    "RFC 3526 section 4: 2^3072 - 2^3008 - 1 + 2^64 * ([2^2942 pi] + 1690314).",
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
     020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
     4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
     98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
     9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
     3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33\
     A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
     ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
     D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2\
     08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF";
    Modp4096, U4096, 480,
    "RFC 3526 section 5: 2^4096 - 2^4032 - 1 + 2^64 * ([2^3966 pi] + 240904).",
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
     020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
     4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
     EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
     98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
     9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
     E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
     3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33\
     A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
     ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
     D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2\
     08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7\
     88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8\
     DBBBC2DB04DE8EF92E8EFC141FBECAA6287C59474E6BC05D99B2964FA090C3A2\
     233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9\
     93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF";
}

/// A private exponent; wiped when dropped.
pub(super) struct Exponent(Zeroizing<U512>);

impl Exponent {
    /// Draws an exponent of exactly `bits` bits. The highest is set: whatever the generator, the exponent has its
    /// full length.
    pub(super) fn generate(bits: u32, random: &mut dyn Random) -> Self {
        let len = bits.div_ceil(8) as usize;
        let mut bytes = Zeroizing::new([0u8; 64]);
        let (_, drawn) = bytes.split_at_mut(64 - len.min(64));
        random.fill(drawn);
        let top = (bits - 1) % 8;
        if let Some(first) = drawn.first_mut() {
            *first = *first & (0xff >> (7 - top)) | 1 << top;
        }
        Self(Zeroizing::new(U512::from_be_slice(&bytes[..])))
    }

    /// The four bits from 4 * `window` on.
    fn digit(&self, window: usize) -> Word {
        let per_word = (Word::BITS / WINDOW_BITS) as usize;
        let word = self.0.as_words().get(window / per_word).copied().unwrap_or(0);
        (word >> ((window % per_word) as u32 * WINDOW_BITS)) & (ENTRIES as Word - 1)
    }
}

const WINDOW_BITS: u32 = 4;
const ENTRIES: usize = 1 << WINDOW_BITS;

/// What 2 comes to when raised by each digit at each place of an exponent: 2^(digit * 16^window). 327 kB for group
/// 14, 983 kB for group 16; made at the first use of the group.
pub(super) struct Powers<M: ConstMontyParams<LIMBS>, const LIMBS: usize>(
    Vec<[ConstMontyForm<M, LIMBS>; ENTRIES]>,
);

impl<M: ModpGroup<LIMBS>, const LIMBS: usize> Powers<M, LIMBS> {
    fn new() -> Self {
        let mut base = ConstMontyForm::<M, LIMBS>::new(&Uint::from_u8(2));
        let windows = (0..M::EXPONENT_BITS.div_ceil(WINDOW_BITS)).map(|_| {
            let mut power = ConstMontyForm::ONE;
            let entries = std::array::from_fn(|_| {
                let entry = power;
                power = power.mul(&base);
                entry
            });
            base = power;
            entries
        });
        Self(windows.collect())
    }

    /// 2 ^ exponent mod p. Every entry is read, whatever the digit.
    fn raise(&self, exponent: &Exponent) -> Uint<LIMBS> {
        let mut product = ConstMontyForm::<M, LIMBS>::ONE;
        for (window, entries) in self.0.iter().enumerate() {
            let digit = exponent.digit(window);
            let mut factor = Uint::<LIMBS>::ZERO;
            for (entry, number) in entries.iter().zip(0..) {
                factor.ct_assign(entry.as_montgomery(), digit.ct_eq(&number));
            }
            product = product.mul(&ConstMontyForm::from_montgomery(factor));
            factor.zeroize();
        }
        let power = product.retrieve();
        product.zeroize();
        power
    }
}

/// Our public value, as many octets as the modulus has.
pub(super) fn public<M: ModpGroup<LIMBS>, const LIMBS: usize>(exponent: &Exponent) -> Vec<u8>
where
    Uint<LIMBS>: Encoding,
{
    let powers = M::powers().get_or_init(Powers::new);
    powers.raise(exponent).to_be_bytes().as_ref().to_vec()
}

/// The peer's value raised to our exponent, padded to the length of the modulus (RFC 7296 section 2.14). `None` if
/// the value is not between 1 and p-1 (RFC 6989 section 2.1). p is a safe prime and the exponent is used once, so no
/// test of the order is needed.
pub(super) fn agree<M: ModpGroup<LIMBS>, const LIMBS: usize>(
    exponent: &Exponent,
    peer: &[u8],
) -> Option<Zeroizing<Vec<u8>>>
where
    Uint<LIMBS>: Encoding,
{
    let peer = Uint::<LIMBS>::from_be_slice(peer);
    let p_minus_1 = M::PARAMS.modulus().as_ref().wrapping_sub(&Uint::ONE);
    if peer <= Uint::ONE || peer >= p_minus_1 {
        return None;
    }
    let mut secret = ConstMontyForm::<M, LIMBS>::new(&peer)
        .pow_bounded_exp(&*exponent.0, M::EXPONENT_BITS)
        .retrieve();
    let bytes = Zeroizing::new(secret.to_be_bytes().as_ref().to_vec());
    secret.zeroize();
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::{Repeat, sha256};
    use proptest::prelude::*;

    fn a() -> Repeat {
        Repeat((1..=60).collect())
    }

    fn b() -> Repeat {
        Repeat((0..60u16).map(|i| ((767 - 7 * i) % 256) as u8).collect())
    }

    struct Expected {
        modulus: &'static str,
        public_a: &'static str,
        public_b: &'static str,
        shared: &'static str,
        /// The public value whose secret with `a` starts with a zero octet, and that secret.
        short: (u16, &'static str),
    }

    fn agrees_with_python<M: ModpGroup<LIMBS>, const LIMBS: usize>(expected: &Expected)
    where
        Uint<LIMBS>: Encoding,
    {
        let a = Exponent::generate(M::EXPONENT_BITS, &mut a());
        let b = Exponent::generate(M::EXPONENT_BITS, &mut b());
        let modulus = M::PARAMS.modulus().as_ref().to_be_bytes();
        assert_eq!(sha256(modulus.as_ref()), expected.modulus);
        let (public_a, public_b) = (public::<M, LIMBS>(&a), public::<M, LIMBS>(&b));
        assert_eq!(sha256(&public_a), expected.public_a);
        assert_eq!(sha256(&public_b), expected.public_b);
        for shared in [agree::<M, LIMBS>(&a, &public_b), agree::<M, LIMBS>(&b, &public_a)] {
            assert_eq!(sha256(&shared.unwrap()), expected.shared);
        }
        // RFC 7296 section 2.14: g^ir is padded with zeros to the length of the modulus.
        let mut peer = vec![0; LIMBS * 8];
        peer[LIMBS * 8 - 2..].copy_from_slice(&expected.short.0.to_be_bytes());
        let shared = agree::<M, LIMBS>(&a, &peer).unwrap();
        assert_eq!((shared.len(), shared[0]), (LIMBS * 8, 0));
        assert_eq!(sha256(&shared), expected.short.1);
    }

    /// tests/data/vectors.py evaluates RFC 3526's formulas for the moduli and computes the rest with Python's `pow`.
    #[test]
    fn group_14_agrees_with_python() {
        agrees_with_python::<Modp2048, { U2048::LIMBS }>(&Expected {
            modulus: "d66436f79bbd6b2e38c0ffbd079be904d2641415e2e67140e09448be9a60890e",
            public_a: "5d42b02cc7ccd3d51a5c4f8b7a4dd6bd0f90c22b9c75640f268f635c8fea2e15",
            public_b: "89c3a3f9ea014cdb0195e4408aca8738c2ca089124cefd9b7e1c6a90c9f2cd7f",
            shared: "28ddc87e1ef1b324014653932b7e6a23ec0cdbc74a7bc200ff6cef95c2fab51c",
            short: (
                296,
                "2b7a4f00387b9d65887024efd2dcd49db39545f1e30e67fd38484aa40c81fed7",
            ),
        });
    }

    #[test]
    fn group_15_agrees_with_python() {
        agrees_with_python::<Modp3072, { U3072::LIMBS }>(&Expected {
            modulus: "48cf8b092fbce4359d9871abf74f98e25b6163379eaa15cd9087e800c6d1c55c",
            public_a: "600d85adca55320264db643e1cbe73ca28b7f8e95f9796e38353212185622b12",
            public_b: "ea992799d9b391f38602849bfdcb220c96d6b1430d2b12b3f72ed47ffcdb8c44",
            shared: "af1b4130b5b9e4a003902a9270b68d9231866f75f2b7711b4dafb9ca65476625",
            short: (
                538,
                "03871e7167843365fdd474218e1cf3e978c055955550dd209efa7a73719acf03",
            ),
        });
    }

    #[test]
    fn group_16_agrees_with_python() {
        agrees_with_python::<Modp4096, { U4096::LIMBS }>(&Expected {
            modulus: "4ee95187682bcb230ad26a95205f6920e84708f6251b3894329b09ec23919e33",
            public_a: "4ccc0dd08e3643e6f9e63fc436d5cfee43b9c48266d420a7954f2d4dd595fdde",
            public_b: "2de8f0a387dac0586e5950e4b591fb8d31e2be3e3df29d4bdc84b33e333f068c",
            shared: "6aa3e9b60632e03560fb87fee8f199d7adaa05c6a28ba7180240e2cfbf491613",
            short: (
                198,
                "1f8f239065c130b154e864ef5fb63acca6270c58a28472a780b72466a5db9ec4",
            ),
        });
    }

    fn refuses_the_edges<M: ModpGroup<LIMBS>, const LIMBS: usize>()
    where
        Uint<LIMBS>: Encoding,
    {
        let exponent = Exponent::generate(M::EXPONENT_BITS, &mut a());
        let p = *M::PARAMS.modulus().as_ref();
        let refused = [
            Uint::ZERO,
            Uint::ONE,
            p.wrapping_sub(&Uint::ONE),
            p,
            p.wrapping_add(&Uint::ONE),
            Uint::MAX,
        ];
        for value in refused {
            assert_eq!(agree::<M, LIMBS>(&exponent, value.to_be_bytes().as_ref()), None);
        }
        for value in [Uint::from_u8(2), p.wrapping_sub(&Uint::from_u8(2))] {
            assert!(agree::<M, LIMBS>(&exponent, value.to_be_bytes().as_ref()).is_some());
        }
    }

    /// RFC 6989 section 2.1.
    #[test]
    fn values_outside_the_group_are_refused() {
        refuses_the_edges::<Modp2048, { U2048::LIMBS }>();
        refuses_the_edges::<Modp3072, { U3072::LIMBS }>();
        refuses_the_edges::<Modp4096, { U4096::LIMBS }>();
    }

    /// RFC 3526 section 8: neither longer nor shorter, whatever the generator gives.
    #[test]
    fn exponents_have_their_full_length() {
        for bits in [
            Modp2048::EXPONENT_BITS,
            Modp3072::EXPONENT_BITS,
            Modp4096::EXPONENT_BITS,
        ] {
            for fill in [0, 0xff, 0x55] {
                let exponent = Exponent::generate(bits, &mut Repeat(vec![fill]));
                assert_eq!(exponent.0.bit_width(), bits, "{fill:#x}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// The table of powers of 2 against the library's exponentiation.
        #[test]
        fn powers_of_two_are_right(bytes in proptest::collection::vec(any::<u8>(), 40)) {
            let exponent = Exponent::generate(320, &mut Repeat(bytes));
            let expected = ConstMontyForm::<Modp2048, { U2048::LIMBS }>::new(&U2048::from_u8(2))
                .pow(&*exponent.0)
                .retrieve();
            prop_assert_eq!(
                public::<Modp2048, { U2048::LIMBS }>(&exponent),
                expected.to_be_bytes().as_ref().to_vec()
            );
        }
    }
}
