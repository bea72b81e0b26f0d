//! Searches of simulated systems, in virtual time; and the example of RFC 9971 Appendix C.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const TRIAL: Duration = Duration::from_millis(100);
const WIDTH: f64 = 0.02;
/// What a trial takes beside its traffic.
const OVERHEAD: Duration = Duration::from_millis(80);
/// What the systems below carry, unless they say otherwise.
const CAPACITY: f64 = 600.0;

fn limits() -> Limits {
    Limits {
        min_load: 10.0,
        first_load: 700.0,
        max_load: 1_000.0,
        trials_max: 200,
        time_max: Duration::from_secs(60),
    }
}

fn ndr() -> Goal {
    Goal::ndr(TRIAL, WIDTH)
}

fn pdr() -> Goal {
    Goal::pdr(0.005, TRIAL, WIDTH)
}

/// Searches a system that loses a part of what is offered, by what is tried and the time before it.
fn searched(goals: &[Goal], limits: Limits, mut loses: impl FnMut(Trial, Duration) -> f64) -> Search {
    let mut search = Search::new(goals.to_vec(), limits).unwrap();
    while let Some(trial) = search.poll_trial() {
        let output = Output {
            loss_ratio: loses(trial, search.spent()),
            took: trial.duration + OVERHEAD,
        };
        search.handle_output(trial, output);
    }
    search
}

/// What a system loses that carries `capacity` and no more.
fn sharp(capacity: f64) -> impl Fn(Trial, Duration) -> f64 {
    move |trial, _| (1.0 - capacity / trial.load).max(0.0)
}

/// Numbers from zero to one that look random and are the same each time.
fn random(mut state: u64) -> impl FnMut() -> f64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Goals of Appendix C.1: RFC2544, TST009, "1s final", "20% exceed".
fn example_goals() -> [Goal; 4] {
    let goal = |final_s: u64, sum_s: u64, loss_ratio: f64, exceed_ratio: f64| Goal {
        loss_ratio,
        exceed_ratio,
        initial_trial: seconds(1),
        final_trial: seconds(final_s),
        duration_sum: seconds(sum_s),
        width: WIDTH,
    };
    [
        goal(60, 60, 0.0, 0.0),
        goal(60, 120, 0.0, 0.5),
        goal(1, 120, 0.005, 0.5),
        goal(60, 60, 0.005, 0.2),
    ]
}

/// Trials up to each of the points of Appendix C.2.
fn example_points() -> Vec<Vec<TrialResult>> {
    let added = [
        (59, 1, 0.0),
        (1, 1, 0.01),
        (59, 1, 0.01),
        (1, 1, 0.0),
        (1, 60, 0.001),
        (1, 60, 0.0),
    ];
    let mut trials = Vec::new();
    let points = added.iter().map(|&(count, duration_s, loss_ratio)| {
        let trial = TrialResult {
            duration: seconds(duration_s),
            loss_ratio,
        };
        trials.extend(std::iter::repeat_n(trial, count));
        trials.clone()
    });
    points.collect()
}

//= RFC 9971 Appendix C.3
#[test]
fn a_load_is_classified_as_in_the_example_of_the_rfc() {
    use Class::{Lower, Undecided, Upper};
    let said = [
        [Undecided, Undecided, Undecided, Undecided],
        [Upper, Undecided, Undecided, Undecided],
        [Upper, Undecided, Undecided, Upper],
        [Upper, Undecided, Lower, Upper],
        // The table has lower bounds for the last goal from here on, beside exceed ratios of 42.857 % and 27.273 %: more than the 20 %
        // that it tolerates, which by section 6.1 and Appendix A is an upper bound.
        [Upper, Undecided, Lower, Upper],
        [Upper, Lower, Lower, Upper],
    ];
    for (point, (trials, said)) in example_points().iter().zip(said).enumerate() {
        let classes = example_goals().map(|goal| goal.classify(trials));
        assert_eq!(classes, said, "point {}", point + 1);
    }
    assert_eq!(ndr().classify(&[]), Undecided);
}

//= RFC 9971 Appendix C.4
#[test]
fn conditional_throughput_is_as_in_the_example_of_the_rfc() {
    let trials = example_points().pop().unwrap();
    let found = example_goals().map(|goal| goal.conditional_throughput(1e6, &trials));
    assert_eq!(found[1..], [Some(1e6), Some(1e6), Some(999e3)]);
    assert_eq!(
        example_goals()[1].conditional_throughput(1e6, &trials[..60]),
        None
    );
}

