//! What is recorded of a call over a line that loses, delays and swaps, and for a while loses most.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::homes::Town;
use crate::clock::{self, Deadline, PATIENCE};
use crate::event::{Event, EventKind, Media, Stats};
use crate::ffprobe::Probe;
use crate::lab::Nat;
use crate::lab::cable::{Cable, Counted, Traits};
use crate::peer::{Call, Peer};
use crate::process::Mark;
use crate::{Context, Evidence};

/// Each way.
const BAD: Traits = Traits {
    delay: Duration::from_millis(30),
    jitter: Duration::from_millis(15),
    loss: 50,
    reordering: 50,
    duplication: 10,
    rate: None,
};
/// What is asked for again, and what comes again, is lost as well: a pause alone would be repaired as a whole.
const WORSE: Traits = Traits { loss: 600, ..BAD };
const LOST_WHILE_WORSE: u64 = 120;
/// Packets of video, so that what was lost at the beginning and then is not most of it.
const AFTERWARDS: u64 = 150;
const OFTEN: Duration = Duration::from_millis(200);

/// Both record, one of them the test clip in VP8, the other the test pattern in H.264.
pub(super) fn over_a_bad_line(ctx: &Context) -> Result<Evidence> {
    let town = Town::build_with(ctx, [Nat::PORT_RESTRICTED, Nat::PORT_RESTRICTED], 1)?;
    let cable = town.internet.splice("left", BAD, 5)?;
    let dress = |call: Call| call.recording().counting(OFTEN);
    let mut right = town.call(ctx, &town.right, dress(Call::new("right")))?;
    right.joined()?;
    let left = dress(Call::new("left").sending("live", "live"));
    let mut left = town.call(ctx, &town.left, left)?;
    let connected = left.connected()?;
    for peer in [&right, &left] {
        peer.first_frame("video")?;
        peer.first_frame("audio")?;
    }
    for peer in [&right, &left] {
        peer.counts(Mark::START, "NACKs", |entry| (of_video(entry, "nackCount")? >= 3).then_some(()))?;
    }
    let asked = [key_frames(&right)?, key_frames(&left)?];
    worse_for_a_while(&cable)?;
    for (peer, asked) in [&right, &left].into_iter().zip(asked) {
        // It is asked for when nothing can be repaired any more, and it comes.
        peer.counts(peer.process.mark(), "more key frames asked for", |entry| {
            (of_video(entry, "pliCount")? > asked).then_some(())
        })?;
    }
    for peer in [&right, &left] {
        let mut before = None;
        peer.counts(peer.process.mark(), "pictures after that", |entry| {
            let now = of_video(entry, "packetsReceived")?;
            (now >= *before.get_or_insert(now) + AFTERWARDS).then_some(())
        })?;
    }
    left.process.signal(Signal::TERM)?;
    let ours = left.ends_well()?;
    right.process.signal(Signal::TERM)?;
    let theirs = right.ends_well()?;

    let mut evidence = Evidence::new().connected(&connected).arrived(&theirs, &ours);
    for (way, counted) in ["up", "down"].into_iter().zip(cable.counted()?) {
        let Counted { entered, lost, held_back, .. } = counted;
        ensure!(lost > LOST_WHILE_WORSE && held_back > 20, "the cable was too good, {way}: {counted:?}");
        evidence = evidence.fact(format!(
            "{way}, the cable lost {lost} of {entered} frames, and let {held_back} be overtaken"
        ));
    }
    for (peer, own, other, codec) in [(&right, &theirs, &ours, "h264"), (&left, &ours, &theirs, "vp8")] {
        evidence = evidence.fact(recorded(peer, own, other, codec)?);
    }
    Ok(evidence)
}

