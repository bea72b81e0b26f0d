//! Who may prove what: two endpoints, certificates and shared keys. How long it holds is in validity.rs.

mod common;
mod issue;
mod peers;

use common::*;
use gateway_ike::{
    AuthKind, CloseReason, Command, EndpointConfig, PeerSharedKey, SharedKey, SharedKeys,
    crypto::sign::{KeyKind, PublicKey, RsaPadding},
    pki::{certificate::Certificate, credential::Credential, trust::TrustAnchors},
    wire::{Header, Message, Payload, header::HEADER_LEN, notify::kind},
};
use issue::{Authority, dns, email, ip, nothing};
use peers::*;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, pem::PemObject};

const KEY: &str = "0x000102030405060708090a0b0c0d0e0f";
const OTHER_KEY: &str = "0xf0f102030405060708090a0b0c0d0e0f";

/// What `config` agrees with `peer`: the key, how the peer proves itself and how we do.
fn agree(config: &mut EndpointConfig, peer: &str, key: &str, kinds: (AuthKind, AuthKind)) {
    config.shared_keys.insert(identity(peer), shared(key, kinds));
}

fn shared(key: &str, (peer, own): (AuthKind, AuthKind)) -> PeerSharedKey {
    PeerSharedKey {
        key: SharedKey::from_text(key.as_bytes()).unwrap(),
        peer,
        own,
        own_identity: None,
    }
}

const BOTH: (AuthKind, AuthKind) = (AuthKind::SharedKey, AuthKind::SharedKey);

/// Site and center that use `KEY` with each other on both sides.
fn with_shared_keys() -> (EndpointConfig, EndpointConfig) {
    let (mut site, mut center) = (site_config(), center_config());
    agree(&mut site, "gw.lab.test", KEY, BOTH);
    agree(&mut center, "site1.lab.test", KEY, BOTH);
    (site, center)
}

mod shared_keys {
    use super::*;

    #[test]
    fn on_both_sides() {
        let (site, center) = with_shared_keys();
        let sim = connected(site, center, 1);
        for side in [SITE, CENTER] {
            let details = details(&sim, side);
            assert_eq!(
                (details.authenticated_by, details.certificate),
                (AuthKind::SharedKey, None)
            );
        }
    }

    /// RFC 7296 section 2.15: "There is no requirement that the initiator and responder sign with the same
    /// cryptographic algorithms": one side may use a certificate and the other a shared key.
    #[test]
    fn on_one_side_only() {
        for (site_proves, center_proves) in [
            (AuthKind::SharedKey, AuthKind::Certificate),
            (AuthKind::Certificate, AuthKind::SharedKey),
        ] {
            let (mut site, mut center) = (site_config(), center_config());
            agree(&mut site, "gw.lab.test", KEY, (center_proves, site_proves));
            agree(&mut center, "site1.lab.test", KEY, (site_proves, center_proves));
            let sim = connected(site, center, 1);
            let by = |side: usize| details(&sim, side).authenticated_by;
            assert_eq!((by(CENTER), by(SITE)), (site_proves, center_proves));
        }
    }

    #[test]
    fn survive_rekeying() {
        let (site, center) = with_shared_keys();
        let mut sim = connected(site, center, 1);
        let ike_sa = sim.only_ike_sa(SITE);
        sim.command(SITE, Command::RekeyIke(ike_sa));
        sim.run_ms(2_000);
        assert_eq!(details(&sim, CENTER).authenticated_by, AuthKind::SharedKey);
        sim.assert_agreement();
    }

    #[test]
    fn the_wrong_one_is_refused() {
        let (mut site, center) = with_shared_keys();
        agree(&mut site, "gw.lab.test", OTHER_KEY, BOTH);
        let sim = refused(site, center);
        assert_eq!(
            reason(&sim, CENTER),
            "its shared key is not the one configured for it"
        );
        assert!(
            sim.words(SITE).contains("AUTHENTICATION_FAILED"),
            "{}",
            sim.words(SITE)
        );
        assert!(!sim.words(SITE).contains("shared key"), "the peer learns no more");
    }

    #[test]
    fn of_another_site_opens_no_door() {
        let (mut site, mut center) = with_shared_keys();
        agree(&mut center, "site2.lab.test", OTHER_KEY, BOTH);
        agree(&mut site, "gw.lab.test", OTHER_KEY, BOTH);
        let sim = refused(site, center);
        assert_eq!(
            reason(&sim, CENTER),
            "its shared key is not the one configured for it"
        );
    }

