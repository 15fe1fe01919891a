//! A peer that stays, and a thousand that call it one after the other: what stays behind of them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use farcall_tests::Context;
use farcall_tests::peer::Call;
use farcall_tests::process::Process;
use farcall_tests::stack::Stack;
use rustix::process::Signal;

use super::{attempt, note};
use crate::figures::{Figures, Goal};

const CALLS: usize = 1000;
/// Calls until what is kept for the next one is there.
const WARM: usize = 100;
const STEP: usize = 100;
/// As many say that something is wrong for good, and each takes its time.
const MOST_FAILED: usize = 10;

pub(super) fn run(ctx: &Context, figures: &mut Figures) -> Result<()> {
    let stack = Stack::start(ctx)?;
    let stays = stack.call(ctx, Call::new("stays").without_media())?;
    let watched = [
        ("farcall-peer", &stays.process),
        ("farcall-signaling", &stack.signaling.process),
        ("farcall-relay", &stack.relay.process),
    ];
    let mut before = Vec::new();
    let mut failed = 0;
    for call in 1..=CALLS {
        // Every tenth with media, every seventh through the relay.
        let mut caller = Call::new("caller");
        caller = if call % 10 == 0 { caller } else { caller.without_media() };
        caller = if call % 7 == 0 { caller.relay_only() } else { caller };
        let came = attempt(figures, "a call of the soak", |_| {
            let mut caller = stack.call(ctx, caller)?;
            caller.channel_open()?;
            caller.process.signal(Signal::INT)?;
            caller.ends_well().with_context(|| format!("call {call}"))
        });
        failed += usize::from(came.is_none());
        ensure!(failed < MOST_FAILED, "{failed} of {call} calls failed");
        if call % STEP == 0 {
            let now = watched.map(|(_, process)| resident(process));
            note(&format!("after {call} calls, MiB resident: {}", shown(&now)));
        }
        if call == WARM {
            before = watched.iter().map(|(_, process)| resident(process)).collect::<Result<_>>()?;
        }
    }
    for ((name, process), before) in watched.iter().zip(before) {
        let grown = 100.0 * resident(process)? / before;
        let what = format!("{name} after {CALLS} calls, of what it was after {WARM}");
        figures.add_towards(Goal::AtMost(110.0), &what, "% resident", grown);
    }
    Ok(())
}

fn shown(resident: &[Result<f64>]) -> String {
    let shown = resident.iter().map(|resident| match resident {
        Ok(bytes) => format!("{:.1}", bytes / f64::from(1 << 20)),
        Err(error) => format!("{error:#}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Bytes.
fn resident(process: &Process) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(1024.0 * line.trim().trim_end_matches(" kB").parse::<f64>()?)
}
