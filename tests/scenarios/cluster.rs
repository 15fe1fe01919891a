//! Several signaling servers that share a Redis.

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::pair::Pair;
use crate::balancer::Balancer;
use crate::clock::now;
use crate::event::EventKind;
use crate::host::Host;
use crate::peer::{Call, Peer};
use crate::redis::Redis;
use crate::relay::Direction;
use crate::stack::{Settings, Stack};
use crate::{Context, Evidence, args};

pub(super) fn call(ctx: &Context) -> Result<Evidence> {
    let redis = Redis::start(ctx, &Host::local())?;
    let stack = start(ctx, &redis)?;
    let other = stack.another_node(ctx, "signaling-b")?;
    let alice = stack.call(ctx, Call::new("alice"))?;
    alice.joined()?;
    let bob = Peer::call(ctx, &stack.host, &other.url(), Call::new("bob"))?;
    let connected = bob.connected()?;
    alice.channel_open()?;
    bob.channel_open()?;
    let mut pair = Pair { alice, bob, connected };
    pair.see_and_hear()?;
    pair.talk("Across nodes")?;
    let (alice, bob) = pair.hang_up()?;
    Ok(Evidence::new()
        .connected(&pair.connected)
        .arrived(&alice, &bob)
        .fact(format!("Alice signaled through {}, Bob through {}", stack.signaling.grpc, other.grpc)))
}

pub(super) fn node_killed(ctx: &Context) -> Result<Evidence> {
    let redis = Redis::start(ctx, &Host::local())?;
    let stack = start(ctx, &redis)?;
    let other = stack.another_node(ctx, "signaling-b")?;
    // Whoever comes first is sent to the first node, the next to the other.
    let balancer = Balancer::before(&stack.host, vec![stack.signaling.grpc, other.grpc])?;
    let call = |call: Call| Peer::call(ctx, &stack.host, &balancer.url(), call.relay_only());

    let alice = call(Call::new("alice"))?;
    let (session, _) = alice.joined()?;
    let bob = call(Call::new("bob"))?;
    bob.joined()?;
    // Offer, answer and candidates are under way now.
    let killed_at = now();
    let mark = alice.process.mark();
    stack.signaling.process.signal(Signal::KILL)?;
    let connected = bob.connected()?;
    alice.channel_open()?;
    bob.channel_open()?;
    let took = now().duration_since(killed_at);
    alice.signaling_is(mark, &["resumed"])?;
    let mut pair = Pair { alice, bob, connected };
    pair.see_and_hear()?;

    // The other one, too, while the call is up; a third has taken the place of the first.
    let third = stack.another_node(ctx, "signaling-c")?;
    balancer.serve(vec![third.grpc]);
    let marks = [pair.alice.process.mark(), pair.bob.process.mark()];
    other.process.signal(Signal::KILL)?;
    for (peer, mark) in [&pair.alice, &pair.bob].into_iter().zip(marks) {
        peer.signaling_is(mark, &["resumed"])?;
    }
    stack.relay.forwards_on(stack.relay.forwarded(Direction::ToClient)?, DATAGRAMS)?;
    pair.talk("After two kills")?;
    for peer in [&pair.alice, &pair.bob] {
        let name = peer.process.name();
        let joined = peer.said(|event| {
            let EventKind::Joined { session, .. } = event else { return None };
            Some(session)
        })?;
        ensure!(joined.len() == 1, "{name} became somebody else: {joined:?}");
        let connections = peer.said(|event| matches!(event, EventKind::Connected(_)).then_some(()))?.len();
        ensure!(connections == 1, "{name} connected {connections} times");
    }
    let (alice, bob) = pair.hang_up()?;
    Ok(Evidence::new()
        .connected(&pair.connected)
        .arrived(&alice, &bob)
        .fact(format!(
            "Alice's node was killed as Bob came in; they were connected {} ms later",
            took.as_millis()
        ))
        .fact(format!(
            "her session {session} went on at the other node, and when that was killed, both at a third"
        ))
        .fact("each joined once and connected once; media and text still went both ways"))
}

/// Some two seconds of a call.
const DATAGRAMS: u64 = 150;

fn start(ctx: &Context, redis: &Redis) -> Result<Stack> {
    let signaling = args!["--backplane", redis.url()];
    Stack::start_with(ctx, Settings { signaling, ..Settings::default() })
}
