//! Vectors of what a site is told about its packets that go no further.

use gateway_common::abi::sa::LinkHeader;
use gateway_common::drop::DropReason::{self, *};
use gateway_common::packet::tcp::flag::{ACK, RST, SYN};
use zerocopy::IntoBytes as _;

use super::clear::{PORT, dropped, leaves};
use super::world::{self, NAME_SERVER, NAT, REJECTED, SA_INDEX, SITE, SITE_OTHER, TERMINAL};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, ISN, checksum, fix_ipv4, ipv4};

/// A packet of the terminal that is refused and answered by `packet`.
fn answered(clear: &Clear, packet: &[u8]) -> Step {
    answered_for(RuleRejected, clear, packet)
}

fn answered_for(reason: DropReason, clear: &Clear, packet: &[u8]) -> Step {
    let frame = [LinkHeader::new(SITE, SA_INDEX).as_bytes(), packet].concat();
    Step {
        program: Program::Clear,
        frame: clear.linked(SITE, 9),
        expect: Expect::Answer(reason, frame),
    }
}

/// A packet of the terminal for whose flow there is no room, which it is told by ICMP code 13 (RFC 5508 REQ-8).
pub(super) fn no_room(clear: &Clear, reason: DropReason) -> Step {
    answered_for(reason, clear, &prohibited(clear))
}

/// The reset of a SYN: sequence number zero, all that was sent acknowledged (RFC 9293 section 3.10.7.1).
pub(super) fn reset(clear: &Clear, octets: u32) -> Vec<u8> {
    let mut tcp = [clear.destination.1.to_be_bytes(), clear.source.1.to_be_bytes()].concat();
    tcp.extend([0; 4]);
    tcp.extend(ISN.wrapping_add(1 + octets).to_be_bytes());
    tcp.extend([0x50, RST | ACK, 0, 0, 0, 0, 0, 0]);
    let pseudo = [&clear.destination.0[..], &clear.source.0, &[0, 6, 0, 20], &tcp].concat();
    tcp[16..18].copy_from_slice(&checksum(&pseudo));
    of_gateway(ipv4(6, clear.destination.0, clear.source.0, &tcp))
}

/// ICMP "communication administratively prohibited" about a packet (RFC 1812 section 5.2.7.1), with its header and the
/// eight bytes behind it (RFC 792).
pub(super) fn prohibited(clear: &Clear) -> Vec<u8> {
    let mut icmp = vec![3, 13, 0, 0, 0, 0, 0, 0];
    icmp.extend(&clear.packet()[..28]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    of_gateway(ipv4(1, clear.destination.0, clear.source.0, &icmp))
}

/// The packet as the gateway makes its own: no identification, not to be fragmented (RFC 6864 section 4.1).
fn of_gateway(mut packet: Vec<u8>) -> Vec<u8> {
    packet[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
    fix_ipv4(&mut packet);
    packet
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let (syn, query) = (
        Clear::tcp((TERMINAL, PORT), (REJECTED, 443), SYN),
        Clear::udp((TERMINAL, PORT), (REJECTED, 53)),
    );
    let ping = Clear::ping(TERMINAL, 7, REJECTED);
    let with_data = syn.clone().data(9);
    let with_options = syn.clone().options(&[2, 4, 5, 0xb4, 1, 3, 3, 7]);
    let vector = |words: &str, steps| Vector {
        description: words.to_owned(),
        world: world::world(now_s),
        steps,
    };
    let mut vectors = vec![
        vector("a rejected SYN is reset", vec![answered(&syn, &reset(&syn, 0))]),
        vector(
            "the reset of a SYN with data acknowledges it",
            vec![answered(&with_data, &reset(&with_data, 9))],
        ),
        vector(
            "the reset of a SYN with options has none",
            vec![answered(&with_options, &reset(&with_options, 0))],
        ),
        vector(
            "rejected UDP is told by ICMP code 13",
            vec![answered(&query, &prohibited(&query))],
        ),
        vector(
            "a long rejected datagram is quoted in part",
            vec![answered(
                &query.clone().data(1200),
                &prohibited(&query.clone().data(1200)),
            )],
        ),
        vector(
            "a rejected ping is told by ICMP code 13",
            vec![answered(&ping, &prohibited(&ping))],
        ),
        vector(
            "what belongs to no connection is not answered",
            vec![
                dropped(&Clear::tcp((TERMINAL, PORT), (REJECTED, 443), ACK), TcpState),
                dropped(&Clear::tcp((TERMINAL, PORT), (REJECTED, 443), RST), TcpState),
            ],
        ),
        vector(
            "a site without an outbound SA is not answered",
            vec![Step {
                program: Program::Clear,
                frame: syn.linked(SITE_OTHER, 9),
                expect: Expect::Drop(RuleRejected),
            }],
        ),
    ];
    vectors.extend(limited(now_s, &syn, &query));
    vectors
}

fn limited(now_s: u32, syn: &Clear, query: &Clear) -> Vec<Vector> {
    let mut limited = Vector {
        description: "answers are limited, drops and flows are not".to_owned(),
        world: world::world(now_s),
        steps: vec![
            answered(syn, &reset(syn, 0)),
            answered(query, &prohibited(query)),
            dropped(query, RuleRejected),
            dropped(syn, RuleRejected),
            leaves(Clear::udp((TERMINAL, 1024), (NAME_SERVER, 53)), SITE, (NAT, 1024)),
        ],
    };
    if let Some(settings) = &mut limited.world.settings {
        settings.site_answers_per_s = 2;
    }
    let mut no_worker = Vector {
        description: "without a worker nobody is told".to_owned(),
        world: world::world(now_s),
        steps: vec![dropped(syn, RuleRejected)],
    };
    if let Some(interface) = &mut no_worker.world.interface {
        interface.queues = 0;
    }
    vec![limited, no_worker]
}
