//! Certificates, identities and trust, on the files of tests/data/make.sh (openssl).

use gateway_ike::pki::certificate::{CERTIFICATE_LEN_MAX, Certificate, CertificateError};
use gateway_ike::pki::certreq::{authority_hash, authority_hashes};
use gateway_ike::pki::credential::{Credential, CredentialError};
use gateway_ike::pki::identity::{Identity, IdentityError, IdentityPattern};
use gateway_ike::pki::name::{DistinguishedName, NameError};
use gateway_ike::pki::trust::{ChainError, RevocationPolicy, TrustAnchors, TrustError, VerifiedPeer};
use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::HashSet;

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("data/", $name))
    };
}

/// 1 January 2027: the good certificates are valid from 2026 to 2046.
const NOW: u64 = 1_798_761_600;

fn der(pem: &[u8]) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem).unwrap().to_vec()
}

fn certificate(pem: &[u8]) -> Certificate {
    Certificate::from_der(&der(pem)).unwrap()
}

fn rsa_ca() -> TrustAnchors {
    TrustAnchors::from_pem(data!("rsa-ca.crt")).unwrap()
}

fn ec_ca() -> TrustAnchors {
    TrustAnchors::from_pem(data!("ec-ca.crt")).unwrap()
}

fn check(
    anchors: &TrustAnchors,
    leaf: &[u8],
    others: &[&[u8]],
    unix_s: u64,
) -> Result<VerifiedPeer, ChainError> {
    let others: Vec<_> = others.iter().map(|pem| der(pem)).collect();
    anchors.verify_chain(&der(leaf), &others, unix_s)
}

fn id(text: &str) -> Identity {
    text.parse().unwrap()
}

mod chains {
    use super::*;

    #[test]
    fn a_good_chain_gives_the_peer() {
        let peer = check(&rsa_ca(), data!("rsa-leaf.crt"), &[data!("rsa-mid.crt")], NOW).unwrap();
        assert_eq!(
            peer.certificate().subject().to_string(),
            "C=JP, O=Lab, CN=gw.lab.test"
        );
        assert_eq!(peer.certificate().san_dns(), ["gw.lab.test", "*.wild.test"]);
        assert_eq!(peer.certificate().not_after_unix_s(), 2_398_377_600);
        assert_eq!(peer.authority().to_string(), "C=JP, O=Lab, CN=RSA CA");
        assert!(peer.proves(&id("gw.lab.test")) && !peer.proves(&id("site1.lab.test")));
        let site = check(&ec_ca(), data!("ec-leaf.crt"), &[], NOW).unwrap();
        assert!(site.proves(&id("site1.lab.test")));
    }

    /// `pki --self --ca` and `pki --issue` of strongSwan as the lab calls them: no extended key usage.
    #[test]
    fn certificates_of_strongswan_are_believed() {
        let anchors = TrustAnchors::from_pem(data!("swan-ca.crt")).unwrap();
        let peer = check(&anchors, data!("swan-leaf.crt"), &[], NOW).unwrap();
        assert!(peer.proves(&id("a.lab.test")) && peer.proves(&id("O=Lab, CN=a.lab.test")));
    }

    #[test]
    fn order_strangers_and_the_root_itself_do_not_matter() {
        let others: [&[u8]; 3] = [data!("ec-ca.crt"), data!("rsa-ca.crt"), data!("rsa-mid.crt")];
        assert!(check(&rsa_ca(), data!("rsa-leaf.crt"), &others, NOW).is_ok());
        let bundle = [
            &data!("other-ca.crt")[..],
            data!("ec-ca.crt"),
            data!("rsa-ca.crt"),
        ]
        .concat();
        let bundle = TrustAnchors::from_pem(&bundle).unwrap();
        assert!(check(&bundle, data!("rsa-leaf.crt"), &[data!("rsa-mid.crt")], NOW).is_ok());
        // An intermediate may be trusted as it is.
        let mid = TrustAnchors::from_pem(data!("rsa-mid.crt")).unwrap();
        assert!(check(&mid, data!("rsa-leaf.crt"), &[], NOW).is_ok());
    }

