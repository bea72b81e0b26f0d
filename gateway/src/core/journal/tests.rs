use std::net::SocketAddr;
use std::path::Path;

use gateway_ike::{ChildId, CloseReason, Event, IkeSaId};
use serde_json::Value;

use super::*;
use crate::config::Config;
use crate::core::pools::Assignments;

fn sites() -> Sites {
    let text = include_str!("../../../examples/gateway.toml");
    let config = Config::parse("gateway.toml", text, Path::new("/etc/gateway")).expect("right");
    Sites::new(&config, Assignments::default()).expect("pools suffice")
}

fn address(number: u32) -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::from(0xc633_6400 + number), 500))
}

struct Scene {
    journal: Journal,
    sites: Sites,
    now_ms: u64,
}

impl Scene {
    fn new() -> Self {
        Self {
            journal: Journal::new("center-1"),
            sites: sites(),
            now_ms: 1_000,
        }
    }

    fn ike(&mut self, event: &Event) {
        self.now_ms += 1;
        self.journal.note(self.now_ms, Notice::Ike(event), &self.sites);
    }

    fn established(&mut self, ike_sa: u64, child: u64) {
        self.ike(&Event::IkeSaEstablished {
            ike_sa: IkeSaId(ike_sa),
            peer: "hospital-a.hospital.example".into(),
            site: 1,
            remote: address(1),
            algorithms: "aes256-sha256-modp2048".into(),
        });
        self.ike(&Event::ChildSaEstablished {
            child: ChildId(child),
            ike_sa: IkeSaId(ike_sa),
            site: 1,
            algorithms: "aes256gcm16".into(),
            ts_local: Vec::new(),
            ts_remote: Vec::new(),
        });
    }

    fn closed(&mut self, ike_sa: u64) {
        self.ike(&Event::Closed {
            ike_sa: IkeSaId(ike_sa),
            peer: "hospital-a.hospital.example".into(),
            reason: CloseReason::PeerUnresponsive,
        });
    }

    fn events(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.journal.poll_record())
            .map(|(_, line)| serde_json::from_str(&line.json).expect("a JSON object"))
            .collect()
    }

    fn names(&mut self) -> Vec<String> {
        let name = |event: &Value| event["event"].as_str().expect("a name").to_owned();
        self.events().iter().map(name).collect()
    }
}

fn failed(remote: SocketAddr, peer: &str, reason: &str) -> Event {
    Event::AuthenticationFailed {
        remote,
        peer: peer.into(),
        reason: reason.into(),
    }
}

#[test]
fn a_site_is_up_with_its_first_child_sa_and_down_after_its_last() {
    let mut scene = Scene::new();
    scene.established(1, 1);
    assert_eq!(
        scene.names(),
        ["ike_sa_established", "child_sa_established", "site_up"]
    );
    let rekeyed = Event::ChildSaRekeyed {
        old: ChildId(1),
        new: ChildId(2),
        pfs: true,
    };
    scene.ike(&rekeyed);
    scene.ike(&Event::IkeSaRekeyed {
        old: IkeSaId(1),
        new: IkeSaId(2),
    });
    let events = scene.events();
    assert_eq!(
        events[0],
        serde_json::json!({
            "schema": 1, "sequence": 4, "time": "1970-01-01T00:00:01.003Z", "gateway": "center-1",
            "event": "child_sa_rekeyed", "severity": "info", "site": "hospital-a", "ike_sa": "ike#1",
            "child_sa": "child#2", "replaces": "child#1", "pfs": true,
            "text": "child#1 rekeyed as child#2 with a new key exchange",
        })
    );
    assert_eq!(
        events[1]["site"], "hospital-a",
        "the site of an SA is known from before"
    );
    // A second tunnel of the same site, and the end of the first: the site stays up.
    scene.established(3, 3);
    scene.closed(2);
    assert!(!scene.names().iter().any(|name| name.starts_with("site_")));
    scene.closed(3);
    assert_eq!(scene.names(), ["ike_sa_closed", "site_down"]);
}

/// Regression: both were missing among the events.
#[test]
fn a_gateway_that_sends_us_away_is_told_of() {
    let mut scene = Scene::new();
    let (connection, from) = ("center".to_owned(), address(2).ip());
    scene.ike(&Event::Redirected {
        connection: connection.clone(),
        from,
        to: "198.51.100.3".into(),
    });
    scene.ike(&Event::RedirectRefused {
        connection,
        from,
        to: "gw.example".into(),
        reason: "it is a name, and only addresses are followed",
    });
    assert_eq!(scene.names(), ["redirected", "redirect_refused"]);
}

