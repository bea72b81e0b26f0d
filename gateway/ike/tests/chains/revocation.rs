//! Revocation lists (RFC 5280 section 6.3): which of them speaks for a certificate, and which may take another's place.

use super::*;

pub(super) fn lists(lists: &[rcgen::CertificateRevocationList]) -> Vec<RevocationList> {
    let pem: String = lists.iter().map(|list| list.pem().unwrap()).collect();
    RevocationList::read_file(pem.as_bytes()).unwrap()
}

pub(super) fn trust(
    root: &Authority,
    revocation: &[rcgen::CertificateRevocationList],
    policy: RevocationPolicy,
) -> TrustAnchors {
    let mut trust = root.trust();
    trust.set_revocation(lists(revocation), policy);
    trust
}

#[test]
fn the_revoked_one_of_the_chain_is_named() {
    let root = Authority::root("Root", nothing);
    let serial = rcgen::SerialNumber::from(4711u64);
    let middle = root.below("Middle", |params| params.serial_number = Some(serial.clone()));
    let leaf = middle.issue("gw", Vec::new(), nothing);
    let error = verify(
        &trust(
            &root,
            &[root.crl(&[&serial], 1, false)],
            RevocationPolicy::WhereListed,
        ),
        &leaf,
        &[&middle],
    );
    let error = error.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate of O=Lab, CN=Middle (serial 1267) is revoked by its issuer O=Lab, CN=Root"
    );
    let error = verify(
        &trust(
            &root,
            &[middle.crl(&[&leaf.serial], 1, false)],
            RevocationPolicy::WhereListed,
        ),
        &leaf,
        &[&middle],
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .starts_with("the certificate of O=Lab, CN=gw ")
    );
    // The same serial number of another issuer means nothing.
    let other = trust(
        &root,
        &[root.crl(&[&leaf.serial], 1, false)],
        RevocationPolicy::WhereListed,
    );
    assert!(verify(&other, &leaf, &[&middle]).is_ok());
}

/// DER puts a zero octet before a serial number whose first bit is set, in the certificate and on the list.
#[test]
fn serial_numbers_are_compared_as_they_are_written() {
    let root = Authority::root("Root", nothing);
    let serials = [&[0x80, 1][..], &[0xff; 20], &[0x7f], &[1, 0]].map(rcgen::SerialNumber::from_slice);
    for serial in &serials {
        let leaf = root.issue("gw", Vec::new(), |params| {
            params.serial_number = Some(serial.clone())
        });
        let others: Vec<_> = serials.iter().filter(|other| *other != serial).collect();
        for (listed, good) in [(vec![serial], false), (others, true)] {
            let trust = trust(&root, &[root.crl(&listed, 1, false)], RevocationPolicy::Always);
            assert_eq!(verify(&trust, &leaf, &[]).is_ok(), good, "{serial}");
        }
    }
}

/// RFC 5280 section 5.1.2.5: a list whose next update is over proves nothing, whatever the policy.
#[test]
fn an_expired_list_lets_nobody_in() {
    let root = Authority::root("Root", nothing);
    let leaf = root.issue("gw", Vec::new(), nothing);
    for policy in [RevocationPolicy::WhereListed, RevocationPolicy::Always] {
        let expired = trust(&root, &[root.crl(&[], 1, true)], policy);
        let error = verify(&expired, &leaf, &[]).unwrap_err();
        assert!(error.to_string().contains("out of date"), "{error}");
        assert!(expired.revocation_lists()[0].is_expired(NOW));
        let current = trust(&root, &[root.crl(&[], 1, false)], policy);
        assert!(verify(&current, &leaf, &[]).is_ok());
        assert!(!current.revocation_lists()[0].is_expired(NOW));
    }
}

#[test]
fn of_several_lists_the_newest_decides_in_whatever_order_they_are_read() {
    let root = Authority::root("Root", nothing);
    let leaf = root.issue("gw", Vec::new(), nothing);
    let old = || root.crl(&[], 2, true);
    let new = || root.crl(&[&leaf.serial], 3, false);
    let released = || root.crl(&[], 4, false);
    for (given, good) in [
        (vec![old(), new()], false),
        (vec![new(), old()], false),
        (vec![new(), released(), old()], true),
    ] {
        let trust = trust(&root, &given, RevocationPolicy::Always);
        assert_eq!(verify(&trust, &leaf, &[]).is_ok(), good);
    }
}