    #[test]
    fn a_missing_intermediate_is_named() {
        let error = check(&rsa_ca(), data!("rsa-leaf.crt"), &[], NOW).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the certificate of C=JP, O=Lab, CN=gw.lab.test does not lead to a trusted authority: \
             its issuer is C=JP, O=Lab, CN=RSA Intermediate"
        );
        let error = check(&ec_ca(), data!("rsa-leaf.crt"), &[data!("rsa-mid.crt")], NOW).unwrap_err();
        assert!(matches!(error, ChainError::UnknownIssuer { issuer, .. } if issuer.ends_with("CN=RSA CA")));
    }

    #[test]
    fn the_right_name_with_the_wrong_key_is_no_authority() {
        let error = check(&rsa_ca(), data!("other-leaf.crt"), &[], NOW).unwrap_err();
        assert!(matches!(error, ChainError::Signature { .. }), "{error}");
        // The peer cannot bring its own authority along.
        assert!(check(&rsa_ca(), data!("other-leaf.crt"), &[data!("other-ca.crt")], NOW).is_err());
    }

    #[test]
    fn time_is_checked_to_the_second_and_explained() {
        let error = check(&rsa_ca(), data!("expired-leaf.crt"), &[], NOW).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the certificate of O=Lab, CN=expired expired on 2020-12-31 23:59:59 UTC"
        );
        let error = check(&rsa_ca(), data!("future-leaf.crt"), &[], NOW).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the certificate of O=Lab, CN=future is not valid before 2090-01-01 00:00:00 UTC"
        );
        let (from, to) = (1_767_225_600, 2_398_377_600);
        for (unix_s, good) in [
            (from - 1, false),
            (from, true),
            (to, true),
            (to + 1, false),
            (0, false),
            (u64::MAX, false),
        ] {
            assert_eq!(
                check(&ec_ca(), data!("ec-leaf.crt"), &[], unix_s).is_ok(),
                good,
                "{unix_s}"
            );
        }
    }

    #[test]
    fn an_expired_authority_ends_trust_and_is_named() {
        let expired = TrustAnchors::from_pem(data!("expired-ca.crt")).unwrap();
        let error = check(&expired, data!("orphan-leaf.crt"), &[], NOW).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the certificate of O=Lab, CN=Expired CA expired on 2021-01-01 00:00:00 UTC"
        );
    }

    #[test]
    fn key_usages_are_respected() {
        let error = check(&rsa_ca(), data!("ku-leaf.crt"), &[], NOW).unwrap_err();
        assert!(matches!(error, ChainError::KeyUsage { .. }), "{error}");
        let error = check(&rsa_ca(), data!("eku-leaf.crt"), &[], NOW).unwrap_err();
        assert!(matches!(error, ChainError::ExtendedKeyUsage { .. }), "{error}");
        // ipsecIKE among others will do.
        assert!(check(&rsa_ca(), data!("ike-leaf.crt"), &[], NOW).is_ok());
    }

    #[test]
    fn an_authority_is_no_peer_and_a_peer_no_authority() {
        let error = check(&rsa_ca(), data!("rsa-mid.crt"), &[], NOW).unwrap_err();
        assert!(
            matches!(error, ChainError::KeyUsage { .. } | ChainError::Authority { .. }),
            "{error}"
        );
        let error = TrustAnchors::from_pem(data!("rsa-leaf.crt")).unwrap_err();
        assert!(matches!(error, TrustError::NotAnAuthority { .. }));
        assert!(
            TrustAnchors::from_pem(b"").is_err() && TrustAnchors::from_pem(data!("rsa-leaf.key")).is_err()
        );
    }

    #[test]
    fn too_many_certificates_are_not_looked_at() {
        let others = vec![der(data!("rsa-mid.crt")); 9];
        let error = rsa_ca()
            .verify_chain(&der(data!("rsa-leaf.crt")), &others, NOW)
            .unwrap_err();
        assert_eq!(error, ChainError::TooMany(9));
        let long = vec![0; CERTIFICATE_LEN_MAX + 1];
        assert_eq!(
            Certificate::from_der(&long).unwrap_err(),
            CertificateError::TooLong(long.len())
        );
    }

    #[test]
    fn a_revoked_certificate_is_refused_once_the_list_is_loaded() {
        let mut anchors = ec_ca();
        assert!(check(&anchors, data!("ec-revoked.crt"), &[], NOW).is_ok());
        anchors
            .set_crls(data!("ec.crl"), RevocationPolicy::WhereListed)
            .unwrap();
        let error = check(&anchors, data!("ec-revoked.crt"), &[], NOW).unwrap_err();
        assert!(matches!(error, ChainError::Revoked { .. }), "{error}");
        assert!(check(&anchors, data!("ec-leaf.crt"), &[], NOW).is_ok());
        // A bad file leaves the loaded lists in place.
        let bad = b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
        assert!(matches!(
            anchors.set_crls(bad, RevocationPolicy::Always),
            Err(TrustError::Crl { index: 1, .. })
        ));
        assert!(check(&anchors, data!("ec-revoked.crt"), &[], NOW).is_err());
    }

    #[test]
    fn without_a_list_the_policy_decides() {
        let mut anchors = rsa_ca();
        let verify = |anchors: &_| check(anchors, data!("rsa-leaf.crt"), &[data!("rsa-mid.crt")], NOW);
        anchors
            .set_crls(data!("ec.crl"), RevocationPolicy::WhereListed)
            .unwrap();
        assert!(verify(&anchors).is_ok());
        anchors
            .set_crls(data!("ec.crl"), RevocationPolicy::Always)
            .unwrap();
        assert!(matches!(
            verify(&anchors),
            Err(ChainError::RevocationUnknown { .. })
        ));
        // No list at all is the plainest case of none for this issuer.
        anchors.set_crls(b"", RevocationPolicy::Always).unwrap();
        assert!(matches!(
            verify(&anchors),
            Err(ChainError::RevocationUnknown { .. })
        ));
    }

    proptest! {
        #[test]
        fn a_damaged_certificate_never_passes(at: usize, bit in 0u8..8) {
            let mut leaf = der(data!("ec-leaf.crt"));
            let at = at % leaf.len();
            leaf[at] ^= 1 << bit;
            // The unsigned outer parts are DER whose every bit is checked; the rest is signed.
            prop_assert!(ec_ca().verify_chain(&leaf, &[], NOW).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_panic(leaf: Vec<u8>, others: Vec<Vec<u8>>) {
            prop_assert!(rsa_ca().verify_chain(&leaf, &others, NOW).is_err());
            let others: Vec<_> = others.into_iter().take(3).collect();
            prop_assert!(others.is_empty() || rsa_ca().verify_chain(&der(data!("ec-leaf.crt")), &others, NOW).is_err());
        }
    }
}

mod certreq {
    use super::*;

    /// `openssl x509 -in ec-ca.crt -noout -pubkey | openssl pkey -pubin -outform der | sha1sum`, and the same of rsa-ca.
    #[test]
    fn hashes_are_those_of_openssl() {
        let bundle = [&data!("ec-ca.crt")[..], data!("rsa-ca.crt")].concat();
        let certreq = TrustAnchors::from_pem(&bundle).unwrap().certreq();
        let expected = include_str!("data/authorities.sha1");
        let text: String = certreq.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, expected.split_whitespace().collect::<String>());
    }

    #[test]
    fn a_received_field_finds_the_authority() {
        let field = [&ec_ca().certreq()[..], &rsa_ca().certreq(), &[1, 2, 3]].concat();
        let hashes: Vec<_> = authority_hashes(&field).collect();
        assert_eq!(hashes.len(), 2);
        assert!(rsa_ca().has_authority(&hashes[1]) && !rsa_ca().has_authority(&hashes[0]));
        assert_eq!(
            hashes[0],
            authority_hash(certificate(data!("ec-ca.crt")).spki_der())
        );
    }
}