#[test]
fn time_that_is_missing_of_the_duration_sum_counts_as_lost_in_conditional_throughput() {
    let goal = Goal {
        exceed_ratio: 0.25,
        ..ndr()
    };
    let trial = TrialResult {
        duration: TRIAL,
        loss_ratio: 0.0,
    };
    assert_eq!(goal.conditional_throughput(500.0, &[trial]), Some(0.0));
    assert_eq!(goal.conditional_throughput(500.0, &[trial; 2]), Some(500.0));
}

#[test]
fn of_a_sharp_limit_both_rates_are_found_to_their_widths() {
    let search = searched(&[ndr(), pdr()], limits(), sharp(CAPACITY));
    let [ndr, pdr] = search.results()[..] else {
        panic!("two goals")
    };
    for (result, limit) in [(ndr, CAPACITY), (pdr, CAPACITY / 0.995)] {
        assert_eq!(result.irregular, None);
        let [lower, upper] = [result.relevant_lower, result.relevant_upper].map(Option::unwrap);
        assert!(lower <= limit && limit < upper, "{result:?}");
        assert!((upper - lower) / upper <= WIDTH + 1e-9, "{result:?}");
        assert!(
            result.conditional_throughput.unwrap() <= CAPACITY + 1e-9,
            "{result:?}"
        );
    }
    assert!(search.trials() <= 24, "{} trials", search.trials());
}

#[test]
fn a_trial_that_loses_just_what_the_goal_allows_is_a_low_loss_trial() {
    let trial = |loss_ratio| TrialResult {
        duration: TRIAL,
        loss_ratio,
    };
    assert_eq!(pdr().classify(&[trial(0.005)]), Class::Lower);
    assert_eq!(pdr().classify(&[trial(0.0051); 2]), Class::Upper);
    assert_eq!(ndr().classify(&[trial(1e-9); 2]), Class::Upper);
}

#[test]
fn bounds_that_are_far_apart_are_halved_not_walked_through() {
    // Steps downwards end at half of a load each: 340 and 680 remain, 35 widths apart.
    for capacity in [350.0, 500.0, 670.0] {
        let limits = Limits {
            first_load: 680.0 * 2.0,
            max_load: 2_000.0,
            ..limits()
        };
        let search = searched(&[ndr()], limits, sharp(capacity));
        assert_eq!(search.results()[0].irregular, None);
        assert!(search.trials() <= 22, "{capacity}: {} trials", search.trials());
    }
}

#[test]
fn what_goals_share_is_tried_once() {
    let alone: usize = [ndr(), pdr()]
        .map(|goal| searched(&[goal], limits(), sharp(CAPACITY)).trials())
        .iter()
        .sum();
    let together = searched(&[ndr(), pdr()], limits(), sharp(CAPACITY)).trials();
    assert!(together * 4 < alone * 3, "{together} beside {alone}");
}

#[test]
fn a_noisy_limit_is_found_between_its_extremes() {
    for seed in 0..50 {
        let mut random = random(seed);
        let search = searched(&[ndr(), pdr()], limits(), |trial, _| {
            sharp(CAPACITY * (0.95 + 0.1 * random()))(trial, Duration::ZERO)
        });
        for result in search.results() {
            assert_eq!(result.irregular, None, "{seed}");
            let found = result.relevant_lower.unwrap();
            let within = CAPACITY * 0.95 * (1.0 - WIDTH)..=CAPACITY * 1.05 / 0.995;
            assert!(within.contains(&found), "{seed}: {found}");
        }
    }
}

#[test]
fn a_rare_stop_of_the_machine_is_tolerated_by_the_exceed_ratio_alone() {
    // Each third trial is hit by a stop, at whatever load.
    let stops = || {
        let mut trials = 0;
        move |trial, at| {
            trials += 1;
            if trials % 3 == 0 {
                0.3
            } else {
                sharp(CAPACITY)(trial, at)
            }
        }
    };
    let found = |goal| searched(&[goal], limits(), stops()).results()[0];
    let tolerant = found(ndr()).relevant_lower.unwrap();
    assert!(
        (CAPACITY * (1.0 - WIDTH)..=CAPACITY).contains(&tolerant),
        "{tolerant}"
    );
    let strict = Goal {
        exceed_ratio: 0.0,
        ..ndr()
    };
    assert!(found(strict).relevant_lower.unwrap() < CAPACITY * 0.9);
}

