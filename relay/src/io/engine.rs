//! Between sockets and state machine: forwards what a route knows, asks about the rest, does what it is told.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};

use mio::Waker;
use rand::CryptoRng;

use super::batch::Arrival;
use super::connections::Connections;
use super::dtls::DtlsClients;
use super::exchange::Post;
use super::handover::{Handover, Parcel};
use super::linux;
use super::outbox::Outbox;
use super::relays::Relays;
use super::streams::{Security, Streams, next_frame};
use super::tcp_relay::Leaving;
use crate::auth::{Answer, Query};
use crate::metrics::{Direction, DropReason, Handshake, Secured, WorkerMetrics};
use crate::routes::Routes;
use crate::stun::{ChannelData, ChannelNumber, channel_data};
use crate::turn::{
    Action, AllocationId, ClientAddr, FiveTuple, Fragmentation, Now, PeerAddr, RelayProtocol, RelayedAddr,
    Server, Transport,
};
use crate::usage::Reporter;
use crate::webhook::{Asker, Webhooks};

/// A listening socket, and the address clients know it by.
#[derive(Debug)]
pub(super) struct UdpListener {
    pub(super) socket: UdpSocket,
    pub(super) address: SocketAddr,
    /// What the kernel said last about datagrams that found no room.
    pub(super) lost: u32,
}

impl UdpListener {
    /// Whether it serves all addresses of this machine, so that a datagram must say which it came to.
    pub(super) fn is_anywhere(&self) -> bool {
        self.address.ip().is_unspecified()
    }

    /// The address that a client asked.
    fn asked_at(&self, to: Option<IpAddr>) -> SocketAddr {
        match to {
            Some(ip) if self.is_anywhere() => SocketAddr::new(ip, self.address.port()),
            Some(_) | None => self.address,
        }
    }

    /// Whether it would answer from this address.
    pub(super) fn serves(&self, server: SocketAddr) -> bool {
        self.address == server
            || self.is_anywhere()
                && self.address.port() == server.port()
                && self.address.is_ipv4() == server.is_ipv4()
    }
}

/// The socket that a datagram goes out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// By index.
    Listener(usize),
    /// That of an allocation.
    Relay(AllocationId),
}

/// All that one worker owns but its poll and its buffers.
#[derive(Debug)]
pub(super) struct Engine<R> {
    pub(super) server: Server<R>,
    pub(super) routes: Routes,
    pub(super) relays: Relays,
    pub(super) streams: Streams,
    /// Peers and clients of TCP allocations.
    pub(super) connections: Connections,
    /// Streams that are about to be something else.
    pub(super) leaving: Vec<Leaving>,
    /// Connections that clients have just come for.
    pub(super) spliced: Vec<usize>,
    pub(super) dtls: Option<DtlsClients>,
    pub(super) udp: Vec<UdpListener>,
    /// What goes out at the end of this turn, or when there is enough of it.
    pub(super) outbox: Outbox<Via>,
    /// The way to other workers' relays.
    pub(super) post: Post,
    /// For frames that are put together.
    pub(super) frame: Vec<u8>,
    /// Clients that this worker shares with another.
    pub(super) handover: Handover,
    pub(super) metrics: Arc<WorkerMetrics>,
    /// At once, since memory was last given back.
    pub(super) most_allocations: usize,
    /// Who is asked about users that are not known here.
    pub(super) lookups: Option<Lookups>,
    pub(super) reporter: Reporter,
    /// The time of this turn of the loop: nothing here needs a better one, and asking costs.
    pub(super) now: Now,
}

/// A way to ask about users, and where the answers come.
#[derive(Debug)]
pub(super) struct Lookups {
    pub(super) asker: Asker,
    pub(super) answers: mpsc::Receiver<(Query, Answer)>,
}

impl Lookups {
    /// Answers wake the worker.
    pub(super) fn new(webhooks: &Webhooks, waker: Arc<Waker>) -> Self {
        let (sender, answers) = mpsc::channel();
        let tell = move |query, answer| {
            // A worker that is gone has nobody left to answer.
            let _ = sender.send((query, answer));
            let _ = waker.wake();
        };
        Self { asker: webhooks.asker(Arc::new(tell)), answers }
    }
}

/// What becomes of a stream after its bytes were handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamState {
    /// There may be more to read.
    MaybeMore,
    /// Nothing more for now.
    Drained,
    /// It ended, or should.
    Over,
}

