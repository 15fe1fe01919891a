//! `farcall-up`: signaling and relay on this machine, on the ports that people expect, until Ctrl-C.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use farcall_tests::clock::Deadline;
use farcall_tests::host::Host;
use farcall_tests::process::Process;
use farcall_tests::relay::Relay;
use farcall_tests::signaling::Signaling;
use farcall_tests::terminal::{Style, shown};
use farcall_tests::{Context, args};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

const SIGNALING: &str = "127.0.0.1:8080";
const RELAY: &str = "127.0.0.1:3478";

/// How long the two may take to say goodbye.
const DRAIN: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "farcall-up: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let here = std::env::current_exe().context("asking where this program is")?;
    let programs = here.parent().context("a program without a folder")?.to_owned();
    let logs = programs.parent().context("a program in the root folder")?.join("up");
    let ctx = Context::new(programs.clone(), logs.clone());
    let host = Host::local();

    let secret = secret()?;
    let relay = Relay::listen(&ctx, &host, RELAY, &args!["--auth-secret", &secret])?;
    let servers = args!["--stun", relay.stun_uri(), "--turn", relay.turn_uri(), "--turn-secret", &secret];
    let signaling = Signaling::listen(&ctx, &host, "signaling", SIGNALING, &servers)?;
    let mut out = std::io::stdout();
    write!(out, "{}", greeting(Style::of_stdout(), &signaling, &relay, &programs, &logs))?;

    let mut processes = [signaling.process, relay.process];
    if let Some(name) = wait(&processes)? {
        let words = processes.iter().find(|process| process.name() == name).map(Process::last_words);
        bail!("{name} ended by itself. {}", words.unwrap_or_default());
    }
    writeln!(out, "\nending …")?;
    for process in &processes {
        process.signal(Signal::TERM)?;
    }
    for process in &mut processes {
        let code = process.exit_code(Deadline::after(DRAIN))?;
        writeln!(out, "{} ended with exit code {code}", process.name())?;
    }
    Ok(())
}

/// Waits until somebody wants us to end, or one of the two has; returns the name of that one.
fn wait(processes: &[Process]) -> Result<Option<String>> {
    let (tell, told) = channel();
    for process in processes {
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
    told.recv().context("nobody is left to tell us to end")
}

fn greeting(style: Style, signaling: &Signaling, relay: &Relay, programs: &Path, logs: &Path) -> String {
    let mut text = String::new();
    let call = format!("{}/farcall-peer --signaling {} call my-room", shown(programs), signaling.url());
    for (what, value) in [
        ("signaling", signaling.url()),
        ("relay", format!("{} (STUN and TURN over UDP and TCP)", relay.udp)),
        ("logs", shown(logs)),
    ] {
        let _ = writeln!(text, "{} {value}", style.bold(&format!("{what:<10}")));
    }
    let _ = writeln!(text, "\nTo call, in each of two terminals:\n\n    {}\n", style.green(&call));
    let _ =
        writeln!(text, "Text that you type there arrives at the other side. Ctrl-C here ends both servers.");
    text
}

/// What relay and signaling share, new each time: nobody else on this machine can use the relay.
fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
