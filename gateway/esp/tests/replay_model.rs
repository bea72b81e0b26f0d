//! The replay window against a naive model: a set of everything ever accepted.

use gateway_esp::{ReplayError, ReplayWindow};
use proptest::prelude::*;
use std::collections::HashSet;

struct Model {
    size: u64,
    highest: u64,
    accepted: HashSet<u64>,
}

impl Model {
    fn accept(&mut self, sequence: u64) -> Result<(), ReplayError> {
        if sequence == 0 || u128::from(sequence) + u128::from(self.size) <= u128::from(self.highest) {
            return Err(ReplayError::OutsideWindow);
        }
        if !self.accepted.insert(sequence) {
            return Err(ReplayError::Replayed);
        }
        self.highest = self.highest.max(sequence);
        Ok(())
    }

    /// The number nearest to the window that ends in `low`: RFC 4303 appendix A2.2, said as a search over the
    /// three candidates instead of by cases.
    fn widen(&self, low: u32) -> Option<u64> {
        let bottom = i128::from(self.highest) - i128::from(self.size) + 1;
        let base = i128::from(self.highest >> 32 << 32) + i128::from(low);
        [base - (1 << 32), base, base + (1 << 32)]
            .into_iter()
            .find(|candidate| *candidate >= bottom)
            .and_then(|candidate| u64::try_from(candidate).ok())
    }
}

/// A step from the highest number: mostly near, sometimes far, often across a border of the window.
fn step(size: i64) -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -8_i64..8,
        3 => -size - 3..=-size + 3,
        3 => size - 3..=size + 3,
        2 => -2 * size..2 * size,
        1 => 0_i64..1 << 31,
        1 => -70_i64..70,
    ]
}

fn run(size: u32, esn: bool, start: u64, steps: Vec<i64>) {
    let mut window = ReplayWindow::new(size, esn).unwrap();
    let mut model = Model {
        size: u64::from(size),
        highest: 0,
        accepted: HashSet::new(),
    };
    if start > 0 {
        // Both count everything up to the start as received.
        window.resume_at(start);
        model.highest = start;
        model
            .accepted
            .extend(start.saturating_sub(u64::from(size))..=start);
    }
    for step in steps {
        let target = model.highest.saturating_add_signed(step);
        let low = target as u32;
        let sequence = if esn {
            model.widen(low)
        } else {
            Some(u64::from(low))
        };
        let Some(sequence) = sequence else {
            assert_eq!(window.check(low), Err(ReplayError::OutsideWindow));
            continue;
        };
        let before = window.check(low);
        let want = model.accept(sequence);
        assert_eq!(
            before,
            want.map(|()| sequence),
            "check {sequence:#x}, highest {:#x}",
            model.highest
        );
        assert_eq!(window.accept(sequence), want, "accept {sequence:#x}");
        assert_eq!(window.highest(), model.highest);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn extended_numbers_agree_with_the_model(
        size in prop_oneof![Just(1024_u32), Just(4096)],
        start in prop_oneof![Just(0_u64), (0_u64..5000).prop_map(|n| (1 << 32) - 2500 + n), Just(0xffff_ffff_ffff_f000)],
        steps in prop::collection::vec(step(1024), 1..300),
    ) {
        run(size, true, start, steps);
    }

    #[test]
    fn short_numbers_agree_with_the_model(
        start in prop_oneof![Just(0_u64), Just((1 << 32) - 1500)],
        steps in prop::collection::vec(step(1024), 1..300),
    ) {
        run(1024, false, start, steps);
    }
}

/// RFC 4303 section 3.4.3: with 32-bit numbers nothing follows the last one.
#[test]
fn short_numbers_do_not_wrap() {
    let mut window = ReplayWindow::new(1024, false).unwrap();
    window.accept(u64::from(u32::MAX)).unwrap();
    assert_eq!(window.check(0), Err(ReplayError::OutsideWindow));
    assert_eq!(window.check(1), Err(ReplayError::OutsideWindow));
    assert_eq!(window.check(u32::MAX), Err(ReplayError::Replayed));
    assert_eq!(window.check(u32::MAX - 1023), Ok(u64::from(u32::MAX) - 1023));
    assert_eq!(window.check(u32::MAX - 1024), Err(ReplayError::OutsideWindow));
}

/// RFC 4303 appendix A2.2: the low half wraps, the high half goes up by one, and late packets from before the
/// wrap are still told from new ones.
#[test]
fn extended_numbers_wrap_their_low_half() {
    let mut window = ReplayWindow::new(1024, true).unwrap();
    window.resume_at(0xffff_fff0);
    assert_eq!(window.check(0xffff_fff5), Ok(0xffff_fff5));
    assert_eq!(window.check(3), Ok(0x1_0000_0003));
    window.accept(0x1_0000_0003).unwrap();
    assert_eq!(window.check(3), Err(ReplayError::Replayed));
    assert_eq!(window.check(0xffff_fff5), Ok(0xffff_fff5));
    assert_eq!(window.check(0xffff_fff0), Err(ReplayError::Replayed));
}

#[test]
fn the_last_extended_number_is_the_last() {
    let mut window = ReplayWindow::new(1024, true).unwrap();
    window.resume_at(u64::MAX - 1);
    assert_eq!(window.check(u32::MAX), Ok(u64::MAX));
    window.accept(u64::MAX).unwrap();
    assert_eq!(window.check(0), Err(ReplayError::OutsideWindow));
    assert_eq!(window.check(u32::MAX), Err(ReplayError::Replayed));
}

#[test]
fn sizes_are_powers_of_two_in_bounds() {
    for size in [0, 1, 64, 512, 1023, 1025, 3000, (1 << 20) + 1, 1 << 21, u32::MAX] {
        assert!(ReplayWindow::new(size, true).is_err(), "{size}");
    }
    for size in [1024, 4096, 1 << 20] {
        assert!(ReplayWindow::new(size, true).is_ok(), "{size}");
    }
}
