//! The stateful filter: what may open a flow, and what each packet makes of its state.

use crate::abi::flow::{Half, PACKETS_MASK, Progress, halves, later, pair, state, word};
use crate::abi::interface::{STATES, Settings};
use crate::drop::DropReason;
use crate::packet::Packet;
use crate::packet::ipv4::protocol;
use crate::tables::words::Words;

use super::inner::Inner;
use super::tcp::{self, Connection};

/// Direction of a packet in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the site to the center.
    Out,
    /// From the center to the site.
    In,
}

impl Direction {
    #[inline(always)]
    const fn of(out: bool) -> Self {
        if out { Self::Out } else { Self::In }
    }

    /// First words of what packets of this direction write in a record, and of what the others do.
    #[inline(always)]
    const fn words(self) -> (usize, usize) {
        match self {
            Self::Out => (word::OUT, word::IN),
            Self::In => (word::IN, word::OUT),
        }
    }
}

/// Whether this packet may open a flow.
///
/// # Errors
/// [`DropReason::TcpState`] if TCP does not begin with a SYN alone (RFC 9293 section 3.5).
#[inline(always)]
pub fn may_open(inner: &Inner) -> Result<(), DropReason> {
    if inner.ip.protocol == protocol::TCP && !inner.segment.is_first_syn() {
        return Err(DropReason::TcpState);
    }
    Ok(())
}

/// What a flow begins with: its state and the numbers of its first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// State.
    pub progress: Progress,
    /// Second of the packet.
    pub now_s: u32,
    /// Number behind the SYN itself (TCP).
    begin: u32,
    /// Number behind the SYN and its data (TCP).
    end: u32,
    /// Its window (TCP).
    window: u16,
}

impl First {
    /// Nothing, to be overwritten.
    pub const NONE: Self = Self {
        progress: Progress {
            state: 0,
            fins: 0,
            scales: 0,
            flags: 0,
        },
        now_s: 0,
        begin: 0,
        end: 0,
        window: 0,
    };

    /// Hides it all: what follows is verified once, not once for each protocol.
    #[inline(always)]
    pub(super) fn hide<P: Packet>(&mut self) {
        self.progress = Progress::from_bits(P::hide(self.progress.bits()));
        (self.begin, self.end) = (P::hide(self.begin), P::hide(self.end));
        self.window = P::hide(u32::from(self.window)) as u16;
    }

    /// Leaves what a segment says in two words for [`First::left`].
    #[inline(always)]
    pub(super) fn leave<V: Words>(&self, scratch: V, at: usize) {
        scratch.store(at, pair(self.begin, self.end));
        scratch.store(at + 1, u64::from(self.window));
    }

    /// What [`First::leave`] has left.
    #[inline(always)]
    pub(super) fn left<V: Words>(scratch: V, at: usize, progress: Progress, now_s: u32) -> Self {
        let (begin, end) = halves(scratch.load(at));
        Self {
            progress,
            now_s,
            begin,
            end,
            window: scratch.load(at + 1) as u16,
        }
    }

    /// What an end has written, from whose first packet the flow is made or not. The opener's SYN is known, its packet
    /// is yet to be counted; the other has written nothing, and what it may acknowledge begins behind that SYN.
    #[inline(always)]
    const fn half(&self, opener: bool) -> Half {
        Half {
            end: if opener { self.end } else { 0 },
            limit: if opener { 0 } else { self.begin },
            acknowledged: 0,
            seen_s: self.now_s,
            window: if opener { self.window } else { 0 },
            packets: 0,
            bytes: 0,
        }
    }

    /// What the site has written.
    #[inline(always)]
    #[must_use]
    pub const fn out(&self) -> Half {
        self.half(!tcp::opened_from_center(self.progress))
    }

    /// What the center has written.
    #[inline(always)]
    #[must_use]
    pub const fn back(&self) -> Half {
        self.half(tcp::opened_from_center(self.progress))
    }
}

/// What the flow that this packet opens begins with.
#[inline(always)]
#[must_use]
pub fn open(inner: &Inner, direction: Direction, now_s: u32) -> First {
    let mut first = First {
        progress: Progress {
            state: match inner.ip.protocol {
                protocol::TCP => state::TCP_SYN_SENT,
                protocol::UDP => state::UDP_UNREPLIED,
                protocol::ICMP => state::ICMP_UNREPLIED,
                _ => state::OTHER_UNREPLIED,
            },
            flags: match direction {
                Direction::Out => 0,
                Direction::In => tcp::flag::FROM_CENTER,
            },
            ..Progress::default()
        },
        now_s,
        begin: 0,
        end: 0,
        window: 0,
    };
    if inner.ip.protocol == protocol::TCP {
        first.begin = inner.segment.sequence.wrapping_add(1);
        first.end = inner.segment.end();
        first.window = inner.segment.window;
        tcp::offer(&mut first.progress, &inner.segment);
    }
    first
}

