//! The direct engine: a worker runs the first stage of `clear` itself, over the tables that it shares with the programs, and
//! sends the packet out of its socket on the interface that the flow's next hop names.
//!
//! What that stage does not decide (`gateway_common::path::direct`), a next hop that was not looked up in this epoch or lies
//! at an interface without a socket of this worker, a frame that is longer than that interface takes, and everything while
//! a site is traced goes through the clear link unchanged, and the programs decide.
//!
//! **Settling.** A packet that takes the short way may overtake one of its flow that is still in the link, and writes the
//! flow's record beside the program that has that one. So a flow that needed the programs stays with the link: for a moment,
//! and then until nothing of it can be in there any more. One whose packets leave no gap for a second changes over all the
//! same: a few of them may arrive in another order then, once, and of two counts at the same moment one may be lost. No
//! more: what TCP has sent is the later of what is known and what a packet says, so that the next packet puts it right.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use gateway_common::abi::event::Event;
use gateway_common::abi::flow;
use gateway_common::abi::interface::{Interface, Settings};
use gateway_common::abi::next_hop::NextHop;
use gateway_common::abi::rule::direction;
use gateway_common::abi::sa::{SaInbound, SaOutbound, SaOutboundKey, SaPath, SaPathKey, SaShares};
use gateway_common::abi::site::Site;
use gateway_common::abi::stats::Path;
use gateway_common::abi::trace::TraceEvent;
use gateway_common::abi::{limit, nat, usage};
use gateway_common::drop::DropReason;
use gateway_common::packet::ipv4::protocol;
use gateway_common::packet::{Slice, ethernet, ipv4};
use gateway_common::path::Verdict;
use gateway_common::path::direct::{self, Parsed};
use gateway_common::path::open::SCRATCH_WORDS;
use gateway_common::path::rules::{Judgement, Tuple};
use gateway_common::tables::hash::{FACTORS, Hash};
use gateway_common::tables::index::WIDTH;
use gateway_common::tables::siphash::SipKey;
use gateway_common::tables::{Epochs, Step, Tables};

use crate::dataplane::tables::{Flows, Mappings, SharedTables};

/// Milliseconds that a flow stays with the clear link after it needed the programs.
const SETTLE_MS: u32 = 100;
/// Milliseconds without a packet of the flow after which none of it is in the link: far longer than it is under way there.
const GAP_MS: u32 = 10;
/// Milliseconds after which it changes over without such a gap.
const SETTLE_MAX_MS: u32 = 1000;
/// Flows, by a hash, for which this is known.
const SETTLING: usize = 2048;

/// An interface that a worker may send clear packets out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Its index.
    pub ifindex: u32,
    /// The worker's port there.
    pub port: usize,
    /// Longest frame that it takes.
    pub frame_max: usize,
}

/// Where a decrypted frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out of this port, translated.
    Out(usize),
    /// Into the clear link, as it was.
    Link,
    /// No further.
    Drop(DropReason),
}

/// A frame as it was looked at before it is decided on, so that what it needs of the tables is on its way meanwhile.
#[derive(Clone, Copy)]
pub struct Looked {
    place: usize,
    read: Result<Option<(Parsed, Hash)>, DropReason>,
}

/// When a flow last needed the programs, and when its last packet went through the link.
#[derive(Clone, Copy, Debug, Default)]
struct Settling {
    needed_ms: u32,
    linked_ms: u32,
}

impl Settling {
    fn is_over(self, now_ms: u32) -> bool {
        let needed_ms = now_ms.wrapping_sub(self.needed_ms);
        let linked_ms = now_ms.wrapping_sub(self.linked_ms);
        needed_ms > SETTLE_MS && (linked_ms > GAP_MS || needed_ms > SETTLE_MAX_MS)
    }
}

/// What a worker needs for it.
pub struct Direct {
    view: View,
    settling: Box<[Settling; SETTLING]>,
    now_ms: u32,
}

impl Direct {
    /// Over these tables, for a worker with these ports.
    #[must_use]
    pub fn new(tables: Arc<SharedTables>, egress: Vec<Egress>) -> Self {
        Self {
            view: View::new(tables, egress),
            settling: Box::new([Settling::default(); SETTLING]),
            now_ms: 0,
        }
    }

    /// Reads what one round of the worker takes for given: clock, settings, epochs.
    pub fn begin_round(&mut self, now_ms: u64) {
        self.now_ms = now_ms as u32;
        self.view.begin_round();
    }

