//! Two homes with a bad line between them: what delay, jitter and loss do to a file and to a call.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::homes::Town;
use super::transfer::Transfer;
use crate::clock::{self, Deadline};
use crate::event::EventKind;
use crate::lab::Nat;
use crate::lab::cable::{Cable, Rate, Traits, Way, self_test};
use crate::peer::{Call, Peer};
use crate::process::Mark;
use crate::{Context, Evidence, args};

/// Each way.
const BAD: Traits = Traits {
    delay: Duration::from_millis(50),
    jitter: Duration::from_millis(10),
    loss: 100,
    reordering: 0,
    duplication: 0,
    rate: None,
};
const LENGTH: usize = 250_000;
const LARGEST_PACKET: usize = 1_500;
const TRANSFER: Duration = Duration::from_secs(100);
const CALL: Duration = Duration::from_secs(12);

const PAIRS: usize = 8;
/// Signaling, whose TCP loses as much, is part of it.
const SLOWEST_START_MS: f64 = 15_000.0;

const WIDE: Traits = Traits { delay: Duration::from_millis(20), jitter: Duration::ZERO, loss: 0, ..BAD };
/// In bits per second; sound takes a quarter of it.
const NARROW: u64 = 300_000;

/// A call while one packet in ten is lost, and then a file over the same line.
pub(super) fn bad_line(ctx: &Context) -> Result<Evidence> {
    let town = Town::build_with(ctx, [Nat::PORT_RESTRICTED, Nat::PORT_RESTRICTED], 1)?;
    let cable = town.internet.splice("left", BAD, 1)?;
    let measured = self_test::check(&town.left, &town.server.host, BAD, BAD)?;

    let alice = town.call(ctx, &town.right, Call::new("right"))?;
    alice.joined()?;
    let mut bob = town.call(ctx, &town.left, Call::new("left").lasting(CALL))?;
    let connected = bob.connected()?;
    for peer in [&alice, &bob] {
        peer.first_frame("video")?;
        peer.channel_open()?;
    }
    let calm = cable.counted()?;
    bob.say("over a bad line")?;
    alice.hears("over a bad line")?;
    let stats = bob.ends_well()?;
    let frames = stats.video.context("no video stats")?.frames_received;
    ensure!(frames > 80, "only {frames} frames arrived in {CALL:?}");

    let mut lost = Vec::new();
    for (before, after) in calm.into_iter().zip(cable.counted()?) {
        let (entered, gone) = (after.entered - before.entered, after.lost - before.lost);
        let share = gone as f64 / entered.max(1) as f64;
        ensure!((0.06..0.14).contains(&share), "{gone} of {entered} frames were lost");
        lost.push(format!("{gone} of {entered} frames"));
    }
    let before = cable.counted()?;
    let took = Transfer::begin(ctx, &town, LENGTH, &[])?.arrive(TRANSFER)?;
    // Directly or, where a lost check made the peers settle for it, by the relay: the cable is on either way.
    let crossed =
        cable.counted()?.into_iter().zip(before).map(|(after, before)| after.entered - before.entered);
    let crossed = crossed.max().unwrap_or_default();
    ensure!(
        crossed > (LENGTH / LARGEST_PACKET) as u64,
        "{crossed} frames of a file of {LENGTH} bytes crossed the cable"
    );
    Ok(Evidence::new()
        .connected(&connected)
        .fact(format!(
            "50 ms, 10 ms of jitter and 10 % loss each way: pings take {} ms, and {} of {} came back",
            measured.usual.as_millis(),
            measured.answered,
            self_test::PINGS
        ))
        .fact(format!(
            "{frames} frames of a call arrived, and {LENGTH} bytes of a file, whole, in {:.0} s",
            took.as_secs_f64()
        ))
        .fact(format!("during the call the cable lost {} each way", lost.join(" and "))))
}

/// Pairs that meet while one packet in ten is lost, one after the other: what opens a connection is lost as well.
pub(super) fn bad_start(ctx: &Context) -> Result<Evidence> {
    let town = Town::build_with(ctx, [Nat::PORT_RESTRICTED, Nat::PORT_RESTRICTED], 1)?;
    let cable = town.internet.splice("left", BAD, 1)?;
    let url = town.signaling.url();
    let mut took = Vec::new();
    for room in 1..=PAIRS {
        let name = |side: &str| format!("{side}{room}");
        let verb = args!["bench", name("room")];
        let receiver = Peer::verb(ctx, &town.right, &url, &name("receiver"), &[], verb)?;
        receiver.joined()?;
        let verb = args!["bench", name("room"), "--send", "1KiB"];
        let sender = Peer::verb(ctx, &town.left, &url, &name("sender"), &[], verb)?;
        took.push(sender.wait("the data channel", |event| {
            if let EventKind::ChannelOpen { elapsed_ms, .. } = event { Some(elapsed_ms) } else { None }
        })?);
        for mut peer in [sender, receiver] {
            let code = peer.process.exit_code(Deadline::after(TRANSFER))?;
            ensure!(code == 0, "{} ended with {code}. {}", peer.process.name(), peer.process.last_words());
        }
    }
    took.sort_by(f64::total_cmp);
    let [entered, lost] =
        cable.counted()?.iter().fold([0, 0], |[entered, lost], way| [entered + way.entered, lost + way.lost]);
    let (usual, longest) = (took.get(PAIRS / 2), took.last());
    let (usual, longest) = usual.zip(longest).context("nobody met")?;
    ensure!(*longest < SLOWEST_START_MS, "a channel took {longest:.0} ms to open");
    Ok(Evidence::new().fact(format!(
        "{PAIRS} channels opened in {usual:.0} ms as a rule and {longest:.0} ms at most, while {lost} of {entered} frames were lost"
    )))
}

