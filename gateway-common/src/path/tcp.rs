//! TCP as the filter follows it: the state of a connection (RFC 9293 section 3.3.2, as both ends' segments show it) and
//! the sequence numbers that it may use (Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter"; RFC 5961).
//!
//! Of each end three numbers are kept: the end of what it has sent, the end of what it lets the other send (its
//! acknowledgment and window), and the largest window that it offered. A segment passes if it lies in what the other
//! lets its sender send, is not older than a window, and acknowledges what the other has sent, and not what is long
//! acknowledged. All numbers wrap (RFC 9293 section 3.4).
//!
//! Who sent the first SYN is the opener, the other end the answerer. Mostly the site opens; the center does where a port
//! is published or the site's filtering lets it ([`super::enter`]).

use crate::abi::flow::{Half, Progress, halves, state, word};
use crate::drop::DropReason;
use crate::packet::tcp::flag::{ACK, FIN, RST, SYN};
use crate::tables::words::Words;

use super::filter::Direction;

/// Bits of [`Progress::flags`].
pub mod flag {
    /// The opener offered a window scale.
    pub const SCALE_OFFERED: u8 = 1;
    /// The answerer's SYN was alone: both open (RFC 9293 section 3.5).
    pub const SIMULTANEOUS: u8 = 2;
    /// The center opened the flow; of any protocol.
    pub const FROM_CENTER: u8 = 4;
    /// A permission stands beside the flow ([`crate::path::enter`]); of any protocol.
    pub const HAS_PERMISSION: u8 = 8;
    /// The center opened the flow to what is published for it; of any protocol.
    pub const PUBLISHED: u8 = 16;
    /// Both open, and the opener has answered the answerer's SYN.
    pub const OPENER_ANSWERED: u8 = 32;
}

/// Bit of [`Progress::fins`] for a FIN of the site.
const FIN_OUT: u8 = 1;
/// Bit of [`Progress::fins`] for a FIN of the center.
const FIN_IN: u8 = 2;
/// Both.
pub(super) const FINS: u8 = FIN_OUT | FIN_IN;
/// An acknowledgment may be this much older than the newest data at least, whatever the window: ends repeat old ones.
const OLD_ACK: u32 = 66_000;
/// Largest SYN with data, which its answer need not acknowledge (RFC 7413).
const SYN_DATA_MAX: u32 = 65_535;

/// What the filter looks at in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number, if ACK is set.
    pub acknowledgment: u32,
    /// Bytes of data.
    pub length: u32,
    /// Window, as it is in the header.
    pub window: u16,
    /// Bits of [`crate::packet::tcp::flag`].
    pub flags: u8,
    /// Window scale option of a SYN, or [`NO_SCALE`].
    pub scale: u8,
}

/// There is no window scale option.
pub const NO_SCALE: u8 = 0xff;
/// Largest window scale (RFC 7323 section 2.3).
pub const SCALE_MAX: u8 = 14;

impl Segment {
    /// Nothing: what is no segment of TCP has.
    pub const NONE: Self = Self {
        sequence: 0,
        acknowledgment: 0,
        length: 0,
        window: 0,
        flags: 0,
        scale: 0,
    };

    /// Whether the flag is set.
    #[inline(always)]
    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Sequence number behind the segment; SYN and FIN count as one.
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> u32 {
        let extra = (self.has(SYN) as u32) + (self.has(FIN) as u32);
        self.sequence.wrapping_add(self.length).wrapping_add(extra)
    }

    /// Whether it opens a connection: SYN alone.
    #[inline(always)]
    #[must_use]
    pub const fn is_first_syn(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }
}

/// Whether `a` comes before `b`: their difference modulo 2^32 is negative.
#[inline(always)]
const fn before(a: u32, b: u32) -> bool {
    ((a as u64).wrapping_sub(b as u64) >> 31) & 1 != 0
}