#[test]
fn strangers_push_nothing_out_of_a_sites_log() {
    let mut scene = Scene::new();
    scene.established(1, 1);
    let before = scene.journal.site_log(1);
    // Each from another address, and every one in the site's name.
    for number in 0..100_000 {
        scene.ike(&failed(
            address(1_000 + number),
            "hospital-a.hospital.example",
            &format!("reason {number}"),
        ));
    }
    let log = scene.journal.site_log(1);
    let own: Vec<_> = log.iter().filter(|line| !line.unproven).cloned().collect();
    assert_eq!(own, before);
    assert_eq!(log.len(), before.len() + CLAIMED_LINES_MAX);
    assert_eq!(scene.journal.peers().len(), PEERS_MAX);
    assert_eq!(scene.journal.peer_log(address(100_999).ip()).len(), 1);
    assert!(
        scene.journal.peer_log(address(1_000).ip()).is_empty(),
        "the oldest went"
    );
}

#[test]
fn one_peer_has_a_bounded_log_and_repetitions_are_counted() {
    let mut scene = Scene::new();
    for number in 0..1_000 {
        scene.ike(&failed(address(9), "x.example", &format!("reason {number}")));
    }
    let log = scene.journal.peer_log(address(9).ip());
    assert_eq!(log.len(), PEER_LINES_MAX);
    assert!(log.last().expect("a line").text.ends_with("reason 999"));
    for _ in 0..500 {
        scene.ike(&failed(address(8), "x.example", "the same"));
    }
    let log = scene.journal.peer_log(address(8).ip());
    assert_eq!((log.len(), log[0].count), (1, 500));
    assert!(log[0].first_ms < log[0].last_ms);
}

#[test]
fn a_sites_log_shows_what_came_from_its_address() {
    let mut scene = Scene::new();
    scene.established(1, 1);
    let refused = Event::ProposalRefused {
        remote: address(1),
        offered: "3des-sha1-modp1024".into(),
        configured: "aes256-sha256-modp2048".into(),
        reason: "encryption is 3des, but we want aes256".into(),
    };
    scene.ike(&refused);
    let last = scene.journal.site_log(1).pop().expect("a line");
    assert!(
        last.unproven && last.text.contains("encryption is 3des, but we want aes256"),
        "{}",
        last.text
    );
}

#[test]
fn rekeying_for_a_year_leaves_the_lines_that_matter() {
    let mut scene = Scene::new();
    scene.established(1, 1);
    for number in 1..9_000 {
        scene.ike(&Event::ChildSaRekeyed {
            old: ChildId(number),
            new: ChildId(number + 1),
            pfs: true,
        });
        if number % 4 == 0 {
            scene.ike(&Event::IkeSaRekeyed {
                old: IkeSaId(number / 4),
                new: IkeSaId(number / 4 + 1),
            });
        }
    }
    let log = scene.journal.site_log(1);
    assert_eq!(log.len(), 5, "{log:?}");
    assert_eq!(log[0].event, "ike_sa_established");
    assert_eq!(log.iter().map(|line| line.count).max(), Some(8_999));
    let history = scene.journal.history(1, IkeSaId(2_250), &[ChildId(9_000)]);
    let events: Vec<_> = history.iter().map(|line| line.event).collect();
    assert_eq!(
        events,
        [
            "ike_sa_established",
            "child_sa_established",
            "ike_sa_rekeyed",
            "child_sa_rekeyed"
        ]
    );
}

#[test]
fn what_is_kept_back_is_told() {
    let mut scene = Scene::new();
    for number in 0..100 {
        scene.ike(&failed(address(number), "x.example", "no"));
    }
    let told = scene.events().len();
    scene.journal.next_second(scene.now_ms, &scene.sites);
    let events = scene.events();
    assert_eq!(events[0]["event"], "events_suppressed");
    assert_eq!(events[0]["of_strangers"], 100 - told);
    assert_eq!(scene.journal.recent(usize::MAX, None).count(), told + 1);
}

/// Regression: the last events of a site were looked for among the last of all, and whoever made many hid it.
#[test]
fn the_last_records_of_a_site_are_found_behind_those_of_others() {
    let mut scene = Scene::new();
    scene.established(1, 2);
    for number in 0..10 {
        scene.ike(&failed(address(number), "x.example", "no"));
    }
    let found = |count, site| -> Vec<u64> {
        let recent = scene.journal.recent(count, site);
        recent.map(|line| line.sequence).collect()
    };
    let all = found(usize::MAX, Some("hospital-a"));
    assert_eq!(all.len(), 3, "both SAs, and that the site is up: {all:?}");
    assert_eq!(found(2, Some("hospital-a")), all[1..]);
    assert!(found(2, Some("hospital-b")).is_empty());
    assert_eq!(
        found(2, None),
        [scene.journal.newest() - 1, scene.journal.newest()]
    );
}
