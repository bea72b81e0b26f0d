//! Vectors of what else goes from site to site: ping, ICMP errors (RFC 5508 REQ-7), fragments, the MSS.
//!
//! ```text
//! SITE        TERMINAL:6000 as NAT:7000        ---- gateway ----  WHOLE is HOST, all of its ports   SITE_OTHER
//! ```

use gateway_common::abi::nat::{InsideKey, OutsideKey};
use gateway_common::abi::rule::{Rule, direction};
use gateway_common::abi::sa::{LinkHeader, fragment};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::{self, *};
use gateway_common::packet::tcp::flag::SYN;
use gateway_common::tables::host::HostTables;
use zerocopy::IntoBytes as _;

use super::errors::Error;
use super::hairpin::{
    CALLED, CALLED_OUTSIDE, CALLER, CALLER_OUTSIDE, NEIGHBOUR, SA_OTHER, SERVICE, SERVICE_OUTSIDE, answer,
    arrives, back, call, dropped, mapped, may_call, publishing, there, world,
};
use super::nat::publish;
use super::world::{self, NAT, NAT_OTHER, SA_INDEX, SITE, SITE_OTHER, TERMINAL};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, End, fragments};

/// The address that one host of [`SITE_OTHER`] has for itself.
const WHOLE: [u8; 4] = [198, 51, 100, 9];
const HOST: [u8; 4] = NEIGHBOUR;
/// The caller's identifier, inside and as it is translated.
const IDENTIFIER: u16 = 6000;
const TRANSLATED: u16 = 7000;
const ROUTER: [u8; 4] = [192, 168, 1, 254];
const CUTS: [usize; 2] = [1376, 2752];

type Case = (&'static str, HostTables, Vec<Step>);

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let vector = |(words, world, steps): Case| Vector {
        description: words.to_owned(),
        world,
        steps,
    };
    [pings(now_s), no_pings(now_s), errors(now_s), in_pieces(now_s)]
        .concat()
        .into_iter()
        .map(vector)
        .collect()
}

/// A host of [`SITE_OTHER`] is published whole, to the sites of these prefixes.
fn whole(now_s: u32, rules: Vec<Rule>, sources: &[(u32, [u8; 4])]) -> HostTables {
    let mut tables = world(now_s, rules);
    if let Some(site) = tables.sites.get_mut(&SITE_OTHER) {
        site.flags = 0;
    }
    tables.directions.push((32, WHOLE, direction::SITE_TO_SITE));
    let inside = InsideKey {
        site: SITE_OTHER,
        address: HOST,
        port: [0; 2],
        protocol: 0,
        pad: 0,
    };
    let outside = OutsideKey {
        address: WHOLE,
        port: [0; 2],
        protocol: 0,
        pad: 0,
    };
    publish(&mut tables, inside, &outside);
    tables.publication_sources = sources
        .iter()
        .map(|(length, prefix)| (1, *length, *prefix))
        .collect();
    world::map_identifier(&tables, IDENTIFIER, TRANSLATED, now_s);
    tables
}

fn usual(now_s: u32) -> HostTables {
    whole(now_s, vec![may_call(SITE_OTHER)], &[(24, [198, 51, 100, 0])])
}

fn ping() -> Clear {
    Clear::ping(TERMINAL, IDENTIFIER, WHOLE)
}

fn pong() -> Clear {
    Clear::pong(HOST, NAT, TRANSLATED)
}

fn asked() -> Step {
    arrives(
        (SITE, &ping()),
        (NAT, TRANSLATED),
        (SITE_OTHER, SA_OTHER),
        (HOST, 0),
    )
}

fn replied() -> Step {
    arrives(
        (SITE_OTHER, &pong()),
        (WHOLE, 0),
        (SITE, SA_INDEX),
        (TERMINAL, IDENTIFIER),
    )
}

