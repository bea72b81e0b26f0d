//! NATs, moves and paths: who follows whom, on what evidence, and what keeps a mapping alive (RFC 7296 section
//! 2.23, RFC 3948, RFC 4555).

mod common;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use common::*;
use gateway_ike::{
    Command, EndpointConfig, Event, TimeoutReason,
    wire::{
        Header, Message, Payload,
        notify::{Notify, kind},
    },
};

fn public(port: u16) -> SocketAddr {
    SocketAddr::new("203.0.113.9".parse().unwrap(), port)
}

/// A site behind a NAT.
fn behind_nat(mut site: EndpointConfig, mut center: EndpointConfig, mobike: bool) -> Sim {
    (site.mobike, center.mobike) = (mobike, mobike);
    let mut sim = Sim::new(site, center, 1);
    sim.nat = Some(public(1_024));
    sim.initiate();
    sim.run_ms(500);
    sim.assert_agreement();
    assert!(sim.planes[CENTER].sending_on.is_some(), "{}", sim.words(SITE));
    sim
}

/// Outer address that the center sends the site's traffic to.
fn sends_to(sim: &Sim) -> SocketAddr {
    let child = sim.planes[CENTER].sending_on.unwrap();
    sim.planes[CENTER].children[&child].sa.remote
}

fn ike_remote(sim: &Sim) -> SocketAddr {
    sim.endpoints[CENTER].ike_sas().next().unwrap().remote
}

fn liveness(sim: &mut Sim, side: usize) {
    let now = sim.now();
    let remote = sim.endpoints[side].ike_sas().next().unwrap().remote;
    sim.endpoints[side].handle_unreachable(now, remote);
    sim.drain(side);
    sim.run_ms(100);
}

/// RFC 7296 section 2.23: ports float, ESP goes in UDP, and both sides know who is behind the NAT.
#[test]
fn ports_float_when_a_nat_is_seen() {
    let sim = behind_nat(site_config(), center_config(), false);
    let child = &sim.planes[SITE].children[&sim.only_child(SITE)].sa;
    assert!(child.udp_encap);
    assert_eq!((child.local.port(), child.remote.port()), (4500, 4500));
    assert_eq!(sends_to(&sim), public(1_025));
    assert_eq!(ike_remote(&sim), public(1_025));
    let auth = sim.sent.iter().filter(|one| one.from.port() == 4500);
    assert!(auth.clone().count() >= 2);
    assert!(
        auth.into_iter().all(|one| one.payload[..4] == [0; 4]),
        "RFC 3948 section 2.2"
    );
}

/// The other role: the initiator is the one that is not behind a NAT.
#[test]
fn a_responder_behind_a_nat() {
    let mut sim = Sim::new(site_config(), center_config(), 1);
    sim.initiate();
    // The NAT in front of the center has one mapping a port; the site knows its outside.
    let outside: IpAddr = "203.0.113.1".parse().unwrap();
    let mut site = site_config();
    site.connections[0].remotes[0].address = SocketAddr::new(outside, 500);
    let mut sim = Sim::new(site, center_config(), 2);
    sim.initiate();
    for _ in 0..40 {
        let Some((_, mut datagram)) = sim.in_flight.pop_first() else {
            break;
        };
        if datagram.to.ip() == outside {
            datagram.to.set_ip(center_address().ip());
        } else if datagram.from.ip() == center_address().ip() {
            datagram.from.set_ip(outside);
        }
        sim.now_ms += 1;
        sim.deliver(&datagram);
    }
    sim.assert_agreement();
    let child = &sim.planes[SITE].children[&sim.only_child(SITE)].sa;
    assert!(child.udp_encap);
    assert_eq!(child.remote, SocketAddr::new(outside, 4500));
    // It is the center that keeps its mapping alive.
    let now = sim.now();
    let (due, _) = sim.endpoints[CENTER].poll_timeout().unwrap();
    assert!(due <= now.mono_ms + 20_000);
}

