//! Packets of which each opens a flow: who sends them, to whom, and what a program that generates them is told.
//!
//! Sites, source ports and destinations take turns. Their numbers have no common divisor, so that no combination comes again before all
//! have been.

use std::net::Ipv4Addr;

use gateway_common::abi::rule::Rule;
use gateway_common::abi::site::Site;
use gateway_common::tables::host::HostTables;
use xtask::bench::pktgen::control::Stream;

use crate::vectors::world;

/// Network of the servers.
pub const SERVERS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
/// UDP port of theirs.
pub const PORT: u16 = 9;
/// The first of them that is sent to, and how many are.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// See [`SERVER`].
pub const DESTINATIONS: u16 = 4093;
/// Sites, from [`world::SITE`] on, each with an address of its own.
pub const SITES: u16 = 1009;
/// Lowest port and number of ports of many endpoints.
pub const PORTS_MANY: (u16, u16) = (10_001, 49_999);
/// The same of few.
pub const PORTS_FEW: (u16, u16) = (10_001, 997);

/// What sites are translated to, with a site's number in the last two octets.
const SITES_AS: [u8; 2] = [198, 18];

/// Map of a generating program that holds what it is told.
pub const TOLD: &str = "COMPARE_STREAM";
/// Octets of that.
pub const TOLD_OCTETS: usize = 84;
/// Offsets of UDP's ports in a frame.
const SOURCE_PORT: u32 = 34;
const DESTINATION_PORT: u32 = 36;

/// A world with these sites, whose last rule lets them send to [`SERVERS`].
#[must_use]
pub fn world(mut base: HostTables) -> HostTables {
    let [first, second] = SITES_AS;
    for site in world::SITE..world::SITE + u32::from(SITES) {
        let [_, _, high, low] = site.to_be_bytes();
        base.sites
            .insert(site, Site::whole(1, [first, second, high, low]));
    }
    if let Some((_, _, hop)) = base.next_hops.first().copied() {
        base.next_hops.push((16, SERVERS.octets(), hop));
    }
    if let Some((_, rules)) = &mut base.rules
        && let Some(last) = rules.last_mut()
    {
        *last = Rule {
            destination_mask: [255, 255, 0, 0],
            ..world::allow(last.source_rule, SERVERS.octets(), 17, PORT)
        };
    }
    base
}

/// What the program is told: 42 octets of headers, at 44 the place of the port that varies, and at 48 for sites, destinations
/// and that port the lowest value, their number, and zero for the next.
#[must_use]
pub fn told(stream: &Stream) -> [u8; TOLD_OCTETS] {
    let [source, destination] = stream.addresses.map(|address| address.octets());
    let length = stream.frame_octets - 14;
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 32, 17, 0, 0];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    let mut ip = [&ip[..], &source, &destination].concat();
    let mut sum: u32 = ip
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |word, octet| word << 8 | u32::from(*octet)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let (low, high) = (stream.source_ports.0, stream.destination_ports.0);
    let frame = [
        &stream.macs.concat()[..],
        &[8, 0],
        &ip,
        &low.to_be_bytes(),
        &high.to_be_bytes(),
        &(length - 20).to_be_bytes(),
        &[0, 0],
    ]
    .concat();
    let (place, (lowest, number)) = if stream.destination_ports.1 > 1 {
        (DESTINATION_PORT, stream.destination_ports)
    } else {
        (SOURCE_PORT, stream.source_ports)
    };
    let mut words = [0; TOLD_OCTETS];
    words[..frame.len()].copy_from_slice(&frame);
    let [_, _, s0, s1, s2, s3] = stream.macs[0];
    let told = [
        [place, u32::from_be_bytes([s0, s1, s2, s3]), stream.sites.into()],
        [0, u32::from_be_bytes(destination), stream.destinations.into()],
        [0, lowest.into(), number.into()],
    ];
    for (to, word) in words[44..].chunks_mut(4).zip(told.as_flattened()) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    words
}
