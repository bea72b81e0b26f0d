//! What must not be missed: `xtask/bench/floor.toml`, held against the results of a run.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::report::{less_is_better, number};
use super::results::Report;

/// The file, as it was when this program was built.
const FILE: &str = include_str!("../../bench/floor.toml");
/// Its path in the repository, for messages.
const PATH: &str = "xtask/bench/floor.toml";

/// A bound on some cases of a part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Floor {
    part: String,
    /// Names of comparisons, or of figures that stand alone.
    cases: Vec<String>,
    /// Whose figures; all of them if it is not said.
    ours: Option<String>,
    /// Of a rate: as many times the peer's.
    at_least: Option<f64>,
    /// Of a time or size: as many times the peer's; of a figure alone, in its unit.
    at_most: Option<f64>,
    /// Of a time: so many more than the peer's, in its unit. Where the peer does next to nothing, as a bare `XDP_PASS`, what machines
    /// need for that differs far more than what they need for the rest.
    at_most_more: Option<f64>,
    /// In place of that in a short run, which is rough; without it a short run is not held against this.
    short: Option<f64>,
    /// Of a case that short runs alone have: a full one measures it by another name. The bound says then only which way it goes.
    #[serde(default)]
    short_alone: bool,
    /// What is aimed at.
    goal: Option<f64>,
    /// Why this number.
    why: String,
}

/// What a run is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    /// As many times the peer's.
    Least(f64),
    /// As many times the peer's; of a figure alone, in its unit.
    Most(f64),
    /// More than the peer's, in its unit.
    MostMore(f64),
}

impl Bound {
    /// What is held against this bound.
    fn of(self, measured: &Measured<'_>) -> f64 {
        match self {
            Self::Least(_) | Self::Most(_) => measured.value,
            Self::MostMore(_) => measured.more,
        }
    }

    /// Whether this is good enough; what is no number is not.
    pub(super) fn holds(self, measured: &Measured<'_>) -> bool {
        let value = self.of(measured);
        match self {
            Self::Least(bound) => value >= bound,
            Self::Most(bound) | Self::MostMore(bound) => value <= bound,
        }
    }

    fn less_is_better(self) -> bool {
        !matches!(self, Self::Least(_))
    }

    /// For a table.
    pub(super) fn text(self) -> String {
        match self {
            Self::Least(bound) => format!(">= {}", number(bound)),
            Self::Most(bound) => format!("<= {}", number(bound)),
            Self::MostMore(bound) => format!("<= +{}", number(bound)),
        }
    }

    /// For a file: its key and value, as in the repository's.
    pub(super) fn entry(self) -> (&'static str, f64) {
        match self {
            Self::Least(bound) => ("at_least", bound),
            Self::Most(bound) => ("at_most", bound),
            Self::MostMore(bound) => ("at_most_more", bound),
        }
    }
}

/// Something measured that a floor may be for.
#[derive(Clone, Debug)]
pub(super) struct Measured<'a> {
    pub(super) case: &'a str,
    pub(super) ours: &'a str,
    /// Times the peer's; of a figure alone, in its unit.
    pub(super) value: f64,
    /// How much more than the peer's, in its unit; of a figure alone, as above.
    pub(super) more: f64,
    pub(super) unit: &'a str,
}

/// All floors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Floors {
    floor: Vec<Floor>,
}

impl Floors {
    /// Those of the repository.
    ///
    /// # Errors
    /// The file is not as it should be.
    pub(super) fn of_repository() -> Result<Self> {
        Self::parse(FILE).with_context(|| PATH.to_owned())
    }

    fn parse(text: &str) -> Result<Self> {
        let floors: Self = toml::from_str(text)?;
        for floor in &floors.floor {
            let name = || format!("the floor of {}, {}", floor.part, floor.cases.join("; "));
            let bounds = [floor.at_least, floor.at_most, floor.at_most_more];
            ensure!(
                bounds.iter().flatten().count() == 1,
                "{} needs one of at_least, at_most and at_most_more",
                name()
            );
            ensure!(!floor.why.trim().is_empty(), "{} says not why", name());
        }
        Ok(floors)
    }

