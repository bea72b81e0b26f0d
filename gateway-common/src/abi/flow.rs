//! Tracked connections: the flow table's records, as they lie in shared memory and as they are read.
//!
//! A record is two cache lines of words. The first says who and how, and changes rarely; the second is what each packet
//! changes, one half for each direction. A direction of a flow comes in by one queue (that of its SA's worker, or the
//! one that its addresses hash to), so that its half has one writer at a time and plain stores lose nothing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi_assert;
use crate::tables::hash::{port_protocol, ports};
use crate::tables::words::Words;

/// Words of a record.
pub const RECORD_WORDS: usize = 16;

/// Numbers of the words of a record. `low | high << 32`, where there are two.
pub mod word {
    /// Site; inner source address.
    pub const SITE_SOURCE: usize = 0;
    /// Destination address; source and destination port.
    pub const DESTINATION_PORTS: usize = 1;
    /// Translated address; translated port, protocol, zero.
    pub const NAT: usize = 2;
    /// [`super::Progress`]; place of the mapping. Changed by compare-and-swap.
    pub const PROGRESS: usize = 3;
    /// Next hop: its number; the epoch in which it was looked up.
    pub const HOP: usize = 4;
    /// Outbound SA: its number; the epoch in which it was looked up.
    pub const SA: usize = 5;
    /// Second of the first packet; rule generation that allowed it.
    pub const CREATED: usize = 6;
    /// Rule that allowed it; place of the other index's entry.
    pub const RULE: usize = 7;
    /// First word of what packets of the site write.
    pub const OUT: usize = 8;
    /// First word of what packets of the center write.
    pub const IN: usize = 12;

    /// Behind [`OUT`] or [`IN`]: end of the sender's data; end of what it lets the other send (TCP).
    pub const EDGES: usize = 0;
    /// Behind [`OUT`] or [`IN`]: what the sender has acknowledged (TCP); second of the last packet.
    pub const SEEN: usize = 1;
    /// Behind [`OUT`] or [`IN`]: packets (48 bits); largest window of the sender, in its own scale (16 bits, TCP).
    pub const PACKETS: usize = 2;
    /// Behind [`OUT`] or [`IN`]: bytes (IP length).
    pub const BYTES: usize = 3;
}

/// Bits of [`word::PACKETS`] that count packets.
pub const PACKETS_BITS: u32 = 48;
/// Mask of [`PACKETS_BITS`].
pub const PACKETS_MASK: u64 = (1 << PACKETS_BITS) - 1;

/// Two halves as a word.
#[inline(always)]
#[must_use]
pub const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | ((high as u64) << 32)
}

/// Both halves of a word.
#[inline(always)]
#[must_use]
pub const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// A flow seen from the site: what the `clear` program parses before translation.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowKey {
    /// Site.
    pub site: u32,
    /// Inner source address (the site's own).
    pub source: [u8; 4],
    /// Inner destination address (the center's).
    pub destination: [u8; 4],
    /// Source port, or the identifier of an ICMP query; network order.
    pub source_port: [u8; 2],
    /// Destination port; for ICMP [`Query::port`](crate::packet::icmp::Query::port); network order.
    pub destination_port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
abi_assert!(FlowKey, size = 20, align = 4);

impl FlowKey {
    /// No flow's, to be overwritten.
    pub const NONE: Self = Self {
        site: 0,
        source: [0; 4],
        destination: [0; 4],
        source_port: [0; 2],
        destination_port: [0; 2],
        protocol: 0,
        pad: [0; 3],
    };
}

/// Values of [`Progress::state`], below [`STATES`](super::interface::STATES).
pub mod state {
    /// TCP SYN from the site seen.
    pub const TCP_SYN_SENT: u8 = 1;
    /// TCP SYN+ACK from the center seen.
    pub const TCP_SYN_RECEIVED: u8 = 2;
    /// TCP handshake complete.
    pub const TCP_ESTABLISHED: u8 = 3;
    /// FIN seen from one side.
    pub const TCP_FIN: u8 = 4;
    /// Reset.
    pub const TCP_CLOSED: u8 = 5;
    /// FIN seen from both sides.
    pub const TCP_TIME_WAIT: u8 = 6;
    /// SYN seen from both sides (RFC 9293 section 3.5, simultaneous open).
    pub const TCP_SYN_SENT_BOTH: u8 = 7;
    /// UDP not answered yet.
    pub const UDP_UNREPLIED: u8 = 8;
    /// UDP answered once.
    pub const UDP_REPLIED: u8 = 9;
    /// UDP answered twice or more.
    pub const UDP_STREAM: u8 = 10;
    /// ICMP query not answered yet.
    pub const ICMP_UNREPLIED: u8 = 11;
    /// ICMP query answered.
    pub const ICMP_REPLIED: u8 = 12;
    /// Another protocol, not answered yet.
    pub const OTHER_UNREPLIED: u8 = 13;
    /// Another protocol, answered.
    pub const OTHER_REPLIED: u8 = 14;
    /// No flow: a remote address that may send to a mapping (address-dependent filtering, [`crate::path::enter`]).
    pub const PERMISSION: u8 = 15;
}

