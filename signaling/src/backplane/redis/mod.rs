//! The backplane that nodes share: everything in Redis or Valkey.
//!
//! Each mutation is one call of a function that the server runs as one step (`functions.lua`, the rules of the core in
//! the server's language; the conformance suite and the tests of the contract hold the two equal). Any node serves any
//! session: no node owns a room, and nothing is kept here but the streams that end here. A bell is a message to the
//! node of the stream; lost ones are made up for by asking now and then what there is to read. Time is the server's.

mod functions;
mod lines;
mod link;
mod reply;

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{join_all, try_join_all};
use redis::{Cmd, Value};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::shard::Shard;
use super::{Backplane, Bounds, Doorbell, Failure, Occupancy, ReadFailure, Unavailable};
use crate::clock::Clock;
use crate::room::{
    Entry, Fresh, Join, Joined, Limits, Outgoing, Refusal, RoomKey, RoomSummary, Sent, SessionId,
    SessionView, StreamEnd, Timestamp, Vacancy,
};
use functions::Library;
use lines::Lines;
pub use link::{Address, Certificates};
use link::{Function, Link};
use reply::{Answer, Nonsense, Reply};

/// Sessions in a store that nodes share.
pub struct Redis {
    node: Arc<Node>,
    _detacher: Owned,
}

struct Node {
    link: Link,
    name: String,
    limits: Limits,
    limits_text: String,
    bounds: Bounds,
    /// Instead of the server's.
    clock: Option<Clock>,
    lines: Arc<Lines>,
    gone: Gone,
    totals: Mutex<Totals>,
    next_shard: AtomicUsize,
    /// The connection over which every line was asked about last.
    checked: AtomicU64,
}

impl Redis {
    /// Connects, or begins to try.
    pub async fn start(address: Address, limits: Limits, bounds: Bounds) -> Self {
        // For rediss://. An error means that the process has chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self::with(address, limits, bounds, None, Lines::ring).await
    }

    async fn with(
        address: Address,
        limits: Limits,
        bounds: Bounds,
        clock: Option<Clock>,
        deliver: impl Fn(&Arc<Lines>, &SessionId) + Send + Sync + 'static,
    ) -> Self {
        let name = format!("{:016x}", rand::random::<u64>());
        let lines = Arc::new(Lines::new());
        let bells = lines.clone();
        let heard = move |session: &[u8]| {
            if let Ok(session) = std::str::from_utf8(session) {
                deliver(&bells, &SessionId::from(session));
            }
        };
        let channel = format!("farcall:bell:{name}");
        let node = Arc::new(Node {
            link: Link::start(address, Library::new(), channel, heard).await,
            name,
            limits,
            limits_text: reply::limits(&limits),
            bounds,
            clock,
            lines,
            gone: Gone::default(),
            totals: Mutex::default(),
            next_shard: AtomicUsize::new(0),
            checked: AtomicU64::new(0),
        });
        let detacher = Owned(tokio::spawn(node.clone().detach_all()));
        Self { node, _detacher: detacher }
    }
}

impl Backplane for Redis {
    async fn join(&self, join: Join) -> Result<(Joined, Doorbell), Failure> {
        let (node, (answer, answered)) = (self.node.clone(), oneshot::channel());
        // On a task of its own: a caller that gives up half-way must not leave a stream behind that nobody reads.
        let joining = tokio::spawn(async move {
            let joined = node.join(join).await;
            if let Err(Ok((joined, _))) = answer.send(joined) {
                node.detach(&joined.session, joined.epoch);
            }
        });
        match answered.await {
            Ok(joined) => joined,
            Err(error) => Err(Unavailable(joining.await.map_or_else(Into::into, |()| error.into())).into()),
        }
    }

