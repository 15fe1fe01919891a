//! Events in words for people: short lines, and a small table at the end.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

use crate::identity::Standing;

use super::event::{
    CandidateReport, Direction, Event, ParticipantState, SignalingState, StatsReport, Status, StreamStats,
};

/// A line for people, or nothing where they need not know.
pub(super) fn describe(event: &Event) -> Option<String> {
    let text = match event {
        Event::Joined { room, ordinal, others, .. } => {
            format!("Joined {} as number {ordinal}, {}", printable(room), others_there(*others))
        }
        Event::Status { status } => match status {
            Status::SetUp | Status::ReadyForCall => return None,
            Status::Disconnected
            | Status::Waiting
            | Status::Connected
            | Status::OnCall
            | Status::Reconnecting => status.text().to_owned(),
        },
        Event::Participant { state, reason, .. } => match (state, reason) {
            (ParticipantState::Left, Some(reason)) => format!("The other side left ({reason})"),
            (ParticipantState::Left, None) => "The other side left".to_owned(),
            (ParticipantState::Reconnecting, _) => "The other side is away from signaling".to_owned(),
            (ParticipantState::Waiting | ParticipantState::Connected, _) => return None,
        },
        Event::Candidate(candidate) => row(candidate)?,
        Event::Negotiation { .. }
        | Event::Track { .. }
        | Event::TrackEnded { .. }
        | Event::FirstFrame { .. } => return None,
        Event::Connected { local, remote, protocol, elapsed_ms } => {
            format!("Path: {local} to {remote} over {protocol}, up after {elapsed_ms:.0} ms")
        }
        Event::Path { local, remote, protocol } => {
            format!("Path: {local} to {remote} over {protocol} from now on")
        }
        Event::Code { code, command } => format!("Code: {code}\nOn the other side: {command}"),
        Event::Identity { key, standing } => match standing {
            Standing::Proven => format!("The other side is {key}"),
            Standing::Trusted => format!("The other side is {key}, which is trusted"),
            Standing::Known => format!("The other side is {key}, as before"),
            Standing::New => {
                format!(
                    "The other side is {key}, met in this room for the first time; it will be known from now on"
                )
            }
        },
        Event::OwnIdentity { key, .. } => key.clone(),
        Event::KnownPeer { key, server, room } => format!("{key}  {server}  {}", printable(room)),
        Event::SafetyWords { words } => {
            let (first, second) = words.split_at(words.len() / 2);
            format!("Safety words: {} / {}", first.join(" "), second.join(" "))
        }
        Event::ChannelOpen { .. } => "You can write now; each line goes to the other side".to_owned(),
        Event::Text { text } => printable(text).into_owned(),
        Event::Dtmf { tone } => format!("The other side pressed {tone}"),
        Event::Signaling { state } => match state {
            SignalingState::Lost => "Signaling lost; the call goes on while it reconnects".to_owned(),
            SignalingState::Resumed | SignalingState::Rejoined => "Signaling is back".to_owned(),
        },
        Event::Ice { .. } => return None,
        Event::Hangup { reason } if reason.is_empty() => "The other side hung up".to_owned(),
        Event::Hangup { reason } => format!("The call is over: {}", printable(reason)),
        Event::Recorded { kind, path, frames } => {
            format!("Recorded {frames} {} frames to {path}", kind.text())
        }
        Event::Check { what, ok, message, fix } => {
            let word = if *ok { "ok    " } else { "FAILED" };
            let fix = fix.as_ref().map(|fix| format!("\n       To mend it: {fix}")).unwrap_or_default();
            format!("{word} {}: {}{fix}", printable(what), printable(message))
        }
        Event::Nat(behaviour) => behaviour.words.clone(),
        Event::Listening { address, target, remote } => {
            let who = if *remote { "The other side listens" } else { "Listening" };
            format!("{who} at {} for {}", printable(address), printable(target))
        }
        Event::TransferBegun { direction, files, bytes } => {
            let verb = if *direction == Direction::Sent { "Sending" } else { "Receiving" };
            format!("{verb} {}, {}", count(*files), size(*bytes))
        }
        Event::Progress { .. } => return None,
        Event::File { direction, path, bytes, .. } => {
            let verb = if *direction == Direction::Sent { "Sent" } else { "Received" };
            format!("{verb} {}, {}", printable(path), size(*bytes))
        }
        Event::Transferred { files, bytes, carried_bytes, resumed_bytes, elapsed_ms, .. } => {
            let speed = *carried_bytes as f64 / 1e3 / elapsed_ms.max(1e-3);
            let mut text = format!(
                "Complete: {}, {} in {} ({speed:.1} MB/s)",
                count(*files),
                size(*bytes),
                time(*elapsed_ms),
            );
            if *resumed_bytes > 0 {
                let _ = write!(text, "; {} of it were there before", size(*resumed_bytes));
            }
            text
        }
        Event::Bench { bytes, elapsed_ms, megabytes_per_second, cpu_seconds } => format!(
            "{:.1} MB in {:.2} s: {megabytes_per_second:.1} MB/s, {:.2} CPU seconds per GiB",
            *bytes as f64 / 1e6,
            elapsed_ms / 1e3,
            if *bytes == 0 { 0.0 } else { cpu_seconds * GIB / *bytes as f64 },
        ),
        Event::Held { connections, resident_bytes, cpu_percent } => format!(
            "{connections} connections, each {:.0} KiB and {:.3} % of a core",
            *resident_bytes as f64 / 1024.0 / f64::from((*connections).max(1)),
            cpu_percent / f64::from((*connections).max(1)),
        ),
        Event::Stats(stats) => table(stats),
        Event::StatsReport { report } => so_far(report),
        Event::Warning { message } => format!("Warning: {}", printable(message)),
        Event::Ended { reason } => format!("Ended: {}", printable(reason)),
        Event::Error { message, .. } => format!("Error: {}", printable(message)),
    };
    Some(text)
}

