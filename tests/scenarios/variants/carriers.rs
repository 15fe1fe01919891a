//! Homes behind carriers: translated twice, and by the stricter of both.

use anyhow::{Result, ensure};

use super::{Case, World, prove};
use crate::lab::Nat;
use crate::scenarios::nat::Path;
use crate::{Context, Evidence};

const CASES: [Case; 5] = [
    ("at one side", |ctx| meet(ctx, [Some(Nat::PORT_RESTRICTED), None], Nat::PORT_RESTRICTED, Path::Direct)),
    ("at both sides", |ctx| meet(ctx, [Some(Nat::PORT_RESTRICTED); 2], Nat::PORT_RESTRICTED, Path::Direct)),
    ("symmetric at one side, port-restricted homes", |ctx| {
        meet(ctx, [Some(Nat::SYMMETRIC), None], Nat::PORT_RESTRICTED, Path::Relayed)
    }),
    ("symmetric at one side, restricted homes", |ctx| {
        meet(ctx, [Some(Nat::SYMMETRIC), None], Nat::RESTRICTED, Path::Direct)
    }),
    ("symmetric at both sides", |ctx| meet(ctx, [Some(Nat::SYMMETRIC); 2], Nat::FULL_CONE, Path::Relayed)),
];

/// A carrier before one home, or before each.
pub(in crate::scenarios) fn behind_carriers(ctx: &Context) -> Result<Evidence> {
    prove(ctx, &CASES)
}

fn meet(ctx: &Context, carriers: [Option<Nat>; 2], home: Nat, way: Path) -> Result<String> {
    let mut world = World::new(ctx)?;
    let mut kept = Vec::new();
    let mut homes = Vec::new();
    for ((nat, (name, carrier)), lan) in carriers.into_iter().zip(NAMES).zip(1..) {
        homes.push(match nat {
            None => world.home(name, home, lan)?,
            Some(nat) => {
                let mut router = world.internet.attach_carrier(carrier, nat, lan)?;
                let home = World::home_behind(&mut router, name, home, lan)?;
                kept.push(router);
                home
            }
        });
    }
    let [left, right] = homes.as_slice() else { anyhow::bail!("two homes are not two") };
    let theory =
        if Nat::meet_directly(Some(left.nat), Some(right.nat)) { Path::Direct } else { Path::Relayed };
    ensure!(theory == way, "theory says {theory}, the case {way}");
    Ok(world.meet([left, right], way)?.to_string())
}

const NAMES: [(&str, &str); 2] = [("left", "left-carrier"), ("right", "right-carrier")];
