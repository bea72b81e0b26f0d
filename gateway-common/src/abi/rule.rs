//! A rule generation: tables that give the first matching rule of a packet in the same few steps, however many rules
//! there are.
//!
//! Each dimension of a packet (who, source, destination, protocol, ports) is looked up by itself and gives a *vector*:
//! one bit for each compiled rule, set if the rule's condition on this dimension holds. The lowest bit that is set in
//! all of them is the rule that decides. In front of a vector stands its *summary*, one bit for each of its words, so
//! that words without a match are not read (the aggregated bit vector of Baboescu and Varghese, SIGCOMM 2001).
//!
//! A generation is one array of [`Chunk`]s, addressed as one run of 64-bit words:
//!
//! | first word | what |
//! |---|---|
//! | 0 | zeroes: what an entry of zero leads to is a vector without a bit |
//! | [`layout::HEADER`] | [`RuleSetHeader`] |
//! | [`layout::PROTOCOLS`] | entry of `direction * 256 + protocol` |
//! | [`layout::SOURCE_PORTS`], [`layout::DESTINATION_PORTS`] | entry of each port |
//! | [`layout::SITES`], [`layout::SOURCES`], [`layout::DESTINATIONS`], [`layout::TO_SITES`] | entry of the upper 16 bits of the key |
//! | [`layout::FREE`] | blocks of 256 entries, vectors, the hash of group bitmaps, records |
//!
//! An *entry* is the 32-bit word index of a vector, or with [`layout::CHILD`] that of a block for the key's next 8 bits.
//! No vector and no block crosses the end of a chunk.
//!
//! A rule about a destination by name has its bit in the vectors of the sets of names that it speaks of
//! ([`RuleSetHeader::names`]): on the destination it holds if the address is in its ranges, or open for one of those
//! sets ([`super::names`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;

/// Values of [`Rule::action`].
pub mod action {
    /// Drop.
    pub const DENY: u8 = 0;
    /// Let the flow be made.
    pub const ALLOW: u8 = 1;
    /// Drop, and tell the sender (RFC 1812 section 5.2.7.1: ICMP type 3 code 13).
    pub const REJECT: u8 = 2;
}

/// Bits of [`Rule::flags`].
pub mod flag {
    /// Send an event for each new flow or denied packet (rate-limited by the ring).
    pub const LOG: u8 = 1;
}

/// Which way a new flow goes.
pub mod direction {
    /// From a site to the center.
    pub const SITE_TO_CENTER: u8 = 0;
    /// From the center to a site.
    pub const CENTER_TO_SITE: u8 = 1;
    /// From one site to another, through the center.
    pub const SITE_TO_SITE: u8 = 2;
    /// From a site to the Internet.
    pub const SITE_TO_INTERNET: u8 = 3;
    /// How many there are.
    pub const COUNT: u32 = 4;
    /// Bit of each in a rule.
    pub const ALL: u8 = (1 << COUNT) - 1;
}

/// Where things stand in a generation; word indices unless said otherwise.
pub mod layout {
    /// Words of a chunk.
    pub const CHUNK_WORDS: u32 = 8192;
    /// Words of a summary: bits for [`VECTOR_WORDS`] words.
    pub const SUMMARY_WORDS: u32 = 4;
    /// Most words of a vector behind its summary.
    pub const VECTOR_WORDS: u32 = SUMMARY_WORDS * 64;
    /// Entries of a block.
    pub const BLOCK_ENTRIES: u32 = 256;
    /// Words of a block, which holds two entries a word; blocks begin at a multiple of it.
    pub const BLOCK_WORDS: u32 = BLOCK_ENTRIES / 2;
    /// Words of a table with an entry for each value of 16 bits.
    pub const TABLE_WORDS: u32 = 65_536 / 2;
    /// The [`super::RuleSetHeader`].
    pub const HEADER: u32 = 512;
    /// Entries by direction and protocol.
    pub const PROTOCOLS: u32 = 1024;
    /// Entries by source port.
    pub const SOURCE_PORTS: u32 = CHUNK_WORDS;
    /// Entries by destination port; for ICMP by type and code.
    pub const DESTINATION_PORTS: u32 = SOURCE_PORTS + TABLE_WORDS;
    /// Entries by the upper half of a site's number: rules that name the site.
    pub const SITES: u32 = DESTINATION_PORTS + TABLE_WORDS;
    /// Entries by the upper half of the source address.
    pub const SOURCES: u32 = SITES + TABLE_WORDS;
    /// Entries by the upper half of the destination address.
    pub const DESTINATIONS: u32 = SOURCES + TABLE_WORDS;
    /// Entries by the upper half of the number of the site that is called: rules that name it.
    pub const TO_SITES: u32 = DESTINATIONS + TABLE_WORDS;
    /// What is laid out by each generation as it needs.
    pub const FREE: u32 = TO_SITES + TABLE_WORDS;
    /// Bit of an entry that leads to a block.
    pub const CHILD: u32 = 1 << 31;
    /// Group bitmaps of one bucket of their hash.
    pub const GROUPS_A_BUCKET: u32 = 8;
    /// Most chunks of a generation: 128 MiB.
    pub const CHUNKS_MAX: u32 = 2048;
}

