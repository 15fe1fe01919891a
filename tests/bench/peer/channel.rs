//! Throughput of a reliable data channel, as the two ends of `farcall-peer bench` measure it, beside aiortc.

use std::time::Duration;

use anyhow::Result;
use farcall_tests::clock::Deadline;
use farcall_tests::event::{Event, EventKind};
use farcall_tests::process::{Mark, Process};
use farcall_tests::stack::Stack;
use farcall_tests::{Context, args};

use super::aiortc::Aiortc;
use super::note;
use crate::figures::{Figures, Goal};

/// Measurements of each path.
const ROUNDS: usize = 5;
/// What one side sends over each path, as `farcall-peer` takes it.
const DIRECT: &str = "256MiB";
const RELAYED: &str = "64MiB";
/// More than the slowest of them takes.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(ctx: &Context, figures: &mut Figures) -> Result<()> {
    let stack = Stack::start(ctx)?;
    let aiortc = match Aiortc::install() {
        Ok(aiortc) => Some(aiortc),
        Err(error) => {
            note(&format!("SKIPPED: aiortc cannot be installed, so its rows are missing: {error:#}"));
            None
        }
    };
    for round in 0..ROUNDS {
        let direct = measure(ctx, &stack, "all", DIRECT, round)?;
        add(figures, "data channel, loopback", &direct, Some(150.0), Some(10.0));
        let relayed = measure(ctx, &stack, "relay", RELAYED, round)?;
        add(figures, "data channel, both ends relay-only", &relayed, Some(50.0), None);
        if let Some(aiortc) = &aiortc {
            let theirs = aiortc.measure(ctx)?;
            add(figures, "aiortc's data channel, loopback", &theirs, None, None);
            let times = direct.megabytes_per_second / theirs.megabytes_per_second;
            figures.add("farcall-peer to aiortc, loopback", "times", times);
        }
    }
    Ok(())
}

/// What both ends of one transfer say.
pub(super) struct Measured {
    pub(super) megabytes_per_second: f64,
    pub(super) cpu_seconds_per_gibibyte: f64,
}

fn add(figures: &mut Figures, what: &str, measured: &Measured, speed: Option<f64>, cost: Option<f64>) {
    let (fast, cheap) = (measured.megabytes_per_second, measured.cpu_seconds_per_gibibyte);
    match speed {
        Some(least) => figures.add_towards(Goal::AtLeast(least), what, "MB/s", fast),
        None => figures.add(what, "MB/s", fast),
    }
    match cost {
        Some(most) => figures.add_towards(Goal::AtMost(most), what, "CPU-s per GiB, both ends", cheap),
        None => figures.add(what, "CPU-s per GiB, both ends", cheap),
    }
}

fn measure(ctx: &Context, stack: &Stack, policy: &str, size: &str, round: usize) -> Result<Measured> {
    let room = format!("{policy}-{round}");
    let receiver = start(ctx, stack, policy, &room, "receiver", None)?;
    let sender = start(ctx, stack, policy, &room, "sender", Some(size))?;
    let (bytes, _, sending) = result(&sender)?;
    let (_, megabytes_per_second, receiving) = result(&receiver)?;
    #[expect(clippy::cast_precision_loss, reason = "mebibytes of a test")]
    let gibibytes = bytes as f64 / f64::from(1 << 30);
    Ok(Measured { megabytes_per_second, cpu_seconds_per_gibibyte: (sending + receiving) / gibibytes })
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

/// Bytes, megabytes a second, CPU seconds.
fn result(peer: &Process) -> Result<(u64, f64, f64)> {
    peer.wait_for("its measurement", Mark::START, Deadline::after(PATIENCE), |line| {
        let EventKind::Bench { bytes, megabytes_per_second, cpu_seconds, .. } = Event::parse(line)?.kind
        else {
            return Ok(None);
        };
        Ok(Some((bytes, megabytes_per_second, cpu_seconds)))
    })
}
