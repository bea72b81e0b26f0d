//! Workers that do not come round any more: what comes by their queues goes nowhere, the programs' clock may stand still, and
//! nobody notices by anything else. (One that panics ends the process.)

/// Seconds in which a worker has to end a round. One takes microseconds, and none sleeps longer than a tenth of a second in
/// between.
const STILL_MAX_S: u32 = 10;

/// Which round each worker was in, and for how many seconds.
#[derive(Debug, Default)]
pub(super) struct Standstill(Vec<(u64, u32)>);

impl Standstill {
    /// A second went by, and workers are in these rounds. Which of them has stood still for [`STILL_MAX_S`] or longer.
    pub(super) fn second(&mut self, rounds: impl Iterator<Item = u64>) -> Option<usize> {
        let mut before = std::mem::take(&mut self.0).into_iter();
        let still = |now: u64| match before.next() {
            Some((round, seconds)) if round == now => (now, seconds.saturating_add(1)),
            Some(_) | None => (now, 0),
        };
        self.0 = rounds.map(still).collect();
        self.0.iter().position(|(_, seconds)| *seconds >= STILL_MAX_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stays_in_its_round_is_named_until_it_goes_on() {
        let mut standstill = Standstill::default();
        for second in 0..u64::from(STILL_MAX_S) {
            assert_eq!(
                standstill.second([second, 7].into_iter()),
                None,
                "second {second}"
            );
        }
        for second in 100..200 {
            assert_eq!(standstill.second([second, 7].into_iter()), Some(1));
        }
        assert_eq!(standstill.second([200, 8].into_iter()), None);
        for _ in 1..STILL_MAX_S {
            assert_eq!(standstill.second([200, 8].into_iter()), None, "counted anew");
        }
        assert_eq!(
            standstill.second([200, 8].into_iter()),
            Some(0),
            "asleep for ever"
        );
    }
}
