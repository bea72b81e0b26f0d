//! Fragments that wait for each other (RFC 791 section 3.2, RFC 8200 section 4.5), in bounded memory and time.
//!
//! What overlaps is refused with all that belongs to it, now and later (RFC 5722, RFC 3128): no firewall and no host must
//! read two packets out of one. So are fragments whose first one does not hold the transport header (RFC 1858), fragments
//! of odd lengths, fragments behind the end, and packets longer than IP can say. A repetition of a fragment that is here already, octet
//! for octet, is dropped and harms nothing.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use gateway_common::drop::DropReason;

/// Seconds that the first fragment to come waits for the last one.
const WAIT_S: u64 = 10;
/// Octets that each fragment counts beside its payload.
const OVERHEAD: usize = 128;
/// Fragments of one packet at most: those of 64 KiB over a path of 1,280 octets, and some more.
const PIECES_MAX: usize = 64;
/// Octets that IP counts a fragment's place in.
const UNIT: usize = 8;

/// Memory that waiting fragments may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Packets of one source.
    pub(crate) per_source: u32,
    /// Packets of all sources.
    pub(crate) packets: usize,
    /// Octets of all sources.
    pub(crate) octets: usize,
    /// Octets of one packet behind its IP header.
    pub(crate) length: usize,
}

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Who they are from apart from their addresses, which sites share.
    pub(crate) scope: u32,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) identification: u32,
    pub(crate) protocol: u8,
}

/// A fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Place of its payload in the packet's, in octets.
    pub(crate) offset: usize,
    /// Others follow.
    pub(crate) more: bool,
    /// What stands in front of the payload: headers of link and IP.
    pub(crate) header: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Piece {
    fn end(&self) -> usize {
        self.offset + self.payload.len()
    }

    fn cost(&self) -> usize {
        self.payload.len() + self.header.len() + OVERHEAD
    }
}

/// Fragments that were dropped after they had been taken in, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// With another one that is malformed.
    pub(crate) malformed: u64,
    /// The rest did not come.
    pub(crate) late: u64,
    /// Newer ones needed the room.
    pub(crate) displaced: u64,
}

impl Lost {
    /// By reason.
    pub(crate) fn by_reason(self) -> [(DropReason, u64); 3] {
        [
            (DropReason::FragmentMalformed, self.malformed),
            (DropReason::FragmentTimeout, self.late),
            (DropReason::FragmentLimit, self.displaced),
        ]
    }
}

/// Fragments of one packet, in the order of their places.
struct Waiting {
    since_s: u64,
    /// Tells it from an earlier packet of the same key.
    number: u64,
    pieces: Vec<Piece>,
    /// Length of the packet, once the last fragment is here.
    end: Option<usize>,
    /// Something contradicted itself: nothing more of it is taken.
    refused: bool,
}

/// Fragments that wait.
pub(crate) struct Reassembly {
    bounds: Bounds,
    waiting: HashMap<Key, Waiting>,
    /// All that wait or did, the oldest first.
    order: VecDeque<(Key, u64)>,
    sources: HashMap<(u32, IpAddr), u32>,
    octets: usize,
    number: u64,
    lost: Lost,
}

