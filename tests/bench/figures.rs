//! Samples, their median and spread, and the table that shows them.

use std::fmt;

/// Rows of measurements, in the order taken.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    unit: &'static str,
    samples: Vec<f64>,
}

impl Figures {
    /// Adds a sample to the row that `what` and `unit` name.
    pub(crate) fn add(&mut self, what: &str, unit: &'static str, sample: f64) {
        match self.rows.iter_mut().find(|row| row.what == what && row.unit == unit) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row { what: what.to_owned(), unit, samples: vec![sample] }),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or_default();
        let unit = self.rows.iter().map(|row| row.unit.chars().count()).max().unwrap_or_default();
        writeln!(
            f,
            "{:width$}  {:>10}  {:>10}  {:>10}  {:unit$}  {:>4}",
            "", "median", "min", "max", "unit", "runs"
        )?;
        for row in &self.rows {
            let Spread { median, min, max } = Spread::of(&row.samples);
            writeln!(
                f,
                "{:width$}  {median:>10.2}  {min:>10.2}  {max:>10.2}  {:unit$}  {:>4}",
                row.what,
                row.unit,
                row.samples.len()
            )?;
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), min: at(0), max: at(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
    }

    #[test]
    fn samples_of_one_row_come_together_in_columns() {
        let mut figures = Figures::default();
        figures.add("short", "ms", 1.0);
        figures.add("something longer", "MB/s", 20.5);
        figures.add("short", "ms", 2.0);
        let expected = concat!(
            "                      median         min         max  unit  runs\n",
            "short                   1.50        1.00        2.00  ms       2\n",
            "something longer       20.50       20.50       20.50  MB/s     1\n",
        );
        assert_eq!(figures.to_string(), expected);
    }
}