#[test]
fn a_list_counts_only_if_its_issuer_signed_it_and_may() {
    let root = Authority::root("Root", nothing);
    let leaf = root.issue("gw", Vec::new(), nothing);
    let impostor = Authority::root("Root", nothing);
    for policy in [RevocationPolicy::WhereListed, RevocationPolicy::Always] {
        let forged = trust(&root, &[impostor.crl(&[], 1, false)], policy);
        assert!(verify(&forged, &leaf, &[]).is_err());
    }
    let no_crl_sign = root.below("Middle", |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign]
    });
    let leaf = no_crl_sign.issue("gw", Vec::new(), nothing);
    let mut may_sign = Authority {
        key: rcgen::KeyPair::from_pem(&no_crl_sign.key.serialize_pem()).unwrap(),
        ..no_crl_sign.below("x", nothing)
    };
    may_sign.params.distinguished_name = name("Middle");
    let list = trust(
        &root,
        &[may_sign.crl(&[], 1, false)],
        RevocationPolicy::WhereListed,
    );
    assert!(
        verify(&list, &leaf, &[&no_crl_sign]).is_err(),
        "keyUsage without cRLSign"
    );
}

pub(super) fn both(old: &Authority, new: &Authority) -> TrustAnchors {
    let pem = old.certificate.pem() + &new.certificate.pem();
    TrustAnchors::from_pem(pem.as_bytes()).unwrap()
}

pub(super) fn with_lists(
    mut trust: TrustAnchors,
    given: &[&rcgen::CertificateRevocationList],
) -> TrustAnchors {
    let read = given
        .iter()
        .flat_map(|list| RevocationList::read_file(list.der()).unwrap());
    trust.set_revocation(read.collect(), RevocationPolicy::WhereListed);
    trust
}

/// RFC 5280 section 6.3.3 (f) and (g): a list is for the certificates of the key that signed it. An authority that takes a
/// new key keeps its name, and each key has its list. Regression: the newest list of the name decided; whoever was issued
/// by the other key was refused, as its signature did not fit.
#[test]
fn each_key_of_an_authority_has_its_own_list() {
    let (old, new) = (Authority::root("Root", nothing), Authority::root("Root", nothing));
    let of_old = old.issue("old", Vec::new(), nothing);
    let of_new = new.issue("new", Vec::new(), nothing);
    for (old_month, new_month) in [(2, 5), (5, 2)] {
        let outcome = |leaf: &Leaf, old_list: &[&Leaf], new_list: &[&Leaf]| {
            let serials = |of: &[&Leaf]| of.iter().map(|one| one.serial.clone()).collect::<Vec<_>>();
            let (old_list, new_list) = (serials(old_list), serials(new_list));
            let old_list = old.crl(&old_list.iter().collect::<Vec<_>>(), old_month, false);
            let new_list = new.crl(&new_list.iter().collect::<Vec<_>>(), new_month, false);
            let trust = with_lists(both(&old, &new), &[&old_list, &new_list]);
            verify(&trust, leaf, &[]).map(|_| ())
        };
        for leaf in [&of_old, &of_new] {
            outcome(leaf, &[], &[]).unwrap();
        }
        // Revoked by its key's list, whichever is the newer; on the other's list it means nothing.
        for (leaf, is_listed) in [(&of_old, [&[&of_old][..], &[]]), (&of_new, [&[], &[&of_new]])] {
            let error = outcome(leaf, is_listed[0], is_listed[1]).unwrap_err();
            assert!(matches!(error, ChainError::Revoked { .. }), "{error}");
            outcome(leaf, is_listed[1], is_listed[0]).unwrap();
        }
    }
    // One key's list says nothing of the other's certificates, and is no absence of lists.
    let trust = with_lists(both(&old, &new), &[&old.crl(&[], 5, false)]);
    verify(&trust, &of_old, &[]).unwrap();
    let error = verify(&trust, &of_new, &[]).unwrap_err();
    assert!(matches!(error, ChainError::RevocationUnknown { .. }), "{error}");
}

/// The same below a root: an intermediate's two keys.
#[test]
fn each_key_of_an_intermediate_has_its_own_list() {
    let root = Authority::root("Root", nothing);
    let (old, new) = (root.below("Middle", nothing), root.below("Middle", nothing));
    for (old_month, new_month) in [(2, 5), (5, 2)] {
        for issuer in [&old, &new] {
            let leaf = issuer.issue("gw", Vec::new(), nothing);
            let listed = issuer.issue("gw", Vec::new(), nothing);
            let serial = [&listed.serial];
            let on = |one: &Authority| {
                if one.der() == issuer.der() {
                    &serial[..]
                } else {
                    &[]
                }
            };
            let lists = [
                &root.crl(&[], 1, false),
                &old.crl(on(&old), old_month, false),
                &new.crl(on(&new), new_month, false),
            ];
            let trust = with_lists(root.trust(), &lists);
            verify(&trust, &leaf, &[&old, &new]).unwrap();
            let error = verify(&trust, &listed, &[&old, &new]).unwrap_err();
            assert!(matches!(error, ChainError::Revoked { .. }), "{error}");
        }
    }
}

