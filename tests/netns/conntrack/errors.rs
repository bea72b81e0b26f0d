//! ICMP errors about flows, from either side (RFC 792, RFC 5508 section 4).

use gateway_common::packet::tcp::flag::{ACK, SYN};
use gateway_tests::frames::{Clear, checksum, fix_ipv4, ipv4};
use gateway_tests::vectors::world::{NAME_SERVER, NAT, SERVER, TERMINAL};

use super::{Ends, Scripts, Step, after, i, o};

/// A router on the center's side, and one behind the site's.
const CENTER_ROUTER: [u8; 4] = [203, 0, 113, 254];
const SITE_ROUTER: [u8; 4] = [192, 168, 1, 254];
/// Octets behind the quoted IP header: the least, and a whole TCP header.
const LEAST: usize = 8;
const HEADER: usize = 20;

const HOST_UNREACHABLE: [u8; 2] = [3, 1];
const PORT_UNREACHABLE: [u8; 2] = [3, 3];
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
const SOURCE_QUENCH: [u8; 2] = [4, 0];
const REDIRECT: [u8; 2] = [5, 1];
const TIME_EXCEEDED: [u8; 2] = [11, 0];
const PARAMETER_PROBLEM: [u8; 2] = [12, 0];
/// Where the quoted packet begins in the error.
const QUOTE: usize = 28;

/// An error that quotes so many octets behind the IP header of a packet, to who sent it.
fn error(from: [u8; 4], kind: [u8; 2], about: &Clear, octets: usize) -> Vec<u8> {
    let packet = about.packet();
    let rest = if kind == FRAGMENTATION_NEEDED {
        [0, 0, 5, 0]
    } else {
        [0; 4]
    };
    let quote = packet.get(..20 + octets).unwrap_or(&packet);
    let message = [&kind[..], &[0; 2], &rest, quote].concat();
    mended(ipv4(1, from, about.source.0, &message))
}

/// With the checksum of the ICMP message.
fn mended(mut packet: Vec<u8>) -> Vec<u8> {
    packet[22..24].fill(0);
    let sum = checksum(&packet[20..]);
    packet[22..24].copy_from_slice(&sum);
    packet
}

fn query(e: Ends) -> Clear {
    Clear::udp(e.site(), (NAME_SERVER, 53))
}

fn answer(e: Ends) -> Clear {
    Clear::udp((NAME_SERVER, 53), e.nat())
}

/// The query as it is in the center.
fn asked(e: Ends) -> Clear {
    query(e).from(e.nat()).forwarded()
}

/// The answer as it is at the site.
fn answered(e: Ends) -> Clear {
    answer(e).to(e.site()).forwarded()
}

pub(super) fn scripts() -> Scripts {
    [of_the_center(), of_the_site(), wrong_quotes(), other_kinds()].concat()
}

fn of_the_center() -> Scripts {
    vec![
        (
            "the center's errors about a query, and the answer after them",
            |e| {
                let of = |kind, octets| i(error(CENTER_ROUTER, kind, &asked(e), octets));
                vec![
                    o(query(e)),
                    i(error(NAME_SERVER, PORT_UNREACHABLE, &asked(e), LEAST)),
                    of(HOST_UNREACHABLE, LEAST),
                    of([3, 0], LEAST),
                    of([3, 13], LEAST),
                    of(FRAGMENTATION_NEEDED, LEAST),
                    of(TIME_EXCEEDED, LEAST),
                    of([11, 1], LEAST),
                    of(PARAMETER_PROBLEM, LEAST),
                    of(HOST_UNREACHABLE, 500),
                    o(query(e)),
                    i(answer(e)),
                ]
            },
        ),
        ("the center's errors about a datagram without checksum", |e| {
            vec![
                o(query(e).without_checksum()),
                i(error(
                    CENTER_ROUTER,
                    TIME_EXCEEDED,
                    &asked(e).without_checksum(),
                    500,
                )),
            ]
        }),
        ("the center's errors about a SYN end nothing", |e| {
            let sent = e.out(SYN).from(e.nat()).forwarded();
            vec![
                o(e.out(SYN)),
                i(error(CENTER_ROUTER, HOST_UNREACHABLE, &sent, LEAST)),
                i(error(CENTER_ROUTER, HOST_UNREACHABLE, &sent, HEADER)),
                o(e.out(SYN)),
                i(e.back(SYN | ACK)),
                o(e.out(ACK).data(0)),
                i(e.back(ACK).data(100)),
            ]
        }),
        (
            "the center's errors about a connection's data, short and whole",
            |e| {
                let sent = e.out(ACK).data(700).from(e.nat()).forwarded();
                after(
                    e,
                    [
                        o(e.out(ACK).data(700)),
                        i(error(CENTER_ROUTER, FRAGMENTATION_NEEDED, &sent, LEAST)),
                        i(error(CENTER_ROUTER, FRAGMENTATION_NEEDED, &sent, HEADER)),
                        i(error(CENTER_ROUTER, FRAGMENTATION_NEEDED, &sent, 700)),
                        o(e.out(ACK).data(500)),
                        i(e.back(ACK).at(0, 500).data(100)),
                    ],
                )
            },
        ),
        ("the center's errors about a ping", |e| {
            let ping = Clear::ping(TERMINAL, e.port, SERVER);
            let sent = ping.clone().from(e.nat()).forwarded();
            vec![
                o(ping),
                i(error(CENTER_ROUTER, TIME_EXCEEDED, &sent, LEAST)),
                i(error(CENTER_ROUTER, HOST_UNREACHABLE, &sent, 500)),
                i(Clear::pong(SERVER, NAT, e.port)),
            ]
        }),
    ]
}

