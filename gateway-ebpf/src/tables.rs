//! The packet core's tables over BPF maps.

use core::ffi::c_void;
use core::ptr::NonNull;

use aya_ebpf::bindings::{BPF_ANY, xdp_md};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_loop, bpf_map_lookup_elem};
use gateway_common::abi::{
    clock,
    event::Event,
    flow, ike,
    interface::{Interface, RateBucket, Settings},
    limit,
    names::{OpenAddress, SETS_AN_ADDRESS},
    nat::{OutsideKey, PublicationSource},
    next_hop::NextHop,
    rule::{direction, layout},
    sa::{SaInbound, SaOutbound, SaOutboundKey, SaPath, SaPathKey, SaShares},
    site::Site,
    stats::{Counter, Path},
    trace::TraceEvent,
};
use gateway_common::drop::DropReason;
use gateway_common::path::limits::SITE_EVENTS_PER_S;
use gateway_common::path::rules::{self, Judgement, Slot, Tuple};
use gateway_common::path::trace::End;
use gateway_common::tables::flows::FlowTable;
use gateway_common::tables::hash::port_protocol;
use gateway_common::tables::index::WIDTH;
use gateway_common::tables::mappings::MappingTable;
use gateway_common::tables::siphash::{SipKey, siphash};
use gateway_common::tables::words::{Store as _, Words as _};
use gateway_common::tables::{Epochs, Step, Tables};

use crate::arrays::{Array, Secret, Value, hide};
use crate::maps::{
    CLOCK, DIRECTIONS, DROPS, EVENT_RATE, EVENTS, FLOW_ANSWERS, FLOW_INDEX, FLOWS, GEOMETRY, IKE_RATE,
    IKE_SPIS, INTERFACES, MAPPING_INSIDES, MAPPING_OUTSIDES, MAPPINGS, NEXT_HOPS, OPEN_NAMES, PATHS,
    PUBLICATION_SOURCES, ROUTES, RULE_HITS, RULE_SEARCH, RULE_SETS, RuleSet, SA_INBOUND, SA_OUTBOUND,
    SA_PATHS, SA_ROUTES, SA_SHARES, SCRATCH, SETTINGS, SITE_USAGE, SITES, TRACE_LEFT, TRACE_RATE, TRACES,
    TRACES_LOST,
};

/// Events of one kind that one CPU tells in a second; counters have the rest. As many as the shares of sixteen sites.
const EVENTS_PER_S: u32 = 16 * SITE_EVENTS_PER_S;

/// Traced packets that one CPU tells of in a second; what is more is counted as lost.
const TRACES_PER_S: u32 = 8192;

/// The maps as seen by one run of a program.
pub(crate) struct Maps {
    context: *mut xdp_md,
}

impl Maps {
    /// # Safety
    /// `context` is the argument that the kernel gave to the program.
    #[inline(always)]
    pub(crate) unsafe fn new(context: *mut xdp_md) -> Self {
        Self { context }
    }
}

/// Lends a value that only the controller writes. Should it replace the entry meanwhile, the kernel may give the element to
/// another entry of the map at once: each field read is one of an entry's, but not necessarily of this one's. Of a site,
/// [`Tables::is_site`] tells; what is read of an inbound SA decides only whether a worker sees the packet, which knows its
/// SAs itself; and what is told of a path, only to the controller, which knows them as well.
#[inline(always)]
fn lend<'a, V>(pointer: Option<*const V>) -> Option<&'a V> {
    // SAFETY: a look-up returned it, and it stays valid for the run: none of its fields is torn, none is out of bounds.
    pointer.map(|value| unsafe { &*value })
}

/// The interface of an index. An address that the controller changes meanwhile may be read half old, half new: it is
/// compared, and not equal to what a packet has.
#[inline(always)]
fn interface<'a>(ifindex: u32) -> Option<&'a Interface> {
    let all = INTERFACES.get(0)?;
    let place = all.indexes.iter().position(|index| *index == ifindex)?;
    // The verifier goes on once, and not once for each place.
    let place = hide(place as u64) as usize % all.interfaces.len();
    all.interfaces.get(place)
}

impl Tables for Maps {
    type Buckets<'a> = Array;
    type FlowRecords<'a> = Array;
    type MappingRecords<'a> = Array;
    type Usage<'a> = Value;
    type Scratch<'a> = Value;
    type Secret<'a> = &'static Secret;

    #[inline(always)]
    fn now_s(&self) -> u32 {
        clock_word(clock::word::NOW_S) as u32
    }

