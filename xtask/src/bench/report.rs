//! Two sides measured in turn, and what came of it: medians, spread, ratio; as text and as JSON.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::median;
use super::mlrsearch::{GoalResult, Irregular};

/// What searches of a rate (MLRsearch, RFC 9971) say beside the rate, one a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Searches {
    /// Goal attributes.
    pub goal: Attributes,
    /// Relevant lower and upper bounds, as far as there are any.
    pub bounds: Vec<[Option<f64>; 2]>,
    /// Of each search that has no regular result, why.
    pub irregular: Vec<String>,
}

/// What a search was for, as a report has to say (RFC 9971 section 4.9.3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    /// Goal Loss Ratio.
    pub loss_ratio: f64,
    /// Goal Exceed Ratio.
    pub exceed_ratio: f64,
    /// Goal Initial Trial Duration.
    pub initial_trial_s: f64,
    /// Goal Final Trial Duration.
    pub final_trial_s: f64,
    /// Goal Duration Sum.
    pub duration_sum_s: f64,
    /// Goal Width: the distance of the bounds as a part of the upper one.
    pub width: f64,
}

impl Searches {
    /// Adds what a search for the same goal found.
    pub fn add(&mut self, result: &GoalResult) {
        let goal = &result.goal;
        self.goal = Attributes {
            loss_ratio: goal.loss_ratio,
            exceed_ratio: goal.exceed_ratio,
            initial_trial_s: goal.initial_trial.as_secs_f64(),
            final_trial_s: goal.final_trial.as_secs_f64(),
            duration_sum_s: goal.duration_sum.as_secs_f64(),
            width: goal.width,
        };
        self.bounds.push([result.relevant_lower, result.relevant_upper]);
        self.irregular.extend(result.irregular.map(|why| {
            let why = match why {
                Irregular::MaxLoad => "nothing more was lost at the largest load",
                Irregular::MinLoad => "too much was lost at the smallest load",
                Irregular::Limit => "no time or trial was left",
            };
            why.to_owned()
        }));
    }

    /// For a table: medians of the bounds that there are, and results that are not regular.
    #[must_use]
    pub fn text(&self) -> String {
        let bound = |which: usize| {
            let known = self.bounds.iter().filter_map(|bounds| bounds[which]).collect();
            number(median(known))
        };
        let mut text = format!("bounds {} and {}", bound(0), bound(1));
        if !self.irregular.is_empty() {
            let (some, all) = (self.irregular.len(), self.bounds.len());
            text += &format!(", IRREGULAR {some} of {all}: {}", self.irregular.join("; "));
        }
        text
    }
}

/// One side's figures, a round each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Who it is.
    pub name: String,
    /// In the order of the rounds.
    pub samples: Vec<f64>,
    /// Of a rate that was searched.
    pub searches: Option<Searches>,
}

impl Side {
    /// What was measured of `name`.
    pub fn new(name: impl Into<String>, samples: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            samples,
            searches: None,
        }
    }

    /// The middle sample.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(self.samples.clone())
    }

    /// From the least to the largest sample, as a part of the median, or of the largest where the median is zero; of one
    /// sample, zero.
    #[must_use]
    pub fn spread(&self) -> f64 {
        let least = self.samples.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // All of them may be zero: nothing was lost.
        if largest <= least {
            return 0.0;
        }
        let median = self.median();
        (largest - least) / if median > 0.0 { median } else { largest }
    }

    /// The spread for a table; one sample has none to tell of.
    #[must_use]
    pub fn spread_text(&self) -> String {
        match self.samples.as_slice() {
            [_] => "once".to_owned(),
            _ => format!("{:.0} %", self.spread() * 100.0),
        }
    }

    fn json(&self) -> Value {
        let mut json = json!({
            "name": self.name,
            "median": self.median(),
            "spread": self.spread(),
            "samples": self.samples,
        });
        if let Some(searches) = &self.searches {
            json["searches"] = json!(searches);
        }
        json
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
}