impl<R: CryptoRng> Engine<R> {
    /// Datagrams at a listening socket.
    pub(super) fn handle_client_arrival(&mut self, listener: usize, arrival: &Arrival<'_>) {
        let Some(server) = self.udp.get(listener).map(|listener| listener.asked_at(arrival.to)) else {
            return;
        };
        let flow = FiveTuple { client: ClientAddr(arrival.from), server, transport: Transport::Udp };
        for datagram in arrival.datagrams() {
            self.handle_client_bytes(flow, datagram);
        }
    }

    /// Datagrams at a relay socket.
    pub(super) fn handle_peer_arrival(&mut self, allocation: AllocationId, arrival: &Arrival<'_>) {
        let from = PeerAddr(arrival.from);
        for datagram in arrival.datagrams() {
            self.handle_peer_bytes(allocation, from, datagram);
        }
    }

    /// What the network says about datagrams that a relay sent.
    pub(super) fn handle_errors(&mut self, allocation: AllocationId) {
        for _ in 0..ERRORS {
            let Some(error) = self.relays.next_error(allocation) else { return };
            let Some(error) = error else { continue };
            if self.relays.may_tell_error(self.now.instant, allocation) {
                self.server.handle_icmp(allocation, error);
                self.act();
            } else {
                self.metrics.dropped(DropReason::IcmpRate);
            }
        }
    }

    /// A datagram to a relayed address.
    fn handle_peer_bytes(&mut self, allocation: AllocationId, from: PeerAddr, data: &[u8]) {
        match self.routes.to_client(allocation, from) {
            Some((flow, channel)) => {
                if self.may_relay(allocation, Direction::ToClient, data.len()) {
                    self.forward_to_client(flow, channel, data);
                }
            }
            None => {
                self.server.handle_peer_datagram(allocation, from, data);
                self.act();
            }
        }
    }

    /// What came by a stream, up to its last whole frame.
    pub(super) fn read_stream(&mut self, index: usize, buffer: &mut Vec<u8>) -> StreamState {
        let Some(stream) = self.streams.get_mut(index) else { return StreamState::Drained };
        if !stream.is_open() {
            return self.open_stream(index);
        }
        let flow = stream.flow();
        let result = stream.read(buffer);
        if stream.has_just_shaken_hands() {
            self.metrics.handshake(Secured::Tls, Handshake::Done);
        }
        match result {
            Ok(0) => return StreamState::Over,
            Ok(_) => {}
            Err(error) => return after_error(&error),
        }
        if stream.begins_wrong(buffer) {
            self.metrics.dropped(DropReason::Malformed);
            return StreamState::Over;
        }
        self.handle_frames(index, flow, buffer)
    }

