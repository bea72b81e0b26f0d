//! Bytes that cross the border between kernel and user space.
//!
//! Every type is `repr(C)` with explicit padding, has no `bool`, `Option`, enum or `usize`, and its size is asserted.
//! Fields that hold packet data are byte arrays in network order; all others are native integers (the map never
//! leaves the machine). Any change of layout or meaning raises [`ABI_VERSION`].

pub mod clock;
pub mod event;
pub mod flow;
pub mod geometry;
pub mod ike;
pub mod interface;
pub mod names;
pub mod nat;
pub mod next_hop;
pub mod rule;
pub mod sa;
pub mod site;
pub mod stats;
pub mod trace;
pub mod usage;

/// Version of the layout and meaning of all maps; carried by the `ABI` map and checked at attach.
pub const ABI_VERSION: u32 = 12;

/// Asserts the size and alignment of an ABI type at compile time, and (for the loader) that it may be copied as bytes.
#[macro_export]
macro_rules! abi_assert {
    ($type:ty, size = $size:expr, align = $align:expr) => {
        const _: () = {
            assert!(
                core::mem::size_of::<$type>() == $size,
                concat!(stringify!($type), ": size changed, raise ABI_VERSION")
            );
            assert!(
                core::mem::align_of::<$type>() == $align,
                concat!(stringify!($type), ": alignment changed, raise ABI_VERSION")
            );
            const fn is_plain<T: zerocopy::IntoBytes + zerocopy::FromBytes>() {}
            is_plain::<$type>();
        };

        // SAFETY: `IntoBytes` and `FromBytes`, just required, say that the type has no padding and no invalid value.
        #[cfg(feature = "aya")]
        unsafe impl aya::Pod for $type {}
    };
}

/// Names of the maps, as the loader finds them.
pub mod map {
    /// `Array<u32>[1]`: [`super::ABI_VERSION`] of the object that made the map set.
    pub const ABI: &str = "ABI";
    /// `Array<Interfaces>[1]`: role and addresses of each attached interface.
    pub const INTERFACES: &str = "INTERFACES";
    /// `Array<SaInbound>[SA_PLACES]`: inbound SAs, each in the place that its SPI says ([`super::sa::SaInbound::place`]).
    pub const SA_INBOUND: &str = "SA_INBOUND";
    /// `LpmTrie<SaOutboundKey, u32>`: (site, inner destination) to the number of the outbound SA.
    pub const SA_ROUTES: &str = "SA_ROUTES";
    /// `Array<SaOutbound>`: outbound SAs by number. One that flows may know changes only with the epoch.
    pub const SA_OUTBOUND: &str = "SA_OUTBOUND";
    /// `Array<SaShares>`: SAs that share the traffic of one in [`SA_OUTBOUND`], at the same number.
    pub const SA_SHARES: &str = "SA_SHARES";
    /// `HashMap<SaPathKey, SaPath>`: the outbound SA whose packet an ICMP error quotes.
    pub const SA_PATHS: &str = "SA_PATHS";
    /// `XskMap`: slot = `Interface::xsk_base + rx_queue_index`.
    pub const XSKS: &str = "XSKS";
    /// `HashMap<u32 site, Site>`, each with its number in it.
    pub const SITES: &str = "SITES";
    /// `Array<[u64; 8]>`, memory-mapped: buckets of the flow table, by the site's packet
    /// ([`crate::tables::index`]). As many as the loader says, like all arrays of the two tables.
    pub const FLOW_INDEX: &str = "FLOW_INDEX";
    /// `Array<[u64; 8]>`, memory-mapped: buckets of the flow table, by the center's answer.
    pub const FLOW_ANSWERS: &str = "FLOW_ANSWERS";
    /// `Array<[u64; 16]>`, memory-mapped: records of flows ([`super::flow::word`]), one for each place of the index.
    pub const FLOWS: &str = "FLOWS";
    /// `Array<[u64; 8]>`, memory-mapped: buckets of the mapping table, by the outside.
    pub const MAPPING_OUTSIDES: &str = "MAPPING_OUTSIDES";
    /// `Array<[u64; 8]>`, memory-mapped: buckets of the mapping table, by the inside.
    pub const MAPPING_INSIDES: &str = "MAPPING_INSIDES";
    /// `Array<[u64; 4]>`, memory-mapped: records of mappings ([`super::nat::word`]), one for each place of the outsides.
    pub const MAPPINGS: &str = "MAPPINGS";
    /// `ProgramArray` of the stages of `clear` ([`crate::path::open::Stage`]).
    pub const STAGES: &str = "STAGES";
    /// `Array<[u64; 16]>[SITES_MAX]`, memory-mapped: what each site uses ([`super::usage::word`]).
    pub const SITE_USAGE: &str = "SITE_USAGE";
    /// `Array<[u64; 2]>[1]`, memory-mapped: clock and epochs ([`super::clock::word`]).
    pub const CLOCK: &str = "CLOCK";
    /// `ArrayOfMaps[1]` of `Array<Chunk>`: the active rule generation, as large as it needs ([`super::rule`]).
    pub const RULE_SETS: &str = "RULE_SETS";
    /// `HashMap<[u8; 4] address, OpenAddress>`: addresses that are open by name ([`super::names`]).
    pub const OPEN_NAMES: &str = "OPEN_NAMES";
    /// `LpmTrie<PublicationSource, u32>`: sources that may open flows to what is published.
    pub const PUBLICATION_SOURCES: &str = "PUBLICATION_SOURCES";
    /// `LpmTrie<[u8; 4] destination, u32>`: number of the next hop on the core side.
    pub const ROUTES: &str = "ROUTES";
    /// `LpmTrie<[u8; 4] destination, u32>`: direction ([`super::rule::direction`]) of flows that sites open to it; without
    /// an entry, to the Internet.
    pub const DIRECTIONS: &str = "DIRECTIONS";
    /// `Array<NextHop>`, memory-mapped for workers to read: next hops by number. One that flows may know changes only with
    /// the epoch.
    pub const NEXT_HOPS: &str = "NEXT_HOPS";
    /// `DevMapHash` (key = ifindex) of the interfaces that XDP redirects out of.
    pub const EGRESS: &str = "EGRESS";
    /// `PerCpuArray<u64>` indexed by [`crate::drop::DropReason`].
    pub const DROPS: &str = "DROPS";
    /// `PerCpuArray<Counter>` indexed by [`super::stats::Path`].
    pub const PATHS: &str = "PATHS";
    /// `PerCpuArray<Counter>[2 * RULES_MAX]` indexed by the operator's rule in the half that the generation names: packets
    /// that opened a flow or were denied.
    pub const RULE_HITS: &str = "RULE_HITS";
    /// `RingBuf` of [`super::event::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// `RingBuf` of [`super::trace::TraceEvent`].
    pub const TRACES: &str = "TRACES";
    /// `PerCpuArray<u64>[1]`: trace events that found no room, or were too many in their second.
    pub const TRACES_LOST: &str = "TRACES_LOST";
    /// `ProgramArray[1]`: the program that tells of a packet.
    pub const TRACER: &str = "TRACER";
    /// `HashMap<[u8; 16] source, RateBucket>` (LRU): per-source IKE rate limit on `wan`, and that of each IKE SA beyond it.
    pub const IKE_RATE: &str = "IKE_RATE";
    /// `Array<[u64; 1]>[SA_PLACES]`, memory-mapped: the gateway's own SPI of each IKE SA that stands, in the place that it says
    /// ([`super::ike::place`]); zero where none does.
    pub const IKE_SPIS: &str = "IKE_SPIS";
    /// `Array<Settings>[1]`, memory-mapped for workers to read.
    pub const SETTINGS: &str = "SETTINGS";
}

