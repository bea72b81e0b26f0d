//! `gateway rules` without a daemon: check, explain, test, diff.

use super::*;

#[test]
fn a_right_rule_set_passes_the_check() {
    check(
        &gateway(&["rules", "check", "rules.json"]),
        0,
        "1 rules, nothing wrong",
        "",
    );
    let output = gateway(&["rules", "check", "rules.toml", "--config", "gateway.toml"]);
    check(&output, 0, "5 rules, 5 compiled, nothing wrong", "");
    let output = gateway(&[
        "--json",
        "rules",
        "check",
        "rules.toml",
        "--config",
        "gateway.toml",
    ]);
    let view: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        view,
        serde_json::json!({ "rules": 5, "compiled": 5, "findings": [], "idle": [], "findings_total": 0 })
    );
}

#[test]
fn a_wrong_rule_set_is_refused_with_file_and_line() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("wrong.toml");
    let name = path.to_str().expect("UTF-8");
    std::fs::write(
        &path,
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nprotocol = \"tpc\"\n",
    )
    .expect("written");
    check(
        &gateway(&["rules", "check", name]),
        1,
        "",
        &format!("{name}:4: \"tpc\" is no protocol"),
    );
    std::fs::write(
        &path,
        "[[rule]]\nname = \"a\"\naction = \"allow\"\ngroups = \"nobody\"\n",
    )
    .expect("written");
    check(&gateway(&["rules", "check", name]), 0, "nothing wrong", "");
    let output = gateway(&["rules", "check", name, "--config", "gateway.toml"]);
    check(
        &output,
        1,
        "",
        &format!("{name}:4: rule \"a\": no site is in a group \"nobody\""),
    );
    check(
        &gateway(&["rules", "check", "absent.toml"]),
        1,
        "",
        "absent.toml: cannot be read",
    );
}

/// Writes a rule set beside nothing else and checks it against the example configuration.
fn check_text(text: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, text).expect("written");
    let name = path.to_str().expect("UTF-8");
    gateway(&[&["rules", "check", name, "--config", "gateway.toml"], arguments].concat())
}

pub(super) fn rule(name: &str, action: &str, rest: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\naction = \"{action}\"\n{rest}\n")
}

/// Regression: a set was told to be right that `rules load` then refused.
#[test]
fn a_set_that_the_packet_path_cannot_take_does_not_pass_the_check() {
    let rules = |count: u32| -> String {
        let rest = |number| format!("direction = \"site-to-internet\"\nfqdn = \"n{number}.example\"");
        (0..count)
            .map(|number| rule(&format!("r{number}"), "allow", &rest(number)))
            .collect()
    };
    check(&check_text(&rules(1023), &[]), 0, "1023 rules", "");
    let output = check_text(&rules(1024), &[]);
    check(&output, 1, "", "rules speak of more sets of names than 1023");
}

#[test]
fn rules_that_never_decide_are_named_with_both_lines() {
    let wide = rule("wide", "allow", "destination = \"10.100.0.0/16\"");
    let inside = "destination = \"10.100.3.0/24\"\nprotocol = \"tcp\"";
    let text = wide.clone() + &rule("never", "deny", inside) + &rule("again", "allow", inside);
    let output = check_text(&text, &[]);
    check(
        &output,
        0,
        ":5: rule \"never\" is shadowed: \"wide\" in line 1 decides otherwise".trim_start_matches(':'),
        "",
    );
    check(
        &output,
        0,
        "line 10: rule \"again\" is redundant: \"wide\" in line 1 decides the same",
        "",
    );
    check(&output, 0, "3 rules, 3 compiled, 2 findings", "");
    check(&check_text(&text, &["--strict"]), 1, "", "--strict allows none");
    // An exception in front of a general rule is no finding; a partial overlap is one.
    let text = rule("exception", "deny", inside) + &wide;
    check(&check_text(&text, &["--strict"]), 0, "nothing wrong", "");
    // Telling the sender is another decision than silence.
    let text = rule("silent", "deny", "destination = \"10.100.0.0/16\"") + &rule("told", "reject", inside);
    check(
        &check_text(&text, &[]),
        0,
        "rule \"told\" is shadowed: \"silent\" in line 1 decides otherwise",
        "",
    );
    let text = rule("a", "deny", "protocol = \"tcp\"\ndestination = \"10.0.0.0/8\"")
        + &rule(
            "b",
            "allow",
            "source = \"192.168.1.0/24\"\ndestination = \"10.100.0.0/16\"",
        );
    check(
        &check_text(&text, &[]),
        0,
        "rule \"b\" conflicts with \"a\" in line 1",
        "",
    );
    // Of a rule with two services, one being covered is no reason to call the rule covered.
    let services = "[[service]]\nname = \"w\"\nprotocol = \"tcp\"\ndestination_ports = 443\n[[service]]\nname = \"p\"\nprotocol = \"icmp\"\n";
    let text = services.to_owned()
        + &rule("tcp", "allow", "protocol = \"tcp\"")
        + &rule("both", "allow", "services = [\"w\", \"p\"]");
    check(
        &check_text(&text, &["--strict"]),
        0,
        "2 rules, 3 compiled, nothing wrong",
        "",
    );
}

