//! Vectors of ICMP errors, through `clear` and `core` (RFC 792, RFC 5508 section 4).

use gateway_common::abi::flow::state;
use gateway_common::abi::site::{Block, Site};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::{self, *};
use gateway_common::packet::tcp::flag::ACK;

use super::clear::{PORT, leaves, segment, with_flow};
use super::world::{
    self, FORBIDDEN, MAC, MAC_HOP, MTU, NAME_SERVER, NAT, SA_INDEX, SERVER, SITE, SITE_OTHER, TERMINAL,
};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, End, checksum, ethernet, fix_ipv4, ipv4};

/// A translated port that is not the terminal's own, so that it shows in every checksum.
const NAT_END: End = (NAT, 2000);
const WEB: End = (SERVER, 443);
/// A router on the center's side, and one behind the site's.
const CENTER_ROUTER: [u8; 4] = [203, 0, 113, 254];
const SITE_ROUTER: [u8; 4] = [192, 168, 1, 254];
/// Octets of the quoted packet behind its IP header: the least, a whole TCP header.
const LEAST: usize = 8;
const HEADER: usize = 20;

/// An ICMP error in plain words.
#[derive(Clone)]
pub(super) struct Error {
    source: [u8; 4],
    destination: [u8; 4],
    kind: u8,
    code: u8,
    /// Second word of the header: an MTU, or a pointer.
    word: [u8; 4],
    quote: Vec<u8>,
    pub(super) ttl: u8,
}

impl Error {
    /// "Host unreachable" about a packet, of which so many octets behind the IP header are quoted.
    pub(super) fn about(source: [u8; 4], clear: &Clear, octets: usize) -> Self {
        let quote = clear.packet();
        Self {
            source,
            destination: clear.source.0,
            kind: 3,
            code: 1,
            word: [0; 4],
            quote: quote[..quote.len().min(20 + octets)].to_vec(),
            ttl: 64,
        }
    }

    pub(super) fn of(self, kind: u8, code: u8) -> Self {
        Self { kind, code, ..self }
    }

    pub(super) fn packet(&self) -> Vec<u8> {
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend(self.word);
        message.extend(&self.quote);
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
        let mut packet = ipv4(1, self.source, self.destination, &message);
        packet[8] = self.ttl;
        fix_ipv4(&mut packet);
        packet
    }

    fn linked(&self) -> Vec<u8> {
        self.linked_of(SITE)
    }

    pub(super) fn linked_of(&self, site: u32) -> Vec<u8> {
        use zerocopy::IntoBytes as _;
        let link = gateway_common::abi::sa::LinkHeader::new(site, SA_INDEX);
        [link.as_bytes(), &self.packet()].concat()
    }

    fn ethernet(&self) -> Vec<u8> {
        ethernet(MAC, MAC_HOP, 0x0800, &self.packet())
    }

    /// The same, where what it quotes reads like this, a hop further on.
    pub(super) fn arrives(mut self, source: [u8; 4], as_sent: &Clear) -> Self {
        let octets = self.quote.len() - 20;
        let quoted = Self::about(source, as_sent, octets);
        (self.source, self.destination, self.quote) = (source, quoted.destination, quoted.quote);
        self.ttl -= 1;
        self
    }
}

/// An error of the center's side about a packet that the site sent (and that left as `left`) reaches the site.
fn enters(error: Error, sent: &Clear) -> Step {
    Step {
        program: Program::Core,
        frame: error.ethernet(),
        expect: Expect::Worker(
            Path::CoreForwarded,
            error.clone().arrives(error.source, sent).linked(),
        ),
    }
}

fn refused(error: &Error, reason: DropReason) -> Step {
    Step {
        program: Program::Core,
        frame: error.ethernet(),
        expect: Expect::Drop(reason),
    }
}

