//! How long a single datagram is under way, at 20 000 a second.
//!
//! This machine has moods: the same server may take twice as long from one second to the next. So all servers run at
//! once, on the same core, and datagrams go now to one and now to another: what mood there is, all are in it.

use std::time::Duration;

use anyhow::Result;
use farcall_tests::Context;
use farcall_tests::clock::{self, Deadline};

use crate::figures::Figures;
use crate::load::Session;
use crate::relay::microseconds;
use crate::servers::{Kind, Server};

/// Between datagrams, whosever.
const INTERVAL: Duration = Duration::from_micros(50);
const GIVEN_UP: Duration = Duration::from_millis(5);
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
    let (mut next, mut number) = (clock::now(), 0);
    let end = Deadline::after(DURATION * u32::try_from(servers.len())?);
    while !end.passed() {
        // Whose turn it is must not follow from whose it was: what a wake-up takes depends on how long the core slept.
        let turn = rand::random_range(0..sessions.len());
        let (Some(session), Some(samples)) = (sessions.get(turn), samples.get_mut(turn)) else { continue };
        while clock::now() < next {}
        next = clock::now() + INTERVAL;
        number += 1;
        samples.push(microseconds(one(session, number)?));
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

/// From client to peer; what is late by far counts as that late. Each has its number, since one that was given up may yet
/// come and would pass for the next.
fn one(session: &Session, number: u64) -> Result<Duration> {
    let (mut message, number) = (session.near.message.clone(), number.to_be_bytes());
    let start = message.len().saturating_sub(number.len());
    message.splice(start.., number);
    let mut buffer = [0; 2048];
    let sent = clock::now();
    session.near.socket.send(&message)?;
    loop {
        let length = session.far.socket.recv(&mut buffer).unwrap_or(0);
        let taken = clock::now() - sent;
        let is_it = buffer.get(..length).is_some_and(|datagram| datagram.ends_with(&number));
        if is_it || taken > GIVEN_UP {
            return Ok(taken);
        }
    }
}
