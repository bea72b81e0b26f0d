//! Which revocation lists may take the place of those in force.

use super::revocation::*;
use super::*;

/// A list that is older than the one before, and still in date, has not all that are revoked; somebody else's list in the
/// place of an issuer's has none of them.
#[test]
fn what_is_revoked_is_not_forgotten() {
    let root = Authority::root("Root", nothing);
    let middle = root.below("Middle", nothing);
    let of = |given: &[rcgen::CertificateRevocationList]| trust(&root, given, RevocationPolicy::WhereListed);
    let before = of(&[root.crl(&[], 3, false), middle.crl(&[], 3, true)]);
    let all = |given: &[rcgen::CertificateRevocationList]| {
        let outcome = of(given).knows_what_was_known_to(&before, NOW);
        outcome.map_err(|error| error.to_string())
    };
    let (same, newer) = (root.crl(&[], 3, false), middle.crl(&[], 4, false));
    assert_eq!(all(&[same, newer]), Ok(()));
    // The old one may stand beside the new one.
    let (old, new) = (root.crl(&[], 2, false), root.crl(&[], 5, false));
    assert_eq!(all(&[old, new, middle.crl(&[], 3, false)]), Ok(()));
    let older = all(&[root.crl(&[], 2, false), middle.crl(&[], 4, false)]).unwrap_err();
    assert!(
        older.contains("O=Lab, CN=Root") && older.contains("older"),
        "{older}"
    );
    let gone = all(&[root.crl(&[], 3, false)]).unwrap_err();
    assert!(gone.contains("O=Lab, CN=Middle"), "{gone}");
    // Of other authorities other lists.
    let other = Authority::root("Other", nothing);
    let mut replaced = other.trust();
    replaced.set_revocation(lists(&[other.crl(&[], 1, false)]), RevocationPolicy::WhereListed);
    assert!(replaced.knows_what_was_known_to(&before, NOW).is_ok());
    // Of the first time nothing is known.
    assert!(before.knows_what_was_known_to(&root.trust(), NOW).is_ok());
}

/// Regression: what was wrong with the list of one issuer kept those of all others from being followed.
#[test]
fn a_list_that_cannot_be_taken_leaves_those_of_others_alone() {
    let root = Authority::root("Root", nothing);
    let (middle, other) = (root.below("Middle", nothing), root.below("Other", nothing));
    let leaf = root.issue("gw", Vec::new(), nothing);
    let (of_middle, of_other) = (
        middle.issue("a", Vec::new(), nothing),
        other.issue("b", Vec::new(), nothing),
    );
    let of = |given: &[rcgen::CertificateRevocationList]| trust(&root, given, RevocationPolicy::WhereListed);
    let before = of(&[
        root.crl(&[], 3, false),
        middle.crl(&[&of_middle.serial], 3, false),
        other.crl(&[&of_other.serial], 3, false),
    ]);
    let impostor = Authority::root("Root", nothing);
    // One that is older, one that is gone; and what is new of the root, beside what is not its own.
    let mut now = of(&[
        impostor.crl(&[], 9, false),
        root.crl(&[&leaf.serial], 4, false),
        middle.crl(&[], 2, false),
    ]);
    let faults = now.keep_what_was_known_to(&before, NOW);
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    let told = |issuer: &str| faults.iter().filter(|fault| fault.contains(issuer)).count();
    assert_eq!(
        (faults.len(), told("CN=Root"), told("CN=Middle"), told("CN=Other")),
        (3, 1, 1, 1),
        "{faults:?}"
    );
    for (leaf, chain) in [
        (&leaf, None),
        (&of_middle, Some(&middle)),
        (&of_other, Some(&other)),
    ] {
        let chain: Vec<_> = chain.into_iter().collect();
        let error = verify(&now, leaf, &chain).unwrap_err();
        assert!(matches!(error, ChainError::Revoked { .. }), "{error}");
    }
    // Once all is right, all is followed.
    let mut then = of(&[
        root.crl(&[], 5, false),
        middle.crl(&[], 5, false),
        other.crl(&[], 5, false),
    ]);
    assert_eq!(then.keep_what_was_known_to(&now, NOW), []);
    assert_eq!(then.revocation_lists().len(), 3);
    assert!(verify(&then, &of_middle, &[&middle]).is_ok());
}

