//! A peer that does what no endpoint of ours does: it authenticates itself as it should, then sends whatever a
//! test wants on the IKE SA, and answers whatever a test wants.

use std::net::SocketAddr;

use super::*;
use crate::{
    AuthenticatedPeer, Authorizer, Connection, Remote, SitePolicy,
    channel::Opened,
    crypto::random::SystemRandom,
    pki::{credential::Credential, trust::TrustAnchors},
    proposal::{KeyExchangeOffer, answer_esp, select_esp},
    wire::{Message, delete::Delete, nonce::Nonce, ts::TrafficSelectors},
};

mod additional;

struct Everybody(SitePolicy);

impl Authorizer for Everybody {
    fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
        Some(self.0.clone())
    }
}

fn net(text: &str) -> TrafficSelector {
    let (address, prefix_len) = text.split_once('/').unwrap();
    TrafficSelector::subnet(address.parse().unwrap(), prefix_len.parse().unwrap()).unwrap()
}

fn policy(local: &[&str], remote: &[&str]) -> SitePolicy {
    let nets = |texts: &[&str]| texts.iter().map(|text| net(text)).collect();
    SitePolicy {
        site: 1,
        name: "site".to_owned(),
        ts_local: nets(local),
        ts_remote: nets(remote),
        esp_proposals: None,
    }
}

fn endpoint(identity: &str, [leaf, key]: [&[u8]; 2], policy: SitePolicy) -> EndpointConfig {
    let authorities = [
        &include_bytes!("../../tests/data/ec-ca.crt")[..],
        include_bytes!("../../tests/data/rsa-ca.crt"),
    ];
    let mut config = EndpointConfig::new(
        Credential::from_pem(leaf, key).unwrap(),
        identity.parse().unwrap(),
        TrustAnchors::from_pem(&authorities.concat()).unwrap(),
        Box::new(Everybody(policy)),
    );
    config.fragment_size = None;
    config.ike_proposals = vec!["aes256gcm16-prfsha256-x25519".parse().unwrap()];
    config.esp_proposals = vec!["aes256gcm16-x25519-modpnone-noesn".parse().unwrap()];
    config
}

/// `ours` is the endpoint under test; `peer` is driven by hand once the IKE SA stands.
struct Pair {
    ours: Endpoint,
    peer: Endpoint,
    events: Vec<Event>,
    outputs: Vec<Output>,
    /// What `ours` sent and nobody took yet.
    sent: Vec<Vec<u8>>,
    now_ms: u64,
}

const OURS: &str = "198.51.100.1:500";
const PEER: &str = "192.0.2.1:500";

impl Pair {
    /// `we_begin` says who initiates the IKE SA. `ours` has the identity gw.lab.test.
    fn new(we_begin: bool, change: impl FnOnce(&mut EndpointConfig)) -> Self {
        let (ours, peer): (SocketAddr, SocketAddr) = (OURS.parse().unwrap(), PEER.parse().unwrap());
        let rsa_chain = [
            &include_bytes!("../../tests/data/rsa-leaf.crt")[..],
            include_bytes!("../../tests/data/rsa-mid.crt"),
        ]
        .concat();
        let (local, remote) = (["10.1.0.0/16", "172.16.5.0/24"], ["192.168.1.0/24"]);
        let mut config = endpoint(
            "gw.lab.test",
            [&rsa_chain, include_bytes!("../../tests/data/rsa-leaf.key")],
            policy(&local, &remote),
        );
        let mut peers = endpoint(
            "site1.lab.test",
            [
                include_bytes!("../../tests/data/ec-leaf.crt"),
                include_bytes!("../../tests/data/ec-leaf.key"),
            ],
            policy(&remote, &local),
        );
        let connection = |local, address, identity: &str, policy| {
            let remote = Remote { local, address };
            Connection::new("it", remote, identity.parse().unwrap(), policy)
        };
        config.connections = vec![connection(ours, peer, "site1.lab.test", policy(&local, &remote))];
        peers.connections = vec![connection(peer, ours, "gw.lab.test", policy(&remote, &local))];
        change(&mut config);
        let mut pair = Self {
            ours: Endpoint::new(config, Box::new(SystemRandom::new())),
            peer: Endpoint::new(peers, Box::new(SystemRandom::new())),
            events: Vec::new(),
            outputs: Vec::new(),
            sent: Vec::new(),
            now_ms: 1_000,
        };
        let begin = Command::Initiate {
            connection: "it".to_owned(),
        };
        let now = pair.now();
        if we_begin { &mut pair.ours } else { &mut pair.peer }.handle_command(now, begin);
        for _ in 0..4 {
            pair.carry();
        }
        assert_eq!(
            pair.ours.ike_sas().next().map(|info| info.state),
            Some("established")
        );
        pair
    }

