//! Fragments into a worker's reassembly, of outer packets and of clear ones both ways, beside a naive one that has an octet
//! for each octet.

use std::collections::HashMap;

use gateway::dataplane::{FragmentBounds, FragmentWorker, Whole};
use gateway_common::abi::sa::{LinkHeader, fragment as mark};
use gateway_common::drop::DropReason;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::Input;
use crate::frames::{ethernet, fix_ipv4, ipv6};

/// Steps of one run at most.
const STEPS_MAX: usize = 200;
/// Octets behind an IPv4 header at most.
const PAYLOAD_MAX: usize = 65_515;
/// Seconds that fragments wait, and fragments of one packet at most: what `security.md` promises.
const WAIT_S: u64 = 10;
const PIECES_MAX: usize = 64;
/// Bounds that a few fragments reach.
const TIGHT: FragmentBounds = FragmentBounds {
    per_source: 2,
    octets_per_source: 15_000,
    packets: 3,
    octets: 20_000,
    length: 9_000,
};
const LINK: usize = 14;
const ESP: u8 = 50;
const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP: u8 = 1;

/// Where a fragment comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Outer4,
    Outer6,
    Site,
    Center,
}

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    side: Side,
    /// A site; zero for what is no site's.
    scope: u32,
    source: u8,
    identification: u8,
    protocol: u8,
}

/// A fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    offset: usize,
    more: bool,
    payload: Vec<u8>,
}

/// Bounds, then steps of eight octets: a fragment, a time that passes, or octets as they are, which a second worker gets.
///
/// # Panics
/// When what waits is more than the bounds, when a packet comes out that a naive reassembly does not give, or when one does
/// not that it gives.
pub fn fragments(input: &[u8]) {
    let mut input = Input(input);
    let is_tight = input.octet() & 1 == 1;
    let bounds = if is_tight {
        [TIGHT; 2]
    } else {
        FragmentWorker::BOUNDS
    };
    let mut run = Run {
        bounds,
        is_tight,
        worker: FragmentWorker::new(bounds),
        of_octets: FragmentWorker::new([TIGHT; 2]),
        naive: HashMap::new(),
        arrived: HashMap::new(),
        now_s: 0,
        taken: 0,
        out: 0,
        lost: 0,
    };
    for _ in 0..STEPS_MAX {
        if input.0.is_empty() {
            break;
        }
        let kind = input.octet();
        match kind >> 5 {
            7 => run.pass_time(u64::from(input.octet() % 16)),
            6 => {
                let Some(octets) = input.piece() else { break };
                run.octets(side(kind), octets);
            }
            _ => run.fragment(kind, &mut input),
        }
        run.is_bounded();
    }
    run.end();
}

fn side(kind: u8) -> Side {
    match kind & 3 {
        0 => Side::Outer4,
        1 => Side::Outer6,
        2 => Side::Site,
        _ => Side::Center,
    }
}

struct Run {
    bounds: [FragmentBounds; 2],
    is_tight: bool,
    worker: FragmentWorker,
    of_octets: FragmentWorker,
    naive: HashMap<Key, Naive>,
    /// All fragments that ever came, by their packet.
    arrived: HashMap<Key, Vec<Piece>>,
    now_s: u64,
    /// Fragments that were taken in, that came out, and that were dropped in between.
    taken: u64,
    out: u64,
    lost: u64,
}

impl Run {
    fn pass_time(&mut self, seconds: u64) {
        self.now_s += seconds;
        let dropped = self.worker.round(self.now_s);
        self.lost += dropped.iter().map(|(_, count)| count).sum::<u64>();
        self.of_octets.round(self.now_s);
    }

    /// Octets as they are: no panic, and no more than the bounds.
    fn octets(&mut self, side: Side, octets: &[u8]) {
        let outcome = match side {
            Side::Outer4 | Side::Outer6 => self.of_octets.outer(octets).map(|_| ()),
            Side::Site => self.of_octets.site(1, octets).map(|_| ()),
            Side::Center => self.of_octets.core(octets).map(|_| ()),
        };
        if let Err(reason) = outcome {
            assert!(!reason.name().is_empty());
        }
        assert!(
            is_within(&self.of_octets, &[TIGHT; 2]),
            "{:?}",
            self.of_octets.held()
        );
    }

