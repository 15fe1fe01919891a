//! The core's words in the protocol's.

use std::time::Duration;

use farcall_proto::signaling::v1;

use crate::room::{Body, Entry, LeaveReason, Member, ParticipantEvent, Presence, Timestamp};
use crate::wire::{self, JoinResponse};

/// A logged frame.
pub(super) fn entry(entry: &Entry) -> JoinResponse {
    let body = match &entry.body {
        Body::Message { from, message } => wire::Body::Message(wire::with_sender(message, from.as_str())),
        Body::Participant(event) => wire::Body::Participant(Box::new(participant_event(event))),
    };
    JoinResponse { seq: entry.seq, server_time: Some(timestamp(entry.at)), body: Some(body) }
}

/// A frame that is not logged.
pub(super) fn unlogged(now: Timestamp, body: wire::Body) -> JoinResponse {
    JoinResponse { seq: 0, server_time: Some(timestamp(now)), body: Some(body) }
}

pub(super) fn participant(member: &Member) -> v1::Participant {
    v1::Participant {
        session_id: member.session.as_str().into(),
        ordinal: member.ordinal,
        display_name: member.profile.display_name.clone(),
        capabilities: member.profile.capabilities.clone(),
        identity_key: member.profile.identity_key.to_vec(),
        state: state(member.presence).into(),
        identity: member.profile.identity.clone(),
    }
}

pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

fn participant_event(event: &ParticipantEvent) -> v1::ParticipantEvent {
    let reason = match event.member.presence {
        Presence::Waiting | Presence::Connected | Presence::Reconnecting => v1::LeaveReason::Unspecified,
        Presence::Left(LeaveReason::Left) => v1::LeaveReason::Left,
        Presence::Left(LeaveReason::LeaseExpired) => v1::LeaveReason::LeaseExpired,
        Presence::Left(LeaveReason::Removed) => v1::LeaveReason::Removed,
        Presence::Left(LeaveReason::Overflow) => v1::LeaveReason::Overflow,
        Presence::Left(LeaveReason::Replaced) => v1::LeaveReason::Replaced,
    };
    v1::ParticipantEvent { participant: Some(participant(&event.member)), reason: reason.into() }
}

fn state(presence: Presence) -> v1::ParticipantState {
    match presence {
        Presence::Waiting => v1::ParticipantState::Waiting,
        Presence::Connected => v1::ParticipantState::Connected,
        Presence::Reconnecting => v1::ParticipantState::Reconnecting,
        Presence::Left(_) => v1::ParticipantState::Left,
    }
}

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let millis = i32::try_from(at.0 % 1000).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(at.0 / 1000).unwrap_or(i64::MAX),
        nanos: millis * 1_000_000,
    }
}
