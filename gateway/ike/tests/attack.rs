//! Floods, spoofed sources and forged answers: what they cost, what they take, and that a genuine site gets
//! in all the same (RFC 7296 sections 2.6 and 2.21.1, RFC 8019).

mod common;

use std::{collections::HashSet, net::SocketAddr};

use common::*;
use gateway_ike::{
    EndpointConfig, Event,
    crypto::{
        dh::{DhGroup, DhPrivate},
        prf::PrfAlgorithm,
    },
    half_open::{INIT_REQUEST_MAX, REASSEMBLY_MAX, REFUSALS_TOLD_PER_S, STATE_MAX},
    wire::{
        Exchange, Header, Message, Payload,
        delete::Delete,
        ke::KeyExchange,
        nonce::Nonce,
        notify::{Notify, kind},
        payload_type, protocol,
        puzzle::PuzzleSolution,
        sa::{Proposal, SecurityAssociation, Transform, transform_type},
        vendor::VendorId,
    },
};
use proptest::prelude::*;

/// The shortest request that a responder of ours can accept: AES-CBC-256, HMAC-SHA-256, group 31.
struct Request {
    spi_i: u64,
    from: SocketAddr,
    cipher: u16,
    public: Vec<u8>,
    front: Vec<Payload>,
    back: Vec<Payload>,
}

impl Request {
    fn new(spi_i: u64, from: &str) -> Self {
        let dh = DhPrivate::generate(DhGroup::X25519, &mut Seeded(spi_i)).unwrap();
        Self {
            spi_i,
            from: from.parse().unwrap(),
            cipher: 12,
            public: dh.public(),
            front: Vec::new(),
            back: Vec::new(),
        }
    }

    /// With a payload that nobody reads, so that it is as long as the requests of real routers.
    fn long(spi_i: u64, from: &str) -> Self {
        let back = vec![Payload::Vendor(VendorId(vec![7; 400]))];
        Self {
            back,
            ..Self::new(spi_i, from)
        }
    }

    fn datagram(&self) -> Datagram {
        let transforms = vec![
            Transform::with_key_bits(transform_type::ENCR, self.cipher, 256),
            Transform::new(transform_type::PRF, 5),
            Transform::new(transform_type::INTEG, 12),
            Transform::new(transform_type::DH, 31),
        ];
        let proposal = Proposal {
            number: 1,
            protocol: protocol::IKE,
            spi: Vec::new(),
            transforms,
        };
        let mut payloads = self.front.clone();
        payloads.extend([
            Payload::Sa(SecurityAssociation {
                proposals: vec![proposal],
            }),
            Payload::Ke(KeyExchange {
                group: 31,
                data: self.public.clone(),
            }),
            Payload::Nonce(Nonce(vec![9; 16])),
        ]);
        payloads.extend(self.back.iter().cloned());
        let header = Header {
            spi_i: self.spi_i,
            spi_r: 0,
            next_payload: payload_type::NONE,
            exchange: Exchange::IkeSaInit,
            from_initiator: true,
            response: false,
            message_id: 0,
        };
        Datagram {
            from: self.from,
            to: center_address(),
            payload: header.message(Payload::chain(&payloads)).unwrap(),
        }
    }

    /// Sends it; what came back, if anything did.
    fn send(&self, sim: &mut Sim) -> Option<Message> {
        let before = sim.sent.len();
        sim.deliver(&self.datagram());
        let answer = sim.sent.get(before)?.payload.clone();
        sim.in_flight.clear();
        let header = Header::parse(&answer).unwrap();
        Some(Message::parse(header.next_payload, &answer[28..]).unwrap())
    }

    /// Sends it, and again with the cookie that came back; true when a key exchange was answered.
    fn send_with_cookie(mut self, sim: &mut Sim) -> bool {
        let Some(answer) = self.send(sim) else {
            return false;
        };
        let Some(cookie) = answer.notify(kind::COOKIE) else {
            return answer.ke().is_some();
        };
        self.front.push(Payload::Notify(cookie.clone()));
        self.send(sim).is_some_and(|answer| answer.ke().is_some())
    }
}