fn of_the_site() -> Scripts {
    vec![
        (
            "the site's errors about an answer, of the terminal and of a router",
            |e| {
                vec![
                    o(query(e)),
                    i(answer(e)),
                    o(error(TERMINAL, PORT_UNREACHABLE, &answered(e), LEAST)),
                    o(error(SITE_ROUTER, TIME_EXCEEDED, &answered(e), LEAST)),
                    o(error(SITE_ROUTER, FRAGMENTATION_NEEDED, &answered(e), 500)),
                    o(query(e)),
                    i(answer(e)),
                ]
            },
        ),
        ("the site's errors about a connection's data", |e| {
            let came = e.back(ACK).data(700).to(e.site()).forwarded();
            after(
                e,
                [
                    i(e.back(ACK).data(700)),
                    o(error(SITE_ROUTER, FRAGMENTATION_NEEDED, &came, LEAST)),
                    o(error(SITE_ROUTER, FRAGMENTATION_NEEDED, &came, 700)),
                    i(e.back(ACK).data(500)),
                    o(e.out(ACK).at(0, 500).data(100)),
                ],
            )
        }),
        ("the site's errors about an echo reply", |e| {
            let pong = Clear::pong(SERVER, NAT, e.port);
            let came = pong.clone().to(e.site()).forwarded();
            vec![
                o(Clear::ping(TERMINAL, e.port, SERVER)),
                i(pong),
                o(error(TERMINAL, PORT_UNREACHABLE, &came, LEAST)),
                o(error(SITE_ROUTER, TIME_EXCEEDED, &came, 500)),
            ]
        }),
    ]
}

/// Errors that come behind a query, whose flow they do not quote.
fn behind_a_query(e: Ends, errors: impl IntoIterator<Item = Step>) -> Vec<Step> {
    [o(query(e)), i(answer(e))].into_iter().chain(errors).collect()
}

