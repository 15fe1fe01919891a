//! A peer connection as the core sees it.

use std::time::{Duration, Instant};

use super::negotiation::Negotiation;
use super::types::{Intent, LinkId, Payload, SessionId};

/// A peer connection and what we know of its other end.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) peer: SessionId,
    pub(super) instance: String,
    /// When both were in the room.
    pub(super) since: Instant,
    pub(super) negotiation: Negotiation,
    pub(super) state: LinkState,
    pub(super) ascent: Ascent,
    /// What the other side showed, once packets pass.
    pub(super) certificate: Option<Option<Vec<u8>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Never up yet; given up at this time.
    Connecting {
        until: Instant,
    },
    Up,
    /// Was up; a restart is due at that time.
    Broken {
        restarts: u32,
        next: Instant,
    },
}

/// From a relayed path to a direct one.
#[derive(Debug, Default)]
pub(super) struct Ascent {
    /// That there is one was told to the side that gives way.
    pub(super) is_known: bool,
    /// Restarts so far, which all may have led back to the relay.
    attempts: u32,
    not_before: Option<Instant>,
}

impl Ascent {
    /// A direct path is there: whether to restart for it, which counts as done then.
    pub(super) fn is_due(&mut self, now: Instant, gives_way: bool) -> bool {
        // The other side will know as well, as a rule: one restart is enough.
        if gives_way && !self.is_known {
            self.is_known = true;
            return false;
        }
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return false;
        }
        let pause = ASCENT_INTERVAL.saturating_mul(2u32.saturating_pow(self.attempts));
        *self = Self {
            is_known: false,
            attempts: self.attempts.saturating_add(1),
            not_before: Some(now + pause.min(LONGEST_ASCENT_INTERVAL)),
        };
        true
    }
}

pub(super) fn hang_up(link: &Link, reason: &str) -> Intent {
    let payload = Payload::Hangup { reason: reason.to_owned() };
    Intent::Send { to: link.peer.clone(), negotiation: String::new(), payload }
}

/// Between restarts for the sake of a direct path that is there, but does not become the one in use.
pub(super) const ASCENT_INTERVAL: Duration = Duration::from_secs(20);
const LONGEST_ASCENT_INTERVAL: Duration = Duration::from_secs(3600);
