//! Session resumption (RFC 5723).

mod common;
mod issue;
mod peers;

use common::*;
use gateway_ike::{
    AuthKind, Command, EndpointConfig, Event, PeerSharedKey, Ppk, SharedKey, Start, pki::trust::TrustAnchors,
};
use issue::{Authority, ip, nothing};
use peers::{details, identity, with_certificates};

const RESUME: u8 = 38;
const TICKET_NACK: [u8; 2] = [0x40, 0x1c];
const TICKET_OPAQUE: [u8; 2] = [0x40, 0x1d];
const PSK: &[u8] = b"0x00112233445566778899aabbccddeeff";
const PPK: &[u8] = b"0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// By command only: during an outage nothing is tried, and the ticket is kept.
fn site() -> EndpointConfig {
    let mut config = site_config();
    config.connections[0].resumption = true;
    config.connections[0].start = Start::Manual;
    config
}

fn center() -> EndpointConfig {
    let mut config = center_config();
    config.ticket_lifetime_s = Some(3_600);
    config
}

fn ppk(required: bool) -> Ppk {
    Ppk::new("a", SharedKey::from_text(PPK).unwrap(), required).unwrap()
}

fn with_shared_key(config: &mut EndpointConfig, peer: &str, key: &[u8]) {
    let key = PeerSharedKey {
        key: SharedKey::from_text(key).unwrap(),
        peer: AuthKind::SharedKey,
        own: AuthKind::SharedKey,
        own_identity: None,
    };
    config.shared_keys.insert(identity(peer), key);
}

/// The path is broken until both sides have given up.
fn outage(sim: &mut Sim) {
    sim.unreachable = vec![center_address().ip()];
    sim.run_ms(120_000);
    for side in [SITE, CENTER] {
        assert_eq!(sim.endpoints[side].ike_sas().count(), 0, "{}", sim.words(side));
    }
}

fn mend(sim: &mut Sim) {
    sim.unreachable.clear();
    sim.initiate();
    sim.run_ms(1_000);
}

fn broken_and_mended(sim: &mut Sim) {
    outage(sim);
    mend(sim);
}

/// Sessions resumed, key exchanges, tickets refused.
fn counts(sim: &Sim) -> (u64, u64, u64) {
    let counters = sim.endpoints[CENTER].counters();
    (
        counters.sessions_resumed,
        counters.key_exchanges,
        counters.tickets_refused,
    )
}

fn resumes(sim: &Sim) -> Vec<Datagram> {
    sim.sent
        .iter()
        .filter(|one| one.payload[18] == RESUME)
        .cloned()
        .collect()
}

#[test]
fn a_session_goes_on_without_a_key_exchange() {
    let mut sim = connected(site(), center(), 1);
    assert_eq!(counts(&sim), (0, 1, 0));
    broken_and_mended(&mut sim);
    assert_eq!(counts(&sim), (1, 1, 0), "{}", sim.history.join("\n"));
    sim.assert_agreement();
    assert_eq!(details(&sim, CENTER).authenticated_by, AuthKind::Certificate);
    assert!(details(&sim, SITE).certificate.is_some());
    // It lives as any other, and its own ticket is good for the next time.
    for side in [SITE, CENTER] {
        let ike_sa = sim.only_ike_sa(side);
        sim.command(side, Command::RekeyIke(ike_sa));
        sim.run_ms(40_000);
        sim.assert_agreement();
    }
    broken_and_mended(&mut sim);
    assert_eq!(counts(&sim).0, 2, "{}", sim.history.join("\n"));
    sim.assert_agreement();
}

#[test]
fn with_shared_keys_and_preshared_keys() {
    let (mut site, mut center) = (site(), center());
    with_shared_key(&mut site, "gw.lab.test", PSK);
    with_shared_key(&mut center, "site1.lab.test", PSK);
    site.ppks.insert(identity("gw.lab.test"), ppk(true));
    center.ppks.insert(identity("site1.lab.test"), ppk(true));
    let mut sim = connected(site, center, 2);
    broken_and_mended(&mut sim);
    assert_eq!(counts(&sim).0, 1, "{}", sim.history.join("\n"));
    assert!(details(&sim, SITE).ppk && details(&sim, CENTER).ppk);
    assert_eq!(details(&sim, CENTER).authenticated_by, AuthKind::SharedKey);
}

