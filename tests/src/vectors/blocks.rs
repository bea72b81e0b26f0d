//! Vectors of sites that have port blocks instead of an address of their own.

use gateway_common::abi::nat::InsideKey;
use gateway_common::abi::sa::{LinkHeader, SaOutbound, SaOutboundKey};
use gateway_common::abi::site::{Block, Site};
use gateway_common::abi::stats::Path;
use gateway_common::drop::DropReason::{NatExhausted, NatPortless, NoMapping};
use gateway_common::tables::host::HostTables;
use zerocopy::IntoBytes as _;

use super::answer::no_room;
use super::clear::{leaves, put_mapping};
use super::world::{
    self, GROUP_CLINIC, MAC, MAC_HOP, MTU, NAME_SERVER, NAT, NAT_OTHER, SA_INDEX, SITE, SITE_OTHER, TERMINAL,
};
use super::{Expect, Program, Step, Vector};
use crate::frames::{Clear, End, ipv4};

/// Index of the outbound SA of [`SITE_OTHER`].
const SA_OTHER: u32 = 7;
const DNS: End = (NAME_SERVER, 53);
/// GRE (RFC 2784): a protocol without ports.
const GRE: u8 = 47;

/// Two ports, of which one is even and one is odd: the port that a packet gets is known.
#[must_use]
pub const fn pair_of_ports(address: [u8; 4], first: u16) -> Block {
    Block {
        address,
        first,
        last: first + 1,
    }
}

/// The usual world, in which the first site has these blocks.
#[must_use]
pub fn world_of(now_s: u32, blocks: &[Block], flags: u32) -> HostTables {
    let mut tables = world::world(now_s);
    let site = Site::with_blocks(GROUP_CLINIC | 1, blocks, flags);
    tables.sites.insert(SITE, site);
    tables
}

/// A query of the terminal from this port.
#[must_use]
pub fn query(port: u16) -> Clear {
    Clear::udp((TERMINAL, port), DNS)
}

/// Takes a port of an address for another terminal of the first site.
pub fn take(tables: &HostTables, nat: End, now_s: u32) {
    let inside = InsideKey {
        site: SITE,
        address: [192, 168, 1, 77],
        port: nat.1.to_be_bytes(),
        protocol: 17,
        pad: 0,
    };
    put_mapping(tables, inside, nat, now_s);
}

pub(super) fn vectors(now_s: u32) -> Vec<Vector> {
    [shared(now_s), full(now_s), kinds(now_s)].concat()
}

/// An answer from the name server, which reaches a site as if it had come to `to`.
fn answer(nat: End, site: u32, sa_index: u32, to: End) -> Step {
    let clear = Clear::udp(DNS, nat);
    Step {
        program: Program::Core,
        frame: clear.ethernet(MAC, MAC_HOP),
        expect: Expect::Worker(
            Path::CoreForwarded,
            clear.to(to).forwarded().linked(site, sa_index),
        ),
    }
}

/// Two sites behind one address.
fn shared(now_s: u32) -> Vec<Vector> {
    let mut tables = world_of(now_s, &[pair_of_ports(NAT, 5000)], 0);
    let other = Site::with_blocks(1, &[pair_of_ports(NAT, 6000)], 0);
    tables.sites.insert(SITE_OTHER, other);
    let key = SaOutboundKey {
        site: SITE_OTHER.to_be_bytes(),
        destination: [192, 168, 1, 0],
    };
    let sa = SaOutbound {
        sa_index: SA_OTHER,
        shares: 0,
        mtu: MTU,
    };
    tables.sa_outbound.push((24, key, sa));
    let end = (TERMINAL, 1026);
    vec![Vector {
        description:
            "sites that share an address use ports of their own blocks, and answers reach the right one"
                .to_owned(),
        world: tables,
        steps: vec![
            leaves(query(1026), SITE, (NAT, 5000)),
            leaves(query(1026), SITE_OTHER, (NAT, 6000)),
            answer((NAT, 5000), SITE, SA_INDEX, end),
            answer((NAT, 6000), SITE_OTHER, SA_OTHER, end),
            Step {
                program: Program::Core,
                frame: Clear::udp(DNS, (NAT, 5001)).ethernet(MAC, MAC_HOP),
                expect: Expect::Drop(NoMapping),
            },
        ],
    }]
}

