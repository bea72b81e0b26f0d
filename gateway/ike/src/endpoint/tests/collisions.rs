//! RFC 7296 sections 1.4.1, 2.25 and 4: what cannot be done just now, and what meets on the way.

use super::*;

/// RFC 7296 section 2.25: not at once, but after a while, and for minutes; then the two sides no longer agree.
#[test]
fn temporary_failure_is_retried_and_in_the_end_closes() {
    for task in ["child", "ike", "new"] {
        let mut pair = Pair::new(false, |config| config.dpd_after_s = 100_000);
        let command = match task {
            "child" => Command::RekeyChild(pair.child()),
            "ike" => Command::RekeyIke(pair.ike_sa()),
            _ => Command::CreateChild {
                ike_sa: pair.ike_sa(),
                ts_local: vec![net("10.1.0.0/16")],
                ts_remote: vec![net("192.168.1.0/24")],
                resource: None,
            },
        };
        pair.command(command);
        let mut times = Vec::new();
        while let Some((exchange, message)) = pair.asked() {
            if exchange != Exchange::CreateChildSa {
                assert_eq!(message.0, [Payload::Delete(Delete::Ike)], "{task}");
                break;
            }
            times.push(pair.now_ms);
            pair.reply(exchange, &[notify(kind::TEMPORARY_FAILURE)]);
            if pair.sent.is_empty() {
                pair.wait(4_900);
                assert!(pair.sent.is_empty(), "{task}: asked again at once");
                pair.wait(6_000);
            }
        }
        assert!(times.len() > 20, "{task}: {}", times.len());
        assert!(
            (300_000..330_000).contains(&(pair.now_ms - 1_000)),
            "{task}: {}",
            pair.now_ms
        );
        pair.reply(Exchange::Informational, &[]);
        assert!(pair.said("TEMPORARY_FAILURE for minutes"), "{task}");
    }
}

/// RFC 7296 section 2.25: two failures an hour apart are two passing states.
#[test]
fn temporary_failures_far_apart_close_nothing() {
    let mut pair = Pair::new(false, |config| config.dpd_after_s = 100_000);
    for _ in 0..3 {
        pair.command(Command::RekeyIke(pair.ike_sa()));
        pair.asked().unwrap();
        pair.reply(Exchange::CreateChildSa, &[notify(kind::TEMPORARY_FAILURE)]);
        pair.wait(11_000);
        pair.asked().unwrap();
        pair.reply(Exchange::CreateChildSa, &[notify(kind::NO_PROPOSAL_CHOSEN)]);
        pair.wait(4_000);
    }
    assert_eq!(pair.standing(), Some("established"));
}

/// RFC 7296 section 2.25: the Child SA is forgotten without a word, and another made from scratch.
#[test]
fn child_sa_not_found_makes_another() {
    let mut pair = Pair::new(false, |_| {});
    let old = pair.child();
    pair.command(Command::RekeyChild(old));
    let (_, request) = pair.asked().unwrap();
    assert!(request.notify(kind::REKEY_SA).is_some());
    pair.reply(Exchange::CreateChildSa, &[notify(kind::CHILD_SA_NOT_FOUND)]);
    let gone = Output::RemoveChildSa {
        child: old,
        direction: Direction::Both,
    };
    assert!(pair.outputs.contains(&gone));
    let (exchange, request) = pair.asked().unwrap();
    assert_eq!(exchange, Exchange::CreateChildSa);
    assert!(request.notify(kind::REKEY_SA).is_none() && request.sa().is_some());
    assert_eq!(
        request.ts_i().unwrap().0,
        [net("10.1.0.0/16"), net("172.16.5.0/24")]
    );
}

/// RFC 7296 section 2.25.1: a Child SA that the peer wants rekeyed while we delete it.
#[test]
fn a_child_sa_that_we_delete_is_not_rekeyed() {
    let mut pair = Pair::new(false, |_| {});
    let spi = pair.ours.ike_sas().next().unwrap().children[0].spi_out;
    pair.command(Command::CloseChild(pair.child()));
    let rekey = Payload::Notify(Notify::about_esp(kind::REKEY_SA, spi));
    let answer = pair.ask(Exchange::CreateChildSa, &[rekey]).unwrap();
    assert_eq!(kinds(&answer), [kind::TEMPORARY_FAILURE]);
}

/// RFC 7296 section 2.25.1: both sides delete the same Child SA: neither answers with it.
#[test]
fn deletions_of_the_same_child_sa_cross() {
    let mut pair = Pair::new(false, |_| {});
    let spi = pair.ours.ike_sas().next().unwrap().children[0].spi_out;
    pair.command(Command::CloseChild(pair.child()));
    let answer = pair.ask_informational(&[Payload::Delete(Delete::Esp(vec![spi]))]);
    assert_eq!(answer, Some(vec![]));
    assert_eq!(pair.children(), 0);
}