    #[test]
    fn a_site_with_one_cannot_come_with_a_certificate() {
        let (_, center) = with_shared_keys();
        let sim = refused(site_config(), center);
        assert!(
            reason(&sim, CENTER).starts_with(
                "it is to prove itself by its shared key, and came with authentication method 14"
            )
        );
    }

    #[test]
    fn a_site_with_a_certificate_cannot_come_with_one() {
        let (site, _) = with_shared_keys();
        let sim = refused(site, center_config());
        assert!(reason(&sim, CENTER).contains("none is configured for this identity"));
        // Nor where the center has a key for it, to prove itself with.
        let (site, mut center) = with_shared_keys();
        agree(
            &mut center,
            "site1.lab.test",
            KEY,
            (AuthKind::Certificate, AuthKind::SharedKey),
        );
        let sim = refused(site, center);
        assert!(reason(&sim, CENTER).contains("none is configured for this identity"));
    }

    #[test]
    fn the_initiator_refuses_a_responder_with_the_wrong_one() {
        let (mut site, mut center) = (site_config(), center_config());
        agree(
            &mut site,
            "gw.lab.test",
            KEY,
            (AuthKind::SharedKey, AuthKind::Certificate),
        );
        agree(
            &mut center,
            "site1.lab.test",
            OTHER_KEY,
            (AuthKind::Certificate, AuthKind::SharedKey),
        );
        let sim = refused(site, center);
        assert_eq!(
            reason(&sim, SITE),
            "its shared key is not the one configured for it"
        );
    }

    #[test]
    fn the_initiator_refuses_a_certificate_where_it_wants_one() {
        let (mut site, mut center) = (site_config(), center_config());
        agree(&mut site, "gw.lab.test", KEY, BOTH);
        agree(
            &mut center,
            "site1.lab.test",
            KEY,
            (AuthKind::SharedKey, AuthKind::Certificate),
        );
        let sim = refused(site, center);
        assert!(reason(&sim, SITE).starts_with("it is to prove itself by its shared key"));
    }

    /// An unknown identity, a wrong key and a site with a certificate get answers of the same form and length.
    #[test]
    fn a_refusal_tells_the_peer_nothing() {
        let answers = |change: fn(&mut EndpointConfig, &mut EndpointConfig)| {
            let (mut site, mut center) = with_shared_keys();
            change(&mut site, &mut center);
            let sim = refused(site, center);
            let from_center = sim.sent.iter().filter(|one| one.from == center_address());
            from_center.map(|one| one.payload.len()).collect::<Vec<_>>()
        };
        let wrong_key = answers(|site, _| agree(site, "gw.lab.test", OTHER_KEY, BOTH));
        let unknown = answers(|_, center| center.shared_keys = SharedKeys::default());
        let other_method = answers(|site, center| {
            site.shared_keys = SharedKeys::default();
            agree(center, "site1.lab.test", KEY, BOTH);
        });
        assert_eq!(wrong_key.len(), 2, "IKE_SA_INIT and IKE_AUTH");
        assert_eq!(wrong_key, unknown);
        assert_eq!(wrong_key, other_method);
    }

    /// KEY_ID as a peer's and as our own identity: with a shared key there is no certificate to hold it.
    #[test]
    fn identities_of_their_own() {
        let (mut site, mut center) = (site_config(), center_config());
        let named = |name: &str| PeerSharedKey {
            own_identity: Some(identity(name)),
            ..shared(KEY, BOTH)
        };
        site.connections[0].remote_identity = identity("keyid:center");
        site.shared_keys
            .insert(identity("keyid:center"), named("@#0badcafe"));
        center
            .shared_keys
            .insert(identity("@#0badcafe"), named("keyid:center"));
        let sim = connected(site, center, 1);
        assert_eq!(sim.endpoints[CENTER].ike_sas().next().unwrap().peer, "@#0badcafe");
        assert_eq!(sim.endpoints[SITE].ike_sas().next().unwrap().peer, "keyid:center");
    }

