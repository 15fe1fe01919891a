//! Two homes behind one carrier: they know each other by the carrier's outer address alone.

use anyhow::{Result, ensure};

use super::{Case, Families, SAID, World, prove};
use crate::lab::Nat;
use crate::lab::probe::hairpins;
use crate::scenarios::nat::Path;
use crate::{Context, Evidence};

const CASES: [Case; 4] = [
    ("with hairpin", |ctx| meet(ctx, HAIRPIN, Path::Direct)),
    ("with hairpin, full cone", |ctx| meet(ctx, Nat { hairpin: true, ..Nat::FULL_CONE }, Path::Direct)),
    ("without hairpin", |ctx| meet(ctx, Nat::PORT_RESTRICTED, Path::Relayed)),
    ("without hairpin, symmetric", |ctx| meet(ctx, Nat::SYMMETRIC, Path::Relayed)),
];

const HAIRPIN: Nat = Nat { hairpin: true, ..Nat::PORT_RESTRICTED };

/// What goes from one to the other is turned back at the carrier, if it does such things; else the relay helps.
pub(in crate::scenarios) fn by_the_outer_address(ctx: &Context) -> Result<Evidence> {
    prove(ctx, &CASES)
}

fn meet(ctx: &Context, nat: Nat, way: Path) -> Result<String> {
    let mut world = World::new(ctx)?;
    let mut carrier = world.internet.attach_carrier("carrier", nat, 1)?;
    let left = World::home_behind(&mut carrier, "left", Nat::PORT_RESTRICTED, 1)?;
    let right = World::home_behind(&mut carrier, "right", Nat::PORT_RESTRICTED, 2)?;
    let found = hairpins(&left.host, world.stun(Families::V4))?;
    ensure!(found == nat.hairpin, "the lab's fault: hairpin is to be {}, but is {found}", nat.hairpin);
    let before = (carrier.turned_back()?, world.internet.witness()?);
    let met = world.meet([&left, &right], way)?;
    let turned_back = carrier.turned_back()?.bytes - before.0.bytes;
    let left_it = world.internet.witness()?.since(&before.1).between("carrier", "server", "udp").bytes;
    match way {
        Path::Direct => ensure!(turned_back >= 2 * SAID, "the carrier turned {turned_back} bytes back"),
        Path::Relayed => {
            ensure!(turned_back == 0, "the carrier turned {turned_back} bytes back");
            ensure!(left_it >= 2 * SAID, "only {left_it} bytes left the carrier's network");
        }
    }
    Ok(format!("{met}; the carrier turned {turned_back} bytes back, and {left_it} left its network"))
}