    fn fragment(&mut self, kind: u8, input: &mut Input<'_>) {
        let (who, identification) = (input.octet(), input.octet());
        let units = u16::from_be_bytes([input.octet(), input.octet()]) & 0x1fff;
        let length = u16::from_be_bytes([input.octet(), input.octet()]);
        let fill = input.octet();
        let key = key(kind, who, identification);
        let mut payload: Vec<u8> = (0..usize::from(length).min(PAYLOAD_MAX))
            .map(|at| octet(fill, usize::from(units) * 8 + at))
            .collect();
        if units == 0 {
            begin(key.protocol, fill, who, &mut payload);
        }
        let piece = Piece {
            offset: usize::from(units) * 8,
            more: kind & 4 != 0,
            payload,
        };
        self.arrived.entry(key).or_default().push(piece.clone());
        let outcome = self.add(&key, &piece);
        if !self.is_tight {
            self.is_as_naive(key, &piece, &outcome);
        }
        match outcome {
            Ok(Came::Waits) => self.taken += 1,
            Ok(Came::Clear(frames)) => {
                self.taken += 1;
                self.out += frames.len() as u64;
                self.came_whole(&key, &frames);
            }
            Ok(Came::Outer(_)) => self.taken += 1,
            Err(reason) => assert!(!reason.name().is_empty()),
        }
    }

    fn add(&mut self, key: &Key, piece: &Piece) -> Result<Came, DropReason> {
        let frame = frame(key, piece);
        let outcome = match key.side {
            Side::Outer4 | Side::Outer6 => self.worker.outer(&frame).map(|whole| whole.map(Came::Outer)),
            Side::Site => self.worker.site(key.scope, &frame).map(clear),
            Side::Center => self.worker.core(&frame).map(clear),
        };
        outcome.map(|came| came.unwrap_or(Came::Waits))
    }

    /// What comes out is made of fragments that came, each whole, side by side, and no longer than it may be.
    fn came_whole(&self, key: &Key, frames: &[Vec<u8>]) {
        let [_, clear] = self.bounds;
        let mut end = 0;
        for (number, frame) in frames.iter().enumerate() {
            let (link, packet) = frame.split_at(LINK);
            let (header, payload) = packet.split_at(20);
            let place = u16::from_be_bytes([header[6], header[7]]);
            let piece = Piece {
                offset: usize::from(place & 0x1fff) * 8,
                more: place & 0x2000 != 0,
                payload: payload.to_vec(),
            };
            assert_eq!(piece.offset, end, "a gap or an overlap");
            assert_eq!(
                piece.more,
                number + 1 < frames.len(),
                "an end that is none, or none"
            );
            assert!(
                self.arrived[key].contains(&piece),
                "nobody has sent this fragment"
            );
            assert_eq!(
                usize::from(u16::from_be_bytes([header[2], header[3]])),
                packet.len()
            );
            assert_eq!(
                header[4..6],
                frames[0][LINK + 4..LINK + 6],
                "another identification"
            );
            assert_eq!((header[9], header[15]), (key.protocol, key.source));
            let link = LinkHeader::read_from_bytes(link).expect("a link header");
            let (kind, scope, _) = link.read_fragment().expect("marked as a fragment");
            assert_eq!((kind, scope), (marks(key.side)[number.min(1)], key.scope));
            end += payload.len();
        }
        assert!(end <= clear.length, "{end} octets");
    }

    /// With bounds that are not reached: what comes is what a naive reassembly gives.
    fn is_as_naive(&mut self, key: Key, piece: &Piece, outcome: &Result<Came, DropReason>) {
        if key.side == Side::Site && piece.offset == 0 && !piece.more {
            assert_eq!(*outcome, Err(DropReason::InnerFragment), "no fragment");
            return;
        }
        let outer = matches!(key.side, Side::Outer4 | Side::Outer6);
        let length = self.bounds[usize::from(!outer)].length;
        if self
            .naive
            .get(&key)
            .is_some_and(|naive| self.now_s - naive.since_s > WAIT_S)
        {
            self.naive.remove(&key);
        }
        let naive = self.naive.entry(key).or_insert_with(|| Naive::new(self.now_s));
        let expected = naive.add(piece, key.protocol, outer, length);
        match (expected, outcome) {
            (Expected::Refused, Err(DropReason::FragmentMalformed)) | (Expected::Waits, Ok(Came::Waits)) => {}
            (Expected::Whole(payload), Ok(Came::Clear(frames))) => {
                let came: Vec<u8> = frames
                    .iter()
                    .flat_map(|frame| frame[LINK + 20..].to_vec())
                    .collect();
                assert!(came == payload, "another packet");
                self.naive.remove(&key);
            }
            (Expected::Whole(payload), Ok(Came::Outer(whole))) => {
                is_outer(&key, whole, &payload);
                self.out += naive.pieces.len() as u64;
                self.naive.remove(&key);
            }
            (
                Expected::Whole(_),
                Err(DropReason::TruncatedUdp | DropReason::IkeRateLimit | DropReason::OuterProtocol),
            ) if outer && key.protocol == UDP => {
                // The last fragment is not among those taken: it ended in the drop.
                self.out += naive.pieces.len() as u64 - 1;
                self.naive.remove(&key);
            }
            (expected, outcome) => {
                panic!(
                    "{key:?} {} {}: {outcome:?}, not {expected:?}",
                    piece.offset, piece.more
                )
            }
        }
    }

