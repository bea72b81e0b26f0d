//! Vectors of `core`, and of connections through `clear` and `core`.

use gateway_common::abi::flow::state;
use gateway_common::abi::sa::{SHARES, SaShares};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::{self, *};
use gateway_common::packet::tcp::flag::{ACK, FIN, PSH, RST, SYN};

use super::clear::{PORT, dropped, leaves, segment, with_flow, with_flow_and_mapping};
use super::world::{
    self, GATEWAY, GATEWAY_FURTHER, MAC, MAC_HOP, MTU, NAME_SERVER, NAT, SA_INDEX, SERVER, SITE, TERMINAL,
};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, End, ISN, checksum, ethernet, ipv4};

const NAT_END: End = (NAT, PORT);

fn frame(clear: &Clear) -> Vec<u8> {
    clear.ethernet(MAC, MAC_HOP)
}

/// A packet of the center that reaches the terminal.
fn enters(clear: Clear, to: End) -> Step {
    let out = clear.clone().to(to).forwarded().linked(SITE, SA_INDEX);
    Step {
        program: Program::Core,
        frame: frame(&clear),
        expect: Expect::Worker(Path::CoreForwarded, out),
    }
}

fn refused(clear: &Clear, reason: DropReason) -> Step {
    Step {
        program: Program::Core,
        frame: frame(clear),
        expect: Expect::Drop(reason),
    }
}

/// A TCP segment of the server to the terminal's translated end.
fn reply(flags: u8) -> Clear {
    Clear::tcp((SERVER, 443), NAT_END, flags)
}

fn out(flags: u8) -> Step {
    leaves(segment(flags), SITE, NAT_END)
}

fn back(flags: u8) -> Step {
    enters(reply(flags), (TERMINAL, PORT))
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let mut vectors: Vec<Vector> = malformed()
        .into_iter()
        .map(|(words, frame, expect)| Vector::single(words, now_s, Program::Core, frame, expect))
        .collect();
    let steps = [connections(), handshakes(), closing(), filtering()].concat();
    vectors.extend(steps.into_iter().map(|(words, steps)| Vector {
        description: words.to_owned(),
        world: world::world(now_s),
        steps,
    }));
    vectors.extend(worlds(now_s));
    vectors.extend(sizes(now_s));
    vectors
}

fn malformed() -> Vec<(&'static str, Vec<u8>, Expect)> {
    let good = reply(ACK).packet();
    let changed = |offset: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[offset..offset + bytes.len()].copy_from_slice(bytes);
        ethernet(MAC, MAC_HOP, 0x0800, &packet)
    };
    let to_gateway =
        |protocol, payload: &[u8]| ethernet(MAC, MAC_HOP, 0x0800, &ipv4(protocol, SERVER, GATEWAY, payload));
    let ping_of = |gateway| {
        let ping = [8, 0, 0, 0, 0, 1, 0, 1];
        ethernet(MAC, MAC_HOP, 0x0800, &ipv4(1, SERVER, gateway, &ping))
    };
    let passed = Expect::Pass(Path::CorePassed);
    let drop = Expect::Drop;
    vec![
        (
            "ARP passes",
            ethernet([255; 6], MAC_HOP, 0x0806, &[0; 46]),
            passed.clone(),
        ),
        (
            "IPv6 is dropped",
            ethernet(MAC, MAC_HOP, 0x86dd, &[0x60; 46]),
            drop(UnknownEtherType),
        ),
        (
            "a ping of the gateway passes",
            to_gateway(1, &[8, 0, 0, 0, 0, 1, 0, 1]),
            passed.clone(),
        ),
        (
            "a ping of a further address of the gateway passes",
            ping_of(GATEWAY_FURTHER),
            passed.clone(),
        ),
        (
            "a ping of no address is dropped, although it reads as the places of further ones that are free",
            ping_of([0; 4]),
            drop(InnerAddress),
        ),
        (
            "an answer to the gateway's ping passes",
            to_gateway(1, &[0, 0, 0, 0, 0, 1, 0, 1]),
            passed,
        ),
        (
            "TCP to the gateway is dropped",
            frame(&reply(SYN).to((GATEWAY, 22))),
            drop(CoreDestination),
        ),
        (
            "an empty frame is dropped",
            ethernet(MAC, MAC_HOP, 0x0800, &[]),
            drop(InnerMalformed),
        ),
        (
            "a packet cut short is dropped",
            ethernet(MAC, MAC_HOP, 0x0800, &good[..good.len() - 1]),
            drop(InnerMalformed),
        ),
        ("options are dropped", changed(0, &[0x47]), drop(InnerOptions)),
        (
            "a source of 127.0.0.1 is dropped",
            changed(12, &[127, 0, 0, 1]),
            drop(InnerAddress),
        ),
        ("UDP-Lite is dropped", changed(9, &[136]), drop(InnerProtocol)),
        (
            "SCTP without a flow is dropped",
            changed(9, &[132]),
            drop(NoMapping),
        ),
        (
            "a NAT address without a mapping is dropped",
            frame(&reply(ACK)),
            drop(NoMapping),
        ),
        (
            "another address is dropped",
            frame(&reply(ACK).to(([198, 18, 0, 1], 80))),
            drop(NoMapping),
        ),
        (
            "a ping of a site is dropped",
            frame(&Clear::ping(SERVER, 7, NAT)),
            drop(IcmpType),
        ),
    ]
}

