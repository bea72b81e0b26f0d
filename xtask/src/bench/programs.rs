//! Each XDP program by itself (`tests/examples/prog_run_bench.rs`), beside a bare `XDP_PASS` and a BPF hash map.

use anyhow::{Context, Result};

use super::results::Curve;
use super::{Core, Report, built_example, figures, named};

/// Case, its figure, and that of the bare `XDP_PASS` which was repeated as often.
const CASES: [(&str, &str, &str); 8] = [
    ("wan, ESP of a known SA", "wan esp", "pass"),
    (
        "clear, established flow",
        "clear established",
        "pass, runs of 200",
    ),
    ("core, established flow", "core established", "pass, runs of 200"),
    (
        "clear, new flow that is allowed, single runs",
        "clear new flow, single runs",
        "pass, single runs",
    ),
    (
        "clear, new flows one after another, each of a new endpoint",
        "new flow of a new endpoint",
        "pass",
    ),
    (
        "clear, new flows one after another, of 997 endpoints",
        "new flow of 997 endpoints",
        "pass",
    ),
    (
        "clear, new flow that none of 16 rules allows",
        "clear miss, 16 rules",
        "pass",
    ),
    (
        "1,048,576 flows drawn at random",
        "buckets, 1048576 flows",
        "pass",
    ),
];
/// Case, its figure, and that of a program which only draws a flow and sets its frame up, and does nothing with it: what is left is
/// a program that has run for a while.
const STEADY: [(&str, &str, &str); 2] = [
    (
        "one established flow beside drawing it",
        "buckets, 1 flows",
        "drawn, 1 flows",
    ),
    (
        "one flow of answers beside drawing it",
        "answers, 1 flows",
        "drawn, 1 flows",
    ),
];
/// Case and its figures: the flow table, a BPF hash map of the same keys and records.
const TABLES: [(&str, &str, &str); 2] = [
    ("flow table, 1 flow", "buckets, 1 flows", "hash map, 1 flows"),
    (
        "flow table, 1,048,576 flows drawn at random",
        "buckets, 1048576 flows",
        "hash map, 1048576 flows",
    ),
];

/// Sizes of the flow table that are compared.
const FLOWS: [u32; 5] = [1, 1 << 10, 1 << 14, 1 << 17, 1 << 20];

pub(super) fn run(short: bool) -> Result<Report> {
    let program = built_example("prog_run_bench", &["compare"])?;
    let figures = Core::Measured.run(|| figures(&program, short))?;
    let mut report = Report::new("programs");
    for (case, ours, pass) in CASES {
        let [ours, pass] = [named(&figures, ours)?, named(&figures, pass)?];
        report.compare(case, "ns", ours.side("gateway"), pass.side("XDP_PASS"));
    }
    for (case, ours, drawn) in STEADY {
        let [ours, drawn] = [named(&figures, ours)?, named(&figures, drawn)?];
        report.compare(case, "ns", ours.side("gateway"), drawn.side("only drawn"));
    }
    for (case, ours, theirs) in TABLES {
        let [ours, theirs] = [named(&figures, ours)?, named(&figures, theirs)?];
        report.compare(case, "ns", ours.side("gateway"), theirs.side("hash map"));
    }
    // Each draws a flow for each packet.
    for (curve, name) in [
        ("flow table", "buckets"),
        ("hash map", "hash map"),
        ("XDP_PASS", "drawn"),
    ] {
        let points = FLOWS.map(|flows| {
            let figure = figures
                .iter()
                .find(|one| one.name == format!("{name}, {flows} flows"));
            figure
                .map(|figure| (flows, figure))
                .context("a point of the curve of flows")
        });
        let points = points.into_iter().collect::<Result<Vec<_>>>()?;
        report.curve(Curve::new(curve, "flows", "ns", points));
    }
    figures.into_iter().for_each(|figure| report.figure(figure));
    Ok(report)
}