impl Reassembly {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            sources: HashMap::new(),
            octets: 0,
            number: 0,
            lost: Lost::default(),
        }
    }

    /// Takes a fragment; answers all fragments of its packet in order when it was the last one missing. `header_min` is
    /// what the first fragment must hold at least: the transport header.
    ///
    /// # Errors
    /// The reason to drop it.
    pub(crate) fn add(
        &mut self,
        key: Key,
        piece: Piece,
        header_min: impl Fn(&[u8]) -> usize,
        now_s: u64,
    ) -> Result<Option<Vec<Piece>>, DropReason> {
        self.expire(now_s);
        if !self.waiting.contains_key(&key) {
            self.begin(key, now_s)?;
        }
        let cost = piece.cost();
        self.make_room(cost, &key)?;
        let length_max = self.bounds.length;
        let Some(waiting) = self.waiting.get_mut(&key) else {
            return Err(DropReason::FragmentLimit);
        };
        if waiting.refused {
            return Err(DropReason::FragmentMalformed);
        }
        match waiting.place(piece, length_max, header_min) {
            Ok(Placed::Waits) => {
                self.octets += cost;
                Ok(None)
            }
            Ok(Placed::Complete) => {
                self.octets += cost;
                let complete = self.take(&key);
                Ok(complete.map(|waiting| waiting.pieces))
            }
            Ok(Placed::Repeated) => Err(DropReason::FragmentMalformed),
            Err(Contradiction) => {
                // It stays as a tombstone, so that what is still under way is refused as well (RFC 5722 section 3).
                let pieces = core::mem::take(&mut waiting.pieces);
                waiting.refused = true;
                self.octets -= pieces.iter().map(Piece::cost).sum::<usize>();
                self.lost.malformed += pieces.len() as u64;
                Err(DropReason::FragmentMalformed)
            }
        }
    }

    /// Drops what has waited too long.
    pub(crate) fn expire(&mut self, now_s: u64) {
        while let Some((key, number)) = self.order.front() {
            let (key, number) = (*key, *number);
            match self.waiting.get(&key) {
                Some(waiting) if waiting.number == number => {
                    if now_s.saturating_sub(waiting.since_s) <= WAIT_S {
                        return;
                    }
                    if let Some(waiting) = self.take(&key) {
                        self.lost.late += waiting.pieces.len() as u64;
                    }
                }
                // Complete by now.
                Some(_) | None => {}
            }
            self.order.pop_front();
        }
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// What was dropped since the last call.
    pub(crate) fn take_lost(&mut self) -> Lost {
        core::mem::take(&mut self.lost)
    }

    fn begin(&mut self, key: Key, now_s: u64) -> Result<(), DropReason> {
        let of_source = self.sources.entry((key.scope, key.source)).or_default();
        if *of_source >= self.bounds.per_source {
            return Err(DropReason::FragmentLimit);
        }
        *of_source += 1;
        while self.waiting.len() >= self.bounds.packets {
            self.displace_oldest(&key);
        }
        self.number += 1;
        let waiting = Waiting {
            since_s: now_s,
            number: self.number,
            pieces: Vec::new(),
            end: None,
            refused: false,
        };
        self.waiting.insert(key, waiting);
        self.order.push_back((key, self.number));
        Ok(())
    }

    /// The oldest goes for the newest: it is the least likely to be completed, and a flood that fills the room must not
    /// keep others out for as long as it lasts.
    fn make_room(&mut self, cost: usize, of: &Key) -> Result<(), DropReason> {
        while self.octets + cost > self.bounds.octets {
            if !self.displace_oldest(of) {
                return Err(DropReason::FragmentLimit);
            }
        }
        Ok(())
    }

    /// `false` if the one that room is made for is the oldest.
    fn displace_oldest(&mut self, keep: &Key) -> bool {
        while let Some((key, number)) = self.order.front() {
            let (key, number) = (*key, *number);
            let is_it = self.waiting.get(&key).is_some_and(|waiting| waiting.number == number);
            if is_it && key == *keep {
                return false;
            }
            self.order.pop_front();
            if is_it {
                if let Some(waiting) = self.take(&key) {
                    self.lost.displaced += waiting.pieces.len() as u64;
                }
                return true;
            }
        }
        false
    }

    fn take(&mut self, key: &Key) -> Option<Waiting> {
        let waiting = self.waiting.remove(key)?;
        self.octets -= waiting.pieces.iter().map(Piece::cost).sum::<usize>();
        let source = (key.scope, key.source);
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
        Some(waiting)
    }
}

enum Placed {
    Waits,
    Complete,
    Repeated,
}

/// A fragment that cannot belong to the packet that the others make.
struct Contradiction;

impl Waiting {
    fn place(
        &mut self,
        piece: Piece,
        length_max: usize,
        header_min: impl Fn(&[u8]) -> usize,
    ) -> Result<Placed, Contradiction> {
        let (start, end) = (piece.offset, piece.end());
        let is_sound = !piece.payload.is_empty()
            && end <= length_max
            && (!piece.more || piece.payload.len().is_multiple_of(UNIT))
            && (start > 0 || piece.payload.len() >= header_min(&piece.payload))
            && self.pieces.len() < PIECES_MAX;
        if !is_sound {
            return Err(Contradiction);
        }
        let at = self.pieces.partition_point(|other| other.offset < start);
        if let Some(same) = self.pieces.get(at)
            && (same.offset, same.more) == (start, piece.more)
            && same.payload == piece.payload
        {
            return Ok(Placed::Repeated);
        }
        let before = at.checked_sub(1).and_then(|before| self.pieces.get(before));
        let overlaps = before.is_some_and(|before| before.end() > start)
            || self.pieces.get(at).is_some_and(|next| next.offset < end);
        let behind_end = match self.end {
            Some(packet_end) => end > packet_end || !piece.more,
            None => !piece.more && self.pieces.last().is_some_and(|last| last.end() > end),
        };
        if overlaps || behind_end {
            return Err(Contradiction);
        }
        if !piece.more {
            self.end = Some(end);
        }
        self.pieces.insert(at, piece);
        // They do not overlap and none is behind the end: if their lengths add up, there is no gap.
        let have: usize = self.pieces.iter().map(|piece| piece.payload.len()).sum();
        Ok(if self.end == Some(have) {
            Placed::Complete
        } else {
            Placed::Waits
        })
    }
}
