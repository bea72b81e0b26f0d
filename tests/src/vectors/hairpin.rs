//! Vectors from site to site (RFC 4787 REQ-9, RFC 5382 REQ-8): both sites have the same inner addresses.
//!
//! ```text
//! SITE        TERMINAL:6000 as NAT:6000        ---- gateway ----  NAT_OTHER:5000 is TERMINAL:5000  SITE_OTHER
//! ```

use gateway_common::abi::flow::{Flow, FlowKey, Half, Progress, state};
use gateway_common::abi::nat::{InsideKey, OutsideKey};
use gateway_common::abi::rule::{Rule, action, direction};
use gateway_common::abi::sa::{LinkHeader, SaOutbound, SaOutboundKey};
use gateway_common::abi::site::flag;
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::{self, *};
use gateway_common::packet::tcp::flag::{ACK, FIN, RST, SYN};
use gateway_common::tables::host::HostTables;
use zerocopy::IntoBytes as _;

use super::clear::{leaves, put_mapping};
use super::nat::publish;
use super::world::{self, MTU, NAME_SERVER, NAT, NAT_OTHER, SA_INDEX, SITE, SITE_OTHER, TERMINAL};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, End, checksum, fix_ipv4, ipv4};

/// Index of the outbound SA of [`SITE_OTHER`].
pub(super) const SA_OTHER: u32 = 0x0004_0506;
/// A terminal's second neighbour, at either site.
pub(super) const NEIGHBOUR: [u8; 4] = [192, 168, 1, 11];

/// The endpoint of [`SITE`], inside and as it is translated.
pub(super) const CALLER: End = (TERMINAL, 6000);
pub(super) const CALLER_OUTSIDE: End = (NAT, 6000);
/// The endpoint of [`SITE_OTHER`].
pub(super) const CALLED: End = (TERMINAL, 5000);
pub(super) const CALLED_OUTSIDE: End = (NAT_OTHER, 5000);
/// What [`SITE_OTHER`] publishes.
pub(super) const SERVICE: End = (NEIGHBOUR, 443);
pub(super) const SERVICE_OUTSIDE: End = (NAT_OTHER, 8443);

/// Sites may call each other, as far as `rules` let them; [`SITE_OTHER`] lets everybody in who is allowed to call.
pub(super) fn world(now_s: u32, rules: Vec<Rule>) -> HostTables {
    let mut tables = world::world(now_s);
    for address in [NAT, NAT_OTHER] {
        tables.directions.push((32, address, direction::SITE_TO_SITE));
    }
    if let Some(site) = tables.sites.get_mut(&SITE_OTHER) {
        site.flags |= flag::FILTER_NOTHING;
    }
    let outbound = SaOutbound {
        sa_index: SA_OTHER,
        shares: 0,
        mtu: MTU,
    };
    let destination = SaOutboundKey {
        site: SITE_OTHER.to_be_bytes(),
        destination: [192, 168, 1, 0],
    };
    tables.sa_outbound.push((24, destination, outbound));
    let all = [rules, world::rules()].concat();
    tables.rules = Some((world::GENERATION, all));
    tables
}

/// A rule that lets sites call this one.
pub(super) fn may_call(to_site: u32) -> Rule {
    Rule {
        directions: 1 << direction::SITE_TO_SITE,
        to_site,
        destination_mask: [0; 4],
        ..world::allow(20, [0; 4], 0, 0)
    }
}

/// A packet that arrives at the other site.
pub(super) fn arrives(from: (u32, &Clear), as_source: End, at: (u32, u32), as_destination: End) -> Step {
    let (site, clear) = from;
    let out = clear.clone().from(as_source).to(as_destination).forwarded();
    Step {
        program: Program::Clear,
        frame: clear.linked(site, 9),
        expect: Expect::Worker(Path::SiteToSite, out.linked(at.0, at.1)),
    }
}