    #[test]
    fn changed_or_taken_away_end_their_sas_and_no_others() {
        let replace = |key: Option<&str>, kinds| {
            let (site, center) = with_shared_keys();
            let mut sim = connected(site, center, 1);
            let mut keys = SharedKeys::default();
            if let Some(key) = key {
                keys.insert(identity("site1.lab.test"), shared(key, kinds));
            }
            let now = sim.now();
            sim.endpoints[CENTER].set_shared_keys(now, keys);
            sim.drain(CENTER);
            sim.run_ms(500);
            close_reason(&sim, CENTER).cloned()
        };
        assert_eq!(replace(Some(KEY), BOTH), None);
        assert_eq!(
            replace(Some(OTHER_KEY), BOTH),
            Some(CloseReason::SharedKeyChanged)
        );
        assert_eq!(replace(None, BOTH), Some(CloseReason::SharedKeyChanged));
        let by_certificate = (AuthKind::Certificate, AuthKind::SharedKey);
        assert_eq!(
            replace(Some(KEY), by_certificate),
            Some(CloseReason::SharedKeyChanged)
        );
        let mut sim = connected(site_config(), center_config(), 1);
        let now = sim.now();
        sim.endpoints[CENTER].set_shared_keys(now, SharedKeys::default());
        sim.drain(CENTER);
        assert_eq!(close_reason(&sim, CENTER), None, "it came with a certificate");
    }
}

mod identities {
    use super::*;

    /// RFC 7296 section 3.5, RFC 4945 section 3.1: each kind that a certificate can prove, on both sides.
    #[test]
    fn of_every_kind_on_both_sides() {
        let root = Authority::root("Root", nothing);
        let names =
            |host: &str, v4: &str, v6: &str| vec![dns(host), email(&format!("admin@{host}")), ip(v4), ip(v6)];
        let site_leaf = root.issue(
            "site1",
            names("site1.lab.test", "192.0.2.1", "2001:db8::1"),
            nothing,
        );
        let gateway_leaf = root.issue("gw", names("gw.lab.test", "198.51.100.1", "2001:db8::2"), nothing);
        for (ours, theirs) in [
            ("Site1.Lab.test", "GW.lab.test"),
            ("admin@site1.lab.test", "admin@gw.lab.test"),
            ("192.0.2.1", "198.51.100.1"),
            ("O=Lab, CN=site1", "o=LAB,cn=gw"),
            ("2001:db8::1", "2001:db8::2"),
        ] {
            let (mut site, mut center) = with_certificates(&root, &site_leaf);
            center.credential = gateway_leaf.credential(&[]);
            site.local_identity = identity(ours);
            center.local_identity = identity(theirs);
            site.connections[0].remote_identity = identity(theirs);
            // The link is IPv4: here an IPv6 address cannot be that of the sender.
            site.address_identity_is_source = !ours.contains(':');
            center.address_identity_is_source = !ours.contains(':');
            let sim = connected(site, center, 1);
            let peer = |side: usize| identity(&sim.endpoints[side].ike_sas().next().unwrap().peer);
            assert_eq!((peer(CENTER), peer(SITE)), (identity(ours), identity(theirs)));
        }
    }

    /// However a peer writes its name, it is one peer: INITIAL_CONTACT and sites go by it.
    #[test]
    fn have_one_spelling_each() {
        let root = Authority::root("Root", nothing);
        let leaf = root.issue("site1", vec![dns("site1.lab.test"), email("a@lab.test")], nothing);
        for (written, read) in [
            ("SITE1.lab.test", "site1.lab.test"),
            ("a@LAB.test", "a@lab.test"),
            ("O=lab,  CN=SITE1", "O=Lab, CN=site1"),
        ] {
            let (mut site, center) = with_certificates(&root, &leaf);
            site.local_identity = identity(written);
            let sim = connected(site, center, 1);
            assert_eq!(sim.endpoints[CENTER].ike_sas().next().unwrap().peer, read);
        }
    }

    #[test]
    fn a_key_id_is_proved_by_no_certificate() {
        let mut site = site_config();
        site.local_identity = identity("keyid:site1.lab.test");
        let sim = refused(site, center_config());
        let reason = reason(&sim, CENTER);
        assert!(
            reason.contains("does not speak for the key id keyid:site1.lab.test"),
            "{reason}"
        );
    }

    #[test]
    fn a_refusal_says_what_the_certificate_would_prove() {
        let mut site = site_config();
        site.local_identity = identity("site2.lab.test");
        let sim = refused(site, center_config());
        assert_eq!(
            reason(&sim, CENTER),
            "its certificate (O=Lab, CN=site1.lab.test) does not speak for the identity site2.lab.test; \
             it does for site1.lab.test; O=Lab, CN=site1.lab.test"
        );
    }

    /// RFC 4945 section 3.1.1: an address as identity must be that of the sender, unless configured otherwise.
    #[test]
    fn an_address_is_that_of_the_sender() {
        let root = Authority::root("Root", nothing);
        let leaf = root.issue("site1", vec![ip("192.0.2.77")], nothing);
        let configs = || {
            let (mut site, center) = with_certificates(&root, &leaf);
            site.local_identity = identity("192.0.2.77");
            (site, center)
        };
        let (site, center) = configs();
        let sim = refused(site, center);
        assert!(reason(&sim, CENTER).contains("the address 192.0.2.77, but it sends from 192.0.2.1"));
        let (site, mut center) = configs();
        center.address_identity_is_source = false;
        connected(site, center, 1);
    }
}

