//! Load for the whole gateway in the lab (`tests/examples/load_bench`): what goes through, how long it takes, what is lost
//! when something changes. The gateway with either engine beside strongSwan.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::report::{Figure, Side};
use super::{Report, built_example, figures_with};

const PEER: &str = "strongSwan";
/// What any gateway could reach at most; a comparison of its own for each case.
const LIMIT: &str = "bare AF_XDP";

/// A part that the program measures by the same name.
pub(super) fn run(part: &'static str, short: bool) -> Result<Report> {
    let program = built_example("load_bench", &["compare"])?;
    // It gives each of its threads and processes a core.
    let figures = figures_with(&program, &[part], short)?;
    let mut cases: BTreeMap<String, (&'static str, Vec<Side>)> = BTreeMap::new();
    for figure in &figures {
        let (case, side) = figure.name.split_once(" | ").context("a figure without a side")?;
        let sides = cases
            .entry(case.to_owned())
            .or_insert((unit(figure)?, Vec::new()));
        sides.1.push(figure.side(side));
    }
    let mut report = Report::new(part);
    for (case, (unit, sides)) in cases {
        let (limits, sides): (Vec<_>, Vec<_>) = sides.into_iter().partition(|side| side.name == LIMIT);
        let (peers, ours): (Vec<_>, Vec<_>) = sides.into_iter().partition(|side| side.name == PEER);
        match peers.first() {
            // Nothing is lost, most of the time, and what is offered is no merit: there is no ratio to that.
            Some(peer) if !["ms", "kpps offered"].contains(&unit) => {
                for side in ours {
                    for limit in &limits {
                        let case = format!("{case}, beside the limit");
                        report.compare(case, unit, side.clone(), limit.clone());
                    }
                    report.compare(case.clone(), unit, side, peer.clone());
                }
            }
            Some(_) | None => {
                for side in ours.into_iter().chain(peers).chain(limits) {
                    report.figure(Figure::new(format!("{case}: {}", side.name), unit, side.samples));
                }
            }
        }
    }
    Ok(report)
}

fn unit(figure: &Figure) -> Result<&'static str> {
    let known = ["kpps", "kpps offered", "ns", "us", "ms"]
        .into_iter()
        .find(|unit| *unit == figure.unit);
    known.with_context(|| {
        format!(
            "{} is measured in {:?}, which no part expects",
            figure.name, figure.unit
        )
    })
}
