//! Translators that keep the inner port where they can, and those that do not.

use anyhow::{Context as _, Result, ensure};

use super::{Case, Families, Home, World, prove};
use crate::lab::Nat;
use crate::lab::probe::ports;
use crate::peer::Peer;
use crate::scenarios::nat::Path;
use crate::{Context, Evidence};

const CASES: [Case; 3] = [
    ("kept at both", |ctx| meet(ctx, [KEPT; 2])),
    ("kept at one", |ctx| meet(ctx, [KEPT, Nat::PORT_RESTRICTED])),
    ("kept at neither", |ctx| meet(ctx, [Nat::PORT_RESTRICTED; 2])),
];

const KEPT: Nat = Nat { preserves_ports: true, ..Nat::PORT_RESTRICTED };

/// Peers meet by the outer ports that they were told, whichever these are.
pub(in crate::scenarios) fn kept_and_not(ctx: &Context) -> Result<Evidence> {
    prove(ctx, &CASES)
}

fn meet(ctx: &Context, [one, other]: [Nat; 2]) -> Result<String> {
    let mut world = World::new(ctx)?;
    let mut left = world.home("left", one, 1)?;
    let right = world.home("right", other, 2)?;
    keeps_ports(&world, &mut left)?;
    let met = world.meet([&left, &right], Path::Direct)?;
    for (peer, home) in [(&met.one, &left), (&met.other, &right)] {
        let (inner, outer) = candidate_ports(peer)?;
        let is_kept = inner == outer;
        let name = home.name;
        ensure!(is_kept == home.nat.preserves_ports, "the port of {name} is {inner}, outside {outer}");
    }
    Ok(met.to_string())
}

/// Fails if the router does not do with ports what it is said to do. Two hosts have no outer port in common.
fn keeps_ports(world: &World, home: &mut Home) -> Result<()> {
    let stun = world.stun(Families::V4);
    let (inner, outer) = ports(&home.host, 0, stun)?;
    let is_kept = inner == outer;
    ensure!(is_kept == home.nat.preserves_ports, "the lab's fault: port {inner} is seen as {outer}");
    let (sibling, _) = home.router.attach_host()?;
    let (_, other_outer) = ports(&sibling, inner, stun)?;
    ensure!(other_outer != outer, "the lab's fault: two hosts are seen at port {outer}");
    Ok(())
}

/// The port of the host candidate, and of the one that the server saw.
fn candidate_ports(peer: &Peer) -> Result<(String, String)> {
    let port = |kind: &str| -> Result<String> {
        let candidates = peer.candidates_of("local", kind)?;
        let udp = candidates.into_iter().find(|candidate| candidate.protocol == "udp");
        let address = udp.with_context(|| format!("no {kind} candidate"))?.address;
        Ok(address.rsplit_once(':').context("an address without a port")?.1.to_owned())
    };
    Ok((port("host")?, port("srflx")?))
}
