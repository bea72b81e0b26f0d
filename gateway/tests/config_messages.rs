//! What the operator reads when a file is wrong: every message, with its line.
use std::path::Path;

use gateway::config::{Config, RuleSetFile};

const CONFIG: &str = include_str!("../examples/gateway.toml");
const RULES: &str = include_str!("../examples/rules.toml");
const RULES_JSON: &str = include_str!("../examples/rules.json");

/// Replaces `from` in the example by `to`, and checks that the fault begins with the line that holds `to` (or, if
/// `line_of` is given, that) and the words given.
#[track_caller]
fn check(example: &str, parse: fn(&str) -> String, [from, to, line_of, message]: [&str; 4]) {
    assert!(example.contains(from), "the example has no {from}");
    let text = example.replacen(from, to, 1);
    let place = if line_of.is_empty() {
        to.lines().last().expect("a line")
    } else {
        line_of
    };
    let line = text
        .lines()
        .position(|line| line.contains(place))
        .expect("the line")
        + 1;
    let expected = format!("file:{line}: {message}");
    let fault = parse(&text);
    assert!(
        fault.starts_with(&expected),
        "expected {expected}\n     got {fault}"
    );
}

fn config(text: &str) -> String {
    Config::parse("file", text, Path::new("/etc/gateway"))
        .expect_err("a fault")
        .to_string()
}

fn rules(text: &str) -> String {
    RuleSetFile::parse("file", text).expect_err("a fault").to_string()
}

#[test]
fn the_examples_are_right() {
    let config = Config::parse("file", CONFIG, Path::new("/etc/gateway")).expect("right");
    assert_eq!(
        config.ike.certificate,
        Path::new("/etc/gateway/pki/gateway.crt"),
        "paths start from the file's folder"
    );
    assert_eq!(config.groups, ["hospitals", "clinics"]);
    assert_eq!(config.group_bit("clinics"), Some(2));
    assert_eq!(RuleSetFile::parse("file", RULES).expect("right").rules.len(), 5);
    assert_eq!(
        RuleSetFile::parse("file", RULES_JSON).expect("right").rules.len(),
        1
    );
}

/// The rule of a site goes before that of `[ike]`, which goes before the words of the proposals.
#[test]
fn forward_secrecy_may_be_ruled() {
    use gateway_ike::proposal::Pfs;
    let text = CONFIG
        .replacen("dpd_after_s = 30", "dpd_after_s = 30\npfs = \"optional\"", 1)
        .replacen("max = 200", "max = 200\npfs = \"required\"", 1);
    let config = Config::parse("file", &text, Path::new("/etc/gateway")).expect("right");
    let rules: Vec<_> = config.ike.esp_proposals.iter().map(|one| one.pfs()).collect();
    assert_eq!(rules, [Pfs::Optional; 3]);
    assert_eq!(config.sites[0].pfs, None);
    assert_eq!(config.any_sites[0].pfs, Some(Pfs::Required));
    // Who names proposals gets these and no others.
    assert!(config.ike.proposals_accepted.is_empty());
    let unnamed = text.replacen("proposals = [\"aes", "# proposals = [\"aes", 1);
    let config = Config::parse("file", &unnamed, Path::new("/etc/gateway")).expect("right");
    assert!(!config.ike.proposals_accepted.is_empty());
}