fn wrong_quotes() -> Scripts {
    vec![
        ("errors about no flow", |e| {
            vec![
                i(error(CENTER_ROUTER, HOST_UNREACHABLE, &asked(e), LEAST)),
                o(error(SITE_ROUTER, HOST_UNREACHABLE, &answered(e), LEAST)),
                o(query(e)),
            ]
        }),
        (
            "errors about another port, another host and another protocol",
            |e| {
                let of = |about: &Clear| i(error(CENTER_ROUTER, HOST_UNREACHABLE, about, LEAST));
                let from_site = |about: &Clear| o(error(SITE_ROUTER, HOST_UNREACHABLE, about, LEAST));
                behind_a_query(
                    e,
                    [
                        of(&asked(e).from((NAT, e.port + 1))),
                        of(&asked(e).to((NAME_SERVER, 54))),
                        of(&asked(e).to((SERVER, 53))),
                        of(&Clear::tcp(e.nat(), (NAME_SERVER, 53), ACK)),
                        from_site(&answered(e).to((TERMINAL, e.port + 1))),
                        from_site(&answered(e).from((NAME_SERVER, 54))),
                        from_site(&Clear::tcp((NAME_SERVER, 53), e.site(), ACK)),
                    ],
                )
            },
        ),
        (
            "an error goes to another than who sent what it quotes, or back to front",
            |e| {
                let mut elsewhere = error(SITE_ROUTER, HOST_UNREACHABLE, &answered(e), LEAST);
                elsewhere[16..20].copy_from_slice(&SERVER);
                fix_ipv4(&mut elsewhere);
                let back_to_front = |from, about: &Clear, to: [u8; 4]| {
                    let mut packet = error(from, HOST_UNREACHABLE, about, LEAST);
                    packet[16..20].copy_from_slice(&to);
                    fix_ipv4(&mut packet);
                    packet
                };
                behind_a_query(
                    e,
                    [
                        o(elsewhere),
                        // The center about what the center sent, the site about what the site sent.
                        i(back_to_front(CENTER_ROUTER, &answer(e), NAT)),
                        o(back_to_front(SITE_ROUTER, &query(e), NAME_SERVER)),
                    ],
                )
            },
        ),
        ("an error whose checksum is wrong", |e| {
            let damaged = |mut packet: Vec<u8>| {
                packet[22] ^= 0x55;
                packet
            };
            behind_a_query(
                e,
                [
                    i(damaged(error(CENTER_ROUTER, HOST_UNREACHABLE, &asked(e), LEAST))),
                    o(damaged(error(SITE_ROUTER, HOST_UNREACHABLE, &answered(e), LEAST))),
                ],
            )
        }),
        ("an error that quotes a header with a wrong checksum", |e| {
            let mut damaged = error(CENTER_ROUTER, HOST_UNREACHABLE, &asked(e), LEAST);
            damaged[QUOTE + 10] ^= 0x55;
            behind_a_query(e, [i(mended(damaged))])
        }),
        ("an error that quotes too little", |e| {
            behind_a_query(
                e,
                [
                    i(error(CENTER_ROUTER, HOST_UNREACHABLE, &asked(e), 7)),
                    i(error(CENTER_ROUTER, HOST_UNREACHABLE, &asked(e), 3)),
                    i(error(CENTER_ROUTER, HOST_UNREACHABLE, &asked(e), 0)),
                ],
            )
        }),
        ("an error that quotes a later fragment", |e| {
            let mut later = error(CENTER_ROUTER, HOST_UNREACHABLE, &asked(e), LEAST);
            later[QUOTE + 6..QUOTE + 8].copy_from_slice(&[0, 10]);
            fix_ipv4(&mut later[QUOTE..]);
            behind_a_query(e, [i(mended(later))])
        }),
        ("an error that quotes IP options", |e| {
            let mut packet = error(CENTER_ROUTER, HOST_UNREACHABLE, &asked(e), LEAST);
            // Four times "no operation" behind a header of 24 octets.
            packet.splice(QUOTE + 20..QUOTE + 20, [1; 4]);
            packet[QUOTE] = 0x46;
            packet[QUOTE + 10..QUOTE + 12].fill(0);
            let sum = checksum(&packet[QUOTE..QUOTE + 24]);
            packet[QUOTE + 10..QUOTE + 12].copy_from_slice(&sum);
            let length = packet.len() as u16;
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            fix_ipv4(&mut packet);
            behind_a_query(e, [i(mended(packet))])
        }),
    ]
}

fn other_kinds() -> Scripts {
    vec![
        ("redirects and source quench", |e| {
            behind_a_query(
                e,
                [
                    i(error(CENTER_ROUTER, REDIRECT, &asked(e), LEAST)),
                    o(error(SITE_ROUTER, REDIRECT, &answered(e), LEAST)),
                    i(error(CENTER_ROUTER, SOURCE_QUENCH, &asked(e), LEAST)),
                    o(error(SITE_ROUTER, SOURCE_QUENCH, &answered(e), LEAST)),
                ],
            )
        }),
        ("an error about an error", |e| {
            let mut about = asked(e);
            about.payload = gateway_tests::frames::Payload::Other {
                protocol: 1,
                data: error(SITE_ROUTER, HOST_UNREACHABLE, &answered(e), LEAST)[20..].to_vec(),
            };
            behind_a_query(e, [i(error(CENTER_ROUTER, HOST_UNREACHABLE, &about, LEAST))])
        }),
        ("an error without a hop left", |e| {
            let mut packet = error(CENTER_ROUTER, HOST_UNREACHABLE, &asked(e), LEAST);
            packet[8] = 1;
            fix_ipv4(&mut packet);
            behind_a_query(e, [i(packet)])
        }),
    ]
}
