//! Vectors of `clear`.

use gateway_common::abi::flow::{Flow, Half, Progress, state};
use gateway_common::abi::interface::role;
use gateway_common::abi::names::OpenAddress;
use gateway_common::abi::nat::{InsideKey, Mapping};
use gateway_common::abi::rule::{Rule, direction};
use gateway_common::drop::DropReason::{self, *};
use gateway_common::packet::tcp::flag::{ACK, FIN, PSH, RST, SYN, URG};
use gateway_common::tables::host::HostTables;

use super::answer::no_room;
use super::world::{
    self, FORBIDDEN, MAC, MAC_HOP, NAME_SERVER, NAT, NAT_OTHER, SA_INDEX, SERVER, SITE, SITE_OTHER, TERMINAL,
    UNRESOLVED,
};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, End, ISN, WINDOW, ethernet, fix_ipv4};

/// Source port of the usual connection.
pub(super) const PORT: u16 = 49_152;
const WEB: End = (SERVER, 443);
const DNS: End = (NAME_SERVER, 53);

/// A packet of the terminal.
fn linked(clear: &Clear) -> Vec<u8> {
    clear.linked(SITE, SA_INDEX)
}

/// A packet of `site` that leaves translated to `nat`.
pub(super) fn leaves(clear: Clear, site: u32, nat: End) -> Step {
    let out = clear.clone().from(nat).forwarded().ethernet(MAC_HOP, MAC);
    Step {
        program: Program::Clear,
        frame: clear.linked(site, SA_INDEX),
        expect: Expect::Egress(out),
    }
}

/// A packet of the terminal that is dropped.
pub(super) fn dropped(clear: &Clear, reason: DropReason) -> Step {
    Step {
        program: Program::Clear,
        frame: linked(clear),
        expect: Expect::Drop(reason),
    }
}

/// A TCP segment of the terminal to the server.
pub(super) fn segment(flags: u8) -> Clear {
    Clear::tcp((TERMINAL, PORT), WEB, flags)
}

fn query(port: u16) -> Clear {
    Clear::udp((TERMINAL, port), DNS)
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    let mut vectors: Vec<Vector> = malformed()
        .into_iter()
        .map(|(words, frame, reason)| {
            Vector::single(words, now_s, Program::Clear, frame, Expect::Drop(reason))
        })
        .collect();
    let steps = [opening(), rules(), mappings()].concat();
    vectors.extend(steps.into_iter().map(|(words, steps)| Vector {
        description: words.to_owned(),
        world: world::world(now_s),
        steps,
    }));
    vectors.extend(worlds(now_s));
    vectors.extend(names(now_s));
    vectors.extend(aged(now_s));
    vectors
}

