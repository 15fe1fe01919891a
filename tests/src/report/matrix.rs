//! A square of who met whom and how, as lines of text and as a picture.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How two met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting {
    /// Without a server in between.
    pub direct: bool,
    /// How long it took, in milliseconds.
    pub ms: u128,
}

/// Who met whom. A meeting that is missing failed.
#[derive(Debug, Clone, Default)]
pub struct Matrix {
    /// The names of rows and columns.
    pub names: Vec<String>,
    /// By row and column.
    pub meetings: BTreeMap<(usize, usize), Meeting>,
}

impl Matrix {
    /// A line of names, then one a row: D is direct, R relayed, each with its milliseconds.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let width = self.names.iter().map(String::len).max().unwrap_or_default().max(6);
        let line = |first: &str, cells: Vec<String>| {
            let mut line = format!("{first:<width$}");
            for cell in cells {
                // Writing to a string cannot fail.
                let _ = write!(line, " {cell:>width$}");
            }
            line
        };
        let mut lines = vec![line("", self.names.clone())];
        for (row, name) in self.names.iter().enumerate() {
            let cells = (0..self.names.len()).map(|column| match self.meetings.get(&(row, column)) {
                Some(Meeting { direct, ms }) => format!("{} {ms}", if *direct { "D" } else { "R" }),
                None => "failed".to_owned(),
            });
            lines.push(line(name, cells.collect()));
        }
        lines
    }

    /// The same as a picture: green is direct, amber relayed, red failed; the letters say so too.
    #[must_use]
    pub fn svg(&self) -> String {
        let (size, top) = (self.names.len(), 120);
        let (width, height) = (LEFT + size * CELL.0 + 20, top + size * CELL.1 + 20);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"14\" fill=\"#1b1f24\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"20\" y=\"34\" font-size=\"20\" font-weight=\"bold\">Who meets whom, and by which way</text>\n\
             <text x=\"20\" y=\"58\" fill=\"#57606a\">Rows were there first, columns came later; the time is from \
             then to an open channel.</text>\n"
        );
        let _ = write!(svg, "{}", legend(20));
        for (index, name) in self.names.iter().enumerate() {
            let (x, y) = (LEFT + index * CELL.0 + CELL.0 / 2, top + index * CELL.1 + CELL.1 / 2 + 5);
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{name}</text>\n\
                 <text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{name}</text>",
                top - 10,
                LEFT - 12
            );
        }
        for row in 0..size {
            for column in 0..size {
                let (x, y) = (LEFT + column * CELL.0, top + row * CELL.1);
                let (fill, word) = match self.meetings.get(&(row, column)) {
                    Some(Meeting { direct: true, ms }) => (DIRECT, format!("direct, {ms} ms")),
                    Some(Meeting { direct: false, ms }) => (RELAYED, format!("relay, {ms} ms")),
                    None => (FAILED, "failed".to_owned()),
                };
                let _ = writeln!(
                    svg,
                    "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"4\" fill=\"{fill}\"/>\n\
                     <text x=\"{}\" y=\"{}\" font-size=\"13\" text-anchor=\"middle\">{word}</text>",
                    x + 2,
                    y + 2,
                    CELL.0 - 4,
                    CELL.1 - 4,
                    x + CELL.0 / 2,
                    y + CELL.1 / 2 + 5
                );
            }
        }
        svg + "</svg>\n"
    }
}

fn legend(left: usize) -> String {
    let mut legend = String::new();
    for (index, (fill, word)) in
        [(DIRECT, "direct"), (RELAYED, "by the relay"), (FAILED, "failed")].into_iter().enumerate()
    {
        let x = left + index * 130;
        let _ = writeln!(
            legend,
            "<rect x=\"{x}\" y=\"72\" width=\"16\" height=\"16\" rx=\"3\" fill=\"{fill}\"/>\n\
             <text x=\"{}\" y=\"85\">{word}</text>",
            x + 22
        );
    }
    legend
}

const LEFT: usize = 140;
const CELL: (usize, usize) = (122, 40);
const DIRECT: &str = "#b7e4c7";
const RELAYED: &str = "#ffe0a3";
const FAILED: &str = "#ffb3b3";

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        let meetings = BTreeMap::from([
            ((0, 0), Meeting { direct: true, ms: 12 }),
            ((0, 1), Meeting { direct: false, ms: 345 }),
            ((1, 1), Meeting { direct: false, ms: 6 }),
        ]);
        Matrix { names: vec!["open".to_owned(), "strict".to_owned()], meetings }
    }

    #[test]
    fn every_cell_is_in_the_lines_and_what_is_missing_failed() {
        assert_eq!(
            matrix().lines(),
            ["         open strict", "open     D 12  R 345", "strict failed    R 6"]
        );
    }

    #[test]
    fn every_cell_is_in_the_picture() {
        let svg = matrix().svg();
        for word in [">direct, 12 ms<", ">relay, 345 ms<", ">failed<", ">strict<"] {
            assert!(svg.contains(word), "{word} is not in {svg}");
        }
        assert_eq!(svg.matches(&format!("rx=\"4\" fill=\"{RELAYED}\"")).count(), 2);
    }
}
