//! TCP connections: handshakes, windows, how they end (RFC 9293, RFC 5961).

use gateway_common::packet::tcp::flag::{ACK, FIN, PSH, RST, SYN, URG};

use super::{FIRST, Scripts, after, i, o};

pub(super) fn handshakes() -> Scripts {
    vec![
        ("a connection opens, transfers and closes", |e| {
            after(
                e,
                [
                    o(e.out(ACK | PSH).data(100)),
                    i(e.back(ACK).at(0, 100).data(1000)),
                    o(e.out(ACK).at(100, 1000).data(0)),
                    o(e.out(FIN | ACK).at(100, 1000).data(0)),
                    i(e.back(ACK).at(1000, 101).data(0)),
                    i(e.back(FIN | ACK).at(1000, 101).data(0)),
                    o(e.out(ACK).at(101, 1001).data(0)),
                ],
            )
        }),
        ("a SYN is sent again", |e| {
            vec![
                o(e.out(SYN)),
                o(e.out(SYN)),
                i(e.back(SYN | ACK)),
                o(e.out(SYN)),
                i(e.back(SYN | ACK)),
                o(e.out(ACK).data(0)),
                i(e.back(SYN | ACK)),
                o(e.out(ACK).data(0)),
            ]
        }),
        ("a SYN+ACK acknowledges less than the SYN", |e| {
            vec![
                o(e.out(SYN)),
                i(e.back(SYN | ACK).at(50_000, u32::MAX)),
                o(e.out(RST).at(u32::MAX, 0)),
                i(e.back(SYN | ACK)),
                o(e.out(ACK)),
            ]
        }),
        ("a SYN+ACK acknowledges more than the SYN", |e| {
            vec![o(e.out(SYN)), i(e.back(SYN | ACK).at(0, 1))]
        }),
        ("data before the handshake", |e| {
            vec![o(e.out(SYN)), o(e.out(ACK)), o(e.out(FIN | ACK))]
        }),
        ("a server that remembers challenges the SYN", |e| {
            vec![
                o(e.out(SYN)),
                i(e.back(ACK).at(5000, 7000).data(0)),
                o(e.out(RST).at(7000, 0)),
                o(e.out(SYN)),
                i(e.back(SYN | ACK)),
                o(e.out(ACK).data(0)),
            ]
        }),
        ("a server finishes what has not begun", |e| {
            vec![o(e.out(SYN)), i(e.back(FIN | ACK).data(0))]
        }),
        ("a server sends data before its SYN", |e| {
            vec![o(e.out(SYN)), i(e.back(ACK).data(10))]
        }),
        ("a refused connection is tried again", |e| {
            vec![
                o(e.out(SYN)),
                i(e.back(RST | ACK).at(FIRST.wrapping_neg(), 0)),
                o(e.out(SYN)),
                i(e.back(SYN | ACK)),
                o(e.out(ACK).data(0)),
            ]
        }),
        ("a refusal that acknowledges no SYN", |e| {
            vec![
                o(e.out(SYN)),
                i(e.back(RST | ACK).at(0, 7)),
                i(e.back(RST)),
                i(e.back(SYN | ACK)),
            ]
        }),
        ("a connection begins in the middle", |e| {
            vec![
                o(e.out(ACK)),
                o(e.out(SYN | ACK)),
                o(e.out(FIN | ACK)),
                o(e.out(RST)),
                i(e.back(ACK)),
                i(e.back(SYN)),
                i(e.back(SYN | ACK)),
                i(e.back(RST)),
            ]
        }),
        ("both open at once", |e| {
            vec![
                o(e.out(SYN)),
                i(e.back(SYN)),
                o(e.out(SYN | ACK)),
                i(e.back(SYN | ACK)),
                o(e.out(ACK).data(0)),
                i(e.back(ACK).data(10)),
                o(e.out(ACK).at(0, 10)),
            ]
        }),
        ("both open, and the site's SYN was lost behind the filter", |e| {
            vec![
                o(e.out(SYN)),
                i(e.back(SYN)),
                o(e.out(SYN | ACK)),
                i(e.back(ACK).data(0)),
                o(e.out(ACK).data(10)),
                i(e.back(ACK).at(0, 10).data(10)),
            ]
        }),
        ("a SYN carries data (TCP Fast Open)", |e| {
            vec![
                o(e.out(SYN).data(100)),
                i(e.back(SYN | ACK).at(0, 100)),
                o(e.out(ACK).at(100, 0).data(10)),
            ]
        }),
        ("a SYN with data is sent again without", |e| {
            vec![
                o(e.out(SYN).data(100)),
                o(e.out(SYN)),
                i(e.back(SYN | ACK).at(0, 100)),
                o(e.out(ACK).at(100, 0).data(10)),
            ]
        }),
        ("a server refuses the SYN that is sent again", |e| {
            const FAR: u32 = 1 << 30;
            vec![
                o(e.out(SYN)),
                i(e.back(SYN | ACK).at(FAR, 0)),
                o(e.out(SYN)),
                i(e.back(RST | ACK).at(FIRST.wrapping_neg(), 0)),
                o(e.out(SYN)),
            ]
        }),
        ("the client answers as a server", |e| {
            vec![o(e.out(SYN)), i(e.back(SYN | ACK)), o(e.out(SYN | ACK))]
        }),
        ("another SYN with other numbers before the answer", |e| {
            vec![
                o(e.out(SYN)),
                o(e.out(SYN).at(100_000, 0)),
                i(e.back(SYN | ACK).at(0, 100_000)),
                o(e.out(ACK).at(100_000, 0)),
            ]
        }),
    ]
}

