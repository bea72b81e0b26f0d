//! The packet core's tables over BPF maps.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, xdp_md};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_loop, bpf_map_lookup_elem};
use gateway_common::abi::{
    event::Event,
    flow::{Flow, FlowKey},
    interface::{Interface, Settings},
    nat::{InsideKey, Mapping, OutsideKey},
    next_hop::NextHop,
    rule::layout,
    sa::{SaInbound, SaOutbound, SaOutboundKey},
    site::Site,
    stats::{Counter, Path},
};
use gateway_common::path::filter::{Direction, Progress};
use gateway_common::path::rules::{self, Judgement, Slot, Step, Tuple, Words};
use gateway_common::tables::{FlowEntry, Refused, Tables};

use crate::maps::{
    EVENT_RATE, EVENTS, FLOWS, IKE_RATE, INTERFACES, MAPPINGS, MAPPINGS_REVERSE, NEXT_HOPS, PATHS, RULE_HITS,
    RULE_SEARCH, RULE_SETS, RuleSet, SA_INBOUND, SA_OUTBOUND, SETTINGS, SITES,
};
use gateway_common::abi::interface::RateBucket;

/// Events of one kind that one CPU tells in a second; counters have the rest.
const EVENTS_PER_S: u32 = 256;
const NANOSECONDS_PER_S: u64 = 1_000_000_000;
/// `-EEXIST` of the kernel.
const EXISTS: i32 = -17;

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

/// A flow in the map.
pub(crate) struct FlowPointer(*mut Flow);

impl FlowEntry for FlowPointer {
    #[inline(always)]
    fn read(&self) -> Flow {
        // SAFETY: the look-up returned it, and it stays valid for the run. Another CPU may write meanwhile; each field
        // is one load, so that none is torn.
        unsafe { *self.0 }
    }

    #[inline(always)]
    fn advance(&self, direction: Direction, length: u32, now_s: u32, progress: Progress) {
        // SAFETY: as in `read`.
        unsafe {
            let (packets, bytes) = match direction {
                Direction::Out => (&raw mut (*self.0).packets_out, &raw mut (*self.0).bytes_out),
                Direction::In => (&raw mut (*self.0).packets_in, &raw mut (*self.0).bytes_in),
            };
            packets.write_volatile(packets.read_volatile().wrapping_add(1));
            bytes.write_volatile(bytes.read_volatile().wrapping_add(u64::from(length)));
            (&raw mut (*self.0).last_seen_s).write_volatile(now_s);
            (&raw mut (*self.0).state).write_volatile(progress.state);
            (&raw mut (*self.0).fins).write_volatile(progress.fins);
        }
    }
}

/// What a map answers to an insertion, in the packet core's words.
#[inline(always)]
fn refused(result: Result<(), i32>) -> Result<(), Refused> {
    result.map_err(|error| {
        if error == EXISTS {
            Refused::Exists
        } else {
            Refused::Full
        }
    })
}

/// Lends a value that only the controller writes.
#[inline(always)]
fn lend<'a, V>(pointer: Option<*const V>) -> Option<&'a V> {
    // SAFETY: a look-up returned it, and it stays valid for the run. Should the controller replace the entry meanwhile,
    // each field read is one of the old or of the new: none is torn, none is out of bounds.
    pointer.map(|value| unsafe { &*value })
}

/// Copies a map's value.
#[inline(always)]
fn copy<V: Copy>(pointer: Option<*const V>) -> Option<V> {
    // SAFETY: a look-up returned it, and it stays valid for the run.
    pointer.map(|value| unsafe { *value })
}

impl Tables for Maps {
    type Flow = FlowPointer;

    #[inline(always)]
    fn now_s(&self) -> u32 {
        // SAFETY: a helper without arguments.
        (unsafe { bpf_ktime_get_coarse_ns() } / NANOSECONDS_PER_S) as u32
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
        lend(INTERFACES.get_ptr(ifindex))
    }

    #[inline(always)]
    fn queue(&self) -> u32 {
        // SAFETY: the context is valid for the whole run (`new`).
        unsafe { (*self.context).rx_queue_index }
    }