mod credentials {
    use super::*;

    #[test]
    fn certificate_and_key_must_be_a_pair() {
        let credential = Credential::from_pem(data!("ec-leaf.crt"), data!("ec-leaf.key")).unwrap();
        assert!(credential.proves(&id("site1.lab.test")) && !credential.proves(&id("site2.lab.test")));
        assert_eq!(credential.default_identity(), id("site1.lab.test"));
        let error = Credential::from_pem(data!("ec-leaf.crt"), data!("rsa-leaf.key")).unwrap_err();
        assert!(error.to_string().contains("CN=site1.lab.test"), "{error}");
        assert_eq!(
            Credential::from_pem(data!("ec-leaf.key"), data!("ec-leaf.key")).unwrap_err(),
            CredentialError::Missing
        );
        let error = Credential::from_pem(data!("ku-leaf.crt"), data!("rsa-leaf.key")).unwrap_err();
        assert!(matches!(error, CredentialError::KeyUsage { .. }));
    }

    #[test]
    fn the_chain_is_in_order_and_sent_without_the_root() {
        let chain = [
            &data!("rsa-leaf.crt")[..],
            data!("rsa-mid.crt"),
            data!("rsa-ca.crt"),
        ]
        .concat();
        let credential = Credential::from_pem(&chain, data!("rsa-leaf.key")).unwrap();
        let sent: Vec<_> = credential.chain().map(|one| one.der().to_vec()).collect();
        assert_eq!(sent, [der(data!("rsa-leaf.crt")), der(data!("rsa-mid.crt"))]);
        assert!(rsa_ca().verify_chain(&sent[0], &sent[1..], NOW).is_ok());
        let jumbled = [
            &data!("rsa-leaf.crt")[..],
            data!("rsa-ca.crt"),
            data!("rsa-mid.crt"),
        ]
        .concat();
        let error = Credential::from_pem(&jumbled, data!("rsa-leaf.key")).unwrap_err();
        assert!(
            matches!(error, CredentialError::Order { index: 2, .. }),
            "{error}"
        );
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let credential = Credential::from_pem(data!("ec-leaf.crt"), data!("ec-leaf.key")).unwrap();
        assert_eq!(
            format!("{:?}", credential.key()),
            "SigningKey { kind: EcdsaP256, .. }"
        );
    }
}

