//! Multiple Loss Ratio search (MLRsearch, RFC 9971): the highest rates at which no more than given parts of what is offered are lost,
//! several of them in one search.
//!
//! Sections named here are those of RFC 9971. This file has its terms: search goals (4.6), how the trials at a load classify it (4.7.2, 6.1,
//! Appendix A), and what is reported (4.8). [`Search`] is the Controller (4.9.2), which chooses what to try next; it has neither clock nor
//! network. Whoever drives it is Manager and Measurer (4.9.1, 4.9.3).

mod search;
#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::{Result, ensure};

pub use search::{Limits, Search};

/// Sums of durations that differ by less are the same.
const SAME_S: f64 = 1e-9;

/// A Search Goal (section 4.6.7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Goal Loss Ratio (4.6.3): a trial that loses a larger part is a high-loss trial.
    pub loss_ratio: f64,
    /// Goal Exceed Ratio (4.6.4): the part of the time at a lower bound that high-loss trials may take.
    pub exceed_ratio: f64,
    /// Goal Initial Trial Duration (4.6.6): no trial for this goal is shorter.
    pub initial_trial: Duration,
    /// Goal Final Trial Duration (4.6.1): only trials as long as this make a lower bound.
    pub final_trial: Duration,
    /// Goal Duration Sum (4.6.2): so much time of such trials decides on a load.
    pub duration_sum: Duration,
    /// Goal Width (4.6.5): how far apart the relevant bounds may be at the end, as a part of the upper one.
    pub width: f64,
}

impl Goal {
    /// The non-drop rate: nothing is lost. A load whose trial loses something is tried once more, as in ETSI TST 009 (section 4.10.3).
    #[must_use]
    pub fn ndr(trial: Duration, width: f64) -> Self {
        Self {
            loss_ratio: 0.0,
            exceed_ratio: 0.5,
            initial_trial: trial,
            final_trial: trial,
            duration_sum: trial * 2,
            width,
        }
    }

    /// The partial drop rate: the same, but a part of the packets may be lost.
    #[must_use]
    pub fn pdr(loss_ratio: f64, trial: Duration, width: f64) -> Self {
        Self {
            loss_ratio,
            ..Self::ndr(trial, width)
        }
    }

    /// Whether its attributes are such as section 4.6 asks for.
    fn check(&self) -> Result<()> {
        let ratios = [self.loss_ratio, self.exceed_ratio];
        ensure!(
            ratios.iter().all(|ratio| (0.0..1.0).contains(ratio)),
            "a ratio of a goal is not from zero to below one: {self:?}"
        );
        ensure!(
            self.width > 0.0 && self.width < 1.0,
            "the width of a goal is a part of a load: {self:?}"
        );
        ensure!(
            !self.initial_trial.is_zero() && self.initial_trial <= self.final_trial,
            "the first trials of a goal are longer than its last, or take no time: {self:?}"
        );
        ensure!(!self.duration_sum.is_zero(), "a goal without time: {self:?}");
        Ok(())
    }

    fn is_high_loss(&self, trial: &TrialResult) -> bool {
        trial.loss_ratio > self.loss_ratio
    }

    fn is_full_length(&self, trial: &TrialResult) -> bool {
        trial.duration >= self.final_trial
    }

    /// What the trials at one load, of whatever durations, say of it (section 6.1, Appendix A).
    #[must_use]
    pub fn classify(&self, trials: &[TrialResult]) -> Class {
        let sum = |full_length: bool, high_loss: bool| {
            let such = trials.iter().filter(|trial| {
                self.is_full_length(trial) == full_length && self.is_high_loss(trial) == high_loss
            });
            such.map(|trial| trial.duration.as_secs_f64()).sum::<f64>()
        };
        // Short trials that lose little outweigh short ones that lose much, and prove nothing beyond that.
        let outweighed = sum(false, false) * self.exceed_ratio / (1.0 - self.exceed_ratio);
        let high_loss = sum(true, true) + (sum(false, true) - outweighed).max(0.0);
        let low_loss = sum(true, false);
        let whole = (high_loss + low_loss).max(self.duration_sum.as_secs_f64());
        let tolerated = whole * self.exceed_ratio + SAME_S;
        if high_loss > tolerated {
            // Even if all trials that are still missing lose little.
            Class::Upper
        } else if whole - low_loss <= tolerated {
            // Even if all of them lose much.
            Class::Lower
        } else {
            Class::Undecided
        }
    }

    /// Conditional Throughput (section 4.8.3, 6.2, Appendix B): the forwarding rate of the full-length trial at this quantile by loss; what
    /// is missing of the duration sum counts as time in which all is lost. None without a full-length trial.
    #[must_use]
    pub fn conditional_throughput(&self, load: f64, trials: &[TrialResult]) -> Option<f64> {
        let mut full_length: Vec<_> = trials.iter().filter(|trial| self.is_full_length(trial)).collect();
        full_length.sort_by(|one, other| one.loss_ratio.total_cmp(&other.loss_ratio));
        let least_lossy = full_length.first()?;
        let seconds = |trial: &TrialResult| trial.duration.as_secs_f64();
        let measured: f64 = full_length.iter().map(|trial| seconds(trial)).sum();
        let whole = measured.max(self.duration_sum.as_secs_f64());
        let quantile = whole * (1.0 - self.exceed_ratio) - SAME_S;
        let mut passed = 0.0;
        let mut loss_ratio = least_lossy.loss_ratio;
        for trial in full_length {
            if passed >= quantile {
                break;
            }
            loss_ratio = trial.loss_ratio;
            passed += seconds(trial);
        }
        if passed < quantile {
            loss_ratio = 1.0;
        }
        Some(load * (1.0 - loss_ratio))
    }
}

/// Trial Input (section 4.5.3): what is to be tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Trial Load (4.5.2), in whatever unit the limits are.
    pub load: f64,
    /// Trial Duration (4.5.1).
    pub duration: Duration,
}

/// Trial Output (section 4.5.9): what came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Output {
    /// Trial Loss Ratio (4.5.6).
    pub loss_ratio: f64,
    /// All the time that it took, which the limit of time is about. The Trial Effective Duration (4.5.8) is the Trial Duration.
    pub took: Duration,
}

/// A trial at some load, as classification needs it (section 4.5.10).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrialResult {
    /// Trial Duration.
    pub duration: Duration,
    /// Trial Loss Ratio.
    pub loss_ratio: f64,
}

/// What a load is to a goal (section 4.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Upper Bound: it fails the goal, however trials up to the duration sum end.
    Upper,
    /// Lower Bound: it meets the goal, however they end.
    Lower,
    /// More trials are needed.
    Undecided,
}

/// What was found for a goal (section 4.8.4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GoalResult {
    /// The goal.
    pub goal: Goal,
    /// Relevant Lower Bound (4.8.2): the largest lower bound below every upper bound. Of an irregular result that lacks an upper bound, the
    /// largest lower bound.
    pub relevant_lower: Option<f64>,
    /// Relevant Upper Bound (4.8.1): the smallest upper bound.
    pub relevant_upper: Option<f64>,
    /// At the relevant lower bound (4.8.3).
    pub conditional_throughput: Option<f64>,
    /// Why it is an Irregular Goal Result, if it is one (4.8.4.2).
    pub irregular: Option<Irregular>,
}

/// Why bounds are missing, or too far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irregular {
    /// The largest load that may be tried is a lower bound.
    MaxLoad,
    /// The smallest load that may be tried is an upper bound.
    MinLoad,
    /// There was no time, or no trial, left.
    Limit,
}
