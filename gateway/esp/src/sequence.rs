//! The sender's sequence numbers (RFC 4303 section 3.3.3).

use crate::{ConfigError, SealError};

/// Hands out each sequence number once and stops at the end: RFC 4303 forbids the counter to cycle, and with
/// an AEAD a number used twice would be a nonce used twice.
#[derive(Debug)]
pub struct SequenceCounter {
    /// `None` once every number has been handed out.
    next: Option<u64>,
    last: u64,
}

impl SequenceCounter {
    /// `first` is 1 for a new SA; an SA taken over from another sender starts beyond what that one used.
    /// `esn` widens the counter from 32 to 64 bits.
    ///
    /// # Errors
    /// [`ConfigError::FirstSequence`] for 0 or a number that the counter cannot hold.
    pub fn new(first: u64, esn: bool) -> Result<Self, ConfigError> {
        let last = if esn { u64::MAX } else { u64::from(u32::MAX) };
        if first == 0 || first > last {
            return Err(ConfigError::FirstSequence(first));
        }
        Ok(Self {
            next: Some(first),
            last,
        })
    }

    /// Takes the next number.
    ///
    /// # Errors
    /// [`SealError::SequenceExhausted`], for ever after.
    #[inline]
    pub fn take(&mut self) -> Result<u64, SealError> {
        let taken = self.next.ok_or(SealError::SequenceExhausted)?;
        self.next = if taken < self.last { Some(taken + 1) } else { None };
        Ok(taken)
    }

    /// How many numbers are left; rekeying is due long before this is 0.
    pub fn remaining(&self) -> u64 {
        self.next.map_or(0, |next| (self.last - next).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4303 section 3.3.3: the sender must not let the counter cycle.
    #[test]
    fn stops_at_the_end_and_never_wraps() {
        for (last, esn) in [(u64::from(u32::MAX), false), (u64::MAX, true)] {
            let mut counter = SequenceCounter::new(last - 1, esn).unwrap();
            assert_eq!(counter.remaining(), 2);
            assert_eq!(counter.take(), Ok(last - 1));
            assert_eq!(counter.take(), Ok(last));
            assert_eq!(counter.remaining(), 0);
            for _ in 0..3 {
                assert_eq!(counter.take(), Err(SealError::SequenceExhausted));
            }
        }
    }

    #[test]
    fn the_first_number_fits_the_counter() {
        assert_eq!(SequenceCounter::new(1, false).unwrap().take(), Ok(1));
        assert!(matches!(
            SequenceCounter::new(0, true),
            Err(ConfigError::FirstSequence(0))
        ));
        let beyond = u64::from(u32::MAX) + 1;
        assert!(SequenceCounter::new(beyond, false).is_err());
        assert_eq!(SequenceCounter::new(beyond, true).unwrap().take(), Ok(beyond));
    }
}