/// A session of a hybrid key exchange (RFC 9370) goes on with its keys.
#[test]
fn with_a_hybrid_key_exchange() {
    let mut site = site();
    site.ike_proposals = vec!["aes256gcm16-prfsha384-x25519-ke1_mlkem768".parse().unwrap()];
    let mut sim = connected(site, center(), 3);
    broken_and_mended(&mut sim);
    assert_eq!(counts(&sim).0, 1, "{}", sim.history.join("\n"));
    sim.assert_agreement();
}

/// Off by default on both sides, and nobody is asked for or given what is not wanted.
#[test]
fn off_unless_configured() {
    for (wanted, given) in [(true, false), (false, true), (false, false)] {
        let (mut site, mut center) = (site(), center());
        site.connections[0].resumption = wanted;
        center.ticket_lifetime_s = center.ticket_lifetime_s.filter(|_| given);
        let mut sim = connected(site, center, 4);
        broken_and_mended(&mut sim);
        assert!(resumes(&sim).is_empty());
        assert_eq!(sim.endpoints[CENTER].counters().tickets_given, 0);
        sim.assert_agreement();
    }
    assert!(site_config().ticket_lifetime_s.is_none() && !site_config().connections[0].resumption);
}

/// A gateway that was started again knows no ticket: a new IKE SA is set up in the same attempt.
#[test]
fn a_gateway_that_forgot_is_met_anew() {
    let mut sim = connected(site(), center(), 5);
    outage(&mut sim);
    sim.crash(CENTER, center());
    mend(&mut sim);
    assert_eq!(counts(&sim), (0, 1, 1), "{}", sim.history.join("\n"));
    sim.assert_agreement();
}

/// RFC 5723 section 4.3: a ticket is spent by a session that goes on. What somebody recorded gets a refusal.
#[test]
fn a_ticket_is_good_once() {
    let mut sim = connected(site(), center(), 6);
    broken_and_mended(&mut sim);
    // Another initiator, who has the ticket from the wire.
    let mut again = resumes(&sim).remove(0);
    (again.from, again.to) = ("203.0.113.66:500".parse().unwrap(), center_address());
    again.payload[..8].fill(0x66);
    let before = sim.sent.len();
    sim.deliver(&again);
    let answer = &sim.sent[before..];
    assert!(answer.len() == 1 && notify_at(&answer[0].payload, TICKET_NACK).is_some());
    assert_eq!(counts(&sim), (1, 1, 1));
    assert_eq!(sim.endpoints[CENTER].half_open().count, 0);
}

/// Regression: one site could fill the memory of used tickets, two a second, with its own; then every session that was resumed
/// ended in AUTHENTICATION_FAILED, and the log said that its ticket had been used before.
#[test]
fn who_has_used_many_tickets_sets_up_anew() {
    /// As many of one site's are remembered.
    const USED_MAX_OF_ONE: u64 = 64;
    let mut center = center();
    center.ticket_lifetime_s = Some(12 * 3_600);
    center.ike_lifetime_s = 20 * 3_600;
    let mut site = site();
    site.ike_lifetime_s = 20 * 3_600;
    let mut sim = connected(site, center, 13);
    for _ in 0..USED_MAX_OF_ONE {
        broken_and_mended(&mut sim);
    }
    assert_eq!(counts(&sim), (USED_MAX_OF_ONE, 1, 0));
    broken_and_mended(&mut sim);
    // In the same attempt.
    assert_eq!(counts(&sim), (USED_MAX_OF_ONE, 2, 1), "{}", sim.words(CENTER));
    assert!(
        !sim.words(CENTER).contains("used before"),
        "{}",
        sim.words(CENTER)
    );
    sim.assert_agreement();
    // When the first of them have expired there is room again.
    sim.run_ms((12 * 3_600 - 6_000) * 1_000);
    broken_and_mended(&mut sim);
    assert_eq!(counts(&sim), (USED_MAX_OF_ONE + 1, 2, 1));
}

/// Whoever has a ticket but not the keys gets as far as a half-open IKE SA, and the owner's session goes on all the same.
#[test]
fn a_stolen_ticket_opens_nothing() {
    let mut sim = connected(site(), center(), 7);
    outage(&mut sim);
    // The site's request is taken from the wire and arrives from elsewhere first.
    sim.unreachable.clear();
    sim.initiate();
    let mut thief = resumes(&sim).remove(0);
    thief.from = "203.0.113.66:500".parse().unwrap();
    sim.deliver(&thief);
    assert_eq!(sim.endpoints[CENTER].half_open().count, 1);
    sim.run_ms(40_000);
    assert_eq!(counts(&sim).0, 1, "{}", sim.history.join("\n"));
    assert_eq!(sim.endpoints[CENTER].half_open().count, 0);
    sim.assert_agreement();
}

