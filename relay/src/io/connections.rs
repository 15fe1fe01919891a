//! The sockets of TCP allocations: listeners at relayed addresses and connections to peers, before and after a client
//! has come for them. RFC 6062. What the engine does with them is in `tcp_relay.rs`.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use foldhash::quality::RandomState;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry};
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::carrier::Carrier;
use super::splice::{End, Pipe, Progress, both};
use super::streams::Taken;
use super::token::Source;
use crate::metrics::Direction;
use crate::turn::{AllocationId, ConnectionId};

/// Those of one worker.
#[derive(Debug)]
pub(super) struct Connections {
    listeners: HashMap<AllocationId, TcpListener, RandomState>,
    connections: Slab<Connection>,
    by_id: HashMap<ConnectionId, usize, RandomState>,
    /// Those whose user may relay more later.
    throttled: Vec<usize>,
    registry: Registry,
    buffer: Box<[u8]>,
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    allocation: AllocationId,
    peer: TcpStream,
    state: State,
}

#[derive(Debug)]
enum State {
    Connecting,
    /// For the client.
    Waiting,
    Spliced(Box<Splice>),
}

#[derive(Debug)]
struct Splice {
    client: Carrier,
    to_peer: Pipe,
    to_client: Pipe,
}

/// What became of a connection at its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is connected now.
    Connected(ConnectionId),
    /// It will not be.
    Refused(ConnectionId),
    /// It is over, whether it ended or broke.
    Over(ConnectionId),
    /// There may be more to carry.
    MaybeMore,
    /// Nothing for now.
    Idle,
}