fn center(config: EndpointConfig) -> Sim {
    Sim::new(site_config(), config, 1)
}

fn counters(sim: &Sim) -> gateway_ike::counters::Counters {
    sim.endpoints[CENTER].counters()
}

fn establishes(sim: &mut Sim) {
    sim.initiate();
    sim.run_ms(20_000);
    sim.assert_agreement();
    assert!(sim.planes[CENTER].sending_on.is_some(), "{}", sim.words(SITE));
}

/// What goes to an address that has proved nothing is never longer than what came from it.
#[test]
fn a_short_request_gets_a_cookie_before_a_longer_answer() {
    let mut sim = center(center_config());
    let mut request = Request::new(1, "203.0.113.1:500");
    let len = request.datagram().payload.len();
    let answer = request.send(&mut sim).unwrap();
    assert!(answer.ke().is_none());
    assert!(
        sim.sent[0].payload.len() <= len,
        "{} > {len}",
        sim.sent[0].payload.len()
    );
    assert_eq!(counters(&sim).key_exchanges, 0);
    assert_eq!(sim.endpoints[CENTER].half_open().count, 0, "nothing is kept");
    let cookie = answer.notify(kind::COOKIE).unwrap().clone();
    request.front.push(Payload::Notify(cookie));
    assert!(request.send(&mut sim).unwrap().ke().is_some());
    assert_eq!(counters(&sim).key_exchanges, 1);

    let long = Request::long(2, "203.0.113.2:500");
    assert!(
        long.send(&mut sim).unwrap().ke().is_some(),
        "no round trip is lost"
    );
}

/// What the initiator did not announce is not answered: it would only make the answer longer. The exception is what
/// initiators look for without announcing anything (RFC 6023 section 3).
#[test]
fn the_answer_holds_only_what_the_initiator_can_use() {
    let mut sim = center(center_config());
    let answer = Request::long(2, "203.0.113.2:500").send(&mut sim).unwrap();
    let kinds: Vec<_> = answer.notifies().map(|notify| notify.kind).collect();
    assert_eq!(kinds, [kind::CHILDLESS_IKEV2_SUPPORTED]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_amplified(
        body in proptest::collection::vec(any::<u8>(), 0..120),
        first in 30u8..56,
        version in prop_oneof![Just(0x20u8), Just(0x30u8), any::<u8>()],
        cut in any::<prop::sample::Index>(),
        genuine in any::<bool>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..=255), 0..3),
    ) {
        let mut datagram = Request::new(7, "203.0.113.7:500").datagram();
        if !genuine {
            datagram.payload.truncate(28);
            datagram.payload.extend_from_slice(&body);
            datagram.payload[16] = first;
            datagram.payload[17] = version;
        } else {
            let keep = 28 + cut.index(datagram.payload.len() - 27);
            datagram.payload.truncate(keep);
        }
        for (at, value) in flips {
            let at = at.index(datagram.payload.len());
            datagram.payload[at] ^= value;
        }
        let len = datagram.payload.len();
        datagram.payload[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        let mut sim = center(center_config());
        sim.deliver(&datagram);
        let answered: usize = sim.sent.iter().map(|one| one.payload.len()).sum();
        prop_assert!(answered <= len, "{answered} octets for {len}");
    }
}

/// Spoofed requests from all over the world: beyond the threshold each costs a hash, and a genuine site is
/// served.
#[test]
fn a_flood_from_many_addresses() {
    let mut config = center_config();
    config.cookie_from = 20;
    let mut sim = center(config);
    for number in 0..5_000u64 {
        let [_, _, _, _, _, _, a, b] = number.to_be_bytes();
        Request::long(number + 1, &format!("198.18.{a}.{b}:500")).send(&mut sim);
    }
    assert_eq!(sim.endpoints[CENTER].half_open().count, 20);
    assert_eq!(counters(&sim).key_exchanges, 20);
    assert_eq!(counters(&sim).cookies_sent, 4_980);
    establishes(&mut sim);
    assert_eq!(counters(&sim).key_exchanges, 21);
}