mod signatures {
    use super::*;

    fn credentials(root: &Authority) -> Vec<(&'static str, Credential)> {
        let names = || vec![dns("site1.lab.test")];
        let of = |algorithm| {
            root.issue_for(algorithm, "site1", names(), nothing)
                .credential(&[])
        };
        vec![
            ("RSA with PKCS #1", rsa_credential()),
            ("RSA-PSS", rsa_credential().with_rsa_padding(RsaPadding::Pss)),
            ("P-256", of(&rcgen::PKCS_ECDSA_P256_SHA256)),
            ("P-384", of(&rcgen::PKCS_ECDSA_P384_SHA384)),
            ("Ed25519", of(&rcgen::PKCS_ED25519)),
        ]
    }

    fn trust(root: &Authority) -> TrustAnchors {
        let files = [
            &include_bytes!("data/rsa-ca.crt")[..],
            include_bytes!("data/ec-ca.crt"),
        ]
        .concat();
        TrustAnchors::from_pem(&[files, root.certificate.pem().into_bytes()].concat()).unwrap()
    }

    fn site_with(credential: Credential, root: &Authority) -> EndpointConfig {
        let mut site = site_config();
        site.local_identity = credential.default_identity();
        site.credential = credential;
        site.trust = trust(root);
        site
    }

    /// RFC 7427, RFC 8420; without SIGNATURE_HASH_ALGORITHMS of either side RFC 7296 (1) and RFC 4754 (9, 10).
    #[test]
    fn of_every_key_with_and_without_rfc_7427() {
        let root = Authority::root("Root", nothing);
        for (site_announces, center_announces) in [(true, true), (false, true), (true, false)] {
            for (name, credential) in credentials(&root) {
                let mut site = site_with(credential, &root);
                site.digital_signatures = site_announces;
                let mut center = center_config();
                center.trust = trust(&root);
                center.digital_signatures = center_announces;
                let both = site_announces && center_announces;
                if name == "Ed25519" && !both {
                    // The center waits half-open for an IKE_AUTH that cannot be made.
                    let mut sim = Sim::new(site, center, 1);
                    sim.initiate();
                    sim.run_ms(500);
                    assert_eq!(sim.endpoints[SITE].ike_sas().count(), 0);
                    assert_eq!(
                        reason(&sim, SITE),
                        "we cannot prove ourselves: the peer announces no signature method for our Ed25519 key"
                    );
                } else {
                    connected(site, center, 1);
                }
            }
        }
    }

    /// The responder, too, says in words that it cannot sign for this peer.
    #[test]
    fn a_responder_that_cannot_sign_says_so() {
        let root = Authority::root("Root", nothing);
        let names = vec![dns("gw.lab.test")];
        let mut center = center_config();
        center.credential = root
            .issue_for(&rcgen::PKCS_ED25519, "gw", names, nothing)
            .credential(&[]);
        let mut site = site_config();
        site.digital_signatures = false;
        let sim = refused(site, center);
        assert!(reason(&sim, CENTER).contains("no signature method for our Ed25519 key"));
    }

    /// The hashes that a site announces in IKE_SA_INIT.
    fn announced() -> Vec<u16> {
        let sim = connected(site_config(), center_config(), 1);
        let request = &sim.sent[0].payload;
        let header = Header::parse(request).unwrap();
        let message = Message::parse(header.next_payload, &request[HEADER_LEN..]).unwrap();
        let notify = message.notify(kind::SIGNATURE_HASH_ALGORITHMS).unwrap();
        let (ids, []) = notify.data.as_chunks() else {
            panic!("an odd number of octets")
        };
        ids.iter().map(|id| u16::from_be_bytes(*id)).collect()
    }

    fn public_key(pem: &[u8]) -> PublicKey {
        if let Ok(certificate) = CertificateDer::from_pem_slice(pem) {
            return Certificate::from_der(&certificate).unwrap().public_key().unwrap();
        }
        PublicKey::from_spki_der(&SubjectPublicKeyInfoDer::from_pem_slice(pem).unwrap()).unwrap()
    }

