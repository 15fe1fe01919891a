//! Allocations that their clients ended lately, so that the request that did it can come twice. RFC 8489, 6.3.1.
//!
//! The answer to a Refresh with a lifetime of zero may be lost like any other, and its retransmission finds nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::FiveTuple;
use crate::stun::TransactionId;

/// The latest of them, in order.
#[derive(Debug, Default)]
pub(super) struct Ended {
    refreshes: VecDeque<(Instant, FiveTuple, TransactionId)>,
}

impl Ended {
    /// Remembers one for as long as it may come again, or until there are too many.
    pub(super) fn note(&mut self, now: Instant, flow: FiveTuple, id: TransactionId) {
        self.forget(now);
        if self.refreshes.len() >= MAX_REMEMBERED {
            self.refreshes.pop_front();
        }
        self.refreshes.push_back((now + RETRANSMISSION_TIME, flow, id));
    }

    /// Whether this very request was answered with yes a moment ago.
    pub(super) fn contains(&self, now: Instant, flow: FiveTuple, id: TransactionId) -> bool {
        self.refreshes.iter().any(|(until, by, with)| *until > now && *by == flow && *with == id)
    }

    /// All of them: until when, whose, by which request.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Instant, FiveTuple, TransactionId)> {
        self.refreshes.iter().copied()
    }

    /// Puts one back as it was in another process, behind those that are to be forgotten before it.
    pub(super) fn restore(&mut self, until: Instant, flow: FiveTuple, id: TransactionId) {
        self.refreshes.push_back((until, flow, id));
    }

    fn forget(&mut self, now: Instant) {
        while self.refreshes.front().is_some_and(|(until, _, _)| *until <= now) {
            self.refreshes.pop_front();
        }
    }
}

/// No client goes on for longer.
const RETRANSMISSION_TIME: Duration = Duration::from_secs(40);
const MAX_REMEMBERED: usize = 256;