/// Spoofed requests in the name of one site: it is asked for a cookie, which it alone can return.
#[test]
fn a_flood_in_the_name_of_a_site_does_not_lock_it_out() {
    let mut sim = center(center_config());
    for number in 0..2_000u64 {
        Request::long(number + 1, "192.0.2.1:500").send(&mut sim);
    }
    let (usage, counted) = (sim.endpoints[CENTER].half_open(), counters(&sim));
    assert_eq!((usage.count, usage.sources, counted.key_exchanges), (4, 1, 4));
    // Others are not even asked for a cookie.
    assert!(
        Request::long(1, "203.0.113.1:500")
            .send(&mut sim)
            .unwrap()
            .ke()
            .is_some()
    );
    establishes(&mut sim);
}

/// One host that answers cookies: it has its share and no more, whatever ports and SPIs it uses; an IPv6
/// host likewise with all addresses of its /64.
#[test]
fn one_source_has_its_share() {
    let mut config = center_config();
    config.defence.half_open_per_source = 10;
    config.cookie_from = 0;
    let mut sim = center(config);
    let mut let_in = 0;
    for number in 0..100u64 {
        let from = format!("203.0.113.1:{}", 500 + number);
        let_in += u32::from(Request::new(number + 1, &from).send_with_cookie(&mut sim));
        let from = format!("[2001:db8::{number}]:500");
        let_in += u32::from(Request::new(number + 1, &from).send_with_cookie(&mut sim));
    }
    assert_eq!(let_in, 20);
    assert_eq!(sim.endpoints[CENTER].half_open().sources, 2);
    assert_eq!(counters(&sim).half_open_full, 180);
    sim.run_ms(31_000);
    assert_eq!(sim.endpoints[CENTER].half_open(), Default::default());
    assert!(Request::new(1, "203.0.113.1:500").send_with_cookie(&mut sim));
}

/// A router comes once.
fn comes_once(sim: &mut Sim) {
    sim.crash(SITE, site_config());
    sim.in_flight.clear();
    sim.initiate();
    sim.run_ms(50);
}

/// A handshake that ends in a refused IKE_AUTH has cost a key exchange like one that is left open. One host that makes
/// them has its share and no more, and is asked for cookies.
#[test]
fn a_refused_ike_auth_does_not_take_the_handshake_out_of_the_books() {
    let mut config = center_config();
    config.authorizer = Box::new(Nobody);
    config.defence.half_open_per_source = 10;
    let mut sim = center(config);
    for _ in 0..200 {
        comes_once(&mut sim);
    }
    let refused = |event: &&Event| matches!(event, Event::AuthenticationFailed { .. });
    let share = 4 + 10;
    assert_eq!(sim.events[CENTER].iter().filter(refused).count(), share);
    assert_eq!(counters(&sim).key_exchanges, share as u64);
    assert!(counters(&sim).cookies_sent > 0);
    assert_eq!(sim.endpoints[CENTER].half_open().count, share);
    // Not for ever.
    sim.crash(SITE, site_config());
    sim.run_ms(31_000);
    assert_eq!(sim.endpoints[CENTER].half_open(), Default::default());
    comes_once(&mut sim);
    assert_eq!(counters(&sim).key_exchanges, share as u64 + 1);
}

/// A site that authenticates itself again and again: every handshake costs two signatures and a key exchange, and none is left open.
/// Beyond its share it is refused, and what it tries stays in the books like any other's.
///
/// Regression: all two hundred were let in.
#[test]
fn a_site_that_comes_again_and_again_has_its_share() {
    let mut sim = center(center_config());
    for _ in 0..200 {
        comes_once(&mut sim);
    }
    let (mut let_in, mut refused) = (0, 0);
    for event in &sim.events[CENTER] {
        let_in += u32::from(matches!(event, Event::IkeSaEstablished { .. }));
        if let Event::AuthenticationFailed { reason, .. } = event {
            assert!(reason.contains("too many SAs"), "{reason}");
            refused += 1;
        }
    }
    // 64, and two a second.
    assert!((64..=64 + 2 * 10).contains(&let_in), "{let_in}");
    assert!(refused <= 4 + 64, "{refused}");
    sim.run_ms(31_000);
    establishes(&mut sim);
}

