//! A worker over rings in memory (`tests/examples/soft_bench.rs`), beside what others have published.

use anyhow::Result;

use super::report::{Figure, Side};
use super::{Report, built_example, figures, named};

const GCM: &str = "aes256gcm16";
const CBC: &str = "aes256-sha256";
/// Case, our figure, and whose figure was published: of another machine, so that the ratio says little more than the order
/// of size.
const PUBLISHED: [(&str, &str, &str, f64); 3] = [
    // Snabb, SoftBench, one core of a Ryzen 1600, 60 octets.
    ("64 octets beside a published figure", "64", "Vita", 2.80),
    ("IMIX beside a published figure", "IMIX", "Vita", 1.77),
    // AES-128-GCM, one core of a 2.1 GHz Xeon.
    ("IMIX beside a figure published of AES-128", "IMIX", "VPP", 2.13),
];

pub(super) fn run(short: bool) -> Result<Report> {
    let program = built_example("soft_bench", &[])?;
    // It pins itself: its memory is to be of that core from the start.
    let figures = figures(&program, short)?;
    let name = |suite: &str, mix: &str, flows: &str, way: &str| format!("{suite}, {mix}, {flows}, {way}");
    let mut report = Report::new("soft");
    for (case, mix, whose, published) in PUBLISHED {
        let ours = named(&figures, &name(GCM, mix, "1 flow", "inbound"))?;
        report.compare(
            case,
            "Mpps",
            ours.side("gateway"),
            Side::new(whose, vec![published]),
        );
    }
    for mix in ["64", "IMIX", "1400"] {
        let of = |suite, flows| named(&figures, &name(suite, mix, flows, "inbound"));
        let [one, many, cbc] = [of(GCM, "1 flow")?, of(GCM, "1024 flows")?, of(CBC, "1 flow")?];
        let case = format!("{mix}: many flows beside one");
        report.compare(case, "Mpps", many.side("1,024 flows"), one.side("1 flow"));
        let case = format!("{mix}: CBC beside GCM");
        report.compare(case, "Mpps", cbc.side("CBC"), one.side("GCM"));
    }
    figures
        .into_iter()
        .for_each(|figure: Figure| report.figure(figure));
    Ok(report)
}