/// What people should know beside what they asked for.
pub(super) fn aside(event: &Event) -> Option<String> {
    let Event::OwnIdentity { file, made, .. } = event else { return None };
    let made = if *made { ", made just now" } else { "" };
    Some(format!(
        "The private key is in {file}{made}. Others talk to nobody else with --trust and what is above."
    ))
}

/// Text from elsewhere without what could drive a terminal.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

const GIB: f64 = (1u64 << 30) as f64;

fn count(files: u64) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

/// In the largest unit of which it has one.
fn size(bytes: u64) -> String {
    match bytes {
        1 => "1 byte".to_owned(),
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        1_000_000_000.. => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

fn time(milliseconds: f64) -> String {
    let seconds = milliseconds / 1e3;
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let (minutes, seconds) = (seconds.div_euclid(60.0), seconds.rem_euclid(60.0).floor());
    format!("{minutes:.0} min {seconds:.0} s")
}

/// A line of the table of candidates. During a call they are no news for people.
fn row(candidate: &CandidateReport) -> Option<String> {
    let elapsed = candidate.elapsed_ms?;
    let CandidateReport { kind, protocol, tcp_type, address, related, url, .. } = candidate;
    if tcp_type.as_deref() == Some("active") {
        // It has no address of its own yet.
        return None;
    }
    let related = related.as_deref().unwrap_or("-");
    let url = url.as_deref().unwrap_or("-");
    Some(format!("{kind:<6} {protocol:<4} {address:<24} {related:<24} {elapsed:>8.1} ms  {}", printable(url)))
}

fn others_there(others: usize) -> String {
    match others {
        0 => "nobody else is there yet".to_owned(),
        1 => "the other side is there".to_owned(),
        more => format!("{more} others are there"),
    }
}

/// The sums that people look for in a report.
fn so_far(report: &[Value]) -> String {
    let of = |kind: &'static str| report.iter().filter(move |entry| entry["type"] == kind);
    let sum = |kind, field: &str| of(kind).filter_map(|entry| entry[field].as_u64()).sum::<u64>();
    let round_trip = of("candidate-pair")
        .filter(|pair| pair["nominated"] == true)
        .find_map(|pair| pair["currentRoundTripTime"].as_f64())
        .map_or_else(|| "unknown".to_owned(), |seconds| format!("{:.1} ms", seconds * 1e3));
    format!(
        "So far {:.1} kB sent, {:.1} kB received, {} packets lost, round trip {round_trip}",
        sum("transport", "bytesSent") as f64 / 1e3,
        sum("transport", "bytesReceived") as f64 / 1e3,
        sum("inbound-rtp", "packetsLost"),
    )
}

fn table(stats: &StatsReport) -> String {
    let mut text = format!("Call of {:.1} s", stats.duration_ms / 1e3);
    if let Some(path) = &stats.path {
        let _ = write!(text, ", {} to {} over {}", path.local, path.remote, path.protocol);
    }
    let _ = write!(
        text,
        "\n{:<8}{:>12}{:>12}{:>14}{:>14}{:>8}",
        "", "sent", "received", "sent", "received", "lost"
    );
    for (name, stream) in [("video", &stats.video), ("audio", &stats.audio)] {
        let StreamStats { frames_sent, frames_received, bytes_sent, bytes_received, packets_lost, .. } =
            stream;
        let _ = write!(
            text,
            "\n{name:<8}{:>12}{:>12}{:>14}{:>14}{packets_lost:>8}",
            format!("{frames_sent} fr"),
            format!("{frames_received} fr"),
            format!("{bytes_sent} B"),
            format!("{bytes_received} B"),
        );
    }
    let data = &stats.data;
    let relay = &stats.relay;
    for (name, unit, counts) in [
        ("data", "msg", [data.messages_sent, data.messages_received, data.bytes_sent, data.bytes_received]),
        (
            "relay",
            "dgram",
            [relay.datagrams_sent, relay.datagrams_received, relay.bytes_sent, relay.bytes_received],
        ),
    ] {
        let [sent, received, bytes_sent, bytes_received] = counts;
        let _ = write!(
            text,
            "\n{name:<8}{:>12}{:>12}{:>14}{:>14}",
            format!("{sent} {unit}"),
            format!("{received} {unit}"),
            format!("{bytes_sent} B"),
            format!("{bytes_received} B"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_the_other_side_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
        assert!(matches!(printable("plain ünïcode"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_transfer_ends_in_words() {
        let done = |files, bytes, resumed_bytes, elapsed_ms| {
            let carried_bytes = bytes - resumed_bytes;
            let direction = Direction::Sent;
            let event =
                Event::Transferred { direction, files, bytes, carried_bytes, resumed_bytes, elapsed_ms };
            describe(&event).unwrap()
        };
        assert_eq!(done(1, 1, 0, 1000.0), "Complete: 1 file, 1 byte in 1.0 s (0.0 MB/s)");
        assert_eq!(
            done(31, 120_400_000, 20_400_000, 5000.0),
            "Complete: 31 files, 120.4 MB in 5.0 s (20.0 MB/s); 20.4 MB of it were there before"
        );
        assert_eq!(
            done(2, 6_000_000_000, 0, 120_500.0),
            "Complete: 2 files, 6.00 GB in 2 min 0 s (49.8 MB/s)"
        );
    }

    #[test]
    fn the_stats_table_has_a_row_for_each_kind() {
        let text = describe(&Event::Stats(Box::default())).unwrap();
        let rows: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(rows, ["Call", "sent", "video", "audio", "data", "relay"]);
    }
}