    fn is_bounded(&self) {
        assert!(is_within(&self.worker, &self.bounds), "{:?}", self.worker.held());
    }

    /// In the end nothing is left, and every fragment is accounted for.
    fn end(mut self) {
        self.pass_time(WAIT_S + 1);
        assert_eq!(self.worker.held(), [(0, 0); 4]);
        if !self.is_tight {
            assert_eq!(
                self.taken,
                self.out + self.lost,
                "fragments that are not accounted for"
            );
        }
    }
}

fn is_within(worker: &FragmentWorker, [outer, clear]: &[FragmentBounds; 2]) -> bool {
    let bounds = [outer, clear, clear, clear];
    let mut sides = worker.held().into_iter().zip(bounds);
    sides.all(|((packets, octets), bounds)| packets <= bounds.packets && octets <= bounds.octets)
}

/// What a worker gives.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Waits,
    Clear(Vec<Vec<u8>>),
    Outer(Whole),
}

fn clear(frames: Vec<Vec<u8>>) -> Option<Came> {
    (!frames.is_empty()).then_some(Came::Clear(frames))
}

/// What a naive reassembly gives.
#[derive(Debug)]
enum Expected {
    Refused,
    Waits,
    Whole(Vec<u8>),
}

/// A packet, octet by octet.
struct Naive {
    since_s: u64,
    octets: Vec<Option<u8>>,
    pieces: Vec<Piece>,
    end: Option<usize>,
    is_refused: bool,
}

impl Naive {
    fn new(since_s: u64) -> Self {
        Self {
            since_s,
            octets: vec![],
            pieces: vec![],
            end: None,
            is_refused: false,
        }
    }

    fn add(&mut self, piece: &Piece, protocol: u8, outer: bool, length_max: usize) -> Expected {
        if self.is_refused {
            return Expected::Refused;
        }
        let is_sound = self.is_sound(piece, protocol, outer, length_max);
        if is_sound && self.pieces.contains(piece) {
            return Expected::Refused;
        }
        if !is_sound || self.contradicts(piece) {
            self.is_refused = true;
            return Expected::Refused;
        }
        let end = piece.offset + piece.payload.len();
        self.octets.resize(self.octets.len().max(end), None);
        for (at, octet) in piece.payload.iter().enumerate() {
            self.octets[piece.offset + at] = Some(*octet);
        }
        if !piece.more {
            self.end = Some(end);
        }
        self.pieces.push(piece.clone());
        let whole: Option<Vec<u8>> = self.octets.iter().copied().collect();
        match (self.end, whole) {
            (Some(end), Some(octets)) if end == octets.len() => Expected::Whole(octets),
            _ => Expected::Waits,
        }
    }

    fn is_sound(&self, piece: &Piece, protocol: u8, outer: bool, length_max: usize) -> bool {
        let length = piece.payload.len();
        length > 0
            && piece.offset + length <= length_max
            && (!piece.more || length.is_multiple_of(8))
            && (piece.offset > 0 || length >= header_min(protocol, outer, &piece.payload))
            && self.pieces.len() < PIECES_MAX
    }

    fn contradicts(&self, piece: &Piece) -> bool {
        let end = piece.offset + piece.payload.len();
        let is_taken = |at: usize| self.octets.get(at).copied().flatten().is_some();
        (piece.offset..end).any(is_taken)
            || match self.end {
                Some(known) => end > known || !piece.more,
                None => !piece.more && self.octets.len() > end,
            }
    }
}