/// Regression: a rule with a schedule was in conflict with none that was always in force, or at other times.
#[test]
fn rules_conflict_when_their_times_meet() {
    let schedule = |name: &str, rest: &str| format!("[[schedule]]\nname = \"{name}\"\n{rest}\n");
    let allow = "destination = \"10.100.0.0/16\"\nsource = \"192.168.1.0/28\"";
    let deny = "destination = \"10.100.3.0/24\"";
    let at = |rest: &str, name: &str| format!("{rest}\nschedule = \"{name}\"");
    let night = schedule(
        "night",
        "time_zone = \"Asia/Tokyo\"\nfrom = \"22:00\"\nto = \"05:00\"",
    );
    let text = night.clone() + &rule("nightly", "allow", &at(allow, "night")) + &rule("never", "deny", deny);
    let output = check_text(&text, &["--strict"]);
    check(
        &output,
        1,
        "rule \"never\" conflicts with \"nightly\"",
        "--strict allows none",
    );
    for (other, meets) in [
        (
            "time_zone = \"Asia/Tokyo\"\nfrom = \"05:00\"\nto = \"22:00\"",
            false,
        ),
        (
            "time_zone = \"Asia/Tokyo\"\nfrom = \"04:59\"\nto = \"22:00\"",
            true,
        ),
        (
            "time_zone = \"Asia/Tokyo\"\nfrom = \"05:00\"\nto = \"22:01\"",
            true,
        ),
        // What another zone's hours are is not the same all year.
        ("time_zone = \"UTC\"\nfrom = \"05:00\"\nto = \"12:00\"", true),
    ] {
        let text = night.clone()
            + &schedule("other", other)
            + &rule("nightly", "allow", &at(allow, "night"))
            + &rule("never", "deny", &at(deny, "other"));
        let output = check_text(&text, &["--strict"]);
        let (code, words) = match meets {
            true => (1, "rule \"never\" conflicts with \"nightly\""),
            false => (0, "nothing wrong"),
        };
        check(&output, code, words, "");
    }
    // What is decided at night only shadows nothing by day.
    let inside = "destination = \"10.100.3.0/24\"\nsource = \"192.168.1.0/28\"";
    for action in ["allow", "deny"] {
        let text =
            night.clone() + &rule("nightly", "allow", &at(allow, "night")) + &rule("day", action, inside);
        check(&check_text(&text, &["--strict"]), 0, "nothing wrong", "");
    }
}

#[test]
fn rules_that_allow_what_no_tunnel_carries_are_named() {
    for (rest, because) in [
        (
            "destination = \"10.101.0.0/16\"",
            "destination 10.101.0.0-10.101.255.255 is not in [center] networks",
        ),
        (
            "direction = \"site-to-internet\"",
            "there are no [internet] networks",
        ),
        (
            "direction = \"center-to-site\"\nsource = \"10.99.0.1\"",
            "source 10.99.0.1 is not in [center] networks",
        ),
        (
            "direction = \"site-to-site\"",
            "which sites are translated to, is in neither [center] nor [internet] networks",
        ),
    ] {
        let text = rule("r", "allow", rest);
        let output = check_text(&text, &[]);
        check(&output, 0, because, "");
        check(&output, 0, "1 rules, 1 compiled, 1 finding", "");
        check(&check_text(&rule("r", "deny", rest), &[]), 0, "nothing wrong", "");
    }
    check(
        &check_text(&rule("r", "allow", "destination = \"10.100.3.0/24\""), &[]),
        0,
        "nothing wrong",
        "",
    );
}

