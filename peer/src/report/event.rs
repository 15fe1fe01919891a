//! The events of a peer. Their names and fields in JSON are a contract with whoever parses them.

use serde::Serialize;
use serde_json::Value;

use crate::failure::Reason;
use crate::identity::Standing;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// In the room.
    Joined {
        /// This participant's session.
        session: String,
        /// The room key.
        room: String,
        /// The place in the order of joining.
        ordinal: u64,
        /// How many others are there.
        others: usize,
    },
    /// The state of the call, in the words of the page.
    Status {
        /// The new status.
        status: Status,
    },
    /// Somebody entered, left, or changed state.
    Participant {
        /// Their session.
        session: String,
        /// What they are now.
        state: ParticipantState,
        /// Why they left.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A session description was sent or received, or an own offer taken back.
    Negotiation {
        /// Which kind.
        description: DescriptionKind,
        /// Which way.
        direction: Direction,
    },
    /// A candidate was found here or came from the other side.
    Candidate(CandidateReport),
    /// Media and data flow.
    Connected {
        /// Type of the local candidate in use.
        local: String,
        /// Type of the remote candidate in use.
        remote: String,
        /// Transport protocol.
        protocol: String,
        /// Since both were in the room.
        elapsed_ms: f64,
    },
    /// They flow by another path from now on.
    Path {
        /// Type of the local candidate in use.
        local: String,
        /// Type of the remote candidate in use.
        remote: String,
        /// Transport protocol.
        protocol: String,
    },
    /// A code was made, which the other side must be told.
    Code {
        /// Four digits and three words.
        code: String,
        /// What to do there.
        command: String,
    },
    /// The other side has proved who it is.
    Identity {
        /// Its public key.
        key: String,
        /// How that is known.
        standing: Standing,
    },
    /// Who this side is.
    OwnIdentity {
        /// Its public key, for others to trust.
        key: String,
        /// Where the private one is.
        file: String,
        /// It was made just now.
        made: bool,
    },
    /// A peer that was met before.
    KnownPeer {
        /// By this key.
        key: String,
        /// Through this signaling server.
        server: String,
        /// In this room.
        room: String,
    },
    /// What both ends read to each other to find out whether somebody is in between.
    SafetyWords {
        /// Twelve of them, the same at both ends.
        words: Vec<String>,
    },
    /// A data channel is open.
    ChannelOpen {
        /// Its label.
        label: String,
        /// Since both were in the room.
        elapsed_ms: f64,
    },
    /// The other side said something.
    Text {
        /// What it said.
        text: String,
    },
    /// The other side sends media.
    Track {
        /// Of this kind.
        kind: MediaKind,
        /// In this codec.
        codec: String,
    },
    /// The other side sends a track no more.
    TrackEnded {
        /// Of this kind.
        kind: MediaKind,
    },
    /// The first whole frame of a track arrived.
    FirstFrame {
        /// Of this kind.
        kind: MediaKind,
        /// Since both were in the room.
        elapsed_ms: f64,
    },
    /// The other side pressed a key.
    Dtmf {
        /// `0`–`9`, `*`, `#`, or `A`–`D`.
        tone: char,
    },
    /// The connection to the signaling server was lost or is back.
    Signaling {
        /// What it is now.
        state: SignalingState,
    },
    /// The ICE connection changed.
    Ice {
        /// The W3C's name of the state.
        state: String,
    },
    /// The other side ended the call, or it broke off.
    Hangup {
        /// Why.
        reason: String,
    },
    /// A recording was finished.
    Recorded {
        /// Of this kind.
        kind: MediaKind,
        /// Into this file.
        path: String,
        /// With this many frames.
        frames: u64,
    },
    /// A server was checked.
    Check {
        /// Which.
        what: String,
        /// Whether all is well with it.
        ok: bool,
        /// What was found.
        message: String,
        /// What to do.
        #[serde(skip_serializing_if = "Option::is_none")]
        fix: Option<String>,
    },
    /// How the network treats UDP.
    Nat(Box<NatBehaviour>),
    /// A port is open, from which connections are forwarded.
    Listening {
        /// Where.
        address: String,
        /// To where they are forwarded.
        target: String,
        /// Whether it is a port of the other side.
        remote: bool,
    },
    /// It is known what will be transferred.
    TransferBegun {
        /// Which way.
        direction: Direction,
        /// So many files.
        files: u64,
        /// With so many bytes altogether.
        bytes: u64,
    },
    /// How far a transfer is; a few times a second while it moves.
    Progress {
        /// Bytes that were carried, or need not be.
        bytes: u64,
        /// Of so many.
        total: u64,
    },
    /// A file is complete and in its place.
    File {
        /// Which way.
        direction: Direction,
        /// Where it is, below the receiver's folder.
        path: String,
        /// Its length.
        bytes: u64,
        /// The hash of its content, as `b3sum` prints it.
        blake3: String,
    },
    /// A transfer is complete.
    Transferred {
        /// Which way.
        direction: Direction,
        /// So many files.
        files: u64,
        /// With so many bytes altogether.
        bytes: u64,
        /// Bytes of files that this process carried.
        carried_bytes: u64,
        /// Bytes that had arrived before, and were not sent again.
        resumed_bytes: u64,
        /// Since the first list.
        elapsed_ms: f64,
    },
    /// A throughput measurement is done.
    Bench {
        /// Bytes carried.
        bytes: u64,
        /// In this time.
        elapsed_ms: f64,
        /// That is.
        megabytes_per_second: f64,
        /// For which this process used so much CPU.
        cpu_seconds: f64,
    },
    /// What idle connections cost that were held.
    Held {
        /// So many.
        connections: u32,
        /// Memory that all of them take.
        resident_bytes: u64,
        /// CPU time of all of them while they were idle, in percent of a core.
        cpu_percent: f64,
    },
    /// What a connection carried.
    Stats(Box<StatsReport>),
    /// What a connection that is up has carried so far.
    StatsReport {
        /// The W3C's dictionaries: `candidate-pair`, `inbound-rtp` and so on.
        report: Vec<Value>,
    },
    /// Something is not as it should be; the peer goes on.
    Warning {
        /// For people.
        message: String,
    },
    /// The peer has ended as it was asked to.
    Ended {
        /// Why.
        reason: String,
    },
    /// The peer has ended otherwise.
    Error {
        /// For programs.
        reason: Reason,
        /// For people.
        message: String,
        /// What helps to find the cause.
        #[serde(skip_serializing_if = "Option::is_none")]
        details: Option<Value>,
    },
}

