//! What a connection carried and by which path, read from the engine's statistics.

use rtc::statistics::stats::ice_candidate::RTCIceCandidateStats;
use webrtc::peer_connection::{RTCStatsReport, RTCStatsReportEntry};

use super::engine;
use crate::report::{DataStats, MediaKind, PathReport, StreamStats};

/// The path in use. A remote address that was learned from a check before its candidate came counts as what the
/// candidate says, which `signaled` looks up.
pub(super) fn path(report: &RTCStatsReport, signaled: impl Fn(&str) -> Option<String>) -> Option<PathReport> {
    let transport = report.transport()?;
    let pair = report.candidate_pairs().find(|pair| pair.stats.id == transport.selected_candidate_pair_id)?;
    let local = candidate(report, &pair.local_candidate_id)?;
    let remote = candidate(report, &pair.remote_candidate_id)?;
    let remote_kind = match remote.candidate_type.to_string() {
        kind if kind == "prflx" => remote
            .address
            .as_deref()
            .and_then(|address| {
                let address = address.parse().ok()?;
                signaled(&std::net::SocketAddr::new(address, remote.port).to_string())
            })
            .unwrap_or(kind),
        kind => kind,
    };
    Some(PathReport {
        local: local.candidate_type.to_string(),
        remote: remote_kind,
        protocol: if local.protocol.starts_with("tcp") { "tcp" } else { "udp" }.to_owned(),
    })
}

fn candidate<'a>(report: &'a RTCStatsReport, id: &str) -> Option<&'a RTCIceCandidateStats> {
    let candidates = report.iter().filter_map(|entry| {
        if let RTCStatsReportEntry::LocalCandidate(stats) | RTCStatsReportEntry::RemoteCandidate(stats) =
            entry
        {
            Some(stats)
        } else {
            None
        }
    });
    // The report's own ids have a prefix that those of a pair do not.
    candidates.into_iter().find(|stats| stats.stats.id.ends_with(id))
}

/// Packets and bytes of one kind of media; frames are counted where they are made and put together.
pub(super) fn stream(report: &RTCStatsReport, kind: MediaKind) -> StreamStats {
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
            stats.packets_received += received.packets_received;
            stats.bytes_received += inbound.bytes_received;
            stats.packets_lost += u64::try_from(received.packets_lost).unwrap_or(0);
        }
    }
    stats
}

pub(super) fn data(report: &RTCStatsReport) -> DataStats {
    let mut stats = DataStats::default();
    for channel in report.data_channels() {
        stats.messages_sent += u64::from(channel.messages_sent);
        stats.messages_received += u64::from(channel.messages_received);
        stats.bytes_sent += channel.bytes_sent;
        stats.bytes_received += channel.bytes_received;
    }
    stats
}
