//! The default backplane: everything in this process, gone with it.
//!
//! Rooms are spread over shards, each a core behind a mutex of its own. A session id begins with its room's shard,
//! so that a session is found without an index over all of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Backplane, Doorbell, Failure, Occupancy, ReadFailure, Unavailable};
use crate::clock::Clock;
use crate::room::{
    Action, Entry, Fresh, Join, Joined, Limits, Outgoing, Refusal, RoomKey, Rooms, Secret, Sent, SessionId,
    StreamEnd, Vacancy,
};

/// Sessions in this process.
#[derive(Debug)]
pub struct Memory {
    clock: Clock,
    bounds: Bounds,
    shards: Box<[Mutex<Shard>; SHARDS]>,
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
        let shard = || Mutex::new(Shard { core: Rooms::new(limits), doorbells: HashMap::new() });
        Self {
            clock,
            bounds,
            shards: Box::new(std::array::from_fn(|_| shard())),
            rooms: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
        }
    }

    /// Runs one mutation on one shard, rings whom it concerns and keeps the totals.
    fn mutate<T>(&self, shard: &Mutex<Shard>, mutation: impl FnOnce(&mut Shard) -> T) -> T {
        let mut shard = lock(shard);
        let before = shard.occupancy();
        let result = mutation(&mut shard);
        while let Some(Action::Ring(session)) = shard.core.poll_action() {
            if let Some((_, doorbell)) = shard.doorbells.get(&session) {
                doorbell.ring();
            }
        }
        let after = shard.occupancy();
        adjust(&self.rooms, before.rooms, after.rooms);
        adjust(&self.sessions, before.sessions, after.sessions);
        result
    }

    /// Joins at once on different shards may both see the last place: the bound gives by as many as there are threads.
    fn vacancy(&self) -> Vacancy {
        Vacancy {
            rooms: self.bounds.rooms.saturating_sub(self.rooms.load(Ordering::Relaxed)),
            sessions: self.bounds.sessions.saturating_sub(self.sessions.load(Ordering::Relaxed)),
        }
    }

    fn shard_of_room(&self, room: &RoomKey) -> (usize, &Mutex<Shard>) {
        // FNV-1a: the same on every node and in every version. All it has to do is spread.
        let hash = room.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let number = usize::from(hash.to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte));
        #[expect(clippy::indexing_slicing, reason = "there is a shard for every byte")]
        (number, &self.shards[number])
    }

    /// The shard that a session's id names; every id that was not made here names one too, in vain.
    fn shard_of_session(&self, session: &SessionId) -> Option<&Mutex<Shard>> {
        let number = session.as_str().get(..SHARD_DIGITS)?;
        self.shards.get(usize::from_str_radix(number, 16).ok()?)
    }
}

