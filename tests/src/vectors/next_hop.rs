//! Vectors of a link to the center that carries less than what a site sends (RFC 4787 REQ-13, RFC 1191).

use gateway_common::abi::sa::{LinkHeader, fragment};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::NextHopTooBig;
use gateway_common::tables::host::HostTables;
use zerocopy::IntoBytes as _;

use super::clear::leaves;
use super::world::{self, NAME_SERVER, NAT, SA_INDEX, SITE, TERMINAL};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, End, checksum, fix_ipv4, fragments, ipv4};

/// What the link carries.
const MTU: u32 = 1000;
/// Data of the largest datagram that it carries.
const FITS: usize = MTU as usize - 28;
const NAT_END: End = (NAT, 2000);

fn world(now_s: u32) -> HostTables {
    let mut tables = world::world(now_s);
    for (_, _, hop) in &mut tables.next_hops {
        hop.mtu = MTU;
    }
    tables
}

fn query() -> Clear {
    Clear::udp((TERMINAL, 2000), (NAME_SERVER, 53))
}

fn step(frame: Vec<u8>, expect: Expect) -> Step {
    Step {
        program: Program::Clear,
        frame,
        expect,
    }
}

/// The site is told what fits.
fn told(clear: &Clear) -> Step {
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend((MTU as u16).to_be_bytes());
    icmp.extend(&clear.packet()[..28]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let mut packet = ipv4(1, clear.destination.0, clear.source.0, &icmp);
    packet[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
    fix_ipv4(&mut packet);
    let frame = [LinkHeader::new(SITE, SA_INDEX).as_bytes(), &packet].concat();
    step(clear.linked(SITE, 9), Expect::Answer(NextHopTooBig, frame))
}

/// A worker is to cut it.
fn cut(clear: &Clear) -> Step {
    let link = LinkHeader::of_fragment(fragment::SITE_TOO_BIG, SITE, MTU.to_be_bytes());
    let frame = [link.as_bytes(), &clear.packet()].concat();
    step(clear.linked(SITE, 9), Expect::Worker(Path::ClearTooBig, frame))
}

/// Fragments of a site's packet as a worker sends them.
fn in_pieces(clear: &Clear, cuts: &[usize]) -> Vec<Vec<u8>> {
    let packet = clear.packet();
    let length = (packet.len() as u32 - 20).to_be_bytes();
    let mut frames = vec![];
    for (number, piece) in fragments(&packet, cuts).iter().enumerate() {
        let link = match number {
            0 => LinkHeader::of_fragment(fragment::SITE_FIRST, SITE, length),
            _ => LinkHeader::of_fragment(fragment::SITE_LATER, SITE, [7, 208, 0, 53]),
        };
        frames.push([link.as_bytes(), piece].concat());
    }
    frames
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let vector = |(words, steps): (&str, Vec<Step>)| Vector {
        description: words.to_owned(),
        world: world(now_s),
        steps,
    };
    let big = query().fragmentable().data(FITS + 1);
    let [first, later, last] = in_pieces(&big.clone().data(2500), &[1200, 2400])
        .try_into()
        .expect("three pieces");
    let cases = vec![
        (
            "a packet that fills the link to the center leaves",
            vec![leaves(query().data(FITS), SITE, NAT_END)],
        ),
        (
            "a site is told what the link to the center carries (RFC 1191)",
            vec![
                told(&query().data(FITS + 1)),
                leaves(query().data(FITS), SITE, NAT_END),
                told(&query().data(FITS + 300)),
            ],
        ),
        (
            "what may be fragmented is cut to what the link to the center carries (RFC 4787 REQ-13)",
            vec![leaves(query(), SITE, NAT_END), cut(&big), cut(&big)],
        ),
        (
            "fragments that the link to the center does not carry are dropped",
            vec![
                leaves(query(), SITE, NAT_END),
                step(first, Expect::Drop(NextHopTooBig)),
                step(later, Expect::Drop(NextHopTooBig)),
                step(last.clone(), {
                    let out = big.data(2500).from(NAT_END).forwarded().packet();
                    let piece = fragments(&out, &[1200, 2400]).pop().expect("a last piece");
                    Expect::Egress(crate::frames::ethernet(
                        world::MAC_HOP,
                        world::MAC,
                        0x0800,
                        &piece,
                    ))
                }),
            ],
        ),
    ];
    cases.into_iter().map(vector).collect()
}
