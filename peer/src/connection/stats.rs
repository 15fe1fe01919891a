//! What a connection carried and by which path, read from the engine's statistics.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use rtc::rtp_transceiver::rtp_sender::RtpCodecKind;
use rtc::statistics::report::RTCStatsReportEntry as Entry;
use serde::Serialize;
use serde_json::Value;
use webrtc::peer_connection::{PeerConnection, RTCIceCandidateType, RTCStatsReport};

use super::bandwidth::Feedback;
use super::channel::{Greetings, LABEL};
use super::engine;
use super::intake::Announced;
use crate::media::{AUDIO_CLOCK, VIDEO_CLOCK};
use crate::net::TurnWatch;
use crate::report::{DataStats, MediaKind, PathReport, StreamStats};

/// The path in use. A remote address that was learned from a check before its candidate came counts as what the
/// candidate says, which `signaled` looks up.
pub(super) async fn path(
    engine: &dyn PeerConnection,
    signaled: impl Fn(&str) -> Option<String>,
    turn: &TurnWatch,
) -> Option<PathReport> {
    let ice = engine.sctp().await?.transport().ice_transport();
    let pair = ice.get_selected_candidate_pair().await.ok()??;
    let (local, remote) = (pair.local(), pair.remote());
    let address =
        remote.address.parse().map(|address: IpAddr| SocketAddr::new(address, remote.port).to_string());
    let remote_kind = match address {
        Ok(address) if remote.typ == RTCIceCandidateType::Prflx => signaled(&address),
        Ok(_) | Err(_) => None,
    };
    // A relayed candidate is of UDP; what counts is how we reach the relay.
    let carrier =
        local.address.parse().ok().and_then(|ip: IpAddr| turn.carrier_of(SocketAddr::new(ip, local.port)));
    Some(PathReport {
        local: local.typ.to_string(),
        remote: remote_kind.unwrap_or_else(|| remote.typ.to_string()),
        protocol: carrier.map_or_else(|| local.protocol.to_string(), |carrier| carrier.as_str().to_owned()),
    })
}

/// Packets and bytes of one kind of media; frames are counted where they are made and put together.
pub(super) fn stream(report: &RTCStatsReport, kind: MediaKind, announced: &Announced) -> StreamStats {
    let kind = engine::codec_kind(kind);
    let mut stats = StreamStats::default();
    for sent in report.outbound_rtp_streams().map(|stream| &stream.sent_rtp_stream_stats) {
        if sent.rtp_stream_stats.kind == kind {
            stats.packets_sent += sent.packets_sent;
            stats.bytes_sent += sent.bytes_sent;
        }
    }
    for inbound in report.inbound_rtp_streams() {
        let received = &inbound.received_rtp_stream_stats;
        if received.rtp_stream_stats.kind == kind {
            // The engine counts the copy that announced the stream as well.
            let copies = announced.of(received.rtp_stream_stats.ssrc);
            stats.packets_received += received.packets_received.saturating_sub(copies.packets);
            stats.bytes_received += inbound.bytes_received.saturating_sub(copies.bytes);
            stats.packets_lost += u64::try_from(received.packets_lost).unwrap_or(0);
        }
    }
    stats
}

/// Everything that the engine counts, by the names of the W3C.
pub(super) fn entries(
    report: &RTCStatsReport,
    announced: &Announced,
    greetings: &Greetings,
    feedback: &Feedback,
) -> Vec<Value> {
    let of_w3c = |entry| {
        let mut value = of_w3c(entry, announced, greetings)?;
        if let (Some((field, bits)), Some(fields)) = (of_congestion(entry, feedback), value.as_object_mut()) {
            match bits {
                Some(bits) => fields.insert(field.to_owned(), bits.into()),
                None => fields.remove(field),
            };
        }
        Some(value)
    };
    report.iter().filter_map(of_w3c).collect()
}

