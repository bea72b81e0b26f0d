//! Quick crash detection (RFC 6290): a side that lost its IKE SAs, and those who only say so.

mod common;

use common::*;
use gateway_ike::{CloseReason, Command, CrashSecret, EndpointConfig, Event, Start};

const HEADER_LEN: usize = 28;
const QCD_TOKEN: [u8; 2] = [0x40, 0x23];

fn center() -> EndpointConfig {
    let mut config = center_config();
    config.crash_secret = Some(CrashSecret::new(&[7; 32]));
    config
}

fn site() -> EndpointConfig {
    let mut config = site_config();
    config.crash_secret = Some(CrashSecret::new(&[8; 32]));
    config.connections[0].start = Start::Now;
    config
}

fn closed(sim: &Sim, side: usize, wanted: &CloseReason) -> bool {
    let closed = |event: &Event| matches!(event, Event::Closed { reason, .. } if reason == wanted);
    sim.events[side].iter().any(closed)
}

/// A notification in the clear, and a token in it.
fn shows_token(payload: &[u8]) -> bool {
    payload[16] == 41 && notify_at(payload, QCD_TOKEN).is_some()
}

/// A request of the site, whatever for.
fn ask(sim: &mut Sim) {
    let ike_sa = sim.only_ike_sa(SITE);
    sim.command(SITE, Command::RekeyIke(ike_sa));
}

/// The last datagram from one side to the other that satisfies.
fn last_sent(sim: &Sim, from: usize, which: impl Fn(&[u8]) -> bool) -> Datagram {
    let address = [site_address(), center_address()][from];
    let found = sim.sent.iter().rev();
    let mut found = found.filter(|one| one.from.ip() == address.ip() && which(&one.payload));
    found.next().expect("no such datagram").clone()
}

/// Everything is up again one round trip after the first request to the center that lost all, and the set-up. Without
/// tokens the site would ask for 39 s.
#[test]
fn a_restart_heals_in_one_round_trip() {
    let mut sim = connected(site(), center(), 1);
    sim.crash(CENTER, center());
    ask(&mut sim);
    let began_ms = sim.now_ms;
    while sim.planes[CENTER].children.is_empty() {
        assert!(sim.step(began_ms + 1_000), "{}", sim.history.join("\n"));
    }
    sim.run_ms(10);
    assert!(closed(&sim, SITE, &CloseReason::PeerRestarted));
    assert_eq!(sim.endpoints[SITE].counters().crash_tokens_accepted, 1);
    // The link takes 1 ms each way: request and token, IKE_SA_INIT, IKE_AUTH.
    assert!(
        sim.now_ms - began_ms <= 2 + 2 + 2 + 10,
        "{} ms",
        sim.now_ms - began_ms
    );
    assert_eq!(sim.planes[SITE].children.len(), 1);
    sim.assert_agreement();
}

/// Nobody has to send: silence is enough, and is noticed by the usual question after `dpd_after_s`.
#[test]
fn a_silent_site_notices_by_its_usual_question() {
    let mut sim = connected(site(), center(), 2);
    let before = sim.only_ike_sa(SITE);
    sim.crash(CENTER, center());
    sim.run_ms(31_000);
    assert!(
        closed(&sim, SITE, &CloseReason::PeerRestarted),
        "{}",
        sim.words(SITE)
    );
    assert_ne!(sim.only_ike_sa(SITE), before);
    sim.assert_agreement();
}

/// Both sides are makers and takers: the responder learns that the initiator lost the IKE SA.
#[test]
fn a_responder_is_told_as_well() {
    let mut sim = connected(site(), center(), 3);
    let mut lonely = site();
    lonely.connections.clear();
    sim.crash(SITE, lonely);
    let ike_sa = sim.only_ike_sa(CENTER);
    sim.command(CENTER, Command::RekeyIke(ike_sa));
    sim.run_ms(100);
    assert!(closed(&sim, CENTER, &CloseReason::PeerRestarted));
    assert!(sim.planes[CENTER].children.is_empty());
}

/// RFC 6290 section 4.3: a rekeyed IKE SA has tokens of its own, in both directions, whoever rekeyed.
#[test]
fn tokens_follow_a_rekeying() {
    for (rekeys, crashes) in [(SITE, CENTER), (CENTER, CENTER), (SITE, SITE), (CENTER, SITE)] {
        let mut sim = connected(site(), center(), 4);
        let ike_sa = sim.only_ike_sa(rekeys);
        sim.command(rekeys, Command::RekeyIke(ike_sa));
        sim.run_ms(1_000);
        let mut again = if crashes == SITE { site() } else { center() };
        again.connections.clear();
        sim.crash(crashes, again);
        let told = 1 - crashes;
        let ike_sa = sim.only_ike_sa(told);
        sim.command(told, Command::RekeyIke(ike_sa));
        sim.run_ms(5);
        assert!(
            closed(&sim, told, &CloseReason::PeerRestarted),
            "side {rekeys} rekeyed, side {crashes} crashed\n{}",
            sim.history.join("\n")
        );
    }
}