#[test]
fn faults_of_the_configuration() {
    let pool = "[[nat_pool]]\nname = \"more\"\naddresses = [\"10.200.0.200-10.200.1.7\"]\n\n[[site]]";
    let twice = "identity = \"a.example\"\nnetworks = [\"192.168.1.0/24\"]\nnat_address = \"10.201.0.1\"\n\n[[any_site]]";
    let site = format!("[[site]]\nname = \"b\"\n{twice}");
    for case in [
        [
            "state_dir",
            "engine = \"kernel\"\nstate_dir",
            "engine",
            "unknown variant `kernel`, expected `xdp` or `direct`",
        ],
        [
            "role = \"wan\"",
            "role = \"van\"",
            "",
            "unknown variant `van`, expected one of `wan`, `core`, `internet`",
        ],
        [
            "udp_s = 300",
            "udp = 300",
            "",
            "unknown field `udp`, expected one of `tcp_opening_s`",
        ],
        [
            "udp_s = 300",
            "udp_s = 0",
            "[timeouts]",
            "a timeout of 0 s forgets every flow at once\n  to mend it: write at least 1",
        ],
        [
            "[timeouts]",
            "[network]\nmss_max = 500\n\n[timeouts]",
            "[network]",
            "an MSS below 536 is less than what every host takes\n  to mend it: write mss_max = 536 or more",
        ],
        [
            "[timeouts]",
            "[network]\nmss_max = 1300\nclamp_mss = false\n\n[timeouts]",
            "[network]",
            "mss_max means nothing with clamp_mss = false\n  to mend it: leave one of the two out",
        ],
        ["[center]", "[centre]", "", "unknown field `centre`"],
        ["[[nat_pool]]", "[[nat_pool]", "", "unclosed array table"],
        [
            "10.200.0.0/24",
            "10.200.0.9-10.200.0.1",
            "",
            "\"10.200.0.9-10.200.0.1\" ends before it begins",
        ],
        [
            "aes256-sha256-ecp256",
            "aes256-sha256-ecp999",
            "",
            "proposal \"aes256-sha256-ecp999\": \"ecp999\" is unknown",
        ],
        [
            "aes256-sha256-ecp256",
            "3des-sha1-modp1024",
            "",
            "proposal \"3des-sha1-modp1024\": \"3des\" is ENCR_3DES (RFC 8247: MAY), which this gateway does not use: write aes256gcm16",
        ],
        [
            "\"aes256gcm16-modp2048\"",
            "\"aes256-sha1\"",
            "",
            "proposal \"aes256-sha1\": \"sha1\" is AUTH_HMAC_SHA1_96 (RFC 8221: MUST-), which this gateway does not use: write sha256",
        ],
        [
            "max = 200",
            "max = 200\npfs = \"yes\"",
            "",
            "pfs = \"yes\" is no rule\n  to mend it: write \"required\", \"optional\" or \"off\"",
        ],
        [
            "192.168.1.0/24",
            "192.168.1.3/24",
            "",
            "\"192.168.1.3/24\" has bits set to the right of its prefix\n  to mend it: write \"192.168.1.0/24\"",
        ],
        [
            "nat_pool = \"sites\"",
            "nat_pool = \"site\"",
            "",
            "no NAT pool is named \"site\"\n  to mend it: use one of \"sites\"",
        ],
        [
            "[[site]]",
            pool,
            "10.200.1.7",
            "10.200.0.200-10.200.1.7 overlaps 10.200.0.1-10.200.0.254 of NAT pool \"sites\"",
        ],
        [
            "dpd_after_s = 30",
            "dpd_after_s = 1",
            "",
            "dpd_after_s = 1\n  to mend it: write 5 to 3600 seconds",
        ],
        [
            "*.clinic.example",
            "*clinic.example",
            "",
            "\"*clinic.example\" is no identity",
        ],
        [
            "identity = \"hospital-a.hospital.example\"",
            "identity = \"hospital a\"",
            "",
            "\"hospital a\" is no identity",
        ],
        [
            "nat_address = \"10.201.0.1\"",
            "nat_address = \"10.201.0.256\"",
            "",
            "invalid",
        ],
        [
            "nat_address = \"10.201.0.1\"\n",
            "",
            "name = \"hospital-a\"",
            "site \"hospital-a\" has no address to be translated to",
        ],
        [
            "networks = [\"10.100.0.0/16\"]",
            "networks = []",
            "[center]",
            "the center has no networks",
        ],
        [
            "state_dir",
            "workers = 0\nstate_dir",
            "workers",
            "workers = 0\n  to mend it: write a number from 1 to 64",
        ],
        [
            "name = \"hospital-a\"",
            "name = \"hospital a\"",
            "",
            "\"hospital a\" is no site name",
        ],
        [
            "identity = \"hospital-a.hospital.example\"",
            "identity = \"keyid:hospital\"",
            "",
            "no certificate proves the key id keyid:hospital\n  to mend it: add a psk_file",
        ],
        [
            "name = \"hospital-a\"",
            "name = \"hospital-a\"\nsite_auth = \"psk\"",
            "",
            "site_auth = \"psk\" without a psk_file\n  to mend it: add psk_file",
        ],
        [
            "name = \"hospital-a\"",
            "name = \"hospital-a\"\nsite_auth = \"certificate\"\ngateway_auth = \"certificate\"\npsk_file = \"x\"",
            "",
            "site \"hospital-a\" has a psk_file that neither side uses",
        ],
        [
            "name = \"hospital-a\"",
            "name = \"hospital-a\"\npsk_file = \"x\"\ngateway_auth = \"certificate\"\ngateway_identity = \"gw\"",
            "",
            "gateway_identity is for a gateway that proves itself by the shared key",
        ],
        [
            "name = \"hospital-a\"",
            "name = \"hospital-a\"\nsite_auth = \"pks\"",
            "",
            "unknown variant `pks`, expected `certificate` or `psk`",
        ],
        [
            "[ike]",
            "[ike]\ncrl_policy = \"always\"",
            "",
            "crl_policy = \"always\" without a revocation list lets nobody in\n  to mend it: add crl",
        ],
        [
            "[ike]",
            "[ike]\ncrl_policy = \"never\"",
            "",
            "unknown variant `never`, expected `where-listed` or `always`",
        ],
    ] {
        check(CONFIG, config, case);
    }
    // Places that the first occurrence of a line would not show.
    let fault = config(&CONFIG.replacen("name = \"wan6\"", "name = \"wan4\"", 1));
    assert!(
        fault.starts_with("file:13: interface \"wan4\" appears twice"),
        "{fault}"
    );
    let fault = config(&CONFIG.replacen("[[any_site]]", &site, 1));
    assert!(
        fault.contains(": nat_address 10.201.0.1 is that of site \"hospital-a\" already"),
        "{fault}"
    );
    let fault = config(&CONFIG.replace("role = \"wan\"", "role = \"core\""));
    assert_eq!(
        fault,
        "file: no interface has the role \"wan\"\n  to mend it: add an [[interface]] with role = \"wan\""
    );
}

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

