//! Two controllers with real sockets on loopback, one the center, the other a site; the data plane is a table in
//! memory. What people and machines see of IKE: verbs, logs, events, connections.
//!
//! ```text
//!  center  gw.lab.test, RSA        127.x.y.1:500  ====  127.x.y.2:500    site  site1.lab.test, P-256
//!  10.100.0.0/16                                                         192.168.1.0/24
//! ```
#[path = "daemon/beside.rs"]
mod beside;
#[path = "daemon/credentials.rs"]
mod credentials;
#[path = "daemon/names.rs"]
mod dns_names;
#[path = "../ike/tests/issue/mod.rs"]
mod issue;
#[path = "daemon/nat.rs"]
mod nat;
#[path = "daemon/node.rs"]
mod node;
#[path = "daemon/rules.rs"]
mod rules;
mod sockets;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gateway::api::message::{Request, Trace};
use gateway::dataplane::Traces;
use gateway::runtime::Happening;
use gateway_common::abi::event::{Event, kind};
use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::abi::stats::Path as PacketPath;
use gateway_common::abi::trace::{TraceEvent, known, outcome, point};
use gateway_common::drop::DropReason;
use issue::{Authority, dns, nothing};
use node::{Node, OWN_KEY, Options, awaited, pair, until};
use serde_json::Value;

fn names(node: &Node) -> Vec<String> {
    let view = node.ask(Request::EventsRecent {
        last: 1_000,
        site: None,
    });
    let events = view["events"].as_array().expect("events");
    let name = |event: &Value| event["event"].as_str().expect("a name").to_owned();
    events.iter().map(name).collect()
}

