//! Load for a whole gateway, ours with either engine and strongSwan in its place, in the lab: how many packets go through,
//! how long they take, and how many are lost when something changes.
//!
//! `cargo run -p gateway-tests --release --features compare --example load_bench -- through|latency|blocked [--json] [--short] [--rounds N]`;
//! needs root and the release build of the gateway. `cargo xtask bench` runs it. With `--line` packet sockets send, not a
//! program (`live`), which costs about as much as what is measured.
//!
//! The site of this program makes its tunnel by IKE and seals by itself ahead of time, so that only what is measured is slow.
//! Who sends is on the first core, what is measured on the last, with all of its threads; what the kernel does when a packet
//! arrives on a virtual cable it does on the sender's core. What the receiver's interface counts is what counts.

mod bare;
mod blocked;
mod busy;
mod ends;
mod latency;
mod live;
mod load;
mod packet;
mod side;
mod sink;
mod site;
mod through;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use xtask::bench::mlrsearch::GoalResult;
use xtask::bench::report::{Figure, Searches, emit};

use crate::ends::Generator;

/// Samples by case, unit and side.
type Samples = BTreeMap<(String, &'static str, &'static str), Series>;

/// What was measured of one, a round each, and what searches that found it say beside.
#[derive(Default)]
struct Series {
    samples: Vec<f64>,
    searches: Option<Searches>,
}

fn add(samples: &mut Samples, case: &str, unit: &'static str, side: &'static str, value: f64) {
    let key = (case.to_owned(), unit, side);
    samples.entry(key).or_default().samples.push(value);
}

/// Adds the conditional throughput that a search found, and its bounds.
fn add_search(samples: &mut Samples, case: &str, side: &'static str, result: &GoalResult) {
    let series = samples.entry((case.to_owned(), "kpps", side)).or_default();
    series.samples.extend(result.conditional_throughput);
    series.searches.get_or_insert_default().add(result);
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |wanted: &str| words.iter().any(|word| word == wanted);
    let rounds = words.iter().skip_while(|word| *word != "--rounds").nth(1);
    let rounds = rounds.map(|word| word.parse().context("--rounds")).transpose()?;
    let short = has("--short");
    let generator = if has("--line") {
        Generator::Line
    } else {
        Generator::Live
    };
    let mut samples = match words.first().map(String::as_str) {
        Some("through") => through::run(short, rounds, generator)?,
        Some("latency") => latency::run(short, rounds, generator)?,
        Some("blocked") => blocked::run(short, rounds)?,
        _ => bail!("what is to be measured: through, latency or blocked"),
    };
    if short {
        // It shows that all of it runs; what nothing was found of on a machine that has other work to do is left out.
        samples.retain(|(case, _, side), series| {
            let found = !series.samples.is_empty();
            if !found {
                let why = series.searches.as_ref().map(Searches::text).unwrap_or_default();
                eprintln!("no figure: {case}, {side}: {why}");
            }
            found
        });
    }
    // As `xtask` takes them apart again.
    let figures = samples.into_iter().map(|((case, unit, side), series)| Figure {
        searches: series.searches,
        ..Figure::new(format!("{case} | {side}"), unit, series.samples)
    });
    emit(figures.collect(), has("--json"))
}
