//! A worker: one thread, one poll, one engine.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mio::net::{TcpListener, UdpSocket};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Waker};
use rand::CryptoRng;

use super::alarm::Alarm;
use super::batch::{Batch, Plane, Readiness};
use super::command::{self, Command};
use super::connections::Connections;
use super::dtls::{DtlsClients, DtlsParts};
use super::engine::{Engine, Lookups, StreamState, UdpListener, Via};
use super::exchange::Exchange;
use super::handover::Handover;
use super::listeners::{Buffers, Listeners};
use super::outbox::Outbox;
use super::ready::Ready;
use super::relays::Relays;
use super::secure_listeners::SecureListeners;
use super::streams::{Security, Streams};
use super::token::Source;
use crate::certificates::Certificates;
use crate::clock;
use crate::crew::Unheard;
use crate::metrics::WorkerMetrics;
use crate::policy::{OwnRelays, Quota};
use crate::routes::Routes;
use crate::turn::{AllocationId, Now, Server};
use crate::usage::Reporter;
use crate::webhook::Webhooks;

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerParts<R> {
    /// What it listens on.
    pub listeners: Listeners,
    /// The ways in besides plain UDP and TCP.
    pub secure: SecureParts,
    /// What decides.
    pub server: Server<R>,
    /// The book of allocations per account, shared by all.
    pub quota: Quota,
    /// The relays that are open, known to all.
    pub own_relays: OwnRelays,
    /// Who knows users that are not known here.
    pub webhooks: Option<Arc<Webhooks>>,
    /// What it counts.
    pub metrics: Arc<WorkerMetrics>,
    /// How it receives and sends datagrams.
    pub plane: Plane,
    /// What the kernel keeps for its relay sockets.
    pub buffers: Buffers,
    /// Its number among all.
    pub number: usize,
    /// The way to the others' relays.
    pub exchange: Exchange,
    /// Where it tells what ended.
    pub reporter: Reporter,
    /// How it shares clients with others.
    pub handover: Handover,
}

/// What TLS, DTLS and proxies need.
#[derive(Debug, Default)]
pub struct SecureParts {
    /// What it listens on.
    pub listeners: SecureListeners,
    /// What TLS clients are shown; without any there is no TLS.
    pub certificates: Option<Certificates>,
    /// What DTLS listeners need, if there are any.
    pub dtls: Option<DtlsParts>,
    /// Whose word is taken for where their connections come from.
    pub proxies: Vec<IpNet>,
}

/// A listening socket, and how its connections begin.
#[derive(Debug)]
pub(super) struct StreamListener {
    pub(super) socket: TcpListener,
    security: Security,
}

/// A worker before or while it runs.
#[derive(Debug)]
pub struct Worker<R> {
    pub(super) poll: Poll,
    pub(super) engine: Engine<R>,
    pub(super) tcp: Vec<StreamListener>,
    ready: Ready,
    alarm: Alarm,
    batch: Batch,
    stream_buffer: Vec<u8>,
    /// When to look for streams that keep us waiting, and for connections that could not be accepted.
    next_sweep: Instant,
    /// When connections that wait for their user may try again.
    next_refill: Instant,
    is_stopping: Arc<AtomicBool>,
    commands: Receiver<Command>,
}

/// Speaks to a worker from another thread.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    waker: Arc<Waker>,
    is_stopping: Arc<AtomicBool>,
    commands: SyncSender<Command>,
}

impl WorkerHandle {
    /// Has it done between two turns of the loop.
    pub fn command(&self, command: Command) -> Result<(), Unheard> {
        match self.commands.try_send(command) {
            Ok(()) => self.waker.wake().map_err(|_| Unheard::Gone),
            Err(TrySendError::Full(_)) => Err(Unheard::Busy),
            Err(TrySendError::Disconnected(_)) => Err(Unheard::Gone),
        }
    }

    /// Asks the worker to end. It does so within a turn of its loop.
    pub fn stop(&self) -> io::Result<()> {
        self.is_stopping.store(true, Ordering::Release);
        self.waker.wake()
    }
}

