//! What a part of the bench yields: a table, `target/bench/PART.json` and plots beside it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::floor::{Bound, Floors, Measured};
use super::report::{Comparison, Figure, Side, less_is_better, number};
use super::{machine, plot};
use crate::paths;

/// A cost over a size: what is measured, of each size in turn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    pub(super) name: String,
    /// What the sizes count.
    pub(super) of: &'static str,
    pub(super) unit: &'static str,
    /// Size and median.
    pub(super) points: Vec<(f64, f64)>,
}

impl Curve {
    /// A point for each figure.
    pub(super) fn new(
        name: impl Into<String>,
        of: &'static str,
        unit: &'static str,
        figures: Vec<(u32, &Figure)>,
    ) -> Self {
        let point = |(size, figure): (u32, &Figure)| (f64::from(size), figure.side("").median());
        Self {
            name: name.into(),
            of,
            unit,
            points: figures.into_iter().map(point).collect(),
        }
    }
}

/// The results of a part.
#[derive(Clone, Debug)]
pub(super) struct Report {
    part: &'static str,
    comparisons: Vec<Comparison>,
    figures: Vec<Figure>,
    curves: Vec<Curve>,
}

impl Report {
    pub(super) fn new(part: &'static str) -> Self {
        Self {
            part,
            comparisons: Vec::new(),
            figures: Vec::new(),
            curves: Vec::new(),
        }
    }

    pub(super) fn part(&self) -> &'static str {
        self.part
    }

    /// Adds a figure of ours beside another's.
    pub(super) fn compare(&mut self, name: impl Into<String>, unit: &'static str, ours: Side, theirs: Side) {
        self.comparisons.push(Comparison {
            name: name.into(),
            unit,
            ours,
            theirs,
            less_is_better: less_is_better(unit),
        });
    }

    /// Adds a comparison as it is.
    pub(super) fn add(&mut self, comparison: Comparison) {
        self.comparisons.push(comparison);
    }

    /// Adds a figure that stands alone.
    pub(super) fn figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Adds a curve, which is plotted; its points are figures too.
    pub(super) fn curve(&mut self, curve: Curve) {
        self.curves.push(curve);
    }

    /// Everything that a floor may be for.
    pub(super) fn measured(&self) -> Vec<Measured<'_>> {
        let comparisons = self.comparisons.iter().map(|one| Measured {
            case: &one.name,
            ours: &one.ours.name,
            value: quotient(one),
            more: one.ours.median() - one.theirs.median(),
            unit: one.unit,
        });
        let figures = self.figures.iter().map(|one| {
            let value = one.side("").median();
            Measured {
                case: &one.name,
                ours: "gateway",
                value,
                more: value,
                unit: &one.unit,
            }
        });
        comparisons.chain(figures).collect()
    }

    /// Prints the table and leaves the files.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn publish(&self, floors: &Floors, about: &Value, short: bool) -> Result<()> {
        print!("{}", self.table(floors, short));
        let folder = folder()?;
        let file = folder.join(format!("{}.json", self.part));
        let text = serde_json::to_string_pretty(&self.json(floors, about, short))?;
        fs::write(&file, text + "\n").with_context(|| file.display().to_string())?;
        let plots = plot::all(self.part, &self.comparisons, &self.figures, &self.curves);
        for (name, text) in &plots {
            let file = folder.join(name);
            fs::write(&file, text).with_context(|| file.display().to_string())?;
        }
        println!("  {}; plots: {} beside it\n", file.display(), plots.len());
        Ok(())
    }

    fn table(&self, floors: &Floors, short: bool) -> String {
        let side = |side: &Side, unit: &str| {
            let median = number(side.median());
            format!(
                "{:<12} {median:>8} {unit:<6} {:>6}",
                side.name,
                side.spread_text()
            )
        };
        let heads = ["ours, median and spread", "beside"];
        let mut lines = vec![
            format!("  {:<52}  {:<34}  {:<34}  {:>7}", "", heads[0], heads[1], "ratio")
                .trim_end()
                .to_owned(),
        ];
        for (one, measured) in self.comparisons.iter().zip(self.measured()) {
            let [ours, theirs] = [side(&one.ours, one.unit), side(&one.theirs, one.unit)];
            let ratio = number(measured.value);
            let verdict = self.verdict(floors, &measured, short);
            lines.push(format!(
                "  {:<52}  {ours:<34}  {theirs:<34}  {ratio:>7}{verdict}",
                one.name
            ));
            lines.extend([&one.ours, &one.theirs].into_iter().filter_map(searched));
        }
        let alone = self.measured().split_off(self.comparisons.len());
        for (one, measured) in self.figures.iter().zip(alone) {
            let ours = side(&one.side(""), &one.unit);
            let verdict = self.verdict(floors, &measured, short);
            lines.push(format!("  {:<52}  {ours}{verdict}", one.name));
            lines.extend(searched(&one.side("")));
        }
        lines.join("\n") + "\n"
    }

    fn verdict(&self, floors: &Floors, measured: &Measured<'_>, short: bool) -> String {
        let said = |word: &str, bound: Option<Bound>| {
            let bound = bound?;
            let verdict = if bound.holds(measured) { "ok" } else { "MISSED" };
            Some(format!("  {word} {} {verdict}", bound.text()))
        };
        let floor = said("floor", floors.bound(self.part, measured, short));
        let goal =
            said("goal", floors.goal(self.part, measured)).map(|text| text.replace("MISSED", "missed"));
        [floor, goal].into_iter().flatten().collect()
    }

    fn json(&self, floors: &Floors, about: &Value, short: bool) -> Value {
        let measured = self.measured();
        let all = self
            .comparisons
            .iter()
            .map(Comparison::json)
            .chain(self.figures.iter().map(Figure::json));
        let mut all: Vec<Value> = all.collect();
        for (json, measured) in all.iter_mut().zip(&measured) {
            json["floor"] = bound_json(floors.bound(self.part, measured, short));
            json["goal"] = bound_json(floors.goal(self.part, measured));
        }
        for (json, comparison) in all.iter_mut().zip(&self.comparisons) {
            json["quotient"] = quotient(comparison).into();
        }
        let figures = all.split_off(self.comparisons.len());
        json!({
            "part": self.part,
            "short": short,
            "machine": about,
            "comparisons": all,
            "figures": figures,
            "curves": self.curves.iter().map(|curve| json!({
                "name": curve.name, "of": curve.of, "unit": curve.unit, "points": curve.points,
            })).collect::<Vec<_>>(),
        })
    }
}

