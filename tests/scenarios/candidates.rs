//! What gathering finds, and whether the other side hears of it.

use anyhow::{Context as _, Result, bail, ensure};

use super::pair::Pair;
use crate::clock::{Deadline, PATIENCE};
use crate::event::{Candidate, EventKind};
use crate::host::Host;
use crate::peer::{Call, Peer};
use crate::relay::{Relay, USER};
use crate::stack::{Settings, Stack};
use crate::translator::Translator;
use crate::{Context, Evidence, args};

pub(super) fn gathered(ctx: &Context) -> Result<Evidence> {
    let host = Host::local();
    let relay = Relay::start(ctx, &host)?;
    let translator = Translator::before(relay.udp)?;
    let mut servers = args!["--stun", format!("stun:{}", translator.inside()), "--turn", relay.turn_uri()];
    servers.extend(args!["--turn-user", USER.0, "--turn-password", USER.1]);
    let mut peer = Peer::candidates(ctx, &host, servers)?;
    let code = peer.process.exit_code(Deadline::after(PATIENCE))?;
    ensure!(code == 0, "it ended with exit code {code}. {}", peer.process.last_words());

    let (own, outside) = reflexive_of(&peer, &translator)?;
    let relayed = peer.candidates_of("local", "relay")?;
    let [Candidate { address, .. }] = relayed.as_slice() else { bail!("{} relay candidates", relayed.len()) };
    let relayed: std::net::SocketAddr = address.parse().with_context(|| format!("the address {address}"))?;
    ensure!(relayed.ip() == relay.udp.ip() && relayed != relay.udp, "{relayed} is no relayed address");
    let created = relay.allocations_created()?;
    ensure!(created == 1, "the relay made {created} allocations");
    Ok(Evidence::new()
        .fact(format!("host {own}"))
        .fact(format!("srflx {outside}, which is where the translator shows it"))
        .fact(format!("relay {relayed}, the one allocation that the relay made, for a static user")))
}

pub(super) fn reflexive(ctx: &Context) -> Result<Evidence> {
    let relay = Relay::start(ctx, &Host::local())?;
    let translator = Translator::before(relay.udp)?;
    let stun_uri = Some(format!("stun:{}", translator.inside()));
    let stack = Stack::around(ctx, relay, Settings { stun_uri, ..Settings::default() })?;

    let mut pair = Pair::meet(ctx, &stack, Call::without_media)?;
    pair.talk("Reflexive")?;
    let mut evidence = Evidence::new().connected(&pair.connected);
    for (peer, other) in [(&pair.alice, &pair.bob), (&pair.bob, &pair.alice)] {
        let name = peer.process.name();
        let (host, outside) = reflexive_of(peer, &translator)?;
        // The candidate was there before the connection, but trickling it may take a moment longer.
        other.wait(&format!("the candidate {outside}"), |event| {
            let EventKind::Candidate(candidate) = event else { return None };
            (candidate.side == "remote" && candidate.kind == "srflx" && candidate.address == outside)
                .then_some(())
        })?;
        evidence = evidence.fact(format!(
            "{name} at {host} learnt that the translator shows it as {outside}, and its room mate heard of it"
        ));
    }
    let bindings = stack.relay.requests("binding", "success")?;
    ensure!(bindings >= 2, "the relay answered {bindings} Binding requests");
    Ok(evidence.fact(format!("the relay answered {bindings} Binding requests")))
}

/// The peer's own address and its reflexive one, which must be the one that the translator gave it.
fn reflexive_of(peer: &Peer, translator: &Translator) -> Result<(String, String)> {
    let name = peer.process.name();
    let reflexive = peer.wait("a local srflx candidate", |event| {
        let EventKind::Candidate(candidate) = event else { return None };
        (candidate.side == "local" && candidate.kind == "srflx").then_some(candidate)
    })?;
    for host in peer.candidates_of("local", "host")? {
        let address =
            host.address.parse().with_context(|| format!("{name} has the address {}", host.address))?;
        if let Some(outside) = translator.outside_of(address) {
            let outside = outside.to_string();
            ensure!(reflexive.address == outside, "{name} took {} for {outside}", reflexive.address);
            return Ok((host.address, outside));
        }
    }
    bail!("{name} asked for its address from a socket that is no host candidate")
}
