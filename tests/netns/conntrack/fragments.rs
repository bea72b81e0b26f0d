//! Packets in fragments, both ways: each step is one fragment (RFC 791 section 3.2).

use gateway_common::packet::tcp::flag::{ACK, SYN};
use gateway_tests::frames::{Clear, fix_ipv4, fragments};
use gateway_tests::vectors::world::{NAME_SERVER, NAT, SERVER, TERMINAL};

use super::{Ends, Scripts, Step, after, i, o};

/// All of a size, but the last: both sides cut what they put together at the same places again.
const CUTS: [usize; 2] = [1376, 2752];
const LENGTH: usize = 3000;
/// A ping's.
const SMALL: [usize; 2] = [8, 16];

fn query(e: Ends) -> Clear {
    Clear::udp(e.site(), (NAME_SERVER, 53))
        .fragmentable()
        .data(LENGTH)
}

fn answer(e: Ends) -> Clear {
    Clear::udp((NAME_SERVER, 53), e.nat()).fragmentable().data(LENGTH)
}

/// Fragments of the packet that is this number of the script's: no other has its identification.
fn cut(e: Ends, number: u16, clear: &Clear, cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut packet = clear.packet();
    packet[4..6].copy_from_slice(&(e.port + number).to_be_bytes());
    fragments(&packet, cuts)
}

fn in_order(pieces: &[Vec<u8>], order: &[usize], step: fn(Vec<u8>) -> Step) -> Vec<Step> {
    order.iter().map(|index| step(pieces[*index].clone())).collect()
}

/// The piece so many octets further back.
fn shifted(piece: &[u8], units: u16) -> Vec<u8> {
    let mut piece = piece.to_vec();
    let place = u16::from_be_bytes([piece[6], piece[7]]) - units;
    piece[6..8].copy_from_slice(&place.to_be_bytes());
    fix_ipv4(&mut piece);
    piece
}

/// The piece with other octets.
fn other(piece: &[u8]) -> Vec<u8> {
    let mut piece = piece.to_vec();
    piece[100] ^= 0x55;
    piece
}

pub(super) fn scripts() -> Scripts {
    [whole(), not_whole(), contradicting()].concat()
}

fn whole() -> Scripts {
    vec![
        ("a query and its answer in fragments", |e| {
            [
                in_order(&cut(e, 0, &query(e), &CUTS), &[0, 1, 2], o),
                in_order(&cut(e, 1, &answer(e), &CUTS), &[0, 1, 2], i),
            ]
            .concat()
        }),
        ("a query and its answer in fragments out of order", |e| {
            [
                in_order(&cut(e, 0, &query(e), &CUTS), &[2, 0, 1], o),
                in_order(&cut(e, 1, &answer(e), &CUTS), &[1, 2, 0], i),
            ]
            .concat()
        }),
        ("a connection's data in fragments, both ways", |e| {
            let up = e.out(ACK).fragmentable().data(LENGTH);
            let down = e.back(ACK).at(0, LENGTH as u32).fragmentable().data(LENGTH);
            after(
                e,
                [
                    in_order(&cut(e, 0, &up, &CUTS), &[1, 0, 2], o),
                    in_order(&cut(e, 1, &down, &CUTS), &[2, 1, 0], i),
                ]
                .concat(),
            )
        }),
        ("a ping and its reply in fragments", |e| {
            let ping = Clear::ping(TERMINAL, e.port, SERVER).fragmentable();
            let pong = Clear::pong(SERVER, NAT, e.port).fragmentable();
            [
                in_order(&cut(e, 0, &ping, &SMALL), &[0, 1, 2], o),
                in_order(&cut(e, 1, &pong, &SMALL), &[1, 0, 2], i),
            ]
            .concat()
        }),
        ("fragments of two queries come mixed", |e| {
            let (one, two) = (cut(e, 0, &query(e), &CUTS), cut(e, 1, &query(e), &CUTS));
            [
                in_order(&one, &[0], o),
                in_order(&two, &[0, 1], o),
                in_order(&one, &[1, 2], o),
                in_order(&two, &[2], o),
            ]
            .concat()
        }),
        ("a fragment is repeated", |e| {
            in_order(&cut(e, 0, &query(e), &CUTS), &[0, 0, 2, 2, 1], o)
        }),
    ]
}

