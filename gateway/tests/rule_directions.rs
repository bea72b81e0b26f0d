//! Directions of rules from the file to the verdict: explanations, and running flows under another rule set.
use gateway::config::{Direction, RuleSetFile};
use gateway::core::directions::Directions;
use gateway::core::explain::{Explainer, Explanation, Query};
use gateway::core::policy::{Compiled, Directory, compile};
use gateway::core::rejudge::Rejudge;
use gateway_common::abi::flow::{Flow, FlowKey, Half, Progress, state};
use gateway_common::abi::nat::{InsideKey, Mapping, kind};
use gateway_common::path::tcp::flag;

/// Two sites, each in a group of its own: `a` is in `clinics`, `b` in `archives`.
struct Sites;

impl Directory for Sites {
    fn site(&self, name: &str) -> Option<u32> {
        subject(name).map(|(site, _)| site)
    }

    fn group(&self, name: &str) -> Option<u64> {
        match name {
            "clinics" => Some(1),
            "archives" => Some(2),
            _ => None,
        }
    }

    fn group_names(&self) -> Vec<&str> {
        vec!["clinics", "archives"]
    }

    fn group_bitmaps(&self) -> Vec<u64> {
        vec![1, 2]
    }
}

fn subject(name: &str) -> Option<(u32, u64)> {
    match name {
        "a" => Some((1, 1)),
        "b" => Some((2, 2)),
        _ => None,
    }
}

const RULES: &str = r#"
[[rule]]
name = "web"
action = "allow"
destination = "10.100.0.10"
protocol = "tcp"
destination_ports = 443

[[rule]]
name = "maintenance"
action = "allow"
direction = "center-to-site"
groups = "archives"
source = "10.100.7.0/24"
destination = "192.168.1.20"
protocol = "tcp"
destination_ports = 22

[[rule]]
name = "pictures"
action = "allow"
direction = "site-to-site"
groups = "clinics"
to_groups = "archives"
destination = "192.168.1.20"
protocol = "tcp"
destination_ports = 104

[[rule]]
name = "updates"
action = "allow"
direction = "site-to-internet"
protocol = "tcp"
destination_ports = [80, 443]

[[rule]]
name = "no-more"
action = "reject"
direction = ["site-to-center", "site-to-internet"]
"#;

fn compiled(text: &str) -> Compiled {
    let file = RuleSetFile::parse("rules.toml", text).expect("a right file");
    compile(file, &Sites).expect("right names")
}

fn directions() -> Directions {
    let center = vec![
        "10.100.0.0/16".parse().expect("a prefix"),
        "10.200.0.0/24".parse().expect("a prefix"),
    ];
    let outsides = vec!["10.200.0.1-10.200.0.9".parse().expect("a range")];
    let networks = ["192.168.1.0/24".parse().expect("a prefix")];
    let sites = ["a", "b"].map(|name| (name, networks.as_slice()));
    Directions::of(center, outsides).with_sites(sites.into_iter())
}

fn explain(words: &str) -> Result<Explanation, String> {
    let compiled = compiled(RULES);
    let explainer = Explainer::new(&compiled, directions(), 0).expect("small");
    let query: Query = toml::from_str(words).expect("a query");
    explainer
        .explain(&query, subject)
        .map_err(|error| error.to_string())
}

#[test]
fn the_direction_is_found_by_the_addresses() {
    let cases = [
        (
            "site = 'a'\nfrom = '192.168.1.10'\nto = '10.100.0.10'\nproto = 'tcp'\nport = 443",
            Direction::SiteToCenter,
            "allow",
            Some("web"),
        ),
        (
            "site = 'a'\nfrom = '192.168.1.10'\nto = '192.0.2.80'\nproto = 'tcp'\nport = 443",
            Direction::SiteToInternet,
            "allow",
            Some("updates"),
        ),
        (
            "site = 'a'\nfrom = '192.168.1.10'\nto = '192.0.2.80'\nproto = 'udp'\nport = 443",
            Direction::SiteToInternet,
            "reject",
            Some("no-more"),
        ),
        (
            "site = 'b'\nfrom = '10.100.7.1'\nto = '192.168.1.20'\nproto = 'tcp'\nport = 22",
            Direction::CenterToSite,
            "allow",
            Some("maintenance"),
        ),
        (
            "site = 'a'\nfrom = '10.100.7.1'\nto = '192.168.1.20'\nproto = 'tcp'\nport = 22",
            Direction::CenterToSite,
            "deny",
            None,
        ),
        (
            "site = 'a'\nto_site = 'b'\nfrom = '192.168.1.10'\nto = '192.168.1.20'\nproto = 'tcp'\nport = 104",
            Direction::SiteToSite,
            "allow",
            Some("pictures"),
        ),
        (
            "site = 'b'\nto_site = 'a'\nfrom = '192.168.1.10'\nto = '192.168.1.20'\nproto = 'tcp'\nport = 104",
            Direction::SiteToSite,
            "deny",
            None,
        ),
    ];
    for (query, direction, verdict, rule) in cases {
        let found = explain(query).expect("a flow");
        let decides = found.rule.as_ref().map(|rule| rule.name.as_str());
        assert_eq!(
            (found.direction, found.verdict.as_str(), decides),
            (direction, verdict, rule),
            "{query}"
        );
    }
}