/// Behind one address: routers whose certificates are refused, forty attempts in 20 s. The one that is good gets in.
#[test]
fn refused_routers_do_not_lock_out_one_behind_the_same_address() {
    let mut config = center_config();
    config.authorizer = Box::new(Nobody);
    let mut sim = center(config);
    for _ in 0..40 {
        comes_once(&mut sim);
        sim.now_ms += 450;
    }
    sim.endpoints[CENTER].set_config(center_config());
    sim.crash(SITE, site_config());
    establishes(&mut sim);
}

/// Hosts with many addresses that return cookies: the fuller the table, the harder the puzzle. An initiator
/// of ours solves it; who does not is let in at a bounded rate.
#[test]
fn puzzles_when_cookies_are_not_enough() {
    let mut config = center_config();
    config.cookie_from = 10;
    config.half_open_max = 140;
    config.defence.puzzle_from = 40;
    config.defence.puzzle_bits_first = 3;
    config.defence.puzzle_bits_last = 8;
    config.defence.unsolved_per_s = 5;
    let mut sim = center(config);
    let bot = |number: u64| {
        Request::new(
            number + 1,
            &format!("203.0.{}.{}:500", number / 250, number % 250),
        )
    };
    let mut let_in = 0;
    for number in 0..500 {
        let_in += u64::from(bot(number).send_with_cookie(&mut sim));
    }
    assert_eq!(let_in, 45, "40 without a puzzle, and 5 in this second");
    let mut difficulties = Vec::new();
    for number in 500..2_000 {
        sim.now_ms += 50;
        if let Some(asked) = bot(number)
            .send(&mut sim)
            .and_then(|answer| answer.notify(kind::PUZZLE).cloned())
        {
            assert_eq!(asked.data[..2], PrfAlgorithm::HmacSha256.id().to_be_bytes());
            difficulties.push(asked.data[2]);
        }
        bot(number).send_with_cookie(&mut sim);
        if sim.endpoints[CENTER].half_open().count >= 135 {
            break;
        }
    }
    assert!(difficulties.is_sorted(), "{difficulties:?}");
    let seen: HashSet<_> = difficulties.into_iter().collect();
    assert!(seen.contains(&3) && seen.contains(&7), "{seen:?}");
    let solved = counters(&sim).puzzles_solved;
    establishes(&mut sim);
    assert_eq!(counters(&sim).puzzles_solved, solved + 1);
}

/// RFC 8019 section 7.1.4: a wrong solution is worse than none.
#[test]
fn a_wrong_solution_is_not_answered() {
    let mut config = center_config();
    config.defence.puzzle_from = 0;
    let mut sim = center(config);
    let mut request = Request::new(1, "203.0.113.1:500");
    let answer = request.send(&mut sim).unwrap();
    request.front = vec![
        Payload::Notify(answer.notify(kind::COOKIE).unwrap().clone()),
        Payload::PuzzleSolution(PuzzleSolution((0..32).collect())),
    ];
    assert!(request.send(&mut sim).is_none());
    let counted = counters(&sim);
    assert_eq!((counted.puzzles_failed, counted.key_exchanges), (1, 0));
}

/// An initiator of ours does not burn its processor for whoever asks: a puzzle that is too hard is left
/// unsolved, and the cookie goes back without.
#[test]
fn a_puzzle_that_is_too_hard_is_left() {
    let (mut site, mut config) = (site_config(), center_config());
    site.defence.solve_bits_max = 10;
    config.defence.puzzle_from = 0;
    config.defence.puzzle_bits_first = 40;
    config.defence.puzzle_bits_last = 40;
    let mut sim = Sim::new(site, config, 1);
    establishes(&mut sim);
    assert_eq!(counters(&sim).puzzles_solved, 0);
}

