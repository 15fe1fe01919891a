//! Between sockets and state machine: forwards what a route knows, asks about the rest, does what it is told.

use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::UdpSocket;
use rand::CryptoRng;

use super::backlog::Urgency;
use super::portable::{self, Datagram};
use super::relays::Relays;
use super::streams::{Streams, next_frame};
use crate::metrics::{Direction, DropReason, WorkerMetrics};
use crate::routes::Routes;
use crate::stun::{ChannelData, ChannelNumber, channel_data};
use crate::turn::{
    Action, AllocationId, ClientAddr, FiveTuple, Fragmentation, Now, PeerAddr, Server, Transport,
};

/// A listening socket, and the address clients know it by.
#[derive(Debug)]
pub(super) struct UdpListener {
    pub(super) socket: UdpSocket,
    pub(super) address: SocketAddr,
}

/// All that one worker owns but its poll and its buffers.
#[derive(Debug)]
pub(super) struct Engine<R> {
    pub(super) server: Server<R>,
    pub(super) routes: Routes,
    pub(super) relays: Relays,
    pub(super) streams: Streams,
    pub(super) udp: Vec<UdpListener>,
    pub(super) metrics: Arc<WorkerMetrics>,
    /// The time of this turn of the loop: nothing here needs a better one, and asking costs.
    pub(super) now: Now,
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
    /// A datagram at a listening socket.
    pub(super) fn handle_client_datagram(&mut self, listener: usize, datagram: &Datagram) {
        let Some(server) = self.udp.get(listener).map(|listener| listener.address) else { return };
        let flow = FiveTuple { client: ClientAddr(datagram.from()), server, transport: Transport::Udp };
        self.handle_client_bytes(flow, datagram.data());
    }

    /// A datagram at a relay socket.
    pub(super) fn handle_peer_datagram(&mut self, allocation: AllocationId, datagram: &mut Datagram) {
        let from = PeerAddr(datagram.from());
        match self.routes.to_client(allocation, from) {
            Some((flow, channel)) => {
                if self.may_relay(allocation, datagram.data().len()) {
                    self.forward_to_client(flow, channel, datagram);
                }
            }
            None => {
                self.server.handle_peer_datagram(allocation, from, datagram.data());
                self.act();
            }
        }
    }

