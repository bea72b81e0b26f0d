//! How long an authentication holds: until a certificate of the chain expires or is revoked.

mod common;
mod issue;
mod peers;

use common::*;
use gateway_ike::{
    CloseReason, Command, Endpoint, EndpointConfig, Event, Output, Time,
    pki::{
        revocation::{RevocationList, RevocationPolicy},
        trust::{ChainError, TrustAnchors},
    },
};
use issue::{Authority, after_now_s, dns, nothing};
use peers::*;

mod validity {
    use super::*;

    fn site_of(root: &Authority, lives_s: u64) -> (EndpointConfig, EndpointConfig) {
        let leaf = root.issue("site1", vec![dns("site1.lab.test")], after_now_s(lives_s));
        let (mut site, mut center) = with_certificates(root, &leaf);
        // Several rekeyings before the certificate expires.
        (site.ike_lifetime_s, center.ike_lifetime_s) = (60, 55);
        (site, center)
    }

    #[test]
    fn the_ike_sa_ends_with_the_certificate_however_often_it_was_rekeyed() {
        let root = Authority::root("Root", nothing);
        let (site, center) = site_of(&root, 300);
        let mut sim = connected(site, center, 1);
        sim.run_ms(298_000);
        let rekeyed = sim.events[CENTER]
            .iter()
            .filter(|one| matches!(one, Event::IkeSaRekeyed { .. }))
            .count();
        assert!(rekeyed >= 4, "{rekeyed}");
        assert_eq!(close_reason(&sim, CENTER), None);
        assert!(!sim.planes[CENTER].children.is_empty());
        sim.run_ms(3_000);
        let expired = CloseReason::CertificateExpired {
            subject: "O=Lab, CN=site1".to_owned(),
            not_after_unix_s: i64::try_from(UNIX_S + 300).unwrap(),
        };
        assert_eq!(close_reason(&sim, CENTER), Some(&expired));
        assert_eq!(
            expired.to_string(),
            "the certificate of O=Lab, CN=site1 expired on 2027-01-01 00:05:00 UTC"
        );
        assert_eq!(close_reason(&sim, SITE), Some(&CloseReason::DeletedByPeer));
        sim.run_ms(20_000);
        for side in [SITE, CENTER] {
            assert!(sim.planes[side].children.is_empty());
        }
        sim.initiate();
        sim.run_ms(500);
        assert!(reason(&sim, CENTER).contains("expired"));
    }

    #[test]
    fn the_initiator_too_ends_it_when_the_responders_certificate_expires() {
        let root = Authority::root("Root", nothing);
        let (mut site, mut center) = site_of(&root, 100_000);
        center.credential = root
            .issue("gw", vec![dns("gw.lab.test")], after_now_s(100))
            .credential(&[]);
        site.dpd_after_s = 1_000;
        let mut sim = connected(site, center, 1);
        sim.run_ms(102_000);
        assert!(
            matches!(close_reason(&sim, SITE), Some(CloseReason::CertificateExpired { subject, .. }) if subject == "O=Lab, CN=gw")
        );
    }

    /// An authority's end is the end of all below it.
    #[test]
    fn the_first_certificate_of_the_chain_counts() {
        let root = Authority::root("Root", nothing);
        let middle = root.below("Middle", after_now_s(100));
        let leaf = middle.issue("site1", vec![dns("site1.lab.test")], nothing);
        let (mut site, center) = with_certificates(&root, &leaf);
        site.credential = leaf.credential(&[&middle]);
        let mut sim = connected(site, center, 1);
        let info = details(&sim, CENTER).certificate.unwrap();
        assert_eq!(
            info.chain_valid_until_unix_s,
            i64::try_from(UNIX_S + 100).unwrap()
        );
        assert_eq!(
            (info.subject.as_str(), info.authority.as_str()),
            ("O=Lab, CN=site1", "O=Lab, CN=Root")
        );
        sim.run_ms(102_000);
        assert!(
            matches!(close_reason(&sim, CENTER), Some(CloseReason::CertificateExpired { subject, .. }) if subject == "O=Lab, CN=Middle")
        );
    }