/// Every octet of a ticket that is changed makes it worthless, and never harms the gateway.
#[test]
fn a_ticket_that_was_touched_is_refused() {
    let mut sim = connected(site(), center(), 8);
    outage(&mut sim);
    sim.initiate();
    let genuine = resumes(&sim).remove(0);
    let kind = notify_at(&genuine.payload, TICKET_OPAQUE).unwrap();
    // The length of the payload stands four octets before its kind.
    let len = u16::from_be_bytes([genuine.payload[kind - 4], genuine.payload[kind - 3]]) - 8;
    for index in 0..usize::from(len) {
        let mut touched = genuine.clone();
        touched.from = "203.0.113.66:500".parse().unwrap();
        touched.payload[..8].copy_from_slice(&(u64::try_from(index).unwrap() + 1).to_be_bytes());
        touched.payload[kind + 2 + index] ^= 0x40;
        sim.deliver(&touched);
        assert_eq!(sim.endpoints[CENTER].half_open().count, 0, "octet {index}");
    }
    assert_eq!(counts(&sim).2, u64::from(len));
}

/// A refusal that somebody forges costs a full set-up and no more.
#[test]
fn a_forged_refusal_costs_a_key_exchange() {
    let mut sim = connected(site(), center(), 9);
    outage(&mut sim);
    sim.initiate();
    let request = resumes(&sim).remove(0);
    let header = [41, 0x20, RESUME, 0x20, 0, 0, 0, 0, 0, 0, 0, 36];
    let nack = [0, 0, 0, 8, 0, 0, 0x40, 0x1c];
    let forged = Datagram {
        from: request.to,
        to: request.from,
        payload: [&request.payload[..8], &[0; 8], &header, &nack].concat(),
    };
    sim.deliver(&forged);
    sim.unreachable.clear();
    sim.run_ms(5_000);
    assert_eq!(counts(&sim), (0, 2, 0), "{}", sim.history.join("\n"));
    sim.assert_agreement();
}

/// What would not be believed any more is not resumed: a certificate whose authority is gone, a site that is gone.
#[test]
fn who_would_be_refused_is_refused() {
    let mut sim = connected(site(), center(), 10);
    outage(&mut sim);
    let now = sim.now();
    let others = TrustAnchors::from_pem(include_bytes!("data/rsa-ca.crt")).unwrap();
    sim.endpoints[CENTER].set_trust(now, others);
    mend(&mut sim);
    assert_eq!(counts(&sim).0, 0);
    assert_eq!(sim.endpoints[CENTER].ike_sas().count(), 0);
    let failed = |event: &Event| matches!(event, Event::AuthenticationFailed { .. });
    assert!(
        sim.events[CENTER].iter().any(failed),
        "{}",
        sim.history.join("\n")
    );

    let mut sim = connected(site(), center(), 11);
    outage(&mut sim);
    let mut nobody = center();
    nobody.authorizer = Box::new(Nobody);
    sim.endpoints[CENTER].set_config(nobody);
    mend(&mut sim);
    assert_eq!(counts(&sim).0, 0);
    assert!(sim.words(CENTER).contains("no configured site matches"));
}

/// RFC 4945 section 3.1.1: an address as identity is that of the sender, of a resumed session too, unless that is waived.
///
/// Regression: the sender was compared in a full IKE_AUTH alone, and a session went on from wherever it was resumed.
#[test]
fn an_address_is_that_of_the_sender() {
    let root = Authority::root("Root", nothing);
    let leaf = root.issue("site1", vec![ip("192.0.2.1")], nothing);
    for (moves, waived) in [(true, false), (true, true), (false, false)] {
        let (certified_site, certified_center) = with_certificates(&root, &leaf);
        let (mut site, mut center) = (site(), center());
        (site.credential, site.trust) = (certified_site.credential, certified_site.trust);
        (center.credential, center.trust) = (certified_center.credential, certified_center.trust);
        site.local_identity = identity("192.0.2.1");
        center.address_identity_is_source = !waived;
        let mut sim = connected(site, center, 20);
        outage(&mut sim);
        sim.nat = moves.then(|| "203.0.113.9:1024".parse().unwrap());
        mend(&mut sim);
        let resumed = !moves || waived;
        assert_eq!(counts(&sim).0, u64::from(resumed), "{}", sim.history.join("\n"));
        assert_eq!(sim.endpoints[CENTER].ike_sas().count(), usize::from(resumed));
        let told = sim
            .words(CENTER)
            .contains("the address 192.0.2.1, but it sends from 203.0.113.9");
        assert_eq!(told, !resumed, "{}", sim.history.join("\n"));
    }
}

