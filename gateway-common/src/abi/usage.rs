//! What each site uses of the tables; element 0 is the sum of all.

use super::event;

/// Words of an element: a cache line of what packets count, and one of what is told of them.
pub const WORDS: usize = word::EVENTS + event::KINDS as usize;
/// Element of the sums: no site has this number.
pub const TOTAL: u32 = 0;

/// Numbers of the words of an element.
pub mod word {
    /// Flows.
    pub const FLOWS: usize = 0;
    /// TCP flows whose handshake is not complete.
    pub const HALF_OPEN: usize = 1;
    /// NAT mappings.
    pub const MAPPINGS: usize = 2;
    /// Of a site: a second, and the flows that were opened in it. Of the sum: sites with flows.
    pub const RATE_OR_SITES: usize = 3;
    /// A second, and the answers in it in place of packets that went no further: to a site, or in the sum, to the center.
    pub const ANSWERS: usize = 4;
    /// From here on, by [`kind`](crate::abi::event::kind): a second, and the events of a site in it.
    pub const EVENTS: usize = 8;
}
