//! Equal questions of several askers.
use super::*;

/// RFC 5452 section 5, the birthday attack. Regression: each of a site's equal questions was asked upstream from a port of
/// its own, and whoever forged an answer needed to hit any of 64.
#[test]
fn equal_questions_are_asked_once_and_each_is_answered_as_it_was_asked() {
    let mut world = World::new(settings());
    let cases = ["update.av.example", "UPDATE.av.example", "Update.AV.Example"];
    for (number, case) in (0..).zip(cases) {
        let mut asked = query(case, RecordType::A);
        asked.metadata.id = 0x5000 + number;
        let from = asker(&format!("10.201.0.1:{}", 40_000 + number));
        world.send(from, &asked.to_vec().expect("a message"));
    }
    let mut over_tcp = query("update.av.example", RecordType::A);
    over_tcp.metadata.id = 0x5003;
    world.send(client(Transport::Tcp), &over_tcp.to_vec().expect("a message"));
    assert_eq!((world.asked.len(), world.proxy.outstanding()), (1, 4));
    let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 60)]);
    world.upstream(&honest);
    let ids: Vec<u16> = world.answers.iter().map(|told| told.metadata.id).collect();
    assert_eq!(ids, [0x5000, 0x5001, 0x5002, 0x5003]);
    let ports: Vec<u16> = world.told.iter().map(|told| told.address.port()).collect();
    assert_eq!(ports, [40_000, 40_001, 40_002, 40_000]);
    assert_eq!(world.told[3].transport, Transport::Tcp);
    for (told, case) in world.answers.iter().zip(cases) {
        assert!(told.queries[0].name.eq_case(&name(case)), "{case}");
    }
    assert_eq!((world.opened.len(), world.closed.len()), (4, 1));
    assert_eq!(world.proxy.outstanding(), 0);
    // Who asks after that asks anew.
    world.ask(&query("update.av.example", RecordType::A));
    assert_eq!(world.asked.len(), 2);
}

/// One answer, but each site's own right to it.
#[test]
fn a_shared_answer_is_opened_for_each_site_by_its_own_sets_and_for_none_that_may_not() {
    let mut world = World::new(settings());
    let octets = query("update.av.example", RecordType::A)
        .to_vec()
        .expect("a message");
    for from in ["10.201.0.1:1", "10.201.0.2:1", "10.201.0.3:1", "10.201.0.99:1"] {
        world.send(asker(from), &octets);
    }
    // Who may not is told so without waiting; who is no site hears nothing.
    assert_eq!(
        (code(world.answered()), world.told.as_slice()),
        (ResponseCode::Refused, &[asker("10.201.0.3:1")][..])
    );
    assert_eq!(world.asked.len(), 1);
    let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 60)]);
    world.upstream(&honest);
    assert_eq!(world.opened_for, [SITE, OTHER_SITE]);
    assert_eq!(&world.told[1..], [asker("10.201.0.1:1"), asker("10.201.0.2:1")]);
}

/// Who asked first has no answer when its time is up; who asked later still waits, and the last one closes the socket.
#[test]
fn each_of_equal_questions_has_its_own_time() {
    let mut world = World::new(Settings {
        upstream: vec![server(1), server(2), server(3)],
        ..settings()
    });
    let octets = query("update.av.example", RecordType::A)
        .to_vec()
        .expect("a message");
    world.send(asker("10.201.0.1:1"), &octets);
    world.pass(QUESTION_MS - 100);
    world.send(asker("10.201.0.2:1"), &octets);
    world.pass(200);
    assert_eq!(world.told, [asker("10.201.0.1:1")]);
    assert_eq!(code(world.answered()), ResponseCode::ServFail);
    let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 60)]);
    world.upstream(&honest);
    assert_eq!(
        (world.opened_for.as_slice(), world.addresses()),
        (&[OTHER_SITE][..], vec![UPDATE])
    );
    assert_eq!(world.closed.len(), world.asked.len());
    assert_eq!(world.proxy.poll_timeout(), None);
}

/// However many ask on, each server is asked twice at most before all of them are told that there is no answer.
#[test]
fn who_asks_later_does_not_keep_a_question_alive_for_ever() {
    let mut world = World::new(settings());
    for _ in 0..5 {
        world.ask(&query("update.av.example", RecordType::A));
        world.pass(ASK_MS - 200);
    }
    assert_eq!(world.asked.len(), 4);
    world.pass(ASK_MS);
    assert_eq!((world.answers.len(), world.proxy.outstanding()), (5, 0));
    assert!(
        world
            .answers
            .iter()
            .all(|told| code(told) == ResponseCode::ServFail)
    );
    assert_eq!(world.closed.len(), world.asked.len());
}

#[test]
fn equal_questions_whose_answer_was_cut_are_asked_once_over_tcp() {
    let mut world = World::new(settings());
    world.ask(&query("update.av.example", RecordType::A));
    world.ask(&query("update.av.example", RecordType::A));
    let mut cut = answer(world.asked_last(), vec![]);
    cut.metadata.truncation = true;
    world.upstream(&cut);
    world.ask(&query("update.av.example", RecordType::A));
    let transports: Vec<Transport> = world.asked.iter().map(|asked| asked.2).collect();
    assert_eq!(transports, [Transport::Udp, Transport::Tcp]);
    let honest = answer(world.asked_last(), vec![a("update.av.example", UPDATE, 60)]);
    world.upstream(&honest);
    assert_eq!((world.answers.len(), world.addresses()), (3, vec![UPDATE]));
}