/// A packet of [`SITE`] to [`SITE_OTHER`].
pub(super) fn there(clear: &Clear, destination: End) -> Step {
    arrives((SITE, clear), CALLER_OUTSIDE, (SITE_OTHER, SA_OTHER), destination)
}

/// A packet of [`SITE_OTHER`] to [`SITE`].
pub(super) fn back(clear: &Clear, source: End) -> Step {
    arrives((SITE_OTHER, clear), source, (SITE, SA_INDEX), CALLER)
}

pub(super) fn dropped(site: u32, clear: &Clear, reason: DropReason) -> Step {
    Step {
        program: Program::Clear,
        frame: clear.linked(site, 9),
        expect: Expect::Drop(reason),
    }
}

/// [`SITE_OTHER`] has a mapping for [`CALLED`].
pub(super) fn mapped() -> Step {
    leaves(Clear::udp(CALLED, (NAME_SERVER, 53)), SITE_OTHER, CALLED_OUTSIDE)
}

pub(super) fn call() -> Clear {
    Clear::udp(CALLER, CALLED_OUTSIDE)
}

pub(super) fn answer() -> Clear {
    Clear::udp(CALLED, CALLER_OUTSIDE)
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let vector = |(words, world, steps): (&str, HostTables, Vec<Step>)| Vector {
        description: words.to_owned(),
        world,
        steps,
    };
    [datagrams(now_s), connections(now_s), refusals(now_s)]
        .concat()
        .into_iter()
        .map(vector)
        .collect()
}