/// An answer of somebody on the path who saw everything but has no token: with another token, with none, and with
/// the token of another IKE SA.
#[test]
fn what_is_forged_changes_nothing() {
    let mut sim = connected(site(), center(), 5);
    // A real token, of an IKE SA that is no more.
    sim.crash(CENTER, center());
    ask(&mut sim);
    sim.run_ms(1_000);
    let real = last_sent(&sim, CENTER, shows_token);
    let ike_sa = sim.only_ike_sa(SITE);
    let (spi_i, spi_r) = sim.endpoints[SITE].ike_sa(ike_sa).unwrap().spis;
    let children = sim.planes[SITE].children.len();
    let mut of_another = real.clone();
    of_another.payload[..8].copy_from_slice(&spi_i.to_be_bytes());
    of_another.payload[8..16].copy_from_slice(&spi_r.to_be_bytes());
    let mut guessed = of_another.clone();
    let last = guessed.payload.len() - 1;
    guessed.payload[last] ^= 1;
    for forged in [real, of_another, guessed] {
        for _ in 0..100 {
            sim.deliver(&forged);
        }
    }
    sim.run_ms(5_000);
    assert_eq!(sim.only_ike_sa(SITE), ike_sa);
    assert_eq!(sim.planes[SITE].children.len(), children);
    assert_eq!(sim.endpoints[SITE].counters().crash_tokens_accepted, 1);
    assert!(sim.endpoints[SITE].counters().crash_tokens_refused >= 200);
}

/// The attack on the idea: somebody who knows the SPIs of an IKE SA that stands asks the maker for its token. He gets
/// none, with either role in the flags, and with either of the SPIs replaced by another.
#[test]
fn no_token_leaves_while_the_ike_sa_is_there() {
    let mut sim = connected(site(), center(), 6);
    ask(&mut sim);
    sim.run_ms(1_000);
    let ike_sa = sim.only_ike_sa(SITE);
    let genuine = last_sent(&sim, SITE, |_| true);
    let before = sim.sent.len();
    for side in [SITE, CENTER] {
        let addresses = [site_address(), center_address()];
        for flags in [0x00, 0x08] {
            for replaced in [None, Some(0..8), Some(8..16)] {
                let mut probe = genuine.clone();
                (probe.from, probe.to) = ("203.0.113.66:500".parse().unwrap(), addresses[side]);
                probe.payload[19] = flags;
                // Of the initiator's SPI and the responder's, one may be unknown; then the token is of another IKE SA.
                if let Some(range) = replaced {
                    probe.payload[range].fill(0x55);
                }
                let whole = probe.payload[..16] == genuine.payload[..16];
                let tokens = |sim: &Sim| sim.endpoints[side].counters().crash_tokens_sent;
                let before = tokens(&sim);
                sim.deliver(&probe);
                assert!(!whole || tokens(&sim) == before);
            }
        }
    }
    for answer in &sim.sent[before..].to_vec() {
        let mut to_site = answer.clone();
        (to_site.from, to_site.to) = (center_address(), site_address());
        let mut to_center = answer.clone();
        (to_center.from, to_center.to) = (site_address(), center_address());
        sim.deliver(&to_site);
        sim.deliver(&to_center);
    }
    for endpoint in &sim.endpoints {
        assert_eq!(endpoint.counters().crash_tokens_accepted, 0);
    }
    sim.run_ms(1_000);
    assert_eq!(sim.only_ike_sa(SITE), ike_sa);
    sim.assert_agreement();
}

/// The peer answers our rekeying and uses the new IKE SA at once; its request overtakes the answer. We do not know the
/// IKE SA yet, and that is no proof that it is lost. (Found by the simulation.)
#[test]
fn no_token_leaves_while_the_ike_sa_is_being_made() {
    let mut sim = connected(site(), center(), 12);
    let ike_sa = sim.only_ike_sa(CENTER);
    sim.command(CENTER, Command::RekeyIke(ike_sa));
    let (_, request) = sim.in_flight.pop_first().unwrap();
    sim.deliver(&request);
    let (_, answer) = sim.in_flight.pop_first().unwrap();
    let new = sim.endpoints[SITE].ike_sas().last().unwrap().id;
    sim.command(SITE, Command::RekeyIke(new));
    let (_, early) = sim.in_flight.pop_first().unwrap();
    sim.deliver(&early);
    assert_eq!(sim.endpoints[CENTER].counters().crash_tokens_sent, 0);
    let late: Vec<_> = std::mem::take(&mut sim.in_flight).into_values().collect();
    sim.deliver(&answer);
    sim.run_ms(100);
    late.iter().for_each(|datagram| sim.deliver(datagram));
    sim.run_ms(60_000);
    assert!(!closed(&sim, SITE, &CloseReason::PeerRestarted));
    sim.assert_agreement();
}