#[test]
fn all_faults_are_told_at_once() {
    let text = CONFIG
        .replace("dpd_after_s = 30", "dpd_after_s = 1")
        .replace("udp_s = 300", "udp_s = 0");
    assert_eq!(
        config(&text)
            .lines()
            .filter(|line| line.starts_with("file:"))
            .count(),
        2
    );
}

#[test]
fn faults_of_the_rule_set() {
    for case in [
        [
            "action = \"deny\"",
            "action = \"dany\"",
            "",
            "unknown variant `dany`, expected one of `allow`, `deny`, `reject`",
        ],
        [
            "destination_ports = 23",
            "destination_ports = 70000",
            "",
            "\"70000\" is no port or range of ports\n  to mend it: write it like \"443\"",
        ],
        [
            "\"8000-8010\"",
            "\"8010-8000\"",
            "",
            "ports \"8010-8000\" end before they begin\n  to mend it: write \"8000-8010\"",
        ],
        [
            "protocol = \"icmp\"",
            "protocol = \"icmp\"\nsource_ports = 3",
            "protocol = \"icmp\"",
            "rule \"ping\" has ports, but protocol \"icmp\"",
        ],
        [
            "protocol = \"tcp\"",
            "protocol = \"tpc\"",
            "",
            "\"tpc\" is no protocol",
        ],
        ["protocol = \"icmp\"", "protocol = 0", "", "\"0\" is no protocol"],
        [
            "\"10.100.0.11\"",
            "\"10.100.0.256\"",
            "",
            "\"10.100.0.256\" is not an IPv4 address or prefix",
        ],
        [
            "[\"80\", \"443\"]",
            "[]",
            "destination_ports = []",
            "the list is empty\n  to mend it: write \"any\" if that is meant",
        ],
        [
            "[\"80\", \"443\"]",
            "[\"80\", \"any\"]",
            "",
            "\"any\" among others says nothing",
        ],
        ["log = true", "lag = true", "", "unknown field `lag`"],
    ] {
        check(RULES, rules, case);
    }
    let fault = rules(&RULES.replace("name = \"ping\"", "name = \"claims-upload\""));
    assert!(
        fault.starts_with("file:38: rule \"claims-upload\" appears twice, first in line 21"),
        "{fault}"
    );
    let fault = rules(&RULES.replace("name = \"ping\"\n", ""));
    assert!(fault.starts_with("file:37: missing field `name`"), "{fault}");
}

#[test]
fn faults_of_a_json_rule_set_have_lines_too() {
    for case in [
        ["\"allow\"", "\"alow\"", "", "unknown variant `alow`"],
        [
            "[80, 443]",
            "[80, \"x\"]",
            "",
            "\"x\" is no port or range of ports",
        ],
        [
            "\"tcp\",",
            "\"tcp\"",
            "\"destination_ports\"",
            "expected `,` or `}`",
        ],
        ["\"rule\"", "\"rules\"", "", "unknown field `rules`"],
    ] {
        check(RULES_JSON, rules, case);
    }
}

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