#[test]
fn what_is_not_enforced_is_refused() {
    for (rest, action, words) in [
        (
            "direction = \"center-to-site\"\nto_sites = \"hospital-a\"",
            "allow",
            "says which sites are called, but it is not about flows from site to site alone",
        ),
        (
            "protocol = \"icmp\"\nicmp_types = \"3/13\"",
            "allow",
            "ICMP type unreachable/13 is not enforced",
        ),
        (
            "fqdn = \"*.update.example\"",
            "deny",
            "speaks of names, but does not allow",
        ),
        (
            "fqdn = \"*.update.example\"",
            "allow",
            "which are of the Internet",
        ),
        ("fqdn = \"*.com\"", "allow", "stands for a whole top-level domain"),
        ("schedule = \"night\"", "allow", "there is no schedule \"night\""),
        ("services = \"https\"", "allow", "there is no service \"https\""),
        ("source = \"nowhere\"", "allow", "there is no address \"nowhere\""),
    ] {
        check(&check_text(&rule("r", action, rest), &[]), 1, "", words);
    }
    let own = "[[address]]\nname = \"a\"\naddresses = \"b\"\n[[address]]\nname = \"b\"\naddresses = \"a\"\n";
    let text = own.to_owned() + &rule("r", "allow", "source = \"a\"");
    check(&check_text(&text, &[]), 1, "", "address \"a\" contains itself");
    let zone = "[[schedule]]\nname = \"s\"\ntime_zone = \"Mars/Olympus\"\n";
    check(
        &check_text(&(zone.to_owned() + &rule("r", "allow", "schedule = \"s\"")), &[]),
        1,
        "",
        ":3: schedule \"s\": time zone \"Mars/Olympus\" is not known",
    );
}

#[test]
fn expected_verdicts_are_checked_offline() {
    let offline = ["--rules", "rules.toml", "--config", "gateway.toml"];
    let output = gateway(&[&["rules", "test", "rules-test.toml"], &offline[..]].concat());
    check(&output, 0, "6 flows, 0 with another verdict", "");
    let offline = ["--rules", "rules-objects.toml", "--config", "gateway.toml"];
    let output = gateway(&[&["rules", "test", "rules-test.toml"], &offline[..]].concat());
    check(
        &output,
        1,
        "rules-test.toml:3: expected allow by \"eligibility-web\", but it is allow by \"pilot-online\"",
        "4 of 6 flows have another verdict",
    );
}

#[test]
fn an_explanation_names_the_rule_and_the_obstacles_before_it() {
    let flow = [
        "--site",
        "hospital-a",
        "--from",
        "192.168.1.10",
        "--to",
        "10.100.1.5",
        "--proto",
        "tcp",
        "--port",
        "8001",
    ];
    let offline = ["--rules", "rules.toml", "--config", "gateway.toml"];
    let output = gateway(&[&["rules", "explain"], &flow[..], &offline[..]].concat());
    check(
        &output,
        0,
        "rule 1 \"no-telnet\" (line 4): port 8001 is not in 23",
        "",
    );
    check(
        &output,
        0,
        "rule 2 \"eligibility-web\" (line 13): destination 10.100.1.5 is not in 10.100.0.10, 10.100.0.11",
        "",
    );
    check(
        &output,
        0,
        "allow: rule 3 \"claims-upload\" (line 21) decides",
        "",
    );
    let explained_at = |time: &str| {
        let offline = [
            "--rules",
            "rules-objects.toml",
            "--config",
            "gateway.toml",
            "--at",
            time,
        ];
        gateway(&[&["rules", "explain"], &flow[..], &offline].concat())
    };
    let output = explained_at("2026-11-28T23:00:00+09:00");
    check(&output, 0, "deny: rule 1 \"no-claims-in-maintenance\"", "");
    let output = explained_at("2026-11-25T12:00:00+09:00");
    check(&output, 0, "schedule \"maintenance\" is not in force now", "");
    check(&output, 0, "tcp port 8001 is none of the services usual", "");
    check(&output, 0, "deny: no rule matches", "");
}