/// What packets have made of a flow so far: the low half of [`word::PROGRESS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// One of [`state`].
    pub state: u8,
    /// Bit 0: FIN seen from the site; bit 1: FIN seen from the center.
    pub fins: u8,
    /// Window scale of the site (low four bits) and of the center (high four bits), RFC 7323 section 2.
    pub scales: u8,
    /// Bits of [`crate::path::tcp::flag`]: what is known of the handshake.
    pub flags: u8,
}

impl Progress {
    /// From the low half of the word.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self {
            state: bits as u8,
            fins: (bits >> 8) as u8,
            scales: (bits >> 16) as u8,
            flags: (bits >> 24) as u8,
        }
    }

    /// As the low half of the word.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.state as u32 | (self.fins as u32) << 8 | (self.scales as u32) << 16 | (self.flags as u32) << 24
    }
}

/// What packets of one direction have written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Half {
    /// Sequence number behind the sender's data (TCP).
    pub end: u32,
    /// Sequence number behind what the sender lets the other send (TCP).
    pub limit: u32,
    /// What the sender has acknowledged (TCP).
    pub acknowledged: u32,
    /// Coarse monotonic seconds of the last packet.
    pub seen_s: u32,
    /// Largest window that the sender offered, in units of its scale (TCP).
    pub window: u16,
    /// Packets.
    pub packets: u64,
    /// Bytes (IP length).
    pub bytes: u64,
}

impl Half {
    /// Reads the half that begins at word `at`.
    #[inline(always)]
    pub fn read<V: Words>(record: V, at: usize) -> Self {
        let (end, limit) = halves(record.load(at + word::EDGES));
        let (acknowledged, seen_s) = halves(record.load(at + word::SEEN));
        let packets = record.load(at + word::PACKETS);
        Self {
            end,
            limit,
            acknowledged,
            seen_s,
            window: (packets >> PACKETS_BITS) as u16,
            packets: packets & PACKETS_MASK,
            bytes: record.load(at + word::BYTES),
        }
    }

    /// Reads what the other direction needs of it in TCP.
    #[inline(always)]
    pub fn read_tcp<V: Words>(record: V, at: usize) -> Self {
        let (end, limit) = halves(record.load(at + word::EDGES));
        Self {
            end,
            limit,
            window: (record.load(at + word::PACKETS) >> PACKETS_BITS) as u16,
            ..Self::default()
        }
    }

    /// Writes it.
    #[inline(always)]
    pub fn write<V: Words>(&self, record: V, at: usize) {
        record.store(at + word::EDGES, pair(self.end, self.limit));
        record.store(at + word::SEEN, pair(self.acknowledged, self.seen_s));
        record.store(
            at + word::PACKETS,
            (self.packets & PACKETS_MASK) | ((self.window as u64) << PACKETS_BITS),
        );
        record.store(at + word::BYTES, self.bytes);
    }
}

/// A tracked connection with its translation, as it is read out of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// State.
    pub progress: Progress,
    /// What packets of the site wrote.
    pub out: Half,
    /// What packets of the center wrote.
    pub back: Half,
    /// Coarse monotonic seconds of the first packet.
    pub created_s: u32,
    /// Rule generation that allowed it.
    pub generation: u32,
    /// [`Rule::source_rule`](super::rule::Rule::source_rule) of the rule that allowed it.
    pub rule: u32,
    /// Translated source address.
    pub nat_address: [u8; 4],
    /// Translated source port or ICMP identifier.
    pub nat_port: [u8; 2],
    /// Place of its mapping in the mapping table.
    pub mapping: u32,
}

impl Flow {
    /// Coarse monotonic seconds of the last packet.
    #[inline(always)]
    #[must_use]
    pub const fn last_seen_s(&self) -> u32 {
        later(self.out.seen_s, self.back.seen_s)
    }
}

