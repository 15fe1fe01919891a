//! Servers that end during a call between two homes: the call goes on or recovers by itself, and nothing that was said
//! is lost, doubled or out of order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::homes::{Town, start_relay};
use crate::clock::{self, Deadline};
use crate::event::{Event, EventKind};
use crate::lab::Nat;
use crate::peer::{Call, Peer};
use crate::process::Mark;
use crate::relay::Direction;
use crate::signaling::Signaling;
use crate::{Context, Evidence};

/// What becomes of a server, and between whom.
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) nats: [Nat; 2],
    pub(super) relays: u16,
    pub(super) happens: fn(&Context, &mut Town) -> Result<()>,
}

pub(super) const HOMES: [Nat; 2] = [Nat::PORT_RESTRICTED, Nat::PORT_RESTRICTED];
/// Homes that the relay alone can bring together.
pub(super) const STRICT: [Nat; 2] = [Nat::SYMMETRIC, Nat::SYMMETRIC];

const FAULTS: [Fault; 3] = [
    Fault { name: "relay-restarted", nats: STRICT, relays: 1, happens: restart_relay },
    Fault { name: "relay-killed", nats: STRICT, relays: 2, happens: kill_relay },
    Fault { name: "signaling-killed", nats: HOMES, relays: 1, happens: kill_signaling },
];
/// Faults at once; most of the time is spent waiting.
const JOBS: usize = 3;

/// Every fault, each during a call of its own.
pub(super) fn during_a_call(ctx: &Context) -> Result<Evidence> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some(fault) = FAULTS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = survive(&ctx.in_folder(ctx.folder().join(fault.name)), fault);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((fault.name, result));
                }
            });
        }
    });
    let mut evidence = Evidence::new();
    let mut wrong = Vec::new();
    for (name, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match result {
            Ok(Survived { lines, gap }) => {
                evidence =
                    evidence.fact(format!("{name}: {lines} lines arrived in order, a gap of {gap:.0} ms"));
            }
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(evidence)
}

struct Survived {
    lines: usize,
    /// The longest time between two lines, in milliseconds.
    gap: f64,
}

fn survive(ctx: &Context, fault: &Fault) -> Result<Survived> {
    let mut town = Town::build_with(ctx, fault.nats, fault.relays)?;
    let call = |side: &str| Call::new(side).without_media().at_every_address();
    let mut alice = town.call(ctx, &town.left, call("left"))?;
    alice.joined()?;
    let mut bob = town.call(ctx, &town.right, call("right"))?;
    alice.channel_open()?;
    bob.channel_open()?;
    let mut said = 0;
    talk(&mut alice, &mut bob, &mut said)?;
    (fault.happens)(ctx, &mut town)?;
    talk(&mut alice, &mut bob, &mut said)?;
    let mut gap = 0.0_f64;
    for (peer, from) in [(&bob, "left"), (&alice, "right")] {
        let heard = heard(peer)?;
        let expected = (0..said).map(|number| format!("{from} {number}"));
        let texts = heard.iter().map(|(_, text)| text.clone());
        ensure!(expected.eq(texts), "of {said} lines of {from}, {} arrived, or not in order", heard.len());
        let times = heard.iter().map(|(at, _)| *at);
        gap = times.clone().zip(times.skip(1)).map(|(one, next)| next - one).fold(gap, f64::max);
    }
    Ok(Survived { lines: 2 * said, gap })
}

/// Both say something every few milliseconds, until each has heard so many lines of this talk.
fn talk(alice: &mut Peer, bob: &mut Peer, said: &mut usize) -> Result<()> {
    let wanted = *said + LINES;
    clock::poll("the other side's lines", Deadline::after(RECOVERY), || {
        if *said < wanted {
            alice.say(&format!("left {said}"))?;
            bob.say(&format!("right {said}"))?;
            *said += 1;
        }
        let arrived = heard(alice)?.len().min(heard(bob)?.len());
        Ok((arrived >= wanted).then_some(()))
    })
}

fn heard(peer: &Peer) -> Result<Vec<(f64, String)>> {
    peer.process.collect(Mark::START, |line| {
        let Event { at_ms, kind } = Event::parse(line)?;
        Ok(if let EventKind::Text { text } = kind { Some((at_ms, text)) } else { None })
    })
}

const LINES: usize = 50;
/// Consent has to be missed first, and then a restart may be in vain once or twice.
const RECOVERY: Duration = Duration::from_secs(60);

pub(super) fn restart_relay(ctx: &Context, town: &mut Town) -> Result<()> {
    let mut old = town.relays.pop().context("no relay")?;
    old.process.signal(Signal::KILL)?;
    old.process.wait_exit(Deadline::after(clock::PATIENCE))?;
    town.relays.push(start_relay(ctx, &town.server, 0, "relay-again")?);
    Ok(())
}

/// The one that carried most.
pub(super) fn kill_relay(_: &Context, town: &mut Town) -> Result<()> {
    let mut busiest = None;
    for relay in &town.relays {
        let bytes = relay.forwarded(Direction::ToClient)?.bytes + relay.forwarded(Direction::ToPeer)?.bytes;
        if busiest.as_ref().is_none_or(|(most, _)| bytes > *most) {
            busiest = Some((bytes, relay));
        }
    }
    busiest.context("no relay")?.1.process.signal(Signal::KILL)
}

fn kill_signaling(ctx: &Context, town: &mut Town) -> Result<()> {
    town.signaling.process.signal(Signal::KILL)?;
    town.signaling.process.wait_exit(Deadline::after(clock::PATIENCE))?;
    let (place, flags) = (town.signaling_place(), town.signaling_flags.clone());
    town.signaling = Signaling::restart(ctx, &place, "signaling-again", &town.signaling, &flags)?;
    Ok(())
}
