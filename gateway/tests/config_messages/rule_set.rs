//! Faults of a rule set.

use super::*;

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

/// A rule that denies such a group would deny nobody.
#[test]
fn a_group_of_sites_that_names_none_is_refused() {
    for members in ["", "sites = \"any\"\n", "groups = \"any\"\n"] {
        let group = format!("[[site_group]]\nname = \"quarantine\"\n{members}");
        let fault = rules(&format!("{RULES}\n{group}"));
        assert!(
            fault.contains("site_group \"quarantine\" names no site\n  to mend it: write its sites"),
            "{fault}"
        );
    }
    let group = "[[site_group]]\nname = \"quarantine\"\nsites = \"hospital-a\"\n";
    assert!(gateway::config::RuleSetFile::parse("file", &format!("{RULES}\n{group}")).is_ok());
}
