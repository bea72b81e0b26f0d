//! What the operator reads when a file is wrong: every message, with its line.
use std::path::Path;

use gateway::config::{Config, RuleSetFile};

mod connections;
mod dns;
mod keys;
mod publications;
mod rule_set;

const CONFIG: &str = include_str!("../../examples/gateway.toml");
const RULES: &str = include_str!("../../examples/rules.toml");
const RULES_JSON: &str = include_str!("../../examples/rules.json");

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
