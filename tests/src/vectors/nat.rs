//! Vectors of NAT behaviour: filtering, what is published, and the choice of ports.

use gateway_common::abi::flow::{Flow, FlowKey, Half, Progress, state};
use gateway_common::abi::interface::{Settings, nat_flag};
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey, kind};
use gateway_common::abi::rule::{Rule, direction};
use gateway_common::abi::site::flag;
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::{self, *};
use gateway_common::packet::tcp::flag::{ACK, FIN, RST, SYN};
use gateway_common::tables::host::HostTables;

use super::answer::no_room;
use super::clear::{PORT, dropped, leaves, put_mapping};
use super::world::{self, GATEWAY, MAC, MAC_HOP, NAME_SERVER, NAT, SA_INDEX, SERVER, SITE, TERMINAL};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, End};

/// Where the terminal's port 443 is published.
pub const PUBLISHED: End = ([198, 51, 100, 77], 8443);
/// The address that a second terminal has for its own.
pub const OWN: [u8; 4] = [198, 51, 100, 78];
/// The second terminal.
pub const MODALITY: [u8; 4] = [192, 168, 1, 20];
/// A host of the center that may reach what is published, like all of 203.0.113.0/24.
pub(super) const MAINTAINER: End = ([203, 0, 113, 99], 50_000);
/// A host that may not.
const STRANGER: End = ([198, 18, 0, 9], 50_000);
/// The terminal's server.
pub(super) const DEVICE: End = (TERMINAL, 443);

/// A packet of the center that reaches an end of the site.
pub(super) fn enters(clear: &Clear, to: End) -> Step {
    let out = clear.clone().to(to).forwarded().linked(SITE, SA_INDEX);
    Step {
        program: Program::Core,
        frame: clear.ethernet(MAC, MAC_HOP),
        expect: Expect::Worker(Path::CoreForwarded, out),
    }
}

pub(super) fn refused(clear: &Clear, reason: DropReason) -> Step {
    Step {
        program: Program::Core,
        frame: clear.ethernet(MAC, MAC_HOP),
        expect: Expect::Drop(reason),
    }
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    [
        filtering(now_s),
        opened_by_the_center(now_s),
        calls_leave_room(now_s),
        published(now_s),
        publications(now_s),
        one_to_one(now_s),
        ports(now_s),
        limits(now_s),
    ]
    .concat()
}

fn vector(description: &str, world: HostTables, steps: Vec<Step>) -> Vector {
    Vector {
        description: description.to_owned(),
        world,
        steps,
    }
}

/// A world in which the site's filtering is this, and may reach all ports of two hosts.
pub fn world_with_filtering(now_s: u32, flags: u32) -> HostTables {
    let mut tables = world::world(now_s);
    if let Some(site) = tables.sites.get_mut(&SITE) {
        site.flags = flags;
    }
    let to = |number, address, protocol| world::allow(number, address, protocol, 0);
    let rules: Vec<Rule> = vec![
        to(0, SERVER, 6),
        to(1, MAINTAINER.0, 6),
        to(2, NAME_SERVER, 17),
        to(3, MAINTAINER.0, 17),
    ];
    tables.rules = Some((world::GENERATION, rules));
    tables
}

/// What a remote endpoint may send to a mapping that the terminal has made (RFC 4787 section 5, REQ-8).
fn filtering(now_s: u32) -> Vec<Vector> {
    let query = Clear::udp((TERMINAL, 2000), (NAME_SERVER, 53));
    let opened = || leaves(query.clone(), SITE, (NAT, 2000));
    let from = |end: End| Clear::udp(end, (NAT, 2000));
    let enters = |clear: Clear| enters(&clear, (TERMINAL, 2000));
    let (other_port, other_host) = (from((NAME_SERVER, 99)), from(MAINTAINER));
    let unruled = from(([203, 0, 113, 98], 53));
    let world = |flags| world_with_filtering(now_s, flags);
    let mut other_site = world(0);
    if let Some(site) = other_site.sites.get_mut(&world::SITE_OTHER) {
        site.flags = flag::FILTER_NOTHING;
    }
    let answered = Clear::udp((TERMINAL, 2000), (NAME_SERVER, 99));
    vec![
        vector(
            "address- and port-dependent filtering lets the remote endpoint alone in",
            world(0),
            vec![
                opened(),
                enters(from((NAME_SERVER, 53))),
                refused(&other_port, NoFlow),
                refused(&other_host, NoFlow),
            ],
        ),
        vector(
            "address-dependent filtering lets each port of the remote address in",
            world(flag::FILTER_ADDRESS),
            vec![
                opened(),
                enters(other_port.clone()),
                leaves(answered, SITE, (NAT, 2000)),
                enters(other_port.clone()),
                refused(&other_host, NoFlow),
            ],
        ),
        vector(
            "endpoint-independent filtering lets in whom a rule lets the terminal reach",
            world(flag::FILTER_NOTHING),
            vec![
                opened(),
                enters(other_port.clone()),
                enters(other_host.clone()),
                refused(&unruled, RuleDefault),
            ],
        ),
        vector(
            "filtering opens no port that is not mapped",
            world(flag::FILTER_NOTHING),
            vec![opened(), refused(&from(MAINTAINER).to((NAT, 2001)), NoMapping)],
        ),
        vector(
            "one site's filtering is not another's",
            other_site,
            vec![opened(), refused(&other_host, NoFlow)],
        ),
        vector(
            "a permission ends with its flow",
            with_permission(now_s, 31),
            vec![refused(&other_port, NoFlow)],
        ),
        vector(
            "a permission is good for its address alone",
            with_permission(now_s, 29),
            vec![enters(other_port), refused(&other_host, NoFlow)],
        ),
    ]
}

