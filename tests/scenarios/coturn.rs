//! The relay under clients that were written for another server.

use anyhow::{Context as _, Result, ensure};

use crate::coturn::{
    CLIENTS, Credentials, Echo, MESSAGES, Method, Tally, Transport, exchange, reflexive_address,
};
use crate::host::Host;
use crate::relay::{Direction, Relay};
use crate::{Context, Evidence, args};

pub(super) fn udp(ctx: &Context) -> Result<Evidence> {
    let relay = start(ctx)?;
    let reflexive = reflexive_address(ctx, &relay)?;
    ensure!(reflexive.ip() == relay.udp.ip(), "turnutils_stunclient was told that it is {reflexive}");
    Ok(clients(ctx, &relay, Transport::Udp)?
        .fact(format!("turnutils_stunclient was told that it is {reflexive}")))
}

pub(super) fn tcp(ctx: &Context) -> Result<Evidence> {
    let relay = start(ctx)?;
    clients(ctx, &relay, Transport::Tcp)
}

/// Debian's coturn picks its channel numbers as RFC 5766 had them.
fn start(ctx: &Context) -> Result<Relay> {
    Relay::start_with(ctx, &Host::local(), &args!["--rfc5766-channels"])
}

/// With channels and with Send, with static and with ephemeral credentials, side by side.
fn clients(ctx: &Context, relay: &Relay, transport: Transport) -> Result<Evidence> {
    let echo = Echo::start()?;
    let runs = [
        ("channels-static", Method::Channels, Credentials::Static),
        ("channels-ephemeral", Method::Channels, Credentials::Ephemeral),
        ("send-static", Method::Send, Credentials::Static),
        ("send-ephemeral", Method::Send, Credentials::Ephemeral),
    ];
    let tallies = std::thread::scope(|scope| {
        let echo = &echo;
        let running = runs.map(|(name, method, credentials)| {
            let run = move || exchange(ctx, name, relay, echo, (transport, method, credentials));
            (name, scope.spawn(run))
        });
        running.map(|(name, run)| (name, run.join()))
    });

    let mut evidence = Evidence::new();
    let mut sent = 0;
    for (name, tally) in tallies {
        let tally = tally.map_err(|_| anyhow::anyhow!("{name} panicked"))?.context(name)?;
        let expected = CLIENTS * MESSAGES;
        ensure!(tally == Tally { sent: expected, received: expected, lost: 0 }, "{name}: {tally:?}");
        sent += tally.sent;
        evidence =
            evidence.fact(format!("{name}: {} messages sent, {} came back", tally.sent, tally.received));
    }
    let to_peer = relay.forwarded(Direction::ToPeer)?.datagrams;
    let to_client = relay.forwarded(Direction::ToClient)?.datagrams;
    ensure!(
        to_peer >= sent && to_client >= sent,
        "the relay counted {to_peer} to the peer, {to_client} back"
    );
    Ok(evidence.fact(format!("the relay counted {to_peer} datagrams to the peer and {to_client} back")))
}