/// The state of a call, in the words of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Status {
    /// Not in a room.
    Disconnected,
    /// Alone in the room.
    Waiting,
    /// In the room together with somebody.
    Connected,
    /// Local media is ready too.
    #[serde(rename = "Set up")]
    SetUp,
    /// An offer may go out or come in.
    #[serde(rename = "Ready for call")]
    ReadyForCall,
    /// Media and data flow.
    #[serde(rename = "On call")]
    OnCall,
    /// They flowed, and are being brought back.
    Reconnecting,
}

impl Status {
    /// As people read it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Disconnected => "Disconnected",
            Self::Waiting => "Waiting",
            Self::Connected => "Connected",
            Self::SetUp => "Set up",
            Self::ReadyForCall => "Ready for call",
            Self::OnCall => "On call",
            Self::Reconnecting => "Reconnecting",
        }
    }
}

/// A participant's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ParticipantState {
    /// Alone in the room.
    Waiting,
    /// Together with somebody.
    Connected,
    /// Gone for longer than the grace; may still come back.
    Reconnecting,
    /// Out of the room for good.
    Left,
}

/// The kinds of session description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DescriptionKind {
    /// An offer.
    Offer,
    /// An answer.
    Answer,
    /// An own offer taken back.
    Rollback,
}

/// Which way something went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From here.
    Sent,
    /// To here.
    Received,
}

/// Whose candidate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateSide {
    /// Found here.
    Local,
    /// From the other side.
    Remote,
}

/// A candidate as it is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateReport {
    /// Whose.
    pub side: CandidateSide,
    /// host, srflx, prflx or relay.
    #[serde(rename = "type")]
    pub kind: String,
    /// udp or tcp.
    pub protocol: String,
    /// `active` or `passive`, where it is of ICE over TCP (RFC 6544).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_type: Option<String>,
    /// IP address and port.
    pub address: String,
    /// For srflx and relay, the address it was found from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related: Option<String>,
    /// The server it was found with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Since gathering began; in the verb `candidates` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<f64>,
}

/// The kinds of media.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
}

impl MediaKind {
    /// As people read it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
        }
    }
}

/// The connection to the signaling server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalingState {
    /// Being brought back.
    Lost,
    /// Back, and nothing was lost.
    Resumed,
    /// Back as a new session, since the old one was gone.
    Rejoined,
}

/// The way the packets take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathReport {
    /// Type of the local candidate.
    pub local: String,
    /// Type of the remote candidate.
    pub remote: String,
    /// Transport protocol.
    pub protocol: String,
}

impl PathReport {
    /// Whether a relay stands between the two.
    pub(crate) fn is_relayed(&self) -> bool {
        [&self.local, &self.remote].into_iter().any(|kind| kind == "relay")
    }
}

/// How the network treats UDP. RFC 5780.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NatBehaviour {
    /// The server that was asked.
    pub server: String,
    /// The address here.
    pub local: String,
    /// As the server sees it.
    pub mapped: String,
    /// Whether these differ.
    pub translated: bool,
    /// endpoint-independent, address-dependent or address-and-port-dependent, where the server can tell.
    pub mapping: Option<String>,
    /// The same, of who is let in.
    pub filtering: Option<String>,
    /// What it means.
    pub words: String,
}

/// What a connection carried.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StatsReport {
    /// How long it was up.
    pub duration_ms: f64,
    /// The way the packets took last.
    pub path: Option<PathReport>,
    /// Pictures.
    pub video: StreamStats,
    /// Sound.
    pub audio: StreamStats,
    /// Data channels.
    pub data: DataStats,
    /// Exchanged with TURN servers.
    pub relay: RelayStats,
}

/// What the streams of one kind carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StreamStats {
    /// Frames handed to the stream.
    pub frames_sent: u64,
    /// Whole frames that arrived.
    pub frames_received: u64,
    /// RTP packets sent.
    pub packets_sent: u64,
    /// RTP packets received.
    pub packets_received: u64,
    /// Payload bytes sent.
    pub bytes_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// RTP packets that never arrived here.
    pub packets_lost: u64,
}

/// What the data channels carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DataStats {
    /// Messages sent.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
}

/// Application payload exchanged with TURN servers, without TURN's framing: what a relay's own counters show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RelayStats {
    /// Datagrams handed to a relay.
    pub datagrams_sent: u64,
    /// Their payload.
    pub bytes_sent: u64,
    /// Datagrams that came through a relay.
    pub datagrams_received: u64,
    /// Their payload.
    pub bytes_received: u64,
}
