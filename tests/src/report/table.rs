//! Columns that line up, whatever colours are in them.

use crate::terminal::Style;

/// Which edge of a column its cells keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A text, how wide it is on the screen, and how it is dressed there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    width: usize,
    dressed: String,
}

impl Cell {
    pub(super) fn plain(text: impl Into<String>) -> Self {
        let dressed = text.into();
        Self { width: dressed.chars().count(), dressed }
    }

    /// Shows `dressed`, which takes no more room than `text`.
    pub(super) fn dressed(text: &str, dressed: String) -> Self {
        Self { width: text.chars().count(), dressed }
    }
}

/// Rows under a heading.
#[derive(Debug)]
pub(super) struct Table<const COLUMNS: usize> {
    columns: [(&'static str, Align); COLUMNS],
    rows: Vec<[Cell; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) const fn new(columns: [(&'static str, Align); COLUMNS]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(super) fn push(&mut self, row: [Cell; COLUMNS]) {
        self.rows.push(row);
    }

    pub(super) fn render(&self, style: Style) -> String {
        let mut widths = self.columns.map(|(heading, _)| heading.chars().count());
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width.max(*width);
            }
        }
        let heading = self.columns.map(|(heading, _)| Cell::dressed(heading, style.bold(heading)));
        let rule = "-".repeat(widths.iter().sum::<usize>() + GAP.len() * COLUMNS.saturating_sub(1));
        let mut lines = vec![self.line(&heading, widths), style.dim(&rule)];
        lines.extend(self.rows.iter().map(|row| self.line(row, widths)));
        lines.into_iter().map(|line| line + "\n").collect()
    }

    fn line(&self, row: &[Cell; COLUMNS], widths: [usize; COLUMNS]) -> String {
        let cells = row.iter().zip(widths).zip(self.columns).map(|((cell, width), (_, align))| {
            let padding = " ".repeat(width.saturating_sub(cell.width));
            match align {
                Align::Left => format!("{}{padding}", cell.dressed),
                Align::Right => format!("{padding}{}", cell.dressed),
            }
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }
}

const GAP: &str = "  ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_its_widest_cell_counted_in_characters() {
        let mut table = Table::new([("a", Align::Left), ("much", Align::Right), ("end", Align::Left)]);
        table.push([Cell::plain("é→"), Cell::plain("1"), Cell::plain("x")]);
        table.push([Cell::plain("three"), Cell::plain("12345"), Cell::plain("")]);
        let expected = "a       much  end\n-----------------\né→         1  x\nthree  12345\n";
        assert_eq!(table.render(Style::Plain), expected);
    }

    #[test]
    fn a_dressed_cell_takes_the_room_of_its_text() {
        let mut table = Table::new([("a", Align::Right)]);
        table.push([Cell::dressed("ok", Style::Colour.green("ok"))]);
        table.push([Cell::plain("four")]);
        assert_eq!(table.render(Style::Plain), "   a\n----\n  \x1b[32mok\x1b[0m\nfour\n");
    }
}
