//! Throughput of a reliable data channel, as the two ends of `farcall-peer bench` measure it, beside aiortc.

use std::time::Duration;

use anyhow::Result;
use farcall_tests::clock::Deadline;
use farcall_tests::event::{Event, EventKind};
use farcall_tests::host::Host;
use farcall_tests::process::{Mark, Process};
use farcall_tests::stack::Stack;
use farcall_tests::{Context, args};

use super::aiortc::Aiortc;
use super::{Pair, attempt, note};
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
    let pair = Pair::on_loopback(&stack);
    let aiortc = match Aiortc::install() {
        Ok(aiortc) => Some(aiortc),
        Err(error) => {
            note(&format!("SKIPPED: aiortc cannot be installed, so its rows are missing: {error:#}"));
            None
        }
    };
    for round in 0..ROUNDS {
        let what = "data channel, loopback";
        let room = format!("direct-{round}");
        let direct = attempt(figures, what, |_| measure(ctx, &pair, "all", DIRECT, &room));
        if let Some(direct) = &direct {
            add(figures, what, direct, Some(150.0), Some(10.0));
        }
        let what = "data channel, both ends relay-only";
        let room = format!("relayed-{round}");
        if let Some(relayed) = attempt(figures, what, |_| measure(ctx, &pair, "relay", RELAYED, &room)) {
            add(figures, what, &relayed, Some(50.0), None);
        }
        let Some(aiortc) = &aiortc else { continue };
        let what = "aiortc's data channel, loopback";
        if let Some(theirs) = attempt(figures, what, |_| aiortc.measure(ctx)) {
            add(figures, what, &theirs, None, None);
            if let Some(direct) = direct {
                let times = direct.megabytes_per_second / theirs.megabytes_per_second;
                figures.add("farcall-peer to aiortc, loopback", "times", times);
            }
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

/// One transfer of `size`, as `farcall-peer` takes it.
pub(super) fn measure(
    ctx: &Context,
    pair: &Pair<'_>,
    policy: &str,
    size: &str,
    room: &str,
) -> Result<Measured> {
    let start = |host: &Host, role, send| start(ctx, host, &pair.signaling, policy, room, role, send);
    let receiver = start(pair.receiver, "receiver", None)?;
    let sender = start(pair.sender, "sender", Some(size))?;
    let (bytes, _, sending) = result(&sender)?;
    let (_, megabytes_per_second, receiving) = result(&receiver)?;
    #[expect(clippy::cast_precision_loss, reason = "mebibytes of a test")]
    let gibibytes = bytes as f64 / f64::from(1 << 30);
    Ok(Measured { megabytes_per_second, cpu_seconds_per_gibibyte: (sending + receiving) / gibibytes })
}

fn start(
    ctx: &Context,
    host: &Host,
    signaling: &str,
    policy: &str,
    room: &str,
    role: &str,
    send: Option<&str>,
) -> Result<Process> {
    let mut args = args!["--signaling", signaling, "--json", "--ice-policy", policy];
    args.extend(args!["bench", room, "--bind", host.ip.to_string()]);
    if let Some(size) = send {
        args.extend(args!["--send", size]);
    }
    ctx.spawn(host, &format!("{role}-{room}"), "farcall-peer", args)
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
