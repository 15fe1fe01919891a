//! Translators that forget a mapping within seconds, though RFC 4787 (REQ-5) asks for minutes.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{Case, Families, Home, Met, World, prove};
use crate::clock::{self, Deadline, PATIENCE};
use crate::lab::Nat;
use crate::lab::probe::forgets_within;
use crate::scenarios::nat::Path;
use crate::{Context, Evidence};

const CASES: [Case; 4] = [
    ("silence, directly", |ctx| silence(ctx, Nat::PORT_RESTRICTED, Path::Direct)),
    ("silence, through the relay", |ctx| silence(ctx, Nat::SYMMETRIC, Path::Relayed)),
    ("media before one that forgets as soon as it is silent", media),
    ("silence before one that forgets soon after a keepalive", barely),
];

/// Calls in which nothing is said for longer than routers remember.
pub(in crate::scenarios) fn forgetful(ctx: &Context) -> Result<Evidence> {
    prove(ctx, &CASES)
}

/// Keepalives hold the path, whichever it is.
fn silence(ctx: &Context, nat: Nat, way: Path) -> Result<String> {
    let (world, [left, right]) = build(ctx, nat.forgetting_after(MEMORY))?;
    let homes = [&left, &right];
    let mut met = world.meet(homes, way)?;
    let offered = offers(&met)?;
    wait(SILENCE)?;
    let tally = world.goes(homes, way, [&mut met.one, &mut met.other])?;
    let restarts = offers(&met)? - offered;
    ensure!(restarts == 0, "{restarts} offers were made after the call was up");
    Ok(format!("{met}; after {SILENCE:?} of silence, with routers that forget after {MEMORY:?}, {tally}"))
}

/// What is sent all the time keeps what nothing else would.
fn media(ctx: &Context) -> Result<String> {
    let (world, [left, right]) = build(ctx, Nat::PORT_RESTRICTED.forgetting_after(LEAST))?;
    let homes = [&left, &right];
    let mut met = world.meet_as(homes, Path::Direct, |call| call)?;
    let offered = offers(&met)?;
    wait(MEDIA)?;
    let tally = world.goes(homes, Path::Direct, [&mut met.one, &mut met.other])?;
    let restarts = offers(&met)? - offered;
    Ok(format!("{met}; after {MEDIA:?} of media, {restarts} restarts, {tally}"))
}

/// Where a keepalive comes too late, which may be on a busy machine, there is another path in its place.
fn barely(ctx: &Context) -> Result<String> {
    let (world, [left, right]) = build(ctx, Nat::PORT_RESTRICTED.forgetting_after(SHORT))?;
    let homes = [&left, &right];
    let mut met = world.meet(homes, Path::Direct)?;
    let offered = offers(&met)?;
    wait(SILENCE)?;
    let tally = world.goes(homes, Path::Direct, [&mut met.one, &mut met.other])?;
    let restarts = offers(&met)? - offered;
    for peer in [&mut met.one, &mut met.other] {
        peer.process.signal(Signal::TERM)?;
        peer.ends_well()?;
    }
    Ok(format!("{met}; after {SILENCE:?} of silence, {restarts} restarts, {tally}"))
}

fn build(ctx: &Context, nat: Nat) -> Result<(World, [Home; 2])> {
    let mut world = World::new(ctx)?;
    let left = world.home("left", nat, 1)?;
    let right = world.home("right", nat, 2)?;
    let stun = world.stun(Families::V4);
    // At the same time, since both do nothing but wait.
    let (early, late) = std::thread::scope(|scope| {
        let early = scope.spawn(|| forgets_within(nat.timeout / 2, &left.host, stun));
        let late = forgets_within(nat.timeout + Duration::from_secs(2), &right.host, stun);
        (early.join(), late)
    });
    let early = early.map_err(|_| anyhow::anyhow!("the probe panicked"))??;
    ensure!(late?, "the lab's fault: a mapping is there after {:?}", nat.timeout);
    // On a busy machine half a second may be one.
    ensure!(!early || nat.timeout == LEAST, "the lab's fault: no mapping is there before {:?}", nat.timeout);
    Ok((world, [left, right]))
}

/// Offers that either made.
fn offers(met: &Met) -> Result<usize> {
    Ok(met.one.negotiated("offer", "sent")? + met.other.negotiated("offer", "sent")?)
}

/// Nothing is done for this long: the time is what is put to the proof.
fn wait(time: Duration) -> Result<()> {
    let end = Deadline::after(time);
    clock::poll("the end of the silence", Deadline::after(time + PATIENCE), || Ok(end.passed().then_some(())))
}

/// More than the second after which ICE sends something …
const MEMORY: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(12);
/// … somewhat more …
const SHORT: Duration = Duration::from_secs(2);
/// … and as much.
const LEAST: Duration = Duration::from_secs(1);
/// Longer than ICE needs to notice that a path is lost.
const MEDIA: Duration = Duration::from_secs(8);
