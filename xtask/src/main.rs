//! `cargo xtask …`: the one entry point that people and CI share. Each command is a file of its own; this one only
//! dispatches.

#![forbid(unsafe_code)]

mod bench;
mod check;
mod clock;
mod e2e;
mod fuzz;
mod lab;
mod setup;
mod shell;
mod steps;
mod terminal;
mod test;
mod tidy;
mod up;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};

use shell::Workspace;

const USAGE: &str = "\
cargo xtask COMMAND

  test              everything that must pass: setup, check, all tests, e2e. This is what CI runs
  e2e [FILTER…]     builds the programs and lets them call each other; --list names the scenarios,
                    --jobs N runs so many at once (2)
  check             formatting, clippy, documentation, licences, tidy
  tidy              the house rules that a text search can hold
  up                starts signaling and relay on this machine and says how to call, until Ctrl-C
  lab A B           opens the network lab: two homes behind NATs of these kinds, a relay, signaling; lab --help
  bench [NAME…]     takes the measurements of docs/perf.md; --list names them
  fuzz [TARGET]     fuzzes the relay; without a target, lists them
  setup             installs what the other commands need, saying what and why

With CI=true nothing may be missing: what could not run fails.
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let rest = words.collect::<Vec<_>>();
    let workspace = Workspace::find()?;
    match command.as_str() {
        "bench" => bench::run(&workspace, &rest),
        "e2e" => e2e::run(&workspace, &rest),
        "lab" => lab::run(&workspace, &rest),
        "fuzz" => fuzz::run(&workspace, &rest),
        "test" => no_arguments(&rest).and_then(|()| test::run(&workspace)),
        "check" => no_arguments(&rest).and_then(|()| check::run(&workspace)),
        "tidy" => no_arguments(&rest).and_then(|()| tidy::run(&workspace)),
        "up" => no_arguments(&rest).and_then(|()| up::run(&workspace)),
        "setup" => no_arguments(&rest).and_then(|()| setup::run(&workspace)),
        "" | "help" | "--help" | "-h" => {
            write!(std::io::stdout(), "{USAGE}")?;
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("there is no command {other}\n\n{USAGE}"),
    }
}

fn no_arguments(rest: &[String]) -> Result<()> {
    match rest {
        [] => Ok(()),
        [first, ..] => bail!("this command takes no arguments, and {first} is one"),
    }
}