    #[inline(always)]
    fn sa_inbound(&self, spi: [u8; 4]) -> Option<&SaInbound> {
        lend(SA_INBOUND.get_ptr(spi))
    }

    #[inline(always)]
    fn sa_outbound(&self, key: &SaOutboundKey) -> Option<&SaOutbound> {
        SA_OUTBOUND.get(&Key::new(64, *key))
    }

    #[inline(always)]
    fn site(&self, site: u32) -> Option<&Site> {
        lend(SITES.get_ptr(site))
    }

    #[inline(always)]
    fn next_hop(&self, destination: [u8; 4]) -> Option<&NextHop> {
        NEXT_HOPS.get(&Key::new(32, destination))
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<FlowPointer> {
        FLOWS.get_ptr_mut(key).map(FlowPointer)
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Refused> {
        refused(FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn replace_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Refused> {
        refused(FLOWS.insert(key, flow, u64::from(BPF_ANY)))
    }

    #[inline(always)]
    fn mapping(&self, key: &InsideKey) -> Option<Mapping> {
        copy(MAPPINGS.get_ptr(key))
    }

    #[inline(always)]
    fn insert_mapping(&self, key: &InsideKey, mapping: &Mapping) -> Result<(), Refused> {
        refused(MAPPINGS.insert(key, mapping, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn replace_mapping(&self, key: &InsideKey, mapping: &Mapping) -> Result<(), Refused> {
        refused(MAPPINGS.insert(key, mapping, u64::from(BPF_ANY)))
    }

    #[inline(always)]
    fn inside(&self, key: &OutsideKey) -> Option<InsideKey> {
        copy(MAPPINGS_REVERSE.get_ptr(key))
    }

    #[inline(always)]
    fn claim(&self, key: &OutsideKey, inside: &InsideKey) -> Result<(), Refused> {
        refused(MAPPINGS_REVERSE.insert(key, inside, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn release(&self, key: &OutsideKey) {
        // An entry that is gone already needs no removal.
        let _ = MAPPINGS_REVERSE.remove(key);
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
    fn count_ike(&self, source: &[u8; 16], now_s: u32) -> u32 {
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

    #[inline(always)]
    fn count(&self, path: Path, bytes: u32) {
        add(PATHS.get_ptr_mut(path as u32), bytes);
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
}

/// Asks the active generation; returns 0 if there is none. A subprogram with a stack frame of its own.
#[inline(never)]
fn judge(tuple: &Tuple, judgement: &mut Judgement) -> u32 {
    // The one read of the active generation: all that this packet sees of rules comes from it.
    let (Some(rules), Some(slots)) = (RULE_SETS.get(0), RULE_SEARCH.get_ptr_mut(0)) else {
        return 0;
    };
    let mut generation = Generation {
        rules,
        slots: slots.cast(),
    };
    rules::begin(&generation, tuple);
    // SAFETY: `step` has the signature that the helper calls, and `generation` outlives the call.
    unsafe {
        bpf_loop(
            layout::VECTOR_WORDS + 1,
            step as *mut c_void,
            (&raw mut generation).cast(),
            0,
        )
    };
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
        Step::More => 0,
        Step::Done => 1,
    }
}

/// The active generation, and this CPU's room for a look-up.
struct Generation<'a> {
    rules: &'a RuleSet,
    slots: *mut u64,
}

/// Words of a chunk from one on.
#[derive(Clone, Copy)]
struct Run {
    chunk: *const u64,
    first: u32,
}

impl Words for Generation<'_> {
    type Run = Run;

    #[inline(always)]
    fn run(&self, word: u32) -> Option<Run> {
        // The key of the look-up lies in the slots: on the stack, each look-up would take room of its own.
        self.put(Slot::Shell, u64::from(word / layout::CHUNK_WORDS));
        let map = core::ptr::from_ref(self.rules).cast_mut().cast();
        // SAFETY: the outer map's look-up returned the map; the slot is a value of a map, and the key its first 4 bytes.
        let chunk = unsafe { bpf_map_lookup_elem(map, self.slots.add(Slot::Shell as usize).cast()) };
        if chunk.is_null() {
            return None;
        }
        Some(Run {
            chunk: chunk.cast_const().cast(),
            first: word % layout::CHUNK_WORDS,
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
