//! A worker: one thread, one poll, one engine.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, UdpSocket};
use mio::{Events, Interest, Poll, Waker};
use rand::CryptoRng;

use super::engine::{Engine, StreamState, UdpListener};
use super::listeners::Listeners;
use super::portable::{Batch, Readiness};
use super::relays::Relays;
use super::streams::Streams;
use super::token::Source;
use crate::clock;
use crate::metrics::WorkerMetrics;
use crate::policy::{OwnRelays, Quota};
use crate::routes::Routes;
use crate::turn::{AllocationId, Now, Server};

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerParts<R> {
    /// What it listens on.
    pub listeners: Listeners,
    /// What decides.
    pub server: Server<R>,
    /// The book of allocations per account, shared by all.
    pub quota: Quota,
    /// The relays that are open, known to all.
    pub own_relays: OwnRelays,
    /// What it counts.
    pub metrics: Arc<WorkerMetrics>,
}

/// A worker before or while it runs.
#[derive(Debug)]
pub struct Worker<R> {
    poll: Poll,
    engine: Engine<R>,
    tcp: Vec<TcpListener>,
    /// Sockets that may have more for us: mio says so once only.
    ready: VecDeque<Source>,
    batch: Batch,
    stream_buffer: Vec<u8>,
    /// When to look for streams that keep us waiting, and for connections that could not be accepted.
    next_sweep: Instant,
    is_stopping: Arc<AtomicBool>,
}

/// Stops a worker from another thread.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    waker: Arc<Waker>,
    is_stopping: Arc<AtomicBool>,
}

impl WorkerHandle {
    /// Asks the worker to end. It does so within a turn of its loop.
    pub fn stop(&self) -> io::Result<()> {
        self.is_stopping.store(true, Ordering::Release);
        self.waker.wake()
    }
}

impl<R: CryptoRng> Worker<R> {
    /// Registers everything, so that `run` cannot fail for want of it.
    pub fn new(parts: WorkerParts<R>) -> io::Result<(Self, WorkerHandle)> {
        let WorkerParts { listeners, server, quota, own_relays, metrics } = parts;
        let poll = Poll::new()?;
        let registry = poll.registry();
        let mut udp = Vec::new();
        for (index, socket) in listeners.udp.into_iter().enumerate() {
            let mut socket = UdpSocket::from_std(socket);
            registry.register(&mut socket, Source::UdpListener(index).into(), Interest::READABLE)?;
            let address = socket.local_addr()?;
            udp.push(UdpListener { socket, address });
        }
        let mut tcp = Vec::new();
        for (index, listener) in listeners.tcp.into_iter().enumerate() {
            let mut listener = TcpListener::from_std(listener);
            registry.register(&mut listener, Source::TcpListener(index).into(), Interest::READABLE)?;
            tcp.push(listener);
        }
        let waker = Arc::new(Waker::new(registry, Source::Waker.into())?);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let handle = WorkerHandle { waker, is_stopping: Arc::clone(&is_stopping) };
        let engine = Engine {
            server,
            routes: Routes::default(),
            relays: Relays::new(registry.try_clone()?, quota, own_relays),
            streams: Streams::new(registry.try_clone()?, Arc::clone(&metrics)),
            udp,
            metrics,
            now: read_clocks(),
        };
        let next_sweep = engine.now.instant + SWEEP_INTERVAL;
        let (ready, batch, stream_buffer) = (VecDeque::new(), Batch::new(), Vec::new());
        Ok((Self { poll, engine, tcp, ready, batch, stream_buffer, next_sweep, is_stopping }, handle))
    }

    /// Serves until it is stopped. Says how many allocations that cut off.
    pub fn run(mut self) -> io::Result<usize> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_stopping.load(Ordering::Acquire) {
            match self.poll.poll(&mut events, self.timeout()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.engine.now = read_clocks();
            for event in &events {
                self.note(event);
            }
            for _ in 0..self.ready.len() {
                let Some(source) = self.ready.pop_front() else { break };
                if self.serve(source) == Readiness::MaybeMore {
                    self.ready.push_back(source);
                }
            }
            self.engine.handle_timeout();
            self.sweep();
        }
        Ok(self.engine.server.allocation_count())
    }

    /// How long nothing will happen by itself.
    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let sweep = (!self.engine.streams.is_empty()).then_some(self.next_sweep);
        let next = self.engine.server.poll_timeout().into_iter().chain(sweep).min()?;
        // Rounded up, since poll counts milliseconds and would otherwise spin through the last one.
        Some(next.saturating_duration_since(clock::now()) + Duration::from_millis(1))
    }

    fn note(&mut self, event: &mio::event::Event) {
        let source = Source::from(event.token());
        if let Source::Stream(index) = source
            && event.is_writable()
            && self.engine.flush_stream(index) == StreamState::Over
        {
            return self.engine.close_stream(index);
        }
        let is_readable = event.is_readable() || event.is_read_closed() || event.is_error();
        if is_readable && !self.ready.contains(&source) {
            self.ready.push_back(source);
        }
    }

    fn serve(&mut self, source: Source) -> Readiness {
        match source {
            Source::Waker => Readiness::Drained,
            Source::UdpListener(index) => self.serve_clients(index),
            Source::TcpListener(index) => self.serve_connections(index),
            Source::Relay(allocation) => self.serve_peers(allocation),
            Source::Stream(index) => self.serve_stream(index),
        }
    }

    fn serve_clients(&mut self, index: usize) -> Readiness {
        let Some(listener) = self.engine.udp.get(index) else { return Readiness::Drained };
        let readiness = self.batch.fill(&listener.socket);
        for datagram in self.batch.datagrams() {
            self.engine.handle_client_datagram(index, datagram);
        }
        readiness
    }

    fn serve_peers(&mut self, allocation: AllocationId) -> Readiness {
        let Some(socket) = self.engine.relays.socket(allocation) else { return Readiness::Drained };
        let readiness = self.batch.fill(socket);
        for datagram in self.batch.datagrams() {
            self.engine.handle_peer_datagram(allocation, datagram);
        }
        readiness
    }

    fn serve_connections(&mut self, index: usize) -> Readiness {
        let Some(listener) = self.tcp.get(index) else { return Readiness::Drained };
        let Ok(server) = listener.local_addr() else { return Readiness::Drained };
        for _ in 0..ACCEPTS {
            match listener.accept() {
                Ok((socket, from)) => self.engine.accept(socket, from, server),
                // Whatever else it is, the sweep tries again: there may be descriptors by then.
                Err(_) => return Readiness::Drained,
            }
        }
        Readiness::MaybeMore
    }

    fn serve_stream(&mut self, index: usize) -> Readiness {
        match self.engine.read_stream(index, &mut self.stream_buffer) {
            StreamState::MaybeMore => Readiness::MaybeMore,
            StreamState::Drained => Readiness::Drained,
            StreamState::Over => {
                self.engine.close_stream(index);
                Readiness::Drained
            }
        }
    }

    fn sweep(&mut self) {
        if self.engine.now.instant < self.next_sweep {
            return;
        }
        self.next_sweep = self.engine.now.instant + SWEEP_INTERVAL;
        self.engine.close_overdue_streams();
        for index in 0..self.tcp.len() {
            self.serve_connections(index);
        }
    }
}

fn read_clocks() -> Now {
    Now { instant: clock::now(), unix: clock::unix_time() }
}

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const EVENTS: usize = 256;
/// Connections taken in at one turn.
const ACCEPTS: usize = 32;
