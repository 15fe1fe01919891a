//! Clients that come by DTLS: one session each, found by where it comes from.
//!
//! A stranger costs nothing until it has returned its cookie, and little until its handshake is done: of those there
//! are so many at most, and so many from one source.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Registry;
use mio::net::UdpSocket;
use rand::CryptoRng;
use slab::Slab;

use super::engine::Engine;
use crate::certificates::Certificates;
use crate::dtls::{Front, Outcome, Session, SessionConfig, SessionEnd, Verdict};
use crate::metrics::{DropReason, Handshake, Secured, WorkerMetrics};
use crate::turn::{ClientAddr, FiveTuple, Transport};

/// What DTLS listeners need besides sockets, shared by all workers.
#[derive(Debug, Clone)]
pub struct DtlsParts {
    /// Who may begin.
    pub front: Front,
    /// What all sessions have in common.
    pub config: SessionConfig,
    /// What clients are shown.
    pub certificates: Certificates,
}

/// The DTLS clients of one worker.
#[derive(Debug)]
pub(super) struct DtlsClients {
    listeners: Vec<(UdpSocket, SocketAddr)>,
    parts: DtlsParts,
    clients: Slab<Client>,
    by_flow: HashMap<FiveTuple, usize>,
    /// Handshakes that go on, by source.
    half_open: HashMap<IpAddr, usize>,
    half_open_total: usize,
    deadlines: BTreeSet<(Instant, usize)>,
    datagram: Box<[u8]>,
    record: Box<[u8]>,
    /// What clients said, until the engine has heard it.
    inbox: Inbox,
    /// Whose sessions ended, until the engine knows.
    ended: Vec<FiveTuple>,
    metrics: Arc<WorkerMetrics>,
}

#[derive(Debug)]
struct Client {
    session: Session,
    flow: FiveTuple,
    listener: usize,
    deadline: Option<Instant>,
    /// Under whose name it is counted until its handshake is done.
    half_open: Option<IpAddr>,
    last_heard: Instant,
}

/// Messages of one client, one behind the other.
#[derive(Debug, Default)]
struct Inbox {
    flow: Option<FiveTuple>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Inbox {
    fn messages(&self) -> impl Iterator<Item = (FiveTuple, &[u8])> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let spans = begins.zip(&self.ends).filter_map(|(begin, end)| self.bytes.get(begin..*end));
        self.flow.into_iter().flat_map(move |flow| spans.clone().map(move |message| (flow, message)))
    }

    fn push(&mut self, message: &[u8]) {
        self.bytes.extend_from_slice(message);
        self.ends.push(self.bytes.len());
    }

    fn clear(&mut self) {
        self.flow = None;
        self.bytes.clear();
        self.ends.clear();
    }
}

impl DtlsClients {
    /// The listening sockets, which stay open here, too.
    pub(super) fn share_sockets(&self) -> io::Result<Vec<std::net::UdpSocket>> {
        use std::os::fd::AsFd;
        let share = |(socket, _): &(UdpSocket, SocketAddr)| Ok(socket.as_fd().try_clone_to_owned()?.into());
        self.listeners.iter().map(share).collect()
    }

    /// Another process reads from its sockets now.
    pub(super) fn release_listeners(&mut self, registry: &Registry) {
        for (mut socket, _) in self.listeners.drain(..) {
            let _ = registry.deregister(&mut socket);
        }
    }

    /// Whether this client has a session.
    pub(super) fn contains(&self, flow: &FiveTuple) -> bool {
        self.by_flow.contains_key(flow)
    }

    /// How many sockets it listens on.
    pub(super) fn listener_count(&self) -> usize {
        self.listeners.len()
    }

    /// One more.
    pub(super) fn add_listener(&mut self, socket: UdpSocket, address: SocketAddr) {
        self.listeners.push((socket, address));
    }