/// RFC 3948 section 4: a keepalive every 20 s of silence from the side behind the NAT, and from no other.
#[test]
fn keepalives_keep_the_mapping() {
    let mut center = center_config();
    center.dpd_after_s = 3_600;
    let mut site = site_config();
    site.dpd_after_s = 3_600;
    let mut sim = behind_nat(site, center, false);
    let before = sim.sent.len();
    sim.run_ms(100_000);
    let sent = &sim.sent[before..];
    assert_eq!(sent.len(), 5, "one every 20 s");
    for datagram in sent {
        assert_eq!(datagram.payload, [0xff]);
        assert_eq!(datagram.from, SocketAddr::new(site_address().ip(), 4500));
        assert_eq!(datagram.to, SocketAddr::new(center_address().ip(), 4500));
    }
    let counters = sim.endpoints[CENTER].counters();
    assert_eq!((counters.keepalives_received, counters.malformed), (5, 0));
    assert_eq!(sim.endpoints[SITE].counters().keepalives_sent, 5);

    // What else goes to the peer keeps the mapping as well.
    let (before, child) = (sim.sent.len(), sim.only_child(SITE));
    for _ in 0..10 {
        sim.run_ms(15_000);
        let now = sim.now();
        sim.endpoints[SITE].handle_child_sent(now, child);
    }
    assert_eq!(sim.sent.len(), before);
}

#[test]
fn keepalives_can_be_turned_off_and_need_a_nat() {
    for (nat, interval_s) in [(true, 0), (false, 20)] {
        let mut site = site_config();
        site.nat_keepalive_s = interval_s;
        let mut sim = if nat {
            behind_nat(site, center_config(), false)
        } else {
            connected(site, center_config(), 1)
        };
        sim.run_ms(300_000);
        assert_eq!(sim.endpoints[SITE].counters().keepalives_sent, 0);
    }
}

/// RFC 3948 section 4: keepalives are no sign of life.
#[test]
fn keepalives_do_not_replace_liveness() {
    let mut site = site_config();
    site.dpd_after_s = 3_600;
    let mut sim = behind_nat(site, center_config(), false);
    let heard = |sim: &Sim| {
        let (due, reason) = sim.endpoints[CENTER].poll_timeout().unwrap();
        assert_eq!(reason, TimeoutReason::Liveness);
        due
    };
    let before = heard(&sim);
    sim.run_ms(25_000);
    assert_eq!(sim.endpoints[CENTER].counters().keepalives_received, 1);
    assert_eq!(heard(&sim), before);
}

/// RFC 7296 section 2.23: the NAT forgot its mapping; the first authentic IKE message shows the new one.
#[test]
fn an_ike_message_from_a_new_mapping_is_followed() {
    let mut sim = behind_nat(site_config(), center_config(), false);
    sim.nat = Some(public(40_000));
    liveness(&mut sim, SITE);
    assert_eq!(ike_remote(&sim), public(40_001));
    assert_eq!(sends_to(&sim), public(40_001));
    assert!(
        sim.words(CENTER)
            .contains("moved from 203.0.113.9:1025 to 203.0.113.9:40001")
    );
    // What the center sends arrives again.
    liveness(&mut sim, CENTER);
    assert_eq!(sim.endpoints[CENTER].counters().retransmitted, 0);
    sim.assert_agreement();
}

/// So does the first authentic ESP packet; the data plane tells of it.
#[test]
fn an_esp_packet_from_a_new_mapping_is_followed() {
    let mut sim = behind_nat(site_config(), center_config(), false);
    let child = sim.planes[CENTER].sending_on.unwrap();
    let now = sim.now();
    sim.nat = Some(public(50_000));
    sim.endpoints[CENTER].handle_peer_moved(now, child, public(50_001));
    sim.drain(CENTER);
    assert_eq!(
        (sends_to(&sim), ike_remote(&sim)),
        (public(50_001), public(50_001))
    );
    liveness(&mut sim, CENTER);
    assert_eq!(sim.endpoints[CENTER].counters().retransmitted, 0);
    // A rekeyed Child SA goes there too.
    let child = sim.only_child(CENTER);
    sim.command(CENTER, Command::RekeyChild(child));
    sim.run_ms(500);
    sim.traffic(SITE);
    assert_eq!(sends_to(&sim), public(50_001));
}

