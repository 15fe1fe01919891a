//! Clients that come by stream: frames in, frames out, and an end to those who take their time.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mio::net::TcpStream;
use mio::{Interest, Registry};
use rustls::ServerConfig;
use slab::Slab;

use super::backlog::{Backlog, Urgency};
use super::carrier::Carrier;
use super::token::Source;
use crate::metrics::{DropReason, Handshake, Secured, WorkerMetrics};
use crate::proxy_protocol::{self, Beginning};
use crate::stun::framing::{self, Framed, OutOfStep};
use crate::turn::{ClientAddr, FiveTuple, Transport};

/// The stream clients of one worker.
#[derive(Debug)]
pub(super) struct Streams {
    streams: Slab<Stream>,
    by_flow: HashMap<FiveTuple, usize>,
    /// Those that may not have spoken yet, the oldest first.
    silent: VecDeque<(usize, u64)>,
    accepted: u64,
    /// Whose word is taken for where their connections come from.
    proxies: Vec<IpNet>,
    registry: Registry,
    metrics: Arc<WorkerMetrics>,
}

/// Whether a listener's connections are inside TLS.
#[derive(Debug, Clone)]
pub(super) enum Security {
    /// None is.
    Plain,
    /// All are.
    Tls(Arc<ServerConfig>),
    /// The first byte says it.
    Either(Arc<ServerConfig>),
}

/// What is to be seen of a connection before its first frame.
#[derive(Debug)]
struct Opening {
    expects_header: bool,
    security: Security,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Stream {
    carrier: Carrier,
    flow: FiveTuple,
    /// Tells it from those that had its place before.
    number: u64,
    /// `None` once it is known who is there and how it is carried.
    opening: Option<Opening>,
    /// Whether the TLS handshake is still to be counted.
    is_handshake_open: bool,
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

/// A connection that is another's from now on.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) carrier: Carrier,
    pub(super) flow: FiveTuple,
    /// The beginning of what has come and was not handled.
    pub(super) partial: Vec<u8>,
    /// What the client has not taken yet.
    pub(super) unsent: Vec<u8>,
}

impl Streams {
    pub(super) fn new(registry: Registry, proxies: Vec<IpNet>, metrics: Arc<WorkerMetrics>) -> Self {
        Self {
            streams: Slab::new(),
            by_flow: HashMap::new(),
            silent: VecDeque::new(),
            accepted: 0,
            proxies,
            registry,
            metrics,
        }
    }

    /// Takes a new connection in. When there are too many, the one goes that has been silent for longest; if all have
    /// spoken it is the new one.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        socket: TcpStream,
        from: SocketAddr,
        server: SocketAddr,
        security: Security,
    ) {
        if self.streams.len() >= MAX_STREAMS || self.silent.len() >= MAX_SILENT {
            self.evict();
        }
        if self.streams.len() >= MAX_STREAMS {
            return;
        }
        let flow = FiveTuple { client: ClientAddr(from), server, transport: Transport::Tcp };
        let entry = self.streams.vacant_entry();
        let token = Source::Stream(entry.key()).into();
        let mut carrier = Carrier::plain(socket);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.registry.register(carrier.socket(), token, interest).is_err() {
            return;
        }
        self.accepted += 1;
        self.silent.push_back((entry.key(), self.accepted));
        let expects_header = is_within(&self.proxies, from.ip());
        entry.insert(Stream {
            carrier,
            flow,
            number: self.accepted,
            opening: Some(Opening { expects_header, security }),
            is_handshake_open: false,
            partial: Vec::new(),
            backlog: Backlog::default(),
            has_spoken: false,
            last_frame_at: now,
            waiting_since: Some(now),
            stalled_since: None,
        });
        self.metrics.streams.add(1);
    }

    /// Ends the oldest connection that has not spoken, and forgets which have.
    fn evict(&mut self) {
        while let Some((index, number)) = self.silent.pop_front() {
            let found = self.streams.get(index).filter(|stream| stream.number == number);
            if found.is_some_and(|stream| !stream.has_spoken) {
                self.metrics.dropped(DropReason::HandshakeLimit);
                self.remove(index);
                return;
            }
        }
    }

    /// Looks at how a connection begins. Fails with `WouldBlock` while that cannot be said; once it can, returns the
    /// other connection that has the same ends and must be over, if there is one.
    pub(super) fn open(&mut self, index: usize) -> io::Result<Option<usize>> {
        let Some(stream) = self.streams.get_mut(index) else { return Ok(None) };
        if !stream.open()? {
            return Ok(None);
        }
        Ok(self.by_flow.insert(stream.flow, index).filter(|before| *before != index))
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Stream> {
        self.streams.get_mut(index)
    }

    /// Whether this client is connected.
    pub(super) fn contains(&self, flow: &FiveTuple) -> bool {
        self.by_flow.contains_key(flow)
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
        let dropped = stream.backlog.write(&mut stream.carrier, now, frame, urgency)?;
        (0..dropped).for_each(|_| self.metrics.dropped(DropReason::Backlog));
        if stream.is_blocked() && stream.stalled_since.is_none() {
            stream.stalled_since = Some(now);
        }
        Ok(())
    }

    /// Sends what waits, but for what has waited for too long.
    pub(super) fn flush(&mut self, now: Instant, index: usize) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(index) else { return Ok(()) };
        let dropped = stream.flush(now)?;
        (0..dropped).for_each(|_| self.metrics.dropped(DropReason::Backlog));
        Ok(())
    }