#[test]
fn a_query_that_is_no_flow_is_told() {
    let outside = "site = 'a'\nfrom = '192.168.1.10'\nto = '10.200.0.2'\nproto = 'tcp'\nport = 104";
    assert!(explain(outside).expect_err("no site").contains("--to-site NAME"));
    let second = "site = 'a'\nto_site = 'b'\ndirection = 'site-to-center'\nfrom = '192.168.1.10'\nto = '10.100.0.10'\nproto = 'tcp'\nport = 443";
    assert!(
        explain(second)
            .expect_err("one too many")
            .contains("leave --to-site out")
    );
    let nobody = "site = 'z'\nfrom = '192.168.1.10'\nto = '10.100.0.10'\nproto = 'tcp'\nport = 443";
    assert!(
        explain(nobody)
            .expect_err("nobody")
            .contains("no site is named \"z\"")
    );
}

#[test]
fn an_explanation_names_direction_and_called_site_as_obstacles() {
    let found = explain(
        "site = 'a'\nto_site = 'a'\nfrom = '192.168.1.10'\nto = '192.168.1.20'\nproto = 'tcp'\nport = 104",
    )
    .expect("a flow");
    let because: Vec<_> = found
        .earlier
        .iter()
        .map(|passed| passed.because.as_str())
        .collect();
    assert_eq!(because[0], "it is about site-to-center");
    assert_eq!(because[1], "it is about center-to-site");
    assert_eq!(
        because[2],
        "site \"a\", which is called, is not among group archives"
    );
}

fn flow(flags: u8, nat: ([u8; 4], u16)) -> Flow {
    let half = Half {
        end: 0,
        limit: 0,
        acknowledged: 0,
        seen_s: 0,
        window: 0,
        packets: 0,
        bytes: 0,
    };
    Flow {
        progress: Progress {
            state: state::TCP_ESTABLISHED,
            flags,
            ..Progress::default()
        },
        out: half,
        back: half,
        created_s: 0,
        generation: 1,
        rule: 0,
        nat_address: nat.0,
        nat_port: nat.1.to_be_bytes(),
        mapping: 0,
    }
}