/// Without a NAT in front of the peer nothing is followed, whatever the data plane saw; nor to an address
/// that is no host's, nor to another family.
#[test]
fn nobody_else_is_followed() {
    let mut sim = connected(site_config(), center_config(), 1);
    let child = sim.planes[CENTER].sending_on.unwrap();
    let now = sim.now();
    sim.endpoints[CENTER].handle_peer_moved(now, child, public(4500));
    sim.drain(CENTER);
    assert_eq!(sends_to(&sim).ip(), site_address().ip());
    // An authentic IKE message from elsewhere is answered to where it came from, and changes nothing.
    let from_site = sim.sent.iter().filter(|one| one.from == site_address()).count();
    assert!(from_site > 0);
    let mut sim = behind_nat(site_config(), center_config(), false);
    let child = sim.planes[CENTER].sending_on.unwrap();
    for address in [
        "224.0.0.1:4500",
        "127.0.0.1:1",
        "198.51.100.1:4500",
        "[2001:db8::1]:4500",
    ] {
        let now = sim.now();
        sim.endpoints[CENTER].handle_peer_moved(now, child, address.parse().unwrap());
        sim.drain(CENTER);
    }
    // Neither does the side that is behind the NAT itself follow.
    let (now, child) = (sim.now(), sim.only_child(SITE));
    sim.endpoints[SITE].handle_peer_moved(now, child, public(4500));
    sim.drain(SITE);
    assert_eq!((sim.planes[CENTER].moves, sim.planes[SITE].moves), (0, 0));
    assert_eq!(sim.endpoints[CENTER].counters().moves_refused, 4);
}

/// RFC 7296 section 2.11: a response goes to where its request came from.
#[test]
fn responses_go_back_where_the_request_came_from() {
    let mut sim = connected(site_config(), center_config(), 1);
    let now = sim.now();
    sim.endpoints[SITE].handle_unreachable(now, center_address());
    sim.drain(SITE);
    let (_, mut request) = sim.in_flight.pop_first().unwrap();
    request.from = public(7_000);
    let before = sim.sent.len();
    sim.deliver(&request);
    assert_eq!(sim.sent[before].to, public(7_000));
    assert_eq!(
        ike_remote(&sim),
        site_address(),
        "no NAT was seen: nobody is followed"
    );
    assert_eq!(sim.planes[CENTER].moves, 0);
}

/// Replayed, old or forged messages from elsewhere move nothing.
#[test]
fn replays_from_elsewhere_move_nothing() {
    let mut sim = behind_nat(site_config(), center_config(), false);
    for _ in 0..3 {
        liveness(&mut sim, SITE);
        sim.run_ms(11_000);
    }
    let (moves, remote) = (sim.planes[CENTER].moves, ike_remote(&sim));
    let recorded = sim.sent.clone();
    for (index, mut datagram) in recorded.into_iter().enumerate() {
        datagram.from = public(60_000);
        if datagram.to.ip() == public(0).ip() {
            datagram.to = SocketAddr::new(site_address().ip(), 4500);
            datagram.from = SocketAddr::new(center_address().ip(), 9);
        }
        sim.deliver(&datagram);
        let at = index % datagram.payload.len();
        datagram.payload[at] ^= 0x40;
        sim.deliver(&datagram);
    }
    assert_eq!((sim.planes[CENTER].moves, ike_remote(&sim)), (moves, remote));
    assert_eq!(sim.planes[SITE].moves, 0);
}

/// RFC 7296 section 2.4: what anybody can say makes us ask, and not often.
#[test]
fn unreachable_makes_us_ask_at_most_once_in_a_while() {
    let mut sim = connected(site_config(), center_config(), 1);
    let before = sim.sent.len();
    for _ in 0..1_000 {
        let now = sim.now();
        sim.endpoints[CENTER].handle_unreachable(now, site_address());
        sim.endpoints[CENTER].handle_unreachable(now, public(500));
        sim.drain(CENTER);
        sim.run_ms(5);
    }
    assert_eq!(sim.sent.len(), before + 2, "one request and its response in 5 s");
    assert_eq!(sim.endpoints[CENTER].ike_sas().count(), 1);
    // When it is true the peer is gone sooner than after the silence.
    sim.run_ms(10_000);
    sim.link.loss = 100;
    let now = sim.now();
    sim.endpoints[CENTER].handle_unreachable(now, site_address());
    sim.drain(CENTER);
    sim.run_ms(39_500);
    assert_eq!(sim.endpoints[CENTER].ike_sas().count(), 0);
}

fn mobile() -> (EndpointConfig, EndpointConfig) {
    let (mut site, mut center) = (site_config(), center_config());
    (site.mobike, center.mobike) = (true, true);
    (site, center)
}