fn malformed() -> Vec<(&'static str, Vec<u8>, DropReason)> {
    let good = query(1024).packet();
    let linked = |packet: &[u8]| {
        let mut frame = linked(&query(1024));
        frame.truncate(14);
        frame.extend(packet);
        frame
    };
    let changed = |offset: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[offset..offset + bytes.len()].copy_from_slice(bytes);
        fix_ipv4(&mut packet);
        linked(&packet)
    };
    let from = |address: [u8; 4]| linked(&query(1024).from((address, 1024)).packet());
    let to = |address: [u8; 4]| linked(&query(1024).to((address, 53)).packet());
    let tcp = |flags| linked(&segment(flags).packet());
    let mut short_tcp = segment(ACK).packet();
    short_tcp[32] = 0x40;
    let mut long_tcp = segment(ACK).packet();
    long_tcp[32] = 0x60;
    let mut unreachable = Clear::ping(TERMINAL, 1, SERVER).packet();
    unreachable[20] = 3;
    vec![
        (
            "a frame that no worker made is dropped",
            ethernet(MAC, MAC_HOP, 0x0800, &good),
            LinkHeaderInvalid,
        ),
        ("an empty link frame is dropped", linked(&[]), InnerMalformed),
        (
            "an inner header cut short is dropped",
            linked(&good[..19]),
            InnerMalformed,
        ),
        (
            "an inner packet cut short is dropped",
            linked(&good[..good.len() - 1]),
            InnerMalformed,
        ),
        (
            "an inner total length of 19 is dropped",
            changed(2, &[0, 19]),
            InnerMalformed,
        ),
        ("inner IPv6 is dropped", changed(0, &[0x60]), InnerMalformed),
        ("inner options are dropped", changed(0, &[0x46]), InnerOptions),
        (
            "a first inner fragment is dropped",
            changed(6, &[0x20, 0]),
            InnerFragment,
        ),
        (
            "a last inner fragment is dropped",
            changed(6, &[0, 1]),
            InnerFragment,
        ),
        ("TTL 1 is dropped", linked(&query(1024).ttl(1).packet()), InnerTtl),
        ("TTL 0 is dropped", linked(&query(1024).ttl(0).packet()), InnerTtl),
        ("source 127.0.0.1 is dropped", from([127, 0, 0, 1]), InnerAddress),
        ("source 0.0.0.0 is dropped", from([0; 4]), InnerAddress),
        (
            "a multicast source is dropped",
            from([224, 0, 0, 1]),
            InnerAddress,
        ),
        ("a broadcast source is dropped", from([255; 4]), InnerAddress),
        (
            "a multicast destination is dropped",
            to([239, 1, 1, 1]),
            InnerAddress,
        ),
        ("a broadcast destination is dropped", to([255; 4]), InnerAddress),
        ("a land packet is dropped", to(TERMINAL), InnerAddress),
        ("UDP-Lite inside is dropped", changed(9, &[136]), InnerProtocol),
        ("IPv6 in IP inside is dropped", changed(9, &[41]), InnerProtocol),
        ("IP in IP inside is dropped", changed(9, &[4]), InnerProtocol),
        (
            "UDP with a length of 7 is dropped",
            changed(24, &[0, 7]),
            TruncatedTransport,
        ),
        (
            "UDP longer than its packet is dropped",
            changed(24, &[0, 99]),
            TruncatedTransport,
        ),
        (
            "UDP from port 0 is dropped",
            changed(20, &[0, 0]),
            TruncatedTransport,
        ),
        (
            "UDP to port 0 is dropped",
            changed(22, &[0, 0]),
            TruncatedTransport,
        ),
        (
            "a TCP header of 16 bytes is dropped",
            linked(&short_tcp),
            TruncatedTransport,
        ),
        (
            "a TCP header longer than its packet is dropped",
            linked(&long_tcp),
            TruncatedTransport,
        ),
        (
            "ICMP other than an echo request is dropped",
            linked(&unreachable),
            IcmpType,
        ),
        (
            "an echo reply of a site is dropped",
            linked(&Clear::pong(TERMINAL, SERVER, 1).packet()),
            IcmpType,
        ),
        ("a null scan is dropped", tcp(0), TcpFlags),
        ("a Christmas tree scan is dropped", tcp(FIN | PSH | URG), TcpFlags),
        ("a FIN scan is dropped", tcp(FIN), TcpFlags),
        ("SYN and FIN are dropped", tcp(SYN | FIN), TcpFlags),
        ("SYN and RST are dropped", tcp(SYN | RST), TcpFlags),
        ("TCP does not begin with an ACK", tcp(ACK), TcpState),
        ("TCP does not begin with a SYN+ACK", tcp(SYN | ACK), TcpState),
        ("TCP does not begin with a RST", tcp(RST), TcpState),
        ("TCP does not begin with a FIN", tcp(FIN | ACK), TcpState),
    ]
}

fn opening() -> Vec<(&'static str, Vec<Step>)> {
    let dns = query(1024);
    let ping = Clear::ping(TERMINAL, 0x4321, SERVER);
    vec![
        (
            "a SYN opens a flow and keeps its port",
            vec![leaves(segment(SYN), SITE, (NAT, PORT))],
        ),
        (
            "a retransmitted SYN takes the same way",
            vec![
                leaves(segment(SYN), SITE, (NAT, PORT)),
                leaves(segment(SYN), SITE, (NAT, PORT)),
            ],
        ),
        (
            "data before the handshake is dropped",
            vec![
                leaves(segment(SYN), SITE, (NAT, PORT)),
                dropped(&segment(ACK), TcpState),
            ],
        ),
        (
            "UDP opens a flow and uses it",
            vec![
                leaves(dns.clone(), SITE, (NAT, 1024)),
                leaves(dns.clone().data(700), SITE, (NAT, 1024)),
            ],
        ),
        (
            "UDP without a checksum stays without",
            vec![leaves(dns.clone().without_checksum(), SITE, (NAT, 1024))],
        ),
        (
            "an odd length is translated",
            vec![leaves(dns.clone().data(33), SITE, (NAT, 1024))],
        ),
        (
            "TTL 2 leaves as 1",
            vec![leaves(dns.clone().ttl(2), SITE, (NAT, 1024))],
        ),
        (
            "a ping opens a flow and keeps its identifier",
            vec![leaves(ping, SITE, (NAT, 0x4321))],
        ),
    ]
}

