//! The relay under clients that were written for another server.

use std::ffi::OsString;

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

pub(super) fn tls(ctx: &Context) -> Result<Evidence> {
    let relay = start_secured(ctx, &[])?;
    clients(ctx, &relay, Transport::Tls)
}

pub(super) fn dtls(ctx: &Context) -> Result<Evidence> {
    let relay = start_secured(ctx, &[])?;
    clients(ctx, &relay, Transport::Dtls)
}

/// With a certificate that coturn's clients do not look at.
pub(super) fn start_secured(ctx: &Context, more: &[OsString]) -> Result<Relay> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::create_dir_all(ctx.folder())?;
    let (certificate, key) = (ctx.folder().join("cert.pem"), ctx.folder().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).context("writing the certificate")?;
    std::fs::write(&key, made.signing_key.serialize_pem()).context("writing its key")?;
    let host = Host::local();
    let (tls, dtls) = (host.any_port(), host.any_port());
    let mut flags = args!["--rfc5766-channels", "--tls-listen", tls, "--dtls-listen", dtls];
    flags.extend(args!["--tls-cert", certificate, "--tls-key", key]);
    flags.extend_from_slice(more);
    Relay::start_with(ctx, &host, &flags)
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