/// Blocks that are used up.
fn full(now_s: u32) -> Vec<Vector> {
    let vector = |words: &str, blocks: &[Block], taken: &[End], step: Step| {
        let world = world_of(now_s, blocks, 0);
        for nat in taken {
            take(&world, *nat, now_s);
        }
        Vector {
            description: words.to_owned(),
            world,
            steps: vec![step],
        }
    };
    let (one, two) = (pair_of_ports(NAT, 5000), pair_of_ports(NAT, 6000));
    let elsewhere = pair_of_ports(NAT_OTHER, 5000);
    let one_taken = [(NAT, 5000), (NAT, 5001)];
    vec![
        vector(
            "a site whose only block is full is refused, though its address has other ports",
            &[one],
            &one_taken,
            no_room(&query(1026), NatExhausted),
        ),
        vector(
            "a site whose first block is full uses its second one",
            &[one, two],
            &one_taken,
            leaves(query(1026), SITE, (NAT, 6000)),
        ),
        vector(
            "a site is seen by its first address as long as a block there has room (RFC 6888 REQ-2)",
            &[one, elsewhere],
            &[(NAT, 5001)],
            leaves(query(1026), SITE, (NAT, 5000)),
        ),
        vector(
            "a site whose blocks of the first address are full uses another address",
            &[one, elsewhere],
            &one_taken,
            leaves(query(1026), SITE, (NAT_OTHER, 5000)),
        ),
        vector(
            "a site without a block is refused",
            &[],
            &[],
            no_room(&query(1026), NatExhausted),
        ),
    ]
}

/// What is translated by blocks, and what is not.
fn kinds(now_s: u32) -> Vec<Vector> {
    let wide = Block {
        address: NAT,
        first: 4096,
        last: 6143,
    };
    let gre = |expect| Step {
        program: Program::Clear,
        frame: [
            LinkHeader::new(SITE, SA_INDEX).as_bytes(),
            &ipv4(GRE, TERMINAL, NAME_SERVER, &[0; 8]),
        ]
        .concat(),
        expect,
    };
    let vector = |words: &str, world: HostTables, steps: Vec<Step>| Vector {
        description: words.to_owned(),
        world,
        steps,
    };
    let any_protocol = |mut world: HostTables| {
        world.rules = Some((1, vec![world::allow(0, NAME_SERVER, 0, 0)]));
        world
    };
    let ping = Clear::ping(TERMINAL, 1026, NAME_SERVER);
    let moved = world_of(now_s, &[wide], 0);
    let inside = InsideKey {
        site: SITE,
        address: TERMINAL,
        port: 5000u16.to_be_bytes(),
        protocol: 17,
        pad: 0,
    };
    put_mapping(&moved, inside, (NAT, 7000), now_s);
    let mut closed = moved.clone();
    let further = Block {
        first: 6144,
        last: 8191,
        ..wide
    };
    let site = Site::with_blocks(GROUP_CLINIC | 1, &[wide], 0).with_closed(&[further]);
    closed.sites.insert(SITE, site);
    vec![
        vector(
            "a port in the site's block is kept",
            world_of(now_s, &[wide], 0),
            vec![leaves(query(5555), SITE, (NAT, 5555))],
        ),
        vector(
            "a port in a later block of the same address is kept as well",
            world_of(now_s, &[pair_of_ports(NAT, 2000), wide], 0),
            vec![leaves(query(5555), SITE, (NAT, 5555))],
        ),
        vector(
            "the identifier of a ping is one of the block's",
            world_of(now_s, &[pair_of_ports(NAT, 5000)], 0),
            vec![leaves(ping, SITE, (NAT, 5000))],
        ),
        vector(
            "a mapping to a block that the site no longer has is not used for new flows",
            moved,
            vec![leaves(query(5000), SITE, (NAT, 5000))],
        ),
        vector(
            "a mapping to a closed block serves its client on",
            closed,
            vec![
                leaves(query(5000), SITE, (NAT, 7000)),
                leaves(query(5001), SITE, (NAT, 5001)),
            ],
        ),
        vector(
            "a protocol without ports is refused where others share the address",
            any_protocol(world_of(now_s, &[wide], 0)),
            vec![gre(Expect::Drop(NatPortless))],
        ),
    ]
}