/// Regression: with any change of the authorities, another one beside them or one that was issued again, lists that were gone
/// were no fault any more, and who was on them was accepted.
#[test]
fn a_list_is_missed_as_long_as_its_authority_is_there() {
    let root = Authority::root("Root", nothing);
    let middle = root.below("Middle", nothing);
    let (other, new_key) = (
        Authority::root("Other", nothing),
        Authority::root("Root", nothing),
    );
    let again = root.again(after_now_s(1000));
    let of_middle = middle.issue("gw", Vec::new(), nothing);
    let of = |authorities: &[&Authority], given: &[&Authority]| {
        let given: Vec<_> = given.iter().map(|one| one.crl(&[], 3, false)).collect();
        with_lists(trust_in(authorities), &given.iter().collect::<Vec<_>>())
    };
    for a_chain_came in [false, true] {
        let before = of(&[&root, &other], &[&root, &middle, &other]);
        if a_chain_came {
            verify(&before, &of_middle, &[&middle]).unwrap();
        }
        let all = [&root, &middle, &other];
        for (authorities, given, missing) in [
            // Another one beside them.
            (&[&root, &other, &new_key][..], &all[..], &[][..]),
            (
                &[&root, &other, &new_key],
                &all[1..],
                &["no revocation list of O=Lab, CN=Root any more"],
            ),
            (
                &[&root, &other, &new_key],
                &[&new_key, &middle, &other],
                &["of O=Lab, CN=Root none is signed by the key"],
            ),
            (
                &[&root, &other, &new_key],
                &[&root, &other],
                &["no revocation list of O=Lab, CN=Middle any more"],
            ),
            // One that was issued again, with the same key.
            (
                &[&again, &other],
                &[&other],
                &["CN=Root any more", "CN=Middle any more"],
            ),
            (&[&again, &other], &all, &[]),
            // Of one that is taken away there need be none; intermediates may have been below it.
            (&[&root], &[&root, &middle], &[]),
            (&[&root], &[&root], &[]),
            (&[&root], &[&middle], &["CN=Root any more"]),
            (&[&new_key, &other], &[&new_key, &other], &[]),
            (&[&new_key, &other], &[&new_key], &["CN=Other any more"]),
        ] {
            let mut now = of(authorities, given);
            let outcome = now.knows_what_was_known_to(&before, NOW);
            let faults = now.keep_what_was_known_to(&before, NOW);
            let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
            assert_eq!(
                outcome.err().as_ref().map(ToString::to_string),
                told.first().cloned()
            );
            assert_eq!(told.len(), missing.len(), "{told:?}");
            for words in missing {
                assert!(
                    told.iter().any(|fault| fault.contains(words)),
                    "{words}: {told:?}"
                );
            }
            assert_eq!(now.revocation_lists().len(), given.len() + missing.len());
        }
    }
}

/// Where the only list of an issuer lets nobody in, as nobody signed it or it is of a time to come, its file must not become
/// unreadable and let all in.
#[test]
fn whose_file_cannot_be_read_is_not_taken_for_one_without_a_list() {
    let (root, other) = (
        Authority::root("Root", nothing),
        Authority::root("Other", nothing),
    );
    let leaf = root.issue("gw", Vec::new(), nothing);
    let of = |given: &[&rcgen::CertificateRevocationList]| with_lists(both(&root, &other), given);
    let of_other = [3, 4].map(|month| other.crl(&[], month, false));
    let impostor = Authority::root("Root", nothing);
    for of_root in [impostor.crl(&[], 3, false), root.crl_after_now_s(&[], 86_400)] {
        let before = of(&[&of_root, &of_other[0]]);
        let mut now = of(&[&of_other[1]]);
        assert_eq!(now.keep_what_was_known_to(&before, NOW), []);
        verify(&now, &leaf, &[]).expect("this is what it is for");
        now.keep_lists_without_successor(&before);
        let error = verify(&now, &leaf, &[]).unwrap_err();
        assert!(matches!(error, ChainError::RevocationUnknown { .. }), "{error}");
        assert_eq!(now.revocation_lists().len(), 2);
    }
}

/// Regression: beside another list of its issuer, the list of an unreadable file was forgotten.
#[test]
fn whose_file_cannot_be_read_is_missed_beside_other_lists_of_its_issuer() {
    let root = Authority::root("Root", nothing);
    let leaf = root.issue("gw", Vec::new(), nothing);
    let part = rcgen::CrlIssuingDistributionPoint {
        distribution_point: point("http://lab.test/1.crl"),
        scope: None,
    };
    let whole = root.crl(&[], 2, false);
    let part = root.crl_of(&[&leaf.serial], 3, false, Some(part));
    let before = with_lists(root.trust(), &[&whole, &part]);
    let mut now = with_lists(root.trust(), &[&whole]);
    now.keep_what_was_known_to(&before, NOW);
    now.keep_lists_without_successor(&before);
    assert!(matches!(
        verify(&now, &leaf, &[]),
        Err(ChainError::Revoked { .. })
    ));
    assert_eq!(now.revocation_lists().len(), 2, "each once");

    // Of two keys of one name.
    let other = Authority::root("Root", nothing);
    let trust = || both(&root, &other);
    let (first, second) = (root.crl(&[], 2, false), other.crl(&[], 3, false));
    let before = with_lists(trust(), &[&first, &second]);
    let mut now = with_lists(trust(), &[&second]);
    now.keep_lists_without_successor(&before);
    verify(&now, &leaf, &[]).expect("the list of its key is there still");
    // What was of an authority that is gone goes with it.
    let mut now = with_lists(other.trust(), &[&second]);
    now.keep_lists_without_successor(&before);
    assert_eq!(now.revocation_lists().len(), 1);
}