#[test]
fn a_limit_that_wanders_gives_a_rate_that_it_always_carries_or_did_when_tried() {
    for period_s in [1.0, 3.0, 10.0, 30.0] {
        let capacity = |at: Duration| CAPACITY * (1.0 + 0.2 * (at.as_secs_f64() * 6.3 / period_s).sin());
        let search = searched(&[ndr(), pdr()], limits(), |trial, at| {
            sharp(capacity(at))(trial, at)
        });
        for result in search.results() {
            let found = result.relevant_lower.unwrap();
            let within = CAPACITY * 0.8 * (1.0 - WIDTH)..=CAPACITY * 1.2 / 0.995;
            assert!(within.contains(&found), "{period_s} s: {found}");
        }
    }
}

#[test]
fn a_limit_that_falls_leaves_no_bound_of_better_times() {
    // It carries much in the first second, and never again.
    let capacity = |at: Duration| if at < seconds(1) { 900.0 } else { 300.0 };
    let search = searched(&[ndr(), pdr()], limits(), |trial, at| {
        sharp(capacity(at))(trial, at)
    });
    let pdr = search.results()[1];
    assert!(pdr.relevant_lower.unwrap() <= 900.0 / 0.995, "{pdr:?}");
    for result in search.results() {
        assert!(result.relevant_lower < result.relevant_upper, "{result:?}");
    }
}

#[test]
fn a_system_that_always_loses_a_little_has_a_pdr_and_no_ndr() {
    let search = searched(&[ndr(), pdr()], limits(), |trial, at| {
        sharp(CAPACITY)(trial, at).max(0.001)
    });
    let [ndr, pdr] = search.results()[..] else {
        panic!("two goals")
    };
    assert_eq!(
        (ndr.irregular, ndr.relevant_lower, ndr.conditional_throughput),
        (Some(Irregular::MinLoad), None, None)
    );
    assert_eq!(ndr.relevant_upper, Some(limits().min_load));
    assert_eq!(pdr.irregular, None);
    assert!((CAPACITY * 0.98..=CAPACITY / 0.995).contains(&pdr.relevant_lower.unwrap()));
}

/// It keeps so many packets (load times seconds) before it loses any.
fn with_queue(queue: f64) -> impl Fn(Trial, Duration) -> f64 {
    move |trial, _| {
        let seconds = trial.duration.as_secs_f64();
        ((trial.load - CAPACITY) * seconds - queue).max(0.0) / (trial.load * seconds)
    }
}

#[test]
fn short_trials_that_mislead_make_no_lower_bound() {
    let queue = 4.0;
    let brief = TRIAL / 8;
    let goal = |initial_trial, final_trial| Goal {
        initial_trial,
        final_trial,
        duration_sum: final_trial * 2,
        ..ndr()
    };
    let limit = |trial: Duration| CAPACITY + queue / trial.as_secs_f64();
    let found = |goal| searched(&[goal], limits(), with_queue(queue)).results()[0];
    let misled = found(goal(brief, brief)).relevant_lower.unwrap();
    assert!(misled > limit(TRIAL) * 1.2, "{misled}");
    let result = found(goal(brief, TRIAL));
    assert_eq!(result.irregular, None);
    assert!(result.relevant_lower.unwrap() <= limit(TRIAL), "{result:?}");
    assert!(
        result.relevant_lower.unwrap() >= limit(TRIAL) * (1.0 - WIDTH),
        "{result:?}"
    );
}

#[test]
fn short_trials_of_a_hopeless_load_spare_long_ones() {
    let goal = Goal {
        initial_trial: TRIAL / 8,
        ..ndr()
    };
    let time = |goal: Goal| {
        let mut traffic = Duration::ZERO;
        let search = searched(&[goal], limits(), |trial, at| {
            traffic += trial.duration;
            sharp(90.0)(trial, at)
        });
        assert_eq!(search.results()[0].irregular, None);
        traffic
    };
    assert!(
        time(goal) < time(ndr()),
        "{:?} beside {:?}",
        time(goal),
        time(ndr())
    );
}