/// Limits shared by loader, packet core and configuration.
pub mod limit {
    /// Compiled rules of one generation.
    pub const RULES_MAX: u32 = super::rule::layout::VECTOR_WORDS * 64;
    /// Flows that a table may be made for: places are numbered by 29 bits, and 8 hold 5.
    pub const FLOWS_MAX: u32 = 67_108_864;
    /// Flows and mappings of a table whose size nobody says: the object as it is compiled.
    pub const FLOWS_DEFAULT: u32 = 16_384;
    /// Flows or mappings for which a table has a bucket of eight places: filled so far, two full buckets for one key do
    /// not occur among millions.
    pub const PER_BUCKET: u32 = 5;
    /// Inbound SAs.
    pub const SAS_MAX: u32 = 131_072;
    /// Lowest bits of an SPI that say where its inbound SA, or its IKE SA, lies: twice as many places as SAs, so that one that is
    /// free is soon drawn.
    pub const SA_INDEX_BITS: u32 = 18;
    /// Places of inbound SAs, and of IKE SAs.
    pub const SA_PLACES: u32 = 1 << SA_INDEX_BITS;
    /// Numbers of outbound SAs: one that changes takes another number before its own is free, also when all are in use.
    pub const SA_NUMBERS: u32 = SAS_MAX + 1024;
    /// Sites.
    pub const SITES_MAX: u32 = 65_536;
    /// Receive queues of one interface.
    pub const QUEUES_MAX: u32 = 64;
    /// Interfaces with a role.
    pub const INTERFACES_MAX: u32 = 16;
    /// Addresses of each family that an interface is reached at, beside its first.
    pub const FURTHER_ADDRESSES_MAX: usize = 4;
    /// Slots of the XSK map.
    pub const XSK_SLOTS: u32 = QUEUES_MAX * INTERFACES_MAX;
    /// Prefixes on the core side, each with its next hop.
    pub const NEXT_HOPS_MAX: u32 = 16_384;
    /// Numbers of next hops, and prefixes that may be there at a time: all may change, and what is new comes before what is
    /// old goes. So the trie is never full, of which Linux before 6.13 changes no entry.
    pub const HOP_NUMBERS: u32 = 2 * NEXT_HOPS_MAX;
    /// Networks of the center and outside addresses of sites, as prefixes.
    pub const DIRECTIONS_MAX: u32 = 2 * SITES_MAX;
    /// Networks that may open flows to what is published, of all publications.
    pub const PUBLICATION_SOURCES_MAX: u32 = 65_536;
    /// Site groups; a site's groups are a bitmap in a `u64`.
    pub const GROUPS_MAX: u32 = 64;
    /// Sets of names that rules of one generation, or those that were in force before it, speak of.
    pub const NAME_SETS_MAX: u32 = 1024;
    /// Addresses that are open by name at a time.
    pub const OPEN_ADDRESSES_MAX: u32 = 65_536;
    /// Buckets of a table for so many flows or mappings.
    #[must_use]
    pub const fn buckets(entries: u32) -> u32 {
        let buckets = entries.div_ceil(PER_BUCKET);
        if buckets < 2 { 2 } else { buckets }
    }

    /// Attempts to find a free port before a new flow is refused.
    pub const PORT_TRIES: u32 = 64;
    /// Of them, ports that are drawn one by one; the rest follow on the last drawn, so that a small range is seen whole.
    pub const PORT_TRIES_KEYED: u32 = 16;
    /// Attempts that show that a site's ports run short: so many fail in a row one time in five when nine of ten ports are
    /// taken, and one time in 65,536 when half of them are.
    pub const PORT_TRIES_SHORT: u32 = 16;
}
