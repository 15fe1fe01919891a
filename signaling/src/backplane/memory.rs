//! The default backplane: everything in this process, gone with it.
//!
//! Each shard is a core behind a mutex of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::shard::Shard;
use super::{Backplane, Doorbell, Failure, Occupancy, ReadFailure, Unavailable};
use crate::clock::Clock;
use crate::room::{
    Action, Entry, Join, Joined, Limits, Outgoing, Refusal, RoomKey, RoomSummary, Rooms, Sent, SessionId,
    SessionView, StreamEnd, Timestamp, Vacancy,
};

/// Sessions in this process.
#[derive(Debug)]
pub struct Memory {
    clock: Clock,
    bounds: Bounds,
    stores: Box<[Mutex<Store>; Shard::COUNT]>,
    rooms: AtomicUsize,
    sessions: AtomicUsize,
}

/// How much there may be in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Rooms with somebody in them.
    pub rooms: usize,
    /// Sessions, with or without a stream.
    pub sessions: usize,
}

impl Memory {
    /// No rooms yet.
    #[must_use]
    pub fn new(limits: Limits, bounds: Bounds, clock: Clock) -> Self {
        let store = || Mutex::new(Store { core: Rooms::new(limits), doorbells: HashMap::new() });
        Self {
            clock,
            bounds,
            stores: Box::new(std::array::from_fn(|_| store())),
            rooms: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
        }
    }

    /// Lets time pass for one shard, runs one mutation on it, rings whom that concerns and keeps the totals.
    fn mutate<T>(&self, shard: Shard, mutation: impl FnOnce(&mut Store, Timestamp) -> T) -> T {
        let mut store = lock(self.store(shard));
        let before = store.occupancy();
        // The clock is read under the lock, so that no log goes back in time; what is over is over, however late
        // the sweep.
        let now = self.clock.now();
        store.core.handle_timeout(now);
        let result = mutation(&mut store, now);
        while let Some(Action::Ring(session)) = store.core.poll_action() {
            if let Some((_, doorbell)) = store.doorbells.get(&session) {
                doorbell.ring();
            }
        }
        let after = store.occupancy();
        adjust(&self.rooms, before.rooms, after.rooms);
        adjust(&self.sessions, before.sessions, after.sessions);
        result
    }

    fn store(&self, shard: Shard) -> &Mutex<Store> {
        #[expect(clippy::indexing_slicing, reason = "there is a store for every shard")]
        &self.stores[shard.index()]
    }

    /// Joins at once on different shards may both see the last place: the bound gives by as many as there are threads.
    fn vacancy(&self) -> Vacancy {
        Vacancy {
            rooms: self.bounds.rooms.saturating_sub(self.rooms.load(Ordering::Relaxed)),
            sessions: self.bounds.sessions.saturating_sub(self.sessions.load(Ordering::Relaxed)),
        }
    }
}

impl Backplane for Memory {
    async fn join(&self, join: Join) -> Result<(Joined, Doorbell), Failure> {
        let shard = Shard::of_room(&join.room);
        let fresh = shard.fresh();
        let vacancy = self.vacancy();
        self.mutate(shard, |store, now| {
            let joined = store.core.handle_join(now, join, fresh, vacancy)?;
            let doorbell = Doorbell::default();
            let replaced = store.doorbells.insert(joined.session.clone(), (joined.epoch, doorbell.clone()));
            if let Some((_, fenced)) = replaced {
                fenced.ring();
            }
            Ok((joined, doorbell))
        })
    }

    async fn send(
        &self,
        session: &SessionId,
        secret: &[u8],
        frames: Vec<Outgoing>,
        ack: u64,
    ) -> Result<Sent, Failure> {
        let shard = Shard::of_session(session).ok_or(Refusal::SessionNotFound)?;
        Ok(self.mutate(shard, |store, now| store.core.handle_send(now, session, secret, frames, ack))?)
    }

    async fn read(
        &self,
        session: &SessionId,
        epoch: u64,
        after: u64,
        max: usize,
    ) -> Result<Vec<Entry>, ReadFailure> {
        let Some(shard) = Shard::of_session(session) else {
            return Err(ReadFailure::Ended(StreamEnd::Forgotten));
        };
        lock(self.store(shard)).core.read(session, epoch, after, max).map_err(ReadFailure::Ended)
    }

    async fn leave(&self, session: &SessionId, secret: &[u8]) -> Result<(), Failure> {
        let Some(shard) = Shard::of_session(session) else { return Ok(()) };
        Ok(self.mutate(shard, |store, now| store.core.handle_leave(now, session, secret))?)
    }

    fn detach(&self, session: &SessionId, epoch: u64) {
        let Some(shard) = Shard::of_session(session) else { return };
        self.mutate(shard, |store, now| {
            store.core.handle_detach(now, session, epoch);
            if store.doorbells.get(session).is_some_and(|(of, _)| *of == epoch) {
                store.doorbells.remove(session);
            }
        });
    }

    async fn sweep(&self) -> Result<(), Unavailable> {
        for shard in Shard::all() {
            let due = lock(self.store(shard)).core.poll_timeout();
            if due.is_some_and(|due| due <= self.clock.now()) {
                self.mutate(shard, |_, _| ());
            }
        }
        Ok(())
    }

