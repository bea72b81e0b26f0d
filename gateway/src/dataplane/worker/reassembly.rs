//! Fragments that wait for each other (RFC 791 section 3.2, RFC 8200 section 4.5), in bounded memory and time.
//!
//! What overlaps is refused with all that belongs to it, now and later (RFC 5722, RFC 3128): no firewall and no host must
//! read two packets out of one. So are fragments whose first one does not hold the transport header (RFC 1858), fragments
//! of odd lengths, fragments behind the end, and packets longer than IP can say. A repetition of a fragment that is here already, octet
//! for octet, is dropped and harms nothing.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
pub struct Bounds {
    /// Packets of one source.
    pub per_source: u32,
    /// Octets of one source, with what is kept beside them; more than a packet of the greatest length takes.
    pub octets_per_source: usize,
    /// Packets of all sources.
    pub packets: usize,
    /// Octets of all sources, with what is kept beside them.
    pub octets: usize,
    /// Octets of one packet behind its IP header.
    pub length: usize,
}

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The site that they are of, since sites share addresses; zero for what is no site's.
    pub(crate) scope: u32,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) identification: u32,
    pub(crate) protocol: u8,
}

impl Key {
    /// A number that spreads packets over workers.
    pub(crate) fn spread(&self) -> u32 {
        let mut hasher = std::hash::DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish() as u32
    }

    /// Who is counted: a site, an IPv4 address, or an IPv6 /64, whose owner has all of it.
    pub(crate) fn owner(&self) -> (u32, IpAddr) {
        let source = match self.source {
            _ if self.scope != 0 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        };
        (self.scope, source)
    }
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

/// What waits of one source.
#[derive(Default)]
struct Source {
    /// The oldest first.
    keys: VecDeque<Key>,
    octets: usize,
}

/// Fragments that wait.
pub(crate) struct Reassembly {
    bounds: Bounds,
    waiting: HashMap<Key, Waiting>,
    /// All that wait, the oldest first, and some that did; at most twice as many as may wait.
    order: VecDeque<(Key, u64)>,
    sources: HashMap<(u32, IpAddr), Source>,
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
            self.begin(key, now_s);
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
                self.hold(&key, cost);
                Ok(None)
            }
            Ok(Placed::Complete) => {
                self.hold(&key, cost);
                let complete = self.take(&key);
                Ok(complete.map(|waiting| waiting.pieces))
            }
            Ok(Placed::Repeated) => Err(DropReason::FragmentMalformed),
            Err(Contradiction) => {
                // It stays as a tombstone, so that what is still under way is refused as well (RFC 5722 section 3).
                let pieces = core::mem::take(&mut waiting.pieces);
                waiting.refused = true;
                self.release(&key, &pieces);
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

    /// Nothing waits, and nothing was dropped.
    pub(crate) fn is_idle(&self) -> bool {
        self.order.is_empty() && self.lost == Lost::default()
    }

    /// Packets that wait, and the octets that they take.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.waiting.len(), self.octets)
    }

    /// What was dropped since the last call.
    pub(crate) fn take_lost(&mut self) -> Lost {
        core::mem::take(&mut self.lost)
    }

    fn begin(&mut self, key: Key, now_s: u64) {
        let of_source = self.sources.get(&key.owner());
        let is_full = |source: &&Source| source.keys.len() >= self.bounds.per_source as usize;
        // As in `make_room`: who sends in the name of another must not keep its own out.
        let oldest = of_source.filter(is_full).and_then(|source| source.keys.front());
        if let Some(oldest) = oldest.copied() {
            self.displace(&oldest);
        }
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
        let source = self.sources.entry(key.owner()).or_default();
        source.keys.push_back(key);
        self.forget_complete();
    }

    /// What was completed leaves the order when it comes to its front, which one that still waits holds up: no more than
    /// the bounds' worth of them is kept until then.
    fn forget_complete(&mut self) {
        if self.order.len() <= 2 * self.bounds.packets {
            return;
        }
        let waiting = &self.waiting;
        let waits =
            |(key, number): &(Key, u64)| waiting.get(key).is_some_and(|packet| packet.number == *number);
        self.order.retain(waits);
    }

