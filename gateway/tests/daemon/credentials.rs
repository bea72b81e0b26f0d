//! Certificates, revocation lists and keys: what is read, followed, refused and told.

use super::*;

/// Certificates of the wall clock's year: the daemon asks the real one.
pub(crate) fn certified(folder: &Path) -> (Authority, rcgen::SerialNumber, Options) {
    let root = Authority::root("Root", nothing);
    let key = include_str!("../../ike/tests/data/ec-leaf.pkcs8.key");
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
    until_logged(&center, "hospital", "is revoked by its issuer O=Lab, CN=Root");
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
    until_logged(&center, "hospital", "its shared key was changed or taken away");
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
    until_logged(&center, "hospital", "it is to prove itself by its shared key");
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
