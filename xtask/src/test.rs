//! `cargo xtask test`: everything that must pass, and all that CI runs.

use std::io::{BufRead, BufReader, Write};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::shell::{Workspace, display};
use crate::steps::{Steps, Tally, Verdict};
use crate::terminal::{coloured, say};
use crate::{check, e2e, setup};

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let mut steps = Steps::default();
    setup::add_to(&mut steps, workspace);
    check::add_to(&mut steps, workspace);
    steps.run_tests("unit tests", || unit_tests(workspace));
    steps.run_tests("e2e", || e2e::step(workspace));
    let code = steps.finish();
    // Alone on the last line, since CI systems look for it.
    say(format_args!("\n{}", steps.closing_line()));
    Ok(code)
}

/// `cargo test`, listened to.
fn unit_tests(workspace: &Workspace) -> Result<(Verdict, Option<Tally>)> {
    let mut command = workspace.cargo(["test", "--workspace", "--no-fail-fast"]);
    if coloured() {
        // Cargo sees our pipe instead of the terminal.
        command.args(["--", "--color", "always"]).env("CARGO_TERM_COLOR", "always");
    }
    say(display(&command));
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let mut counter = Counter::default();
    let mut out = std::io::stdout();
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.context("listening to cargo test")?;
        counter.hear(&line);
        // A closed pipe is no reason to stop testing.
        let _ = writeln!(out, "{line}");
    }
    let status = child.wait().context("waiting for cargo test")?;
    let verdict = if status.success() { Verdict::Passed } else { Verdict::Failed(status.to_string()) };
    Ok((verdict, Some(counter.tally)))
}

/// Counts what libtest says.
#[derive(Debug, Default)]
struct Counter {
    tally: Tally,
}

impl Counter {
    fn hear(&mut self, line: &str) {
        let line = without_colour(line);
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.tally.passed += count(counts, " passed");
            self.tally.failed += count(counts, " failed");
        } else if let Some((name, verdict)) =
            line.strip_prefix("test ").and_then(|test| test.split_once(" ... "))
            && verdict.starts_with("ignored")
        {
            self.tally.not_run.push(name.to_owned());
        }
    }
}

/// The number before `what`.
fn count(counts: &str, what: &str) -> usize {
    let number = counts.split_once(what).and_then(|(before, _)| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn without_colour(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    // A sequence ends with its first letter, an `m` for colours; libtest also sends `\x1b(B`, which resets.
    parts.fold(first, |text, part| {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        text + part.get(end..).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up_and_ignored_tests_named() {
        let mut counter = Counter::default();
        for line in [
            "running 3 tests",
            "test a::passes ... ok",
            "test b::sleeps ... ignored",
            "test c::waits ... ignored, needs a network",
            "test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: \x1b[31mFAILED\x1b(B\x1b[m. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out",
            "a line that says 7 passed",
        ] {
            counter.hear(line);
        }
        let not_run = vec!["b::sleeps".to_owned(), "c::waits".to_owned()];
        assert_eq!(counter.tally, Tally { passed: 13, failed: 3, not_run });
    }

    #[test]
    fn colours_are_taken_off() {
        assert_eq!(without_colour("a \x1b[32mok\x1b(B\x1b[m b"), "a ok b");
        assert_eq!(without_colour("plain"), "plain");
    }
}