    /// Drops what has waited for too long, though nobody takes anything.
    pub(super) fn drop_stale(&mut self, now: Instant) {
        for (_, stream) in &mut self.streams {
            let dropped = stream.backlog.drop_stale(now);
            (0..dropped).for_each(|_| self.metrics.dropped(DropReason::Backlog));
        }
    }

    /// Says to all that this is the end.
    pub(super) fn close_all(&mut self) {
        for (_, stream) in &mut self.streams {
            stream.carrier.close();
        }
    }

    /// Forgets a connection, which closes it, and says whose it was.
    pub(super) fn remove(&mut self, index: usize) -> Option<FiveTuple> {
        let mut stream = self.streams.try_remove(index)?;
        stream.carrier.close();
        let _ = self.registry.deregister(stream.carrier.socket());
        if self.by_flow.get(&stream.flow) == Some(&index) {
            self.by_flow.remove(&stream.flow);
        }
        if stream.is_handshake_open {
            self.metrics.handshake(Secured::Tls, Handshake::Failed);
        }
        self.metrics.streams.subtract(1);
        Some(stream.flow)
    }

    /// Which one is this client's.
    pub(super) fn find(&self, flow: &FiveTuple) -> Option<usize> {
        self.by_flow.get(flow).copied()
    }

    /// Gives a connection away, which stays open.
    pub(super) fn take(&mut self, index: usize) -> Option<Taken> {
        let mut stream = self.streams.try_remove(index)?;
        let _ = self.registry.deregister(stream.carrier.socket());
        if self.by_flow.get(&stream.flow) == Some(&index) {
            self.by_flow.remove(&stream.flow);
        }
        self.metrics.streams.subtract(1);
        let Stream { carrier, flow, partial, backlog, .. } = stream;
        Some(Taken { carrier, flow, partial, unsent: backlog.into_bytes() })
    }

    /// Takes in what another worker gave away before anything was said to its client.
    pub(super) fn adopt(&mut self, now: Instant, taken: Taken) -> Option<usize> {
        if self.streams.len() >= MAX_STREAMS {
            return None;
        }
        let Taken { mut carrier, flow, partial, unsent: _ } = taken;
        let entry = self.streams.vacant_entry();
        let token = Source::Stream(entry.key()).into();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(carrier.socket(), token, interest).ok()?;
        self.accepted += 1;
        let index = entry.key();
        entry.insert(Stream {
            carrier,
            flow,
            number: self.accepted,
            opening: None,
            is_handshake_open: false,
            partial,
            backlog: Backlog::default(),
            has_spoken: true,
            last_frame_at: now,
            waiting_since: None,
            stalled_since: None,
        });
        self.by_flow.insert(flow, index);
        self.metrics.streams.add(1);
        Some(index)
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

    /// Whether it is known who is there and how it is carried.
    pub(super) fn is_open(&self) -> bool {
        self.opening.is_none()
    }

    /// Looks at the beginning. Says whether anything is known now that was not before.
    fn open(&mut self) -> io::Result<bool> {
        let Some(opening) = &mut self.opening else { return Ok(false) };
        let socket = self.carrier.socket();
        if opening.expects_header {
            if let Some(client) = read_header(socket)? {
                self.flow.client = ClientAddr(client);
            }
            opening.expects_header = false;
        }
        let mut first = [0];
        let tls = match &opening.security {
            Security::Plain => None,
            Security::Tls(config) => Some(Arc::clone(config)),
            Security::Either(config) => {
                let is_tls = socket.peek(&mut first)? > 0 && first == [TLS_HANDSHAKE];
                is_tls.then(|| Arc::clone(config))
            }
        };
        if let Some(config) = tls {
            self.carrier.secure(config)?;
            self.flow.transport = Transport::Tls;
            self.is_handshake_open = true;
        }
        self.opening = None;
        Ok(true)
    }

    /// Whether the handshake has just been done.
    pub(super) fn has_just_shaken_hands(&mut self) -> bool {
        let is_done = self.is_handshake_open && !self.carrier.is_handshaking();
        self.is_handshake_open &= !is_done;
        is_done
    }

    fn is_blocked(&self) -> bool {
        !self.backlog.is_empty() || self.carrier.is_blocked()
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
        let result = self.carrier.read(buffer.get_mut(begin..).unwrap_or_default());
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

    /// Sends what waits, and says how many frames had waited for too long.
    fn flush(&mut self, now: Instant) -> io::Result<usize> {
        self.carrier.flush()?;
        let flushed = self.backlog.flush(&mut self.carrier, now)?;
        if !self.is_blocked() {
            self.stalled_since = None;
        } else if flushed.has_progress {
            self.stalled_since = Some(now);
        }
        Ok(flushed.dropped)
    }
}

/// Takes the PROXY header from the front of a connection, once all of it is here.
fn read_header(socket: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut bytes = [0; proxy_protocol::MAX_BYTES];
    let length = socket.peek(&mut bytes)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match proxy_protocol::parse(bytes.get(..length).unwrap_or_default()) {
        Ok(Beginning::Partial) => Err(io::ErrorKind::WouldBlock.into()),
        Ok(Beginning::Whole { length, client }) => {
            socket.read_exact(bytes.get_mut(..length).unwrap_or_default())?;
            Ok(client)
        }
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

fn is_within(nets: &[IpNet], ip: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&ip.to_canonical()))
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
/// Those among them that have said nothing yet.
const MAX_SILENT: usize = 4096;
/// The content type that a TLS connection begins with; no STUN message and no ChannelData does.
const TLS_HANDSHAKE: u8 = 22;
const READ_BYTES: usize = 16 * 1024;
