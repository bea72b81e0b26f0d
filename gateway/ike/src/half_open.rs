//! Half-open IKE SAs: how many there are, of whom, and what an initiator has to do before it may add one
//! (RFC 7296 section 2.6, RFC 8019 sections 3 and 4).
//!
//! | handshakes in progress | what a new one needs |
//! |---|---|
//! | few | nothing, unless its answer would be longer than its request: then a cookie |
//! | `cookie_from` in all, or `cookie_from_per_source` of the source | a cookie |
//! | `puzzle_from` | a cookie and a puzzle; a few a second without, for peers that know no puzzles |
//! | `half_open_max`, or `half_open_per_source` of a source that returned a cookie | room |
//!
//! A handshake whose IKE_AUTH is refused stays in the books for as long as the refusal is repeated: it has cost a key
//! exchange, and may be followed by the next at once.
//!
//! A source is an IPv4 address or an IPv6 /64, whose owner has all of it. What an attacker sends in the name
//! of another source counts against that source only up to `cookie_from_per_source`; from there on the true
//! owner is told apart by its cookie.

use std::{collections::HashMap, mem::size_of, net::IpAddr};

use crate::{
    config::EndpointConfig,
    exchange::{ike_auth::Handshake, ike_intermediate::ExpectIntermediateRequest},
    ike_sa::IkeSa,
};

/// A request longer than this is not looked at: with every proposal and extension a peer may name, and the
/// longest key exchange value, it stays below. RFC 7296 section 2 asks for 3,000 octets at least.
pub const INIT_REQUEST_MAX: usize = 4_096;
/// Octets of IKE_AUTH fragments that are kept for a peer that is not authenticated.
pub const REASSEMBLY_MAX: usize = 32_768;
/// What a half-open IKE SA may take at most, in octets, apart from the fragments of its IKE_AUTH: request,
/// response, keys and places in tables.
pub const STATE_MAX: usize = INIT_REQUEST_MAX + 8_192;
/// Offers of IKE_SA_INIT without anything acceptable of which there is an event, a second: whoever sends them has proved
/// nothing, and each event is a page of words.
pub const REFUSALS_TOLD_PER_S: u32 = 10;
/// The same IKE_SA_INIT request is answered so often; a peer that still has no answer begins anew.
pub(crate) const ANSWERS_MAX: u8 = 8;

/// How an endpoint behaves under attack; see the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defence {
    /// Handshakes of one source in progress, none of which returned a cookie, from which on it must.
    pub cookie_from_per_source: usize,
    /// Handshakes of one source in progress at most.
    pub half_open_per_source: usize,
    /// Handshakes in progress from which on initiators must solve a puzzle (RFC 8019).
    pub puzzle_from: usize,
    /// Difficulty of a puzzle when they begin, in bits.
    pub puzzle_bits_first: u8,
    /// Difficulty just below `half_open_max`.
    pub puzzle_bits_last: u8,
    /// Handshakes a second without a solution while puzzles are asked for.
    pub unsolved_per_s: u32,
    /// IKE SAs and Child SAs that one peer may have set up or rekeyed in a second, by the identity that it has proved; after
    /// a quiet time 32 times as many at once.
    pub sas_per_peer_per_s: u32,
    /// As initiator, puzzles harder than this are not solved.
    pub solve_bits_max: u8,
    /// As initiator, an answer that refuses IKE_SA_INIT is believed when no other came for this long: it is
    /// not authenticated (RFC 7296 section 2.21.1).
    pub refusal_hold_ms: u64,
}

impl Default for Defence {
    fn default() -> Self {
        Self {
            cookie_from_per_source: 4,
            half_open_per_source: 64,
            puzzle_from: 500,
            puzzle_bits_first: 12,
            puzzle_bits_last: 18,
            unsolved_per_s: 20,
            sas_per_peer_per_s: 2,
            solve_bits_max: 18,
            refusal_hold_ms: 2_000,
        }
    }
}

/// Who is behind an address: all of an IPv6 /64 is one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(u128);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_bits().into()),
            // An IPv4 address has zeros where the upper half of a unicast IPv6 address never is zero.
            IpAddr::V6(address) => Self(address.to_bits() >> 64 << 64),
        }
    }
}

/// One half-open IKE SA in the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Booked {
    source: Source,
    /// It returned a cookie.
    proven: bool,
    octets: usize,
}

/// What an initiator has to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    Nothing,
    Cookie,
    Puzzle {
        /// Difficulty.
        bits: u8,
    },
    /// There is no room.
    Refuse,
}

/// How many half-open IKE SAs there are and what they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HalfOpenUse {
    /// Number.
    pub count: usize,
    /// Memory in octets.
    pub octets: usize,
    /// Sources that have at least one.
    pub sources: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    proven: usize,
    unproven: usize,
}

/// The books.
#[derive(Debug, Default)]
pub(crate) struct HalfOpen {
    count: usize,
    octets: usize,
    sources: HashMap<Source, Counts>,
    /// The second, and how many were let in during it without the puzzle's solution.
    unsolved: (u64, u32),
    /// The second, and how many refused offers were told during it.
    told: (u64, u32),
}

