//! Vectors of fragments: of sites and of the center, through `clear`, and from the center's side through `core`.

use gateway_common::abi::flow::state;
use gateway_common::abi::interface::role;
use gateway_common::abi::rule::direction;
use gateway_common::abi::sa::{LinkHeader, fragment};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::{self, *};
use gateway_common::packet::tcp::flag::{ACK, SYN};
use zerocopy::IntoBytes as _;

use super::clear::{PORT, segment, with_flow};
use super::world::{
    self, GATEWAY, MAC, MAC_HOP, NAME_SERVER, NAT, SA_INDEX, SERVER, SITE, SITE_OTHER, TERMINAL,
};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, End, ethernet, fragments};

const NAT_END: End = (NAT, 2000);
const CUTS: [usize; 2] = [1376, 2752];

/// Ports as they stand in the transport header; an identifier stands at the site's end.
fn ports(clear: &Clear) -> [u8; 4] {
    let ([s0, s1], [d0, d1]) = (clear.source.1.to_be_bytes(), clear.destination.1.to_be_bytes());
    [s0, s1, d0, d1]
}

/// Fragments as a worker sends them into the clear link.
fn linked(clear: &Clear, cuts: &[usize], site: u32, [first, later]: [[u8; 2]; 2]) -> Vec<Vec<u8>> {
    let packet = clear.packet();
    let length = (packet.len() as u32 - 20).to_be_bytes();
    let link = |number: usize| {
        if number == 0 {
            LinkHeader::of_fragment(first, site, length)
        } else {
            LinkHeader::of_fragment(later, site, ports(clear))
        }
    };
    let pieces = fragments(&packet, cuts).into_iter().enumerate();
    pieces
        .map(|(number, piece)| [link(number).as_bytes(), &piece].concat())
        .collect()
}

const OF_SITE: [[u8; 2]; 2] = [fragment::SITE_FIRST, fragment::SITE_LATER];
const OF_CENTER: [[u8; 2]; 2] = [fragment::CENTER_FIRST, fragment::CENTER_LATER];

fn steps(frames: Vec<Vec<u8>>, expected: impl IntoIterator<Item = Expect>) -> Vec<Step> {
    let step = |(frame, expect)| Step {
        program: Program::Clear,
        frame,
        expect,
    };
    frames.into_iter().zip(expected).map(step).collect()
}

/// The fragments of a site's packet leave, translated like the whole packet.
fn leave(clear: &Clear, cuts: &[usize], nat: End) -> Vec<Step> {
    let out = clear.clone().from(nat).forwarded().packet();
    let out = fragments(&out, cuts).into_iter();
    let expected = out.map(|piece| Expect::Egress(ethernet(MAC_HOP, MAC, 0x0800, &piece)));
    steps(linked(clear, cuts, SITE, OF_SITE), expected)
}

/// The fragments of a packet of the center reach the site.
fn enter(clear: &Clear, cuts: &[usize], to: End) -> Vec<Step> {
    let entered = clear.clone().to(to).forwarded().packet();
    let link = LinkHeader::new(SITE, SA_INDEX);
    let entered = fragments(&entered, cuts).into_iter();
    let expected =
        entered.map(|piece| Expect::Worker(Path::CoreForwarded, [link.as_bytes(), &piece].concat()));
    steps(linked(clear, cuts, 0, OF_CENTER), expected)
}

fn all_dropped(frames: Vec<Vec<u8>>, reasons: &[DropReason]) -> Vec<Step> {
    steps(frames, reasons.iter().map(|reason| Expect::Drop(*reason)))
}

fn query() -> Clear {
    Clear::udp((TERMINAL, 1024), (NAME_SERVER, 53))
        .fragmentable()
        .data(3000)
}

fn answer() -> Clear {
    Clear::udp((NAME_SERVER, 53), (NAT, 1024))
        .fragmentable()
        .data(4001)
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let usual = |(words, steps): (&str, Vec<Step>)| Vector {
        description: words.to_owned(),
        world: world::world(now_s),
        steps,
    };
    let mut vectors: Vec<Vector> = both_ways().into_iter().chain(refusals()).map(usual).collect();
    vectors.extend(translated(now_s));
    vectors.extend(from_core(now_s));
    vectors
}