/// Pools of port blocks: what cannot be meant is refused, with its line.
#[test]
fn pools_of_blocks() {
    const POOL: &str = "addresses = [\"10.200.0.0/24\"]\n";
    let with = |keys: &str| CONFIG.replacen(POOL, &format!("{POOL}{keys}\n"), 1);
    let right = |keys: &str| {
        let config = Config::parse("file", &with(keys), Path::new("/etc/gateway")).expect("right");
        config.nat_pools[0].mode
    };
    use gateway::config::{PlanKind, PoolMode};
    assert_eq!(right(""), PoolMode::Address);
    let PoolMode::Block(plan) = right("mode = \"block\"") else {
        panic!("no blocks");
    };
    assert_eq!(
        (plan.kind, plan.size, plan.blocks_max),
        (PlanKind::Dynamic, 2048, 4)
    );
    let PoolMode::Block(plan) = right("mode = \"block\"\nplan = \"deterministic\"\nblock_size = 64") else {
        panic!("no blocks");
    };
    assert_eq!(
        (plan.kind, plan.size, plan.blocks_max),
        (PlanKind::Deterministic, 64, 1)
    );
    assert_eq!(plan.per_address, 1_008);

    for (keys, message) in [
        (
            "block_size = 2048",
            "block_size in a pool of which each site gets an address\n",
        ),
        (
            "plan = \"dynamic\"",
            "plan in a pool of which each site gets an address\n",
        ),
        ("mode = \"block\"\nblock_size = 2000", "block_size = 2000\n"),
        ("mode = \"block\"\nblock_size = 32", "block_size = 32\n"),
        ("mode = \"block\"\nblock_size = 65536", "block_size = 65536\n"),
        ("mode = \"block\"\nblocks_max = 0", "blocks_max = 0\n"),
        ("mode = \"block\"\nblocks_max = 9", "blocks_max = 9\n"),
        (
            "mode = \"block\"\nplan = \"deterministic\"\nblocks_max = 2",
            "a deterministic plan gives each site one block\n",
        ),
        ("mode = \"block\"\nplan = \"static\"", "unknown variant `static`"),
        ("mode = \"blocks\"", "unknown variant `blocks`"),
    ] {
        let text = with(keys);
        let last = keys.lines().last().expect("a line");
        let line = text.lines().position(|line| line == last).expect("the line") + 1;
        let fault = config(&text);
        assert!(
            fault.contains(&format!("file:{line}: {message}")),
            "{keys}: {fault}"
        );
    }
}

#[test]
fn an_address_of_one_site_is_not_one_that_sites_share() {
    const POOL: &str = "addresses = [\"10.200.0.0/24\"]\n";
    let text = CONFIG.replacen(POOL, "addresses = [\"10.201.0.0/24\"]\nmode = \"block\"\n", 1);
    let fault = config(&text);
    assert!(
        fault.contains("nat_address 10.201.0.1 is in NAT pool \"sites\", whose addresses sites share"),
        "{fault}"
    );
    let wide = CONFIG.replacen(POOL, "addresses = [\"10.0.0.0/8\"]\nmode = \"block\"\n", 1);
    assert!(config(&wide).contains("NAT pool \"sites\" has 16777214 addresses to divide"));
    let narrow = CONFIG.replacen(
        POOL,
        &format!("{POOL}mode = \"block\"\nblock_size = 4096\n\n[nat]\nport_low = 5000\nport_high = 10000\n"),
        1,
    );
    assert!(
        config(&narrow).contains("no block of 4096 ports fits into the ports 5000 to 10000 of an address"),
        "{}",
        config(&narrow)
    );
    let log = CONFIG.replacen("[timeouts]", "[nat]\nlog_keep_days = 0\n\n[timeouts]", 1);
    assert!(config(&log).contains("log_keep_days = 0"));
}

/// The example with a DNS proxy; `dns` is its table.
fn with_dns(dns: &str) -> Result<Config, String> {
    let text = CONFIG.replacen("[timeouts]", &format!("[dns]\n{dns}\n\n[timeouts]"), 1);
    Config::parse("file", &text, Path::new("/etc/gateway")).map_err(|faults| faults.to_string())
}