fn rules() -> Vec<(&'static str, Vec<Step>)> {
    let of_other = |clear: Clear, reason| Step {
        program: Program::Clear,
        frame: clear.linked(SITE_OTHER, SA_INDEX),
        expect: Expect::Drop(reason),
    };
    let unknown = Step {
        program: Program::Clear,
        frame: query(1024).linked(99, SA_INDEX),
        expect: Expect::Drop(UnknownSite),
    };
    vec![
        (
            "no rule is a deny",
            vec![dropped(&segment(SYN).to((SERVER, 80)), RuleDefault)],
        ),
        (
            "a site outside the group is denied",
            vec![of_other(segment(SYN), RuleDefault)],
        ),
        (
            "the first rule that matches decides",
            vec![dropped(
                &Clear::tcp((TERMINAL, PORT), (FORBIDDEN, 443), SYN),
                RuleDenied,
            )],
        ),
        (
            "a prefix has an end",
            vec![dropped(&Clear::ping(TERMINAL, 1, [203, 0, 114, 1]), RuleDefault)],
        ),
        (
            "an allowed flow allows no other",
            vec![
                leaves(segment(SYN), SITE, (NAT, PORT)),
                dropped(&segment(SYN).to((SERVER, 444)), RuleDefault),
            ],
        ),
        ("an unknown site is dropped", vec![unknown]),
        (
            "an unresolved next hop drops",
            vec![dropped(
                &Clear::udp((TERMINAL, 1024), (UNRESOLVED, 9)),
                NextHopUnresolved,
            )],
        ),
    ]
}

fn mappings() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        (
            "two sites with the same addresses leave as two",
            vec![
                leaves(query(1024), SITE, (NAT, 1024)),
                leaves(query(1024), SITE_OTHER, (NAT_OTHER, 1024)),
            ],
        ),
        (
            "one endpoint has one mapping for all destinations (RFC 4787 REQ-1)",
            vec![
                leaves(segment(SYN), SITE, (NAT, PORT)),
                leaves(query(PORT), SITE, (NAT, PORT)),
                leaves(query(1024), SITE, (NAT, 1024)),
            ],
        ),
    ]
}

/// The same frame into worlds that differ from the usual one.
/// A server of the Internet that is open by name to rule 0 for set 3 of names, and to no other.
fn names(now_s: u32) -> Vec<Vector> {
    let (open_until, over) = (now_s + 60, now_s);
    let rule = |set| Rule {
        name_set: set,
        destination_mask: [0; 4],
        ..world::allow(0, [0; 4], 6, 443)
    };
    let open = |names: &[(u32, u32)]| {
        let mut element = OpenAddress {
            address: SERVER,
            ..OpenAddress::default()
        };
        for (place, (set, until_s)) in element.names.iter_mut().zip(names) {
            (place.set, place.until_s) = (*set, *until_s);
        }
        element
    };
    let eight: Vec<(u32, u32)> = (10..17)
        .map(|set| (set, open_until))
        .chain([(3, open_until)])
        .collect();
    type Case<'a> = (&'a str, Rule, Option<OpenAddress>, Option<DropReason>);
    let cases: [Case<'_>; 7] = [
        ("no name has led there", rule(3), None, Some(RuleDefault)),
        (
            "a name has led there",
            rule(3),
            Some(open(&[(3, open_until)])),
            None,
        ),
        (
            "a name of another rule has led there",
            rule(3),
            Some(open(&[(2, open_until), (4, open_until)])),
            Some(RuleDefault),
        ),
        (
            "a name has led there, but its time is over",
            rule(3),
            Some(open(&[(3, over)])),
            Some(RuleDefault),
        ),
        ("the eighth name has led there", rule(3), Some(open(&eight)), None),
        (
            "a name has led to the address that this place had before",
            rule(3),
            Some(OpenAddress {
                address: FORBIDDEN,
                ..open(&[(3, open_until)])
            }),
            Some(RuleDefault),
        ),
        (
            "rules speak of addresses only",
            world::allow(0, SERVER, 6, 443),
            Some(open(&[(3, open_until)])),
            None,
        ),
    ];
    let vector = |(words, rule, open, reason): Case<'_>| {
        let mut world = world::world(now_s);
        world.rules = Some((world::GENERATION, vec![rule]));
        world.directions = vec![(0, [0; 4], direction::SITE_TO_INTERNET)];
        world.roles.insert(world::EGRESS, role::INTERNET);
        world.open_names.extend(open.map(|open| (SERVER, open)));
        let packet = segment(SYN);
        Vector {
            description: format!("a destination by name: {words}"),
            world,
            steps: vec![match reason {
                Some(reason) => dropped(&packet, reason),
                None => leaves(packet, SITE, (NAT, PORT)),
            }],
        }
    };
    cases.into_iter().map(vector).collect()
}

