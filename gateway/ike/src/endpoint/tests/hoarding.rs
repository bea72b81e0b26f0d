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
            Some(Opened::Repeated | Opened::Partial | Opened::Stale) | None => {}
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
    another_with(pair, spi, &["192.168.1.0/24"])
}

/// Likewise, with these networks on the peer's side.
fn another_with(pair: &mut Pair, spi: u32, networks: &[&str]) -> Vec<Payload> {
    let networks = networks.iter().map(|text| net(text)).collect();
    let proposal = "aes256gcm16-modpnone-noesn".parse().unwrap();
    let asked = [
        Payload::Sa(offer_esp(&[proposal], spi, true)),
        Payload::Nonce(Nonce(vec![7; 32])),
        Payload::TsI(TrafficSelectors(networks)),
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

/// Another site takes as many networks.
fn hoard(pair: &mut Pair, site: u32, networks: u8) {
    let all: Vec<_> = (0..networks)
        .map(|last| net(&format!("172.30.0.{last}/32")))
        .collect();
    pair.ours
        .networks
        .hold(ChildId(9_000 + u64::from(site)), site, &all);
}

/// Room for networks is one for all sites. When it runs short, who has its share gets no more, of which the peer is told
/// before anything is made; who has less gets his, and what somebody has he keeps and rekeys.
///
/// Regression: sites that named as many networks as each may left no other one room to connect. That was found out when the
/// Child SA was installed, after the peer had been told that it is there.
#[test]
fn the_last_networks_are_for_sites_that_have_no_more_than_their_share() {
    // Eleven sites, of whom two are connected: four networks each, as no site has a part of one.
    let mut pair = Pair::new(false, |config| {
        (config.networks_in_all_max, config.sites_max) = (40, 11)
    });
    hoard(&mut pair, 2, 31);
    assert_eq!(pair.ours.networks.in_all(), 1 + 31);
    let (installed, spis) = (pair.outputs.len(), pair.ours.allocator.esp_spis_in_use());
    let four = [
        "192.168.1.1/32",
        "192.168.1.3/32",
        "192.168.1.5/32",
        "192.168.1.7/32",
    ];
    let refused = another_with(&mut pair, 0x2001, &four);
    assert_eq!(kinds(&refused), [kind::NO_ADDITIONAL_SAS]);
    assert!(pair.said("site 1 would have 5 networks, as prefixes, of 4: room runs short"));
    assert_eq!(pair.ours.counters().networks_refused, 1);
    // Nothing of it is left.
    let now = (pair.outputs.len(), pair.ours.allocator.esp_spis_in_use());
    assert_eq!((now, pair.ours.networks.in_all()), ((installed, spis), 32));
    let made = another_with(&mut pair, 0x2002, &four[..3]);
    assert!(Message(made).sa().is_some());
    // What it has needs no room, whoever asks and however little there is.
    hoard(&mut pair, 3, 5);
    assert_eq!(pair.ours.networks.in_all(), 40);
    assert!(
        Message(another_with(&mut pair, 0x2003, &four[..1]))
            .sa()
            .is_some()
    );
    assert!(rekey(&mut pair, 0x2002, 0x2004).is_done());
    assert_eq!(
        kinds(&another_with(&mut pair, 0x2005, &four[3..])),
        [kind::NO_ADDITIONAL_SAS],
        "there is none at all"
    );
    // The room comes back with the last Child SA that has a network.
    let gone = vec![0x2002, 0x2004];
    pair.ask_informational(&[Payload::Delete(Delete::Esp(gone))]);
    assert_eq!(pair.ours.networks.in_all(), 40 - 2);
    pair.command(Command::CloseAll);
    assert_eq!(pair.ours.networks.in_all(), 31 + 5);
}

/// Of two sites only one is there yet. It does not get the last part for coming first.
#[test]
fn a_site_that_comes_later_finds_room() {
    let mut pair = Pair::new(false, |config| {
        (config.networks_in_all_max, config.sites_max) = (16, 8)
    });
    let many: Vec<_> = (0..16).map(|last| format!("192.168.1.{}/32", 2 * last)).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(
        kinds(&another_with(&mut pair, 0x2001, &many)),
        [kind::NO_ADDITIONAL_SAS]
    );
    assert!(
        Message(another_with(&mut pair, 0x2002, &many[..13]))
            .sa()
            .is_some()
    );
    assert_eq!(
        kinds(&another_with(&mut pair, 0x2003, &many[..14])),
        [kind::NO_ADDITIONAL_SAS]
    );
}

/// Likewise with Child SAs.
///
/// Regression: a share was that of a connected peer, so that those who came first had all.
#[test]
fn a_site_that_comes_later_finds_room_for_child_sas() {
    const ROOM: usize = 16;
    let mut pair = Pair::new(false, |config| {
        (config.children_in_all_max, config.sites_max) = (ROOM, 8)
    });
    let made = |spi: &u32| Message(another(&mut pair, *spi)).sa().is_some();
    assert_eq!((0x2001..0x2011).filter(made).count(), ROOM - ROOM / 8 - 1);
}

/// More than any site may have: the selectors are what is wrong, and they are refused in IKE_AUTH as well, where the
/// IKE SA stands without a Child SA (RFC 7296 section 1.2).
#[test]
fn more_networks_than_a_site_may_have_are_unacceptable() {
    let mut pair = Pair::new(false, |config| config.networks_per_site_max = 1);
    let two = ["192.168.1.0/25", "192.168.1.128/26"];
    assert_eq!(
        kinds(&another_with(&mut pair, 0x2001, &two)),
        [kind::TS_UNACCEPTABLE]
    );
    assert!(Message(another(&mut pair, 0x2002)).sa().is_some());
    assert!(pair.said("site 1 would have 3 networks, as prefixes, of 1: no site may have more"));
    let pair = Pair::new(false, |config| config.networks_per_site_max = 0);
    assert_eq!((pair.standing(), pair.children()), (Some("established"), 0));
    assert!(pair.outputs.is_empty() && pair.ours.allocator.esp_spis_in_use() == 0);
    assert_eq!(pair.ours.counters().networks_refused, 1);
}

/// What the peer has made at our request and there is no room for is deleted, and nothing is sent on it.
#[test]
fn a_child_sa_of_ours_without_room_is_deleted() {
    let mut pair = Pair::new(true, |config| config.networks_in_all_max = 0);
    assert_eq!(sent_on(&pair.outputs), None);
    assert_eq!((pair.children(), pair.ours.networks.in_all()), (0, 0));
    let removed = |output: &Output| matches!(output, Output::RemoveChildSa { direction, .. } if *direction != Direction::Inbound);
    assert!(pair.outputs.iter().any(removed));
    assert_eq!(
        pair.peer.ike_sas().map(|info| info.children.len()).sum::<usize>(),
        0
    );
    // Nor is one asked for, where it is known before.
    pair.outputs.clear();
    pair.command(Command::Acquire {
        connection: "it".to_owned(),
        ts_local: net("10.1.2.3/32"),
        ts_remote: net("192.168.1.5/32"),
    });
    assert!(pair.asked().is_none() && pair.outputs.is_empty());
    assert_eq!(pair.ours.counters().networks_refused, 2);
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
