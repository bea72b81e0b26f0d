//! The rule compiler against a naive reading of the rules.
use std::net::Ipv4Addr;

use gateway::config::{Action, List, PortRange, Prefix, Protocol, RuleModel, RuleSetFile};
use gateway::core::policy::{Compiled, Directory, compile};
use gateway_common::abi::limit::RULES_MAX;
use gateway_common::abi::rule::{Rule, action};
use gateway_common::path::rules::{Tuple, matches};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// Three sites, two groups: a is in g, b in g and h, c in none.
struct Center;

const SITES: [(&str, u32, u64); 3] = [("a", 1, 0b01), ("b", 2, 0b11), ("c", 3, 0)];

impl Directory for Center {
    fn site(&self, name: &str) -> Option<u32> {
        SITES.iter().find(|site| site.0 == name).map(|site| site.1)
    }

    fn group(&self, name: &str) -> Option<u64> {
        match name {
            "g" => Some(0b01),
            "h" => Some(0b10),
            _ => None,
        }
    }

    fn group_names(&self) -> Vec<&str> {
        vec!["g", "h"]
    }
}

#[derive(Clone, Debug)]
struct Packet {
    site: &'static str,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

/// What the words of a rule mean, said as plainly as possible.
fn rule_holds(rule: &RuleModel, packet: &Packet) -> bool {
    let (_, _, groups) = SITES
        .iter()
        .find(|site| site.0 == packet.site)
        .copied()
        .expect("a site");
    let everyone = rule.sites.is_any() && rule.groups.is_any();
    let named = rule.sites.0.iter().any(|name| name == packet.site);
    let grouped = rule
        .groups
        .0
        .iter()
        .any(|name| Center.group(name).expect("known") & groups != 0);
    let within =
        |list: &List<Prefix>, address| list.is_any() || list.0.iter().any(|prefix| prefix.contains(address));
    let ports = |list: &List<PortRange>, port| {
        list.is_any()
            || list
                .0
                .iter()
                .any(|range| (range.low..=range.high).contains(&port))
    };
    (everyone || named || grouped)
        && within(&rule.source, packet.source)
        && within(&rule.destination, packet.destination)
        && (rule.protocol.is_any() || rule.protocol.0.contains(&Protocol(packet.protocol)))
        && ports(&rule.source_ports, packet.source_port)
        && ports(&rule.destination_ports, packet.destination_port)
}

/// Index and action of the rule that decides, as the operator reads the file.
fn naive(file: &RuleSetFile, packet: &Packet) -> Option<(u32, Action)> {
    let decides = file
        .rules
        .iter()
        .position(|rule| rule_holds(&rule.model, packet))?;
    Some((
        u32::try_from(decides).expect("few rules"),
        file.rules[decides].model.action,
    ))
}

/// The same by the packet path's own matching.
fn compiled(compiled: &Compiled, packet: &Packet) -> Option<(u32, Action)> {
    let (_, site, groups) = SITES
        .iter()
        .find(|site| site.0 == packet.site)
        .copied()
        .expect("a site");
    let tuple = Tuple {
        groups,
        site,
        source: u32::from_ne_bytes(packet.source.octets()),
        destination: u32::from_ne_bytes(packet.destination.octets()),
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
    };
    let rule: &Rule = compiled.rules.iter().find(|rule| matches(rule, &tuple))?;
    Some((
        rule.source_rule,
        if rule.action == action::ALLOW {
            Action::Allow
        } else {
            Action::Deny
        },
    ))
}

// Few values, so that rules and packets meet often.
fn prefix() -> impl Strategy<Value = Prefix> {
    const WORDS: [&str; 7] = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.3",
        "10.1.2.2/31",
        "0.0.0.0/0",
        "192.168.1.0/24",
    ];
    select(&WORDS[..]).prop_map(|word| word.parse().expect("a prefix"))
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    const WORDS: [&str; 9] = [
        "10.1.2.3",
        "10.1.2.2",
        "10.1.2.4",
        "10.1.3.3",
        "10.2.2.3",
        "11.1.2.3",
        "192.168.1.1",
        "0.0.0.0",
        "255.255.255.255",
    ];
    select(&WORDS[..]).prop_map(|word| word.parse().expect("an address"))
}

fn port() -> impl Strategy<Value = u16> {
    select(&[0, 1, 79, 80, 81, 443, 8000, 8005, 8010, 65535][..])
}

fn ports() -> impl Strategy<Value = List<PortRange>> {
    let range = (port(), port()).prop_map(|(a, b)| PortRange {
        low: a.min(b),
        high: a.max(b),
    });
    vec(range, 0..3).prop_map(List)
}

fn names(all: &'static [&'static str]) -> impl Strategy<Value = List<String>> {
    subsequence(all, 0..=all.len()).prop_map(|names| List(names.into_iter().map(str::to_owned).collect()))
}

