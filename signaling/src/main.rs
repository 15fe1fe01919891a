//! The process: configuration, logs, signals, exit code.

use std::process::ExitCode;

use clap::Parser;
use farcall_signaling::clock::Clock;
use farcall_signaling::config::{Command, CommandLine, Config, LogFormat};
use farcall_signaling::server::{self, Ready};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::SUCCESS };
        }
    };
    if let Some(Command::Token(token)) = line.command {
        return match token.mint(Clock::real().unix_time()) {
            Ok(token) => {
                print(&token);
                ExitCode::SUCCESS
            }
            Err(mistake) => {
                complain(&mistake);
                ExitCode::from(BAD_CONFIGURATION)
            }
        };
    }
    let config = match Config::load(line.settings, line.config.as_deref()) {
        Ok(config) => config,
        Err(mistakes) => {
            complain(&mistakes);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match line.command {
        Some(Command::Check) => {
            for warning in config.warnings() {
                complain(&format_args!("warning: {warning}"));
            }
            ExitCode::SUCCESS
        }
        Some(Command::Token(_)) | None => match serve(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format_args!("{error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

#[tokio::main]
async fn serve(config: Config) -> anyhow::Result<()> {
    start_logs(&config);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server::run(config, announce, shutdown).await
}

fn start_logs(config: &Config) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.log.filter));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => logs.with_ansi(false).init(),
        LogFormat::Json => logs.json().init(),
    }
}

/// The one line on stdout, by which whoever started this process finds it.
fn announce(ready: Ready) {
    print(&serde_json::json!({ "ready": ready }));
}

#[expect(clippy::print_stdout, reason = "stdout is for what was asked for")]
fn print(result: &dyn std::fmt::Display) {
    println!("{result}");
}

#[expect(clippy::print_stderr, reason = "there may be no logs yet")]
fn complain(about: &dyn std::fmt::Display) {
    eprintln!("{about}");
}

/// `EX_USAGE` of sysexits.
const BAD_CONFIGURATION: u8 = 64;
