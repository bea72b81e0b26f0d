//! A peer that makes SAs again and again and deletes none: they are bounded (RFC 7296 sections 1.3.3 and 2.8).

use super::*;
use crate::proposal::offer_esp;

/// What came of a request: the answer, and whether `ours` asked for the deletion of something meanwhile.
struct Round {
    answer: Vec<Payload>,
    deletes: Vec<u32>,
}

impl Round {
    fn is_done(&self) -> bool {
        Message(self.answer.clone()).sa().is_some()
    }
}

/// The peer rekeys the Child SA that it receives on at `old`, and from then on receives at `new`.
fn rekey(pair: &mut Pair, old: u32, new: u32) -> Round {
    let proposal = "aes256gcm16-modpnone-noesn".parse().unwrap();
    let payloads = [
        Payload::Notify(Notify::about_esp(kind::REKEY_SA, old)),
        Payload::Sa(offer_esp(&[proposal], new, true)),
        Payload::Nonce(Nonce(vec![7; 32])),
        Payload::TsI(TrafficSelectors(vec![net("192.168.1.0/24")])),
        Payload::TsR(TrafficSelectors(vec![net("10.1.0.0/16")])),
    ];
    let mut random = SystemRandom::new();
    let request = pair
        .hand()
        .core
        .channel
        .request(Exchange::CreateChildSa, &payloads, &mut random);
    pair.sent.clear();
    pair.deliver(&request.unwrap()[0]);
    let mut round = Round {
        answer: Vec::new(),
        deletes: Vec::new(),
    };
    for datagram in std::mem::take(&mut pair.sent) {
        let header = Header::parse(&datagram).unwrap();
        match pair.hand().core.channel.open(&header, &datagram).ok() {
            Some(Opened::Response(first, content)) => {
                round.answer = Message::parse(first, &content).unwrap().0;
            }
            Some(Opened::Request(first, content)) => {
                for payload in Message::parse(first, &content).unwrap().0 {
                    if let Payload::Delete(Delete::Esp(spis)) = payload {
                        round.deletes.extend(spis);
                    }
                }
            }
            Some(Opened::Repeated | Opened::Partial) | None => {}
        }
    }
    round
}

fn first_spi(pair: &Pair) -> u32 {
    pair.ours.ike_sas().next().unwrap().children[0].spi_out
}

/// The Child SA that is sent on, by all that was put out.
fn sent_on(outputs: &[Output]) -> Option<ChildId> {
    let mut sent_on = None;
    for output in outputs {
        match output {
            Output::InstallChildSa(new) if new.outbound_active => sent_on = Some(new.child),
            Output::ActivateOutbound { child, .. } => sent_on = Some(*child),
            Output::RemoveChildSa { child, direction } if *direction != Direction::Inbound => {
                sent_on = sent_on.filter(|on| on != child);
            }
            _ => {}
        }
    }
    sent_on
}

#[test]
fn a_peer_that_rekeys_a_thousand_times_and_deletes_nothing_does_not_fill_the_sad() {
    let mut pair = Pair::new(false, |config| {
        config.children_max = 4;
        config.defence.sas_per_peer_per_s = u32::MAX;
    });
    let mut spi = first_spi(&pair);
    let mut refused = 0;
    for next in 1..=1_000u32 {
        let round = rekey(&mut pair, spi, 0x1000 + next);
        if round.is_done() {
            spi = 0x1000 + next;
        } else {
            assert_eq!(kinds(&round.answer), [kind::TEMPORARY_FAILURE]);
            refused += 1;
        }
        assert!(pair.children() <= 2 * 4 + 1, "{} Child SAs", pair.children());
        assert!(sent_on(&pair.outputs).is_some(), "after {next}");
    }
    assert!(refused > 900, "{refused}");
    // It does not answer our DELETE either.
    pair.wait(600_000);
    assert_eq!(pair.children(), 0);
}