/// An error of the site's side about a packet of the center (which came to the site as another) reaches the center.
fn goes_out(error: Error, sent: &Clear) -> Step {
    let out = error.clone().arrives(NAT, sent);
    Step {
        program: Program::Clear,
        frame: error.linked(),
        expect: Expect::Egress(ethernet(MAC_HOP, MAC, 0x0800, &out.packet())),
    }
}

fn refused_of_site(error: &Error, reason: DropReason) -> Step {
    Step {
        program: Program::Clear,
        frame: error.linked(),
        expect: Expect::Drop(reason),
    }
}

/// The terminal's flows that are quoted, with the packet that the site sends, and the one that the center sends.
fn flows() -> Vec<(&'static str, Clear, Clear, u8)> {
    let (terminal, name_server) = ((TERMINAL, PORT), (NAME_SERVER, 53));
    let gre = |mut clear: Clear| {
        clear.payload = crate::frames::Payload::Other {
            protocol: 47,
            data: vec![0; 24],
        };
        clear
    };
    vec![
        (
            "TCP",
            segment(ACK),
            Clear::tcp(WEB, terminal, ACK),
            state::TCP_ESTABLISHED,
        ),
        (
            "UDP",
            Clear::udp(terminal, name_server),
            Clear::udp(name_server, terminal),
            state::UDP_STREAM,
        ),
        (
            "UDP without a checksum",
            Clear::udp(terminal, name_server).without_checksum(),
            Clear::udp(name_server, terminal).without_checksum(),
            state::UDP_STREAM,
        ),
        (
            "a ping",
            Clear::ping(TERMINAL, PORT, SERVER),
            Clear::pong(SERVER, TERMINAL, PORT),
            state::ICMP_REPLIED,
        ),
        (
            "GRE",
            gre(Clear::udp((TERMINAL, 0), (SERVER, 0))),
            gre(Clear::udp((SERVER, 0), (TERMINAL, 0))),
            state::OTHER_REPLIED,
        ),
    ]
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    [
        translated(now_s),
        refusals(now_s),
        untouched(now_s),
        bounded(now_s),
    ]
    .concat()
}

fn vector(
    words: impl Into<String>,
    world: gateway_common::tables::host::HostTables,
    steps: Vec<Step>,
) -> Vector {
    Vector {
        description: words.into(),
        world,
        steps,
    }
}

/// Every type, both ways, from the ends and from routers between, short quotes and long ones.
fn translated(now_s: u32) -> Vec<Vector> {
    let types = [
        ("network unreachable", 3, 0),
        ("port unreachable", 3, 3),
        ("fragmentation needed", 3, 4),
        ("administratively prohibited", 3, 13),
        ("TTL exceeded", 11, 0),
        ("reassembly time exceeded", 11, 1),
        ("parameter problem", 12, 0),
    ];
    let mut vectors = vec![];
    for (name, out, back, state) in flows() {
        let nat = if matches!(name, "GRE") { (NAT, 0) } else { NAT_END };
        let (left, came) = (translate_out(&out, nat), translate_back(&back, nat));
        for (octets, length) in [
            (LEAST, "8 octets"),
            (HEADER, "20 octets"),
            (400, "the whole packet"),
        ] {
            let (out, left) = (out.clone().data(300), left.clone().data(300));
            let (back, came) = (back.clone().data(300), came.clone().data(300));
            let world = || with_flow(now_s, &out, nat, state, 0, 1);
            let mut steps = vec![];
            for (_, kind, code) in types {
                for source in [left.destination.0, CENTER_ROUTER] {
                    let mut error = Error::about(source, &left, octets).of(kind, code);
                    error.word = [0, 0, 5, 0x50];
                    steps.push(enters(error, &out));
                }
                for source in [TERMINAL, SITE_ROUTER] {
                    let mut error = Error::about(source, &back, octets).of(kind, code);
                    error.word = [0, 0, 4, 0xb0];
                    steps.push(goes_out(error, &came));
                }
            }
            vectors.push(vector(
                format!("ICMP errors about {name}, of which {length} are quoted, pass translated both ways"),
                world(),
                steps,
            ));
        }
    }
    vectors
}

