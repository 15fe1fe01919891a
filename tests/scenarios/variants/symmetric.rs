//! Where every destination sees another port on both sides, a whole call goes through the relay.

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::{Case, World, prove};
use crate::lab::Nat;
use crate::lab::nat::Dependence::{AddressAndPortDependent, AddressDependent};
use crate::relay::Direction;
use crate::scenarios::nat::Path;
use crate::{Context, Evidence};

const CASES: [Case; 3] = [
    ("symmetric on both sides", |ctx| call(ctx, [Nat::SYMMETRIC; 2])),
    ("symmetric and port-restricted", |ctx| call(ctx, [Nat::SYMMETRIC, Nat::PORT_RESTRICTED])),
    ("symmetric but for filtering, on both sides", |ctx| call(ctx, [LENIENT; 2])),
];

const LENIENT: Nat = Nat::behaved(AddressAndPortDependent, AddressDependent);

/// Video and audio, all of which the relay forwards.
pub(in crate::scenarios) fn with_media(ctx: &Context) -> Result<Evidence> {
    prove(ctx, &CASES)
}

fn call(ctx: &Context, [one, other]: [Nat; 2]) -> Result<String> {
    ensure!(!Nat::meet_directly(Some(one), Some(other)), "theory says that these two meet directly");
    let mut world = World::new(ctx)?;
    let left = world.home("left", one, 1)?;
    let right = world.home("right", other, 2)?;
    let homes = [&left, &right];
    let mut met = world.meet_as(homes, Path::Relayed, |call| call)?;
    for peer in [&met.one, &met.other] {
        peer.first_frame("video")?;
        peer.first_frame("audio")?;
    }
    let before = world.counted(homes)?;
    let forwarded = world.relay.forwarded(Direction::ToClient)?;
    world.relay.forwards_on(forwarded, DATAGRAMS)?;
    let tally = world.tally(&before, homes)?;
    let share = tally.served / 20;
    ensure!(tally.direct < share, "of the media, {tally}");
    let mut frames = Vec::new();
    for peer in [&mut met.other, &mut met.one] {
        peer.process.signal(Signal::TERM)?;
        frames.push(peer.ends_well()?.video.context("no video stats")?.frames_received);
    }
    ensure!(frames.iter().all(|&frames| frames >= 20), "{frames:?} frames of video arrived");
    Ok(format!("{met}; {frames:?} frames of video arrived, and in some seconds of it {tally}"))
}

const DATAGRAMS: u64 = 300;