/// A list that its authority did not sign is nobody's: it hides no list that counts, and of a certificate nothing is known
/// by it. Regression: it came before all older lists of the name, and was a reason to refuse for good.
#[test]
fn a_list_that_nobody_signed_hides_none_that_counts() {
    let root = Authority::root("Root", nothing);
    let impostor = Authority::root("Root", nothing);
    let leaf = root.issue("gw", Vec::new(), nothing);
    let forged = || impostor.crl(&[], 5, false);
    for policy in [RevocationPolicy::WhereListed, RevocationPolicy::Always] {
        verify(
            &trust(&root, &[forged(), root.crl(&[], 2, false)], policy),
            &leaf,
            &[],
        )
        .unwrap();
        let lists = [forged(), root.crl(&[&leaf.serial], 2, false)];
        let error = verify(&trust(&root, &lists, policy), &leaf, &[]).unwrap_err();
        assert!(matches!(error, ChainError::Revoked { .. }), "{error}");
        let error = verify(&trust(&root, &[forged()], policy), &leaf, &[]).unwrap_err();
        assert!(matches!(error, ChainError::RevocationUnknown { .. }), "{error}");
    }
}

/// A list that bears an authority's name must be its own, or is refused as an unreadable one is; whose an intermediate's is
/// shows when its certificate comes.
#[test]
fn a_list_that_an_authority_did_not_sign_is_not_loaded() {
    let (old, new) = (Authority::root("Root", nothing), Authority::root("Root", nothing));
    let impostor = Authority::root("Root", nothing);
    let middle = old.below("Middle", nothing);
    let load = |mut trust: TrustAnchors, list: &Authority| {
        trust
            .set_crls(list.crl(&[], 5, false).der(), RevocationPolicy::WhereListed)
            .map(|()| trust.revocation_lists().len())
            .map_err(|error| error.to_string())
    };
    for list in [&old, &new, &middle] {
        assert_eq!(load(both(&old, &new), list), Ok(1));
    }
    for (trust, list) in [(both(&old, &new), &impostor), (old.trust(), &new)] {
        assert_eq!(
            load(trust, list).unwrap_err(),
            "the revocation list of O=Lab, CN=Root, of 2026-05-01 00:00:00 UTC, was not signed by the authority of that \
             name in [ike] ca, or by an algorithm that is not accepted (SHA-1, RSA below 2048 bits): it is damaged, or \
             somebody else's\n  to mend it: fetch it again, or add the certificate of the authority's new key to ca"
        );
    }
    // Damaged where no field is: a serial number on it.
    let leaf = old.issue("gw", Vec::new(), nothing);
    let mut damaged = old.crl(&[&leaf.serial], 5, false).der().to_vec();
    let serial = &leaf.serial.to_bytes()[..];
    let at = damaged.windows(serial.len()).position(|at| at == serial).unwrap();
    damaged[at] ^= 1;
    let error = old
        .trust()
        .set_crls(&damaged, RevocationPolicy::WhereListed)
        .unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn with_the_policy_always_each_issuer_needs_its_list() {
    let root = Authority::root("Root", nothing);
    let middle = root.below("Middle", nothing);
    let leaf = middle.issue("gw", Vec::new(), nothing);
    let (of_root, of_middle) = (|| root.crl(&[], 1, false), || middle.crl(&[], 1, false));
    for (given, good) in [
        (vec![of_root()], false),
        (vec![of_middle()], false),
        (vec![of_root(), of_middle()], true),
    ] {
        let trust = trust(&root, &given, RevocationPolicy::Always);
        assert_eq!(verify(&trust, &leaf, &[&middle]).is_ok(), good);
    }
}

/// RFC 5280 section 6.3.3 (b): a list may be for a part of its issuer's certificates. Regression: where the only lists of an
/// issuer were for others, its certificates passed as if it had none, those on the list too.
#[test]
fn lists_for_other_certificates_of_the_issuer_let_nobody_in() {
    let point = |uri: &str| rcgen::CrlDistributionPoint {
        uris: vec![uri.to_owned()],
    };
    let of = |uri: &str, scope: Option<rcgen::CrlScope>| {
        Some(rcgen::CrlIssuingDistributionPoint {
            distribution_point: point(uri),
            scope,
        })
    };
    let root = Authority::root("Root", nothing);
    let at = |uri: &'static str| {
        move |params: &mut CertificateParams| {
            params.crl_distribution_points = vec![point(uri)];
        }
    };
    let (one, other) = ("http://lab.test/1.crl", "http://lab.test/2.crl");
    let leaf = root.issue("gw", Vec::new(), at(one));
    let plain = root.issue("gw", Vec::new(), nothing);
    let middle = root.below("Middle", at(one));
    let below = middle.issue("gw", Vec::new(), nothing);
    let outcome = |lists: &[rcgen::CertificateRevocationList], leaf, others: &[&Authority]| {
        let trust = trust(&root, lists, RevocationPolicy::WhereListed);
        verify(&trust, leaf, others).map(|_| ())
    };
    let unknown = |outcome: Result<(), ChainError>| {
        let error = outcome.unwrap_err();
        assert!(matches!(error, ChainError::RevocationUnknown { .. }), "{error}");
    };
    // For the other distribution point, with the certificate on it and without.
    unknown(outcome(
        &[root.crl_of(&[&leaf.serial], 1, false, of(other, None))],
        &leaf,
        &[],
    ));
    unknown(outcome(
        &[root.crl_of(&[], 1, false, of(other, None))],
        &leaf,
        &[],
    ));
    // For authorities alone; and for all but authorities, where an intermediate comes along.
    let authorities = || root.crl_of(&[], 1, false, of(one, Some(rcgen::CrlScope::CaCertsOnly)));
    let users = || root.crl_of(&[], 1, false, of(one, Some(rcgen::CrlScope::UserCertsOnly)));
    unknown(outcome(&[authorities()], &leaf, &[]));
    unknown(outcome(&[users()], &below, &[&middle]));
    // One that is for it beside others, or for a certificate that names no point.
    for (lists, leaf) in [
        (
            vec![
                root.crl_of(&[], 1, false, of(other, None)),
                root.crl_of(&[], 1, false, of(one, None)),
            ],
            &leaf,
        ),
        (vec![authorities(), users()], &leaf),
        (vec![root.crl_of(&[], 1, false, of(one, None))], &plain),
        (vec![root.crl(&[], 1, false)], &leaf),
    ] {
        outcome(&lists, leaf, &[]).unwrap();
    }
    outcome(&[authorities(), users()], &below, &[&middle]).unwrap();
}

