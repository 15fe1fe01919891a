//! A list of things to do, each with its heading, its time and its verdict, and a summary at the end.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::now;
use crate::shell::{display, in_ci};
use crate::terminal::{bold, green, heading, red, say, yellow};

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All is well.
    Passed,
    /// Something is not, in a few words; the details are above.
    Failed(String),
    /// Nobody knows, because something is missing.
    CouldNotRun(String),
}

/// What a step counted, if it consists of tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Those that could not run, by name.
    pub(crate) not_run: Vec<String>,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    verdict: Verdict,
    tally: Option<Tally>,
    took: Duration,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    steps: Vec<Step>,
}

impl Steps {
    /// Does something; an error is a failure of this step alone.
    pub(crate) fn run(&mut self, name: &'static str, act: impl FnOnce() -> Result<Verdict>) {
        self.run_tests(name, || Ok((act()?, None)));
    }

    /// Runs a command; what it prints is seen as it comes.
    pub(crate) fn command(&mut self, name: &'static str, mut command: Command) {
        self.run(name, || {
            say(display(&command));
            verdict_of(&mut command)
        });
    }

    /// Does something that counts what it does.
    pub(crate) fn run_tests(
        &mut self,
        name: &'static str,
        act: impl FnOnce() -> Result<(Verdict, Option<Tally>)>,
    ) {
        heading(name);
        let step = Step::take(name, act);
        say(step.line(0));
        self.steps.push(step);
    }

    /// Prints the summary; fails if a step did, and in CI also if one could not run.
    pub(crate) fn finish(&self) -> ExitCode {
        heading("summary");
        say(self.summary());
        if self.good(in_ci()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// `N passed, N failed`, over all tests of all steps. A failed step that counted no failed test counts as one, and
    /// so does, in CI, whatever could not run.
    pub(crate) fn closing_line(&self) -> String {
        self.closing_line_when(in_ci())
    }

    fn closing_line_when(&self, ci: bool) -> String {
        let tallies = || self.steps.iter().filter_map(|step| step.tally.as_ref());
        let passed = tallies().map(|tally| tally.passed).sum::<usize>();
        let mut failed = tallies().map(|tally| tally.failed).sum::<usize>();
        failed += self.steps.iter().filter(|step| step.fails_uncounted()).count();
        if ci {
            failed += tallies().map(|tally| tally.not_run.len()).sum::<usize>();
            failed +=
                self.steps.iter().filter(|step| matches!(step.verdict, Verdict::CouldNotRun(_))).count();
        }
        format!("{passed} passed, {failed} failed")
    }

    fn good(&self, ci: bool) -> bool {
        self.steps.iter().all(|step| match step.verdict {
            Verdict::Passed => !ci || step.tally.as_ref().is_none_or(|tally| tally.not_run.is_empty()),
            Verdict::Failed(_) => false,
            Verdict::CouldNotRun(_) => !ci,
        })
    }

    fn summary(&self) -> String {
        let width = self.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
        let mut lines = self.steps.iter().map(|step| step.line(width)).collect::<Vec<_>>();
        let missing =
            self.steps.iter().filter_map(|step| step.tally.as_ref()).flat_map(|tally| &tally.not_run);
        lines.extend(missing.map(|name| format!("could not run: {}", yellow(name))));
        lines.join("\n")
    }
}

impl Step {
    fn take(name: &'static str, act: impl FnOnce() -> Result<(Verdict, Option<Tally>)>) -> Self {
        let started = now();
        let (verdict, tally) = act().unwrap_or_else(|error| (Verdict::Failed(format!("{error:#}")), None));
        Self { name, verdict, tally, took: now().duration_since(started) }
    }

    fn fails_uncounted(&self) -> bool {
        matches!(self.verdict, Verdict::Failed(_))
            && self.tally.as_ref().is_none_or(|tally| tally.failed == 0)
    }

    fn line(&self, width: usize) -> String {
        let (mark, why) = match &self.verdict {
            Verdict::Passed => (green("ok  "), String::new()),
            Verdict::Failed(why) => (red("FAIL"), format!("  {why}")),
            Verdict::CouldNotRun(why) => (yellow("--  "), format!("  could not run: {why}")),
        };
        let counted = self.tally.as_ref().map(|tally| {
            let not_run = match tally.not_run.len() {
                0 => String::new(),
                number => format!(", {number} could not run"),
            };
            format!("  {} passed, {} failed{not_run}", tally.passed, tally.failed)
        });
        let name = bold(&format!("{:width$}", self.name));
        format!("{mark}  {name}  {:6.1} s{}{why}", self.took.as_secs_f64(), counted.unwrap_or_default())
    }
}

fn verdict_of(command: &mut Command) -> Result<Verdict> {
    let status = command.status().with_context(|| format!("starting {}", display(command)))?;
    Ok(if status.success() { Verdict::Passed } else { Verdict::Failed(status.to_string()) })
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn tally(passed: usize, failed: usize, not_run: &[&str]) -> Option<Tally> {
        Some(Tally { passed, failed, not_run: not_run.iter().map(|name| (*name).to_owned()).collect() })
    }

    fn failed(why: &str) -> Verdict {
        Verdict::Failed(why.to_owned())
    }

    #[test]
    fn the_closing_line_counts_every_test_and_every_step_that_failed_without_one() {
        let steps = vec![
            Step::take("formatting", || Ok((failed("exit status: 1"), None))),
            Step::take("setup", || bail!("no network")),
            Step::take("tests", || Ok((failed("exit status: 101"), tally(40, 2, &[])))),
            Step::take("e2e", || Ok((Verdict::Passed, tally(12, 0, &[])))),
        ];
        let steps = Steps { steps };
        assert_eq!(steps.closing_line_when(false), "52 passed, 4 failed");
        assert!(!steps.good(false));
        assert!(steps.summary().contains("no network"));
    }

    #[test]
    fn what_could_not_run_is_named_and_fails_in_ci_alone() {
        let steps = vec![
            Step::take("licences", || Ok((Verdict::CouldNotRun("no cargo-deny".to_owned()), None))),
            Step::take("e2e", || Ok((Verdict::Passed, tally(10, 0, &["coturn-udp", "coturn-tcp"])))),
        ];
        let steps = Steps { steps };
        assert_eq!(steps.closing_line_when(false), "10 passed, 0 failed");
        assert!(steps.good(false));
        assert_eq!(steps.closing_line_when(true), "10 passed, 3 failed");
        assert!(!steps.good(true));
        let summary = steps.summary();
        assert!(
            summary.contains("no cargo-deny") && summary.contains("could not run: coturn-tcp"),
            "{summary}"
        );
    }

    #[test]
    fn a_command_passes_fails_or_does_not_exist() {
        assert_eq!(verdict_of(&mut Command::new("true")).unwrap(), Verdict::Passed);
        assert_eq!(verdict_of(&mut Command::new("false")).unwrap(), failed("exit status: 1"));
        let error = verdict_of(&mut Command::new("/no/such/program")).unwrap_err();
        assert!(error.to_string().contains("starting program"), "{error}");
    }
}