fn key(site: u32, source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> FlowKey {
    FlowKey {
        site,
        source: source.0,
        destination: destination.0,
        source_port: source.1.to_be_bytes(),
        destination_port: destination.1.to_be_bytes(),
        protocol: 6,
        pad: [0; 3],
    }
}

fn mapping(site: u32, inside: ([u8; 4], u16), outside: ([u8; 4], u16)) -> (InsideKey, Mapping) {
    let key = InsideKey {
        site,
        address: inside.0,
        port: inside.1.to_be_bytes(),
        protocol: 6,
        pad: 0,
    };
    let mapping = Mapping {
        address: outside.0,
        port: outside.1.to_be_bytes(),
        last_used_s: 0,
        created_s: 0,
        position: 0,
        kind: kind::DYNAMIC,
    };
    (key, mapping)
}

/// Each kind of flow is judged as its first packet was, and ends when its own rule goes.
#[test]
fn running_flows_are_judged_by_their_direction() {
    const TERMINAL: ([u8; 4], u16) = ([192, 168, 1, 10], 50_000);
    const TERMINAL_OUTSIDE: ([u8; 4], u16) = ([10, 200, 0, 1], 50_000);
    const ARCHIVE: ([u8; 4], u16) = ([192, 168, 1, 20], 104);
    const ARCHIVE_OUTSIDE: ([u8; 4], u16) = ([10, 200, 0, 2], 11_112);
    let mappings = vec![
        mapping(1, TERMINAL, TERMINAL_OUTSIDE),
        mapping(2, ARCHIVE, ARCHIVE_OUTSIDE),
    ];
    let called = flag::FROM_CENTER | flag::PUBLISHED;
    let flows = [
        (
            "web",
            key(1, TERMINAL, ([10, 100, 0, 10], 443)),
            flow(0, TERMINAL_OUTSIDE),
        ),
        (
            "updates",
            key(1, TERMINAL, ([192, 0, 2, 80], 443)),
            flow(0, TERMINAL_OUTSIDE),
        ),
        (
            "maintenance",
            key(2, ([192, 168, 1, 20], 22), ([10, 100, 7, 1], 60_000)),
            flow(called, ([10, 200, 0, 2], 2222)),
        ),
        // Both halves of one connection between sites.
        (
            "pictures",
            key(1, TERMINAL, ARCHIVE_OUTSIDE),
            flow(0, TERMINAL_OUTSIDE),
        ),
        (
            "pictures",
            key(2, ARCHIVE, TERMINAL_OUTSIDE),
            flow(called, ARCHIVE_OUTSIDE),
        ),
    ];
    let judge = |text: &str, gone: Option<u32>| -> Vec<bool> {
        let tables = compiled(text).generation(1, 0, &[]).expect("small");
        let directions = directions();
        let groups = |site| (Some(site) != gone).then(|| u64::from(site));
        let rejudge = Rejudge::new(&tables, &directions, groups, || mappings.clone());
        flows
            .iter()
            .map(|(_, key, flow)| rejudge.allows(key, flow))
            .collect()
    };
    assert_eq!(judge(RULES, None), [true; 5]);
    for rule in ["web", "updates", "maintenance", "pictures"] {
        let without = RULES.replace(
            &format!("name = \"{rule}\"\naction = \"allow\""),
            &format!("name = \"{rule}\"\naction = \"deny\""),
        );
        let expected: Vec<bool> = flows.iter().map(|(by, _, _)| *by != rule).collect();
        assert_eq!(judge(&without, None), expected, "{rule}");
    }
    assert_eq!(judge(RULES, Some(2)), [true, true, false, false, false]);
}

/// Regression: the caller of a ping between sites was looked for by the query's type in place of its identifier, and each set that
/// was loaded ended the called site's half.
#[test]
fn both_halves_of_a_running_ping_between_sites_are_judged_by_its_rule() {
    const TERMINAL: ([u8; 4], u16) = ([192, 168, 1, 10], 700);
    const TERMINAL_OUTSIDE: ([u8; 4], u16) = ([10, 200, 0, 1], 900);
    const ARCHIVE: [u8; 4] = [192, 168, 1, 20];
    const ARCHIVE_OUTSIDE: [u8; 4] = [10, 200, 0, 2];
    const PINGS: &str = "[[rule]]\nname = \"ping\"\naction = \"allow\"\ndirection = \"site-to-site\"\ngroups = \"clinics\"\n\
        to_groups = \"archives\"\ndestination = \"192.168.1.20\"\nprotocol = \"icmp\"\n";
    let icmp = |key| FlowKey { protocol: 1, ..key };
    let of_icmp = |(key, mapping)| (InsideKey { protocol: 1, ..key }, mapping);
    let whole = |(key, mapping)| (InsideKey { protocol: 0, ..key }, mapping);
    let mappings = vec![
        of_icmp(mapping(1, TERMINAL, TERMINAL_OUTSIDE)),
        whole(mapping(2, (ARCHIVE, 0), (ARCHIVE_OUTSIDE, 0))),
        // Another's ping to elsewhere, with the same identifier.
        of_icmp(mapping(2, ([192, 168, 1, 99], 700), (ARCHIVE_OUTSIDE, 700))),
    ];
    let called = flag::FROM_CENTER | flag::PUBLISHED;
    let flows = [
        (
            icmp(key(1, TERMINAL, (ARCHIVE_OUTSIDE, 0))),
            flow(0, TERMINAL_OUTSIDE),
        ),
        (
            icmp(key(2, (ARCHIVE, 900), (TERMINAL_OUTSIDE.0, 0))),
            flow(called, (ARCHIVE_OUTSIDE, 900)),
        ),
    ];
    let judge = |text: &str| {
        let tables = compiled(text).generation(1, 0, &[]).expect("small");
        let directions = directions();
        let rejudge = Rejudge::new(
            &tables,
            &directions,
            |site| Some(u64::from(site)),
            || mappings.clone(),
        );
        flows.each_ref().map(|(key, flow)| rejudge.allows(key, flow))
    };
    assert_eq!(judge(PINGS), [true; 2]);
    assert_eq!(judge(&PINGS.replace("1.20", "1.21")), [false; 2]);
    assert_eq!(judge(&PINGS.replace("\"clinics\"", "\"archives\"")), [false; 2]);
}