/// A shared key that was changed or taken away ends what it began.
#[test]
fn a_changed_shared_key_ends_the_session() {
    for key in [Some(&b"0xff112233445566778899aabbccddeeff"[..]), None] {
        let (mut site, mut before) = (site(), center());
        with_shared_key(&mut site, "gw.lab.test", PSK);
        with_shared_key(&mut before, "site1.lab.test", PSK);
        let mut sim = connected(site, before, 12);
        outage(&mut sim);
        let mut changed = center();
        if let Some(key) = key {
            with_shared_key(&mut changed, "site1.lab.test", key);
        }
        sim.endpoints[CENTER].set_config(changed);
        mend(&mut sim);
        let (resumed, _, refused) = counts(&sim);
        assert_eq!((resumed, refused), (0, 1), "{}", sim.history.join("\n"));
    }
}

/// The site has sent IKE_SESSION_RESUME and has its answer; its IKE_AUTH is on its way. The center has a reload, and only
/// then the IKE_AUTH arrives.
fn reload_before_auth(sim: &mut Sim, reload: impl FnOnce(&mut gateway_ike::Endpoint, gateway_ike::Time)) {
    outage(sim);
    sim.unreachable.clear();
    sim.initiate();
    while sim.endpoints[CENTER].half_open().count == 0 {
        assert!(sim.step(sim.now_ms + 1_000), "{}", sim.history.join("\n"));
    }
    let now = sim.now();
    reload(&mut sim.endpoints[CENTER], now);
    sim.run_ms(1_000);
}

/// Regression: the shared key was compared at IKE_SESSION_RESUME alone. Who withheld its IKE_AUTH until the key was replaced
/// was established without knowing the new one, and no later reload closed that IKE SA.
#[test]
fn a_shared_key_that_changes_on_the_way_ends_the_session() {
    for key in [Some(&b"0xff112233445566778899aabbccddeeff"[..]), None, Some(PSK)] {
        let (mut site, mut before) = (site(), center());
        with_shared_key(&mut site, "gw.lab.test", PSK);
        with_shared_key(&mut before, "site1.lab.test", PSK);
        let mut sim = connected(site, before, 18);
        let mut changed = center();
        if let Some(key) = key {
            with_shared_key(&mut changed, "site1.lab.test", key);
        }
        reload_before_auth(&mut sim, |endpoint, now| {
            endpoint.set_shared_keys(now, changed.shared_keys);
        });
        let same = key == Some(PSK);
        assert_eq!(counts(&sim).0, u64::from(same), "{}", sim.history.join("\n"));
        let refused = sim
            .words(CENTER)
            .contains("what it proved itself with has changed");
        assert_eq!(refused, !same, "{}", sim.history.join("\n"));
    }
}

/// Regression: who withheld its IKE_AUTH until a preshared key was required of it went on without one.
#[test]
fn a_preshared_key_that_becomes_required_on_the_way_counts() {
    for required in [true, false] {
        let mut sim = connected(site(), center(), 19);
        reload_before_auth(&mut sim, |endpoint, _| {
            let mut ppks = gateway_ike::Ppks::default();
            ppks.insert(identity("site1.lab.test"), ppk(required));
            endpoint.set_ppks(ppks);
        });
        assert_eq!(counts(&sim).0, u64::from(!required), "{}", sim.history.join("\n"));
    }
}

/// A preshared key that has become required since was not in the session; an algorithm is allowed no more.
#[test]
fn what_is_asked_for_now_counts() {
    let mut stricter = center();
    stricter.ppks.insert(identity("site1.lab.test"), ppk(true));
    let mut others = center();
    others.ike_proposals = vec!["aes256-sha512-modp4096".parse().unwrap()];
    others.ike_proposals_accepted.clear();
    for changed in [stricter, others] {
        let mut sim = connected(site(), center(), 13);
        outage(&mut sim);
        sim.endpoints[CENTER].set_config(changed);
        mend(&mut sim);
        let (resumed, _, refused) = counts(&sim);
        assert_eq!((resumed, refused), (0, 1), "{}", sim.history.join("\n"));
    }
}

