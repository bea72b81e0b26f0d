//! Connections that the gateway begins.

use super::*;

/// The example with a connection to hospital-a, in which `from` is replaced.
fn with_connection(from: &str, to: &str) -> String {
    let connection = "[[connection]]\nname = \"c\"\nsite = \"hospital-a\"\nremote = [\"198.51.100.7\", \"2001:db8::7\"]\n\
        local = [\"203.0.113.1\", \"2001:db8::1\"]\nstart = \"on-demand\"\nnetworks = [\"192.168.1.0/25\"]\n\
        idle_child_after_s = 600\nretry_after_s = 5\nretry_longest_s = 60\n\n[timeouts]";
    assert!(connection.contains(from), "the connection has no {from}");
    CONFIG.replacen("[timeouts]", &connection.replacen(from, to, 1), 1)
}

#[test]
fn a_connection_is_read() {
    let text = with_connection("start", "start");
    let config = Config::parse("file", &text, Path::new("/etc/gateway")).expect("right");
    let connection = &config.connections[0];
    assert_eq!(
        (connection.remote.len(), connection.start.word()),
        (2, "on-demand")
    );
    assert_eq!(connection.idle.child_after_s, Some(600));
    assert_eq!(
        (connection.backoff.first_s, connection.backoff.longest_s),
        (5, 60)
    );
}

#[test]
fn faults_of_a_connection() {
    for (from, to, message) in [
        (
            "site = \"hospital-a\"",
            "site = \"b\"",
            "no [[site]] is named \"b\"",
        ),
        ("name = \"c\"", "name = \"c d\"", "\"c d\" is no connection name"),
        (
            "[\"198.51.100.7\", ",
            "[\"224.0.0.1\", ",
            "224.0.0.1 is no address of a host",
        ),
        (
            "[\"198.51.100.7\", \"2001:db8::7\"]",
            "\"any\"",
            "remote names no address",
        ),
        (
            ", \"2001:db8::1\"]",
            "]",
            "local has no address of the family of 2001:db8::7",
        ),
        (
            "\"2001:db8::1\"]",
            "\"203.0.113.2\"]",
            "local has two addresses of one family",
        ),
        (
            "192.168.1.0/25",
            "192.168.2.0/24",
            "192.168.2.0/24 is no network of site \"hospital-a\"",
        ),
        (
            "on-demand",
            "now",
            "connection \"c\" is to be up at all times and closed when idle",
        ),
        ("on-demand", "sometimes", "unknown variant `sometimes`"),
        (
            "retry_longest_s = 60",
            "retry_longest_s = 4",
            "retry_longest_s = 4 is less than retry_after_s = 5",
        ),
        (
            "idle_child_after_s = 600",
            "idle_child_after_s = 1",
            "idle_child_after_s = 1",
        ),
    ] {
        let fault = config(&with_connection(from, to));
        assert!(fault.contains(message), "expected {message}\n     got {fault}");
    }
}

#[test]
fn a_site_has_one_connection() {
    let second =
        "[[connection]]\nname = \"c\"\nsite = \"hospital-a\"\nremote = \"198.51.100.9\"\n\n[timeouts]";
    let text = with_connection("start", "start").replacen("[timeouts]", second, 1);
    let fault = config(&text);
    for message in [
        "connection \"c\" appears twice",
        "site \"hospital-a\" has a connection already\n  to mend it: write all of its addresses into one",
    ] {
        assert!(fault.contains(message), "{fault}");
    }
}

/// As large as a national center's: the time is `cargo xtask bench ike`'s affair, here it is loaded at all.
#[test]
fn ten_thousand_sites_and_connections_are_loaded() {
    const COUNT: usize = 10_000;
    let tables = |number: usize| {
        let (high, low) = (number / 250, number % 250 + 1);
        format!(
            "[[site]]\nname = \"s{number}\"\nidentity = \"s{number}.example\"\ngroups = [\"g{}\"]\n\
             networks = [\"192.168.1.0/24\"]\nnat_address = \"10.128.{high}.{low}\"\n\
             [[connection]]\nname = \"c{number}\"\nsite = \"s{number}\"\nremote = \"198.18.{high}.{low}\"\nstart = \"manual\"\n",
            number % 8
        )
    };
    let tables: String = (0..COUNT).map(tables).collect();
    let text = CONFIG.replacen("[timeouts]", &format!("{tables}[timeouts]"), 1);
    let loaded = Config::parse("file", &text, Path::new("/etc/gateway")).expect("right");
    assert_eq!((loaded.sites.len(), loaded.connections.len()), (COUNT + 1, COUNT));
    // One fault among them is found and named by its line.
    let wrong = text.replacen("identity = \"s9999.example\"", "identity = \"s1.example\"", 1);
    let fault = config(&wrong);
    assert!(
        fault.contains("identity \"s1.example\" belongs to another site already"),
        "{fault}"
    );
}
