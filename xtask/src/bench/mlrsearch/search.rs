//! The Controller (RFC 9971 section 4.9.2): which load is tried next, and for how long.
//!
//! All it knows are the trials so far, so that a trial may change what earlier ones meant (loss inversion, 5.3.2): what is tried next is
//! worked out anew each time. Goals are first searched coarsely by short trials, where a goal allows them, and then ever finer; in each
//! of these passes goals with less loss come first, as smaller loads are to be measured before larger ones (5.3.4).

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Class, Goal, GoalResult, Irregular, Output, Trial, TrialResult};

/// From one pass to the next trials are so many times as long, and widths are as many times as narrow.
const REFINEMENT: u32 = 2;
/// The coarsest width.
const WIDTH_MAX: f64 = 0.5;
/// Widths that a search for the first bound beyond another one starts with; then it takes twice the last step each time.
const FIRST_STEP: i32 = 4;
/// The largest such step: to this part of a load, or from it.
const STEP_MAX: f64 = 0.5;
/// What arithmetic may add to a width.
const SAME: f64 = 1e-9;

/// What a search keeps to (RFC 9971 sections 4.6.8.1 and 4.6.8.2, and limits of its own).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Min Load, above zero.
    pub min_load: f64,
    /// The load that is tried first.
    pub first_load: f64,
    /// Max Load.
    pub max_load: f64,
    /// Trials at most.
    pub trials_max: usize,
    /// No trial begins that would not end within this, with what the slowest so far took beside its traffic.
    pub time_max: Duration,
}

/// All trials at one load.
#[derive(Clone, Debug)]
struct AtLoad {
    load: f64,
    trials: Vec<TrialResult>,
}

/// The relevant bounds of a goal, so far.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    lower: Option<f64>,
    upper: Option<f64>,
}

/// A search. Ask [`Search::poll_trial`] what to try and hand what came of it to [`Search::handle_output`], until there is nothing to try;
/// then ask for the [`Search::results`].
#[derive(Clone, Debug)]
pub struct Search {
    goals: Vec<Goal>,
    limits: Limits,
    /// By load, ascending.
    loads: Vec<AtLoad>,
    trials: usize,
    spent: Duration,
    /// The most that a trial took beside its duration.
    overhead: Duration,
}

impl Search {
    /// A search for these goals (Controller Input, RFC 9971 section 4.6.8).
    ///
    /// # Errors
    /// A goal or a limit makes no sense.
    pub fn new(goals: Vec<Goal>, limits: Limits) -> Result<Self> {
        ensure!(!goals.is_empty(), "a search without a goal");
        goals.iter().try_for_each(Goal::check)?;
        let Limits {
            min_load,
            first_load,
            max_load,
            ..
        } = limits;
        ensure!(
            0.0 < min_load && min_load <= first_load && first_load <= max_load && max_load.is_finite(),
            "loads of a search are above zero and in order: {limits:?}"
        );
        Ok(Self {
            goals,
            limits,
            loads: Vec::new(),
            trials: 0,
            spent: Duration::ZERO,
            overhead: Duration::ZERO,
        })
    }

    /// What is to be tried next; none if all is found or a limit is reached.
    #[must_use]
    pub fn poll_trial(&self) -> Option<Trial> {
        let trial = self.wanted_trial()?;
        let is_in_time = self.spent + self.overhead + trial.duration <= self.limits.time_max;
        (self.trials < self.limits.trials_max && is_in_time).then_some(trial)
    }

    /// What came of a trial.
    pub fn handle_output(&mut self, trial: Trial, output: Output) {
        self.trials += 1;
        self.spent += output.took;
        self.overhead = self.overhead.max(output.took.saturating_sub(trial.duration));
        let result = TrialResult {
            duration: trial.duration,
            loss_ratio: output.loss_ratio,
        };
        match self.loads.binary_search_by(|at| at.load.total_cmp(&trial.load)) {
            Ok(at) => self.loads[at].trials.push(result),
            Err(at) => self.loads.insert(
                at,
                AtLoad {
                    load: trial.load,
                    trials: vec![result],
                },
            ),
        }
    }

    /// What is found so far, for each goal in the order that they were given in (Search Result, RFC 9971 section 4.8.5).
    #[must_use]
    pub fn results(&self) -> Vec<GoalResult> {
        self.goals.iter().map(|goal| self.result(goal)).collect()
    }

    /// Trials so far.
    #[must_use]
    pub fn trials(&self) -> usize {
        self.trials
    }

    /// Time that they took.
    #[must_use]
    pub fn spent(&self) -> Duration {
        self.spent
    }

    fn result(&self, goal: &Goal) -> GoalResult {
        let bounds = self.bounds(goal);
        let irregular = match (bounds.lower, bounds.upper) {
            (Some(lower), Some(upper)) if is_close(lower, upper, goal.width) => None,
            (Some(lower), None) if lower >= self.limits.max_load => Some(Irregular::MaxLoad),
            (None, Some(upper)) if upper <= self.limits.min_load => Some(Irregular::MinLoad),
            _ => Some(Irregular::Limit),
        };
        let at_lower = self.loads.iter().find(|at| Some(at.load) == bounds.lower);
        GoalResult {
            goal: *goal,
            relevant_lower: bounds.lower,
            relevant_upper: bounds.upper,
            conditional_throughput: at_lower.and_then(|at| goal.conditional_throughput(at.load, &at.trials)),
            irregular,
        }
    }

