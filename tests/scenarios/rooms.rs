//! Who may be in a room, and what its members learn of each other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::pair::Pair;
use crate::clock::now;
use crate::event::EventKind;
use crate::host::Host;
use crate::peer::{Call, Peer};
use crate::signaling::Signaling;
use crate::stack::{Settings, Stack};
use crate::{Context, Evidence, args};

pub(super) fn third_peer_refused(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let mut pair = Pair::meet(ctx, &stack, Call::without_media)?;
    let mut carol = stack.call(ctx, Call::new("carol").without_media())?;
    let failure = carol.fails("ROOM_FULL", 75)?;
    pair.talk("After the third")?;
    pair.hang_up()?;

    // The place of one who left is free.
    let dave = stack.call(ctx, Call::new("dave").without_media())?;
    dave.joined()?;
    Ok(Evidence::new()
        .connected(&pair.connected)
        .fact(format!("Carol ended with ROOM_FULL and exit code 75: {}", failure.message))
        .fact("text went both ways between Alice and Bob after that")
        .fact("when they had left, Dave was let in"))
}

pub(super) fn peer_killed(ctx: &Context) -> Result<Evidence> {
    let signaling = args!["--presence-grace", "500ms", "--resume-window", "2s"];
    let stack = Stack::start_with(ctx, Settings { signaling, ..Settings::default() })?;
    let Pair { alice, bob, connected: _ } = Pair::meet(ctx, &stack, Call::without_media)?;
    let (session, _) = bob.joined()?;
    let mark = alice.process.mark();
    let killed_at = now();
    bob.process.signal(Signal::KILL)?;

    let since = || now().duration_since(killed_at);
    alice.is_told(mark, &session, "reconnecting")?;
    let reconnecting = since();
    let reason = alice.is_told(mark, &session, "left")?.context("it left without a reason")?;
    let left = since();
    ensure!(reconnecting >= GRACE_AT_LEAST, "{reconnecting:?} is less than the grace that hides a blip");

    let mark = alice.process.mark();
    let mut carol = stack.call(ctx, Call::new("carol").without_media())?;
    let connected = carol.connected()?;
    alice.wait_from(mark, "a second connection", |event| {
        matches!(event, EventKind::Connected(_)).then_some(())
    })?;
    carol.channel_open()?;
    carol.say("I am new here")?;
    alice.hears("I am new here")?;
    Ok(Evidence::new()
        .connected(&connected)
        .fact(format!("Alice was told that Bob is reconnecting after {} ms", reconnecting.as_millis()))
        .fact(format!("and that he left ({reason}) after {} ms", left.as_millis()))
        .fact("Carol took his place, connected to Alice, and her text arrived"))
}

/// `--presence-grace`, less the time between the kill and the server's noticing it, which is none.
const GRACE_AT_LEAST: Duration = Duration::from_millis(450);

pub(super) fn bad_join_token(ctx: &Context) -> Result<Evidence> {
    let host = Host::local();
    let signaling = Signaling::start(ctx, &host, &args!["--join-token", "opensesame"])?;
    let call = |call: Call| Peer::call(ctx, &host, &signaling.url(), call.without_media());
    let wrong = call(Call::new("wrong").token("opensesami"))?.fails("BAD_TOKEN", 77)?;
    let missing = call(Call::new("missing"))?.fails("BAD_TOKEN", 77)?;
    let (_, ordinal) = call(Call::new("right").token("opensesame"))?.joined()?;
    ensure!(ordinal == 1, "the first to be let in has ordinal {ordinal}: a refused one took a place");
    Ok(Evidence::new()
        .fact(format!("a wrong token: BAD_TOKEN, exit code 77: {}", wrong.message))
        .fact(format!("no token: BAD_TOKEN, exit code 77: {}", missing.message))
        .fact("the right token joined, as the first in the room"))
}

pub(super) fn unreachable_signaling(ctx: &Context) -> Result<Evidence> {
    let host = Host::local();
    // A port that was free a moment ago, on an address where nothing else is started.
    let alone = Host::local_alone(99);
    let port = std::net::TcpListener::bind((alone.ip, 0))?.local_addr()?.port();
    let url = format!("http://{}:{port}", alone.ip);
    let mut alice = Peer::call(ctx, &host, &url, Call::new("alice").without_media())?;
    let failure = alice.fails("UNREACHABLE", 69)?;
    let said = format!("{} {}", failure.message, failure.details);
    ensure!(said.contains(&port.to_string()), "it does not say what it could not reach: {said}");
    Ok(Evidence::new().fact(format!("UNREACHABLE, exit code 69: {}", failure.message)))
}