/// Seconds without a packet after which a flow is dead.
#[inline(always)]
#[must_use]
pub const fn idle_limit_s(settings: &Settings, state: u8) -> u32 {
    settings.idle_s[state as usize & (STATES - 1)]
}

/// Whether a flow is still alive.
#[inline(always)]
#[must_use]
pub const fn is_alive(state: u8, last_seen_s: u32, settings: &Settings, now_s: u32) -> bool {
    // The clock may have been read before it moved on: the difference is then negative.
    let idle_s = now_s.wrapping_sub(last_seen_s).cast_signed();
    idle_s < 0 || idle_s.cast_unsigned() <= idle_limit_s(settings, state)
}

/// Whether a packet begins a new connection on the ports of a closed one (RFC 9293 section 3.6.1); the rules
/// decide on it anew.
#[inline(always)]
#[must_use]
pub const fn reopens(state: u8, inner: &Inner) -> bool {
    matches!(state, state::TCP_CLOSED | state::TCP_TIME_WAIT) && inner.segment.is_first_syn()
}

/// Whether a flow that was dead has been begun anew meanwhile, so that the packet that would begin it is merely its next.
#[inline(always)]
pub fn is_taken_up<V: Words>(record: V, settings: &Settings, first: &First) -> bool {
    let (state, last_seen_s) = state_and_last_seen_s(record);
    let is_closed = matches!(state, state::TCP_CLOSED | state::TCP_TIME_WAIT);
    !is_closed && is_alive(state, last_seen_s, settings, first.now_s)
}

/// Whether a state is that of a TCP handshake.
#[inline(always)]
#[must_use]
pub const fn is_half_open(state: u8) -> bool {
    matches!(
        state,
        state::TCP_SYN_SENT | state::TCP_SYN_SENT_BOTH | state::TCP_SYN_RECEIVED
    )
}

/// Moves a flow on by a packet that is sure to be sent if it fits: from the site if `OUT`. Answers whether it was this
/// packet that ended the flow's handshake.
///
/// # Errors
/// [`DropReason::TcpState`] or [`DropReason::TcpWindow`] if the segment does not fit; nothing is written then.
#[inline(always)]
pub fn follow<V: Words, const OUT: bool>(record: V, inner: &Inner, now_s: u32) -> Result<bool, DropReason> {
    if is_rare(record, inner) {
        follow_rarely::<V, OUT>(record, inner, now_s)
    } else {
        follow_usually::<V, OUT>(record, inner, now_s)
    }
}

/// The same where a stage has no stack left for it: at the price of a call, which the stages of every packet do without.
#[inline(always)]
pub(super) fn follow_apart<V: Words, const OUT: bool>(
    record: V,
    inner: &Inner,
    now_s: u32,
) -> Result<bool, DropReason> {
    if is_rare(record, inner) {
        follow_rarely::<V, OUT>(record, inner, now_s)
    } else {
        follow_usually_apart::<V, OUT>(record, inner, now_s)
    }
}

#[inline(always)]
fn is_rare<V: Words>(record: V, inner: &Inner) -> bool {
    let before = Progress::from_bits(halves(record.load(word::PROGRESS)).0);
    inner.ip.protocol == protocol::TCP && tcp::is_rare(before, &inner.segment)
}

#[inline(never)]
fn follow_usually_apart<V: Words, const OUT: bool>(
    record: V,
    inner: &Inner,
    now_s: u32,
) -> Result<bool, DropReason> {
    follow_usually::<V, OUT>(record, inner, now_s)
}

/// The same for all but handshake and reset.
#[inline(always)]
fn follow_usually<V: Words, const OUT: bool>(
    record: V,
    inner: &Inner,
    now_s: u32,
) -> Result<bool, DropReason> {
    let direction = Direction::of(OUT);
    let (own, other) = direction.words();
    let before = Progress::from_bits(halves(record.load(word::PROGRESS)).0);
    let mut connection = Connection {
        progress: before,
        own: Half::read(record, own),
        other: Half::default(),
        other_changed: false,
        is_repeated: false,
    };
    let mut changes = false;
    if inner.ip.protocol == protocol::TCP {
        connection.other = Half::read_tcp(record, other);
        changes = connection.advance(&inner.segment, direction)?;
    } else if OUT == tcp::opened_from_center(before) {
        connection.progress.state = answered(before.state);
        changes = true;
    }
    count(&mut connection.own, inner.length(), now_s);
    connection.own.write(record, own);
    if !changes || connection.progress == before {
        return Ok(false);
    }
    Ok(change_progress(record, before, connection.progress))
}

