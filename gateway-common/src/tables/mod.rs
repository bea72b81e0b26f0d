//! Everything the packet core asks of the world: maps, clock, randomness, counters.

use crate::abi::{
    event::Event,
    ike,
    interface::{Interface, Settings},
    nat::OutsideKey,
    next_hop::NextHop,
    sa::{SaInbound, SaOutbound, SaOutboundKey, SaPath, SaPathKey, SaShares},
    site::Site,
    stats::Path,
    trace::TraceEvent,
};
use crate::drop::DropReason;
use crate::path::rules::{Judgement, Tuple};

use flows::FlowTable;
use hash::Factors;
use mappings::MappingTable;
use siphash::{SipKey, siphash};
use words::{Store, Words};

#[cfg(test)]
pub(crate) mod beside;
pub mod flows;
pub mod hash;
#[cfg(any(test, feature = "std"))]
pub mod host;
pub mod index;
pub mod mappings;
pub mod siphash;
pub mod words;

/// Why an entry was not put into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The key is taken.
    Exists,
    /// The table is full (or the kernel had no memory).
    Full,
}

/// Something that is done again and again.
pub trait Step {
    /// Does it once; whether to do it again.
    fn step(&mut self) -> bool;
}

/// How often numbers have changed their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// Of next hops.
    pub hop: u32,
    /// Of outbound SAs.
    pub sa: u32,
}

/// Tables, clock, randomness and counters. Methods take `&self`: all of it is shared memory. What the controller alone
/// writes is lent, so that only the fields in use are read; what packets write is copied.
pub trait Tables {
    /// Buckets of the tables' indexes.
    type Buckets<'a>: Store
    where
        Self: 'a;
    /// Records of flows.
    type FlowRecords<'a>: Store
    where
        Self: 'a;
    /// Records of mappings.
    type MappingRecords<'a>: Store
    where
        Self: 'a;
    /// What sites use.
    type Usage<'a>: Words
    where
        Self: 'a;
    /// What one stage of a packet's way leaves for the next.
    type Scratch<'a>: Words
    where
        Self: 'a;
    /// Secret of the tables' hash.
    type Secret<'a>: Factors
    where
        Self: 'a;

    /// Seconds of a coarse monotonic clock.
    fn now_s(&self) -> u32;
    /// The same with [`Tables::epochs`], read together.
    fn clock(&self) -> (u32, Epochs) {
        (self.now_s(), self.epochs())
    }
    /// Key of the draw of ports.
    fn port_key(&self) -> SipKey;
    /// The keyed hash of these words.
    fn draw(&self, words: [u64; 3]) -> u64 {
        siphash(self.port_key(), words)
    }
    /// Random bits, not for keys.
    fn random(&self) -> u32;
    /// The operator's settings.
    fn settings(&self) -> Option<&Settings>;
    /// Interface that the frame came in by.
    fn interface(&self) -> Option<&Interface>;
    /// Receive queue that the frame came in by.
    fn queue(&self) -> u32;

    /// Inbound SA by SPI.
    fn sa_inbound(&self, spi: [u8; 4]) -> Option<&SaInbound>;
    /// Number of the outbound SA of site and inner destination, longest prefix first.
    fn sa_route(&self, key: &SaOutboundKey) -> Option<u32>;
    /// An outbound SA by its number.
    fn sa_outbound(&self, number: u32) -> Option<&SaOutbound>;
    /// SAs that share the traffic of the one with this number.
    fn sa_shares(&self, number: u32) -> Option<&SaShares>;
    /// The path of the outbound SA whose packet an ICMP error quotes.
    fn sa_path(&self, key: &SaPathKey) -> Option<&SaPath>;
    /// A site. What is lent may turn into another site's while it is read: [`Tables::is_site`] tells.
    fn site(&self, site: u32) -> Option<&Site>;
    /// Whether what was lent of a site is still this one's, and so what was read of it: to be asked before anything comes
    /// of that.
    fn is_site(&self, lent: &Site, site: u32) -> bool;
    /// Number of the next hop to a destination, longest prefix first.
    fn route(&self, destination: [u8; 4]) -> Option<u32>;
    /// Direction ([`crate::abi::rule::direction`]) of a flow that a site opens to a destination.
    fn direction_to(&self, destination: [u8; 4]) -> u8;
    /// Role ([`crate::abi::interface::role`]) of an interface; zero if it has none.
    fn role(&self, ifindex: u32) -> u32;
    /// A next hop by its number.
    fn next_hop(&self, number: u32) -> Option<&NextHop>;
    /// Whether a publication lets this source open a flow.
    fn may_enter(&self, publication: u32, source: [u8; 4]) -> bool;
    /// Epochs of next hops and of outbound SAs: a number that was looked up in another epoch means nothing. Never zero.
    fn epochs(&self) -> Epochs;

    /// The flow table.
    fn flows(&self) -> FlowTable<Self::Buckets<'_>, Self::FlowRecords<'_>, Self::Secret<'_>>;
    /// The mapping table.
    fn mappings(&self) -> MappingTable<Self::Buckets<'_>, Self::MappingRecords<'_>, Self::Secret<'_>>;

    /// Whether an outside endpoint belongs to somebody, or did a short time ago.
    fn has_outside(&self, outside: &OutsideKey) -> bool {
        self.mappings().has_outside(outside)
    }

    /// What a site uses of the tables, or their sum.
    fn usage(&self, site: u32) -> Option<Self::Usage<'_>>;

    /// What one stage of a packet's way leaves for the next.
    fn scratch(&self) -> Option<Self::Scratch<'_>>;
    /// Does steps until one says that it was the last, `times` at most.
    fn repeat<S: Step>(&self, times: u32, steps: &mut S);

    /// Judges a new flow by the active generation, which is read once; `None` if none is loaded.
    /// Implementations run the search of [`crate::path::rules`], or read the rules one by one.
    fn judge(&self, tuple: &Tuple) -> Option<Judgement>;

    /// Whether the gateway drew this SPI, which is not zero, for an IKE SA that stands.
    fn is_ike_spi(&self, spi: u64) -> bool;
    /// Counts an IKE datagram of `source` and returns how many there were in this second.
    fn count_ike(&self, source: &[u8; 16], now_s: u32) -> u32;
    /// Counts a message on the IKE SA for which the gateway drew this SPI, which is not zero, and returns how many there were in
    /// this second; zero if it stands no more.
    fn count_on_ike_sa(&self, spi: u64) -> u32 {
        if !self.is_ike_spi(spi) {
            return 0;
        }
        self.count_ike(&ike::bucket(spi), self.now_s())
    }
    /// Counts a packet that was not dropped.
    fn count(&self, path: Path, bytes: u32);
    /// Counts a packet that goes no further though the program does not drop its frame: an answer is made of it.
    fn count_drop(&self, reason: DropReason);
    /// Counts a packet that a rule decided on, under [`Judgement::counter`].
    fn count_rule(&self, counter: u32, bytes: u32);
    /// Tells the controller; may be lost when there is too much to tell.
    fn event(&self, event: &Event);
    /// Tells who traces; what is lost when there is too much to tell is counted.
    fn trace(&self, event: &TraceEvent);
}
