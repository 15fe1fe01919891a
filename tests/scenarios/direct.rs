//! Calls between peers that can reach each other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::pair::{Pair, nearly_all};
use crate::event::{EventKind, Stats};
use crate::ffprobe::Probe;
use crate::host::Host;
use crate::peer::{Call, Peer};
use crate::relay::{Direction, Relay};
use crate::stack::{Settings, Stack};
use crate::translator::Translator;
use crate::{Context, Evidence};

/// Long enough for a hundred frames each way.
const CALL: Duration = Duration::from_secs(4);

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
        evidence = evidence.fact(received_and_recorded(peer, own, other)?);
    }
    let media = evidence.bytes.unwrap_or_default();
    let relayed = stack.relay.forwarded(Direction::ToClient)?.bytes;
    ensure!(relayed * 10 < media, "the relay forwarded {relayed} bytes of a direct call of {media}");
    Ok(evidence.fact("a line of text typed at each side was printed at the other").fact(format!(
        "the relay forwarded {relayed} bytes (connectivity checks at most), the peers received {media}"
    )))
}

/// Checks that what `other` sent reached `peer`, its counters and its files, and that `ffprobe` can decode these.
fn received_and_recorded(peer: &Peer, own: &Stats, other: &Stats) -> Result<String> {
    let mut words = Vec::new();
    for (kind, codec, own, other) in
        [("video", "vp8", own.video, other.video), ("audio", "opus", own.audio, other.audio)]
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

pub(super) fn reflexive_candidate(ctx: &Context) -> Result<Evidence> {
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
    anyhow::bail!("{name} asked for its address from a socket that is no host candidate")
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
