//! Samples, their median and spread, and the table that shows them.

use std::fmt;

/// Rows of measurements, in the order taken.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: Vec<Row>,
    /// Runs that brought nothing, by what they were of.
    failures: Vec<(String, u32)>,
}

#[derive(Debug)]
struct Row {
    what: String,
    unit: &'static str,
    samples: Vec<f64>,
    goal: Option<Goal>,
}

/// What a row should reach. It is shown beside the figures and fails nothing: the machine may be busy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// Its median.
    AtLeast(f64),
    /// Its median.
    AtMost(f64),
    /// The worst sample.
    WorstAtMost(f64),
    /// Its median, and the worst sample.
    AtMostAndWorst(f64, f64),
}

impl Goal {
    fn is_reached(self, Spread { median, max, .. }: Spread) -> bool {
        match self {
            Self::AtLeast(least) => median >= least,
            Self::AtMost(most) => median <= most,
            Self::WorstAtMost(worst) => max <= worst,
            Self::AtMostAndWorst(most, worst) => median <= most && max <= worst,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::WorstAtMost(worst) => write!(f, "max <= {worst}"),
            Self::AtMostAndWorst(most, worst) => write!(f, "<= {most}, max <= {worst}"),
        }
    }
}

impl Figures {
    /// Adds a sample to the row that `what` and `unit` name.
    pub(crate) fn add(&mut self, what: &str, unit: &'static str, sample: f64) {
        self.row(what, unit).samples.push(sample);
    }

    /// The same to a row that should reach `goal`.
    pub(crate) fn add_towards(&mut self, goal: Goal, what: &str, unit: &'static str, sample: f64) {
        let row = self.row(what, unit);
        row.goal = Some(goal);
        row.samples.push(sample);
    }

    /// Counts a run of `what` that failed or stood still.
    pub(crate) fn fail(&mut self, what: &str) {
        match self.failures.iter_mut().find(|(known, _)| known == what) {
            Some((_, runs)) => *runs += 1,
            None => self.failures.push((what.to_owned(), 1)),
        }
    }

    /// How many runs brought nothing.
    pub(crate) fn failed(&self) -> u32 {
        self.failures.iter().map(|(_, runs)| runs).sum()
    }

    #[expect(clippy::indexing_slicing, reason = "it is there, or was just added")]
    fn row(&mut self, what: &str, unit: &'static str) -> &mut Row {
        let known = self.rows.iter().position(|row| row.what == what && row.unit == unit);
        let index = known.unwrap_or(self.rows.len());
        if known.is_none() {
            self.rows.push(Row { what: what.to_owned(), unit, samples: Vec::new(), goal: None });
        }
        &mut self.rows[index]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or_default();
        let unit = self.rows.iter().map(|row| row.unit.chars().count()).max().unwrap_or_default();
        write!(
            f,
            "{:width$}  {:>10}  {:>10}  {:>10}  {:unit$}  {:>4}",
            "", "median", "min", "max", "unit", "runs"
        )?;
        let goals = self.rows.iter().any(|row| row.goal.is_some());
        writeln!(f, "{}", if goals { "  goal" } else { "" })?;
        for row in &self.rows {
            let spread = Spread::of(&row.samples);
            let Spread { median, min, max } = spread;
            write!(
                f,
                "{:width$}  {median:>10.2}  {min:>10.2}  {max:>10.2}  {:unit$}  {:>4}",
                row.what,
                row.unit,
                row.samples.len()
            )?;
            match row.goal {
                Some(goal) if goal.is_reached(spread) => writeln!(f, "  {goal}: reached")?,
                Some(goal) => writeln!(f, "  {goal}: MISSED")?,
                None => writeln!(f)?,
            }
        }
        for (what, runs) in &self.failures {
            writeln!(f, "FAILED {runs} times: {what}")?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
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

    #[test]
    fn runs_that_failed_are_shown_below_what_the_others_brought() {
        let mut figures = Figures::default();
        figures.add("a line", "MB/s", 1.0);
        for what in ["a line", "a file", "a line"] {
            figures.fail(what);
        }
        let table = figures.to_string();
        let last: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(last, ["FAILED 2 times: a line", "FAILED 1 times: a file"]);
        assert_eq!(figures.failed(), 3);
    }

    #[test]
    fn a_goal_is_shown_with_whether_it_is_reached() {
        let mut figures = Figures::default();
        for sample in [10.0, 20.0, 70.0] {
            figures.add_towards(Goal::AtMostAndWorst(30.0, 60.0), "open", "ms", sample);
            figures.add_towards(Goal::AtLeast(15.0), "speed", "MB/s", sample);
            figures.add_towards(Goal::AtMost(15.0), "cost", "s", sample);
            figures.add_towards(Goal::WorstAtMost(80.0), "worst", "ms", sample);
        }
        let table = figures.to_string();
        let goals: Vec<_> = table.lines().map(|line| line.rsplit("   3  ").next().unwrap()).skip(1).collect();
        assert_eq!(
            goals,
            ["<= 30, max <= 60: MISSED", ">= 15: reached", "<= 15: MISSED", "max <= 80: reached"]
        );
    }
}