fn both_ways() -> Vec<(&'static str, Vec<Step>)> {
    let end = (TERMINAL, 1024);
    let syn = segment(SYN).options(&[2, 4, 0x05, 0xb4]).fragmentable().data(16);
    let mut syn_steps = leave(&syn, &[24], (NAT, PORT));
    // A SYN is lowered where it is: in the first fragment.
    let lowered = segment(SYN).options(&[2, 4, 0x05, 0x50]).fragmentable().data(16);
    for (step, other) in syn_steps.iter_mut().zip(leave(&lowered, &[24], (NAT, PORT))) {
        step.expect = other.expect;
    }
    vec![
        (
            "UDP in three fragments opens a flow, and its answer in fragments comes back",
            [
                leave(&query(), &CUTS, (NAT, 1024)),
                enter(&answer(), &[1480, 2960], end),
                leave(&query().without_checksum(), &[8, 2000], (NAT, 1024)),
                enter(&answer().without_checksum(), &[1480], end),
            ]
            .concat(),
        ),
        ("the MSS of a fragmented SYN is lowered", syn_steps),
    ]
}

/// Flows whose translation shows in ports and checksums.
fn translated(now_s: u32) -> Vec<Vector> {
    let tcp = segment(ACK).fragmentable().data(3000);
    let back = Clear::tcp((SERVER, 443), NAT_END, ACK).fragmentable().data(3000);
    let udp = Clear::udp((TERMINAL, PORT), (NAME_SERVER, 53))
        .fragmentable()
        .data(2999);
    let udp_back = Clear::udp((NAME_SERVER, 53), NAT_END).fragmentable().data(2999);
    let vector = |words: &str, clear: &Clear, state, steps: Vec<Step>| Vector {
        description: words.to_owned(),
        world: with_flow(now_s, clear, NAT_END, state, 0, 1),
        steps,
    };
    vec![
        vector(
            "fragments of TCP segments are translated, and checked as whole segments",
            &tcp,
            state::TCP_ESTABLISHED,
            [leave(&tcp, &CUTS, NAT_END), enter(&back, &CUTS, (TERMINAL, PORT))].concat(),
        ),
        vector(
            "fragments of UDP are translated, the checksum in the first one",
            &udp,
            state::UDP_STREAM,
            [
                leave(&udp, &CUTS, NAT_END),
                enter(&udp_back, &CUTS, (TERMINAL, PORT)),
            ]
            .concat(),
        ),
        vector(
            "fragments of a ping are translated",
            &Clear::ping(TERMINAL, PORT, SERVER),
            state::ICMP_REPLIED,
            [
                leave(
                    &Clear::ping(TERMINAL, PORT, SERVER).fragmentable(),
                    &[8, 16],
                    NAT_END,
                ),
                enter(
                    &Clear::pong(SERVER, NAT, NAT_END.1).fragmentable(),
                    &[8],
                    (TERMINAL, PORT),
                ),
            ]
            .concat(),
        ),
    ]
}

