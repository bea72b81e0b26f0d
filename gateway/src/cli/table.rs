//! Tables for people: columns as wide as their widest cell, numbers to the right.

/// Prints rows below a head; `Align` of each column by its head: a head that begins with `>` is set to the right.
pub(super) fn print(head: &[&str], rows: &[Vec<String>]) {
    print!("{}", render(head, rows));
}

fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let names: Vec<_> = head
        .iter()
        .map(|name| name.trim_start_matches('>').to_owned())
        .collect();
    let lines = || std::iter::once(&names).chain(rows);
    let width = |column: usize| {
        lines()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let mut text = String::new();
    for row in lines() {
        let mut line = String::new();
        for (column, (cell, name)) in row.iter().zip(head).enumerate() {
            let width = width(column).unwrap_or_default();
            let gap = if column == 0 { "" } else { "  " };
            match name.starts_with('>') {
                true => line.push_str(&format!("{gap}{cell:>width$}")),
                false => line.push_str(&format!("{gap}{cell:<width$}")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes with a binary unit: `1.5 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let mut unit = "B";
    let mut value = count as f64;
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" {
        format!("{count} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// Seconds in two units: `3m05s`, `2h04m`, `5d03h`.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".into(), "1".into(), "x".into()],
            vec!["long".into(), "100".into(), String::new()],
        ];
        assert_eq!(
            render(&["SITE", ">N", "Y"], &rows),
            "SITE    N  Y\na       1  x\nlong  100\n"
        );
    }

    #[test]
    fn units() {
        assert_eq!(
            [bytes(1023), bytes(1536), bytes(10 << 20)],
            ["1023 B", "1.5 KiB", "10.0 MiB"]
        );
        assert_eq!(
            [duration(59), duration(185), duration(7440), duration(90000)],
            ["59s", "3m05s", "2h04m", "1d01h"]
        );
    }
}
