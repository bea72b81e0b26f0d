//! Vectors of the maximum segment size: SYN and SYN+ACK through `clear` and `core`.

use gateway_common::abi::stats::Path;
use gateway_common::packet::tcp::flag::{ACK, SYN};

use super::clear::{PORT, leaves, segment};
use super::world::{self, MAC, MAC_HOP, MTU, NAT, SA_INDEX, SERVER, SITE, TERMINAL};
use super::{Expect, Program, Step, Vector};
use crate::frames::Clear;

/// What the tunnel carries.
const FITS: u16 = MTU as u16 - 40;

/// Options: so many no-operations, an MSS, the rest padding.
fn options(before: &[u8], mss: u16, after: &[u8]) -> Vec<u8> {
    let mut options = before.to_vec();
    options.extend([2, 4]);
    options.extend(mss.to_be_bytes());
    options.extend(after);
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

/// A SYN of the terminal with these options, which leaves with those.
fn syn(options: &[u8], out: &[u8]) -> Step {
    let clear = segment(SYN).options(options);
    let mut step = leaves(segment(SYN).options(out), SITE, (NAT, PORT));
    step.frame = clear.linked(SITE, SA_INDEX);
    step
}

/// The server's SYN+ACK.
fn syn_ack(options: &[u8], out: &[u8]) -> Step {
    let answer = Clear::tcp((SERVER, 443), (NAT, PORT), SYN | ACK);
    let entered = answer.clone().options(out).to((TERMINAL, PORT)).forwarded();
    Step {
        program: Program::Core,
        frame: answer.options(options).ethernet(MAC, MAC_HOP),
        expect: Expect::Worker(Path::CoreForwarded, entered.linked(SITE, SA_INDEX)),
    }
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let vector = |words: &str, mss_max: u16, steps: Vec<Step>| {
        let mut world = world::world(now_s);
        if let Some(settings) = &mut world.settings {
            settings.mss_max = mss_max;
        }
        Vector {
            description: words.to_owned(),
            world,
            steps,
        }
    };
    let at = |before: &[u8], mss: u16| options(before, mss, &[1, 3, 3, 7, 4, 2, 1, 1]);
    let unlimited = u16::MAX;
    let both = |given: &[u8], out: &[u8]| vec![syn(given, out), syn_ack(given, out)];
    let same = |given: &[u8]| both(given, given);
    vec![
        vector(
            "the MSS of SYN and SYN+ACK is lowered to the tunnel's",
            unlimited,
            both(&at(&[], 1460), &at(&[], FITS)),
        ),
        vector(
            "an MSS at an odd offset is lowered, its checksum right",
            unlimited,
            both(&at(&[1], 1460), &at(&[1], FITS)),
        ),
        vector(
            "an MSS behind other options is lowered",
            unlimited,
            both(
                &at(&[4, 2, 3, 3, 9, 1, 1], 0xfffe),
                &at(&[4, 2, 3, 3, 9, 1, 1], FITS),
            ),
        ),
        vector(
            "an MSS behind 36 octets of padding is lowered",
            unlimited,
            both(&options(&[1; 36], 9000, &[]), &options(&[1; 36], FITS, &[])),
        ),
        vector("an MSS that fits is not raised", unlimited, same(&at(&[], 536))),
        vector("an MSS of what fits stays", unlimited, same(&at(&[], FITS))),
        vector("an MSS of zero stays", unlimited, same(&at(&[], 0))),
        vector(
            "an operator's limit is kept",
            1200,
            both(&at(&[], 1300), &at(&[], 1200)),
        ),
        vector(
            "an operator's limit above the tunnel's is not kept",
            1440,
            both(&at(&[], 1460), &at(&[], FITS)),
        ),
        vector("an MSS stays where clamping is off", 0, same(&at(&[], 1460))),
        vector("a SYN without options stays", unlimited, same(&[])),
        vector("a SYN without an MSS stays", unlimited, same(&[1, 1, 4, 2])),
        vector(
            "an MSS behind the end of options is none",
            unlimited,
            same(&[0, 2, 4, 0xff, 0xff, 0, 0, 0]),
        ),
        vector(
            "an MSS of a wrong length stays",
            unlimited,
            same(&[2, 3, 0xff, 0, 2, 4, 0xff, 0xff]),
        ),
        vector(
            "an MSS that is cut off stays",
            unlimited,
            same(&[1, 1, 1, 1, 1, 1, 2, 4]),
        ),
        vector(
            "an option of length zero ends the search",
            unlimited,
            same(&[9, 0, 2, 4, 0xff, 0xff, 0, 0]),
        ),
        vector(
            "an option that is longer than the header ends the search",
            unlimited,
            same(&[9, 99, 2, 4, 0xff, 0xff, 0, 0]),
        ),
        vector(
            "data that reads like an MSS stays",
            unlimited,
            vec![
                syn(&[], &[]),
                syn_ack(&[], &[]),
                leaves(segment(ACK).options(&at(&[], 1460)), SITE, (NAT, PORT)),
            ],
        ),
    ]
}