fn connections() -> Vec<(&'static str, Vec<Step>)> {
    let query = Clear::udp((TERMINAL, 1024), (NAME_SERVER, 53));
    let answer = Clear::udp((NAME_SERVER, 53), (NAT, 1024));
    let ping = Clear::ping(TERMINAL, 0x4321, SERVER);
    let pong = Clear::pong(SERVER, NAT, 0x4321);
    vec![
        (
            "a TCP connection opens, transfers and closes",
            vec![
                out(SYN),
                back(SYN | ACK),
                out(ACK),
                out(ACK | PSH),
                back(ACK | PSH),
                out(FIN | ACK),
                back(ACK),
                back(FIN | ACK),
                out(ACK),
            ],
        ),
        (
            "UDP is answered, also without a checksum",
            vec![
                leaves(query.clone(), SITE, (NAT, 1024)),
                enters(answer.clone(), (TERMINAL, 1024)),
                enters(answer.without_checksum().data(31), (TERMINAL, 1024)),
                leaves(query, SITE, (NAT, 1024)),
            ],
        ),
        (
            "a ping is answered",
            vec![
                leaves(ping, SITE, (NAT, 0x4321)),
                enters(pong, (TERMINAL, 0x4321)),
            ],
        ),
        (
            "TTL is used up on the way in as well",
            vec![
                out(SYN),
                refused(&reply(SYN | ACK).ttl(1), InnerTtl),
                back(SYN | ACK),
            ],
        ),
    ]
}

/// Handshakes as few stacks do them, or as networks damage them.
fn handshakes() -> Vec<(&'static str, Vec<Step>)> {
    /// How far the server's numbers are from zero here.
    const FAR: u32 = 1 << 30;
    let first = ISN.wrapping_add(1);
    // RFC 9293 section 3.10.7.1: a reset that answers a SYN has sequence number zero.
    let refusal = reply(RST | ACK).at(first.wrapping_neg(), 0).data(0);
    let to_terminal = |clear: Clear| enters(clear, (TERMINAL, PORT));
    vec![
        (
            "a SYN+ACK that acknowledges another SYN opens nothing, and the site resets it (RFC 9293 section 3.5)",
            vec![
                out(SYN),
                to_terminal(reply(SYN | ACK).at(50_000, u32::MAX)),
                leaves(segment(RST).at(u32::MAX, 0), SITE, NAT_END),
                refused(&reply(SYN | ACK).at(0, 1), TcpWindow),
                refused(&reply(RST | ACK).at(0, u32::MAX), TcpWindow),
                back(SYN | ACK),
                out(ACK),
            ],
        ),
        (
            "a SYN with data that is sent again without is answered with data (RFC 7413 section 4.1.3)",
            vec![
                leaves(segment(SYN).data(100), SITE, NAT_END),
                out(SYN),
                to_terminal(reply(SYN | ACK).at(0, 100)),
                leaves(segment(ACK).at(100, 0), SITE, NAT_END),
            ],
        ),
        (
            "both open, and the center's end has not seen the site's SYN (RFC 5382 REQ-2)",
            vec![
                out(SYN),
                back(SYN),
                out(SYN | ACK),
                back(SYN),
                out(SYN | ACK),
                back(ACK),
                out(ACK),
            ],
        ),
        (
            "both open at once (RFC 9293 section 3.5)",
            vec![
                out(SYN),
                back(SYN),
                out(SYN | ACK),
                back(SYN | ACK),
                back(ACK),
                out(ACK),
                refused(&reply(SYN), TcpState),
            ],
        ),
        (
            "a server that forgot its SYN+ACK refuses the SYN that is sent again",
            vec![
                out(SYN),
                to_terminal(reply(SYN | ACK).at(FAR, 0)),
                out(SYN),
                refused(&refusal.clone().at(0, 1), TcpWindow),
                to_terminal(refusal.clone()),
                leaves(segment(ACK).at(0, FAR), SITE, NAT_END),
                refused(&refusal, TcpWindow),
            ],
        ),
    ]
}

