//! Translators that forget a mapping within seconds, though RFC 4787 (REQ-5) asks for minutes.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{Case, Families, Home, Met, World, prove};
use crate::clock::{self, Deadline, PATIENCE};
use crate::event::EventKind;
use crate::lab::Nat;
use crate::lab::probe::forgets_within;
use crate::scenarios::nat::Path;
use crate::{Context, Evidence};

const CASES: [Case; 4] = [
    ("silence, directly", |ctx| silence(ctx, Nat::PORT_RESTRICTED, Path::Direct)),
    ("silence, through the relay", |ctx| silence(ctx, Nat::SYMMETRIC, Path::Relayed)),
    ("media before one that forgets before a keepalive", media),
    ("silence before one that forgets before a keepalive", forgotten),
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

/// Both ports are others when the keepalive comes, and so the path is lost: ICE notices, and finds another.
fn forgotten(ctx: &Context) -> Result<String> {
    let (world, [left, right]) = build(ctx, Nat::PORT_RESTRICTED.forgetting_after(LEAST))?;
    let mut met = world.meet([&left, &right], Path::Direct)?;
    let from = met.one.process.mark();
    let mut lost = None;
    let gap = met.one.wait_from(from, "another path", |event| {
        let EventKind::Ice { state } = event else { return None };
        match state.as_str() {
            "disconnected" => lost = Some(clock::now()),
            "connected" => return lost.map(|lost| clock::now().duration_since(lost).as_millis()),
            _ => {}
        }
        None
    })?;
    for peer in [&mut met.one, &mut met.other] {
        peer.process.signal(Signal::TERM)?;
        peer.ends_well()?;
    }
    Ok(format!("{met}; without a word the path was lost, and another there {gap} ms later"))
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

/// More than the two seconds after which ICE sends something …
const MEMORY: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(12);
/// … and less.
const LEAST: Duration = Duration::from_secs(1);
/// Longer than ICE needs to notice that a path is lost.
const MEDIA: Duration = Duration::from_secs(8);
