//! What goes wrong with networks and servers while a file is on its way between two homes: it arrives whole, and nobody
//! has to ask a second time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rustix::process::Signal;

use super::faults::{OUTAGE, cable_out};
use super::homes::Town;
use super::outages::{Fault, HOMES, STRICT, kill_relay, restart_relay};
use super::transfer::{Place, Transfer};
use crate::clock::{self, Deadline, PATIENCE};
use crate::event::Path;
use crate::lab::Witness;
use crate::lab::cable::{Rate, Traits};
use crate::relay::Direction;
use crate::{Context, Evidence, args};

/// What strikes the sender's home, or a server.
const FAULTS: [Fault; 8] = [
    Fault { name: "rebinding", nats: HOMES, relays: 1, happens: |_, town| town.router(0)?.rebind() },
    Fault { name: "another-address", nats: HOMES, relays: 1, happens: |_, town| town.router(0)?.renumber() },
    Fault { name: "roaming", nats: HOMES, relays: 1, happens: |_, town| town.roam() },
    Fault { name: CABLE_OUT, nats: HOMES, relays: 1, happens: |_, town| cable_out(town.router(0)?.wan()) },
    Fault {
        name: "one-in-ten-lost",
        nats: HOMES,
        relays: 1,
        happens: |_, town| town.router(0)?.wan().lose(100),
    },
    Fault { name: "relay-restarted", nats: STRICT, relays: 1, happens: restart_relay },
    Fault { name: "relay-killed", nats: STRICT, relays: 2, happens: kill_relay },
    // It does not come back while the file is on its way.
    Fault {
        name: "signaling-killed",
        nats: HOMES,
        relays: 1,
        happens: |_, town| town.signaling.process.signal(Signal::KILL),
    },
];
const CABLE_OUT: &str = "cable-out-for-5-s";

/// Some seconds' worth of a line this narrow, in bits per second.
const LENGTH: usize = 1_200_000;
const LINE: u64 = 1_000_000;
/// More than a block, so that a new connection would find one to go on from; and the line has been too narrow once, so
/// that the sender knows what it carries.
const BEGUN: u64 = 300_000;
/// SCTP waits twice as long each time that it hears nothing, and a restart of ICE may be in vain once or twice.
const RECOVERY: Duration = Duration::from_secs(90);

/// Each fault strikes a transfer of its own, all at the same time.
pub(super) fn during_a_transfer(ctx: &Context) -> Result<Evidence> {
    let results: Vec<_> = thread::scope(|scope| {
        let striking = FAULTS.map(|fault| {
            let ctx = ctx.in_folder(ctx.folder().join(fault.name));
            (fault.name, scope.spawn(move || survive(&ctx, &fault)))
        });
        let ended = striking
            .into_iter()
            .map(|(name, one)| (name, one.join().unwrap_or_else(|_| Err(anyhow!("it panicked")))));
        ended.collect()
    });
    let mut evidence = Evidence::new();
    let mut wrong = Vec::new();
    for (name, result) in results {
        match result {
            Ok(fact) => evidence = evidence.fact(format!("{name}: {fact}")),
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(evidence)
}

fn survive(ctx: &Context, fault: &Fault) -> Result<String> {
    let mut town = Town::build_with(ctx, fault.nats, fault.relays)?;
    let narrow = Traits { rate: Some(Rate::of(LINE)), ..Traits::default() };
    let _line = town.internet.splice("right", narrow, 1)?;
    let before = town.internet.witness()?;
    let relayed = fault.nats == STRICT;
    // Peers on a busy machine would settle for the relay where they need not.
    let global = if relayed { args![] } else { args!["--no-turn"] };
    let transfer = Transfer::begin(ctx, &town, LENGTH, &global)?;
    let place = transfer.place();
    clock::poll("the beginning of the file", Deadline::after(3 * PATIENCE), || {
        Ok((place.holds() >= BEGUN).then_some(()))
    })?;
    let path = path_taken(&town, &before, &transfer, relayed)?;

    let arrived = AtomicBool::new(false);
    let (at, there, growth) = thread::scope(|scope| {
        let watching = scope.spawn(|| growth(&place, &arrived));
        let (at, there) = (clock::now(), place.holds());
        let ended = (fault.happens)(ctx, &mut town).and_then(|()| transfer.arrive(RECOVERY));
        arrived.store(true, Ordering::Relaxed);
        let growth = watching.join().map_err(|_| anyhow!("the watcher panicked"))?;
        ended.map(|_| (at, there, growth))
    })?;
    ensure!(there + BEGUN < LENGTH as u64, "{there} bytes were there already when it happened");
    let gap = longest_gap(&growth, at);
    if fault.name == CABLE_OUT {
        ensure!(gap + SLACK > OUTAGE, "while the cable was out, no more than {gap:?} passed without a byte");
    }
    Ok(format!("{path}, whole although struck after {there} bytes, none new for {} ms", gap.as_millis()))
}

/// The one that the homes allow, as those see it who carry the file.
fn path_taken(town: &Town, before: &Witness, transfer: &Transfer, relayed: bool) -> Result<Path> {
    let path = transfer.connected.path.clone();
    ensure!(path.is_direct() != relayed, "the path is {path}");
    let direct = town.internet.witness()?.since(before).carried("left", "right", "udp").bytes;
    let mut by_relay = 0;
    for relay in &town.relays {
        by_relay += relay.forwarded(Direction::ToClient)?.bytes + relay.forwarded(Direction::ToPeer)?.bytes;
    }
    let (by_it, otherwise) = if relayed { (by_relay, direct) } else { (direct, by_relay) };
    // Checks of other pairs may go on.
    ensure!(by_it >= BEGUN && otherwise < BEGUN / 3, "{by_it} bytes by {path}, and {otherwise} otherwise");
    Ok(path)
}

/// When there was more than ever before, until all is there.
fn growth(place: &Place, arrived: &AtomicBool) -> Vec<Instant> {
    let (mut most, mut grew) = (0, Vec::new());
    while !arrived.load(Ordering::Relaxed) {
        let there = place.holds();
        if there > most {
            most = there;
            grew.push(clock::now());
        }
        thread::park_timeout(LOOK);
    }
    grew
}

const LOOK: Duration = Duration::from_millis(10);
/// What was on its way arrives in spite of a cut, and what waits for its turn may come a moment after the mending.
const SLACK: Duration = Duration::from_secs(1);

/// The longest time without a new byte that ended after `since`.
fn longest_gap(growth: &[Instant], since: Instant) -> Duration {
    let gaps = growth.iter().zip(growth.iter().skip(1)).filter(|(_, next)| **next > since);
    gaps.map(|(one, next)| next.duration_since(*one)).max().unwrap_or_default()
}