fn rule() -> impl Strategy<Value = RuleModel> {
    let who = (names(&["a", "b", "c"]), names(&["g", "h"]));
    let addresses = (vec(prefix(), 0..3), vec(prefix(), 0..3));
    // With ports, protocols are those that have some.
    let transport = prop_oneof![
        subsequence(vec![1, 6, 17, 50], 0..3).prop_map(|list| (list, List::default(), List::default())),
        (subsequence(vec![6, 17], 1..=2), ports(), ports()),
    ];
    (who, addresses, transport, any::<bool>()).prop_map(
        |((sites, groups), (source, destination), transport, allow)| {
            let (protocols, source_ports, destination_ports) = transport;
            RuleModel {
                name: String::new(),
                action: if allow { Action::Allow } else { Action::Deny },
                sites,
                groups,
                source: List(source),
                destination: List(destination),
                protocol: List(protocols.into_iter().map(Protocol).collect()),
                source_ports,
                destination_ports,
                log: false,
                comment: String::new(),
            }
        },
    )
}

/// The rules as a file, so that writing and parsing are under test as well.
fn file(rules: Vec<RuleModel>) -> RuleSetFile {
    let named = rules.into_iter().enumerate().map(|(index, rule)| RuleModel {
        name: format!("r{index}"),
        ..rule
    });
    let text = serde_json::json!({ "rule": named.collect::<Vec<_>>() }).to_string();
    RuleSetFile::parse("rules.json", &text).expect("a right file")
}

fn packet() -> impl Strategy<Value = Packet> {
    let protocol = select(&[1u8, 6, 17, 50][..]);
    (
        select(&["a", "b", "c"][..]),
        address(),
        address(),
        protocol,
        port(),
        port(),
    )
        .prop_map(
            |(site, source, destination, protocol, source_port, destination_port)| Packet {
                site,
                source,
                destination,
                protocol,
                source_port,
                destination_port,
            },
        )
}

proptest! {
    #[test]
    fn compiled_rules_decide_as_the_file_reads(rules in vec(rule(), 0..5), packets in vec(packet(), 100)) {
        let file = file(rules);
        let Ok(rules) = compile(file.clone(), &Center) else {
            // Only a product beyond the limit may be refused.
            let product: usize = file.rules.iter().map(|rule| {
                let model = &rule.model;
                [model.source.0.len(), model.destination.0.len(), model.protocol.0.len(), model.source_ports.0.len(), model.destination_ports.0.len(), model.sites.0.len() + 1]
                    .iter().map(|length| (*length).max(1)).product::<usize>()
            }).sum();
            prop_assert!(product > RULES_MAX as usize);
            return Ok(());
        };
        for packet in packets {
            prop_assert_eq!(compiled(&rules, &packet), naive(&file, &packet), "{:?}", packet);
        }
    }
}

#[test]
fn the_rule_that_overflows_is_named() {
    let list = |third: u32, count: u32| {
        let words: Vec<_> = (0..count)
            .map(|host| format!("\"10.0.{third}.{host}\""))
            .collect();
        format!("[{}]", words.join(", "))
    };
    let text = format!(
        "[[rule]]\nname = \"fits\"\naction = \"allow\"\nsource = {}\ndestination = {}\n\n[[rule]]\nname = \"one-more\"\naction = \"allow\"\n",
        list(0, 32),
        list(1, 32)
    );
    let parsed = RuleSetFile::parse("rules.toml", &text).expect("right by itself");
    let fault = compile(parsed, &Center).expect_err("1025 rules").to_string();
    assert!(
        fault.starts_with(
            "rules.toml:7: rule \"one-more\" becomes 1 compiled rules, but of 1024 only 0 are left"
        ),
        "{fault}"
    );
}

#[test]
fn a_product_that_would_not_fit_memory_is_refused_without_being_built() {
    let ports: Vec<_> = (0..2000).map(|port| port.to_string()).collect();
    let text = format!(
        "[[rule]]\nname = \"huge\"\naction = \"allow\"\nprotocol = \"tcp\"\nsource_ports = [{0}]\ndestination_ports = [{0}]\n",
        ports.join(", ")
    );
    let parsed = RuleSetFile::parse("rules.toml", &text).expect("right by itself");
    let fault = compile(parsed, &Center).expect_err("4,000,000 rules").to_string();
    assert!(
        fault.contains("\"huge\" becomes 4000000 compiled rules"),
        "{fault}"
    );
}

#[test]
fn unknown_names_are_told_with_line_and_choice() {
    let text = "[[rule]]\nname = \"r\"\naction = \"allow\"\nsites = [\"a\",\n  \"z\"]\ngroups = \"y\"\n";
    let parsed = RuleSetFile::parse("rules.toml", text).expect("right by itself");
    let fault = compile(parsed, &Center).expect_err("unknown names").to_string();
    assert!(
        fault.contains("rules.toml:5: rule \"r\": no site is named \"z\""),
        "{fault}"
    );
    assert!(
        fault.contains(
            "rules.toml:6: rule \"r\": no site is in a group \"y\"\n  to mend it: use one of \"g\", \"h\""
        ),
        "{fault}"
    );
}