#[inline(always)]
const fn latest(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

/// Whether a segment is one of handshake or reset.
#[inline(always)]
#[must_use]
pub const fn is_rare(progress: Progress, segment: &Segment) -> bool {
    segment.flags & (SYN | RST) != 0 || !is_synchronized(progress.state)
}

/// Whether a segment with this sequence number, sent in this direction, may be on its way still: not behind what its sender has
/// sent, and not older than a window, as [`Connection::advance`] has it.
#[inline(always)]
#[must_use]
pub fn may_be_in_flight<V: Words>(record: V, sequence: u32, direction: Direction) -> bool {
    let (own, other) = match direction {
        Direction::Out => (word::OUT, word::IN),
        Direction::In => (word::IN, word::OUT),
    };
    let progress = Progress::from_bits(halves(record.load(word::PROGRESS)).0);
    let scale = match direction {
        Direction::Out => progress.scales >> 4,
        Direction::In => progress.scales & 0xf,
    };
    let end = Half::read_tcp(record, own).end;
    let window = u32::from(Half::read_tcp(record, other).window) << scale;
    !before(end, sequence) && !before(sequence, end.wrapping_sub(window.max(OLD_ACK)))
}

/// Whether both SYNs are known, so that sequence numbers can be checked.
#[inline(always)]
const fn is_synchronized(state: u8) -> bool {
    !matches!(state, state::TCP_SYN_SENT | state::TCP_SYN_SENT_BOTH)
}

/// An end of a connection by what it did first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It sent the first SYN.
    Opener,
    /// It was sent it.
    Answerer,
}

/// A connection as one direction sees it.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// State.
    pub progress: Progress,
    /// What the sender of the segment has written so far.
    pub own: Half,
    /// What the other end has.
    pub other: Half,
    /// Whether `other` was changed too, which a handshake does.
    pub other_changed: bool,
    /// Whether the segment is one of long ago, or one that came before. It leaves the numbers as they are: the other direction
    /// may be writing them at this moment.
    pub is_repeated: bool,
}

impl Connection {
    /// Moves a synchronized connection on by a segment that is not [rare](is_rare). Answers whether that may have changed its
    /// progress, which hardly any does.
    ///
    /// # Errors
    /// [`DropReason::TcpWindow`] if its numbers do not fit.
    #[inline(always)]
    pub fn advance(&mut self, segment: &Segment, direction: Direction) -> Result<bool, DropReason> {
        self.check(segment, direction)?;
        self.acknowledge(segment, direction);
        let changes = segment.has(FIN) || self.progress.state == state::TCP_SYN_RECEIVED;
        if changes {
            self.data(segment, direction);
        }
        Ok(changes)
    }

    /// Moves a connection on by a [rare](is_rare) segment.
    ///
    /// # Errors
    /// [`DropReason::TcpState`] if it does not fit the state, [`DropReason::TcpWindow`] if its numbers do not.
    #[inline(always)]
    pub fn advance_rarely(&mut self, segment: &Segment, direction: Direction) -> Result<(), DropReason> {
        if segment.has(RST) {
            return self.reset(segment, direction);
        }
        match (segment.has(SYN), segment.has(ACK), self.role(direction)) {
            (true, false, Role::Opener) => self.opener_syn(segment),
            (true, false, Role::Answerer) => self.answerer_syn(segment, direction),
            (true, true, Role::Opener) => self.opener_syn_ack(segment, direction),
            (true, true, Role::Answerer) => self.answerer_syn_ack(segment, direction),
            // Before the answerer's SYN only an ACK without data comes: a server that remembers an older connection
            // challenges (RFC 9293 section 3.10.7.4), and the opener's reset of that passes below.
            (false, _, Role::Answerer)
                if self.progress.state == state::TCP_SYN_SENT && segment.length == 0 && !segment.has(FIN) =>
            {
                Ok(())
            }
            (false, ..) => Err(DropReason::TcpState),
        }
    }

    /// What the end whose segments go this way is.
    #[inline(always)]
    const fn role(&self, direction: Direction) -> Role {
        match (direction, opened_from_center(self.progress)) {
            (Direction::Out, false) | (Direction::In, true) => Role::Opener,
            (Direction::Out, true) | (Direction::In, false) => Role::Answerer,
        }
    }

