//! A firewall that lets nothing out but TCP to port 443, and of that nothing but TLS.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};

use super::{Case, Home, SAID, Servers, World, prove};
use crate::clock::PATIENCE;
use crate::lab::Nat;
use crate::lab::nat::Outbound;
use crate::scenarios::nat::Path;
use crate::{Context, Evidence};

const CASES: [Case; 2] = [
    ("at one side", |ctx| meet(ctx, [TLS_ALONE, Nat::PORT_RESTRICTED])),
    ("at both sides", |ctx| meet(ctx, [TLS_ALONE; 2])),
];

const TLS_ALONE: Nat = Nat { outbound: Outbound::TlsOnly, ..Nat::PORT_RESTRICTED };

/// Signaling and TURN look like the web, and are let through.
pub(in crate::scenarios) fn nothing_else(ctx: &Context) -> Result<Evidence> {
    prove(ctx, &CASES)
}

fn meet(ctx: &Context, [one, other]: [Nat; 2]) -> Result<String> {
    let mut world = World::with(ctx, Servers::Secure)?;
    let left = world.home("left", one, 1)?;
    let right = world.home("right", other, 2)?;
    let refused = refuses_the_rest(&world, &left)?;
    let before = left.router.passages()?;
    let met = world.meet([&left, &right], Path::Relayed)?;
    let seen = left.router.passages()?.since(&before);
    let (udp, tcp) = (seen.of("udp").out_to(|_| true), seen.of("tcp").out_to(|_| true));
    ensure!(udp.packets == 0, "{} datagrams got out", udp.packets);
    ensure!(tcp.bytes >= SAID, "only {} bytes got out over TCP", tcp.bytes);
    Ok(format!("{met}; {refused}"))
}

/// Fails if the firewall lets out what it should not.
fn refuses_the_rest(world: &World, home: &Home) -> Result<String> {
    let (turn, tls) = (world.relay.tcp, world.relay.tls.context("this relay serves no TLS")?);
    home.host.within(|| {
        let other_port = TcpStream::connect_timeout(&turn, PATIENCE).map(drop);
        ensure!(other_port.is_err(), "the lab's fault: a connection to {turn} got out");
        for (what, said) in [("an HTTP request", &b"GET / HTTP/1.1\r\n\r\n"[..]), ("an alert of TLS", ALERT)]
        {
            let mut stream = TcpStream::connect_timeout(&tls, PATIENCE).context("the lab's fault")?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(said)?;
            let read = stream.read(&mut [0; 16]);
            let is_reset =
                read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
            ensure!(is_reset, "the lab's fault: {what} to {tls} was not refused, but {read:?}");
        }
        Ok("another port, HTTP, and TLS without a ClientHello were refused before".to_owned())
    })
}

const ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 1, 0];