impl Backplane for Memory {
    async fn join(&self, join: Join) -> Result<(Joined, Doorbell), Failure> {
        let (number, shard) = self.shard_of_room(&join.room);
        let fresh = fresh(number);
        let now = self.clock.now();
        let vacancy = self.vacancy();
        self.mutate(shard, |shard| {
            let joined = shard.core.handle_join(now, join, fresh, vacancy)?;
            let doorbell = Doorbell::default();
            let replaced = shard.doorbells.insert(joined.session.clone(), (joined.epoch, doorbell.clone()));
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
        let shard = self.shard_of_session(session).ok_or(Refusal::SessionNotFound)?;
        let now = self.clock.now();
        Ok(self.mutate(shard, |shard| shard.core.handle_send(now, session, secret, frames, ack))?)
    }

    async fn read(
        &self,
        session: &SessionId,
        epoch: u64,
        after: u64,
        max: usize,
    ) -> Result<Vec<Entry>, ReadFailure> {
        let Some(shard) = self.shard_of_session(session) else {
            return Err(ReadFailure::Ended(StreamEnd::Forgotten));
        };
        lock(shard).core.read(session, epoch, after, max).map_err(ReadFailure::Ended)
    }

    async fn leave(&self, session: &SessionId, secret: &[u8]) -> Result<(), Failure> {
        let Some(shard) = self.shard_of_session(session) else { return Ok(()) };
        let now = self.clock.now();
        Ok(self.mutate(shard, |shard| shard.core.handle_leave(now, session, secret))?)
    }

    fn detach(&self, session: &SessionId, epoch: u64) {
        let Some(shard) = self.shard_of_session(session) else { return };
        let now = self.clock.now();
        self.mutate(shard, |shard| {
            shard.core.handle_detach(now, session, epoch);
            if shard.doorbells.get(session).is_some_and(|(of, _)| *of == epoch) {
                shard.doorbells.remove(session);
            }
        });
    }

    async fn sweep(&self) -> Result<(), Unavailable> {
        let now = self.clock.now();
        for shard in self.shards.iter() {
            if lock(shard).core.poll_timeout().is_some_and(|due| due <= now) {
                self.mutate(shard, |shard| shard.core.handle_timeout(now));
            }
        }
        Ok(())
    }

    async fn occupancy(&self) -> Result<Occupancy, Unavailable> {
        Ok(Occupancy {
            rooms: self.rooms.load(Ordering::Relaxed),
            sessions: self.sessions.load(Ordering::Relaxed),
        })
    }
}

#[derive(Debug)]
struct Shard {
    core: Rooms,
    /// Of the streams that are there, with their epochs.
    doorbells: HashMap<SessionId, (u64, Doorbell)>,
}

impl Shard {
    fn occupancy(&self) -> Occupancy {
        Occupancy { rooms: self.core.room_count(), sessions: self.core.session_count() }
    }
}

/// A core never panics half-way through a change that others would then see, so a poisoned lock is as good as any.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn adjust(total: &AtomicUsize, before: usize, after: usize) {
    if after > before {
        total.fetch_add(after - before, Ordering::Relaxed);
    } else {
        total.fetch_sub(before - after, Ordering::Relaxed);
    }
}

/// An id and a secret of 128 random bits each, the id with its shard in front.
fn fresh(shard: usize) -> Fresh {
    let session = format!("{shard:0SHARD_DIGITS$x}{:032x}", rand::random::<u128>());
    Fresh { session: session.as_str().into(), secret: Secret::new(rand::random()) }
}

/// Enough that no two busy rooms are likely to wait for one another, and two digits' worth.
const SHARDS: usize = 256;
const SHARD_DIGITS: usize = 2;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::conformance::{self, LIMITS, Stage};
    use super::*;
    use crate::room::{Profile, Timestamp};

    struct Virtual {
        clock: Clock,
        backplane: Memory,
    }

    impl Stage for Virtual {
        type Backplane = Memory;

        fn new() -> Self {
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
        Join { room: room.into(), profile: Profile::default(), request_id: None, resume: None }
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
        let memory = Virtual::new().backplane;
        for id in ["", "z", "zz", "ff", "é", "00000000000000000000000000000000000", "+1x"] {
            let refused = memory.send(&id.into(), &[0; Secret::LENGTH], Vec::new(), 0).await.unwrap_err();
            assert!(matches!(refused, Failure::Refused(Refusal::SessionNotFound)), "{id}");
            memory.leave(&id.into(), &[]).await.unwrap();
            memory.detach(&id.into(), 1);
        }
    }

    #[test]
    fn rooms_spread_over_the_shards() {
        let memory = Virtual::new().backplane;
        let mut rooms = [0; SHARDS];
        for room in 0..10_000 {
            rooms[memory.shard_of_room(&format!("room-{room}").as_str().into()).0] += 1;
        }
        let (fewest, most) = (rooms.iter().min().unwrap(), rooms.iter().max().unwrap());
        assert!(*fewest > 10 && *most < 90, "{fewest} to {most}, 39 on average");
    }
}
