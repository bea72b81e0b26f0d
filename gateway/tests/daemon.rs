//! Two controllers with real sockets on loopback, one the center, the other a site; the data plane is a table in
//! memory. What people and machines see of IKE: verbs, logs, events, connections.
//!
//! ```text
//!  center  gw.lab.test, RSA        127.x.y.1:500  ====  127.x.y.2:500    site  site1.lab.test, P-256
//!  10.100.0.0/16                                                         192.168.1.0/24
//! ```
#[path = "daemon/beside.rs"]
mod beside;
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

/// Certificates of the wall clock's year: the daemon asks the real one.
fn certified(folder: &Path) -> (Authority, rcgen::SerialNumber, Options) {
    let root = Authority::root("Root", nothing);
    let key = include_str!("../ike/tests/data/ec-leaf.pkcs8.key");
    let leaf = root.issue_key(
        rcgen::KeyPair::from_pem(key).expect("a key"),
        "site1",
        vec![dns("site1.lab.test")],
        nothing,
    );
    let (ca, certificate, crl) = (
        folder.join("ca.crt"),
        folder.join("site.crt"),
        folder.join("ca.crl"),
    );
    std::fs::write(&ca, root.certificate.pem()).expect("written");
    std::fs::write(&certificate, leaf.certificate.pem()).expect("written");
    std::fs::write(&crl, root.crl(&[], 1, false).der()).expect("written");
    let options = Options {
        site_certificate: (certificate, "site1.lab.test"),
        center_ca: ca,
        more: [
            format!("crl = {crl:?}\ncrl_policy = \"always\""),
            String::new(),
            String::new(),
        ],
        ..Options::default()
    };
    (root, leaf.serial, options)
}

#[test]
fn a_certificate_that_becomes_revoked_loses_its_sa_by_the_verb() {
    let folder = tempfile::tempdir().expect("folder");
    let (root, serial, options) = certified(folder.path());
    let (center, site) = pair(options);
    up(&site);
    let before = center.ask(Request::Reload);
    assert_eq!(before["authorities"], serde_json::json!(["O=Lab, CN=Root"]));
    assert_eq!(before["revocation_lists"][0]["revoked"], 0);
    let crl = folder.path().join("ca.crl");
    // What cannot be read changes nothing.
    std::fs::write(&crl, "").expect("written");
    let error = center.refused(Request::Reload);
    assert!(error.contains("ca.crl: holds no X509 CRL section"), "{error}");
    assert_eq!(
        names(&center).last().map(String::as_str),
        Some("credentials_refused")
    );
    assert_eq!(center.engine().installed.len(), 1);

    std::fs::write(&crl, root.crl(&[&serial], 2, false).pem().expect("PEM")).expect("written");
    assert_eq!(center.ask(Request::Reload)["revocation_lists"][0]["revoked"], 1);
    until(
        || center.engine().installed.is_empty().then_some(()),
        || log(&center, "hospital"),
    );
    until(
        || {
            log(&center, "hospital")
                .contains("is revoked by its issuer O=Lab, CN=Root")
                .then_some(())
        },
        || log(&center, "hospital"),
    );
    // And it does not come back.
    site.ask(Request::ConnectionUp {
        name: "to-center".into(),
    });
    until(
        || {
            names(&center)
                .contains(&"authentication_failed".to_owned())
                .then_some(())
        },
        || log(&center, "hospital"),
    );
    // Nor by the list of before, which is in date still.
    std::fs::write(&crl, root.crl(&[], 1, false).der()).expect("written");
    let error = center.refused(Request::Reload);
    assert!(
        error.contains("O=Lab, CN=Root is older than the one in force"),
        "{error}"
    );
}

#[test]
fn a_list_that_is_replaced_is_read_without_being_told() {
    let folder = tempfile::tempdir().expect("folder");
    let (root, serial, options) = certified(folder.path());
    let (center, site) = pair(options);
    up(&site);
    let new = folder.path().join("new");
    std::fs::write(&new, root.crl(&[&serial], 2, false).der()).expect("written");
    std::fs::rename(&new, folder.path().join("ca.crl")).expect("renamed");
    until(
        || center.engine().installed.is_empty().then_some(()),
        || log(&center, "hospital"),
    );
    assert!(names(&center).contains(&"credentials_loaded".to_owned()));
}

