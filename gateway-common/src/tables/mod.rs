//! Everything the packet core asks of the world: maps, clock, randomness, counters.

use crate::abi::{
    event::Event,
    flow::{Flow, FlowKey},
    interface::{Interface, Settings},
    nat::{InsideKey, Mapping, OutsideKey},
    next_hop::NextHop,
    sa::{SaInbound, SaOutbound, SaOutboundKey},
    site::Site,
    stats::Path,
};
use crate::path::{
    filter::{Direction, Progress},
    rules::{Judgement, Tuple},
};

#[cfg(any(test, feature = "std"))]
pub mod host;

/// Why an entry was not put into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The key is taken.
    Exists,
    /// The table is full (or the kernel had no memory).
    Full,
}

/// A found flow, in place.
pub trait FlowEntry {
    /// The flow as it is now.
    fn read(&self) -> Flow;

    /// Counts a packet of `length` bytes (IP) in `direction` and stores what it made of the state.
    ///
    /// Not atomic against another CPU: two packets of one flow and direction at the same moment may count as one.
    fn advance(&self, direction: Direction, length: u32, now_s: u32, progress: Progress);
}

/// Tables, clock, randomness and counters. Methods take `&self`: all of it is shared memory. What the controller alone
/// writes is lent, so that only the fields in use are read; what packets write is copied.
pub trait Tables {
    /// A flow in place.
    type Flow: FlowEntry;

    /// Seconds of a coarse monotonic clock.
    fn now_s(&self) -> u32;
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
    /// Outbound SA by site and inner destination, longest prefix first.
    fn sa_outbound(&self, key: &SaOutboundKey) -> Option<&SaOutbound>;
    /// A site.
    fn site(&self, site: u32) -> Option<&Site>;
    /// Next hop by destination, longest prefix first.
    fn next_hop(&self, destination: [u8; 4]) -> Option<&NextHop>;

    /// A flow.
    fn flow(&self, key: &FlowKey) -> Option<Self::Flow>;
    /// Puts a new flow in.
    ///
    /// # Errors
    /// [`Refused`].
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Refused>;
    /// Puts a flow in the place of an expired or closed one.
    ///
    /// # Errors
    /// [`Refused::Full`].
    fn replace_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Refused>;

    /// Mapping of an inside endpoint.
    fn mapping(&self, key: &InsideKey) -> Option<Mapping>;
    /// Puts a new mapping in.
    ///
    /// # Errors
    /// [`Refused`].
    fn insert_mapping(&self, key: &InsideKey, mapping: &Mapping) -> Result<(), Refused>;
    /// Puts a mapping in the place of one that is no longer valid, or notes its use.
    ///
    /// # Errors
    /// [`Refused::Full`].
    fn replace_mapping(&self, key: &InsideKey, mapping: &Mapping) -> Result<(), Refused>;
    /// Inside endpoint of a translated one.
    fn inside(&self, key: &OutsideKey) -> Option<InsideKey>;
    /// Claims a translated endpoint.
    ///
    /// # Errors
    /// [`Refused`].
    fn claim(&self, key: &OutsideKey, inside: &InsideKey) -> Result<(), Refused>;
    /// Gives a claim back that led to no mapping.
    fn release(&self, key: &OutsideKey);

    /// Judges a new flow by the active generation, which is read once; `None` if none is loaded.
    /// Implementations run a [`crate::path::rules::Search`], or ask [`crate::path::rules::matches`] of each rule in order.
    fn judge(&self, tuple: &Tuple) -> Option<Judgement>;

    /// Counts an IKE datagram of `source` and returns how many there were in this second.
    fn count_ike(&self, source: &[u8; 16], now_s: u32) -> u32;
    /// Counts a packet that was not dropped.
    fn count(&self, path: Path, bytes: u32);
    /// Counts a packet that a rule decided on, under [`Judgement::counter`].
    fn count_rule(&self, counter: u32, bytes: u32);
    /// Tells the controller; may be lost when there is too much to tell.
    fn event(&self, event: &Event);
}
