//! Both homes have the inner network that routers come with, and so have hosts the same addresses.

use anyhow::{Result, ensure};

use super::{Case, Home, World, prove};
use crate::lab::Nat;
use crate::scenarios::nat::Path;
use crate::{Context, Evidence};

const CASES: [Case; 4] = [
    ("same address", |ctx| {
        let mut world = World::new(ctx)?;
        let left = world.home("left", Nat::PORT_RESTRICTED, LAN)?;
        let right = world.home("right", Nat::PORT_RESTRICTED, LAN)?;
        ensure!(left.host.ip == right.host.ip, "the lab's fault: the addresses differ");
        Ok(world.meet([&left, &right], Path::Direct)?.to_string())
    }),
    ("somebody has the other's address", with_a_stranger),
    ("behind one carrier that turns packets back", |ctx| {
        behind_one_carrier(ctx, Nat { hairpin: true, ..Nat::PORT_RESTRICTED }, Path::Direct)
    }),
    ("behind one carrier", |ctx| behind_one_carrier(ctx, Nat::PORT_RESTRICTED, Path::Relayed)),
];

/// An inner address of the other is one's own, or another's.
pub(in crate::scenarios) fn equal_subnets(ctx: &Context) -> Result<Evidence> {
    prove(ctx, &CASES)
}

/// What the right one says its address is, a stranger has in the home at the left.
fn with_a_stranger(ctx: &Context) -> Result<String> {
    let mut world = World::new(ctx)?;
    let mut left = world.home("left", Nat::PORT_RESTRICTED, LAN)?;
    let (stranger, _) = left.router.attach_host()?;
    let mut right = world.home("right", Nat::PORT_RESTRICTED, LAN)?;
    let (second, cable) = right.router.attach_host()?;
    let right = Home { host: second, cable, ..right };
    ensure!(
        stranger.ip == right.host.ip && left.host.ip != right.host.ip,
        "the lab's fault: the addresses differ"
    );
    Ok(world.meet([&left, &right], Path::Direct)?.to_string())
}

fn behind_one_carrier(ctx: &Context, nat: Nat, way: Path) -> Result<String> {
    let mut world = World::new(ctx)?;
    let mut carrier = world.internet.attach_carrier("carrier", nat, 1)?;
    let left = World::home_behind(&mut carrier, "left", Nat::PORT_RESTRICTED, LAN)?;
    let right = World::home_behind(&mut carrier, "right", Nat::PORT_RESTRICTED, LAN)?;
    ensure!(left.host.ip == right.host.ip, "the lab's fault: the addresses differ");
    Ok(world.meet([&left, &right], way)?.to_string())
}

/// 192.168.1.0/24.
const LAN: u8 = 1;
