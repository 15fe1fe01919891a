//! Calls between peers that can reach each other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::pair::{Pair, nearly_all};
use crate::event::{EventKind, Stats};
use crate::ffprobe::Probe;
use crate::peer::Peer;
use crate::relay::Direction;
use crate::stack::Stack;
use crate::{Context, Evidence};

/// Long enough for a hundred frames each way.
pub(super) const CALL: Duration = Duration::from_secs(4);

pub(super) fn call(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let mut pair = Pair::meet(ctx, &stack, |call| call.recording().lasting(CALL))?;
    let path = &pair.connected.path;
    ensure!(path.is_direct(), "the path is {path}");
    pair.see_and_hear()?;
    pair.talk("Direct")?;
    let (alice, bob) = pair.end()?;

    let mut evidence = Evidence::new().connected(&pair.connected).arrived(&alice, &bob);
    for (peer, own, other) in [(&pair.alice, &alice, &bob), (&pair.bob, &bob, &alice)] {
        evidence = evidence.fact(received_and_recorded(peer, own, other, "vp8")?);
    }
    let media = evidence.bytes.unwrap_or_default();
    let relayed = stack.relay.forwarded(Direction::ToClient)?.bytes;
    ensure!(relayed * 10 < media, "the relay forwarded {relayed} bytes of a direct call of {media}");
    Ok(evidence.fact("a line of text typed at each side was printed at the other").fact(format!(
        "the relay forwarded {relayed} bytes (connectivity checks at most), the peers received {media}"
    )))
}

/// Checks that what `other` sent reached `peer`, its counters and its files, and that `ffprobe` can decode these.
pub(super) fn received_and_recorded(
    peer: &Peer,
    own: &Stats,
    other: &Stats,
    video_codec: &str,
) -> Result<String> {
    let mut words = Vec::new();
    for (kind, codec, own, other) in
        [("video", video_codec, own.video, other.video), ("audio", "opus", own.audio, other.audio)]
    {
        let name = peer.process.name();
        let (own, other) = (own.context("no stats of it")?, other.context("no stats of it")?);
        nearly_all(&format!("{kind} frames at {name}"), own.frames_received, other.frames_sent, floor(kind))?;
        let recording = peer.recording(kind)?;
        let probe = Probe::of(&recording.path)?;
        ensure!(
            probe.codec == codec,
            "{} holds {} instead of {codec}",
            recording.path.display(),
            probe.codec
        );
        ensure!(
            probe.frames == recording.frames,
            "ffprobe decodes {} frames of {}, {name} says it wrote {}",
            probe.frames,
            recording.path.display(),
            recording.frames
        );
        nearly_all(
            &format!("recorded {kind} frames at {name}"),
            probe.frames,
            other.frames_sent,
            floor(kind),
        )?;
        words.push(format!("{} of {} {codec} frames", probe.frames, other.frames_sent));
    }
    Ok(format!("{} recorded {}; ffprobe decodes every one", peer.process.name(), words.join(" and ")))
}

/// Frames that a call of [`CALL`] has at the very least: 12 pictures, or 40 Opus frames, a second.
fn floor(kind: &str) -> u64 {
    CALL.as_secs() * if kind == "video" { 12 } else { 40 }
}

pub(super) fn both_offer(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    for attempt in 1..=ATTEMPTS {
        let room = format!("glare-{attempt}");
        let names = [format!("alice-{attempt}"), format!("bob-{attempt}")];
        let mut pair = Pair::meet_as(ctx, &stack, names.each_ref().map(String::as_str), |call| {
            call.in_room(&room).offering_always().lasting(Duration::from_secs(3))
        })?;
        pair.see_and_hear()?;
        pair.talk("Glare")?;
        let offers = [pair.alice.negotiated("offer", "sent")?, pair.bob.negotiated("offer", "sent")?];
        let rollbacks = rollbacks(&pair.alice)?;
        ensure!(rollbacks == 0 || offers.iter().all(|sent| *sent > 0), "a rollback without two offers");
        ensure!(self::rollbacks(&pair.bob)? == 0, "Bob, who came last and is impolite, rolled back");
        let (alice, bob) = pair.end()?;
        for peer in [&pair.alice, &pair.bob] {
            let connections =
                peer.said(|event| matches!(event, EventKind::Connected(_)).then_some(()))?.len();
            ensure!(connections == 1, "{} connected {connections} times", peer.process.name());
        }
        if rollbacks == 0 {
            // Both did connect, but one offer was there before the other was made.
            continue;
        }
        return Ok(Evidence::new()
            .connected(&pair.connected)
            .arrived(&alice, &bob)
            .fact(format!(
                "both sent an offer, they crossed (attempt {attempt}), and Alice, the polite one, rolled hers back"
            ))
            .fact("each connected exactly once; text, video and audio went both ways after it"));
    }
    anyhow::bail!("in {ATTEMPTS} calls with --offer always no two offers crossed")
}

fn rollbacks(peer: &Peer) -> Result<usize> {
    let made = peer.said(|event| {
        let EventKind::Negotiation { description, .. } = event else { return None };
        (description == "rollback").then_some(())
    })?;
    Ok(made.len())
}

/// Whether offers cross is up to the scheduler; that it never happens is not.
const ATTEMPTS: usize = 4;