/// The table filled with the longest requests there may be: what it takes is counted, and bounded by
/// construction.
#[test]
fn memory_of_half_open_handshakes_is_bounded() {
    let mut config = center_config();
    config.half_open_max = 300;
    config.cookie_from = 1_000;
    let mut sim = center(config);
    let filled = |number: u64, len: usize| {
        let mut request = Request::new(
            number + 1,
            &format!("203.0.{}.{}:500", number / 250, number % 250),
        );
        let missing = len - request.datagram().payload.len() - 4;
        request.back.push(Payload::Vendor(VendorId(vec![7; missing])));
        assert_eq!(request.datagram().payload.len(), len);
        request
    };
    assert!(
        filled(0, INIT_REQUEST_MAX + 1).send(&mut sim).is_none(),
        "too long"
    );
    for number in 0..400 {
        filled(number, INIT_REQUEST_MAX).send(&mut sim);
    }
    let usage = sim.endpoints[CENTER].half_open();
    assert_eq!((usage.count, usage.sources), (300, 300));
    let each = usage.octets / usage.count;
    assert!(each > INIT_REQUEST_MAX, "the request is kept: {each}");
    assert!(each <= STATE_MAX, "{each} octets for each");
    assert_eq!(REASSEMBLY_MAX, 32_768);
    sim.run_ms(31_000);
    assert_eq!(sim.endpoints[CENTER].half_open(), Default::default());
}

/// RFC 7296 section 2.1: repetitions are answered from memory, and not for ever.
#[test]
fn a_repeated_request_costs_nothing_and_ends() {
    let mut sim = center(center_config());
    let request = Request::long(1, "203.0.113.1:500");
    let answers = (0..100).filter(|_| request.send(&mut sim).is_some()).count();
    assert_eq!(answers, 9, "the answer and eight repetitions");
    assert_eq!(counters(&sim).key_exchanges, 1);
    assert_eq!(sim.endpoints[CENTER].half_open().count, 1);
    // Another request with the same SPI and address is no second handshake.
    let mut other = Request::long(1, "203.0.113.1:500");
    other.back.push(Payload::Vendor(VendorId(vec![1])));
    assert!(other.send(&mut sim).is_none());
    assert_eq!(counters(&sim).key_exchanges, 1);
}

/// An offer that cannot be accepted makes no half-open IKE SA, so whoever sends it is never asked for a cookie: the
/// words that say what is wrong with it are made for a few a second. All are answered.
#[test]
fn a_flood_of_unacceptable_offers_is_answered_and_counted_not_told() {
    const MANY: u64 = 10_000;
    let mut sim = center(center_config());
    // Camellia.
    let unacceptable = |number: u64| {
        let [_, _, _, _, _, _, a, b] = number.to_be_bytes();
        let mut request = Request::long(number + 1, &format!("198.18.{a}.{b}:500"));
        request.cipher = 23;
        request
    };
    for number in 0..MANY {
        let answer = unacceptable(number).send(&mut sim).unwrap();
        assert!(answer.notify(kind::NO_PROPOSAL_CHOSEN).is_some());
    }
    let told = |sim: &Sim| {
        let refused = |event: &&Event| matches!(event, Event::ProposalRefused { .. });
        sim.events[CENTER].iter().filter(refused).count()
    };
    assert_eq!(told(&sim), REFUSALS_TOLD_PER_S as usize);
    let untold = MANY - u64::from(REFUSALS_TOLD_PER_S);
    assert_eq!(counters(&sim).refusals_untold, untold);
    sim.now_ms += 1_000;
    unacceptable(MANY).send(&mut sim).unwrap();
    assert_eq!(told(&sim), REFUSALS_TOLD_PER_S as usize + 1);
}

/// Public values of the wrong length, groups that were not offered: refused before a key is made.
#[test]
fn garbage_costs_no_key_exchange() {
    let mut sim = center(center_config());
    for len in [0, 1, 31, 33, 256] {
        let mut request = Request::long(1 + len as u64, "203.0.113.1:500");
        request.public = vec![9; len];
        let answer = request.send(&mut sim);
        assert!(answer.is_none_or(|answer| answer.ke().is_none()), "{len}");
    }
    assert_eq!(counters(&sim).key_exchanges, 0);
    assert_eq!(sim.endpoints[CENTER].half_open().count, 0);
}

