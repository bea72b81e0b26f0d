//! What a packet costs with many SAs and many flows, and what several workers carry (`tests/examples/soft_bench.rs --curves`).

use anyhow::Result;

use super::report::Side;
use super::results::Curve;
use super::{Report, built_example, figures_with, named};

const SITES: [u32; 5] = [1, 64, 1_000, 10_000, 60_000];
const FLOWS: [u32; 5] = [64, 1_024, 10_240, 102_400, 1_000_000];

pub(super) fn run(short: bool) -> Result<Report> {
    let program = built_example("soft_bench", &[])?;
    let figures = figures_with(&program, &["--curves"], short)?;
    let mut report = Report::new("curves");
    let workers: Vec<u32> = (1..)
        .take(figures.iter().filter(|one| one.name.ends_with("workers")).count())
        .collect();
    let curves: [(&str, &str, &[u32]); 3] = [
        ("sites", "ns", &SITES),
        ("flows", "ns", &FLOWS),
        ("workers", "Mpps", &workers),
    ];
    for (of, unit, sizes) in curves {
        let points = sizes
            .iter()
            .map(|size| Ok((*size, named(&figures, &format!("{size} {of}"))?)))
            .collect::<Result<Vec<_>>>()?;
        if let ([(least, first), ..], [.., (most, last)]) = (points.as_slice(), points.as_slice())
            && unit == "ns"
        {
            let [ours, theirs] = [last.side(&last.name), first.side(&first.name)];
            report.compare(
                format!("a packet with {most} {of} beside {least}"),
                unit,
                ours,
                theirs,
            );
        }
        report.curve(Curve::new(of, of, unit, points));
    }
    for of in ["", ", one site"] {
        let [alone, all] = [1, workers.len()].map(|count| named(&figures, &format!("{count} workers{of}")));
        let (alone, all) = (alone?, all?);
        let of_each = all
            .samples
            .iter()
            .map(|mpps| mpps / workers.len() as f64)
            .collect();
        report.compare(
            format!("packets of each worker, all at work{of}, beside one alone"),
            "Mpps",
            Side::new(format!("of {}", workers.len()), of_each),
            alone.side("alone"),
        );
    }
    figures.into_iter().for_each(|figure| report.figure(figure));
    Ok(report)
}