/// A world in which the name server's address had permission to send to the terminal's mapping so long ago.
fn with_permission(now_s: u32, idle_s: u32) -> HostTables {
    let tables = world_with_filtering(now_s, flag::FILTER_ADDRESS);
    let then_s = now_s.wrapping_sub(idle_s);
    let inside = InsideKey {
        site: SITE,
        address: TERMINAL,
        port: 2000u16.to_be_bytes(),
        protocol: 17,
        pad: 0,
    };
    let half = Half {
        seen_s: then_s,
        ..Half::default()
    };
    let permission = Flow {
        progress: Progress {
            state: state::PERMISSION,
            ..Progress::default()
        },
        out: half,
        back: half,
        created_s: then_s,
        nat_address: NAT,
        nat_port: inside.port,
        mapping: put_mapping(&tables, inside, (NAT, 2000), then_s),
        ..Flow::default()
    };
    let key = FlowKey {
        site: SITE,
        source: TERMINAL,
        destination: NAME_SERVER,
        source_port: inside.port,
        destination_port: [0; 2],
        protocol: 17,
        pad: [0; 3],
    };
    let put = tables.put_flow(&key, &permission);
    assert!(put.is_ok(), "{put:?}");
    tables
}

/// TCP that the center opens to a mapping.
fn opened_by_the_center(now_s: u32) -> Vec<Vector> {
    let own = (TERMINAL, PORT);
    let opened = || leaves(Clear::tcp(own, (SERVER, 443), SYN), SITE, (NAT, PORT));
    let call = |flags| Clear::tcp(MAINTAINER, (NAT, PORT), flags);
    let back = |flags| leaves(Clear::tcp(own, MAINTAINER, flags), SITE, (NAT, PORT));
    let enters = |flags| enters(&call(flags), own);
    let world = || world_with_filtering(now_s, flag::FILTER_NOTHING);
    let mut no_sa = world();
    no_sa.sa_outbound.clear();
    let mut hurried = world();
    if let Some(settings) = &mut hurried.settings {
        settings.site_new_flows_per_s = 1;
    }
    vec![
        vector(
            "a connection that the center opens transfers and closes",
            world(),
            vec![
                opened(),
                enters(SYN),
                enters(SYN),
                back(SYN | ACK),
                back(SYN | ACK),
                enters(ACK),
                back(ACK),
                enters(FIN | ACK),
                back(ACK),
                back(FIN | ACK),
            ],
        ),
        vector(
            "the center's connection begins with a SYN alone",
            world(),
            vec![
                opened(),
                refused(&call(ACK), TcpState),
                refused(&call(SYN | ACK), TcpState),
                refused(&call(RST), TcpState),
            ],
        ),
        vector(
            "a SYN whose TTL is used up opens nothing",
            world(),
            vec![
                opened(),
                refused(&call(SYN).ttl(1), InnerTtl),
                refused(&call(ACK), TcpState),
            ],
        ),
        vector(
            "the called terminal answers before it sends data",
            world(),
            vec![
                opened(),
                enters(SYN),
                dropped(&Clear::tcp(own, MAINTAINER, FIN | ACK), TcpState),
                refused(&call(FIN | ACK), TcpState),
            ],
        ),
        vector(
            "the called terminal may refuse",
            world(),
            vec![
                opened(),
                enters(SYN),
                back(RST | ACK),
                enters(SYN),
                back(SYN | ACK),
            ],
        ),
        vector(
            "a site whose router is away is not called",
            no_sa,
            vec![opened(), refused(&call(SYN), NoSa)],
        ),
        vector(
            "calls count against the site's rate",
            hurried,
            vec![opened(), refused(&call(SYN), SiteFlowRate)],
        ),
    ]
}

