//! Path validation (RFC 5280 section 6, RFC 4945 section 5.1.3) on chains that rcgen makes: each check by a chain that
//! passes and one that differs in the thing checked.

#[path = "chains/following.rs"]
mod following;
mod issue;
#[path = "chains/revocation.rs"]
mod revocation;

use gateway_ike::pki::{
    identity::Identity,
    revocation::{RevocationList, RevocationPolicy},
    trust::{ChainError, TrustAnchors, VerifiedPeer},
};
use issue::*;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints,
};

fn verify(trust: &TrustAnchors, leaf: &Leaf, others: &[&Authority]) -> Result<VerifiedPeer, ChainError> {
    let others: Vec<_> = others.iter().map(|one| one.der()).collect();
    trust.verify_chain(&leaf.der(), &others, NOW)
}

fn path_len(len: u8) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(len))
}

fn permit(subtrees: Vec<GeneralSubtree>) -> impl Fn(&mut CertificateParams) {
    move |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: subtrees.clone(),
            excluded_subtrees: Vec::new(),
        });
    }
}

fn exclude(subtrees: Vec<GeneralSubtree>) -> impl Fn(&mut CertificateParams) {
    move |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: Vec::new(),
            excluded_subtrees: subtrees.clone(),
        });
    }
}

/// RFC 7296 section 3.6: the first certificate is the peer's; the others come in any order.
#[test]
fn intermediates_come_in_any_order_twice_and_with_strangers() {
    let root = Authority::root("Root", nothing);
    let first = root.below("First", nothing);
    let second = first.below("Second", nothing);
    let third = second.below("Third", nothing);
    let stranger = Authority::root("Stranger", nothing);
    let leaf = third.issue("gw", vec![dns("gw.lab.test")], nothing);
    for others in [
        [&third, &second, &first, &stranger],
        [&first, &second, &third, &root],
        [&stranger, &second, &third, &first],
        [&second, &third, &first, &second],
    ] {
        let peer = verify(&root.trust(), &leaf, &others).unwrap();
        assert_eq!(peer.authority().to_string(), "O=Lab, CN=Root");
        assert!(peer.proves(&"gw.lab.test".parse().unwrap()));
    }
    let error = verify(&root.trust(), &leaf, &[&third, &first]).unwrap_err();
    assert!(
        matches!(error, ChainError::UnknownIssuer { ref issuer, .. } if issuer == "O=Lab, CN=Second"),
        "{error}"
    );
}

#[test]
fn the_path_is_valid_until_its_first_certificate_expires() {
    let root = Authority::root("Root", nothing);
    let short_lived = root.below("Short-lived", after_now_s(100));
    let unused = root.below("Unused", after_now_s(10));
    let cases = [
        (50, NOW + 50, "O=Lab, CN=gw"),
        (200, NOW + 100, "O=Lab, CN=Short-lived"),
    ];
    for (leaf_lives_s, ends, first) in cases {
        let leaf = short_lived.issue("gw", vec![dns("gw.lab.test")], after_now_s(leaf_lives_s));
        let peer = verify(&root.trust(), &leaf, &[&unused, &short_lived]).unwrap();
        assert_eq!(peer.valid_until_unix_s(), i64::try_from(ends).unwrap());
        assert_eq!(peer.first_to_expire().to_string(), first);
        // The end is that of the check itself.
        assert!(peer.verify_again(&root.trust(), ends).is_ok());
        assert!(peer.verify_again(&root.trust(), ends + 1).is_err());
    }
    let dying = Authority::root("Dying root", after_now_s(30));
    let leaf = dying.issue("gw", Vec::new(), nothing);
    let peer = verify(&dying.trust(), &leaf, &[]).unwrap();
    assert_eq!(peer.first_to_expire().to_string(), "O=Lab, CN=Dying root");
}

