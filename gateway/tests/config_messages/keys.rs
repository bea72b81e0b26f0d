//! Keys that sites share with the gateway.

use super::*;

/// Who proves what by which method, as it is written and as it is understood.
#[test]
fn shared_keys_of_sites() {
    use gateway::config::SiteSharedKey;
    use gateway_ike::AuthKind::{Certificate, SharedKey};
    let understood = |more: &str, identity: &str| {
        let text = CONFIG
            .replacen(
                "name = \"hospital-a\"",
                &format!("name = \"hospital-a\"\n{more}"),
                1,
            )
            .replacen("hospital-a.hospital.example", identity, 1);
        let config = Config::parse("file", &text, Path::new("/etc/gateway")).expect("right");
        config.sites[0].shared_key.clone()
    };
    let key = |site, gateway, identity: Option<&str>| {
        Some(SiteSharedKey {
            file: "/etc/gateway/psk/a".into(),
            site,
            gateway,
            gateway_identity: identity.map(|text| text.parse().expect("identity")),
        })
    };
    let file = "psk_file = \"psk/a\"\n";
    for (more, expected) in [
        ("", key(SharedKey, SharedKey, None)),
        (
            "gateway_auth = \"certificate\"",
            key(SharedKey, Certificate, None),
        ),
        ("site_auth = \"certificate\"", key(Certificate, SharedKey, None)),
        (
            "gateway_identity = \"keyid:center\"",
            key(SharedKey, SharedKey, Some("keyid:center")),
        ),
    ] {
        assert_eq!(
            understood(&format!("{file}{more}"), "a.example"),
            expected,
            "{more}"
        );
    }
    assert_eq!(understood("", "a.example"), None);
    // Each kind of identity has its spelling.
    for identity in [
        "a.example",
        "a@b.example",
        "192.0.2.1",
        "2001:db8::1",
        "C=JP, O=A, CN=b",
        "keyid:r7",
        "@#0bad",
    ] {
        assert!(understood(file, identity).is_some(), "{identity}");
    }
}

/// A post-quantum preshared key needs a name and a file, and is required unless the file says otherwise.
#[test]
fn post_quantum_keys_of_sites() {
    let with = |more: &str| {
        CONFIG.replacen(
            "name = \"hospital-a\"",
            &format!("name = \"hospital-a\"\n{more}"),
            1,
        )
    };
    let both = "ppk_id = \"a\"\nppk_file = \"ppk/a\"\n";
    for (more, required) in [
        ("", true),
        ("ppk_required = true", true),
        ("ppk_required = false", false),
    ] {
        let text = with(&format!("{both}{more}"));
        let config = Config::parse("file", &text, Path::new("/etc/gateway")).expect("right");
        let ppk = config.sites[0].ppk.clone().expect("a key");
        assert_eq!((ppk.id.as_str(), ppk.required), ("a", required));
        assert_eq!(ppk.file, Path::new("/etc/gateway/ppk/a"));
    }
    for (more, fault) in [
        ("ppk_id = \"a\"", "ppk_id without a ppk_file"),
        ("ppk_file = \"a\"", "ppk_file without a ppk_id"),
        (
            "ppk_required = true",
            "ppk_required without a post-quantum preshared key",
        ),
        (
            "ppk_id = \"\"\nppk_file = \"a\"",
            "this ppk_id is empty or too long",
        ),
    ] {
        let told = config(&with(more));
        assert!(told.contains(fault), "{told}");
    }
}
