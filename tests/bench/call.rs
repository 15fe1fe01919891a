//! How long two people wait: from the second one's joining to the first message on the data channel.

use anyhow::Result;
use farcall_tests::Context;
use farcall_tests::clock::{Deadline, PATIENCE};
use farcall_tests::event::{Event, EventKind};
use farcall_tests::peer::{Call, Peer};
use farcall_tests::process::Mark;
use farcall_tests::stack::Stack;

use crate::figures::Figures;

/// Calls of each kind.
const ROUNDS: usize = 20;

/// Measures.
pub(crate) fn run(ctx: &Context, figures: &mut Figures) -> Result<()> {
    let stack = Stack::start(ctx)?;
    for round in 0..ROUNDS {
        // A room of their own each: whoever was killed after the last measurement still holds a place in its own.
        let call = |name: &str, path: &str| {
            let room = format!("{path}-{round}");
            Call::new(&format!("{name}-{room}")).in_room(&room).without_media()
        };
        let direct = |name| call(name, "direct");
        let relayed = |name| call(name, "relayed").relay_only();
        let elapsed = measure(ctx, &stack, direct("alice"), direct("bob"))?;
        figures.add("first message, direct over loopback", "ms", elapsed);
        let elapsed = measure(ctx, &stack, relayed("alice"), relayed("bob"))?;
        figures.add("first message, both ends relay-only", "ms", elapsed);
    }
    Ok(())
}

/// Milliseconds between bob's `joined` and alice's greeting, both as bob saw them.
fn measure(ctx: &Context, stack: &Stack, alice: Call, bob: Call) -> Result<f64> {
    let mut alice = stack.call(ctx, alice)?;
    alice.say("good evening")?;
    alice.joined()?;
    let bob = stack.call(ctx, bob)?;
    let greeted = at(&bob, "alice's greeting", |event| matches!(event, EventKind::Text { .. }))?;
    let joined = at(&bob, "joining the room", |event| matches!(event, EventKind::Joined { .. }))?;
    Ok(greeted - joined)
}

fn at(peer: &Peer, what: &str, wanted: impl Fn(&EventKind) -> bool) -> Result<f64> {
    peer.process.wait_for(what, Mark::START, Deadline::after(PATIENCE), |line| {
        let event = Event::parse(line)?;
        Ok(wanted(&event.kind).then_some(event.at_ms))
    })
}