    /// What came by a stream, up to its last whole frame.
    pub(super) fn read_stream(&mut self, index: usize, buffer: &mut Vec<u8>) -> StreamState {
        let Some(stream) = self.streams.get_mut(index) else { return StreamState::Drained };
        let flow = stream.flow();
        match stream.read(buffer) {
            Ok(0) => return StreamState::Over,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return StreamState::Drained,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return StreamState::MaybeMore,
            Err(_) => return StreamState::Over,
        }
        if stream.begins_wrong(buffer) {
            self.metrics.dropped(DropReason::Malformed);
            return StreamState::Over;
        }
        let mut unread = buffer.as_slice();
        let mut has_frame = false;
        loop {
            match next_frame(&mut unread) {
                Ok(Some(frame)) => self.handle_client_bytes(flow, frame),
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
        let now = self.now.instant;
        let flushed = self.streams.get_mut(index).map(|stream| stream.flush(now));
        match flushed {
            Some(Err(_)) => StreamState::Over,
            Some(Ok(())) | None => StreamState::Drained,
        }
    }

    /// Ends a stream and the allocation that came by it.
    pub(super) fn close_stream(&mut self, index: usize) {
        if let Some(flow) = self.streams.remove(index) {
            self.server.handle_flow_closed(flow);
            self.act();
        }
    }

    /// Ends what has had its time: allocations, permissions, channels.
    pub(super) fn handle_timeout(&mut self) {
        self.server.handle_timeout(self.now.instant);
        self.act();
    }

    fn handle_client_bytes(&mut self, flow: FiveTuple, bytes: &[u8]) {
        let route = ChannelData::parse(bytes)
            .and_then(|message| Some((message.data, self.routes.to_peer(flow, message.channel)?)));
        match route {
            Some((data, (allocation, peer))) => {
                self.send_to_peer(allocation, peer, data, Fragmentation::Allowed);
            }
            None => {
                self.server.handle_datagram(self.now, flow, bytes);
                self.act();
            }
        }
    }

    fn forward_to_client(&mut self, flow: FiveTuple, channel: ChannelNumber, datagram: &mut Datagram) {
        let data_bytes = datagram.data().len();
        let Some(header) = channel_data::header(channel, data_bytes) else {
            return self.metrics.dropped(DropReason::TooLong);
        };
        match flow.transport {
            Transport::Udp => self.send_datagram(flow, datagram.with_header(header), Some(data_bytes)),
            // There is no listener for it yet.
            Transport::Dtls => self.metrics.dropped(DropReason::SendFailed),
            Transport::Tcp | Transport::Tls => {
                let frame = datagram.with_padded_header(header);
                self.send_frame(flow, frame, Some(data_bytes));
            }
        }
    }

    /// Does what the state machine wants.
    fn act(&mut self) {
        while let Some(action) = self.server.poll_action() {
            match action {
                Action::Respond { flow, message } => self.send_to_client(flow, &message, None),
                Action::SendToClient { allocation, flow, message, data_bytes } => {
                    if self.may_relay(allocation, data_bytes) {
                        self.send_to_client(flow, &message, Some(data_bytes));
                    }
                }
                Action::SendToPeer { allocation, peer, data, fragmentation } => {
                    self.send_to_peer(allocation, peer, &data, fragmentation);
                }
                Action::OpenRelay { allocation, relayed, user, limits } => {
                    let result = self.relays.open(self.now.instant, allocation, relayed, &user, limits);
                    self.server.handle_relay_opened(self.now.instant, allocation, result);
                }
                Action::CloseRelay { allocation } => self.relays.close(allocation),
                Action::InstallRoute(route) => self.routes.install(route),
                Action::RemoveRoute(route) => self.routes.remove(&route),
            }
        }
    }

    fn send_to_client(&mut self, flow: FiveTuple, message: &[u8], data_bytes: Option<usize>) {
        match flow.transport {
            Transport::Udp => self.send_datagram(flow, message, data_bytes),
            Transport::Dtls => self.metrics.dropped(DropReason::SendFailed),
            Transport::Tcp | Transport::Tls => self.send_frame(flow, message, data_bytes),
        }
    }

    fn send_datagram(&self, flow: FiveTuple, message: &[u8], data_bytes: Option<usize>) {
        let listener = self.udp.iter().find(|listener| listener.address == flow.server);
        let sent =
            listener.is_some_and(|listener| portable::send(&listener.socket, flow.client.0, message).is_ok());
        self.count_to_client(sent, data_bytes);
    }

    fn send_frame(&mut self, flow: FiveTuple, frame: &[u8], data_bytes: Option<usize>) {
        let urgency = if data_bytes.is_some() { Urgency::Droppable } else { Urgency::Expected };
        // A stream that cannot be written to is closed when its end is read.
        let sent = self.streams.send(self.now.instant, &flow, frame, urgency).is_ok();
        self.count_to_client(sent, data_bytes);
    }

    fn count_to_client(&self, is_sent: bool, data_bytes: Option<usize>) {
        match (is_sent, data_bytes) {
            (true, Some(bytes)) => self.metrics.forwarded(Direction::ToClient, bytes),
            (true, None) => {}
            (false, _) => self.metrics.dropped(DropReason::SendFailed),
        }
    }

    fn send_to_peer(
        &self,
        allocation: AllocationId,
        peer: PeerAddr,
        data: &[u8],
        fragmentation: Fragmentation,
    ) {
        if !self.may_relay(allocation, data.len()) {
            return;
        }
        match self.relays.send(allocation, peer.0, data, fragmentation) {
            Ok(()) => self.metrics.forwarded(Direction::ToPeer, data.len()),
            Err(_) => self.metrics.dropped(DropReason::SendFailed),
        }
    }

    /// Whether the allocation's user may relay so much now. Every relayed datagram passes here once, whichever way
    /// and by whichever path it goes.
    fn may_relay(&self, allocation: AllocationId, data_bytes: usize) -> bool {
        let is_within = self.relays.may_relay(self.now.instant, allocation, data_bytes);
        if !is_within {
            self.metrics.dropped(DropReason::UserLimit);
        }
        is_within
    }

    /// Takes a connection in; one with the same ends must have been forgotten by its client.
    pub(super) fn accept(&mut self, socket: mio::net::TcpStream, from: SocketAddr, server: SocketAddr) {
        let flow = FiveTuple { client: ClientAddr(from), server, transport: Transport::Tcp };
        if let Some(before) = self.streams.find(&flow) {
            self.close_stream(before);
        }
        self.streams.accept(self.now.instant, socket, from, server);
    }

    /// Ends streams that keep us waiting.
    pub(super) fn close_overdue_streams(&mut self) {
        let overdue = self.streams.overdue(self.now.instant, |flow| self.server.has_allocation(flow));
        for index in overdue {
            self.close_stream(index);
        }
    }
}