fn worlds(now_s: u32) -> Vec<Vector> {
    type Change = fn(&mut HostTables);
    let changes: [(&str, Change, DropReason); 3] = [
        (
            "without rules nothing is allowed",
            |tables| tables.rules = Some((7, vec![])),
            RuleDefault,
        ),
        (
            "without a next hop nothing leaves",
            |tables| tables.next_hops.clear(),
            NextHopUnresolved,
        ),
        (
            "without sites nothing leaves",
            |tables| tables.sites.clear(),
            UnknownSite,
        ),
    ];
    let mut vectors: Vec<Vector> = changes
        .into_iter()
        .map(|(words, change, reason)| {
            let mut vector = Vector::single(
                words,
                now_s,
                Program::Clear,
                linked(&query(1024)),
                Expect::Drop(reason),
            );
            change(&mut vector.world);
            vector
        })
        .collect();
    let mut taken = Vector {
        description: "a site whose ports are all taken is refused".to_owned(),
        world: world::world(now_s),
        steps: vec![no_room(&query(1026), NatExhausted)],
    };
    if let Some(settings) = &mut taken.world.settings {
        (settings.port_low, settings.port_high) = (1026, 1027);
    }
    let mut one_left = taken.clone();
    put_mapping(&taken.world, inside(17, 9), (NAT, 1026), now_s);
    put_mapping(&taken.world, inside(17, 10), (NAT, 1027), now_s);
    put_mapping(&one_left.world, inside(17, 9), (NAT, 1026), now_s);
    one_left.description = "a taken port is replaced by the one that is left".to_owned();
    one_left.steps = vec![leaves(query(1026), SITE, (NAT, 1027))];
    if let Some(settings) = &mut one_left.world.settings {
        // A range of one port is found by each try but the first.
        settings.port_low = 1027;
    }
    vectors.extend([taken, one_left]);
    vectors
}

fn inside(protocol: u8, port: u16) -> InsideKey {
    InsideKey {
        site: SITE,
        address: TERMINAL,
        port: port.to_be_bytes(),
        protocol,
        pad: 0,
    }
}

/// Puts a mapping into a world and says where it is.
pub(super) fn put_mapping(tables: &HostTables, inside: InsideKey, nat: End, then_s: u32) -> u32 {
    let mapping = Mapping {
        address: nat.0,
        port: nat.1.to_be_bytes(),
        last_used_s: then_s,
        created_s: then_s,
        position: 0,
        kind: gateway_common::abi::nat::kind::DYNAMIC,
    };
    tables.put_mapping(&inside, &mapping).unwrap_or(u32::MAX)
}

/// A world in which the terminal has a flow in this state, last seen `idle_s` seconds ago, with its mapping.
pub(super) fn with_flow(now_s: u32, clear: &Clear, nat: End, state: u8, fins: u8, idle_s: u32) -> HostTables {
    with_flow_and_mapping(now_s, clear, (nat, nat), state, fins, idle_s)
}