/// Regression: who might call a site, and did again and again, used up what it may have: the site opened nothing any more, for as
/// long as handshakes that nobody answers are waited for.
fn calls_leave_room(now_s: u32) -> Vec<Vector> {
    let own = |port| (TERMINAL, port);
    let opened = |port| leaves(Clear::tcp(own(port), (SERVER, 443), SYN), SITE, (NAT, port));
    let call = |port| Clear::tcp((MAINTAINER.0, port), (NAT, PORT), SYN);
    let limited = |words: &str, limit: &dyn Fn(&mut Settings), reason| {
        let mut tables = world_with_filtering(now_s, flag::FILTER_NOTHING);
        limit(tables.settings.as_mut().expect("the world has settings"));
        let steps = vec![
            opened(PORT),
            enters(&call(1), own(PORT)),
            enters(&call(2), own(PORT)),
            refused(&call(3), reason),
            opened(PORT + 2),
        ];
        vector(words, tables, steps)
    };
    vec![
        limited(
            "calls leave a site the last quarter of its flows",
            &|settings| settings.site_flows_max = 4,
            SiteFlows,
        ),
        limited(
            "calls leave a site the last quarter of its half-open connections",
            &|settings| settings.site_half_open_max = 4,
            SiteHalfOpen,
        ),
        limited(
            "calls leave a site the last quarter of its new flows in a second",
            &|settings| settings.site_new_flows_per_s = 4,
            SiteFlowRate,
        ),
    ]
}

/// Puts a static mapping into a world, as publication 1, for the hosts of 203.0.113.0/24, whom the last rule lets call it.
pub fn publish(tables: &mut HostTables, inside: InsideKey, outside: &OutsideKey) {
    let mapping = Mapping {
        address: outside.address,
        port: outside.port,
        last_used_s: 1,
        created_s: 0,
        position: 0,
        kind: kind::STATIC,
    };
    let put = tables.put_mapping(&inside, &mapping);
    assert!(put.is_ok(), "{put:?}");
    let rule = Rule {
        directions: 1 << direction::CENTER_TO_SITE,
        ..world::allow(9, inside.address, 0, 0)
    };
    if let Some((_, rules)) = &mut tables.rules {
        rules.push(rule);
    }
    tables.publication_sources.push((1, 24, [203, 0, 113, 0]));
    if let Some((_, rules)) = &mut tables.rules {
        rules.push(Rule {
            directions: 1 << direction::CENTER_TO_SITE,
            ..world::allow(PUBLISHED_RULE, inside.address, 0, 0)
        });
    }
}

/// The rule that lets what is published be called.
pub(super) const PUBLISHED_RULE: u32 = 30;

/// The usual world, in which a TCP port of the terminal is published.
pub fn world_with_publication(now_s: u32, on: End) -> HostTables {
    let mut tables = world::world(now_s);
    let inside = InsideKey {
        site: SITE,
        address: DEVICE.0,
        port: DEVICE.1.to_be_bytes(),
        protocol: 6,
        pad: 0,
    };
    let outside = OutsideKey {
        address: on.0,
        port: on.1.to_be_bytes(),
        protocol: 6,
        pad: 0,
    };
    publish(&mut tables, inside, &outside);
    tables
}

fn published(now_s: u32) -> Vec<Vector> {
    let call = |flags| Clear::tcp(MAINTAINER, PUBLISHED, flags);
    let back = |flags| leaves(Clear::tcp(DEVICE, MAINTAINER, flags), SITE, PUBLISHED);
    let enters = |flags| enters(&call(flags), DEVICE);
    let world = || world_with_publication(now_s, PUBLISHED);
    let established = || vec![enters(SYN), back(SYN | ACK), enters(ACK), back(ACK)];
    vec![
        vector(
            "a published port is reached, and answers",
            world(),
            [
                established(),
                vec![enters(FIN | ACK), back(ACK), back(FIN | ACK), enters(ACK)],
            ]
            .concat(),
        ),
        vector(
            "a published port is reached anew after the connection has ended",
            world(),
            [
                established(),
                vec![enters(FIN | ACK), back(FIN | ACK), enters(SYN), back(SYN | ACK)],
            ]
            .concat(),
        ),
        vector(
            "a published port has options of both ends (RFC 7323)",
            world(),
            vec![
                super::nat::enters(&call(SYN).options(&[1, 3, 3, 7]), DEVICE),
                leaves(
                    Clear::tcp(DEVICE, MAINTAINER, SYN | ACK).options(&[1, 3, 3, 2]),
                    SITE,
                    PUBLISHED,
                ),
                // 0xfaf0 units of 128 are far more than a window without scale.
                super::nat::enters(&call(ACK).data(0), DEVICE),
                leaves(
                    Clear::tcp(DEVICE, MAINTAINER, ACK).at(1_000_000, 0).data(0),
                    SITE,
                    PUBLISHED,
                ),
            ],
        ),
        vector(
            "a terminal that calls itself has the published port as well (RFC 4787 REQ-1)",
            world(),
            vec![leaves(Clear::tcp(DEVICE, (SERVER, 443), SYN), SITE, PUBLISHED)],
        ),
    ]
}