    async fn rooms(&self, after: Option<&RoomKey>, max: usize) -> Result<Vec<RoomSummary>, Unavailable> {
        let first = after.map_or(0, |after| Shard::of_room(after).index());
        let mut found = Vec::new();
        for shard in Shard::all().skip(first) {
            let after = after.filter(|after| Shard::of_room(after) == shard);
            found.extend(lock(self.store(shard)).core.summaries(after, max - found.len()));
            if found.len() == max {
                break;
            }
        }
        Ok(found)
    }

    async fn room(&self, room: &RoomKey) -> Result<Vec<SessionView>, Unavailable> {
        Ok(self.mutate(Shard::of_room(room), |store, _| store.core.view(room)))
    }

    async fn remove(&self, session: &SessionId) -> Result<bool, Unavailable> {
        let Some(shard) = Shard::of_session(session) else { return Ok(false) };
        Ok(self.mutate(shard, |store, now| store.core.handle_remove(now, session)))
    }

    async fn close(&self, room: &RoomKey) -> Result<usize, Unavailable> {
        Ok(self.mutate(Shard::of_room(room), |store, now| store.core.handle_close(now, room)))
    }

    async fn occupancy(&self) -> Result<Occupancy, Unavailable> {
        Ok(Occupancy {
            rooms: self.rooms.load(Ordering::Relaxed),
            sessions: self.sessions.load(Ordering::Relaxed),
        })
    }
}

#[derive(Debug)]
struct Store {
    core: Rooms,
    /// Of the streams that are there, with their epochs.
    doorbells: HashMap<SessionId, (u64, Doorbell)>,
}

impl Store {
    fn occupancy(&self) -> Occupancy {
        Occupancy { rooms: self.core.room_count(), sessions: self.core.session_count() }
    }
}

/// A core never panics half-way through a change that others would then see, so a poisoned lock is as good as any.
fn lock(shard: &Mutex<Store>) -> MutexGuard<'_, Store> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn adjust(total: &AtomicUsize, before: usize, after: usize) {
    if after > before {
        total.fetch_add(after - before, Ordering::Relaxed);
    } else {
        total.fetch_sub(before - after, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::conformance::{self, LIMITS, Stage};
    use super::*;
    use crate::room::{Profile, Secret};

    struct Virtual {
        clock: Clock,
        backplane: Memory,
    }

    impl Stage for Virtual {
        type Backplane = Memory;

        async fn new() -> Self {
            let clock = Clock::manual(Timestamp(1_000_000));
            let bounds = Bounds { rooms: 100, sessions: 100 };
            Self { backplane: Memory::new(LIMITS, bounds, clock.clone()), clock }
        }

        fn backplane(&self) -> &Memory {
            &self.backplane
        }

        async fn pass(&self, time: Duration) {
            self.clock.advance(time);
            self.backplane.sweep().await.unwrap();
        }
    }

    conformance::suite!(Virtual);

    fn join(room: &str) -> Join {
        Join {
            room: room.into(),
            profile: Profile::default(),
            request_id: None,
            resume: None,
            may_create: true,
        }
    }

    #[tokio::test]
    async fn the_whole_server_has_bounds_over_all_shards() {
        let bounds = Bounds { rooms: 2, sessions: 3 };
        let memory = Memory::new(LIMITS, bounds, Clock::manual(Timestamp(0)));
        for room in ["red", "blue", "blue"] {
            memory.join(join(room)).await.unwrap();
        }
        for room in ["green", "red"] {
            let refused = memory.join(join(room)).await.unwrap_err();
            assert!(matches!(refused, Failure::Refused(Refusal::ServerFull)), "{refused:?}");
        }
        assert_eq!(memory.occupancy().await.unwrap(), Occupancy { rooms: 2, sessions: 3 });
    }

    #[tokio::test]
    async fn ids_that_were_not_made_here_are_nobody() {
        let memory = Virtual::new().await.backplane;
        for id in ["", "z", "zz", "ff", "é", "00000000000000000000000000000000000", "+1x"] {
            let refused = memory.send(&id.into(), &[0; Secret::LENGTH], Vec::new(), 0).await.unwrap_err();
            assert!(matches!(refused, Failure::Refused(Refusal::SessionNotFound)), "{id}");
            memory.leave(&id.into(), &[]).await.unwrap();
            memory.detach(&id.into(), 1);
        }
    }

    #[tokio::test]
    async fn what_is_over_is_over_however_late_the_sweep() {
        let Virtual { clock, backplane } = Virtual::new().await;
        let (joined, _) = backplane.join(join("red")).await.unwrap();
        backplane.detach(&joined.session, joined.epoch);
        clock.advance(LIMITS.resume_window);
        let late = backplane.send(&joined.session, joined.secret.as_bytes(), Vec::new(), 0).await;
        assert!(matches!(late, Err(Failure::Refused(Refusal::SessionNotFound))), "{late:?}");
        assert_eq!(backplane.occupancy().await.unwrap(), Occupancy::default());
    }
}