/// Regression: a list was held against every later one of its name, of another key too, and whoever signed it.
#[test]
fn lists_follow_those_of_the_same_key() {
    let (old, new) = (Authority::root("Root", nothing), Authority::root("Root", nothing));
    let impostor = Authority::root("Root", nothing);
    let of = |given: &[&rcgen::CertificateRevocationList]| with_lists(both(&old, &new), given);
    let outcome = |given: &[&rcgen::CertificateRevocationList], before: &TrustAnchors| {
        let outcome = of(given).knows_what_was_known_to(before, NOW);
        outcome.map_err(|error| error.to_string())
    };
    let (at_2, at_4, at_6) = (
        old.crl(&[], 2, false),
        old.crl(&[], 4, false),
        old.crl(&[], 6, false),
    );
    let (new_at_1, new_at_3) = (new.crl(&[], 1, false), new.crl(&[], 3, false));
    let forged = impostor.crl(&[], 5, false);
    let before = of(&[&at_4, &new_at_1]);
    for good in [
        &[&at_4, &new_at_1][..],
        &[&at_6, &new_at_3],
        &[&at_4, &new_at_3, &at_2],
    ] {
        assert_eq!(outcome(good, &before), Ok(()));
    }
    // An older one of its key, whatever there is of the other.
    let older = outcome(&[&at_2, &new_at_3], &before).unwrap_err();
    assert!(older.contains("older"), "{older}");
    // None of its key; of another, or of nobody's.
    for bad in [&[&at_6][..], &[&new_at_3], &[&forged], &[&at_4, &forged]] {
        let gone = outcome(bad, &before).unwrap_err();
        assert!(gone.contains("O=Lab, CN=Root") && gone.contains("key"), "{gone}");
    }
    // What nobody signed is held against none.
    assert_eq!(outcome(&[&at_2, &new_at_1], &of(&[&forged])), Ok(()));
}

/// Keys of intermediates are known by chains that came: their new ones are too.
#[test]
fn an_intermediate_may_take_a_new_key() {
    let root = Authority::root("Root", nothing);
    let (old, new) = (root.below("Middle", nothing), root.below("Middle", nothing));
    let impostor = Authority::root("Middle", nothing);
    let of = |list: &rcgen::CertificateRevocationList| with_lists(root.trust(), &[list]);
    let (of_old, of_new) = (
        old.issue("old", Vec::new(), nothing),
        new.issue("new", Vec::new(), nothing),
    );
    let before = of(&old.crl(&[], 3, false));
    let outcome = |list: &rcgen::CertificateRevocationList| {
        let outcome = of(list).knows_what_was_known_to(&before, NOW);
        outcome.map_err(|error| error.to_string())
    };
    let (forged, of_new_key) = (impostor.crl(&[], 4, false), new.crl(&[], 2, false));
    // Nobody came: there is the name alone.
    assert_eq!(outcome(&forged), Ok(()));
    assert!(outcome(&of_new_key).unwrap_err().contains("older"));
    verify(&before, &of_old, &[&old]).unwrap();
    assert!(
        outcome(&forged)
            .unwrap_err()
            .contains("none is signed by the key")
    );
    assert!(
        outcome(&of_new_key)
            .unwrap_err()
            .contains("none is signed by the key")
    );
    let error = verify(&before, &of_new, &[&new]).unwrap_err();
    assert!(matches!(error, ChainError::RevocationUnknown { .. }), "{error}");
    assert_eq!(outcome(&of_new_key), Ok(()));
    assert!(
        outcome(&forged)
            .unwrap_err()
            .contains("none is signed by the key")
    );
    // What turned out to be nobody's keeps none out.
    let before = of(&forged);
    assert!(verify(&before, &of_old, &[&old]).is_err());
    let own = of(&old.crl(&[], 2, false));
    assert_eq!(own.knows_what_was_known_to(&before, NOW), Ok(()));
    verify(&own, &of_old, &[&old]).unwrap();
}

