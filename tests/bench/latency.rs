//! How long a single datagram is under way, at 20 000 a second.
//!
//! This machine has moods: the same server may take twice as long from one second to the next. So all servers run at
//! once, on the same core, and get a datagram each in turn: what mood there is, all are in it.

use std::time::{Duration, Instant};

use anyhow::Result;
use farcall_tests::Context;
use farcall_tests::clock::{self, Deadline};

use crate::figures::Figures;
use crate::load::Session;
use crate::relay::microseconds;
use crate::servers::{Kind, Server};

/// Between datagrams, whosever.
const INTERVAL: Duration = Duration::from_micros(50);
/// How long one round lasts for each server.
const DURATION: Duration = Duration::from_secs(1);

/// One round of all of them.
pub(crate) fn measure(
    ctx: &Context,
    name: &str,
    kinds: &[Kind],
    figures: Option<&mut Figures>,
) -> Result<()> {
    let servers = kinds.iter().map(|kind| Server::start(ctx, *kind)).collect::<Result<Vec<_>>>()?;
    let sessions =
        servers.iter().map(|server| Session::with_peer(server, 160)).collect::<Result<Vec<_>>>()?;
    let mut samples = vec![Vec::new(); servers.len()];
    let mut next = clock::now();
    let end = Deadline::after(DURATION * u32::try_from(servers.len())?);
    while !end.passed() {
        for (session, samples) in sessions.iter().zip(&mut samples) {
            while clock::now() < next {}
            let sent = clock::now();
            next = sent + INTERVAL;
            samples.push(microseconds(one(session, sent)?));
        }
    }
    let Some(figures) = figures else { return Ok(()) };
    for (kind, mut samples) in kinds.iter().zip(samples) {
        samples.sort_by(f64::total_cmp);
        let at = |share: usize| samples.get(samples.len() * share / 100).copied().unwrap_or(f64::NAN);
        let what = format!("{name}, {}", kind.name());
        figures.add(&what, "µs, a tenth is faster", at(10));
        figures.add(&what, "µs, half are faster", at(50));
        figures.add(&what, "µs, 9 of 10 are faster", at(90));
    }
    Ok(())
}

/// From client to peer; what is late by far counts as that late.
fn one(session: &Session, sent: Instant) -> Result<Duration> {
    session.near.socket.send(&session.near.message)?;
    let mut now = sent;
    while session.far.socket.recv(&mut [0; 2048]).is_err() && now < sent + 100 * INTERVAL {
        now = clock::now();
    }
    Ok(clock::now() - sent)
}