mod identities {
    use super::*;

    #[test]
    fn configuration_text_tells_the_kind() {
        let kinds = [
            ("192.0.2.1", 1),
            ("gw.example.jp", 2),
            ("admin@gw.example.jp", 3),
            ("2001:db8::1", 5),
            ("O=Lab, CN=x", 9),
            ("@#0badcafe", 11),
            ("keyid:router-7", 11),
            ("fqdn:192.0.2.1", 2),
            ("fqdn:admin@gw.example.jp", 2),
            ("fqdn:keyid:x", 2),
            ("email:gw.example.jp", 3),
            ("email:CN=x@y", 3),
            ("dn:", 9),
        ];
        for (text, id_type) in kinds {
            let identity = id(text);
            assert_eq!(
                (identity.id_type(), identity.to_string().as_str()),
                (id_type, text)
            );
            assert_eq!(Identity::from_wire(id_type, &identity.data()).unwrap(), identity);
        }
        for text in [
            "",
            "gw example",
            "@gw",
            "admin@",
            "@#",
            "@#0",
            "keyid:",
            "fqdn:a b",
            "email:",
            "dn:x",
            "gw.exämple",
            "*.example",
            "gw..jp",
            "gw.jp.",
            "192.0.2.300",
            "a/b",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?}");
        }
        assert_eq!(
            "FOO=x".parse::<Identity>(),
            Err(IdentityError::Name(NameError::UnknownType("FOO".to_owned())))
        );
    }

    #[test]
    fn malformed_payloads_are_refused() {
        let bad: [(u8, &[u8]); 11] = [
            (0, b"x"),
            (1, &[1, 2, 3]),
            (2, b""),
            (2, b"a\nb"),
            (2, b"a\0"),
            (2, "gé".as_bytes()),
            (3, b"\x1b[2J@x"),
            (5, &[0; 15]),
            (9, b"\x30\x01"),
            (11, b""),
            (12, b"x"),
        ];
        for (id_type, data) in bad {
            assert!(Identity::from_wire(id_type, data).is_err(), "{id_type} {data:?}");
        }
    }

    #[test]
    fn equality_ignores_case_where_dns_does_and_hashes_agree() {
        let same = [
            ("GW.Example.JP", "gw.example.jp"),
            ("a@GW.jp", "a@gw.jp"),
            ("o=LAB,  cn=X  y", "O=Lab, CN=x y"),
        ];
        for (one, two) in same {
            assert_eq!(id(one), id(two));
            assert!(HashSet::from([id(one)]).contains(&id(two)), "{one}");
        }
        for (one, two) in [
            ("A@gw.jp", "a@gw.jp"),
            ("O=Lab, CN=x", "CN=x, O=Lab"),
            ("O=Lab", "O=Lab, CN=x"),
            ("1.2.3.4", "1.2.3.5"),
        ] {
            assert_ne!(id(one), id(two));
        }
        assert_ne!(id("gw.jp"), Identity::Email("gw.jp".to_owned()));
        // The case of the peer is kept: its AUTH is computed over it.
        assert_eq!(Identity::from_wire(2, b"GW.jp").unwrap().data(), b"GW.jp");
    }

    #[test]
    fn certificates_prove_their_names_only() {
        let leaf = certificate(data!("rsa-leaf.crt"));
        let proven = [
            "gw.lab.test",
            "GW.LAB.TEST",
            "192.0.2.1",
            "2001:db8::1",
            "admin@lab.test",
            "C=JP, O=Lab, CN=gw.lab.test",
        ];
        for text in proven {
            assert!(id(text).matches_certificate(&leaf), "{text}");
        }
        let unproven = [
            "lab.test",
            "x.wild.test",
            "192.0.2.2",
            "2001:db8::2",
            "root@lab.test",
            "O=Lab, CN=gw.lab.test",
            "@#00",
        ];
        for text in unproven {
            assert!(!id(text).matches_certificate(&leaf), "{text}");
        }
        // A wildcard is not a name one may claim, and a common name no host name.
        assert!(!Identity::Fqdn("*.wild.test".to_owned()).matches_certificate(&leaf));
        assert!(!id("ike").matches_certificate(&certificate(data!("ike-leaf.crt"))));
        // An empty DN names nobody.
        assert!(
            !Identity::from_wire(9, b"\x30\x00")
                .unwrap()
                .matches_certificate(&leaf)
        );
    }

    #[test]
    fn patterns_admit_what_they_say() {
        let admits =
            |pattern: &str, text: &str| pattern.parse::<IdentityPattern>().unwrap().admits(&id(text));
        assert!(admits("*.clinic.example", "Tokyo-1.clinic.example"));
        assert!(admits("*.*.clinic.example", "a.tokyo.clinic.example"));
        assert!(admits("*@clinic.example", "router@CLINIC.example"));
        assert!(
            admits("O=Lab, CN=*", "o=lab, CN=anyone") && admits("*", "192.0.2.1") && admits("gw.jp", "GW.jp")
        );
        for (pattern, text) in [
            ("*.clinic.example", "clinic.example"),
            ("*.clinic.example", "a.b.clinic.example"),
            ("*.clinic.example", "a.clinic.example.evil"),
            ("*.clinic.example", "x@a.clinic.example"),
            ("*@clinic.example", "a.clinic.example"),
            ("O=Lab, CN=*", "O=Lab, OU=x, CN=y"),
            ("O=Lab, CN=*", "O=Labs, CN=y"),
            ("gw.jp", "gw2.jp"),
        ] {
            assert!(!admits(pattern, text), "{pattern} {text}");
        }
        // What the network may say and configuration may not.
        let clinics = "*.clinic.example".parse::<IdentityPattern>().unwrap();
        for name in [&b".clinic.example"[..], b"*.clinic.example"] {
            assert!(!clinics.admits(&Identity::from_wire(2, name).unwrap()));
        }
        for pattern in [
            "a*.example",
            "*@*.example",
            "*.exa mple",
            "192.0.2.*",
            "gw.*",
            "*.2",
            "@*",
            "",
        ] {
            assert!(pattern.parse::<IdentityPattern>().is_err(), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn names_that_look_like_something_else_are_told_apart(text in "[0-9a-f.:@=#*]{1,9}|(fqdn|email|dn|keyid):[!-~]{0,6}|[!-~]{1,12}") {
            let spellings = [2, 3, 11].map(|kind| Identity::from_wire(kind, text.as_bytes()).unwrap().to_string());
            for (kind, spelling) in [2, 3, 11].into_iter().zip(&spellings) {
                let read = spelling.parse::<Identity>().unwrap();
                prop_assert_eq!((read.id_type(), read.data()), (kind, text.clone().into_bytes()));
            }
        }

        #[test]
        fn any_payload_is_read_without_panic(id_type: u8, data: Vec<u8>) {
            let id_type = if id_type < 128 { [1, 2, 3, 5, 9, 11][usize::from(id_type) % 6] } else { id_type };
            let data = if id_type == 1 { data.into_iter().chain([1, 2, 3, 4]).take(4).collect() } else { data };
            if let Ok(identity) = Identity::from_wire(id_type, &data) {
                prop_assert_eq!(identity.data(), data);
                prop_assert!(!identity.to_string().chars().any(char::is_control));
                // Two peers never read alike.
                prop_assert_eq!(identity.to_string().parse::<Identity>(), Ok(identity));
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = text.parse::<IdentityPattern>();
            if let Ok(identity) = text.parse::<Identity>() {
                let wire = Identity::from_wire(identity.id_type(), &identity.data());
                prop_assert_eq!(wire.unwrap(), identity);
            }
        }
    }
}

mod names {
    use super::*;

    fn name(text: &str) -> DistinguishedName {
        DistinguishedName::from_text(text).unwrap()
    }

    /// The subject of ec-leaf.crt was encoded by openssl as UTF8String; text encodes as PrintableString.
    #[test]
    fn names_are_equal_whatever_the_string_type() {
        let leaf = certificate(data!("ec-leaf.crt"));
        let text = name("O=Lab, CN=site1.lab.test");
        assert_ne!(leaf.subject().der(), text.der());
        assert_eq!(*leaf.subject(), text);
    }

    /// RFC 4514 section 4, in our order, and what an attacker may put into a log.
    #[test]
    fn escapes_go_both_ways() {
        for text in [
            r"O=Sue\, Grabbit and Runn, CN=L. Eagle",
            r"OU=Sales+CN=J.  Smith, DC=net",
            r"CN=Before\0dAfter, DC=example",
            r"CN=\#x\ ",
            "CN=",
            "1.3.6.1.4.1.1466.0=x",
            "CN=薬局",
        ] {
            let parsed = name(text);
            assert_eq!(
                DistinguishedName::from_der(parsed.der()).unwrap().to_string(),
                parsed.to_string()
            );
            assert_eq!(name(&parsed.to_string()), parsed);
        }
        assert_eq!(name(r"CN=a\1b\5b2J").to_string(), r"CN=a\1b[2J");
        assert_eq!(name(r"CN=Before\0dAfter").to_string(), r"CN=Before\0dAfter");
        assert_eq!(name("CN=L\\c4\\8di").to_string(), "CN=Lči");
        for text in [
            "x",
            "CN=a\\",
            "CN=a\\zz",
            "CN=#0",
            "CN=#",
            "CN=\\ff",
            "1=x",
            "O=Lab, CN",
        ] {
            assert!(DistinguishedName::from_text(text).is_err(), "{text:?}");
        }
    }

    /// X.690 section 11.6: a SET OF is in the order of its encodings.
    #[test]
    fn der_is_canonical() {
        assert_eq!(
            name("C=JP").der(),
            b"\x30\x0d\x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02JP"
        );
        assert_eq!(name("OU=b+CN=a").der(), name("CN=a+OU=b").der());
        assert_eq!(name("").der(), b"\x30\x00");
    }

    proptest! {
        #[test]
        fn text_der_text(values in proptest::collection::vec((0usize..4, "\\PC{0,12}"), 1..5)) {
            let der: Vec<u8> = {
                // Through DER, so that every character is a possible part of a value.
                let kinds = ["CN", "O", "OU", "emailAddress"];
                let hex = |value: &str| value.bytes().map(|byte| format!("\\{byte:02x}")).collect::<String>();
                let parts: Vec<_> = values.iter().map(|(kind, value)| format!("{}={}", kinds[*kind], hex(value))).collect();
                name(&parts.join(",")).der().to_vec()
            };
            let parsed = DistinguishedName::from_der(&der).unwrap();
            prop_assert_eq!(name(&parsed.to_string()), parsed);
        }

        #[test]
        fn any_bytes_are_read_without_panic(der: Vec<u8>) {
            if let Ok(name) = DistinguishedName::from_der(&der) {
                prop_assert_eq!(name.der(), &der[..]);
            }
        }
    }
}