    fn of<'a>(&'a self, part: &'a str, measured: &'a Measured<'_>) -> impl Iterator<Item = &'a Floor> {
        self.floor.iter().filter(move |floor| {
            floor.part == part
                && floor.cases.iter().any(|case| case == measured.case)
                && floor.ours.as_ref().is_none_or(|ours| ours == measured.ours)
        })
    }

    /// What this must not miss.
    pub(super) fn bound(&self, part: &str, measured: &Measured<'_>, short: bool) -> Option<Bound> {
        self.of(part, measured).find_map(|floor| floor.bound(short))
    }

    /// What is aimed at.
    pub(super) fn goal(&self, part: &str, measured: &Measured<'_>) -> Option<Bound> {
        self.of(part, measured).find_map(|floor| {
            let kind = if floor.at_least.is_some() {
                Bound::Least
            } else {
                Bound::Most
            };
            floor.goal.map(kind)
        })
    }

    /// What is wrong with a part's results, a line each; none if all is well.
    pub(super) fn missed(&self, report: &Report, short: bool) -> Vec<String> {
        let part = report.part();
        let measured = report.measured();
        let mut missed = Vec::new();
        for floor in self.floor.iter().filter(|floor| floor.part == part) {
            let Some(bound) = floor.bound(short) else { continue };
            for case in &floor.cases {
                let named = |one: &&Measured<'_>| {
                    one.case == case && floor.ours.as_deref().is_none_or(|ours| ours == one.ours)
                };
                let of_case: Vec<_> = measured.iter().filter(named).collect();
                if of_case.is_empty() {
                    missed.push(format!(
                        "{part}: {PATH} has a floor for {case:?}, which was not measured: give it the name that the table has, or \
                         take it out"
                    ));
                }
                for one in of_case {
                    missed.extend(floor.verdict(one, bound));
                }
            }
        }
        missed
    }
}

impl Floor {
    fn bound(&self, short: bool) -> Option<Bound> {
        let kinds = [
            (self.at_least, Bound::Least as fn(f64) -> Bound),
            (self.at_most, Bound::Most),
            (self.at_most_more, Bound::MostMore),
        ];
        let (value, kind) = kinds.into_iter().find_map(|(value, kind)| Some((value?, kind)))?;
        match (short, self.short_alone) {
            (true, _) => self.short.map(kind),
            (false, true) => None,
            (false, false) => Some(kind(value)),
        }
    }