    async fn send(
        &self,
        session: &SessionId,
        secret: &[u8],
        frames: Vec<Outgoing>,
        ack: u64,
    ) -> Result<Sent, Failure> {
        let node = &self.node;
        let shard = Shard::of_session(session).ok_or(Refusal::SessionNotFound)?;
        let call = |cmd: &mut Cmd| send_arguments(cmd, session, secret, &frames, ack);
        let reply = node.mutate(Function::Send, shard, node.time(), call).await?;
        Ok(understood(reply.sent(&frames, &node.limits))??)
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
        let node = &self.node;
        let call = |cmd: &mut Cmd| read_arguments(cmd, &node.time(), session, epoch, after, max);
        let reply = node.call(Function::Read, shard, call).await.map_err(ReadFailure::Unavailable)?;
        let read = understood(reply.read()).map_err(ReadFailure::Unavailable)?;
        let entries = read.map_err(ReadFailure::Ended)?;
        node.lines.note_read(session, epoch, entries.last().map_or(after, |last| last.seq));
        Ok(entries)
    }

    async fn leave(&self, session: &SessionId, secret: &[u8]) -> Result<(), Failure> {
        let Some(shard) = Shard::of_session(session) else { return Ok(()) };
        let node = &self.node;
        let call = |cmd: &mut Cmd| {
            cmd.arg(session.as_str()).arg(secret);
        };
        let reply = node.mutate(Function::Leave, shard, node.time(), call).await?;
        let (rooms, sessions) = understood(reply.counted(&node.limits))??;
        node.count(shard, rooms, sessions);
        Ok(())
    }

    fn detach(&self, session: &SessionId, epoch: u64) {
        self.node.detach(session, epoch);
    }

    /// Looks at some of the shards each time, at all of them after the connection was made anew.
    async fn sweep(&self) -> Result<(), Unavailable> {
        let node = &self.node;
        node.send_detached().await?;
        let connection = node.link.number().unwrap_or_default();
        let anew = node.checked.load(Ordering::Relaxed) != connection;
        let count = if anew { Shard::COUNT } else { Shard::COUNT.div_ceil(SWEEPS_IN_A_ROUND) };
        let first = node.next_shard.fetch_add(count, Ordering::Relaxed);
        let shards = Shard::all().cycle().skip(first % Shard::COUNT).take(count);
        try_join_all(shards.map(|shard| node.sweep(shard))).await?;
        node.checked.store(connection, Ordering::Relaxed);
        Ok(())
    }

    async fn rooms(&self, after: Option<&RoomKey>, max: usize) -> Result<Vec<RoomSummary>, Unavailable> {
        let first = after.map_or(0, |after| Shard::of_room(after).index());
        let mut found = Vec::new();
        for shard in Shard::all().skip(first) {
            let mut rooms = understood(self.node.call(Function::Rooms, shard, |_| ()).await?.rooms())?;
            if let Some(after) = after.filter(|after| Shard::of_room(after) == shard) {
                rooms.retain(|summary| summary.room.as_str() > after.as_str());
            }
            rooms.sort_unstable_by(|a, b| a.room.as_str().cmp(b.room.as_str()));
            found.extend(rooms.into_iter().take(max - found.len()));
            if found.len() == max {
                break;
            }
        }
        Ok(found)
    }

    async fn room(&self, room: &RoomKey) -> Result<Vec<SessionView>, Unavailable> {
        let node = &self.node;
        let call = |cmd: &mut Cmd| {
            cmd.arg(room.as_str());
        };
        understood(node.mutate(Function::View, Shard::of_room(room), node.time(), call).await?.view())
    }

    async fn remove(&self, session: &SessionId) -> Result<bool, Unavailable> {
        let Some(shard) = Shard::of_session(session) else { return Ok(false) };
        Ok(self.node.end(Function::Remove, shard, session.as_str()).await? > 0)
    }

    async fn close(&self, room: &RoomKey) -> Result<usize, Unavailable> {
        let ended = self.node.end(Function::Close, Shard::of_room(room), room.as_str()).await?;
        Ok(usize::try_from(ended).unwrap_or(usize::MAX))
    }

    /// As of the last sweep, and what this node has seen since.
    async fn occupancy(&self) -> Result<Occupancy, Unavailable> {
        if self.node.link.number().is_none() {
            return Err(Unavailable("there is no connection".into()));
        }
        Ok(self.node.totals().occupancy)
    }
}

