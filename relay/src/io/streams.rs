//! Clients that come by stream: frames in, frames out, and an end to those who take their time.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry};
use slab::Slab;

use super::backlog::{Backlog, Urgency};
use super::token::Source;
use crate::metrics::{DropReason, WorkerMetrics};
use crate::stun::framing::{self, Framed, OutOfStep};
use crate::turn::{ClientAddr, FiveTuple, Transport};

/// The stream clients of one worker.
#[derive(Debug)]
pub(super) struct Streams {
    streams: Slab<Stream>,
    by_flow: HashMap<FiveTuple, usize>,
    registry: Registry,
    metrics: Arc<WorkerMetrics>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    flow: FiveTuple,
    /// The beginning of a frame whose end has not come.
    partial: Vec<u8>,
    backlog: Backlog,
    /// Whether any frame came yet.
    has_spoken: bool,
    /// When the last frame came, or the connection.
    last_frame_at: Instant,
    /// When `partial` began, or the connection for its first frame.
    waiting_since: Option<Instant>,
    /// When the backlog last moved.
    stalled_since: Option<Instant>,
}

impl Streams {
    pub(super) fn new(registry: Registry, metrics: Arc<WorkerMetrics>) -> Self {
        Self { streams: Slab::new(), by_flow: HashMap::new(), registry, metrics }
    }

    /// Takes a new connection in, unless there are too many.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        mut socket: TcpStream,
        from: SocketAddr,
        server: SocketAddr,
    ) {
        if self.streams.len() >= MAX_STREAMS {
            return;
        }
        let flow = FiveTuple { client: ClientAddr(from), server, transport: Transport::Tcp };
        let entry = self.streams.vacant_entry();
        let token = Source::Stream(entry.key()).into();
        // Frames are small and somebody waits for each.
        let _ = socket.set_nodelay(true);
        if self.registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE).is_err() {
            return;
        }
        self.by_flow.insert(flow, entry.key());
        entry.insert(Stream {
            socket,
            flow,
            partial: Vec::new(),
            backlog: Backlog::default(),
            has_spoken: false,
            last_frame_at: now,
            waiting_since: Some(now),
            stalled_since: None,
        });
        self.metrics.streams.add(1);
    }

    /// The stream of a client.
    pub(super) fn find(&self, flow: &FiveTuple) -> Option<usize> {
        self.by_flow.get(flow).copied()
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Stream> {
        self.streams.get_mut(index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Sends a frame, now or when the client takes it.
    pub(super) fn send(
        &mut self,
        now: Instant,
        flow: &FiveTuple,
        frame: &[u8],
        urgency: Urgency,
    ) -> io::Result<()> {
        let stream = self.by_flow.get(flow).and_then(|index| self.streams.get_mut(*index));
        let stream = stream.ok_or(io::ErrorKind::NotConnected)?;
        let dropped = stream.backlog.write(&mut stream.socket, frame, urgency)?;
        (0..dropped).for_each(|_| self.metrics.dropped(DropReason::Backlog));
        if !stream.backlog.is_empty() && stream.stalled_since.is_none() {
            stream.stalled_since = Some(now);
        }
        Ok(())
    }

    /// Forgets a connection, which closes it, and says whose it was.
    pub(super) fn remove(&mut self, index: usize) -> Option<FiveTuple> {
        let mut stream = self.streams.try_remove(index)?;
        let _ = self.registry.deregister(&mut stream.socket);
        self.by_flow.remove(&stream.flow);
        self.metrics.streams.subtract(1);
        Some(stream.flow)
    }

    /// The connections that have had their time. A client with an allocation may be quiet for as long as that lives.
    pub(super) fn overdue(&self, now: Instant, has_allocation: impl Fn(&FiveTuple) -> bool) -> Vec<usize> {
        let is_older = |since: Instant, bound: Duration| now.saturating_duration_since(since) >= bound;
        let is_overdue = |stream: &Stream| {
            stream.waiting_since.is_some_and(|since| is_older(since, FRAME_TIMEOUT))
                || stream.stalled_since.is_some_and(|since| is_older(since, STALL_TIMEOUT))
                || stream.backlog.is_hopeless()
                || is_older(stream.last_frame_at, IDLE_TIMEOUT) && !has_allocation(&stream.flow)
        };
        self.streams.iter().filter(|(_, stream)| is_overdue(stream)).map(|(index, _)| index).collect()
    }
}

impl Stream {
    pub(super) fn flow(&self) -> FiveTuple {
        self.flow
    }

    /// Whether these bytes cannot be the beginning of a connection. Nothing can be bound before the first request, so
    /// what begins like ChannelData is something else, most likely HTTP.
    pub(super) fn begins_wrong(&self, bytes: &[u8]) -> bool {
        !self.has_spoken && bytes.first().is_some_and(|first| first >> 6 != 0)
    }

    /// Reads behind what was left over before, into `buffer`, which then begins with it. `Ok(0)` is the end.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.clear();
        buffer.append(&mut self.partial);
        let begin = buffer.len();
        buffer.resize(begin + READ_BYTES, 0);
        let result = self.socket.read(buffer.get_mut(begin..).unwrap_or_default());
        buffer.truncate(begin + result.as_ref().unwrap_or(&0));
        if result.is_err() {
            self.partial.extend_from_slice(buffer);
        }
        result
    }

    /// Keeps the beginning of a frame for the next time, and notes whether any frame ended.
    pub(super) fn keep(&mut self, now: Instant, rest: &[u8], has_frame: bool) {
        if has_frame {
            self.has_spoken = true;
            self.last_frame_at = now;
            self.waiting_since = None;
        }
        if rest.is_empty() {
            // An idle client should not cost what its longest frame did.
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(rest);
            self.waiting_since.get_or_insert(now);
        }
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self, now: Instant) -> io::Result<()> {
        let has_progress = self.backlog.flush(&mut self.socket)?;
        if self.backlog.is_empty() {
            self.stalled_since = None;
        } else if has_progress {
            self.stalled_since = Some(now);
        }
        Ok(())
    }
}

/// Splits the first whole frame off.
pub(super) fn next_frame<'a>(unread: &mut &'a [u8]) -> Result<Option<&'a [u8]>, OutOfStep> {
    match framing::first_frame(unread)? {
        Framed::Partial => Ok(None),
        Framed::Frame(frame) => {
            *unread = unread.get(frame.len()..).unwrap_or_default();
            Ok(Some(frame))
        }
    }
}

/// For the first frame of a connection, and for the rest of a frame once it has begun.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Between frames of a client without an allocation.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// For a client that takes nothing of what waits for it.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one worker.
const MAX_STREAMS: usize = 16_384;
const READ_BYTES: usize = 16 * 1024;
