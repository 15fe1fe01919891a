//! The process: flags, logs, the verb, the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use farcall_peer::cli::{Cli, Verb};
use farcall_peer::{Event, Failure, Format, Reason, Reporter, verbs};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // The libraries' own complaints are ours in other words.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off,farcall_peer=warn"));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let format = if cli.common.json { Format::Json } else { Format::Human };
    let reporter = match &cli.verb {
        // Its stdout is for what comes.
        Verb::Pipe(_) => Reporter::beside_data(format),
        Verb::Call(_)
        | Verb::Candidates(_)
        | Verb::Bench(_)
        | Verb::Send(_)
        | Verb::Receive(_)
        | Verb::Forward(_)
        | Verb::Echo(_)
        | Verb::Nat(_)
        | Verb::Doctor(_)
        | Verb::Identity
        | Verb::Known(_)
        | Verb::Completions(_)
        | Verb::Man(_) => Reporter::new(format),
    };
    match block_on(&cli, &reporter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.reason.exit_code();
            let Failure { reason, message, details } = failure;
            reporter.event(&Event::Error { reason, message, details });
            ExitCode::from(code)
        }
    }
}

fn block_on(cli: &Cli, reporter: &Reporter) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Reason::Internal, error.to_string()))?;
    let result = runtime.block_on(async {
        match &cli.verb {
            Verb::Call(call) => verbs::call::run(&cli.common, call, reporter).await,
            Verb::Candidates(candidates) => verbs::candidates::run(&cli.common, candidates, reporter).await,
            Verb::Send(send) => verbs::send::run(&cli.common, send, reporter).await,
            Verb::Receive(receive) => verbs::receive::run(&cli.common, receive, reporter).await,
            Verb::Pipe(pipe) => verbs::pipe::run(&cli.common, pipe, reporter).await,
            Verb::Forward(forward) => verbs::forward::run(&cli.common, forward, reporter).await,
            Verb::Echo(echo) => verbs::echo::run(&cli.common, echo, reporter).await,
            Verb::Nat(nat) => verbs::nat::run(&cli.common, nat, reporter).await,
            Verb::Doctor(doctor) => verbs::doctor::run(&cli.common, doctor, reporter).await,
            Verb::Identity => verbs::identity::own(&cli.common, reporter),
            Verb::Known(flags) => verbs::identity::known(flags, reporter),
            Verb::Completions(flags) => verbs::manual::completions(flags),
            Verb::Man(flags) => verbs::manual::pages(flags),
            Verb::Bench(bench) => verbs::bench::run(&cli.common, bench, reporter).await,
        }
    });
    // A thread that waits for a line on stdin must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Help and version are no mistakes; everything else is 64, as for a bad file.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { Reason::BadUsage.exit_code() } else { 0 })
}