impl Node {
    async fn join(&self, join: Join) -> Result<(Joined, Doorbell), Failure> {
        let shard = Shard::of_room(&join.room);
        let (fresh, vacancy) = (shard.fresh(), self.vacancy());
        let call = |cmd: &mut Cmd| join_arguments(cmd, &self.name, &join, &fresh, vacancy);
        let reply = self.mutate(Function::Join, shard, self.time(), call).await?;
        let Answer { joined, rooms, sessions } = understood(reply.joined(&self.limits))??;
        self.count(shard, rooms, sessions);
        let doorbell = self.lines.open(&joined.session, joined.epoch, joined.cursor);
        Ok((joined, doorbell))
    }

    /// Ends one or several by an operator's will, and says how many that were.
    async fn end(&self, function: Function, shard: Shard, whom: &str) -> Result<u64, Unavailable> {
        let call = |cmd: &mut Cmd| {
            cmd.arg(whom);
        };
        let (rooms, sessions, ended) =
            understood(self.mutate(function, shard, self.time(), call).await?.ended())?;
        self.count(shard, rooms, sessions);
        Ok(ended)
    }

    fn detach(&self, session: &SessionId, epoch: u64) {
        self.lines.close(session, epoch);
        self.gone.push(Detached { session: session.clone(), epoch, at: self.time() });
    }

    /// Tells the store of streams that are gone, as they go.
    async fn detach_all(self: Arc<Self>) {
        loop {
            self.gone.some.notified().await;
            // Without a connection nobody is told: the lease makes up for it.
            let _ = self.send_detached().await;
        }
    }

    async fn send_detached(&self) -> Result<(), Unavailable> {
        // One at a time, so that whoever comes here finds everything done that was said before.
        let _turn = self.gone.turn.lock().await;
        let detached = self.gone.take();
        let calls = detached.iter().filter_map(|Detached { session, epoch, at }| {
            let call = |cmd: &mut Cmd| {
                cmd.arg(session.as_str()).arg(*epoch);
            };
            let shard = Shard::of_session(session)?;
            Some(async move { self.mutate(Function::Detach, shard, at.clone(), call).await })
        });
        join_all(calls).await.into_iter().try_for_each(|told| told.map(drop))
    }

    /// Lets time pass for a shard, and rings whoever has something to read there.
    async fn sweep(&self, shard: Shard) -> Result<(), Unavailable> {
        let reply = self.mutate(Function::Sweep, shard, self.time(), |_| ()).await?;
        if let Ok((rooms, sessions)) = understood(reply.counted(&self.limits))? {
            self.count(shard, rooms, sessions);
        }
        for lines in self.lines.in_shard(shard).chunks(LINES_IN_A_CALL) {
            let call = |cmd: &mut Cmd| {
                for (session, line) in lines {
                    cmd.arg(session.as_str()).arg(line.epoch).arg(line.read);
                }
            };
            let places = understood(self.call(Function::News, shard, call).await?.places())?;
            for place in places {
                if let Some((_, line)) = usize::try_from(place).ok().and_then(|place| lines.get(place)) {
                    line.doorbell.ring();
                }
            }
        }
        Ok(())
    }

