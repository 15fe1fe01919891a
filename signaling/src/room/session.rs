//! One participant's session: its log, what it has sent, and its lease.

use std::collections::VecDeque;

use super::log::Log;
use super::{Limits, Member, Presence, Refusal, RoomKey, Secret, Timestamp};

#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) room: RoomKey,
    pub(super) secret: Secret,
    pub(super) request_id: Option<Box<str>>,
    pub(super) member: Member,
    pub(super) joined_at: Timestamp,
    pub(super) log: Log,
    pub(super) line: Line,
    /// Counts streams: the newest is the session's, all others are fenced.
    pub(super) epoch: u64,
    /// The highest `client_seq` that was taken.
    pub(super) last_client_seq: u64,
    undelivered: VecDeque<u64>,
    /// Where it stands in the core's queue of deadlines.
    pub(super) armed: Option<Timestamp>,
}

/// Whether a stream is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Attached { lease_expires_at: Timestamp },
    Detached { since: Timestamp },
}

impl Session {
    pub(super) fn new(now: Timestamp, room: RoomKey, secret: Secret, member: Member) -> Self {
        Self {
            room,
            secret,
            request_id: None,
            member,
            joined_at: now,
            log: Log::default(),
            line: Line::Detached { since: now },
            epoch: 0,
            last_client_seq: 0,
            undelivered: VecDeque::new(),
            armed: None,
        }
    }

    /// A heartbeat counts only while there is a stream: without one the window runs, whatever else is heard.
    pub(super) fn renew(&mut self, now: Timestamp, limits: &Limits) {
        if let Line::Attached { lease_expires_at } = &mut self.line {
            *lease_expires_at = now.after(limits.lease);
        }
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(self.line, Line::Attached { .. })
    }

    /// When something happens to this session by the passing of time alone.
    pub(super) fn deadline(&self, limits: &Limits) -> Timestamp {
        match self.line {
            Line::Attached { lease_expires_at } => lease_expires_at,
            Line::Detached { since } => match self.member.presence {
                Presence::Waiting | Presence::Connected => {
                    since.after(limits.presence_grace.min(limits.resume_window))
                }
                Presence::Reconnecting | Presence::Left(_) => since.after(limits.resume_window),
            },
        }
    }

    pub(super) fn check_secret(&self, shown: &[u8]) -> Result<(), Refusal> {
        if self.secret.matches(shown) { Ok(()) } else { Err(Refusal::BadResumeSecret) }
    }

    pub(super) fn check_received(&self, seq: u64) -> Result<(), Refusal> {
        let last = self.log.last();
        if seq <= last { Ok(()) } else { Err(Refusal::BeyondTheLog { last }) }
    }

    /// Remembers that a frame had nobody to go to, so that a repeated call gets the answer that was lost.
    pub(super) fn note_undelivered(&mut self, client_seq: u64) {
        if self.undelivered.len() == UNDELIVERED {
            self.undelivered.pop_front();
        }
        self.undelivered.push_back(client_seq);
    }

    pub(super) fn was_undelivered(&self, client_seq: u64) -> bool {
        self.undelivered.binary_search(&client_seq).is_ok()
    }
}

/// As many as one call can carry, so that every answer that may still be repeated is known.
const UNDELIVERED: usize = farcall_proto::limits::MAX_LOG_FRAMES;