    /// The wall clock decides. Set back, the SA lives on; set forward, it ends with the next look.
    #[test]
    fn a_clock_that_is_set_moves_the_end() {
        let root = Authority::root("Root", nothing);
        for (correction_s, ends) in [(-1_000i64, false), (1_000, true)] {
            let (mut site, mut center) = site_of(&root, 300);
            (site.ike_lifetime_s, center.ike_lifetime_s) = (100_000, 100_000);
            let mut sim = connected(site, center, 1);
            sim.run_ms(40_000);
            let now = sim.now();
            let unix_s = now.unix_s.checked_add_signed(correction_s).unwrap();
            let mono_ms = now.mono_ms + if ends { 30_000 } else { 300_000 };
            sim.endpoints[CENTER].handle_timeout(Time { mono_ms, unix_s });
            sim.drain(CENTER);
            let states: Vec<_> = sim.endpoints[CENTER].ike_sas().map(|info| info.state).collect();
            assert_eq!(states == ["closing"], ends, "{states:?}");
            assert_eq!(sim.planes[CENTER].children.is_empty(), ends);
        }
    }

    fn set_trust(sim: &mut Sim, trust: TrustAnchors) {
        let now = sim.now();
        sim.endpoints[CENTER].set_trust(now, trust);
        sim.run_ms(500);
    }

    #[test]
    fn a_certificate_that_is_revoked_ends_its_running_sa() {
        let root = Authority::root("Root", nothing);
        let leaf = root.issue("site1", vec![dns("site1.lab.test")], nothing);
        let (site, center) = with_certificates(&root, &leaf);
        let mut sim = connected(site, center, 1);
        let list = |revoked: &[&rcgen::SerialNumber], expired| {
            let mut trust = root.trust();
            trust
                .set_crls(root.crl(revoked, 1, expired).der(), RevocationPolicy::Always)
                .unwrap();
            trust
        };
        // An innocent list, and one that nobody renewed: what runs goes on.
        set_trust(&mut sim, list(&[], false));
        set_trust(&mut sim, list(&[], true));
        assert_eq!(close_reason(&sim, CENTER), None);
        set_trust(&mut sim, list(&[&leaf.serial], false));
        let words = close_reason(&sim, CENTER).unwrap().to_string();
        assert!(
            words.starts_with("its certificate is not accepted any more: the certificate of O=Lab, CN=site1"),
            "{words}"
        );
        assert!(
            words.contains("is revoked by its issuer O=Lab, CN=Root"),
            "{words}"
        );
        assert_eq!(close_reason(&sim, SITE), Some(&CloseReason::DeletedByPeer));
        sim.initiate();
        sim.run_ms(500);
        assert!(reason(&sim, CENTER).contains("is revoked"));
    }

    /// Regression: the certificate of a stolen router was revoked, and its IKE SA went on because a list was out of date, that
    /// of the root, which comes once a year, or the very one that it is on.
    #[test]
    fn a_list_that_nobody_renewed_does_not_keep_a_revoked_peer() {
        let root = Authority::root("Root", nothing);
        let middle = root.below("Middle", nothing);
        let leaf = middle.issue("site1", vec![dns("site1.lab.test")], nothing);
        let listed = [&leaf.serial];
        let innocent = || [root.crl(&[], 1, true), middle.crl(&[], 1, false)];
        for (lists, ends) in [
            (innocent(), false),
            ([root.crl(&[], 1, true), middle.crl(&listed, 2, false)], true),
            ([root.crl(&[], 1, false), middle.crl(&listed, 2, true)], true),
            // A newer one that does not have it any more.
            ([middle.crl(&listed, 2, false), middle.crl(&[], 3, true)], false),
        ] {
            for policy in [RevocationPolicy::WhereListed, RevocationPolicy::Always] {
                let (mut site, center) = with_certificates(&root, &leaf);
                site.credential = leaf.credential(&[&middle]);
                let mut sim = connected(site, center, 1);
                let mut trust = root.trust();
                let lists = lists.iter().map(|list| list.der());
                let read = lists.flat_map(|der| RevocationList::read_file(der).expect("a list"));
                trust.set_revocation(read.collect(), policy);
                set_trust(&mut sim, trust);
                let words = close_reason(&sim, CENTER).map(ToString::to_string);
                assert_eq!(words.is_some(), ends, "{policy:?} {words:?}");
                if let Some(words) = words {
                    assert!(
                        words.contains("is revoked by its issuer O=Lab, CN=Middle"),
                        "{words}"
                    );
                }
            }
        }
    }