fn closing() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        (
            "the server may close first",
            vec![
                out(SYN),
                back(SYN | ACK),
                out(ACK),
                back(FIN | ACK),
                out(ACK),
                out(FIN | ACK),
                back(ACK),
            ],
        ),
        (
            "a refused connection may be tried again",
            vec![out(SYN), back(RST | ACK), out(SYN), back(SYN | ACK)],
        ),
        (
            "a reset connection may begin anew",
            vec![
                out(SYN),
                back(SYN | ACK),
                out(ACK),
                out(RST),
                out(SYN),
                back(SYN | ACK),
            ],
        ),
        (
            "a half-open connection recovers (RFC 9293 section 3.5.1)",
            vec![
                out(SYN),
                enters(reply(ACK).data(0), (TERMINAL, PORT)),
                out(RST),
                out(SYN),
                back(SYN | ACK),
                out(ACK),
            ],
        ),
        (
            "a reset older than what was acknowledged is dropped (RFC 5961 section 3.2)",
            vec![
                out(SYN),
                back(SYN | ACK),
                out(ACK),
                enters(reply(ACK).at(0, 3), (TERMINAL, PORT)),
                dropped(&segment(RST), TcpWindow),
                leaves(segment(RST).at(3, 0), SITE, NAT_END),
            ],
        ),
        (
            "an established connection survives a SYN of a client that crashed",
            vec![
                out(SYN),
                back(SYN | ACK),
                out(ACK),
                out(SYN),
                back(ACK),
                out(RST),
                out(SYN),
            ],
        ),
    ]
}

fn filtering() -> Vec<(&'static str, Vec<Step>)> {
    let other_server = [203, 0, 113, 11];
    vec![
        (
            "another host may not answer (address-dependent filtering, RFC 4787 REQ-8)",
            vec![
                out(SYN),
                refused(&reply(SYN | ACK).from((other_server, 443)), NoFlow),
            ],
        ),
        (
            "another port may not answer (port-dependent filtering)",
            vec![out(SYN), refused(&reply(SYN | ACK).from((SERVER, 80)), NoFlow)],
        ),
        (
            "another protocol may not answer",
            vec![out(SYN), refused(&Clear::udp((SERVER, 443), NAT_END), NoMapping)],
        ),
        (
            "the server may not call back",
            vec![
                out(SYN),
                back(SYN | ACK),
                refused(&reply(SYN), TcpState),
                out(ACK),
                refused(&reply(SYN), TcpState),
            ],
        ),
        (
            "the server may not finish what has not begun",
            vec![out(SYN), refused(&reply(FIN | ACK), TcpState)],
        ),
        (
            "the client does not answer as a server",
            vec![out(SYN), back(SYN | ACK), dropped(&segment(SYN | ACK), TcpState)],
        ),
    ]
}