    #[inline(always)]
    fn clock(&self) -> (u32, Epochs) {
        let Some(words) = Array::new(&CLOCK, 1).get(0) else {
            // The element is always there; were it not, no flow would have looked up what it goes by.
            return (
                0,
                Epochs {
                    hop: u32::MAX,
                    sa: u32::MAX,
                },
            );
        };
        let (hop, sa) = flow::halves(words.load(clock::word::EPOCHS));
        (words.load(clock::word::NOW_S) as u32, Epochs { hop, sa })
    }

    #[inline(always)]
    fn epochs(&self) -> Epochs {
        let (hop, sa) = flow::halves(clock_word(clock::word::EPOCHS));
        Epochs { hop, sa }
    }

    #[inline(always)]
    fn port_key(&self) -> SipKey {
        GEOMETRY.port_key()
    }

    #[inline(always)]
    fn draw(&self, words: [u64; 3]) -> u64 {
        let [one, two, three] = words;
        keyed_hash(one, two, three)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn interface(&self) -> Option<&Interface> {
        // SAFETY: the context is valid for the whole run (`new`).
        let ifindex = unsafe { (*self.context).ingress_ifindex };
        interface(ifindex)
    }

    #[inline(always)]
    fn queue(&self) -> u32 {
        // SAFETY: the context is valid for the whole run (`new`).
        unsafe { (*self.context).rx_queue_index }
    }

    #[inline(always)]
    fn sa_inbound(&self, spi: [u8; 4]) -> Option<&SaInbound> {
        SA_INBOUND.get(SaInbound::place(spi)).filter(|sa| sa.is_of(spi))
    }

    #[inline(always)]
    fn sa_route(&self, key: &SaOutboundKey) -> Option<u32> {
        SA_ROUTES.get(&Key::new(64, *key)).copied()
    }

    #[inline(always)]
    fn sa_outbound(&self, number: u32) -> Option<&SaOutbound> {
        SA_OUTBOUND.get(number)
    }

    #[inline(always)]
    fn sa_shares(&self, number: u32) -> Option<&SaShares> {
        SA_SHARES.get(number)
    }

    #[inline(always)]
    fn sa_path(&self, key: &SaPathKey) -> Option<&SaPath> {
        lend(SA_PATHS.get_ptr(*key))
    }

    #[inline(always)]
    fn site(&self, site: u32) -> Option<&Site> {
        lend(SITES.get_ptr(site))
    }

    #[inline(always)]
    fn is_site(&self, lent: &Site, site: u32) -> bool {
        // SAFETY: a reference. Volatile, so that it is read after what was read before, whatever the compiler knows of it.
        unsafe { (&raw const lent.id).read_volatile() == site }
    }

    #[inline(always)]
    fn route(&self, destination: [u8; 4]) -> Option<u32> {
        ROUTES.get(&Key::new(32, destination)).copied()
    }

    #[inline(always)]
    fn direction_to(&self, destination: [u8; 4]) -> u8 {
        DIRECTIONS
            .get(&Key::new(32, destination))
            .map_or(direction::SITE_TO_INTERNET, |found| *found as u8)
    }

    #[inline(always)]
    fn role(&self, ifindex: u32) -> u32 {
        interface(ifindex).map_or(0, |interface| interface.role)
    }

    #[inline(always)]
    fn next_hop(&self, number: u32) -> Option<&NextHop> {
        NEXT_HOPS.get(number)
    }

    #[inline(always)]
    fn may_enter(&self, publication: u32, source: [u8; 4]) -> bool {
        let key = PublicationSource {
            publication: publication.to_be_bytes(),
            source,
        };
        PUBLICATION_SOURCES.get(&Key::new(64, key)).is_some()
    }

    #[inline(always)]
    fn flows(&self) -> FlowTable<Array, Array, &'static Secret> {
        let buckets = GEOMETRY.flow_buckets();
        FlowTable::new(
            Array::new(&FLOW_INDEX, buckets),
            Array::new(&FLOW_ANSWERS, buckets),
            Array::new(&FLOWS, buckets.wrapping_mul(WIDTH as u32)),
            &GEOMETRY,
        )
    }