/// A handshake that dribbles on is over when its time is.
#[test]
fn slow_handshakes_do_not_stay() {
    let (mut site, config) = (site_config(), center_config());
    site.fragment_size = Some(300);
    let mut sim = Sim::new(site, config, 3);
    sim.initiate();
    let mut held = Vec::new();
    while let Some((_, datagram)) = sim.in_flight.pop_first() {
        if datagram.payload[18] == 35 && datagram.from == site_address() {
            held.push(datagram);
        } else {
            sim.deliver(&datagram);
        }
    }
    assert!(held.len() > 3, "IKE_AUTH was to go in fragments");
    held.pop();
    // One fragment every nine seconds, over and over.
    for datagram in held.iter().cycle().take(10) {
        sim.now_ms += 9_000;
        let now = sim.now();
        sim.deliver(datagram);
        sim.endpoints[CENTER].handle_timeout(now);
        sim.drain(CENTER);
        sim.in_flight.clear();
    }
    assert_eq!(sim.endpoints[CENTER].half_open(), Default::default());
    assert!(!sim.planes[CENTER].began);
}

fn forged(sim: &Sim, notify: Notify) -> Datagram {
    let spi_i = Header::parse(&sim.sent[0].payload).unwrap().spi_i;
    let header = Header {
        spi_i,
        spi_r: 0,
        next_payload: payload_type::NONE,
        exchange: Exchange::IkeSaInit,
        from_initiator: false,
        response: true,
        message_id: 0,
    };
    Datagram {
        from: center_address(),
        to: site_address(),
        payload: header
            .message(Payload::chain(&[Payload::Notify(notify)]))
            .unwrap(),
    }
}

/// RFC 7296 section 2.21.1: somebody on the way answers first, with an error. The genuine answer counts.
#[test]
fn forged_refusals_do_not_stop_the_initiator() {
    let refusals = [
        Notify::new(kind::NO_PROPOSAL_CHOSEN, []),
        Notify::new(kind::INVALID_SYNTAX, []),
        Notify::new(kind::INVALID_MAJOR_VERSION, []),
        Notify::new(kind::INVALID_KE_PAYLOAD, [0, 2]),
        Notify::new(kind::INVALID_KE_PAYLOAD, [0, 14]),
        Notify::new(kind::INVALID_KE_PAYLOAD, [0]),
        Notify::new(kind::AUTHENTICATION_FAILED, []),
    ];
    for refusal in refusals {
        for copies in [1, 20] {
            let mut sim = Sim::new(site_config(), center_config(), 5);
            sim.initiate();
            for _ in 0..copies {
                let datagram = forged(&sim, refusal.clone());
                sim.deliver(&datagram);
            }
            sim.run_ms(1_500);
            sim.assert_agreement();
            assert!(
                sim.planes[SITE].sending_on.is_some(),
                "{refusal:?}, {copies} times: {}",
                sim.words(SITE)
            );
        }
    }
}

/// When nobody contradicts it, a refusal is believed after a while.
#[test]
fn a_refusal_that_stands_is_believed() {
    let mut sim = Sim::new(site_config(), center_config(), 6);
    sim.link.loss = 100;
    sim.initiate();
    let datagram = forged(&sim, Notify::new(kind::NO_PROPOSAL_CHOSEN, []));
    sim.deliver(&datagram);
    sim.run_ms(1_900);
    assert!(sim.events[SITE].is_empty());
    sim.run_ms(200);
    assert!(sim.words(SITE).contains("the peer answered NO_PROPOSAL_CHOSEN"));
    assert_eq!(sim.endpoints[SITE].poll_timeout(), None);
}