#[test]
fn a_dns_proxy_needs_little() {
    let dns = with_dns("listen = \"10.100.255.53\"\nupstream = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]");
    let dns = dns.expect("right").dns.expect("a proxy");
    let upstream: Vec<_> = dns.upstream.iter().map(ToString::to_string).collect();
    assert_eq!(upstream, ["192.0.2.53:53", "[2001:db8::53]:5353"]);
    assert_eq!((dns.ttl_min_s, dns.ttl_max_s), (60, 3_600));
    // No name may lead to the center, a site's network, a pool, or a site's own address.
    let own: Vec<_> = dns.own_networks.iter().map(ToString::to_string).collect();
    for network in ["10.100.0.0/16", "192.168.1.0/24", "10.201.0.1/32"] {
        assert!(own.contains(&network.to_owned()), "{own:?}");
    }
    let covers = |address: [u8; 4]| {
        let address = std::net::Ipv4Addr::from(address);
        dns.own_networks.iter().any(|net| net.contains(&address))
    };
    assert!(covers([10, 200, 0, 1]) && covers([10, 200, 0, 254]) && !covers([198, 51, 100, 80]));
}

#[test]
fn faults_of_the_dns_proxy() {
    const UPSTREAM: &str = "upstream = \"192.0.2.53\"";
    for (dns, words) in [
        (
            format!("listen = \"10.99.0.1\"\n{UPSTREAM}"),
            "in none of the center's networks",
        ),
        (
            format!("listen = \"10.201.0.1\"\n{UPSTREAM}"),
            "what a site is or may be translated to",
        ),
        (
            format!("listen = \"10.200.0.7\"\n{UPSTREAM}"),
            "what a site is or may be translated to",
        ),
        (
            "listen = \"10.100.255.53\"".to_owned(),
            "missing field `upstream`",
        ),
        (
            "listen = \"10.100.255.53\"\nupstream = []".to_owned(),
            "the list is empty",
        ),
        (
            "listen = \"10.100.255.53\"\nupstream = \"dns.example\"".to_owned(),
            "\"dns.example\" is no server",
        ),
        (
            format!("listen = \"10.100.255.53\"\n{UPSTREAM}\nttl_min_s = 600\nttl_max_s = 60"),
            "ttl_min_s = 600 and ttl_max_s = 60",
        ),
        (
            format!("listen = \"10.100.255.53\"\n{UPSTREAM}\nsite_queries_per_s = 0"),
            "site_queries_per_s = 0",
        ),
        (
            format!("listen = \"10.100.255.53\"\n{UPSTREAM}\naddresses_max = 65537"),
            "write a number from 1 to 65536",
        ),
    ] {
        let fault = with_dns(&dns).expect_err(&dns);
        assert!(fault.contains(words), "{dns}: {fault}");
        assert!(fault.contains("file:"), "{fault}");
    }
}

/// A publication into the example, of the site `hospital-a`, with lines in place of some of its own.
fn published(changes: &[(&str, &str)]) -> String {
    let mut lines = vec![
        ("name", "name = \"mri\""),
        ("site", "site = \"hospital-a\""),
        ("address", "address = \"192.168.1.20\""),
        ("protocol", "protocol = \"tcp\""),
        ("port", "port = 443"),
        ("on", "on = \"10.201.255.1:8443\""),
        ("from", "from = [\"10.100.0.0/24\"]"),
    ];
    for (key, line) in changes {
        for of_key in &mut lines {
            if of_key.0 == *key {
                of_key.1 = line;
            }
        }
    }
    let lines: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
    format!("\n[[publish]]\n{}\n", lines.join("\n"))
}