/// The packet of the site as it leaves.
fn translate_out(clear: &Clear, nat: End) -> Clear {
    clear.clone().from(nat)
}

/// The packet of the center as the center sent it.
fn translate_back(clear: &Clear, nat: End) -> Clear {
    clear.clone().to(nat)
}

/// A world with the terminal's TCP connection.
fn connected(now_s: u32) -> gateway_common::tables::host::HostTables {
    with_flow(now_s, &segment(ACK), NAT_END, state::TCP_ESTABLISHED, 0, 1)
}

fn refusals(now_s: u32) -> Vec<Vector> {
    let left = segment(ACK).from(NAT_END);
    let to_site = Clear::tcp(WEB, (TERMINAL, PORT), ACK);
    let good = Error::about(SERVER, &left, HEADER);
    let good_of_site = Error::about(TERMINAL, &to_site, HEADER);
    let changed = |change: &dyn Fn(&mut Error)| {
        let mut error = good.clone();
        change(&mut error);
        error
    };
    let quoting = |change: &dyn Fn(&mut Vec<u8>)| {
        changed(&|error| {
            change(&mut error.quote);
            fix_ipv4(&mut error.quote);
        })
    };
    let about = |clear: &Clear| Error::about(SERVER, clear, HEADER);
    let about_error = Error {
        source: CENTER_ROUTER,
        quote: good.packet()[..48].to_vec(),
        destination: SERVER,
        ..good.clone()
    };
    let cases: Vec<(&str, Error, DropReason)> = vec![
        ("a redirect", good.clone().of(5, 1), IcmpType),
        ("source quench (RFC 6633)", good.clone().of(4, 0), IcmpType),
        ("an unknown ICMP type", good.clone().of(41, 0), IcmpType),
        (
            "an error about another port",
            about(&left.clone().from((NAT, 2001))),
            IcmpErrorUnmatched,
        ),
        (
            "an error about another server",
            about(&left.clone().to((NAME_SERVER, 443))),
            IcmpErrorUnmatched,
        ),
        (
            "an error about another server's port",
            about(&left.clone().to((SERVER, 444))),
            IcmpErrorUnmatched,
        ),
        (
            "an error about another protocol",
            quoting(&|quote| quote[9] = 17),
            IcmpErrorUnmatched,
        ),
        (
            "an error about what came from another address",
            changed(&|error| error.destination = world::NAT_OTHER),
            IcmpErrorUnmatched,
        ),
        (
            "an error about an ICMP error (RFC 1122 3.2.2)",
            about_error,
            IcmpErrorUnmatched,
        ),
        (
            "an error about an answer to a ping",
            about(&Clear::pong(NAT, SERVER, 2000)),
            IcmpErrorUnmatched,
        ),
        (
            "an error that quotes IP options",
            quoting(&|quote| quote[0] = 0x46),
            IcmpErrorUnmatched,
        ),
        (
            "an error that quotes IPv6",
            quoting(&|quote| quote[0] = 0x60),
            IcmpErrorUnmatched,
        ),
        (
            "an error about a later fragment",
            quoting(&|quote| quote[7] = 9),
            IcmpErrorUnmatched,
        ),
        (
            "an error with a quoted header of a wrong checksum (RFC 5508 REQ-3)",
            changed(&|error| error.quote[10] ^= 1),
            IcmpErrorUnmatched,
        ),
        (
            "an error that quotes 7 octets",
            changed(&|error| error.quote.truncate(27)),
            TruncatedTransport,
        ),
        (
            "an error that quotes nothing",
            changed(&|error| error.quote.clear()),
            TruncatedTransport,
        ),
        (
            "an error from 127.0.0.1",
            changed(&|error| error.source = [127, 0, 0, 1]),
            InnerAddress,
        ),
        (
            "an error from its destination",
            changed(&|error| error.source = NAT),
            InnerAddress,
        ),
        ("an error with TTL 1", changed(&|error| error.ttl = 1), InnerTtl),
    ];
    let mut vectors: Vec<Vector> = cases
        .into_iter()
        .map(|(words, error, reason)| {
            vector(
                format!("{words} is dropped"),
                connected(now_s),
                vec![refused(&error, reason), enters(good.clone(), &segment(ACK))],
            )
        })
        .collect();
    let mut wrong_sum = good.clone();
    wrong_sum.quote.extend([0; 301]);
    let mut wrong_sum = Step {
        expect: Expect::Drop(IcmpErrorUnmatched),
        ..enters(wrong_sum, &segment(ACK))
    };
    if let Some(last) = wrong_sum.frame.last_mut() {
        *last ^= 1;
    }
    let mut of_site_ttl = good_of_site.clone();
    of_site_ttl.ttl = 1;
    let other_site = Step {
        frame: good_of_site.linked_of(SITE_OTHER),
        ..refused_of_site(&good_of_site, IcmpErrorUnmatched)
    };
    let elsewhere = Error::about(TERMINAL, &to_site.clone().from((FORBIDDEN, 443)), HEADER);
    let rules = vec![
        (
            "an error with a wrong checksum is dropped (RFC 5508 REQ-3)",
            wrong_sum,
        ),
        ("an error of another site is dropped", other_site),
        (
            "a redirect of a site is dropped",
            refused_of_site(&good_of_site.clone().of(5, 1), IcmpType),
        ),
        (
            "an error of a site with TTL 1 is dropped",
            refused_of_site(&of_site_ttl, InnerTtl),
        ),
        (
            "an error of a site about what it was not sent is dropped",
            refused_of_site(&elsewhere, IcmpErrorUnmatched),
        ),
        (
            "an error of a site about its own ping is dropped",
            refused_of_site(
                &Error::about(TERMINAL, &Clear::ping(SERVER, 9, TERMINAL), HEADER),
                IcmpErrorUnmatched,
            ),
        ),
    ];
    vectors.extend(
        rules
            .into_iter()
            .map(|(words, step)| vector(words, connected(now_s), vec![step])),
    );
    vectors.extend(worlds(now_s, &good, &good_of_site));
    vectors
}