/// A live picture over a line that becomes narrow during the call, and wide again: what is sent follows.
pub(super) fn narrow_line(ctx: &Context) -> Result<Evidence> {
    let town = Town::build_with(ctx, [Nat::PORT_RESTRICTED, Nat::PORT_RESTRICTED], 1)?;
    let cable = town.internet.splice("left", WIDE, 1)?;
    let alice = town.call(ctx, &town.right, Call::new("right").sending("none", "none"))?;
    alice.joined()?;
    let call = Call::new("left").sending("live", "live").telling(Duration::from_secs(1)).obeying();
    let mut bob = town.call(ctx, &town.left, call)?;
    let connected = bob.connected()?;
    alice.first_frame("video")?;

    let begun = bob.process.mark();
    let wide = target(&bob, begun, "a target to begin with", |bits| bits > 2 * NARROW)?;
    cable.set(
        Way::Up,
        Traits { rate: Some(Rate { bits_per_second: NARROW, burst: 3_000, queue: 24_000 }), ..WIDE },
    )?;
    let narrowed = clock::now();
    let low = target(&bob, bob.process.mark(), "what fits a narrow line", |bits| bits < NARROW)?;
    let followed = narrowed.elapsed();
    let dropped = dropped_in(&cable, &bob, 6)?;
    ensure!(dropped < 0.05, "{:.0} % were dropped once the sender knew", dropped * 100.0);
    cable.set(Way::Up, WIDE)?;
    let widened = clock::now();
    let high = target(&bob, bob.process.mark(), "more on a wide line", |bits| bits > 2 * low.min(NARROW))?;
    let recovered = widened.elapsed();
    bob.say("/hangup")?;
    let frames = bob.ends_well()?.video.context("no video stats")?.frames_sent;
    let seen = alice.wait("what it received", |event| {
        if let EventKind::Stats(stats) = event { Some(stats.video) } else { None }
    })?;
    let received = seen.context("no video stats")?.frames_received;
    ensure!(received * 10 > frames * 8, "{received} of {frames} pictures arrived");
    Ok(Evidence::new()
        .connected(&connected)
        .fact(format!(
            "at {} kbit/s the picture went from {} to {} kbit/s in {:.1} s, and then {:.1} % of the packets were dropped",
            NARROW / 1000,
            wide / 1000,
            low / 1000,
            followed.as_secs_f64(),
            dropped * 100.0
        ))
        .fact(format!("back on the wide line it reached {} kbit/s in {:.0} s", high / 1000, recovered.as_secs_f64()))
        .fact(format!("{received} of {frames} pictures arrived")))
}

/// Waits until the rate that the picture is encoded for is one of these, in bits per second.
fn target(peer: &Peer, from: Mark, what: &str, wanted: impl Fn(u64) -> bool) -> Result<u64> {
    peer.process.wait_for(what, from, Deadline::after(CALL * 5), |line| {
        let event: serde_json::Value = serde_json::from_str(line)?;
        let is = |entry: &&serde_json::Value, field, wanted: &str| {
            entry.get(field).and_then(serde_json::Value::as_str) == Some(wanted)
        };
        let entries = event.get("report").and_then(serde_json::Value::as_array).into_iter().flatten();
        let mut pictures =
            entries.filter(|entry| is(entry, "type", "outbound-rtp") && is(entry, "kind", "video"));
        Ok(pictures.find_map(|entry| entry.get("targetBitrate")?.as_u64()).filter(|bits| wanted(*bits)))
    })
}

/// Which share of what went up was dropped while so many reports came.
fn dropped_in(cable: &Cable, peer: &Peer, reports: usize) -> Result<f64> {
    let [before, _] = cable.counted()?;
    for _ in 0..reports {
        target(peer, peer.process.mark(), "a report", |_| true)?;
    }
    let [after, _] = cable.counted()?;
    Ok((after.dropped - before.dropped) as f64 / (after.entered - before.entered).max(1) as f64)
}