    /// Looks at a frame with a link header that [`Direct::forward`] will decide on.
    pub fn look(&self, frame: &mut [u8]) -> Looked {
        let place = settling_place(frame);
        let tables = &self.view.tables;
        let read = direct::read(&Slice::new(frame)).map(|parsed| {
            let parsed = parsed?;
            let hash = tables.flows().hash(&parsed.inner.flow_from_site(parsed.site));
            tables.fetch_buckets(&hash);
            Some((parsed, hash))
        });
        Looked { place, read }
    }

    /// Looks again, some frames before its turn.
    pub fn look_again(&self, looked: &Looked) {
        if let Ok(Some((_, hash))) = &looked.read {
            self.view.tables.fetch_record(hash);
        }
    }

    /// Decides on a frame. What is for the clear link is unchanged.
    pub fn forward(&mut self, frame: &mut [u8], looked: &Looked) -> Way {
        if !self.is_settled(looked.place) {
            return Way::Link;
        }
        match self.try_forward(frame, looked) {
            Ok(Some(port)) => Way::Out(port),
            Ok(None) => {
                self.note(looked.place);
                Way::Link
            }
            Err(reason) => Way::Drop(reason),
        }
    }

    /// Hears of a frame that goes through the clear link without being asked about.
    pub fn linked(&mut self, frame: &[u8]) {
        self.note(settling_place(frame));
    }

    fn try_forward(&self, frame: &mut [u8], looked: &Looked) -> Result<Option<usize>, DropReason> {
        let Some((parsed, _)) = &looked.read.as_ref().map_err(|reason| *reason)? else {
            return Ok(None);
        };
        if frame.len() > self.view.frame_max {
            return Ok(None);
        }
        match direct::pass(&mut Slice::new(frame), &self.view, parsed)? {
            Some(Verdict::Egress { ifindex, .. }) => {
                let egress = self.view.egress(ifindex).ok_or(DropReason::NextHopUnresolved)?;
                Ok(Some(egress.port))
            }
            Some(Verdict::Pass(_) | Verdict::Worker { .. } | Verdict::Reflect(_)) => {
                Err(DropReason::Internal)
            }
            None => Ok(None),
        }
    }

    /// Whether the flow at a place may change over; if not, its packet goes through the link now.
    fn is_settled(&mut self, place: usize) -> bool {
        let now_ms = self.now_ms;
        let Some(settling) = self.settling.get_mut(place) else {
            return false;
        };
        let is_over = settling.is_over(now_ms);
        if !is_over {
            settling.linked_ms = now_ms;
        }
        is_over
    }

    fn note(&mut self, place: usize) {
        let now_ms = self.now_ms;
        if let Some(settling) = self.settling.get_mut(place) {
            *settling = Settling {
                needed_ms: now_ms,
                linked_ms: now_ms,
            };
        }
    }
}

/// Where it is noted when a packet of this one's flow went through the link. Two flows may have one place: then the one
/// keeps the other from the short way.
fn settling_place(frame: &[u8]) -> usize {
    const SITE: usize = 2;
    const PROTOCOL: usize = (ethernet::LENGTH + ipv4::TTL) as usize + 1;
    const ADDRESSES: usize = (ethernet::LENGTH + ipv4::SOURCE) as usize;
    const TRANSPORT: usize = (ethernet::LENGTH + ipv4::LENGTH) as usize;
    const IDENTIFIER: usize = TRANSPORT + 4;
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let [of_protocol] = octets(frame, PROTOCOL);
    let ports = match of_protocol {
        protocol::TCP | protocol::UDP => u32::from_ne_bytes(octets(frame, TRANSPORT)),
        // What is in front of it differs from packet to packet.
        protocol::ICMP => u16::from_ne_bytes(octets(frame, IDENTIFIER)).into(),
        _ => 0,
    };
    let site = u32::from_ne_bytes(octets(frame, SITE));
    let addresses = u64::from_ne_bytes(octets(frame, ADDRESSES));
    let mixed = (addresses ^ u64::from(of_protocol)).wrapping_mul(FACTOR);
    let mixed = (mixed ^ mixed >> 32 ^ flow::pair(ports, site)).wrapping_mul(FACTOR);
    (mixed >> 40) as usize % SETTLING
}

/// Octets of a frame; zero where it ends before.
fn octets<const N: usize>(frame: &[u8], at: usize) -> [u8; N] {
    let rest = frame.get(at..).and_then(<[u8]>::first_chunk);
    rest.copied().unwrap_or([0; N])
}

