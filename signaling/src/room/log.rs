//! A session's log: what has been said to it and not yet acknowledged.
//!
//! `seq` is contiguous from 1 over the session's life. The log is the only buffer between a sender and a slow
//! receiver, so its bounds are what holds memory.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{ParticipantEvent, SessionId, Timestamp};

/// One numbered frame of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its place.
    pub seq: u64,
    /// When it entered the log.
    pub at: Timestamp,
    /// What it says.
    pub body: Body,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// From another participant.
    Message {
        /// Who sent it: filled from the session that proved its secret.
        from: SessionId,
        /// An encoded `PeerMessage` without its sender.
        message: Bytes,
    },
    /// About another participant.
    Participant(ParticipantEvent),
}

impl Body {
    /// What it counts against the log's bound. An event counts as little as an empty message: its parts are shared.
    fn size(&self) -> usize {
        match self {
            Self::Message { message, .. } => message.len(),
            Self::Participant(_) => 0,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// `seq` of the last entry ever appended.
    last: u64,
}

impl Log {
    pub(super) fn append(&mut self, at: Timestamp, body: Body) {
        self.last += 1;
        self.bytes += body.size();
        self.entries.push_back(Entry { seq: self.last, at, body });
    }

    /// Forgets everything up to `ack`.
    pub(super) fn trim(&mut self, ack: u64) {
        while self.entries.front().is_some_and(|entry| entry.seq <= ack) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.body.size();
            }
        }
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The highest `seq` that is gone; what follows it is here.
    pub(super) fn acknowledged(&self) -> u64 {
        self.last - self.entries.len() as u64
    }

    pub(super) fn after(&self, seq: u64) -> impl DoubleEndedIterator<Item = &Entry> {
        let skipped = seq.saturating_sub(self.acknowledged());
        self.entries.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX))
    }

    /// Whether one more message of `size` stays within the bounds.
    pub(super) fn has_room(&self, size: usize, max_frames: usize, max_bytes: usize) -> bool {
        self.entries.len() < max_frames && self.bytes.saturating_add(size) <= max_bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
