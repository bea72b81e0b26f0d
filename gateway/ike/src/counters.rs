//! How many datagrams were not acted upon, and why. What a packet can trigger is counted, not logged.

/// Counts since the endpoint was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams handed in.
    pub received: u64,
    /// Not a well-formed IKE message.
    pub malformed: u64,
    /// Another major version than 2.
    pub unsupported_version: u64,
    /// No IKE SA has these SPIs.
    pub unknown_spi: u64,
    /// The integrity check failed.
    pub bad_integrity: u64,
    /// Outside the message window, or a response that nobody waits for.
    pub unexpected: u64,
    /// Requests that were answered before, and were answered again from memory.
    pub repeated: u64,
    /// Handshakes refused because too many were in progress.
    pub half_open_full: u64,
    /// Handshakes and requests for SAs refused because the peer had had too many in a short time.
    pub over_allowance: u64,
    /// Child SAs refused, or taken back, because their networks were more than the site may have or than there is room for.
    pub networks_refused: u64,
    /// Handshakes asked to return a cookie.
    pub cookies_sent: u64,
    /// Handshakes asked to solve a puzzle.
    pub puzzles_sent: u64,
    /// Puzzles that were solved.
    pub puzzles_solved: u64,
    /// Solutions that were none.
    pub puzzles_failed: u64,
    /// Key exchanges computed to answer IKE_SA_INIT.
    pub key_exchanges: u64,
    /// Offers without anything acceptable of which there was no event, because this second had enough.
    pub refusals_untold: u64,
    /// IKE_SA_INIT responses not sent because they would be longer than a request that proves nothing.
    pub not_amplified: u64,
    /// Answers outside any IKE SA: INVALID_IKE_SPI, INVALID_MAJOR_VERSION.
    pub unprotected_answers: u64,
    /// Unprotected claims of a peer that it does not know an IKE SA; each makes us ask at most.
    pub hints: u64,
    /// QCD tokens sent for IKE SAs that are not here (RFC 6290).
    pub crash_tokens_sent: u64,
    /// IKE SAs dropped because the peer proved that it lost them.
    pub crash_tokens_accepted: u64,
    /// Unprotected messages with tokens that are not the peer's.
    pub crash_tokens_refused: u64,
    /// Peers that were told to go to another gateway (RFC 5685).
    pub redirects_sent: u64,
    /// Tickets given (RFC 5723).
    pub tickets_given: u64,
    /// Tickets that were not good, any more or at all.
    pub tickets_refused: u64,
    /// Sessions that peers resumed.
    pub sessions_resumed: u64,
    /// NAT keepalives sent.
    pub keepalives_sent: u64,
    /// NAT keepalives received.
    pub keepalives_received: u64,
    /// Authentic ESP packets from another address that changed nothing: their sender is not behind a NAT.
    pub moves_refused: u64,
    /// Requests that were sent again in smaller fragments.
    pub cut_smaller: u64,
    /// Requests that we sent again.
    pub retransmitted: u64,
}

impl Counters {
    pub(crate) fn dropped(&mut self, why: crate::channel::Dropped) {
        use crate::channel::Dropped;
        match why {
            Dropped::Malformed => self.malformed += 1,
            Dropped::BadIntegrity => self.bad_integrity += 1,
            Dropped::Unexpected => self.unexpected += 1,
        }
    }
}