    #[inline(always)]
    fn mappings(&self) -> MappingTable<Array, Array, &'static Secret> {
        mappings()
    }

    #[inline(always)]
    fn has_outside(&self, outside: &OutsideKey) -> bool {
        let endpoint = port_protocol(outside.port, outside.protocol);
        has_outside(u32::from_ne_bytes(outside.address), endpoint) != 0
    }

    #[inline(always)]
    fn usage(&self, site: u32) -> Option<Value> {
        Array::new(&SITE_USAGE, limit::SITES_MAX).get(site)
    }

    #[inline(always)]
    fn scratch(&self) -> Option<Value> {
        SCRATCH.get_ptr_mut(0).and_then(Value::new)
    }

    #[inline(always)]
    fn repeat<S: Step>(&self, times: u32, steps: &mut S) {
        // SAFETY: `once` has the signature that the helper calls, and `steps` outlives the call.
        unsafe {
            bpf_loop(
                times,
                once::<S> as *mut c_void,
                core::ptr::from_mut(steps).cast(),
                0,
            )
        };
    }

    #[inline(always)]
    fn judge(&self, tuple: &Tuple) -> Option<Judgement> {
        let mut judgement = Judgement::default_deny(0);
        if judge(tuple, &mut judgement) == 0 {
            return None;
        }
        Some(judgement)
    }

    #[inline(always)]
    fn is_ike_spi(&self, spi: u64) -> bool {
        is_ike_spi(spi)
    }

    #[inline(always)]
    fn count_ike(&self, source: &[u8; 16], now_s: u32) -> u32 {
        count_ike(source, now_s)
    }

    #[inline(always)]
    fn count_on_ike_sa(&self, spi: u64) -> u32 {
        count_on_ike_sa(spi)
    }

    #[inline(always)]
    fn count(&self, path: Path, bytes: u32) {
        add(PATHS.get_ptr_mut(path as u32), bytes);
    }

    #[inline(always)]
    fn count_drop(&self, reason: DropReason) {
        if let Some(counter) = DROPS.get_ptr_mut(reason as u32) {
            // SAFETY: a look-up in a per-CPU array returned it: no other CPU has it.
            unsafe { *counter = (*counter).wrapping_add(1) };
        }
    }

    #[inline(always)]
    fn count_rule(&self, counter: u32, bytes: u32) {
        add(RULE_HITS.get_ptr_mut(counter), bytes);
    }

    #[inline(always)]
    fn event(&self, event: &Event) {
        let Some(bucket) = EVENT_RATE.get_ptr_mut(event.kind) else {
            return;
        };
        // SAFETY: the look-up returned it, and no other CPU has it.
        if unsafe { count_in_second(bucket, self.now_s()) } <= EVENTS_PER_S {
            // A full ring loses the event; counters have it.
            let _ = EVENTS.output(event, 0);
        }
    }

    #[inline(always)]
    fn trace(&self, event: &TraceEvent) {
        let (Some(bucket), Some(lost)) = (TRACE_RATE.get_ptr_mut(0), TRACES_LOST.get_ptr_mut(0)) else {
            return;
        };
        // SAFETY: a helper without arguments.
        let at_ns = unsafe { bpf_ktime_get_ns() };
        // SAFETY: the look-up returned it, and no other CPU has it.
        let is_told = unsafe { count_in_second(bucket, self.now_s()) } <= TRACES_PER_S
            && TRACES.output(&TraceEvent { at_ns, ..*event }, 0).is_ok();
        if !is_told {
            // SAFETY: as above.
            unsafe { *lost = (*lost).wrapping_add(1) };
        }
    }
}

#[inline(always)]
fn mappings() -> MappingTable<Array, Array, &'static Secret> {
    let buckets = GEOMETRY.mapping_buckets();
    MappingTable::new(
        Array::new(&MAPPING_OUTSIDES, buckets),
        Array::new(&MAPPING_INSIDES, buckets),
        Array::new(&MAPPINGS, buckets.wrapping_mul(WIDTH as u32)),
        &GEOMETRY,
    )
}

/// [`Tables::draw`]. What is exported is a global function to the verifier: it is looked at once, by itself, and not once
/// for each state of its callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn keyed_hash(one: u64, two: u64, three: u64) -> u64 {
    siphash(GEOMETRY.port_key(), [one, two, three])
}

/// [`Tables::has_outside`], in a global function.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn has_outside(address: u32, endpoint: u32) -> u32 {
    let [p0, p1, protocol, _] = endpoint.to_ne_bytes();
    let outside = OutsideKey {
        address: address.to_ne_bytes(),
        port: [p0, p1],
        protocol,
        pad: 0,
    };
    mappings().has_outside(&outside).into()
}

#[inline(always)]
fn is_ike_spi(spi: u64) -> bool {
    let place = Array::new(&IKE_SPIS, limit::SA_PLACES).get(ike::place(spi));
    place.is_some_and(|place| place.load(0) == spi)
}