fn second_site() -> SocketAddr {
    "192.0.2.77:4500".parse().unwrap()
}

/// The site's second address is the same host: replaces the link's idea of who is who.
fn move_site(sim: &mut Sim) {
    sim.site_addresses.push(second_site().ip());
    let ike_sa = sim.only_ike_sa(SITE);
    sim.command(
        SITE,
        Command::Move {
            ike_sa,
            local: second_site(),
            remote: center_address(),
        },
    );
}

/// RFC 4555 section 3.3: with MOBIKE the ports float although no NAT was seen; ESP stays plain.
#[test]
fn mobike_floats_without_a_nat() {
    let (site, center) = mobile();
    let sim = connected(site, center, 1);
    assert_eq!(ike_remote(&sim).port(), 4500);
    let child = &sim.planes[SITE].children[&sim.only_child(SITE)].sa;
    assert!(!child.udp_encap);
}

/// RFC 4555 section 3.5 and 3.7: the site moves; the center's traffic follows once the site has shown that it
/// receives there.
#[test]
fn a_site_moves() {
    let (site, center) = mobile();
    let mut sim = connected(site, center, 1);
    move_site(&mut sim);
    let mut moved_after = None;
    for count in 0.. {
        let Some((_, datagram)) = sim.in_flight.pop_first() else {
            break;
        };
        sim.now_ms += 1;
        sim.deliver(&datagram);
        if sim.planes[CENTER].moves > 0 && moved_after.is_none() {
            moved_after = Some(count);
        }
    }
    assert_eq!(
        moved_after,
        Some(3),
        "request, its response, COOKIE2 and its return"
    );
    assert_eq!(sends_to(&sim), second_site());
    let child = &sim.planes[SITE].children[&sim.only_child(SITE)].sa;
    assert_eq!(child.local, second_site());
    assert!(!child.udp_encap);
    assert!(
        sim.words(CENTER)
            .contains("moved from 192.0.2.1:4500 to 192.0.2.77:4500"),
        "{}",
        sim.words(CENTER)
    );
    // Both go on from there: rekeys, and MOBIKE after the rekey of the IKE SA.
    let ike_sa = sim.only_ike_sa(CENTER);
    sim.command(CENTER, Command::RekeyIke(ike_sa));
    sim.run_ms(500);
    let ike_sa = sim.only_ike_sa(SITE);
    sim.command(
        SITE,
        Command::Move {
            ike_sa,
            local: site_address(),
            remote: center_address(),
        },
    );
    sim.run_ms(500);
    assert_eq!(sends_to(&sim).ip(), site_address().ip());
    sim.assert_agreement();
}

/// A peer that says it moved to somebody else's address gets nothing sent there: the COOKIE2 does not return.
#[test]
fn traffic_is_not_sent_to_a_victim() {
    let (site, center) = mobile();
    let mut sim = connected(site, center, 1);
    let victim: SocketAddr = "203.0.113.50:4500".parse().unwrap();
    let ike_sa = sim.only_ike_sa(SITE);
    sim.command(
        SITE,
        Command::Move {
            ike_sa,
            local: victim,
            remote: center_address(),
        },
    );
    // The request leaves the attacker; what goes to the victim is never answered.
    let (_, request) = sim.in_flight.pop_first().unwrap();
    assert_eq!(request.from, victim);
    sim.deliver(&request);
    sim.in_flight.clear();
    let sent = sim.sent.len();
    while sim.endpoints[CENTER].ike_sas().count() > 0 {
        assert_eq!(sim.planes[CENTER].moves, 0);
        let (due, _) = sim.endpoints[CENTER].poll_timeout().unwrap();
        sim.now_ms = due.max(sim.now_ms);
        let now = sim.now();
        sim.endpoints[CENTER].handle_timeout(now);
        sim.drain(CENTER);
        sim.in_flight.clear();
    }
    assert!(
        sim.sent.len() - sent < 10,
        "a handful of small requests is all the victim sees"
    );
    assert!(sim.planes[CENTER].children.is_empty());
}

