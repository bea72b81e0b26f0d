//! The rule compiler against a naive reading of the rules.
use std::net::Ipv4Addr;

use gateway::config::{
    Action, AddressWord, Direction, List, NamePattern, PortRange, Protocol, RuleModel, RuleSetFile,
};
use gateway::core::classifier::Generation;
use gateway::core::names::Openings;
use gateway::core::policy::{Compiled, Directory, compile, compile_kept};
use gateway_common::abi::event::RULE_DEFAULT;
use gateway_common::abi::limit::RULES_MAX;
use gateway_common::abi::rule::action;
use gateway_common::path::rules::Tuple;
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

    fn group_bitmaps(&self) -> Vec<u64> {
        SITES.map(|site| site.2).to_vec()
    }
}

#[derive(Clone, Debug)]
struct Packet {
    site: &'static str,
    direction: Direction,
    /// The site that is called, of a flow from site to site.
    to_site: &'static str,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

/// A name has led some site to an address, until a second.
#[derive(Clone, Debug)]
struct Answer {
    name: &'static str,
    address: Ipv4Addr,
    until_s: u32,
}

const NOW_S: u32 = 100;
const DIRECTIONS: [Direction; 4] = [
    Direction::SiteToCenter,
    Direction::CenterToSite,
    Direction::SiteToSite,
    Direction::SiteToInternet,
];

/// What the words of a rule mean, said as plainly as possible.
fn rule_holds(rule: &RuleModel, packet: &Packet, answers: &[Answer]) -> bool {
    let (_, _, groups) = SITES
        .iter()
        .find(|site| site.0 == packet.site)
        .copied()
        .expect("a site");
    let is_among = |names: &List<String>, group_names: &List<String>, site: &str, groups: u64| {
        let grouped = |name: &String| Center.group(name).expect("known") & groups != 0;
        (names.is_any() && group_names.is_any())
            || names.0.iter().any(|name| name == site)
            || group_names.0.iter().any(grouped)
    };
    let directions = match rule.direction.is_any() {
        true => vec![Direction::SiteToCenter],
        false => rule.direction.0.clone(),
    };
    let (_, _, to_groups) = *SITES
        .iter()
        .find(|site| site.0 == packet.to_site)
        .expect("a site");
    let within = |list: &List<AddressWord>, address| {
        list.is_any()
            || list.0.iter().any(|word| match word {
                AddressWord::Prefix(prefix) => prefix.contains(address),
                AddressWord::Range(range) => range.contains(address),
                AddressWord::Name(name) => panic!("{name} is not written by this test"),
            })
    };
    let ports = |list: &List<PortRange>, port| {
        list.is_any()
            || list
                .0
                .iter()
                .any(|range| (range.low..=range.high).contains(&port))
    };
    let led_there = |name: &NamePattern| {
        answers.iter().any(|answer| {
            answer.address == packet.destination && answer.until_s > NOW_S && name.matches(answer.name)
        })
    };
    let by_name = rule.fqdn.0.iter().any(led_there);
    let by_address = match rule.destination.is_any() && !rule.fqdn.is_any() {
        true => false,
        false => within(&rule.destination, packet.destination),
    };
    directions.contains(&packet.direction)
        && is_among(&rule.sites, &rule.groups, packet.site, groups)
        && is_among(&rule.to_sites, &rule.to_groups, packet.to_site, to_groups)
        && within(&rule.source, packet.source)
        && (by_name || by_address)
        && (rule.protocol.is_any() || rule.protocol.0.contains(&Protocol(packet.protocol)))
        && ports(&rule.source_ports, packet.source_port)
        && ports(&rule.destination_ports, packet.destination_port)
}

/// Index and action of the rule that decides, as the operator reads the file.
fn naive(file: &RuleSetFile, packet: &Packet, answers: &[Answer]) -> Option<(u32, Action)> {
    let decides = file
        .rules
        .iter()
        .position(|rule| rule_holds(&rule.model, packet, answers))?;
    Some((
        u32::try_from(decides).expect("few rules"),
        file.rules[decides].model.action,
    ))
}

/// The answers as the daemon opens addresses by them: for the sets that the name is in and that some site may reach.
fn opened(rules: &mut Compiled, answers: &[Answer]) -> Openings {
    let mut openings = Openings::default();
    let numbering = openings.number(&rules.name_sets).expect("there are numbers");
    rules.name_numbers = numbering.all().to_vec();
    openings.renumber(numbering);
    for answer in answers {
        for (_, site, groups) in SITES {
            let sets = rules.sets_for(answer.name, site, groups, &[]);
            let open = openings.open(1, &sets, answer.name, &[answer.address], answer.until_s);
            // An address has room for eight sets; this test has patterns for six.
            open.expect("there is room");
        }
    }
    openings
}

/// The same by the tables of the packet path.
fn compiled(generation: &Generation, packet: &Packet, openings: &Openings) -> Option<(u32, Action)> {
    let (_, site, groups) = SITES
        .iter()
        .find(|site| site.0 == packet.site)
        .copied()
        .expect("a site");
    let (_, to_site, to_groups) = *SITES
        .iter()
        .find(|site| site.0 == packet.to_site)
        .expect("a site");
    let tuple = Tuple {
        groups,
        site,
        source: u32::from(packet.source),
        destination: u32::from(packet.destination),
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        direction: packet.direction.number(),
        to_site,
        to_groups,
    };
    let open = openings.at(packet.destination);
    let judgement = generation
        .judge_by_name(&tuple, &open, NOW_S)
        .expect("a generation");
    assert_eq!(judgement.generation, 7);
    if judgement.rule == RULE_DEFAULT {
        assert_eq!(judgement.action, action::DENY);
        return None;
    }
    assert_eq!(judgement.counter, 1000 + judgement.rule);
    let action = match judgement.action {
        action::ALLOW => Action::Allow,
        action::REJECT => Action::Reject,
        _ => Action::Deny,
    };
    Some((judgement.rule, action))
}

// Few values, so that rules and packets meet often.
fn prefix() -> impl Strategy<Value = AddressWord> {
    const WORDS: [&str; 8] = [
        "10.1.2.1-10.1.2.3",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.3",
        "10.1.2.2/31",
        "0.0.0.0/0",
        "192.168.1.0/24",
    ];
    select(&WORDS[..]).prop_map(|word| word.parse().expect("an address word"))
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
    let fqdn = prop_oneof![3 => Just(vec![]), 1 => subsequence(&PATTERNS[..], 1..3)];
    // Only of a flow from site to site alone can be said who is called.
    let way = prop_oneof![
        subsequence(DIRECTIONS.to_vec(), 0..=4).prop_map(|list| (list, List::default(), List::default())),
        (names(&["a", "b", "c"]), names(&["g", "h"])).prop_map(|(sites, groups)| (
            vec![Direction::SiteToSite],
            sites,
            groups
        )),
    ];
    let action = select(&[Action::Allow, Action::Deny, Action::Reject][..]);
    (who, way, addresses, transport, (action, fqdn)).prop_map(
        |((sites, groups), way, (source, destination), transport, (action, fqdn))| {
            // Names are of the Internet, and of what may be reached.
            let ((directions, to_sites, to_groups), action) = match fqdn.is_empty() {
                true => (way, action),
                false => (
                    (vec![Direction::SiteToInternet], List::default(), List::default()),
                    Action::Allow,
                ),
            };
            let (protocols, source_ports, destination_ports) = transport;
            RuleModel {
                name: String::new(),
                action,
                sites,
                groups,
                source: List(source),
                destination: List(destination),
                protocol: List(protocols.into_iter().map(Protocol).collect()),
                source_ports,
                destination_ports,
                direction: List(directions),
                to_sites,
                to_groups,
                services: List::default(),
                icmp_types: List::default(),
                fqdn: List(
                    fqdn.into_iter()
                        .map(|name| name.parse().expect("a name"))
                        .collect(),
                ),
                schedule: None,
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

const PATTERNS: [&str; 3] = ["a.example.test", "*.example.test", "b.test"];

fn answer() -> impl Strategy<Value = Answer> {
    let name = select(&["a.example.test", "c.example.test", "b.test", "other.test"][..]);
    (name, address(), select(&[NOW_S - 1, NOW_S, NOW_S + 1][..])).prop_map(|(name, address, until_s)| {
        Answer {
            name,
            address,
            until_s,
        }
    })
}

fn packet() -> impl Strategy<Value = Packet> {
    let protocol = select(&[1u8, 6, 17, 50][..]);
    let sites = &["a", "b", "c"][..];
    (
        (select(sites), select(&DIRECTIONS[..]), select(sites)),
        address(),
        address(),
        protocol,
        port(),
        port(),
    )
        .prop_map(
            |((site, direction, to_site), source, destination, protocol, source_port, destination_port)| {
                Packet {
                    site,
                    direction,
                    to_site,
                    source,
                    destination,
                    protocol,
                    source_port,
                    destination_port,
                }
            },
        )
}

proptest! {
    // A million packets: 1,000 rule sets of 1,000.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn compiled_rules_decide_as_the_file_reads(
        rules in vec(rule(), 0..70),
        answers in vec(answer(), 0..6),
        packets in vec(packet(), 1000),
    ) {
        let file = file(rules);
        let mut rules = compile(file.clone(), &Center).expect("names are right");
        let openings = opened(&mut rules, &answers);
        let generation = rules.generation(7, 1000, &[]).expect("it is small");
        for packet in packets {
            let naive = naive(&file, &packet, &answers);
            prop_assert_eq!(compiled(&generation, &packet, &openings), naive, "{:?} {:?}", packet, answers);
        }
    }
}

#[test]
fn the_rule_that_overflows_is_named() {
    let rules: String = (0..=RULES_MAX)
        .map(|number| format!("[[rule]]\nname = \"r{number}\"\naction = \"allow\"\n"))
        .collect();
    let parsed = RuleSetFile::parse("rules.toml", &rules).expect("right by itself");
    let fault = compile(parsed, &Center).expect_err("one too many").to_string();
    assert!(
        fault.starts_with(
            "rules.toml:49153: rule \"r16384\" is one too many: a rule set may have 16384 compiled rules"
        ),
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

/// Regression: the file's own group took the place of gateway.toml's, and the sites of that were in no rule that spoke of it.
#[test]
fn a_group_of_sites_has_no_name_that_the_configuration_has_a_group_of() {
    let text = |name: &str| {
        format!(
            "[[site_group]]\nname = \"{name}\"\nsites = [\"a\"]\n[[rule]]\nname = \"r\"\naction = \"deny\"\ngroups = \"{name}\"\n"
        )
    };
    let compile = |name| {
        compile(
            RuleSetFile::parse("rules.toml", &text(name)).expect("right by itself"),
            &Center,
        )
    };
    assert!(compile("own").is_ok());
    let fault = compile("g").expect_err("two things at once").to_string();
    assert!(
        fault.contains("rules.toml:2: site_group \"g\": gateway.toml has a group of that name\n  to mend it: give it another"),
        "{fault}"
    );
    // One that was in force means what it meant.
    let parsed = RuleSetFile::parse("rules.toml", &text("g")).expect("right by itself");
    let (kept, told) = compile_kept(parsed, &Center).expect("it was in force");
    assert_eq!(told.to_string(), fault);
    let [rule] = &kept.rules[..] else {
        panic!("one rule")
    };
    assert_eq!((&rule.sites[..], rule.groups), (&[1][..], 0));
}