impl<R: CryptoRng> Worker<R> {
    /// Registers everything, so that `run` cannot fail for want of it.
    pub fn new(parts: WorkerParts<R>) -> io::Result<(Self, WorkerHandle)> {
        let WorkerParts {
            listeners,
            secure,
            server,
            quota,
            own_relays,
            webhooks,
            metrics,
            plane,
            buffers,
            number,
            exchange,
            reporter,
            handover,
        } = parts;
        let (sender, commands) = command::queue();
        let poll = Poll::new()?;
        let registry = poll.registry();
        let mut udp = Vec::new();
        for (index, socket) in listeners.udp.into_iter().enumerate() {
            plane.prepare(&socket);
            let descriptor = socket.as_raw_fd();
            let token = Source::UdpListener(index).into();
            registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
            let address = socket.local_addr()?;
            udp.push(UdpListener { socket, address, lost: 0 });
        }
        let tls = secure.certificates.as_ref().map(Certificates::tls);
        let either = tls.clone().map_or(Security::Plain, Security::Either);
        let always = tls.map_or(Security::Plain, Security::Tls);
        let plain_or_tls = listeners.tcp.into_iter().map(|socket| (socket, either.clone()));
        let tls_alone = secure.listeners.tls.into_iter().map(|socket| (socket, always.clone()));
        let mut tcp = Vec::new();
        for (index, (socket, security)) in plain_or_tls.chain(tls_alone).enumerate() {
            let mut socket = TcpListener::from_std(socket);
            registry.register(&mut socket, Source::TcpListener(index).into(), Interest::READABLE)?;
            tcp.push(StreamListener { socket, security });
        }
        let mut dtls_sockets = Vec::new();
        for (index, socket) in secure.listeners.dtls.into_iter().enumerate() {
            let mut socket = UdpSocket::from_std(socket);
            registry.register(&mut socket, Source::DtlsListener(index).into(), Interest::READABLE)?;
            let address = socket.local_addr()?;
            dtls_sockets.push((socket, address));
        }
        let dtls = secure.dtls.map(|parts| DtlsClients::new(dtls_sockets, parts, Arc::clone(&metrics)));
        let waker = Arc::new(Waker::new(registry, Source::Waker.into())?);
        handover.set_waker(&waker);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let handle = WorkerHandle {
            waker: Arc::clone(&waker),
            is_stopping: Arc::clone(&is_stopping),
            commands: sender,
        };
        let lookups = webhooks.map(|webhooks| Lookups::new(&webhooks, Arc::clone(&waker)));
        let engine = Engine {
            server,
            routes: Routes::default(),
            relays: Relays::new(number, plane, registry.try_clone()?, buffers, quota, own_relays),
            connections: Connections::new(registry.try_clone()?),
            leaving: Vec::new(),
            spliced: Vec::new(),
            streams: Streams::new(registry.try_clone()?, secure.proxies, Arc::clone(&metrics)),
            dtls,
            udp,
            outbox: Outbox::new(plane),
            post: exchange.join(number, &waker),
            frame: Vec::new(),
            handover,
            metrics,
            most_allocations: 0,
            lookups,
            reporter,
            now: read_clocks(),
        };
        let next_sweep = engine.now.instant + SWEEP_INTERVAL;
        let (ready, stream_buffer) = (Ready::default(), Vec::new());
        let batch = Batch::new(plane, BATCH);
        let alarm = Alarm::new(poll.registry())?;
        Ok((
            Self {
                poll,
                engine,
                tcp,
                ready,
                alarm,
                batch,
                stream_buffer,
                next_sweep,
                next_refill: next_sweep,
                is_stopping,
                commands,
            },
            handle,
        ))
    }