/// A list of a time to come takes the place of none until then: that of the present decides. Where there is none, nothing is
/// known, but that what it lists is revoked. Regression: it was in force at once, and for its date all later ones were
/// refused.
#[test]
fn a_list_of_a_time_to_come_waits_for_it() {
    const AHEAD_S: u64 = 86_400;
    let root = Authority::root("Root", nothing);
    let (leaf, listed) = (
        root.issue("gw", Vec::new(), nothing),
        root.issue("gw", Vec::new(), nothing),
    );
    let of = |given: &[&rcgen::CertificateRevocationList]| with_lists(root.trust(), given);
    let at = |trust: &TrustAnchors, leaf: &Leaf, unix_s| {
        trust
            .verify_chain(&leaf.der(), &[], unix_s)
            .map_err(|error| match error {
                ChainError::Revoked { .. } => "revoked",
                ChainError::RevocationUnknown { .. } => "unknown",
                other => panic!("{other}"),
            })
    };
    let (current, newer) = (root.crl(&[&listed.serial], 3, false), root.crl(&[], 4, false));
    let to_come = root.crl_after_now_s(&[&leaf.serial], AHEAD_S);
    let within_tolerance = root.crl_after_now_s(&[&leaf.serial], 200);
    let trust = of(&[&current, &to_come]);
    at(&trust, &leaf, NOW).unwrap();
    assert_eq!(at(&trust, &listed, NOW).unwrap_err(), "revoked");
    assert_eq!(at(&trust, &leaf, NOW + AHEAD_S).unwrap_err(), "revoked");
    at(&trust, &listed, NOW + AHEAD_S).unwrap();
    assert_eq!(
        at(&of(&[&current, &within_tolerance]), &leaf, NOW).unwrap_err(),
        "revoked"
    );
    let alone = of(&[&to_come]);
    assert_eq!(at(&alone, &leaf, NOW).unwrap_err(), "revoked");
    assert_eq!(at(&alone, &listed, NOW).unwrap_err(), "unknown");

    // It takes the place of none, of no absence either; at its time it does.
    let outcome = |next: &TrustAnchors, before: &TrustAnchors, unix_s| {
        let outcome = next.knows_what_was_known_to(before, unix_s);
        outcome.map_err(|error| error.to_string())
    };
    for before in [of(&[&current]), of(&[])] {
        let refused = outcome(&alone, &before, NOW).unwrap_err();
        assert!(
            refused.starts_with(
                "the revocation list of O=Lab, CN=Root is not valid before 2027-01-02 00:00:00 UTC"
            ),
            "{refused}"
        );
        assert_eq!(outcome(&alone, &before, NOW + AHEAD_S), Ok(()));
        assert_eq!(outcome(&trust, &before, NOW), Ok(()));
    }
    // One that was there at the start keeps none out.
    for next in [&alone, &of(&[&newer])] {
        assert_eq!(outcome(next, &alone, NOW), Ok(()));
    }
    assert!(
        outcome(&of(&[&newer]), &alone, NOW + AHEAD_S)
            .unwrap_err()
            .contains("older")
    );
}

/// Regression: a newer list of a part of the certificates was taken in the place of the whole one, and who was on that alone was
/// accepted.
#[test]
fn a_list_of_a_part_takes_the_place_of_no_whole_one() {
    let root = Authority::root("Root", nothing);
    let leaf = root.issue("gw", Vec::new(), nothing);
    let part = |uri, revoked: &[&rcgen::SerialNumber], month| {
        let point = rcgen::CrlIssuingDistributionPoint {
            distribution_point: point(uri),
            scope: None,
        };
        root.crl_of(revoked, month, false, Some(point))
    };
    let of = |given: &[&rcgen::CertificateRevocationList]| with_lists(root.trust(), given);
    let (whole, newer) = (
        root.crl(&[&leaf.serial], 2, false),
        root.crl(&[&leaf.serial], 4, false),
    );
    let (one, other) = (
        part("http://lab.test/1.crl", &[], 3),
        part("http://lab.test/2.crl", &[], 3),
    );
    for (before, now, is_fault) in [
        (&[&whole][..], &[&one][..], true),
        (&[&one], &[&other], true),
        (&[&one, &other], &[&one], true),
        (&[&whole, &one], &[&one], true),
        (&[&whole], &[&newer, &one], false),
        // The whole list has all that is on those of parts, unless it is older.
        (&[&one, &other], &[&newer], false),
        (&[&whole, &one], &[&whole], true),
    ] {
        let before = of(before);
        let mut now = of(now);
        assert_eq!(now.knows_what_was_known_to(&before, NOW).is_err(), is_fault);
        assert_eq!(now.keep_what_was_known_to(&before, NOW).is_empty(), !is_fault);
    }
}