#[test]
fn a_system_that_loses_nothing_has_no_upper_bound_and_says_so() {
    let search = searched(&[ndr(), pdr()], limits(), |_, _| 0.0);
    for result in search.results() {
        assert_eq!(result.irregular, Some(Irregular::MaxLoad));
        assert_eq!(result.relevant_lower, Some(1_000.0));
        assert_eq!(
            (result.relevant_upper, result.conditional_throughput),
            (None, Some(1_000.0))
        );
    }
}

#[test]
fn a_system_that_loses_all_has_no_rate() {
    let search = searched(&[ndr(), pdr()], limits(), |_, _| 1.0);
    for result in search.results() {
        assert_eq!(result.irregular, Some(Irregular::MinLoad));
        assert_eq!(
            (result.relevant_lower, result.conditional_throughput),
            (None, None)
        );
    }
}

#[test]
fn a_search_that_must_end_early_says_so() {
    for trials_max in 0..8 {
        let limits = Limits {
            trials_max,
            ..limits()
        };
        let search = searched(&[ndr(), pdr()], limits, sharp(CAPACITY));
        assert_eq!(search.trials(), trials_max);
        for result in search.results() {
            assert_eq!(
                result.irregular,
                Some(Irregular::Limit),
                "{trials_max}: {result:?}"
            );
        }
    }
    let brief = Limits {
        time_max: Duration::from_secs(1),
        ..limits()
    };
    let search = searched(&[ndr(), pdr()], brief, sharp(CAPACITY));
    assert!(search.trials() > 0 && search.spent() <= brief.time_max);
}

#[test]
fn goals_and_limits_that_make_no_sense_are_refused() {
    let refused = |goal: Goal| Search::new(vec![goal], limits()).is_err();
    assert!(refused(Goal {
        loss_ratio: 1.0,
        ..ndr()
    }));
    assert!(refused(Goal {
        exceed_ratio: 1.0,
        ..ndr()
    }));
    assert!(refused(Goal { width: 0.0, ..ndr() }));
    assert!(refused(Goal {
        initial_trial: TRIAL * 2,
        ..ndr()
    }));
    assert!(refused(Goal {
        duration_sum: Duration::ZERO,
        ..ndr()
    }));
    assert!(Search::new(vec![], limits()).is_err());
    for (min_load, first_load) in [(0.0, 700.0), (800.0, 700.0), (10.0, 1_100.0), (10.0, f64::NAN)] {
        let limits = Limits {
            min_load,
            first_load,
            ..limits()
        };
        assert!(Search::new(vec![ndr()], limits).is_err(), "{limits:?}");
    }
}

/// Loss ratios of a system that does what it likes: a limit, noise of it, a floor under its losses, stops.
fn any_system() -> impl Strategy<Value = (f64, f64, f64, f64, u64)> {
    let floor = prop_oneof![Just(0.0), 0.0..0.02f64];
    (1.0..2_000.0f64, 0.0..1.0f64, floor, 0.0..0.6f64, any::<u64>())
}

fn any_goal() -> impl Strategy<Value = Goal> {
    let loss_ratio = prop_oneof![Just(0.0), 0.0..0.1f64];
    let exceed_ratio = prop_oneof![Just(0.0), Just(0.5), 0.0..0.9f64];
    let times = (1..100u64, 1..8u64, 1..5u64);
    (loss_ratio, exceed_ratio, times, 0.005..0.3f64).prop_map(
        |(loss_ratio, exceed_ratio, (trial_ms, part, sum), width)| {
            let final_trial = Duration::from_millis(trial_ms * part);
            Goal {
                loss_ratio,
                exceed_ratio,
                initial_trial: Duration::from_millis(trial_ms),
                final_trial,
                duration_sum: final_trial * u32::try_from(sum).unwrap(),
                width,
            }
        },
    )
}

/// The class of a load by the ratios of section 6.1, beside the sums that the code compares.
fn class_by_ratios(goal: &Goal, trials: &[(Trial, f64)]) -> Class {
    let sum = |wanted: fn(bool, bool) -> bool| -> f64 {
        let of = trials
            .iter()
            .filter(|(trial, loss)| wanted(trial.duration >= goal.final_trial, *loss > goal.loss_ratio));
        of.map(|(trial, _)| trial.duration.as_secs_f64()).sum()
    };
    let short_excess = sum(|full, high| !full && high)
        - sum(|full, high| !full && !high) * (goal.exceed_ratio / (1.0 - goal.exceed_ratio));
    let effective_high = sum(|full, high| full && high) + short_excess.max(0.0);
    let effective_full = effective_high + sum(|full, high| full && !high);
    let effective_whole = effective_full.max(goal.duration_sum.as_secs_f64());
    let missing = effective_whole - effective_full;
    if effective_high / effective_whole > goal.exceed_ratio + 1e-6 {
        Class::Upper
    } else if (effective_high + missing) / effective_whole <= goal.exceed_ratio - 1e-6 {
        Class::Lower
    } else {
        // Rounding decides between this and a bound.
        Class::Undecided
    }
}