impl Connections {
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            listeners: HashMap::default(),
            connections: Slab::new(),
            by_id: HashMap::default(),
            throttled: Vec::new(),
            registry,
            buffer: Box::default(),
        }
    }

    /// Listens at a relayed address. Whoever has the port for UDP has it for TCP, so that nobody else listens there.
    pub(super) fn listen(&mut self, allocation: AllocationId, at: SocketAddr) -> io::Result<()> {
        let socket = bound(at)?;
        socket.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(socket.into());
        let token = Source::Acceptor(allocation).into();
        self.registry.register(&mut listener, token, Interest::READABLE)?;
        self.listeners.insert(allocation, listener);
        Ok(())
    }

    /// Listens there no longer.
    pub(super) fn close_listener(&mut self, allocation: AllocationId) {
        if let Some(mut listener) = self.listeners.remove(&allocation) {
            let _ = self.registry.deregister(&mut listener);
        }
    }

    /// The next peer that has connected to a relayed address.
    pub(super) fn accept(&self, allocation: AllocationId) -> io::Result<(TcpStream, SocketAddr)> {
        self.listeners.get(&allocation).ok_or(io::ErrorKind::WouldBlock)?.accept()
    }

    /// Keeps a connection that a peer made.
    pub(super) fn keep(
        &mut self,
        id: ConnectionId,
        allocation: AllocationId,
        peer: TcpStream,
    ) -> io::Result<()> {
        self.insert(Connection { id, allocation, peer, state: State::Waiting })
    }

    /// Begins to connect from a relayed address.
    pub(super) fn connect(
        &mut self,
        id: ConnectionId,
        allocation: AllocationId,
        from: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<()> {
        let socket = bound(from)?;
        match socket.connect(&SockAddr::from(to)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let peer = TcpStream::from_std(socket.into());
        self.insert(Connection { id, allocation, peer, state: State::Connecting })
    }

    fn insert(&mut self, mut connection: Connection) -> io::Result<()> {
        let _ = connection.peer.set_nodelay(true);
        // A peer that vanished without a word must not hold descriptors for as long as its allocation lives.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        let _ = SockRef::from(&connection.peer).set_tcp_keepalive(&keepalive);
        let entry = self.connections.vacant_entry();
        let token = Source::Connection(entry.key()).into();
        self.registry.register(&mut connection.peer, token, Interest::READABLE | Interest::WRITABLE)?;
        self.by_id.insert(connection.id, entry.key());
        entry.insert(connection);
        Ok(())
    }

    /// A client came for a connection: from now on it is carried. Returns where it is, for its first turn.
    pub(super) fn splice(&mut self, id: ConnectionId, taken: Taken, rest: Vec<u8>) -> io::Result<usize> {
        let index = self.by_id.get(&id).copied().ok_or(io::ErrorKind::NotConnected)?;
        let connection = self.connections.get_mut(index).ok_or(io::ErrorKind::NotConnected)?;
        let Taken { mut carrier, partial, unsent, flow: _ } = taken;
        let token = Source::Connection(index).into();
        carrier.prepare_for_bulk();
        self.registry.register(carrier.socket(), token, Interest::READABLE | Interest::WRITABLE)?;
        let first = [partial, rest].concat();
        let unpaid = first.len();
        connection.state = State::Spliced(Box::new(Splice {
            client: carrier,
            to_peer: Pipe::beginning_with(first, unpaid),
            // The answer to the client's request is no relayed data.
            to_client: Pipe::beginning_with(unsent, 0),
        }));
        if self.buffer.is_empty() {
            self.buffer = vec![0; READ_BYTES].into_boxed_slice();
        }
        Ok(index)
    }

    /// Looks how a connection is, and carries what there is. `pay` says whether an allocation's user may relay so much.
    pub(super) fn turn(
        &mut self,
        index: usize,
        mut pay: impl FnMut(AllocationId, Direction, usize) -> bool,
    ) -> Turn {
        let Self { connections, buffer, throttled, .. } = self;
        let Some(Connection { id, allocation, peer, state }) = connections.get_mut(index) else {
            return Turn::Idle;
        };
        let (id, allocation) = (*id, *allocation);
        let turn = match state {
            State::Connecting => match is_connected(peer) {
                Ok(true) => {
                    *state = State::Waiting;
                    return Turn::Connected(id);
                }
                Ok(false) => return Turn::Idle,
                Err(_) => Turn::Refused(id),
            },
            State::Waiting => return Turn::Idle,
            State::Spliced(splice) => {
                let Splice { client, to_peer, to_client } = &mut **splice;
                let out = to_peer
                    .carry(client, peer, buffer, |bytes| pay(allocation, Direction::ToPeer, bytes))
                    .and_then(|out| {
                        let pay = |bytes| pay(allocation, Direction::ToClient, bytes);
                        Ok(both(out, to_client.carry(peer, client, buffer, pay)?))
                    });
                match out {
                    Ok(Progress::MaybeMore) => return Turn::MaybeMore,
                    Ok(Progress::Blocked) => return Turn::Idle,
                    Ok(Progress::Throttled) => {
                        throttled.push(index);
                        return Turn::Idle;
                    }
                    Ok(Progress::Over) | Err(_) => Turn::Over(id),
                }
            }
        };
        self.close(id);
        turn
    }

    /// Closes a connection at both ends.
    pub(super) fn close(&mut self, id: ConnectionId) {
        let Some(index) = self.by_id.remove(&id) else { return };
        let Some(mut connection) = self.connections.try_remove(index) else { return };
        let _ = self.registry.deregister(&mut connection.peer);
        if let State::Spliced(mut splice) = connection.state {
            splice.client.close();
            let _ = self.registry.deregister(splice.client.socket());
        }
    }

    /// Whether some are waiting until their user may relay more.
    pub(super) fn has_throttled(&self) -> bool {
        !self.throttled.is_empty()
    }

    /// Takes those, for another try.
    pub(super) fn take_throttled(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.throttled)
    }

    /// Gives memory back that only more connections than there are now would need.
    pub(super) fn shrink(&mut self) {
        self.listeners.shrink_to_fit();
        self.connections.shrink_to_fit();
        self.by_id.shrink_to_fit();
        if self.connections.is_empty() {
            self.buffer = Box::default();
        }
    }
}

impl End for TcpStream {
    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

/// A socket at a relayed address: one listens there, and any number connect from there.
fn bound(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(at))?;
    Ok(socket)
}

fn is_connected(peer: &TcpStream) -> io::Result<bool> {
    if let Some(error) = peer.take_error()? {
        return Err(error);
    }
    match peer.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

const BACKLOG: i32 = 128;
const KEEPALIVE: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 64 * 1024;
