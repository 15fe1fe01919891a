//! The measurements of `docs/perf.md`, on this machine, now: `cargo xtask bench [NAME…]`, where `relay/ROW` is one row and
//! `relay/ROW/SERVER` one server's share of it.
//!
//! Machines are shared, so nothing here passes or fails by the clock. A figure is a median with its spread, in CPU
//! time where that is what is meant, and rivals take turns in the same run.

#![forbid(unsafe_code)]

mod cpu;
mod figures;
mod flood;
mod forwarder;
mod latency;
mod load;
mod peer;
mod relay;
mod secure;
mod servers;
mod signaling;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use farcall_tests::Context;
use farcall_tests::lab::rights;

use crate::figures::Figures;
use crate::forwarder::Forwarding;

/// One group of measurements.
struct Bench {
    name: &'static str,
    what: &'static str,
    run: fn(&Context, &mut Figures, &[String]) -> Result<()>,
}

const BENCHES: [Bench; 3] = [
    Bench {
        name: "peer",
        what: "how soon peers are connected, what they carry, and what an idle connection costs",
        run: peer::run,
    },
    Bench {
        name: "relay",
        what: "what the relay costs, beside a bare forwarder and coturn",
        run: relay::run,
    },
    Bench {
        name: "signaling",
        what: "what a session, a join and a message cost the signaling server",
        run: signaling::run,
    },
];

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a program speaks to its user")]
            {
                eprintln!("bench: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a program speaks to its user")]
fn run(names: Vec<String>) -> Result<()> {
    if let [word, kind] = names.as_slice()
        && word == forwarder::WORD
    {
        return forwarder::run(Forwarding::parse(kind)?);
    }
    if names.iter().any(|name| name == "--list") {
        for Bench { name, what, .. } in &BENCHES {
            println!("{name:<9} {what}");
        }
        return Ok(());
    }
    let group = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    if let Some(unknown) = names.iter().find(|name| BENCHES.iter().all(|bench| bench.name != group(name))) {
        let known = BENCHES.map(|bench| bench.name).join(", ");
        bail!("no measurement is called \"{unknown}\"; there are: {known}");
    }
    // Long lines are laid in the lab.
    rights::acquire()?;
    // The programs lie beside this one: both were built by the same command.
    let here = std::env::current_exe().context("asking for the path of this program")?;
    let programs = here.parent().context("this program lies in no folder")?.to_owned();
    let mut failed = 0;
    for Bench { name, what, run } in &BENCHES {
        if !names.is_empty() && names.iter().all(|wanted| group(wanted) != *name) {
            continue;
        }
        println!("{name}: {what}");
        let folder = PathBuf::from("target/bench").join(name);
        let mut figures = Figures::default();
        let rows: Vec<_> =
            names.iter().filter_map(|name| name.split_once('/')).map(|(_, row)| row.to_owned()).collect();
        let ran = run(&Context::new(programs.clone(), folder), &mut figures, &rows);
        // What was measured counts, whatever became of the rest.
        println!("\n{figures}");
        ran.with_context(|| format!("measuring {name}"))?;
        failed += figures.failed();
    }
    ensure!(failed == 0, "{failed} runs failed; the others are in the tables");
    Ok(())
}