proptest! {
    #[test]
    fn whatever_a_system_does_results_are_true_and_within_limits(
        goals in proptest::collection::vec(any_goal(), 1..4),
        (capacity, noise, floor, stops, seed) in any_system(),
        trials_max in 1..120usize,
        time_ms in 1..20_000u64,
    ) {
        let limits = Limits { trials_max, time_max: Duration::from_millis(time_ms), ..limits() };
        let mut random = random(seed);
        let mut tried: Vec<(Trial, f64)> = Vec::new();
        let search = searched(&goals, limits, |trial, at| {
            let capacity = capacity * (1.0 - noise * random());
            let stop = if random() < stops { random() } else { 0.0 };
            let loss = sharp(capacity)(trial, at).max(floor).max(stop);
            tried.push((trial, loss));
            loss
        });
        prop_assert_eq!(search.trials(), tried.len());
        prop_assert!(tried.len() <= trials_max);
        // Of the first trial nobody knows what it takes beside its duration.
        prop_assert!(search.spent() <= limits.time_max + OVERHEAD);
        for (trial, _) in &tried {
            prop_assert!((limits.min_load..=limits.max_load).contains(&trial.load));
            let longest = goals.iter().map(|goal| goal.final_trial).max().unwrap();
            prop_assert!(trial.duration <= longest);
        }
        for (goal, result) in goals.iter().zip(search.results()) {
            let at = |load: f64| -> Vec<_> {
                tried.iter().filter(|(trial, _)| trial.load == load).copied().collect()
            };
            let class = |load: f64| class_by_ratios(goal, &at(load));
            let [lower, upper] = [result.relevant_lower, result.relevant_upper];
            for (trial, _) in &tried {
                if class(trial.load) == Class::Upper {
                    prop_assert!(lower.is_none_or(|lower| lower < trial.load), "{result:?} beside {trial:?}");
                    prop_assert!(upper.is_some_and(|upper| upper <= trial.load), "{result:?} beside {trial:?}");
                }
            }
            prop_assert!(lower.is_none_or(|lower| class(lower) != Class::Upper));
            prop_assert!(upper.is_none_or(|upper| class(upper) != Class::Lower));
            prop_assert_eq!(lower.is_some(), result.conditional_throughput.is_some());
            if let (Some(lower), Some(rate)) = (lower, result.conditional_throughput) {
                // Section 6.2.1: it never comes from a trial that loses more than the goal allows.
                prop_assert!(rate <= lower && rate >= lower * (1.0 - goal.loss_ratio) * (1.0 - 1e-9), "{result:?}");
                let full_length = |trial: &Trial| trial.duration >= goal.final_trial;
                prop_assert!(at(lower).iter().any(|(trial, loss)| full_length(trial) && *loss <= goal.loss_ratio));
            }
            if result.irregular.is_none() {
                let [lower, upper] = [lower.unwrap(), upper.unwrap()];
                prop_assert!((upper - lower) / upper <= goal.width + 1e-6);
            }
        }
    }

    #[test]
    fn a_search_with_no_limit_but_loads_ends_and_is_regular_or_at_an_end(
        goals in proptest::collection::vec(any_goal(), 1..4),
        (capacity, noise, floor, stops, seed) in any_system(),
    ) {
        let limits = Limits { trials_max: 20_000, time_max: Duration::MAX, ..limits() };
        let mut random = random(seed);
        let search = searched(&goals, limits, |trial, at| {
            let capacity = capacity * (1.0 - noise * random());
            let stop = if random() < stops { random() } else { 0.0 };
            sharp(capacity)(trial, at).max(floor).max(stop)
        });
        prop_assert!(search.trials() < limits.trials_max);
        for result in search.results() {
            prop_assert_ne!(result.irregular, Some(Irregular::Limit));
        }
    }
}