/// Regression: what was wrong with the list of one authority kept those of all others from being followed, and a gateway that was
/// started with it did not start.
#[test]
fn a_wrong_list_of_one_authority_leaves_those_of_others_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let (root, serial, mut options) = certified(folder.path());
    let [other, impostor] = [(); 2].map(|()| Authority::root("Other", nothing));
    let path = |name: &str| folder.path().join(name);
    let both = [&root, &other].map(|one| one.certificate.pem()).concat();
    std::fs::write(path("ca.crt"), both).expect("written");
    // Wrong from the start.
    std::fs::write(path("other.crl"), impostor.crl(&[], 1, false).der()).expect("written");
    options.more[0] = format!("crl = [{:?}, {:?}]", path("ca.crl"), path("other.crl"));
    let (center, site) = pair(options);
    up(&site);
    let refused = || {
        names(&center)
            .iter()
            .filter(|name| *name == "credentials_refused")
            .count()
    };
    assert_eq!(refused(), 1, "it is told at the start");
    let replace = |name: &str, list: &rcgen::CertificateRevocationList| {
        std::fs::write(path("new"), list.der()).expect("written");
        std::fs::rename(path("new"), path(name)).expect("renamed");
    };
    replace("other.crl", &impostor.crl(&[], 2, false));
    until(|| (refused() == 2).then_some(()), || log(&center, "hospital"));
    assert_eq!(center.engine().installed.len(), 1);
    replace("ca.crl", &root.crl(&[&serial], 2, false));
    until(
        || center.engine().installed.is_empty().then_some(()),
        || log(&center, "hospital"),
    );
    // Who asks is told, and nothing is done by halves.
    let error = center.refused(Request::Reload);
    assert!(error.contains("CN=Other"), "{error}");
}

/// Regression: a download of one authority's list that failed, an error page or half a file, kept those of all others from being
/// followed for as long as it lay there.
#[test]
fn a_list_that_cannot_be_read_leaves_those_of_others_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let (root, serial, mut options) = certified(folder.path());
    let other = Authority::root("Other", nothing);
    let path = |name: &str| folder.path().join(name);
    let both = [&root, &other].map(|one| one.certificate.pem()).concat();
    std::fs::write(path("ca.crt"), both).expect("written");
    let list = other.crl(&[&serial], 1, false);
    std::fs::write(path("other.crl"), list.der()).expect("written");
    // The damaged one comes first.
    options.more[0] = format!("crl = [{:?}, {:?}]", path("other.crl"), path("ca.crl"));
    let (center, site) = pair(options);
    up(&site);
    let refusals = || {
        let view = center.ask(Request::EventsRecent {
            last: 1_000,
            site: None,
        });
        let events = view["events"].as_array().expect("events").clone();
        let refused = events
            .into_iter()
            .filter(|one| one["event"] == "credentials_refused");
        refused.map(|one| one.to_string()).collect::<Vec<_>>()
    };
    let cut = &list.der()[..list.der().len() / 2];
    for (count, content) in [(1, &b""[..]), (2, b"<html>502</html>"), (3, cut)] {
        std::fs::write(path("new"), content).expect("written");
        std::fs::rename(path("new"), path("other.crl")).expect("renamed");
        until(
            || (refusals().len() == count).then_some(()),
            || refusals().join("\n"),
        );
        let told = refusals().pop().unwrap_or_default();
        assert!(told.contains("other.crl: "), "{told}");
    }
    assert_eq!(center.engine().installed.len(), 1);
    std::fs::write(path("new"), root.crl(&[&serial], 2, false).der()).expect("written");
    std::fs::rename(path("new"), path("ca.crl")).expect("renamed");
    until(
        || center.engine().installed.is_empty().then_some(()),
        || refusals().join("\n"),
    );
    // What is known of the other one stays in force.
    let view = center.ask(Request::EventsRecent {
        last: 1_000,
        site: None,
    });
    let mut events = view["events"].as_array().expect("events").iter();
    let loaded = events.rfind(|one| one["event"] == "credentials_loaded");
    let loaded = loaded.expect("an event").to_string();
    assert!(
        loaded.contains("CN=Root") && loaded.contains("CN=Other"),
        "{loaded}"
    );
    // Who asks is told, and nothing is done by halves.
    let error = center.refused(Request::Reload);
    assert!(error.contains("other.crl: "), "{error}");

    // A list for other certificates than before takes its place when somebody asks for it.
    let part = rcgen::CrlIssuingDistributionPoint {
        distribution_point: rcgen::CrlDistributionPoint {
            uris: vec!["http://lab.test/1.crl".into()],
        },
        scope: None,
    };
    let part = other.crl_of(&[&serial], 3, false, Some(part));
    std::fs::write(path("new"), part.der()).expect("written");
    std::fs::rename(path("new"), path("other.crl")).expect("renamed");
    until(
        || {
            let told = refusals().pop()?;
            told.contains("`gateway reload` takes them").then_some(())
        },
        || refusals().join("\n"),
    );
    center.ask(Request::Reload);
    center.ask(Request::Reload);
}

#[test]
fn what_is_about_to_end_is_told_ahead_and_once() {
    let folder = tempfile::tempdir().expect("folder");
    let (root, _, mut options) = certified(folder.path());
    let mut params = root.params.clone();
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now_s + 13 * 86_400);
    let authority = params.self_signed(&root.key).expect("signed");
    std::fs::write(folder.path().join("ca.crt"), authority.pem()).expect("written");
    options.more = Default::default();
    let (center, _site) = pair(options);
    let ends = |node: &Node| {
        let view = node.ask(Request::EventsRecent {
            last: 1_000,
            site: None,
        });
        let events = view["events"].as_array().expect("events").clone();
        let of = |event: &&Value| event["event"] == "certificate_ends";
        events
            .iter()
            .filter(of)
            .map(|event| event["text"].as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    let told = ends(&center);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("the authority's certificate (O=Lab, CN=Root) is valid until"),
        "{told:?}"
    );
    center.ask(Request::Reload);
    assert_eq!(ends(&center).len(), 1);
}