    /// Authentication data of method 14 over "signed octets" that openssl signed (tests/data/make.sh), with the number of the
    /// hash. The AlgorithmIdentifiers are those of RFC 7427 appendix A.
    fn by_openssl() -> Vec<(u8, PublicKey, Vec<u8>)> {
        let rsa = || public_key(include_bytes!("data/rsa-leaf.crt"));
        let p256 = || public_key(include_bytes!("data/ec-leaf.crt"));
        let p384 = || public_key(include_bytes!("data/p384.pub"));
        let rsa_with = |hash: u8, signature: &[u8]| {
            let algorithm = b"\x0f\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01";
            [&algorithm[..], &[9 + hash, 5, 0], signature].concat()
        };
        let ecdsa_with = |hash: u8, signature: &[u8]| {
            let algorithm = b"\x0c\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03";
            [&algorithm[..], &[hash], signature].concat()
        };
        vec![
            (2, rsa(), rsa_with(2, include_bytes!("data/rsa-sha256.sig"))),
            (3, rsa(), rsa_with(3, include_bytes!("data/rsa-sha384.sig"))),
            (4, rsa(), rsa_with(4, include_bytes!("data/rsa-sha512.sig"))),
            (2, p256(), ecdsa_with(2, include_bytes!("data/ec-sha256.sig"))),
            (3, p256(), ecdsa_with(3, include_bytes!("data/ec-sha384.sig"))),
            (4, p256(), ecdsa_with(4, include_bytes!("data/ec-sha512.sig"))),
            (2, p384(), ecdsa_with(2, include_bytes!("data/p384-sha256.sig"))),
            (3, p384(), ecdsa_with(3, include_bytes!("data/p384-sha384.sig"))),
            (4, p384(), ecdsa_with(4, include_bytes!("data/p384-sha512.sig"))),
        ]
    }

    /// RFC 7427 section 4: what is announced can be verified, whatever key the peer has. (5, Identity, is for Ed25519.)
    ///
    /// Regression: SHA2-512 was announced, and ECDSA is not verified with it. Libreswan, which signs with the strongest hash
    /// that is announced and no other, was refused with every ECDSA certificate.
    #[test]
    fn what_is_announced_is_verified() {
        let announced = announced();
        assert!(announced.contains(&2) && announced.contains(&3));
        for hash in announced.into_iter().filter(|hash| *hash != 5) {
            let signatures = by_openssl().into_iter();
            let signatures: Vec<_> = signatures.filter(|(with, ..)| u16::from(*with) == hash).collect();
            assert_eq!(signatures.len(), 3, "hash {hash}");
            for (_, key, data) in signatures {
                let verified = key.verify(14, b"signed octets", &data);
                assert!(verified.is_ok(), "hash {hash}, {:?}: {verified:?}", key.kind());
                assert!(key.verify(14, b"other octets", &data).is_err());
            }
        }
    }

    /// SHA2-512 is not announced. Who signs with it all the same is accepted with an RSA key, and told what to do with another.
    #[test]
    fn sha2_512_is_for_rsa() {
        for (_, key, data) in by_openssl().into_iter().filter(|(hash, ..)| *hash == 4) {
            let verified = key.verify(14, b"signed octets", &data);
            if key.kind() == KeyKind::Rsa {
                assert!(verified.is_ok(), "{verified:?}");
            } else {
                let error = verified.unwrap_err().to_string();
                assert!(error.contains("ECDSA with SHA-512"), "{error}");
                assert!(
                    error.contains("let the peer sign with SHA-256 or SHA-384"),
                    "{error}"
                );
            }
        }
    }

    /// RFC 7296 section 3.6, RFC 7427 section 4: what is announced in the clear. HTTP_CERT_LOOKUP_SUPPORTED (16392)
    /// never, SHA-1 (1) never.
    #[test]
    fn nothing_is_announced_that_is_not_wanted() {
        let sim = connected(site_config(), center_config(), 1);
        let mut hashes = 0;
        for datagram in sim.sent.iter().filter(|one| one.from.port() == 500) {
            let header = Header::parse(&datagram.payload).unwrap();
            if header.message_id != 0 {
                continue;
            }
            let message = Message::parse(header.next_payload, &datagram.payload[HEADER_LEN..]).unwrap();
            for payload in &message.0 {
                match payload {
                    Payload::Notify(notify) if notify.kind == kind::SIGNATURE_HASH_ALGORITHMS => {
                        assert_eq!(notify.data, [0, 2, 0, 3, 0, 5]);
                        hashes += 1;
                    }
                    Payload::Notify(notify) => assert_ne!(notify.kind, 16392),
                    Payload::CertReq(request) => assert_eq!(request.encoding, 4),
                    _ => {}
                }
            }
        }
        assert_eq!(hashes, 2);
    }
}