/// A peer that has Child SAs made and deletes them waits for no answer, so that limits by source do not hold it back. Each is
/// work of IKE and of the data plane, for which all others wait.
///
/// Regression: all thousand were made.
#[test]
fn a_peer_has_its_share_of_new_sas() {
    let mut pair = Pair::new(false, |config| config.defence.sas_per_peer_per_s = 2);
    let mut next = 0x1000;
    let mut made = |pair: &mut Pair| {
        next += 1;
        let answer = another(pair, next);
        let is_made = Message(answer.clone()).sa().is_some();
        if is_made {
            pair.ask_informational(&[Payload::Delete(Delete::Esp(vec![next]))]);
        } else {
            assert_eq!(kinds(&answer), [kind::TEMPORARY_FAILURE]);
        }
        usize::from(is_made)
    };
    let at_once: usize = (0..1_000).map(|_| made(&mut pair)).sum();
    // The handshake was the first.
    assert_eq!(at_once, 64 - 1);
    assert_eq!(pair.ours.counters().over_allowance, 1_000 - 63);
    pair.now_ms += 3_000;
    let later: usize = (0..10).map(|_| made(&mut pair)).sum();
    assert_eq!(later, 6);
    // Rekeying the IKE SA is one of them, and gives none.
    assert_eq!(made(&mut pair), 0);
    rekey_ike(&mut pair);
    assert!(
        !pair
            .events
            .iter()
            .any(|event| matches!(event, Event::IkeSaRekeyed { .. }))
    );
    assert_eq!(pair.standing(), Some("established"));
}

/// Asks for a Child SA that the peer receives on at `spi`.
fn another(pair: &mut Pair, spi: u32) -> Vec<Payload> {
    let proposal = "aes256gcm16-modpnone-noesn".parse().unwrap();
    let asked = [
        Payload::Sa(offer_esp(&[proposal], spi, true)),
        Payload::Nonce(Nonce(vec![7; 32])),
        Payload::TsI(TrafficSelectors(vec![net("192.168.1.0/24")])),
        Payload::TsR(TrafficSelectors(vec![net("10.1.0.0/16")])),
    ];
    pair.ask(Exchange::CreateChildSa, &asked).unwrap()
}

/// Room for SAs is one for all peers. When it runs short, who has its share gets no more, and may rekey what it has one
/// by one; others get theirs.
///
/// Regression: few peers that have as many Child SAs as each may left nobody else room to rekey.
#[test]
fn the_last_room_is_for_peers_below_their_share() {
    const ROOM: usize = 40;
    let mut pair = Pair::new(false, |config| config.children_in_all_max = ROOM);
    // Ten peers: four each.
    for number in 1..10 {
        let identity = format!("other{number}.lab.test").parse().unwrap();
        pair.ours.by_peer.insert(Arc::new(identity), BTreeSet::new());
    }
    for spi in 0x2001..0x2005 {
        assert!(Message(another(&mut pair, spi)).sa().is_some(), "there is room");
    }
    let mut random = SystemRandom::new();
    while pair.ours.allocator.esp_spis_in_use() < ROOM - ROOM / 8 {
        pair.ours.allocator.esp_spi(&mut random);
    }
    assert_eq!(kinds(&another(&mut pair, 0x2005)), [kind::NO_ADDITIONAL_SAS]);
    assert!(rekey(&mut pair, 0x2004, 0x2006).is_done());
    let round = rekey(&mut pair, 0x2003, 0x2007);
    assert_eq!(kinds(&round.answer), [kind::TEMPORARY_FAILURE], "one by one");
    // With less than its share it gets another.
    let gone = vec![0x2001, 0x2002, 0x2004];
    pair.ask_informational(&[Payload::Delete(Delete::Esp(gone))]);
    assert_eq!(pair.children(), 3);
    assert!(Message(another(&mut pair, 0x2008)).sa().is_some());
}

/// A router that leaves what it replaced to its lifetime: nothing is refused, the oldest goes by our DELETE.
#[test]
fn what_a_peer_replaced_and_does_not_delete_is_deleted_by_us() {
    let mut pair = Pair::new(false, |config| {
        config.children_max = 4;
        config.defence.sas_per_peer_per_s = u32::MAX;
    });
    let mut spi = first_spi(&pair);
    let mut deleted = 0;
    for next in 1..=100u32 {
        let round = rekey(&mut pair, spi, 0x1000 + next);
        assert!(round.is_done(), "{next}");
        spi = 0x1000 + next;
        if !round.deletes.is_empty() {
            deleted += round.deletes.len();
            pair.reply(Exchange::Informational, &[]);
        }
        assert!(pair.children() <= 4 + 1, "{} Child SAs", pair.children());
        assert!(sent_on(&pair.outputs).is_some(), "after {next}");
    }
    assert_eq!(deleted, 100 - 4);
}