/// What `peer` has of what `other` sent.
fn recorded(peer: &Peer, own: &Stats, other: &Stats, codec: &str) -> Result<String> {
    let name = peer.process.name();
    let mut words = Vec::new();
    for (kind, codec, own, other, share) in [
        ("video", codec, own.video, other.video, LEAST_PICTURES),
        ("audio", "opus", own.audio, other.audio, LEAST_SOUND),
    ] {
        let (own, other): (Media, Media) = (own.context("no stats")?, other.context("no stats")?);
        let recording = peer.recording(kind)?;
        // Anything that the decoder finds wrong is an error.
        let probe = Probe::of(&recording.path)?;
        ensure!(probe.codec == codec, "{name} recorded {} instead of {codec}", probe.codec);
        ensure!(
            probe.frames == recording.frames && recording.frames == own.frames_received,
            "{name}: {} frames of {kind} arrived, {} were recorded, {} decoded",
            own.frames_received,
            recording.frames,
            probe.frames
        );
        let arrived = probe.frames as f64 / other.frames_sent.max(1) as f64;
        ensure!(
            (share..1.0).contains(&arrived),
            "{name}: {} of {} {kind} frames are recorded",
            probe.frames,
            other.frames_sent
        );
        let lasts = match probe.seconds {
            // A byte stream knows no times.
            None => String::new(),
            Some(_) if codec == "h264" => String::new(),
            Some(seconds) => {
                let took = lasted(peer, kind)?;
                ensure!(
                    (seconds - took).abs() < MOST_OFF,
                    "{name}: {seconds} s of {kind} were recorded in {took} s"
                );
                format!(", {seconds:.1} s")
            }
        };
        words.push(format!("{} of {} {codec} frames{lasts}", probe.frames, other.frames_sent));
    }
    let video = own.video.context("no stats")?;
    Ok(format!(
        "{name} recorded {} and ffprobe finds no fault; its last report has {} key frames asked for and {} NACKs",
        words.join(" and "),
        key_frames(peer)?,
        last(peer, "nackCount")?,
    ) + &format!(", of {} packets of video", video.packets_received))
}

/// From the first to the last of it, in seconds.
fn lasted(peer: &Peer, wanted: &str) -> Result<f64> {
    let moments = |is: fn(&EventKind, &str) -> bool| {
        let all = peer.process.collect(Mark::START, |line| {
            let event = Event::parse(line)?;
            Ok(is(&event.kind, wanted).then_some(event.at_ms))
        });
        all?.first().copied().context("neither a beginning nor an end")
    };
    let begun =
        moments(|event, wanted| matches!(event, EventKind::FirstFrame { kind, .. } if kind == wanted))?;
    let ended = moments(|event, wanted| matches!(event, EventKind::TrackEnded { kind } if kind == wanted))?;
    Ok((ended - begun) / 1e3)
}

/// Some are sent before anybody listens, some are lost while nothing can be repaired, and some before a key frame comes.
const LEAST_PICTURES: f64 = 0.5;
/// Nobody repeats sound.
const LEAST_SOUND: f64 = 0.6;
/// The last second may wait for a key frame.
const MOST_OFF: f64 = 1.5;

fn worse_for_a_while(cable: &Cable) -> Result<()> {
    let lost = || Ok::<_, anyhow::Error>(cable.counted()?.map(|way| way.lost));
    let before = lost()?;
    cable.set_both(WORSE)?;
    clock::poll("enough losses", Deadline::after(PATIENCE), || {
        let is_over = lost()?.iter().zip(before).all(|(now, before)| now - before >= LOST_WHILE_WORSE);
        Ok(is_over.then_some(()))
    })?;
    cable.set_both(BAD)
}

fn key_frames(peer: &Peer) -> Result<u64> {
    last(peer, "pliCount")
}

/// What the last report has, or nothing yet.
fn last(peer: &Peer, field: &str) -> Result<u64> {
    let counts = peer.said(|event| {
        let EventKind::StatsReport { report } = event else { return None };
        report.iter().find_map(|entry| of_video(entry, field))
    })?;
    Ok(counts.last().copied().unwrap_or_default())
}

fn of_video(entry: &Value, field: &str) -> Option<u64> {
    let is_incoming = entry["type"] == "inbound-rtp" && entry["kind"] == "video";
    is_incoming.then(|| entry[field].as_u64()).flatten()
}