/// The same for segments of handshake and reset. Apart from its caller, whose stack is not large enough for both.
#[inline(never)]
fn follow_rarely<V: Words, const OUT: bool>(
    record: V,
    inner: &Inner,
    now_s: u32,
) -> Result<bool, DropReason> {
    let direction = Direction::of(OUT);
    let (own, other) = direction.words();
    let before = Progress::from_bits(halves(record.load(word::PROGRESS)).0);
    let mut connection = Connection {
        progress: before,
        own: Half::read(record, own),
        other: Half::read(record, other),
        other_changed: false,
        is_repeated: false,
    };
    connection.advance_rarely(&inner.segment, direction)?;
    if connection.is_repeated {
        count_repeated(record, own, inner.length(), now_s);
    } else {
        count(&mut connection.own, inner.length(), now_s);
        connection.own.write(record, own);
    }
    if connection.other_changed {
        connection.other.write(record, other);
    }
    if connection.progress == before {
        return Ok(false);
    }
    Ok(change_progress(record, before, connection.progress))
}

/// Counts a later fragment of a packet whose first one has moved the flow on.
#[inline(always)]
pub fn count_later<V: Words>(record: V, direction: Direction, length: u32, now_s: u32) {
    let (own, _) = direction.words();
    let mut half = Half::read(record, own);
    count(&mut half, length, now_s);
    half.write(record, own);
}

/// The state of a flow without connections after an answer.
#[inline(always)]
const fn answered(state: u8) -> u8 {
    match state {
        state::UDP_UNREPLIED => state::UDP_REPLIED,
        // Twice: this is no single question any more.
        state::UDP_REPLIED => state::UDP_STREAM,
        state::ICMP_UNREPLIED => state::ICMP_REPLIED,
        state::OTHER_UNREPLIED => state::OTHER_REPLIED,
        state => state,
    }
}

#[inline(always)]
const fn count(half: &mut Half, length: u32, now_s: u32) {
    half.seen_s = now_s;
    half.packets = half.packets.wrapping_add(1) & PACKETS_MASK;
    half.bytes = half.bytes.wrapping_add(length as u64);
}

/// Counts a segment that came before in the half that begins at word `at`. The other direction may write the numbers in
/// the same words meanwhile, which counts for more than this segment.
#[inline(always)]
fn count_repeated<V: Words>(record: V, at: usize, length: u32, now_s: u32) {
    let seen = record.load(at + word::SEEN);
    let (acknowledged, _) = halves(seen);
    let _ = record.compare_exchange(at + word::SEEN, seen, pair(acknowledged, now_s));
    let packets = record.load(at + word::PACKETS);
    let more = (packets & !PACKETS_MASK) | (packets.wrapping_add(1) & PACKETS_MASK);
    let _ = record.compare_exchange(at + word::PACKETS, packets, more);
    record.add(at + word::BYTES, u64::from(length));
}

/// State of the flow in a record, and the second of its last packet.
#[inline(always)]
pub fn state_and_last_seen_s<V: Words>(record: V) -> (u8, u32) {
    let state = Progress::from_bits(halves(record.load(word::PROGRESS)).0).state;
    let (_, out_s) = halves(record.load(word::OUT + word::SEEN));
    let (_, back_s) = halves(record.load(word::IN + word::SEEN));
    (state, later(out_s, back_s))
}

/// The two directions may change the state at the same moment: the second one to write adds to what the first wrote.
#[inline(always)]
fn change_progress<V: Words>(record: V, before: Progress, wanted: Progress) -> bool {
    let found = record.load(word::PROGRESS);
    let (_, mapping) = halves(found);
    let old = pair(before.bits(), mapping);
    let ended = is_half_open(before.state) && !is_half_open(wanted.state);
    match record.compare_exchange(word::PROGRESS, old, pair(wanted.bits(), mapping)) {
        Ok(()) => ended,
        Err(now) => {
            let there = Progress::from_bits(halves(now).0);
            let merged = merge(there, wanted);
            let ended = is_half_open(there.state) && !is_half_open(merged.state);
            record
                .compare_exchange(word::PROGRESS, now, pair(merged.bits(), mapping))
                .is_ok()
                && ended
        }
    }
}