/// The same errors into worlds that differ.
fn worlds(now_s: u32, good: &Error, of_site: &Error) -> Vec<Vector> {
    let expired = || with_flow(now_s, &segment(ACK), NAT_END, state::TCP_ESTABLISHED, 0, 7500);
    let mut no_sa = connected(now_s);
    no_sa.sa_outbound.clear();
    let mut no_hop = connected(now_s);
    no_hop.next_hops.clear();
    let long = |octets: usize| {
        let mut error = good.clone();
        error.quote.extend(vec![0xab; octets]);
        error
    };
    let of_length = |octets: usize| long(octets - good.packet().len());
    let mut too_big = of_length(MTU as usize + 1).packet();
    too_big[6] = 0x40;
    fix_ipv4(&mut too_big);
    let too_big = Step {
        program: Program::Core,
        frame: ethernet(MAC, MAC_HOP, 0x0800, &too_big),
        expect: Expect::Drop(EspTooBig),
    };
    vec![
        vector(
            "an error about an expired flow is dropped",
            expired(),
            vec![refused(good, IcmpErrorUnmatched)],
        ),
        vector(
            "an error of a site about an expired flow is dropped",
            expired(),
            vec![refused_of_site(of_site, IcmpErrorUnmatched)],
        ),
        vector(
            "without an SA no error leaves in the clear",
            no_sa,
            vec![refused(good, NoSa)],
        ),
        vector(
            "without a next hop no error leaves",
            no_hop,
            vec![refused_of_site(of_site, NextHopUnresolved)],
        ),
        vector(
            "an error that does not fit the tunnel has no error about it",
            connected(now_s),
            vec![too_big],
        ),
    ]
}