type Case = (&'static str, HostTables, Vec<Step>);

fn datagrams(now_s: u32) -> Vec<Case> {
    let both = || vec![may_call(SITE_OTHER), may_call(SITE)];
    let usual = || world(now_s, both());
    let mut strict = usual();
    if let Some(site) = strict.sites.get_mut(&SITE_OTHER) {
        site.flags = 0;
    }
    let neighbour = Clear::udp((NEIGHBOUR, 7000), (NAT, 6000));
    vec![
        (
            "a site calls another and is answered, each seen by its outside (RFC 4787 REQ-9 a)",
            usual(),
            vec![
                mapped(),
                there(&call(), CALLED),
                back(&answer(), CALLED_OUTSIDE),
                there(&call().data(33), CALLED),
                back(&answer().without_checksum(), CALLED_OUTSIDE),
            ],
        ),
        (
            "address- and port-dependent filtering holds for sites too, and opens when both have called",
            strict,
            vec![
                mapped(),
                dropped(SITE, &call(), NoFlow),
                back(&answer(), CALLED_OUTSIDE),
                there(&call(), CALLED),
            ],
        ),
        (
            "a site calls itself by its outside, and the answer comes back that way",
            {
                let mut tables = usual();
                if let Some(site) = tables.sites.get_mut(&SITE) {
                    site.flags |= flag::FILTER_NOTHING;
                }
                tables
            },
            vec![
                leaves(Clear::udp(CALLER, (NAME_SERVER, 53)), SITE, CALLER_OUTSIDE),
                arrives((SITE, &neighbour), (NAT, 7000), (SITE, SA_INDEX), CALLER),
                arrives(
                    (SITE, &Clear::udp(CALLER, (NAT, 7000))),
                    CALLER_OUTSIDE,
                    (SITE, SA_INDEX),
                    (NEIGHBOUR, 7000),
                ),
            ],
        ),
        (
            "a datagram too big for the other site's tunnel is answered with its MTU (RFC 1191)",
            usual(),
            vec![
                mapped(),
                there(&call().data(MTU as usize - 28), CALLED),
                too_big(&call().data(MTU as usize - 27)),
                there(&call().data(MTU as usize - 27).fragmentable(), CALLED),
            ],
        ),
    ]
}

/// The caller's half of a call was made, when the rules let it, and the called site's was not: its filtering or its rate did
/// not let it in.
fn half_made(tables: HostTables, now_s: u32) -> HostTables {
    let inside = InsideKey {
        site: SITE,
        address: CALLER.0,
        port: CALLER.1.to_be_bytes(),
        protocol: 17,
        pad: 0,
    };
    let half = Half {
        seen_s: now_s,
        ..Half::default()
    };
    let flow = Flow {
        progress: Progress {
            state: state::UDP_UNREPLIED,
            ..Progress::default()
        },
        out: half,
        back: half,
        created_s: now_s,
        generation: 1,
        nat_address: CALLER_OUTSIDE.0,
        nat_port: inside.port,
        mapping: put_mapping(&tables, inside, CALLER_OUTSIDE, now_s),
        ..Flow::default()
    };
    let key = FlowKey {
        site: SITE,
        source: CALLER.0,
        destination: CALLED_OUTSIDE.0,
        source_port: inside.port,
        destination_port: CALLED_OUTSIDE.1.to_be_bytes(),
        protocol: 17,
        pad: [0; 3],
    };
    let put = tables.put_flow(&key, &flow);
    assert!(put.is_ok(), "{put:?}");
    tables
}

/// A packet of [`SITE`] that does not fit the other site's tunnel.
fn too_big(clear: &Clear) -> Step {
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend((MTU as u16).to_be_bytes());
    icmp.extend(&clear.packet()[..28]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let mut packet = ipv4(1, clear.destination.0, clear.source.0, &icmp);
    packet[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
    fix_ipv4(&mut packet);
    let frame = [LinkHeader::new(SITE, SA_INDEX).as_bytes(), &packet].concat();
    Step {
        program: Program::Clear,
        frame: clear.linked(SITE, 9),
        expect: Expect::Answer(EspTooBig, frame),
    }
}

/// [`SITE_OTHER`] publishes a service for the hosts of these prefixes, and lets in nobody else.
pub(super) fn publishing(now_s: u32, sources: &[(u32, [u8; 4])]) -> HostTables {
    let mut tables = world(now_s, vec![may_call(SITE_OTHER)]);
    if let Some(site) = tables.sites.get_mut(&SITE_OTHER) {
        site.flags = 0;
    }
    let (address, port) = (SERVICE.0, SERVICE.1.to_be_bytes());
    let inside = InsideKey {
        site: SITE_OTHER,
        address,
        port,
        protocol: 6,
        pad: 0,
    };
    let outside = OutsideKey {
        address: SERVICE_OUTSIDE.0,
        port: SERVICE_OUTSIDE.1.to_be_bytes(),
        protocol: 6,
        pad: 0,
    };
    publish(&mut tables, inside, &outside);
    tables.publication_sources = sources
        .iter()
        .map(|(length, prefix)| (1, *length, *prefix))
        .collect();
    tables
}

fn connections(now_s: u32) -> Vec<Case> {
    let sites = &[(24, [198, 51, 100, 0])];
    let call = |flags| Clear::tcp(CALLER, SERVICE_OUTSIDE, flags);
    let answer = |flags| Clear::tcp(SERVICE, CALLER_OUTSIDE, flags);
    let there = |flags| there(&call(flags), SERVICE);
    let back = |flags| back(&answer(flags), SERVICE_OUTSIDE);
    vec![
        (
            "a connection between sites, from its SYN to its last ACK (RFC 5382 REQ-8)",
            publishing(now_s, sites),
            vec![
                there(SYN),
                back(SYN | ACK),
                there(ACK),
                back(ACK),
                there(FIN | ACK),
                back(FIN | ACK),
            ],
        ),
        (
            "a connection between sites is followed: no data before the handshake",
            publishing(now_s, sites),
            vec![
                there(SYN),
                dropped(SITE, &call(ACK), TcpState),
                back(RST | ACK),
                there(SYN),
                back(SYN | ACK),
            ],
        ),
        (
            "a published port is for sites that are named, too",
            publishing(now_s, &[(24, [203, 0, 113, 0])]),
            vec![dropped(SITE, &call(SYN), NoFlow)],
        ),
    ]
}

fn refusals(now_s: u32) -> Vec<Case> {
    let to_other = || vec![may_call(SITE_OTHER)];
    let mut no_sa = world(now_s, to_other());
    no_sa.sa_outbound.truncate(1);
    let by_group = Rule {
        to_site: 0,
        to_groups: world::GROUP_CLINIC,
        ..may_call(0)
    };
    let denied = Rule {
        action: action::DENY,
        ..may_call(SITE_OTHER)
    };
    let own = Rule {
        destination: CALLED.0,
        destination_mask: [255; 4],
        destination_port_low: CALLED.1,
        destination_port_high: CALLED.1,
        ..may_call(SITE_OTHER)
    };
    let outside = Rule {
        destination: CALLED_OUTSIDE.0,
        ..own
    };
    vec![
        (
            "no site calls another without a rule",
            world(now_s, vec![]),
            vec![mapped(), dropped(SITE, &call(), RuleDefault)],
        ),
        (
            "a rule about the center lets no site call another",
            world(
                now_s,
                vec![Rule {
                    directions: 1 << direction::SITE_TO_CENTER,
                    to_site: 0,
                    ..may_call(0)
                }],
            ),
            vec![mapped(), dropped(SITE, &call(), RuleDefault)],
        ),
        (
            "a rule that denies calls to a site comes first",
            world(now_s, vec![denied, may_call(SITE_OTHER)]),
            vec![mapped(), dropped(SITE, &call(), RuleDenied)],
        ),
        (
            "a rule about a group lets nobody call a site that is not in it",
            world(now_s, vec![by_group]),
            vec![mapped(), dropped(SITE, &call(), RuleDefault)],
        ),
        (
            "rules speak of the called site's own address and port",
            world(now_s, vec![own]),
            vec![mapped(), there(&call(), CALLED)],
        ),
        (
            "rules do not speak of what the called site is translated to",
            world(now_s, vec![outside]),
            vec![mapped(), dropped(SITE, &call(), RuleDefault)],
        ),
        (
            "a call goes on that was made by half, if a rule lets it",
            half_made(world(now_s, to_other()), now_s),
            vec![mapped(), there(&call(), CALLED)],
        ),
        (
            "a call that was made by half is not made whole when no rule lets it any more",
            half_made(world(now_s, vec![]), now_s),
            vec![mapped(), dropped(SITE, &call(), RuleDefault)],
        ),
        (
            "a call that was made by half does not reach who has the outside now",
            half_made(world(now_s, vec![own]), now_s),
            vec![
                leaves(
                    Clear::udp((NEIGHBOUR, CALLED.1), (NAME_SERVER, 53)),
                    SITE_OTHER,
                    CALLED_OUTSIDE,
                ),
                dropped(SITE, &call(), RuleDefault),
            ],
        ),
        (
            "who is allowed to call is not allowed to be called",
            world(now_s, to_other()),
            vec![
                leaves(Clear::udp(CALLER, (NAME_SERVER, 53)), SITE, CALLER_OUTSIDE),
                dropped(SITE_OTHER, &answer(), RuleDefault),
            ],
        ),
        (
            "an outside that nobody has is not called",
            world(now_s, to_other()),
            vec![dropped(SITE, &call(), NoMapping)],
        ),
        (
            "a site whose router is away is not called by another",
            no_sa,
            vec![mapped(), dropped(SITE, &call(), NoSa)],
        ),
        (
            "ping between sites is not forwarded: identifiers are no addresses (RFC 5508 section 7)",
            world(now_s, to_other()),
            vec![
                mapped(),
                dropped(SITE, &Clear::ping(TERMINAL, 5000, NAT_OTHER), NoMapping),
            ],
        ),
    ]
}
