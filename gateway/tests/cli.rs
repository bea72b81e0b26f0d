//! The program as an operator calls it: output, exit codes, messages.
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn gateway(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"))
        .env_remove("GATEWAY_SOCKET");
    command.args(arguments).output().expect("the program runs")
}

#[track_caller]
fn check(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let said = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(code), "{said:?}");
    assert!(said.0.contains(stdout) && said.1.contains(stderr), "{said:?}");
}

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

#[test]
fn a_daemon_that_is_not_there_is_exit_code_3() {
    for verb in [
        &["status"][..],
        &["sa", "list"],
        &["flows", "list"],
        &["nat", "list"],
        &["drops"],
        &["rules", "show"],
    ] {
        let output = gateway(&[verb, &["--socket", "/nonexistent/gateway.sock"]].concat());
        check(&output, 3, "", "no gateway answers at /nonexistent/gateway.sock");
    }
}

/// Regression: `gateway ... | head` ended in a panic and exit code 101 when `head` had gone.
#[test]
fn a_reader_that_has_gone_ends_the_program_in_silence() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("rules.toml");
    // More than a pipe holds: it cannot be done with writing before nobody reads.
    let text: String = (0..10_000)
        .map(|number| rule(&format!("r{number}"), "allow", ""))
        .collect();
    fs::write(&path, text).expect("written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["rules", "convert"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.as_ref()), (Some(141), ""));
}

/// Regression: it panicked. What could not be written is no success.
#[test]
fn a_full_disk_under_the_output_is_told() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("opened");
    let output = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"))
        .args(["rules", "check", "rules.json"])
        .stdout(full)
        .output()
        .expect("the program runs");
    check(&output, 1, "", "gateway: standard output: ");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    check(&gateway(&["sa", "rekey"]), 2, "", "--site");
    check(&gateway(&["frobnicate"]), 2, "", "frobnicate");
}

#[test]
fn run_check_names_what_is_missing() {
    check(
        &gateway(&["run", "--check", "--config", "gateway.toml"]),
        1,
        "",
        "gateway.crt: cannot be read",
    );
    check(
        &gateway(&["run", "--check", "--config", "absent.toml"]),
        1,
        "",
        "absent.toml: cannot be read",
    );
}