/// Regression: the request with COOKIE2 for one path was repeated on the next. So a site that said it was at the victim's
/// address, then at its own, and then at the victim's again, could answer it without receiving anything there.
#[test]
fn a_cookie_that_was_sent_elsewhere_proves_nothing() {
    let (site, center) = mobile();
    let mut sim = connected(site, center, 1);
    let victim: SocketAddr = "203.0.113.50:4500".parse().unwrap();
    let own = SocketAddr::new(site_address().ip(), 4500);
    let mut held = Vec::new();
    // What the center asks at the victim's address is lost; what it answers there the attacker can tell by itself.
    let relay = |sim: &mut Sim, held: &mut Vec<Datagram>| {
        while let Some((_, datagram)) = sim.in_flight.pop_first() {
            sim.now_ms += 1;
            // Behind the non-ESP marker.
            let is_response = datagram.payload[4 + 19] & 0x20 != 0;
            let to_center = datagram.to.ip() == center_address().ip();
            if to_center && is_response {
                held.push(datagram);
            } else if is_response || datagram.to != victim {
                let (side, now) = (if to_center { CENTER } else { SITE }, sim.now());
                let (to, from) = (datagram.to, datagram.from);
                sim.endpoints[side].handle_datagram(now, to, from, &datagram.payload);
                sim.drain(side);
            }
        }
    };
    let go = |sim: &mut Sim, held: &mut Vec<Datagram>, local: SocketAddr| {
        let (ike_sa, remote) = (sim.only_ike_sa(SITE), center_address());
        sim.command(
            SITE,
            Command::Move {
                ike_sa,
                local,
                remote,
            },
        );
        relay(sim, held);
        assert_eq!(ike_remote(sim), local);
    };
    go(&mut sim, &mut held, victim);
    go(&mut sim, &mut held, own);
    assert!(held.is_empty());
    // The center repeats what it asked.
    let (due, _) = sim.endpoints[CENTER].poll_timeout().unwrap();
    sim.now_ms = due.max(sim.now_ms);
    let now = sim.now();
    sim.endpoints[CENTER].handle_timeout(now);
    sim.drain(CENTER);
    // By now the attacker knows the cookie.
    relay(&mut sim, &mut held);
    let answer = Datagram {
        from: victim,
        ..held.pop().expect("an answer")
    };
    go(&mut sim, &mut held, victim);
    sim.deliver(&answer);
    relay(&mut sim, &mut held);
    assert_eq!(sends_to(&sim).ip(), own.ip());
    // One who is where he says he is has his traffic there all the same.
    go(&mut sim, &mut held, own);
    held.clear();
    move_site(&mut sim);
    sim.run_ms(60_000);
    assert_eq!(sends_to(&sim), second_site());
    sim.assert_agreement();
}

/// The same the other way round: the center names the victim as another address of its own, keeps silent until the site has tried
/// that, and answers what was repeated on the path before.
#[test]
fn an_update_that_was_sent_elsewhere_proves_nothing() {
    let victim: SocketAddr = "203.0.113.50:4500".parse().unwrap();
    let (site, mut center) = mobile();
    center.additional_addresses = vec![victim.ip()];
    let mut sim = connected(site, center, 1);
    let mut held = Vec::new();
    let relay = |sim: &mut Sim, held: &mut Vec<Datagram>| {
        while let Some((_, datagram)) = sim.in_flight.pop_first() {
            sim.now_ms += 1;
            // Behind the non-ESP marker.
            let is_response = datagram.payload[4 + 19] & 0x20 != 0;
            if datagram.to.ip() == site_address().ip() && is_response {
                held.push(datagram);
            } else if datagram.to != victim {
                sim.deliver(&datagram);
            }
        }
    };
    // The site repeats its request until it does so elsewhere.
    let silent_until_at = |sim: &mut Sim, held: &mut Vec<Datagram>, remote: IpAddr| {
        while sim.endpoints[SITE].ike_sas().next().unwrap().remote.ip() != remote {
            let (due, _) = sim.endpoints[SITE].poll_timeout().unwrap();
            sim.now_ms = due.max(sim.now_ms);
            let now = sim.now();
            sim.endpoints[SITE].handle_timeout(now);
            sim.drain(SITE);
            relay(sim, held);
        }
    };
    let ask = |sim: &mut Sim, held: &mut Vec<Datagram>, side: usize| {
        let now = sim.now();
        let remote = sim.endpoints[side].ike_sas().next().unwrap().remote;
        sim.endpoints[side].handle_unreachable(now, remote);
        sim.drain(side);
        relay(sim, held);
    };
    let answer = |sim: &mut Sim, held: &mut Vec<Datagram>| {
        let datagram = held.pop().expect("an answer");
        held.clear();
        sim.deliver(&Datagram {
            from: victim,
            ..datagram
        });
        relay(sim, held);
    };
    ask(&mut sim, &mut held, SITE);
    silent_until_at(&mut sim, &mut held, victim.ip());
    answer(&mut sim, &mut held);
    assert!(
        held.is_empty(),
        "what says that the site is here goes to the victim"
    );
    silent_until_at(&mut sim, &mut held, center_address().ip());
    // A request of its own has the site try all addresses once more.
    ask(&mut sim, &mut held, CENTER);
    silent_until_at(&mut sim, &mut held, victim.ip());
    answer(&mut sim, &mut held);
    let child = sim.planes[SITE].sending_on.unwrap();
    assert_eq!(
        sim.planes[SITE].children[&child].sa.remote.ip(),
        center_address().ip()
    );
}