impl HalfOpen {
    pub(crate) fn is_full(&self, config: &EndpointConfig) -> bool {
        self.count >= config.half_open_max
    }

    pub(crate) fn usage(&self) -> HalfOpenUse {
        HalfOpenUse {
            count: self.count,
            octets: self.octets,
            sources: self.sources.len(),
        }
    }

    /// What one more handshake of `source` needs; `proven` when it returned a cookie already.
    pub(crate) fn demand(&self, config: &EndpointConfig, source: Source, proven: bool) -> Demand {
        let (defence, own) = (
            &config.defence,
            self.sources.get(&source).copied().unwrap_or_default(),
        );
        if self.is_full(config) || (proven && own.proven >= defence.half_open_per_source) {
            return Demand::Refuse;
        }
        if self.count >= defence.puzzle_from {
            return Demand::Puzzle {
                bits: self.puzzle_bits(config),
            };
        }
        let wary = self.count >= config.cookie_from || own.unproven >= defence.cookie_from_per_source;
        if wary && !proven {
            return Demand::Cookie;
        }
        Demand::Nothing
    }

    /// Rises evenly from the first to the last difficulty as the table fills (RFC 8019 section 4.4).
    fn puzzle_bits(&self, config: &EndpointConfig) -> u8 {
        let defence = &config.defence;
        let span = config.half_open_max.saturating_sub(defence.puzzle_from).max(1);
        let filled = self.count.saturating_sub(defence.puzzle_from).min(span);
        let rise = usize::from(defence.puzzle_bits_last.saturating_sub(defence.puzzle_bits_first));
        let more = u8::try_from(rise.saturating_mul(filled) / span).unwrap_or(0);
        defence.puzzle_bits_first.saturating_add(more).max(1)
    }

    /// Whether this second has room for a handshake without the solution (RFC 8019 section 7.1.4).
    pub(crate) fn admits_unsolved(&mut self, config: &EndpointConfig, now_ms: u64) -> bool {
        has_room(&mut self.unsolved, config.defence.unsolved_per_s, now_ms)
    }

    /// Whether this second has room for another event of a refused offer.
    pub(crate) fn tells_of_refusal(&mut self, now_ms: u64) -> bool {
        has_room(&mut self.told, REFUSALS_TOLD_PER_S, now_ms)
    }

    pub(crate) fn enter(&mut self, booked: Booked) {
        self.count += 1;
        self.octets += booked.octets;
        let counts = self.sources.entry(booked.source).or_default();
        *counts.of(booked.proven) += 1;
    }

    pub(crate) fn leave(&mut self, booked: Booked) {
        self.count = self.count.saturating_sub(1);
        self.octets = self.octets.saturating_sub(booked.octets);
        if let Some(counts) = self.sources.get_mut(&booked.source) {
            let count = counts.of(booked.proven);
            *count = count.saturating_sub(1);
            if counts.proven == 0 && counts.unproven == 0 {
                self.sources.remove(&booked.source);
            }
        }
    }
}

/// Takes one of those that a second has.
fn has_room(taken: &mut (u64, u32), per_s: u32, now_ms: u64) -> bool {
    let second = now_ms / 1_000;
    if taken.0 != second {
        *taken = (second, 0);
    }
    let room = taken.1 < per_s;
    taken.1 += u32::from(room);
    room
}

impl Counts {
    fn of(&mut self, proven: bool) -> &mut usize {
        if proven {
            &mut self.proven
        } else {
            &mut self.unproven
        }
    }
}

impl IkeSa {
    /// How it stands in the books, if it is half-open.
    pub(crate) fn half_open(&self) -> Option<Booked> {
        let handshake = self.handshake()?;
        Some(Booked {
            source: self.core.path.remote.ip().into(),
            proven: handshake.address_proven,
            octets: size_of::<Self>() + handshake.octets() + self.core.channel.octets(),
        })
    }
}

impl Handshake {
    /// Memory in octets: the state that holds it and what it points to.
    fn octets(&self) -> usize {
        let pointed = [
            self.init_request.capacity(),
            self.init_response.capacity(),
            self.nonce_i.capacity(),
            self.nonce_r.capacity(),
            self.sk_d.capacity(),
            self.sk_pi.capacity(),
            self.sk_pr.capacity(),
            self.int_auth.octets().len(),
            self.peer_hashes.capacity(),
        ];
        size_of::<ExpectIntermediateRequest>() + pointed.iter().sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_ipv6_prefix_is_one_source_and_every_ipv4_address_another() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1:2:3"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
    }

    #[test]
    fn books_are_balanced() {
        let mut books = HalfOpen::default();
        let booked = |text, proven| Booked {
            source: source(text),
            proven,
            octets: 100,
        };
        let entries = [
            booked("192.0.2.1", true),
            booked("192.0.2.1", false),
            booked("2001:db8::1", false),
        ];
        entries.iter().for_each(|one| books.enter(*one));
        assert_eq!(
            books.usage(),
            HalfOpenUse {
                count: 3,
                octets: 300,
                sources: 2
            }
        );
        entries.iter().for_each(|one| books.leave(*one));
        assert_eq!(books.usage(), HalfOpenUse::default());
    }
}
