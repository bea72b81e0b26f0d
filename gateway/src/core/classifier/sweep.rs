//! Cuts a dimension at the boundaries of all rules' ranges.

/// A range of values, ends included.
pub(super) type Span = (u64, u64);

/// Joins ranges that overlap or touch.
pub(super) fn merge(spans: impl IntoIterator<Item = Span>) -> Vec<Span> {
    let mut spans: Vec<Span> = spans.into_iter().collect();
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for (low, high) in spans {
        match merged.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    merged
}

/// Tells `emit` each stretch of `0..=highest` in order, and the bits of the rules that hold on it. Rule n has bit n;
/// the ranges of each rule are merged.
pub(super) fn sweep<E>(
    rules: impl Iterator<Item = Vec<Span>>,
    highest: u64,
    mut emit: impl FnMut(Span, &[u64]) -> Result<(), E>,
) -> Result<(), E> {
    let mut turns: Vec<(u64, usize)> = Vec::new();
    let mut count = 0;
    for (bit, spans) in rules.enumerate() {
        turns.extend(
            spans
                .iter()
                .flat_map(|(low, high)| [(*low, bit), (high + 1, bit)]),
        );
        count = bit + 1;
    }
    turns.sort_unstable();
    let mut holding = vec![0u64; count.div_ceil(64)];
    let mut from = 0;
    for (at, bit) in turns {
        if at > highest {
            break;
        }
        if at > from {
            emit((from, at - 1), &holding)?;
            from = at;
        }
        if let Some(word) = holding.get_mut(bit / 64) {
            *word ^= 1 << (bit % 64);
        }
    }
    emit((from, highest), &holding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Model: a value has the bits of the rules one of whose ranges contains it; stretches follow each other.
        #[test]
        fn stretches_say_which_rules_hold(
            rules in proptest::collection::vec(
                proptest::collection::vec((0u64..40, 0u64..40).prop_map(|(a, b)| (a.min(b), a.max(b))), 0..4), 0..70),
        ) {
            let mut next = 0;
            sweep(rules.iter().map(|spans| merge(spans.iter().copied())), 39, |(low, high), bits| {
                assert_eq!(low, next);
                next = high + 1;
                for value in low..=high {
                    for (bit, spans) in rules.iter().enumerate() {
                        let holds = spans.iter().any(|(low, high)| (low..=high).contains(&&value));
                        assert_eq!(bits[bit / 64] >> (bit % 64) & 1 == 1, holds, "{value} {bit}");
                    }
                }
                Ok::<(), ()>(())
            }).expect("nothing fails");
            prop_assert_eq!(next, 40);
        }
    }
}