#[test]
fn what_is_published_is_checked() {
    let fault = |changes: &[(&str, &str)]| config(&format!("{CONFIG}{}", published(changes)));
    for (changes, words) in [
        (
            &[("site", "site = \"hospital-z\"")][..],
            "no site is named \"hospital-z\"\n  to mend it: write the name of a [[site]], or an identity",
        ),
        (
            &[("address", "address = \"192.168.2.20\"")],
            "192.168.2.20 is not in the networks of \"hospital-a\"\n  to mend it: write an address of 192.168.1.0/24",
        ),
        (
            &[("port", "")],
            "\"mri\" is neither a port nor a whole address\n  to mend it: write protocol, port and the port of on",
        ),
        (
            &[("on", "on = \"10.201.255.1\"")],
            "\"mri\" is neither a port nor a whole address",
        ),
        (
            &[("protocol", ""), ("port", "")],
            "\"mri\" is neither a port nor a whole address",
        ),
        (
            &[("port", "port = 0")],
            "\"mri\" is neither a port nor a whole address",
        ),
        (
            &[("protocol", "protocol = \"icmp\"")],
            "unknown variant `icmp`, expected `tcp` or `udp`",
        ),
        (
            &[("on", "on = \"10.201.255.1:0\"")],
            "\"10.201.255.1:0\" is no address and port\n  to mend it: write it like \"10.201.255.1:8443\"",
        ),
        (
            &[("on", "on = \"gateway:8443\"")],
            "\"gateway:8443\" is no address and port",
        ),
        (
            &[("on", "on = \"10.200.0.9:8443\"")],
            "10.200.0.9 is in NAT pool \"sites\"\n  to mend it: write an address outside of the pools",
        ),
        (
            &[("on", "on = \"10.201.0.1:8443\"")],
            "10.201.0.1 is the nat_address of site \"hospital-a\"",
        ),
        (
            &[("on", "on = \"224.0.0.1:8443\"")],
            "224.0.0.1 is no address of a host",
        ),
        (
            &[("from", "from = []")],
            "\"mri\" is published for nobody\n  to mend it: write from",
        ),
        (&[("name", "name = \"the mri\"")], "\"the mri\" is no name"),
        (&[("from", "")], "missing field `from`"),
    ] {
        let found = fault(changes);
        assert!(found.contains(words), "expected {words}\n     got {found}");
    }
}

#[test]
fn nothing_is_published_twice() {
    let both = |changes: &[(&str, &str)]| {
        let text = format!("{CONFIG}{}{}", published(&[]), published(changes));
        Config::parse("file", &text, Path::new("/etc/gateway")).map_err(|fault| fault.to_string())
    };
    let other = ("name", "name = \"ct\"");
    let (inside, outside) = (("port", "port = 22"), ("on", "on = \"10.201.255.1:2222\""));
    assert!(both(&[other, inside, outside]).is_ok());
    for (changes, words) in [
        (&[inside, outside][..], "\"mri\" is published twice"),
        (
            &[other, inside],
            "10.201.255.1:8443 is where \"mri\" is published already",
        ),
        (
            &[other, outside],
            "\"mri\" publishes this of 192.168.1.20 already",
        ),
        (
            &[
                other,
                ("protocol", ""),
                ("port", ""),
                ("on", "on = \"10.201.255.9\""),
            ],
            "\"mri\" publishes this of 192.168.1.20 already",
        ),
        (
            &[
                other,
                ("address", "address = \"192.168.1.21\""),
                ("protocol", ""),
                ("port", ""),
                ("on", "on = \"10.201.255.1\""),
            ],
            "10.201.255.1 is where \"mri\" is published already",
        ),
    ] {
        let found = both(changes).expect_err("a fault");
        assert!(found.contains(words), "expected {words}\n     got {found}");
    }
}

#[test]
fn filtering_is_set_for_all_and_for_one() {
    use gateway::config::{Filtering, Place};
    let text = CONFIG
        .replacen(
            "[timeouts]",
            "[nat]\nfiltering = \"address-dependent\"\nhold_down_s = 240\n\n[timeouts]",
            1,
        )
        .replacen("max = 200", "max = 200\nfiltering = \"endpoint-independent\"", 1);
    let text = format!("{text}{}", published(&[("site", "site = \"A.Clinic.example\"")]));
    let config = Config::parse("file", &text, Path::new("/etc/gateway")).expect("right");
    assert_eq!(config.nat.filtering, Filtering::AddressDependent);
    assert_eq!(config.nat.hold_down_s, 240);
    assert!(config.nat.preserve_port && config.nat.preserve_range);
    assert_eq!(config.sites[0].filtering, None);
    assert_eq!(
        config.any_sites[0].filtering,
        Some(Filtering::EndpointIndependent)
    );
    assert_eq!(config.publications[0].site, "a.clinic.example");
    let on = Place {
        address: "10.201.255.1".parse().expect("address"),
        port: Some(8443),
    };
    assert_eq!(config.publications[0].on, on);

    let wrong = CONFIG.replacen("[timeouts]", "[nat]\nfiltering = \"none\"\n\n[timeouts]", 1);
    assert!(
        self::config(&wrong).contains("unknown variant `none`, expected one of `address-and-port-dependent`"),
        "{}",
        self::config(&wrong)
    );
    let long = CONFIG.replacen("[timeouts]", "[nat]\nhold_down_s = 100000\n\n[timeouts]", 1);
    assert!(self::config(&long).contains("hold_down_s = 100000 keeps ports from others for more than a day"));
}