/// Without a daemon nothing is open by name: `--name` supposes that a name has led there.
#[test]
fn an_internet_site_is_explained_by_its_name() {
    let ask = |name: &[&str], to: &str| {
        let flow = [
            "rules",
            "explain",
            "--site",
            "hospital-a",
            "--from",
            "192.168.1.10",
            "--to",
            to,
            "--proto",
            "tcp",
            "--port",
            "443",
            "--rules",
            "rules-internet.toml",
            "--config",
            "gateway.toml",
        ];
        gateway(&[&flow[..], name].concat())
    };
    let output = ask(&[], "198.51.100.80");
    let none = "198.51.100.80 is open for none of the names update.av.example, *.windowsupdate.example";
    check(&output, 0, none, "");
    check(&output, 0, "deny: no rule matches (site-to-internet)", "");
    let output = ask(&["--name", "b.a.WindowsUpdate.example."], "198.51.100.80");
    check(&output, 0, "allow: rule 2 \"av-updates\"", "");
    check(&output, 0, "b.a.windowsupdate.example has opened the address", "");
    let output = ask(&["--name", "www.other.example"], "198.51.100.80");
    check(&output, 0, "deny: no rule matches", "");
    // In the center, names decide nothing.
    let output = ask(&["--name", "update.av.example"], "10.100.0.99");
    check(&output, 0, "deny: no rule matches (site-to-center)", "");
}

/// Explains a TCP flow to port 443 of the example's hospital by a rule set and a configuration that are written for it.
fn explained(rules: &str, config: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("folder");
    let [rules_file, config_file] = ["rules.toml", "gateway.toml"].map(|name| folder.path().join(name));
    fs::write(&rules_file, rules).expect("written");
    fs::write(&config_file, config).expect("written");
    let flow = [
        "rules",
        "explain",
        "--site",
        "hospital-a",
        "--proto",
        "tcp",
        "--port",
        "443",
    ];
    let [rules_file, config_file] = [&rules_file, &config_file].map(|path| path.to_str().expect("UTF-8"));
    gateway(
        &[
            &flow[..],
            &["--rules", rules_file, "--config", config_file],
            arguments,
        ]
        .concat(),
    )
}

/// Regression: a name that is not ASCII was in no set, although the same word in the rule is.
#[test]
fn a_name_is_explained_in_every_spelling_that_rules_have() {
    let rules = rule(
        "books",
        "allow",
        "direction = \"site-to-internet\"\nfqdn = \"b\u{fc}cher.example\"",
    );
    let ask = |name: &str| {
        let flow = ["--from", "192.168.1.10", "--to", "198.51.100.80", "--name", name];
        explained(&rules, CONFIG, &flow)
    };
    for name in [
        "B\u{fc}cher.example",
        "xn--bcher-kva.example.",
        "b\u{fc}cher\u{3002}example",
    ] {
        let output = ask(name);
        check(&output, 0, "allow: rule 1 \"books\"", "");
        check(&output, 0, "xn--bcher-kva.example has opened the address", "");
    }
    check(&ask("no name"), 1, "", "\"no name\" is no host name");
}

/// Regression: the eight sets that an address may be open for were taken from all rules, and those of others left no room for the
/// site's own.
#[test]
fn a_name_is_explained_by_the_sets_that_the_site_may_reach() {
    let names = |number: u32| {
        format!("direction = \"site-to-internet\"\nfqdn = [\"x.example\", \"n{number}.example\"]")
    };
    let of_others = |number: u32| {
        rule(
            &format!("r{number}"),
            "allow",
            &(names(number) + "\ngroups = \"clinics\""),
        )
    };
    let rules: String = (0..8).map(of_others).collect();
    let rules = rules + &rule("own", "allow", &(names(8) + "\ngroups = \"hospitals\""));
    let flow = [
        "--from",
        "192.168.1.10",
        "--to",
        "198.51.100.80",
        "--name",
        "x.example",
    ];
    check(&explained(&rules, CONFIG, &flow), 0, "allow: rule 9 \"own\"", "");
}

/// Regression: what had an address of the center as its source was a call of the center, although the packet path looks at the
/// destination alone, and a site may have a network of the center's.
#[test]
fn the_center_is_inferred_to_call_only_where_the_site_has_the_destination() {
    let config = CONFIG.replace(
        "name = \"hospital-a\"\nidentity = \"hospital-a.hospital.example\"\ngroups = [\"hospitals\"]\nnetworks = [\"192.168.1.0/24\"]",
        "name = \"hospital-a\"\nidentity = \"hospital-a.hospital.example\"\ngroups = [\"hospitals\"]\nnetworks = [\"10.100.3.0/24\"]",
    );
    assert_ne!(config, CONFIG);
    let rules = rule(
        "all",
        "allow",
        "direction = [\"site-to-center\", \"center-to-site\", \"site-to-internet\"]",
    );
    let ask = |from: &str, to: &str, more: &[&str]| {
        explained(&rules, &config, &[&["--from", from, "--to", to], more].concat())
    };
    for (from, to, direction) in [
        ("10.100.3.7", "198.51.100.80", "site-to-internet"),
        ("10.100.3.7", "10.100.7.1", "site-to-center"),
        ("10.100.7.1", "10.100.3.7", "center-to-site"),
    ] {
        check(&ask(from, to, &[]), 0, &format!("({direction})"), "");
    }
    // Each side has both addresses.
    let within = ("10.100.3.7", "10.100.3.8");
    check(
        &ask(within.0, within.1, &[]),
        1,
        "",
        "--direction site-to-center or --direction center-to-site",
    );
    let said = ["--direction", "center-to-site"];
    check(&ask(within.0, within.1, &said), 0, "(center-to-site)", "");
    // Not one of the site's: what leaves the site for it goes to the Internet.
    let output = explained(&rules, CONFIG, &["--from", "10.100.7.1", "--to", "192.168.2.1"]);
    check(&output, 0, "(site-to-internet)", "");
}