    async fn mutate(
        &self,
        function: Function,
        shard: Shard,
        at: String,
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<Reply, Unavailable> {
        let arguments = |cmd: &mut Cmd| {
            cmd.arg(at).arg(&self.limits_text);
            arguments(cmd);
        };
        self.call(function, shard, arguments).await
    }

    async fn call(
        &self,
        function: Function,
        shard: Shard,
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<Reply, Unavailable> {
        let key = key(PREFIX, shard);
        let answer: Value = self.link.call(function, &key, arguments).await?;
        understood(Reply::new(answer))
    }

    /// The time as the functions take it.
    fn time(&self) -> String {
        match self.clock.as_ref().map(Clock::now) {
            Some(Timestamp(now)) => now.to_string(),
            None => String::new(),
        }
    }

    /// By what is known here: joins at once on other nodes may go over the bounds.
    fn vacancy(&self) -> Vacancy {
        let Occupancy { rooms, sessions } = self.totals().occupancy;
        Vacancy {
            rooms: self.bounds.rooms.saturating_sub(rooms),
            sessions: self.bounds.sessions.saturating_sub(sessions),
        }
    }

    fn count(&self, shard: Shard, rooms: u64, sessions: u64) {
        let as_usize = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        self.totals().set(shard, Occupancy { rooms: as_usize(rooms), sessions: as_usize(sessions) });
    }

    fn totals(&self) -> std::sync::MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("node", &self.node.name).finish_non_exhaustive()
    }
}

/// What a function gets as its key: all keys of a shard begin with it, and are in one slot of a cluster.
fn key(prefix: &str, shard: Shard) -> String {
    format!("{prefix}:{{{:02x}}}:", shard.index())
}

fn join_arguments(cmd: &mut Cmd, node: &str, join: &Join, fresh: &Fresh, vacancy: Vacancy) {
    cmd.arg(node).arg(join.room.as_str());
    cmd.arg(fresh.session.as_str()).arg(fresh.secret.as_bytes());
    cmd.arg(vacancy.rooms.min(i32::MAX as usize)).arg(vacancy.sessions.min(i32::MAX as usize));
    cmd.arg(join.request_id.as_deref().unwrap_or("")).arg(reply::profile(&join.profile));
    cmd.arg(join.profile.who().unwrap_or_default()).arg(if join.may_create { "y" } else { "" });
    if let Some(resume) = &join.resume {
        cmd.arg(resume.session.as_str()).arg(resume.secret.as_ref()).arg(resume.last_received_seq);
    }
}

fn send_arguments(cmd: &mut Cmd, session: &SessionId, secret: &[u8], frames: &[Outgoing], ack: u64) {
    cmd.arg(session.as_str()).arg(secret).arg(ack);
    for Outgoing { client_seq, to, message } in frames {
        let to = to.as_ref().map_or("", SessionId::as_str);
        cmd.arg(*client_seq).arg(to).arg(message.as_ref());
    }
}

fn read_arguments(cmd: &mut Cmd, now: &str, session: &SessionId, epoch: u64, after: u64, max: usize) {
    cmd.arg(now).arg(session.as_str()).arg(epoch).arg(after).arg(max.min(i32::MAX as usize));
}

fn understood<T>(answer: Result<T, Nonsense>) -> Result<T, Unavailable> {
    answer.map_err(|error| Unavailable(error.into()))
}

/// Streams that are gone and of which the store has not been told.
#[derive(Default)]
struct Gone {
    detached: Mutex<Vec<Detached>>,
    some: Notify,
    turn: tokio::sync::Mutex<()>,
}

struct Detached {
    session: SessionId,
    epoch: u64,
    at: String,
}

impl Gone {
    fn push(&self, detached: Detached) {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner).push(detached);
        self.some.notify_one();
    }

    fn take(&self) -> Vec<Detached> {
        std::mem::take(&mut self.detached.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How much there is, by shard and in all.
struct Totals {
    shards: Box<[Occupancy; Shard::COUNT]>,
    occupancy: Occupancy,
}

impl Default for Totals {
    fn default() -> Self {
        Self { shards: Box::new([Occupancy::default(); Shard::COUNT]), occupancy: Occupancy::default() }
    }
}

impl Totals {
    fn set(&mut self, shard: Shard, now: Occupancy) {
        let Some(known) = self.shards.get_mut(shard.index()) else { return };
        let before = std::mem::replace(known, now);
        self.occupancy.rooms = self.occupancy.rooms + now.rooms - before.rooms;
        self.occupancy.sessions = self.occupancy.sessions + now.sessions - before.sessions;
    }
}

/// A task that ends with its owner.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Before every key; the number changes when what is kept changes so much that older nodes cannot read it.
const PREFIX: &str = "farcall1";
/// A second's, as often as sweeps are asked for.
const SWEEPS_IN_A_ROUND: usize = 10;
const LINES_IN_A_CALL: usize = 500;

#[cfg(test)]
mod contract;
#[cfg(test)]
#[path = "../../../tests/support/redis_server.rs"]
mod redis_server;
#[cfg(test)]
mod tests;