/// A file with a secret, for its owner alone.
fn psk(folder: &Path, name: &str, secret: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, secret).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
    format!("psk_file = {path:?}")
}

#[test]
fn a_site_with_a_shared_key_comes_up_and_falls_when_it_changes() {
    let folder = tempfile::tempdir().expect("folder");
    let secret = "0x000102030405060708090a0b0c0d0e0f";
    let options = |center: String, site: String| Options {
        more: [String::new(), center, site],
        ..Options::default()
    };
    let of_center = psk(folder.path(), "center.psk", secret);
    let (center, site) = pair(options(of_center, psk(folder.path(), "site.psk", secret)));
    up(&site);
    let id = first_sa(&center)["id"].as_str().expect("id").to_owned();
    assert_eq!(center.ask(Request::SaShow { id })["certificate"], Value::Null);
    psk(folder.path(), "center.psk", "another secret of many words");
    center.ask(Request::Reload);
    until(
        || center.engine().installed.is_empty().then_some(()),
        || log(&center, "hospital"),
    );
    until(
        || {
            log(&center, "hospital")
                .contains("its shared key was changed or taken away")
                .then_some(())
        },
        || log(&center, "hospital"),
    );
}

#[test]
fn a_site_with_a_shared_key_is_not_let_in_by_its_certificate() {
    let folder = tempfile::tempdir().expect("folder");
    let of_center = psk(folder.path(), "center.psk", "a secret of so many words");
    let (center, site) = pair(Options {
        more: [String::new(), of_center, String::new()],
        ..Options::default()
    });
    site.ask(Request::ConnectionUp {
        name: "to-center".into(),
    });
    until(
        || {
            log(&center, "hospital")
                .contains("it is to prove itself by its shared key")
                .then_some(())
        },
        || log(&center, "hospital"),
    );
    assert!(center.engine().installed.is_empty());
}

/// A post-quantum preshared key goes through files, reload and verbs; a site that lacks it is refused in words.
#[test]
fn a_site_with_a_post_quantum_key() {
    let folder = tempfile::tempdir().expect("folder");
    let ppk = |name: &str, secret: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, secret).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        format!("ppk_id = \"hospital\"\nppk_file = {path:?}\n")
    };
    let secret = "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let (center, site) = pair(Options {
        more: [String::new(), ppk("center.ppk", secret), ppk("site.ppk", secret)],
        ..Options::default()
    });
    up(&site);
    let id = first_sa(&center)["id"].as_str().expect("id").to_owned();
    assert_eq!(center.ask(Request::SaShow { id })["ppk"], Value::Bool(true));
    // Without it nobody comes in, and the log says why.
    let of_center = ppk("center.ppk", secret);
    let (center, site) = pair(Options {
        more: [String::new(), of_center, String::new()],
        ..Options::default()
    });
    site.ask(Request::ConnectionUp {
        name: "to-center".to_owned(),
    });
    let why = "without the post-quantum preshared key that is required of it";
    until(
        || log(&center, "hospital").contains(why).then_some(()),
        || log(&center, "hospital"),
    );
    assert!(center.engine().installed.is_empty());
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

/// Who takes a site out of gateway.toml and reloads must not believe that it is gone.
#[test]
fn a_reload_says_that_the_configuration_takes_a_restart() {
    let (center, _site) = pair(Options::default());
    let changed = |node: &Node| node.ask(Request::Reload)["configuration_changed"].clone();
    assert_eq!(changed(&center), Value::Null);
    let file = center.state_dir().join("gateway.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, text.clone() + "\n# a change\n").expect("written");
    assert_eq!(changed(&center), file.to_str().expect("UTF-8"));
    std::fs::write(&file, text).expect("written");
    assert_eq!(changed(&center), Value::Null);
}

/// Regression: a private key that others may read was warned of, in a log that nobody reads, and taken.
#[test]
fn a_private_key_that_others_may_read_is_refused_at_a_reload() {
    let site = "[[site]]\nname = \"s\"\nidentity = \"s.lab.test\"\nnetworks = [\"192.168.1.0/24\"]\n\
                nat_address = \"10.200.0.1\"\n";
    let node = Node::alone(tempfile::tempdir().expect("folder"), site);
    let key = node.state_dir().join(OWN_KEY);
    let set_mode = |mode: u32| {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("mode");
    };
    for mode in [0o640, 0o604] {
        set_mode(mode);
        let error = node.refused(Request::Reload);
        let said = format!("{OWN_KEY}: others may read or write it (mode {mode:04o})");
        assert!(error.contains(&said) && error.contains("chmod 600"), "{error}");
        let last = names(&node).pop();
        assert_eq!(last.as_deref(), Some("credentials_refused"));
    }
    set_mode(0o400);
    node.ask(Request::Reload);
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