impl Comparison {
    /// How many times as good as the other we are.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let ratio = self.ours.median() / self.theirs.median();
        if self.less_is_better { 1.0 / ratio } else { ratio }
    }

    /// All of it, with what follows from the samples.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours.json(),
            "theirs": self.theirs.json(),
            "ratio": self.ratio(),
        })
    }
}

/// A figure by itself; what a program of the bench prints for `xtask` to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Of the samples.
    pub unit: String,
    /// In the order of the rounds.
    pub samples: Vec<f64>,
    /// Of a rate that was searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searches: Option<Searches>,
}

impl Figure {
    /// What was measured of `name`.
    pub fn new(name: impl Into<String>, unit: &str, samples: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            unit: unit.to_owned(),
            samples,
            searches: None,
        }
    }

    /// The same as a side of a comparison, by another name.
    pub fn side(&self, name: impl Into<String>) -> Side {
        Side {
            searches: self.searches.clone(),
            ..Side::new(name, self.samples.clone())
        }
    }

    /// Whether it is a measurement.
    ///
    /// # Errors
    /// It has no sample, or one that is no number.
    fn check(&self) -> Result<()> {
        let (name, searches) = (&self.name, &self.searches);
        ensure!(
            !self.samples.is_empty(),
            "{name}: nothing was measured; {searches:?}"
        );
        ensure!(
            self.samples.iter().all(|sample| sample.is_finite()),
            "{name}: what was measured is no number: {:?}",
            self.samples
        );
        Ok(())
    }

    /// All of it, with what follows from the samples.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut json = self.side(&self.name).json();
        json["unit"] = self.unit.clone().into();
        json
    }
}

/// The one document that a program of the bench prints.
#[derive(Serialize, Deserialize)]
struct Document {
    figures: Vec<Figure>,
}

/// Prints what a program of the bench measured: with `json` as a document for [`read`], else a line each.
///
/// # Errors
/// A figure is no number, or there is none.
pub fn emit(figures: Vec<Figure>, json: bool) -> Result<()> {
    figures.iter().try_for_each(Figure::check)?;
    if json {
        println!("{}", serde_json::to_string(&Document { figures })?);
        return Ok(());
    }
    for figure in figures {
        let (side, unit) = (figure.side(&figure.name), &figure.unit);
        let (median, spread) = (number(side.median()), side.spread_text());
        let searches = side
            .searches
            .as_ref()
            .map(|searches| format!(", {}", searches.text()));
        println!(
            "{:<48} {median:>9} {unit:<6} (spread {spread}{})",
            side.name,
            searches.unwrap_or_default()
        );
    }
    Ok(())
}

/// Reads what a program of the bench printed with `--json`.
///
/// # Errors
/// It is not such a document, or a figure in it is no measurement.
pub fn read(text: &str) -> Result<Vec<Figure>> {
    let document: Document = serde_json::from_str(text).context("the output of a program of the bench")?;
    document.figures.iter().try_for_each(Figure::check)?;
    Ok(document.figures)
}

/// Whether of two figures of this unit the smaller is the better one: times and sizes, not rates.
#[must_use]
pub fn less_is_better(unit: &str) -> bool {
    !(unit.ends_with("pps") || ["1/s", "Gbit/s"].contains(&unit))
}