/// What is estimated, and what is aimed at, of which the engine knows nothing.
fn of_congestion(entry: &Entry, feedback: &Feedback) -> Option<(&'static str, Option<u64>)> {
    if let Entry::IceCandidatePair(pair) = entry
        && pair.nominated
    {
        return Some(("availableOutgoingBitrate", feedback.bandwidth.available()));
    }
    if let Entry::OutboundRtp(stream) = entry {
        let is_video = stream.sent_rtp_stream_stats.rtp_stream_stats.kind == RtpCodecKind::Video;
        return Some(("targetBitrate", feedback.target().filter(|_| is_video)));
    }
    None
}

fn of_w3c(entry: &Entry, announced: &Announced, greetings: &Greetings) -> Option<Value> {
    let mut value = match entry {
        Entry::PeerConnection(stats) => json(stats),
        Entry::Transport(stats) => json(stats),
        Entry::IceCandidatePair(stats) => json(stats),
        Entry::LocalCandidate(stats) | Entry::RemoteCandidate(stats) => json(stats),
        Entry::Certificate(stats) => json(stats),
        Entry::Codec(stats) => json(stats),
        Entry::DataChannel(stats) => json(stats),
        Entry::InboundRtp(stats) => json(stats),
        Entry::OutboundRtp(stats) => json(stats),
        Entry::RemoteInboundRtp(stats) => json(stats),
        Entry::RemoteOutboundRtp(stats) => json(stats),
        Entry::AudioSource(stats) => json(stats),
        Entry::VideoSource(stats) => json(stats),
        Entry::AudioPlayout(stats) => json(stats),
        _ => None,
    }?;
    let fields = value.as_object_mut()?;
    fields.retain(|_, value| value != "Unspecified");
    for (name, value) in fields.iter_mut() {
        // The engine writes seconds; moments of the W3C are in milliseconds.
        if name.to_ascii_lowercase().ends_with("timestamp")
            && let Some(seconds) = value.as_f64()
        {
            *value = (seconds * 1e3).into();
        }
    }
    // The engine leaves ticks of the RTP clock; durations of the W3C are in seconds.
    let rate = match fields.get("kind").and_then(Value::as_str) {
        Some("audio") => Some(AUDIO_CLOCK),
        Some("video") => Some(VIDEO_CLOCK),
        Some(_) | None => None,
    };
    if let (Some(rate), Some(ticks)) = (rate, fields.get("jitter").and_then(Value::as_f64)) {
        fields.insert("jitter".to_owned(), (ticks / f64::from(rate)).into());
    }
    for (field, ours) in of_the_cures(entry, announced, greetings) {
        if let Some(count) = fields.get(field).and_then(Value::as_u64) {
            fields.insert(field.to_owned(), count.saturating_sub(ours).into());
        }
    }
    Some(value)
}

/// What the engine counts as well, and what nobody sent.
fn of_the_cures(entry: &Entry, announced: &Announced, greetings: &Greetings) -> Vec<(&'static str, u64)> {
    if let Entry::InboundRtp(stats) = entry {
        let copies = announced.of(stats.received_rtp_stream_stats.rtp_stream_stats.ssrc);
        return vec![("packetsReceived", copies.packets), ("bytesReceived", copies.bytes)];
    }
    if let Entry::DataChannel(stats) = entry
        && stats.label == LABEL
    {
        let (sent, received) = (greetings.sent.load(Relaxed), greetings.received.load(Relaxed));
        return vec![("messagesSent", sent.into()), ("messagesReceived", received.into())];
    }
    Vec::new()
}

fn json(stats: &impl Serialize) -> Option<Value> {
    serde_json::to_value(stats).ok()
}

pub(super) fn data(report: &RTCStatsReport, greetings: &Greetings) -> DataStats {
    let mut stats = DataStats::default();
    for channel in report.data_channels() {
        stats.messages_sent += u64::from(channel.messages_sent);
        stats.messages_received += u64::from(channel.messages_received);
        stats.bytes_sent += channel.bytes_sent;
        stats.bytes_received += channel.bytes_received;
    }
    stats.messages_sent = stats.messages_sent.saturating_sub(greetings.sent.load(Relaxed).into());
    stats.messages_received = stats.messages_received.saturating_sub(greetings.received.load(Relaxed).into());
    stats
}