#[inline(always)]
fn count_ike(source: &[u8; 16], now_s: u32) -> u32 {
    let Some(bucket) = IKE_RATE.get_ptr_mut(source) else {
        // A source that finds no room is let through: the daemon has cookies against floods (RFC 7296 2.6).
        let _ = IKE_RATE.insert(
            source,
            RateBucket {
                second: now_s,
                count: 1,
            },
            u64::from(BPF_ANY),
        );
        return 1;
    };
    // SAFETY: the look-up returned it, and it stays valid for the run.
    unsafe { count_in_second(bucket, now_s) }
}

/// [`Tables::count_on_ike_sa`], in a global function.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_on_ike_sa(spi: u64) -> u32 {
    if !is_ike_spi(spi) {
        return 0;
    }
    count_ike(&ike::bucket(spi), clock_word(clock::word::NOW_S) as u32)
}

/// Leaves what became of a packet, and the code to return, for the program that tells of it.
#[inline(always)]
pub(crate) fn leave_trace(end: End, code: u32) -> bool {
    let Some(left) = TRACE_LEFT.get_ptr_mut(0).and_then(Value::new) else {
        return false;
    };
    left.store(0, flow::pair(end.point, end.outcome));
    left.store(1, flow::pair(end.value, code));
    true
}

/// What [`leave_trace`] left on this CPU.
#[inline(always)]
pub(crate) fn traced() -> Option<(End, u32)> {
    let left = TRACE_LEFT.get_ptr_mut(0).and_then(Value::new)?;
    let (point, outcome) = flow::halves(left.load(0));
    let (value, code) = flow::halves(left.load(1));
    let end = End {
        point,
        outcome,
        value,
    };
    Some((end, code))
}

/// A word of the clock's only element.
#[inline(always)]
fn clock_word(word: usize) -> u64 {
    Array::new(&CLOCK, 1).get(0).map_or(0, |value| value.load(word))
}

/// Does a step of [`Tables::repeat`]; returns 1 to end the loop.
unsafe extern "C" fn once<S: Step>(_index: u64, steps: *mut c_void) -> i64 {
    // SAFETY: `repeat` passed it, and nothing else uses it during the loop.
    let steps = unsafe { &mut *steps.cast::<S>() };
    i64::from(!steps.step())
}

/// Asks the active generation; returns 0 if there is none. A subprogram with a stack frame of its own.
#[inline(never)]
fn judge(tuple: &Tuple, judgement: &mut Judgement) -> u32 {
    // The one read of the active generation: all that this packet sees of rules comes from it.
    let (Some(rules), Some(slots)) = (RULE_SETS.get(0), RULE_SEARCH.get_ptr_mut(0)) else {
        return 0;
    };
    let slots = slots.cast();
    let (Some(head), Some(free)) = (chunk(rules, slots, 0), chunk(rules, slots, FREE)) else {
        return 0;
    };
    let mut generation = Generation {
        rules,
        slots,
        head,
        free,
        open: core::ptr::null(),
        now_s: clock_word(clock::word::NOW_S) as u32,
    };
    if rules::is_to_internet(tuple)
        && rules::speaks_of_names(&generation)
        && let Some(open) = OPEN_NAMES.get_ptr(tuple.destination.to_be_bytes())
    {
        generation.open = open;
    }
    rules::begin(&generation, tuple);
    if rules::step(&generation) == rules::Step::More {
        // SAFETY: `step` has the signature that the helper calls, and `generation` outlives the call.
        unsafe {
            bpf_loop(
                layout::VECTOR_WORDS,
                step as *mut c_void,
                (&raw mut generation).cast(),
                0,
            )
        };
    }
    match rules::judgement(&generation) {
        Some(found) => {
            *judgement = found;
            1
        }
        None => 0,
    }
}