/// The later of two seconds of a clock that may wrap.
#[inline(always)]
#[must_use]
pub const fn later(one_s: u32, other_s: u32) -> u32 {
    if one_s.wrapping_sub(other_s).cast_signed() >= 0 {
        one_s
    } else {
        other_s
    }
}

/// Reads the key of a record.
#[inline(always)]
pub fn read_key<V: Words>(record: V) -> FlowKey {
    let [_, _, protocol, _] = halves(record.load(word::NAT)).1.to_ne_bytes();
    key_of(
        record.load(word::SITE_SOURCE),
        record.load(word::DESTINATION_PORTS),
        protocol,
    )
}

/// A key of [`word::SITE_SOURCE`], [`word::DESTINATION_PORTS`] and the protocol.
#[inline(always)]
pub(crate) const fn key_of(site_source: u64, destination_ports: u64, protocol: u8) -> FlowKey {
    let (site, source) = halves(site_source);
    let (destination, ports) = halves(destination_ports);
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    FlowKey {
        site,
        source: source.to_ne_bytes(),
        destination: destination.to_ne_bytes(),
        source_port: [s0, s1],
        destination_port: [d0, d1],
        protocol,
        pad: [0; 3],
    }
}

/// A key as [`word::SITE_SOURCE`] and [`word::DESTINATION_PORTS`].
#[inline(always)]
pub(crate) const fn key_words(key: &FlowKey) -> (u64, u64) {
    (
        pair(key.site, u32::from_ne_bytes(key.source)),
        pair(
            u32::from_ne_bytes(key.destination),
            ports(key.source_port, key.destination_port),
        ),
    )
}

/// A key as it lies in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyWords {
    /// [`word::SITE_SOURCE`].
    pub site_source: u64,
    /// [`word::DESTINATION_PORTS`].
    pub destination_ports: u64,
    /// IP protocol.
    pub protocol: u8,
}

impl KeyWords {
    /// The words of a key.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: &FlowKey) -> Self {
        let (site_source, destination_ports) = key_words(key);
        Self {
            site_source,
            destination_ports,
            protocol: key.protocol,
        }
    }

    /// Whether the record is that of the key.
    #[inline(always)]
    pub fn are_of<V: Words>(&self, record: V) -> bool {
        let [_, _, protocol, _] = halves(record.load(word::NAT)).1.to_ne_bytes();
        record.load(word::SITE_SOURCE) == self.site_source
            && record.load(word::DESTINATION_PORTS) == self.destination_ports
            && protocol == self.protocol
    }
}

/// Reads a whole record.
#[inline(always)]
pub fn read<V: Words>(record: V) -> (FlowKey, Flow) {
    let (nat_address, nat) = halves(record.load(word::NAT));
    let (progress, mapping) = halves(record.load(word::PROGRESS));
    let (created_s, generation) = halves(record.load(word::CREATED));
    let (rule, _) = halves(record.load(word::RULE));
    let [n0, n1, _, _] = nat.to_ne_bytes();
    let flow = Flow {
        progress: Progress::from_bits(progress),
        out: Half::read(record, word::OUT),
        back: Half::read(record, word::IN),
        created_s,
        generation,
        rule,
        nat_address: nat_address.to_ne_bytes(),
        nat_port: [n0, n1],
        mapping,
    };
    (read_key(record), flow)
}

/// Writes key and translation of a record that no reader sees yet.
#[inline(always)]
pub fn write_key<V: Words>(record: V, key: &FlowKey, (nat_address, nat_port): ([u8; 4], [u8; 2])) {
    let (site_source, destination_ports) = key_words(key);
    record.store(word::SITE_SOURCE, site_source);
    record.store(word::DESTINATION_PORTS, destination_ports);
    record.store(
        word::NAT,
        pair(
            u32::from_ne_bytes(nat_address),
            port_protocol(nat_port, key.protocol),
        ),
    );
}

/// Writes a whole record, which no reader sees yet; `other` is its place in the index of answers.
#[inline(always)]
pub fn write<V: Words>(record: V, key: &FlowKey, flow: &Flow, other: u32) {
    write_key(record, key, (flow.nat_address, flow.nat_port));
    record.store(word::PROGRESS, pair(flow.progress.bits(), flow.mapping));
    record.store(word::HOP, 0);
    record.store(word::SA, 0);
    record.store(word::CREATED, pair(flow.created_s, flow.generation));
    record.store(word::RULE, pair(flow.rule, other));
    flow.out.write(record, word::OUT);
    flow.back.write(record, word::IN);
}