/// RFC 4555 section 3.8: with MOBIKE an IKE message from elsewhere moves nothing; ESP may; and the initiator
/// notices the new mapping and says so.
#[test]
fn mobike_and_a_nat_that_rebinds() {
    let mut sim = behind_nat(site_config(), center_config(), true);
    sim.run_ms(31_000);
    sim.events[CENTER].clear();
    sim.nat = Some(public(30_000));
    let child = sim.planes[CENTER].sending_on.unwrap();
    let now = sim.now();
    sim.endpoints[CENTER].handle_peer_moved(now, child, public(30_001));
    sim.drain(CENTER);
    assert_eq!(sends_to(&sim), public(30_001));
    assert_ne!(ike_remote(&sim), public(30_001));
    sim.run_ms(70_000);
    assert_eq!(ike_remote(&sim), public(30_001), "UPDATE_SA_ADDRESSES after DPD");
    assert_eq!(sends_to(&sim), public(30_001));
    let moved = |event: &&Event| matches!(event, Event::PeerMoved { .. });
    assert_eq!(sim.events[CENTER].iter().filter(moved).count(), 1);
}

/// RFC 4555 section 3.5: an address that the responder cannot accept is refused and the initiator stays.
#[test]
fn an_unacceptable_address() {
    let (site, center) = mobile();
    let mut sim = connected(site, center, 1);
    sim.site_addresses.push("127.0.0.5".parse().unwrap());
    let ike_sa = sim.only_ike_sa(SITE);
    sim.command(
        SITE,
        Command::Move {
            ike_sa,
            local: "127.0.0.5:4500".parse().unwrap(),
            remote: center_address(),
        },
    );
    sim.run_ms(500);
    assert!(
        sim.words(SITE).contains("UNACCEPTABLE_ADDRESSES"),
        "{}",
        sim.words(SITE)
    );
    assert_eq!(
        sim.endpoints[SITE].ike_sas().next().unwrap().local.ip(),
        site_address().ip()
    );
    assert_eq!((sim.planes[SITE].moves, sim.planes[CENTER].moves), (0, 0));
    sim.assert_agreement();
}

/// Only the side that began the IKE SA moves, and only with MOBIKE on both sides.
#[test]
fn who_may_not_move() {
    let (site, center) = mobile();
    let mut sim = connected(site, center, 1);
    let ike_sa = sim.only_ike_sa(CENTER);
    let command = |ike_sa| Command::Move {
        ike_sa,
        local: public(4500),
        remote: site_address(),
    };
    sim.command(CENTER, command(ike_sa));
    assert!(
        sim.words(CENTER)
            .contains("MOBIKE is not in use, or we are not its initiator")
    );

    let (site, mut center) = mobile();
    center.mobike = false;
    let mut sim = connected(site, center, 1);
    let sent = sim.sent.len();
    let ike_sa = sim.only_ike_sa(SITE);
    sim.command(SITE, command(ike_sa));
    assert!(sim.words(SITE).contains("MOBIKE is not in use"));
    assert_eq!(sim.sent.len(), sent);
}

