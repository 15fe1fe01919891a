//! The process: configuration, logs, `run`, exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use farcall_relay::config::{Args, Config, Verb};
use farcall_relay::credential::{self, Kind};
use farcall_relay::service::{self, Ready};
use farcall_relay::telemetry;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are answers, and go to stdout; anything else is a mistake.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::SUCCESS };
        }
    };
    if let Some(Verb::Credential(kind)) = args.verb {
        return make_credential(kind);
    }
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match serve(config) {
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

fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.log, config.log_format)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        service::run(config, shutdown, announce).await
    })
}

#[derive(serde::Serialize)]
struct Line<'a> {
    ready: &'a Ready,
}

/// The one line on stdout.
fn announce(ready: &Ready) -> anyhow::Result<()> {
    let line = serde_json::to_string(&Line { ready })?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("cannot say on stdout that it serves")
}

fn complain(error: &dyn std::fmt::Display) {
    // With stderr gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{error}");
}

/// `EX_USAGE`.
const BAD_CONFIGURATION: u8 = 64;