    /// What came by a stream, in order.
    pub(super) fn handle_frames(&mut self, index: usize, flow: FiveTuple, bytes: &[u8]) -> StreamState {
        let mut unread = bytes;
        let mut has_frame = false;
        loop {
            match next_frame(&mut unread) {
                Ok(Some(frame)) => {
                    self.handle_client_bytes(flow, frame);
                    if !self.leaving.is_empty()
                        && let Some(state) = self.see_off(index, flow, unread)
                    {
                        return state;
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    self.metrics.dropped(DropReason::Malformed);
                    return StreamState::Over;
                }
            }
            has_frame = true;
        }
        if let Some(stream) = self.streams.get_mut(index) {
            stream.keep(self.now.instant, unread, has_frame);
        }
        StreamState::MaybeMore
    }

    /// A stream can take more.
    pub(super) fn flush_stream(&mut self, index: usize) -> StreamState {
        match self.streams.flush(self.now.instant, index) {
            Err(_) => StreamState::Over,
            Ok(()) => StreamState::Drained,
        }
    }

    /// Ends a stream and the allocation that came by it.
    pub(super) fn close_stream(&mut self, index: usize) {
        if let Some(flow) = self.streams.remove(index) {
            self.end_flow(flow);
        }
    }

    /// A client's connection is over, whosever client it was.
    pub(super) fn end_flow(&mut self, flow: FiveTuple) {
        if let Some(owner) = self.handover.forget_owner(&flow) {
            self.post(owner, Parcel::Ended { flow });
        }
        self.server.handle_flow_closed(flow);
        self.act();
    }

    /// Ends what has had its time: allocations, permissions, channels.
    pub(super) fn handle_timeout(&mut self) {
        self.server.handle_timeout(self.now.instant);
        self.act();
    }

    pub(super) fn handle_client_bytes(&mut self, flow: FiveTuple, bytes: &[u8]) {
        if self.forward_to_peer(flow, bytes) {
            return;
        }
        // Another worker may have taken this client over just now, and the client know of it already.
        self.handle_parcels();
        self.handle_new_bytes(flow, bytes);
    }

    /// What no route knows.
    pub(super) fn handle_new_bytes(&mut self, flow: FiveTuple, bytes: &[u8]) {
        if !self.pass_on(flow, bytes) {
            self.server.handle_datagram(self.now, flow, bytes);
            self.act();
        }
    }

    /// Sends data of a channel on its way. False if there is no route for it.
    pub(super) fn forward_to_peer(&mut self, flow: FiveTuple, bytes: &[u8]) -> bool {
        let route = ChannelData::parse(bytes)
            .and_then(|message| Some((message.data, self.routes.to_peer(flow, message.channel)?)));
        let Some((data, (allocation, peer))) = route else { return false };
        self.send_to_peer(allocation, peer, data, Fragmentation::Allowed);
        true
    }

    fn forward_to_client(&mut self, flow: FiveTuple, channel: ChannelNumber, data: &[u8]) {
        let Some(header) = channel_data::header(channel, data.len()) else {
            return self.metrics.dropped(DropReason::TooLong);
        };
        match flow.transport {
            Transport::Udp => self.send_datagram(flow, &header, data, Some(data.len())),
            Transport::Dtls => {
                let mut frame = std::mem::take(&mut self.frame);
                frame.clear();
                frame.extend_from_slice(&header);
                frame.extend_from_slice(data);
                self.send_to_client(flow, &frame, Some(data.len()));
                self.frame = frame;
            }
            Transport::Tcp | Transport::Tls => {
                let mut frame = std::mem::take(&mut self.frame);
                frame.clear();
                frame.extend_from_slice(&header);
                frame.extend_from_slice(data);
                frame.extend_from_slice(channel_data::stream_padding(data.len()));
                self.send_to_client(flow, &frame, Some(data.len()));
                self.frame = frame;
            }
        }
    }

    /// Takes what was said about users, and answers them.
    pub(super) fn take_answers(&mut self) {
        while let Some((query, answer)) =
            self.lookups.as_ref().and_then(|lookups| lookups.answers.try_recv().ok())
        {
            self.server.handle_looked_up(self.now, &query, answer);
            self.act();
        }
    }

    /// Does what the state machine wants.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.server.poll_action() {
            match action {
                Action::Respond { flow, message } => self.send_to_client(flow, &message, None),
                Action::SendToClient { allocation, flow, message, data_bytes } => {
                    if self.may_relay(allocation, Direction::ToClient, data_bytes) {
                        self.send_to_client(flow, &message, Some(data_bytes));
                    }
                }
                Action::SendToPeer { allocation, peer, data, fragmentation } => {
                    self.send_to_peer(allocation, peer, &data, fragmentation);
                }
                Action::OpenRelay { allocation, relayed, protocol, user, limits } => {
                    let result = self.relays.open(self.now.instant, allocation, relayed, &user, limits);
                    let result = match protocol {
                        RelayProtocol::Udp => result,
                        RelayProtocol::Tcp => result
                            .and_then(|meter| self.listen_for_peers(allocation, relayed).map(|()| meter)),
                    };
                    self.server.handle_relay_opened(self.now.instant, allocation, result);
                }
                Action::CloseRelay { allocation } => {
                    // What it still has to send goes first; what others have may wait for more of the same.
                    if self.outbox.has(Via::Relay(allocation)) {
                        self.flush();
                    }
                    self.report_ended(allocation);
                    self.connections.close_listener(allocation);
                    self.relays.close(allocation);
                }
                Action::Connect { allocation, connection, peer } => {
                    self.connect(allocation, connection, peer)
                }
                Action::Splice { connection, flow } => {
                    self.leaving.push(Leaving::Splice { connection, flow });
                }
                Action::Disconnect { connection } => self.connections.close(connection),
                Action::MoveStream { flow, worker, message } => {
                    self.leaving.push(Leaving::Move { flow, worker, message });
                }
                Action::LookUp(question) => {
                    if let Some(lookups) = &self.lookups {
                        lookups.asker.ask(self.now.instant, question);
                    }
                }
                Action::HandOver { flow, worker, message } => {
                    let (message, by) = (message.into(), self.handover.own());
                    self.post(worker, Parcel::HandedOver { flow, message, by });
                }
                Action::InstallRoute(route) => self.routes.install(route),
                Action::RemoveRoute(route) => self.routes.remove(&route),
            }
        }
    }

    /// Counts what the kernel lost of what came to a socket.
    pub(super) fn note_lost(&mut self, via: Via, lost: u32) {
        let new = match via {
            Via::Listener(index) => self
                .udp
                .get_mut(index)
                .map_or(0, |listener| lost.wrapping_sub(std::mem::replace(&mut listener.lost, lost))),
            Via::Relay(allocation) => self.relays.note_lost(allocation, lost),
        };
        self.metrics.dropped_many(DropReason::ReceiveBufferFull, usize::try_from(new).unwrap_or(0));
    }

    /// A datagram from one of our relays to another.
    pub(super) fn handle_beside(&mut self, to: RelayedAddr, from: PeerAddr, data: &[u8]) {
        match self.relays.find(to) {
            Some(allocation) => self.handle_peer_bytes(allocation, from, data),
            // It closed on the way.
            None => self.metrics.dropped(DropReason::NoPermission),
        }
    }

    /// Takes what other workers have for our relays. Returns how many parcels that were.
    pub(super) fn handle_post(&mut self) -> usize {
        for handled in 0..PARCELS {
            let Some(parcel) = self.post.take() else { return handled };
            for (to, from, data) in parcel.datagrams() {
                self.handle_beside(to, from, data);
            }
            self.post.give_back(parcel);
        }
        PARCELS
    }

    /// Whether so many allocations have gone that it is time to give memory back.
    pub(super) fn has_shrunk(&self) -> bool {
        let gone = self.most_allocations.saturating_sub(self.server.allocation_count());
        gone > (self.most_allocations / 2).max(FEW_ALLOCATIONS)
    }

    /// Gives memory back that the load of before needed.
    pub(super) fn shrink(&mut self) {
        self.server.shrink();
        self.routes.shrink();
        self.relays.shrink();
        self.connections.shrink();
        linux::return_memory();
        self.most_allocations = self.server.allocation_count();
    }

    /// Ends a turn: what it gathered goes out.
    pub(super) fn finish_turn(&mut self) {
        self.most_allocations = self.most_allocations.max(self.server.allocation_count());
        self.flush();
        let lost = self.post.dispatch();
        self.metrics.dropped_many(DropReason::ReceiveBufferFull, lost);
    }

    /// Whether the allocation's user may relay so much now. Every relayed datagram passes here once, whichever way
    /// and by whichever path it goes.
    pub(super) fn may_relay(
        &mut self,
        allocation: AllocationId,
        direction: Direction,
        data_bytes: usize,
    ) -> bool {
        let is_within = self.relays.may_relay(self.now.instant, allocation, direction, data_bytes);
        if !is_within {
            self.metrics.dropped(DropReason::UserLimit);
        }
        is_within
    }

    /// Says how an allocation was, while its relay still knows what went through.
    fn report_ended(&mut self, allocation: AllocationId) {
        let traffic = self.relays.traffic(allocation);
        if let Some(departure) = self.server.poll_departure(allocation) {
            let realm = self.server.realm(departure.summary.flow.server);
            self.reporter.report(self.now, departure, realm, traffic, &self.metrics);
        }
    }

    /// Takes a connection in.
    pub(super) fn accept(
        &mut self,
        socket: mio::net::TcpStream,
        from: SocketAddr,
        server: SocketAddr,
        security: Security,
    ) {
        self.streams.accept(self.now.instant, socket, from, server, security);
    }

    /// Finds out who is there; a connection with the same ends must have been forgotten by its client.
    fn open_stream(&mut self, index: usize) -> StreamState {
        match self.streams.open(index) {
            Ok(before) => {
                if let Some(before) = before {
                    self.close_stream(before);
                }
                StreamState::MaybeMore
            }
            Err(error) => after_error(&error),
        }
    }

    /// Ends streams that keep us waiting.
    pub(super) fn close_overdue_streams(&mut self) {
        self.streams.drop_stale(self.now.instant);
        let overdue = self.streams.overdue(self.now.instant, |flow| {
            self.server.has_allocation(flow) || self.handover.is_anothers(flow)
        });
        for index in overdue {
            self.close_stream(index);
        }
    }
}

fn after_error(error: &std::io::Error) -> StreamState {
    if error.kind() == std::io::ErrorKind::WouldBlock {
        StreamState::Drained
    } else if error.kind() == std::io::ErrorKind::Interrupted {
        StreamState::MaybeMore
    } else {
        StreamState::Over
    }
}
/// Too few to look for their memory when they are gone.
const FEW_ALLOCATIONS: usize = 256;
/// ICMP errors about one relay's datagrams at a turn. The kernel keeps the others.
const ERRORS: usize = 64;
/// Parcels of other workers taken at one turn.
const PARCELS: usize = 32;