/// The authorities of a file, in this order.
fn trust_in(authorities: &[&Authority]) -> TrustAnchors {
    let pem: String = authorities.iter().map(|one| one.certificate.pem()).collect();
    TrustAnchors::from_pem(pem.as_bytes()).unwrap()
}

/// A root is issued again with the same name and key before it expires, and both are in the file. Regression: the first of
/// the file was taken for both, so that the end of the old one was that of every peer, and its narrower path length, or
/// constraints on names, held below the new one.
#[test]
fn of_a_root_that_was_issued_again_the_one_that_fits_and_lasts_longest_counts() {
    let lab = permit(vec![GeneralSubtree::DirectoryName(name("gw"))]);
    let other = permit(vec![GeneralSubtree::DirectoryName(name("Other"))]);
    let old = Authority::root("Root", after_now_s(30));
    let new = old.again(after_now_s(1000));
    let narrow = old.again(|params| {
        after_now_s(2000)(params);
        path_len(0)(params);
    });
    let of_others = old.again(|params| {
        after_now_s(3000)(params);
        other(params);
    });
    let of_ours = old.again(|params| {
        after_now_s(500)(params);
        lab(params);
    });
    let middle = old.below("Middle", nothing);
    let direct = old.issue("gw", Vec::new(), nothing);
    let below = middle.issue("gw", Vec::new(), nothing);
    let chains = [(&direct, vec![]), (&below, vec![&middle])];
    let ends = |authorities: &[&Authority]| {
        chains.each_ref().map(|(leaf, others)| {
            let peer = verify(&trust_in(authorities), leaf, others);
            peer.map_or(0, |peer| peer.valid_until_unix_s() - i64::try_from(NOW).unwrap())
        })
    };
    for (authorities, expected) in [
        ([&old, &new], [1000, 1000]),
        ([&old, &narrow], [2000, 30]),
        ([&narrow, &new], [2000, 1000]),
        ([&of_others, &old], [30, 30]),
        ([&of_others, &narrow], [2000, 0]),
        ([&old, &of_ours], [500, 30]),
    ] {
        let [one, other] = authorities;
        assert_eq!(ends(&[one, other]), expected);
        assert_eq!(ends(&[other, one]), expected, "in the other order");
    }
}

/// The same of an intermediate whose two certificates the peer sends.
#[test]
fn of_an_intermediate_that_was_issued_again_the_one_that_lasts_longest_counts() {
    let root = Authority::root("Root", nothing);
    let old = root.below("Middle", after_now_s(30));
    let leaf = old.issue("gw", Vec::new(), nothing);
    let mut params = old.params.clone();
    after_now_s(1000)(&mut params);
    let new = root.certify(params, &old.key);
    for others in [[&old, &new], [&new, &old]] {
        let peer = verify(&root.trust(), &leaf, &others).unwrap();
        assert_eq!(peer.valid_until_unix_s(), i64::try_from(NOW + 1000).unwrap());
    }
}

/// RFC 5280 section 4.2.1.9. For a configured authority too.
#[test]
fn path_lengths_are_kept() {
    for len in 0..=2u8 {
        let root = Authority::root("Root", path_len(len));
        let first = root.below("First", nothing);
        let second = first.below("Second", nothing);
        let leaves = [
            (root.issue("gw", Vec::new(), nothing), vec![], 0),
            (first.issue("gw", Vec::new(), nothing), vec![&first], 1),
            (second.issue("gw", Vec::new(), nothing), vec![&first, &second], 2),
        ];
        for (leaf, others, intermediates) in &leaves {
            let result = verify(&root.trust(), leaf, others);
            assert_eq!(
                result.is_ok(),
                *intermediates <= len,
                "{intermediates} below {len}"
            );
        }
    }
    let root = Authority::root("Root", nothing);
    let first = root.below("First", path_len(0));
    let second = first.below("Second", nothing);
    assert!(verify(&root.trust(), &first.issue("gw", Vec::new(), nothing), &[&first]).is_ok());
    let error = verify(
        &root.trust(),
        &second.issue("gw", Vec::new(), nothing),
        &[&first, &second],
    )
    .unwrap_err();
    assert!(error.to_string().contains("path length"), "{error}");
}