pub(super) fn windows() -> Scripts {
    vec![
        ("data up to the window and beyond", |e| {
            let window = u32::from(gateway_tests::frames::WINDOW);
            after(
                e,
                [
                    i(e.back(ACK).at(window - 1000, 0).data(1000)),
                    i(e.back(ACK).at(window, 0).data(1)),
                    i(e.back(ACK).at(window + 1, 0).data(1)),
                    i(e.back(ACK).at(window + 1000, 0).data(1000)),
                    i(e.back(ACK).at(10 * window, 0).data(1000)),
                ],
            )
        }),
        ("old data is sent again", |e| {
            after(
                e,
                [
                    i(e.back(ACK).data(1000)),
                    o(e.out(ACK).at(0, 1000).data(0)),
                    i(e.back(ACK).data(1000)),
                    i(e.back(ACK).at(1000, 0).data(1000)),
                    i(e.back(ACK).at(100_000u32.wrapping_neg(), 0).data(1000)),
                ],
            )
        }),
        ("acknowledgments of what was not sent, and of long ago", |e| {
            after(
                e,
                [
                    o(e.out(ACK).at(0, 1).data(0)),
                    o(e.out(ACK).at(0, 60_000).data(0)),
                    o(e.out(ACK).at(0, 1000u32.wrapping_neg()).data(0)),
                    o(e.out(ACK).at(0, 70_000u32.wrapping_neg()).data(0)),
                    o(e.out(ACK).at(0, 0).data(0)),
                ],
            )
        }),
        ("a window of zero is probed and opened", |e| {
            after(
                e,
                [
                    i(e.back(ACK).data(1000)),
                    o(e.out(ACK).at(0, 1000).window(0).data(0)),
                    i(e.back(ACK).at(1000, 0).data(1)),
                    o(e.out(ACK).at(0, 1000).window(0).data(0)),
                    i(e.back(ACK).at(999, 0).data(0)),
                    o(e.out(ACK).at(0, 1000).window(5000).data(0)),
                    i(e.back(ACK).at(1000, 0).data(1000)),
                ],
            )
        }),
        ("keep-alives", |e| {
            after(
                e,
                [
                    i(e.back(ACK).at(u32::MAX, 0).data(0)),
                    o(e.out(ACK).data(0)),
                    o(e.out(ACK).at(u32::MAX, 0).data(1)),
                    i(e.back(ACK).data(0)),
                ],
            )
        }),
        ("windows are scaled", |e| {
            const SCALE_7: [u8; 4] = [3, 3, 7, 1];
            vec![
                o(e.out(SYN).options(&SCALE_7)),
                i(e.back(SYN | ACK).options(&SCALE_7)),
                o(e.out(ACK).window(1000).data(0)),
                i(e.back(ACK).at(127_000, 0).window(1000).data(900)),
                i(e.back(ACK).at(500_000, 0).window(1000).data(900)),
            ]
        }),
        ("windows are not scaled if one end does not offer it", |e| {
            const SCALE_7: [u8; 4] = [3, 3, 7, 1];
            vec![
                o(e.out(SYN).options(&SCALE_7)),
                i(e.back(SYN | ACK)),
                o(e.out(ACK).window(1000).data(0)),
                i(e.back(ACK).at(900, 0).window(1000).data(100)),
                i(e.back(ACK).at(127_000, 0).window(1000).data(900)),
            ]
        }),
        (
            "data in flight is lost and a later segment is acknowledged selectively",
            |e| {
                // SACK of 2001..3001 (RFC 2018).
                let sack = {
                    let left = FIRST.wrapping_add(1000).to_be_bytes();
                    let right = FIRST.wrapping_add(2000).to_be_bytes();
                    [&[1, 1, 5, 10][..], &left, &right].concat()
                };
                after(
                    e,
                    [
                        i(e.back(ACK).at(1000, 0).data(1000)),
                        o(e.out(ACK).options(&sack).data(0)),
                        i(e.back(ACK).data(1000)),
                        o(e.out(ACK).at(0, 2000).data(0)),
                    ],
                )
            },
        ),
    ]
}