fn refusals() -> Vec<(&'static str, Vec<Step>)> {
    let with = |clear: &Clear, site| linked(clear, &CUTS, site, OF_SITE);
    let ordinary = |clear: &Clear| {
        let link = LinkHeader::new(SITE, SA_INDEX);
        let pieces = fragments(&clear.packet(), &CUTS).into_iter();
        pieces.map(|piece| [link.as_bytes(), &piece].concat()).collect()
    };
    let mut swapped = with(&query(), SITE);
    swapped.reverse();
    let as_waiting = {
        let mut frames = with(&query(), SITE);
        for frame in &mut frames {
            frame[6..8].copy_from_slice(&fragment::CENTER_WAITS);
        }
        frames
    };
    let dying = linked(&query().ttl(1), &CUTS, SITE, OF_SITE);
    let mut of_other = leave(&query(), &CUTS, (NAT, 1024));
    of_other.extend(all_dropped(
        with(&query(), SITE_OTHER).split_off(1),
        &[InnerFragment; 2],
    ));
    let mut elsewhere = leave(&query(), &CUTS, (NAT, 1024));
    let other_port = answer().from((NAME_SERVER, 54));
    elsewhere.extend(all_dropped(
        linked(&other_port, &CUTS, 0, OF_CENTER),
        &[NoFlow, InnerFragment, InnerFragment],
    ));
    vec![
        (
            "fragments of a packet that no rule allows are dropped",
            all_dropped(
                with(&query().to((NAME_SERVER, 54)), SITE),
                &[RuleDefault, InnerFragment, InnerFragment],
            ),
        ),
        (
            "a later fragment does not come before the first one",
            all_dropped(swapped, &[InnerFragment; 2]),
        ),
        (
            "fragments that did not wait for each other are dropped",
            all_dropped(ordinary(&query()), &[InnerFragment; 3]),
        ),
        (
            "fragments on their way to a worker go no other way",
            all_dropped(as_waiting, &[InnerFragment; 3]),
        ),
        (
            "fragments with TTL 1 are dropped",
            all_dropped(dying, &[InnerTtl; 3]),
        ),
        ("a later fragment of another site follows no flow", of_other),
        ("fragments of the center without a flow are dropped", elsewhere),
    ]
}

/// From the center's side a fragment goes to a worker first, to wait for the others.
fn from_core(now_s: u32) -> Vec<Vector> {
    let link = LinkHeader::of_fragment(fragment::CENTER_WAITS, 0, [0; 4]);
    let pieces = fragments(&answer().packet(), &[1480, 2960]);
    let waits = |piece: &Vec<u8>| Step {
        program: Program::Core,
        frame: ethernet(MAC, MAC_HOP, 0x0800, piece),
        expect: Expect::Worker(Path::CoreFragment, [link.as_bytes(), piece].concat()),
    };
    let internet = || {
        let mut tables = world::world(now_s);
        if let Some(interface) = &mut tables.interface {
            interface.role = role::INTERNET;
        }
        tables.directions = vec![(32, NAT, direction::SITE_TO_SITE)];
        tables
    };
    let of_internet = LinkHeader::of_fragment(fragment::CENTER_WAITS, 0, fragment::OF_INTERNET);
    let waits_apart = |piece: &Vec<u8>| Step {
        expect: Expect::Worker(Path::CoreFragment, [of_internet.as_bytes(), piece].concat()),
        ..waits(piece)
    };
    let unmapped = |piece: &Vec<u8>| Step {
        expect: Expect::Drop(NoMapping),
        ..waits(piece)
    };
    let to_nobody = fragments(&answer().to((SERVER, 53)).packet(), &[1480]);
    let to_gateway = fragments(&answer().to((GATEWAY, 53)).packet(), &[1480]);
    let refused = |piece: &Vec<u8>| Step {
        program: Program::Core,
        frame: ethernet(MAC, MAC_HOP, 0x0800, piece),
        expect: Expect::Drop(InnerFragment),
    };
    let vector = |words: &str, steps: Vec<Step>| Vector {
        description: words.to_owned(),
        world: world::world(now_s),
        steps,
    };
    vec![
        vector(
            "fragments of the center's side wait at a worker",
            pieces.iter().map(waits).collect(),
        ),
        vector(
            "fragments to the gateway itself are dropped",
            to_gateway.iter().map(refused).collect(),
        ),
        Vector {
            world: internet(),
            ..vector(
                "fragments of the Internet to what a site is translated to wait apart from the center's",
                pieces.iter().map(waits_apart).collect(),
            )
        },
        Vector {
            world: internet(),
            ..vector(
                "fragments of the Internet to what no site is translated to are dropped",
                to_nobody.iter().map(unmapped).collect(),
            )
        },
    ]
}