    /// Regression: a list that its issuer did not sign, a damaged one or somebody else's, was measured by like any other: it
    /// closed every IKE SA of the issuer, and with a later date it kept the issuer's own lists out until a restart.
    #[test]
    fn a_list_that_its_issuer_did_not_sign_ends_nothing_and_keeps_no_list_out() {
        let root = Authority::root("Root", nothing);
        let impostor = Authority::root("Root", nothing);
        let leaf = root.issue("site1", vec![dns("site1.lab.test")], nothing);
        for policy in [RevocationPolicy::WhereListed, RevocationPolicy::Always] {
            let list = |list: rcgen::CertificateRevocationList| {
                let mut trust = root.trust();
                trust.set_revocation(RevocationList::read_file(list.der()).expect("a list"), policy);
                trust
            };
            let (site, center) = with_certificates(&root, &leaf);
            let mut sim = connected(site, center, 1);
            set_trust(&mut sim, list(root.crl(&[], 1, false)));
            set_trust(&mut sim, list(impostor.crl(&[], 5, false)));
            assert_eq!(close_reason(&sim, CENTER), None, "{policy:?}");
            // Nobody new comes in, as nothing is known of who is revoked.
            let error = sim.endpoints[CENTER]
                .trust()
                .verify_chain(&leaf.der(), &[], UNIX_S);
            assert!(
                matches!(error, Err(ChainError::RevocationUnknown { .. })),
                "{error:?}"
            );
            // The issuer's own, from before the impostor's, is taken and has its effect.
            let own = list(root.crl(&[&leaf.serial], 3, false));
            let before = sim.endpoints[CENTER].trust();
            assert_eq!(own.knows_what_was_known_to(before, UNIX_S), Ok(()));
            set_trust(&mut sim, own);
            let words = close_reason(&sim, CENTER).unwrap().to_string();
            assert!(
                words.contains("is revoked by its issuer O=Lab, CN=Root"),
                "{words}"
            );
        }
    }

    /// A list that was dated ahead and waited has its effect on what stands, too, once its time has come.
    #[test]
    fn a_list_whose_time_comes_ends_what_it_lists() {
        let root = Authority::root("Root", nothing);
        let leaf = root.issue("site1", vec![dns("site1.lab.test")], nothing);
        let pem = |list: &rcgen::CertificateRevocationList| list.pem().unwrap();
        let lists = pem(&root.crl(&[], 3, false)) + &pem(&root.crl_after_now_s(&[&leaf.serial], 1_000));
        let both = || {
            let mut trust = root.trust();
            trust
                .set_crls(lists.as_bytes(), RevocationPolicy::Always)
                .unwrap();
            trust
        };
        for from_the_start in [true, false] {
            let (site, mut center) = with_certificates(&root, &leaf);
            if from_the_start {
                center.trust = both();
            }
            let mut sim = connected(site, center, 1);
            if !from_the_start {
                set_trust(&mut sim, both());
            }
            // Five minutes of tolerance before its date.
            sim.run_ms(690_000);
            assert_eq!(close_reason(&sim, CENTER), None);
            sim.run_ms(11_000);
            let words = close_reason(&sim, CENTER).unwrap().to_string();
            assert!(words.contains("is revoked by its issuer"), "{words}");
        }
    }

    #[test]
    fn an_authority_that_is_taken_away_ends_what_it_vouched_for() {
        let root = Authority::root("Root", nothing);
        let leaf = root.issue("site1", vec![dns("site1.lab.test")], nothing);
        let (site, center) = with_certificates(&root, &leaf);
        let mut sim = connected(site, center, 1);
        let other = Authority::root("Other", nothing);
        set_trust(&mut sim, other.trust());
        assert!(matches!(
            close_reason(&sim, CENTER),
            Some(CloseReason::CertificateRefused(_))
        ));
    }

