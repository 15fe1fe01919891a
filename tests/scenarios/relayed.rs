//! Calls through the relay, and those that it refuses.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::pair::{Pair, nearly_all};
use crate::event::{Relayed, Stats};
use crate::peer::Call;
use crate::relay::{Direction, Traffic};
use crate::stack::{Settings, Stack};
use crate::{Context, Evidence};

/// So long that one key frame, which may be under way when the first side hangs up, is less than the tolerance.
const CALL: Duration = Duration::from_secs(8);

pub(super) fn call(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let mut pair = Pair::meet(ctx, &stack, |call| call.relay_only().lasting(CALL))?;
    let path = &pair.connected.path;
    ensure!((path.local.as_str(), path.remote.as_str()) == ("relay", "relay"), "the path is {path}");
    pair.see_and_hear()?;
    pair.talk("Relayed")?;
    let (alice, bob) = pair.end()?;

    for (name, own, other) in [("Alice", &alice, &bob), ("Bob", &bob, &alice)] {
        let (own, other) = (own.video.context("no video stats")?, other.video.context("no video stats")?);
        nearly_all(
            &format!("video frames at {name}"),
            own.frames_received,
            other.frames_sent,
            12 * CALL.as_secs(),
        )?;
    }

    // Each has an allocation of its own on the one relay: what a client sends goes out as "to peer", reaches the
    // other's relayed address, and goes on from there as "to client".
    let (alice_relayed, bob_relayed) = (relayed(&alice)?, relayed(&bob)?);
    let sent = Traffic {
        datagrams: alice_relayed.datagrams_sent + bob_relayed.datagrams_sent,
        bytes: alice_relayed.bytes_sent + bob_relayed.bytes_sent,
    };
    let received = Traffic {
        datagrams: alice_relayed.datagrams_received + bob_relayed.datagrams_received,
        bytes: alice_relayed.bytes_received + bob_relayed.bytes_received,
    };
    let to_peer = stack.relay.forwarded(Direction::ToPeer)?;
    let to_client = stack.relay.forwarded(Direction::ToClient)?;
    let allocations = stack.relay.allocations_created()?;
    ensure!(allocations >= 2, "two peers made {allocations} allocations");
    Ok(Evidence::new()
        .connected(&pair.connected)
        .arrived(&alice, &bob)
        .fact(agree("sent", sent, to_peer)?)
        .fact(agree("received", received, to_client)?)
        .fact(format!("both ends are relay candidates of {allocations} allocations; text went both ways")))
}

fn relayed(stats: &Stats) -> Result<Relayed> {
    stats.relay.context("no relay stats")
}

/// Fails unless the peers' and the relay's counts are the same but for what was under way at the end.
fn agree(verb: &str, peers: Traffic, relay: Traffic) -> Result<String> {
    for (what, peers, relay) in
        [("datagrams", peers.datagrams, relay.datagrams), ("bytes", peers.bytes, relay.bytes)]
    {
        ensure!(peers > 0, "the peers {verb} no {what}");
        let apart = peers.abs_diff(relay) * 100;
        ensure!(
            apart <= TOLERANCE_PERCENT * peers.max(relay),
            "the peers {verb} {peers} {what}, the relay forwarded {relay}: more than {TOLERANCE_PERCENT} % apart"
        );
    }
    Ok(format!(
        "the peers {verb} {} datagrams, {} bytes through it; the relay counted {} and {}",
        peers.datagrams, peers.bytes, relay.datagrams, relay.bytes
    ))
}

/// A peer counts until it prints; the relay counts what comes after that, too.
/// On a busy machine more is under way when one of them hangs up.
const TOLERANCE_PERCENT: u64 = 5;

pub(super) fn wrong_password(ctx: &Context) -> Result<Evidence> {
    let settings = Settings { turn_secret: "not-the-secret-of-the-relay", ..Settings::default() };
    let stack = Stack::start_with(ctx, settings)?;
    let mut alice = stack.call(ctx, Call::new("alice").relay_only().without_media())?;
    alice.joined()?;
    let mut bob = stack.call(ctx, Call::new("bob").relay_only().without_media())?;

    let mut evidence = Evidence::new();
    for peer in [&mut alice, &mut bob] {
        let failure = peer.fails("ICE_FAILED", 76)?;
        let said = format!("{} {}", failure.message, failure.details);
        ensure!(
            ["401", "Unauthorized", "unauthorized"].iter().any(|word| said.contains(word)),
            "{} does not say that the relay refused it: {said}",
            peer.process.name()
        );
        evidence =
            evidence.fact(format!("{} ended with ICE_FAILED: {}", peer.process.name(), failure.message));
    }
    let refused = stack.relay.requests("allocate", "401")?;
    let granted = stack.relay.requests("allocate", "success")?;
    let created = stack.relay.allocations_created()?;
    // The first request of a client carries no credentials and is answered 401 as well.
    ensure!(refused >= 4, "the relay refused {refused} requests of two peers");
    ensure!((granted, created) == (0, 0), "the relay granted {granted} requests, made {created} allocations");
    Ok(evidence.fact(format!("the relay answered 401 to {refused} Allocate requests and made no allocation")))
}
