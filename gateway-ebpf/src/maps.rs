//! All maps. Their names and layouts are `gateway_common::abi::map`.

use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf, XskMap,
};
use aya_ebpf::macros::btf_map;
use gateway_common::abi::{
    clock,
    event::{self, Event},
    flow,
    interface::{Interfaces, RateBucket, Settings},
    limit,
    names::OpenAddress,
    nat,
    next_hop::NextHop,
    rule::Chunk,
    sa::{SaInbound, SaOutbound, SaOutboundKey, SaPath, SaPathKey, SaShares},
    site::Site,
    stats::{self, Counter},
    trace::TraceEvent,
    usage,
};
use gateway_common::drop::DROP_SLOTS;
use gateway_common::path::{open, rules::SLOTS};
use gateway_common::tables::index::WIDTH;

use crate::arrays::Secret;

/// IKE sources whose rate is watched at a time.
const IKE_SOURCES: usize = 65_536;
/// Bytes of the event ring: about 26,000 events of 32 bytes with their headers of 8.
const EVENT_BYTES: usize = 1 << 20;
/// Bytes of the trace ring: about 6,500 events of 72 bytes with their headers of 8.
const TRACE_BYTES: usize = 1 << 19;
/// Kinds of `gateway_common::abi::event::kind`.
const EVENT_KINDS: usize = event::KINDS as usize;
/// A table that is as large as what is in it, not as its limit.
const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

/// A table that user space maps into its memory.
const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;
/// Buckets of a table whose size the loader does not say.
const BUCKETS: usize = limit::buckets(limit::FLOWS_DEFAULT) as usize;

/// Secret and sizes of the tables.
#[unsafe(no_mangle)]
pub(crate) static GEOMETRY: Secret = Secret::new(BUCKETS as u32, BUCKETS as u32);

/// Buckets of an index.
type Buckets = Array<[u64; WIDTH], BUCKETS, MMAPABLE>;

/// Generations differ in size.
const INNER_MAP: usize = aya_ebpf::bindings::BPF_F_INNER_MAP as usize;

/// One rule generation.
pub(crate) type RuleSet = Array<Chunk, 1, INNER_MAP>;

#[btf_map]
pub(crate) static ABI: Array<u32, 1> = Array::new();
#[btf_map]
pub(crate) static INTERFACES: Array<Interfaces, 1> = Array::new();
#[btf_map]
pub(crate) static SA_INBOUND: Array<SaInbound, { limit::SA_PLACES as usize }> = Array::new();
#[btf_map]
pub(crate) static SA_ROUTES: LpmTrie<SaOutboundKey, u32, { limit::SAS_MAX as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static SA_OUTBOUND: Array<SaOutbound, { limit::SA_NUMBERS as usize }> = Array::new();
#[btf_map]
pub(crate) static SA_SHARES: Array<SaShares, { limit::SA_NUMBERS as usize }> = Array::new();
#[btf_map]
pub(crate) static SA_PATHS: HashMap<SaPathKey, SaPath, { limit::SA_NUMBERS as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
pub(crate) static XSKS: XskMap<{ limit::XSK_SLOTS as usize }> = XskMap::new();
#[btf_map]
pub(crate) static SITES: HashMap<u32, Site, { limit::SITES_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static FLOW_INDEX: Buckets = Array::new();
#[btf_map]
pub(crate) static FLOW_ANSWERS: Buckets = Array::new();
#[btf_map]
pub(crate) static FLOWS: Array<[u64; flow::RECORD_WORDS], { BUCKETS * WIDTH }, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static MAPPING_OUTSIDES: Buckets = Array::new();
#[btf_map]
pub(crate) static MAPPING_INSIDES: Buckets = Array::new();
#[btf_map]
pub(crate) static MAPPINGS: Array<[u64; nat::RECORD_WORDS], { BUCKETS * WIDTH }, MMAPABLE> = Array::new();
/// Stages of `clear`, by number.
#[btf_map]
pub(crate) static STAGES: ProgramArray<{ open::STAGES as usize }> = ProgramArray::new();
/// What a stage leaves for the next; the shell's own.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<[u64; open::SCRATCH_WORDS], 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SITE_USAGE: Array<[u64; usage::WORDS], { limit::SITES_MAX as usize }, MMAPABLE> =
    Array::new();
#[btf_map]
pub(crate) static CLOCK: Array<[u64; clock::WORDS], 1, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static RULE_SETS: ArrayOfMaps<RuleSet, 1> = ArrayOfMaps::new();
/// Room for the look-up of one packet in the rules; the shell's own.
#[btf_map]
pub(crate) static RULE_SEARCH: PerCpuArray<[u64; SLOTS], 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static OPEN_NAMES: HashMap<
    [u8; 4],
    OpenAddress,
    { limit::OPEN_ADDRESSES_MAX as usize },
    NO_PREALLOC,
> = HashMap::new();
#[btf_map]
pub(crate) static PUBLICATION_SOURCES: LpmTrie<
    nat::PublicationSource,
    u32,
    { limit::PUBLICATION_SOURCES_MAX as usize },
> = LpmTrie::new();
#[btf_map]
pub(crate) static ROUTES: LpmTrie<[u8; 4], u32, { limit::HOP_NUMBERS as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static DIRECTIONS: LpmTrie<[u8; 4], u32, { limit::DIRECTIONS_MAX as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static NEXT_HOPS: Array<NextHop, { limit::HOP_NUMBERS as usize }, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static EGRESS: DevMapHash<{ limit::INTERFACES_MAX as usize }> = DevMapHash::new();
#[btf_map]
pub(crate) static DROPS: PerCpuArray<u64, { DROP_SLOTS as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static PATHS: PerCpuArray<Counter, { stats::PATHS as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static RULE_HITS: PerCpuArray<Counter, { 2 * limit::RULES_MAX as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, EVENT_BYTES> = RingBuf::new();
/// Events of this second on this CPU, by kind; the shell's own.
#[btf_map]
pub(crate) static EVENT_RATE: PerCpuArray<RateBucket, EVENT_KINDS> = PerCpuArray::new();
/// Traced packets.
#[btf_map]
pub(crate) static TRACES: RingBuf<TraceEvent, TRACE_BYTES> = RingBuf::new();
#[btf_map]
pub(crate) static TRACES_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
/// Traced packets of this second on this CPU; the shell's own.
#[btf_map]
pub(crate) static TRACE_RATE: PerCpuArray<RateBucket, 1> = PerCpuArray::new();
/// What a program leaves for the one that tells of its packet; the shell's own.
#[btf_map]
pub(crate) static TRACE_LEFT: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();
/// The program that tells of a packet.
#[btf_map]
pub(crate) static TRACER: ProgramArray<1> = ProgramArray::new();
#[btf_map]
pub(crate) static IKE_RATE: LruHashMap<[u8; 16], RateBucket, IKE_SOURCES> = LruHashMap::new();
#[btf_map]
pub(crate) static IKE_SPIS: Array<[u64; 1], { limit::SA_PLACES as usize }, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1, MMAPABLE> = Array::new();
