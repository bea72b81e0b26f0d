//! What the measuring program (`tests/examples/pktgen_bench`) says to us, line by line, over a pipe or a guest's serial
//! console. Lines of a kernel that boots, or of a shell, come in between.

use serde_json::Value;

const MARK: &str = "@gateway-bench ";

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// The measuring begins.
    Begin,
    /// What is done next.
    Step(String),
    /// A figure.
    Sample(Sample),
    /// The measuring has ended with this exit status.
    End(i32),
    /// Not for us, or damaged.
    Other(String),
}

/// A figure of one side, of one round.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// What is measured.
    pub case: String,
    /// Whether it is ours.
    pub ours: bool,
    /// Who it is.
    pub side: String,
    /// Packets that the sink counted, in thousands a second.
    pub kpps: f64,
    /// CPU time of the measured side for each packet that the sink counted, ns.
    pub cpu_ns: f64,
    /// How much of one CPU that is.
    pub busy: f64,
    /// Of the packets that the measured side had, the part that did not come to the sink, for want of room on the way.
    pub lost: f64,
}

impl Line {
    /// Reads a line. The console may put a carriage return at its end, and a message of the kernel's before it.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let other = || Self::Other(line.trim_end().to_owned());
        let Some((_, said)) = line.trim_end().split_once(MARK) else {
            return other();
        };
        match said.split_once(' ').unwrap_or((said, "")) {
            ("begin", "") => Self::Begin,
            ("step", what) => Self::Step(what.to_owned()),
            ("sample", json) => serde_json::from_str(json).map_or_else(|_| other(), Self::Sample),
            ("end", status) => status.parse().map_or_else(|_| other(), Self::End),
            _ => other(),
        }
    }

    /// The line, without its end.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Begin => format!("{MARK}begin"),
            Self::Step(what) => format!("{MARK}step {what}"),
            Self::Sample(sample) => {
                let json = serde_json::to_value(sample).unwrap_or(Value::Null);
                format!("{MARK}sample {json}")
            }
            Self::End(status) => format!("{MARK}end {status}"),
            Self::Other(text) => text.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        Sample {
            case: "filter and NAPT, 1 flow".to_owned(),
            ours: true,
            side: "gateway".to_owned(),
            kpps: 181.5,
            cpu_ns: 3210.0,
            busy: 0.75,
            lost: 0.25,
        }
    }

    #[test]
    fn what_is_said_is_read_again() {
        for line in [
            Line::Begin,
            Line::Step("12.3 s: `clear` is loaded".to_owned()),
            Line::Sample(sample()),
            Line::End(0),
            Line::End(101),
            Line::Other("[    2.1] veth: loading".to_owned()),
        ] {
            assert_eq!(Line::parse(&line.text()), line);
            assert_eq!(Line::parse(&format!("{}\r\n", line.text())), line);
        }
    }

    #[test]
    fn a_message_of_the_kernel_before_the_mark_does_not_hide_it() {
        assert_eq!(
            Line::parse("[    9.0] random: x@gateway-bench end 1\r"),
            Line::End(1)
        );
    }

    #[test]
    fn a_damaged_line_is_no_figure_and_no_end() {
        let whole = Line::Sample(sample()).text();
        let cut = &whole[..whole.len() - 4];
        for line in [
            cut,
            "@gateway-bench end",
            "@gateway-bench end x",
            "@gateway-bench begin 2",
            "gateway-bench begin",
            "",
        ] {
            assert_eq!(Line::parse(line), Line::Other(line.to_owned()));
        }
    }
}
