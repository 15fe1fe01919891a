//! What a connection costs that carries nothing: `farcall-peer bench --connections` at both ends.

use std::time::Duration;

use anyhow::Result;
use farcall_tests::clock::{Deadline, now};
use farcall_tests::event::{Event, EventKind};
use farcall_tests::peer::Peer;
use farcall_tests::process::Mark;
use farcall_tests::stack::Stack;
use farcall_tests::{Context, args};
use rustix::process::Signal;

use super::attempt;
use crate::figures::{Figures, Goal};

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 100;
/// How long they keep still, which shows in CPU time of a hundredth of a percent each.
const STILL: Duration = Duration::from_secs(20);
/// Safety words take a while on purpose, and each connection has its own.
const PATIENCE: Duration = Duration::from_secs(180);

pub(super) fn run(ctx: &Context, figures: &mut Figures) -> Result<()> {
    let stack = Stack::start(ctx)?;
    for round in 0..ROUNDS {
        let _ = attempt(figures, "idle connections", |figures| measure(ctx, &stack, round, figures));
    }
    Ok(())
}

fn measure(ctx: &Context, stack: &Stack, round: usize, figures: &mut Figures) -> Result<()> {
    let start = |name: &str| {
        let room = format!("idle-{round}");
        let verb = args!["bench", room, "--connections", CONNECTIONS.to_string()];
        stack.peer(ctx, name, &[], verb)
    };
    let (mut first, mut second) = (start("first")?, start("second")?);
    for peer in [&first, &second] {
        let mut settled = 0;
        peer.process.wait_for("its connections", Mark::START, Deadline::after(PATIENCE), |line| {
            // The last thing that is computed when one comes up.
            settled += usize::from(matches!(Event::parse(line)?.kind, EventKind::SafetyWords { .. }));
            Ok((settled == CONNECTIONS).then_some(()))
        })?;
    }
    // Waiting is the measurement: they tell what they used meanwhile.
    let until = now() + STILL;
    while now() < until {
        std::thread::park_timeout(until - now());
    }
    for peer in [&mut first, &mut second] {
        let (resident, cpu) = cost(peer)?;
        figures.add_towards(Goal::AtMost(1024.0), "an idle connection, resident", "KiB", resident);
        figures.add_towards(Goal::AtMost(0.1), "an idle connection, CPU", "% of a core", cpu);
    }
    Ok(())
}

/// Ends it, and returns KiB and percent for each connection.
fn cost(peer: &mut Peer) -> Result<(f64, f64)> {
    peer.process.signal(Signal::INT)?;
    let cost = peer.wait("what they cost", |event| {
        let EventKind::Held { connections, resident_bytes, cpu_percent } = event else { return None };
        #[expect(clippy::cast_precision_loss, reason = "far from that many")]
        let (connections, resident) = (connections as f64, resident_bytes as f64);
        Some((resident / 1024.0 / connections, cpu_percent / connections))
    })?;
    peer.process.exit_code(Deadline::after(PATIENCE))?;
    Ok(cost)
}