    /// The four conditions on a segment's numbers.
    #[inline(always)]
    fn check(&self, segment: &Segment, direction: Direction) -> Result<(), DropReason> {
        let (own_scale, other_scale) = self.scales(direction);
        let own_window = u32::from(self.own.window) << own_scale;
        // Keep-alive probes lie one before the end, even of a window that was never open.
        let other_window = (u32::from(self.other.window) << other_scale).max(1);
        let acknowledgment = if segment.has(ACK) {
            segment.acknowledgment
        } else {
            self.other.end
        };
        let oldest_ack = own_window.max(OLD_ACK);
        // All four at once: hardly any segment fails one, and each branch costs the others.
        let fails = before(self.other.limit, segment.sequence)
            | before(segment.end(), self.own.end.wrapping_sub(other_window))
            | before(self.other.end, acknowledgment)
            | before(acknowledgment, self.other.end.wrapping_sub(oldest_ack));
        if fails { Err(DropReason::TcpWindow) } else { Ok(()) }
    }

    /// Notes what the segment says of its sender.
    #[inline(always)]
    fn acknowledge(&mut self, segment: &Segment, direction: Direction) {
        let (own_scale, _) = self.scales(direction);
        let own = &mut self.own;
        own.end = latest(own.end, segment.end());
        if segment.window > own.window {
            own.window = segment.window;
        }
        if segment.has(ACK) {
            own.acknowledged = latest(own.acknowledged, segment.acknowledgment);
            // One octet probes a window of zero (RFC 9293 section 3.8.6.1).
            let window = (u32::from(segment.window) << own_scale).max(1);
            own.limit = latest(own.limit, segment.acknowledgment.wrapping_add(window));
        }
    }

    /// A segment of an open connection: the ACK of the end that was answered last completes the handshake, a FIN
    /// half-closes, the second closes.
    #[inline(always)]
    fn data(&mut self, segment: &Segment, direction: Direction) {
        let role = self.role(direction);
        let progress = &mut self.progress;
        if segment.has(FIN) {
            progress.fins |= match direction {
                Direction::Out => FIN_OUT,
                Direction::In => FIN_IN,
            };
        }
        progress.state = match (progress.state, progress.fins) {
            (state::TCP_CLOSED, _) => state::TCP_CLOSED,
            (state::TCP_SYN_RECEIVED, 0)
                if matches!(role, Role::Answerer) && progress.flags & flag::OPENER_ANSWERED == 0 =>
            {
                state::TCP_SYN_RECEIVED
            }
            (_, 0) => state::TCP_ESTABLISHED,
            (_, FIN_OUT | FIN_IN) => state::TCP_FIN,
            _ => state::TCP_TIME_WAIT,
        };
    }