/// Looks at the next word that may hold a match; returns 1 to end the loop.
unsafe extern "C" fn step(_index: u64, generation: *mut c_void) -> i64 {
    // SAFETY: `judge` passed it, and nothing writes to it during the loop.
    let generation = unsafe { &*generation.cast::<Generation<'_>>() };
    match rules::step(generation) {
        rules::Step::More => 0,
        rules::Step::Done => 1,
    }
}

/// Number of the chunk that a generation lays out first as it needs: a small one has no other.
const FREE: u32 = layout::FREE / layout::CHUNK_WORDS;

/// A chunk by its number.
#[inline(always)]
fn chunk(rules: &RuleSet, slots: *mut u64, number: u32) -> Option<NonNull<u64>> {
    let map = core::ptr::from_ref(rules).cast_mut().cast();
    // The key of the look-up lies in the slots: on the stack, each look-up would take room of its own.
    // SAFETY: the outer map's look-up returned the map; the slot is a value of a map, and the key its first 4 bytes.
    let chunk = unsafe {
        let key = slots.add(Slot::Shell as usize);
        key.write_volatile(u64::from(number));
        bpf_map_lookup_elem(map, key.cast())
    };
    NonNull::new(chunk.cast())
}

/// The active generation, and this CPU's room for a look-up.
struct Generation<'a> {
    rules: &'a RuleSet,
    slots: *mut u64,
    /// The first chunk, and [`FREE`]: asked for all the time, and looked up once.
    head: NonNull<u64>,
    free: NonNull<u64>,
    /// What the destination is open for by name; null: nothing.
    open: *const OpenAddress,
    now_s: u32,
}

/// Words of a chunk from one on.
#[derive(Clone, Copy)]
struct Run {
    chunk: *const u64,
    first: u32,
}

impl rules::Words for Generation<'_> {
    type Run = Run;

    #[inline(always)]
    fn run(&self, word: u32) -> Option<Run> {
        let chunk = match word / layout::CHUNK_WORDS {
            FREE => self.free,
            number => chunk(self.rules, self.slots, number)?,
        };
        Some(Run {
            chunk: chunk.as_ptr(),
            first: word % layout::CHUNK_WORDS,
        })
    }

    #[inline(always)]
    fn head(&self, word: u32) -> Option<Run> {
        Some(Run {
            chunk: self.head.as_ptr(),
            first: word,
        })
    }

    #[inline(always)]
    fn word(run: &Run, index: u32) -> u64 {
        let place = run.first.wrapping_add(index) % layout::CHUNK_WORDS;
        // SAFETY: a look-up returned the chunk, and the place lies in it. A generation does not change once it is in the
        // outer map.
        unsafe { *run.chunk.add(place as usize) }
    }

    #[inline(always)]
    fn half(run: &Run, index: u32) -> u32 {
        let place = run.first.wrapping_mul(2).wrapping_add(index) % (2 * layout::CHUNK_WORDS);
        // SAFETY: as in `word`; a chunk has twice as many halves as words.
        unsafe { *run.chunk.cast::<u32>().add(place as usize) }
    }

    #[inline(always)]
    fn open_set(&self, place: u32) -> u32 {
        if self.open.is_null() || place >= SETS_AN_ADDRESS as u32 {
            return 0;
        }
        // SAFETY: a look-up returned it, it stays valid for the run, and the place lies in it. Should user space replace
        // the element meanwhile, what is read is the old one or, later, another of this map, which `is_open_of` tells.
        let name = unsafe { *(*self.open).names.as_ptr().add(place as usize) };
        name.set_at(self.now_s)
    }

    #[inline(always)]
    fn is_open_of(&self, destination: u32) -> bool {
        if self.open.is_null() {
            return false;
        }
        // SAFETY: as in `open_set`.
        let address = unsafe { (&raw const (*self.open).address).read_volatile() };
        u32::from_be_bytes(address) == destination
    }

    #[inline(always)]
    fn put(&self, slot: Slot, value: u64) {
        // SAFETY: the array has a place for each slot, and no other CPU has it. A program is not interrupted by another
        // XDP program of its CPU.
        unsafe { self.slots.add(slot as usize).write_volatile(value) };
    }

    #[inline(always)]
    fn get(&self, slot: Slot) -> u64 {
        // SAFETY: as in `put`.
        unsafe { self.slots.add(slot as usize).read_volatile() }
    }
}

/// Counts one more in the current second.
///
/// # Safety
/// `bucket` is a value of a map.
#[inline(always)]
unsafe fn count_in_second(bucket: *mut RateBucket, now_s: u32) -> u32 {
    // SAFETY: by the caller; another CPU may count at the same time, and then one of the two is lost.
    unsafe {
        let second = (&raw const (*bucket).second).read_volatile();
        let count = (&raw const (*bucket).count).read_volatile();
        let count = if second == now_s {
            count.saturating_add(1)
        } else {
            1
        };
        (&raw mut (*bucket).second).write_volatile(now_s);
        (&raw mut (*bucket).count).write_volatile(count);
        count
    }
}

/// Adds a packet to a per-CPU counter.
#[inline(always)]
fn add(counter: Option<*mut Counter>, bytes: u32) {
    if let Some(counter) = counter {
        // SAFETY: a look-up in a per-CPU array returned it: no other CPU has it.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(u64::from(bytes));
        }
    }
}