/// RFC 5280 sections 4.2.1.9 and 4.2.1.3: who may issue.
#[test]
fn only_authorities_issue() {
    let root = Authority::root("Root", nothing);
    let no_ca = root.below("No CA", |params| params.is_ca = IsCa::ExplicitNoCa);
    let silent = root.below("Silent", |params| params.is_ca = IsCa::NoCa);
    let no_sign = root.below("No keyCertSign", |params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign]
    });
    let no_usage = root.below("No key usage", |params| params.key_usages = Vec::new());
    for (issuer, good) in [
        (&no_ca, false),
        (&silent, false),
        (&no_sign, false),
        (&no_usage, true),
    ] {
        let leaf = issuer.issue("gw", Vec::new(), nothing);
        let result = verify(&root.trust(), &leaf, &[issuer]);
        assert_eq!(result.is_ok(), good, "{result:?}");
    }
}

/// RFC 5280 section 4.2.1.10. Constraints of the configured authority and of an intermediate.
#[test]
fn names_keep_to_constraints_on_dns_and_addresses() {
    let v4 = || GeneralSubtree::IpAddress(CidrSubnet::V4([192, 0, 2, 0], [255, 255, 255, 0]));
    let host = || GeneralSubtree::DnsName("clinic.example".to_owned());
    let cases = [
        (
            permit(vec![host()]),
            dns("a.clinic.example"),
            dns("a.hospital.example"),
        ),
        (
            permit(vec![host()]),
            dns("clinic.example"),
            dns("aclinic.example"),
        ),
        (permit(vec![v4()]), ip("192.0.2.9"), ip("192.0.3.9")),
    ];
    for (constrain, inside, outside) in cases {
        both_places(&constrain, &inside, &outside);
    }
    both_places(
        &exclude(vec![host()]),
        &dns("a.hospital.example"),
        &dns("a.clinic.example"),
    );
    both_places(&exclude(vec![v4()]), &ip("192.0.3.9"), &ip("192.0.2.9"));
}

fn both_places(
    constrain: &dyn Fn(&mut CertificateParams),
    inside: &rcgen::SanType,
    outside: &rcgen::SanType,
) {
    let constrained = Authority::root("Constrained", constrain);
    let free = Authority::root("Free", nothing);
    let middle = free.below("Constrained middle", constrain);
    let places = [
        (&constrained, constrained.trust(), vec![]),
        (&middle, free.trust(), vec![&middle]),
    ];
    for (issuer, trust, others) in &places {
        let leaf = |san: &rcgen::SanType| issuer.issue("gw", vec![san.clone()], nothing);
        verify(trust, &leaf(inside), others).unwrap();
        let error = verify(trust, &leaf(outside), others).unwrap_err();
        assert!(error.to_string().contains("name constraints"), "{error}");
    }
}