    /// The oldest goes for the newest: it is the least likely to be completed, and a flood that fills the room must not
    /// keep others out for as long as it lasts. That of the source itself where it has its share, so that long packets of few
    /// do not displace those of all others.
    fn make_room(&mut self, cost: usize, of: &Key) -> Result<(), DropReason> {
        while let Some(source) = self.sources.get(&of.owner())
            && source.octets + cost > self.bounds.octets_per_source
        {
            match source.keys.front().copied() {
                Some(oldest) if oldest != *of => self.displace(&oldest),
                Some(_) | None => return Err(DropReason::FragmentLimit),
            }
        }
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
            let is_it = self
                .waiting
                .get(&key)
                .is_some_and(|waiting| waiting.number == number);
            if is_it && key == *keep {
                return false;
            }
            self.order.pop_front();
            if is_it {
                self.displace(&key);
                return true;
            }
        }
        false
    }

    fn displace(&mut self, key: &Key) {
        if let Some(waiting) = self.take(key) {
            self.lost.displaced += waiting.pieces.len() as u64;
        }
    }

    fn take(&mut self, key: &Key) -> Option<Waiting> {
        let waiting = self.waiting.remove(key)?;
        self.release(key, &waiting.pieces);
        let owner = key.owner();
        if let Some(source) = self.sources.get_mut(&owner) {
            if let Some(place) = source.keys.iter().position(|waits| waits == key) {
                source.keys.remove(place);
            }
            if source.keys.is_empty() {
                self.sources.remove(&owner);
            }
        }
        Some(waiting)
    }

    fn hold(&mut self, key: &Key, cost: usize) {
        self.octets += cost;
        if let Some(source) = self.sources.get_mut(&key.owner()) {
            source.octets += cost;
        }
    }

    fn release(&mut self, key: &Key, pieces: &[Piece]) {
        let cost: usize = pieces.iter().map(Piece::cost).sum();
        self.octets -= cost;
        if let Some(source) = self.sources.get_mut(&key.owner()) {
            source.octets -= cost;
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        per_source: 4,
        octets_per_source: 16 << 10,
        packets: 8,
        octets: 64 << 10,
        length: 65_515,
    };

    fn key(source: u8, identification: u32) -> Key {
        Key {
            scope: 0,
            source: IpAddr::from([192, 0, 2, source]),
            destination: IpAddr::from([198, 51, 100, 1]),
            identification,
            protocol: 17,
        }
    }

    fn piece(payload: &[u8], start: usize, end: usize) -> Piece {
        Piece {
            offset: start,
            more: end < payload.len(),
            header: vec![0; 34],
            payload: payload[start..end].to_vec(),
        }
    }

    fn add(waiting: &mut Reassembly, key: Key, piece: Piece) -> Result<Option<Vec<Piece>>, DropReason> {
        waiting.add(key, piece, |_| 8, 0)
    }

    fn joined(pieces: &[Piece]) -> Vec<u8> {
        pieces.iter().flat_map(|piece| piece.payload.clone()).collect()
    }

    /// A packet, places where it is cut, and an order.
    fn cuts() -> impl Strategy<Value = (Vec<u8>, Vec<usize>, Vec<usize>)> {
        (16usize..600).prop_flat_map(|len| {
            let payload = proptest::collection::vec(any::<u8>(), len);
            let cuts = proptest::collection::btree_set(1..len.div_ceil(8), 0..12);
            (payload, cuts).prop_flat_map(move |(payload, cuts)| {
                let cuts: Vec<usize> = cuts
                    .into_iter()
                    .map(|cut| cut * 8)
                    .filter(|cut| *cut < len)
                    .collect();
                let order = Just((0..=cuts.len()).collect::<Vec<_>>()).prop_shuffle();
                (Just(payload), Just(cuts), order)
            })
        })
    }

    fn pieces(payload: &[u8], cuts: &[usize]) -> Vec<Piece> {
        let starts = [&[0], cuts].concat();
        let ends = [cuts, &[payload.len()]].concat();
        let of = |(start, end): (&usize, &usize)| piece(payload, *start, *end);
        starts.iter().zip(&ends).map(of).collect()
    }

    proptest! {
        /// Property: whatever the cuts and the order, the packet comes out as it was, once the last fragment is there and
        /// not before; nothing stays behind.
        #[test]
        fn any_cuts_in_any_order_give_the_packet((payload, cuts, order) in cuts()) {
            let mut waiting = Reassembly::new(BOUNDS);
            let pieces = pieces(&payload, &cuts);
            for (number, index) in order.iter().enumerate() {
                let outcome = add(&mut waiting, key(1, 1), pieces[*index].clone());
                if number + 1 < order.len() {
                    prop_assert_eq!(outcome, Ok(None));
                } else {
                    prop_assert_eq!(joined(&outcome.unwrap().unwrap()), payload.clone());
                }
            }
            prop_assert_eq!((waiting.octets, waiting.waiting.len(), waiting.sources.len()), (0, 0, 0));
        }

        /// Property: a fragment more, wherever it lies and whatever it says, never makes another packet of it: the packet
        /// comes out as it was, or not at all.
        #[test]
        fn an_overlap_gives_the_packet_or_nothing(
            (payload, cuts, order) in cuts(),
            (start, units, more) in (0usize..80, 1usize..20, any::<bool>()),
            at in any::<prop::sample::Index>(),
        ) {
            let mut waiting = Reassembly::new(BOUNDS);
            let forged = Piece { offset: start * 8, more, header: vec![0; 34], payload: vec![0xf0; units * 8] };
            let mut arriving: Vec<Piece> = order.iter().map(|index| pieces(&payload, &cuts)[*index].clone()).collect();
            let at = at.index(arriving.len() + 1);
            arriving.insert(at, forged.clone());
            let mut out = vec![];
            for (number, piece) in arriving.into_iter().enumerate() {
                if let Ok(Some(complete)) = add(&mut waiting, key(1, 1), piece) {
                    out.push((number, joined(&complete)));
                }
            }
            for (number, packet) in out {
                // One that lies where a true one would, and came first, stands in its place: nobody can tell them apart.
                let forged_at = forged.offset..forged.offset + forged.payload.len();
                let is_forged = number >= at && packet.get(forged_at.clone()) == Some(&forged.payload[..]);
                for (place, octet) in packet.iter().enumerate() {
                    let is_covered = is_forged && forged_at.contains(&place);
                    prop_assert!(is_covered || payload.get(place) == Some(octet), "octet {place} of {}", packet.len());
                }
                prop_assert!(packet.len() == payload.len() || (is_forged && !more), "{} octets", packet.len());
            }
        }

        /// Property: no input makes it hold more than its bounds, and each fragment is accounted for.
        #[test]
        fn memory_is_bounded(
            arriving in proptest::collection::vec(
                (0u8..6, 0u32..6, 0usize..40, 0usize..12, any::<bool>(), 0u64..3), 0..400),
        ) {
            let mut waiting = Reassembly::new(Bounds { octets: 3000, octets_per_source: 1200, ..BOUNDS });
            let (mut now_s, mut taken, mut out, mut lost) = (0, 0u64, 0u64, Lost::default());
            for (source, identification, start, units, more, later_s) in arriving {
                now_s += later_s;
                let piece = Piece { offset: start * 8, more, header: vec![0; 34], payload: vec![1; units * 8] };
                match waiting.add(key(source, identification), piece, |_| 8, now_s) {
                    Ok(None) => taken += 1,
                    Ok(Some(pieces)) => { taken += 1; out += pieces.len() as u64 }
                    Err(_) => {}
                }
                let held: usize = waiting.waiting.values().flat_map(|packet| &packet.pieces).map(Piece::cost).sum();
                prop_assert_eq!(held, waiting.octets);
                prop_assert!(waiting.octets <= 3000 && waiting.waiting.len() <= 8 && waiting.order.len() <= 16);
                prop_assert!(waiting.sources.values().all(|source| (1..=4).contains(&source.keys.len())));
                prop_assert!(waiting.sources.values().all(|source| source.octets <= 1200));
                let of_sources: usize = waiting.sources.values().map(|source| source.keys.len()).sum();
                prop_assert_eq!(of_sources, waiting.waiting.len());
                let of_sources: usize = waiting.sources.values().map(|source| source.octets).sum();
                prop_assert_eq!(of_sources, waiting.octets);
                let now = waiting.take_lost();
                lost = Lost {
                    malformed: lost.malformed + now.malformed,
                    late: lost.late + now.late,
                    displaced: lost.displaced + now.displaced,
                };
            }
            let held: usize = waiting.waiting.values().map(|packet| packet.pieces.len()).sum();
            prop_assert_eq!(taken, out + held as u64 + lost.malformed + lost.late + lost.displaced);
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_all_that_belongs_to_it() {
        let payload: Vec<u8> = (0..64).collect();
        let good = || pieces(&payload, &[16, 32, 48]);
        let shifted = |start: usize, more: bool, len: usize| Piece {
            offset: start,
            more,
            header: vec![],
            payload: vec![9; len],
        };
        let cases: [(&str, Piece); 9] = [
            ("overlaps the one before", shifted(8, true, 16)),
            ("overlaps the one behind", shifted(40, true, 16)),
            ("lies inside another", shifted(16, true, 8)),
            ("holds another", shifted(0, true, 64)),
            ("says the same place and other octets", shifted(16, true, 16)),
            ("is behind the end", shifted(64, true, 8)),
            ("is another end", shifted(32, false, 8)),
            (
                "is of a length that is no multiple of eight",
                shifted(32, true, 15),
            ),
            ("is empty", shifted(32, true, 0)),
        ];
        for (words, bad) in cases {
            let mut waiting = Reassembly::new(BOUNDS);
            let good = good();
            for index in [0, 1, 3] {
                assert_eq!(add(&mut waiting, key(1, 1), good[index].clone()), Ok(None));
            }
            let refused = Err(DropReason::FragmentMalformed);
            assert_eq!(add(&mut waiting, key(1, 1), bad), refused, "{words}");
            assert_eq!(add(&mut waiting, key(1, 1), good[2].clone()), refused, "{words}");
            assert_eq!(waiting.take_lost().malformed, 3);
            assert_eq!(
                add(&mut waiting, key(1, 2), good[2].clone()),
                Ok(None),
                "another packet"
            );
        }
    }

    #[test]
    fn a_repetition_harms_nothing() {
        let payload: Vec<u8> = (0..64).collect();
        let mut waiting = Reassembly::new(BOUNDS);
        let pieces = pieces(&payload, &[16, 32]);
        assert_eq!(add(&mut waiting, key(1, 1), pieces[0].clone()), Ok(None));
        let repeated = add(&mut waiting, key(1, 1), pieces[0].clone());
        assert_eq!(repeated, Err(DropReason::FragmentMalformed));
        assert_eq!(add(&mut waiting, key(1, 1), pieces[2].clone()), Ok(None));
        let complete = add(&mut waiting, key(1, 1), pieces[1].clone()).unwrap().unwrap();
        assert_eq!(joined(&complete), payload);
    }

    /// The ping of death, and a first fragment too short for its header.
    #[test]
    fn too_long_and_too_short_ones_are_refused() {
        let mut waiting = Reassembly::new(BOUNDS);
        let of_death = Piece {
            offset: 0x1fff * 8,
            more: false,
            header: vec![],
            payload: vec![0; 100],
        };
        assert_eq!(
            add(&mut waiting, key(1, 1), of_death),
            Err(DropReason::FragmentMalformed)
        );
        let tiny = piece(&[0; 64], 0, 8);
        let refused = waiting.add(key(1, 2), tiny, |_| 20, 0);
        assert_eq!(refused, Err(DropReason::FragmentMalformed));
    }

    #[test]
    fn one_source_cannot_take_all_and_the_oldest_goes_first() {
        let mut waiting = Reassembly::new(BOUNDS);
        let first = || piece(&[0; 64], 0, 32);
        let last = || piece(&[0; 64], 32, 64);
        for identification in 0..4 {
            assert_eq!(add(&mut waiting, key(1, identification), first()), Ok(None));
        }
        assert_eq!(add(&mut waiting, key(1, 4), first()), Ok(None));
        assert_eq!((waiting.held().0, waiting.take_lost().displaced), (4, 1));
        for source in 2..7 {
            assert_eq!(add(&mut waiting, key(source, 0), first()), Ok(None));
        }
        assert_eq!(waiting.take_lost().displaced, 1);
        assert!(add(&mut waiting, key(6, 0), last()).unwrap().is_some());
        // The other halves went for newer ones: of its own source, and of all.
        for identification in [0, 1] {
            assert_eq!(
                add(&mut waiting, key(1, identification), last()),
                Ok(None),
                "{identification}"
            );
        }
    }

    /// Regression: a source that sent the starts of long packets took all octets, and those of all others went for them.
    #[test]
    fn long_packets_of_one_source_displace_its_own_alone() {
        let mut waiting = Reassembly::new(Bounds {
            octets: 20 << 10,
            octets_per_source: 10 << 10,
            ..BOUNDS
        });
        let (first, last) = (piece(&[0; 64], 0, 32), piece(&[0; 64], 32, 64));
        for source in 2..4 {
            assert_eq!(add(&mut waiting, key(source, 0), first.clone()), Ok(None));
        }
        let long = vec![0; 65_000];
        for identification in 0..100 {
            let start = piece(&long, 0, 8_000);
            assert_eq!(add(&mut waiting, key(1, identification), start), Ok(None));
            assert!(waiting.octets <= 11 << 10, "{} octets", waiting.octets);
        }
        for source in 2..4 {
            let complete = add(&mut waiting, key(source, 0), last.clone());
            assert!(matches!(complete, Ok(Some(_))), "{complete:?} of {source}");
        }
        // The newest of the source is still there; no more of it than its share is.
        let more = |start: usize| piece(&long, start, start + 1_000);
        assert_eq!(add(&mut waiting, key(1, 99), more(8_000)), Ok(None));
        let beyond = add(&mut waiting, key(1, 99), more(9_000));
        assert_eq!(beyond, Err(DropReason::FragmentLimit));
    }

    /// Regression: anybody may send in the name of a source. As many fragments as may wait, and nothing else, kept the true
    /// source's out for as long as they waited.
    #[test]
    fn fragments_in_the_name_of_a_source_do_not_keep_its_own_out() {
        let mut waiting = Reassembly::new(BOUNDS);
        let (first, last) = (piece(&[0; 64], 0, 32), piece(&[0; 64], 32, 64));
        let mut forged = 100..;
        let mut forge = |waiting: &mut Reassembly, count| {
            for identification in forged.by_ref().take(count) {
                let _displaced = add(waiting, key(1, identification), first.clone());
            }
        };
        for identification in 0..10 {
            forge(&mut waiting, 20);
            assert_eq!(add(&mut waiting, key(1, identification), first.clone()), Ok(None));
            forge(&mut waiting, 3);
            assert!(
                matches!(
                    add(&mut waiting, key(1, identification), last.clone()),
                    Ok(Some(_))
                ),
                "{identification}"
            );
            assert!(waiting.held().0 <= 4);
        }
    }

    /// A packet that is never completed must not keep the memory of all that are completed behind it.
    #[test]
    fn completed_packets_take_no_memory_while_an_older_one_waits() {
        let mut waiting = Reassembly::new(BOUNDS);
        let (first, last) = (piece(&[0; 64], 0, 32), piece(&[0; 64], 32, 64));
        assert_eq!(add(&mut waiting, key(1, 0), first.clone()), Ok(None));
        for identification in 1..=100_000 {
            assert_eq!(add(&mut waiting, key(2, identification), first.clone()), Ok(None));
            assert!(matches!(
                add(&mut waiting, key(2, identification), last.clone()),
                Ok(Some(_))
            ));
            assert!(
                waiting.order.len() <= 2 * BOUNDS.packets,
                "{} remembered",
                waiting.order.len()
            );
        }
        assert_eq!(waiting.held().0, 1);
        waiting.expire(11);
        assert_eq!(waiting.take_lost().late, 1, "it is still the first that goes");
        assert!(waiting.is_idle());
    }

    #[test]
    fn waiting_has_an_end() {
        let mut waiting = Reassembly::new(BOUNDS);
        let payload = [0; 64];
        assert_eq!(waiting.add(key(1, 1), piece(&payload, 0, 32), |_| 8, 5), Ok(None));
        waiting.expire(15);
        assert!(!waiting.is_idle());
        waiting.expire(16);
        assert_eq!(waiting.take_lost().late, 1);
        assert!(waiting.is_idle());
        assert_eq!(
            waiting.add(key(1, 1), piece(&payload, 32, 64), |_| 8, 16),
            Ok(None)
        );
    }
}
