//! The streams that end at this node: whose bell hangs where, and how far each has read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backplane::Doorbell;
use crate::backplane::shard::Shard;
use crate::room::SessionId;

/// Of each session with a stream here.
pub(super) struct Lines(Box<[Mutex<HashMap<SessionId, Line>>; Shard::COUNT]>);

#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) epoch: u64,
    /// The last `seq` that was read.
    pub(super) read: u64,
    pub(super) doorbell: Doorbell,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self(Box::new(std::array::from_fn(|_| Mutex::default())))
    }

    /// A stream begins; the one before it learns that it is over.
    pub(super) fn open(&self, session: &SessionId, epoch: u64, read: u64) -> Doorbell {
        let doorbell = Doorbell::default();
        let line = Line { epoch, read, doorbell: doorbell.clone() };
        let Some(mut lines) = self.of(session) else { return doorbell };
        match lines.get_mut(session) {
            // Two joins at once may come here in the wrong order.
            Some(newer) if newer.epoch > epoch => doorbell.ring(),
            Some(older) => std::mem::replace(older, line).doorbell.ring(),
            None => drop(lines.insert(session.clone(), line)),
        }
        doorbell
    }

    pub(super) fn close(&self, session: &SessionId, epoch: u64) {
        let Some(mut lines) = self.of(session) else { return };
        if lines.get(session).is_some_and(|line| line.epoch == epoch) {
            lines.remove(session);
        }
    }

    pub(super) fn ring(self: &Arc<Self>, session: &SessionId) {
        if let Some(line) = self.of(session).as_ref().and_then(|lines| lines.get(session)) {
            line.doorbell.ring();
        }
    }

    pub(super) fn note_read(&self, session: &SessionId, epoch: u64, seq: u64) {
        if let Some(line) = self.of(session).as_mut().and_then(|lines| lines.get_mut(session))
            && line.epoch == epoch
        {
            line.read = seq;
        }
    }

    /// Those of one shard.
    pub(super) fn in_shard(&self, shard: Shard) -> Vec<(SessionId, Line)> {
        self.at(shard).iter().map(|(session, line)| (session.clone(), line.clone())).collect()
    }

    fn of(&self, session: &SessionId) -> Option<MutexGuard<'_, HashMap<SessionId, Line>>> {
        Shard::of_session(session).map(|shard| self.at(shard))
    }

    fn at(&self, shard: Shard) -> MutexGuard<'_, HashMap<SessionId, Line>> {
        #[expect(clippy::indexing_slicing, reason = "there is a map for every shard")]
        self.0[shard.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