    #[test]
    fn a_renewed_authority_prolongs_what_it_limited() {
        let dying = Authority::root("Root", after_now_s(100));
        let leaf = dying.issue("site1", vec![dns("site1.lab.test")], nothing);
        let (site, center) = with_certificates(&dying, &leaf);
        let mut sim = connected(site, center, 1);
        let mut params = dying.params.clone();
        after_now_s(1_000)(&mut params);
        let renewed = params.self_signed(&dying.key).unwrap();
        set_trust(
            &mut sim,
            TrustAnchors::from_pem(renewed.pem().as_bytes()).unwrap(),
        );
        let info = |sim: &Sim| details(sim, CENTER).certificate.unwrap();
        assert_eq!(
            info(&sim).chain_valid_until_unix_s,
            i64::try_from(UNIX_S + 1_000).unwrap()
        );
        assert_eq!(close_reason(&sim, CENTER), None);
    }

    /// A root that is issued again with the same key, and whose new certificate was in the file all along, though its time began
    /// later. Regression: every IKE SA below the root ended with the old one, and nothing was verified again.
    #[test]
    fn what_is_still_accepted_when_its_proof_ends_goes_on() {
        let old = Authority::root("Root", after_now_s(100));
        let leaf = old.issue("site1", vec![dns("site1.lab.test")], nothing);
        let new = old.again(|params| {
            params.not_before = rcgen::date_time_ymd(2027, 1, 1) + std::time::Duration::from_secs(50);
            after_now_s(1_000)(params);
        });
        let at = |s: u64| i64::try_from(UNIX_S + s).unwrap();
        let both = |other: &Authority| {
            let pem = old.certificate.pem() + &other.certificate.pem();
            TrustAnchors::from_pem(pem.as_bytes()).unwrap()
        };
        for (second, list_is_old, ends_s) in [
            (&new, false, 1_000),
            (&old, false, 100),
            // Of whom it is not known whether he is revoked is not accepted anew.
            (&new, true, 100),
        ] {
            let (mut site, mut center) = with_certificates(&old, &leaf);
            site.trust = both(&old.again(after_now_s(5_000)));
            center.trust = both(second);
            let mut sim = connected(site, center, 1);
            let ends = |sim: &Sim| details(sim, CENTER).certificate.unwrap().chain_valid_until_unix_s;
            assert_eq!(ends(&sim), at(100));
            if list_is_old {
                let mut trust = both(second);
                let list = old.crl(&[], 1, true);
                trust.set_crls(list.der(), RevocationPolicy::Always).unwrap();
                set_trust(&mut sim, trust);
            }
            sim.run_ms(102_000);
            let reason = close_reason(&sim, CENTER);
            if ends_s == 100 {
                assert!(
                    matches!(reason, Some(CloseReason::CertificateExpired { subject, .. }) if subject == "O=Lab, CN=Root"),
                    "{reason:?}"
                );
                continue;
            }
            assert_eq!(reason, None);
            assert_eq!(ends(&sim), at(ends_s));
            sim.run_ms(900_000);
            let reason = close_reason(&sim, CENTER);
            assert!(
                matches!(reason, Some(CloseReason::CertificateExpired { not_after_unix_s, .. })
                    if *not_after_unix_s == at(ends_s)),
                "{reason:?}"
            );
        }
    }

    #[test]
    fn a_renewed_certificate_of_ours_is_used_from_the_next_handshake_on() {
        let root = Authority::root("Root", nothing);
        let leaf = root.issue("site1", vec![dns("site1.lab.test")], nothing);
        let (site, center) = with_certificates(&root, &leaf);
        let mut sim = connected(site, center, 1);
        let renewed = root.issue("renewed", vec![dns("gw.lab.test")], nothing);
        sim.endpoints[CENTER].set_credential(renewed.credential(&[]));
        let subject = |sim: &Sim| details(sim, SITE).certificate.unwrap().subject;
        assert_eq!(subject(&sim), "O=Lab, CN=gw");
        let ike_sa = sim.only_ike_sa(SITE);
        sim.command(SITE, Command::Close(ike_sa));
        sim.run_ms(500);
        sim.initiate();
        sim.run_ms(500);
        assert_eq!(subject(&sim), "O=Lab, CN=renewed");
    }
}

/// A center with many sites: the chains are verified again some at a time, and none is missed.
mod many_sites {
    use super::*;

    const SITES: usize = 75;