/// The same with a mapping that may be another than the flow's translation.
pub(super) fn with_flow_and_mapping(
    now_s: u32,
    clear: &Clear,
    (nat, mapped): (End, End),
    state: u8,
    fins: u8,
    idle_s: u32,
) -> HostTables {
    let tables = world::world(now_s);
    let protocol = clear.packet()[9];
    let key = gateway_common::abi::flow::FlowKey {
        site: SITE,
        source: clear.source.0,
        destination: clear.destination.0,
        source_port: clear.source.1.to_be_bytes(),
        destination_port: clear.destination.1.to_be_bytes(),
        protocol,
        pad: [0; 3],
    };
    let then_s = now_s.wrapping_sub(idle_s);
    let inside = InsideKey {
        port: key.source_port,
        ..inside(protocol, 0)
    };
    let half = Half {
        seen_s: then_s,
        end: ISN.wrapping_add(1),
        acknowledged: ISN.wrapping_add(1),
        limit: ISN.wrapping_add(1).wrapping_add(u32::from(WINDOW)),
        window: WINDOW,
        packets: 1,
        bytes: 40,
    };
    let flow = Flow {
        progress: Progress {
            state,
            fins,
            ..Progress::default()
        },
        out: half,
        back: half,
        created_s: then_s,
        generation: 1,
        rule: 0,
        nat_address: nat.0,
        nat_port: nat.1.to_be_bytes(),
        mapping: put_mapping(&tables, inside, mapped, then_s),
    };
    let put = tables.put_flow(&key, &flow);
    assert!(put.is_ok(), "{put:?}");
    tables
}

/// Flows that have been idle: the limits, and what replaces an expired one.
fn aged(now_s: u32) -> Vec<Vector> {
    let nat = (NAT, 2000);
    let vector = |words: &str, world: HostTables, step: Step| Vector {
        description: words.to_owned(),
        world,
        steps: vec![step],
    };
    let established = |idle_s| with_flow(now_s, &segment(ACK), nat, state::TCP_ESTABLISHED, 0, idle_s);
    let closed = |idle_s| with_flow(now_s, &segment(ACK), nat, state::TCP_CLOSED, 3, idle_s);
    let udp = |clear: &Clear, idle_s| with_flow(now_s, clear, nat, state::UDP_STREAM, 0, idle_s);
    let forbidden = Clear::tcp((TERMINAL, PORT), (FORBIDDEN, 443), ACK);
    let forbidden_udp = Clear::udp((TERMINAL, PORT), (FORBIDDEN, 443));
    vec![
        vector(
            "an established flow lives for two hours (RFC 5382 REQ-5)",
            established(7200),
            leaves(segment(ACK), SITE, nat),
        ),
        vector(
            "an expired TCP flow is not taken up",
            established(7500),
            dropped(&segment(ACK), TcpState),
        ),
        vector(
            "an expired TCP flow may begin anew",
            established(7500),
            leaves(segment(SYN), SITE, nat),
        ),
        vector(
            "a closed flow passes the last ACK",
            closed(10),
            leaves(segment(ACK), SITE, nat),
        ),
        vector(
            "a closed flow may begin anew",
            closed(10),
            leaves(segment(SYN), SITE, nat),
        ),
        vector(
            "a flow in its life is not judged again",
            with_flow(now_s, &forbidden, nat, state::TCP_ESTABLISHED, 0, 10),
            leaves(forbidden, SITE, nat),
        ),
        vector(
            "a closed flow is judged before it begins anew",
            with_flow(
                now_s,
                &Clear::tcp((TERMINAL, PORT), (FORBIDDEN, 443), ACK),
                nat,
                state::TCP_CLOSED,
                3,
                10,
            ),
            dropped(&Clear::tcp((TERMINAL, PORT), (FORBIDDEN, 443), SYN), RuleDenied),
        ),
        vector(
            "UDP lives for a minute",
            udp(&query(1024), 60),
            leaves(query(1024), SITE, nat),
        ),
        vector(
            "an expired UDP flow begins anew, by its mapping",
            udp(&query(1024), 300),
            leaves(query(1024), SITE, nat),
        ),
        vector(
            "an expired UDP flow is judged",
            udp(&forbidden_udp, 300),
            dropped(&forbidden_udp, RuleDenied),
        ),
        vector(
            "a site with a new address gets a new mapping",
            with_flow(
                now_s,
                &query(1024),
                ([198, 51, 100, 9], 2000),
                state::UDP_STREAM,
                0,
                300,
            ),
            leaves(query(1024), SITE, (NAT, 1024)),
        ),
    ]
}