pub(super) fn closings() -> Scripts {
    vec![
        ("the site closes one half, and the center goes on", |e| {
            after(
                e,
                [
                    o(e.out(FIN | ACK).data(0)),
                    i(e.back(ACK).at(0, 1).data(1000)),
                    o(e.out(ACK).at(1, 1000).data(0)),
                    i(e.back(FIN | ACK).at(1000, 1).data(0)),
                    o(e.out(ACK).at(1, 1001).data(0)),
                    i(e.back(FIN | ACK).at(1000, 1).data(0)),
                    o(e.out(ACK).at(1, 1001).data(0)),
                ],
            )
        }),
        ("the center closes first", |e| {
            after(
                e,
                [
                    i(e.back(FIN | ACK).data(0)),
                    o(e.out(ACK).at(0, 1).data(500)),
                    o(e.out(FIN | ACK).at(500, 1).data(0)),
                    i(e.back(ACK).at(1, 501).data(0)),
                ],
            )
        }),
        ("both close at once", |e| {
            after(
                e,
                [
                    o(e.out(FIN | ACK).data(0)),
                    i(e.back(FIN | ACK).data(0)),
                    o(e.out(ACK).at(1, 1).data(0)),
                    i(e.back(ACK).at(1, 1).data(0)),
                ],
            )
        }),
        ("ports are used again from TIME-WAIT", |e| {
            after(
                e,
                [
                    o(e.out(FIN | ACK).data(0)),
                    i(e.back(FIN | ACK).at(0, 1).data(0)),
                    o(e.out(ACK).at(1, 1).data(0)),
                    o(e.out(SYN).at(100_000, 0)),
                    i(e.back(SYN | ACK).at(300_000, 100_000)),
                    o(e.out(ACK).at(100_000, 300_000)),
                ],
            )
        }),
        ("the center opens on ports in TIME-WAIT", |e| {
            after(
                e,
                [
                    o(e.out(FIN | ACK).data(0)),
                    i(e.back(FIN | ACK).at(0, 1).data(0)),
                    o(e.out(ACK).at(1, 1).data(0)),
                    i(e.back(SYN).at(100_000, 0)),
                ],
            )
        }),
        ("an exact reset of the site, and what comes after it", |e| {
            after(
                e,
                [
                    o(e.out(RST)),
                    i(e.back(ACK)),
                    o(e.out(ACK)),
                    o(e.out(SYN).at(100_000, 0)),
                    i(e.back(SYN | ACK).at(300_000, 100_000)),
                    o(e.out(ACK).at(100_000, 300_000)),
                ],
            )
        }),
        ("an exact reset of the center", |e| {
            after(e, [i(e.back(RST | ACK)), o(e.out(SYN).at(100_000, 0))])
        }),
        ("a reset in the window that is not exact (RFC 5961)", |e| {
            after(
                e,
                [
                    i(e.back(RST).at(10_000, 0)),
                    o(e.out(ACK).data(0)),
                    i(e.back(ACK).data(100)),
                    o(e.out(ACK).at(0, 100).data(100)),
                ],
            )
        }),
        ("a reset outside of the window", |e| {
            after(
                e,
                [
                    i(e.back(RST).at(1 << 30, 0)),
                    i(e.back(RST).at((1u32 << 30).wrapping_neg(), 0)),
                    o(e.out(RST).at(1 << 30, 0)),
                    i(e.back(ACK).data(100)),
                ],
            )
        }),
        ("a reset older than what was acknowledged", |e| {
            after(
                e,
                [
                    i(e.back(ACK).data(1000)),
                    o(e.out(ACK).at(0, 1000).data(0)),
                    i(e.back(RST)),
                    i(e.back(ACK).at(1000, 0).data(100)),
                ],
            )
        }),
        ("a client that crashed begins anew", |e| {
            after(
                e,
                [
                    o(e.out(SYN).at(500_000, 0)),
                    i(e.back(ACK).data(0)),
                    o(e.out(RST)),
                    o(e.out(SYN).at(500_000, 0)),
                    i(e.back(SYN | ACK).at(900_000, 500_000)),
                    o(e.out(ACK).at(500_000, 900_000)),
                ],
            )
        }),
        ("the server calls back", |e| {
            after(e, [i(e.back(SYN)), i(e.back(SYN).at(5000, 0)), o(e.out(ACK))])
        }),
        ("flags that no stack sends", |e| {
            after(
                e,
                [
                    o(e.out(ACK).data(0)),
                    o(e.out(0).data(0)),
                    o(e.out(FIN).data(0)),
                    o(e.out(FIN | PSH | URG).data(0)),
                    o(e.out(SYN | FIN)),
                    o(e.out(SYN | RST)),
                    o(e.out(FIN | RST | ACK)),
                    o(e.out(PSH).data(0)),
                    o(e.out(ACK | URG | PSH).data(4)),
                    o(e.out(RST | PSH | ACK).at(5, 0)),
                ],
            )
        }),
        ("a SYN with an urgent pointer", |e| vec![o(e.out(SYN | URG))]),
    ]
}