/// RFC 5723 section 4.3: not after its end; and not in place of a new proof when the peer is to be authenticated anew.
#[test]
fn a_ticket_ends() {
    let mut short = center();
    short.ticket_lifetime_s = Some(60);
    let mut sim = connected(site(), short, 14);
    broken_and_mended(&mut sim);
    assert!(resumes(&sim).is_empty(), "{}", sim.history.join("\n"));
    sim.assert_agreement();

    let mut sim = connected(site(), center(), 15);
    let connection = "center".to_owned();
    sim.command(SITE, Command::Reauthenticate { connection });
    sim.run_ms(5_000);
    assert!(resumes(&sim).is_empty());
    assert_eq!(counts(&sim).1, 2);
}

/// A ticket, and the key that sealed it, end by the time that has passed, whatever the wall clock says.
///
/// Regression: both ended by the wall clock. When that was set back, a ticket that somebody recorded was taken for as long
/// after its end, and no new key was made.
#[test]
fn a_ticket_ends_when_the_wall_clock_is_set() {
    const MONTH_S: i64 = 30 * 86_400;
    for off_s in [-MONTH_S, 0, MONTH_S] {
        for (after_s, good) in [(3_000, true), (3_700, false)] {
            let mut sim = connected(site(), center(), 21);
            let given_ms = sim.now_ms;
            outage(&mut sim);
            sim.initiate();
            let recorded = resumes(&sim).remove(0);
            sim.wall_clock_off_s = off_s;
            sim.run_ms(given_ms + after_s * 1000 - sim.now_ms);
            sim.deliver(&recorded);
            let taken = sim.endpoints[CENTER].half_open().count;
            assert_eq!(taken, usize::from(good), "{off_s} s, after {after_s} s");
            assert_eq!(counts(&sim).2, u64::from(!good));
        }
    }
}

/// However often it is resumed: a day after the full proof no ticket prolongs it.
#[test]
fn sessions_do_not_go_on_for_ever() {
    const DAYS_S: u64 = 7 * 86_400;
    let (mut site, mut center) = (site(), center());
    center.ticket_lifetime_s = Some(DAYS_S);
    (site.ike_lifetime_s, center.ike_lifetime_s) = (DAYS_S, DAYS_S);
    let mut sim = connected(site, center, 16);
    for resumed in 1..=3 {
        outage(&mut sim);
        sim.now_ms += 7 * 3_600_000;
        mend(&mut sim);
        assert_eq!(counts(&sim).0, resumed, "{}", sim.history.join("\n"));
    }
    outage(&mut sim);
    sim.now_ms += 4 * 3_600_000;
    mend(&mut sim);
    assert_eq!(counts(&sim), (3, 2, 0), "the ticket ended a day after the proof");
    sim.assert_agreement();
}

/// Under load a cookie goes before, as for a new IKE SA; and no answer is longer than its request.
#[test]
fn cookies_and_no_amplification() {
    let mut wary = center();
    wary.cookie_from = 0;
    let mut sim = connected(site(), wary, 17);
    broken_and_mended(&mut sim);
    assert_eq!(counts(&sim).0, 1, "{}", sim.history.join("\n"));
    let exchanged = resumes(&sim);
    assert_eq!(exchanged.len(), 4, "request, cookie, request, answer");
    let from = |address: std::net::SocketAddr| {
        let sent = exchanged.iter().filter(move |one| one.from == address);
        sent.map(|one| one.payload.len())
    };
    assert!(from(center_address()).max() <= from(site_address()).min());
}

/// Over a link that loses and repeats: it goes on, or is set up anew, and both sides agree.
#[test]
fn over_a_bad_link() {
    let mut resumed = 0;
    for seed in 0..40 {
        let mut sim = connected(site(), center(), 100 + seed);
        outage(&mut sim);
        sim.link = Link {
            loss: 20,
            duplicates: 20,
            delay_ms: 300,
        };
        mend(&mut sim);
        sim.run_ms(60_000);
        sim.link = Link {
            delay_ms: 1,
            ..Link::default()
        };
        sim.run_ms(60_000);
        resumed += counts(&sim).0;
        sim.assert_agreement();
    }
    assert!(resumed > 20, "{resumed}");
}