/// Who may not reach what is published, and what is not published.
fn publications(now_s: u32) -> Vec<Vector> {
    let call = |flags| Clear::tcp(MAINTAINER, PUBLISHED, flags);
    let world = || world_with_publication(now_s, PUBLISHED);
    let mut no_sa = world();
    no_sa.sa_outbound.clear();
    let mut nobody = world();
    nobody.publication_sources.clear();
    let mut unknown = world();
    unknown.sites.clear();
    let mut unruled = world();
    unruled.rules = Some((
        world::GENERATION,
        vec![Rule {
            directions: 1 << direction::SITE_TO_CENTER,
            ..world::allow(0, DEVICE.0, 0, 0)
        }],
    ));
    vec![
        vector(
            "what no rule lets the center reach is not reached, published or not",
            unruled,
            vec![refused(&call(SYN), RuleDefault)],
        ),
        vector(
            "who is not named may not reach a published port",
            world(),
            vec![refused(&call(SYN).from(STRANGER), PublicationSource)],
        ),
        vector(
            "what is published for nobody is reached by nobody",
            nobody,
            vec![refused(&call(SYN), PublicationSource)],
        ),
        vector(
            "a published port is one port of one protocol",
            world(),
            vec![
                refused(&call(SYN).to((PUBLISHED.0, 8444)), NoMapping),
                refused(&Clear::udp(MAINTAINER, PUBLISHED), NoMapping),
            ],
        ),
        vector(
            "a published port is no way in mid-stream",
            world(),
            vec![refused(&call(ACK), TcpState), refused(&call(SYN | ACK), TcpState)],
        ),
        vector(
            "a published port of a site whose router is away is not reached",
            no_sa,
            vec![refused(&call(SYN), NoSa)],
        ),
        vector(
            "a published port of a site that is gone is not reached",
            unknown,
            vec![refused(&call(SYN), UnknownSite)],
        ),
        vector(
            "a port of the gateway's own address may be published, and no other is open",
            world_with_publication(now_s, (GATEWAY, 8443)),
            vec![
                enters(&call(SYN).to((GATEWAY, 8443)), DEVICE),
                refused(&call(SYN).to((GATEWAY, 22)), CoreDestination),
            ],
        ),
    ]
}

/// A second terminal, which has an address of its own.
fn one_to_one(now_s: u32) -> Vec<Vector> {
    let world = || {
        let mut tables = world_with_filtering(now_s, flag::ONE_TO_ONE);
        let inside = InsideKey {
            site: SITE,
            address: MODALITY,
            port: [0; 2],
            protocol: 0,
            pad: 0,
        };
        let outside = OutsideKey {
            address: OWN,
            port: [0; 2],
            protocol: 0,
            pad: 0,
        };
        publish(&mut tables, inside, &outside);
        tables
    };
    let call = |port, flags| Clear::tcp(MAINTAINER, (OWN, port), flags);
    let ping = Clear::ping(MODALITY, 7, SERVER);
    let mut pinging = world();
    pinging.rules = Some((world::GENERATION, vec![world::allow(0, SERVER, 1, 0)]));
    vec![
        vector(
            "an address of its own is reached at every port",
            world(),
            vec![
                enters(&call(22, SYN), (MODALITY, 22)),
                leaves(Clear::tcp((MODALITY, 22), MAINTAINER, SYN | ACK), SITE, (OWN, 22)),
                enters(&call(104, SYN), (MODALITY, 104)),
                enters(&Clear::udp(MAINTAINER, (OWN, 161)), (MODALITY, 161)),
                refused(&call(22, SYN).from(STRANGER), PublicationSource),
            ],
        ),
        vector(
            "an address of its own keeps its ports, well-known ones too",
            world(),
            vec![
                leaves(Clear::tcp((MODALITY, 104), (SERVER, 443), SYN), SITE, (OWN, 104)),
                leaves(Clear::udp((MODALITY, 500), (NAME_SERVER, 53)), SITE, (OWN, 500)),
                leaves(Clear::udp((TERMINAL, 5000), (NAME_SERVER, 53)), SITE, (NAT, 5000)),
            ],
        ),
        vector(
            "an address of its own keeps identifiers",
            pinging,
            vec![
                leaves(ping, SITE, (OWN, 7)),
                enters(&Clear::pong(SERVER, OWN, 7), (MODALITY, 7)),
                refused(&Clear::pong(SERVER, OWN, 8), NoFlow),
            ],
        ),
    ]
}