    /// Serves until it is stopped. Says how many allocations that cut off.
    pub fn run(mut self) -> io::Result<usize> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_stopping.load(Ordering::Acquire) {
            let timeout = self.timeout()?;
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.engine.post.wake_up();
            self.engine.now = read_clocks();
            self.engine.metrics.turned();
            for event in &events {
                self.note(event);
            }
            for _ in 0..self.ready.len() {
                let Some(source) = self.ready.pop() else { break };
                if self.serve(source) == Readiness::MaybeMore {
                    self.ready.insert(source);
                }
            }
            self.engine.handle_post();
            self.engine.handle_parcels();
            self.engine.handle_timeout();
            self.engine.handle_dtls_timeout();
            self.sweep();
            self.begin_splices();
            self.engine.finish_turn();
        }
        let cut_off = self.engine.end_all();
        // Those who have somewhere else to go need not wait to notice.
        self.engine.streams.close_all();
        self.engine.close_dtls();
        Ok(cut_off)
    }

    /// How long to wait for events: not at all if there is more to do, else until the alarm at the latest.
    fn timeout(&mut self) -> io::Result<Option<Duration>> {
        if !self.ready.is_empty() || !self.engine.post.may_sleep() {
            return Ok(Some(Duration::ZERO));
        }
        if let Some(due) = self.next_due() {
            self.alarm.set(self.engine.now.instant, due)?;
        }
        Ok(None)
    }

    /// When something will happen by itself.
    fn next_due(&self) -> Option<Instant> {
        let dtls = self.engine.dtls.as_ref();
        let is_sweep_due = self.engine.has_shrunk()
            || !self.engine.streams.is_empty()
            || dtls.is_some_and(|clients| !clients.is_empty());
        let sweep = is_sweep_due.then_some(self.next_sweep);
        let dtls = dtls.and_then(DtlsClients::poll_timeout);
        let refill = self.engine.connections.has_throttled().then_some(self.next_refill);
        self.engine.server.poll_timeout().into_iter().chain(sweep).chain(dtls).chain(refill).min()
    }

    fn note(&mut self, event: &mio::event::Event) {
        let source = Source::from(event.token());
        if let Source::Stream(index) = source
            && event.is_writable()
            && self.engine.flush_stream(index) == StreamState::Over
        {
            return self.engine.close_stream(index);
        }
        if let Source::Relay(allocation) = source
            && event.is_error()
        {
            self.engine.handle_errors(allocation);
        }
        // How a connection goes on depends on either end being ready for either thing.
        let is_readable = matches!(source, Source::Connection(_))
            || event.is_readable()
            || event.is_read_closed()
            || event.is_error();
        if is_readable {
            self.ready.insert(source);
        }
    }

    fn serve(&mut self, source: Source) -> Readiness {
        match source {
            Source::Alarm => {
                self.alarm.note_rung();
                Readiness::Drained
            }
            Source::Waker => {
                self.engine.take_answers();
                while let Ok(command) = self.commands.try_recv() {
                    self.obey(command);
                }
                Readiness::Drained
            }
            Source::UdpListener(index) => self.serve_clients(index),
            Source::TcpListener(index) => self.serve_connections(index),
            Source::Relay(allocation) => self.serve_peers(allocation),
            Source::Stream(index) => self.serve_stream(index),
            Source::Acceptor(allocation) => self.engine.accept_peers(allocation),
            Source::Connection(index) => self.engine.serve_connection(index),
            Source::DtlsListener(index) => match self.engine.read_dtls(index) {
                true => Readiness::MaybeMore,
                false => Readiness::Drained,
            },
        }
    }

    /// Does what the operator wants: the engine does most of it.
    fn obey(&mut self, command: Command) {
        match command {
            Command::Share { answer } => {
                let _ = answer.send(self.share_listeners());
            }
            Command::ServeDtls(sockets) => self.serve_dtls(sockets),
            Command::StandStill(steps) => self.stand_still(&steps),
            Command::List { .. }
            | Command::Find { .. }
            | Command::Close { .. }
            | Command::Admit(_)
            | Command::Follow { .. } => self.engine.obey(command),
        }
    }

    fn serve_clients(&mut self, index: usize) -> Readiness {
        for _ in 0..LISTENER_VISITS {
            let Some(listener) = self.engine.udp.get(index) else { return Readiness::Drained };
            let readiness = self.batch.fill(&listener.socket, BATCH);
            for arrival in self.batch.arrivals() {
                self.engine.handle_client_arrival(index, &arrival);
            }
            if let Some(lost) = self.batch.lost() {
                self.engine.note_lost(Via::Listener(index), lost);
            }
            if readiness == Readiness::Drained {
                return Readiness::Drained;
            }
        }
        Readiness::MaybeMore
    }

    fn serve_peers(&mut self, allocation: AllocationId) -> Readiness {
        let Some(socket) = self.engine.relays.socket(allocation) else { return Readiness::Drained };
        let readiness = self.batch.fill(socket, RELAY_BATCH);
        for arrival in self.batch.arrivals() {
            self.engine.handle_peer_arrival(allocation, &arrival);
        }
        if let Some(lost) = self.batch.lost() {
            self.engine.note_lost(Via::Relay(allocation), lost);
        }
        readiness
    }

    fn serve_connections(&mut self, index: usize) -> Readiness {
        let Some(listener) = self.tcp.get(index) else { return Readiness::Drained };
        let Ok(server) = listener.socket.local_addr() else { return Readiness::Drained };
        for _ in 0..ACCEPTS {
            match listener.socket.accept() {
                Ok((socket, from)) => self.engine.accept(socket, from, server, listener.security.clone()),
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

    /// Lets connections begin that clients have come for, and go on that had to wait for their user.
    fn begin_splices(&mut self) {
        self.engine.see_off_others();
        let mut due = std::mem::take(&mut self.engine.spliced);
        if self.engine.connections.has_throttled() && self.engine.now.instant >= self.next_refill {
            self.next_refill = self.engine.now.instant + REFILL_INTERVAL;
            due.extend(self.engine.connections.take_throttled());
        }
        due.into_iter().for_each(|index| self.ready.insert(Source::Connection(index)));
    }

    fn sweep(&mut self) {
        if self.engine.now.instant < self.next_sweep {
            return;
        }
        self.next_sweep = self.engine.now.instant + SWEEP_INTERVAL;
        if self.engine.has_shrunk() {
            self.engine.shrink();
        }
        self.engine.close_overdue_streams();
        self.engine.close_idle_dtls();
        self.engine.handover.sweep(self.engine.now.instant);
        for index in 0..self.tcp.len() {
            self.serve_connections(index);
        }
    }
}

pub(super) fn read_clocks() -> Now {
    Now { instant: clock::now(), unix: clock::unix_time() }
}

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const REFILL_INTERVAL: Duration = Duration::from_millis(20);
const EVENTS: usize = 1024;
/// Messages of one call: enough to spare calls, few enough to stay in the cache until they are sent.
const BATCH: usize = 32;
/// A relay socket has one peer most of the time, whose burst is one message.
const RELAY_BATCH: usize = 4;
/// A listening socket has all clients behind it: many relay sockets' worth at a turn.
const LISTENER_VISITS: usize = 8;
/// Connections taken in at one turn.
const ACCEPTS: usize = 32;
