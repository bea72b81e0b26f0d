//! Two sides measured in turn, and what came of it: medians, spread, ratio; as text and as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::median;

/// One side's figures, a round each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// Who it is.
    pub name: String,
    /// In the order of the rounds.
    pub samples: Vec<f64>,
}

impl Side {
    /// The middle sample.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(self.samples.clone())
    }

    /// From the least to the largest sample, as a part of the median; of one sample, zero.
    #[must_use]
    pub fn spread(&self) -> f64 {
        let least = self.samples.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (largest - least) / self.median()
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "median": self.median(),
            "spread": self.spread(),
            "samples": self.samples,
        })
    }
}

/// A figure of ours beside the same figure of something else, from the same run.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What was measured.
    pub name: String,
    /// Of the samples.
    pub unit: &'static str,
    /// Ours.
    pub ours: Side,
    /// The other.
    pub theirs: Side,
    /// Whether less is better, as with time; else more is, as with a rate.
    pub less_is_better: bool,
    /// How many times as good as the other we want to be.
    pub goal: Option<f64>,
}

impl Comparison {
    /// How many times as good as the other we are.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let ratio = self.ours.median() / self.theirs.median();
        if self.less_is_better { 1.0 / ratio } else { ratio }
    }

    /// One line for a terminal.
    #[must_use]
    pub fn line(&self) -> String {
        let side = |side: &Side| {
            let (median, spread) = (side.median(), side.spread() * 100.0);
            format!("{} {median:.1} {} (spread {spread:.0} %)", side.name, self.unit)
        };
        let goal = self.goal.map_or_else(String::new, |goal| {
            let reached = if self.ratio() >= goal { "reached" } else { "missed" };
            format!("; goal {goal:.0}: {reached}")
        });
        let [ours, theirs] = [side(&self.ours), side(&self.theirs)];
        format!("{}: {:.2} times{goal}; {ours}, {theirs}", self.name, self.ratio())
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours.json(),
            "theirs": self.theirs.json(),
            "ratio": self.ratio(),
            "goal": self.goal,
        })
    }
}

/// Writes comparisons, with what else is to be known of the run, to `file`.
///
/// # Errors
/// The file cannot be written.
pub fn save(file: &Path, about: &Value, comparisons: &[Comparison]) -> Result<()> {
    let figures: Vec<Value> = comparisons.iter().map(Comparison::json).collect();
    let text = serde_json::to_string_pretty(&json!({ "about": about, "comparisons": figures }))?;
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::write(file, text + "\n").with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(ours: &[f64], theirs: &[f64], less_is_better: bool) -> Comparison {
        let side = |name: &str, samples: &[f64]| Side {
            name: name.to_owned(),
            samples: samples.to_vec(),
        };
        Comparison {
            name: "case".to_owned(),
            unit: "kpps",
            ours: side("gateway", ours),
            theirs: side("nftables", theirs),
            less_is_better,
            goal: Some(4.0),
        }
    }

    #[test]
    fn a_rate_is_better_when_it_is_more_and_a_time_when_it_is_less() {
        let rate = comparison(&[400.0, 420.0, 380.0], &[90.0, 100.0, 110.0], false);
        assert_eq!(rate.ratio(), 4.0);
        assert_eq!(
            rate.line(),
            "case: 4.00 times; goal 4: reached; gateway 400.0 kpps (spread 10 %), nftables 100.0 kpps (spread 20 %)"
        );
        let time = comparison(&[50.0], &[150.0], true);
        assert_eq!(time.ratio(), 3.0);
        assert!(time.line().contains("goal 4: missed"), "{}", time.line());
    }

    #[test]
    fn the_json_has_name_unit_medians_spread_and_ratio() {
        let json = comparison(&[300.0], &[100.0, 120.0], false).json();
        assert_eq!(json["ratio"], 3.0);
        assert_eq!(json["unit"], "kpps");
        assert_eq!(json["theirs"]["spread"], 0.2);
        assert_eq!(json["ours"]["samples"][0], 300.0);
    }
}