#[test]
fn names_keep_to_constraints_on_directory_names_and_mailboxes_of_the_authority() {
    let mut clinics = rcgen::DistinguishedName::new();
    clinics.push(DnType::OrganizationName, "lab");
    let mut others = rcgen::DistinguishedName::new();
    others.push(DnType::OrganizationName, "Elsewhere");
    let directory = GeneralSubtree::DirectoryName;
    let refused = |trust: TrustAnchors, leaf: &Leaf, middle: &[&Authority]| {
        let error = verify(&trust, leaf, middle).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("outside an authority's name constraints"),
            "{error}"
        );
    };
    let good = |constrain: &dyn Fn(&mut CertificateParams), good: bool| {
        let root = Authority::root("Root", constrain);
        let middle = root.below("Middle", nothing);
        for (issuer, others) in [(&root, vec![]), (&middle, vec![&middle])] {
            let leaf = issuer.issue("gw", vec![dns("gw.lab.test"), email("gw@lab.test")], nothing);
            match good {
                true => drop(verify(&root.trust(), &leaf, &others).unwrap()),
                false => refused(root.trust(), &leaf, &others),
            }
        }
    };
    good(&permit(vec![directory(clinics.clone())]), true);
    good(
        &permit(vec![directory(others.clone()), directory(clinics.clone())]),
        true,
    );
    good(&permit(vec![directory(others.clone())]), false);
    good(&exclude(vec![directory(others)]), true);
    good(&exclude(vec![directory(clinics.clone())]), false);
    good(
        &permit(vec![GeneralSubtree::Rfc822Name("lab.test".to_owned())]),
        true,
    );
    good(
        &permit(vec![GeneralSubtree::Rfc822Name(".lab.test".to_owned())]),
        false,
    );
    good(
        &exclude(vec![GeneralSubtree::Rfc822Name("gw@lab.test".to_owned())]),
        false,
    );
    // With another form beside it, each keeps its meaning.
    let both = vec![
        directory(clinics.clone()),
        GeneralSubtree::DnsName("lab.test".to_owned()),
    ];
    good(&permit(both), true);
    good(
        &permit(vec![
            directory(clinics),
            GeneralSubtree::DnsName("else.test".to_owned()),
        ]),
        false,
    );
}

/// An intermediate's constraints of these two forms cannot be evaluated: refused, with the way out.
#[test]
fn an_intermediate_that_constrains_directory_names_is_refused_until_it_is_an_authority_itself() {
    let root = Authority::root("Root", nothing);
    let middle = root.below("Middle", permit(vec![GeneralSubtree::DirectoryName(name("gw"))]));
    let leaf = middle.issue("gw", Vec::new(), nothing);
    let error = verify(&root.trust(), &leaf, &[&middle]).unwrap_err();
    assert!(error.to_string().contains("add it there"), "{error}");
    assert!(verify(&middle.trust(), &leaf, &[]).is_ok());
    let outside = middle.issue("other", Vec::new(), nothing);
    assert!(verify(&middle.trust(), &outside, &[]).is_err());
}

/// RFC 5280 section 4.2: a critical extension that is not understood.
#[test]
fn an_unknown_critical_extension_is_a_reason_to_refuse() {
    let root = Authority::root("Root", nothing);
    for critical in [false, true] {
        let add = |params: &mut CertificateParams| {
            let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
            extension.set_criticality(critical);
            params.custom_extensions = vec![extension];
        };
        let leaf = root.issue("gw", Vec::new(), add);
        assert_eq!(verify(&root.trust(), &leaf, &[]).is_ok(), !critical);
        let middle = root.below("Middle", add);
        let leaf = middle.issue("gw", Vec::new(), nothing);
        assert_eq!(verify(&root.trust(), &leaf, &[&middle]).is_ok(), !critical);
    }
}

/// RFC 4945 section 5.1.3.12.
#[test]
fn extended_key_usages_that_fit_ike() {
    let root = Authority::root("Root", nothing);
    let ike = ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17]);
    for (purpose, good) in [
        (ike, true),
        (ExtendedKeyUsagePurpose::Any, true),
        (ExtendedKeyUsagePurpose::ServerAuth, true),
        (ExtendedKeyUsagePurpose::ClientAuth, true),
        (ExtendedKeyUsagePurpose::EmailProtection, false),
        (ExtendedKeyUsagePurpose::TimeStamping, false),
        (ExtendedKeyUsagePurpose::OcspSigning, false),
    ] {
        let set = |params: &mut CertificateParams| params.extended_key_usages = vec![purpose.clone()];
        let leaf = root.issue("gw", Vec::new(), set);
        assert_eq!(verify(&root.trust(), &leaf, &[]).is_ok(), good, "{purpose:?}");
        let middle = root.below("Middle", set);
        let leaf = middle.issue("gw", Vec::new(), nothing);
        assert_eq!(
            verify(&root.trust(), &leaf, &[&middle]).is_ok(),
            good,
            "intermediate, {purpose:?}"
        );
    }
}

