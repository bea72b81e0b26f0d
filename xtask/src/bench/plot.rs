//! SVG of what was measured: bars with medians and the range of samples, and curves over sizes.

use std::fmt::Write as _;

use super::report::{Comparison, Figure, Side, number};
use super::results::Curve;

const WIDTH: f64 = 900.0;
const LABEL: f64 = 380.0;
const ROW: f64 = 20.0;
const TOP: f64 = 40.0;
const OURS: &str = "#2b6cb0";
const THEIRS: &str = "#a0aec0";

/// Every plot of a part with its file's name: bars for each unit, and each curve.
pub(super) fn all(
    part: &str,
    comparisons: &[Comparison],
    figures: &[Figure],
    curves: &[Curve],
) -> Vec<(String, String)> {
    let mut bars: Vec<(&str, Vec<Bar>)> = Vec::new();
    let mut add = |unit, bar| match bars.iter_mut().find(|(known, _)| *known == unit) {
        Some((_, bars)) => bars.push(bar),
        None => bars.push((unit, vec![bar])),
    };
    for one in comparisons {
        add(one.unit, Bar::new(&one.name, &one.ours, OURS));
        add(one.unit, Bar::new("", &one.theirs, THEIRS));
    }
    for one in figures {
        add(&one.unit, Bar::new(&one.name, &one.side(""), OURS));
    }
    let bars = bars
        .into_iter()
        .map(|(unit, rows)| (file(part, unit), chart(&format!("{part}, {unit}"), &rows)));
    let curves = curves.iter().map(|one| (file(part, &one.name), line(one)));
    bars.chain(curves).collect()
}

fn file(part: &str, name: &str) -> String {
    let words: Vec<_> = name
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    format!("{part}-{}.svg", words.join("-"))
}

struct Bar {
    label: String,
    median: f64,
    range: [f64; 2],
    color: &'static str,
}

impl Bar {
    fn new(case: &str, side: &Side, color: &'static str) -> Self {
        let least = side.samples.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = side.samples.iter().copied().fold(0.0, f64::max);
        let separator = if case.is_empty() || side.name.is_empty() {
            ""
        } else {
            ": "
        };
        Self {
            label: format!("{case}{separator}{}", side.name),
            median: side.median(),
            range: [least, largest],
            color,
        }
    }
}

fn chart(title: &str, rows: &[Bar]) -> String {
    let most = rows
        .iter()
        .map(|row| row.range[1])
        .fold(f64::MIN_POSITIVE, f64::max);
    let room = WIDTH - LABEL - 90.0;
    let at = |value: f64| {
        LABEL
            + if value.is_finite() {
                value / most * room
            } else {
                0.0
            }
    };
    let mut body = String::new();
    for (number_of, row) in rows.iter().enumerate() {
        let y = TOP + ROW * number_of as f64;
        let (end, [low, high]) = (at(row.median), row.range.map(at));
        // Writing to a string does not fail.
        let _ = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABEL}\" y=\"{:.0}\" width=\"{:.1}\" height=\"13\" fill=\"{}\"/>\
             <path d=\"M{low:.1} {:.0}H{high:.1}\" stroke=\"black\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            LABEL - 6.0,
            y + 11.0,
            escaped(&row.label),
            y,
            end - LABEL,
            row.color,
            y + 6.5,
            high.max(end) + 6.0,
            y + 11.0,
            number(row.median),
        );
    }
    svg(title, TOP + ROW * rows.len() as f64 + 10.0, &body)
}

/// Sizes on a logarithmic scale, medians from zero.
fn line(curve: &Curve) -> String {
    const HEIGHT: f64 = 360.0;
    let (left, right, floor) = (70.0, WIDTH - 60.0, HEIGHT - 50.0);
    let logs: Vec<f64> = curve
        .points
        .iter()
        .map(|(size, _)| size.max(1.0).log10())
        .collect();
    let widest = logs.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let most = curve
        .points
        .iter()
        .map(|point| point.1)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut body = format!("<path d=\"M{left} {TOP}V{floor}H{right}\" stroke=\"black\" fill=\"none\"/>\n");
    let mut path = String::new();
    for ((size, value), log) in curve.points.iter().zip(logs) {
        let x = left + log / widest * (right - left);
        let y = floor - value / most * (floor - TOP - 20.0);
        let step = if path.is_empty() { 'M' } else { 'L' };
        let _ = write!(path, "{step}{x:.1} {y:.1}");
        let _ = writeln!(
            body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{OURS}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{size}</text>",
            y - 8.0,
            number(*value),
            floor + 16.0,
        );
    }
    let _ = write!(body, "<path d=\"{path}\" stroke=\"{OURS}\" fill=\"none\"/>");
    let title = format!("{}: {} by {}", curve.name, curve.unit, curve.of);
    svg(&title, HEIGHT, &body)
}

fn svg(title: &str, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">{}</text>\n{body}\n</svg>\n",
        escaped(title)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_for_each_unit_with_the_longest_bar_for_the_largest() {
        let figures = [
            Figure::new("a < b", "ns", vec![100.0]),
            Figure::new("half", "ns", vec![50.0]),
            Figure::new("load", "Gbit/s", vec![1.0]),
        ];
        let plots = all("soft", &[], &figures, &[]);
        assert_eq!(
            plots.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["soft-ns.svg", "soft-gbit-s.svg"]
        );
        let text = &plots[0].1;
        assert!(text.contains("a &lt; b"), "{text}");
        assert!(
            text.contains("width=\"430.0\"") && text.contains("width=\"215.0\""),
            "{text}"
        );
    }

    #[test]
    fn a_curve_rises_with_its_values() {
        let curve = Curve {
            name: "SAs".to_owned(),
            of: "SAs",
            unit: "ns",
            points: vec![(1.0, 100.0), (100.0, 200.0)],
        };
        let text = &all("curves", &[], &[], &[curve])[0].1;
        assert!(
            text.contains("cx=\"70.0\" cy=\"185.0\"") && text.contains("cx=\"840.0\" cy=\"60.0\""),
            "{text}"
        );
    }
}