/// What a search of a side's rate says beside it.
fn searched(side: &Side) -> Option<String> {
    let searches = side.searches.as_ref()?;
    Some(format!("    {} {}", side.name, searches.text()))
}

/// Ours by theirs, as floors are given.
fn quotient(comparison: &Comparison) -> f64 {
    comparison.ours.median() / comparison.theirs.median()
}

fn bound_json(bound: Option<Bound>) -> Value {
    bound.map_or(Value::Null, |bound| {
        let (key, value) = bound.entry();
        json!({ key: value })
    })
}

/// `target/bench`.
fn folder() -> Result<PathBuf> {
    let folder = paths::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// What a run says of the machine, once for all parts.
pub(super) fn about() -> Value {
    let about = machine::about();
    println!("{}", machine::line(&about));
    about
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_json_have_floor_goal_and_what_was_measured() {
        let floors: Floors = toml::from_str(
            "[[floor]]\npart = \"programs\"\ncases = [\"wan\"]\nat_most = 8\ngoal = 2.5\nwhy = \"measured 5\"\n",
        )
        .unwrap();
        let mut report = Report::new("programs");
        let side = |name: &str, samples: &[f64]| Side::new(name, samples.to_vec());
        report.compare(
            "wan",
            "ns",
            side("gateway", &[30.0, 35.0, 40.0]),
            side("XDP_PASS", &[7.0]),
        );
        report.figure(Figure::new("pass, runs of 200", "ns", vec![9.0]));
        let table = report.table(&floors, false);
        let line = table.lines().nth(1).unwrap();
        for word in [
            "gateway          35.0 ns",
            "29 %",
            "XDP_PASS         7.00 ns       once",
            "5.00",
            "floor <= 8.00 ok",
            "goal <= 2.50 missed",
        ] {
            assert!(line.contains(word), "{word:?} in {line:?}");
        }
        assert!(
            !report.table(&floors, true).contains("floor"),
            "no floor of short runs"
        );
        let json = report.json(&floors, &json!({ "cpu": "x" }), false);
        assert_eq!(json["comparisons"][0]["quotient"], 5.0);
        assert_eq!(json["comparisons"][0]["floor"]["at_most"], 8.0);
        assert_eq!(json["comparisons"][0]["goal"]["at_most"], 2.5);
        assert_eq!(json["figures"][0]["median"], 9.0);
        assert_eq!(json["machine"]["cpu"], "x");
    }
}