fn pings(now_s: u32) -> Vec<Case> {
    vec![
        (
            "a site pings a host of another that has an address of its own (RFC 5508 REQ-7)",
            usual(now_s),
            vec![asked(), replied(), asked(), replied(), replied()],
        ),
        (
            "a ping between sites goes no further than its TTL",
            usual(now_s),
            vec![
                asked(),
                dropped(SITE, &ping().ttl(1), InnerTtl),
                dropped(SITE_OTHER, &pong().ttl(1), InnerTtl),
                replied(),
            ],
        ),
    ]
}

fn no_pings(now_s: u32) -> Vec<Case> {
    let both = vec![may_call(SITE_OTHER), may_call(SITE)];
    vec![
        (
            "no site pings another without a rule",
            whole(now_s, vec![], &[(0, [0; 4])]),
            vec![dropped(SITE, &ping(), RuleDefault)],
        ),
        (
            "no site pings a host that is published to others",
            whole(now_s, vec![may_call(SITE_OTHER)], &[(24, [203, 0, 113, 0])]),
            vec![dropped(SITE, &ping(), NoFlow)],
        ),
        (
            "a reply that no site has asked for is dropped",
            usual(now_s),
            vec![
                dropped(SITE_OTHER, &pong(), IcmpType),
                asked(),
                dropped(SITE_OTHER, &Clear::pong(HOST, NAT, TRANSLATED + 1), IcmpType),
                dropped(SITE_OTHER, &Clear::pong(TERMINAL, NAT, TRANSLATED), IcmpType),
                replied(),
            ],
        ),
        (
            "who asks does not reply, and who is asked does not ask in the same flow",
            whole(now_s, both, &[(24, [198, 51, 100, 0])]),
            vec![
                asked(),
                dropped(SITE, &Clear::pong(TERMINAL, WHOLE, IDENTIFIER), IcmpType),
                dropped(SITE_OTHER, &Clear::ping(HOST, TRANSLATED, NAT), IcmpType),
                replied(),
            ],
        ),
    ]
}

/// An error of `site` about a packet that came to it as `received`, which the other site had `sent`.
fn reported(site: u32, received: &Clear, outside: [u8; 4], sent: &Clear, octets: usize) -> Step {
    let (to, sa) = if site == SITE {
        (SITE_OTHER, SA_OTHER)
    } else {
        (SITE, SA_INDEX)
    };
    let error = Error::about(ROUTER, received, octets).of(3, 1);
    let arrives = error.clone().arrives(outside, sent);
    Step {
        program: Program::Clear,
        frame: error.linked_of(site),
        expect: Expect::Worker(
            Path::SiteToSite,
            [LinkHeader::new(to, sa).as_bytes(), &arrives.packet()].concat(),
        ),
    }
}

fn refused(site: u32, error: &Error, reason: DropReason) -> Step {
    Step {
        program: Program::Clear,
        frame: error.linked_of(site),
        expect: Expect::Drop(reason),
    }
}

fn errors(now_s: u32) -> Vec<Case> {
    let both = || world(now_s, vec![may_call(SITE_OTHER), may_call(SITE)]);
    let called = call().from(CALLER_OUTSIDE).to(CALLED).forwarded();
    let answered = answer().from(CALLED_OUTSIDE).to(CALLER).forwarded();
    let stranger = Clear::udp((NAT, 6001), CALLED);
    let pinged = ping().from((NAT, TRANSLATED)).to((HOST, 0)).forwarded();
    let ponged = pong().from((WHOLE, 0)).to((TERMINAL, IDENTIFIER)).forwarded();
    let mut last_hop = Error::about(ROUTER, &called, 8);
    last_hop.ttl = 1;
    vec![
        (
            "an error of a site about a packet of another reaches it, hidden and translated twice (RFC 5508 REQ-7 a)",
            both(),
            vec![
                mapped(),
                there(&call(), CALLED),
                reported(SITE_OTHER, &called, NAT_OTHER, &call().forwarded(), 8),
                reported(SITE_OTHER, &called, NAT_OTHER, &call().forwarded(), 13),
                back(&answer(), CALLED_OUTSIDE),
                reported(SITE, &answered, NAT, &answer().forwarded(), 8),
            ],
        ),
        (
            "an error between sites about what was never sent is dropped",
            both(),
            vec![
                mapped(),
                refused(SITE_OTHER, &Error::about(ROUTER, &called, 8), IcmpErrorUnmatched),
                there(&call(), CALLED),
                refused(
                    SITE_OTHER,
                    &Error::about(ROUTER, &stranger, 8),
                    IcmpErrorUnmatched,
                ),
                refused(SITE_OTHER, &last_hop, InnerTtl),
            ],
        ),
        (
            "errors about a ping between sites, and about its reply",
            usual(now_s),
            vec![
                asked(),
                reported(SITE_OTHER, &pinged, WHOLE, &ping().forwarded(), 8),
                replied(),
                reported(SITE, &ponged, NAT, &pong().forwarded(), 18),
            ],
        ),
    ]
}