/// The peer said where else it is (RFC 4555 section 3.4): when it is silent, that is tried before it counts as
/// gone.
#[test]
fn another_address_of_a_silent_center_is_tried() {
    let (site, mut center) = mobile();
    let second: IpAddr = "198.51.100.2".parse().unwrap();
    center.additional_addresses = vec![center_address().ip(), "2001:db8::1".parse().unwrap(), second];
    let mut sim = connected(site, center, 1);
    // The center's first line is dead from now on.
    sim.unreachable.push(center_address().ip());
    sim.run_ms(140_000);
    assert_eq!(sim.endpoints[SITE].ike_sas().count(), 1, "{}", sim.words(SITE));
    assert_eq!(sim.endpoints[SITE].ike_sas().next().unwrap().remote.ip(), second);
    let child = &sim.planes[SITE].children[&sim.only_child(SITE)].sa;
    assert_eq!(child.remote.ip(), second);
    let child = sim.planes[CENTER].sending_on.unwrap();
    assert_eq!(sim.planes[CENTER].children[&child].sa.local.ip(), second);
}

/// Moves over a link that loses, repeats and reorders, with rekeys in between: both end at the same place.
#[test]
fn moves_over_a_bad_link() {
    let seeds = std::env::var("GATEWAY_SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(60) {
        let (mut site, mut center) = mobile();
        for config in [&mut site, &mut center] {
            config.retransmit.repetitions_max = 12;
            config.retransmit.longest_ms = 2_000;
        }
        let mut sim = connected(site, center, seed);
        sim.site_addresses.push(second_site().ip());
        sim.link = Link {
            loss: 20,
            duplicates: 10,
            delay_ms: 200,
        };
        let places: [SocketAddr; 2] = [site_address(), second_site()];
        let mut last = places[0];
        for _ in 0..6 {
            let newest = sim.endpoints[SITE].ike_sas().map(|info| info.id).last().unwrap();
            match sim.rng.below(4) {
                0 => sim.command(SITE, Command::RekeyIke(newest)),
                1 => {
                    let child = sim.planes[SITE].sending_on.unwrap();
                    sim.command(SITE, Command::RekeyChild(child));
                }
                _ => {
                    let place = places[usize::try_from(sim.rng.below(2)).unwrap()];
                    let before = sim.events[SITE].len();
                    let command = Command::Move {
                        ike_sa: newest,
                        local: place,
                        remote: center_address(),
                    };
                    sim.command(SITE, command);
                    // While the IKE SA is being replaced it cannot move; somebody asks again later.
                    if sim.events[SITE].len() == before {
                        last = place;
                    }
                }
            }
            let pause = sim.rng.below(3_000);
            sim.run_ms(pause);
        }
        sim.link = Link {
            delay_ms: 5,
            ..Link::default()
        };
        sim.run_ms(60_000);
        sim.assert_agreement();
        let seen: BTreeSet<_> = [
            sends_to(&sim).ip(),
            ike_remote(&sim).ip(),
            sim.planes[SITE].children[&sim.only_child(SITE)].sa.local.ip(),
            last.ip(),
        ]
        .into();
        assert_eq!(
            seen.len(),
            1,
            "seed {seed}: {seen:?}\n{}\n{}",
            sim.words(SITE),
            sim.words(CENTER)
        );
    }
}

/// RFC 4555 section 3.9: a peer that forbids NATs is told when there is one on the way.
#[test]
fn a_peer_that_forbids_nats() {
    let mut source = Sim::new(site_config(), center_config(), 1);
    source.initiate();
    let request = source.sent.remove(0);
    let header = Header::parse(&request.payload).unwrap();
    let claims = |source_port: u16| {
        let message = Message::parse(header.next_payload, &request.payload[28..]).unwrap();
        let mut data = [192, 0, 2, 1, 198, 51, 100, 1].to_vec();
        data.extend_from_slice(&source_port.to_be_bytes());
        data.extend_from_slice(&500u16.to_be_bytes());
        let mut payloads = message.0;
        payloads.push(Payload::Notify(Notify::new(kind::NO_NATS_ALLOWED, data)));
        let mut sim = Sim::new(site_config(), center_config(), 2);
        sim.deliver(&Datagram {
            payload: header.message(Payload::chain(&payloads)).unwrap(),
            ..request.clone()
        });
        let answer = sim.sent.remove(0).payload;
        let first = Header::parse(&answer).unwrap().next_payload;
        Message::parse(first, &answer[28..]).unwrap()
    };
    assert!(claims(500).ke().is_some());
    let refused = claims(501);
    assert_eq!(
        refused.error().map(|error| error.kind),
        Some(kind::UNEXPECTED_NAT_DETECTED)
    );
}