/// RFC 7296 section 1.4.1: the answer to a deletion names our side of the pair; an unknown SPI is no error.
#[test]
fn a_deletion_is_answered_with_the_other_half() {
    let mut pair = Pair::new(false, |_| {});
    let child = pair.ours.ike_sas().next().unwrap().children[0].clone();
    let delete = |spis: &[u32]| Payload::Delete(Delete::Esp(spis.to_vec()));
    assert_eq!(pair.ask_informational(&[delete(&[77])]), Some(vec![]));
    let answer = pair.ask_informational(&[delete(&[77, child.spi_out])]);
    assert_eq!(answer, Some(vec![delete(&[child.spi_in])]));
    assert_eq!(pair.children(), 0);
    assert_eq!(pair.standing(), Some("established"), "the IKE SA stays");
}

/// RFC 7296 section 2.25.1: the peer has no such Child SA.
#[test]
fn rekeying_what_is_not_there() {
    let mut pair = Pair::new(false, |_| {});
    let rekey = Notify::about_esp(kind::REKEY_SA, 0x1234_5678);
    let answer = pair
        .ask(Exchange::CreateChildSa, &[Payload::Notify(rekey)])
        .unwrap();
    let [Payload::Notify(refusal)] = answer.as_slice() else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (refusal.kind, refusal.esp_spi()),
        (kind::CHILD_SA_NOT_FOUND, Some(0x1234_5678))
    );
}

/// RFC 7296 section 2.25.2: what is refused, and what is answered as usual, while we rekey the IKE SA.
#[test]
fn requests_while_we_rekey_the_ike_sa() {
    let mut pair = Pair::new(false, |_| {});
    let child = pair.ours.ike_sas().next().unwrap().children[0].clone();
    pair.command(Command::RekeyIke(pair.ike_sa()));
    let rekey = Payload::Notify(Notify::about_esp(kind::REKEY_SA, child.spi_out));
    for request in [vec![rekey], vec![]] {
        let answer = pair.ask(Exchange::CreateChildSa, &request).unwrap();
        assert_eq!(kinds(&answer), [kind::TEMPORARY_FAILURE]);
    }
    let delete = Payload::Delete(Delete::Esp(vec![child.spi_out]));
    let answer = pair.ask_informational(&[delete]);
    assert_eq!(
        answer,
        Some(vec![Payload::Delete(Delete::Esp(vec![child.spi_in]))])
    );
    let answer = pair.ask_informational(&[Payload::Delete(Delete::Ike)]);
    assert_eq!(
        answer,
        Some(vec![]),
        "closing is answered as usual, our own request forgotten"
    );
    assert_eq!(pair.ours.ike_sas().count(), 0);
}

/// RFC 7296 section 2.25.2: the peer wants to rekey the IKE SA while we close it, or both close it.
#[test]
fn requests_while_we_close_the_ike_sa() {
    let mut pair = Pair::new(false, |_| {});
    pair.command(Command::Close(pair.ike_sa()));
    assert_eq!(pair.standing(), Some("closing"));
    let answer = pair.ask(Exchange::CreateChildSa, &[]).unwrap();
    assert_eq!(kinds(&answer), [kind::TEMPORARY_FAILURE]);
    assert_eq!(
        pair.ask_informational(&[Payload::Delete(Delete::Ike)]),
        Some(vec![])
    );
    assert_eq!(pair.ours.ike_sas().count(), 0);
}

/// The peer deletes, or rekeys, what it made at our request before its response is here.
#[test]
fn a_child_sa_that_is_deleted_before_we_know_of_it() {
    let mut pair = Pair::new(false, |_| {});
    let create = Command::CreateChild {
        ike_sa: pair.ike_sa(),
        ts_local: vec![net("10.1.2.0/24")],
        ts_remote: vec![net("192.168.1.0/24")],
        resource: None,
    };
    pair.command(create);
    let (exchange, request) = pair.asked().unwrap();
    let spi = 0x1234_5678;
    let rekey = Payload::Notify(Notify::about_esp(kind::REKEY_SA, spi));
    let answer = pair.ask(Exchange::CreateChildSa, &[rekey]).unwrap();
    assert_eq!(kinds(&answer), [kind::TEMPORARY_FAILURE]);
    let answer = pair.ask_informational(&[Payload::Delete(Delete::Esp(vec![spi]))]);
    assert_eq!(answer, Some(vec![]));
    let proposals = ["aes256gcm16-noesn".parse().unwrap()];
    let choice = select_esp(
        request.sa().unwrap(),
        &proposals,
        KeyExchangeOffer::NotInThisExchange,
    );
    let answer = [
        Payload::Sa(answer_esp(&choice.unwrap(), spi)),
        Payload::Nonce(Nonce(vec![7; 32])),
        Payload::TsI(TrafficSelectors(vec![net("10.1.2.0/24")])),
        Payload::TsR(TrafficSelectors(vec![net("192.168.1.0/24")])),
    ];
    let installed = pair.outputs.len();
    pair.reply(exchange, &answer);
    assert_eq!((pair.children(), pair.outputs.len()), (1, installed));
}