/// The fragments of a packet of `site`, as its worker sends them, and as they arrive at the other.
fn pieces(site: u32, clear: &Clear, ports: [u16; 2], as_source: End, as_destination: End) -> Vec<Step> {
    let (to, sa) = if site == SITE {
        (SITE_OTHER, SA_OTHER)
    } else {
        (SITE, SA_INDEX)
    };
    let packet = clear.packet();
    let out = clear.clone().from(as_source).to(as_destination).forwarded();
    let [[s0, s1], [d0, d1]] = ports.map(u16::to_be_bytes);
    let length = (packet.len() as u32 - 20).to_be_bytes();
    let arrived = fragments(&out.packet(), &CUTS).into_iter();
    let sent = fragments(&packet, &CUTS).into_iter().enumerate();
    sent.zip(arrived)
        .map(|((number, piece), arrived)| {
            let link = match number {
                0 => LinkHeader::of_fragment(fragment::SITE_FIRST, site, length),
                _ => LinkHeader::of_fragment(fragment::SITE_LATER, site, [s0, s1, d0, d1]),
            };
            let out = [LinkHeader::new(to, sa).as_bytes(), &arrived].concat();
            Step {
                program: Program::Clear,
                frame: [link.as_bytes(), &piece].concat(),
                expect: Expect::Worker(Path::SiteToSite, out),
            }
        })
        .collect()
}

fn in_pieces(now_s: u32) -> Vec<Case> {
    let usual = world(now_s, vec![may_call(SITE_OTHER), may_call(SITE)]);
    let long = |clear: Clear| clear.fragmentable().data(3000);
    let there = || {
        let ports = [CALLER.1, CALLED_OUTSIDE.1];
        pieces(SITE, &long(call()), ports, CALLER_OUTSIDE, CALLED)
    };
    let ports = [CALLED.1, CALLER_OUTSIDE.1];
    let back = pieces(SITE_OTHER, &long(answer()), ports, CALLED_OUTSIDE, CALLER);
    let mut denied = there();
    for (step, reason) in denied.iter_mut().zip([RuleDefault, InnerFragment, InnerFragment]) {
        step.expect = Expect::Drop(reason);
    }
    let syn = |mss: u16| {
        let [high, low] = mss.to_be_bytes();
        Clear::tcp(CALLER, SERVICE_OUTSIDE, SYN).options(&[2, 4, high, low])
    };
    let mut lowered = super::hairpin::there(&syn(1460), SERVICE);
    lowered.expect = super::hairpin::there(&syn(1360), SERVICE).expect;
    vec![
        (
            "fragments go from site to site, the first one opens the flow and the others follow it",
            usual,
            [vec![mapped()], there(), back, there()].concat(),
        ),
        (
            "fragments that no rule lets go to another site are dropped, each of them",
            world(now_s, vec![]),
            [vec![mapped()], denied].concat(),
        ),
        (
            "the MSS of a connection between sites fits both tunnels",
            publishing(now_s, &[(24, [198, 51, 100, 0])]),
            vec![lowered],
        ),
    ]
}
