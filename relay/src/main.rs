//! The process: configuration, logs, `run`, exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use farcall_relay::config::{Args, Config, Sources, Verb};
use farcall_relay::credential::{self, Kind};
use farcall_relay::operate::Event;
use farcall_relay::service::{self, Ready, Setup};
use farcall_relay::{check, notify, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are answers, and go to stdout; anything else is a mistake.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::SUCCESS };
        }
    };
    match args.verb {
        None => run(args.sources),
        Some(Verb::Check(sources)) => check(&sources),
        Some(Verb::Credential(kind)) => make_credential(kind),
    }
}

fn run(sources: Sources) -> ExitCode {
    let config = match sources.read() {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match serve(config, sources) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A mistake here is one of the command line.
fn make_credential(kind: Kind) -> ExitCode {
    match credential::make(kind).and_then(|made| Ok(writeln!(io::stdout(), "{made}")?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("{error:#}"));
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

fn check(sources: &Sources) -> ExitCode {
    match sources.read() {
        Ok(config) => {
            let said = write!(io::stdout(), "{}", check::summary(&config));
            if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            complain(&error);
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

fn serve(config: Config, sources: Sources) -> anyhow::Result<()> {
    // Dropped last, so that nothing of what happens goes unsaid.
    let (logs, _writer) = telemetry::init(&config.log, config.log_format)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let mut listening = JoinSet::new();
        for (kind, event) in [
            (SignalKind::terminate(), (|| Event::Terminate) as fn() -> Event),
            (SignalKind::interrupt(), || Event::Terminate),
            (SignalKind::hangup(), || Event::Reload { answer: None }),
            (SignalKind::user_defined2(), || Event::Upgrade),
        ] {
            let mut signal = signal(kind)?;
            let sender = sender.clone();
            listening.spawn(async move {
                while signal.recv().await.is_some() && sender.send(event()).await.is_ok() {}
            });
        }
        let setup = Setup { config, sources, logs, events: (sender, receiver) };
        service::run(setup, announce).await
    });
    // A process that was about to take over may keep us waiting, and has nothing to wait for any more.
    runtime.shutdown_background();
    result
}

#[derive(serde::Serialize)]
struct Line<'a> {
    ready: &'a Ready,
}

/// The one line on stdout.
fn announce(ready: &Ready) -> anyhow::Result<()> {
    let line = serde_json::to_string(&Line { ready })?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .context("cannot say on stdout that it serves")?;
    notify::tell("READY=1");
    Ok(())
}

fn complain(error: &dyn std::fmt::Display) {
    // With stderr gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{error}");
}

/// Events that may wait: whoever asks faster is told to wait.
const EVENTS: usize = 16;
/// `EX_USAGE`.
const BAD_CONFIGURATION: u8 = 64;