/// What errors do not do.
fn untouched(now_s: u32) -> Vec<Vector> {
    let world = |idle_s| with_flow(now_s, &segment(ACK), NAT_END, state::TCP_ESTABLISHED, 0, idle_s);
    let error = Error::about(SERVER, &segment(ACK).from(NAT_END), HEADER);
    let back = |flags| {
        let clear = Clear::tcp(WEB, NAT_END, flags);
        Step {
            program: Program::Core,
            frame: clear.ethernet(MAC, MAC_HOP),
            expect: Expect::Worker(
                Path::CoreForwarded,
                clear.to((TERMINAL, PORT)).forwarded().linked(SITE, SA_INDEX),
            ),
        }
    };
    vec![vector(
        "a hard error does not end a connection (RFC 5927, RFC 5508 REQ-6)",
        world(1),
        vec![
            enters(error.clone().of(3, 2), &segment(ACK)),
            enters(error.of(3, 3), &segment(ACK)),
            leaves(segment(ACK), SITE, NAT_END),
            back(ACK),
        ],
    )]
}

/// "Fragmentation needed" that says `mtu`.
fn too_big(error: Error, mtu: u16) -> Error {
    let [m0, m1] = mtu.to_be_bytes();
    Error {
        word: [0, 0, m0, m1],
        ..error.of(3, 4)
    }
}

/// What may be forged in an error's name.
///
/// Regression: whatever segment was quoted, and whatever MTU was said, went to the center, whose hosts send less in a packet then
/// to all who share the site's address.
fn bounded(now_s: u32) -> Vec<Vector> {
    let (sent, came) = (segment(ACK), Clear::tcp(WEB, (TERMINAL, PORT), ACK));
    let of_center = |clear: &Clear| Error::about(SERVER, &clear.clone().from(NAT_END), LEAST);
    let of_site = |clear: &Clear| Error::about(TERMINAL, clear, LEAST);
    let arrived = |clear: &Clear| clear.clone().to(NAT_END);
    let moved = |clear: &Clear, by: i32| clear.clone().at(by.cast_unsigned(), 0);
    let numbers = [(2, false), (-60_000, true), (-70_000, false), (i32::MIN, false)];
    let mut steps = vec![];
    for (by, passes) in numbers {
        let (sent, came) = (moved(&sent, by), moved(&came, by));
        if passes {
            steps.push(enters(of_center(&sent), &sent));
            steps.push(goes_out(of_site(&came), &arrived(&came)));
        } else {
            steps.push(refused(&of_center(&sent), IcmpErrorUnmatched));
            steps.push(refused_of_site(&of_site(&came), IcmpErrorUnmatched));
        }
    }
    let mut shared = connected(now_s);
    let half = Block {
        address: NAT,
        first: 0,
        last: 0x7fff,
    };
    shared.sites.insert(SITE, Site::with_blocks(0, &[half], 0));
    vec![
        vector(
            "an error about a segment that cannot be on its way is dropped (RFC 5927 section 4.1)",
            connected(now_s),
            steps,
        ),
        vector(
            "'fragmentation needed' says no less than 576 octets",
            connected(now_s),
            vec![
                refused(&too_big(of_center(&sent), 575), PathMtuRefused),
                refused(&too_big(of_center(&sent), 0), PathMtuRefused),
                enters(too_big(of_center(&sent), 576), &sent),
                refused_of_site(&too_big(of_site(&came), 575), PathMtuRefused),
                goes_out(too_big(of_site(&came), 576), &arrived(&came)),
            ],
        ),
        vector(
            "'fragmentation needed' of a site that shares its address says no less than 1280 octets",
            shared,
            vec![
                refused_of_site(&too_big(of_site(&came), 1279), PathMtuRefused),
                goes_out(too_big(of_site(&came), 1280), &arrived(&came)),
                // It is the site's own affair what the center says.
                enters(too_big(of_center(&sent), 576), &sent),
            ],
        ),
    ]
}