/// Both of two changes: each FIN counts, a reset ends it, and nothing goes back to an earlier state.
#[inline(always)]
const fn merge(there: Progress, wanted: Progress) -> Progress {
    let fins = there.fins | wanted.fins;
    let base = if age(there.state) > age(wanted.state) {
        there
    } else {
        wanted
    };
    let state = if base.state != state::TCP_CLOSED && fins == tcp::FINS {
        state::TCP_TIME_WAIT
    } else {
        base.state
    };
    // Whatever else became of it, who holds a permission gives it back.
    let permission = (there.flags | wanted.flags) & tcp::flag::HAS_PERMISSION;
    Progress {
        state,
        fins,
        flags: base.flags | permission,
        ..base
    }
}

/// How far on a flow is, among the states of its protocol.
#[inline(always)]
const fn age(state: u8) -> u8 {
    match state {
        state::TCP_SYN_SENT => 0,
        state::TCP_SYN_SENT_BOTH => 1,
        // In between, states are numbered as they follow each other.
        state::TCP_TIME_WAIT => state::TCP_CLOSED,
        state::TCP_CLOSED => state::TCP_TIME_WAIT,
        state => state,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::abi::flow::{RECORD_WORDS, read};
    use crate::abi::interface::IdleLimits;
    use crate::packet::tcp::flag::{ACK, SYN};
    use crate::path::inner::Ports;
    use crate::path::tcp::Segment;
    use crate::tables::beside::Row;

    fn settings() -> Settings {
        let limits = IdleLimits {
            tcp_opening_s: 1,
            tcp_established_s: 2,
            tcp_closing_s: 3,
            tcp_time_wait_s: 4,
            tcp_reset_s: 5,
            udp_new_s: 6,
            udp_s: 7,
            icmp_s: 8,
            other_s: 9,
        };
        Settings {
            idle_s: limits.by_state(),
            ..Settings::UNLIMITED
        }
    }

    #[test]
    fn each_state_has_its_limit() {
        let limits = [
            (state::TCP_SYN_SENT, 1),
            (state::TCP_SYN_SENT_BOTH, 1),
            (state::TCP_SYN_RECEIVED, 1),
            (state::TCP_ESTABLISHED, 2),
            (state::TCP_FIN, 3),
            (state::TCP_TIME_WAIT, 4),
            (state::TCP_CLOSED, 5),
            (state::UDP_UNREPLIED, 6),
            (state::UDP_REPLIED, 6),
            (state::UDP_STREAM, 7),
            (state::ICMP_UNREPLIED, 8),
            (state::ICMP_REPLIED, 8),
            (state::OTHER_UNREPLIED, 9),
            (state::OTHER_REPLIED, 9),
        ];
        for (state, limit_s) in limits {
            assert_eq!(idle_limit_s(&settings(), state), limit_s);
            assert!(is_alive(state, 100, &settings(), 100 + limit_s));
            assert!(!is_alive(state, 100, &settings(), 101 + limit_s));
        }
    }

    #[test]
    fn a_clock_that_is_behind_or_wraps_does_not_expire_a_flow() {
        assert!(is_alive(state::UDP_STREAM, 101, &settings(), 100));
        assert!(is_alive(state::UDP_STREAM, u32::MAX, &settings(), 1));
        assert!(!is_alive(state::UDP_STREAM, u32::MAX, &settings(), 9));
    }

    #[test]
    fn changes_of_both_directions_add_up() {
        let fin = |state, fins| Progress {
            state,
            fins,
            ..Progress::default()
        };
        let (one, other) = (fin(state::TCP_FIN, 1), fin(state::TCP_FIN, 2));
        assert_eq!(merge(one, other), fin(state::TCP_TIME_WAIT, 3));
        let reset = fin(state::TCP_CLOSED, 0);
        assert_eq!(merge(reset, one).state, state::TCP_CLOSED);
        assert_eq!(merge(one, reset).state, state::TCP_CLOSED);
    }

    /// Regression: a change that was late took an established connection back to its handshake, which then ended, and was
    /// counted, twice.
    #[test]
    fn a_late_change_takes_nothing_back() {
        let order = [
            state::TCP_SYN_SENT,
            state::TCP_SYN_SENT_BOTH,
            state::TCP_SYN_RECEIVED,
            state::TCP_ESTABLISHED,
            state::TCP_FIN,
            state::TCP_TIME_WAIT,
            state::TCP_CLOSED,
        ];
        let at = |state| Progress {
            state,
            ..Progress::default()
        };
        for (early, one) in order.into_iter().enumerate() {
            for other in order.into_iter().skip(early) {
                assert_eq!(merge(at(one), at(other)).state, other);
                assert_eq!(merge(at(other), at(one)).state, other);
            }
        }
        let (first, second) = (state::UDP_REPLIED, state::UDP_STREAM);
        assert_eq!(merge(at(second), at(first)).state, second);
    }

    const SYN_OUT: Segment = Segment {
        sequence: u32::MAX - 1,
        acknowledgment: 0,
        length: 0,
        window: 64_000,
        flags: SYN,
        scale: 7,
    };
    const SYN_IN: Segment = Segment {
        sequence: 5000,
        acknowledgment: u32::MAX,
        flags: SYN | ACK,
        ..SYN_OUT
    };

    fn inner(segment: Segment) -> Inner {
        let mut ip = <crate::packet::ipv4::Ipv4 as zerocopy::FromZeros>::new_zeroed();
        (ip.protocol, ip.total_length) = (protocol::TCP, [0, 60]);
        Inner {
            ip,
            segment,
            ports: Ports::new([0, 1], [0, 2]),
            checksum: [0; 2],
        }
    }

    /// Runs one packet, and another before its access of this number to the record; whether it came to that.
    fn interrupt(
        record: &[AtomicU64; RECORD_WORDS],
        at: u32,
        packet: impl Fn(Row<'_, RECORD_WORDS>),
        meanwhile: &dyn Fn(),
    ) -> bool {
        let accesses = Cell::new(0);
        let other = || {
            accesses.set(accesses.get() + 1);
            if accesses.get() == at {
                meanwhile();
            }
        };
        packet(Row::new(record, &other));
        accesses.get() >= at
    }

    /// Regression: the site repeats its SYN at the moment at which the answer comes in by another CPU. The one wrote numbers
    /// over those of the other, and the connection was lost.
    #[test]
    fn a_syn_sent_again_leaves_the_answer_of_the_same_moment_alone() {
        let (syn, syn_ack) = (inner(SYN_OUT), inner(SYN_IN));
        let segment = |sequence: u32, acknowledgment: u32, length: u32| {
            inner(Segment {
                sequence,
                acknowledgment,
                length,
                flags: ACK,
                ..SYN_OUT
            })
        };
        let mut interrupted = 0;
        for (first_out, at) in (1..100).flat_map(|at| [(true, at), (false, at)]) {
            let record: [AtomicU64; RECORD_WORDS] = core::array::from_fn(|_| AtomicU64::new(0));
            let record = &record;
            let first = open(&syn, Direction::Out, 100);
            record.store(word::PROGRESS, pair(first.progress.bits(), 7));
            first.out().write(record, word::OUT);
            first.back().write(record, word::IN);
            assert_eq!(follow::<_, true>(record, &syn, 100), Ok(false));

            let sent_again = || assert_eq!(follow::<_, true>(record, &syn, 101), Ok(false));
            let answered = || assert_eq!(follow::<_, false>(record, &syn_ack, 101), Ok(false));
            let came_to_it = if first_out {
                let packet = |record: Row<'_, RECORD_WORDS>| {
                    assert_eq!(follow::<_, true>(record, &syn, 101), Ok(false));
                };
                interrupt(record, at, packet, &answered)
            } else {
                let packet = |record: Row<'_, RECORD_WORDS>| {
                    assert_eq!(follow::<_, false>(record, &syn_ack, 101), Ok(false));
                };
                interrupt(record, at, packet, &sent_again)
            };
            if !came_to_it {
                continue;
            }
            interrupted += 1;
            let context = std::format!("the SYN first: {first_out}, interrupted before access {at}");
            let (_, flow) = read(record);
            assert_eq!(flow.progress.state, state::TCP_SYN_RECEIVED, "{context}");
            assert_eq!(
                follow::<_, true>(record, &segment(u32::MAX, 5001, 0), 102),
                Ok(true),
                "{context}"
            );
            assert_eq!(
                follow::<_, false>(record, &segment(5001, u32::MAX, 1400), 102),
                Ok(false),
                "{context}"
            );
            assert_eq!(
                follow::<_, true>(record, &segment(u32::MAX, 6401, 900), 102),
                Ok(false),
                "{context}"
            );
        }
        assert!(interrupted > 30, "{interrupted} interleavings are too few");
    }
}