/// A peer cannot make path building dear: of one name it may send two certificates, and what it sends is not trusted for
/// being many. Regression: eight that had issued each other were tried in each of 29,000 orders.
#[test]
fn a_web_of_intermediates_is_refused_before_its_orders_are_tried() {
    let root = Authority::root("Root", nothing);
    let mut web = vec![Authority::root("Web", nothing)];
    while web.len() < 8 {
        let next = web[web.len() - 1].below("Web", nothing);
        web.push(next);
    }
    let leaf = web[7].issue("gw", Vec::new(), nothing);
    let refusal = |others: &[&Authority]| verify(&root.trust(), &leaf, others).unwrap_err();
    let of_name = |error: &ChainError| matches!(error, ChainError::SameSubject { subject } if subject == "O=Lab, CN=Web");
    let all: Vec<_> = web.iter().collect();
    assert!(of_name(&refusal(&all)));
    assert!(of_name(&refusal(&[&web[5], &web[6], &web[7]])));
    let error = refusal(&[&web[6], &web[7]]);
    assert!(matches!(error, ChainError::UnknownIssuer { .. }), "{error}");
}

/// Path building compares names by their encoding, and so does the reason: it names the certificate that is not there.
/// Regression: it compared them as people read them, which took long where a stranger made them for that, and named another.
#[test]
fn a_name_in_another_encoding_is_another_name() {
    let spelt = |value: rcgen::DnValue| {
        move |params: &mut CertificateParams| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, value);
        }
    };
    let root = Authority::root("Root", nothing);
    let middle = root.below("Middle", spelt(rcgen::DnValue::Utf8String("Middle".into())));
    let leaf = middle.issue("gw", Vec::new(), nothing);
    let same = root.below(
        "Middle",
        spelt(rcgen::DnValue::PrintableString("Middle".try_into().unwrap())),
    );
    verify(&root.trust(), &leaf, &[&middle]).unwrap();
    let error = verify(&root.trust(), &leaf, &[&same]).unwrap_err();
    assert!(
        matches!(error, ChainError::UnknownIssuer { ref issuer, .. } if issuer == "CN=Middle"),
        "{error}"
    );
}

/// The certificate of an authority and the one that follows it may both come along, as often as the peer likes.
#[test]
fn an_authority_may_have_two_certificates() {
    let root = Authority::root("Root", nothing);
    let (old, new) = (root.below("Middle", nothing), root.below("Middle", nothing));
    for issuer in [&old, &new] {
        let leaf = issuer.issue("gw", Vec::new(), nothing);
        verify(&root.trust(), &leaf, &[&old, &new, &old, &new, &old]).unwrap();
    }
}

/// The words of a refusal say what the certificate would prove.
#[test]
fn a_certificate_lists_its_identities() {
    let root = Authority::root("Root", nothing);
    let names = vec![
        dns("gw.lab.test"),
        email("gw@lab.test"),
        ip("192.0.2.1"),
        ip("2001:db8::1"),
    ];
    let leaf = root.issue("gw", names, nothing);
    let peer = verify(&root.trust(), &leaf, &[]).unwrap();
    let listed: Vec<_> = peer
        .certificate()
        .identities()
        .map(|one| one.to_string())
        .collect();
    assert_eq!(
        listed,
        [
            "gw.lab.test",
            "gw@lab.test",
            "192.0.2.1",
            "2001:db8::1",
            "O=Lab, CN=gw"
        ]
    );
    assert!(peer.certificate().identities().all(|one| peer.proves(&one)));
    assert!(!peer.proves(&Identity::KeyId(b"gw".to_vec())));
}