/// Regression: the last events of all sites were asked for, and those of the site picked from them.
#[test]
fn the_last_events_of_a_site_are_asked_for_as_such() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("gateway.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let daemon = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the program");
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        stream.read_line(&mut request).expect("a request");
        let answer =
            r#"{"version":1,"ok":{"newest":9,"events":[{"event":"site_up","site":"a","text":"up"}]}}"#;
        writeln!(stream.get_mut(), "{answer}").expect("read");
        request
    });
    let socket = path.to_str().expect("UTF-8");
    let output = gateway(&["--socket", socket, "events", "--site", "a", "--last", "3"]);
    let request = daemon.join().expect("no panic");
    check(&output, 0, "a  up", "");
    assert!(request.contains(r#""last":3,"site":"a"}"#), "{request}");
}

/// Writes a rule set beside nothing else and checks it against the example configuration.
fn check_text(text: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("rules.toml");
    std::fs::write(&path, text).expect("written");
    let name = path.to_str().expect("UTF-8");
    gateway(&[&["rules", "check", name, "--config", "gateway.toml"], arguments].concat())
}

fn rule(name: &str, action: &str, rest: &str) -> String {
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
    let offline = [
        "--rules",
        "rules-objects.toml",
        "--config",
        "gateway.toml",
        "--at",
        "2026-11-28T23:00:00+09:00",
    ];
    let output = gateway(&[&["rules", "explain"], &flow[..], &offline[..]].concat());
    check(&output, 0, "deny: rule 1 \"no-claims-in-maintenance\"", "");
    let offline = [
        "--rules",
        "rules-objects.toml",
        "--config",
        "gateway.toml",
        "--at",
        "2026-11-25T12:00:00+09:00",
    ];
    let output = gateway(&[&["rules", "explain"], &flow[..], &offline[..]].concat());
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

const CONFIG: &str = include_str!("../examples/gateway.toml");

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

/// A configuration with its state folder, in which a site with a port block is known.
fn with_blocks(plan: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let example =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateway.toml"));
    let text = example
        .expect("the example")
        .replacen("state_dir = \"/var/lib/gateway\"", "state_dir = \"state\"", 1)
        .replacen(
            "# mode = \"block\"",
            &format!("mode = \"block\"\nplan = \"{plan}\""),
            1,
        );
    std::fs::write(folder.path().join("gateway.toml"), text).expect("written");
    let state = folder.path().join("state");
    std::fs::create_dir(&state).expect("folder");
    let block = r#"{"address":"10.200.0.1","first_port":4096,"last_port":6143}"#;
    let sites = format!(
        r#"{{"names":{{"hospital-a":{{"site":1,"nat_address":"10.201.0.1"}},"a.clinic.example":{{"site":2,"blocks":[{block}]}}}}}}"#
    );
    std::fs::write(state.join("sites.json"), sites).expect("written");
    folder
}

#[test]
fn the_plan_of_a_configuration_is_printed_without_a_daemon() {
    let folder = with_blocks("deterministic");
    let config = folder.path().join("gateway.toml");
    let config = config.to_str().expect("UTF-8");
    let output = gateway(&["nat", "plan", "--config", config, "--site", "a.clinic.example"]);
    check(&output, 0, "31 blocks of 2048 ports each", "");
    check(&output, 0, "(1 + (N - 1) % 31) * 2048", "");
    check(&output, 0, "10.200.0.1:4096-6143", "");
    let output = gateway(&["nat", "plan", "--config", config, "--json"]);
    let view: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let pool = &view["pools"][0];
    let blocks = pool["blocks"].as_array().expect("blocks");
    assert_eq!(
        (blocks.len(), &pool["room"], &pool["taken"]),
        (254 * 31, &7_874.into(), &1.into())
    );
    assert_eq!(blocks[1]["name"], "a.clinic.example");
    assert_eq!(
        (&blocks[31]["site"], &blocks[31]["address"]),
        (&32.into(), &"10.200.0.2".into())
    );
    assert_eq!(blocks[31]["name"], serde_json::Value::Null);

    let folder = with_blocks("dynamic");
    let config = folder.path().join("gateway.toml");
    let output = gateway(&["nat", "plan", "--config", config.to_str().expect("UTF-8")]);
    check(
        &output,
        0,
        "a site has 1 to 4 of them as it needs them; 1 of 7874 taken",
        "",
    );
}

#[test]
fn who_had_a_port_is_answered_without_a_daemon() {
    let folder = with_blocks("dynamic");
    let state = folder.path().join("state");
    let log = state.join("nat-log");
    std::fs::create_dir(&log).expect("folder");
    let holding = |name: &str, site: u32| {
        format!(r#""site":{site},"name":"{name}","address":"10.200.0.1","first_port":2048,"last_port":4095"#)
    };
    let lines = [
        r#"{"sequence":1,"time":"2026-11-25T00:00:00Z","event":"file","held":0}"#.to_owned(),
        format!(
            r#"{{"sequence":2,"time":"2026-11-25T01:00:00Z","event":"assigned",{}}}"#,
            holding("a", 2)
        ),
        format!(
            r#"{{"sequence":3,"time":"2026-11-25T05:00:00Z","event":"released",{}}}"#,
            holding("a", 2)
        ),
        format!(
            r#"{{"sequence":4,"time":"2026-11-25T06:00:00Z","event":"assigned",{}}}"#,
            holding("b", 3)
        ),
        r#"{"sequence":5,"time":"2026-11-25T07:"#.to_owned(),
    ];
    std::fs::write(log.join("0000000001.jsonl"), lines.join("\n")).expect("written");
    let state = state.to_str().expect("UTF-8");
    let who = |of: &str, at: &str| gateway(&["nat", "who", of, "--at", at, "--state-dir", state, "--json"]);
    let names = |of: &str, at: &str| {
        let view: serde_json::Value = serde_json::from_slice(&who(of, at).stdout).expect("JSON");
        let answers = view["answers"].as_array().expect("answers").clone();
        answers
            .into_iter()
            .map(|answer| {
                (
                    answer["name"].as_str().expect("a name").to_owned(),
                    answer["certain"] == true,
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names("10.200.0.1:2048", "2026-11-25T10:30:00+09:00"),
        [("a".to_owned(), true)]
    );
    assert_eq!(names("10.200.0.1:4095", "2026-11-25T05:30:00Z"), []);
    assert_eq!(
        names("10.200.0.1", "2026-11-25T06:30:00Z"),
        [("b".to_owned(), true)]
    );
    assert_eq!(names("10.200.0.1:4096", "2026-11-25T06:30:00Z"), []);
    // Before the log begins, who has it now is all that is known.
    assert_eq!(
        names("10.200.0.1:5000", "2026-11-24T06:30:00Z"),
        [("a.clinic.example".to_owned(), false)]
    );
    let output = gateway(&["nat", "who", "10.200.0.1:2048", "--state-dir", state]);
    check(&output, 0, "10.200.0.1:2048-4095", "");
    let output = gateway(&[
        "nat",
        "who",
        "10.200.0.1:2048",
        "--at",
        "yesterday",
        "--state-dir",
        state,
    ]);
    check(&output, 1, "", "\"yesterday\" is no time; write it like");
    let output = gateway(&["nat", "who", "10.200.0.1", "--state-dir", "/nonexistent"]);
    check(&output, 1, "", "/nonexistent: there is no such folder");
    let output = gateway(&["--socket", "/nonexistent/socket", "nat", "who", "10.200.0.1"]);
    check(&output, 3, "", "name its folder with --state-dir");
}

/// The example's configuration in a folder of its own, where its state folder is too.
fn configured(folder: &Path) -> PathBuf {
    let text = include_str!("../examples/gateway.toml");
    let file = folder.join("gateway.toml");
    let state_dir = folder.join("state").display().to_string();
    fs::write(&file, text.replace("/var/lib/gateway", &state_dir)).expect("written");
    file
}

#[test]
fn a_state_folder_that_another_daemon_has_is_not_even_read() {
    let folder = tempfile::tempdir().expect("folder");
    let file = configured(folder.path());
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("made");
    fs::write(state.join("sites.json"), "half a file").expect("written");
    let held = fs::File::open(&state).expect("opened");
    held.try_lock().expect("nobody has it");
    let run = || gateway(&["run", "--config", file.to_str().expect("UTF-8")]);
    check(&run(), 1, "", "another gateway has it");
    drop(held);
    check(&run(), 1, "", "gateway.crt: cannot be read");
}

/// What is to be told of the start goes to the log, which has to be there by then.
#[test]
fn the_log_is_there_before_anything_is_read() {
    let output = gateway(&["run", "--config", "gateway.toml", "--log", "gateway=loud"]);
    check(&output, 1, "", "error parsing level filter");
}

/// A daemon that waits for its certificate, which is a pipe; what is written to the other end is what it reads.
fn starting(folder: &Path) -> (Child, fs::File) {
    let file = configured(folder);
    fs::create_dir(folder.join("pki")).expect("made");
    let pipe = folder.join("pki/gateway.crt");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let daemon = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["run", "--config"])
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // It can be opened for writing once the daemon reads it.
        let mut options = OpenOptions::new();
        match options
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&pipe)
        {
            Ok(pipe) => return (daemon, pipe),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets it read a certificate that is none, and answers what it says before it ends by itself.
fn ended(mut daemon: Child, mut pipe: fs::File) -> String {
    pipe.write_all(b"no certificate").expect("it reads");
    drop(pipe);
    let mut said = String::new();
    let mut stderr = daemon.stderr.take().expect("piped");
    stderr.read_to_string(&mut said).expect("words");
    let status = daemon.wait().expect("ended");
    assert_eq!(status.code(), Some(1), "{status}: {said}");
    said
}

/// A script that starts the gateway and has it read its certificates again at once.
#[test]
fn a_hangup_during_the_start_does_not_end_the_daemon() {
    let folder = tempfile::tempdir().expect("folder");
    let (daemon, pipe) = starting(folder.path());
    let hangup = format!("kill -HUP {}", daemon.id());
    let sent = Command::new("sh").args(["-c", &hangup]).status();
    assert!(sent.expect("a shell").success());
    let said = ended(daemon, pipe);
    assert!(said.contains("gateway.key: cannot be read"), "{said}");
}

#[test]
fn core_dumps_are_forbidden_before_a_secret_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let (daemon, pipe) = starting(folder.path());
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.id())).expect("it runs");
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let soft_and_hard: Vec<_> = core
        .expect("a limit")
        .split_whitespace()
        .skip(4)
        .take(2)
        .collect();
    assert_eq!(soft_and_hard, ["0", "0"]);
    ended(daemon, pipe);
}

/// As sshd does: a key that others could have read proves nothing.
#[test]
fn a_private_key_that_others_may_read_keeps_the_gateway_from_starting() {
    let folder = tempfile::tempdir().expect("folder");
    let file = configured(folder.path());
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("ike/tests/data");
    fs::create_dir(folder.path().join("pki")).expect("made");
    let certificates = [
        ("rsa-leaf.crt", "pki/gateway.crt"),
        ("rsa-leaf.pkcs8.key", "pki/gateway.key"),
        ("ec-ca.crt", "pki/ca.crt"),
    ];
    for (from, to) in certificates {
        fs::copy(data.join(from), folder.path().join(to)).expect("copied");
    }
    let text = fs::read_to_string(&file).expect("read");
    let text = text.replace("gateway.center.example", "gw.lab.test");
    // Without the rule set, which lies beside the example.
    let (text, _) = text.split_once("[rules]").expect("the last table");
    fs::write(&file, text).expect("written");
    let key = folder.path().join("pki/gateway.key");
    let set_mode = |mode: u32| {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("mode");
    };
    let file = file.to_str().expect("UTF-8");
    set_mode(0o640);
    let words = "gateway.key: others may read or write it (mode 0640)";
    check(&gateway(&["run", "--check", "--config", file]), 1, "", words);
    check(
        &gateway(&["run", "--config", file]),
        1,
        "",
        "to mend it: chmod 600",
    );
    set_mode(0o600);
    check(
        &gateway(&["run", "--check", "--config", file]),
        0,
        "nothing wrong",
        "",
    );
}
