//! What goes into the session core and what comes out of it: plain data, comparable and printable.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::failure::Failure;
use crate::identity::{Assertion, PublicKey, Step};
use crate::report::{Event, ParticipantState};

/// A participant's session, as signaling names it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(Arc<str>);

impl SessionId {
    pub(crate) fn new(id: &str) -> Self {
        Self(id.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One peer connection of this process; never used twice, so that late events of a closed one are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// Another participant of the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Participant {
    pub(crate) session: SessionId,
    pub(crate) ordinal: u64,
    /// Tells whether a new session belongs to a process that is known already; empty if it does not say.
    pub(crate) instance: String,
    pub(crate) state: ParticipantState,
}

/// A candidate, as in the W3C's RTCIceCandidateInit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The candidate-attribute of RFC 8839 without "a=".
    pub(crate) line: String,
    pub(crate) mid: Option<String>,
    pub(crate) m_line_index: Option<u16>,
    /// The server it was found with; known for local ones.
    pub(crate) url: Option<String>,
}

/// What one participant says to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    Offer {
        sdp: String,
    },
    Answer {
        sdp: String,
    },
    Candidates {
        candidates: Vec<Candidate>,
        end: bool,
        ufrag: String,
    },
    Hangup {
        reason: String,
    },
    Text(String),
    /// Ties a key to the certificates of the descriptions that follow.
    Assertion(Assertion),
    /// Turns a code into a key.
    Introduction(Step),
}

/// What signaling tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signal {
    /// In the room under a new session; again after the server lost the old one.
    Joined { session: SessionId, ordinal: u64, others: Vec<Participant> },
    /// Somebody entered, left, or changed state.
    Participant { participant: Participant, left: Option<LeaveReason> },
    /// Somebody said something.
    Message { from: SessionId, negotiation: String, payload: Payload },
}

/// Why a participant is out of the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaveReason {
    Left,
    LeaseExpired,
    Removed,
    Overflow,
    /// The same participant came in anew.
    Replaced,
    Unknown,
}

impl LeaveReason {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::LeaseExpired => "lease_expired",
            Self::Removed => "removed",
            Self::Overflow => "overflow",
            Self::Replaced => "replaced",
            Self::Unknown => "unknown",
        }
    }
}

/// What a peer connection tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// It exists, with local media attached.
    Opened,
    /// It cannot be made.
    CannotOpen { message: String },
    /// An offer was made and is the local description.
    OfferMade { sdp: String },
    /// An answer was made and is the local description.
    AnswerMade { sdp: String },
    /// The local offer is taken back.
    RolledBack,
    /// The remote description is set.
    RemoteSet,
    /// The step asked for last could not be done.
    StepFailed { message: String },
    /// Found one more.
    LocalCandidate(Candidate),
    /// No more will be found in this generation.
    GatheringComplete,
    /// Something changed that the other side must hear of.
    NegotiationNeeded,
    /// Packets pass, and each side has the key of the certificate that it showed.
    Up,
    /// The SHA-256 fingerprint of the certificate that the other side showed, if it is known.
    Certified { other: Option<Vec<u8>> },
    /// A path without a relay works, while one with a relay is in use.
    DirectPath,
    /// No packets pass for now.
    Disconnected,
    /// No packets pass, and ICE has given up.
    Failed,
}

/// What the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// End the call and leave.
    HangUp { reason: String },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Intent {
    /// Say it to that participant.
    Send { to: SessionId, negotiation: String, payload: Payload },
    /// Make a peer connection; answered by `Opened`.
    Open { link: LinkId },
    /// Make an offer and set it; answered by `OfferMade`.
    CreateOffer { link: LinkId, restart: bool },
    /// Make an answer and set it; answered by `AnswerMade`.
    CreateAnswer { link: LinkId },
    /// Take the local offer back; answered by `RolledBack`.
    Rollback { link: LinkId },
    /// Set the other side's offer; answered by `RemoteSet`.
    SetRemoteOffer { link: LinkId, sdp: String },
    /// Set the other side's answer; answered by `RemoteSet`.
    SetRemoteAnswer { link: LinkId, sdp: String },
    /// Try a remote candidate.
    AddCandidate { link: LinkId, candidate: Candidate },
    /// Find out which certificate the other side showed; answered by `Certified`.
    Certify { link: LinkId },
    /// Expect whoever has this key in this room from now on.
    Remember { key: PublicKey },
    /// The connection is up for the first time, with whom it should be: let it be used, and tell by which path.
    Established { link: LinkId, elapsed: Duration },
    /// It is up once more, perhaps by another path: tell which.
    Settled { link: LinkId },
    /// Close the peer connection and tell what it carried.
    Close { link: LinkId },
    /// Tell the user.
    Report(Event),
    /// Leave the room; all is well.
    End { reason: String },
    /// Leave the room; something is wrong.
    Fail(Failure),
}