fn worlds(now_s: u32) -> Vec<Vector> {
    let world = |idle_s, state| with_flow(now_s, &segment(ACK), NAT_END, state, 0, idle_s);
    let vector = |words: &str, world, step| Vector {
        description: words.to_owned(),
        world,
        steps: vec![step],
    };
    let mut no_sa = world(1, state::TCP_ESTABLISHED);
    no_sa.sa_outbound.clear();
    let mut narrow_sa = world(1, state::TCP_ESTABLISHED);
    for (length, key, _) in &mut narrow_sa.sa_outbound {
        (*length, key.destination) = (32, [192, 168, 1, 11]);
    }
    let mut sharing = world(1, state::TCP_ESTABLISHED);
    for (_, _, sa) in &mut sharing.sa_outbound {
        sa.shares = 2;
    }
    // Packets come by queue 0 here.
    let of_queue_0 = 0x0100_0009;
    let mut sa_index = [SA_INDEX; SHARES];
    sa_index[0] = of_queue_0;
    sharing.sa_shares = vec![SaShares::default(), SaShares { sa_index }];
    let on_its_own = Step {
        expect: Expect::Worker(
            Path::CoreForwarded,
            reply(ACK)
                .to((TERMINAL, PORT))
                .forwarded()
                .linked(SITE, of_queue_0),
        ),
        ..back(ACK)
    };
    let mut of_other_site = world(1, state::TCP_ESTABLISHED);
    for (_, key, _) in &mut of_other_site.sa_outbound {
        key.site = world::SITE_OTHER.to_be_bytes();
    }
    let mut no_worker = world(1, state::TCP_ESTABLISHED);
    if let Some(interface) = &mut no_worker.interface {
        interface.queues = 0;
    }
    let moved = with_flow_and_mapping(
        now_s,
        &segment(ACK),
        ((NAT, 99), NAT_END),
        state::TCP_ESTABLISHED,
        0,
        1,
    );
    vec![
        vector(
            "an established flow is answered",
            world(7200, state::TCP_ESTABLISHED),
            back(ACK),
        ),
        vector(
            "an expired flow is not answered",
            world(7500, state::TCP_ESTABLISHED),
            refused(&reply(ACK), FlowExpired),
        ),
        vector(
            "a handshake expires sooner",
            world(100, state::TCP_SYN_SENT),
            refused(&reply(SYN | ACK), FlowExpired),
        ),
        vector(
            "without an SA nothing leaves in the clear",
            no_sa,
            refused(&reply(ACK), NoSa),
        ),
        vector(
            "of SAs that share the traffic, the one of this queue's worker",
            sharing,
            on_its_own,
        ),
        vector(
            "an SA for another host is none",
            narrow_sa,
            refused(&reply(ACK), NoSa),
        ),
        vector(
            "an SA of another site is none",
            of_other_site,
            refused(&reply(ACK), NoSa),
        ),
        vector(
            "a queue without a worker drops",
            no_worker,
            refused(&reply(ACK), NoWorker),
        ),
        vector(
            "a mapping that was given to another is not used",
            moved,
            refused(&reply(ACK), NoFlow),
        ),
    ]
}

/// Packets at and over the tunnel's MTU.
fn sizes(now_s: u32) -> Vec<Vector> {
    let world = || with_flow(now_s, &segment(ACK), NAT_END, state::TCP_ESTABLISHED, 0, 1);
    let vector = |words: &str, step| Vector {
        description: words.to_owned(),
        world: world(),
        steps: vec![step],
    };
    let fits = reply(ACK).data(MTU as usize - 40);
    let too_big = reply(ACK).data(MTU as usize - 39);
    let answered = Step {
        program: Program::Core,
        frame: frame(&too_big),
        expect: Expect::Reflect(too_big_answer(&too_big)),
    };
    vec![
        vector("a packet of the MTU enters", enters(fits, (TERMINAL, PORT))),
        vector("a byte more is answered with the MTU (RFC 1191)", answered),
        vector(
            "a byte more that may be fragmented goes to the worker",
            enters(too_big.fragmentable(), (TERMINAL, PORT)),
        ),
    ]
}

/// ICMP "fragmentation needed" of the gateway about a packet.
fn too_big_answer(clear: &Clear) -> Vec<u8> {
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend((MTU as u16).to_be_bytes());
    icmp.extend(&clear.packet()[..28]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let mut packet = ipv4(1, GATEWAY, clear.source.0, &icmp);
    packet[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
    crate::frames::fix_ipv4(&mut packet);
    ethernet(MAC_HOP, MAC, 0x0800, &packet)
}