/// Three digits that count, or all of a whole number.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::mlrsearch::Goal;
    use super::*;

    fn comparison(ours: &[f64], theirs: &[f64], less_is_better: bool) -> Comparison {
        let side = |name: &str, samples: &[f64]| Side::new(name, samples.to_vec());
        Comparison {
            name: "case".to_owned(),
            unit: "kpps",
            ours: side("gateway", ours),
            theirs: side("nftables", theirs),
            less_is_better,
        }
    }

    #[test]
    fn a_rate_is_better_when_it_is_more_and_a_time_when_it_is_less() {
        let rate = comparison(&[400.0, 420.0, 380.0], &[90.0, 100.0, 110.0], false);
        assert_eq!(rate.ratio(), 4.0);
        let time = comparison(&[50.0], &[150.0], true);
        assert_eq!(time.ratio(), 3.0);
    }

    #[test]
    fn a_spread_about_zero_is_finite() {
        let spread = |samples: &[f64]| Side::new("lost", samples.to_vec()).spread();
        assert_eq!(spread(&[0.0, 0.0, 0.5]), 1.0);
        assert_eq!(spread(&[0.0, 0.0]), 0.0);
        assert_eq!(spread(&[2.0, 4.0, 5.0]), 0.75);
        let text = |samples: &[f64]| Side::new("lost", samples.to_vec()).spread_text();
        assert_eq!([text(&[3.0]), text(&[2.0, 4.0, 5.0])], ["once", "75 %"]);
    }

    #[test]
    fn the_json_has_name_unit_medians_spread_and_ratio() {
        let json = comparison(&[300.0], &[100.0, 120.0], false).json();
        assert_eq!(json["ratio"], 3.0);
        assert_eq!(json["unit"], "kpps");
        assert_eq!(json["theirs"]["spread"], 0.2);
        assert_eq!(json["ours"]["samples"][0], 300.0);
    }

    #[test]
    fn what_a_program_prints_is_read_as_it_was() {
        let figures = vec![Figure::new("wan", "ns", vec![30.0, 31.5, 29.0])];
        let text = serde_json::to_string(&Document {
            figures: figures.clone(),
        });
        assert_eq!(read(&text.unwrap()).unwrap(), figures);
        assert!(read("wan 30 ns").is_err());
        let json = figures[0].json();
        assert_eq!((&json["median"], &json["unit"]), (&30.0.into(), &"ns".into()));
    }

    #[test]
    fn a_measurement_that_failed_or_is_empty_is_neither_printed_nor_read() {
        for samples in [vec![], vec![f64::NAN], vec![1.0, f64::INFINITY]] {
            assert!(
                emit(vec![Figure::new("wan", "ns", samples.clone())], true).is_err(),
                "{samples:?}"
            );
        }
        let empty = r#"{"figures":[{"name":"wan","unit":"ns","samples":[]}]}"#;
        let said = read(empty).unwrap_err().to_string();
        assert!(said.contains("wan: nothing was measured"), "{said}");
    }

    #[test]
    fn what_a_search_found_is_told_with_its_bounds_and_marked_where_it_is_irregular() {
        let goal = Goal::pdr(0.005, Duration::from_millis(100), 0.02);
        let result = |lower, upper, irregular| GoalResult {
            goal,
            relevant_lower: lower,
            relevant_upper: upper,
            conditional_throughput: lower,
            irregular,
        };
        let mut searches = Searches::default();
        searches.add(&result(Some(630.0), Some(640.0), None));
        assert_eq!(searches.text(), "bounds 630 and 640");
        searches.add(&result(Some(700.0), None, Some(Irregular::MaxLoad)));
        searches.add(&result(None, Some(9.0), Some(Irregular::MinLoad)));
        let text = searches.text();
        assert!(
            text.starts_with("bounds 630 and 9.00, IRREGULAR 2 of 3"),
            "{text}"
        );
        let figure = Figure {
            searches: Some(searches),
            ..Figure::new("to the center, PDR | xdp", "kpps", vec![630.0, 700.0])
        };
        let text = serde_json::to_string(&Document {
            figures: vec![figure.clone()],
        });
        assert_eq!(read(&text.unwrap()).unwrap(), std::slice::from_ref(&figure));
        let json = figure.side("xdp").json();
        assert_eq!(json["searches"]["goal"]["loss_ratio"], 0.005);
        assert_eq!(json["searches"]["goal"]["duration_sum_s"], 0.2);
        assert_eq!(json["searches"]["bounds"][1], json!([700.0, null]));
        assert_eq!(json["searches"]["irregular"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn rates_are_better_when_larger_and_all_else_when_smaller() {
        for rate in ["kpps", "Mpps", "Gbit/s", "1/s"] {
            assert!(!less_is_better(rate), "{rate}");
        }
        for cost in ["ns", "ms", "MiB", "ms/s"] {
            assert!(less_is_better(cost), "{cost}");
        }
    }
}
