//! RFC 7296 section 2.9: traffic selectors between peers that differ.

use super::*;

/// RFC 7296 section 2.9: a peer that takes one pair of selectors only gets one Child SA a pair.
#[test]
fn single_pair_required() {
    let mut pair = Pair::new(false, |_| {});
    let create = Command::CreateChild {
        ike_sa: pair.ike_sa(),
        ts_local: vec![net("10.1.0.0/16"), net("172.16.5.0/24")],
        ts_remote: vec![net("192.168.1.0/24")],
        resource: None,
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
        resource: None,
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
