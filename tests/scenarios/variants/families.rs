//! Homes with IPv6 alone, and with both families: no translator, but firewalls that let no stranger in.

use anyhow::{Result, ensure};

use super::{Case, Families, SAID, Servers, World, prove};
use crate::lab::Nat;
use crate::lab::internet::Family;
use crate::scenarios::nat::Path;
use crate::{Context, Evidence};

const CASES: [Case; 6] = [
    ("IPv6 alone", |ctx| meet(ctx, [(Families::V6, Nat::SYMMETRIC); 2], Some(Family::V6))),
    ("IPv6 alone, UDP blocked at one side", |ctx| {
        meet(ctx, [(Families::V6, Nat::UDP_BLOCKED), (Families::V6, Nat::PORT_RESTRICTED)], None)
    }),
    ("IPv6 alone and IPv4 alone", |ctx| {
        meet(ctx, [(Families::V6, Nat::FULL_CONE), (Families::V4, Nat::PORT_RESTRICTED)], None)
    }),
    ("both families, symmetric over IPv4", |ctx| {
        meet(ctx, [(Families::Both, Nat::SYMMETRIC); 2], Some(Family::V6))
    }),
    ("both families and IPv6 alone", |ctx| {
        meet(ctx, [(Families::Both, Nat::SYMMETRIC), (Families::V6, Nat::SYMMETRIC)], Some(Family::V6))
    }),
    ("both families and IPv4 alone", |ctx| {
        let nat = Nat::PORT_RESTRICTED;
        meet(ctx, [(Families::Both, nat), (Families::V4, nat)], Some(Family::V4))
    }),
];

/// Directly where both have addresses of one family and get through; else by a relay that has both.
pub(in crate::scenarios) fn over_ipv6(ctx: &Context) -> Result<Evidence> {
    prove(ctx, &CASES)
}

fn meet(ctx: &Context, [one, other]: [(Families, Nat); 2], directly: Option<Family>) -> Result<String> {
    let mut world = World::with(ctx, Servers::BothFamilies)?;
    let left = world.home("left", one.1, 1)?.speaking(one.0)?;
    let right = world.home("right", other.1, 2)?.speaking(other.0)?;
    let way = if directly.is_some() { Path::Direct } else { Path::Relayed };
    let met = world.meet([&left, &right], way)?;
    let by_ipv6 = met.tally.over_ipv6;
    match directly {
        Some(Family::V6) => ensure!(by_ipv6 >= SAID, "only {by_ipv6} bytes went directly over IPv6"),
        Some(Family::V4) => ensure!(by_ipv6 < SAID / 4, "{by_ipv6} bytes went directly over IPv6"),
        None => {}
    }
    Ok(format!("{met}; {by_ipv6} directly over IPv6"))
}