/// Ports that are known although they are drawn: their range has one that is free.
fn ports(now_s: u32) -> Vec<Vector> {
    let query = |port| Clear::udp((TERMINAL, port), (NAME_SERVER, 53));
    let world = |(low, high), nat_flags, taken: &[u16]| {
        let mut tables = world::world(now_s);
        if let Some(settings) = &mut tables.settings {
            (settings.port_low, settings.port_high, settings.nat_flags) = (low, high, nat_flags);
        }
        for port in taken {
            let inside = InsideKey {
                site: SITE,
                address: [192, 168, 1, 77],
                port: port.to_be_bytes(),
                protocol: 17,
                pad: 0,
            };
            put_mapping(&tables, inside, (NAT, *port), now_s);
        }
        tables
    };
    let both = nat_flag::PRESERVE_PORT | nat_flag::PRESERVE_RANGE;
    vec![
        vector(
            "the inside port is kept where it is free",
            world((1024, 65535), both, &[]),
            vec![leaves(query(4321), SITE, (NAT, 4321))],
        ),
        vector(
            "the inside port is not kept if it is not to be",
            world((3000, 3000), 0, &[]),
            vec![leaves(query(3001), SITE, (NAT, 3000))],
        ),
        vector(
            "a well-known port gets a well-known one, another one another",
            world((1023, 1024), both, &[]),
            vec![
                leaves(query(53), SITE, (NAT, 1023)),
                leaves(query(5353), SITE, (NAT, 1024)),
            ],
        ),
        vector(
            "a well-known port gets another one rather than none",
            world((1023, 1024), both, &[1023]),
            vec![leaves(query(53), SITE, (NAT, 1024))],
        ),
        vector(
            "a port above never gets a well-known one",
            world((1022, 1024), both, &[1024]),
            vec![no_room(&query(5353), NatExhausted)],
        ),
        vector(
            "the last free port of a range is found",
            world((2000, 2040), both, &(2000..2040).collect::<Vec<u16>>()),
            vec![leaves(query(9), SITE, (NAT, 2040))],
        ),
        vector(
            "no port is given twice (RFC 4787 REQ-3)",
            world((2000, 2002), both, &[2000, 2001]),
            vec![
                leaves(query(9), SITE, (NAT, 2002)),
                no_room(&query(10), NatExhausted),
            ],
        ),
    ]
}

/// What a site may use (RFC 6888 REQ-4 and REQ-5), and that it is told when it has used it up.
fn limits(now_s: u32) -> Vec<Vector> {
    type Change = fn(&mut Settings);
    let query = |port| Clear::udp((TERMINAL, port), (NAME_SERVER, 53));
    let syn = |port| Clear::tcp((TERMINAL, port), (SERVER, 443), SYN);
    let limited = |words: &str, change: Change, first: Clear, second: Clear, reason| {
        let mut tables = world::world(now_s);
        if let Some(settings) = &mut tables.settings {
            change(settings);
        }
        let nat = (NAT, first.source.1);
        vector(
            words,
            tables,
            vec![leaves(first, SITE, nat), no_room(&second, reason)],
        )
    };
    vec![
        limited(
            "a site has no more mappings than it may",
            |settings| settings.site_mappings_max = 1,
            query(2000),
            query(2001),
            SiteMappings,
        ),
        limited(
            "a site has no more flows than it may",
            |settings| settings.site_flows_max = 1,
            query(2000),
            query(2001),
            SiteFlows,
        ),
        limited(
            "a site opens no more flows in a second than it may",
            |settings| settings.site_new_flows_per_s = 1,
            query(2000),
            query(2001),
            SiteFlowRate,
        ),
        limited(
            "a site has no more half-open connections than it may",
            |settings| settings.site_half_open_max = 1,
            syn(2000),
            syn(2001),
            SiteHalfOpen,
        ),
        limited(
            "a full table takes no flow",
            |settings| settings.flows_max = 1,
            query(2000),
            query(2001),
            FlowTableFull,
        ),
    ]
}
