//! NAT mappings: endpoint-independent (RFC 4787 REQ-1); the mapping table's records.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::flow::{halves, pair};
use crate::abi_assert;
use crate::tables::hash::port_protocol;
use crate::tables::words::Words;

/// Inside of a mapping.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct InsideKey {
    /// Site; sites share the same private addresses.
    pub site: u32,
    /// Inner address.
    pub address: [u8; 4],
    /// Port or ICMP query identifier, network order.
    pub port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}
abi_assert!(InsideKey, size = 12, align = 4);

/// Outside of a mapping.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct OutsideKey {
    /// Pool address.
    pub address: [u8; 4],
    /// Port or ICMP query identifier, network order.
    pub port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}
abi_assert!(OutsideKey, size = 8, align = 1);

/// Longest-prefix key of who may open flows to what is published: all 32 bits of the publication's number, then the
/// source's prefix. (The trie's own prefix length is added by the map type.)
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct PublicationSource {
    /// Number of the publication, big-endian so that its bits come first.
    pub publication: [u8; 4],
    /// Source address.
    pub source: [u8; 4],
}
abi_assert!(PublicationSource, size = 8, align = 1);

/// Words of a mapping's record.
pub const RECORD_WORDS: usize = 4;

/// Numbers of the words of a mapping's record. `low | high << 32`.
pub mod word {
    /// Pool address; port, protocol, zero.
    pub const OUTSIDE: usize = 0;
    /// Site; inner address.
    pub const INSIDE: usize = 1;
    /// Inner port, protocol, [`kind`](super::kind); second of its last use, or number of its publication.
    pub const PORT_USED: usize = 2;
    /// Second of its creation; place of the inside index's entry.
    pub const CREATED: usize = 3;
}

/// Kinds of mapping.
pub mod kind {
    /// Made by a packet of the site, and gone some time after its last flow.
    pub const DYNAMIC: u8 = 0;
    /// Made by the controller for a publication; stays.
    pub const STATIC: u8 = 1;
}

/// A mapping as it is read out of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Pool address.
    pub address: [u8; 4],
    /// Port or ICMP query identifier, network order.
    pub port: [u8; 2],
    /// Coarse monotonic seconds of its last use: a flow was made from it, or a sweep found one. Of a static mapping,
    /// the number of its publication.
    pub last_used_s: u32,
    /// Coarse monotonic seconds of its creation.
    pub created_s: u32,
    /// Its place in the table.
    pub position: u32,
    /// One of [`kind`].
    pub kind: u8,
}

impl Mapping {
    /// Whether the controller made it.
    #[inline(always)]
    #[must_use]
    pub const fn is_static(&self) -> bool {
        self.kind != kind::DYNAMIC
    }

    /// Number of its publication, from 1; zero for one that the site made.
    #[inline(always)]
    #[must_use]
    pub const fn publication(&self) -> u32 {
        if self.is_static() { self.last_used_s } else { 0 }
    }

    /// Its outside.
    #[inline(always)]
    #[must_use]
    pub const fn outside(&self, protocol: u8) -> OutsideKey {
        OutsideKey {
            address: self.address,
            port: self.port,
            protocol,
            pad: 0,
        }
    }
}

/// Reads the record of the mapping at `position`.
#[inline(always)]
pub fn read<V: Words>(record: V, position: u32) -> (InsideKey, Mapping) {
    let (address, outside) = halves(record.load(word::OUTSIDE));
    let (site, inner) = halves(record.load(word::INSIDE));
    let (inside, last_used_s) = halves(record.load(word::PORT_USED));
    let (created_s, _) = halves(record.load(word::CREATED));
    let [o0, o1, protocol, _] = outside.to_ne_bytes();
    let [i0, i1, _, kind] = inside.to_ne_bytes();
    let key = InsideKey {
        site,
        address: inner.to_ne_bytes(),
        port: [i0, i1],
        protocol,
        pad: 0,
    };
    let mapping = Mapping {
        address: address.to_ne_bytes(),
        port: [o0, o1],
        last_used_s,
        created_s,
        position,
        kind,
    };
    (key, mapping)
}

/// Writes the record of a mapping that no reader sees yet; `other` is its place in the inside index.
#[inline(always)]
pub fn write<V: Words>(record: V, key: &InsideKey, mapping: &Mapping, other: u32) {
    record.store(
        word::OUTSIDE,
        pair(
            u32::from_ne_bytes(mapping.address),
            port_protocol(mapping.port, key.protocol),
        ),
    );
    record.store(word::INSIDE, pair(key.site, u32::from_ne_bytes(key.address)));
    record.store(
        word::PORT_USED,
        pair(
            port_protocol(key.port, key.protocol) | kind_bits(mapping.kind),
            mapping.last_used_s,
        ),
    );
    record.store(word::CREATED, pair(mapping.created_s, other));
}

/// The kind of a mapping beside its inner port and protocol.
#[inline(always)]
#[must_use]
pub const fn kind_bits(kind: u8) -> u32 {
    u32::from_ne_bytes([0, 0, 0, kind])
}