#[test]
fn names_that_are_never_opened_are_told() {
    let output = gateway(&[
        "rules",
        "check",
        "rules-internet.toml",
        "--config",
        "gateway.toml",
    ]);
    check(
        &output,
        0,
        "there is no [dns], so that no name is ever opened",
        "",
    );
}

#[test]
fn a_difference_is_told_by_name() {
    let output = gateway(&["rules", "diff", "rules.json", "--against", "rules.toml"]);
    check(&output, 0, "- rule \"claims-upload\"", "");
    check(
        &output,
        0,
        "groups: [\"clinics\",\"hospitals\"] -> [\"clinics\"]",
        "",
    );
    let output = gateway(&["rules", "convert", "rules.toml"]);
    check(&output, 0, "\"name\": \"eligibility-web\"", "");
}

/// Regression: of a rule that comes or goes only the name was told.
#[test]
fn a_rule_that_comes_or_goes_is_told_with_place_and_content() {
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let first = rule("first", "deny", "protocol = \"icmp\"");
    let added = rule(
        "pictures",
        "allow",
        "direction = \"site-to-site\"\ngroups = \"clinics\"\nto_sites = \"hospital-a\"\ndestination = \"192.168.1.20\"\nprotocol = \"tcp\"\ndestination_ports = 104",
    );
    let address = "[[address]]\nname = \"archive\"\naddresses = \"10.100.0.9\"\n";
    let old = file("old.toml", &first);
    let new = file("new.toml", &(address.to_owned() + &first + &added));
    let output = gateway(&["rules", "diff", &new, "--against", &old]);
    let content = "action allow, direction site-to-site, who @clinics, called hospital-a, source any, destination 192.168.1.20, proto tcp, ports 104";
    check(
        &output,
        0,
        &format!("+ rule \"pictures\" as number 2, after \"first\"\n    {content}\n"),
        "",
    );
    check(
        &output,
        0,
        "+ address \"archive\"\n    addresses: [\"10.100.0.9\"]\n",
        "",
    );
    let output = gateway(&["rules", "diff", &old, "--against", &new]);
    check(
        &output,
        0,
        &format!("- rule \"pictures\" as number 2, after \"first\"\n    {content}\n"),
        "",
    );
    let output = gateway(&["rules", "diff", &old, "--against", &file("none.toml", "")]);
    check(
        &output,
        0,
        "+ rule \"first\" as number 1, before all others\n",
        "",
    );
    let output = gateway(&["rules", "diff", &new, "--against", &old, "--json"]);
    let view: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rule = view
        .as_array()
        .expect("changes")
        .iter()
        .find(|change| change["kind"] == "rule");
    let rule = rule.expect("the rule");
    assert_eq!(
        rule["place"],
        serde_json::json!({ "number": 2, "after": "first" })
    );
    assert_eq!(rule["content"]["action"], "allow");
    assert_eq!(rule["content"]["to_sites"], serde_json::json!(["hospital-a"]));
}

#[test]
fn names_of_names_of_names_do_not_multiply() {
    let mut text = String::new();
    for depth in 0..64 {
        let inner = format!("n{}", depth + 1);
        text += &format!("[[address]]\nname = \"n{depth}\"\naddresses = [\"{inner}\", \"{inner}\"]\n");
    }
    text += "[[address]]\nname = \"n64\"\naddresses = \"10.0.0.1\"\n";
    text += &rule("r", "allow", "source = \"n0\"");
    check(
        &check_text(&text, &[]),
        0,
        "1 rules, 1 compiled, nothing wrong",
        "",
    );
}