    pub(super) fn new(
        listeners: Vec<(UdpSocket, SocketAddr)>,
        parts: DtlsParts,
        metrics: Arc<WorkerMetrics>,
    ) -> Self {
        Self {
            listeners,
            parts,
            clients: Slab::new(),
            by_flow: HashMap::new(),
            half_open: HashMap::new(),
            half_open_total: 0,
            deadlines: BTreeSet::new(),
            datagram: vec![0; MAX_DATAGRAM].into_boxed_slice(),
            record: vec![0; MAX_RECORD].into_boxed_slice(),
            inbox: Inbox::default(),
            ended: Vec::new(),
            metrics,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// When to call `handle_timeout`.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Repeats what was not answered, and gives up those who answer nothing.
    fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, index)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.attend(index, |session, record, sink| session.handle_timeout(now, record, sink));
        }
    }

    /// Takes one datagram in.
    fn receive(&mut self, now: Instant, listener: usize) -> io::Result<()> {
        let (socket, server) = self.listeners.get(listener).ok_or(io::ErrorKind::NotFound)?;
        let server = *server;
        let mut datagram = std::mem::take(&mut self.datagram);
        let received = socket.recv_from(&mut datagram);
        if let Ok((length, from)) = received {
            let flow = FiveTuple { client: ClientAddr(from), server, transport: Transport::Dtls };
            self.handle_datagram(now, listener, flow, datagram.get(..length).unwrap_or_default());
        }
        self.datagram = datagram;
        received.map(drop)
    }

    fn handle_datagram(&mut self, now: Instant, listener: usize, flow: FiveTuple, datagram: &[u8]) {
        let client = flow.client.0;
        if client.port() == 0 {
            return self.metrics.dropped(DropReason::SourcePortZero);
        }
        match self.parts.front.inspect(now, client, flow.server, datagram) {
            Verdict::Challenge(request) => return self.answer(listener, client, &request),
            Verdict::Refuse(alert) => return self.answer(listener, client, &alert),
            Verdict::Admit { random, cookie } => {
                let known = self.by_flow.get(&flow).copied();
                let is_repeated = known
                    .and_then(|index| self.clients.get(index))
                    .is_some_and(|client| client.session.began_with(&random));
                if !is_repeated {
                    // A client that begins anew has forgotten what was. RFC 6347, section 4.2.8.
                    if let Some(index) = known {
                        self.end(index);
                    }
                    let Some(certificate) = self.may_begin(client.ip()) else {
                        return self.metrics.dropped(DropReason::HandshakeLimit);
                    };
                    match Session::begin(&self.parts.config, &certificate, now, random, cookie) {
                        Ok(session) => self.insert(now, listener, flow, session),
                        Err(_) => return self.metrics.handshake(Secured::Dtls, Handshake::Failed),
                    }
                }
            }
            Verdict::NoHello => {}
        }
        let Some(index) = self.by_flow.get(&flow).copied() else {
            return self.metrics.dropped(DropReason::Malformed);
        };
        self.inbox.flow = Some(flow);
        self.attend(index, |session, record, sink| session.handle_datagram(now, datagram, record, sink));
        if let Some(client) = self.clients.get_mut(index)
            && !self.inbox.ends.is_empty()
        {
            client.last_heard = now;
        }
    }

    /// Answers a stranger, who asks again if this is lost.
    fn answer(&self, listener: usize, client: SocketAddr, datagram: &[u8]) {
        if let Some((socket, _)) = self.listeners.get(listener) {
            let _ = socket.send_to(datagram, client);
        }
    }

    /// The certificate for one more handshake from there, if there may be one.
    fn may_begin(&self, from: IpAddr) -> Option<Arc<dimpl::DtlsCertificate>> {
        let of_source = self.half_open.get(&source(from)).copied().unwrap_or_default();
        let is_within = self.clients.len() < MAX_CLIENTS
            && self.half_open_total < MAX_HALF_OPEN
            && of_source < MAX_HALF_OPEN_OF_SOURCE;
        is_within.then(|| self.parts.certificates.dtls()).flatten()
    }

    fn insert(&mut self, now: Instant, listener: usize, flow: FiveTuple, session: Session) {
        let source = source(flow.client.0.ip());
        *self.half_open.entry(source).or_default() += 1;
        self.half_open_total += 1;
        let half_open = Some(source);
        let client = Client { session, flow, listener, deadline: None, half_open, last_heard: now };
        let index = self.clients.insert(client);
        self.by_flow.insert(flow, index);
        self.metrics.dtls_clients.add(1);
    }

    /// Says something to a client. What does not fit into a record, or is for nobody, fails.
    fn send(&mut self, flow: &FiveTuple, message: &[u8]) -> io::Result<()> {
        if message.len() > MAX_PLAINTEXT {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let index = self.by_flow.get(flow).copied().ok_or(io::ErrorKind::NotConnected)?;
        if self.attend(index, |session, record, sink| session.send(message, record, sink)) {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    /// Does something with a session, and what the session then wants. Says whether all that went out did.
    fn attend(
        &mut self,
        index: usize,
        body: impl FnOnce(&mut Session, &mut [u8], &mut dyn FnMut(Outcome<'_>)) -> Result<(), SessionEnd>,
    ) -> bool {
        let Self { clients, listeners, record, inbox, .. } = self;
        let Some(client) = clients.get_mut(index) else { return false };
        let socket = listeners.get(client.listener).map(|(socket, _)| socket);
        let to = client.flow.client.0;
        let mut is_sent = true;
        let result = body(&mut client.session, record, &mut |outcome| match outcome {
            // What the kernel does not take at once is lost, as on any other hop.
            Outcome::Transmit(datagram) => {
                is_sent &= socket.is_some_and(|socket| socket.send_to(datagram, to).is_ok());
            }
            Outcome::Data(message) => inbox.push(message),
        });
        self.reschedule(index);
        if result.is_err() {
            self.end(index);
        }
        is_sent && result.is_ok()
    }

    fn reschedule(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        if client.session.is_open()
            && let Some(source) = client.half_open.take()
        {
            self.metrics.handshake(Secured::Dtls, Handshake::Done);
            self.half_open_total -= 1;
            release(&mut self.half_open, source);
        }
        let due = client.session.poll_timeout();
        if due != client.deadline {
            if let Some(before) = client.deadline {
                self.deadlines.remove(&(before, index));
            }
            self.deadlines.extend(due.map(|at| (at, index)));
            client.deadline = due;
        }
    }

    fn end(&mut self, index: usize) {
        let Some(client) = self.clients.try_remove(index) else { return };
        self.by_flow.remove(&client.flow);
        if let Some(at) = client.deadline {
            self.deadlines.remove(&(at, index));
        }
        if let Some(source) = client.half_open {
            self.metrics.handshake(Secured::Dtls, Handshake::Failed);
            self.half_open_total -= 1;
            release(&mut self.half_open, source);
        }
        self.metrics.dtls_clients.subtract(1);
        self.ended.push(client.flow);
    }

    fn close(&mut self, index: usize) {
        self.attend(index, |session, record, sink| {
            session.close(record, sink);
            Err(SessionEnd::Closed)
        });
    }

    fn overdue(&self, now: Instant, has_allocation: impl Fn(&FiveTuple) -> bool) -> Vec<usize> {
        let is_overdue = |client: &Client| {
            client.session.is_open()
                && now.saturating_duration_since(client.last_heard) >= IDLE_TIMEOUT
                && !has_allocation(&client.flow)
        };
        self.clients.iter().filter(|(_, client)| is_overdue(client)).map(|(index, _)| index).collect()
    }
}

fn release(half_open: &mut HashMap<IpAddr, usize>, source: IpAddr) {
    if let Some(count) = half_open.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            half_open.remove(&source);
        }
    }
}

/// One source: an IPv4 address, or what an IPv6 subscriber has to itself.
fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

impl<R: CryptoRng> Engine<R> {
    /// Takes in what came to a DTLS listener, up to a batch. Says whether there may be more.
    pub(super) fn read_dtls(&mut self, listener: usize) -> bool {
        for _ in 0..BATCH {
            let Some(dtls) = &mut self.dtls else { return false };
            match dtls.receive(self.now.instant, listener) {
                Ok(()) => self.hear_dtls(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // The network's word on an earlier datagram, not on the socket.
                Err(_) => {}
            }
        }
        true
    }

    /// Whatever is due, and the end of the sessions that ended.
    pub(super) fn handle_dtls_timeout(&mut self) {
        if let Some(dtls) = &mut self.dtls {
            dtls.handle_timeout(self.now.instant);
            self.hear_dtls();
        }
    }

    /// Ends sessions that nobody uses.
    pub(super) fn close_idle_dtls(&mut self) {
        let Some(dtls) = &mut self.dtls else { return };
        for index in dtls.overdue(self.now.instant, |flow| {
            self.server.has_allocation(flow) || self.handover.is_anothers(flow)
        }) {
            dtls.close(index);
        }
        self.hear_dtls();
    }

    /// Says to all that this is the end.
    pub(super) fn close_dtls(&mut self) {
        let Some(dtls) = &mut self.dtls else { return };
        let all: Vec<_> = dtls.clients.iter().map(|(index, _)| index).collect();
        for index in all {
            dtls.close(index);
        }
    }

    /// Sends a message to a DTLS client.
    pub(super) fn send_by_dtls(&mut self, flow: FiveTuple, message: &[u8], data_bytes: Option<usize>) {
        let sent = self.dtls.as_mut().is_some_and(|dtls| dtls.send(&flow, message).is_ok());
        self.count_to_client(sent, data_bytes);
    }

    fn hear_dtls(&mut self) {
        let Some(dtls) = &mut self.dtls else { return };
        let mut inbox = std::mem::take(&mut dtls.inbox);
        for (flow, message) in inbox.messages() {
            self.handle_client_bytes(flow, message);
        }
        inbox.clear();
        let Some(dtls) = &mut self.dtls else { return };
        dtls.inbox = inbox;
        for flow in std::mem::take(&mut dtls.ended) {
            self.end_flow(flow);
        }
    }
}

/// Of one worker, as with streams.
const MAX_CLIENTS: usize = 16_384;
/// Handshakes at once, each of which may hold some ten kilobytes.
const MAX_HALF_OPEN: usize = 1024;
/// Behind one address there may be a company.
const MAX_HALF_OPEN_OF_SOURCE: usize = 128;
/// Between messages of a client without an allocation.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Datagrams of one visit to a socket.
const BATCH: usize = 32;
const MAX_DATAGRAM: usize = 65_536;
const MAX_PLAINTEXT: usize = 16 * 1024;
/// Plaintext, header, and what encryption adds; a flight of the handshake is shorter.
const MAX_RECORD: usize = MAX_PLAINTEXT + 512;
