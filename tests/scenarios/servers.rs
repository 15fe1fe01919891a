//! Servers that die, come back, or are asked to end while a call is up.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::pair::{Pair, nearly_all};
use crate::clock::{Deadline, now};
use crate::host::Host;
use crate::peer::Call;
use crate::relay::Direction;
use crate::stack::{Settings, Stack};
use crate::watcher::Watcher;
use crate::{Context, Evidence, args};

pub(super) fn signaling_killed(ctx: &Context) -> Result<Evidence> {
    let settings = Settings { signaling_host: Host::local_alone(1), ..Settings::default() };
    let mut stack = Stack::start_with(ctx, settings)?;
    // Through the relay, so that somebody else than the peers counts their media.
    let mut pair = Pair::meet(ctx, &stack, Call::relay_only)?;
    pair.see_and_hear()?;

    let marks = [pair.alice.process.mark(), pair.bob.process.mark()];
    let killed_at = now();
    stack.signaling.process.signal(Signal::KILL)?;
    let peers = [(&pair.alice, marks[0]), (&pair.bob, marks[1])];
    for (peer, mark) in peers {
        peer.signaling_is(mark, &["lost"])?;
    }
    let before = stack.relay.forwarded(Direction::ToClient)?;
    let meanwhile = stack.relay.forwards_on(before, DATAGRAMS)?;

    stack.restart_signaling(ctx, "signaling-again")?;
    let mut back = Vec::new();
    for (peer, mark) in peers {
        back.push(peer.signaling_is(mark, &["rejoined", "resumed"])?);
    }
    let away = now().duration_since(killed_at);
    stack.relay.forwards_on(stack.relay.forwarded(Direction::ToClient)?, DATAGRAMS)?;
    pair.talk("After the restart")?;
    let (alice, bob) = pair.hang_up()?;
    for (name, own, other) in [("Alice", &alice, &bob), ("Bob", &bob, &alice)] {
        let (own, other) = (own.video.context("no video stats")?, other.video.context("no video stats")?);
        nearly_all(&format!("video frames at {name}"), own.frames_received, other.frames_sent, 12)?;
    }

    let mut next = Pair::meet_as(ctx, &stack, ["carol", "dave"], Call::without_media)?;
    next.talk("The next call")?;
    Ok(Evidence::new()
        .connected(&pair.connected)
        .arrived(&alice, &bob)
        .fact(format!(
            "without signaling the relay still forwarded {} datagrams of the call",
            meanwhile.datagrams - before.datagrams
        ))
        .fact(format!("both peers were back ({}) {} ms after the kill", back.join(", "), away.as_millis()))
        .fact("no gap in the video: at least nine of ten frames sent arrived; text still went both ways")
        .fact("the next two peers met in the same room and talked"))
}

/// Some two seconds of a call.
const DATAGRAMS: u64 = 150;

pub(super) fn terminated(ctx: &Context) -> Result<Evidence> {
    let signaling = args!["--drain-grace", "1s"];
    let mut stack = Stack::start_with(ctx, Settings { signaling, ..Settings::default() })?;
    let pair = Pair::meet(ctx, &stack, Call::relay_only)?;
    pair.see_and_hear()?;
    let watcher = Watcher::join(&stack.signaling.url(), "another-room")?;

    let asked_at = now();
    stack.signaling.process.signal(Signal::TERM)?;
    let go_away = watcher.go_away()?;
    let code = stack.signaling.process.exit_code(Deadline::after(BOUND))?;
    ensure!(code == 0, "signaling ended with exit code {code}");
    let signaling_took = now().duration_since(asked_at);
    stack.relay.forwards_on(stack.relay.forwarded(Direction::ToClient)?, DATAGRAMS)?;

    let allocations = stack.relay.allocations()?;
    ensure!(allocations >= 2, "the relay holds {allocations} allocations during a call of two");
    let asked_at = now();
    stack.relay.process.signal(Signal::TERM)?;
    let code = stack.relay.process.exit_code(Deadline::after(BOUND))?;
    ensure!(code == 0, "the relay ended with exit code {code}");
    let relay_took = now().duration_since(asked_at);
    Ok(Evidence::new()
        .connected(&pair.connected)
        .fact(format!(
            "signaling sent GoAway ({:?}) on an open stream and exited 0 after {} ms; the call went on",
            go_away.action(),
            signaling_took.as_millis()
        ))
        .fact(format!(
            "the relay, with {allocations} allocations, exited 0 after {} ms",
            relay_took.as_millis()
        )))
}

/// How long a drain may take.
const BOUND: Duration = Duration::from_secs(10);
