//! Vectors of ICMP timestamp (RFC 792), a query like echo where a rule lets it (RFC 5508 section 3), and of the queries that are not.

use gateway_common::abi::rule::Rule;
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::{self, *};
use gateway_common::tables::host::HostTables;

use super::errors::Error;
use super::world::{self, MAC, MAC_HOP, NAT, SA_INDEX, SERVER, SITE, TERMINAL};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, Payload, checksum};

const TIMESTAMP: u8 = 13;
const TIMESTAMP_REPLY: u8 = 14;
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
const INFORMATION: u8 = 15;
const ADDRESS_MASK: u8 = 17;
/// The terminal's identifier, inside and as it is translated.
const IDENTIFIER: u16 = 6000;
const TRANSLATED: u16 = 7000;

/// A query or a reply with three times (or twelve octets) behind its header.
fn query(source: [u8; 4], destination: [u8; 4], [kind, code]: [u8; 2], identifier: u16) -> Clear {
    let mut data = vec![kind, code, 0, 0];
    data.extend(identifier.to_be_bytes());
    data.extend([0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]);
    let sum = checksum(&data);
    data[2..4].copy_from_slice(&sum);
    Clear {
        source: (source, 0),
        destination: (destination, 0),
        ttl: 64,
        dont_fragment: true,
        payload: Payload::Other { protocol: 1, data },
    }
}

/// The terminal's identifier is translated; rules let these ICMP types reach the server.
fn world(now_s: u32, kinds: &[u8]) -> HostTables {
    let mut tables = world::world(now_s);
    let rule = |kind: &u8| Rule {
        destination_port_low: u16::from(*kind) << 8,
        destination_port_high: u16::from(*kind) << 8 | 0xff,
        ..world::allow(u32::from(*kind), SERVER, 1, 0)
    };
    tables.rules = Some((world::GENERATION, kinds.iter().map(rule).collect()));
    world::map_identifier(&tables, IDENTIFIER, TRANSLATED, now_s);
    tables
}

fn asks(kind: u8) -> Step {
    let out = query(NAT, SERVER, [kind, 0], TRANSLATED).ttl(63);
    sent([kind, 0], Expect::Egress(out.ethernet(MAC_HOP, MAC)))
}

fn sent(kind: [u8; 2], expect: Expect) -> Step {
    Step {
        program: Program::Clear,
        frame: query(TERMINAL, SERVER, kind, IDENTIFIER).linked(SITE, SA_INDEX),
        expect,
    }
}

fn replies(kind: u8) -> Step {
    let arrives = query(SERVER, TERMINAL, [kind, 0], IDENTIFIER).ttl(63);
    let expect = Expect::Worker(Path::CoreForwarded, arrives.linked(SITE, SA_INDEX));
    received(kind, expect)
}

fn received(kind: u8, expect: Expect) -> Step {
    Step {
        program: Program::Core,
        frame: query(SERVER, NAT, [kind, 0], TRANSLATED).ethernet(MAC, MAC_HOP),
        expect,
    }
}

fn refused([kind, code]: [u8; 2], reason: DropReason) -> Step {
    sent([kind, code], Expect::Drop(reason))
}

/// A router of the center about the terminal's timestamp request.
fn reported() -> Step {
    const ROUTER: [u8; 4] = [203, 0, 113, 254];
    let left = query(NAT, SERVER, [TIMESTAMP, 0], TRANSLATED).ttl(63);
    let error = Error::about(ROUTER, &left, 8);
    let asked = query(TERMINAL, SERVER, [TIMESTAMP, 0], IDENTIFIER).ttl(63);
    Step {
        program: Program::Core,
        frame: crate::frames::ethernet(MAC, MAC_HOP, 0x0800, &error.packet()),
        expect: Expect::Worker(Path::CoreForwarded, error.arrives(ROUTER, &asked).linked_of(SITE)),
    }
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let vector = |(words, kinds, steps): (&str, &[u8], Vec<Step>)| Vector {
        description: words.to_owned(),
        world: world(now_s, kinds),
        steps,
    };
    let cases: Vec<(&str, &[u8], Vec<Step>)> = vec![
        (
            "a timestamp is asked for and answered, by a rule that names it (RFC 792)",
            &[TIMESTAMP],
            vec![
                asks(TIMESTAMP),
                replies(TIMESTAMP_REPLY),
                asks(TIMESTAMP),
                replies(TIMESTAMP_REPLY),
                reported(),
            ],
        ),
        (
            "a rule about echo lets no timestamp pass, nor does the flow of a ping with its identifier",
            &[ECHO],
            vec![
                refused([TIMESTAMP, 0], RuleDefault),
                asks(ECHO),
                refused([TIMESTAMP, 0], RuleDefault),
                received(TIMESTAMP_REPLY, Expect::Drop(NoFlow)),
                replies(ECHO_REPLY),
            ],
        ),
        (
            "a rule about timestamps lets no echo pass, nor does their flow",
            &[TIMESTAMP],
            vec![
                asks(TIMESTAMP),
                refused([ECHO, 0], RuleDefault),
                received(ECHO_REPLY, Expect::Drop(NoFlow)),
                replies(TIMESTAMP_REPLY),
            ],
        ),
        (
            "both with one identifier are two flows of one mapping",
            &[ECHO, TIMESTAMP],
            vec![
                asks(TIMESTAMP),
                asks(ECHO),
                replies(ECHO_REPLY),
                replies(TIMESTAMP_REPLY),
            ],
        ),
        (
            "other queries are dropped, whatever rules say (RFC 6918)",
            &[ECHO, TIMESTAMP, INFORMATION, ADDRESS_MASK],
            vec![
                refused([INFORMATION, 0], IcmpType),
                refused([ADDRESS_MASK, 0], IcmpType),
                refused([TIMESTAMP, 1], IcmpType),
                refused([TIMESTAMP_REPLY, 0], IcmpType),
                received(TIMESTAMP, Expect::Drop(IcmpType)),
            ],
        ),
    ];
    cases.into_iter().map(vector).collect()
}