/// A token from another address than the peer's is a replay by somebody: the peer itself would send from its own.
#[test]
fn a_token_counts_from_the_peers_address_only() {
    let mut sim = connected(site(), center(), 7);
    sim.crash(CENTER, center());
    sim.unreachable = vec![site_address().ip()];
    ask(&mut sim);
    let asked = last_sent(&sim, SITE, |_| true);
    sim.deliver(&asked);
    let mut token = last_sent(&sim, CENTER, shows_token);
    token.from = "203.0.113.66:500".parse().unwrap();
    sim.deliver(&token);
    assert_eq!(sim.endpoints[SITE].counters().crash_tokens_accepted, 0);
    token.from = center_address();
    sim.deliver(&token);
    assert_eq!(sim.endpoints[SITE].counters().crash_tokens_accepted, 1);
}

/// Another secret, as of a gateway whose state was lost: the site is where it was without tokens, and asks.
#[test]
fn a_lost_secret_costs_time_and_nothing_else() {
    let mut sim = connected(site(), center(), 8);
    let mut other = center();
    other.crash_secret = Some(CrashSecret::new(&[9; 32]));
    sim.crash(CENTER, other);
    ask(&mut sim);
    sim.run_ms(20_000);
    assert_eq!(sim.endpoints[SITE].counters().crash_tokens_accepted, 0);
    assert!(!closed(&sim, SITE, &CloseReason::PeerRestarted));
    sim.run_ms(60_000);
    assert!(closed(&sim, SITE, &CloseReason::PeerUnresponsive));
    sim.assert_agreement();
}

/// No answer is longer than its request: a request too short for a token gets the short answer. Ours are long enough.
#[test]
fn tokens_do_not_amplify() {
    let mut sim = connected(site(), center(), 9);
    sim.crash(CENTER, center());
    let spare = last_sent(&sim, SITE, |payload| payload.len() > 200);
    for len in (HEADER_LEN..200).chain([HEADER_LEN]) {
        let mut request = spare.clone();
        request.payload.truncate(len);
        // An INFORMATIONAL request of unknown SPIs whose length field fits.
        request.payload[..16].fill(0x11);
        request.payload[16] = 46;
        request.payload[18] = 37;
        request.payload[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        let before = sim.sent.len();
        sim.deliver(&request);
        let answers = sim.sent[before..].to_vec();
        assert!(answers.len() <= 1);
        assert!(answers.iter().all(|answer| answer.payload.len() <= len));
        // The allowance of unprotected answers is kept whole.
        sim.run_ms(100);
    }
    assert!(sim.endpoints[CENTER].counters().crash_tokens_sent > 50);
    // The shortest question of ours, with AES-GCM, is long enough.
    sim.run_ms(60_000);
    assert!(closed(&sim, SITE, &CloseReason::PeerRestarted));
}

/// A flood of requests on unknown IKE SAs gets twenty answers a second.
#[test]
fn tokens_are_few() {
    let mut sim = connected(site(), center(), 10);
    sim.crash(CENTER, center());
    let spare = last_sent(&sim, SITE, |payload| payload.len() > 200);
    for number in 0..1_000u64 {
        let mut request = spare.clone();
        request.payload[..8].copy_from_slice(&(number + 1).to_be_bytes());
        sim.deliver(&request);
    }
    assert!(sim.endpoints[CENTER].counters().crash_tokens_sent <= 40);
}

/// Off on one side: the other's tokens are neither asked for nor believed.
#[test]
fn without_a_secret_nothing_is_said_or_believed() {
    for (site_knows, center_knows) in [(false, true), (true, false)] {
        let (mut site, mut center_first) = (site(), center());
        site.crash_secret = site.crash_secret.filter(|_| site_knows);
        center_first.crash_secret = center_first.crash_secret.filter(|_| center_knows);
        let mut sim = connected(site, center_first, 11);
        let mut again = center();
        again.crash_secret = again.crash_secret.filter(|_| center_knows);
        sim.crash(CENTER, again);
        ask(&mut sim);
        sim.run_ms(5_000);
        assert!(!closed(&sim, SITE, &CloseReason::PeerRestarted));
    }
}
