//! `cargo xtask e2e`: builds the programs and runs the scenarios against them.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::setup;
use crate::shell::Workspace;
use crate::steps::{Tally, Verdict};
use crate::terminal::{heading, say};

pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    if !args.iter().any(|arg| arg == "--list") {
        heading("setup");
        if let Verdict::CouldNotRun(why) | Verdict::Failed(why) = setup::for_e2e(workspace)? {
            say(format_args!("going on without: {why}"));
        }
    }
    build(workspace)?;
    let status = workspace.command(workspace.program("farcall-e2e")).args(args).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs all scenarios as a step of `test`.
pub(crate) fn step(workspace: &Workspace) -> Result<(Verdict, Option<Tally>)> {
    build(workspace)?;
    let junit = workspace.target().join("e2e").join("junit.xml");
    // So that a run that ends early is not taken for the one before.
    let _ = std::fs::remove_file(&junit);
    let status =
        workspace.command(workspace.program("farcall-e2e")).status().context("starting farcall-e2e")?;
    let report = std::fs::read_to_string(&junit).with_context(|| format!("reading {}", junit.display()))?;
    let tally = read_junit(&report).with_context(|| format!("reading {}", junit.display()))?;
    // That something could not run is for the summary to judge.
    let failed = tally.failed > 0 || (!status.success() && tally.not_run.is_empty());
    Ok((if failed { Verdict::Failed(status.to_string()) } else { Verdict::Passed }, Some(tally)))
}

/// The same packages with the same features as `cargo test`, so that one build serves both.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    heading("build");
    let mut build = workspace.cargo(["build", "--workspace", "--exclude", "xtask", "--bins"]);
    let status = build.status().context("starting cargo")?;
    ensure!(status.success(), "the programs do not build");
    Ok(())
}

/// Counts the cases of a report. It is our own, so a line holds one element.
fn read_junit(report: &str) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut name = None;
    for line in report.lines().map(str::trim_start) {
        if line.starts_with("<testcase ") {
            name = attribute(line, "name").map(str::to_owned);
        } else if line.starts_with("<system-out") {
            tally.passed += 1;
        } else if line.starts_with("<failure") {
            tally.failed += 1;
        } else if line.starts_with("<skipped") {
            tally.not_run.push(name.take().unwrap_or_default());
        }
    }
    let said = report.lines().find(|line| line.starts_with("<testsuites ")).context("no testsuites")?;
    let said = attribute(said, "tests").and_then(|number| number.parse::<usize>().ok());
    let counted = tally.passed + tally.failed + tally.not_run.len();
    ensure!(said == Some(counted), "it announces {said:?} cases and has {counted}");
    Ok(tally)
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = element.split_once(&format!(" {name}=\""))?;
    value.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="farcall" tests="3" failures="1" errors="0" skipped="1" time="9.000">
  <testsuite name="e2e" tests="3" failures="1" errors="0" skipped="1" time="9.000">
    <testcase classname="e2e" name="good" time="1.500">
      <system-out>1 &lt; 2</system-out>
    </testcase>
    <testcase classname="e2e" name="bad" time="1.500">
      <failure message="a">a
more</failure>
    </testcase>
    <testcase classname="e2e" name="absent" time="1.500">
      <skipped message="no ffprobe"/>
    </testcase>
  </testsuite>
</testsuites>
"#;

    #[test]
    fn cases_are_counted_and_those_that_could_not_run_named() {
        let tally = Tally { passed: 1, failed: 1, not_run: vec!["absent".to_owned()] };
        assert_eq!(read_junit(REPORT).unwrap(), tally);
    }

    #[test]
    fn a_report_that_was_cut_off_is_refused() {
        let cut = REPORT.split_once("<testcase classname=\"e2e\" name=\"absent\"").unwrap().0;
        assert!(read_junit(cut).unwrap_err().to_string().contains("announces Some(3) cases and has 2"));
        assert!(read_junit("").is_err());
    }
}