/// Cookies that change with every answer lead nowhere, and not for ever.
#[test]
fn a_game_of_cookies_ends() {
    let mut sim = Sim::new(site_config(), center_config(), 7);
    sim.link.loss = 100;
    sim.initiate();
    for number in 0..50u8 {
        let datagram = forged(&sim, Notify::new(kind::COOKIE, vec![number; 8]));
        sim.deliver(&datagram);
    }
    assert!(sim.sent.len() < 10, "{} requests", sim.sent.len());
    for data in [vec![], vec![1; 65]] {
        let before = sim.sent.len();
        let datagram = forged(&sim, Notify::new(kind::COOKIE, data));
        sim.deliver(&datagram);
        assert_eq!(sim.sent.len(), before, "RFC 7296 section 2.6: 1 to 64 octets");
    }
}

/// A puzzle costs the initiator a little at a time: between two steps everything else is served.
#[test]
fn a_puzzle_is_solved_in_steps() {
    let mut config = center_config();
    config.defence.puzzle_from = 0;
    config.defence.puzzle_bits_first = 11;
    config.defence.puzzle_bits_last = 11;
    let mut sim = Sim::new(site_config(), config, 8);
    sim.initiate();
    let mut steps = 0;
    while sim.planes[SITE].sending_on.is_none() {
        let solving = sim.endpoints[SITE]
            .poll_timeout()
            .is_some_and(|(_, reason)| reason == gateway_ike::TimeoutReason::Puzzle);
        steps += u32::from(solving);
        assert!(sim.step(sim.now_ms + 2_000), "{}", sim.words(SITE));
    }
    // Four keys of 2^11 tries each, 2,048 tries a step.
    assert!(steps > 1, "{steps}");
    assert_eq!(counters(&sim).puzzles_solved, 1);
}

/// RFC 7296 sections 1.5 and 2.4: whatever is said in the clear about a standing IKE SA, in whatever exchange,
/// ends nothing; at most it makes us ask.
#[test]
fn nothing_in_the_clear_tears_down_an_sa() {
    let mut sim = connected(site_config(), center_config(), 9);
    let spis = sim.endpoints[CENTER].ike_sas().next().unwrap().spis;
    let spi = sim.planes[CENTER].children.values().next().unwrap().sa.spi_in;
    let said = [
        Payload::Delete(Delete::Ike),
        Payload::Delete(Delete::Esp(vec![spi])),
        Payload::Notify(Notify::new(kind::INVALID_IKE_SPI, [])),
        Payload::Notify(Notify::new(kind::INVALID_SPI, spi.to_be_bytes())),
        Payload::Notify(Notify::new(kind::INVALID_SYNTAX, [])),
        Payload::Notify(Notify::new(kind::INVALID_MESSAGE_ID, [0, 0, 0, 1])),
        Payload::Notify(Notify::new(kind::AUTHENTICATION_FAILED, [])),
        Payload::Notify(Notify::new(kind::NO_PROPOSAL_CHOSEN, [])),
        Payload::Notify(Notify::new(kind::INITIAL_CONTACT, [])),
        Payload::Notify(Notify::new(kind::UPDATE_SA_ADDRESSES, [])),
    ];
    for payload in said {
        for (exchange, message_id) in [(34, 0), (35, 1), (36, 2), (37, 0), (37, 2), (37, 3), (240, 1)] {
            for response in [false, true] {
                for (from, to, from_initiator) in [
                    (site_address(), center_address(), true),
                    (center_address(), site_address(), false),
                ] {
                    let header = Header {
                        spi_i: spis.0,
                        spi_r: spis.1,
                        next_payload: payload_type::NONE,
                        exchange: Exchange::from(exchange),
                        from_initiator,
                        response,
                        message_id,
                    };
                    let payload = header
                        .message(Payload::chain(std::slice::from_ref(&payload)))
                        .unwrap();
                    sim.deliver(&Datagram { from, to, payload });
                }
            }
        }
    }
    sim.run_ms(60_000);
    sim.assert_agreement();
    for side in [SITE, CENTER] {
        assert_eq!(sim.endpoints[side].ike_sas().count(), 1);
        assert_eq!(sim.planes[side].children.len(), 1);
        assert!(
            sim.events[side]
                .iter()
                .all(|event| !matches!(event, Event::Closed { .. }))
        );
    }
}
