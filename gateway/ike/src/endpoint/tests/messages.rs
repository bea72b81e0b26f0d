//! RFC 7296 sections 2.1 to 2.5 and 2.21: windows, repetitions, unknown and malformed contents, and what no IKE SA
//! protects.

use super::*;

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
