//! Few cases that hold every pair of values that matters, in place of the product of all parameters.

use std::collections::BTreeSet;

/// One value of one parameter, both by index.
type Value = (usize, usize);

/// Cases over parameters with so many values each: every pair of values of two parameters of which one is among the
/// first `environment` stands in some case, if there is a case at all that has both and is `possible`. The same
/// arguments give the same cases.
///
/// A case is the index of each parameter's value. `possible` is also asked about cases that are not complete: what is
/// not chosen yet is `None`, and it must say yes to those that can be completed.
#[must_use]
pub fn pairs(
    counts: &[usize],
    environment: usize,
    possible: impl Fn(&[Option<usize>]) -> bool,
) -> Vec<Vec<usize>> {
    let mut missing = BTreeSet::new();
    for one in 0..environment.min(counts.len()) {
        for other in one + 1..counts.len() {
            let values = (0..counts[one]).flat_map(|a| (0..counts[other]).map(move |b| (a, b)));
            missing.extend(values.map(|(a, b)| ((one, a), (other, b))));
        }
    }
    let mut cases = Vec::new();
    while let Some(pair) = missing.pop_first() {
        let mut case = vec![None; counts.len()];
        for (parameter, value) in [pair.0, pair.1] {
            case[parameter] = Some(value);
        }
        if !possible(&case) {
            continue;
        }
        for parameter in 0..counts.len() {
            if case[parameter].is_none() {
                case[parameter] = best(
                    parameter,
                    counts[parameter],
                    &case,
                    &missing,
                    &possible,
                    cases.len(),
                );
            }
        }
        let Some(case) = case.into_iter().collect::<Option<Vec<_>>>() else {
            continue;
        };
        missing.retain(|((one, a), (other, b))| case[*one] != *a || case[*other] != *b);
        cases.push(case);
    }
    cases
}

/// The value that brings most of what is missing; among equals another one each time.
fn best(
    parameter: usize,
    count: usize,
    case: &[Option<usize>],
    missing: &BTreeSet<(Value, Value)>,
    possible: impl Fn(&[Option<usize>]) -> bool,
    turn: usize,
) -> Option<usize> {
    let gain = |value: usize| {
        let mut with = case.to_vec();
        with[parameter] = Some(value);
        possible(&with).then(|| {
            let is_new = |((one, a), (other, b)): &&(Value, Value)| {
                (*one, *a) == (parameter, value) && with[*other] == Some(*b)
                    || (*other, *b) == (parameter, value) && with[*one] == Some(*a)
            };
            // What no other parameter is chosen for yet counts as well: its partner may still come.
            let open = |((one, a), (other, b)): &&(Value, Value)| {
                (*one, *a) == (parameter, value) && with[*other].is_none()
                    || (*other, *b) == (parameter, value) && with[*one].is_none()
            };
            (
                missing.iter().filter(is_new).count(),
                missing.iter().filter(open).count(),
            )
        })
    };
    (0..count)
        .map(|step| (step + turn) % count)
        .filter_map(|value| Some((gain(value)?, value)))
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: [usize; 6] = [3, 3, 2, 2, 15, 6];
    const ENVIRONMENT: usize = 4;

    /// The first parameter's value 0 does not go with the second's value 2.
    fn possible(case: &[Option<usize>]) -> bool {
        (case[0], case[1]) != (Some(0), Some(2))
    }

    #[test]
    fn every_possible_pair_is_in_a_possible_case() {
        let cases = pairs(&COUNTS, ENVIRONMENT, possible);
        for one in 0..ENVIRONMENT {
            for other in one + 1..COUNTS.len() {
                for a in 0..COUNTS[one] {
                    for b in 0..COUNTS[other] {
                        let found = cases.iter().any(|case| case[one] == a && case[other] == b);
                        let forbidden = (one, other, a, b) == (0, 1, 0, 2);
                        assert_eq!(found, !forbidden, "{one}={a} with {other}={b}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_cases_are_few() {
        let product: usize = COUNTS.iter().product();
        let least = 15 * 3;
        let cases = pairs(&COUNTS, ENVIRONMENT, possible).len();
        assert!((least..least + 10).contains(&cases), "{cases} cases of {product}");
    }
}
