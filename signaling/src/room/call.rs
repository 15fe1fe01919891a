//! What goes into the core and what comes out of it: plain data, comparable and printable.

use std::time::Duration;

use bytes::Bytes;

use super::{Member, Profile, RoomKey, Secret, SessionId};

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// There is something new for this session's stream: frames, or its end.
    Ring(SessionId),
}

/// What one room and one session may take up, and how long a silence may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Participants in a room.
    pub room_size: usize,
    /// Frames that may wait for one receiver before senders are refused. Events may take as many again.
    pub log_frames: usize,
    /// Bytes that may wait for one receiver before senders are refused.
    pub log_bytes: usize,
    /// How long a session without a stream is kept.
    pub resume_window: Duration,
    /// How long a stream may be away before the others are told.
    pub presence_grace: Duration,
    /// How long a session with a stream may be silent.
    pub lease: Duration,
}

/// A participant that wants in, or back in.
#[derive(Debug, Clone)]
pub struct Join {
    /// Where to.
    pub room: RoomKey,
    /// What the others are shown.
    pub profile: Profile,
    /// Makes a repeated call find the session of the first one.
    pub request_id: Option<Box<str>>,
    /// Which session to continue.
    pub resume: Option<Resume>,
    /// Whether a room that is not there may be made for it.
    pub may_create: bool,
}

/// Which session to continue, and from where.
#[derive(Debug, Clone)]
pub struct Resume {
    /// The session.
    pub session: SessionId,
    /// Proves that it is the caller's.
    pub secret: Bytes,
    /// The highest `seq` that the client has processed.
    pub last_received_seq: u64,
}

/// Names for a session, should one be made; from a good random source.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// Never used before.
    pub session: SessionId,
    /// Known to nobody.
    pub secret: Secret,
}

/// How much more the whole server may hold.
#[derive(Debug, Clone, Copy)]
pub struct Vacancy {
    /// New rooms.
    pub rooms: usize,
    /// New sessions.
    pub sessions: usize,
}

/// A stream's beginning.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The session.
    pub session: SessionId,
    /// Its secret.
    pub secret: Secret,
    /// Which of the session's streams this one is.
    pub epoch: u64,
    /// What became of the session that was asked for.
    pub outcome: Outcome,
    /// The stream goes on after this `seq`.
    pub cursor: u64,
    /// The client says it has less than it acknowledged before: what lies between cannot come again.
    pub lost: bool,
    /// The highest `client_seq` that was taken.
    pub last_client_seq: u64,
    /// This participant.
    pub member: Member,
    /// The others as of `cursor`, in the order they joined: the events that follow make it the present.
    pub others: Vec<Member>,
}

/// How a join was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A new session.
    New,
    /// The session goes on.
    Resumed,
    /// The session asked for is not, or no longer, in this room; this is another one.
    Resync,
}

impl Outcome {
    /// As in metrics and traces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Resumed => "resumed",
            Self::Resync => "resync_required",
        }
    }
}

/// A client's frame for one or all of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Contiguous from 1 within the session.
    pub client_seq: u64,
    /// The receiver, or everybody else.
    pub to: Option<SessionId>,
    /// An encoded `PeerMessage` without its sender.
    pub message: Bytes,
}

/// The frames are in the logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The highest `client_seq` that was taken.
    pub last_client_seq: u64,
    /// Which of this call's frames had nobody to go to, and whom they were for.
    pub undeliverable: Vec<(u64, Option<SessionId>)>,
}
