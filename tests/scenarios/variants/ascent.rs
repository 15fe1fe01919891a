//! A direct path that is there later than the call: the call moves up to it, and is left alone where there is none.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{Case, Home, Met, World, prove};
use crate::clock::{self, Deadline, PATIENCE};
use crate::event::{Event, EventKind};
use crate::lab::Nat;
use crate::peer::Peer;
use crate::process::Mark;
use crate::scenarios::nat::Path;
use crate::{Context, Evidence};

const CASES: [Case; 3] = [
    ("homes that do not reach each other at first", |ctx| later(ctx, [Nat::PORT_RESTRICTED; 2])),
    ("a port of its own for each destination on one side", |ctx| {
        later(ctx, [Nat::SYMMETRIC, Nat::FULL_CONE])
    }),
    ("no direct path at all", never),
];

/// Lines are said all the time.
pub(in crate::scenarios) fn moves_up(ctx: &Context) -> Result<Evidence> {
    prove(ctx, &CASES)
}

fn later(ctx: &Context, nats: [Nat; 2]) -> Result<String> {
    let (world, [left, right]) = build(ctx, nats)?;
    world.internet.part(left.name, right.name)?;
    let homes = [&left, &right];
    let mut met = world.meet(homes, Path::Relayed)?;
    let from = [met.one.process.mark(), met.other.process.mark()];
    world.internet.unite(left.name, right.name)?;
    let united = clock::now();
    let mut said = 0;
    for (peer, from) in [0, 1].into_iter().zip(from) {
        clock::poll("a direct path", Deadline::after(PATIENCE), || {
            said += 1;
            met.one.say(&format!("line {said}"))?;
            met.other.say(&format!("line {said}"))?;
            let peer = if peer == 0 { &met.one } else { &met.other };
            let is_direct = |line: &str| {
                let EventKind::Path(path) = Event::parse(line)?.kind else { return Ok(None) };
                Ok(path.is_direct().then_some(()))
            };
            Ok(peer.process.collect(from, is_direct)?.first().copied())
        })?;
    }
    let took = clock::now().duration_since(united);
    for peer in [&met.one, &met.other] {
        peer.hears(&format!("line {said}"))?;
    }
    let mut gaps = Vec::new();
    for (peer, from) in [&met.one, &met.other].into_iter().zip(from) {
        gaps.push(gap_without_loss(peer, from, said)?);
    }
    let tally = world.goes(homes, Path::Direct, [&mut met.one, &mut met.other])?;
    let allocations = world.relay.allocations()?;
    end(&mut met)?;
    Ok(format!(
        "{met}; {} ms after they could, both were on a direct path; of {said} lines each way none was lost, and {} ms \
         was the longest without one; then {tally}, and {allocations} allocations were kept for the worst case",
        took.as_millis(),
        gaps.into_iter().fold(0.0, f64::max).round(),
    ))
}

/// Checks go into the void, and no restart follows.
fn never(ctx: &Context) -> Result<String> {
    let (world, [left, right]) = build(ctx, [Nat::SYMMETRIC; 2])?;
    let homes = [&left, &right];
    let mut met = world.meet(homes, Path::Relayed)?;
    let offers = |met: &Met| {
        Ok::<_, anyhow::Error>(met.one.negotiated("offer", "sent")? + met.other.negotiated("offer", "sent")?)
    };
    let (before, asked) = (offers(&met)?, left.router.passages()?);
    let end_of_it = Deadline::after(WATCHED);
    clock::poll("the end of the search", Deadline::after(WATCHED + PATIENCE), || {
        Ok(end_of_it.passed().then_some(()))
    })?;
    let outer = right.router.addresses().v4;
    let checks = left.router.passages()?.since(&asked).out_to(|ip| ip == outer).packets;
    ensure!(checks > 0, "nobody looked for a direct path");
    ensure!(checks < MOST_CHECKS, "{checks} packets went to the other home within {WATCHED:?}");
    ensure!(offers(&met)? == before, "there was a restart, which takes the path away for a while");
    let tally = world.goes(homes, Path::Relayed, [&mut met.one, &mut met.other])?;
    end(&mut met)?;
    Ok(format!(
        "{met}; {checks} checks went to the other home within {WATCHED:?}, no restart followed, and {tally}"
    ))
}

fn build(ctx: &Context, [one, other]: [Nat; 2]) -> Result<(World, [Home; 2])> {
    let mut world = World::new(ctx)?;
    let left = world.home("left", one, 1)?;
    let right = world.home("right", other, 2)?;
    Ok((world, [left, right]))
}

fn end(met: &mut Met) -> Result<()> {
    for peer in [&mut met.one, &mut met.other] {
        peer.process.signal(Signal::TERM)?;
        peer.ends_well()?;
    }
    Ok(())
}

/// The longest time between two lines, in milliseconds, of all that were said.
fn gap_without_loss(peer: &Peer, from: Mark, said: usize) -> Result<f64> {
    let heard = peer.process.collect(from, |line| {
        let event = Event::parse(line)?;
        let EventKind::Text { text } = event.kind else { return Ok(None) };
        Ok(Some((text, event.at_ms)))
    })?;
    let wanted: Vec<_> = (1..=said).map(|number| format!("line {number}")).collect();
    let texts: Vec<_> = heard.iter().map(|(text, _)| text.clone()).collect();
    ensure!(texts == wanted, "{} heard {texts:?}", peer.process.name());
    let gaps = heard.iter().zip(heard.iter().skip(1)).map(|((_, before), (_, after))| after - before);
    gaps.max_by(f64::total_cmp).context("nothing was heard")
}

/// The first burst of checks, and some more.
const WATCHED: Duration = Duration::from_secs(5);
const MOST_CHECKS: u64 = 40;