fn not_whole() -> Scripts {
    vec![
        ("a query of which a fragment is lost, and a whole one", |e| {
            let whole = Clear::udp(e.site(), (NAME_SERVER, 53));
            [
                in_order(&cut(e, 0, &query(e), &CUTS), &[0, 2], o),
                vec![o(whole)],
                in_order(&cut(e, 1, &answer(e), &CUTS), &[1, 2], i),
            ]
            .concat()
        }),
        ("fragments of what no rule allows", |e| {
            let forbidden = query(e).to((NAME_SERVER, 54));
            in_order(&cut(e, 0, &forbidden, &CUTS), &[0, 1, 2], o)
        }),
        ("fragments of the center that nobody asked for", |e| {
            [
                in_order(&cut(e, 0, &answer(e), &CUTS), &[0, 1, 2], i),
                in_order(&cut(e, 1, &query(e), &CUTS), &[0, 1, 2], o),
                in_order(
                    &cut(e, 2, &answer(e).from((NAME_SERVER, 54)), &CUTS),
                    &[0, 1, 2],
                    i,
                ),
            ]
            .concat()
        }),
        ("a connection begins in the middle, in fragments", |e| {
            let data = e.out(ACK).fragmentable().data(LENGTH);
            in_order(&cut(e, 0, &data, &CUTS), &[0, 1, 2], o)
        }),
    ]
}

fn contradicting() -> Scripts {
    vec![
        ("fragments overlap, and the first one comes again", |e| {
            let pieces = cut(e, 0, &query(e), &CUTS);
            let overlapping = shifted(&pieces[1], 1);
            [
                vec![o(pieces[0].clone()), o(overlapping)],
                in_order(&pieces, &[1, 2, 0], o),
            ]
            .concat()
        }),
        ("a fragment says another thing of a place that is taken", |e| {
            let pieces = cut(e, 0, &query(e), &CUTS);
            [
                vec![o(pieces[0].clone()), o(other(&pieces[0]))],
                in_order(&pieces, &[1, 2], o),
            ]
            .concat()
        }),
        ("the center's fragments overlap", |e| {
            let pieces = cut(e, 1, &answer(e), &CUTS);
            let overlapping = shifted(&pieces[2], 1);
            [
                vec![o(Clear::udp(e.site(), (NAME_SERVER, 53)))],
                vec![i(pieces[0].clone()), i(pieces[1].clone()), i(overlapping)],
                in_order(&pieces, &[2], i),
            ]
            .concat()
        }),
        ("a fragment lies behind the end", |e| {
            let pieces = cut(e, 0, &query(e), &CUTS);
            let mut behind = pieces[1].clone();
            behind[6..8].copy_from_slice(&(0x2000u16 | 1000).to_be_bytes());
            fix_ipv4(&mut behind);
            [
                in_order(&pieces, &[0, 2], o),
                vec![o(behind)],
                in_order(&pieces, &[1], o),
            ]
            .concat()
        }),
        ("a packet longer than IP can say", |e| {
            let pieces = cut(e, 0, &query(e), &CUTS);
            let mut last = pieces[2].clone();
            last[6..8].copy_from_slice(&0x1fffu16.to_be_bytes());
            fix_ipv4(&mut last);
            vec![o(pieces[0].clone()), o(pieces[1].clone()), o(last)]
        }),
        ("a first fragment without the whole TCP header", |e| {
            let syn = e.out(SYN).fragmentable().data(24);
            in_order(&cut(e, 0, &syn, &[16, 32]), &[0, 1, 2], o)
        }),
    ]
}