    /// Relevant bounds of a goal (RFC 9971 sections 4.8.1 and 4.8.2).
    fn bounds(&self, goal: &Goal) -> Bounds {
        let mut bounds = Bounds::default();
        for at in &self.loads {
            match goal.classify(&at.trials) {
                Class::Lower => bounds.lower = Some(at.load),
                Class::Upper => {
                    // A lower bound beyond it is a fluke (5.3.3).
                    bounds.upper = Some(at.load);
                    break;
                }
                Class::Undecided => {}
            }
        }
        bounds
    }

    fn wanted_trial(&self) -> Option<Trial> {
        let mut goals = self.goals.clone();
        goals.sort_by(|one, other| one.loss_ratio.total_cmp(&other.loss_ratio));
        let passes: Vec<_> = goals.iter().map(passes).collect();
        let most = passes.iter().map(Vec::len).max()?;
        (0..most).find_map(|pass| {
            passes.iter().find_map(|of_goal| {
                // A goal with fewer passes waits for the last ones.
                let number = (pass + of_goal.len()).checked_sub(most)?;
                let coarser = number.checked_sub(1).and_then(|before| of_goal.get(before));
                let target = of_goal.get(number)?;
                let load = self.wanted_load(target, coarser)?;
                Some(Trial {
                    load,
                    duration: target.final_trial,
                })
            })
        })
    }

    /// The load that brings a goal nearer, if there is one.
    fn wanted_load(&self, goal: &Goal, coarser: Option<&Goal>) -> Option<f64> {
        let Limits {
            min_load, max_load, ..
        } = self.limits;
        let coarse = coarser.map(|goal| self.bounds(goal)).unwrap_or_default();
        match self.bounds(goal) {
            Bounds {
                lower: Some(lower),
                upper: Some(upper),
            } => (!is_close(lower, upper, goal.width)).then(|| between(lower, upper, goal.width)),
            Bounds { lower: None, upper } => match (coarse.lower, upper) {
                (_, Some(upper)) if upper <= min_load => None,
                (Some(lower), None) => Some(lower),
                (Some(lower), Some(upper)) if lower < upper => Some(lower),
                (_, Some(upper)) => Some(self.below(upper, goal.width).max(min_load)),
                (None, None) => Some(self.limits.first_load),
            },
            Bounds {
                lower: Some(lower),
                upper: None,
            } => match coarse.upper {
                _ if lower >= max_load => None,
                Some(upper) if upper > lower => Some(upper),
                _ => Some(self.above(lower, goal.width).min(max_load)),
            },
        }
    }

    /// A load below an upper bound: twice as far from it as the next that was tried above it.
    fn below(&self, upper: f64, width: f64) -> f64 {
        let above = self.loads.iter().find(|at| at.load > upper);
        upper * step(above.map(|at| upper / at.load), width)
    }

    /// A load above a lower bound, likewise.
    fn above(&self, lower: f64, width: f64) -> f64 {
        let below = self.loads.iter().rfind(|at| at.load < lower);
        lower / step(below.map(|at| at.load / lower), width)
    }
}

/// A factor below one, from the last one.
fn step(last: Option<f64>, width: f64) -> f64 {
    let first = (1.0 - width).powi(FIRST_STEP);
    let next = last.map_or(first, |last| last * last);
    next.min(1.0 - width).max(STEP_MAX)
}

/// Whether bounds are as close as the width asks for.
fn is_close(lower: f64, upper: f64, width: f64) -> bool {
    (upper - lower) / upper <= width + SAME
}

/// A load in the middle, a whole number of widths below the upper bound, so that no half of a width is left to be tried.
fn between(lower: f64, upper: f64, width: f64) -> f64 {
    let widths = ((lower / upper).ln() / (1.0 - width).ln() - SAME).ceil();
    upper * (1.0 - width).powf((widths / 2.0).floor())
}

/// The goal as it is at last, and before it as coarser passes take it: trials are shorter, by no less than the goal allows, and so is what
/// is enough of them; bounds are farther apart.
fn passes(goal: &Goal) -> Vec<Goal> {
    let mut passes = vec![*goal];
    let mut target = *goal;
    while target.final_trial > goal.initial_trial {
        let shorter = (target.final_trial / REFINEMENT).max(goal.initial_trial);
        let part = shorter.as_secs_f64() / goal.final_trial.as_secs_f64();
        target = Goal {
            initial_trial: shorter,
            final_trial: shorter,
            duration_sum: goal.duration_sum.mul_f64(part),
            width: (target.width * f64::from(REFINEMENT)).min(WIDTH_MAX),
            ..*goal
        };
        passes.push(target);
    }
    passes.reverse();
    passes
}