    /// A SYN of the opener: the first again, or that of a client that began anew; the answerer challenges the latter
    /// (RFC 5961 section 4), and the reset that follows closes the flow.
    #[inline(always)]
    fn opener_syn(&mut self, segment: &Segment) -> Result<(), DropReason> {
        match self.progress.state {
            state::TCP_SYN_SENT if self.repeats_syn(segment) => {
                self.is_repeated = true;
                offer(&mut self.progress, segment);
            }
            state::TCP_SYN_SENT => self.first_syn(segment),
            state::TCP_SYN_SENT_BOTH if segment.end() != self.own.end => {
                return Err(DropReason::TcpWindow);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the opener's SYN is the one that came before, perhaps without the data that it had (RFC 7413 section 4.1.3).
    /// An answer to either may be on its way.
    #[inline(always)]
    const fn repeats_syn(&self, segment: &Segment) -> bool {
        let is_shorter =
            segment.sequence.wrapping_add(1) == self.other.limit && !before(self.own.end, segment.end());
        segment.end() == self.own.end || is_shorter
    }

    #[inline(always)]
    fn first_syn(&mut self, segment: &Segment) {
        self.own.end = segment.end();
        self.own.window = segment.window;
        self.other.limit = segment.sequence.wrapping_add(1);
        self.other_changed = true;
        offer(&mut self.progress, segment);
    }

    /// A SYN alone of the answerer: simultaneous open (RFC 5382 REQ-2), if the opener has sent its SYN and no more.
    #[inline(always)]
    fn answerer_syn(&mut self, segment: &Segment, direction: Direction) -> Result<(), DropReason> {
        match self.progress.state {
            state::TCP_SYN_SENT => {
                self.first_answer(segment, direction);
                self.progress.state = state::TCP_SYN_SENT_BOTH;
                self.progress.flags |= flag::SIMULTANEOUS;
                Ok(())
            }
            // Sent again: the opener's answer was lost.
            state::TCP_SYN_SENT_BOTH | state::TCP_SYN_RECEIVED
                if self.progress.flags & flag::SIMULTANEOUS != 0 && segment.end() == self.own.end =>
            {
                Ok(())
            }
            _ => Err(DropReason::TcpState),
        }
    }

    /// The answerer's SYN settles the scales: they count only if both offer one (RFC 7323 section 2.2).
    #[inline(always)]
    fn first_answer(&mut self, segment: &Segment, direction: Direction) {
        self.own.end = segment.end();
        self.own.window = segment.window;
        self.own.limit = self.other.end.wrapping_add(u32::from(segment.window));
        self.other.limit = segment.end().wrapping_add(u32::from(self.other.window));
        // Neither has acknowledged anything: the numbers before both SYNs.
        self.other.acknowledged = segment.sequence;
        self.own.acknowledged = self.other.end.wrapping_sub(SYN_DATA_MAX);
        self.other_changed = true;
        if segment.scale == NO_SCALE || self.progress.flags & flag::SCALE_OFFERED == 0 {
            self.progress.scales = 0;
            return;
        }
        let (_, offered) = self.scales(direction);
        let (own, offered) = (segment.scale & 0xf, offered as u8);
        self.progress.scales = match direction {
            Direction::Out => own | (offered << 4),
            Direction::In => offered | (own << 4),
        };
        // Windows of SYNs are not scaled: both go over to units of their scales.
        self.own.window = in_units(self.own.window, own);
        self.other.window = in_units(self.other.window, offered);
    }

    #[inline(always)]
    fn answerer_syn_ack(&mut self, segment: &Segment, direction: Direction) -> Result<(), DropReason> {
        match self.progress.state {
            state::TCP_SYN_SENT => {
                if !self.answers_syn(segment) {
                    return self.old_syn_ack(segment);
                }
                self.first_answer(segment, direction);
                self.own.acknowledged = segment.acknowledgment;
                let window = u32::from(segment.window).max(1);
                self.own.limit = segment.acknowledgment.wrapping_add(window);
                self.progress.state = state::TCP_SYN_RECEIVED;
                Ok(())
            }
            state::TCP_SYN_SENT_BOTH => {
                self.check(segment, direction)?;
                self.own.acknowledged = segment.acknowledgment;
                self.progress.state = state::TCP_SYN_RECEIVED;
                Ok(())
            }
            // Sent again: the ACK was lost. Or both have answered now.
            state::TCP_SYN_RECEIVED | state::TCP_ESTABLISHED => {
                self.check(segment, direction)?;
                if self.progress.flags & flag::OPENER_ANSWERED != 0 {
                    self.progress.state = state::TCP_ESTABLISHED;
                }
                Ok(())
            }
            _ => Err(DropReason::TcpState),
        }
    }

    /// A SYN+ACK that answers another SYN. If that may have been one of long ago, the opener resets what the answerer has of
    /// it (RFC 9293 section 3.5); what is known here stays.
    #[inline(always)]
    const fn old_syn_ack(&mut self, segment: &Segment) -> Result<(), DropReason> {
        if !before(segment.acknowledgment, self.own.limit) {
            return Err(DropReason::TcpWindow);
        }
        self.is_repeated = true;
        Ok(())
    }

    /// A SYN+ACK of the opener belongs to a simultaneous open.
    #[inline(always)]
    fn opener_syn_ack(&mut self, segment: &Segment, direction: Direction) -> Result<(), DropReason> {
        if self.progress.flags & flag::SIMULTANEOUS == 0 {
            return Err(DropReason::TcpState);
        }
        match self.progress.state {
            state::TCP_SYN_SENT_BOTH | state::TCP_SYN_RECEIVED | state::TCP_ESTABLISHED => {
                self.check(segment, direction)?;
                self.own.acknowledged = latest(self.own.acknowledged, segment.acknowledgment);
                let is_repeated = self.progress.flags & flag::OPENER_ANSWERED != 0;
                self.progress.flags |= flag::OPENER_ANSWERED;
                self.progress.state = match self.progress.state {
                    state::TCP_SYN_SENT_BOTH => state::TCP_SYN_RECEIVED,
                    // The answerer had answered before.
                    state::TCP_SYN_RECEIVED if !is_repeated => state::TCP_ESTABLISHED,
                    state => state,
                };
                Ok(())
            }
            _ => Err(DropReason::TcpState),
        }
    }

    /// Whether an acknowledgment of the answerer is one of the opener's SYN, with or without the data that came with it.
    /// Until the answerer's SYN, its half has the number behind the opener's SYN as the limit.
    #[inline(always)]
    const fn answers_syn(&self, segment: &Segment) -> bool {
        let data = if self.progress.state == state::TCP_SYN_SENT {
            self.other.end.wrapping_sub(self.own.limit)
        } else {
            SYN_DATA_MAX
        };
        segment.has(ACK) && self.other.end.wrapping_sub(segment.acknowledgment) <= data
    }

    /// A reset closes if its receiver is sure to take it: RFC 9293 section 3.10.7.3 for one that answers a SYN, RFC 5961
    /// section 3.2 for the others. One that is merely in the window passes, since its receiver may challenge it, and
    /// changes nothing.
    #[inline(always)]
    fn reset(&mut self, segment: &Segment, direction: Direction) -> Result<(), DropReason> {
        if !is_synchronized(self.progress.state) {
            return match self.role(direction) {
                // To the server of an older connection of these ports, or the client gave up.
                Role::Opener => {
                    if segment.sequence == self.own.end {
                        self.progress.state = state::TCP_CLOSED;
                    }
                    Ok(())
                }
                Role::Answerer if self.answers_syn(segment) => {
                    self.progress.state = state::TCP_CLOSED;
                    Ok(())
                }
                Role::Answerer => Err(DropReason::TcpWindow),
            };
        }
        if self.refuses_syn(segment, direction) {
            return Ok(());
        }
        // The receiver looks at the sequence number alone; what it has acknowledged is behind it.
        if before(segment.sequence, self.other.acknowledged) {
            return Err(DropReason::TcpWindow);
        }
        let by_sequence = Segment {
            flags: segment.flags & !ACK,
            ..*segment
        };
        self.check(&by_sequence, direction)?;
        let expected = self.other.acknowledged;
        if segment.sequence == expected || segment.sequence == self.own.end {
            self.progress.state = state::TCP_CLOSED;
        }
        Ok(())
    }

    /// Whether a reset answers a SYN that the opener has sent again because the SYN+ACK was lost behind the gateway: it has
    /// no sequence number (RFC 9293 section 3.10.7.1), and its acknowledgment is what the opener looks at. An opener that
    /// has the SYN+ACK ignores it, so that it changes nothing.
    #[inline(always)]
    const fn refuses_syn(&self, segment: &Segment, direction: Direction) -> bool {
        self.progress.state == state::TCP_SYN_RECEIVED
            && matches!(self.role(direction), Role::Answerer)
            && segment.sequence == 0
            && segment.has(ACK)
            && segment.acknowledgment == self.other.end
    }

    /// Scales of the sender and of the other end.
    #[inline(always)]
    const fn scales(&self, direction: Direction) -> (u32, u32) {
        let (out, back) = (
            (self.progress.scales & 0xf) as u32,
            (self.progress.scales >> 4) as u32,
        );
        match direction {
            Direction::Out => (out, back),
            Direction::In => (back, out),
        }
    }
}

/// Whether the center opened a flow.
#[inline(always)]
#[must_use]
pub const fn opened_from_center(progress: Progress) -> bool {
    progress.flags & flag::FROM_CENTER != 0
}

/// Notes the window scale that the opener's SYN offers.
#[inline(always)]
pub const fn offer(progress: &mut Progress, segment: &Segment) {
    progress.scales = 0;
    progress.flags &= !flag::SCALE_OFFERED;
    if segment.scale != NO_SCALE {
        let scale = segment.scale & 0xf;
        progress.scales = if opened_from_center(*progress) {
            scale << 4
        } else {
            scale
        };
        progress.flags |= flag::SCALE_OFFERED;
    }
}

/// A window of a SYN in units of a scale, rounded up.
#[inline(always)]
const fn in_units(window: u16, scale: u8) -> u16 {
    let scale = (scale & 0xf) as u32;
    (((window as u32) + (1 << scale) - 1) >> scale) as u16
}