/// An element of a generation's array.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Chunk {
    /// Its words, in native order.
    pub words: [u64; layout::CHUNK_WORDS as usize],
}
abi_assert!(Chunk, size = 65536, align = 8);

/// The first words of a generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RuleSetHeader {
    /// Number of the generation, counting from 1.
    pub generation: u32,
    /// Compiled rules.
    pub count: u32,
    /// What is added to [`Record::source_rule`] to find a rule's counter in `RULE_HITS`.
    pub counter_base: u32,
    /// Word of the hash of group bitmaps: buckets of pairs of bitmap and vector (0: free), a bitmap's bucket is
    /// `(bitmap * GROUP_MULTIPLIER) >> group_shift`.
    pub groups: u32,
    /// Number of bits to shift a product by to find its bucket.
    pub group_shift: u32,
    /// Word of the [`Record`] of the first compiled rule.
    pub records: u32,
    /// As `groups`, for the groups of the site that is called.
    pub to_groups: u32,
    /// As `group_shift`.
    pub to_group_shift: u32,
    /// Word of the entries of sets of names: entry n is the vector of the rules that name set n.
    pub names: u32,
    /// How many entries; zero if no rule speaks of names.
    pub name_sets: u32,
}
abi_assert!(RuleSetHeader, size = 40, align = 4);

/// Spreads group bitmaps over their hash (2^64 divided by the golden ratio).
pub const GROUP_MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a compiled rule says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Record {
    /// Index of the rule in the operator's file (several compiled rules may come from one).
    pub source_rule: u32,
    /// One of [`action`].
    pub action: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 2],
}
abi_assert!(Record, size = 8, align = 4);

/// One rule by itself, as plain as can be: what the packet vectors are written in and compiled classifiers are compared
/// with. It is in no map. Addresses are `(value & mask) == address`; ports are inclusive ranges in native order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rule {
    /// Any of these groups; zero: no condition.
    pub groups: u64,
    /// This site; zero: no condition (site ids start at 1).
    pub site: u32,
    /// Source prefix, network order.
    pub source: [u8; 4],
    /// Source mask, network order.
    pub source_mask: [u8; 4],
    /// Destination prefix, network order.
    pub destination: [u8; 4],
    /// Destination mask, network order.
    pub destination_mask: [u8; 4],
    /// Lowest source port.
    pub source_port_low: u16,
    /// Highest source port.
    pub source_port_high: u16,
    /// Lowest destination port.
    pub destination_port_low: u16,
    /// Highest destination port.
    pub destination_port_high: u16,
    /// IP protocol; zero: any.
    pub protocol: u8,
    /// One of [`action`].
    pub action: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Bit n: flows of direction n; zero: every direction.
    pub directions: u8,
    /// Index of the rule in the operator's file.
    pub source_rule: u32,
    /// Destinations that are open for this set of names, in place of the prefix; zero: the prefix.
    pub name_set: u32,
    /// The site that is called; zero: no condition.
    pub to_site: u32,
    /// Zero.
    pub pad: u32,
    /// Any of these groups of the site that is called; zero: no condition.
    pub to_groups: u64,
}
abi_assert!(Rule, size = 64, align = 8);
