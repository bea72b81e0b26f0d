//! The receiver's anti-replay window (RFC 4303 section 3.4.3 and appendix A).
//!
//! A ring of bits, one for each of the newest `size` sequence numbers. Moving the window clears only the bits
//! it moves over, word by word, so a packet in order costs one bit and a jump of any length at most
//! `size / 64` words.

use crate::{ConfigError, Span};

/// The smallest window, in packets: workers and multi-queue cards reorder more than the 64 of RFC 4303.
pub const REPLAY_WINDOW_MIN: u32 = 1 << 10;
/// The largest window, in packets.
pub const REPLAY_WINDOW_MAX: u32 = 1 << 20;

/// Why a sequence number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// Before the window, 0, or beyond the last 64-bit number.
    OutsideWindow,
    /// Received before.
    Replayed,
}

/// The anti-replay window of one inbound SA.
#[derive(Debug)]
pub struct ReplayWindow {
    /// The bit of number `n` is bit `n % size`; it counts only while `n` is in the window.
    bits: Box<[u64]>,
    size: u64,
    /// The highest number accepted; 0 before the first.
    highest: u64,
    esn: bool,
}

impl ReplayWindow {
    /// A window of `size` packets, a power of two from [`REPLAY_WINDOW_MIN`] to [`REPLAY_WINDOW_MAX`].
    ///
    /// # Errors
    /// [`ConfigError::ReplayWindow`] for any other size.
    pub fn new(size: u32, esn: bool) -> Result<Self, ConfigError> {
        if !size.is_power_of_two() || !(REPLAY_WINDOW_MIN..=REPLAY_WINDOW_MAX).contains(&size) {
            return Err(ConfigError::ReplayWindow(size));
        }
        let bits = vec![0; (size / u64::BITS) as usize].into_boxed_slice();
        Ok(Self {
            bits,
            size: u64::from(size),
            highest: 0,
            esn,
        })
    }

    /// Counts everything up to `highest` as received: for an SA taken over from another receiver, whose window
    /// is lost. Packets in flight across the change are lost too; none is accepted twice. Never moves back.
    pub fn resume_at(&mut self, highest: u64) {
        if highest > self.highest {
            self.highest = highest;
            self.bits.fill(u64::MAX);
        }
    }

    /// The highest sequence number accepted so far; 0 before the first.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// The whole number that the 32 bits on the wire stand for, if it could be accepted. It is a guess until
    /// the integrity check, which covers the high half, has confirmed it.
    ///
    /// # Errors
    /// [`ReplayError`]; the packet need not be decrypted.
    #[inline]
    pub fn check(&self, low: u32) -> Result<u64, ReplayError> {
        let sequence = if self.esn {
            self.widen(low)?
        } else {
            u64::from(low)
        };
        self.check_whole(sequence)?;
        Ok(sequence)
    }

    /// Marks an authenticated number as received and moves the window up to it.
    ///
    /// # Errors
    /// [`ReplayError`] if the number has become unacceptable since [`Self::check`], as in a burst with a
    /// duplicate in it; nothing has changed then.
    #[inline]
    pub fn accept(&mut self, sequence: u64) -> Result<(), ReplayError> {
        self.check_whole(sequence)?;
        if sequence > self.highest {
            self.clear_after_highest(sequence - self.highest);
            self.highest = sequence;
        }
        let (word, mask) = self.position(sequence);
        if let Some(bits) = self.bits.get_mut(word) {
            *bits |= mask;
        }
        Ok(())
    }

    /// RFC 4303 appendix A2.2: the high half that puts the number into the window or ahead of it, whichever is
    /// nearer.
    fn widen(&self, low: u32) -> Result<u64, ReplayError> {
        let (top_high, top_low) = (self.highest >> 32, self.highest as u32);
        let bottom = top_low.wrapping_sub(self.size as u32 - 1);
        let high = if u64::from(top_low) >= self.size - 1 {
            // Case A: the window lies within one 2^32 subspace.
            if low >= bottom {
                Some(top_high)
            } else {
                (top_high < u64::from(u32::MAX)).then(|| top_high + 1)
            }
        } else {
            // Case B: the window reaches back into the subspace before.
            if low >= bottom {
                top_high.checked_sub(1)
            } else {
                Some(top_high)
            }
        };
        high.map(|high| high << 32 | u64::from(low))
            .ok_or(ReplayError::OutsideWindow)
    }

    /// Where the bit of the next number in order lies.
    #[inline(always)]
    pub(crate) fn ahead(&self) -> Span {
        let (word, _) = self.position(self.highest.wrapping_add(1));
        Span::of(self.bits.get(word).unwrap_or(&self.size))
    }

    #[inline]
    fn check_whole(&self, sequence: u64) -> Result<(), ReplayError> {
        if sequence == 0 {
            return Err(ReplayError::OutsideWindow);
        }
        if sequence > self.highest {
            return Ok(());
        }
        if self.highest - sequence >= self.size {
            return Err(ReplayError::OutsideWindow);
        }
        let (word, mask) = self.position(sequence);
        match self.bits.get(word) {
            Some(bits) if bits & mask == 0 => Ok(()),
            _ => Err(ReplayError::Replayed),
        }
    }

    /// Forgets the `count` numbers after the highest: their bits still belong to numbers that fall out of the
    /// window.
    fn clear_after_highest(&mut self, count: u64) {
        if count >= self.size {
            self.bits.fill(0);
            return;
        }
        let (mut next, mut left) = (self.highest + 1, count);
        while left > 0 {
            let offset = next % 64;
            let run = left.min(64 - offset);
            let mask = (u64::MAX >> (64 - run)) << offset;
            let (word, _) = self.position(next);
            if let Some(bits) = self.bits.get_mut(word) {
                *bits &= !mask;
            }
            next = next.wrapping_add(run);
            left -= run;
        }
    }

    #[inline]
    fn position(&self, sequence: u64) -> (usize, u64) {
        let bit = sequence & (self.size - 1);
        ((bit / 64) as usize, 1 << (bit % 64))
    }
}