/// A peer with as many Child SAs as it may have rekeys each of them before it deletes the first.
#[test]
fn as_many_as_there_may_be_are_rekeyed_before_one_is_deleted() {
    let mut pair = Pair::new(false, |config| config.children_max = 4);
    for spi in 1..4u32 {
        let proposal = "aes256gcm16-modpnone-noesn".parse().unwrap();
        let asked = pair.ask(
            Exchange::CreateChildSa,
            &[
                Payload::Sa(offer_esp(&[proposal], 0x1000 + spi, true)),
                Payload::Nonce(Nonce(vec![7; 32])),
                Payload::TsI(TrafficSelectors(vec![net("192.168.1.0/24")])),
                Payload::TsR(TrafficSelectors(vec![net("10.1.0.0/16")])),
            ],
        );
        assert!(Message(asked.unwrap()).sa().is_some());
    }
    assert_eq!(pair.children(), 4);
    let mut spis = vec![first_spi(&pair), 0x1001, 0x1002, 0x1003];
    for turn in 2..5u32 {
        for (spi, place) in spis.iter().zip(0..) {
            let round = rekey(&mut pair, *spi, turn * 0x1000 + place);
            assert!(round.is_done() && round.deletes.is_empty());
        }
        let answer = pair.ask_informational(&[Payload::Delete(Delete::Esp(spis))]);
        assert!(matches!(&answer.unwrap()[..], [Payload::Delete(Delete::Esp(spis))] if spis.len() == 4));
        assert_eq!(pair.children(), 4);
        spis = (0..4).map(|place| turn * 0x1000 + place).collect();
    }
}

/// The peer endpoint rekeys its newest IKE SA; of what it sends, only requests of CREATE_CHILD_SA arrive.
fn rekey_ike(pair: &mut Pair) {
    let now = pair.now();
    let newest = pair.peer.ike_sas().last().unwrap().id;
    pair.peer.handle_command(now, Command::RekeyIke(newest));
    while let Some(output) = pair.peer.poll_output() {
        if let Output::Transmit { payload, .. } = output
            && Header::parse(&payload).unwrap().exchange == Exchange::CreateChildSa
        {
            pair.deliver(&payload);
        }
    }
    for datagram in std::mem::take(&mut pair.sent) {
        pair.peer
            .handle_datagram(now, PEER.parse().unwrap(), OURS.parse().unwrap(), &datagram);
    }
}

#[test]
fn a_peer_that_rekeys_the_ike_sa_again_and_again_and_deletes_none_is_bounded() {
    let mut pair = Pair::new(false, |config| {
        config.ike_sas_per_peer_max = 4;
        config.defence.sas_per_peer_per_s = u32::MAX;
    });
    for _ in 0..100 {
        rekey_ike(&mut pair);
        assert!(pair.ours.entries.len() <= 4 + 1, "{}", pair.ours.entries.len());
    }
    let rekeyed = pair.events.iter();
    let rekeyed = rekeyed.filter(|event| matches!(event, Event::IkeSaRekeyed { .. }));
    assert_eq!(rekeyed.count(), 100, "none was refused");
    assert_eq!(pair.children(), 1, "the Child SA goes along");
    assert!(
        !pair
            .outputs
            .iter()
            .any(|one| matches!(one, Output::RemoveChildSa { .. }))
    );
}

/// While our own rekeying of the IKE SA waits for its response, one of the peer's may cross it (RFC 7296
/// section 2.25.2), not any number.
#[test]
fn one_rekeying_of_the_ike_sa_crosses_ours() {
    let mut pair = Pair::new(false, |_| {});
    pair.command(Command::RekeyIke(pair.ike_sa()));
    let peers = pair.peer.ike_sas().next().unwrap().id;
    let now = pair.now();
    pair.peer.handle_command(now, Command::RekeyIke(peers));
    let mut requests = Vec::new();
    while let Some(output) = pair.peer.poll_output() {
        if let Output::Transmit { payload, .. } = output {
            requests.push(payload);
        }
    }
    pair.sent.clear();
    pair.deliver(&requests[0]);
    assert_eq!(pair.ours.entries.len(), 2);
    let header = Header::parse(&pair.sent[0]).unwrap();
    let datagram = pair.sent[0].clone();
    // The next request of the same kind, on the same IKE SA.
    let established = pair.hand();
    assert!(matches!(
        established.core.channel.open(&header, &datagram),
        Ok(Opened::Response(..))
    ));
    let dh =
        crate::crypto::dh::DhPrivate::generate(crate::crypto::dh::DhGroup::X25519, &mut SystemRandom::new());
    let suite = "aes256gcm16-prfsha256-x25519".parse().unwrap();
    let payloads = [
        Payload::Sa(crate::proposal::offer_ike(&[suite], Some(77))),
        Payload::Nonce(Nonce(vec![7; 32])),
        Payload::Ke(crate::wire::ke::KeyExchange {
            group: 31,
            data: dh.unwrap().public(),
        }),
    ];
    let answer = pair.ask(Exchange::CreateChildSa, &payloads).unwrap();
    assert_eq!(kinds(&answer), [kind::TEMPORARY_FAILURE]);
    assert_eq!(pair.ours.entries.len(), 2);
}
