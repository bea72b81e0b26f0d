//! What each site uses of the tables; element 0 is the sum of all.

/// Words of an element.
pub const WORDS: usize = 8;
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
    /// A second, and the events of a site in it for want of a next hop.
    pub const NO_NEXT_HOP: usize = 5;
    /// The same for want of an SA.
    pub const NO_SA: usize = 6;
    /// The same for want of ports.
    pub const NO_PORTS: usize = 7;
}