fn log(node: &Node, of: &str) -> String {
    let view = node.ask(Request::IkeLog { of: of.into() });
    let lines = view["lines"].as_array().expect("lines");
    let text = |line: &Value| line["text"].as_str().expect("text").to_owned();
    lines.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// Waits until the log of a peer says so.
fn until_logged(node: &Node, of: &str, words: &str) {
    until(|| log(node, of).contains(words).then_some(()), || log(node, of));
}

fn state(node: &Node) -> String {
    let view = node.ask(Request::ConnectionList);
    view[0]["state"].as_str().expect("state").to_owned()
}

fn is_up(node: &Node) {
    until(|| (state(node) == "up").then_some(()), || log(node, "center"));
}

fn up(node: &Node) {
    node.ask(Request::ConnectionUp {
        name: "to-center".into(),
    });
    is_up(node);
}

fn first_sa(node: &Node) -> Value {
    node.ask(Request::SaList)[0].clone()
}

#[test]
fn a_connection_is_brought_up_by_a_verb_and_taken_down() {
    let (center, site) = pair(Options::default());
    assert_eq!(state(&site), "down");
    up(&site);
    assert_eq!(center.engine().installed.len(), 1);
    assert_eq!(
        names(&site),
        [
            "daemon_started",
            "connecting",
            "ike_sa_established",
            "child_sa_established",
            "site_up"
        ]
    );
    assert!(log(&center, "hospital").contains("established with site1.lab.test"));
    let done = site.ask(Request::ConnectionDown {
        name: "to-center".into(),
    });
    assert_eq!(done["sas"].as_array().map(Vec::len), Some(1));
    until(
        || (center.engine().installed.is_empty() && state(&site) == "down").then_some(()),
        || log(&center, "hospital"),
    );
    assert_eq!(names(&center).last().map(String::as_str), Some("site_down"));
    let error = site.refused(Request::ConnectionUp { name: "x".into() });
    assert_eq!(error, "no connection is named \"x\"; there are to-center");
}

/// Regression: a site's last events were picked from the last of all.
#[test]
fn the_last_events_of_a_site_are_told_whatever_came_after() {
    let (center, site) = pair(Options::default());
    up(&site);
    let last = |of: Option<&str>| {
        let view = center.ask(Request::EventsRecent {
            last: 1,
            site: of.map(str::to_owned),
        });
        view["events"][0]["event"].clone()
    };
    until(
        || (last(None) == "site_up").then_some(()),
        || log(&center, "hospital"),
    );
    center.ask(Request::Reload);
    until(
        || (last(None) == "credentials_loaded").then_some(()),
        || log(&center, "hospital"),
    );
    assert_eq!(last(Some("hospital")), "site_up");
    assert_eq!(last(Some("center")), Value::Null);
}

#[test]
fn the_data_plane_is_told_the_spi_of_each_ike_sa() {
    let (center, site) = pair(Options::default());
    assert!(center.engine().ike_spis.is_empty());
    up(&site);
    // Of each side the other's is no affair.
    let own = |node: &Node| node.engine().ike_spis.clone();
    let before = [&center, &site].map(own);
    assert!(before[0].len() == 1 && before[1].len() == 1 && before[0] != before[1]);
    center.ask(Request::SaRekey {
        site: Some("hospital".into()),
        id: None,
        ike: true,
    });
    let rekeyed = |node, before: &BTreeSet<u64>| {
        let now = own(node);
        (now.is_disjoint(before) && now.len() == 1).then_some(())
    };
    for (node, before) in [&center, &site].into_iter().zip(&before) {
        until(|| rekeyed(node, before), || log(&center, "hospital"));
    }
}

/// The certificate says gw.lab.test. The SA is found all the same, to say that it is up and to take it down.
#[test]
fn a_connection_is_recognised_however_the_identity_is_spelt() {
    let (center, site) = pair(Options {
        site_knows: "GW.Lab.TEST",
        ..Options::default()
    });
    up(&site);
    let done = site.ask(Request::ConnectionDown {
        name: "to-center".into(),
    });
    assert_eq!(done["sas"].as_array().map(Vec::len), Some(1));
    until(
        || (center.engine().installed.is_empty() && state(&site) == "down").then_some(()),
        || log(&center, "hospital"),
    );
}

#[test]
fn a_connection_comes_up_at_the_start() {
    let (_center, site) = pair(Options {
        start: "now",
        ..Options::default()
    });
    is_up(&site);
}

#[test]
fn the_first_packet_brings_a_connection_up() {
    let (_center, site) = pair(Options {
        start: "on-demand",
        ..Options::default()
    });
    assert_eq!(state(&site), "down");
    let event = Event {
        kind: kind::NO_SA,
        site: 1,
        rule: 0,
        generation: 0,
        source: [10, 100, 0, 10],
        destination: [192, 168, 1, 10],
        source_port: [0, 80],
        destination_port: [0, 81],
        protocol: 6,
        pad: [0; 3],
    };
    // Packets go on while it comes up: they are one attempt.
    for _ in 0..50 {
        site.engine().happened.push(Happening::Packet(event));
    }
    is_up(&site);
    assert_eq!(
        names(&site).iter().filter(|name| *name == "connecting").count(),
        1
    );
}

#[test]
fn an_sa_is_shown_rekeyed_and_closed_by_its_name() {
    let (center, site) = pair(Options::default());
    up(&site);
    let sa = first_sa(&center);
    let (ike, child) = (
        sa["id"].as_str().expect("id"),
        sa["children"][0]["id"].as_str().expect("id"),
    );
    let spi = sa["children"][0]["spi_in"].as_str().expect("SPI");
    let shown = center.ask(Request::SaShow { id: spi.into() });
    assert_eq!(
        (
            &shown["id"],
            &shown["site"],
            &shown["peer"],
            &shown["own_identity"]
        ),
        (
            &ike.into(),
            &"hospital".into(),
            &"site1.lab.test".into(),
            &"gw.lab.test".into()
        )
    );
    let history = shown["history"].to_string();
    assert!(history.contains("child_sa_established"), "{history}");
    let rekey = |id: &str| Request::SaRekey {
        site: None,
        id: Some(id.into()),
        ike: false,
    };
    assert_eq!(center.ask(rekey(child))["sas"][0], child);
    until(
        || (first_sa(&center)["children"][0]["id"] != child).then_some(()),
        || log(&center, "hospital"),
    );
    assert!(
        center
            .refused(rekey(child))
            .contains("a rekeyed SA has a new name")
    );
    center.ask(rekey(ike));
    until(
        || (first_sa(&center)["id"] != ike && first_sa(&center)["state"] == "established").then_some(()),
        || log(&center, "hospital"),
    );
    let sa = first_sa(&center);
    let ike = sa["id"].as_str().expect("id");
    let shown = center.ask(Request::SaShow { id: ike.into() });
    let history = shown["history"].to_string();
    for event in ["ike_sa_established", "child_sa_rekeyed", "ike_sa_rekeyed"] {
        assert!(history.contains(event), "{event} is not in {history}");
    }
    center.ask(Request::SaClose {
        site: None,
        id: Some(ike.into()),
    });
    until(
        || site.engine().installed.is_empty().then_some(()),
        || log(&site, "center"),
    );
    let of_site = Request::SaClose {
        site: Some("hospital".into()),
        id: None,
    };
    assert!(
        center
            .refused(of_site)
            .contains("`gateway ike log hospital` shows why")
    );
    let commands = names(&center)
        .iter()
        .filter(|name| *name == "operator_command")
        .count();
    assert_eq!(commands, 3);
}

#[test]
fn a_refused_proposal_says_what_would_have_matched() {
    let (center, site) = pair(Options {
        site_proposals: "aes128-sha256-x25519",
        ..Options::default()
    });
    site.ask(Request::ConnectionUp {
        name: "to-center".into(),
    });
    let said = until(
        || Some(log(&site, "center")).filter(|log| log.contains("NO_PROPOSAL_CHOSEN")),
        || log(&center, "hospital"),
    );
    assert!(
        said.contains("connection to-center is being brought up"),
        "{said}"
    );
    // The center never learned who it was: its log is found by the address.
    let said = log(&center, &site.address.to_string());
    assert!(said.contains("aes128-sha256"), "{said}");
    assert!(
        said.contains("nearest is its proposal 1, where encryption is aes128, but we want aes256"),
        "{said}"
    );
    let peers = center.ask(Request::IkePeers);
    assert_eq!(peers["peers"][0]["address"], site.address.to_string());
}

#[test]
fn a_peer_that_is_no_site_is_told_nothing_and_the_operator_why() {
    let (center, site) = pair(Options {
        center_knows: "another.lab.test",
        ..Options::default()
    });
    site.ask(Request::ConnectionUp {
        name: "to-center".into(),
    });
    until(
        || {
            log(&site, "center")
                .contains("AUTHENTICATION_FAILED")
                .then_some(())
        },
        || log(&center, &site.address.to_string()),
    );
    assert!(names(&center).contains(&"peer_not_admitted".to_owned()));
    let events = center
        .ask(Request::EventsRecent {
            last: 100,
            site: None,
        })
        .to_string();
    assert!(
        events.contains("no [[site]] has the identity site1.lab.test"),
        "{events}"
    );
    let error = center.refused(Request::IkeLog { of: "x".into() });
    assert!(error.contains(&site.address.to_string()), "{error}");
}

/// `gateway drain` is told by `gateway status`, counts those that cannot go, and ends.
#[test]
fn a_gateway_that_is_drained_says_so() {
    let (center, site) = pair(Options::default());
    up(&site);
    let to = |to: &str| Request::Drain {
        to: Some(to.to_owned()),
    };
    for wrong in ["", "0.0.0.0", "two words"] {
        assert!(
            center.refused(to(wrong)).contains("neither the address"),
            "{wrong}"
        );
    }
    assert_eq!(center.ask(Request::Status)["draining"], Value::Null);
    let view = center.ask(to("198.51.100.2"));
    assert_eq!(view["to"], "198.51.100.2");
    // The site does not follow redirects, so it stays and works.
    assert_eq!(center.ask(Request::Status)["draining"]["staying"], 1);
    assert_eq!(center.engine().installed.len(), 1);
    center.ask(Request::Drain { to: None });
    assert_eq!(center.ask(Request::Status)["draining"], Value::Null);
}

/// A packet of the first site as the data plane tells of it.
fn traced(point: u32, outcome: u32, value: u32) -> TraceEvent {
    TraceEvent {
        at_ns: node::TRACE_CLOCK_NS,
        point,
        outcome,
        value,
        site: 1,
        rule: u32::MAX,
        source: [192, 168, 1, 10],
        destination: [10, 100, 0, 10],
        nat_address: [10, 200, 0, 1],
        source_port: 50_000u16.to_be_bytes(),
        destination_port: 443u16.to_be_bytes(),
        nat_port: 50_000u16.to_be_bytes(),
        protocol: 6,
        state: 3,
        tcp_flags: 0x12,
        known: known::ADDRESSES | known::PORTS | known::NAT | known::RULE | known::FLOW,
        length: 60,
        ..TraceEvent::default()
    }
}

fn trace(port: Option<u16>, count: Option<u64>, seconds: u64) -> Request {
    Request::Trace(Trace {
        site: "hospital".into(),
        protocol: Some("tcp".into()),
        port,
        count,
        seconds,
        ..Trace::default()
    })
}

/// The next line that the daemon sends.
fn next(lines: &mut tokio::sync::mpsc::Receiver<String>) -> Option<Value> {
    let line = awaited(lines.recv())?;
    Some(serde_json::from_str(&line).expect("JSON"))
}

#[test]
fn a_trace_shows_what_was_asked_for_and_is_off_afterwards() {
    let (center, _site) = pair(Options::default());
    let (begun, mut lines) = center.follow(trace(Some(443), Some(2), 60), 16);
    assert_eq!(
        (&begun["site"], &begun["seconds"]),
        (&"hospital".into(), &60.into())
    );
    assert_eq!(center.engine().traced_site, 1);
    let window = DropReason::TcpWindow;
    let other = TraceEvent {
        site: 2,
        ..traced(point::CORE, outcome::SENT, PacketPath::CoreForwarded as u32)
    };
    let dns = TraceEvent {
        protocol: 17,
        ..traced(point::CLEAR, outcome::SENT, PacketPath::ClearForwarded as u32)
    };
    let elsewhere = TraceEvent {
        destination_port: [0, 80],
        ..traced(point::CLEAR, outcome::SENT, PacketPath::ClearForwarded as u32)
    };
    center.engine().traces = Traces {
        events: vec![
            other,
            dns,
            elsewhere,
            traced(point::CORE, outcome::DROPPED, window as u32),
            traced(point::CLEAR, outcome::SENT, PacketPath::ClearForwarded as u32),
            traced(point::CLEAR, outcome::SENT, PacketPath::ClearForwarded as u32),
        ],
        lost: 7,
    };
    assert_eq!(
        next(&mut lines),
        Some(serde_json::json!({ "line": "gap", "lost": 7 }))
    );
    let dropped = next(&mut lines).expect("a line");
    assert!(
        dropped["time"].as_str().is_some_and(|time| time.len() == 27),
        "{dropped}"
    );
    let mut expected = serde_json::json!({
        "line": "packet", "site": "hospital", "point": "core", "direction": "in", "outcome": "dropped",
        "what": "tcp_window", "words": window.words(), "protocol": "tcp", "source": "192.168.1.10:50000",
        "nat": "10.200.0.1:50000", "destination": "10.100.0.10:443", "state": "established", "mapping": 0,
        "rule": "(default)", "tcp": "SYN,ACK", "bytes": 60
    });
    expected["time"] = dropped["time"].clone();
    assert_eq!(dropped, expected);
    let sent = next(&mut lines).expect("a line");
    assert_eq!(
        (&sent["outcome"], &sent["what"]),
        (&"sent".into(), &"clear_forwarded".into())
    );
    let end = serde_json::json!({ "line": "end", "why": "count", "packets": 2, "lost": 7 });
    assert_eq!((next(&mut lines), next(&mut lines)), (Some(end), None));
    until(
        || (center.engine().traced_site == 0).then_some(()),
        || "it is on".into(),
    );
}

#[test]
fn a_trace_ends_by_its_time_and_when_its_reader_goes() {
    let (center, _site) = pair(Options::default());
    let (_, mut timed) = center.follow(trace(None, None, 1), 16);
    let (_, kept) = center.follow(trace(None, None, 3600), 16);
    let end = next(&mut timed).expect("a line");
    assert_eq!((&end["line"], &end["why"]), (&"end".into(), &"time".into()));
    assert_eq!(center.engine().traced_site, 1, "another still traces");
    drop(kept);
    until(
        || (center.engine().traced_site == 0).then_some(()),
        || "it is on".into(),
    );
}

#[test]
fn a_reader_that_is_too_slow_is_told_how_much_it_lost() {
    let (center, _site) = pair(Options::default());
    let (_, mut lines) = center.follow(trace(None, None, 10), 4);
    let sent = traced(point::CLEAR, outcome::SENT, PacketPath::ClearForwarded as u32);
    center.engine().traces.events = vec![sent; 10];
    until(
        || center.engine().traces.events.is_empty().then_some(()),
        || "not told".into(),
    );
    // Answered once all are told.
    center.ask(Request::Drops);
    let lines: Vec<Value> = std::iter::from_fn(|| next(&mut lines)).collect();
    let names: Vec<_> = lines
        .iter()
        .map(|line| line["line"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["packet", "packet", "packet", "packet", "gap", "end"]);
    assert_eq!((&lines[4]["lost"], &lines[5]["lost"]), (&6.into(), &6.into()));
}

#[test]
fn a_trace_that_means_nothing_is_refused() {
    let (center, _site) = pair(Options::default());
    let ask = |change: fn(&mut Trace)| {
        let mut wanted = Trace {
            site: "hospital".into(),
            seconds: 60,
            ..Trace::default()
        };
        change(&mut wanted);
        center.refused_lines(Request::Trace(wanted))
    };
    assert!(ask(|wanted| wanted.site = "nobody".into()).contains("no site is named \"nobody\""));
    assert!(ask(|wanted| wanted.protocol = Some("tpc".into())).contains("\"tpc\" is no protocol"));
    assert!(ask(|wanted| wanted.seconds = 0).contains("1 to 86400 seconds, not 0"));
    assert!(ask(|wanted| wanted.count = Some(0)).contains("0 lines"));
    let running: Vec<_> = (0..4).map(|_| center.follow(trace(None, None, 60), 1)).collect();
    assert!(ask(|_| {}).contains("4 traces run already"));
    assert_eq!(running.len(), 4);
}

/// Whoever closed a site's tunnel, or watched its packets, can be asked why.
#[test]
fn an_operators_command_is_noted_with_who_gave_it() {
    let (center, site) = pair(Options::default());
    up(&site);
    let id = first_sa(&center)["id"].as_str().expect("id").to_owned();
    let trace = Request::Trace(Trace {
        site: "hospital".into(),
        seconds: 60,
        ..Trace::default()
    });
    let (_, _lines) = center.follow(trace, 16);
    center.ask(Request::Drain {
        to: Some("192.0.2.1".into()),
    });
    center.ask(Request::SaClose {
        site: None,
        id: Some(id),
    });
    let view = center.ask(Request::EventsRecent {
        last: 1_000,
        site: None,
    });
    let events = view["events"].as_array().expect("events").iter();
    let commands: Vec<_> = events
        .filter(|event| event["event"] == "operator_command")
        .map(|event| (event["verb"].as_str(), event["by"].as_str()))
        .collect();
    let by = Some("alice (uid 0)");
    assert_eq!(
        commands,
        [
            (Some("trace hospital for 60 s"), by),
            (Some("drain --to 192.0.2.1"), by),
            (Some("sa close"), by)
        ]
    );
}

#[test]
fn flows_are_listed_by_when_they_were_used_last_with_names() {
    let site = "[[site]]\nname = \"s\"\nidentity = \"s.lab.test\"\nnetworks = [\"192.168.1.0/24\"]\n\
                nat_address = \"10.200.0.1\"\n";
    let node = Node::alone(tempfile::tempdir().expect("folder"), site);
    let number = *node.engine().sites.keys().next().expect("a site");
    let flow = |site: u32, port: u16, used_s: u32| {
        let key = FlowKey {
            site,
            source: [192, 168, 1, 10],
            source_port: port.to_be_bytes(),
            destination: [10, 100, 0, 10],
            destination_port: 443_u16.to_be_bytes(),
            protocol: 6,
            pad: [0; 3],
        };
        let mut flow = Flow::default();
        flow.back.seen_s = used_s;
        (key, flow)
    };
    node.engine().flows = vec![
        flow(number, 1, 100),
        flow(number, 2, 300),
        flow(number + 1, 3, 200),
        flow(number, 4, 0),
    ];
    let list = |site: Option<&str>, limit| {
        let site = site.map(str::to_owned);
        let view = node.ask(Request::FlowsList { site, limit });
        let flows = view["flows"].as_array().expect("flows").clone();
        let line = |flow: &Value| (flow["site"].to_string(), flow["source_port"].to_string());
        (
            view["total"].to_string(),
            flows.iter().map(line).collect::<Vec<_>>(),
        )
    };
    let line = |site: &str, port: u16| (format!("{site:?}"), port.to_string());
    let unnamed = format!("site {}", number + 1);
    let first = vec![line("s", 2), line(&unnamed, 3)];
    assert_eq!(list(None, 2), ("4".to_owned(), first));
    let of_site = vec![line("s", 2), line("s", 1), line("s", 4)];
    assert_eq!(list(Some("s"), 9), ("3".to_owned(), of_site));
    let error = node.refused(Request::FlowsList {
        site: None,
        limit: 100_001,
    });
    assert!(error.contains("name a site with --site"), "{error}");
}