    fn deliver(endpoints: &mut [Endpoint], center: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let address = |side: usize| format!("192.0.2.{}:500", side + 1).parse().unwrap();
        let now = Time {
            mono_ms: 1_000,
            unix_s: UNIX_S,
        };
        loop {
            let mut datagrams = Vec::new();
            for (side, endpoint) in endpoints.iter_mut().enumerate() {
                while let Some(output) = endpoint.poll_output() {
                    match output {
                        Output::Transmit { remote, payload, .. } => datagrams.push((side, remote, payload)),
                        Output::Event(event) if side == center => events.push(event),
                        _ => {}
                    }
                }
            }
            if datagrams.is_empty() {
                return events;
            }
            for (from, to, payload) in datagrams {
                let side = if from == center {
                    (0..SITES).find(|one| address(*one) == to).unwrap()
                } else {
                    center
                };
                let from = if from == center {
                    center_address()
                } else {
                    address(from)
                };
                endpoints[side].handle_datagram(now, to, from, &payload);
            }
        }
    }

    #[test]
    fn each_revoked_one_is_closed_and_no_other() {
        let root = Authority::root("Root", nothing);
        let leaves: Vec<_> = (0..SITES)
            .map(|number| {
                let host = format!("site{number}.lab.test");
                let serial = rcgen::SerialNumber::from(1_000 + u64::try_from(number).unwrap());
                let mut leaf = root.issue(&host, vec![dns(&host)], |params| {
                    params.serial_number = Some(serial.clone())
                });
                leaf.serial = serial;
                leaf
            })
            .collect();
        let mut endpoints: Vec<_> = leaves
            .iter()
            .enumerate()
            .map(|(number, leaf)| {
                let (mut site, _) = with_certificates(&root, leaf);
                site.local_identity = identity(&format!("site{number}.lab.test"));
                site.connections[0].remotes[0].local = format!("192.0.2.{}:500", number + 1).parse().unwrap();
                Endpoint::new(site, Box::new(Seeded(number as u64)))
            })
            .collect();
        let (_, center) = with_certificates(&root, &leaves[0]);
        endpoints.push(Endpoint::new(center, Box::new(Seeded(9_999))));
        let now = Time {
            mono_ms: 1_000,
            unix_s: UNIX_S,
        };
        for site in &mut endpoints[..SITES] {
            site.handle_command(
                now,
                Command::Initiate {
                    connection: "center".to_owned(),
                },
            );
        }
        deliver(&mut endpoints, SITES);
        assert_eq!(endpoints[SITES].ike_sas().count(), SITES);
        let (mut listed, mut after) = (Vec::new(), None);
        while listed.len() < SITES {
            listed.extend(endpoints[SITES].ike_sas_after(after).take(10));
            after = listed.last().map(|ike| ike.id);
        }
        assert!(listed.into_iter().eq(endpoints[SITES].ike_sas()), "in parts");

        let revoked: Vec<_> = (0..SITES).filter(|number| number % 10 == 4).collect();
        let serials: Vec<_> = revoked.iter().map(|number| &leaves[*number].serial).collect();
        let mut trust = root.trust();
        trust
            .set_crls(root.crl(&serials, 1, false).der(), RevocationPolicy::Always)
            .unwrap();
        endpoints[SITES].set_trust(now, trust);
        let mut looks = 0;
        let mut closed = Vec::new();
        while endpoints[SITES]
            .poll_timeout()
            .is_some_and(|(due, _)| due <= now.mono_ms)
        {
            endpoints[SITES].handle_timeout(now);
            looks += 1;
            closed.extend(
                deliver(&mut endpoints, SITES)
                    .into_iter()
                    .filter_map(|event| match event {
                        Event::Closed {
                            peer,
                            reason: CloseReason::CertificateRefused(_),
                            ..
                        } => Some(peer),
                        _ => None,
                    }),
            );
        }
        assert_eq!(looks, SITES.div_ceil(32));
        let expected: Vec<_> = revoked
            .iter()
            .map(|number| format!("site{number}.lab.test"))
            .collect();
        assert_eq!(closed, expected);
        assert_eq!(endpoints[SITES].ike_sas().count(), SITES - revoked.len());
    }
}
