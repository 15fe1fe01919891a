//! How long two people wait: from when both are in the room until the data channel is open at both ends, and until the
//! second one reads what the first had written before.

use anyhow::Result;
use farcall_tests::Context;
use farcall_tests::clock::{Deadline, PATIENCE};
use farcall_tests::event::{Event, EventKind};
use farcall_tests::peer::{Call, Peer};
use farcall_tests::process::Mark;
use farcall_tests::stack::Stack;
use rustix::process::Signal;

use super::attempt;
use crate::figures::{Figures, Goal};

/// Calls over the direct path, and how many of them are followed by one through the relay.
const ROUNDS: usize = 300;
const RELAYED: usize = 100;

pub(super) fn run(ctx: &Context, figures: &mut Figures) -> Result<()> {
    let stack = Stack::start(ctx)?;
    for round in 0..ROUNDS {
        // A room of their own each: whoever was killed after the last measurement still holds a place in its own.
        let call = |name: &str, path: &str| {
            Call::new(&format!("{name}-{path}")).in_room(&format!("{path}-{round}")).without_media()
        };
        let direct = |name| call(name, "direct");
        let what = "data channel open, loopback";
        if let Some(waited) = attempt(figures, what, |_| measure(ctx, &stack, direct("alice"), direct("bob")))
        {
            figures.add_towards(Goal::AtMostAndWorst(30.0, 60.0), what, "ms", waited.open);
            figures.add("first message read, loopback", "ms", waited.greeted);
        }
        if round % (ROUNDS / RELAYED) == 0 {
            let relayed = |name| call(name, "relayed").relay_only();
            let what = "data channel open, both ends relay-only";
            let run = |_: &mut Figures| measure(ctx, &stack, relayed("alice"), relayed("bob"));
            if let Some(waited) = attempt(figures, what, run) {
                figures.add_towards(Goal::WorstAtMost(80.0), what, "ms", waited.open);
                figures.add("first message read, both ends relay-only", "ms", waited.greeted);
            }
        }
    }
    Ok(())
}

struct Waited {
    /// Until the slower of both ends has the channel.
    open: f64,
    greeted: f64,
}

fn measure(ctx: &Context, stack: &Stack, alice: Call, bob: Call) -> Result<Waited> {
    let mut alice = stack.call(ctx, alice)?;
    alice.say("good evening")?;
    alice.joined()?;
    let mut bob = stack.call(ctx, bob)?;
    let greeted = at(&bob, "alice's greeting", |event| matches!(event, EventKind::Text { .. }))?;
    let joined = at(&bob, "joining the room", |event| matches!(event, EventKind::Joined { .. }))?;
    let waited = Waited { open: open(&alice)?.max(open(&bob)?), greeted: greeted - joined };
    // One that is killed leaves its allocation behind, and who is given its port later is refused.
    for peer in [&mut alice, &mut bob] {
        peer.process.signal(Signal::INT)?;
    }
    for peer in [&mut alice, &mut bob] {
        peer.process.exit_code(Deadline::after(PATIENCE))?;
    }
    Ok(waited)
}

/// Milliseconds since both were in the room, by this one's clock.
fn open(peer: &Peer) -> Result<f64> {
    peer.wait("the data channel", |event| {
        if let EventKind::ChannelOpen { elapsed_ms, .. } = event { Some(elapsed_ms) } else { None }
    })
}

fn at(peer: &Peer, what: &str, wanted: impl Fn(&EventKind) -> bool) -> Result<f64> {
    peer.process.wait_for(what, Mark::START, Deadline::after(PATIENCE), |line| {
        let event = Event::parse(line)?;
        Ok(wanted(&event.kind).then_some(event.at_ms))
    })
}