pub(super) fn point(uri: &str) -> rcgen::CrlDistributionPoint {
    rcgen::CrlDistributionPoint {
        uris: vec![uri.to_owned()],
    }
}

/// RFC 5280 section 6.3.3: each list that is for a certificate is asked. Regression: the newest of them decided alone, whatever
/// it is for: one for a part of the certificates hid who was on that for all, and one part hid another.
#[test]
fn a_list_of_a_part_hides_no_other() {
    const ONE: &str = "http://lab.test/1.crl";
    const OTHER: &str = "http://lab.test/2.crl";
    let root = Authority::root("Root", nothing);
    let at_one = |params: &mut CertificateParams| params.crl_distribution_points = vec![point(ONE)];
    let plain = root.issue("gw", Vec::new(), nothing);
    let leaf = root.issue("gw", Vec::new(), at_one);
    let middle = root.below("Middle", nothing);
    let below = middle.issue("gw", Vec::new(), nothing);
    let part = |uri, scope, revoked: &[&rcgen::SerialNumber], month, expired| {
        let point = rcgen::CrlIssuingDistributionPoint {
            distribution_point: point(uri),
            scope,
        };
        root.crl_of(revoked, month, expired, Some(point))
    };
    let of_one = |revoked: &[_], month, expired| part(ONE, None, revoked, month, expired);
    let of_other = |revoked: &[_], month, expired| part(OTHER, None, revoked, month, expired);
    let whole = |revoked: &[_], month, expired| root.crl(revoked, month, expired);
    let (plain_1, leaf_1) = ([&plain.serial], [&leaf.serial]);
    let users = Some(rcgen::CrlScope::UserCertsOnly);
    for (what, lists, chain, expected) in [
        (
            "whole, part is newer",
            vec![whole(&plain_1, 2, false), of_one(&[], 3, false)],
            (&plain, None),
            "revoked",
        ),
        (
            "part, whole is newer",
            vec![of_one(&plain_1, 2, false), whole(&[], 3, false)],
            (&plain, None),
            "revoked",
        ),
        (
            "one of the parts",
            vec![of_one(&plain_1, 2, false), of_other(&[], 3, false)],
            (&plain, None),
            "revoked",
        ),
        (
            "whole, with a point",
            vec![whole(&leaf_1, 2, false), of_one(&[], 3, false)],
            (&leaf, None),
            "revoked",
        ),
        (
            "whole that is old",
            vec![whole(&plain_1, 2, true), of_one(&[], 3, false)],
            (&plain, None),
            "revoked",
        ),
        (
            "users alone, newer",
            vec![whole(&plain_1, 2, false), part(ONE, users, &[], 3, false)],
            (&plain, None),
            "revoked",
        ),
        // Of each scope the newest; and another point's is for others.
        (
            "released",
            vec![
                whole(&plain_1, 2, false),
                whole(&[], 3, false),
                of_one(&[], 4, false),
            ],
            (&plain, None),
            "good",
        ),
        (
            "released by a part",
            vec![
                of_one(&leaf_1, 2, false),
                of_one(&[], 3, false),
                whole(&[], 1, false),
            ],
            (&leaf, None),
            "good",
        ),
        (
            "of another point",
            vec![whole(&[], 2, false), of_other(&leaf_1, 3, false)],
            (&leaf, None),
            "good",
        ),
        // Who names no point is spoken for by the whole list; where there are parts alone, by all of them.
        (
            "old whole",
            vec![whole(&[], 2, true), of_one(&[], 3, false)],
            (&plain, None),
            "unknown",
        ),
        (
            "current whole",
            vec![whole(&[], 2, false), of_one(&[], 3, true)],
            (&plain, None),
            "good",
        ),
        (
            "parts",
            vec![of_one(&[], 2, false), of_other(&[], 3, false)],
            (&plain, None),
            "good",
        ),
        (
            "an old part",
            vec![of_one(&[], 2, true), of_other(&[], 3, false)],
            (&plain, None),
            "unknown",
        ),
        // Who names one, by either.
        (
            "point's",
            vec![whole(&[], 3, true), of_one(&[], 2, false)],
            (&leaf, None),
            "good",
        ),
        (
            "whole",
            vec![whole(&[], 2, false), of_one(&[], 3, true)],
            (&leaf, None),
            "good",
        ),
        (
            "neither",
            vec![whole(&[], 2, true), of_one(&[], 3, true)],
            (&leaf, None),
            "unknown",
        ),
        (
            "an authority's",
            vec![whole(&[], 2, false), part(ONE, users, &[], 3, false)],
            (&below, Some(&middle)),
            "good",
        ),
    ] {
        let (leaf, others) = chain;
        let others: Vec<_> = others.into_iter().collect();
        let trust = trust(&root, &lists, RevocationPolicy::WhereListed);
        let outcome = match verify(&trust, leaf, &others) {
            Ok(_) => "good",
            Err(ChainError::Revoked { .. }) => "revoked",
            Err(ChainError::RevocationUnknown { .. }) => "unknown",
            Err(error) => panic!("{what}: {error}"),
        };
        assert_eq!(outcome, expected, "{what}");
    }
}

#[test]
fn files_are_pem_or_der() {
    let root = Authority::root("Root", nothing);
    let leaf = root.issue("gw", Vec::new(), nothing);
    let list = root.crl(&[&leaf.serial], 5, false);
    let read = RevocationList::read_file(list.der()).unwrap();
    assert_eq!((read.len(), read[0].revoked()), (1, 1));
    assert_eq!(read[0].issuer().to_string(), "O=Lab, CN=Root");
    // 1 May 2026 and 1 January 2045.
    assert_eq!(read[0].this_update_unix_s(), 1_777_593_600);
    assert_eq!(read[0].next_update_unix_s(), Some(2_366_841_600));
    let mut trust = root.trust();
    trust.set_revocation(read, RevocationPolicy::WhereListed);
    assert!(matches!(
        verify(&trust, &leaf, &[]),
        Err(ChainError::Revoked { .. })
    ));
    assert!(RevocationList::read_file(&list.der()[..list.der().len() - 1]).is_err());
    assert!(RevocationList::read_file(b"").unwrap().is_empty());
    let cut = list.pem().unwrap();
    assert!(
        RevocationList::read_file(&cut.as_bytes()[..cut.len() - 40]).is_err(),
        "a file half written"
    );
}
