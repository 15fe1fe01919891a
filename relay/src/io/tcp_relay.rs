//! What the engine does for TCP allocations: what the state machine wants of their sockets, and what happens at them.

use std::io;

use rand::CryptoRng;

use super::batch::Readiness;
use super::connections::Turn;
use super::engine::{Engine, StreamState};
use super::handover::Parcel;
use super::streams::Taken;
use crate::turn::{AllocationId, ConnectionId, FiveTuple, PeerAddr, RelayError, RelayedAddr, WorkerIndex};

/// A stream that is not a client's control connection any more.
#[derive(Debug)]
pub(super) enum Leaving {
    /// It carries this connection's bytes from here on.
    Splice { connection: ConnectionId, flow: FiveTuple },
    /// It is that worker's, which reads the message once more.
    Move { flow: FiveTuple, worker: WorkerIndex, message: Vec<u8> },
}

impl Leaving {
    fn flow(&self) -> FiveTuple {
        let (Self::Splice { flow, .. } | Self::Move { flow, .. }) = self;
        *flow
    }
}

/// A stream on its way to another worker.
#[derive(Debug)]
pub(super) struct MovedStream {
    taken: Taken,
    /// What was read of it and not handled.
    bytes: Vec<u8>,
}

impl<R: CryptoRng> Engine<R> {
    /// Listens at a relayed address whose port is taken.
    pub(super) fn listen_for_peers(
        &mut self,
        allocation: AllocationId,
        RelayedAddr(at): RelayedAddr,
    ) -> Result<(), RelayError> {
        self.connections.listen(allocation, at).map_err(|error| {
            self.relays.close(allocation);
            let is_taken = error.kind() == io::ErrorKind::AddrInUse;
            if is_taken { RelayError::AddressInUse } else { RelayError::Unavailable }
        })
    }

    /// Begins to connect to a peer.
    pub(super) fn connect(&mut self, allocation: AllocationId, id: ConnectionId, PeerAddr(peer): PeerAddr) {
        let begun = match self.relays.address(allocation) {
            Some(RelayedAddr(from)) => self.connections.connect(id, allocation, from, peer),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        if begun.is_err() {
            self.server.handle_connected(self.now.instant, id, false);
        }
    }

    /// Peers that connected to a relayed address.
    pub(super) fn accept_peers(&mut self, allocation: AllocationId) -> Readiness {
        for _ in 0..ACCEPTS {
            let Ok((peer, from)) = self.connections.accept(allocation) else { return Readiness::Drained };
            let id = self.server.handle_incoming(self.now.instant, allocation, PeerAddr(from));
            if let Some(id) = id
                && self.connections.keep(id, allocation, peer).is_err()
            {
                self.server.handle_connection_closed(id);
            }
            self.act();
        }
        Readiness::MaybeMore
    }

    /// Something happened at either end of a connection.
    pub(super) fn serve_connection(&mut self, index: usize) -> Readiness {
        let Self { connections, relays, now, .. } = self;
        let turn = connections
            .turn(index, |id, direction, bytes| relays.may_relay(now.instant, id, direction, bytes));
        match turn {
            Turn::MaybeMore => return Readiness::MaybeMore,
            Turn::Idle => {}
            Turn::Connected(id) => self.server.handle_connected(self.now.instant, id, true),
            Turn::Refused(id) => self.server.handle_connected(self.now.instant, id, false),
            Turn::Over(id) => self.server.handle_connection_closed(id),
        }
        self.act();
        Readiness::Drained
    }

    /// If what was just handled made a stream leave, which has `rest` behind it: sees it off.
    pub(super) fn see_off(&mut self, index: usize, flow: FiveTuple, rest: &[u8]) -> Option<StreamState> {
        let at = self.leaving.iter().position(|leaving| leaving.flow() == flow)?;
        let leaving = self.leaving.swap_remove(at);
        let taken = self.streams.take(index)?;
        self.leave(leaving, taken, rest.to_vec());
        Some(StreamState::Drained)
    }

    /// Streams that leave although nothing was just read from them: somebody had to be asked about their client.
    pub(super) fn see_off_others(&mut self) {
        for leaving in std::mem::take(&mut self.leaving) {
            match self.streams.find(&leaving.flow()).and_then(|index| self.streams.take(index)) {
                Some(taken) => self.leave(leaving, taken, Vec::new()),
                None => self.lose(&leaving),
            }
        }
    }

    fn leave(&mut self, leaving: Leaving, mut taken: Taken, rest: Vec<u8>) {
        match leaving {
            Leaving::Splice { connection, .. } => match self.connections.splice(connection, taken, rest) {
                Ok(index) => self.spliced.push(index),
                Err(_) => {
                    self.connections.close(connection);
                    self.server.handle_connection_closed(connection);
                }
            },
            Leaving::Move { worker, message, .. } => {
                let bytes = [std::mem::take(&mut taken.partial), message, rest].concat();
                self.post(worker, Parcel::Stream(Box::new(MovedStream { taken, bytes })));
            }
        }
    }

    fn lose(&mut self, leaving: &Leaving) {
        if let Leaving::Splice { connection, .. } = leaving {
            self.connections.close(*connection);
            self.server.handle_connection_closed(*connection);
        }
    }

    /// Another worker's stream, whose client came for a connection of ours.
    pub(super) fn adopt_stream(&mut self, moved: MovedStream) {
        let MovedStream { taken, bytes } = moved;
        let flow = taken.flow;
        let Some(index) = self.streams.adopt(self.now.instant, taken) else { return };
        if self.handle_frames(index, flow, &bytes) == StreamState::Over {
            self.close_stream(index);
        }
    }
}

/// Peers taken in at one turn.
const ACCEPTS: usize = 32;
