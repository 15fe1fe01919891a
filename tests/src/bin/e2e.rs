//! `farcall-e2e [FILTER…] [--list] [--jobs N]`: runs the scenarios against the programs beside it.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use farcall_tests::lab::rights;
use farcall_tests::report::Tally;
use farcall_tests::runner::{self, Plan};
use farcall_tests::scenarios::ALL;
use farcall_tests::terminal::Style;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "farcall-e2e: {error:#}");
            ExitCode::from(64)
        }
    }
}

fn run() -> Result<ExitCode> {
    rights::acquire()?;
    let mut out = std::io::stdout();
    let options = Options::parse(std::env::args().skip(1))?;
    let scenarios = runner::select(ALL, &options.filters)?;
    if options.list {
        for scenario in scenarios {
            writeln!(out, "{:<24}{}", scenario.name, scenario.claim)?;
        }
        return Ok(ExitCode::SUCCESS);
    }

    // target/debug/farcall-e2e: the programs are beside it, the reports one up.
    let here = std::env::current_exe().context("asking where this program is")?;
    let programs = here.parent().context("a program without a folder")?.to_owned();
    let reports = programs.parent().context("a program in the root folder")?.join("e2e");
    let plan = Plan { programs, reports, jobs: options.jobs, style: Style::of_stdout() };
    let Tally { failed, not_run, .. } = runner::run(&plan, &scenarios, &mut out)?;

    let strict = std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    let good = failed == 0 && !(strict && not_run > 0);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    filters: Vec<String>,
    list: bool,
    jobs: usize,
}

impl Options {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { filters: Vec::new(), list: false, jobs: 2 };
        let mut words = words;
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => options.list = true,
                "--jobs" => {
                    let number = words.next().and_then(|number| number.parse().ok());
                    options.jobs = number.filter(|jobs| *jobs > 0).context("--jobs takes a number from 1")?;
                }
                flag if flag.starts_with('-') => bail!("{flag} is not a flag; there are --list and --jobs N"),
                _ => options.filters.push(word),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn filters_and_flags_come_in_any_order() {
        let expected =
            Options { filters: vec!["relay".to_owned(), "coturn".to_owned()], list: true, jobs: 1 };
        assert_eq!(parse(&["relay", "--jobs", "1", "--list", "coturn"]).unwrap(), expected);
        assert_eq!(parse(&[]).unwrap(), Options { filters: Vec::new(), list: false, jobs: 2 });
    }

    #[test]
    fn a_wrong_flag_is_named() {
        assert!(parse(&["--lst"]).unwrap_err().to_string().starts_with("--lst is not a flag"));
        assert!(parse(&["--jobs", "0"]).is_err());
        assert!(parse(&["--jobs"]).is_err());
    }
}
