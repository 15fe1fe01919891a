//! What `farcall-peer --json` says on stdout, one JSON object per line.
//!
//! Kinds that this harness does not know are let through, since the peer may say more; a line of a known kind that
//! lacks a field is a broken contract and fails whoever reads it.

use std::fmt;

use anyhow::{Context, Result};
use serde::Deserialize;

/// One line.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Event {
    /// Milliseconds since the peer started.
    pub at_ms: f64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl Event {
    /// Reads a line.
    pub fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line).context("not an event of the contract")
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are the wire names of the peer's contract")]
pub enum EventKind {
    Joined {
        session: String,
        room: String,
        ordinal: u64,
    },
    Status {
        status: String,
    },
    Participant {
        session: String,
        state: String,
        reason: Option<String>,
    },
    Negotiation {
        description: String,
        direction: String,
    },
    Candidate(Candidate),
    Connected(Connected),
    Path(Path),
    OwnIdentity {
        key: String,
        file: String,
    },
    SafetyWords {
        words: Vec<String>,
    },
    ChannelOpen {
        label: String,
        elapsed_ms: f64,
    },
    Text {
        text: String,
    },
    Dtmf {
        tone: char,
    },
    Track {
        kind: String,
        codec: String,
    },
    FirstFrame {
        kind: String,
        elapsed_ms: f64,
    },
    Signaling {
        state: String,
    },
    Ice {
        state: String,
    },
    Hangup {
        reason: String,
    },
    Recorded(Recorded),
    Check {
        what: String,
        ok: bool,
        fix: Option<String>,
    },
    Nat(Nat),
    Listening {
        address: String,
        target: String,
        remote: bool,
    },
    File(File),
    Transferred {
        bytes: u64,
        elapsed_ms: f64,
    },
    Held {
        connections: u64,
        resident_bytes: u64,
        cpu_percent: f64,
    },
    Bench {
        bytes: u64,
        elapsed_ms: f64,
        megabytes_per_second: f64,
        cpu_seconds: f64,
    },
    Stats(Box<Stats>),
    StatsReport {
        report: Vec<serde_json::Value>,
    },
    TrackEnded {
        kind: String,
    },
    Ended {
        reason: String,
    },
    Error(Failure),
    #[serde(other)]
    Unknown,
}

/// How a network treats UDP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Nat {
    /// The peer's own address and port.
    pub local: String,
    /// The same as the server sees it.
    pub mapped: String,
    /// Whether these differ.
    pub translated: bool,
    /// On what of the other end the outer address depends, in the words of RFC 4787.
    pub mapping: Option<String>,
    /// On what of it who is let in depends.
    pub filtering: Option<String>,
    /// What that means.
    pub words: String,
}

/// A file of a transfer is complete.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct File {
    /// Below the receiver's folder.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// The hash of its content.
    pub blake3: String,
}

/// An address at which a peer may be reachable.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Candidate {
    /// `local` or `remote`.
    pub side: String,
    /// `host`, `srflx`, `prflx` or `relay`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `udp` or `tcp`.
    pub protocol: String,
    /// Address and port.
    pub address: String,
    /// The server it was learnt from.
    pub url: Option<String>,
}

/// A connection came up.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Connected {
    /// By which candidates.
    #[serde(flatten)]
    pub path: Path,
    /// Since both were in the room.
    pub elapsed_ms: f64,
}

/// The candidate types at both ends of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Path {
    /// Type of the local candidate.
    pub local: String,
    /// Type of the remote candidate.
    pub remote: String,
    /// `udp`, `tcp` or `tls`.
    pub protocol: String,
}

impl Path {
    /// Whether no server is in it.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.local != "relay" && self.remote != "relay"
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} {}", self.local, self.remote, self.protocol)
    }
}

/// A file with what was received.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Recorded {
    /// `video` or `audio`.
    pub kind: String,
    /// Where it is.
    pub path: std::path::PathBuf,
    /// How many frames were written.
    pub frames: u64,
}

/// What went over the connection, told at the end.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Stats {
    /// The settled path; absent when there never was one.
    pub path: Option<Path>,
    /// Pictures.
    pub video: Option<Media>,
    /// Sound.
    pub audio: Option<Media>,
    /// The data channel.
    pub data: Option<Data>,
    /// What was exchanged with the TURN server, as application payload without TURN framing.
    pub relay: Option<Relayed>,
}

/// Frames, packets and bytes of one kind of media.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the fields are the wire names of the peer's contract")]
pub struct Media {
    pub frames_sent: u64,
    pub frames_received: u64,
    pub packets_sent: u64,
    pub packets_received: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub packets_lost: i64,
}

/// Messages and bytes of the data channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the fields are the wire names of the peer's contract")]
pub struct Data {
    pub messages_sent: u64,
    pub messages_received: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// Payload through the TURN server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the fields are the wire names of the peer's contract")]
pub struct Relayed {
    pub datagrams_sent: u64,
    pub bytes_sent: u64,
    pub datagrams_received: u64,
    pub bytes_received: u64,
}

/// Why the peer gave up.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Failure {
    /// For programs: `ROOM_FULL`, `ICE_FAILED` and so on.
    pub reason: String,
    /// For people.
    pub message: String,
    /// What helps to understand it.
    #[serde(default)]
    pub details: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_of_the_contract_are_read() {
        let line = r#"{"event":"connected","at_ms":41.5,"local":"host","remote":"prflx","protocol":"udp","elapsed_ms":12.25}"#;
        let EventKind::Connected(connected) = Event::parse(line).unwrap().kind else {
            panic!("another kind")
        };
        assert_eq!(connected.path.to_string(), "host > prflx udp");
        assert!(connected.path.is_direct());

        let line = r#"{"event":"candidate","at_ms":3,"side":"local","type":"srflx","protocol":"udp","address":"2.0.0.1:9","url":"stun:x"}"#;
        let EventKind::Candidate(candidate) = Event::parse(line).unwrap().kind else {
            panic!("another kind")
        };
        assert_eq!((candidate.kind.as_str(), candidate.url.as_deref()), ("srflx", Some("stun:x")));

        let line = r#"{"event":"error","at_ms":3.5,"reason":"ROOM_FULL","message":"the room holds two"}"#;
        let EventKind::Error(failure) = Event::parse(line).unwrap().kind else { panic!("another kind") };
        assert_eq!((failure.reason.as_str(), failure.details), ("ROOM_FULL", serde_json::Value::Null));
    }

    #[test]
    fn a_path_with_a_relay_at_either_end_is_not_direct() {
        let path = |local: &str, remote: &str| Path {
            local: local.to_owned(),
            remote: remote.to_owned(),
            protocol: "udp".to_owned(),
        };
        assert!(!path("relay", "host").is_direct());
        assert!(!path("srflx", "relay").is_direct());
    }

    #[test]
    fn an_unknown_kind_passes_and_a_known_one_without_its_field_does_not() {
        assert_eq!(
            Event::parse(r#"{"event":"weather","at_ms":1,"sun":true}"#).unwrap().kind,
            EventKind::Unknown
        );
        assert!(Event::parse(r#"{"event":"text","at_ms":1}"#).is_err());
        assert!(Event::parse(r#"{"event":"text","text":"when?"}"#).is_err());
    }
}
