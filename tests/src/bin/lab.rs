//! `farcall-lab`: two homes behind NATs, a relay and signaling, for a person to play with, until Ctrl-C.

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc::channel;

use anyhow::{Context as _, Result, bail};
use farcall_tests::lab::rights;
use farcall_tests::playground::Playground;
use farcall_tests::playground::options::Options;
use farcall_tests::terminal::Style;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
cargo xtask lab NAT-A NAT-B [FLAG…]

Opens two homes behind NATs of these kinds, a relay and signaling, until Ctrl-C. Nothing of it is left afterwards.

  NAT            public (none), fullcone, restricted, portrestricted, symmetric, linux (masquerading), udpblocked, or
                 MAPPING-FILTERING of ei, ad and apd, as in RFC 4787: apd-ei; then +hairpin, +preserve (ports), +30s (until it
                 forgets), +noudp, +web (TCP to 80 and 443), +tls (to 443 alone)
  --shell HOST   opens a shell in a, b or relay; the lab ends with it
  --run-a LINE   runs this in a shell in the first home (--run-b, --run-relay); the lab ends when all have ended
  --tcpdump HOST records the packets of a host below target/lab
  --delay 50ms --jitter 10ms --loss 1% --reorder 1% --duplicate 1% --rate 20mbit
                 what the lines of both homes are like, each way
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "farcall-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() || words.iter().any(|word| word == "--help" || word == "-h") {
        write!(std::io::stdout(), "{USAGE}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse(words)?;
    rights::enclose()?;
    let here = std::env::current_exe().context("asking where this program is")?;
    let programs = here.parent().context("a program without a folder")?.to_owned();
    let folder = programs.parent().context("a program in the root folder")?.join("lab");
    let (shell, has_runs) = (options.shell, !options.runs.is_empty());
    let playground = Playground::open(options, programs, folder)?;
    let mut out = std::io::stdout();
    write!(out, "{}", playground.greeting(Style::of_stdout()))?;
    out.flush()?;
    let code = if let Some(place) = shell {
        playground.shell(place)?;
        ExitCode::SUCCESS
    } else if has_runs {
        let mut good = true;
        for mut running in playground.start()? {
            good &= running.wait().context("waiting for a command")?.success();
        }
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    } else {
        writeln!(out, "\nCtrl-C ends it.")?;
        wait(&playground)?;
        ExitCode::SUCCESS
    };
    playground.close();
    Ok(code)
}

/// Waits until somebody wants us to end, or one of the servers has.
fn wait(playground: &Playground) -> Result<()> {
    let (tell, told) = channel();
    for process in playground.servers() {
        let (tell, name) = (tell.clone(), process.name().to_owned());
        // Nobody listens any more once we end.
        process.on_end(move || drop(tell.send(Some(name))))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async {
        anyhow::Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?])
    })?;
    std::thread::spawn(move || {
        let [interrupt, terminate] = &mut signals;
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
        });
        drop(tell.send(None));
    });
    let ended = told.recv().context("nobody is left to tell us to end")?;
    if let Some(name) = ended {
        bail!("{name} ended by itself");
    }
    Ok(())
}
