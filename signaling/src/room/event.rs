//! Presence: who is in a room, and what the others are told about it.

use std::sync::Arc;

use bytes::Bytes;
use farcall_proto::signaling::v1::PeerCapabilities;

use super::SessionId;

/// What a participant says about itself when it joins. Passed on, never interpreted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// For people.
    pub display_name: String,
    /// What its client can do.
    pub capabilities: Option<PeerCapabilities>,
    /// Its Ed25519 public key, or empty.
    pub identity_key: Bytes,
    /// Who it is, by the word of whoever signed its token; empty if nobody gave it.
    pub identity: String,
}

impl Profile {
    /// Who it is, as far as that is known: by what its token says, or, if that says nothing, by the key that it
    /// claims. Nothing of what it says can be taken for what a token says.
    #[must_use]
    pub fn who(&self) -> Option<Vec<u8>> {
        let (kind, who) = match (self.identity.as_bytes(), self.identity_key.as_ref()) {
            ([], []) => return None,
            ([], key) => (b'k', key),
            (identity, _) => (b'i', identity),
        };
        Some([&[kind], who].concat())
    }
}

/// A participant's presence: a lease that its stream and its heartbeats renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Alone in the room. Nobody else ever sees this.
    Waiting,
    /// In the room together with somebody.
    Connected,
    /// Its stream has been gone for longer than the grace.
    Reconnecting,
    /// Out of the room for good.
    Left(LeaveReason),
}

/// Why a participant left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveReason {
    /// It said so.
    Left,
    /// It did not come back within the window.
    LeaseExpired,
    /// An operator removed it.
    Removed,
    /// Its log outgrew the hard bound.
    Overflow,
    /// It had no stream, the room was full, and the same participant came in anew.
    Replaced,
}

/// A participant as the others see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its session.
    pub session: SessionId,
    /// Its place in the order of joining, from 1, never given twice while the room exists.
    pub ordinal: u64,
    /// What it said about itself.
    pub profile: Arc<Profile>,
    /// Its presence as last told to the others.
    pub presence: Presence,
}

/// A participant entered, left, or changed state. It goes to everybody else in the room.
#[derive(Debug, Clone, PartialEq)]
pub struct ParticipantEvent {
    /// The participant as it is from now on.
    pub member: Member,
    /// What it was before; nothing if it has just entered.
    pub before: Option<Presence>,
}

impl ParticipantEvent {
    /// Takes `others` from after this event to before it.
    fn undo(&self, others: &mut Vec<Member>) {
        let at = others.iter().position(|other| other.session == self.member.session);
        match (self.before, at.and_then(|at| others.get_mut(at))) {
            (None, _) => others.retain(|other| other.session != self.member.session),
            (Some(before), Some(other)) => other.presence = before,
            (Some(before), None) => others.push(Member { presence: before, ..self.member.clone() }),
        }
    }
}

/// Takes `others` from after the events, the newest of which comes first, to before them.
pub(crate) fn undo_events<'a>(
    others: &mut Vec<Member>,
    newest_first: impl IntoIterator<Item = &'a ParticipantEvent>,
) {
    for event in newest_first {
        event.undo(others);
    }
    others.sort_by_key(|other| other.ordinal);
}