    fn now(&self) -> Time {
        Time {
            mono_ms: self.now_ms,
            unix_s: 1_798_761_600,
        }
    }

    /// Both endpoints talk to each other as they are.
    fn carry(&mut self) {
        let now = self.now();
        self.drain();
        for datagram in std::mem::take(&mut self.sent) {
            self.peer
                .handle_datagram(now, PEER.parse().unwrap(), OURS.parse().unwrap(), &datagram);
        }
        while let Some(output) = self.peer.poll_output() {
            if let Output::Transmit { payload, .. } = output {
                self.ours
                    .handle_datagram(now, OURS.parse().unwrap(), PEER.parse().unwrap(), &payload);
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.ours.poll_output() {
            match output {
                Output::Transmit { payload, .. } => self.sent.push(payload),
                Output::Event(event) => self.events.push(event),
                other @ (Output::InstallChildSa(_)
                | Output::ActivateOutbound(_)
                | Output::RemoveChildSa { .. }) => self.outputs.push(other),
            }
        }
    }

    /// The peer's end of the IKE SA.
    fn hand(&mut self) -> &mut IkeSa {
        let entry = self.peer.entries.values_mut().find_map(|entry| match entry {
            Entry::Sa(ike_sa) if ike_sa.established().is_some() => Some(ike_sa),
            Entry::Sa(_) | Entry::Initiating(_) => None,
        });
        entry.unwrap()
    }

    fn deliver(&mut self, datagram: &[u8]) {
        let now = self.now();
        self.ours
            .handle_datagram(now, OURS.parse().unwrap(), PEER.parse().unwrap(), datagram);
        self.drain();
    }

    /// The peer's request, and the answer of `ours` to it.
    fn ask(&mut self, exchange: Exchange, payloads: &[Payload]) -> Option<Vec<Payload>> {
        let mut random = SystemRandom::new();
        let request = self.hand().core.channel.request(exchange, payloads, &mut random);
        self.sent.clear();
        self.deliver(&request.unwrap_or_default()[0]);
        self.answer()
    }

    fn ask_informational(&mut self, payloads: &[Payload]) -> Option<Vec<Payload>> {
        self.ask(Exchange::Informational, payloads)
    }

    fn answer(&mut self) -> Option<Vec<Payload>> {
        let sent = std::mem::take(&mut self.sent);
        sent.iter().find_map(|datagram| {
            let header = Header::parse(datagram).unwrap();
            match self.hand().core.channel.open(&header, datagram) {
                Ok(Opened::Response(first, content)) => Some(Message::parse(first, &content).unwrap().0),
                Ok(Opened::Request(..) | Opened::Repeated | Opened::Partial) | Err(_) => None,
            }
        })
    }

    /// The request that `ours` has sent.
    fn asked(&mut self) -> Option<(Exchange, Message)> {
        // Repetitions are the same.
        let datagram = std::mem::take(&mut self.sent).pop()?;
        let header = Header::parse(&datagram).unwrap();
        match self.hand().core.channel.open(&header, &datagram) {
            Ok(Opened::Request(first, content)) => {
                Some((header.exchange, Message::parse(first, &content).unwrap()))
            }
            Ok(Opened::Response(..) | Opened::Repeated | Opened::Partial) | Err(_) => None,
        }
    }

    fn reply(&mut self, exchange: Exchange, payloads: &[Payload]) {
        let mut random = SystemRandom::new();
        let answer = self.hand().core.channel.respond(exchange, payloads, &mut random);
        let datagram = answer.map(|datagrams| datagrams[0].clone());
        self.deliver(&datagram.unwrap_or_default());
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        self.ours.handle_command(now, command);
        self.drain();
    }

    fn wait(&mut self, duration_ms: u64) {
        let until = self.now_ms + duration_ms;
        while let Some((due_ms, _)) = self.ours.poll_timeout().filter(|(due_ms, _)| *due_ms <= until) {
            self.now_ms = self.now_ms.max(due_ms);
            let now = self.now();
            self.ours.handle_timeout(now);
            self.drain();
        }
        self.now_ms = until;
    }

    fn child(&self) -> ChildId {
        self.ours.ike_sas().next().unwrap().children[0].id
    }

    fn children(&self) -> usize {
        self.ours.ike_sas().map(|info| info.children.len()).sum()
    }

    fn ike_sa(&self) -> IkeSaId {
        self.ours.ike_sas().next().unwrap().id
    }

    fn standing(&self) -> Option<&'static str> {
        self.ours.ike_sas().next().map(|info| info.state)
    }

    fn said(&self, words: &str) -> bool {
        self.events.iter().any(|event| event.to_string().contains(words))
    }
}

fn notify(kind: u16) -> Payload {
    Payload::Notify(Notify::new(kind, []))
}

fn kinds(payloads: &[Payload]) -> Vec<u16> {
    let notifies = payloads.iter().filter_map(|payload| match payload {
        Payload::Notify(notify) => Some(notify.kind),
        _ => None,
    });
    notifies.collect()
}

/// RFC 7296 section 1.4: an empty INFORMATIONAL request gets an empty response.
#[test]
fn liveness_is_answered() {
    let mut pair = Pair::new(false, |_| {});
    assert_eq!(pair.ask_informational(&[]), Some(vec![]));
}

/// RFC 7296 sections 2.5 and 3.10.1: what is unknown and not critical is left out, errors of unknown numbers in
/// requests and statuses of unknown numbers too.
#[test]
fn unknown_payloads_and_notifications_are_ignored() {
    let mut pair = Pair::new(false, |_| {});
    for kind in [8_191, 16_383, 40_959, 65_535, kind::INITIAL_CONTACT, 16_385] {
        assert_eq!(pair.ask_informational(&[notify(kind)]), Some(vec![]), "{kind}");
    }
    let vendor = Payload::Vendor(crate::wire::vendor::VendorId::parse(b"somebody"));
    assert_eq!(pair.ask_informational(&[vendor]), Some(vec![]));
    assert_eq!(pair.standing(), Some("established"));
    assert_eq!(pair.children(), 1);
}

/// RFC 7296 section 2.5: an unknown critical payload is refused by name; section 2.21.3: the IKE SA goes on.
#[test]
fn an_unknown_critical_payload_in_an_ike_sa() {
    let mut pair = Pair::new(false, |_| {});
    let mut random = SystemRandom::new();
    let channel = &mut pair.hand().core.channel;
    let datagram = channel.request_raw(Exchange::Informational, 200, &[0, 0x80, 0, 5, 1], &mut random);
    pair.deliver(&datagram.unwrap_or_default());
    let refusal = Notify::new(kind::UNSUPPORTED_CRITICAL_PAYLOAD, [200]);
    assert_eq!(pair.answer(), Some(vec![Payload::Notify(refusal)]));
    assert_eq!(pair.standing(), Some("established"));
    assert_eq!(pair.ask_informational(&[]), Some(vec![]));
}

/// RFC 7296 section 2.21.3: an authentic message that makes no sense ends the IKE SA.
#[test]
fn bad_syntax_in_an_authentic_request_ends_the_ike_sa() {
    let mut pair = Pair::new(false, |_| {});
    let mut random = SystemRandom::new();
    let channel = &mut pair.hand().core.channel;
    // A nonce of four octets.
    let datagram = channel.request_raw(
        Exchange::Informational,
        40,
        &[0, 0, 0, 8, 1, 2, 3, 4],
        &mut random,
    );
    pair.deliver(&datagram.unwrap_or_default());
    assert_eq!(pair.answer(), Some(vec![notify(kind::INVALID_SYNTAX)]));
    assert_eq!(pair.ours.ike_sas().count(), 0);
    assert!(pair.said("the peer broke the protocol"));
}

/// An exchange that has no place on an established IKE SA.
#[test]
fn exchanges_out_of_place_are_refused_and_change_nothing() {
    let mut pair = Pair::new(false, |_| {});
    for exchange in [Exchange::IkeAuth, Exchange::Other(200)] {
        let answer = pair.ask(exchange, &[]).unwrap();
        assert_eq!(kinds(&answer), [kind::INVALID_SYNTAX]);
        assert_eq!((pair.standing(), pair.children()), (Some("established"), 1));
    }
}

/// RFC 7296 section 2.3: a request beyond the window is not answered, and one that was answered is answered
/// again but not carried out again.
#[test]
fn the_window_is_one_request() {
    let mut pair = Pair::new(false, |_| {});
    let mut random = SystemRandom::new();
    let channel = &mut pair.hand().core.channel;
    let mut request = |payloads: &[Payload]| {
        let datagrams = channel.request(Exchange::Informational, payloads, &mut random);
        datagrams.unwrap_or_default().remove(0)
    };
    let (first, second) = (request(&[]), request(&[Payload::Delete(Delete::Ike)]));
    pair.deliver(&second);
    assert!(pair.sent.is_empty(), "the first is missing");
    assert_eq!(pair.standing(), Some("established"));
    pair.deliver(&first);
    pair.deliver(&first);
    assert_eq!(pair.sent.len(), 2);
    assert_eq!(pair.sent[0], pair.sent[1]);
    pair.deliver(&second);
    assert_eq!(pair.ours.ike_sas().count(), 0);
    pair.deliver(&first);
    assert_eq!(pair.sent.len(), 3, "older than the last: no answer");
}

/// RFC 7296 section 2.3: however large a window the peer offers, one request of ours is under way at a time.
#[test]
fn a_larger_window_of_the_peer_is_not_used() {
    let mut pair = Pair::new(false, |_| {});
    let offer = Notify::new(16_385, 100u32.to_be_bytes());
    assert_eq!(pair.ask_informational(&[Payload::Notify(offer)]), Some(vec![]));
    pair.command(Command::RekeyChild(pair.child()));
    pair.command(Command::RekeyIke(pair.ike_sa()));
    pair.command(Command::CloseChild(pair.child()));
    assert_eq!(pair.sent.len(), 1);
    pair.asked().unwrap();
    pair.reply(Exchange::CreateChildSa, &[notify(kind::NO_ADDITIONAL_SAS)]);
    assert_eq!(pair.sent.len(), 1);
}

/// RFC 7296 section 2.1: a request is repeated octet by octet until it is answered, and no longer.
#[test]
fn requests_are_repeated_unchanged_until_answered() {
    let mut pair = Pair::new(false, |_| {});
    pair.command(Command::RekeyChild(pair.child()));
    pair.wait(8_000);
    assert_eq!(pair.sent.len(), 4);
    assert!(pair.sent.iter().all(|one| *one == pair.sent[0]));
    pair.asked().unwrap();
    pair.reply(Exchange::CreateChildSa, &[notify(kind::TEMPORARY_FAILURE)]);
    pair.sent.clear();
    pair.wait(4_000);
    assert!(pair.sent.is_empty());
}

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

/// RFC 7296 section 2.9: a peer that takes one pair of selectors only gets one Child SA a pair.
#[test]
fn single_pair_required() {
    let mut pair = Pair::new(false, |_| {});
    let create = Command::CreateChild {
        ike_sa: pair.ike_sa(),
        ts_local: vec![net("10.1.0.0/16"), net("172.16.5.0/24")],
        ts_remote: vec![net("192.168.1.0/24")],
    };
    pair.command(create);
    pair.asked().unwrap();
    pair.reply(Exchange::CreateChildSa, &[notify(kind::SINGLE_PAIR_REQUIRED)]);
    for expected in ["10.1.0.0/16", "172.16.5.0/24"] {
        let (_, request) = pair.asked().unwrap();
        assert_eq!(request.ts_i().unwrap().0, [net(expected)]);
        assert_eq!(request.ts_r().unwrap().0, [net("192.168.1.0/24")]);
        // One pair is refused all the same: that is the end of it.
        pair.reply(Exchange::CreateChildSa, &[notify(kind::SINGLE_PAIR_REQUIRED)]);
    }
    assert!(pair.asked().is_none());
}

/// RFC 7296 section 2.9: an answer may be narrower than what was asked for, and is taken no wider.
#[test]
fn a_wider_answer_is_cut_to_what_was_asked_for() {
    let mut pair = Pair::new(false, |_| {});
    let create = Command::CreateChild {
        ike_sa: pair.ike_sa(),
        ts_local: vec![net("10.1.2.0/24")],
        ts_remote: vec![net("192.168.1.0/24")],
    };
    pair.command(create);
    let (exchange, request) = pair.asked().unwrap();
    let proposals = ["aes256gcm16-noesn".parse().unwrap()];
    let choice = select_esp(
        request.sa().unwrap(),
        &proposals,
        KeyExchangeOffer::NotInThisExchange,
    );
    let selectors = |text| TrafficSelectors(vec![net(text)]);
    let answer = [
        Payload::Sa(answer_esp(&choice.unwrap(), 0x1234_5678)),
        Payload::Nonce(Nonce(vec![7; 32])),
        Payload::TsI(selectors("0.0.0.0/0")),
        Payload::TsR(selectors("192.168.1.128/25")),
    ];
    pair.reply(exchange, &answer);
    let Some(Output::InstallChildSa(installed)) = pair.outputs.last() else {
        panic!("{:?}", pair.events);
    };
    assert_eq!(installed.ts_local, [net("10.1.2.0/24")]);
    assert_eq!(installed.ts_remote, [net("192.168.1.128/25")]);
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

/// RFC 7296 section 2.21.4: unknown SPIs are answered outside any IKE SA: no response to a response, SPIs and
/// message ID repeated, nothing longer than the request, and not without end.
#[test]
fn strays_are_answered_briefly_and_seldom() {
    let mut pair = Pair::new(false, |_| {});
    let stray = |response, len: usize| {
        let header = Header {
            spi_i: 5,
            spi_r: 6,
            next_payload: payload_type::SK,
            exchange: Exchange::Informational,
            from_initiator: true,
            response,
            message_id: 9,
        };
        let mut message = Vec::new();
        header.emit(u32::try_from(HEADER_LEN + len).unwrap(), &mut message);
        message.resize(HEADER_LEN + len, 0);
        message
    };
    pair.deliver(&stray(true, 80));
    pair.deliver(&stray(false, 4));
    assert!(pair.sent.is_empty());
    pair.deliver(&stray(false, 80));
    let answer = pair.sent.pop().unwrap();
    let header = Header::parse(&answer).unwrap();
    assert!(header.response && !header.from_initiator);
    assert_eq!((header.spi_i, header.spi_r, header.message_id), (5, 6, 9));
    let message = Message::parse(header.next_payload, &answer[HEADER_LEN..]).unwrap();
    assert_eq!(kinds(&message.0), [kind::INVALID_IKE_SPI]);
    for _ in 0..1_000 {
        pair.deliver(&stray(false, 80));
    }
    assert!(pair.sent.len() <= 40, "{}", pair.sent.len());
    pair.sent.clear();
    pair.now_ms += 1_000;
    pair.deliver(&stray(false, 80));
    assert_eq!(pair.sent.len(), 1);
}

/// RFC 7296 sections 2.4 and 2.21.4: an unprotected INVALID_IKE_SPI makes us ask, seldom, and changes nothing; from
/// another address it does not even that.
#[test]
fn unprotected_errors_are_hints() {
    let mut pair = Pair::new(false, |_| {});
    let spis = pair.ours.ike_sas().next().unwrap().spis;
    let header = Header {
        spi_i: spis.0,
        spi_r: spis.1,
        next_payload: payload_type::NONE,
        exchange: Exchange::Informational,
        from_initiator: true,
        response: true,
        message_id: 0,
    };
    let forged = header
        .message(Payload::chain(&[notify(kind::INVALID_IKE_SPI)]))
        .unwrap();
    let now = pair.now();
    let elsewhere = "203.0.113.66:500".parse().unwrap();
    pair.ours
        .handle_datagram(now, OURS.parse().unwrap(), elsewhere, &forged);
    pair.drain();
    assert!(pair.sent.is_empty());
    for _ in 0..20 {
        pair.deliver(&forged);
    }
    assert_eq!(pair.sent.len(), 1, "asked once");
    let (exchange, request) = pair.asked().unwrap();
    assert_eq!((exchange, request.0), (Exchange::Informational, vec![]));
    pair.reply(exchange, &[]);
    pair.deliver(&forged);
    assert!(pair.sent.is_empty(), "not again so soon");
    assert_eq!((pair.standing(), pair.children()), (Some("established"), 1));
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

/// RFC 7296 section 2.2: message IDs do not wrap: the IKE SA is rekeyed before, and at the very end closed. The new
/// IKE SA begins at 0.
#[test]
fn message_ids_do_not_wrap() {
    let mut pair = Pair::new(false, |_| {});
    let jump = |pair: &mut Pair, message_id| {
        for entry in pair.ours.entries.values_mut() {
            if let Entry::Sa(ike_sa) = entry {
                ike_sa.core.channel.jump_to(message_id);
            }
        }
    };
    jump(&mut pair, u32::MAX - 900);
    pair.wait(31_000);
    let header = Header::parse(pair.sent.last().unwrap()).unwrap();
    assert!(
        pair.sent.len() > 1,
        "a liveness request, then the rekeying waits: {}",
        pair.sent.len()
    );
    assert!(header.message_id >= u32::MAX - 900);
    jump(&mut pair, u32::MAX);
    pair.wait(60_000);
    assert_eq!(pair.ours.ike_sas().count(), 0);
    let mut pair = Pair::new(false, |_| {});
    let now = pair.now();
    pair.ours.handle_command(now, Command::RekeyIke(pair.ike_sa()));
    for _ in 0..3 {
        pair.carry();
    }
    pair.command(Command::RekeyChild(pair.child()));
    assert_eq!(Header::parse(&pair.sent[0]).unwrap().message_id, 0);
}

/// RFC 7296 section 1.3.2: an IKE SA is not rekeyed without a key exchange, nor with an SPI of zero.
#[test]
fn rekeying_the_ike_sa_needs_a_key_exchange_and_an_spi() {
    let mut pair = Pair::new(false, |_| {});
    let offer = |spi| {
        Payload::Sa(crate::proposal::offer_ike(
            &["aes256gcm16-prfsha256-x25519".parse().unwrap()],
            spi,
        ))
    };
    let nonce = Payload::Nonce(Nonce(vec![7; 32]));
    let answer = pair
        .ask(Exchange::CreateChildSa, &[offer(Some(5)), nonce.clone()])
        .unwrap();
    assert_eq!(kinds(&answer), [kind::INVALID_SYNTAX]);
    let dh =
        crate::crypto::dh::DhPrivate::generate(crate::crypto::dh::DhGroup::X25519, &mut SystemRandom::new());
    let dh = dh.unwrap();
    let ke = Payload::Ke(crate::wire::ke::KeyExchange {
        group: dh.group().id(),
        data: dh.public(),
    });
    let answer = pair
        .ask(Exchange::CreateChildSa, &[offer(Some(0)), nonce, ke])
        .unwrap();
    assert_eq!(kinds(&answer), [kind::INVALID_SYNTAX]);
    assert_eq!((pair.standing(), pair.children()), (Some("established"), 1));
}

/// RFC 7296 section 2.9: the packet that asks for a Child SA goes first, then what the connection is to carry. One
/// that the connection is not for asks for nothing.
#[test]
fn a_packet_goes_first_in_the_selectors() {
    let mut pair = Pair::new(false, |_| {});
    let spi = pair.ours.ike_sas().next().unwrap().children[0].spi_out;
    pair.ask_informational(&[Payload::Delete(Delete::Esp(vec![spi]))]);
    let acquire = |local, remote| Command::Acquire {
        connection: "it".to_owned(),
        ts_local: net(local),
        ts_remote: net(remote),
    };
    pair.command(acquire("10.9.0.1/32", "192.168.1.7/32"));
    pair.command(acquire("10.1.0.10/32", "192.168.2.7/32"));
    assert!(pair.sent.is_empty());
    pair.command(acquire("10.1.0.10/32", "192.168.1.7/32"));
    let (exchange, request) = pair.asked().unwrap();
    assert_eq!(exchange, Exchange::CreateChildSa);
    let expected = ["10.1.0.10/32", "10.1.0.0/16", "172.16.5.0/24"].map(net);
    assert_eq!(request.ts_i().unwrap().0, expected);
    assert_eq!(
        request.ts_r().unwrap().0,
        ["192.168.1.7/32", "192.168.1.0/24"].map(net)
    );
}
