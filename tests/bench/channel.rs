//! Throughput of a reliable data channel, as the two ends of `farcall-peer bench` measure it.

use std::time::Duration;

use anyhow::Result;
use farcall_tests::clock::Deadline;
use farcall_tests::event::{Event, EventKind};
use farcall_tests::process::{Mark, Process};
use farcall_tests::stack::Stack;
use farcall_tests::{Context, args};

use crate::figures::Figures;

/// Measurements of each path.
const ROUNDS: usize = 5;
/// What one side sends over each path, as `farcall-peer` takes it and in bytes.
const DIRECT: &str = "256MiB";
const RELAYED: &str = "64MiB";
/// More than the slowest of them takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures.
pub(crate) fn run(ctx: &Context, figures: &mut Figures) -> Result<()> {
    let stack = Stack::start(ctx)?;
    for round in 0..ROUNDS {
        for (what, policy, size) in [("direct", "all", DIRECT), ("through the relay", "relay", RELAYED)] {
            let room = format!("{policy}-{round}");
            let what = format!("{size}, {what}");
            let receiver = start(ctx, &stack, policy, &room, "receiver", None)?;
            let sender = start(ctx, &stack, policy, &room, "sender", Some(size))?;
            let sent = result(&sender)?;
            let received = result(&receiver)?;
            figures.add(&what, "MB/s", received.megabytes_per_second);
            #[expect(clippy::cast_precision_loss, reason = "mebibytes of a test")]
            let gibibytes = sent.bytes as f64 / f64::from(1 << 30);
            figures.add(
                &what,
                "CPU-s per GiB, both ends",
                (sent.cpu_seconds + received.cpu_seconds) / gibibytes,
            );
        }
    }
    Ok(())
}

fn start(
    ctx: &Context,
    stack: &Stack,
    policy: &str,
    room: &str,
    role: &str,
    send: Option<&str>,
) -> Result<Process> {
    let mut args = args!["--signaling", stack.signaling.url(), "--json", "--ice-policy", policy];
    args.extend(args!["bench", room, "--bind", stack.host.ip.to_string()]);
    if let Some(size) = send {
        args.extend(args!["--send", size]);
    }
    ctx.spawn(&stack.host, &format!("{role}-{room}"), "farcall-peer", args)
}

struct Measured {
    bytes: u64,
    megabytes_per_second: f64,
    cpu_seconds: f64,
}

fn result(peer: &Process) -> Result<Measured> {
    peer.wait_for("its measurement", Mark::START, Deadline::after(PATIENCE), |line| {
        let EventKind::Bench { bytes, megabytes_per_second, cpu_seconds, .. } = Event::parse(line)?.kind
        else {
            return Ok(None);
        };
        Ok(Some(Measured { bytes, megabytes_per_second, cpu_seconds }))
    })
}
