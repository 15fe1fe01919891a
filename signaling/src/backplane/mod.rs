//! Where sessions live: behind a trait, so that they may live in this process or in a store that nodes share.
//!
//! Every mutation is one call, and an implementation makes it one atomic step (a mutex here, one server-side
//! function there); nobody owns a room. A [`Doorbell`] says that reading is worth while and carries nothing: it may
//! ring for nothing, and an implementation whose rings can get lost rings all its bells now and then. Streams are
//! fenced by epoch, presence is a lease, so that a node that dies takes nothing with it.
//!
//! The suite in `conformance` holds every implementation to the same behaviour.

mod doorbell;
mod memory;
pub mod redis;
mod shard;

#[cfg(test)]
mod conformance;

use std::future::Future;

pub use doorbell::Doorbell;
pub use memory::{Bounds, Memory};
pub use redis::Redis;

use crate::room::{
    Entry, Join, Joined, Outgoing, Refusal, RoomKey, RoomSummary, Sent, SessionId, SessionView, StreamEnd,
};

/// What the service asks of the place where sessions live.
pub trait Backplane: Send + Sync + 'static {
    /// Enters a room or takes a session up again. The stream that this begins must end with [`Self::detach`].
    fn join(&self, join: Join) -> impl Future<Output = Result<(Joined, Doorbell), Failure>> + Send;

    /// Takes frames and an ack, and renews the lease. Without frames it is a heartbeat.
    fn send(
        &self,
        session: &SessionId,
        secret: &[u8],
        frames: Vec<Outgoing>,
        ack: u64,
    ) -> impl Future<Output = Result<Sent, Failure>> + Send;

    /// Up to `max` frames that follow `after`, or why the stream of this `epoch` ends.
    fn read(
        &self,
        session: &SessionId,
        epoch: u64,
        after: u64,
        max: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, ReadFailure>> + Send;

    /// Ends a session.
    fn leave(&self, session: &SessionId, secret: &[u8]) -> impl Future<Output = Result<(), Failure>> + Send;

    /// A stream is gone. Called from `Drop`, so it may not wait: what takes time is done in the background, and a
    /// detach that gets lost is made up for by the lease.
    fn detach(&self, session: &SessionId, epoch: u64);

    /// Does what the passing of time alone does, for every session that is due. Any node may do it for all.
    fn sweep(&self) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Up to `max` rooms, those that follow `after` or the first: by shard, then by name in the order of its bytes.
    /// Rooms that are there all the while come exactly once if each page begins after the last room of the one
    /// before.
    fn rooms(
        &self,
        after: Option<&RoomKey>,
        max: usize,
    ) -> impl Future<Output = Result<Vec<RoomSummary>, Unavailable>> + Send;

    /// Who is in a room, in the order they joined; nobody if there is no such room.
    fn room(&self, room: &RoomKey) -> impl Future<Output = Result<Vec<SessionView>, Unavailable>> + Send;

    /// Ends a session by an operator's will, its stream and the others being told; says whether there was one.
    fn remove(&self, session: &SessionId) -> impl Future<Output = Result<bool, Unavailable>> + Send;

    /// Ends every session in a room by an operator's will; says how many there were.
    fn close(&self, room: &RoomKey) -> impl Future<Output = Result<usize, Unavailable>> + Send;

    /// How much there is.
    fn occupancy(&self) -> impl Future<Output = Result<Occupancy, Unavailable>> + Send;
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Rooms with somebody in them.
    pub rooms: usize,
    /// Sessions, with or without a stream.
    pub sessions: usize,
}

/// The store cannot be reached; whether a call had an effect is not known.
#[derive(Debug, thiserror::Error)]
#[error("the backplane cannot be reached: {0}")]
pub struct Unavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The client is wrong, or asks too much.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The world is wrong.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why reading failed.
#[derive(Debug)]
pub enum ReadFailure {
    /// The stream is over.
    Ended(StreamEnd),
    /// The world is wrong.
    Unavailable(Unavailable),
}