/// The shared tables as one round of a worker sees them. What the first stage asks of them is here; what only the others
/// need is not, and a packet that would need it goes to the programs.
struct View {
    tables: Arc<SharedTables>,
    egress: Vec<Egress>,
    /// Of the interfaces, the longest frame that each of them takes.
    frame_max: usize,
    settings: Option<Settings>,
    now_s: u32,
    epochs: Epochs,
    /// Next hops of this epoch as far as they were asked for, those that are out of reach for this worker as `None`.
    hops: Vec<OnceCell<Option<NextHop>>>,
}

impl View {
    fn new(tables: Arc<SharedTables>, egress: Vec<Egress>) -> Self {
        let frame_max = egress.iter().map(|egress| egress.frame_max).min();
        Self {
            epochs: tables.epochs(),
            tables,
            egress,
            frame_max: frame_max.unwrap_or(0),
            settings: None,
            now_s: 0,
            hops: vec![OnceCell::new(); limit::HOP_NUMBERS as usize],
        }
    }

    fn begin_round(&mut self) {
        self.now_s = self.tables.now_s();
        self.settings = self.tables.settings();
        let epochs = self.tables.epochs();
        if epochs != self.epochs {
            self.epochs = epochs;
            self.hops.fill(OnceCell::new());
        }
    }

    fn egress(&self, ifindex: u32) -> Option<&Egress> {
        self.egress.iter().find(|egress| egress.ifindex == ifindex)
    }
}

impl Tables for View {
    type Buckets<'a> = &'a [[AtomicU64; WIDTH]];
    type FlowRecords<'a> = &'a [[AtomicU64; flow::RECORD_WORDS]];
    type MappingRecords<'a> = &'a [[AtomicU64; nat::RECORD_WORDS]];
    type Usage<'a> = &'a [AtomicU64; usage::WORDS];
    type Scratch<'a> = &'a [AtomicU64; SCRATCH_WORDS];
    type Secret<'a> = &'a [u64; FACTORS];

    fn now_s(&self) -> u32 {
        self.now_s
    }

    fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    fn next_hop(&self, number: u32) -> Option<&NextHop> {
        let hop = self.hops.get(number as usize)?.get_or_init(|| {
            let hop = self.tables.next_hop(number)?;
            self.egress(hop.ifindex).map(|_| hop)
        });
        hop.as_ref()
    }

    fn epochs(&self) -> Epochs {
        self.epochs
    }

    fn flows(&self) -> Flows<'_> {
        self.tables.flows()
    }

    fn mappings(&self) -> Mappings<'_> {
        self.tables.mappings()
    }

    fn usage(&self, site: u32) -> Option<Self::Usage<'_>> {
        self.tables.usage(site)
    }

    // From here on: what only other stages ask for.

    fn port_key(&self) -> SipKey {
        SipKey(0, 0)
    }

    fn random(&self) -> u32 {
        0
    }

    fn interface(&self) -> Option<&Interface> {
        None
    }

    fn queue(&self) -> u32 {
        u32::MAX
    }

    fn sa_inbound(&self, _: [u8; 4]) -> Option<&SaInbound> {
        None
    }

    fn sa_route(&self, _: &SaOutboundKey) -> Option<u32> {
        None
    }

    fn sa_outbound(&self, _: u32) -> Option<&SaOutbound> {
        None
    }

    fn sa_shares(&self, _: u32) -> Option<&SaShares> {
        None
    }

    fn sa_path(&self, _: &SaPathKey) -> Option<&SaPath> {
        None
    }

    fn site(&self, _: u32) -> Option<&Site> {
        None
    }

    fn is_site(&self, _: &Site, _: u32) -> bool {
        false
    }

    fn route(&self, _: [u8; 4]) -> Option<u32> {
        None
    }

    fn direction_to(&self, _: [u8; 4]) -> u8 {
        direction::SITE_TO_INTERNET
    }

    fn role(&self, _: u32) -> u32 {
        0
    }

    fn may_enter(&self, _: u32, _: [u8; 4]) -> bool {
        false
    }

    fn scratch(&self) -> Option<Self::Scratch<'_>> {
        None
    }

    fn repeat<S: Step>(&self, _: u32, _: &mut S) {}

    fn judge(&self, _: &Tuple) -> Option<Judgement> {
        None
    }

    fn is_ike_spi(&self, _: u64) -> bool {
        false
    }

    fn count_ike(&self, _: &[u8; 16], _: u32) -> u32 {
        u32::MAX
    }

    fn count(&self, _: Path, _: u32) {}

    fn count_drop(&self, _: DropReason) {}

    fn count_rule(&self, _: u32, _: u32) {}

    fn event(&self, _: &Event) {}

    fn trace(&self, _: &TraceEvent) {}
}