/// RFC 7296 section 4: a peer without room for another SA cannot be rekeyed with: a connection of ours begins a
/// new IKE SA instead.
#[test]
fn no_additional_sas_on_rekeying_begins_a_new_ike_sa() {
    for rekey_ike in [false, true] {
        let mut pair = Pair::new(true, |_| {});
        let command = match rekey_ike {
            true => Command::RekeyIke(pair.ike_sa()),
            false => Command::RekeyChild(pair.child()),
        };
        pair.command(command);
        pair.asked().unwrap();
        pair.reply(Exchange::CreateChildSa, &[notify(kind::NO_ADDITIONAL_SAS)]);
        let header = Header::parse(pair.sent.last().unwrap()).unwrap();
        assert_eq!((header.exchange, header.spi_r), (Exchange::IkeSaInit, 0));
        assert_eq!((pair.standing(), pair.children()), (Some("established"), 1));
    }
}

/// RFC 7296 section 1.4.1: the peer deletes the IKE SA: its Child SAs go with it.
#[test]
fn deleting_the_ike_sa_deletes_its_child_sas() {
    let mut pair = Pair::new(true, |_| {});
    let child = pair.child();
    assert_eq!(
        pair.ask_informational(&[Payload::Delete(Delete::Ike)]),
        Some(vec![])
    );
    let gone = Output::RemoveChildSa {
        child,
        direction: Direction::Both,
    };
    assert_eq!(pair.outputs.last(), Some(&gone));
    assert!(pair.said("deleted by the peer"));
}

/// Regression: an IKE SA that ended before the peer had answered about a Child SA kept the SPI for it until the daemon ended.
#[test]
fn an_ike_sa_that_ends_gives_back_the_spi_of_a_child_sa_that_is_not_to_be() {
    type End = fn(&mut Pair);
    let ways: [(&str, End); 3] = [
        ("deleted by the peer", |pair| {
            pair.ask_informational(&[Payload::Delete(Delete::Ike)]);
        }),
        ("no answer", |pair| {
            for _ in 0..600 {
                pair.wait(1_000);
            }
        }),
        ("an answer that is none", |pair| {
            // Shorter than a nonce may be.
            pair.reply(Exchange::CreateChildSa, &[Payload::Nonce(Nonce(vec![0; 3]))]);
        }),
    ];
    for (name, end) in ways {
        for rekeys in [true, false] {
            let mut pair = Pair::new(false, |config| config.dpd_after_s = 100_000);
            pair.command(if rekeys {
                Command::RekeyChild(pair.child())
            } else {
                Command::CreateChild {
                    ike_sa: pair.ike_sa(),
                    ts_local: vec![net("10.1.0.0/16")],
                    ts_remote: vec![net("192.168.1.0/24")],
                    resource: None,
                }
            });
            pair.asked().expect("asked for a Child SA");
            assert_eq!(pair.ours.allocator.esp_spis_in_use(), 2, "{name}");
            end(&mut pair);
            assert_eq!(pair.standing(), None, "{name}");
            assert_eq!(pair.ours.allocator.esp_spis_in_use(), 0, "{name}, {rekeys}");
        }
    }
}

/// Regression: the SPI of the first Child SA stayed taken when the IKE_AUTH request could not be made.
#[test]
fn an_ike_auth_that_cannot_be_sent_gives_back_its_spi() {
    let mut pair = Pair::new(false, |_| {});
    pair.command(Command::Close(pair.ike_sa()));
    pair.carry();
    assert_eq!(
        (pair.standing(), pair.ours.allocator.esp_spis_in_use()),
        (None, 0)
    );
    pair.peer.config.fragment_size = Some(1_280);
    // No octet of a message fits a fragment.
    pair.ours.config.fragment_size = Some(90);
    let connection = "it".to_owned();
    pair.command(Command::Initiate { connection });
    // The first request is answered with a cookie.
    pair.carry();
    pair.carry();
    assert!(pair.said("the peer broke the protocol"), "{:?}", pair.events);
    assert_eq!(pair.ours.allocator.esp_spis_in_use(), 0);
}