/// The transport header, as far as it is judged.
fn header_min(protocol: u8, outer: bool, payload: &[u8]) -> usize {
    match (protocol, outer) {
        (UDP, true) => 12,
        (TCP, _) => payload
            .get(12)
            .map_or(20, |offset| usize::from(offset >> 4) * 4)
            .max(20),
        _ => 8,
    }
}

fn key(kind: u8, who: u8, identification: u8) -> Key {
    let side = side(kind);
    let protocol = match (side, kind >> 3 & 3) {
        (Side::Outer4 | Side::Outer6, choice) => [ESP, UDP][usize::from(choice & 1)],
        (Side::Site | Side::Center, choice) => [UDP, TCP, ICMP, 47][usize::from(choice)],
    };
    Key {
        side,
        scope: if side == Side::Site {
            1 + u32::from(who >> 1 & 1)
        } else {
            0
        },
        source: 10 + (who & 1),
        identification: identification & 3,
        protocol,
    }
}

/// Octets by their places, so that what overlaps may agree or not.
fn octet(fill: u8, at: usize) -> u8 {
    (at / 8 * 31 + at) as u8 ^ fill
}

/// What the first fragment begins with.
fn begin(protocol: u8, fill: u8, who: u8, payload: &mut [u8]) {
    let length = 36 + u16::from(who >> 4) * 256;
    let port: u16 = if fill & 1 == 0 { 500 } else { 4500 };
    let udp = [
        &[0x11, 0x94][..],
        &port.to_be_bytes(),
        &length.to_be_bytes(),
        &[0; 2],
    ]
    .concat();
    match protocol {
        UDP => {
            for (place, octet) in payload.iter_mut().zip(udp) {
                *place = octet;
            }
        }
        TCP => {
            if let Some(offset) = payload.get_mut(12) {
                *offset = if fill & 1 == 0 { 0x50 } else { 0x80 };
            }
        }
        _ => {}
    }
}

/// The fragment as the worker gets it.
fn frame(key: &Key, piece: &Piece) -> Vec<u8> {
    let place = (piece.offset / 8) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + piece.payload.len() as u16).to_be_bytes());
    packet.extend([0, key.identification]);
    packet.extend((place | if piece.more { 0x2000 } else { 0 }).to_be_bytes());
    packet.extend([64, key.protocol, 0, 0]);
    packet.extend([192, 0, 2, key.source, 198, 51, 100, 1]);
    packet.extend(&piece.payload);
    fix_ipv4(&mut packet);
    match key.side {
        Side::Outer4 => ethernet([2; 6], [4; 6], 0x0800, &packet),
        Side::Outer6 => {
            let mut source = [0x20; 16];
            source[15] = key.source;
            let mut rest = vec![key.protocol, 0];
            rest.extend((place << 3 | u16::from(piece.more)).to_be_bytes());
            rest.extend([0, 0, 0, key.identification]);
            rest.extend(&piece.payload);
            ethernet([2; 6], [4; 6], 0x86dd, &ipv6(44, source, [0x30; 16], &rest))
        }
        Side::Site => packet,
        Side::Center => {
            let link = LinkHeader::of_fragment(mark::CENTER_WAITS, 0, [0; 4]);
            [link.as_bytes(), &packet].concat()
        }
    }
}

fn marks(side: Side) -> [[u8; 2]; 2] {
    match side {
        Side::Site => [mark::SITE_FIRST, mark::SITE_LATER],
        Side::Center | Side::Outer4 | Side::Outer6 => [mark::CENTER_FIRST, mark::CENTER_LATER],
    }
}

/// The outer packet is the one that the payload makes.
fn is_outer(key: &Key, whole: &Whole, payload: &[u8]) {
    match whole {
        Whole::Esp(frame) => {
            let header = if key.side == Side::Outer4 { 20 } else { 40 };
            assert!(frame[LINK + header..] == *payload, "another packet");
            let (length, next) = if key.side == Side::Outer4 {
                (
                    usize::from(u16::from_be_bytes([frame[16], frame[17]])) - 20,
                    frame[23],
                )
            } else {
                (usize::from(u16::from_be_bytes([frame[18], frame[19]])), frame[20])
            };
            assert_eq!((length, next), (payload.len(), key.protocol));
        }
        Whole::Ike(datagram) => {
            assert_eq!(key.protocol, UDP);
            let length = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
            assert!(datagram.payload == payload[8..length], "another message");
        }
    }
}