    fn verdict(&self, one: &Measured<'_>, bound: Bound) -> Option<String> {
        let (part, case, ours) = (&self.part, one.case, one.ours);
        if less_is_better(one.unit) != bound.less_is_better() {
            let wanted = if bound.less_is_better() {
                "at_least"
            } else {
                "at_most"
            };
            return Some(format!(
                "{part}: {case}: {PATH} must say {wanted}: the figures are {}",
                one.unit
            ));
        }
        (!bound.holds(one)).then(|| {
            format!(
                "{part}: {case}: {ours}: measured {}, the floor is {} ({}). Run `cargo xtask bench {part} --check` again on a quiet \
                 machine; if it is missed there too, the change has made this slower: find out where, and move the floor \
                 only with the reason beside it",
                number(bound.of(one)),
                bound.text(),
                self.why.trim()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Figure, Side};
    use super::*;

    const TEXT: &str = r#"
        [[floor]]
        part = "through"
        cases = ["to the center"]
        ours = "xdp"
        at_least = 3.0
        short = 1.5
        goal = 20
        why = "measured 3.5 to 4"

        [[floor]]
        part = "through"
        cases = ["start"]
        at_most = 2.0
        why = "an aim"
    "#;

    fn report(kpps: f64, start_s: f64) -> Report {
        let mut report = Report::new("through");
        let [ours, theirs] = [("xdp", kpps), ("strongSwan", 100.0)];
        let side = |(name, sample): (&str, f64)| Side::new(name, vec![sample]);
        report.compare("to the center", "kpps", side(ours), side(theirs));
        report.figure(Figure::new("start", "s", vec![start_s]));
        report
    }

    #[test]
    fn a_missed_floor_names_case_ratio_floor_and_remedy() {
        let floors = Floors::parse(TEXT).unwrap();
        assert_eq!(floors.missed(&report(310.0, 1.9), false), [""; 0]);
        let missed = floors.missed(&report(200.0, 2.5), false);
        assert_eq!(missed.len(), 2, "{missed:?}");
        for word in ["to the center", "2.00", ">= 3.00", "measured 3.5 to 4", "quiet"] {
            assert!(missed[0].contains(word), "{word}: {}", missed[0]);
        }
        assert!(
            missed[1].contains("start") && missed[1].contains("<= 2.00"),
            "{missed:?}"
        );
    }

    /// Regression: a full run of the bench missed the floor of a case that short ones alone have, so that none could pass.
    #[test]
    fn a_full_run_need_not_have_what_short_ones_alone_measure() {
        let text = "[[floor]]\npart = \"ike\"\ncases = [\"2000 sites\"]\nat_most = 2\nshort = 4\nshort_alone = true\nwhy = \"measured 1.2\"\n";
        let floors = Floors::parse(text).expect("right");
        let report = Report::new("ike");
        assert_eq!(floors.missed(&report, false), [""; 0]);
        assert_eq!(floors.missed(&report, true).len(), 1, "not measured");
    }

    #[test]
    fn a_short_run_is_held_against_short_floors_alone() {
        let floors = Floors::parse(TEXT).unwrap();
        assert_eq!(floors.missed(&report(200.0, 9.0), true), [""; 0]);
        assert_eq!(floors.missed(&report(140.0, 9.0), true).len(), 1);
    }

    #[test]
    fn a_time_may_be_held_against_how_much_more_it_is_than_another() {
        let text = "[[floor]]\npart = \"programs\"\ncases = [\"wan\"]\nat_most_more = 40\nshort = 80\ngoal = 2.5\nwhy = \"measured 21\"\n";
        let floors = Floors::parse(text).unwrap();
        let report = |ours: f64, pass: f64| {
            let mut report = Report::new("programs");
            let [ours, theirs] =
                [("gateway", ours), ("XDP_PASS", pass)].map(|(name, sample)| Side::new(name, vec![sample]));
            report.compare("wan", "ns", ours, theirs);
            report
        };
        assert_eq!(floors.missed(&report(61.0, 21.0), false), [""; 0]);
        assert_eq!(
            floors.missed(&report(47.0, 7.0), false),
            [""; 0],
            "another machine"
        );
        let missed = floors.missed(&report(48.0, 7.0), false);
        assert!(
            missed.len() == 1 && missed[0].contains("measured 41") && missed[0].contains("<= +40"),
            "{missed:?}"
        );
        assert_eq!(floors.missed(&report(87.0, 7.0), true), [""; 0]);
        assert_eq!(floors.missed(&report(88.0, 7.0), true).len(), 1);
        assert_eq!(floors.missed(&report(f64::NAN, 7.0), true).len(), 1);
        let report = report(48.0, 16.0);
        let measured = &report.measured()[0];
        assert_eq!(
            floors.goal("programs", measured),
            Some(Bound::Most(2.5)),
            "a goal is a ratio"
        );
    }

    #[test]
    fn what_is_no_number_or_not_there_or_the_wrong_way_round_is_missed() {
        let floors = Floors::parse(TEXT).unwrap();
        assert_eq!(floors.missed(&report(f64::NAN, 1.0), false).len(), 1);
        let gone = floors.missed(&Report::new("through"), false);
        assert!(
            gone.len() == 2 && gone[0].contains("was not measured"),
            "{gone:?}"
        );
        let wrong = Floors::parse(&TEXT.replace("at_least", "at_most")).unwrap();
        let said = wrong.missed(&report(310.0, 1.0), false);
        assert!(
            said.len() == 1 && said[0].contains("must say at_least"),
            "{said:?}"
        );
    }

    #[test]
    fn a_floor_has_one_bound_and_a_reason() {
        assert!(Floors::parse(&TEXT.replace("at_least = 3.0", "")).is_err());
        assert!(Floors::parse(&TEXT.replace("at_least = 3.0", "at_least = 3.0\nat_most_more = 1")).is_err());
        assert!(Floors::parse(&TEXT.replace("measured 3.5 to 4", " ")).is_err());
        assert!(Floors::parse(&TEXT.replace("goal", "gaol")).is_err());
    }

    #[test]
    fn the_floors_of_the_repository_are_read() {
        assert!(!Floors::of_repository().unwrap().floor.is_empty());
    }
}
