//! Vectors of flows that the center opens to what a site publishes, as rules of direction center-to-site say.

use gateway_common::abi::interface::role;
use gateway_common::abi::nat::{InsideKey, OutsideKey};
use gateway_common::abi::rule::{Rule, action, direction};
use gateway_common::abi::site::flag;
use gateway_common::drop::DropReason::*;
use gateway_common::packet::tcp::flag::{ACK, SYN};
use gateway_common::tables::host::HostTables;

use super::answer::{prohibited, reset};
use super::clear::leaves;
use super::nat::{DEVICE, MAINTAINER, PUBLISHED, enters, publish, refused, world_with_publication};
use super::world::{self, GROUP_CLINIC, MAC, MAC_HOP, NAME_SERVER, NAT, SITE, TERMINAL};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, ethernet};

/// A rule about calls of the center to everything.
fn calls() -> Rule {
    Rule {
        directions: 1 << direction::CENTER_TO_SITE,
        destination_mask: [0; 4],
        ..world::allow(40, [0; 4], 0, 0)
    }
}

/// A TCP port and a UDP port of the terminal are published, and these are the rules.
fn published(now_s: u32, rules: Vec<Rule>) -> HostTables {
    let mut tables = world_with_publication(now_s, PUBLISHED);
    let port = PUBLISHED.1.to_be_bytes();
    let inside = InsideKey {
        site: SITE,
        address: TERMINAL,
        port,
        protocol: 17,
        pad: 0,
    };
    let outside = OutsideKey {
        address: PUBLISHED.0,
        port,
        protocol: 17,
        pad: 0,
    };
    publish(&mut tables, inside, &outside);
    tables.rules = Some((world::GENERATION, rules));
    tables
}

/// A packet of the center that is refused and answered by `packet`.
fn answered(clear: &Clear, packet: &[u8]) -> Step {
    Step {
        program: Program::Core,
        frame: clear.ethernet(MAC, MAC_HOP),
        expect: Expect::CenterAnswer(RuleRejected, ethernet(MAC_HOP, MAC, 0x0800, packet)),
    }
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let vector = |(words, world, steps): (&str, HostTables, Vec<Step>)| Vector {
        description: words.to_owned(),
        world,
        steps,
    };
    [by_rules(now_s), rejected(now_s), from_the_internet(now_s)]
        .concat()
        .into_iter()
        .map(vector)
        .collect()
}

type Case = (&'static str, HostTables, Vec<Step>);

fn by_rules(now_s: u32) -> Vec<Case> {
    let syn = Clear::tcp(MAINTAINER, PUBLISHED, SYN);
    let world = |rules| published(now_s, rules);
    let to_device = Rule {
        destination: DEVICE.0,
        destination_mask: [255; 4],
        destination_port_low: DEVICE.1,
        destination_port_high: DEVICE.1,
        source: MAINTAINER.0,
        source_mask: [255; 4],
        groups: GROUP_CLINIC,
        ..calls()
    };
    let of_sites = Rule {
        directions: 1 << direction::SITE_TO_CENTER,
        ..calls()
    };
    vec![
        (
            "the center calls nobody without a rule",
            world(vec![]),
            vec![refused(&syn, RuleDefault)],
        ),
        (
            "a rule about calls of sites lets the center call nobody",
            world(vec![of_sites]),
            vec![refused(&syn, RuleDefault)],
        ),
        (
            "rules speak of the caller, and of the called site, its groups, its own address and port",
            world(vec![to_device]),
            vec![
                enters(&syn, DEVICE),
                leaves(Clear::tcp(DEVICE, MAINTAINER, SYN | ACK), SITE, PUBLISHED),
            ],
        ),
        (
            "rules do not speak of the port that is published",
            world(vec![Rule {
                destination_port_low: PUBLISHED.1,
                destination_port_high: PUBLISHED.1,
                ..to_device
            }]),
            vec![refused(&syn, RuleDefault)],
        ),
        (
            "a rule about other sites lets the center call nobody",
            world(vec![Rule {
                site: world::SITE_OTHER,
                ..calls()
            }]),
            vec![refused(&syn, RuleDefault)],
        ),
    ]
}

fn rejected(now_s: u32) -> Vec<Case> {
    let (syn, datagram) = (
        Clear::tcp(MAINTAINER, PUBLISHED, SYN),
        Clear::udp(MAINTAINER, PUBLISHED),
    );
    let reject = Rule {
        action: action::REJECT,
        ..calls()
    };
    let mut limited = published(now_s, vec![reject]);
    if let Some(settings) = &mut limited.settings {
        settings.site_answers_per_s = 1;
    }
    vec![
        (
            "a rejected call of the center is reset",
            published(now_s, vec![reject]),
            vec![answered(&syn, &reset(&syn, 0))],
        ),
        (
            "a rejected datagram of the center is told by ICMP code 13",
            published(now_s, vec![reject]),
            vec![answered(&datagram, &prohibited(&datagram))],
        ),
        (
            "answers to the center are limited",
            limited,
            vec![answered(&syn, &reset(&syn, 0)), refused(&syn, RuleRejected)],
        ),
    ]
}

/// The same program on an interface that leads to the Internet.
fn from_the_internet(now_s: u32) -> Vec<Case> {
    let internet = |center: bool| {
        let mut tables = published(now_s, vec![calls(), world::allow(1, NAME_SERVER, 17, 53)]);
        if let Some(interface) = &mut tables.interface {
            interface.role = role::INTERNET;
        }
        tables.roles.insert(world::EGRESS, role::INTERNET);
        if !center {
            tables.directions = vec![(8, [10, 0, 0, 0], direction::SITE_TO_CENTER)];
        }
        tables
    };
    let syn = Clear::tcp(MAINTAINER, PUBLISHED, SYN);
    let query = Clear::udp((TERMINAL, 1024), (NAME_SERVER, 53));
    let answer = Clear::udp((NAME_SERVER, 53), (NAT, 1024));
    // As its port it has the one that sites may call.
    let stranger = Clear::udp((MAINTAINER.0, 53), (NAT, 1024));
    let lax = |flags| {
        let mut tables = internet(false);
        if let Some(site) = tables.sites.get_mut(&SITE) {
            site.flags |= flags;
        }
        let to_all = Rule {
            destination_mask: [0; 4],
            ..world::allow(2, [0; 4], 17, 53)
        };
        tables.rules = Some((world::GENERATION, vec![to_all]));
        tables
    };
    vec![
        (
            "nobody in the Internet calls a mapping, whatever the site's filtering says",
            lax(flag::FILTER_NOTHING),
            vec![
                leaves(query.clone(), SITE, (NAT, 1024)),
                refused(&stranger, NoFlow),
                enters(&answer, (TERMINAL, 1024)),
            ],
        ),
        (
            "a site that called a host in the Internet is not called by its other ports",
            lax(flag::FILTER_ADDRESS),
            vec![
                leaves(query.clone(), SITE, (NAT, 1024)),
                refused(&Clear::udp((NAME_SERVER, 54), (NAT, 1024)), NoFlow),
                enters(&answer, (TERMINAL, 1024)),
            ],
        ),
        (
            "an answer from the Internet reaches the site that asked",
            internet(false),
            vec![
                leaves(query, SITE, (NAT, 1024)),
                enters(&answer, (TERMINAL, 1024)),
            ],
        ),
        (
            "nobody in the Internet calls what is published for the center",
            internet(false),
            vec![refused(&syn, PublicationSource)],
        ),
        (
            "nobody in the Internet has an address of the center",
            internet(true),
            vec![refused(&syn, WrongSide), refused(&answer, WrongSide)],
        ),
    ]
}
